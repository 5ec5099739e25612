"""Collapse metrics as a callback of Lightning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from weyl.callbacks._scalars import scalars
from weyl.callbacks._tally import IGNORE, Tally
from weyl.callbacks._tap import Tap
from weyl.errors import UsageError
from weyl.geometry import Collapse

__all__ = ["CollapseCallback"]

STAGES = ("train", "val", "test")
LABEL_KEYS = ("labels", "label", "y", "target", "targets")


class CollapseCallback(Callback):
    """Collapse metrics of a LightningModule, logged at the end of every epoch.

    Training passes, validation passes and test passes are measured apart, as ``collapse/train/nc1``,
    ``collapse/val/nc1`` and so on, through ``pl_module.log_dict``: they reach every logger, and ``ModelCheckpoint``
    can monitor them. No pass is added; over several processes the sums are joined.

    Parameters
    ----------
    num_classes : int
        Number of classes k.
    layer : str, optional
        Name of the classifier in the LightningModule, e.g. ``"net.fc"``; found as in :func:`weyl.callbacks.watch`
        unless given.
    stages : sequence of {"train", "val", "test"}
        What to measure.
    every : int
        Every n-th batch is measured.
    labels : callable, optional
        Takes a batch and returns its labels; by default the second entry of a tuple, or the entry ``labels``,
        ``label``, ``y``, ``target`` or ``targets`` of a mapping.
    prefix : str
        Put before the name of every scalar.
    class_weights, keep
        As in :class:`weyl.CollapseStatistics`.
    ignore_index : int
        Rows with this label are left out.

    Attributes
    ----------
    latest : dict of str to Collapse
        The last measurement of each stage.

    Raises
    ------
    UsageError
        If an argument is out of range; while training, if no classifier or no labels can be found.

    Notes
    -----
    The hooks are removed at the end of ``fit``, ``validate`` and ``test``, and on an exception. What is measured in
    training is described at :func:`weyl.callbacks.watch`. Several validation sets are measured as one.

    Examples
    --------
    >>> callback = CollapseCallback(num_classes=10, stages=["val"])
    >>> # Trainer(callbacks=[callback]).fit(module, loader, loader); callback.latest["val"].nc1
    """

    def __init__(
        self,
        num_classes: int,
        layer: str | None = None,
        *,
        stages: Sequence[str] = ("train", "val"),
        every: int = 1,
        labels: Callable[[Any], Tensor] | None = None,
        prefix: str = "collapse/",
        class_weights: Sequence[float] | Tensor | None = None,
        keep: int | None = None,
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__()
        if isinstance(stages, str) or not stages or not set(stages) <= set(STAGES):
            raise UsageError(f"stages must be some of {', '.join(STAGES)}, got {stages!r}")
        self.num_classes, self.layer, self.prefix = num_classes, layer, prefix
        self.latest: dict[str, Collapse] = {}
        self._labels = find_labels if labels is None else labels
        self._tap: Tap | None = None
        self._tallies = {
            stage: Tally(num_classes, every, class_weights=class_weights, keep=keep, ignore_index=ignore_index)
            for stage in stages
        }

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen, from the first epoch on."""
        self._begin("train", pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the batch."""
        self._observe("train", batch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and log."""
        self._report("train", pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen, except in the sanity check."""
        if not trainer.sanity_checking:
            self._begin("val", pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the batch."""
        self._observe("val", batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and log."""
        self._report("val", pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen."""
        self._begin("test", pl_module)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the batch."""
        self._observe("test", batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and log."""
        self._report("test", pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hooks at the end of a run."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hooks after an exception."""
        self._close()

    def _begin(self, stage: str, module: LightningModule) -> None:
        if stage not in self._tallies:
            return
        if self._tap is None:
            self._tap = Tap(module, self.num_classes, self.layer)
        self._tap.open()
        self._tap.forget()
        self._tallies[stage].reset()

    def _observe(self, stage: str, batch: Any) -> None:
        if stage in self._tallies and self._tap is not None:
            self._tallies[stage].add(self._tap.take(), self._labels(batch))

    def _report(self, stage: str, module: LightningModule) -> None:
        if stage not in self._tallies or self._tap is None:
            return
        collapse = self._tallies[stage].compute(self._tap, module.device)
        if collapse is not None:
            self.latest[stage] = collapse
            # Every process holds the same numbers, so that their mean, which Lightning asks for, is no change.
            module.log_dict(scalars(collapse, f"{self.prefix}{stage}/"), on_step=False, on_epoch=True, sync_dist=True)

    def _close(self) -> None:
        if self._tap is not None:
            self._tap.close()
            self._tap = None


def find_labels(batch: Any) -> Tensor:
    """Find the labels of a batch: second of a tuple, or under a usual name of a mapping.

    Parameters
    ----------
    batch : tuple, list or mapping
        What a data loader gives.

    Raises
    ------
    UsageError
        If there are none.

    Examples
    --------
    >>> import torch
    >>> find_labels({"pixels": torch.zeros(2, 3), "label": torch.tensor([0, 1])})
    tensor([0, 1])
    """
    if isinstance(batch, Mapping):
        found = next((batch[key] for key in LABEL_KEYS if key in batch), None)
        what = f"a mapping of {', '.join(map(str, batch))}"
    else:
        found = batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
        what = f"a {type(batch).__name__}"
    if not isinstance(found, Tensor):
        raise UsageError(f"no labels found in {what}; pass labels=, a function from a batch to its labels")
    return found
