"""How many dimensions the continuous part of a group has at a state: the rank of its tangents."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components
from torch import Tensor

from weyl.groups import Gauge, GaugeKind
from weyl.orbits._tables import Atoms, Ints, numbers_on
from weyl.orbits._tangents import tangents
from weyl.orbits._views import Frame, frames
from weyl.structure import Structure, block_positions

__all__ = ["continuous_rank", "idle_units", "shape_of"]

# Entries of a matrix of tangents that is still made.
MOST_ENTRIES = 50_000_000
RANK_TOLERANCE = 1e-9

Floats = NDArray[np.float64]


def continuous_rank(structure: Structure, state: Mapping[str, Tensor], atoms: Atoms) -> tuple[int, bool]:
    """Rank of the tangents at a state, and whether it is known; if not, it is an upper bound.

    Scales alone are counted exactly, by the pattern of zeros. A single gauge of another kind is counted by ranks of
    unfoldings, up to rounding. Gauges that act together on entries are counted by the rank of their tangents, unless
    these would be more than 50 million numbers: then what each has by itself is an upper bound.
    """
    gauges = [gauge for gauge in structure.gauges if gauge.kind.continuous]
    total, known = 0, True
    for family in _families(structure, gauges):
        if all(gauge.kind is GaugeKind.SCALE for gauge in family):
            total += _scale_rank(structure, state, family, atoms)
        elif len(family) == 1:
            total += _single_rank(structure, state, family[0])
        elif _cost(structure, state, family) <= MOST_ENTRIES:
            total += _tangent_rank(structure, state, family)
        else:
            total += sum(_single_rank(structure, state, gauge) for gauge in family)
            known = False
    return (total, True) if known else (min(total, structure.group.dimension), False)


def idle_units(structure: Structure, state: Mapping[str, Tensor], gauge: Gauge) -> NDArray[np.bool_]:
    """Units of a gauge of scales or signs all of whose entries are zero, so that it does nothing to them."""
    total = np.zeros(())
    for frame, tensor in _framed(structure, state, gauge):
        if gauge.kind is GaugeKind.SIGN and frame.weight.exponent % 2 == 0:
            continue
        if tensor.is_floating_point() or tensor.is_complex():
            total = total + frame.summed((frame.view(tensor) != 0).double()).cpu().numpy()
    shape = shape_of(structure, gauge)
    return np.broadcast_to(np.asarray(total == 0), shape)


def shape_of(structure: Structure, gauge: Gauge) -> tuple[int, ...]:
    """Sizes of the outer spaces of a gauge and of its own space; empty without a space."""
    if not gauge.space:
        return ()
    space = structure.space(gauge.space)
    return (*(structure.space(name).size for name in space.within), space.size)


def _framed(structure: Structure, state: Mapping[str, Tensor], gauge: Gauge) -> Iterator[tuple[Frame, Tensor]]:
    """What a gauge sees: frames with tensors, offsets added."""
    for name in structure.weights.get(gauge.name, {}):
        offset = structure.offsets.get(name, 0.0)
        tensor = state[name].detach()
        tensor = (tensor.double() + offset if offset else tensor).contiguous()
        for frame in frames(structure, name):
            if frame.gauge.name == gauge.name:
                yield frame, tensor


def _families(structure: Structure, gauges: list[Gauge]) -> list[list[Gauge]]:
    """Gauges that act on the same entries of a tensor, directly or through others."""
    joined = DisjointSet(range(len(gauges)))
    number = {gauge.name: at for at, gauge in enumerate(gauges)}
    for acting in structure.weights_by_tensor.values():
        for (first, a), (second, b) in itertools.combinations(acting, 2):
            if (
                first.name not in number
                or second.name not in number
                or joined.connected(number[first.name], number[second.name])
            ):
                continue
            blocks, others = dict(a.blocks), dict(b.blocks)
            shared = blocks.keys() & others.keys()
            if all(np.intersect1d(block_positions(blocks[dim]), block_positions(others[dim])).size for dim in shared):
                joined.merge(number[first.name], number[second.name])
    return [[gauges[at] for at in sorted(part)] for part in joined.subsets()]


def _cost(structure: Structure, state: Mapping[str, Tensor], family: list[Gauge]) -> int:
    names = {name for gauge in family for name in structure.weights.get(gauge.name, {})}
    generators = sum(_generators(structure, gauge) for gauge in family)
    return generators * sum(state[name].numel() for name in names)


def _generators(structure: Structure, gauge: Gauge) -> int:
    shape = shape_of(structure, gauge)
    return math.prod(shape[:-1]) * gauge.kind.dimension(shape[-1] if shape else 1)


def _tangent_rank(structure: Structure, state: Mapping[str, Tensor], family: list[Gauge]) -> int:
    """Rank of the tangents themselves, each scaled to length one."""
    chosen = {gauge.name for gauge in family}
    double = {name: t.detach().double() if t.is_floating_point() else t.detach() for name, t in state.items()}
    names = sorted({name for gauge in family for name in structure.weights.get(gauge.name, {})})
    columns = []
    for tangent in tangents(structure, double):
        if tangent.gauge in chosen:
            parts = [tangent.direction.get(name, torch.zeros_like(double[name])).reshape(-1) for name in names]
            column = torch.cat([part.cpu() for part in parts])
            if bool(column.any()):
                columns.append(column / column.norm())
    return _rank(torch.stack(columns)) if columns else 0


def _single_rank(structure: Structure, state: Mapping[str, Tensor], gauge: Gauge) -> int:
    """Rank of the tangents of one gauge on its own, by what its matrices see of every copy."""
    shape = shape_of(structure, gauge)
    size, copies = shape[-1] if shape else 1, math.prod(shape[:-1])
    sides: defaultdict[int, list[Tensor]] = defaultdict(list)
    for frame, tensor in _framed(structure, state, gauge):
        seen = [frame.view(tensor), frame.partner(tensor)] if gauge.kind is GaugeKind.COMPLEX else [frame.view(tensor)]
        side = frame.weight.exponent if gauge.kind is GaugeKind.LINEAR else 1
        sides[side] += [frame.unfolded(view).double().reshape(copies, size, -1) for view in seen]
    if gauge.kind is GaugeKind.TRANSLATION:
        return copies * size if sides else 0
    if gauge.kind in (GaugeKind.COMPLEX, GaugeKind.SCALE):
        live = torch.cat(sides[1], dim=-1).any(dim=-1) if sides else torch.zeros(0)
        return int(live.sum()) * gauge.kind.dimension(1)
    return sum(
        _matrix_rank(gauge.kind, size, {s: [v[at] for v in views] for s, views in sides.items()})
        for at in range(copies)
    )


def _matrix_rank(kind: GaugeKind, size: int, sides: Mapping[int, list[Tensor]]) -> int:
    """Generators of one copy less those that annihilate all that they act on."""
    if kind is GaugeKind.CENTRED:
        sides = {1: [*sides.get(1, ()), torch.ones(size, 1, dtype=torch.float64)]}
    free = [size - (_rank(torch.cat([view.cpu() for view in sides[s]], dim=-1)) if s in sides else 0) for s in (1, -1)]
    if kind is GaugeKind.LINEAR:
        return size * size - free[0] * free[1]
    return kind.dimension(size) - free[0] * (free[0] - 1) // 2


def _rank(matrix: Tensor) -> int:
    values = torch.linalg.svdvals(matrix)
    return int((values > RANK_TOLERANCE * values.max()).sum()) if values.numel() and values.max() > 0 else 0


def _scale_rank(structure: Structure, state: Mapping[str, Tensor], family: list[Gauge], atoms: Atoms) -> int:
    """Rank of *the exponents times the logarithms of an entry's scales sum to zero*, over entries that are not zero."""
    numbers, count = {}, 1
    for gauge in family:
        shape = shape_of(structure, gauge)
        numbers[gauge.name] = np.arange(count, count + math.prod(shape)).reshape(shape)
        count += math.prod(shape)
    singles, ends, powers, further = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.int64)], [np.zeros((0, 2))], []
    for variables, exponents in _equations(structure, state, numbers, atoms):
        order = np.argsort(variables, axis=1)[:, ::-1]
        variables, exponents = np.take_along_axis(variables, order, 1), np.take_along_axis(exponents, order, 1)
        several = (variables > 0).sum(axis=1)
        singles.append(variables[several == 1, 0])
        pair = several == 2
        pair[pair] = variables[pair, 0] != variables[pair, min(1, variables.shape[1] - 1)]
        ends.append(variables[pair][:, :2].reshape(-1, 2))
        powers.append(exponents[pair][:, :2].reshape(-1, 2))
        for row, weights in zip(
            variables[(several > 1) & ~pair].tolist(), exponents[(several > 1) & ~pair].tolist(), strict=True
        ):
            terms: defaultdict[int, int] = defaultdict(int)
            for variable, power in zip(row, weights, strict=True):
                terms[variable] += power if variable else 0
            further.append({variable: power for variable, power in terms.items() if power})
    return _exponent_rank(
        count, np.unique(np.concatenate(singles)), np.concatenate(ends), np.concatenate(powers), further
    )


def _equations(
    structure: Structure, state: Mapping[str, Tensor], numbers: Mapping[str, Ints], atoms: Atoms
) -> Iterator[tuple[Ints, Ints]]:
    """Distinct equations of every tensor: numbers of variables, 0 for none, and exponents."""
    for name, acting in structure.weights_by_tensor.items():
        weights = [(gauge, weight) for gauge, weight in acting if gauge.name in numbers and weight.exponent]
        tensor = state[name].detach()
        if not weights or not tensor.is_floating_point():
            continue
        shape = tuple(tensor.shape)
        grids = [numbers_on(gauge, weight, shape, numbers[gauge.name], atoms) for gauge, weight in weights]
        live = (tensor.double() + structure.offsets.get(name, 0.0)).cpu().numpy() != 0
        for dim in range(live.ndim):
            if not any(grid.strides[dim] for grid in grids):
                live = live.any(axis=dim, keepdims=True)
        grids = [grid[tuple(slice(size) for size in live.shape)][live] for grid in grids]
        variables = np.unique(np.stack(grids, axis=1), axis=0)
        exponents = np.array([weight.exponent for _, weight in weights])
        yield variables, np.broadcast_to(exponents, variables.shape)


def _exponent_rank(count: int, singles: Ints, ends: Ints, powers: Floats, further: list[dict[int, int]]) -> int:
    """Variables, less the parts of the forest of pairs that nothing else pins, plus what longer equations pin."""
    graph = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(count, count)).tocsr()
    parts, part = connected_components(graph, directed=False)
    value = _values(graph, part, ends, powers)
    residual = np.abs(powers[:, 0] * value[ends[:, 0]] + powers[:, 1] * value[ends[:, 1]])
    size = np.abs(powers[:, 0] * value[ends[:, 0]])
    pinned = np.zeros(parts, dtype=bool)
    pinned[part[ends[residual > RANK_TOLERANCE * size, 0]]] = True
    pinned[part[[*singles.tolist(), *(variable for terms in further if len(terms) == 1 for variable in terms), 0]]] = (
        True
    )
    free = np.flatnonzero(~pinned)
    rows = set()
    for terms in further:
        row: defaultdict[int, float] = defaultdict(float)
        for variable, power in terms.items():
            if not pinned[part[variable]]:
                row[int(part[variable])] += power * float(value[variable])
        rows.add(tuple(sorted((at, number) for at, number in row.items() if number)))
    matrix = np.zeros((len(rows), len(free)))
    column = {int(at): place for place, at in enumerate(free)}
    for place, entries in enumerate(rows):
        for at, number in entries:
            matrix[place, column[at]] = number
    return count - 1 - len(free) + (int(np.linalg.matrix_rank(matrix)) if matrix.size else 0)


def _values(graph: csr_array, part: Ints, ends: Ints, powers: Floats) -> Floats:
    """A solution of the pairs along a spanning forest: 1 at the root of every part. Number 0 is in no pair."""
    count = len(part)
    roots = np.unique(part, return_index=True)[1]
    links = coo_array((np.ones(len(roots), np.int8), (np.zeros_like(roots), roots)), shape=graph.shape).tocsr()
    order, before = breadth_first_order(graph + links, 0, directed=False)
    nodes = order[np.isin(order, roots, invert=True)].astype(np.int64)
    parents = before[nodes].astype(np.int64)
    key, where = np.unique(ends.min(axis=1) * count + ends.max(axis=1), return_index=True)
    edge = where[np.searchsorted(key, np.minimum(nodes, parents) * count + np.maximum(nodes, parents))]
    first = ends[edge, 0] == nodes
    ratio = -np.where(first, powers[edge, 1], powers[edge, 0]) / np.where(first, powers[edge, 0], powers[edge, 1])
    value = np.ones(count)
    for node, parent, factor in zip(nodes.tolist(), parents.tolist(), ratio.tolist(), strict=True):
        value[node] = value[parent] * factor
    return value
