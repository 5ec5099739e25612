"""Results of ``weyl align``, ``merge`` and ``barrier`` for people and for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from weyl.cli._console import open_console, show_facts, warn
from weyl.report import MOVES, counted, printable, subscripts, to_json

if TYPE_CHECKING:
    from weyl.cli._barrier_work import Planned
    from weyl.cli._merge_checks import Preserved
    from weyl.cli._merge_work import Aligned, Merged
    from weyl.report._barrier import Between

__all__ = ["aligned", "barriers", "merged", "planned"]

# From the best to the worst.
VERDICTS = {"holds": "bold green", "inconclusive": "bold yellow", "fails": "bold red"}
KEPT = {"holds": "kept", "fails": "NOT kept", "inconclusive": "cannot be told"}
SHOWN = 6
Facts = list[tuple[str, Text | str]]


def aligned(found: Aligned, *, as_json: bool) -> None:
    """Show what was done to B, and what is known of it."""
    warn(found.warnings)
    if as_json:
        click.echo(to_json(found.to_dict()))
        return
    a, b = found.files
    _title(found.found.loaded.name, f"{b.name} next to {a.name}")
    show_facts(
        open_console(),
        [*_match_facts(found.alignment), ("certificate", _certificate(found)), *_function(found.preserved, found)],
    )


def merged(found: Merged, *, as_json: bool) -> None:
    """Show what was merged, and how it does."""
    warn(found.warnings)
    if as_json:
        click.echo(to_json(found.to_dict()))
        return
    _title(found.found.loaded.name, ", ".join(file.name for file in found.files))
    facts: Facts = [("group", subscripts(found.found.structure.group.symbol))]
    how = "aligned with the first" if found.settings["align"] else "as they are"
    shares = ", ".join(f"{share:.4g}" for share in found.shares)
    facts.append(("merged", f"{how}, {found.settings['method']}, shares {shares}"))
    for file, (before, after) in zip(found.files[1:], found.distances, strict=True):
        moved = f", {after:.4g} after aligning" if found.settings["align"] else ""
        facts.append(("distance", f"{file.name} from {found.files[0].name}: {before:.4g}{moved}"))
    if found.preserved:
        worst = max(found.preserved, key=lambda one: one.difference)
        verdict = min((one.verdict for one in found.preserved), key=list(VERDICTS)[::-1].index)
        told = f"outputs differ by at most {worst.difference:.1e} in {worst.dtype} after aligning"
        facts.append(("functions", Text(f"{KEPT[verdict]}: {told}", style=VERDICTS[verdict])))
    if found.repaired is not None:
        facts.append(("repaired", _repaired(found.repaired)))
    show_facts(open_console(), facts)
    if found.judged:
        open_console().print(_judged(found.judged))


def barriers(found: Between, *, as_json: bool) -> None:
    """Show what lies between two networks."""
    warn(found.warnings)
    if as_json:
        click.echo(to_json(found.to_dict()))
        return
    out = open_console()
    _title(found.model, f"from A, {found.a}, to B, {found.b}, on {found.data} ({found.settings.get('split', '')})")
    out.print(_points(found))
    facts: Facts = []
    for name, line in found.lines.items():
        barrier = line.barrier
        bounds = ""
        if barrier.interval is not None:
            bounds = f" ({barrier.interval[0]:.3g} to {barrier.interval[1]:.3g} in 95 % of resamples)"
        facts.append((f"barrier {name}", f"{_number(barrier.height)}{bounds} at {barrier.where:g}"))
    show_facts(out, facts)
    if found.alignment is not None:
        out.print()
        show_facts(out, _match_facts(found.alignment))
    out.print(Text(printable(found.sentence), style="bold"), soft_wrap=True)


def planned(found: Planned, out: Path | None, *, as_json: bool) -> None:
    """Show what a command would do."""
    warn(found.warnings)
    if as_json:
        click.echo(to_json(found.to_dict()))
        return
    _title(found.found.loaded.name, ", ".join(file.name for file in found.files))
    read = sum(file.size for file in found.files)
    facts: Facts = [
        ("group", subscripts(found.found.structure.group.symbol)),
        ("read", f"{counted(read, 'byte')} in {counted(len(found.files), 'file')}"),
    ]
    name = printable(out) if out is not None else "a file"
    if found.tensors:
        facts.append(("would write", f"{counted(found.written, 'byte')}, {counted(found.tensors, 'tensor')} to {name}"))
    elif out is not None:
        facts.append(("would write", f"{name} and its numbers as JSON"))
    if found.effort is not None:
        facts.append(
            (
                "estimate",
                f"{_seconds(found.effort.seconds)} a sweep of matching ({found.effort.multiplications:.2g}"
                " multiplications, at the speed of a short product timed now); 3 to 30 sweeps are usual, and as many"
                " again for each restart",
            )
        )
    if found.evaluations:
        took = f", {_seconds(found.seconds)}" if found.seconds else ""
        facts.append(("evaluations", f"{found.evaluations:,} passes over the data{took}; a repair takes several more"))
    facts.append(("written", "nothing: this is a dry run"))
    show_facts(open_console(), facts)


def _match_facts(done: Mapping[str, Any]) -> Facts:
    if done["exact"]:
        verdict = Text("yes: B is A in other coordinates, up to rounding", style="bold green")
    else:
        verdict = Text("no: B is no copy of A, or none that was recognised")
    moves = ", ".join(MOVES.get(move, move) for move in done["moves"])
    search = "recognised, without a search" if not done["sweeps"] else counted(done["sweeps"], "sweep")
    if done["sweeps"]:
        search += f", {done['gained']:,} of {counted(done['steps'], 'step')} gained; "
        search += "coordinate optimum" if done["coordinate_optimal"] else "cut off"
    return [
        ("group", subscripts(done["group"])),
        ("exact", verdict),
        ("distance", f"{done['distance_before']:.6g} before, {done['distance']:.6g} after"),
        ("cosine", f"{done['cosine_before']:.4f} before, {done['cosine']:.4f} after"),
        ("objective", f"{done['history'][0]:.6g} at the start, {done['objective']:.6g} at the end"),
        ("moved by", moves or "nothing: B lies where it is nearest"),
        ("search", search),
    ]


def _certificate(found: Aligned) -> str:
    gains = found.match.certificate
    if not gains:
        return "nothing can be moved"
    name, most = max(gains.items(), key=lambda item: item[1])
    if most <= 0:
        return f"one more exact step of any of {counted(len(gains), 'space')} gains nothing"
    return f"one more exact step gains at most {most:.1e} of the objective's bound, that of {printable(name)}"


def _function(preserved: Preserved, found: Aligned) -> Facts:
    told = f"{KEPT[preserved.verdict]}: outputs differ by {preserved.difference:.1e} in {preserved.dtype}"
    types = " and ".join(found.files[1].precisions)
    facts: Facts = [("function", Text(told, style=VERDICTS[preserved.verdict]))]
    facts.append(("as written", f"outputs differ by {preserved.written:.1e}, after rounding to {types}"))
    if preserved.parameter:
        alone = f"moving only {printable(preserved.parameter)} changes them by {preserved.control:.1e}"
        facts.append(("control", f"{alone}, as a wrong move must"))
    return facts


def _repaired(done: Mapping[str, Any]) -> str:
    if done["method"] == "bn":
        return "batch normalisations were estimated anew"
    layers = ", ".join(map(printable, done["layers"][:SHOWN])) or "no layer"
    more = len(done["layers"]) - SHOWN
    return (
        f"{layers}{f', … {more:,} more' if more > 0 else ''}; deviation left {done['deviation']:.1e}"
        f" after {done['passes']:,} passes over the data"
    )


def _judged(judged: Sequence[tuple[str, Mapping[str, float]]]) -> Table:
    names = list(judged[0][1])
    table = _table("network, on held-out data", names)
    for title, values in judged:
        cells = [_metric(name, value) for name, value in values.items()]
        table.add_row(Text(printable(title), style="cyan"), *map(Text, cells))
    return table


def _points(found: Between) -> Table:
    heads = [f"{name}:\n{what}" for name, line in found.lines.items() for what in ("loss", *line.barrier.metrics)]
    table = _table("at", heads)
    first = next(iter(found.lines.values())).barrier
    for row, at in enumerate(first.at):
        cells = []
        for line in found.lines.values():
            cells.append(_number(line.barrier.losses[row]))
            cells += [_metric(name, curve[row]) for name, curve in line.barrier.metrics.items()]
        table.add_row(Text(f"{at:.3g}", style="cyan"), *map(Text, cells))
    return table


def _table(first: str, others: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(Text("\n".join(map(printable, name.splitlines()))), justify="right", overflow="fold")
    return table


def _title(name: str, under: str) -> None:
    console: Console = open_console()
    console.print(Text(printable(name), style="bold"), soft_wrap=True)
    console.print(Text(printable(under), style="dim"), soft_wrap=True)


def _metric(name: str, value: float) -> str:
    return f"{value:.1%}" if name == "accuracy" and math.isfinite(value) else _number(value)


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–"


def _seconds(value: float) -> str:
    return f"about {value:.2g} s" if value >= 0.01 else "under 0.01 s"
