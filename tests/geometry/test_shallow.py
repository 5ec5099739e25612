"""Lemmas 16 and 18: the classifiers that must not collapse, and the one case that must."""

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from weyl.errors import UsageError
from weyl.geometry import margin_family, relu_margin_program, three_neurons, train_shallow_relu

INTERVALS = np.concatenate([np.linspace(-2, -1, 15), np.linspace(1, 2, 15)])

# ---- Lemma 16 ----


@pytest.mark.parametrize("b", [0, 0.25, 0.5, 1])
def test_every_member_of_the_family_has_margin_one_half_and_none_is_constant(b):
    values = np.sign(INTERVALS) * margin_family(INTERVALS, b)
    assert values.min() == pytest.approx(0.5)
    assert values.max() == pytest.approx((2 + b) / (2 + 2 * b))
    assert values.max() >= 0.75
    # two neurons of path norm 1 + b, each with coefficient 1 / (2 (1 + b)): norm 1
    x = np.linspace(-3, 3, 50)
    direct = sum(s / (2 * (1 + b)) * np.maximum(s * x + b, 0) for s in (1, -1))
    np.testing.assert_allclose(margin_family(x, b), direct)


@pytest.mark.parametrize("points", [(-2.0, -1.0, 1.0, 2.0), INTERVALS])
def test_largest_margin_and_what_it_leaves_open(points):
    program = relu_margin_program(points)
    assert program.margin == pytest.approx(0.5, abs=1e-9)
    assert program.lowest == pytest.approx(0.75, abs=1e-9)
    assert program.highest == pytest.approx(1.0, abs=1e-9)
    assert program.constant_margin == pytest.approx(0.25, abs=1e-9)
    assert (program.labels * program.values).min() >= program.margin - 1e-9


def test_a_finer_dictionary_finds_no_larger_margin():
    """Random neurons are an independent, larger set: the few kinks at the points are exact."""
    from scipy.optimize import linprog

    x = np.array([-2.0, -1, 1, 2])
    rng = np.random.default_rng(0)
    w, b = rng.uniform(-1, 1, 4000), rng.choice([-1, 1], 4000)
    table = np.sign(x)[:, None] * np.maximum(np.outer(x, w) + b * (1 - np.abs(w)), 0)
    both = np.hstack([table, -table])
    upper = np.vstack([np.hstack([-both, np.ones((4, 1))]), np.append(np.ones(8000), 0)])
    found = linprog(np.append(np.zeros(8000), -1), A_ub=upper, b_ub=[0, 0, 0, 0, 1], method="highs")
    assert 0.495 < -found.fun <= relu_margin_program(x).margin + 1e-9


def test_range_at_a_place_between_the_points():
    program = relu_margin_program(at=1.5)
    members = [float(margin_family(1.5, b)) for b in np.linspace(0, 1, 11)]
    assert program.lowest <= min(members) + 1e-9
    assert program.highest >= max(members) - 1e-9
    assert program.at == 1.5


def test_euclidean_norm_leaves_one_classifier_which_is_not_constant_either():
    program = relu_margin_program(INTERVALS, norm="euclidean")
    assert program.margin == pytest.approx(math.sqrt(0.5), abs=1e-9)
    assert program.lowest == pytest.approx(1.5 * program.margin, abs=1e-6)
    assert program.highest == pytest.approx(1.5 * program.margin, abs=1e-6)
    assert program.constant_margin == pytest.approx(math.sqrt(0.5) / 2, abs=1e-9)


def test_program_where_collapse_costs_nothing():
    """Negative control: one point a class is constant on its class."""
    program = relu_margin_program([-1.0, 1.0])
    assert program.constant_margin == pytest.approx(program.margin, abs=1e-9)


def test_labels_decide():
    flipped = relu_margin_program((-2.0, -1.0, 1.0, 2.0), [1, 1, -1, -1])
    assert flipped.margin == pytest.approx(0.5)
    assert flipped.highest < 0
    harder = relu_margin_program((-2.0, -1.0, 1.0, 2.0), [1, -1, -1, 1])
    assert harder.margin < 0.4


@pytest.mark.parametrize("loss", ["logistic", "exponential"])
def test_gradient_descent_finds_the_largest_margin_and_does_not_collapse(loss):
    net = train_shallow_relu(loss=loss)
    best = relu_margin_program(INTERVALS, norm="euclidean")
    assert net.euclidean_margin == pytest.approx(best.margin, rel=1e-3)
    assert net.euclidean_margin <= best.margin + 1e-9
    assert net.path_margin == pytest.approx(0.5, rel=1e-3)
    assert net.path_margin <= 0.5 + 1e-9
    assert not net.constant_on_classes()
    assert net.spread == pytest.approx(0.5, abs=0.005)
    assert net.nearest_b >= 0.98
    assert net.family_distance < 1e-3
    # outside the data, too, it is the member b = 1 of the family
    scaled = net.values / net.euclidean_margin
    np.testing.assert_allclose(scaled, 2 * margin_family(net.grid, 1.0), atol=0.02)


def test_margin_grows_along_the_training():
    history = train_shallow_relu(100, steps=4000, seed=3).history
    assert history[0, 2] < 0.7015 < 0.7069 < history[-1, 2] < math.sqrt(0.5)
    assert history[-1, 1] > 1e4
    assert history[-1, 0] == 4000


def test_output_is_the_network():
    net = train_shallow_relu(20, steps=50)
    direct = [float(np.mean(net.outer * np.maximum(net.inner * x + net.bias, 0))) for x in net.grid]
    norm = float(np.mean(np.abs(net.outer) * np.sqrt(net.inner**2 + net.bias**2)))
    np.testing.assert_allclose(net.values, np.array(direct) / norm, rtol=1e-10, atol=1e-12)


def test_one_step_is_a_step_of_gradient_descent():
    """Against automatic differentiation of the loss itself: the same direction."""
    import torch

    start, end = train_shallow_relu(30, steps=1, rate=1e-9), train_shallow_relu(30, steps=1, rate=1e-3)
    parameters = [torch.tensor(v, requires_grad=True) for v in (start.outer, start.inner, start.bias)]
    x = torch.tensor(np.concatenate([-np.linspace(1, 2, 21)[::-1], np.linspace(1, 2, 21)]))
    a, w, b = parameters
    output = torch.relu(torch.outer(x, w) + b) @ a / 30
    torch.nn.functional.softplus(-x.sign() * output).sum().backward()
    descent = -np.concatenate([p.grad.numpy() for p in parameters])
    step = np.concatenate([end.outer - start.outer, end.inner - start.inner, end.bias - start.bias])
    cosine = descent @ step / np.linalg.norm(descent) / np.linalg.norm(step)
    assert cosine == pytest.approx(1, abs=1e-9)


# ---- Lemma 18 ----

WEIGHTS = [(1, 1, 1), (0.2, 0.5, 0.3), (5, 1, 1), (1, 100, 0.01)]
STARTS = [(0, 0, 0), (10, -10, 5), (-8, 3, -12)]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("start", STARTS)
def test_flow_and_network_tend_to_the_limit_and_do_not_collapse(weights, start):
    result = three_neurons(*weights, start=start)
    p1, _, p3 = weights
    assert result.limit == pytest.approx(math.log(p3 / (2 * p1)))
    assert abs(result.limit) > 0.2
    assert result.flow_difference == pytest.approx(result.limit, abs=1e-8)
    assert result.network_difference == pytest.approx(result.limit, abs=1e-8)
    assert not result.collapses()


@pytest.mark.parametrize(("p1", "p2", "start"), [(1, 1, STARTS[0]), (0.1, 3, STARTS[1]), (7, 0.2, STARTS[2])])
def test_collapse_only_if_p3_is_twice_p1(p1, p2, start):
    assert three_neurons(p1, p2, 2 * p1, start=start).collapses()
    assert not three_neurons(p1, p2, 2.01 * p1, start=start).collapses()


def test_before_the_limit_there_is_no_collapse_either():
    result = three_neurons(1, 1, 2, log_time=2, steps=5, start=(3.0, 0.0, 0.0))
    assert not result.collapses(1e-3)


def test_flow_is_the_equation_of_the_lemma():
    """In plain time, with another solver, as far as plain time goes."""
    p, start, end = (0.7, 1.3, 0.4), (0.5, -1.0, 2.0), 50.0

    def speed(_, a):
        push = p[2] * math.exp(a[1] - a[2])
        return [p[0] * math.exp(-a[0]), p[1] * math.exp(-a[1]) - push, push]

    plain = solve_ivp(speed, (0, end), start, method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    result = three_neurons(*p, start=start, log_time=math.log1p(end))
    np.testing.assert_allclose(result.flow[-1], plain, atol=1e-7)
    assert result.log_time[-1] == pytest.approx(math.log1p(end))


def test_network_step_is_gradient_descent_on_the_exponential_loss():
    import torch

    p, start = torch.tensor([0.7, 1.3, 0.4], dtype=torch.float64), (0.5, -1.0, 2.0)
    result = three_neurons(*p.tolist(), start=start, slope=7.0, steps=1, rate=0.1)
    a = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    h = a[0] * torch.sigmoid(-7 * (x + 0.5)) - a[1] * torch.sigmoid(7 * (x + 0.5)) + a[2] * torch.sigmoid(7 * (x - 0.5))
    loss = (p * torch.exp(-torch.tensor([1, -1, 1]) * h)).sum()
    loss.backward()
    expected = a - 0.1 * a.grad / loss
    np.testing.assert_allclose(result.network[1], expected.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("slope", [2.0, 5.0, 10.0, 20.0])
def test_limit_at_a_finite_slope(slope):
    result = three_neurons(1, 1, 1, slope=slope, steps=3000)
    assert result.network_difference == pytest.approx(result.network_limit, abs=1e-10)
    off = abs(result.network_limit - result.limit)
    assert 0.3 * math.exp(-slope / 2) < off < 1.2 * math.exp(-slope / 2)


# ---- wrong calls ----


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: margin_family(1.0, 1.5), "b must"),
        (lambda: relu_margin_program([1.0, 2.0]), "both present"),
        (lambda: relu_margin_program([0.0, 1.0]), "both present"),
        (lambda: relu_margin_program([-1.0, math.nan]), "finite"),
        (lambda: relu_margin_program([-1.0, 1.0], [1.0]), "one label"),
        (lambda: relu_margin_program(norm="l2"), "norm must"),
        (lambda: relu_margin_program(at=math.inf), "at must"),
        (lambda: train_shallow_relu(0), "width"),
        (lambda: train_shallow_relu(steps=0), "steps"),
        (lambda: train_shallow_relu(loss="hinge"), "loss must"),
        (lambda: three_neurons(0, 1, 1), "p1"),
        (lambda: three_neurons(1, 1, math.nan), "p3"),
        (lambda: three_neurons(1, 1, 1, start=(0, 0)), "start"),
        (lambda: three_neurons(1, 1, 1, start=(0, 0, math.inf)), "start"),
        (lambda: three_neurons(1, 1, 1, slope=-1), "slope"),
        (lambda: three_neurons(1, 1, 1, slope=0.5), "slope"),
        (lambda: three_neurons(1, 1, 1, rate=2), "rate"),
    ],
)
def test_wrong_calls(call, words):
    with pytest.raises(UsageError, match=words):
        call()


def test_seeds_repeat_and_global_state_is_untouched():
    before = np.random.get_state()[1].tolist()
    one, two, other = (train_shallow_relu(10, steps=5, seed=seed) for seed in (1, 1, 2))
    assert np.random.get_state()[1].tolist() == before
    np.testing.assert_array_equal(one.outer, two.outer)
    assert not np.array_equal(one.inner, other.inner)


def test_inputs_are_not_changed():
    points = np.array([-2.0, -1.0, 1.0, 2.0])
    start = np.array([1.0, 2.0, 3.0])
    relu_margin_program(points)
    three_neurons(1, 1, 1, start=start, steps=3, log_time=1)
    assert points.tolist() == [-2, -1, 1, 2]
    assert start.tolist() == [1, 2, 3]
