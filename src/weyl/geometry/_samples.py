"""What needs the samples again once the class means are known: nearest class mean, and the bootstrap."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from weyl.errors import UsageError
from weyl.geometry._checks import whole
from weyl.geometry._kept import Rows
from weyl.geometry._moments import class_sums

__all__ = ["intervals", "nearest", "nearest_means"]

CHUNK = 1024
LEVEL = 0.95
LEAST = 20
FEW = 5  # kept rows of a class, below which its resamples say nothing
OF_KEPT = frozenset({"nc4", "ncm_accuracy"})  # measured on the kept rows alone
# Largest values of the metrics that have one; none is below zero.
MOST = {"nc2": 2.0, "nc3": 2.0, "duality": 2.0, "nc4": 1.0, "sk_defect": 1.0, "accuracy": 1.0, "ncm_accuracy": 1.0}


def nearest_means(features: Tensor, means: Tensor) -> Tensor:
    r"""Index of the nearest mean of every row: the largest :math:`h \cdot \mu_c - \|\mu_c\|^2/2`.

    Parameters
    ----------
    features : tensor, shape (n, d)
        Any floating dtype.
    means : float64 tensor, shape (k, d)
        Class means.

    Returns
    -------
    int64 tensor, shape (n,)
        The lowest index if two means are equally near.
    """
    # Around the common mean, since large numbers would hide small distances.
    centre = means.mean(0)
    points = means - centre
    half = points.square().sum(1) / 2
    found = [torch.addmm(-half, part.double() - centre, points.T).argmax(1) for part in torch.split(features, CHUNK)]
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64, device=features.device)


def nearest(
    rows: Rows, means: Tensor, here: Tensor, weight: Tensor | None, bias: Tensor | None
) -> dict[str, float | None]:
    """NC4 and nearest-mean accuracy on the kept rows; None if none were kept."""
    if not len(rows.labels):
        return {"nc4": None, "ncm_accuracy": None}
    near = here[nearest_means(rows.features, means)]
    said = _decisions(rows, weight, bias)
    times = rows.times.double() / rows.times.sum()
    return {
        "nc4": None if said is None else float(times[said != near].sum()),
        "ncm_accuracy": float(times[near == rows.labels].sum()),
    }


def _decisions(rows: Rows, weight: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """Classes that the classifier gives the kept rows: of its matrix, else what its logits said."""
    if weight is not None and bias is not None:
        parts = torch.split(rows.features, CHUNK)
        return torch.cat([torch.addmm(bias, part.double(), weight.T).argmax(1) for part in parts])
    return rows.predictions if bool((rows.predictions >= 0).all()) else None


def intervals(
    rows: Rows,
    here: Tensor,
    found: Mapping[str, Any],
    weight: Tensor | None,
    bias: Tensor | None,
    pi: Tensor,
    class_weights: Tensor,
    samples: Tensor,
    resamples: int,
    seed: int,
) -> dict[str, tuple[float, float]]:
    r"""Bootstrap 95 % intervals, resampling within each class.

    An interval is the value plus the quantiles of the resampled values less their mean, so that the upward bias of a
    resample's noisy means does not shift it; times :math:`\sqrt{m/n}` if only m of n samples were kept and the value is
    of all. Empty if a class has too few kept rows.
    """
    resamples = whole("bootstrap", resamples, 0)
    if 0 < resamples < LEAST:
        raise UsageError(f"bootstrap needs at least {LEAST} resamples for a 95 % interval, got {resamples}")
    if not resamples or not len(rows.labels):
        return {}
    rows = rows.pick(torch.argsort(rows.labels, stable=True))
    rows = rows._replace(features=rows.features.double(), labels=torch.searchsorted(here, rows.labels))
    counts = class_sums(rows.times.double(), rows.labels, len(here))
    if bool(((counts < samples) & (counts < FEW)).any()):
        return {}
    said = _decisions(rows, weight, bias)
    # A place for every sample; rows that were seen several times have several.
    places = torch.repeat_interleave(torch.arange(len(rows.times), device=rows.times.device), rows.times)
    owner = rows.labels[places]
    starts = counts.cumsum(0) - counts
    generator = torch.Generator().manual_seed(seed)
    draws: dict[str, list[float]] = {}
    for _ in range(resamples):
        uniform = torch.rand(len(places), generator=generator, dtype=torch.float64).to(places.device)
        drawn = places[(starts[owner] + (uniform * counts[owner]).floor()).long()]
        times = torch.bincount(drawn, minlength=len(rows.labels)).double()
        once = _resampled(rows.features, rows.labels, here, counts, times, pi, class_weights, weight, said)
        for name, value in once.items():
            draws.setdefault(name, []).append(math.nan if value is None else value)
    # A value from all samples varies less than one from those that were kept.
    scale = math.sqrt(len(places) / float(samples.sum()))
    return {
        name: _interval(found[name], values, 1.0 if name in OF_KEPT else scale, MOST.get(name, math.inf))
        for name, values in draws.items()
        if found.get(name) is not None and all(map(math.isfinite, (found[name], *values)))
    }


def _resampled(
    features: Tensor,
    labels: Tensor,
    here: Tensor,
    counts: Tensor,
    times: Tensor,
    pi: Tensor,
    class_weights: Tensor,
    weight: Tensor | None,
    said: Tensor | None,
) -> dict[str, float | None]:
    """Compute the metrics with every row taken a number of times."""
    from weyl.geometry._compute import between, dual

    k = len(here)
    means = class_sums(features * times[:, None], labels, k) / counts[:, None]
    residuals = features - means[labels]
    squares = class_sums(residuals.square().sum(1) * times, labels, k)
    centred = means - means.mean(0)
    gram = centred @ centred.T
    near = nearest_means(features, means)
    total = float(counts.sum())
    values: dict[str, float | None] = {"ncm_accuracy": float((times * (near == labels)).sum()) / total}
    if said is not None:
        values["nc4"] = float((times * (said != here[near])).sum()) / total
        values["accuracy"] = float((times * (said == here[labels])).sum()) / total
    if k > 1:
        scaled = (centred - pi @ centred) * pi.sqrt()[:, None]
        seen = residuals @ scaled.T
        mass = float((class_weights * counts).sum())
        projected = seen.T @ (seen * (times * class_weights[labels])[:, None]) / mass
        within = float((class_weights * squares).sum()) / mass
        values |= between(scaled, projected, within, squares / counts, gram)
        if weight is not None:
            values |= dual(weight[here], centred)
    return values


def _interval(value: float, draws: list[float], scale: float, most: float) -> tuple[float, float]:
    values = torch.tensor(draws, dtype=torch.float64)
    tail = (1 - LEVEL) / 2
    low, high = torch.quantile(values, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    mean = float(values.mean())
    return max(0.0, value + (low - mean) * scale), min(most, value + (high - mean) * scale)
