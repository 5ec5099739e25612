"""Text of foreign origin: in messages one printable line, near names, and paths as a user writes them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

__all__ = ["beside", "expanded", "near", "one_line"]


def one_line(text: object, limit: int = 200) -> str:
    r"""Fold any text into one printable line, because messages quote names and errors from foreign files.

    Parameters
    ----------
    text : object
        What to show; ``str`` is applied.
    limit : int
        Longest result; the rest is replaced by an ellipsis.

    Examples
    --------
    >>> one_line("two\n  lines and \x1b[31m")
    'two lines and \\x1b[31m'
    """
    line = " ".join(str(text).split())
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def near(name: str, candidates: Iterable[str]) -> str:
    """Return ``"; did you mean 'x' or 'y'?"``, or an empty string when nothing is near.

    Examples
    --------
    >>> near("resnet81", ["mlp", "resnet18"])
    "; did you mean 'resnet18'?"
    >>> near("zebra", ["mlp", "cnn"])
    ''
    """
    matches = difflib.get_close_matches(name, list(candidates), n=2)
    return f"; did you mean {' or '.join(repr(one_line(match)) for match in matches)}?" if matches else ""


def expanded(path: Path | str) -> Path:
    """Replace a leading ``~`` or ``~user``; of a user that does not exist the path stays, as in a shell.

    Examples
    --------
    >>> expanded("~nosuchuser/net.pt").as_posix()
    '~nosuchuser/net.pt'
    """
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError):  # no such user; no such name
        return Path(path)


def beside(path: Path) -> list[str]:
    """Return the names in the folder of a path, to be compared with its own; none where it cannot be read."""
    try:
        return [found.name for found in path.parent.iterdir()]
    except (OSError, ValueError):
        return []
