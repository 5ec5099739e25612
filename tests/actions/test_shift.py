"""Shifts of logits: the loss stays, the function does not, and what does not fit is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import weyl
from weyl.actions import shift_logits


def classifier(units=3, classes=4):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, units), nn.Tanh(), nn.Linear(units, classes)).double()
    x = torch.randn(7, 5, dtype=torch.float64)
    return net, weyl.discover(net, (x,)), x


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_differences_of_logits_stay_and_logits_do_not(seed):
    net, structure, x = classifier()
    state, before = net.state_dict(), torch.get_rng_state()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    moved = shift_logits(structure, state, seed)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(kept[name], tensor) for name, tensor in state.items())
    old, new = net(x), torch.func.functional_call(net, moved, (x,))
    torch.testing.assert_close(new.log_softmax(1), old.log_softmax(1), rtol=1e-12, atol=1e-12)
    assert (new - old).abs().max() > 0.1
    assert all(moved[name] is state[name] for name in ("0.weight", "0.bias"))


def test_other_seeds_give_other_shifts():
    net, structure, _ = classifier()
    one, again, two = (shift_logits(structure, net.state_dict(), seed)["2.weight"] for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, two)


@pytest.mark.parametrize("other", [{"units": 6}, {"classes": 7}])
def test_the_structure_of_another_net_is_refused(other):
    net, _, _ = classifier()
    with pytest.raises(weyl.StructureError, match="the structure says"):
        shift_logits(classifier(**other)[1], net.state_dict())


def without(state, name):
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: list(state.values()), r"got list: pass model\.state_dict\(\)"),
        (lambda state: {f"a.{name}": tensor for name, tensor in state.items()}, "strip a prefix"),
        (lambda state: {name: tensor.numpy() for name, tensor in state.items()}, "no tensor but ndarray"),
        (lambda state: {name: tensor.long() for name, tensor in state.items()}, "int64"),
        (lambda state: without(state, "2.weight"), r"no tensor '2\.weight'"),
        (lambda state: without(state, "2.bias"), r"no tensor '2\.bias'"),
    ],
)
def test_what_is_no_state_of_the_model_is_refused(change, says):
    net, structure, _ = classifier()
    with pytest.raises(weyl.StructureError, match=says):
        shift_logits(structure, change(net.state_dict()))


def test_a_model_in_place_of_either_is_refused():
    net, structure, _ = classifier()
    with pytest.raises(weyl.StructureError, match=r"got Sequential: pass model\.state_dict"):
        shift_logits(structure, net)
    for wrong in (net, net.state_dict(), None):
        with pytest.raises(weyl.StructureError, match="expected a Structure"):
            shift_logits(wrong, net.state_dict())


def test_a_part_of_the_state_that_has_the_last_layer_will_do():
    net, structure, _ = classifier()
    whole = shift_logits(structure, net.state_dict())
    part = shift_logits(structure, without(net.state_dict(), "0.bias"))
    assert all(torch.equal(whole[name], tensor) for name, tensor in part.items())


@pytest.mark.parametrize("seed", ["a", -1, 1.0, True, 2**64])
def test_what_is_no_seed_is_refused(seed):
    net, structure, _ = classifier()
    with pytest.raises(weyl.UsageError, match="seed must be"):
        shift_logits(structure, net.state_dict(), seed)
