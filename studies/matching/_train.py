"""Train the networks, each into a file of its own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import weyl.data
from studies.matching import _design as design
from studies.matching._design import Arch, Size, network

FOLDER = Path(__file__).parents[2] / "build" / "matching"


class Images(NamedTuple):
    """Images and labels to train on, and others held out; perceptrons get images as vectors."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


@cache
def images(name: str, flat: bool) -> Images:
    """Load a data set; its split is the same for all networks."""
    split = {"fashion": weyl.data.fashion, "mnist": weyl.data.mnist, "digits": weyl.data.digits}[name]()
    x, test_x = (part.flatten(1) if flat else part for part in (split.train_x, split.test_x))
    return Images(x, split.train_y, test_x, split.test_y)


def train_all(size: Size, folder: Path = FOLDER, tell: Callable[[str], None] = print) -> None:
    """Train every network that the folder does not hold.

    Parameters
    ----------
    size : Size
        What to train.
    folder : Path
        One file a network; one of other constants is made anew.
    tell : callable
        Gets a line after every training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for arch in size.archs:
        for seed in range(arch.seeds):
            path = checkpoint(folder, arch, seed)
            if not _is_of(path, arch):
                state, facts = train(arch, seed)
                part = path.with_suffix(".part")
                save_file(state, part, {"constants": _constants(arch), "facts": json.dumps(facts)})
                os.replace(part, path)  # an interruption leaves no half of a file under its name
                tell(f"{path.stem}: {facts}")


def checkpoint(folder: Path, arch: Arch, seed: int) -> Path:
    """File of a trained network."""
    return folder / f"{arch.name}-{seed}.safetensors"


def trained(folder: Path, arch: Arch, seed: int) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Read a trained network: its state, and what was measured when it was trained."""
    path = checkpoint(folder, arch, seed)
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
    return load_file(path), facts


def train(arch: Arch, seed: int) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Train one network; start and order of the batches come from the seed.

    Returns
    -------
    dict of str to Tensor
        The state in the end.
    dict of str to float
        Loss and accuracy on training and held-out images, in evaluation mode, and the seconds that it took.
    """
    start = time.perf_counter()
    data = images(arch.data, arch.kind == "mlp")
    net = network(arch, seed).train()
    generator = torch.Generator().manual_seed(2000 + seed)
    optimiser = torch.optim.Adam(net.parameters(), lr=design.LEARNING_RATE, fused=True)
    x, y = data.x, data.y
    if arch.kind == "cnn":
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    steps = len(y) // design.BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, arch.epochs * steps)
    for _ in range(arch.epochs):
        # what is left over is too few for a batch of its own, and comes in another epoch
        for rows in torch.randperm(len(y), generator=generator)[: steps * design.BATCH].split(design.BATCH):
            optimiser.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()
            schedule.step()
    facts = {}
    for part, inputs, labels in (("train", x, y), ("test", data.test_x, data.test_y)):
        facts[f"{part}_loss"], facts[f"{part}_accuracy"] = evaluated(net, inputs, labels)
    facts["seconds"] = round(time.perf_counter() - start, 1)
    return {name: tensor.contiguous() for name, tensor in net.state_dict().items()}, facts


@torch.no_grad()
def evaluated(net: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and accuracy in evaluation mode, to six digits."""
    net.eval()
    loss = right = 0.0
    for inputs, labels in zip(x.split(1000), y.split(1000), strict=True):
        logits = net(inputs)
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(1) == labels).sum())
    return float(f"{loss / len(y):.6g}"), float(f"{right / len(y):.6g}")


def _constants(arch: Arch) -> str:
    """Everything that decides a training besides its seed."""
    plain = asdict(arch)
    del plain["seeds"]
    return json.dumps({**plain, "batch": design.BATCH, "learning_rate": design.LEARNING_RATE})


def _is_of(path: Path, arch: Arch) -> bool:
    if not path.exists():
        return False
    with safe_open(path, "pt") as file:
        return file.metadata()["constants"] == _constants(arch)
