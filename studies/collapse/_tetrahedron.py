"""Follow the class means of four classes into the space of a tetrahedron."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from torch import Tensor, nn

import weyl
from studies.collapse import _design as design
from studies.collapse._design import Arm, Size
from studies.collapse._train import Problem, images, measure, metrics, network, rounded, steps_per_epoch, train


def follow_means(size: Size, seed: int = 0) -> dict[str, Any]:
    r"""Train the base on four classes and record where features and class means go.

    Batch normalisation takes the statistics of all training images at that moment. At every moment features are
    centred at the average of the four class means and divided by the root of their mean squared length, so that
    without any spread within classes the means are at distance 1 on average. Then they are projected on the span of
    the final class means, turned so that these are nearest to a regular tetrahedron (orthogonal Procrustes): one map
    for all moments.

    Returns
    -------
    dict
        Ready for JSON: ``steps``, ``means`` (moments, 4, 3), ``lengths`` by which features were divided, ``outside``,
        the part of the mean squared length that the projection does not show, ``panels`` with ``points`` (4, n, 3),
        and the metrics at the end.
    """
    start = time.perf_counter()
    data = _four(size, seed)
    arm = Arm("picture", "four classes")
    k = len(design.PICTURE_CLASSES)
    body, head = network(arm, k, seed)
    total = size.epochs * steps_per_epoch(data)
    moments = _moments(total)
    seen: list[tuple[int, Tensor]] = []
    for step in train(nn.Sequential(body, head), data, arm, size.epochs, seed):
        if step in moments:
            seen.append((step, _features(body, data.x)))
    final = _means(seen[-1][1], data.y, k)
    basis = _frame(final)
    shown = [_nearest(moments, part * total) for part in design.PICTURE_PANELS]
    shot = torch.cat([(data.y == c).nonzero()[: design.PICTURE_POINTS, 0] for c in range(k)])
    found: dict[str, Any] = {"steps": [], "means": [], "lengths": [], "outside": [], "panels": []}
    for step, features in seen:
        means = _means(features, data.y, k)
        centred = features - means.mean(0)
        length = centred.square().sum(1).mean().sqrt()
        inside = centred / length @ basis
        found["steps"].append(step)
        found["means"].append(_plain((means - means.mean(0)) / length @ basis))
        found["lengths"].extend(rounded([float(length)]))
        found["outside"].extend(rounded([max(0.0, 1 - float(inside.square().sum(1).mean()))]))
        if step in shown:
            points = inside[shot].view(k, -1, 3)
            found["panels"].append({"step": step, "epoch": step / steps_per_epoch(data), "points": _plain(points)})
    end = measure(body, head, data.x, data.y, k)
    held_out = measure(body, head, data.test_x, data.test_y, k)
    return {
        "classes": list(design.PICTURE_CLASSES),
        "seed": seed,
        "train_images": len(data.y),
        **found,
        "final": {"train": metrics(end, design.FINAL), "test": metrics(held_out, design.FINAL)},
        "seconds": round(time.perf_counter() - start, 2),
    }


def _four(size: Size, seed: int) -> Problem:
    split = images(size.train, size.held_out, seed)
    k = len(design.PICTURE_CLASSES)
    parts = []
    for x, y in ((split.train_x, split.train_y), (split.test_x, split.test_y)):
        place = torch.full((design.CLASSES,), -1)
        place[list(design.PICTURE_CLASSES)] = torch.arange(k)
        kept = place[y] >= 0
        parts += [x[kept], place[y[kept]]]
    return Problem(*parts, rare=[], weights=torch.ones(k))


def _moments(total: int) -> list[int]:
    """Steps from the first to the last, evenly spaced on a logarithmic scale as far as they are whole numbers."""
    exponents = torch.linspace(0, 1, design.PICTURE_SNAPSHOTS, dtype=torch.float64)
    return sorted({0, total, *(round(total**e) for e in exponents.tolist())})


def _nearest(moments: list[int], wanted: float) -> int:
    return min(moments, key=lambda step: abs(step - wanted))


@torch.no_grad()
def _features(body: nn.Module, x: Tensor) -> Tensor:
    """Features of all images at once, normalised by their own statistics: running ones lag behind at first."""
    return copy.deepcopy(body).train()(x).double()


def _means(features: Tensor, labels: Tensor, k: int) -> Tensor:
    return torch.stack([features[labels == c].mean(0) for c in range(k)])


def _frame(means: Tensor) -> Tensor:
    """Orthonormal basis (d, 3) of the span of the centred means, turned to the tetrahedron of `weyl.simplex`."""
    centred = means - means.mean(0)
    k = len(means)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[: k - 1].T
    left, _, right = torch.linalg.svd((centred @ axes).T @ weyl.simplex(k, k - 1))
    return axes @ (left @ right)


def _plain(tensor: Tensor) -> list[Any]:
    """Nested lists of numbers with four decimals."""
    return tensor.mul(1e4).round().div(1e4).tolist()
