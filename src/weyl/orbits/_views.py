"""Tensors as the units see them: views whose last axes are the units of a gauge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from weyl._memory import tensor_identity
from weyl.actions._multiply import layout_of
from weyl.errors import StructureError
from weyl.groups import Gauge
from weyl.structure import Structure, Weight

__all__ = ["Frame", "checked", "frames", "is_statistic", "once"]

# What torch calls the running mean of a batch normalisation; running variances are known by their offset.
STATISTIC = "running_mean"


@dataclass(frozen=True)
class Frame:
    """How a gauge sees a tensor through one of its weights.

    Parameters
    ----------
    gauge : Gauge
        Whose units.
    weight : Weight
        Where they stand.
    outer : tuple of str
        Spaces that the space of the gauge lives within.
    """

    gauge: Gauge
    weight: Weight
    outer: tuple[str, ...]

    @property
    def rank(self) -> int:
        """Number of axes of units: those of the outer spaces and one for the space itself; 0 without a space."""
        return len(self.outer) + 1 if self.gauge.space else 0

    def view(self, tensor: Tensor) -> Tensor:
        """The tensor as a view of shape ``(..., *outer, n)``."""
        return self._view(tensor, 0)

    def partner(self, tensor: Tensor) -> Tensor:
        """The same for the imaginary parts."""
        return self._view(tensor, self.weight.partner * tensor.stride(self.weight.dim))

    def _view(self, tensor: Tensor, shift: int) -> Tensor:
        own = (self.weight.dim, self.weight.factor)
        return layout_of(tensor, dict(self.weight.blocks), own, self.outer).view(tensor, shift)

    def summed(self, view: Tensor) -> Tensor:
        """Sum over all that is not a unit, shape ``(*outer, n)``."""
        rest = tuple(range(view.dim() - self.rank))
        return view.sum(rest) if rest else view

    def unfolded(self, view: Tensor) -> Tensor:
        """A copy with all that is not a unit in one axis, the last: shape ``(*outer, n, rest)``."""
        units = view.movedim(tuple(range(-self.rank, 0)), tuple(range(self.rank)))
        return units.reshape(*units.shape[: self.rank], -1)

    def mixed(self, matrix: Tensor, view: Tensor) -> Tensor:
        """Matrices times the units of a view, in the shape of the view."""
        units = view.movedim(tuple(range(-self.rank, 0)), tuple(range(self.rank)))
        done = (matrix @ self.unfolded(view)).reshape(units.shape)
        return done.movedim(tuple(range(self.rank)), tuple(range(-self.rank, 0)))


def frames(structure: Structure, name: str) -> Iterator[Frame]:
    """All frames of a tensor, in the order of the gauges."""
    within = {space.name: space.within for space in structure.group.spaces}
    for gauge, weight in structure.weights_by_tensor.get(name, ()):
        yield Frame(gauge, weight, within.get(gauge.space, ()))


def once(structure: Structure, state: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """For the first name of every tensor of the structure, all its names: tied ones are one tensor."""
    found: dict[object, list[str]] = {}
    for name, tensor in state.items():
        if name in structure.axes:
            found.setdefault((*tensor_identity(tensor), structure.weights_by_tensor.get(name)), []).append(name)
    return {names[0]: tuple(names) for names in found.values()}


def is_statistic(structure: Structure, name: str) -> bool:
    """Whether a tensor is a running statistic, which is not trained: a running variance or a running mean."""
    return name in structure.offsets or name.rpartition(".")[2] == STATISTIC


def checked(structure: Structure, state: Mapping[str, Tensor]) -> None:
    """Refuse a state that lacks a tensor on which a gauge acts, or has one of another shape.

    Raises
    ------
    StructureError
        Naming the tensor.
    """
    for name in structure.weights_by_tensor:
        if not isinstance(state.get(name), torch.Tensor):
            raise StructureError(f"the state has no tensor {name!r}, on which gauges act: pass the whole state dict")
        expected = tuple(axis.size for axis in structure.axes[name])
        if tuple(state[name].shape) != expected:
            raise StructureError(f"{name!r} has shape {tuple(state[name].shape)}, the structure says {expected}")
