"""From unified cells to spaces: which restrictions are free, and which space lives within which.

A tensor is read as a function of a tuple of unit indices. A permutation of atom ``b`` that depends on the
index in atom ``a`` is well defined on a tensor only where both occur, so ``b`` may live within ``a`` exactly
if *every* tensor that has ``b`` has ``a`` as well; the tensors include the virtual ones inside an operator
(the denominators of a softmax). So an operator that mixes ``a`` at fixed ``b`` records a tensor with ``b``
and without ``a``. Where an atom occurs twice in a tensor it must be clear which index is meant: see
:func:`find_nesting`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from weyl.trace._cells import Axis, Cell, Factor, Uniform, find, flatten
from weyl.trace._unify import Unifier

__all__ = ["Nesting", "Occurrence", "components", "find_nesting", "settle", "specialise"]

MAX_TERMS = 4096

Relation = dict[Cell, frozenset[Cell]]


@dataclass(frozen=True)
class Occurrence:
    """One tensor: its axes, and the hidden indices on which every entry of it depends (routed experts)."""

    axes: tuple[Axis, ...]
    hidden: tuple[Axis, ...] = ()


def settle(unifier: Unifier, occurrences: Iterable[Occurrence], parameters: Iterable[tuple[Axis, ...]]) -> None:
    """Give up every restriction that some tensor contradicts, until none is left to give up.

    A cell restricted to the parts of a sum may keep its freedom only if the sum occurs, once and whole,
    in every tensor in which the cell occurs, and, in parameters, in a place that an axis expression can name. One that
    is still restricted to the parts of two sums keeps the first: in two orders the two cuts give different cells
    for the same units.
    """
    tensors = list(occurrences)
    weights = list(parameters)
    changed = True
    while changed:
        changed = False
        for tensor in tensors:
            for cell, _ in (pair for axis in tensor.hidden for pair in _cells_of(flatten(axis))):
                changed |= _release_all(unifier, cell)
            changed |= _settle_tensor(unifier, list(tensor.axes), named=False)
        for axes in weights:
            changed |= _settle_tensor(unifier, list(axes), named=True)
        changed = changed or any(_settle_twice_cut(unifier, tensor) for tensor in tensors)


def _settle_twice_cut(unifier: Unifier, tensor: Occurrence) -> bool:
    for axis in tensor.axes:
        for cell, _ in _cells_of(flatten(axis)):
            totals = list(dict.fromkeys(find(key[0]) for key in cell.table))
            if len(totals) > 1:
                unifier.release(cell, totals[1])
                return True
    return False


def _settle_tensor(unifier: Unifier, axes: list[Axis], named: bool, inside: bool = False) -> bool:
    """Check one tensor, then every part of it that a sum cuts out; stops at the first thing given up."""
    flat = [flatten(axis) for axis in axes]
    top = Counter(f for factors in flat for f in factors if isinstance(f, Cell))
    for dim, factors in enumerate(flat):
        for cell, siblings in _cells_of(factors):
            for total in {find(key[0]) for key in cell.table}:
                whole = top[total] if total in top else siblings.count(total)
                if (
                    whole != 1
                    or _same_in_all_parts(cell, total)
                    or (named and not _nameable(flat, dim, siblings, cell, total, inside))
                ):
                    unifier.release(cell, total)
                    return True
    found = leading_sum(axes)
    if found is None:
        return False
    return any(_settle_tensor(unifier, cut, named, inside=True) for cut in _cut(unifier, axes, *found))


def _nameable(
    flat: list[list[Factor]], dim: int, siblings: list[Factor], cell: Cell, total: Cell, inside: bool
) -> bool:
    """Whether an axis expression can say that ``cell`` depends on the part of ``total``.

    It can if the sum stands before the cell in one product, or is all of one other axis of the tensor, on which
    nothing else depends in its turn.
    """
    if total in siblings:
        return siblings.index(total) < siblings.index(cell)
    home = [d for d, other in enumerate(flat) if d != dim and other == [total]]
    plain = all(find(key[0]) in near for d in home for c, near in _cells_of(flat[d]) for key in c.table)
    others = {find(key[0]) for c, _ in _cells_of(flat[dim]) for key in c.table} - {total}
    return len(home) == 1 and plain and not others - set(siblings) and not inside


def _release_all(unifier: Unifier, cell: Cell) -> bool:
    totals = {find(key[0]) for key in cell.table}
    for total in totals:
        unifier.release(cell, total)
    return bool(totals)


def _cells_of(factors: list[Factor]) -> Iterator[tuple[Cell, list[Factor]]]:
    """Every cell at any depth of an axis, with the factors beside it."""
    for factor in factors:
        if isinstance(factor, Cell):
            yield factor, factors
            for part in factor.parts or []:
                yield from _cells_of(flatten(part))


def _same_in_all_parts(cell: Cell, total: Cell) -> bool:
    entries = [find(r) for key, r in cell.table.items() if find(key[0]) is total]
    return len(entries) == len(total.parts or []) and all(entry is entries[0] for entry in entries)


def specialise(unifier: Unifier, axis: Axis, total: Cell, identity: int) -> Axis:
    """An axis as it stands in one part of ``total``; only cells restricted to parts of it change."""
    out: list[Factor] = []
    for factor in flatten(axis):
        if isinstance(factor, Uniform):
            out.append(factor)
        elif any(find(key[0]) is total for key in factor.table):
            out.extend(unifier.restrict((factor,), ((total, identity),)))
        elif factor.parts is not None and any(_depends(part, total) for part in factor.parts):
            out.append(Cell.sum([specialise(unifier, part, total, identity) for part in factor.parts]))
        else:
            out.append(factor)
    return tuple(out)


def _depends(axis: Axis, total: Cell) -> bool:
    return any(find(key[0]) is total for cell, _ in _cells_of(flatten(axis)) for key in cell.table)


def leading_sum(axes: list[Axis]) -> tuple[int, int, Cell] | None:
    """A sum at the top of a tensor to whose parts some other cell of it is restricted."""
    for dim, axis in enumerate(axes):
        for place, factor in enumerate(flatten(axis)):
            if isinstance(factor, Cell) and factor.parts is not None and any(_depends(a, factor) for a in axes):
                return dim, place, factor
    return None


def components(unifier: Unifier, axes: list[Axis]) -> Iterator[list[Axis]]:
    """The tensor cut along every sum on whose part another of its cells depends."""
    found = leading_sum(axes)
    if found is None:
        yield axes
        return
    for cut in _cut(unifier, axes, *found):
        yield from components(unifier, cut)


def _cut(unifier: Unifier, axes: list[Axis], dim: int, place: int, total: Cell) -> Iterator[list[Axis]]:
    """The parts of a tensor along a sum."""
    factors = flatten(axes[dim])
    for identity, part in list(zip(total.ids, total.parts or [], strict=True)):
        pieces = list(axes)
        pieces[dim] = (*factors[:place], *part, *factors[place + 1 :])
        yield [specialise(unifier, axis, total, identity) for axis in pieces]


def _terms(unifier: Unifier, axis: Axis) -> list[Counter[Cell]]:
    """Alternatives of an axis: the atoms, with multiplicity, of every block of positions."""
    terms: list[Counter[Cell]] = [Counter()]
    for factor in flatten(axis):
        if isinstance(factor, Uniform):
            continue
        if factor.parts is None:
            for term in terms:
                term[factor] += 1
            continue
        inner = [t for part in factor.parts for (cut,) in components(unifier, [part]) for t in _terms(unifier, cut)]
        terms = _unique(left + right for left in terms for right in inner)
        if len(terms) > MAX_TERMS:
            # too many to tell apart: as if every atom stood twice in every block, so that none may nest
            return [Counter(dict.fromkeys((a for term in terms for a in term), 2))]
    return terms


def _unique(terms: Iterable[Counter[Cell]]) -> list[Counter[Cell]]:
    seen = {frozenset(term.items()): term for term in terms}
    return list(seen.values())


@dataclass(frozen=True)
class Nesting:
    """For every atom, the atoms within which it may live; and the atoms that some operator read."""

    within: Relation
    read: frozenset[Cell]


def find_nesting(unifier: Unifier, occurrences: Iterable[Occurrence], parameters: Iterable[Occurrence]) -> Nesting:
    """Find within which atoms every atom may live.

    Where an atom occurs twice in a tensor it must be clear which index is meant. So an outer atom counts if in
    every tensor it stands in the same product as the inner one (each once in it), or if in every tensor both occur
    exactly once.
    """
    paired: Relation = {}
    single: Relation = {}
    read: frozenset[Cell] = frozenset()
    for tensors in (occurrences, parameters):
        seen: set[tuple[tuple[int, ...], ...]] = set()
        for tensor in tensors:
            signature = tuple(tuple(map(id, flatten(axis))) for axis in (*tensor.axes, *tensor.hidden))
            if signature in seen:
                continue
            seen.add(signature)
            for axes in components(unifier, list(tensor.axes)):
                _intersect(paired, single, [_terms(unifier, axis) for axis in (*axes, *tensor.hidden)])
        read = read or frozenset(paired)
    _close(paired, single)
    return Nesting({atom: outer | single[atom] for atom, outer in paired.items()}, read)


def _close(paired: Relation, single: Relation) -> None:
    """Drop outer atoms that depend on an index which the inner atom does not see, or sees another copy of."""

    def same(inner: Cell, outer: Cell, beside: bool) -> bool:
        """Whether every index of ``outer`` is one of ``inner``: of its own product, or the only one there is."""
        return outer.pin is not None or all(
            (beside and a in paired[outer] and a in paired[inner]) or (a in single[outer] and a in single[inner])
            for a in (paired[outer] | single[outer]) - {inner}
        )

    changed = True
    while changed:
        changed = False
        for atom in paired:
            near = frozenset(b for b in paired[atom] if same(atom, b, beside=True))
            far = frozenset(b for b in single[atom] if same(atom, b, beside=False))
            changed |= near != paired[atom] or far != single[atom]
            paired[atom], single[atom] = near, far


def _intersect(paired: Relation, single: Relation, tables: list[list[Counter[Cell]]]) -> None:
    """Narrow both relations by one tensor, given as the alternatives of each of its axes."""
    counts: dict[Cell, list[set[int]]] = {}
    for axis, terms in enumerate(tables):
        for atom in {a for term in terms for a in term}:
            counts.setdefault(atom, [{0} for _ in tables])[axis] = {term[atom] for term in terms}
    for axis, terms in enumerate(tables):
        outside = {a for a, c in counts.items() if any(n != {0} for d, n in enumerate(c) if d != axis)}
        elsewhere = {
            a for a in outside if sorted(tuple(n) for d, n in enumerate(counts[a]) if d != axis and n != {0}) == [(1,)]
        }
        for term in terms:
            own = frozenset(atom for atom, count in term.items() if count == 1)
            once = (own - outside) | (elsewhere - term.keys())
            for atom in term:
                beside = _partners(atom, own, outside, tables, axis) if atom in own else frozenset()
                paired[atom] = paired[atom] & beside if atom in paired else beside
                alone = frozenset(once - {atom}) if atom in own and atom not in outside else frozenset()
                single[atom] = single[atom] & alone if atom in single else alone


def _partners(
    atom: Cell, own: frozenset[Cell], outside: set[Cell], tables: list[list[Counter[Cell]]], axis: int
) -> frozenset[Cell]:
    """Atoms in the same product as ``atom``, and as often as it, once each, in every other axis.

    Only then does a view, which may cut the tensor anywhere, keep every pair together or show that it does not.
    """
    if atom not in outside:
        return own - outside - {atom}
    others = [term for d, terms in enumerate(tables) if d != axis for term in terms]
    return frozenset(b for b in own - {atom} if all(term[b] == term[atom] <= 1 for term in others))
