"""The whole demo: train, inspect, prove, walk, and collect what a report shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from weyl.data import Split
from weyl.demo._lookalikes import lookalikes_of
from weyl.demo._minima import Judge, distances, in_double, straight_line, twins
from weyl.demo._second import second_training
from weyl.demo._subjects import Subject, images, subjects
from weyl.demo._train import fitted
from weyl.geometry import Collapse, collapse
from weyl.proof import verify
from weyl.report import Demo, Inspection, Trained
from weyl.trace import discover

__all__ = ["run"]

TWINS = 5
POINTS = 21
FIRST, SECOND = 0.6, 0.3  # of the time of a network that is trained twice
CHUNK = 100  # images at a time; their activations stay in cache
Progress = Callable[[str, float], None]


def run(*, quick: bool = False, seed: int = 0, report: Progress = lambda what, done: None) -> Demo:
    """Train the demo's networks and show what their symmetry does.

    Parameters
    ----------
    quick : bool
        Tiny networks on small images, in seconds.
    seed : int
        Seed of the split, the initial weights, the batches and the elements; global random state stays as it was.
    report : callable
        Called with what is being done and the fraction of the whole that is done.

    Returns
    -------
    Demo
        All numbers, and the structures.
    """
    with _one_thread():
        return _run(quick, seed, report)


def _run(quick: bool, seed: int, report: Progress) -> Demo:
    begin = time.perf_counter()
    report("reading images", 0.0)
    split, title = images(quick, seed)
    chosen = subjects(quick)
    networks = []
    for number, subject in enumerate(chosen):

        def tell(what: str, done: float, number: int = number, subject: Subject = subject) -> None:
            report(f"{subject.title}: {what}", (number + done) / len(chosen))

        networks.append(_study(subject, split, seed, tell))
    data = {"name": split.name, "title": title, "train": len(split.train_y), "test": len(split.test_y)}
    return Demo(tuple(networks), data, seed, time.perf_counter() - begin)


def _study(subject: Subject, split: Split, seed: int, tell: Progress) -> Trained:
    """Train one network and walk among its minima; where that is wanted, train it again."""
    share = FIRST if subject.again else 1.0

    def first(what: str, done: float) -> None:
        tell(what, share * done)

    def then(what: str, done: float) -> None:
        tell(what, share + SECOND * done)

    begin = time.perf_counter()
    module = fitted(subject, split, seed=seed, progress=lambda done: first("training", 0.7 * done))
    seconds = time.perf_counter() - begin
    network = _walked(subject, split, module, seed, first, seconds=seconds)
    if not subject.again:
        return network
    structure = network.inspection.structure
    trainings, second = second_training(subject, split, structure, module, seed=seed + 1, tell=then)
    tell("telling copies from strangers", share + SECOND)
    found = lookalikes_of(subject, split, structure, (module, second), seed=seed + 2)
    tell("telling copies from strangers", 1.0)
    return replace(network, trainings=trainings, lookalikes=found)


def _walked(subject: Subject, split: Split, module: nn.Module, seed: int, tell: Progress, *, seconds: float) -> Trained:
    """Look at a trained network, and walk among its minima."""
    train_x, test_x = (subject.shaped(x) for x in (split.train_x, split.test_x))
    inspection = _inspect(subject.title, module, test_x[:2], seed, tell)
    tell("measuring its representations", 0.78)
    shapes = {
        "train": _collapse(module, train_x, split.train_y, split.classes),
        "test": _collapse(module, test_x, split.test_y, split.classes),
    }
    tell("walking to equivalent minima", 0.8)
    judge = Judge(module, test_x, split.test_y)
    state = module.state_dict()
    found, states = twins(judge, inspection.structure, state, range(seed + 1, seed + 1 + TWINS))
    home = in_double(state)
    loss, accuracy = judge.score(judge.logits(home))
    norm, closest = distances(module, [home, *states])
    # A curve to look at needs no float64.
    twin = {name: tensor.to(state[name].dtype) for name, tensor in states[0].items()}
    path = straight_line(judge, state, twin, POINTS, lambda done: tell("crossing to a twin", 0.85 + 0.15 * done))
    return Trained(
        title=subject.title,
        description=subject.description,
        inspection=inspection,
        epochs=subject.epochs,
        seconds=seconds,
        loss=loss,
        accuracy=accuracy,
        norm=norm,
        twins=found,
        closest=closest,
        path=path,
        collapse=shapes,
    )


def _inspect(title: str, module: nn.Module, example: Tensor, seed: int, tell: Progress) -> Inspection:
    tell("finding its symmetry", 0.7)
    structure = discover(module, (example,))
    tell("proving it", 0.75)
    proof = verify(module, (example,), structure=structure, seed=seed)
    parameters = list(module.parameters())
    return Inspection(title, structure, sum(p.numel() for p in parameters), len(parameters), proof)


def _collapse(module: nn.Module, x: Tensor, y: Tensor, classes: tuple[str, ...]) -> Collapse:
    batches = list(zip(torch.split(x, CHUNK), torch.split(y, CHUNK), strict=True))
    return collapse(module, batches, names=classes, progress=False)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for torch, as many as before afterwards.

    Tensors of this size gain little from more; on a busy machine threads that wait for each other lose a factor of
    ten, and sums in another order would make the numbers depend on the number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
