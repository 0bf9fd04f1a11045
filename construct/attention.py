"""Attention heads: the read of an input, and the average of the evidence.

Notation: z = exp(-sharpness); a head's leak is the attention that goes elsewhere than to its targets. All scores
are integers times the sharpness, so a key whose score is s below the target's weighs exactly z^s of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from construct.prompts import Layout
from construct.residual_stream import Array, ResidualStream, binary_code
from construct.transformer import AttentionWeights

AVERAGE_MARGIN = 4
"""The margin of the average in units of the sharpness: z^4 is lost in the rounding of every format."""


@dataclass(frozen=True)
class Head:
    """One attention head with what it is for.

    Args:
        name: unique within the layer.
        query: Wq, shape [d_model, d_qk].
        key: Wk, shape [d_model, d_qk].
        value: Wv, shape [d_model, d_value].
        output: Wo, shape [d_value, d_model].
        reads: the subspaces that its keys and values read.
        writes: the subspaces that it writes.
        margin: the score of a target less that of any other key.
        says: one line in words.
    """

    name: str
    query: Array
    key: Array
    value: Array
    output: Array
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    margin: float
    says: str


@dataclass(frozen=True)
class Written:
    """What a read head writes: the attended token's row of `table`, shape [V, size], to the subspace `to`."""

    table: Array
    to: str


def set_flag(positions: Sequence[int]) -> str:
    """The name of the flag that marks the input positions of a set."""
    return f"in_set[{','.join(map(str, positions))}]"


def read_head(
    stream: ResidualStream, layout: Layout, *, positions: tuple[int, ...], written: Sequence[Written], sharpness: float
) -> Head:
    """At every EQ and y: fetch the token at one input position of the same example, or average over a set S.

    The score of key (i', j') for the EQ or y of example i, in units of the sharpness, with +-1 codes of lengths b1
    (example index) and b2 (input index), where i is at most m and j below n:

        <code(i), code(i')> + <a, Phi(j')> + 2 [key is x] - 2 [key is bos]

    For one position j, <a, Phi(j')> = <code(j), code(j')>; for a set S it is 2 [j' in S], by a flag. Codes and flags
    stand at x positions, and code(i) at EQ and y too; BOS has neither. So for one position the target has
    b1 + b2 + 2 and every other key at least 2 less:
      another x, h >= 1 bits of the two codes away: 2h less. At most C(b1+b2, h) keys share an h.
      an EQ or y, h bits of code(i) away: 2h + b2 + 2 less; 2 C(b1, h) keys share an h. BOS: b1 + b2 + 4 less.
    The weight elsewhere, relative to the target's, is A <= (1+z^2)^(b1+b2) - 1 + 2 z^(b2+2) (1+z^2)^b1
    + z^(b1+b2+4), whatever the prompt, and the leak rho = A/(1+A) <= A. It grows with log(m n), not with the
    length of the prompt. For a set, each target has b1 + 4; of the others, x in S of another example 2h less, x
    outside S 2h + 2, EQ and y 2h + 4, BOS b1 + 6: relative to the |S| targets
    A <= (1+z^2)^b1 - 1 + ((n-|S|) z^2 + 2 z^4) (1+z^2)^b1 / |S| + z^(b1+6) / |S|.

    All other queries (bos, x) score -(b1+2) [key is x] + (b1+2) [key is bos] + <code(i), code(i')>, at least 2
    more at BOS than elsewhere: BOS is the sink for "do nothing", and its values are 0.

    Written is, for each (table, to), |S| times the attention's average of table rows: BOS and EQ have none. With
    entries in [-M, M], it differs from the sum over S by at most 2 |S| M rho.
    """
    d_model, bits = stream.d_model, stream["example_index"]
    b1 = bits.size
    selector = "input_index" if len(positions) == 1 else set_flag(positions)
    asked: Array = (
        binary_code(layout.inputs)[positions[0]] if len(positions) == 1 else np.full(1, 2.0, dtype=np.float32)
    )
    d_qk = b1 + len(asked) + 1
    query, key = np.zeros((2, d_model, d_qk), dtype=np.float32)
    key[bits.coordinates, :b1] = query[bits.coordinates, :b1] = np.eye(b1)
    key[stream[selector].coordinates, b1 : d_qk - 1] = np.eye(len(asked))
    for role in ("role_eq", "role_y"):
        query[stream[role].start, b1 : d_qk - 1] = asked
        query[stream[role].start, -1] = 2.0
    for role in ("role_bos", "role_x"):
        query[stream[role].start, -1] = -(b1 + 2.0)
    key[stream["role_x"].start, -1], key[stream["role_bos"].start, -1] = 1.0, -1.0

    value = np.zeros((d_model, sum(part.table.shape[1] for part in written)), dtype=np.float32)
    output = np.zeros((value.shape[1], d_model), dtype=np.float32)
    start = 0
    for part in written:
        columns = slice(start, start + part.table.shape[1])
        value[stream["token"].coordinates, columns] = len(positions) * part.table
        output[columns, stream[part.to].coordinates] = np.eye(part.table.shape[1])
        start = columns.stop
    at = f"input {positions[0]}" if len(positions) == 1 else f"inputs {', '.join(map(str, positions))}"
    return Head(
        name=f"read[{','.join(map(str, positions))}]",
        query=(np.float32(sharpness) * query).astype(np.float32),
        key=key,
        value=value,
        output=output,
        reads=("example_index", selector, "token"),
        writes=tuple(part.to for part in written),
        margin=2 * sharpness,
        says=f"at eq and y: the token at {at} of the same example",
    )


def average_head(stream: ResidualStream, *, sharpness: float) -> Head:
    """At every EQ: the average of the evidence over the y positions before it.

    In units of AVERAGE_MARGIN * sharpness the score is [query is eq] - [query is not] times [key is y] - [key is
    bos]. At an EQ with m' examples before it each y scores 1, BOS -1, the rest 0. The other keys are at most
    (m'+1)(n+2) - m' <= m' (2n+3), of weight z^4 each, so the leak is rho2 <= (2n+3) z^4. Evidence is exactly 0
    everywhere but at y: with evidence e_k(i) at the y of example i,

        w_k = (1 - rho2) (1/m') sum_i e_k(i), in [0, 1].

    With no example before it the average is over evidence 0: exactly 0. All other queries attend to BOS.
    """
    roles = {role: stream[f"role_{role}"].start for role in ("bos", "x", "eq", "y")}
    evidence = stream["evidence"]
    query, key = np.zeros((2, stream.d_model, 1), dtype=np.float32)
    for role, at in roles.items():
        query[at] = AVERAGE_MARGIN * sharpness * (1.0 if role == "eq" else -1.0)
    key[roles["y"]], key[roles["bos"]] = 1.0, -1.0
    copy = np.eye(evidence.size, stream.d_model, evidence.start, dtype=np.float32)
    return Head(
        name="average",
        query=query,
        key=key,
        value=copy.T.copy(),
        output=copy,
        reads=("role_y", "evidence"),
        writes=("evidence",),
        margin=AVERAGE_MARGIN * sharpness,
        says="at eq: the average evidence over the y positions before",
    )


def stack_heads(heads: Sequence[Head]) -> AttentionWeights:
    """One layer's heads as stacked weights, padded with zeros to common widths."""
    d_qk = max(head.query.shape[1] for head in heads)
    d_value = max(head.value.shape[1] for head in heads)
    d_model = heads[0].query.shape[0]
    query, key = np.zeros((2, len(heads), d_model, d_qk), dtype=np.float32)
    value = np.zeros((len(heads), d_model, d_value), dtype=np.float32)
    output = np.zeros((len(heads), d_value, d_model), dtype=np.float32)
    for index, head in enumerate(heads):
        query[index, :, : head.query.shape[1]] = head.query
        key[index, :, : head.key.shape[1]] = head.key
        value[index, :, : head.value.shape[1]] = head.value
        output[index, : head.output.shape[0]] = head.output
    return AttentionWeights(query, key, value, output)
