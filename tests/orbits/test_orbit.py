"""Orbits: sizes by enumeration of whole groups, closed forms, and what one unit in the last place breaks."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.actions import gauged
from torch import nn

import weyl
from weyl.errors import NotFiniteError, StructureError, UsageError
from weyl.groups import Element, Gauge, GaugeKind, Kind, Order, Part, Space
from weyl.orbits._orbit import orbit
from weyl.structure import Block, Fixed, Product, Structure, Units, Weight


def elements(structure):
    """All permutations with all signs."""
    group = structure.group
    spaces = [space for space in group.spaces if space.permuted]
    signs = [gauge for gauge in group.gauges if gauge.kind is GaugeKind.SIGN]
    identity = group.identity()
    tables = []
    for space in spaces:
        shape = identity[space.name].permutation.shape
        rows = list(itertools.permutations(range(space.size)))
        copies = itertools.product(rows, repeat=math.prod(shape[:-1]))
        tables.append([np.array(copy).reshape(shape) for copy in copies])
    flips = [np.shape(identity.values[gauge.name]) for gauge in signs]
    choices = [list(itertools.product((1, -1), repeat=math.prod(shape))) for shape in flips]
    for moved in itertools.product(*tables):
        parts = {space.name: Part(p) for space, p in zip(spaces, moved, strict=True)}
        for chosen in itertools.product(*choices):
            values = {
                gauge.name: np.array(value).reshape(shape)
                for gauge, value, shape in zip(signs, chosen, flips, strict=True)
            }
            yield Element(group.spaces, parts, group.gauges, values)


def enumerate_orbit(structure, state):
    """Number of distinct states that the finite part makes."""
    names = sorted(state)
    found = set()
    for element in elements(structure):
        moved = weyl.act(element, structure, state)
        found.add(b"".join((moved[name].double() + 0.0).numpy().tobytes() for name in names))
    return len(found)


def table(spaces, axes, signs=()):
    """A structure of permutations and signs; a sign is (space, tensors) and acts wherever the space stands in them."""
    known = {space.name: space for space in spaces}
    gauges, weights = [], {}
    for at, (space, tensors) in enumerate(signs):
        gauge = Gauge(f"g{at}", space, GaugeKind.SIGN)
        gauges.append(gauge)
        weights[gauge.name] = {}
        for name in tensors:
            weights[gauge.name][name] = tuple(
                Weight(((dim, Block(0, ((space, axis.size, 1),))),), dim, 0)
                for dim, axis in enumerate(axes[name])
                if axis == Units(space, known[space].size)
            )
    return Structure(tuple(spaces), axes, gauges=tuple(gauges), weights=weights)


A, B = Units("a", 3), Units("b", 3)
SMALL = st.sampled_from([-1.0, 0.0, 1.0])


def states(structure, values=SMALL):
    shapes = {name: tuple(axis.size for axis in axes) for name, axes in structure.axes.items()}
    return st.fixed_dictionaries(
        {
            name: st.lists(values, min_size=math.prod(shape), max_size=math.prod(shape)).map(
                lambda entries, shape=shape: torch.tensor(entries, dtype=torch.float64).reshape(shape)
            )
            for name, shape in shapes.items()
        }
    )


def agrees(structure, state):
    found = orbit(structure, state)
    assert found.exact
    assert int(found.size) == enumerate_orbit(structure, state)
    assert int(found.size) * found.stabiliser_order == int(found.group_order)
    return found


TWO_LAYERS = table((Space("a", 3), Space("b", 3)), {"in": (A, Fixed(1)), "mid": (B, A), "out": (Fixed(1), B)})
ODD = Kind.HYPEROCTAHEDRAL
SIGNED = table(
    (Space("a", 3, ODD), Space("b", 2, ODD)),
    {"in": (A, Fixed(2)), "mid": (Units("b", 2), A), "out": (Fixed(1), Units("b", 2))},
    (("a", ("in", "mid")), ("b", ("mid", "out"))),
)
RECURRENT = table((Space("a", 3, ODD),), {"w": (A, A), "v": (A,)}, (("a", ("w", "v")),))
RESIDUAL = table(
    (Space("a", 3), Space("b", 2)),
    {"embed": (Fixed(1), A), "up": (Units("b", 2), A), "down": (A, Units("b", 2)), "skip": (A, A)},
)
TWO_SIGNS = table(
    (Space("a", 2, ODD), Space("b", 1, ODD)),
    {"in": (Units("a", 2),), "mid": (Units("b", 1), Units("a", 2)), "norm": (Units("a", 2),)},
    (("a", ("in", "norm")), ("a", ("norm", "mid")), ("b", ("mid",)), ("a", ("mid",))),
)
HEADS = table(
    (Space("h", 2), Space("d", 2, within=("h",)), Space("a", 2)),
    {"q": (Product((Units("h", 2), Units("d", 2))), Units("a", 2)), "o": (Units("h", 2), Units("d", 2))},
)
FIXED_HEADS = replace(
    table(
        (Space("h", 2, Kind.TRIVIAL), Space("d", 2, within=("h",)), Space("a", 2)),
        {"q": (Product((Units("h", 2), Units("d", 2))), Units("a", 2)), "o": (Units("h", 2), Units("d", 2))},
    )
)
NESTED = table(
    (Space("e", 2), Space("h", 2, within=("e",)), Space("d", 2, ODD, within=("e", "h"))),
    {"w": (Units("e", 2), Units("h", 2), Units("d", 2))},
)
GLOBAL = replace(
    TWO_LAYERS,
    gauges=(Gauge("all", "", GaugeKind.SIGN),),
    weights={"all": {name: (Weight((), -1, -1),) for name in ("in", "mid")}},
)
STRUCTURES = {
    "nested twice": NESTED,
    "one sign for tensors": GLOBAL,
    "two layers": TWO_LAYERS,
    "signs": SIGNED,
    "recurrent": RECURRENT,
    "residual": RESIDUAL,
    "two signs": TWO_SIGNS,
    "heads": HEADS,
    "fixed heads": FIXED_HEADS,
}


@pytest.mark.parametrize("name", STRUCTURES)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_size_is_what_enumeration_gives(name, data):
    agrees(STRUCTURES[name], data.draw(states(STRUCTURES[name])))


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "sigmoid convolution", "gates"])
@settings(max_examples=4, deadline=None, derandomize=True)
@given(data=st.data())
def test_flips_of_networks_are_enumerated_too(name, data):
    structure = gauged.CASES[name]().structure
    agrees(structure, data.draw(states(structure)))


def network(*layers, inputs=2):
    net = nn.Sequential(*layers).double().eval()
    structure = weyl.discover(net, (torch.zeros(1, inputs).double(),))
    torch.manual_seed(5)
    return structure, {name: torch.randn(t.shape).to(t.dtype) for name, t in net.state_dict().items()}


def perceptron(activation, *widths, inputs=2):
    layers, before = [], inputs
    for width in widths:
        layers += [nn.Linear(before, width), activation()]
        before = width
    return network(*layers, nn.Linear(before, 1), inputs=inputs)


def copy_unit(state, layer, source, target, sign=1):
    """Make a hidden unit of a perceptron equal to another, up to sign."""
    for name in (f"{layer}.weight", f"{layer}.bias"):
        state[name][target] = sign * state[name][source]
    state[f"{layer + 2}.weight"][:, target] = sign * state[f"{layer + 2}.weight"][:, source]


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.GELU, nn.ReLU])
def test_generic_states_have_the_whole_group_as_orbit(activation):
    structure, state = perceptron(activation, 5, 4)
    found = orbit(structure, state)
    assert found.stabiliser_order == 1 and found.group_order == structure.group.order
    assert int(found.size) == int(structure.group.order)
    assert found.dimension == structure.group.dimension
    assert not found.duplicates and not found.dead and not found.sign_fixed and not found.proportional


@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_constants_of_flips_in_two_layers_of_sigmoids_are_taken_up(data):
    """Biases differ by what flips move into them: equal units may have different biases."""
    structure, _ = perceptron(nn.Sigmoid, 2, 2, inputs=1)
    agrees(structure, data.draw(states(structure)))


def test_sigmoid_units_that_differ_by_a_flip_of_their_input_are_duplicates():
    structure, state = perceptron(nn.Sigmoid, 2, 2, inputs=1)
    state["0.weight"][0], state["0.bias"][0] = 0.0, 0.0
    state["2.weight"][:] = torch.tensor([[2.0, 7.0], [-2.0, 7.0]])
    state["2.bias"][:] = torch.tensor([1.0, 3.0])
    state["4.weight"][0] = 5.0
    found = orbit(structure, state)
    assert found.stabiliser_order == 2 and int(found.size) == enumerate_orbit(structure, state)
    state["2.bias"][:] = 1.0
    assert orbit(structure, state).stabiliser_order == 1


def test_duplicates_divide_by_factorials_of_their_numbers():
    structure, state = perceptron(nn.GELU, 9)
    for target in (1, 2, 3):
        copy_unit(state, 0, 0, target)
    copy_unit(state, 0, 4, 5)
    copy_unit(state, 0, 6, 7)
    found = orbit(structure, state)
    assert found.stabiliser_order == math.factorial(4) * 2 * 2
    assert int(found.size) == math.factorial(9) // 96
    assert found.duplicates == (("0", (), (0, 1, 2, 3)), ("0", (), (4, 5)), ("0", (), (6, 7)))


@pytest.mark.parametrize(("name", "index"), [("0.weight", (1, 0)), ("0.bias", 1), ("2.weight", (0, 1))])
def test_one_unit_in_the_last_place_tells_duplicates_apart(name, index):
    structure, state = perceptron(nn.GELU, 4)
    copy_unit(state, 0, 0, 1)
    assert orbit(structure, state).stabiliser_order == 2
    entry = state[name][index]
    state[name][index] = torch.nextafter(entry, entry + 1)
    found = orbit(structure, state)
    assert found.stabiliser_order == 1 and not found.duplicates


def test_duplicates_up_to_sign_count_for_odd_activations_only():
    for activation, order in ((nn.Tanh, 2), (nn.GELU, 1)):
        structure, state = perceptron(activation, 4)
        copy_unit(state, 0, 0, 1, sign=-1)
        assert orbit(structure, state).stabiliser_order == order


def test_a_dead_unit_is_fixed_by_its_flip():
    structure, state = perceptron(nn.Tanh, 4, 3)
    copy_unit(state, 0, 2, 2, sign=0)
    found = orbit(structure, state)
    assert found.stabiliser_order == 2 and found.sign_fixed == (("0 sign", (), (2,)),)
    state["2.weight"][1, 2] = 1e-300
    found = orbit(structure, state)
    assert found.stabiliser_order == 1 and not found.sign_fixed


def test_layers_that_can_only_move_together_are_counted():
    """Equal first-layer units, read each by one unit of the second layer: S_n acts on both at once."""
    structure, state = perceptron(nn.GELU, 6, 6)
    state["0.weight"][:], state["0.bias"][:], state["2.bias"][:], state["4.weight"][:] = 1.0, 2.0, 3.0, 4.0
    state["2.weight"] = torch.eye(6).double()
    found = orbit(structure, state)
    assert found.stabiliser_order == math.factorial(6) and not found.duplicates
    state["2.weight"] += torch.roll(torch.eye(6).double(), 1, 0)
    assert orbit(structure, state).stabiliser_order == 12
    state["4.weight"][0, 0] = 5.0
    assert orbit(structure, state).stabiliser_order == 2


def test_whole_heads_that_are_equal_move_with_what_is_inside():
    state = {"q": torch.tensor([[1.0, 2], [3, 4], [3, 4], [1, 2]]).double(), "o": torch.zeros(2, 2).double()}
    assert orbit(HEADS, state).stabiliser_order == 2
    assert orbit(FIXED_HEADS, state).stabiliser_order == 1
    state["o"][0, 0] = 1.0
    assert orbit(HEADS, state).stabiliser_order == 1


def test_signs_that_act_alike_everywhere_are_counted_once():
    twice = table((Space("a", 2, Kind.SIGNS),), {"v": (Units("a", 2),)}, (("a", ("v",)), ("a", ("v",))))
    found = orbit(twice, {"v": torch.tensor([1.0, 0.0])})
    assert (int(found.group_order), found.stabiliser_order, int(found.size)) == (4, 2, 2)


def test_more_than_two_signs_on_an_entry_are_solved():
    """A product of three signs: flips of any two of them leave it."""
    structure = table(
        (Space("a", 2, Kind.SIGNS),),
        {"v": (Units("a", 2),), "w": (Units("a", 2),), "x": (Units("a", 2),)},
        (("a", ("v", "w")), ("a", ("v", "x")), ("a", ("v",))),
    )
    state = {"v": torch.tensor([1.0, 2]), "w": torch.tensor([0.0, 1]), "x": torch.tensor([0.0, 0])}
    found = orbit(structure, state)
    assert int(found.size) == enumerate_orbit(structure, state) == 8
    assert found.stabiliser_order == 8


def test_a_budget_that_ends_gives_a_bound():
    structure, state = perceptron(nn.GELU, 6, 6)
    state = {name: torch.ones_like(tensor) for name, tensor in state.items()}
    state["2.weight"] = torch.eye(6).double()
    orders = set()
    for budget in (0, 1, 5, 8, 20, 40, 100, 5000):
        found = orbit(structure, state, budget=budget)
        assert math.factorial(6) % found.stabiliser_order == 0
        assert found.exact == (found.stabiliser_order == math.factorial(6)) or budget > 5
        orders.add(found.stabiliser_order)
        assert found.exact or "at most" in repr(found)
    assert found.exact and found.stabiliser_order == math.factorial(6) and len(orders) > 2
    assert not orbit(structure, state, budget=0).exact


def test_proportional_units_are_found_and_others_are_not():
    structure, state = perceptron(nn.ReLU, 5)
    copy_unit(state, 0, 0, 3)
    for name in ("0.weight", "0.bias"):
        state[name][3] *= 2.7
    state["2.weight"][:, 3] /= 2.7
    found = orbit(structure, state)
    assert found.proportional == (("0", (), (0, 3)),) and found.stabiliser_order == 1
    state["2.weight"][:, 3] *= 1.001
    assert not orbit(structure, state).proportional
    state["2.weight"][:, 3] /= -1.001
    assert not orbit(structure, state).proportional


def tangent_rank(structure, state):
    """Rank of central differences of the action along every generator of the scales."""
    rows = []
    for gauge in structure.gauges:
        if gauge.kind is not GaugeKind.SCALE:
            continue
        identity = structure.group.identity()
        shape = np.shape(identity.values[gauge.name])
        for index in np.ndindex(*shape):
            moved = []
            for step in (1e-4, -1e-4):
                values = np.ones(shape)
                values[index] = math.exp(step)
                element = Element(identity.spaces, identity, structure.gauges, {gauge.name: values})
                moved.append(weyl.act(element, structure, state))
            rows.append(
                torch.cat([(moved[0][n] - moved[1][n]).flatten() for n in state if state[n].is_floating_point()])
            )
    return int(torch.linalg.matrix_rank(torch.stack(rows), rtol=1e-7)) if rows else 0


def test_dead_units_lose_the_dimension_of_their_scale():
    structure, state = perceptron(nn.ReLU, 5, 4)
    copy_unit(state, 0, 2, 2, sign=0)
    found = orbit(structure, state)
    assert (found.dimension, found.group_dimension) == (8, 9) and found.dead == (("0 scale", (), (2,)),)
    assert tangent_rank(structure, state) == 8


@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_dimensions_of_scales_are_ranks_of_tangents(data):
    """Units that are joined by weights alone share a scale that does nothing."""
    structure, _ = perceptron(nn.ReLU, 3, 3)
    state = data.draw(states(structure, st.sampled_from([0.0, 0.0, 0.0, 1.0])))
    assert orbit(structure, state).dimension == tangent_rank(structure, state)


def test_dimensions_with_batch_normalisation_are_ranks_of_tangents():
    structure, state = network(
        nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)
    )
    state = {name: t.abs() if t.is_floating_point() else t for name, t in state.items()}
    scales = [gauge for gauge in structure.gauges if gauge.kind is GaugeKind.SCALE]
    only = replace(structure, gauges=tuple(scales), weights={g.name: structure.weights[g.name] for g in scales})
    for name in ("3.weight", "1.weight", "1.bias"):
        assert orbit(only, state).dimension == tangent_rank(only, state)
        state[name][1] = 0.0


@pytest.mark.parametrize("name", gauged.CASES)
def test_generic_dimensions_are_those_of_the_group(name):
    case = gauged.CASES[name]()
    found = orbit(case.structure, case.state)
    assert found.dimension == case.structure.group.dimension and found.dimension_exact


def test_what_would_be_too_large_is_bounded(monkeypatch):
    case = gauged.CASES["batch norm"]()
    structure, state = gauged.without(case.structure, "scale", "1.running_var"), case.state
    state["0.weight"][0] = 0.0
    assert orbit(structure, state).dimension == 8
    state["1.running_mean"][0] = state["0.bias"][0]
    exact = orbit(structure, state)
    assert exact.dimension == 7 and exact.dimension_exact
    monkeypatch.setattr("weyl.orbits._continuous.MOST_ENTRIES", 0)
    bound = orbit(structure, state)
    assert not bound.dimension_exact and bound.dimension >= exact.dimension
    assert "dimension at most" in repr(bound)


@pytest.mark.parametrize(
    ("name", "changes", "lost"),
    [
        ("bottleneck", {"0.weight": 1, "0.bias": 1}, 6),
        ("bottleneck", {"0.weight": 1, "0.bias": 1, "2.weight": 0}, 12),
        ("bottleneck", {"0.weight": 0, "0.bias": 0, "2.weight": 0}, 16),
        ("rms", {"2.weight": 0, "0.bias": 0, "0.weight": 1}, 3),
        ("layer norm", {"2.weight": 0, "0.bias": 0, "0.weight": 0}, 3),
    ],
)
def test_low_ranks_lose_dimensions_of_matrices(name, changes, lost):
    """A state of rank r on one side and s on the other is fixed by (n - r)(n - s) generators of GL."""
    case = gauged.CASES[name]()
    state = case.state
    for tensor, rank in changes.items():
        flat = torch.arange(1.0, state[tensor].numel() + 1).reshape(state[tensor].shape).double()
        state[tensor] = torch.zeros_like(flat) if not rank else torch.ones_like(flat)
    expected = case.structure.group.dimension - lost
    assert orbit(case.structure, state).dimension == expected


def test_zeros_of_both_signs_are_equal_and_other_types_are_compared_as_they_are():
    structure, state = perceptron(nn.GELU, 3)
    copy_unit(state, 0, 0, 1)
    state["0.bias"][0], state["0.bias"][1] = 0.0, -0.0
    assert orbit(structure, state).stabiliser_order == 2
    state["0.bias"][1] = 1e-12
    assert orbit(structure, state).stabiliser_order == 1
    rounded = {name: tensor.to(torch.bfloat16) for name, tensor in state.items()}
    assert orbit(structure, rounded).stabiliser_order == 1
    rounded["0.bias"] = state["0.bias"].to(torch.float16)
    assert orbit(structure, rounded).stabiliser_order == 2


def test_moving_along_the_orbit_changes_nothing():
    structure, state = perceptron(nn.Tanh, 5, 4)
    copy_unit(state, 0, 0, 1, sign=-1)
    copy_unit(state, 2, 1, 1, sign=0)
    before = orbit(structure, state)
    assert before.stabiliser_order == 4
    for seed in range(3):
        moved = weyl.act(structure.group.random(seed), structure, state)
        after = orbit(structure, moved)
        assert (after.size, after.stabiliser_order) == (before.size, before.stabiliser_order)


def test_results_are_shown_and_written():
    structure, state = perceptron(nn.ReLU, 9)
    for target in range(1, 9):
        copy_unit(state, 0, 0, target)
    found = orbit(structure, state)
    assert "… 3 more" in repr(found) and "duplicates: 0: 0, 1" in repr(found)
    data = json.loads(json.dumps(found.to_dict()))
    assert data["size"] == "1" and data["duplicates"] == [{"of": "0", "copy": [], "units": list(range(9))}]
    assert data["stabiliser_order"] == str(math.factorial(9)) and data["exact"]


def test_wrong_input_is_refused():
    structure, state = perceptron(nn.ReLU, 3)
    for wrong in (math.nan, math.inf):
        with pytest.raises(NotFiniteError, match=r"'0\.bias' has entries that are not finite"):
            orbit(structure, state | {"0.bias": torch.tensor([1.0, wrong, 0])})
    with pytest.raises(StructureError, match=r"has no tensor '2\.weight'"):
        orbit(structure, {name: tensor for name, tensor in state.items() if name != "2.weight"})
    with pytest.raises(StructureError, match="shape"):
        orbit(structure, state | {"0.bias": torch.zeros(4)})
    with pytest.raises(UsageError, match="tolerance"):
        orbit(structure, state, tolerance=0.0)
    with pytest.raises(UsageError, match="budget"):
        orbit(structure, state, budget=-1)


def test_signs_within_matrices_are_counted_like_permutations_within_them():
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5)).double()
    structure = weyl.discover(net, (torch.zeros(1, 4, dtype=torch.float64),))
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = orbit(structure, state)
    assert found.group_order == structure.group.order == Order.of({3: 1}, {2: 3})
    assert found.stabiliser_order == 1
    for name, index in (("0.weight", (1,)), ("0.bias", (1,)), ("1.weight", (slice(None), 1))):
        state[name][index] = 0
    assert orbit(structure, state).stabiliser_order == 2
