"""Permutations that leave a state as it is: colour refinement, individualisation, and exact checks."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet

from weyl.actions import act
from weyl.groups import Element, Part
from weyl.orbits._signs import Signs
from weyl.orbits._tables import Atoms, Ints, Table
from weyl.structure import Structure

__all__ = ["Search"]

Colours = NDArray[np.uint64]
Arrays = Mapping[str, NDArray[Any]]

# Rows of a table that are hashed at a time, in entries.
CHUNK = 1 << 21
# Cells of at most so many units are cut into twins pair by pair.
PAIRWISE = 24


class Exhausted(Exception):
    """More refinements than the budget."""


class Search:
    """The permutations in the stabiliser of a state, up to signs.

    Parameters
    ----------
    structure : Structure
        Of the model.
    arrays : mapping of str to array
        The state; float64 or int64, contiguous, without NaN.
    atoms : Atoms
        Numbers of units and signs.
    tables : list of Table
        Of the arrays.
    signs : Signs
        Equations for the signs.
    budget : int
        Refinements and checks before the search gives up.

    Attributes
    ----------
    order : int
        Number of permutations; a divisor of it if not ``exact``.
    twins : list of (str, tuple of int, tuple of int)
        Space, copy and units that may trade places among themselves, all else fixed.
    exact : bool
        Whether the search came to its end.
    """

    def __init__(
        self,
        structure: Structure,
        arrays: Arrays,
        atoms: Atoms,
        tables: list[Table],
        signs: Signs,
        budget: int,
    ) -> None:
        self._structure, self._arrays, self._atoms = structure, arrays, atoms
        self._tables, self._signs, self._left = tables, signs, budget
        self._state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self._hashes = [_hashes(table, arrays[table.name], at) for at, table in enumerate(tables)]
        self._moving = np.concatenate(
            [
                np.zeros(0, np.int64),
                *(atoms.units[name].reshape(-1) for name, space in atoms.spaces.items() if space.permuted),
            ]
        )
        self.order, self.exact = 1, True
        self.twins: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
        self._generators: list[Ints] = []
        try:
            self._run()
        except Exhausted:
            self.exact = False

    def _run(self) -> None:
        colours = self._refine(self._start())
        if self._discrete(colours):
            return
        ranks = self._find_twins(colours)
        if self.twins:
            colours = self._refine(_mix(colours * _odd(1) + ranks))
        path: list[tuple[Ints, Colours]] = []
        try:
            trail = [colours]
            while not self._discrete(trail[-1]):
                cell = self._target(trail[-1])
                path.append((cell, trail[-1]))
                trail.append(self._refine(self._single(trail[-1], int(cell[0]))))
        except Exhausted:
            self.exact = False
            return
        for level in reversed(range(len(path))):
            self.order *= self._orbit(level, path, trail)

    def _orbit(self, level: int, path: list[tuple[Ints, Colours]], trail: list[Colours]) -> int:
        """Size of the orbit of the first unit of a cell under what fixes the units chosen before."""
        cell = path[level][0].tolist()
        orbits = DisjointSet(range(self._atoms.count))
        for generator in self._generators:
            _merge(orbits, generator)
        failed: list[int] = []
        for unit in cell[1:]:
            if not self.exact:
                return int(orbits.subset_size(cell[0]))
            if orbits.connected(unit, cell[0]) or any(orbits.connected(unit, other) for other in failed):
                continue
            try:
                found = self._extend(level, unit, path[level][1], path, trail)
            except Exhausted:
                self.exact = False
            else:
                if found is None:
                    failed.append(unit)
                else:
                    self._generators.append(found)
                    _merge(orbits, found)
        return int(orbits.subset_size(cell[0]))

    def _extend(
        self, level: int, unit: int, colours: Colours, path: list[tuple[Ints, Colours]], trail: list[Colours]
    ) -> Ints | None:
        """A permutation that follows the path with another unit at a level, or None."""
        colours = self._refine(self._single(colours, unit))
        moving = self._moving
        mine, known = np.argsort(colours[moving]), np.argsort(trail[level + 1][moving])
        if not np.array_equal(colours[moving][mine], trail[level + 1][moving][known]):
            return None
        if level + 1 == len(path):
            image = np.arange(self._atoms.count)
            image[moving[known]] = moving[mine]
            return image if self._stabilises(image) else None
        cell, before = path[level + 1]
        for other in moving[colours[moving] == before[cell[0]]].tolist():
            found = self._extend(level + 1, other, colours, path, trail)
            if found is not None:
                return found
        return None

    def _target(self, colours: Colours) -> Ints:
        """The smallest cell of several units; the one of least colour among them."""
        _, inverse, counts = np.unique(colours[self._moving], return_inverse=True, return_counts=True)
        size = counts[counts > 1].min()
        return self._moving[inverse == np.flatnonzero(counts == size)[0]]

    def _discrete(self, colours: Colours) -> bool:
        return len(np.unique(colours[self._moving])) == len(self._moving)

    def _single(self, colours: Colours, unit: int) -> Colours:
        changed = colours.copy()
        changed[unit] = _mix(changed[unit : unit + 1] + _odd(2))[0]
        return changed

    def _spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Exhausted

    def _start(self) -> Colours:
        """A colour for every space and sign gauge, and for every unit of spaces that are not permuted."""
        atoms = self._atoms
        colours = np.zeros(atoms.count + 2 * atoms.sign_count, dtype=np.uint64)
        for at, (name, space) in enumerate(atoms.spaces.items()):
            own = np.arange(space.size, dtype=np.uint64) * np.uint64(not space.permuted)
            colours[atoms.units[name]] = _mix(own * _odd(3) + _odd(100 + at))
        for at, numbers in enumerate(atoms.signs.values()):
            for side in range(2):
                colours[atoms.count + 2 * numbers + side] = _odd(10_000 + at)
        colours[atoms.count : atoms.count + 2] = _odd(4), _odd(5)
        return colours

    def _refine(self, colours: Colours) -> Colours:
        """Split colours by what units are connected to, until nothing splits."""
        self._spend()
        classes = len(np.unique(colours))
        while True:
            colours = self._round(colours)
            if self._discrete(colours):
                return colours
            now = len(np.unique(colours))
            if now == classes:
                return colours
            classes = now

    def _round(self, colours: Colours) -> Colours:
        with np.errstate(over="ignore"):
            return self._heard(colours)

    def _heard(self, colours: Colours) -> Colours:
        """One round: every unit and sign hears all rows that it belongs to."""
        heard = np.zeros_like(colours)
        atoms = self._atoms
        for table, hashes in zip(self._tables, self._hashes, strict=True):
            units = [_mix(colours[numbers] + _odd(20 + at)) for at, numbers in enumerate(table.units)]
            for sides in itertools.product((0, 1), repeat=len(table.signs)):
                ends = [atoms.count + 2 * sign + side for sign, side in zip(table.signs, sides, strict=True)]
                signs = [_mix(colours[end] + _odd(50 + at)) for at, end in enumerate(ends)]
                token = hashes[sum(sides) % 2]
                for part in (*units, *signs):
                    token = token + part
                token = _mix(np.broadcast_to(token, table.shape))
                for at, numbers in enumerate(table.units):
                    _hear(heard, numbers, token * _odd(20 + at))
                for at, end in enumerate(ends):
                    _hear(heard, end, token * _odd(50 + at))
        self._hear_kin(heard, colours)
        return _mix(colours * _odd(6) + heard)

    def _hear_kin(self, heard: Colours, colours: Colours) -> None:
        """Units hear the units that they live within, and the other way round; likewise signs and their units."""
        atoms = self._atoms
        for name, space in atoms.spaces.items():
            for at, outer in enumerate(space.within):
                kin = self._outer(space.within, at, outer)[..., None]
                _hear(heard, atoms.units[name], np.broadcast_to(_mix(colours[kin] + _odd(7)), atoms.shapes[name]))
                _hear(heard, np.broadcast_to(kin, atoms.shapes[name]), _mix(colours[atoms.units[name]] + _odd(8)))
        for name, gauge in atoms.gauges.items():
            if gauge.space:
                for side in range(2):
                    ends, units = atoms.count + 2 * atoms.signs[name] + side, atoms.units[gauge.space]
                    _hear(heard, ends, _mix(colours[units] + _odd(9)))
                    _hear(heard, units, _mix(colours[ends] + _odd(10)))

    def _outer(self, within: tuple[str, ...], at: int, outer: str) -> Ints:
        """Numbers of the units of an outer space, for every copy of a space within it."""
        sizes = [self._atoms.spaces[name].size for name in within]
        grid = np.indices(sizes)
        further = self._atoms.spaces[outer].within
        return np.asarray(self._atoms.units[outer][(*(grid[within.index(name)] for name in further), grid[at])])

    def _find_twins(self, colours: Colours) -> Colours:
        """Record twins; returns ranks among them, by which they are told apart."""
        ranks = np.zeros_like(colours)
        containing = {outer for space in self._atoms.spaces.values() for outer in space.within}
        for name, space in self._atoms.spaces.items():
            if not space.permuted or name in containing:
                continue
            for copy in np.ndindex(*self._atoms.shapes[name][:-1]):
                units = self._atoms.units[name][copy]
                cells = defaultdict(list)
                for unit, colour in zip(units.tolist(), colours[units].tolist(), strict=True):
                    cells[colour].append(unit)
                for cell in cells.values():
                    for twins in self._classes(cell):
                        ranks[twins] = np.arange(len(twins), dtype=np.uint64) + np.uint64(1)
                        self.order *= math.factorial(len(twins))
                        self.twins.append((name, copy, tuple(unit - int(units[0]) for unit in twins)))
        return ranks

    def _classes(self, cell: list[int]) -> list[list[int]]:
        """The twins among units of one colour: those of which any two may trade places alone."""
        if len(cell) < 2:
            return []
        if self._swaps(cell[:2]) and (len(cell) == 2 or self._swaps(cell)):
            return [cell]
        if len(cell) > PAIRWISE:
            return []
        classes: list[list[int]] = []
        for unit in cell:
            home = next((twins for twins in classes if self._swaps([twins[0], unit])), None)
            if home is None:
                classes.append([unit])
            else:
                home.append(unit)
        return [twins for twins in classes if len(twins) > 1]

    def _swaps(self, cycle: list[int]) -> bool:
        """Whether units may each take the place of the next, all others fixed."""
        self._spend()
        image = np.arange(self._atoms.count)
        image[cycle] = np.roll(cycle, -1)
        return self._stabilises(image)

    def _stabilises(self, image: Ints) -> bool:
        """Whether a permutation of units, with some signs, leaves the state as it is: exactly."""
        element = self._element(image)
        if element is None:
            return False
        moved = act(element, self._structure, self._state)
        changed = {}
        for at, table in enumerate(self._tables):
            if moved[table.name] is self._state[table.name]:
                continue
            old, new = table.rows(self._arrays[table.name]), table.rows(moved[table.name].contiguous().numpy())
            same = (old == new).all(axis=-1)
            if table.signs:
                if not (same | (old == -new).all(axis=-1)).all():
                    return False
                changed[at] = ~same
            elif not same.all():
                return False
        return self._signs.solvable(changed)

    def _element(self, image: Ints) -> Element | None:
        """The element of the group that moves units so; None if units would leave those that they live within."""
        parts = {}
        for name, space in self._atoms.spaces.items():
            numbers = self._atoms.units[name]
            first = int(numbers.reshape(-1)[0])
            moved = np.unravel_index(image[numbers] - first, numbers.shape)
            for at, outer in enumerate(space.within):
                kin = self._outer(space.within, at, outer)
                target = self._outer(space.within, at, outer)[tuple(moved[:-1])]
                if not (target == image[kin][..., None]).all():
                    return None
            if space.permuted:
                parts[name] = Part(np.asarray(moved[-1], dtype=np.int64))
        return Element(self._structure.group.spaces, parts)


def _merge(orbits: DisjointSet, generator: Ints) -> None:
    for unit in np.flatnonzero(generator != np.arange(len(generator))).tolist():
        orbits.merge(unit, int(generator[unit]))


def _hear(heard: Colours, numbers: Ints, token: Colours) -> None:
    """Add tokens, summed over the axes that the numbers do not depend on."""
    lead = token.ndim - numbers.ndim
    axes = tuple(at for at in range(token.ndim) if at < lead or numbers.shape[at - lead] < token.shape[at])
    total = token.sum(axis=axes, dtype=np.uint64, keepdims=True)
    np.add.at(heard, numbers.reshape(-1), np.broadcast_to(total, (1,) * lead + numbers.shape).reshape(-1))


def _odd(number: int) -> np.uint64:
    """One of many odd constants."""
    return np.uint64(_mix(np.array([number + 1], dtype=np.uint64))[0] | np.uint64(1))


def _mix(values: Colours) -> Colours:
    """A bijection of 64-bit words that looks random: the finaliser of splitmix64."""
    with np.errstate(over="ignore"):
        values = np.asarray(values, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def _hashes(table: Table, array: NDArray[np.generic], salt: int) -> tuple[Colours, Colours]:
    """Hashes of the rows of a table and of their negatives, positions that do not move told apart."""
    rows = table.rows(array)
    positions = np.zeros((1,) * len(table.shape), dtype=np.uint64)
    still = set(range(len(table.shape))) - {axis for axis, _ in table.spaces}
    for axis in still:
        shape = [1] * len(table.shape)
        shape[axis] = -1
        positions = _mix(positions + np.arange(table.shape[axis], dtype=np.uint64).reshape(shape) + _odd(axis))
    both = []
    for factor in (1, -1) if table.signs else (1,):
        both.append(_hash(rows, factor, salt).reshape(table.shape) + positions)
    return both[0], both[-1]


def _hash(rows: NDArray[Any], factor: int, salt: int) -> Colours:
    """Sums of mixed words over the last axis, some rows at a time."""
    flat = rows.reshape(-1, rows.shape[-1])
    out = np.empty(len(flat), dtype=np.uint64)
    words = flat.shape[1] * flat.itemsize // 8
    where = _mix(np.arange(words, dtype=np.uint64) + _odd(salt + 1000))
    step = max(1, CHUNK // max(1, flat.shape[1]))
    for start in range(0, len(flat), step):
        some = flat[start : start + step] * factor
        some = np.ascontiguousarray(some + (0 if some.dtype.kind == "i" else 0.0))
        out[start : start + step] = _mix(some.view(np.uint64) ^ where).sum(axis=-1, dtype=np.uint64)
    return _mix(out + _odd(salt))
