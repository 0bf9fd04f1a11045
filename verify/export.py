"""The theorem of an exported GPT-2, for every prompt of at most m examples, on the stored weights as they are.

At every EQ the total variation of softmax(logits) to q / sum(q), uniform over the alphabet where sum(q) = 0, is at most
a bound; after the last input EQ is predicted, at all other positions the uniform distribution over the alphabet, up to
a bound too. Nothing of the export is believed but its tasks and sizes: the layer norms, the rows that keep the mean at
0, the construction inside and the readout are read off the tensors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from construct.tasks import SumTask
from construct.theorems import Construction
from verify.certificate import Violation
from verify.export_arithmetic import ARITHMETICS, BFLOAT16, Arithmetic
from verify.export_counts import count
from verify.export_evidence import weigh
from verify.export_logits import Predictions, predict, write
from verify.export_places import check_places, places_of
from verify.export_readout import clean, logarithm, merge
from verify.export_weights import RefusedError, Tensors, check_config, check_tensors, stock
from verify.rows import NotProvableError

PROVED = ("two-layer",)
"""The theorems whose exports there is a proof for."""

LAYERS = 6
"""Two of the construction, four of the readout."""


@dataclass(frozen=True)
class ExportProof:
    """What was proved of an exported model.

    Args:
        answer: arithmetic -> the bound on the total variation at every EQ, None where none was proved.
        elsewhere: arithmetic -> the bound at every other position.
        refusals: arithmetic -> why there is no bound.
        violations: why the proof in real arithmetic failed, empty if it did not.
        figures: arithmetic -> what the bound is made of.
    """

    answer: dict[str, float | None]
    elsewhere: dict[str, float | None]
    refusals: dict[str, str] = field(default_factory=dict)
    violations: tuple[Violation, ...] = ()
    figures: dict[str, dict[str, float]] = field(default_factory=dict)


def certify_export(
    construction: Construction,
    config: Mapping[str, Any],
    tensors: Tensors,
    *,
    arithmetics: Sequence[Arithmetic] = ARITHMETICS,
) -> ExportProof:
    """Bound the total variation of a stock model's predictions over all prompts.

    Args:
        construction: the tasks, the sizes and the names of coordinates as hints; its weights are not used.
        config: the content of config.json.
        tensors: of model.safetensors, by GPT2LMHeadModel's names.
        arithmetics: which to bound it in; real arithmetic comes first.
    """
    answer: dict[str, float | None] = {}
    elsewhere: dict[str, float | None] = {}
    refusals, violations, figures = {}, [], {}
    for arithmetic in arithmetics:
        try:
            with np.errstate(all="ignore"):  # what is no number in the end is no proof
                found, parts = _prove(construction, config, tensors, arithmetic)
            if not found.answer < 1 or not found.elsewhere < 1:
                raise RefusedError("bound", "the model", "a total variation below 1", f"{found.answer:.3g}")
        except RefusedError as error:
            violation = error.violation
        except NotProvableError as error:
            violation = Violation("not provable", "the model", "the form of the lemmas", str(error))
        except (OverflowError, ValueError, IndexError, KeyError) as error:
            violation = Violation("not provable", "the model", "numbers and sizes of a construction", str(error))
        else:
            answer[arithmetic.name], elsewhere[arithmetic.name] = found.answer, found.elsewhere
            figures[arithmetic.name] = parts
            continue
        answer[arithmetic.name] = elsewhere[arithmetic.name] = None
        refusals[arithmetic.name] = f"{violation.lemma}: {violation.where}: {violation.expected}, got {violation.got}"
        if not arithmetic.sums:
            violations.append(violation)
            for other in arithmetics[1:]:
                answer[other.name] = elsewhere[other.name] = None
                refusals[other.name] = "the proof in real arithmetic failed"
            break
    return ExportProof(answer, elsewhere, refusals, tuple(violations), figures)


def _prove(
    construction: Construction, config: Mapping[str, Any], tensors: Tensors, arithmetic: Arithmetic
) -> tuple[Predictions, dict[str, float]]:
    check_config(config, construction.layout)
    check_tensors(tensors, config)
    if construction.theorem not in PROVED:
        raise RefusedError("theorem", "export.json", "a two-layer construction", construction.theorem)
    if config["n_layer"] != LAYERS:
        raise RefusedError("config", "config.json, n_layer", str(LAYERS), str(config["n_layer"]))
    if arithmetic is BFLOAT16 and any(isinstance(task, SumTask) for task in construction.task_set.tasks):
        raise RefusedError("tasks", "export.json", "tables: of sums nothing is claimed in bfloat16", "sums")
    places = places_of(construction)
    if places.width > config["n_embd"]:
        raise RefusedError("config", "config.json, n_embd", f"at least {places.width}", str(config["n_embd"]))
    model = stock(tensors, config, arithmetic)
    check_places(construction, model, places)
    construction = replace(construction, weights=model.weights)
    before = weigh(construction, model, arithmetic)
    counted = count(construction, model, places, before, arithmetic)
    apart = clean(model, places, counted, arithmetic)
    sums = merge(model, places, counted, apart, construction.layout.examples, arithmetic)
    logarithms = logarithm(model, places, counted, sums, arithmetic)
    written = write(model, places, counted, sums, logarithms, arithmetic)
    found = predict(construction, model, before.roles, places, counted, written, arithmetic)
    figures = {
        "gain": model.gain,
        "weight_relative": before.relative,
        "weight_absolute": before.absolute,
        "recall": counted.recalled,
        "count_relative": counted.relative,
        "count_absolute": counted.absolute,
        "sum_relative": sums.relative,
        "logarithm": logarithms.error,
        "logit": written.error,
        "low": written.low,
        "answer": found.answer,
        "elsewhere": found.elsewhere,
    }
    return found, figures
