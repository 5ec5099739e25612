"""Other ways to say how near two networks are, each as a number that is larger for nearer ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

import weyl

State = Mapping[str, Tensor]


def scores(structure: weyl.Structure, a: State, b: State, sketches: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Every score that is not a test."""
    matrices = [(a[n].double().flatten(1), b[n].double().flatten(1)) for n in structure.axes if a[n].dim() > 1]
    rows = [cka(x, y) for x, y in matrices]
    best = [max(one, cka(x.T, y.T)) for one, (x, y) in zip(rows, matrices, strict=True)]
    return {
        "sketch": -float((sketches[0] - sketches[1]).norm()),
        "cosine": cosine(structure, a, b),
        "cka": float(np.mean(rows)),
        "cka_best": float(np.mean(best)),
        "hash": float(digest(structure, a) == digest(structure, b)),
    }


def cosine(structure: weyl.Structure, a: State, b: State) -> float:
    """Cosine between all weights, as one vector."""
    names = [name for name in structure.axes if a[name].is_floating_point()]
    x, y = (torch.cat([state[name].double().flatten() for name in names]) for state in (a, b))
    return float(x @ y / (x.norm() * y.norm()))


def cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA of two matrices whose rows are the samples (Kornblith et al., ICML 2019); 0 if one is constant."""
    x, y = x - x.mean(0), y - y.mean(0)
    if len(x) <= x.shape[1]:
        x, y = x @ x.T, y @ y.T  # the same number from the smaller of two products
        top, sizes = (x * y).sum(), x.norm() * y.norm()
    else:
        top, sizes = (x.T @ y).square().sum(), (x.T @ x).norm() * (y.T @ y).norm()
    return float(top / sizes) if sizes > 0 else 0.0


def digest(structure: weyl.Structure, state: State) -> str:
    """SHA-256 of the bytes of all tensors."""
    found = hashlib.sha256()
    for name in sorted(structure.axes):
        found.update(state[name].contiguous().numpy().tobytes())
    return found.hexdigest()


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Chance that one of the first is above one of the second, ties counted half."""
    ranks = rankdata([*positive, *negative])
    n, m = len(positive), len(negative)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def curve(positive: Sequence[float], negative: Sequence[float]) -> tuple[list[float], list[float]]:
    """False and true positive rates at every threshold, from none to all."""
    thresholds = sorted({*positive, *negative}, reverse=True)
    wrong = [0.0, *(float(np.mean([x >= t for x in negative])) for t in thresholds)]
    right = [0.0, *(float(np.mean([x >= t for x in positive])) for t in thresholds)]
    return wrong, right
