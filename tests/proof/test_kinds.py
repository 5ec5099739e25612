"""Each kind of move is proved alone, with a wrong element of its own."""

import json
from dataclasses import replace

import pytest
import torch
from tests.actions import gauged
from tests.laws.nets import Net, features, lin, par
from torch import nn

import weyl
from weyl.groups import GaugeKind, Space
from weyl.proof import exact_element
from weyl.proof._elements import moves_of, wrong_states
from weyl.testing import force

X = (features(5, 4).double(),)


def mlp(activation, bias=True):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = lin(4, 7), activation, lin(7, 6), activation, lin(6, 3, bias)
    return nn.Sequential(*layers).double()


@pytest.fixture(params=list(gauged.CASES))
def case(request):
    return gauged.CASES[request.param]()


def test_every_kind_of_gauge_is_proved_alone(case):
    proof = weyl.verify(case.net, (case.inputs,), structure=case.structure)
    assert proof.holds, proof
    assert tuple(proof.kinds) == moves_of(case.structure)
    assert {gauge.kind.move for gauge in case.structure.gauges} <= set(proof.kinds)
    for found in proof.kinds.values():
        assert found.max_relative_error <= proof.max_relative_error < 1e-12
        assert found.detected
        assert found.control_error > 100 * proof.tolerance


def test_every_forgotten_tensor_is_seen_by_the_kind_that_forgot_it(case):
    """Control of the test above: the gauge does not act on the tensor on which it acts most."""
    for gauge in case.structure.gauges:
        weights = case.structure.weights[gauge.name]
        largest = max(weights, key=lambda name: case.state[name].numel())
        if len(weights) > 1 and not gauge.kind.additive:
            forgetful = gauged.without(case.structure, gauge.name, largest)
            proof = weyl.verify(case.net, (case.inputs,), structure=forgetful)
            assert proof.verdict == "fails"
            assert proof.kinds[gauge.kind.move].max_relative_error > proof.tolerance


@pytest.mark.parametrize(("activation", "moves"), [(nn.Tanh(), ("permute", "sign")), (nn.ReLU(), ("permute", "scale"))])
def test_kinds_of_a_network_are_those_of_its_group(activation, moves):
    proof = weyl.verify(mlp(activation), X)
    assert proof.holds
    assert tuple(proof.kinds) == moves
    assert proof.max_relative_error < 1e-13


@pytest.mark.parametrize(("activation", "move"), [(nn.Tanh(), "sign"), (nn.ReLU(), "scale")])
def test_signs_and_powers_of_two_change_no_bit_of_real_outputs(activation, move):
    """Not only on small integers: they round nothing, and the order of sums stays."""
    model = mlp(activation)
    structure = weyl.discover(model, X)
    for seed in range(5):
        element = structure.group.random(seed, kinds=(move,), exact=True)
        assert element.moves == {move}
        moved = weyl.act(element, structure, model.state_dict())
        assert torch.equal(torch.func.functional_call(model, moved, X), model(*X))


def test_without_any_group_there_are_no_kinds():
    proof = weyl.verify(nn.Linear(4, 3).double(), X)
    assert proof.holds and proof.kinds == {} and proof.control.detected


def test_kinds_are_written_as_json():
    proof = weyl.verify(mlp(nn.Tanh()), X)
    told = json.loads(json.dumps(proof.to_dict(), allow_nan=False))
    assert told["kinds"]["sign"] == {
        "max_relative_error": proof.kinds["sign"].max_relative_error,
        "control_error": proof.kinds["sign"].control_error,
        "detected": True,
    }
    assert told["control"]["parameter"] == proof.control.parameter
    undefined = Net(lambda n, x: n.o(n.a(x).tanh()) * float("nan"), a=lin(4, 6), o=lin(6, 3)).double()
    told = json.loads(json.dumps(weyl.verify(undefined, X).to_dict(), allow_nan=False))
    assert told["verdict"] == "inconclusive" and told["kinds"]["sign"]["max_relative_error"] is None


def blind(model: nn.Module) -> weyl.Structure:
    """Two tensors that the output ignores are scaled against each other: half of that cannot be seen."""
    structure = weyl.discover(model, X)
    return force(structure, GaugeKind.SCALE, Space("blind", 5), (("u", 0, 1), ("v", 0, -1)), alone=False)


def test_what_cannot_be_seen_where_it_acts_is_tried_elsewhere():
    model = Net(
        lambda n, x: n.o(n.a(x).tanh()) + 0 * (n.u @ n.v), a=lin(4, 6), o=lin(6, 3), u=par(5), v=par(5)
    ).double()
    proof = weyl.verify(model, X, structure=blind(model))
    assert proof.holds and proof.kinds["scale"].detected


def test_a_wrong_element_of_one_kind_that_goes_unseen_settles_nothing():
    model = Net(
        lambda n, x: 0 * n.o(n.a(x).tanh()) + 0 * (n.u @ n.v), a=lin(4, 6), o=lin(6, 3), u=par(5), v=par(5)
    ).double()
    proof = weyl.verify(model, X, structure=blind(model))
    assert proof.verdict == "inconclusive"
    assert not proof.kinds["scale"].detected and not proof.control.detected


def test_where_a_gauge_moves_one_tensor_alone_the_wrong_element_goes_astray():
    model = Net(lambda n, x: n.o((n.a(x) + n.b).softmax(-1)), a=lin(4, 6), b=par(1), o=lin(6, 3)).double()
    shift = force(weyl.discover(model, X), GaugeKind.TRANSLATION, Space("all", 1), (("b", 0, 1),), coefficient=1.0)
    assert next(wrong_states(shift, model.state_dict(), "translate", 0))[0] != "b"
    proof = weyl.verify(model, X, structure=shift)
    assert proof.holds and proof.kinds["translate"].detected


@pytest.mark.parametrize("move", ["permute", "sign", "scale", "mix", "translate"])
def test_wrong_states_change_one_tensor(move):
    model = Net(lambda n, x: n.o(n.a(x)), a=lin(4, 6), o=lin(6, 3)).double()
    state = model.state_dict()
    wrong = list(wrong_states(weyl.discover(model, X, fixed=["a.weight", "a.bias"]), state, move, 0))
    assert wrong
    for name, changed in wrong:
        assert [n for n in state if not torch.equal(state[n], changed[n])] == [name]
        assert changed[name].shape == state[name].shape


def test_exact_elements_leave_out_what_rounds():
    batch_norm = gauged.batch_norm().structure
    drawn = batch_norm.group.random(1, exact=True)
    kept = exact_element(batch_norm, 1, integers=True)
    for gauge in batch_norm.gauges:
        on_variance = any(name in batch_norm.offsets for name in batch_norm.weights[gauge.name])
        identity = batch_norm.group.identity().values[gauge.name]
        rounds = on_variance and gauge.kind is GaugeKind.SCALE
        assert (kept.values[gauge.name] == (identity if rounds else drawn.values[gauge.name])).all()
    assert any(name in batch_norm.offsets for tensors in batch_norm.weights.values() for name in tensors)


def test_exact_elements_add_only_to_integers_and_only_binary_fractions():
    model = Net(lambda n, x: n.o(n.a(x).softmax(-1)), a=lin(4, 6), o=lin(6, 3)).double()
    structure = weyl.discover(model, X)

    def drawn(coefficient, integers):
        claim = force(structure, GaugeKind.TRANSLATION, "a", (("a.bias", 0, 1),), coefficient=coefficient)
        return exact_element(claim, 1, integers=integers).moves

    assert "translate" in drawn(0.5, True)
    assert "translate" not in drawn(0.5, False)
    assert "translate" not in drawn(3.14159, True)


def test_exact_agreement_is_denied_when_a_power_of_two_is_misplaced():
    model = mlp(nn.ReLU())
    structure = weyl.discover(model, X)
    name = structure.gauges[0].name
    half = {**structure.weights, name: dict(list(structure.weights[name].items())[:-1])}
    proof = weyl.verify(model, X, structure=replace(structure, weights=half))
    assert proof.verdict == "fails" and proof.exact is False
