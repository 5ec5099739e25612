"""A hypothesis strategy of random architectures.

A network is a chain of steps; each is drawn among those that fit the shape at hand (vectors, sequences or images),
has layers of its own and may reach back to what an earlier step made (a residual link or a concatenation). Most steps
are what people build; some (``flip``, ``roll``, ``cumsum``, ``fft``, indexing) depend on positions and must hold
features still.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH = 3
Shape = tuple[int, ...]
Draw = Callable[[int, int], int]
Run = Callable[[nn.Module, Tensor], Tensor]
Step = tuple[dict[str, Any], Run, Shape]
Maker = Callable[[Draw, Shape], "Step | None"]

ACTS: list[Callable[[Tensor], Tensor]] = [torch.relu, F.gelu, torch.tanh, F.silu, torch.sigmoid, torch.sin]


class Chain(nn.Module):
    """Steps one after another; ``plan`` says which."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList()
        self.plan: list[str] = []
        self.runs: list[Run] = []
        self.links: list[tuple[str, int] | None] = []

    def add(self, name: str, step: Step, link: tuple[str, int] | None = None) -> None:
        """Append a step, and what an earlier result does to its own."""
        layers, run, _ = step
        holder = nn.Module()
        for key, layer in layers.items():
            if isinstance(layer, Tensor) and not isinstance(layer, nn.Parameter):
                holder.register_buffer(key, layer)
            else:
                setattr(holder, key, layer)
        self.steps.append(holder)
        self.runs.append(run)
        self.plan.append(name)
        self.links.append(link)

    def forward(self, x: Tensor) -> Tensor:
        made = [x]
        for holder, run, link in zip(self.steps, self.runs, self.links, strict=True):
            x = run(holder, x)
            if link is not None:
                kind, place = link
                x = x + made[place] if kind == "add" else torch.cat([x, made[place]], 1 if x.ndim == 4 else -1)
            made.append(x)
        return x

    def extra_repr(self) -> str:
        return " | ".join(
            f"{name}{'' if link is None else link}" for name, link in zip(self.plan, self.links, strict=True)
        )


def par(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


# ------------------------------------------------------------------ steps on the last axis, features
def dense(draw: Draw, shape: Shape) -> Step:
    width = draw(1, 6)
    return {"l": nn.Linear(shape[-1], width, bias=bool(draw(0, 1)))}, lambda n, x: n.l(x), (*shape[:-1], width)


def act(draw: Draw, shape: Shape) -> Step:
    function = ACTS[draw(0, len(ACTS) - 1)]
    return {}, lambda n, x: function(x), shape


def norm(draw: Draw, shape: Shape) -> Step:
    width = shape[-1]
    kinds: list[nn.Module] = [nn.LayerNorm(width), nn.RMSNorm(width), nn.LayerNorm(width, elementwise_affine=False)]
    if len(shape) == 2:
        kinds += [nn.BatchNorm1d(width), nn.GroupNorm(2 if width % 2 == 0 else 1, width)]
    return {"n": kinds[draw(0, len(kinds) - 1)]}, lambda n, x: n.n(x), shape


def block(draw: Draw, shape: Shape) -> Step:
    width, hidden = shape[-1], draw(2, 5)
    function = ACTS[draw(0, len(ACTS) - 1)]
    layers = {"a": nn.Linear(width, hidden), "b": nn.Linear(hidden, width)}
    return layers, lambda n, x: x + n.b(function(n.a(x))), shape


def gated(draw: Draw, shape: Shape) -> Step:
    width, hidden, out = shape[-1], draw(2, 4), draw(1, 5)
    layers = {"g": nn.Linear(width, hidden), "u": nn.Linear(width, hidden), "d": nn.Linear(hidden, out)}
    return layers, lambda n, x: n.d(F.silu(n.g(x)) * n.u(x)), (*shape[:-1], out)


def glu(draw: Draw, shape: Shape) -> Step | None:
    return ({}, lambda n, x: F.glu(x), (*shape[:-1], shape[-1] // 2)) if shape[-1] % 2 == 0 else None


def tied(draw: Draw, shape: Shape) -> Step:
    hidden = draw(2, 4)
    layers = {"w": par(hidden, shape[-1]), "b": par(hidden)}
    return layers, lambda n, x: F.linear(F.linear(x, n.w, n.b).relu(), n.w.t()), shape


def twice(draw: Draw, shape: Shape) -> Step:
    return {"l": nn.Linear(shape[-1], shape[-1])}, lambda n, x: n.l(n.l(x).tanh()), shape


def halves(draw: Draw, shape: Shape) -> Step | None:
    if shape[-1] < 2:
        return None
    cut = draw(1, shape[-1] - 1)
    return {}, lambda n, x: torch.cat([x[..., :cut].sin(), x[..., cut:]], -1), shape


def exchange(draw: Draw, shape: Shape) -> Step | None:
    if shape[-1] < 2:
        return None
    cut = draw(1, shape[-1] - 1)
    return {}, lambda n, x: torch.cat([x[..., cut:], x[..., :cut].sin()], -1), shape


def fold(draw: Draw, shape: Shape) -> Step | None:
    rows = draw(2, 3)
    if shape[-1] % rows or shape[-1] == rows:
        return None
    kind = draw(0, 4)

    def run(net: nn.Module, x: Tensor) -> Tensor:
        wide = x.unflatten(-1, (rows, -1))
        if kind == 0:
            return wide.softmax(-1).flatten(-2)
        if kind == 1:
            return wide.softmax(-2).flatten(-2)
        if kind == 2:
            return wide.transpose(-1, -2).flatten(-2)
        if kind == 3:
            return torch.stack([part * (i + 1) for i, part in enumerate(wide.unbind(-2))], -2).flatten(-2)
        return (wide - wide.mean(-2, keepdim=True)).flatten(-2)

    return {}, run, shape


def folded_mix(draw: Draw, shape: Shape) -> Step | None:
    rows = draw(2, 3)
    if shape[-1] % rows or shape[-1] == rows:
        return None
    mixed = draw(1, 3)
    layers = {"m": nn.Linear(rows, mixed)}
    out = (*shape[:-1], shape[-1] // rows * mixed)
    return layers, lambda n, x: n.m(x.unflatten(-1, (rows, -1)).transpose(-1, -2)).flatten(-2), out


def widen(draw: Draw, shape: Shape) -> Step | None:
    if shape[-1] > 4:
        return None
    kind = draw(0, 3)
    runs: list[tuple[Callable[[Tensor], Tensor], int]] = [
        (lambda x: torch.cat([x, x.sin()], -1), 2),
        (lambda x: x.repeat_interleave(2, -1), 2),
        (lambda x: x.repeat(*[1] * (x.ndim - 1), 2), 2),
        (lambda x: torch.stack([x, x.tanh()], -1).flatten(-2), 2),
    ]
    function, times = runs[kind]
    return {}, lambda n, x: function(x), (*shape[:-1], shape[-1] * times)


def padded(draw: Draw, shape: Shape) -> Step:
    left, right = draw(0, 2), draw(0, 2)
    return {}, lambda n, x: F.pad(x, (left, right), value=0.5), (*shape[:-1], shape[-1] + left + right)


def vector(draw: Draw, shape: Shape) -> Step:
    kind = draw(0, 2)
    layers: dict[str, Any] = {"p": [par(shape[-1]), torch.randn(shape[-1]), par(1)][kind]}
    return layers, lambda n, x: x * n.p + 0.1, shape


def positional(draw: Draw, shape: Shape) -> Step:
    """Operators for which features have an order."""
    kind = draw(0, 9)
    width = shape[-1]

    def run(net: nn.Module, x: Tensor) -> Tensor:
        match kind:
            case 0:
                return x.cumsum(-1)
            case 1:
                return x.flip(-1)
            case 2:
                return x.roll(1, -1)
            case 3:
                return x.sort(-1).values
            case 4:
                return torch.fft.fft(x, dim=-1).real
            case 5:
                return x * torch.arange(width).to(x)
            case 6:
                return x[..., torch.arange(width).flip(0)]
            case 7:
                return x * (x.argmax(-1, keepdim=True) == 0).to(x) + x
            case 8:
                return torch.zeros_like(x).scatter(-1, torch.arange(width).flip(0).expand(x.shape), x)
            case _:
                return x * torch.linspace(0.5, 1.5, width).to(x)

    return {}, run, shape


def whole(draw: Draw, shape: Shape) -> Step:
    """Symmetric functions of the features."""
    kind = draw(0, 3)
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.softmax(-1),
        lambda x: x - x.mean(-1, keepdim=True),
        lambda x: F.normalize(x, dim=-1),
        lambda x: torch.where(x > x.mean(-1, keepdim=True), x, x.sin()),
    ]
    return {}, lambda n, x: functions[kind](x), shape


FEATURES: list[Maker] = [
    dense,
    dense,
    act,
    norm,
    block,
    gated,
    glu,
    tied,
    twice,
    halves,
    exchange,
    fold,
    folded_mix,
    widen,
    padded,
    vector,
    positional,
    whole,
]


# ------------------------------------------------------------------ steps on vectors
def moe(draw: Draw, shape: Shape) -> Step:
    number, hidden, out, kind = draw(2, 3), draw(2, 3), draw(1, 4), draw(0, 3)
    layers = {"r": nn.Linear(shape[-1], number), "w": par(number, shape[-1], hidden), "u": par(number, hidden, out)}

    def run(net: nn.Module, x: Tensor) -> Tensor:
        scores = net.r(x).softmax(-1)
        if kind == 3:
            value, index = scores.topk(1, -1)
            middle = torch.einsum("bi,bkih->bkh", x, net.w[index]).relu()
            return torch.einsum("bkh,bkho,bk->bo", middle, net.u[index], value)
        if kind == 2:
            value, index = scores.topk(1, -1)
            scores = torch.zeros_like(scores).scatter(-1, index, value)
        elif kind == 1:
            scores = scores * F.one_hot(scores.argmax(-1), number).to(scores)
        middle = torch.einsum("bi,eih->beh", x, net.w).relu()
        return torch.einsum("beh,eho,be->bo", middle, net.u, scores)

    return layers, run, (shape[0], out)


def cell(draw: Draw, shape: Shape) -> Step:
    hidden = draw(2, 4)
    layers = {"c": [nn.GRUCell, nn.LSTMCell, nn.RNNCell][draw(0, 2)](shape[-1], hidden)}

    def run(net: nn.Module, x: Tensor) -> Tensor:
        state = net.c(x, net.c(x))
        return state[0] if isinstance(state, tuple) else state

    return layers, run, (shape[0], hidden)


def to_sequence(draw: Draw, shape: Shape) -> Step | None:
    steps = draw(2, 3)
    if shape[-1] % steps:
        return None
    out = (shape[0], steps, shape[-1] // steps)
    turned = draw(0, 1)
    if turned:
        return {}, lambda n, x: x.unflatten(-1, (-1, steps)).transpose(1, 2), out
    return {}, lambda n, x: x.unflatten(-1, (steps, -1)), out


def to_image(draw: Draw, shape: Shape) -> Step | None:
    if shape[-1] % 4:
        return None
    return {}, lambda n, x: x.view(x.shape[0], -1, 2, 2), (shape[0], shape[-1] // 4, 2, 2)


def outer(draw: Draw, shape: Shape) -> Step:
    a, b = draw(2, 3), draw(2, 3)
    layers = {"a": nn.Linear(shape[-1], a), "b": nn.Linear(shape[-1], b)}
    return layers, lambda n, x: (n.a(x).unsqueeze(2) * n.b(x).unsqueeze(1)).flatten(1), (shape[0], a * b)


VECTORS: list[Maker] = [moe, cell, to_sequence, to_image, outer]


# ------------------------------------------------------------------ steps on sequences
def attention(draw: Draw, shape: Shape) -> Step:
    shared, times, size, kind = draw(1, 2), draw(1, 2), draw(1, 3), draw(0, 2)
    width, number = shape[-1], shared * times
    layers = {
        "q": nn.Linear(width, number * size),
        "k": nn.Linear(width, shared * size),
        "v": nn.Linear(width, shared * size),
        "o": nn.Linear(number * size, width),
    }

    def run(net: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (-1, size)).transpose(1, 2) for p in (net.q, net.k, net.v))
        if kind == 2:
            k, v = (t.repeat_interleave(times, 1) for t in (k, v))
            y = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=kind == 1, enable_gqa=times > 1)
        return x + net.o(y.transpose(1, 2).flatten(2))

    return layers, run, shape


def fused(draw: Draw, shape: Shape) -> Step:
    number, size, kind = draw(1, 3), draw(1, 2), draw(0, 3)
    width = shape[-1]
    layers = {"p": nn.Linear(width, 3 * number * size, bias=False), "o": nn.Linear(number * size, width)}

    def run(net: nn.Module, x: Tensor) -> Tensor:
        y = net.p(x)
        if kind == 0:
            q, k, v = y.unflatten(-1, (3, number, size)).unbind(2)
        elif kind == 1:
            q, k, v = y.unflatten(-1, (number, 3, size)).unbind(3)
        elif kind == 2:
            q, k, v = (t.unflatten(-1, (number, size)) for t in y.chunk(3, -1))
        else:
            q, k, v = y.unflatten(-1, (number, 3 * size)).split(size, -1)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return x + net.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    return layers, run, shape


def multihead(draw: Draw, shape: Shape) -> Step:
    number = 2 if shape[-1] % 2 == 0 else 1
    layers = {"m": nn.MultiheadAttention(shape[-1], number, batch_first=True)}
    return layers, lambda n, x: x + n.m(x, x.sin(), x, need_weights=False)[0], shape


def encoder(draw: Draw, shape: Shape) -> Step:
    number = 2 if shape[-1] % 2 == 0 else 1
    layer = nn.TransformerEncoderLayer(shape[-1], number, draw(2, 4), batch_first=True, norm_first=bool(draw(0, 1)))
    return {"e": layer}, lambda n, x: n.e(x), shape


def recurrent(draw: Draw, shape: Shape) -> Step:
    kind, hidden, layers, both = draw(0, 2), draw(2, 4), draw(1, 2), draw(0, 1)
    options: dict[str, Any] = {"batch_first": True, "num_layers": layers, "bidirectional": bool(both)}
    width = hidden
    if kind == 0 and hidden > 2 and draw(0, 1):
        options["proj_size"] = width = hidden - 1
    layer = [nn.LSTM, nn.GRU, nn.RNN][kind](shape[-1], hidden, **options)
    return {"r": layer}, lambda n, x: n.r(x)[0], (*shape[:2], width * (1 + both))


def over_time(draw: Draw, shape: Shape) -> Step:
    steps = draw(1, 3)
    layers = {"t": nn.Linear(shape[1], steps)}
    return layers, lambda n, x: n.t(x.transpose(1, 2)).transpose(1, 2), (shape[0], steps, shape[2])


def places(draw: Draw, shape: Shape) -> Step:
    return {"p": par(*shape[1:])}, lambda n, x: x + n.p, shape


def convolved(draw: Draw, shape: Shape) -> Step:
    out = draw(1, 4)
    layers = {"c": nn.Conv1d(shape[-1], out, 3, padding=1)}
    return layers, lambda n, x: n.c(x.transpose(1, 2)).transpose(1, 2), (*shape[:2], out)


def time_gone(draw: Draw, shape: Shape) -> Step:
    kind = draw(0, 4)
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: x[:, -1],
        lambda x: x.mean(1),
        lambda x: x.flatten(1),
        lambda x: x.transpose(1, 2).flatten(1),
        lambda x: x.amax(1),
    ]
    width = shape[1] * shape[2] if kind in (2, 3) else shape[2]
    return {}, lambda n, x: functions[kind](x), (shape[0], width)


SEQUENCES: list[Maker] = [
    attention,
    fused,
    multihead,
    encoder,
    recurrent,
    over_time,
    places,
    convolved,
    time_gone,
    time_gone,
]


# ------------------------------------------------------------------ steps on images
def conv(draw: Draw, shape: Shape) -> Step:
    out, kernel = draw(1, 6), draw(1, 2) * 2 - 1
    layers = {"c": nn.Conv2d(shape[1], out, kernel, padding=kernel // 2, bias=bool(draw(0, 1)))}
    return layers, lambda n, x: n.c(x), (shape[0], out, *shape[2:])


def grouped(draw: Draw, shape: Shape) -> Step | None:
    groups = next((g for g in (draw(2, 3), 2, 3) if shape[1] % g == 0), None)
    if groups is None:
        return None
    out, turned = groups * draw(1, 2), draw(0, 1)
    layer = (nn.ConvTranspose2d if turned else nn.Conv2d)(shape[1], out, 1, groups=groups)
    return {"c": layer}, lambda n, x: n.c(x), (shape[0], out, *shape[2:])


def depthwise(draw: Draw, shape: Shape) -> Step:
    times = draw(1, 2) if shape[1] < 4 else 1
    layers = {"c": nn.Conv2d(shape[1], shape[1] * times, 3, padding=1, groups=shape[1])}
    return layers, lambda n, x: n.c(x), (shape[0], shape[1] * times, *shape[2:])


def image_norm(draw: Draw, shape: Shape) -> Step:
    width = shape[1]
    groups = [g for g in (1, 2, 3, width) if width % g == 0]
    kinds = [
        nn.BatchNorm2d(width),
        nn.InstanceNorm2d(width, affine=True),
        nn.BatchNorm2d(width, affine=False),
        *(nn.GroupNorm(g, width) for g in groups),
    ]
    kinds = kinds if shape[2] * shape[3] > 1 else [k for k in kinds if not isinstance(k, nn.InstanceNorm2d)]
    return {"n": kinds[draw(0, len(kinds) - 1)]}, lambda n, x: n.n(x), shape


def image_act(draw: Draw, shape: Shape) -> Step:
    kind = draw(0, 3)
    layers = {"a": [nn.ReLU(), nn.PReLU(shape[1]), nn.Softmax2d(), nn.GELU()][kind]}
    return layers, lambda n, x: n.a(x), shape


def image_block(draw: Draw, shape: Shape) -> Step:
    hidden = draw(2, 4)
    layers = {
        "a": nn.Conv2d(shape[1], hidden, 3, padding=1),
        "n": nn.BatchNorm2d(hidden),
        "b": nn.Conv2d(hidden, shape[1], 1),
    }
    return layers, lambda n, x: x + n.b(n.n(n.a(x)).relu()), shape


def excite(draw: Draw, shape: Shape) -> Step:
    hidden = draw(1, 3)
    layers = {"d": nn.Conv2d(shape[1], hidden, 1), "u": nn.Conv2d(hidden, shape[1], 1)}
    return layers, lambda n, x: x * n.u(n.d(x.mean((2, 3), keepdim=True)).relu()).sigmoid(), shape


def pool(draw: Draw, shape: Shape) -> Step | None:
    if shape[2] < 2 or shape[3] < 2:
        return None
    function = [F.max_pool2d, F.avg_pool2d][draw(0, 1)]
    return {}, lambda n, x: function(x, 2), (*shape[:2], shape[2] // 2, shape[3] // 2)


def resize(draw: Draw, shape: Shape) -> Step | None:
    if shape[2] > 4:
        return None
    mode = ["nearest", "bilinear"][draw(0, 1)]
    return {}, lambda n, x: F.interpolate(x, scale_factor=2, mode=mode), (*shape[:2], shape[2] * 2, shape[3] * 2)


def shuffle(draw: Draw, shape: Shape) -> Step | None:
    n, c, h, w = shape
    kind = draw(0, 2)
    if kind == 0 and c % 4 == 0:
        return {}, lambda n, x: F.pixel_shuffle(x, 2), (n, c // 4, h * 2, w * 2)
    if kind == 1 and h % 2 == 0 and w % 2 == 0 and c < 4:
        return {}, lambda n, x: F.pixel_unshuffle(x, 2), (n, c * 4, h // 2, w // 2)
    if c % 2 == 0 and c > 2:
        return {}, lambda n, x: F.channel_shuffle(x, 2), shape
    return None


def branches(draw: Draw, shape: Shape) -> Step:
    a, b = draw(1, 3), draw(1, 3)
    layers = {"a": nn.Conv2d(shape[1], a, 1), "b": nn.Conv2d(shape[1], b, 3, padding=1)}
    return layers, lambda n, x: torch.cat([n.a(x).relu(), n.b(x)], 1), (shape[0], a + b, *shape[2:])


def image_gone(draw: Draw, shape: Shape) -> Step:
    kind = draw(0, 2)
    if kind == 0:
        return {}, lambda n, x: x.mean((2, 3)), shape[:2]
    if kind == 1:
        return {}, lambda n, x: x.flatten(1), (shape[0], shape[1] * shape[2] * shape[3])
    return {}, lambda n, x: x.flatten(2).transpose(1, 2), (shape[0], shape[2] * shape[3], shape[1])


IMAGES: list[Maker] = [
    conv,
    conv,
    grouped,
    depthwise,
    image_norm,
    image_act,
    image_block,
    excite,
    pool,
    resize,
    shuffle,
    branches,
    image_gone,
    image_gone,
]


# ------------------------------------------------------------------ networks
def makers(shape: Shape) -> list[Maker]:
    """Steps that a shape admits."""
    if len(shape) == 4:
        return IMAGES
    return [*FEATURES, *(VECTORS if len(shape) == 2 else SEQUENCES * 2)]


@st.composite
def architectures(choose: st.DrawFn, longest: int = 9) -> tuple[Chain, tuple[Tensor, ...]]:
    """A random network in float64 and an input for it.

    Ends in a linear read-out, so that its last features are hidden, too.
    """

    def draw(low: int, high: int) -> int:
        return choose(st.integers(low, high))

    torch.manual_seed(0)
    shape: Shape = [(BATCH, 4), (BATCH, 3, 3), (BATCH, 2, 4, 4), (BATCH, 5)][draw(0, 3)]
    words = draw(0, 4) == 0 and len(shape) == 3
    x = torch.randint(0, 7, shape[:2]) if words else torch.randn(shape, dtype=torch.float64)
    chain = Chain()
    shapes = [shape]
    if words:
        chain.add("embedding", ({"e": nn.Embedding(7, shape[-1])}, lambda n, i: n.e(i), shape))
        shapes = [(0,), shape]
    for _ in range(draw(2, longest)):
        options = makers(shape)
        maker = options[draw(0, len(options) - 1)]
        step = maker(draw, shape)
        if step is None or _numel(step[2]) > 200:
            continue
        shape = step[2]
        link = _link(draw, shape, shapes)
        if link is not None and link[0] == "cat":
            axis = 1 if len(shape) == 4 else -1
            shape = tuple(n + shapes[link[1]][d] if d == axis % len(shape) else n for d, n in enumerate(shape))
        chain.add(maker.__name__, step, link)
        shapes.append(shape)
    if len(shape) == 4:
        step = image_gone(lambda low, high: 0, shape)
        chain.add("image_gone", step)
        shape = step[2]
    width = shape[-1]
    chain.add("read", ({"o": nn.Linear(width, 2)}, lambda n, x: n.o(x), (*shape[:-1], 2)))
    return chain.double().eval(), (x,)


def _link(draw: Draw, shape: Shape, shapes: list[Shape]) -> tuple[str, int] | None:
    """Sometimes an earlier result that can be added, or concatenated along the features."""
    if draw(0, 3):
        return None
    axis = 1 if len(shape) == 4 else len(shape) - 1
    for place in range(len(shapes) - 1, -1, -1):
        if shapes[place] == shape and draw(0, 1):
            return "add", place
        alike = len(shapes[place]) == len(shape) and all(
            a == b for d, (a, b) in enumerate(zip(shapes[place], shape, strict=True)) if d != axis
        )
        if alike and shapes[place][axis] + shape[axis] <= 8 and draw(0, 1):
            return "cat", place
    return None


def _numel(shape: Shape) -> int:
    total = 1
    for n in shape[1:]:
        total *= n
    return total
