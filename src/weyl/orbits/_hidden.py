"""Hidden symmetry: directions in which a network's function does not change although its group does not say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weyl.actions._state import check_state
from weyl.landscape import FunctionalDimension, functional_dimension
from weyl.landscape._dimension import check_model, complete
from weyl.orbits._tangents import tangents
from weyl.structure import Structure

__all__ = ["HiddenSymmetry", "compare_dimensions", "hidden_symmetry"]


@dataclass(frozen=True)
class HiddenSymmetry:
    """A measured functional dimension beside the one that the group predicts.

    Parameters
    ----------
    parameters : int
        Number of parameters P.
    rank : int
        Measured rank of the derivative of the outputs on a batch.
    samples : int
        Number of inputs in the batch.
    by_group : int
        Dimension of the orbit within parameter space: what moves buffers as well is not counted.
    unused : int
        Parameters that the output does not depend on.
    gap : float
        Last singular value that counts over the first that does not.
    """

    parameters: int
    rank: int
    samples: int
    by_group: int
    unused: int
    gap: float

    @property
    def predicted(self) -> int:
        """The rank, were there nothing but the group: P - by_group - unused."""
        return self.parameters - self.by_group - self.unused

    @property
    def hidden(self) -> int:
        """Directions that the group does not explain; an upper bound, since another batch may raise the rank."""
        return self.predicted - self.rank

    def __repr__(self) -> str:
        return (
            f"HiddenSymmetry(rank={self.rank}, predicted={self.predicted}, hidden={self.hidden}, "
            f"parameters={self.parameters}, by_group={self.by_group}, unused={self.unused}, "
            f"samples={self.samples}, gap={self.gap:.3g})"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self) | {"predicted": self.predicted, "hidden": self.hidden}


def hidden_symmetry(
    model: nn.Module,
    structure: Structure,
    inputs: Tensor | Sequence[Any],
    *,
    state: Mapping[str, Tensor] | None = None,
    chunk: int = 16,
) -> HiddenSymmetry:
    r"""Measure the functional dimension and compare it with what the group predicts.

    Parameters
    ----------
    model : nn.Module
        Run in evaluation mode on a copy in float64; not changed.
    structure : Structure
        Of the model.
    inputs : tensor or sequence
        A batch, samples first; or positional arguments.
    state : mapping of str to tensor, optional
        All parameters and buffers to measure at; those of the model unless given.
    chunk : int
        Samples that are differentiated at once.

    Returns
    -------
    HiddenSymmetry
        ``.rank``, ``.predicted`` and ``.hidden``.

    Raises
    ------
    InputError
        If the model has no parameters, it does not accept the inputs, there are no samples, the state lacks a tensor,
        or an output is not finite.
    StructureError
        If the structure is that of another model.
    UsageError
        If there are more than 20,000 parameters, or ``chunk`` is less than 1.

    References
    ----------
    Grigsby, Lindsey, Meyerhoff, Wu, "Functional dimension of feedforward ReLU neural networks", arXiv 2209.04036:
    symmetries of ReLU networks that no permutation and no scale explains.

    Examples
    --------
    >>> import weyl
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    >>> x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    >>> found = hidden_symmetry(net, weyl.discover(net, (x,)), x)
    >>> found.rank, found.predicted, found.hidden
    (26, 26, 0)
    """
    check_model(model)
    check_state(structure, model.state_dict())
    measured = functional_dimension(model, state, inputs, chunk=chunk)
    return compare_dimensions(measured, model, structure, state)


def compare_dimensions(
    measured: FunctionalDimension, model: nn.Module, structure: Structure, state: Mapping[str, Tensor] | None = None
) -> HiddenSymmetry:
    """Put a measured dimension beside what the group predicts: :func:`hidden_symmetry` after the measurement.

    Parameters
    ----------
    measured : FunctionalDimension
        Of this model at this state.
    model, structure, state
        As in :func:`hidden_symmetry`.

    Raises
    ------
    InputError
        If the state lacks a tensor.
    StructureError
        If the structure is that of another model.
    NotFiniteError
        If a tensor that the continuous part of the group moves has NaN or infinity.
    """
    full = complete(model, state)
    owned = dict(model.named_parameters())
    unused = sum(owned[name].numel() for name in structure.unused if name in owned)
    trained = dict(model.named_parameters(remove_duplicate=False))
    rows = [tangent.direction for tangent in tangents(structure, full)]
    touched = list(dict.fromkeys(name for row in rows for name in row))
    whole = _rank(rows, touched, full)
    within = whole - _rank(rows, [name for name in touched if name not in trained], full)
    return HiddenSymmetry(measured.parameters, measured.rank, measured.samples, within, unused, measured.gap)


def _rank(rows: Sequence[Mapping[str, Tensor]], names: Sequence[str], state: Mapping[str, Tensor]) -> int:
    """Rank of directions, looking at some tensors only; every direction at length one."""
    if not rows or not names:
        return 0
    flat = torch.stack(
        [
            torch.cat([row[n].flatten() if n in row else torch.zeros_like(state[n]).flatten() for n in names])
            for row in rows
        ]
    )
    size = flat.norm(dim=1, keepdim=True)
    return int(torch.linalg.matrix_rank(flat / torch.where(size > 0, size, 1)))
