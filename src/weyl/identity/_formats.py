"""Formats of numbers, and whether rounding to one explains how two states differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Rounding", "is_informative", "rounding"]

State = Mapping[str, Tensor]

# Formats that weights are kept in, the coarsest last.
FORMATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
# Values of a grid of 8 bits, and entries that are looked at first.
LEVELS, SAMPLE = 256, 2048
# Different numbers from which a tensor says something.
DISTINCT = 16
# Share of entries that rounding to the nearest must explain; all must be within twice that.
MOST = 0.999
# By how much more than half a step entries may be off: by next to nothing, and where the two were also scaled, so that
# scales were estimated from rounded numbers, by as much again.
PLAIN, MIXED = 1.05, 2.0
# Fewest entries in which a grid can be told from chance.
FEWEST = 64


@dataclass(frozen=True)
class Rounding:
    """Formats to which the tensors of one state are rounded.

    Parameters
    ----------
    name : str
        For people: the coarsest of them.
    formats : mapping of str to dtype
        By tensor; tensors on a grid of 8 bits are not in it.
    grids : frozenset of str
        Tensors whose rows, or columns, have at most 256 values at equal steps.
    mixed : bool
        Whether the two may have been scaled in between.
    """

    name: str
    formats: Mapping[str, torch.dtype]
    grids: frozenset[str] = frozenset()
    mixed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "name": self.name,
            "formats": {name: str(dtype).removeprefix("torch.") for name, dtype in self.formats.items()},
            "grids": sorted(self.grids),
        }

    def applied(self, state: State) -> dict[str, Tensor]:
        """A state rounded to these formats, in its own dtypes."""
        return {n: t.to(self.formats[n]).to(t.dtype) if n in self.formats else t for n, t in state.items()}

    def explains(self, fine: State, coarse: State) -> bool:
        """Whether the coarse state is the fine one after rounding; both in the same coordinates."""
        beyond = total = 0
        for name, given in coarse.items():
            if not given.is_floating_point():
                if not torch.equal(given, fine[name].to(given.device)):
                    return False
                continue
            ours = fine[name].detach().double()
            theirs = given.detach().double().to(ours.device)
            if name in self.grids:
                half = _step(theirs) / 2
            elif self.grids and 0 < given.numel() < FEWEST:
                # Too few to see a grid in; the steps of the finest one that there may be.
                half = theirs.abs().max() / (LEVELS - 2)
            else:
                dtype = self.formats.get(name, torch.float32)
                info = torch.finfo(dtype)
                half = torch.maximum(theirs.abs(), ours.abs()) * info.eps / 2 + info.tiny * info.eps
                if self.mixed and given.numel():
                    # The element was found from rounded numbers: what it mixes has errors of the size of its rows.
                    half = half + float(theirs.square().mean().sqrt()) * info.eps / 2
            apart = (ours - theirs).abs()
            if not given.numel():
                continue
            half, least = half.to(ours.device), 1e-9 * float(ours.abs().max())
            factor = MIXED if self.mixed else PLAIN
            if bool((apart > 2 * factor * half + least).any()):
                return False
            beyond += int((apart > factor * half + least).sum())
            total += ours.numel()
        return beyond <= (1 - MOST) * total


def rounding(fine: State, coarse: State, *, mixed: bool = False, grids: bool = True) -> Rounding | None:
    """To what formats one state may have been rounded from the other; None if it is not the coarser one.

    A file of float32 may hold numbers of fewer bits: what counts is which numbers there are. With ``mixed``, the two
    may have been scaled between two roundings, so that they may be of one format. Without ``grids`` no grid of 8 bits
    is looked for.
    """
    formats: dict[str, torch.dtype] = {}
    few: dict[str, torch.dtype] = {}
    gridded = set()
    for name, tensor in coarse.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        held, other = _held(tensor), _held(fine[name])
        if _rank(held) > _rank(other) or (mixed and held is other and _rank(held) > 1):
            # Gains that are still 1 have no format: any fine-tuning of them would count as rounding.
            (formats if is_informative(tensor) else few)[name] = held
        elif grids and _on_grid(tensor) and not _on_grid(fine[name]):
            gridded.add(name)
    if not formats and not gridded:
        return None
    # Tensors of few numbers go with those that show a format, if these are most of all.
    shown = sum(coarse[name].numel() for name in (*formats, *gridded))
    if 2 * shown > sum(tensor.numel() for tensor in coarse.values() if tensor.is_floating_point()):
        usual = max(formats.values(), key=_rank, default=None)
        formats |= {name: usual for name, held in few.items() if usual is not None and _rank(held) >= _rank(usual)}
    coarsest = max(formats.values(), key=_rank, default=None)
    name = "a grid of 8 bits" if coarsest is None else str(coarsest).removeprefix("torch.")
    return Rounding(name, formats, frozenset(gridded), mixed)


def is_informative(tensor: Tensor) -> bool:
    """Whether a tensor has so many different numbers that two trainings do not share them by chance or by default."""
    return tensor.is_floating_point() and _distinct(tensor.detach().flatten()[:SAMPLE]) >= DISTINCT


def _distinct(numbers: Tensor) -> int:
    return int((numbers.double().sort().values.diff() != 0).sum()) + 1 if numbers.numel() else 0


def _rank(dtype: torch.dtype) -> int:
    return FORMATS.index(dtype) if dtype in FORMATS else 0


def _held(tensor: Tensor) -> torch.dtype:
    """The coarsest format that holds every entry exactly, its own at least."""
    wide = tensor.detach().double()
    found = tensor.dtype
    for dtype in FORMATS[_rank(tensor.dtype) + 1 :]:
        if torch.equal(wide.to(dtype).double(), wide):
            found = dtype
    return found


def _on_grid(tensor: Tensor) -> bool:
    """Whether every row, or every column, has few values at equal steps."""
    return bool((_step(tensor.detach().double()) > 0).any())


def _step(tensor: Tensor) -> Tensor:
    """The step of a grid of 8 bits, shaped to be broadcast; 0 where there is none."""
    if tensor.numel() < FEWEST:
        return torch.zeros((), dtype=tensor.dtype, device=tensor.device)
    whole = _grid_of(tensor.reshape(1, -1))
    if whole is not None:
        return whole.reshape(())
    for dim in range(min(2, tensor.dim()) if tensor.dim() > 1 else 0):
        rows = tensor.movedim(dim, 0).flatten(1)
        if rows.shape[1] >= FEWEST // 4:
            found = _grid_of(rows)
            if found is not None:
                shape = [1] * tensor.dim()
                shape[dim] = -1
                return found.reshape(shape)
    return torch.zeros((), dtype=tensor.dtype, device=tensor.device)


def _grid_of(rows: Tensor) -> Tensor | None:
    """The step of every row, if all entries are multiples of it, few of them."""
    # A few entries show that there is no grid, where there is none.
    if rows.shape[1] > SAMPLE and _distinct(rows[0, :SAMPLE]) > 2 * LEVELS:
        return None
    ordered = rows.sort(dim=1).values
    gaps = ordered.diff(dim=1)
    largest = rows.abs().amax(1, keepdim=True)
    gaps = gaps.where(gaps > 1e-6 * largest, torch.full_like(gaps, float("inf")))
    step = gaps.amin(1, keepdim=True)
    step = step.where(step.isfinite(), largest)
    if bool((largest > LEVELS * step).any()) or not bool((step > 0).all()):
        return None
    # Fewer bits than seven are no rounding error but another network.
    if float((largest / step).median()) < LEVELS // 4 - 1:
        return None
    multiples = rows / step
    # Steps are equal, and far fewer than the entries.
    if bool(((multiples - multiples.round()).abs() > 1e-3 * multiples.abs().clamp_min(1)).any()):
        return None
    return step
