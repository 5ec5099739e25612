"""``conserved``: what gradient flow keeps, one quantity for every continuous generator that has one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weyl.errors import StructureError
from weyl.groups import Gauge, GaugeKind
from weyl.orbits._tangents import algebra_shape
from weyl.orbits._views import Frame, checked, finite, frames, is_statistic, known_names, once
from weyl.structure import Structure

__all__ = ["Conserved", "conserved"]

Values = NDArray[np.float64]
KEPT = (GaugeKind.SCALE, GaugeKind.LINEAR, GaugeKind.COMPLEX, GaugeKind.TRANSLATION)


@dataclass(frozen=True, eq=False)
class Conserved:
    """Conserved quantities of a state.

    Parameters
    ----------
    quantities : mapping of str to float64 array
        By name of the gauge: shape ``(*outer, n)``, or ``(*outer, n, n)`` for matrices, ``()`` without a space.
    sizes : mapping of str to float
        What the quantities of a gauge are small or large against: the same sums without signs, over all units (for
        translations sums of absolute values).
    left_out : mapping of str to str
        Continuous gauges that conserve nothing here, and why.
    """

    quantities: Mapping[str, Values]
    sizes: Mapping[str, float]
    left_out: Mapping[str, str]

    def drift(self, other: Conserved) -> dict[str, float]:
        r"""How far the quantities of another state are from these, by gauge.

        Parameters
        ----------
        other : Conserved
            Of a state of the same structure, later in training for instance.

        Returns
        -------
        dict of str to float
            :math:`\|Q' - Q\| / s` with the Frobenius norm, and s the size of this state; 0 where nothing changed.

        Raises
        ------
        StructureError
            If the other has other gauges, or other shapes.
        """
        shapes = [{name: array.shape for name, array in one.quantities.items()} for one in (self, other)]
        if shapes[0] != shapes[1]:
            raise StructureError("conserved quantities of different structures cannot be compared")
        found = {}
        for name, array in self.quantities.items():
            change = float(np.linalg.norm(other.quantities[name] - array))
            found[name] = change / self.sizes[name] if change and self.sizes[name] else change
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        quantities = {name: array.tolist() for name, array in self.quantities.items()}
        return {"quantities": quantities, "sizes": dict(self.sizes), "left_out": dict(self.left_out)}


def conserved(
    structure: Structure, state: Mapping[str, Tensor], *, trained: Collection[str] | None = None
) -> Conserved:
    r"""Conserved quantities of gradient flow, which every loss of the outputs has by the symmetry of the network.

    The gradient is orthogonal to every tangent :math:`A \cdot \theta` of the orbit. Where A is symmetric, that makes
    :math:`\langle\theta, A \cdot \theta\rangle` constant along :math:`\dot\theta = -\nabla L`:

    ============== ============================================================ ===================
    kind           quantity                                                     shape
    ============== ============================================================ ===================
    ``SCALE``      :math:`\sum e\,w^2` over the entries of each unit            ``(*outer, n)``
    ``LINEAR``     :math:`\sum_{e=1} W W^T - \sum_{e=-1} W W^T`, unfolded       ``(*outer, n, n)``
    ``COMPLEX``    :math:`\sum e\,|z|^2`                                        ``(*outer, n)``
    ``TRANSLATION`` :math:`\sum` coefficient · entry, of the dead biases        ``(*outer, n)``
    ============== ============================================================ ===================

    Rotations (``ORTHOGONAL``, ``CENTRED``, the phases of ``COMPLEX``) have antisymmetric generators, and quantities
    that are not functions of the state alone. Weight decay λ shrinks the quadratic ones by :math:`e^{-2\lambda t}`,
    the linear ones by :math:`e^{-\lambda t}`.

    Parameters
    ----------
    structure : Structure
        Of the model that the state belongs to.
    state : mapping of str to tensor
        The whole state; it is not changed.
    trained : collection of str, optional
        Tensors that follow the gradient; by default all but running statistics (``running_mean``, and what is
        multiplied with an offset).

    Returns
    -------
    Conserved
        A gauge that moves a tensor which is not trained conserves nothing: it is left out, with the reason.

    Raises
    ------
    StructureError
        If the state is not that of the structure's model, or a tensor on which a gauge acts is missing, has another
        shape or holds integers.
    NotFiniteError
        If a tensor on which a continuous gauge acts has NaN or infinity.
    UsageError
        If ``trained`` is no collection of names of tensors.

    References
    ----------
    Zhao, Ganev, Walters, Yu, Dehmamy, "Symmetries, flat minima, and the conserved quantities of gradient flow",
    ICLR 2023, arXiv 2210.17216. Du, Hu, Lee, arXiv 1806.00900, Theorem 2.1.

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> structure = weyl.discover(net, (torch.zeros(1, 4),))
    >>> state = {name: torch.ones_like(tensor) for name, tensor in net.state_dict().items()}
    >>> {name: found.tolist() for name, found in conserved(structure, state).quantities.items()}
    {'0 scale': [3.0, 3.0, 3.0]}
    """
    checked(structure, state)
    finite(structure, state)
    trained = None if trained is None else known_names("trained", trained, {*structure.axes, *state})
    seen: dict[str, list[tuple[str, Frame]]] = {gauge.name: [] for gauge in structure.gauges}
    fixed: dict[str, str] = {}
    for name, names in once(structure, state).items():
        moves = any(_trained(structure, n, trained) for n in names)
        for frame in frames(structure, name):
            seen[frame.gauge.name].append((name, frame))
            if not moves:
                fixed.setdefault(frame.gauge.name, f"it moves {name!r}, which does not follow the gradient")
    quantities, sizes, left_out = {}, {}, {}
    for gauge in structure.gauges:
        if gauge.kind.continuous and gauge.kind not in KEPT:
            left_out[gauge.name] = "its generators are antisymmetric"
        elif gauge.kind.continuous and gauge.name in fixed:
            left_out[gauge.name] = fixed[gauge.name]
        elif gauge.kind.continuous:
            quantities[gauge.name], sizes[gauge.name] = _quantity(structure, gauge, seen[gauge.name], state)
    return Conserved(quantities, sizes, left_out)


def _trained(structure: Structure, name: str, trained: Collection[str] | None) -> bool:
    return not is_statistic(structure, name) if trained is None else name in trained


def _quantity(
    structure: Structure, gauge: Gauge, seen: list[tuple[str, Frame]], state: Mapping[str, Tensor]
) -> tuple[Values, float]:
    """The quantity of one gauge, and its size."""
    total = np.zeros(algebra_shape(structure, gauge))
    size = 0.0
    for name, frame in seen:
        tensor = state[name].detach().double()
        sign = frame.weight.coefficient if gauge.kind is GaugeKind.TRANSLATION else frame.weight.exponent
        part = _part(frame, tensor)
        total = total + sign * part.cpu().numpy()
        weight = part.diagonal(dim1=-1, dim2=-2) if gauge.kind.matrix else part
        size += abs(sign) * float(weight.abs().sum())
    return total, size


def _part(frame: Frame, tensor: Tensor) -> Tensor:
    """What one weight contributes, without its exponent or coefficient."""
    view = frame.view(tensor)
    match frame.gauge.kind:
        case GaugeKind.TRANSLATION:
            return frame.summed(view)
        case GaugeKind.SCALE:
            return frame.summed(view.square())
        case GaugeKind.COMPLEX:
            return frame.summed(view.square() + frame.partner(tensor).square())
        case _:
            rows = frame.unfolded(view)
            return torch.matmul(rows, rows.mT)
