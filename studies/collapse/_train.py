"""Train one network of an arm and measure it on the way."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import weyl
import weyl.data
from studies.collapse import _design as design
from studies.collapse._design import Arm, Size

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
GAINS = {"relu": math.sqrt(2), "tanh": 5 / 3, "sigmoid": 4.0}


@dataclass(frozen=True)
class Problem:
    """Images and labels of one seed.

    Parameters
    ----------
    x, y, test_x, test_y : tensor
        Training part, its labels perhaps random, and the held-out part with its true labels.
    rare : list of int
        The classes that have few images or little weight.
    weights : tensor, shape (k,)
        Of the classes in the loss; 1 on average over the training images.
    """

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    rare: list[int]
    weights: Tensor


@cache
def images(train: int | None, held_out: int, seed: int) -> weyl.data.Split:
    """Load a split of MNIST once: to parse the images takes longer than a short training."""
    return weyl.data.mnist(train, held_out=held_out, seed=seed)


def problem(arm: Arm, size: Size, seed: int) -> Problem:
    """Draw the images, labels and weights of an arm."""
    generator = torch.Generator().manual_seed(seed)
    k = design.CLASSES
    rare = torch.randperm(k, generator=generator)[: k // 2].sort().values
    uneven = arm.sizes == "100:1"
    split = images(None if uneven else size.train, size.held_out, seed)
    x, y = split.train_x, split.train_y
    if uneven:
        # as many images as elsewhere, in five large classes and five small ones
        large = 2 * size.train // k
        x, y = _thinned(x, y, [max(1, large // design.RATIO) if c in rare else large for c in range(k)])
    if arm.labels == "random":
        y = torch.randint(k, (len(y),), generator=generator)
    weights = torch.ones(k)
    if arm.weights == "100:1":
        weights[rare] = 1 / design.RATIO
    if arm.weights == "inverse":
        weights = 1 / y.bincount(minlength=k)
    weights = weights / weights[y].mean()
    return Problem(x, y, split.test_x, split.test_y, rare.tolist(), weights)


def _thinned(x: Tensor, y: Tensor, counts: list[int]) -> tuple[Tensor, Tensor]:
    rows = torch.cat([(y == c).nonzero()[:n, 0] for c, n in enumerate(counts)])
    return x[rows], y[rows]


def network(arm: Arm, classes: int, seed: int) -> tuple[nn.Sequential, nn.Module]:
    """Make the features and the classifier; every initial value comes from the seed."""
    generator = torch.Generator().manual_seed(1000 + seed)
    activation = ACTIVATIONS[arm.activation]

    def block(layer: Any, width: int) -> list[nn.Module]:
        flat = isinstance(layer, nn.Linear)
        norm = [nn.BatchNorm1d(width) if flat else nn.BatchNorm2d(width)] if arm.norm else []
        return [_started(layer, GAINS[arm.activation], generator), *norm, activation()]

    layers: list[nn.Module] = []
    dim = design.HIDDEN[-1]
    if arm.network == "cnn":
        first, second = design.CHANNELS
        layers += block(_bare(nn.Conv2d, 1, first, 5, stride=2, padding=2), first)
        layers += block(_bare(nn.Conv2d, first, second, 3, stride=2, padding=1), second)
        layers += [nn.Flatten(), *block(_bare(nn.Linear, second * 49, dim), dim)]
    else:
        widths = (784, *design.HIDDEN)
        layers += [nn.Flatten()]
        for before, after in pairwise(widths):
            layers += block(_bare(nn.Linear, before, after), after)
    layers = layers[:-1] if arm.signed else layers
    return nn.Sequential(*layers), _head(arm, dim, classes, seed, generator)


def _head(arm: Arm, dim: int, classes: int, seed: int, generator: torch.Generator) -> nn.Module:
    if arm.head == "parameter-free":
        return weyl.nn.SimplexHead(dim, classes, parameter_free=True, scale=design.HEAD_NORM)
    if arm.head in ("simplex", "simplex-start"):
        trained = arm.head == "simplex-start"
        return weyl.nn.SimplexHead(dim, classes, trained, scale=design.HEAD_NORM, bias=trained, seed=seed)
    head = _started(_bare(nn.Linear, dim, classes), 1.0, generator)
    if arm.head == "gaussian":
        with torch.no_grad():
            head.weight.mul_(design.HEAD_NORM / head.weight.norm(dim=1, keepdim=True))
        head.requires_grad_(False)
    return head


def _bare(kind: type[nn.Module], *args: Any, **options: Any) -> Any:
    """Make a layer whose values are not yet drawn: its own draw would come from the global random state."""
    return nn.utils.skip_init(kind, *args, **options)


def _started(layer: Any, gain: float, generator: torch.Generator) -> Any:
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(fan_in), generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def train(model: nn.Module, data: Problem, arm: Arm, epochs: int, seed: int) -> Iterator[int]:
    """Train, and yield the number of steps made, first 0; the model is in training mode from then on."""
    generator = torch.Generator().manual_seed(2000 + seed)
    rate = design.LEARNING_RATE[arm.optimiser]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser: torch.optim.Optimizer = torch.optim.Adam(parameters, lr=rate, weight_decay=arm.decay)
    if arm.optimiser == "sgd":
        optimiser = torch.optim.SGD(parameters, lr=rate, momentum=design.MOMENTUM, weight_decay=arm.decay)
    total = epochs * steps_per_epoch(data)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, total)
    made = 0
    yield made
    for _ in range(epochs):
        # a last batch of a single image has no batch statistics
        for rows in torch.randperm(len(data.y), generator=generator).tensor_split(steps_per_epoch(data)):
            model.train()
            loss = F.cross_entropy(model(data.x[rows]), data.y[rows], reduction="none")
            optimiser.zero_grad()
            (loss * data.weights[data.y[rows]]).mean().backward()
            optimiser.step()
            schedule.step()
            made += 1
            yield made


def steps_per_epoch(data: Problem) -> int:
    """Batches of about `_design.BATCH` images."""
    return math.ceil(len(data.y) / design.BATCH)


@torch.no_grad()
def measure(body: nn.Module, head: nn.Module, x: Tensor, y: Tensor, classes: int = design.CLASSES) -> weyl.Collapse:
    """Measure the features of all images, in evaluation mode."""
    body.eval()
    features = body(x)
    stats = weyl.CollapseStatistics(classes, features.shape[1]).update(features, y, head(features))
    return stats.compute(head.weight, head.bias)


def run_arm(arm: Arm, size: Size, seed: int) -> dict[str, Any]:
    """Train the network of one arm and one seed.

    Returns
    -------
    dict
        Ready for JSON: the metrics of both parts along the training and at its end.
    """
    start = time.perf_counter()
    size = replace(size, epochs=size.epochs * arm.longer)
    data = problem(arm, size, seed)
    body, head = network(arm, design.CLASSES, seed)
    model = nn.Sequential(body, head)
    per_epoch = steps_per_epoch(data)
    paths: dict[str, Any] = {"epoch": [], "train": _empty(), "test": _empty()}
    best, stopper = (math.inf, 0, model.state_dict()), arm.early
    for step in train(model, data, arm, size.epochs, seed):
        epoch, within = divmod(step, per_epoch)
        if within:
            continue
        if epoch in size.measured:
            _record(paths, epoch, body, head, data)
        if stopper:
            loss = _held_out_loss(model, data)
            if loss < best[0]:
                best = loss, epoch, copy.deepcopy(model.state_dict())
            elif epoch - best[1] >= design.PATIENCE:
                break
    if stopper:
        model.load_state_dict(best[2])
        epoch = best[1]
    ends = {"train": measure(body, head, data.x, data.y), "test": measure(body, head, data.test_x, data.test_y)}
    return {
        "arm": asdict(arm),
        "seed": seed,
        "stopped_at": epoch,
        "rare": data.rare,
        "final": {part: metrics(found, design.FINAL) for part, found in ends.items()},
        "cosines": _cosines(ends["train"]),
        "class_vector_norms": rounded(head.weight.detach().norm(dim=1).tolist()),
        "trajectory": paths,
        "seconds": round(time.perf_counter() - start, 2),
    }


def _record(paths: dict[str, Any], epoch: int, body: nn.Module, head: nn.Module, data: Problem) -> None:
    paths["epoch"].append(epoch)
    for part, x, y in (("train", data.x, data.y), ("test", data.test_x, data.test_y)):
        for name, value in metrics(measure(body, head, x, y), design.TRAJECTORY).items():
            paths[part][name].append(value)


@torch.no_grad()
def _held_out_loss(model: nn.Module, data: Problem) -> float:
    model.eval()
    return float(F.cross_entropy(model(data.test_x), data.test_y))


def _cosines(found: weyl.Collapse) -> list[list[float]]:
    """Cosines between the centred class means."""
    gram = torch.from_numpy(found.gram)
    lengths = gram.diagonal().sqrt()
    return [rounded(row) for row in (gram / lengths[:, None] / lengths).tolist()]


def _empty() -> dict[str, list[Any]]:
    return {name: [] for name in design.TRAJECTORY}


def metrics(found: weyl.Collapse, names: tuple[str, ...]) -> dict[str, float | None]:
    """Take metrics by name, to six significant digits; infinite ones are None."""
    values = found.to_dict()
    return {name: None if values[name] is None else rounded([values[name]])[0] for name in names}


def rounded(values: list[float]) -> list[float]:
    """Round to six significant digits."""
    return [float(f"{value:.6g}") for value in values]
