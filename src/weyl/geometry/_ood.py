"""Out-of-distribution scores from collapse statistics, and how well a score separates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weyl.errors import InputError, UsageError
from weyl.geometry._checks import whole
from weyl.geometry._measure import Taps, caller, evaluating, find_classifier, peek, required, tracked
from weyl.geometry._statistics import CollapseStatistics

__all__ = ["METHODS", "Detection", "Separation", "detect_ood", "ood_scores", "separation"]

METHODS = ("neco", "vim", "nearest_mean")


@dataclass(frozen=True)
class Separation:
    """How well a score tells outside from inside.

    Parameters
    ----------
    auroc : float
        Probability that a sample from outside scores higher than one from inside, ties counted half; 0.5 is chance.
    fpr95 : float
        Fraction of samples from outside that pass where 95 % of those from inside do; 0.95 is chance.
    """

    auroc: float
    fpr95: float


def separation(inside: Float[Tensor, " n"], outside: Float[Tensor, " m"]) -> Separation:
    """Compute AUROC and FPR95 of a score that is higher outside.

    Parameters
    ----------
    inside, outside : tensor, shapes (n,) and (m,)
        Scores of in-distribution and of out-of-distribution samples.

    Returns
    -------
    Separation
        Exact for these samples, ties included.

    Raises
    ------
    InputError
        If either is empty or has a NaN.

    Examples
    --------
    >>> separation(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([2.0, 3.0]))
    Separation(auroc=0.916..., fpr95=0.5)
    """
    for name, scores in (("inside", inside), ("outside", outside)):
        if scores.ndim != 1 or not len(scores) or bool(scores.isnan().any()):
            raise InputError(f"{name} must be scores of shape (n,) without NaN, got shape {tuple(scores.shape)}")
    low = inside.double().sort().values
    high = outside.double().to(low.device)
    below = torch.searchsorted(low, high, right=False) + torch.searchsorted(low, high, right=True)
    threshold = low[math.ceil(0.95 * len(low)) - 1]
    return Separation(float(below.double().mean()) / (2 * len(low)), float((high <= threshold).double().mean()))


def ood_scores(
    stats: CollapseStatistics,
    features: Float[Tensor, "n d"],
    logits: Float[Tensor, "n k"] | None = None,
    *,
    method: str = "neco",
    weight: Float[Tensor, "k d"] | None = None,
    bias: Float[Tensor, " k"] | None = None,
    rank: int | None = None,
) -> Float[Tensor, " n"]:
    r"""Score features; the higher, the farther from the training distribution.

    - ``neco``: :math:`-\|P(h - \mu)\| / \|h - \mu\|` with P the projection on the principal subspace.
    - ``vim``: :math:`\alpha \|P^\perp (h - o)\| - \log \sum_j e^{z_j}` with :math:`o = -W^+ b` and α such that both
      terms agree on the training data.
    - ``nearest_mean``: :math:`\min_c \|h - \mu_c\|`.

    Parameters
    ----------
    stats : CollapseStatistics
        Of the training data.
    features : tensor, shape (n, d)
        What to score.
    logits : tensor, shape (n, k), optional
        Of these features, for ``vim``; made from weight and bias unless given.
    method : {"neco", "vim", "nearest_mean"}
        Which score.
    weight, bias : tensor, shapes (k, d) and (k,), optional
        The classifier, for ``vim``.
    rank : int, optional
        Dimension of the principal subspace. Unless given, for ``neco`` the number of classes (d - 1 if that is less),
        and for ``vim`` what its authors use: 1000 from d = 2048 on, 512 from d = 768 on, else d/2.

    Returns
    -------
    float64 tensor, shape (n,)
        The scores.

    Raises
    ------
    UsageError
        If a method is unknown, or an argument that it needs is missing.
    InputError
        If the statistics are empty.

    References
    ----------
    Ammar et al., "NECO: Neural collapse based out-of-distribution detection", ICLR 2024. Wang et al., "ViM:
    Out-of-distribution with virtual-logit matching", CVPR 2022.
    """
    if method not in METHODS:
        raise UsageError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not stats.count:
        raise InputError("no samples: the statistics are empty")
    if features.ndim != 2 or features.shape[1] != stats.dim:
        raise UsageError(f"features must have shape (n, {stats.dim}), got {tuple(features.shape)}")
    rank = None if rank is None else whole("rank", rank, 1)
    rows = features.detach().to(stats.device, torch.float64)
    if method == "nearest_mean":
        return torch.cdist(rows, stats.means[stats.counts > 0]).min(1).values
    if method == "neco":
        mean, covariance = _total(stats)
        rank = min(stats.num_classes, stats.dim - 1) if rank is None else rank
        if not 0 < rank < stats.dim:
            raise UsageError(f"method 'neco' needs a rank from 1 to {stats.dim - 1}, or every score is one; got {rank}")
        return -_captured(rows - mean, _principal(covariance, rank))
    if weight is None:
        raise UsageError("method 'vim' needs weight, and bias if the classifier has one")
    return _vim(stats, rows, logits, weight.detach(), bias, rank)


def _vim(
    stats: CollapseStatistics,
    rows: Tensor,
    logits: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    rank: int | None,
) -> Tensor:
    matrix = weight.to(rows)
    shift = torch.zeros(len(matrix)).to(rows) if bias is None else bias.detach().to(rows)
    origin = -torch.linalg.pinv(matrix) @ shift
    mean, covariance = _total(stats)
    second = covariance + torch.outer(mean - origin, mean - origin)
    d = stats.dim
    rank = rank or (1000 if d >= 2048 else 512 if d >= 768 else max(1, d // 2))
    basis = _principal(second, min(rank, d))
    kept = stats.kept.rows()[0].to(rows)
    if not len(kept):
        raise UsageError("method 'vim' needs kept rows of the training data; raise keep")
    shifted = kept - origin
    residual = _outside(shifted, basis).mean()
    # What is left of a vector by rounding is no distance from the subspace.
    if float(residual) <= 1e-12 * float(shifted.norm(dim=1).mean()):
        raise UsageError(f"method 'vim' needs features outside its principal subspace of dimension {rank}; lower rank")
    alpha = (kept @ matrix.T + shift).max(1).values.mean() / residual
    z = rows @ matrix.T + shift if logits is None else logits.detach().to(rows)
    return alpha * _outside(rows - origin, basis) - z.logsumexp(1)


def _total(stats: CollapseStatistics) -> tuple[Tensor, Tensor]:
    """Mean and covariance of all features."""
    counts = stats.counts
    mean = (counts @ stats.means) / counts.sum()
    weighted = stats.class_weights.to(counts.device)
    if bool((weighted != 1).any()):
        raise UsageError("out-of-distribution scores need statistics without class weights")
    centred = (stats.means - mean) * counts.sqrt()[:, None]
    return mean, (stats.scatter + centred.T @ centred) / counts.sum()


def _principal(covariance: Tensor, rank: int) -> Tensor:
    """Leading eigenvectors, shape (d, rank)."""
    return torch.linalg.eigh(covariance).eigenvectors[:, -rank:]


def _captured(rows: Tensor, basis: Tensor) -> Tensor:
    """Part of the length that lies in a subspace; 1 for a zero vector, which departs from nothing."""
    lengths = rows.norm(dim=1)
    return torch.where(lengths > 0, (rows @ basis).norm(dim=1) / lengths, 1.0)


def _outside(rows: Tensor, basis: Tensor) -> Tensor:
    """Length of the part outside a subspace."""
    return (rows - (rows @ basis) @ basis.T).norm(dim=1)


@dataclass(frozen=True)
class Detection:
    """Out-of-distribution detection by several scores.

    Parameters
    ----------
    scores : mapping of str to Separation
        For each method.
    inside, outside : int
        Number of samples.
    """

    scores: Mapping[str, Separation]
    inside: int
    outside: int

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each method."""
        return [{"method": name, "auroc": s.auroc, "fpr95": s.fpr95} for name, s in self.scores.items()]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {"scores": self.rows(), "inside": self.inside, "outside": self.outside}


def detect_ood(
    model: nn.Module,
    loader: Iterable[Any],
    inside: Iterable[Any],
    outside: Iterable[Any],
    *,
    methods: Sequence[str] = METHODS,
    num_classes: int | None = None,
    rank: int | None = None,
    keep: int | None = None,
    classifier: str | None = None,
    progress: bool | None = None,
) -> Detection:
    """Measure how well a classifier's features tell data from elsewhere.

    Parameters
    ----------
    model : nn.Module
        Takes a batch of inputs.
    loader : iterable
        Labelled training batches, for the statistics; as `collapse` takes them.
    inside, outside : iterable
        Batches of held-out in-distribution, and of out-of-distribution data; labels are not needed.
    methods : sequence of str
        Scores, as for `ood_scores`.
    num_classes, keep, classifier, progress
        As for `collapse`.
    rank : int, optional
        As for `ood_scores`.

    Returns
    -------
    Detection
        AUROC and FPR95 of each score.

    Raises
    ------
    InputError
        If a loader is empty or no classifier is found.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise UsageError(f"methods must be some of {', '.join(METHODS)}, got {list(methods)!r}")
    with evaluating(model):
        batches, first = peek(loader)
        call = caller(model)
        head = find_classifier(model, lambda: call(first[0]), num_classes, classifier)
        with Taps(model, (), head) as taps:
            stats: CollapseStatistics | None = None
            for inputs, labels in tracked(batches, loader, progress):
                call(inputs)
                features = taps.take().features
                if stats is None:
                    stats = CollapseStatistics(num_classes or len(head.weight), features.shape[1], keep=keep)
                stats.update(features, required(labels))
            assert stats is not None
            found = [_scored(taps, call, data, stats, methods, rank, progress) for data in (inside, outside)]
    scores = {name: separation(found[0][name], found[1][name]) for name in methods}
    return Detection(scores, *(len(next(iter(part.values()))) for part in found))


def _scored(
    taps: Taps,
    call: Callable[[Any], Any],
    loader: Iterable[Any],
    stats: CollapseStatistics,
    methods: Sequence[str],
    rank: int | None,
    progress: bool | None,
) -> dict[str, Tensor]:
    """Score all batches of a loader by every method."""
    features: list[Tensor] = []
    for inputs, _ in tracked(loader, loader, progress):
        call(inputs)
        features.append(taps.take().features)
    if not features:
        raise InputError("no samples: a loader gives no batches")
    rows, head = torch.cat(features), taps.head
    classifier: dict[str, Any] = {"weight": head.weight, "bias": head.bias, "rank": rank}
    return {name: ood_scores(stats, rows, method=name, **classifier) for name in methods}
