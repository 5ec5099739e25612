"""The tables of the README and the figure, from the results alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from studies.collapse import _paper as paper
from studies.identity._design import APART, KINDS, RANKED, SCORES
from studies.identity._pair import CASES
from studies.identity._scores import auc, curve

BEGIN, END = "<!-- identity:table -->", "<!-- identity:end -->"
VERDICTS = ("identical", "same function", "same up to precision", "derived", "unrelated", "inconclusive")
LEAST = 1e-300  # p-values are not computed below


def table(results: dict[str, Any]) -> str:
    """Verdicts for every kind, the areas under the curves, and the pair."""
    parts = [_verdicts(results), _wrong(results), _areas(results)]
    return "\n".join([*parts, *([_pair(results["pair"])] if results["pair"] else [])])


def kinds(results: dict[str, Any]) -> list[str]:
    """Kinds that the results have, in the order of the design."""
    there = {row["kind"] for row in results["rows"]}
    return [kind for kind in KINDS if kind in there]


def wrong(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Pairs with another verdict than the kind demands."""
    return [row for row in results["rows"] if row["verdict"] != KINDS[row["kind"]].verdict]


def _verdicts(results: dict[str, Any]) -> str:
    said = [verdict for verdict in VERDICTS if any(row["verdict"] == verdict for row in results["rows"])]
    lines = [
        "| the second network is the first, | demanded | " + " | ".join(said) + " | seconds |",
        "|---" * (len(said) + 3) + "|",
    ]
    for kind in kinds(results):
        rows = [row for row in results["rows"] if row["kind"] == kind]
        counts = Counter(row["verdict"] for row in rows)
        cells = [str(counts[verdict] or "") for verdict in said]
        seconds = f"{median(row['seconds'] for row in rows):.2f}"
        lines.append(f"| {KINDS[kind].title} | {KINDS[kind].verdict} | " + " | ".join(cells) + f" | {seconds} |")
    return "\n".join(lines) + "\n"


def _wrong(results: dict[str, Any]) -> str:
    """Which verdicts are not as demanded, by family and kind."""
    found = Counter((row["family"], row["kind"], row["verdict"]) for row in wrong(results))
    totals = Counter((row["family"], row["kind"]) for row in results["rows"])
    titles = {family["name"]: family["title"] for family in results["families"]}
    lines = ["| not as demanded | | said | pairs |", "|---|---|---|---|"]
    for (family, kind, verdict), count in sorted(found.items()):
        lines.append(f"| {titles[family]} | {KINDS[kind].title} | {verdict} | {count} of {totals[family, kind]} |")
    return "\n".join(lines if found else ["Every verdict is as demanded."]) + "\n"


def score(row: dict[str, Any], name: str, how: str) -> float:
    """How near a way of comparing says that a pair is; larger for nearer ones."""
    if name == "weyl":
        return 300.0 if row["p"] is None else -float(np.log10(max(row["p"], LEAST)))
    return float(row[how][name])


def areas(
    results: dict[str, Any], family: str | None, ranked: tuple[str, ...] = RANKED
) -> dict[tuple[str, str], float]:
    """Area under the curve for every score, with and without the disguise; that of weyl with it only."""
    rows = [row for row in results["rows"] if family in (None, row["family"])]
    found = {}
    for name in SCORES:
        for how in ("plain", "hidden"):
            if (name, how) != ("weyl", "plain"):
                sides = [
                    [score(row, name, how) for row in rows if row["kind"] in some] for some in (ranked, ("unrelated",))
                ]
                if all(sides):
                    found[name, how] = auc(*sides)
    return found


def _areas(results: dict[str, Any]) -> str:
    lines = ["| area under the curve | as it is | disguised | disguised, head kept |", "|---|---|---|---|"]
    kept = tuple(kind for kind in RANKED if kind != "head")
    every, few = areas(results, None), areas(results, None, kept)
    for name, title in SCORES.items():
        cells = [
            found.get(key)
            for found, key in ((every, (name, "plain")), (every, (name, "hidden")), (few, (name, "hidden")))
        ]
        lines.append(f"| {title} | " + " | ".join("" if cell is None else f"{cell:.3f}" for cell in cells) + " |")
    lines += ["", "| disguised, by family | " + " | ".join(SCORES) + " |", "|---" * (len(SCORES) + 1) + "|"]
    for family in results["families"]:
        found = areas(results, family["name"])
        lines.append(f"| {family['title']} | " + " | ".join(f"{found[name, 'hidden']:.3f}" for name in SCORES) + " |")
    return "\n".join(lines) + "\n"


def _pair(rows: list[dict[str, Any]]) -> str:
    lines = ["| the base against | demanded | verdict | p | units alike | cosine | seconds |", "|---" * 7 + "|"]
    for row in rows:
        title, demanded = CASES[row["case"]]
        agree = "" if row["agreement"] is None else f"{row['agreement']:.1%}"
        lines.append(
            f"| {title} | {demanded} | {row['verdict']} | {_chance(row['p'])} | {agree} | {row['cosine']:.4f}"
            f" | {row['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _chance(p: float) -> str:
    return "< 1e-299" if p <= 10 * LEAST else f"{p:.2g}"


def with_table(text: str, results: dict[str, Any]) -> str:
    """Return the README with the tables between their marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table(results)}{END}{after}"


def write_figure(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write the figure, as SVG and as PNG on light and on dark."""
    return paper.write(
        lambda colours: figure(results, colours),
        folder / "identity",
        "Networks that come from one training, told from others",
        "True against false positives for several ways to compare two networks, as they are and disguised.",
    )


STYLES = {
    "weyl": ("c2", "-"),
    "sketch": ("c3", "-"),
    "cosine": ("c1", "-"),
    "cka": ("c4", "-"),
    "cka_best": ("c4", ":"),
    "hash": ("muted", "--"),
}
PANELS = {"plain": "as it is", "hidden": "disguised by a random symmetry"}


def figure(results: dict[str, Any], colours: Mapping[str, str]) -> Figure:
    """ROC curves over all families, without and with the disguise; derived pairs against unrelated ones."""
    drawn = Figure(figsize=(8.2, 4.6), layout="constrained")
    every = drawn.subplots(1, len(PANELS))
    for axes, (how, title) in zip(every, PANELS.items(), strict=True):
        for name, (colour, line) in STYLES.items():
            if (name, how) == ("weyl", "plain"):
                continue
            sides = [
                [score(row, name, how) for row in results["rows"] if row["kind"] in some] for some in (RANKED, (APART,))
            ]
            axes.plot(*curve(*sides), line, color=colours[colour], label=SCORES[name])
        axes.set_title(title, fontsize=9, color=colours["muted"], loc="left")
        axes.set(xlabel="unrelated called related", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    every[0].set(ylabel="derived called related")
    handles, labels = every[-1].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return drawn
