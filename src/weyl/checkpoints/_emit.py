"""The bytes of a safetensors file, one tensor after another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

import torch
from torch import Tensor

from weyl._text import one_line
from weyl._version import __version__
from weyl.checkpoints._header import LONGEST, NAMES, layout_digest
from weyl.checkpoints._open import OpenWeights
from weyl.checkpoints._stored import TensorInfo, as_bytes
from weyl.errors import InputError

__all__ = ["LazyWeights", "emit", "infos_of"]

UNKNOWN = "0" * 64  # in the place of a hash, until it is known


class LazyWeights(Mapping[str, Tensor]):
    """Tensors that are made one at a time, when they are written.

    Parameters
    ----------
    infos : mapping of str to TensorInfo
        Type and shape of every tensor.
    make : callable
        From a name to its tensor.

    Examples
    --------
    >>> infos = {"a": TensorInfo(torch.float32, (2,))}
    >>> LazyWeights(infos, lambda name: torch.zeros(2))["a"]
    tensor([0., 0.])
    """

    def __init__(self, infos: Mapping[str, TensorInfo], make: Callable[[str], Tensor]) -> None:
        self._infos, self._make = dict(infos), make

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._infos:
            raise KeyError(name)
        return self._make(name)

    def __contains__(self, name: object) -> bool:
        return name in self._infos

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def info(self, name: str) -> TensorInfo:
        """Type, shape and bytes of a tensor, without making it."""
        return self._infos[name]


def infos_of(state: Mapping[str, Tensor]) -> dict[str, TensorInfo]:
    """Type and shape of every tensor, after a check that the format has both.

    Parameters
    ----------
    state : mapping of str to Tensor
        Of lazy ones, none is made.

    Raises
    ------
    InputError
        If there are none, or one cannot be written.
    """
    if not state:
        raise InputError("there are no tensors, so nothing can be written; give a state dict")
    found = {}
    for name in state:
        if not isinstance(name, str) or name == "__metadata__":
            raise InputError(f"{one_line(repr(name), 80)} is no name of a tensor and cannot be written; rename it")
        if isinstance(state, OpenWeights | LazyWeights):
            found[name] = state.info(name)
        else:
            found[name] = _info(name, state[name])
        if str(found[name].dtype).removeprefix("torch.") not in NAMES:
            raise InputError(f"{one_line(name)} is of type {found[name].dtype} and cannot be written; make it float32")
    return found


def emit(
    stream: BinaryIO,
    state: Mapping[str, Tensor],
    infos: Mapping[str, TensorInfo],
    note: str,
    metadata: Mapping[str, str] | None,
) -> bytes:
    """Write a file: room for its header, the tensors, and then the header with their hashes.

    Parameters
    ----------
    stream : binary file
        At its beginning; it must be able to go back there.
    state : mapping of str to Tensor
        Each is asked for once.
    infos : mapping of str to TensorInfo
        Those of the tensors that are written.
    note, metadata
        As for `write_weights`.

    Returns
    -------
    bytes
        The header.

    Raises
    ------
    InputError
        If a tensor is not what its info says, or the header would be longer than readers allow.
    """
    # By size of the numbers, so that every tensor is aligned, and then by name.
    ordered = {name: infos[name] for name in sorted(infos, key=lambda name: (-infos[name].dtype.itemsize, name))}
    told = {"note": note, "version": __version__, "layout": layout_digest(ordered)}
    room = _header(ordered, told, dict.fromkeys(ordered, UNKNOWN), metadata)
    stream.write(room)
    hashes = {}
    for name, info in ordered.items():
        tensor = state[name]
        if _info(name, tensor) != info:
            raise InputError(f"{one_line(name, 80)} is {_info(name, tensor)} and was to be {info}")
        content = as_bytes(tensor)
        del tensor
        hashes[name] = hashlib.sha256(content).hexdigest()
        stream.write(content)
        del content
    header = _header(ordered, told, hashes, metadata)
    stream.seek(0)
    stream.write(header)
    return header


def _info(name: str, tensor: Tensor) -> TensorInfo:
    if tensor.device.type == "meta" or tensor.layout is not torch.strided or tensor.is_nested:
        raise InputError(f"{one_line(name)} has no dense entries and cannot be written; build the model for real")
    return TensorInfo.of(tensor)


def _header(
    infos: Mapping[str, TensorInfo],
    told: Mapping[str, str],
    hashes: Mapping[str, str],
    metadata: Mapping[str, str] | None,
) -> bytes:
    """The header with its length in front; as long for every set of hashes."""
    weyl = json.dumps({**told, "sha256": hashes}, sort_keys=True)
    # Other libraries refuse a file that does not say which one its tensors are for.
    texts = {"format": "pt", **(metadata or {}), "weyl": weyl}
    entries: dict[str, object] = {"__metadata__": dict(sorted(texts.items()))}
    end = 0
    for name, info in infos.items():
        begin, end = end, end + info.nbytes
        short = NAMES[str(info.dtype).removeprefix("torch.")]
        entries[name] = {"dtype": short, "shape": list(info.shape), "data_offsets": [begin, end]}
    try:
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError("a name of a tensor is no text and cannot be written; rename it") from None
    text += b" " * (-len(text) % 8)
    if len(text) > LONGEST:
        raise InputError(f"the header would have {len(text):,} bytes and cannot be written; give fewer tensors")
    return len(text).to_bytes(8, "little") + text
