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

from weyl._text import one_line
from weyl.errors import StructureError
from weyl.groups import Gauge, GaugeKind, Group, Kind, Space
from weyl.structure._axes import LARGEST, Axis, axis_from_json, axis_to_json, check_axis, spaces_of
from weyl.structure._check import check_absorptions, check_weights
from weyl.structure._weights import (
    Absorption,
    LogitShift,
    Weight,
    absorption_from_json,
    absorption_to_json,
    weight_from_json,
    weight_to_json,
)

__all__ = ["Opaque", "Structure"]

FORMAT = "weyl-structure-2"
PERMUTATIONS_ONLY = "weyl-structure-1"


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
    gauges : tuple of Gauge
        What acts on units beside permutations: signs, scales, matrices, translations.
    weights : mapping of str to mapping of str to tuple of Weight
        For every gauge, by name, the tensors on which it acts and how.
    offsets : mapping of str to float
        Tensors that are multiplied as ``(v + offset) * f - offset``, such as the running variance of a
        batch normalisation.
    absorptions : mapping of str to tuple of Absorption
        For a gauge, by name, the constants that its flips leave behind, and the biases that take them up.
    overlap : (int, int)
        Continuous dimension and number of signs that gauges share, so that they are not counted twice.
    logit_shifts : tuple of LogitShift
        Symmetries of a softmax loss that are none of the function, and so in no group.

    Raises
    ------
    StructureError
        If two parts do not fit: a name that nothing has, a size that differs, a block that leaves its axis.

    Examples
    --------
    >>> import weyl
    >>> from torch import nn, zeros
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2))
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
    gauges: tuple[Gauge, ...] = ()
    weights: Mapping[str, Mapping[str, tuple[Weight, ...]]] = field(default_factory=dict)
    offsets: Mapping[str, float] = field(default_factory=dict)
    absorptions: Mapping[str, tuple[Absorption, ...]] = field(default_factory=dict)
    overlap: tuple[int, int] = (0, 0)
    logit_shifts: tuple[LogitShift, ...] = ()

    def __post_init__(self) -> None:
        for place in ("pinned", "axes", "offsets", "absorptions"):
            object.__setattr__(self, place, MappingProxyType(dict(getattr(self, place))))
        weights = {gauge: MappingProxyType(dict(tensors)) for gauge, tensors in self.weights.items()}
        object.__setattr__(self, "weights", MappingProxyType(weights))
        self._fill_spaces()
        if self.gauges or self.weights or self.offsets or self.absorptions or any(self.overlap):
            self._check_gauges()

    def _fill_spaces(self) -> None:
        """Check the axes, and tell every space its copies and where it occurs."""
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

    def _check_gauges(self) -> None:
        """Check that gauges fit the spaces, and weights, offsets and absorptions gauges and tensors."""
        spaces = {space.name: space for space in self.group.spaces}
        shapes = {name: tuple(axis.size for axis in axes) for name, axes in self.axes.items()}
        known = {gauge.name: gauge for gauge in self.gauges}
        for place in ("weights", "absorptions"):
            for name in getattr(self, place):
                if name not in known:
                    raise StructureError(f"{place} of an unknown gauge {name!r}")
        for name, tensors in self.weights.items():
            check_weights(known[name], tensors, spaces, shapes)
        for name, absorptions in self.absorptions.items():
            check_absorptions(known[name], absorptions, spaces, shapes)
        for name, offset in self.offsets.items():
            if name not in shapes or not math.isfinite(offset):
                raise StructureError(f"offset {offset} of {name!r}: it needs a tensor of the structure, and be finite")

    def __reduce__(self) -> tuple[Any, ...]:
        return Structure.from_json, (self.to_json(),)

    def __hash__(self) -> int:
        return hash((self.spaces, tuple(self.axes.items()), self.gauges))

    @cached_property
    def group(self) -> Group:
        """The symmetry group."""
        return Group((*self.indices, *self.spaces), self.gauges, self.overlap)

    @cached_property
    def weights_by_tensor(self) -> Mapping[str, tuple[tuple[Gauge, Weight], ...]]:
        """For every tensor on which a gauge acts, the gauges in their order with their weights."""
        found: dict[str, list[tuple[Gauge, Weight]]] = {}
        for gauge in self.gauges:
            for name, weights in self.weights.get(gauge.name, {}).items():
                found.setdefault(name, []).extend((gauge, weight) for weight in weights)
        return MappingProxyType({name: tuple(weights) for name, weights in found.items()})

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
            "gauges": [_gauge_to_json(gauge) for gauge in self.gauges],
            "weights": {
                gauge: {name: [weight_to_json(weight) for weight in weights] for name, weights in tensors.items()}
                for gauge, tensors in self.weights.items()
            },
            "offsets": dict(self.offsets),
            "absorptions": {
                gauge: [absorption_to_json(absorption) for absorption in absorptions]
                for gauge, absorptions in self.absorptions.items()
            },
            "overlap": list(self.overlap),
            "logit_shifts": [{"weight": s.weight, "bias": s.bias, "dimension": s.dimension} for s in self.logit_shifts],
        }

    @classmethod
    def from_json(cls, text: str) -> Structure:
        """Read the text form; also that of format 1, which knows permutations only.

        Raises
        ------
        StructureError
            If the text is not JSON or not a structure of this format.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StructureError(f"a structure must be JSON: {one_line(error)}") from None
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        if found not in (FORMAT, PERMUTATIONS_ONLY):
            got = one_line(repr(found), 80)
            raise StructureError(f"expected format {FORMAT!r} or {PERMUTATIONS_ONLY!r}, got {got}")
        try:
            return cls(
                spaces=tuple(_space_from_json(s) for s in data["spaces"]),
                indices=tuple(_space_from_json(s) for s in data["indices"]),
                axes={str(n): tuple(axis_from_json(a) for a in axes) for n, axes in data["axes"].items()},
                opaque=tuple(
                    Opaque(str(o["op"]), str(o["module"]), _texts(o["pinned"]), str(o["reason"]))
                    for o in data["opaque"]
                ),
                unused=_texts(data["unused"]),
                notes=_texts(data["notes"]),
                pinned={str(place): str(why) for place, why in data["pinned"].items()},
                **(_gauging_from_json(data) if found == FORMAT else {}),
            )
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise StructureError(f"malformed structure: {type(error).__name__}: {one_line(error)}") from None

    def rows(self) -> list[dict[str, Any]]:
        """One row a space, for tables.

        Returns
        -------
        list of dict
            Name, size, copies, group symbol, within, occurrences; ``signs`` (independent flips of units), ``scales``
            (units that have a positive factor of their own) and ``dimension`` (continuous), each of all copies
            together; ``kinds``, what acts as text.
        """
        return [
            {
                "space": space.name,
                "size": space.size,
                "copies": space.multiplicity,
                "group": space.symbol,
                "within": list(space.within),
                "occurrences": [f"{name}[{dim}]" for name, dim in space.occurrences],
                **self._counts(space),
                "kinds": self.group.kinds[space.name],
            }
            for space in self.spaces
        ]

    def _counts(self, space: Space) -> dict[str, int]:
        """Signs, scales and continuous dimension of all copies of a space."""
        kinds = [gauge.kind for gauge in self.gauges if gauge.space == space.name]
        return {
            "signs": space.multiplicity * sum(kind.signs(space.size) for kind in kinds),
            "scales": space.multiplicity * space.size * kinds.count(GaugeKind.SCALE),
            "dimension": space.multiplicity * sum(kind.dimension(space.size) for kind in kinds),
        }

    @property
    def _title(self) -> str:
        dimension = f", dimension {self.group.dimension}" if self.group.dimension > 0 else ""
        return f"{self.group.symbol}, order {self.group.order}{dimension}"

    def __repr__(self) -> str:
        lines = [f"Structure: {self._title}"]
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
        title = html.escape(self._title)
        return f"<table><caption>{title}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _space_to_json(space: Space) -> dict[str, Any]:
    return {"name": space.name, "size": space.size, "kind": space.kind.value, "within": list(space.within)}


def _space_from_json(data: Any) -> Space:
    size = data["size"]
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size < LARGEST:
        got = one_line(repr(size), 40)
        raise StructureError(f"the size of a space must be a positive integer of less than 64 bits, got {got}")
    return Space(str(data["name"]), size, Kind(data["kind"]), tuple(str(n) for n in data["within"]))


def _texts(data: Any) -> tuple[str, ...]:
    if not isinstance(data, list):
        raise TypeError(f"expected a list of texts, got {type(data).__name__}")
    return tuple(str(text) for text in data)


def _gauge_to_json(gauge: Gauge) -> dict[str, Any]:
    carries = [list(carried) for carried in gauge.carries]
    return {"name": gauge.name, "space": gauge.space, "kind": gauge.kind.value, "carries": carries}


def _gauge_from_json(data: Any) -> Gauge:
    carries = tuple((str(name), int(exponent)) for name, exponent in data["carries"])
    return Gauge(str(data["name"]), str(data["space"]), GaugeKind(data["kind"]), carries)


def _gauging_from_json(data: Any) -> dict[str, Any]:
    """The parts of format 2 that format 1 does not have."""
    dimension, signs = data["overlap"]
    return {
        "gauges": tuple(_gauge_from_json(gauge) for gauge in data["gauges"]),
        "weights": {
            str(gauge): {str(name): tuple(weight_from_json(w) for w in weights) for name, weights in tensors.items()}
            for gauge, tensors in data["weights"].items()
        },
        "offsets": {str(name): float(offset) for name, offset in data["offsets"].items()},
        "absorptions": {
            str(gauge): tuple(absorption_from_json(a) for a in absorptions)
            for gauge, absorptions in data["absorptions"].items()
        },
        "overlap": (int(dimension), int(signs)),
        "logit_shifts": tuple(
            LogitShift(str(s["weight"]), str(s["bias"]), int(s["dimension"])) for s in data.get("logit_shifts", ())
        ),
    }
