"""Tensors cut into blocks over units, with the signs, rotations and phases that act along each axis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from weyl._memory import tensor_identity
from weyl.canonical._signatures import block_view
from weyl.groups import Gauge, GaugeKind
from weyl.structure import Block, Structure, Weight, block_positions, combinations

__all__ = ["NONE", "Label", "Term", "terms_of"]

# Tensors that are smaller than so much of the root mean square of all count as of that size, or noise would be read.
FLOOR = 0.3

# The gauges that multiply something by a sign, a rotation or a phase.
Label = frozenset[str]
NONE: Label = frozenset()


@dataclass(frozen=True, eq=False)
class Term:
    """A block of a tensor with an axis for every factor, and the gauges that act along each of them."""

    key: str
    array: Tensor
    axes: tuple[str | None, ...]
    labels: tuple[Label, ...]
    whole: Label

    def homes(self, axis: int, within: Mapping[str, tuple[str, ...]]) -> list[int]:
        """The axes of the spaces that the space of an axis lives within."""
        outer = within.get(self.axes[axis] or "", ())
        return [next(at for at, space in enumerate(self.axes) if space == one and at != axis) for one in outer]


def terms_of(structure: Structure, state: Mapping[str, Tensor]) -> Iterator[Term]:
    """All blocks of all floating tensors, each of about the size 1; shared tensors once."""
    shifted = {n for g in structure.gauges if g.kind is GaugeKind.SHIFT for n in structure.weights.get(g.name, {})}
    once = {tensor_identity(t): t for n, t in state.items() if t.is_floating_point() and n not in shifted}
    usual = sum(float(t.square().sum()) for t in once.values()) / max(1, sum(t.numel() for t in once.values()))
    seen = set()
    for name, axes in structure.axes.items():
        tensor, identity = state[name], (*tensor_identity(state[name]), axes)
        if identity in seen or not tensor.is_floating_point() or not tensor.numel():
            continue
        seen.add(identity)
        size = (float(tensor.square().mean()) + FLOOR**2 * usual) ** 0.5 or 1.0
        acting = structure.weights_by_tensor.get(name, ())
        cut = [one for blocks in combinations(axes) for one in _halved(blocks, [w for _, w in acting if w.partner])]
        for number, blocks in enumerate(cut):
            yield from _labelled(f"{name} {number}", tensor.contiguous(), blocks, acting, size)


def _halved(blocks: tuple[Block, ...], pairs: Sequence[Weight]) -> Iterator[tuple[Block, ...]]:
    """Blocks that hold real and imaginary parts, one by one."""
    for weight in pairs:
        block = blocks[weight.dim]
        for place, (space, size, stride) in enumerate(block.factors):
            if space is None and size == 2 and stride == weight.partner:
                kept = block.factors[:place] + block.factors[place + 1 :]
                for base in (block.base, block.base + stride):
                    half = (*blocks[: weight.dim], Block(base, kept), *blocks[weight.dim + 1 :])
                    yield from _halved(half, pairs)
                return
    yield blocks


def _labelled(
    key: str, tensor: Tensor, blocks: tuple[Block, ...], acting: Sequence[tuple[Gauge, Weight]], size: float
) -> Iterator[Term]:
    """The term of a block; none if a gauge acts on a part of it, or if it holds imaginary parts, which go with others.

    A bias of sines gives two, its sine and its cosine, which a shift by half a turn multiplies by a sign.
    """
    array, axes = block_view(tensor, blocks)
    labels, whole, period, flipped = [NONE] * len(axes), NONE, 0.0, NONE
    for gauge, weight in acting:
        if gauge.kind in (GaugeKind.SCALE, GaugeKind.TRANSLATION):
            continue
        if gauge.kind is GaugeKind.SIGN and weight.exponent % 2 == 0:
            continue
        if weight.partner and _inside(blocks, weight, weight.partner):
            return
        at = _axis(blocks, weight)
        if not _inside(blocks, weight) or at is None:
            if _apart(blocks, weight):
                continue
            return
        if weight.partner:
            moved = replace(blocks[weight.dim], base=blocks[weight.dim].base + weight.partner)
            imaginary = block_view(tensor, (*blocks[: weight.dim], moved, *blocks[weight.dim + 1 :]))[0]
            array = torch.cat([array, imaginary], at)
        if gauge.kind is GaugeKind.SHIFT and weight.coefficient:
            period = weight.coefficient
        elif gauge.kind is GaugeKind.SHIFT and weight.exponent % 2 == 0:
            continue
        if gauge.kind is GaugeKind.SIGN:
            flipped ^= {gauge.name}
        if at < 0:
            whole ^= {gauge.name}
        else:
            labels[at] ^= {gauge.name}
    if not period:
        yield Term(key, array / size, axes, tuple(labels), whole)
        return
    angles = array * (math.pi / period)
    yield Term(f"{key} sine", angles.sin(), axes, tuple(labels), whole)
    yield Term(f"{key} cosine", angles.cos(), axes, tuple(one - flipped for one in labels), whole - flipped)


def _positions(block: Block, shift: int = 0) -> set[int]:
    return {int(at) + shift for at in block_positions(block)}


def _inside(blocks: tuple[Block, ...], weight: Weight, shift: int = 0) -> bool:
    """Whether a weight, moved along its dimension, acts on all of some blocks."""
    return all(
        _positions(blocks[dim]) <= _positions(block, shift if dim == weight.dim else 0) for dim, block in weight.blocks
    )


def _apart(blocks: tuple[Block, ...], weight: Weight) -> bool:
    return any(_positions(blocks[dim]).isdisjoint(_positions(block)) for dim, block in weight.blocks)


def _axis(blocks: tuple[Block, ...], weight: Weight) -> int | None:
    """The axis along which a weight acts, -1 if it acts everywhere; None if there is none."""
    if weight.dim < 0:
        return -1
    factor = dict(weight.blocks)[weight.dim].factors[weight.factor]
    start = sum(len(block.factors) for block in blocks[: weight.dim])
    return start + blocks[weight.dim].factors.index(factor) if factor in blocks[weight.dim].factors else None
