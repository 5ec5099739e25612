"""A second training beside the first: what lies between the two, aligned or not, and what is recognised."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from weyl.actions import act
from weyl.data import Split
from weyl.demo._subjects import Subject
from weyl.demo._train import fitted
from weyl.matching import Match, match
from weyl.merging import Evaluation, barrier, evaluator, merge
from weyl.report import AS_THEY_ARE, Line, Search, Trainings, Way
from weyl.structure import Structure

__all__ = ["second_training"]

State = Mapping[str, Tensor]
Judge = Callable[[State], Evaluation]
Progress = Callable[[str, float], None]

POINTS = 11
PARTS = 20  # batches that are judged: intervals resample them
CHUNK = 100  # training images at a time; their activations stay in cache
COSTS = ("weights", "activations")
TRAINING = 0.8  # of the time


def second_training(
    subject: Subject, split: Split, structure: Structure, first: nn.Module, *, seed: int, tell: Progress
) -> tuple[Trainings, nn.Module]:
    """Train a network once more, and align the second training with the first.

    Parameters
    ----------
    subject : Subject
        The network.
    split : Split
        Images to train on and to judge with.
    structure : Structure
        Of the network.
    first : nn.Module
        The first training; not changed.
    seed : int
        Of the initial weights and the order of the batches, and of the disguise of a copy of the first.
    tell : callable
        Called with what is being done and the fraction of it all that is done.

    Returns
    -------
    Trainings
        What lies between the two.
    nn.Module
        The second training.
    """
    begin = time.perf_counter()
    second = fitted(subject, split, seed=seed, progress=lambda done: tell("training a second time", TRAINING * done))
    train, test = (subject.shaped(x) for x in (split.train_x, split.test_x))
    # As many training images as held-out ones; both sets are judged in batches that are alike.
    some = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[: len(test)]
    judge, trained = _judge(first, test, split.test_y), _judge(first, train[some], split.train_y[some])
    pair = _Pair(structure, (first, second), torch.split(train, CHUNK), judge, trained)
    tell("comparing both trainings", TRAINING)
    ways = {AS_THEY_ARE: pair.way()}
    for costs in COSTS:
        ways[f"aligned by {costs}"] = pair.way(costs)
    copy = pair.disguised(seed)
    tell("comparing both trainings", 1.0)
    one, two = judge(pair.a), judge(pair.b)
    loss, accuracy = ((one.mean(name), two.mean(name)) for name in ("loss", "accuracy"))
    return Trainings(loss, accuracy, ways, copy, time.perf_counter() - begin), second


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two trainings, and how any state of their network is judged."""

    structure: Structure
    modules: tuple[nn.Module, nn.Module]
    batches: tuple[Tensor, ...]
    judge: Judge
    trained: Judge  # on training images

    @property
    def a(self) -> State:
        return self.modules[0].state_dict()

    @property
    def b(self) -> State:
        return self.modules[1].state_dict()

    def way(self, costs: str | None = None) -> Way:
        """What lies between the first and the second, which is aligned by some costs before."""
        end, search = self.b, None
        if costs is not None:
            found = match(self.structure, self.a, self.b, costs=costs, model=self.modules[0], data=self.batches)
            end, search = act(found.element, self.structure, self.b), _search(found)
        line, trained = (Line(barrier(judge, self.a, end, POINTS)) for judge in (self.judge, self.trained))
        mean = self.judge(merge(self.structure, [self.a, end], align=False))
        return Way(line, trained, mean.mean(), mean.mean("accuracy"), search)

    def disguised(self, seed: int) -> Search:
        """What is found of a copy of the first, moved by a random element of the whole group."""
        element = self.structure.group.random(seed)
        return _search(match(self.structure, self.a, act(element, self.structure, self.a)))


def _judge(module: nn.Module, x: Tensor, y: Tensor) -> Judge:
    size = max(1, len(x) // PARTS)
    return evaluator(module, list(zip(torch.split(x, size), torch.split(y, size), strict=True)))


def _search(found: Match) -> Search:
    return Search(found.exact, found.steps, found.distance_before, found.distance)
