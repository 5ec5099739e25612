"""Exact orders of symmetry groups, kept factored so that they stay small objects."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from weyl.errors import UsageError

__all__ = ["Order", "convolutional_order", "feedforward_order"]


@dataclass(frozen=True)
class Order:
    r"""The order of a finite group, :math:`\prod_j (n_j!)^{m_j} \cdot \prod_i b_i^{e_i}`.

    Parameters
    ----------
    factors : tuple of (int, int)
        Pairs ``(n, m)``, each standing for ``(n!) ** m``; sorted by decreasing ``n``, ``n >= 2``.
    powers : tuple of (int, int)
        Pairs ``(b, e)``, each standing for ``b ** e`` (signs give ``(2, e)``).

    Notes
    -----
    ``int(order)`` is exact; ``str(int(order))`` stops at 4300 digits, :meth:`digits` does not.

    Examples
    --------
    >>> order = Order.of({3: 1, 2: 2})
    >>> int(order), str(order)
    (24, '24')
    >>> Order.of({512: 3}).log10.__round__(2)
    3499.62
    """

    factors: tuple[tuple[int, int], ...] = ()
    powers: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, factorials: Mapping[int, int], powers: Mapping[int, int] | None = None) -> Order:
        """Build an order from ``{n: multiplicity}`` of factorials and ``{base: exponent}`` of powers."""

        def tidy(table: Mapping[int, int]) -> tuple[tuple[int, int], ...]:
            for base, exponent in table.items():
                if base < 0 or exponent < 0:
                    raise UsageError(f"an order needs non-negative sizes and multiplicities, got {base}: {exponent}")
            return tuple(sorted(((b, e) for b, e in table.items() if b > 1 and e > 0), reverse=True))

        return cls(tidy(factorials), tidy(powers or {}))

    @cached_property
    def log10(self) -> float:
        """Base-10 logarithm, correct to about 15 significant digits.

        Examples
        --------
        >>> round(feedforward_order([10]).log10, 4)
        6.5598
        """
        terms = [m * math.lgamma(n + 1) / math.log(10) for n, m in self.factors]
        return math.fsum(terms + [e * math.log10(b) for b, e in self.powers])

    @property
    def trivial(self) -> bool:
        """Whether the group has only the identity."""
        return not self.factors and not self.powers

    def __int__(self) -> int:
        total = 1
        for n, m in self.factors:
            total *= math.factorial(n) ** m
        for b, e in self.powers:
            total *= b**e
        return total

    def __index__(self) -> int:
        return int(self)

    def __mul__(self, other: Order) -> Order:
        factorials, powers = Counter(dict(self.factors)), Counter(dict(self.powers))
        factorials.update(dict(other.factors))
        powers.update(dict(other.powers))
        return Order.of(factorials, powers)

    def __str__(self) -> str:
        """Scientific form, exact below 10^15: ``'24'``, ``'1.37e431'``."""
        if self.log10 < 15:
            return str(int(self))
        exponent = math.floor(self.log10)
        mantissa = 10 ** (self.log10 - exponent)
        if mantissa >= 9.995:
            mantissa, exponent = 1.0, exponent + 1
        return f"{mantissa:.2f}e{exponent}"

    @property
    def formula(self) -> str:
        """Factored form for people: ``'(64!)^3 · 10!'``.

        Examples
        --------
        >>> Order.of({64: 3, 10: 1}).formula
        '(64!)^3 · 10!'
        """
        parts = [f"{n}!" if m == 1 else f"({n}!)^{m}" for n, m in self.factors]
        parts += [f"{b}" if e == 1 else f"{b}^{e}" for b, e in self.powers]
        return " · ".join(parts) or "1"

    def to_dict(self) -> dict[str, object]:
        """JSON-ready form; integers stay factored because exact ones exceed JSON readers' limits."""
        return {
            "factorials": [list(pair) for pair in self.factors],
            "powers": [list(pair) for pair in self.powers],
            "log10": self.log10,
            "formula": self.formula,
        }

    def digits(self) -> str:
        """All decimal digits, whatever their number (``str(int)`` stops at 4300).

        Examples
        --------
        >>> len(feedforward_order([2000]).digits())
        5736
        """
        value = int(self)
        width = int(self.log10) + 2
        return _decimal(value, width).lstrip("0") or "0"


def _decimal(value: int, width: int) -> str:
    """Decimal digits by divide and conquer, so that no single conversion is over Python's limit."""
    if width <= 2000:
        return str(value).zfill(width)
    low = width // 2
    high_part, low_part = divmod(value, 10**low)
    return _decimal(high_part, width - low) + _decimal(low_part, low)


def _widths(sizes: Iterable[int], what: str) -> list[int]:
    if not isinstance(sizes, Iterable):
        raise UsageError(f"{what} must be a list of positive integers, got {sizes!r}: write [{sizes!r}]")
    widths = list(sizes)
    for width in widths:
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise UsageError(f"{what} must be positive integers, got {width!r}")
    return widths


def feedforward_order(hidden: Sequence[int]) -> Order:
    r"""Number of equivalent minima of a plain feed-forward network, :math:`N = \prod_l n_l!`.

    Parameters
    ----------
    hidden : sequence of int
        Sizes :math:`n_l` of the hidden layers (input and output layers do not count).

    Returns
    -------
    Order
        Exact and factored.

    Raises
    ------
    UsageError
        If a size is not a positive integer.

    References
    ----------
    Michelucci, *On the High Symmetry of Neural Network Functions*, arXiv 2211.06603 (2022): the
    factorial count of equivalent minima of feed-forward networks.

    Examples
    --------
    >>> int(feedforward_order([10])), round(feedforward_order([128, 128]).log10, 2)
    (3628800, 431.17)
    """
    return Order.of(Counter(_widths(hidden, "hidden sizes")))


def convolutional_order(filters: Sequence[int], dense: Sequence[int] = ()) -> Order:
    r"""Number of equivalent minima of a plain convolutional chain, :math:`\prod_l f_l! \cdot \prod_m n_m!`.

    Parameters
    ----------
    filters : sequence of int
        Number of filters of each convolution.
    dense : sequence of int, optional
        Sizes of the hidden dense layers after them.

    Returns
    -------
    Order
        Exact and factored.

    Raises
    ------
    UsageError
        If a size is not a positive integer.

    References
    ----------
    Michelucci, arXiv 2211.06603 (2022): the factorial count for filters of convolutional networks.
    Right for a plain chain only; residual links, normalisation, groups and tying need ``weyl.discover``.

    Examples
    --------
    >>> round(convolutional_order([64, 128, 256, 512]).log10, 2)
    1978.16
    """
    return Order.of(Counter(_widths(filters, "filter counts") + _widths(dense, "dense sizes")))
