"""What is varied, and every constant."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from weyl.models import mlp, resnet

BATCH = 256
LEARNING_RATE = 1e-3  # of Adam, falling to zero along a cosine
POINTS = 11  # of a barrier, both ends among them
JUDGED = 500  # images at a time, when nothing is trained
TESTED = 5_000  # test images, at most
REFINING = 20_000  # training images to refine with, at most

KINDS = {"mlp": "ReLU perceptron, three hidden layers", "cnn": "residual network with BatchNorm, three blocks"}
SETS = {"fashion": "Fashion-MNIST, 60,000 images", "mnist": "MNIST, 4,000 images", "digits": "8×8 digits, 1,437 images"}
# How the second network of a pair is put next to the first.
ARMS = {
    "naive": "as trained",
    "weights": "weights matched",
    "activations": "activations matched",
    "refined": "weights matched, then refined",
}
REPAIRS = {"mlp": "repair", "cnn": "bn"}  # statistics of the units of an MLP, those of BatchNorm of a CNN


@dataclass(frozen=True)
class Arch:
    """Networks of one architecture and width, trained on one data set from several seeds.

    Parameters
    ----------
    data : str
        One of `SETS`.
    kind : str
        One of `KINDS`.
    width : int
        Units of every hidden layer; channels of the first stage, of which later ones have two and four times as many.
    epochs : int
        Of the training.
    seeds : int
        Networks; two make a pair, and no network is in two.
    """

    data: str
    kind: str
    width: int
    epochs: int
    seeds: int

    @property
    def name(self) -> str:
        """Name for files and messages."""
        return f"{self.data}-{self.kind}-{self.width}"

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Seeds of both networks of every pair."""
        return [(first, first + 1) for first in range(0, self.seeds - 1, 2)]


@dataclass(frozen=True)
class Size:
    """How much of it is run.

    Parameters
    ----------
    archs : tuple of Arch
        In the order in which they are trained.
    merged : str
        Name of the architecture of which several networks are merged into one.
    together : int
        How many of them.
    calibration : int
        Training images that activations are matched on and statistics repaired with.
    """

    archs: tuple[Arch, ...]
    merged: str
    together: int
    calibration: int

    def arch(self, name: str) -> Arch:
        """Return the architecture of a name."""
        return next(arch for arch in self.archs if arch.name == name)


FASHION = {128: (25, 4), 32: (25, 4), 1024: (10, 4)}  # width: epochs, seeds
MNIST = {32: (60, 4), 128: (60, 4), 512: (60, 4), 1024: (60, 4)}
FULL = Size(
    archs=(
        Arch("fashion", "mlp", 512, epochs=25, seeds=6),
        Arch("fashion", "cnn", 16, epochs=8, seeds=4),
        Arch("fashion", "cnn", 8, epochs=8, seeds=4),
        *(Arch("fashion", "mlp", width, *much) for width, much in FASHION.items()),
        Arch("fashion", "cnn", 4, epochs=8, seeds=4),
        *(Arch("mnist", "mlp", width, *much) for width, much in MNIST.items()),
        *(Arch("mnist", "cnn", width, epochs=25, seeds=4) for width in (4, 8, 16)),
    ),
    merged="fashion-mlp-512",
    together=5,
    calibration=2000,
)
SMOKE = Size(
    archs=(
        Arch("digits", "mlp", 16, epochs=50, seeds=3),
        Arch("digits", "cnn", 4, epochs=5, seeds=2),
    ),
    merged="digits-mlp-16",
    together=3,
    calibration=500,
)


def network(arch: Arch, seed: int) -> nn.Module:
    """Make a network; every initial value comes from the seed."""
    side = 8 if arch.data == "digits" else 28
    w = arch.width
    if arch.kind == "mlp":
        return mlp((side * side, w, w, w, 10), seed=seed).module
    net = resnet((w, 2 * w, 4 * w), blocks=1, seed=seed).module
    net.get_submodule("conv1").stride = (2, 2)  # four times fewer positions: an affordable training on one core
    return net
