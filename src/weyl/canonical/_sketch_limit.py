"""The limit of an orbit that is not closed: where one side of a unit is dead, the other can go to zero."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from weyl.groups import Gauge, GaugeKind
from weyl.orbits import Frame, frames
from weyl.structure import Structure

__all__ = ["at_limit"]

# Singular values that are smaller than so much of the largest count as zero.
RANK = 1e-12


def at_limit(structure: Structure, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Where a gauge has no value of least norm, the state that its orbit comes arbitrarily near to."""
    out = dict(state)
    for _ in range(1 + len(structure.gauges)):
        before = dict(out)
        for gauge in structure.gauges:
            if gauge.kind in (GaugeKind.SCALE, GaugeKind.COMPLEX, GaugeKind.LINEAR):
                out |= _shrunk(structure, out, gauge)
        if all(torch.equal(before[name], tensor) for name, tensor in out.items() if before[name] is not tensor):
            break
    return out


def _shrunk(structure: Structure, state: Mapping[str, Tensor], gauge: Gauge) -> dict[str, Tensor]:
    """Tensors that one gauge brings nearer to a limit."""
    names = [name for name in structure.weights.get(gauge.name, {}) if state[name].is_floating_point()]
    acting = [(n, frame) for n in names for frame in frames(structure, n) if frame.gauge.name == gauge.name]
    # What is held by running statistics does not shrink.
    if any(name in structure.offsets or name.endswith("running_mean") for name in names):
        return {}
    limit = _matrix_limit if gauge.kind is GaugeKind.LINEAR else _unit_limit
    out: dict[str, Tensor] = {}
    for (name, frame), factor in zip(acting, limit(state, acting), strict=False):
        if name not in out:
            out[name] = state[name].clone(memory_format=torch.contiguous_format)
        view = frame.view(out[name])
        view.copy_(frame.mixed(factor, view) if gauge.kind is GaugeKind.LINEAR else view * factor)
        if gauge.kind is GaugeKind.COMPLEX:
            frame.partner(out[name]).mul_(factor)
    return out


def _unit_limit(state: Mapping[str, Tensor], acting: Sequence[tuple[str, Frame]]) -> list[Tensor]:
    """Units with one dead side go to zero on the other, too; nothing if there are none."""
    alive: dict[bool, Tensor] = {}
    for name, frame in acting:
        tensor, up = state[name].contiguous(), frame.weight.exponent > 0
        own = frame.summed(frame.view(tensor).abs())
        if frame.gauge.kind is GaugeKind.COMPLEX:
            own = own + frame.summed(frame.partner(tensor).abs())
        alive[up] = alive.get(up, torch.zeros_like(own, dtype=torch.bool)).logical_or(own > 0)
    none = torch.zeros_like(next(iter(alive.values()))) if alive else torch.zeros(0)
    enter, leave = alive.get(True, none), alive.get(False, none)
    return [(enter & leave).double()] * len(acting) if bool((enter ^ leave).any()) else []


def _matrix_limit(state: Mapping[str, Tensor], acting: Sequence[tuple[str, Frame]]) -> list[Tensor]:
    """Where the sides of a copy have other ranks than their product, only what the product has is left of them."""
    rows: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, frame in acting:
        rows[frame.weight.exponent > 0].append(frame.unfolded(frame.view(state[name].contiguous())))
    if not acting:
        return []
    some = (rows[True] + rows[False])[0]
    nothing = torch.zeros_like(some[..., :1])
    up, down = (torch.cat([*rows[side], nothing], -1) for side in (True, False))
    spectra = [torch.linalg.eigvalsh(side @ side.mT) for side in (up, down)]
    if all(bool((values[..., 0] > RANK * values[..., -1]).all()) for values in spectra):
        return []
    eye = torch.eye(some.shape[-2]).to(some).expand(*some.shape[:-1], some.shape[-2])
    found, moved = {True: eye.clone(), False: eye.clone()}, False
    for copy in np.ndindex(*some.shape[:-2]):
        sides = [torch.linalg.qr(side[copy].mT, mode="r").R for side in (up, down)]
        left, values, right = torch.linalg.svd(sides[1] @ sides[0].mT, full_matrices=False)
        rank = int((values > RANK * math.prod(float(side.norm()) for side in sides)).sum())
        if all(int(torch.linalg.matrix_rank(side, rtol=RANK)) == rank for side in sides):
            continue
        moved = True
        for side, turn, other in ((True, left.mT, sides[1]), (False, right, sides[0])):
            found[side][copy] = 0
            found[side][copy][:rank] = values[:rank, None].rsqrt() * (turn[:rank] @ other)
    return [found[frame.weight.exponent > 0] for _, frame in acting] if moved else []
