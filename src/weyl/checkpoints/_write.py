"""Writing a state dict to a safetensors file, in one step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from weyl._files import refuse_existing, write_atomic
from weyl._text import one_line
from weyl._version import __version__
from weyl.errors import InputError

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
    read = [file for given in inputs for file in (given.iterdir() if given.is_dir() else (given,)) if file.exists()]
    if path.exists() and any(path.samefile(file) for file in read):
        raise InputError(f"{one_line(path)} is what is read, and is never written over; give another path")
    refuse_existing(path, force=force)


def write_weights(
    path: Path,
    state: Mapping[str, Tensor],
    *,
    inputs: tuple[Path, ...] = (),
    force: bool = False,
    note: str = "",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a state dict as safetensors; whoever looks sees the old file or the whole new one.

    Names that share a tensor each get a copy of it, so that readers need not know of the tie.

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

    Raises
    ------
    InputError
        If the path is one of the inputs, exists without ``force``, or cannot be written; if a tensor has no entries
        (the meta device) or is of a kind that the format does not know.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_weights(Path(folder, "net.safetensors"), torch.nn.Linear(2, 1).state_dict())
    ...     [path.name for path in Path(folder).iterdir()]
    ['net.safetensors']
    """
    refuse_target(path, inputs=inputs, force=force)
    try:
        content = weights_as_bytes(state, note=note, metadata=metadata)
    except InputError as error:
        raise InputError(f"{one_line(path)}: {error}") from error
    write_atomic(path, content, force=force)


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
    from safetensors.torch import save

    for name, tensor in state.items():
        if tensor.device.type == "meta" or tensor.layout is not torch.strided:
            raise InputError(f"{one_line(name)} has no dense entries and cannot be written; build the model for real")
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}
    told = json.dumps({"note": note, "version": __version__}, sort_keys=True)
    # Other libraries refuse a file that does not say which one its tensors are for.
    header = {"format": "pt", **(metadata or {}), "weyl": told}
    try:
        return _with_metadata(save(copies), header)
    except (KeyError, ValueError) as error:
        raise InputError(f"a tensor cannot be written: {one_line(error)}") from error


def _with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with metadata in its header, sorted: the library writes several keys in an order of chance."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end]) | {"__metadata__": dict(sorted(metadata.items()))}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(content)[end:]))
