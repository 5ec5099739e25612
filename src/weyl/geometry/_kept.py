"""A bounded sample of rows that depends on what was seen, and not on the order in which it came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Kept", "Rows", "directions"]

HASHED_COLUMNS = 7
SMALL = 256
MIX = (-4658895280553007687, -7723592293110705685)  # the multipliers of splitmix64, as signed integers


class Rows(NamedTuple):
    """Rows of a sample.

    Parameters
    ----------
    features : floating tensor, shape (n, dim)
        As they came.
    labels, predictions : int64 tensor, shape (n,)
        Their classes, and those that the logits say; -1 where there were no logits.
    times : int64 tensor, shape (n,)
        How often a row was seen: collapsed features repeat.
    hashes : int64 tensor, shape (n,)
        Of their content.
    """

    features: Tensor
    labels: Tensor
    predictions: Tensor
    times: Tensor
    hashes: Tensor

    def pick(self, rows: Tensor) -> Rows:
        """Return some of the rows, copied."""
        return Rows(*(tensor.index_select(0, rows) for tensor in self))

    def to(self, device: torch.device | str) -> Rows:
        """Return the rows on a device."""
        return Rows(*(tensor.to(device) for tensor in self))


@dataclass(frozen=True, eq=False)
class Kept:
    """At most ``capacity`` distinct rows: those whose hash is below a threshold, a uniform sample.

    The threshold is halved whenever there are too many, so at the end it is the largest power of two that leaves few
    enough, whatever the order of the rows and of the merges. A row below it was so all the time, hence the number of
    times that it was seen is exact.

    Parameters
    ----------
    capacity : int
        Largest number of rows.
    parts : tuple of Rows
        Chunks of rows.
    size : int
        Number of rows in the chunks.
    level : int
        How often the threshold was halved.

    References
    ----------
    Gibbons, "Distinct sampling for highly-accurate answers to distinct values queries", VLDB 2001.
    """

    capacity: int
    parts: tuple[Rows, ...] = ()
    size: int = 0
    level: int = 0

    def add(self, features: Tensor, labels: Tensor, predictions: Tensor, marks: Tensor) -> Kept:
        """Return the sample with more rows, copied; ``marks`` are numbers of shape (n, m) made of whole rows."""
        if self.capacity == 0 or not len(labels):
            return self
        hashes = _hashed(features, labels, marks)
        part = Rows(features, labels, predictions, torch.ones_like(labels), hashes)
        if self.level:
            part = part.pick((hashes < _threshold(self.level)).nonzero()[:, 0])
        else:
            part = Rows(features.clone(), labels.clone(), predictions.clone(), part.times, hashes)
        if not len(part.labels):
            return self
        parts = [*self.parts, part]
        # Small chunks join, each row a few times at most: a stream of single rows would leave thousands.
        while len(parts) > 1 and len(parts[-2].labels) <= min(2 * len(parts[-1].labels), SMALL):
            last = parts.pop()
            parts[-1] = Rows(*(torch.cat(pair) for pair in zip(parts[-1], last, strict=True)))
        grown = Kept(self.capacity, tuple(parts), self.size + len(part.labels), self.level)
        return grown if grown.size <= self.capacity else grown._cut(self.level)

    def merge(self, other: Kept) -> Kept:
        """Return the sample of both."""
        moved = other.to(self.parts[0].labels.device) if self.parts else other
        capacity, level = min(self.capacity, other.capacity), max(self.level, other.level)
        joint = Kept(capacity, self.parts + moved.parts, self.size + other.size, level)
        return joint if joint.size <= capacity and self.level == other.level else joint._cut(level)

    def rows(self) -> Rows:
        """Return the rows; equal ones may be in it several times, with the times of each."""
        return self._joined()

    def to(self, device: torch.device | str) -> Kept:
        """Return the sample on another device."""
        return Kept(self.capacity, tuple(part.to(device) for part in self.parts), self.size, self.level)

    def _cut(self, level: int) -> Kept:
        """Merge equal rows, and halve the threshold until there are few enough."""
        if not self.parts:
            return Kept(self.capacity, (), 0, level)
        hashes = torch.cat([part.hashes for part in self.parts])
        seen = torch.cat([part.times for part in self.parts])
        least, order = torch.sort(hashes, stable=True)
        distinct, place, numbers = torch.unique_consecutive(least, return_inverse=True, return_counts=True)
        times = torch.zeros_like(numbers).index_add_(0, place, seen[order])
        first = order[numbers.cumsum(0) - numbers]
        while (size := int((distinct < _threshold(level)).sum()) if level else len(distinct)) > self.capacity:
            level += 1
        # Part by part, since joining all features to pick some would copy them twice.
        chosen = torch.zeros_like(seen).index_copy_(0, first[:size], times[:size])
        left: list[Rows] = []
        for part, count in zip(self.parts, torch.split(chosen, [len(part.labels) for part in self.parts]), strict=True):
            rows = count.nonzero()[:, 0]
            if not len(rows):
                continue
            left.append(part.pick(rows)._replace(times=count[rows]))
        return Kept(self.capacity, tuple(left), size, level)

    def _joined(self) -> Rows:
        if not self.parts:
            empty = torch.empty(0, dtype=torch.int64)
            return Rows(torch.empty(0, 0), empty, empty, empty, empty)
        if len(self.parts) == 1:
            return self.parts[0]
        return Rows(*(torch.cat(list(column)) for column in zip(*self.parts, strict=True)))


def _threshold(level: int) -> int:
    """Least hash that is too large: hashes are spread evenly over the signed integers of 64 bits."""
    return -(2**63) + 2 ** (64 - level)


def directions(dim: int, device: torch.device | None = None) -> Tensor:
    """Two fixed random directions, float64 of shape (dim, 2), whose products with a row stand for all of it.

    Examples
    --------
    >>> directions(3).shape
    torch.Size([3, 2])
    """
    places = torch.arange(1, 2 * dim + 1, device=device)
    return (_mixed(places).double() / 2**63).reshape(dim, 2)


def _hashed(features: Tensor, labels: Tensor, marks: Tensor) -> Tensor:
    """Hash the content of every row, int64 of shape ``(n,)``.

    Its class, a few coordinates, and numbers made of all coordinates, to the precision of float32, beyond which they
    depend on the order of a sum.

    Examples
    --------
    >>> x = torch.arange(6.0).reshape(3, 2)
    >>> y = torch.zeros(3)
    >>> a, b = _hashed(x, y, x.sum(1, keepdim=True)), _hashed(x.flip(0), y, x.flip(0).sum(1, keepdim=True)).flip(0)
    >>> bool((a == b).all()), len(set(a.tolist()))
    (True, 3)
    """
    width = features.shape[1]
    columns = torch.linspace(0, width - 1, min(width, HASHED_COLUMNS), device=features.device).round().long()
    few = features.index_select(1, columns)
    # Adding zero turns -0.0 into 0.0.
    few = few + 0.0 if few.dtype == torch.float64 else few.float() + 0.0
    bits = [few.view(torch.int64 if few.dtype == torch.float64 else torch.int32).long()]
    bits.append((marks.float() + 0.0).view(torch.int32).long())
    words = torch.cat(bits, dim=1)
    odd = 2 * _mixed(torch.arange(1, words.shape[1] + 1, device=features.device)) + 1
    return _mixed((words * odd).sum(1) + labels.long() * MIX[0])


def _mixed(x: Tensor) -> Tensor:
    """Finish a hash: every bit of the input sways every bit of the result (splitmix64)."""
    for shift, factor in ((30, MIX[0]), (27, MIX[1])):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))
