"""Data in parts, each an iterable of batches that can be read again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from weyl._factories import shown
from weyl._text import one_line
from weyl.data.split import Split, take
from weyl.errors import InputError, WeylError

__all__ = ["BATCH", "Data", "Part", "Scaling", "part_of_batches", "part_of_tensors", "tensors"]

BATCH = 256
Batches = Iterator[tuple[Tensor, Tensor]]
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Scaling:
    r"""A standardisation of images, :math:`(x - \mu) / \sigma`, in units in which 0 is black and 1 is white.

    Attributes
    ----------
    mean, std : tuple of float
        One value for all channels, or one for each.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, images: Tensor) -> Tensor:
        """Standardise images ``(n, channels, height, width)`` whose values run from 0 to 1.

        Raises
        ------
        InputError
            If the numbers of channels differ.

        Examples
        --------
        >>> Scaling((0.5,), (0.25,)).apply(torch.ones(1, 1, 1, 1)).item()
        2.0
        """
        for values in (self.mean, self.std):
            if len(values) not in (1, images.shape[1]):
                raise InputError(
                    f"a mean and a deviation for {images.shape[1]} channels are expected, got {len(values)} of them;"
                    " both data sets must have equally many channels"
                )
        mean, std = (torch.tensor(values, dtype=images.dtype).view(-1, 1, 1) for values in (self.mean, self.std))
        return (images - mean) / std


@dataclass(frozen=True, eq=False)
class Part:
    """Batches of inputs ``(n, ...)`` and classes ``(n,)``, int64; iterating over it again starts again.

    Attributes
    ----------
    name : str
        What to call it in a message.
    read : callable
        Given a batch size, starts reading; a loader that comes with batches of its own ignores the size.
    shape : tuple of int
        Shape of one input.
    size : int or None
        Number of inputs, where it is known.
    batch_size : int
        For ``read``.
    """

    name: str
    read: Callable[[int], Batches]
    shape: tuple[int, ...]
    size: int | None
    batch_size: int = BATCH

    def __iter__(self) -> Batches:
        return self.read(self.batch_size)

    def batched(self, batch_size: int) -> Part:
        """Return the same data in batches of another size."""
        return replace(self, batch_size=batch_size)

    def shaped(self, shape: tuple[int, ...]) -> Part:
        """Return the same data with every input in another shape of as many numbers."""

        def read(batch_size: int) -> Batches:
            for x, y in self.read(batch_size):
                yield x.reshape(len(x), *shape), y

        return replace(self, read=read, shape=shape)

    def cast(self, dtype: torch.dtype) -> Part:
        """Return the same data in another precision."""

        def read(batch_size: int) -> Batches:
            for x, y in self.read(batch_size):
                yield x.to(dtype), y

        return replace(self, read=read)

    def first(self, limit: int) -> Part:
        """Return the first ``limit`` inputs alone."""

        def read(batch_size: int) -> Batches:
            left = limit
            for x, y in self.read(min(batch_size, limit)):
                yield x[:left], y[:left]
                left -= len(y)
                if left <= 0:
                    return

        return replace(self, read=read, size=limit if self.size is None else min(limit, self.size))


@dataclass(frozen=True, eq=False)
class Data:
    """A data set that a DATA argument names.

    Attributes
    ----------
    name : str
        The argument, escaped.
    train, test : Part or None
        To train on, and held out.
    classes : tuple of str
        Names of the classes; empty if they have none.
    scaling : Scaling or None
        How the images were standardised; None where the values are used as they come.
    notes : tuple of str
        What a reader must know besides.
    """

    name: str
    train: Part | None
    test: Part | None
    classes: tuple[str, ...] = ()
    scaling: Scaling | None = None
    notes: tuple[str, ...] = ()

    def part(self, which: str) -> Part:
        """Return the part ``"train"`` or ``"test"``.

        Raises
        ------
        InputError
            If there is none.
        """
        found = {"train": self.train, "test": self.test}[which]
        if found is None:
            other = "test" if which == "train" else "train"
            what = {"train": "training part", "test": "held-out part"}[which]
            raise InputError(f"{self.name} has no {what}; use its other part, {other}")
        return found

    @classmethod
    def of_split(cls, split: Split, name: str = "", limit: int | None = None) -> Data:
        """Both parts of a `Split`, each with at most ``limit`` inputs in the proportions of the classes.

        Examples
        --------
        >>> from weyl.data import digits
        >>> data = Data.of_split(digits())
        >>> data.train.size, data.train.shape, data.scaling == Scaling((digits().mean,), (digits().std,))
        (1437, (1, 8, 8), True)
        """
        name = name or split.name
        train = part_of_tensors(split.train_x, split.train_y, name, limit)
        test = part_of_tensors(split.test_x, split.test_y, name, limit)
        return cls(name, train, test, split.classes, Scaling((split.mean,), (split.std,)))


def part_of_tensors(x: object, y: object, name: str, limit: int | None = None) -> Part:
    """Make a part of two arrays or tensors.

    Parameters
    ----------
    x, y : array or tensor
        Inputs ``(n, ...)`` of finite numbers, and classes ``(n,)``, integers from 0.
    name : str
        Begins every message.
    limit : int, optional
        Take so many, in the proportions of the classes.

    Raises
    ------
    InputError
        If they are not that.
    """
    inputs, labels = tensors(x, y, name)
    if limit is not None and limit < len(labels):
        chosen, _ = take(torch.arange(len(labels)), labels, limit)
        inputs, labels = inputs[chosen], labels[chosen]

    def read(batch_size: int) -> Batches:
        yield from zip(torch.split(inputs, batch_size), torch.split(labels, batch_size), strict=True)

    return Part(name, read, tuple(inputs.shape[1:]), len(labels))


def part_of_batches(loader: Iterable[Any], name: str, size: int | None = None) -> Part:
    """Make a part of a loader: anything that yields pairs of inputs and classes each time it is iterated over.

    Parameters
    ----------
    loader : iterable
        Yields ``(x, y)``.
    name : str
        Begins every message.
    size : int, optional
        Number of inputs in all.

    Raises
    ------
    InputError
        If it yields anything else, or nothing; for a later batch, when that is read.
    """

    def read(batch_size: int) -> Batches:
        del batch_size  # the loader has its own
        count = 0
        try:
            for batch in loader:
                count += 1
                yield _pair(batch, f"{name}, batch {count}")
        except (WeylError, GeneratorExit):
            raise
        except Exception as error:
            raise InputError(f"{name}: reading batch {count + 1} raised {shown(error)}") from error

    if isinstance(loader, Iterator):
        raise InputError(
            f"{name} can be read only once, as it is an iterator; return a list or an object with __iter__ instead"
        )
    first = next(read(BATCH), None)
    if first is None:
        raise InputError(f"{name} holds no batch; at least one input is needed")
    return Part(name, read, tuple(first[0].shape[1:]), size)


def tensors(x: object, y: object, name: str) -> tuple[Tensor, Tensor]:
    """Check inputs and classes and return them as tensors, the classes as int64.

    Raises
    ------
    InputError
        If there is no input, an input is not finite, or a class is not an integer from 0.

    Examples
    --------
    >>> x, y = tensors(np.zeros((2, 3)), np.array([0.0, 1.0]), "two")
    >>> tuple(x.shape), x.dtype, y
    ((2, 3), torch.float32, tensor([0, 1]))
    """
    inputs, labels = _tensor(x, f"{name}: x"), _tensor(y, f"{name}: y")
    if inputs.ndim < 2:
        raise InputError(f"{name}: x must be (n, ...), at least two dimensions, got {tuple(inputs.shape)}")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        hint = "; take y.argmax(1) of one-hot rows" if labels.ndim == 2 else ""
        raise InputError(f"{name}: y must hold one class index for each input, got {tuple(labels.shape)}{hint}")
    if len(inputs) != len(labels):
        raise InputError(f"{name}: x and y must be equally long, got {len(inputs):,} inputs and {len(labels):,} labels")
    if not len(labels):
        raise InputError(f"{name} is empty; at least one input is needed")
    if inputs.is_complex():
        raise InputError(f"{name}: x must be real, got {inputs.dtype}; give real and imaginary parts as channels")
    if inputs.is_floating_point():
        finite = inputs.isfinite().flatten(1).all(1)
        if not finite.all():
            bad = (~finite).nonzero().flatten()
            raise InputError(
                f"{name}: x holds NaN or Inf in {len(bad):,} of {len(inputs):,} inputs, the first at index"
                f" {int(bad[0])}; remove them"
            )
        inputs = inputs.float() if inputs.dtype == torch.float64 else inputs
    return inputs, _classes(labels, name)


def _classes(labels: Tensor, name: str) -> Tensor:
    """Class indices as int64."""
    if labels.dtype == torch.bool:
        labels = labels.long()
    if labels.dtype not in INTEGERS:
        if not labels.is_floating_point() or not (labels.isfinite().all() and (labels == labels.round()).all()):
            raise InputError(
                f"{name}: y must hold integers, class indices from 0, got {labels.dtype} with other values"
            )
        labels = labels.long()
    if bool((labels < 0).any()):
        raise InputError(f"{name}: y must hold class indices from 0, got {int(labels.min())}; leave such inputs out")
    return labels.long()


def _pair(batch: object, name: str) -> tuple[Tensor, Tensor]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        what = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise InputError(f"{name}: a pair (x, y) is expected, got a {one_line(what)}")
    return tensors(batch[0], batch[1], name)


def _tensor(value: object, name: str) -> Tensor:
    if isinstance(value, Tensor):
        if value.layout != torch.strided:
            raise InputError(f"{name} is sparse; make it dense first")
        return value.detach()
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "buif" and value.dtype.kind != "c":
            raise InputError(f"{name} must hold numbers, got {one_line(value.dtype)}; encode classes as 0, 1, 2, …")
        native = value.astype(value.dtype.newbyteorder("="), copy=False)
        # A copy: torch warns where the array may not be written to.
        return torch.from_numpy(np.array(_known(native)))
    raise InputError(f"{name} must be a tensor or a NumPy array, got {one_line(type(value).__name__)}")


def _known(array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """The array in a type that torch has."""
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        return array.astype(np.int64)
    return array.astype(np.float64) if array.dtype == np.longdouble else array
