"""Figures as SVG text: the same input gives the same bytes, and the page that holds one chooses its colours.

Every colour is written as a CSS variable with a fallback, so that a figure inside a page follows the page's light
or dark scheme; `standalone` fixes them for a file of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from weyl.report._canvas import MUTED, SERIES, draw_svg, locator, short, standalone
from weyl.report._text import subscripts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from weyl.groups import Order
    from weyl.report._content import Path
    from weyl.structure import Structure

__all__ = ["barrier", "dimensions", "growth", "spaces", "standalone"]

UNIVERSE = 80  # log10 of the usual estimate of the number of atoms in the observable universe
SHOWN = 40
BESIDE = 24  # characters of a name and a group together that leave a phone room for what is between them
CLOSE = 0.3  # decades between two levels, below which their names stand on different sides


def growth(widths: Sequence[int] = (), depths: Iterable[int] = (1, 2, 3, 4, 5), mark: Order | None = None) -> str:
    r"""Draw :math:`\log_{10} N = d \log_{10} n!` against the width n, for networks of d hidden layers.

    Parameters
    ----------
    widths : sequence of int, optional
        Widths to draw at, increasing; 2 to 1024 unless given.
    depths : iterable of int
        Numbers of hidden layers, one curve each, at most five.
    mark : Order, optional
        A count to mark with a horizontal line.

    Returns
    -------
    str
        An ``<svg>`` element.

    References
    ----------
    Michelucci, arXiv 2211.06603 (2022): the count for feed-forward networks.
    """
    grid = list(widths) or [2, 3, 4, 6, 8, 12, *range(16, 1025, 16)]
    heights = {d: [d * math.lgamma(n + 1) / math.log(10) for n in grid] for d in depths}
    most = max(height[-1] for height in heights.values())

    def draw(ax: Axes) -> None:
        for height, colour in zip(heights.values(), SERIES, strict=False):
            ax.plot(grid, height, color=colour)
        ax.set(yscale="log", xlim=(0, grid[-1]), ylim=(1, None))
        ax.set(xlabel="units in each hidden layer", ylabel="decimal digits of the count")
        ax.xaxis.set_major_locator(locator(5))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        levels: list[tuple[float, str]] = [(UNIVERSE, "atoms in the observable universe")]
        levels += [(mark.log10, "this network")] if mark is not None and mark.log10 >= 1 else []
        for level, text in levels:
            ax.axhline(level, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            # Where no curve runs: above the line and left of the deepest network's curve, or below it at the right.
            crossing = [_first(grid, heights[d], level) / grid[-1] for d in (max(heights), min(heights))]
            left = crossing[0] > 1 - crossing[1]
            side, x, y, va = ("left", 0.01, 1.08, "bottom") if left else ("right", 0.99, 0.9, "top")
            other = next((place for place, _ in levels if place != level), level)
            if 0 < abs(math.log10(level / other)) < CLOSE:
                y, va = (1.08, "bottom") if level > other else (0.9, "top")
            ax.text(grid[-1] * x, level * y, text, color=MUTED, ha=side, va=va, fontsize=9)
        # Curves of a logarithmic scale run close together: labels to their right, an even distance apart.
        places = _spread([math.log10(height[-1]) for height in heights.values()], least=0.26)
        for depth, place, colour in zip(heights, places, SERIES, strict=False):
            label = f"{depth} layer{'s' * (depth > 1)}"
            ax.text(grid[-1] * 1.02, 10**place, label, color=colour, va="center", fontsize=9)

    text = f"Curves for {', '.join(map(str, heights))} hidden layers rise to {most:,.0f} digits at width {grid[-1]}."
    if mark is not None:
        text += f" This network has {mark.log10:,.0f}."
    return draw_svg("Growth of the number of equivalent minima with width", text, draw)


def barrier(path: Path, others: Sequence[Path] = (), name: str = "the network") -> str:
    """Draw the loss along the straight line from a minimum to its own twin.

    Parameters
    ----------
    path : Path
        The line to draw.
    others : sequence of Path
        More of them, thin.
    name : str
        Which network, for the description.

    Returns
    -------
    str
        An ``<svg>`` element.
    """

    def draw(ax: Axes) -> None:
        for other in others:
            ax.plot(other.at, other.loss, color=SERIES[0], linewidth=0.8, alpha=0.4)
        ax.fill_between(path.at, path.loss, [min(path.loss)] * len(path.at), color=SERIES[0], alpha=0.12, linewidth=0)
        ax.plot(path.at, path.loss, color=SERIES[0])
        ends = (path.at[0], path.at[-1]), (path.loss[0], path.loss[-1])
        ax.plot(*ends, "o", color=SERIES[1], markersize=8, clip_on=False, zorder=5)
        top = max(path.loss)
        where = path.at[path.loss.index(top)]
        ax.annotate(
            "",
            xy=(where, top),
            xytext=(where, path.loss[0]),
            arrowprops={"arrowstyle": "<->", "color": MUTED, "shrinkA": 0, "shrinkB": 0},
        )
        ax.text(where + 0.02, 0.13 * top + 0.87 * path.loss[0], f"barrier\n{path.barrier:.2f}", fontsize=11)
        ax.set(xlim=(-0.02, 1.02), ylim=(0, top * 1.08), ylabel="loss on held-out images")
        ax.set_xticks([0, 0.5, 1], ["the minimum", "half-way", "its twin"])
        ax.xaxis.get_majorticklabels()[0].set_horizontalalignment("left")
        ax.xaxis.get_majorticklabels()[2].set_horizontalalignment("right")
        ax.grid(axis="x", visible=False)

    text = (
        f"The loss of {name} is {path.loss[0]:.3f} at the minimum, rises to {max(path.loss):.2f} between"
        f" and is {path.loss[-1]:.3f} at the twin."
    )
    return draw_svg("Loss along the straight line from a minimum to its own twin", text, draw)


def dimensions(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw the continuous dimension of a group item by item, as bars.

    Parameters
    ----------
    rows : sequence of mapping
        As from `weyl.report.gauge_families`; the 40 of largest dimension are drawn.

    Returns
    -------
    str
        An ``<svg>`` element; bars of one colour are of one kind.
    """
    items = sorted((row for row in rows if row["dimension"]), key=lambda row: -row["dimension"])
    shown = items[:SHOWN]
    kinds = list(dict.fromkeys(row["what"] for row in shown))
    names = [f"{row['what']}, {short(row['space'] or 'whole tensors', 24)}" for row in shown]

    def draw(ax: Axes) -> None:
        widths = [row["dimension"] for row in shown]
        colours = [SERIES[kinds.index(row["what"]) % len(SERIES)] for row in shown]
        ax.barh(range(len(shown)), widths, color=colours, height=0.62)
        for at, width in enumerate(widths):
            ax.annotate(f"{width:,}", (width, at), (5, 0), textcoords="offset points", va="center", fontsize=9)
        # Names stand above their bars: beside them they would leave no room on a phone.
        for at, name in enumerate(names):
            ax.text(0, at - 0.34, name, va="bottom", fontsize=9, color=MUTED)
        ax.set(ylim=(len(shown) - 0.5, -0.95), xlim=(0, max(widths) * 1.16), xlabel="continuous dimension")
        ax.set_yticks([])
        ax.xaxis.set_major_locator(locator(4, integer=True))
        ax.grid(axis="y", visible=False)
        ax.tick_params(length=0)

    text = "; ".join(f"{name}: {row['dimension']:,}" for name, row in zip(names, shown, strict=True))
    more = f" The {len(items) - SHOWN} smallest of {len(items)} are not drawn." if len(items) > SHOWN else ""
    title = "Continuous dimension of the group, item by item"
    return draw_svg(title, text.replace(r"\$", "$") + "." + more, draw, height=0.8 + 0.46 * len(shown))


def spaces(structure: Structure) -> str:
    """Draw where every space occurs: a row a space, a column a parameter, filled dots for written dimensions.

    Parameters
    ----------
    structure : Structure
        At most 40 of its spaces are drawn.

    Returns
    -------
    str
        An ``<svg>`` element; long rows are shared streams, short ones inner layers.
    """
    shown = structure.spaces[:SHOWN]
    acting = structure.group.kinds
    moved = {name for space in structure.spaces for name, _ in space.occurrences}
    column = {name: i for i, name in enumerate(n for n in structure.axes if n in moved)}
    rows = [[(column[name], dim) for name, dim in space.occurrences] for space in shown]
    names = [short(space.name) for space in shown]
    labels = [_acting(acting[space.name], space.multiplicity) for space in shown]
    above = any(len(name) + len(label) > BESIDE for name, label in zip(names, labels, strict=True))

    def draw(ax: Axes) -> None:
        for row, places in enumerate(rows):
            colour = SERIES[row % len(SERIES)]
            ax.plot([min(places)[0], max(places)[0]], [row, row], color=colour, linewidth=1.2, alpha=0.45)
            for filled in (True, False):
                at = [x for x, dim in places if (dim == 0) is filled]
                face = colour if filled else "none"
                ax.plot(at, [row] * len(at), "o", color=colour, markerfacecolor=face, markersize=5.5)
            across = ax.get_yaxis_transform()
            if above:
                ax.text(0, row - 0.24, names[row], transform=across, va="bottom", fontsize=9, color=MUTED)
                ax.text(1, row - 0.24, labels[row], transform=across, ha="right", va="bottom", fontsize=9, color=colour)
            else:
                ax.text(1.03, row, labels[row], transform=across, va="center", fontsize=9, color=colour)
        ax.set_yticks([] if above else range(len(shown)), [] if above else names, fontsize=9)
        ax.set_ylim(len(shown) - 0.4, -0.95 if above else -0.6)
        ax.set_xlabel("parameters and buffers, in the order of the model")
        ax.xaxis.set_major_locator(locator(6, integer=True))
        ax.grid(axis="y", visible=False)
        ax.tick_params(length=0)

    text = f"{len(shown)} of {len(structure.spaces)} spaces and the {len(column)} tensors in which they occur."
    height = 1.1 + (0.46 if above else 0.26) * max(len(shown), 1)
    return draw_svg("Spaces of the model, and where each occurs", text, draw, height=height)


def _acting(symbol: str, copies: int) -> str:
    """What acts on a space, and on how many copies of it."""
    return f"{subscripts(symbol)}{f' ×{copies}' if copies > 1 else ''}"


def _first(places: Sequence[int], heights: Sequence[float], level: float) -> int:
    """Where a rising curve reaches a level; the last place if it does not."""
    return next((x for x, height in zip(places, heights, strict=True) if height >= level), places[-1])


def _spread(places: Sequence[float], least: float) -> list[float]:
    """Push increasing places apart, upwards, until neighbours have the least distance."""
    spread = list(places)
    for i in range(1, len(spread)):
        spread[i] = max(spread[i], spread[i - 1] + least)
    return spread
