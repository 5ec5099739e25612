"""Networks without symmetry, each beside a sibling that has it: what must be held still, and what must not be."""

from __future__ import annotations

from collections.abc import Callable
from math import factorial as f

import pytest
import torch
import torch.nn.functional as F
from tests.laws.checks import check, error, outputs, random_state
from tests.laws.nets import Net, between, features, lin, par
from torch import Tensor, nn

import weyl

X = features(5, 4)
ALL = f(6)
Made = Callable[[], nn.Module]


class Masked(nn.Module):
    """Lim et al. 2024, first kind: in every row some entries, at random places, are fixed at random values."""

    def __init__(self, mask: Tensor, values: Tensor, persistent: bool = False) -> None:
        super().__init__()
        self.a, self.b = lin(4, 6), lin(6, 3)
        self.register_buffer("mask", mask, persistent=persistent)
        self.register_buffer("values", values, persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.where(self.mask, self.a.weight, self.values)
        return self.b(F.gelu(F.linear(x, weight, self.a.bias)))


def random_mask(seed: int = 0) -> Tensor:
    """One or two fixed entries in each of six rows of four, at other places in every row."""
    mask = torch.ones(6, 4, dtype=torch.bool)
    for row, places in enumerate([(0,), (1,), (2,), (3,), (0, 1), (1, 2)]):
        mask[row, list(places)] = False
    return mask[torch.randperm(6, generator=torch.Generator().manual_seed(seed))]


VALUES = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
MIX = torch.randn(6, 6, generator=torch.Generator().manual_seed(2))


class Gated(nn.Module):
    """Lim et al. 2024, second kind: every activation is gated by a fixed random mixture, ``sigmoid(C x) * x``."""

    def __init__(self, how: str, mix: Tensor) -> None:
        super().__init__()
        self.a, self.b, self.how = lin(4, 6), lin(6, 3), how
        match how:
            case "persistent":
                self.register_buffer("mix", mix)
            case "buffer":
                self.register_buffer("mix", mix, persistent=False)
            case "attribute":
                self.mix = mix.double()
            case "constant":
                self.numbers = mix.tolist()

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        mix = torch.tensor(self.numbers).to(h) if self.how == "constant" else self.mix
        return self.b(torch.sigmoid(F.linear(h, mix)) * h)


def buffered(forward: Callable, persistent: bool, **buffers: Tensor) -> nn.Module:
    net = Net(forward, a=lin(4, 6), o=lin(6, 3))
    for name, tensor in buffers.items():
        net.register_buffer(name, tensor, persistent=persistent)
    return net


def attributed(forward: Callable, **tensors: Tensor) -> nn.Module:
    net = Net(forward, a=lin(4, 6), o=lin(6, 3))
    for name, tensor in tensors.items():
        setattr(net, name, tensor)
    return net


NUMBERS = torch.tensor([0.3, -1.2, 0.7, 2.1, -0.4, 0.9]).double()
EQUAL = torch.full((6,), 0.7).double()
scaled = lambda n, x: n.o((n.a(x) * n.c).tanh())  # noqa: E731
projected = lambda n, x: n.o((n.a(x) @ n.c).tanh())  # noqa: E731

# name: (without symmetry, its order, sibling, its order)
PAIRS: dict[str, tuple[Made, int, Made, int]] = {
    "fixed entries": (
        lambda: Masked(random_mask(), VALUES),
        1,
        lambda: Masked(torch.ones(6, 4, dtype=torch.bool), torch.zeros(6, 4)),
        ALL,
    ),
    "fixed entries, saved with the weights": (
        lambda: Masked(random_mask(), VALUES),
        1,
        lambda: Masked(random_mask(), VALUES, persistent=True),
        ALL,
    ),
    "fixed gate in a buffer": (lambda: Gated("buffer", MIX), 1, lambda: Gated("persistent", MIX), ALL),
    "fixed gate in an attribute": (
        lambda: Gated("attribute", MIX),
        1,
        lambda: Gated("attribute", torch.ones(6, 6)),
        ALL,
    ),
    "fixed gate in the code": (lambda: Gated("constant", MIX), 1, lambda: Gated("constant", torch.ones(6, 6)), ALL),
    "cumsum over features": (lambda: between(lambda h: h.cumsum(1)), 1, lambda: between(lambda h: h.cumsum(0)), ALL),
    "fixed projection": (
        lambda: buffered(projected, False, c=MIX),
        1,
        # saved, it is a parameter like any other, between two spaces
        lambda: buffered(projected, True, c=MIX),
        ALL * ALL,
    ),
    "fixed projection as an attribute": (
        lambda: attributed(projected, c=MIX.double()),
        1,
        lambda: attributed(projected, c=torch.ones(6, 6).double()),
        None,
    ),
    "mask over features": (
        lambda: attributed(scaled, c=torch.tensor([1, 0, 1, 1, 0, 1]).double()),
        1,
        lambda: attributed(scaled, c=torch.ones(6).double()),
        ALL,
    ),
    "constants a unit": (lambda: attributed(scaled, c=NUMBERS), 1, lambda: attributed(scaled, c=EQUAL), ALL),
    "constants a unit, learnt": (
        lambda: attributed(scaled, c=NUMBERS),
        1,
        lambda: Net(scaled, a=lin(4, 6), o=lin(6, 3), c=par(6)),
        ALL,
    ),
    "constants a unit, in a buffer": (
        lambda: buffered(scaled, False, c=NUMBERS),
        1,
        lambda: buffered(scaled, True, c=NUMBERS),
        ALL,
    ),
    "argmax as a number": (
        lambda: between(lambda h: h * h.argmax(1, keepdim=True).to(h)),
        1,
        lambda: between(lambda h: h * F.one_hot(h.argmax(1), 6).to(h)),
        ALL,
    ),
    "sorted by a fixed order": (
        lambda: between(lambda h: h[:, torch.tensor([3, 1, 0, 5, 2, 4])]),
        1,
        lambda: between(lambda h: h.sort(1).values),
        ALL,
    ),
    "numbers of an argsort": (
        lambda: between(lambda h: h + h.argsort(1).to(h)),
        1,
        lambda: between(lambda h: h.gather(1, h.argsort(1))),
        ALL,
    ),
    "roll": (lambda: between(lambda h: h + h.roll(1, 1)), 1, lambda: between(lambda h: h + h.roll(1, 0)), ALL),
    "flip": (lambda: between(lambda h: h * h.flip(1).cos()), 1, lambda: between(lambda h: h * h.flip(0).cos()), ALL),
    "fourier transform": (
        lambda: between(lambda h: torch.fft.fft(h, dim=1).real),
        1,
        lambda: between(lambda h: h),
        ALL,
    ),
    "position-dependent softmax temperature": (
        lambda: between(lambda h: (h * torch.arange(1, 7).to(h)).softmax(1)),
        1,
        lambda: between(lambda h: (h * 2.0).softmax(1)),
        ALL,
    ),
    "the input is added": (
        lambda: Net(lambda n, x: n.o(x + n.a(x).relu()), a=lin(4, 4), o=lin(4, 3)),
        1,
        lambda: Net(lambda n, x: n.o(n.a(x).relu()), a=lin(4, 4), o=lin(4, 3)),
        f(4),
    ),
    "the hidden layer is an output": (
        lambda: Net(lambda n, x: (n.o(h := n.a(x).relu()), h), a=lin(4, 6), o=lin(6, 3)),
        1,
        lambda: Net(lambda n, x: (n.o(h := n.a(x).relu()), h.sum(1)), a=lin(4, 6), o=lin(6, 3)),
        ALL,
    ),
    "the first unit is an output": (
        lambda: Net(lambda n, x: (n.o(h := n.a(x).relu()), h[:, :1]), a=lin(4, 6), o=lin(6, 3)),
        f(5),
        lambda: Net(lambda n, x: (n.o(h := n.a(x).relu()), h.amax(1)), a=lin(4, 6), o=lin(6, 3)),
        ALL,
    ),
    "triangular weights": (
        lambda: Net(lambda n, x: n.o(F.linear(n.a(x), n.w.tril()).relu()), a=lin(4, 6), w=par(6, 6), o=lin(6, 3)),
        1,
        lambda: Net(lambda n, x: n.o(F.linear(n.a(x), n.w).relu()), a=lin(4, 6), w=par(6, 6), o=lin(6, 3)),
        ALL * ALL,
    ),
    "circulant weights": (
        lambda: Net(
            lambda n, x: n.o(n.a(x) @ torch.stack([n.c.roll(i, 0) for i in range(6)])),
            a=lin(4, 6),
            c=par(6),
            o=lin(6, 3),
        ),
        1,
        lambda: Net(lambda n, x: n.o(n.a(x) * n.c), a=lin(4, 6), c=par(6), o=lin(6, 3)),
        ALL,
    ),
    "hash of a unit's place": (
        lambda: between(lambda h: h + (torch.arange(6).to(h) * 12.9898).sin()),
        1,
        lambda: between(lambda h: h + (torch.zeros(6).to(h) + 12.9898).sin()),
        ALL,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_without_symmetry(name: str) -> None:
    model, order, _, _ = PAIRS[name]
    check(model(), X, order=order, strict=False)


@pytest.mark.parametrize("name", PAIRS)
def test_its_sibling_with_symmetry(name: str) -> None:
    _, _, model, order = PAIRS[name]
    structure = check(model(), X, order=order, strict=False)
    assert not structure.group.trivial


@pytest.mark.parametrize(
    "name", ["fixed entries", "fixed gate in a buffer", "cumsum over features", "constants a unit"]
)
def test_they_are_asymmetric_indeed(name: str) -> None:
    """No exchange of two units keeps the function: the trivial group is not mere caution."""
    model = PAIRS[name][0]().double().eval()
    state = random_state(model)
    rows, bias, columns = (
        key for key in state if key.endswith(("weight", "bias")) and not key.endswith(("b.bias", "2.bias", "o.bias"))
    )
    before = outputs(model, state, (X.double(),))
    for i in range(6):
        for j in range(i):
            swap = torch.arange(6)
            swap[[i, j]] = torch.tensor([j, i])
            moved = {rows: state[rows][swap], bias: state[bias][swap], columns: state[columns][:, swap]}
            assert error(before, outputs(model, {**state, **moved}, (X.double(),))) > 1e-6, (i, j)


@pytest.mark.parametrize("order", [True, False])
def test_a_mask_over_positions_is_no_mask_over_units(order: bool) -> None:
    """A causal mask names positions, and positions only."""
    x = features(2, 5, 4)

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        h = net.a(x)
        mask = torch.ones(5, 5, dtype=torch.bool).tril() if order else torch.ones(5, 5, dtype=torch.bool)
        return net.o((h @ h.transpose(1, 2)).masked_fill(~mask, -1e9).softmax(-1) @ h)

    check(Net(forward, a=lin(4, 6), o=lin(6, 3)), x, order=ALL)


def test_strict_names_what_is_not_understood() -> None:
    model = between(lambda h: torch.fft.fft(h, dim=1).real)
    with pytest.raises(weyl.OpaqueError, match="fft"):
        weyl.discover(model, (X,), strict=True)
    opaque = weyl.discover(model, (X,)).opaque
    assert any("fft" in o.op and "0.weight[0]" in o.pinned for o in opaque)
    assert weyl.discover(between(torch.relu), (X,), strict=True).opaque == ()


def test_what_is_held_by_the_caller() -> None:
    model = between(torch.relu)
    assert weyl.discover(model, (X,), fixed=["0.bias"]).group.trivial
    assert int(weyl.discover(model, (X,)).group.permutation_order) == ALL
