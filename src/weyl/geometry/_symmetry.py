"""How far a Gram matrix is from one that every permutation of the classes leaves as it is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from weyl.errors import UsageError

__all__ = ["class_shares", "nearest_invariant", "pair_defects", "simplex_distance", "split_defect"]


def nearest_invariant(gram: Tensor) -> Tensor:
    r"""Return the nearest matrix that commutes with every permutation.

    These are :math:`aI + b11^\top`; the nearest has the mean of the diagonal on it and the mean of the rest beside it.

    Parameters
    ----------
    gram : floating tensor, shape (k, k)
        Symmetric.

    Returns
    -------
    tensor, shape (k, k)
        Its orthogonal projection.

    Raises
    ------
    UsageError
        If the matrix is not square.

    Examples
    --------
    >>> nearest_invariant(torch.tensor([[1.0, 0.0], [0.5, 3.0]])).tolist()
    [[2.0, 0.25], [0.25, 2.0]]
    """
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise UsageError(f"a Gram matrix must be square, got shape {tuple(gram.shape)}")
    k = len(gram)
    diagonal = gram.diagonal().mean()
    rest = (gram.sum() - gram.diagonal().sum()) / max(k * (k - 1), 1)
    eye = torch.eye(k, dtype=gram.dtype, device=gram.device)
    return rest + (diagonal - rest) * eye


def simplex_distance(matrix: Tensor) -> float:
    r"""Compute :math:`\| A/\|A\|_F - P/\sqrt{k-1} \|_F` with :math:`P = I - 11^\top/k`: NC2 of a Gram, NC3 of WMᵀ.

    A zero matrix points nowhere: its distance is that of a right angle, :math:`\sqrt 2`.

    Examples
    --------
    >>> simplex_distance(3 * (torch.eye(3, dtype=torch.float64) - 1 / 3)) < 1e-15
    True
    """
    k = len(matrix)
    target = (torch.eye(k, dtype=matrix.dtype, device=matrix.device) - 1 / k) / math.sqrt(k - 1)
    norm = matrix.norm()
    return float((matrix / norm - target).norm()) if float(norm) > 0 else math.sqrt(2)


def split_defect(gram: Tensor) -> tuple[float, float]:
    r"""Split the departure of centred means from a simplex into lengths and angles.

    Returns
    -------
    equinorm : float
        Standard deviation of the lengths over their mean.
    equiangular : float
        Root mean square over pairs of :math:`\cos + 1/(k-1)`.
    """
    k = len(gram)
    lengths = gram.diagonal().clamp_min(0).sqrt()
    mean = float(lengths.mean())
    if mean == 0:
        return 0.0, 1 / (k - 1)
    scale = torch.where(lengths > 0, 1 / lengths, 0.0)
    cosines = gram * scale[:, None] * scale
    off = ~torch.eye(k, dtype=torch.bool, device=gram.device)
    return (
        float(lengths.std(correction=0)) / mean,
        float((cosines[off] + 1 / (k - 1)).square().mean().sqrt()),
    )


def pair_defects(residual: Tensor) -> Tensor:
    r"""Compute :math:`\|P_{ij} G P_{ij}^\top - G\|_F` for the exchange of every two classes.

    Parameters
    ----------
    residual : tensor, shape (k, k)
        G less its nearest invariant matrix, which no exchange changes; symmetric.

    Returns
    -------
    tensor, shape (k, k)
        Zero on the diagonal. From distances between rows: no permuted matrix is formed.
    """
    diagonal = residual.diagonal()
    gap = diagonal[:, None] - diagonal
    squares = residual.square().sum(1)
    rows = squares[:, None] + squares - 2 * residual @ residual
    # Rows i and j differ at i and j by entries that change places among themselves.
    rows = rows - (diagonal[:, None] - residual).square() - (diagonal - residual).square()
    return (4 * rows + 2 * gap.square()).clamp_min(0).fill_diagonal_(0).sqrt()


def class_shares(residual: Tensor) -> Tensor:
    """Share of each class in the squared norm of the residual, shape (k,); equal shares if it is zero."""
    rows = residual.square().sum(1)
    total = rows.sum()
    return rows / total if float(total) > 0 else torch.full_like(rows, 1 / len(rows))
