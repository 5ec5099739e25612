"""Where in a network its classes separate: collapse and nearest-mean accuracy, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from weyl.errors import InputError
from weyl.geometry._measure import Taps, caller, evaluating, find_classifier, peek, pooled, required, tracked
from weyl.geometry._plot import frame
from weyl.geometry._samples import nearest_means
from weyl.geometry._statistics import CollapseStatistics

if TYPE_CHECKING:
    import pandas

# Layers that only pass on what they get; and the widest layer to measure unasked (a scatter of 128 MiB).
PASSING = (nn.Dropout, nn.Flatten, nn.Identity, nn.Unflatten)
MOST_FEATURES = 4096
MOST_KEPT = 4096
LEARNED = 2  # times chance, below which a network has learned nothing worth keeping

__all__ = ["Cut", "LayerRow", "Profile", "layer_profile"]


@dataclass(frozen=True)
class LayerRow:
    """One layer of a profile.

    Parameters
    ----------
    layer : str
        Path of the layer; its output is measured, averaged over positions.
    dim : int
        Number of features.
    nc1, nc1_ratio : float
        Spread within classes against spread between.
    accuracy : float
        Of the nearest class mean at this layer, on held-out data if there is any, else on the data themselves.
    parameters : int
        Parameters of the modules that ran after it.
    """

    layer: str
    dim: int
    nc1: float | None
    nc1_ratio: float | None
    accuracy: float
    parameters: int


@dataclass(frozen=True)
class Cut:
    """Where the tail of a network could go.

    Parameters
    ----------
    layer : str
        The last layer to keep; the nearest class mean of its features replaces the rest.
    accuracy : float
        Measured accuracy if one did.
    loss : float
        Accuracy that the whole network has above that.
    parameters : int
        Parameters that go, less the class means that come in their place.
    """

    layer: str
    accuracy: float
    loss: float
    parameters: int


@dataclass(frozen=True)
class Profile:
    """Collapse layer by layer.

    Parameters
    ----------
    layers : tuple of LayerRow
        In the order in which the layers ran.
    accuracy : float
        Of the whole network, on the same data as that of the rows.
    held_out : bool
        Whether accuracies are on held-out data.
    tolerance : float
        Loss of accuracy that a cut may cost.
    classes : int
        Number of classes.
    """

    layers: tuple[LayerRow, ...]
    accuracy: float
    held_out: bool
    tolerance: float
    classes: int

    @property
    def cut(self) -> Cut | None:
        """The earliest layer after which the nearest mean does as well, within the tolerance, and costs less.

        None if there is none, or if the network is near chance: then there is nothing to keep.
        """
        if self.accuracy < LEARNED / self.classes:
            return None
        for row in self.layers:
            saved = row.parameters - self.classes * row.dim
            if row.accuracy >= self.accuracy - self.tolerance and saved > 0:
                return Cut(row.layer, row.accuracy, self.accuracy - row.accuracy, saved)
        return None

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each layer."""
        return [asdict(row) for row in self.layers]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        cut = self.cut
        return {
            "layers": self.rows(),
            "accuracy": self.accuracy,
            "held_out": self.held_out,
            "tolerance": self.tolerance,
            "classes": self.classes,
            "cut": None if cut is None else asdict(cut),
        }

    def to_frame(self) -> pandas.DataFrame:
        """Return the rows as a pandas frame, indexed by layer.

        Raises
        ------
        MissingExtraError
            If pandas is not installed.
        """
        return frame(self.rows(), "layer")


def layer_profile(
    model: nn.Module,
    loader: Iterable[Any],
    layers: Sequence[str] | None = None,
    num_classes: int | None = None,
    *,
    held_out: Iterable[Any] | None = None,
    tolerance: float = 0.01,
    keep: int | None = None,
    classifier: str | None = None,
    progress: bool | None = None,
) -> Profile:
    """Measure NC1 and nearest-mean accuracy at every layer, and find where the tail could be cut.

    Parameters
    ----------
    model : nn.Module
        Takes a batch of inputs.
    loader : iterable
        Labelled training batches, as `collapse` takes them.
    layers : sequence of str, optional
        Paths of layers. Unless given, every module without children that ran once, up to the classifier, and has at
        most 4,096 features; dropout and reshaping are left out.
    num_classes : int, optional
        Number of classes; rows of the classifier's matrix unless given.
    held_out : iterable, optional
        Labelled batches on which accuracies are measured. Without it they are those of the training data, which
        flatter wide layers.
    tolerance : float
        Loss of accuracy that a cut may cost, as a fraction of 1.
    keep : int, optional
        Most rows to keep of each layer, for accuracies without ``held_out``; 4,096 unless given.
    classifier : str, optional
        As for `collapse`.
    progress : bool, optional
        Whether to show a progress bar on stderr; if it is a terminal, unless given.

    Returns
    -------
    Profile
        ``.rows()`` and ``.cut``.

    Raises
    ------
    InputError
        If a loader is empty, a label is out of range, or no classifier is found.
    UsageError
        If a layer is not in the model.

    References
    ----------
    Galanti, György, Hutter, "On the role of neural collapse in transfer learning", ICLR 2022: nearest-mean accuracy.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from weyl import layer_profile
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> x, y = torch.arange(120.0).sin().reshape(30, 4), torch.arange(30) % 3
    >>> [row.layer for row in layer_profile(model, [(x, y)]).layers]
    ['0', '1']
    """
    with evaluating(model):
        batches, first = peek(loader)
        call = caller(model)
        head = find_classifier(model, lambda: call(first[0]), num_classes, classifier)
        ran = _order(model, lambda: call(first[0]))
        chosen = list(layers) if layers else _default(ran, head.name)
        k = num_classes or len(head.weight)
        rows = 0 if held_out is not None else MOST_KEPT if keep is None else keep
        with Taps(model, chosen, head) as taps:
            stats, right, seen = _statistics(taps, call, tracked(batches, loader, progress), k, rows)
            chosen = sorted(stats, key=lambda name: _place(ran, name))
            if held_out is not None:
                accuracies, right, seen = _held_out(taps, call, tracked(held_out, held_out, progress), stats, chosen)
    names = [name for name, _ in ran]
    found = {name: stats[name].compute() for name in chosen}
    if held_out is None:
        accuracies = {name: one.ncm_accuracy or 0.0 for name, one in found.items()}
    found_rows = tuple(
        LayerRow(name, one.dim, one.nc1, one.nc1_ratio, accuracies[name], _after(model, names, _place(ran, name)))
        for name, one in found.items()
    )
    return Profile(found_rows, right / seen, held_out is not None, tolerance, k)


def _statistics(
    taps: Taps, call: Callable[[Any], Any], batches: Iterable[tuple[Any, Tensor | None]], k: int, keep: int
) -> tuple[dict[str, CollapseStatistics], int, int]:
    """Statistics of every layer, and the whole network's right answers."""
    stats: dict[str, CollapseStatistics] = {}
    right = seen = 0
    for inputs, labels in batches:
        call(inputs)
        labels, caught = required(labels), taps.take()
        for name, features in caught.layers.items():
            if name not in stats:
                stats[name] = CollapseStatistics(k, features.shape[1], keep=keep)
            stats[name].update(features, labels)
        right += int((caught.logits.argmax(1).cpu() == labels.cpu()).sum())
        seen += len(labels)
    return stats, right, seen


def _held_out(
    taps: Taps,
    call: Callable[[Any], Any],
    batches: Iterable[tuple[Any, Tensor | None]],
    stats: Mapping[str, CollapseStatistics],
    layers: Sequence[str],
) -> tuple[dict[str, float], int, int]:
    """Nearest-mean accuracy of every layer on other data, with the class means of the statistics."""
    means = {name: stats[name].means[stats[name].counts > 0] for name in layers}
    classes = {name: (stats[name].counts > 0).nonzero()[:, 0] for name in layers}
    hits = dict.fromkeys(layers, 0)
    right = seen = 0
    for inputs, labels in batches:
        call(inputs)
        labels, caught = required(labels), taps.take()
        for name in layers:
            near = classes[name][nearest_means(caught.layers[name].to(means[name].device), means[name])]
            hits[name] += int((near == labels.to(near.device)).sum())
        right += int((caught.logits.argmax(1).cpu() == labels.cpu()).sum())
        seen += len(labels)
    if not seen:
        raise InputError("the held-out loader gives no batches, so there is nothing to measure")
    return {name: count / seen for name, count in hits.items()}, right, seen


Ran = list[tuple[str, int]]


def _order(model: nn.Module, run: Callable[[], Any]) -> Ran:
    """Paths of the modules without children in the order in which they ran, and how many features each makes."""
    ran: Ran = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            fits = isinstance(tensor, Tensor) and tensor.ndim > 1 and not isinstance(module, PASSING)
            ran.append((name, pooled(tensor, module).shape[1] if fits else 0))

        return hook

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if name and not any(True for _ in module.children()):
                hooks.callback(module.register_forward_hook(note(name)).remove)
        run()
    return ran


def _default(ran: Ran, head: str) -> list[str]:
    """Layers that ran once, before the classifier, and make something new of at most so many features."""
    names = [name for name, _ in ran]
    end = len(names) - 1 - names[::-1].index(head) if head in names else len(names)
    return [name for name, dim in ran[:end] if 0 < dim <= MOST_FEATURES and names.count(name) == 1]


def _place(ran: Ran, layer: str) -> int:
    """Place of the last module of a layer that ran."""
    inside = [place for place, (name, _) in enumerate(ran) if name == layer or name.startswith(f"{layer}.")]
    return max(inside, default=-1)


def _after(model: nn.Module, ran: Sequence[str], place: int) -> int:
    """Parameters of the modules that ran only after a place."""
    modules = dict(model.named_modules())
    kept = {id(p) for name in ran[: place + 1] for p in modules[name].parameters()}
    tail = {id(p): p.numel() for name in ran[place + 1 :] for p in modules[name].parameters() if id(p) not in kept}
    return sum(tail.values())
