"""Collapse metrics in a plain training loop."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from torch import Tensor, nn

from weyl.callbacks._scalars import scalars
from weyl.callbacks._tally import IGNORE, Tally
from weyl.callbacks._tap import Tap
from weyl.errors import InputError
from weyl.geometry import Collapse

__all__ = ["ScalarWriter", "Watcher", "watch"]


class ScalarWriter(Protocol):
    """What writes scalars, e.g. ``torch.utils.tensorboard.SummaryWriter``."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Write one number."""


class Watcher:
    """Measures the classifier of a model while its loop runs; made by :func:`watch`.

    Used as a context manager: the hooks are there inside it only, however it is left.
    """

    def __init__(self, model: nn.Module, tap: Tap, tally: Tally, writer: ScalarWriter | None, tag: str) -> None:
        self._model, self._tap, self._tally, self._writer, self._tag = model, tap, tally, writer, tag
        self._computed = 0

    def __enter__(self) -> Watcher:
        self._tap.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tap.close()

    @property
    def layer(self) -> str | None:
        """Name of the classifier; None until it is found, at the first labels."""
        return self._tap.layer

    @property
    def count(self) -> int:
        """Samples seen on this process since the last measurement."""
        return self._tally.count

    def observe(self, labels: Tensor) -> None:
        """Add the forward pass that has just been made.

        Parameters
        ----------
        labels : integer tensor, shape (n,)
            Classes of the batch; with more dimensions if the classifier sees as many, e.g. a label a token.

        Raises
        ------
        UsageError
            If there was no forward pass since, or the labels do not fit it.
        InputError
            If a label is out of range.
        """
        self._tally.add(self._tap.take(), labels)

    def compute(self, step: int | None = None) -> Collapse:
        """Measure what was observed since the last time, write it if there is a writer, and start anew.

        With torch.distributed, over all processes, each of which must call it; the result is the same on each.

        Parameters
        ----------
        step : int, optional
            Step to write at; the number of measurements so far unless given.

        Returns
        -------
        Collapse
            The features as they were batch by batch, against the classifier as it is now.

        Raises
        ------
        InputError
            If nothing was observed.
        """
        device = next((p.device for p in self._model.parameters()), None)
        collapse = self._tally.compute(self._tap, device)
        if collapse is None:
            raise InputError("nothing was observed; call observe(labels) after a forward pass")
        if self._writer is not None:
            for name, value in scalars(collapse, f"{self._tag}/").items():
                self._writer.add_scalar(name, value, self._computed if step is None else step)
        self._computed += 1
        return collapse


def watch(
    model: nn.Module,
    num_classes: int,
    layer: str | None = None,
    every: int = 1,
    writer: ScalarWriter | None = None,
    *,
    tag: str = "collapse",
    class_weights: Sequence[float] | Tensor | None = None,
    keep: int | None = None,
    ignore_index: int = IGNORE,
) -> Watcher:
    r"""Measure the collapse of a model in the forward passes that its loop makes anyway.

    A hook on the classifier catches features and logits; :meth:`Watcher.observe` adds them under their labels, and
    :meth:`Watcher.compute` measures at the end of an epoch. Outputs, gradients, mode and random state of the model
    are as without it.

    Parameters
    ----------
    model : nn.Module
        The model. If it is to be compiled, enter before its first call: later, hooks may not be seen.
    num_classes : int
        Number of classes k.
    layer : str, optional
        Name of the classifier. Unless given, it is the one called last in the first pass among the modules with a
        weight of shape (k, d).
    every : int
        Every n-th batch is measured, from the first of an epoch on.
    writer : object with ``add_scalar``, optional
        Gets every metric, e.g. a TensorBoard ``SummaryWriter``; under torch.distributed give it to one process.
    tag : str
        The scalars are called ``tag/nc1`` and so on.
    class_weights, keep
        As in :class:`weyl.CollapseStatistics`.
    ignore_index : int
        Rows with this label are left out.

    Returns
    -------
    Watcher
        Context manager with ``observe(labels)`` and ``compute() -> Collapse``.

    Raises
    ------
    UsageError
        If the classifier cannot be found, or an argument is out of range.

    Notes
    -----
    A batch of n features costs n d² multiplications in float64, whatever the network costs; where that is much, as for
    d in the thousands on a CPU, take fewer batches by ``every``.

    In training the passes are measured as they are: with dropout, with the statistics of the batch, and each with the
    weights of its step. For the numbers of one fixed network, observe an evaluation loop, or use
    :func:`weyl.collapse`.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> generator = torch.Generator().manual_seed(0)
    >>> with watch(model, num_classes=2) as watcher:
    ...     for _ in range(4):
    ...         inputs, labels = torch.randn(16, 3, generator=generator), torch.arange(16) % 2
    ...         loss = torch.nn.functional.cross_entropy(model(inputs), labels)
    ...         watcher.observe(labels)
    ...     collapse = watcher.compute()
    >>> collapse.layer, collapse.samples, collapse.nc1 > 0
    ('2', 64, True)
    """
    tally = Tally(num_classes, every, class_weights=class_weights, keep=keep, ignore_index=ignore_index)
    return Watcher(model, Tap(model, num_classes, layer), tally, writer, tag)
