"""Figures of the line between two networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from weyl.report._canvas import MUTED, SERIES, draw_svg, locator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from weyl.report._barrier import Line

__all__ = ["curves"]

STYLES = ("-", (0, (5, 2)), (0, (1, 1.6)), (0, (5, 1.5, 1, 1.5)))
HEADROOM = 0.11  # of the height, for each name above the curves


def curves(lines: Mapping[str, Line], what: str) -> str:
    """Draw a quantity along the line between two networks, a curve for each way to bring them together.

    Parameters
    ----------
    lines : mapping of str to Line
        At most four, by title.
    what : str
        ``"loss"``, with bands where they are known and the line between the ends; or ``"accuracy"``.

    Returns
    -------
    str
        An ``<svg>`` element; a value that is no number leaves a gap.
    """
    values = {name: _values(line, what) for name, line in lines.items()}
    known = [value for curve in values.values() for value in curve if math.isfinite(value)] or [0.0]
    low, high = min(known), max(known)

    def draw(ax: Axes) -> None:
        for number, (name, line) in enumerate(lines.items()):
            colour, at = SERIES[number % len(SERIES)], line.barrier.at
            if what == "loss" and line.band is not None:
                low_ends, high_ends = ([ends[side] for ends in line.band] for side in (0, 1))
                ax.fill_between(at, low_ends, high_ends, color=colour, alpha=0.16, linewidth=0)
            ax.plot(at, values[name], color=colour, linestyle=STYLES[number % len(STYLES)])
        ends = next(iter(values.values()))
        ax.plot([0, 1], [ends[0], ends[-1]], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        tops = [end[1] for line in lines.values() if what == "loss" and line.band for end in line.band]
        top, bottom = max([high, *filter(math.isfinite, tops)]), 0.0 if what == "loss" else low - 0.05 * (high - low)
        room = (top - bottom or 1.0) * (0.05 + HEADROOM * len(lines))
        ax.set(xlim=(-0.02, 1.02), ylim=(bottom, top + room), ylabel=what)
        # Names stand above the curves, one a line: beside them they would leave no room on a phone.
        for number, name in enumerate(lines):
            y, colour = 0.995 - 0.085 * number, SERIES[number % len(SERIES)]
            ax.text(0.5, y, name, transform=ax.transAxes, ha="center", va="top", color=colour)
        ax.set_xticks([0, 0.5, 1], ["A", "half-way", "B"])
        ax.yaxis.set_major_locator(locator(5))
        if what == "accuracy":
            ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %" if value <= 1 else "")
        ax.grid(axis="x", visible=False)

    told = "; ".join(f"{name}: {_told(curve)}" for name, curve in values.items())
    title = f"{what.capitalize()} along the straight line from A to B"
    return draw_svg(title, f"{told}.", draw, height=3.3)


def _values(line: Line, what: str) -> tuple[float, ...]:
    return line.barrier.losses if what == "loss" else (line.accuracy or ())


def _told(curve: tuple[float, ...]) -> str:
    places = {"at A": curve[0], "half-way": curve[len(curve) // 2], "at B": curve[-1]}
    return ", ".join(f"{f'{x:.3g}' if math.isfinite(x) else 'no number'} {where}" for where, x in places.items())
