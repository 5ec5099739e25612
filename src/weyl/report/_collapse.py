"""What is said about representations: how far a classifier has collapsed, in data and in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from weyl._version import __version__

if TYPE_CHECKING:
    from weyl.geometry import Collapse, Detection, Profile, Verdict

__all__ = ["CAUTION", "Measured"]

CAUTION = (
    "Collapse on the training set says how training ended, not how well the network does on new data"
    " (Hui, Belkin, Nakkiran, arXiv 2202.08384, 2022)."
)
NAMES = {"train": "training data", "test": "held-out data"}


@dataclass(frozen=True)
class Measured:
    """What ``weyl collapse`` found about one model.

    Parameters
    ----------
    model, data : str
        Names to show.
    parts : mapping of str to Collapse
        Of ``"train"``, ``"test"`` or both.
    weights : str
        Where the weights come from; empty for a model as it was initialised.
    ood : str
        Name of the out-of-distribution data; empty if none were given.
    detection : Detection or None
        How well these are told from known data.
    profile : Profile or None
        From layer to layer.
    warnings : tuple of str
        What a reader must know besides.
    """

    model: str
    data: str
    parts: Mapping[str, Collapse]
    weights: str = ""
    ood: str = ""
    detection: Detection | None = None
    profile: Profile | None = None
    warnings: tuple[str, ...] = field(default=())

    @property
    def main(self) -> Collapse:
        """What the verdict is about: the training part, if it was measured."""
        return next(iter(self.parts.values()))

    @property
    def verdict(self) -> Verdict:
        """How far the network has collapsed."""
        return self.main.verdict(held_out="train" not in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        told = self.verdict
        return {
            "weyl": __version__,
            "model": self.model,
            "data": self.data,
            "weights": self.weights or None,
            "verdict": {"level": told.level, "sentence": told.sentence, "failed": list(told.failed)},
            "parts": {name: found.to_dict() for name, found in self.parts.items()},
            "ood": {"data": self.ood, **self.detection.to_dict()} if self.detection is not None else None,
            "profile": None if self.profile is None else self.profile.to_dict(),
            "caution": CAUTION,
            "warnings": list(self.warnings),
        }
