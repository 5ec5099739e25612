"""Group elements: where the units of every space go, and what they are multiplied by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, ValuesView
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weyl.errors import StructureError
from weyl.groups import _values
from weyl.groups._gauge import MOVES, Gauge, GaugeKind
from weyl.groups._space import Space
from weyl.groups._values import Values

__all__ = ["Element", "Part"]

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Part:
    r"""What an element does to one space, for every setting of the spaces it lives within.

    Parameters
    ----------
    permutation : int64 array, shape (\*outer sizes, size)
        Gather convention: the new unit ``i`` (at new outer indices ``o``) is the old unit
        ``permutation[o, i]`` at the old outer indices.

    Notes
    -----
    Signs, scales and matrices are no matter of a part: :attr:`Element.values` has them.
    """

    permutation: Indices

    def __post_init__(self) -> None:
        self.permutation.setflags(write=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Part) and np.array_equal(self.permutation, other.permutation)

    __hash__ = None  # type: ignore[assignment]

    @property
    def is_identity(self) -> bool:
        """Whether no unit moves."""
        return bool((self.permutation == np.arange(self.permutation.shape[-1])).all())


class GaugeValues(Mapping[str, Values]):
    """Values of every gauge, identities filled in; called, it gives the parts as ``Mapping.values`` does.

    An element is a mapping over spaces, whose interface asks for ``values()``, and it has values of gauges.
    """

    __slots__ = ("_element",)

    def __init__(self, element: Element) -> None:
        self._element = element

    def __call__(self) -> ValuesView[Part]:
        return ValuesView(self._element)

    def __getitem__(self, name: str) -> Values:
        given = self._element._given.get(name)
        return given if given is not None else self._element._identity_of(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._element._gauge)

    def __len__(self) -> int:
        return len(self._element._gauge)


class Element(Mapping[str, Part]):
    r"""An element of a symmetry group: a mapping from space name to :class:`Part`, with values for every gauge.

    ``g @ h`` acts as *first h, then g*; ``~g`` is the inverse; both return new elements.

    Parameters
    ----------
    spaces : tuple of Space
        The spaces of the group, outer before inner.
    parts : mapping of str to Part
        One part for every space whose units may be permuted.
    gauges : tuple of Gauge
        What acts beside permutations.
    values : mapping of str to array
        By name of the gauge; one that is missing is the identity. Shape ``(*outer sizes, n)``, for kinds of matrices
        ``(*outer sizes, n, n)``, for a gauge without a space ``()``.

    Raises
    ------
    StructureError
        If a part is missing, has the wrong shape, or is not a permutation; if values are of an unknown gauge, or not
        what its kind asks for.

    Notes
    -----
    An element first permutes, then multiplies by the values at the *new* units, and adds last. With p the
    permutations of g (p(o, i) the old unit, outer indices moved alike), ``g @ h`` has

    .. math:: f(o, i) = f_g(o, i)\, f_h(p(o, i)), \qquad M(o) = M_g(o)\, P M_h(p(o)) P^T, \qquad
        t(o) = \chi_g\, t_h(p(o, \cdot)) + t_g(o)

    for signs, scales and complex numbers, for matrices, and for translations; :math:`\chi_g` is what g multiplies
    the translated quantity by (``Gauge.carries``).

    Examples
    --------
    >>> g = Element((Space("h", 3),), {"h": Part(np.array([1, 2, 0]))})
    >>> (~g @ g).is_identity, (g @ g)["h"].permutation.tolist()
    (True, [2, 0, 1])
    >>> flip = Gauge("sign", "h", GaugeKind.SIGN)
    >>> s = Element(g.spaces, g, (flip,), {"sign": np.array([-1, 1, 1])})
    >>> (s @ s).values["sign"].tolist(), sorted(s.moves)
    ([-1, 1, -1], ['permute', 'sign'])
    """

    __slots__ = ("_gauge", "_given", "_parts", "_space", "gauges", "spaces")

    spaces: tuple[Space, ...]
    gauges: tuple[Gauge, ...]
    _parts: dict[str, Part]
    _given: dict[str, Values]
    _space: dict[str, Space]
    _gauge: dict[str, Gauge]

    def __init__(
        self,
        spaces: tuple[Space, ...],
        parts: Mapping[str, Part],
        gauges: tuple[Gauge, ...] = (),
        values: Mapping[str, Values] | None = None,
    ) -> None:
        sizes = {space.name: space.size for space in spaces}
        permuted = [space for space in spaces if space.permuted]
        for space in permuted:
            if space.name not in parts:
                raise StructureError(f"element has no part for space {space.name!r}")
            shape = (*(sizes[name] for name in space.within), space.size)
            permutation = parts[space.name].permutation
            if permutation.shape != shape:
                raise StructureError(f"part of space {space.name!r} needs shape {shape}, got {permutation.shape}")
            if not (np.sort(permutation, axis=-1) == np.arange(space.size)).all():
                raise StructureError(f"part of space {space.name!r} is not a permutation of 0..{space.size - 1}")
        self._fill(spaces, {space.name: parts[space.name] for space in permuted}, gauges, {})
        _values.check_gauges(self._space, gauges)
        for name, array in (values or {}).items():
            if name not in self._gauge:
                known = ", ".join(map(repr, self._gauge)) or "none"
                raise StructureError(f"element has values of {name!r}, which is no gauge; known: {known}")
            gauge = self._gauge[name]
            self._given[name] = _values.checked(gauge, array, _values.shape_of(gauge, self._space))

    def _fill(
        self,
        spaces: tuple[Space, ...],
        parts: dict[str, Part],
        gauges: tuple[Gauge, ...],
        given: dict[str, Values],
    ) -> None:
        self.spaces, self.gauges = spaces, gauges
        self._parts, self._given = parts, given
        self._space = {space.name: space for space in spaces}
        self._gauge = {gauge.name: gauge for gauge in gauges}

    @classmethod
    def _trusted(
        cls,
        spaces: tuple[Space, ...],
        parts: dict[str, Part],
        gauges: tuple[Gauge, ...],
        given: dict[str, Values],
    ) -> Element:
        """An element of parts and values that are known to be right."""
        element = cls.__new__(cls)
        element._fill(spaces, parts, gauges, given)
        return element

    def __getitem__(self, name: str) -> Part:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def values(self) -> GaugeValues:
        """Values of every gauge by name, not writeable; ``element.values()`` still gives the parts."""
        return GaugeValues(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Element) and self._agrees(other, lambda _, a, b: np.array_equal(a, b))

    __hash__ = None  # type: ignore[assignment]

    def close(self, other: Element, tolerance: float = 1e-9) -> bool:
        """Whether two elements are equal up to rounding.

        Parameters
        ----------
        other : Element
            What to compare with.
        tolerance : float
            For scales, complex numbers and matrices relative to their size, for translations relative to the largest
            of them or 1. Permutations, signs and shifts must be equal.

        Returns
        -------
        bool
            False also for elements of different groups.
        """
        return self._agrees(other, lambda kind, a, b: _values.close(kind, a, b, tolerance))

    def _agrees(self, other: Element, same: Callable[[GaugeKind, Values, Values], bool]) -> bool:
        if self.spaces != other.spaces or self.gauges != other.gauges or self._parts != other._parts:
            return False
        names = self._given.keys() | other._given.keys()
        return all(same(self._gauge[name].kind, self.values[name], other.values[name]) for name in names)

    @property
    def is_identity(self) -> bool:
        """Whether the element changes nothing, exactly."""
        return not self.moves

    @property
    def moves(self) -> frozenset[str]:
        """What it really does: some of ``permute``, ``sign``, ``scale``, ``mix``, ``translate``."""
        found = {
            self._gauge[name].kind.move
            for name, array in self._given.items()
            if not np.array_equal(array, self._identity_of(name))
        }
        if not all(part.is_identity for part in self._parts.values()):
            found.add("permute")
        return frozenset(found)

    def __matmul__(self, other: Element) -> Element:
        """Compose: ``act(g @ h, s)`` equals ``act(g, act(h, s))``."""
        if not isinstance(other, Element):
            return NotImplemented
        if self.spaces != other.spaces or self.gauges != other.gauges:
            raise StructureError("elements of different groups cannot be composed")
        parts = {name: Part(other[name].permutation[self._moved(self._space[name])]) for name in self._parts}
        given = {}
        for gauge in self.gauges:
            name = gauge.name
            if name not in other._given:
                if name in self._given:
                    given[name] = self._given[name]
                continue
            moved = self._move(gauge, other._given[name])
            if gauge.kind.additive:
                moved = self._carried(gauge, moved) + self.values[name]
            elif name in self._given:
                moved = _values.product(gauge.kind, self._given[name], moved)
            given[name] = _values.frozen(gauge.kind, moved)
        return Element._trusted(self.spaces, parts, self.gauges, given)

    def __invert__(self) -> Element:
        """Inverse element.

        The inner part of the inverse sits at the *old* outer index: it is scattered there.
        """
        parts = {}
        for name, part in self._parts.items():
            inverse = np.empty_like(part.permutation)
            rows = tuple(outer[..., 0] for outer in self._moved_outer(self._space[name]))
            inverse[rows] = np.argsort(part.permutation, axis=-1)
            parts[name] = Part(inverse)
        given: dict[str, Values] = {}
        element = Element._trusted(self.spaces, parts, self.gauges, given)
        for gauge in sorted(self.gauges, key=lambda gauge: gauge.kind.additive):
            if gauge.name not in self._given:
                continue
            moved = element._move(gauge, self._given[gauge.name])
            # What is carried is multiplied by the values of the inverse, which are there by now.
            undone = -element._carried(gauge, moved) if gauge.kind.additive else _values.inverse(gauge.kind, moved)
            given[gauge.name] = _values.frozen(gauge.kind, undone)
        return element

    def _identity_of(self, name: str) -> Values:
        gauge = self._gauge[name]
        return _values.identity(gauge.kind, _values.shape_of(gauge, self._space))

    def _carried(self, gauge: Gauge, translation: Values) -> Values:
        """What becomes of a translation when the element acts after it, apart from moving."""
        for name, exponent in gauge.carries:
            if name in self._given:
                translation = _values.carry(self._gauge[name].kind, self._given[name], exponent, translation)
        return translation

    def _move(self, gauge: Gauge, values: Values) -> Values:
        """Values of a gauge at the old places of every new unit."""
        if not gauge.space:
            return values
        space = self._space[gauge.space]
        if not any(name in self._parts for name in (*space.within, space.name)):
            return values
        *outer, units = self._moved(space)
        if not gauge.kind.matrix:
            return values[(*outer, units)]
        return values[(*(index[..., None] for index in outer), units[..., :, None], units[..., None, :])]

    def _moved(self, space: Space) -> tuple[Indices, ...]:
        """Old indices, outer ones included, for every new unit of a space; they broadcast."""
        own = self._parts[space.name].permutation if space.name in self._parts else np.arange(space.size)
        return (*self._moved_outer(space), own)

    def _moved_outer(self, space: Space) -> tuple[Indices, ...]:
        """Old outer indices for every new outer index; each broadcasts against ``(*outer, 1)``.

        An outer space may itself live within others of the same list, so its permutation is looked up
        at their new indices.
        """
        rank = len(space.within) + 1
        grids = {}
        for position, name in enumerate(space.within):
            shape = [1] * rank
            shape[position] = self._space[name].size
            grids[name] = np.arange(self._space[name].size).reshape(shape)
        moved = []
        for name in space.within:
            if name not in self._parts:
                moved.append(grids[name])
                continue
            index = tuple(grids[outer] for outer in self._space[name].within)
            moved.append(self._parts[name].permutation[(*index, grids[name])])
        return tuple(moved)

    def __repr__(self) -> str:
        moved = sum(int((p.permutation != np.arange(p.permutation.shape[-1])).sum()) for p in self._parts.values())
        beside = "".join(f", {move}" for move in MOVES if move in self.moves - {"permute"})
        return f"Element({len(self._parts)} spaces, {moved} units moved{beside})"
