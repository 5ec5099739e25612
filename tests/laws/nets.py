"""Small networks written in one line, for tests that need many of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Layers, parameters and buffers by name, and a forward given as a function of them."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = forward

    def forward(self, *args: Any) -> Any:
        return self.run(self, *args)


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def par(*shape: int) -> nn.Parameter:
    """A parameter in general position."""
    return nn.Parameter(torch.randn(*shape))


def lin(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear layer."""
    return nn.Linear(inputs, outputs, bias=bias)


def between(op: Callable[[Tensor], Tensor] | nn.Module, a: int = 6, b: int = 6) -> nn.Module:
    """An operator on ``a`` hidden features, read out from ``b``."""
    middle = op if isinstance(op, nn.Module) else Lambda(op)
    return nn.Sequential(lin(4, a), middle, lin(b, 3))


def framed(op: Callable[[Tensor], Tensor] | nn.Module, rank: int = 2, a: int = 6, b: int = 6) -> nn.Module:
    """An operator on ``a`` feature maps, read out by a convolution from ``b`` maps."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    middle = op if isinstance(op, nn.Module) else Lambda(op)
    return nn.Sequential(conv(2, a, 1), middle, conv(b, 3, 1))


def image(rank: int = 2, size: int = 6, batch: int = 2, channels: int = 2) -> Tensor:
    """A random image of any rank."""
    return torch.randn(batch, channels, *[size] * rank, generator=torch.Generator().manual_seed(5))


def features(*shape: int) -> Tensor:
    """A random input."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(6))
