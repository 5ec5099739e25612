"""Translations of least norm, several that move one tensor solved for together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from weyl.orbits._views import Frame

__all__ = ["Shifted", "least_shifts"]

# Of the residual, relative to the first one.
SMALL = 1e-16


class Shifted(Protocol):
    """One weight of a translation on a tensor."""

    @property
    def frame(self) -> Frame:
        """Where."""

    @property
    def tensor(self) -> Tensor:
        """What."""


def least_shifts(pieces: Mapping[str, Sequence[Shifted]]) -> dict[str, Tensor]:
    """The translations after which the squares of what they move are least, by conjugate gradients.

    Embeddings of words, positions and segments are added up, so that two translations move all of them; taken in turn
    they would need thousands of steps, since nearly all that either moves is the table of words.

    Parameters
    ----------
    pieces : mapping of str to sequence
        By gauge; their tensors are read only.

    Returns
    -------
    dict of str to Tensor
    """
    tensors = {id(piece.tensor): piece.tensor for several in pieces.values() for piece in several}
    residual = {name: -value for name, value in _projected(pieces, tensors).items()}
    weight = {name: _weight(several) for name, several in pieces.items()}
    found = {name: torch.zeros_like(value) for name, value in residual.items()}
    if len(pieces) == 1:
        return {name: residual[name] / weight[name] for name in pieces}
    blank = {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}
    scaled = {name: residual[name] / weight[name] for name in pieces}
    direction, size = scaled, _inner(residual, scaled)
    first = size
    for _ in range(4 * len(pieces) + 4):
        if not size > SMALL * first:
            break
        for several in pieces.values():
            for piece in several:
                blank[id(piece.tensor)].zero_()
        for name, several in pieces.items():
            for piece in several:
                piece.frame.view(blank[id(piece.tensor)]).add_(piece.frame.weight.coefficient * direction[name])
        image = _projected(pieces, blank)
        step = size / _inner(direction, image)
        found = {name: found[name] + step * direction[name] for name in found}
        residual = {name: residual[name] - step * image[name] for name in residual}
        scaled = {name: residual[name] / weight[name] for name in pieces}
        before, size = size, _inner(residual, scaled)
        direction = {name: scaled[name] + size / before * direction[name] for name in direction}
    return found


def _projected(pieces: Mapping[str, Sequence[Shifted]], tensors: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """What every translation would change of half the sum of squares, by unit."""
    return {
        name: sum(
            (p.frame.weight.coefficient * p.frame.summed(p.frame.view(tensors[id(p.tensor)])) for p in several[1:]),
            several[0].frame.weight.coefficient
            * several[0].frame.summed(several[0].frame.view(tensors[id(several[0].tensor)])),
        )
        for name, several in pieces.items()
    }


def _weight(several: Sequence[Shifted]) -> Tensor:
    """How many entries a unit shift moves, by the squares of what it moves them by."""
    parts = []
    for piece in several:
        view = piece.frame.view(piece.tensor)
        count = view.numel() // max(1, piece.frame.summed(view).numel())
        parts.append(piece.frame.weight.coefficient**2 * count)
    like = several[0].frame.summed(several[0].frame.view(several[0].tensor))
    return torch.full_like(like, float(sum(parts)))


def _inner(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return float(sum(float((one[name] * other[name]).sum()) for name in one))
