"""``force``: claim a symmetry that an architecture may not have, to see the claim refuted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from weyl.errors import StructureError
from weyl.groups import Gauge, GaugeKind, Kind, Space
from weyl.structure import Absorption, Block, Structure, Weight

__all__ = ["force"]


def force(
    structure: Structure,
    kind: GaugeKind,
    space: str | Space,
    places: Iterable[tuple[str, int, int]],
    *,
    absorptions: Iterable[Absorption] = (),
    coefficient: float = 0.0,
    alone: bool = True,
) -> Structure:
    """A structure that claims one gauge more than it did, whether or not the model has it.

    For negative controls: a check that accepts the claim where the architecture denies it is no check.

    Parameters
    ----------
    structure : Structure
        Of the model.
    kind : GaugeKind
        What the gauge does to units.
    space : str or Space
        Name of a space of the structure, or a new space of units that keep their places.
    places : iterable of (str, int, int)
        Tensors, their dimensions, and the exponents with which the gauge acts there. A dimension may be some times
        as long as the space: the values then act on every run of units alike.
    absorptions : iterable of Absorption
        Constants that flips move into biases.
    coefficient : float
        For kinds that add: what multiplies the values.
    alone : bool
        Whether the gauges that the structure has already are left out, so that nothing but the claim is tested.

    Returns
    -------
    Structure
        The claim.

    Raises
    ------
    StructureError
        If a place is not there, or does not hold a whole number of runs of the units.

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> structure = weyl.discover(net, (torch.ones(2, 4),))
    >>> places = (("0.weight", 0, 1), ("0.bias", 0, 1), ("2.weight", 1, -1))
    >>> signs = force(structure, GaugeKind.SIGN, "0", places)  # a ReLU has none
    >>> scales = force(structure, GaugeKind.SCALE, "0", places)
    >>> [weyl.verify(net, (torch.ones(2, 4),), structure=claim).verdict for claim in (signs, scales)]
    ['fails', 'holds']
    """
    if isinstance(space, Space):
        units, indices = space, (*structure.indices, replace(space, kind=Kind.TRIVIAL))
    else:
        units, indices = structure.space(space), structure.indices
    gauge = Gauge(f"{units.name} forced {kind.value}", units.name, kind)
    weights: dict[str, tuple[Weight, ...]] = {}
    for name, dim, exponent in places:
        block = _block(structure, units, name, dim)
        weight = Weight(((dim, block),), dim, len(block.factors) - 1, exponent, coefficient)
        weights[name] = (*weights.get(name, ()), weight)
    kept = () if alone else structure.gauges
    return replace(
        structure,
        indices=indices,
        gauges=(*kept, gauge),
        weights={**({} if alone else structure.weights), gauge.name: weights},
        absorptions={**({} if alone else structure.absorptions), gauge.name: tuple(absorptions)},
        offsets={} if alone else structure.offsets,
        overlap=(0, 0) if alone else structure.overlap,
    )


def _block(structure: Structure, units: Space, name: str, dim: int) -> Block:
    """One axis as runs of the units of a space."""
    if name not in structure.axes or not 0 <= dim < len(structure.axes[name]):
        raise StructureError(f"the structure has no dimension {dim} of {name!r}")
    size = structure.axes[name][dim].size
    runs, rest = divmod(size, units.size)
    if rest or units.within:
        raise StructureError(f"dimension {dim} of {name!r} has {size} positions, no whole runs of {units.size} units")
    outer = ((None, runs, units.size),) if runs > 1 else ()
    return Block(0, (*outer, (units.name, units.size, 1)))
