"""Apply a group element to a state dict, in one pass over the tensors that it moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weyl._memory import tensor_identity
from weyl.actions._multiply import Multiplier
from weyl.actions._state import check_state
from weyl.errors import StructureError
from weyl.groups import Element
from weyl.structure import Axis, Cases, Fixed, Product, Structure, Sum, Units

__all__ = ["Mover", "act", "gather_indices"]

Indices = NDArray[np.int64]

# Entries that are gathered at a time.
CACHED = 1 << 17


@dataclass(frozen=True)
class Piece:
    """Positions ``base + sum_j coordinate_j * stride_j`` of one axis, for the coordinates of some factors.

    ``factors`` are (space or None, size, stride); ``part`` is the part of the top-level sum that the block lies in.
    """

    base: int
    factors: tuple[tuple[str | None, int, int], ...]
    part: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(size for _, size, _ in self.factors)

    def positions(self, coordinates: tuple[Indices, ...]) -> Indices:
        """Positions of given coordinates (broadcast)."""
        total: Indices = np.full((), self.base, dtype=np.int64)
        for (_, _, stride), coordinate in zip(self.factors, coordinates, strict=True):
            total = total + coordinate * stride
        return total


def act(element: Element, structure: Structure, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Move a state dict along its orbit; returns a new one.

    Units are permuted first, then multiplied by the values of the gauges at their new places, then translated. Flips
    of an activation that is odd about a point other than 0 move a constant into the bias of its reader, last.

    Parameters
    ----------
    element : Element
        From ``structure.group``.
    structure : Structure
        Of the model that the state belongs to.
    state : mapping of str to tensor
        Any dtype, any device; a part of the whole will do. It is not changed. Names that the structure does not know
        (counters, buffers that do not persist) pass through; integers are permuted only.

    Returns
    -------
    dict of str to tensor
        Same keys in the same order, same dtypes and devices; names that shared a tensor share one again.
        A tensor that the element does not move is the same object, not a copy. Signs and powers of two leave no
        rounding in any floating dtype.

    Raises
    ------
    StructureError
        If the element belongs to another group, a tensor has another shape than the structure says, the structure
        knows none of the names, or of a bias and the weight whose constant it takes up the state has only one.

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> structure = weyl.discover(net, (torch.zeros(1, 4),))
    >>> g = structure.group.random(seed=1, exact=True)
    >>> twin = weyl.act(g, structure, net.state_dict())
    >>> back = weyl.act(~g, structure, twin)
    >>> all(torch.equal(back[k], v) for k, v in net.state_dict().items())
    True
    """
    check_state(structure, state)
    if not isinstance(element, Element):
        raise StructureError(
            f"expected an Element, got {type(element).__name__}: pass that of a match, match.element, or of "
            "structure.group"
        )
    if element.spaces != structure.group.spaces or element.gauges not in ((), structure.gauges):
        raise StructureError("the element belongs to another group than the structure's")
    multiplier = Multiplier(element, structure)
    plans: dict[tuple[Axis, ...], _Plan] = {}
    indices: dict[Axis, Indices | None] = {}
    moved: dict[tuple[object, ...], Tensor] = {}
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        axes = structure.axes.get(name)
        if axes is None:
            out[name] = tensor
            continue
        if axes not in plans:
            plans[axes] = _Plan(axes, element, indices)
        identity = (*tensor_identity(tensor), axes, structure.weights_by_tensor.get(name))
        if identity not in moved:
            moved[identity] = _moved(plans[axes], multiplier, name, tensor)
        out[name] = moved[identity]
    multiplier.absorb(out)
    return out


class Mover:
    """One element, ready to move the tensors of a state one at a time; what they share is worked out once.

    Parameters
    ----------
    element : Element
        Without constants that flips move into biases: those need two tensors at once.
    structure : Structure
        To whose group it belongs.
    """

    def __init__(self, element: Element, structure: Structure) -> None:
        self._element, self._structure = element, structure
        self._multiplier = Multiplier(element, structure)
        self._plans: dict[tuple[Axis, ...], _Plan] = {}
        self._indices: dict[Axis, Indices | None] = {}

    def _plan(self, name: str) -> _Plan:
        axes = self._structure.axes[name]
        if axes not in self._plans:
            self._plans[axes] = _Plan(axes, self._element, self._indices)
        return self._plans[axes]

    def moved(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor after the element; the same object if nothing moves it."""
        return _moved(self._plan(name), self._multiplier, name, tensor)

    def pieces(self, name: str, tensor: Tensor, entries: int) -> Iterator[Callable[[], tuple[Tensor, bool]]]:
        """The tensor after the element, in runs of whole rows of about so many entries, each made when called for.

        Beside the rows the calls return whether those are a copy, which may be written to. They may be made in any
        order, and by several threads.
        """
        plan = self._plan(name)
        vectors = self._multiplier.vectors(name, tensor) if tensor.dim() > 1 else None
        separate = vectors is not None and not plan.joint and all(index is None for index in plan.single[2:])
        if not separate or vectors is None:
            done = self.moved(name, tensor).contiguous()
            step = _step(done, entries)
            yield from (partial(_rows, done, start, step) for start in range(0, len(done) if done.dim() else 1, step))
            return
        tensor = tensor.detach().contiguous()
        rows, columns = (None if i is None else torch.from_numpy(i).to(tensor.device) for i in plan.single[:2])
        factors = [None if v is None else v.to(tensor.device, tensor.dtype) for v in vectors]
        shape = (-1, *[1] * (tensor.dim() - 1)), (-1, *[1] * (tensor.dim() - 2))
        step = _step(tensor, entries)

        def piece(run: slice) -> tuple[Tensor, bool]:
            found = tensor[run] if rows is None else tensor.index_select(0, rows[run])
            found = found if columns is None else found.index_select(1, columns)
            fresh = rows is not None or columns is not None
            factor = None if factors[0] is None else factors[0][run].view(shape[0])
            for vector in (factor, None if factors[1] is None else factors[1].view(shape[1])):
                if vector is not None:
                    found = found.mul_(vector) if fresh else found * vector
                    fresh = True
            return found, fresh

        for start in range(0, len(tensor), step):
            yield partial(piece, slice(start, start + step))


def _rows(tensor: Tensor, start: int, count: int) -> tuple[Tensor, bool]:
    return tensor[start : start + count] if tensor.dim() else tensor, False


def _step(tensor: Tensor, entries: int) -> int:
    return max(1, entries * len(tensor) // max(1, tensor.numel())) if tensor.dim() else 1


def _moved(plan: _Plan, multiplier: Multiplier, name: str, tensor: Tensor) -> Tensor:
    """One tensor permuted and multiplied; both at once where that is a gather of rows and columns and two vectors."""
    both = plan.both(tensor)
    vectors = multiplier.vectors(name, tensor) if both is not None else None
    if both is not None and vectors is not None:
        return _gather_both(tensor.contiguous(), *both, *vectors)
    permuted = plan.apply(tensor)
    return multiplier.apply(name, permuted, fresh=permuted is not tensor)


def gather_indices(axes: tuple[Axis, ...], element: Element) -> list[Indices | None]:
    """For every axis, ``old`` such that the new position ``i`` holds the old position ``old[i]``.

    None for an axis that does not move.

    Raises
    ------
    StructureError
        If an axis moves differently for different positions of another one (then there is no single index).
    """
    plan = _Plan(axes, element, {})
    if plan.joint:
        raise StructureError("the axes of this tensor move together; apply the element with act")
    return plan.single


class _Plan:
    """How one tuple of axes moves: an index for every axis that moves alone, and a joint index for the others.

    ``indices`` are those of axes that other plans of the same element have found to move alone.
    """

    def __init__(self, axes: tuple[Axis, ...], element: Element, indices: dict[Axis, Indices | None]) -> None:
        self.single: list[Indices | None] = [None] * len(axes)
        self.joint: list[int] = []
        self._element = element
        self._blocks = [list(_blocks(axis)) for axis in axes]
        self._axes = axes
        within = {space.name: space.within for space in element.spaces}
        self._within = within
        linked = self._linked()
        for dim in range(len(axes)):
            if dim not in linked:
                if axes[dim] not in indices:
                    index = self._alone(dim)
                    indices[axes[dim]] = None if np.array_equal(index, np.arange(len(index))) else index
                self.single[dim] = indices[axes[dim]]
        self.joint = sorted(linked)
        self._old = self._together() if self.joint else ()
        if all((old == grid).all() for old, grid in zip(self._old, _grids(self._joint_shape), strict=True)):
            self.joint = []

    def both(self, tensor: Tensor) -> tuple[Tensor, Tensor] | None:
        """Old rows and columns, where a tensor on the CPU moves along its first two dimensions and no others."""
        if tensor.device.type != "cpu" or tensor.requires_grad or self.joint or len(self.single) < 2:
            return None
        rows, columns, *rest = self.single
        if rows is None or columns is None or any(index is not None for index in rest):
            return None
        return torch.from_numpy(rows), torch.from_numpy(columns)

    def apply(self, tensor: Tensor) -> Tensor:
        """The moved tensor."""
        both = self.both(tensor)
        if both is not None:
            return _gather_both(tensor.contiguous(), *both)
        for dim, index in enumerate(self.single):
            if index is not None:
                tensor = tensor.index_select(dim, torch.from_numpy(index).to(tensor.device))
        if self.joint:
            home, front = tuple(self.joint), tuple(range(len(self.joint)))
            old = tuple(torch.from_numpy(old).to(tensor.device) for old in self._old)
            tensor = tensor.movedim(home, front)[old].movedim(front, home).contiguous()
        return tensor

    @property
    def _joint_shape(self) -> tuple[int, ...]:
        return tuple(self._axes[dim].size for dim in self.joint)

    def _linked(self) -> set[int]:
        """Dimensions whose motion involves another dimension."""
        linked: set[int] = set()
        for dim, blocks in enumerate(self._blocks):
            if isinstance(self._axes[dim], Cases):
                linked |= {dim, self._axes[dim].dim}  # type: ignore[union-attr]
            for block in blocks:
                names = [space for space, _, _ in block.factors]
                for space in names:
                    for outer in self._within.get(space or "", ()):
                        if names.count(outer) != 1:
                            linked |= {dim, *self._homes(dim, outer)}
        return linked

    def _homes(self, dim: int, outer: str) -> set[int]:
        """The other dimensions in which an outer space occurs; in any one block it does so once."""
        homes = {
            d
            for d, blocks in enumerate(self._blocks)
            if d != dim and any(space == outer for block in blocks for space, _, _ in block.factors)
        }
        if not homes:
            raise StructureError(f"a tensor has units within {outer!r} and no index of it")
        return homes

    def _alone(self, dim: int) -> Indices:
        size = self._axes[dim].size
        index = np.empty(size, dtype=np.int64)
        for block in self._blocks[dim]:
            grids = _grids(block.shape)
            old = self._old_coordinates(block, grids, {})
            new = np.broadcast_to(block.positions(grids), block.shape)
            index[new.ravel()] = np.broadcast_to(block.positions(old), block.shape).ravel()
        return index

    def _together(self) -> tuple[Indices, ...]:
        """Old positions of the linked dimensions, for every combination of their new positions."""
        dims = self.joint
        old = tuple(np.empty(self._joint_shape, dtype=np.int64) for _ in dims)
        for blocks in product(*(self._blocks[d] for d in dims)):
            if not self._consistent(dims, blocks):
                continue
            shape = tuple(n for block in blocks for n in block.shape)
            grids = _grids(shape)
            starts = np.cumsum([0, *(len(block.shape) for block in blocks)])
            own = [grids[a:b] for a, b in pairwise(starts)]
            where = [np.broadcast_to(b.positions(g), shape) for b, g in zip(blocks, own, strict=True)]
            for place, (block, grid) in enumerate(zip(blocks, own, strict=True)):
                others: dict[str, Indices] = {}
                for q, (block2, grid2) in enumerate(zip(blocks, own, strict=True)):
                    if q != place:
                        others.update((s, g) for (s, _, _), g in zip(block2.factors, grid2, strict=True) if s)
                coordinates = self._old_coordinates(block, grid, others)
                old[place][tuple(where)] = np.broadcast_to(block.positions(coordinates), shape)
        return old

    def _consistent(self, dims: list[int], blocks: tuple[Piece, ...]) -> bool:
        """Whether cases are combined with the part of the sum that they belong to."""
        for dim, block in zip(dims, blocks, strict=True):
            axis = self._axes[dim]
            if isinstance(axis, Cases) and blocks[dims.index(axis.dim)].part != block.part:
                return False
        return True

    def _old_coordinates(
        self, block: Piece, grids: tuple[Indices, ...], others: Mapping[str, Indices]
    ) -> tuple[Indices, ...]:
        names = [space for space, _, _ in block.factors]
        old = []
        for (space, _, _), grid in zip(block.factors, grids, strict=True):
            if space is None or space not in self._element:
                old.append(grid)
                continue
            outer = []
            for name in self._within[space]:
                outer.append(grids[names.index(name)] if names.count(name) == 1 else others[name])
            old.append(self._element[space].permutation[(*outer, grid)])
        return tuple(old)


def _gather_both(
    tensor: Tensor,
    rows: Tensor,
    columns: Tensor,
    row_factors: Tensor | None = None,
    column_factors: Tensor | None = None,
) -> Tensor:
    """Gather along the first two dimensions and multiply, some rows at a time, so that they stay in the cache."""
    out = torch.empty_like(tensor)
    inner = math.prod(tensor.shape[2:])
    entries = CACHED if inner == 1 else 8 * CACHED
    step = max(1, entries // max(1, len(columns) * inner))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        piece = out[start : start + step].view(len(some), len(columns), inner)
        if inner == 1:
            picked = tensor.index_select(0, some)
            torch.index_select(picked.view(len(some), -1), 1, columns, out=piece.view(len(some), len(columns)))
        else:
            flat = (some[:, None] * len(columns) + columns).flatten()
            torch.index_select(tensor.view(-1, inner), 0, flat, out=piece.view(-1, inner))
        if row_factors is not None:
            piece.mul_(row_factors[start : start + step, None, None])
        if column_factors is not None:
            piece.mul_(column_factors[:, None])
    return out


def _grids(shape: tuple[int, ...]) -> tuple[Indices, ...]:
    return tuple(np.ogrid[tuple(slice(n) for n in shape)]) if shape else ()


def _blocks(axis: Axis) -> Iterator[Piece]:
    """An axis as disjoint blocks, each a product of units at some stride."""
    match axis:
        case Cases(_, options):
            for number, option in enumerate(options):
                for block in _blocks(option):
                    yield Piece(block.base, block.factors, number)
        case Sum(parts):
            base = 0
            for number, part in enumerate(parts):
                for block in _blocks(part):
                    yield Piece(base + block.base, block.factors, number)
                base += part.size
        case Product(factors):
            strides = [math.prod(f.size for f in factors[i + 1 :]) for i in range(len(factors))]
            for blocks in product(*(list(_blocks(factor)) for factor in factors)):
                base = sum(b.base * stride for b, stride in zip(blocks, strides, strict=True))
                merged = tuple(
                    (space, size, inner * stride)
                    for b, stride in zip(blocks, strides, strict=True)
                    for space, size, inner in b.factors
                )
                yield Piece(base, merged)
        case Units(space, size):
            yield Piece(0, ((space, size, 1),))
        case Fixed(size):
            yield Piece(0, ((None, size, 1),))
