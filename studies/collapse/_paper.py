"""Figures as files: SVG that follows a light or dark page, PNG in either, the same bytes for the same input."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

# Name: drawn in, on light, on dark. Nothing else is drawn in the first, so that it can be found in the SVG; black will
# not do, because matplotlib leaves it out.
COLOURS: Mapping[str, tuple[str, str, str]] = {
    "paper": ("#000009", "#ffffff", "#12151c"),
    "ink": ("#000001", "#1f2430", "#e8eaf0"),
    "muted": ("#000002", "#697083", "#98a0b3"),
    "line": ("#000003", "#dfe2ea", "#2e3442"),
    "c1": ("#0000a1", "#4453c9", "#8d9bff"),
    "c2": ("#0000a2", "#cf5f17", "#ff9a57"),
    "c3": ("#0000a3", "#16836b", "#45c9a8"),
    "c4": ("#0000a4", "#a4399b", "#ea86e0"),
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
SETTINGS = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "svg.fonttype": "none",
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}
Draw = Callable[[Mapping[str, str]], Figure]


def write(draw: Draw, path: Path, title: str, description: str) -> list[Path]:
    """Write ``path`` with the endings .svg, .png and -dark.png.

    Parameters
    ----------
    draw : callable
        Makes the figure from colours by name.
    path : Path
        Without an ending.
    title, description : str
        For readers who cannot see the figure.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_suffix(".svg"), path.with_suffix(".png"), path.with_name(f"{path.name}-dark.png")]
    files[0].write_text(svg(draw, title, description), encoding="utf-8")
    for file, scheme in zip(files[1:], (1, 2), strict=True):
        _save(draw, {name: shades[scheme] for name, shades in COLOURS.items()}, file, "png")
    return files


def svg(draw: Draw, title: str, description: str) -> str:
    """Draw once; a style sheet inside the file chooses the colours."""
    buffer = io.StringIO()
    _save(draw, {name: shades[0] for name, shades in COLOURS.items()}, buffer, "svg")
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"font-family: [^;\"]*", f"font-family: {FONT}", text)
    text = re.sub(r"(-?\d+\.\d{2})\d+", r"\1", text)
    for name, (drawn, _, _) in COLOURS.items():
        text = text.replace(drawn, f"var(--{name})")
    label = html.escape(f"{title}. {description}")
    schemes = [";".join(f"--{name}:{shades[i]}" for name, shades in COLOURS.items()) for i in (1, 2)]
    style = f"<style>svg{{{schemes[0]}}}@media(prefers-color-scheme:dark){{svg{{{schemes[1]}}}}}</style>"
    text = text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    text = text.replace(">", f">\n<title>{label}</title>\n{style}", 1)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + re.sub(r"\n\s*", "\n", text) + "\n"


def _save(draw: Draw, colours: Mapping[str, str], target: Any, kind: str) -> None:
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        chosen = {
            "text.color": colours["ink"],
            "axes.edgecolor": colours["line"],
            "axes.labelcolor": colours["muted"],
            "figure.facecolor": colours["paper"],
            "grid.color": colours["line"],
            "xtick.color": colours["line"],
            "ytick.color": colours["line"],
            "xtick.labelcolor": colours["muted"],
            "ytick.labelcolor": colours["muted"],
        }
        matplotlib.rcParams.update({**SETTINGS, **chosen, "svg.hashsalt": "weyl"})
        nothing = {"Software": None} if kind == "png" else dict.fromkeys(("Date", "Creator", "Format", "Type"))
        draw(colours).savefig(target, format=kind, dpi=160, metadata=nothing)
