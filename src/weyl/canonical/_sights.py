"""Tensors as rows of entries of some units, in an order of their other axes that no labelling changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weyl.errors import NotFiniteError
from weyl.orbits import Table

__all__ = ["Rows", "Sight"]

Ints = NDArray[np.int64]

# Types that numpy has as well.
NUMPY = (torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8)


@dataclass(frozen=True, eq=False)
class Rows:
    """Entries that belong to some units, one row for each of them.

    Attributes
    ----------
    values : array, shape (rows, entries)
        float64 or int64; multiplied by the signs that are known.
    masked : bool array of the same shape, or None
        Entries of which another sign than the row's is unknown; they are absolute values.
    keys : int64 array of the same shape, or None
        What entries may be sorted by, where their order is not settled: entries of equal keys form a multiset.
    odd : bool array, shape (rows,)
        Whether the row is known up to its sign only.
    """

    values: NDArray[Any]
    masked: NDArray[np.bool_] | None
    keys: Ints | None
    odd: NDArray[np.bool_]


class Sight:
    """One table of a tensor, of which rows can be read without copying the rest.

    Parameters
    ----------
    table : Table
        Blocks of a tensor; see :func:`weyl.orbits.tables_of`.
    floating : bool
        Whether the tensor's numbers are floating.

    Attributes
    ----------
    spaces : dict of int to str
        Axes of units.
    units : dict of int to int64 array
        For them, the numbers of the units; broadcasts to the axes that tell rows apart.
    signs : list of int64 array
        Likewise the signs that multiply entries; 0 for none.
    """

    def __init__(self, table: Table, *, floating: bool) -> None:
        offset, sizes, strides, order = table.layout
        self.name, self.floating = table.name, floating
        self._offset = offset
        self.sizes = [sizes[at] for at in order]
        self._strides = [strides[at] for at in order]
        self.depth = len(table.shape)
        self.spaces = dict(table.spaces)
        self.units = {axis: _narrow(units) for (axis, _), units in zip(table.spaces, table.units, strict=True)}
        self.signs = [_narrow(signs) for signs in table.signs] if floating else []
        # The last classes along an axis, and the order of units that they give: they seldom change between two reads.
        self._orders: dict[int, tuple[Ints, Ints]] = {}
        self._grids: dict[tuple[int, ...], dict[int, Ints]] = {}

    @property
    def entries(self) -> int:
        """Number of entries."""
        return math.prod(self.sizes)

    def reach(self, array: Ints) -> frozenset[int]:
        """The axes along which an array of numbers varies."""
        return frozenset(axis for axis, size in enumerate(array.shape) if size > 1)

    def front(self, axis: int) -> tuple[int, ...]:
        """The axis of some units, and those of the units they live within."""
        return tuple(sorted(self.reach(self.units[axis]) | {axis}))

    def grid(self, front: Sequence[int]) -> dict[int, Ints]:
        """Coordinates along some axes, for all combinations."""
        if not front:
            return {}
        if tuple(front) in self._grids:
            return self._grids[tuple(front)]
        shape = [self.sizes[axis] for axis in front]
        grid = dict(zip(front, np.indices(shape).reshape(len(shape), -1), strict=True))
        self._grids[tuple(front)] = grid
        return grid

    def at(self, numbers: Ints, coordinates: Mapping[int, Ints]) -> Ints:
        """Numbers at some coordinates, which broadcast against each other."""
        return np.asarray(numbers[tuple(coordinates[a] if size > 1 else 0 for a, size in enumerate(numbers.shape))])

    def rows(
        self,
        tensor: Tensor,
        rows: Mapping[int, Ints],
        classes: Ints,
        signs: NDArray[np.int8],
        loose: frozenset[int],
        budget: int,
    ) -> Rows:
        """Read rows.

        Parameters
        ----------
        tensor : Tensor
            The whole of it.
        rows : mapping of int to int64 array, shape (rows,)
            Coordinates along the front axes.
        classes, signs : arrays
            Of all units and signs, by number.
        loose : frozenset of int
            Other axes, whose units are not all told apart: taken whole.
        budget : int
            Entries of a row, about; the first ones along the other axes. 0 for all of them.

        Raises
        ------
        NotFiniteError
            If one of them is NaN or infinite.
        """
        where, rest, shape = self._places(rows, classes, loose, budget)
        values = self._values(tensor, where, shape)
        count, depth = shape[0], len(rest)
        masked, odd = None, np.zeros(count, dtype=bool)
        for numbers in self.signs:
            here = signs[self.at(numbers, where)]
            if self.reach(numbers) <= set(rows):
                own = np.broadcast_to(here, (count, *[1] * depth)).reshape(count)
                odd |= own == 0
                values = values * np.where(own == 0, 1, own)[:, None]
            else:
                here = np.broadcast_to(here, shape).reshape(count, -1)
                if not here.all():
                    masked = (here == 0) if masked is None else masked | (here == 0)
                values = values * np.where(here == 0, 1, here)
        if masked is not None:
            values = np.where(masked, np.abs(values), values)
        return Rows(values, masked, self._keys(rest, loose, classes, where, shape), odd)

    def equations(
        self, tensor: Tensor, rows: Mapping[int, Ints], classes: Ints, signs: NDArray[np.int8], budget: int
    ) -> tuple[NDArray[Any], list[Ints]]:
        """Entries of some rows, times the signs that are known, and for each of them the numbers of the other signs.

        Numbers of signs that are known are 0. All of shape ``(rows, entries)``, the entries in the order of classes.
        """
        where, _, shape = self._places(rows, classes, frozenset(), budget)
        values = self._values(tensor, where, shape)
        missing = []
        for numbers in self.signs:
            here = np.broadcast_to(self.at(numbers, where), shape).reshape(shape[0], -1)
            known = signs[here]
            values = values * np.where(known == 0, 1, known)
            missing.append(np.where(known == 0, here, 0))
        return values, missing

    def _places(
        self, rows: Mapping[int, Ints], classes: Ints, loose: frozenset[int], budget: int
    ) -> tuple[dict[int, Ints], list[int], tuple[int, ...]]:
        """Coordinates of the entries of some rows in order, the axes beside the rows', and the shape of it all."""
        rest = self._ordered([axis for axis in range(len(self.sizes)) if axis not in rows])
        counts = self._counts(rest, loose, budget)
        depth = len(rest)
        where = {axis: index.reshape(-1, *[1] * depth) for axis, index in rows.items()}
        for place, axis in enumerate(rest):
            rank = np.arange(counts[axis]).reshape(-1, *[1] * (depth - place - 1))[None]
            where[axis] = rank if axis not in self.units else self._by_class(axis, classes, where, rank)
        count = len(next(iter(rows.values()))) if rows else 1
        return where, rest, (count, *(counts[axis] for axis in rest))

    def _values(self, tensor: Tensor, where: Mapping[int, Ints], shape: tuple[int, ...]) -> NDArray[Any]:
        flat: Any = self._offset
        for axis, index in where.items():
            flat = flat + index * self._strides[axis]
        return _taken(tensor, np.broadcast_to(flat, shape), self.name).reshape(shape[0], -1)

    def _ordered(self, axes: list[int]) -> list[int]:
        """Axes with those of inner units behind those of the units that they live within."""
        rest: list[int] = []
        while len(rest) < len(axes):
            for axis in axes:
                needs = self.reach(self.units[axis]) - {axis} if axis in self.units else frozenset()
                if axis not in rest and all(other in rest or other not in axes for other in needs):
                    rest.append(axis)
        return rest

    def _counts(self, rest: Sequence[int], loose: frozenset[int], budget: int) -> dict[int, int]:
        counts = {axis: self.sizes[axis] if axis in loose or not budget else 1 for axis in rest}
        left = budget // max(1, math.prod(counts.values())) if budget else 0
        for axis in reversed(rest):
            if left > 1 and axis not in loose:
                counts[axis] = min(self.sizes[axis], left)
                left //= counts[axis]
        return counts

    def _by_class(self, axis: int, classes: Ints, where: Mapping[int, Ints], rank: Ints) -> Ints:
        """Positions of the units of some ranks among their copy."""
        own = classes[self.units[axis]]
        known = self._orders.get(axis)
        if known is None or not np.array_equal(known[0], own):
            known = self._orders[axis] = (own, np.argsort(own, axis=axis, kind="stable"))
        order = known[1]
        at = [where[a] if a != axis else rank for a in range(self.depth) if order.shape[a] > 1 or a == axis]
        return np.asarray(order.squeeze(tuple(a for a in range(self.depth) if order.shape[a] == 1 and a != axis))[*at])

    def _keys(
        self,
        rest: Sequence[int],
        loose: frozenset[int],
        classes: Ints,
        where: Mapping[int, Ints],
        shape: tuple[int, ...],
    ) -> Ints | None:
        if not loose:
            return None
        keys: Any = np.int64(0)
        for axis in rest:
            own = classes[self.at(self.units[axis], where)] if axis in self.units else where[axis]
            keys = keys * (int(own.max()) + 1) + own
        return np.asarray(np.broadcast_to(keys, shape).reshape(shape[0], -1))


def _narrow(numbers: Ints) -> Ints:
    """An array without repetition along axes on which it does not depend."""
    return numbers[tuple(slice(None) if step else slice(1) for step in numbers.strides)]


def _taken(tensor: Tensor, flat: Ints, name: str) -> NDArray[Any]:
    """Entries by their place in a contiguous tensor, as float64 or int64; -0.0 as 0.0."""
    content = tensor.detach().contiguous().view(-1)
    if tensor.dtype in NUMPY and tensor.device.type == "cpu":
        # A gather of a few entries is not worth waking threads for.
        found = content.numpy()[flat]
    else:
        # Types of one byte have no gather of their own, but their bytes do.
        bits = content.view(torch.uint8) if tensor.itemsize == 1 else content
        taken = bits[torch.from_numpy(np.array(flat)).to(tensor.device)].view(tensor.dtype)
        found = taken.cpu().to(torch.float64 if tensor.is_floating_point() else torch.int64).numpy()
    if not tensor.is_floating_point():
        return np.asarray(found.astype(np.int64))
    values = found.astype(np.float64) + 0.0
    if not np.isfinite(values).all():
        raise NotFiniteError(f"{name!r} has NaN or infinite entries: it has no normal form")
    return np.asarray(values)
