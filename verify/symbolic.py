"""The forward pass over Q(z), z = exp(-sharpness), on one prompt: the exact answer as a function of z.

Scores are read off the weights in units of the sharpness, all other weights are the rationals that the stored
floats are. The result is the model's answer in real arithmetic, exactly, with the sharpness as a symbol: it holds
for every sharpness from `verify.symbolic_answer.SymbolicAnswer.least_sharpness` on, where W_q is scaled along with it.

Only what the final EQ depends on is computed. It says nothing about other prompts (verify.lemmas does), nor about
rounding, and scores that depend on z themselves are refused: exp of such a score is not in Q(z).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from construct.oracle import answer
from construct.prompts import Prompt
from construct.residual_stream import Array
from construct.sparse import Sparse
from construct.theorems import Construction
from construct.transformer import AttentionWeights, MlpWeights
from verify.ordered_field import Element, Key, OrderedField, SymbolicError
from verify.polynomials import Polynomial, polynomial
from verify.symbolic_answer import SymbolicAnswer
from verify.thresholds import threshold

LARGEST_STEPS = 64
"""The finest grid of scores: multiples of sharpness / LARGEST_STEPS."""

LARGEST_EXPONENT = 4096
"""The largest difference of two scores, in steps of the grid: the degree of the polynomials."""

State = dict[int, Element]
"""A position of the residual stream: coordinate -> element, where that is not 0."""

Entries = list[list[tuple[int, int, int]]]
"""For each column of a matrix its (row, numerator, denominator) where it is not 0."""


def execute(
    construction: Construction, prompt: Prompt, *, progress: Callable[[float], None] | None = None
) -> SymbolicAnswer:
    """Lemma: the answer at the final EQ, exactly, for every large enough sharpness.

    Pre: nothing but finite weights of fitting shapes; what they were meant to do is not used.
    Post: for every sharpness > 0 from `least_sharpness` on, the weights with W_q scaled to it compute `outputs` at z =
    exp(-sharpness), in real arithmetic. Every ReLU has the sign of its argument as z -> 0+, which it keeps.
    Cost: T^2 heads scores, T units ReLU arguments of layer 1, each a few polynomials of degree about 4 log2(m n).

    Args:
        construction: weights, layout and sharpness; the tasks are used for the target alone.
        prompt: the prompt.
        progress: told how far it is, from 0 to 1.

    Raises:
        SymbolicError: scores depend on z, or are not on a grid of sharpness / LARGEST_STEPS; or a weight is not finite.
        PromptError: the prompt has more than m examples.
    """
    ids = construction.layout.ids(prompt)
    target = answer(construction.task_set, prompt).target
    field, outputs = _run(construction, ids, progress)
    return SymbolicAnswer(
        outputs=tuple(outputs),
        target=tuple(target.get(token, Fraction(0)) for token in range(len(outputs))),
        threshold=threshold(field),
        sharpness=Fraction(construction.sharpness),
        decided=field.decided,
    )


def _run(
    construction: Construction, ids: Sequence[int], progress: Callable[[float], None] | None
) -> tuple[OrderedField, list[Element]]:
    """A pass on the coarsest grid that the scores are on."""
    steps = 1
    while True:
        try:
            return _Pass(construction, ids, steps, progress).run()
        except _FinerGridError as finer:
            steps = math.lcm(steps, finer.steps)
            if steps > LARGEST_STEPS:
                raise SymbolicError(
                    f"{finer.where}: scores are not multiples of sharpness / {LARGEST_STEPS} "
                    f"(sharpness {construction.sharpness:g}): they have no small common denominator"
                ) from None


class _FinerGridError(Exception):
    """Scores need smaller steps."""

    def __init__(self, steps: int, where: str) -> None:
        super().__init__(steps, where)
        self.steps, self.where = steps, where


class _Head:
    """One head, sparse and exact, restricted to the coordinates that are needed of what it writes."""

    def __init__(self, weights: AttentionWeights, index: int, needed: set[int]) -> None:
        self.query, self.key = (
            {row: entries for row, entries in enumerate(_rows(part[index])) if entries}
            for part in (weights.query, weights.key)
        )
        value, output = _rows(weights.value[index]), _rows(weights.output[index])
        self.value_output: dict[int, list[tuple[int, Fraction]]] = {}
        for row, entries in enumerate(value):
            written: dict[int, Fraction] = {}
            for middle, weight in entries:
                for column, factor in output[middle]:
                    if column in needed:
                        written[column] = written.get(column, Fraction(0)) + weight * factor
            kept = [(column, weight) for column, weight in written.items() if weight]
            if kept:
                self.value_output[row] = kept


class _Layer:
    """One layer, restricted to the coordinates that are needed after it."""

    def __init__(self, attention: AttentionWeights, mlp: MlpWeights, needed: set[int]) -> None:
        self.needed = needed
        self.units, self.outward = _units(mlp, needed)
        self.bias_in = [_fraction(value) for value in mlp.bias_in.tolist()]
        self.bias_out = {at: _fraction(value) for at, value in enumerate(mlp.bias_out.tolist()) if value}
        self.between = needed | {row for _, entries in self.units for row, _, _ in entries}
        heads = [_Head(attention, index, self.between) for index in range(attention.query.shape[0])]
        self.heads = [(index, head) for index, head in enumerate(heads) if head.value_output]
        self.context = {row for _, head in self.heads for row in (*head.key, *head.value_output)}
        self.own = self.between | {row for _, head in self.heads for row in head.query}


class _Pass:
    """One forward pass on a grid of scores."""

    def __init__(
        self, construction: Construction, ids: Sequence[int], steps: int, progress: Callable[[float], None] | None
    ) -> None:
        self._weights, self._ids = construction.weights, ids
        self._field, self._steps, self._progress = OrderedField(steps), steps, progress
        self._sharpness = _fraction(construction.sharpness)
        if self._sharpness <= 0:
            raise SymbolicError(f"the sharpness is {construction.sharpness:g}: expected a number above 0")

    def run(self) -> tuple[OrderedField, list[Element]]:
        """The field with its decisions, and the output at the last position."""
        unembedding = _columns(self._weights.unembedding)
        last = len(self._ids) - 1
        # From the end to the start: the coordinates that are needed after each layer, at the last position and before.
        needed = {row for entries in unembedding for row, _, _ in entries}
        before: set[int] = set()
        plans: list[tuple[_Layer, _Layer | None]] = []
        for layer in reversed(self._weights.layers):
            at_last = _Layer(layer.attention, layer.mlp, needed | before)
            others = _Layer(layer.attention, layer.mlp, before) if before else None
            plans.insert(0, (at_last, others))
            needed = at_last.own
            before = at_last.context | (others.own | others.context if others else set())
        states = [self._embedded(position, needed | before) for position in range(last + 1)]
        for number, (at_last, others) in enumerate(plans, start=1):
            states = self._layer(number, states, at_last, others)
        outputs = [
            self._field.combine((top, bottom, states[last][row]) for row, top, bottom in entries if row in states[last])
            for entries in unembedding
        ]
        return self._field, outputs

    def _embedded(self, position: int, needed: set[int]) -> State:
        state: dict[int, Fraction] = {}
        for matrix, row in (
            (self._weights.token_embedding, self._ids[position]),
            (self._weights.position_embedding, position),
        ):
            for at in range(matrix.indptr[row], matrix.indptr[row + 1]):
                coordinate = int(matrix.indices[at])
                if coordinate in needed:
                    state[coordinate] = state.get(coordinate, Fraction(0)) + _fraction(matrix.data[at])
        return {coordinate: self._field.constant(value) for coordinate, value in state.items() if value}

    def _layer(self, number: int, states: list[State], at_last: _Layer, others: _Layer | None) -> list[State]:
        last = len(states) - 1
        mixers = {index: _Mixer(self, f"layer {number}, head {index}", head, states) for index, head in at_last.heads}
        done: list[State] = []
        for position, state in enumerate(states):
            plan = at_last if position == last else others
            if plan is None:
                done.append({})
                continue
            terms: dict[int, list[tuple[int, int, Element]]] = {
                coordinate: [(1, 1, element)] for coordinate, element in state.items() if coordinate in plan.between
            }
            for index, _ in plan.heads:
                for coordinate, element in mixers[index].written(position).items():
                    if coordinate in plan.between:
                        terms.setdefault(coordinate, []).append((1, 1, element))
            between = {coordinate: self._field.combine(parts) for coordinate, parts in terms.items()}
            done.append(self._mlp(plan, between, f"layer {number}, position {position}"))
            if self._progress is not None:
                self._progress((number - 1 + (position + 1) / (last + 1)) / len(self._weights.layers))
        return done

    def _mlp(self, plan: _Layer, state: State, where: str) -> State:
        field, one = self._field, self._field.constant(1)
        terms: dict[int, list[tuple[int, int, Element]]] = {
            coordinate: [(1, 1, element)] for coordinate, element in state.items() if coordinate in plan.needed
        }
        for unit, entries in plan.units:
            bias = plan.bias_in[unit]
            parts = [(top, bottom, state[row]) for row, top, bottom in entries if row in state]
            parts.append((bias.numerator, bias.denominator, one))
            argument = field.combine(parts)
            if field.sign(argument, f"{where}, unit {unit}") > 0:
                for coordinate, top, bottom in plan.outward[unit]:
                    terms.setdefault(coordinate, []).append((top, bottom, argument))
        for coordinate, value in plan.bias_out.items():
            if coordinate in plan.needed:
                terms.setdefault(coordinate, []).append((value.numerator, value.denominator, one))
        return {coordinate: field.combine(parts) for coordinate, parts in terms.items()}

    def steps_of(self, differences: Sequence[int], scale: int, where: str) -> list[int]:
        """Differences of scores, each divided by the scale and the sharpness, in steps of the grid."""
        factor = self._steps / (self._sharpness * scale)
        steps: dict[int, int] = {}
        for difference in set(differences):
            step = difference * factor
            if step.denominator != 1:
                raise _FinerGridError(self._steps * step.denominator, where)
            if step > LARGEST_EXPONENT:
                raise SymbolicError(
                    f"{where}: two scores differ by {difference / scale:g}: expected at most {LARGEST_EXPONENT} steps "
                    f"of {float(self._sharpness / self._steps):g}"
                )
            steps[difference] = step.numerator
        return [steps[difference] for difference in differences]

    @property
    def field(self) -> OrderedField:
        """The field of this pass."""
        return self._field


class _Mixer:
    """A head on a prompt: what it writes at each position."""

    def __init__(self, forward: "_Pass", where: str, head: _Head, states: Sequence[State]) -> None:
        self._forward, self._where, self._head, self._states = forward, where, head, states
        columns = 1 + max((column for entries in head.key.values() for column, _ in entries), default=-1)
        self._keys, self._key_scale = _integers([self._project(head.key, state) for state in states], columns)
        self._values: list[list[tuple[int, Key, Polynomial]]] = []
        for state in states:
            terms: dict[int, list[tuple[int, int, Element]]] = {}
            for row, written in head.value_output.items():
                if row in state:
                    for column, weight in written:
                        terms.setdefault(column, []).append((weight.numerator, weight.denominator, state[row]))
            parts = {column: forward.field.combine(sources).parts for column, sources in terms.items()}
            self._values.append([(column, key, part) for column in parts for key, part in parts[column].items()])

    def _project(self, weights: Mapping[int, list[tuple[int, Fraction]]], state: State) -> dict[int, Fraction]:
        projected: dict[int, Fraction] = {}
        for row, entries in weights.items():
            if row not in state:
                continue
            value = state[row].constant()
            if value is None:
                raise SymbolicError(
                    f"{self._where}: queries or keys read coordinate {row} of the residual stream, which depends on z: "
                    "exp of the scores is not a rational function of z"
                )
            for column, weight in entries:
                projected[column] = projected.get(column, Fraction(0)) + value * weight
        return projected

    def _exponents(self, position: int) -> list[int]:
        """For each key, how many steps of the grid its score is below the largest: its weight is t^that."""
        query = self._project(self._head.query, self._states[position])
        (row,), scale = _integers([query], self._keys.shape[1])
        scores = (self._keys[: position + 1] @ row).tolist()
        best = max(scores)
        return self._forward.steps_of([best - score for score in scores], scale * self._key_scale, self._where)

    def written(self, position: int) -> State:
        """What the head writes at a position: for each coordinate, sum_j t^(s - s_j) v_j / sum_j t^(s - s_j).

        s is the largest score. Numerators of one denominator are added up as they are.
        """
        field, exponents = self._forward.field, self._exponents(position)
        total = [0] * (max(exponents) + 1)
        sums: dict[tuple[int, Key], list[tuple[int, Polynomial]]] = {}
        for exponent, value in zip(exponents, self._values, strict=False):
            total[exponent] += 1
            for coordinate, key, part in value:
                sums.setdefault((coordinate, key), []).append((exponent, part))
        bottom = polynomial(total)
        factor = field.key(bottom)
        written: dict[int, dict[Key, Polynomial]] = {}
        for (coordinate, key), parts in sums.items():
            top = _shifted_sum(parts)
            if not top.coefficients:
                continue
            if not key and (quotient := _multiple(top, bottom)) is not None:
                written.setdefault(coordinate, {})[()] = polynomial([quotient.numerator], quotient.denominator)
            else:
                written.setdefault(coordinate, {})[tuple(sorted(key + factor))] = top
        return {coordinate: Element(field, parts) for coordinate, parts in written.items()}


def _integers(rows: Sequence[Mapping[int, Fraction]], columns: int) -> tuple[Any, int]:
    """The rows as a matrix of Python integers, times the scale that is returned too; further columns are left out."""
    scale = math.lcm(*(value.denominator for row in rows for value in row.values()))
    matrix = np.zeros((len(rows), columns), dtype=np.object_)
    for at, row in enumerate(rows):
        for column, value in row.items():
            if column < columns:
                matrix[at, column] = value.numerator * (scale // value.denominator)
    return matrix, scale


def _shifted_sum(parts: Iterable[tuple[int, Polynomial]]) -> Polynomial:
    """The sum of t^shift times polynomial."""
    parts = list(parts)
    scale = math.lcm(*(part.scale for _, part in parts))
    total = [0] * max(shift + len(part.coefficients) for shift, part in parts)
    for shift, part in parts:
        factor = scale // part.scale
        for place, coefficient in enumerate(part.coefficients, shift):
            total[place] += factor * coefficient
    return polynomial(total, scale)


def _multiple(top: Polynomial, bottom: Polynomial) -> Fraction | None:
    """The rational c with top = c bottom, if there is one."""
    if top.degree != bottom.degree:
        return None
    quotient = top.constant / bottom.constant
    same = quotient and all(
        high * bottom.scale * quotient.denominator == quotient.numerator * low * top.scale
        for high, low in zip(top.coefficients, bottom.coefficients, strict=True)
    )
    return quotient if same else None


def _fraction(value: float) -> Fraction:
    if not math.isfinite(value):
        raise SymbolicError(f"a weight is {value}: expected finite numbers")
    return Fraction(float(value))


def _rows(matrix: Array) -> list[list[tuple[int, Fraction]]]:
    """For each row of a dense matrix its (column, value) where that is not 0."""
    rows: list[list[tuple[int, Fraction]]] = [[] for _ in range(matrix.shape[0])]
    for row, column in zip(*np.nonzero(matrix), strict=True):
        rows[row].append((int(column), _fraction(matrix[row, column])))
    return rows


def _columns(matrix: Sparse) -> Entries:
    """For each column its (row, numerator, denominator) where it is not 0."""
    columns: Entries = [[] for _ in range(matrix.shape[1])]
    entries = matrix.tocoo()
    for row, column, value in zip(entries.row.tolist(), entries.col.tolist(), entries.data.tolist(), strict=True):
        number = _fraction(value)
        if number:
            columns[column].append((row, number.numerator, number.denominator))
    return columns


def _units(mlp: MlpWeights, needed: set[int]) -> tuple[list[tuple[int, list[tuple[int, int, int]]]], Entries]:
    """The units that write to a needed coordinate, each with its inputs; and for every unit what it writes there."""
    outward: Entries = [[entry for entry in entries if entry[0] in needed] for entries in _columns(mlp.w_out.T.tocsr())]
    inward = _columns(mlp.w_in)
    return [(unit, inward[unit]) for unit, written in enumerate(outward) if written], outward
