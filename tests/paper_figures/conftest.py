"""What the tests of the figures share: one construction, and a record of each figure of the theory, made once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paper_figures import depth_figure, resources_figure, sharpness_figure
from paper_figures.inputs import Inputs
from paper_figures.records import Record
from paper_figures.registry import entry
from paper_figures.style import styled
from tests.construct.conftest import Command, construct

__all__ = ["Command", "construct"]

ROOT = Path(__file__).resolve().parents[2]
SHARPNESS = (3.0, 5.0, 8.0, 12.0)
GROWN = {"K": (3, 8), "V": (17, 32), "n": (2, 8), "m": (5, 16)}
TOLERANCES = {"0": range(1, 6), "1/4": range(4, 6)}


@pytest.fixture(scope="session")
def inputs() -> Inputs:
    """The construction of the suite `country` and its prompt."""
    return Inputs()


@pytest.fixture(scope="session")
def made(inputs: Inputs) -> Iterator[Any]:
    """The record of a figure by name, collected when first asked for; long sweeps are cut to a few sizes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharpness_figure, "SHARPNESS", SHARPNESS)
        patch.setattr(resources_figure, "GROWN", GROWN)
        patch.setattr(depth_figure, "TOLERANCES", TOLERANCES)
        records: dict[str, Record] = {}

        def record(name: str) -> Record:
            if name not in records:
                records[name] = entry(name).load().collect(inputs)
            return records[name]

        yield record


@pytest.fixture
def style() -> Iterator[None]:
    """The style of the figures, for a test that draws."""
    with styled():
        yield
