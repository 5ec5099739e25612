"""The shipped laws hold where they should, and fail on a wrong input."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from tests.actions import gauged
from torch import nn

import weyl
from weyl.groups import Element, Gauge, GaugeKind, Group, Part, Space
from weyl.structure import Product, Structure, Units
from weyl.testing import (
    assert_action_laws,
    assert_function_preserved,
    assert_group_laws,
    assert_structure_round_trip,
    assert_untouched,
)


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


INPUT = (torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.5, -0.25]]),)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.read = nn.Embedding(5, 3)
        self.write = nn.Linear(3, 5, bias=False)
        self.write.weight = self.read.weight

    def forward(self, tokens):
        return self.write(torch.tanh(self.read(tokens)))


def test_group_laws_hold_on_nested_groups():
    spaces = (Space("a", 3), Space("b", 2, within=("a",)), Space("c", 4, within=("a", "b")))
    assert_group_laws(Group(spaces))


@pytest.mark.parametrize("kind", list(GaugeKind))
def test_group_laws_hold_with_gauges(kind):
    spaces = (Space("a", 3), Space("b", 4, within=("a",)))
    assert_group_laws(Group(spaces, (Gauge("g", "b", kind),)))


def test_group_laws_hold_where_translations_are_carried():
    gauges = Gauge("s", "a", GaugeKind.SCALE), Gauge("t", "a", GaugeKind.TRANSLATION, carries=(("s", 2),))
    assert_group_laws(Group((Space("a", 5),), gauges))


def test_action_laws_reject_values_that_are_composed_without_being_moved(monkeypatch):
    case = gauged.CASES["relu"]()
    monkeypatch.setattr(Element, "_move", lambda self, gauge, values: values)
    assert_group_laws(case.structure.group)  # a group, only not the one that acts
    with pytest.raises(AssertionError, match="undo g"):
        assert_action_laws(case.structure, case.state)


def test_group_laws_reject_real_values_that_exact_ones_do_not_show(monkeypatch):
    """Powers of two survive a rounding to half precision, others do not."""
    honest = weyl.groups._values.product

    def rough(kind, left, right):
        return honest(kind, left, right).astype(np.float16)

    monkeypatch.setattr("weyl.groups._values.product", rough)
    group = Group((Space("a", 5),), (Gauge("g", "a", GaugeKind.SCALE),))
    with pytest.raises(AssertionError, match="not associative"):
        assert_group_laws(group)


@pytest.mark.parametrize("name", list(gauged.CASES))
def test_action_laws_hold_with_every_kind_of_gauge(name):
    case = gauged.CASES[name]()
    assert_action_laws(case.structure, case.state)
    assert_action_laws(case.structure, {n: t.float() for n, t in case.state.items()})


@pytest.mark.parametrize("name", list(gauged.CASES))
def test_action_laws_reject_an_inverse_that_is_not(name, monkeypatch):
    case = gauged.CASES[name]()

    def lazy(element, structure, state):
        """Applies every element by its square."""
        return weyl.act(element @ element, structure, state)

    monkeypatch.setattr("weyl.testing._laws.act", lazy)
    if case.commutative:
        assert_action_laws(case.structure, case.state)  # squaring is a homomorphism there
    else:
        with pytest.raises(AssertionError, match="is not g after h"):
            assert_action_laws(case.structure, case.state)


def test_group_laws_reject_a_group_that_is_not_reproducible():
    class Forgetful(Group):
        def random(self, seed=0, **options):
            return super().random(seed + int(np.random.default_rng().integers(1 << 30)), **options)

    with pytest.raises(AssertionError, match="same seed"):
        assert_group_laws(Forgetful((Space("a", 9),)))


def test_group_laws_reject_an_identity_that_moves():
    class Restless(Group):
        def identity(self):
            return Element(self.spaces, {"a": Part(np.array([1, 0, 2]))})

    with pytest.raises(AssertionError, match="identity moves"):
        assert_group_laws(Restless((Space("a", 3),)))


def test_action_laws_hold_with_ties():
    model = Tied()
    structure = weyl.discover(model, (torch.tensor([[1, 2]]),))
    assert int(structure.group.permutation_order) == 6
    assert int(structure.group.order) == 6 * 2**3
    assert_action_laws(structure, model.state_dict())


def test_action_laws_reject_an_action_that_changes_its_input(monkeypatch):
    model = network()
    structure = weyl.discover(model, INPUT)

    def careless(element, structure, state):
        moved = weyl.act(element, structure, state)
        for name, tensor in state.items():
            tensor.copy_(moved[name])
        return moved

    monkeypatch.setattr("weyl.testing._laws.act", careless)
    with pytest.raises(AssertionError, match="changed its input"):
        assert_action_laws(structure, {n: t.clone() for n, t in model.state_dict().items()})


def test_function_preserved_rejects_a_group_that_is_too_large():
    model = network()
    structure = weyl.discover(model, INPUT)
    first, second = structure.spaces
    # both hidden layers moved alike
    glued = {
        name: tuple(Units(first.name, 4) if axis == Units(second.name, 4) else axis for axis in axes)
        for name, axes in structure.axes.items()
    }
    smaller = Structure((first,), glued)
    assert_function_preserved(model, INPUT, structure=structure)
    assert_function_preserved(model, INPUT, structure=smaller)  # the diagonal subgroup is right, only smaller
    too_large = dataclasses.replace(structure, axes={**structure.axes, "2.weight": structure.axes["2.weight"][::-1]})
    with pytest.raises(AssertionError, match="fails"):
        assert_function_preserved(model, INPUT, structure=too_large)


def test_round_trip_holds_and_rejects_a_lossy_text(monkeypatch):
    structure = weyl.discover(network(), INPUT)
    assert_structure_round_trip(structure)
    monkeypatch.setattr(Structure, "from_json", classmethod(lambda cls, text: cls((), {})))
    with pytest.raises(AssertionError, match="differs"):
        assert_structure_round_trip(structure)


@pytest.mark.parametrize(
    "touch",
    [
        lambda model: model.eval(),
        lambda model: model[0].register_forward_hook(lambda *_: None),
        lambda model: setattr(model, "extra", 1),
        lambda model: torch.rand(1),
        lambda model: np.random.rand(1),
        lambda model: random.random(),
        lambda model: model[0].register_full_backward_pre_hook(lambda *_: None),
        lambda model: setattr(model[0], "in_features", 7),
        lambda model: model[0].weight.data.add_(1),
        lambda model: model(INPUT[0]).sum().backward(),
    ],
)
def test_untouched_notices(touch):
    model = network()
    with torch.random.fork_rng(), pytest.raises(AssertionError, match="changed"), assert_untouched(model):
        touch(model)


def test_discover_and_verify_leave_everything_as_it_was():
    model = network()
    model[0].register_forward_hook(lambda *_: None)
    model.train()
    model(INPUT[0]).sum().backward()
    with assert_untouched(model):
        weyl.discover(model, INPUT)
        weyl.verify(model, INPUT)
    assert model.training


def test_product_of_units_is_not_a_fixed_axis():
    assert str(Product((Units("a", 2), Units("b", 3)))) == "a × b"
