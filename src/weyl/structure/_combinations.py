"""Axes as disjoint blocks, and tensors as disjoint combinations of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from weyl.structure._axes import Axis, Cases, Fixed, Product, Sum, Units
from weyl.structure._weights import Block

__all__ = ["block_positions", "blocks_of", "combinations"]


def combinations(axes: tuple[Axis, ...]) -> Iterator[tuple[Block, ...]]:
    """Cut a tensor into disjoint pieces: one block for every dimension.

    Cases go with the part of the sum that they belong to.
    """
    options = [list(blocks_of(axis)) for axis in axes]
    for chosen in itertools.product(*options):
        if all(
            not isinstance(axis, Cases) or chosen[axis.dim][0] == part
            for axis, (part, _) in zip(axes, chosen, strict=True)
        ):
            yield tuple(block for _, block in chosen)


def blocks_of(axis: Axis) -> Iterator[tuple[int, Block]]:
    """Disjoint blocks of an axis, each with the part of the sum, or the case, that it lies in."""
    match axis:
        case Cases(_, options):
            for number, option in enumerate(options):
                yield from ((number, block) for _, block in blocks_of(option))
        case Sum(parts):
            base = 0
            for number, part in enumerate(parts):
                yield from ((number, Block(base + block.base, block.factors)) for _, block in blocks_of(part))
                base += part.size
        case Product(factors):
            strides = [math.prod(f.size for f in factors[i + 1 :]) for i in range(len(factors))]
            for blocks in itertools.product(*([block for _, block in blocks_of(factor)] for factor in factors)):
                base = sum(block.base * stride for block, stride in zip(blocks, strides, strict=True))
                merged = tuple(
                    (space, size, inner * stride)
                    for block, stride in zip(blocks, strides, strict=True)
                    for space, size, inner in block.factors
                )
                yield 0, Block(base, merged)
        case Units(space, size):
            yield 0, Block(0, ((space, size, 1),))
        case Fixed(size):
            yield 0, Block(0, ((None, size, 1),))


def block_positions(block: Block) -> NDArray[np.int64]:
    """All positions of a block, in the order of its factors."""
    found = np.full(1, block.base)
    for _, count, stride in block.factors:
        found = (found[:, None] + stride * np.arange(count)).reshape(-1)
    return found
