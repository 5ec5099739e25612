"""Whether a state dict and a seed can be used with a structure: one wording for all that takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from weyl.errors import StructureError, UsageError
from weyl.structure import Structure

__all__ = ["check_floating", "check_seed", "check_state", "check_structure"]


def check_structure(structure: object) -> None:
    """Refuse what is no structure.

    Raises
    ------
    StructureError
        With what to pass.
    """
    if not isinstance(structure, Structure):
        raise StructureError(
            f"expected a Structure, got {type(structure).__name__}: pass that of the model, weyl.discover(model, args)"
        )


def check_state(structure: Structure, state: Mapping[str, Tensor], needed: Iterable[str] = ()) -> None:
    """Refuse what is no structure, no state dict of tensors, or a state dict of another model.

    Parameters
    ----------
    structure, state
        What somebody gave.
    needed : iterable of str
        Names of the structure that the state must have.

    Raises
    ------
    StructureError
        Naming the tensor, and what to do.
    """
    check_structure(structure)
    if not isinstance(state, Mapping):
        raise StructureError(f"expected a state dict of tensors, got {type(state).__name__}: pass model.state_dict()")
    if state and structure.axes and not any(name in structure.axes for name in state):
        known, given = next(iter(structure.axes)), next(iter(state))
        raise StructureError(
            f"the structure knows none of the {len(state)} names, such as {given!r}; it knows names such as {known!r}: "
            "strip a prefix such as 'module.', or use the structure of this model"
        )
    missing = next((name for name in needed if name not in state), None)
    if missing is not None:
        raise StructureError(f"the state has no tensor {missing!r}: pass the whole state dict")
    for name, axes in structure.axes.items():
        if name in state:
            _check_tensor(name, state[name], tuple(axis.size for axis in axes))


def _check_tensor(name: str, tensor: object, expected: tuple[int, ...]) -> None:
    if not isinstance(tensor, Tensor):
        raise StructureError(f"{name!r} is no tensor but {type(tensor).__name__}: convert it with torch.as_tensor")
    if tuple(tensor.shape) != expected:
        raise StructureError(
            f"{name!r} has shape {tuple(tensor.shape)}, the structure says {expected}: "
            "use the structure of the model that the state belongs to"
        )


def check_floating(state: Mapping[str, Tensor], names: Iterable[str]) -> None:
    """Refuse tensors whose numbers cannot vary continuously.

    Raises
    ------
    StructureError
        Naming the tensor.
    """
    for name in names:
        if not (state[name].is_floating_point() or state[name].is_complex()):
            dtype = str(state[name].dtype).removeprefix("torch.")
            raise StructureError(f"{name!r} has {dtype} numbers, not floating ones: convert it, e.g. with .float()")


def check_seed(seed: object) -> None:
    """Refuse what cannot seed a generator.

    Raises
    ------
    UsageError
        If it is no integer from 0 to 2⁶⁴ - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UsageError(f"seed must be a non-negative integer, got {seed!r}")
    if seed >= 1 << 64:
        raise UsageError(f"seed must be less than 2**64, got {seed}")
