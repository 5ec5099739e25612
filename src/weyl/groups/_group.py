"""The symmetry group of a structure: a product over spaces, nested where one lives within another, and gauges."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np

from weyl.errors import StructureError, UsageError
from weyl.groups import _values
from weyl.groups._element import Element, Part
from weyl.groups._gauge import MOVES, Gauge, GaugeKind
from weyl.groups._order import Order
from weyl.groups._space import Space
from weyl.groups._symbol import bracket, copy_symbol, global_terms, join_terms, power

__all__ = ["Group"]


@dataclass(frozen=True)
class Group:
    r"""Product over spaces of :math:`S_n^{m}`, nested (wreath) where a space lives within another, with gauges.

    A space of size n within spaces of sizes :math:`n_1, n_2, \dots` has :math:`m = \prod_i n_i` independent copies.
    Its permutations count :math:`(n!)^m`; a gauge of it counts :math:`2^{m s}` for s sign flips a copy, and m times
    the dimension of a copy.

    Parameters
    ----------
    spaces : tuple of Space
        Outer before inner. Those that are not permuted are index sets that tell copies or units apart.
    gauges : tuple of Gauge
        What acts on units beside permutations.
    overlap : tuple of (int, int)
        Continuous dimensions, and powers of two, that are counted twice: different values that act alike.

    Raises
    ------
    StructureError
        If names occur twice, an outer space is missing or comes later, a gauge acts on a space that is not there or
        carries what it cannot, or the overlap is more than there is.

    Examples
    --------
    >>> heads = Space("h", 2); inside = Space("d", 3, within=("h",))
    >>> group = Group((heads, inside))
    >>> int(group.order), group.symbol
    (72, 'S_3 ≀ S_2')
    >>> group = Group((Space("fc1", 4),), (Gauge("fc1 scale", "fc1", GaugeKind.SCALE),))
    >>> group
    Group(Mon+_4, order 24, dimension 4)
    """

    spaces: tuple[Space, ...]
    gauges: tuple[Gauge, ...] = ()
    overlap: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        seen: dict[str, Space] = {}
        for space in self.spaces:
            if space.name in seen:
                raise StructureError(f"two spaces are called {space.name!r}")
            if any(name not in seen for name in space.within):
                raise StructureError(f"space {space.name!r} comes before one of the spaces it lives within")
            if any(not set(seen[name].within) <= set(space.within) for name in space.within):
                raise StructureError(f"space {space.name!r} does not list all that its outer spaces live within")
            seen[space.name] = space
        _values.check_gauges(seen, self.gauges)
        mixed = {gauge.space: gauge.name for gauge in self.gauges if gauge.kind.move == "mix"}
        for space in self.spaces:
            for name in space.within:
                if name in mixed and (space.permuted or any(gauge.space == space.name for gauge in self.gauges)):
                    raise StructureError(
                        f"gauge {mixed[name]!r} mixes units of {name!r}, and {space.name!r} lives within them: "
                        "what acts on it would depend on units that are no longer told apart"
                    )
        counted = (self._total(GaugeKind.dimension), self._total(GaugeKind.signs))
        if any(not 0 <= part <= whole for part, whole in zip(self.overlap, counted, strict=True)):
            raise StructureError(f"overlap must be between (0, 0) and {counted}, what the gauges count: {self.overlap}")

    @cached_property
    def _spaces(self) -> dict[str, Space]:
        return {space.name: space for space in self.spaces}

    def multiplicity(self, space: Space) -> int:
        """Number of independent copies of a space: the product of the sizes it lives within."""
        return math.prod(self._spaces[name].size for name in space.within)

    def _total(self, count: Callable[[GaugeKind, int], int]) -> int:
        """Sum over gauges of what one copy counts, times the number of copies."""
        total = 0
        for gauge in self.gauges:
            space = self._spaces.get(gauge.space)
            total += self.multiplicity(space) * count(gauge.kind, space.size) if space else count(gauge.kind, 1)
        return total

    @cached_property
    def order(self) -> Order:
        """Exact order of the discrete part, factored: permutations times two to the number of sign flips.

        Integer shifts are an infinite group (:attr:`infinite`) and are not counted.
        """
        return self.permutation_order * Order.of({}, {2: self._total(GaugeKind.signs) - self.overlap[1]})

    @cached_property
    def permutation_order(self) -> Order:
        """Exact number of permutations alone, factored."""
        factors: Counter[int] = Counter()
        for space in self._permuted():
            factors[space.size] += self.multiplicity(space)
        return Order.of(factors)

    @cached_property
    def dimension(self) -> int:
        """Dimension of the continuous part."""
        return self._total(GaugeKind.dimension) - self.overlap[0]

    @property
    def infinite(self) -> bool:
        """Whether the discrete part is infinite: there are integer shifts, which :attr:`order` does not count."""
        return any(gauge.kind is GaugeKind.SHIFT for gauge in self.gauges)

    @property
    def trivial(self) -> bool:
        """Whether nothing can move."""
        return self.order.trivial and not self.dimension and not self.infinite

    def identity(self) -> Element:
        """The element that moves nothing."""
        parts = {}
        for space in self._permuted():
            shape = (*(self._spaces[name].size for name in space.within), space.size)
            parts[space.name] = Part(np.broadcast_to(np.arange(space.size), shape).copy())
        return Element._trusted(self.spaces, parts, self.gauges, {})

    def random(self, seed: int = 0, kinds: Iterable[str] | None = None, exact: bool = False) -> Element:
        """Random element; the same seed gives the same element, global state is untouched.

        What is drawn for one kind of move depends on the seed alone, not on the other kinds.

        Parameters
        ----------
        seed : int
            Seed of private generators.
        kinds : collection of str, optional
            What may move, out of ``permute``, ``sign``, ``scale``, ``mix``, ``translate``; everything by default.
        exact : bool
            Whether to draw only values that compose, and act, without rounding: powers of two in [1/4, 4], matrices
            that permute, change signs and (``LINEAR``) scale by such powers, phases ±1 and ±i, integers in -2..2.

        Returns
        -------
        Element
            Permutations and signs are uniform: independent for every copy of every space. Scales, and the moduli of
            complex numbers, are log-uniform in [1/2, 2]; angles are uniform; orthogonal matrices are Haar; general
            ones are U diag(s) V with Haar U and V and such scales s, so that their condition number is at most 4;
            translations are standard normal, shifts uniform in -2..2.

        Raises
        ------
        UsageError
            If the seed is not a non-negative integer, or a kind of move is unknown.
        """
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise UsageError(f"seed must be a non-negative integer, got {seed!r}")
        chosen = _moves(kinds)
        parts = dict(self.identity())
        if "permute" in chosen:
            rng = np.random.default_rng(seed)
            parts = {name: Part(rng.permuted(part.permutation, axis=-1)) for name, part in parts.items()}
        values = {
            gauge.name: _values.draw(
                gauge.kind,
                _values.shape_of(gauge, self._spaces),
                np.random.default_rng([seed, 1 + position]),
                exact,
            )
            for position, gauge in enumerate(self.gauges)
            if gauge.kind.move in chosen
        }
        return Element._trusted(self.spaces, parts, self.gauges, values)

    def generators(self) -> Iterator[Element]:
        """Adjacent transpositions, then sign flips, then shifts by one, of one copy of one space at a time.

        They generate the discrete part: with all that :attr:`order` counts, every integer shift. Continuous
        directions are ``weyl.tangents``.

        Yields
        ------
        Element
            ``sum(multiplicity * (size - 1))`` transpositions; as many flips as the gauges have signs (matrices flip
            single units too, centred ones all units at once); one shift for every unit.
        """
        identity = self.identity()
        for space in self._permuted():
            for copy in np.ndindex(*identity[space.name].permutation.shape[:-1]):
                for i in range(space.size - 1):
                    moved = identity[space.name].permutation.copy()
                    moved[copy][[i, i + 1]] = i + 1, i
                    parts = {**identity, space.name: Part(moved)}
                    yield Element._trusted(self.spaces, parts, self.gauges, {})
        for gauge in sorted(self.gauges, key=lambda gauge: gauge.kind is GaugeKind.SHIFT):
            for values in _values.generators(gauge.kind, _values.shape_of(gauge, self._spaces)):
                yield Element._trusted(self.spaces, dict(identity), self.gauges, {gauge.name: values})

    @cached_property
    def kinds(self) -> Mapping[str, str]:
        """What acts on one copy of every space, as a symbol; ``1`` where nothing does."""
        found = {space.name: copy_symbol(space, self._gauge_kinds[space.name]) for space in self.spaces}
        return MappingProxyType(found)

    @cached_property
    def _gauge_kinds(self) -> dict[str, Counter[GaugeKind]]:
        """Number of gauges of every kind, by space."""
        found: defaultdict[str, Counter[GaugeKind]] = defaultdict(Counter)
        for gauge in self.gauges:
            found[gauge.space][gauge.kind] += 1
        return found

    @cached_property
    def symbol(self) -> str:
        """The group in the usual notation, repeated factors collected: ``S_64^3 × (S_4 ≀ S_8)``.

        A space within two others that are not nested in each other is written within the last of them, to the
        power of its copies there. ``B_n``, ``Mon+_n`` and ``Mon_n`` are permutations with signs, with positive scales,
        and with both; ``GL_n``, ``O_n`` and ``O_n × Z2`` contain the permutations. An overlap is not shown.
        """
        inside: dict[str | None, list[Space]] = defaultdict(list)
        for space in self.spaces:
            if space.permuted or self._gauge_kinds.get(space.name):
                outer = [name for name in space.within if self._spaces[name].permuted]
                inside[outer[-1] if outer else None].append(space)
        terms = Counter(self._term(space, None, inside) for space in inside[None])
        return join_terms(terms + global_terms(self._gauge_kinds.get("", {})))

    def _term(self, space: Space, parent: Space | None, inside: Mapping[str | None, list[Space]]) -> str:
        """One space with everything nested directly inside it, as a wreath product."""
        head = self.kinds[space.name]
        if inside.get(space.name):
            body = join_terms(Counter(self._term(inner, space, inside) for inner in inside[space.name]))
            head = f"{bracket(body)} ≀ {bracket(head)}"
        around = self.multiplicity(parent) * parent.size if parent else 1
        copies = self.multiplicity(space) // around
        return power(head, copies)

    def __repr__(self) -> str:
        dimension = f", dimension {self.dimension}" if self.dimension else ""
        return f"Group({self.symbol}, order {self.order}{dimension})"

    def _permuted(self) -> Iterator[Space]:
        return (space for space in self.spaces if space.permuted)


def _moves(kinds: Iterable[str] | None) -> frozenset[str]:
    if kinds is None:
        return frozenset(MOVES)
    known = ", ".join(MOVES)
    if isinstance(kinds, str):
        raise UsageError(f"kinds must be a list, got {kinds!r}; it may hold {known}")
    chosen = frozenset(kinds)
    unknown = sorted(repr(kind) for kind in chosen - set(MOVES))
    if unknown:
        raise UsageError(f"kinds {', '.join(unknown)} unknown; known: {known}")
    return chosen
