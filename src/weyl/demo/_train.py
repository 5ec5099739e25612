"""Plain training: AdamW, one learning-rate cycle, nothing that a reader would have to look up."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from weyl.data import Split
from weyl.demo._subjects import Subject

__all__ = ["fitted", "trained"]

BATCH = 64


def fitted(subject: Subject, split: Split, *, seed: int, progress: Callable[[float], None]) -> nn.Module:
    """A network of the demo, trained; its initial weights and the order of the batches come from the seed."""
    module, x = subject.build(seed=seed).module, subject.shaped(split.train_x)
    epochs, rate = subject.epochs, subject.rate
    return trained(module, x, split.train_y, epochs=epochs, rate=rate, seed=seed, progress=progress)


def trained(
    module: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Int64[Tensor, "n"],  # noqa: F821 (jaxtyping reads a dimension, not a name)
    *,
    epochs: int,
    rate: float,
    seed: int,
    progress: Callable[[float], None] = lambda done: None,
) -> nn.Module:
    """Train a copy of a classifier with cross-entropy and return it in evaluation mode.

    Parameters
    ----------
    module : nn.Module
        Gives logits; not changed.
    x, y : Tensor
        Inputs and classes.
    epochs : int
        Passes over the data.
    rate : float
        Highest learning rate of the cycle.
    seed : int
        Order of the batches; the global random state is neither read nor changed.
    progress : callable
        Called after each batch with the fraction that is done.

    Returns
    -------
    nn.Module
        The trained copy.
    """
    network = copy.deepcopy(module).train()
    steps = epochs * (len(x) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    step = 0
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        # A last batch that is not whole is left out: BatchNorm would see too few images.
        for batch in torch.split(order[: len(x) // BATCH * BATCH], BATCH):
            loss = nn.functional.cross_entropy(network(x[batch]), y[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            step += 1
            progress(step / steps)
    return network.eval()
