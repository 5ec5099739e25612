"""Tangents are derivatives of the action, and the output has none along them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from tests.actions import gauged
from torch import nn

import weyl
from weyl.groups import Element, GaugeKind
from weyl.orbits import check_tangents, direction, tangents
from weyl.orbits._tangents import algebra_shape, random_algebra

CONTINUOUS = [name for name, make in gauged.CASES.items() if any(g.kind.continuous for g in make().structure.gauges)]


@pytest.fixture(params=CONTINUOUS)
def case(request):
    return gauged.CASES[request.param]()


def exponential(kind, array, t):
    match kind:
        case GaugeKind.TRANSLATION:
            return t * array
        case _ if kind.matrix:
            return np.array([expm(t * a) for a in array.reshape(-1, *array.shape[-2:])]).reshape(array.shape)
        case _:
            return np.exp(t * array)


def algebra_of(case, seed, only=None):
    rng = np.random.default_rng(seed)
    gauges = [g for g in case.structure.gauges if g.kind.continuous and only in (None, g.name)]
    return {g.name: random_algebra(case.structure, g, rng) for g in gauges}


def moved(case, algebra, t):
    group = case.structure.group
    kinds = {g.name: g.kind for g in case.structure.gauges}
    values = {name: exponential(kinds[name], array, t) for name, array in algebra.items()}
    return weyl.act(Element(group.spaces, group.identity(), group.gauges, values), case.structure, case.state)


@pytest.mark.parametrize("seed", range(3))
def test_a_direction_is_the_derivative_of_the_action(case, seed):
    algebra, h = algebra_of(case, seed), 1e-3
    along = direction(case.structure, case.state, algebra)
    ends = {t: moved(case, algebra, t) for t in (h, -h, h / 2, -h / 2)}
    for name, tensor in case.state.items():
        if not tensor.is_floating_point():
            assert name not in along
            continue
        wide, narrow = ((ends[t][name] - ends[-t][name]) / (2 * t) for t in (h, h / 2))
        expected = (4 * narrow - wide) / 3
        torch.testing.assert_close(along.get(name, torch.zeros_like(tensor)), expected, rtol=1e-9, atol=1e-9)


def test_directions_are_linear_in_the_algebra(case):
    one, two = algebra_of(case, 1), algebra_of(case, 2)
    both = {name: 2 * one[name] - 3 * two[name] for name in one}
    parts = [direction(case.structure, case.state, algebra) for algebra in (one, two, both)]
    for name, tensor in parts[2].items():
        torch.testing.assert_close(tensor, 2 * parts[0][name] - 3 * parts[1][name], rtol=1e-12, atol=1e-12)


def outputs_along(case, along):
    """Of enough inputs that no unit is silent on all of them."""
    inputs = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()

    def outputs(state):
        return torch.func.functional_call(case.net, {**case.state, **state}, (inputs,))

    h = 1e-3
    ends = {t: outputs({n: case.state[n] + t * d for n, d in along.items()}) for t in (h, -h, h / 2, -h / 2)}
    wide, narrow = ((ends[t] - ends[-t]) / (2 * t) for t in (h, h / 2))
    return (4 * narrow - wide) / 3


def test_outputs_do_not_change_along_tangents_and_do_when_a_part_is_missing(case):
    found = list(tangents(case.structure, case.state))
    assert len(found) == case.structure.group.dimension + case.structure.overlap[0]
    broken = []
    for tangent in found:
        assert outputs_along(case, tangent.direction).abs().max() < 1e-8
        for part in tangent.direction:
            poorer = {name: along for name, along in tangent.direction.items() if name != part}
            broken.append(float(outputs_along(case, poorer).abs().max()))
    # units that are silent on all inputs change nothing
    assert np.median(broken) > 1e-2


def test_tangents_are_a_basis(case):
    """As many independent directions as the group has dimensions, and every direction is a sum of them."""
    found = list(tangents(case.structure, case.state))
    names = list(case.state)

    def row(along):
        return torch.cat([along.get(n, torch.zeros_like(case.state[n])).flatten().double() for n in names])

    rows = torch.stack([row(tangent.direction) for tangent in found])
    random = row(direction(case.structure, case.state, algebra_of(case, 4)))
    assert torch.linalg.matrix_rank(rows) == case.structure.group.dimension
    assert torch.linalg.matrix_rank(torch.cat([rows, random[None]])) == case.structure.group.dimension
    stray = torch.cat([rows, torch.ones_like(random)[None]])
    assert torch.linalg.matrix_rank(stray) == case.structure.group.dimension + 1
    assert len({(tangent.gauge, tangent.index) for tangent in found}) == len(found)


def test_the_tangent_of_a_unit_touches_that_unit_only():
    case = gauged.CASES["relu"]()
    for i, tangent in enumerate(tangents(case.structure, case.state)):
        assert tangent.index == (i,)
        assert torch.equal(tangent.direction["0.weight"].abs().sum(1).nonzero().flatten(), torch.tensor([i]))
        assert torch.equal(tangent.direction["0.weight"][i], case.state["0.weight"][i])
        assert torch.equal(tangent.direction["2.weight"][:, i], -case.state["2.weight"][:, i])
        assert "2.bias" not in tangent.direction


def test_an_offset_is_a_part_of_what_is_scaled():
    case = gauged.batch_norm()
    along = direction(case.structure, case.state, {"scale": np.ones(4)})["1.running_var"]
    torch.testing.assert_close(along, 2 * (case.state["1.running_var"] + gauged.EPS), rtol=1e-15, atol=0)


def test_a_dead_unit_has_no_direction_and_the_state_stays():
    case = gauged.CASES["relu"]()
    state = {name: tensor.clone() for name, tensor in case.state.items()}
    state["0.weight"][1], state["0.bias"][1], state["2.weight"][:, 1] = 0, 0, 0
    before = {name: tensor.clone() for name, tensor in state.items()}
    sizes = [len(tangent.direction) for tangent in tangents(case.structure, state)]
    assert sizes == [3, 0, 3, 3]
    assert all(torch.equal(before[name], tensor) for name, tensor in state.items())


def test_dtypes_stay_and_ties_stay():
    case = gauged.CASES["relu"]()
    for dtype in (torch.float32, torch.bfloat16):
        state = {name: tensor.to(dtype) for name, tensor in case.state.items()}
        along = direction(case.structure, state, {"g": np.ones(4)})
        assert {tensor.dtype for tensor in along.values()} == {dtype}
        assert torch.equal(along["0.weight"], state["0.weight"])
    structure = replace(
        case.structure,
        axes={**case.structure.axes, "again": case.structure.axes["0.weight"]},
        weights={"g": {**case.structure.weights["g"], "again": case.structure.weights["g"]["0.weight"]}},
    )
    tied = direction(structure, {**case.state, "again": case.state["0.weight"]}, {"g": np.ones(4)})
    assert tied["again"] is tied["0.weight"]


@pytest.mark.parametrize(
    ("name", "algebra", "message"),
    [
        ("relu", {"h": np.ones(4)}, "no continuous gauge"),
        ("tanh", {"g": np.ones(4)}, "no continuous gauge"),
        ("relu", {"g": np.ones(3)}, r"shape \(4,\)"),
        ("relu", {"g": np.full(4, np.nan)}, "finite"),
        ("relu", {"g": 1j * np.ones(4)}, "real"),
        ("rms", {"g": np.eye(4)}, "antisymmetric"),
        ("layer norm", {"g": np.eye(4, k=1) - np.eye(4, k=-1)}, "sum to zero"),
    ],
)
def test_what_is_no_algebra_is_refused(name, algebra, message):
    case = gauged.CASES[name]()
    with pytest.raises(weyl.StructureError, match=message):
        direction(case.structure, case.state, algebra)


def test_a_part_of_the_state_is_refused():
    case = gauged.CASES["relu"]()
    with pytest.raises(weyl.StructureError, match=r"no tensor '2\.weight'"):
        next(tangents(case.structure, {n: t for n, t in case.state.items() if n != "2.weight"}))
    with pytest.raises(weyl.StructureError, match="has shape"):
        next(tangents(case.structure, {**case.state, "2.weight": torch.zeros(2, 5)}))


def test_the_differential_proof(case):
    before = torch.get_rng_state()
    check = check_tangents(case.net, (case.inputs,), structure=case.structure, trials=3)
    assert torch.equal(before, torch.get_rng_state())
    assert check.holds, check
    assert {g.method for g in check.gauges} == {"forward"}
    assert check.max_relative_derivative < 1e-13
    assert min(g.control for g in check.gauges) > 1e-3
    assert json.loads(json.dumps(check.to_dict()))["holds"] is True


def test_the_differential_proof_sees_what_is_missing(case):
    for gauge, tensors in case.structure.weights.items():
        kind = next(g.kind for g in case.structure.gauges if g.name == gauge)
        for tensor in tensors if kind.continuous else ():
            poorer = gauged.without(case.structure, gauge, tensor)
            check = check_tangents(case.net, (case.inputs,), structure=poorer, trials=2)
            assert check.verdict == "fails" and check.max_relative_derivative > 1e-4, (gauge, tensor)


def test_the_differential_proof_sees_a_wrong_exponent():
    case = gauged.two_layers(nn.ReLU(), gauged.Kind.POSITIVE_MONOMIAL, GaugeKind.SCALE, 1)
    check = check_tangents(case.net, (case.inputs,), structure=case.structure, trials=2)
    assert check.verdict == "fails" and "random direction" in check.reason


class WithoutForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.relu()


class Opaque(nn.Module):
    def forward(self, x):
        return WithoutForwardMode.apply(x)


def test_differences_where_forward_mode_does_not_work():
    for out, holds in ((-1, True), (1, False)):
        case = gauged.two_layers(Opaque(), gauged.Kind.POSITIVE_MONOMIAL, GaugeKind.SCALE, out)
        check = check_tangents(case.net, (case.inputs,), structure=case.structure, trials=3)
        (gauge,) = check.gauges
        assert gauge.method == "difference" and gauge.tolerance == 1e-8
        assert check.holds == holds
        assert (check.max_relative_derivative < 1e-10) == holds


def test_kinks_do_not_make_forward_mode_suspect():
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (nn.Linear(32, 32), nn.ReLU())]
    net, x = nn.Sequential(*layers, nn.Linear(32, 3)), torch.randn(8, 32)
    check = check_tangents(net, (x,), trials=2)
    assert check.holds and {gauge.method for gauge in check.gauges} == {"forward"}


def test_a_dead_output_is_inconclusive():
    case = gauged.CASES["relu"]()

    def constant(result):
        return torch.zeros_like(result)

    check = check_tangents(case.net, (case.inputs,), structure=case.structure, trials=2, output=constant)
    assert check.verdict == "inconclusive" and check.to_dict()["gauges"][0]["derivative"] is None


def test_no_continuous_gauge_and_weights_that_are_not_finite():
    case = gauged.CASES["tanh"]()
    check = check_tangents(case.net, (case.inputs,), structure=case.structure)
    assert check.holds and check.gauges == () and check.max_relative_derivative == 0
    with torch.no_grad():
        case.net[0].weight[0, 0] = float("nan")
    check = check_tangents(case.net, (case.inputs,), structure=case.structure)
    assert check.verdict == "inconclusive" and "finite" in check.reason


@pytest.mark.parametrize("trials", [0, 1, True, 2.5, "3"])
def test_too_few_trials_are_refused(trials):
    case = gauged.CASES["relu"]()
    with pytest.raises(weyl.InputError, match="trials must be a whole number, at least 2"):
        check_tangents(case.net, (case.inputs,), structure=case.structure, trials=trials)


def test_on_what_discover_finds():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.i, self.norm, self.qkv = nn.Linear(5, 8), nn.RMSNorm(8), nn.Linear(8, 24)
            self.o, self.f = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            x = self.i(x)
            q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
            y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
            return self.f(x + self.o(y))

    torch.manual_seed(0)
    net, x = Attention(), torch.randn(2, 6, 5)
    structure = weyl.discover(net, (x,))
    found = list(tangents(structure, net.state_dict()))
    assert len(found) == structure.group.dimension + structure.overlap[0] >= 64
    assert all(algebra_shape(structure, gauge) for gauge in structure.gauges)
    check = check_tangents(net, (x,), structure=structure, trials=3)
    assert check.holds and check.max_relative_derivative < 1e-13, check


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda case: case.net, r"expected a state dict of tensors, got \w+: pass model\.state_dict\(\)"),
        (lambda case: list(case.state.values()), "got list"),
        (lambda case: {f"a.{name}": tensor for name, tensor in case.state.items()}, "strip a prefix"),
        (lambda case: {name: tensor.numpy() for name, tensor in case.state.items()}, "no tensor but ndarray"),
        (lambda case: {name: tensor.long() for name, tensor in case.state.items()}, "int64"),
    ],
)
def test_what_is_no_state_of_the_model_is_refused(change, says):
    case = gauged.CASES["relu"]()
    with pytest.raises(weyl.StructureError, match=says):
        tangents(case.structure, change(case))


def test_what_is_no_structure_is_refused():
    case = gauged.CASES["relu"]()
    for wrong in (case.net, case.state, None):
        with pytest.raises(weyl.StructureError, match="expected a Structure"):
            tangents(wrong, case.state)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_where_they_matter(value):
    case = gauged.CASES["relu"]()
    state = {name: tensor.clone() for name, tensor in case.state.items()}
    state["2.bias"][0] = value
    tangents(case.structure, state)
    state["0.bias"][0] = value
    with pytest.raises(weyl.NotFiniteError, match=r"'0\.bias'"):
        tangents(case.structure, state)


def test_a_direction_at_a_state_that_is_not_finite_is_refused():
    case = gauged.CASES["relu"]()
    state = {**case.state, "0.weight": torch.full_like(case.state["0.weight"], float("nan"))}
    with pytest.raises(weyl.NotFiniteError, match=r"'0\.weight'"):
        direction(case.structure, state, {"g": np.ones(4)})


@pytest.mark.parametrize("seed", ["a", -1, 1.0, True, 2**64])
def test_what_is_no_seed_is_refused(seed):
    case = gauged.CASES["relu"]()
    with pytest.raises(weyl.UsageError, match="seed must be"):
        check_tangents(case.net, (case.inputs,), structure=case.structure, seed=seed)


def test_the_proof_wants_the_structure_of_the_model():
    case = gauged.CASES["relu"]()
    with pytest.raises(weyl.StructureError, match="expected a Structure"):
        check_tangents(case.net, (case.inputs,), structure=case.net.state_dict())
    wider = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    with pytest.raises(weyl.StructureError, match="the structure says"):
        check_tangents(wider, (case.inputs.float(),), structure=case.structure)
