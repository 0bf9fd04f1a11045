"""What theory figures are drawn from: a construction and a prompt, loaded or built once, when first asked for."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np

from construct.artifact import load
from construct.errors import InputError
from construct.prompts import Prompt, parse_prompt
from construct.sampling import PromptSampler
from construct.suites import build_suite
from construct.theorems import Construction, two_layer
from verify.certify import Verdict, judge

SUITE, EXAMPLES = "country", 20
"""What is built where no artifact is given."""

PROMPT = """\
France->Paris
Japan->Asia
Egypt->Cairo
Brazil->BRAZIL
Kenya->Nairobi
Canada->North America
Norway->Oslo
India->INDIA
Poland->Europe
Thailand->Bangkok
Ghana->Accra
Peru->
"""
"""Its prompt: six capitals, three continents, two names in capitals."""

DRAWN = 11
"""Examples of a prompt that is drawn for an artifact of other tasks."""


ROOT = Path(__file__).resolve().parents[1]
RECORD_FOLDERS = ("records", "benchmarks")
"""Where a checkout keeps its records."""


def _silent(_name: str, _share: float) -> None:
    """Where nobody is told of progress."""


class Inputs:
    """The construction, its proof, the prompt and the records that the figures of one run share.

    Args:
        artifact: a folder that `construct build` wrote; None: the suite `country` is built.
        prompt: a file with a prompt; None: the text above, or for other tasks one drawn from their mixture.
        records: the folder of the records; None: `records` and `benchmarks` of this checkout.
        report: told the figure in progress and the share of it that is done.
    """

    def __init__(
        self,
        artifact: Path | None = None,
        prompt: Path | None = None,
        records: Path | None = None,
        report: Callable[[str, float], None] = _silent,
    ) -> None:
        self._artifact, self._prompt = artifact, prompt
        self.report = report
        self.folders = (records,) if records is not None else tuple(ROOT / name for name in RECORD_FOLDERS)

    def file(self, name: str, made_by: str) -> Path:
        """The file of records of a name, in the first folder that has it.

        Args:
            name: the file's path inside a folder of records.
            made_by: the command that makes it.

        Raises:
            InputError: no folder has it; the message names the command.
        """
        return self.files(name, made_by)[0]

    def files(self, pattern: str, made_by: str) -> list[Path]:
        """The files of records that match a pattern such as `study/*.json`, sorted within each folder.

        Raises:
            InputError: there is none; the message names the command that makes them.
        """
        found = [path for folder in self.folders for path in sorted(folder.glob(pattern)) if path.is_file()]
        if not found:
            places = " or ".join(str(folder) for folder in self.folders)
            raise InputError(f"there are no records {pattern} in {places}: `{made_by}` makes them")
        return found

    @cached_property
    def construction(self) -> Construction:
        """The construction. Raises InputError where the artifact cannot be used."""
        if self._artifact is not None:
            return load(self._artifact)
        return two_layer(build_suite(SUITE), examples=EXAMPLES)

    @cached_property
    def shows_country(self) -> bool:
        """Whether the prompt is the text above: none was given, and the tasks are those of the suite."""
        return self._prompt is None and self.construction.task_set == build_suite(SUITE)

    @cached_property
    def verdict(self) -> Verdict:
        """The proof of the construction for all prompts, worked out anew."""
        return judge(self.construction, "")

    @cached_property
    def prompt(self) -> Prompt:
        """The prompt. Raises InputError where it cannot be read, or does not fit the tasks."""
        task_set, layout = self.construction.task_set, self.construction.layout
        if self._prompt is not None:
            try:
                text = self._prompt.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise InputError(f"cannot read the prompt {self._prompt}: {error}") from error
            parsed = parse_prompt(text, task_set)
        elif self.shows_country:
            parsed = parse_prompt(PROMPT, task_set)
        else:
            generator = np.random.default_rng(0)
            parsed = PromptSampler(task_set).prompt(min(DRAWN, layout.examples), generator)
        layout.ids(parsed)
        return parsed
