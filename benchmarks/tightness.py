"""`python -m benchmarks.tightness`: bound against truth over random small task sets with sums.

Low sharpness, so that every error is far above float64's rounding; all prompts are run.
"""

import click
import numpy as np

from benchmarks.report import Table
from construct.tasks import Format, SumTask, TableTask, Task, TaskSet
from construct.theorems import two_layer
from verify.exhaustive import exhaust
from verify.theorem import prove

SHARPNESS = 4.0
NOTHING = 1e-12
"""Below this an error is float64's own: the sets in which no leak changes anything are counted apart."""


@click.command()
@click.option("--sets", default=50, show_default=True, help="How many task sets are drawn.")
@click.option("--seed", default=0, show_default=True)
def main(sets: int, seed: int) -> None:
    """Print how many times the truth the bound is, over task sets with at least one sum."""
    generator = np.random.default_rng(seed)
    ratios, idle = [], 0
    for _ in range(sets):
        construction = two_layer(_draw(generator), examples=int(generator.integers(1, 3)), sharpness=SHARPNESS)
        bound, truth = prove(construction).real, exhaust(construction).error
        if bound is None:
            raise click.ClickException(f"no proof of {construction.task_set}")
        if truth < NOTHING:
            idle += 1
        else:
            ratios.append(bound / truth)
    above = sorted(ratio for ratio in ratios if ratio > 3)
    rows = [[f"{len(ratios)}", f"{np.median(ratios):.2f}", ", ".join(f"{ratio:.3g}" for ratio in above), f"{idle}"]]
    columns = ["sets", "median ratio", "those above 3", "sets without any error (left out)"]
    click.echo(Table(columns, rows, f"Bound over truth, sharpness {SHARPNESS:g}, seed {seed}.").markdown())


def _draw(generator: np.random.Generator) -> TaskSet:
    """One to three tasks over two or three tokens and one or two inputs, the first of them a sum."""
    size, inputs = int(generator.integers(2, 4)), int(generator.integers(1, 3))
    tasks: list[Task] = []
    for index in range(int(generator.integers(1, 4))):
        if index and generator.random() < 1 / 3:
            rows: dict[tuple[int, ...], int]
            rows = {(token,): int(generator.integers(size)) for token in range(size) if generator.random() < 0.8}
            tasks.append(TableTask(f"t{index}", (int(generator.integers(inputs)),), rows or {(0,): 0}))
            continue
        count = int(generator.integers(1, inputs + 1))
        places = tuple(int(place) for place in generator.permutation(inputs)[:count])
        values = {token: int(generator.integers(-2, 4)) for token in range(size) if generator.random() < 0.85} or {0: 1}
        sums = {0}
        for _ in places:
            sums = {total + value for total in sums for value in values.values()}
        answers = {total: int(generator.integers(size)) for total in sorted(sums) if generator.random() < 0.8}
        tasks.append(SumTask(f"t{index}", places, values, answers or {min(sums): 0}))
    return TaskSet("random", tuple("abc"[:size]), inputs, Format(), tuple(tasks))


if __name__ == "__main__":
    main()
