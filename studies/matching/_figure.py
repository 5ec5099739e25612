"""The figure of the study, from the results alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.collapse import _paper as paper
from studies.matching._design import ARMS, KINDS, SETS
from studies.matching._table import METRICS, REPAIRED, arms, heights, panels, widths

COLOURS = dict(zip(ARMS, ("c1", "c2", "c3", "c4"), strict=True))
LINES = {"plain": "-", "repaired": "--"}
SHIFT = 1.02  # between arms, so that their intervals do not hide each other


def write_figure(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write the figure, as SVG and as PNG on light and on dark."""
    return paper.write(
        lambda colours: figure(results, colours),
        folder / "matching",
        "Barriers between trained networks",
        "Barriers of test and training loss against width, by data set and architecture, before and after matching.",
    )


def figure(results: dict[str, Any], colours: Mapping[str, str]) -> Figure:
    """Barriers against width: medians over pairs, bars from lowest to highest; test loss above, training loss below."""
    shown = panels(results)
    drawn = Figure(figsize=(0.6 + 3.1 * max(len(shown), 3), 6.6), layout="constrained")
    every = drawn.subplots(len(METRICS), len(shown), squeeze=False)
    for row, (metric, title) in zip(every, METRICS.items(), strict=True):
        for axes, panel in zip(row, shown, strict=True):
            _panel(axes, results, panel, metric, colours)
            name = f"{SETS[panel[0]].split(',')[0]}, {KINDS[panel[1]].split(',')[0]}"
            axes.set_title(name, fontsize=9, color=colours["muted"], loc="left")
        row[0].set(ylabel=f"barrier of the {title}")
    handles, labels = every[0][0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return drawn


def _panel(
    axes: Axes, results: dict[str, Any], panel: tuple[str, str], metric: str, colours: Mapping[str, str]
) -> None:
    every = widths(results, *panel)
    for place, arm in enumerate(arms(results)):
        for what, ending in REPAIRED.items():
            found = [heights(results, (*panel, width), arm, what, metric) for width in every]
            there = [(width, values) for width, values in zip(every, found, strict=True) if values]
            middle = [median(values) for _, values in there]
            below = [m - min(values) for m, (_, values) in zip(middle, there, strict=True)]
            above = [max(values) - m for m, (_, values) in zip(middle, there, strict=True)]
            axes.errorbar(
                [width * SHIFT ** (place - 1.5) for width, _ in there],
                middle,
                [below, above],
                color=colours[COLOURS[arm]],
                linestyle=LINES[what],
                marker="o" if what == "plain" else "s",
                markersize=3.5,
                elinewidth=1,
                label=ARMS[arm] + ending,
            )
    axes.set_xscale("log", base=2)
    axes.set_xticks(every, [str(width) for width in every])
    axes.minorticks_off()
    axes.set_xlim(every[0] / 1.3, every[-1] * 1.3)
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    axes.set(xlabel="width")
