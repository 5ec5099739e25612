"""Random features of units that move with them, and the inner products that no labelling changes."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from weyl.canonical._sketch_terms import NONE, Label, Term
from weyl.groups import GaugeKind
from weyl.structure import Structure

__all__ = ["CHANNELS", "Probe", "random_numbers"]

# Features of every unit; of one label, how many ways there are to contract a tensor.
CHANNELS, WAYS = 32, 4
# Features that are smaller than so count as of that size; they are of order 1.
SOFT = 0.1

Features = dict[str, dict[Label, Tensor]]


def random_numbers(key: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Numbers of mean 0 and variance 1, the same on every machine: the bits of a counter, seeded by a hash."""
    seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=16).digest(), "little")
    bits = np.random.Philox(key=seed).random_raw(math.prod(shape))
    uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return torch.from_numpy((uniform - 0.5) * math.sqrt(12)).reshape(shape).to(device)


class Probe:
    """Random features of all units, and what is the same for all labellings of them."""

    def __init__(self, structure: Structure, terms: Sequence[Term]) -> None:
        self._terms = terms
        self._spaces = {space.name: space for space in structure.group.spaces}
        self._within = {space.name: space.within for space in structure.group.spaces}
        kinds = {gauge.name: gauge.kind for gauge in structure.gauges}
        self._pairs = {name for name, kind in kinds.items() if kind is GaugeKind.COMPLEX}
        self._mixing = {name for name, kind in kinds.items() if kind.matrix} | self._pairs
        self._own = {
            space: frozenset(gauge.name for gauge in structure.gauges if gauge.space == space)
            for space in ("", *self._spaces)
        }
        self._wanted = {
            space: {t.labels[at] for t in terms for at, name in enumerate(t.axes) if name == space}
            for space in self._spaces
        }

    def invariants(self) -> Iterator[tuple[str, Tensor]]:
        """Groups of numbers, each with a name; of order 1 where features have nothing in common."""
        order = list(self._spaces)
        first, second = self._features("x", order + order[::-1]), self._features("y", order[::-1] + order)
        for space, features in first.items():
            for label, left in features.items():
                right = second.get(space, {}).get(label)
                if right is not None:
                    products = (left * right).flatten(0, -2)
                    yield f"{space} {sorted(label)}", products.sum(0) / math.sqrt(len(products))
        for term in self._terms:
            if not any(term.axes) and not term.whole:
                yield (
                    term.key,
                    _contracted(term.array, (), [(a, (), self._fixed(term, a, "z")) for a in range(len(term.axes))]),
                )

    def _fixed(self, term: Term, axis: int, side: str) -> Tensor:
        return random_numbers(f"{side} {term.key} {axis}", (term.array.shape[axis], CHANNELS), term.array.device)

    def _features(self, side: str, order: Sequence[str]) -> Features:
        found: Features = {}
        for space in order:
            sums: dict[Label, list[Tensor]] = {}
            sources = [(t, axis) for t in self._terms for axis, name in enumerate(t.axes) if name == space]
            for (term, axis), shares in zip(sources, self._shares(space, len(sources), side), strict=True):
                for label, message in self._messages(term, axis, side, found):
                    if not label:
                        message = message - message.flatten(0, -2).mean(0)
                    signs = random_numbers(f"{side} {term.key} {axis} sign", (CHANNELS,), message.device).sign()
                    sums.setdefault(label, []).append(message * signs * shares.to(message.device))
            direct = {label: sum(several[1:], several[0]) / math.sqrt(len(several)) for label, several in sums.items()}
            found[space] = self._joined(space, {label: self._bounded(label, own) for label, own in direct.items()})
        return found

    def _shares(self, space: str, count: int, side: str) -> Tensor:
        """Which sources a side reads in which channel: each is read by one side, half of them by either.

        The square of one source would be much the same for all states.
        """
        ranks = random_numbers(f"share {space}", (count, CHANNELS), torch.device("cpu")).argsort(0).argsort(0)
        return (ranks % 2 == (side == "x")).double()

    def _joined(self, space: str, direct: dict[Label, Tensor]) -> dict[Label, Tensor]:
        """With products of features of two labels, where they have one that something is contracted with."""
        out = {label: [own] for label, own in direct.items()}
        for one, other in itertools.combinations(sorted(direct, key=sorted), 2):
            label = one ^ other
            if not (one | other) & self._mixing and label & self._own[space] in self._wanted[space]:
                out.setdefault(label, []).append(direct[one] * direct[other])
        return {label: sum(several[1:], several[0]) / math.sqrt(len(several)) for label, several in out.items()}

    def _bounded(self, label: Label, values: Tensor) -> Tensor:
        """Features of a bounded size: an odd function of numbers, or of the norms of what is turned."""
        squares = values.square()
        usual = squares.flatten(0, -2).mean(0) + SOFT**2
        if label & self._pairs:
            half = (squares[..., : squares.shape[-2] // 2, :] + squares[..., squares.shape[-2] // 2 :, :]) / 2
            squares = torch.cat([half, half], -2)
        elif label & self._mixing:
            squares = squares.mean(-2, keepdim=True)
        return values * (2 / (usual + squares)).sqrt()

    def _messages(self, term: Term, axis: int, side: str, known: Features) -> Iterator[tuple[Label, Tensor]]:
        """What a term says of the units along an axis, and what that is multiplied by."""
        kept = (*term.homes(axis, self._within), axis)
        others = [at for at in range(len(term.axes)) if at not in kept]
        around = {at: tuple(term.homes(at, self._within)) for at in others}
        home = {at for inner in around.values() for at in inner}
        options = [list(self._options(term, at, around[at], side, known)) for at in others if at not in home]
        for chosen in itertools.islice(itertools.product(*options), WAYS):
            label = term.whole
            for one in (*(term.labels[at] for at in kept), *(spare for spare, _ in chosen)):
                label ^= one
            picks = [pick for _, pick in chosen]
            for at in sorted(home.intersection(others)):
                own = self._own[term.axes[at] or ""]
                need, label = term.labels[at] ^ (label & own), label - own
                fitting = known.get(term.axes[at] or "", {}).get(need)
                picks.append((at, around[at], fitting if need else None))
                if need and fitting is None:
                    break
            else:
                allowed = frozenset().union(self._own[""], *(self._own[term.axes[at] or ""] for at in kept))
                if label <= allowed:
                    yield label, _contracted(term.array, kept, picks)

    def _options(
        self, term: Term, axis: int, homes: tuple[int, ...], side: str, known: Features
    ) -> Iterator[tuple[Label, tuple[int, tuple[int, ...], Tensor | None]]]:
        """Ways to contract an axis, with the gauges that act on the result beside those of the term."""
        space, need = term.axes[axis], term.labels[axis]
        if space is None:
            yield NONE, (axis, (), self._fixed(term, axis, side))
            return
        found = False
        for label, values in known.get(space, {}).items():
            if label & self._own[space] == need:
                found = True
                yield label - need, (axis, homes, values)
        if not found and not need:
            yield NONE, (axis, homes, None)


def _contracted(
    array: Tensor, kept: Sequence[int], picks: Sequence[tuple[int, tuple[int, ...], Tensor | None]]
) -> Float[Tensor, "*kept k"]:
    """An array summed over axes, times features along them; of order 1 if it and the features are."""
    homes = {at for _, around, _ in picks for at in around}
    free = [pick for pick in picks if not pick[1] and pick[0] not in homes and pick[2] is not None]
    order = list(range(array.dim()))
    first = max(free, key=lambda pick: array.shape[pick[0]], default=None)
    if first is None:
        result = array[..., None].expand(*array.shape, CHANNELS)
    else:
        assert first[2] is not None
        result = array.movedim(first[0], -1) @ first[2]
        order.remove(first[0])
    for axis, around, values in sorted((p for p in picks if p is not first), key=lambda p: p[0] in homes):
        if values is not None:
            result = result * _spread(values, [order.index(at) for at in (*around, axis)], len(order))
        result = result.sum(order.index(axis))
        order.remove(axis)
    result = result.permute(*(order.index(at) for at in kept), len(order))
    return result / math.sqrt(math.prod(array.shape[axis] for axis, _, _ in picks))


def _spread(values: Tensor, places: Sequence[int], rank: int) -> Tensor:
    """Features with their axes, but the last, at some places among others of length 1."""
    shape = [1] * rank
    for at, size in zip(places, values.shape, strict=False):
        shape[at] = size
    order = sorted(range(len(places)), key=places.__getitem__)
    return values.permute(*order, values.dim() - 1).reshape(*shape, values.shape[-1])
