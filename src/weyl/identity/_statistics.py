"""Exact and nearly exact chances of coincidences between two permutations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from weyl.errors import UsageError

__all__ = ["either", "fisher", "fixed_points_p", "relabelled", "spearman_p"]

# So many units are enumerated; for fewer than so many the null distribution is sampled.
ENUMERATED, SAMPLED = 8, 64
# Permutations in a sample, and the count below which its tail is too thin to be used.
DRAWS, THIN = 50_000, 100
# How far below the truth the t distribution was found where a sample is too thin (below 64 units).
SHORT = 2.0
# The smallest p-value that is reported: anything below is rounding.
LEAST = 1e-300


def spearman_p(first: NDArray[np.int64], second: NDArray[np.int64], *, tie: float = 1.0) -> float:
    """Chance that two unrelated permutations are as much alike, by Spearman's rank correlation, as these.

    Exact for up to 8 units (all permutations are enumerated); for up to 63 a fixed sample of 50,000 permutations,
    and twice the t distribution in its thin tail; above that the t distribution.

    Parameters
    ----------
    first, second : int64 array, shape (n,)
        Permutations of ``0 … n-1``.
    tie : float
        Which part of the chance of exactly this correlation is counted, between 0 and 1. A number drawn uniformly
        makes the p-value of few units uniform; 1, the usual definition, is on the safe side.

    Returns
    -------
    float
        One-sided: near 0 if the permutations agree, near 1 if they run against each other.

    Examples
    --------
    >>> import numpy as np
    >>> still = np.arange(5)
    >>> round(spearman_p(still, still) * 120)
    1
    """
    n = len(first)
    if n < 2:
        return float(tie)
    distance = int(np.square(first - second).sum())
    if n <= ENUMERATED:
        null = _enumerated(n)
        below = np.searchsorted(null, distance, "left")
        through = np.searchsorted(null, distance, "right")
        return max(LEAST, float(below + tie * (through - below)) / len(null))
    # No chance is smaller than that of one permutation.
    least = max(LEAST, math.exp(-math.lgamma(n + 1)))
    tail = _student(1 - 6 * distance / (n * (n * n - 1)), n)
    if n >= SAMPLED:
        return max(least, tail)
    null = _sampled(n)
    count = int(np.searchsorted(null, distance, "right"))
    return count / len(null) if count >= THIN else max(least, min(THIN / len(null), _short(n) * tail))


def _short(n: int) -> float:
    """By how much the t distribution may be below the truth, in the tail: 13 and 30 times at 9 and 10 units."""
    return 30.0 if n < 16 else 4.0 if n < 32 else SHORT


def _student(correlation: float, n: int) -> float:
    from scipy.stats import t

    if correlation >= 1:
        return LEAST
    if correlation <= -1:
        return 1.0
    return float(t.sf(correlation * math.sqrt((n - 2) / (1 - correlation**2)), n - 2))


@cache
def _enumerated(n: int) -> NDArray[np.int64]:
    """Sums of squared differences of all permutations from the identity, sorted."""
    every = np.array(list(itertools.permutations(range(n))))
    return np.asarray(np.sort(np.square(every - np.arange(n)).sum(1)))


@cache
def _sampled(n: int) -> NDArray[np.int64]:
    drawn = np.random.default_rng(n).permuted(np.tile(np.arange(n), (DRAWS, 1)), axis=1)
    return np.asarray(np.sort(np.square(drawn - np.arange(n)).sum(1)))


def fixed_points_p(hits: int, sizes: Sequence[int]) -> float:
    """Chance that independent random permutations have at least so many fixed points together.

    The exact distribution for one permutation, ``P(k) = sum_j (-1)^j / j! / k!`` with j up to n - k; for several of
    them that of their sum, which is computed by convolution.

    Parameters
    ----------
    hits : int
        Fixed points that were found.
    sizes : sequence of int
        Units of every permutation.

    Examples
    --------
    >>> round(fixed_points_p(1, [64]), 6), round(fixed_points_p(3, [3]) * 6)
    (0.632121, 1)
    """
    if hits <= 0 or not sizes:
        return 1.0
    from scipy.stats import poisson

    # From about twenty units on, the distribution is that of Poisson up to rounding, unless nearly all are fixed.
    if min(sizes) >= 20:
        return max(LEAST, float(poisson.sf(hits - 1, len(sizes))))
    total = np.ones(1)
    for n in sizes:
        total = np.convolve(total, _matching(min(n, 170)))
    return max(LEAST, float(total[hits:].sum())) if hits < len(total) else LEAST


@cache
def _matching(n: int) -> NDArray[np.float64]:
    """Chances of 0 … n fixed points of a random permutation."""
    apart = [sum((-1) ** j / math.factorial(j) for j in range(m + 1)) for m in range(n + 1)]
    return np.array([apart[n - k] / math.factorial(k) for k in range(n + 1)])


def fisher(chances: Sequence[float]) -> float:
    """Combine independent p-values into one: ``-2 sum log p`` is chi-squared with two degrees of freedom each.

    Parameters
    ----------
    chances : sequence of float
        In (0, 1].

    Returns
    -------
    float
        1 if there are none.

    Raises
    ------
    UsageError
        If a number is not in (0, 1].

    References
    ----------
    Fisher, "Statistical methods for research workers", 1925, section 21.1.

    Examples
    --------
    >>> round(fisher([0.01, 0.01]), 5)
    0.00102
    """
    if any(not 0 < p <= 1 for p in chances):
        raise UsageError("a p-value must be above 0 and at most 1")
    if not chances:
        return 1.0
    from scipy.stats import chi2

    return max(LEAST, float(chi2.sf(-2 * sum(math.log(p) for p in chances), 2 * len(chances))))


def either(chances: Sequence[float]) -> float:
    """The smallest of some p-values as one: ``1 - (1 - p)^n`` (Šidák), exact if they are independent; 1 for none.

    Examples
    --------
    >>> round(either([0.5, 0.1]), 2), either([])
    (0.19, 1.0)
    """
    if not chances:
        return 1.0
    return -math.expm1(len(chances) * math.log1p(-min(chances))) if min(chances) < 1 else 1.0


def relabelled(
    first: NDArray[np.int64], second: NDArray[np.int64], generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two matchings as they would be had the units other numbers on either side; which agree is not changed.

    Spearman's correlation reads an order into numbers. Where files sort their units, or norms do, that order is no
    accident; a random one is.
    """
    n = len(first)
    ours, theirs = generator.permutation(n), generator.permutation(n)
    return theirs[first][ours], theirs[second][ours]
