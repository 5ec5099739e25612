"""Coordinate ascent over the spaces of a problem, and the element that it arrives at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from weyl.groups import Element, Part
from weyl.matching._problem import Problem
from weyl.matching._steps import Step, flip_everywhere, step
from weyl.structure import Structure

__all__ = ["Ascent", "Record", "ascend"]

Progress = Callable[[str], None]


class Record:
    """The product of all steps so far, as an element.

    Spaces that live in one another are kept together; a step composes the elements of its own family only.

    Parameters
    ----------
    structure : Structure
        Whose group the element is of.
    """

    def __init__(self, structure: Structure) -> None:
        self._group = group = structure.group
        self._family: dict[str, int] = {}
        families: dict[int, list[str]] = {}
        for number, space in enumerate(group.spaces):
            own = min((self._family[outer] for outer in space.within), default=number)
            for other in {self._family[outer] for outer in space.within} - {own}:
                for name in families.pop(other):
                    self._family[name] = own
                    families.setdefault(own, []).append(name)
            self._family[space.name] = own
            families.setdefault(own, []).append(space.name)
        everything = group.identity()
        self._elements: dict[int, Element] = {}
        for number, names in families.items():
            spaces = tuple(space for space in group.spaces if space.name in names)
            gauges = tuple(g for g in group.gauges if g.space in names and not g.kind.additive)
            parts = {name: everything[name] for name in names if name in everything}
            self._elements[number] = Element(spaces, parts, gauges)
        self._signs: dict[str, NDArray[np.generic]] = {}

    def add(self, one: Step) -> None:
        """Act with one more step."""
        changed = {self._family[name] for name in one.permutations}
        spaces = {gauge.name: gauge.space for gauge in self._group.gauges}
        for gauge, value in one.values.items():
            if spaces[gauge]:
                changed.add(self._family[spaces[gauge]])
            else:
                self._signs[gauge] = np.multiply(self._signs.get(gauge, 1), value)
        for family in changed:
            before = self._elements[family]
            parts = {n: Part(one.permutations[n]) if n in one.permutations else _still(before[n]) for n in before}
            known = {gauge.name for gauge in before.gauges}
            values = {gauge: value for gauge, value in one.values.items() if gauge in known}
            self._elements[family] = Element(before.spaces, parts, before.gauges, values) @ before

    @property
    def element(self) -> Element:
        """The element of the whole group."""
        parts = {name: part for element in self._elements.values() for name, part in element.items()}
        values: dict[str, NDArray[np.generic]] = dict(self._signs)
        for element in self._elements.values():
            values.update((gauge.name, element.values[gauge.name]) for gauge in element.gauges)
        return Element(self._group.spaces, parts, self._group.gauges, values)


def _still(part: Part) -> Part:
    shape = part.permutation.shape
    return Part(np.broadcast_to(np.arange(shape[-1]), shape).copy())


@dataclass
class Ascent:
    """Where an ascent came to.

    Parameters
    ----------
    history : list of float
        The objective at the start and after every sweep.
    sweeps, steps, gained : int
        Sweeps over all spaces, steps that were computed, and those that gained.
    converged : bool
        Whether the last visit of every space found nothing to gain.
    """

    history: list[float] = field(default_factory=list)
    sweeps: int = 0
    steps: int = 0
    gained: int = 0
    converged: bool = False


def ascend(
    problem: Problem,
    record: Record,
    *,
    seed: int,
    sweeps: int,
    progress: Progress | None = None,
) -> Ascent:
    """Maximise the objective over one space after another, in random order, until no space gains.

    A space is not visited again before something that shares a tensor with it has moved.

    Parameters
    ----------
    problem : Problem
        Its b is moved.
    record : Record
        Takes up the steps.
    seed : int
        Of the order of the spaces.
    sweeps : int
        At most so many.
    progress : callable, optional
        Told what is done.
    """
    rng = np.random.default_rng(seed)
    names = list(problem.units)
    signs = [gauge for gauge in problem.odd if any(axis < 0 for _, axis in problem.odd[gauge])]
    stale = {name for name in names if problem.units[name].moves and problem.places[name]}
    done = Ascent([problem.objective()])
    while done.sweeps < sweeps and not done.converged:
        gains = 0.0
        for number in rng.permutation(len(names)):
            name = names[number]
            if name not in stale:
                continue
            stale.discard(name)
            made = step(problem, name)
            done.steps += 1
            done.gained += bool(made)
            gains += _record(record, made)
            if made:
                stale |= {near for near in _affected(problem, name) if problem.units[near].moves}
        for gauge in signs:
            made = flip_everywhere(problem, gauge)
            done.gained += bool(made)
            gains += _record(record, made)
            if made:
                stale |= {n for t, _ in problem.odd[gauge] for n in problem.terms[t].axes if n in problem.units}
        done.sweeps += 1
        done.history.append(done.history[-1] + gains)
        done.converged = not stale
        if progress is not None:
            progress(f"sweep {done.sweeps}: objective {done.history[-1]:.6g}")
    done.history[-1] = problem.objective()
    return done


def _record(record: Record, made: Iterable[Step]) -> float:
    gains = 0.0
    for one in made:
        record.add(one)
        gains += one.gain
    return gains


def _affected(problem: Problem, name: str) -> set[str]:
    """Spaces whose best places may have changed once a space, or what is within it, has moved."""
    found: set[str] = set()
    for moved in (name, *problem.inner[name]):
        found |= problem.neighbours(moved)
    nested = bool(problem.inner[name] or problem.units[name].within)
    return found | set(problem.units[name].within) if nested or problem.coupled(name) else found - {name}


def unfinished(problem: Problem) -> Mapping[str, float]:
    """What one more exact step on every space would gain, from Grams computed anew; the problem is left as it is."""
    problem.forget()
    left = {}
    for name, units in problem.units.items():
        if units.moves and problem.places[name]:
            saved = [term.clone() for term in problem.terms]
            left[name] = sum(one.gain for one in step(problem, name))
            for term, old in zip(problem.terms, saved, strict=True):
                term.restore(old)
            problem.forget()
    return left
