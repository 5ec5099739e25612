"""The balanced point: of least norm, the same for a whole orbit, and reached by the element that comes with it."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from tests.actions import gauged
from tests.orbits.test_tangents import exponential
from torch import nn

import weyl
from weyl.groups import Element, Gauge, GaugeKind, Kind, Space
from weyl.orbits import balance, tangents
from weyl.orbits._balance import _Problem
from weyl.orbits._geometric import geometric_mean, mean_of_grams, newton_step
from weyl.orbits._tangents import random_algebra
from weyl.structure import Fixed, Structure, Units


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.o = nn.Linear(6, 24), nn.Linear(8, 5)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        return self.o(y)


def discovered(net, *inputs):
    torch.manual_seed(5)
    net, x = net().double().eval(), torch.randn(*inputs).double()
    return gauged.Case(net, x, weyl.discover(net, (x,)))


def linear_chain():
    return nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2), nn.Linear(2, 5))


def recurrent():
    """Rows and columns of one tensor are scaled by the same numbers, which couples them."""
    h = Space("h", 3, Kind.POSITIVE_MONOMIAL)
    u = Units("h", 3)
    weights = {"g": {"enter": gauged.units(h), "leave": gauged.units(h, 1, -1)}}
    weights["g"]["again"] = (*gauged.units(h), *gauged.units(h, 1, -1))
    axes = {"enter": (u, Fixed(2)), "again": (u, u), "leave": (Fixed(4), u)}
    structure = Structure((h,), axes, gauges=(Gauge("g", "h", GaugeKind.SCALE),), weights=weights)
    return gauged.Case(Recurrent().double(), torch.randn(5, 2).double(), structure)


def recurrent_linear():
    scaled = recurrent()
    space = replace(scaled.structure.spaces[0], kind=Kind.LINEAR)
    gauge = replace(scaled.structure.gauges[0], kind=GaugeKind.LINEAR)
    net = Recurrent(nn.Identity()).double()
    return gauged.Case(net, scaled.inputs, replace(scaled.structure, spaces=(space,), gauges=(gauge,)))


class Recurrent(nn.Module):
    def __init__(self, activation=None):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.enter, self.again, self.leave = (
            nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((3, 2), (3, 3), (4, 3))
        )
        self.activation = activation or nn.ReLU()

    def forward(self, x):
        h = self.activation(x @ self.enter.T)
        return self.activation(x @ self.enter.T + h @ self.again.T) @ self.leave.T


CASES = {name: gauged.CASES[name] for name in ("relu", "rotary", "experts", "whole tensors")} | {
    "chain": lambda: discovered(linear_chain, 7, 6),
    "attention": lambda: discovered(Attention, 2, 5, 6),
    "recurrent": recurrent,
    "recurrent linear": recurrent_linear,
}


@pytest.fixture(params=list(CASES))
def case(request):
    return CASES[request.param]()


def inner(a, b):
    return sum(float((a[name] * b[name]).sum()) for name in a)


def test_optimality(case):
    """The state is orthogonal to every tangent: the norm does not change to first order."""
    found = balance(case.structure, case.state)
    slopes = [abs(inner(tangent.direction, found.state)) for tangent in tangents(case.structure, found.state)]
    assert max(slopes) < 1e-12 * found.norm_after
    before = [abs(inner(tangent.direction, case.state)) for tangent in tangents(case.structure, case.state)]
    assert max(before) > 1e-3 * found.norm_before
    assert found.attained and found.imbalance <= 1e-12 and found.norm_after < found.norm_before


def test_the_function_stays_and_so_does_the_given_state(case):
    before = {name: tensor.clone() for name, tensor in case.state.items()}
    outputs = case.outputs(case.state)
    found = balance(case.structure, case.state)
    torch.testing.assert_close(case.outputs(found.state), outputs, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(before[name], tensor) for name, tensor in case.state.items())
    assert list(found.state) == list(case.state)


def test_the_element_leads_there(case):
    found = balance(case.structure, case.state)
    moved = weyl.act(found.element, case.structure, case.state)
    assert all(torch.equal(moved[name], tensor) for name, tensor in found.state.items())
    assert "permute" not in found.element.moves and found.element.moves


def test_idempotent(case):
    once = balance(case.structure, case.state)
    twice = balance(case.structure, once.state)
    assert twice.element.close(case.structure.group.identity(), 1e-11)
    assert all(torch.allclose(twice.state[n], t, rtol=1e-11, atol=1e-11) for n, t in once.state.items())
    assert not once.element.close(case.structure.group.identity(), 1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_one_point_for_an_orbit(case, seed):
    """Up to the compact part: norms agree, and so do the Gram matrices of what enters each side."""
    moves = ("sign", "scale", "mix", "translate")
    element = case.structure.group.random(seed, kinds=moves)
    moved = weyl.act(element, case.structure, case.state)
    first, second = (balance(case.structure, state) for state in (case.state, moved))
    assert not math.isclose(first.norm_before, second.norm_before, rel_tol=1e-3)
    assert math.isclose(first.norm_after, second.norm_after, rel_tol=1e-11)
    for name, tensor in first.state.items():
        flat = (tensor.reshape(len(tensor), -1), second.state[name].reshape(len(tensor), -1))
        spectra = [torch.linalg.svdvals(matrix) for matrix in flat]
        torch.testing.assert_close(*spectra, rtol=1e-10, atol=1e-10)


def test_no_random_element_finds_less(case):
    found = balance(case.structure, case.state)
    rng = np.random.default_rng(0)
    group = case.structure.group
    norms = []
    for size in (1e-3, 0.1, 1.0):
        for _ in range(20):
            values = {g.name: exponential(g.kind, random_algebra(case.structure, g, rng), size) for g in group.gauges}
            element = Element(group.spaces, group.identity(), group.gauges, values)
            norms.append(norm(weyl.act(element, case.structure, found.state)))
    assert min(norms) >= found.norm_after * (1 - 1e-13) and max(norms) > 1.1 * found.norm_after


def norm(state):
    return sum(float(tensor.square().sum()) for tensor in state.values() if tensor.is_floating_point())


def chain(widths, seed):
    torch.manual_seed(seed)
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())][:-1]
    net = nn.Sequential(*layers).double()
    return net, weyl.discover(net, (torch.zeros(1, widths[0]).double(),))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(2, 5), min_size=3, max_size=6))
def test_an_optimiser_finds_the_same_norm(seed, widths):
    net, structure = chain(widths, seed)
    group, state = structure.group, net.state_dict()
    found = balance(structure, state)
    shapes = [g for g in group.gauges if g.kind is GaugeKind.SCALE]
    sizes = np.cumsum([0, *(structure.space(g.space).size for g in shapes)])

    def value(x):
        values = {g.name: np.exp(x[a:b]) for g, a, b in zip(shapes, sizes, sizes[1:], strict=False)}
        moved = weyl.act(Element(group.spaces, group.identity(), group.gauges, values), structure, state)
        slope = [2 * inner(tangent.direction, moved) for tangent in tangents(structure, moved)]
        return norm(moved), np.array(slope)

    best = minimize(value, np.zeros(sizes[-1]), jac=True, method="BFGS", options={"gtol": 1e-9})
    assert math.isclose(best.fun, found.norm_after, rel_tol=1e-9)
    assert found.attained and sizes[-1] == group.dimension


@pytest.mark.parametrize(("sides", "least"), [((5, 4), True), ((5, 2), False), ((2, 5), False)])
def test_an_optimiser_finds_the_same_norm_for_matrices(sides, least):
    """A side of lower rank is no counterweight to all of the other: only the limit has the least norm."""
    inputs, outputs = sides
    case = discovered(lambda: nn.Sequential(nn.Linear(inputs, 3, bias=False), nn.Linear(3, outputs)), 2, inputs)
    found = balance(case.structure, case.state)
    u, v = (case.state[name].numpy() for name in ("0.weight", "1.weight"))
    nuclear = 2 * np.linalg.svd(v @ u)[1].sum() + float(case.state["1.bias"].square().sum())

    def value(x):
        matrix = x.reshape(3, 3)
        rest = float(case.state["1.bias"].square().sum())
        return np.sum((matrix @ u) ** 2) + np.sum((v @ np.linalg.inv(matrix)) ** 2) + rest

    best = minimize(value, np.eye(3).ravel(), method="BFGS", options={"gtol": 1e-8})
    assert math.isclose(best.fun, nuclear, rel_tol=1e-3)
    assert found.attained == least
    if least:
        assert math.isclose(best.fun, found.norm_after, rel_tol=1e-9)
        assert math.isclose(nuclear, found.norm_after, rel_tol=1e-13)
    else:
        assert list(found.unattained.values()) == [((),)] and found.norm_after == found.norm_before > nuclear


def test_low_rank_on_both_sides_has_a_minimum():
    """Two of three directions carry all, forwards and backwards: the third is free, and stays."""
    case = discovered(lambda: nn.Sequential(nn.Linear(5, 3, bias=False), nn.Linear(3, 4, bias=False)), 2, 5)
    u, v = torch.randn(2, 5).double(), torch.randn(4, 2).double()
    turn = torch.randn(3, 3).double()
    state = {"0.weight": turn[:, :2] @ u, "1.weight": v @ torch.linalg.inv(turn)[:2]}
    found = balance(case.structure, state)
    nuclear = 2 * float(torch.linalg.svdvals(v @ u).sum())
    assert found.attained and math.isclose(found.norm_after, nuclear, rel_tol=1e-12)
    torch.testing.assert_close(found.state["1.weight"] @ found.state["0.weight"], v @ u, rtol=1e-12, atol=1e-12)
    inverse = torch.linalg.inv(turn)
    oblique = {**state, "1.weight": v @ (inverse[:2] + inverse[2:])}
    assert balance(case.structure, oblique).attained, "the product still has rank 2"
    askew = {**state, "1.weight": v @ inverse[1:]}
    assert not balance(case.structure, askew).attained, "both sides have rank 2, their product has 1"


def test_closed_form_of_one_layer():
    net, structure = chain([4, 3, 2], 0)
    state = net.state_dict()
    found = balance(structure, state)
    into = (state["0.weight"].square().sum(1) + state["0.bias"].square()).sqrt()
    outof = state["2.weight"].norm(dim=0)
    expected = (outof / into).sqrt()
    torch.testing.assert_close(torch.tensor(found.element.values["0 scale"]), expected, rtol=1e-13, atol=0)
    rest = float(state["2.bias"].square().sum())
    assert math.isclose(found.norm_after, 2 * float((into * outof).sum()) + rest, rel_tol=1e-13)


def test_a_dead_side_is_named_and_left_alone():
    net, structure = chain([4, 3, 2], 0)
    state = net.state_dict()
    state["0.weight"][1], state["0.bias"][1] = 0, 0
    found = balance(structure, state)
    assert not found.attained and found.unattained == {"0 scale": ((1,),)}
    assert torch.equal(found.state["2.weight"][:, 1], state["2.weight"][:, 1])
    state["2.weight"][:, 1] = 0
    assert balance(structure, state).attained, "where both sides are dead nothing can be lowered"


def test_exponents_that_cannot_be_balanced_together():
    """Each unit has two sides, but both scales falling together shrink both tensors for ever."""
    spaces = (Space("a", 1, Kind.POSITIVE_DIAGONAL), Space("b", 1, Kind.POSITIVE_DIAGONAL))
    gauges = tuple(Gauge(space.name, space.name, GaugeKind.SCALE) for space in spaces)
    a, b = spaces
    weights = {
        "a": {"u": gauged.units(a), "v": gauged.units(a, 0, -1)},
        "b": {"u": gauged.units(b, 1, -1), "v": gauged.units(b, 1, 2)},
    }
    axes = {name: (Units("a", 1), Units("b", 1)) for name in "uv"}
    structure = Structure(spaces, axes, gauges=gauges, weights=weights)
    state = {name: torch.ones(1, 1).double() for name in "uv"}
    found = balance(structure, state)
    assert not found.attained and found.imbalance > 1e-3 and found.norm_after < found.norm_before


def test_running_statistics_and_dead_biases():
    """The scale before a batch normalisation is left alone, the bias vanishes into the running mean."""
    case = gauged.batch_norm()
    found = balance(case.structure, case.state)
    assert found.element.moves == {"translate"}
    assert float(found.state["0.bias"].abs().max()) == 0
    mean = case.state["1.running_mean"] - case.state["0.bias"]
    torch.testing.assert_close(found.state["1.running_mean"], mean, rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(case.outputs(found.state), case.outputs(case.state), rtol=1e-12, atol=1e-12)
    both = balance(case.structure, case.state, norm_of=["0.bias", "1.running_mean"])
    torch.testing.assert_close(both.state["0.bias"], -both.state["1.running_mean"], rtol=1e-14, atol=1e-14)


def test_what_counts_can_be_chosen():
    net, structure = chain([4, 3, 2], 0)
    found = balance(structure, net.state_dict(), norm_of=["0.weight", "2.weight"])
    sides = found.state["0.weight"].norm(dim=1), found.state["2.weight"].norm(dim=0)
    torch.testing.assert_close(*sides, rtol=1e-13, atol=0)
    assert not torch.allclose(*(balance(structure, net.state_dict()).state[n].norm(dim=d) for n, d in SIDES))
    with pytest.raises(weyl.StructureError, match="no floating tensor"):
        balance(structure, net.state_dict(), norm_of=["3.weight"])


SIDES = (("0.weight", 1), ("2.weight", 0))


def test_deep_chains_and_convolutions():
    net, structure = chain([3, *[6] * 12, 2], 0)
    found = balance(structure, net.state_dict())
    assert found.attained and found.iterations > 10
    conv = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    structure = weyl.discover(conv, (torch.zeros(1, 2, 8, 8),))
    found = balance(structure, conv.state_dict())
    read = found.state["5.weight"].square().unflatten(1, (3, 16)).sum((0, 2))
    write = found.state["2.weight"].square().sum((1, 2, 3)) + found.state["2.bias"].square()
    torch.testing.assert_close(read, write, rtol=1e-5, atol=0)
    assert found.attained and {tensor.dtype for tensor in found.state.values()} == {torch.float32}


def test_shared_tensors_count_once():
    case = gauged.CASES["relu"]()
    structure = replace(
        case.structure,
        axes={**case.structure.axes, "again": case.structure.axes["0.weight"]},
        weights={"g": {**case.structure.weights["g"], "again": case.structure.weights["g"]["0.weight"]}},
    )
    tied = balance(structure, {**case.state, "again": case.state["0.weight"]})
    plain = balance(case.structure, case.state)
    assert tied.state["again"] is tied.state["0.weight"] and tied.norm_after == plain.norm_after
    untied = balance(structure, {**case.state, "again": case.state["0.weight"].clone()})
    assert untied.norm_after > 1.01 * plain.norm_after


def test_nothing_to_balance_and_what_is_not_finite():
    case = gauged.CASES["tanh"]()
    state = case.state
    found = balance(case.structure, state)
    assert found.element.is_identity and found.attained
    assert all(found.state[name] is tensor for name, tensor in state.items())
    case = gauged.CASES["relu"]()
    with torch.no_grad():
        case.net[0].bias[0] = float("inf")
    with pytest.raises(weyl.NotFiniteError, match="not finite"):
        balance(case.structure, case.state)


def test_what_could_be_shrunk_for_ever_is_named():
    """Before a BatchNorm all weights may shrink, if only its statistics follow: the norm has no least value."""
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1)).double().eval()
    structure = weyl.discover(net, (torch.zeros(1, 1, 5, 5, dtype=torch.float64),))
    found = balance(structure, net.state_dict())
    assert not found.attained and found.left_alone and not found.unattained
    (name,) = found.left_alone
    values = {name: np.full(3, 0.5)}
    group = structure.group
    shorter = weyl.act(Element(group.spaces, group.identity(), group.gauges, values), structure, found.state)
    assert sum(float(shorter[n].square().sum()) for n, _ in net.named_parameters()) < found.norm_after
    plain = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    assert balance(weyl.discover(plain, (torch.zeros(1, 4),)), plain.state_dict()).left_alone == ()


def spread_out(size, rank, condition, seed):
    """Two sides of a linear gauge, shape (rows, units), with singular values down to 1 / condition."""
    rng = np.random.default_rng(seed)
    sides = []
    for rows in (size + 3, size + 1):
        left, right = (np.linalg.qr(rng.standard_normal((n, size)))[0] for n in (rows, size))
        values = np.geomspace(1, 1 / condition, rank)
        sides.append(torch.from_numpy((left[:, :rank] * values) @ right[:, :rank].T))
    return sides


@pytest.mark.parametrize("condition", [1.0, 30.0, 1e3, 1e6])
@pytest.mark.parametrize("seed", range(3))
def test_gram_matrices_give_thegeometric_mean(condition, seed):
    """What singular values of the sides give, if Grams are well conditioned; else they are refused."""
    up, down = spread_out(5, 5, condition, seed)
    factor, good = mean_of_grams(up.T @ up, down.T @ down, 1.0)
    assert bool(good) == (condition < 100)
    if not good:
        return
    sides = [torch.linalg.qr(side, mode="r").R for side in (up, down)]
    _, values, rows = torch.linalg.svd(geometric_mean(*sides, 5))
    torch.testing.assert_close(factor, rows.mT @ values[:, None].mul(rows), rtol=1e-9, atol=1e-9)
    inverse = torch.linalg.inv(factor)
    balanced = factor @ up.T @ up @ factor, inverse @ down.T @ down @ inverse
    torch.testing.assert_close(*balanced, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_newton_steps_are_of_third_order(power):
    generator = torch.Generator().manual_seed(0)
    up = torch.randn(2, 6, 4, generator=generator).double()
    turn = torch.randn(2, 4, 4, generator=generator).double()
    errors = []
    for size in (1e-3, 1e-4):
        change = torch.eye(4).double() + size * (turn + turn.mT)
        down = up @ change @ change
        step, good = newton_step(up.mT @ up, down.mT @ down, power)
        exact, _ = mean_of_grams(up.mT @ up, down.mT @ down, power)
        assert good.all() and float((step - torch.eye(4)).abs().max()) > size / 10
        errors.append(float((step - exact).abs().max()))
    assert errors[0] < 1e-6 and errors[1] < max(2e-3 * errors[0], 1e-14)
    assert not newton_step(up.mT @ up, 3 * up.mT @ up, power)[1].any(), "far away it is no step"


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("rank", [4, 2])
def test_badly_conditioned_sides_are_balanced_as_well(condition, rank):
    case = discovered(lambda: nn.Sequential(nn.Linear(7, 4, bias=False), nn.Linear(4, 5, bias=False)), 2, 7)
    up, down = spread_out(4, rank, condition, 1)
    if rank < 4:
        down = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).double() @ up
    state = {"0.weight": up.T.contiguous(), "1.weight": 3 * down}
    found = balance(case.structure, state)
    nuclear = 2 * float(torch.linalg.svdvals(state["1.weight"] @ state["0.weight"]).sum())
    assert found.attained and math.isclose(found.norm_after, nuclear, rel_tol=1e-9)
    product = found.state["1.weight"] @ found.state["0.weight"]
    torch.testing.assert_close(product, state["1.weight"] @ state["0.weight"], rtol=1e-9, atol=1e-9)
    assert found.norm_after < norm(state)


def test_what_is_balanced_and_not_written_to_is_not_visited_again(monkeypatch):
    """Two chains that share nothing: the short one is done at once, and the long one takes its sweeps."""
    torch.manual_seed(0)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.short = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
            self.long = nn.Sequential(*[one for _ in range(6) for one in (nn.Linear(4, 4), nn.ReLU())])

        def forward(self, x):
            return self.short(x), self.long(x)

    net = Two().double()
    structure = weyl.discover(net, (torch.zeros(1, 4).double(),))
    steps = []
    original = _Problem._step
    monkeypatch.setattr(_Problem, "_step", lambda *args: (steps.append(args[1].name), original(*args))[1])
    found = balance(structure, net.state_dict())
    assert found.attained and found.iterations > 5
    counts = {name: steps.count(name) for name in set(steps)}
    assert counts["short.0 scale"] == 2, "the step, and the look that finds it balanced"
    assert max(counts.values()) == found.iterations
