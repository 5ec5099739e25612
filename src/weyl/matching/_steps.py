"""One exact step: the best that can be done to the units of one space while all others stay."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weyl.groups import GaugeKind
from weyl.matching._assignment import assign
from weyl.matching._problem import Parity, Problem
from weyl.matching._signs import best_signs
from weyl.matching._terms import Pair

__all__ = ["Step", "flip_everywhere", "phase_sums", "procrustes", "settle", "step"]

# Sweeps over the spaces within one pair of outer units.
INNER_SWEEPS = 4
# Entries of the Gram of all pairs (unit, inner unit) that are computed at one go.
LARGEST = 1 << 27
# Families of signs of an outer space whose patterns are tried for every pair.
FAMILIES = 3


@dataclass
class Step:
    """What was done to the units of one space.

    Parameters
    ----------
    gain : float
        By how much the objective grew.
    permutations : dict of str to array
        By space, shape ``(*outer, n)``, gather convention; of an outer space before those within it.
    values : dict of str to array
        By gauge: signs, matrices, complex numbers.
    """

    gain: float = 0.0
    permutations: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    values: dict[str, NDArray[np.generic]] = field(default_factory=dict)


def step(problem: Problem, name: str) -> list[Step]:
    """Move the units of a space, and of those within it, to their best places given everything else.

    Returns
    -------
    list of Step
        In the order in which they act; empty if nothing can be gained beyond rounding.
    """
    units = problem.units[name]
    if not problem.places[name]:
        return []
    if units.matrix is not None:
        return _mix(problem, name)
    if units.phase is not None:
        return _turn(problem, name)
    if units.permuted and problem.inner[name]:
        return _nested(problem, name)
    if units.permuted:
        return _assign(problem, name)
    return settle(problem, name) if units.signs else []


def _threshold(scale: float, dtype: torch.dtype) -> float:
    """Gains that rounding alone can make."""
    return 8 * torch.finfo(dtype).eps * scale


def _copies(values: Tensor) -> Iterator[tuple[int, ...]]:
    """Indices of all copies of a space, from values of shape ``(*outer, n, n)``."""
    return product(*(range(n) for n in values.shape[:-2]))


def _assign(problem: Problem, name: str) -> list[Step]:
    """Permutation and signs of a space without others in it, a linear assignment for every copy."""
    grams = problem.grams(name)
    value = best_signs(grams)[0] if problem.units[name].signs else next(iter(grams.values()))
    if not problem.units[name].signs and len(grams) > 1:
        value = sum(grams.values(), torch.zeros_like(value))
    found = np.empty(value.shape[:-1], dtype=np.int64)
    for copy in _copies(value):
        found[copy] = assign(value[copy], problem.prices.get(name))
    index = torch.from_numpy(found).to(value.device)
    picked = {p: g.gather(-1, index[..., None])[..., 0].double() for p, g in grams.items()}
    best, signs = best_signs(picked)
    present = sum(float(g.diagonal(dim1=-2, dim2=-1).sum(dtype=torch.float64)) for g in grams.values())
    gain = float(best.sum()) - present
    if gain <= _threshold(float(best.abs().sum()), value.dtype):
        return []
    done = Step(gain)
    before = problem.objective() if problem.coupled(name) else 0.0
    if not (found == np.arange(found.shape[-1])).all():
        problem.permute(name, found)
        done.permutations[name] = found
    for gauge, sign in signs.items():
        if bool((sign < 0).any()):
            done.values[gauge] = sign.cpu().numpy()
            problem.flip(name, gauge, done.values[gauge].astype(np.float64))
    return _accepted(problem, name, done, before)


def settle(problem: Problem, name: str) -> list[Step]:
    """The best signs of a space, units where they are."""
    sums: dict[Parity, Tensor] = {}
    for number, axis in problem.places[name]:
        term, parity = problem.terms[number], problem.parity(name, number, axis)
        outer = term.outer(problem.units[name].within, axis)
        own = term.diagonal(axis, outer).double()
        sums[parity] = sums[parity] + own if parity in sums else own
    best, signs = best_signs(sums)
    gain = float(best.sum() - sum(value.sum() for value in sums.values()))
    if gain <= _threshold(float(best.abs().sum()), problem.terms[problem.places[name][0][0]].dtype):
        return []
    done = Step(gain)
    before = problem.objective() if problem.coupled(name) else 0.0
    for gauge, sign in signs.items():
        if bool((sign < 0).any()):
            done.values[gauge] = sign.cpu().numpy()
            problem.flip(name, gauge, done.values[gauge].astype(np.float64))
    return _accepted(problem, name, done, before)


def _accepted(problem: Problem, name: str, done: Step, before: float) -> list[Step]:
    """A step on a coupled space is along its derivative only: take it back unless it gained."""
    if not problem.coupled(name):
        return [done]
    done.gain = problem.objective() - before
    if done.gain > _threshold(abs(before), torch.float32):
        return [done]
    for gauge, sign in done.values.items():
        problem.flip(name, gauge, sign.astype(np.float64))
    for space, permutation in done.permutations.items():
        problem.permute(space, np.argsort(permutation, axis=-1))
    return []


def _mix(problem: Problem, name: str) -> list[Step]:
    """Orthogonal Procrustes for every copy: the polar factor of the Gram."""
    units = problem.units[name]
    assert units.matrix is not None
    value = sum(problem.grams(name).values(), torch.zeros(()))
    solved = procrustes(value, centred=units.matrix.kind is GaugeKind.CENTRED)
    gain = float(((solved * value).sum() - value.diagonal(dim1=-2, dim2=-1).sum()).double())
    size = float(torch.linalg.matrix_norm(value, "nuc").sum())
    if gain <= max(_threshold(size, value.dtype), 1e-10 * size):
        return []
    before = problem.objective() if problem.coupled(name) else 0.0
    problem.mix(name, solved)
    if problem.coupled(name):
        actual = problem.objective() - before
        if actual <= 1e-10 * abs(before):
            problem.mix(name, solved.mT)
            return []
        gain = actual
    return [Step(gain, {}, {units.matrix.name: solved.double().cpu().numpy()})]


def procrustes(gram_: Tensor, *, centred: bool = False) -> Tensor:
    """Orthogonal R of greatest ``<R, gram>``; centred: with (1, …, 1) as an eigenvector.

    References
    ----------
    Schönemann, "A generalized solution of the orthogonal Procrustes problem", 1966.
    """
    work = gram_.double()
    if not centred:
        left, _, right = torch.linalg.svd(work)
        return left @ right
    n = work.shape[-1]
    line = torch.full((n, 1), n**-0.5, dtype=work.dtype, device=work.device)
    along = line.mT @ work @ line
    away = torch.eye(n, dtype=work.dtype, device=work.device) - line @ line.mT
    # The line itself is the one direction without a singular value: its part of the product is taken out again.
    left, _, right = torch.linalg.svd(away @ work @ away)
    inner = left[..., :, : n - 1] @ right[..., : n - 1, :]
    rotation = away @ inner @ away
    fixed, _, other = torch.linalg.svd(rotation)
    rotation = fixed[..., :, : n - 1] @ other[..., : n - 1, :]
    return rotation + torch.where(along < 0, -1.0, 1.0) * (line @ line.mT)


def _turn(problem: Problem, name: str) -> list[Step]:
    """The best phase of every pair."""
    gauge, total = problem.units[name].phase, phase_sums(problem, name)
    if total is None or gauge is None:
        return []
    size = total.abs()
    turns = torch.where(size > 0, total / size.where(size > 0, torch.ones_like(size)), torch.ones_like(total))
    gain = float((size - total.real).sum())
    if gain <= 1e-10 * float(size.sum()):
        return []
    problem.turn(name, gauge, turns)
    return [Step(gain, {}, {gauge: turns.cpu().numpy()})]


def phase_sums(problem: Problem, name: str, numbers: Collection[int] | None = None) -> Tensor | None:
    """Complex inner products of a with b for every pair of a space, shape ``(*outer, n)``, over some terms or all."""
    gauge = problem.units[name].phase
    total: Tensor | None = None
    for real, imaginary, axis in problem.phases.get(gauge or "", ()):
        if numbers is not None and real not in numbers:
            continue
        x, y = problem.terms[real], problem.terms[imaginary]
        assert isinstance(x, Pair) and isinstance(y, Pair)
        outer = x.outer(problem.units[name].within, axis)
        crossed = Pair(x.axes, "", y.a, x.b), Pair(x.axes, "", x.a, y.b)
        own = torch.complex(
            (x.diagonal(axis, outer) + y.diagonal(axis, outer)).double(),
            (crossed[0].diagonal(axis, outer) - crossed[1].diagonal(axis, outer)).double(),
        )
        total = own if total is None else total + own
    return total


def flip_everywhere(problem: Problem, gauge: str) -> list[Step]:
    """A sign without a space: flip it if that gains."""
    value = sum(problem.terms[number].inner() for number, _ in problem.odd[gauge])
    if value >= 0:
        return []
    problem.flip_all(gauge)
    return [Step(-2 * value, {}, {gauge: np.asarray(-1)})]


def _nested(problem: Problem, name: str) -> list[Step]:
    """A wreath product: the best of what is within for every pair of outer units, then the outer assignment."""
    if problem.units[name].within:
        return _nested_copies(problem, name)
    patterns = _patterns(problem, name)
    options = torch.stack([_pair_values(problem, name, pattern) for pattern in patterns])
    values, chosen = options.max(0)
    found = assign(values, problem.prices[name])
    rows = np.arange(len(found))
    picked = values.cpu().numpy()[rows, found]
    present = _present(problem, name)
    if float(picked.sum()) - present <= 1e-7 * float(np.abs(picked).sum()):
        return []
    numbers = [number for number, _ in problem.places[name]]
    saved = [problem.terms[number].clone() for number in numbers]
    steps = []
    if not (found == rows).all():
        problem.permute(name, found)
        steps.append(Step(0.0, {name: found}))
    picked_patterns = chosen.cpu().numpy()[rows, found]
    for gauge in problem.units[name].signs if len(patterns) > 1 else ():
        signs = np.array([patterns[pattern][gauge] for pattern in picked_patterns], dtype=np.float64)
        if (signs < 0).any():
            problem.flip(name, gauge, signs)
            steps.append(Step(0.0, {}, {gauge: signs.astype(np.int8)}))
    steps += _inside(problem, name)
    gain = _present(problem, name) - present
    if gain <= 0:
        for number, term in zip(numbers, saved, strict=True):
            problem.terms[number].restore(term)
        problem.forget()
        return []
    steps[0].gain += gain - sum(other.gain for other in steps)
    return steps


def _inside(problem: Problem, name: str) -> list[Step]:
    """Coordinate ascent over the spaces within one, and its own signs."""
    steps: list[Step] = []
    for _ in range(INNER_SWEEPS):
        done = [one for inner in problem.inner[name] for one in step(problem, inner)]
        if problem.units[name].signs:
            done += settle(problem, name)
        steps += done
        if not done or _separable(problem, name):
            break
    return steps


def _present(problem: Problem, name: str) -> float:
    return sum(problem.terms[number].inner() for number in {number for number, _ in problem.places[name]})


def _mobile(problem: Problem, name: str) -> dict[int, list[str]]:
    """Terms of a space that have axes of spaces within it, and which."""
    inner = set(problem.inner[name])
    found = {n: [at for at in problem.terms[n].axes if at in inner] for n, _ in problem.places[name]}
    return {number: [str(at) for at in axes] for number, axes in found.items() if axes}


def _separable(problem: Problem, name: str) -> bool:
    """Whether every space within can be solved by itself, at one go, once the outer units are paired."""
    mobile = _mobile(problem, name)
    leaves = all(
        problem.units[inner].within == (name,) and not problem.inner[inner] and problem.units[inner].phase is None
        for inner in problem.inner[name]
    )
    return leaves and not problem.coupled(name) and all(len(axes) == 1 for axes in mobile.values())


def _patterns(problem: Problem, name: str) -> list[dict[str, int]]:
    """Signs that a unit may have, by family; where there are too many families, they stay and are settled after."""
    families = problem.units[name].signs
    if len(families) > FAMILIES:
        return [{}]
    return [dict(zip(families, signs, strict=True)) for signs in product((1, -1), repeat=len(families))]


def _pair_values(problem: Problem, name: str, pattern: Mapping[str, int]) -> Tensor:
    """For every unit of a and every unit of b with some signs, what they give at best, shape ``(n, n)``, float64."""
    sign_of = {
        number: math.prod(pattern.get(family, 1) for family in problem.parity(name, number, axis))
        for number, axis in problem.places[name]
    }
    mobile = _mobile(problem, name)
    fixed = {number for number, _ in problem.places[name]} - set(mobile)
    n = problem.units[name].size
    device = problem.terms[problem.places[name][0][0]].device
    values = torch.zeros(n, n, dtype=torch.float64, device=device)
    for parity, part in problem.grams(name, fixed).items():
        values += math.prod(pattern.get(family, 1) for family in parity) * part
    if _separable(problem, name) and _joint_size(problem, name) <= LARGEST:
        for inner in problem.inner[name]:
            values += _separate_values(problem, name, inner, sign_of)
        return values
    numbers = [number for number, _ in problem.places[name] if number in mobile]
    for i, j in product(range(n), repeat=2):
        pair = problem.select(name, i, j, mobile.keys())
        pair = Problem(pair.units, [term.clone() for term in pair.terms], pair.odd, pair.phases)
        for term, number in zip(pair.terms, numbers, strict=True):
            if sign_of[number] < 0:
                term.negate()
        for _ in range(INNER_SWEEPS):
            if not [one for inner in pair.units for one in step(pair, inner)]:
                break
        values[i, j] += pair.objective()
    return values


def _joint_size(problem: Problem, name: str) -> int:
    return max(((problem.units[name].size * problem.units[i].size) ** 2 for i in problem.inner[name]), default=0)


def _separate_values(problem: Problem, name: str, inner: str, sign_of: Mapping[int, int]) -> Tensor:
    """What one inner space gives at best for every pair of outer units."""
    units = problem.units[inner]
    parts: dict[Parity, Tensor] = {}
    for number, axis in problem.places[inner]:
        term, parity = problem.terms[number], problem.parity(inner, number, axis)
        own = term.joint(term.outer((name,), axis)[0], axis).permute(0, 2, 1, 3) * sign_of[number]
        parts[parity] = parts[parity] + own if parity in parts else own
    if units.matrix is not None:
        value = sum(parts.values(), torch.zeros(())).double()
        if units.matrix.kind is not GaugeKind.CENTRED:
            return torch.linalg.svdvals(value).sum(-1)
        return (procrustes(value, centred=True) * value).sum((-1, -2))
    best = best_signs(parts)[0].double()
    if not units.permuted:
        return best.diagonal(dim1=-2, dim2=-1).sum(-1)
    total = torch.empty(best.shape[:2], dtype=torch.float64)
    for i, j in product(range(best.shape[0]), range(best.shape[1])):
        chosen = torch.from_numpy(assign(best[i, j])).to(best.device)
        total[i, j] = best[i, j].gather(-1, chosen[:, None]).sum()
    return total.to(best.device)


def _nested_copies(problem: Problem, name: str) -> list[Step]:
    """A wreath product that itself lives in another space: every copy by itself."""
    outer, *_ = problem.units[name].within
    merged: list[Step] = []
    for i in range(problem.units[outer].size):
        for number, one in enumerate(step(problem.select(outer, i, i), name)):
            if number == len(merged):
                merged.append(Step())
            _place(problem, merged[number], one, outer, i)
    problem.forget()
    return merged


def _place(problem: Problem, whole: Step, one: Step, outer: str, i: int) -> None:
    """Write what was done within one outer unit into what is done to all."""
    whole.gain += one.gain
    size = problem.units[outer].size
    for space, permutation in one.permutations.items():
        if space not in whole.permutations:
            still = np.broadcast_to(np.arange(permutation.shape[-1]), (size, *permutation.shape))
            whole.permutations[space] = still.copy()
        whole.permutations[space][i] = permutation
    for gauge, value in one.values.items():
        if gauge not in whole.values:
            whole.values[gauge] = np.stack([_identity_like(problem, gauge, value)] * size)
        whole.values[gauge][i] = value


def _identity_like(problem: Problem, gauge: str, value: NDArray[np.generic]) -> NDArray[np.generic]:
    mixing = {units.matrix.name for units in problem.units.values() if units.matrix is not None}
    if gauge in mixing:
        return np.broadcast_to(np.eye(value.shape[-1]), value.shape).astype(value.dtype)
    return np.ones_like(value)
