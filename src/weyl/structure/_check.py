"""Whether weights and absorptions fit the gauges, the spaces and the tensors of a structure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from weyl.errors import StructureError
from weyl.groups import Gauge, GaugeKind, Space
from weyl.structure._weights import Absorption, Block, Weight

__all__ = ["check_absorptions", "check_weights"]

Shapes = Mapping[str, tuple[int, ...]]


def check_weights(
    gauge: Gauge, weights: Mapping[str, Sequence[Weight]], spaces: Mapping[str, Space], shapes: Shapes
) -> None:
    """Refuse weights that leave their tensor, or that do not say which unit of which copy stands where.

    Raises
    ------
    StructureError
        Naming the gauge and the tensor.
    """
    for tensor, several in weights.items():
        what = f"weight of gauge {gauge.name!r} on {tensor!r}"
        if tensor not in shapes:
            raise StructureError(f"{what}: the structure has no such tensor")
        for weight in several:
            _check_blocks(what, weight, spaces, shapes[tensor])
            _check_place(what, gauge, weight, spaces)
            _check_numbers(what, gauge, weight, shapes[tensor])


def check_absorptions(
    gauge: Gauge, absorptions: Sequence[Absorption], spaces: Mapping[str, Space], shapes: Shapes
) -> None:
    """Refuse absorptions of gauges that are no flips, and those whose bias is not as long as its weight has rows.

    Raises
    ------
    StructureError
        Naming the gauge and the bias.
    """
    for absorption in absorptions:
        what = f"absorption of gauge {gauge.name!r} into {absorption.bias!r}"
        if gauge.kind is not GaugeKind.SIGN or not gauge.space:
            raise StructureError(f"{what}: only the flips of units leave a constant, not {gauge.kind.value}")
        for name in (absorption.bias, absorption.weight):
            if name not in shapes:
                raise StructureError(f"{what}: the structure has no tensor {name!r}")
        bias, weight = shapes[absorption.bias], shapes[absorption.weight]
        if not 1 <= absorption.dim < len(weight) or bias != weight[:1]:
            raise StructureError(f"{what}: rows of {absorption.weight!r} {weight} must be entries of the bias {bias}")
        if not math.isfinite(absorption.constant):
            raise StructureError(f"{what}: the constant must be finite, got {absorption.constant}")
        _check_block(what, absorption.block, weight[absorption.dim], spaces)
        names = [name for name, _, _ in absorption.block.factors]
        for name in (gauge.space, *spaces[gauge.space].within):
            if names.count(name) != 1:
                raise StructureError(f"{what}: space {name!r} must stand once among the factors of its block")


def _check_blocks(what: str, weight: Weight, spaces: Mapping[str, Space], shape: tuple[int, ...]) -> None:
    dims = [dim for dim, _ in weight.blocks]
    if dims != sorted(set(dims)) or any(not 0 <= dim < len(shape) for dim in dims):
        raise StructureError(f"{what}: blocks of dimensions {dims}, not increasing ones of a tensor of {len(shape)}")
    for dim, block in weight.blocks:
        _check_block(f"{what}, dimension {dim}", block, shape[dim], spaces)


def _check_block(what: str, block: Block, size: int, spaces: Mapping[str, Space]) -> None:
    """A block stays within its axis, meets no position twice, and names known spaces by their size."""
    reach = 0
    for name, count, step in sorted(block.factors, key=lambda factor: (factor[2], factor[1])):
        if name is not None and (name not in spaces or spaces[name].size != count):
            raise StructureError(f"{what}: no space {name!r} with {count} units")
        if count < 1 or (count > 1 and step <= reach):
            raise StructureError(f"{what}: {count} steps of {step} meet a position twice")
        reach += (count - 1) * step
    if block.base < 0 or block.base + reach >= size:
        last = block.base + reach
        raise StructureError(f"{what}: positions {block.base} to {last} leave the axis of {size} positions")


def _check_place(what: str, gauge: Gauge, weight: Weight, spaces: Mapping[str, Space]) -> None:
    if not gauge.space:
        if (weight.dim, weight.factor) != (-1, -1):
            raise StructureError(f"{what}: a gauge without a space transforms no factor, give dim and factor as -1")
        return
    factors = next((block.factors for dim, block in weight.blocks if dim == weight.dim), ())
    if not 0 <= weight.factor < len(factors):
        raise StructureError(f"{what}: no block of dimension {weight.dim} has a factor {weight.factor}")
    found = factors[weight.factor][0]
    if found != gauge.space:
        raise StructureError(f"{what}: the factor is {found!r}, the gauge acts on {gauge.space!r}")
    present = {name for _, block in weight.blocks for name, _, _ in block.factors}
    for outer in spaces[gauge.space].within:
        if outer not in present:
            raise StructureError(f"{what}: it depends on the index of {outer!r}, which stands in none of its blocks")


def _check_numbers(what: str, gauge: Gauge, weight: Weight, shape: tuple[int, ...]) -> None:
    if not math.isfinite(weight.coefficient) or (weight.coefficient and not gauge.kind.additive):
        raise StructureError(f"{what}: coefficient {weight.coefficient} for values that multiply")
    if gauge.kind is GaugeKind.TRANSLATION and not weight.coefficient:
        raise StructureError(f"{what}: a translation needs a coefficient that is not zero")
    if (gauge.kind.matrix or gauge.kind is GaugeKind.COMPLEX) and weight.exponent not in (1, -1):
        raise StructureError(f"{what}: exponent {weight.exponent}, must be 1 or -1 for kind {gauge.kind.value}")
    if gauge.kind is not GaugeKind.COMPLEX:
        if weight.partner:
            raise StructureError(f"{what}: only complex values have a partner")
        return
    block = next(block for dim, block in weight.blocks if dim == weight.dim)
    real = _positions(block)
    imaginary = {position + weight.partner for position in real}
    if real & imaginary or min(imaginary) < 0 or max(imaginary) >= shape[weight.dim]:
        raise StructureError(f"{what}: partner {weight.partner} does not give every real part an imaginary one")


def _positions(block: Block) -> set[int]:
    found = {block.base}
    for _, size, stride in block.factors:
        found = {position + step * stride for position in found for step in range(size)}
    return found
