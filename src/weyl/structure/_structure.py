"""The structure of a model: all spaces and the axis expression of every parameter and buffer."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from weyl.errors import StructureError
from weyl.groups import Group, Kind, Space
from weyl.structure._axes import Axis, axis_from_json, axis_to_json, check_axis, spaces_of

__all__ = ["Opaque", "Structure"]

FORMAT = "weyl-structure-1"


@dataclass(frozen=True)
class Opaque:
    """An operator without a rule, and what it made weyl hold still.

    Parameters
    ----------
    op : str
        Operator name, e.g. ``aten.cumsum.default``.
    module : str
        Path of the module that called it; ``''`` for the model itself.
    pinned : tuple of str
        Parameter axes that are held still because of it (not those that already were), as ``name[dim]``.
    reason : str
        Why it was not understood.
    """

    op: str
    module: str
    pinned: tuple[str, ...] = ()
    reason: str = "no rule"


@dataclass(frozen=True)
class Structure:
    """All spaces of a model and the axis expression of every parameter and persistent buffer.

    Holds no tensors; two structures are equal when they say the same.

    Parameters
    ----------
    spaces : tuple of Space
        The spaces that carry a non-trivial group, outer before inner.
    axes : mapping of str to tuple of Axis
        One axis expression for every dimension of every parameter and persistent buffer.
    indices : tuple of Space
        Trivial spaces that only tell copies of other spaces apart (positions with weights of their own).
    opaque : tuple of Opaque
        Operators that were not understood and what they pinned.
    unused : tuple of str
        Parameters that the output does not depend on; they are held still and not counted.
    notes : tuple of str
        Remarks for people, e.g. an axis that two views cut in incompatible ways.
    pinned : mapping of str to str
        Why axes, as ``name[dim]``, are held still, wholly or in part: the first reason found.

    Examples
    --------
    >>> import weyl
    >>> from torch import nn, zeros
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> structure = weyl.discover(net, (zeros(1, 4),))
    >>> structure.group.symbol, int(structure.group.order)
    ('S_3', 6)
    >>> [str(axis) for axis in structure.axes["2.weight"]]
    ['·2', '0']
    """

    spaces: tuple[Space, ...]
    axes: Mapping[str, tuple[Axis, ...]]
    indices: tuple[Space, ...] = ()
    opaque: tuple[Opaque, ...] = ()
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pinned: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pinned", MappingProxyType(dict(self.pinned)))
        object.__setattr__(self, "axes", MappingProxyType(dict(self.axes)))
        sizes = {space.name: space.size for space in (*self.indices, *self.spaces)}
        found: dict[str, dict[tuple[str, int], None]] = {name: {} for name in sizes}
        for name, axes in self.axes.items():
            for dim, axis in enumerate(axes):
                check_axis(name, axis, axes, sizes)
                for space in spaces_of(axis):
                    found[space][name, dim] = None
        for place in ("indices", "spaces"):
            filled = [
                replace(
                    space,
                    multiplicity=math.prod(sizes.get(outer, 1) for outer in space.within),
                    occurrences=tuple(found[space.name]),
                )
                for space in getattr(self, place)
            ]
            object.__setattr__(self, place, tuple(filled))

    def __hash__(self) -> int:
        return hash((self.spaces, tuple(self.axes.items())))

    @cached_property
    def group(self) -> Group:
        """The symmetry group."""
        return Group((*self.indices, *self.spaces))

    def space(self, name: str) -> Space:
        """A space, or an index, by name.

        Raises
        ------
        StructureError
            If there is none of this name.
        """
        for space in (*self.spaces, *self.indices):
            if space.name == name:
                return space
        raise StructureError(f"there is no space {name!r}")

    def to_json(self, indent: int | None = None) -> str:
        """Text form; :meth:`from_json` gives an equal structure back."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form of the structure."""
        return {
            "format": FORMAT,
            "spaces": [_space_to_json(space) for space in self.spaces],
            "indices": [_space_to_json(space) for space in self.indices],
            "axes": {name: [axis_to_json(axis) for axis in axes] for name, axes in self.axes.items()},
            "opaque": [
                {"op": o.op, "module": o.module, "pinned": list(o.pinned), "reason": o.reason} for o in self.opaque
            ],
            "unused": list(self.unused),
            "notes": list(self.notes),
            "pinned": dict(self.pinned),
        }

    @classmethod
    def from_json(cls, text: str) -> Structure:
        """Read the text form.

        Raises
        ------
        StructureError
            If the text is not JSON or not a structure of this format.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StructureError(f"a structure must be JSON: {error}") from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise StructureError(f"expected format {FORMAT!r}, got {found!r}")
        try:
            return cls(
                spaces=tuple(_space_from_json(s) for s in data["spaces"]),
                indices=tuple(_space_from_json(s) for s in data["indices"]),
                axes={str(n): tuple(axis_from_json(a) for a in axes) for n, axes in data["axes"].items()},
                opaque=tuple(Opaque(o["op"], o["module"], tuple(o["pinned"]), o["reason"]) for o in data["opaque"]),
                unused=tuple(data["unused"]),
                notes=tuple(data["notes"]),
                pinned={str(place): str(why) for place, why in data["pinned"].items()},
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise StructureError(f"malformed structure: {type(error).__name__}: {error}") from None

    def rows(self) -> list[dict[str, Any]]:
        """One row a space, for tables: name, size, copies, group symbol, within, occurrences."""
        return [
            {
                "space": space.name,
                "size": space.size,
                "copies": space.multiplicity,
                "group": space.symbol,
                "within": list(space.within),
                "occurrences": [f"{name}[{dim}]" for name, dim in space.occurrences],
            }
            for space in self.spaces
        ]

    def __repr__(self) -> str:
        lines = [f"Structure: {self.group.symbol}, order {self.group.order}"]
        rows = self.rows()
        width = max((len(r["space"]) for r in rows), default=5)
        for row in rows:
            within = f" within {', '.join(row['within'])}" if row["within"] else ""
            copies = f" ×{row['copies']}" if row["copies"] > 1 else ""
            places = row["occurrences"]
            shown = ", ".join(places[:4]) + (f", … {len(places) - 4} more" if len(places) > 4 else "")
            lines.append(f"  {row['space']:<{width}}  {row['group']}{copies}{within}  in {shown}")
        lines += [f"  opaque: {o.op} in {o.module or 'the model'} ({o.reason})" for o in self.opaque]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{h}</th>" for h in ("space", "group", "copies", "within", "occurs in"))
        body = "".join(
            "<tr>"
            + "".join(
                f"<td>{html.escape(str(cell))}</td>"
                for cell in (
                    row["space"],
                    row["group"],
                    row["copies"],
                    ", ".join(row["within"]),
                    ", ".join(row["occurrences"]),
                )
            )
            + "</tr>"
            for row in self.rows()
        )
        title = html.escape(f"{self.group.symbol}, order {self.group.order}")
        return f"<table><caption>{title}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _space_to_json(space: Space) -> dict[str, Any]:
    return {"name": space.name, "size": space.size, "kind": space.kind.value, "within": list(space.within)}


def _space_from_json(data: Any) -> Space:
    size = data["size"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise StructureError(f"the size of a space must be a positive integer, got {size!r}")
    return Space(str(data["name"]), size, Kind(data["kind"]), tuple(str(n) for n in data["within"]))
