"""The tables of the README, from the results alone."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np

from studies.matching._design import ARMS, KINDS, SETS

BEGIN, END = "<!-- matching:table -->", "<!-- matching:end -->"
REPAIRED = {"plain": "", "repaired": ", repaired"}
METRICS = {"loss": "test loss", "train_loss": "training loss"}
WAYS = {"naive": "as trained", "first": "each matched with the first", "universe": "all in one universe"}


def height(curve: list[float]) -> float:
    """Barrier of a loss along a line: the most by which it exceeds the chord between its ends; 0 if it never does.

    Parameters
    ----------
    curve : list of float
        At equal distances, both ends included.
    """
    values = np.array(curve)
    return float((values - np.linspace(values[0], values[-1], len(values))).max())


def panels(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Data sets and kinds of networks, in the order of `SETS` and `KINDS`."""
    found = {(run["data"], run["kind"]) for run in results["runs"]}
    return [(data, kind) for data in SETS for kind in KINDS if (data, kind) in found]


def widths(results: dict[str, Any], data: str, kind: str) -> list[int]:
    """Widths of a panel, in order."""
    return sorted({run["width"] for run in results["runs"] if (run["data"], run["kind"]) == (data, kind)})


def arms(results: dict[str, Any]) -> list[str]:
    """The arms that the results have."""
    found = {run["arm"] for run in results["runs"]}
    return [arm for arm in ARMS if arm in found]


def curves(results: dict[str, Any], where: tuple[str, str, int], arm: str, what: str) -> list[dict[str, list[float]]]:
    """Losses and accuracies along the lines of all pairs of a data set, a kind and a width."""
    return [
        run[what] for run in results["runs"] if (run["data"], run["kind"], run["width"]) == where and run["arm"] == arm
    ]


def heights(
    results: dict[str, Any], where: tuple[str, str, int], arm: str, what: str, metric: str = "loss"
) -> list[float]:
    """Barrier of every pair; that of the accuracy is the most by which it falls below the chord."""
    sign = -1 if metric == "accuracy" else 1
    return [height([sign * value for value in curve[metric]]) for curve in curves(results, where, arm, what)]


def table(results: dict[str, Any]) -> str:
    """Barriers of both losses for every panel, and several networks merged into one."""
    parts = [_barriers(results, panel, metric) for panel in panels(results) for metric in METRICS]
    parts += [_together(run) for run in results["runs"] if run["arm"] == "together"]
    return "\n".join(parts)


def _barriers(results: dict[str, Any], panel: tuple[str, str], metric: str) -> str:
    every = widths(results, *panel)
    lines = [
        f"**{SETS[panel[0]]}, {KINDS[panel[1]]}**: barrier of the {METRICS[metric]}",
        "",
        "| | " + " | ".join(f"width {width}" for width in every) + " | test accuracy at the widest falls by |",
        "|---" * (len(every) + 2) + "|",
    ]
    for arm in arms(results):
        for what, ending in REPAIRED.items():
            cells = [_interval(heights(results, (*panel, width), arm, what, metric)) for width in every]
            falls = heights(results, (*panel, every[-1]), arm, what, "accuracy")
            cells.append(_interval([100 * fall for fall in falls], "{:.1f}") + " points" if falls else "")
            lines.append(f"| {ARMS[arm]}{ending} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _together(run: dict[str, Any]) -> str:
    singles = {name: [one[name] for one in run["single"]] for name in ("loss", "accuracy")}
    lines = [
        f"**{run['networks']} networks of {SETS[run['data']]}, width {run['width']}, merged into one**",
        "",
        "| | test loss | accuracy |",
        "|---|---|---|",
        f"| a single one, mean | {np.mean(singles['loss']):.3f} | {np.mean(singles['accuracy']):.2%} |",
    ]
    for way, name in WAYS.items():
        for what, ending in REPAIRED.items():
            lines.append(f"| {name}{ending} | {run[way][what]['loss']:.3f} | {run[way][what]['accuracy']:.2%} |")
    return "\n".join(lines) + "\n"


def _interval(values: list[float], form: str = "{:.3f}") -> str:
    """Median and range."""
    if not values:
        return ""
    low, middle, high = (form.format(value) for value in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} [{low}, {high}]"


def with_table(text: str, results: dict[str, Any]) -> str:
    """Return the README with the tables between their marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table(results)}{END}{after}"
