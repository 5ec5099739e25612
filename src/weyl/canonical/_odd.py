"""Signs that rows alone do not decide: linear equations over two elements, solved in an order without labels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from weyl.canonical._colouring import FIRST, Board, Colouring
from weyl.canonical._sights import Ints, Sight

__all__ = ["idle_signs", "settle_signs"]

# Numbers of signs, and whether their product is to be -1.
Equation = tuple[tuple[int, ...], bool]


def settle_signs(board: Board, colouring: Colouring) -> int:
    """Give every sign a value, such that entries are positive as far as that can be, the first ones first.

    Parameters
    ----------
    board : Board
        What is coloured.
    colouring : Colouring
        With all units told apart; its signs are completed.

    Returns
    -------
    int
        Dimension over two elements of the signs that change nothing.
    """
    missing = np.flatnonzero(colouring.signs == 0)
    if not len(missing):
        return 0
    forest = _Forest(len(colouring.signs))
    longer: list[Equation] = []
    for sight in board.sights:
        tolerance = board.tolerances.get(sight.name, 0.0)
        for signs, odd in _equations(board, colouring, sight, tolerance):
            if len(signs) > 2:
                longer.append((signs, odd))
            else:
                forest.join((*signs, 0)[0], (*signs, 0)[1], odd=odd)
    solution, freedom = forest.solved(missing.tolist(), longer)
    colouring.signs[missing] = np.where(solution, -1, 1)
    return freedom


def idle_signs(board: Board) -> int:
    """Dimension over two elements of the signs that change no state at all.

    One equation for every entry, all of them not zero. Those in which one array of signs is gone through, all else at
    its first place, span the others.
    """
    count = board.atoms.sign_count
    forest = _Forest(count)
    longer: dict[tuple[int, ...], None] = {}
    for sight in board.sights:
        for signs in sight.signs:
            grid = sight.grid(sorted(sight.reach(signs)))
            where = {axis: grid.get(axis, np.zeros(1, dtype=np.int64)) for axis in range(sight.depth)}
            rows = np.broadcast_arrays(*(np.atleast_1d(sight.at(other, where)) for other in sight.signs))
            for column in np.unique(np.stack(rows), axis=1).T.tolist():
                odd = tuple(sorted(sign for sign in set(column) if sign and column.count(sign) % 2))
                if len(odd) > 2:
                    longer[odd] = None
                elif odd:
                    forest.join((*odd, 0)[0], (*odd, 0)[1], odd=False)
    _, freedom = forest.solved(list(range(1, count)), [(signs, False) for signs in longer])
    return freedom


def _equations(board: Board, colouring: Colouring, sight: Sight, tolerance: float) -> Iterator[Equation]:
    """One equation for every set of unknown signs: that of the first entry that is not zero."""
    unknown_gauges = [signs for signs in sight.signs if (colouring.signs[signs] == 0).any()]
    if not unknown_gauges:
        return
    tensor = board.read(sight.name)
    if len(unknown_gauges) > 1:
        # An entry may have two unknown signs, whichever others are known.
        values, missing = sight.equations(tensor, {}, colouring.classes, colouring.signs, 0)
        yield from _distinct(values, missing, tolerance)
        return
    (signs,) = unknown_gauges
    front = tuple(sorted(sight.reach(signs)))
    grid = sight.grid(front)
    unknown = np.atleast_1d(colouring.signs[sight.at(signs, grid)] == 0)
    order = _ranks(sight, grid, colouring.classes)
    rows = {axis: index[order][unknown[order]] for axis, index in grid.items()}
    for budget in (FIRST, 0):
        values, missing = sight.equations(tensor, rows, colouring.classes, colouring.signs, budget)
        yield from _distinct(values, missing, tolerance)
        rest = ~(np.abs(values) > tolerance).any(axis=1)
        rows = {axis: index[rest] for axis, index in rows.items()}
        if not rest.any():
            return


def _ranks(sight: Sight, grid: dict[int, Ints], classes: Ints) -> Ints:
    """The order of rows by the classes of their units, or by their positions."""
    if not grid:
        return np.zeros(1, dtype=np.int64)
    keys = [classes[sight.at(sight.units[axis], grid)] if axis in sight.units else grid[axis] for axis in grid]
    return np.lexsort(keys[::-1])


def _distinct(values: NDArray[np.float64], missing: list[Ints], tolerance: float) -> Iterator[Equation]:
    flat = values.reshape(-1)
    numbers = np.sort(np.stack([own.reshape(-1) for own in missing]), axis=0)
    clear = (np.abs(flat) > tolerance) & (numbers[-1] > 0)
    flat, numbers = flat[clear], numbers[:, clear]
    distinct, first = np.unique(numbers, axis=1, return_index=True)
    for at in np.argsort(first, kind="stable").tolist():
        column = distinct[:, at].tolist()
        # A sign that acts twice does not act.
        signs = tuple(sign for sign in dict.fromkeys(column) if sign and column.count(sign) % 2)
        if signs:
            yield signs, bool(flat[first[at]] < 0)


class _Forest:
    """Signs joined by products that are known; sign 0 is +1."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))
        self._parity = [False] * count

    def _root(self, sign: int) -> tuple[int, bool]:
        trail, parity = [], False
        while self._parent[sign] != sign:
            trail.append(sign)
            sign = self._parent[sign]
        for one in reversed(trail):
            parity ^= self._parity[one]
            self._parent[one], self._parity[one] = sign, parity
        return sign, parity

    def join(self, one: int, other: int, *, odd: bool) -> None:
        """Let the product of two signs be -1 if odd, unless it is decided."""
        (a, p), (b, q) = self._root(one), self._root(other)
        if a != b:
            low, high = sorted((a, b))
            self._parent[high], self._parity[high] = low, p ^ q ^ odd

    def solved(self, signs: list[int], longer: list[Equation]) -> tuple[NDArray[np.bool_], int]:
        """Which signs are -1, and how many could be chosen."""
        roots = [self._root(sign) for sign in signs]
        pivots: dict[int, tuple[int, bool]] = {}
        for numbers, odd in longer:
            mask = 0
            for sign in numbers:
                root, parity = self._root(sign)
                odd ^= parity
                mask ^= (1 << root) & ~1
            for pivot, (known, value) in pivots.items():
                if mask >> pivot & 1:
                    mask, odd = mask ^ known, odd ^ value
            if mask:
                pivot = mask.bit_length() - 1
                for other, (known, value) in pivots.items():
                    if known >> pivot & 1:
                        pivots[other] = (known ^ mask, value ^ odd)
                pivots[pivot] = (mask, odd)
        free = {root for root, _ in roots} - {0} - set(pivots)
        found = [parity ^ (pivots[root][1] if root in pivots else False) for root, parity in roots]
        return np.array(found, dtype=bool), len(free)
