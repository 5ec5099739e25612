"""What ``weyl fingerprint`` does: one file after another, and one tensor of it at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import weyl
from weyl._text import one_line
from weyl._version import __version__
from weyl.checkpoints import open_weights
from weyl.cli._identity_files import Streamed, misfit
from weyl.cli._work import Found
from weyl.errors import MismatchError, WeylError
from weyl.report import printable

__all__ = ["Print", "Prints", "fingerprint_of"]

BLIND = "{moves} are not among what a fingerprint is the same under: weyl compare sees through them, too"


@dataclass(frozen=True)
class Print:
    """One file: its fingerprint, or why there is none.

    Parameters
    ----------
    file : str
        The file, to show.
    fingerprint : str
        64 hexadecimal digits; empty where there is an error.
    error : str
        Why there is none, in one line.
    exit_code : int
        That of the error; 0 without one.
    warnings : tuple of str
        What a reader must know.
    """

    file: str
    fingerprint: str = ""
    error: str = ""
    exit_code: int = 0
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "file": self.file,
            "fingerprint": self.fingerprint or None,
            "error": self.error or None,
            "exit_code": self.exit_code,
        }


@dataclass(frozen=True, eq=False)
class Prints:
    """What ``weyl fingerprint`` found."""

    found: Found
    prints: tuple[Print, ...]

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Files that hold one network, where they are several."""
        files: dict[str, list[str]] = {}
        for one in self.prints:
            if one.fingerprint:
                files.setdefault(one.fingerprint, []).append(one.file)
        return tuple(tuple(names) for names in files.values() if len(names) > 1)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know of all files together."""
        several = len({one.fingerprint for one in self.prints if one.fingerprint}) > 1
        moves = {gauge.kind.move for gauge in self.found.structure.gauges if gauge.kind.continuous}
        words = {"scale": "scales", "mix": "matrices", "translate": "translations"}
        blind = [word for move, word in words.items() if move in moves]
        return (BLIND.format(moves=" and ".join(blind)),) if several and blind else ()

    @property
    def exit_code(self) -> int:
        """The worst of all files."""
        return max(one.exit_code for one in self.prints)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        said = [*self.found.warnings, *(note for one in self.prints for note in one.warnings), *self.warnings]
        return {
            "weyl": __version__,
            "model": self.found.loaded.name,
            "group": self.found.structure.group.symbol,
            "files": [one.to_dict() for one in self.prints],
            "same": [list(names) for names in self.groups],
            "warnings": said,
        }


def fingerprint_of(
    found: Found, file: Path, key: str | None, progress: Callable[[int, int], None] = lambda done, of: None
) -> Print:
    """The fingerprint of one file, of which one tensor is in memory at a time.

    Parameters
    ----------
    found : Found
        The model.
    file : Path
        Its weights.
    key : str or None
        Which dict of several in the file.
    progress : callable
        Called with the bytes that were read, and those that the file holds.
    """
    name = printable(file)
    try:
        with open_weights(file, key) as opened:
            total, read = opened.nbytes, 0

            def count(nbytes: int) -> None:
                nonlocal read
                read += nbytes
                progress(read, total)

            progress(0, total)
            state = Streamed(opened, found.loaded.module, count)
            problem = misfit(found.loaded.module, state.infos)
            if problem:
                raise MismatchError(f"the weights and the model do not fit: {problem}; name the model of these weights")
            made = weyl.fingerprint(found.structure, state)
            notes = [f"{name}: {note}" for note in (*opened.notes, state.note) if note]
            notes += [
                f"{name}: {one_line(' and '.join(names), 160)} have different values, which the model ties"
                for names in state.broken
            ]
    except WeylError as error:
        told = one_line(error, 2000)
        return Print(name, error=told if told.startswith(name) else f"{name}: {told}", exit_code=error.exit_code)
    return Print(name, made, warnings=tuple(notes))
