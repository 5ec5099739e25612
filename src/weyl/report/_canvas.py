"""The paper that figures are drawn on: SVG text whose colours the page chooses, the same bytes for the same input."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Mapping
from typing import Any

from weyl.report._text import printable

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
# In inches: on a phone of 390 pixels, a point of such a figure is a pixel and a little more.
WIDTH = 4.4
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


# What a file of its own has where the reader's system is dark; the same colours as a page of weyl.
DARK: Mapping[str, str] = {
    "paper": "#14161c",
    "ink": "#e9ebf2",
    "muted": "#a2a9bb",
    "line": "#343947",
    "c1": "#97a3ff",
    "c2": "#ff9d66",
    "c3": "#57c9ad",
    "c4": "#e58fdd",
    "c5": "#d8b94a",
}


def standalone(svg: str) -> str:
    """Turn a figure into the text of a file: on a ground of its own, light or dark as the reader's system is.

    Every colour is written twice, so that a viewer without CSS variables takes the first, the light one.

    Examples
    --------
    >>> standalone('<svg width="9"><path style="fill: var(--ink, #123456)"/></svg>').splitlines()[-1]
    '<path style="fill: #123456; fill: var(--ink)"/></svg>'
    """
    twice = re.sub(r"([\w-]+): var\((--\w+), (#[0-9a-f]{6})\)", r"\1: \3; \1: var(\2)", svg)
    light = {"paper": "#ffffff", **dict(COLOURS.values())}
    sets = (";".join(f"--{name}:{colour}" for name, colour in chosen.items()) for chosen in (light, DARK))
    style = "<style>svg{{{}}}@media(prefers-color-scheme:dark){{svg{{{}}}}}</style>".format(*sets)
    ground = r'<svg \1 style="background: #ffffff; background: var(--paper)">'
    twice = re.sub(r"<svg ([^>]*)>", ground + "\n" + style + "\n", twice, count=1)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{twice}\n'


def draw_svg(
    title: str, description: str, draw: Callable[..., None], height: float = 3.1, width: float = WIDTH, panels: int = 1
) -> str:
    """Draw on a figure of its own, under settings of weyl's own, and clean the SVG up.

    ``draw`` is given the axes of every panel; panels stand side by side and share the vertical axis.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        # Ids are hashes: a salt per figure keeps those of two figures in one page apart.
        matplotlib.rcParams.update({**SETTINGS, "svg.hashsalt": f"weyl {title} {description}"})
        figure = Figure(figsize=(width, height))
        if panels > 1:
            engine: Any = figure.get_layout_engine()
            engine.set(w_pad=0.12)  # numbers at the ends of neighbouring axes must not touch
        draw(*figure.subplots(1, panels, sharey=True, squeeze=False)[0])
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
