"""Checkpoints of one network, read to be aligned or merged, and weights written like one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from weyl._files import write_atomic
from weyl._text import expanded, one_line
from weyl.checkpoints import load_into, read_weights, refuse_target
from weyl.checkpoints._place import locate, sniff
from weyl.checkpoints._write import weights_as_bytes
from weyl.cli._work import Found, Say, Source, find
from weyl.errors import InputError, MismatchError, NotFiniteError, UsageError
from weyl.proof._state import state_of
from weyl.report import printable

__all__ = ["Checkpoint", "encoded", "read_all", "refuse_output", "write"]

FEW_BITS = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One file of weights, as a state of the model.

    Parameters
    ----------
    name : str
        The file, to show.
    state : mapping of str to Tensor
        A whole state dict in the model's precision; ties of the model are ties here.
    dtypes : mapping of str to dtype
        Names and types of the file, in its order.
    metadata : mapping of str to str
        Of a safetensors file.
    size : int
        Bytes of the file.
    """

    name: str
    state: Mapping[str, Tensor]
    dtypes: Mapping[str, torch.dtype]
    metadata: Mapping[str, str]
    size: int

    @property
    def precisions(self) -> tuple[str, ...]:
        """Types of the floating tensors of the file."""
        return tuple(sorted({str(t).removeprefix("torch.") for t in self.dtypes.values() if t.is_floating_point}))


def read_all(
    source: Source, files: tuple[Path, ...], key: str | None, say: Say
) -> tuple[Found, tuple[Checkpoint, ...], tuple[str, ...]]:
    """Load a model, find its structure, and read several files of weights for it.

    Parameters
    ----------
    source : Source
        MODEL, without weights.
    files : tuple of Path
        What the arguments name.
    key : str or None
        Which dict of several in the files.
    say : callable
        Called with what is being done.

    Returns
    -------
    Found, tuple of Checkpoint, tuple of str
        The model, in float64 if a file has such numbers and in float32 at least; the files; what a reader must know.

    Raises
    ------
    InputError, MismatchError
        If a file cannot be read, or is not of this model.
    NotFiniteError
        If one has NaN or infinity where units move, naming file and tensor.
    """
    for file in files:
        # The path "." is what an empty name becomes.
        if str(file).strip() in ("", "."):
            raise UsageError("a file of weights is empty or the current folder; name a file")
    found = find(source, say)
    module = found.loaded.module
    if any(tensor.device.type == "meta" for tensor in module.state_dict().values()):
        raise InputError(f"{found.loaded.name} is on the meta device and cannot hold weights; build it for real")
    places = [locate(expanded(file), []) for file in files]
    names = [printable(file) for file in files]
    read = []
    for file, name in zip(files, names, strict=True):
        say(f"loading {name}")
        read.append(read_weights(file, key))
    if any(tensor.dtype is torch.float64 for weights in read for tensor in weights.tensors.values()):
        module.double()
    elif any(parameter.dtype in FEW_BITS for parameter in module.parameters()):
        module.float()  # sums of so few bits would not tell neighbours apart
    notes = list(found.warnings)
    made = []
    for place, name, weights in zip(places, names, read, strict=True):
        notes += [f"{name}: {note}" for note in weights.notes]
        notes += load_into(module, weights.tensors, name)
        dtypes = {title: tensor.dtype for title, tensor in weights.tensors.items()}
        made.append(Checkpoint(name, _state(module), dtypes, _metadata(place), place.stat().st_size))
    for checkpoint in made:
        _check_finite(found, checkpoint)
    return found, tuple(made), (*notes, *_compared(made, module))


def encoded(like: Checkpoint, state: Mapping[str, Tensor], note: str) -> bytes:
    """A state as a safetensors file with the names, types and metadata of another file; the same bytes every time.

    Parameters
    ----------
    like : Checkpoint
        What was read.
    state : mapping of str to Tensor
        What to write.
    note : str
        What made it, kept in the header.

    Raises
    ------
    MismatchError
        If a tensor does not fit the type of the file, naming it.
    """
    tensors = {n: state[n].detach().to("cpu", t, copy=True) for n, t in like.dtypes.items()}
    for name, tensor in tensors.items():
        # Infinities that were given, such as those of masks, are no overflow.
        if not _finite(tensor) and _finite(like.state[name]):
            short = str(tensor.dtype).removeprefix("torch.")
            raise MismatchError(
                f"{one_line(name, 80)} would hold NaN or Inf in {short}, the type that {like.name} has it in: what it"
                " is multiplied by leaves that range; give --kinds permute,sign, or a file of a wider type"
            )
    return weights_as_bytes(tensors, note=note, metadata=like.metadata)


def refuse_output(path: Path, inputs: tuple[Path, ...], *, force: bool) -> None:
    """Refuse a path that cannot or may not be written, or that is what is read; as `refuse_target`."""
    refuse_target(path, inputs=tuple(expanded(file) for file in inputs), force=force)


def write(path: Path, content: bytes, *, inputs: tuple[Path, ...], force: bool) -> None:
    """Write what `encoded` made, in one step.

    Parameters
    ----------
    path : Path
        Where to.
    content : bytes
        The whole file.
    inputs : tuple of Path
        What was read, and is never written over.
    force : bool
        Whether another file may be replaced.
    """
    refuse_output(path, inputs, force=force)
    write_atomic(path, content, force=force)


def _state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the state of a model; names that share a tensor share one again."""
    copies: dict[int, Tensor] = {}
    return {name: copies.setdefault(id(tensor), tensor.clone()) for name, tensor in state_of(module).items()}


def _metadata(path: Path) -> dict[str, str]:
    if sniff(path, []) != "safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def _finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    # Types of one byte know no isfinite.
    return bool((tensor.float() if tensor.element_size() < 2 else tensor).isfinite().all())


def _check_finite(found: Found, checkpoint: Checkpoint) -> None:
    for name in found.structure.axes:
        tensor = checkpoint.state.get(name)
        if tensor is not None and not _finite(tensor):
            raise NotFiniteError(
                f"{checkpoint.name}: {one_line(name, 80)} holds NaN or Inf, so that nothing can be matched or merged;"
                " give weights that are finite"
            )


def _compared(files: list[Checkpoint], module: nn.Module) -> list[str]:
    """Say where files are of different types, and what is computed in."""
    kinds = {file.name: file.precisions for file in files}
    if len(set(kinds.values())) < 2:
        return []
    own = next((str(p.dtype).removeprefix("torch.") for p in module.parameters() if p.is_floating_point()), "")
    told = ", ".join(f"{name} is {' and '.join(types)}" for name, types in kinds.items())
    return [f"{told}: compared in {own}, and written as the file that the result is like"]
