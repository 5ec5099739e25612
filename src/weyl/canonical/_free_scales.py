"""Scales of units of which one side is zero: they have no least norm, and get one of their own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weyl.canonical._sketch_limit import at_limit
from weyl.groups import Gauge, GaugeKind
from weyl.orbits import Frame, frames, once
from weyl.structure import Structure

__all__ = ["free_scales", "scale_limit"]

Acting = dict[str, list[tuple[str, Frame]]]


def scale_limit(structure: Structure, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The state without what scales can make as small as they like; None if there is nothing of the kind.

    Parameters
    ----------
    structure : Structure
        Only its scales are looked at.
    state : mapping of str to tensor
        Whole state, float64 where it is floating.
    """
    gauges = tuple(gauge for gauge in structure.gauges if gauge.kind is GaugeKind.SCALE)
    if not gauges:
        return None
    limit = at_limit(_only(structure, gauges), state)
    return None if all(limit[name] is state[name] for name in limit) else limit


def _only(structure: Structure, gauges: tuple[Gauge, ...]) -> Structure:
    from weyl.canonical._normal import restricted

    return restricted(structure, lambda gauge: gauge in gauges)


def free_scales(
    structure: Structure, state: Mapping[str, Tensor], limit: Mapping[str, Tensor]
) -> dict[str, NDArray[np.generic]]:
    """Scales that give length 1 to what is left of units of which the limit leaves nothing.

    Where two such units meet in one entry, the one that has other entries goes first.

    Parameters
    ----------
    structure : Structure
        Of the model.
    state : mapping of str to tensor
        With all other scales settled.
    limit : mapping of str to tensor
        As :func:`scale_limit` gives it.

    Returns
    -------
    dict of str to array
        By gauge.
    """
    acting: Acting = {gauge.name: [] for gauge in structure.gauges if gauge.kind is GaugeKind.SCALE}
    for name in once(structure, state):
        if state[name].is_floating_point():
            for frame in frames(structure, name):
                if frame.gauge.kind is GaugeKind.SCALE:
                    acting[frame.gauge.name].append((name, frame))
    work = {name: tensor.double().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    found: dict[str, Tensor] = {}
    loose = {gauge: _gone(places, state, limit) for gauge, places in acting.items() if places}
    while True:
        progress = False
        for gauge, free in loose.items():
            if not bool(free.any()):
                continue
            # Entries that another unit can still scale say nothing yet.
            seen = dict(work)
            for other, others in loose.items():
                if other != gauge and bool(others.any()):
                    for name, frame in acting[other]:
                        seen[name] = seen[name].clone()
                        frame.view(seen[name]).masked_fill_(others, 0.0)
            ready, factor = _unit_length(acting[gauge], seen, free)
            if bool(ready.any()):
                for name, frame in acting[gauge]:
                    frame.view(work[name]).mul_(factor**frame.weight.exponent)
                found[gauge] = found[gauge] * factor if gauge in found else factor
                loose[gauge] = free & ~ready
                progress = True
        if not progress:
            return {gauge: np.asarray(value.cpu().numpy()) for gauge, value in found.items()}


def _gone(places: list[tuple[str, Frame]], state: Mapping[str, Tensor], limit: Mapping[str, Tensor]) -> Tensor:
    """Units of which the limit leaves nothing, though the state has something."""
    left, here = (
        sum(
            (frame.summed(frame.view(tensors[name].double().contiguous()).abs()) for name, frame in places),
            torch.zeros((), dtype=torch.float64),
        )
        for tensors in (limit, state)
    )
    return (left == 0) & (here > 0)


def _unit_length(places: list[tuple[str, Frame]], state: Mapping[str, Tensor], free: Tensor) -> tuple[Tensor, Tensor]:
    """Which free units have something to measure, and what makes its length 1; one side counts."""
    sides: dict[int, Tensor] = {}
    for name, frame in places:
        own = frame.summed(frame.view(state[name]).square())
        exponent = frame.weight.exponent
        sides[exponent] = sides[exponent] + own if exponent in sides else own
    ready = torch.zeros_like(free)
    factor = torch.ones(free.shape, dtype=torch.float64, device=free.device)
    for exponent in sorted(sides):
        now = free & ~ready & (sides[exponent] > 0)
        factor = torch.where(now, sides[exponent].clamp_min(1e-300) ** (-0.5 / exponent), factor)
        ready |= now
    return ready, factor
