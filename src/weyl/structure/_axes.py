"""Axis expressions: how one dimension of a tensor is built from spaces.

Four shapes, all immutable and free of tensors:

========== ====================================================== =================
``Fixed``   positions that cannot move                             ``·3``
``Units``   the units of one space                                 ``fc1``
``Product`` mixed-radix, the first factor slowest                  ``heads × dim``
``Sum``     blocks one after another                               ``q ⊕ k ⊕ v``
``Cases``   the expression depends on the block of another axis    ``{q | k}@0``
========== ====================================================== =================
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from weyl.errors import StructureError

__all__ = [
    "LARGEST",
    "Axis",
    "Cases",
    "Fixed",
    "Product",
    "Sum",
    "Units",
    "axis_from_json",
    "axis_to_json",
    "check_axis",
    "spaces_of",
]


LARGEST = 2**63  # no dimension of a tensor has more positions


@dataclass(frozen=True)
class Fixed:
    """``size`` positions that cannot move."""

    size: int

    def __str__(self) -> str:
        return f"·{self.size}"


@dataclass(frozen=True)
class Units:
    """The units of one space, in order."""

    space: str
    size: int

    def __str__(self) -> str:
        return self.space


@dataclass(frozen=True)
class Product:
    """Mixed-radix product; the first factor varies slowest, as in a row-major ``view``."""

    factors: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """Number of positions."""
        return math.prod(factor.size for factor in self.factors)

    def __str__(self) -> str:
        return " × ".join(f"({f})" if isinstance(f, Sum) else str(f) for f in self.factors)


@dataclass(frozen=True)
class Sum:
    """Direct sum: the parts one after another, as in ``cat``."""

    parts: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """Number of positions."""
        return sum(part.size for part in self.parts)

    def __str__(self) -> str:
        return " ⊕ ".join(f"({p})" if isinstance(p, Product) else str(p) for p in self.parts)


@dataclass(frozen=True)
class Cases:
    """One expression for every part of the :class:`Sum` on dimension ``dim`` of the same tensor."""

    dim: int
    options: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """Number of positions (all options have the same)."""
        return self.options[0].size

    def __str__(self) -> str:
        return "{" + " | ".join(str(option) for option in self.options) + f"}}@{self.dim}"


Axis = Fixed | Units | Product | Sum | Cases


def spaces_of(axis: Axis) -> Iterator[str]:
    """Names of the spaces that occur in an axis, with repetition, left to right."""
    match axis:
        case Units(space, _):
            yield space
        case Product(children) | Sum(children) | Cases(_, children):
            for child in children:
                yield from spaces_of(child)


def check_axis(name: str, axis: Axis, axes: tuple[Axis, ...], sizes: Mapping[str, int]) -> None:
    """Refuse an axis that names a space that is not there, or of another size, or cases of no sum.

    Raises
    ------
    StructureError
        Naming the tensor.
    """
    match axis:
        case Units(space, size):
            if space not in sizes:
                raise StructureError(f"axis of {name!r} names an unknown space {space!r}")
            if size != sizes[space]:
                raise StructureError(f"axis of {name!r} has {size} units of space {space!r}, which has {sizes[space]}")
        case Product(children) | Sum(children):
            for child in children:
                check_axis(name, child, axes, sizes)
        case Cases(dim, options):
            total = axes[dim] if 0 <= dim < len(axes) else None
            if not isinstance(total, Sum) or len(total.parts) != len(options):
                raise StructureError(
                    f"axis of {name!r} depends on dimension {dim}, which is no sum of {len(options)} parts"
                )
            for option in options:
                check_axis(name, option, axes, sizes)


def axis_to_json(axis: Axis) -> Any:
    """JSON form of an axis: an integer, a name with a size, or a tagged list."""
    match axis:
        case Fixed(size):
            return size
        case Units(space, size):
            return {"space": space, "size": size}
        case Product(factors):
            return {"product": [axis_to_json(f) for f in factors]}
        case Sum(parts):
            return {"sum": [axis_to_json(p) for p in parts]}
        case Cases(dim, options):
            return {"cases": [axis_to_json(o) for o in options], "dim": dim}


def axis_from_json(data: Any, depth: int = 0) -> Axis:
    """Inverse of :func:`axis_to_json`.

    Raises
    ------
    StructureError
        If the data is not an axis expression, or is nested more than 64 deep.
    """
    if depth > 64:
        raise StructureError("an axis expression is nested more than 64 deep")
    match data:
        case bool():
            pass
        case int() if 0 <= data < LARGEST:
            return Fixed(data)
        case {"space": str(space), "size": int(size)} if 1 <= size < LARGEST:
            return Units(space, size)
        case {"product": [_, *_] as children}:
            return Product(tuple(axis_from_json(c, depth + 1) for c in children))
        case {"sum": [_, *_] as children}:
            return Sum(tuple(axis_from_json(c, depth + 1) for c in children))
        case {"cases": [_, *_] as children, "dim": int(dim)}:
            options = tuple(axis_from_json(c, depth + 1) for c in children)
            if len({option.size for option in options}) == 1:
                return Cases(dim, options)
    raise StructureError(f"not an axis expression: {str(data)[:80]!r}")
