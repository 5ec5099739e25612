"""Signs settled within each state, where a gain says which way round a unit is."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from weyl.matching._problem import Problem
from weyl.matching._terms import Pair

__all__ = ["free_signs", "upright"]

# Mean size over root mean square: 1 for gains of one size, 0.8 for a normal distribution around zero.
CLEAR = 0.9


def upright(problem: Problem) -> Problem:
    """Flip units of either state so that their gains are positive, and hold the signs that this settles.

    A gain (of a normalisation) is one number for a unit and far from zero for nearly all; a bias is not, and signs
    that only biases show are left to the matching.

    Parameters
    ----------
    problem : Problem
        b is written to; tensors of a are replaced.

    Returns
    -------
    Problem
        The same, with fewer families of signs.
    """
    for name in problem.units:
        for gauge in problem.units[name].signs:
            gain = _gain(problem, name, gauge)
            if gain is not None:
                _settle(problem, name, gauge, gain)
    problem.forget()
    return problem


def _settle(problem: Problem, name: str, gauge: str, gain: tuple[int, int]) -> None:
    """Make the entries of one term positive by a family of signs, and take it away.

    Other families that flip this term, too, then act together with it, so that the term stays as it is.
    """
    units, (number, axis) = problem.units[name], gain
    term = problem.terms[number]
    assert isinstance(term, Pair)
    front = (*term.outer(units.within, axis), axis)
    ours, theirs = (torch.where(side.permute(front) < 0, -1.0, 1.0).double().clone() for side in (term.a, term.b))
    places = set(problem.odd[gauge])
    for other in (*problem.parity(name, number, axis), *free_signs(problem, number)):
        own = other in units.signs
        if other != gauge:
            for place in places:
                problem.odd[other] ^= {place if own else (place[0], -1)}
    for number, axis in places:
        term = problem.terms[number]
        assert isinstance(term, Pair)
        flipped = Pair(term.axes, term.source, term.b, term.a.clone())
        flipped.multiply(axis, term.outer(units.within, axis), ours)
        term.a = flipped.b
        term.multiply(axis, term.outer(units.within, axis), theirs)
    problem.odd[gauge] = set()
    problem.units[name] = replace(units, signs=tuple(sign for sign in units.signs if sign != gauge))


def free_signs(problem: Problem, number: int) -> list[str]:
    """Signs without a space that flip a term as a whole."""
    return [gauge for gauge, places in problem.odd.items() if (number, -1) in places]


def _gain(problem: Problem, name: str, gauge: str) -> tuple[int, int] | None:
    """The term with one number for a unit, flipped by a family, that is clearest of zero in both states."""
    units, best = problem.units[name], CLEAR
    found = None
    for number, axis in sorted(problem.odd[gauge]):
        term = problem.terms[number]
        if len(term.axes) != 1 + len(units.within):
            continue
        assert isinstance(term, Pair)
        clear = min(_clear(term.a), _clear(term.b))
        if clear > best:
            best, found = clear, (number, axis)
    return found


def _clear(gains: Tensor) -> float:
    size = float(gains.double().square().mean().sqrt())
    return float(gains.double().abs().mean()) / size if size > 0 else 0.0
