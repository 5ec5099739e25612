"""What counts and what does not: zeros, dtypes, layouts, ties, counters, order of names, lazy states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.checks import random_state
from tests.laws.nets import Net, lin
from torch import Tensor, nn

import weyl
from weyl.canonical import canonicalize, fingerprint
from weyl.errors import NotFiniteError, StructureError, UsageError

State = dict[str, Tensor]


def network(dtype: torch.dtype = torch.float64) -> tuple[weyl.Structure, State]:
    net = nn.Sequential(lin(3, 4), nn.Tanh(), lin(4, 5), nn.GELU(), lin(5, 2)).double().eval()
    structure = weyl.discover(net, (torch.zeros(1, 3, dtype=torch.float64),))
    return structure, {name: tensor.to(dtype) for name, tensor in random_state(net, 3).items()}


class Lazy(Mapping[str, Tensor]):
    """Gives every tensor anew, and says beforehand what it will be."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.reads: list[str] = []

    def peek(self, name: str) -> Tensor:
        return torch.empty_like(self._state[name], device="meta")

    def __getitem__(self, name: str) -> Tensor:
        self.reads.append(name)
        return self._state[name].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_copies_in_any_precision_agree(dtype: torch.dtype) -> None:
    structure, state = network(dtype)
    copies = [weyl.act(structure.group.random(seed), structure, state) for seed in range(3)]
    raw = [{name: t.view(torch.uint8) for name, t in copy.items()} for copy in copies]
    assert not torch.equal(raw[0]["0.weight"], raw[1]["0.weight"])
    assert {fingerprint(structure, copy) for copy in copies} == {fingerprint(structure, state)}
    form = canonicalize(structure, copies[0])
    assert all(form.state[name].dtype == dtype for name in state) and form.exact


def test_every_precision_is_another_state() -> None:
    structure, state = network()
    small = {name: t.to(torch.float8_e5m2) for name, t in state.items()}
    assert len({fingerprint(structure, {n: t.to(dtype) for n, t in small.items()}) for dtype in DTYPES}) == len(DTYPES)


def test_the_sign_of_zero_does_not_count_but_the_least_number_does() -> None:
    structure, state = network()
    state["0.weight"][1, 2] = 0.0
    state["0.weight"][2, :] = 0.0
    state["0.bias"][2] = 0.0
    plain = fingerprint(structure, state)
    state["0.weight"][1, 2] = -0.0
    state["0.weight"][2, 1:] = -0.0
    assert fingerprint(structure, state) == plain
    state["0.weight"][1, 2] = 5e-324
    assert fingerprint(structure, state) != plain


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["0.weight", "2.weight", "4.bias"])
def test_numbers_that_are_not_finite_are_refused(name: str, wrong: float) -> None:
    structure, state = network()
    state[name].view(-1)[-1] = wrong
    for function in (fingerprint, canonicalize):
        with pytest.raises(NotFiniteError, match=f"'{name}' has NaN or infinite"):
            function(structure, state)


def test_what_is_missing_or_of_another_shape_is_refused() -> None:
    structure, state = network()
    for function in (fingerprint, canonicalize):
        with pytest.raises(StructureError, match=r"no tensor '2\.bias'"):
            function(structure, {name: t for name, t in state.items() if name != "2.bias"})
        with pytest.raises(StructureError, match="shape"):
            function(structure, state | {"2.bias": torch.zeros(6)})
    with pytest.raises(UsageError, match="kinds has 'shift'"):
        canonicalize(structure, state, kinds=("permute", "shift"))


def test_layout_order_of_names_gradients_and_strangers_do_not_count() -> None:
    structure, state = network()
    plain = fingerprint(structure, state)
    turned = {name: t.mT.contiguous().mT if t.dim() == 2 else t for name, t in state.items()}
    assert not turned["0.weight"].is_contiguous()
    assert fingerprint(structure, turned) == plain
    assert fingerprint(structure, dict(reversed(list(state.items())))) == plain
    assert fingerprint(structure, {name: nn.Parameter(t) for name, t in state.items()}) == plain
    assert fingerprint(structure, state | {"stranger": torch.ones(3)}) == plain
    assert fingerprint(structure, state | {"0.bias": state["0.bias"] + 1}) != plain


def test_nothing_is_changed() -> None:
    structure, state = network()
    before = {name: t.clone() for name, t in state.items()}
    fingerprint(structure, state)
    canonicalize(structure, state)
    assert all(torch.equal(state[name], before[name]) for name in state)


def test_counters_of_batches_do_not_count_and_other_whole_numbers_do() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).double().eval()
    structure = weyl.discover(net, (torch.ones(1, 1, 2, 2, dtype=torch.float64),))
    state = random_state(net, 1)
    plain = fingerprint(structure, state)
    assert fingerprint(structure, state | {"1.num_batches_tracked": torch.tensor(7)}) == plain
    assert fingerprint(structure, state | {"1.running_mean": state["1.running_mean"] + 1}) != plain

    whole = Net(lambda n, x: n.o(n.a(x) * n.k.to(x)), a=lin(3, 4), o=lin(4, 2), k=nn.Parameter(torch.ones(4)))
    del whole.k
    whole.register_buffer("k", torch.tensor([3, 1, 2, 1]))
    whole = whole.double().eval()
    structure = weyl.discover(whole, (torch.ones(1, 3, dtype=torch.float64),))
    state = random_state(whole, 1)
    plain = fingerprint(structure, state)
    for seed in range(3):
        copy = weyl.act(structure.group.random(seed, kinds=["permute"]), structure, state)
        assert fingerprint(structure, copy) == plain
    assert fingerprint(structure, state | {"k": torch.tensor([3, 1, 2, 2])}) != plain


# ------------------------------------------------------------------ ties
class Tied(nn.Module):
    """Two layers that are one, a third of its own, and an embedding that is also read out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.a, self.b, self.c = lin(4, 4, False), lin(4, 4, False), lin(4, 3, False)
        self.d, self.head = lin(3, 4, False), lin(4, 5, False)
        self.b.weight, self.head.weight = self.a.weight, self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens)
        h = h + nn.functional.silu(self.a(h))
        h = h + self.d(nn.functional.gelu(self.c(nn.functional.silu(self.b(h)))))
        return self.head(h)


@pytest.fixture(scope="module")
def tied() -> tuple[weyl.Structure, State]:
    net = Tied().double().eval()
    structure = weyl.discover(net, (torch.zeros(1, 3, dtype=torch.long),))
    state = random_state(net, 2)
    assert state["a.weight"] is state["b.weight"] and structure.group.order != 1
    return structure, state


@settings(max_examples=25, deadline=None, derandomize=True)
@given(values=st.lists(st.sampled_from([0.0, 1.0, -1.0]), min_size=64, max_size=64), seed=st.integers(0, 99))
def test_tied_copies_and_lazy_states_have_one_fingerprint(
    tied: tuple[weyl.Structure, State], values: list[float], seed: int
) -> None:
    """Few distinct entries, so that many tensors are read before units are told apart."""
    structure, drawn = tied
    source = iter(values * 2)
    made: dict[int, Tensor] = {}
    for tensor in drawn.values():
        if id(tensor) not in made:
            entries = [next(source) for _ in range(tensor.numel())]
            made[id(tensor)] = torch.tensor(entries, dtype=torch.float64).view(tensor.shape)
    state = {name: made[id(tensor)] for name, tensor in drawn.items()}
    plain = fingerprint(structure, state)
    apart = {name: tensor.clone() for name, tensor in state.items()}
    assert fingerprint(structure, apart) == plain
    assert fingerprint(structure, Lazy(state)) == plain
    moved = weyl.act(structure.group.random(seed), structure, state)
    assert fingerprint(structure, moved) == plain
    assert fingerprint(structure, Lazy(moved)) == plain


def test_a_tie_that_is_broken_counts(tied: tuple[weyl.Structure, State]) -> None:
    structure, state = tied
    assert fingerprint(structure, state | {"b.weight": state["a.weight"] + 1}) != fingerprint(structure, state)


def test_a_lazy_state_of_distinct_entries_is_read_seldom() -> None:
    structure, state = network()
    lazy = Lazy(state)
    assert fingerprint(structure, lazy) == fingerprint(structure, state)
    # Once for the units, once for signs, once to be hashed.
    assert max(lazy.reads.count(name) for name in state) <= 3


# ------------------------------------------------------------------ special weights
def planted(kind: str) -> State:
    _, state = network()
    match kind:
        case "twins":
            for name in ("0.weight", "0.bias"):
                state[name][2] = -state[name][0]
            state["2.weight"][:, 2] = -state["2.weight"][:, 0]
        case "dead unit":
            state["0.weight"][1], state["0.bias"][1], state["2.weight"][:, 1] = 0.0, 0.0, 0.0
        case "zeros":
            state = {name: torch.zeros_like(t) for name, t in state.items()}
        case "ones":
            state = {name: torch.ones_like(t) for name, t in state.items()}
        case "signs":
            state = {name: t.sign() for name, t in state.items()}
        case "a layer of zeros":
            state["2.weight"].zero_()
    return state


# twins and a dead unit: 2; zeros: 4! 2^4 5!; ones: 4! 5!; a layer of zeros leaves what is around it
STABILISERS = {"twins": 2, "dead unit": 2, "zeros": 24 * 16 * 120, "ones": 24 * 120, "signs": None}
STABILISERS["a layer of zeros"] = 1


@pytest.mark.parametrize("kind", STABILISERS)
def test_special_weights(kind: str) -> None:
    structure, _ = network()
    state = planted(kind)
    form = canonicalize(structure, state)
    expected = STABILISERS[kind]
    assert form.stabilizer == (weyl.orbit(structure, state).stabiliser_order if expected is None else expected)
    assert bool(form.ties) == (expected not in (1, None)) or kind in ("dead unit", "signs")
    for seed in range(3):
        copy = weyl.act(structure.group.random(seed), structure, state)
        assert fingerprint(structure, copy) == fingerprint(structure, state)
        other = canonicalize(structure, copy)
        assert all(torch.equal(other.state[name], form.state[name]) for name in state)
        assert other.to_dict()["stabilizer"] == str(form.stabilizer)
