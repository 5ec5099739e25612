"""The function around a point of parameter space."""

from weyl.landscape._dimension import FunctionalDimension, functional_dimension

__all__ = ["FunctionalDimension", "functional_dimension"]
