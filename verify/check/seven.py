"""The seven-layer theorem: each step is proved again on the weights, which must have the construction's form exactly.

The form: units and heads write only where their step says, and each coordinate is written by one step alone; so what
stands in a coordinate is what its step wrote. c_a is the vector that layer 3 reads of the token a, of four numbers or
any other count; what is needed of these codes is checked. P_k, n_k, mu_k, e_k and w_k are task k's prediction,
`unanswered`, mismatch, evidence and weight. Predictions are off by what the heads leak; the credit is exact.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from heapq import nlargest
from itertools import accumulate
from math import log2
from typing import Any, NamedTuple

from verify.check.compare import check_real, compare, frame, near
from verify.check.exact import Number, columns, require, used
from verify.check.files import Task, most_consistent
from verify.check.formats import FORMATS
from verify.check.model import Model, Part, Unit
from verify.check.seven_formats import check_seven_exact, seven_rounded
from verify.check.two_layer import PAIRS, find_sizes, read_model

READING, PREDICTING, COMPARING, CREDITING, AVERAGING, GATING, SUPERPOSING = (0, 1), 1, 2, 3, 4, 5, 6
HALF = Fraction(1, 2)

Code = tuple[Number, ...]


class Place(NamedTuple):
    """Where a task's numbers stand."""

    prediction: range
    unanswered: int
    mismatch: int
    evidence: int
    weight: int


class Steps(NamedTuple):
    """What is found of a task.

    `error` is how far each number of the prediction, and last `unanswered`, can be off; `reach` what a leak counts.
    """

    codes: list[Code]
    error: list[Fraction]
    reach: Number


def places(described: Any, tasks: int, width: int) -> list[Place]:
    """Where each task's numbers are said to stand: apart from each other, and in the stream."""
    spaces, taken = described["subspaces"], list[int]()
    found: list[list[range]] = []
    for name in ("prediction", "unanswered", "mismatch", "evidence", "weight"):
        start, size = spaces[name]["start"], spaces[name]["size"]
        require(type(start) is type(size) is int and start >= 0, f"{name} has no place")
        each = size // tasks
        require(size == each * tasks and (each == 1 or name == "prediction"), f"{name} has another size")
        found.append([range(start + each * k, start + each * (k + 1)) for k in range(tasks)])
        taken += range(start, start + size)
    require(len(set(taken)) == len(taken) and max(taken) < width, "places overlap")
    return [Place(part[0], *(one.start for one in part[1:])) for part in zip(*found, strict=True)]


def check_form(model: Model, at: Sequence[Place]) -> None:
    """Nothing but its own step writes a coordinate, and nothing of one layer's heads is read by the other's."""
    spaces = {c for place in at for c in (*place.prediction, *place[1:])}
    tokens, fixed = columns(model.token), columns(model.place)
    require(not tokens & (fixed | model.read) and not fixed & model.read, "tokens, positions and reads share a place")
    require(not spaces & (tokens | fixed | model.read), "more than its step writes a task's number")
    for layer in range(model.depth):
        heads = model.head_count(layer)
        require(not heads if layer not in (*READING, AVERAGING) else True, f"layer {layer + 1} has heads")
        for number in range(heads):
            read = {c for matrix in model.attention(layer, number)[:3] for c in used(matrix)}
            require(not read & model.read, "a head reads what a head wrote")
        constant = {place.unanswered: 1 for place in at} if layer == PREDICTING else {}
        require(model.mlp(layer, "bias_out")[0] == constant, f"layer {layer + 1} has other constants")
        require(not model.units[layer] or layer not in (0, AVERAGING), f"layer {layer + 1} has units")
    require(not used(model.output) & (spaces | fixed | model.read), "more than the answers is in the output")


def by_task(model: Model, layer: int, writes: Sequence[Sequence[int]]) -> list[list[Unit]]:
    """The units of a layer by the task whose coordinates they write; each writes those of one."""
    owner = {c: k for k, span in enumerate(writes) for c in span}
    result: list[list[Unit]] = [[] for _ in writes]
    for unit in model.units[layer]:
        of = {owner.get(c) for c in unit.out}
        require(len(of) == 1 and None not in of, f"a unit of layer {layer + 1} writes not just one task's numbers")
        result[of.pop() or 0].append(unit)
    return result


def find_codes(model: Model, place: Place, units: Sequence[Unit]) -> list[Code]:
    """Step 3: mu_k = 2 |P_k - c_y|_1 by a pair of units for each number of P_k. Returns the codes c_a, a token each.

    They must be different whole vectors of one squared length, not 0, whose numbers add up to all even or all odd:
    then two are at least 2 apart in |.|_1, and their product is at least 1 less than the squared length.
    """
    tokens, seen = columns(model.token), dict[tuple[int, int], Unit]()
    for unit in units:
        (c, sign), *more = [(c, weight) for c, weight in unit.column.items() if c not in tokens]
        good = not more and c in place.prediction and abs(sign) == 1 and unit.bias == 0 and not unit.heads
        require(good and unit.out == {place.mismatch: 2}, "a unit does not compare one number of a prediction")
        require(seen.setdefault((c, int(sign)), unit) is unit, "two units compare the same")
    require(len(seen) == 2 * len(place.prediction), "a number of a prediction is not compared")
    codes = [tuple(-seen[c, 1].own.get(token, 0) for c in place.prediction) for token in range(model.alphabet)]
    for c, number in zip(place.prediction, zip(*codes, strict=True), strict=True):
        below = [seen[c, -1].own.get(token, 0) for token in range(model.alphabet)]
        require(below == list(number), "the two signs of a number are compared with different codes")
    whole = all(type(number) is int for code in codes for number in code)
    require(whole and len(set(codes)) == len(codes), "codes are not different whole numbers")
    require(len({norm(code) for code in codes}) == 1 and norm(codes[0]) >= 1, "codes are not of one length")
    require(len({sum(code) % 2 for code in codes}) == 1, "codes are too near to each other")
    return codes


def norm(code: Code) -> Number:
    """The squared length."""
    return sum(number * number for number in code)


def predict_table(
    model: Model, task: Task, place: Place, units: Sequence[Unit], codes: Sequence[Code], leaks: Sequence[Fraction]
) -> Steps:
    """Step 2: each row has one unit, 1 on it without leak, that writes (c_a, -1); beside its row it is exactly 0."""
    seen: set[object] = set()
    error, reach = [Fraction(0)] * (len(place.prediction) + 1), Fraction(0)
    for unit in units:
        heads = {model.heads[h].targets[0]: h for h in unit.heads if len(model.heads[h].targets) == 1}
        fits = len(heads) == len(unit.heads) == len(task.positions) and heads.keys() == set(task.positions)
        require(fits and unit.column.keys() <= model.read, "a unit of a table reads something else than its inputs")
        argument, key, lost = unit.bias, [], Fraction(0)
        for position in task.positions:
            part, leak = unit.heads[heads[position]], leaks[heads[position]]
            first, second = nlargest(2, [*part.by_token, min(part.by_token) - 2])
            require(first == part.high > second, "a unit is best for no token, or several")
            require((first - second) * (1 - leak) >= 1, "a unit is on beside its row")
            key.append(part.by_token.index(first))
            argument, lost, reach = argument + first, lost + leak * (first - part.low), max(reach, first - part.low)
        answer = task.rows.get(tuple(key))
        require(argument == 1 and answer is not None, f"a unit stands for {key}, which is no row")
        written = (*codes[answer or 0], -1)
        require(unit.out == at_places(place, written), f"the unit of {key} writes another code")
        require(tuple(key) not in seen, f"two units stand for the row {key}")
        seen.add(tuple(key))
        error = [max(old, abs(number) * lost) for old, number in zip(error, written, strict=True)]
    require(len(seen) == len(task.rows), "a row of a table has no unit")
    return Steps(list(codes), error, reach)


def at_places(place: Place, numbers: Sequence[Number]) -> dict[int, Number]:
    """A row of a matrix that has these numbers, where they are not 0, at a task's prediction and `unanswered`."""
    return {c: number for c, number in zip((*place.prediction, place.unanswered), numbers, strict=True) if number}


def predict_sum(
    model: Model, task: Task, place: Place, units: Sequence[Unit], codes: Sequence[Code], leaks: Sequence[Fraction]
) -> Steps:
    """Step 2 for a sum: hinges that bend at whole numbers, of a number s' that the inputs' tokens add up to.

    They are (c_a, -1) at every s' of a row, 0 at every other that inputs reach. The leaks shift s' by at most one, and
    the hinges are linear on the way.
    """
    heads = units[0].heads if units else {}
    bends: list[tuple[Number, list[Number]]] = []
    for unit in units:
        good = unit.heads == heads and unit.column.keys() <= model.read and unit.bias == int(unit.bias)
        require(good, "the units of a sum are not alike")
        bends.append((-unit.bias, [unit.out.get(c, 0) for c in (*place.prediction, place.unanswered)]))
    bends.sort(key=lambda bend: int(bend[0]))
    kinks = [kink for kink, _ in bends]
    nothing = [Fraction(0)] * (len(place.prediction) + 1)
    slopes = list(accumulate((bend for _, bend in bends), added, initial=nothing))
    moments = list(accumulate(([kink * part for part in bend] for kink, bend in bends), added, initial=nothing))

    def value(s: Number) -> list[Number]:
        before = bisect_left(kinks, s)
        return [s * slope - moment for slope, moment in zip(slopes[before], moments[before], strict=True)]

    shift = sum((leaks[h] * (part.high - part.low) for h, part in heads.items()), Fraction(0))
    require(shift <= 1, "leaks shift a sum by more than a step")
    error = nothing
    for s, total in reached(model, task, heads):
        require(s == int(s), "a sum is no whole number")
        row = None if total is None else task.rows.get((total,))
        here = value(s)
        require(here == ([*codes[row], -1] if row is not None else nothing), f"the sum {total} has another code")
        for beside in (value(s - 1), value(s + 1)):
            moved = [abs(a - b) * shift for a, b in zip(beside, here, strict=True)]
            error = [max(old, new) for old, new in zip(error, moved, strict=True)]
    return Steps(list(codes), error, sum(part.high - part.low for part in heads.values()))


def added(one: Sequence[Number], other: Sequence[Number]) -> list[Number]:
    """The sum of two lists of numbers."""
    return [a + b for a, b in zip(one, other, strict=True)]


def reached(model: Model, task: Task, heads: Mapping[int, Part]) -> set[tuple[Number, int | None]]:
    """What the heads add up to, with the sum of the values, None where a token has none: for all inputs of the task."""
    counts = {position: [Fraction(0)] * model.alphabet for position in task.positions}
    for h, part in heads.items():
        targets = model.heads[h].targets
        require(set(targets) <= set(task.positions), "a unit of a sum reads other inputs")
        for position in targets:
            counts[position] = added(counts[position], [Fraction(number) / len(targets) for number in part.by_token])
    values, found = task.values or {}, {(Fraction(0), 0)}
    states: set[tuple[Number, int | None]] = set(found)
    for count in counts.values():
        options = {(part, values.get(token)) for token, part in enumerate(count)}
        states = {
            (s + part, None if total is None or value is None else total + value)
            for s, total in states
            for part, value in options
        }
    return states


def check_credit(model: Model, place: Place, units: Sequence[Unit], error: Sequence[Fraction]) -> None:
    """Step 4: e_k = relu(2 - 2 mu_k) - relu(1 - 2 mu_k) at y, and 0 elsewhere, as mu_k >= 0.

    That is 1 up to mu_k = 1/2 and 0 from 1. Without error mu_k is 0 for a match, at least 4 for another answer and at
    least 2 where there is none; errors move it by at most 1/2.
    """
    require(sorted(next(iter(unit.out.values())) for unit in units) == [-1, 1], "a credit has not its two units")
    for unit in units:
        good = unit.column.get(place.mismatch) == -2 and not unit.own and not unit.heads
        good = good and unit.column.keys() - {place.mismatch} <= columns(model.place) - model.varying
        require(good, "a credit reads something else than a mismatch and a role")
        require(unit.fixed["y"] == (2 if unit.out == {place.evidence: 1} else 1), "a credit has another threshold")
        require(max(unit.fixed[role] for role in ("bos", "x", "eq")) <= 0, "a credit is given elsewhere than at y")
    require(2 * sum(error[:-1]) <= HALF, "a mismatch is off by more than a credit forgets")


def check_gate(place: Place, units: Sequence[Unit]) -> None:
    """Step 6: relu(w_k - n_k), for w_k in [0, 1] and a bit n_k, is w_k or 0: it is off by at most n_k's error."""
    (unit,) = units
    read = unit.column == {place.evidence: 1, place.unanswered: -1} and unit.bias == 0
    require(read and unit.out == {place.weight: 1}, "a gate does not read one task's weight and whether it answers")


def superposed_error(task: Task, place: Place, units: Sequence[Unit], steps: Steps) -> Fraction:
    """Step 7: relu(w_k + 2 <P_k, c_a> - 2 N), to the answer a: w_k where a is predicted, else 0. Returns the most lost.

    With another code predicted, or none, the argument without errors is at most 1 - 2; so errors up to 1 do not matter.
    """
    answers, lost = set(task.rows.values()), Fraction(0)
    for unit in units:
        answer = next(iter(unit.out), -1)
        require(unit.out == {answer: 1} and answer in answers, "a unit adds to no answer, or to one twice")
        answers.remove(answer)
        code = steps.codes[answer]
        wanted = {place.weight: 1} | {c: 2 * part for c, part in zip(place.prediction, code, strict=True) if part}
        require(unit.column == wanted and unit.bias == -2 * norm(code), f"a unit matches not the code of {answer}")
        lost = max(lost, sum((2 * abs(c) * e for c, e in zip(code, steps.error, strict=False)), Fraction(0)))
    require(not answers, "an answer has no unit")
    require(lost + steps.error[-1] <= 1, "a unit is on beside its answer")
    return lost


def find_steps(model: Model, at: Sequence[Place], leaks: Sequence[Fraction]) -> tuple[list[Steps], list[Fraction]]:
    """Steps 2 to 4, 6 and 7 of every task. Returns what was found of each, and what its superposition loses."""
    check_form(model, at)
    predicting = by_task(model, PREDICTING, [[*place.prediction, place.unanswered] for place in at])
    comparing = by_task(model, COMPARING, [[place.mismatch] for place in at])
    crediting = by_task(model, CREDITING, [[place.evidence] for place in at])
    gating = by_task(model, GATING, [[place.weight] for place in at])
    owner = {place.weight: k for k, place in enumerate(at)}
    answering: list[list[Unit]] = [[] for _ in at]
    for unit in model.units[SUPERPOSING]:
        (c,) = unit.column.keys() & owner.keys() or (-1,)
        require(c in owner, "a unit of layer 7 reads no weight")
        answering[owner[c]].append(unit)
    found, lost = [], []
    for k, (task, place) in enumerate(zip(model.tasks, at, strict=True)):
        codes = find_codes(model, place, comparing[k])
        predict = predict_table if task.values is None else predict_sum
        found.append(predict(model, task, place, predicting[k], codes, leaks))
        check_credit(model, place, crediting[k], found[-1].error)
        check_gate(place, gating[k])
        lost.append(superposed_error(task, place, answering[k], found[-1]))
    return found, lost


def largest_mismatch(model: Model, found: Sequence[Steps]) -> Number:
    """The largest mismatch without errors: of a task's answer, or none, and any token."""
    most: dict[tuple[object, ...], Number] = {}
    for task, steps in zip(model.tasks, found, strict=True):
        answers = tuple(sorted(set(task.rows.values())))
        if (answers, *steps.codes) not in most:
            predicted = [steps.codes[answer] for answer in answers] + [(0,) * len(steps.codes[0])]
            apart = (sum(map(abs, added(one, [-c for c in code]))) for one in predicted for code in steps.codes)
            most[answers, *steps.codes] = 2 * max(apart)
    return max(most.values())


def check_seven(claimed: dict[str, Any], described: Any, content: bytes, say: Callable[[str], object]) -> None:
    """Check a certificate of the seven-layer construction. Raises whatever hinders it."""
    model = read_model(described, content, depth=7, reading=READING)
    say(f"model: {len(model.heads)} read heads, what they attend to and write; {sum(map(len, model.units))} units")
    tasks, width = len(model.tasks), model.tensors["embedding.token"].shape[1]
    at = places(described, tasks, width)
    require([place.evidence for place in at] == list(model.evidence), "the evidence is elsewhere")
    model.codes = {c for place in at for c in (*place.prediction, *place[1:])} - set(model.evidence)
    loose = (model.examples + 1) * len(model.place) > PAIRS
    reads = next(lemma["figures"] for lemma in claimed["lemmas"] if lemma["name"] == "read")
    found = {"targets": [head.targets for head in model.heads], "leak": [head.leak for head in model.heads]}
    compare(reads, found, "the lemma read", loose=loose)
    leaks = [Fraction(leak) for leak in reads["leak"]]  # at least what was found

    steps, superposed = find_steps(model, at, leaks)
    average = model.average_leaks(AVERAGING)
    gated = [each.error[-1] for each in steps]
    together, rest = most_consistent(model.tasks), sum(gated, Fraction(0)) + sum(superposed, Fraction(0))
    real = [rest] + [rest + min(together, tasks) * leak for leak in average[1:]]
    heads, allowed = [model.head_count(layer) for layer in range(7)], budget(model)
    require(max(heads) <= tasks and width <= allowed, "the construction is beyond the budget")
    errors, ones, zeros = [max(each.error) for each in steps], [Fraction(1)] * tasks, [Fraction(0)] * tasks
    stated = claimed["lemmas"][-1]["figures"]["bounds"]  # checked below
    lemmas: dict[str, dict[str, Any]] = {
        "budget": {"heads": heads, "d_model": width, "allowed": Fraction(allowed)},
        "read": reads,
        "predict": {"error": {"eq": errors, "y": errors}},
        "credit": {"error": zeros},
        "average": {"leak": average, "uneven": Fraction(0), "stray": Fraction(0)},
        "gate": {"error": gated, "slope": ones},
        "superpose": {"error": superposed, "slope": ones},
        "superposition": {"bounds": stated, "together": together, "rest": Fraction(0)},
    }
    sizes = find_sizes(model, claimed["sizes"]["log10_prompts"])
    compare(claimed, frame(claimed, sizes, lemmas, list(FORMATS)), "certificate")
    say(f"steps: every unit of {tasks} tasks against their rows; nothing else is written anywhere; within the budget")

    check_real(claimed, stated, real)
    bounds = claimed["error_bound"]
    say(f"real: |q_hat - q|_1 <= {bounds['real']:.3g} for every prompt")
    for form in FORMATS:
        if bounds[form] is not None:
            reach = max(each.reach for each in steps)
            check_seven_exact(model, form, average, reach, largest_mismatch(model, steps))
            squared = max(norm(each.codes[0]) for each in steps)
            near(bounds[form], seven_rounded(model, form, real, together, squared), f"the bound in {form}")
        say(f"{form}: " + ("no claim" if bounds[form] is None else f"<= {bounds[form]:.3g}"))


def budget(model: Model) -> float:
    """The width that Theorem 1 allows with the constant that the construction states."""
    return 24 * (max(model.alphabet, len(model.tasks)) + log2(model.examples * model.inputs))
