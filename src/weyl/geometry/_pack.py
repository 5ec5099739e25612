"""Collapse statistics as one vector, for frameworks that move and add up tensors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from weyl.geometry._kept import Kept, Rows
from weyl.geometry._statistics import CollapseStatistics

__all__ = ["merge_packed", "pack", "unpack"]

MOMENTS = ("counts", "offsets", "raw", "reference", "squares")
TOTALS = ("correct", "norms", "peaks", "risks")
# samples that were left out, logits (0 unknown, 1 without, 2 with), number and level of the kept rows, 1 if not empty
HEADER = 5


def pack(statistics: CollapseStatistics) -> Tensor:
    """Write statistics into one float64 vector, whose length depends on classes, dimension and capacity only.

    Parameters
    ----------
    statistics : CollapseStatistics
        Not changed.

    Returns
    -------
    tensor, shape (length,)
        Header, sums, and the kept rows, padded.
    """
    features, *numbers = statistics.kept.rows()
    n, device = len(numbers[0]), statistics.device
    rows = torch.zeros(statistics.keep, _width(statistics), dtype=torch.float64, device=device)
    if n:
        rows[:n] = torch.cat([features.double(), *(half[:, None].double() for x in numbers for half in _halves(x))], 1)
    logits = 0 if statistics.has_logits is None else 1 + int(statistics.has_logits)
    header = torch.tensor(
        [statistics.left_out, logits, n, statistics.kept.level, 1], dtype=torch.float64, device=device
    )
    sums = [getattr(owner, name).flatten() for owner, name in _sums(statistics)]
    return torch.cat([header, *sums, rows.flatten()])


def unpack(packed: Tensor, empty: CollapseStatistics) -> CollapseStatistics:
    """Read statistics from a vector of :func:`pack`.

    Parameters
    ----------
    packed : tensor, shape (length,)
        The vector; an empty one stands for nothing seen.
    empty : CollapseStatistics
        Fresh statistics of the same classes, dimension, weights and capacity, on the device of the vector; they are
        filled and returned.
    """
    if not len(packed) or not float(packed[HEADER - 1]):
        return empty
    packed = packed.detach().double()
    left_out, logits, n, level, _ = (int(value) for value in packed[:HEADER])
    place = HEADER
    for owner, name in _sums(empty):
        like = getattr(owner, name)
        setattr(owner, name, packed[place : place + like.numel()].reshape(like.shape).clone())
        place += like.numel()
    empty.left_out, empty.has_logits = left_out, None if logits == 0 else logits == 2
    if n:
        rows = packed[place:].reshape(empty.keep, _width(empty))[:n].clone()
        numbers = rows[:, empty.dim :].long().unbind(1)
        whole = [high * 2**32 + low for high, low in zip(numbers[::2], numbers[1::2], strict=True)]
        empty.kept = Kept(empty.keep, (Rows(rows[:, : empty.dim], *whole),), n, level)
    return empty


def merge_packed(stacked: Tensor, empty: CollapseStatistics) -> Tensor:
    """Merge vectors of :func:`pack`, shape (parts, length); means move, so that this is no sum of the vectors."""
    whole = unpack(stacked[0], empty.merge(empty))
    for part in stacked[1:]:
        whole = whole.merge(unpack(part, empty.merge(empty)))
    return pack(whole)


def _sums(statistics: CollapseStatistics) -> Iterator[tuple[object, str]]:
    for owner, names in ((statistics.features, MOMENTS), (statistics.logits, MOMENTS), (statistics, TOTALS)):
        for name in names:
            if getattr(owner, name) is not None:
                yield owner, name


def _width(statistics: CollapseStatistics) -> int:
    return statistics.dim + 2 * (len(Rows._fields) - 1)


def _halves(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Upper and lower half of 64-bit numbers, each of which a float64 holds exactly."""
    return numbers >> 32, numbers & (2**32 - 1)
