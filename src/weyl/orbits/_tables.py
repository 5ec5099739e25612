"""Tensors as tables over units: which units, and which signs, belong to every row of entries."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from weyl.groups import Gauge, GaugeKind
from weyl.structure import Axis, Block, Structure, Weight, combinations

__all__ = ["Atoms", "Table", "numbers_on", "seen", "tables_of"]

Ints = NDArray[np.int64]


class Atoms:
    """Numbers for the units of every space, from 0, and for the signs of every unit, from 1, of all copies.

    Parameters
    ----------
    structure : Structure
        Whose spaces, indices and sign gauges are numbered.
    """

    def __init__(self, structure: Structure) -> None:
        self.spaces = {space.name: space for space in structure.group.spaces}
        self.shapes = {
            name: (*(self.spaces[outer].size for outer in space.within), space.size)
            for name, space in self.spaces.items()
        }
        self.units, self.count = _number(self.shapes, 0)
        self.gauges = {gauge.name: gauge for gauge in structure.gauges if gauge.kind is GaugeKind.SIGN}
        shapes = {name: self.shapes[gauge.space] if gauge.space else () for name, gauge in self.gauges.items()}
        self.signs, self.sign_count = _number(shapes, 1)


def _number(shapes: Mapping[str, tuple[int, ...]], total: int) -> tuple[dict[str, Ints], int]:
    numbers = {}
    for name, shape in shapes.items():
        size = math.prod(shape)
        numbers[name] = np.arange(total, total + size).reshape(shape)
        total += size
    return numbers, total


@dataclass(frozen=True, eq=False)
class Table:
    """Blocks of one tensor, as rows of entries that belong to the same units and are multiplied by the same signs.

    Parameters
    ----------
    name : str
        The tensor.
    shape : tuple of int
        One axis for every factor that tells rows apart.
    layout : (offset, shape, strides, order)
        How to see a contiguous tensor as rows: sizes and strides of all factors, and which of them come first.
    spaces : tuple of (int, str)
        The axes of ``shape`` that are spaces, and which; the others are positions that do not move.
    units : tuple of array
        For each of these axes the units, as numbers; each broadcasts to ``shape``.
    signs : tuple of array
        Likewise the signs that multiply the rows; number 0 is no sign.
    """

    name: str
    shape: tuple[int, ...]
    layout: tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    spaces: tuple[tuple[int, str], ...]
    units: tuple[Ints, ...]
    signs: tuple[Ints, ...] = ()

    def rows(self, array: NDArray[Any]) -> NDArray[Any]:
        """The entries of a contiguous array, shape ``(*shape, entries)``."""
        offset, shape, strides, order = self.layout
        flat = array.reshape(-1)[offset:]
        view = np.lib.stride_tricks.as_strided(flat, shape, [s * array.itemsize for s in strides], writeable=False)
        return view.transpose(order).reshape(*self.shape, -1)


def tables_of(structure: Structure, state: Mapping[str, Tensor], atoms: Atoms) -> list[Table]:
    """Tables of all tensors of a state that the structure knows."""
    found = []
    for name, tensor in state.items():
        axes = structure.axes.get(name)
        if axes is None or not tensor.numel():
            continue
        signs = _signs_on(structure, name, atoms) if tensor.is_floating_point() else []
        found += [_table(name, axes, blocks, signs, atoms) for blocks in combinations(axes)]
    return found


def _signs_on(structure: Structure, name: str, atoms: Atoms) -> list[Ints]:
    """For every sign gauge that acts on a tensor, the sign that multiplies every entry; broadcast where it can be."""
    shape = tuple(axis.size for axis in structure.axes[name])
    found: dict[tuple[str, int], Ints] = {}
    repeated: Counter[str] = Counter()
    for gauge, weight in structure.weights_by_tensor.get(name, ()):
        if gauge.kind is GaugeKind.SIGN and weight.exponent % 2:
            key = (gauge.name, repeated[gauge.name])
            repeated[gauge.name] += 1
            found[key] = numbers_on(gauge, weight, shape, atoms.signs[gauge.name], atoms)
    return list(found.values())


def numbers_on(gauge: Gauge, weight: Weight, shape: tuple[int, ...], numbers: Ints, atoms: Atoms) -> Ints:
    """The number of the value that one weight applies to every entry, 0 outside its blocks; broadcast where it can be.

    Parameters
    ----------
    gauge, weight : Gauge, Weight
        Of the structure.
    shape : tuple of int
        Of the tensor.
    numbers : int64 array
        From 1, in the shape of the values of the gauge.
    atoms : Atoms
        Of the structure.
    """
    if not gauge.space:
        return np.broadcast_to(numbers, shape)
    blocks = dict(weight.blocks)
    narrow = tuple(size if dim in blocks else 1 for dim, size in enumerate(shape))
    signs = np.zeros(narrow, dtype=np.int64)
    strides, sizes, places = [], [], {}
    offset = 0
    steps = [math.prod(narrow[dim + 1 :]) for dim in range(len(narrow))]
    for dim, block in weight.blocks:
        offset += block.base * steps[dim]
        for place, (space, size, stride) in enumerate(block.factors):
            if space is not None:
                places[dim, place] = space
            sizes.append((dim, place, size))
            strides.append(stride * steps[dim] * signs.itemsize)
    grid = np.ogrid[tuple(slice(size) for _, _, size in sizes)]
    coordinates = {(d, p): np.asarray(axis) for (d, p, _), axis in zip(sizes, grid, strict=True) if (d, p) in places}
    view = np.lib.stride_tricks.as_strided(signs.reshape(-1)[offset:], [size for _, _, size in sizes], strides)
    view[...] = _numbers(numbers, (weight.dim, weight.factor), places, coordinates, atoms)
    return np.broadcast_to(signs, shape)


def _numbers(
    numbers: Ints,
    own: tuple[int, int],
    places: Mapping[tuple[int, int], str],
    coordinates: Mapping[tuple[int, int], Ints],
    atoms: Atoms,
) -> Ints:
    """Numbers of what belongs to the units of one factor; its outer spaces stand in the same dimension or another."""
    outer = []
    for name in atoms.spaces[places[own]].within:
        homes = [at for at, space in places.items() if space == name]
        near = [at for at in homes if at[0] == own[0]]
        outer.append(coordinates[near[0] if len(near) == 1 else homes[0]])
    return np.asarray(numbers[(*outer, coordinates[own])])


def _table(name: str, axes: tuple[Axis, ...], blocks: tuple[Block, ...], signs: list[Ints], atoms: Atoms) -> Table:
    """The table of one combination of blocks; positions stay apart where signs differ between them."""
    steps = [math.prod(axis.size for axis in axes[dim + 1 :]) for dim in range(len(axes))]
    factors = [(dim, place) for dim, block in enumerate(blocks) for place in range(len(block.factors))]
    sizes = tuple(blocks[dim].factors[place][1] for dim, place in factors)
    strides = tuple(blocks[dim].factors[place][2] * steps[dim] for dim, place in factors)
    places = {(dim, place): blocks[dim].factors[place][0] or "" for dim, place in factors}
    offset = sum(block.base * step for block, step in zip(blocks, steps, strict=True))
    acting = [seen(sign, blocks, sizes) for sign in signs]
    acting = [sign for sign in acting if sign.any()]
    apart = [at for at, place in enumerate(factors) if places[place] or any(sign.shape[at] > 1 for sign in acting)]
    order = (*apart, *(at for at in range(len(factors)) if at not in apart))
    grid = np.ogrid[tuple(slice(sizes[at]) for at in apart)] if apart else []
    coordinates = {factors[at]: np.asarray(axis) for at, axis in zip(apart, grid, strict=True)}
    spaces = tuple((axis, places[factors[at]]) for axis, at in enumerate(apart) if places[factors[at]])
    units = tuple(
        _numbers(atoms.units[space], factors[apart[axis]], places, coordinates, atoms) for axis, space in spaces
    )
    kept = tuple(sign.transpose(order).reshape([sign.shape[at] for at in apart]) for sign in acting)
    return Table(name, tuple(sizes[at] for at in apart), (offset, sizes, strides, order), spaces, units, kept)


def seen(sign: Ints, blocks: tuple[Block, ...], sizes: tuple[int, ...]) -> Ints:
    """Numbers with one axis for every factor of some blocks, of length 1 where they do not depend on it."""
    offset, strides = 0, []
    narrow = sign[tuple(slice(None if step else 1) for step in sign.strides)]
    for block, step in zip(blocks, sign.strides, strict=True):
        offset += block.base * step // sign.itemsize
        strides += [stride * step for _, _, stride in block.factors]
    # Axes along which nothing can differ are not laid out at all.
    sizes = tuple(size if stride else 1 for size, stride in zip(sizes, strides, strict=True))
    view = np.lib.stride_tricks.as_strided(narrow.reshape(-1)[offset:], sizes, strides, writeable=False)
    for at in range(view.ndim):
        first = view[(slice(None),) * at + (slice(1),)]
        if view.shape[at] > 1 and (view == first).all():
            view = first
    return view
