"""What is said about representations: how far a classifier has collapsed, in data and in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from weyl._version import __version__

if TYPE_CHECKING:
    from weyl.geometry import Collapse, Detection, Profile, Verdict

__all__ = ["CAUTION", "METHODS", "Measured", "criteria", "cut_told", "pair_excess", "symmetry_told"]

SOURCE = "(Hui, Belkin, Nakkiran, arXiv 2202.08384, 2022)"
CAUTION = f"Collapse on the training set says how training ended, not how well the network does on new data {SOURCE}."
HELD_OUT = (
    "These are held-out data. Collapse is a property of training data; on new data it is neither to be expected nor"
    f" a measure of how well the network does there {SOURCE}."
)
BOTH = f"{CAUTION[:-1]}; the held-out column shows how much of it carries over."
# What each score of out-of-distribution detection is; all are turned so that unknown samples score higher.
METHODS: Mapping[str, tuple[str, str]] = {
    "neco": (
        "NECO",
        "part of the feature that lies in the principal subspace of the training features; less if unknown",
    ),
    "vim": ("ViM", "length outside the principal subspace, against the logits; more if unknown"),
    "nearest_mean": ("nearest class mean", "distance to it; longer if unknown"),
}
# Titles of the settings that a report shows.
SETTINGS: Mapping[str, str] = {
    "model": "model",
    "weights": "weights",
    "key": "dict of the weights file",
    "data": "data",
    "split": "split",
    "samples": "samples",
    "ood": "out-of-distribution data",
    "limit": "limit of inputs a part",
    "layers": "more layers",
    "bootstrap": "resamplings for intervals",
    "batch_size": "inputs at a time",
    "seed": "seed",
    "weyl": "weyl",
    "torch": "torch",
}
PARTS = {"train": "training", "test": "held out", "ood": "out of distribution", "known": "known, for detection"}


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
    known : str
        What the known samples of ``detection`` are.
    kinds : mapping of str to str
        Type of each layer by its path, such as ``"Linear"``.
    settings : mapping
        What it was made from: arguments, sizes of the parts, versions.
    """

    model: str
    data: str
    parts: Mapping[str, Collapse]
    weights: str = ""
    ood: str = ""
    detection: Detection | None = None
    profile: Profile | None = None
    warnings: tuple[str, ...] = field(default=())
    known: str = ""
    kinds: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def main(self) -> Collapse:
        """What the verdict is about: the training part, if it was measured."""
        return next(iter(self.parts.values()))

    @property
    def verdict(self) -> Verdict:
        """How far the network has collapsed."""
        return self.main.verdict(held_out="train" not in self.parts)

    @property
    def caution(self) -> str:
        """How not to read it."""
        return HELD_OUT if "train" not in self.parts else BOTH if len(self.parts) > 1 else CAUTION

    @property
    def made_from(self) -> list[tuple[str, str]]:
        """What it was made from, as titles and text; what was not given is left out."""
        return [
            (SETTINGS[name], _setting(name, value))
            for name, value in self.settings.items()
            if name in SETTINGS and value not in (None, "", [], {})
        ]

    def layer(self, path: str) -> str:
        """A layer's path with its type."""
        return f"{path} ({self.kinds[path]})" if path in self.kinds else path

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        told = self.verdict
        return {
            "weyl": __version__,
            "model": self.model,
            "data": self.data,
            "weights": self.weights or None,
            "settings": dict(self.settings),
            "verdict": {
                "level": told.level,
                "sentence": told.sentence,
                "failed": list(told.failed),
                "limits": criteria(self.main),
            },
            "parts": {name: found.to_dict() for name, found in self.parts.items()},
            "ood": self._ood(),
            "profile": None if self.profile is None else self.profile.to_dict(),
            "caution": self.caution,
            "warnings": list(self.warnings),
        }

    def _ood(self) -> dict[str, Any] | None:
        if self.detection is None:
            return None
        return {"data": self.ood, "known": self.known, **self.detection.to_dict()}


def criteria(found: Collapse) -> list[dict[str, Any]]:
    """The limits of the verdict, and what was measured against each.

    Parameters
    ----------
    found : Collapse
        Of the penultimate layer.

    Returns
    -------
    list of dict
        ``metric``, ``title``, ``value`` (above its floor, at the upper end of its interval; None if not measured),
        ``limit``, ``partly`` (the limit for *partly*; None where there is one limit only), ``at_least`` and ``met``.
    """
    from weyl.geometry import COLLAPSED, METRICS, PARTLY
    from weyl.geometry._verdict import FEW, FITTED

    accuracy = found.ncm_accuracy if found.accuracy is None else found.accuracy
    rows: list[dict[str, Any]] = [
        {"metric": "accuracy", "title": "training accuracy", "value": accuracy, "limit": FITTED, "partly": None}
    ]
    for name, limit in COLLAPSED.items():
        value: float | None = getattr(found, name)
        if value is not None:
            levels = found.reference.get(name)
            value = found.intervals.get(name, (value, value))[1] - ((levels.floor if levels else None) or 0.0)
        rows.append(
            {"metric": name, "title": METRICS[name].title, "value": value, "limit": limit, "partly": PARTLY.get(name)}
        )
    least = {"metric": "counts", "title": "samples of the smallest class", "value": min(found.counts), "limit": FEW}
    rows.append(least | {"partly": FEW})
    for row in rows:
        row["at_least"] = row["metric"] in ("accuracy", "counts")
        value, limit = row["value"], row["limit"]
        row["met"] = None if value is None else bool(value >= limit if row["at_least"] else value <= limit)
    return rows


def pair_excess(found: Collapse, n: int = 6) -> list[tuple[str, str, float]]:
    """The n pairs whose cosine is farthest from -1/(k-1), its value in a simplex, and by how much.

    Returns
    -------
    list of (str, str, float)
        Two names, and cosine + 1/(k-1): positive where the two are too near.
    """
    import numpy as np

    gap = cosine_excess(found)
    i, j = np.triu_indices(len(gap), 1)
    order = np.argsort(-np.abs(gap[i, j]), kind="stable")[:n]
    return [(found.classes[i[p]], found.classes[j[p]], float(gap[i[p], j[p]])) for p in order]


def cosine_excess(found: Collapse) -> Any:
    """Cosines of the centred class means plus 1/(k-1), with zeros on the diagonal; shape (k, k)."""
    import numpy as np

    lengths = np.sqrt(np.clip(np.diag(found.gram), 0, None))
    scale = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    gap = found.gram * np.outer(scale, scale) + 1 / max(len(lengths) - 1, 1)
    np.fill_diagonal(gap, 0)
    return gap


def symmetry_told(found: Collapse) -> str:
    """Which classes break the symmetry, and how much it is broken at all."""
    if len(found.classes) == 2:
        return "two means always form a regular simplex: with two classes NC2 and the S_k defect say nothing"
    if found.sk_defect is None:
        return "the class means have no shape"
    levels = found.reference.get("sk_defect")
    defect = f"the S_k defect is {found.sk_defect:.2g}"
    if levels is not None and levels.chance is not None:
        defect += f" (chance {levels.chance:.2g})"
    if not found.breaking:
        return f"{defect}; no class has more than twice an equal share of it"
    worst = dict(found.worst_classes(len(found.classes)))
    names = ", ".join(f"{name} ({worst[name]:.0%})" for name in found.breaking[:5])
    return f"{defect}; more than twice an equal share of it have {names}"


def cut_told(profile: Profile, title: str = "") -> str:
    """Where the tail could be cut, within which tolerance, or why nowhere.

    Parameters
    ----------
    profile : Profile
        From layer to layer.
    title : str
        How to call the layer of the cut; its path unless given.
    """
    from weyl.geometry._profile import LEARNED

    cut, whole = profile.cut, f"the whole network ({profile.accuracy:.1%})"
    points = 100 * profile.tolerance
    within = f"{points:g} percentage point{'' if points == 1 else 's'}"
    if cut is not None:
        return (
            f"after {title or cut.layer}: nearest mean {cut.accuracy:.1%}, the whole network {profile.accuracy:.1%},"
            f" which is within {within}; {cut.parameters:,} parameters would be saved"
        )
    if profile.accuracy < LEARNED / profile.classes:
        return f"nowhere: {whole} is near chance, so that no layer can be called as good"
    if any(row.accuracy >= profile.accuracy - profile.tolerance for row in profile.layers):
        return (
            f"nowhere: where nearest mean comes within {within} of {whole}, the class means would have"
            " as many parameters as the tail that they replace"
        )
    return f"nowhere: nearest mean comes within {within} of {whole} after no layer"


def _setting(name: str, value: Any) -> str:
    if name == "samples":
        return "; ".join(f"{PARTS.get(part, part)}: {size:,}" for part, size in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and name != "seed" else str(value)
