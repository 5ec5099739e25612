"""Bases for units that matrices mix, and phases for pairs: all that the normal gauge leaves open, but for signs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weyl.groups import Element, Gauge, GaugeKind
from weyl.orbits import Frame, frames, once
from weyl.structure import Structure, spaces_of

__all__ = ["normal_bases"]

# Eigenvalues that are so near each other, relative to the largest, leave their vectors undecided.
NEAR = 1e-9
# Gram matrices of both sides that differ by more, relative to their sum, have not been balanced.
UNBALANCED = 1e-5

Copies = tuple[str, tuple[int, ...]]


def normal_bases(
    structure: Structure, state: Mapping[str, Tensor], slack: float = 0.0
) -> tuple[Element, tuple[Copies, ...]]:
    r"""Find the rotations and phases that bring a state from its normal gauge to a basis of its own.

    Units that an orthogonal matrix mixes are taken along the eigenvectors of the sum of their Gram matrices, largest
    first: for queries and keys in the normal gauge these are singular vectors of their product. Pairs that a phase
    turns are turned until the sum of their squares, as complex numbers, is positive. Signs are left open in both.

    Parameters
    ----------
    structure : Structure
        Of the model.
    state : mapping of str to tensor
        In the normal gauge, float64.
    slack : float
        Rounding of the state that it was made from: eigenvalues nearer than that leave their vectors open.

    Returns
    -------
    Element
        That moves no unit.
    tuple of (gauge, copy)
        Where eigenvalues coincide, so that their vectors are chosen at will, or no least norm is attained.
    """
    group = structure.group
    values: dict[str, NDArray[np.generic]] = {}
    open_: list[Copies] = []
    acting = _acting(structure, state)
    for gauge in structure.gauges:
        if gauge.kind.matrix:
            gram = _gram(acting[gauge.name], state)
            if gram is not None:
                anchors = _anchors(structure, acting[gauge.name], state)
                values[gauge.name], near = _basis(gauge, gram, anchors, max(NEAR, slack))
                near |= _unbalanced(gauge, gram, acting[gauge.name], state)
                if gauge.kind is GaugeKind.CENTRED and anchors is None:
                    near |= set(np.ndindex(*gram.shape[:-2]))
                open_ += [(gauge.name, copy) for copy in sorted(near)]
        elif gauge.kind is GaugeKind.COMPLEX:
            values[gauge.name] = _phases(acting[gauge.name], state)
    return Element(group.spaces, group.identity(), group.gauges, values), tuple(open_)


def _acting(structure: Structure, state: Mapping[str, Tensor]) -> dict[str, list[tuple[str, Frame]]]:
    found: dict[str, list[tuple[str, Frame]]] = {gauge.name: [] for gauge in structure.gauges}
    for name in once(structure, state):
        if state[name].is_floating_point():
            for frame in frames(structure, name):
                found[frame.gauge.name].append((name, frame))
    return found


def _gram(acting: list[tuple[str, Frame]], state: Mapping[str, Tensor]) -> Tensor | None:
    """Sum of the Gram matrices of some units, shape ``(*outer, n, n)``."""
    total: Tensor | None = None
    for name, frame in acting:
        rows = frame.unfolded(frame.view(state[name]))
        total = rows @ rows.mT if total is None else total + rows @ rows.mT
    return total


def _anchors(structure: Structure, acting: list[tuple[str, Frame]], state: Mapping[str, Tensor]) -> Tensor | None:
    """Rows of the first tensor in which the units stand with nothing else that moves, shape ``(*outer, n, rest)``.

    What they live within may move: that exchanges whole copies.
    """
    for name, frame in acting:
        own = structure.space(frame.gauge.space)
        others = [gauge for gauge, _ in structure.weights_by_tensor[name] if gauge is not frame.gauge]
        fixed = {own.name, *own.within, *(space.name for space in structure.indices)}
        moving = {space for axis in structure.axes[name] for space in spaces_of(axis)} - fixed
        if not others and not moving:
            return frame.unfolded(frame.view(state[name]))
    return None


def _basis(
    gauge: Gauge, gram: Tensor, anchors: Tensor | None, near: float
) -> tuple[NDArray[np.float64], set[tuple[int, ...]]]:
    n = gram.shape[-1]
    inside = _helmert(n).to(gram) if gauge.kind is GaugeKind.CENTRED else torch.eye(n).to(gram)
    eigenvalues, vectors = torch.linalg.eigh(inside @ gram @ inside.mT)
    eigenvalues, vectors = eigenvalues.flip(-1), vectors.flip(-1)
    matrix = vectors.mT @ inside
    if gauge.kind is GaugeKind.CENTRED:
        turned, line = _turned(matrix, anchors)
        matrix = inside.mT @ turned + line * torch.ones_like(gram) / n
    largest = eigenvalues[..., :1].clamp_min(torch.finfo(eigenvalues.dtype).tiny)
    close = (eigenvalues[..., :-1] - eigenvalues[..., 1:] < near * largest) & (eigenvalues[..., :-1] > near * largest)
    return matrix.cpu().numpy(), {tuple(copy) for copy in close.any(-1).nonzero().tolist()}


def _unbalanced(
    gauge: Gauge, gram: Tensor, acting: list[tuple[str, Frame]], state: Mapping[str, Tensor]
) -> set[tuple[int, ...]]:
    """Copies of a linear gauge without a state of least norm: there both sides would have one Gram matrix."""
    if gauge.kind is not GaugeKind.LINEAR:
        return set()
    one = _gram([(name, frame) for name, frame in acting if frame.weight.exponent > 0], state)
    off = gram if one is None else 2 * one - gram
    far = off.flatten(-2).norm(dim=-1) > UNBALANCED * gram.flatten(-2).norm(dim=-1)
    return {tuple(copy) for copy in far.nonzero().tolist()}


def _turned(rows: Tensor, anchors: Tensor | None) -> tuple[Tensor, Tensor]:
    """Basis vectors, and the line of ones, each with the sign that makes the first clear entry it meets positive."""
    if anchors is None:
        return rows, torch.ones_like(rows[..., :1, :1])
    return rows * _lead(rows @ anchors), _lead(anchors.mean(-2, keepdim=True))


def _lead(rows: Tensor) -> Tensor:
    """The sign of the first clear entry of every row, 1 where there is none."""
    clear = rows.abs() > 1e-6 * rows.abs().amax(-1, keepdim=True)
    first = clear.to(torch.int8).argmax(-1, keepdim=True)
    sign = rows.gather(-1, first).sign()
    return sign.where(sign != 0, torch.ones_like(sign))


def _helmert(n: int) -> Tensor:
    """An orthonormal basis of what sums to zero, shape ``(n - 1, n)``."""
    row = torch.arange(1, n, dtype=torch.float64)[:, None]
    at = torch.arange(n, dtype=torch.float64)[None]
    return torch.where(at < row, 1.0, torch.where(at == row, -row, 0.0)) / (row * (row + 1)).sqrt()


def _phases(acting: list[tuple[str, Frame]], state: Mapping[str, Tensor]) -> NDArray[np.complex128]:
    """For every pair of units the number that turns the sum of its squares to the positive axis."""
    total: Tensor | None = None
    for name, frame in acting:
        pair = torch.complex(frame.view(state[name]), frame.partner(state[name]))
        squares = frame.summed(pair.square())
        total = squares if total is None else total + squares
    assert total is not None
    return np.asarray(torch.polar(torch.ones_like(total.abs()), -total.angle() / 2).cpu().numpy())
