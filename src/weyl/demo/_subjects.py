"""Which networks the demo trains, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from weyl.data import Split, digits, mnist
from weyl.models import LoadedModel, mlp, resnet

__all__ = ["Subject", "images", "subjects"]


@dataclass(frozen=True)
class Subject:
    """One network of the demo.

    Parameters
    ----------
    title, description : str
        For people.
    build : callable
        Makes the network from ``seed=``.
    flat : bool
        Whether it takes images as vectors.
    epochs : int
        Passes over the training data.
    rate : float
        Highest learning rate.
    again : bool
        Whether it is trained a second time, to look at what lies between two trainings.
    """

    title: str
    description: str
    build: Callable[..., LoadedModel]
    flat: bool
    epochs: int
    rate: float
    again: bool = False

    def shaped(self, images: Tensor) -> Tensor:
        """Images as the network takes them."""
        return images.flatten(1) if self.flat else images


DENSE = (
    "Three hidden layers of equal width with ReLU. The neurons of each can be put in any order, if the columns of"
    " the next layer follow."
)
RESIDUAL = (
    "Convolutions with BatchNorm and shortcuts. A shortcut ties the channels of all layers that write to the same"
    " stream, so there are fewer spaces than layers; weights, gains, and running means and variances move together."
)


def subjects(quick: bool) -> tuple[Subject, ...]:
    """The two networks; tiny ones if ``quick``."""
    if quick:
        return (
            Subject("A multilayer perceptron", DENSE, partial(mlp, "64-24-24-24-10"), True, 8, 4e-3, again=True),
            Subject("A residual network", RESIDUAL, partial(resnet, "6-8", size=8), False, 5, 2e-2),
        )
    return (
        Subject("A multilayer perceptron", DENSE, partial(mlp, "784-512-512-512-10"), True, 10, 1e-3, again=True),
        Subject("A residual network", RESIDUAL, partial(resnet, "12-24-48"), False, 5, 1e-2),
    )


def images(quick: bool, seed: int) -> tuple[Split, str]:
    """The images to train on and the name of their set for people."""
    if quick:
        return digits(seed=seed), "scikit-learn's 8×8 digits"
    return mnist(seed=seed), "handwritten digits (MNIST)"
