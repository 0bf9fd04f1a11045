"""The logits of an export: what the last MLP writes, and the unembedding, at every kind of position."""

import math
from dataclasses import dataclass

import numpy as np

from construct.theorems import Construction
from verify.boxes import Roles
from verify.exact import INFLATION, Float
from verify.export_arithmetic import Arithmetic, Norm
from verify.export_counts import Counted
from verify.export_places import Places
from verify.export_readout import Block, Logarithms, Sums, Units, block_of, crooked
from verify.export_reads import HALF
from verify.export_state import Group, written_columns
from verify.export_weights import RefusedError, Stock

LAST = 5
"""The last layer, from 0."""


@dataclass(frozen=True)
class Written:
    """Of the logits before the last norm, at EQ.

    Args:
        low: L: every logit that no task answers is -L exactly.
        error: how far an answer's logit is off -n, whatever is common to all answers.
        common: by how much all answers may be off alike.
        most: the largest n.
    """

    low: float
    error: float
    common: float
    most: float


@dataclass(frozen=True)
class Predictions:
    """The bounds on the total variation between softmax(logits) and what is claimed.

    Args:
        answer: at every EQ.
        elsewhere: at every other position.
    """

    answer: float
    elsewhere: float


def write(
    stock: Stock, places: Places, counted: Counted, sums: Sums, logarithms: Logarithms, arithmetic: Arithmetic
) -> Written:
    """Layer 6: -n_k to the logit of the answer of each task that is not silent, and -L to all others."""
    block = block_of(stock, LAST, counted.ledgers, arithmetic)
    silent = min(sums.silent, logarithms.silent)
    norm = block.eq
    silent -= float(norm.error(silent))
    size = len(places.logit)
    logits = block.w_out[:, places.logit]
    bases = [unit for unit in range(len(block.bias)) if not block.w_in[:, unit].any()]
    low = -float(logits[bases[0], 0]) if len(bases) == 1 else 0.0
    if not low > 0 or block.bias[bases[0]] != 1 or not (logits[bases[0]] == -low).all():
        raise block.refuse("base", "one unit that writes the same number to every logit", "others")
    if np.delete(block.w_out, places.logit, axis=1)[:, : places.width - size].any():
        raise block.refuse("logits", "units that write logits", "others")
    units = np.setdiff1d(np.arange(len(block.bias)), bases)
    written = [np.flatnonzero(logits[unit]) for unit in units]
    if any(len(found) != 1 for found in written):
        raise block.refuse("logits", "units that write one logit each", "others")
    token = np.array([int(found[0]) for found in written], dtype=np.int_)
    out = logits[units, token]
    left = np.ones(len(units), dtype=np.bool_)
    error = common = 0.0
    for task, answers in enumerate(places.answers):
        own = places.answer[task].reshape(-1)
        mine = np.flatnonzero((block.w_in[own][:, units] != 0).any(axis=0) & left)
        left[mine] = False
        found = _task_logits(
            block, places, (task, answers, own), (units[mine], token[mine], out[mine]), (silent, low), logarithms
        )
        error, common = max(error, found[0]), max(common, found[1])
    if left.any():
        raise block.refuse("logits", "units that read a task's answer", "others")
    slanted = crooked(stock, LAST, len(block.bias))
    for ledger in counted.ledgers.values():
        ones = [Group(units[out > 0], float(len(places.answers)) * (1 + error + common))]
        others = [Group(units[out < 0], float(len(places.answers)) * (logarithms.most + error + common))]
        ledger.write(block.w_out, [Group(np.array(bases), 1.0), *ones, *others], slanted, arithmetic)
    return Written(low, error, common, logarithms.most)


def _task_logits(
    block: Block,
    places: Places,
    answered: tuple[int, Units, Units],
    found: tuple[Units, Units, Float],
    known: tuple[float, float],
    logarithms: Logarithms,
) -> tuple[float, float]:
    """One task's logits: the error of its own, and what is common to those of all tasks that answer."""
    (task, answers, own), (units, token, out), (silent, low) = answered, found, known
    arithmetic = block.arithmetic
    weights = block.w_in[:, units]
    extra = np.array([places.silent[task], places.zero, places.shortfall[task]])
    if np.delete(weights, np.concatenate([own, extra]), axis=0).any():
        raise block.refuse("logits", f"units of task {task} that read its answer, and whether it is silent", "others")
    hush, back, add = weights[extra]
    if (hush != -back).any() or (hush > 0).any() or not np.isin(add, (0.0, 1.0)).all():
        raise block.refuse("logits", f"silence that is taken back on `zero`, task {task}", "others")
    codes = np.stack([places.codes[answers], -places.codes[answers]], axis=-1).reshape(len(answers), -1)
    cases = np.concatenate([codes, np.zeros((1, codes.shape[1]))]).astype(np.float64)
    bias, read = block.bias[units], weights[own]
    argument, reach = cases @ read + bias, np.abs(read).sum(axis=0)
    lighted = argument > 0
    for role, norm in block.norms.items():
        top = add * (logarithms.most + float(norm.error(logarithms.most)))
        slip = _slip(norm, read, hush) + ((weights != 0).sum(axis=0) + 1) * arithmetic.sums * (
            reach + np.abs(bias) + top + np.abs(hush) * silent
        )
        slip = slip * INFLATION
        if (argument[-1] + top + slip > 0).any():
            raise block.refuse("logits", f"task {task} writes nothing without an answer", "others")
        if role == "eq" and (argument + top + slip + hush * silent > 0).any():
            raise block.refuse("logits", f"task {task} writes nothing when it is silent", "others")
        if role == "eq":
            lighted = argument + top + slip > 0
    lit = np.asarray(lighted)
    error = common = 0.0
    for case, answer in enumerate(answers):
        on = np.flatnonzero(lit[case])
        kinds = sorted((float(argument[case, at]), float(add[at]), float(out[at])) for at in on)
        if kinds != [(0.0, 1.0, -1.0), (1.0, 0.0, low)] or (token[on] != answer).any():
            raise block.refuse("logits", f"L - n to the answer of task {task}, id {answer}", f"{kinds}")
        one, two = sorted(on, key=lambda at: add[at])
        apart, alike = (
            np.array(part)
            for part in zip(*(_matched(block, cases[case], read[:, at]) for at in (one, two)), strict=True)
        )
        if arithmetic.narrow:
            if not apart[0] + alike[0] < HALF:
                raise block.refuse("logits", f"task {task}: a unit that is 1", f"{apart[0] + alike[0]:.3g} off")
            apart[0] = alike[0] = 0.0  # it is stored as 1
        norm, most = block.eq, logarithms.most
        moved = float(norm.error(most, logarithms.error)) - (0.0 if arithmetic.narrow else norm.shift)
        second = apart[1] + moved + arithmetic.sums * (most + 2 + 8 * norm.shift) * 2
        second += arithmetic.storage * (most + second)
        rounded = 3 * arithmetic.sums * (2 * low + most + second) + arithmetic.storage * (most + second)
        error = max(error, (low * apart[0] + second + rounded) * INFLATION)
        common = max(common, (low * alike[0] + alike[1] + norm.shift) * INFLATION)
    return error, common


def _slip(norm: Norm, read: Float, hush: Float) -> Float:
    """How far the arguments of units can be off that read a code, or nothing, and silence."""
    reach, even = np.abs(read).sum(axis=0), np.abs(read.sum(axis=0))
    nothing = float(norm.error(0.0))
    bits = norm.argument(read.T, np.ones(read.shape[0]), np.zeros(read.shape[0]))
    return np.asarray(
        np.maximum(bits, norm.gain * reach) + nothing * (even + 2 * np.abs(hush)) + 2.0**-20 * nothing * reach
    )


def _matched(block: Block, case: Float, read: Float) -> tuple[float, float]:
    """What the argument of a unit is off where it reads the code that it asks for: by rounding, and alike in all tasks.

    Its 2 B terms are one number times the norm of 1 or less the norm of -1, half of them each: what the norm does is
    the same for every task (B4). The terms are summed in any order with a bias of the other sign: no partial sum of j
    terms is above j of them.
    """
    norm, arithmetic = block.eq, block.arithmetic
    terms = case * read
    if not ((terms == terms[0]).all() and terms[0] > 0 and case.sum() == 0 and (np.abs(case) == 1).all()):
        raise block.refuse("logits", "units that ask for a code", "others")
    count, each = len(terms), float(terms[0])
    alike = float(norm.argument(read, case, np.zeros(count)))
    partial = each * (count * (count + 1) / 2 + 6 * (count + 1))
    if arithmetic.narrow:  # small integers: only what else is added is rounded
        partial = 6 * each * (count + 1)
    return arithmetic.sums * partial * (1 + 2 * norm.gain) * INFLATION, alike


def predict(
    construction: Construction,
    stock: Stock,
    roles: Roles,
    places: Places,
    counted: Counted,
    written: Written,
    arithmetic: Arithmetic,
) -> Predictions:
    """softmax(logits) behind the last norm, at every kind of position.

    At EQ, with the logits of the answers off -n by at most d each, up to a common shift, the probabilities among them
    are off by at most tanh(d/2) in total variation: odds change by a factor of at most exp(2 d), and the largest change
    of a probability under that is (exp(d) - 1)/(exp(d) + 1). All other tokens together are the rest.

    Raises:
        RefusedError: the unembedding is of another form.
    """
    unembedding = np.asarray(stock.weights.unembedding.toarray(), dtype=np.float64)
    size, layout = len(places.logit), construction.layout
    plain = np.zeros((stock.width, size))
    plain[places.logit, np.arange(size)] = 1.0
    if not np.array_equal(unembedding[:, :size], plain):
        raise RefusedError("unembedding", "lm_head.weight", "a logit for each token of the alphabet", "others")
    special = unembedding[:, size:]
    if np.intersect1d(np.flatnonzero(special.any(axis=1)), written_columns(stock, LAST + 1)).size:
        raise RefusedError("unembedding", "lm_head.weight", "the other tokens read embeddings alone", "others")
    answer, elsewhere, low = 0.0, 0.0, written.low
    for role, ledger in counted.ledgers.items():
        if not len(roles.positions(role)):
            continue
        norm = ledger.norm(stock, arithmetic)
        value, off = _specials(roles, role, special, norm, arithmetic)
        # Tokens of the alphabet share the shift of the norm; here it counts against the others.
        error = norm.shift + 2 * _logit_error(norm, low, arithmetic)
        if role == "eq":
            d = (written.error + _logit_error(norm, written.most, arithmetic)) * INFLATION
            error += written.common + d
            specials = np.exp(value + off + error).sum(axis=1).max()
            # The greatest count answers with at least -log S; without evidence all tokens have -L alike.
            rest = ((size - 1) * math.exp(-low + error) + float(specials)) * math.exp(math.log(places.largest) + d)
            answer = max(math.tanh(d / 2) + rest, float(specials) * math.exp(low + error) / size) * INFLATION
            continue
        last = np.zeros(len(value), dtype=np.bool_)
        if role == "x":
            last = np.tile(np.arange(layout.inputs) == layout.inputs - 1, layout.examples + 1)
        others = np.exp(value + off + low + error).sum(axis=1) / size
        elsewhere = max(elsewhere, float(others[~last].max(initial=0.0)))
        if last.any():
            eq = layout.eq - size
            least = (value - off)[last][:, [eq]] - error
            rest = np.exp(np.delete((value + off)[last], eq, axis=1) - least).sum(axis=1)
            rest = rest + size * np.exp(-low + error - least[:, 0])
            elsewhere = max(elsewhere, float(rest.max()))
    return Predictions(min(answer, 1.0), min(elsewhere * INFLATION, 1.0))


def _specials(roles: Roles, role: str, special: Float, norm: Norm, arithmetic: Arithmetic) -> tuple[Float, Float]:
    """The logits of BOS, EQ, UNK and PAD at each position of a role, shape [positions, 4], and how far they are off.

    Raises:
        RefusedError: they depend on the token of the alphabet that stands there.
    """
    read = np.flatnonzero(special.any(axis=1))
    token = np.asarray(roles.tokens(role)[:, read].toarray())
    if not (token == token[:1]).all():
        raise RefusedError(
            "unembedding", "lm_head.weight", "special tokens that read no token of the alphabet", "others"
        )
    stream = np.asarray(roles.position[roles.positions(role)][:, read].toarray()) + token[:1]
    weights = special[read].T
    value = stream @ special[read]
    size = np.abs(stream) @ np.abs(special[read])
    off = norm.argument(weights[None], stream[:, None, :], np.zeros((1, 1, len(read))))
    unit = (len(read) + 1) * arithmetic.sums + arithmetic.storage
    return value, np.asarray((off + unit * (size + off)) * INFLATION)


def _logit_error(norm: Norm, size: float, arithmetic: Arithmetic) -> float:
    """How far a logit is off by the last norm and the unembedding, apart from the shift."""
    most = size + norm.shift
    if not arithmetic.narrow:
        return (norm.gain + 8 * arithmetic.sums) * most
    return (norm.gain + 2 * arithmetic.storage) * most * (1 + arithmetic.storage)
