"""What ``weyl collapse`` does between its arguments and its result: data and model brought together, then measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weyl.checkpoints import load_into, read_weights
from weyl.data import Data, Part, load_data
from weyl.errors import InputError, ModelSpecError, NotFiniteError, UsageError
from weyl.geometry import Collapse, Detection, Profile, collapse, detect_ood, layer_profile
from weyl.models import LoadedModel, load_model
from weyl.report import Measured, printable

__all__ = ["Request", "measured"]

Say = Callable[[str], None]
TITLES = {"train": "training data", "test": "held-out data"}
METHODS = ("neco", "vim", "nearest_mean")


@dataclass(frozen=True)
class Request:
    """The arguments of ``weyl collapse``, as its help describes them."""

    model: str
    data: str
    weights: Path | None = None
    key: str | None = None
    split: str = "train"
    layers: tuple[str, ...] = ()
    ood: str | None = None
    profile: bool = False
    bootstrap: int = 0
    batch_size: int = 256
    limit: int | None = None
    input_shape: tuple[int, ...] | None = None
    seed: int = 0


class _Counted:
    """A part that says how far it has been read."""

    def __init__(self, part: Part, title: str, say: Say) -> None:
        self._part, self._title, self._say, self.name = part, title, say, part.name

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        done = 0
        total = f" of {self._part.size:,}" if self._part.size is not None else ""
        for x, y in self._part:
            yield x, y
            done += len(y)
            self._say(f"{self._title}: {done:,}{total}")


def measured(asked: Request, say: Say) -> Measured:
    """Load data, model and weights, and measure.

    Parameters
    ----------
    asked : Request
        What to do.
    say : callable
        Called with what is being done.

    Raises
    ------
    WeylError
        Whatever stands in the way, in one line.
    """
    warnings: list[str] = []
    say(f"loading {asked.data}")
    data = load_data(asked.data, limit=asked.limit)
    other = None
    if asked.ood:
        other = load_data(asked.ood, scaling=data.scaling, limit=asked.limit)
        warnings += _standardised(data, other)
    warnings += data.notes + (other.notes if other else ())
    chosen = {name: data.part(name) for name in (("train", "test") if asked.split == "both" else (asked.split,))}
    say(f"loading {asked.model}")
    shape = next(iter(chosen.values())).shape
    loaded = _model(asked, shape)
    weights = _weights(asked, loaded, warnings)

    def ready(part: Part, title: str) -> _Counted:
        fitted = _fitted(part.batched(asked.batch_size), loaded)
        _probe(loaded, fitted, part.shape)
        return _Counted(fitted, f"{title} of {part.name}", say)

    parts: dict[str, Collapse] = {}
    outside = ready(_ood_part(other), "out-of-distribution data") if other else None
    for number, (name, part) in enumerate(chosen.items()):
        first = {"ood": outside, "bootstrap": asked.bootstrap} if number == 0 else {"bootstrap": asked.bootstrap}
        found = _measure(loaded, ready(part, TITLES[name]), layers=asked.layers or None, seed=asked.seed, **first)
        parts[name] = _named(found, data.classes)
    detection = None
    if outside is not None:
        known = data.test or data.train
        assert known is not None
        if data.test is None or data.train is None:
            warnings.append("there is no other part: the known samples are those that the scores were made from")
        detection = _detect(loaded.module, ready(data.train or known, "training data"), ready(known, "known data"),
                            outside, warnings)  # fmt: skip
    profile = _profile(asked, loaded.module, data, ready) if asked.profile else None
    warnings += [f"{name}: {note}" for name, found in parts.items() for note in _remarks(found)]
    model = printable(loaded.name)
    ood = other.name if other else ""
    return Measured(model, data.name, parts, weights, ood, detection, profile, tuple(warnings))


def _model(asked: Request, shape: tuple[int, ...]) -> LoadedModel:
    """The model; where no example input can be guessed, one of the shape of the data."""
    try:
        return load_model(asked.model, asked.input_shape, asked.seed)
    except ModelSpecError as error:
        if asked.input_shape is not None or "--input-shape" not in str(error):
            raise
    return load_model(asked.model, (2, *shape), asked.seed)


def _weights(asked: Request, loaded: LoadedModel, warnings: list[str]) -> str:
    if asked.weights is None:
        if asked.key:
            raise UsageError("--key chooses a dict of a weights file; give --weights, too")
        warnings.append("no --weights: this is the model as it was initialised")
        return ""
    read = read_weights(asked.weights, asked.key)
    name = printable(asked.weights)
    warnings += [f"{name}: {note}" for note in (*read.notes, *load_into(loaded.module, read.tensors, name))]
    return name


def _standardised(data: Data, other: Data) -> list[str]:
    """Warn where the two data sets need not be in the same units."""
    if data.scaling is None and other.scaling is not None:
        return [f"{data.name} is used as it is, {other.name} has a standardisation of its own: make them alike"]
    return []


def _ood_part(other: Data) -> Part:
    part = other.test or other.train
    assert part is not None
    return part


def _fitted(part: Part, loaded: LoadedModel) -> Part:
    """Bring the data to the shape of the model's example input, where they have as many numbers."""
    example = _example(loaded)
    if example is None or example == part.shape or math.prod(example) != math.prod(part.shape):
        return part
    return part.shaped(example)


def _example(loaded: LoadedModel) -> tuple[int, ...] | None:
    tensors = [value for value in (*loaded.args, *loaded.kwargs.values()) if isinstance(value, Tensor)]
    return tuple(tensors[0].shape[1:]) if len(tensors) == 1 else None


def _probe(loaded: LoadedModel, part: Part, given: tuple[int, ...]) -> None:
    """Run the model once on two inputs, so that what does not fit is said in terms of both."""
    x, _ = next(iter(part.first(2)))
    like: Any = next(loaded.module.parameters(), None)
    if like is not None and like.device.type == "meta":
        raise InputError(f"{loaded.name} is on the meta device and has no weights to run; build it for real")
    if like is not None and x.is_floating_point():
        x = x.to(like.device, like.dtype)
    try:
        with torch.no_grad():
            loaded.module(x)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        example = _example(loaded)
        takes = f"it takes {example}, " if example is not None else ""
        text = printable(" ".join(str(error).split()))[:120]
        raise InputError(
            f"{loaded.name} does not accept the inputs of {part.name}: {takes}the data have {given} ({text});"
            " give data or a model of the other's shape"
        ) from error


def _measure(loaded: LoadedModel, read: _Counted, **options: Any) -> Collapse:
    """Measure; a failure of a model with weights that are no numbers is no failure of the data."""
    try:
        return collapse(loaded.module, read, progress=False, **options)
    except InputError as error:
        bad = [name for name, tensor in loaded.module.state_dict().items() if not bool(tensor.isfinite().all())]
        if not bad:
            if read.name in str(error):
                raise
            raise InputError(f"{loaded.name} on {read.name}: {error}") from error
        where = printable(", ".join(bad[:5]))
        raise NotFiniteError(f"{loaded.name} cannot be measured: NaN or Inf stand in {where}") from error


def _named(found: Collapse, names: Sequence[str]) -> Collapse:
    """The classes by name, where they have names."""

    def name(index: str) -> str:
        return names[int(index)] if int(index) < len(names) else index

    classes, absent = tuple(map(name, found.classes)), tuple(map(name, found.absent))
    layers = {layer: _named(other, names) for layer, other in found.layers.items()}
    return replace(found, classes=classes, absent=absent, layers=layers)


def _detect(module: nn.Module, train: _Counted, known: _Counted, outside: _Counted, warnings: list[str]) -> Detection:
    try:
        return detect_ood(module, train, known, outside, methods=METHODS, progress=False)
    except UsageError as error:
        # ViM needs directions that the training data do not fill; the other scores do not.
        warnings.append(f"ViM was left out: {error}")
        methods = tuple(name for name in METHODS if name != "vim")
        return detect_ood(module, train, known, outside, methods=methods, progress=False)


def _profile(asked: Request, module: nn.Module, data: Data, ready: Callable[[Part, str], _Counted]) -> Profile:
    train = ready(data.part("train"), "profile, training data")
    held_out = ready(data.test, "profile, held-out data") if data.test is not None else None
    return layer_profile(module, train, asked.layers or None, held_out=held_out, progress=False)


def _remarks(found: Collapse) -> list[str]:
    notes = []
    if found.left_out:
        notes.append(f"{found.left_out} of {found.samples + found.left_out} samples have NaN or Inf and were left out")
    if found.absent:
        shown = ", ".join(found.absent[:8]) + (", …" if len(found.absent) > 8 else "")
        count = len(found.absent)
        notes.append(f"{count} {'class is' if count == 1 else 'classes are'} absent and left out: {shown}")
    return notes
