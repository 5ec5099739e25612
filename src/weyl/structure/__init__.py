"""The structure of a model, as data: spaces and axis expressions. Holds no tensors."""

from weyl.structure._axes import Axis, Cases, Fixed, Product, Sum, Units, spaces_of
from weyl.structure._structure import Opaque, Structure

__all__ = ["Axis", "Cases", "Fixed", "Opaque", "Product", "Structure", "Sum", "Units", "spaces_of"]
