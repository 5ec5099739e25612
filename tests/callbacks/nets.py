"""Small models and data that the tests of the callbacks share."""

from __future__ import annotations

import torch
from torch import nn

from weyl.callbacks import scalars
from weyl.geometry import CollapseStatistics

K, INPUTS, DIM = 3, 4, 6


# In double precision: in single, a network's outputs vary in the last digits with the size of the batch.
def net(seed=0, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(INPUTS, DIM), nn.Tanh(), nn.Linear(DIM, K)).to(dtype)


def data(n=45, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(K, (n,), generator=generator)
    centres = 2 * torch.randn(K, INPUTS, generator=generator)
    return (centres[labels] + torch.randn(n, INPUTS, generator=generator)).to(dtype), labels


def batches(n=45, size=10, seed=1, dtype=torch.float64):
    inputs, labels = data(n, seed, dtype)
    return list(zip(inputs.split(size), labels.split(size), strict=True))


@torch.no_grad()
def measured(model, inputs, labels):
    """What a second pass measures, without any hook."""
    features = model[1](model[0](inputs))
    statistics = CollapseStatistics(K, DIM).update(features, labels, model[2](features))
    return statistics.compute(model[2].weight, model[2].bias)


def assert_same(first, second, rel=1e-9):
    """Two measurements, or dicts of scalars, agree in every number."""
    first, second = (x if isinstance(x, dict) else scalars(x) for x in (first, second))
    assert set(first) == set(second) and len(first) >= 10
    for name, value in first.items():
        torch.testing.assert_close(
            float(value), float(second[name]), rtol=rel, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )


def hooks(model):
    """Number of hooks anywhere in a model."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
