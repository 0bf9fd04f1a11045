"""The circuits of the last two layers of a superposition: fetch, credit, average, answer.

Notation: o_k = X U_k is the output of component k, in R^V, at any position; R bounds |o_k| at every position
(`construct.superpose_component.reach`); z = exp(-sharpness).
"""

import math
from collections.abc import Sequence

import numpy as np

from construct.attention import AVERAGE_MARGIN, Head
from construct.mlp import MlpBuilder
from construct.prompts import Layout
from construct.residual_stream import ResidualStream, code_length
from construct.superpose_component import Component


def block(component: Component) -> str:
    """The name of the subspace in which a component runs."""
    return f"component[{component.task.name}]"


def threshold(component: Component) -> tuple[float, float]:
    """Slope c and product c tau of the units that round a component's output o to 0 or 1.

    With c a power of two, 1/c <= (high - low)/2 and tau = (low + high)/2 + 1/(2c), the two inequalities
    c (o - tau) <= -1 for o <= low + s and c (o - tau) >= 0 for o >= high - s hold with the slack
    s = (high - low)/2 - 1/(2c) >= (high - low)/4, in which the rounding of c tau to float32 is nothing.
    """
    slope = 2.0 ** math.ceil(math.log2(2 / (component.high - component.low)))
    return slope, float(np.float32(slope * (component.low + component.high) / 2 + 0.5))


def fetch_leak(layout: Layout, sharpness: float) -> float:
    """The largest attention that the fetch gives away (`fetch_head`)."""
    z = math.exp(-sharpness)
    b1 = code_length(layout.examples + 1)
    grown = math.exp(b1 * math.log1p(z**2))
    weight = math.expm1(b1 * math.log1p(z**2)) + (layout.inputs + 1) * z**2 * grown + z ** (b1 + 2)
    return weight / (1 + weight)


def error_bound(tasks: int, layout: Layout, sharpness: float) -> float:
    """K (n + 1) z^4 (`average_head`)."""
    return tasks * (layout.inputs + 1) * math.exp(-AVERAGE_MARGIN * sharpness)


def fetch_head(components: Sequence[Component], stream: ResidualStream, sharpness: float) -> Head:
    """At every y: the predictions of all components at the EQ of the same example, the position before.

    The score of a key of example i' for the y of example i, in units of the sharpness, with +-1 codes of length b1:

        <code(i), code(i')> + 2 [key is eq].

    Codes stand at all positions but BOS. The target, the EQ of example i, has b1 + 2. Of the other keys the EQs of
    examples h >= 1 bits away have 2h less, C(b1, h) of them; the x and y h >= 0 bits away 2h + 2 less, at most
    (n + 1) C(b1, h) of them; BOS b1 + 2 less. With z = exp(-sharpness), relative to the target's weight the others have

        A <= (1 + z^2)^b1 - 1 + (n + 1) z^2 (1 + z^2)^b1 + z^(b1 + 2),

    and the leak is rho = A / (1 + A). The values are the outputs o_k = X U_k of all components, in [-R, R] at every
    position, R = `reach`. So the prediction p at y is within 2 R rho of o at that EQ. What other queries fetch does
    not matter: it is in [-R, R] too, and `credit_units` relies on no more.
    """
    bits, to = stream["example_index"], stream["prediction"]
    query, key = np.zeros((2, stream.d_model, bits.size + 1), dtype=np.float32)
    query[bits.coordinates, :-1] = key[bits.coordinates, :-1] = np.eye(bits.size)
    query[stream["role_y"].start, -1], key[stream["role_eq"].start, -1] = 2.0, 1.0
    value = np.zeros((stream.d_model, to.size), dtype=np.float32)
    alphabet = stream["token"].size
    for index, component in enumerate(components):
        columns = slice(index * alphabet, (index + 1) * alphabet)
        value[stream[block(component)].coordinates, columns] = component.weights.unembedding.toarray()
    return Head(
        name="fetch",
        query=(np.float32(sharpness) * query).astype(np.float32),
        key=key,
        value=value,
        output=np.eye(to.size, stream.d_model, to.start, dtype=np.float32),
        reads=("example_index", "role_eq", *(block(component) for component in components)),
        writes=("prediction",),
        margin=2 * sharpness,
        says="at y: what every component predicts at the EQ before",
    )


def credit_units(mlp: MlpBuilder, component: Component, index: int) -> None:
    """At y: the bit [y is the prediction of component k], two units a token v.

        relu([token is v] + [role y] - 1 + c (p_v - tau)) - relu([role y] - 1 + c (p_v - tau)), added to evidence k.

    Write t = c (p_v - tau). The fetch is within the slack of `threshold`, so t >= 0 if v is the prediction and
    t <= -1 if it is not. At y: relu([y is v] + t) - relu(t) is [y is v] if t >= 0, and 0 - 0 if t <= -1: exactly
    [y is v and v is predicted]; over v it adds up to the bit, exactly 0 or 1. The component's error is forgotten.
    Elsewhere p is anything. At EQ and BOS no token flag is set, both units are equal: exactly 0. At x, for the
    token v there, relu(t) - relu(t - 1) is in [0, 1], and all other v give 0: evidence in [0, 1], which
    `average_head` keeps off.
    """
    alphabet = mlp.stream["token"].size
    tokens = np.arange(alphabet)
    slope, level = threshold(component)
    predicted = mlp.stream["prediction"].start + index * alphabet + tokens
    evidence = np.full(alphabet, mlp.stream["evidence"].start + index)
    for flag, sign in ((1.0, 1.0), (0.0, -1.0)):
        mlp.units(
            bias=np.full(alphabet, -1.0 - level, dtype=np.float32),
            inputs=[
                (mlp.stream["token"].start + tokens, flag),
                (mlp.stream["role_y"], 1.0),
                (predicted, slope),
            ],
            outputs=[(evidence, sign)],
        )
    mlp.close_group(
        f"credit[{component.task.name}]",
        reads=["token", "role_y", "prediction"],
        writes=["evidence"],
        margin=1.0,
        says="at y: 1 where the component predicted this answer, else 0",
    )


def average_head(stream: ResidualStream, sharpness: float) -> Head:
    """At every EQ: w_k, the average of the credit over the y before it.

    In units of AVERAGE_MARGIN = 4 sharpnesses the score of a key is +1 at y, 0 at BOS, -1 at x and EQ. Credit is a
    bit at y, in [0, 1] at x, 0 at BOS and EQ. With m' >= 1 examples before it and z^4 <= 1/4, relative to the
    y's weight m' BOS has z^4, the (m' + 1) n inputs and m' + 1 EQs z^8 each: the share of the y is at least 1 - rho
    with rho <= z^4 + 2 (n + 1) z^8 <= (n + 1) z^4 (as 2 z^4 <= 1/2 <= n/(n + 1)); what the inputs add is below rho:

        |w_k - c_k/m'| <= (n + 1) z^4,   0 <= w_k <= 1.

    With m' = 0, each input has z^4 of the weight of BOS: 0 <= w_k <= n z^4. Other queries are 0, they average over
    all; what stands in the evidence there is read by nothing after.
    """
    evidence = stream["evidence"]
    query, key = np.zeros((2, stream.d_model, 1), dtype=np.float32)
    query[stream["role_eq"].start] = AVERAGE_MARGIN * sharpness
    for role, score in (("y", 1.0), ("x", -1.0), ("eq", -1.0)):
        key[stream[f"role_{role}"].start] = score
    copy = np.eye(evidence.size, stream.d_model, evidence.start, dtype=np.float32)
    return Head(
        name="average",
        query=query,
        key=key,
        value=copy.T.copy(),
        output=copy,
        reads=("role_y", "role_x", "role_eq", "evidence"),
        writes=("evidence",),
        margin=AVERAGE_MARGIN * sharpness,
        says="at eq: the average credit over the y positions before",
    )


def answer_units(mlp: MlpBuilder, component: Component, index: int) -> None:
    """At EQ: w_k times the one-hot code of the component's prediction, two units a token v.

        relu(w_k + c (o_v - tau)) - relu(c (o_v - tau)), written to the output v,

    with o = X U_k read from the component's own block, which nothing has written to since layer L0. t = c (o_v - tau)
    is >= 0 if v is the prediction, and <= -1 if not (`threshold`). As 0 <= w_k <= 1: w_k + t - t = w_k in the one
    case, 0 - 0 in the other. The product of a weight and a rounded prediction, exactly.
    """
    tokens = np.arange(mlp.stream["token"].size)
    slope, level = threshold(component)
    read = (slope * component.weights.unembedding.toarray().T).astype(np.float32)
    evidence = np.full(len(tokens), mlp.stream["evidence"].start + index)
    for weight, sign in ((1.0, 1.0), (0.0, -1.0)):
        mlp.units(
            bias=np.full(len(tokens), -level, dtype=np.float32),
            inputs=[(mlp.stream[block(component)], read), (evidence, weight)],
            outputs=[(mlp.stream["token"].start + tokens, sign)],
        )
    mlp.close_group(
        f"answer[{component.task.name}]",
        reads=[block(component), "evidence"],
        writes=["token"],
        margin=1.0,
        says="at eq: the weight of the task, to what its component predicts",
    )
