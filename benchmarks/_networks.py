"""The networks that matching is timed on, with random values; torch alone, so that other environments can read it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["NETWORKS", "drawn"]

VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0: pooling


def mlp() -> tuple[nn.Module, Tensor]:
    """784-512-512-512-10."""
    layers: list[nn.Module] = []
    for before, after in pairwise((784, 512, 512, 512)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, 10)), torch.randn(16, 784)


def vgg16() -> tuple[nn.Module, Tensor]:
    """VGG-16 with BatchNorm for images of 32×32: 13 convolutions, two hidden layers of 512."""
    layers: list[nn.Module] = []
    inputs = 3
    for width in VGG16:
        if width:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            inputs = width
        else:
            layers.append(nn.MaxPool2d(2))
    hidden = [nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), *hidden, nn.Linear(512, 10)), torch.randn(16, 3, 32, 32)


class Block(nn.Module):
    """Two convolutions with BatchNorm, and a shortcut that is projected where the width changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Residual plus shortcut."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def resnet20() -> tuple[nn.Module, Tensor]:
    """ResNet-20 for images of 32×32, four times as wide as the original: 64, 128 and 256 channels."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    for inputs, outputs in pairwise((64, 64, 128, 256)):
        layers.append(Block(inputs, outputs, 1 if inputs == outputs else 2))
        layers += [Block(outputs, outputs, 1), Block(outputs, outputs, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)), torch.randn(16, 3, 32, 32)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "MLP 784-512-512-512-10": mlp,
    "VGG-16-BN": vgg16,
    "ResNet-20x4-BN": resnet20,
}


def drawn(name: str, seed: int) -> tuple[nn.Module, Tensor]:
    """A network in evaluation mode and inputs, all from the seed; normalisations are not left at their start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net, x = NETWORKS[name]()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0.0, 0.3)
                nn.init.normal_(module.running_mean, 0.0, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval(), x
