"""From statistics to a collapse: every metric, from small matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weyl.errors import InputError, UsageError
from weyl.geometry._checks import class_weighting, tensor
from weyl.geometry._collapse import Collapse
from weyl.geometry._metrics import METRICS, references
from weyl.geometry._samples import intervals, nearest
from weyl.geometry._simplex import simplex_optimum
from weyl.geometry._statistics import CollapseStatistics
from weyl.geometry._symmetry import class_shares, nearest_invariant, pair_defects, simplex_distance, split_defect

__all__ = ["between", "compute", "dual"]

FEW_SAMPLES = 10
MERGED = 0.01  # distance of two class means, in typical distances, below which they count as one


def compute(
    stats: CollapseStatistics,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    ood: CollapseStatistics | Tensor | None,
    prior: str | Sequence[float] | Tensor,
    bootstrap: int,
    seed: int,
    names: Sequence[str] | None,
) -> Collapse:
    """Carry out `CollapseStatistics.compute`, which says what the arguments are."""
    if not stats.count:
        raise InputError("no samples: the statistics are empty, so there is nothing to compute")
    weight, bias = _classifier(stats, weight, bias)
    broken = any(part is not None and not bool(part.isfinite().all()) for part in (weight, bias))
    if broken:
        weight = bias = None
    here = (stats.counts > 0).nonzero()[:, 0]
    labels = _named(stats.num_classes, names)
    present = set(here.tolist())
    pi = _prior(prior, stats.counts, here)
    counts, means = stats.counts[here], stats.means[here]
    total = stats.class_weights.to(counts.device)[here]
    centred = means - means.mean(0)
    gram = centred @ centred.T
    rows = stats.kept.rows()
    found: dict[str, Any] = dict.fromkeys(METRICS)
    if len(here) > 1:
        found |= _between(stats, here, pi, centred, gram)
        if weight is not None:
            found |= dual(weight[here], centred)
        if ood is not None:
            found["nc5"] = _shift(means, ood)
    found |= _of_logits(stats) if stats.has_logits else {}
    found |= nearest(rows, means, here, weight, bias)
    resampled = intervals(rows, here, found, weight, bias, pi, total, counts, bootstrap, seed)
    norm = gram.norm().clamp_min(torch.finfo(gram.dtype).tiny)
    residual = gram - nearest_invariant(gram) if len(here) > 1 else torch.zeros_like(gram)
    # What rounding makes of an exact simplex would otherwise have a worst class.
    noise = 8 * len(here) * torch.finfo(gram.dtype).eps * norm
    residual = torch.where(residual.abs() > noise, residual, 0.0)
    return Collapse(
        **found,
        feature_radius=float(stats.peaks[0]),
        feature_norm=float(stats.norms.sum()) / stats.count,
        gram=gram.cpu().numpy(),
        residual=(residual / norm).cpu().numpy(),
        pair_defect=(pair_defects(residual) / norm).cpu().numpy(),
        shares=class_shares(residual).cpu().numpy(),
        means=means.cpu().numpy(),
        classes=tuple(labels[c] for c in here.tolist()),
        absent=tuple(name for c, name in enumerate(labels) if c not in present),
        counts=tuple(int(n) for n in counts.tolist()),
        dim=stats.dim,
        samples=stats.count,
        kept=int(rows.times.sum()),
        left_out=stats.left_out,
        prior=tuple(pi.tolist()),
        class_weights=tuple(total.tolist()),
        notes=_notes(stats, here, labels, gram, broken, bootstrap > 0 and not resampled),
        reference=references(
            counts, stats.dim, stats.num_classes, pi, total, found, least_risk(stats.num_classes, float(stats.peaks[1]))
        ),
        intervals=resampled,
    )


def _between(
    stats: CollapseStatistics, here: Tensor, pi: Tensor, centred: Tensor, gram: Tensor
) -> dict[str, float | None]:
    """Metrics of the class means and of the spread around them."""
    counts = stats.counts[here]
    weights = stats.class_weights.to(counts.device)[here]
    mass = (weights * counts).sum()
    traces = stats.features.traces[here]
    # Σ_B of a prior is N'N with the rows of N weighted by it.
    scaled = (centred - pi @ centred) * pi.sqrt()[:, None]
    projected = scaled @ (stats.scatter / mass) @ scaled.T
    return between(scaled, projected, float((weights * traces).sum() / mass), traces / counts, gram)


def dual(weight: Tensor, centred: Tensor) -> dict[str, float | None]:
    """NC3 in both forms, from the rows of the classifier and the centred means."""
    norms = float(weight.norm()), float(centred.norm())
    apart = float((weight / norms[0] - centred / norms[1]).norm()) if min(norms) > 0 else None
    return {"nc3": simplex_distance(weight @ centred.T), "duality": apart}


def between(
    scaled: Tensor, projected: Tensor, within: float, variances: Tensor, gram: Tensor
) -> dict[str, float | None]:
    r"""Compute the metrics of class means and spread from small matrices.

    Parameters
    ----------
    scaled : tensor, shape (k, d)
        N, with :math:`\Sigma_B = N^\top N`.
    projected : tensor, shape (k, k)
        :math:`N \Sigma_W N^\top`.
    within : float
        tr Σ_W.
    variances : tensor, shape (k,)
        Variance of each class, summed over coordinates.
    gram : tensor, shape (k, k)
        Of the centred means.
    """
    k = len(gram)
    inner = scaled @ scaled.T
    spread = float(inner.trace())
    # tr(Σ_W Σ_B⁺) = tr((NN')⁺² N Σ_W N')
    inverse = torch.linalg.pinv(inner, hermitian=True, rtol=k * torch.finfo(inner.dtype).eps)
    nc1 = float((inverse @ inverse * projected).sum()) / k
    i, j = torch.triu_indices(k, k, 1, device=gram.device)
    squared = (gram.diagonal()[i] + gram.diagonal()[j] - 2 * gram[i, j]).clamp_min(0)
    cdnv = _ratio((variances[i] + variances[j]) / 2, squared).mean()
    lengths, cosines = split_defect(gram)
    symmetric = simplex_distance(gram)
    cosine = 1 - symmetric**2 / 2
    shape = float(gram.norm()) > 0
    return {
        "nc1": nc1 if spread > 0 else (0.0 if within == 0 else math.inf),
        "nc1_ratio": within / spread if spread > 0 else (0.0 if within == 0 else math.inf),
        "cdnv": float(cdnv),
        "nc2": symmetric if shape else None,
        "equinorm": lengths if shape else None,
        "equiangular": cosines if shape else None,
        # From the chord, whose small values are exact where 1 - cos² would round to zero.
        "sk_defect": symmetric * math.sqrt(max(0.0, (1 + cosine) / 2)) if shape else None,
    }


def _of_logits(stats: CollapseStatistics) -> dict[str, float]:
    """Risk, gap, spread and accuracy."""
    weights = stats.class_weights.to(stats.device)
    risk = float((weights * stats.risks).sum() / (weights * stats.counts).sum())
    radius = float(stats.peaks[1])
    k = stats.num_classes
    least = least_risk(k, radius)
    moments = stats.logits
    within = float(moments.traces.sum())
    total = within + float((moments.counts * moments.means.square().sum(1)).sum())
    return {
        "radius": radius,
        "risk": risk,
        "ew_gap": max(0.0, risk - least),
        "logit_spread": math.sqrt(within / total) if total > 0 else 0.0,
        "accuracy": float(stats.correct.sum()) / stats.count,
    }


def least_risk(k: int, radius: float) -> float:
    """Least cross-entropy of centred logits in a ball."""
    return simplex_optimum(k, radius).risk if k > 1 and radius > 0 else math.log(k)


def _shift(means: Tensor, ood: CollapseStatistics | Tensor) -> float:
    """NC5."""
    if not isinstance(ood, CollapseStatistics):
        mean = tensor("ood", ood)
        if not bool(mean.isfinite().all()):
            raise InputError("ood has NaN or infinity; leave such samples out of the mean")
    else:
        if not ood.count:
            raise InputError("no samples: the out-of-distribution statistics are empty")
        mean = (ood.counts @ ood.means) / ood.counts.sum()
    if mean.shape != means.shape[1:]:
        raise UsageError(f"ood must have features of length {means.shape[1]}, got shape {tuple(mean.shape)}")
    mean = mean.to(means.device, means.dtype)
    return float(torch.cosine_similarity(means, mean[None], dim=1).abs().mean())


def _classifier(
    stats: CollapseStatistics, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    k, d = stats.num_classes, stats.dim
    if weight is None:
        if bias is not None:
            raise UsageError("bias was given without weight; give both, or weight alone")
        return None, None
    weight = tensor("weight", weight)
    bias = None if bias is None else tensor("bias", bias)
    if weight.shape != (k, d):
        raise UsageError(f"weight must have shape ({k}, {d}), got {tuple(weight.shape)}")
    if bias is not None and bias.shape != (k,):
        raise UsageError(f"bias must have shape ({k},), got {tuple(bias.shape)}")
    move = {"device": stats.device, "dtype": torch.float64}
    bias = torch.zeros(k, **move) if bias is None else bias.detach().to(**move)  # type: ignore[call-overload]
    return weight.detach().to(**move), bias  # type: ignore[call-overload]


def _notes(
    stats: CollapseStatistics, here: Tensor, names: Sequence[str], gram: Tensor, broken: bool, bare: bool
) -> tuple[str, ...]:
    present = set(here.tolist())
    absent = [name for c, name in enumerate(names) if c not in present]
    notes = []
    if absent:
        more = f" and {len(absent) - 10} more" if len(absent) > 10 else ""
        notes.append(f"no samples of {', '.join(absent[:10])}{more}; measured without")
    if stats.left_out:
        total = stats.count + stats.left_out
        notes.append(f"{stats.left_out:,} of {total:,} samples have NaN or infinity and were left out")
    if len(here) > 2:
        i, j = torch.triu_indices(len(here), len(here), 1, device=gram.device)
        squared = gram.diagonal()[i] + gram.diagonal()[j] - 2 * gram[i, j]
        least = int(squared.argmin())
        if float(squared.max()) == 0:
            notes.append("the means of all classes coincide: they have no shape, and NC2 was not measured")
        elif float(squared[least]) < MERGED**2 * float(squared.mean()):
            pair = [names[int(here[index[least]])] for index in (i, j)]
            notes.append(f"the means of {pair[0]} and {pair[1]} nearly coincide, which alone makes NC1 and CDNV large")
    if broken:
        notes.append("the classifier has NaN or infinity: NC3 and NC4 were not measured")
    fewest = int(stats.counts[here].min())
    if fewest < FEW_SAMPLES:
        many = "1 sample" if fewest == 1 else f"{fewest} samples"
        notes.append(f"the smallest class has {many}: the spread within classes is smaller than in truth")
    if bare:
        notes.append("no intervals: too few rows of a class were kept; raise keep")
    kept = int(stats.kept.rows().times.sum())
    if kept < stats.count:
        notes.append(f"NC4 and nearest-mean accuracy are over {kept:,} of {stats.count:,} samples, drawn uniformly")
    return tuple(notes)


def _prior(prior: str | Sequence[float] | Tensor, counts: Tensor, here: Tensor) -> Tensor:
    """Weights of the classes that are present, of sum 1."""
    if isinstance(prior, str):
        if prior not in ("uniform", "data"):
            raise UsageError(f"prior must be 'uniform', 'data' or a weight for each class, got {prior!r}")
        values = counts if prior == "data" else torch.ones_like(counts)
    else:
        values = class_weighting("prior", prior, len(counts)).to(counts.device)
    return values[here] / values[here].sum()


def _named(k: int, names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return tuple(str(c) for c in range(k))
    if len(names) != k:
        raise UsageError(f"names must be {k}, one a class, got {len(names)}")
    return tuple(str(name) for name in names)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Divide, with 0 / 0 = 0: two points in one place do not vary."""
    return torch.where(a == 0, 0.0, a / b)
