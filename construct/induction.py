"""A task that no lookup of single inputs performs, built by hand in two layers: induction inside an example.

The answer is the input that follows the first input's next occurrence: for `b a c b d` it is `d`. An induction head
(Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; Olsson et al. 2022, arXiv 2209.11895) does
this along a text; here one works inside every example of a prompt, and stays silent where nothing repeats.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from construct.attention import Head, stack_heads
from construct.errors import InputError, TaskError
from construct.mlp import MlpBuilder
from construct.prompts import Layout
from construct.residual_stream import Array, ResidualStream, binary_code, code_length
from construct.sparse import sparse_matrix
from construct.superpose_component import LOW, Component
from construct.transformer import LayerWeights, TransformerWeights

SHARPNESS = 8.0
"""exp(-2 * 8) = 1.1e-7 is what a wrong key weighs at most, relative to the right one."""


@dataclass(frozen=True)
class InductionTask:
    """g(x) = x_(j+1) for the least j in 1 .. n-2 with x_j = x_0, counted from 0; no answer where there is none.

    An occurrence at the last input has nothing after it and does not count.

    Args:
        inputs: n, at least 3.
        name: what the task is called.
    """

    inputs: int
    name: str = "induction"

    def __post_init__(self) -> None:
        """Check that there can be an answer."""
        if self.inputs < 3:
            raise TaskError(f"induction on {self.inputs} inputs has no answer: it needs at least 3")

    @property
    def reads(self) -> tuple[int, ...]:
        """All inputs."""
        return tuple(range(self.inputs))

    def answer(self, inputs: Sequence[int]) -> int | None:
        """The id of g(inputs), None where the first input does not occur again with an input after it."""
        return next((inputs[j + 1] for j in range(1, self.inputs - 1) if inputs[j] == inputs[0]), None)


def induction_component(layout: Layout, *, sharpness: float = SHARPNESS, name: str = "induction") -> Component:
    """Two layers of one head each and no hidden unit; the output is one-hot within eta = `induction_error`.

    A candidate is an input at place p >= 2: it is the answer if the input before it equals the first.

    Layer 1 (`_previous_head`): each candidate fetches the code of the input before it, each EQ that of the first.
    Layer 2 (`_follow_head`): each EQ attends to the first candidate whose code matches, or else to BOS.

    Args:
        layout: V, n (at least 3) and m.
        sharpness: the scale of the scores.
        name: what the task is called.

    Raises:
        TaskError: n < 3.
        InputError: the sharpness is so low that eta would exceed 1/4.
    """
    task = InductionTask(layout.inputs, name)
    error = induction_error(layout, sharpness)
    if not error <= LOW:
        raise InputError(
            f"with the sharpness {sharpness:g} induction is off by up to {error:.2g}: take one of 4 or more"
        )
    bits = code_length(layout.inputs)
    stream = ResidualStream(
        {
            "token": layout.alphabet_size,
            "role_x": 1,
            "role_eq": 1,
            "example_index": code_length(layout.examples + 1),
            "input_index": bits,
            "wanted": bits,
            "asks": 1,
            "follow": 1,
            "previous": code_length(layout.alphabet_size),
        }
    )
    heads = _previous_head(stream, layout, sharpness), _follow_head(stream, layout, sharpness)
    tokens = np.arange(layout.alphabet_size)
    ones = np.ones(len(tokens), dtype=np.float32)
    weights = TransformerWeights(
        sparse_matrix(ones, tokens, tokens, (layout.vocabulary_size, stream.d_model)),
        sparse_matrix(*_positions(stream, layout), (layout.positions, stream.d_model)),
        tuple(LayerWeights(stack_heads([head]), MlpBuilder(stream).weights()) for head in heads),
        sparse_matrix(ones, tokens, tokens, (stream.d_model, layout.alphabet_size)),
    )
    return Component(task, weights)


def induction_error(layout: Layout, sharpness: float) -> float:
    """eta, from the derivations of `_previous_head` and `_follow_head`."""
    z = math.exp(-sharpness)
    n, bits = layout.inputs, code_length(layout.alphabet_size)
    b1, b2 = code_length(layout.examples + 1), code_length(n)
    elsewhere = math.expm1((b1 + b2) * math.log1p(z**2)) + 2 * z ** (b2 + 2) * math.exp(b1 * math.log1p(z**2))
    elsewhere += z ** (b1 + b2 + 2)
    rho = elsewhere / (1 + elsewhere)
    blurred = 8 * n * bits * rho
    if blurred > 1:
        return math.inf
    matched = z**2 / (1 - z**2) + z**3 + layout.positions * z**6
    return math.exp(sharpness * blurred) * max(matched, layout.positions * z**3)


def _previous_head(stream: ResidualStream, layout: Layout, sharpness: float) -> Head:
    """Layer 1: at place p >= 2 the code of the input at place p - 1, at EQ that of the input at place 0.

    The place wanted, p - 1 or 0, stands in `wanted` as a +-1 code of b2 bits. The score of key (i', j') for a query
    of example i that wants place j is, in units of the sharpness,

        <code(i), code(i')> + <code(j), code(j')> + 2 [key is x].

    The target has b1 + b2 + 2. Another x, h >= 1 bits of the two codes away, has 2h less; an EQ or y, h bits of code(i)
    away, 2h + b2 + 2 less; BOS, which has no codes, b1 + b2 + 2 less. So relative to the target the rest weighs at most
    A <= (1+z^2)^(b1+b2) - 1 + 2 z^(b2+2) (1+z^2)^b1 + z^(b1+b2+2), the leak is rho = A/(1+A), and each bit of the code
    fetched is within 2 rho of the right one. At all other positions some convex combination of codes and 0 is
    fetched, every bit in [-1, 1]: `_follow_head` relies on no more.
    """
    codes, index, wanted = stream["example_index"], stream["input_index"], stream["wanted"]
    d_qk = codes.size + index.size + 1
    query, key = np.zeros((2, stream.d_model, d_qk), dtype=np.float32)
    query[codes.coordinates, : codes.size] = key[codes.coordinates, : codes.size] = np.eye(codes.size)
    query[wanted.coordinates, codes.size : -1] = key[index.coordinates, codes.size : -1] = np.eye(index.size)
    query[stream["asks"].start, -1], key[stream["role_x"].start, -1] = 2.0, 1.0
    value = np.zeros((stream.d_model, stream["previous"].size), dtype=np.float32)
    value[stream["token"].coordinates] = binary_code(layout.alphabet_size)
    output = np.eye(stream["previous"].size, stream.d_model, stream["previous"].start, dtype=np.float32)
    return Head(
        name="previous",
        query=(np.float32(sharpness) * query).astype(np.float32),
        key=key,
        value=value,
        output=output,
        reads=("example_index", "input_index", "token"),
        writes=("previous",),
        margin=2 * sharpness,
        says="at an input the one before it, at eq the first one of the example",
    )


def _follow_head(stream: ResidualStream, layout: Layout, sharpness: float) -> Head:
    """Layer 2: at EQ, the token of the first candidate whose previous input is the first input; none, then BOS.

    With f the codes fetched, of B bits, the score of a key of example i' for the EQ of example i is

        n <f(eq), f(key)> + n <code(i), code(i')> + follow(key),

    follow = 2n - 2(p - 2) at the candidate of place p, S = n B + n b1 + 3 at BOS, else 0. Let the f be exact. Put in
    relation to S:
      a candidate of the same example that matches: + 3 + 2(n - 1 - p) >= 3, and 2 more than the next one of them;
      one that does not match, or of another example: at most n (B - 2) + n b1 + 2n = n B + n b1, so -3;
      every other key, with follow = 0: at most n B + n b1, so -3.
    The bits of f(eq) and of candidates are within 2 rho, and in [-1, 1]: each score is within 4 n B rho of the above,
    each difference of two within e = 8 n B rho. If there is a match, relative to the first one the later ones weigh
    z^2 + z^4 + .. <= z^2/(1-z^2), BOS z^3 and the other T - 1 at most z^6 each; if not, relative to BOS the others
    weigh at most T z^3: all that times exp(sharpness e). The values are the one-hot tokens, BOS and EQ have none. So
    the output is within eta = exp(sharpness e) max(z^2/(1-z^2) + z^3 + T z^6, T z^3) of the answer's code, or of 0.
    """
    n, codes, previous = float(layout.inputs), stream["example_index"], stream["previous"]
    query, key = np.zeros((2, stream.d_model, codes.size + previous.size + 1), dtype=np.float32)
    query[codes.coordinates, : codes.size] = n * np.eye(codes.size)
    key[codes.coordinates, : codes.size] = np.eye(codes.size)
    query[previous.coordinates, codes.size : -1] = n * np.eye(previous.size)
    key[previous.coordinates, codes.size : -1] = np.eye(previous.size)
    query[stream["role_eq"].start, -1], key[stream["follow"].start, -1] = 1.0, 1.0
    copy = np.eye(stream["token"].size, stream.d_model, dtype=np.float32)
    return Head(
        name="follow",
        query=(np.float32(sharpness) * query).astype(np.float32),
        key=key,
        value=copy.T.copy(),
        output=copy,
        reads=("example_index", "previous", "follow", "token"),
        writes=("token",),
        margin=2 * sharpness,
        says="at eq: the input after the first input's next occurrence",
    )


def _positions(stream: ResidualStream, layout: Layout) -> tuple[Array, np.ndarray, np.ndarray]:
    """P as values, rows and columns: roles, codes, the place wanted, and `follow`."""
    n = layout.inputs
    rows: Array = np.zeros((layout.positions, stream.d_model), dtype=np.float32)
    example, place = np.divmod(np.arange(1, layout.positions) - 1, n + 2)
    candidate, eq, x = (place >= 2) & (place < n), place == n, place < n
    codes = binary_code(n)
    inside = rows[1:]
    inside[:, stream["example_index"].coordinates] = binary_code(layout.examples + 1)[example]
    inside[x, stream["role_x"].start] = 1.0
    inside[eq, stream["role_eq"].start] = 1.0
    inside[:, stream["input_index"].coordinates][x] = codes[place[x]]
    wanted = np.where(candidate, place - 1, 0)
    asks = candidate | eq
    inside[:, stream["wanted"].coordinates][asks] = codes[wanted[asks]]
    inside[asks, stream["asks"].start] = 1.0
    inside[candidate, stream["follow"].start] = 2.0 * n - 2.0 * (place[candidate] - 2)
    rows[0, stream["follow"].start] = n * (stream["previous"].size + stream["example_index"].size) + 3.0
    at = np.nonzero(rows)
    return rows[at], at[0], at[1]
