"""The group's dimension is what the function does not see of the parameters: P minus the rank of the Jacobian."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from studies.completeness import FAMILIES, at_rest, draw, measure, random_network, verdict
from tests.laws.nets import Net, lin
from torch import nn

import weyl
from weyl.orbits import tangents

SAMPLES = 400
# Where ReLUs follow each other more can be hidden at single points (Grigsby et al., arXiv 2209.04036).
HIDDEN = ("relu", "residual", "batch-norm")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_rank_is_what_theory_leaves(name: str) -> None:
    """With every ReLU switching, P − rank is the dimension, and what the family's formula adds to it."""
    runs = [measure(name, seed, SAMPLES) for seed in range(4)]
    verdicts = [verdict(run) for run in runs]
    assert "less" not in verdicts, runs
    settled = [run for run, said in zip(runs, verdicts, strict=True) if said not in ("idle", "unclear")]
    assert settled, runs
    if name not in HIDDEN:
        assert [run["deficiency"] for run in settled] == [run["at_rest"] + run["beside"] for run in settled]


@pytest.mark.parametrize("name", FAMILIES)
def test_tangents_are_independent(name: str) -> None:
    """The dimension is the rank of the tangents at a random state: nothing is counted twice."""
    net = random_network(FAMILIES[name], 0)
    x = torch.zeros(2, *([FAMILIES[name].tokens] if FAMILIES[name].tokens else []), draw(FAMILIES[name], 0).inputs)
    structure = weyl.discover(net, (x.double(),))
    state = {n: t for n, t in net.state_dict().items() if t.is_floating_point()}
    rows = [
        torch.cat([t.direction.get(n, torch.zeros_like(v)).flatten() for n, v in state.items()])
        for t in tangents(structure, state)
    ]
    rank = int(torch.linalg.matrix_rank(torch.stack(rows))) if rows else 0
    assert rank == structure.group.dimension
    assert at_rest(structure, net) <= rank


def lost(net: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """Dimension of the group, and of what the function does not see."""
    net = net.double().eval()
    return weyl.discover(net, (x,)).group.dimension, weyl.functional_dimension(net, None, x).deficiency


def test_a_symmetry_that_is_left_out_is_seen() -> None:
    """Control: held still by the caller, a scale is lost all the same, and the equality fails."""
    torch.manual_seed(0)
    net = nn.Sequential(lin(3, 4), nn.LeakyReLU(), lin(4, 2)).double()
    x = 2 * torch.randn(SAMPLES, 3, dtype=torch.float64)
    assert lost(net, x) == (4, 4)
    assert weyl.discover(net, (x,), fixed=["0.weight"]).group.dimension == 0


def test_a_symmetry_that_is_not_there_is_seen() -> None:
    """Control: with a network that breaks the scale, the rank grows by it."""
    torch.manual_seed(0)
    kept = Net(lambda n, x: n.b(n.a(x).relu()), a=lin(3, 4), b=lin(4, 2))
    broken = Net(lambda n, x: n.b((n.a(x) + 1).tanh() + n.a(x).relu()), a=lin(3, 4), b=lin(4, 2))
    x = 2 * torch.randn(SAMPLES, 3, dtype=torch.float64)
    assert lost(kept, x) == (4, 4) and lost(broken, x) == (0, 0)


def test_few_inputs_say_little() -> None:
    """Control: the rank of three inputs is too small, and no network is complete on them."""
    run: dict[str, Any] = measure("tanh", 0, 3)
    assert run["deficiency"] > run["dimension"] + run["beside"] and verdict(run) in ("more", "unclear")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "exact"),
        ({"deficiency": 4}, "less"),
        ({"deficiency": 7}, "beside"),
        ({"deficiency": 8}, "more"),
        ({"switching": False}, "idle"),
        ({"clear": False}, "unclear"),
        ({"clear": False, "deficiency": 4}, "less"),
    ],
)
def test_verdicts(change: dict[str, Any], said: str) -> None:
    run = {"deficiency": 5, "at_rest": 5, "beside": 2, "switching": True, "clear": True}
    assert verdict({**run, **change}) == said
