"""Two states as one objective over the units of the spaces, and the moves that act on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weyl._memory import tensor_identity
from weyl.canonical import block_view
from weyl.groups import Gauge
from weyl.matching._assignment import Prices
from weyl.matching._terms import Pair, Term
from weyl.structure import Block, Structure, Weight, block_positions, combinations

__all__ = ["Problem", "Units", "incidence", "pair_terms"]

Parity = frozenset[str]


@dataclass(frozen=True)
class Units:
    """A space as the matching sees it.

    Parameters
    ----------
    name : str
        The space.
    size : int
        Number of units.
    within : tuple of str
        The spaces that its units live within.
    permuted : bool
        Whether units may trade places.
    signs : tuple of str
        Families of signs that act on its units.
    matrix : Gauge or None
        A gauge of matrices: units are then mixed, and nothing else is done to them.
    phase : str or None
        A gauge of complex numbers.
    """

    name: str
    size: int
    within: tuple[str, ...] = ()
    permuted: bool = True
    signs: tuple[str, ...] = ()
    matrix: Gauge | None = None
    phase: str | None = None

    @property
    def moves(self) -> bool:
        """Whether there is anything to do."""
        return self.permuted or bool(self.signs) or self.matrix is not None or self.phase is not None


@dataclass(eq=False)
class Problem:
    """A sum of terms, and what may be done to the units of b.

    Parameters
    ----------
    units : dict of str to Units
        Outer before inner.
    terms : list of Term
        The summands.
    odd : dict of str to set of (int, int)
        For every family of signs, terms and axes that it multiplies; the axis is -1 for a sign without a space.
    phases : dict of str to list of (int, int, int)
        For every gauge of complex numbers, terms of the real and the imaginary parts, and the axis.
    """

    units: dict[str, Units]
    terms: list[Term]
    odd: dict[str, set[tuple[int, int]]] = field(default_factory=dict)
    phases: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.places: dict[str, list[tuple[int, int]]] = {name: [] for name in self.units}
        for number, term in enumerate(self.terms):
            for axis, name in enumerate(term.axes):
                if name in self.places:
                    self.places[name].append((number, axis))
        self.inner = {
            name: [other.name for other in self.units.values() if name in other.within and other.moves]
            for name in self.units
        }
        self._caches: dict[str, dict[Parity, Tensor]] = {}
        self.prices = {name: Prices() for name, units in self.units.items() if not units.within}
        self._plain = {name: self._is_plain(name) for name in self.units}

    def _is_plain(self, name: str) -> bool:
        """Whether the Grams of a space can be kept: it lives in no other one, and stands once in every term."""
        units, numbers = self.units[name], [number for number, _ in self.places[name]]
        whole = all(isinstance(self.terms[n], Pair) or len(self.terms[n].axes) == 1 for n in numbers)
        return not units.within and not self.inner[name] and len(set(numbers)) == len(numbers) and whole

    def coupled(self, name: str) -> bool:
        """Whether a space stands twice in a term, so that the objective is quadratic in it."""
        numbers = [number for number, _ in self.places[name]]
        return len(set(numbers)) < len(numbers)

    def neighbours(self, name: str) -> set[str]:
        """Spaces that share a term with one, itself where it is coupled."""
        found = {axis for number, _ in self.places[name] for axis in self.terms[number].axes if axis in self.units}
        return {str(axis) for axis in found if axis != name or self.coupled(name)}

    def parity(self, name: str, number: int, axis: int) -> Parity:
        """Families of signs of a space that multiply a term along an axis."""
        return frozenset(sign for sign in self.units[name].signs if (number, axis) in self.odd.get(sign, ()))

    def objective(self) -> float:
        """Inner product of a with b as it is now, in float64."""
        return sum(term.inner() for term in self.terms)

    def grams(self, name: str, numbers: Collection[int] | None = None) -> dict[Parity, Tensor]:
        """Grams of a space by parity, shape ``(*outer, n, n)``: what every unit of a gives with every unit of b.

        Exact where the space is not coupled; else the derivative at the present place.
        """
        if numbers is None and name in self._caches:
            return self._caches[name]
        found: dict[Parity, Tensor] = {}
        for number, axis in self.places[name]:
            if numbers is not None and number not in numbers:
                continue
            term, parity = self.terms[number], self.parity(name, number, axis)
            own = term.gram(axis, term.outer(self.units[name].within, axis))
            found[parity] = found[parity] + own if parity in found else own
        if numbers is None and self._plain[name] and found:
            self._caches[name] = found
        return found

    def select(self, name: str, i: int, j: int, numbers: Collection[int] | None = None) -> Problem:
        """The problem of one unit of a and one of b of a space, restricted to terms that contain it; views."""
        kept = [
            (number, axis)
            for number, axis in self.places[name]
            if not (self.coupled(name) and self.terms[number].axes.count(name) > 1)
            and (numbers is None or number in numbers)
        ]
        index = {number: new for new, (number, _) in enumerate(kept)}
        removed = dict(kept)

        def place(number: int, axis: int) -> tuple[int, int]:
            return index[number], axis - (axis > removed[number])

        return Problem(
            {
                other: replace(units, within=tuple(outer for outer in units.within if outer != name))
                for other, units in self.units.items()
                if other != name and name in units.within
            },
            [self.terms[number].select(axis, i, j) for number, axis in kept],
            {sign: {place(n, at) for n, at in places if n in index and at >= 0} for sign, places in self.odd.items()},
            {
                gauge: [(index[r], index[m], at - (at > removed[r])) for r, m, at in triples if r in index]
                for gauge, triples in self.phases.items()
            },
        )

    def permute(self, name: str, permutation: NDArray[np.int64]) -> None:
        """Let the units of b trade places: ``(*outer, n)``, gather convention."""
        size = permutation.shape[-1]
        moved = np.flatnonzero((permutation != np.arange(size)).reshape(-1, size).any(0))
        with _Watch(self, name, moved) as watch:
            for number, axis in self.places[name]:
                term = self.terms[number]
                index = torch.from_numpy(permutation).to(term.device)
                term.permute(axis, term.outer(self.units[name].within, axis), index)
            watch.columns(torch.from_numpy(permutation))

    def flip(self, name: str, gauge: str, signs: NDArray[np.float64]) -> None:
        """Multiply units of b by signs of one family, shape ``(*outer, n)``."""
        moved = np.flatnonzero((signs < 0).reshape(-1, signs.shape[-1]).any(0))
        with _Watch(self, name, moved) as watch:
            for number, axis in self.places[name]:
                if (number, axis) in self.odd[gauge]:
                    term = self.terms[number]
                    factors = torch.from_numpy(signs).to(term.device)
                    term.multiply(axis, term.outer(self.units[name].within, axis), factors)
            watch.signs(gauge, torch.from_numpy(signs))

    def flip_all(self, gauge: str) -> None:
        """Negate what a sign without a space multiplies."""
        for number, _ in self.odd[gauge]:
            self.terms[number].negate()
        self._caches.clear()

    def mix(self, name: str, matrices: Tensor) -> None:
        """Multiply the units of b by matrices, shape ``(*outer, n, n)``."""
        for number, axis in self.places[name]:
            term = self.terms[number]
            term.mix(axis, term.outer(self.units[name].within, axis), matrices.to(term.device))
        self._forget(name)

    def turn(self, name: str, gauge: str, values: Tensor) -> None:
        """Multiply complex units of b by numbers of modulus 1, shape ``(*outer, n)``."""
        for real, imaginary, axis in self.phases[gauge]:
            x, y = self.terms[real], self.terms[imaginary]
            assert isinstance(x, Pair) and isinstance(y, Pair)
            outer = x.outer(self.units[name].within, axis)
            kept = x.b.clone(), y.b.clone()
            x.multiply(axis, outer, values.real)
            x.b.sub_(_times(kept[1], axis, outer, values.imag))
            y.multiply(axis, outer, values.real)
            y.b.add_(_times(kept[0], axis, outer, values.imag))
        self._forget(name)

    def _forget(self, name: str) -> None:
        for other in {name, *self.neighbours(name)}:
            self._caches.pop(other, None)

    def forget(self) -> None:
        """Drop all Grams that are kept, so that they are computed anew."""
        self._caches.clear()


class _Watch:
    """Keeps Grams true while the units of one space move: what changed is added, nothing else is computed again."""

    def __init__(self, problem: Problem, name: str, moved: NDArray[np.int64]) -> None:
        self._problem, self._name, self._moved = problem, name, moved
        self._old: list[tuple[int, int, int, Tensor]] = []

    def __enter__(self) -> _Watch:
        problem, caches = self._problem, self._problem._caches
        if not problem._plain[self._name]:
            problem._forget(self._name)
            return self
        for number, axis in problem.places[self._name]:
            term = problem.terms[number]
            for other_axis, other in enumerate(term.axes):
                if other is None or other_axis == axis or other not in caches:
                    continue
                if isinstance(term, Pair) and len(self._moved):
                    index = torch.from_numpy(self._moved).to(term.device)
                    self._old.append((number, axis, other_axis, term.b.index_select(axis, index)))
        return self

    def __exit__(self, *error: object) -> None:
        problem = self._problem
        for number, axis, other_axis, before in self._old:
            term = problem.terms[number]
            assert isinstance(term, Pair)
            other = str(term.axes[other_axis])
            index = torch.from_numpy(self._moved).to(term.device)
            changed = Pair(
                term.axes,
                term.source,
                term.a.index_select(axis, index),
                term.b.index_select(axis, index).sub_(before),
            )
            problem._caches[other][problem.parity(other, number, other_axis)].add_(changed.gram(other_axis, ()))

    def columns(self, permutation: Tensor) -> None:
        """Columns of the space's own Grams, and their prices, follow its units."""
        if self._name in self._problem.prices and permutation.dim() == 1:
            self._problem.prices[self._name].permute(permutation.cpu().numpy())
        own = self._problem._caches.get(self._name)
        if own is not None:
            index = torch.from_numpy(self._moved)
            for values in own.values():
                home = index.to(values.device)
                values.index_copy_(-1, home, values.index_select(-1, permutation[index].to(values.device)))

    def signs(self, gauge: str, signs: Tensor) -> None:
        """Columns of the space's own Grams are flipped with its units."""
        own = self._problem._caches.get(self._name)
        if own is not None:
            for parity, values in own.items():
                if gauge in parity:
                    values.mul_(signs.to(values))


def _times(array: Tensor, axis: int, outer: Sequence[int], factors: Tensor) -> Tensor:
    scratch = Pair((), "", array, array.clone())
    scratch.multiply(axis, outer, factors)
    return scratch.b


def pair_terms(
    structure: Structure, a: Mapping[str, Tensor], b: Mapping[str, Tensor]
) -> tuple[list[Term], list[tuple[str, tuple[Block, ...]]]]:
    """Terms of all tensors that the group can move, b copied; and which block of which tensor each one is.

    Parameters
    ----------
    structure : Structure
        Of both.
    a, b : mapping of str to tensor
        Whole states. Shared tensors count once; integers and tensors without a unit not at all.
    """
    terms: list[Term] = []
    origins: list[tuple[str, tuple[Block, ...]]] = []
    acted = structure.weights_by_tensor
    seen: dict[object, str] = {}
    for name, axes in structure.axes.items():
        if not a[name].is_floating_point() or not a[name].numel():
            continue
        # A file may hold copies of what is one tensor in the other state.
        first = seen.setdefault((*tensor_identity(a[name]), axes), name)
        if first != name and (tensor_identity(b[first]) == tensor_identity(b[name]) or torch.equal(b[first], b[name])):
            continue
        cut = list(combinations(axes))
        if name not in acted and not any(space for blocks in cut for b_ in blocks for space, _, _ in b_.factors):
            continue
        dtype = torch.promote_types(torch.promote_types(a[name].dtype, b[name].dtype), torch.float32)
        device = b[name].device
        left = a[name].detach().to(device=device, dtype=dtype).contiguous()
        right = b[name].detach().to(dtype=dtype, copy=True).contiguous()
        for blocks in cut:
            terms.append(_pair(name, blocks, left, right))
            origins.append((name, blocks))
    return terms, origins


def _pair(name: str, blocks: tuple[Block, ...], a: Tensor, b: Tensor) -> Pair:
    (left, axes), (right, _) = block_view(a, blocks), block_view(b, blocks)
    return Pair(axes, name, left, right)


def incidence(
    gauge: Gauge, weight: Weight, name: str, origins: Sequence[tuple[str, tuple[Block, ...]]]
) -> tuple[list[tuple[int, int]], bool]:
    """Terms of a tensor that a weight acts on, with the axis; and whether it acts on whole terms only."""
    found, whole = [], True
    for number, (source, blocks) in enumerate(origins):
        if source != name:
            continue
        inside = [
            set(block_positions(blocks[dim]).tolist()) <= set(block_positions(block).tolist())
            for dim, block in weight.blocks
        ]
        apart = any(
            set(block_positions(blocks[dim]).tolist()).isdisjoint(block_positions(block).tolist())
            for dim, block in weight.blocks
        )
        if all(inside):
            axis = _own_axis(gauge, weight, blocks)
            whole = whole and axis is not None
            found.append((number, -1 if axis is None else axis))
        elif not apart:
            whole = False
    return found, whole


def _own_axis(gauge: Gauge, weight: Weight, blocks: tuple[Block, ...]) -> int | None:
    """The axis of a term along which a weight acts, -1 if it acts everywhere; None if there is none."""
    if not gauge.space:
        return -1
    space, size, stride = dict(weight.blocks)[weight.dim].factors[weight.factor]
    start = sum(len(block.factors) for block in blocks[: weight.dim])
    for place, factor in enumerate(blocks[weight.dim].factors):
        if factor == (space, size, stride):
            return start + place
    return None
