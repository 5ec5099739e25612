"""Models for which some version of weyl claimed symmetries that they do not have, by what went wrong.

Most must come out trivial in the unit that matters; each order was worked out by hand. ``check`` moves the model along
what is found and compares outputs, so a group that is too large fails twice.
"""

from __future__ import annotations

from math import factorial as f

import pytest
import torch
import torch.nn.functional as F
from tests.laws.checks import check
from tests.laws.nets import Net, par
from torch import nn

import weyl

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def hidden(function, out=6, **more):
    """x (3, 4) through w and b to 6 units, a function of them, and o to 2 outputs."""
    return Net(lambda n, x: function(n, x @ n.w.t() + n.b) @ n.o, w=par(6, 4), b=par(6), o=par(out, 2), **more)


LABELS_AS_NUMBERS = {
    "label indexed": lambda n, h: n.e[h.argmax(-1)[torch.tensor([2, 0])]],
    "label read out": lambda n, h: h + h.argmax(-1, keepdim=True)[torch.tensor([0, 1, 2])],
    "label strided": lambda n, h: h[::2] + h.argmax(-1, keepdim=True)[::2],
    "label flipped": lambda n, h: h + h.argmax(-1, keepdim=True).flip(0),
    "label rolled": lambda n, h: h + h.argmax(-1, keepdim=True).roll(1, 0),
    "label scattered": lambda n, h: (
        torch.zeros(3, 6).long().scatter(1, torch.tensor([[0], [1], [2]]), h.argmax(-1, True)) + h
    ),
}


@pytest.mark.parametrize("name", LABELS_AS_NUMBERS)
def test_labels_used_as_numbers_pin(name):
    structure = check(hidden(LABELS_AS_NUMBERS[name], e=par(6, 6)), X, strict=False)
    assert not any(space.name == "w" for space in structure.spaces)


TIES = {
    "comparison": lambda h: (h > 0).int().argmax(-1),
    "relu": lambda h: torch.relu(h - 1).argmax(-1),
    "sign": lambda h: h.sign().max(-1)[1],
    "rounding": lambda h: h.round().argmax(-1),
    "top of relu": lambda h: torch.relu(h - 1).topk(1, -1)[1][:, 0],
}


@pytest.mark.parametrize("name", TIES)
def test_which_of_equal_entries_is_first_depends_on_their_order(name):
    model = Net(lambda n, x: n.e[TIES[name](x @ n.w.t())] @ n.o, w=par(6, 4), e=par(6, 5), o=par(5, 2))
    structure = check(model, X, order=f(5))
    assert {space.size for space in structure.spaces if space.permuted} == {5}


def test_the_first_of_copies_is_always_the_first():
    def forward(n, x):
        return n.e[(x @ n.w.t()).mean(-1, keepdim=True).expand(3, 6).argmax(-1)] @ n.o

    structure = check(Net(forward, w=par(6, 4), e=par(6, 5), o=par(5, 2)), X, order=f(6) * f(5))
    assert ("e", 0) not in [place for space in structure.spaces for place in space.occurrences]


def test_without_ties_labels_move_with_the_units():
    model = Net(lambda n, x: n.e[(x @ n.w.t() + n.b).argmax(-1)] @ n.o, w=par(6, 4), b=par(6), e=par(6, 5), o=par(5, 2))
    check(model, X, order=f(6) * f(5))


def test_without_a_bias_an_input_of_zeros_makes_ties():
    model = Net(lambda n, x: n.e[(x @ n.w.t()).argmax(-1)] @ n.o, w=par(6, 4), e=par(6, 5), o=par(5, 2))
    check(model, torch.zeros(3, 4), order=f(5))


EXPERTS = {"r": (4, 3), "b": (3,), "w": (3, 4, 5), "o": (3, 5, 2)}


def experts(function):
    return Net(function, **{name: par(*shape) for name, shape in EXPERTS.items()})


def run(n, x, i, j):
    hidden = torch.relu(torch.einsum("bi,bkih->bkh", x, n.w[i]))
    return torch.einsum("bkh,bkho->bo", hidden, n.o[j])


def test_routed_experts():
    model = experts(lambda n, x: run(n, x, *[(x @ n.r + n.b).topk(2, -1)[1]] * 2))
    check(model, X, order=f(3) * f(5) ** 3)


OTHER_EXPERTS = {
    "other rank": lambda i: i.flip(1),
    "other token": lambda i: i[torch.tensor([1, 2, 0])],
    "other slice": lambda i: torch.cat([i[:, 1:], i[:, :1]], 1),
}


@pytest.mark.parametrize("name", OTHER_EXPERTS)
def test_units_of_different_experts_are_not_told_apart(name):
    """The hidden units of one expert are read by another: they must move alike in all experts."""

    def forward(n, x):
        i = (x @ n.r + n.b).topk(2, -1)[1]
        return run(n, x, i, OTHER_EXPERTS[name](i))

    structure = check(experts(forward), X)
    assert int(structure.group.permutation_order) % f(5) == 0
    assert all(space.multiplicity == 1 for space in structure.spaces)


def test_one_label_along_two_axes():
    def forward(n, x):
        i = (x @ n.r + n.b).argmax(-1)
        h = torch.einsum("bi,bih->bh", x, n.w[i])
        return torch.einsum("abh,aho->abo", torch.relu(h[:, None] + h[None]), n.o[i])

    structure = check(experts(forward), X)
    assert all(space.multiplicity == 1 for space in structure.spaces)


SCATTERED = {
    "mask of the largest": (lambda n, h: torch.zeros_like(h).scatter(1, h.topk(2, -1)[1], 1.0) * h, f(6)),
    "mask alone": (lambda n, h: torch.zeros_like(h).scatter(1, h.topk(2, -1)[1], 1.0), f(6)),
    "added to places": (
        lambda n, h: torch.zeros(5, 6, dtype=h.dtype).scatter_add(0, torch.tensor([[0], [1], [4]]).expand(3, 6), h),
        f(6),
    ),
    "all in order of size": (
        lambda n, h: torch.zeros_like(h).scatter(1, h.argsort(-1), 1.0) * h,
        f(6),
    ),
    "rows added": (lambda n, h: torch.zeros(5, 6, dtype=h.dtype).index_add(0, torch.tensor([0, 1, 4]), h), f(6)),
    "columns added": (lambda n, h: h.index_add(1, torch.tensor([0, 3]), h[:, :2]), 1),
}


@pytest.mark.parametrize("name", SCATTERED)
def test_scatter(name):
    function, order = SCATTERED[name]
    check(hidden(function), X, order=order)


UNIFORM = {
    "triangle": lambda n, h: (h[:, :, None].expand(3, 6, 6).tril() * n.m).sum(1),
    "rolled whole": lambda n, h: h[:, None].expand(3, 6, 6).roll(1)[:, 0] * 1,
    "turned": lambda n, h: (h[0].expand(6, 6).rot90()[:3]) * 1,
    "causal": lambda n, h: F.scaled_dot_product_attention(
        h[:, :, None], h[:, :, None] + 1, h[:, :, None], is_causal=True
    )[..., 0],
}


@pytest.mark.parametrize("name", UNIFORM)
def test_positions_along_which_nothing_varied(name):
    check(hidden(UNIFORM[name], m=par(6, 6)), X)


BLURS = {
    "depthwise": lambda h: F.conv1d(h, torch.ones(4, 1, 2, dtype=h.dtype) / 2, groups=4),
    "grouped": lambda h: F.conv1d(h, torch.ones(4, 2, 1, dtype=h.dtype), groups=2),
    "transposed": lambda h: F.conv_transpose1d(h, torch.ones(4, 1, 2, dtype=h.dtype), groups=4),
}


@pytest.mark.parametrize("name", BLURS)
def test_a_kernel_that_is_the_same_for_all_channels(name):
    """Channels stay what they were: no unit of b moves without its unit of w."""
    model = Net(lambda n, x: (BLURS[name]((x @ n.w).view(3, 4, 3)).tanh() * n.b[:, None]).sum(), w=par(4, 12), b=par(4))
    structure = check(model, X, control=False)
    alone = [space for space in structure.spaces if {place for place, _ in space.occurrences} == {"b"}]
    # all outputs of one group are the same sum, so the two entries of b that weigh them may be swapped
    assert not alone if name != "grouped" else [space.size for space in alone] == [2]


MAYBE_EQUAL = {
    "dead layer before": lambda n, x: torch.relu(x @ n.w.t() - 2) @ n.r,
    "padded before": lambda n, x: F.pad(x @ n.w.t() + n.b, (0, 0, 0, 1))[1:] @ n.r,
    "masked": lambda n, x: (x @ n.w.t() @ n.r + n.c) * torch.tensor([[1.0], [0.0], [1.0]], dtype=x.dtype),
    "masked by an input": lambda n, x: (x @ n.w.t() @ n.r + n.c) * (x[:, :1] > 0),
    "masked out": lambda n, x: (x @ n.w.t() @ n.r + n.c) + torch.tensor([[0.0], [-torch.inf], [0.0]], dtype=x.dtype),
    "bias times nothing": lambda n, x: torch.addmm(n.c, torch.relu(x @ n.w.t() - 2), n.r, beta=0),
    "added times nothing": lambda n, x: torch.add(torch.relu(x @ n.w.t() - 2) @ n.r, n.c, alpha=0),
    "difference": lambda n, x: (h := x @ n.w.t() @ n.r + n.c) - h,
    "one of a pair": lambda n, x: torch.layer_norm((x @ n.w.t() @ n.r + n.c)[:, :, None].expand(3, 5, 2), (2,))[..., 0],
    "rounded": lambda n, x: (x @ n.w.t() @ n.r + n.c).to(torch.int32),
}


@pytest.mark.parametrize("name", MAYBE_EQUAL)
def test_labels_of_what_may_be_equal_pin(name):
    def forward(n, x):
        return n.e[MAYBE_EQUAL[name](n, x).argmax(-1)] @ n.o

    model = Net(forward, w=par(6, 4), b=par(6), r=par(6, 5), c=par(5), e=par(5, 3), o=par(3, 2))
    structure = check(model, X, strict=False, control=False)
    assert ("e", 0) not in [place for space in structure.spaces for place in space.occurrences]


def test_a_bias_tells_units_apart_whatever_came_before():
    def forward(n, x):
        return n.e[(torch.relu(x @ n.w.t() - 2) @ n.r + n.b).softmax(-1).argmax(-1)] @ n.o

    check(Net(forward, w=par(6, 4), r=par(6, 5), b=par(5), e=par(5, 3), o=par(3, 2)), X, order=f(6) * f(5) * f(3))


def test_largest_ones_in_no_order():
    def forward(n, x):
        top = (x @ n.r + n.b).topk(3, -1, sorted=False)
        return (n.e[top.indices] * n.q[:, None]).sum(1) @ n.o

    structure = check(Net(forward, r=par(4, 6), b=par(6), q=par(3), e=par(6, 5), o=par(5, 2)), X, order=f(5))
    assert ("e", 0) not in [place for space in structure.spaces for place in space.occurrences]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_labels_cast_to_a_narrow_type_are_numbers(dtype):
    def forward(n, x):
        return n.e[(x @ n.r + n.b).argmax(-1).to(dtype).to(torch.int64)] @ n.o

    check(Net(forward, r=par(4, 6), b=par(6), e=par(6, 5), o=par(5, 2)), X, order=f(5))


def test_scatter_into_fewer_rows_than_there_are():
    def forward(n, x):
        index = (x @ n.r + n.b).topk(2, 1)[1][:2]
        return (torch.zeros(4, 6, dtype=x.dtype).scatter(1, index, 1.0) * n.q).tanh().sum() + 0 * x.sum()

    structure = check(Net(forward, r=par(4, 6), b=par(6), q=par(4, 6)), X, control=False)
    assert all(space.size == 6 for space in structure.spaces)


def test_dropout_that_is_off_returns_its_input_itself():
    def forward(n, x):
        hidden = n.a(x)
        dropped = F.dropout(hidden, 0.1, training=False)
        dropped *= n.g
        return n.c(torch.tanh(hidden))

    structure = check(Net(forward, a=nn.Linear(4, 6), g=par(6), c=nn.Linear(6, 2)), X, order=f(6))
    assert structure.unused == ()


MIXED = {
    "addr": (lambda n: torch.addr(n.a, n.b, n.c) * n.o, {"a": (3,), "b": (2,), "c": (3,), "o": (2, 3)}),
    "diagonal": (lambda n: n.a.diagonal(0, 2, 0) * n.o, {"a": (3, 4, 3), "o": (4, 3)}),
    "batched distances": (
        lambda n: torch.cdist(n.a, n.b) * n.o,
        {"a": (3, 3, 3, 4), "b": (3, 3, 4), "o": (3, 3, 3, 3)},
    ),
    "complex": (lambda n: torch.complex(n.a, n.b).real * n.o, {"a": (3, 4), "b": (3, 4), "o": (3, 4)}),
    "filled diagonal": (lambda n: n.a.expand(4, 4).clone().fill_diagonal_(0.0) * n.o, {"a": (4, 4), "o": (4, 4)}),
    "inverse": (lambda n: torch.linalg.inv(n.a @ n.a.t() + torch.eye(4)) * n.o, {"a": (4, 3), "o": (4, 4)}),
}


@pytest.mark.parametrize("name", MIXED)
def test_operators_that_were_misread(name):
    function, shapes = MIXED[name]
    model = Net(lambda n, x: function(n).real.tanh().sum() + 0 * x.sum(), **{k: par(*s) for k, s in shapes.items()})
    check(model, X, strict=False, control=False)


@pytest.mark.parametrize("cell", [nn.GRU, nn.RNN])
def test_a_start_state_for_every_sample(cell):
    model = Net(lambda n, x: n.o(n.r(x, n.h)[0]), r=cell(4, 5), h=par(1, 6, 5), o=nn.Linear(5, 2))
    check(model, torch.randn(7, 6, 4), order=f(5))


def overlapping():
    base = torch.randn(8, 4)
    first, second = nn.Parameter(base[:6]), nn.Parameter(base[2:])
    return Net(
        lambda n, x: torch.relu(x @ n.a.t()) @ n.o + torch.relu(x @ n.b.t()) @ n.o, a=first, b=second, o=par(6, 2)
    )


def transposed():
    weight = par(4, 4)
    return Net(lambda n, x: torch.relu(x @ n.a) @ n.b @ n.o, a=weight, b=nn.Parameter(weight.data.t()), o=par(4, 2))


@pytest.mark.parametrize("build", [overlapping, transposed])
def test_parameters_that_share_memory_are_held_still(build):
    model = build()
    structure = weyl.discover(model, (X,))
    assert not any(name in ("a", "b") for space in structure.spaces for name, _ in space.occurrences)
    assert any("shares memory" in note for note in structure.notes)


def test_rows_that_the_example_does_not_read():
    """A longer input would read them, so they are not interchangeable."""
    model = Net(lambda n, x: (x @ n.w + n.p[: x.shape[0]]).relu() @ n.o, w=par(4, 6), p=par(9, 6), o=par(6, 2))
    check(model, X, order=f(6))


def test_a_position_that_depends_on_data_is_opaque():
    model = Net(lambda n, x: n.e[(x @ n.w.t())[0].argmax().item()] @ n.o, w=par(6, 4), e=par(6, 5), o=par(5, 2))
    structure = weyl.discover(model, (X,))
    assert structure.opaque
    assert ("e", 0) not in [place for space in structure.spaces for place in space.occurrences]


def test_a_constant_run_of_positions_is_a_slice():
    """Keys and values of a fused projection picked by lists, as Falcon does: S_2 heads of S_3 queries, S_3 values."""

    def forward(n, x):
        h = (x @ n.w.t()).view(3, 2, 4, 3)
        queries, keys, values = h[:, :, :-2], h[:, :, [-2]], h[:, :, [-1]]
        scores = torch.einsum("bgqd,cgkd->bcgq", queries, keys).softmax(1)
        return torch.einsum("bcgq,cgkd->bgqd", scores, values).flatten(1) @ n.o

    model = Net(forward, w=par(24, 4), o=par(12, 2))
    check(model, X, order=f(2) * (f(2) * f(3) * f(3)) ** 2)


def test_what_nothing_depends_on_is_unused_and_still():
    def forward(n, x):
        n.d(x)
        return n.a(x)

    structure = check(Net(forward, a=nn.Linear(4, 3), d=nn.Linear(4, 6)), X, order=1)
    assert structure.unused == ("d.weight", "d.bias")
