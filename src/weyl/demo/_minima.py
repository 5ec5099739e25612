"""Equivalent minima of a trained network: walk to them, compare them, and look at what lies between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from weyl.actions import act
from weyl.merging import barrier
from weyl.report import Path, Twin
from weyl.structure import Structure

__all__ = ["Judge", "distances", "straight_line", "twins"]

State = dict[str, Tensor]
CHUNK = 100  # small enough for a chunk's activations to stay in cache


@dataclass(frozen=True, eq=False)
class Judge:
    """A network in evaluation mode and held-out data: judges any state dict of the network.

    Parameters
    ----------
    module : nn.Module
        The network; its own weights are not used.
    x, y : Tensor
        Held-out inputs and classes.
    """

    module: nn.Module
    x: Float[Tensor, "n ..."]
    y: Int64[Tensor, "n"]  # noqa: F821 (jaxtyping reads a dimension, not a name)

    def logits(self, state: Mapping[str, Tensor]) -> Float[Tensor, "n k"]:
        """Outputs under a state, in the state's precision."""
        dtype = next(t.dtype for t in state.values() if t.is_floating_point())
        with torch.no_grad():
            chunks = [
                torch.func.functional_call(self.module, dict(state), (chunk.to(dtype),))
                for chunk in torch.split(self.x, CHUNK)
            ]
        return torch.cat(chunks)

    def score(self, logits: Float[Tensor, "n k"]) -> tuple[float, float]:
        """Mean cross-entropy and accuracy."""
        loss = nn.functional.cross_entropy(logits, self.y)
        return float(loss), float((logits.argmax(1) == self.y).double().mean())


def in_double(state: Mapping[str, Tensor]) -> State:
    """The same weights in float64; counters stay integers."""
    return {name: t.detach().double() if t.is_floating_point() else t for name, t in state.items()}


def twins(
    judge: Judge, structure: Structure, state: Mapping[str, Tensor], seeds: Sequence[int]
) -> tuple[tuple[Twin, ...], list[State]]:
    """Move a state by random permutations of its group, and compare each with it in float64.

    Signs and scales are left alone: every twin has the very entries of the trained network, in other places.

    Parameters
    ----------
    judge : Judge
        The network and held-out data.
    structure : Structure
        Of the network.
    state : mapping of str to tensor
        The trained state; not changed.
    seeds : sequence of int
        One random permutation each.

    Returns
    -------
    tuple of Twin
        How each compares.
    list of dict
        The states themselves, in float64.
    """
    home = in_double(state)
    outputs = judge.logits(home)
    start = _vector(judge.module, home)
    found, states = [], []
    for seed in seeds:
        moved = act(structure.group.random(seed, kinds=("permute",)), structure, home)
        logits = judge.logits(moved)
        vector = _vector(judge.module, moved)
        loss, accuracy = judge.score(logits)
        difference = float((logits - outputs).abs().max())
        changed = float((vector != start).double().mean())
        found.append(Twin(seed, loss, accuracy, difference, float((vector - start).norm()), changed))
        states.append(moved)
    return tuple(found), states


def distances(module: nn.Module, states: Sequence[Mapping[str, Tensor]]) -> tuple[float, float]:
    """Euclidean norm of the first state's parameters, and the smallest distance between any two states."""
    vectors = torch.stack([_vector(module, state) for state in states])
    return float(vectors[0].norm()), float(torch.pdist(vectors).min())


def straight_line(
    judge: Judge,
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    points: int,
    progress: Callable[[float], None] = lambda done: None,
) -> Path:
    """Loss and accuracy at evenly spaced points between two states, both ends included."""

    def evaluate(state: Mapping[str, Tensor]) -> dict[str, float]:
        loss, accuracy = judge.score(judge.logits(state))
        return {"loss": loss, "accuracy": accuracy}

    found = barrier(evaluate, start, end, points, progress=progress)
    return Path(found.at, found.losses, found.metrics["accuracy"])


def _vector(module: nn.Module, state: Mapping[str, Tensor]) -> Float[Tensor, "p"]:  # noqa: F821
    """All parameters in one vector: buffers are no part of the space that a minimum lies in."""
    return torch.cat([state[name].flatten() for name, _ in module.named_parameters()])
