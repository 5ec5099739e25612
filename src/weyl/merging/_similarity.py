"""How alike the units of two aligned networks are, pair by pair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weyl.matching._activations import cross_moments
from weyl.structure import Axis, Product, Structure, Sum, Units, spaces_of

__all__ = ["similarities"]

Indices = NDArray[np.int64]


def similarities(
    structure: Structure,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    costs: str,
    model: nn.Module | None,
    data: Iterable[Any] | None,
) -> dict[str, NDArray[np.float64]]:
    """For every space, how alike unit i of a and unit i of b are."""
    found = {space.name: _cosines(structure, a, b, space.name, space.size) for space in structure.spaces}
    if costs == "weights" or model is None or data is None:
        return found
    activations = cross_moments(structure, model, a, b, data)
    for space in structure.spaces:
        seen = [
            _by_unit(x.moments.diagonal().cpu(), x.axis, space.name, space.size)
            / _by_unit(None, x.axis, space.name, space.size)
            for x in activations
            if space.name in spaces_of(x.axis)
        ]
        if seen:
            mean = torch.stack(seen).mean(0).numpy()
            found[space.name] = mean if costs == "activations" else (mean + found[space.name]) / 2
    return found


def _cosines(
    structure: Structure, a: Mapping[str, Tensor], b: Mapping[str, Tensor], space: str, size: int
) -> NDArray[np.float64]:
    """Cosines of units, each the vector of its weights; gains and statistics are alike for all, and left out."""
    sums = torch.zeros(3, size, dtype=torch.float64)
    for name, axes in structure.axes.items():
        left, right = a[name].detach(), b[name].detach()
        for dim, axis in enumerate(axes):
            if len(axes) < 2 or space not in spaces_of(axis) or not left.is_floating_point():
                continue
            for row, (x, y) in enumerate(((left, right), (left, left), (right, right))):
                products = (x.double() * y.double()).movedim(dim, 0).flatten(1).sum(1)
                sums[row] += _by_unit(products, axis, space, size).cpu()
    inner, ours, theirs = sums
    length = (ours * theirs).sqrt()
    # Two units that are zero have nothing to lose by an average.
    empty = (ours + theirs == 0).double()
    return torch.where(length > 0, inner / length, empty).numpy()


def _by_unit(values: Tensor | None, axis: Axis, space: str, size: int) -> Tensor:
    """Sums over the positions of every unit of a space on an axis; how many they are, if no values are given."""
    units = torch.from_numpy(_units(axis, space))
    summed = torch.ones(len(units), dtype=torch.float64) if values is None else values.double()
    units = units.to(summed.device)
    mine = units >= 0
    return torch.zeros(size, dtype=torch.float64, device=summed.device).index_add(0, units[mine], summed[mine])


def _units(axis: Axis, space: str) -> Indices:
    """The unit of a space that every position of an axis belongs to, or -1."""
    match axis:
        case Units(name, size) if name == space:
            return np.arange(size)
        case Sum(parts):
            return np.concatenate([_units(part, space) for part in parts])
        case Product(factors):
            found = np.full(1, -1)
            for factor in factors:
                found = np.maximum(found[:, None], _units(factor, space)).ravel()
            return found
        case _:
            return np.full(axis.size, -1)
