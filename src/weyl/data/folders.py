"""Images in a directory, one sub-directory a class; read batch by batch, so that they need not fit into memory."""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from weyl._text import one_line
from weyl.data.parts import Data, Part, Scaling
from weyl.data.split import take
from weyl.errors import InputError

__all__ = ["read_folder"]

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # no format that runs another program
GREY, COLOURS = {"1", "L"}, {"1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
MOST_SIDE = 4096
PARTS = {"train": "train", "test": "test", "val": "test", "valid": "test", "validation": "test"}


@dataclass(frozen=True)
class _Files:
    """Paths of images, their classes, and what every image is brought to."""

    paths: tuple[Path, ...]
    labels: Int64[Tensor, "n"]  # noqa: F821 (jaxtyping reads a dimension, not a name)
    mode: str
    size: tuple[int, int]

    def read(self, batch_size: int) -> Iterator[tuple[Float[Tensor, "n channels height width"], Tensor]]:
        """Images with values from 0 to 1, batch by batch."""
        for start in range(0, len(self.paths), batch_size):
            chosen = self.paths[start : start + batch_size]
            images = np.stack([_pixels(path, self.mode, self.size) for path in chosen])
            stack = torch.from_numpy(images).float() / 255
            stack = stack.unsqueeze(1) if stack.ndim == 3 else stack.movedim(3, 1)
            yield stack, self.labels[start : start + batch_size]


def read_folder(
    folder: Path,
    name: str,
    *,
    scaling: Scaling | None = None,
    size: int | None = None,
    limit: int | None = None,
) -> Data:
    """Find the images of a directory with one sub-directory for each class, in alphabetic order.

    If its only sub-directories are ``train`` and one of ``test``, ``val``, ``valid``, these hold the classes.
    Grey images have one channel; if any image has colours, all get three.

    Parameters
    ----------
    folder : Path
        The directory.
    name : str
        Begins every message.
    scaling : Scaling, optional
        Standardisation; that of the training images unless given, which takes a pass over them.
    size : int, optional
        Bring every image to this height and width; unless given, all must be equally large.
    limit : int, optional
        Take at most so many of each part, in the proportions of the classes.

    Raises
    ------
    InputError
        If there are no classes or no images, sizes differ, or an image cannot be read; the file is named.
    """
    parts = _parts(folder, name)
    classes = tuple(sorted({found.name for part in parts.values() for found in _folders(part, name)}))
    if not classes:
        raise InputError(
            f"{name}: a directory of images by class is expected, one sub-directory for each class, but there is none"
        )
    notes: list[str] = []
    listed = {which: _listed(part, classes, name, notes) for which, part in parts.items()}
    for which, (paths, labels) in listed.items():
        if limit is not None and limit < len(labels):
            chosen, _ = take(torch.arange(len(labels)), labels, limit)
            listed[which] = tuple(paths[i] for i in chosen.tolist()), labels[chosen]
            if which == "train" and scaling is None:
                notes.append(f"standardised by {limit} of {len(labels)} images; give ?mean=...&std=... to fix it")
    if size is not None and not (isinstance(size, int) and 1 <= size <= MOST_SIDE):
        raise InputError(f"{name}: size must be a number of pixels from 1 to {MOST_SIDE}, got {size}")
    mode, shape = _common([path for paths, _ in listed.values() for path in paths], name, size)
    files = {which: _Files(*found, mode, shape) for which, found in listed.items()}
    channels = 1 if mode == "L" else 3
    scaling = scaling or _statistics(files["train"], channels)
    made = {which: _part(found, f"{name}, {which}", channels, scaling) for which, found in files.items()}
    return Data(name, made["train"], made.get("test"), tuple(map(one_line, classes)), scaling, tuple(notes))


def _parts(folder: Path, name: str) -> dict[str, Path]:
    """The folder itself, or its training and held-out parts."""
    found = {path.name: path for path in _folders(folder, name)}
    if "train" in found and len(found) == 2 and set(found) <= set(PARTS):
        return {PARTS[key]: path for key, path in sorted(found.items(), key=lambda item: item[0] != "train")}
    return {"train": folder}


def _folders(folder: Path, name: str) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{name}: {one_line(folder)}: {one_line(error.strerror)}") from error


def _listed(
    folder: Path, classes: Sequence[str], name: str, notes: list[str]
) -> tuple[tuple[Path, ...], Int64[Tensor, "n"]]:  # noqa: F821
    """Paths of all images below, and the class of each."""
    paths: list[Path] = []
    labels: list[int] = []
    for label, title in enumerate(classes):
        inside = sorted((folder / title).iterdir()) if (folder / title).is_dir() else []
        found = [path for path in inside if path.suffix.lower() in ENDINGS and not path.name.startswith(".")]
        other = len(inside) - len(found)
        if other:
            notes.append(f"class {one_line(title)}: {other} of {len(inside)} entries are no images and were left out")
        if not found:
            notes.append(f"class {one_line(title)} holds no image in {one_line(folder.name)}")
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise InputError(f"{name}: no image lies in the sub-directories; endings such as .png and .jpg are looked for")
    for path in paths:
        if not stat.S_ISREG(_mode(path)):
            raise InputError(f"{name}: {one_line(path)} is not a regular file; remove it")
    return tuple(paths), torch.tensor(labels)


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError as error:
        raise InputError(f"{one_line(path)}: {one_line(error.strerror)}") from error


def _common(paths: Sequence[Path], name: str, size: int | None) -> tuple[str, tuple[int, int]]:
    """The mode that all images can be brought to, and their width and height; only their heads are read."""
    first: tuple[Path, tuple[int, int]] | None = None
    grey = True
    for path in paths:
        with _opened(path) as image:
            shape, mode = image.size, image.mode
        if mode not in COLOURS:
            raise InputError(f"{one_line(path)}: 8 bits a channel are expected, got mode {one_line(mode)}; convert it")
        grey = grey and mode in GREY
        first = first or (path, shape)
        if size is None and shape != first[1]:
            raise InputError(
                f"{name}: images must be equally large, but {one_line(first[0].name)} is {first[1][0]}×{first[1][1]}"
                f" and {one_line(path.name)} {shape[0]}×{shape[1]}; bring them to one size with ?size={first[1][0]}"
            )
    assert first is not None
    return "L" if grey else "RGB", (size, size) if size else first[1]


def _part(files: _Files, name: str, channels: int, scaling: Scaling) -> Part:
    def read(batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in files.read(batch_size):
            yield scaling.apply(images), labels

    width, height = files.size
    return Part(name, read, (channels, height, width), len(files.paths))


def _statistics(files: _Files, channels: int) -> Scaling:
    """Mean and deviation of each channel, in one pass, with sums of exact integers."""
    counts = torch.zeros(channels, 256, dtype=torch.float64)
    for images, _ in files.read(64):
        levels = (images * 255).round().long().movedim(1, 0).flatten(1)
        for channel, values in enumerate(levels):
            counts[channel] += values.bincount(minlength=256)
    level = torch.arange(256, dtype=torch.float64) / 255
    weight = counts / counts.sum(1, keepdim=True)
    mean = weight @ level
    std = (weight * (level - mean[:, None]) ** 2).sum(1).sqrt().clamp_min(1e-12)
    return Scaling(tuple(mean.tolist()), tuple(std.tolist()))


def _pixels(path: Path, mode: str, size: tuple[int, int]) -> UInt8[np.ndarray, "..."]:
    with _opened(path) as image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # transparency of a palette, which is dropped
                converted = image.convert(mode)
            if converted.size != size:
                converted = converted.resize(size)
            return np.asarray(converted)
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise _broken(path, error) from error


def _opened(path: Path) -> Any:
    """An image whose head has been read; one that claims to be enormous is refused."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(path, formats=FORMATS)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(f"{one_line(path)}: {one_line(error)}; make it smaller or remove it") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{one_line(path)} is no image of a known format; remove it or save it again") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> InputError:
    return InputError(f"{one_line(path)} is broken: {one_line(error)}; remove it or save it again")
