"""Tensors as the units see them: views whose last axes are the units of a gauge."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from weyl._memory import tensor_identity
from weyl.actions._multiply import layout_of
from weyl.actions._state import check_floating, check_state, check_structure
from weyl.errors import NotFiniteError, UsageError
from weyl.groups import Gauge
from weyl.structure import Structure, Weight

__all__ = ["Frame", "checked", "finite", "frames", "is_statistic", "known_names", "once"]

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
    """Refuse a state on which the gauges of a structure cannot act.

    Raises
    ------
    StructureError
        If it is no state dict of tensors, or that of another model; if a tensor on which a gauge acts is missing, or
        one on which a continuous gauge acts holds integers.
    """
    check_structure(structure)
    check_state(structure, state, structure.weights_by_tensor)
    check_floating(state, _continuous(structure))


def finite(structure: Structure, state: Mapping[str, Tensor]) -> None:
    """Refuse a checked state with NaN or infinity where a continuous gauge acts.

    Raises
    ------
    NotFiniteError
        Naming the tensor.
    """
    for name in _continuous(structure):
        if not bool(state[name].isfinite().all()):
            raise NotFiniteError(f"{name!r} has entries that are not finite: its tangents are not, either")


def _continuous(structure: Structure) -> Iterator[str]:
    """Tensors on which a continuous gauge acts."""
    for name, acting in structure.weights_by_tensor.items():
        if any(gauge.kind.continuous for gauge, _ in acting):
            yield name


def known_names(option: str, given: Collection[str], known: Collection[str]) -> frozenset[str]:
    """Names that somebody gave as an option, all of them known.

    Raises
    ------
    UsageError
        If it is a string, or something else than a collection of names, or a name is unknown.
    """
    if isinstance(given, str):
        raise UsageError(f"{option} must be a collection of names, got the string {given!r}: write [{given!r}]")
    if not isinstance(given, Collection) or not all(isinstance(name, str) for name in given):
        raise UsageError(f"{option} must be a collection of names of tensors, got {type(given).__name__}")
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UsageError(f"{option} names {unknown[0]!r}, which is no tensor of the structure or the state")
    return frozenset(given)
