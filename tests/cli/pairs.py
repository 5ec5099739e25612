"""Checkpoints of one small network, random or trained apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from click.testing import Result
from safetensors.torch import save_file
from torch import Tensor, nn

import weyl
from weyl.data import digits
from weyl.models import load_model
from weyl.structure import Structure

Weyl = Callable[..., Result]
State = dict[str, Tensor]
RELU = "mlp?widths=6-5-4-3"
TRAINED = "mlp?widths=64-24-10"


def state(model: str, seed: int) -> State:
    """Initial weights."""
    return {name: tensor.clone() for name, tensor in load_model(model, None, seed).module.state_dict().items()}


@cache
def structure(model: str) -> Structure:
    """Its structure."""
    loaded = load_model(model, None, 0)
    return weyl.discover(loaded.module, loaded.args, loaded.kwargs)


def twin(model: str, of: State, seed: int) -> State:
    """The same network in other coordinates."""
    return weyl.act(structure(model).group.random(seed), structure(model), of)


@cache
def trained(seed: int) -> State:
    """Weights that tell digits apart, for `TRAINED`."""
    split = digits()
    x, y = split.train_x.flatten(1), split.train_y
    module = load_model(TRAINED, None, seed).module
    optimiser = torch.optim.Adam(module.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(12):
        for batch in torch.randperm(len(x), generator=generator).split(128):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
            optimiser.step()
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def save(path: Path, weights: State, metadata: dict[str, str] | None = None) -> Path:
    """Write a checkpoint in the format that the ending names."""
    if path.suffix == ".safetensors":
        save_file(weights, path, metadata)
    else:
        torch.save(weights, path)
    return path


def outputs(model: str, weights: State) -> Tensor:
    """What weights make of random inputs, in float64."""
    loaded = load_model(model, None, 0)
    width = loaded.args[0].shape[1]
    x = torch.randn(40, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        result: Tensor = torch.func.functional_call(
            loaded.module.double(), {name: tensor.double() for name, tensor in weights.items()}, (x,)
        )
    return result


def one_line(result: Result, code: int, *says: str) -> None:
    """A failure is one line on stderr beside warnings, with the right exit code, and nothing on stdout."""
    assert result.exit_code == code, result.stderr
    errors = [line for line in result.stderr.splitlines() if "warning" not in line]
    assert len(errors) == 1 and all(part in errors[0] for part in says), result.stderr
    assert result.stdout == ""
