"""Results of ``weyl compare``, ``fingerprint`` and ``canonicalize`` for people and for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from weyl.cli._console import Names, open_console, show_facts, warn
from weyl.report import MOVES, counted, printable, subscripts, to_json
from weyl.report._identity import p_told

if TYPE_CHECKING:
    from weyl.cli._identity_prints import Print, Prints
    from weyl.cli._identity_work import Canonical
    from weyl.identity import Evidence
    from weyl.report import Lookalikes
    from weyl.report._identity import Compared

__all__ = ["canonical", "compared", "copies", "failed", "lookalikes", "printed", "reading"]

VERDICTS = {
    **dict.fromkeys(("identical", "same function", "same up to precision"), "bold green"),
    "derived": "bold yellow",
    "unrelated": "bold",
    "inconclusive": "bold yellow",
}
SHOWN = 6  # sets of units, or tensors
LONG = 20  # digits of a stabiliser
BIG = 2**26  # bytes of a file that takes some time
Facts = list[tuple[str, Text | str]]


def compared(found: Compared, *, explain: bool, as_json: bool) -> None:
    """Show what two files are to each other, and why."""
    warn(found.warnings)
    if as_json:
        click.echo(to_json(found.to_dict()))
        return
    out, result = open_console(), found.comparison
    out.print(Text(printable(found.model), style="bold"), soft_wrap=True)
    out.print(Text(printable(f"A is {found.a}, B is {found.b}"), style="dim"), soft_wrap=True)
    out.print()
    out.print(Text(result.verdict.upper(), style=VERDICTS[result.verdict]))
    out.print(Text(found.sentence), soft_wrap=True)
    out.print()
    facts: Facts = [("why" if not number else "", printable(why)) for number, why in enumerate(result.reasons)]
    facts += [*found.facts, *found.usual]
    if result.left_out and not explain:
        facts.append(("left out", f"{counted(len(result.left_out), 'tensor')}, in part or whole; see --explain"))
    show_facts(out, facts)
    if explain:
        out.print()
        _explained(out, found)


def printed(one: Print) -> None:
    """Show a fingerprint as ``sha256sum`` shows a hash, or say why there is none."""
    failed(one)
    if one.fingerprint:
        click.echo(f"{one.fingerprint}  {one.file}")


def failed(one: Print) -> None:
    """Say what must be known of a file, and why it has no fingerprint."""
    warn(one.warnings)
    if one.error:
        click.echo(f"weyl: error: {one.error}", err=True)


def copies(found: Prints) -> None:
    """Say which files hold one network."""
    if found.groups:
        click.echo(err=True)
    for names in found.groups:
        click.echo(f"same network: {', '.join(names)}", err=True)
    warn(found.warnings)


@contextmanager
def reading(file: Path) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr for a large file, where that is a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(printable(file), total=None, visible=False)

        def tell(done: int, of: int) -> None:
            # What the order of units depends on is read a second time.
            bar.update(task, completed=done, total=max(of, done), visible=of >= BIG)

        yield tell


def canonical(found: Canonical, out: Path | None, *, dry_run: bool, as_json: bool) -> None:
    """Show what is known of a normal form."""
    warn(found.warnings)
    if as_json:
        click.echo(to_json({**found.to_dict(), "dry_run": dry_run}))
        return
    console, form = open_console(), found.form
    console.print(Text(printable(found.found.loaded.name), style="bold"), soft_wrap=True)
    console.print(Text(found.file.name, style="dim"), soft_wrap=True)
    moves = ", ".join(words for move, words in MOVES.items() if move in form.element.moves)
    unique = "bit for bit" if form.exact else "up to rounding, beside scales, matrices or translations"
    facts: Facts = [
        ("group", subscripts(found.found.structure.group.symbol)),
        ("moved by", moves or "nothing: this is the normal form"),
        ("the same", f"for every copy, {unique}"),
        ("stabiliser", _stabiliser(found)),
        *_ties(found),
    ]
    if form.undecided:
        names = ", ".join(dict.fromkeys(printable(gauge) for gauge, _ in form.undecided))
        facts.append(("undecided", f"the basis in {names}"))
    facts += _function(found)
    if dry_run:
        name = printable(out) if out is not None else "a file"
        facts.append(("would write", f"{counted(len(found.content), 'byte')} to {name}"))
        facts.append(("written", "nothing: this is a dry run"))
    show_facts(console, facts)


def lookalikes(found: Lookalikes) -> Table:
    """What a hash, a cosine and weyl say of networks beside the first one of the demo."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("beside the first training")
    for name in ("a hash", "a cosine", "weyl", "distance", "aligned"):
        table.add_column(name, justify="right")
    for one in found.seen:
        cells = ["the same" if one.same_file else "another", f"{one.cosine:.3f}"]
        style = "green" if one.as_expected else "bold red"
        gaps = [Text(f"{one.before:.3g}"), Text("" if one.after is None else f"{one.after:.2g}")]
        table.add_row(Text(one.title, style="dim"), *map(Text, cells), Text(one.verdict, style=style), *gaps)
    return table


def _stabiliser(found: Canonical) -> str:
    text, log10 = str(found.form.to_dict()["stabilizer"]), found.form.to_dict()["stabilizer_log10"]
    if text == "1":
        return "1: only the identity leaves the form as it is"
    count = f"{int(text):,}" if text.isdecimal() and len(text) <= LONG else f"10^{log10:,.2f}"
    return f"{count} permutations with signs leave the form as it is"


def _ties(found: Canonical) -> Facts:
    lines: Facts = []
    for space, copy, units in found.form.ties[:SHOWN]:
        where = f" copy {list(copy)}" if copy else ""
        some = ", ".join(map(str, units[:SHOWN])) + (f", … {len(units) - SHOWN:,} more" if len(units) > SHOWN else "")
        lines.append(("" if lines else "ties", f"{printable(space)}{where} [{some}]: contents do not tell them apart"))
    more = len(found.form.ties) - SHOWN
    return lines + ([("", f"… and {more:,} more (--json has all)")] if more > 0 else [])


def _function(found: Canonical) -> Facts:
    kept = {"holds": "kept", "fails": "NOT kept", "inconclusive": "cannot be told"}[found.preserved.verdict]
    style = {"holds": "bold green", "fails": "bold red", "inconclusive": "bold yellow"}[found.preserved.verdict]
    told = f"{kept}: outputs differ by {found.preserved.difference:.1e}, as written by {found.preserved.written:.1e}"
    return [("function", Text(told, style=style))]


def _explained(out: Console, found: Compared) -> None:
    evidence = found.comparison.evidence
    if evidence is None:
        out.print(Text("no statistics were needed: see why", style="dim"))
    else:
        out.print(_table(evidence))
    if found.comparison.left_out:
        out.print(Text("not compared, or not as a whole:"))
        for line in found.comparison.left_out:
            out.print(Text(f"  {printable(line)}"), soft_wrap=True)


def _table(evidence: Evidence) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("space", overflow="fold")
    for name in ("units", "copies", "matched alike", "p", "kept index"):
        table.add_column(name, justify="right")
    table.add_column("matched by", overflow="fold")
    for space in evidence.spaces:
        head = Names(printable(space.name), style="cyan"), Text(f"{space.units:,}"), Text(f"{space.copies:,}")
        kept = Text(_share(space.kept))
        for number, way in enumerate(space.ways):
            sides = [", ".join(map(printable, names[:2])) for names in (way.first, way.second) if names]
            by = "\nand ".join(sides) if way.second else f"halves of {sides[0]}"
            cells = Text(_share(way.agreement)), Text(p_told(way.match_p)), Text("") if number else kept, Names(by)
            table.add_row(*(head if not number else (Text(""),) * 3), *cells)
        if not space.ways:
            table.add_row(*head, Text("–"), Text("–"), kept, Text("not in two ways"))
    return table


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
