"""The solvers of the toy problem against the closed forms, convex duality, and known codes."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from weyl.errors import UsageError
from weyl.geometry._bounded import minimise_bounded, minimise_outputs, one_vs_rest_margin
from weyl.geometry._simplex import simplex, simplex_optimum


def check_bounds(solution):
    assert float(solution.features.norm(dim=1).max()) <= solution.radius * (1 + 1e-12)
    assert float(torch.linalg.matrix_norm(solution.map, 2)) <= solution.operator_norm * (1 + 1e-12)


@pytest.mark.parametrize(
    ("k", "dim", "radius", "options"),
    [
        (2, 1, 1.0, {}),
        (3, 2, 5.0, {}),
        (3, 7, 0.1, {"operator_norm": 0.5}),
        (4, 3, 30.0, {}),
        (5, 4, 3.0, {"class_weights": [1, 2, 3, 4, 5]}),
        (5, 6, 3.0, {"class_weights": [1, 1, 1, 1, 100]}),
        (4, 6, 2.0, {"bias": True}),
        (10, 9, 5.0, {"bias": True, "operator_norm": 2.0}),
        (10, 20, 5.0, {}),
    ],
)
def test_lands_on_the_closed_form(k, dim, radius, options):
    solution = minimise_bounded(k, dim, radius, restarts=2, **options)
    check_bounds(solution)
    assert solution.converged
    assert abs(solution.gap) < 1e-8
    assert solution.gap >= -1e-13
    assert solution.certificate.holds, solution.certificate
    bound = radius * options.get("operator_norm", 1.0)
    assert solution.least_risk == simplex_optimum(k, bound).risk
    assert solution.margin == pytest.approx(bound * math.sqrt(k / (k - 1)), rel=1e-6)
    assert solution.separation == pytest.approx(k / (k - 1), rel=1e-6)
    if options.get("bias"):
        assert float(solution.bias.abs().max()) < 1e-6 * max(1, bound)
    # every start ends there: the problem has no bad minimum here
    assert [restart.risk for restart in solution.restarts] == pytest.approx([solution.risk] * 2, abs=1e-9)


def test_few_steps_do_not_pass():
    solution = minimise_bounded(5, 6, 3.0, steps=3, restarts=1)
    assert not solution.converged
    assert solution.gap > 1e-3
    assert not solution.certificate.holds


def test_history_and_restarts_are_reported():
    solution = minimise_bounded(5, 3, 10.0, restarts=3, seed=4)
    assert len(solution.restarts) == 3
    assert solution.risk == min(restart.risk for restart in solution.restarts) == solution.history[-1]
    assert len(solution.history) == solution.iterations + 1
    assert all(later <= earlier for earlier, later in zip(solution.history, solution.history[1:], strict=False))
    assert math.fsum(solution.class_weights) == pytest.approx(1)


def least_risk_with_bias(radius, weights):
    """Outputs in the ball and a bias form a convex problem; solve it over all of them."""
    k = len(weights)

    def risk(v):
        z, b = v[: k * k].reshape(k, k), v[k * k :]
        logits = z + b
        value = sum(w * (logsumexp(row) - row[i]) for i, (w, row) in enumerate(zip(weights, logits, strict=True)))
        gradient = weights[:, None] * (softmax(logits, axis=1) - np.eye(k))
        return value, np.concatenate([gradient.ravel(), gradient.sum(0)])

    ball = {
        "type": "ineq",
        "fun": lambda v: radius**2 - (v[: k * k].reshape(k, k) ** 2).sum(1),
        "jac": lambda v: -2 * np.hstack([np.kron(np.eye(k), np.ones(k)) * v[: k * k], np.zeros((k, k))]),
    }
    return minimize(
        risk, np.zeros(k * k + k), jac=True, method="SLSQP", constraints=ball, options={"ftol": 1e-14, "maxiter": 500}
    ).fun


def test_a_bias_with_unequal_weights_goes_below_the_simplex():
    weights = np.array([1, 2, 3, 4, 5]) / 15
    solution = minimise_bounded(5, 4, 3.0, class_weights=weights, bias=True, restarts=2)
    check_bounds(solution)
    assert (solution.least_risk, solution.gap, solution.certificate) == (None, None, None)
    assert solution.risk < simplex_optimum(5, 3.0).risk - 0.01
    assert solution.risk == pytest.approx(least_risk_with_bias(3.0, weights), abs=1e-8)
    # negative controls: without the bias, or with equal weights, the same solver of outputs gives the simplex
    assert least_risk_with_bias(3.0, np.full(5, 0.2)) == pytest.approx(simplex_optimum(5, 3.0).risk, abs=1e-8)


# ---- more classes than a simplex has vertices ----


@pytest.mark.parametrize(
    ("k", "dim", "separation"),
    [
        (4, 2, 1 - math.cos(math.pi / 2)),
        (5, 2, 1 - math.cos(2 * math.pi / 5)),
        (8, 2, 1 - math.cos(math.pi / 4)),
        (6, 3, 1.0),  # octahedron
        (8, 4, 1.0),  # cross-polytope
        (12, 3, 1 - 1 / math.sqrt(5)),  # icosahedron
    ],
)
def test_known_codes(k, dim, separation):
    solution = minimise_bounded(k, dim, 30.0, restarts=2)
    check_bounds(solution)
    assert solution.converged
    assert (solution.least_risk, solution.gap, solution.certificate) == (None, None, None)
    assert solution.separation == pytest.approx(separation, abs=1e-5)
    # the rows of a tight frame of norm 1 have length sqrt(dim / k)
    assert solution.margin == pytest.approx(30 * math.sqrt(dim / k) * separation, rel=1e-5)
    assert solution.margin >= max(restart.margin for restart in solution.restarts) * (1 - 1e-5)
    # dropping the dimension can only cost
    assert solution.risk > simplex_optimum(k, 30.0).risk * 1.1


def test_circle_code_is_regular():
    y = minimise_bounded(7, 2, 30.0, restarts=2).features
    angles = torch.atan2(y[:, 1], y[:, 0]).sort().values
    gaps = torch.diff(torch.cat([angles, angles[:1] + 2 * math.pi]))
    torch.testing.assert_close(gaps, torch.full_like(gaps, 2 * math.pi / 7), rtol=0, atol=1e-5)


def test_tetrahedron_in_space():
    solution = minimise_bounded(4, 3, 30.0, restarts=2)
    cosines = (solution.features @ solution.features.T / 900)[~torch.eye(4, dtype=torch.bool)]
    torch.testing.assert_close(cosines, torch.full_like(cosines, -1 / 3), rtol=0, atol=1e-6)


def slow_distance(points, i):
    rest = np.delete(points, i, axis=0)
    n = len(rest)
    found = minimize(
        lambda v: (np.sum((v @ rest - points[i]) ** 2), 2 * rest @ (v @ rest - points[i])),
        np.full(n, 1 / n),
        jac=True,
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda v: v.sum() - 1, "jac": lambda v: np.ones(n)},
        method="SLSQP",
        options={"ftol": 1e-16, "maxiter": 500},
    )
    return math.sqrt(found.fun)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_one_vs_rest_margin_against_a_quadratic_program(seed, scale):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(5 + seed, 4))
    points[:, 3] = 5 * np.sign(points[:, 3]) * points[:, :3].max()
    expected = min(slow_distance(points, i) for i in range(len(points)))
    assert one_vs_rest_margin(torch.tensor(points * scale)) == pytest.approx(expected * scale, abs=2e-5 * scale)


def test_one_vs_rest_margin_of_simple_sets():
    assert one_vs_rest_margin(simplex(5, 4)) == pytest.approx(5 / 4)
    cube = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3) / math.sqrt(3)
    assert one_vs_rest_margin(cube) == pytest.approx(2 / 3)
    inside = torch.cat([cube, torch.zeros(1, 3)])
    assert one_vs_rest_margin(inside) == pytest.approx(0, abs=1e-12)
    assert one_vs_rest_margin(torch.ones(3, 2)) == 0


# ---- outputs in a p-ball ----


@pytest.mark.parametrize("p", [1.1, 1.5, 2, 3, 4])
@pytest.mark.parametrize(("k", "radius"), [(2, 1.0), (3, 5.0), (10, 5.0), (10, 50.0), (40, 0.5)])
def test_outputs_land_on_corollary_6(k, radius, p):
    solution = minimise_outputs(k, radius, p, class_weights=torch.arange(1, k + 1), seed=1)
    optimum = simplex_optimum(k, radius, p)
    assert solution.least_risk == optimum.risk
    assert abs(solution.gap) < 1e-8
    assert -1e-12 < solution.duality_gap < 1e-8
    assert float(solution.outputs.norm(p, dim=1).max()) <= radius * (1 + 1e-12)
    torch.testing.assert_close(solution.outputs, optimum.vertices, rtol=0, atol=2e-5 * radius)
    assert len(solution.history) == solution.iterations + 1


def test_duality_gap_bounds_the_distance_from_the_minimum():
    for steps in (1, 2, 4, 8):
        solution = minimise_outputs(10, 5.0, 1.5, steps=steps)
        assert solution.duality_gap >= solution.gap > 1e-6


def test_global_random_state_is_untouched_and_seeds_repeat():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    one, two = (minimise_bounded(4, 3, restarts=1, steps=20, seed=3).features for _ in range(2))
    outputs = minimise_outputs(4, steps=3, seed=3).outputs
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
    assert torch.equal(one, two)
    assert not torch.equal(one, minimise_bounded(4, 3, restarts=1, steps=20, seed=2).features)
    assert not torch.equal(outputs, minimise_outputs(4, steps=3, seed=2).outputs)


def test_class_weights_are_not_changed():
    weights = torch.tensor([1.0, 2.0, 3.0])
    minimise_bounded(3, 2, class_weights=weights, restarts=1, steps=5)
    assert weights.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: minimise_bounded(1, 3), "k must be"),
        (lambda: minimise_bounded(3, 0), "dim must be"),
        (lambda: minimise_bounded(3, 2, -1.0), "radius"),
        (lambda: minimise_bounded(3, 2, operator_norm=math.inf), "operator_norm"),
        (lambda: minimise_bounded(3, 2, class_weights=[1, 2]), "class_weights must be 3 positive numbers"),
        (lambda: minimise_bounded(3, 2, class_weights=[1, 2, 0]), "class_weights"),
        (lambda: minimise_bounded(3, 2, class_weights=[1, 2, math.nan]), "class_weights"),
        (lambda: minimise_bounded(3, 2, restarts=0), "restarts"),
        (lambda: minimise_bounded(3, 2, steps=0), "steps"),
        (lambda: minimise_bounded(3, 2, seed=-1), "seed"),
        (lambda: minimise_bounded(3, 2, steps=1, restarts=1, tolerance=0.0), "tolerance"),
        (lambda: minimise_outputs(3, 1.0, 1.0), "p must lie"),
        (lambda: one_vs_rest_margin(torch.ones(1, 2)), "two points"),
        (lambda: one_vs_rest_margin(torch.full((3, 2), math.nan)), "finite"),
    ],
)
def test_wrong_calls(call, words):
    with pytest.raises(UsageError, match=words):
        call()
