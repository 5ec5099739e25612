"""Sketches: no element changes them, small changes change them little, and other states have others."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.actions import gauged
from torch import nn

import weyl
from weyl.canonical._sketch import sketch
from weyl.errors import NotFiniteError, StructureError, UsageError
from weyl.groups import Element
from weyl.models.builtin import cnn, lstm, mlp, resnet, transformer

MOVES = ("permute", "sign", "scale", "mix", "translate")
BUILT_IN = {
    "mlp": lambda: mlp("12-16-17-4"),
    "mlp tanh": lambda: mlp("12-16-17-4", act="tanh", bias=False),
    "cnn": lambda: cnn("8-12", size=16),
    "resnet": lambda: resnet("4-8", blocks=1, size=16),
    "lstm": lambda: lstm(5, 6, bidirectional=True),
    "transformer": lambda: transformer(16, 2, 1),
    "post-norm, tied": lambda: transformer(16, 2, 1, norm_first=False, tied=True),
}


def general(state, seed):
    """A state in general position, tensors of about the size that they have."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            made[name] = tensor
        elif "var" in name:
            made[name] = torch.rand(tensor.shape, generator=generator).double() + 0.3
        else:
            size = float(tensor.double().square().mean().sqrt()) or 0.1
            made[name] = size * torch.randn(tensor.shape, generator=generator).double()
    return made


def noisy(state, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + size * tensor.square().mean().sqrt() * torch.randn(tensor.shape, generator=generator).double()
        if tensor.is_floating_point() and "var" not in name
        else tensor
        for name, tensor in state.items()
    }


def apart(a, b):
    return float((a - b).norm())


@pytest.fixture(scope="module", params=[*gauged.CASES, *BUILT_IN])
def case(request):
    """A structure, and two states that have nothing to do with each other."""
    if request.param in gauged.CASES:
        known = gauged.CASES[request.param]()
        structure, state = known.structure, known.state
    else:
        loaded = BUILT_IN[request.param]()
        structure, state = weyl.discover(loaded.module, loaded.args), loaded.module.state_dict()
    return structure, general(state, 1), general(state, 2)


def test_no_element_changes_it_and_another_state_does(case):
    structure, state, other = case
    mine = sketch(structure, state)
    for seed in range(2):
        twin = weyl.act(structure.group.random(seed), structure, state)
        assert any(not torch.equal(twin[name], tensor) for name, tensor in state.items())
        assert apart(mine, sketch(structure, twin)) < 1e-9
    assert apart(mine, sketch(structure, other)) > 0.8


def test_small_changes_change_it_in_proportion(case):
    structure, state, other = case
    mine = sketch(structure, state)
    far, near = (apart(mine, sketch(structure, noisy(state, size))) for size in (1e-4, 1e-6))
    assert 1e-5 < far < 2e-3 and 90 < far / near < 110
    assert far < apart(mine, sketch(structure, other)) / 400


def test_half_of_a_move_changes_it(case):
    """Each kind of move, applied to one tensor alone."""
    structure, state, _ = case
    mine = sketch(structure, state)
    changed = []
    for move in MOVES:
        element = structure.group.random(3, kinds=(move,))
        moved = weyl.act(element, structure, state)
        names = [n for n, t in state.items() if t.is_floating_point() and not torch.equal(moved[n], t)]
        if len({state[name].data_ptr() for name in names}) > 1:
            name = max(names, key=lambda n: state[n].numel())
            changed.append(apart(mine, sketch(structure, {**state, name: moved[name]})))
    assert changed and min(changed) > 1e-3


def relu(*widths):
    torch.manual_seed(len(widths))
    net = nn.Sequential(*[one for a, b in pairwise(widths) for one in (nn.Linear(a, b), nn.ReLU())])
    net = net[:-1].double()
    return weyl.discover(net, (torch.zeros(1, widths[0]).double(),)), net.state_dict()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 6), min_size=3, max_size=5), st.sampled_from([1, 5, 64]))
def test_a_unit_vector_that_the_group_leaves_alone(seed, widths, dim):
    structure, state = relu(*widths)
    state = general(state, seed)
    mine = sketch(structure, state, dim)
    assert mine.shape == (dim,) and mine.dtype == torch.float64
    assert abs(float(mine.norm()) - 1) < 1e-12
    assert apart(mine, sketch(structure, weyl.act(structure.group.random(seed), structure, state), dim)) < 1e-8


def test_scales_of_dead_units_are_nothing():
    """Where one side of a unit is zero there is no normal gauge; the size of the other says nothing."""
    structure, state = relu(5, 6, 4, 3)
    state = general(state, 0)
    state["2.weight"][:, 2] = 0
    mine = sketch(structure, state)
    larger = {name: tensor.clone() for name, tensor in state.items()}
    larger["0.weight"][2] *= 7
    larger["0.bias"][2] *= 7
    assert apart(mine, sketch(structure, larger)) < 1e-12
    larger["0.weight"][3] *= 7
    assert apart(mine, sketch(structure, larger)) > 1e-2, "a unit that is read counts"
    alive = {name: tensor.clone() for name, tensor in state.items()}
    alive["2.weight"][:, 2] = 1e-10
    assert 0 < apart(mine, sketch(structure, alive)) < 1e-3, "the limit is near"


@pytest.mark.parametrize("rank", [0, 1])
def test_matrices_with_a_side_of_lower_rank(rank):
    net = nn.Sequential(nn.Linear(5, 3, bias=False), nn.Linear(3, 4)).double()
    structure = weyl.discover(net, (torch.zeros(1, 5).double(),))
    state = general(net.state_dict(), 0)
    left, _, right = torch.linalg.svd(state["1.weight"], full_matrices=False)
    state["1.weight"] = left[:, :rank] @ right[:rank]
    mine = sketch(structure, state)
    for seed in range(3):
        twin = weyl.act(structure.group.random(seed), structure, state)
        assert apart(mine, sketch(structure, twin)) < 1e-9
    unread = {**state, "0.weight": state["0.weight"] + right[rank:].T @ torch.ones(3 - rank, 5).double()}
    assert apart(mine, sketch(structure, unread)) < 1e-9, "what the second layer does not read"
    other = {**state, "1.bias": state["1.bias"].flip(0)}
    assert apart(mine, sketch(structure, other)) > 0.1


def test_the_same_on_every_machine():
    """Numbers of a state without random numbers of torch; and no random state is touched."""
    structure, state = relu(3, 4, 2)
    state = {n: torch.arange(1.0, t.numel() + 1).double().sin().reshape(t.shape) for n, t in state.items()}
    before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    mine = sketch(structure, state, 4)
    assert torch.equal(before, torch.get_rng_state()) and (legacy == np.random.get_state()[1]).all()
    torch.testing.assert_close(mine, torch.tensor(GOLDEN, dtype=torch.float64), rtol=0, atol=1e-9)
    assert torch.equal(mine, sketch(structure, state, 4))


GOLDEN = [-0.365696302107, 0.236715549796, 0.752138959913, -0.494488572256]


def test_the_state_is_not_changed_and_may_be_of_any_precision():
    structure, state = relu(5, 6, 4)
    state = general(state, 3)
    before = {name: tensor.clone() for name, tensor in state.items()}
    mine = sketch(structure, state)
    assert all(torch.equal(before[name], tensor) for name, tensor in state.items())
    single = sketch(structure, {name: tensor.float() for name, tensor in state.items()})
    assert single.dtype == torch.float64 and 0 < apart(mine, single) < 1e-6
    half = sketch(structure, {name: tensor.bfloat16() for name, tensor in state.items()})
    assert 1e-4 < apart(mine, half) < 0.05
    assert torch.equal(mine, sketch(structure, {**state, "step": torch.tensor(3)}))
    zero = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    assert not sketch(structure, zero).any()


def test_copies_of_what_is_tied_are_one_tensor():
    """Files leave out ties, or hold copies; a matrix that only looks like another one is another one."""
    loaded = transformer(16, 2, 1, tied=True)
    structure, state = weyl.discover(loaded.module, loaded.args), loaded.module.state_dict()
    pairs = [(a, b) for a in state for b in state if a < b and state[a].data_ptr() == state[b].data_ptr()]
    assert pairs
    mine = sketch(structure, state)
    copied = {name: tensor.clone() for name, tensor in state.items()}
    assert apart(mine, sketch(structure, copied)) < 1e-12
    copied[pairs[0][0]][0] += 0.1
    assert apart(mine, sketch(structure, copied)) > 1e-3


def test_fine_tuning_stays_near_and_another_training_does_not():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=generator)
    y = (x @ torch.randn(8, 4, generator=generator)).argmax(1)

    def trained(net, steps, rate):
        optimizer = torch.optim.SGD(net.parameters(), lr=rate)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
        return copy.deepcopy(net)

    nets = []
    for seed in range(3):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            nets.append(trained(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)), 200, 0.5))
    structure = weyl.discover(nets[0], (x[:1],))
    ends = [sketch(structure, net.state_dict()) for net in nets]
    independent = min(apart(ends[i], ends[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    tuned = [sketch(structure, trained(net, 5, 0.05).state_dict()) for net in nets]
    nearby = max(apart(a, b) for a, b in zip(ends, tuned, strict=True))
    assert 0 < nearby < independent / 20


def test_what_cannot_be_sketched():
    structure, state = relu(5, 6, 4)
    for dim in (0, -1, 2.5, True):
        with pytest.raises(UsageError, match="dim must be a whole number"):
            sketch(structure, state, dim)
    with pytest.raises(NotFiniteError, match="not finite"):
        sketch(structure, {**state, "0.bias": state["0.bias"] * float("nan")})
    with pytest.raises(StructureError, match=r"no tensor '2\.bias'"):
        sketch(structure, {name: tensor for name, tensor in state.items() if name != "2.bias"})
    with pytest.raises(StructureError, match="shape"):
        sketch(structure, relu(5, 7, 4)[1])
    with pytest.raises(StructureError, match="real numbers"):
        sketch(structure, {**state, "0.bias": state["0.bias"] * 1j})
    with pytest.raises(StructureError):
        sketch(Element, state)
