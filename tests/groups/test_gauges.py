"""Gauges: elements that multiply and add, against the matrices of what they do to a vector."""

import copy
import math
import pickle
from itertools import count, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weyl.errors import StructureError, UsageError
from weyl.groups import Element, Gauge, GaugeKind, Group, Kind, Part, Space

K = GaugeKind


@st.composite
def gauged_groups(draw, kinds=tuple(K)):
    """Random towers, with spaces that are not permuted, and gauges of all kinds that act consistently."""
    spaces: list[Space] = []
    gauges: list[Gauge] = []
    names = (f"g{number}" for number in count())
    for number in range(draw(st.integers(1, 3))):
        parent = draw(st.sampled_from([None, *spaces]))
        within = () if parent is None else (*parent.within, parent.name)
        kind = draw(st.sampled_from([Kind.SYMMETRIC, Kind.SYMMETRIC, Kind.TRIVIAL, Kind.DIAGONAL]))
        space = Space(f"s{number}", draw(st.integers(1, 3)), kind, within)
        spaces.append(space)
        mixed = {gauge.space for gauge in gauges if gauge.kind.move == "mix"} & set(within)
        if mixed and not space.permuted:
            continue  # nothing acts on it
        if mixed:
            gauges = [gauge for gauge in gauges if gauge.space not in mixed]
        for chosen in draw(st.lists(st.sampled_from(kinds), max_size=3)):
            gauges.append(Gauge(next(names), space.name, chosen, draw(carries(chosen, space.name, gauges))))
    for chosen in draw(st.lists(st.sampled_from([K.SIGN, K.SCALE, K.TRANSLATION]), max_size=2)):
        gauges.append(Gauge(next(names), "", chosen, draw(carries(chosen, "", gauges))))
    return Group(tuple(spaces), tuple(draw(st.permutations(gauges))))


def carries(kind, space, gauges):
    """What a gauge may carry: one matrix, or signs and scales to any powers."""
    if not kind.additive:
        return st.just(())
    beside = [gauge for gauge in gauges if gauge.space == space]
    factors = [gauge.name for gauge in beside if gauge.kind is K.SIGN]
    matrices = []
    if kind is K.TRANSLATION:
        factors += [gauge.name for gauge in beside if gauge.kind is K.SCALE]
        matrices = [((gauge.name, e),) for gauge in beside if gauge.kind.matrix for e in (1, -1)]
    powers = st.tuples(*(st.tuples(st.just(name), st.integers(-2, 2)) for name in factors))
    return st.one_of(powers, st.sampled_from(matrices)) if matrices else powers


def permutation_matrix(group, element, name):
    """What the permutations of an element do to a vector over the units of a space, outer indices included."""
    by_name = {space.name: space for space in group.spaces}
    space = by_name[name]
    names = (*space.within, name)
    places = list(product(*(range(by_name[n].size) for n in names)))
    matrix = np.zeros((len(places), len(places)))
    for row, place in enumerate(places):
        new = dict(zip(names, place, strict=True))
        old = dict(new)
        for n in names:
            if n in element:
                old[n] = int(element[n].permutation[(*(new[outer] for outer in by_name[n].within), new[n])])
        matrix[row, places.index(tuple(old[n] for n in names))] = 1
    return matrix


def factor_matrix(kind, values, exponent=1):
    """Block-diagonal matrix of the values of a gauge."""
    if not kind.matrix:
        return np.diag(np.ravel(values) ** float(exponent) if kind is not K.COMPLEX else np.ravel(values))
    blocks = values.reshape(-1, *values.shape[-2:])
    n = values.shape[-1]
    matrix = np.zeros((len(blocks) * n, len(blocks) * n))
    for i, block in enumerate(blocks):
        matrix[i * n : (i + 1) * n, i * n : (i + 1) * n] = block if exponent == 1 else np.linalg.inv(block).T
    return matrix


def matrix_of(group, element, gauge):
    """Matrix of an element on the quantity that a gauge acts on; affine, with one more coordinate, if it adds."""
    moved = permutation_matrix(group, element, gauge.space) if gauge.space else np.eye(1)
    values = element.values[gauge.name]
    if not gauge.kind.additive:
        return factor_matrix(gauge.kind, values) @ moved
    kinds = {other.name: other.kind for other in group.gauges}
    linear = moved
    for name, exponent in gauge.carries:
        linear = factor_matrix(kinds[name], element.values[name], exponent) @ linear
    affine = np.eye(len(linear) + 1)
    affine[:-1, :-1], affine[:-1, -1] = linear, values.ravel()
    return affine


@given(gauged_groups(), st.integers(0, 1000))
@settings(deadline=None)
def test_products_and_inverses_are_those_of_matrices(group, seed):
    """Exact elements: matrices of signs, powers of two and permutations multiply without rounding."""
    g, h = group.random(seed, exact=True), group.random(seed + 1, exact=True)
    for gauge in group.gauges:
        of_g, of_h = matrix_of(group, g, gauge), matrix_of(group, h, gauge)
        assert np.array_equal(matrix_of(group, g @ h, gauge), of_g @ of_h), gauge
        assert np.array_equal(matrix_of(group, ~g, gauge) @ of_g, np.eye(len(of_g))), gauge


@given(gauged_groups(), st.integers(0, 1000))
@settings(deadline=None)
def test_products_and_inverses_with_rounding(group, seed):
    g, h = group.random(seed), group.random(seed + 1)
    for gauge in group.gauges:
        of_g, of_h = matrix_of(group, g, gauge), matrix_of(group, h, gauge)
        np.testing.assert_allclose(matrix_of(group, g @ h, gauge), of_g @ of_h, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(matrix_of(group, ~g, gauge), np.linalg.inv(of_g), rtol=1e-9, atol=1e-9)


@given(gauged_groups(), st.integers(0, 1000))
@settings(deadline=None)
def test_laws(group, seed):
    """Exact elements obey them exactly, others to rounding."""
    a, b, c = (group.random(seed + i, exact=True) for i in range(3))
    one = group.identity()
    assert one.is_identity
    assert one @ a == a == a @ one
    assert (a @ ~a).is_identity and (~a @ a).is_identity
    assert (a @ b) @ c == a @ (b @ c)
    assert ~(a @ b) == ~b @ ~a
    a, b, c = (group.random(seed + i) for i in range(3))
    assert (a @ ~a).close(one) and (~a @ a).close(one)
    assert ((a @ b) @ c).close(a @ (b @ c))
    assert (~(a @ b)).close(~b @ ~a)


@pytest.mark.parametrize("kind", [K.SIGN, K.SCALE, K.LINEAR, K.COMPLEX, K.TRANSLATION, K.SHIFT])
def test_values_that_do_not_move_with_their_units_would_be_wrong(kind):
    """Negative control: the product of the arrays as they stand is another element."""
    group = Group((Space("h", 3), Space("d", 2, within=("h",))), (Gauge("f", "d", kind),))
    wrong = 0
    for seed in range(8):
        g, h = group.random(seed, exact=True), group.random(seed + 1, exact=True)
        a, b = g.values["f"], h.values["f"]
        naive = a + b if kind.additive else a @ b if kind.matrix else a * b
        wrong += not np.array_equal((g @ h).values["f"], naive)
    assert wrong >= 4


def test_a_translation_is_carried():
    """Doubling, then adding 1, twice: 2 (2 x + 1) + 1; without carrying, the same arrays would say 4 x + 2."""
    space = Space("a", 1, Kind.TRIVIAL)
    scale = Gauge("c", "a", K.SCALE)
    values = {"c": np.array([2.0]), "t": np.array([1.0])}
    for carried, total, back in [((("c", 1),), 3.0, -0.5), ((("c", -1),), 1.5, -2.0), ((), 2.0, -1.0)]:
        g = Element((space,), {}, (Gauge("t", "a", K.TRANSLATION, carried), scale), values)
        assert (g @ g).values["t"].item() == total
        assert (~g).values["t"].item() == back


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("kind", "carried"),
    [
        *((K.TRANSLATION, ((kind, e),)) for kind in (K.LINEAR, K.ORTHOGONAL, K.CENTRED) for e in (1, -1)),
        *((K.TRANSLATION, ((K.SCALE, e), (K.SIGN, f))) for e in (2, 1, -1) for f in (1, 2)),
        *((K.SHIFT, ((K.SIGN, e),)) for e in (-2, -1, 0, 1, 2)),
    ],
)
def test_every_kind_is_carried_to_its_exponent(kind, carried, exact):
    spaces = (Space("h", 3), Space("d", 3, within=("h",)))
    beside = tuple(Gauge(other.value, "d", other) for other, _ in carried)
    gauge = Gauge("t", "d", kind, tuple((other.value, exponent) for other, exponent in carried))
    group = Group(spaces, (gauge, *beside))
    for seed in range(4):
        g, h = group.random(seed, exact=exact), group.random(seed + 1, exact=exact)
        of_g, of_h = matrix_of(group, g, gauge), matrix_of(group, h, gauge)
        np.testing.assert_allclose(matrix_of(group, g @ h, gauge), of_g @ of_h, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(matrix_of(group, ~g, gauge) @ of_g, np.eye(10), rtol=1e-9, atol=1e-9)
        if exact:
            assert (g @ ~g).is_identity and g @ (h @ g) == (g @ h) @ g


def test_trivial_outer_indices_keep_copies_apart():
    """Values of a space that is not permuted still move with the permuted space around it."""
    spaces = (Space("p", 2, Kind.TRIVIAL), Space("h", 2, within=("p",)), Space("d", 2, Kind.DIAGONAL, ("p", "h")))
    gauge = Gauge("c", "d", K.SCALE)
    swap = Element(spaces, {"h": Part(np.array([[1, 0], [0, 1]]))}, (gauge,))
    scales = np.arange(1.0, 9.0).reshape(2, 2, 2)
    scaled = Element(spaces, {"h": Part(np.array([[0, 1], [0, 1]]))}, (gauge,), {"c": scales})
    moved = (swap @ scaled @ ~swap).values["c"]
    assert moved.tolist() == [[[3, 4], [1, 2]], [[5, 6], [7, 8]]]


def closure(group):
    seen = [group.identity()]
    frontier = list(seen)
    generators = list(group.generators())
    while frontier:
        element = frontier.pop()
        for generator in generators:
            found = generator @ element
            if found not in seen:
                seen.append(found)
                frontier.append(found)
    return seen


@pytest.mark.parametrize(
    ("spaces", "gauges", "order"),
    [
        ((Space("a", 3),), (Gauge("s", "a", K.SIGN),), 48),
        ((Space("a", 3, Kind.SIGNS),), (Gauge("s", "a", K.SIGN),), 8),
        ((Space("a", 2),), (Gauge("s", "a", K.SIGN), Gauge("t", "a", K.SIGN)), 32),
        ((Space("h", 2), Space("d", 2, within=("h",))), (Gauge("s", "d", K.SIGN),), 128),
        ((Space("a", 3),), (Gauge("m", "a", K.ORTHOGONAL),), 48),
        ((Space("p", 2, Kind.TRIVIAL), Space("a", 2, within=("p",))), (Gauge("m", "a", K.LINEAR),), 64),
        ((Space("a", 3, Kind.TRIVIAL),), (Gauge("m", "a", K.ORTHOGONAL),), 8),
        ((Space("a", 3),), (Gauge("m", "a", K.CENTRED),), 12),
        ((Space("a", 2),), (Gauge("z", "a", K.COMPLEX),), 8),
        ((Space("a", 3),), (Gauge("c", "a", K.SCALE), Gauge("t", "a", K.TRANSLATION)), 6),
        ((), (Gauge("s", "", K.SIGN), Gauge("t", "", K.SIGN), Gauge("c", "", K.SCALE)), 4),
    ],
)
def test_order_is_the_size_of_what_the_generators_generate(spaces, gauges, order):
    group = Group(spaces, gauges)
    assert len(closure(group)) == int(group.order) == order
    assert not group.infinite


def test_shifts_are_an_infinite_discrete_group():
    group = Group((Space("a", 2),), (Gauge("k", "a", K.SHIFT, (("s", 1),)), Gauge("s", "a", K.SIGN)))
    swap, flip, _, shift, _ = group.generators()
    assert (swap.moves, flip.moves, shift.moves) == ({"permute"}, {"sign"}, {"translate"})
    assert group.infinite and not group.trivial and group.dimension == 0
    assert int(group.order) == 8
    assert (shift @ shift @ shift).values["k"].tolist() == [3, 0]
    assert (flip @ shift @ flip).values["k"].tolist() == [-1, 0]


def test_orders_and_dimensions_that_are_known():
    tanh = Group((Space("a", 5), Space("b", 4)), (Gauge("a sign", "a", K.SIGN), Gauge("b sign", "b", K.SIGN)))
    assert int(tanh.order) == 2**9 * math.factorial(5) * math.factorial(4)
    assert int(tanh.permutation_order) == math.factorial(5) * math.factorial(4)
    assert (tanh.order.formula, tanh.dimension) == ("5! · 4! · 2^9", 0)
    layers, gauges = [], []
    for layer in range(12):
        layers += [Space(f"h{layer}", 12), Space(f"q{layer}", 64, within=(f"h{layer}",))]
        layers += [Space(f"v{layer}", 64, Kind.LINEAR, (f"h{layer}",))]
        gauges += [Gauge(f"qk{layer}", f"q{layer}", K.LINEAR), Gauge(f"vo{layer}", f"v{layer}", K.LINEAR)]
    assert Group(tuple(layers), tuple(gauges)).dimension == 1_179_648
    space = (Space("a", 6),)
    dimensions = {kind: Group(space, (Gauge("g", "a", kind),)).dimension for kind in K}
    assert dimensions == {
        K.SIGN: 0,
        K.SCALE: 6,
        K.LINEAR: 36,
        K.ORTHOGONAL: 15,
        K.CENTRED: 10,
        K.COMPLEX: 12,
        K.TRANSLATION: 6,
        K.SHIFT: 0,
    }


def test_overlap_is_subtracted():
    space = Space("a", 3)
    gauges = (Gauge("c", "a", K.SCALE), Gauge("s", "a", K.SIGN))
    group = Group((space,), gauges, overlap=(1, 2))
    assert (group.dimension, int(group.order), int(group.permutation_order)) == (2, 12, 6)
    assert Group((Space("a", 1),), gauges, (1, 1)).trivial
    assert not Group((Space("a", 1),), gauges, (0, 1)).trivial
    for overlap in [(4, 0), (0, 4), (-1, 0)]:
        with pytest.raises(StructureError, match=r"overlap must be between \(0, 0\) and \(3, 3\)"):
            Group((space,), gauges, overlap)


def gauges_on(space, *kinds):
    return tuple(Gauge(f"{space} {i}", space, kind) for i, kind in enumerate(kinds))


@pytest.mark.parametrize(
    ("kind", "kinds", "symbol"),
    [
        (Kind.SYMMETRIC, (), "S_4"),
        (Kind.HYPEROCTAHEDRAL, (K.SIGN,), "B_4"),
        (Kind.POSITIVE_MONOMIAL, (K.SCALE,), "Mon+_4"),
        (Kind.MONOMIAL, (K.SIGN, K.SCALE), "Mon_4"),
        (Kind.MONOMIAL, (K.SIGN, K.SCALE, K.SIGN), "(Z2^2 × R+) ≀ S_4"),
        (Kind.MONOMIAL, (K.SCALE, K.SCALE), "R+^2 ≀ S_4"),
        (Kind.SYMMETRIC, (K.COMPLEX,), "C* ≀ S_4"),
        (Kind.LINEAR, (K.LINEAR,), "GL_4"),
        (Kind.LINEAR, (K.LINEAR, K.LINEAR), "GL_4^2"),
        (Kind.ORTHOGONAL, (K.ORTHOGONAL,), "O_4"),
        (Kind.ORTHOGONAL, (K.CENTRED,), "O_3 × Z2"),
        (Kind.TRIVIAL, (), "1"),
        (Kind.TRIVIAL, (K.COMPLEX,), "(C*)^4"),
        (Kind.SIGNS, (K.SIGN,), "(Z2)^4"),
        (Kind.POSITIVE_DIAGONAL, (K.SCALE,), "(R+)^4"),
        (Kind.DIAGONAL, (K.SIGN, K.SCALE), "(R*)^4"),
        (Kind.DIAGONAL, (K.SCALE, K.SCALE, K.SIGN), "(Z2 × R+^2)^4"),
        (Kind.SYMMETRIC, (K.TRANSLATION,), "S_4 ⋉ R^4"),
        (Kind.MONOMIAL, (K.SIGN, K.SCALE, K.TRANSLATION, K.TRANSLATION), "Mon_4 ⋉ R^8"),
        (Kind.HYPEROCTAHEDRAL, (K.SIGN, K.SHIFT), "B_4 ⋉ Z^4"),
        (Kind.ORTHOGONAL, (K.CENTRED, K.TRANSLATION), "(O_3 × Z2) ⋉ R^4"),
        (Kind.TRIVIAL, (K.TRANSLATION,), "R^4"),
    ],
)
def test_symbol_of_one_space(kind, kinds, symbol):
    group = Group((Space("a", 4, kind),), gauges_on("a", *kinds))
    assert group.symbol == symbol
    assert dict(group.kinds) == {"a": symbol}


def test_symbols_of_products():
    head, inside = Space("h", 3), Space("d", 2, within=("h",))
    scale, sign = gauges_on("d", K.SCALE), gauges_on("h", K.SIGN)
    assert Group((head, inside), scale).symbol == "Mon+_2 ≀ S_3"
    assert Group((head, inside), scale + sign).symbol == "Mon+_2 ≀ B_3"
    both = gauges_on("h", K.SIGN, K.SIGN, K.SCALE)
    assert Group((head, inside), both).symbol == "S_2 ≀ ((Z2^2 × R+) ≀ S_3)"
    linear = Space("q", 4, Kind.LINEAR, ("h",)), Space("v", 4, Kind.LINEAR, ("h",))
    assert Group((head, *linear), gauges_on("q", K.LINEAR) + gauges_on("v", K.LINEAR)).symbol == "GL_4^2 ≀ S_3"
    index = Space("p", 5, Kind.TRIVIAL), Space("r", 2, Kind.POSITIVE_DIAGONAL, ("p",))
    assert Group(index, gauges_on("r", K.SCALE)).symbol == "((R+)^2)^5"
    fixed = Space("h", 3, Kind.POSITIVE_DIAGONAL)
    assert Group((fixed, inside), gauges_on("h", K.SCALE)).symbol == "(R+)^3 × S_2^3"
    everywhere = gauges_on("", K.SCALE, K.SIGN, K.SCALE, K.SCALE)
    assert Group((), everywhere).symbol == "R* × R+^2"
    assert Group((head,), everywhere[:1]).symbol == "S_3 × R+"
    assert repr(Group((head, inside), scale)) == "Group(Mon+_2 ≀ S_3, order 48, dimension 6)"


EVERY = Group(
    (Space("h", 3), Space("d", 4, within=("h",)), Space("p", 2, Kind.DIAGONAL)),
    (
        Gauge("whole", "", K.SCALE),
        *(Gauge(f"{kind.value} h again", "h", kind) for kind in K if kind.move != "mix"),
        *(
            Gauge(f"{kind.value} {space}", space, kind)
            for kind in K
            for space in ("h", "d", "p")
            if space != "h" or kind.move != "mix"  # d lives within h
        ),
    ),
)


def test_random_permutations_are_those_of_the_group_without_gauges():
    bare = Group(EVERY.spaces)
    for seed in range(5):
        for kinds in (None, ["permute"], ["permute", "mix"]):
            for exact in (False, True):
                assert dict(EVERY.random(seed, kinds, exact)) == dict(bare.random(seed))
    assert EVERY.random(0, ["sign"]).moves == {"sign"}


@pytest.mark.parametrize("seed", [0, 7])
def test_random_permutations_come_from_one_generator(seed):
    """The stream that older seeds were written down for."""
    rng, found = np.random.default_rng(seed), EVERY.random(seed)
    assert np.array_equal(found["h"].permutation, rng.permuted(np.arange(3)))
    assert np.array_equal(found["d"].permutation, rng.permuted(np.tile(np.arange(4), (3, 1)), axis=-1))


def test_random_moves_what_it_is_told_to():
    moves = {"permute", "sign", "scale", "mix", "translate"}
    whole = EVERY.random(1)
    assert whole.moves == moves
    for kind in moves:
        only = EVERY.random(1, kinds=[kind])
        assert only.moves == {kind}
        for gauge in EVERY.gauges:
            expected = whole if gauge.kind.move == kind else EVERY.identity()
            assert np.array_equal(only.values[gauge.name], expected.values[gauge.name])
    assert EVERY.random(1, kinds=()).is_identity


def test_random_leaves_global_state_alone_and_repeats():
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    a, b, c = EVERY.random(3), EVERY.random(3), EVERY.random(4)
    assert a == b != c
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    for x in EVERY.gauges:
        for y in EVERY.gauges:
            same = a.values[x.name].shape == a.values[y.name].shape and x.kind is y.kind and x.kind.continuous
            assert x is y or not same or not np.array_equal(a.values[x.name], a.values[y.name])


def test_random_values_have_the_spread_that_is_promised():
    spaces = (Space("a", 400, Kind.TRIVIAL), Space("b", 5, Kind.TRIVIAL, ("a",)))
    group = Group(spaces, tuple(Gauge(kind.value, "b", kind) for kind in K))
    values = group.random(0).values
    assert abs(values["sign"].mean()) < 0.1 and set(np.unique(values["sign"])) == {-1, 1}
    for modulus in (values["scale"], np.abs(values["complex"])):
        logs = np.log2(modulus)
        assert -1 <= logs.min() < -0.95 and 0.95 < logs.max() <= 1 and abs(logs.mean()) < 0.05
    assert abs(values["complex"].mean()) < 0.1
    assert np.linalg.cond(values["linear"]).max() <= 4 + 1e-9 < 4.1 < 2 * np.linalg.cond(values["linear"]).max()
    assert abs(values["translation"].mean()) < 0.1 and abs(values["translation"].std() - 1) < 0.1
    assert set(np.unique(values["shift"])) == {-2, -1, 0, 1, 2}
    for name in ("orthogonal", "centred"):
        matrices = values[name]
        np.testing.assert_allclose(
            matrices @ np.swapaxes(matrices, -1, -2), np.broadcast_to(np.eye(5), (400, 5, 5)), atol=1e-12
        )
        assert abs(np.linalg.det(matrices).mean()) < 0.2
    # Haar: every entry has mean 0 and square 1/5, and the trace squared 1; on the complement of ones likewise.
    haar, centred = values["orthogonal"], values["centred"]
    assert np.abs(haar.mean(axis=0)).max() < 0.1
    assert np.abs((haar**2).mean(axis=0) - 0.2).max() < 0.06
    assert abs((np.trace(haar, axis1=1, axis2=2) ** 2).mean() - 1) < 0.3
    lines = centred @ np.ones(5)
    assert set(np.round(lines[:, 0], 9)) == {-1.0, 1.0}
    np.testing.assert_allclose(lines, np.broadcast_to(lines[:, :1], lines.shape), atol=1e-12)
    inner = np.trace(centred, axis1=1, axis2=2) - lines[:, 0]
    assert abs((inner**2).mean() - 1) < 0.3 and abs((inner * lines[:, 0]).mean()) < 0.2


def test_exact_values_are_powers_of_two_and_permutations():
    values = EVERY.random(2, exact=True).values
    powers = {0.25, 0.5, 1.0, 2.0, 4.0}
    for gauge in EVERY.gauges:
        array = values[gauge.name]
        if gauge.kind is K.SCALE:
            assert set(np.ravel(array)) <= powers
        elif gauge.kind is K.COMPLEX:
            assert set(np.ravel(np.abs(array))) <= powers and not (array.real * array.imag).any()
        elif gauge.kind.matrix:
            assert ((array != 0).sum(axis=-1) == 1).all() and ((array != 0).sum(axis=-2) == 1).all()
            assert set(np.abs(array[array != 0])) <= (powers if gauge.kind is K.LINEAR else {1.0})
            one_sign = np.abs(array.sum(axis=(-1, -2))) == array.shape[-1]
            assert gauge.kind is not K.CENTRED or one_sign.all()
        elif gauge.kind.additive:
            assert np.array_equal(array, np.round(array)) and np.abs(array).max() <= 2


@given(gauged_groups(), st.integers(0, 100), st.booleans())
@settings(deadline=None)
def test_what_is_drawn_and_generated_is_valid(group, seed, exact):
    """The public constructor checks what the group made; it must find nothing."""
    for element in (group.random(seed, exact=exact), *group.generators(), ~group.random(seed)):
        again = Element(group.spaces, element, group.gauges, {name: element.values[name] for name in element.values})
        assert again == element and again.close(element)


def test_kinds_that_are_unknown_are_refused():
    with pytest.raises(UsageError, match="'scales' unknown; known: permute, sign, scale, mix, translate"):
        EVERY.random(0, kinds=["sign", "scales"])
    with pytest.raises(UsageError, match="must be a list, got 'sign'"):
        EVERY.random(0, kinds="sign")
    with pytest.raises(UsageError, match="seed"):
        EVERY.random(-1, kinds=["sign"])


def test_values_cannot_be_changed():
    given = np.array([1.0, 2.0])
    element = Element((Space("a", 2, Kind.TRIVIAL),), {}, gauges_on("a", K.SCALE), {"a 0": given})
    given[0] = 7
    assert element.values["a 0"].tolist() == [1, 2]
    for some in (element, EVERY.identity(), EVERY.random(1), EVERY.random(1) @ EVERY.random(2), ~EVERY.random(1)):
        assert len(some.values) == len(some.gauges) and list(some.values) == [gauge.name for gauge in some.gauges]
        for name in some.values:
            with pytest.raises(ValueError, match="read-only"):
                some.values[name][...] = 1
    with pytest.raises(TypeError):
        element.values["a 0"] = given
    with pytest.raises(KeyError):
        element.values["b"]


def test_an_element_is_still_a_mapping_over_spaces():
    element = EVERY.random(0)
    assert list(element) == ["h", "d"]
    assert list(element.values()) == [element["h"], element["d"]]
    assert dict(element.items()) == dict(element)


def test_identities_take_memory_for_one_copy_only():
    group = Group((Space("h", 12), Space("d", 64, within=("h",))), gauges_on("d", K.LINEAR, K.SCALE))
    matrix, scale = (group.identity().values[f"d {i}"] for i in (0, 1))
    assert matrix.shape == (12, 64, 64) and matrix.strides[0] == 0
    assert scale.shape == (12, 64) and scale.strides == (0, 0)
    assert (matrix.dtype, scale.dtype) == (np.float64, np.float64)


def test_data_types():
    types = {K.SIGN: np.int8, K.SHIFT: np.int64, K.COMPLEX: np.complex128}
    g, h = EVERY.random(0), EVERY.random(1)
    for element in (g, EVERY.identity(), g @ h, ~g):
        for gauge in EVERY.gauges:
            assert element.values[gauge.name].dtype == types.get(gauge.kind, np.float64)


@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        (K.SIGN, [1, 0], "must be 1 or -1"),
        (K.SIGN, [1.5, -1], "must be 1 or -1"),
        (K.SIGN, [True, True], "must be real numbers, got bool"),
        (K.SCALE, [1.0, -1.0], "must be positive"),
        (K.SCALE, [1.0, 0.0], "must be positive"),
        (K.SCALE, [1.0, math.inf], "must be finite"),
        (K.SCALE, [1.0, 1j], "must be real numbers"),
        (K.SCALE, ["1", "2"], "must be real numbers"),
        (K.SCALE, [1.0], r"need shape \(2,\), got \(1,\)"),
        (K.LINEAR, [1.0, 1.0], r"need shape \(2, 2\), got \(2,\)"),
        (K.LINEAR, [[1.0, 2.0], [2.0, 4.0]], "must be invertible"),
        (K.LINEAR, [[1.0, math.nan], [0.0, 1.0]], "must be finite"),
        (K.ORTHOGONAL, [[1.0, 1e-6], [0.0, 1.0]], "must be orthogonal"),
        (K.CENTRED, [[2.0, 0.0], [0.0, 2.0]], "must be orthogonal"),
        (K.CENTRED, [[1.0, 0.0], [0.0, -1.0]], r"must be matrices that map \(1, ..., 1\)"),
        (K.COMPLEX, [1j, 0], "must be different from zero"),
        (K.TRANSLATION, [math.nan, 0], "must be finite"),
        (K.SHIFT, [0.5, 0], "must be integers"),
    ],
)
def test_bad_values_are_refused(kind, values, says):
    with pytest.raises(StructureError, match=says):
        Element((Space("a", 2, Kind.TRIVIAL),), {}, gauges_on("a", kind), {"a 0": np.array(values)})


@pytest.mark.parametrize(
    ("gauges", "says"),
    [
        ((Gauge("g", "a", K.SIGN), Gauge("g", "a", K.SCALE)), "two gauges are called 'g'"),
        ((Gauge("g", "c", K.SIGN),), "acts on space 'c', which is not there"),
        ((Gauge("g", "", K.LINEAR),), "needs a space"),
        ((Gauge("g", "", K.COMPLEX),), "needs a space"),
        ((Gauge("t", "a", K.TRANSLATION, (("s", 1),)), Gauge("s", "b", K.SIGN)), "no gauge of space 'a'"),
        ((Gauge("t", "a", K.TRANSLATION, (("s", 1),)),), "no gauge of space 'a'"),
        ((Gauge("t", "a", K.SHIFT, (("c", 1),)), Gauge("c", "a", K.SCALE)), "'scale' acts on a shift"),
        ((Gauge("t", "a", K.TRANSLATION, (("z", 1),)), Gauge("z", "a", K.COMPLEX)), "acts on a translation"),
        ((Gauge("t", "a", K.TRANSLATION, (("m", 2),)), Gauge("m", "a", K.LINEAR)), "exponent 1 or -1"),
        (
            (
                Gauge("t", "a", K.TRANSLATION, (("m", 1), ("s", 1))),
                *(Gauge(n, "a", k) for n, k in [("m", K.LINEAR), ("s", K.SIGN)]),
            ),
            "a matrix is carried without others",
        ),
    ],
)
def test_bad_gauges_are_refused(gauges, says):
    spaces = (Space("a", 2, Kind.TRIVIAL), Space("b", 2, Kind.TRIVIAL))
    with pytest.raises(StructureError, match=says):
        Group(spaces, gauges)
    with pytest.raises(StructureError, match=says):
        Element(spaces, {}, gauges)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("", "a", K.SIGN), "not empty, got ''"),
        ((3, "a", K.SIGN), "not empty, got 3"),
        (("g", None, K.SIGN), "space must be the name"),
        (("g", "a", "scale"), "kind must be a GaugeKind, .* got 'scale'"),
        (("g", "a", "bogus"), "kind must be a GaugeKind"),
        (("g", "a", Kind.SYMMETRIC), "kind must be a GaugeKind"),
        (("g", "a", K.SHIFT, "x"), "carries must be a tuple"),
        (("g", "a", K.SHIFT, [("s", 1)]), "carries must be a tuple"),
        (("g", "a", K.SHIFT, ("s", 1)), "carries must be a tuple"),
        (("g", "a", K.SHIFT, (("s", 1.0),)), "carries must be a tuple"),
        (("g", "a", K.SHIFT, ((1, "s"),)), "carries must be a tuple"),
        (("g", "a", K.SCALE, (("s", 1),)), "only additive kinds carry others, 'scale' is none"),
    ],
)
def test_what_is_no_gauge_is_refused(given, says):
    with pytest.raises(StructureError, match=says):
        Gauge(*given)


@pytest.mark.parametrize("kind", list(K))
def test_gauges_of_all_kinds_are_made_and_the_additive_ones_carry(kind):
    assert Gauge("g", "", kind).carries == ()
    if kind.additive:
        assert Gauge("g", "a", kind, (("s", -1),)).carries == (("s", -1),)
    else:
        with pytest.raises(StructureError, match="only additive"):
            Gauge("g", "a", kind, (("s", -1),))


def test_unknown_gauges_and_other_groups_are_refused():
    space = Space("a", 2, Kind.TRIVIAL)
    with pytest.raises(StructureError, match="'b', which is no gauge; known: 'a 0'"):
        Element((space,), {}, gauges_on("a", K.SIGN), {"b": np.ones(2)})
    with_gauge, without = Group((space,), gauges_on("a", K.SIGN)).identity(), Group((space,)).identity()
    with pytest.raises(StructureError, match="different groups"):
        with_gauge @ without
    assert with_gauge != without and not with_gauge.close(without)


@pytest.mark.parametrize("kind", [kind for kind in K if kind.continuous])
def test_close_is_relative_and_equality_exact(kind):
    space = Space("a", 3, Kind.TRIVIAL)
    group = Group((space,), gauges_on("a", kind))
    g = group.random(1)
    values = g.values["a 0"]

    def nudged(by):
        return Element._trusted(g.spaces, {}, g.gauges, {"a 0": values * (1 + by)})

    assert g.close(g) and g == g
    assert nudged(1e-12) != g
    assert nudged(1e-12).close(g) and g.close(nudged(1e-12))
    assert not nudged(1e-6).close(g)
    assert nudged(1e-6).close(g, tolerance=1e-5)
    assert not g.close(group.identity())


def test_small_factors_are_compared_at_their_own_size():
    group = Group((Space("a", 2, Kind.TRIVIAL),), gauges_on("a", K.SCALE))
    a, b = (Element(group.spaces, {}, group.gauges, {"a 0": np.array([1.0, x])}) for x in (1e-12, 2e-12))
    assert not a.close(b)


def test_translations_that_cancel_are_compared_with_the_largest():
    group = Group((Space("a", 2, Kind.TRIVIAL),), gauges_on("a", K.TRANSLATION))
    values = ([0.0, 3e3], [1e-8, 3e3], [1e-5, 3e3], [0.0, 0.0], [1e-8, 0.0], [1e-12, 0.0])
    a, b, c, zero, far, near = (Element(group.spaces, {}, group.gauges, {"a 0": np.array(x)}) for x in values)
    assert a.close(b) and not a.close(c)
    assert zero.close(near) and not zero.close(far)


@pytest.mark.parametrize("kind", [K.SIGN, K.SHIFT])
def test_close_wants_whole_values_and_permutations_equal(kind):
    group = Group((Space("a", 3),), gauges_on("a", kind))
    swap, _, change, *_ = group.generators()
    assert not change.close(group.identity(), tolerance=10)
    assert not swap.close(group.identity(), tolerance=10)


def test_moves_and_repr_say_what_moves():
    group = Group((Space("a", 3),), gauges_on("a", K.SIGN, K.SCALE, K.TRANSLATION))
    g = Element(group.spaces, group.identity(), group.gauges, {"a 1": np.ones(3), "a 0": np.array([1, -1, 1])})
    assert g.moves == {"sign"} and not g.is_identity
    assert repr(g) == "Element(1 spaces, 0 units moved, sign)"
    assert repr(group.identity()) == "Element(1 spaces, 0 units moved)"
    unit = Element(group.spaces, group.identity(), group.gauges, {"a 1": np.ones(3)})
    assert unit.is_identity and unit == group.identity()


def test_elements_can_be_copied_and_pickled():
    g = EVERY.random(5)
    assert pickle.loads(pickle.dumps(g)) == g == copy.deepcopy(g)


@pytest.mark.parametrize("kind", [K.LINEAR, K.ORTHOGONAL, K.CENTRED, K.COMPLEX])
def test_units_that_others_live_within_are_not_mixed(kind):
    outer, inner, inert = Space("h", 3), Space("d", 2, within=("h",)), Space("d", 2, Kind.TRIVIAL, ("h",))
    with pytest.raises(StructureError, match="lives within them"):
        Group((outer, inner), (Gauge("m", "h", kind),))
    with pytest.raises(StructureError, match="lives within them"):
        Group((outer, inert), (Gauge("m", "h", kind), Gauge("s", "d", K.SIGN)))
    assert Group((outer, inert), (Gauge("m", "h", kind),)).spaces
