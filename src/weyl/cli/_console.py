"""Where results go: standard output, and warnings to standard error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.containers import Lines
from rich.text import Text

from weyl._text import one_line
from weyl.cli._program import leave_broken_pipe

__all__ = ["Names", "open_console", "show_facts", "warn"]

PIPE_WIDTH = 120
LONGEST = 10_000  # characters of a warning


class _Output(Console):
    """Standard output, whose reader may stop before the end (``weyl verify M | head -1``)."""

    def on_broken_pipe(self) -> None:
        """Leave as a program that a closed pipe ends: any other code would read as an answer."""
        leave_broken_pipe()


class Names(Text):
    """Names in a cell of a table: one that is too long for a line ends it after a dot or an underscore, if it can."""

    def wrap(self, console: Console, width: int, **options: Any) -> Lines:
        """Break into lines of at most so many characters."""
        text = re.sub(r"\S+", lambda word: _broken(word[0], width), self.plain)
        return Text(text, style=self.style).wrap(console, width, **options)


def _broken(word: str, width: int) -> str:
    if len(word) <= width:
        return word
    lines = [""]
    for part in re.findall(r"[^._]*[._]+|[^._]+", word):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def open_console() -> Console:
    """Standard output; wide where it is not a terminal, so that lines of a pipe are not broken at 80."""
    console = _Output(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else _Output(highlight=False, markup=False, emoji=False, width=PIPE_WIDTH)


def show_facts(console: Console, facts: Sequence[tuple[str, Text | str]]) -> None:
    """Names on the left, values on the right, each a line of its own however long, to be copied whole."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        console.print(Text.assemble((f"{name:<{width}}  ", "dim"), value), soft_wrap=True)


def warn(warnings: Sequence[str]) -> None:
    """Say each in a line of its own on stderr."""
    for warning in warnings:
        click.echo(f"weyl: warning: {one_line(warning, LONGEST)}", err=True)
