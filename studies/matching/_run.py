"""Put trained networks next to each other in several ways, and measure what lies between them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import weyl
import weyl.merging
from studies.matching import _design as design
from studies.matching._design import Arch, network
from studies.matching._train import images

State = dict[str, Tensor]
Curve = dict[str, list[float]]
Batches = list[tuple[Tensor, Tensor]]


class Setting(NamedTuple):
    """What all pairs of an architecture share.

    Parameters
    ----------
    structure, net
        Of the architecture; the weights of the network are not used.
    judge : callable
        From a state to its losses and its accuracy.
    calibration, refining, held_out : list of (inputs, labels)
        Training images: to match activations, repair statistics and give training losses; to refine with; and to
        choose by while refining. Test images are measured on, and nothing else.
    """

    structure: weyl.Structure
    net: nn.Module
    judge: Callable[[Mapping[str, Tensor]], dict[str, float]]
    calibration: Batches
    refining: Batches
    held_out: Batches


def setting(arch: Arch, calibration: int) -> Setting:
    """Read the images and find the structure."""
    data = images(arch.data, arch.kind == "mlp")
    net = network(arch, seed=0)
    rows = torch.randperm(len(data.y), generator=torch.Generator().manual_seed(3000))
    held_out, rest = rows[: len(rows) // 20], rows[len(rows) // 20 :]

    def batches(x: Tensor, y: Tensor) -> Batches:
        return list(zip(x.split(design.JUDGED), y.split(design.JUDGED), strict=True))

    given, refining, chosen = (
        batches(data.x[some], data.y[some]) for some in (rest[:calibration], rest[: design.REFINING], held_out)
    )
    test, train = (
        weyl.merging.evaluator(net, part)
        for part in (batches(data.test_x[: design.TESTED], data.test_y[: design.TESTED]), given)
    )

    def judge(state: Mapping[str, Tensor]) -> dict[str, float]:
        found = test(state)
        return {"loss": found.mean(), "accuracy": found.mean("accuracy"), "train_loss": train(state).mean()}

    return Setting(weyl.discover(net, (data.x[:2],)), net, judge, given, refining, chosen)


def align(arm: str, at: Setting, a: State, b: State) -> State:
    """Move b next to a in the way of an arm, by every kind of move that the group has."""
    if arm == "naive":
        return b
    options: dict[str, Any] = {"seed": 0}
    if arm == "activations":
        options |= {"costs": "activations", "model": at.net, "data": at.calibration}
    element = weyl.match(at.structure, a, b, **options).element
    if arm == "refined":
        refined = weyl.refine(
            at.structure, a, b, model=at.net, data=at.refining, held_out=at.held_out, start=element, seed=0
        )
        element = refined.element
    return weyl.act(element, at.structure, b)


def compare(arch: Arch, arm: str, at: Setting, a: State, b: State) -> dict[str, Any]:
    """Measure one pair in the way of one arm.

    Returns
    -------
    dict
        ``plain`` and ``repaired``: losses and accuracy along the line, ends included; ``distance``, between the two
        networks over all parameters, relative to the norm of the first; ``seconds`` that it took to align them.
    """
    start = time.perf_counter()
    moved = align(arm, at, a, b)
    spent = time.perf_counter() - start
    barrier = weyl.barrier(at.judge, a, moved, points=design.POINTS)
    plain = {"loss": barrier.losses, **{name: barrier.metrics[name] for name in ("accuracy", "train_loss")}}
    names = [name for name, _ in at.net.named_parameters()]
    apart = math.sqrt(sum(float((a[name] - moved[name]).double().square().sum()) for name in names))
    size = math.sqrt(sum(float(a[name].double().square().sum()) for name in names))
    return {
        "plain": {name: rounded(values) for name, values in plain.items()},
        "repaired": repaired(arch, at, a, moved, plain),
        "distance": rounded([apart / size])[0],
        "seconds": round(spent, 2),
    }


def repaired(arch: Arch, at: Setting, a: State, b: State, plain: Mapping[str, Any]) -> Curve:
    """The line with the statistics of every interior point repaired; the ends are the networks themselves."""
    found = [{name: values[0] for name, values in plain.items()}]
    for t in np.linspace(0, 1, design.POINTS)[1:-1]:
        found.append(at.judge(merged(arch, at, [a, b], (1 - float(t), float(t)), repair=True)))
    found.append({name: values[-1] for name, values in plain.items()})
    return {name: rounded([point[name] for point in found]) for name in plain}


def merged(
    arch: Arch, at: Setting, states: list[State], weights: tuple[float, ...] | None = None, *, repair: bool
) -> State:
    """Average states that are next to each other already."""
    options: dict[str, Any] = {"model": at.net, "data": at.calibration, "repair": design.REPAIRS[arch.kind]}
    return weyl.merge(at.structure, states, weights, align=False, **(options if repair else {}))


def together(arch: Arch, at: Setting, states: list[State]) -> dict[str, Any]:
    """Merge several networks into one: as trained, each matched with the first, and all in one universe.

    Returns
    -------
    dict
        ``single``, what each of them scores; for every way ``plain`` and ``repaired``.
    """
    first, *others = states
    ways = {
        "naive": states,
        "first": [first, *(align("weights", at, first, other) for other in others)],
        "universe": [
            weyl.act(element, at.structure, state)
            for element, state in zip(weyl.universe(at.structure, states).elements, states, strict=True)
        ],
    }
    found: dict[str, Any] = {"networks": len(states), "single": [_rounded(at.judge(state)) for state in states]}
    for name, aligned in ways.items():
        found[name] = {
            "plain": _rounded(at.judge(merged(arch, at, aligned, repair=False))),
            "repaired": _rounded(at.judge(merged(arch, at, aligned, repair=True))),
        }
    return found


def rounded(values: Any) -> list[float]:
    """Round to six significant digits."""
    return [float(f"{value:.6g}") for value in values]


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return dict(zip(values, rounded(values.values()), strict=True))
