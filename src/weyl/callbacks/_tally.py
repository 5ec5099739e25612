"""Statistics of a stage of training, over batches and over processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from weyl.callbacks._tap import Catch, Tap
from weyl.errors import UsageError
from weyl.geometry import Collapse, CollapseStatistics

__all__ = ["IGNORE", "Tally", "check_every"]

IGNORE = -100  # the label that losses of torch leave out unless told otherwise


class Tally:
    """Adds up what a tap catches, and measures it.

    Parameters
    ----------
    num_classes : int
        Number of classes.
    every : int
        Every n-th batch is added, from the first on.
    class_weights, keep
        As in :class:`weyl.CollapseStatistics`.
    ignore_index : int
        Rows with this label are left out.
    """

    def __init__(
        self,
        num_classes: int,
        every: int = 1,
        *,
        class_weights: Sequence[float] | Tensor | None = None,
        keep: int | None = None,
        ignore_index: int = IGNORE,
    ) -> None:
        check_every(every)
        self.num_classes, self.every, self.ignore_index = num_classes, every, ignore_index
        self._class_weights, self._keep = class_weights, keep
        self.reset()

    def reset(self) -> None:
        """Forget everything, also which batch is next."""
        self._statistics: CollapseStatistics | None = None
        self._batches = 0

    @property
    def count(self) -> int:
        """Samples seen on this process."""
        return self._statistics.count if self._statistics is not None else 0

    def add(self, catch: Catch, labels: Tensor) -> None:
        """Add a batch if it is its turn."""
        turn = self._batches % self.every == 0
        self._batches += 1
        if not turn:
            return
        # Statistics outlive the pass, which may run in inference mode. They are in float64, which autocast lets be.
        with torch.inference_mode(False), torch.no_grad():
            features, logits, labels = _rows(catch, labels, self.ignore_index)
            if self._statistics is None:
                self._statistics = self._new(features.shape[1], features.device)
            self._statistics.update(features, labels, logits)

    def compute(self, tap: Tap, device: torch.device | None = None) -> Collapse | None:
        """Measure what all processes have seen, and reset; None if that is nothing. Every process must call it.

        Parameters
        ----------
        tap : Tap
            Gives the weight and bias of the classifier.
        device : torch.device, optional
            Where a process that saw nothing takes part in the sums.
        """
        with torch.inference_mode(False), torch.no_grad():
            statistics = self._joint(tap, device)
            if statistics is None or not statistics.count:
                return None
            weight, bias = tap.parameters()
            if weight is not None and weight.shape[1] != statistics.dim:
                weight = bias = None
            collapse = statistics.compute(weight, bias)
        self.reset()
        return replace(collapse, layer=tap.layer or "")

    def _joint(self, tap: Tap, device: torch.device | None) -> CollapseStatistics | None:
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized()):
            return self._statistics
        # A process that was given no batch knows neither layer nor dimension, and has to take part all the same.
        own = None if self._statistics is None else (tap.layer, self._statistics.dim)
        found: list[tuple[str, int] | None] = [None] * dist.get_world_size()
        dist.all_gather_object(found, own)
        known = next((each for each in found if each is not None), None)
        if known is None:
            return None
        layer, dim = known
        tap.settle(layer)
        return (self._statistics or self._new(dim, device)).reduced()

    def _new(self, dim: int, device: torch.device | None) -> CollapseStatistics:
        return CollapseStatistics(
            self.num_classes, dim, class_weights=self._class_weights, keep=self._keep, device=device
        )


def check_every(every: int) -> None:
    """Refuse a step between batches that is not a positive integer."""
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise UsageError(f"every must be a positive integer, got {every!r}")


def _rows(catch: Catch, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """One row a label: tokens and positions count as samples; rows to ignore are left out."""
    features, logits = catch
    if not isinstance(labels, Tensor) or labels.is_floating_point():
        got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise UsageError(f"labels must be a tensor of class numbers, got {got}; mixed or soft labels have no class")
    if features.ndim < 2 or features.shape[:-1] != labels.shape or logits.shape[:-1] != labels.shape:
        raise UsageError(
            f"labels of shape {tuple(labels.shape)} do not fit features {tuple(features.shape)} and logits "
            f"{tuple(logits.shape)} of the classifier; give one label a row, or name another layer with layer="
        )
    features, logits, labels = features.flatten(0, -2), logits.flatten(0, -2), labels.flatten().to(features.device)
    rows = labels != ignore_index
    if not bool(rows.all()):
        features, logits, labels = features[rows], logits[rows], labels[rows]
    return features, logits, labels
