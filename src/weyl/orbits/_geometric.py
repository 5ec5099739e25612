"""The matrix that balances two Gram matrices: the square root of a geometric mean, by three methods."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["common_ranks", "geometric_mean", "mean_of_grams", "newton_step"]

# Condition of Gram matrices up to which a geometric mean is read off them, and not off what they are Grams of.
CONDITION = 1e4
# Largest norm of a Newton step, of which the third power is left out.
NEAR = 1e-2


def newton_step(up: Tensor, down: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """What a step from the identity gives, with an error of third order, and for which copies that is little.

    With M = exp(D), ``M A M = M⁻¹ B M⁻¹`` is ``D (A + B) + (A + B) D = B - A`` to second order. Of a small D the error
    is relative to D, however the matrices are conditioned.
    """
    values, columns = torch.linalg.eigh(up + down)
    turned = columns.mT @ (down - up) @ columns / (values[..., :, None] + values[..., None, :])
    step = columns @ turned @ columns.mT
    good = torch.linalg.matrix_norm(step) < NEAR
    step = (step + step.mT) * (power / 2)
    return torch.eye(step.shape[-1]).to(step) + step + step @ step / 2, good


def mean_of_grams(up: Tensor, down: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """The square root of the geometric mean of A⁻¹ and B, to some power, and for which copies it is exact enough."""
    values, columns = torch.linalg.eigh(up)
    good = values[..., 0] * CONDITION > values[..., -1]
    root = values.clamp_min(torch.finfo(values.dtype).tiny).sqrt()
    half, back = (columns * own[..., None, :] @ columns.mT for own in (root, 1 / root))
    inner, turns = torch.linalg.eigh(half @ down @ half)
    good &= inner[..., 0] * CONDITION**2 > inner[..., -1]
    left = back @ turns
    mean = left * inner.clamp_min(0).sqrt()[..., None, :] @ left.mT
    squares, axes = torch.linalg.eigh((mean + mean.mT) / 2)
    return axes * (squares.clamp_min(0) ** (power / 2))[..., None, :] @ axes.mT, good


def geometric_mean(up: Tensor, down: Tensor, rank: int) -> Tensor:
    """M with ``M A Mᵀ = M⁻ᵀ B M⁻¹`` for A = upᵀ up and B = downᵀ down, both of some rank, as is their product.

    On the kernel of B the matrix is free, and orthogonal.
    """
    left, values, _ = torch.linalg.svd(down @ up.mT, full_matrices=False)
    rows = torch.linalg.svd(up).Vh
    top = values[:rank, None] ** -0.5 * (left[:, :rank].mT @ down)
    return torch.cat([top, rows[rank:]])


def common_ranks(up: Tensor, down: Tensor, precision: float) -> Tensor:
    """Rank of both sides of every copy and of their product, -1 where they differ.

    The norm has a minimum where the range of one side and the kernel of the other together are everything, which is
    where these ranks are the same.
    """
    values = [torch.linalg.svdvals(side) for side in (up, down, down @ up.mT)]
    largest = [v[..., :1] for v in values[:2]]
    bounds = (*largest, largest[0] * largest[1])
    small = 4 * up.shape[-1] * precision
    counts = [(v > small * bound).sum(-1) for v, bound in zip(values, bounds, strict=True)]
    same = (counts[0] == counts[1]) & (counts[1] == counts[2])
    return counts[0].where(same, -1).cpu()
