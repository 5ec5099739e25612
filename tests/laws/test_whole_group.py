"""The whole group, on programs with every kind of gauge: it is counted exactly, and ``act`` is its action.

The dimension is compared with the rank of the tangents, the signs with the rank over GF(2) of the patterns that flips
make, and small orders with the number of images of one state, found by walking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from tests.laws.architectures import Chain, architectures
from tests.laws.checks import double, error, outputs, random_state, storage
from tests.laws.nets import Lambda, Net, lin, par
from torch import Tensor, nn

import weyl
from weyl.groups import GaugeKind
from weyl.orbits import tangents

State = dict[str, Tensor]
Program = tuple[nn.Module, tuple[Tensor, ...]]
# Single kinds of moves, and all together.
KINDS = (*((move,) for move in ("permute", "sign", "scale", "mix", "translate")), None)
# Algebras act on few numbers in one state: a matrix is seen in its columns. So many states are enough for all below.
STATES = 8
TOLERANCE = 1e-11

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
SEQUENCE = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
IMAGE = torch.randn(2, 2, 5, 5, generator=torch.Generator().manual_seed(2))
TOKENS = torch.tensor([[1, 2, 5, 0, 3]])


# ------------------------------------------------------------------ programs
def heads(tensor: Tensor, number: int) -> Tensor:
    return tensor.unflatten(-1, (number, -1)).transpose(1, 2)


def rotated(tensor: Tensor) -> Tensor:
    """Rotary embedding, halves of a head paired."""
    angles = torch.arange(tensor.shape[-2]).double()[:, None] / 10 ** (torch.arange(tensor.shape[-1] // 2) / 2)
    angles = torch.cat([angles, angles], -1)
    first, second = tensor.chunk(2, -1)
    return tensor * angles.cos() + torch.cat([-second, first], -1) * angles.sin()


def attention(core: Callable[..., Tensor], number: int = 2, size: int = 3, shared: int = 2, **layers: Any) -> Program:
    """Attention with queries, keys and values given to ``core`` by heads."""

    def run(n: Any, x: Tensor) -> Tensor:
        y = core(n, heads(n.q(x), number), heads(n.k(x), shared), heads(n.v(x), shared))
        return n.o(y.transpose(1, 2).flatten(2))

    q, k, v = lin(4, number * size), lin(4, shared * size), lin(4, shared * size)
    return Net(run, q=q, k=k, v=v, o=lin(number * size, 4), **layers), (SEQUENCE,)


def sdpa(n: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1])


def positions(n: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Relative positions that queries and keys meet (DeBERTa)."""
    table = n.r[(torch.arange(5)[None] - torch.arange(5)[:, None]).clamp(-2, 2) + 2]
    scores = q @ k.mT + torch.einsum("bhid,ijd->bhij", q, table)
    return scores.softmax(-1) @ v


def prefixed(n: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Learned tokens before the keys: their bias is not dead."""
    k = torch.cat([n.pk.expand(2, -1, -1, -1), k], 2)
    return F.scaled_dot_product_attention(q, k, torch.cat([n.pv.expand(2, -1, -1, -1), v], 2))


def normed(n: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = F.rms_norm(q, (3,)), F.layer_norm(k, (3,))
    return (q @ k.mT).softmax(-1) @ F.rms_norm(v, (3,))


def linear_recurrence(n: Any, x: Tensor) -> Tensor:
    h = n.h.expand(2, 3)
    for step in x.unbind(1):
        h = h @ n.w + n.a(step)
    return n.o(h)


class Tied(nn.Module):
    """A language model whose head is its embedding, with attention and a block."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(7, 4), nn.LayerNorm(4), lin(4, 7, False)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.up, self.down = lin(4, 5), lin(5, 4)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens)
        h = h + self.attend(h, h, h, need_weights=False)[0]
        return self.head(self.norm(h + self.down(self.up(h).relu())))


def convolutions() -> Program:
    """Two batch norms, the first before a sigmoid, after biases that they make dead."""
    chain = (nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Sigmoid(), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(*chain, nn.Conv2d(4, 2, 1)), (IMAGE,)


def experts(n: Any, x: Tensor) -> Tensor:
    middle = torch.einsum("bi,eih->beh", x, n.w).relu()
    return torch.einsum("be,beh,eho->bo", n.r(x), middle, n.u)


PROGRAMS: dict[str, Callable[[], Program]] = {
    "relu": lambda: (nn.Sequential(lin(4, 3), nn.ReLU(), lin(3, 2)), (X,)),
    "tanh, then nothing": lambda: (nn.Sequential(lin(4, 3), nn.Tanh(), lin(3, 5), lin(5, 2)), (X,)),
    "sines and a sigmoid": lambda: (
        Net(lambda n, x: n.o(n.b(n.a(x).sin()).sigmoid()), a=lin(4, 3), b=lin(3, 3), o=lin(3, 2)),
        (X,),
    ),
    "batch norms": convolutions,
    "weight norm": lambda: (nn.Sequential(nn.utils.parametrizations.weight_norm(lin(4, 3)), lin(3, 2)), (X,)),
    "gated": lambda: (Net(lambda n, x: n.d(F.silu(n.g(x)) * n.u(x)), g=lin(4, 3), u=lin(4, 3), d=lin(3, 2)), (X,)),
    "experts": lambda: (Net(experts, r=lin(4, 3), w=par(3, 4, 2), u=par(3, 2, 2)), (X,)),
    "tensor train": lambda: (
        Net(lambda n, x: torch.einsum("bi,iu,ucv,vd->bcd", x, n.a, n.b, n.c), a=par(4, 3), b=par(3, 2, 4), c=par(4, 2)),
        (X,),
    ),
    "recurrence": lambda: (Net(linear_recurrence, w=par(3, 3), a=lin(4, 3), o=lin(3, 2), h=par(3)), (SEQUENCE,)),
    "rms norm": lambda: (
        Net(lambda n, x: n.o(F.rms_norm(n.a(x) + n.w(n.a(x)), (3,))), a=lin(4, 3), w=lin(3, 3), o=lin(3, 2)),
        (X,),
    ),
    "layer norm": lambda: (Net(lambda n, x: n.o(F.layer_norm(n.a(x), (4,))), a=lin(4, 4), o=lin(4, 2)), (X,)),
    "attention": lambda: attention(sdpa),
    "shared keys": lambda: attention(sdpa, number=4, size=2),
    "one key head, one unit": lambda: attention(sdpa, size=1, shared=1),
    "linear attention": lambda: attention(lambda n, q, k, v: q @ (k.mT @ v)),
    "relative positions": lambda: attention(positions, r=par(5, 3)),
    "learned prefix": lambda: attention(prefixed, pk=par(1, 2, 2, 3), pv=par(1, 2, 2, 3)),
    "norms in heads": lambda: attention(normed),
    "rotary": lambda: attention(lambda n, q, k, v: sdpa(n, rotated(q), rotated(k), v), size=4),
    "rotary in part of a head": lambda: attention(
        lambda n, q, k, v: sdpa(n, *(torch.cat([rotated(t[..., :4]), t[..., 4:]], -1) for t in (q, k)), v), size=6
    ),
    "head of a transformer": lambda: (Tied(), (TOKENS,)),
    "lstm": lambda: (Net(lambda n, x: n.o(n.r(x)[0]), r=nn.LSTM(4, 3, batch_first=True), o=lin(3, 2)), (SEQUENCE,)),
}

# What was wrong once, with what it was.
FOUND: dict[str, tuple[Callable[[], Program], str]] = {
    "padded columns under a matrix": (
        lambda: (nn.Sequential(Lambda(lambda x: F.pad(x, (0, 2), value=0.5)), lin(6, 3, False), lin(3, 4)), (X,)),
        "columns of every row may be swapped, and a matrix mixes the rows: no group",
    ),
    "matrices within matrices": (
        lambda: (
            Net(
                lambda n, x: torch.einsum("bc,crh,rih,io->bo", x, n.u, n.v, n.o),
                u=par(4, 2, 3),
                v=par(2, 5, 3),
                o=par(5, 2),
            ),
            (X,),
        ),
        "a matrix for every unit of a space that a matrix mixes: no group",
    ),
    "rotary on queries alone": (
        lambda: attention(lambda n, q, k, v: sdpa(n, rotated(q), k, v), size=4),
        "the translation of the key bias does not carry the complex numbers",
    ),
    "flips of a fold": (
        lambda: (
            Net(
                lambda n, x: n.o(F.rms_norm(n.a(x).unflatten(-1, (2, 3)), (2, 3)).flatten(-2)), a=lin(4, 6), o=lin(6, 3)
            ),
            (X,),
        ),
        "every flip is counted twice: by rows within columns and by columns within rows",
    ),
    "a sigmoid in heads": (
        lambda: (
            Net(lambda n, x: n.o(heads(n.v(x).sigmoid(), 2).transpose(1, 2).flatten(2)), v=lin(4, 6), o=lin(6, 4)),
            (SEQUENCE,),
        ),
        "two gauges flip the same sigmoid, and its constant is absorbed twice",
    ),
    "a parameter that is folded": (
        lambda: (Net(lambda n, x: n.o(x * n.p.view(2, 2).cos().sum()), p=par(4), o=lin(4, 2)), (X,)),
        "every flip is counted twice",
    ),
    "zeros under matrices": (
        lambda: (
            nn.Sequential(Lambda(lambda x: F.pad(x, (1, 2))), nn.Sequential(lin(7, 3), lin(3, 5), lin(5, 2))),
            (X,),
        ),
        "columns that nothing is read from, under matrices",
    ),
}


@cache
def discovered(make: Callable[[], Program]) -> tuple[nn.Module, tuple[Tensor, ...], weyl.Structure]:
    torch.manual_seed(0)
    model, args = make()
    model, inputs = model.double().eval(), double(args)
    return model, inputs, weyl.discover(model, inputs)


# ------------------------------------------------------------------ counting
def once(state: State) -> list[str]:
    """One name for every floating tensor."""
    return list({storage(t): n for n, t in reversed(state.items()) if t.is_floating_point()}.values())


def others(model: nn.Module) -> Iterator[State]:
    return (random_state(model, seed) for seed in range(31, 31 + STATES))


def rank_of_tangents(structure: weyl.Structure, model: nn.Module) -> int:
    """Dimension of the algebra of vector fields: tangents at several states, side by side."""
    columns = []
    for state in others(model):
        names = once(state)
        rows = [
            torch.cat([t.direction.get(n, torch.zeros_like(state[n])).flatten() for n in names])
            for t in tangents(structure, state)
        ]
        if not rows:
            return 0
        columns.append(torch.stack(rows))
    return int(torch.linalg.matrix_rank(torch.cat(columns, 1), rtol=1e-10))


def rank_of_flips(structure: weyl.Structure, state: State) -> int:
    """Rank over GF(2) of the entries that sign flips change; what they move into biases is left out."""
    structure = replace(structure, absorptions={})
    reduced: list[int] = []
    for element in structure.group.generators():
        if not element.moves <= {"sign", "mix"}:
            continue
        after = weyl.act(element, structure, state)
        flipped = torch.cat([(after[n] * state[n] < 0).flatten() for n in once(state)])
        pattern = sum(1 << i for i in torch.nonzero(flipped).flatten().tolist())
        for other in reduced:
            pattern = min(pattern, pattern ^ other)
        if pattern:
            reduced.append(pattern)
    return len(reduced)


def is_counted(structure: weyl.Structure, model: nn.Module) -> bool:
    """Whether dimension and order are those of what acts."""
    group = structure.group
    flips = rank_of_flips(structure, random_state(model, 31))
    return group.dimension == rank_of_tangents(structure, model) and group.order == group.permutation_order * (
        type(group.order).of({}, {2: flips})
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_dimension_and_order_are_exact(name: str) -> None:
    model, _, structure = discovered(PROGRAMS[name])
    assert not structure.group.trivial
    assert is_counted(structure, model), structure


def test_a_wrong_count_is_seen() -> None:
    """Control: a gauge that is there twice is counted twice."""
    model, _, structure = discovered(PROGRAMS["weight norm"])
    for kind in (GaugeKind.SCALE, GaugeKind.SIGN):
        gauge = next(g for g in structure.gauges if g.kind is kind)
        twin = replace(gauge, name="twin")
        wrong = replace(
            structure,
            gauges=(*structure.gauges, twin),
            weights={**structure.weights, "twin": structure.weights[gauge.name]},
        )
        assert not is_counted(wrong, model)


def images(structure: weyl.Structure, state: State, most: int) -> int:
    """How many states products of the generators make of one, up to a bound."""

    def key(s: State) -> tuple[float, ...]:
        return tuple(float(f"{v:.9g}") + 0.0 for n in once(state) for v in s[n].flatten().tolist())

    generators = [g for g in structure.group.generators() if g.moves <= {"permute", "sign", "mix"}]
    seen, edge = {key(state)}, [state]
    while edge and len(seen) <= most:
        reached = [weyl.act(g, structure, s) for s in edge for g in generators]
        edge = []
        for found in reached:
            if key(found) not in seen:
                seen.add(key(found))
                edge.append(found)
    return len(seen)


SMALL: dict[str, tuple[Callable[[], Program], int]] = {
    "relu": (lambda: (nn.Sequential(lin(2, 3), nn.ReLU(), lin(3, 1)), (X[:, :2],)), 6),
    "tanh": (lambda: (nn.Sequential(lin(2, 3), nn.Tanh(), lin(3, 1)), (X[:, :2],)), 48),
    "sigmoid": (lambda: (nn.Sequential(lin(2, 2), nn.Sigmoid(), lin(2, 1)), (X[:, :2],)), 8),
    "matrix": (lambda: (nn.Sequential(lin(2, 2), lin(2, 1)), (X[:, :2],)), 8),
    "centred": (lambda: (Net(lambda n, x: n.o(F.layer_norm(n.a(x), (3,))), a=lin(4, 3), o=lin(3, 2)), (X,)), 12),
    "heads": (lambda: attention(sdpa, number=2, size=1), 32),
    "experts": (lambda: (Net(experts, r=lin(4, 2), w=par(2, 4, 2), u=par(2, 2, 2)), (X,)), 32),
    "weights of norm one": (
        lambda: (nn.Sequential(nn.utils.parametrizations.weight_norm(lin(2, 2)), nn.ReLU(), lin(2, 1)), (X[:, :2],)),
        8,
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_the_order_is_the_number_of_images(name: str) -> None:
    """Every element of the discrete part makes another state of one in general position."""
    make, order = SMALL[name]
    model, _, structure = discovered(make)
    assert int(structure.group.order) == order
    assert images(structure, random_state(model, 5), order) == order


# ------------------------------------------------------------------ action
def distance(a: State, b: State) -> float:
    """Largest difference, relative to the largest entry of a tensor or 1."""
    assert a.keys() == b.keys()
    worst = 0.0
    for name, tensor in a.items():
        if tensor.numel():
            size = max(1.0, float(b[name].abs().max()))
            worst = max(worst, float((tensor - b[name]).abs().max()) / size)
    return worst


def failure_of_action(structure: weyl.Structure, state: State) -> float:
    """How far from an action of a group elements of every kind are, with elements of all kinds before and after."""
    worst = 0.0
    for seed, kinds in enumerate(KINDS):
        g, h = structure.group.random(seed, kinds=kinds), structure.group.random(seed + 20)
        by_g, by_h = weyl.act(g, structure, state), weyl.act(h, structure, state)
        worst = max(
            worst,
            distance(weyl.act(g @ h, structure, state), weyl.act(g, structure, by_h)),
            distance(weyl.act(h @ g, structure, state), weyl.act(h, structure, by_g)),
            distance(weyl.act(~g, structure, by_g), state),
        )
    return worst


@pytest.mark.parametrize("name", PROGRAMS)
def test_acting_is_an_action(name: str) -> None:
    model, inputs, structure = discovered(PROGRAMS[name])
    state = random_state(model, 7)
    assert failure_of_action(structure, state) < TOLERANCE
    before = outputs(model, state, inputs)
    for kinds in KINDS:
        after = outputs(model, weyl.act(structure.group.random(3, kinds=kinds), structure, state), inputs)
        assert error(before, after) < 1e-9, f"{kinds}: {structure!r}"


def test_what_is_carried_matters() -> None:
    """Control: with translations that carry nothing, or scales that belong to the wrong unit, it is no action."""
    model, _, structure = discovered(PROGRAMS["attention"])
    state = random_state(model, 7)
    assert any(gauge.carries for gauge in structure.gauges)
    bare = replace(structure, gauges=tuple(replace(gauge, carries=()) for gauge in structure.gauges))
    assert failure_of_action(bare, state) > 1e-3


@pytest.mark.parametrize("name", PROGRAMS)
def test_flips_and_permutations_act_exactly(name: str) -> None:
    """Bit for bit where nothing is added; exact elements obey the laws exactly in any case."""
    model, _, structure = discovered(PROGRAMS[name])
    group, state = structure.group, random_state(model, 7)
    g, h, k = (group.random(seed, exact=True) for seed in (1, 2, 3))
    assert (g @ h) @ k == g @ (h @ k) and (~g @ g).is_identity and (g @ ~g).is_identity
    if structure.absorptions:
        return
    g, h = (group.random(seed, kinds=("permute", "sign", "scale", "mix"), exact=True) for seed in (1, 2))
    if structure.offsets:
        g, h = (group.random(seed, kinds=("permute", "sign"), exact=True) for seed in (1, 2))
    both, after = weyl.act(g @ h, structure, state), weyl.act(g, structure, weyl.act(h, structure, state))
    assert distance(both, after) == 0.0
    assert distance(weyl.act(~g, structure, weyl.act(g, structure, state)), state) == 0.0


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_written_structure_acts_alike(name: str) -> None:
    model, _, structure = discovered(PROGRAMS[name])
    read = weyl.Structure.from_json(structure.to_json())
    state = random_state(model, 7)
    assert read == structure
    acted = [weyl.act(s.group.random(4), s, state) for s in (structure, read)]
    assert distance(*acted) == 0.0


@pytest.mark.parametrize("name", ["batch norms", "attention", "rotary", "head of a transformer", "sines and a sigmoid"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_rounds_once(name: str, dtype: torch.dtype) -> None:
    model, _, structure = discovered(PROGRAMS[name])
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in random_state(model, 7).items()}
    wide = {n: t.double() if t.is_floating_point() else t for n, t in state.items()}
    element = structure.group.random(2)
    low, high = weyl.act(element, structure, state), weyl.act(element, structure, wide)
    assert [t.dtype for t in low.values()] == [t.dtype for t in state.values()]
    for key, tensor in high.items():
        if tensor.is_floating_point():
            assert float((low[key] - tensor).abs().max()) <= torch.finfo(dtype).eps * float(tensor.abs().max())


@pytest.mark.parametrize("name", ["batch norms", "attention", "head of a transformer"])
def test_a_part_of_a_state_moves_as_in_the_whole(name: str) -> None:
    model, _, structure = discovered(PROGRAMS[name])
    state = {n: t.detach() for n, t in model.state_dict().items()}
    element = structure.group.random(2)
    if any(structure.absorptions.values()):
        element = structure.group.random(2, kinds=("permute", "scale", "translate"))
    whole = weyl.act(element, structure, state)
    for left in state:
        part = {n: t for n, t in state.items() if n != left}
        assert distance(weyl.act(element, structure, part), {n: whole[n] for n in part}) == 0.0
    shapes = weyl.act(element, structure, {n: t.to("meta") for n, t in state.items()})
    assert {n: (t.shape, t.device.type) for n, t in shapes.items()} == {n: (t.shape, "meta") for n, t in state.items()}


def test_a_tied_model_takes_what_it_is_given() -> None:
    model, inputs, structure = discovered(PROGRAMS["head of a transformer"])
    before = [model(*inputs).detach()]
    model.load_state_dict(weyl.act(structure.group.random(6), structure, model.state_dict()), strict=True)
    assert model.head.weight is model.embed.weight
    assert error(before, [model(*inputs).detach()]) < 1e-12


# ------------------------------------------------------------------ random networks, and what was found
@given(architectures(), st.integers(0, 10**6))
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
def test_random_networks_are_counted_and_acted_on(example: tuple[Chain, tuple[Tensor, ...]], seed: int) -> None:
    model, args = example
    structure = weyl.discover(model, args)
    assert failure_of_action(structure, random_state(model, seed)) < TOLERANCE, structure
    assert is_counted(structure, model), structure


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found(name: str) -> None:
    make, reason = FOUND[name]
    model, inputs, structure = discovered(make)
    state = random_state(model, 7)
    before = outputs(model, state, inputs)
    assert error(before, outputs(model, weyl.act(structure.group.random(3), structure, state), inputs)) < 1e-9
    assert failure_of_action(structure, state) < TOLERANCE, reason
    assert is_counted(structure, model), reason


def test_a_module_that_is_registered_twice_is_verified() -> None:
    torch.manual_seed(0)
    twice = lin(5, 5)
    model = nn.Sequential(lin(4, 5), nn.Tanh(), twice, nn.Tanh(), twice, nn.Tanh(), lin(5, 3))
    assert weyl.verify(model, (X,)).holds
