"""Programs for which grading once claimed scales, flips, matrices or translations that change the function.

Each is moved by every kind of element in float64 and must return what it returned. Random programs follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.laws.checks import double, outputs, random_state
from tests.laws.nets import Lambda, Net, lin, par
from torch import Tensor, nn

import weyl

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
SEQUENCE = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
IMAGE = torch.randn(2, 2, 5, 5, generator=torch.Generator().manual_seed(2))
KINDS = (*((move,) for move in ("permute", "sign", "scale", "mix", "translate")), None)


def change(
    structure: weyl.Structure, model: nn.Module, args: tuple[Any, ...], seeds: tuple[int, ...] = (1, 2)
) -> float:
    """Largest relative change of an output over elements of every kind; not finite counts as infinite."""
    state = random_state(model, seed=11)
    before = outputs(model, state, args)
    worst = 0.0
    for kinds in KINDS:
        for seed in seeds:
            element = structure.group.random(seed, kinds=kinds)
            after = outputs(model, weyl.act(element, structure, state), args)
            for old, new in zip(before, after, strict=True):
                assert old.isfinite().all(), "the program must return finite numbers"
                size = max(float(old.abs().max()), 1e-3)
                worst = max(worst, float((old - new).abs().nan_to_num(nan=torch.inf).max()) / size)
    return worst


def assert_kept(model: nn.Module, *args: Tensor, fixed: tuple[str, ...] = ()) -> weyl.Structure:
    """The whole group that is found keeps the function."""
    model, inputs = model.double().eval(), double(args)
    structure = weyl.discover(model, inputs, fixed=fixed)
    worst = change(structure, model, inputs)
    assert worst < 1e-8, f"an element changed the output by {worst:.1e}\n{structure!r}"
    return structure


def moves(structure: weyl.Structure) -> set[str]:
    """Kinds of moves of the gauges."""
    return {gauge.kind.move for gauge in structure.gauges}


def hidden(function: Callable[[Any, Tensor], Tensor], **more: nn.Parameter) -> Net:
    """x (3, 4) through w and b to 6 units, a function of them, and o to 2 outputs."""
    return Net(lambda n, x: function(n, x @ n.w.t() + n.b) @ n.o, w=par(6, 4), b=par(6), o=par(6, 2), **more)


def test_the_check_rejects_a_gauge_that_misses_a_tensor():
    """Negative control: every gauge, kept from one of the tensors on which it acts, changes the function."""
    model = nn.Sequential(lin(4, 6), nn.ReLU(), lin(6, 5), nn.Tanh(), lin(5, 2)).double()
    structure = weyl.discover(model, (X.double(),))
    assert change(structure, model, (X.double(),)) < 1e-8
    for gauge, tensors in structure.weights.items():
        for name in tensors:
            rest = {tensor: weights for tensor, weights in tensors.items() if tensor != name}
            wrong = replace(structure, weights={**structure.weights, gauge: rest})
            assert change(wrong, model, (X.double(),)) > 1e-3


CUT_ACROSS_UNITS = {
    "slice of a view": lambda n, h: h.reshape(3, 2, 3).tanh().reshape(3, 6)[:, 1:5].repeat(1, 2)[:, :6],
    "slice of copies": lambda n, h: F.rms_norm(h.repeat(1, 2), (12,))[:, :6],
    "slice of centred copies": lambda n, h: F.layer_norm(h.repeat(1, 2), (12,))[:, :6],
    "slice of a sum": lambda n, h: F.pad(h.relu().reshape(3, 2, 3).sum(1).repeat(1, 2)[:, 1:4], [0, 3]),
}


@pytest.mark.parametrize("name", CUT_ACROSS_UNITS)
def test_what_cannot_be_cut_holds_still_what_it_was_cut_from(name):
    assert_kept(hidden(CUT_ACROSS_UNITS[name]), X)


FUNCTIONS = {
    "clamp between limits in the wrong order": lambda n, h: h.clamp(1, -1) + 0 * h.sum(),
    "power with a large denominator": lambda n, h: h.abs() ** 0.1,
    "power that is no fraction": lambda n, h: h.abs() ** (1 / 3),
    "largest along another axis": lambda n, h: h - h.amax(0, keepdim=True),
    "largest of a window": lambda n, h: F.max_pool1d(h.mT, 3, 1, 1).mT,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_elementwise_functions(name):
    assert_kept(hidden(FUNCTIONS[name]), X)


def test_a_run_of_copies_that_fits_no_dimension_ends():
    def forward(n: Any, x: Tensor) -> Tensor:
        return F.pad(torch.maximum(x, x).unsqueeze(0).expand(3, 3, 4).reshape(2, 6, 3), (0, -1)) @ n.o

    assert_kept(Net(forward, o=par(2, 5)), X)


def test_attention_between_operands_of_different_rank():
    assert_kept(Net(lambda n, x: F.scaled_dot_product_attention(x @ n.q, n.k, n.k), q=par(4, 3), k=par(1, 1, 3)), X)


def both(function: Callable[[Any, Tensor], Any], **layers: nn.Module | nn.Parameter) -> Net:
    return Net(function, **{"a": lin(4, 6), "o": lin(6, 2), **layers})


def norm_of(function: Callable[[Any, Tensor], Any]) -> Net:
    return both(lambda n, x: (n.o(n.norm(n.a(x)).relu()), function(n, n.a(x))), norm=nn.BatchNorm1d(6))


RETURNED = {
    "input of a norm": both(lambda n, x: (lambda h: (n.norm(h), h))(n.a(x)), norm=nn.BatchNorm1d(6)),
    "view of the input of a norm": both(
        lambda n, x: (lambda h: (n.norm(h), h.view(6, 3)))(n.a(x)), norm=nn.BatchNorm1d(6)
    ),
    "bias before a norm": norm_of(lambda n, h: n.a.bias),
    "running mean": norm_of(lambda n, h: n.norm.running_mean),
    "keys": both(lambda n, x: (lambda k: (F.scaled_dot_product_attention(x @ n.q, k, x), k))(n.a(x)), q=par(4, 6)),
    "argument of a sine": both(lambda n, x: (lambda h: (n.o(h.sin()), h))(n.a(x))),
    "bias of a sine": both(lambda n, x: (n.o(n.a(x).sin()), n.a.bias)),
    "bias of the reader of a sigmoid": both(lambda n, x: (n.o(n.a(x).sigmoid()), n.o.bias)),
}


@pytest.mark.parametrize("name", RETURNED)
def test_what_the_model_returns_is_not_translated(name):
    structure = assert_kept(RETURNED[name], SEQUENCE if name == "keys" else X)
    assert "translate" not in moves(structure)


def test_what_the_model_does_not_return_is_translated():
    """Control: the same networks without the second output have dead biases and shifts."""
    for middle in (nn.BatchNorm1d(6), Lambda(torch.sin)):
        structure = assert_kept(nn.Sequential(lin(4, 6), middle, lin(6, 2)), X)
        assert "translate" in moves(structure)


def test_two_flips_of_one_sigmoid_are_absorbed_as_none():
    layers = (nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Sigmoid(), nn.Conv2d(6, 3, 1))
    structure = assert_kept(nn.Sequential(*layers, nn.BatchNorm2d(3), nn.Sigmoid(), nn.Conv2d(3, 2, 1)), IMAGE)
    assert structure.absorptions


HELD = {
    "bias that takes up a constant": (nn.Sequential(lin(4, 6), nn.Sigmoid(), lin(6, 2)), "2.bias"),
    "dead bias": (nn.Sequential(lin(4, 6), nn.BatchNorm1d(6), lin(6, 2)), "0.bias"),
    "mean that follows a dead bias": (nn.Sequential(lin(4, 6), nn.BatchNorm1d(6), lin(6, 2)), "1.running_mean"),
    "bias of a sine": (nn.Sequential(lin(4, 6), Lambda(torch.sin), lin(6, 2)), "0.bias"),
}


@pytest.mark.parametrize("name", HELD)
def test_what_the_caller_holds_still_does_not_move(name):
    model, held = HELD[name]
    structure = assert_kept(model, X, fixed=(held,))
    state = random_state(model)
    for seed in range(3):
        moved = weyl.act(structure.group.random(seed), structure, state)
        assert torch.equal(moved[held], state[held])


def test_a_key_bias_that_differs_from_place_to_place_is_alive():
    def forward(n: Any, x: Tensor) -> Tensor:
        keys, values = n.k(x).view(3, 2, 3), n.v(x).view(3, 2, 3)
        first, second = F.linear(x, n.k.weight, n.e).split(3, 1)
        attended = F.scaled_dot_product_attention((x @ n.q)[:, None], keys, values)[:, 0]
        return attended @ n.o + first.tanh() @ n.r + second.relu() @ n.s

    shapes = {"q": (4, 3), "o": (3, 2), "e": (6,), "r": (3, 2), "s": (3, 2)}
    model = Net(forward, k=lin(4, 6), v=lin(4, 6), **{name: par(*shape) for name, shape in shapes.items()})
    assert "translate" not in moves(assert_kept(model, X))


SOFTENED = {
    "keys": (lambda s: s.softmax(-1), True),
    "queries": (lambda s: s.softmax(-2), False),
    "queries, after a transpose": (lambda s: s.mT.softmax(-1), False),
    "keys, and something else": (lambda s: s.softmax(-1) + s.tanh(), False),
    "keys, of a function": (lambda s: s.relu().softmax(-1), False),
}


@pytest.mark.parametrize("name", SOFTENED)
def test_a_softmax_over(name):
    soften, dead = SOFTENED[name]
    layers = {"q": lin(4, 3), "k": lin(4, 3), "v": lin(4, 3)}
    structure = assert_kept(Net(lambda n, x: soften(n.q(x) @ n.k(x).mT) @ n.v(x), **layers), SEQUENCE)
    assert ("translate" in moves(structure)) <= dead


ANGLES = torch.arange(5.0)[:, None] * torch.tensor([1.0, 0.3])


def rotated(t: Tensor) -> Tensor:
    """A rotary embedding of pairs that stand in two halves."""
    cosine, sine = (torch.cat([part, part], -1).to(t) for part in (ANGLES.cos(), ANGLES.sin()))
    return t * cosine + torch.cat([-t[..., 2:], t[..., :2]], -1) * sine


ROTARY = {
    "plain": (lambda n, x: rotated(n.v(x)) @ n.o, True),
    "in the denominator": (lambda n, x: torch.ones(4, dtype=x.dtype) / rotated(n.v(x)) @ n.o, False),
    "reciprocal before": (lambda n, x: rotated(torch.ones(4, dtype=x.dtype) / n.v(x)) @ n.o, False),
    "elementwise product": (lambda n, x: torch.einsum("btd,d->btd", rotated(n.v(x)), n.g), False),
    "swapped halves": (lambda n, x: rotated(n.v(x))[..., [2, 3, 0, 1]] @ n.o, False),
    "one half": (lambda n, x: rotated(n.v(x))[..., :2] @ n.o[:2], False),
}


@pytest.mark.parametrize("name", ROTARY)
def test_complex_numbers_on_rotary_pairs(name):
    function, complex_ = ROTARY[name]
    structure = assert_kept(Net(function, v=lin(4, 4), o=par(4, 2), g=par(4)), SEQUENCE)
    assert ("complex" in {gauge.kind.value for gauge in structure.gauges}) == complex_


def test_a_rotary_embedding_of_queries_alone():
    def forward(n: Any, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(rotated(n.q(x)), n.k(x), n.v(x)) @ n.o

    assert_kept(Net(forward, q=lin(4, 4), k=lin(4, 4), v=lin(4, 3), o=par(3, 2)), SEQUENCE)


@pytest.mark.parametrize("options", [{"affine": True}, {}])
def test_instance_norm_with_running_statistics(options):
    norm = nn.InstanceNorm2d(6, track_running_stats=True, **options)
    assert_kept(nn.Sequential(nn.Conv2d(2, 6, 3), norm, nn.ReLU(), nn.Conv2d(6, 2, 1)), IMAGE)


def test_a_sine_of_another_view_of_what_a_bias_was_added_to():
    def forward(n: Any, x: Tensor) -> Tensor:
        return (F.layer_norm(x, (4,), n.g, n.b) * 2 / x.abs()).reshape(2, 6).cos() @ n.o

    assert_kept(Net(forward, g=par(4), b=par(4), o=par(6, 2)), X)


def test_blocks_that_are_normalised_together_flip_together():
    def forward(n: Any, x: Tensor) -> Tensor:
        return F.layer_norm(torch.cat([n.p, torch.ones_like(n.p)], 1), (4,)) ** 2 @ n.o + 0 * x.sum()

    assert_kept(Net(forward, p=par(3, 2), o=par(4, 2)), X)


# ---------------------------------------------------------------------- random programs
Step = Callable[[Tensor], Tensor]
BENDS: tuple[Step, ...] = (
    torch.tanh,
    torch.relu,
    torch.sigmoid,
    torch.sin,
    torch.abs,
    torch.square,
    F.gelu,
    lambda t: t.softmax(-1),
    lambda t: F.layer_norm(t, t.shape[-1:]),
    lambda t: F.rms_norm(t, t.shape[-1:]),
    lambda t: t - t.mean(-1, keepdim=True),
    lambda t: t - t.amax(0, keepdim=True),
    lambda t: t.repeat(1, 2),
    lambda t: t.repeat_interleave(2, 1),
    lambda t: torch.cat([t[:, 1:], t[:, :1]], 1),
    lambda t: torch.cat([t, t.tanh()], 1),
    lambda t: torch.cat([t, torch.ones_like(t[:, :1])], 1),
    lambda t: t[:, : (t.shape[1] + 1) // 2],
    lambda t: t.unflatten(1, (2, -1)).sum(1) if t.shape[1] % 2 == 0 else t,
    lambda t: t.unflatten(1, (2, -1)).relu().flatten(1) if t.shape[1] % 2 == 0 else t,
    lambda t: torch.einsum("bi,bj->ij", t, t)[:3],
    lambda t: F.pad(t, (1, 0)),
)


class Program(nn.Module):
    """Layers and functions one after another; ``joins`` adds, multiplies or stacks on what came before."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.joins: list[tuple[int, str]] = []
        seen = [torch.zeros(3, 4)]
        for _ in range(draw(st.integers(2, 6))):
            self.layers.append(self._layer(draw, seen[-1].shape[1]))
            out = self.layers[-1].eval()(seen[-1])
            same = [i for i, t in enumerate(seen) if t.shape == out.shape and i]
            join = (draw(st.sampled_from(same)), draw(st.sampled_from(["add", "mul", "cat"]))) if same else (0, "")
            join = join if draw(st.booleans()) else (0, "")
            seen.append(self._join(out, seen, join))
            self.joins.append(join)
        self.exposed = draw(st.integers(1, len(seen) - 1)) if draw(st.integers(0, 3)) == 0 else None
        self.head = lin(seen[-1].shape[1], 2, bias=draw(st.booleans()))

    @staticmethod
    def _layer(draw: Callable[[st.SearchStrategy[Any]], Any], size: int) -> nn.Module:
        width = draw(st.sampled_from([2, 3, 4, 6]))
        choices = (
            lambda: lin(size, width, bias=draw(st.booleans())),
            lambda: nn.Sequential(lin(size, width), nn.BatchNorm1d(width)),
            lambda: nn.LayerNorm(size),
            lambda: nn.RMSNorm(size),
            lambda: Lambda(draw(st.sampled_from(BENDS))),
            lambda: Lambda(draw(st.sampled_from(BENDS))),
        )
        return draw(st.sampled_from(choices))()

    @staticmethod
    def _join(out: Tensor, seen: list[Tensor], join: tuple[int, str]) -> Tensor:
        place, how = join
        if not how:
            return out
        other = seen[place]
        return out + other if how == "add" else out * other if how == "mul" else torch.cat([out, other], 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        seen = [x]
        for layer, join in zip(self.layers, self.joins, strict=True):
            seen.append(self._join(layer(seen[-1]), seen, join))
        last = self.head(seen[-1])
        return (last,) if self.exposed is None else (last, seen[self.exposed])


@st.composite
def programs(draw: Any) -> Program:
    return Program(draw)


@given(programs())
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_random_networks_keep_their_function(model):
    model, inputs = model.double().eval(), (X.double(),)
    structure = weyl.discover(model, inputs)
    worst = change(structure, model, inputs, seeds=(1,))
    assert worst < 1e-7, f"an element changed the output by {worst:.1e}\n{structure!r}"
