"""Grading: with which exponent every parameter scales, and whether it flips, when a unit does.

Every occurrence of an atom in a block of a tensor has an unknown exponent: if unit ``i`` of the atom is multiplied by
``c_i``, the entries of the tensor at ``i`` are multiplied by ``c_i`` to that power. Operators relate exponents by
linear equations; an operator without an equation makes all exponents of what it reads and returns zero. Solutions over
the rationals are scales, over two elements signs. An atom that only linear maps touch may be mixed by matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from weyl.trace._cells import Axis, Cell
from weyl.trace._context import Call
from weyl.trace._graded import Blocks, Graded, Strand, Term, constant_unknowns, fits, same_blocks, strands_of
from weyl.trace._solve import ZERO, Exponents, Number
from weyl.trace._unify import Unifier
from weyl.trace._values import Value

__all__ = ["LETTERS", "Entry", "Factor", "Grader"]

# Names of dimensions in products.
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Entry:
    """One operator as it was interpreted; ``call`` is None where it was not understood."""

    call: Call | None
    values: tuple[Value, ...]
    results: tuple[Value | None, ...]
    dtypes: tuple[torch.dtype, ...] = ()


@dataclass(frozen=True)
class Factor:
    """An operand of a product: a letter for every dimension, and the power with which scales and signs enter."""

    tensor: Graded
    letters: str
    scale: Number = 1
    sign: int = 1


Assignment = dict[str, Strand]


@dataclass
class Grader:
    """Collects equations between exponents.

    ``tracked`` are the atoms that have exponents at all; ``rough`` those that some operator treats otherwise than
    linearly; ``normed`` and ``centred`` those that some operator normalises as a whole, without and with its mean.
    ``flips`` are results of sigmoids, ``shifts`` arguments of sines with the signs that half a period gives the result,
    ``unopened`` counts tensors of too many blocks, ``asked`` are the values that a rule has looked at, ``offsets`` what
    is added to a variance before its root is taken.
    """

    unifier: Unifier
    tracked: frozenset[Cell]
    scales: Exponents = field(default_factory=Exponents)
    signs: Exponents = field(default_factory=lambda: Exponents(2))
    homes: list[Cell | None] = field(default_factory=lambda: [None])
    rough: set[Cell] = field(default_factory=set)
    normed: set[Cell] = field(default_factory=set)
    centred: set[Cell] = field(default_factory=set)
    offsets: dict[int, list[float]] = field(default_factory=dict)
    flips: list[Value] = field(default_factory=list)
    shifts: list[tuple[Value, Graded]] = field(default_factory=list)
    unopened: int = 0
    asked: set[int] = field(default_factory=set)
    known: dict[int, Graded] = field(default_factory=dict)
    blocks: dict[tuple[Axis, ...], list[Blocks] | None] = field(default_factory=dict)

    # ------------------------------------------------------------------ tensors
    def unknown(self, home: Cell | None) -> int:
        """A new exponent."""
        self.homes.append(home)
        self.signs.new()
        return self.scales.new()

    def strands(self, axes: tuple[Axis, ...]) -> list[Blocks] | None:
        """All blocks of a tensor with some axes; None if there are too many."""
        if axes not in self.blocks:
            self.blocks[axes] = strands_of(self.unifier, axes)
            self.unopened += self.blocks[axes] is None
        return self.blocks[axes]

    def fresh(self, axes: Sequence[Axis]) -> Graded:
        """A tensor of which nothing is known yet."""
        axes = tuple(axes)
        blocks = self.strands(axes)
        shape = tuple(_size(axis) for axis in axes)
        if blocks is None:
            return Graded(shape, None)
        return Graded(shape, tuple(self._term(strands) for strands in blocks))

    def _term(self, strands: Blocks) -> Term:
        unknowns = tuple(
            tuple(self.unknown(cell) if cell in self.tracked else ZERO for cell, _ in strand.atoms)
            for strand in strands
        )
        return Term(strands, unknowns, self.unknown(None))

    def constant(self, value: Value) -> Graded:
        """A tensor that no symmetry changes."""
        shape = value.shape
        null = value.constant is not None and bool((value.constant == 0).all())
        blocks = self.strands(value.axes)
        if blocks is None:
            return Graded(shape, None, constant=True, null=null)
        terms = tuple(Term(strands, constant_unknowns(strands), ZERO) for strands in blocks)
        return Graded(shape, terms, constant=True, null=null)

    def get(self, value: Value) -> Graded:
        """The tensor of an argument; what no operator returned is an input or a constant."""
        self.asked.add(id(value))
        if id(value) not in self.known:
            self.known[id(value)] = self.constant(value)
        return self.known[id(value)]

    def make(self, value: Value) -> Graded:
        """The tensor of a result, with exponents of its own."""
        self.known[id(value)] = self.fresh(value.axes)
        return self.known[id(value)]

    def alias(self, value: Value, tensor: Graded) -> None:
        """A result that has the exponents of another tensor."""
        blocks = self.strands(value.axes)
        if blocks is None or tensor.terms is None:
            self.kill(tensor)
            self.known[id(value)] = Graded(value.shape, None)
            return
        terms = []
        for strands in blocks:
            term = next((t for t in tensor.terms if same_blocks(t.strands, strands)), None)
            if term is None:
                self.same([tensor], self.make(value))
                return
            terms.append(replace(term, strands=strands))
        self.known[id(value)] = Graded(value.shape, tuple(terms), tensor.constant, tensor.null)

    # ------------------------------------------------------------------ equations
    def kill(self, tensor: Graded, scale: bool = True, sign: bool = True) -> None:
        """All exponents of a tensor are zero; its atoms are not touched linearly."""
        for unknown in tensor.unknowns():
            if scale:
                self.scales.zero(unknown)
            if sign:
                self.signs.zero(unknown)
        self.roughen(tensor)

    def roughen(self, tensor: Graded) -> None:
        """Some operator does not treat the atoms of a tensor linearly."""
        self.rough.update(cell for cell in tensor.atoms() if cell in self.tracked)

    def same(self, operands: Sequence[Graded], out: Graded, sign: bool = True) -> None:
        """Each operand, broadcast, has the exponents of the result: a sum. Tensors of zeros may have any."""
        rank = out.ndim
        letters = LETTERS[:rank]
        for operand in operands:
            if not operand.null:
                self.product([Factor(operand, letters[rank - operand.ndim :])], out, letters, sign=sign)

    def power(self, operand: Graded, out: Graded, scale: Number, sign: int) -> None:
        """An elementwise function with f(c x) = c ** scale f(x) for c > 0 and f(-x) = (-1) ** sign f(x)."""
        letters = LETTERS[: out.ndim]
        factor = Factor(operand, letters[out.ndim - operand.ndim :], scale, sign)
        self.product([factor], out, letters)
        self.roughen(operand)
        self.roughen(out)

    def product(self, factors: Sequence[Factor], out: Graded, letters: str, sign: bool = True) -> None:
        """A sum of products: exponents of the factors add up to those of the result, and to zero where summed over."""
        operands = [*factors, Factor(out, letters)]
        joint = self._joint(operands)
        if joint is None:
            for factor in operands:
                self.kill(factor.tensor)
            return
        for assignment, terms in joint:
            for letter, strand in assignment.items():
                for atom in strand.atoms:
                    self._relate(operands, terms, letter, atom, sign)
            scalars = [(t.scalar, f.scale) for f, t in zip(factors, terms, strict=False)]
            self.scales.relate([*scalars, (terms[-1].scalar, -1)])
            if sign:
                signs = [(t.scalar, f.sign) for f, t in zip(factors, terms, strict=False)]
                self.signs.relate([*signs, (terms[-1].scalar, 1)])

    def _relate(
        self,
        operands: Sequence[Factor],
        terms: Sequence[Term],
        letter: str,
        atom: tuple[Cell, int],
        sign: bool,
    ) -> None:
        if atom[0] not in self.tracked:
            return
        scales: list[tuple[int, Number]] = []
        signs: list[tuple[int, Number]] = []
        found = 0
        kept = False
        for place, (factor, term) in enumerate(zip(operands, terms, strict=True)):
            result = place == len(operands) - 1
            for dim, name in enumerate(factor.letters):
                if name != letter or atom not in term.strands[dim].atoms:
                    continue
                unknown = term.unknowns[dim][term.strands[dim].atoms.index(atom)]
                scales.append((unknown, -1 if result else factor.scale))
                signs.append((unknown, 1 if result else factor.sign))
                found += not result
                kept |= result
        if found != (1 if kept else 2):
            self.rough.add(atom[0])
        self.scales.relate(scales)
        if sign:
            self.signs.relate(signs)

    def _joint(self, operands: Sequence[Factor]) -> list[tuple[Assignment, list[Term]]] | None:
        """All ways to choose a block of every operand so that they lie at the same places; None if some fit nowhere."""
        if any(f.tensor.terms is None for f in operands):
            return None
        if any(len(set(f.letters)) != len(f.letters) for f in operands):
            return None
        found: list[tuple[Assignment, list[Term]]] = [({}, [])]
        sizes: dict[str, int] = {}
        for factor in (operands[-1], *operands[:-1]):
            used: set[int] = set()
            longer: list[tuple[Assignment, list[Term]]] = []
            for assignment, terms in found:
                hit = False
                for number, term in enumerate(factor.tensor.terms or ()):
                    extended = _extend(assignment, sizes, factor, term)
                    if extended is not None:
                        used.add(number)
                        hit = True
                        longer.append((extended, [*terms, term]))
                if not hit:
                    return None
            if len(used) != len(factor.tensor.terms or ()) or len(longer) > 4096:
                return None
            found = longer
            for letter, size in zip(factor.letters, factor.tensor.shape, strict=True):
                sizes[letter] = max(sizes.get(letter, 1), size)
        return [(assignment, [*terms[1:], terms[0]]) for assignment, terms in found]

    # ------------------------------------------------------------------ the end
    def odd(self, unknown: int, roots: frozenset[int]) -> bool:
        """Whether a sign changes when the free signs in ``roots`` do; after the equations are solved."""
        expression = self.signs.expression(unknown)
        return sum(expression.get(root, 0) for root in roots) % 2 == 1

    def opaque(self, entry: Entry) -> None:
        """An operator of which nothing is known."""
        for value in entry.values:
            self.kill(self.get(value))
        for result in entry.results:
            if result is not None:
                self.known[id(result)] = self.constant(result)
                self.roughen(self.known[id(result)])


def _extend(assignment: Assignment, sizes: dict[str, int], factor: Factor, term: Term) -> Assignment | None:
    out = assignment
    for letter, strand, size in zip(factor.letters, term.strands, factor.tensor.shape, strict=True):
        present = out.get(letter)
        if present is None or (present is not strand and not fits(strand, present, size)):
            if present is not None and not fits(present, strand, sizes.get(letter, size)):
                return None
            if out is assignment:
                out = dict(assignment)
            out[letter] = strand
    return dict(out) if out is assignment else out


def _size(axis: Axis) -> int:
    total = 1
    for factor in axis:
        total *= factor.size
    return total
