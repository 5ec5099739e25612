"""What is said of the line between two networks, and its page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from weyl._version import __version__
from weyl.report._group import MOVES
from weyl.report._text import counted, printable

if TYPE_CHECKING:
    from weyl.merging import Barrier

__all__ = ["ALIGNED", "AS_THEY_ARE", "REPAIRED", "Between", "Line", "render_barrier"]

AS_THEY_ARE, ALIGNED, REPAIRED = "as they are", "aligned", " and repaired"
FEW = 10  # batches, under which percentiles of resamples are too narrow
SETTINGS: Mapping[str, str] = {
    "model": "model",
    "a": "A",
    "b": "B",
    "key": "dict of the files",
    "data": "data",
    "split": "judged on",
    "samples": "samples",
    "batches": "batches",
    "batch_size": "inputs at a time",
    "limit": "limit of inputs a part",
    "points": "points",
    "costs": "matched by",
    "kinds": "moves",
    "restarts": "searches",
    "repair": "repair",
    "seed": "seed",
    "weyl": "weyl",
    "torch": "torch",
}


@dataclass(frozen=True, eq=False)
class Line:
    """A loss on the line between two networks.

    Parameters
    ----------
    barrier : Barrier
        The curve.
    band : tuple of (float, float) or None
        At each point, ends of a 95 % interval of the mean loss over batches.
    """

    barrier: Barrier
    band: tuple[tuple[float, float], ...] | None = None

    @property
    def accuracy(self) -> tuple[float, ...] | None:
        """At each point, if it was measured."""
        return self.barrier.metrics.get("accuracy")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        band = None if self.band is None else [list(ends) for ends in self.band]
        return {**self.barrier.to_dict(), "band": band}


@dataclass(frozen=True, eq=False)
class Between:
    """What ``weyl barrier`` found.

    Parameters
    ----------
    model, data, a, b : str
        Names to show.
    lines : mapping of str to Line
        By title, in the order to show: as they are, aligned, and either of them repaired.
    alignment : mapping or None
        What was done to B.
    warnings : tuple of str
        What a reader must know besides.
    settings : mapping
        What it was made from.
    """

    model: str
    data: str
    a: str
    b: str
    lines: Mapping[str, Line]
    alignment: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        """Whether every height is a number."""
        return all(math.isfinite(line.barrier.height) for line in self.lines.values())

    @property
    def explained(self) -> float | None:
        """Share of the barrier that is gone after aligning; None where there is no such comparison."""
        if not {AS_THEY_ARE, ALIGNED} <= set(self.lines) or not self.finite:
            return None
        before, after = (self.lines[name].barrier.height for name in (AS_THEY_ARE, ALIGNED))
        return 1 - after / before if before > 0 else None

    @property
    def sentence(self) -> str:
        """What is to be remembered."""
        heights = {name: line.barrier.height for name, line in self.lines.items()}
        if not self.finite:
            return "On the line between A and B there are losses that are no numbers: there is no height."
        told = ", ".join(f"{_number(height)} {name}" for name, height in heights.items())
        sentence = f"Between A and B the loss rises above the line between its ends by {told}."
        share = self.explained
        if share is None:
            return sentence
        if share < 0:
            return f"{sentence} Aligning did not lower the barrier."
        return f"{sentence} {share:.1%} of the barrier was a choice of coordinates."

    @property
    def made_from(self) -> list[tuple[str, str]]:
        """Titles and text of the settings; what was not given is left out."""
        return [
            (title, _setting(self.settings[name]))
            for name, title in SETTINGS.items()
            if self.settings.get(name) not in (None, "", [], ())
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "weyl": __version__,
            "model": self.model,
            "data": self.data,
            "a": self.a,
            "b": self.b,
            "sentence": self.sentence,
            "lines": {name: line.to_dict() for name, line in self.lines.items()},
            "alignment": None if self.alignment is None else dict(self.alignment),
            "explained": self.explained,
            "settings": dict(self.settings),
            "warnings": list(self.warnings),
        }


def render_barrier(found: Between, *, numbers: str = "") -> str:
    """Render the report of ``weyl barrier`` as one HTML document.

    Parameters
    ----------
    found : Between
        What to show.
    numbers : str
        Name of the JSON file beside the report.

    Returns
    -------
    str
        HTML.
    """
    from markupsafe import Markup

    from weyl.report._barrier_figures import curves
    from weyl.report._html import environment

    # The figures escape what they show; only their own markup may pass.
    losses = Markup(curves(found.lines, "loss"))
    measured = all(line.accuracy is not None for line in found.lines.values())
    accuracies = Markup(curves(found.lines, "accuracy")) if measured else None
    template = environment().get_template("barrier.html")
    heights = {name: _known(line.barrier.height) for name, line in found.lines.items()}
    told = {"heights": heights, "rows": _rows(found), "facts": _facts(found)}
    return template.render(it=found, numbers=numbers, losses=losses, accuracies=accuracies, **told)


def _rows(found: Between) -> list[tuple[float, list[tuple[str, float | None, float | None]]]]:
    """At every point, by title of the line, loss and accuracy; None for what is no number."""
    points = next(iter(found.lines.values())).barrier.at
    return [
        (
            at,
            [
                (name, _known(line.barrier.losses[row]), None if line.accuracy is None else _known(line.accuracy[row]))
                for name, line in found.lines.items()
            ],
        )
        for row, at in enumerate(points)
    ]


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _facts(found: Between) -> list[tuple[str, str]]:
    """What was done to B, as titles and text."""
    done = found.alignment
    if done is None:
        return []
    how = "A in other coordinates, up to rounding" if done["exact"] else "no copy of A, or none that was recognised"
    optimum = "reached" if done["coordinate_optimal"] else "not reached: the search was cut off"
    return [
        ("group", printable(done["group"])),
        ("B is", how),
        ("moved by", ", ".join(MOVES.get(move, move) for move in done["moves"]) or "nothing"),
        ("distance of A and B", f"{done['distance_before']:.4g} before, {done['distance']:.4g} after"),
        ("cosine", f"{done['cosine_before']:.4f} before, {done['cosine']:.4f} after"),
        ("search", f"{counted(done['sweeps'], 'sweep')}, coordinate optimum {optimum}"),
    ]


def _number(value: float) -> str:
    return f"{value:.3g}"


def _setting(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
