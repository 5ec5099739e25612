"""Everything that the collapse metrics need of a data set, gathered in one pass and mergeable."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from weyl.errors import InputError, UsageError
from weyl.geometry._checks import class_weighting, tensor, whole
from weyl.geometry._kept import Kept, directions
from weyl.geometry._moments import Moments, class_sums

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from weyl.geometry._collapse import Collapse

__all__ = ["CollapseStatistics"]

CHUNK_BYTES = 2**21  # of features in float64, so that the passes over a chunk stay in the cache
DEVICE_BYTES = 2**28  # elsewhere, where every chunk makes the host wait
KEPT_BYTES = 2**25
MOST_DIM = 2**15  # a scatter of 8 GiB
# Summed over samples, an entry for each class.
SUMS = ("norms", "correct", "risks")


class CollapseStatistics:
    r"""Counts, class means and scatter of features, mergeable, from one pass over the data.

    Per class c: the number :math:`n_c`, the mean :math:`\mu_c`, the trace of its scatter, norms, and of the logits
    the mean, the spread, the cross-entropy and the number of right answers. Over all classes: the within-class
    scatter :math:`S = \sum_c w_c \sum_{i \in c} (h_i - \mu_c)(h_i - \mu_c)^\top`. Sums are taken around a reference
    point for each class, the mean of its first batch, moved by Chan's formula when a larger batch comes and when
    statistics merge; so features of small variance around a large mean stay accurate, and a batch costs one matrix
    product. Everything is in float64, whatever the dtype of the features.

    A sample of the rows is kept for what needs the final means again (nearest class mean, bootstrap). It holds all
    rows until it is full, then those whose hash is below a threshold: the result does not depend on their order.

    Parameters
    ----------
    num_classes : int
        Number of classes k.
    dim : int
        Length d of a feature vector.
    class_weights : sequence of float or tensor, shape (k,), optional
        How much a sample of each class counts in S and in the risk; 1 unless given, so that S is pooled.
    keep : int, optional
        Most rows to keep; as many as fit in 32 MiB unless given, 0 for none.
    device : torch.device or str, optional
        Where the statistics live; that of the first features unless given.

    Raises
    ------
    UsageError
        If an argument is out of range.

    References
    ----------
    Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    Papyan, Han, Donoho, "Prevalence of neural collapse during the terminal phase of deep learning training",
    PNAS 117, 2020.

    Examples
    --------
    >>> import torch
    >>> from weyl import CollapseStatistics
    >>> generator = torch.Generator().manual_seed(0)
    >>> features, labels = torch.randn(60, 5, generator=generator), torch.arange(60) % 3
    >>> whole = CollapseStatistics(3, 5).update(features, labels)
    >>> parts = [CollapseStatistics(3, 5).update(features[i::2], labels[i::2]) for i in range(2)]
    >>> abs(whole.compute().nc1 - parts[0].merge(parts[1]).compute().nc1) < 1e-12
    True
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        class_weights: Sequence[float] | Tensor | None = None,
        keep: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.num_classes, self.dim = whole("num_classes", num_classes, 1), whole("dim", dim, 1)
        if dim > MOST_DIM:
            raise UsageError(f"dim must be at most {MOST_DIM:,}, since the scatter has dim² entries, got {dim:,}")
        self.class_weights = class_weighting("class_weights", class_weights, num_classes)
        self.keep = KEPT_BYTES // (4 * dim) if keep is None else whole("keep", keep, 0)
        self._device = None if device is None else torch.device(device)
        self.reset()

    def reset(self) -> None:
        """Forget everything that was seen."""
        self.has_logits: bool | None = None
        self.left_out = 0
        self.kept = Kept(self.keep)
        self._room: Tensor | None = None
        self._directions: Tensor | None = None
        self._start(self._device)

    def _start(self, device: torch.device | None) -> None:
        """Set all sums to zero, on a device."""
        k = self.num_classes
        self.features = Moments(k, self.dim, self.class_weights, device)
        self.logits = Moments(k, k, None, device)
        self.norms = torch.zeros(k, dtype=torch.float64, device=device)
        self.correct = torch.zeros_like(self.norms)
        self.risks = torch.zeros_like(self.norms)
        # The largest norm of a feature, and of centred logits.
        self.peaks = torch.zeros(2, dtype=torch.float64, device=device)

    @property
    def counts(self) -> Tensor:
        """Samples of each class, shape (k,)."""
        return self.features.counts

    @property
    def count(self) -> int:
        """Number of samples; those left out for NaN or infinity are not among them."""
        return int(self.counts.sum())

    @property
    def means(self) -> Tensor:
        """Class means, float64 of shape (k, d); zero for a class without samples."""
        return self.features.means

    @property
    def scatter(self) -> Tensor:
        """Within-class scatter S, float64 of shape (d, d)."""
        return self.features.scatter

    @property
    def device(self) -> torch.device:
        """Where the statistics live."""
        return self.peaks.device

    def update(self, features: Tensor, labels: Tensor, logits: Tensor | None = None) -> CollapseStatistics:
        """Add a batch; rows with NaN, infinity or a norm beyond 1e154 are left out and counted in ``left_out``.

        Parameters
        ----------
        features : floating tensor, shape (n, d)
            Any floating dtype, any device.
        labels : integer tensor, shape (n,)
            Classes, from 0 to k - 1.
        logits : floating tensor, shape (n, k), optional
            What the classifier made of the features; on every update or on none.

        Returns
        -------
        CollapseStatistics
            Itself, so that calls can be chained.

        Raises
        ------
        InputError
            If a label is out of range.
        UsageError
            If a shape or dtype does not fit.
        """
        features, labels, logits = self._checked(features, labels, logits)
        if self._device is None and self.device != features.device and not self.count:
            # Sums need float64, which not every device has.
            self._start(torch.device("cpu") if features.device.type == "mps" else features.device)
        rows = max(1, (CHUNK_BYTES if self.device.type == "cpu" else DEVICE_BYTES) // (8 * self.dim))
        for start in range(0, len(labels), rows):
            part = slice(start, start + rows)
            self._add(features[part], labels[part], None if logits is None else logits[part])
        return self

    def merge(self, other: CollapseStatistics) -> CollapseStatistics:
        """Return new statistics of the samples of both; associative and commutative up to rounding.

        Raises
        ------
        UsageError
            If the two do not describe the same classes, dimension and class weights.
        """
        if not isinstance(other, CollapseStatistics):
            raise UsageError(f"only CollapseStatistics merge, got {type(other).__name__}")
        same = (other.num_classes, other.dim) == (self.num_classes, self.dim)
        if not same or not torch.equal(self.class_weights, other.class_weights):
            raise UsageError(
                f"only statistics of the same classes, dimension and class weights merge, got {self} and {other}"
            )
        if self.count and other.count and self.has_logits != other.has_logits:
            raise UsageError("statistics with logits and statistics without do not merge; give logits to both")
        first, second = (self, other) if self.count else (other, self)
        second = second.to(first.device)
        new = first._empty()
        new.features = first.features.merge(second.features)
        new.logits = first.logits.merge(second.logits)
        for name in SUMS:
            setattr(new, name, getattr(first, name) + getattr(second, name))
        new.peaks = torch.maximum(first.peaks, second.peaks)
        new.kept = first.kept.merge(second.kept)
        new.has_logits = first.has_logits if first.count else second.has_logits
        new.left_out = first.left_out + second.left_out
        return new

    def reduced(self, group: ProcessGroup | None = None) -> CollapseStatistics:
        """Return the statistics of all processes of a group, the same on each; itself without torch.distributed.

        Every process must call it. Sums travel as sums, around the common means, and the kept rows as they are.

        Parameters
        ----------
        group : ProcessGroup, optional
            The default group unless given.

        Raises
        ------
        UsageError
            If some processes gave logits and others did not.
        """
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized()):
            return self
        found: list[tuple[Kept, int, bool | None]] = [None] * dist.get_world_size(group)  # type: ignore[list-item]
        dist.all_gather_object(found, (self.kept.to("cpu"), self.left_out, self.has_logits), group=group)
        given = {has for _, _, has in found if has is not None}
        if len(given) > 1:
            raise UsageError("some processes gave logits and others did not; give them on all or none")
        new = self._empty()
        new.features, new.logits = self.features.reduced(group), self.logits.reduced(group)
        for name in SUMS:
            setattr(new, name, getattr(self, name).clone())
            dist.all_reduce(getattr(new, name), group=group)
        new.peaks = self.peaks.clone()
        dist.all_reduce(new.peaks, dist.ReduceOp.MAX, group=group)
        kept = found[0][0]
        for other, _, _ in found[1:]:
            kept = kept.merge(other)
        new.kept = kept.to(self.device)
        new.left_out = sum(left_out for _, left_out, _ in found)
        new.has_logits = given.pop() if given else None
        return new

    def to(self, device: torch.device | str) -> CollapseStatistics:
        """Return the statistics on another device; itself if they are there."""
        device = torch.device(device)
        if device == self.device:
            return self
        new = copy.copy(self)
        new._room = None
        new.features, new.logits = self.features.to(device), self.logits.to(device)
        for name in (*SUMS, "peaks"):
            setattr(new, name, getattr(self, name).to(device))
        new.kept = self.kept.to(device)
        return new

    def compute(
        self,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        ood: CollapseStatistics | Tensor | None = None,
        prior: str | Sequence[float] | Tensor = "uniform",
        bootstrap: int = 0,
        seed: int = 0,
        names: Sequence[str] | None = None,
    ) -> Collapse:
        """Compute every metric that the statistics allow.

        Parameters
        ----------
        weight : tensor, shape (k, d), optional
            The classifier's matrix, for its alignment with the means (NC3) and its agreement with the nearest (NC4).
        bias : tensor, shape (k,), optional
            The classifier's bias; zero unless given.
        ood : CollapseStatistics or tensor, shape (d,), optional
            Out-of-distribution features, or their mean, for NC5.
        prior : {"uniform", "data"} or sequence of float, shape (k,)
            Weights of the classes in the global mean and in the between-class covariance. The S_k-symmetric metrics
            (NC2, NC3, S_k defect) weigh classes equally always.
        bootstrap : int
            Number of resamples for 95 % intervals, drawn within each class from the kept rows; 0 for none.
        seed : int
            Of the resamples.
        names : sequence of str, optional
            Names of the classes; their numbers unless given.

        Returns
        -------
        Collapse
            The metrics, with chance levels and floors.

        Raises
        ------
        InputError
            If nothing was seen.
        UsageError
            If a shape does not fit.
        """
        from weyl.geometry._compute import compute

        return compute(self, weight, bias, ood=ood, prior=prior, bootstrap=bootstrap, seed=seed, names=names)

    def __repr__(self) -> str:
        return f"CollapseStatistics(num_classes={self.num_classes}, dim={self.dim}, count={self.count})"

    def _checked(self, features: Tensor, labels: Tensor, logits: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Check shapes, dtypes and range of a batch; leave out rows that are not finite."""
        k = self.num_classes
        features, labels = tensor("features", features), tensor("labels", labels)
        logits = None if logits is None else tensor("logits", logits)
        if features.ndim != 2 or features.shape[1] != self.dim or not features.is_floating_point():
            raise UsageError(
                f"features must be floating of shape (n, {self.dim}), got {features.dtype} {tuple(features.shape)}"
            )
        if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            one = "; a data set gives single samples: wrap it in a DataLoader" if not labels.ndim else ""
            raise UsageError(f"labels must be integers of shape (n,), got {labels.dtype} {tuple(labels.shape)}{one}")
        if len(labels) != len(features):
            raise UsageError(f"features and labels must be as many, got {len(features)} and {len(labels)}")
        if logits is not None and (logits.shape != (len(labels), k) or not logits.is_floating_point()):
            raise UsageError(
                f"logits must be floating of shape ({len(labels)}, {k}), got {logits.dtype} {tuple(logits.shape)}"
            )
        if not len(labels):
            return features, labels, logits
        if self.has_logits is not None and self.has_logits != (logits is not None):
            raise UsageError("logits must be given on every update or on none")
        labels = labels.to(features.device).long()
        low, high = (int(end) for end in torch.aminmax(labels))
        if low < 0 or high >= k:
            raise InputError(
                f"label {low if low < 0 else high} is out of range: with num_classes={k} labels go from 0 to {k - 1}"
            )
        self.has_logits = logits is not None
        return features, labels, logits

    def _add(self, features: Tensor, labels: Tensor, logits: Tensor | None) -> None:
        """Add a chunk whose shapes and labels were checked."""
        features, labels = features.to(self.device), labels.to(self.device)
        logits = None if logits is None else logits.to(self.device).double()
        rows, room = self._working_room(len(labels))
        rows.copy_(features)
        norms = torch.linalg.vector_norm(rows, dim=1)
        finite = norms.isfinite() if logits is None else norms.isfinite() & logits.isfinite().all(1)
        if not bool(finite.all()):
            self.left_out += int((~finite).sum())
            features, labels, rows, norms = features[finite], labels[finite], rows[finite], norms[finite]
            room, logits = room[: len(labels)], None if logits is None else logits[finite]
            if not len(labels):
                return
        if self._directions is None or self._directions.device != self.device:
            self._directions = directions(self.dim, self.device)
        marks = torch.cat([norms[:, None], rows @ self._directions], dim=1)
        self.features.add(rows, labels, room)
        self.norms += class_sums(norms, labels, self.num_classes)
        self.peaks[0] = torch.maximum(self.peaks[0], norms.max())
        predictions = torch.full_like(labels, -1) if logits is None else self._add_logits(logits, labels)
        self.kept = self.kept.add(features, labels, predictions, marks)

    def _add_logits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Add a chunk of logits and return the classes that they predict."""
        k = self.num_classes
        predictions = logits.argmax(1)
        self.correct += class_sums((predictions == labels).double(), labels, k)
        self.risks += class_sums(torch.nn.functional.cross_entropy(logits, labels, reduction="none"), labels, k)
        centred = logits - logits.mean(1, keepdim=True)
        self.peaks[1] = torch.maximum(self.peaks[1], torch.linalg.vector_norm(centred, dim=1).max())
        self.logits.add(centred, labels)
        return predictions

    def _working_room(self, rows: int) -> tuple[Tensor, Tensor]:
        """Memory for a chunk of features in float64, twice; kept from one update to the next."""
        if self._room is None or self._room.shape[1] < rows or self._room.device != self.device:
            self._room = torch.empty(2, rows, self.dim, dtype=torch.float64, device=self.device)
        return self._room[0, :rows], self._room[1, :rows]

    def _empty(self) -> CollapseStatistics:
        """Make statistics of the same shape that have seen nothing."""
        new = CollapseStatistics(self.num_classes, self.dim, class_weights=self.class_weights, keep=self.keep)
        new._device = self._device
        return new
