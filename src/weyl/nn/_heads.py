"""Classifiers whose weights are the vertices of a regular simplex."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weyl.errors import UsageError
from weyl.geometry import simplex

__all__ = ["SimplexHead"]


class SimplexHead(nn.Module):
    r"""Linear classifier whose class vectors are the vertices of a regular simplex.

    .. math:: z = e^{\tau}\,(W h + b), \qquad
        W W^\top = s^2\,\tfrac{k}{k-1}\left(I - \tfrac1k \mathbf 1 \mathbf 1^\top\right)

    with s the ``scale``, b zero without ``bias`` and :math:`\tau` zero without ``learn_scale``. Training leads to
    such a W, up to its size, in any case; fixing it saves its gradients and the state of an optimiser.

    The parameter-free head is :math:`z = s\,(h_{1:k} - \bar h_{1:k})`: its W is s times the centring matrix, beside
    zeros. It costs O(k) instead of O(k dim), and holds neither parameters nor buffers.

    Parameters
    ----------
    dim : int
        Length of a feature vector; at least k - 1, and at least k for the parameter-free head.
    k : int
        Number of classes, at least 2.
    trainable : bool
        Whether W is a parameter that starts at the simplex; otherwise it is a buffer.
    parameter_free : bool
        Use the head without weights.
    scale : float
        Norm of a class vector; for the parameter-free head the factor s, with class vectors of norm s·√((k−1)/k). W
        cannot grow here, so where the features are bounded (normalised, or under weight decay) the scale bounds the
        logits, and with them the loss from below: :func:`weyl.simplex_optimum` gives the least risk, at radius
        scale · √(k/(k−1)) · ‖h‖, or scale · ‖h‖ for the parameter-free head.
    learn_scale : bool
        Add the scalar parameter ``log_scale``, which is :math:`\tau`: the features can then stay bounded while the
        loss goes to zero. It multiplies W h + b as a whole: predictions do not change, nor does any metric that
        reads W and b.
    bias : bool
        Add a trainable bias that starts at zero, for classes of unequal size.
    seed : int or None
        Rotates the simplex at random (Haar), by a generator of its own. With None only the first k - 1 features are
        read. The parameter-free head has no rotation.
    device, dtype
        Of the tensors, as for :class:`torch.nn.Linear`.

    Attributes
    ----------
    weight : tensor, shape (k, dim)
        W: a parameter, a buffer, or, for the parameter-free head, made on request.

    Raises
    ------
    UsageError
        If ``dim`` is too small, a number is out of range, or ``parameter_free`` is combined with parameters.

    Notes
    -----
    Best put after a linear layer. Features that are not negative, as after a ReLU, can reach the optimum only if no
    half-space holds all columns of W. For a random rotation that is a matter of chance, by Wendel's theorem: 1/2 for
    dim = 2(k - 1), and soon 1 beyond. The unrotated simplex never has it, and there training stays at chance level;
    the parameter-free head has it, but a unit that the ReLU switches off for good takes its class with it. Even where
    the optimum can be reached it need not be: in this project's study a rotated head behind a ReLU ended at NC2 0.2,
    in front of it at 0.02.

    References
    ----------
    Zhu et al., "A geometric analysis of neural collapse with unconstrained features", arXiv 2105.02375:
    the fixed classifier. The parameter-free form is the same simplex in other coordinates. Wendel, "A problem in
    geometric probability", Math. Scand. 11, 1962.

    Examples
    --------
    >>> import torch
    >>> from weyl.nn import SimplexHead
    >>> head = SimplexHead(8, 4)
    >>> head(torch.ones(2, 8)).shape, sum(p.numel() for p in head.parameters())
    (torch.Size([2, 4]), 0)
    >>> SimplexHead(3, 3, parameter_free=True)(torch.tensor([[3.0, 0.0, 0.0]]))
    tensor([[ 2., -1., -1.]])
    """

    weight: Tensor
    bias: nn.Parameter | None
    log_scale: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        k: int,
        trainable: bool = False,
        parameter_free: bool = False,
        *,
        scale: float = 1.0,
        learn_scale: bool = False,
        bias: bool = False,
        seed: int | None = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check(dim, k, scale, parameter_free)
        if parameter_free and (trainable or learn_scale or bias):
            raise UsageError("a parameter-free head has no trainable weight, learned scale or bias; drop these")
        self.dim, self.k, self.scale, self.seed = dim, k, float(scale), seed
        self.trainable, self.parameter_free = trainable, parameter_free
        empty = torch.empty(0, device=device, dtype=dtype)
        # Neither a buffer nor a parameter: it only remembers where `weight` is wanted.
        self._like = empty
        self.register_parameter("bias", nn.Parameter(empty.new_empty(k)) if bias else None)
        self.register_parameter("log_scale", nn.Parameter(empty.new_empty(())) if learn_scale else None)
        if not parameter_free:
            self._set_weight(empty.new_empty(k, dim))
            self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set every tensor as on construction, also after ``to_empty``: W to the simplex, bias and log scale to 0."""
        for tensor in (self.bias, self.log_scale):
            if tensor is not None:
                tensor.zero_()
        if not self.parameter_free:
            self.weight.copy_(self._vertices())

    def forward(self, features: Tensor) -> Tensor:
        """Logits, shape (..., k), of features of shape (..., dim).

        Raises
        ------
        UsageError
            If the last dimension is not ``dim``.
        """
        if features.shape[-1] != self.dim:
            raise UsageError(f"features must have shape (..., {self.dim}), got {tuple(features.shape)}")
        if self.parameter_free:
            first = features[..., : self.k]
            logits = first - first.mean(-1, keepdim=True)
            return logits if self.scale == 1 else logits * self.scale
        logits = F.linear(features, self.weight, self.bias)
        return logits if self.log_scale is None else logits * self.log_scale.exp()

    def extra_repr(self) -> str:
        """Arguments that differ from their defaults, for ``repr``."""
        given = {
            "trainable": self.trainable,
            "parameter_free": self.parameter_free,
            "scale": self.scale != 1 and f"{self.scale:g}",
            "learn_scale": self.log_scale is not None,
            "bias": self.bias is not None,
            "seed": self.seed != 0 and str(self.seed),
        }
        return ", ".join([f"dim={self.dim}, k={self.k}", *(f"{key}={value}" for key, value in given.items() if value)])

    def _set_weight(self, weight: Tensor) -> None:
        if self.trainable:
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight)

    def _vertices(self) -> Tensor:
        """W in float64 on the CPU, whatever the default device: it is copied to where it belongs."""
        with torch.device("cpu"):
            if self.parameter_free:
                centring = torch.eye(self.k, self.dim, dtype=torch.float64)
                centring[:, : self.k] -= 1 / self.k
                return self.scale * centring
            generator = None if self.seed is None else torch.Generator().manual_seed(self.seed)
            return simplex(self.k, self.dim, self.scale, generator)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SimplexHead:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._like = fn(self._like)
        return self

    def __getattr__(self, name: str) -> Any:
        # Reached only where no such attribute, parameter or buffer exists.
        if name == "weight" and self.__dict__.get("parameter_free"):
            return self._vertices().to(self._like)
        return super().__getattr__(name)


def _check(dim: int, k: int, scale: float, parameter_free: bool) -> None:
    for name, value, least in (("dim", dim, 1), ("k", k, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"{name} must be an integer of at least {least}, got {value!r}")
    least = k if parameter_free else k - 1
    if dim < least:
        kind = "a parameter-free head" if parameter_free else "a simplex head"
        raise UsageError(
            f"{kind} of {k} classes needs dim of at least {least}, got {dim}; add a linear layer before it"
        )
    if not 0 < scale < math.inf:
        raise UsageError(f"scale must be positive and finite, got {scale}")
