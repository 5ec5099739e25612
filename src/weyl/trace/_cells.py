"""Unknown axes and their unification.

An *axis* here is a tuple of factors, slowest first. A factor is a :class:`Cell`, an unknown set of units
found by unification, or a :class:`Uniform`, positions along which the tensor is constant (after ``expand``,
or in an all-ones mask), which constrain nothing. A cell is one of

* an *atom*: nothing is known of its inside;
* a *product* of further axes, when a view cut it;
* a *sum* of further axes, when a split cut it or a concatenation made it.

Cutting a sum out of a tensor gives the other cells of that tensor a *restriction* to the part: the units of a
head may be permuted differently in the query, key and value part of a fused projection. Restrictions are kept
in a table keyed by (sum cell, part identity); whether they are really free is decided when all of the graph
has been read (:mod:`weyl.trace._nest`). Giving the freedom up (``Unifier.collapse``) is always sound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate, count

__all__ = [
    "Axis",
    "Cell",
    "Factor",
    "Key",
    "Path",
    "Piece",
    "Uniform",
    "boundaries_of",
    "describe",
    "find",
    "flatten",
    "group_rows",
    "has_uniform",
    "heavier_first",
    "is_sum",
    "parts_of",
    "reopen",
    "size_of",
]


@dataclass(frozen=True)
class Uniform:
    """Positions along which a tensor is constant."""

    size: int


class Cell:
    """An unknown set of ``size`` units; a node of a union-find forest."""

    __slots__ = ("dependents", "ids", "loose", "parent", "parts", "pin", "product", "ranges", "size", "table", "used")

    def __init__(self, size: int, pin: str | None = None) -> None:
        self.size = size
        self.pin = pin
        self.loose = False
        self.parent: Cell | None = None
        self.product: Axis | None = None
        self.parts: list[Axis] | None = None
        self.ids: list[int] = []
        self.used: set[int] = set()
        self.table: dict[Key, Cell] = {}
        self.dependents: list[Cell] = []
        self.ranges: dict[tuple[int, int], Cell] = {}

    @classmethod
    def sum(cls, parts: list[Axis]) -> Cell:
        """A sum of given parts."""
        cell = cls(sum(size_of(part) for part in parts))
        cell.set_parts(parts)
        return cell

    def set_parts(self, parts: list[Axis]) -> None:
        """Become a sum; every part gets an identity that later cuts of other parts do not change."""
        self.parts = parts
        self.ids = [next(_IDS) for _ in parts]


_IDS = count()

Factor = Cell | Uniform
Axis = tuple[Factor, ...]
Key = tuple[Cell, int]
Path = tuple[Key, ...]
Piece = tuple[Path, Axis]


def find(cell: Cell) -> Cell:
    """Representative of a cell, with path compression."""
    root = cell
    while root.parent is not None:
        root = root.parent
    while cell.parent is not None:
        cell.parent, cell = root, cell.parent
    return root


def flatten(axis: Axis) -> list[Factor]:
    """Factors of an axis with products opened and size-1 factors dropped: atoms, sums and uniforms."""
    out: list[Factor] = []
    stack = list(reversed(axis))
    while stack:
        factor = stack.pop()
        if isinstance(factor, Cell):
            factor = find(factor)
            if factor.product is not None:
                stack.extend(reversed(factor.product))
                continue
        if factor.size == 1:
            continue
        if out and isinstance(factor, Uniform) and isinstance(out[-1], Uniform):
            out[-1] = Uniform(out[-1].size * factor.size)
        else:
            out.append(factor)
    return out


def size_of(axis: Axis) -> int:
    """Number of positions."""
    return math.prod(factor.size for factor in axis)


def has_uniform(axis: Axis) -> bool:
    """Whether any positions, at any depth, are uniform."""
    for factor in flatten(axis):
        if isinstance(factor, Uniform):
            return True
        if factor.parts is not None and any(has_uniform(part) for part in factor.parts):
            return True
    return False


def reopen(factor: Factor, stack: list[Factor]) -> bool:
    """Replace a factor that was bound or merged since the axis was flattened by what it now is."""
    if isinstance(factor, Uniform):
        return False
    if factor.parent is None and factor.product is None:
        return False
    stack.extend(reversed(flatten((factor,))))
    return True


def heavier_first(x: Cell, y: Cell) -> tuple[Cell, Cell]:
    """The cell with more to move is kept as the root, so that a long chain of merges stays linear."""
    return (x, y) if len(x.table) + len(x.dependents) >= len(y.table) + len(y.dependents) else (y, x)


def is_sum(cell: Cell) -> bool:
    return cell.parent is None and cell.parts is not None


def parts_of(cell: Cell) -> list[Axis]:
    assert cell.parts is not None
    return cell.parts


def boundaries_of(cell: Cell) -> list[int]:
    return list(accumulate(size_of(part) for part in parts_of(cell)))


def describe(axis: Axis) -> str:
    return "×".join(str(factor.size) for factor in flatten(axis)) or "1"


def group_rows(parts: list[Axis], row: int) -> list[list[Axis]] | None:
    """Group parts so that each group is one part of whole rows, or several that make one row; None if they straddle."""
    groups: list[list[Axis]] = []
    current: list[Axis] = []
    size = 0
    for part in parts:
        current.append(part)
        size += size_of(part)
        if size > row and len(current) > 1:
            return None
        if size % row == 0:
            groups.append(current)
            current, size = [], 0
        elif size > row:
            return None
    return None if current else groups
