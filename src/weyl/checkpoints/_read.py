"""A state dict from a file, with everything refused that is not tensors by name."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weyl._text import one_line
from weyl.checkpoints._place import locate, sniff
from weyl.errors import InputError

__all__ = ["Weights", "load_weights", "read_weights"]

PREFIXES = ("module.", "_orig_mod.")
SHOWN = 6
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
    file = locate(Path(path).expanduser(), notes)
    name = one_line(file)
    before = file.stat()
    content = _read_safetensors(file, name) if sniff(file, notes) == "safetensors" else _read_torch(file, name)
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


def _read_torch(path: Path, name: str) -> object:
    """Unpickle tensors and plain containers; whatever else is named in the file is refused."""
    if zipfile.is_zipfile(path):
        _check_archive(path, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RecursionError) as error:
        raise InputError(f"{name} {_reason(str(error))}") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise anything inside the unpickler
        text = f"{type(error).__name__}: {one_line(str(error).partition(chr(10))[0], 120)}"
        raise InputError(f"{name} is damaged or was not written by torch.save ({text}); copy it again") from error


def _reason(message: str) -> str:
    found = re.search(r"unsupported (?:global|class):? (?:GLOBAL )?([\w.]+)", message, re.IGNORECASE)
    if found:
        thing = one_line(found[1], 80)
        return (
            f"holds more than tensors, namely {thing}, which was not loaded because that can run code;"
            " save model.state_dict() and not the model"
        )
    # The rest of torch's message tells how to load it all the same.
    told = re.search(r"WeightsUnpickler error: ([^\n.]+)", message)
    why = f" ({one_line(told[1], 80)})" if told else ""
    return f"holds more than tensors, or is damaged{why}; save model.state_dict() again"


def _check_archive(path: Path, name: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{name} is no whole file: {one_line(error)}; copy it again") from error
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
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise InputError(f"{shown} is {one_line(tensor.layout)}, sparse or quantised; save dense numbers")
    if tensor.is_complex():
        raise InputError(f"{shown} is complex; real weights are expected")
    if tensor.device.type != "cpu":
        raise InputError(f"{shown} has no values (it is on {tensor.device.type}); save the model with its weights")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise InputError(f"{shown} repeats its memory to {tensor.numel():,} values; save it with .clone()")


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
