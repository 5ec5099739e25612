"""Results of ``weyl simplex`` and ``weyl collapse``, for people and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from weyl.cli._console import open_console, show_facts, warn
from weyl.report import METHODS, Measured, criteria, cut_told, pair_excess, printable, symmetry_told, to_json

__all__ = ["collapse", "simplex"]

LEVELS = {"collapsed": "bold green", "partly": "bold yellow", "not": "bold", "undecided": "bold yellow"}
SHOWN = 5


def simplex(found: Mapping[str, Any], *, as_json: bool) -> None:
    """Show the optimum."""
    if as_json:
        click.echo(to_json(found))
        return
    k, alpha, beta = found["classes"], found["alpha"], found["beta"]
    facts: list[tuple[str, Text | str]] = [
        ("logits of class i", f"{alpha:.10g} at i, {beta:.10g} elsewhere"),
        ("least cross-entropy", f"{found['risk']:.10f} nats (guessing: {math.log(k):.6f})"),
        ("side of the simplex", f"{found['side']:.10g}"),
    ]
    seen = f"{found['angle']:.6f}°, cosine {found['cosine']:.10g}"
    if found["p"] == 2:
        facts.append(("angle between vertices", seen))
    else:
        middle = f"{found['centred_angle']:.6f}°, cosine {found['centred_cosine']:.10g}"
        facts += [
            ("angle seen from their centre", middle),
            ("angle seen from 0", seen),
            ("centre of the vertices", f"{found['centre']:.10g} in every logit, not 0, because p is not 2"),
        ]
    show_facts(open_console(), facts)


def collapse(found: Measured, *, as_json: bool) -> None:
    """Show what was measured."""
    warn(found.warnings)
    if as_json:
        click.echo(to_json(found.to_dict()))
        return
    out = open_console()
    main, verdict = found.main, found.verdict
    where = f"{found.model} on {found.data}"
    out.print(Text(printable(where), style="bold"), soft_wrap=True)
    size = f"{main.samples:,} samples, {len(main.classes)} classes in {main.dim} dimensions, before {main.layer}"
    out.print(Text(printable(size), style="dim"), soft_wrap=True)
    out.print(_metrics(found))
    sentence = Text(printable(verdict.sentence))
    sentence.stylize(LEVELS[verdict.level], 0, len(verdict.sentence.split(":")[0]))
    out.print(sentence, soft_wrap=True)
    show_facts(out, [*_limits(found), *_remarks(found)])
    if main.layers:
        out.print(_layers(found))
    _profile(out, found)
    _detection(out, found)
    out.print(Text(found.caution, style="dim"), soft_wrap=True)


def _metrics(found: Measured) -> Table:
    both = len(found.parts) > 1
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric", overflow="fold")
    for name in found.parts:
        table.add_column({"train": "training", "test": "held out"}[name] if both else "value", justify="right")
    for name in ("chance", "best"):
        table.add_column(name, justify="right")
    intervals = bool(found.main.intervals)
    if intervals:
        table.add_column("95 %, training" if both else "95 %", justify="right")
    table.add_column("meaning", overflow="fold", style="dim")
    for row in found.main.rows():
        values = [_number(getattr(part, row["metric"])) for part in found.parts.values()]
        levels = [_number(row["chance"]), _number(row["floor"])]
        between = [f"{_number(row['low'])} to {_number(row['high'])}" if row["low"] is not None else ""]
        cells = [*values, *levels, *(between if intervals else []), row["meaning"]]
        table.add_row(Text(row["title"], style="cyan"), *map(Text, cells))
    return table


def _remarks(found: Measured) -> list[tuple[str, Text | str]]:
    main = found.main
    lines: list[tuple[str, Text | str]] = []
    if len(main.classes) > 1:
        lines.append(("symmetry", printable(symmetry_told(main))))
    if len(main.classes) > 2:
        near = [f"{a} and {b} ({value:+.2f})" for a, b, value in pair_excess(main, 2 * SHOWN) if value > 0][:SHOWN]
        told = f"{', '.join(near)} (cosine against {-1 / (len(main.classes) - 1):.3g})" if near else "none"
        lines.append(("too near each other", printable(told)))
    if main.absent:
        more = f", … {len(main.absent) - 2 * SHOWN} more" if len(main.absent) > 2 * SHOWN else ""
        lines.append(("absent", printable(", ".join(main.absent[: 2 * SHOWN]) + more)))
    return lines


def _limits(found: Measured) -> list[tuple[str, Text | str]]:
    """What the verdict needs, and what of it is missing."""
    rows = criteria(found.main)
    told = {True: "met", False: "NOT MET", None: "not measured"}
    shown = [
        f"{row['title'].partition(',')[0] if row['metric'] != 'nc1_ratio' else 'NC1 (traces)'}"
        f" {'≥' if row['at_least'] else '≤'} {row['limit']}: {told[row['met']]}"
        for row in rows
    ]
    return [("collapsed needs", printable("; ".join(shown)))]


def _layers(found: Measured) -> Table:
    names = ("nc1", "nc1_ratio", "cdnv", "nc2", "sk_defect", "ncm_accuracy")
    table = _table("layer", ("NC1, pinv", "NC1, traces", "CDNV", "NC2", "S_k defect", "nearest-mean accuracy"))
    for layer, other in found.main.layers.items():
        table.add_row(
            Text(printable(found.layer(layer)), style="cyan"), *(Text(_number(getattr(other, name))) for name in names)
        )
    return table


def _profile(out: Console, found: Measured) -> None:
    profile = found.profile
    if profile is None:
        return
    if not profile.layers:
        show_facts(out, [("profile", "no layer before the classifier")])
        return
    part = "held-out data" if profile.held_out else "training data"
    table = _table("layer", ("features", "NC1, pinv", "NC1, traces", f"nearest-mean accuracy, {part}"))
    for row in profile.layers:
        cells = (f"{row.dim:,}", _number(row.nc1), _number(row.nc1_ratio), f"{row.accuracy:.1%}")
        table.add_row(Text(printable(found.layer(row.layer)), style="cyan"), *map(Text, cells))
    out.print(table)
    title = found.layer(profile.cut.layer) if profile.cut else ""
    show_facts(out, [("the tail could be cut", printable(cut_told(profile, title)))])


def _detection(out: Console, found: Measured) -> None:
    if found.detection is None:
        return
    out.print(Text(printable(f"{found.ood} against the known samples, {found.known}"), style="dim"), soft_wrap=True)
    table = _table("told apart by", ("AUROC ↑", "FPR at 95 % ↓"))
    table.add_column("meaning", overflow="fold", style="dim")
    for row in found.detection.rows():
        title, meaning = METHODS.get(row["method"], (row["method"], ""))
        table.add_row(
            Text(title, style="cyan"), Text(f"{row['auroc']:.3f}"), Text(f"{row['fpr95']:.3f}"), Text(meaning)
        )
    out.print(table)


def _table(first: str, others: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(Text(printable(first)), overflow="fold")
    for name in others:
        table.add_column(name, justify="right")
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if math.isfinite(value) else "∞"
