"""Random programs of tensor operators over a few parameters: the group is never too large.

Architectures written by people use axes in orderly ways. These programs do not: slices of slices, concatenations cut
again elsewhere, Gram matrices, views across boundaries, a parameter used in two roles. Most of what was ever wrong
in discovery shows here first.
"""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

import weyl
from weyl.testing import assert_action_laws, assert_structure_round_trip

SIZES = st.sampled_from([2, 3, 4, 6])
LARGEST = 300


class Program(nn.Module):
    """Runs a list of steps on a growing list of tensors, and contracts some of them with parameters of their own."""

    def __init__(self, shapes, steps, read):
        super().__init__()
        self.steps = steps
        self.read = read
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in shapes)

    def forward(self, x):
        tensors = list(self.weights[: len(self.weights) - len(self.read)])
        for run, places in self.steps:
            tensors.append(run(*(tensors[place] for place in places)))
        ends = zip(self.read, self.weights[len(self.weights) - len(self.read) :], strict=True)
        return torch.stack([torch.tanh((tensors[place] * weight).sum()) for place, weight in ends]) + 0 * x.sum()


def factorisations(n):
    yield [n]
    for a in range(2, n):
        if n % a == 0:
            yield from ([a, *rest] for rest in factorisations(n // a))


def unary(draw, shape):
    """One operator on one tensor."""
    rank = len(shape)
    dim = draw(st.integers(0, rank - 1))
    size = shape[dim]
    start = draw(st.integers(0, size - 1))
    length = draw(st.integers(1, size - start))
    view = draw(
        st.permutations(
            draw(st.sampled_from(list(factorisations(math.prod(shape)) if math.prod(shape) > 1 else [[1]])))
        )
    )
    order = draw(st.permutations(range(rank)))
    group = next((g for g in (2, 3) if rank > 1 and shape[1] % g == 0 and shape[1] > g), None)
    choices = [
        torch.tanh,
        lambda t: torch.relu(t + 0.1),
        lambda t: t.narrow(dim, start, length),
        lambda t: torch.cat([t.narrow(dim, size - start, start), t.narrow(dim, 0, size - start)], dim) if start else t,
        lambda t: t.select(dim, start) if rank > 1 else t,
        lambda t: t.permute(order),
        lambda t: t.reshape(view),
        lambda t: t.sum(dim) if rank > 1 else t,
        lambda t: t.softmax(dim),
        lambda t: t.amax(dim, keepdim=True),
        lambda t: t.cumsum(dim),
        lambda t: t.flip(dim),
        lambda t: t.unsqueeze(dim),
        lambda t: t.unsqueeze(dim).expand(*shape[:dim], 3, *shape[dim:]),
        lambda t: t.repeat(*([1] * dim), 2, *([1] * (rank - dim - 1))),
        lambda t: t.repeat_interleave(2, dim),
        lambda t: nn.functional.pad(t, [0, 0] * (rank - dim - 1) + [1, 0]),
        lambda t: torch.stack(t.unbind(dim), draw_last) if size <= 3 and rank > 1 else t,
        lambda t: torch.tanh(nn.functional.group_norm(t, group)) if group else t,
        lambda t: t[(slice(None),) * dim + (slice(start % 2, None, 2),)] if size % 2 == 0 else t,
    ]
    draw_last = rank - 1
    return draw(st.sampled_from(choices))


def binary(draw, a, b):
    """One operator on two tensors, or None where their shapes allow none."""
    letters = "abcd"[: len(a)]
    right = ""
    for n in b:
        same = [c for c, m in zip(letters, a, strict=True) if m == n and c not in right]
        right += draw(st.sampled_from([*same, *same, "wxyz"[len(right)]]))
    everything = list(dict.fromkeys(letters + right))
    out = "".join(draw(st.permutations(draw(st.lists(st.sampled_from(everything), min_size=1, unique=True)))))
    choices = [lambda s, t: torch.tanh(torch.einsum(f"{letters},{right}->{out}", s, t))]
    if all(m == n or 1 in (m, n) for m, n in zip(a[::-1], b[::-1], strict=False)):
        choices += [torch.add, torch.mul, torch.maximum]
    for dim in range(len(a)):
        if len(a) == len(b) and all(m == n for d, (m, n) in enumerate(zip(a, b, strict=True)) if d != dim):
            choices.append(lambda s, t, dim=dim: torch.cat([s, t], dim))
    return draw(st.sampled_from(choices))


@st.composite
def programs(draw):
    shapes = [tuple(draw(st.lists(SIZES, min_size=1, max_size=3))) for _ in range(draw(st.integers(1, 3)))]
    made = list(shapes)
    steps = []
    for _ in range(draw(st.integers(1, 9))):
        first = draw(st.integers(max(0, len(made) - 3), len(made) - 1))
        places = (first,)
        if draw(st.booleans()):
            places = (first, draw(st.integers(0, len(made) - 1)))
        known = [made[place] for place in places]
        run = unary(draw, known[0]) if len(places) == 1 else binary(draw, *known)
        result = run(*(torch.empty(shape, device="meta") for shape in known))
        if 0 < result.numel() <= LARGEST and 0 < result.ndim <= 4:
            steps.append((run, places))
            made.append(tuple(result.shape))
    read = list(dict.fromkeys([len(made) - 1, draw(st.integers(0, len(made) - 1))]))
    return Program([*shapes, *(made[place] for place in read)], steps, read)


def check(program, seed):
    x = (torch.zeros(2, dtype=torch.float64),)
    structure = weyl.discover(program, x)
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.randn(t.shape, generator=generator, dtype=torch.float64) for name, t in program.state_dict().items()
    }
    before = functional_call(program, state, x)
    after = functional_call(program, weyl.act(structure.group.random(seed), structure, state), x)
    # sums of normalised rows vanish up to rounding: compare absolutely, outputs are at most 1 in size
    torch.testing.assert_close(after, before, rtol=0, atol=1e-9)
    assert_action_laws(structure, state, seed)
    assert_structure_round_trip(structure)
    return structure


RANDOM = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@given(programs(), st.integers(0, 99))
@settings(max_examples=150, **RANDOM)
def test_group_is_never_too_large(program, seed):
    check(program, seed)


@pytest.mark.slow
@given(programs(), st.integers(0, 99))
@settings(max_examples=3000, **{**RANDOM, "derandomize": False})
def test_group_is_never_too_large_at_length(program, seed):
    check(program, seed)


def regression(shapes, steps, read=(-1,)):
    """A program with the shapes of what is read found by running it."""
    tensors = [torch.empty(shape) for shape in shapes]
    for run, places in steps:
        tensors.append(run(*(tensors[place] for place in places)))
    read = [place % len(tensors) for place in read]
    return Program([*shapes, *(tuple(tensors[place].shape) for place in read)], steps, read)


EINSUM = {text: (lambda *t, text=text: torch.tanh(torch.einsum(text, *t))) for text in ("ab,az->bz", "abcd,dz->abcz")}

ONCE_TOO_LARGE = {
    # an index that occurs twice in a product of sums was taken for one
    "gram": ([(3, 2)], [(EINSUM["ab,az->bz"], (0, 0))], (-1,)),
    # a view that regroups factors pairs a unit with another copy of its index
    "regrouped": (
        [(4, 2, 2)],
        [
            (lambda t: torch.stack([t, t]), (0,)),
            (lambda t: t.reshape(2, 8), (0,)),
            (EINSUM["abcd,dz->abcz"], (1, 2)),
        ],
        (-1,),
    ),
    # two cuts along different axes, in two orders
    "cut twice": (
        [(4, 6)],
        [(lambda t: t[3:4], (0,)), (lambda t: t.reshape(4, 2, 3)[:, 1].reshape(2, 2, 3), (0,))],
        (1, 2),
    ),
    # a view that scrambles positions, added to what it scrambled
    "scrambled": (
        [(6, 2)],
        [
            (lambda t: torch.tanh(t.reshape(2, 2, 3)).sum(1).reshape(6), (0,)),
            (lambda t: t.sum(1), (0,)),
            (torch.add, (1, 2)),
        ],
        (-1,),
    ),
    # copies in two orders, added
    "repeated": (
        [(3, 4), (2, 4)],
        [(lambda t: t.repeat(2, 1), (0,)), (lambda t: t.repeat_interleave(3, 0), (1,)), (torch.add, (2, 3))],
        (-1,),
    ),
}

ONCE_CRASHED = {
    "cut across parts": ([(1,), (3,)], [(lambda s, t: torch.cat([s, t]).reshape(2, 2), (0, 1))], (-1,)),
    "recut while cutting": (
        [(6, 3)],
        [(lambda t: torch.cat([t[:, 1].reshape(2, 3), t])[5:7], (0,))],
        (-1,),
    ),
    "block of a diagonal": (
        [(4, 4, 2), (4,)],
        [(lambda t, u: torch.einsum("abc,cxc->x", t, t[:2]) * u, (0, 1))],
        (-1,),
    ),
}


@pytest.mark.parametrize("name", [*ONCE_TOO_LARGE, *ONCE_CRASHED])
def test_what_was_once_wrong(name):
    program = regression(*{**ONCE_TOO_LARGE, **ONCE_CRASHED}[name])
    for seed in range(5):
        check(program, seed)


def test_the_check_rejects_a_larger_group():
    """Negative control: rows of a Gram matrix that are not tied to its columns."""
    program = regression(*ONCE_TOO_LARGE["gram"])
    structure = weyl.discover(program, (torch.zeros(2, dtype=torch.float64),))
    generator = torch.Generator().manual_seed(0)
    state = {n: torch.randn(t.shape, generator=generator, dtype=torch.float64) for n, t in program.state_dict().items()}
    moved = dict(state)
    moved["weights.0"] = state["weights.0"].flip(1)
    assert structure.axes["weights.0"][1] == structure.axes["weights.1"][0]
    x = (torch.zeros(2, dtype=torch.float64),)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            functional_call(program, moved, x), functional_call(program, state, x), rtol=0, atol=1e-9
        )
