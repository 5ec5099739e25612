"""``universe``: many states in one frame, every pair of them aligned consistently."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from weyl.actions import act, check_seed
from weyl.canonical import centred
from weyl.errors import UsageError
from weyl.groups import Element
from weyl.matching._activations import Activation, cross_moments
from weyl.matching._build import build, moment_terms
from weyl.matching._descent import Record, ascend
from weyl.matching._frames import Frames, check_pair
from weyl.matching._match import DOMINANT, SWEEPS, Job, checked_options, norm, search
from weyl.matching._problem import Problem
from weyl.matching._terms import Term
from weyl.structure import Structure

__all__ = ["Universe", "universe"]

State = Mapping[str, Tensor]
ROUNDS = 20


@dataclass(frozen=True, eq=False)
class Universe:
    """A common frame of several states.

    Parameters
    ----------
    elements : tuple of Element
        ``act(elements[k], structure, states[k])`` is the k-th state in the frame of the first, whose element is the
        identity. From state j to state i leads ``~elements[i] @ elements[j]``, whatever lies between: the alignment
        is cycle-consistent.
    objective : float
        Sum over all pairs of the inner product of two states, in their normal gauges.
    history : tuple of float
        The objective after aligning all with the first, and after every round.
    rounds : int
        How often every state was aligned with the mean of the others.
    coordinate_optimal : bool
        Whether the last round gained nothing.
    """

    elements: tuple[Element, ...]
    objective: float
    history: tuple[float, ...]
    rounds: int
    coordinate_optimal: bool

    def __repr__(self) -> str:
        how = "coordinate optimum" if self.coordinate_optimal else "not converged"
        return f"Universe({len(self.elements)} states, {how}, {self.rounds} rounds)"


def universe(
    structure: Structure,
    states: Sequence[State],
    *,
    costs: str = "weights",
    model: nn.Module | None = None,
    data: Iterable[Any] | None = None,
    kinds: Iterable[str] | None = None,
    seed: int = 0,
    rounds: int = ROUNDS,
    progress: Callable[[str], None] | None = None,
) -> Universe:
    r"""Bring several states to one frame.

    All are matched with the first; then, in random order, each with the sum of all others as they lie, until no
    round gains: coordinate ascent on :math:`\sum_{i<j} \langle g_i x_i, g_j x_j \rangle`.

    Parameters
    ----------
    structure : Structure
        Of the model of all states.
    states : sequence of state dicts
        At least two; none is changed.
    costs, model, data, kinds
        As for :func:`weyl.match`; activations are measured once for every pair.
    seed : int
        Of the orders.
    rounds : int
        At most so many.
    progress : callable, optional
        Called with one line of text now and then.

    Returns
    -------
    Universe

    Raises
    ------
    UsageError
        If there are fewer than two states, or an option is unknown.
    MismatchError, NotFiniteError, StructureError
        As for :func:`weyl.match`.

    References
    ----------
    Ainsworth, Hayase, Srinivasa, "Git Re-Basin", ICLR 2023, Algorithm 3 (MergeMany), which goes on from rounded
    means; Crisostomi et al., "C2M3: cycle-consistent multi-model merging", NeurIPS 2024, for the consistency.

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> structure = weyl.discover(net, (torch.zeros(1, 4),))
    >>> first = net.state_dict()
    >>> others = [weyl.act(structure.group.random(seed), structure, first) for seed in (1, 2)]
    >>> found = universe(structure, [first, *others])
    >>> moved = [weyl.act(g, structure, s) for g, s in zip(found.elements, [first, *others])]
    >>> all(torch.allclose(state["0.weight"], first["0.weight"], atol=1e-6) for state in moved)
    True
    """
    if not isinstance(states, Sequence) or not all(isinstance(state, Mapping) for state in states):
        raise UsageError(f"states must be a list of state dicts, got {type(states).__name__}: pass [a, b, …]")
    if len(states) < 2:
        raise UsageError(f"a universe needs at least two states, got {len(states)}")
    moves = checked_options(costs, kinds, 1, None)
    check_seed(seed)
    for state in states[1:]:
        check_pair(structure, states[0], state)
    say = progress or (lambda text: None)
    return _Universe(structure, states, moves, say).run(costs, model, data, seed, rounds)


class _Universe:
    def __init__(
        self, structure: Structure, states: Sequence[State], kinds: frozenset[str], say: Callable[[str], None]
    ) -> None:
        self._structure, self._given, self._kinds, self._say = structure, states, kinds, say
        self._frames = Frames(structure, states, kinds, shifts=False)
        self._states = self._frames.states
        self._moments: dict[tuple[int, int], tuple[Activation, ...]] = {}
        self._factor = 0.0

    def run(self, costs: str, model: nn.Module | None, data: Iterable[Any] | None, seed: int, rounds: int) -> Universe:
        elements = self._starts(costs, model, data, seed)
        if costs != "weights":
            assert model is not None and data is not None
            self._measure(costs, model, data)
        moved = [self._moved(elements, k) for k in range(len(elements))]
        history = [self._objective(elements, moved)]
        rng = np.random.default_rng(seed)
        done, optimal = 0, False
        while done < rounds and not optimal:
            gained = False
            for k in rng.permutation(len(elements)):
                better = self._improved(elements, moved, int(k), seed + done)
                if better is not None:
                    gained = True
                    elements[k] = better
                    moved[k] = self._moved(elements, int(k))
            done, optimal = done + 1, not gained
            history.append(self._objective(elements, moved))
            self._say(f"round {done}: objective {history[-1]:.6g}")
        first = ~elements[0]
        outside = [self._frames.outside(first @ element, 0, k) for k, element in enumerate(elements[1:], 1)]
        group = self._structure.group
        identity = Element(group.spaces, group.identity(), group.gauges)
        return Universe((identity, *outside), history[-1], tuple(history), done, optimal)

    def _starts(self, costs: str, model: nn.Module | None, data: Iterable[Any] | None, seed: int) -> list[Element]:
        """Every state matched with the first, in normal gauges."""
        group = self._structure.group
        elements = [Element(group.spaces, group.identity(), group.gauges)]
        for k in range(1, len(self._given)):
            self._say(f"aligning state {k + 1} of {len(self._given)} with the first")
            job = Job(self._structure, self._given[0], self._given[k], self._kinds, self._say)
            found = search(job, costs, model, data, (1, seed, None, SWEEPS))
            elements.append(self._frames.inside(found.element, 0, k))
        return elements

    def _measure(self, costs: str, model: nn.Module, data: Iterable[Any]) -> None:
        for i in range(len(self._states)):
            for j in range(i):
                found = cross_moments(self._structure, model, self._states[i], self._states[j], data)
                self._moments[i, j] = found
                self._moments[j, i] = tuple(replace(one, moments=one.moments.mT) for one in found)
        features = sum(moments.axis.size for moments in self._moments[0, 1])
        size = math.prod(norm(state) for state in self._states[:2])
        self._factor = size / max(features, 1) * (DOMINANT if costs == "activations" else 1.0)

    def _moved(self, elements: Sequence[Element], k: int) -> dict[str, Tensor]:
        return centred(self._structure, act(elements[k], self._structure, self._states[k]))

    def _terms(self, elements: Sequence[Element], k: int) -> list[Term]:
        return [
            term
            for i in range(len(elements))
            if i != k and self._moments
            for moments in self._moments[i, k]
            for term in moment_terms(self._structure, moments, elements[k], self._kinds, self._factor, rows=elements[i])
        ]

    def _problem(self, elements: Sequence[Element], moved: Sequence[State], k: int, kinds: frozenset[str]) -> Problem:
        """One state, as it lies, against the sum of all others."""
        others: dict[str, Tensor] = {}
        for i, state in enumerate(moved):
            for name, tensor in state.items():
                if i != k:
                    others[name] = others[name] + tensor if name in others and tensor.is_floating_point() else tensor
        return build(self._structure, others, moved[k], kinds, self._terms(elements, k))

    def _improved(self, elements: Sequence[Element], moved: Sequence[State], k: int, seed: int) -> Element | None:
        """A better place for one state among all others, or None."""
        record = Record(self._structure)
        done = ascend(self._problem(elements, moved, k, self._kinds), record, seed=seed, sweeps=SWEEPS)
        return record.element @ elements[k] if done.gained else None

    def _objective(self, elements: Sequence[Element], moved: Sequence[State]) -> float:
        """Sum over all pairs: half of what every state gives with all others."""
        return sum(self._problem(elements, moved, k, frozenset()).objective() for k in range(len(moved))) / 2
