"""A whole state dict from a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from weyl._text import one_line
from weyl.checkpoints._open import open_weights

__all__ = ["Weights", "load_weights", "read_weights"]

SHOWN = 6


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
        The file, the index of several, or a directory with one of them; see `open_weights`.
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
    with open_weights(path, key) as opened:
        tensors = dict(opened)
    notes = list(opened.notes)
    _note_not_finite(tensors, notes)
    return Weights(tensors, tuple(notes))


def _note_not_finite(tensors: Mapping[str, Tensor], notes: list[str]) -> None:
    bad = [title for title, tensor in tensors.items() if tensor.is_floating_point() and not _finite(tensor)]
    if bad:
        shown = ", ".join(one_line(title, 60) for title in bad[:SHOWN])
        notes.append(f"{len(bad)} of {len(tensors)} tensors hold NaN or Inf: {shown}")


def _finite(tensor: Tensor) -> bool:
    # Types of one byte have no isfinite of their own.
    return bool((tensor.float() if tensor.element_size() == 1 else tensor).isfinite().all())
