"""The superposition theorem, for all prompts, on the weights as they are, relative to the components' contracts.

What is decided: (1) the components run in disjoint blocks, exactly; (2) the contract of each, by every input of an
example and a box around all the rest, unless it is assumed; (3) every y fetches the predictions of its own example;
(4) the credit is 0 or 1; (5) every EQ averages it; (6) weight times rounded prediction goes to the output. Then, for
every prompt of at most m examples, at every EQ, |q_hat - q|_1 <= bound, in real arithmetic. The builder is believed in
nothing: the names of subspaces say where to look.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from construct.errors import InputError
from construct.residual_stream import Subspace
from construct.superpose import Superposition
from construct.superpose_component import InExampleTask
from construct.tasks import SumTask
from construct.theorems import Construction
from verify.boxes import Box, roles_of
from verify.certificate import Lemma, Proof, Violation
from verify.exact import INFLATION
from verify.rounding import BITS
from verify.superposition_balls import hull
from verify.superposition_blocks import Block, Judged, check_disjoint, cut_out
from verify.superposition_contract import LIMIT, prove_contract
from verify.superposition_credit import CreditFacts, FetchFacts, credit_facts, fetch_facts
from verify.superposition_gate import GateFacts, WeightFacts, gate_facts, weight_facts
from verify.superposition_state import stream_after_components


@dataclass(frozen=True)
class Contract:
    """The levels of a component's output: at most `low` at what is not the answer, at least `high` at the answer."""

    low: float
    high: float


@dataclass(frozen=True)
class SuperpositionProof:
    """The outcome of a proof attempt for all prompts.

    Args:
        real: the bound on |q_hat - q|_1 in real arithmetic over all prompts, None where none was proved.
        assumptions: the components whose contract was not proved but assumed; the bound is relative to these.
        lemmas: the chain, with every figure.
        violations: why it failed, empty if it did not.
    """

    real: float | None
    assumptions: tuple[str, ...] = ()
    lemmas: tuple[Lemma, ...] = ()
    violations: tuple[Violation, ...] = ()


def prove_superposition(
    model: Superposition | Construction, *, assumed: Mapping[str, Contract] | None = None, limit: int = LIMIT
) -> SuperpositionProof:
    """Bound |q_hat - q|_1 over all prompts, in real arithmetic.

    Args:
        model: a superposition (`construct.superpose`), or the construction made of it, as built or loaded.
        assumed: by task, a contract that is taken for granted; the others are proved.
        limit: the most inputs of one task that are run through.

    Raises:
        InputError: a contract is assumed for a task that is not there.
        TooLargeError: a task has more inputs than the limit, and its contract is not assumed.
    """
    judged = _judged(model)
    unknown = sorted(set(assumed or {}) - {task.name for task in judged.tasks})
    if unknown:
        names = ", ".join(task.name for task in judged.tasks)
        raise InputError(f"a contract is assumed for {unknown[0]!r}, which is no task: the tasks are {names}")
    for name, tensor in judged.weights.tensors():
        if not np.isfinite(tensor if isinstance(tensor, np.ndarray) else tensor.data).all():
            return _failed(Violation("finite weights", name, "finite numbers", "others"))
    found = _shape(judged)
    if isinstance(found, Violation):
        return _failed(found)
    depth = len(judged.weights.layers) - 2
    violations = check_disjoint(judged, found, depth)
    if violations:
        return _failed(*violations)
    blocks = cut_out(judged, found, depth)
    with np.errstate(all="ignore"):  # what is no number in the end is no proof
        try:
            return _chain(judged, blocks, dict(assumed or {}), limit)
        except (OverflowError, ValueError) as error:
            # Only numbers far beyond those of a construction get here; what cannot be computed is not proved.
            return _failed(Violation("not provable", "the model", "numbers of ordinary size", str(error)))


def superposition_proof(construction: Construction) -> Proof:
    """`prove_superposition` with no assumption, as the certificate of an artifact holds it: in real arithmetic alone.

    Raises:
        TooLargeError: a task has too many inputs to prove its component's contract.
    """
    proof = prove_superposition(construction)
    reason = "a superposition is proved in real arithmetic; how its components round is not"
    return Proof(proof.real, dict.fromkeys(BITS), dict.fromkeys(BITS, reason), proof.lemmas, proof.violations)


def _chain(judged: Judged, blocks: list[Block], assumed: Mapping[str, Contract], limit: int) -> SuperpositionProof:
    roles = roles_of(judged.weights, judged.layout)
    # Lemma 2: contracts.
    contracts = []
    for block, task in zip(blocks, judged.tasks, strict=True):
        if task.name in assumed:
            contracts.append(assumed[task.name])
            continue
        facts = prove_contract(block.weights, task, judged.layout, limit=limit)
        contracts.append(Contract(facts.low, facts.high))
    low, high = np.array([c.low for c in contracts]), np.array([c.high for c in contracts])
    # Lemma 3: fetch.
    before = stream_after_components(judged, blocks)
    fetch = fetch_facts(judged, roles, blocks, before)
    apart = ~(low + fetch.shift < high - fetch.shift)
    if apart.any() or not np.isfinite(fetch.reach).all():
        names = ", ".join(block.name for block, mixed in zip(blocks, apart, strict=True) if mixed)
        got = f"low {low.tolist()}, high {high.tolist()}, moved by {fetch.shift.tolist()}"
        return _failed(Violation("contract", names or "the outputs", "low below high, also as fetched", got))
    # Lemma 4: credit.
    credit = credit_facts(judged, roles, fetch, low, high)
    # Lemma 5: average.
    weight = weight_facts(judged, roles, credit)
    # Lemma 6: product.
    at_eq = hull(Box(before.centre[roles.eq], before.radius[roles.eq]))
    gate = gate_facts(judged, blocks, at_eq, credit, weight, (low, high))
    bounds = (gate.rest + gate.error.sum() + weight.error.sum(axis=1)) * INFLATION
    violations = (*credit.violations, *gate.violations)
    real = float(bounds.max()) if np.isfinite(bounds).all() and not violations else None
    assumptions = tuple(name for name in (block.name for block in blocks) if name in assumed)
    lemmas = _lemmas(contracts, assumptions, fetch, credit, weight, gate, bounds.tolist())
    return SuperpositionProof(real, assumptions, lemmas, violations)


def _judged(model: Superposition | Construction) -> Judged:
    if isinstance(model, Superposition):
        tasks: tuple[InExampleTask | SumTask, ...] = tuple(component.task for component in model.components)
    else:
        tasks = model.task_set.tasks
    return Judged(model.weights, model.layout, model.stream, tasks)


def _failed(*violations: Violation) -> SuperpositionProof:
    return SuperpositionProof(None, violations=violations)


def _shape(judged: Judged) -> list[Subspace] | Violation:
    """The components' blocks, or what is missing of a superposition."""
    layers, stream = judged.weights.layers, judged.stream
    if len(layers) < 3:
        return Violation("shape", "the model", "3 layers or more", f"{len(layers)}")
    for index in (-2, -1):
        heads = layers[index].attention.query.shape[0]
        if heads != 1:
            return Violation("shape", f"layer {len(layers) + index + 1}", "1 head", f"{heads}")
    tasks = judged.tasks
    names = [f"component[{task.name}]" for task in tasks]
    missing = [name for name in (*names, "prediction", "evidence") if name not in stream]
    if missing:
        return Violation("shape", "the subspaces", "a block for each task, prediction, evidence", f"no {missing[0]}")
    size = len(tasks) * judged.layout.alphabet_size
    if (stream["prediction"].size, stream["evidence"].size) != (size, len(tasks)):
        got = f"{stream['prediction'].size} and {stream['evidence'].size}"
        return Violation("shape", "prediction and evidence", f"{size} and {len(tasks)} coordinates", got)
    return [stream[name] for name in names]


def _lemmas(
    contracts: list[Contract],
    assumptions: tuple[str, ...],
    fetch: FetchFacts,
    credit: CreditFacts,
    weight: WeightFacts,
    gate: GateFacts,
    bounds: Any,
) -> tuple[Lemma, ...]:
    """The chain with every figure that the theorem uses, so that a reader can redo the sum."""
    ok = not (credit.violations or gate.violations)
    return (
        Lemma(
            "disjoint",
            "every head and unit of the components' layers reads and writes one block; nothing else is written",
            {},
            holds=True,
        ),
        Lemma(
            "contracts",
            "at every EQ the output of component k is at least high[k] at its answer, at most low[k] elsewhere; proved "
            "by every input of an example, in ball arithmetic with exp within 2^-40, but for those assumed",
            {
                "low": [contract.low for contract in contracts],
                "high": [contract.high for contract in contracts],
                "assumed": list(assumptions),
            },
            holds=True,
        ),
        Lemma(
            "fetch",
            "every y attends to the EQ before it but for leak[i]; the levels stay apart",
            {"leak": fetch.leak.tolist()},
            holds=True,
        ),
        Lemma(
            "credit",
            "at every y the credit of component k is [y is its prediction], up to error[k]; elsewhere in a range",
            {"error": credit.error.tolist(), "x": [credit.low["x"].tolist(), credit.high["x"].tolist()]},
            not credit.violations,
        ),
        Lemma(
            "average",
            "every EQ holds the average of the credit over the y before it, up to error[m'][k]",
            {"leak": weight.average.leak.tolist(), "uneven": weight.average.uneven, "error": weight.error.tolist()},
            bool((weight.average.leak[1:] < 1).all()),
        ),
        Lemma(
            "product",
            "at every EQ component k adds its weight to its prediction and nothing elsewhere, up to error[k]",
            {"error": gate.error.tolist()},
            not gate.violations,
        ),
        Lemma(
            "superposition",
            "for every prompt, at the EQ after m' examples, |q_hat - q|_1 <= bounds[m']; `rest` is what else is there",
            {"bounds": bounds, "rest": gate.rest},
            ok and bool(np.isfinite(bounds).all()),
        ),
    )
