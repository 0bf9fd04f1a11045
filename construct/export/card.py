"""The model card of an export: Markdown with the front matter that Hugging Face reads.

Every figure comes from the proof, the weights' sizes or the exact oracle. The Python in the card is run by the tests,
in the folder, and prints what stands below it.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from importlib import metadata

import numpy as np

from construct.export.gpt2 import StockModel
from construct.export.provenance import Certified, Claim, Source, at_most, claims
from construct.export.tokenizer import SpecialTokens
from construct.oracle import Answer, answer
from construct.prompts import Prompt, format_prompt
from construct.sampling import PromptSampler
from construct.tasks import SumTask, Task, TaskSet

MOST_EXAMPLES = 8
"""Examples in the card's example."""

ATTEMPTS = 50
"""How many prompts are drawn in the search of one to which several answers are possible."""

VISIBLE = 0.001
"""Probabilities below are not printed by the code of the card."""

SHOWN = 24
"""Tasks that the card lists before the rest is only counted."""

TEMPLATE = """\
---
library_name: transformers
pipeline_tag: text-generation
license: mit
tags:
- in-context-learning
- task-superposition
- interpretability
- gpt2
---

# {name}: {tasks} tasks in superposition, in hand-built weights

An unmodified GPT-2 whose weights were not trained but written down: the {theorem} construction of the library
task-superposition. Given up to {examples} examples of its tasks, mixed as you like, its next-token probabilities after
the arrow are the mixture of the tasks' answers, each task weighted by the examples that follow it. It makes Theorem 1
of Xiong et al. (below) concrete; the weights are not those authors'.

| blocks | heads of each | width | width of the MLPs | positions | vocabulary | parameters |
| --- | --- | --- | --- | --- | --- | --- |
| {layers} | {heads} | {width:,} | {inner:,} | {positions:,} | {vocabulary:,} | {parameters:,} |

{certified}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)

prompt = {prompt}
probabilities = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1].softmax(-1)
for token, probability in enumerate(probabilities.tolist()):
    if probability > 0.001:
        print(f"{{tokenizer.decode(token)}} {{probability:.4f}}")
```

prints the mixture:

```text
{printed}
```

since {explained} (an example may follow several, or none).

`model.generate(**tokenizer(prompt, return_tensors="pt"))` draws one answer in these proportions: generation_config.json
asks for sampling at temperature 1 from the whole distribution.

## What is predicted where

{standing}

{claims}

## Prompts

One example a line, the query last, written `{sketch}`. The alphabet has {alphabet:,} tokens. What is not in it becomes
`{unknown}`, which `tokenizer.unk_token_id in ids` finds; decoding with `skip_special_tokens=True` leaves it out, as it
does all special tokens. A prompt begins with `{bos}`, which the tokenizer adds.

Pad on the left, as the tokenizer does, with its attention mask. `generate` and `pipeline` count positions from the
mask, so that prompts of different lengths go together. A bare forward pass of a padded batch does not: give it
`position_ids`, such as `(attention_mask.cumsum(-1) - 1).clamp(min=0)`. Without them the arrows of a shifted prompt are
out of place and predict `{unknown}`, so that the mistake does not pass for an answer, unless it shifts by a whole
number of examples. A prompt has at most {examples} examples, {positions} tokens: of more, `truncation=True` leaves the
last that fit.

## Tasks

{rows}

## How it works

Blocks 1 to {own} are the construction's, the others turn its answer into logits. A norm-free network fits into GPT-2
like this: {normalization};
balance coordinates keep every mean at 0. The derivations stand beside the weights, in
`construct/export/` of the library. `export.json` says what every head and unit of the construction reads and writes,
and what the files' hashes are: a ground truth for tools that look into models.

It knows its tables and nothing else: it is a model of no language.

## Citation

The paper whose theorem it builds:

```bibtex
@inproceedings{{xiong2025everything,
  title     = {{Everything Everywhere All at Once: {{LLM}}s can In-Context Learn Multiple Tasks in Superposition}},
  author    = {{Xiong, Zheyang and Cai, Ziyang and Cooper, John and Ge, Albert and Papageorgiou, Vasilis and
               Sifakis, Zack and Giannou, Angeliki and Lin, Ziqian and Yang, Liu and Agarwal, Saurabh and
               Chrysos, Grigorios and Oymak, Samet and Lee, Kangwook and Papailiopoulos, Dimitris}},
  booktitle = {{Proceedings of the 42nd International Conference on Machine Learning}},
  series    = {{Proceedings of Machine Learning Research}},
  volume    = {{267}},
  pages     = {{68970--68997}},
  year      = {{2025}},
  url       = {{https://proceedings.mlr.press/v267/xiong25a.html}}
}}
```

The software: task-superposition {version}; see its CITATION.cff.
"""

NORMALIZATION = {
    "scale-down": "the residual stream is stored times 2^-50, so that its variance is nothing beside the ordinary "
    "epsilon of 1e-5 in each norm, whose weight takes both out again",
    "large-eps": "the epsilon of the norms is 2^60 and their weight 2^30, so that they divide by a constant and "
    "multiply by it",
}

NOT_CERTIFIED = (
    "**This model is NOT certified.** It was exported without a proof: no bound is claimed of anything it predicts."
)


STANDING = "In real arithmetic; what rounding adds is far below the digits above."
NO_STANDING = "What the weights were written to predict; **nothing of it is proved** of this model."


def model_card(model: StockModel, source: Source, special: SpecialTokens) -> str:
    """The content of README.md. `special` are the tokenizer's special tokens."""
    construction, shape = source.construction, model.shape
    task_set, layout = construction.task_set, construction.layout
    prompt = example_prompt(task_set, layout.examples)
    exact = answer(task_set, prompt)
    return TEMPLATE.format(
        **vars(shape),
        name=task_set.name,
        tasks=len(task_set.tasks),
        parameters=shape.parameters,
        theorem=construction.theorem,
        examples=layout.examples,
        certified=certified_section(source.certified),
        standing=NO_STANDING if source.certified is None else STANDING,
        prompt=_python_text(format_prompt(prompt, task_set)),
        printed=_printed(task_set, exact),
        explained=_explained(task_set, prompt, exact),
        claims="\n".join(_claim(claim, special) for claim in claims()),
        sketch=_sketch(task_set),
        alphabet=layout.alphabet_size,
        unknown=special.unknown,
        bos=special.bos,
        rows="\n".join(_tasks(task_set)),
        own=len(construction.weights.layers),
        normalization=NORMALIZATION[model.normalization],
        version=metadata.version("task-superposition"),
    )


def certified_section(certified: Certified | None) -> str:
    """What is proved, or in bold that nothing is."""
    if certified is None:
        return NOT_CERTIFIED
    own = (
        "The construction that it is made of is certified: for **every** prompt its unnormalised mixture q is off by "
        "at most\n\n"
    )
    parts = [own + _bounds("sum of the absolute errors", certified.construction)]
    if certified.export:
        these = (
            "These very weights are certified too: for every prompt, after its arrows, softmax(logits) is off the "
            "mixture by at most\n\n"
        )
        parts.append(these + _bounds("total variation", certified.export))
    return "\n\n".join(parts)


def example_prompt(task_set: TaskSet, most: int) -> Prompt:
    """A random prompt, always the same, to which several answers are possible where one is found."""
    generator, sampler = np.random.default_rng(0), PromptSampler(task_set)
    drawn = [sampler.prompt(min(most, MOST_EXAMPLES), generator) for _ in range(ATTEMPTS)]
    return max(drawn, key=lambda prompt: len(answer(task_set, prompt).target))


def _bounds(what: str, bounds: Mapping[str, float | None]) -> str:
    rows = [f"| {name} | {'no claim' if bound is None else at_most(bound)} |" for name, bound in bounds.items()]
    return "\n".join([f"| arithmetic | {what} |", "| --- | --- |", *rows])


def _python_text(text: str) -> str:
    """A text of several lines as Python has it, a line each."""
    lines = "".join(f"    {line!r}\n" for line in text.splitlines(keepends=True))
    return f"(\n{lines})"


def _printed(task_set: TaskSet, exact: Answer) -> str:
    """What the code of the card prints."""
    everything = dict.fromkeys(range(len(task_set.alphabet)), Fraction(1, len(task_set.alphabet)))
    shares = {token: float(share) for token, share in sorted((exact.distribution or everything).items())}
    return "\n".join(f"{task_set.alphabet[token]} {share:.4f}" for token, share in shares.items() if share > VISIBLE)


def _explained(task_set: TaskSet, prompt: Prompt, exact: Answer) -> str:
    shown = len(prompt.examples)
    counts = {task.name: share * shown for task, share in zip(task_set.tasks, exact.evidence, strict=True) if share}
    listed = ", ".join(f"{name} {count}" for name, count in list(counts.items())[:SHOWN])
    return f"of the {shown} examples so many follow each task: {listed or 'none'}"


def _claim(claim: Claim, special: SpecialTokens) -> str:
    says = claim.says.replace("<unk>", special.unknown)
    return f"- **{claim.where[0].upper()}{claim.where[1:]}**: {says}."


def _sketch(task_set: TaskSet) -> str:
    form, count = task_set.format, task_set.inputs
    left = form.separator.join(f"x{place + 1}" for place in range(min(count, 3)))
    return left + (f"{form.separator}..x{count}" if count > 3 else "") + f"{form.arrow}y"


def _tasks(task_set: TaskSet) -> list[str]:
    rows = [_row(task, task_set.alphabet) for task in task_set.tasks[:SHOWN]]
    rest = len(task_set.tasks) - SHOWN
    more = ["", f"and {rest} more, which export.json lists."] if rest > 0 else []
    return ["| task | answers by a table of | rows | the first |", "| --- | --- | --- | --- |", *rows, *more]


def _row(task: Task, alphabet: Sequence[str]) -> str:
    if isinstance(task, SumTask):
        total, found = next(iter(task.rows.items()))
        kind, positions, given = "the sum of the inputs", task.positions, str(total)
    else:
        key, found = next(iter(task.rows.items()))
        kind, positions, given = "input", task.reads, ", ".join(alphabet[token] for token in key)
    places = ", ".join(str(position + 1) for position in positions)
    cells = (task.name, f"{kind} {places}", f"{len(task.rows):,}", f"{given} → {alphabet[found]}")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
