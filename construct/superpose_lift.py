"""Making a component of a transformer that was not built as one: a trained one, say, taken as it is.

`in_context` lifts a transformer that answers one example, BOS x_1 .. x_n EQ, to prompts of many. `sharpen` turns
logits of which only the order is known into a contract of fixed levels.
"""

import math

import numpy as np

from construct.errors import TaskError
from construct.prompts import Layout
from construct.residual_stream import Array, binary_code, code_length
from construct.sparse import Sparse, sparse_matrix
from construct.superpose_component import magnitudes, no_heads
from construct.transformer import AttentionWeights, LayerWeights, MlpWeights, TransformerWeights

LOST = 2.0**-40
"""The attention, in each head, that a lifted transformer may give to other examples."""


def in_context(single: TransformerWeights, layout: Layout, *, locality: float | None = None) -> TransformerWeights:
    """The same transformer at work inside every example of a prompt, blind to the others up to a leak.

    `single` is over the positions BOS, x_1 .. x_n, EQ of one example. Its position embeddings are repeated in each
    example (at y they are 0), and b1 + 2 coordinates are added, which no layer writes: the +-1 code of the example's
    index, a flag of BOS and one of all else. Each head's score of a key of example i' for a query of example i gains

        s (<code(i), code(i')> + b1 [key is bos]).

    For keys of the query's own example and BOS that is s b1, the same for all, which softmax ignores; for others it is
    at most s (b1 - 2). With the original scores in [-C, C] and T positions, the weight of other examples relative to
    that of one own key is at most T exp(2 C - 2 s): with 2 s >= 2 C + log(T / LOST) it is at most LOST in every head,
    layer and prompt. Up to that leak, at the x and EQ of every example, `single` computes what it computes alone: at
    BOS it sees BOS alone as before, and y comes after its example's EQ, so only other examples could see it.

    C is bounded per layer by sum_d |q_d| |k_d| over bounds of the stream (`magnitudes`): enough for one layer, rough
    for more, where a `locality` by hand is smaller. Nothing is taken on trust: `verify.superposition_contract` finds
    the leak, and what it does, on the weights, from the states that occur.

    Args:
        single: the transformer of one example; positions after the first n + 2 are not used.
        layout: V, n and m of the prompts.
        locality: s, to be used instead of the least integer of the above.

    Raises:
        TaskError: it has other tokens or too few positions, or C is too large for scores in float32.
    """
    tokens, positions = int(single.token_embedding.shape[0]), int(single.position_embedding.shape[0])
    if tokens != layout.vocabulary_size or positions < layout.inputs + 2:
        raise TaskError(
            f"the transformer has {tokens} tokens and {positions} positions: expected {layout.vocabulary_size} (the "
            f"alphabet, BOS, EQ) and {layout.inputs + 2} (BOS, {layout.inputs} inputs, EQ)"
        )
    if locality is None:
        locality = math.ceil(_largest_score(single) + math.log(layout.positions / LOST) / 2)
    if locality * code_length(layout.examples + 1) > 2.0**20:
        raise TaskError(
            f"the locality is {locality:g}, too large for scores in float32: give a smaller one by hand and have the "
            "contract proved, or train the transformer with smaller weights"
        )
    d_model, bits = single.d_model, code_length(layout.examples + 1)
    wider = d_model + bits + 2
    return TransformerWeights(
        _resized(single.token_embedding, (tokens, wider)),
        _lifted_positions(single, layout, wider),
        tuple(
            LayerWeights(_lifted_attention(layer.attention, locality, bits), _lifted_mlp(layer.mlp, wider))
            for layer in single.layers
        ),
        _resized(single.unembedding, (wider, layout.alphabet_size)),
    )


def sharpen(weights: TransformerWeights, gap: float) -> TransformerWeights:
    """One more layer, without heads, that turns logits into 1 at the largest and at most 0 elsewhere.

    Let the output at the answer be at least `gap` above every other at every EQ. With c the least power of two
    >= 1/gap and D_uv = o_u - o_v, a pair of units for every ordered pair u != v computes

        step(D_uv) = relu(c D_uv + 1/2) - relu(c D_uv - 1/2), in [0, 1]: 0 for c D_uv <= -1/2, 1 for c D_uv >= 1/2,

    and V new coordinates hold the new output o'_v = 1 - sum over u of step(D_uv). If v is the answer every
    c D_uv <= -1, so o'_v = 1 exactly; if not, the answer u has c D_uv >= 1, so o'_v <= 0. Both have a slack of gap/2 in
    which the errors of the logits are forgotten: levels low = 0, high = 1, kept by `Component`'s 1/4 and 3/4.

    Cost: 2 V (V - 1) units. The task needs an answer on every input: two logits cannot say "no answer".

    Raises:
        TaskError: the gap is not positive, or too small for slopes in float32.
    """
    if not 2.0**-20 < gap < math.inf:
        raise TaskError(f"the gap is {gap:g}: expected the least distance of the answer's logit to the others, above 0")
    slope = 2.0 ** math.ceil(math.log2(1 / gap))
    d_model, alphabet = int(weights.unembedding.shape[0]), int(weights.unembedding.shape[1])
    wider = d_model + alphabet
    logits = weights.unembedding.toarray()
    loser, winner = np.nonzero(~np.eye(alphabet, dtype=np.bool_))
    pairs = len(loser)
    w_in: Array = np.zeros((wider, 2 * pairs), dtype=np.float32)
    w_in[:d_model, :pairs] = w_in[:d_model, pairs:] = slope * (logits[:, winner] - logits[:, loser])
    w_out: Array = np.zeros((2 * pairs, wider), dtype=np.float32)
    w_out[np.arange(pairs), d_model + loser], w_out[pairs + np.arange(pairs), d_model + loser] = -1.0, 1.0
    bias_out: Array = np.zeros(wider, dtype=np.float32)
    bias_out[d_model:] = 1.0
    bias_in = np.repeat(np.array([0.5, -0.5], dtype=np.float32), pairs)
    last = LayerWeights(no_heads(wider), MlpWeights(_dense(w_in), bias_in, _dense(w_out), bias_out))
    return TransformerWeights(
        _resized(weights.token_embedding, (int(weights.token_embedding.shape[0]), wider)),
        _resized(weights.position_embedding, (int(weights.position_embedding.shape[0]), wider)),
        (
            *(
                LayerWeights(_wider(layer.attention, alphabet), _lifted_mlp(layer.mlp, wider))
                for layer in weights.layers
            ),
            last,
        ),
        _dense(np.eye(wider, alphabet, -d_model, dtype=np.float32)),
    )


def _largest_score(weights: TransformerWeights) -> float:
    """C: a bound on |score| over heads, layers, positions and tokens."""
    largest = 0.0
    for bound, layer in zip(magnitudes(weights), weights.layers, strict=False):
        for query, key in zip(layer.attention.query, layer.attention.key, strict=True):
            largest = max(largest, float((bound @ np.abs(query)) @ (bound @ np.abs(key))))
    return largest


def _lifted_positions(single: TransformerWeights, layout: Layout, wider: int) -> Sparse:
    """P: the single example's positions in each example, with the code of its index and the flags; y has no more."""
    own, d_model = single.position_embedding.toarray(), single.d_model
    rows: Array = np.zeros((layout.positions, wider), dtype=np.float32)
    example, place = np.divmod(np.arange(1, layout.positions) - 1, layout.inputs + 2)
    before_y = place <= layout.inputs
    rows[0, :d_model] = own[0]
    rows[1:, :d_model][before_y] = own[1 + place[before_y]]
    rows[1:, d_model:-2] = binary_code(layout.examples + 1)[example]
    rows[0, -1] = 1.0
    rows[1:, -2] = 1.0
    return _dense(rows)


def _lifted_attention(attention: AttentionWeights, locality: float, bits: int) -> AttentionWeights:
    heads, d_model, d_qk = attention.query.shape
    query, key = np.zeros((2, heads, d_model + bits + 2, d_qk + bits + 1), dtype=np.float32)
    query[:, :d_model, :d_qk], key[:, :d_model, :d_qk] = attention.query, attention.key
    code, dimension = d_model + np.arange(bits), d_qk + np.arange(bits)
    query[:, code, dimension], key[:, code, dimension] = locality, 1.0
    query[:, -2, -1], key[:, -1, -1] = locality * bits, 1.0
    grown = _wider(attention, bits + 2)
    return AttentionWeights(query, key, grown.value, grown.output)


def _wider(attention: AttentionWeights, more: int) -> AttentionWeights:
    """The same heads on a stream with `more` coordinates, which they neither read nor write."""
    read, written = ((0, 0), (0, more), (0, 0)), ((0, 0), (0, 0), (0, more))
    query, key, value = (np.pad(part, read) for part in (attention.query, attention.key, attention.value))
    return AttentionWeights(query, key, value, np.pad(attention.output, written))


def _lifted_mlp(mlp: MlpWeights, wider: int) -> MlpWeights:
    width = int(mlp.w_in.shape[1])
    bias_out = np.pad(mlp.bias_out, (0, wider - len(mlp.bias_out)))
    return MlpWeights(_resized(mlp.w_in, (wider, width)), mlp.bias_in, _resized(mlp.w_out, (width, wider)), bias_out)


def _resized(matrix: Sparse, shape: tuple[int, int]) -> Sparse:
    entries = matrix.tocoo()
    rows, columns = (places.astype(np.int_) for places in entries.coords)
    return sparse_matrix(entries.data, rows, columns, shape)


def _dense(matrix: Array) -> Sparse:
    where = np.nonzero(matrix)
    return sparse_matrix(matrix[where], where[0], where[1], (matrix.shape[0], matrix.shape[1]))
