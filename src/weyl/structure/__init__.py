"""The structure of a model, as data: spaces and axis expressions, and where gauges act. Holds no tensors."""

from weyl.structure._axes import Axis, Cases, Fixed, Product, Sum, Units, spaces_of
from weyl.structure._combinations import block_positions, blocks_of, combinations
from weyl.structure._structure import Opaque, Structure
from weyl.structure._weights import Absorption, Block, LogitShift, Weight

__all__ = [
    "Absorption",
    "Axis",
    "Block",
    "Cases",
    "Fixed",
    "LogitShift",
    "Opaque",
    "Product",
    "Structure",
    "Sum",
    "Units",
    "Weight",
    "block_positions",
    "blocks_of",
    "combinations",
    "spaces_of",
]
