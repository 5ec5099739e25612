"""The normal gauge: scales, linear gauges, dead biases and shifts brought to where two copies agree."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weyl.actions import act
from weyl.canonical._free_scales import free_scales, scale_limit
from weyl.groups import Element, Gauge, GaugeKind
from weyl.orbits import balance, frames
from weyl.structure import Structure, Weight

__all__ = ["normal_gauge", "restricted"]

Values = dict[str, NDArray[np.generic]]


def normal_gauge(
    structure: Structure, state: Mapping[str, Tensor], kinds: Collection[str], *, shifts: bool = True
) -> Element:
    r"""Find the element that brings a state to its normal gauge; it moves no unit and flips no sign.

    Scales before a batch normalisation make the running variance one, all other scales and linear gauges make the
    norm least (:func:`weyl.balance`), so that of GL(n) only O(n) is left, of a complex number its phase, and of a
    scale nothing; what a unit has of which one side is zero gets length 1. Dead biases are projected away, and biases
    of sines brought into :math:`[-\pi/2, \pi/2)`.

    Parameters
    ----------
    structure : Structure
        Of the model.
    state : mapping of str to tensor
        Whole state with finite entries; not changed.
    kinds : collection of str
        What may be used: ``scale``, ``mix``, ``translate``; other kinds of moves are no matter of a gauge.
    shifts : bool
        Whether biases of sines are reduced.

    Returns
    -------
    Element
        ``act(element, structure, state)`` is in the normal gauge. Those of two states of one orbit differ by a
        permutation, signs, orthogonal matrices and phases, up to rounding.
    """
    group = structure.group
    reduced = restricted(structure, lambda gauge: gauge.kind.move in kinds and _has_normal(gauge))
    element = Element(group.spaces, group.identity(), group.gauges)
    if not reduced.gauges:
        return element
    apart, changes = _decoupled(reduced)
    names = {gauge.name for gauge in reduced.gauges}
    for values in (*([_shifts] if shifts else []), _variances, _balances, _frees):
        found = values(apart, act(element, structure, state))
        for gauge, pivot, ratio in reversed(changes):
            if gauge in found:
                found[pivot] = np.asarray(found.get(pivot, 1.0)) * np.asarray(found[gauge], np.float64) ** -ratio
        moved = {name: value for name, value in found.items() if name in names}
        element = Element(group.spaces, group.identity(), group.gauges, moved) @ element
    return element


def restricted(structure: Structure, keep: Callable[[Gauge], bool]) -> Structure:
    """The structure with some of its gauges only; constants of flips and what gauges share are left out."""
    gauges = tuple(replace(gauge, carries=()) for gauge in structure.gauges if keep(gauge))
    names = {gauge.name for gauge in gauges}
    return replace(
        structure,
        gauges=gauges,
        weights={name: tensors for name, tensors in structure.weights.items() if name in names},
        absorptions={},
        overlap=(0, 0),
    )


def _has_normal(gauge: Gauge) -> bool:
    """Whether a gauge is brought to normal: signs, rotations and phases have nothing that is."""
    return gauge.kind is not GaugeKind.SIGN and (not gauge.kind.matrix or gauge.kind is GaugeKind.LINEAR)


def _decoupled(structure: Structure) -> tuple[Structure, list[tuple[str, str, int]]]:
    """Choose scales anew so that one alone acts on every running variance; and what was chosen.

    Where a gauge g and a pivot p both act on one, to the powers e and f, the scales of g are taken to act together with
    those of p to the power -e/f, which leaves the variance alone.
    """
    scales = {gauge.name: gauge.space for gauge in structure.gauges if gauge.kind is GaugeKind.SCALE}
    weights = {name: dict(tensors) for name, tensors in structure.weights.items()}
    changes: list[tuple[str, str, int]] = []
    for tensor in structure.offsets:
        acting = [name for name in scales if weights.get(name, {}).get(tensor)]
        for name in acting[1:]:
            pivot = acting[0]
            ours, theirs = (weights[gauge][tensor][0].exponent for gauge in (name, pivot))
            if scales[name] != scales[pivot] or ours % theirs:
                continue
            ratio = ours // theirs
            weights[name] = _combined(weights[name], weights[pivot], -ratio)
            changes.append((name, pivot, ratio))
    return replace(structure, weights=weights), changes


def _combined(
    one: Mapping[str, tuple[Weight, ...]], other: Mapping[str, tuple[Weight, ...]], power: int
) -> dict[str, tuple[Weight, ...]]:
    """How a gauge acts together with another one to some power."""
    found = {}
    for tensor in {**one, **other}:
        exponents: dict[Weight, int] = {}
        for weights, factor in ((one, 1), (other, power)):
            for weight in weights.get(tensor, ()):
                place = replace(weight, exponent=1)
                exponents[place] = exponents.get(place, 0) + factor * weight.exponent
        kept = tuple(replace(place, exponent=exponent) for place, exponent in exponents.items() if exponent)
        if kept:
            found[tensor] = kept
    return found


def _balances(structure: Structure, state: Mapping[str, Tensor]) -> Values:
    """Scales, linear gauges and translations at the point of least norm, what has none left out."""
    limit = scale_limit(structure, state)
    return dict(balance(structure, state if limit is None else limit).element.values)


def _frees(structure: Structure, state: Mapping[str, Tensor]) -> Values:
    """Scales that the norm does not decide, since one side of a unit is zero."""
    limit = scale_limit(structure, state)
    return {} if limit is None else dict(free_scales(structure, state, limit))


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
