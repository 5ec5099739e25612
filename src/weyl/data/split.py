"""A train and test split of labelled images, stratified, standardised and reproducible from a seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from weyl.errors import InputError, UsageError

__all__ = ["Split", "standardised", "stratified_split", "take"]


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels for training, and others held out.

    Attributes
    ----------
    train_x, test_x : Tensor
        Images, float32 of shape ``(n, channels, height, width)``, standardised with the mean and the standard
        deviation of ``train_x`` alone.
    train_y, test_y : Tensor
        Class indices, int64 of shape ``(n,)``.
    name : str
        Name of the set.
    mean, std : float
        What was subtracted and divided by, in the units of the original images: 0 is black and 1 is white for every
        set that ships with weyl, so that one set can be given the standardisation of another.
    classes : tuple of str
        Names of the classes; empty if they have none.
    """

    train_x: Float[Tensor, "train channels height width"]
    train_y: Int64[Tensor, "train"]  # noqa: F821 (jaxtyping reads a dimension, not a name)
    test_x: Float[Tensor, "test channels height width"]
    test_y: Int64[Tensor, "test"]  # noqa: F821
    name: str
    mean: float = 0.0
    std: float = 1.0
    classes: tuple[str, ...] = ()

    def rescaled(self, mean: float, std: float) -> Split:
        r"""Return new images with the standardisation of another set.

        A network expects of every image the mean and the deviation of those that it was trained on:
        :math:`x' = (\sigma x + \mu - \mu') / \sigma'`.

        Parameters
        ----------
        mean, std : float
            `mean` and `std` of the other set.

        Raises
        ------
        UsageError
            If ``std`` is not positive.

        Examples
        --------
        >>> split = stratified_split(torch.rand(10, 1, 2, 2), torch.arange(10) % 2, held_out=4)
        >>> raw = split.rescaled(0.0, 1.0)
        >>> bool(raw.train_x.min() >= -1e-6), raw.mean, raw.std
        (True, 0.0, 1.0)
        """
        if not std > 0:
            raise UsageError(f"std must be positive, got {std}; use that of the training images")
        scale, shift = self.std / std, (self.mean - mean) / std
        train_x, test_x = self.train_x * scale + shift, self.test_x * scale + shift
        return replace(self, train_x=train_x, test_x=test_x, mean=mean, std=std)


def stratified_split(
    images: Float[Tensor, "n channels height width"],
    labels: Int64[Tensor, "n"],  # noqa: F821
    *,
    held_out: int,
    limit: int | None = None,
    seed: int = 0,
    name: str = "",
    classes: tuple[str, ...] = (),
) -> Split:
    r"""Hold out ``held_out`` images with the class proportions of the whole, and standardise by the rest.

    Of ``n`` images with :math:`n_c` in class :math:`c`, a part of size ``m`` takes :math:`m n_c / n` from the
    class, rounded by largest remainder so that the parts have exactly the sizes asked for.

    Parameters
    ----------
    images : Tensor
        All images, ``(n, channels, height, width)``.
    labels : Tensor
        Their classes, ``(n,)``.
    held_out : int
        Size of the test part.
    limit : int, optional
        Size of the training part; all the rest unless given. The test part does not depend on it.
    seed : int
        Which split; the global random state is neither read nor changed.
    name : str
        Name of the set, for `Split.name` and error messages.
    classes : tuple of str
        Names of the classes, for `Split.classes`.

    Raises
    ------
    InputError
        If either part would be empty, or there are not enough images.

    Examples
    --------
    >>> images, labels = torch.rand(10, 1, 2, 2), torch.arange(10) % 2
    >>> split = stratified_split(images, labels, held_out=4)
    >>> len(split.train_y), sorted(split.test_y.tolist())
    (6, [0, 0, 1, 1])
    """
    total = len(labels)
    left = total - held_out if limit is None else limit
    if held_out < 1 or left < 1 or held_out + left > total:
        raise InputError(
            f"{name or 'split'}: held_out and limit must be positive and add up to at most {total} images,"
            f" got held_out={held_out} and limit={limit}; ask for fewer"
        )
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(total, generator=generator)
    test, rest = take(shuffled, labels, held_out)
    train, _ = take(rest, labels, left)
    return standardised(images, labels, train, test, name, classes)


def standardised(
    images: Float[Tensor, "n channels height width"],
    labels: Int64[Tensor, "n"],  # noqa: F821
    train: Int64[Tensor, "train"],  # noqa: F821
    test: Int64[Tensor, "test"],  # noqa: F821
    name: str,
    classes: tuple[str, ...] = (),
) -> Split:
    """Make a split of two sets of indices; the mean and the deviation are those of the first."""
    chosen = images[train].double()
    deviation, average = torch.std_mean(chosen, correction=0)
    # A constant set has no spread to divide by.
    mean, std = float(average), max(float(deviation), 1e-12)
    train_x, test_x = (((part - mean) / std).float() for part in (chosen, images[test].double()))
    return Split(train_x, labels[train], test_x, labels[test], name, mean, std, classes)


def take(
    order: Int64[Tensor, "m"],  # noqa: F821
    labels: Int64[Tensor, "n"],  # noqa: F821
    size: int,
) -> tuple[Int64[Tensor, "size"], Int64[Tensor, "rest"]]:  # noqa: F821
    """Split shuffled indices in two, the first with ``size`` of them in the proportions of their classes."""
    classes, inverse, counts = torch.unique(labels[order], return_inverse=True, return_counts=True)
    quota = counts * size // len(order)
    remainder = counts * size % len(order)
    quota[remainder.argsort(descending=True, stable=True)[: size - int(quota.sum())]] += 1
    # Rank of every index within its class, in shuffled order.
    member = torch.nn.functional.one_hot(inverse, len(classes))
    rank = (member.cumsum(0) * member).sum(1) - 1
    chosen = rank < quota[inverse]
    return order[chosen], order[~chosen]
