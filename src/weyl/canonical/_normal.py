"""The normal gauge: scales, linear gauges, dead biases and shifts brought to where two copies agree."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weyl.actions import act
from weyl.groups import Element, GaugeKind
from weyl.orbits import balance, frames
from weyl.structure import Structure

__all__ = ["normal_gauge"]

Values = dict[str, NDArray[np.generic]]


def normal_gauge(structure: Structure, state: Mapping[str, Tensor], kinds: Collection[str]) -> Element:
    r"""Find the element that brings a state to its normal gauge; it moves no unit and flips no sign.

    Scales before a batch normalisation make the running variance one, all other scales and linear gauges make the
    norm least (:func:`weyl.balance`), so that of GL(n) only O(n) is left, of a complex number its phase, and of a
    scale nothing. Dead biases are projected away, and biases of sines brought into :math:`[-\pi/2, \pi/2)`.

    Parameters
    ----------
    structure : Structure
        Of the model.
    state : mapping of str to tensor
        Whole state with finite entries; not changed.
    kinds : collection of str
        What may be used: ``scale``, ``mix``, ``translate``; other kinds of moves are no matter of a gauge.

    Returns
    -------
    Element
        ``act(element, structure, state)`` is in the normal gauge. Those of two states of one orbit differ by a
        permutation, signs, orthogonal matrices and phases, up to rounding.
    """
    group = structure.group
    reduced = _restricted(structure, kinds)
    element = Element(group.spaces, group.identity(), group.gauges)
    if not reduced.gauges:
        return element
    for values in (_shifts, _variances):
        found = values(reduced, act(element, structure, state))
        if found:
            element = Element(group.spaces, group.identity(), group.gauges, found) @ element
    balanced = balance(reduced, act(element, structure, state)).element
    moved = {name: value for name, value in balanced.values.items() if name in {g.name for g in reduced.gauges}}
    return Element(group.spaces, group.identity(), group.gauges, moved) @ element


def _restricted(structure: Structure, kinds: Collection[str]) -> Structure:
    """The structure with those gauges only that are brought to normal."""
    gauges = tuple(
        replace(gauge, carries=())
        for gauge in structure.gauges
        if gauge.kind.move in kinds
        and gauge.kind is not GaugeKind.SIGN
        and (not gauge.kind.matrix or gauge.kind is GaugeKind.LINEAR)
    )
    names = {gauge.name for gauge in gauges}
    return replace(
        structure,
        gauges=gauges,
        weights={name: tensors for name, tensors in structure.weights.items() if name in names},
        absorptions={},
        overlap=(0, 0),
    )


def _shifts(structure: Structure, state: Mapping[str, Tensor]) -> Values:
    """Half turns by which biases of sines are too large."""
    found: Values = {}
    for name in structure.weights_by_tensor:
        for frame in frames(structure, name):
            if frame.gauge.kind is GaugeKind.SHIFT and frame.weight.coefficient and frame.gauge.name not in found:
                turns = frame.view(state[name].double().contiguous()) / frame.weight.coefficient
                found[frame.gauge.name] = -turns.round().long().cpu().numpy()
    return found


def _variances(structure: Structure, state: Mapping[str, Tensor]) -> Values:
    """Scales that make running variances, with what is added to them, one; their geometric mean, if several."""
    logs: dict[str, list[Tensor]] = {}
    for name, offset in structure.offsets.items():
        if name not in state:
            continue
        for frame in frames(structure, name):
            if frame.gauge.kind is not GaugeKind.SCALE:
                continue
            variance = frame.view(state[name].double().contiguous() + offset)
            while variance.dim() > frame.rank:
                variance = variance[0]
            alive = variance > torch.finfo(state[name].dtype).tiny
            logs.setdefault(frame.gauge.name, []).append(
                -variance.where(alive, torch.ones_like(variance)).log() / frame.weight.exponent
            )
    return {name: torch.stack(several).mean(0).exp().cpu().numpy() for name, several in logs.items()}
