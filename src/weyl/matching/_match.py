"""``match``: the group element that brings one state nearest to another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from torch import Tensor, nn

from weyl.actions import act, check_seed
from weyl.canonical import centred, normal_places, restricted, shapes_of, slack_of
from weyl.errors import LimitError, UsageError
from weyl.groups import Element, GaugeKind
from weyl.matching._activations import Activation, cross_moments
from weyl.matching._build import build, moment_terms
from weyl.matching._descent import Ascent, Record, ascend, unfinished
from weyl.matching._frames import Frames, check_pair, distance
from weyl.matching._problem import Problem
from weyl.matching._recognise import pair_units, propagate
from weyl.structure import Structure

__all__ = ["Job", "Match", "checked_options", "match", "norm", "recognise", "search"]

State = Mapping[str, Tensor]
Progress = Callable[[str], None]

COSTS = ("weights", "activations", "both")
KINDS = ("permute", "sign", "scale", "mix", "translate")
STARTS = ("identity", "invariants")
SWEEPS = 200
# By how much activations outweigh weights where they alone are asked for: weights then break ties, and speak for the
# spaces that no activation shows.
DOMINANT = 1e6


@dataclass(frozen=True, eq=False)
class Match:
    r"""The element that brings one state next to another, and what is known of it.

    Parameters
    ----------
    element : Element
        ``act(element, structure, b)`` lies next to a.
    objective : float
        :math:`\langle a', g b' \rangle`, summed over all entries of tensors that the group can move, a' and b' in
        the normal gauge. For permutations and signs alone they are a and b, and the greatest objective is the least
        distance.
    history : tuple of float
        The objective at the start and after every sweep.
    distance, distance_before : float
        Euclidean distance of a from b, aligned and as it was, over all floating tensors of the structure.
    coordinate_optimal : bool
        Whether no space alone can be moved to gain anything; for a space that stands twice in one tensor (a
        recurrence), not by its linearised step.
    exact : bool
        Whether b, moved, is a up to the rounding of float32 or float64: the two are one network in other coordinates.
        Copies in half precision that were also scaled or mixed are farther apart than that, and not exact.
    sweeps, steps, gained : int
        Sweeps over the spaces, exact steps made, and those that gained; none for a copy that was recognised.
    """

    element: Element
    objective: float
    history: tuple[float, ...]
    distance: float
    distance_before: float
    coordinate_optimal: bool
    exact: bool
    sweeps: int = 0
    steps: int = 0
    gained: int = 0
    _certify: Callable[[], Mapping[str, float]] = field(default=dict, repr=False)

    @cached_property
    def certificate(self) -> Mapping[str, float]:
        """By space, what one more exact step would gain, as a share of the objective's bound |a'| |b'|.

        Computed when first asked for, from Grams made anew in the precision of the states, which must still be what
        they were: 0 throughout says that the match is a coordinate optimum.
        """
        return dict(self._certify())

    def __getstate__(self) -> dict[str, Any]:
        """For pickling: with the certificate, without the states that it is computed from."""
        known = self.certificate
        return {**self.__dict__, "certificate": known, "_certify": dict}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready summary; the element itself is left out."""
        return {
            "objective": self.objective,
            "history": list(self.history),
            "distance": self.distance,
            "distance_before": self.distance_before,
            "coordinate_optimal": self.coordinate_optimal,
            "exact": self.exact,
            "sweeps": self.sweeps,
            "steps": self.steps,
            "gained": self.gained,
            "moves": sorted(self.element.moves),
        }

    def __repr__(self) -> str:
        how = "exact" if self.exact else "coordinate optimum" if self.coordinate_optimal else "not converged"
        return f"Match({how}, distance {self.distance_before:.4g} to {self.distance:.4g}, {self.sweeps} sweeps)"


def match(
    structure: Structure,
    a: State,
    b: State,
    *,
    costs: str = "weights",
    model: nn.Module | None = None,
    data: Iterable[Any] | None = None,
    kinds: Iterable[str] | None = None,
    restarts: int = 1,
    seed: int = 0,
    start: Element | Match | str | None = None,
    sweeps: int = SWEEPS,
    progress: Progress | None = None,
) -> Match:
    r"""Find the element of the group that brings b nearest to a.

    A member of the orbit of a is recognised by invariants of its units, without a search. For any other state,
    coordinate ascent on :math:`\langle a', g b' \rangle`: every step is the optimum for one space while all others
    stay, a linear assignment for permutations (on :math:`\sum |\cdot|` with signs), orthogonal Procrustes for
    rotations, the inner problem for every pair of outer units and then an assignment for wreath products. Scales and
    linear gauges are first brought to their normal gauge on both sides. That balances every unit and need not bring it
    nearest, so the search is made without scales as well, and the nearer result returned.

    Parameters
    ----------
    structure : Structure
        Of the model of both states.
    a, b : mapping of str to tensor
        Whole state dicts; neither is changed. Costs are computed where b's tensors are.
    costs : {"weights", "activations", "both"}
        What is compared: parameters and buffers, correlations of activations over ``data``, or both, each as a share
        of its bound. With "activations" the spaces that none of them shows are matched by weights.
    model : nn.Module, optional
        The model, for activations; its own weights are not used.
    data : iterable of batches, optional
        For activations: tensors, or tuples that start with the inputs, or mappings of keyword arguments.
    kinds : iterable of str, optional
        What may be used: some of ``permute``, ``sign``, ``scale``, ``mix``, ``translate``; all by default.
    restarts : int
        Ascents, the first from ``start``, the others from random elements; that of the greatest objective is
        returned (where there are scales or matrices, its distance need not be the least).
    seed : int
        Of the order of the spaces (one permutation of all of them a sweep) and of the restarts.
    start : Element, Match, "identity" or "invariants", optional
        Where to begin; by default the better of the two. An element or "identity" spares the look at invariants.
    sweeps : int
        Sweeps over all spaces at most.
    progress : callable, optional
        Called with one line of text now and then.

    Returns
    -------
    Match

    Raises
    ------
    MismatchError
        If a state lacks a tensor of the structure.
    NotFiniteError
        If a state has NaN or infinity: it never enters an assignment.
    StructureError
        If the states are not those of the structure's model, or have numbers that are not compared: complex, sparse,
        quantised, on the meta device.
    UsageError
        If an option is not one of those above.

    References
    ----------
    Ainsworth, Hayase, Srinivasa, "Git Re-Basin: merging models modulo permutation symmetries", ICLR 2023,
    Algorithm 1, for plain permutations. Schönemann 1966 for Procrustes.

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> structure = weyl.discover(net, (torch.zeros(1, 4),))
    >>> twin = weyl.act(structure.group.random(seed=1), structure, net.state_dict())
    >>> found = match(structure, net.state_dict(), twin)
    >>> found.exact, found.steps
    (True, 0)
    """
    start = start.element if isinstance(start, Match) else start
    moves = checked_options(costs, kinds, restarts, start)
    check_seed(seed)
    if isinstance(sweeps, bool) or not isinstance(sweeps, int) or sweeps < 1:
        raise UsageError(f"sweeps must be a positive integer, got {sweeps!r}")
    check_pair(structure, a, b)
    say = progress or (lambda text: None)
    first = start if isinstance(start, Element) else None
    # Whatever a start does, its scales and matrices too, is done to b, and the search goes on from there.
    b_there = b if first is None else act(first, structure, b)
    found = search(Job(structure, a, b_there, moves, say), costs, model, data, (restarts, seed, start, sweeps))
    if not found.exact and "scale" in found.element.moves:
        # Scales are set by the norms of both sides of a unit, not for nearness, and of a unit with next to nothing on
        # one side they say nothing.
        say("searching without scales")
        job = Job(structure, a, b_there, moves - {"scale"}, say)
        without = search(job, costs, model, data, (restarts, seed, start, sweeps))
        found = without if without.distance < found.distance else found
    if first is None:
        return found
    return replace(found, element=found.element @ first, distance_before=distance(structure, a, b))


def recognise(
    structure: Structure,
    a: State,
    b: State,
    *,
    kinds: Iterable[str] | None = None,
    progress: Progress | None = None,
) -> Match | None:
    """The element that makes b a copy of a, up to rounding, or None if there is none to be seen; no search is made.

    Parameters
    ----------
    structure, a, b, kinds, progress
        As in `match`.

    Raises
    ------
    MismatchError, NotFiniteError, StructureError, UsageError
        As `match`.
    """
    moves = checked_options("weights", kinds, 1, None)
    check_pair(structure, a, b)
    found = Job(structure, a, b, moves, progress or (lambda text: None)).recognised()
    return found if isinstance(found, Match) else None


def search(
    job: Job,
    costs: str,
    model: nn.Module | None,
    data: Iterable[Any] | None,
    how: tuple[int, int, Element | str | None, int],
) -> Match:
    """Measure what costs ask for, and run."""
    if costs != "weights":
        job.measure(costs, model, data)
    return job.run(*how)


def checked_options(costs: str, kinds: Iterable[str] | None, restarts: int, start: object) -> frozenset[str]:
    if costs not in COSTS:
        raise UsageError(f"costs must be one of {', '.join(COSTS)}, got {costs!r}")
    if isinstance(restarts, bool) or not isinstance(restarts, int) or restarts < 1:
        raise UsageError(f"restarts must be a positive integer, got {restarts!r}")
    if not (start is None or isinstance(start, Element) or start in STARTS):
        raise UsageError(f"start must be an Element, 'identity' or 'invariants', got {start!r}")
    if kinds is None:
        return frozenset(KINDS)
    if not isinstance(kinds, (str, Iterable)):
        raise UsageError(f"kinds must be names of moves, some of {', '.join(KINDS)}, got {kinds!r}")
    given = frozenset([kinds] if isinstance(kinds, str) else kinds)
    if not given <= set(KINDS):
        raise UsageError(f"kinds has {sorted(given - set(KINDS))[0]!r}; known: {', '.join(KINDS)}")
    return given


class Job:
    """Two states in their normal gauges, and the search for the element between them.

    Attributes
    ----------
    states : list of state dicts
        In their normal gauges.
    """

    def __init__(self, structure: Structure, a: State, b: State, kinds: frozenset[str], say: Progress) -> None:
        self._structure, self._given, self._kinds, self._say = structure, (a, b), kinds, say
        frame = Frames(structure, (a, b), kinds)
        self._frame = frame
        self.states = frame.states
        self._a, self._b = frame.states
        self._moments: tuple[Activation, ...] = ()
        self._factor = 0.0

    def measure(self, costs: str, model: nn.Module | None, data: Iterable[Any] | None) -> None:
        """Let activations count, instead of weights or beside them."""
        if model is None or data is None:
            raise UsageError(f"costs={costs!r} needs a model and data: pass model= and data=")
        self._say("measuring activations")
        self._moments = cross_moments(self._structure, model, self._a, self._b, data)
        features = sum(moments.axis.size for moments in self._moments)
        size = norm(self._a) * norm(self._b)
        self._factor = size / max(features, 1) * (DOMINANT if costs == "activations" else 1.0)

    def run(self, restarts: int, seed: int, start: Element | str | None, sweeps: int) -> Match:
        """The best of some ascents, or at once the element of a copy that is recognised."""
        first = self._identity() if isinstance(start, Element) or start in (None, "identity") else None
        if start in (None, "invariants"):
            self._say("comparing invariants")
            copy = self.recognised()
            if isinstance(copy, Match):
                return copy
            guess = copy
            if self._shifted():
                guess = self._frame.permutations_and_signs(guess)
            better = first is None or self._value(guess) > self._value(first)
            first = guess if better else first
        else:
            self._shifted()
        assert first is not None
        best: tuple[float, Element, Ascent] | None = None
        for number in range(restarts):
            origin = first if number == 0 else self._random(seed + number)
            problem = self._problem(origin)
            record = Record(self._structure)
            done = ascend(problem, record, seed=seed + number, sweeps=sweeps, progress=self._say)
            if best is None or done.history[-1] > best[0]:
                best = (done.history[-1], record.element @ origin, done)
        assert best is not None
        return self._result(best[1], best[2])

    def _shifted(self) -> bool:
        """Go on in frames in which biases of sines stay where they are: near ones must not be torn apart."""
        if "translate" not in self._kinds or not any(g.kind is GaugeKind.SHIFT for g in self._structure.gauges):
            return False
        self._frame = Frames(self._structure, self._given, self._kinds, shifts=False)
        self._a, self._b = self._frame.states
        return True

    def _identity(self) -> Element:
        group = self._structure.group
        return Element(group.spaces, group.identity(), group.gauges)

    def _random(self, seed: int) -> Element:
        return self._structure.group.random(seed, kinds=tuple(self._kinds & {"permute", "sign"}))

    def _problem(self, element: Element) -> Problem:
        """The objective with b moved; only what the kinds allow moves it further."""
        moved = act(element, self._structure, self._b)
        measured = [
            term
            for moments in self._moments
            for term in moment_terms(self._structure, moments, element, self._kinds, self._factor)
        ]
        ours, theirs = (centred(self._structure, state) for state in (self._a, moved))
        return build(self._structure, ours, theirs, self._kinds, measured)

    def _value(self, element: Element) -> float:
        return self._problem(element).objective()

    def recognised(self) -> Match | Element:
        """The match if b is a copy of a, which normal forms say or invariants; else what invariants guess."""
        for find in (self._in_place, self._recognised):
            guess = find()
            if self._exactly(guess):
                return self._result(guess, None)
        return guess

    def _in_place(self) -> Element:
        """What normal forms say: exact for copies, and nothing for others."""
        slack = 0.0
        if self._frame.continuous or self._structure.absorptions:
            slack = slack_of(tensor for state in self._given for tensor in state.values())
        try:
            ours, theirs = (
                normal_places(self._structure, s, self._kinds, shapes_of(self._structure, s)[0], slack=slack).element
                for s in (self._a, self._b)
            )
        except LimitError:
            return self._identity()
        return ~ours @ theirs

    def _recognised(self) -> Element:
        """What invariants say: units first, then signs, rotations and phases from what is fixed outwards."""
        guess = self._identity()
        if "permute" in self._kinds:
            known = restricted(self._structure, lambda gauge: gauge.kind.move in self._kinds)
            ours, theirs = (centred(self._structure, state) for state in (self._a, self._b))
            found = pair_units(known, ours, theirs)
            guess = Element(found.spaces, dict(found), self._structure.gauges)
        problem = self._problem(guess)
        record = Record(self._structure)
        propagate(problem, record)
        return record.element @ guess

    def _exactly(self, element: Element) -> bool:
        return self._frame.equal(self._a, act(element, self._structure, self._b))

    def _result(self, element: Element, done: Ascent | None) -> Match:
        structure, (a, b) = self._structure, self._given
        exact = self._exactly(element)
        total = self._frame.plainest(element) if exact else self._frame.outside(element)
        aligned = act(total, structure, b)

        objective = done.history[-1] if done else self._value(element)
        return Match(
            total,
            objective,
            tuple(done.history) if done else (objective,),
            distance(structure, a, aligned),
            distance(structure, a, b),
            done.converged if done else True,
            exact,
            done.sweeps if done else 0,
            done.steps if done else 0,
            done.gained if done else 0,
            partial(self._unfinished, element),
        )

    def _unfinished(self, element: Element) -> dict[str, float]:
        """What one more step on every space would gain."""
        bound = norm(self._a) * norm(self._b) or 1.0
        return {name: gain / bound for name, gain in unfinished(self._problem(element)).items()}


def norm(state: State) -> float:
    """Euclidean norm of all floating tensors, accumulated in float64."""
    return math.sqrt(sum(float(t.double().square().sum()) for t in state.values() if t.is_floating_point()))
