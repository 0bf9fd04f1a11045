"""Hypothesis strategies for constructions on vectors: tasks of every kind, sizes, comparisons, and prompts."""

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from construct.errors import InputError
from construct.vector_comparison import ATTENTION, FINGERPRINT
from construct.vector_pool import draw_pool, queries
from construct.vector_prompts import VectorPrompt
from construct.vector_suites import KINDS, random_vector_tasks
from construct.vector_tasks import AffineTask, VectorTaskSet
from construct.vector_theorem import VectorConstruction, vectors

SIZES = (1, 2, 3, 5, 7)


@dataclass(frozen=True)
class VectorCase:
    """A construction and a prompt in its domain."""

    construction: VectorConstruction
    prompt: VectorPrompt


def built_case(
    kind: str = "orthogonal",
    *,
    tasks: int = 3,
    dim: int = 5,
    inputs: int = 2,
    examples: int = 7,
    seed: int = 0,
    offsets: float = 0.0,
    bound: float = 1.0,
    margin: float = 0.125,
    comparison: str = FINGERPRINT,
    width: int | None = None,
    twin: bool = False,
) -> VectorConstruction:
    """A construction for random tasks; with `twin`, the first task is there twice, so that none is unique to it."""
    task_set = random_vector_tasks(
        kind, tasks=tasks, dim=dim, inputs=inputs, seed=seed, offsets=offsets, bound=bound, margin=margin
    )
    if twin:
        first = task_set.tasks[0]
        task_set = replace(
            task_set, tasks=(*task_set.tasks, AffineTask("twin", first.position, first.matrix, first.offset))
        )
    return vectors(task_set, examples=examples, comparison=comparison, width=width, error=1e-3)


@st.composite
def constructions(draw: DrawFn) -> VectorConstruction:
    """Any kind of tasks, compared by fingerprints of any width or by attention, with and without uniqueness."""
    kind = draw(st.sampled_from(list(KINDS)))
    dim = draw(st.sampled_from(SIZES))
    attention = kind != "general" and draw(st.booleans())
    try:
        return built_case(
            kind,
            tasks=draw(st.integers(1, 4)),
            dim=dim,
            inputs=draw(st.integers(1, 4)),
            examples=draw(st.sampled_from((1, 2, 3, 6, 11))),
            seed=draw(st.integers(0, 2**20)),
            offsets=0.0 if attention else draw(st.sampled_from((0.0, 0.4, 2.0))),
            bound=1.0 if attention else draw(st.sampled_from((1.0, 0.25, 8.0))),
            margin=draw(st.sampled_from((0.125, 0.05, 0.2))),
            comparison=ATTENTION if attention else FINGERPRINT,
            width=None if attention else draw(st.integers(1, dim)),
            twin=draw(st.booleans()),
        )
    except InputError:
        return reject()  # tasks that no example tells apart, or a bound on the error that these cannot have


def random_prompt(construction: VectorConstruction, count: int, seed: int) -> VectorPrompt:
    """A prompt of extreme examples; raises InputError where some task has no example in the domain."""
    generator = np.random.default_rng(seed)
    pool = draw_pool(construction.task_set, construction.comparison, generator, each=6)
    chosen = generator.integers(len(pool.meant), size=count)
    return pool.prompt(chosen, queries(construction.task_set, generator, 1)[0])


@st.composite
def vector_cases(draw: DrawFn) -> VectorCase:
    """A construction and a prompt of 0 to m examples."""
    construction = draw(constructions())
    count = draw(st.integers(0, construction.layout.examples))
    try:
        return VectorCase(construction, random_prompt(construction, count, draw(st.integers(0, 2**20))))
    except InputError:
        return reject()


def task_sets_equal(one: VectorTaskSet, other: VectorTaskSet) -> bool:
    """Whether two sets are the same, number by number."""
    return one == other and all(
        np.array_equal(a.matrix, b.matrix) and np.array_equal(a.offset, b.offset)
        for a, b in zip(one.tasks, other.tasks, strict=True)
    )
