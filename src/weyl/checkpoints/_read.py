"""A state dict from a file, with everything refused that is not tensors by name."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weyl._text import expanded, one_line
from weyl.checkpoints._place import locate, sniff
from weyl.errors import InputError

__all__ = ["Weights", "load_weights", "read_weights"]

PREFIXES = ("module.", "_orig_mod.")
SHOWN = 6
SCANNED = 2**20  # bytes of a pickle that are searched for what it names
# What a state dict names, too: dicts, tensors, storages and types.
HARMLESS = re.compile(r"collections\.OrderedDict|torch\._utils\.\w+|torch\.\w+|_codecs\.encode")
# What the computations here can read; packed and quantised types are not numbers one by one.
DTYPES = frozenset(
    getattr(torch, title)
    for title in (
        *("float64", "float32", "float16", "bfloat16", "bool", "uint8", "int8", "int16", "int32", "int64"),
        *(
            "uint16",
            "uint32",
            "uint64",
            "float8_e4m3fn",
            "float8_e4m3fnuz",
            "float8_e5m2",
            "float8_e5m2fnuz",
            "float8_e8m0fnu",
        ),
    )
)
MOST_PACKED = 100  # times; weights hardly compress, and torch does not even try


@dataclass(frozen=True, eq=False)
class Weights:
    """What a checkpoint holds.

    Attributes
    ----------
    tensors : dict of str to Tensor
        The state dict, on the CPU, without the prefixes of wrappers.
    notes : tuple of str
        What a reader must know: another format than the name says, a nested dict, a prefix, values not finite.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


def load_weights(path: Path | str, key: str | None = None) -> dict[str, Tensor]:
    """Read a state dict from a safetensors file or a ``.pt`` file of tensors; no code in it is run.

    Parameters
    ----------
    path : path
        The file, or a directory with one such file in it. The format is told by the first bytes.
    key : str, optional
        Which dict of several in the file to take.

    Returns
    -------
    dict of str to Tensor
        On the CPU; the prefixes ``module.`` and ``_orig_mod.`` of wrappers are removed.

    Raises
    ------
    InputError
        If the file cannot be read or holds anything but tensors by name; one line with the remedy.

    Warns
    -----
    UserWarning
        One for each of `Weights.notes`.

    Examples
    --------
    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save(torch.nn.Linear(2, 1).state_dict(), f"{folder}/net.pt")
    ...     sorted(load_weights(f"{folder}/net.pt"))
    ['bias', 'weight']
    """
    found = read_weights(path, key)
    for note in found.notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    return found.tensors


def read_weights(path: Path | str, key: str | None = None) -> Weights:
    """Read a state dict, and what must be known about it; see `load_weights`.

    Raises
    ------
    InputError
        As `load_weights`.

    Examples
    --------
    >>> read_weights("no/such/file.pt")
    Traceback (most recent call last):
    weyl.errors.InputError: no/such/file.pt: no such file
    """
    notes: list[str] = []
    file = locate(expanded(path), notes)
    name = one_line(file)
    before = file.stat()
    content = _read_safetensors(file, name) if sniff(file, notes) == "safetensors" else _read_torch(file, name, notes)
    after = file.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise InputError(f"{name} changed while it was read; wait until it is written")
    tensors = _state(content, key, name, notes)
    for title, tensor in tensors.items():
        _check(title, tensor, name)
    tensors = _bare(tensors, notes)
    _note_not_finite(tensors, notes)
    return Weights(tensors, tuple(notes))


def _read_safetensors(path: Path, name: str) -> Mapping[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise InputError(f"{name} needs safetensors, which is not installed; pip install safetensors") from error
    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{name} is no whole safetensors file: {one_line(error)}; copy it again") from error


def _read_torch(path: Path, name: str, notes: list[str]) -> object:
    """Unpickle tensors and plain containers; whatever else is named in the file is refused."""
    _check_archive(path, name, notes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RecursionError) as error:
        raise InputError(f"{name} {_reason(str(error), path)}") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise anything inside the unpickler
        text = f"{type(error).__name__}: {one_line(str(error).partition(chr(10))[0], 120)}"
        raise InputError(f"{name} is damaged or was not written by torch.save ({text}); copy it again") from error


def _reason(message: str, path: Path) -> str:
    found = re.search(r"unsupported (?:global|class):? (?:GLOBAL )?([\w.]+)", message, re.IGNORECASE)
    named = found[1] if found else _first_global(path)
    if named:
        thing = one_line(named, 80)
        return (
            f"holds more than tensors, namely {thing}, which was not loaded because that can run code;"
            " save model.state_dict() and not the model"
        )
    # The rest of torch's message tells how to load it all the same.
    told = re.search(r"WeightsUnpickler error: ([^\n.]+)", message)
    why = f" ({one_line(told[1], 80)})" if told else ""
    return f"holds more than tensors, or is damaged{why}; save model.state_dict() again"


def _first_global(path: Path) -> str:
    """The first thing that the pickles of a file name and a state dict does not; they are listed, and none is run.

    torch's unpickler stops without a name at the operations of newer protocols.
    """
    try:
        data = _pickles(path)
        stream = io.BytesIO(data)
        while stream.tell() < len(data):
            for named in _globals(stream):
                if not HARMLESS.fullmatch(named):
                    return named
    except Exception:  # damaged: whatever the lister raises, there is nothing to name
        return ""
    return ""


def _pickles(path: Path) -> bytes:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            title = next(title for title in archive.namelist() if title.endswith("/data.pkl"))
            with archive.open(title) as entry:
                return entry.read(SCANNED)
    with path.open("rb") as file:
        return file.read(SCANNED)


def _globals(stream: io.BytesIO) -> Iterator[str]:
    """What one pickle names, as module.name."""
    texts: list[str] = []  # as they are pushed: the last two are the module and the name of a STACK_GLOBAL
    memo: dict[int, str] = {}
    for operation, argument, _ in pickletools.genops(stream):
        if operation.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif operation.name == "STACK_GLOBAL" and len(texts) > 1:
            yield f"{texts[-2]}.{texts[-1]}"
        elif operation.name == "MEMOIZE" or operation.name.endswith("PUT"):
            memo[len(memo) if argument is None else int(argument)] = texts[-1] if texts else ""
        elif operation.name.endswith("GET"):
            texts.append(memo.get(int(argument or 0), ""))
        elif isinstance(argument, str):
            texts.append(argument)


def _check_archive(path: Path, name: str, notes: list[str]) -> None:
    """Refuse a zip archive that is damaged, holds no state dict, or is far larger than it looks."""
    try:
        if not zipfile.is_zipfile(path):  # the older format, or one that torch.load finds to be damaged
            return
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(members, path, name)
            if any(member.CRC for member in members):
                bad = archive.testzip()
            else:
                bad = None
                notes.append(f"{one_line(path.name)} was written without checksums, so that damage cannot be seen")
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is no whole file: {one_line(error)}; copy it again") from error
    if bad is not None:
        raise InputError(f"{name} is damaged: the checksum of its entry {one_line(bad, 80)} is wrong; copy it again")


def _check_members(members: list[zipfile.ZipInfo], path: Path, name: str) -> None:
    names = {member.filename.partition("/")[2] for member in members}
    if "constants.pkl" in names or any(title.startswith("code/") for title in names):
        raise InputError(f"{name} is a TorchScript program, which is not run; save the state dict of the model")
    if not {"data.pkl"} & names:
        raise InputError(f"{name} is a zip archive without a state dict; torch.save(model.state_dict(), ...) makes one")
    unpacked = sum(member.file_size for member in members)
    if unpacked > MOST_PACKED * max(path.stat().st_size, 1):
        raise InputError(f"{name} would unpack to {unpacked:,} bytes, far more than weights do; it was not opened")


def _state(content: object, key: str | None, name: str, notes: list[str]) -> dict[str, Tensor]:
    """The dict of tensors in what was read: itself, or the only one in it, or the one that was asked for."""
    if not isinstance(content, Mapping):
        raise InputError(
            f"{name} holds a {one_line(type(content).__name__)}, but tensors by name are expected; save a state dict"
        )
    inner = {title: value for title, value in content.items() if _is_state(value)}
    if key is not None:
        if key not in inner:
            known = [str(title) for title in inner]
            shown = ", ".join(one_line(title, 40) for title in known[:SHOWN]) or "none"
            raise InputError(f"{name}: --key {one_line(key)} names no dict of tensors in it; there are: {shown}")
        return _tensors(inner[key], notes)
    if _is_state(content):
        return _tensors(content, notes)
    if len(inner) == 1:
        ((title, state),) = inner.items()
        notes.append(f"took {one_line(repr(title), 60)}, the only dict of tensors in {name}")
        return _tensors(state, notes)
    held = ", ".join(one_line(title, 40) for title in list(inner or content)[:SHOWN]) or "nothing"
    what = f"several dicts of tensors: {held}; choose one with --key" if inner else f"no tensors by name, but {held}"
    raise InputError(f"{name} holds {what}")


def _is_state(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and all(isinstance(title, str) for title in value)
        and any(isinstance(item, Tensor) for item in value.values())
        and not any(isinstance(item, Mapping) and item for item in value.values())
    )


def _tensors(state: Mapping[str, Any], notes: list[str]) -> dict[str, Tensor]:
    left_out = [title for title, value in state.items() if not isinstance(value, Tensor)]
    if left_out:
        shown = ", ".join(one_line(title, 40) for title in left_out[:SHOWN])
        notes.append(f"left out {len(left_out)} entries that are no tensors: {shown}")
    return {title: value.detach() for title, value in state.items() if isinstance(value, Tensor)}


def _check(title: str, tensor: Tensor, name: str) -> None:
    """Refuse what no computation here is meant for."""
    shown = f"{name}: {one_line(title, 80)}"
    if tensor.is_nested:
        raise InputError(f"{shown} is a nested {_dtype(tensor)} tensor; save dense numbers")
    if tensor.layout != torch.strided or tensor.is_quantized:
        what = "quantised" if tensor.is_quantized else f"sparse ({_bare_name(tensor.layout)})"
        raise InputError(f"{shown} is a {what} {_dtype(tensor)} tensor; save dense numbers")
    if tensor.is_complex():
        raise InputError(f"{shown} is complex; real weights are expected")
    if tensor.dtype not in DTYPES:
        raise InputError(f"{shown} is of type {_dtype(tensor)}, which is not read; save it as float32 or float16")
    if tensor.device.type != "cpu":
        raise InputError(f"{shown} has no values (it is on {tensor.device.type}); save the model with its weights")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise InputError(f"{shown} repeats its memory to {tensor.numel():,} values; save it with .clone()")


def _bare_name(thing: object) -> str:
    return one_line(thing).removeprefix("torch.")


def _dtype(tensor: Tensor) -> str:
    return _bare_name(tensor.dtype)


def _bare(tensors: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Remove the prefixes that DataParallel and torch.compile put before every name."""
    removed = []
    while tensors:
        prefix = next((p for p in PREFIXES if all(title.startswith(p) for title in tensors)), None)
        if prefix is None:
            break
        tensors = {title.removeprefix(prefix): tensor for title, tensor in tensors.items()}
        removed.append(prefix)
    if removed:
        notes.append(f"removed the prefix {''.join(removed)} from every name")
    return tensors


def _note_not_finite(tensors: Mapping[str, Tensor], notes: list[str]) -> None:
    bad = [title for title, tensor in tensors.items() if tensor.is_floating_point() and not _finite(tensor)]
    if bad:
        shown = ", ".join(one_line(title, 60) for title in bad[:SHOWN])
        notes.append(f"{len(bad)} of {len(tensors)} tensors hold NaN or Inf: {shown}")


def _finite(tensor: Tensor) -> bool:
    # Types of one byte have no isfinite of their own.
    return bool((tensor.float() if tensor.element_size() == 1 else tensor).isfinite().all())
