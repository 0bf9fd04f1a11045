"""What a sum over a set of inputs costs, in symbols: the leak of the head that averages over it, the task's loss."""

import sympy  # type: ignore[import-untyped]
from sympy import Integer, expand, simplify

from verify.derivation import C, Expression, M, Proof, S, b1, binomial_sum, n, rho, rho2, z


def set_score(example_bits: Expression, *, inside: bool, role: str) -> Expression:
    """The score of a key at an EQ or y query of a head that averages over a set, in units of the sharpness.

    Source: `construct.attention.read_head`.

    Args:
        example_bits: in how many bits the key's example index differs from the query's.
        inside: whether a key x is of the set.
        role: the key's role.
    """
    if role == "bos":
        return Integer(-2)
    return b1 - 2 * example_bits + ((4 if inside else 2) if role == "x" else 0)


def derive_set_weight(proof: Proof) -> Expression:
    """A: the weight of all keys outside the set's S targets, relative to that of the targets, for any prompt."""
    h = sympy.Symbol("h", integer=True, nonnegative=True)
    target = set_score(0, inside=True, role="x")
    inside = proof.equal(
        "an x of the set, in an example h bits away, scores less than a target by",
        target - set_score(h, inside=True, role="x"),
        2 * h,
    )
    outside = proof.equal("an x outside the set", target - set_score(h, inside=False, role="x"), 2 * h + 2)
    other = proof.equal("an EQ or y, seen from a set,", target - set_score(h, inside=False, role="eq"), 2 * h + 4)
    bos = proof.equal("BOS, seen from a set,", target - set_score(0, inside=False, role="bos"), b1 + 6)
    over_examples = binomial_sum(proof, "keys of a set over the distance of the example index", h, b1)
    # S keys of the set, n - S others x, an EQ and a y for each of the at most C(b1, h) examples h bits away.
    others = proof.equal(
        "the x of the set in other examples, relative to the targets, weigh",
        (S * over_examples - S) / S,
        (1 + z**2) ** b1 - 1,
        check=lambda: _counted(inside, h, over_examples),
    )
    rest = proof.equal(
        "and the x outside it, EQ and y",
        ((n - S) * z ** simplify(outside - 2 * h) + 2 * z ** simplify(other - 2 * h)) * over_examples / S,
        ((n - S) * z**2 + 2 * z**4) * (1 + z**2) ** b1 / S,
    )
    return proof.equal(
        "so all keys outside the targets weigh at most A, relative to them",
        others + rest + z**bos / S,
        (1 + z**2) ** b1 - 1 + ((n - S) * z**2 + 2 * z**4) * (1 + z**2) ** b1 / S + z ** (b1 + 6) / S,
    )


def _counted(below: Expression, h: Expression, closed: Expression) -> bool:
    """For small codes the sum over all examples, one by one, is the closed form."""
    return all(
        expand(sum(z ** below.subs(h, example.bit_count()) for example in range(2**bits)) - closed.subs(b1, bits)) == 0
        for bits in range(4)
    )


def derive_sum_loss(proof: Proof) -> Expression:
    """What one sum task loses at most (`construct.mlp.sum_evidence`, `sum_code`, `sum_answer`), as delta <= 1/2.

    A sum s is read as (1 - rho) s + rho S v, v an average of token values, |v| <= M; so is the count of tokens
    without a value, 0 where the task has an answer, as rho S u with u in [0, 1].
    """
    total, value, share = sympy.symbols("s v u", real=True)
    above, below, rest = sympy.symbols("a d g", nonnegative=True)
    read = (1 - rho) * total + rho * S * value
    shift = proof.at_most(
        "a sum read, with v = M - d and s = -S M + a, is too large by",
        (read - total).subs({value: M - below, total: above - S * M}),
        2 * S * M * rho,
        gap=rho * (above + S * below),
    )
    proof.at_most(
        "and too small, with v = -M + d and s = S M - a, by",
        (total - read).subs({value: below - M, total: S * M - above}),
        shift,
        gap=rho * (above + S * below),
    )
    count = proof.at_most(
        "tokens without a value count", (rho * S * share).subs(share, 1 - rest), S * rho, gap=S * rho * rest
    )
    evidence = proof.equal("the hats' argument, so the evidence, is off by", shift + C * count, S * rho * (2 * M + C))
    answer = proof.equal(
        "the one bit of the Gray code that moves does so by twice the shift, the count has weight 2",
        2 * shift + 2 * count,
        S * rho * (4 * M + 2),
    )
    return proof.equal("so a sum task loses at most", evidence + answer + rho2, S * rho * (6 * M + C + 2) + rho2)
