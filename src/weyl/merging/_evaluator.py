"""Judge any state dict of a network on data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from weyl.errors import UsageError
from weyl.matching._batches import Batch, Network, check_data, check_model, read_batches, undisturbed

__all__ = ["Evaluation", "evaluator", "judged"]

Judge = Callable[..., Any]
LOSS = "loss"
# What torch's cross-entropy passes over.
IGNORED = -100


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a network makes of data, batch by batch. ``float(evaluation)`` is the mean loss.

    Parameters
    ----------
    batches : mapping of str to float64 array, shape (batches,)
        ``"loss"``, and every metric: means over the samples of each batch.
    sizes : int64 array, shape (batches,)
        Samples of each batch.
    """

    batches: Mapping[str, Float64[np.ndarray, "batches"]]  # noqa: F821 (jaxtyping reads a dimension, not a name)
    sizes: Int64[np.ndarray, "batches"]  # noqa: F821

    def mean(self, name: str = LOSS) -> float:
        """Mean of the loss or a metric over all samples.

        Raises
        ------
        UsageError
            If nothing of this name was measured.
        """
        if name not in self.batches:
            raise UsageError(f"{name!r} was not measured; there are {', '.join(map(repr, self.batches))}")
        return float(np.average(self.batches[name], weights=self.sizes))

    @property
    def means(self) -> dict[str, float]:
        """All means, by name."""
        return {name: self.mean(name) for name in self.batches}

    def __float__(self) -> float:
        return self.mean()

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {mean:.6g}" for name, mean in self.means.items())
        return f"Evaluation({shown}; {int(self.sizes.sum())} samples in {len(self.sizes)} batches)"


def evaluator(
    model: nn.Module, data: Iterable[Any], loss: Judge | None = None, metrics: Mapping[str, Judge] | None = None
) -> Callable[[Mapping[str, Tensor]], Evaluation]:
    """Make a function that judges any state dict of a network on data.

    The network is run in evaluation mode without gradients, on the device and in the precision of the state; floating
    inputs follow. The model's own weights are not used, and it is left as it was. Every call reads the data again: to
    compare batch by batch, it must give the same ones each time.

    Parameters
    ----------
    model : nn.Module
        The network.
    data : iterable
        Batches ``(inputs, targets, ...)`` that can be iterated again; inputs are a tensor, a tuple of arguments or a
        mapping of keyword arguments. Or such mappings alone, of a network whose outputs have a ``loss``.
    loss : callable, optional
        ``loss(outputs, *targets)``, the mean over a batch. Cross-entropy unless given.
    metrics : mapping of str to callable, optional
        More such functions, by name. With the default loss of class targets, ``accuracy`` unless given.

    Returns
    -------
    callable
        From a state to an `Evaluation`: means over batches, weighted by their numbers of samples.

    Raises
    ------
    UsageError
        If something else than a module, or data that cannot be iterated again is given; when it is called, if there
        are no samples, or a loss is needed.
    MismatchError
        When it is called, if the state is none of the model's.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> net = nn.Linear(2, 2)
    >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 1, 1])
    >>> judge = evaluator(net, [(x[:2], y[:2]), (x[2:], y[2:])])
    >>> judge({"weight": 9 * torch.eye(2), "bias": torch.zeros(2)}).mean("accuracy")
    0.6666666666666666
    """
    check_model(model)
    check_data(data)
    if metrics and LOSS in metrics:
        raise UsageError("a metric must not be called 'loss', which is the name of the loss: rename it")

    def evaluate(state: Mapping[str, Tensor]) -> Evaluation:
        network = Network(model, state)
        values: dict[str, list[Any]] = {}
        sizes = []
        with undisturbed(model, network.place):
            for batch in read_batches(data, network.place):
                for name, value in judged(network(batch), batch, loss, metrics).items():
                    values.setdefault(name, []).append(value)
                sizes.append(batch.size)
        batches = {name: np.array([float(v) for v in several]) for name, several in values.items()}
        short = next((name for name, several in batches.items() if len(several) != len(sizes)), None)
        if short is not None:
            raise UsageError(f"{short!r} can be measured for some batches only: give all of them targets of one kind")
        return Evaluation(batches, np.array(sizes, dtype=np.int64))

    return evaluate


def judged(outputs: Any, batch: Batch, loss: Judge | None, metrics: Mapping[str, Judge] | None) -> dict[str, Any]:
    """Loss and metrics of one batch.

    Parameters
    ----------
    outputs
        What the network made of it.
    batch : Batch
        With its targets.
    loss, metrics
        As for `evaluator`.

    Returns
    -------
    dict of str to number or tensor
        ``"loss"``, and the metrics.

    Raises
    ------
    UsageError
        If a loss is needed.
    """
    found: dict[str, Any] = {}
    if loss is not None:
        found[LOSS] = loss(outputs, *batch.targets)
    elif not batch.targets and isinstance(getattr(outputs, LOSS, None), Tensor):
        found[LOSS] = outputs.loss
    else:
        logits, classes = _logits(outputs), _classes(batch)
        logits, classes = _rows(logits, classes)
        found[LOSS] = nn.functional.cross_entropy(logits, classes, ignore_index=IGNORED)
        if metrics is None:
            found["accuracy"] = (logits.argmax(1) == classes)[classes != IGNORED].double().mean()
    return found | {name: metric(outputs, *batch.targets) for name, metric in (metrics or {}).items()}


def _logits(outputs: Any) -> Tensor:
    for found in (
        outputs,
        getattr(outputs, "logits", None),
        outputs[0] if isinstance(outputs, (tuple, list)) else None,
    ):
        if isinstance(found, Tensor) and found.ndim > 1:
            return found.float() if found.dtype in (torch.float16, torch.bfloat16) else found
    raise UsageError(f"no logits of shape (n, classes) in {type(outputs).__name__}: give loss=, of outputs and targets")


def _classes(batch: Batch) -> Tensor:
    classes = batch.targets[0] if batch.targets else None
    if not isinstance(classes, Tensor) or classes.is_floating_point() or classes.is_complex():
        kind = f"{classes.dtype} targets" if isinstance(classes, Tensor) else "no tensor of targets"
        raise UsageError(
            f"cross-entropy needs batches (inputs, classes) with integer classes, got {kind}: give them, or loss="
        )
    return classes.long()


def _rows(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Logits with one row for every class target: the classes may be the last dimension, or the second."""
    if logits.shape[:-1] == classes.shape:
        return logits.flatten(0, -2), classes.flatten()
    if logits.shape[:1] + logits.shape[2:] == classes.shape:
        return logits.movedim(1, -1).flatten(0, -2), classes.flatten()
    raise UsageError(f"logits of shape {tuple(logits.shape)} do not fit classes of shape {tuple(classes.shape)}")
