"""The table of the README, from the results alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any

from studies.collapse._design import CLASSES, DESIGN, HIDDEN, LIMITS, RATIO
from weyl.geometry import reference_levels

COSINES = "Mean cosine between centred class means, training data:"
BEGIN, END = "<!-- collapse:table -->", "<!-- collapse:end -->"
Run = dict[str, Any]


def table(results: dict[str, Any]) -> str:
    """Write the table: the median over seeds and, in brackets, the least and the greatest.

    Parameters
    ----------
    results : dict
        As `read_results` gives them.
    """
    lines = [
        "| | train: accuracy, % | NC1 (tr Σ_W / tr Σ_B) | NC2 | NC3 | collapsed | test: accuracy, % | NC1 | NC2 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for factor, arms in DESIGN.items():
        found = [(arm, _of(results, arm.name)) for arm in arms]
        if any(runs for _, runs in found):
            lines.append(f"| **{factor}** | | | | | | | | |")
        lines += [_row(arm.title, runs) for arm, runs in found if runs]
    lines.append(_row("the base before training", [before(run) for run in _of(results, "base")]))
    lines.append(_chance(results["references"]))
    lines.append(_chance_of_sizes(results["constants"]["train"]))
    return "\n".join(lines) + "\n"


def cosine_table(results: dict[str, Any]) -> str:
    """Write the mean cosine between the means of rare classes, of others, and of one and the other."""
    arms = [arm for arm in DESIGN["Class sizes and weights"] if any(_of(results, arm.name))]
    lines = ["| | both rare | both frequent | one of each |", "|---|---|---|---|"]
    for arm in (*DESIGN["Base"], *arms):
        runs = _of(results, arm.name)
        cells = [[_cosines(run)[i] for run in runs] for i in range(3)]
        shown = (_range([f"{value:.2f}" for value in (min(cell), median(cell), max(cell))]) for cell in cells)
        lines.append(f"| {arm.title} | {' | '.join(shown)} |")
    lines.append(f"| *simplex* | {' | '.join([f'{-1 / (CLASSES - 1):.2f}'] * 3)} |")
    return "\n".join(lines) + "\n"


def _cosines(run: Run) -> tuple[float, float, float]:
    rare = set(run["rare"])
    found: tuple[list[float], ...] = ([], [], [])
    for i, row in enumerate(run["cosines"]):
        for j in range(i):
            few = len(rare & {i, j})
            found[{2: 0, 0: 1, 1: 2}[few]].append(row[j])
    rare_pairs, frequent, mixed = map(fmean, found)
    return rare_pairs, frequent, mixed


def _of(results: dict[str, Any], name: str) -> list[Run]:
    return [run for run in results["runs"] if run["arm"]["name"] == name]


def before(run: Run) -> Run:
    """The same network before its first step, as if it had ended there."""
    paths = run["trajectory"]
    return {"final": {part: {name: path[0] for name, path in paths[part].items()} for part in ("train", "test")}}


def with_tables(text: str, results: dict[str, Any]) -> str:
    """Return the README with both tables between their marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table(results)}\n{COSINES}\n\n{cosine_table(results)}{END}{after}"


def collapsed(run: Run) -> bool:
    """Whether the training features of a run are within all the limits, at a training accuracy of 99.9 %."""
    end = run["final"]["train"]
    return end["accuracy"] >= 0.999 and all(end[name] <= limit for name, limit in LIMITS.items())


def spread(runs: Sequence[Run], part: str, name: str, show: Callable[[float], str]) -> str:
    """Write a median over seeds with the least and the greatest value."""
    values = [run["final"][part][name] for run in runs]
    if any(value is None for value in values):
        return "–"
    return _range([show(value) for value in (min(values), median(values), max(values))])


def _range(shown: Sequence[str]) -> str:
    low, middle, high = shown
    return middle if low == high else f"{middle} [{low}, {high}]"


def _row(title: str, runs: Sequence[Run]) -> str:
    cells = [title, spread(runs, "train", "accuracy", _percent)]
    cells += [spread(runs, "train", name, number) for name in ("nc1_ratio", "nc2", "nc3")]
    cells.append(f"{sum(map(collapsed, runs))} of {len(runs)}")
    cells.append(spread(runs, "test", "accuracy", _percent))
    cells += [spread(runs, "test", name, number) for name in ("nc1_ratio", "nc2")]
    return f"| {' | '.join(cells)} |"


def _chance(levels: dict[str, Any]) -> str:
    train, test = levels["train"], levels["test"]
    cells = ["*chance: Gaussian features without classes*", "10"]
    cells += [number(train[name]["chance"]) for name in ("nc1_ratio", "nc2", "nc3")]
    cells += ["", "10", *(number(test[name]["chance"]) for name in ("nc1_ratio", "nc2"))]
    return f"| {' | '.join(cells)} |"


def _chance_of_sizes(images: int) -> str:
    """The same for the training sizes of the arms with classes of unequal size."""
    large = 2 * images // CLASSES
    sizes = [large] * (CLASSES // 2) + [max(1, large // RATIO)] * (CLASSES - CLASSES // 2)
    levels = reference_levels(sizes, HIDDEN[-1])
    cells = ["*the same, sizes 100:1*", ""]
    cells += [number(levels[name].chance or 0.0) for name in ("nc1_ratio", "nc2", "nc3")]
    return f"| {' | '.join([*cells, *[''] * 4])} |"


def number(value: float) -> str:
    """Two significant digits, in plain notation where that is short."""
    if value >= 10:
        return f"{value:.0f}"
    return f"{value:.2g}" if value < 1e-3 else f"{float(f'{value:.2g}'):g}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
