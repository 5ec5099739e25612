r"""What features without classes score, and the best that any features can: the levels beside every metric.

Chance is independent Gaussian features. Their class means, in every coordinate, have the covariance
:math:`D = \mathrm{diag}(1/n_c)` over classes, times the variance of a feature; centred, :math:`C = P D P`. Then the
Gram of the means is a Wishart matrix of scale C with d degrees of freedom, and its moments give the levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weyl.geometry._checks import class_weighting, whole

__all__ = ["Reference", "levels", "reference_levels"]

MOST_SIZES = 24  # distinct class sizes in an integral over pairs of them; more are rounded


@dataclass(frozen=True)
class Reference:
    """What a value is to be read against.

    Parameters
    ----------
    chance : float or None
        What independent Gaussian features of the same number, dimension and class sizes score, nearly; for the risk
        and the E-W gap, what constant logits do. None where that has no expectation.
    floor : float or None
        The best attainable value for this number of classes and this dimension.
    """

    chance: float | None
    floor: float | None


def reference_levels(counts: Sequence[int] | Tensor, dim: int) -> dict[str, Reference]:
    """Chance levels and floors of the metrics, for classes of given sizes.

    Parameters
    ----------
    counts : sequence of int, shape (k,)
        Samples of each class, all positive.
    dim : int
        Length of a feature vector.

    Returns
    -------
    dict of str to Reference
        By name of the metric. Those of the risk and the E-W gap depend on a network's radius and are not among them.

    Raises
    ------
    UsageError
        If a count is not positive.

    Examples
    --------
    >>> round(reference_levels([500] * 10, 512)["nc2"].chance, 3)
    0.137
    >>> round(reference_levels([200] * 5 + [2] * 5, 64)["nc2"].chance, 3)
    0.768
    """
    sizes = class_weighting("counts", counts, len(counts))
    pi, ones = torch.full_like(sizes, 1 / len(sizes)), torch.ones_like(sizes)
    return levels(sizes, whole("dim", dim, 1), len(sizes), pi, ones)


def levels(counts: Tensor, dim: int, num_classes: int, pi: Tensor, weights: Tensor) -> dict[str, Reference]:
    """Levels for the classes that are present.

    Parameters
    ----------
    counts : float64 tensor, shape (k,)
        Samples of each.
    dim, num_classes : int
        Length of a feature, and number of classes with the absent ones.
    pi, weights : tensor, shape (k,)
        Weights of the classes in Σ_B, of sum 1, and of their samples in Σ_W.
    """
    counts, pi, weights = (tensor.detach().cpu().double() for tensor in (counts, pi, weights))
    k, n = len(counts), float(counts.sum())
    found = {
        "radius": Reference(None, None),
        "accuracy": Reference(1 / num_classes, 1.0),
        "ncm_accuracy": Reference(_own_mean(counts, dim), 1.0),
        "logit_spread": Reference(math.sqrt(max(0.0, 1 - k / n)), 0.0),
        "nc4": Reference(1 - 1 / num_classes, 0.0),
        # Mean absolute cosine of a random direction.
        "nc5": Reference(math.exp(math.lgamma(dim / 2) - math.lgamma((dim + 1) / 2)) / math.sqrt(math.pi), 0.0),
    }
    if k == 1:
        return found
    noise = torch.diag(1 / counts)
    centre = torch.eye(k, dtype=torch.float64) - 1 / k
    centred = centre @ noise @ centre
    chance, floor = simplex_chance(centred, dim), simplex_floor(k, dim)
    # The defect is the sine of the angle of which NC2 is the chord.
    sine = [level * math.sqrt(max(0.0, 1 - level**2 / 4)) for level in (chance, floor)]
    lengths, angles = _shape(centred, dim)
    return found | {
        **_spread(counts, noise, dim, pi, weights),
        "nc2": Reference(chance, floor),
        "equinorm": Reference(lengths, 0.0),
        "equiangular": Reference(angles, _angle_floor(k, dim)),
        "nc3": Reference(math.sqrt(2), floor),
        "duality": Reference(math.sqrt(2), 0.0),
        "sk_defect": Reference(*sine),
    }


def simplex_chance(centred: Tensor, dim: int) -> float:
    r"""Compute NC2 of Gaussian means of centred covariance C over classes, nearly.

    :math:`\sqrt{2 - 2\cos\theta}` with :math:`\cos^2\theta = E[(tr\,G)^2] / ((k-1)\,E\|G\|_F^2)
    = (d^2 t^2 + 2 d t_2) / ((k-1)(d^2 t_2 + d t^2 + d t_2))`, where t and :math:`t_2` are the traces of C and C². For
    many classes of one size this is :math:`\sqrt{2 - 2\sqrt{d/(d+k)}}`; for two it is 0, since two points are always a
    simplex.

    Examples
    --------
    >>> round(simplex_chance(torch.eye(10) - 0.1, 512), 3)
    0.137
    """
    t, t2 = float(centred.trace()), float(centred.square().sum())
    squared = (dim**2 * t**2 + 2 * dim * t2) / ((len(centred) - 1) * (dim**2 * t2 + dim * t**2 + dim * t2))
    return math.sqrt(max(0.0, 2 - 2 * math.sqrt(min(1.0, squared))))


def simplex_floor(k: int, dim: int) -> float:
    r"""Compute the least NC2 of k points in d dimensions: :math:`\sqrt{2 - 2\sqrt{d/(k-1)}}` if d < k - 1, else 0.

    Examples
    --------
    >>> round(simplex_floor(1000, 512), 3)
    0.754
    """
    return math.sqrt(2 - 2 * math.sqrt(min(1.0, dim / (k - 1))))


def _spread(counts: Tensor, noise: Tensor, dim: int, pi: Tensor, weights: Tensor) -> dict[str, Reference]:
    """Levels of NC1: class means differ by sampling alone."""
    k = len(counts)
    # A mean takes one degree of freedom from the variance of its class.
    within = float((weights * (counts - 1)).sum() / (weights * counts).sum())
    around = pi.sqrt()[:, None] * (torch.eye(k, dtype=torch.float64) - pi)
    between = around @ noise @ around.T
    full: float | None = None
    if dim > k:
        # Mean of the inverse of a Wishart matrix.
        full = within * float(torch.linalg.pinv(between, hermitian=True).trace()) / (k * (dim - k))
    elif dim < k - 2 and bool((counts == counts[0]).all()) and bool((pi == pi[0]).all()):
        full = within * float(counts[0]) * dim / (k - 2 - dim)
    single = 1 - 1 / counts
    i, j = torch.triu_indices(k, k, 1)
    pairs = (single[i] + single[j]) / 2 / (1 / counts[i] + 1 / counts[j])
    cdnv = float(pairs.mean()) * dim / (dim - 2) if dim > 2 else None
    ratio = within / float(between.trace())
    return {"nc1": Reference(full, 0.0), "nc1_ratio": Reference(ratio, 0.0), "cdnv": Reference(cdnv, 0.0)}


def _shape(centred: Tensor, dim: int) -> tuple[float, float]:
    """Levels of the spread of lengths and of the root mean square of cos + 1/(k-1), to first order in 1/d."""
    k = len(centred)
    variances = centred.diagonal()
    # Mean of the length of a Gaussian vector of d coordinates.
    factor = math.sqrt(2) * math.exp(math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2))
    means = variances.sqrt() * factor
    mean = float(means.mean())
    squares = dim * variances
    spread = float(squares.mean()) - mean**2 - float((squares - means.square()).sum()) / k**2
    lengths = math.sqrt(max(0.0, spread)) / mean if k > 2 else 0.0
    correlations = centred / (variances[:, None] * variances).sqrt()
    off = ~torch.eye(k, dtype=torch.bool)
    gap = (correlations[off] + 1 / (k - 1)).square() + (1 - correlations[off].square()).square() / dim
    return lengths, math.sqrt(float(gap.mean())) if k > 2 else 0.0


def _angle_floor(k: int, dim: int) -> float:
    """Least root mean square of cos + 1/(k-1): the Welch bound for centred points of one length."""
    return math.sqrt(max(0.0, k * k / min(dim, k - 1) - k - k / (k - 1)) / (k * (k - 1)))


def _own_mean(counts: Tensor, dim: int) -> float:
    r"""Nearest-mean accuracy of Gaussian features without classes, on the very samples that the means come from.

    A sample is part of the mean of its class, so the score of that class is about
    :math:`N(d/2n_c, d/n_c)`, and of another :math:`N(-d/2n_j, d/n_j)`.
    """
    n = float(counts.sum())
    sizes, members = torch.unique(counts, return_counts=True)
    if len(sizes) > MOST_SIZES:
        order = torch.linspace(0, len(counts) - 1, MOST_SIZES, dtype=torch.float64).round().long()
        sizes = counts.sort().values[order]
        members = torch.full_like(sizes, len(counts) / MOST_SIZES)
    z = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    total, mass = 0.0, float((sizes * members).sum())
    for size, own in zip(sizes, members, strict=True):
        score = dim / (2 * size) + z * torch.sqrt(dim / size)
        beaten = torch.special.log_ndtr((score[:, None] + dim / (2 * sizes)) / torch.sqrt(dim / sizes))
        others = members - (sizes == size).double()
        rate = torch.trapezoid(density * torch.exp((beaten * others).sum(1)), z)
        total += float(size * own * rate)
    return total / (mass if mass > 0 else n)
