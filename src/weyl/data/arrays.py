"""Arrays in an ``.npz`` file: inputs x and classes y, and held-out ones if there are any."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from weyl._text import near, one_line
from weyl.data.parts import Data, Part, Scaling, part_of_tensors, tensors
from weyl.errors import InputError

__all__ = ["open_regular", "read_npz"]

# Names of the arrays, and what they are called by Keras.
NAMES = {"x": ("x", "x_train"), "y": ("y", "y_train"), "x_test": ("x_test",), "y_test": ("y_test",)}


def read_npz(path: Path, name: str, *, scaling: Scaling | None = None, limit: int | None = None) -> Data:
    """Read ``x`` and ``y``, and ``x_test``, ``y_test`` and ``classes`` where they are there; nothing is unpickled.

    Classes may be names: they are numbered in the order of ``classes``, or of the alphabet without that.
    Floating-point inputs are used as they are. Bytes are pixels: ``(n, height, width)`` or
    ``(n, channels, height, width)``, scaled to run from 0 to 1 and standardised.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        Begins every message.
    scaling : Scaling, optional
        Standardisation of pixels; that of the training images unless given.
    limit : int, optional
        Take at most so many of each part, in the proportions of the classes.

    Raises
    ------
    InputError
        If the file or an array in it cannot be used.
    """
    arrays, keys = _arrays(path, name)
    if "x" not in arrays or "y" not in arrays:
        held = ", ".join(one_line(key, 40) for key in keys[:8]) or "nothing"
        raise InputError(f"{name}: arrays x (inputs) and y (classes) are expected, but the file holds {held}")
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise InputError(f"{name}: x_test and y_test go together, but one is missing")
    classes = _indexed(arrays, _names(arrays.get("classes"), name), name)
    train = tensors(arrays["x"], arrays["y"], name)
    test = tensors(arrays["x_test"], arrays["y_test"], f"{name}, held out") if "x_test" in arrays else None
    if train[0].dtype != torch.uint8:
        notes = ("the inputs of an .npz file are used as they are, without standardisation",) if scaling else ()
        return Data(name, *_parts(train, test, name, limit), classes, None, notes)
    scaling = scaling or _statistics(_pixels(train[0], name))
    train = scaling.apply(_pixels(train[0], name)), train[1]
    test = None if test is None else (scaling.apply(_pixels(test[0], name)), test[1])
    return Data(name, *_parts(train, test, name, limit), classes, scaling)


def open_regular(path: Path, name: str, what: str) -> None:
    """Refuse a path that is not a readable, non-empty, regular file, without opening anything else.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        Begins every message.
    what : str
        What is expected there.

    Raises
    ------
    InputError
        With the reason and the remedy.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        names = [found.name for found in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"{name}: no such file{near(path.name, names)}") from None
    except OSError as error:
        raise InputError(f"{name}: {one_line(error.strerror)}; {what} is expected") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{name} is not a regular file; {what} is expected")
    if status.st_size == 0:
        raise InputError(f"{name} is empty; {what} is expected")
    if not os.access(path, os.R_OK):
        raise InputError(f"{name}: no permission to read it")


def _arrays(path: Path, name: str) -> tuple[dict[str, Shaped[np.ndarray, "..."]], list[str]]:
    """The arrays whose names are known, and the names of all."""
    open_regular(path, name, "an .npz file")
    known = {alias: key for key, aliases in NAMES.items() for alias in aliases} | {"classes": "classes"}
    try:
        with zipfile.ZipFile(path) as archive:
            _fits(archive, name)
        with np.load(path, allow_pickle=False) as file:
            found = list(file.files)
            loaded = {known[key]: file[key] for key in found if key in known}
    except ValueError as error:
        if "pickle" in str(error) or "Object arrays" in str(error):
            raise InputError(
                f"{name} holds Python objects, which are not loaded because that can run code; save numbers"
            ) from error
        raise InputError(f"{name} cannot be read: {one_line(error)}; save it again with numpy.savez") from error
    except (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{name} is no whole .npz file: {one_line(error)}; save it again with numpy.savez") from error
    # NumPy gives the bytes of a member that is no array.
    return {key: value for key, value in loaded.items() if isinstance(value, np.ndarray)}, found


def _fits(archive: zipfile.ZipFile, name: str) -> None:
    """Refuse what would not fit into memory before any of it is read."""
    needed = sum(member.file_size for member in archive.infolist())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise InputError(
            f"{name}: its arrays would take {needed / 2**30:.1f} GiB and this machine has {memory / 2**30:.1f};"
            " save fewer inputs"
        )


def _names(array: Shaped[np.ndarray, "..."] | None, name: str) -> tuple[str, ...]:
    if array is None:
        return ()
    if array.ndim != 1 or array.dtype.kind != "U":
        raise InputError(f"{name}: classes must be a list of names, got {one_line(array.dtype)} of {array.shape}")
    return tuple(map(str, array))


def _indexed(arrays: dict[str, Shaped[np.ndarray, "..."]], classes: tuple[str, ...], name: str) -> tuple[str, ...]:
    """Replace names of classes in y and y_test by their indices; returns the names of all classes."""
    titles = {
        key: arrays[key].astype(str) for key in ("y", "y_test") if key in arrays and arrays[key].dtype.kind in "US"
    }
    if not titles:
        return classes
    if len(titles) == 1 and "y_test" in arrays:
        raise InputError(f"{name}: y and y_test must both hold names, or both hold class indices from 0")
    classes = classes or tuple(np.unique(titles["y"]).tolist())
    place = {title: index for index, title in enumerate(classes)}
    for key, found in titles.items():
        unknown = sorted(set(found.ravel().tolist()) - set(classes))
        if unknown:
            where = "classes" if "classes" in arrays else "y"
            raise InputError(f"{name}: {key} holds the class {one_line(repr(unknown[0]), 60)}, which {where} does not")
        arrays[key] = np.array([place[title] for title in found.ravel()], dtype=np.int64).reshape(found.shape)
    return classes


def _pixels(images: Tensor, name: str) -> Tensor:
    """Bytes as images ``(n, channels, height, width)`` with values from 0 to 1."""
    if images.ndim == 3:
        images = images.unsqueeze(1)
    if images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.movedim(3, 1)
    if images.ndim != 4:
        raise InputError(
            f"{name}: bytes are taken for pixels, (n, h, w) or (n, channels, h, w), got {tuple(images.shape)};"
            " save other inputs as floating-point numbers"
        )
    return images.float() / 255


def _statistics(images: Tensor) -> Scaling:
    std, mean = torch.std_mean(images.double(), correction=0)
    return Scaling((float(mean),), (max(float(std), 1e-12),))


def _parts(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor] | None, name: str, limit: int | None
) -> tuple[Part, Part | None]:
    held_out = None if test is None else part_of_tensors(*test, f"{name}, held out", limit)
    return part_of_tensors(*train, name, limit), held_out
