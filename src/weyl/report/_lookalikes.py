"""What is said of networks that are, or are not, one network of the demo in disguise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Lookalike", "Lookalikes"]


@dataclass(frozen=True)
class Lookalike:
    """One network beside the first training.

    Parameters
    ----------
    title, made : str
        What it is, and how it was made.
    expected : str
        The verdict that is true.
    verdict : str
        That of `weyl.compare`.
    same_file : bool
        Whether files of both have one SHA-256.
    cosine : float
        Of the weights as they are.
    p_value : float or None
        As in `weyl.identity.Comparison`.
    before, after : float or None
        Distance, relative to the norm of the first training, as it is and aligned; None where nothing was aligned.
    """

    title: str
    made: str
    expected: str
    verdict: str
    same_file: bool
    cosine: float
    p_value: float | None
    before: float
    after: float | None

    @property
    def as_expected(self) -> bool:
        """Whether the verdict is the true one."""
        return self.verdict == self.expected


@dataclass(frozen=True)
class Lookalikes:
    """Several of them.

    Parameters
    ----------
    seen : sequence of Lookalike
        In the order to show.
    seconds : float
        Time that making and comparing them took.
    """

    seen: Sequence[Lookalike]
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether every verdict is the true one."""
        return all(one.as_expected for one in self.seen)

    @property
    def sentence(self) -> str:
        """What is to be remembered."""
        others = [one for one in self.seen if not one.same_file]
        low, high = (f"{pick(one.cosine for one in others):.3f}" for pick in (min, max))
        right = sum(one.as_expected for one in self.seen)
        return (
            f"For a hash, {len(others)} of these {len(self.seen)} are other files, and cosines with them lie between"
            f" {low} and {high}. weyl.compare gave the true name to {right} of {len(self.seen)}."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        seen = [{**asdict(one), "as_expected": one.as_expected} for one in self.seen]
        return {"holds": self.holds, "sentence": self.sentence, "seen": seen, "seconds": self.seconds}
