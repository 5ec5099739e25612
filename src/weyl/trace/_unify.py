"""Unification of axes: joining, cutting, restricting, pinning.

When two axes cannot be reconciled both are pinned: the group may be too small, never too large.
"""

from __future__ import annotations

import math
from itertools import pairwise

from weyl.trace._cells import (
    Axis,
    Cell,
    Factor,
    Key,
    Path,
    Piece,
    Uniform,
    boundaries_of,
    describe,
    find,
    flatten,
    group_rows,
    has_uniform,
    heavier_first,
    is_sum,
    parts_of,
    reopen,
    size_of,
)

__all__ = ["Unifier"]


class Unifier:
    """Binds cells. All methods keep every axis that was handed out before valid."""

    def __init__(self) -> None:
        self.conflicts: list[str] = []

    # ------------------------------------------------------------------ pinning
    def pin(self, axis: Axis, reason: str, loose: bool = False) -> None:
        """Hold every unit of an axis still, in whatever tensor it occurs.

        A *loose* axis is one whose positions were taken for two different things; besides being held still, it is
        never used to tell copies of a space apart.
        """
        stack = [factor for factor in axis if isinstance(factor, Cell)]
        while stack:
            cell = find(stack.pop())
            if cell.pin is not None and (cell.loose or not loose):
                continue
            cell.pin = cell.pin or reason
            cell.loose = cell.loose or loose
            for inner in ([cell.product] if cell.product is not None else []) + (cell.parts or []):
                stack.extend(f for f in inner if isinstance(f, Cell))
            stack.extend(cell.table.values())

    def conflict(self, a: Axis, b: Axis, why: str) -> Axis:
        """Pin two axes that cannot be reconciled; the result is neither."""
        self.conflicts.append(why)
        self.pin(a, why, loose=True)
        self.pin(b, why, loose=True)
        return (Cell(size_of(a), why),)

    # ------------------------------------------------------------------ joining
    def join(self, a: Axis, b: Axis) -> Axis:
        """Make two axes of one size the same; returns the one that says more (uniform parts filled)."""
        left, right = flatten(a)[::-1], flatten(b)[::-1]
        if left == right:
            return a
        if size_of(a) != size_of(b):
            raise ValueError(f"axes of different sizes cannot be equal: {describe(a)} and {describe(b)}")
        joined: list[Factor] = []
        while left and right:
            x, y = left.pop(), right.pop()
            stale = reopen(x, left), reopen(y, right)
            if any(stale):
                # a factor was bound meanwhile: put its untouched partner back
                if not stale[0]:
                    left.append(x)
                if not stale[1]:
                    right.append(y)
            elif x.size == y.size:
                joined.extend(self._join_factor(x, y))
            elif x.size % y.size == 0 and (cut := self.split(x, y.size)) is not None:
                left.extend(reversed(cut[1]))
                left.extend(reversed(cut[0]))
                right.append(y)
            elif y.size % x.size == 0 and (cut := self.split(y, x.size)) is not None:
                right.extend(reversed(cut[1]))
                right.extend(reversed(cut[0]))
                left.append(x)
            else:
                sizes = f"{describe(a)} and {describe(b)}"
                return self.conflict(a, b, f"two views cut one axis in incompatible ways: {sizes}")
        return tuple(joined)

    def _join_factor(self, x: Factor, y: Factor) -> Axis:
        if isinstance(x, Uniform):
            return (y,)
        if isinstance(y, Uniform) or x is y:
            return (x,)
        if x.parts is None and y.parts is None:
            return (self._union(*heavier_first(x, y)),)
        if x.parts is None:
            return (self._bind_sum(x, y),)
        if y.parts is None:
            return (self._bind_sum(y, x),)
        return self._join_sums(x, y)

    def _union(self, root: Cell, other: Cell) -> Cell:
        """Merge two cells of the same shape (both atoms, or sums whose parts were joined)."""
        other.parent = root
        reason = root.pin or other.pin
        if reason is not None:
            loose = root.loose or other.loose
            root.pin = None
            self.pin((root, *other.table.values()), reason, loose)
        for key, restricted in list(other.table.items()):
            self._enter(root, key, restricted)
        for dependent in other.dependents:
            root.dependents.append(dependent)
            self._rekey(find(dependent), other, root)
        return root

    def _enter(self, cell: Cell, key: Key, restricted: Cell) -> None:
        """Record a restriction, joining it with the one that is there."""
        key = (find(key[0]), key[1])
        present = cell.table.get(key)
        if present is None:
            cell.table[key] = restricted
            key[0].dependents.append(cell)
            key[0].used.add(key[1])
        else:
            self.join((present,), (restricted,))

    def _rekey(self, cell: Cell, old: Cell, new: Cell) -> None:
        """Restrictions to the parts of a sum become restrictions to the same parts of the one it is merged into."""
        for key in [key for key in cell.table if key[0] is old]:
            restricted = cell.table.pop(key)
            self._enter(cell, (new, new.ids[old.ids.index(key[1])]), restricted)

    def _bind_sum(self, atom: Cell, total: Cell) -> Cell:
        """Give an atom the parts of a sum; an alias where nothing in the sum is uniform."""
        if has_uniform((total,)):
            self._set_parts(atom, [self._materialise(part) for part in parts_of(total)])
            return atom
        table, atom.table = atom.table, {}
        self._union(total, atom)
        for key, restricted in table.items():
            self.join((restricted,), self.restrict((total,), (key,)))
        return find(total)

    def _materialise(self, axis: Axis) -> Axis:
        """The same axis with fresh atoms where it was uniform."""
        out: list[Factor] = []
        for factor in flatten(axis):
            if isinstance(factor, Uniform):
                out.append(Cell(factor.size))
            elif factor.parts is not None and has_uniform((factor,)):
                out.append(Cell.sum([self._materialise(part) for part in factor.parts]))
            else:
                out.append(factor)
        return tuple(out)

    def _set_parts(self, atom: Cell, parts: list[Axis]) -> None:
        """Turn an atom into a sum; its restrictions and its pin follow."""
        table, atom.table = atom.table, {}
        reason, atom.pin = atom.pin, None
        atom.set_parts(parts)
        if reason is not None:
            self.pin((atom,), reason, atom.loose)
        for key, restricted in table.items():
            mirrored = Cell.sum([self.restrict(part, (key,)) for part in parts])
            self._enter(atom, key, mirrored)
            self.join((restricted,), (mirrored,))

    def _join_sums(self, x: Cell, y: Cell) -> Axis:
        """Join two sums part by part, refining both to their common boundaries first."""
        uniform = has_uniform((x,)), has_uniform((y,))
        if any(uniform) or boundaries_of(x) != boundaries_of(y):
            self.collapse(x)
            self.collapse(y)
            if not (is_sum(x) and is_sum(y)):
                return self.join((x,), (y,))
        if boundaries_of(x) != boundaries_of(y):
            common = sorted({*boundaries_of(x), *boundaries_of(y)})
            for cell in (x, y):
                refined = self._refine(cell, common)
                if refined is None or not is_sum(cell):
                    return self.conflict((x,), (y,), "two concatenations cut one axis in incompatible ways")
                cell.set_parts(refined)
        parts = [self.join(p, q) for p, q in zip(parts_of(x), parts_of(y), strict=True)]
        if find(x) is find(y) or not (is_sum(x) and is_sum(y)):
            return self.join((x,), (y,)) if find(x) is not find(y) else (find(x),)
        if not any(uniform):
            return (self._union(*heavier_first(x, y)),)
        if not all(uniform):
            return (y,) if uniform[0] else (x,)
        return (Cell.sum(parts),)

    def _refine(self, cell: Cell, boundaries: list[int]) -> list[Axis] | None:
        """Parts of a sum, cut further at the given boundaries."""
        parts: list[Axis] = []
        start = 0
        for part in parts_of(cell):
            stop = start + size_of(part)
            inner = [b - start for b in boundaries if start < b < stop]
            for a, b in zip([0, *inner], [*inner, stop - start], strict=True):
                pieces = self.carve(part, a, b)
                if pieces is None:
                    return None
                parts.append(self._assemble(part, a, b, pieces)[1])
            start = stop
        return parts

    # ------------------------------------------------------------------ cutting
    def split(self, factor: Factor, first: int) -> tuple[Axis, Axis] | None:
        """Write a factor of size n as a product of sizes ``first`` and ``n / first``."""
        second = factor.size // first
        if isinstance(factor, Uniform):
            return (Uniform(first),), (Uniform(second),)
        if factor.parts is not None:
            return self._split_sum(factor, first, second)
        outer, inner = Cell(first, factor.pin), Cell(second, factor.pin)
        outer.loose = inner.loose = factor.loose
        factor.product = (outer, inner)
        for key, restricted in list(factor.table.items()):
            halves = Cell(first), Cell(second)
            self._enter(outer, key, halves[0])
            self._enter(inner, key, halves[1])
            self.join((restricted,), halves)
        factor.table = {}
        return (outer,), (inner,)

    def _split_sum(self, cell: Cell, first: int, second: int) -> tuple[Axis, Axis] | None:
        """View a sum as (first, second): its parts, grouped into whole rows, become parts of the first factor."""
        self.collapse(cell)
        if not is_sum(cell):
            return self.cut((cell,), first)
        if has_uniform((cell,)):
            return None
        groups = group_rows(parts_of(cell), second)
        if groups is None:
            return None
        columns: list[Axis] = []
        rows: list[Axis] = []
        for group in groups:
            axis = group[0]
            if len(group) > 1:
                axis = (Cell.sum(list(group)),)
            cut = self.cut(axis, size_of(axis) // second)
            if cut is None:
                return None
            rows.append(cut[0])
            columns.append(cut[1])
        outer, inner = Cell.sum(rows), Cell(second)
        cell.parts, cell.product = None, (outer, inner)
        self.bind_family(inner, outer, columns)
        if cell.pin is not None:
            reason, cell.pin = cell.pin, None
            self.pin((cell,), reason, cell.loose)
        for key, restricted in list(cell.table.items()):
            self.join((restricted,), self.restrict((outer, inner), (key,)))
        return (outer,), (inner,)

    def cut(self, axis: Axis, first: int) -> tuple[Axis, Axis] | None:
        """Cut an axis into a leading part of size ``first`` and the rest (a view), or None if it cannot be."""
        factors = flatten(axis)[::-1]
        taken: list[Factor] = []
        need = first
        while need > 1:
            if not factors:
                return None
            factor = factors.pop()
            if reopen(factor, factors):
                continue
            if need % factor.size == 0:
                taken.append(factor)
                need //= factor.size
            elif factor.size % need == 0 and (halves := self.split(factor, need)) is not None:
                taken.extend(halves[0])
                factors.extend(reversed(halves[1]))
                need = 1
            else:
                return None
        return tuple(taken), tuple(reversed(factors))

    def carve(self, axis: Axis, start: int, stop: int) -> list[Piece] | None:
        """Cut the positions ``start:stop`` out of an axis.

        Returns
        -------
        list of (path, axis) or None
            The pieces, left to right, each with the parts it lies in (for :meth:`restrict`); None if the
            cut does not respect the axis.
        """
        factors = flatten(axis)
        total = math.prod(f.size for f in factors)
        if (start, stop) == (0, total):
            return [((), axis)]
        lead, rest = factors[0], tuple(factors[1:])
        row = size_of(rest)
        if start % row or stop % row:
            return self._carve_inside(lead, rest, start, stop)
        start, stop = start // row, stop // row
        if isinstance(lead, Uniform):
            return [((), (Uniform(stop - start), *rest))]
        if lead.parts is None:
            bounds = sorted({0, start, stop, lead.size})
            self._set_parts(lead, [(Cell(b - a),) for a, b in pairwise(bounds)])
        if is_sum(lead):
            self._cut_leftovers(lead, start, stop)
        if not is_sum(lead):
            # cutting it made it equal to something that is cut otherwise: look again
            return self.carve(axis, start * row, stop * row)
        pieces: list[Piece] = []
        begin = 0
        for identity, part in list(zip(lead.ids, parts_of(lead), strict=True)):
            end = begin + size_of(part)
            low, high = max(start, begin), min(stop, end)
            if low < high:
                inner = self.carve(part, low - begin, high - begin)
                if inner is None:
                    return None
                for path, piece in inner:
                    full = ((lead, identity), *path)
                    pieces.append((full, (*piece, *self.restrict(rest, full))))
            begin = end
        return pieces

    def _cut_leftovers(self, total: Cell, *places: int) -> None:
        """Cut parts of a sum that nothing has looked into yet in place, so that sums do not nest needlessly."""
        parts: list[Axis] = []
        ids: list[int] = []
        begin = 0
        for identity, part in zip(total.ids, parts_of(total), strict=True):
            end = begin + size_of(part)
            inside = [place - begin for place in places if begin < place < end]
            factors = flatten(part)
            atom = factors[0] if len(factors) == 1 else None
            if (
                inside
                and isinstance(atom, Cell)
                and atom.parts is None
                and identity not in total.used
                and not atom.table
            ):
                bounds = [0, *sorted(set(inside)), end - begin]
                cut: list[Axis] = [(Cell(b - a),) for a, b in pairwise(bounds)]
                self._set_parts(atom, cut)
                parts.extend(cut)
                ids.extend(atom.ids)
            else:
                parts.append(part)
                ids.append(identity)
            begin = end
        total.parts, total.ids = parts, ids

    def _carve_inside(self, lead: Factor, rest: Axis, start: int, stop: int) -> list[Piece] | None:
        """A cut within one row of the leading factor."""
        row = size_of(rest)
        index = start // row
        if (stop - 1) // row != index:
            return None
        outer = self.carve((lead,), index, index + 1)
        if outer is None:
            return None
        path, _ = outer[0]
        inner = self.carve(self.restrict(rest, path), start - index * row, stop - index * row)
        if inner is None:
            return None
        return [((*path, *more), piece) for more, piece in inner]

    def _assemble(self, axis: Axis, start: int, stop: int, pieces: list[Piece]) -> tuple[Cell | None, Axis]:
        """One axis from the pieces of a cut; with several, a sum that is the same for the same cut."""
        if len(pieces) == 1:
            return None, pieces[0][1]
        factors = flatten(axis)
        home = factors[0] if len(factors) == 1 else None
        if isinstance(home, Cell) and (start, stop) in home.ranges:
            known = find(home.ranges[start, stop])
            if known.parts is not None and len(known.parts) == len(pieces):
                return known, (known,)
        total = Cell.sum([piece for _, piece in pieces])
        if isinstance(home, Cell):
            home.ranges[start, stop] = total
        return total, (total,)

    def slice(self, axes: list[Axis], dim: int, start: int, stop: int) -> list[Axis] | None:
        """Cut ``start:stop`` out of dimension ``dim`` of a tensor; the other axes are restricted to it."""
        pieces = self.carve(axes[dim], start, stop)
        if pieces is None:
            return None
        total, piece = self._assemble(axes[dim], start, stop, pieces)
        paths = [path for path, _ in pieces]
        out = []
        for d, axis in enumerate(axes):
            if d == dim:
                out.append(piece)
            elif total is None:
                out.append(self.restrict(axis, paths[0]))
            else:
                out.append(tuple(self._restrict_to_range(f, total, paths) for f in flatten(axis)))
        return out

    # ------------------------------------------------------------------ restricting
    def restrict(self, axis: Axis, path: Path) -> Axis:
        """The axis as it stands in one part of a sum elsewhere in the tensor."""
        for key in path:
            axis = tuple(self._restrict_factor(factor, key) for factor in flatten(axis))
        return axis

    def _restrict_factor(self, factor: Factor, key: Key) -> Factor:
        if isinstance(factor, Uniform) or factor.pin is not None:
            return factor
        key = (find(key[0]), key[1])
        if factor is key[0]:
            return factor
        known = factor.table.get(key)
        if known is not None:
            return known
        restricted = Cell(factor.size)
        if factor.parts is not None:
            parts = [self.restrict(part, (key,)) for part in factor.parts]
            if parts == [tuple(flatten(part)) for part in factor.parts]:
                return factor
            restricted = Cell.sum(parts)
        self._enter(factor, key, restricted)
        return restricted

    def _restrict_to_range(self, factor: Factor, total: Cell, paths: list[Path]) -> Factor:
        """Restriction to several parts at once: a cell whose own restrictions are the known ones."""
        if isinstance(factor, Uniform) or factor.pin is not None:
            return factor
        members = [self.restrict((factor,), path) for path in paths]
        if all(member == members[0] for member in members):
            whole = Cell(factor.size)
            whole.product = members[0]
            return whole
        whole = Cell(factor.size)
        self.bind_family(whole, total, members)
        return whole

    def bind_family(self, family: Cell, number: Cell, members: list[Axis]) -> None:
        """Say what a new cell is in every part of a sum: the members of a family."""
        for identity, axis in zip(number.ids, members, strict=True):
            cell = Cell(family.size)
            cell.product = axis
            self._enter(family, (number, identity), cell)

    def collapse(self, total: Cell) -> None:
        """Give up restrictions to the parts of a sum: each becomes equal to what it restricts."""
        while find(total).dependents:
            root = find(total)
            self.release(root.dependents.pop(), root)

    def release(self, dependent: Cell, total: Cell) -> None:
        """Give up the restrictions of one cell to the parts of a sum."""
        total = find(total)
        while True:
            cell = find(dependent)
            key = next((key for key in cell.table if find(key[0]) is total), None)
            if key is None:
                return
            self.join((cell,), (cell.table.pop(key),))
