"""Apply the gauge values of a group element to tensors whose units are already permuted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weyl._memory import tensor_identity
from weyl.errors import StructureError
from weyl.groups import Element, Gauge, GaugeKind
from weyl.structure import Absorption, Block, Structure, Weight

__all__ = ["Multiplier", "layout_of"]

UNITWISE = (GaugeKind.SIGN, GaugeKind.SCALE, GaugeKind.SHIFT)
NARROW = 64


@dataclass(frozen=True)
class Layout:
    """A strided view of a tensor with one axis for every factor of some blocks.

    ``units`` are the axes of the outer spaces of a gauge, outermost first, and last that of its own space.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    units: tuple[int, ...]

    def view(self, tensor: Tensor, shift: int = 0) -> Tensor:
        """The view; its last axes are ``units``."""
        view = tensor.as_strided(self.shape, self.stride, tensor.storage_offset() + self.offset + shift)
        return view.movedim(self.units, tuple(range(-len(self.units), 0)))


def layout_of(tensor: Tensor, blocks: Mapping[int, Block], own: tuple[int, int], outer: tuple[str, ...]) -> Layout:
    """Lay out a tensor; ``own`` is dimension and factor of the transformed units, ``-1, -1`` if there are none."""
    shape: list[int] = []
    stride: list[int] = []
    offset, mine = 0, -1
    near: dict[str, int] = {}
    far: dict[str, int] = {}
    for dim, (size, step) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        block = blocks.get(dim, Block(0, ((None, size, 1),)))
        offset += block.base * step
        for place, (name, count, apart) in enumerate(block.factors):
            if (dim, place) == own:
                mine = len(shape)
            elif name is not None:
                (near if dim == own[0] else far)[name] = len(shape)
            shape.append(count)
            stride.append(apart * step)
    found = {**far, **near}
    units = (*(found[name] for name in outer), mine) if mine >= 0 else ()
    return Layout(tuple(shape), tuple(stride), offset, units)


class Multiplier:
    """The gauge values of one element, ready to act on the tensors of a structure.

    Parameters
    ----------
    element : Element
        Gauges that it gives no values act as the identity.
    structure : Structure
        Says where gauges act.
    """

    def __init__(self, element: Element, structure: Structure) -> None:
        self._structure = structure
        self._within = {space.name: space.within for space in element.spaces}
        self._given = element.values
        self._values: dict[tuple[str, int, float], NDArray[np.generic] | None] = {}
        self._vectors: dict[tuple[object, ...], Tensor] = {}
        self._tensors: dict[tuple[str, int, float, torch.device, torch.dtype], Tensor] = {}

    def acting(self, name: str) -> tuple[tuple[Gauge, Weight], ...]:
        """Gauges with weights on a tensor whose values are not the identity there."""
        weights = self._structure.weights_by_tensor.get(name, ())
        return tuple((gauge, weight) for gauge, weight in weights if self._value(gauge, weight) is not None)

    def vectors(self, name: str, tensor: Tensor) -> tuple[Tensor | None, Tensor | None] | None:
        """Factors of rows and columns in the tensor's dtype, if they are all that acts on it; None if more does."""
        acting = self.acting(name)
        exact = all(gauge.kind is GaugeKind.SIGN for gauge, _ in acting) and tensor.element_size() > 1
        wide = tensor.dtype in (torch.float32, torch.float64)
        simple = tensor.is_floating_point() and (wide or exact) and name not in self._structure.offsets
        alone: tuple[list[tuple[Gauge, Weight]], ...] = ([], [])
        for gauge, weight in acting:
            dim = weight.blocks[0][0] if len(weight.blocks) == 1 else -1
            if not simple or weight.coefficient or gauge.kind not in UNITWISE or dim not in (0, 1):
                return None
            alone[dim].append((gauge, weight))
        rows, columns = (
            self._vector(tensor.shape[dim], several).to(tensor.dtype) if several else None
            for dim, several in enumerate(alone)
        )
        return rows, columns

    def apply(self, name: str, tensor: Tensor, *, fresh: bool) -> Tensor:
        """The tensor after all gauges; a ``fresh`` one may be written to. The same object if none acts."""
        acting = self.acting(name)
        if not acting or not (tensor.is_floating_point() or tensor.is_complex()):
            return tensor
        additive = [(gauge, weight) for gauge, weight in acting if weight.coefficient]
        factors = [(gauge, weight) for gauge, weight in acting if not weight.coefficient]
        offset = self._structure.offsets.get(name, 0.0)
        dtype = _working_dtype(tensor.dtype, exact=bool(additive or offset))
        work = tensor.to(dtype).contiguous()
        if work is tensor and not fresh:
            work = work.clone()
        if offset and factors:
            work.add_(offset)
        self._multiply(work, factors)
        if offset and factors:
            work.sub_(offset)
        for gauge, weight in additive:
            self._layout(work, gauge, weight).view(work).add_(self._tensor(gauge, weight, work))
        return work.to(tensor.dtype)

    def _multiply(self, work: Tensor, factors: list[tuple[Gauge, Weight]]) -> None:
        """Multiply in place; unit-wise factors of one dimension are first collected in one vector."""
        alone: dict[int, list[tuple[Gauge, Weight]]] = {}
        for gauge, weight in factors:
            if gauge.kind in UNITWISE and len(weight.blocks) == 1:
                alone.setdefault(weight.blocks[0][0], []).append((gauge, weight))
            elif gauge.kind in UNITWISE:
                self._layout(work, gauge, weight).view(work).mul_(self._tensor(gauge, weight, work))
            elif gauge.kind is GaugeKind.COMPLEX:
                self._rotate(work, gauge, weight)
            else:
                self._mix(work, gauge, weight)
        for dim, several in alone.items():
            _scale_dimension(work, dim, self._vector(work.shape[dim], several))

    def _vector(self, size: int, several: list[tuple[Gauge, Weight]]) -> Tensor:
        """The product of unit-wise factors along a dimension of some size, in float64 on the CPU."""
        key = (size, *((g.name, w.blocks[0][1], w.factor, w.exponent) for g, w in several))
        if key not in self._vectors:
            vector = torch.ones(size, dtype=torch.float64, device="cpu")
            for gauge, weight in several:
                own = (0, weight.factor) if gauge.space else (-1, -1)
                layout = layout_of(vector, {0: weight.blocks[0][1]}, own, self._within.get(gauge.space, ()))
                layout.view(vector).mul_(self._tensor(gauge, weight, vector))
            self._vectors[key] = vector
        return self._vectors[key]

    def _rotate(self, work: Tensor, gauge: Gauge, weight: Weight) -> None:
        layout = self._layout(work, gauge, weight)
        real, imaginary = layout.view(work), layout.view(work, weight.partner * work.stride(weight.dim))
        value = self._tensor(gauge, weight, work)
        a, b = value[0], value[1]
        turned = a * real - b * imaginary
        imaginary.mul_(a).add_(b * real)
        real.copy_(turned)

    def _mix(self, work: Tensor, gauge: Gauge, weight: Weight) -> None:
        layout = self._layout(work, gauge, weight)
        copies = len(layout.units) - 1
        view = layout.view(work)
        view = view.movedim(tuple(range(-copies - 1, -1)), tuple(range(copies)))
        flat = view.reshape(*view.shape[:copies], -1, view.shape[-1])
        mixed = flat @ self._tensor(gauge, weight, work).mT
        view.copy_(mixed.reshape(view.shape))

    def _layout(self, tensor: Tensor, gauge: Gauge, weight: Weight) -> Layout:
        outer = self._within.get(gauge.space, ())
        return layout_of(tensor, dict(weight.blocks), (weight.dim, weight.factor), outer)

    def _tensor(self, gauge: Gauge, weight: Weight, like: Tensor) -> Tensor:
        """The values of a gauge to the power of a weight, made once for a device and a dtype."""
        key = (gauge.name, weight.exponent, weight.coefficient, like.device, like.dtype)
        if key not in self._tensors:
            self._tensors[key] = torch.from_numpy(self._value(gauge, weight)).to(like.dtype).to(like.device)
        return self._tensors[key]

    def _value(self, gauge: Gauge, weight: Weight) -> NDArray[np.generic] | None:
        """What multiplies or is added, in float64; None if it changes nothing."""
        key = (gauge.name, weight.exponent, weight.coefficient)
        if key not in self._values:
            given = self._given.get(gauge.name)
            value = None if given is None else _power(gauge.kind, np.asarray(given), weight)
            idle = value is None or _changes_nothing(gauge.kind, value, weight)
            self._values[key] = None if idle else np.asarray(value)
        return self._values[key]

    def absorb(self, moved: dict[str, Tensor]) -> None:
        """Replace the biases that take up constants of flips, in the new frame; ties stay.

        Raises
        ------
        StructureError
            If the state has a weight without the bias that its constant goes to, or the bias without the weight.
        """
        totals: dict[tuple[object, ...], Tensor] = {}
        done: set[tuple[object, ...]] = set()
        for gauge, absorption in self._absorbing(moved):
            bias, weight = moved[absorption.bias], moved[absorption.weight]
            target = tensor_identity(bias)
            once = (target, tensor_identity(weight), gauge.name, absorption.dim, absorption.block)
            if once not in done:
                done.add(once)
                totals[target] = totals.get(target, bias.double()) + self._constant(gauge, absorption, weight)
        if totals:
            known = {name: tensor_identity(tensor) for name, tensor in moved.items()}
            rounded = {target: total.to(target[-1]) for target, total in totals.items()}  # type: ignore[call-overload]
            moved.update((name, rounded[target]) for name, target in known.items() if target in rounded)

    def _absorbing(self, state: Mapping[str, Tensor]) -> Iterator[tuple[Gauge, Absorption]]:
        for gauge in self._structure.gauges:
            for absorption in self._structure.absorptions.get(gauge.name, ()):
                present = {name for name in (absorption.bias, absorption.weight) if name in state}
                if not present or self._flips(gauge) is None:
                    continue
                if len(present) == 1:
                    raise StructureError(
                        f"flips of {gauge.space!r} move a constant from {absorption.weight!r} into "
                        f"{absorption.bias!r}: give both together, the state has only {present.pop()!r}"
                    )
                yield gauge, absorption

    def _flips(self, gauge: Gauge) -> NDArray[np.generic] | None:
        return self._value(gauge, Weight((), -1, -1))

    def _constant(self, gauge: Gauge, absorption: Absorption, weight: Tensor) -> Tensor:
        """What flips add to every row: ``constant * sum_i weight[..., i, ...] * (s_i - 1) / 2``, in float64."""
        vector = torch.zeros(weight.shape[absorption.dim], dtype=torch.float64, device="cpu")
        names = [name for name, _, _ in absorption.block.factors]
        own = (0, names.index(gauge.space))
        layout = layout_of(vector, {0: absorption.block}, own, self._within[gauge.space])
        flips = torch.from_numpy(np.asarray(self._flips(gauge)))
        layout.view(vector).add_(absorption.constant * (flips - 1) / 2)
        flipped = vector.nonzero().flatten()
        read = weight.index_select(absorption.dim, flipped.to(weight.device)).double()
        rows = read.movedim(absorption.dim, 1).flatten(2).sum(2) if read.dim() > 2 else read
        return rows @ vector[flipped].to(weight.device)


def _working_dtype(dtype: torch.dtype, *, exact: bool) -> torch.dtype:
    """At least float32; float64 for small tensors to which something is added, which must be rounded once."""
    if dtype.is_complex:
        return torch.complex128 if exact else dtype
    if exact:
        return torch.float64
    return dtype if dtype.itemsize >= 4 else torch.float32


def _power(kind: GaugeKind, value: NDArray[np.generic], weight: Weight) -> NDArray[np.generic] | None:
    """Values to the exponent of a weight; powers of two, signs and quarter turns stay exact."""
    match kind:
        case GaugeKind.TRANSLATION | GaugeKind.SHIFT if weight.coefficient:
            return weight.coefficient * value.astype(np.float64)
        case GaugeKind.SHIFT:
            return 1.0 - 2.0 * (value.astype(np.int64) % 2) if weight.exponent % 2 else None
        case GaugeKind.SIGN:
            return value.astype(np.float64) if weight.exponent % 2 else None
        case GaugeKind.SCALE:
            return value.astype(np.float64) ** weight.exponent
        case GaugeKind.COMPLEX:
            turned = value / (value.real**2 + value.imag**2) if weight.exponent < 0 else value
            return np.stack([turned.real, turned.imag])
        case GaugeKind.LINEAR if weight.exponent < 0:
            return np.ascontiguousarray(np.linalg.inv(value.astype(np.float64)).swapaxes(-1, -2))
        case _:
            return value.astype(np.float64)


def _changes_nothing(kind: GaugeKind, value: NDArray[np.generic], weight: Weight) -> bool:
    """Whether powers of values are those of the identity."""
    if weight.coefficient:
        return not value.any()
    if kind.matrix:
        return bool((value == np.eye(value.shape[-1])).all())
    if kind is GaugeKind.COMPLEX:
        return bool((value[0] == 1).all() and not value[1].any())
    return bool((value == 1).all())


def _scale_dimension(work: Tensor, dim: int, vector: Tensor) -> None:
    """Multiply in place along one dimension, in rows that are long enough to be quick."""
    below = math.prod(work.shape[dim + 1 :])
    factors = vector.to(work.dtype).to(work.device)
    if below == 1:
        work.view(-1, len(vector)).mul_(factors)
    elif below < NARROW:
        work.view(-1, len(vector) * below).mul_(factors.repeat_interleave(below))
    else:
        work.view(-1, len(vector), below).mul_(factors[:, None])
