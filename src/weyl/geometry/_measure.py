"""Measure a model: one pass over a loader, hooks on the layers that matter."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from weyl.errors import InputError, UsageError
from weyl.geometry._collapse import Collapse
from weyl.geometry._statistics import CollapseStatistics

__all__ = [
    "Caught",
    "Classifier",
    "Taps",
    "caller",
    "collapse",
    "evaluating",
    "find_classifier",
    "peek",
    "pooled",
    "required",
    "returns",
    "tracked",
]


@dataclass(frozen=True, eq=False)
class Classifier:
    """The last linear layer of a model.

    Parameters
    ----------
    name : str
        Its path in the model.
    module : nn.Module
        Takes features of shape (n, d) and has a ``weight`` of shape (k, d), perhaps a ``bias``.
    """

    name: str
    module: nn.Module

    @property
    def weight(self) -> Tensor:
        """Matrix, shape (k, d)."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight.detach()

    @property
    def bias(self) -> Tensor | None:
        """Bias, shape (k,), if there is one."""
        bias = getattr(self.module, "bias", None)
        return bias.detach() if isinstance(bias, Tensor) else None


def find_classifier(
    model: nn.Module, run: Callable[[], Any], num_classes: int | None = None, name: str | None = None
) -> Classifier:
    """Find the layer that makes the logits.

    It is the last that ran with a matrix (of ``num_classes`` rows, if that is given) and whose output the model
    returns, up to a shift of each row or a softmax. Where no layer's is, because the model changes its logits, the last
    one of ``num_classes`` rows is taken; without ``num_classes`` none is, since it could be any.

    Parameters
    ----------
    model : nn.Module
        The model.
    run : callable
        Runs it once and returns its result.
    num_classes : int, optional
        Number of classes.
    name : str, optional
        Path of the classifier, if it is known.

    Returns
    -------
    Classifier
        The layer.

    Raises
    ------
    InputError
        If no such layer ran.
    UsageError
        If the named layer is not in the model.
    """
    ran: list[tuple[str, nn.Module, Tensor]] = []

    def note(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            weight, entered = getattr(module, "weight", None), _entered(args, kwargs)
            if not (isinstance(weight, Tensor) and weight.ndim == 2 and isinstance(output, Tensor)):
                return
            fits = entered is not None and entered.shape[-1:] == weight.shape[1:]
            if fits and output.shape[-1] == len(weight) and num_classes in (None, len(weight)):
                ran.append((path, module, output.detach().clone()))

        return hook

    modules = dict(model.named_modules())
    if name is not None and name not in modules:
        raise UsageError(f"classifier {name!r} is not in the model; it has {', '.join(list(modules)[1:9])}, ...")
    with ExitStack() as hooks:
        for path, module in modules.items():
            if name in (None, path):
                hooks.callback(module.register_forward_hook(note(path), with_kwargs=True).remove)
        result = run()
    made = [found for found in ran if name is not None or returns(result, found[2])]
    # A result without tensors says nothing against the last layer.
    if not made and (num_classes is not None or next(tensors(result), None) is None):
        made = ran
    if not made:
        rows = "" if num_classes is None else f" of {num_classes} rows"
        seen = f" ({ran[-1][0]!r} ran last, and the model returns something else)" if ran else ""
        raise InputError(
            f"no classifier found: no layer with a matrix{rows} makes what the model returns{seen}; "
            "name it with classifier=, or give num_classes="
        )
    return Classifier(*made[-1][:2])


def returns(result: Any, logits: Tensor) -> bool:
    """Whether a model's result holds a layer's output, up to a shift of each row (log-softmax) or a softmax."""
    for tensor in tensors(result):
        if tensor.shape != logits.shape:
            continue
        one, other = tensor.detach().double(), logits.double()
        scale = 1e-3 if min(tensor.dtype.itemsize, logits.dtype.itemsize) < 4 else 1e-5
        shifts = (one - one.mean(-1, keepdim=True)) - (other - other.mean(-1, keepdim=True))
        if _small(shifts, scale * (1 + float(other.nan_to_num(0, 0, 0).abs().max()))):
            return True
        if _small(one - other.softmax(-1), scale):
            return True
    return False


def tensors(result: Any) -> Iterator[Tensor]:
    """Floating tensors of at least one dimension in a model's result, at any depth."""
    if isinstance(result, Tensor):
        if result.ndim and result.numel() and result.is_floating_point():
            yield result
    elif isinstance(result, Mapping):
        for value in result.values():
            yield from tensors(value)
    elif isinstance(result, (tuple, list)):
        for value in result:
            yield from tensors(value)
    elif hasattr(result, "__dict__"):
        for value in vars(result).values():
            yield from tensors(value)


def _small(difference: Tensor, limit: float) -> bool:
    """Whether all that is finite is small."""
    finite = difference[difference.isfinite()]
    return not finite.numel() or float(finite.abs().max()) <= limit


def collapse(
    model: nn.Module,
    loader: Iterable[Any],
    layers: Sequence[str] | None = None,
    num_classes: int | None = None,
    *,
    ood: Iterable[Any] | None = None,
    class_weights: Sequence[float] | Tensor | None = None,
    prior: str | Sequence[float] | Tensor = "uniform",
    bootstrap: int = 0,
    seed: int = 0,
    keep: int | None = None,
    names: Sequence[str] | None = None,
    classifier: str | None = None,
    progress: bool | None = None,
) -> Collapse:
    """Measure how far a trained classifier has collapsed to the simplex, in one pass over the data.

    The features are what enters the classifier, the last linear layer, which is found by running the first batch and
    comparing outputs.
    The model is evaluated without gradients and left in the modes in which it was.

    Parameters
    ----------
    model : nn.Module
        Takes a batch of inputs.
    loader : iterable
        Batches ``(inputs, labels)``; inputs are a tensor, a tuple of arguments or a dict of keyword arguments; or dicts
        with the key ``labels``.
    layers : sequence of str, optional
        Paths of other layers to measure at their outputs, found in ``Collapse.layers``. Outputs of more than two
        dimensions are averaged over positions: all but the second of a convolution, all but the last else.
    num_classes : int, optional
        Number of classes; rows of the classifier's matrix unless given.
    ood : iterable, optional
        Batches of out-of-distribution inputs, as ``loader``, labels not needed; for NC5.
    class_weights, prior, bootstrap, seed, names
        As for `CollapseStatistics` and `CollapseStatistics.compute`.
    keep : int, optional
        Most rows to keep, as for `CollapseStatistics`.
    classifier : str, optional
        Path of the layer that makes the logits; the last linear layer whose output the model returns, unless given.
    progress : bool, optional
        Whether to show a progress bar on stderr; if it is a terminal, unless given.

    Returns
    -------
    Collapse
        Of the penultimate layer, with the named ones in ``.layers``.

    Raises
    ------
    InputError
        If there are no batches, a label is out of range, or no classifier is found.
    UsageError
        If a layer is not in the model.

    References
    ----------
    Papyan, Han, Donoho, PNAS 117, 2020. E and Wojtowytsch, arXiv 2012.05420.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from weyl import collapse
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> x, y = torch.arange(120.0).sin().reshape(30, 4), torch.arange(30) % 3
    >>> found = collapse(model, [(x, y)], layers=["1"], num_classes=3)
    >>> found.layer, found.dim, sorted(found.layers)
    ('2', 8, ['1'])
    """
    with evaluating(model):
        batches, first = peek(loader)
        call = caller(model)
        head = find_classifier(model, lambda: call(first[0]), num_classes, classifier)
        k = num_classes or len(head.weight)
        stats: CollapseStatistics | None = None
        others: dict[str, CollapseStatistics] = {}
        options: dict[str, Any] = {"class_weights": class_weights, "keep": keep}
        with Taps(model, layers or (), head) as taps:
            for inputs, labels in tracked(batches, loader, progress):
                call(inputs)
                caught, labels = taps.take(), required(labels)
                if stats is None:
                    stats = CollapseStatistics(k, caught.features.shape[1], **options)
                stats.update(caught.features, labels, caught.logits)
                for name, features in caught.layers.items():
                    if name not in others:
                        others[name] = CollapseStatistics(k, features.shape[1], **options)
                    others[name].update(features, labels)
            assert stats is not None
            shift = None if ood is None else unlabelled(taps, call, ood)
    options = {"prior": prior, "bootstrap": bootstrap, "seed": seed, "names": names}
    measured = {name: replace(other.compute(**options), layer=name) for name, other in others.items()}
    found = stats.compute(head.weight, head.bias, ood=shift, **options)
    return replace(found, layer=head.name, layers=measured)


@dataclass(frozen=True, eq=False)
class Caught:
    """What one forward pass left.

    Parameters
    ----------
    features : tensor, shape (n, d)
        What entered the classifier.
    logits : tensor, shape (n, k)
        What it made of them.
    layers : dict of str to tensor, shape (n, ·)
        Outputs of the named layers, averaged over positions, in the order in which they ran.
    """

    features: Tensor
    logits: Tensor
    layers: dict[str, Tensor]


class Taps:
    """Hooks that catch what enters the classifier, what it makes of it, and the outputs of named layers.

    Everything is copied, because a later module may work in place.

    Parameters
    ----------
    model : nn.Module
        The model.
    layers : sequence of str
        Paths of layers.
    head : Classifier
        The classifier.

    Raises
    ------
    UsageError
        If a layer is not in the model.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], head: Classifier) -> None:
        modules = dict(model.named_modules())
        for name in layers:
            if name not in modules or not name:
                known = ", ".join(list(modules)[1:9])
                more = ", ..." if len(modules) > 9 else ""
                raise UsageError(f"layer {name!r} is not in the model; it has {known}{more}")
        self.head = head
        self._modules = {name: modules[name] for name in layers}
        self._ends: tuple[Tensor, Tensor] | None = None
        self._caught: dict[str, Tensor] = {}
        self._hooks = ExitStack()

    def __enter__(self) -> Taps:
        for name, module in self._modules.items():
            self._hooks.callback(module.register_forward_hook(self._catch(name)).remove)
        hook = self.head.module.register_forward_hook(self._catch_head, with_kwargs=True)
        self._hooks.callback(hook.remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.close()

    def take(self) -> Caught:
        """Return what the last forward pass left, and forget it.

        Raises
        ------
        InputError
            If the classifier or a layer did not run.
        """
        (ends, caught), self._ends, self._caught = (self._ends, self._caught), None, {}
        missing = [] if ends else [self.head.name]
        missing += [name for name in self._modules if name not in caught]
        if ends is None or missing:
            raise InputError(f"layer {missing[0]!r} did not run in this forward pass, so there is nothing to measure")
        return Caught(*ends, caught)

    def _catch(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if not isinstance(tensor, Tensor):
                kind = type(output).__name__
                raise InputError(f"layer {name!r} returns {kind}; a layer that returns a tensor is needed")
            self._caught.pop(name, None)
            self._caught[name] = pooled(tensor, module)

        return hook

    def _catch_head(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        entered = _entered(args, kwargs)
        if entered is None or entered.ndim != 2:
            shape = None if entered is None else tuple(entered.shape)
            raise InputError(f"features of shape (n, d) must enter {self.head.name!r}, got {shape}: one label a sample")
        self._ends = entered.detach().clone(), output.detach().clone()


def _entered(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return the first tensor among the arguments of a call."""
    return next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)


def pooled(tensor: Tensor, module: nn.Module | None = None) -> Tensor:
    """Average over positions, so that a sample has one feature vector.

    Parameters
    ----------
    tensor : tensor, shape (n, d), (n, d, ...) after a convolution or pooling, or (n, ..., d)
        What a layer returned. Four or five dimensions are read as channels first, three as channels last unless the
        layer is a convolution, a normalisation or a pooling of one dimension.

    Returns
    -------
    tensor, shape (n, d)
        Detached, and a copy.
    """
    tensor = tensor.detach()
    if tensor.ndim <= 2:
        return tensor.reshape(len(tensor), -1).clone()
    first = tensor.ndim > 3 or type(module).__name__.endswith("1d")
    # In float32 at least: a mean over many positions in bfloat16 would lose its last digits.
    wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    return wide.flatten(2).mean(2) if first else wide.flatten(1, -2).mean(1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluate without gradients; afterwards every module is in the mode in which it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def split_batch(batch: Any) -> tuple[Any, Tensor | None]:
    """Split a batch into inputs and labels, if it has any."""
    if isinstance(batch, Mapping):
        inputs = dict(batch)
        return inputs, inputs.pop("labels", None)
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    return batch, None


def tracked(
    batches: Iterable[Any], loader: Iterable[Any], progress: bool | None
) -> Iterator[tuple[Any, Tensor | None]]:
    """Split batches one by one, with a progress bar on stderr."""
    if progress is None:
        progress = sys.stderr.isatty()
    if not progress:
        yield from map(split_batch, batches)
        return
    from rich.console import Console
    from rich.progress import track

    total = len(loader) if isinstance(loader, Sized) else None
    console = Console(stderr=True)
    for batch in track(batches, "measuring", total=total, console=console, transient=True):
        yield split_batch(batch)


def peek(loader: Iterable[Any]) -> tuple[Iterator[Any], tuple[Any, Tensor | None]]:
    """Look at the first batch and give it back."""
    batches = iter(loader)
    try:
        first = next(batches)
    except StopIteration:
        raise InputError("the loader gives no batches, so there is nothing to measure") from None

    def again() -> Iterator[Any]:
        yield first
        yield from batches

    return again(), split_batch(first)


def caller(model: nn.Module) -> Callable[[Any], Any]:
    """Make a function that runs the model on a batch of inputs, on the model's device and in its precision."""
    own = next((p for p in model.parameters()), None)

    def move(value: Any) -> Any:
        if not isinstance(value, Tensor) or own is None:
            return value
        return value.to(own.device, own.dtype if value.is_floating_point() else value.dtype)

    def call(inputs: Any) -> Any:
        if isinstance(inputs, Mapping):
            return model(**{name: move(value) for name, value in inputs.items()})
        if isinstance(inputs, (tuple, list)):
            return model(*map(move, inputs))
        return model(move(inputs))

    return call


def required(labels: Tensor | None) -> Tensor:
    """Return the labels of a batch, which must have some."""
    if labels is None:
        raise InputError(
            "a batch has no labels; give batches (inputs, labels), as [(x, y)] does, or dicts with 'labels'"
        )
    return labels


def unlabelled(taps: Taps, call: Callable[[Any], Any], loader: Iterable[Any]) -> CollapseStatistics:
    """Statistics of what enters the classifier, all in one class."""
    stats: CollapseStatistics | None = None
    for batch in loader:
        call(split_batch(batch)[0])
        features = taps.take().features
        stats = stats or CollapseStatistics(1, features.shape[1], keep=0)
        stats.update(features, torch.zeros(len(features), dtype=torch.int64, device=features.device))
    if stats is None or not stats.count:
        raise InputError("no samples: the out-of-distribution loader gives none without NaN or infinity")
    return stats
