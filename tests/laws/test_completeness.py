"""The discovered group is *exactly* the set of symmetries that an oracle finds without any theory."""

from __future__ import annotations

from collections.abc import Callable
from math import factorial

import pytest
import torch
import torch.nn.functional as F
from tests.laws.nets import Net, lin, par
from tests.laws.oracle import discovered, symmetries
from torch import Tensor, nn

import weyl


def attend(net: nn.Module, x: Tensor, heads: int) -> Tensor:
    q, k, v = (layer(x).unflatten(-1, (heads, -1)).transpose(1, 2) for layer in (net.q, net.k, net.v))
    return net.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def fused(net: nn.Module, x: Tensor, inner: tuple[int, ...], where: int) -> Tensor:
    """Two heads of size 2 from one projection whose rows are cut as ``inner``; the three kinds stand at ``where``."""
    parts = net.qkv(x).unflatten(-1, inner).unbind(2 + where)
    q, k, v = (p.transpose(1, 2) for p in parts)
    return net.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def last(layer: nn.RNNBase, x: Tensor) -> Tensor:
    return layer(x)[0][:, -1]


def routed(net: nn.Module, x: Tensor) -> Tensor:
    gate = net.r(x).softmax(-1)
    hidden = torch.einsum("bi,eih->beh", x, net.w).relu()
    return torch.einsum("beh,eho,be->bo", hidden, net.u, gate)


R = nn.ReLU
X = torch.tensor([[2.0, -1.0], [1.0, 3.0], [-2.0, 1.0]], dtype=torch.float64)
# all entries differ: places with equal entries could be exchanged without anyone noticing
IMAGE = torch.tensor([[[[1.0, -2.0, 3.0], [2.0, 1.5, -1.0], [0.5, 2.5, -3.5]]]], dtype=torch.float64)
CORNER = IMAGE[..., :2, :2]
SEQ = torch.tensor([[[1.0], [-2.0], [3.0]], [[2.0], [1.0], [0.5]]], dtype=torch.float64)
SEQ2 = torch.tensor([[[1.0, 0.5], [-2.0, 1.0], [3.0, -1.0]]], dtype=torch.float64)

CASES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "mlp": lambda: (nn.Sequential(lin(2, 3), R(), lin(3, 2), R(), lin(2, 2)), X),
    "mlp, three hidden, no bias": lambda: (
        nn.Sequential(lin(2, 3, False), R(), lin(3, 3, False), nn.Tanh(), lin(3, 2, False), R(), lin(2, 1)),
        X,
    ),
    "residual": lambda: (
        Net(lambda n, x: n.o((h := n.i(x)) + n.b(n.a(h).relu())), i=lin(2, 3), a=lin(3, 2), b=lin(2, 3), o=lin(3, 1)),
        X,
    ),
    "residual from the input": lambda: (
        Net(lambda n, x: n.o(x + n.b(n.a(x).relu())), a=lin(2, 3), b=lin(3, 2), o=lin(2, 1)),
        X,
    ),
    "residual, normed": lambda: (
        Net(
            lambda n, x: n.o((h := n.i(x)) + n.b(n.a(n.n(h)).relu())),
            i=lin(2, 3),
            n=nn.LayerNorm(3),
            a=lin(3, 2),
            b=lin(2, 3),
            o=lin(3, 1),
        ),
        X,
    ),
    "concatenation": lambda: (
        Net(lambda n, x: n.o(torch.cat([n.a(x), n.b(x)], 1).relu()), a=lin(2, 2), b=lin(2, 3), o=lin(5, 1)),
        X,
    ),
    "concatenation of one tensor twice": lambda: (
        Net(lambda n, x: n.o(torch.cat([(h := n.a(x)), h.relu()], 1)), a=lin(2, 3), o=lin(6, 1)),
        X,
    ),
    "dense block": lambda: (
        Net(
            lambda n, x: n.o(torch.cat([h := torch.cat([x, n.a(x).relu()], 1), n.b(h).relu()], 1)),
            a=lin(2, 2),
            b=lin(4, 2),
            o=lin(6, 1),
        ),
        X,
    ),
    "convolution": lambda: (nn.Sequential(nn.Conv2d(1, 3, 2), R(), nn.Flatten(), lin(12, 1)), IMAGE),
    "grouped convolution": lambda: (
        nn.Sequential(nn.Conv2d(1, 4, 1), R(), nn.Conv2d(4, 4, 1, groups=2), R(), nn.Conv2d(4, 1, 3)),
        IMAGE,
    ),
    "grouped convolution, three groups": lambda: (
        nn.Sequential(nn.Conv2d(1, 3, 1), R(), nn.Conv2d(3, 6, 1, groups=3), R(), nn.Conv2d(6, 1, 1)),
        IMAGE,
    ),
    "two grouped convolutions": lambda: (
        nn.Sequential(
            nn.Conv2d(1, 4, 1, bias=False),
            R(),
            nn.Conv2d(4, 4, 1, groups=2, bias=False),
            R(),
            nn.Conv2d(4, 4, 1, groups=2, bias=False),
            R(),
            nn.Conv2d(4, 1, 1, bias=False),
        ),
        IMAGE,
    ),
    "grouped convolution, shuffled": lambda: (
        nn.Sequential(
            nn.Conv2d(1, 4, 1),
            R(),
            nn.Conv2d(4, 4, 1, groups=2),
            R(),
            nn.ChannelShuffle(2),
            nn.Conv2d(4, 4, 1, groups=2),
            R(),
            nn.Conv2d(4, 1, 1),
        ),
        IMAGE,
    ),
    "groups that overlap": lambda: (
        nn.Sequential(
            nn.Conv2d(1, 4, 1),
            R(),
            nn.Conv2d(4, 4, 1, groups=2),
            R(),
            nn.Conv2d(4, 8, 1, groups=4),
            R(),
            nn.Conv2d(8, 1, 1),
        ),
        IMAGE,
    ),
    "grouped, transposed": lambda: (
        nn.Sequential(nn.Conv2d(1, 4, 1), R(), nn.ConvTranspose2d(4, 4, 1, groups=2), R(), nn.Conv2d(4, 1, 1)),
        IMAGE,
    ),
    "depthwise": lambda: (
        nn.Sequential(nn.Conv2d(1, 3, 1), R(), nn.Conv2d(3, 3, 2, groups=3), R(), nn.Conv2d(3, 1, 2)),
        IMAGE,
    ),
    "depthwise with multiplier": lambda: (
        nn.Sequential(nn.Conv2d(1, 2, 1), R(), nn.Conv2d(2, 4, 2, groups=2), R(), nn.Conv2d(4, 1, 2)),
        IMAGE,
    ),
    "batch norm": lambda: (
        nn.Sequential(nn.Conv2d(1, 3, 2, bias=False), nn.BatchNorm2d(3), R(), nn.Conv2d(3, 1, 2)),
        IMAGE,
    ),
    "group norm": lambda: (nn.Sequential(nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), R(), nn.Conv2d(4, 1, 2)), IMAGE),
    "two-head attention": lambda: (
        Net(lambda n, x: attend(n, x, 2), q=lin(1, 4, False), k=lin(1, 4, False), v=lin(1, 4, False), o=lin(4, 1)),
        SEQ,
    ),
    "two-head attention in a residual": lambda: (
        Net(
            lambda n, x: n.r((h := n.i(x)) + attend(n, h, 2)),
            i=lin(1, 2),
            q=lin(2, 2, False),
            k=lin(2, 2, False),
            v=lin(2, 2, False),
            o=lin(2, 2),
            r=lin(2, 1),
        ),
        SEQ,
    ),
    "grouped-query attention": lambda: (
        Net(
            lambda n, x: n.o(
                F.scaled_dot_product_attention(
                    n.q(x).unflatten(-1, (4, 1)).transpose(1, 2),
                    n.k(x).unflatten(-1, (2, 1)).transpose(1, 2),
                    n.v(x).unflatten(-1, (2, 1)).transpose(1, 2),
                    enable_gqa=True,
                )
                .transpose(1, 2)
                .flatten(2)
            ),
            q=lin(1, 4, False),
            k=lin(1, 2, False),
            v=lin(1, 2, False),
            o=lin(4, 1),
        ),
        SEQ,
    ),
    "fused view": lambda: (Net(lambda n, x: fused(n, x, (3, 2, 2), 0), qkv=lin(2, 12, False), o=lin(4, 1)), SEQ2),
    "fused, transposed view": lambda: (
        Net(lambda n, x: fused(n, x, (2, 3, 2), 1), qkv=lin(2, 12, False), o=lin(4, 1)),
        SEQ2,
    ),
    "fused, head size before heads": lambda: (
        Net(
            lambda n, x: n.o(
                F.scaled_dot_product_attention(
                    *(p.permute(0, 3, 1, 2) for p in n.qkv(x).unflatten(-1, (3, 2, 2)).unbind(2))
                )
                .permute(0, 2, 3, 1)
                .flatten(2)
            ),
            qkv=lin(2, 12, False),
            o=lin(4, 1),
        ),
        SEQ2,
    ),
    "fused, split": lambda: (
        Net(
            lambda n, x: n.o(
                F.scaled_dot_product_attention(
                    *(p.unflatten(-1, (2, 2)).transpose(1, 2) for p in n.qkv(x).split(4, -1))
                )
                .transpose(1, 2)
                .flatten(2)
            ),
            qkv=lin(2, 12, False),
            o=lin(4, 1),
        ),
        SEQ2,
    ),
    "view": lambda: (Net(lambda n, x: n.o(n.a(x).view(-1, 2, 2).relu().flatten(1)), a=lin(2, 4), o=lin(4, 1)), X),
    "view, summed": lambda: (Net(lambda n, x: n.o(n.a(x).view(-1, 2, 3).relu().sum(1)), a=lin(2, 6), o=lin(3, 1)), X),
    "view, summed inside": lambda: (
        Net(lambda n, x: n.o(n.a(x).view(-1, 2, 3).relu().sum(2)), a=lin(2, 6), o=lin(2, 1)),
        X,
    ),
    "transposed view": lambda: (
        Net(lambda n, x: n.o(n.a(x).view(-1, 2, 2).transpose(1, 2).flatten(1).relu()), a=lin(2, 4), o=lin(4, 1)),
        X,
    ),
    "transposed view of rows that are normed": lambda: (
        Net(lambda n, x: n.o(n.a(x).view(-1, 2, 2).softmax(-1).transpose(1, 2).flatten(1)), a=lin(2, 4), o=lin(4, 1)),
        X,
    ),
    "lstm": lambda: (Net(lambda n, x: n.o(last(n.l, x)), l=nn.LSTM(1, 2, batch_first=True), o=lin(2, 1)), SEQ),
    "lstm, three units": lambda: (
        Net(lambda n, x: n.o(last(n.l, x)), l=nn.LSTM(1, 3, batch_first=True, bias=False), o=lin(3, 1)),
        SEQ,
    ),
    "gru": lambda: (Net(lambda n, x: n.o(last(n.l, x)), l=nn.GRU(1, 2, batch_first=True), o=lin(2, 1)), SEQ),
    "rnn, two layers": lambda: (
        Net(lambda n, x: n.o(last(n.l, x)), l=nn.RNN(1, 2, 2, batch_first=True), o=lin(2, 1)),
        SEQ,
    ),
    "rnn, both directions": lambda: (
        Net(
            lambda n, x: n.o(n.l(x)[0].sum(1)),
            l=nn.RNN(1, 2, batch_first=True, bidirectional=True, bias=False),
            o=lin(4, 1),
        ),
        SEQ,
    ),
    "lstm, projected": lambda: (
        Net(
            lambda n, x: n.o(last(n.l, x)), l=nn.LSTM(1, 2, batch_first=True, proj_size=2 - 1, bias=False), o=lin(1, 1)
        ),
        SEQ,
    ),
    "gru cell": lambda: (Net(lambda n, x: n.o(n.c(x, n.c(x))), c=nn.GRUCell(2, 2), o=lin(2, 1)), X),
    "tied autoencoder": lambda: (
        Net(lambda n, x: F.linear(F.linear(x, n.w, n.b).relu(), n.w.t()), w=par(3, 2), b=par(3)),
        X,
    ),
    "tied layers": lambda: (Net(lambda n, x: n.o(n.a(n.a(n.i(x)).relu())), i=lin(2, 3), a=lin(3, 3), o=lin(3, 1)), X),
    "gated mlp": lambda: (
        Net(lambda n, x: n.d(F.silu(n.g(x)) * n.u(x)), g=lin(2, 3, False), u=lin(2, 3, False), d=lin(3, 1)),
        X,
    ),
    "glu": lambda: (Net(lambda n, x: n.d(F.glu(n.g(x))), g=lin(2, 6), d=lin(3, 1)), X),
    "dense experts": lambda: (Net(routed, r=lin(2, 2), w=par(2, 2, 2), u=par(2, 2, 1)), X),
    "softmax over units": lambda: (nn.Sequential(lin(2, 3), nn.Softmax(-1), lin(3, 1)), X),
    "max over units": lambda: (Net(lambda n, x: n.a(x).amax(1, keepdim=True) * n.s, a=lin(2, 3), s=par(1)), X),
    "a unit picked out": lambda: (Net(lambda n, x: (h := n.a(x).relu())[:, 1:2] + n.o(h), a=lin(2, 4), o=lin(4, 1)), X),
    "units cut in halves": lambda: (
        Net(
            lambda n, x: n.o(torch.cat([(h := n.a(x))[:, :2].relu(), h[:, 2:].sigmoid()], 1)), a=lin(2, 4), o=lin(4, 1)
        ),
        X,
    ),
    "halves that gate each other": lambda: (
        Net(
            lambda n, x: n.o((h := n.a(x)) * torch.cat([h[:, 2:].sigmoid(), h[:, :2].tanh()], 1)),
            a=lin(2, 4),
            o=lin(4, 1),
        ),
        X,
    ),
    "flipped units added": lambda: (
        Net(lambda n, x: n.o(n.a(x).relu() + n.b(x).flip(1)), a=lin(2, 2), b=lin(2, 2), o=lin(2, 1)),
        X,
    ),
    "locally connected": lambda: (
        Net(
            lambda n, x: torch.einsum("bph,ph->b", torch.einsum("bp,ph->bph", x, n.w).relu(), n.u),
            w=par(2, 2),
            u=par(2, 2),
        ),
        X,
    ),
    "padded shortcut": lambda: (
        Net(lambda n, x: n.o((F.pad(n.a(x), (1, 1)) + n.b(x)).relu()), a=lin(2, 2), b=lin(2, 4), o=lin(4, 1)),
        X,
    ),
    "repeated units": lambda: (Net(lambda n, x: n.o(n.a(x).relu().repeat(1, 2)), a=lin(2, 2), o=lin(4, 1)), X),
    "interleaved units": lambda: (
        Net(lambda n, x: n.o(n.a(x).relu().repeat_interleave(2, 1)), a=lin(2, 2), o=lin(4, 1)),
        X,
    ),
    "outer product": lambda: (
        Net(
            lambda n, x: n.o((n.a(x).unsqueeze(2) * n.b(x).unsqueeze(1)).flatten(1).relu()),
            a=lin(2, 2),
            b=lin(2, 2),
            o=lin(4, 1),
        ),
        X,
    ),
    "bilinear": lambda: (Net(lambda n, x: n.o(n.a(x), n.b(x)), a=lin(2, 2), b=lin(2, 2), o=nn.Bilinear(2, 2, 1)), X),
    "pixel shuffle": lambda: (
        nn.Sequential(nn.Conv2d(1, 8, 1), nn.PixelShuffle(2), R(), nn.Conv2d(2, 1, 2)),
        CORNER,
    ),
    "mixer": lambda: (
        Net(
            lambda n, x: n.o((h := n.i(x)) + n.t(h.transpose(1, 2)).relu().transpose(1, 2)),
            i=lin(1, 2),
            t=lin(3, 3),
            o=lin(2, 1),
        ),
        SEQ,
    ),
    "tokens made and mixed": lambda: (
        Net(
            lambda n, x: n.o(n.t(n.a(x).view(-1, 2, 3).transpose(1, 2)).relu().flatten(1)),
            a=lin(2, 6),
            t=lin(2, 2),
            o=lin(6, 1),
        ),
        X,
    ),
}


# Symmetries that are there and are not found, by design: a fixed permutation of units, or a space that lies in two
# separate runs of positions, cannot be written as an axis expression. They must stay sound.
TOO_SMALL = {
    "transposed view": (8, 24),
    "flipped units added": (1, 2),
    "a unit picked out": (2, 6),
    "padded shortcut": (2, 4),
}


@pytest.mark.parametrize("name", TOO_SMALL)
def test_where_the_group_is_known_to_be_too_small(name: str) -> None:
    torch.manual_seed(0)
    model, x = CASES[name]()
    entries, wanted = symmetries(model, x)
    found = discovered(weyl.discover(entries.model, (x,)), entries)
    assert found < wanted
    assert (len(found), len(wanted)) == TOO_SMALL[name], "better than it was? move it to the exact ones"


@pytest.mark.parametrize("name", sorted(CASES.keys() - TOO_SMALL.keys()))
def test_the_group_is_what_the_oracle_finds(name: str) -> None:
    torch.manual_seed(0)
    model, x = CASES[name]()
    entries, wanted = symmetries(model, x)
    structure = weyl.discover(entries.model, (x,))
    found = discovered(structure, entries)
    assert found <= wanted, "unsound: an element of the discovered group changes the function"
    assert found >= wanted, f"incomplete: {len(found)} of {len(wanted)} symmetries found\n{structure!r}"
    assert len(found) == int(structure.group.permutation_order), "elements must act differently"


# ------------------------------------------------------------------ the oracle can be trusted
def test_the_oracle_counts_the_swaps_of_neurons() -> None:
    _, found = symmetries(nn.Sequential(lin(2, 3), R(), lin(3, 2), R(), lin(2, 2)), X)
    assert len(found) == factorial(3) * factorial(2)


def test_the_oracle_finds_a_closed_set() -> None:
    model, x = CASES["grouped convolution"]()
    _, found = symmetries(model, x)
    assert all(tuple(a[i] for i in b) in found for a in found for b in found)


def test_the_oracle_sees_what_no_unit_explains() -> None:
    """A dead bias may be permuted at will: that the oracle says so shows that it knows no theory."""
    model = Net(lambda n, x: n.o(x + 0 * n.b), o=lin(2, 1), b=par(2))
    entries, found = symmetries(model, X)
    assert len(found) == 2
    assert discovered(weyl.discover(entries.model, (X,)), entries) < found


def test_a_group_that_is_too_large_is_caught() -> None:
    """Control: forget one operator (the residual link), and the discovered group is no longer inside the oracle's."""
    model, x = CASES["residual from the input"]()
    entries, wanted = symmetries(model, x)
    plain = Net(lambda n, x: n.o(n.b(n.a(x).relu())), a=lin(2, 3), b=lin(3, 2), o=lin(2, 1)).double()
    assert not discovered(weyl.discover(plain, (x,)), entries) <= wanted


def test_a_group_that_is_too_small_is_caught() -> None:
    """Control: hold one parameter still, and symmetries are missing."""
    model, x = CASES["mlp"]()
    entries, wanted = symmetries(model, x)
    held = weyl.discover(entries.model, (x,), fixed=["0.bias"])
    assert discovered(held, entries) < wanted
