"""Figure of how alike two matchings of the units of every space are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from weyl.report._canvas import SERIES, draw_svg, short
from weyl.report._text import counted, starred

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from weyl.identity import SpaceEvidence

__all__ = ["agreement"]

MANY = 20  # spaces; above this, those of equal layers share a bar
SHOWN = 40
ROW = 0.27  # inches


def agreement(spaces: Sequence[SpaceEvidence]) -> str:
    """Draw the share of units that two matchings send to the same place, a bar for every space.

    Parameters
    ----------
    spaces : sequence of SpaceEvidence
        Those that were tested.

    Returns
    -------
    str
        An ``<svg>`` element; a thin mark stands where two random permutations would be.
    """
    rows = bars(spaces)
    shown = rows[:SHOWN]

    def draw(ax: Axes) -> None:
        for row, (_, share, chance) in enumerate(shown):
            ax.barh(row, share, height=0.62, color=SERIES[0])
            ax.plot([chance, chance], [row - 0.42, row + 0.42], color=SERIES[1], linewidth=1.6)
            ax.text(share + 0.015, row, f"{100 * share:.1f} %", va="center", fontsize=9)
        ax.set_yticks(range(len(shown)), [short(name, 24) for name, _, _ in shown])
        ax.set(xlim=(0, 1.17), ylim=(len(shown) - 0.4, -0.6))
        ax.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)

    told = "; ".join(f"{name}: {100 * share:.1f} %, by chance {100 * chance:.1f} %" for name, share, chance in shown)
    more = f"; and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    height = 0.55 + ROW * max(len(shown), 2)
    title = f"Share of the units of {counted(len(spaces), 'space')} that two matchings send to the same place"
    return draw_svg(title, f"{told}{more}.", draw, height=height)


def bars(spaces: Sequence[SpaceEvidence]) -> list[tuple[str, float, float]]:
    """Name, share and chance of every bar; where spaces are many, means over those of equal layers."""
    families: dict[str, list[SpaceEvidence]] = {}
    for space in spaces:
        name = starred(space.name) if len(spaces) > MANY else space.name
        families.setdefault(name, []).append(space)
    found = []
    for name, members in families.items():
        units = sum(space.units for space in members)
        share = sum(space.ways[0].agreement * space.units for space in members) / units
        title = name if len(members) == 1 else f"{name} (×{len(members)})"
        found.append((title if len(members) > 1 else members[0].name, share, len(members) / units))
    return found
