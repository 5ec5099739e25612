"""The hash of a normal form, without ever holding it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from weyl.errors import NotFiniteError

__all__ = ["digest"]

# Part of what is hashed: two versions must not be mistaken for two networks.
FORMAT = "weyl-fingerprint-1"
# Entries that are hashed at a time: whole rows of about so many, small enough for the cache.
PIECE = 1 << 18


# Rows, and whether they may be written to.
Piece = Callable[[], tuple[Tensor, bool]]
Pieces = Callable[[str, Tensor], Iterable[Piece]]


def digest(names: Mapping[str, str], read: Callable[[str], Tensor], pieces: Pieces) -> str:
    """SHA-256, in hex, of the shapes, dtypes and entries of tensors in a normal form.

    Every run of rows has a hash of its own, and the fingerprint is the hash of these, so that several cores can share
    the work; a tensor is read once, and at most one is held.

    Parameters
    ----------
    names : mapping of str to str
        Of tensors, in order, to the name of the tensor that it is, by which it is read: tied ones are read once.
    read : callable
        Gives a tensor by name.
    pieces : callable
        Gives the normal form of a tensor in runs of rows, always the same ones, each made when it is called for.

    Raises
    ------
    NotFiniteError
        If an entry is NaN or infinite.
    """
    whole = hashlib.sha256(FORMAT.encode())
    workers = min(4, os.cpu_count() or 1, torch.get_num_threads())
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        # One worker is this thread: handing over would only cost time.
        each: Callable[..., Iterator[bytes | None]] = map if workers < 2 else pool.map
        known: dict[str, bytes] = {}
        for name, source in names.items():
            if source not in known:
                tensor = read(source)
                head = json.dumps([str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]).encode()
                parts = _finite(source, each(_of_piece, pieces(source, tensor)))
                known[source] = hashlib.sha256(head + b"\0" + b"".join(parts)).digest()
            whole.update(json.dumps(name).encode() + known[source])
    return whole.hexdigest()


def _finite(name: str, parts: Iterator[bytes | None]) -> Iterator[bytes]:
    for part in parts:
        if part is None:
            raise NotFiniteError(f"{name!r} has NaN or infinite entries: it has no fingerprint")
        yield part


def _of_piece(make: Piece) -> bytes | None:
    """The hash of some rows, -0.0 as 0.0; None if an entry is not finite."""
    piece, fresh = make()
    if piece.is_floating_point() and piece.numel():
        # Types of one byte have no arithmetic; float32 holds them exactly.
        piece = piece.float() if piece.element_size() == 1 else piece
        piece = piece.add_(0.0) if fresh else piece + 0.0
        # A sum is the cheapest look at all entries; it can also overflow.
        if not bool(piece.sum().isfinite()) and not bool(piece.isfinite().all()):
            return None
    content = piece.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy()
    return hashlib.sha256(content.data).digest()
