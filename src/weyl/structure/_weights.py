"""Where gauges act: blocks of tensors, exponents, and the constants that make the action exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = [
    "Absorption",
    "Block",
    "LogitShift",
    "Weight",
    "absorption_from_json",
    "absorption_to_json",
    "weight_from_json",
    "weight_to_json",
]


@dataclass(frozen=True)
class Block:
    """Positions ``base + sum_j coordinate_j * stride_j`` of one axis, for all coordinates of some factors.

    Parameters
    ----------
    base : int
        First position.
    factors : tuple of (str or None, int, int)
        Name of a space (None for positions that do not belong to one), size, and stride in positions; slowest first.
    """

    base: int
    factors: tuple[tuple[str | None, int, int], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the factors."""
        return tuple(size for _, size, _ in self.factors)


@dataclass(frozen=True)
class Weight:
    """How one gauge acts on one block of one tensor.

    Parameters
    ----------
    blocks : tuple of (int, Block)
        Dimensions that are restricted to a block, in increasing order; all others are taken whole. The spaces on whose
        index the gauge depends stand among their factors. Empty for a gauge without a space.
    dim, factor : int
        The factor of which block is transformed; ``-1`` for a gauge without a space.
    exponent : int
        The values act to this power: see :class:`weyl.groups.GaugeKind`.
    coefficient : float
        Not zero for an addition: ``coefficient * value`` is added.
    partner : int
        For ``COMPLEX``: offset in positions from the real to the imaginary parts.
    """

    blocks: tuple[tuple[int, Block], ...]
    dim: int
    factor: int
    exponent: int = 1
    coefficient: float = 0.0
    partner: int = 0


@dataclass(frozen=True)
class Absorption:
    """A constant that a flip of a sigmoid moves into the bias of its reader.

    ``sigmoid(-x) = 1 - sigmoid(x)``: after the weight has been acted on, the bias gets
    ``constant * sum_i weight[..., i, ...] * (s_i - 1) / 2`` over the units ``i`` of the block of ``dim``, summed over
    every further dimension but the first.

    Parameters
    ----------
    bias, weight : str
        Names of the tensors; rows of the weight are entries of the bias.
    dim : int
        Dimension of the weight along which the units stand.
    block : Block
        The positions that they take; the space is one of its factors.
    constant : float
        The value about which the activation is odd, times two: 1 for a sigmoid.
    """

    bias: str
    weight: str
    dim: int
    block: Block
    constant: float = 1.0


def block_to_json(block: Block) -> Any:
    """JSON form of a block: its base and its factors."""
    return [block.base, [list(factor) for factor in block.factors]]


def block_from_json(data: Any) -> Block:
    """Inverse of :func:`block_to_json`."""
    base, factors = data
    return Block(_integer(base), tuple((_space(space), _integer(n), _integer(step)) for space, n, step in factors))


def weight_to_json(weight: Weight) -> Any:
    """JSON form of a weight; numbers that have their usual value are left out."""
    usual = {"exponent": 1, "coefficient": 0.0, "partner": 0}
    numbers = {name: getattr(weight, name) for name, value in usual.items() if getattr(weight, name) != value}
    blocks = [[dim, block_to_json(block)] for dim, block in weight.blocks]
    return {"blocks": blocks, "dim": weight.dim, "factor": weight.factor, **numbers}


def weight_from_json(data: Any) -> Weight:
    """Inverse of :func:`weight_to_json`."""
    return Weight(
        tuple((_integer(dim), block_from_json(block)) for dim, block in data["blocks"]),
        _integer(data["dim"]),
        _integer(data["factor"]),
        _integer(data.get("exponent", 1)),
        float(data.get("coefficient", 0.0)),
        _integer(data.get("partner", 0)),
    )


def absorption_to_json(absorption: Absorption) -> Any:
    """JSON form of an absorption."""
    return {
        "bias": absorption.bias,
        "weight": absorption.weight,
        "dim": absorption.dim,
        "block": block_to_json(absorption.block),
        "constant": absorption.constant,
    }


def absorption_from_json(data: Any) -> Absorption:
    """Inverse of :func:`absorption_to_json`."""
    block = block_from_json(data["block"])
    constant = float(data["constant"])
    return Absorption(str(data["bias"]), str(data["weight"]), _integer(data["dim"]), block, constant)


def _integer(data: Any) -> int:
    if isinstance(data, bool) or not isinstance(data, int):
        raise TypeError(f"expected an integer, got {data!r}")
    return data


def _space(data: Any) -> str | None:
    return None if data is None else str(data)


@dataclass(frozen=True)
class LogitShift:
    """A symmetry of the loss alone: the same number added to all logits changes no probability of a softmax.

    It is no symmetry of the function, so it is in no group and no element has it;
    :func:`weyl.actions.shift_logits` applies it.

    Parameters
    ----------
    weight : str
        Weight of the last linear layer, classes by features: any vector may be added to all of its rows.
    bias : str
        Its bias, to which any number may be added; ``""`` if it has none.
    dimension : int
        Number of directions: features, plus one if there is a bias.
    """

    weight: str
    bias: str
    dimension: int
