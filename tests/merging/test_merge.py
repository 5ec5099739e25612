"""Merging: frames, weights, methods, repair on request, and what is refused before any work."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import weyl
from weyl.errors import MismatchError, NotFiniteError, StructureError, UsageError
from weyl.merging import average, merge, repair, reset_batch_norm, slerp


def case():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 10), nn.BatchNorm1d(10), nn.Tanh(), nn.Linear(10, 3)
    ).eval()
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(1))
    return net, x, weyl.discover(net, (x,))


def shaken(state, seed, size=0.05):
    g = torch.Generator().manual_seed(seed)
    return {
        n: t + size * torch.randn(t.shape, generator=g).abs() if t.is_floating_point() else t for n, t in state.items()
    }


def equal(one, two):
    return list(one) == list(two) and all(torch.equal(t, two[n]) for n, t in one.items())


def test_without_alignment_it_is_the_mean():
    net, _, structure = case()
    states = [shaken(net.state_dict(), seed) for seed in range(3)]
    assert equal(merge(structure, states, align=False), average(states))
    weights = (0.5, 0.2, 0.3)
    assert equal(merge(structure, states, weights, align=False), average(states, weights))
    assert not equal(merge(structure, states, weights, align=False), average(states))
    arc = merge(structure, states[:2], (0.3, 0.7), "slerp", align=False)
    assert equal(arc, slerp(states[0], states[1], 0.7))


def distance(net, one, two):
    return sum(float((one[n] - two[n]).square().sum()) for n, _ in net.named_parameters()) ** 0.5


def test_a_planted_permutation_is_undone_before_the_mean():
    net, x, structure = case()
    a = net.state_dict()
    near = shaken(a, 1, 0.01)
    b = weyl.act(structure.group.random(3, kinds=("permute",)), structure, near)
    kept = {n: t.clone() for n, t in b.items()}
    found, plain, expected = merge(structure, [a, b]), merge(structure, [a, b], align=False), average([a, near])
    # Scales are matched as well, so that it may even be nearer than the planted one.
    assert distance(net, found, a) < 1.01 * distance(net, expected, a) < 0.1 * distance(net, plain, a)
    y, y_found, y_plain = (torch.func.functional_call(net, s, x) for s in (a, found, plain))
    assert float((y_found - y).norm()) < 0.1 * float((y_plain - y).norm())
    assert equal(b, kept)


def test_three_states_are_brought_into_the_frame_of_the_first():
    net, _, structure = case()
    a = net.state_dict()
    near = [shaken(a, seed, 0.01) for seed in (1, 2)]
    moved = [weyl.act(structure.group.random(i, kinds=("permute",)), structure, s) for i, s in enumerate(near, 5)]
    weights = (0.2, 0.3, 0.5)
    found, plain = merge(structure, [a, *moved], weights), merge(structure, [a, *moved], weights, align=False)
    expected = average([a, *near], weights)
    assert distance(net, found, a) < 1.1 * distance(net, expected, a) < 0.1 * distance(net, plain, a)


def test_matching_gets_its_options(monkeypatch):
    net, x, structure = case()
    a = net.state_dict()
    g = structure.group.random(3, kinds=("permute",))
    calls = []

    def match(*given, **options):
        calls.append((given, options))
        return SimpleNamespace(element=g)

    monkeypatch.setattr("weyl.matching.match", match, raising=False)
    monkeypatch.setattr("weyl.matching.universe", None, raising=False)
    found = merge(structure, [a, a], seed=7)
    assert equal(found, average([a, weyl.act(g, structure, a)]))
    assert calls[0][0][0] is structure and calls[0][1] == {"costs": "weights", "seed": 7}
    merge(structure, [a, a], model=net, data=[x], costs="activations")
    assert calls[1][1] == {"costs": "activations", "seed": 0, "model": net, "data": [x]}


def test_repairs_are_those_of_the_functions_and_leave_all_as_it_was():
    net, x, structure = case()
    states = [shaken(net.state_dict(), seed, 0.5) for seed in range(2)]
    kept = [{n: t.clone() for n, t in s.items()} for s in (*states, net.state_dict())]
    mean = average(states, (0.4, 0.6))
    options = {"model": net, "data": list(x.split(20)), "align": False}
    bn = merge(structure, states, (0.4, 0.6), repair="bn", **options)
    assert equal(bn, reset_batch_norm(net, mean, options["data"])) and not equal(bn, mean)
    full = merge(structure, states, (0.4, 0.6), "slerp", "repair", **options)
    arc = slerp(states[0], states[1], 0.6)
    assert equal(full, repair(structure, net, arc, states, options["data"], weights=(0.4, 0.6)).state)
    assert not torch.equal(full["0.weight"], arc["0.weight"])
    assert all(equal(one, two) for one, two in zip((*states, net.state_dict()), kept, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "ties"}, "method must be one of 'average', 'slerp', got 'ties'"),
        ({"repair": "batch"}, "repair must be one of None, 'bn', 'repair', got 'batch'"),
        ({"repair": "bn"}, "repair='bn' runs the network on data: give model and data"),
        ({"weights": (0.5, 0.6)}, "must sum to 1"),
        ({"weights": (1.5, -0.5), "method": "slerp"}, "slerp takes weights between 0 and 1"),
        ({"seed": -1}, "seed must be"),
        ({"model": 3}, "model must be a torch"),
        ({"data": iter([])}, "iterated once"),
    ],
)
def test_what_is_refused_before_any_matching(options, message, monkeypatch):
    monkeypatch.setattr("weyl.matching.match", None, raising=False)
    net, _, structure = case()
    states = [shaken(net.state_dict(), seed) for seed in range(2)]
    with pytest.raises(UsageError, match=message):
        merge(structure, states, **options)


def test_states_that_cannot_be_merged():
    net, _, structure = case()
    a = net.state_dict()
    with pytest.raises(UsageError, match="two states or more, got 1"):
        merge(structure, [a])
    with pytest.raises(UsageError, match="slerp takes two states, got 3"):
        merge(structure, [a] * 3, method="slerp")
    with pytest.raises(MismatchError, match="states 1 and 2 do not fit"):
        merge(structure, [a, {n: t for n, t in a.items() if n != "0.bias"}])
    other = nn.Linear(2, 2).state_dict()
    with pytest.raises(StructureError, match="the structure knows none"):
        merge(structure, [other, other])
    bad = {n: t * float("nan") if t.is_floating_point() else t for n, t in a.items()}
    with pytest.raises(NotFiniteError, match="of state 2 has NaN"):
        merge(structure, [a, bad], align=False)
    with pytest.raises(StructureError, match="expected a Structure"):
        merge(net, [a, a])
