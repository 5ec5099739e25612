"""The header of a safetensors file, checked before any of it is used.

The format's own library keeps the last of two equal names. Here every rule of the format is checked: the tensors cover
the data without holes, overlaps or rest, and each is as long as it says.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from weyl._text import one_line
from weyl.checkpoints._opened import OpenFile
from weyl.checkpoints._stored import LARGEST, MOST_DIMENSIONS, Stored, TensorInfo, dtype_named
from weyl.checkpoints._strict import strict_object
from weyl.errors import InputError

__all__ = ["NAMES", "SafetensorsFile", "layout_digest", "read_header"]

LONGEST = 100_000_000  # bytes of a header, as in the format's own library
# The format's names of types, by torch's.
NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2": "F8_E5M2",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
}
_TITLES = {short: title for title, short in NAMES.items()} | {
    "C64": "complex64",
    "F4": "float4_e2m1fn_x2",
    "F6_E2M3": "float6_e2m3",
    "F6_E3M2": "float6_e3m2",
}


@dataclass(frozen=True)
class SafetensorsFile:
    """What a header says.

    Attributes
    ----------
    tensors : dict of str to Stored
        In the order of the file.
    metadata : dict of str to str
        Texts that are kept with them.
    """

    tensors: dict[str, Stored]
    metadata: dict[str, str]


def read_header(file: OpenFile) -> SafetensorsFile:
    """Read and check the header of a safetensors file.

    Parameters
    ----------
    file : OpenFile
        The file.

    Raises
    ------
    InputError
        If anything in it is not as the format demands; one line that says what.
    """
    try:
        return _checked(file, _object(file))
    except ValueError as error:
        raise InputError(f"{file.name} is no whole safetensors file: {one_line(error)}; copy it again") from None


def layout_digest(infos: Mapping[str, TensorInfo]) -> str:
    """A hash of names, types and shapes, which the hashes of the bytes do not cover.

    Examples
    --------
    >>> import torch
    >>> layout_digest({"w": TensorInfo(torch.float32, (2,))})[:8]
    '093b6031'
    """
    told = {name: [str(info.dtype), list(info.shape)] for name, info in infos.items()}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _object(file: OpenFile) -> dict[str, Any]:
    if file.size < 8:
        raise ValueError(f"it has {file.size} bytes")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > LONGEST:
        raise ValueError(f"its header would have {length:,} bytes, more than {LONGEST:,}")
    if length > file.size - 8:
        raise ValueError(f"its header would have {length:,} bytes, the file has {file.size:,}")
    data = file.read(8, length)
    if not data.startswith(b"{"):
        raise ValueError("its header does not begin with {")
    try:
        return strict_object(data)
    except UnicodeDecodeError:
        raise ValueError("its header is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"its header is not JSON: {error}") from None


def _checked(file: OpenFile, header: dict[str, Any]) -> SafetensorsFile:
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its metadata are no texts by name")
    if not header:
        raise ValueError("it holds no tensors")
    start = file.size - (file.size - 8 - int.from_bytes(file.read(0, 8), "little"))
    spans = sorted((_span(name, entry, file), name) for name, entry in header.items())
    reached = 0
    for (begin, end), name in spans:
        if begin != reached:
            what = "a hole before" if begin > reached else "an overlap at"
            raise ValueError(f"there is {what} {one_line(name, 80)}")
        reached = end
    if reached != file.size - start:
        what = "is cut short" if reached > file.size - start else "has bytes after its last tensor"
        raise ValueError(f"it {what}: {reached:,} bytes of tensors, {file.size - start:,} in the file")
    tensors = {
        name: Stored(file, start + begin, end - begin, _info(name, header[name], file)) for (begin, end), name in spans
    }
    return SafetensorsFile(_with_hashes(tensors, metadata), metadata)


def _span(name: str, entry: Any, file: OpenFile) -> tuple[int, int]:
    """First and last byte of a tensor, after a check that they are as far apart as its type and shape say."""
    shown = one_line(name, 80)
    name.encode()  # half a surrogate pair is a ValueError
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{shown} has no dtype, shape and data_offsets, or more")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or len(shape) > MOST_DIMENSIONS or not all(map(_is_count, shape)):
        raise ValueError(f"{shown} has a shape that is none: {one_line(shape, 60)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise ValueError(f"{shown} has offsets that are none: {one_line(offsets, 60)}")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _TITLES:
        raise ValueError(f"{shown} is of a type that is not known: {one_line(entry['dtype'], 40)}")
    info = _info(name, entry, file)
    if math.prod(size or 1 for size in shape) * info.dtype.itemsize > LARGEST:
        raise ValueError(f"{shown} has an impossible shape {one_line(shape, 60)}")
    begin, end = offsets
    if end - begin != info.nbytes:
        raise ValueError(f"{shown} needs {info.nbytes:,} bytes by its type and shape, and has {end - begin:,}")
    return begin, end


def _info(name: str, entry: dict[str, Any], file: OpenFile) -> TensorInfo:
    dtype = dtype_named(_TITLES[entry["dtype"]], f"{file.name}: {one_line(name, 80)}")
    return TensorInfo(dtype, tuple(entry["shape"]))


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**63


def _with_hashes(tensors: dict[str, Stored], metadata: Mapping[str, str]) -> dict[str, Stored]:
    """Give tensors the hashes that weyl wrote, if it wrote the file."""
    try:
        told = strict_object(metadata.get("weyl", "{}").encode())
    except ValueError:
        raise ValueError("what weyl wrote into its metadata is damaged") from None
    hashes, layout = told.get("sha256"), told.get("layout")
    if hashes is None and layout is None:
        return tensors  # written by another program, or before there were hashes
    infos = {name: stored.info for name, stored in tensors.items()}
    if not isinstance(hashes, dict) or hashes.keys() != tensors.keys() or layout != layout_digest(infos):
        raise ValueError("its tensors do not have the names, types and shapes that weyl wrote")
    if not all(isinstance(text, str) and len(text) == 64 for text in hashes.values()):
        raise ValueError("its hashes are damaged")
    return {name: replace(stored, sha256=hashes[name]) for name, stored in tensors.items()}
