"""The text format of a task set as a word-level tokenizer of the library `tokenizers`.

Text <-> ids as `construct.prompts.parse_prompt` and `format_prompt` have it: BOS, then of each line the inputs, EQ
(written as the arrow) and the answer. There is no token for a line's end nor for the separator. Reading drops them,
and the decoder puts them back: after "arrow, answer" stands a line's end, around an arrow nothing, elsewhere the
separator.

    France->Paris      <->  BOS France EQ Paris Peru EQ
    Peru->

All of it is patterns of Oniguruma, the engine of `tokenizers`, so tokenizer.json holds it whole: no code of ours is
needed to use it. What is not in the alphabet becomes `<unk>`. The tokenizer does not count: a line of too many or too
few inputs is for `parse_prompt` to refuse.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from construct.errors import InputError, TaskError
from construct.prompts import Layout
from construct.tasks import TaskSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LINE_BREAKS = "\n\x0b\x0c\r\x1c\x1d\x1e\x85\u2028\u2029"
"""The characters at which Python's str.splitlines cuts, as the parser of prompts does."""

WHITE_SPACE = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""The characters that Python's str.strip takes off and str.split cuts at; Oniguruma's own class has fewer."""

BRACKETS = ("<>", "⟨⟩", "«»", "⟦⟧", "{}")
"""What the special tokens are written in: the first pair whose opening no token and no format holds."""


@dataclass(frozen=True)
class SpecialTokens:
    """The tokens beyond the alphabet, as text; ids V, V + 1, V + 2, V + 3 in this order.

    Args:
        bos: the beginning of a prompt.
        eq: EQ; it is the arrow, without white space at its ends.
        unknown: stands for what is not in the alphabet.
        pad: fills a batch, on the left.
    """

    bos: str
    eq: str
    unknown: str
    pad: str


def special_tokens(task_set: TaskSet) -> SpecialTokens:
    """The special tokens of a task set: `<s>`, the arrow, `<unk>`, `<pad>`.

    Where a token, the separator or the arrow holds a `<`, other brackets are taken, so that no prompt can be read as
    a special token.

    Raises:
        TaskError: the alphabet holds all the brackets that there are.
    """
    used = _characters(task_set)
    pair = next((pair for pair in BRACKETS if pair[0] not in used), None)
    if pair is None:
        held = " ".join(pair[0] for pair in BRACKETS)
        raise TaskError(f"the tokens hold all of {held}, none is left for the special tokens: leave one out")
    bos, unknown, pad = (f"{pair[0]}{name}{pair[1]}" for name in ("s", "unk", "pad"))
    return SpecialTokens(bos, task_set.format.arrow.strip(), unknown, pad)


def check_packages() -> None:
    """Raise InputError when transformers or tokenizers is not installed."""
    for name in ("tokenizers", "transformers"):
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise InputError(
                f"a Hugging Face tokenizer needs the package {error.name}: pip install 'task-superposition[pretrained]'"
            ) from error


def word_level_tokenizer(task_set: TaskSet, *, positions: int | None = None) -> "PreTrainedTokenizerFast":
    """The tokenizer of a task set, as transformers has it.

    It adds BOS, pads on the left, and decodes to the text that was read: `decode(encode(text),
    skip_special_tokens=True) == text` for every prompt as `format_prompt` writes it, and for its beginnings that end
    with a token or an arrow. It says nothing of segments (token_type_ids), which a GPT-2 would add to its embedding.

    Args:
        task_set: alphabet and format.
        positions: the longest prompt in tokens, for a warning when one is longer; None: no warning.

    Raises:
        InputError: transformers is not installed.
        TaskError: the alphabet leaves no brackets for the special tokens.
    """
    check_packages()
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    special = special_tokens(task_set)
    layout = Layout(len(task_set.alphabet), task_set.inputs, 0)
    vocabulary = {**task_set.ids, special.bos: layout.bos, special.eq: layout.eq}
    vocabulary |= {special.unknown: layout.vocabulary_size, special.pad: layout.vocabulary_size + 1}
    made: Any = Tokenizer(models.WordLevel(vocabulary, unk_token=special.unknown))
    made.pre_tokenizer = _pre_tokenizer(task_set)
    made.decoder = _decoder(task_set, special)
    made.post_processor = processors.TemplateProcessing(
        single=f"{special.bos} $A", special_tokens=[(special.bos, layout.bos)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call, unused-ignore]
        tokenizer_object=made,
        bos_token=special.bos,
        unk_token=special.unknown,
        pad_token=special.pad,
        padding_side="left",
        truncation_side="left",  # as every example has n + 2 tokens, what is left are the last m
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **({} if positions is None else {"model_max_length": positions}),
    )


def _pre_tokenizer(task_set: TaskSet) -> Any:
    """Cuts a text into tokens and arrows: a sequence of cuts, each made within the pieces of the one before."""
    from tokenizers import Regex, pre_tokenizers

    arrow, separator = _literal(task_set.format.arrow.strip()), task_set.format.separator.strip()
    space = f"[{WHITE_SPACE}]"
    # The arrow takes the rest of the line with it, so that what looks like a separator or an arrow in there is left
    # alone: what follows the first arrow is one answer.
    rest = f"{arrow}.*"
    between = ""
    if task_set.inputs > 1 and not task_set.format.separator:
        # Tokens of one length L: the arrow is where n of them end, whatever it looks like before.
        length = len(task_set.alphabet[0])
        rest = rf"(?<=\A.{{{length * task_set.inputs}}}){space}*{arrow}.*|.{{{length}}}"
    elif task_set.inputs > 1 and not separator:
        between = f"{space}+"
    elif task_set.inputs > 1:
        # No separator begins where it would reach into the arrow: the arrow is found first.
        early = rf"(?!.{{1,{len(separator) - 1}}}{arrow})" if len(separator) > 1 else ""
        between = f"{early}{_literal(separator)}"
    cuts = [
        (f"[{LINE_BREAKS}]+", "removed"),
        (rf"\A{space}+|{space}+\z", "removed"),
        (f"{rest}|{between}" if between else rest, "isolated"),
        (rf"\A{between}\z", "removed") if between else None,
        (rf"\A{space}*{arrow}", "isolated"),
        (rf"\A{space}+|{space}+\z", "removed"),
    ]
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(cut[0]), cut[1]) for cut in cuts if cut is not None])


def _decoder(task_set: TaskSet, special: SpecialTokens) -> Any:
    """Puts the tokens together: a mark before each of them, then each mark becomes what stands there in a text."""
    from tokenizers import Regex, decoders

    form = task_set.format
    used = _characters(task_set) | set("".join(vars(special).values()))
    mark = next(letter for letter in map(chr, range(0xE000, 0x110000)) if letter not in used)
    arrow, bos, pad = map(_literal, (special.eq, special.bos, special.pad))
    return decoders.Sequence(
        [
            decoders.Replace(Regex(r"\A"), mark),
            decoders.Fuse(),
            decoders.Replace(Regex(rf"(?:\A|(?<={bos})|(?<={pad})){mark}"), ""),
            decoders.Replace(Regex(rf"{mark}{arrow}{mark}[^{mark}]+\K{mark}"), "\n"),
            decoders.Replace(Regex(rf"{mark}{arrow}\z"), form.arrow.rstrip()),
            decoders.Replace(f"{mark}{special.eq}{mark}", form.arrow),
            decoders.Replace(mark, form.separator),
        ]
    )


def _characters(task_set: TaskSet) -> set[str]:
    """Every character that a prompt can hold."""
    texts: Iterable[str] = (*task_set.alphabet, task_set.format.separator, task_set.format.arrow)
    return set().union(*texts)


def _literal(text: str) -> str:
    """A pattern of Oniguruma that matches the text and nothing else."""
    return re.sub(r"[\\.*+?()\[\]{}|^$]", r"\\\g<0>", text)
