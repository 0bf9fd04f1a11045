"""The theorem of the two-layer construction in symbols, and its error bound derived with sympy.

For K table tasks of r reads each on n inputs over V tokens, and every prompt of at most m examples, with z =
exp(-sharpness): |q_hat - q|_1 <= 4 rho r B K + rho2 K, where rho and rho2 are the leaks of the read heads and of the
average. `derive` finds it from sums over the keys, by steps that are each checked by sympy; `construct.bounds` has
the same bound in floats, and the tests compare the two.

This is about what is claimed. Whether given weights meet the claim is for the rest of this package to say.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import mpmath  # type: ignore[import-untyped]
import sympy  # type: ignore[import-untyped]
from sympy import Integer, Rational, expand, simplify

from construct.attention import AVERAGE_MARGIN
from verify.closed_form_sums import derive_set_weight, derive_sum_loss
from verify.derivation import (
    SIZES,
    Z_OF_SHARPNESS,
    B,
    DerivationError,
    Expression,
    K,
    Proof,
    Step,
    V,
    b1,
    b2,
    binomial_sum,
    m,
    n,
    r,
    rho,
    rho2,
    z,
)


@dataclass(frozen=True)
class Derivation:
    """The bound with the steps that lead to it.

    Args:
        steps: the steps, each checked when it was made.
        read_leak: rho, in z, b1 and b2.
        set_leak: rho of a head that averages over a set, in z, n, S and b1.
        average_leak: rho2, in z and n.
        bound: the bound on |q_hat - q|_1 for K table tasks, in z, n, K, r, B, b1 and b2.
        sum_loss: what a sum task loses at most, in rho, rho2, S, M and C.
    """

    steps: tuple[Step, ...]
    read_leak: Expression
    set_leak: Expression
    average_leak: Expression
    bound: Expression
    sum_loss: Expression


@cache
def derive() -> Derivation:
    """Lemma: |q_hat - q|_1 <= 4 rho r B K + rho2 K, in closed form.

    Pre: scores are those of `construct.attention.read_head` and `average_head`, and units those of
    `construct.mlp.table_evidence` and `table_answer`; rho <= 1/2.
    Post: `bound` is at least |q_hat - q|_1 for every prompt of at most m examples at every EQ.
    Cost: some seconds of sympy, once.

    Raises:
        DerivationError: sympy does not confirm a step.
    """
    proof = Proof()
    read_leak = _derive_leak(proof, "the attention that a read gives away", _derive_read_weight(proof))
    set_leak = _derive_leak(proof, "the attention that an average over a set gives away", derive_set_weight(proof))
    average_leak = _derive_leak(proof, "the attention that the average gives away", _derive_average_weight(proof))
    loss = _derive_loss(proof)
    bound = proof.equal(
        "K tasks, and |q_hat - q|_1 is at most the sum of what each loses",
        (K * loss).subs({rho: read_leak, rho2: average_leak}),
        4 * read_leak * r * B * K + average_leak * K,
    )
    sum_loss = derive_sum_loss(proof)
    return Derivation(tuple(proof.steps), read_leak, set_leak, average_leak, bound, sum_loss)


def read_score(example_bits: Expression, input_bits: Expression, role: str) -> Expression:
    """The score of a key at an EQ or y query, in units of the sharpness (`construct.attention.read_head`).

    Args:
        example_bits: in how many bits the key's example index differs from the query's.
        input_bits: in how many bits the key's input index differs from the one asked for.
        role: the key's role.
    """
    examples = b1 - 2 * example_bits
    if role == "bos":
        return Integer(-2)
    if role == "x":
        return examples + (b2 - 2 * input_bits) + 2
    return examples


def _derive_read_weight(proof: Proof) -> Expression:
    """A: the weight of all other keys, relative to the target's z^0, summed over every key that there can be."""
    h1, h2, h = sympy.symbols("h_1 h_2 h", integer=True, nonnegative=True)
    target = read_score(0, 0, "x")
    x_below = proof.equal(
        "another x, h1 and h2 bits away, scores less by", target - read_score(h1, h2, "x"), 2 * h1 + 2 * h2
    )
    other_below = proof.equal("an EQ or y, h bits away", target - read_score(h, 0, "eq"), 2 * h + b2 + 2)
    bos_below = proof.equal("BOS", target - read_score(0, 0, "bos"), b1 + b2 + 4)
    # At most C(b1, h1) C(b2, h2) keys x are at those distances, the target at (0, 0) among them; C(b1, h) examples
    # are h bits away, with an EQ and a y each.
    over_inputs = binomial_sum(proof, "x keys over the distance of the input index", h2, b2)
    over_examples = binomial_sum(proof, "keys over the distance of the example index", h1, b1)
    x_weight = proof.equal(
        "the keys x other than the target weigh",
        over_examples * over_inputs - 1,
        (1 + z**2) ** (b1 + b2) - 1,
        check=lambda: _distances_agree(x_below, h1, h2),
    )
    others = proof.equal(
        "the keys EQ and y weigh",
        2 * z ** simplify(other_below - 2 * h) * over_examples,
        2 * z ** (b2 + 2) * (1 + z**2) ** b1,
    )
    return proof.equal(
        "so all the other keys weigh at most A, relative to the target",
        x_weight + others + z**bos_below,
        (1 + z**2) ** (b1 + b2) - 1 + 2 * z ** (b2 + 2) * (1 + z**2) ** b1 + z ** (b1 + b2 + 4),
    )


def _distances_agree(below: Expression, h1: Expression, h2: Expression) -> bool:
    """The powers multiply, and for small codes the sum over all pairs of codes, one by one, is the closed form."""
    joined = sympy.powsimp((1 + z**2) ** b1 * (1 + z**2) ** b2) - (1 + z**2) ** (b1 + b2)
    if simplify(joined) != 0:
        return False
    for first, second in product(range(4), range(3)):
        counted = sum(
            z ** below.subs({h1: example.bit_count(), h2: place.bit_count()})
            for example, place in product(range(2**first), range(2**second))
        )
        if expand(counted - (1 + z**2) ** (first + second)) != 0:
            return False
    return True


def average_score(role: str) -> Expression:
    """The score of a key at an EQ query, in units of the sharpness (`construct.attention.average_head`)."""
    return Integer({"y": AVERAGE_MARGIN, "bos": -AVERAGE_MARGIN}.get(role, 0))


def _derive_average_weight(proof: Proof) -> Expression:
    """A2: the weight of all keys but y, relative to the m' keys y."""
    shown = sympy.Symbol("m'", integer=True, positive=True)
    more = sympy.Symbol("k", integer=True, nonnegative=True)
    below = proof.equal("an x or EQ scores less than a y by", average_score("y") - average_score("x"), AVERAGE_MARGIN)
    proof.at_most(
        "and BOS by no less",
        below,
        average_score("y") - average_score("bos"),
        gap=average_score("x") - average_score("bos"),
    )
    others = proof.equal(
        "with m' examples before it, an EQ sees these keys besides the y, relative to them",
        ((shown + 1) * (n + 2) - shown) / shown,
        n + 1 + (n + 2) / shown,
    )
    most = proof.at_most(
        "which is the most for one example, m' = 1 + k",
        others.subs(shown, 1 + more),
        2 * n + 3,
        gap=(n + 2) * more / (1 + more),
    )
    return most * z**below


def _derive_leak(proof: Proof, says: str, weight: Expression) -> Expression:
    """Of weights 1 for the target and A elsewhere, the softmax gives A/(1+A) away; it grows with A."""
    elsewhere = sympy.Symbol("A", nonnegative=True)
    share = proof.equal(f"{says}, as a softmax", 1 - 1 / (1 + elsewhere), elsewhere / (1 + elsewhere))
    if sympy.diff(share, elsewhere).simplify().is_positive is not True:
        raise DerivationError(f"{says}: {share} does not grow with A")
    return share.subs(elsewhere, weight)


def _derive_loss(proof: Proof) -> Expression:
    """What one task's weight loses at most: its evidence, the average, its answer. None of them gains."""
    bit, elsewhere, weight = sympy.symbols("c u w", real=True)
    slack, surplus, missing, spare = sympy.symbols("s e y g", nonnegative=True)
    # A bit is read as (1 - rho) c + rho u with c = +-1 and u in [-1, 1], so c^2 = 1 and c u is -1 + s, and 1 - s.
    product_of_bits = expand(((1 - rho) * bit + rho * elsewhere) * bit).subs(bit**2, 1)
    least = proof.equal(
        "a bit read, times the code's bit c",
        product_of_bits.subs(bit * elsewhere, slack - 1),
        1 - 2 * rho + rho * slack,
    )
    proof.at_most("is at least 1 - 2 rho", 1 - 2 * rho, least, gap=rho * slack)
    proof.at_most("and at most 1", product_of_bits.subs(bit * elsewhere, 1 - slack), Integer(1), gap=rho * slack)
    # The units' arguments: <r_hat, code> + [answer] + [role] - (r B + 1), and <r_hat, code> + w + [role] - (r B + 1).
    bias, bits = -(r * B + 1), r * B * (1 - 2 * rho)
    evidence = proof.equal("the evidence is at least", bits + 1 + 1 + bias, 1 - 2 * rho * r * B)
    output = proof.equal("the answer is at least", bits + weight + 1 + bias, weight - 2 * rho * r * B)
    # Another row differs in a bit, which is at most -(1 - 2 rho); rho = 1/2 - g.
    proof.at_most(
        "the unit of another row is off",
        ((r * B - 1) - (1 - 2 * rho) + 1 + 1 + bias).subs(rho, Rational(1, 2) - spare),
        Integer(0),
        gap=2 * spare,
    )
    # The share c_k/m' is 1 - y, and each consistent example has the least evidence or e more.
    share, kept = sympy.symbols("w_0 kappa", nonnegative=True)
    averaged = (1 - rho2) * (1 - missing) * (evidence + surplus)
    return proof.at_most(
        "so a task loses at most",
        (1 - missing) - output.subs(weight, averaged),
        4 * rho * r * B + rho2,
        gap=2 * rho * r * B * (rho2 + kept * missing) + rho2 * missing + kept * share * surplus,
        meaning={share: 1 - missing, kept: 1 - rho2},
    )


def error_bound_expression(*, in_sharpness: bool = True) -> Expression:
    """The bound on |q_hat - q|_1, in n, K, r, B, b1, b2 and the sharpness (or z); valid where rho <= 1/2."""
    bound = derive().bound
    return bound.subs(z, Z_OF_SHARPNESS) if in_sharpness else bound


def leading_term(*, one_input: bool = False) -> Expression:
    """Lemma: the leading term of the bound as z -> 0, where B > 0.

    Pre: n >= 2, so b2 >= 1; or n = 1, b2 = 0, with `one_input`: then an EQ or y of the same example is as near to
    the target as another example's x, and adds to the term of z^2.
    Post: the bound is leading_term + O(z^3).
    """
    bound = derive().bound
    # z^b1 and z^(b2-1) are in [0, 1] as z is: symbols instead of them keep the expansion in z uniform in the sizes.
    small, smaller = sympy.symbols("x_1 x_2", nonnegative=True)
    if one_input:
        bound = bound.subs(b2, 0).subs(z ** (b1 + 4), z**4 * small)
    else:
        bound = bound.subs({z ** (b2 + 2): z**3 * smaller, z ** (b1 + b2 + 4): z**5 * small * smaller})
    coefficient = 4 * r * B * K * (b1 + (2 if one_input else b2))
    # Taylor at z = 0, where the bound is smooth.
    values = [sympy.diff(bound, z, order).subs(z, 0) / sympy.factorial(order) for order in range(3)]
    wanted = [Integer(0), Integer(0), coefficient]
    if any(simplify(value - want) != 0 for value, want in zip(values, wanted, strict=True)):
        raise DerivationError(f"the leading coefficient of the bound is not {coefficient}")
    return coefficient * z**2


def error_bound(
    *, alphabet_size: int, inputs: int, examples: int, tasks: int, reads: Any, sharpness_value: Any, digits: int = 40
) -> Any:
    """The bound at given sizes as an mpmath number, or None where rho > 1/2; `reads` may be a mean over the tasks."""
    sizes = {V: alphabet_size, n: inputs, m: examples}
    derivation = derive()
    with mpmath.workdps(digits):
        point = mpmath.exp(-mpmath.mpf(sharpness_value))
        bits = {symbol: value.subs(sizes) for symbol, value in SIZES.items()}
        numbers = {**sizes, **bits, K: tasks, r: reads}

        def value(expression: Expression) -> Any:
            return sympy.lambdify(z, expression.subs(numbers), "mpmath")(point)

        if value(derivation.read_leak) > 0.5:
            return None
        return value(derivation.bound)


def statement_latex() -> str:
    """The theorem in LaTeX: the bound, its leaks, its leading term and what the sizes stand for."""
    derivation = derive()
    sizes = r",\quad ".join(f"{sympy.latex(symbol)} = {sympy.latex(value)}" for symbol, value in SIZES.items())
    lines = [
        r"\lVert \hat q - q \rVert_1 \leq " + sympy.latex(4 * rho * r * B * K + rho2 * K),
        r"\rho = " + sympy.latex(derivation.read_leak),
        r"\rho_2 = " + sympy.latex(derivation.average_leak),
        r"\lVert \hat q - q \rVert_1 \leq " + sympy.latex(leading_term()) + r" + O(z^{3}),\quad n \geq 2",
        r"z = e^{-\lambda},\quad " + sizes,
    ]
    return "\\begin{gather*}\n" + " \\\\\n".join(lines) + "\n\\end{gather*}"


def steps_latex() -> str:
    """The derivation in LaTeX, a step a line."""
    lines = [rf"&\text{{{step.says}:}} && {step.latex}" for step in derive().steps]
    return "\\begin{align*}\n" + " \\\\\n".join(lines) + "\n\\end{align*}"
