"""The metrics by name: what each means, and what chance and the best possible classifier score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weyl.geometry._checks import class_weighting, whole

__all__ = ["METRICS", "Metric", "Reference", "reference_levels", "references", "simplex_chance", "simplex_floor"]

PAPYAN = "Papyan, Han, Donoho, PNAS 117, 2020"
E_W = "E and Wojtowytsch, arXiv 2012.05420"


@dataclass(frozen=True)
class Metric:
    """What a metric is called, what it says, and where it comes from.

    Parameters
    ----------
    title, meaning, source : str
        For people.
    """

    title: str
    meaning: str
    source: str


METRICS: Mapping[str, Metric] = {
    "nc1": Metric("NC1, tr(Σ_W Σ_B⁺)/k", "spread within classes, measured between them", PAPYAN),
    "nc1_ratio": Metric("NC1, tr Σ_W / tr Σ_B", "spread within classes over spread between", PAPYAN),
    "cdnv": Metric("NC1, CDNV", "spread of two classes over their squared distance", "Galanti et al., ICLR 2022"),
    "nc2": Metric("NC2, distance to simplex", "class means against a regular simplex", PAPYAN),
    "equinorm": Metric("NC2, lengths", "how unequal the lengths of the class means are", PAPYAN),
    "equiangular": Metric("NC2, angles", "how far the cosines are from -1/(k-1)", PAPYAN),
    "nc3": Metric("NC3, self-duality", "classifier against class means", PAPYAN),
    "nc4": Metric("NC4, disagreement", "classifier against nearest class mean, by sample", PAPYAN),
    "nc5": Metric("NC5, cosine to OOD mean", "class means against out-of-distribution data", "Ammar et al., ICLR 2024"),
    "sk_defect": Metric("S_k defect", "part of the Gram that some exchange of classes changes", E_W),
    "logit_spread": Metric("logit spread", "part of the logits that varies within classes", f"{E_W}, Lemma 2"),
    "radius": Metric("logit radius R", "largest norm of centred logits", E_W),
    "risk": Metric("cross-entropy", "in nats, on these samples", E_W),
    "ew_gap": Metric("E-W gap", "cross-entropy above the least at this radius", f"{E_W}, Lemma 4"),
    "accuracy": Metric("accuracy", "of the classifier, on these samples", ""),
    "ncm_accuracy": Metric("nearest-mean accuracy", "of the nearest class mean, on these samples", ""),
}


@dataclass(frozen=True)
class Reference:
    """What a value is to be read against.

    Parameters
    ----------
    chance : float or None
        What independent Gaussian features of the same size and number score; None where that has no expectation.
    floor : float or None
        The best attainable value for this number of classes and this dimension.
    """

    chance: float | None
    floor: float | None


def simplex_chance(k: int, dim: int) -> float:
    r"""Compute NC2 of k independent Gaussian means in d dimensions, approximately.

    :math:`\sqrt{2 - 2 \cos\theta}` with :math:`\cos^2\theta = E[(tr\,G)^2] / ((k-1)\,E\|G\|_F^2)
    = (d(k-1) + 2) / ((k-1)(d + k))`, moments of the Wishart distribution. For many classes this is
    :math:`\sqrt{2 - 2\sqrt{d/(d+k)}}`; for two it is 0, since two points are always a simplex.

    Examples
    --------
    >>> round(simplex_chance(10, 512), 3)
    0.137
    """
    return math.sqrt(max(0.0, 2 - 2 * math.sqrt((dim * (k - 1) + 2) / ((k - 1) * (dim + k)))))


def simplex_floor(k: int, dim: int) -> float:
    r"""Compute the least NC2 of k points in d dimensions: :math:`\sqrt{2 - 2\sqrt{d/(k-1)}}` if d < k - 1, else 0.

    Examples
    --------
    >>> round(simplex_floor(1000, 512), 3)
    0.754
    """
    return math.sqrt(2 - 2 * math.sqrt(min(1.0, dim / (k - 1))))


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
    """
    sizes = class_weighting("counts", counts, len(counts))
    return _levels(sizes, whole("dim", dim, 1), len(sizes))


def references(counts: Tensor, dim: int, num_classes: int, found: Mapping[str, Any]) -> dict[str, Reference]:
    """Chance levels and floors of what was found, for the classes that are present with these counts."""
    levels = _levels(counts, dim, num_classes)
    if found.get("risk") is not None:
        least = found["risk"] - found["ew_gap"]
        levels["risk"] = Reference(math.log(num_classes), least)
        levels["ew_gap"] = Reference(math.log(num_classes) - least, 0.0)
    return {name: level for name, level in levels.items() if found.get(name) is not None}


def _levels(counts: Tensor, dim: int, num_classes: int) -> dict[str, Reference]:
    k = len(counts)
    levels = {
        "radius": Reference(None, None),
        "accuracy": Reference(1 / num_classes, 1.0),
        "ncm_accuracy": Reference(_own_mean_chance(k, dim, float(1 / (1 / counts).mean())), 1.0),
        "logit_spread": Reference(1.0, 0.0),
        # Mean absolute cosine of a random direction.
        "nc5": Reference(math.exp(math.lgamma(dim / 2) - math.lgamma((dim + 1) / 2)) / math.sqrt(math.pi), 0.0),
    }
    if k > 1:
        chance, floor = simplex_chance(k, dim), simplex_floor(k, dim)
        # Centred Grams meet their projection at the angle of which NC2 is the chord.
        sine = [level * math.sqrt(max(0.0, 1 - level**2 / 4)) for level in (chance, floor)]
        levels |= _spread_chances(counts, dim)
        levels |= {
            "nc2": Reference(chance, floor),
            "equinorm": Reference(math.sqrt((1 - 1 / k) / (2 * dim)) if k > 2 else 0.0, 0.0),
            "equiangular": Reference((1 - 1 / (k - 1) ** 2) / math.sqrt(dim), _angle_floor(k, dim)),
            "nc3": Reference(math.sqrt(2), floor),
            "nc4": Reference(1 - 1 / k, 0.0),
            "sk_defect": Reference(*sine),
        }
    return levels


def _spread_chances(counts: Tensor, dim: int) -> dict[str, Reference]:
    """NC1 of Gaussian features without classes: their class means differ by sampling alone."""
    k, n = len(counts), float(counts.sum())
    inverse = (1 / counts).cpu()
    # The mean over a class takes one degree of freedom from its variance.
    within = (n - k) / n
    ratio = within / float((1 - 1 / k) * inverse.mean())
    pairs = 1 / (inverse[:, None] + inverse)[tuple(inverse.new_ones(k, k).triu(1).nonzero().T)]
    harmonic = within / float(inverse.mean())
    full: float | None = None
    if dim > k:
        full = harmonic * (k - 1) / (dim - k)  # mean of the inverse of a Wishart matrix
    elif dim < k - 2:
        full = harmonic * dim / (k - 2 - dim)
    cdnv = within * float(pairs.mean()) * dim / (dim - 2) if dim > 2 else None
    return {
        "nc1": Reference(full, 0.0),
        "nc1_ratio": Reference(ratio, 0.0),
        "cdnv": Reference(cdnv, 0.0),
    }


def _angle_floor(k: int, dim: int) -> float:
    """Least root mean square of cos + 1/(k-1): the Welch bound for centred points of one length."""
    return math.sqrt(max(0.0, k * k / min(dim, k - 1) - k - k / (k - 1)) / (k * (k - 1)))


def _own_mean_chance(k: int, dim: int, size: float) -> float:
    r"""Nearest-mean accuracy of Gaussian features without classes, on the very samples that the means come from.

    A sample is part of the mean of its own class, which raises that score by :math:`s = \sqrt{d/n_c}` of its standard
    deviations: :math:`\int \varphi(z - s)\,\Phi(z)^{k-1}\,dz`.
    """
    z = torch.linspace(-8, 8 + math.sqrt(dim / size), 4001, dtype=torch.float64)
    density = torch.exp(-((z - math.sqrt(dim / size)) ** 2) / 2) / math.sqrt(2 * math.pi)
    return float(torch.trapezoid(density * torch.special.ndtr(z) ** (k - 1), z))
