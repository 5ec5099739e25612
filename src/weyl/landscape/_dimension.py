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

from weyl._memory import tensor_identity
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
        All parameters and buffers to measure at; those of the model unless given.
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
        If the model has no parameters, it does not accept the inputs, there are no samples, the state lacks a tensor,
        or an output is not finite.
    UsageError
        If there are more than 20,000 parameters, or ``chunk`` is less than 1.

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
    check_model(model)
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise UsageError(f"chunk must be a whole number of samples, at least 1; got {chunk!r}")
    net = copy.deepcopy(model).eval().double()
    full = complete(net, state)
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
    _try(net, {**trained, **fixed}, _part(batch, 0, chunk))
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


def check_model(model: object) -> None:
    """Refuse what is no module.

    Raises
    ------
    InputError
        Saying what came.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module, got {type(model).__name__}: pass the model first")


def complete(model: nn.Module, state: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Parameters and buffers of a model in float64, those of a state if it is given.

    Raises
    ------
    InputError
        If the state is none of the model's: it lacks a tensor, or has one of another shape. Of names that share a
        tensor one is enough.
    """
    own = model.state_dict()
    if state is None:
        given: Mapping[str, Tensor] = own
    elif isinstance(state, Mapping):
        given = _fitted(own, state)
    else:
        raise InputError(f"expected a state dict of tensors, got {type(state).__name__}: pass model.state_dict()")
    return {name: t.detach().double() if t.is_floating_point() else t for name, t in given.items()}


def _fitted(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    shared: dict[object, Tensor] = {}
    for name, tensor in own.items():
        if name in state:
            given = state[name]
            if not isinstance(given, Tensor):
                raise InputError(f"{name!r} is no tensor but {type(given).__name__}: convert it with torch.as_tensor")
            if given.shape != tensor.shape:
                raise InputError(f"{name!r} has shape {tuple(given.shape)}, the model's has {tuple(tensor.shape)}")
            shared.setdefault(tensor_identity(tensor), given)
    for name, tensor in own.items():
        if tensor_identity(tensor) not in shared:
            raise InputError(f"the state has no tensor {name!r}: pass the whole state dict, with the model's names")
    return {**{name: shared[tensor_identity(tensor)] for name, tensor in own.items()}, **state}


def _try(net: nn.Module, full: Mapping[str, Tensor], part: tuple[Any, ...]) -> None:
    """Run the model once, so that inputs which do not fit it are told from what cannot be differentiated."""
    try:
        with torch.no_grad():
            torch.func.functional_call(net, dict(full), part)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{type(net).__name__} does not accept these inputs ({first}): check the shapes and types of the inputs"
        ) from error


def _part(batch: tuple[Any, ...], start: int, chunk: int) -> tuple[Any, ...]:
    """Some samples of a batch; arguments that are not as long as the first are given whole."""
    samples = len(batch[0])
    return tuple(
        a[start : start + chunk] if isinstance(a, Tensor) and a.ndim and len(a) == samples else a for a in batch
    )


def _arguments(inputs: Tensor | Sequence[Any]) -> tuple[Any, ...]:
    arguments = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs) if isinstance(inputs, Sequence) else ()
    if not arguments or not isinstance(arguments[0], Tensor):
        raise UsageError("inputs must be a tensor, or a sequence of arguments that begins with one")
    if not arguments[0].ndim:
        raise InputError("the batch is a single number: samples are counted along its first dimension")
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
        jacobian = torch.func.jacrev(outputs)(dict(trained), _part(batch, start, chunk))
        yield torch.cat([jacobian[name].flatten(2).flatten(0, 1) for name in trained], dim=1)
