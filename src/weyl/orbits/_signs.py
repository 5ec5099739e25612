"""Signs that a state allows: linear equations over GF(2), one for every row of entries that is not zero."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from weyl.orbits._tables import Ints, Table

__all__ = ["Signs"]

Bools = NDArray[np.bool_]


class Signs:
    """The equations *the signs of a row multiply to one*, and what they become when rows change sign.

    Parameters
    ----------
    tables : sequence of Table
        Whose rows are multiplied by signs.
    nonzero : sequence of bool array
        For every table the rows that have an entry different from zero.
    count : int
        Number of signs with number 0, which stands for no sign.

    Attributes
    ----------
    freedom : int
        Dimension over GF(2) of the signs that change nothing.
    """

    def __init__(self, tables: Sequence[Table], nonzero: Sequence[Bools], count: int) -> None:
        self._count = count
        self._tables = [at for at, table in enumerate(tables) if table.signs]
        self._rows = {at: np.flatnonzero(np.broadcast_to(nonzero[at], tables[at].shape)) for at in self._tables}
        self._signs = {at: _stacked(tables[at])[:, self._rows[at]] for at in self._tables}
        self._plant()
        self._eliminate()
        self.freedom = count - 1 - sum(edge is not None for _, _, edge in self._tree) - len(self._basis)

    def _plant(self) -> None:
        """A spanning forest of the equations in at most two signs, rooted in no sign where that is reached."""
        n = self._count
        keys, sources = [], []
        for at in self._tables:
            signs = self._signs[at]
            if len(signs) <= 2:
                first, second = signs[0], signs[1] if len(signs) == 2 else np.zeros_like(signs[0])
                key, where = np.unique(np.minimum(first, second) * n + np.maximum(first, second), return_index=True)
                keys.append(key)
                sources.append(np.stack([np.full(len(key), at), where], axis=1))
        key = np.concatenate([np.zeros(0, np.int64), *keys])
        source = np.concatenate([np.zeros((0, 2), np.int64), *sources])
        key, where = np.unique(key, return_index=True)
        edge = dict(zip(key.tolist(), map(tuple, source[where].tolist()), strict=True))
        a, b = key // n, key % n
        graph = coo_array((np.ones(len(key), np.int8), (a, b)), shape=(n, n)).tocsr()
        parts, self._part = connected_components(graph, directed=False)
        roots = np.unique(self._part, return_index=True)[1]
        rooted = coo_array(
            (np.ones(len(key) + parts, np.int8), (np.append(a, np.zeros(parts, np.int64)), np.append(b, roots))),
            shape=(n, n),
        ).tocsr()
        order, before = breadth_first_order(rooted, 0, directed=False)
        root = set(roots.tolist())
        self._tree: list[tuple[int, int, tuple[int, int] | None]] = []
        for sign in order[1:].tolist():
            parent = int(before[sign])
            joined = None if parent == 0 and sign in root else edge[min(sign, parent) * n + max(sign, parent)]
            self._tree.append((sign, parent, joined))

    def _eliminate(self) -> None:
        """Independent equations among those in three signs and more, as masks over the parts of the forest."""
        home = int(self._part[0])
        self._basis: dict[int, tuple[int, frozenset[tuple[int, int]]]] = {}
        for at in self._tables:
            if len(self._signs[at]) <= 2:
                continue
            parts = self._part[self._signs[at]]
            distinct, where = np.unique(np.sort(parts, axis=0), axis=1, return_index=True)
            for column, row in zip(distinct.T.tolist(), where.tolist(), strict=True):
                mask = reduce(lambda total, part: total ^ (1 << part if part != home else 0), column, 0)
                self._insert(mask, frozenset({(at, row)}))

    def _insert(self, mask: int, equations: frozenset[tuple[int, int]]) -> None:
        for pivot, (known, used) in self._basis.items():
            if mask >> pivot & 1:
                mask, equations = mask ^ known, equations ^ used
        if not mask:
            return
        pivot = mask.bit_length() - 1
        for other, (known, used) in self._basis.items():
            if known >> pivot & 1:
                self._basis[other] = (known ^ mask, used ^ equations)
        self._basis[pivot] = (mask, equations)

    def solvable(self, changed: dict[int, Bools]) -> bool:
        """Whether signs exist that change exactly some rows.

        Parameters
        ----------
        changed : dict of int to bool array
            For tables, by number, the rows whose sign must change; all rows of other tables must keep theirs. Rows of
            zeros do not count.
        """
        if not any(rows.any() for rows in changed.values()):
            return True
        wanted = {at: rows.reshape(-1)[self._rows[at]] for at, rows in changed.items() if at in self._rows}
        signs = np.zeros(self._count, dtype=bool)
        for sign, parent, equation in self._tree:
            if equation is not None:
                at, row = equation
                signs[sign] = signs[parent] ^ (wanted[at][row] if at in wanted else False)
        flips = np.zeros(int(self._part.max()) + 1, dtype=bool)
        for pivot, (_, equations) in self._basis.items():
            for at, row in equations:
                value = bool(np.logical_xor.reduce(signs[self._signs[at][:, row]]))
                flips[pivot] ^= value ^ bool(wanted[at][row] if at in wanted else False)
        signs ^= flips[self._part]
        return all(
            np.array_equal(np.logical_xor.reduce(signs[self._signs[at]], axis=0), wanted.get(at, np.False_))
            if at in wanted
            else not np.logical_xor.reduce(signs[self._signs[at]], axis=0).any()
            for at in self._tables
        )

    def alone(self) -> Ints:
        """The signs that occur in no equation, which may flip alone."""
        seen = np.zeros(self._count, dtype=bool)
        seen[0] = True
        for at in self._tables:
            ordered = np.sort(self._signs[at], axis=0)
            for signs in ordered:
                odd = (ordered == signs).sum(axis=0) % 2 == 1
                seen[signs[odd]] = True
        return np.flatnonzero(~seen)


def _stacked(table: Table) -> Ints:
    """The signs of every row, shape (number of them, rows)."""
    return np.stack([np.broadcast_to(signs, table.shape).reshape(-1) for signs in table.signs])
