"""What lies at a path, found out before anything is opened."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from weyl._text import beside, near, one_line
from weyl.errors import InputError

__all__ = ["ENDINGS", "INDEX", "locate", "sniff"]

# Format to the endings that its files have.
ENDINGS = {"safetensors": (".safetensors",), "torch": (".pt", ".pth", ".bin", ".ckpt", ".tar")}
INDEX = ".index.json"
WANTED = "a .safetensors file, or a .pt file with a state dict, is expected"
# What trainers put beside the weights.
BESIDE = re.compile(r"(optimizer|scheduler|scaler|training_args|rng_state(_\d+)?)\.(pt|pth|bin)")
PIECE = re.compile(r"-\d{5}-of-\d{5}\.\w+$")


def locate(path: Path, notes: list[str]) -> Path:
    """Return the regular file that holds weights, or the index of several; of a directory, the only one in it.

    Parameters
    ----------
    path : Path
        What the user named.
    notes : list of str
        What a reader must know is added here.

    Raises
    ------
    InputError
        If there is none, or more than one; nothing has been opened then.
    """
    name = one_line(path)
    mode = _mode(path)
    if stat.S_ISDIR(mode):
        found = _candidates(path, name)
        if len(found) != 1:
            shown = ", ".join(one_line(p.name, 60) for p in found[:5])
            what = f"several: {shown}; name one" if found else f"none; {WANTED}"
            raise InputError(f"{name} is a directory with weights in {what}")
        notes.append(f"read {one_line(found[0].name)}, the only weights in {name}")
        return locate(found[0], notes)
    if not stat.S_ISREG(mode):
        raise InputError(f"{name} is not a regular file and was not opened; {WANTED}")
    if path.stat().st_size == 0:
        raise InputError(f"{name} is empty; copy it again")
    if not os.access(path, os.R_OK):
        raise InputError(f"{name}: no permission to read it")
    return path


def sniff(path: Path, notes: list[str]) -> str:
    """Return the format of a file by its first bytes; its name is only compared with them.

    Parameters
    ----------
    path : Path
        A regular file.
    notes : list of str
        A wrong ending is noted here.

    Returns
    -------
    str
        ``safetensors``, ``torch``, or ``index`` for the index of a checkpoint in several files.

    Raises
    ------
    InputError
        If it is of no format that can be read.
    """
    name = one_line(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise InputError(f"{name}: {one_line(error.strerror)}") from error
    text = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{name} is a Git LFS pointer, not the weights themselves; run git lfs pull")
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise InputError(f"{name} is a web page, not weights; download the file itself")
    if path.suffix.lower() in (".distcp", ".pt2"):
        what = "a piece of a distributed checkpoint" if path.suffix.lower() == ".distcp" else "an exported program"
        raise InputError(f"{name} is {what}, and reading that runs code of its own; save model.state_dict()")
    if path.name.endswith(INDEX):
        return "index"
    found = _format(head)
    if not found:
        known = {b"GGUF": "a quantised GGUF model", b"\x89HDF": "an HDF5 file"}
        raise InputError(f"{name} is {known.get(head[:4], 'of no known format')}; {WANTED}")
    if path.suffix.lower() not in ENDINGS[found]:
        notes.append(f"{one_line(path.name)} was read as a {found} file, by its first bytes, whatever its ending says")
    return found


def _candidates(folder: Path, name: str) -> list[Path]:
    """The weights in a folder, with one name for each set."""
    files = _inside(folder)
    if any(file.name == ".metadata" or file.suffix == ".distcp" for file in files):
        raise InputError(
            f"{name} is a distributed checkpoint, and reading that runs code of its own; save model.state_dict()"
        )
    every = tuple(ending for endings in ENDINGS.values() for ending in endings)
    indices = sorted(file for file in files if file.name.endswith(INDEX))
    found = sorted(file for file in files if file.suffix.lower() in every and not BESIDE.fullmatch(file.name))
    if indices:
        found = [file for file in found if not PIECE.search(file.name)]
    # Of the same weights in both formats, the one without a pickle.
    if {"model.safetensors", "model.safetensors.index.json"} & {file.name for file in (*found, *indices)}:
        skipped = ("pytorch_model.bin", "pytorch_model.bin.index.json")
        found = [file for file in found if file.name not in skipped]
        indices = [file for file in indices if file.name not in skipped]
    return [*indices, *found]


def _format(head: bytes) -> str:
    # Eight bytes of length, then a JSON object.
    if len(head) > 8 and head[8:9] == b"{" and not any(head[6:8]):
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return "torch"
    return ""


def _mode(path: Path) -> int:
    name = one_line(path)
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        if os.path.islink(path):  # raises nothing, whatever the path
            raise InputError(f"{name} is a link to a file that is not there") from None
        raise InputError(f"{name}: no such file{near(path.name, beside(path))}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: {one_line(getattr(error, 'strerror', None) or error)}") from None


def _inside(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
