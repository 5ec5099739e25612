"""The symmetry group of a structure: a product over spaces, nested where one lives within another."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from weyl.errors import StructureError, UsageError
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
        seen: dict[str, Space] = {}
        for space in self.spaces:
            if space.name in seen:
                raise StructureError(f"two spaces are called {space.name!r}")
            if any(name not in seen for name in space.within):
                raise StructureError(f"space {space.name!r} comes before one of the spaces it lives within")
            if any(not set(seen[name].within) <= set(space.within) for name in space.within):
                raise StructureError(f"space {space.name!r} does not list all that its outer spaces live within")
            if space.kind not in (Kind.TRIVIAL, Kind.SYMMETRIC):
                raise StructureError(f"space {space.name!r} has kind {space.kind.value!r}: only permutations are known")
            seen[space.name] = space

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return {space.name: space.size for space in self.spaces}

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

        Raises
        ------
        UsageError
            If the seed is not a non-negative integer.
        """
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise UsageError(f"seed must be a non-negative integer, got {seed!r}")
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
        """The group in the usual notation, repeated factors collected: ``S_64^3 × (S_4 ≀ S_8)``.

        A space within two others that are not nested in each other is written within the last of them, to the
        power of its copies there.
        """
        moving = {space.name: space for space in self._moving()}
        inside: dict[str | None, list[Space]] = defaultdict(list)
        for space in moving.values():
            outer = [name for name in space.within if name in moving]
            inside[outer[-1] if outer else None].append(space)
        return _join_terms(Counter(self._term(space, None, inside) for space in inside[None]))

    def _term(self, space: Space, parent: Space | None, inside: Mapping[str | None, list[Space]]) -> str:
        """One space with everything nested directly inside it, as a wreath product."""
        head = space.symbol
        if inside.get(space.name):
            body = _join_terms(Counter(self._term(inner, space, inside) for inner in inside[space.name]))
            head = f"{_bracket(body)} ≀ {head}"
        around = self.multiplicity(parent) * parent.size if parent else 1
        copies = self.multiplicity(space) // around
        return _power(head, copies)

    def __repr__(self) -> str:
        return f"Group({self.symbol}, order {self.order})"

    def _shape(self, space: Space) -> tuple[int, ...]:
        return (*(self._sizes[name] for name in space.within), space.size)

    def _moving(self) -> Iterator[Space]:
        return (space for space in self.spaces if space.kind is not Kind.TRIVIAL)


def _join_terms(terms: Mapping[str, int]) -> str:
    """A product of terms to their powers."""
    if not terms:
        return "1"
    text = [_power(term, count) for term, count in terms.items()]
    return text[0] if len(text) == 1 else " × ".join(_bracket(term) for term in text)


def _power(term: str, count: int) -> str:
    if count == 1:
        return term
    return f"({term})^{count}" if " " in term or "^" in term else f"{term}^{count}"


def _bracket(text: str) -> str:
    return f"({text})" if " " in text else text
