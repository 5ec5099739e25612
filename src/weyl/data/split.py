"""A train and test split of labelled images, stratified, standardised and reproducible from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from weyl.errors import InputError

__all__ = ["Split", "stratified_split"]


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
    """

    train_x: Float[Tensor, "train channels height width"]
    train_y: Int64[Tensor, "train"]  # noqa: F821 (jaxtyping reads a dimension, not a name)
    test_x: Float[Tensor, "test channels height width"]
    test_y: Int64[Tensor, "test"]  # noqa: F821
    name: str


def stratified_split(
    images: Float[Tensor, "n channels height width"],
    labels: Int64[Tensor, "n"],  # noqa: F821
    *,
    held_out: int,
    limit: int | None = None,
    seed: int = 0,
    name: str = "",
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
    test, rest = _take(shuffled, labels, held_out)
    train, _ = _take(rest, labels, left)
    std, mean = torch.std_mean(images[train].double(), correction=0)
    # A constant set has no spread to divide by.
    scaled = ((images.double() - mean) / std.clamp_min(1e-12)).float()
    return Split(scaled[train], labels[train], scaled[test], labels[test], name)


def _take(
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
