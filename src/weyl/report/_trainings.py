"""What is said of two trainings of one network: what lies between them, before and after they are aligned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from weyl.report._barrier import AS_THEY_ARE, Line

__all__ = ["Search", "Trainings", "Way"]


@dataclass(frozen=True)
class Search:
    """What `weyl.match` found between two states.

    Parameters
    ----------
    exact : bool
        Whether the second is the first in other coordinates.
    steps : int
        Steps of the search; none for a copy that was recognised.
    before, after : float
        Euclidean distance of the two, as they were and aligned.
    """

    exact: bool
    steps: int
    before: float
    after: float


@dataclass(frozen=True, eq=False)
class Way:
    """One way to bring the second training to the first.

    Parameters
    ----------
    line, trained : Line
        What lies between the first and the second, so brought: on held-out and on training data.
    loss, accuracy : float
        Of their mean, on held-out data.
    search : Search or None
        How the second was moved; None where it was left as it is.
    """

    line: Line
    trained: Line
    loss: float
    accuracy: float
    search: Search | None = None


@dataclass(frozen=True, eq=False)
class Trainings:
    """Two trainings of one architecture, from other initial weights and with batches in another order.

    Parameters
    ----------
    loss, accuracy : tuple of (float, float)
        Of the first and of the second, on held-out data.
    ways : mapping of str to Way
        By title, in the order to show: as they are, and aligned.
    copy : Search
        What was found of a disguised copy of the first, for comparison.
    seconds : float
        Time of the second training and of everything that was done with it.
    """

    loss: tuple[float, float]
    accuracy: tuple[float, float]
    ways: Mapping[str, Way]
    copy: Search
    seconds: float

    @property
    def lines(self) -> dict[str, Line]:
        """What lies between the two, by title."""
        return {title: way.line for title, way in self.ways.items()}

    @property
    def aligned(self) -> dict[str, Search]:
        """What was found of the second training, by title."""
        return {title: way.search for title, way in self.ways.items() if way.search is not None}

    @property
    def holds(self) -> bool:
        """Whether the copy was recognised without a search, and the second training was not taken for one."""
        return self.copy.exact and not self.copy.steps and not any(search.exact for search in self.aligned.values())

    @property
    def explained(self) -> float | None:
        """Share of the barrier on training data that is gone on the lowest of the aligned lines; None without one.

        On held-out data a mean of networks that are too sure of themselves looks better than it is.
        """
        heights = {title: way.trained.barrier.height for title, way in self.ways.items()}
        before = heights.pop(AS_THEY_ARE)
        return 1 - min(heights.values()) / before if before > 0 else None

    @property
    def sentence(self) -> str:
        """What is to be remembered."""
        told = "; ".join(f"{title}, {_rise(way.line.barrier.height)}" for title, way in self.ways.items())
        heights = [_rise(way.trained.barrier.height) for way in self.ways.values()]
        sentence = (
            "How far does the loss on held-out images rise above the line between its ends?"
            f" {told[0].upper()}{told[1:]}. On training images: {', '.join(heights[:-1])} and {heights[-1]}."
        )
        share = self.explained
        if share is None:
            return f"{sentence} There was no barrier to begin with."
        if share <= 0:
            return f"{sentence} Aligning did not lower the barrier there."
        return f"{sentence} At least {100 * share:.1f} % of that barrier was a choice of coordinates."

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        ways = {
            title: {
                "barrier": way.line.to_dict(),
                "trained": way.trained.to_dict(),
                "mean": {"loss": way.loss, "accuracy": way.accuracy},
                "search": None if way.search is None else asdict(way.search),
            }
            for title, way in self.ways.items()
        }
        return {
            "holds": self.holds,
            "sentence": self.sentence,
            "explained": self.explained,
            "test": {"loss": list(self.loss), "accuracy": list(self.accuracy)},
            "ways": ways,
            "copy": asdict(self.copy),
            "seconds": self.seconds,
        }


def _rise(height: float) -> str:
    """A height in words."""
    return f"by {height:.3g}" if height > 0 else "nowhere"
