"""From a structure and two states to a problem: which spaces move how, and which terms they touch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from weyl.actions import gather_indices
from weyl.canonical import block_view
from weyl.groups import Element, GaugeKind
from weyl.matching._activations import Activation
from weyl.matching._problem import Problem, Units, incidence, pair_terms
from weyl.matching._terms import Moments, Term
from weyl.structure import Block, Structure, Weight, blocks_of, spaces_of

__all__ = ["build", "moment_terms"]

Origins = list[tuple[str, tuple[Block, ...]]]


def build(
    structure: Structure,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    kinds: frozenset[str],
    more: Sequence[Term] = (),
) -> Problem:
    """Set up the objective of two states.

    Parameters
    ----------
    structure : Structure
        Of both.
    a, b : mapping of str to tensor
        Whole states with finite entries; neither is changed.
    kinds : frozenset of str
        What may move: some of ``permute``, ``sign``, ``mix``; anything else is no matter of a problem.
    more : sequence of Term
        Further terms, such as moments of activations; they are written to.
    """
    terms, origins = pair_terms(structure, a, b)
    acting = _Acting(structure, origins)
    signs: dict[str, list[str]] = {}
    matrices, phases = {}, {}
    odd: dict[str, set[tuple[int, int]]] = {}
    for gauge in structure.gauges:
        places = acting.places(gauge.name)
        if gauge.kind is GaugeKind.SIGN and "sign" in kinds and places is not None:
            odd[gauge.name] = places
            signs.setdefault(gauge.space, []).append(gauge.name)
        elif gauge.kind.matrix and "mix" in kinds and places is not None:
            matrices[gauge.space] = gauge
        elif gauge.kind is GaugeKind.COMPLEX and "mix" in kinds and places is not None:
            phases[gauge.space] = gauge
    units = {
        space.name: Units(
            space.name,
            space.size,
            space.within,
            space.permuted and "permute" in kinds and space.name not in matrices,
            () if space.name in matrices else tuple(signs.get(space.name, ())),
            matrices.get(space.name),
            phases[space.name].name if space.name in phases else None,
        )
        for space in structure.group.spaces
    }
    turning = {gauge.name: acting.complex_places(gauge.name) for gauge in phases.values()}
    return Problem(units, [*terms, *more], odd, turning)


class _Acting:
    """Which terms every gauge acts on."""

    def __init__(self, structure: Structure, origins: Origins) -> None:
        self._structure, self._origins = structure, origins
        self._gauges = {gauge.name: gauge for gauge in structure.gauges}

    def places(self, name: str) -> set[tuple[int, int]] | None:
        """Terms and axes that a gauge acts on, where signs oddly often; None if it cuts terms."""
        gauge = self._gauges[name]
        found: list[tuple[int, int]] = []
        for tensor, weights in self._structure.weights.get(name, {}).items():
            for weight in weights:
                if gauge.kind is GaugeKind.SIGN and weight.exponent % 2 == 0:
                    continue
                places, whole = incidence(gauge, weight, tensor, self._origins)
                if not whole:
                    return None
                found += places
        return {place for place in found if found.count(place) % 2}

    def complex_places(self, name: str) -> list[tuple[int, int, int]]:
        """Terms of real and of imaginary parts, with the axis."""
        gauge = self._gauges[name]
        found = []
        for tensor, weights in self._structure.weights.get(name, {}).items():
            for weight in weights:
                places, _ = incidence(gauge, weight, tensor, self._origins)
                found += [(real, self._partner(real, weight), axis) for real, axis in places]
        return found

    def _partner(self, real: int, weight: Weight) -> int:
        tensor, blocks = self._origins[real]
        moved = Block(blocks[weight.dim].base + weight.partner, blocks[weight.dim].factors)
        wanted = (tensor, (*blocks[: weight.dim], moved, *blocks[weight.dim + 1 :]))
        return self._origins.index(wanted)


def moment_terms(
    structure: Structure,
    activation: Activation,
    element: Element,
    kinds: frozenset[str],
    factor: float,
    rows: Element | None = None,
) -> list[Term]:
    """Terms of what was measured of one axis, the units of b moved by an element.

    Correlations of units that may be flipped count by their absolute values: which way round they are, weights say.
    An axis of units that matrices mix, or phases turn, is left to the weights.

    Parameters
    ----------
    structure : Structure
        Of the model.
    activation : Activation
        What was measured between a and b as they were.
    element : Element
        What has been done to b since.
    kinds : frozenset of str
        Moves that may be used.
    factor : float
        What the moments are multiplied by.
    rows : Element, optional
        What has been done to a.
    """
    spaces = set(spaces_of(activation.axis))
    acting = [gauge for gauge in structure.gauges if gauge.space in spaces and gauge.kind.move in kinds]
    if any(gauge.kind.matrix or gauge.kind is GaugeKind.COMPLEX for gauge in acting):
        return []
    moments = activation.moments * factor
    if activation.signs and "sign" in kinds:
        moments = moments.abs()
    for dim, moved in ((0, rows), (1, element)):
        (index,) = gather_indices((activation.axis,), moved) if moved is not None else (None,)
        if index is not None:
            moments = moments.index_select(dim, torch.from_numpy(index).to(moments.device))
    terms: list[Term] = []
    for _, block in blocks_of(activation.axis):
        view, axes = block_view(moments.contiguous(), (block, block))
        terms.append(Moments(axes[: len(axes) // 2], "activations", view))
    return terms
