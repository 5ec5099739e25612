"""Tensors with an unknown exponent for every occurrence of a space in every block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod

from weyl.trace._cells import Axis, Cell, Uniform, flatten, size_of
from weyl.trace._nest import specialise
from weyl.trace._solve import ZERO
from weyl.trace._unify import Unifier

__all__ = ["Blocks", "Graded", "Strand", "Term", "constant_unknowns", "fits", "same_blocks", "strands_of"]

MOST_TERMS = 1024


@dataclass(frozen=True)
class Strand:
    """One block of one dimension: positions ``base + sum_j coordinate_j * stride_j`` over atoms and uniform factors."""

    base: int
    atoms: tuple[tuple[Cell, int], ...]
    uniform: tuple[tuple[int, int], ...] = ()

    @property
    def plain(self) -> bool:
        """Whether no atom is in it."""
        return not self.atoms

    @property
    def count(self) -> int:
        """Number of positions."""
        return prod(cell.size for cell, _ in self.atoms) * prod(size for size, _ in self.uniform)

    @property
    def last(self) -> int:
        """Last position."""
        span = sum((cell.size - 1) * stride for cell, stride in self.atoms)
        return self.base + span + sum((size - 1) * stride for size, stride in self.uniform)


Blocks = tuple[Strand, ...]


@dataclass(frozen=True)
class Term:
    """A block of a tensor: a strand for every dimension, an unknown for every atom of each, and one for the whole."""

    strands: Blocks
    unknowns: tuple[tuple[int, ...], ...]
    scalar: int


@dataclass(frozen=True)
class Graded:
    """A tensor as blocks; ``terms`` is None where nothing can be said of it, ``lost`` then has what it was cut from.

    ``constant`` says that exponents are all zero; ``null`` that all entries are, so that any exponents will do.
    """

    shape: tuple[int, ...]
    terms: tuple[Term, ...] | None
    constant: bool = False
    null: bool = False
    lost: tuple[Term, ...] = ()

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def unknowns(self) -> Iterator[int]:
        """All of them, those of whole blocks included."""
        for term in self.terms or self.lost:
            yield term.scalar
            yield from chain.from_iterable(term.unknowns)

    def atoms(self) -> Iterator[Cell]:
        """Every atom, with repetition."""
        for term in self.terms or self.lost:
            for strand in term.strands:
                yield from (cell for cell, _ in strand.atoms)

    # ------------------------------------------------------------------ the same entries under other axes
    def unclear(self, shape: Sequence[int]) -> Graded:
        """Entries of this tensor of which it is not known where they stand."""
        return Graded(tuple(shape), None, lost=self.terms or self.lost)

    def mapped(self, shape: Sequence[int], change: Callable[[Term], Term | None]) -> Graded:
        """Every block changed; those for which ``change`` gives None are left out."""
        if self.terms is None:
            return self.unclear(shape)
        terms = (change(term) for term in self.terms)
        return Graded(tuple(shape), tuple(t for t in terms if t is not None), self.constant, self.null)

    def permuted(self, order: Sequence[int]) -> Graded:
        """Dimensions in another order."""
        return self.mapped(
            [self.shape[d] for d in order],
            lambda t: Term(tuple(t.strands[d] for d in order), tuple(t.unknowns[d] for d in order), t.scalar),
        )

    def dropped(self, dim: int) -> Graded:
        """Without a dimension of size 1."""
        return self.permuted([d for d in range(self.ndim) if d != dim])

    def widened(self, dim: int) -> Graded:
        """With a new dimension of size 1."""
        empty = Strand(0, ())

        def change(term: Term) -> Term:
            strands, unknowns = term.strands, term.unknowns
            return Term((*strands[:dim], empty, *strands[dim:]), (*unknowns[:dim], (), *unknowns[dim:]), term.scalar)

        return self.mapped((*self.shape[:dim], 1, *self.shape[dim:]), change)

    def sliced(self, dim: int, start: int, stop: int) -> Graded:
        """Positions of one dimension; nothing is known where that cuts across a block."""
        shape = (*self.shape[:dim], stop - start, *self.shape[dim + 1 :])
        for term in self.terms or ():
            strand = term.strands[dim]
            inside = (start <= strand.base, strand.last < stop)
            if not all(inside) and start <= strand.last and strand.base < stop and not strand.plain:
                return self.unclear(shape)

        def change(term: Term) -> Term | None:
            strand = term.strands[dim]
            if strand.last < start or strand.base >= stop:
                return None
            if strand.plain:
                low, high = max(strand.base, start) - start, min(strand.last, stop - 1) - start
                moved = Strand(low, (), ((high - low + 1, 1),) if high > low else ())
            else:
                moved = Strand(strand.base - start, strand.atoms, strand.uniform)
            return Term((*term.strands[:dim], moved, *term.strands[dim + 1 :]), term.unknowns, term.scalar)

        return self.mapped(shape, change)

    def spread(self, dim: int, times: int) -> Graded:
        """Every position of one dimension several times in a row."""

        def change(term: Term) -> Term:
            s = term.strands[dim]
            wide = Strand(
                s.base * times,
                tuple((cell, stride * times) for cell, stride in s.atoms),
                (*((n, stride * times) for n, stride in s.uniform), (times, 1)),
            )
            return Term((*term.strands[:dim], wide, *term.strands[dim + 1 :]), term.unknowns, term.scalar)

        return self.mapped((*self.shape[:dim], self.shape[dim] * times, *self.shape[dim + 1 :]), change)

    def reshaped(self, shape: Sequence[int]) -> Graded:
        """A row-major view; nothing is known where it cuts across atoms."""
        shape = tuple(shape)
        if self.terms is None:
            return self.unclear(shape)
        terms = []
        for term in self.terms:
            moved = _regrouped(term, _strides(self.shape), shape, _strides(shape))
            if moved is None:
                return self.unclear(shape)
            terms.append(moved)
        return Graded(shape, tuple(terms), self.constant, self.null)


def _strides(shape: Sequence[int]) -> list[int]:
    out = [1]
    for size in reversed(shape[1:] if shape else ()):
        out.append(out[-1] * size)
    return out[::-1] if shape else []


def _regrouped(term: Term, old: list[int], shape: tuple[int, ...], new: list[int]) -> Term | None:
    """A block under other dimensions: every factor goes to the dimension whose stride and extent hold it."""
    base = sum(s.base * stride for s, stride in zip(term.strands, old, strict=True))
    bases = [base // stride % size for stride, size in zip(new, shape, strict=True)]
    if sum(b * stride for b, stride in zip(bases, new, strict=True)) != base:
        return None
    atoms: list[list[tuple[Cell, int]]] = [[] for _ in shape]
    unknowns: list[list[int]] = [[] for _ in shape]
    uniform: list[list[tuple[int, int]]] = [[] for _ in shape]
    for strand, names, outer in zip(term.strands, term.unknowns, old, strict=True):
        for (cell, stride), unknown in zip(strand.atoms, names, strict=True):
            home = _home(cell.size, stride * outer, shape, new)
            if home is None:
                return None
            atoms[home].append((cell, stride * outer // new[home]))
            unknowns[home].append(unknown)
        for size, stride in strand.uniform:
            if not _spread_uniform(size, stride * outer, shape, new, uniform):
                return None
    strands = tuple(Strand(b, tuple(a), tuple(u)) for b, a, u in zip(bases, atoms, uniform, strict=True))
    if any(s.last >= size for s, size in zip(strands, shape, strict=True)):
        return None
    return Term(strands, tuple(tuple(u) for u in unknowns), term.scalar)


def _home(size: int, stride: int, shape: tuple[int, ...], new: list[int]) -> int | None:
    for dim, (extent, unit) in enumerate(zip(shape, new, strict=True)):
        if extent > 1 and stride % unit == 0 and stride * size <= unit * extent and unit <= stride:
            return dim
    return None


def _spread_uniform(
    size: int, stride: int, shape: tuple[int, ...], new: list[int], out: list[list[tuple[int, int]]]
) -> bool:
    """Put a run of uniform positions where it lies, cut over several dimensions if need be."""
    while size > 1:
        dims = [d for d, unit in enumerate(new) if shape[d] > 1 and unit <= stride < unit * shape[d]]
        if len(dims) != 1 or stride % new[dims[0]]:
            return False
        (dim,) = dims
        room = new[dim] * shape[dim] // stride
        here = min(size, room)
        if size % here or (size > here and here * stride != new[dim] * shape[dim]) or here == 1:
            return False
        out[dim].append((here, stride // new[dim]))
        size, stride = size // here, stride * here
    return True


def fits(narrow: Strand, wide: Strand, size: int) -> bool:
    """Whether the positions of one strand, its uniform ones left out, are among those of another with more atoms.

    ``size`` is that of the narrow dimension: one of size 1 broadcasts.
    """
    if size == 1 or narrow == wide:
        return True
    if any(atom not in wide.atoms for atom in narrow.atoms):
        return False
    rest = wide.base - narrow.base
    if rest < 0 or wide.last > narrow.last:
        return False
    for size, stride in sorted(narrow.uniform, key=lambda u: -u[1]):
        rest -= min(rest // stride, size - 1) * stride
    return rest == 0


class _Flat:
    """One dimension while its sums are opened: base, and factors with strides."""

    def __init__(self, base: int, factors: list[tuple[Cell | Uniform, int]]) -> None:
        self.base = base
        self.factors = factors

    @classmethod
    def of(cls, axis: Axis) -> _Flat:
        return cls(0, _strided(axis, 1))

    def strand(self) -> Strand:
        atoms = tuple((f, s) for f, s in self.factors if isinstance(f, Cell))
        return Strand(self.base, atoms, tuple((f.size, s) for f, s in self.factors if isinstance(f, Uniform)))


def _strided(axis: Axis, unit: int) -> list[tuple[Cell | Uniform, int]]:
    out: list[tuple[Cell | Uniform, int]] = []
    for factor in reversed(flatten(axis)):
        out.append((factor, unit))
        unit *= factor.size
    return out[::-1]


def strands_of(unifier: Unifier, axes: Iterable[Axis]) -> list[Blocks] | None:
    """All blocks of a tensor, every sum opened; None if there are too many to look at."""
    found: list[Blocks] = []
    stack = [[_Flat.of(axis) for axis in axes]]
    while stack:
        dims = stack.pop()
        place = _first_sum(dims)
        if place is None:
            found.append(tuple(d.strand() for d in dims))
            continue
        stack.extend(reversed(list(_opened(unifier, dims, *place))))
        if len(stack) + len(found) > MOST_TERMS:
            return None
    return found


def _first_sum(dims: list[_Flat]) -> tuple[int, int, Cell] | None:
    """A sum; first of all one to whose parts another cell is restricted."""
    sums = [
        (d, place, factor)
        for d, dim in enumerate(dims)
        for place, (factor, _) in enumerate(dim.factors)
        if isinstance(factor, Cell) and factor.parts is not None
    ]
    for found in sums:
        if found[2].dependents:
            return found
    return sums[0] if sums else None


def _opened(unifier: Unifier, dims: list[_Flat], dim: int, place: int, total: Cell) -> Iterator[list[_Flat]]:
    """The tensor cut into the parts of one sum."""
    start = 0
    for identity, part in list(zip(total.ids, total.parts or [], strict=True)):
        pieces = []
        for d, other in enumerate(dims):
            factors: list[tuple[Cell | Uniform, int]] = []
            base = other.base
            for p, (factor, stride) in enumerate(other.factors):
                if (d, p) == (dim, place):
                    base += start * stride
                    factors.extend(_strided(part, stride))
                elif isinstance(factor, Cell) and (factor.table or factor.parts is not None):
                    factors.extend(_strided(specialise(unifier, (factor,), total, identity), stride))
                else:
                    factors.append((factor, stride))
            pieces.append(_Flat(base, factors))
        yield pieces
        start += size_of(part)


def same_blocks(a: Blocks, b: Blocks) -> bool:
    """Whether two blocks have the same atoms at the same places."""
    return all(x.base == y.base and x.atoms == y.atoms for x, y in zip(a, b, strict=True))


def constant_unknowns(blocks: Blocks) -> tuple[tuple[int, ...], ...]:
    """The unknown that is zero for every atom."""
    return tuple((ZERO,) * len(strand.atoms) for strand in blocks)
