"""`construct evaluate`."""

import sys
from pathlib import Path

import click

from construct.errors import InputError
from empirical import runtime
from empirical.commands.questions import MIXTURE_HELP, cells, runtime_options, task_options, task_set
from empirical.evaluation import Plan, Progress, evaluate
from empirical.language_model import QUANTIZATION, Options, open_model
from empirical.records import load_results
from empirical.report import headline
from empirical.settings import PROMPTS, Rules
from empirical.tokenizing import BOS_POLICIES
from empirical.training.checkpoint import checkpoint_folder, evaluation_folder, trained_examples

TERMINATORS = {"newline": "\n", "none": ""}


@click.command()
@click.argument("model")
@task_options
@click.option("--mixture", help=MIXTURE_HELP)
@click.option("--examples", type=int, help="m, the examples in a prompt.  [default: 20 a task, or as trained]")
@click.option("--prompts", type=int, default=PROMPTS, show_default=True, help="Prompts for each condition.")
@click.option("--curve", type=int, metavar="POINTS", help="Two tasks: so many mixtures lambda from 0 to 1.")
@click.option("--shots", help="Several numbers of examples, such as 1,5,20.")
@click.option(
    "--ambiguous",
    type=click.Choice(["exclude", "count"]),
    default="exclude",
    show_default=True,
    help="Queries to which two tasks give one answer.",
)
@click.option(
    "--counts",
    type=click.Choice(["exact", "sampled"]),
    default="exact",
    show_default=True,
    help="Give each task its share of the examples, or draw each example's task.",
)
@click.option("--repeat", is_flag=True, help="Let an example be shown twice.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draw.")
@click.option("--terminator", type=click.Choice(list(TERMINATORS)), default="newline", show_default=True)
@click.option("--bos", type=click.Choice(BOS_POLICIES), default="auto", show_default=True)
@click.option("--completions/--no-completions", default=True, show_default=True, help="Measure r (takes longer).")
@click.option("--batch", type=int, default=8, show_default=True, help="Prompts that are run together.")
@runtime_options
@click.option("--revision", help="Of a hub model: a branch, a tag or a commit.")
@click.option("--quantization", type=click.Choice(list(QUANTIZATION)), help="By bitsandbytes.")
@click.option("--device-map", type=click.Choice(["auto"]), help="Spread a model over the devices that there are.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The folder for results.jsonl.  [default for a run of construct train: evaluation, in its folder]",
)
def command(
    model: str,
    suite: str | None,
    task_file: Path | None,
    tasks: str | None,
    mixture: str | None,
    examples: int | None,
    prompts: int,
    curve: int | None,
    shots: str | None,
    ambiguous: str,
    counts: str,
    repeat: bool,
    seed: int,
    terminator: str,
    bos: str,
    completions: bool,
    batch: int,
    device: str,
    dtype: str,
    revision: str | None,
    quantization: str | None,
    device_map: str | None,
    out: Path | None,
) -> None:
    """Measure task superposition in MODEL, constructed, trained or pretrained.

    MODEL is the folder of a construction, of a run of `construct train` or of a Hugging Face model, a GGUF file, or a
    hub name. Each prompt's result goes to OUT; run the same again and it goes on where it stopped. `accelerate launch
    -m construct.cli evaluate ...` shares the prompts among processes. `construct report OUT` prints the tables.
    """
    if batch < 1:
        raise InputError(f"--batch is {batch}: expected at least 1")
    out = evaluation_folder(Path(model)) if out is None else out
    if out is None:
        raise InputError(f"{model} is no run of `construct train`: give a folder for the results with --out")
    found = task_set(model, suite, task_file, tasks)
    trained = checkpoint_folder(Path(model))
    if trained is not None and examples is None and shots is None:
        examples = trained_examples(trained)
    plan = Plan(
        found,
        cells(found, mixture=mixture, curve=curve, shots=shots, examples=examples),
        prompts,
        Rules(ambiguous, counts, repeat, seed),
        completions,
        batch,
    )
    plan.questions()  # what cannot be asked is refused before a model is loaded
    where = runtime.choose(device, dtype, local_rank=runtime.local_rank())
    options = Options(revision, TERMINATORS[terminator], bos, quantization, device_map)
    with runtime.ranks() as ranks:
        opened = open_model(model, where, options, warn=lambda text: click.echo(f"warning: {text}", err=True))
        shown = _tell if sys.stderr.isatty() and ranks.rank == 0 else None
        target = evaluate(opened, plan, out, ranks, tell=shown)
        if ranks.rank == 0:
            click.echo(headline([load_results(target)]).text())
            click.echo(f"results in {target}; `construct report {out}` prints all tables")


def _tell(progress: Progress) -> None:
    minutes, seconds = divmod(round(progress.seconds_left), 60)
    text = f"{progress.done} of {progress.total} prompts, {minutes} min {seconds:02d} s left"
    click.echo(f"\r{text:<60}" + ("\n" if progress.done == progress.total else ""), nl=False, err=True)
