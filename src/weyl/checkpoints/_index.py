"""A checkpoint in several files: the index says which tensor is in which."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from weyl._text import one_line
from weyl.checkpoints._opened import OpenFile
from weyl.checkpoints._place import ENDINGS, INDEX
from weyl.checkpoints._strict import strict_object
from weyl.errors import InputError

__all__ = ["check_pieces", "read_index"]

LONGEST = 100_000_000  # bytes of an index
SHOWN = 3


def read_index(file: OpenFile) -> dict[str, str]:
    """Read which tensor is in which file, with every name of a file checked; none of them is opened.

    Parameters
    ----------
    file : OpenFile
        The index.

    Returns
    -------
    dict of str to str
        Name of a tensor to name of a file in the same folder.

    Raises
    ------
    InputError
        If it is no index, or names a file elsewhere, of another format or that is not there.
    """
    if file.size > LONGEST:
        raise InputError(f"{file.name} has {file.size:,} bytes, too many for an index; copy it again")
    try:
        found = strict_object(file.read(0, file.size)).get("weight_map")
    except ValueError as error:
        raise InputError(f"{file.name} is no index: {one_line(error)}; copy it again") from None
    if not isinstance(found, dict) or not found or not all(isinstance(piece, str) for piece in found.values()):
        raise InputError(f"{file.name} is no index: it has no weight_map from names to files; copy it again")
    inner = Path(file.path.name.removesuffix(INDEX)).suffix.lower()
    known = next((endings for endings in ENDINGS.values() if inner in endings), ())
    for piece in sorted(set(found.values())):
        _check_name(piece, file, known)
    return found


def _check_name(piece: str, file: OpenFile, endings: tuple[str, ...]) -> None:
    """Refuse what is no plain name of a file of this format in this folder."""
    shown = f"{file.name} names {one_line(repr(piece), 80)}"
    if piece != os.path.basename(piece) or piece in ("", ".", "..") or "\\" in piece or "\0" in piece:
        raise InputError(f"{shown}, which is no plain name of a file in its folder; it was not opened")
    if Path(piece).suffix.lower() not in endings:
        raise InputError(f"{shown}, which is not of the format that the index is for; it was not opened")
    path = file.path.parent / piece
    if not os.path.lexists(path):
        raise InputError(f"{shown}, which is not there; copy it, too")
    folder, target = file.path.parent.resolve(), path.resolve()
    if target.parent != folder and not _is_blob(target, folder):
        raise InputError(f"{shown}, a link that leaves its folder; it was not opened")


def _is_blob(target: Path, folder: Path) -> bool:
    """Whether it is what a file of a snapshot in the hub's cache links to, in that cache's own store."""
    if folder.parent.name != "snapshots":
        return False
    return target.parent == folder.parent.parent / "blobs" and bool(re.fullmatch("[0-9a-f]{40,64}", target.name))


def check_pieces(index: Mapping[str, str], pieces: Mapping[str, Mapping[str, object]], name: str) -> None:
    """Refuse an index that does not say of every tensor in which one file it is.

    Parameters
    ----------
    index : mapping of str to str
        From `read_index`.
    pieces : mapping of str to mapping
        For every file the tensors in it.
    name : str
        The index, for the message.

    Raises
    ------
    InputError
        Naming the first tensors that are elsewhere, in two files, or not in the index.

    Examples
    --------
    >>> check_pieces({"w": "a"}, {"a": {"w": 1}}, "index")
    >>> check_pieces({"w": "a"}, {"a": {"w": 1}, "b": {"w": 1}}, "index")
    Traceback (most recent call last):
    weyl.errors.InputError: index: 1 tensors are in two files (w); copy them again
    """
    missing = [title for title, piece in index.items() if title not in pieces[piece]]
    held = [title for piece in pieces.values() for title in piece]
    twice = sorted(title for title, count in Counter(held).items() if count > 1)
    unknown = [title for title in held if title not in index]
    for found, what in ((missing, "not in their file"), (twice, "in two files"), (unknown, "not in the index")):
        if found:
            shown = ", ".join(one_line(title, 60) for title in found[:SHOWN])
            raise InputError(f"{name}: {len(found)} tensors are {what} ({shown}); copy them again")
