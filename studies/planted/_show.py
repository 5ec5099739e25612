"""The tables of the README and the figure, from the results alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from studies.collapse import _paper as paper

BEGIN, END = "<!-- planted:table -->", "<!-- planted:end -->"
WAYS = {"weyl": "weyl.match", "plain": "the published loop"}


def blocks(results: dict[str, Any]) -> list[tuple[int, int]]:
    """Sizes of the blocks."""
    return list(dict.fromkeys((row["stream"], row["inside"]) for row in results["recovery"]))


def table(results: dict[str, Any]) -> str:
    """Recovery against noise, and the oracle."""
    lines = [
        "| stream, inside | noise | trials | weyl.match | recognised as exact | the published loop |",
        "|---" * 6 + "|",
    ]
    lines += [
        f"| {row['stream']}, {row['inside']} | {row['noise']:g} | {row['trials']} | {row['weyl']} | {row['exact']} "
        f"| {row['plain']} |"
        for row in results["recovery"]
    ]
    lines += [
        "",
        "| network | elements | pairs | optimum found, 1 start | 10 starts | share of it, 1 start | 10 starts |",
    ]
    lines += ["|---" * 7 + "|"]
    lines += [
        f"| {row['network']} | {row['elements']} | {row['pairs']} | {row['attained_1'] / row['pairs']:.0%} "
        f"| {row['attained_10'] / row['pairs']:.0%} | {row['share_1']:.4f} | {row['share_10']:.4f} |"
        for row in results["oracle"]
    ]
    return "\n".join(lines) + "\n"


def with_table(text: str, results: dict[str, Any]) -> str:
    """Return the README with the tables between their marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table(results)}{END}{after}"


def write_figure(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write the figure, as SVG and as PNG on light and on dark."""
    return paper.write(
        lambda colours: figure(results, colours),
        folder / "planted",
        "Planted permutations that are found, against noise",
        "Share of planted permutations of a residual block that are found exactly, by weyl and by the published loop.",
    )


def figure(results: dict[str, Any], colours: Mapping[str, str]) -> Figure:
    """Share that is found against noise, one panel a block."""
    shown = blocks(results)
    drawn = Figure(figsize=(1 + 3.6 * len(shown), 3.4), layout="constrained")
    for axes, size in zip(drawn.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        rows = [row for row in results["recovery"] if (row["stream"], row["inside"]) == size]
        for (way, name), colour in zip(WAYS.items(), ("c1", "c2"), strict=True):
            shares = [100 * row[way] / row["trials"] for row in rows]
            axes.plot(
                [row["noise"] for row in rows], shares, marker="o", markersize=4, color=colours[colour], label=name
            )
        axes.set_title(f"stream of {size[0]}, {size[1]} inside", fontsize=9, color=colours["muted"], loc="left")
        axes.set(xlabel="noise, relative to the weights", ylim=(-3, 103))
    drawn.axes[0].set(ylabel="found exactly, %")
    drawn.axes[0].legend(frameon=False, fontsize=9)
    return drawn
