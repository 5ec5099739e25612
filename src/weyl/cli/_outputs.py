"""Files that commands write: what is read is never written over, and no option is given in vain."""

from __future__ import annotations

from pathlib import Path

import click

from weyl._text import expanded, one_line
from weyl.errors import InputError

__all__ = ["refuse_force", "refuse_report", "write_report"]


def refuse_force(force: bool, out: Path | None, option: str) -> None:
    """Refuse ``--force`` where nothing is written.

    Parameters
    ----------
    force : bool
        Whether it was given.
    out : Path or None
        What is written.
    option : str
        That names a file to write.

    Raises
    ------
    click.UsageError
        If there is nothing to replace.
    """
    if force and out is None:
        raise click.UsageError(f"--force replaces the file of {option}; give {option}, too")


def refuse_report(report: Path, *sources: str, weights: Path | None, force: bool) -> None:
    """Refuse a report that cannot or may not be written, or that is what is read; called before any work is done.

    Parameters
    ----------
    report : Path
        Where the page is going to be written, and its numbers as JSON beside it.
    *sources : str
        MODEL, DATA and the like, which may name files.
    weights : Path or None
        A file of weights that is read.
    force : bool
        Whether other files that exist may be replaced.

    Raises
    ------
    InputError
        As `weyl.report.refuse_existing`, and if the page or its JSON is a file that is read, whatever it is called.
    """
    from weyl.report import refuse_existing

    written = report, report.with_suffix(".json")
    refuse_existing(*written, force=force)
    read = [file for source in sources for file in _files(source)]
    read += [] if weights is None else [expanded(weights)]
    for path in written:
        if any(_same(path, file) for file in read):
            raise InputError(f"{one_line(path)} is what is read, and is never written over; give another --report")


def write_report(report: Path, page: str, numbers: str, *, force: bool) -> None:
    """Write a page, and its numbers beside it, and say so.

    Parameters
    ----------
    report : Path
        Where to.
    page, numbers : str
        HTML and JSON.
    force : bool
        Whether files that exist may be replaced.
    """
    from weyl.report import write_atomic

    beside = report.with_suffix(".json")
    write_atomic(report, page, force=force)
    write_atomic(beside, numbers + "\n", force=force)
    click.echo(f"weyl: wrote {click.format_filename(report)} and {click.format_filename(beside)}", err=True)


def _files(source: str) -> tuple[Path, ...]:
    """What an argument may name: a file, a folder with a configuration, a file with a factory in it."""
    head = source.partition("?")[0].strip().removeprefix("hf:")
    names = head, f"{head}/config.json", head.rpartition(":")[0]
    return tuple(expanded(name) for name in names)


def _same(path: Path, other: Path) -> bool:
    """Whether two paths lead to one file that exists."""
    try:
        return path.samefile(other)
    except (OSError, ValueError):
        return False
