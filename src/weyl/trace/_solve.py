"""Linear equations between exponents: over the rationals for scales, over two elements for signs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

__all__ = ["ZERO", "Exponents", "Number", "independent"]

Number = int | Fraction
Row = dict[int, Number]

# The unknown that is zero.
ZERO = 0


class Exponents:
    """Unknowns under homogeneous equations; those of two unknowns are merged at once, others eliminated at the end.

    Parameters
    ----------
    modulus : int
        0 for the rationals, 2 for signs.

    Examples
    --------
    >>> system = Exponents()
    >>> x, y, z = (system.new() for _ in range(3))
    >>> system.relate([(x, 1), (y, 1)])
    >>> system.relate([(y, 2), (z, -1)])
    >>> system.solve()
    >>> root, = system.expression(x)
    >>> [Fraction(system.expression(v)[root], system.expression(x)[root]) for v in (x, y, z)]
    [Fraction(1, 1), Fraction(-1, 1), Fraction(-2, 1)]
    """

    def __init__(self, modulus: int = 0) -> None:
        self.modulus = modulus
        self._parent = [0]
        self._ratio: list[Number] = [1]
        self._zero = {0}
        self._open: list[list[tuple[int, Number]]] = []
        self._solved: dict[int, Row] = {}

    def new(self) -> int:
        """A new unknown."""
        self._parent.append(len(self._parent))
        self._ratio.append(1)
        return len(self._parent) - 1

    def root(self, x: int) -> tuple[int, Number]:
        """The representative r and the number c with x = c r; ``(ZERO, 0)`` for what is zero."""
        parent = self._parent
        if parent[x] == x:
            return (0, 0) if x in self._zero else (x, 1)
        path = []
        while parent[x] != x:
            path.append(x)
            x = parent[x]
        ratio: Number = 1
        for y in reversed(path):
            ratio = self._ratio[y] * ratio
            self._parent[y], self._ratio[y] = x, ratio
        return (0, 0) if x in self._zero else (x, ratio)

    def zero(self, x: int) -> None:
        """X = 0."""
        root, _ = self.root(x)
        self._zero.add(root)

    def equate(self, x: int, y: int) -> None:
        """X = y."""
        if x != y:
            self.relate([(x, 1), (y, -1)])

    def relate(self, terms: Iterable[tuple[int, Number]]) -> None:
        """A sum of multiples of unknowns is zero."""
        row = self._reduced(terms)
        if len(row) > 2:
            self._open.append(list(row.items()))
        else:
            self._short(row)

    def _reduced(self, terms: Iterable[tuple[int, Number]]) -> Row:
        row: Row = {}
        for x, c in terms:
            root, ratio = self.root(x)
            if not root:
                continue
            total = row.get(root, 0) + c * ratio
            if self.modulus:
                total = int(total) % self.modulus
            if total:
                row[root] = total
            else:
                row.pop(root, None)
        return row

    def _short(self, row: Row) -> None:
        if len(row) == 1:
            self._zero.add(next(iter(row)))
        elif row:
            (x, a), (y, b) = row.items()
            # the younger joins the older
            if x > y:
                x, y, a, b = y, x, b, a
            self._parent[y] = x
            self._ratio[y] = 1 if self.modulus else _quotient(-a, b)

    def solve(self) -> None:
        """Eliminate what is left; afterwards :meth:`expression` may be asked."""
        rest = self._open
        while True:
            rows = [self._reduced(terms) for terms in rest]
            rest = [list(row.items()) for row in rows if len(row) > 2]
            short = [row for row in rows if 0 < len(row) <= 2]
            if not short:
                break
            for row in short:
                again = self._reduced(row.items())
                if len(again) <= 2:
                    self._short(again)
        for terms in rest:
            row = self._substituted(dict(terms))
            if not row:
                continue
            pivot = max(row)
            scale = row.pop(pivot)
            solution = {x: (c % 2 if self.modulus else _quotient(-c, scale)) for x, c in row.items()}
            self._solved[pivot] = solution
            for other, old in self._solved.items():
                if pivot in old and other != pivot:
                    self._solved[other] = self._substituted(old)
        self._open = []

    def _substituted(self, row: Mapping[int, Number]) -> Row:
        out: Row = {}
        for x, c in row.items():
            for y, d in self._solved.get(x, {x: 1}).items():
                total = out.get(y, 0) + c * d
                out[y] = int(total) % self.modulus if self.modulus else total
        return {x: c for x, c in out.items() if c}

    def expression(self, x: int) -> Row:
        """X as a combination of free unknowns."""
        root, ratio = self.root(x)
        if not root:
            return {}
        free = self._substituted({root: 1})
        if self.modulus:
            return free
        return {y: c * ratio for y, c in free.items()}


def _quotient(a: Number, b: Number) -> Number:
    return a * b if b in (1, -1) else Fraction(a) / b


def independent(
    rows: Iterable[Mapping[object, Number]], modulus: int = 0, beside: Iterable[Mapping[object, Number]] = ()
) -> list[int]:
    """Numbers of rows that are a basis of the span of all, modulo the span of those ``beside``.

    Examples
    --------
    >>> independent([{"a": 1}, {"a": 2}, {"b": 1}])
    [0, 2]
    """
    pivots: dict[object, Mapping[object, Number]] = {}
    places: dict[object, int] = {}
    chosen = []
    outside = list(beside)
    for number, row in enumerate([*outside, *rows]):
        for key in row:
            places.setdefault(key, len(places))
        rest = {key: value % 2 if modulus else value for key, value in row.items()}
        rest = {key: value for key, value in rest.items() if value}
        while rest:
            key = min(rest, key=places.__getitem__)
            known = pivots.get(key)
            if known is None:
                pivots[key] = rest
                if number >= len(outside):
                    chosen.append(number - len(outside))
                break
            factor = Fraction(rest[key]) / Fraction(known[key]) if not modulus else 1
            for place, value in known.items():
                total = rest.get(place, 0) - factor * value
                if modulus:
                    total = int(total) % modulus
                if total:
                    rest[place] = total
                else:
                    rest.pop(place, None)
    return chosen
