"""What a proof leaves behind: bounds, lemmas, violations, as records and JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Violation:
    """Where a lemma fails.

    Args:
        lemma: the lemma's name.
        where: layer, head or unit, and the class of tokens and positions.
        expected: what the lemma needs there.
        got: what the weights give.
    """

    lemma: str
    where: str
    expected: str
    got: str


@dataclass(frozen=True)
class Lemma:
    """One link of the chain, decided on the weights.

    Args:
        name: what it is called.
        claim: the claim in words.
        figures: the numbers that were found, which the theorem uses.
        holds: whether it was proved.
    """

    name: str
    claim: str
    figures: dict[str, Any]
    holds: bool


@dataclass(frozen=True)
class Proof:
    """The outcome of a proof attempt for all prompts.

    Args:
        real: the bound on |q_hat - q|_1 in real arithmetic over all prompts, None where none was proved.
        rounded: the bound of the program as executed, by dtype, None where no claim is made.
        refusals: dtype -> why no claim is made.
        lemmas: the chain.
        violations: why it failed, empty if it did not.
    """

    real: float | None
    rounded: dict[str, float | None] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    lemmas: tuple[Lemma, ...] = ()
    violations: tuple[Violation, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The proof as a JSON object."""
        return {
            "error_bound": {"real": self.real, **self.rounded},
            "refusals": self.refusals,
            "lemmas": [asdict(lemma) for lemma in self.lemmas],
            "violations": [asdict(violation) for violation in self.violations],
        }
