"""Losses for a fixed simplex classifier."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weyl.errors import InputError, UsageError

__all__ = ["DotRegressionLoss"]

REDUCTIONS = ("mean", "sum", "none")


class DotRegressionLoss(nn.Module):
    r"""Squared shortfall of a feature's dot product with the fixed vector of its class.

    .. math:: L(h, W) = \frac{1}{2\sqrt{E_W E_H}} \left(w_c^\top h - \sqrt{E_W E_H}\right)^2,
        \qquad \|h\|^2 = E_H, \quad \|w_c\|^2 = E_W

    On the sphere :math:`\|h\|^2 = E_H` its gradient is :math:`-(1 - \cos\angle(h, w_c))\, w_c`: it pulls a feature to
    its own class vector, and unlike that of cross-entropy it has no term that pushes the feature from the others,
    which under unequal class sizes is what moves small classes together.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        What becomes of the n values.
    energy : float
        :math:`E_H`, the squared norm of a feature.
    normalize : bool
        Bring every feature to that norm first; a zero feature stays zero. Otherwise they are taken as they are.

    Raises
    ------
    UsageError
        If an option is out of range.

    References
    ----------
    Yang et al., "Inducing neural collapse in imbalanced learning: do we really need a learnable classifier at the
    end of deep neural network?", arXiv 2203.09081: the loss, and its gradient.

    Examples
    --------
    >>> from weyl.nn import SimplexHead
    >>> head, loss = SimplexHead(4, 3), DotRegressionLoss()
    >>> labels = torch.tensor([0, 2])
    >>> float(loss(5 * head.weight[labels], labels, head.weight)) < 1e-12
    True
    >>> round(float(loss(-head.weight[labels], labels, head.weight)), 6)
    2.0
    """

    def __init__(self, reduction: str = "mean", *, energy: float = 1.0, normalize: bool = True) -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise UsageError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        if not 0 < energy < math.inf:
            raise UsageError(f"energy must be positive and finite, got {energy}")
        self.reduction, self.energy, self.normalize = reduction, float(energy), normalize

    def forward(self, features: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """Loss of features of known class.

        Parameters
        ----------
        features : floating tensor, shape (n, dim)
            Half precision is computed in float32.
        labels : integer tensor, shape (n,)
            Classes, from 0 to k - 1.
        weight : tensor, shape (k, dim)
            Class vectors, e.g. ``SimplexHead(dim, k).weight``; E_W is the squared norm of each.

        Returns
        -------
        tensor
            A scalar, or shape (n,) with ``reduction="none"``.

        Raises
        ------
        UsageError
            If shapes or dtypes do not fit.
        InputError
            If a label is out of range (checked here on the CPU; elsewhere by the look-up on the device).
        """
        _check(features, labels, weight)
        precise = torch.promote_types(features.dtype, torch.float32)
        h = features.to(precise)
        if self.normalize:
            h = math.sqrt(self.energy) * F.normalize(h, dim=1)
        # Unlike indexing, an embedding refuses a negative label on every device.
        w = F.embedding(labels.long(), weight.to(precise))
        target = math.sqrt(self.energy) * w.norm(dim=1)
        losses = ((h * w).sum(1) - target).square() / (2 * target)
        if self.reduction == "none":
            return losses
        return losses.mean() if self.reduction == "mean" else losses.sum()

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return f"reduction={self.reduction!r}, energy={self.energy:g}, normalize={self.normalize}"


def _check(features: Tensor, labels: Tensor, weight: Tensor) -> None:
    if features.ndim != 2 or weight.ndim != 2 or features.shape[1] != weight.shape[1]:
        raise UsageError(
            f"features (n, dim) and weight (k, dim) do not fit, got {tuple(features.shape)} and {tuple(weight.shape)}"
        )
    if labels.shape != features.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise UsageError(
            f"labels must be integers of shape ({len(features)},), got {labels.dtype} {tuple(labels.shape)}"
        )
    # Elsewhere the check would wait for the device at every step.
    if labels.device.type == "cpu" and len(labels):
        low, high = (int(end) for end in torch.aminmax(labels))
        if low < 0 or high >= len(weight):
            wrong, k = low if low < 0 else high, len(weight)
            raise InputError(f"label {wrong} is out of range: the labels of {k} classes go from 0 to {k - 1}")
