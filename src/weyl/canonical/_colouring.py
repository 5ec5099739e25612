"""What tells units apart: classes of units and signs, refined by the rows of the tensors they stand in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from weyl.canonical._sights import Ints, Rows, Sight
from weyl.orbits import Atoms

__all__ = ["Board", "Colouring", "leading", "ranked"]

Signs = NDArray[np.int8]
Bools = NDArray[np.bool_]

# Entries of a row that are read first, and next; they nearly always decide. 0 for all of them.
FIRST = 4
BUDGETS = (FIRST, 64, 0)


@dataclass(frozen=True, eq=False)
class Board:
    """What does not change while units are told apart.

    Parameters
    ----------
    atoms : Atoms
        Numbers of units and signs.
    sights : sequence of Sight
        Of all tensors.
    read : callable
        Gives a tensor by name.
    tolerances : mapping of str to float
        By tensor, differences that are none; empty where entries are compared bit for bit.
    """

    atoms: Atoms
    sights: Sequence[Sight]
    read: Callable[[str], Tensor]
    tolerances: Mapping[str, float]

    @cached_property
    def space_places(self) -> dict[str, list[tuple[int, int]]]:
        """By space, the sights and axes in which it occurs."""
        found: dict[str, list[tuple[int, int]]] = {name: [] for name in self.atoms.spaces}
        for number, sight in enumerate(self.sights):
            for axis, space in sight.spaces.items():
                found[space].append((number, axis))
        return found

    @cached_property
    def sign_places(self) -> dict[str, list[tuple[int, tuple[int, ...]]]]:
        """By gauge, the sights in which its signs stand, and the axes along which they vary."""
        starts = {name: int(numbers.reshape(-1)[0]) for name, numbers in self.atoms.signs.items()}
        found: dict[str, list[tuple[int, tuple[int, ...]]]] = {name: [] for name in starts}
        for number, sight in enumerate(self.sights):
            for signs in sight.signs:
                # All of one array belong to one gauge, but for zeros where it does not act.
                largest = int(signs.max(initial=0))
                name = max((name for name in starts if starts[name] <= largest), key=starts.__getitem__, default="")
                if name:
                    found[name].append((number, tuple(sorted(sight.reach(signs)))))
        return found


class Colouring:
    """Ordered classes of units, and the signs that are known.

    Every step depends on contents and on classes alone, never on the numbering of units, so that two states of one
    orbit are coloured alike. Rows are read from tensors whose other axes are settled before all others, a few entries
    of each first: a unit and its negative are one, and the sign that makes the first entry positive is its sign.

    Attributes
    ----------
    classes : int64 array
        Class of every unit; comparable within a space.
    signs : int8 array
        +1 or -1 for the signs that are known, else 0; the first stands for no sign.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        atoms = board.atoms
        self.classes: Ints = np.zeros(atoms.count, dtype=np.int64)
        self.signs: Signs = np.zeros(atoms.sign_count, dtype=np.int8)
        self.signs[0] = 1
        for name, space in atoms.spaces.items():
            if not space.permuted:
                self.classes[atoms.units[name]] = np.arange(space.size)
        self._versions = dict.fromkeys(atoms.spaces, 0)
        self._sign_version = 0
        self._heard: set[object] = set()
        self._settled: dict[str, tuple[int, bool]] = {}

    def copy(self) -> Colouring:
        """An independent copy."""
        twin = object.__new__(Colouring)
        twin._board = self._board
        twin.classes, twin.signs = self.classes.copy(), self.signs.copy()
        twin._versions, twin._sign_version = dict(self._versions), self._sign_version
        twin._heard, twin._settled = set(self._heard), dict(self._settled)
        return twin

    def tied(self, space: str) -> Bools:
        """Units that share their class with another of their copy, shape ``(*outer, n)``."""
        classes = self.classes[self._board.atoms.units[space]]
        order = np.sort(classes, axis=-1)
        if (order[..., 1:] != order[..., :-1]).all():
            return np.zeros(classes.shape, dtype=bool)
        copies = np.arange(classes.size).reshape(classes.shape) // classes.shape[-1]
        _, inverse, counts = np.unique(
            copies * (int(classes.max()) + 1) + classes, return_inverse=True, return_counts=True
        )
        return np.asarray((counts[inverse] > 1).reshape(classes.shape))

    def settled(self, space: str) -> bool:
        """Whether the units of every copy are told apart."""
        version, known = self._settled.get(space, (-1, False))
        if version != self._versions[space]:
            known = not bool(self.tied(space).any())
            self._settled[space] = (self._versions[space], known)
        return known

    @property
    def unsettled(self) -> list[str]:
        """Spaces with units that are not told apart."""
        return [name for name in self._board.atoms.spaces if not self.settled(name)]

    def split(self, space: str, ranks: Ints, rows: Ints | None = None) -> bool:
        """Order units of one class by ranks; whether that told any apart. Units left out come first."""
        numbers = self._board.atoms.units[space].reshape(-1)
        whole = np.zeros(len(numbers), dtype=np.int64)
        if rows is None:
            whole[:] = ranks.reshape(-1)
        else:
            whole[rows - numbers[0]] = ranks + 1
        before = self.classes[numbers]
        after = _dense(before * (int(whole.max(initial=0)) + 1) + whole)
        # Classes of a space are numbered from 0 without gaps.
        changed = bool(after.max(initial=0) > before.max(initial=0))
        if changed:
            self.classes[numbers] = after
            self._versions[space] += 1
        return changed

    def refine(self) -> None:
        """Tell units apart until nothing more can be."""
        while self._tight() or self._loose() or self._kin():
            pass

    def _kin(self) -> bool:
        """Tell inner units apart by the outer ones that they live within, and outer ones by what lives within them."""
        atoms = self._board.atoms
        progress = False
        for inner, space in atoms.spaces.items():
            for at, outer in enumerate(space.within):
                if self.settled(inner) and self.settled(outer):
                    continue
                grid = np.indices([atoms.spaces[name].size for name in space.within])
                further = atoms.spaces[outer].within
                home = atoms.units[outer][(*(grid[space.within.index(name)] for name in further), grid[at])]
                home = np.broadcast_to(home[..., None], atoms.shapes[inner])
                if not self.settled(inner):
                    progress |= self.split(inner, self.classes[home])
                if not self.settled(outer):
                    classes = self.classes[atoms.units[inner]].reshape(-1)
                    order = np.lexsort((classes, home.reshape(-1)))
                    held = classes[order].reshape(atoms.units[outer].size, -1)
                    progress |= self.split(outer, np.unique(held, axis=0, return_inverse=True)[1])
        return progress

    def _tight(self) -> bool:
        """Read rows whose other axes are all settled, a few entries first; whether that told something apart."""
        for budget in BUDGETS:
            progress = False
            for space in self.unsettled:
                progress |= self._settle(space, budget)
            for name, numbers in self._board.atoms.signs.items():
                progress |= self._sign(numbers, self._board.sign_places[name], budget)
            if progress:
                return True
        return False

    def _settle(self, space: str, budget: int) -> bool:
        progress = False
        for number, axis in self._board.space_places[space]:
            if self.settled(space):
                break
            sight = self._board.sights[number]
            if not self._open(sight, sight.front(axis)):
                progress |= self._hear(number, sight.front(axis), space, frozenset(), budget)
        return progress

    def _sign(self, numbers: Ints, places: Sequence[tuple[int, tuple[int, ...]]], budget: int) -> bool:
        progress = False
        for number, front in places:
            if self.signs[numbers].all():
                break
            if not self._open(self._board.sights[number], front):
                progress |= self._hear(number, front, None, frozenset(), budget)
        return progress

    def _loose(self) -> bool:
        """Read rows as multisets where other axes are not settled, the smallest tensor first; stop at a success."""
        sights = self._board.sights
        for number in sorted(range(len(sights)), key=lambda at: (sights[at].entries, at)):
            sight = sights[number]
            for axis, space in sight.spaces.items():
                front = sight.front(axis)
                if not self.settled(space) and self._hear(number, front, space, self._open(sight, front), 0):
                    return True
            for signs in sight.signs:
                front = tuple(sorted(sight.reach(signs)))
                if (self.signs[signs] == 0).any() and self._hear(number, front, None, self._open(sight, front), 0):
                    return True
        return False

    def _open(self, sight: Sight, front: Sequence[int]) -> frozenset[int]:
        """Axes of units, beside those in front, that are not told apart."""
        return frozenset(axis for axis, space in sight.spaces.items() if axis not in front and not self.settled(space))

    def _hear(self, number: int, front: tuple[int, ...], space: str | None, loose: frozenset[int], budget: int) -> bool:
        """Read the rows of units that are tied, or of signs that are not known; whether that changed anything."""
        sight = self._board.sights[number]
        stamp = tuple(self._versions[name] for axis, name in sight.spaces.items() if axis not in front)
        once = (number, front, space, loose, budget, stamp, self._sign_version if sight.signs else 0)
        if once in self._heard:
            return False
        self._heard.add(once)
        grid = sight.grid(front)
        atoms = self._board.atoms
        targets: Ints | None = None
        if space is not None:
            axis = next(axis for axis in front if sight.spaces.get(axis) == space and sight.front(axis) == front)
            targets = sight.at(sight.units[axis], grid).reshape(-1)
            wanted = self.tied(space).reshape(-1)[targets - int(atoms.units[space].reshape(-1)[0])]
        else:
            wanted = np.zeros(len(next(iter(grid.values()))) if grid else 1, dtype=bool)
            for signs in sight.signs:
                if sight.reach(signs) == set(front):
                    wanted |= (self.signs[sight.at(signs, grid)] == 0).reshape(-1)
        if not wanted.any():
            return False
        chosen = {axis: index[wanted] for axis, index in grid.items()}
        found = sight.rows(self._board.read(sight.name), chosen, self.classes, self.signs, loose, budget)
        tolerance = self._board.tolerances.get(sight.name, 0.0)
        lead, values = leading(found, tolerance)
        progress = self._learn(sight, front, chosen, found.odd, lead)
        if targets is not None and space is not None:
            rows = targets[wanted]
            progress |= self.split(space, ranked(self.classes[rows], values, tolerance), rows)
        return progress

    def _learn(
        self, sight: Sight, front: tuple[int, ...], rows: Mapping[int, Ints], odd: Bools, lead: NDArray[Any]
    ) -> bool:
        """Signs of rows that have exactly one that is not known, one of their own."""
        if not odd.any() or not lead.any():
            return False
        unknown = np.zeros(len(odd), dtype=np.int64)
        owner = np.zeros(len(odd), dtype=np.int64)
        for signs in sight.signs:
            reach = sight.reach(signs)
            if reach <= set(front):
                numbers = np.broadcast_to(sight.at(signs, rows), odd.shape)
                missing = self.signs[numbers] == 0
                # A sign that several rows share is not for one of them to choose.
                unknown += np.where(missing, 1 if reach == set(front) else 2, 0)
                owner = np.where(missing, numbers, owner)
        known = (unknown == 1) & (lead != 0)
        self.signs[owner[known]] = lead[known].astype(np.int8)
        self._sign_version += bool(known.any())
        return bool(known.any())


def leading(rows: Rows, tolerance: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """For rows known up to sign, the sign that makes them greatest, 0 where both are the same; and the rows so."""
    if rows.keys is None:
        values = rows.values
        if not rows.odd.any():
            return np.zeros(len(values), dtype=np.int8), values
        clear = np.abs(values) > tolerance
        if rows.masked is not None:
            clear &= ~rows.masked
        first = clear.argmax(axis=1)
        lead = np.sign(values[np.arange(len(values)), first]) * clear.any(axis=1) * rows.odd
        turned = np.where(lead == 0, 1, lead).astype(values.dtype)[:, None]
        return lead, np.where(rows.masked, values, values * turned) if rows.masked is not None else values * turned
    plus = _gathered(rows.values, rows.keys, rows.masked)
    if not rows.odd.any():
        return np.zeros(len(plus), dtype=np.int8), plus
    negative = -rows.values if rows.masked is None else np.where(rows.masked, rows.values, -rows.values)
    minus = _gathered(negative, rows.keys, rows.masked)
    clear = np.abs(plus - minus) > tolerance
    first = clear.argmax(axis=1)
    every = np.arange(len(plus))
    lead = np.sign(plus[every, first] - minus[every, first]) * clear.any(axis=1) * rows.odd
    return lead, np.where((lead < 0)[:, None], minus, plus)


def _gathered(values: NDArray[Any], keys: Ints, masked: Bools | None) -> NDArray[Any]:
    """Rows sorted by keys and, within those, by values: what is behind a mask stays apart."""
    keys = 2 * keys + (masked if masked is not None else 0)
    row = np.broadcast_to(np.arange(len(values))[:, None], values.shape)
    order = np.lexsort((values.ravel(), keys.ravel(), row.ravel()))
    return values.ravel()[order].reshape(values.shape)


def _dense(numbers: Ints) -> Ints:
    """Numbers in the same order, from 0 and without gaps."""
    if not len(numbers) or (numbers == numbers[0]).all():
        return np.zeros(len(numbers), dtype=np.int64)
    return np.unique(numbers, return_inverse=True)[1].reshape(-1).astype(np.int64)


def ranked(classes: Ints, values: NDArray[Any], tolerance: float) -> Ints:
    """Ranks of rows by class and then entry by entry; rows that differ by no more than the tolerance share one."""
    ranks = _dense(classes)
    count = int(ranks.max(initial=-1)) + 1
    for column in values.T:
        if count == len(ranks):
            break
        order = np.lexsort((column, ranks)) if count > 1 else np.argsort(column)
        steps = (np.diff(ranks[order]) != 0) | (np.diff(column[order]) > tolerance)
        ranks[order] = np.concatenate([[0], np.cumsum(steps)])
        count = int(steps.sum()) + 1
    return ranks
