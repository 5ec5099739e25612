"""Flips of sigmoids, dead biases, shifts of sines, rotary pairs, logit shifts: found where they hold, only there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.laws.nets import Lambda, Net, features, image, lin, par
from torch import Tensor, nn
from torch.nn import functional as F

import weyl
from weyl.actions import shift_logits
from weyl.groups import GaugeKind

Case = tuple[nn.Module, tuple[Tensor, ...]]


def kinds(net: nn.Module, args: tuple[Tensor, ...]) -> Counter[GaugeKind]:
    """How many gauges of each kind a network has."""
    return Counter(gauge.kind for gauge in weyl.discover(net, args).gauges)


def preserved(net: nn.Module, args: tuple[Tensor, ...], move: str | None = None) -> float:
    """Largest relative change under random elements, with weights in general position."""
    net = net.double().eval()
    args = tuple(a.double() if a.is_floating_point() else a for a in args)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.copy_(tensor * torch.exp(0.2 * noise) + (0.1 * noise if bool((tensor <= 0).any()) else 0.0))
    structure = weyl.discover(net, args)
    worst = 0.0
    with torch.no_grad():
        before = net(*args)
        for seed in range(3):
            element = structure.group.random(seed, kinds=None if move is None else (move,))
            after = torch.func.functional_call(net, weyl.act(element, structure, net.state_dict()), args)
            worst = max(worst, float((after - before).abs().max() / before.abs().max()))
    return worst


def sigmoids(reader: nn.Module, op: Callable[[Tensor], Tensor] = torch.sigmoid) -> nn.Module:
    return Net(lambda m, x: m.reader(op(m.first(x))), first=lin(4, 5), reader=reader)


# ---------------------------------------------------------------------- sigmoids
FLIPPED: dict[str, Case] = {
    "linear": (sigmoids(lin(5, 3)), (features(2, 4),)),
    "hardsigmoid": (sigmoids(lin(5, 3), F.hardsigmoid), (features(2, 4),)),
    "dropout between": (nn.Sequential(lin(4, 5), nn.Sigmoid(), nn.Dropout(), lin(5, 3)).eval(), (features(2, 4),)),
    "convolution": (nn.Sequential(nn.Conv2d(2, 5, 3), nn.Sigmoid(), nn.Conv2d(5, 3, 2)), (image(),)),
    "flattened": (nn.Sequential(nn.Conv2d(2, 5, 3), nn.Sigmoid(), nn.Flatten(), lin(80, 3)), (image(),)),
    "two readers": (
        Net(lambda m, x: m.b(h := torch.sigmoid(m.a(x))) + m.c(h).exp(), a=lin(4, 5), b=lin(5, 3), c=lin(5, 3)),
        (features(2, 4),),
    ),
}
NOT_FLIPPED: dict[str, Case] = {
    "no bias": (sigmoids(lin(5, 3, bias=False)), (features(2, 4),)),
    "zero padding": (nn.Sequential(nn.Conv2d(2, 5, 3), nn.Sigmoid(), nn.Conv2d(5, 3, 3, padding=1)), (image(),)),
    "one reader without a bias": (
        Net(
            lambda m, x: m.b(h := torch.sigmoid(m.a(x))) + m.c(h).exp(),
            a=lin(4, 5),
            b=lin(5, 3),
            c=lin(5, 3, bias=False),
        ),
        (features(2, 4),),
    ),
    "the bias is read elsewhere": (
        Net(lambda m, x: m.b(torch.sigmoid(m.a(x))) + m.b.bias.exp(), a=lin(4, 5), b=lin(5, 3)),
        (features(2, 4),),
    ),
    "another operator between": (sigmoids(lin(5, 3), lambda h: torch.sigmoid(h) * 2 + 1), (features(2, 4),)),
    "also returned": (
        Net(lambda m, x: m.b(h := torch.sigmoid(m.a(x))) + h.sum(), a=lin(4, 5), b=lin(5, 3)),
        (features(2, 4),),
    ),
    "grouped": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 4, 2, groups=2)), (image(),)),
}


@pytest.mark.parametrize("name", FLIPPED)
def test_sigmoids_flip_where_biases_take_up_the_constant(name: str) -> None:
    net, args = FLIPPED[name]
    structure = weyl.discover(net, args)
    assert structure.group.order.powers == ((2, 5),)
    assert structure.absorptions
    assert preserved(net, args, "sign") < 1e-13


@pytest.mark.parametrize("name", NOT_FLIPPED)
def test_sigmoids_do_not_flip_elsewhere(name: str) -> None:
    net, args = NOT_FLIPPED[name]
    structure = weyl.discover(net, args)
    assert not structure.absorptions
    assert not structure.group.order.powers
    assert preserved(net, args) < 1e-13


# ---------------------------------------------------------------------- dead biases
def attending(change: Callable[[Tensor], Tensor] = lambda k: k, extra: str = "") -> nn.Module:
    """Two heads of size three; ``change`` is applied to the keys."""

    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).split(6, -1)
        heads = [t.unflatten(-1, (2, 3)).transpose(1, 2) for t in (q, change(k), v)]
        out = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        return m.out(out) + (k.sum() if extra else 0.0)

    return Net(forward, qkv=lin(4, 18), out=lin(6, 3))


def by_hand(soften: Callable[[Tensor], Tensor], key: Callable[[Tensor], Tensor] = lambda k: k.mT) -> nn.Module:
    """One head of size six whose attention is written out."""

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.out(soften(m.q(x) @ key(m.k(x))) @ m.v(x))

    return Net(forward, q=lin(4, 6), k=lin(4, 6), v=lin(4, 6), out=lin(6, 3))


DEAD: dict[str, tuple[nn.Module, tuple[Tensor, ...], int]] = {
    "before BatchNorm": (
        nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Tanh(), nn.Conv2d(5, 3, 1)),
        (image(),),
        5,
    ),
    "linear before BatchNorm": (
        nn.Sequential(lin(4, 5), nn.BatchNorm1d(5), nn.GELU(), lin(5, 3)),
        (features(2, 4),),
        5,
    ),
    "keys": (attending(), (features(2, 5, 4),), 6),
    "keys by hand": (by_hand(lambda s: (s / 2.5 + torch.ones(5, 5).tril()).softmax(-1)), (features(2, 5, 4),), 6),
    "keys of nn.MultiheadAttention": (
        Net(lambda m, x: m.out(m.a(x, x, x)[0]), a=nn.MultiheadAttention(6, 2, batch_first=True), out=lin(6, 3)),
        (features(2, 5, 6),),
        6,
    ),
}
ALIVE: dict[str, Case] = {
    "no bias": (
        nn.Sequential(nn.Conv2d(2, 5, 3, bias=False), nn.BatchNorm2d(5), nn.Tanh(), nn.Conv2d(5, 3, 1)),
        (image(),),
    ),
    "something between": (
        nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.BatchNorm2d(5), nn.Conv2d(5, 3, 1)),
        (image(),),
    ),
    "no running statistics": (
        nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5, track_running_stats=False), nn.Conv2d(5, 3, 1)),
        (image(),),
    ),
    "read twice": (
        Net(lambda m, x: m.c(m.n(h := m.a(x)) + h), a=nn.Conv2d(2, 5, 1), n=nn.BatchNorm2d(5), c=nn.Conv2d(5, 3, 1)),
        (image(),),
    ),
    "keys that are read elsewhere": (attending(extra="sum"), (features(2, 5, 4),)),
    "keys behind a function": (attending(torch.tanh), (features(2, 5, 4),)),
    "softened over the queries": (by_hand(lambda s: s.softmax(-2)), (features(2, 5, 4),)),
    "not softened": (by_hand(lambda s: s.tanh()), (features(2, 5, 4),)),
    "softened and returned": (by_hand(lambda s: s.softmax(-1) + s), (features(2, 5, 4),)),
    "scaled by place": (by_hand(lambda s: (s * torch.arange(5.0)).softmax(-1)), (features(2, 5, 4),)),
    "read by an operator without a rule, beside a constant": (
        Net(
            lambda m, x: m.o(m.n(h := m.a(x)).relu()) + m.p(h.masked_fill(torch.eye(6)[:2, :5] > 0, 1.0)),
            a=lin(4, 5),
            n=nn.BatchNorm1d(5),
            o=lin(5, 3),
            p=lin(5, 3, bias=False),
        ),
        (features(2, 4),),
    ),
    "keys that are read by an operator without a rule": (
        Net(
            lambda m, x: (
                m.o(F.scaled_dot_product_attention(m.q(x), k := m.k(x), m.v(x)))
                + m.o(torch.logaddexp(k, torch.zeros(6)))
            ),
            q=lin(4, 6),
            k=lin(4, 6),
            v=lin(4, 6),
            o=lin(6, 3),
        ),
        (features(2, 5, 4),),
    ),
    "keys that are values": (
        Net(
            lambda m, x: m.out(F.scaled_dot_product_attention(m.q(x), k := m.k(x), k)),
            q=lin(4, 6),
            k=lin(4, 6),
            out=lin(6, 3),
        ),
        (features(2, 5, 4),),
    ),
}


@pytest.mark.parametrize("name", DEAD)
def test_dead_biases_are_found(name: str) -> None:
    net, args, dimension = DEAD[name]
    structure = weyl.discover(net.eval(), args)
    found = [g for g in structure.gauges if g.kind is GaugeKind.TRANSLATION]
    assert sum(structure.space(g.space).size * structure.space(g.space).multiplicity for g in found) == dimension
    assert preserved(net, args, "translate") < 1e-12
    assert preserved(net, args) < 1e-12


@pytest.mark.parametrize("name", ALIVE)
def test_other_biases_are_not(name: str) -> None:
    net, args = ALIVE[name]
    assert not kinds(net.eval(), args)[GaugeKind.TRANSLATION]
    assert preserved(net, args) < 1e-12


# ---------------------------------------------------------------------- biases that are added
def adding(op: Callable[[Any, Tensor], Tensor], **layers: Any) -> nn.Module:
    """A sum behind a tanh, read out by a linear layer."""
    return Net(lambda m, x: m.out(op(m, x).tanh()), out=lin(6, 3), **layers)


IDS = torch.tensor([[1, 4, 2, 0, 7], [3, 3, 5, 8, 1]])
SHARED: dict[str, tuple[nn.Module, tuple[Tensor, ...], int]] = {
    "linear layers": (adding(lambda m, x: m.a(x) + m.b(x), a=lin(4, 6), b=lin(4, 6)), (features(2, 4),), 6),
    "a difference": (adding(lambda m, x: m.a(x) - m.b(x), a=lin(4, 6), b=lin(4, 6)), (features(2, 4),), 6),
    "three of them": (
        adding(lambda m, x: m.a(x) + (m.b(x) - m.c), a=lin(4, 6), b=lin(4, 6), c=par(6)),
        (features(2, 4),),
        12,
    ),
    "embeddings": (
        adding(lambda m, x: m.e(x) + m.p(torch.arange(5)), e=nn.Embedding(9, 6), p=nn.Embedding(5, 6)),
        (IDS,),
        6,
    ),
    "a part of a table": (
        adding(lambda m, x: m.e(x) + m.p[:, :5], e=nn.Embedding(9, 6), p=par(1, 8, 6)),
        (IDS,),
        6,
    ),
    "both of an LSTM": (
        Net(lambda m, x: m.o(m.r(x)[0]), r=nn.LSTM(4, 5, batch_first=True), o=lin(5, 3)),
        (features(2, 6, 4),),
        20,
    ),
    "both of a GRU": (
        Net(lambda m, x: m.o(m.r(x)[0]), r=nn.GRU(4, 5, 2, batch_first=True, bidirectional=True), o=lin(10, 3)),
        (features(2, 6, 4),),
        40,
    ),
    "both of a cell": (Net(lambda m, x: m.o(m.r(x)), r=nn.GRUCell(4, 5), o=lin(5, 3)), (features(2, 4),), 10),
}
NOT_SHARED: dict[str, Case] = {
    "one is read elsewhere": (
        adding(lambda m, x: m.a(x) + (b := m.b(x)) + b.sum(), a=lin(4, 6), b=lin(4, 6)),
        (features(2, 4),),
    ),
    "one is returned": (
        Net(lambda m, x: m.o((m.a(x) + m.b(x)).tanh()) + m.b.bias.sum(), a=lin(4, 6), b=lin(4, 6), o=lin(6, 3)),
        (features(2, 4),),
    ),
    "one is scaled": (adding(lambda m, x: m.a(x) + 2 * m.b(x), a=lin(4, 6), b=lin(4, 6)), (features(2, 4),)),
    "one is scaled by the sum": (
        adding(lambda m, x: torch.add(m.a(x), m.b(x), alpha=2), a=lin(4, 6), b=lin(4, 6)),
        (features(2, 4),),
    ),
    "one is behind a function": (
        adding(lambda m, x: m.a(x) + m.b(x).relu(), a=lin(4, 6), b=lin(4, 6)),
        (features(2, 4),),
    ),
    "one is one number": (adding(lambda m, x: m.a(x) + m.c, a=lin(4, 6), c=par(1)), (features(2, 4),)),
    "one and the same": (
        adding(lambda m, x: m.a(x) + m.a(x.flip(0)), a=lin(4, 6)),
        (features(2, 4),),
    ),
    "no biases": (
        Net(lambda m, x: m.o(m.r(x)[0]), r=nn.LSTM(4, 5, bias=False, batch_first=True), o=lin(5, 3)),
        (features(2, 6, 4),),
    ),
}


@pytest.mark.parametrize("name", SHARED)
def test_biases_that_are_added_take_from_each_other(name: str) -> None:
    net, args, dimension = SHARED[name]
    structure = weyl.discover(net.eval(), args)
    found = [g for g in structure.gauges if g.kind is GaugeKind.TRANSLATION]
    assert sum(structure.space(g.space).size * structure.space(g.space).multiplicity for g in found) == dimension
    assert preserved(net, args, "translate") < 1e-12
    assert preserved(net, args) < 1e-12


@pytest.mark.parametrize("name", NOT_SHARED)
def test_other_biases_keep_to_themselves(name: str) -> None:
    net, args = NOT_SHARED[name]
    assert not kinds(net.eval(), args)[GaugeKind.TRANSLATION]
    assert preserved(net, args) < 1e-12


# ---------------------------------------------------------------------- sines
@pytest.mark.parametrize("op", [torch.sin, torch.cos])
def test_half_a_period_changes_the_sign(op: Callable[[Tensor], Tensor]) -> None:
    net = nn.Sequential(lin(4, 5), Lambda(op), lin(5, 3))
    assert kinds(net, (features(2, 4),)) == {GaugeKind.SIGN: 1, GaugeKind.SHIFT: 1}
    assert preserved(net, (features(2, 4),), "translate") < 1e-13
    assert preserved(net, (features(2, 4),)) < 1e-13


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(lin(4, 5, bias=False), Lambda(torch.sin), lin(5, 3)),
        Net(lambda m, x: m.b(torch.sin(h := m.a(x)) + h), a=lin(4, 5), b=lin(5, 3)),
        nn.Sequential(lin(4, 5), Lambda(lambda h: torch.sin(2 * h)), lin(5, 3)),
        Net(
            lambda m, x: m.b(torch.sin(h := m.a(x))) + m.b(torch.logaddexp(h, torch.zeros(5))),
            a=lin(4, 5),
            b=lin(5, 3),
        ),
        nn.Sequential(lin(4, 5), Lambda(lambda h: torch.sin(h).relu()), lin(5, 3)),
    ],
    ids=["no bias", "read twice", "another frequency", "read by an operator without a rule", "a sign that matters"],
)
def test_half_a_period_is_no_shift_elsewhere(net: nn.Module) -> None:
    assert not kinds(net, (features(2, 4),))[GaugeKind.SHIFT]
    assert preserved(net, (features(2, 4),)) < 1e-13


# ---------------------------------------------------------------------- rotary pairs
def rotary(turn: Callable[[Tensor], Tensor]) -> nn.Module:
    """One head of size four with rotary embeddings."""

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.o(F.scaled_dot_product_attention(turn(m.q(x)), turn(m.k(x)), m.v(x)))

    return Net(forward, q=lin(5, 4), k=lin(5, 4), v=lin(5, 4), o=lin(4, 3))


def test_complex_numbers_act_on_rotary_pairs() -> None:
    net, args = rotary(_negated), (features(2, 6, 5),)
    assert kinds(net, args) == {GaugeKind.COMPLEX: 1, GaugeKind.LINEAR: 1}
    assert weyl.discover(net, args).group.dimension == 4 + 16
    assert preserved(net, args, "mix") < 1e-12


def _negated(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(x.shape[-2], dtype=x.dtype), torch.tensor((1.0, 0.1), dtype=x.dtype))
    both = torch.cat([angles, angles], -1)
    return x * both.cos() + torch.cat([-x[..., half:], x[..., :half]], -1) * both.sin()


def _reflected(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(x.shape[-2], dtype=x.dtype), torch.tensor((1.0, 0.1), dtype=x.dtype))
    both = torch.cat([angles, angles], -1)
    return x * both.cos() + torch.cat([x[..., half:], x[..., :half]], -1) * both.sin()


def _uneven(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(x.shape[-2], dtype=x.dtype), torch.tensor((1.0, 0.1, 0.2, 0.3), dtype=x.dtype))
    return x * angles.cos() + torch.cat([-x[..., half:], x[..., :half]], -1) * angles.sin()


@pytest.mark.parametrize("turn", [_reflected, _uneven, lambda x: _negated(x).clamp(-9.0, 9.0)])
def test_no_rotations_where_the_embedding_is_none(turn: Callable[[Tensor], Tensor]) -> None:
    net, args = rotary(turn), (features(2, 6, 5),)
    assert not kinds(net, args)[GaugeKind.COMPLEX]
    assert preserved(net, args) < 1e-12


# ---------------------------------------------------------------------- logits
def test_logits_shift_apart_from_the_group() -> None:
    net, x = nn.Sequential(lin(4, 5), nn.ReLU(), lin(5, 3)).double(), features(2, 4).double()
    structure = weyl.discover(net, (x,))
    (shift,) = structure.logit_shifts
    assert (shift.weight, shift.bias, shift.dimension) == ("2.weight", "2.bias", 6)
    assert structure.group.dimension == 5
    state = shift_logits(structure, net.state_dict())
    before, after = net(x), torch.func.functional_call(net, state, (x,))
    assert not torch.allclose(before, after)
    assert torch.allclose(before.log_softmax(1), after.log_softmax(1), atol=1e-12)


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(lin(4, 5), nn.ReLU(), lin(5, 3), nn.Softmax(1)),
        Net(lambda m, x: F.linear(x, m.w) @ m.w, w=par(3, 4)),
        Net(lambda m, x: m.a(x).T, a=lin(4, 3)),
        Net(lambda m, x: m.a(x[None].expand(3, 2, 4)[:, 0]).mT, a=lin(4, 3)),
        Net(lambda m, x: (y := m.a(x), m.b(y.tanh())), a=lin(4, 3), b=lin(3, 1)),
        lin(4, 1),
    ],
    ids=["not the output", "tied", "transposed", "transposed and square", "read elsewhere", "a single class"],
)
def test_logits_that_do_not_shift(net: nn.Module) -> None:
    structure = weyl.discover(net, (features(2, 4),))
    assert not structure.logit_shifts
    with pytest.raises(weyl.StructureError, match="no logits to shift"):
        shift_logits(structure, net.state_dict())


def test_logits_of_tensors_that_are_held_do_not_shift() -> None:
    net = nn.Sequential(lin(4, 5), nn.ReLU(), lin(5, 3))
    assert weyl.discover(net, (features(2, 4),)).logit_shifts
    assert not weyl.discover(net, (features(2, 4),), fixed=["2.bias"]).logit_shifts


# ---------------------------------------------------------------------- powers
@pytest.mark.parametrize("exponent", [2.01, 2.99, 3.01])
def test_powers_that_are_nearly_whole_have_no_parity(exponent: float) -> None:
    net = Net(lambda m, x: m.o(x * (m.gain**exponent)), gain=nn.Parameter(torch.rand(4) + 0.5), o=lin(4, 3))
    structure = weyl.discover(net, (features(2, 4),))
    assert not any(
        gauge.kind is GaugeKind.SIGN and "gain" in structure.weights[gauge.name] for gauge in structure.gauges
    )


def test_powers_that_are_whole_have_one() -> None:
    net = Net(lambda m, x: m.o(x * (m.gain**3)), gain=nn.Parameter(torch.rand(4) + 0.5), o=lin(4, 3))
    structure = weyl.discover(net, (features(2, 4),))
    assert any(gauge.kind is GaugeKind.SIGN and "gain" in structure.weights[gauge.name] for gauge in structure.gauges)


# ---------------------------------------------------------------------- numbers that are added
@pytest.mark.parametrize("number", [True, 1, 1e-12, -2.5])
def test_a_number_that_is_added_holds_units_still(number: float) -> None:
    net = nn.Sequential(lin(4, 5), Lambda(lambda h: h + number), Lambda(torch.relu), lin(5, 3))
    assert not kinds(net, (features(2, 4),))


@pytest.mark.parametrize("op", [lambda h: h + 0, lambda h: torch.where(h.new_ones(5) > 0, h, 0.0)])
def test_zero_holds_nothing(op: Callable[[Tensor], Tensor]) -> None:
    net = nn.Sequential(lin(4, 5), Lambda(op), Lambda(torch.relu), lin(5, 3))
    assert kinds(net, (features(2, 4),)) == {GaugeKind.SCALE: 1}
    assert preserved(net, (features(2, 4),)) < 1e-13
