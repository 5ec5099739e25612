"""Grade a whole graph: equations of every operator, what is held still, the solution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from torch.utils._pytree import tree_leaves

from weyl.groups import GaugeKind
from weyl.structure import Absorption, LogitShift
from weyl.trace._cells import Cell
from weyl.trace._dead import find_dead, find_shifts, find_sources
from weyl.trace._flips import Reader, find_readers
from weyl.trace._gauges import (
    Gauges,
    Generator,
    Naming,
    block_of,
    diagonal,
    find_generators,
    make_gauges,
    overlap_of,
    prune,
)
from weyl.trace._grade import Grader
from weyl.trace._graded import Graded, Strand
from weyl.trace._interpret import Interpreter
from weyl.trace._logits import find_logit_shifts
from weyl.trace._rotary import rotary_pairs
from weyl.trace._shared import find_shared
from weyl.trace._values import Value
from weyl.trace.grades import grade

__all__ = ["Grading", "grade_parameters"]

# Of every tensor of the state: the values that stand for it in the graph, and its names.
Owners = Sequence[tuple[list[Value], list[str]]]


@dataclass
class Grading:
    """Generators on the parameters, and the atoms within which each may depend on."""

    parameters: dict[str, Graded]
    names: dict[str, list[str]]
    generators: list[Generator]
    offsets: dict[str, float]
    grader: Grader
    readers: list[Reader]
    logit_shifts: tuple[LogitShift, ...] = ()
    within: Mapping[Cell, frozenset[Cell]] = field(default_factory=dict)

    def atoms(self) -> list[Cell]:
        """Atoms on which something acts."""
        return list(dict.fromkeys(g.atom for g in self.generators if g.atom is not None))

    def settle(self, within: Mapping[Cell, frozenset[Cell]], outer: Collection[Cell]) -> None:
        """Leave out what is said twice, now that it is known what lives within what.

        Matrices would mix the copies of what lives within their units: of ``outer`` atoms only scales and signs stay.
        """
        self.within = within
        self.generators = [h for g in self.generators for h in (diagonal(g) if g.atom in outer else (g,))]
        self.generators = prune([g for g in self.generators if self._free(g)], self.parameters, within)

    def _free(self, generator: Generator) -> bool:
        """Whether a translation is one of any values on its blocks: its atom lives within all others of them."""
        if generator.kind is not GaugeKind.TRANSLATION or generator.atom is None:
            return True
        (name, number, dim, _), *_ = generator.added
        cells = {cell for cell, _ in (self.parameters[name].terms or ())[number].strands[dim].atoms}
        return cells <= self.within[generator.atom] | {generator.atom}

    def kinds(self) -> dict[Cell, frozenset[str]]:
        """What acts on each atom beside permutations."""
        found: dict[Cell, frozenset[str]] = {}
        for generator in self.generators:
            if generator.atom is None:
                continue
            moves = {generator.kind.move}
            if generator.kind is GaugeKind.LINEAR:
                moves |= {"sign", "scale"}
            elif generator.kind is GaugeKind.ORTHOGONAL:
                moves |= {"sign"}
            elif generator.kind is GaugeKind.COMPLEX:
                moves = {"sign", "scale"}
            found[generator.atom] = found.get(generator.atom, frozenset()) | moves
        return found

    def gauges(self, naming: Naming) -> Gauges:
        """In final names; tensors under all their names."""
        self.generators = [
            g for g in self.generators if g.atom is None or not self.within[g.atom] or not any(self._flips(g))
        ]
        out, self.generators = make_gauges(self.generators, self.parameters, naming, self._absorptions)
        for name, weights in out.weights.items():
            out.weights[name] = {alias: found for tensor, found in weights.items() for alias in self.names[tensor]}
        acted = {tensor for weights in out.weights.values() for tensor in weights}
        out.offsets = {
            alias: eps for name, eps in self.offsets.items() for alias in self.names[name] if alias in acted and eps
        }
        out.overlap = overlap_of(self.generators, self.parameters, self.within)
        return out

    def _flips(self, generator: Generator) -> Iterator[tuple[Reader, Strand]]:
        """Readers of sigmoids that a generator flips, with the block that they read."""
        if generator.kind is not GaugeKind.SIGN:
            return
        for reader in self.readers:
            for term in reader.terms():
                strand, unknowns = term.strands[reader.dim], term.unknowns[reader.dim]
                if any(self.grader.odd(unknown, generator.roots) for unknown in unknowns):
                    yield reader, strand

    def _absorptions(self, generator: Generator, naming: Naming) -> tuple[Absorption, ...]:
        found = ((reader, block_of(strand, naming)[0]) for reader, strand in self._flips(generator))
        return tuple(dict.fromkeys(Absorption(r.bias, r.weight, 1, block) for r, block in found))


def grade_parameters(
    interpreter: Interpreter,
    tracked: frozenset[Cell],
    within: Mapping[Cell, frozenset[Cell]],
    owners: Owners,
    still: Sequence[str],
    outputs: tuple[Any, Any],
) -> Grading:
    """Solve for the exponents of all parameters and buffers.

    Parameters
    ----------
    interpreter : Interpreter
        After it has run.
    tracked : frozenset of Cell
        Atoms that may have exponents.
    within : mapping of Cell to frozenset of Cell
        Atoms on whose index the action on an atom may depend.
    owners : sequence of (values, names)
        Tensors of the state.
    still : sequence of str
        Names of tensors that must not change.
    outputs : two trees of Value
        What must not change: what the model returns, and buffers that it writes.
    """
    grader = Grader(interpreter.context.unifier, tracked)
    parameters: dict[str, Graded] = {}
    names: dict[str, list[str]] = {}
    for values, titles in owners:
        if not titles:
            continue
        tensor = grader.fresh(values[0].axes)
        for value in values:
            grader.known[id(value)] = tensor
        parameters[titles[0]], names[titles[0]] = tensor, titles
        if any(title in still for title in titles):
            grader.kill(tensor)
        _one_exponent(grader, tensor)
    for entry in interpreter.log:
        grade(grader, entry)
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, Value):
            grader.kill(grader.get(leaf))
    uses = _uses(interpreter, outputs)
    offsets = _offsets(grader, uses, owners)
    free = {name: tensor for name, tensor in parameters.items() if not any(title in still for title in names[name])}
    readers = find_readers(grader, interpreter.log, outputs, free, *_named(owners, uses))
    sources = find_sources(grader, interpreter.log, outputs, free, *_named(owners, uses))
    shifts = find_shifts(grader, interpreter.log, sources)
    grader.scales.solve()
    grader.signs.solve()
    generators = _rotating(
        grader, interpreter, parameters, find_generators(grader, parameters, shifts, _flipped(readers))
    )
    generators += find_dead(grader, interpreter.log, sources, free, *_named(owners, uses), within)
    generators += find_shared(grader, interpreter.log, outputs, free, *_named(owners, uses), within)
    logits = find_logit_shifts(grader, interpreter.log, outputs[0], sources, free, *_named(owners, uses))
    return Grading(parameters, names, generators, offsets, grader, readers, logits)


def _flipped(readers: Sequence[Reader]) -> list[int]:
    """Unknown signs of sigmoids."""
    return [
        unknown for reader in readers for term in reader.terms() for unknown in term.unknowns[reader.dim] if unknown
    ]


def _uses(interpreter: Interpreter, outputs: tuple[Any, Any]) -> dict[int, int]:
    """How often each value is read by an operator or returned."""
    read = (value for entry in interpreter.log for value in entry.values)
    returned = (leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Value))
    return Counter(map(id, chain(read, returned)))


def _named(owners: Owners, uses: Mapping[int, int]) -> tuple[dict[int, str], dict[str, int]]:
    """Names of the values of parameters, and how often each is read; one of several names counts as read by each."""
    names = {id(value): titles[0] for values, titles in owners if titles for value in values}
    reads = {
        titles[0]: sum(uses.get(id(value), 0) for value in values) + len(titles) - 1
        for values, titles in owners
        if titles
    }
    return names, reads


def _rotating(
    grader: Grader, interpreter: Interpreter, parameters: Mapping[str, Graded], generators: list[Generator]
) -> list[Generator]:
    """Replace the scales and signs of rotary pairs by complex numbers."""
    out = list(generators)
    for atom in dict.fromkeys(g.atom for g in generators if g.kind is GaugeKind.SCALE and g.atom is not None):
        own = [g for g in generators if g.atom is atom]
        scales = [g for g in own if g.kind is GaugeKind.SCALE]
        if atom.pin is None or len(scales) != 1 or {abs(p) for p in scales[0].powers.values()} != {1}:
            continue
        places = rotary_pairs(grader, interpreter.log, parameters, atom)
        if places is not None:
            out = [g for g in out if g.atom is not atom]
            out.append(Generator(atom, GaugeKind.COMPLEX, scales[0].powers, scales[0].roots, places))
    return out


def _one_exponent(grader: Grader, tensor: Graded) -> None:
    """In a parameter, a strand of one dimension has one exponent, whatever stands beside it."""
    seen: dict[tuple[int, Strand], tuple[int, ...]] = {}
    terms = tensor.terms or ()
    for term in terms:
        grader.scales.equate(term.scalar, terms[0].scalar)
        grader.signs.equate(term.scalar, terms[0].scalar)
        for dim, (strand, unknowns) in enumerate(zip(term.strands, term.unknowns, strict=True)):
            first = seen.setdefault((dim, strand), unknowns)
            for a, b in zip(first, unknowns, strict=True):
                grader.scales.equate(a, b)
                grader.signs.equate(a, b)


def _offsets(grader: Grader, uses: Mapping[int, int], owners: Owners) -> dict[str, float]:
    """The eps that is added to a variance before it scales; a variance that is used otherwise as well is held still."""
    found: dict[str, float] = {}
    own = {id(value) for values, titles in owners if titles for value in values}
    for identity in grader.offsets:
        if identity not in own:
            grader.kill(grader.known[identity])
    for values, titles in owners:
        eps = [e for value in values for e in grader.offsets.get(id(value), [])]
        if not eps or not titles:
            continue
        if len(set(eps)) > 1 or len(eps) != sum(uses.get(id(value), 0) for value in values):
            grader.kill(grader.known[id(values[0])])
        else:
            found[titles[0]] = eps[0]
    return found
