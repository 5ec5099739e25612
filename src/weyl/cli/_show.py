"""Results for people, as tables, and for programs, as JSON; both to stdout, and names always escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from weyl.cli._console import Names, open_console, show_facts, warn
from weyl.cli._identity_show import lookalikes
from weyl.cli._show_orbits import orbit_facts
from weyl.report import (
    MOVES,
    Demo,
    Inspection,
    Trainings,
    counted,
    families,
    gauge_families,
    gauge_rows,
    order_to_dict,
    order_told,
    overlap_told,
    printable,
    scientific,
    subscripts,
    to_json,
)

if TYPE_CHECKING:
    from weyl.groups import Order
    from weyl.proof import Proof
    from weyl.structure import Structure

__all__ = ["count", "demo", "inspection", "proof"]

MANY = 20  # spaces; above this, those of equal layers share a row
PLACES = 3
WIDEST = 44  # characters of a name in a table
WORDS = {"collapsed": "collapsed", "partly": "partly collapsed", "not": "not collapsed", "undecided": "undecided"}
VERDICTS = {"holds": "bold green", "fails": "bold red", "inconclusive": "bold yellow"}


def inspection(found: Inspection, *, as_json: bool, exact: bool, gauges: bool = False) -> None:
    """Show everything about one model."""
    if as_json:
        click.echo(to_json(found.to_dict(exact)))
        return
    warn(found.warnings)
    console = open_console()
    structure = found.structure
    console.print(Text(printable(found.model), style="bold"))
    console.print(f"{counted(found.parameters, 'parameter')} in {counted(found.tensors, 'tensor')}\n", style="dim")
    rows = structure.rows()
    console.print(_spaces(families(rows) if len(rows) > MANY else rows))
    acting = gauge_rows(structure)
    if acting:
        console.print(_gauges(acting if gauges else gauge_families(acting, MANY)))
    show_facts(console, _group(structure, exact))
    if found.orbit is not None:
        console.print()
        show_facts(console, [("weights", Text(found.weights)), *orbit_facts(found.orbit, structure.group)])
    elif found.weights:
        console.print()
        show_facts(console, [("weights", Text(found.weights)), ("orbit", "not counted: see the warning")])
    if found.proof is not None:
        console.print()
        show_facts(console, _proof(found.proof))
    _remarks(console, found)


def proof(found: Inspection, *, as_json: bool) -> None:
    """Show the check alone."""
    assert found.proof is not None
    if as_json:
        group = found.structure.group
        head = {
            "model": found.model,
            "weights": found.weights or None,
            "group": group.symbol,
            "order": order_to_dict(group.order),
            "counts": order_told(group),
            "dimension": group.dimension,
        }
        click.echo(to_json({**head, "proof": found.proof.to_dict(), "warnings": list(found.warnings)}))
        return
    warn(found.warnings)
    group = found.structure.group
    show_facts(
        open_console(),
        [
            ("group", f"{subscripts(group.symbol)}, order {scientific(group.order)}, dimension {group.dimension:,}"),
            *_proof(found.proof),
        ],
    )


def count(layers: Mapping[str, Sequence[int]], order: Order, *, as_json: bool, exact: bool) -> None:
    """Show a count, and what activations add to it."""
    from weyl.groups import Order

    units = sum(map(sum, layers.values()))
    signed = order * Order.of({}, {2: units})
    if as_json:
        data = {
            **layers,
            "order": order_to_dict(order, exact),
            "counts": "permutations",
            "signed": order_to_dict(signed, exact),
            "dimension": units,
        }
        click.echo(to_json(data))
        return
    facts = [
        *_order(order, exact, name="equivalent minima"),
        ("counts", "permutations, whatever the activation"),
        ("signed", f"{scientific(signed)} = {subscripts(signed.formula)} with tanh: each unit may flip its sign"),
        ("dimension", f"{units:,} with ReLU: each unit may change its scale, continuously"),
    ]
    show_facts(open_console(), [*facts, ("signed exact", signed.digits())] if exact else facts)


def demo(found: Demo, report: Path, *, as_json: bool) -> None:
    """Show what the demo found."""
    if as_json:
        click.echo(to_json(found.to_dict()))
        return
    console = open_console()
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for network in found.networks:
        table.add_column(Text(network.title), justify="right")
    for name, cells in _demo_rows(found):
        table.add_row(Text(name, style="dim"), *map(Text, cells))
    console.print(table)
    for network in found.networks:
        if network.trainings is not None:
            console.print(Text(f"{network.title}, trained a second time", style="bold"))
            console.print(_trainings(network.trainings))
            console.print(Text(f"{network.trainings.sentence}\n"), soft_wrap=True)
        if network.lookalikes is not None:
            console.print(Text("Is this the same network?", style="bold"))
            console.print(lookalikes(network.lookalikes))
            console.print(Text(f"{network.lookalikes.sentence}\n"), soft_wrap=True)
    console.print(Text(f"report   {printable(report)}"), soft_wrap=True)
    console.print(Text(f"numbers  {printable(report.with_suffix('.json'))}"), soft_wrap=True)


def _demo_rows(found: Demo) -> list[tuple[str, list[str]]]:
    nets = found.networks
    orders = [net.inspection.structure.group.permutation_order for net in nets]
    spread = [max(abs(twin.loss - net.loss) for twin in net.twins) for net in nets]
    return [
        ("minima by permutations", [scientific(order) for order in orders]),
        ("  factored", [subscripts(order.formula) for order in orders]),
        ("proof", [net.inspection.proof.verdict if net.inspection.proof else "not made" for net in nets]),
        ("held-out accuracy", [f"{net.accuracy:.1%}" for net in nets]),
        ("held-out loss", [f"{net.loss:.6f}" for net in nets]),
        (f"  largest change, {len(nets[0].twins)} twins", [f"{change:.1e}" for change in spread]),
        ("spread within classes, NC1", [f"{net.collapse['train'].nc1_ratio:.2f}" for net in nets]),
        ("  held out", [f"{net.collapse['test'].nc1_ratio:.2f}" for net in nets]),
        ("distance from a simplex, NC2", [f"{net.collapse['train'].nc2:.2f}" for net in nets]),
        ("  held out", [f"{net.collapse['test'].nc2:.2f}" for net in nets]),
        ("representations", [WORDS[net.verdict.level] for net in nets]),
        ("nearest two of these minima", [f"{net.closest:.1f}" for net in nets]),
        ("  length of the weights", [f"{net.norm:.1f}" for net in nets]),
        ("loss half-way to a twin", [f"{net.path.loss[len(net.path.loss) // 2]:.3f}" for net in nets]),
        ("  accuracy there", [f"{net.path.accuracy[len(net.path.loss) // 2]:.1%}" for net in nets]),
    ]


def _trainings(found: Trainings) -> Table:
    """What lies between two trainings of one network, how their mean does, and what is recognised."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("the second training")
    for name in ("barrier", "95 % of resamples", "merged: loss", "accuracy", "a copy?", "steps"):
        table.add_column(name, justify="right")
    for title, way in found.ways.items():
        barrier, search = way.line.barrier, way.search
        bounds = "" if barrier.interval is None else "{:.3g} to {:.3g}".format(*barrier.interval)
        known = ["", ""] if search is None else ["yes" if search.exact else "no", f"{search.steps}"]
        cells = [f"{barrier.height:.3g}", bounds, f"{way.loss:.4f}", f"{way.accuracy:.1%}", *known]
        table.add_row(Text(title, style="dim"), *map(Text, cells))
    for number, which in enumerate(("the first alone", "the second alone")):
        cells = ["", "", f"{found.loss[number]:.4f}", f"{found.accuracy[number]:.1%}", "", ""]
        table.add_row(Text(which, style="dim"), *map(Text, cells))
    known = ["yes" if found.copy.exact else "no", f"{found.copy.steps}"]
    table.add_row(Text("a disguised copy of the first", style="dim"), *map(Text, ["", "", "", "", *known]))
    return table


def _spaces(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, expand=False)
    names = [_named(row) for row in rows]
    # Columns that may wrap give way before the one with names does.
    table.add_column("space", overflow="fold", no_wrap=max(map(len, names), default=0) <= WIDEST)
    columns = ("group", "left"), ("copies", "right"), ("dimension", "right"), ("within", "left")
    for name, justify in columns:
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    table.add_column("occurs in", overflow="fold")
    for title, row in zip(names, rows, strict=True):
        table.add_row(
            Names(title, style="cyan"),
            Text(subscripts(row["kinds"])),
            Text(f"{row['copies']:,}"),
            Text(f"{row['dimension']:,}" if row["dimension"] else ""),
            Names(printable(", ".join(row["within"]))),
            Names(_few(row["occurrences"])),
        )
    if not rows:
        table.add_row(Text("none: nothing can move", style="dim"))
    return table


def _named(row: Mapping[str, Any]) -> str:
    times = f"  ({row['times']} of them)" if row.get("times", 1) > 1 else ""
    return printable(row["space"]) + times


def _gauges(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What acts beside permutations, with the continuous dimension of each item."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, expand=False)
    table.add_column("what acts, too", overflow="fold")
    one_each = any("gauge" in row for row in rows)
    table.add_column("gauge" if one_each else "on units of", overflow="fold")
    for name in ("signs", "dimension"):
        table.add_column(name, justify="right")
    table.add_column("in", overflow="fold")
    for row in rows:
        times = f" ×{row['gauges']}" if row.get("gauges", 1) > 1 else ""
        table.add_row(
            Text(row["what"] + times),
            Names(printable(row["gauge"] if one_each else row["space"] or "whole tensors"), style="cyan"),
            Text(f"{row['signs']:,}" if row["signs"] else ""),
            Text(f"{row['dimension']:,}" if row["dimension"] else ""),
            Names(_few(row["tensors"])),
        )
    return table


def _few(names: Sequence[str]) -> str:
    more = f", …\N{NO-BREAK SPACE}{len(names) - PLACES}\N{NO-BREAK SPACE}more" if len(names) > PLACES else ""
    return printable(", ".join(names[:PLACES])) + more


def _group(structure: Structure, exact: bool) -> list[tuple[str, Text | str]]:
    """The group, its order and what that counts, and its dimension."""
    group = structure.group
    facts: list[tuple[str, Text | str]] = [("group", subscripts(group.symbol)), *_order(group.order, exact)]
    if not group.trivial:
        facts.append(("counts", order_told(group)))
    if group.order != group.permutation_order:
        permutations = group.permutation_order
        facts.append(("permutations", f"{scientific(permutations)} = {subscripts(permutations.formula)}"))
    facts.append(("dimension", f"{group.dimension:,}"))
    overlap = overlap_told(structure)
    return [*facts, ("", overlap)] if overlap else facts


def _order(order: Order, exact: bool, name: str = "order") -> list[tuple[str, str]]:
    facts = [(name, scientific(order)), ("factored", subscripts(order.formula)), ("log10", f"{order.log10:.4f}")]
    return [*facts, ("exact", order.digits())] if exact else facts


def _proof(proof: Proof) -> list[tuple[str, Text | str]]:
    facts: list[tuple[str, Text | str]] = [
        ("proof", Text.assemble((proof.verdict, VERDICTS[proof.verdict]), f": {printable(proof.reason)}"))
    ]
    if not proof.trials:
        return facts
    integers = {True: "equal to the last bit", False: "different", None: "not exact for this model"}[proof.exact]
    control = proof.control
    wrong = f"moving only {printable(control.parameter)}" if control.parameter else "no wrong element"
    seen = f"changed the output by {control.relative_error:.1e}, as it must" if control.detected else "went unseen"
    tried = counted(proof.trials, "element")
    facts += [
        ("change", f"{proof.max_relative_error:.1e} over {tried} (rounding: {proof.tolerance:.1e})"),
        ("integers", integers),
        ("control", f"{wrong} {seen}"),
    ]
    for move, kind in proof.kinds.items():
        seen = "as it must" if kind.detected else "unseen"
        facts.append(
            (f"  {MOVES[move]}", f"{kind.max_relative_error:.1e}; a wrong one {kind.control_error:.1e}, {seen}")
        )
    if proof.float32_error is not None:
        facts.insert(2, ("in float32", f"{proof.float32_error:.1e}"))
    return facts


def _remarks(console: Console, found: Inspection) -> None:
    structure = found.structure
    for opaque in structure.opaque:
        where = printable(opaque.module) or "the model"
        pinned = printable(", ".join(opaque.pinned)) or "nothing"
        _remark(console, "not understood", f"{printable(opaque.op)} in {where}; it pinned {pinned}")
    for name in structure.unused:
        _remark(console, "unused", f"{printable(name)}: the output does not depend on it; not counted")
    for note in structure.notes:
        _remark(console, "note", printable(note))


def _remark(console: Console, kind: str, text: str) -> None:
    console.print(Text.assemble((f"{kind}: ", "yellow"), text))
