"""Signatures of units: numbers that move with the units and that signs, rotations and phases leave alone."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weyl._memory import tensor_identity
from weyl.groups import GaugeKind
from weyl.orbits import frames
from weyl.structure import Block, Structure, combinations

__all__ = ["block_view", "signatures"]

# Numbers for every unit.
WIDTH = 8
ROUNDS = 3
# Tensors of more entries are read in float32.
LARGE = 1 << 23
FARTHEST = 4.0


def block_view(tensor: Tensor, blocks: Sequence[Block]) -> tuple[Tensor, tuple[str | None, ...]]:
    """One combination of blocks of a tensor as a view with an axis for every factor, and the spaces of the axes."""
    sizes, strides, axes, offset = [], [], [], tensor.storage_offset()
    for block, step in zip(blocks, tensor.stride(), strict=True):
        offset += block.base * step
        for space, size, stride in block.factors:
            sizes.append(size)
            strides.append(stride * step)
            axes.append(space)
    return tensor.as_strided(sizes, strides, offset), tuple(axes)


@dataclass(frozen=True, eq=False)
class _Table:
    """Non-negative entries over units and positions, of mean 1."""

    entries: Tensor
    axes: tuple[str | None, ...]
    weight: float
    places: tuple[Tensor, ...]


def signatures(structure: Structure, state: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "*outer n k"]]:
    """Signatures of all units of a state.

    Squares of entries, summed over what matrices mix, say how strongly units are tied to each other. Numbers of the
    units are refined by them round after round, positions that do not move being told apart by fixed random numbers:
    a colour refinement whose colours are numbers, so that a small change of the state changes them little.

    Parameters
    ----------
    structure : Structure
        Of the model.
    state : mapping of str to tensor
        Whole state with finite entries; scales and linear gauges should be in their normal gauge.

    Returns
    -------
    dict of str to Tensor
        For every space whose units are permuted, shape ``(*outer, n, 8)``, of mean 0 and variance 1 over the units.
        ``signatures(act(g, s))`` are those of s at their new places, up to rounding, for permutations, signs,
        orthogonal matrices and phases g.

    Notes
    -----
    Units that some symmetry exchanges have equal signatures; the converse does not hold (it does not for colour
    refinement, either), so an element that is built from them must be checked.
    """
    mobile = {space.name: space for space in structure.group.spaces if space.permuted}
    mixed = {gauge.space for gauge in structure.gauges if gauge.kind.matrix}
    tables = _tables(structure, state, set(mobile) - mixed)
    some = next(iter(state.values()))
    within = {space.name: space.within for space in structure.group.spaces}
    sizes = {space.name: space.size for space in structure.group.spaces}
    values = {
        name: torch.ones(*(sizes[o] for o in space.within), space.size, WIDTH, dtype=torch.float64, device=some.device)
        for name, space in mobile.items()
    }
    found = {name: torch.zeros_like(value) for name, value in values.items()}
    tilt = torch.linspace(-0.75, 1.0, WIDTH, dtype=torch.float64, device=some.device)
    for _ in range(ROUNDS):
        for name in mobile:
            if name in mixed:
                continue
            message = _message(name, tables, within, values)
            if message is not None:
                found[name] = _standardised(message)
                values[name] = (tilt * found[name].clamp(-FARTHEST, FARTHEST) / 2).exp()
    return found


def _standardised(message: Tensor) -> Tensor:
    flat = message.flatten(0, -2)
    spread = flat.std(0, correction=0)
    clear = spread > 1e-10 * flat.mean(0).abs()
    return torch.where(clear, (message - flat.mean(0)) / spread.where(clear, torch.ones_like(spread)), 0.0)


def _tables(structure: Structure, state: Mapping[str, Tensor], mobile: set[str]) -> list[_Table]:
    tables = []
    outer = {one for space in structure.group.spaces if space.name in mobile for one in space.within}
    seen = set()
    for name, axes in structure.axes.items():
        tensor = state[name]
        identity = (*tensor_identity(tensor), axes)
        cut = list(combinations(axes))
        touched = any(space in mobile for blocks in cut for block in blocks for space, _, _ in block.factors)
        if not touched or identity in seen or not tensor.is_floating_point() or not tensor.numel():
            continue
        seen.add(identity)
        invariant = _invariant(structure, name, tensor)
        for number, blocks in enumerate(cut):
            entries, spaces = block_view(invariant, blocks)
            generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {number}".encode()))
            places = tuple(
                torch.rand(size, WIDTH, generator=generator, dtype=torch.float64).add(0.5).to(tensor.device)
                for size in entries.shape
            )
            weight = 0.5 + float(torch.rand((), generator=generator, dtype=torch.float64))
            known = tuple(space if space in mobile or space in outer else None for space in spaces)
            tables.append(_Table(entries, known, weight, places))
    return tables


def _invariant(structure: Structure, name: str, tensor: Tensor) -> Tensor:
    """Squares of entries, averaged over what is mixed; told apart by sign where no gauge changes signs. Mean 1."""
    work = tensor.detach().to(torch.float32 if tensor.numel() > LARGE else torch.float64).contiguous()
    squares = work.square()
    acting = list(frames(structure, name))
    turning = [frame for frame in acting if frame.gauge.kind.matrix or frame.gauge.kind is GaugeKind.COMPLEX]
    if not any(frame.gauge.kind is GaugeKind.SIGN or frame in turning for frame in acting):
        squares.mul_(work.sign().mul_(0.5).add_(1))
    for frame in turning:
        view = frame.view(squares)
        if frame.gauge.kind is GaugeKind.COMPLEX:
            both = (view + frame.partner(squares)) / 2
            view.copy_(both)
            frame.partner(squares).copy_(both)
        else:
            view.copy_(view.mean(-1, keepdim=True).expand_as(view))
    mean = squares.mean()
    return squares / mean if float(mean) > 0 else squares


def _message(
    name: str, tables: Sequence[_Table], within: Mapping[str, Sequence[str]], values: Mapping[str, Tensor]
) -> Float[Tensor, "*outer n k"] | None:
    """What all tables say of the units of a space."""
    total: Tensor | None = None
    for table in tables:
        for axis, space in enumerate(table.axes):
            if space == name:
                own = _read(table, axis, within, values)
                own = own * (table.weight / own.mean().clamp_min(1e-300))
                total = own if total is None else total + own
    return total


def _read(
    table: _Table, axis: int, within: Mapping[str, Sequence[str]], values: Mapping[str, Tensor]
) -> Float[Tensor, "*outer n k"]:
    """Entries summed over all axes but those of some units, weighted by the values of the other units."""
    axes, shape = table.axes, table.entries.shape
    front = [*_homes(axes, axis, within), axis]
    rest = [at for at in range(len(axes)) if at not in front]
    # Values of units that live in others are multiplied while the axes of those are still there.
    homes = {at: _homes(axes, at, within) for at in rest if within.get(axes[at] or "") and axes[at] in values}
    late = [at for at in rest if at in homes or any(at in own for own in homes.values())]
    weights = torch.ones(1, WIDTH, dtype=torch.float64, device=table.entries.device)
    free = [at for at in rest if at not in late]
    for at in free:
        own = values[str(axes[at])] if axes[at] in values else table.places[at]
        weights = (weights[:, None] * own).reshape(-1, WIDTH)
    order = [*front, *late]
    entries = table.entries.permute(*order, *free).reshape(-1, math.prod(shape[at] for at in free))
    read = (entries @ weights.to(entries.dtype)).double().view(*(shape[at] for at in order), WIDTH)
    for at in late:
        own = values[str(axes[at])] if axes[at] in values else table.places[at]
        places = [order.index(home) for home in (*homes.get(at, ()), at)]
        read = read * _spread(own, places, len(order))
    return read.flatten(len(front), -2).sum(-2) if late else read


def _homes(axes: Sequence[str | None], axis: int, within: Mapping[str, Sequence[str]]) -> list[int]:
    """The axes of the spaces that the space of an axis lives within."""
    outer = within.get(axes[axis] or "", ())
    return [next(at for at, space in enumerate(axes) if space == one and at != axis) for one in outer]


def _spread(values: Tensor, places: Sequence[int], rank: int) -> Tensor:
    """Values with their axes, but the last, at some places among others of length 1."""
    order = sorted(range(len(places)), key=places.__getitem__)
    shape = [1] * rank
    for at, size in zip(places, values.shape, strict=False):
        shape[at] = size
    return values.permute(*order, values.dim() - 1).reshape(*shape, WIDTH)
