"""What the interpreter knows of one tensor."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch._subclasses.fake_tensor import FakeTensor

from weyl.trace._cells import Axis, Cell, Uniform, flatten, size_of

__all__ = ["Hidden", "RuleError", "Value", "constant_axes", "has_entries"]


class RuleError(Exception):
    """A rule met a case that it does not cover; the operator becomes opaque."""


@dataclass(frozen=True)
class Hidden:
    """An index on which every entry of a tensor depends without being one of its axes.

    Gathering expert weights by routed index leaves tensors whose entries each belong to one expert. ``axis`` is the
    axis of the experts, ``token`` identifies the index tensor, ``carriers`` are the axes along which it varies:
    mixing over one of them loses the index.
    """

    axis: Axis
    token: int
    carriers: tuple[Axis, ...]


@dataclass(frozen=True)
class Value:
    """A tensor during interpretation.

    Parameters
    ----------
    axes : tuple of Axis
        One axis for every dimension.
    constant : tensor, optional
        Its entries, where they depend on neither parameters nor inputs.
    labels : Axis, optional
        The entries are positions along this axis (the indices of a ``topk``), so they move with its units.
    token : int
        Identifies the labels across views that keep the order of the entries.
    tied : bool
        The labels come from values that may be equal (after a ReLU, a comparison): which of equal ones is found
        first depends on their order, so using the labels pins the axis.
    general : bool
        No entry is zero, for weights in general position and every input.
    distinct : frozenset of int
        Dimensions along which no two entries are equal, for weights in general position and every input.
    hidden : tuple of Hidden
        Indices carried without an axis.
    """

    axes: tuple[Axis, ...]
    constant: torch.Tensor | None = None
    labels: Axis | None = None
    token: int = 0
    tied: bool = False
    general: bool = False
    distinct: frozenset[int] = frozenset()
    hidden: tuple[Hidden, ...] = field(default=())

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(size_of(axis) for axis in self.axes)

    @property
    def ndim(self) -> int:
        return len(self.axes)

    def survivors(self, lost: tuple[Axis, ...]) -> tuple[Hidden, ...]:
        """Hidden indices that do not vary along the lost axes."""
        if not self.hidden:
            return ()
        gone = {factor for axis in lost for factor in flatten(axis) if isinstance(factor, Cell)}
        return tuple(h for h in self.hidden if not any(f in gone for axis in h.carriers for f in flatten(axis)))


def has_entries(tensor: torch.Tensor) -> bool:
    """Whether a tensor has numbers that can be looked at: not on the meta device, not fake, not a wrapper."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return tensor.device.type != "meta" and not isinstance(tensor, FakeTensor) and not wrapped


def constant_axes(tensor: torch.Tensor, reason: str) -> tuple[Axis, ...]:
    """Axes of a tensor of known entries: uniform where it is constant along the axis, else pinned."""
    if not has_entries(tensor):
        return tuple((Cell(size, reason),) if size > 1 else () for size in tensor.shape)
    axes: list[Axis] = []
    for dim, size in enumerate(tensor.shape):
        if size == 1:
            axes.append(())
        elif size > 1 and bool((tensor == tensor.narrow(dim, 0, 1)).all()):
            axes.append((Uniform(size),))
        else:
            axes.append((Cell(size, reason),))
    return tuple(axes)
