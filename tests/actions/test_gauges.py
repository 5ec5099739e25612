"""Acting with gauge values: functions are preserved, nothing less preserves them, and the laws of an action hold."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from tests.actions import gauged
from torch import nn

import weyl
from weyl.groups import Element, Gauge, GaugeKind, Kind, Space
from weyl.structure import Block, Fixed, Product, Structure, Units, Weight


@pytest.fixture(params=list(gauged.CASES))
def case(request):
    return gauged.CASES[request.param]()


def same(a, b, tolerance=1e-12):
    return all(torch.allclose(a[k].double(), b[k].double(), rtol=tolerance, atol=tolerance) for k in b)


def test_functions_are_preserved(case):
    outputs = case.outputs(case.state)
    for seed in range(3):
        element = case.structure.group.random(seed)
        moved = weyl.act(element, case.structure, case.state)
        assert not same(moved, case.state, 1e-2)
        torch.testing.assert_close(case.outputs(moved), outputs, rtol=1e-12, atol=1e-12)


def test_no_weight_can_be_left_out(case):
    outputs = case.outputs(case.state)
    for gauge, tensors in case.structure.weights.items():
        for tensor in tensors:
            poorer = gauged.without(case.structure, gauge, tensor)
            moved = [weyl.act(poorer.group.random(seed), poorer, case.state) for seed in range(3)]
            assert max((case.outputs(state) - outputs).abs().max() for state in moved) > 1e-3, (gauge, tensor)


def test_the_state_is_not_written_to(case):
    before = {name: tensor.clone() for name, tensor in case.state.items()}
    weyl.act(case.structure.group.random(1), case.structure, case.state)
    assert all(torch.equal(before[name], tensor) for name, tensor in case.state.items())


def test_composition_and_inverse(case):
    group, act = case.structure.group, weyl.act
    for exact in (False, True):
        g, h = group.random(5, exact=exact), group.random(6, exact=exact)
        once = act(g @ h, case.structure, case.state)
        twice = act(g, case.structure, act(h, case.structure, case.state))
        back = act(~g, case.structure, act(g, case.structure, case.state))
        other = act(h @ g, case.structure, case.state)
        if exact and not case.rounds:
            assert all(torch.equal(once[name], twice[name]) for name in twice)
            assert all(torch.equal(back[name], tensor) for name, tensor in case.state.items())
        assert same(once, twice)
        assert same(back, case.state, 1e-11)
        assert same(other, twice) == case.commutative


def test_identity_values_leave_the_same_objects(case):
    state = case.state
    moved = weyl.act(case.structure.group.identity(), case.structure, state)
    assert all(moved[name] is tensor for name, tensor in state.items())
    moved = weyl.act(case.structure.group.random(1), case.structure, state)
    assert not all(moved[name] is tensor for name, tensor in state.items())


@pytest.mark.parametrize("field", ["absorptions", "offsets"])
def test_constants_are_needed(field):
    case = gauged.sigmoid() if field == "absorptions" else gauged.batch_norm()
    poorer = replace(case.structure, **{field: {}})
    moved = weyl.act(poorer.group.random(1), poorer, case.state)
    assert (case.outputs(moved) - case.outputs(case.state)).abs().max() > 1e-3


NESTED = (Space("h", 2), Space("d", 3, Kind.MONOMIAL, within=("h",)), Space("e", 2, Kind.POSITIVE_DIAGONAL))
PIECES = {"h": Units("h", 2), "d": Units("d", 3), "e": Units("e", 2), "1": Fixed(2)}


@pytest.mark.parametrize("text", ["hd", "h,d", "d,h", "h1d,e", "e,d,1,h", "1hde", "e1,h,1d1"])
@pytest.mark.parametrize("exponent", [1, -1, 2])
def test_against_the_definition(text, exponent):
    """Every entry times the value of its own copy and unit, found by taking positions apart."""
    letters = [list(part) for part in text.split(",")]
    axes = tuple(Product(tuple(PIECES[x] for x in part)) for part in letters)
    sizes = [[PIECES[x].size for x in part] for part in letters]
    blocks = []
    for dim, (names, counts) in enumerate(zip(letters, sizes, strict=True)):
        steps = [math.prod(counts[i + 1 :]) for i in range(len(counts))]
        factors = tuple((x if x in "hde" else None, n, s) for x, n, s in zip(names, counts, steps, strict=True))
        blocks.append((dim, Block(0, factors)))
    own = next((dim, part.index("d")) for dim, part in enumerate(letters) if "d" in part)
    homes = [blocks[dim] for dim, part in enumerate(letters) if {"h", "d"} & set(part)]
    structure = Structure(
        NESTED,
        {"w": axes},
        gauges=(Gauge("c", "d", GaugeKind.SCALE), Gauge("s", "d", GaugeKind.SIGN)),
        weights={name: {"w": (Weight(tuple(homes), *own, exponent),)} for name in "cs"},
    )
    element = structure.group.random(2)
    still = Element(element.spaces, structure.group.identity(), element.gauges, {n: element.values[n] for n in "cs"})
    tensor = torch.randn([axis.size for axis in axes], dtype=torch.float64)
    expected = tensor.clone()
    for index in product(*(range(n) for part in sizes for n in part)):
        named = dict(zip("".join("".join(p) for p in letters), index, strict=True)) | {"1": 0}
        coordinates = iter(index)
        place = tuple(int(np.ravel_multi_index([next(coordinates) for _ in part], part)) for part in sizes)
        both = element.values["c"] * element.values["s"]
        expected[place] *= both[named["h"], named["d"]] ** exponent
    torch.testing.assert_close(weyl.act(still, structure, {"w": tensor})["w"], expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float8_e5m2])
def test_low_precision(dtype):
    case = gauged.CASES["relu"]()
    state = {name: tensor.to(dtype) for name, tensor in case.state.items()}
    group = case.structure.group
    exact = group.random(1, exact=True)
    moved = weyl.act(exact, case.structure, state)
    assert all(tensor.dtype is dtype for tensor in moved.values())
    wide = weyl.act(exact, case.structure, {name: tensor.double() for name, tensor in state.items()})
    assert all(torch.equal(moved[name].double(), wide[name].to(dtype).double()) for name in state)
    if dtype is not torch.float8_e5m2:
        back = weyl.act(~exact, case.structure, moved)
        assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    rough = weyl.act(group.random(1), case.structure, state)
    fine = weyl.act(group.random(1), case.structure, {name: tensor.double() for name, tensor in state.items()})
    assert same(rough, fine, torch.finfo(dtype).eps)
    assert not same(rough, fine, torch.finfo(dtype).eps / 64)


def test_integers_are_permuted_only():
    h = Space("h", 4, Kind.HYPEROCTAHEDRAL)
    weights = {"g": {"n": gauged.units(h), "x": gauged.units(h)}}
    axes = {"n": (Units("h", 4),), "x": (Units("h", 4),)}
    structure = Structure((h,), axes, gauges=(Gauge("g", "h", GaugeKind.SIGN),), weights=weights)
    element = structure.group.random(1)
    moved = weyl.act(element, structure, {"n": torch.arange(1, 5), "x": torch.arange(1.0, 5.0)})
    order = torch.from_numpy(element["h"].permutation + 1)
    assert torch.equal(moved["n"], order)
    assert torch.equal(moved["x"], order * torch.from_numpy(element.values["g"].copy()))
    assert not torch.equal(moved["x"], order.float())


def test_ties_stay():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
            self.again = self.b

        def forward(self, x):
            return self.b(self.a(x).sigmoid()) + self.again(self.a(-x).sigmoid())

    simple = gauged.sigmoid().structure
    names = {"0.weight": "a.weight", "0.bias": "a.bias", "2.weight": "b.weight", "2.bias": "b.bias"}
    tied = {"b.weight": "again.weight", "b.bias": "again.bias"}
    axes = {names[name]: axes for name, axes in simple.axes.items()}
    weights = {names[name]: weight for name, weight in simple.weights["g"].items()}
    weights["again.weight"] = weights["b.weight"]
    (first,) = simple.absorptions["g"]
    absorptions = tuple(
        replace(first, bias=b, weight=w) for b, w in (("b.bias", "b.weight"), tuple(tied.values())[::-1])
    )
    structure = replace(
        simple,
        axes=axes | {tied[name]: axes[name] for name in tied},
        weights={"g": weights},
        absorptions={"g": absorptions},
    )
    net, x = Twice().double(), torch.randn(5, 3).double()
    moved = weyl.act(structure.group.random(1), structure, net.state_dict())
    assert all(moved[one] is moved[two] for one, two in tied.items())
    outputs = net(x)
    net.load_state_dict(moved)
    torch.testing.assert_close(net(x), outputs, rtol=1e-12, atol=1e-12)


def test_a_part_of_the_state_will_do_unless_a_constant_moves():
    case = gauged.sigmoid()
    flip, still = case.structure.group.random(1), case.structure.group.random(1, kinds=["permute"])
    whole = weyl.act(flip, case.structure, case.state)
    assert torch.equal(weyl.act(flip, case.structure, {"0.bias": case.state["0.bias"]})["0.bias"], whole["0.bias"])
    for name in ("2.weight", "2.bias"):
        with pytest.raises(weyl.StructureError, match=f"both together, the state has only '{name}'"):
            weyl.act(flip, case.structure, {name: case.state[name]})
        assert list(weyl.act(still, case.structure, {name: case.state[name]})) == [name]


def test_an_element_of_other_gauges_is_refused():
    case = gauged.CASES["tanh"]()
    other = gauged.CASES["relu"]().structure
    assert other.group.spaces != case.structure.group.spaces or other.gauges != case.structure.gauges
    renamed = replace(case.structure, gauges=(Gauge("k", "h", GaugeKind.SIGN),), weights={})
    with pytest.raises(weyl.StructureError, match="another group"):
        weyl.act(renamed.group.random(1), case.structure, case.state)


def test_states_that_are_not_contiguous():
    case = gauged.CASES["heads"]()
    element = case.structure.group.random(3)
    strided = {name: tensor.T.contiguous().T if tensor.dim() == 2 else tensor for name, tensor in case.state.items()}
    assert not strided["0.weight"].is_contiguous()
    plain, moved = (weyl.act(element, case.structure, state) for state in (case.state, strided))
    assert all(torch.equal(plain[name], moved[name]) for name in plain)


def test_gradients_pass_through():
    case = gauged.CASES["relu"]()
    element = case.structure.group.random(3)
    weight = case.state["0.weight"].clone().requires_grad_()
    weyl.act(element, case.structure, {"0.weight": weight})["0.weight"].sum().backward()
    back = np.empty(4)
    back[element["h"].permutation] = element.values["g"]
    torch.testing.assert_close(weight.grad, torch.from_numpy(back)[:, None].expand(4, 3))
