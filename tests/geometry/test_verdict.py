"""When a classifier is called collapsed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.geometry.planted import planted
from torch import nn

from weyl.data import digits, mnist
from weyl.demo._train import trained
from weyl.geometry import collapse, verdict
from weyl.models import mlp
from weyl.models.loaded import seeded


def test_a_simplex_is_collapsed_and_noise_or_skew_is_not() -> None:
    assert verdict(planted()).level == "collapsed"
    assert verdict(planted(bootstrap=20)).level == "collapsed"
    levels = [verdict(planted(noise=noise)).level for noise in (0.01, 0.12, 1.0)]
    assert levels == ["collapsed", "partly", "not"]
    told = verdict(planted(skew=0.6))
    assert told.level != "collapsed" and "nc2" in told.failed


def test_a_network_that_was_stopped_early_is_not_called_collapsed() -> None:
    split = digits()
    x, y = split.train_x.flatten(1), split.train_y
    for epochs in (0, 1, 5):
        module = (
            trained(mlp("64-32-10").module, x, y, epochs=epochs, rate=4e-3, seed=0)
            if epochs
            else mlp("64-32-10").module
        )
        assert verdict(collapse(module, [(x, y)], progress=False)).level in ("not", "partly")


@pytest.mark.slow
@pytest.mark.parametrize(("decay", "end"), [(5e-3, ["collapsed"]), (0.0, ["not", "partly"])])
def test_a_network_that_was_trained_long_is_called_collapsed(decay: float, end: list[str]) -> None:
    """The positive control on real data: BatchNorm, SGD and weight decay, until long after the last error."""
    split = mnist(limit=2000, held_out=100)
    x, y = split.train_x.flatten(1), split.train_y
    with seeded(0):
        sizes = [(784, 128), (128, 128), (128, 64)]
        blocks = [module for a, b in sizes for module in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())]
        module = nn.Sequential(*blocks, nn.Linear(64, 10))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    generator = torch.Generator().manual_seed(0)
    levels = {}
    for epoch in range(200):
        for batch in torch.randperm(len(x), generator=generator).tensor_split(16):
            loss = nn.functional.cross_entropy(module(x[batch]), y[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        schedule.step()
        if epoch in (1, 199):
            levels[epoch] = collapse(module, [(x, y)], progress=False).verdict().level
    assert levels[1] in ("not", "partly") and levels[199] in end


def test_a_simplex_that_misclassifies_is_not_called_collapsed() -> None:
    found = replace(planted(), accuracy=0.97)
    assert verdict(found).level == "partly" and "accuracy" in verdict(found).failed
    assert "Only 97.0% of the training data" in verdict(found).sentence


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"left_out": 3}, "features of 3 samples are not finite"),
        ({"counts": (50, 50, 50, 1)}, "with 1 sample of a class"),
        ({"classes": ("0",), "nc2": None}, "One class alone"),
    ],
)
def test_what_cannot_be_judged_is_not_judged(change: dict[str, object], says: str) -> None:
    told = verdict(replace(planted(), **change))  # type: ignore[arg-type]
    assert told.level == "undecided" and says in told.sentence


def test_held_out_data_and_missing_metrics_do_not_make_a_collapse() -> None:
    assert verdict(planted(), held_out=True).level == "undecided"
    assert verdict(replace(planted(), nc3=None)).level != "collapsed"
    assert verdict(replace(planted(), nc4=math.nan)).level == "not"
    # The upper end of an interval decides, not the estimate.
    assert verdict(replace(planted(), intervals={"nc2": (0.0, 0.2)})).level == "partly"


def test_absent_classes_are_said() -> None:
    assert "2 classes are absent" in verdict(replace(planted(), absent=("x", "y"))).sentence
