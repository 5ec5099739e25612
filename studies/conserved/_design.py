"""What is varied, and every constant."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

CLASSES = 10
TIME = 2.0  # learning rate × steps, the same for all runs
DECAY = 0.25  # λ of the arm with weight decay: an L2 penalty λ/2 ‖θ‖² in the loss
BATCH = 16
SNAPSHOTS = 20
BETAS = (0.9, 0.999)  # of Adam

# Arm: for people; what it should do to the quantities as the step goes to zero.
ARMS = {
    "descent": "full-batch gradient descent",
    "sgd": f"SGD, batches of {BATCH}",
    "decay": f"gradient descent, weight decay {DECAY:g}",
    "adam": "full-batch Adam",
}
NETWORKS = {"relu": "ReLU perceptron 64–32–16–10", "bottleneck": "linear bottleneck 64–6–16–10"}


@dataclass(frozen=True)
class Size:
    """How much of it is run.

    Parameters
    ----------
    images : int
        To train on.
    rates : tuple of float
        Learning rates, largest first; each divides the time.
    seeds : tuple of int
        Each is another split, another start and another order of the batches.
    """

    images: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]


FULL = Size(images=512, rates=(0.1, 0.05, 0.025, 0.0125, 0.00625), seeds=(0, 1, 2))
SMOKE = Size(images=64, rates=(0.1, 0.05, 0.025), seeds=(0,))


def network(name: str) -> nn.Sequential:
    """One of `NETWORKS`; its values are yet to be drawn, so that the global random state is left alone."""
    if name == "relu":
        layers = [_linear(64, 32), nn.ReLU(), _linear(32, 16), nn.ReLU(), _linear(16, CLASSES)]
    else:
        layers = [_linear(64, 6), _linear(6, 16), nn.ReLU(), _linear(16, CLASSES)]
    return nn.Sequential(*layers)


def _linear(inputs: int, outputs: int) -> nn.Module:
    return nn.utils.skip_init(nn.Linear, inputs, outputs)
