"""Group elements: what happens to the units of every space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weyl.errors import StructureError
from weyl.groups._space import Space

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
    Signs, scales and matrices are further optional fields of the same shape or one axis more; code
    that moves units reads :attr:`permutation` only.
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


class Element(Mapping[str, Part]):
    """An element of a symmetry group: a mapping from space name to :class:`Part`.

    ``g @ h`` acts as *first h, then g*; ``~g`` is the inverse; both return new elements.

    Parameters
    ----------
    spaces : tuple of Space
        The spaces of the group, outer before inner.
    parts : mapping of str to Part
        One part for every space that is not trivial.

    Raises
    ------
    StructureError
        If a part is missing, has the wrong shape, or is not a permutation.

    Examples
    --------
    >>> g = Element((Space("h", 3),), {"h": Part(np.array([1, 2, 0]))})
    >>> (~g @ g).is_identity, (g @ g)["h"].permutation.tolist()
    (True, [2, 0, 1])
    """

    __slots__ = ("_parts", "spaces")

    def __init__(self, spaces: tuple[Space, ...], parts: Mapping[str, Part]) -> None:
        sizes = {space.name: space.size for space in spaces}
        for space in spaces:
            if not space.kind.moves:
                continue
            if space.name not in parts:
                raise StructureError(f"element has no part for space {space.name!r}")
            shape = (*(sizes[name] for name in space.within), space.size)
            permutation = parts[space.name].permutation
            if permutation.shape != shape:
                raise StructureError(f"part of space {space.name!r} needs shape {shape}, got {permutation.shape}")
            if not (np.sort(permutation, axis=-1) == np.arange(space.size)).all():
                raise StructureError(f"part of space {space.name!r} is not a permutation of 0..{space.size - 1}")
        self.spaces = spaces
        self._parts = {space.name: parts[space.name] for space in spaces if space.kind.moves}

    def __getitem__(self, name: str) -> Part:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Element) and self.spaces == other.spaces and self._parts == other._parts

    __hash__ = None  # type: ignore[assignment]

    @property
    def is_identity(self) -> bool:
        """Whether the element moves nothing."""
        return all(part.is_identity for part in self._parts.values())

    def __matmul__(self, other: Element) -> Element:
        """Compose: ``act(g @ h, s)`` equals ``act(g, act(h, s))``."""
        if not isinstance(other, Element):
            return NotImplemented
        if self.spaces != other.spaces:
            raise StructureError("elements of different groups cannot be composed")
        parts = {}
        for space in self._moving():
            own = self[space.name].permutation
            outer = self._moved_outer(space)
            parts[space.name] = Part(other[space.name].permutation[(*outer, own)])
        return Element(self.spaces, parts)

    def __invert__(self) -> Element:
        """Inverse element.

        The inner part of the inverse sits at the *old* outer index: it is scattered there.
        """
        parts = {}
        for space in self._moving():
            own = self[space.name].permutation
            inverse = np.empty_like(own)
            rows = tuple(outer[..., 0] for outer in self._moved_outer(space))
            inverse[rows] = np.argsort(own, axis=-1)
            parts[space.name] = Part(inverse)
        return Element(self.spaces, parts)

    def _moving(self) -> Iterator[Space]:
        return (space for space in self.spaces if space.kind.moves)

    def _moved_outer(self, space: Space) -> tuple[Indices, ...]:
        """Old outer indices for every new outer index; each broadcasts against ``(*outer, 1)``.

        An outer space may itself live within others of the same list, so its permutation is looked up
        at their new indices.
        """
        sizes = {s.name: s.size for s in self.spaces}
        rank = len(space.within) + 1
        grids = {}
        for position, name in enumerate(space.within):
            shape = [1] * rank
            shape[position] = sizes[name]
            grids[name] = np.arange(sizes[name]).reshape(shape)
        by_name = {s.name: s for s in self.spaces}
        moved = []
        for name in space.within:
            if name not in self._parts:
                moved.append(grids[name])
                continue
            index = tuple(grids[outer] for outer in by_name[name].within)
            moved.append(self._parts[name].permutation[(*index, grids[name])])
        return tuple(moved)

    def __repr__(self) -> str:
        moved = sum(int((p.permutation != np.arange(p.permutation.shape[-1])).sum()) for p in self._parts.values())
        return f"Element({len(self._parts)} spaces, {moved} units moved)"
