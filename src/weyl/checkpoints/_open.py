"""Weights of a file that are read one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import torch
from torch import Tensor

from weyl._text import expanded, one_line
from weyl.checkpoints._archive import Other, Pending, read_torch
from weyl.checkpoints._header import read_header
from weyl.checkpoints._index import check_pieces, read_index
from weyl.checkpoints._opened import OpenFile
from weyl.checkpoints._place import locate, sniff
from weyl.checkpoints._stored import Stored, TensorInfo
from weyl.errors import InputError

__all__ = ["OpenWeights", "open_weights"]

PREFIXES = ("module.", "_orig_mod.")
SHOWN = 6


class OpenWeights(Mapping[str, Tensor]):
    """Tensors of a checkpoint by name, each read from the disk when it is asked for, and none kept.

    A context manager; `open_weights` makes it.

    Attributes
    ----------
    notes : tuple of str
        What a reader must know: another format than the name says, a nested dict, a prefix that was removed.
    metadata : mapping of str to str
        What the header of a safetensors file holds besides; of several files, that of the first.

    Examples
    --------
    >>> import tempfile, torch
    >>> from weyl.checkpoints import write_weights
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "net.safetensors")
    ...     _ = write_weights(path, torch.nn.Linear(3, 2).state_dict())
    ...     with open_weights(path) as weights:
    ...         weights.info("weight").shape, sum(tensor.numel() for tensor in weights.values())
    ((2, 3), 8)
    """

    def __init__(
        self, tensors: Mapping[str, Stored], files: ExitStack, notes: tuple[str, ...], metadata: Mapping[str, str]
    ) -> None:
        self._tensors, self._files = dict(tensors), files
        self.notes = notes
        self.metadata = MappingProxyType(dict(metadata))
        self._open = True

    def __getitem__(self, name: str) -> Tensor:
        stored = self._tensors[name]
        if not self._open:
            raise InputError(f"{stored.file.name} was closed before {one_line(name, 80)} was read; read it inside with")
        return stored.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def peek(self, name: str) -> Tensor:
        """A tensor of the meta device with the type and shape of one of the file, of which nothing is read."""
        info = self.info(name)
        return torch.empty(info.shape, dtype=info.dtype, device="meta")

    def info(self, name: str) -> TensorInfo:
        """Type, shape and bytes of a tensor, without reading it.

        Parameters
        ----------
        name : str
            One of the names; of another, a KeyError is raised.
        """
        return self._tensors[name].info

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor."""
        return {name: stored.info.shape for name, stored in self._tensors.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(stored.info.nbytes for stored in self._tensors.values())

    def close(self) -> None:
        """Close the files; nothing can be read afterwards."""
        self._open = False
        self._files.close()

    def __enter__(self) -> OpenWeights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"OpenWeights({len(self)} tensors, {self.nbytes:,} bytes)"


def open_weights(path: Path | str, key: str | None = None) -> OpenWeights:
    """Open a checkpoint, so that its tensors can be read one at a time; no code in it is run.

    A ``.pt`` file is never unpickled in this process. Another process, with limits on memory and time and without
    torch, tells what the pickle says; that takes some hundredths of a second, where a process that imports torch would
    take seconds. Tensors are then read from their places in the file, as those of a safetensors file are.

    Parameters
    ----------
    path : path
        A safetensors file, a ``.pt`` file with a state dict, the index of a checkpoint in several files
        (``*.index.json``), or a directory with one of them. The format is told by the first bytes.
    key : str, optional
        Which dict of several in a ``.pt`` file to take.

    Returns
    -------
    OpenWeights
        To be closed, or used in a ``with`` statement.

    Raises
    ------
    InputError
        If it cannot be read or holds anything but tensors by name; one line with the remedy. Reading a tensor raises
        it, too, if the file changed or the tensor's bytes do not have the hash or checksum that was written.

    Examples
    --------
    >>> open_weights("no/such/file.pt")
    Traceback (most recent call last):
    weyl.errors.InputError: no/such/file.pt: no such file
    """
    notes: list[str] = []
    file = locate(expanded(path), notes)
    with ExitStack() as files:
        if sniff(file, notes) == "index":
            tensors, metadata = _several(file, key, notes, files)
        else:
            tensors, metadata = _one(file, key, notes, files)
        _refuse_quantised(tensors, one_line(file))
        tensors = _bare(tensors, notes)
        return OpenWeights(tensors, files.pop_all(), tuple(notes), metadata)


def _opened(path: Path, files: ExitStack) -> OpenFile:
    file = OpenFile(path)
    files.callback(file.close)
    return file


def _one(
    path: Path, key: str | None, notes: list[str], files: ExitStack
) -> tuple[dict[str, Stored], Mapping[str, str]]:
    kind = sniff(path, [])
    file = _opened(path, files)
    if kind == "safetensors":
        if key is not None:
            raise InputError(f"{file.name}: --key {one_line(key)} names no dict of tensors in it; it has no dicts")
        read = read_header(file)
        return read.tensors, read.metadata
    state = _state(read_torch(file, notes), key, file.name, notes)
    return {title: tensor.stored(title) for title, tensor in state.items()}, {}


def _several(
    path: Path, key: str | None, notes: list[str], files: ExitStack
) -> tuple[dict[str, Stored], Mapping[str, str]]:
    index_file = _opened(path, files)
    index = read_index(index_file)
    pieces: dict[str, dict[str, Stored]] = {}
    metadata: Mapping[str, str] = {}
    wanted = "safetensors" if path.name.endswith(".safetensors.index.json") else "torch"
    for piece in sorted(set(index.values())):
        place = locate(path.parent / piece, notes)
        if sniff(place, []) != wanted:
            raise InputError(f"{one_line(place)} is no {wanted} file, as its index says; copy it again")
        pieces[piece], told = _one(place, key, notes, files)
        metadata = metadata or told
    check_pieces(index, pieces, index_file.name)
    return {title: pieces[piece][title] for title, piece in index.items()}, metadata


def _state(content: Other | dict[Any, Any], key: str | None, name: str, notes: list[str]) -> dict[str, Pending]:
    """The dict of tensors in what was read: itself, or the only one in it, or the one that was asked for."""
    if not isinstance(content, dict):
        raise InputError(
            f"{name} holds a {one_line(content.title)}, but tensors by name are expected; save a state dict"
        )
    inner = {title: value for title, value in content.items() if _is_state(value)}
    if key is not None:
        if key not in inner:
            shown = ", ".join(one_line(title, 40) for title in list(inner)[:SHOWN]) or "none"
            raise InputError(f"{name}: --key {one_line(key)} names no dict of tensors in it; there are: {shown}")
        return _tensors(inner[key], notes)
    if _is_state(content):
        return _tensors(content, notes)
    if len(inner) == 1:
        ((title, state),) = inner.items()
        notes.append(f"took {one_line(repr(str(title)), 60)}, the only dict of tensors in {name}")
        return _tensors(state, notes)
    held = ", ".join(one_line(title, 40) for title in list(inner or content)[:SHOWN]) or "nothing"
    what = f"several dicts of tensors: {held}; choose one with --key" if inner else f"no tensors by name, but {held}"
    raise InputError(f"{name} holds {what}")


def _is_state(value: object) -> bool:
    return (
        isinstance(value, dict)
        and all(isinstance(title, str) for title in value)
        and any(isinstance(item, Pending) for item in value.values())
        and not any(isinstance(item, dict) and item for item in value.values())
        and not any(isinstance(item, Other) and item.title == "dict" for item in value.values())
    )


def _tensors(state: Mapping[str, Any], notes: list[str]) -> dict[str, Pending]:
    left_out = [title for title, value in state.items() if not isinstance(value, Pending)]
    if left_out:
        shown = ", ".join(one_line(title, 40) for title in left_out[:SHOWN])
        notes.append(f"left out {len(left_out)} entries that are no tensors: {shown}")
    return {title: value for title, value in state.items() if isinstance(value, Pending)}


def _refuse_quantised(tensors: Mapping[str, Stored], name: str) -> None:
    """Refuse the packed weights of GPTQ and its like, which are integers only in name."""
    packed = [title for title in tensors if title.endswith(".qweight")]
    if packed and any(title.removesuffix("qweight") + "scales" in tensors for title in packed):
        raise InputError(
            f"{name} is quantised: {one_line(packed[0], 80)} packs several weights into one integer; give the weights"
            " that it was made from"
        )


def _bare(tensors: dict[str, Stored], notes: list[str]) -> dict[str, Stored]:
    """Remove the prefixes that DataParallel and torch.compile put before every name."""
    removed = []
    while tensors:
        prefix = next((p for p in PREFIXES if all(title.startswith(p) for title in tensors)), None)
        if prefix is None:
            break
        tensors = {title.removeprefix(prefix): stored for title, stored in tensors.items()}
        removed.append(prefix)
    if removed:
        notes.append(f"removed the prefix {''.join(removed)} from every name")
    return tensors
