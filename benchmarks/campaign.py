"""The mutation campaign: does the prover notice what altered weights compute? `make mutants` runs it.

Mutants (`verify.mutations`) of small artifacts, whose every prompt is run, and some of a larger one, which is
searched. The prover's verdict at eps is compared with the true worst error, or the worst found:

  killed       refused, and wrong by more than eps
  SURVIVED     accepted, and wrong by more than eps: there must be none
  equivalent   accepted, and right within eps
  too strict   refused, though right within eps: wanted at most a tenth of what is right
  undecided    float64 cannot tell whether it is right: the weights are too large

Mutants that no artifact may hold (not a finite number, or denormal) are counted apart, and others drawn instead.
A bound is UNSOUND when the worst error exceeds it by more than float64 itself may be off: there must be none either.
That is asked of every finite bound in real arithmetic, whatever eps, and, where a mutant is accepted, of the bounds
of float32, bfloat16 and float16 too, by a search.

The chunks that are done are kept in OUT.part until all are, so an interrupted campaign goes on where it was, unless
the sources changed.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import click

from benchmarks.measure import ROOT, Case
from benchmarks.report import Record, Table
from benchmarks.run import environment, write_whole
from benchmarks.task_sets import SMALL, task_set_of
from construct.errors import ArtifactError
from construct.theorems import Construction, two_layer
from verify.adversary import Searcher
from verify.certificate import Proof
from verify.certify import Verdict, judge
from verify.exhaustive import Worst
from verify.mutations import KINDS, Classifier, Mutant, mutants

SOURCES = tuple(name for name in sys.modules if name.startswith(("construct.", "verify.")))
"""The modules imported so far: the prover, and what it is compared with."""

OUTCOMES = ("killed", "survived", "equivalent", "too strict", "undecided")
EPS = 1e-6
CHUNK = 50
"""Mutants judged by a process at a time."""

TERMS = 64
"""No sum in the small artifacts has more terms: float64 is off by at most TERMS * Worst.rounding."""

SAMPLES = {"first": 20, "then": 120, "rounded": 12}
"""Random prompts of a search, which runs four times as many more: the larger artifact is searched briefly first, longer
if that finds nothing; the third is for the bound in each narrower format."""

LISTED = 20
"""Mutants refused though right that the record lists, in turn from each artifact."""

SEARCHED = Case(8, 32, 8, 16, suite="retrieval")
"""The larger artifact, whose prompts are too many to run."""

ORIGINALS: Mapping[str, Case] = {f"{case.suite} {case}": case for case in (*SMALL, SEARCHED)}


@dataclass(frozen=True)
class Chunk:
    """Some mutants of one original, drawn with a seed of their own."""

    original: str
    number: int
    mutants: int
    seed: int


@dataclass
class Tally:
    """What was found: `counts` by kind and outcome, the rest in words."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    unusable: Counter[str] = field(default_factory=Counter)
    finite_bounds: int = 0
    rounded_bounds: int = 0
    wrong: list[Record] = field(default_factory=list)
    strict: list[Record] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        """Take up what another found."""
        self.counts += other.counts
        self.unusable += other.unusable
        self.finite_bounds += other.finite_bounds
        self.rounded_bounds += other.rounded_bounds
        self.wrong += other.wrong
        self.strict += other.strict
        self.reasons += other.reasons

    def total(self, outcome: str, kind: str | None = None) -> int:
        """How many mutants, of a kind or of all, ended so."""
        return sum(n for (of, ended), n in self.counts.items() if ended == outcome and kind in (None, of))

    def to_json(self) -> Record:
        """For the file of chunks that are done."""
        counts = [[kind, outcome, number] for (kind, outcome), number in self.counts.items()]
        return vars(self) | {"counts": counts}

    @classmethod
    def from_json(cls, data: Record) -> "Tally":
        """The inverse of `to_json`."""
        counts = Counter({(kind, outcome): number for kind, outcome, number in data["counts"]})
        rest = {"counts": counts, "unusable": Counter(data["unusable"]), "reasons": Counter(data["reasons"])}
        return cls(**(data | rest))


class Judge:
    """The prover's verdict and the truth, for mutants of one original."""

    def __init__(self, name: str) -> None:
        case = ORIGINALS[name]
        self.name = name
        self.construction: Construction = two_layer(task_set_of(case), examples=case.examples)
        steps = ("first", "then") if case == SEARCHED else ("then",)
        self._classifiers = [Classifier(self.construction, samples=SAMPLES[step]) for step in steps]
        self._searcher = Searcher(self.construction.task_set, self.construction.layout)

    def tally(self, chunk: Chunk) -> Tally:
        """Judge a chunk's mutants, those apart that no artifact may hold."""
        tally, judged = Tally(), 0
        for mutant in mutants(self.construction, chunk.seed):
            if not mutant.finite:
                tally.unusable["not a finite number"] += 1
                continue
            try:
                verdict = judge(mutant.construction, "", EPS)
            except ArtifactError:
                tally.unusable["denormal"] += 1
                continue
            except Exception as error:  # noqa: BLE001  the prover has to refuse, whatever the weights are
                said = {"artifact": self.name, "mutant": str(mutant)}
                tally.wrong.append({"what": f"raised {type(error).__name__}: {error}", **said})
                verdict = Verdict(False, EPS, Proof(None), "", mutant.construction, 0.0)  # noqa: FBT003
            self._compare(mutant, verdict, tally)
            judged += 1
            if judged == chunk.mutants:
                break
        return tally

    def _compare(self, mutant: Mutant, verdict: Verdict, tally: Tally) -> None:
        worst = self._worst(mutant)
        slack = TERMS * worst.rounding
        bound = verdict.proof.real
        outcome = _outcome(worst, slack, accepted=verdict.certified)
        tally.counts[mutant.kind, outcome] += 1
        said = {
            "artifact": self.name,
            "mutant": str(mutant),
            "bound": bound,
            "worst": worst.error,
            "rounding": worst.rounding,
        }
        if bound is not None:
            tally.finite_bounds += 1
            if worst.error > bound + slack:
                tally.wrong.append({"what": "unsound: real", **said, "prompt": str(worst.prompt)})
        if outcome == "survived":
            tally.wrong.append({"what": "survived", **said, "prompt": str(worst.prompt)})
        if outcome == "too strict":
            reason = _reason(verdict)
            tally.strict.append({**said, "why": reason})
            tally.reasons[f"{mutant.kind}: {_short(verdict)}"] += 1
        if verdict.certified:
            for dtype, most in verdict.proof.rounded.items():
                if most is None:
                    continue
                tally.rounded_bounds += 1
                found = self._searcher.search(mutant.construction.weights, samples=SAMPLES["rounded"], dtype=dtype)
                if found.error > most:
                    tally.wrong.append(
                        {
                            "what": f"unsound: {dtype}",
                            **said,
                            "bound": most,
                            "worst": found.error,
                            "prompt": str(found.prompt),
                        }
                    )

    def _worst(self, mutant: Mutant) -> Worst:
        for classifier in self._classifiers[:-1]:
            judgement = classifier.judge(mutant.construction, EPS)
            if judgement.harmful:
                return judgement.worst
        return self._classifiers[-1].judge(mutant.construction, EPS).worst


def _outcome(worst: Worst, slack: float, *, accepted: bool) -> str:
    if worst.error - slack > EPS or worst.error == float("inf"):
        return "survived" if accepted else "killed"
    if not worst.error + slack <= EPS:
        return "undecided"
    return "equivalent" if accepted else "too strict"


def _reason(verdict: Verdict) -> str:
    if not verdict.proof.violations:
        return f"the bound is {verdict.proof.real}"
    first = verdict.proof.violations[0]
    return f"{first.lemma}: {first.where}: expected {first.expected}, got {first.got}"


def _short(verdict: Verdict) -> str:
    if verdict.proof.violations:
        return verdict.proof.violations[0].lemma
    return "no finite bound" if verdict.proof.real is None else "the bound is larger than eps"


@cache
def _judge_of(name: str) -> Judge:
    return Judge(name)


def _work(chunk: Chunk) -> Tally:
    import numpy as np
    import torch

    torch.set_num_threads(1)
    # Altered weights overflow; what is not a finite bound is refused.
    with np.errstate(all="ignore"):
        return _judge_of(chunk.original).tally(chunk)


def _chunks(mutants_wanted: int, searched: int, seed: int) -> list[Chunk]:
    """The small originals in equal shares, and `searched` of the larger one, which goes first as it is slow."""
    wanted = {name: searched for name, case in ORIGINALS.items() if case == SEARCHED}
    wanted |= {name: -(-mutants_wanted // len(SMALL)) for name in ORIGINALS if name not in wanted}
    made = []
    for place, (name, count) in enumerate(wanted.items()):
        size = 10 if ORIGINALS[name] == SEARCHED else CHUNK
        for number, start in enumerate(range(0, count, size)):
            made.append(Chunk(name, number, min(size, count - start), seed * 1_000_000 + place * 10_000 + number))
    return made


def sources_digest() -> str:
    """sha256 of the sources that a verdict depends on, all imported here: a record says what it was made with."""
    names = sorted(name for name in SOURCES if (ROOT / f"{name.replace('.', '/')}.py").exists())
    found = hashlib.sha256()
    for name in names:
        found.update(f"{name}\0".encode() + (ROOT / f"{name.replace('.', '/')}.py").read_bytes())
    return found.hexdigest()


class _Done:
    """The chunks that are done, in a file beside the record."""

    def __init__(self, path: Path, digest: str) -> None:
        self.path, self._digest = path, digest

    def read(self) -> dict[Chunk, Tally]:
        """Those done with the same sources."""
        if not self.path.exists():
            return {}
        lines = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return {
            Chunk(**line["chunk"]): Tally.from_json(line["tally"]) for line in lines if line["sources"] == self._digest
        }

    def add(self, chunk: Chunk, tally: Tally) -> None:
        line = {"sources": self._digest, "chunk": asdict(chunk), "tally": tally.to_json()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _run(chunks: list[Chunk], done: _Done, processes: int) -> Iterator[tuple[Chunk, Tally]]:
    found = done.read()
    for chunk in chunks:
        if chunk in found:
            yield chunk, found[chunk]
    left = [chunk for chunk in chunks if chunk not in found]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        running = {pool.submit(_work, chunk): chunk for chunk in left}
        try:
            for future in as_completed(running):
                tally = future.result()
                done.add(running[future], tally)
                yield running[future], tally
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@click.command()
@click.option("--mutants", "wanted", default=10_000, show_default=True, help="Of the small artifacts together.")
@click.option("--searched", default=400, show_default=True, help="Of the larger one.")
@click.option("--seed", default=0, show_default=True)
@click.option("--processes", default=2, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Where the record goes.  [default: nowhere]"
)
def main(wanted: int, searched: int, seed: int, processes: int, out: Path | None) -> None:
    """Judge mutants: tables on standard output, progress on standard error. Exit status 1 if one survives."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes that were started end too
    begun, digest, started = time.perf_counter(), sources_digest(), environment()
    chunks = _chunks(wanted, searched, seed)
    done = _Done((out or ROOT / "benchmarks" / "mutants.json").with_suffix(".part"), digest)
    tallies: dict[Chunk, Tally] = {}
    for chunk, tally in _run(chunks, done, processes):
        tallies[chunk] = tally
        for record in tally.wrong:
            print(f"\n{json.dumps(record)}", file=sys.stderr)
        judged, wrong = sum(each.mutants for each in tallies), sum(len(each.wrong) for each in tallies.values())
        taken = time.perf_counter() - begun
        print(f"\r  {judged:,} judged, {wrong} wrongly, {taken:.0f} s ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    by_original = {name: Tally() for name in ORIGINALS}
    for chunk in chunks:
        by_original[chunk.original].add(tallies[chunk])
    whole = Tally()
    for tally in by_original.values():
        whole.add(tally)
    click.echo("\n\n".join(table.markdown() for table in _tables(by_original, whole)))
    seconds = time.perf_counter() - begun
    click.echo(f"\n{seconds:.0f} s with {processes} processes; load average {os.getloadavg()[0]:.1f} at the end.")
    if digest != sources_digest():
        print("the sources changed while this ran: no record is written, run it again", file=sys.stderr)
        sys.exit(2)
    if out is not None:
        record = {"environment": started, "seconds": seconds, "sources_sha256": digest, "eps": EPS, "seed": seed}
        write_whole(out, json.dumps(record | _record(by_original, whole), indent=1) + "\n")
    done.path.unlink(missing_ok=True)
    sys.exit(1 if whole.wrong else 0)


def _row(name: str, tally: Tally, kind: str | None = None) -> list[str]:
    numbers = {outcome: tally.total(outcome, kind) for outcome in OUTCOMES}
    right = numbers["equivalent"] + numbers["too strict"]
    share = f"{100 * numbers['too strict'] / right:.1f}%" if right else "-"
    return [name, f"{sum(numbers.values()):,}", *(f"{number:,}" for number in numbers.values()), share]


def _tables(by_original: Mapping[str, Tally], whole: Tally) -> list[Table]:
    unsound = sum(record["what"].startswith("unsound") for record in whole.wrong)
    raised = sum(record["what"].startswith("raised") for record in whole.wrong)
    apart = ", ".join(f"{number} {what}" for what, number in whole.unusable.items()) or "none"
    note = (
        f"The verdict at eps = {EPS:g} against the truth. Of {whole.finite_bounds:,} finite bounds in real arithmetic "
        f"and {whole.rounded_bounds:,} as executed, {unsound} were exceeded. On {raised} mutants the prover raised an "
        f"error instead of refusing. Drawn besides, and no artifact: {apart}."
    )
    columns = ["", "mutants", *OUTCOMES, "too strict, of the right"]
    every = _row("together", whole)
    return [
        Table(columns, [*(_row(name, tally) for name, tally in by_original.items()), every], note),
        Table(["kind", *columns[1:]], [*(_row(kind, whole, kind) for kind in KINDS), every]),
    ]


def _record(by_original: Mapping[str, Tally], whole: Tally) -> dict[str, Any]:
    def counts(tally: Tally, kind: str | None = None) -> dict[str, int]:
        return {outcome: tally.total(outcome, kind) for outcome in OUTCOMES}

    return {
        "together": counts(whole),
        "unusable": whole.unusable,
        "bounds_checked": {"real": whole.finite_bounds, "rounded": whole.rounded_bounds},
        "artifacts": {name: counts(tally) | {"unusable": tally.unusable} for name, tally in by_original.items()},
        "kinds": {kind: counts(whole, kind) for kind in KINDS},
        "wrong": whole.wrong,
        "too_strict_reasons": dict(whole.reasons.most_common()),
        "too_strict_first": _in_turn([tally.strict for tally in by_original.values()])[:LISTED],
    }


def _in_turn(lists: Sequence[Sequence[Record]]) -> list[Record]:
    """The first of each, then the second of each, ..."""
    longest = max(map(len, lists), default=0)
    return [found[at] for at in range(longest) for found in lists if at < len(found)]


if __name__ == "__main__":
    main()
