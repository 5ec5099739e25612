"""Functional dimension against known bounds and an explicit derivative."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from weyl.errors import InputError, UsageError
from weyl.landscape import functional_dimension
from weyl.models.loaded import seeded


def chain(widths: list[int], activation: type[nn.Module], seed: int = 0) -> nn.Sequential:
    with seeded(seed):
        layers = [module for a, b in pairwise(widths) for module in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers[:-1])


def points(n: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("widths", [[3, 5, 2], [3, 4, 4, 2], [2, 3, 3, 3, 1]])
def test_tanh_uses_every_parameter_and_relu_loses_one_for_each_hidden_unit(widths: list[int]) -> None:
    hidden = sum(widths[1:-1])
    smooth = functional_dimension(chain(widths, nn.Tanh), None, points(400, widths[0]))
    assert smooth.deficiency == 0 and math.isinf(smooth.gap)
    for seed in range(5):
        found = functional_dimension(chain(widths, nn.ReLU, seed), None, points(400, widths[0]))
        assert found.deficiency >= hidden
        assert math.isinf(found.gap) or found.gap > 1e6


@pytest.mark.parametrize(
    ("widths", "rank", "bound"),
    [([3, 5, 2], 27, 27), ([3, 4, 4, 2], 32, 38), ([2, 3, 3, 3, 1], 12, 28)],
)
def test_published_ranks_occur(widths: list[int], rank: int, bound: int) -> None:
    """Beside a rank, the bound P - (hidden units); the rank depends on the weights, so a few are tried."""
    ranks = set()
    for seed in range(12):
        found = functional_dimension(chain(widths, nn.ReLU, seed), None, points(1000, widths[0], seed))
        assert found.rank <= bound == found.parameters - sum(widths[1:-1])
        ranks.add(found.rank)
    assert rank in ranks


@pytest.mark.slow
def test_a_wide_relu_network_attains_its_bound() -> None:
    ranks = [functional_dimension(chain([4, 8, 8, 1], nn.ReLU, s), None, points(3000, 4, s)).rank for s in range(12)]
    assert max(ranks) == 105


def test_singular_values_are_those_of_the_whole_derivative() -> None:
    net, x = chain([3, 4, 2], nn.Tanh), points(7, 3)
    net.double()
    rows = []
    for sample in x.double():
        for output in net(sample):
            grads = torch.autograd.grad(output, list(net.parameters()), retain_graph=True)
            rows.append(torch.cat([g.flatten() for g in grads]))
    expected = np.linalg.svd(torch.stack(rows).numpy(), compute_uv=False)
    for chunk in (1, 3, 100):
        found = functional_dimension(net, None, x, chunk=chunk).singular_values
        np.testing.assert_allclose(found[: len(expected)], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("outputs", "lost"), [(1, 1 + 4), (2, 2)])
def test_a_duplicate_unit_loses_directions_and_a_changed_one_does_not(outputs: int, lost: int) -> None:
    """Outgoing weights act through their sum; so do incoming ones, if outgoing ones are in proportion (one output)."""
    net, x = chain([3, 4, outputs], nn.Tanh), points(200, 3)
    state = {name: t.clone() for name, t in net.state_dict().items()}
    state["0.weight"][1], state["0.bias"][1] = state["0.weight"][0], state["0.bias"][0]
    assert functional_dimension(net, state, x).deficiency == lost
    state["0.weight"][1, 0] += 0.1
    assert functional_dimension(net, state, x).deficiency == 0


def test_nothing_is_changed() -> None:
    net, x = chain([3, 4, 2], nn.ReLU), points(5, 3)
    before, kept, rng = {n: t.clone() for n, t in net.state_dict().items()}, x.clone(), torch.get_rng_state()
    functional_dimension(net.train(), None, x)
    assert net.training and torch.equal(x, kept) and torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(t, before[n]) and t.dtype == torch.float32 for n, t in net.state_dict().items())


def test_refusals() -> None:
    net = chain([3, 4, 2], nn.Tanh)
    with pytest.raises(InputError, match="no samples"):
        functional_dimension(net, None, torch.zeros(0, 3))
    with pytest.raises(InputError, match="no parameters"):
        functional_dimension(nn.ReLU(), None, points(3, 3))
    with pytest.raises(InputError, match="NaN"):
        functional_dimension(net, {**net.state_dict(), "0.bias": torch.full((4,), math.nan)}, points(3, 3))
    with pytest.raises(UsageError, match="at most"):
        functional_dimension(nn.Linear(200, 200), None, points(3, 200))
    with pytest.raises(UsageError, match="inputs must be"):
        functional_dimension(net, None, [3])
    with pytest.raises(UsageError, match="inputs must be"):
        functional_dimension(net, None, None)
    with pytest.raises(InputError, match="single number"):
        functional_dimension(net, None, torch.tensor(1.0))
    with pytest.raises(InputError, match="does not accept these inputs"):
        functional_dimension(net, None, points(3, 4))
    with pytest.raises(UsageError, match="chunk must be"):
        functional_dimension(net, None, points(3, 3), chunk=0)
    with pytest.raises(InputError, match=r"expected a torch\.nn\.Module, got dict"):
        functional_dimension({}, None, points(3, 3))
    with pytest.raises(InputError, match=r"got Sequential: pass model\.state_dict\(\)"):
        functional_dimension(net, net, points(3, 3))
    with pytest.raises(InputError, match="no tensor but ndarray"):
        functional_dimension(net, {n: t.numpy() for n, t in net.state_dict().items()}, points(3, 3))
    with pytest.raises(InputError, match=r"has shape \(5,\), the model's has \(4,\)"):
        functional_dimension(net, {**net.state_dict(), "0.bias": torch.zeros(5)}, points(3, 3))


def test_of_names_that_share_a_tensor_one_is_enough() -> None:
    net, x = chain([3, 3, 3], nn.Tanh), points(50, 3)
    net[2].weight = net[0].weight
    state = {name: 2 * tensor for name, tensor in net.state_dict().items()}
    expected = functional_dimension(net, state, x).singular_values
    for name in ("0.weight", "2.weight"):
        part = {key: tensor for key, tensor in state.items() if key != name}
        np.testing.assert_array_equal(functional_dimension(net, part, x).singular_values, expected)
    assert not np.allclose(functional_dimension(net, None, x).singular_values, expected)
    neither = {key: tensor for key, tensor in state.items() if "weight" not in key}
    with pytest.raises(InputError, match=r"no tensor '0\.weight'"):
        functional_dimension(net, neither, x)
