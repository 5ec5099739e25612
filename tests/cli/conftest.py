from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from weyl.cli import main

NETS = """
import torch
from torch import nn

def net(width=5):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))

def chatty():
    print("I am a factory that prints")
    return net()

def nan():
    model = net()
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    return model

def raises():
    raise ValueError("no such thing\\nas a net")

def stops():
    raise KeyboardInterrupt

def empty():
    return nn.Sequential()

def parameterless():
    return nn.ReLU(), (torch.ones(1, 3),)

def lazy():
    return nn.LazyLinear(3), (torch.ones(1, 3),)

def meta():
    return net().to("meta"), (torch.ones(2, 4),)

def meta_with_input():
    return net().to("meta"), (torch.ones(2, 4, device="meta"),)

class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
    def forward(self, x):
        return self.a(x) if x.sum() > 0 else self.b(x)

def branch():
    return Branch()

class Spectrum(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
    def forward(self, x):
        return self.last(torch.fft.fft(self.first(x)).real)

def spectrum():
    return Spectrum()

class Named(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.add_module(name, nn.Linear(4, 3))
        self.last = nn.Linear(3, 2)
    def forward(self, x):
        first, last = self.children()
        return last(first(x).relu())

def hostile():
    return Named("<b>[red]\\x1b[31m</b>"), (torch.ones(2, 4),)
"""


@pytest.fixture
def nets(tmp_path: Path) -> str:
    """Path of a file of factories, awkward ones among them."""
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return str(path)


@pytest.fixture
def weyl() -> Callable[..., Result]:
    """Run the command line in this process."""

    def run(*args: object) -> Result:
        result = CliRunner().invoke(main, [str(arg) for arg in args], prog_name="weyl")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run
