"""A tensor in a file: what it is, where it stands, and how it is read."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from weyl._text import one_line
from weyl.checkpoints._opened import OpenFile
from weyl.errors import InputError, LimitError

__all__ = ["DTYPES", "LARGEST", "Stored", "TensorInfo", "as_bytes", "dtype_named"]

LARGEST = 2**48  # bytes of a tensor, whatever a file says
MOST_DIMENSIONS = 64  # of a tensor in torch

# What the computations here can read; packed and quantised types are not numbers one by one.
DTYPES = frozenset(
    getattr(torch, title)
    for title in (
        *("float64", "float32", "float16", "bfloat16", "bool", "uint8", "int8", "int16", "int32", "int64"),
        *("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e4m3fnuz"),
        *("float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
)


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor without reading it.

    Attributes
    ----------
    dtype : torch.dtype
        Type of its numbers.
    shape : tuple of int
        Its shape.

    Examples
    --------
    >>> TensorInfo(torch.float16, (3, 4)).nbytes
    24
    """

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    @classmethod
    def of(cls, tensor: Tensor) -> TensorInfo:
        """What a tensor is."""
        return cls(tensor.dtype, tuple(tensor.shape))


@dataclass(frozen=True)
class Stored:
    """A tensor in an open file.

    Parameters
    ----------
    file : OpenFile
        Where it is.
    begin : int
        First byte of its storage.
    storage_bytes : int
        Bytes of the storage.
    info : TensorInfo
        What it is.
    offset : int
        Entries of the storage before its first.
    stride : tuple of int, optional
        Entries from one index to the next; of a tensor that stands in one piece, none.
    sha256 : str
        What its bytes must hash to; empty if that is not known.
    checked : callable, optional
        Called with a whole storage, or None, before any of its entries is believed.
    """

    file: OpenFile
    begin: int
    storage_bytes: int
    info: TensorInfo
    offset: int = 0
    stride: tuple[int, ...] | None = None
    sha256: str = ""
    checked: Callable[[memoryview | None], None] | None = field(default=None, compare=False)

    def read(self, name: str) -> Tensor:
        """Read it, into memory of its own, in one piece.

        Parameters
        ----------
        name : str
            What it is called in a message.

        Raises
        ------
        InputError
            If the file changed, or the bytes are not those that were written.
        LimitError
            If there is no memory for it.
        """
        info = self.info
        first, count = self.offset * info.dtype.itemsize, self._reach() * info.dtype.itemsize
        raw = _allocated(count, f"{self.file.name}: {one_line(name, 80)}")
        view = raw.numpy().data
        if count:
            self.file.read_into(view, self.begin + first)
        if self.checked is not None:
            self.checked(view if count == self.storage_bytes else None)
        self._check_content(raw, name)
        flat = raw.view(info.dtype)
        if self.stride is None or not count:
            return flat.reshape(info.shape)
        tensor = flat.as_strided(info.shape, self.stride)
        return tensor if tensor.is_contiguous() and tensor.numel() == flat.numel() else tensor.clone().contiguous()

    def _reach(self) -> int:
        """Entries from the first to the last."""
        shape = self.info.shape
        if 0 in shape or self.stride is None:
            return math.prod(shape)
        return 1 + sum((size - 1) * step for size, step in zip(shape, self.stride, strict=True))

    def _check_content(self, raw: Tensor, name: str) -> None:
        if self.sha256 and hashlib.sha256(raw.numpy().data).hexdigest() != self.sha256:
            raise InputError(
                f"{self.file.name}: {one_line(name, 80)} is damaged: its bytes do not have the sha256 that weyl wrote;"
                " copy it again"
            )
        if self.info.dtype is torch.bool and bool((raw > 1).any()):
            raise InputError(f"{self.file.name}: {one_line(name, 80)} holds entries that are neither true nor false")


def _allocated(count: int, what: str) -> Tensor:
    try:
        return torch.empty(count, dtype=torch.uint8)
    except (RuntimeError, MemoryError):
        raise LimitError(f"{what} needs {count:,} bytes of memory, more than there are; use a larger machine") from None


def as_bytes(tensor: Tensor) -> memoryview:
    r"""The bytes of a tensor in one piece, in order; without a copy where it is on the CPU and contiguous.

    Examples
    --------
    >>> as_bytes(torch.tensor([1, 2], dtype=torch.int16)).tobytes()
    b'\x01\x00\x02\x00'
    """
    # Of a negative, the bytes in memory are not those of the numbers.
    flat = tensor.detach().to("cpu").resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def dtype_named(title: str, shown: str) -> torch.dtype:
    """A type of numbers that can be computed with, by torch's name.

    Parameters
    ----------
    title : str
        As ``float32``.
    shown : str
        File and tensor, for the message.

    Raises
    ------
    InputError
        If it is none.
    """
    if title.startswith("complex"):
        raise InputError(f"{shown} is complex; real weights are expected")
    dtype = getattr(torch, title, None)
    if not isinstance(dtype, torch.dtype) or dtype not in DTYPES:
        raise InputError(f"{shown} is of type {one_line(title, 40)}, which is not read; save it as float32 or float16")
    return dtype
