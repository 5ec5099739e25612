"""A collapse as a figure and as a table for notebooks."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from weyl.errors import MissingExtraError

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from weyl.geometry._collapse import Collapse

__all__ = ["frame", "html_table", "plot"]

MOST_LABELS = 20
# Metrics that are zero for a simplex and have a level of chance, in the order of the axis.
SHOWN = ("nc1", "nc1_ratio", "cdnv", "nc2", "equinorm", "equiangular", "nc3", "nc4", "sk_defect", "logit_spread")


def plot(found: Collapse) -> Figure:
    """Draw cosines between class means less the simplex's, the shares of the classes, and metrics against chance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    angles, shares, metrics = figure.subplots(1, 3, width_ratios=(1.1, 1, 1.4))
    _angles(found, angles, figure)
    _shares(found, shares)
    _metrics(found, metrics)
    where = f" at {found.layer}" if found.layer else ""
    figure.suptitle(f"{len(found.classes)} classes, {found.samples:,} samples{where}", fontsize=11)
    return figure


def _angles(found: Collapse, ax: Axes, figure: Figure) -> None:
    k = len(found.classes)
    lengths = np.sqrt(np.clip(np.diag(found.gram), 0, None))
    scale = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    gap = found.gram * np.outer(scale, scale) + (1 / (k - 1) if k > 1 else 0)
    np.fill_diagonal(gap, 0)
    most = max(float(np.abs(gap).max()), 1e-12)
    image = ax.imshow(gap, cmap="RdBu_r", vmin=-most, vmax=most)
    figure.colorbar(image, ax=ax, shrink=0.85)
    ax.set_title("cosine of class means + 1/(k-1)", fontsize=10)
    step = math.ceil(k / MOST_LABELS)
    names = [_label(name, 10) for name in found.classes[::step]]
    ax.set_xticks(range(0, k, step), names, rotation=90, fontsize=8)
    ax.set_yticks(range(0, k, step), names, fontsize=8)


def _shares(found: Collapse, ax: Axes) -> None:
    worst = found.worst_classes(10)
    places = range(len(worst) - 1, -1, -1)
    ax.barh(places, [share for _, share in worst], color="#4453c9")
    ax.set_yticks(places, [_label(name, 14) for name, _ in worst], fontsize=8)
    ax.axvline(1 / max(len(found.classes), 1), color="#697083", linestyle="--", linewidth=1)
    ax.set_title("share of the S_k defect (dashed: equal)", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)


def _metrics(found: Collapse, ax: Axes) -> None:
    rows = [row for row in found.rows() if row["metric"] in SHOWN and row["chance"]]
    for place, row in enumerate(reversed(rows)):
        relative = row["value"] / row["chance"] if math.isfinite(row["value"]) else math.nan
        ax.plot([max(relative, 1e-6)], [place], "o", color="#4453c9")
        if row["floor"]:
            ax.plot([row["floor"] / row["chance"]], [place], "|", color="#16836b", markersize=12, markeredgewidth=2)
    ax.axvline(1, color="#c2571a", linestyle="--", linewidth=1)
    ax.set_yticks(range(len(rows)), [row["title"] for row in reversed(rows)], fontsize=8)
    ax.set_xscale("log")
    ax.set_title("value over chance (dashed: chance; bar: floor)", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)


def html_table(found: Collapse) -> str:
    """Write the rows as an HTML table."""

    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:.4g}"

    head = "".join(f"<th>{name}</th>" for name in ("metric", "value", "chance", "floor", "95 %", "meaning"))
    lines = []
    for row in found.rows():
        interval = "" if row["low"] is None else f"{row['low']:.4g} to {row['high']:.4g}"
        cells = (row["title"], cell(row["value"]), cell(row["chance"]), cell(row["floor"]), interval, row["meaning"])
        lines.append("<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in cells) + "</tr>")
    return f"<p>{html.escape(repr(found))}</p><table><tr>{head}</tr>{''.join(lines)}</table>"


def _label(name: str, most: int) -> str:
    """Shorten a name, and keep matplotlib from reading formulas into it."""
    return name[:most].replace("$", r"\$")


def frame(rows: Sequence[Mapping[str, Any]], index: str) -> pandas.DataFrame:
    """Make a pandas frame of rows."""
    try:
        import pandas
    except ImportError as error:
        raise MissingExtraError("to_frame needs pandas, which is not installed; pip install pandas") from error
    return pandas.DataFrame(rows).set_index(index)
