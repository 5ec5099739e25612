"""Units of two states as rows of numbers, matched twice from numbers that say nothing of each other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from weyl.identity._chains import REDUCED, Place, inner_and_columns
from weyl.identity._upright import free_signs
from weyl.matching._assignment import assign
from weyl.matching._problem import Parity, Problem
from weyl.matching._terms import Pair

__all__ = ["Rows", "matched_once", "matched_twice", "rows_of"]

# Singular values that are so much smaller than the largest are no longer made equal to it; and those that are nothing.
RIDGE, NOTHING = 1e-2, 1e-7
# Numbers in a row; longer ones are folded.
LONG = 2048
# Of fewer units, nothing is taken out: too few directions would be left on either side to tell units apart.
ENOUGH = 8
# What breaks ties: units that are alike in every number, such as dead ones, are then matched at random.
TIE = 1e-9

# Of one parity under the signs of a space, both sides: shape (copies, n, d).
Rows = dict[Parity, tuple[Tensor, Tensor]]


def rows_of(
    problem: Problem, name: str, places: Sequence[Place], part: tuple[str, NDArray[np.int64]] | None = None
) -> Rows:
    """Rows of the units of a space, of a and of b, side by side over some places.

    Parameters
    ----------
    problem : Problem
        b in the frame of a.
    name : str
        The space.
    places : sequence of (int, int)
        Terms and axes.
    part : (str, int64 array), optional
        Only these units of another space are read.

    Returns
    -------
    dict of frozenset to (Tensor, Tensor)
        By the families of signs that flip a row, each of shape ``(copies, n, d)``, float64. Where other units live
        within these, which are told from each other by nothing, the rows hold Gram matrices that are free of them.
    """
    linear: dict[Parity, list[tuple[Tensor, Tensor]]] = {}
    products: dict[tuple[str, tuple[int, ...]], tuple[Tensor, Tensor]] = {}
    for place in places:
        number, axis = place
        term = problem.terms[number]
        assert isinstance(term, Pair)
        inner, columns = inner_and_columns(problem, name, place)
        front = [*term.outer(problem.units[name].within, axis), axis]
        whole = [term.a, term.b]
        if part is not None:
            at = term.axes.index(part[0])
            whole = [side.index_select(at, torch.from_numpy(part[1]).to(side.device)) for side in whole]
        sides = [_arranged(side, front, inner, columns) for side in whole]
        if inner:
            key = term.source, tuple(sides[0].shape[-1:])
            own = _products(sides[0]), _products(sides[1])
            old = products.get(key)
            products[key] = (old[0] + own[0], old[1] + own[1]) if old else own
        else:
            parity = problem.parity(name, number, axis) | set(free_signs(problem, number))
            linear.setdefault(parity, []).append((_unit(sides[0][..., 0, :]), _unit(sides[1][..., 0, :])))
    if products:
        linear.setdefault(frozenset(), []).extend((_unit(ours), _unit(theirs)) for ours, theirs in products.values())
    return {
        parity: (_folded(torch.cat([a for a, _ in pairs], -1)), _folded(torch.cat([b for _, b in pairs], -1)))
        for parity, pairs in linear.items()
    }


def _arranged(side: Tensor, front: list[int], inner: list[int], columns: list[int]) -> Tensor:
    """Shape ``(copies, n, inner, columns)``, float64."""
    moved = side.permute(*front, *inner, *columns)
    n = side.shape[front[-1]]
    within = int(np.prod([side.shape[at] for at in inner], dtype=np.int64))
    rows = moved.reshape(-1, n, within, int(np.prod([side.shape[at] for at in columns], dtype=np.int64)))
    return _folded(rows).double()


def _folded(rows: Float[Tensor, "*outer d"]) -> Float[Tensor, "*outer k"]:
    """Very long rows made shorter: random signs, and then what is a fixed distance apart is added up.

    The same for both states; inner products are kept up to a part of about one over the root of the new length.
    """
    d = rows.shape[-1]
    if d <= LONG:
        return rows
    signs = np.random.default_rng(d).choice([-1.0, 1.0], d)
    signed = rows * torch.from_numpy(signs).to(rows)
    whole = d - d % LONG
    folded = signed[..., :whole].reshape(*rows.shape[:-1], -1, LONG).sum(-2)
    folded[..., : d - whole] += signed[..., whole:]
    return folded


def _products(rows: Float[Tensor, "copies n m d"]) -> Float[Tensor, "copies n k"]:
    """Gram matrices over the units within, of columns projected at random where they are many."""
    d = rows.shape[-1]
    if d > REDUCED:
        drawn = np.random.default_rng(d).standard_normal((d, REDUCED)) / np.sqrt(d)
        rows = rows @ torch.from_numpy(drawn).to(rows.device)
    upper = torch.triu_indices(rows.shape[-1], rows.shape[-1], device=rows.device)
    return (rows.mT @ rows)[..., upper[0], upper[1]]


def _unit(rows: Tensor) -> Tensor:
    """The same, its entries of size 1 on average: one tensor counts like another."""
    size = rows.square().mean().sqrt()
    return rows / size if float(size) > 0 else rows


def matched_twice(
    first: Rows, second: Rows, generator: np.random.Generator
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    r"""Match units by either of two groups of their numbers, so that what training does to all networks has no part.

    Networks that learn the same task find similar units: what goes into a unit tells what comes out of it, and
    two matchings of unrelated networks agree more often than chance. So the leading singular directions U of one
    group, over the units, are taken out of the other, :math:`X - U U^\top X`, and what is left of either group
    has its singular values made equal: directions in which all trainings agree count no more than others. Rows are
    then as good as independent unless the units are the same.

    Parameters
    ----------
    first, second : dict
        As :func:`rows_of` gives them, of disjoint tensors; units of b have the same numbers and signs in both.
    generator : numpy Generator
        Breaks ties.

    Returns
    -------
    list of (int64 array, int64 array)
        One pair for every copy of the space: ``p[i]`` is the unit of b for unit i of a. Empty if nothing is left.
    """
    kinds = {*first, *second}
    wide, narrow = _joined(first, kinds), _joined(second, kinds)
    if wide.a.shape[-1] < narrow.a.shape[-1]:
        wide, narrow = narrow, wide
    out = []
    curved = not (wide.flipped or narrow.flipped)
    for copy in range(len(wide.a)):
        ours = _parted(wide.a[copy], narrow.a[copy], curved)
        theirs = _parted(wide.b[copy], narrow.b[copy], curved)
        if ours is not None and theirs is not None:
            pair = [_paired(ours[at], theirs[at], one.flipped, generator) for at, one in enumerate((wide, narrow))]
            out.append((pair[0], pair[1]))
    return out


def matched_once(rows: Rows, generator: np.random.Generator) -> list[NDArray[np.int64]]:
    """Match units by all of their numbers, singular values made equal; one permutation for every copy."""
    joined = _joined(rows, set(rows))
    sides = [[_even(_directions(x)) for x in side] for side in (joined.a, joined.b)]
    return [_paired(ours, theirs, joined.flipped, generator) for ours, theirs in zip(*sides, strict=True)]


@dataclass(frozen=True, eq=False)
class _Joined:
    """Rows of all parities side by side, shape ``(copies, n, d)``; whether those of b may be those of a, negated."""

    a: Tensor
    b: Tensor
    flipped: bool


def _joined(rows: Rows, kinds: Collection[Parity]) -> _Joined:
    """Rows side by side, with signs chosen by their third moments where not all flip together."""
    mixed = len(kinds) > 1
    sides = []
    flipped = len(rows) == 1 and any(rows)
    for side in (0, 1):
        parts = [_oriented(pair[side]) if parity and mixed else pair[side] for parity, pair in rows.items()]
        whole = torch.cat(parts, -1)
        length = whole.norm(dim=-1, keepdim=True)
        whole = whole / length.where(length > 0, torch.ones_like(length))
        sides.append(whole if flipped else whole - whole.mean(-2, keepdim=True))
    return _Joined(sides[0], sides[1], flipped)


def _oriented(rows: Tensor) -> Tensor:
    return rows * torch.where(rows.pow(3).sum(-1, keepdim=True) < 0, -1.0, 1.0)


class _Directions(NamedTuple):
    """A singular value decomposition of rows without what is nothing: ``left * size @ right``."""

    left: Tensor
    size: Tensor
    right: Tensor


def _directions(rows: Float[Tensor, "n d"]) -> _Directions:
    """Singular values and vectors, largest first, by way of the smaller Gram matrix."""
    tall = rows.shape[0] > rows.shape[1]
    squares, vectors = torch.linalg.eigh(rows.mT @ rows if tall else rows @ rows.mT)
    size = squares.clamp_min(0).sqrt().flip(0)
    kept = int((size > NOTHING * size[0]).sum()) if len(size) else 0
    size, vectors = size[:kept], vectors.flip(1)[:, :kept]
    if tall:
        return _Directions(rows @ vectors / size, size, vectors.mT)
    return _Directions(vectors, size, vectors.mT @ rows / size[:, None])


def _even(found: _Directions) -> Tensor:
    """Rows with singular values made equal, but those that are very small, and then of length 1."""
    left, size, right = found
    if not len(size):
        return left @ right
    even = (left * (size / (size.square() + (RIDGE * size[0]) ** 2).sqrt())) @ right
    length = even.norm(dim=-1, keepdim=True)
    return even / length.where(length > NOTHING, torch.ones_like(length))


def _parted(wide: Tensor, narrow: Tensor, curved: bool) -> tuple[Tensor, Tensor] | None:
    """Rows of one group without the leading directions of the other, and those directions; None if nothing is left.

    Half of all directions over the units may be taken out. If those of the other group are fewer, their squares go,
    too, where signs have a meaning (`curved`): they tell units that are alike in kind.
    """
    found = _directions(narrow)
    if len(wide) < ENOUGH:
        rest = _directions(wide)
        return (_even(rest), _even(found)) if len(found.size) and len(rest.size) else None
    half = len(wide) // 2
    kept = min(len(found.size), half)
    leading = _Directions(found.left[:, :kept], found.size[:kept], found.right[:kept])
    out = leading.left
    if curved and kept < half:
        squares = out.square() - out.square().mean(0)
        squares = _directions(squares - out @ (out.mT @ squares)).left[:, : half - kept]
        out = torch.cat((out, squares), 1)
    rest = _directions(wide - out @ (out.mT @ wide))
    return (_even(rest), _even(leading)) if kept and len(rest.size) else None


def _paired(ours: Tensor, theirs: Tensor, flipped: bool, generator: np.random.Generator) -> NDArray[np.int64]:
    scores = ours @ theirs.mT
    scores = scores.abs() if flipped else scores
    # Units of b are shuffled, so that no solver's habit with ties sends them where the other matching does.
    order = torch.from_numpy(generator.permutation(len(scores)))
    noise = torch.from_numpy(generator.random(tuple(scores.shape), dtype=np.float32))
    shuffled = scores[:, order.to(scores.device)] + TIE * noise.to(scores.device)
    return np.asarray(order.numpy()[assign(shuffled)])
