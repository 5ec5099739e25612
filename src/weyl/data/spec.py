"""DATA on the command line: the text that names a data set, read and loaded."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from weyl._factories import Wanted, call_named, is_factory, read_keywords
from weyl._text import expanded, near, one_line
from weyl.data.arrays import read_npz
from weyl.data.folders import read_folder
from weyl.data.glyphs import letters
from weyl.data.idx import fashion
from weyl.data.images import digits, mnist
from weyl.data.parts import BATCH, Data, Part, Scaling, part_of_batches, part_of_tensors
from weyl.data.split import Split
from weyl.errors import InputError

__all__ = ["BUILTIN_DATA", "load_data"]

BUILTIN_DATA: Mapping[str, Callable[..., Split]] = {
    "digits": digits,
    "fashion": fashion,
    "letters": letters,
    "mnist": mnist,
}
FORMS = (
    f"a built-in ({', '.join(BUILTIN_DATA)}), file.npz, package.module:factory, path/file.py:factory,"
    " or a directory of images by class"
)
RETURNS = "a loader, a Dataset, (x, y), or a dict of these under 'train' and 'test'"


def _is_data(found: object) -> bool:
    arrays = (Tensor, np.ndarray)
    pair = isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, arrays) for part in found)
    return pair or isinstance(found, (Dataset, DataLoader, Split, Data))


DATA = Wanted("DATA", RETURNS, InputError, _is_data, "data that is already made")


def load_data(spec: str, *, scaling: Scaling | None = None, limit: int | None = None) -> Data:
    """Load what a DATA argument names.

    Parameters
    ----------
    spec : str
        A built-in (``mnist``, ``digits``, ``fashion``, ``letters``), ``file.npz`` with arrays x and y,
        ``package.module:factory`` or ``path/file.py:factory``, which return a loader, a Dataset or (x, y), or a
        directory of images with one sub-directory for each class; each optionally followed by
        ``?key=value&key=value``. Naming a module or file runs its code.
    scaling : Scaling, optional
        Standardise images so, instead of by their own training part. A network that was trained on other images must
        be shown these with the mean and the deviation *of its own training images*.
    limit : int, optional
        Take at most so many of each part: in the proportions of the classes, but the first of a loader.

    Returns
    -------
    Data
        Its parts, class names, and standardisation.

    Raises
    ------
    InputError
        If nothing can be loaded from ``spec``; one line that names the thing, what was expected, what came and the
        remedy.

    Examples
    --------
    >>> data = load_data("digits?held_out=360", limit=100)
    >>> data.train.size, data.test.size, data.train.shape, data.classes[0]
    (100, 100, (1, 8, 8), '0')
    """
    head, _, query = spec.partition("?")
    head, keywords, name = head.strip(), read_keywords(spec, query, "DATA", InputError), one_line(spec)
    if limit is not None and limit < 1:
        raise InputError(f"{name}: limit must be positive, got {limit}")
    if head in BUILTIN_DATA:
        return _builtin(head, keywords, name, scaling, limit)
    target, _, factory = head.rpartition(":")
    kind = is_factory(target, factory)
    if kind:
        result = call_named(kind, target, factory, keywords, name, DATA)
        return _from_factory(result, name, scaling, limit)
    path = expanded(head)
    if path.suffix.lower() == ".npz":
        own = _chosen(keywords, name, ("mean", "std", "limit"))
        return read_npz(path, name, scaling=scaling or _scaling(own, name), limit=own.get("limit", limit))
    if path.is_dir():
        own = _chosen(keywords, name, ("mean", "std", "size", "limit"))
        return read_folder(
            path, name, scaling=scaling or _scaling(own, name), size=own.get("size"), limit=own.get("limit", limit)
        )
    raise InputError(_unknown(head, path))


def _builtin(head: str, keywords: dict[str, Any], name: str, scaling: Scaling | None, limit: int | None) -> Data:
    make = BUILTIN_DATA[head]
    _chosen(keywords, name, (*inspect.signature(make).parameters, "mean", "std"))
    scaling = scaling or _scaling(keywords, name)
    # All of it, and the limit afterwards: a network was trained with the standardisation of its whole training part.
    split = make(**{key: value for key, value in keywords.items() if key not in ("mean", "std")})
    if scaling is not None:
        if len(scaling.mean) != 1 or len(scaling.std) != 1:
            raise InputError(f"{name}: grey images of one channel cannot take a standardisation of several channels")
        split = split.rescaled(scaling.mean[0], scaling.std[0])
    return Data.of_split(split, name, limit)


def _from_factory(result: object, name: str, scaling: Scaling | None, limit: int | None) -> Data:
    """Make data of what a factory returned; its values are used as they are."""
    if isinstance(result, Split):
        if scaling is not None and len(scaling.mean) == len(scaling.std) == 1:
            result = result.rescaled(scaling.mean[0], scaling.std[0])
        return Data.of_split(result, name, limit)
    if isinstance(result, Data):
        train, test = _limited(result.train, limit), _limited(result.test, limit)
        return Data(name, train, test, result.classes, result.scaling, result.notes)
    held = result if isinstance(result, Mapping) else {"train": result}
    if not held or not set(held) <= {"train", "test"}:
        keys = ", ".join(one_line(key, 40) for key in held) or "none"
        raise InputError(f"{name}: the factory must return {RETURNS}, but returned a dict with keys {keys}")
    parts = {which: _part(value, name if which == "train" else f"{name}, held out") for which, value in held.items()}
    classes = next((found for value in held.values() if (found := _class_names(value))), ())
    notes = ("what a factory returns is used as it is, without standardisation",) if scaling else ()
    train, test = (_limited(parts.get(which), limit) for which in ("train", "test"))
    return Data(name, train, test, classes, None, notes)


def _part(value: Any, name: str) -> Part:
    """A part of (x, y), a Dataset or a loader."""
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(v, (Tensor, np.ndarray)) for v in value):
        return part_of_tensors(value[0], value[1], name)
    if isinstance(value, Dataset):
        size = None if isinstance(value, IterableDataset) else len(value)  # type: ignore[arg-type]
        # A generator of its own: a loader without one draws from the global one.
        return part_of_batches(DataLoader(value, batch_size=BATCH, generator=Generator()), name, size)
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Tensor, np.ndarray)):
        dataset: Any = getattr(value, "dataset", None)
        size = len(dataset) if hasattr(dataset, "__len__") and not getattr(value, "drop_last", False) else None
        return part_of_batches(value, name, size)
    raise InputError(f"{name}: the factory must return {RETURNS}, but returned {one_line(type(value).__name__)}")


def _limited(part: Part | None, limit: int | None) -> Part | None:
    return part if part is None or limit is None else part.first(limit)


def _class_names(value: Any) -> tuple[str, ...]:
    """Names that a Dataset, or a loader's, has under ``classes``, as torchvision's do."""
    for owner in (value, getattr(value, "dataset", None)):
        names = getattr(owner, "classes", None)
        if isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(n, str) for n in names):
            return tuple(map(one_line, names))
    return ()


def _chosen(keywords: Mapping[str, Any], name: str, known: Sequence[str]) -> Mapping[str, Any]:
    """Refuse keywords that mean nothing here, and values of the wrong kind."""
    for key, value in keywords.items():
        if key not in known:
            raise InputError(f"{name}: there is no option {key}; expected {', '.join(known)}{near(key, known)}")
        whole = isinstance(value, int) and not isinstance(value, bool)
        if key in ("limit", "held_out", "seed", "size") and not whole:
            raise InputError(f"{name}: {key} must be a whole number, got {one_line(repr(value))}")
        if key in ("limit", "size") and value < 1:
            raise InputError(f"{name}: {key} must be positive, got {value}")
    return keywords


def _scaling(keywords: Mapping[str, Any], name: str) -> Scaling | None:
    """``mean`` and ``std`` of a query."""
    if "mean" not in keywords and "std" not in keywords:
        return None
    values = []
    for key in ("mean", "std"):
        value = keywords.get(key)
        numbers = value if isinstance(value, tuple) else (value,)
        if not numbers or not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers):
            raise InputError(f"{name}: mean and std go together, numbers such as mean=0.5&std=0.25, one a channel")
        values.append(tuple(map(float, numbers)))
    if not all(map(math.isfinite, (*values[0], *values[1]))):
        raise InputError(f"{name}: mean and std must be finite, got {values[0]} and {values[1]}")
    if min(values[1]) < sys.float_info.min:
        raise InputError(f"{name}: std must be positive, got {min(values[1])}")
    return Scaling(values[0], values[1])


def _unknown(head: str, path: Path) -> str:
    shown = f"'{one_line(head)}'"
    if head.endswith(".py"):
        return f"DATA {shown} names a file but no factory in it; expected {one_line(head)}:factory"
    if path.exists():
        return f"DATA {shown} is neither an .npz file nor a directory; expected {FORMS}"
    beside = [found.name for found in path.parent.iterdir()] if path.parent.is_dir() else []
    if "/" in head or path.suffix:
        return f"DATA {shown}: no such file or directory{near(path.name, beside)}; expected {FORMS}"
    return f"unknown DATA {shown}; expected {FORMS}{near(head, [*BUILTIN_DATA, *beside])}"
