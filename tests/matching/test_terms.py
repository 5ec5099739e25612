"""Terms against dense arithmetic written index by index, signs against enumeration, kept Grams against new ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.laws.nets import Net, lin, par
from torch import nn

import weyl
from weyl.errors import NotFiniteError
from weyl.matching._assignment import assign
from weyl.matching._build import build
from weyl.matching._signs import best_signs, core
from weyl.matching._terms import Moments, Pair

SIZES = {"x": 3, "y": 2, "z": 4, None: 5}
LAYOUTS = (("x", None), ("y", "x", None), ("z", "y", "x"), (None, "x", "y", "z"))


def generator(seed):
    return torch.Generator().manual_seed(seed)


def arrays(axes, seed=0):
    shape = [SIZES[name] for name in axes]
    return (torch.randn(shape, generator=generator(seed + n), dtype=torch.float64) for n in range(2))


def pair(axes, seed=0):
    a, b = arrays(axes, seed)
    return Pair(axes, "w", a, b)


def moments(axes, seed=0):
    """Moments in general position: no product of two arrays."""
    shape = [SIZES[name] for name in axes]
    return Moments(axes, "m", torch.randn(*shape, *shape, generator=generator(seed), dtype=torch.float64))


def entry(term, left, right):
    """What the units at ``left`` of a and at ``right`` of b give."""
    if isinstance(term, Pair):
        return float(term.a[left] * term.b[right])
    return float(term.c[left + right])


def indices(term):
    return list(itertools.product(*(range(SIZES[name]) for name in term.axes)))


def moved(index, axis, value):
    return (*index[:axis], value, *index[axis + 1 :])


def dense_gram(term, axis, outer):
    """The definition, entry by entry: all axes but one aligned."""
    n = SIZES[term.axes[axis]]
    found = torch.zeros([SIZES[term.axes[at]] for at in outer] + [n, n], dtype=torch.float64)
    for index in indices(term):
        for j in range(n):
            place = (*(index[at] for at in outer), index[axis], j)
            found[place] += entry(term, index, moved(index, axis, j))
    return found


def choices():
    """Terms with an axis of units and some outer axes."""
    for axes in LAYOUTS:
        units = [at for at, name in enumerate(axes) if name is not None]
        for axis in units:
            rest = [at for at in units if at != axis]
            for count in range(len(rest) + 1):
                for outer in itertools.permutations(rest, count):
                    yield axes, axis, list(outer)


MADE = {"pair": pair, "moments": moments}


@pytest.mark.parametrize("kind", MADE)
def test_grams_and_diagonals_are_sums_over_entries(kind):
    for axes, axis, outer in choices():
        term = MADE[kind](axes)
        expected = dense_gram(term, axis, outer)
        torch.testing.assert_close(term.gram(axis, outer), expected)
        torch.testing.assert_close(term.diagonal(axis, outer), expected.diagonal(dim1=-2, dim2=-1))
        assert term.inner() == pytest.approx(sum(entry(term, index, index) for index in indices(term)))
        # Control: rows and columns are not the same thing.
        assert not torch.allclose(term.gram(axis, outer), expected.mT)


@pytest.mark.parametrize("kind", ["pair", "moments"])
def test_what_a_term_returns_is_nothing_of_its_own(kind):
    """Grams are kept and written to: the term must not change with them."""
    for axes in (*LAYOUTS, ("x",), ("y", "x")):
        for axis in [at for at, name in enumerate(axes) if name is not None]:
            term = MADE[kind](axes)
            before = term.clone()
            for found in (term.gram(axis, ()), term.diagonal(axis, ())):
                found.zero_()
            assert all(entry(term, i, i) == entry(before, i, i) for i in indices(term))


@pytest.mark.parametrize("kind", MADE)
def test_joint_grams_are_sums_over_entries(kind):
    for axes in LAYOUTS:
        units = [at for at, name in enumerate(axes) if name is not None]
        for axis, inner in itertools.permutations(units, 2):
            term = MADE[kind](axes, seed=3)
            n, m = SIZES[axes[axis]], SIZES[axes[inner]]
            expected = torch.zeros(n, m, n, m, dtype=torch.float64)
            for index in indices(term):
                for j, k in itertools.product(range(n), range(m)):
                    other = moved(moved(index, axis, j), inner, k)
                    expected[index[axis], index[inner], j, k] += entry(term, index, other)
            torch.testing.assert_close(term.joint(axis, inner), expected)


@pytest.mark.parametrize("kind", MADE)
def test_a_selected_term_is_that_of_one_unit_of_each(kind):
    for axes, axis, _ in choices():
        term = MADE[kind](axes, seed=5)
        if len(axes) == 1:
            continue
        i, j = 1, 0
        one = term.select(axis, i, j)
        assert one.axes == (*axes[:axis], *axes[axis + 1 :])
        for index in indices(one):
            left, right = (*index[:axis], i, *index[axis:]), (*index[:axis], j, *index[axis:])
            assert entry(one, index, index) == entry(term, left, right)


def values_of(shape, kind, seed=7):
    """Random permutations, factors or matrices for every copy."""
    draw = generator(seed)
    if kind == "permute":
        return torch.rand(shape, generator=draw).argsort(-1)
    if kind == "multiply":
        return torch.randn(shape, generator=draw, dtype=torch.float64)
    return torch.randn(*shape, shape[-1], generator=draw, dtype=torch.float64)


def as_matrices(kind, values):
    """The same move as a matrix for every copy."""
    if kind == "permute":
        return F.one_hot(values, values.shape[-1]).double()
    return torch.diag_embed(values) if kind == "multiply" else values


@pytest.mark.parametrize("move", ("permute", "multiply", "mix"))
@pytest.mark.parametrize("kind", MADE)
def test_moves_multiply_grams_from_the_right_and_leave_a_alone(kind, move):
    """With b' = M b the entry (u, v) becomes the sum over k of M[v, k] (u, k): read off the units one by one."""
    for axes, axis, outer in choices():
        term = MADE[kind](axes, seed=9)
        n = SIZES[axes[axis]]
        values = values_of([*(SIZES[axes[at]] for at in outer), n], move)
        matrices = as_matrices(move, values)
        before, after = term.clone(), term
        getattr(after, move)(axis, outer, values)
        for index in indices(term):
            copy = tuple(index[at] for at in outer)
            for unit in range(n):
                right = moved(index, axis, unit)
                expected = sum(
                    float(matrices[copy][unit, k]) * entry(before, index, moved(index, axis, k)) for k in range(n)
                )
                assert entry(after, index, right) == pytest.approx(expected, abs=1e-12)
        if isinstance(term, Pair):
            assert torch.equal(term.a, before.a)
        after.restore(before)
        assert all(entry(after, i, i) == entry(before, i, i) for i in indices(term))


def test_moves_also_reach_b_where_it_is_a_view():
    """Blocks of a tensor are views with strides of their own: what is written must arrive in the tensor."""
    whole = torch.randn(5, 6, generator=generator(1), dtype=torch.float64)
    kept = whole.clone()
    view = whole.as_strided((3, 2), (1, 6), 7)  # columns before rows, from the middle
    term = Pair(("x", "y"), "w", torch.zeros(3, 2, dtype=torch.float64), view)
    term.permute(0, (), torch.tensor([2, 0, 1]))
    term.multiply(1, (), torch.tensor([1.0, -2.0], dtype=torch.float64))
    term.mix(0, [1], torch.stack([torch.eye(3), 3 * torch.eye(3)]).double())
    expected = kept.as_strided((3, 2), (1, 6), 7)[[2, 0, 1]] * torch.tensor([1.0, -6.0], dtype=torch.float64)
    torch.testing.assert_close(whole.as_strided((3, 2), (1, 6), 7), expected)
    outside = torch.ones_like(whole, dtype=torch.bool)
    outside.as_strided((3, 2), (1, 6), 7).fill_(False)
    assert torch.equal(whole[outside], kept[outside])


# ------------------------------------------------------------------ assignments and signs
def test_assignments_are_the_best_of_all_permutations():
    for seed in range(40):
        n = 1 + seed % 5
        values = torch.randn(n, n, generator=generator(seed), dtype=torch.float64)
        if seed % 3 == 0:
            values = values.round()  # ties
        found = assign(values)
        every = [float(values[range(n), list(p)].sum()) for p in itertools.permutations(range(n))]
        assert sorted(found) == list(range(n))
        assert float(values[range(n), found].sum()) == pytest.approx(max(every))


def test_assignments_refuse_numbers_that_are_none():
    for bad in (float("nan"), float("inf"), -float("inf")):
        for place in range(4):
            values = torch.eye(4)
            values[place, 3 - place] = bad
            with pytest.raises(NotFiniteError):
                assign(values)


def random_values(rng, families, shape):
    """Values for some random parities; the empty one is there now and then."""
    names = [f"s{n}" for n in range(families)]
    every = [frozenset(c) for k in range(families + 1) for c in itertools.combinations(names, k)]
    chosen = rng.permutation(len(every))[: rng.integers(1, len(every) + 1)]
    return {every[n]: torch.from_numpy(rng.normal(size=shape)) for n in chosen}


def value_of(values, signs):
    total = 0
    for parity, value in values.items():
        total = total + value.numpy() * np.prod([signs[name] for name in parity], axis=0)
    return torch.as_tensor(total)


@pytest.mark.parametrize("families", (0, 1, 2, 3, 4))
def test_signs_are_the_best_of_all(families):
    rng = np.random.default_rng(families)
    for _ in range(25):
        values = random_values(rng, families, (2, 3))
        best, signs = best_signs(values)
        names = sorted({name for parity in values for name in parity})
        assert sorted(signs) == names
        every = [
            value_of(values, dict(zip(names, pattern, strict=True)))
            for pattern in itertools.product((1, -1), repeat=len(names))
        ]
        torch.testing.assert_close(best, torch.stack([v.expand(2, 3) for v in every]).amax(0))
        assert all(bool((s.abs() == 1).all()) for s in signs.values())
        torch.testing.assert_close(value_of(values, {n: s.numpy() for n, s in signs.items()}).expand(2, 3), best)


def test_a_choice_that_is_not_the_best_is_seen():
    """Control of the oracle above: any other pattern of signs gives less, for values in general position."""
    values = random_values(np.random.default_rng(1), 3, (1,))
    best, signs = best_signs(values)
    for name in signs:
        wrong = {n: s.numpy() * (-1 if n == name else 1) for n, s in signs.items()}
        assert float(value_of(values, wrong)) < float(best)


def test_signs_of_many_families_are_attained():
    """Beyond what is enumerated the maximum is no promise, but the value must be that of the signs."""
    rng = np.random.default_rng(3)
    names = [f"s{n}" for n in range(9)]
    values = {frozenset(two): torch.from_numpy(rng.normal(size=4)) for two in itertools.combinations(names, 2)}
    assert len(core(values)) > 6
    best, signs = best_signs(values)
    torch.testing.assert_close(value_of(values, {n: s.numpy() for n, s in signs.items()}), best)
    assert bool((best >= sum(values.values())).all())


# ------------------------------------------------------------------ Grams that are kept
X = torch.randn(3, 4, generator=generator(0))


def residual(n, x):
    h = n.a(x)
    h = h + n.c(torch.tanh(n.b(h)))
    return n.o(torch.tanh(h))


NETS = {
    "tanh": lambda: nn.Sequential(lin(4, 5), nn.Tanh(), lin(5, 6), nn.Tanh(), lin(6, 3), nn.Tanh(), lin(3, 2)),
    "relu": lambda: nn.Sequential(lin(4, 5), nn.ReLU(), lin(5, 6), nn.ReLU(), lin(6, 2)),
    "residual": lambda: Net(residual, a=lin(4, 5), b=lin(5, 6), c=lin(6, 5), o=lin(5, 2)),
    "recurrent": lambda: Net(lambda n, x: n.o(n.c(x, torch.tanh(n.c(x)))), c=nn.RNNCell(4, 5), o=lin(5, 2)),
    "three factors": lambda: Net(
        lambda n, x: torch.einsum("bi,iu,ju,kv,jkv->bu", x, n.a, n.b, n.c, n.d).tanh() @ n.e,
        a=par(4, 3),
        b=par(2, 3),
        c=par(2, 4),
        d=par(2, 2, 4),
        e=par(3, 2),
    ),
}


def problem_of(name, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = NETS[name]().to(dtype)
    structure = weyl.discover(model, (X.to(dtype),))
    a = {key: value.detach() for key, value in model.state_dict().items()}
    b = {key: torch.randn(value.shape, generator=generator(n), dtype=dtype) for n, (key, value) in enumerate(a.items())}
    return build(structure, a, b, frozenset({"permute", "sign"}))


def copies(problem, name):
    return [problem.units[outer].size for outer in problem.units[name].within]


def random_move(problem, rng):
    """One permutation of few or all units, or flips of few or all."""
    names = [name for name, units in problem.units.items() if units.moves and problem.places[name]]
    name = names[rng.integers(len(names))]
    units = problem.units[name]
    shape = (*copies(problem, name), units.size)
    if units.signs and rng.integers(2):
        gauge = units.signs[rng.integers(len(units.signs))]
        problem.flip(name, gauge, np.where(rng.random(shape) < rng.choice([0.2, 0.7]), -1.0, 1.0))
    elif units.permuted:
        found = np.broadcast_to(np.arange(units.size), shape).copy()
        touched = rng.choice(units.size, size=rng.integers(1, units.size + 1), replace=False)
        found[..., np.sort(touched)] = touched
        problem.permute(name, found)


def stale(problem):
    """Largest difference of a kept Gram from one computed anew."""
    worst = 0.0
    kept = {name: dict(problem.grams(name)) for name in problem.units if problem.places[name]}
    problem.forget()
    for name, before in kept.items():
        for parity, value in problem.grams(name).items():
            worst = max(worst, float((value - before[parity]).abs().max()))
    return worst


@pytest.mark.parametrize("name", NETS)
def test_kept_grams_stay_true_through_many_moves(name):
    problem = problem_of(name)
    rng = np.random.default_rng(2)
    for round_ in range(60):
        for space in problem.units:
            if problem.places[space] and rng.integers(2):
                problem.grams(space)
        random_move(problem, rng)
        if round_ % 6 == 5:
            assert stale(problem) < 1e-11, f"round {round_}"


@pytest.mark.parametrize("name", ["tanh", "residual"])
def test_a_gram_that_is_not_kept_true_is_seen(name):
    """Control: units that trade places behind the problem's back leave its Grams stale."""
    problem = problem_of(name)
    space = next(name for name in problem.units if problem.neighbours(name) - {name})
    for other in problem.units:
        problem.grams(other)
    for number, axis in problem.places[space]:
        problem.terms[number].permute(axis, (), torch.arange(problem.units[space].size).roll(1))
    assert stale(problem) > 1e-3


@pytest.mark.parametrize("name", [name for name in NETS if name != "recurrent"])
def test_the_gain_of_a_move_is_read_off_grams(name):
    """Where a space is not coupled, trace of a Gram with its columns moved is the objective of its terms."""
    problem = problem_of(name)
    rng = np.random.default_rng(4)
    plain = [
        (space, units)
        for space, units in problem.units.items()
        if units.permuted and not problem.coupled(space) and not units.within and problem.places[space]
    ]
    assert plain
    for space, units in plain:
        permutation = rng.permutation(units.size)
        before = problem.objective()
        total = sum(problem.grams(space).values())
        expected = float(total[range(units.size), permutation].sum() - total.diagonal().sum())
        problem.permute(space, permutation)
        assert problem.objective() - before == pytest.approx(expected, abs=1e-10)
