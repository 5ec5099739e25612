"""Writing a state dict to safetensors files, one tensor at a time, and in one step."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor

from weyl._files import NewFile, new_file, refuse_existing, write_atomic
from weyl._text import one_line
from weyl.checkpoints._emit import emit, infos_of
from weyl.checkpoints._place import INDEX
from weyl.checkpoints._stored import TensorInfo
from weyl.errors import InputError, UsageError

__all__ = ["refuse_target", "weights_as_bytes", "write_weights"]


def refuse_target(path: Path, *, inputs: tuple[Path, ...] = (), force: bool = False) -> None:
    """Refuse a path for weights that cannot or may not be written; called before any work is done.

    Parameters
    ----------
    path : Path
        Where weights are going to be written.
    inputs : tuple of Path
        Files, or folders of files, that are read: none of them is ever written over.
    force : bool
        Whether another file that exists may be replaced.

    Raises
    ------
    InputError
        If the name does not end in ``.safetensors``, or the path is an input, exists without ``force``, or has no
        folder.
    """
    if path.suffix.lower() != ".safetensors":
        raise InputError(f"{one_line(path)}: the name must end in .safetensors, the format that is written")
    _refuse_input(path, inputs)
    refuse_existing(path, force=force)


def _refuse_input(path: Path, inputs: tuple[Path, ...]) -> None:
    # Not Path.exists and the like, which raise errors of names that are too long.
    read = [file for given in inputs for file in _files_of(given)]
    if os.path.exists(path) and any(os.path.exists(file) and os.path.samefile(path, file) for file in read):
        raise InputError(f"{one_line(path)} is what is read, and is never written over; give another path")


def _files_of(given: Path) -> list[Path]:
    """What may be read of an input: itself, or with a folder or an index what is in the folder."""
    folder = given if os.path.isdir(given) else given.parent if given.name.endswith(INDEX) else None
    return [given] if folder is None or not os.path.isdir(folder) else [folder / name for name in os.listdir(folder)]


def write_weights(
    path: Path,
    state: Mapping[str, Tensor],
    *,
    inputs: tuple[Path, ...] = (),
    force: bool = False,
    note: str = "",
    metadata: Mapping[str, str] | None = None,
    shard_bytes: int | None = None,
) -> tuple[Path, ...]:
    """Write a state dict as safetensors; whoever looks sees the old file or the whole new one.

    One tensor is asked for at a time and none is kept, so that the weights of `open_weights` and `LazyWeights` are
    never in memory together. The header holds a hash of every tensor, which reading checks. Names that share a tensor
    each get a copy of it, so that readers need not know of the tie.

    Parameters
    ----------
    path : Path
        Where to; the name ends in ``.safetensors``.
    state : mapping of str to Tensor
        On any device; not changed.
    inputs : tuple of Path
        Files that were read for it: none of them is ever written over.
    force : bool
        Whether another file that exists may be replaced.
    note : str
        What made it, kept in the header.
    metadata : mapping of str to str, optional
        What the header holds besides, such as that of the file that the weights are from.
    shard_bytes : int, optional
        Bytes of tensors in one file. Weights that are larger go to several, and ``path`` with ``.index.json`` after it
        says which tensor is in which; it is written last. The files' names hold a part of a hash of what is in them:
        those that an older index names stay, and stay whole.

    Returns
    -------
    tuple of Path
        What was written: the file, or the files and then the index.

    Raises
    ------
    InputError
        If the path is one of the inputs, exists without ``force``, or cannot be written; if a tensor has no entries
        (the meta device) or is of a kind that the format does not know.

    Examples
    --------
    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = write_weights(Path(folder, "net.safetensors"), torch.nn.Linear(2, 1).state_dict())
    ...     [path.name for path in written]
    ['net.safetensors']
    """
    if shard_bytes is not None and (isinstance(shard_bytes, bool) or shard_bytes < 1):
        raise UsageError(f"shard_bytes must be a positive number of bytes, got {shard_bytes!r}")
    if metadata and not all(isinstance(part, str) for entry in metadata.items() for part in entry):
        raise UsageError("metadata must be text by name, as the format has it")
    path = Path(path)
    refuse_target(path, inputs=inputs, force=force)
    try:
        infos = infos_of(state)
        if shard_bytes is not None and sum(info.nbytes for info in infos.values()) > shard_bytes:
            return _write_several(path, state, infos, _packed(infos, shard_bytes), inputs, force, (note, metadata))
        with new_file(path) as new:
            emit(new.stream, state, infos, note, metadata)
            refuse_target(path, inputs=inputs, force=force)  # what was made meanwhile is not replaced, either
            new.put(path)
    except InputError as error:
        shown = one_line(path)
        raise error if str(error).startswith(shown) else InputError(f"{shown}: {error}") from error
    return (path,)


def weights_as_bytes(
    state: Mapping[str, Tensor], *, note: str = "", metadata: Mapping[str, str] | None = None
) -> bytes:
    """A state dict as the safetensors file that `write_weights` writes: the same bytes every time.

    Parameters
    ----------
    state : mapping of str to Tensor
        On any device; not changed.
    note : str
        What made it.
    metadata : mapping of str to str, optional
        What the header holds besides.

    Raises
    ------
    InputError
        If a tensor has no entries (the meta device) or is of a kind that the format does not know.
    """
    stream = io.BytesIO()
    emit(stream, state, infos_of(state), note, metadata)
    return stream.getvalue()


def _packed(infos: Mapping[str, TensorInfo], most: int) -> list[list[str]]:
    """Names for one file after another, in order; a tensor that is larger than a file has one of its own."""
    files: list[list[str]] = [[]]
    held = 0
    for name, info in infos.items():
        if files[-1] and held + info.nbytes > most:
            files.append([])
            held = 0
        files[-1].append(name)
        held += info.nbytes
    return files


def _write_several(
    path: Path,
    state: Mapping[str, Tensor],
    infos: Mapping[str, TensorInfo],
    files: list[list[str]],
    inputs: tuple[Path, ...],
    force: bool,
    said: tuple[str, Mapping[str, str] | None],
) -> tuple[Path, ...]:
    """All files under other names first, then each put in its place, and the index last."""
    index = path.with_name(path.name + INDEX)
    _refuse_input(index, inputs)
    refuse_existing(index, force=force)
    if path.exists():
        raise InputError(f"{one_line(path)} exists, and would be taken for the same weights in one file; move it away")
    if len(files) > 99_999:
        raise InputError(f"{one_line(path)} would be {len(files):,} files; give larger ones")
    digest = hashlib.sha256()
    made: list[NewFile] = []
    with ExitStack() as stack:
        for names in files:
            new = stack.enter_context(new_file(path))
            part = {name: infos[name] for name in names}
            digest.update(emit(new.stream, state, part, *said))
            new.finish()
            made.append(new)
        tag = digest.hexdigest()[:8]
        paths = [
            path.with_name(f"{path.stem}-{tag}-{number:05d}-of-{len(files):05d}{path.suffix}")
            for number in range(1, len(files) + 1)
        ]
        for new, place in zip(made, paths, strict=True):
            new.put(place)
    write_atomic(index, _index(files, paths, infos.values()), force=force)
    return (*paths, index)


def _index(files: list[list[str]], paths: list[Path], infos: Iterable[TensorInfo]) -> str:
    where = {name: path.name for names, path in zip(files, paths, strict=True) for name in names}
    total = sum(info.nbytes for info in infos)
    return json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=2, sort_keys=True) + "\n"
