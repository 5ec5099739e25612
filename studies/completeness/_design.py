"""What is measured: families of small networks at random weights, and what theory says is beside the group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAMPLES, SMOKE_SAMPLES = 6000, 400
SPREAD = 2.0  # standard deviation of inputs
CLEAR = 1e3  # ratio of singular values on both sides of the rank
LEAST, MOST = 2, 5  # widths
DEPTH = 3
EPS = 1e-3  # of norms: large enough that the scale of a stream is seen
WEIGHT, BIAS = 1.5, 0.2  # standard deviations; that of weights over the root of the inputs of a unit


@dataclass(frozen=True)
class Sizes:
    """Widths that were drawn for one network."""

    inputs: int
    hidden: tuple[int, ...]
    outputs: int


@dataclass(frozen=True)
class Family:
    """Networks of one architecture.

    Parameters
    ----------
    title : str
        For the table.
    make : callable
        The network of given sizes.
    beside : callable
        Dimension of the symmetries of parameters that are not in the group: translations of a bias that a later bias
        takes up, and the like. Written from the architecture; the README says how.
    count : int
        Number of networks.
    tokens : int
        Length of the sequence that an input is; 0 for vectors.
    depth : int
        Largest number of hidden layers.
    """

    title: str
    make: Callable[[Sizes], nn.Module]
    beside: Callable[[Sizes], int] = lambda sizes: 0
    count: int = 20
    tokens: int = 0
    depth: int = DEPTH


def draw(family: Family, seed: int) -> Sizes:
    """Widths of a network, from the seed alone."""
    generator = torch.Generator().manual_seed(seed)

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    hidden = tuple(between(LEAST, MOST) for _ in range(between(1, family.depth)))
    return Sizes(between(2, 4), hidden, between(1, 3))


# ---------------------------------------------------------------------- networks
def perceptron(activation: Callable[[], nn.Module], norm: bool = False) -> Callable[[Sizes], nn.Module]:
    """Linear layers with an activation, and a BatchNorm before it, between them."""

    def make(sizes: Sizes) -> nn.Module:
        layers: list[nn.Module] = []
        for a, b in pairwise((sizes.inputs, *sizes.hidden)):
            layers += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] if norm else []), activation()]
        return nn.Sequential(*layers, nn.Linear(sizes.hidden[-1], sizes.outputs))

    return make


class Stream(nn.Module):
    """A first layer, blocks that add to it, behind a norm each or an activation after each, and a reader."""

    def __init__(self, sizes: Sizes, norm: Callable[[int], nn.Module] | None, activation: type[nn.Module]) -> None:
        super().__init__()
        width, *hidden = _stream(sizes)
        self.first = nn.Linear(sizes.inputs, width)
        self.norms = nn.ModuleList(norm(width) if norm else nn.Identity() for _ in hidden)
        self.reads = nn.ModuleList(nn.Linear(width, n) for n in hidden)
        self.writes = nn.ModuleList(nn.Linear(n, width) for n in hidden)
        self.last_norm = norm(width) if norm else nn.Identity()
        self.reader = nn.Linear(width, sizes.outputs)
        self.act, self.after = activation(), nn.Identity() if norm else activation()

    def forward(self, x: Tensor) -> Tensor:
        """Of vectors, shape (batch, inputs)."""
        h = self.after(self.first(x))
        for norm, read, write in zip(self.norms, self.reads, self.writes, strict=True):
            h = self.after(h + write(self.act(read(norm(h)))))
        return self.reader(self.last_norm(h))


def _stream(sizes: Sizes) -> tuple[int, ...]:
    """Width of the stream and those of the blocks.

    Three at least, so that a LayerNorm is not constant, and no more than the inputs and a bias span.
    """
    width, *hidden = sizes.hidden
    return (min(max(width, 3), sizes.inputs + 1), *(hidden or (LEAST,)))


def _rms_norm(width: int) -> nn.Module:
    return nn.RMSNorm(width, eps=EPS)


def _layer_norm(width: int) -> nn.Module:
    return nn.LayerNorm(width, eps=EPS)


class Gated(nn.Module):
    """``down(silu(gate x) ⊙ up x)``, once."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        n = sizes.hidden[0]
        self.gate, self.up = nn.Linear(sizes.inputs, n), nn.Linear(sizes.inputs, n)
        self.down = nn.Linear(n, sizes.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Of vectors, shape (batch, inputs)."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Bottleneck(nn.Module):
    """A tanh layer, two linear maps in a row over fewer units, a tanh layer; the first map may have a bias."""

    def __init__(self, sizes: Sizes, bias: bool) -> None:
        super().__init__()
        rank, wide = _bottleneck(sizes)
        self.first, self.down = nn.Linear(sizes.inputs, wide), nn.Linear(wide, rank, bias)
        self.up, self.reader = nn.Linear(rank, wide), nn.Linear(wide, sizes.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Of vectors, shape (batch, inputs)."""
        return self.reader(self.up(self.down(self.first(x).tanh())).tanh())


def _bottleneck(sizes: Sizes) -> tuple[int, int]:
    rank = min(sizes.hidden[0], 3)
    return rank, rank + 2


class Attention(nn.Module):
    """One or two heads, no positions, all with biases, and a tanh layer before and after."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads, self.size, wide = _heads(sizes)
        inner = self.heads * self.size
        self.first = nn.Linear(sizes.inputs, wide)
        self.q, self.k, self.v = (nn.Linear(wide, inner) for _ in range(3))
        self.o, self.reader = nn.Linear(inner, wide), nn.Linear(wide, sizes.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Of sequences, shape (batch, tokens, inputs)."""
        h = self.first(x).tanh()
        q, k, v = (m(h).unflatten(-1, (self.heads, self.size)).transpose(1, 2) for m in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.reader(self.o(attended).tanh())


def _heads(sizes: Sizes) -> tuple[int, int, int]:
    """Heads, their size, and a width that no head exceeds."""
    heads, size = 1 + sizes.hidden[0] % 2, 2
    return heads, size, heads * size + 1


class Recurrent(nn.Module):
    """A recurrent layer and a reader of its outputs."""

    def __init__(self, sizes: Sizes, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(sizes.inputs, sizes.hidden[0], batch_first=True)
        self.reader = nn.Linear(sizes.hidden[0], sizes.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Of sequences, shape (batch, tokens, inputs)."""
        return self.reader(self.layer(x)[0])


# ---------------------------------------------------------------------- beside the group
def _units(sizes: Sizes) -> int:
    return sum(sizes.hidden)


def _under_rms_norm(sizes: Sizes) -> int:
    """Rotations of the stream, which readers undo around the gain that they fold in: O(d)."""
    width = _stream(sizes)[0]
    return width * (width - 1) // 2


def _under_layer_norm(sizes: Sizes) -> int:
    """Of a stream of width d that every reader norms.

    Rotations around the line of ones, O(d - 1); a norm's bias against the biases of its reader, d; the mean of what a
    reader reads is zero, one number for each of its rows; the mean of what a writer writes, one number for each of its
    columns and one for its bias.
    """
    width, *hidden = _stream(sizes)
    readers, writers = [*hidden, sizes.outputs], [sizes.inputs, *hidden]
    rotations = (width - 1) * (width - 2) // 2
    return rotations + len(readers) * width + sum(readers) + sum(n + 1 for n in writers)


FAMILIES: dict[str, Family] = {
    "tanh": Family("tanh", perceptron(nn.Tanh), count=30),
    "sigmoid": Family("sigmoid", perceptron(nn.Sigmoid), count=20),
    "gelu": Family("GELU", perceptron(nn.GELU), count=10),
    "relu": Family("ReLU", perceptron(nn.ReLU), count=40),
    "residual": Family("ReLU with residuals", lambda s: Stream(s, None, nn.ReLU), count=20),
    "gated": Family("SwiGLU", Gated, count=10, depth=1),
    "bottleneck": Family("linear bottleneck", lambda s: Bottleneck(s, False), count=10),
    "bottleneck-bias": Family(
        "linear bottleneck, with bias", lambda s: Bottleneck(s, True), lambda s: _bottleneck(s)[0], count=10
    ),
    "rms": Family("RMSNorm stream", lambda s: Stream(s, _rms_norm, nn.Tanh), _under_rms_norm, count=10),
    "layer-norm": Family("LayerNorm stream", lambda s: Stream(s, _layer_norm, nn.Tanh), _under_layer_norm, count=10),
    "attention": Family("attention", Attention, lambda s: _heads(s)[0] * _heads(s)[1], count=10, tokens=4),
    "gru": Family("GRU", lambda s: Recurrent(s, nn.GRU), count=10, tokens=4, depth=1),
    "batch-norm": Family("ReLU with BatchNorm", perceptron(nn.ReLU, norm=True), lambda s: 2 * _units(s), count=10),
}
