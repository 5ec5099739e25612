"""Verdicts that were wrong once: each of these was found by somebody who tried."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import weyl
from weyl.identity import compare
from weyl.matching import distance_over
from weyl.proof import same_outputs

State = dict[str, Tensor]


def drawn(net: nn.Module, seed: int) -> State:
    """Weights of a network in general position."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(t.shape, generator=generator) / math.sqrt(t.shape[-1] if t.dim() > 1 else 4)
        if t.is_floating_point()
        else t.clone()
        for name, t in net.state_dict().items()
    }


def perceptron(width: int = 64, layers: int = 3) -> nn.Sequential:
    parts: list[nn.Module] = [nn.Linear(20, width), nn.ReLU()]
    for _ in range(layers - 2):
        parts += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(width, 5))


X = torch.zeros(1, 20)


class Masked(nn.Module):
    """A network with a constant that no unit has a part in."""

    def __init__(self, fill: float) -> None:
        super().__init__()
        self.body = perceptron()
        self.register_buffer("mask", torch.full((5, 5), fill).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return torch.softmax(y[:, :, None] * y[:, None, :] + self.mask, -1)


@pytest.mark.parametrize("fill", [0.0, -1e4, -1e9, torch.finfo(torch.float32).min])
def test_a_large_constant_makes_no_strangers_the_same(fill: float) -> None:
    net = Masked(fill)
    structure = weyl.discover(net, (X,))
    a, b = ({**drawn(net, seed), "mask": net.mask} for seed in (1, 2))
    assert compare(structure, a, b).verdict == "unrelated"
    assert not weyl.match(structure, a, b).exact
    assert float((weyl.sketch(structure, a) - weyl.sketch(structure, b)).norm()) > 0.3
    twin = weyl.act(structure.group.random(3), structure, a)
    assert compare(structure, a, twin).verdict == "same function"
    assert float((weyl.sketch(structure, a) - weyl.sketch(structure, twin)).norm()) < 1e-5


def normed() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 5))


def test_gains_that_were_still_one_have_no_format_that_tuned_ones_could_be_rounded_from() -> None:
    net = normed()
    structure = weyl.discover(net, (X,))
    a = {**drawn(net, 1), "1.weight": torch.ones(64), "1.bias": torch.zeros(64)}
    generator = torch.Generator().manual_seed(0)
    b = {**a, "1.weight": 1 + 0.04 * torch.randn(64, generator=generator)}
    for one, other in ((a, b), (b, a)):
        assert compare(structure, one, other).verdict == "derived"
    halved = {name: tensor.bfloat16() for name, tensor in a.items()}
    assert compare(structure, a, halved).verdict == "same up to precision", "the control"


@pytest.mark.parametrize("levels", [1, 3, 7])
def test_few_bits_are_no_rounding(levels: int) -> None:
    net = perceptron()
    structure = weyl.discover(net, (X,))
    a = drawn(net, 1)
    b = {n: (t / (t.abs().max() / levels)).round() * (t.abs().max() / levels) for n, t in a.items()}
    assert not compare(structure, a, b).same


def test_what_is_shared_by_default_says_nothing() -> None:
    net = normed()
    structure = weyl.discover(net, (X,))
    a = {**drawn(net, 1), "1.weight": torch.ones(64), "1.bias": torch.zeros(64)}
    b = {"1.weight": torch.ones(64), "1.bias": torch.zeros(64)}
    assert compare(structure, a, b).verdict == "inconclusive"


def test_tensors_that_are_the_same_are_named() -> None:
    net = perceptron(layers=4)
    structure = weyl.discover(net, (X,))
    a, other = drawn(net, 1), drawn(net, 2)
    found = compare(structure, a, {**other, "2.weight": a["2.weight"]})
    assert found.verdict == "derived" and found.p_value is None
    assert any("2.weight" in reason for reason in found.reasons)
    little = compare(structure, a, {**other, "6.weight": a["6.weight"]})
    assert little.verdict == "unrelated" and any("6.weight" in reason for reason in little.reasons)


def test_some_numbers_of_half_precision_that_were_edited_are_no_rounding() -> None:
    net = perceptron()
    structure = weyl.discover(net, (X,))
    a = {name: tensor.bfloat16() for name, tensor in drawn(net, 1).items()}
    b = {name: tensor.clone() for name, tensor in a.items()}
    b["2.weight"].view(torch.int16)[::7, ::7] += 1
    assert compare(structure, a, b).verdict == "derived"


def test_few_units_say_nothing_but_nearness_does() -> None:
    net = perceptron(width=6, layers=2)
    structure = weyl.discover(net, (X,))
    a, other = drawn(net, 1), drawn(net, 2)
    near = {name: tensor + 1e-4 * torch.randn_like(tensor) for name, tensor in a.items()}
    assert compare(structure, a, near).verdict == "derived"
    assert compare(structure, a, other).verdict == "inconclusive"


@pytest.mark.parametrize("seed", [1, 2])
def test_a_copy_of_a_bottleneck_that_is_still_zero(seed: int) -> None:
    """As LoRA starts; the element is not found, but an invariant of the whole group says that there is one."""
    net = nn.Sequential(
        nn.Linear(20, 64), nn.GELU(), nn.Linear(64, 4, bias=False), nn.Linear(4, 64), nn.GELU(), nn.Linear(64, 5)
    )
    structure = weyl.discover(net, (X,))
    a, other = ({**drawn(net, s), "3.weight": torch.zeros(64, 4)} for s in (10, 11))
    twin = weyl.act(structure.group.random(seed), structure, a)
    assert compare(structure, a, twin).verdict in ("derived", "same function")
    assert compare(structure, a, other).verdict == "unrelated"


def test_an_empty_parameter() -> None:
    net = perceptron()
    net.register_parameter("empty", nn.Parameter(torch.empty(0, 4)))
    structure = weyl.discover(net, (X,))
    a = drawn(net, 1)
    twin = {n: t.bfloat16() for n, t in weyl.act(structure.group.random(1), structure, a).items()}
    assert compare(structure, a, twin).verdict == "same up to precision"


def test_outputs_that_are_nan_agree_with_nothing() -> None:
    class Log(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(20, 8)

        def forward(self, x: Tensor) -> Tensor:
            return (self.fc(x) - 100).log()

    net = Log()
    structure = weyl.discover(net, (X,))
    a = drawn(net, 1)
    agreement = same_outputs(net, structure, a, a, (X,))
    assert math.isnan(agreement.error) and not agreement.same


def test_distances_of_numbers_whose_squares_are_too_large() -> None:
    a = {"w": torch.full((4,), 1e200, dtype=torch.float64)}
    assert distance_over(a, a, {"w": torch.zeros(())}) == pytest.approx(2e200)
    assert distance_over(a, a, a) == 0


def test_what_cannot_be_tested_is_still_looked_at() -> None:
    """One layer has no units to match; a copy with a little noise is derived all the same, and a stranger open."""
    net = nn.Sequential(nn.Linear(20, 30))
    structure = weyl.discover(net, (X,))
    a, other = drawn(net, 1), drawn(net, 2)
    near = {name: tensor + 1e-4 * torch.randn_like(tensor) for name, tensor in a.items()}
    assert compare(structure, a, near).verdict == "derived"
    assert compare(structure, a, other).verdict == "inconclusive"
