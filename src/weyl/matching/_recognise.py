"""Recognise a member of an orbit by invariants of its units, without a search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weyl.canonical import signatures
from weyl.groups import Element, GaugeKind, Part
from weyl.matching._assignment import assign
from weyl.matching._descent import Record
from weyl.matching._problem import Problem
from weyl.matching._steps import Step, phase_sums, procrustes
from weyl.matching._terms import Term
from weyl.structure import Structure

__all__ = ["nearest", "pair_units", "propagate"]

# Of more units than so, an assignment is only made if so large a part of them is wanted by somebody.
LARGE, CLEAR = 512, 0.75


def pair_units(structure: Structure, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Element:
    """The permutation that brings every unit of b to the unit of a with the nearest signature.

    Parameters
    ----------
    structure : Structure
        Of both.
    a, b : mapping of str to tensor
        Whole states in the normal gauge.
    """
    group = structure.group
    ours, theirs = signatures(structure, a), signatures(structure, b)
    parts = dict(group.identity())
    mixed = {gauge.space for gauge in structure.gauges if gauge.kind.matrix}
    sizes = {space.name: space.size for space in group.spaces}
    for space in group.spaces:
        if space.name not in ours or space.name in mixed:
            continue
        shape = tuple(sizes[name] for name in space.within)
        found = np.empty((*shape, space.size), dtype=np.int64)
        for copy in np.ndindex(*shape):
            old = _old_copy(copy, space.within, parts, {s.name: s.within for s in group.spaces})
            left, right = ours[space.name][copy], theirs[space.name][old].to(ours[space.name].device)
            found[copy] = nearest(left, right)
        parts[space.name] = Part(found)
    return Element(group.spaces, parts, group.gauges)


def _old_copy(
    copy: tuple[int, ...], names: tuple[str, ...], parts: Mapping[str, Part], within: Mapping[str, tuple[str, ...]]
) -> tuple[int, ...]:
    """Where a copy at new outer indices comes from."""
    new = dict(zip(names, copy, strict=True))
    return tuple(
        int(parts[name].permutation[(*(new[outer] for outer in within[name]), index)]) if name in parts else index
        for name, index in new.items()
    )


def nearest(ours: Tensor, theirs: Tensor) -> NDArray[np.int64]:
    """Which unit of theirs is nearest to each of ours; where several want one, the best assignment.

    Signatures of unrelated units collide at random, in more than a third of the rows. Of many units they then say
    nothing, and everything stays where it is.
    """
    products = ours @ theirs.mT
    values = 2 * products - ours.square().sum(1)[:, None] - theirs.square().sum(1)
    wanted = len(np.unique(values.argmax(1).cpu().numpy()))
    different = len(np.unique(ours.cpu().numpy().round(6), axis=0))
    if len(values) > LARGE and wanted < CLEAR * different:
        return np.arange(len(values))
    return assign(values)


def propagate(problem: Problem, record: Record) -> bool:
    """Find signs, rotations and phases of b, units where they are, from what is fixed outwards.

    Each is solved from the terms all of whose other gauges are known, the signs of positions that do not move being
    known from the start. Where nothing is anchored, one unit is.

    Returns
    -------
    bool
        Whether everything was determined.
    """
    return _Propagation(problem, record).run()


class _Propagation:
    def __init__(self, problem: Problem, record: Record) -> None:
        self._problem, self._record = problem, record
        self._unknown: set[str] = {gauge for gauge, places in problem.odd.items() if places}
        self._on: list[set[str]] = [set() for _ in problem.terms]
        self._owner: dict[str, str] = {}
        for gauge, places in problem.odd.items():
            for number, _ in places:
                self._on[number].add(gauge)
        for name, units in problem.units.items():
            for gauge in units.signs:
                self._owner[gauge] = name
            for mixing in (units.matrix.name if units.matrix else None, units.phase):
                if mixing is not None and problem.places[name]:
                    self._owner[mixing] = name
                    self._unknown.add(mixing)
                    for number, _ in problem.places[name]:
                        self._on[number].add(mixing)

    def run(self) -> bool:
        while self._unknown:
            if any([self._solve(gauge, strict=True) for gauge in sorted(self._unknown)]):
                continue
            # What leaves some units open, since entries are zero, waits until nothing else is left.
            if any(self._solve(gauge, strict=False) for gauge in sorted(self._unknown)):
                continue
            if not self._anchor():
                return False
        return True

    def _usable(self, gauge: str) -> list[int]:
        """Terms of which one gauge, in one place, is all that is unknown."""
        return [
            number
            for number, on in enumerate(self._on)
            if on & self._unknown == {gauge} and self._places(gauge, number) == 1
        ]

    def _places(self, gauge: str, number: int) -> int:
        """How often a gauge acts on a term."""
        if gauge in self._problem.odd:
            return sum(place[0] == number for place in self._problem.odd[gauge])
        if gauge in self._problem.phases:
            return 1
        return sum(place[0] == number for place in self._problem.places[self._owner[gauge]])

    def _solve(self, gauge: str, *, strict: bool) -> bool:
        """Determine one gauge, if there is a term to do it by; strictly, only if it determines every unit."""
        if gauge not in self._unknown:
            return False
        numbers = self._usable(gauge)
        problem, name = self._problem, self._owner.get(gauge)
        if not numbers:
            return False
        if name is None:
            if sum(problem.terms[number].inner() for number in numbers) < 0:
                problem.flip_all(gauge)
                self._record.add(Step(0.0, {}, {gauge: np.asarray(-1)}))
        elif problem.units[name].matrix is not None:
            if not self._rotate(name, numbers, strict=strict):
                return False
        elif problem.units[name].phase == gauge:
            sums = phase_sums(problem, name, numbers)
            if sums is None or (strict and not bool((sums.abs() > 0).all())):
                return False
            turns = torch.where(sums.abs() > 0, sums / sums.abs(), torch.ones_like(sums))
            problem.turn(name, gauge, turns)
            self._record.add(Step(0.0, {}, {gauge: turns.cpu().numpy()}))
        else:
            sums = self._sums(name, gauge, numbers)
            if strict and not bool((sums != 0).all()):
                return False
            self._flip(name, gauge, sums)
        self._unknown.discard(gauge)
        return True

    def _sums(self, name: str, gauge: str, numbers: list[int]) -> Tensor:
        problem = self._problem
        total: Tensor | None = None
        for number, axis in problem.places[name]:
            if number in numbers and (number, axis) in problem.odd[gauge]:
                term = problem.terms[number]
                own = _relative(term, axis, term.outer(problem.units[name].within, axis))
                total = own if total is None else total + own
        assert total is not None
        return total

    def _flip(self, name: str, gauge: str, sums: Tensor) -> None:
        signs = np.where(sums.cpu().numpy() < 0, -1.0, 1.0)
        if (signs < 0).any():
            self._problem.flip(name, gauge, signs)
            self._record.add(Step(0.0, {}, {gauge: signs.astype(np.int8)}))

    def _rotate(self, name: str, numbers: list[int], *, strict: bool) -> bool:
        matrix = self._problem.units[name].matrix
        assert matrix is not None
        grams = self._problem.grams(name, numbers)
        value = sum(grams.values(), torch.zeros(())).double()
        spectrum = torch.linalg.svdvals(value)
        if strict and not bool((spectrum[..., -1] > 1e-9 * spectrum[..., 0]).all()):
            return False
        solved = procrustes(value, centred=matrix.kind is GaugeKind.CENTRED)
        self._problem.mix(name, solved)
        self._record.add(Step(0.0, {}, {matrix.name: solved.cpu().numpy()}))
        return True

    def _anchor(self) -> bool:
        """Fix one unit of a space of signs, read the signs of its neighbours off it, and go on from those."""
        free = [gauge for gauge in sorted(self._unknown) if gauge not in self._owner]
        if free:
            self._unknown.discard(free[0])
            return True
        for gauge in sorted(self._unknown):
            name = self._owner[gauge]
            units = self._problem.units[name]
            if units.within or gauge not in self._problem.odd:
                continue
            found = list(self._near(name, gauge))
            if found:
                other, sums = found[0]
                self._flip(self._owner[other], other, sums)
                self._unknown.discard(other)
                return True
        return False

    def _near(self, name: str, gauge: str) -> Iterator[tuple[str, Tensor]]:
        """Gauges of signs that stand with an anchored unit and nothing else that is unknown, and what the unit says."""
        problem = self._problem
        for number, on in enumerate(self._on):
            others = (on & self._unknown) - {gauge}
            if gauge not in on or len(others) != 1:
                continue
            other = next(iter(others))
            if other not in problem.odd or other not in self._owner:
                continue
            term, home = problem.terms[number], self._owner[other]
            mine = [axis for n, axis in problem.places[name] if n == number and (n, axis) in problem.odd[gauge]]
            theirs = [axis for n, axis in problem.places[home] if n == number and (n, axis) in problem.odd[other]]
            if len(mine) != 1 or len(theirs) != 1 or problem.units[home].within:
                continue
            unit = int(term.diagonal(mine[0], ()).abs().argmax())
            one = term.select(mine[0], unit, unit)
            yield other, one.diagonal(theirs[0] - (theirs[0] > mine[0]), ()).double()


def _relative(term: Term, axis: int, outer: list[int]) -> Tensor:
    """What every unit gives where it is, in units of the size of the term."""
    own = term.diagonal(axis, outer).double()
    size = own.abs().max()
    return own / size if float(size) > 0 else own
