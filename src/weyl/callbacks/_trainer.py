"""Collapse metrics as a callback of the Trainer of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback

from weyl.callbacks._scalars import scalars
from weyl.callbacks._tally import IGNORE, Tally
from weyl.callbacks._tap import Listener, Tap
from weyl.errors import UsageError
from weyl.geometry import Collapse

__all__ = ["CollapseTrainerCallback"]

TIMING = "_runtime"  # the metric that every evaluation has, by which its prefix is known


class CollapseTrainerCallback(TrainerCallback):  # type: ignore[misc]
    """Collapse metrics of a model that ``transformers.Trainer`` trains, evaluates or tests.

    A hook on the classifier catches features and logits, another on the model the labels among its inputs. Passes in
    training mode are measured at the end of every epoch, as ``collapse_nc1`` and so on; passes in evaluation mode at
    the end of every evaluation, as ``eval_collapse_nc1``, which also joins the metrics that ``evaluate`` returns, so
    that ``metric_for_best_model`` may name it. No pass is added; over several processes the sums are joined.

    Parameters
    ----------
    num_classes : int
        Number of classes k.
    layer : str, optional
        Name of the classifier, e.g. ``"classifier"``; found as in :func:`weyl.callbacks.watch` unless given.
    every : int
        Every n-th batch is measured.
    label_name : str
        Input of the model that holds the labels.
    log : callable, optional
        Gets a dict of scalars. With ``callback.log = trainer.log``, after the trainer is made, they reach all its
        integrations, TensorBoard among them; without, they are appended to ``state.log_history``.
    class_weights, keep
        As in :class:`weyl.CollapseStatistics`.
    ignore_index : int
        Rows with this label are left out.

    Attributes
    ----------
    latest : dict of str to Collapse
        The last measurement, under ``train`` and under the prefix of each evaluation (``eval``, ``test``).

    Raises
    ------
    UsageError
        If an argument is out of range; while training, if the classifier cannot be found or no labels come.

    Notes
    -----
    The hooks are there from the beginning to the end of training. Trainer does not tell its callbacks about an
    exception, nor do they hear of an evaluation before it begins: inside ``with callback.watching(model):`` the hooks
    are there for evaluations alone, too, and are removed however the block is left.

    With label smoothing or ``compute_loss_func``, Trainer withholds the labels from the model: call
    ``callback.observe(labels)`` in the loss function.

    A label must stand where the classifier predicts it: sequences and tokens, but not causal language models, whose
    labels are shifted inside. Over several processes the last evaluation batch may repeat samples, as in Trainer's
    own metrics before they are cut.

    Examples
    --------
    >>> callback = CollapseTrainerCallback(num_classes=2)
    >>> # Trainer(model, args, train_dataset=data, callbacks=[callback]).train(); callback.latest["train"].nc1
    """

    def __init__(
        self,
        num_classes: int,
        layer: str | None = None,
        *,
        every: int = 1,
        label_name: str = "labels",
        log: Callable[[dict[str, float]], object] | None = None,
        class_weights: Sequence[float] | Tensor | None = None,
        keep: int | None = None,
        ignore_index: int = IGNORE,
    ) -> None:
        self.num_classes, self.layer, self.label_name, self.log = num_classes, layer, label_name, log
        self.latest: dict[str, Collapse] = {}
        self._model: nn.Module | None = None
        self._tap: Tap | None = None
        self._handle: RemovableHandle | None = None
        self._held = False
        self._unlabelled = 0
        self._tallies = {
            stage: Tally(num_classes, every, class_weights=class_weights, keep=keep, ignore_index=ignore_index)
            for stage in ("train", "eval")
        }

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[CollapseTrainerCallback]:
        """Keep the hooks in place inside a ``with`` block, and remove them however it is left.

        Parameters
        ----------
        model : nn.Module
            ``trainer.model``.
        """
        self._open(model)
        self._held = True
        try:
            yield self
        finally:
            self._held = False
            self._close()

    def observe(self, labels: Tensor) -> None:
        """Add the pass that has just been made, where the labels are not among the inputs of the model.

        Raises
        ------
        UsageError
            If no hooks are in place, there was no pass since, or the labels do not fit it.
        """
        if self._tap is None or self._model is None:
            raise UsageError("nothing is watched; train, or use `with callback.watching(trainer.model)`")
        stage = "train" if self._model.training else "eval"
        self._tallies[stage].add(self._tap.take(), labels)
        self._unlabelled = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Listen."""
        self._open(kwargs["model"])
        self._restart()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start an epoch anew."""
        self._tallies["train"].reset()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure and log."""
        found = self._measure("train", "train")
        if found is None and self._unlabelled:
            raise UsageError(
                f"the model was never called with {self.label_name}=; name the input with label_name=, or, with label "
                "smoothing or compute_loss_func, call observe(labels) in the loss function"
            )
        self._report(found, "collapse_", state)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Measure, log, and add to the metrics of the evaluation."""
        metrics = {} if metrics is None else metrics
        name = next((key.removesuffix(TIMING) for key in metrics if key.endswith(TIMING)), "eval")
        found = self._measure("eval", name)
        metrics.update(self._report(found, f"{name}_collapse_", state))

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Do as after an evaluation."""
        self.on_evaluate(args, state, control, metrics)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remove the hooks, unless a ``with`` block holds them."""
        if not self._held:
            self._close()

    def _open(self, model: nn.Module) -> None:
        if self._model is model:
            return
        self._close()
        tap = Tap(model, self.num_classes, self.layer)
        self._restart()
        self._model, self._tap = model, tap
        self._handle = model.register_forward_hook(Listener(model, self._passed), with_kwargs=True)
        tap.open()

    def _restart(self) -> None:
        for tally in self._tallies.values():
            tally.reset()
        self._unlabelled = 0

    def _close(self) -> None:
        if self._handle is not None:
            self._handle.remove()
        if self._tap is not None:
            self._tap.close()
        self._model = self._tap = self._handle = None

    def _passed(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        labels = kwargs.get(self.label_name)
        if labels is None:
            self._unlabelled += self._model is not None and self._model.training
        else:
            self.observe(labels)

    def _measure(self, stage: str, name: str) -> Collapse | None:
        if self._tap is None or self._model is None:
            return None
        device = next((p.device for p in self._model.parameters()), None)
        collapse = self._tallies[stage].compute(self._tap, device)
        if collapse is not None:
            self.latest[name] = collapse
        return collapse

    def _report(self, collapse: Collapse | None, prefix: str, state: Any) -> dict[str, float]:
        found = {} if collapse is None else scalars(collapse, prefix)
        if found and self.log is not None:
            self.log(dict(found))
        elif found:
            state.log_history.append({**found, "epoch": state.epoch, "step": state.global_step})
        return found
