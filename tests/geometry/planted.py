"""Statistics of known shape."""

from __future__ import annotations

import torch

from weyl.geometry import Collapse, CollapseStatistics


def planted(
    k: int = 4, dim: int = 12, noise: float = 0.01, n: int = 50, seed: int = 0, skew: float = 0.0, **options: object
) -> Collapse:
    """Samples around a simplex; ``skew`` pulls the last two classes together."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.eye(k, dim) - torch.eye(k, dim).mean(0)
    means[-1] += skew * (means[-2] - means[-1])
    y = torch.arange(k * n) % k
    x = means[y] + noise * torch.randn(k * n, dim, generator=generator)
    return CollapseStatistics(k, dim).update(x, y, 20 * x @ means.T).compute(20 * means, **options)
