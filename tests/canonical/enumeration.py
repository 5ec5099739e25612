"""Whole finite groups as tables: what every element does to every entry, so that orbits and stabilisers are counted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tests.orbits.test_orbit import elements
from torch import Tensor

import weyl
from weyl.canonical._fingerprint import exact_part

State = dict[str, Tensor]
Flat = NDArray[np.float64]


class Whole:
    """All permutations with all exact signs of a structure, as signed permutations of the entries of a state."""

    def __init__(self, structure: weyl.Structure) -> None:
        self.structure = structure
        finite = exact_part(structure)
        self.shapes = {name: tuple(axis.size for axis in axes) for name, axes in structure.axes.items()}
        self.count = sum(math.prod(shape) for shape in self.shapes.values())
        labels = np.arange(1, self.count + 1.0)
        moved = np.stack([self.flat(weyl.act(g, finite, self.state(labels))) for g in elements(finite)])
        self.index = np.abs(moved).astype(np.int64) - 1
        self.sign = np.sign(moved)
        self.order = len(moved)
        self.kernel = int((moved == labels).all(axis=1).sum())

    def state(self, flat: Flat) -> State:
        """A state from one vector of all entries."""
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = np.split(np.asarray(flat, dtype=np.float64), np.cumsum(sizes)[:-1])
        return {n: torch.tensor(p).reshape(s) for (n, s), p in zip(self.shapes.items(), parts, strict=True)}

    def flat(self, state: State) -> Flat:
        """The inverse of :meth:`state`."""
        return np.concatenate([state[name].double().reshape(-1).numpy() for name in self.shapes])

    def orbit(self, flat: Flat) -> Flat:
        """What every element makes of a state."""
        return flat[self.index] * self.sign + 0.0

    def least(self, flat: Flat) -> bytes:
        """The same for two states exactly if one element makes one of the other."""
        return min(row.tobytes() for row in self.orbit(flat))

    def stabiliser(self, flat: Flat) -> int:
        """Number of elements that leave a state, but for those that leave all states."""
        return int((self.orbit(flat) == flat + 0.0).all(axis=1).sum()) // self.kernel

    def fixed_by(self, chosen: Sequence[int], values: Iterator[float]) -> Flat:
        """A state that some elements, by number, leave as it is; every class of entries gets the next value."""
        # Nodes i and count + i stand for an entry and its negative.
        parent = list(range(2 * self.count))

        def root(node: int) -> int:
            while parent[node] != node:
                node = parent[node]
            return node

        for g in chosen:
            for at, (old, sign) in enumerate(zip(self.index[g].tolist(), self.sign[g].tolist(), strict=True)):
                for shift in (0, self.count):
                    target = (old + shift + (self.count if sign < 0 else 0)) % (2 * self.count)
                    parent[root(at + shift)] = root(target)
        known: dict[int, float] = {}
        flat = np.zeros(self.count)
        for at in range(self.count):
            plus, minus = root(at), root(self.count + at)
            if plus == minus:
                continue
            if plus not in known:
                known[plus] = next(values)
                known[minus] = -known[plus]
            flat[at] = known[plus]
        return flat
