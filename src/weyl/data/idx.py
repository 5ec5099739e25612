"""Fashion-MNIST, 60,000 and 10,000 images of clothes, and the IDX format that it and MNIST come in."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from weyl._text import one_line
from weyl.data.split import Split, standardised, take
from weyl.errors import InputError

__all__ = ["FOLDER", "fashion", "read_idx"]

FOLDER = Path("/usr/share/datasets/fashion-mnist")  # where the Debian package puts them
PACKAGE = "dataset-fashion-mnist"
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
UNSIGNED_BYTES = 8
LARGEST = 2**31


def fashion(limit: int | None = None, held_out: int | None = None, seed: int = 0, folder: Path | str = FOLDER) -> Split:
    """Load Fashion-MNIST as its authors split it: 60,000 images to train on and 10,000 held out.

    Parameters
    ----------
    limit : int, optional
        How many to train on, in the proportions of the classes; all unless given.
    held_out : int, optional
        How many to hold out; all 10,000 unless given.
    seed : int
        Which of them.
    folder : path
        Where the four IDX files lie, as ``train-images-idx3-ubyte.gz``.

    Returns
    -------
    Split
        Images ``(n, 1, 28, 28)``, standardised, and labels.

    Raises
    ------
    InputError
        If the files are missing or damaged, or more images are asked for than there are.

    References
    ----------
    Xiao, Rasul, Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms",
    arXiv 1708.07747, 2017.

    Examples
    --------
    >>> from weyl.errors import InputError
    >>> try:
    ...     fashion(folder="nowhere")
    ... except InputError as error:
    ...     print(error)
    fashion: there is no nowhere/train-images-idx3-ubyte.gz; install the Debian package dataset-fashion-mnist
    """
    # A generator of its own for each part, so that the held-out images do not depend on the limit.
    train_x, train_y = _part(Path(folder), "train", limit, seed)
    test_x, test_y = _part(Path(folder), "t10k", held_out, seed)
    images = torch.cat([train_x, test_x]).unsqueeze(1).float() / 255
    labels = torch.cat([train_y, test_y]).long()
    every = torch.arange(len(labels))
    return standardised(images, labels, every[: len(train_y)], every[len(train_y) :], "fashion", CLASSES)


def read_idx(path: Path | str) -> UInt8[Tensor, "..."]:
    """Read an IDX file of bytes, compressed by gzip or not.

    Parameters
    ----------
    path : path
        Two zero bytes, the type (8: unsigned bytes), the number of dimensions, each as a big-endian 32-bit integer,
        and the values, the last dimension running fastest.

    Returns
    -------
    Tensor
        uint8, in the shape that the file gives.

    Raises
    ------
    InputError
        If the file cannot be read, or does not hold what its head says.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "three"
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
    ...     read_idx(path)
    tensor([7, 8, 9], dtype=torch.uint8)
    """
    path = Path(path)
    name = one_line(path)
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] != UNSIGNED_BYTES or head[3] == 0:
                raise InputError(
                    f"{name}: an IDX file of unsigned bytes is expected, but its first bytes are not one's"
                )
            shape = [int.from_bytes(file.read(4), "big") for _ in range(head[3])]
            count = math.prod(shape)
            if count > LARGEST:
                raise InputError(f"{name}: its head names {count:,} values, more than {LARGEST:,}; it is damaged")
            data = file.read(count + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name} cannot be read: {one_line(error)}; install it again") from error
    if len(data) != count:
        more = "more" if len(data) > count else f"only {len(data):,}"
        raise InputError(f"{name}: {count:,} values are expected, but it holds {more}; install it again")
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).reshape(shape).copy())


def _part(
    folder: Path, stem: str, size: int | None, seed: int
) -> tuple[UInt8[Tensor, "n height width"], UInt8[Tensor, "n"]]:  # noqa: F821
    """Images and labels of one part, or a part of it in the proportions of the classes."""
    paths = [folder / f"{stem}-{what}-ubyte.gz" for what in ("images-idx3", "labels-idx1")]
    for path in paths:
        if not path.is_file():
            raise InputError(f"fashion: there is no {one_line(path)}; install the Debian package {PACKAGE}")
    images, labels = map(read_idx, paths)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not len(labels):
        raise InputError(
            f"fashion: images (n, h, w) and as many labels are expected in {one_line(folder)},"
            f" got {tuple(images.shape)} and {tuple(labels.shape)}; install {PACKAGE} again"
        )
    if size is None:
        return images, labels
    if not 1 <= size <= len(labels):
        which = "limit" if stem == "train" else "held_out"
        raise InputError(f"fashion: {which} must be between 1 and {len(labels)}, got {size}")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chosen, _ = take(order, labels.long(), size)
    return images[chosen], labels[chosen]
