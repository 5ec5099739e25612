"""The symmetry group of a structure: a product over spaces, nested where one lives within another."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from weyl.errors import StructureError
from weyl.groups._element import Element, Part
from weyl.groups._order import Order
from weyl.groups._space import Kind, Space

__all__ = ["Group"]


@dataclass(frozen=True)
class Group:
    r"""Product over spaces of :math:`S_n^{m}`, nested (wreath) where a space lives within another.

    A space of size n within spaces of sizes :math:`n_1, n_2, \dots` has :math:`m = \prod_i n_i`
    independent copies, so the order is :math:`\prod_{\text{spaces}} (n!)^m`.

    Parameters
    ----------
    spaces : tuple of Space
        Outer before inner. Trivial ones are index sets that only tell copies apart.

    Examples
    --------
    >>> heads = Space("h", 2); inside = Space("d", 3, within=("h",))
    >>> group = Group((heads, inside))
    >>> int(group.order), group.symbol
    (72, 'S_3 ≀ S_2')
    """

    spaces: tuple[Space, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for space in self.spaces:
            missing = [name for name in space.within if name not in seen]
            if missing or space.name in seen:
                raise StructureError(f"space {space.name!r} is repeated or comes before {missing}")
            seen.add(space.name)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return {space.name: space.size for space in self.spaces}

    @cached_property
    def _kinds(self) -> dict[str, Kind]:
        return {space.name: space.kind for space in self.spaces}

    def multiplicity(self, space: Space) -> int:
        """Number of independent copies of a space: the product of the sizes it lives within."""
        return math.prod(self._sizes[name] for name in space.within)

    @cached_property
    def order(self) -> Order:
        """Exact order, factored."""
        factors: Counter[int] = Counter()
        for space in self._moving():
            factors[space.size] += self.multiplicity(space)
        return Order.of(factors)

    @property
    def trivial(self) -> bool:
        """Whether nothing can move."""
        return self.order.trivial

    def identity(self) -> Element:
        """The element that moves nothing."""
        parts = {}
        for space in self._moving():
            shape = self._shape(space)
            parts[space.name] = Part(np.broadcast_to(np.arange(space.size), shape).copy())
        return Element(self.spaces, parts)

    def random(self, seed: int = 0) -> Element:
        """Uniformly random element; the same seed gives the same element, global state is untouched.

        Parameters
        ----------
        seed : int
            Seed of a private generator.

        Returns
        -------
        Element
            Uniform over the group: an independent uniform permutation for every copy of every space.
        """
        rng = np.random.default_rng(seed)
        identity = self.identity()
        parts = {name: Part(rng.permuted(part.permutation, axis=-1)) for name, part in identity.items()}
        return Element(self.spaces, parts)

    def generators(self) -> Iterator[Element]:
        """Adjacent transpositions, one copy of one space at a time: they generate the whole group.

        Yields
        ------
        Element
            ``sum(multiplicity * (size - 1))`` of them.
        """
        identity = self.identity()
        for space in self._moving():
            shape = self._shape(space)
            for copy in np.ndindex(*shape[:-1]):
                for i in range(space.size - 1):
                    moved = identity[space.name].permutation.copy()
                    moved[copy][[i, i + 1]] = i + 1, i
                    yield Element(self.spaces, {**identity, space.name: Part(moved)})

    @cached_property
    def symbol(self) -> str:
        """The group in the usual notation, repeated factors collected: ``S_64^3 × (S_4 ≀ S_8)``."""
        moving = {space.name for space in self._moving()}
        inside: dict[str | None, list[Space]] = defaultdict(list)
        for space in self._moving():
            outer = [name for name in space.within if name in moving]
            inside[outer[-1] if outer else None].append(space)
        terms = Counter(self._term(space, inside) for space in inside[None])
        text = [term if count == 1 else f"{_bracket(term)}^{count}" for term, count in terms.items()]
        return " × ".join(_bracket(t) if len(text) > 1 and " " in t else t for t in text) or "1"

    def _term(self, space: Space, inside: Mapping[str | None, list[Space]]) -> str:
        """One space with everything nested directly inside it, as a wreath product."""
        head = space.symbol
        if inside.get(space.name):
            body = Counter(self._term(inner, inside) for inner in inside[space.name])
            text = " × ".join(_bracket(t) if n == 1 else f"{_bracket(t)}^{n}" for t, n in body.items())
            head = f"{_bracket(text)} ≀ {head}"
        fixed = [name for name in space.within if self._kinds[name] is Kind.TRIVIAL]
        copies = math.prod(self._sizes[name] for name in fixed) if len(fixed) == len(space.within) else 1
        return head if copies == 1 else f"{_bracket(head)}^{copies}"

    def _shape(self, space: Space) -> tuple[int, ...]:
        return (*(self._sizes[name] for name in space.within), space.size)

    def _moving(self) -> Iterator[Space]:
        return (space for space in self.spaces if space.kind is not Kind.TRIVIAL)


def _bracket(text: str) -> str:
    return f"({text})" if " " in text else text
