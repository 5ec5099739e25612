"""An oracle for completeness: every joint permutation of the entries of all parameters, by looking at numbers only.

It knows nothing of axes, operators, spaces or groups. A network is a function of some tensors; each tensor is a bag
of entries; a *candidate* permutes the entries of every tensor, each by a permutation of its own, in any way at all.
That is more than "every axis of every parameter by a permutation of its own": it contains those, and also those
that move an axis differently in every block of another one (grouped convolutions, heads), for which there is no
single permutation of an axis. So nothing has to be told to the oracle about blocks. It returns exactly
the candidates that keep the function.

Pruning is sound, because it uses necessary conditions only. If ``g`` keeps the function for *all* weights, it
keeps it for weights that are constant on every tensor but for one entry ``i`` that is ``a`` larger and another, ``j``,
that is ``b`` larger. ``g`` maps such weights to weights of the same kind, with ``g(i)`` and ``g(j)``. Hence

    response(i, j) = response(g(i), g(j))        for all pairs of entries, of the same or of different tensors,

and ``g`` is an automorphism of a graph whose nodes are entries and whose coloured edges are responses. These are found
by backtracking, and every one is then put to the test on weights in general position. If pruning were weak, the search
would be long (and is stopped); it could never lose a symmetry.

Two conditions on a network under test: where the weights of two units are equal the function must not depend on the
order of the units (``topk`` breaks ties by position, so it is out), and no tensor may be dead (a dead bias could be
permuted at will, which is a symmetry, but none of units).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from tests.laws.checks import error, outputs, random_state, storage
from torch import Tensor, nn

import weyl

Symmetry = tuple[int, ...]
LIMIT = 20_000


class Entries:
    """All entries of the distinct floating-point tensors of a state dict, numbered from 0."""

    def __init__(self, model: nn.Module, args: tuple) -> None:
        self.model = model.double().eval()
        self.args = args
        self.homes: dict[tuple, list[str]] = {}
        self.shapes: dict[tuple, torch.Size] = {}
        self.rest: dict[str, Tensor] = {}
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            if not tensor.is_floating_point():
                self.rest[name] = tensor.detach()
                continue
            self.homes.setdefault(storage(tensor), []).append(name)
            self.shapes[storage(tensor)] = tensor.shape
        sizes = [shape.numel() for shape in self.shapes.values()]
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self.count = int(self.starts[-1])
        self.batched: bool | None = None
        self.tensor_of = np.repeat(np.arange(len(sizes)), sizes)

    def state(self, flat: Tensor) -> dict[str, Tensor]:
        """A state dict from one vector of all entries."""
        state = dict(self.rest)
        for (key, names), a, b in zip(self.homes.items(), self.starts, self.starts[1:], strict=False):
            tensor = flat[a:b].reshape(self.shapes[key])
            state.update(dict.fromkeys(names, tensor))
        return state

    def flatten(self, state: dict[str, Tensor]) -> Tensor:
        """The inverse of :meth:`state`."""
        return torch.cat([state[names[0]].double().reshape(-1) for names in self.homes.values()])

    def run_all(self, rows: Tensor) -> Tensor:
        """The outputs for every row; at once, where all operators of the network can be batched."""
        if self.batched is None:
            try:
                self.batched = torch.allclose(
                    torch.vmap(self.run)(rows[:2]), torch.stack([self.run(r) for r in rows[:2]])
                )
            except (RuntimeError, UserWarning):
                self.batched = False
        return torch.vmap(self.run)(rows) if self.batched else torch.stack([self.run(row) for row in rows])

    def run(self, flat: Tensor) -> Tensor:
        """All outputs as one vector."""
        return torch.cat([t.double().reshape(-1) for t in outputs(self.model, self.state(flat), self.args)])


def symmetries(model: nn.Module, *args: Tensor, seed: int = 0) -> tuple[Entries, set[Symmetry]]:
    """Every permutation of entries that keeps the function; ``g[k]`` is the old place of the new entry ``k``."""
    entries = Entries(model, args)
    singles, pairs = _responses(entries, seed)
    draws = [entries.flatten(random_state(entries.model, seed + n, integers=n == 0)) for n in range(3)]
    wanted = [outputs(entries.model, entries.state(flat), args) for flat in draws]
    found: set[Symmetry] = set()
    for tried, candidate in enumerate(_automorphisms(entries.tensor_of, singles, pairs)):
        assert tried < LIMIT, "pruning is too weak for this network"
        moved = torch.tensor(candidate)
        if all(
            error(before, outputs(entries.model, entries.state(flat[moved]), args)) < 1e-9
            for flat, before in zip(draws, wanted, strict=True)
        ):
            found.add(candidate)
    return entries, found


def _responses(entries: Entries, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours of entries and of ordered pairs of entries, on backgrounds that are constant on every tensor."""
    generator = torch.Generator().manual_seed(seed)
    singles = np.zeros(entries.count, dtype=np.int64)
    pairs = np.zeros((entries.count, entries.count), dtype=np.int64)
    for _ in range(2):
        levels = torch.rand(len(entries.homes), generator=generator, dtype=torch.float64) * 0.5 + 0.3
        background = levels[torch.from_numpy(entries.tensor_of)]
        probe = torch.randn(entries.run(background).shape, generator=generator, dtype=torch.float64).numpy()
        one, two = 0.37, -2.61  # the second is large enough to switch a unit off
        pair = np.empty((entries.count, entries.count))
        ones = background + one * torch.eye(entries.count, dtype=torch.float64)
        single = entries.run_all(ones).numpy() @ probe
        for i in range(entries.count):
            both = ones[i] + two * torch.eye(entries.count, dtype=torch.float64)
            pair[i] = entries.run_all(both).numpy() @ probe
        singles = _colours(singles, single)
        pairs = _colours(pairs, pair)
    return singles, pairs


def _colours(old: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Old colours refined by values that differ by more than rounding."""
    flat = values.ravel()
    order = np.argsort(flat)
    gaps = np.diff(flat[order]) > 1e-10 * max(1.0, float(np.abs(flat).max()))
    colours = np.empty(len(flat), dtype=np.int64)
    colours[order] = np.concatenate([[0], np.cumsum(gaps)])
    both = np.stack([old.ravel(), colours], axis=1)
    return np.unique(both, axis=0, return_inverse=True)[1].reshape(values.shape)


def _automorphisms(tensor_of: np.ndarray, singles: np.ndarray, pairs: np.ndarray) -> Iterator[Symmetry]:
    """All permutations of entries that keep tensors, colours of entries and colours of pairs."""
    count = len(tensor_of)
    image = np.full(count, -1)

    def extend(open_places: np.ndarray, choices: np.ndarray) -> Iterator[Symmetry]:
        if not open_places.any():
            yield tuple(int(i) for i in image)
            return
        left = np.where(open_places, choices.sum(axis=1), count + 1)
        place = int(left.argmin())  # the entry with the fewest choices left
        for choice in np.flatnonzero(choices[place]):
            fewer = choices & (pairs[choice][None, :] == pairs[place][:, None])
            fewer &= pairs[:, choice][None, :] == pairs[:, place][:, None]
            fewer[:, choice] = False
            still = open_places.copy()
            still[place] = False
            if not fewer[still].any(axis=1).all():
                continue
            image[place] = choice
            yield from extend(still, fewer)

    same = (tensor_of[:, None] == tensor_of[None, :]) & (singles[:, None] == singles[None, :])
    yield from extend(np.ones(count, dtype=bool), same)


def discovered(structure: weyl.Structure, entries: Entries) -> set[Symmetry]:
    """The discovered permutations of units as permutations of entries: the closure of their generators."""
    numbers = entries.state(torch.arange(entries.count, dtype=torch.float64))

    def as_places(element: weyl.Element) -> np.ndarray:
        return entries.flatten(weyl.act(element, structure, numbers)).long().numpy()

    permutations = (element for element in structure.group.generators() if element.moves == {"permute"})
    generators = [as_places(element) for element in permutations]
    found = {tuple(range(entries.count))}
    frontier = list(found)
    while frontier:
        fresh = []
        for symmetry in frontier:
            for generator in generators:
                after = tuple(int(i) for i in np.asarray(symmetry)[generator])
                if after not in found:
                    found.add(after)
                    fresh.append(after)
        frontier = fresh
        assert len(found) < LIMIT, "a group too large for a tiny network"
    return found
