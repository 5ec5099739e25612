"""Plant an element and look for it; enumerate a group and look for its best element."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from benchmarks._plain_matching import match_plainly
from torch import Tensor, nn

import weyl
from weyl.groups import Element, Part
from weyl.structure import Units

State = dict[str, Tensor]


@dataclass(frozen=True)
class Size:
    """How much of it is run.

    Parameters
    ----------
    blocks : tuple of (int, int, int)
        Width of the stream, width inside, and trials without noise.
    noises : tuple of float
        Standard deviation of what is added to every weight of the copy, relative to that of the weights.
    trials : int
        For every noise but none.
    pairs : int
        Pairs of tiny networks whose group is enumerated.
    """

    blocks: tuple[tuple[int, int, int], ...]
    noises: tuple[float, ...]
    trials: int
    pairs: int


FULL = Size(((30, 50, 100), (100, 200, 100)), (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0), 50, 200)
SMOKE = Size(((6, 10, 5),), (0.0, 0.1), 3, 1)


def block(stream: int, inside: int) -> weyl.Structure:
    """A residual block x + W2 f(W1 x) by itself: neither its stream nor its inside is anchored to anything."""
    d, h = Units("stream", stream), Units("inside", inside)
    return weyl.Structure((weyl.Space("stream", stream), weyl.Space("inside", inside)), {"w1": (h, d), "w2": (d, h)})


def recovery(size: Size) -> list[dict[str, Any]]:
    """Share of planted permutations that are found exactly, for every noise: by weyl and by the published loop."""
    found = []
    for stream, inside, clean in size.blocks:
        structure = block(stream, inside)
        for noise in size.noises:
            trials = size.trials if noise else clean
            hits = {"weyl": 0, "plain": 0, "exact": 0}
            for seed in range(trials):
                a, b, planted = _planted(structure, noise, seed)
                match = weyl.match(structure, a, b, seed=seed)
                hits["exact"] += match.exact
                for name, element in (
                    ("weyl", match.element),
                    ("plain", match_plainly(structure, a, b, seed).element(structure)),
                ):
                    hits[name] += all(np.array_equal(element[s].permutation, planted[s].permutation) for s in planted)
            found.append({"stream": stream, "inside": inside, "noise": noise, "trials": trials, **hits})
    return found


def _planted(structure: weyl.Structure, noise: float, seed: int) -> tuple[State, State, Element]:
    """A block, a permuted noisy copy, and the element that undoes the permutation."""
    generator = torch.Generator().manual_seed(seed)

    def drawn() -> State:
        return {
            name: torch.randn([axis.size for axis in axes], generator=generator, dtype=torch.float64)
            for name, axes in structure.axes.items()
        }

    a, added = drawn(), drawn()
    g = structure.group.random(seed + 1)
    b = {name: tensor + noise * added[name] for name, tensor in weyl.act(g, structure, a).items()}
    return a, b, ~g


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ReLU 3-4-4-2": lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)),
    "tanh 3-3-3-2": lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)),
    "ReLU 3-6-2": lambda: nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)),
}


def oracle(size: Size) -> list[dict[str, Any]]:
    """How often the global optimum over all permutations and signs is attained, between unrelated weights."""
    return [_oracle(name, make(), size.pairs) for name, make in NETWORKS.items()]


def _oracle(name: str, net: nn.Module, pairs: int) -> dict[str, Any]:
    structure = weyl.discover(net, (torch.zeros(2, 3),))
    kinds = ("permute", "sign")
    elements = list(_elements(structure))
    attained = {1: 0, 10: 0}
    shares = {1: 0.0, 10: 0.0}
    for seed in range(pairs):
        generator = torch.Generator().manual_seed(seed)
        a, b = (
            {
                key: torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                for key, tensor in net.state_dict().items()
            }
            for _ in range(2)
        )
        best = max(_inner(structure, a, weyl.act(element, structure, b)) for element in elements)
        for restarts in attained:
            found = weyl.match(structure, a, b, kinds=kinds, restarts=restarts, seed=seed)
            value = _inner(structure, a, weyl.act(found.element, structure, b))
            attained[restarts] += math.isclose(value, best, rel_tol=1e-9)
            shares[restarts] += value / best / pairs
    return {
        "network": name,
        "elements": len(elements),
        "pairs": pairs,
        **{f"attained_{restarts}": count for restarts, count in attained.items()},
        **{f"share_{restarts}": round(share, 5) for restarts, share in shares.items()},
    }


def _elements(structure: weyl.Structure) -> Any:
    """Every element of permutations and signs, scales left alone."""
    group = structure.group
    signs = [gauge for gauge in group.gauges if gauge.kind is weyl.GaugeKind.SIGN]
    sizes = {space.name: space.size for space in group.spaces}
    orders = [list(itertools.permutations(range(space.size))) for space in group.spaces]
    flips = [list(itertools.product((1, -1), repeat=sizes[gauge.space])) for gauge in signs]
    for chosen in itertools.product(*orders, *flips):
        parts = {s.name: Part(np.array(p)) for s, p in zip(group.spaces, chosen, strict=False)}
        values = {g.name: np.array(f) for g, f in zip(signs, chosen[len(orders) :], strict=True)}
        yield Element(group.spaces, parts, group.gauges, values)


def _inner(structure: weyl.Structure, a: State, b: State) -> float:
    return sum(float((a[name] * b[name]).sum()) for name in structure.axes)


def study(size: Size) -> dict[str, Any]:
    """Both, ready for JSON."""
    return {"recovery": recovery(size), "oracle": oracle(size)}
