"""The paper that figures are drawn on: SVG text whose colours the page chooses, the same bytes for the same input."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from weyl.report._text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["INK", "LINE", "MUTED", "SERIES", "draw_svg", "locator", "short", "standalone"]

# Drawn in the colour on the left, which nothing else uses; written as the variable on the right.
COLOURS: Mapping[str, tuple[str, str]] = {
    "#000001": ("ink", "#1f2430"),
    "#000002": ("muted", "#697083"),
    "#000003": ("line", "#dfe2ea"),
    "#0000a1": ("c1", "#4453c9"),
    "#0000a2": ("c2", "#c2571a"),
    "#0000a3": ("c3", "#16836b"),
    "#0000a4": ("c4", "#a4399b"),
    "#0000a5": ("c5", "#8a6d00"),
}
INK, MUTED, LINE, *SERIES = COLOURS
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
SETTINGS: Mapping[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
}


def standalone(svg: str) -> str:
    """Turn a figure into the text of a file: fixed colours, on white, for viewers without CSS variables.

    Examples
    --------
    >>> standalone('<svg width="9"><path style="fill: var(--ink, #123456)"/></svg>').splitlines()[1]
    '<svg width="9" style="background: #ffffff"><path style="fill: #123456"/></svg>'
    """
    fixed = re.sub(r"var\(--\w+, (#[0-9a-f]{6})\)", r"\1", svg)
    fixed = re.sub(r"<svg ([^>]*)>", r'<svg \1 style="background: #ffffff">', fixed, count=1)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{fixed}\n'


def draw_svg(
    title: str, description: str, draw: Callable[[Axes], None], height: float = 3.1, width: float = 5.2
) -> str:
    """Draw on a figure of its own, under settings of weyl's own, and clean the SVG up."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        # Ids are hashes: a salt per figure keeps those of two figures in one page apart.
        matplotlib.rcParams.update({**SETTINGS, "svg.hashsalt": f"weyl {title} {description}"})
        figure = Figure(figsize=(width, height))
        draw(figure.subplots())
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    return _clean(buffer.getvalue(), title, description)


def _clean(svg: str, title: str, description: str) -> str:
    """Drop what one page may hold only once, name the figure for screen readers, and set the variables."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: [^;\"]*", f"font-family: {FONT}", svg)
    svg = re.sub(r"#0000(?:0[1-3]|a[1-5])", lambda found: _variable(found[0]), svg)
    label = html.escape(f"{printable(title)}. {printable(description)}")
    head = f'<svg role="img" aria-label="{label}" '
    return re.sub(r"\n\s*", "\n", svg.replace("<svg ", head, 1).replace(">", f">\n<title>{label}</title>", 1))


def _variable(sentinel: str) -> str:
    name, fallback = COLOURS[sentinel]
    return f"var(--{name}, {fallback})"


def locator(ticks: int, integer: bool = False) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(ticks, integer=integer)


def short(name: str, limit: int = 30) -> str:
    name = printable(name)
    # matplotlib reads a pair of dollar signs as mathematics.
    name = name if len(name) <= limit else f"{name[: limit // 3]}…{name[-(limit - limit // 3 - 1) :]}"
    return name.replace("$", r"\$")
