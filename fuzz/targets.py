"""What is fuzzed: bytes in, and nothing but weyl's own errors out."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from weyl.checkpoints import _describe, _pickled, read_weights
from weyl.checkpoints._opened import OpenFile
from weyl.errors import WeylError
from weyl.structure import Structure

__all__ = ["TARGETS"]

FOLDER = Path(tempfile.mkdtemp(prefix="weyl-fuzz-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
PIECES = {f"model-0000{i}-of-00002.safetensors": {f"t{i}": torch.ones(2)} for i in (1, 2)}


def in_this_process(file: OpenFile, mode: str, begin: int, size: int) -> dict[str, Any]:
    """Describe a pickle here, where its instructions are seen by the fuzzer; nothing in it can be called."""
    told: dict[str, Any] = json.loads(json.dumps(_describe.guarded(mode, begin, size, file.descriptor)))
    return told


def prepared() -> Path:
    """The folder in which files are made: two pieces of a checkpoint, and no index."""
    if not FOLDER.joinpath("pieces").exists():
        (FOLDER / "pieces").mkdir()
        for name, state in PIECES.items():
            save_file(state, FOLDER / "pieces" / name)
        _pickled._asked = in_this_process
    return FOLDER


def one_line(call: Callable[[], object]) -> None:
    """Let weyl's errors pass, if they are one printable line."""
    try:
        call()
    except WeylError as error:
        if not str(error).isprintable() or len(str(error)) > 5000:
            raise AssertionError(f"no printable line: {str(error)!r}") from error


def of_file(name: str) -> Callable[[bytes], None]:
    """A target that reads a file of this name."""

    def target(data: bytes) -> None:
        path = prepared() / name
        path.write_bytes(data)
        one_line(lambda: read_weights(path))

    return target


def structure(data: bytes) -> None:
    """The text form of a structure, and that it is read as it is written."""

    def read() -> None:
        found = Structure.from_json(data.decode("utf-8", "replace"))
        if Structure.from_json(found.to_json()) != found:
            raise AssertionError("another structure comes back")

    one_line(read)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "safetensors": of_file("a.safetensors"),
    "torch": of_file("a.pt"),
    "index": of_file("pieces/model.safetensors.index.json"),
    "structure": structure,
}
