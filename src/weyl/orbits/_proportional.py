"""Units that a positive scale, or a sign, makes equal: proportional units."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weyl.groups import Gauge, GaugeKind
from weyl.orbits._continuous import shape_of
from weyl.orbits._tables import Atoms, Ints, Table, numbers_on
from weyl.structure import Structure

__all__ = ["proportional_units"]

Floats = NDArray[np.float64]
# Exponents of the scales, then of the signs, of a unit's space.
Powers = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class _Content:
    """What the units of a space have in entries of the same exponents: directions, and logarithms of lengths."""

    directions: Floats
    lengths: Floats


def proportional_units(
    structure: Structure, arrays: Mapping[str, NDArray[np.generic]], atoms: Atoms, tables: list[Table], tolerance: float
) -> tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]:
    """Groups of units that are equal after scaling, up to a relative tolerance, all other spaces fixed.

    Spaces that other spaces live within, and those that occur twice in a tensor, are left out.
    """
    found = []
    containing = {outer for space in atoms.spaces.values() for outer in space.within}
    for name, space in atoms.spaces.items():
        gauges = [g for g in structure.gauges if g.space == name and g.kind in (GaugeKind.SCALE, GaugeKind.SIGN)]
        if not space.permuted or name in containing or not any(g.kind is GaugeKind.SCALE for g in gauges):
            continue
        contents = _contents(structure, arrays, atoms, tables, name, gauges)
        for copy in np.ndindex(*shape_of(structure, gauges[0])[:-1]):
            numbers = atoms.units[name][copy] - int(atoms.units[name].reshape(-1)[0])
            for units in _classes(contents, numbers, tolerance):
                found.append((name, copy, units))
    return tuple(found)


def _contents(
    structure: Structure,
    arrays: Mapping[str, NDArray[np.generic]],
    atoms: Atoms,
    tables: list[Table],
    name: str,
    gauges: list[Gauge],
) -> dict[Powers, _Content]:
    """By exponents, what every unit of a space has; empty if the space occurs twice in a tensor."""
    columns: defaultdict[Powers, list[Floats]] = defaultdict(list)
    first = int(atoms.units[name].reshape(-1)[0])
    for table in tables:
        places = [at for at, (_, space) in enumerate(table.spaces) if space == name]
        if not places:
            continue
        if len(places) > 1:
            return {}
        units = np.broadcast_to(table.units[places[0]], table.shape).reshape(-1) - first
        order = np.argsort(units, kind="stable")
        rows = table.rows(arrays[table.name]).astype(np.float64) + structure.offsets.get(table.name, 0.0)
        rows = rows.reshape(len(units), -1)[order].reshape(atoms.units[name].size, -1, rows.shape[-1])
        powers = _powers(structure, atoms, table, name, gauges)[order].reshape(rows.shape[0], rows.shape[1], -1)[0]
        for power in np.unique(powers, axis=0):
            scales = tuple(int(p) for p, g in zip(power, gauges, strict=True) if g.kind is GaugeKind.SCALE)
            signs = tuple(int(p) % 2 for p, g in zip(power, gauges, strict=True) if g.kind is GaugeKind.SIGN)
            chosen = rows[:, (powers == power).all(axis=1)]
            columns[scales, signs].append(chosen.reshape(len(rows), -1))
    return {power: _normalised(np.concatenate(parts, axis=1)) for power, parts in columns.items()}


def _powers(structure: Structure, atoms: Atoms, table: Table, name: str, gauges: list[Gauge]) -> Ints:
    """The exponent of every gauge of a space on every row of a table, shape (rows, gauges)."""
    axes = structure.axes[table.name]
    shape = tuple(axis.size for axis in axes)
    powers = np.zeros((*table.shape, len(gauges)), dtype=np.int64)
    for gauge, weight in structure.weights_by_tensor.get(table.name, ()):
        if gauge not in gauges:
            continue
        numbers = numbers_on(gauge, weight, shape, atoms.units[name] + 1, atoms)
        powers[..., gauges.index(gauge)] += weight.exponent * (table.rows(np.ascontiguousarray(numbers))[..., 0] > 0)
    return powers.reshape(-1, len(gauges))


def _normalised(rows: Floats) -> _Content:
    scale = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    safe = np.where(scale > 0, scale, 1.0)
    lengths = np.linalg.norm(rows / safe, axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        logarithms = np.log(lengths[:, 0]) + np.log(safe[:, 0])
    return _Content(rows / safe / np.where(lengths > 0, lengths, 1.0), logarithms)


def _classes(contents: Mapping[Powers, _Content], numbers: Ints, tolerance: float) -> list[tuple[int, ...]]:
    """Classes of proportional units of one copy, of several units each; candidates are close in a projection."""
    if not contents:
        return []
    rng = np.random.default_rng(0)
    projection, width = np.zeros(len(numbers)), 0.0
    for content in contents.values():
        noise = rng.standard_normal(content.directions.shape[1])
        projection += np.abs(content.directions[numbers] @ noise)
        width += tolerance * float(np.linalg.norm(noise))
    order = np.argsort(projection)
    runs = np.split(order, np.flatnonzero(np.diff(projection[order]) > width) + 1)
    found = []
    for run in runs:
        classes: list[list[int]] = []
        for unit in sorted(run.tolist()):
            mates = (c for c in classes if _proportional(contents, int(numbers[c[0]]), int(numbers[unit]), tolerance))
            home = next(mates, None)
            if home is None:
                classes.append([unit])
            else:
                home.append(unit)
        found += [tuple(units) for units in classes if len(units) > 1]
    return sorted(found)


def _proportional(contents: Mapping[Powers, _Content], a: int, b: int, tolerance: float) -> bool:
    """Whether scales and signs make two units equal."""
    exponents, ratios, sides = [], [], []
    for (scales, signs), content in contents.items():
        one, other = content.directions[a], content.directions[b]
        if not one.any() and not other.any():
            continue
        side = 1 if float(one @ other) >= 0 else -1
        if np.linalg.norm(one - side * other) > tolerance:
            return False
        exponents.append(scales)
        ratios.append(content.lengths[a] - content.lengths[b])
        sides.append((signs, side))
    if not exponents:
        return True
    matrix, wanted = np.array(exponents, dtype=np.float64), np.array(ratios)
    solution = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
    if np.abs(matrix @ solution - wanted).max() > tolerance * max(1.0, float(np.abs(wanted).max())):
        return False
    return any(
        all(np.prod([f for f, p in zip(flips, signs, strict=True) if p], initial=1) == side for signs, side in sides)
        for flips in itertools.product((1, -1), repeat=len(sides[0][0]))
    )
