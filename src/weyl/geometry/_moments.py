"""Class by class: counts, means, traces and a pooled scatter, in one pass, mergeable, in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["Moments", "class_sums"]

BLOCKS = 4


class Moments:
    r"""First and second moments of rows, class by class.

    For class c and a reference point :math:`r_c`: :math:`n_c`, the offset :math:`t_c = \sum (x - r_c)`, the square
    :math:`\sum \|x - r_c\|^2`, and over all classes :math:`S_r = \sum_c w_c \sum (x - r_c)(x - r_c)^\top`. A batch with
    more rows of a class than were seen so far moves the reference to its own mean. So the true within-class scatter,
    :math:`S_r - \sum_c w_c t_c t_c^\top / n_c`, is no difference of large numbers: what the subtraction can lose is at
    most a factor :math:`n_c` over the size of that batch, and typically one half.

    Parameters
    ----------
    k, dim : int
        Number of classes, and length of a row.
    weights : tensor, shape (k,), or None
        Weights in the scatter; None for no scatter.
    device : torch.device or None
        Where to keep them.
    """

    def __init__(self, k: int, dim: int, weights: Tensor | None, device: torch.device | None = None) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.counts = zeros(k)
        self.squares = zeros(k)
        self.reference = zeros(k, dim)
        self.offsets = zeros(k, dim)
        self.weights = None if weights is None else weights.to(device)
        self.raw = None if weights is None else zeros(dim, dim)
        self._weighted = weights is not None and bool((weights != 1).any())

    @property
    def means(self) -> Tensor:
        """Class means, shape (k, dim); zero for a class without rows."""
        return self.reference + self.offsets / self.counts.clamp_min(1)[:, None]

    @property
    def traces(self) -> Tensor:
        """Sum of squared distances to the class mean, shape (k,)."""
        return (self.squares - self.offsets.square().sum(1) / self.counts.clamp_min(1)).clamp_min(0)

    @property
    def scatter(self) -> Tensor:
        """Within-class scatter, shape (dim, dim), symmetric."""
        assert self.raw is not None and self.weights is not None
        scaled = self.offsets * (self.weights / self.counts.clamp_min(1)).sqrt()[:, None]
        upper = torch.addmm(self.raw, scaled.T, scaled, alpha=-1).triu_()
        return upper + upper.triu(1).T

    def add(self, rows: Tensor, labels: Tensor, room: Tensor | None = None) -> None:
        """Add rows, float64 of shape (n, dim), of classes ``labels``; ``room`` is overwritten, of the same shape."""
        k = len(self.counts)
        counts = torch.bincount(labels, minlength=k).double()
        grown = counts > self.counts
        if bool(grown.any()):
            which = grown.nonzero()[:, 0]
            place = torch.cumsum(grown, 0) - 1
            own = grown[labels]
            sums = class_sums(rows[own], place[labels[own]], len(which))
            self._move(which, sums / counts[which, None])
        # Into the gathered references: fresh megabytes would cost more than the subtraction.
        room = torch.empty_like(rows) if room is None else room
        centred = torch.index_select(self.reference, 0, labels, out=room)
        torch.sub(rows, centred, out=centred)
        self.counts = self.counts + counts
        self.offsets.index_add_(0, labels, centred)
        self.squares = self.squares + class_sums(torch.linalg.vector_norm(centred, dim=1).square(), labels, k)
        if self.raw is not None and self.weights is not None:
            other = centred * self.weights[labels, None] if self._weighted else centred
            # Row blocks of the upper triangle: the rest is its mirror image, and three eighths of the work are saved.
            step = -(-len(self.raw) // BLOCKS)
            for start in range(0, len(self.raw), step):
                rows = centred[:, start : start + step]
                self.raw[start : start + step, start:].addmm_(rows.T, other[:, start:])

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both, around their common means."""
        total = self.counts + other.counts
        share = other.counts / total.clamp_min(1)
        means = self.means + (other.means - self.means) * share[:, None]
        first, second = self._around(means), other._around(means)
        for name in ("counts", "offsets", "squares"):
            setattr(first, name, getattr(first, name) + getattr(second, name))
        if first.raw is not None and second.raw is not None:
            first.raw = first.raw + second.raw
        return first

    def reduced(self, group: ProcessGroup | None) -> Moments:
        """Return the sum over the processes of a group."""
        import torch.distributed as dist

        total = self.counts.clone()
        dist.all_reduce(total, group=group)
        means = self.means * (self.counts / total.clamp_min(1))[:, None]
        dist.all_reduce(means, group=group)
        new = self._around(means)
        for tensor in (new.counts, new.offsets, new.squares, *([] if new.raw is None else [new.raw])):
            dist.all_reduce(tensor, group=group)
        return new

    def to(self, device: torch.device) -> Moments:
        """Return a copy on a device."""
        new = self.copy()
        for name, value in list(vars(new).items()):
            if isinstance(value, Tensor):
                setattr(new, name, value.to(device))
        return new

    def copy(self) -> Moments:
        """Return a copy that shares no tensor."""
        new = Moments.__new__(Moments)
        for name, value in vars(self).items():
            setattr(new, name, value.clone() if isinstance(value, Tensor) else value)
        return new

    def _around(self, reference: Tensor) -> Moments:
        """Copy with other reference points."""
        new = self.copy()
        new._move(torch.arange(len(self.counts), device=self.counts.device), reference)
        return new

    def _move(self, which: Tensor, reference: Tensor) -> None:
        r"""Move the reference points of some classes.

        With :math:`d = r - r'`, sums of :math:`(x-r')(x-r')^\top` are those of :math:`(x-r)(x-r)^\top` plus
        :math:`t d^\top + d t^\top + n d d^\top`.
        """
        counts, offsets = self.counts[which][:, None], self.offsets[which]
        step = torch.where(counts > 0, self.reference[which] - reference, 0.0)
        if self.raw is not None and self.weights is not None and bool(step.any()):
            moved = step.any(1).nonzero()[:, 0]
            # (t + n d / 2) d' + d (t + n d / 2)'
            half = ((offsets + counts * step / 2) * self.weights[which, None])[moved]
            cross = half.T @ step[moved]
            self.raw = self.raw + cross + cross.T
        self.squares[which] += ((2 * offsets + counts * step) * step).sum(1)
        self.offsets[which] = offsets + counts * step
        self.reference[which] = reference


def class_sums(values: Tensor, labels: Tensor, k: int) -> Tensor:
    """Sum rows class by class: ``(n,)`` to ``(k,)``, or ``(n, m)`` to ``(k, m)``."""
    return values.new_zeros(k, *values.shape[1:]).index_add_(0, labels, values)
