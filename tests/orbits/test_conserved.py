"""Conserved quantities: orthogonality of the gradient, and drift of the order of the step."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from tests.actions import gauged
from tests.orbits import test_balance
from torch import nn

import weyl
import weyl.groups
import weyl.orbits
import weyl.structure
from weyl.groups import GaugeKind
from weyl.orbits import conserved, direction
from weyl.orbits._tangents import algebra_shape

QUADRATIC = ("relu", "rotary", "experts", "whole tensors", "bottleneck", "heads")
CASES = {name: gauged.CASES[name] for name in QUADRATIC} | {
    name: test_balance.CASES[name] for name in ("chain", "attention", "recurrent", "recurrent linear")
}


@pytest.fixture(params=list(CASES))
def case(request):
    return CASES[request.param]()


def trained(case, steps, rate, decay=0.0):
    """The state after gradient descent on a nonlinear function of the outputs."""
    net, names = case.net, [name for name, _ in case.net.named_parameters()]
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for _ in range(steps):
        moving = {name: state[name].clone().requires_grad_() for name in names}
        outputs = torch.func.functional_call(net, {**state, **moving}, (case.inputs,))
        loss = (outputs - torch.linspace(-1, 1, outputs.numel()).view_as(outputs)).square().mean().add(1).log()
        slopes = torch.autograd.grad(loss, list(moving.values()))
        for name, slope in zip(names, slopes, strict=True):
            state[name] = state[name] - rate * (slope + decay * state[name])
    return state


def largest_drift(case, *args, **options):
    start = conserved(case.structure, case.state)
    return max(start.drift(conserved(case.structure, trained(case, *args, **options))).values())


def test_drift_is_of_the_order_of_the_step(case):
    coarse, middle, fine = (largest_drift(case, 20 * k, 0.02 / k) for k in (1, 2, 4))
    assert 0 < fine < middle < coarse < 0.1
    assert 0.85 < math.log2(middle / fine) < 1.15
    moved = trained(case, 80, 0.005)
    change = max(float((moved[name] - tensor).norm() / tensor.norm()) for name, tensor in case.state.items())
    assert change > 10 * fine


def test_one_side_alone_is_not_conserved(case):
    """The negative control: a gauge that forgets a tensor has a quantity that moves as the weights do."""
    gauge = case.structure.gauges[0]
    drifts = []
    for tensor in case.structure.weights[gauge.name]:
        poorer = gauged.without(case.structure, gauge.name, tensor)
        start = conserved(poorer, case.state)
        drift = [start.drift(conserved(poorer, trained(case, 20 * k, 0.02 / k)))[gauge.name] for k in (1, 4)]
        drifts.append(drift)
    coarse, fine = max(drifts)
    assert fine > 0.5 * coarse > 1e-4


def test_weight_decay_shrinks_them_exponentially(case):
    decay, time = 0.5, 0.4
    start = conserved(case.structure, case.state)
    end = conserved(case.structure, trained(case, 800, time / 800, decay))
    for gauge in case.structure.gauges:
        quantity, degree = start.quantities[gauge.name], 1 if gauge.kind is GaugeKind.TRANSLATION else 2
        size = max(np.abs(quantity).max(), 1e-12)
        expected = math.exp(-degree * decay * time) * quantity
        np.testing.assert_allclose(end.quantities[gauge.name], expected, atol=5e-3 * size)
        assert np.abs(end.quantities[gauge.name] - quantity).max() > 0.15 * size


def test_the_quantity_is_the_derivative_of_the_norm(case):
    """``<theta, A theta>`` for the symmetric generators: the norm changes along the tangent by twice the quantity."""
    rng = np.random.default_rng(0)
    found = conserved(case.structure, case.state)
    assert found.quantities and not found.left_out
    for gauge in case.structure.gauges:
        shape = algebra_shape(case.structure, gauge)
        if gauge.kind is GaugeKind.TRANSLATION:
            continue
        algebra = rng.standard_normal(shape)
        algebra = algebra + algebra.swapaxes(-1, -2) if gauge.kind.matrix else algebra
        along = direction(case.structure, case.state, {gauge.name: algebra})
        slope = sum(float((tensor * case.state[name]).sum()) for name, tensor in along.items())
        np.testing.assert_allclose(np.sum(algebra * found.quantities[gauge.name]), slope, rtol=1e-10)
        assert found.quantities[gauge.name].shape == shape
        assert np.abs(found.quantities[gauge.name]).max() <= found.sizes[gauge.name]


def test_closed_forms():
    case = gauged.CASES["relu"]()
    state = case.state
    rows = state["0.weight"].square().sum(1) + state["0.bias"].square()
    expected = rows - state["2.weight"].square().sum(0)
    np.testing.assert_allclose(conserved(case.structure, state).quantities["g"], expected.numpy(), rtol=1e-13)
    case = gauged.CASES["bottleneck"]()
    state = case.state
    u = torch.cat([state["0.weight"], state["0.bias"][:, None]], 1)
    expected = u @ u.T - state["2.weight"].T @ state["2.weight"]
    np.testing.assert_allclose(conserved(case.structure, state).quantities["g"], expected.numpy(), rtol=1e-13)


def test_a_balanced_state_has_none(case):
    found = weyl.orbits.balance(case.structure, case.state)
    if found.attained:
        after = conserved(case.structure, found.state)
        assert all(np.abs(after.quantities[name]).max() <= 1e-11 * (size or 1) for name, size in after.sizes.items())
        before = conserved(case.structure, case.state)
        assert any(np.abs(before.quantities[name]).max() > 1e-2 * size for name, size in before.sizes.items())


def test_translations_keep_a_sum():
    class Softmax(nn.Module):
        """The second layer's bias is dead: softmax does not see a constant."""

        def __init__(self):
            super().__init__()
            self.shift, self.rest = nn.Parameter(torch.tensor([0.3]).double()), nn.Linear(3, 4).double()

        def forward(self, x):
            return (self.rest(x) + self.shift).softmax(-1)

    h = weyl.groups.Space("h", 1, weyl.groups.Kind.TRIVIAL)
    axes = {"shift": (weyl.structure.Units("h", 1),)}
    gauge = weyl.groups.Gauge("g", "h", GaugeKind.TRANSLATION)
    weights = {"g": {"shift": gauged.units(h, coefficient=2.0)}}
    structure = weyl.structure.Structure((h,), axes, gauges=(gauge,), weights=weights)
    case = gauged.Case(Softmax(), torch.randn(5, 3).double(), structure)
    start = conserved(structure, case.state)
    assert start.quantities["g"].tolist() == pytest.approx([0.6])
    after = trained(case, 50, 0.1)
    assert start.drift(conserved(structure, after))["g"] < 1e-14
    assert not torch.allclose(after["rest.weight"], case.state["rest.weight"], atol=1e-4)


def test_what_conserves_nothing_is_left_out():
    case = gauged.batch_norm()
    found = conserved(case.structure, case.state)
    assert not found.quantities and found.left_out.keys() == {"scale", "shift"}
    assert "does not follow the gradient" in found.left_out["scale"]
    for name in ("rms", "layer norm"):
        case = gauged.CASES[name]()
        assert conserved(case.structure, case.state).left_out == {"g": "its generators are antisymmetric"}
    case = gauged.CASES["relu"]()
    assert conserved(case.structure, case.state, trained=["0.weight", "0.bias"]).left_out.keys() == {"g"}
    assert conserved(case.structure, case.state, trained=list(case.state)).quantities.keys() == {"g"}
    case = gauged.CASES["tanh"]()
    assert conserved(case.structure, case.state).to_dict() == {"quantities": {}, "sizes": {}, "left_out": {}}


def test_json_and_comparisons():
    relu, experts = (gauged.CASES[name]() for name in ("relu", "experts"))
    found = conserved(relu.structure, relu.state)
    assert json.loads(json.dumps(found.to_dict()))["quantities"]["g"] == found.quantities["g"].tolist()
    assert found.drift(found) == {"g": 0.0}
    with pytest.raises(weyl.StructureError, match="different structures"):
        found.drift(conserved(experts.structure, experts.state))
    with pytest.raises(weyl.StructureError, match="no tensor"):
        conserved(relu.structure, {})


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
        conserved(case.structure, change(case))


def test_what_is_no_structure_is_refused():
    case = gauged.CASES["relu"]()
    for wrong in (case.net, case.state, None):
        with pytest.raises(weyl.StructureError, match="expected a Structure"):
            conserved(wrong, case.state)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_where_they_matter(value):
    case = gauged.CASES["relu"]()
    state = {name: tensor.clone() for name, tensor in case.state.items()}
    state["2.bias"][0] = value
    conserved(case.structure, state)
    state["0.bias"][0] = value
    with pytest.raises(weyl.NotFiniteError, match=r"'0\.bias'"):
        conserved(case.structure, state)


@pytest.mark.parametrize(
    ("trained", "says"),
    [
        (["0.wieght", "2.weight"], r"trained names '0\.wieght'"),
        ("0.weight", r"got the string '0\.weight': write \['0\.weight'\]"),
        ([torch.zeros(1)], "collection of names"),
        (5, "got int"),
        (iter(["0.weight"]), "collection of names"),
    ],
)
def test_names_of_what_is_trained_are_checked(trained, says):
    case = gauged.CASES["relu"]()
    with pytest.raises(weyl.UsageError, match=says):
        conserved(case.structure, case.state, trained=trained)
