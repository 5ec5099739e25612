"""From exponents to gauges: generators, which of them say the same, and where they act."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from itertools import combinations

from weyl.groups import Gauge, GaugeKind
from weyl.structure import Absorption, Block, Weight
from weyl.trace._cells import Cell
from weyl.trace._grade import Grader
from weyl.trace._graded import Graded, Strand, Term
from weyl.trace._solve import ZERO, Number, independent

__all__ = [
    "Gauges",
    "Generator",
    "Naming",
    "Place",
    "block_of",
    "find_generators",
    "make_gauges",
    "overlap_of",
    "prune",
]

# Scales to higher powers over- or underflow.
MOST_POWER = 16
# Kinds that contain scales, and those that contain signs.
CONTAINING = {
    GaugeKind.SCALE: (GaugeKind.LINEAR, GaugeKind.COMPLEX),
    GaugeKind.SIGN: (GaugeKind.LINEAR, GaugeKind.COMPLEX, GaugeKind.ORTHOGONAL, GaugeKind.CENTRED),
}
# An occurrence of an atom: tensor, number of the block, dimension, place in the strand; the last two -1 for a whole.
Place = tuple[str, int, int, int]


@dataclass(frozen=True)
class Generator:
    """One way in which the units of an atom (None: one number for all) act on the parameters.

    ``roots`` are the free exponents behind it. For complex numbers on pairs, ``partners`` has the offset of the
    imaginary parts for every tensor and dimension; ``powers`` has the places of both. ``added`` are the places to which
    a multiple is added.
    """

    atom: Cell | None
    kind: GaugeKind
    powers: Mapping[Place, int]
    roots: frozenset[int] = frozenset()
    partners: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    added: Mapping[Place, float] = field(default_factory=dict)


@dataclass
class Gauges:
    """What a structure is told."""

    gauges: list[Gauge] = field(default_factory=list)
    weights: dict[str, dict[str, tuple[Weight, ...]]] = field(default_factory=dict)
    offsets: dict[str, float] = field(default_factory=dict)
    absorptions: dict[str, tuple[Absorption, ...]] = field(default_factory=dict)
    overlap: tuple[int, int] = (0, 0)


# ---------------------------------------------------------------------- generators
def find_generators(
    grader: Grader, parameters: Mapping[str, Graded], shifts: Mapping[int, Place], flipped: Sequence[int]
) -> list[Generator]:
    """Independent generators of every atom, from the solved equations.

    ``shifts`` are unknown signs that half a period of a sine gives, with the place of the bias that shifts it;
    ``flipped`` those of sigmoids: each is flipped by one generator at most, so that its constant is taken up once.
    """
    found: list[Generator] = []
    for kind, system, modulus in ((GaugeKind.SCALE, grader.scales, 0), (GaugeKind.SIGN, grader.signs, 2)):
        rows: dict[int, dict[Place, Number]] = defaultdict(dict)
        for place, unknown in _places(parameters):
            for root, power in system.expression(unknown).items():
                rows[root][place] = power
        by_atom: dict[Cell | None, list[Generator]] = defaultdict(list)
        for root in sorted(rows):
            atom = grader.homes[root]
            by_atom[atom].append(Generator(atom, kind, _whole(rows[root]), frozenset({root})))
        for several in by_atom.values():
            generators = [g for g in several if max(map(abs, g.powers.values())) <= MOST_POWER]
            if modulus:
                generators = _once(_apart(generators, grader, shifts), grader, flipped)
            chosen = independent([{place: p for place, p in g.powers.items()} for g in generators], modulus)
            found.extend(generators[i] for i in chosen)
    return _mixing(grader, parameters, found)


def _apart(generators: list[Generator], grader: Grader, shifts: Mapping[int, Place]) -> list[Generator]:
    """Tell flips of what a sine reads from shifts of it by half a period."""
    own = [(u, place) for u, place in shifts.items() if grader.homes[u] is generators[0].atom] if generators else []
    if not own:
        return generators
    roots: list[frozenset[int]] = [g.roots for g in generators]

    def flips(place: Place, chosen: frozenset[int]) -> bool:
        return (
            sum(power for g in generators if g.roots <= chosen for p, power in g.powers.items() if p == place) % 2 == 1
        )

    tests = [partial(flips, place) for _, place in own] + [partial(grader.odd, unknown) for unknown, _ in own]
    roots = _eliminated(roots, tests)
    out = []
    for chosen in roots:
        powers = _total([g.powers for g in generators if g.roots <= chosen])
        added = {place: math.pi for unknown, place in own if grader.odd(unknown, chosen)}
        if not added and powers:
            out.append(Generator(generators[0].atom, GaugeKind.SIGN, powers, chosen))
        elif added and not any(flips(place, chosen) for _, place in own):
            out.append(Generator(generators[0].atom, GaugeKind.SHIFT, powers, chosen, added=added))
    return out


def _once(generators: list[Generator], grader: Grader, flipped: Sequence[int]) -> list[Generator]:
    """Choose flips so that each sigmoid is flipped by one of them at most; leave out what would flip it as well."""
    own = [u for u in flipped if any(grader.odd(u, g.roots) for g in generators)]
    if not own:
        return generators
    plain = [g for g in generators if g.kind is GaugeKind.SIGN]
    out = [g for g in generators if g.kind is not GaugeKind.SIGN]
    for chosen in _eliminated([g.roots for g in plain], [partial(grader.odd, u) for u in own]):
        powers = _total([g.powers for g in plain if g.roots <= chosen])
        again = any(grader.odd(u, chosen) and any(grader.odd(u, g.roots) for g in out) for u in own)
        if powers and not again:
            out.append(Generator(generators[0].atom, GaugeKind.SIGN, powers, chosen))
    return out


def _eliminated(rows: list[frozenset[int]], tests: Sequence[Callable[[frozenset[int]], bool]]) -> list[frozenset[int]]:
    """Sums of rows such that each test, in order, holds of one row only where that can be had."""
    free = list(range(len(rows)))
    for test in tests:
        pivot = next((i for i in free if test(rows[i])), None)
        if pivot is None:
            continue
        free.remove(pivot)
        rows = [row ^ rows[pivot] if i != pivot and test(row) else row for i, row in enumerate(rows)]
    return rows


def _total(rows: Iterable[Mapping[Place, int]]) -> dict[Place, int]:
    """Sum modulo two."""
    total: dict[Place, int] = {}
    for row in rows:
        for place, power in row.items():
            total[place] = (total.get(place, 0) + power) % 2
    return {place: 1 for place, power in total.items() if power}


def _places(parameters: Mapping[str, Graded]) -> Iterator[tuple[Place, int]]:
    for name, tensor in parameters.items():
        for number, term in enumerate(tensor.terms or ()):
            if term.scalar != ZERO:
                yield (name, number, -1, -1), term.scalar
            for dim, unknowns in enumerate(term.unknowns):
                for place, unknown in enumerate(unknowns):
                    if unknown != ZERO:
                        yield (name, number, dim, place), unknown


def _whole(row: Mapping[Place, Number]) -> dict[Place, int]:
    """The same direction in coprime integers, the first positive."""
    common = math.lcm(*(power.denominator for power in row.values()))
    whole = {place: int(power * common) for place, power in row.items()}
    divisor = math.gcd(*whole.values())
    sign = 1 if next(iter(whole.values())) > 0 else -1
    return {place: sign * p // divisor for place, p in whole.items()}


def _mixing(grader: Grader, parameters: Mapping[str, Graded], found: list[Generator]) -> list[Generator]:
    """Replace the scales and signs of atoms whose units may be mixed by matrices."""
    unknowns: dict[Cell, list[int]] = defaultdict(list)
    for unknown, home in enumerate(grader.homes):
        if home is not None:
            unknowns[home].append(unknown)
    mixed: dict[Cell, Generator] = {}
    for atom in unknowns:
        if atom in grader.rough or atom.pin is not None:
            continue
        own = [g for g in found if g.atom is atom]
        scales = [g for g in own if g.kind is GaugeKind.SCALE]
        if atom in grader.centred or atom in grader.normed:
            kind = GaugeKind.CENTRED if atom in grader.centred else GaugeKind.ORTHOGONAL
            places = _occurrences(parameters, atom)
            if places:
                mixed[atom] = Generator(atom, kind, dict.fromkeys(places, 1))
        elif len(scales) == 1 and _contragredient(grader, unknowns[atom]):
            mixed[atom] = Generator(atom, GaugeKind.LINEAR, scales[0].powers)
    rest = [g for g in found if g.atom is None or g.atom not in mixed]
    return [*rest, *mixed.values()]


def diagonal(generator: Generator) -> list[Generator]:
    """What is left of matrices on the units of an atom when units must not be mixed: scales and signs."""
    signs = replace(generator, kind=GaugeKind.SIGN, powers=dict.fromkeys(generator.powers, 1), partners={})
    match generator.kind:
        case GaugeKind.LINEAR | GaugeKind.COMPLEX:
            return [replace(generator, kind=GaugeKind.SCALE, partners={}), signs]
        case GaugeKind.ORTHOGONAL:
            return [signs]
        case GaugeKind.CENTRED:
            return []
        case _:
            return [generator]


def _contragredient(grader: Grader, unknowns: Iterable[int]) -> bool:
    """Whether every occurrence of an atom transforms by a matrix or by its inverse transposed."""
    powers: set[Fraction] = set()
    roots: set[int] = set()
    for unknown in unknowns:
        expression: Mapping[int, Number] = grader.scales.expression(unknown)
        if len(expression) != 1:
            return False
        ((root, power),) = expression.items()
        roots.add(root)
        powers.add(abs(Fraction(power)))
    return len(roots) == 1 and len(powers) == 1


def _occurrences(parameters: Mapping[str, Graded], atom: Cell) -> list[Place]:
    return [
        (name, number, dim, place)
        for name, tensor in parameters.items()
        for number, term in enumerate(tensor.terms or ())
        for dim, strand in enumerate(term.strands)
        for place, (cell, _) in enumerate(strand.atoms)
        if cell is atom
    ]


# ---------------------------------------------------------------------- generators that say the same
Relation = Mapping[Cell, frozenset[Cell]]
Component = dict[object, Number]


def prune(generators: Sequence[Generator], parameters: Mapping[str, Graded], within: Relation) -> list[Generator]:
    """Leave out generators of outer atoms that those of atoms within them, equal over the inner units, give as well."""
    ordered = sorted(generators, key=lambda g: -1 if g.atom is None else len(within[g.atom]), reverse=True)
    kept = [g for g in ordered if g.kind not in (GaugeKind.SCALE, GaugeKind.SIGN)]
    for kind, modulus in ((GaugeKind.SCALE, 0), (GaugeKind.SIGN, 2)):
        mine = [g for g in ordered if g.kind is kind]
        done = [g for g in ordered if g.kind in CONTAINING[kind]]
        for atom in dict.fromkeys(g.atom for g in mine):
            own = [g for g in mine if g.atom is atom]
            target = _reach(own[0], within)
            beside = [_component(g, target, parameters) for g in done if target <= _reach(g, within)]
            rows = [_component(g, target, parameters) for g in own]
            done.extend(own[i] for i in independent(rows, modulus, beside))
        kept.extend(g for g in done if g.kind is kind)
    return kept


def _reach(generator: Generator, within: Relation) -> frozenset[Cell]:
    """Atoms on whose index the scales or signs of a generator depend; of centred matrices, only one sign is meant."""
    if generator.atom is None:
        return frozenset()
    return within[generator.atom] | (frozenset() if generator.kind is GaugeKind.CENTRED else {generator.atom})


def _component(generator: Generator, atoms: frozenset[Cell], parameters: Mapping[str, Graded]) -> Component:
    """What a generator does that depends on the indices of given atoms alone: by tensor, block and occurrences."""
    out: Component = {}
    for (name, number, dim, place), power in generator.powers.items():
        term = (parameters[name].terms or ())[number]
        where = tuple(sorted(_occurrence(term, dim, place, atom, generator.atom) for atom in atoms))
        key = (name, number, where)
        out[key] = out.get(key, 0) + power
    return {key: power for key, power in out.items() if power}


def _occurrence(term: Term, dim: int, place: int, atom: Cell, own: Cell | None) -> tuple[int, int]:
    """Where the index of an atom stands that belongs to one occurrence of an atom within it."""
    if atom is own:
        return dim, place
    beside = [p for p, (cell, _) in enumerate(term.strands[dim].atoms) if cell is atom]
    if len(beside) == 1:
        return dim, beside[0]
    return next(
        (d, p) for d, strand in enumerate(term.strands) for p, (cell, _) in enumerate(strand.atoms) if cell is atom
    )


def overlap_of(generators: Sequence[Generator], parameters: Mapping[str, Graded], within: Relation) -> tuple[int, int]:
    """How many continuous dimensions, and how many signs, the generators count more than once.

    Functions of several indices fall into those that depend on each set of them (and on no smaller one); generators
    are compared within each such set.
    """
    totals = []
    for kind, modulus in ((GaugeKind.SCALE, 0), (GaugeKind.SIGN, 2)):
        mine = [g for g in generators if g.kind is kind or g.kind in CONTAINING[kind]]
        by_set: dict[frozenset[Cell], list[Generator]] = defaultdict(list)
        for generator in mine:
            reach = sorted(_reach(generator, within), key=id)
            for size in range(len(reach) + 1):
                for chosen in combinations(reach, size):
                    by_set[frozenset(chosen)].append(generator)
        total = 0
        for atoms, members in by_set.items():
            rows = [_component(g, atoms, parameters) for g in members]
            if modulus:
                rows = [{key: power % 2 for key, power in row.items() if power % 2} for row in rows]
            lost = len(rows) - len(independent(rows, modulus))
            total += lost * math.prod(atom.size - 1 for atom in atoms)
        totals.append(total)
    return totals[0], totals[1]


# ---------------------------------------------------------------------- where they act
@dataclass(frozen=True)
class Naming:
    """Final names of atoms, and the spaces that each lives within."""

    names: Mapping[Cell, str]
    sizes: Mapping[str, int]
    within: Mapping[str, tuple[str, ...]]


Absorber = Callable[[Generator, Naming], tuple[Absorption, ...]]


def make_gauges(
    generators: Sequence[Generator], parameters: Mapping[str, Graded], naming: Naming, absorb: Absorber
) -> tuple[Gauges, list[Generator]]:
    """Name the generators and write down where each acts; ``absorb`` says which biases take up a flip.

    Generators of two atoms that became one space may be the same; the second is left out.
    """
    out = Gauges()
    kept: list[Generator] = []
    counts: dict[tuple[str, GaugeKind], int] = defaultdict(int)
    for generator in sorted(generators, key=lambda g: (g.atom is None, g.kind is GaugeKind.SIGN)):
        space = "" if generator.atom is None else naming.names[generator.atom]
        weights = _weights(generator, space, parameters, naming)
        if any(g.space == space and g.kind is generator.kind and out.weights[g.name] == weights for g in out.gauges):
            continue
        counts[space, generator.kind] += 1
        number = counts[space, generator.kind]
        title = space or next(iter(generator.powers))[0]
        name = f"{title} {generator.kind.value}" + (f" {number}" if number > 1 and space else "")
        while name in out.weights:
            number += 1
            name = f"{title} {generator.kind.value} {number}"
        out.gauges.append(Gauge(name, space, generator.kind))
        out.weights[name] = weights
        kept.append(generator)
        taken = absorb(generator, naming)
        if taken:
            out.absorptions[name] = taken
    _carry(out)
    return out, kept


def _carry(out: Gauges) -> None:
    """Say of translations and shifts what acts on what they translate.

    They are left out where what acts there belongs to another space, or cannot be carried.
    """
    kept: list[Gauge] = []
    for gauge in out.gauges:
        if not gauge.kind.additive:
            kept.append(gauge)
            continue
        added = ((tensor, w) for tensor, ws in out.weights[gauge.name].items() for w in ws if w.coefficient)
        found = {_acting(out, tensor, weight) for tensor, weight in added}
        others = found.pop() if len(found) == 1 else None
        if others is not None and all(_carried(gauge, other) for other, _ in others):
            kept.append(replace(gauge, carries=tuple((other.name, power) for other, power in others)))
        else:
            del out.weights[gauge.name]
    out.gauges = kept


def _carried(gauge: Gauge, other: Gauge) -> bool:
    """Whether what a gauge adds can be composed with what another multiplies."""
    if other.space not in (gauge.space, ""):
        return False
    return other.kind is GaugeKind.SIGN if gauge.kind is GaugeKind.SHIFT else other.kind is not GaugeKind.COMPLEX


def _acting(out: Gauges, tensor: str, place: Weight) -> tuple[tuple[Gauge, int], ...] | None:
    """Gauges that act on the same block of a tensor, with their exponents; None if one acts on a part of it."""
    found: list[tuple[Gauge, int]] = []
    for gauge in out.gauges:
        for weight in () if gauge.kind.additive else out.weights[gauge.name].get(tensor, ()):
            if not weight.blocks or weight.blocks == place.blocks:
                found.append((gauge, weight.exponent))
            elif _meet(weight, place):
                return None
    return tuple(found)


def _meet(a: Weight, b: Weight) -> bool:
    """Whether two weights act on some entry both."""
    whole = dict(b.blocks)
    return all(_positions(block, a.partner) & _positions(whole[d], b.partner) for d, block in a.blocks if d in whole)


def _positions(block: Block, partner: int) -> set[int]:
    places = {block.base, block.base + partner}
    for _, size, stride in block.factors:
        places = {place + i * stride for place in places for i in range(size)}
    return places


def _weights(
    generator: Generator, space: str, parameters: Mapping[str, Graded], naming: Naming
) -> dict[str, tuple[Weight, ...]]:
    found: dict[str, dict[Weight, None]] = defaultdict(dict)
    for (name, number, dim, place), coefficient in generator.added.items():
        weight = _weight(parameters[name], number, dim, place, 1, space, naming)
        found[name][replace(weight, coefficient=coefficient)] = None
    for (name, number, dim, place), power in generator.powers.items():
        if generator.kind is GaugeKind.SIGN and power % 2 == 0:
            continue
        if dim < 0:
            found[name][Weight((), -1, -1, power)] = None
            continue
        weight = _weight(parameters[name], number, dim, place, power, space, naming)
        if generator.kind is GaugeKind.COMPLEX:
            partner = generator.partners[name][dim]
            strands = {t.strands[dim] for t in parameters[name].terms or ()}
            own = (parameters[name].terms or ())[number].strands[dim]
            if any(s.base == own.base - partner and s.atoms == own.atoms for s in strands):
                continue  # the imaginary half
            weight = replace(weight, partner=partner)
        found[name][weight] = None
    return {name: tuple(weights) for name, weights in found.items()}


def _weight(tensor: Graded, number: int, dim: int, place: int, power: int, space: str, naming: Naming) -> Weight:
    terms = tensor.terms or ()
    term = terms[number]
    block, factors = block_of(term.strands[dim], naming)
    factor = factors[place]
    names = [name for name, _, _ in block.factors]
    linked = {
        d
        for outer in naming.within[space]
        if names.count(outer) != 1
        for d, strand in enumerate(term.strands)
        if d != dim and any(name == outer for name, _, _ in block_of(strand, naming)[0].factors)
    }
    alike = sum(t.strands[dim] == term.strands[dim] for t in terms)
    others = math.prod(len({t.strands[d] for t in terms}) for d in range(tensor.ndim) if d != dim)
    if alike != others:
        linked |= {d for d in range(tensor.ndim) if len({t.strands[d] for t in terms}) > 1}
    dims = sorted(linked | {dim})
    blocks = tuple((d, block if d == dim else block_of(term.strands[d], naming)[0]) for d in dims)
    return Weight(blocks, dim, factor, power)


def block_of(strand: Strand, naming: Naming) -> tuple[Block, list[int]]:
    """A strand in final names, and the factor of the block to which each of its atoms belongs."""
    pieces: list[tuple[str | None, int, int, int]] = [
        (naming.names.get(cell), cell.size, stride, place) for place, (cell, stride) in enumerate(strand.atoms)
    ]
    pieces += [(None, size, stride, -1) for size, stride in strand.uniform if size > 1]
    pieces.sort(key=lambda piece: -piece[2])
    factors: list[tuple[str | None, int, int]] = []
    home = [0] * len(strand.atoms)
    for name, size, stride, place in pieces:
        last = factors[-1] if factors else None
        # atoms that were merged into one space stand side by side
        if last and name is not None and last[0] == name and last[1] * size <= naming.sizes[name]:
            factors[-1] = (name, last[1] * size, stride)
        else:
            factors.append((name, size, stride))
        if place >= 0:
            home[place] = len(factors) - 1
    return Block(strand.base, tuple(factors)), home
