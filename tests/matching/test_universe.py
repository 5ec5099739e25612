"""``weyl.universe``: planted elements are recovered in the frame of the first state, and all pairs agree."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tests.laws.checks import double, random_state
from tests.laws.test_whole_group import PROGRAMS
from tests.matching.test_match import FINITE, assert_close, assert_equal, chain, residual
from torch import Tensor, nn

import weyl
from weyl.errors import MismatchError, NotFiniteError, UsageError
from weyl.matching._frames import distance
from weyl.testing import assert_untouched

State = dict[str, Tensor]

NETS = {
    "relu": lambda: chain(nn.ReLU, 4, 6, 5, 3),
    "tanh": lambda: chain(nn.Tanh, 4, 6, 5, 3),
    "gelu": lambda: chain(nn.GELU, 4, 6, 5, 3),
    "residual": residual,
    "attention": PROGRAMS["attention"],
    "experts": PROGRAMS["experts"],
}


def discovered(name: str) -> tuple[nn.Module, tuple[Tensor, ...], weyl.Structure]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, args = NETS[name]()
    model, args = model.double().eval(), double(args)
    return model, args, weyl.discover(model, args)


def twins(structure: weyl.Structure, a: State, count: int, **options: Any) -> list[State]:
    """The state itself, and images of it."""
    return [a, *(weyl.act(structure.group.random(seed + 20, **options), structure, a) for seed in range(count - 1))]


def framed(structure: weyl.Structure, found: weyl.Universe, states: list[State]) -> list[State]:
    return [weyl.act(g, structure, state) for g, state in zip(found.elements, states, strict=True)]


def assert_consistent(found: weyl.Universe) -> None:
    """Around any triangle the elements from state to state compose to the identity."""
    first = found.elements[0]
    one = first @ ~first
    to = {
        (i, j): ~found.elements[i] @ found.elements[j] for i, j in itertools.permutations(range(len(found.elements)), 2)
    }
    for i, j, k in itertools.permutations(range(len(found.elements)), 3):
        assert (to[i, j] @ to[j, k] @ to[k, i]).close(one, 1e-8)
    assert not any(g.close(one, 1e-8) for g in to.values())  # control: somebody moved


@pytest.mark.parametrize("name", NETS)
def test_planted_elements_are_recovered_in_the_frame_of_the_first(name: str) -> None:
    model, _, structure = discovered(name)
    for seed in range(2):
        a = random_state(model, seed)
        states = twins(structure, a, 4)
        found = weyl.universe(structure, states)
        assert found.elements[0].is_identity and len(found.elements) == 4
        assert found.coordinate_optimal
        for state in framed(structure, found, states):
            assert_close(structure, a, state, 1e-9)
        assert_consistent(found)


@pytest.mark.parametrize("name", ("relu", "tanh", "gelu", "residual"))
def test_permutations_and_signs_to_the_last_bit_in_any_order(name: str) -> None:
    model, _, structure = discovered(name)
    states = twins(structure, random_state(model, 3), 3, kinds=FINITE)
    for order in itertools.permutations(range(3)):
        listed = [states[n] for n in order]
        found = weyl.universe(structure, listed, kinds=FINITE)
        for state in framed(structure, found, listed):
            assert_equal(structure, listed[0], state)


@pytest.mark.parametrize("name", ("relu", "tanh", "residual", "attention"))
def test_unrelated_states_climb_and_stay_consistent(name: str) -> None:
    model, _, structure = discovered(name)
    states = [random_state(model, seed) for seed in range(4)]
    found = weyl.universe(structure, states)
    size = abs(found.objective)
    assert found.elements[0].is_identity
    assert all(y >= x - 1e-9 * size for x, y in itertools.pairwise(found.history))
    assert found.history[-1] == found.objective
    assert len(found.history) == found.rounds + 1
    assert_consistent(found)
    again = weyl.universe(structure, states)
    assert all(g.close(h) for g, h in zip(found.elements, again.elements, strict=True))
    # Control: these are no images of one state.
    assert all(distance(structure, states[0], state) > 0.1 for state in framed(structure, found, states)[1:])


def test_pairs_end_nearer_to_each_other_than_with_the_first_alone() -> None:
    """The sum over all pairs is what grows, and it is that of the states in one frame."""
    model, _, structure = discovered("tanh")
    grown = 0
    for seed in range(5):
        states = [random_state(model, 10 * seed + n) for n in range(4)]
        found = weyl.universe(structure, states)
        moved = framed(structure, found, states)
        names = [name for name, axes in structure.axes.items() if name != "4.bias"]
        total = sum(float((x[name] * y[name]).sum()) for x, y in itertools.combinations(moved, 2) for name in names)
        assert found.objective == pytest.approx(total, rel=1e-10)
        grown += found.history[-1] > found.history[0] + 1e-9
    assert grown >= 2


@pytest.mark.parametrize("name", ("relu", "tanh", "gelu"))
def test_two_states_are_a_match(name: str) -> None:
    model, _, structure = discovered(name)
    for seed in range(4):
        a, b = random_state(model, 2 * seed), random_state(model, 2 * seed + 1)
        found, alone = (weyl.universe(structure, [a, b], kinds=FINITE), weyl.match(structure, a, b, kinds=FINITE))
        assert found.objective >= alone.objective * (1 - 1e-12)
        assert found.objective == pytest.approx(alone.objective, rel=0.2)
        best = weyl.match(structure, a, b, start=found.elements[1], kinds=FINITE)
        assert best.objective == pytest.approx(found.objective, rel=1e-9)


@pytest.mark.parametrize("costs", ("activations", "both"))
def test_activations_bring_planted_states_together(costs: str) -> None:
    model, args, structure = discovered("tanh")
    a = random_state(model, 1)
    states = twins(structure, a, 3, kinds=FINITE)
    generator = torch.Generator().manual_seed(4)
    data = [torch.randn(20, *args[0].shape[1:], generator=generator, dtype=torch.float64) for _ in range(2)]
    found = weyl.universe(structure, states, costs=costs, model=model, data=data, kinds=FINITE)
    for state in framed(structure, found, states):
        assert_equal(structure, a, state)
    others = [random_state(model, seed) for seed in range(3)]
    found = weyl.universe(structure, others, costs=costs, model=model, data=data, kinds=FINITE)
    assert found.coordinate_optimal
    assert all(y >= x - 1e-9 * abs(x) for x, y in itertools.pairwise(found.history))


def test_kinds_restrict_what_is_used() -> None:
    model, _, structure = discovered("tanh")
    states = [random_state(model, seed) for seed in range(3)]
    for kinds in (("permute",), ("sign",), ("permute", "sign")):
        found = weyl.universe(structure, states, kinds=kinds)
        assert set().union(*(g.moves for g in found.elements)) == set(kinds)


def test_nothing_is_changed() -> None:
    model, args, structure = discovered("relu")
    states = [random_state(model, seed) for seed in range(3)]
    kept = [{name: t.clone() for name, t in state.items()} for state in states]
    with assert_untouched(model):
        weyl.universe(structure, states)
        weyl.universe(structure, states, costs="both", model=model, data=[args[0]])
    for state, before in zip(states, kept, strict=True):
        assert_equal(structure, before, state)


def test_what_is_no_universe_is_refused() -> None:
    model, _, structure = discovered("relu")
    a, b = random_state(model, 1), random_state(model, 2)
    for states in ([], [a]):
        with pytest.raises(UsageError):
            weyl.universe(structure, states)
    with pytest.raises(UsageError):
        weyl.universe(structure, [a, b], costs="activations")
    with pytest.raises(UsageError):
        weyl.universe(structure, [a, b], kinds=("rotate",))
    for bad in (0, 1, 2):
        states = [{name: t.clone() for name, t in s.items()} for s in (a, b, a)]
        states[bad]["0.bias"][0] = float("nan")
        with pytest.raises(NotFiniteError, match=r"'0\.bias'"):
            weyl.universe(structure, states)
    with pytest.raises(MismatchError, match=r"'0\.bias'"):
        weyl.universe(structure, [a, b, {name: t for name, t in b.items() if name != "0.bias"}])
