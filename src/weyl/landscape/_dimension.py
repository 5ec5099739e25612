"""Functional dimension: in how many directions of parameter space a network's function really changes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from weyl.errors import InputError, UsageError

__all__ = ["FunctionalDimension", "functional_dimension"]

MOST_PARAMETERS = 20_000  # a triangular factor of 3 GiB


@dataclass(frozen=True, eq=False)
class FunctionalDimension:
    r"""Rank of the derivative of a network's outputs on a batch, with respect to its parameters.

    Parameters
    ----------
    rank : int
        The dimension at these parameters, for this batch; more inputs can only raise it.
    parameters : int
        Number of parameters P.
    samples : int
        Number of inputs.
    singular_values : float64 array, shape (min(P, rows),)
        Of the derivative, largest first.
    tolerance : float
        Singular values above it count.
    gap : float
        Last singular value that counts over the first that does not; the rank is clear if this is large. Infinite if
        all count or the rest are zero.
    """

    rank: int
    parameters: int
    samples: int
    singular_values: Float[np.ndarray, " n"]
    tolerance: float
    gap: float

    @property
    def deficiency(self) -> int:
        """Directions in which the outputs on this batch do not change: P - rank."""
        return self.parameters - self.rank


def functional_dimension(
    model: nn.Module,
    state: Mapping[str, Tensor] | None,
    inputs: Tensor | Sequence[Any],
    *,
    chunk: int = 16,
) -> FunctionalDimension:
    r"""Measure the rank of :math:`\partial f(\text{batch}) / \partial\theta`, in float64.

    The directions that are lost are those of the symmetries through θ, and of whatever else leaves the function on
    this batch unchanged to first order: hidden symmetry. It is a lower bound of the supremum over all batches, which
    is reached for generic inputs that are many enough.

    Parameters
    ----------
    model : nn.Module
        Run in evaluation mode on a copy in float64; not changed.
    state : mapping of str to tensor, or None
        Parameters and buffers to measure at; those of the model unless given.
    inputs : tensor or sequence
        The batch, with samples along the first dimension; or positional arguments.
    chunk : int
        Samples that are differentiated at once.

    Returns
    -------
    FunctionalDimension
        ``.rank``, and the singular values that decided it.

    Raises
    ------
    InputError
        If the model has no parameters, there are no samples, or an output is not finite.
    UsageError
        If there are more than 20,000 parameters.

    References
    ----------
    Grigsby, Lindsey, Meyerhoff, Wu, "Functional dimension of feedforward ReLU neural networks", arXiv 2209.04036.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    >>> x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    >>> functional_dimension(net, None, x).parameters
    32
    """
    net = copy.deepcopy(model).eval().double()
    given = dict(net.state_dict()) if state is None else {**net.state_dict(), **state}
    full = {name: t.detach().double() if t.is_floating_point() else t for name, t in given.items()}
    trained = {name: full[name] for name, _ in net.named_parameters()}
    fixed = {name: full[name] for name, _ in net.named_buffers() if name in full}
    count = sum(t.numel() for t in trained.values())
    if not count:
        raise InputError("the model has no parameters, so its function cannot change")
    if count > MOST_PARAMETERS:
        raise UsageError(
            f"functional_dimension needs a P × P matrix: at most {MOST_PARAMETERS:,} parameters, got {count:,}"
        )
    batch = _arguments(inputs)
    samples = len(batch[0])
    if not samples:
        raise InputError("no samples: the batch is empty")
    factor = torch.zeros(0, count, dtype=torch.float64, device=next(iter(trained.values())).device)
    rows = 0
    waiting: list[Tensor] = []
    for block in _derivatives(net, trained, fixed, batch, chunk):
        rows += len(block)
        waiting.append(block)
        # Only the triangular factor of what came so far is kept: it has the same singular values.
        if sum(map(len, waiting)) >= count:
            factor = torch.linalg.qr(torch.cat([factor, *waiting]), mode="r").R
            waiting = []
    factor = torch.linalg.qr(torch.cat([factor, *waiting]), mode="r").R
    if not bool(factor.isfinite().all()):
        raise InputError("the derivative has NaN or infinity; look at the parameters and the inputs")
    values = torch.linalg.svdvals(factor)
    tolerance = max(rows, count) * torch.finfo(torch.float64).eps * float(values[0])
    rank = int((values > tolerance).sum())
    rest = float(values[rank]) if rank < len(values) else 0.0
    gap = float(values[rank - 1]) / rest if rank and rest > 0 else math.inf
    return FunctionalDimension(rank, count, samples, values.cpu().numpy(), tolerance, gap)


def _arguments(inputs: Tensor | Sequence[Any]) -> tuple[Any, ...]:
    arguments = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    if not arguments or not isinstance(arguments[0], Tensor):
        raise UsageError("inputs must be a tensor, or a sequence of arguments that begins with one")
    return tuple(a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments)


def _derivatives(
    net: nn.Module,
    trained: Mapping[str, Tensor],
    fixed: Mapping[str, Tensor],
    batch: tuple[Any, ...],
    chunk: int,
) -> Iterator[Tensor]:
    """Rows of the derivative, a chunk of samples at a time, shape (chunk · outputs, P)."""

    def outputs(parameters: Mapping[str, Tensor], part: tuple[Any, ...]) -> Tensor:
        found = torch.func.functional_call(net, {**parameters, **fixed}, part)
        if not isinstance(found, Tensor):
            raise InputError(f"the model must return a tensor, got {type(found).__name__}")
        return found.flatten(1)

    samples = len(batch[0])
    for start in range(0, samples, chunk):
        part = tuple(
            a[start : start + chunk] if isinstance(a, Tensor) and a.ndim and len(a) == samples else a for a in batch
        )
        jacobian = torch.func.jacrev(outputs)(dict(trained), part)
        yield torch.cat([jacobian[name].flatten(2).flatten(0, 1) for name in trained], dim=1)
