"""Collapse metrics as a metric of torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from weyl.callbacks._scalars import scalars
from weyl.errors import InputError, UsageError
from weyl.geometry import Collapse, CollapseStatistics
from weyl.geometry._pack import merge_packed, pack, unpack

__all__ = ["CollapseMetric"]

KEEP = 4096


class CollapseMetric(Metric):
    """Collapse metrics as a ``torchmetrics.Metric``: in a collection, in Lightning, over processes.

    Its state is one vector, which its own reduction merges: class means move when processes are joined, so that
    adding the vectors would not do. The result is that of one process that saw everything.

    Parameters
    ----------
    num_classes, dim : int
        Number of classes k and length d of a feature vector.
    keep : int
        Rows kept for the metrics that need the final means again (NC4, accuracy of the nearest mean): exact as long
        as there are no more samples. They travel with the state, hence fewer than elsewhere.
    class_weights
        As in :class:`weyl.CollapseStatistics`.
    prefix : str
        Put before the name of every metric.
    **options
        Of ``torchmetrics.Metric``, e.g. ``sync_on_compute``.

    Raises
    ------
    UsageError
        If an argument is out of range.

    Examples
    --------
    >>> metric = CollapseMetric(num_classes=3, dim=4)
    >>> metric.update(torch.eye(4)[:3].repeat(2, 1), torch.arange(3).repeat(2))
    >>> found = metric.compute()
    >>> round(float(found["nc1"]), 6), round(float(found["equiangular"]), 6)
    (0.0, 0.0)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    classifier: Tensor

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        keep: int = KEEP,
        class_weights: Sequence[float] | Tensor | None = None,
        prefix: str = "",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.num_classes, self.dim, self.prefix = num_classes, dim, prefix
        empty = CollapseStatistics(num_classes, dim, class_weights=class_weights, keep=keep)
        self._empty = empty
        # Both as empty as can be: `reset` copies the defaults.
        self.add_state("packed", torch.empty(0, dtype=torch.float64), partial(merge_packed, empty=empty))
        self.add_state("classifier", torch.full((num_classes, dim + 2), torch.nan, dtype=torch.float64), latest)

    @property
    def packed(self) -> Tensor:
        """The statistics as a vector, made when asked for."""
        return pack(self._statistics)

    @packed.setter
    def packed(self, value: Tensor) -> None:
        # On the device of the vector, so that moving the state moves the statistics.
        self._statistics = unpack(value, self._empty.merge(self._empty).to(value.device))

    def __hash__(self) -> int:
        # torchmetrics hashes the states, which would pack them whenever a module's children are listed.
        return hash((type(self).__name__, id(self)))

    def update(
        self,
        features: Tensor,
        labels: Tensor,
        logits: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Parameters
        ----------
        features : floating tensor, shape (n, d)
            Input of the classifier.
        labels : integer tensor, shape (n,)
            Classes, from 0 to k - 1.
        logits : floating tensor, shape (n, k), optional
            Output of the classifier; on every update or on none.
        weight : tensor, shape (k, d), optional
            The classifier's matrix, for NC3; of the updates that give one, the last counts.
        bias : tensor, shape (k,), optional
            The classifier's bias.

        Raises
        ------
        UsageError
            If a shape or dtype does not fit.
        InputError
            If a label is out of range.
        """
        with torch.no_grad():
            classifier = self.classifier if weight is None else self._classifier(weight, bias)
            self._statistics.update(features, labels, logits)
            self.classifier = classifier

    def compute(self) -> dict[str, Tensor]:
        """Measure, on all processes together: the scalars of :data:`weyl.geometry.METRICS` that could be measured.

        Raises
        ------
        InputError
            If nothing was seen.
        """
        found = scalars(self.collapse(), self.prefix)
        return {name: torch.tensor(value, dtype=torch.float64, device=self.device) for name, value in found.items()}

    def collapse(self) -> Collapse:
        """The whole measurement, with chance levels and matrices, of what this process holds.

        Raises
        ------
        InputError
            If nothing was seen.
        """
        if not self._statistics.count:
            raise InputError("nothing was seen; call update(features, labels) before compute()")
        rows = self.classifier
        weight = None if bool(torch.isnan(rows[0, 0])) else rows[:, : self.dim]
        bias = rows[:, self.dim] if weight is not None and bool(rows[0, -1]) else None
        return self._statistics.compute(weight, bias)

    def _classifier(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Weight, bias (zero without) and a mark whether there is one, as one matrix."""
        k, d = self.num_classes, self.dim
        if weight.shape != (k, d) or (bias is not None and bias.shape != (k,)):
            got = f"{tuple(weight.shape)} and {None if bias is None else tuple(bias.shape)}"
            raise UsageError(f"weight and bias must have shapes ({k}, {d}) and ({k},), got {got}")
        rows = torch.zeros_like(self.classifier)
        rows[:, :d] = weight.detach()
        if bias is not None:
            rows[:, d], rows[:, -1] = bias.detach(), 1
        return rows


def latest(stacked: Tensor) -> Tensor:
    """The last entry that was given; the first axis runs over processes, or over times."""
    given = (~torch.isnan(stacked[:, 0, 0])).nonzero()
    return stacked[int(given[-1])] if len(given) else stacked[0]
