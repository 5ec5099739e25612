"""What ``weyl collapse`` does between its arguments and its result: data and model brought together, then measured."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weyl._text import one_line
from weyl._version import __version__
from weyl.checkpoints import load_into, read_weights
from weyl.data import Data, Part, load_data
from weyl.errors import InputError, ModelSpecError, NotFiniteError, UsageError, WeylError
from weyl.geometry import Collapse, Detection, Profile, collapse, detect_ood, layer_profile
from weyl.models import LoadedModel, load_model
from weyl.report import Measured, printable

__all__ = ["Request", "first_sentence", "fitted", "measured", "probe"]

Say = Callable[[str], None]
TITLES = {"train": "training data", "test": "held-out data"}
METHODS = ("neco", "vim", "nearest_mean")
LONGEST = 160  # of a foreign message inside one of weyl's


@dataclass(frozen=True)
class Request:
    """The arguments of ``weyl collapse``, as its help describes them."""

    model: str
    data: str
    weights: Path | None = None
    key: str | None = None
    split: str = "train"
    layers: tuple[str, ...] = ()
    classifier: str | None = None
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
        self.done = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.done = 0
        total = f" of {self._part.size:,}" if self._part.size is not None else ""
        for x, y in self._part:
            yield x, y
            self.done += len(y)
            self._say(f"{self._title}: {self.done:,}{total}")


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
    for option, value in (("--data", asked.data), ("--weights", asked.weights), ("--ood", asked.ood)):
        # The path "." is what an empty name becomes.
        if value is not None and str(value).strip() in ("", "."):
            raise UsageError(f"{option} is empty or the current folder; name a file, a folder or a built-in")
    warnings: list[str] = []
    say(f"loading {asked.data}")
    data = load_data(asked.data, limit=asked.limit)
    other = None
    if asked.ood is not None:
        other = load_data(asked.ood, scaling=data.scaling, limit=asked.limit)
        warnings += _standardised(data, other)
    warnings += data.notes + (other.notes if other else ())
    chosen = _chosen(asked, data)
    say(f"loading {asked.model}")
    shape = next(iter(chosen.values())).shape
    loaded = _model(asked, shape)
    weights = _weights(asked, loaded, warnings)

    def ready(part: Part, title: str) -> _Counted:
        reshaped = fitted(part.batched(asked.batch_size), loaded)
        probe(loaded, reshaped, part.shape)
        return _Counted(reshaped, f"{title} of {part.name}", say)

    parts: dict[str, Collapse] = {}
    outside = ready(_ood_part(other), "out-of-distribution data") if other else None
    for number, (name, part) in enumerate(chosen.items()):
        first = {"ood": outside, "bootstrap": asked.bootstrap} if number == 0 else {"bootstrap": asked.bootstrap}
        options = {"layers": asked.layers or None, "seed": asked.seed, "classifier": asked.classifier, **first}
        found = _measure(loaded, ready(part, TITLES[name]), **options)
        parts[name] = _named(found, data.classes)
    detection, inside = None, ""
    if outside is not None:
        known = data.test or data.train
        assert known is not None
        inside = f"{TITLES['test' if known is data.test else 'train']} of {data.name}"
        if data.test is None or data.train is None:
            warnings.append("there is no other part: the known samples are those that the scores were made from")
        train, sample = ready(data.train or known, "training data"), ready(known, "known data")
        detection = _detect(loaded.module, train, sample, outside, asked, warnings)
    profile = _profile(asked, loaded.module, data, ready) if asked.profile else None
    warnings += [f"{name}: {note}" for name, found in parts.items() for note in _remarks(found)]
    model = printable(loaded.name)
    ood = other.name if other else ""
    settings = _settings(asked, model, data, parts, detection)
    kinds = {name: type(module).__name__ for name, module in loaded.module.named_modules() if name}
    return Measured(model, data.name, parts, weights, ood, detection, profile, tuple(warnings), inside, kinds, settings)


def _settings(
    asked: Request, model: str, data: Data, parts: Mapping[str, Collapse], detection: Detection | None
) -> dict[str, Any]:
    """What the numbers were made from, ready for JSON."""
    samples = {name: found.samples + found.left_out for name, found in parts.items()}
    if detection is not None:
        samples |= {"ood": detection.outside, "known": detection.inside}
    return {
        "model": model,
        "weights": printable(asked.weights) if asked.weights is not None else None,
        "key": asked.key,
        "data": data.name,
        "split": asked.split,
        "samples": samples,
        "ood": asked.ood,
        "limit": asked.limit,
        "layers": list(asked.layers),
        "classifier": asked.classifier,
        "profile": asked.profile,
        "bootstrap": asked.bootstrap,
        "batch_size": asked.batch_size,
        "input_shape": asked.input_shape and list(asked.input_shape),
        "seed": asked.seed,
        "weyl": __version__,
        "torch": torch.__version__,
    }


def _chosen(asked: Request, data: Data) -> dict[str, Part]:
    """The parts to measure."""
    if asked.split != "train" and data.test is None and data.train is not None:
        add = ", or save x_test and y_test beside x and y" if ".npz" in asked.data.partition("?")[0] else ""
        raise InputError(f"{data.name} has no held-out part; use --split train{add}")
    return {name: data.part(name) for name in (("train", "test") if asked.split == "both" else (asked.split,))}


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


def fitted(part: Part, loaded: LoadedModel) -> Part:
    """Bring the data to the shape of the model's example input, where they have as many numbers.

    Parameters
    ----------
    part : Part
        The data.
    loaded : LoadedModel
        What they are for.

    Raises
    ------
    InputError
        If the numbers are as many, in another order.
    """
    example = _example(loaded)
    if example is None or example == part.shape or math.prod(example) != math.prod(part.shape):
        return part
    flat = len(example) == 1 or len(part.shape) == 1
    if not flat and [n for n in example if n > 1] != [n for n in part.shape if n > 1]:
        raise InputError(
            f"{loaded.name} takes {example} and {part.name} gives {part.shape}: as many numbers in another order"
            " (channels first or last?); transpose the data, or give a model of their shape"
        )
    return part.shaped(example)


def _example(loaded: LoadedModel) -> tuple[int, ...] | None:
    tensors = [value for value in (*loaded.args, *loaded.kwargs.values()) if isinstance(value, Tensor)]
    return tuple(tensors[0].shape[1:]) if len(tensors) == 1 else None


def probe(loaded: LoadedModel, part: Part, given: tuple[int, ...]) -> None:
    """Run the model once on two inputs, so that what does not fit is said in terms of both.

    Parameters
    ----------
    loaded : LoadedModel
        The model.
    part : Part
        The data, in the shape of the model.
    given : tuple of int
        Shape of an input as it was given, to show.

    Raises
    ------
    InputError
        If the model does not take them.
    """
    x, _ = next(iter(part.first(2)))
    like: Any = next(loaded.module.parameters(), None)
    if like is not None and like.device.type == "meta":
        raise InputError(f"{loaded.name} is on the meta device and has no weights to run; build it for real")
    if like is not None and x.is_floating_point():
        x = x.to(like.device, like.dtype)
    try:
        with torch.no_grad():
            loaded.module(x)
    except (Exception, SystemExit) as error:
        example = _example(loaded)
        takes = f"it takes {example}, " if example is not None else ""
        text = first_sentence(error)
        if not isinstance(error, (RuntimeError, ValueError)):
            text = f"{type(error).__name__}: {text}"
        raise InputError(
            f"{loaded.name} does not accept the inputs of {part.name}: {takes}the data have {given} ({text});"
            " give data or a model of the other's shape"
        ) from error


def first_sentence(error: BaseException) -> str:
    """What torch says first, whole words of it: the rest is advice about torch."""
    text = one_line(str(error).strip().partition("\n")[0], 10_000)
    text = text.split(". ")[0]
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rpartition(' ')[0]} …"


def _measure(loaded: LoadedModel, read: _Counted, **options: Any) -> Collapse:
    """Measure; a failure of a model with weights that are no numbers is no failure of the data."""
    try:
        return collapse(loaded.module, read, progress=False, **options)
    except InputError as error:
        bad = [name for name, tensor in loaded.module.state_dict().items() if not bool(tensor.isfinite().all())]
        if not bad:
            if read.name in str(error):
                raise
            told = re.match(r"label (\d+) is out of range: with num_classes=(\d+)", str(error))
            if told:
                raise InputError(
                    f"{loaded.name} on {read.name}: label {told[1]} is out of range for a model of {told[2]} outputs;"
                    f" give it {int(told[1]) + 1} outputs or more; if labels start at 1, subtract 1"
                ) from error
            raise InputError(f"{loaded.name} on {read.name}: {error}") from error
        where = printable(", ".join(bad[:5]))
        raise NotFiniteError(
            f"{loaded.name} cannot be measured: NaN or Inf stand in {where}; give weights that are finite"
        ) from error
    except WeylError:
        raise
    except (Exception, SystemExit) as error:
        # What runs here is the user's model and data; the first two inputs went through.
        kind = type(error).__name__
        raise InputError(
            f"{loaded.name} stopped after {read.done:,} inputs of {read.name}: {kind}: {first_sentence(error)};"
            " look at the inputs that follow"
        ) from error


def _named(found: Collapse, names: Sequence[str]) -> Collapse:
    """The classes by name, where they have names."""

    def name(index: str) -> str:
        return names[int(index)] if int(index) < len(names) else index

    classes, absent = tuple(map(name, found.classes)), tuple(map(name, found.absent))
    layers = {layer: _named(other, names) for layer, other in found.layers.items()}
    return replace(found, classes=classes, absent=absent, layers=layers)


def _detect(
    module: nn.Module, train: _Counted, known: _Counted, outside: _Counted, asked: Request, warnings: list[str]
) -> Detection:
    options: dict[str, Any] = {"classifier": asked.classifier, "progress": False}
    try:
        return detect_ood(module, train, known, outside, methods=METHODS, **options)
    except UsageError as error:
        # ViM needs directions that the training data do not fill; the other scores do not.
        warnings.append(f"ViM was left out: {error}")
        methods = tuple(name for name in METHODS if name != "vim")
        return detect_ood(module, train, known, outside, methods=methods, **options)


def _profile(asked: Request, module: nn.Module, data: Data, ready: Callable[[Part, str], _Counted]) -> Profile:
    train = ready(data.part("train"), "profile, training data")
    held_out = ready(data.test, "profile, held-out data") if data.test is not None else None
    return layer_profile(
        module, train, asked.layers or None, held_out=held_out, classifier=asked.classifier, progress=False
    )


def _remarks(found: Collapse) -> list[str]:
    """What a reader must know of the measurement; classes by name."""
    notes = [note for note in found.notes if not note.startswith("no samples of")]
    if found.absent:
        shown = ", ".join(found.absent[:8]) + (", …" if len(found.absent) > 8 else "")
        count = len(found.absent)
        notes.append(f"{count} {'class is' if count == 1 else 'classes are'} absent and left out: {shown}")
    return notes
