"""Weight matching as it was published, as a baseline: one space at a time, every Gram matrix from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from weyl.groups import Element, Part
from weyl.structure import Axis, Fixed, Product, Structure, Units

__all__ = ["PlainMatch", "match_plainly"]

Indices = NDArray[np.int64]
SWEEPS = 1000  # far more than it ever needs; so that rounding cannot make it run for ever


@dataclass(frozen=True)
class PlainMatch:
    """What the loop ends with.

    Parameters
    ----------
    permutations : mapping of str to int64 array
        For every space: the new unit i of b is its old unit ``permutations[space][i]``.
    objective : float
        Inner product of a and the permuted b, summed in float64, over all tensors that have a space.
    sweeps, steps, idle : int
        Visits to all spaces, visits to one, and how many of those gained exactly nothing.
    """

    permutations: Mapping[str, Indices]
    objective: float
    sweeps: int
    steps: int
    idle: int

    def element(self, structure: Structure) -> Element:
        """The permutations as an element of the group; gauges do nothing."""
        identity = structure.group.identity()
        parts = {name: Part(self.permutations[name]) for name in identity}
        return Element(identity.spaces, parts, structure.gauges)


@dataclass(frozen=True)
class _Tensors:
    """A tensor of both networks, with one dimension for every factor of its axes, and the space of each, if any."""

    spaces: tuple[str | None, ...]
    a: Tensor
    b: Tensor

    def gram(self, dim: int, permutations: Mapping[str, Tensor]) -> Tensor:
        """Inner products between the slices of a and those of b along a dimension, b permuted along the others."""
        size = self.a.shape[dim]
        b = self.permuted(permutations, but=dim).movedim(dim, 0).reshape(size, -1)
        return self.a.movedim(dim, 0).reshape(size, -1) @ b.T

    def permuted(self, permutations: Mapping[str, Tensor], but: int | None = None) -> Tensor:
        """B along all its dimensions but one."""
        moved = self.b
        for dim, space in enumerate(self.spaces):
            if space is not None and dim != but:
                moved = moved.index_select(dim, permutations[space])
        return moved


def match_plainly(structure: Structure, a: Mapping[str, Tensor], b: Mapping[str, Tensor], seed: int = 0) -> PlainMatch:
    r"""Permute b next to a, by Algorithm 1 of the paper, from the identity.

    In random order, each space gets the permutation :math:`\sigma` that maximises :math:`\sum_i A_{i \sigma(i)}`,
    where A sums the inner products of slices over all tensors that have the space, everything else being as it is;
    until a sweep over all spaces gains nothing.

    Parameters
    ----------
    structure : Structure
        Of plain spaces: none within another, every axis a product of spaces and of what stays.
    a, b : mapping of str to tensor
        State dicts; neither is changed.
    seed : int
        Of the order in which spaces are visited.

    Raises
    ------
    ValueError
        If the structure is not plain.

    References
    ----------
    Ainsworth, Hayase, Srinivasa, "Git Re-Basin: Merging Models modulo Permutation Symmetries", arXiv 2209.04836,
    2022, Algorithm 1.
    """
    spaces = [space for space in structure.spaces if space.permuted]
    if any(space.within for space in spaces):
        raise ValueError("the published loop knows no space within another")
    tensors = _tensors(structure, {space.name for space in spaces}, a, b)
    found = {
        space.name: [(t, d) for t in tensors for d, s in enumerate(t.spaces) if s == space.name] for space in spaces
    }
    permutations = {space.name: torch.arange(space.size) for space in spaces}
    generator = np.random.default_rng(seed)
    sweeps = steps = idle = 0
    gained = True
    while gained and sweeps < SWEEPS:
        gained = False
        for place in generator.permutation(len(spaces)):
            space = spaces[place]
            gram = torch.zeros(space.size, space.size)
            for tensor, dim in found[space.name]:
                gram += tensor.gram(dim, permutations)
            columns = torch.from_numpy(linear_sum_assignment(gram.numpy(), maximize=True)[1])
            before, after = _taken(gram, permutations[space.name]), _taken(gram, columns)
            gained |= after - before > 1e-12 * abs(before)
            idle += after == before
            permutations[space.name] = columns
            steps += 1
        sweeps += 1
    objective = sum(float((t.a.double() * t.permuted(permutations).double()).sum()) for t in tensors)
    indices = {name: permutation.numpy() for name, permutation in permutations.items()}
    return PlainMatch(indices, objective, sweeps, steps, idle)


def _taken(gram: Tensor, columns: Tensor) -> float:
    return float(gram.gather(1, columns[:, None]).sum(dtype=torch.float64))


def _tensors(
    structure: Structure, spaces: set[str], a: Mapping[str, Tensor], b: Mapping[str, Tensor]
) -> list[_Tensors]:
    """The tensors that have one of the spaces."""
    found = []
    for name, axes in structure.axes.items():
        factors = [factor for axis in axes for factor in _factors(name, axis)]
        names = tuple(factor.space if isinstance(factor, Units) else None for factor in factors)
        names = tuple(name if name in spaces else None for name in names)
        if any(names):
            shape = [factor.size for factor in factors]
            found.append(_Tensors(names, *(s[name].detach().float().reshape(shape) for s in (a, b))))
    return found


def _factors(name: str, axis: Axis) -> list[Units | Fixed]:
    match axis:
        case Units() | Fixed():
            return [axis]
        case Product(factors):
            return [part for factor in factors for part in _factors(name, factor)]
    raise ValueError(f"the published loop knows no axis such as {axis} of {name}")
