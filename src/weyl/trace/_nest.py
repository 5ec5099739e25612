"""From unified cells to spaces: which restrictions are free, and which space lives within which.

A tensor is read as a function of a tuple of unit indices. A permutation of atom ``b`` that depends on the
index in atom ``a`` is well defined on a tensor only where both occur, so ``b`` may live within ``a`` exactly
if *every* tensor that has ``b`` has ``a`` as well; the tensors include the virtual ones inside an operator
(the denominators of a softmax). That is all there is to nesting: an operator that mixes ``a`` at fixed ``b``
records a tensor with ``b`` and without ``a``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from weyl.trace._cells import Axis, Cell, Factor, Uniform, find, flatten
from weyl.trace._unify import Unifier

__all__ = ["Occurrence", "components", "find_nesting", "settle", "specialise"]

MAX_TERMS = 4096


@dataclass(frozen=True)
class Occurrence:
    """One tensor: its axes, and the hidden indices on which every entry of it depends (routed experts)."""

    axes: tuple[Axis, ...]
    hidden: tuple[Axis, ...] = ()


def settle(unifier: Unifier, occurrences: Iterable[Occurrence], parameters: Iterable[tuple[Axis, ...]]) -> None:
    """Give up every restriction that some tensor contradicts, until none is left to give up.

    A cell restricted to the parts of a sum may keep its freedom only if the sum occurs, once and whole,
    in every tensor in which the cell occurs, and, in parameters, in a place that an axis expression can name.
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
    plain = all(not c.table for d in home for c, _ in _cells_of(flat[d]))
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
            return [Counter()]
    return terms


def _unique(terms: Iterable[Counter[Cell]]) -> list[Counter[Cell]]:
    seen = {frozenset(term.items()): term for term in terms}
    return list(seen.values())


def find_nesting(unifier: Unifier, occurrences: Iterable[Occurrence]) -> dict[Cell, frozenset[Cell]]:
    """For every atom, the atoms that occur in every tensor in which it occurs.

    Where an atom occurs twice in a tensor it is unclear which of the two indices is meant; then only one
    in the same product as the inner atom counts.
    """
    always: dict[Cell, frozenset[Cell]] = {}
    seen: set[tuple[tuple[int, ...], ...]] = set()
    for tensor in occurrences:
        signature = tuple(tuple(map(id, flatten(axis))) for axis in (*tensor.axes, *tensor.hidden))
        if signature in seen:
            continue
        seen.add(signature)
        for axes in components(unifier, list(tensor.axes)):
            tables = [_terms(unifier, axis) for axis in (*axes, *tensor.hidden)]
            _intersect(always, tables)
    return always


def _intersect(always: dict[Cell, frozenset[Cell]], tables: list[list[Counter[Cell]]]) -> None:
    counts: dict[Cell, list[set[int]]] = {}
    for axis, terms in enumerate(tables):
        for atom in {a for term in terms for a in term}:
            counts.setdefault(atom, [{0} for _ in tables])[axis] = {term[atom] for term in terms}
    for axis, terms in enumerate(tables):
        elsewhere = {
            atom
            for atom, per_axis in counts.items()
            if sorted(tuple(c) for d, c in enumerate(per_axis) if d != axis and c != {0}) == [(1,)]
        }
        for term in terms:
            own = {atom for atom, count in term.items() if count == 1}
            for atom in term:
                here = frozenset((own | (elsewhere - term.keys())) - {atom})
                always[atom] = always[atom] & here if atom in always else here
