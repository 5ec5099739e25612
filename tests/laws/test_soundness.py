"""Whatever the architecture: every discovered element keeps the function, and the laws of a group action hold."""

from __future__ import annotations

import copy
from collections import Counter

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from tests.laws.architectures import Chain, architectures
from tests.laws.checks import control_error, error, outputs, random_state, storage
from torch import Tensor, nn

import weyl
from weyl.proof import exact_element

Drawn = tuple[Chain, tuple[Tensor, ...]]
TOLERANCE = 1e-8
# derandomize: a failure on one machine is a failure on all. Shrinking takes minutes: only where there is time for it.
quick = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
long = settings(quick, max_examples=400, phases=[Phase.generate, Phase.shrink])
few = settings(quick, max_examples=10)
drawn = given(architectures(), st.integers(0, 10**6))


class Tally:
    """How often a wrong element could be made, and was seen."""

    def __init__(self) -> None:
        self.drawn = self.made = self.seen = self.proved = self.exact = 0
        self.kinds: Counter[str] = Counter()
        self.unseen: Counter[str] = Counter()

    def check(self, example: Drawn, seed: int) -> None:
        """Random elements keep the function; a wrong one is counted."""
        model, args = example
        structure = weyl.discover(model, args)
        state = random_state(model, seed)
        before = outputs(model, state, args)
        for number in (seed, seed + 1):
            after = outputs(model, weyl.act(structure.group.random(number), structure, state), args)
            assert error(before, after) < TOLERANCE, f"unsound: {error(before, after):.1e}\n{model}\n{structure!r}"
        proof = weyl.verify(model, args, structure=structure, trials=2, seed=seed)
        assert proof.verdict != "fails", f"{proof}\n{model}\n{structure!r}"
        self.drawn += 1
        self.proved += proof.holds
        self.exact += proof.exact is True
        for move, found in proof.kinds.items():
            assert not found.max_relative_error > 1e-12, f"{move} is worse conditioned than it should be: {proof}"
            self.kinds[move] += 1
            self.unseen[move] += not found.detected
        if not structure.group.trivial:
            self.made += 1
            self.seen += control_error(model, structure, state, args) > 100 * TOLERANCE


def check_many(budget: settings) -> None:
    tally = Tally()

    @drawn
    @budget
    def check(example: Drawn, seed: int) -> None:
        tally.check(example, seed)

    check()
    # a random network may be dead (a softmax over equal rows, a switched-off unit), so that nothing at all is seen
    assert tally.made > budget.max_examples / 2
    assert tally.seen >= 0.9 * tally.made
    assert tally.proved >= 0.8 * tally.drawn
    # to the last bit, where all operators of a network are exact on integers
    assert tally.exact >= 1
    for move in ("permute", "sign", "scale", "mix", "translate"):
        assert tally.kinds[move] >= 1, f"no network had a {move}"
        assert tally.unseen[move] <= 0.1 * tally.kinds[move] + 1


def test_every_element_keeps_the_function() -> None:
    check_many(quick)


@pytest.mark.slow
def test_every_element_keeps_the_function_at_length() -> None:
    check_many(long)


@drawn
@few
def test_the_action_obeys_the_laws_of_a_group(example: Drawn, seed: int) -> None:
    model, args = example
    structure = weyl.discover(model, args)
    group = structure.group
    state = random_state(model, seed)
    one = group.identity()

    def act(element: weyl.Element, s: dict[str, Tensor]) -> dict[str, Tensor]:
        return weyl.act(element, structure, s)

    same(act(one, state), state)
    g, h = (exact_element(structure, seed + i, integers=False) for i in range(2))
    same(act(~g, act(g, state)), state)
    same(act(g @ h, state), act(g, act(h, state)))
    g, h, k = (group.random(seed + i, exact=True) for i in range(3))
    assert (g @ h) @ k == g @ (h @ k)
    assert (~g @ g).is_identity and (g @ ~g).is_identity and g @ one == g
    assert ~(g @ h) == ~h @ ~g
    g, h, k = (group.random(seed + i) for i in range(3))
    near(act(~g, act(g, state)), state)
    near(act(g @ h, state), act(g, act(h, state)))
    assert ((g @ h) @ k).close(g @ (h @ k))
    assert (~g @ g).close(one) and (g @ ~g).close(one) and g @ one == g
    assert (~(g @ h)).close(~h @ ~g)


@drawn
@few
def test_acting_changes_entries_and_nothing_else(example: Drawn, seed: int) -> None:
    model, args = example
    structure = weyl.discover(model, args)
    state = {n: t.float() if t.is_floating_point() else t for n, t in random_state(model, seed).items()}
    kept = {n: t.clone() for n, t in state.items()}
    moved = weyl.act(structure.group.random(seed), structure, state)
    same(state, kept)
    assert list(moved) == list(state)
    for name, tensor in moved.items():
        assert (tensor.dtype, tensor.shape, tensor.device) == (state[name].dtype, state[name].shape, state[name].device)
    ties = {a: [b for b in state if storage(state[a]) == storage(state[b])] for a in state}
    assert ties == {a: [b for b in moved if storage(moved[a]) == storage(moved[b])] for a in moved}
    permuted = weyl.act(structure.group.random(seed, kinds=("permute",)), structure, state)
    same(*({n: t.flatten().sort().values for n, t in s.items()} for s in (permuted, state)))


@drawn
@few
def test_a_structure_is_data(example: Drawn, seed: int) -> None:
    model, args = example
    structure = weyl.discover(model, args)
    assert weyl.Structure.from_json(structure.to_json()) == structure
    assert hash(weyl.Structure.from_json(structure.to_json())) == hash(structure)
    assert weyl.discover(model, args) == structure
    assert weyl.Structure.from_json(structure.to_json()).group.random(seed) == structure.group.random(seed)


@drawn
@few
def test_discovery_leaves_the_model_alone(example: Drawn, seed: int) -> None:
    model, args = example
    model.train()
    seen: list[int] = []
    model.steps[0].register_forward_hook(lambda *_: seen.append(1))
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    before = copy.deepcopy(model.state_dict())
    given = tuple(a.clone() for a in args)
    torch.manual_seed(seed)
    states = torch.get_rng_state()
    weyl.discover(model, args)
    assert torch.equal(torch.get_rng_state(), states)
    assert all(module.training for module in model.modules())
    assert len(model.steps[0]._forward_hooks) == 1 and not seen
    assert torch.equal(next(model.parameters()).grad, torch.ones_like(next(model.parameters())))
    assert all(p.requires_grad for p in model.parameters())
    same(model.state_dict(), before)
    same(dict(enumerate(args)), dict(enumerate(given)))


def near(a: dict, b: dict) -> None:
    """Equal up to rounding, relative to the largest entry of a tensor or 1."""
    assert a.keys() == b.keys()
    for key in a:
        size = max([1.0, *b[key].flatten().abs().double().tolist()])
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=1e-12 * size)


def same(a: dict, b: dict) -> None:
    """Equal to the last bit, under the same keys."""
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0)


def test_the_property_can_fail() -> None:
    """Control: with the structure of a network that lacks its residual link the property does not hold."""

    class Block(nn.Module):
        def __init__(self, link: bool) -> None:
            super().__init__()
            self.a, self.b, self.link = nn.Linear(4, 4), nn.Linear(4, 2), link

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).relu() + (x if self.link else 0))

    x = torch.randn(3, 4, dtype=torch.float64)
    with_link = Block(True).double()
    assert weyl.discover(with_link, (x,)).group.trivial
    wrong = weyl.discover(Block(False).double(), (x,))
    state = random_state(with_link)
    before = outputs(with_link, state, (x,))
    assert error(before, outputs(with_link, weyl.act(next(wrong.group.generators()), wrong, state), (x,))) > 1e-3


def test_the_strategy_makes_what_it_says() -> None:
    """Most networks have a symmetry, and all kinds of steps come up."""
    orders: list[bool] = []
    plans: set[str] = set()

    @given(architectures())
    @settings(quick, max_examples=40)
    def collect(example: Drawn) -> None:
        model, args = example
        plans.update(model.plan)
        orders.append(weyl.discover(model, args).group.trivial)

    collect()
    assert sum(orders) < 0.7 * len(orders)
    assert len(plans) > 25, sorted(plans)
