"""Streamed moments of activations, and the hooks that show them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

__all__ = ["Hook", "Moments", "Vector", "entering", "leaving"]

Vector = Float64[Tensor, "n"]
Hook = Callable[[Tensor], Tensor | None]


class Moments:
    """Counts, means and sums of squared distances to the mean, unit by unit, in float64.

    Parameters
    ----------
    values : tensor, shape (units, m), optional
        The first ones.

    References
    ----------
    Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """

    def __init__(self, values: Tensor | None = None) -> None:
        self.count = 0
        self.mean: Vector = torch.zeros((), dtype=torch.float64)
        self.squares: Vector = torch.zeros((), dtype=torch.float64)
        if values is not None and values.shape[1]:
            wide = values.double()
            self.count = wide.shape[1]
            self.mean = wide.mean(1)
            self.squares = (wide - self.mean[:, None]).square().sum(1)

    def add(self, other: Moments) -> None:
        """Add those of other values."""
        total = self.count + other.count
        if not self.count or not other.count:
            if other.count:
                self.count, self.mean, self.squares = other.count, other.mean, other.squares
            return
        step = other.mean - self.mean
        self.squares = self.squares + other.squares + step.square() * (self.count * other.count / total)
        self.mean = self.mean + step * (other.count / total)
        self.count = total

    def deviation(self) -> Vector:
        """Standard deviation."""
        return (self.squares / max(1, self.count)).sqrt()

    def variance(self) -> Vector:
        """Variance, unbiased."""
        return self.squares / max(1, self.count - 1)

    def is_finite(self) -> bool:
        """Whether nothing is NaN or infinite."""
        return bool((self.mean + self.squares).isfinite().all())


@contextmanager
def entering(module: nn.Module, see: Hook) -> Iterator[None]:
    """Show what enters a module."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)))

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def leaving(module: nn.Module, see: Hook) -> Iterator[None]:
    """Show what leaves a module, and send on what is made of it."""
    handle = module.register_forward_hook(lambda module, args, output: see(output))
    try:
        yield
    finally:
        handle.remove()
