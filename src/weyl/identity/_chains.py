"""Frames: how units of two states correspond, found from one end of a network or the other, and from which tensors."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from weyl.identity._upright import free_signs
from weyl.matching._problem import Parity, Problem, Units
from weyl.matching._steps import step

__all__ = [
    "REDUCED",
    "Chain",
    "Halves",
    "Place",
    "Split",
    "follow",
    "halves_of",
    "inner_and_columns",
    "planned",
    "split_of",
    "testable",
    "width",
]

# Columns to which a tensor is reduced before products of units are formed, so that those stay small.
REDUCED = 48
# Units of a space that can be cut in half.
FEWEST = 16

Place = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Chain:
    """The order in which spaces of a problem are brought into the frame of the first state, and from which terms.

    Parameters
    ----------
    problem : Problem
        Of both states.
    sources : dict of str to frozenset of int
        For every space that gets a frame, the terms that it is found from, and those their frames are found from.
    path : list of (str, tuple of int)
        Spaces in order, each with the terms that it is found from.
    places : dict of str to int64 array
        For spaces whose units of b were moved, where each unit was before, shape ``(*outer, n)``.
    flips : dict of str to float64 array
        For families of signs, what units of b were multiplied by, at their new places.
    """

    problem: Problem
    sources: dict[str, frozenset[int]]
    path: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    places: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    flips: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def undone(self, name: str, parity: Parity, rows: Float[Tensor, "copies n d"]) -> Float[Tensor, "copies n d"]:
        """Rows of a space of b with the numbers and signs that its units had before they were moved."""
        for gauge in sorted(parity):
            if gauge in self.flips:
                signs = torch.from_numpy(self.flips[gauge]).to(rows)
                rows = rows * signs.reshape(*rows.shape[:-1], 1)
        if name not in self.places:
            return rows
        back = torch.from_numpy(np.argsort(self.places[name], axis=-1)).to(rows.device)
        return torch.take_along_dim(rows, back.reshape(*rows.shape[:-1], 1), -2)

    def read(self, name: str, place: Place) -> frozenset[int] | None:
        """Terms that the rows of a space depend on in one place; None if another axis has no frame.

        Spaces that live within this one need none: only products are read that they leave alone.
        """
        number, axis = place
        found = {number}
        for other_axis, other in enumerate(self.problem.terms[number].axes):
            if other is None or other_axis == axis or name in self.problem.units[other].within:
                continue
            if other not in self.sources:
                return None
            found |= self.sources[other]
        return frozenset(found)


def planned(problem: Problem, *, backwards: bool = False) -> Chain:
    """Decide in which order spaces get frames, from what is fixed inwards; nothing is moved yet.

    The next space is that of the first term, in the order of the structure or against it, all of whose other axes
    have frames. It is found from the one term of that kind that has most columns: where a head was replaced, what
    goes with it must not spoil what the embedding says.

    Parameters
    ----------
    problem : Problem
        Of both states.
    backwards : bool
        Whether to begin at the end of the structure.
    """
    chain = Chain(problem, {name: frozenset() for name, units in problem.units.items() if not units.moves})
    while True:
        ready = [(n, place) for n in range(len(problem.terms)) if (place := _only_unknown(chain, n))]
        if not ready:
            return chain
        name = ready[-1 if backwards else 0][1][0]
        places = [(n, axis) for n, (found, axis) in ready if found == name]
        best = max(reversed(places) if backwards else places, key=lambda place: _columns(problem, name, place))
        chain.path.append((name, (best[0],)))
        chain.sources[name] = chain.read(name, best) or frozenset()


def _columns(problem: Problem, name: str, place: Place) -> int:
    """How many numbers stand beside each unit of a space in one place."""
    _, columns = inner_and_columns(problem, name, place)
    return math.prod(_length(problem, place[0], at) for at in columns)


def follow(chain: Chain, reads: Collection[tuple[Chain, Sequence[Place]]]) -> None:
    """Move units of b along a chain, each space to its optimum (an assignment, Procrustes, phases), where it is needed.

    Parameters
    ----------
    chain : Chain
        Its problem is written to.
    reads : collection of (Chain, sequence of (int, int))
        Places whose rows are read, and in which chain: those in this one say what is needed.
    """
    needed: set[str | None] = set()
    for own, group in reads:
        if own is chain:
            needed |= {other for n, at in group for other in _without(chain.problem.terms[n].axes, at)}
    for name, numbers in reversed(chain.path):
        if name in needed:
            needed |= {other for n in numbers for other in chain.problem.terms[n].axes}
    for name, numbers in chain.path:
        if name in needed:
            _move(chain, name, numbers)


def _without(axes: tuple[str | None, ...], place: int) -> tuple[str | None, ...]:
    return axes[:place] + axes[place + 1 :]


def _only_unknown(chain: Chain, number: int) -> tuple[str, int] | None:
    """The one axis of a term whose space has no frame yet, if there is just one and it can get one."""
    term, units = chain.problem.terms[number], chain.problem.units
    unknown = [(name, axis) for axis, name in enumerate(term.axes) if name is not None and name not in chain.sources]
    if len(unknown) != 1 or len(term.axes) < 2:
        return None
    within = units[unknown[0][0]].within
    return unknown[0] if all(outer in chain.sources and not units[outer].moves for outer in within) else None


def _move(chain: Chain, name: str, numbers: Sequence[int]) -> None:
    """Bring the units of one space to their best places, as seen by some terms, in all terms."""
    problem = chain.problem
    index = {number: new for new, number in enumerate(numbers)}
    axes = {number: problem.terms[number].axes.index(name) for number in numbers}
    # A sign of whole tensors is a sign of every unit, found unit by unit and then by their majority.
    whole = sorted({gauge for number in numbers for gauge in free_signs(problem, number)})
    units = replace(problem.units[name], signs=(*problem.units[name].signs, *whole))
    odd = {
        gauge: {(index[number], axis) for number, axis in problem.odd.get(gauge, ()) if number in index}
        for gauge in problem.units[name].signs
    }
    for gauge in whole:
        odd[gauge] = {(index[n], axes[n]) for n, axis in problem.odd[gauge] if n in index and axis == -1}
    phases = {
        gauge: [(index[r], index[m], axis) for r, m, axis in triples if r in index and m in index]
        for gauge, triples in problem.phases.items()
    }
    part = Problem({name: units}, [problem.terms[number].clone() for number in numbers], odd, phases)
    for one in step(part, name):
        for permutation in one.permutations.values():
            problem.permute(name, permutation)
            chain.places[name] = permutation
        for gauge, value in one.values.items():
            if gauge not in whole:
                _apply(problem, problem.units[name], gauge, value)
                if gauge in problem.units[name].signs:
                    chain.flips[gauge] = value.astype(np.float64)
            elif value.sum() < 0:
                problem.flip_all(gauge)
    for gauge in whole:
        problem.odd[gauge] = set()


def _apply(problem: Problem, units: Units, gauge: str, value: np.ndarray) -> None:
    if units.matrix is not None and units.matrix.name == gauge:
        problem.mix(units.name, torch.from_numpy(value))
    elif units.phase == gauge:
        problem.turn(units.name, gauge, torch.from_numpy(value))
    else:
        problem.flip(units.name, gauge, value.astype(np.float64))


@dataclass(frozen=True, eq=False)
class Split:
    """Two groups of the places of a space, and the frames in which the rows of either are read.

    No term of one group has a part in the rows of the other, nor in the frames in which those are read.
    """

    first: tuple[Place, ...]
    second: tuple[Place, ...]
    chains: tuple[Chain, Chain]


@dataclass(frozen=True, eq=False)
class Halves:
    """Places of a space whose rows are cut into two groups by the units of another space, in whose frame they are read.

    No frame depends on a tensor of the space itself. Positions of the input would not do: neighbouring pixels say
    the same, while units of another space have nothing in common but what training gave them.
    """

    places: tuple[Place, ...]
    chain: Chain
    columns: str


def halves_of(chains: Sequence[Chain], name: str) -> Halves | None:
    """The places of a space with the most numbers that can be cut in half; None if there are none.

    Parameters
    ----------
    chains : sequence of Chain
        As planned.
    name : str
        The space.
    """
    best: tuple[int, Halves] | None = None
    for chain in chains:
        problem = chain.problem
        own = {number for number, _ in problem.places[name]}
        found: dict[str, list[Place]] = {}
        for place in sorted(problem.places[name]):
            terms, axes = chain.read(name, place), problem.terms[place[0]].axes
            inner, columns = inner_and_columns(problem, name, place)
            if terms is None or (terms - {place[0]}) & own or inner or not width(problem, name, place):
                continue
            for other in {axes[at] for at in columns}:
                if other is not None and axes.count(other) == 1 and problem.units[other].size >= FEWEST:
                    found.setdefault(other, []).append(place)
        for other, places in found.items():
            size = sum(width(problem, name, place) for place in places)
            if problem.units[other].moves and (best is None or size > best[0]):
                best = size, Halves(tuple(places), chain, other)
    return best[1] if best else None


def testable(problem: Problem) -> list[str]:
    """Spaces whose units trade places, within nothing that moves itself, and are at least four."""
    return [
        name
        for name, units in problem.units.items()
        if units.permuted and units.size >= 4 and not any(problem.units[outer].moves for outer in units.within)
    ]


def split_of(bottom: Chain, top: Chain, name: str) -> Split | None:
    """The most even split of the places of a space into two groups that share nothing; None if there is none.

    Parameters
    ----------
    bottom, top : Chain
        Frames found from the beginning and from the end, as planned.
    name : str
        The space.
    """
    problem = bottom.problem
    sizes = {place: width(problem, name, place) for place in problem.places[name]}
    places = sorted(place for place, size in sizes.items() if size)
    cuts = [k for k in range(1, len(places)) if not _together(problem, name, places[k - 1], places[k])]
    best: tuple[tuple[int, int], Split] | None = None
    for chains in ((bottom, bottom), (bottom, top), (top, bottom), (top, top)):
        read = [{place: chain.read(name, place) for place in places} for chain in chains]
        for cut in cuts:
            groups = _disjoint(places[:cut], places[cut:], read)
            totals = sorted(sum(sizes[place] for place in group) for group in groups)
            value = (min(totals[0], problem.units[name].size), min(totals[1], problem.units[name].size))
            if totals[0] and (best is None or value > best[0]):
                best = value, Split(tuple(groups[0]), tuple(groups[1]), chains)
    return best[1] if best else None


def width(problem: Problem, name: str, place: Place) -> int:
    """How many numbers the rows of a space have in one place; 0 if they are too few to be used.

    One number for a unit (a bias, a gain) says little, and that it goes with others is no coincidence.
    """
    number, axis = place
    term = problem.terms[number]
    inner, columns = inner_and_columns(problem, name, place)
    total = 1
    for at in columns:
        total *= _length(problem, number, at)
    if axis in inner or total < 2 or term.axes.count(name) > 2:
        return 0
    reduced = min(total, REDUCED)
    return reduced * (reduced + 1) // 2 if inner else total


def _length(problem: Problem, number: int, axis: int) -> int:
    from weyl.matching._terms import Pair

    term = problem.terms[number]
    assert isinstance(term, Pair)
    return int(term.a.shape[axis])


def inner_and_columns(problem: Problem, name: str, place: Place) -> tuple[list[int], list[int]]:
    """The other axes of a term: those of units that live within a space, and those of positions and of framed units."""
    number, axis = place
    term = problem.terms[number]
    outer = set(term.outer(problem.units[name].within, axis))
    inner: list[int] = []
    columns: list[int] = []
    for at, other in enumerate(term.axes):
        if at != axis and at not in outer:
            (inner if other is not None and name in problem.units[other].within else columns).append(at)
    return inner, columns


def _together(problem: Problem, name: str, one: Place, other: Place) -> bool:
    """Whether two places may not be in different groups: units within are brought to one gauge over both of them."""
    within = [
        {problem.terms[place[0]].axes[at] for at in inner_and_columns(problem, name, place)[0]}
        for place in (one, other)
    ]
    return bool(within[0] & within[1])


def _disjoint(
    first: Sequence[Place], second: Sequence[Place], read: Sequence[dict[Place, frozenset[int] | None]]
) -> tuple[list[Place], list[Place]]:
    """What can be used of two groups if neither may depend on the other."""
    out = []
    for group, other, known in ((first, second, read[0]), (second, first, read[1])):
        foreign = {number for number, _ in other} - {number for number, _ in group}
        found = {place: known[place] for place in group}
        out.append([place for place, terms in found.items() if terms is not None and not terms & foreign])
    return out[0], out[1]
