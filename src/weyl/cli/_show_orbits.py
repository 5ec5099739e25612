"""Results of ``weyl orbit``, ``balance`` and ``tangents`` for people and for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from weyl.cli._console import Names, open_console, show_facts, warn
from weyl.report import HELD, counted, overlap_told, printable, scientific, subscripts, to_json

if TYPE_CHECKING:
    from weyl.cli._orbit_work import OrbitFound, TangentsFound, WeightsBalanced
    from weyl.cli._work import Found
    from weyl.groups import Group
    from weyl.orbits import GaugeCheck, HiddenSymmetry, Orbit

__all__ = ["balance", "orbit", "orbit_facts", "tangents"]

SHOWN = 6  # sets of units, or units of a set
PLACES = 3
NOTHING = 5e-5  # of a relative change
VERDICTS = {"holds": "bold green", "fails": "bold red", "inconclusive": "bold yellow"}


def orbit(found: OrbitFound, *, as_json: bool) -> None:
    """Show an orbit, and the rank of the function where it was measured."""
    if as_json:
        click.echo(to_json(found.to_dict()))
        return
    warn(found.warnings)
    console = open_console()
    _title(found.found)
    show_facts(
        console,
        [
            ("group", subscripts(found.found.structure.group.symbol)),
            *orbit_facts(found.orbit, found.found.structure.group),
        ],
    )
    if found.hidden is not None:
        console.print()
        show_facts(console, _hidden(found.hidden, found.orbit))


def orbit_facts(orbit: Orbit, group: Group) -> list[tuple[str, Text | str]]:
    """What a group does to a state, as lines."""
    most, least = ("", "") if orbit.exact else ("at most ", "at least ")
    bound = "" if orbit.dimension_exact else "at most "
    apart = "" if orbit.group_order == group.order else "; signs in matrices belong to the continuous part here"
    stabiliser = orbit.to_dict()["stabiliser_order"]
    facts: list[tuple[str, Text | str]] = [
        ("equivalent", f"{scientific(orbit.group_order)} by permutations and sign flips of units{apart}"),
        ("stabiliser", f"{least}{stabiliser} of them leave these weights as they are"),
        ("distinct", f"{most}{scientific_text(str(orbit.size))} weight vectors"),
        ("dimension", f"{bound}{orbit.dimension:,} of {orbit.group_dimension:,}, that of the group"),
    ]
    for name, words in HELD.items():
        for of, copy, units in getattr(orbit, name)[:SHOWN]:
            facts.append((name.replace("_", " "), f"{_units(of, copy, units)}: {words}"))
        more = len(getattr(orbit, name)) - SHOWN
        if more > 0:
            facts.append(("", f"… and {more:,} more (--json has all)"))
    return facts


def scientific_text(text: str) -> str:
    """A number such as ``2.36e53`` with a raised exponent, and short ones with commas."""
    mantissa, e, exponent = text.partition("e")
    return subscripts(f"{mantissa} × 10^{exponent}") if e else f"{int(text):,}"


def balance(found: WeightsBalanced, *, as_json: bool) -> None:
    """Show how much shorter equivalent weights can be."""
    if as_json:
        click.echo(to_json(found.to_dict()))
        return
    warn(found.warnings)
    result = found.result
    before, after = result.norm_before, result.norm_after
    change = (after - before) / before if before else 0.0
    saved = f" ({change:+.2%})" if abs(change) >= NOTHING else ", the same"
    if result.attained:
        least = "attained: no equivalent weights are shorter"
    elif found.reached:
        least = "not attained: see the warning; all others are balanced"
    else:
        least = "not reached"
    _title(found.found)
    show_facts(
        open_console(),
        [
            ("sum of squares", f"{before:.6g} before, {after:.6g} after{saved}"),
            ("length", f"{math.sqrt(before):.6g} before, {math.sqrt(after):.6g} after"),
            ("least", least),
            ("imbalance", f"{result.imbalance:.1e} left after {counted(result.iterations, 'sweep')}"),
            ("moved by", printable(_some(found.moved)) or "nothing: what can be balanced is"),
            *[
                ("unattained", f"{printable(gauge)}: {_some([_index(unit) for unit in units if unit]) or 'all of it'}")
                for gauge, units in result.unattained.items()
            ],
        ],
    )


def tangents(found: TangentsFound, *, as_json: bool) -> None:
    """Show the directions by gauge, and their derivatives."""
    if as_json:
        click.echo(to_json(found.to_dict()))
        return
    warn(found.warnings)
    _title(found.found)
    console, group = open_console(), found.found.structure.group
    checks = {} if found.check is None else {check.gauge: check for check in found.check.gauges}
    console.print(_tangent_table(found.rows, checks))
    facts: list[tuple[str, Text | str]] = [("dimension", f"{group.dimension:,}")]
    overlap = overlap_told(found.found.structure)
    facts += [("", overlap)] if overlap else []
    if found.check is not None:
        verdict = found.check.verdict
        facts.append(("proof", Text.assemble((verdict, VERDICTS[verdict]), f": {printable(found.check.reason)}")))
    show_facts(console, facts)


def _tangent_table(rows: Sequence[Mapping[str, Any]], checks: Mapping[str, GaugeCheck]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, expand=False)
    table.add_column("gauge", overflow="fold")
    table.add_column("what acts")
    table.add_column("directions", justify="right")
    if checks:
        for name in ("derivative", "control", "verdict"):
            table.add_column(name, justify="right" if name != "verdict" else "left")
    table.add_column("on", overflow="fold")
    for row in rows:
        cells = [Names(printable(row["gauge"]), style="cyan"), Text(row["what"]), Text(f"{row['dimension']:,}")]
        check = checks.get(row["gauge"])
        if checks:
            cells += _check_cells(check)
        table.add_row(*cells, Names(_some(row["tensors"], PLACES)))
    if not rows:
        table.add_row(Text("none: nothing moves continuously", style="dim"))
    return table


def _check_cells(check: GaugeCheck | None) -> list[Text]:
    if check is None:
        return [Text("–")] * 3
    numbers = [f"{value:.1e}" if math.isfinite(value) else "–" for value in (check.derivative, check.control)]
    return [*map(Text, numbers), Text(check.verdict, style=VERDICTS[check.verdict])]


def _title(found: Found) -> None:
    open_console().print(Text(printable(found.loaded.name), style="bold"))
    if found.weights:
        open_console().print(Text(f"weights {found.weights}", style="dim"), soft_wrap=True)


def _hidden(hidden: HiddenSymmetry, orbit: Orbit) -> list[tuple[str, Text | str]]:
    bound = "" if orbit.dimension_exact else ", at least"
    inputs = counted(hidden.samples, "random input")
    facts: list[tuple[str, Text | str]] = [
        ("parameters", f"{hidden.parameters:,}"),
        ("rank", f"{hidden.rank:,} of the function on {inputs} (gap {hidden.gap:.1e})"),
        ("predicted", f"{hidden.predicted:,} = {hidden.parameters:,} - {hidden.by_group:,}, the orbit{bound}"),
        ("hidden", f"{hidden.hidden:,}: hidden symmetry at these weights, at most; more inputs can lower it"),
    ]
    if hidden.unused:
        facts[2] = (
            "predicted",
            f"{hidden.predicted:,} = {hidden.parameters:,} - {hidden.by_group:,}, the orbit{bound}"
            f" - {hidden.unused:,} that the output does not depend on",
        )
    return facts


def _units(of: str, copy: Sequence[int], units: Sequence[int]) -> str:
    where = f" copy {_index(copy)}" if copy else ""
    return f"{printable(of)}{where} [{_some([str(unit) for unit in units])}]"


def _index(unit: Sequence[int]) -> str:
    return str(unit[0]) if len(unit) == 1 else f"({', '.join(map(str, unit))})"


def _some(names: Sequence[str], limit: int = SHOWN) -> str:
    more = len(names) - limit
    return printable(", ".join(names[:limit])) + (f", … {more:,} more" if more > 0 else "")
