"""Small networks with structures written by hand, one for every kind of gauge."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from weyl.groups import Gauge, GaugeKind, Kind, Space
from weyl.structure import Absorption, Block, Fixed, Product, Structure, Sum, Units, Weight

EPS = 1e-2


@dataclass(frozen=True)
class Case:
    net: nn.Module
    inputs: torch.Tensor
    structure: Structure

    @property
    def state(self):
        return self.net.state_dict()

    @property
    def rounds(self):
        """Whether even signs and powers of two leave rounding: something is added."""
        weights = [w for tensors in self.structure.weights.values() for several in tensors.values() for w in several]
        return bool(self.structure.offsets or self.structure.absorptions or any(w.coefficient for w in weights))

    @property
    def commutative(self):
        moves = any(space.permuted for space in self.structure.spaces)
        return not moves and not any(gauge.kind.matrix for gauge in self.structure.gauges)

    def outputs(self, state):
        return torch.func.functional_call(self.net, state, (self.inputs,))


def units(space, dim=0, exponent=1, coefficient=0.0, base=0):
    """A weight on the units of a space that fill a dimension, or a part of it from ``base`` on."""
    block = Block(base, ((space.name, space.size, 1),))
    return (Weight(((dim, block),), dim, 0, exponent, coefficient),)


def case(net, inputs, spaces, axes, gauges, weights, **rest):
    torch.manual_seed(3)
    net = net.double().eval()
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.3 if "var" in name else torch.randn_like(tensor))
    given = {name: axes.get(name, tuple(Fixed(n) for n in tensor.shape)) for name, tensor in net.state_dict().items()}
    return Case(net, torch.randn(*inputs).double(), Structure(spaces, given, gauges=gauges, weights=weights, **rest))


def two_layers(activation, kind, gauge, out=1, **rest):
    """Linear, activation, linear; the gauge multiplies the hidden units, the reader by ``out``."""
    h = Space("h", 4, kind)
    g = Gauge("g", "h", gauge)
    weights = {"g": {"0.weight": units(h), "0.bias": units(h), "2.weight": units(h, 1, out)}}
    net = nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2))
    u = Units("h", 4)
    axes = {"0.weight": (u, Fixed(3)), "0.bias": (u,), "2.weight": (Fixed(2), u)}
    return case(net, (5, 3), (h,), axes, (g,), weights, **rest)


class RootMeanSquare(nn.Module):
    def forward(self, x):
        return x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt()


class Sine(nn.Module):
    def forward(self, x):
        return x.sin()


def sigmoid():
    flips = Absorption("2.bias", "2.weight", 1, Block(0, (("h", 4, 1),)))
    return two_layers(nn.Sigmoid(), Kind.HYPEROCTAHEDRAL, GaugeKind.SIGN, absorptions={"g": (flips,)})


def sigmoid_convolution():
    h = Space("h", 4, Kind.HYPEROCTAHEDRAL)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 3, 2))
    u = Units("h", 4)
    axes = {"0.weight": (u, Fixed(2), Fixed(3), Fixed(3)), "0.bias": (u,)}
    axes["2.weight"] = (Fixed(3), u, Fixed(2), Fixed(2))
    weights = {"g": {"0.weight": units(h), "0.bias": units(h), "2.weight": units(h, 1)}}
    flips = Absorption("2.bias", "2.weight", 1, Block(0, (("h", 4, 1),)))
    gauges = (Gauge("g", "h", GaugeKind.SIGN),)
    return case(net, (2, 2, 6, 6), (h,), axes, gauges, weights, absorptions={"g": (flips,)})


def batch_norm():
    """Signs, scales and translations of the input of a batch normalisation."""
    h = Space("h", 4, Kind.MONOMIAL)
    sign, scale = Gauge("sign", "h", GaugeKind.SIGN), Gauge("scale", "h", GaugeKind.SCALE)
    shift = Gauge("shift", "h", GaugeKind.TRANSLATION, (("sign", 1), ("scale", 1)))
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, eps=EPS), nn.GELU(), nn.Linear(4, 2))
    u = Units("h", 4)
    axes = {"0.weight": (u, Fixed(3)), "3.weight": (Fixed(2), u)}
    axes |= {name: (u,) for name in ("0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var")}
    before = ("0.weight", "0.bias", "1.running_mean")
    weights = {
        "sign": {name: units(h) for name in (*before, "1.weight")},
        "scale": {name: units(h) for name in before} | {"1.running_var": units(h, 0, 2)},
        "shift": {name: units(h, coefficient=1.0) for name in before[1:]},
    }
    return case(net, (5, 3), (h,), axes, (sign, scale, shift), weights, offsets={"1.running_var": EPS})


def sine():
    h = Space("h", 4, Kind.HYPEROCTAHEDRAL)
    sign, shift = Gauge("sign", "h", GaugeKind.SIGN), Gauge("shift", "h", GaugeKind.SHIFT, (("sign", 1),))
    u = Units("h", 4)
    axes = {"0.weight": (u, Fixed(3)), "0.bias": (u,), "2.weight": (Fixed(2), u)}
    weights = {
        "sign": {"0.weight": units(h), "0.bias": units(h), "2.weight": units(h, 1)},
        "shift": {"0.bias": units(h, coefficient=torch.pi), "2.weight": units(h, 1)},
    }
    return case(nn.Sequential(nn.Linear(3, 4), Sine(), nn.Linear(4, 2)), (5, 3), (h,), axes, (sign, shift), weights)


class Gates(nn.Module):
    """One tensor writes two gates of the same units, and only the second is odd."""

    def __init__(self):
        super().__init__()
        self.write, self.read = nn.Linear(3, 8), nn.Linear(4, 2)

    def forward(self, x):
        gate, candidate = self.write(x).chunk(2, -1)
        return self.read(gate.sigmoid() * candidate.tanh())


def gates():
    h = Space("h", 4, Kind.HYPEROCTAHEDRAL)
    both = Sum((Units("h", 4), Units("h", 4)))
    axes = {"write.weight": (both, Fixed(3)), "write.bias": (both,), "read.weight": (Fixed(2), Units("h", 4))}
    second = units(h, base=4)
    weights = {"g": {"write.weight": second, "write.bias": second, "read.weight": units(h, 1)}}
    return case(Gates(), (5, 3), (h,), axes, (Gauge("g", "h", GaugeKind.SIGN),), weights)


class Rotary(nn.Module):
    """Scores of queries and keys that are rotated by their position, halves paired."""

    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)

    def forward(self, x):
        angle = torch.arange(len(x), dtype=x.dtype)[:, None] * torch.tensor([1.0, 0.3], dtype=x.dtype)
        return turn(self.q(x), angle) @ turn(self.k(x), angle).T


def turn(x, angle):
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


def rotary():
    pairs = Space("pairs", 2, Kind.TRIVIAL)
    block = Block(0, (("pairs", 2, 1),))
    weights = {
        name: (Weight(((0, block),), 0, 0, exponent, partner=2),)
        for name, exponent in (("q.weight", 1), ("k.weight", -1))
    }
    axes = {name: (Product((Fixed(2), Units("pairs", 2))), Fixed(3)) for name in weights}
    return case(Rotary(), (5, 3), (pairs,), axes, (Gauge("g", "pairs", GaugeKind.COMPLEX),), {"g": weights})


def heads():
    """Values and outputs of attention heads: an invertible matrix for every head, in the dimension of the heads."""
    spaces = (Space("h", 2), Space("d", 3, Kind.LINEAR, within=("h",)))
    both = Product((Units("h", 2), Units("d", 3)))
    block = Block(0, (("h", 2, 3), ("d", 3, 1)))
    axes = {"0.weight": (both, Fixed(3)), "0.bias": (both,), "1.weight": (Fixed(2), both)}
    weights = {
        "0.weight": (Weight(((0, block),), 0, 1),),
        "0.bias": (Weight(((0, block),), 0, 1),),
        "1.weight": (Weight(((1, block),), 1, 1, -1),),
    }
    net = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2))
    return case(net, (5, 3), spaces, axes, (Gauge("g", "d", GaugeKind.LINEAR),), {"g": weights})


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.bias = nn.Parameter(torch.zeros(2, 4, 3)), nn.Parameter(torch.zeros(2, 4))
        self.down = nn.Parameter(torch.zeros(5, 4, 2))

    def forward(self, x):
        hidden = (torch.einsum("efi,bi->bef", self.up, x) + self.bias).relu()
        return torch.einsum("ofe,bef->bo", self.down, hidden)


def experts():
    """Hidden units of experts: the index of the expert stands in another dimension, before or after the units."""
    spaces = (Space("e", 2), Space("f", 4, Kind.POSITIVE_MONOMIAL, within=("e",)))
    e, f = Units("e", 2), Units("f", 4)
    axes = {"up": (e, f, Fixed(3)), "bias": (e, f), "down": (Fixed(5), f, e)}
    one, four = Block(0, (("e", 2, 1),)), Block(0, (("f", 4, 1),))
    first = (Weight(((0, one), (1, four)), 1, 0),)
    weights = {"up": first, "bias": first, "down": (Weight(((1, four), (2, one)), 1, 0, -1),)}
    return case(Experts(), (5, 3), spaces, axes, (Gauge("g", "f", GaugeKind.SCALE),), {"g": weights})


def whole_tensors():
    """One positive number: the first layer times it, the second divided by it."""
    whole, divided = (Weight((), -1, -1),), (Weight((), -1, -1, -1),)
    weights = {"g": {"0.weight": whole, "0.bias": whole, "2.weight": divided}}
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    return case(net, (5, 3), (), {}, (Gauge("g", "", GaugeKind.SCALE),), weights)


CASES = {
    "tanh": lambda: two_layers(nn.Tanh(), Kind.HYPEROCTAHEDRAL, GaugeKind.SIGN),
    "relu": lambda: two_layers(nn.ReLU(), Kind.POSITIVE_MONOMIAL, GaugeKind.SCALE, -1),
    "bottleneck": lambda: two_layers(nn.Identity(), Kind.LINEAR, GaugeKind.LINEAR, -1),
    "rms": lambda: two_layers(RootMeanSquare(), Kind.ORTHOGONAL, GaugeKind.ORTHOGONAL),
    "layer norm": lambda: two_layers(nn.LayerNorm(4, EPS, elementwise_affine=False), Kind.SYMMETRIC, GaugeKind.CENTRED),
    "sigmoid": sigmoid,
    "sigmoid convolution": sigmoid_convolution,
    "batch norm": batch_norm,
    "sine": sine,
    "gates": gates,
    "rotary": rotary,
    "heads": heads,
    "experts": experts,
    "whole tensors": whole_tensors,
}


def without(structure, gauge, tensor):
    """The structure that forgets that a gauge acts on a tensor."""
    weights = {
        name: {t: w for t, w in tensors.items() if (name, t) != (gauge, tensor)}
        for name, tensors in structure.weights.items()
    }
    return replace(structure, weights=weights)
