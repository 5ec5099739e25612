"""How many ways a network has to be wider than it must be."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from math import comb

from weyl.errors import UsageError

__all__ = ["ExpansionCounts", "expansion_counts"]

# Activations by parity, or why the count does not hold for them.
ODD = frozenset({"atan", "erf", "sin", "sinh", "tanh"})
HALF = "is a linear function plus an even one, so that neurons cancel across units"
REFUSED: Mapping[str, str] = {
    "sigmoid": "is a constant plus an odd function: 1 - sigmoid(x) = sigmoid(-x) ties a neuron to a constant",
    "gelu": HALF,
    "silu": HALF,
    "softplus": HALF,
    "relu": "is positively homogeneous: every neuron can be rescaled, so that its copies are no affine subspaces",
    "leaky_relu": "is positively homogeneous: every neuron can be rescaled, so that its copies are no affine subspaces",
    "cos": "is even",
    "identity": "is linear",
}


@dataclass(frozen=True)
class ExpansionCounts:
    """Affine subspaces of parameters of m neurons that compute what a minimal network of r neurons does.

    Parameters
    ----------
    copies : int
        Those in which every neuron is a copy of one of the r: G(r, m).
    total : int
        All, with neurons whose contributions cancel: T(r, m).
    neurons, width : int
        r and m.
    parity : {"none", "odd"}
        Of the activation.
    """

    copies: int
    total: int
    neurons: int
    width: int
    parity: str


def expansion_counts(r: int, m: int, activation: str = "generic") -> ExpansionCounts:
    r"""Count the affine subspaces of global minima when a network is wider than it must be.

    For two layers without biases, and an activation that is smooth, not zero at zero, and has infinitely many
    derivatives of even and of odd order that are not zero there (``"generic"``):

    .. math:: G(r, m) = \sum_{i=1}^r (-1)^{r-i} \binom ri i^m, \qquad
        T(r, m) = \sum_{u=0}^{m-r} \binom mu G(r, m - u)\, B_u

    with the Bell numbers B. G counts the ways in which each of m neurons copies one of r, every one of which is
    copied; T adds u neurons in blocks of equal incoming weights whose outgoing weights sum to zero.

    An odd activation lets every copy also be a negative one, and a neuron without incoming weights has any outgoing
    ones. Blocks then are those of set partitions of type B (one zero block, signs within the others):

    .. math:: G^{odd}(r, m) = 2^m G(r, m), \qquad
        T^{odd}(r, m) = \sum_u \binom mu\, 2^{m-u} G(r, m-u)\, D_u, \qquad
        \sum_u D_u \frac{x^u}{u!} = e^{x + (e^{2x} - 1)/2}

    Parameters
    ----------
    r : int
        Neurons of the minimal network, at least 1.
    m : int
        Neurons of the wide one, at least r.
    activation : str
        ``"generic"``, ``"odd"``, or the name of an activation whose parity is known.

    Returns
    -------
    ExpansionCounts
        ``.copies`` and ``.total``, exact.

    Raises
    ------
    UsageError
        If a number is out of range, or the count does not hold for the activation; the message says why.

    References
    ----------
    Şimşek et al., "Geometry of the loss landscape in overparameterized neural networks", ICML 2021, Theorem 4.2 and
    Proposition 4.4. The odd variant is derived here and checked by enumeration; the numbers D are those of
    Dowling, "A class of geometric lattices based on finite groups", JCTB 14, 1973, for the group of order two.

    Examples
    --------
    >>> expansion_counts(2, 4).total, expansion_counts(3, 6).total
    (62, 3120)
    >>> expansion_counts(1, 2, "tanh").total
    12
    """
    r, m = _whole("r", r), _whole("m", m)
    if m < r:
        raise UsageError(f"m must be at least r: {m} neurons cannot compute what needs {r}")
    parity = _parity(activation)
    sign = 2 if parity == "odd" else 1
    blocks = _dowling(m - r) if parity == "odd" else _bell(m - r)
    total = sum(comb(m, u) * sign ** (m - u) * _surjections(r, m - u) * blocks[u] for u in range(m - r + 1))
    return ExpansionCounts(sign**m * _surjections(r, m), total, r, m, parity)


def _parity(activation: str) -> str:
    if activation == "generic":
        return "none"
    if activation == "odd" or activation in ODD:
        return "odd"
    if activation in REFUSED:
        raise UsageError(f"no count is known for {activation!r}: it {REFUSED[activation]}")
    known = ", ".join(sorted(ODD))
    raise UsageError(f"the parity of {activation!r} is not known; give 'generic', 'odd' or one of {known}")


def _surjections(r: int, m: int) -> int:
    return sum((-1) ** (r - i) * comb(r, i) * i**m for i in range(1, r + 1))


def _bell(n: int) -> list[int]:
    """Numbers of set partitions of 0, 1, ..., n elements."""
    numbers = [1]
    for i in range(n):
        numbers.append(sum(comb(i, j) * numbers[j] for j in range(i + 1)))
    return numbers


def _dowling(n: int) -> list[int]:
    r"""Numbers of set partitions of type B: the derivative of the series is :math:`(1 + e^{2x})` times it."""
    numbers = [1]
    for i in range(n):
        numbers.append(numbers[i] + sum(comb(i, j) * 2 ** (i - j) * numbers[j] for j in range(i + 1)))
    return numbers


def _whole(name: str, value: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise UsageError(f"{name} must be a positive integer, got {value!r}")
    return number
