"""Train a network and follow what should be conserved, and what should not."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import weyl
import weyl.data
from studies.conserved import _design as design
from studies.conserved._design import ARMS, NETWORKS, Size
from weyl.orbits import Conserved, conserved


def study(size: Size) -> dict[str, Any]:
    """All runs, ready for JSON."""
    start = time.perf_counter()
    runs = [
        run(network, arm, rate, seed, size.images)
        for seed in size.seeds
        for network in NETWORKS
        for arm in ARMS
        for rate in size.rates
    ]
    constants = {name.lower(): getattr(design, name) for name in ("TIME", "DECAY", "BATCH", "BETAS")}
    versions = {"weyl": weyl.__version__, "torch": torch.__version__, "python": platform.python_version()}
    found = {
        "study": "conserved",
        "question": "What does gradient descent conserve, and what moves it?",
        "constants": {**constants, **asdict(size)},
        "versions": versions,
        "seconds": round(time.perf_counter() - start, 1),
        "runs": runs,
    }
    return json.loads(json.dumps(found, allow_nan=False))


def run(network: str, arm: str, rate: float, seed: int, images: int) -> dict[str, Any]:
    """Train one network for the time of the study.

    Returns
    -------
    dict
        ``drift``, how far the quantities have gone at the end, relative to their size; ``retained``, the part of them
        that is left, by projection on those of the start; ``control``, the relative change of the squared norm of the
        first layer, which nothing conserves; ``path``, drift and part along the way.
    """
    x, y = _data(images, seed)
    net = _started(network, seed)
    structure = weyl.discover(net, (x[:1],))
    steps = round(design.TIME / rate)
    watched = sorted({round(k * steps / design.SNAPSHOTS) for k in range(design.SNAPSHOTS + 1)})
    first, control = conserved(structure, net.state_dict()), _first_layer(net)
    path: dict[str, list[float]] = {"time": [], "drift": [], "retained": [], "control": []}
    losses = []
    for step, loss in _trained(net, x, y, arm, rate, steps, seed):
        losses.append(loss)
        if step in watched:
            now = conserved(structure, net.state_dict())
            path["time"].append(_rounded(step * rate))
            path["drift"].append(_rounded(max(first.drift(now).values())))
            path["retained"].append(_rounded(_retained(first, now)))
            path["control"].append(_rounded(abs(_first_layer(net) / control - 1)))
    ends = {name: values[-1] for name, values in path.items() if name != "time"}
    loss = [_rounded(losses[0]), _rounded(losses[-1])]
    return {"network": network, "arm": arm, "rate": rate, "seed": seed, "loss": loss, **ends, "path": path}


def _data(images: int, seed: int) -> tuple[Tensor, Tensor]:
    split = weyl.data.digits(limit=images, seed=seed)
    return split.train_x.double().flatten(1), split.train_y


def _started(name: str, seed: int) -> nn.Sequential:
    """Every value is drawn from the seed; both sides of a unit have different norms, so that there is much to keep."""
    generator = torch.Generator().manual_seed(1000 + seed)
    net = design.network(name).double()
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Linear):
                layer.weight.normal_(0.0, layer.in_features**-0.5, generator=generator)
                layer.bias.normal_(0.0, 0.1, generator=generator)
    return net


def _trained(net: nn.Module, x: Tensor, y: Tensor, arm: str, rate: float, steps: int, seed: int) -> Any:
    """Train, and yield the number of steps made and the loss of all images, first before any step."""
    generator = torch.Generator().manual_seed(2000 + seed)
    decay = design.DECAY if arm == "decay" else 0.0
    optimiser: torch.optim.Optimizer = torch.optim.SGD(net.parameters(), lr=rate, weight_decay=decay)
    if arm == "adam":
        # Each coordinate moves by about the rate in one step: so a tenth of it is taken.
        optimiser = torch.optim.Adam(net.parameters(), lr=rate / 10, betas=design.BETAS)
    for step in range(steps + 1):
        with torch.no_grad():
            whole = float(F.cross_entropy(net(x), y))
        yield step, whole
        rows = torch.randperm(len(y), generator=generator)[: design.BATCH] if arm == "sgd" else slice(None)
        optimiser.zero_grad()
        F.cross_entropy(net(x[rows]), y[rows]).backward()
        optimiser.step()


def _retained(first: Conserved, now: Conserved) -> float:
    """The factor c for which c times the first quantities is nearest to those of now."""
    before, after = (
        np.concatenate([one.quantities[name].ravel() for name in first.quantities]) for one in (first, now)
    )
    return float(before @ after / (before @ before))


def _first_layer(net: nn.Module) -> float:
    return float(net.get_parameter("0.weight").detach().square().sum())


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
