"""The closed forms against optimisers that know nothing of them, and the certificate against planted faults."""

import dataclasses
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logsumexp, softmax

from weyl.errors import UsageError
from weyl.geometry._simplex import optimal_pair, simplex, simplex_optimum

EXPONENTS = [1.1, 1.5, 2, 3, 4]


def cross_entropy(z, i):
    return logsumexp(z - z[i])


def search_symmetric(k, radius, p):
    """Best (alpha, -beta) on the sphere, alpha^p = R^p s(v), by a search over one number."""

    def values(v):
        return radius * expit(v) ** (1 / p), radius * (expit(-v) / (k - 1)) ** (1 / p)

    found = minimize_scalar(
        lambda v: -sum(values(v)), bounds=(-5, 100), method="bounded", options={"xatol": 1e-10, "maxiter": 1000}
    )
    return values(found.x)


def frank_wolfe(z, i, radius, p, steps):
    """Minimise class i's cross-entropy over the whole p-ball; every entry of z is free."""
    q = p / (p - 1)
    for _ in range(steps):
        gradient = softmax(z)
        gradient[i] -= 1
        scaled = gradient / np.abs(gradient).max()
        vertex = -np.sign(scaled) * np.abs(scaled) ** (q - 1)
        vertex *= radius / np.linalg.norm(vertex, p)
        low, high = 0.0, 1.0
        for _ in range(45):
            step = (low + high) / 2
            slope = softmax(z + step * (vertex - z))
            slope[i] -= 1
            low, high = (low, step) if slope @ (vertex - z) > 0 else (step, high)
        z = z + high * (vertex - z)
    return z


def random_in_ball(rng, k, radius, p):
    z = rng.normal(size=k)
    return z * radius * rng.uniform(0, 1) / np.linalg.norm(z, p)


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("k", [2, 3, 10, 100, 1000])
@pytest.mark.parametrize("radius", [0.1, 5.0])
def test_closed_form_is_the_best_of_the_symmetric_outputs(k, p, radius):
    optimum = simplex_optimum(k, radius, p)
    alpha, minus_beta = search_symmetric(k, radius, p)
    assert optimum.alpha == pytest.approx(alpha, rel=1e-5)
    assert optimum.beta == pytest.approx(-minus_beta, rel=1e-3, abs=1e-6 * radius)
    assert optimum.alpha - optimum.beta >= alpha + minus_beta - 1e-14 * radius
    assert optimum.alpha - optimum.beta == pytest.approx(alpha + minus_beta, rel=1e-10)
    assert optimum.risk == pytest.approx(math.log1p((k - 1) * math.exp(-minus_beta - alpha)), rel=1e-10)


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("k", [2, 3, 9])
def test_closed_form_is_the_only_optimum_of_the_whole_ball(k, p):
    rng = np.random.default_rng(k)
    optimum = simplex_optimum(k, 3.0, p)
    for i in (0, k - 1):
        end = frank_wolfe(random_in_ball(rng, k, 3.0, p), i, 3.0, p, steps=150)
        assert cross_entropy(end, i) == pytest.approx(optimum.risk, rel=1e-8)
        np.testing.assert_allclose(end, optimum.vertices[i].numpy(), atol=2e-4)


@pytest.mark.parametrize("p", [1.5, 2, 3, 4])
def test_a_second_optimiser_of_the_whole_ball_agrees(p):
    k, radius = 4, 2.0
    ball = {
        "type": "ineq",
        "fun": lambda z: radius**p - (np.abs(z) ** p).sum(),
        "jac": lambda z: -p * np.sign(z) * np.abs(z) ** (p - 1),
    }
    found = minimize(
        lambda z: (cross_entropy(z, 1), softmax(z) - np.eye(k)[1]),
        random_in_ball(np.random.default_rng(0), k, radius, p),
        jac=True,
        method="SLSQP",
        constraints=ball,
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    optimum = simplex_optimum(k, radius, p)
    assert found.fun == pytest.approx(optimum.risk, rel=1e-7)
    np.testing.assert_allclose(found.x, optimum.vertices[1].numpy(), atol=1e-3)


@given(
    st.integers(2, 30),
    st.floats(0.01, 50),
    st.floats(1.02, 20),
    st.integers(0, 2**32 - 1),
)
def test_no_point_of_the_ball_is_better(k, radius, p, seed):
    z = random_in_ball(np.random.default_rng(seed), k, radius, p)
    assert cross_entropy(z, 0) >= simplex_optimum(k, radius, p).risk - 1e-14


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("k", [2, 10, 1000])
def test_vertices_lie_on_the_sphere_and_have_the_least_risk(k, p):
    optimum = simplex_optimum(k, 5.0, p)
    z = optimum.vertices
    torch.testing.assert_close(z.norm(p, dim=1), torch.full((k,), 5.0, dtype=torch.float64))
    risks = -z.log_softmax(1).diagonal()
    torch.testing.assert_close(risks, torch.full_like(risks, optimum.risk), rtol=1e-11, atol=1e-14)
    # negative control: a little less contrast on the same sphere is worse
    worse = z.clone()
    worse.fill_diagonal_(0.99 * optimum.alpha)
    assert float(-worse.log_softmax(1).diagonal().mean()) > optimum.risk * (1 + 1e-3)


def test_published_number():
    assert round(simplex_optimum(10, radius=5.0).risk, 10) == 0.0452324884


def test_p_two_is_lemma_4():
    optimum = simplex_optimum(7, 3.0)
    assert optimum.alpha == pytest.approx(3 * math.sqrt(6 / 7), rel=1e-14)
    assert optimum.beta == pytest.approx(-3 / math.sqrt(42), rel=1e-14)


def test_p_near_one_does_not_overflow():
    optimum = simplex_optimum(1000, 2.0, 1.0001)
    assert optimum.alpha == pytest.approx(2.0)
    assert -1e-300 <= optimum.beta <= 0


VECTORS = arrays(np.float64, st.integers(2, 8), elements=st.floats(-30, 30))


@given(VECTORS, st.floats(-100, 100))
def test_lemma_1_shift_changes_nothing(z, shift):
    assert cross_entropy(z + shift, 0) == pytest.approx(cross_entropy(z, 0), abs=1e-11)


@given(st.integers(2, 6), st.integers(0, 2**32 - 1), st.floats(0.1, 0.9))
def test_lemma_1_convex_and_strictly_so_across_the_shift(k, seed, t):
    x, y = np.random.default_rng(seed).normal(scale=3, size=(2, k))
    chord = t * cross_entropy(x, 0) + (1 - t) * cross_entropy(y, 0)
    across = np.ptp(x - y)
    assert chord - cross_entropy(t * x + (1 - t) * y, 0) >= (1e-12 if across > 0.5 else -1e-12)
    # along the shift it is affine: not strictly convex without the hyperplane
    shifted = t * cross_entropy(x, 0) + (1 - t) * cross_entropy(x + 2, 0)
    assert shifted == pytest.approx(cross_entropy(x + 2 * (1 - t), 0), abs=1e-11)


@given(st.integers(2, 5), st.integers(1, 6), st.integers(0, 2**32 - 1), st.booleans())
def test_lemma_2_class_means_never_raise_the_risk(k, samples, seed, along_ones):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(k * samples)).reshape(k, samples)
    mean = rng.normal(scale=2, size=(k, 1, k))
    outputs = mean + rng.normal(size=(k, samples, 1 if along_ones else k))
    means = (weights[..., None] * outputs).sum(1) / weights.sum(1)[:, None]
    before = sum(weights[i, n] * cross_entropy(outputs[i, n], i) for i in range(k) for n in range(samples))
    after = sum(weights[i].sum() * cross_entropy(means[i], i) for i in range(k))
    assert after <= before + 1e-12
    if along_ones:
        assert after == pytest.approx(before, abs=1e-12)


def test_lemma_2_is_strict_for_real_differences():
    outputs = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    mean = cross_entropy(outputs.mean(0), 2)
    assert mean < np.mean([cross_entropy(z, 2) for z in outputs]) - 1e-3


@pytest.mark.parametrize(("k", "dim"), [(2, 1), (3, 2), (4, 9), (10, 9), (1000, 999)])
@pytest.mark.parametrize("rotated", [False, True])
def test_simplex_is_regular_and_centred(k, dim, rotated):
    generator = torch.Generator().manual_seed(k) if rotated else None
    v = simplex(k, dim, 2.0, generator)
    expected = 4 * (torch.eye(k, dtype=torch.float64) * k - 1) / (k - 1)
    torch.testing.assert_close(v @ v.T, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(v.mean(0), torch.zeros(dim, dtype=torch.float64), rtol=0, atol=1e-13)


def test_rotation_is_haar():
    generator = torch.Generator().manual_seed(0)
    first = torch.stack([simplex(2, 3, generator=generator)[0] for _ in range(3000)])
    # a uniform direction: mean 0, covariance I/3, within five standard errors
    assert float(first.mean(0).abs().max()) < 5 * math.sqrt(1 / 3 / 3000)
    assert float((first.T @ first / 3000 - torch.eye(3) / 3).abs().max()) < 5 * math.sqrt(4 / 45 / 3000)


def test_simplex_dtype_device_and_seed():
    assert simplex(4, 6, dtype=torch.float32).dtype == torch.float32
    assert simplex(4, 6, device="meta").device.type == "meta"
    assert optimal_pair(4, 6, device="meta").map.device.type == "meta"
    one, two = (simplex(4, 6, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert not torch.equal(one, simplex(4, 6, generator=torch.Generator().manual_seed(6)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_results_follow_the_generator_to_its_device():
    generator = torch.Generator("cuda").manual_seed(0)
    assert simplex(4, 6, generator=generator).device.type == "cuda"
    assert simplex(4, 6, generator=generator, device="cpu").device.type == "cpu"
    pair = optimal_pair(4, 6, 2.0, generator=generator)
    assert pair.features.device.type == "cuda"
    assert pair.certificate(pair.map, pair.features).holds


def test_global_random_state_is_untouched():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    optimal_pair(4, 6, generator=torch.Generator().manual_seed(0))
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


# ---- Lemma 8 and Corollary 9 ----

SHAPES = [(2, 1), (3, 2), (4, 3), (4, 10), (10, 9), (10, 64), (100, 120)]


def rotated_pair(k, dim, radius, norm, seed=0):
    return optimal_pair(k, dim, radius, norm, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("k", "dim"), SHAPES)
@pytest.mark.parametrize(("radius", "norm"), [(1.0, 1.0), (5.0, 0.3), (0.01, 7.0), (40.0, 2.0)])
def test_certificate_accepts_the_optimum(k, dim, radius, norm):
    pair = rotated_pair(k, dim, radius, norm)
    certificate = pair.certificate(pair.map, pair.features)
    assert certificate.holds, certificate
    assert certificate.risk_gap == pytest.approx(0, abs=1e-13)
    # a rotation of the features that the map follows changes nothing, nor does a part of the map outside their span
    q = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    assert pair.certificate(pair.map @ q, pair.features @ q).holds
    features, matrix = pair
    torch.testing.assert_close(features @ matrix.T, simplex_optimum(k, radius * norm).vertices, rtol=0, atol=1e-11)
    torch.testing.assert_close(features, features @ matrix.T @ matrix / norm**2, rtol=0, atol=1e-12)


def test_corollary_9_map_may_do_more_outside_the_span():
    pair = rotated_pair(4, 10, 2.0, 1.5)
    outside = torch.linalg.svd(pair.features)[2][-1]
    extended = pair.map + 0.7 * torch.full((4, 1), 0.5, dtype=torch.float64) * outside
    assert pair.certificate(extended, pair.features).holds
    assert not pair.certificate(pair.map + 1.6 * (extended - pair.map) / 0.7, pair.features).holds


def faults(pair):
    """Pairs that break one condition by 1 %, and the defect that must show it."""
    y, a = pair
    k, dim = y.shape
    norm, radius = pair.operator_norm, pair.radius
    moved = y.clone()
    moved[0] += 0.02 * (y[1] - y[0])
    moved[0] *= radius / moved[0].norm()
    u, s, v = torch.linalg.svd(a, full_matrices=False)
    s = s.clone()
    s[0] *= 0.99
    swap = torch.arange(k)
    swap[:2] = swap[:2].flip(0)
    off_centre = y + 0.15 * radius * torch.linalg.svd(y)[2][-1]
    yield "radius_defect", a, 1.01 * y
    yield "radius_defect", a, 0.99 * y
    yield "side_defect", a, moved
    yield "centre_defect", a, off_centre * radius / off_centre.norm(dim=1, keepdim=True)
    yield "norm_excess", 1.01 * a, y
    yield "isometry_defect", 0.99 * a, y
    yield "isometry_defect", (u * s) @ v, y
    yield "logit_defect", a[swap], y
    yield "logit_defect", a, y[swap]
    assert norm > 0
    assert dim >= k


@pytest.mark.parametrize(("k", "dim"), [(3, 3), (4, 10), (10, 64)])
@pytest.mark.parametrize(("radius", "norm"), [(1.0, 1.0), (5.0, 0.3), (1e-8, 1.0), (400.0, 2.0)])
def test_certificate_rejects_one_per_cent(k, dim, radius, norm):
    pair = rotated_pair(k, dim, radius, norm)
    assert pair.certificate(pair.map, pair.features, tolerance=1e-4).holds
    for name, matrix, features in faults(pair):
        certificate = pair.certificate(matrix, features, tolerance=1e-4)
        assert certificate.defects[name] > 5e-4, (name, certificate)
        assert not certificate.holds, (name, certificate)


def test_permuted_rows_meet_every_geometric_condition_and_are_still_rejected():
    pair = rotated_pair(4, 6, 5.0, 1.0)
    certificate = pair.certificate(pair.map[[1, 2, 3, 0]], pair.features)
    geometric = {name: v for name, v in certificate.defects.items() if name not in ("logit_defect", "risk_gap")}
    assert max(geometric.values()) < 1e-12
    assert certificate.risk_gap > 1
    assert not certificate.holds


def test_swapped_arguments_are_rejected():
    pair = rotated_pair(4, 6, 5.0, 1.0)
    assert not pair.certificate(pair.features, pair.map).holds


def test_no_certificate_where_no_simplex_fits():
    pair = optimal_pair(3, 2)
    square = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64)
    certificate = pair.certificate(square / 2, square, tolerance=100.0)
    assert max(certificate.defects.values()) < 100
    assert not certificate.applies
    assert not certificate.holds
    # negative control: the same tolerance where one fits
    assert pair.certificate(0.9 * pair.map, pair.features, tolerance=100.0).holds


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_certify_nothing(bad):
    pair = optimal_pair(4, 6)
    for which in range(2):
        features, matrix = (part.clone() for part in pair)
        (features, matrix)[which][1, 1] = bad
        certificate = pair.certificate(matrix, features, tolerance=1e9)
        assert not certificate.holds
        assert all(math.isnan(value) for value in certificate.defects.values())


def test_one_defect_that_is_no_number_is_enough():
    pair = optimal_pair(4, 6)
    certificate = pair.certificate(pair.map, pair.features)
    for name in certificate.defects:
        assert not dataclasses.replace(certificate, **{name: math.nan}).holds
    assert dataclasses.replace(certificate, norm_excess=0.0).holds
    # finite entries whose products overflow
    assert not pair.certificate(1e200 * pair.map, 1e200 * pair.features, tolerance=1e300).holds


def test_certificate_leaves_its_inputs_alone_and_takes_parameters_and_half_precision():
    pair = optimal_pair(4, 6)
    matrix = torch.nn.Parameter(pair.map.bfloat16())
    kept = matrix.detach().clone()
    assert pair.certificate(matrix, pair.features.bfloat16(), tolerance=0.02).holds
    assert not pair.certificate(matrix, pair.features.bfloat16()).holds
    assert torch.equal(matrix, kept)


@settings(max_examples=25)
@given(st.integers(2, 8), st.integers(0, 5), st.floats(0.05, 20), st.floats(0.05, 5), st.integers(0, 2**31))
def test_random_feasible_pairs_never_beat_the_optimum(k, extra, radius, norm, seed):
    generator = torch.Generator().manual_seed(seed)
    y, a = torch.randn(2, k, k - 1 + extra, generator=generator, dtype=torch.float64)
    y = radius * y / y.norm(dim=1, keepdim=True)
    a = norm * a / torch.linalg.matrix_norm(a, 2)
    certificate = optimal_pair(k, k - 1 + extra, radius, norm).certificate(a, y)
    assert certificate.risk_gap >= -1e-13
    assert certificate.holds == (max(certificate.defects.values()) <= 1e-9)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: simplex_optimum(1), "k must be"),
        (lambda: simplex_optimum(True), "k must be"),
        (lambda: simplex_optimum(2.5), "k must be"),
        (lambda: simplex_optimum(3, 0.0), "radius"),
        (lambda: simplex_optimum(3, math.nan), "radius"),
        (lambda: simplex_optimum(3, 1.0, 1.0), "p must lie"),
        (lambda: simplex_optimum(3, 1.0, math.inf), "p must lie"),
        (lambda: simplex_optimum(3, 1.0, math.nan), "p must lie"),
        (lambda: simplex(4, 2), "needs dim of at least 3, got 2"),
        (lambda: simplex(4, 3.5), "dim must be"),
        (lambda: optimal_pair(4, 2), "needs dim"),
        (lambda: optimal_pair(4, 3, operator_norm=-1.0), "operator_norm"),
        (lambda: optimal_pair(4, 3).certificate(torch.eye(3), torch.eye(4)), "one shape"),
        (lambda: optimal_pair(4, 3).certificate(torch.ones(4, 3), torch.ones(4, 3), tolerance=math.nan), "tolerance"),
    ],
)
def test_wrong_calls(call, words):
    with pytest.raises(UsageError, match=words):
        call()


def test_numpy_integers_count_as_whole():
    assert simplex_optimum(np.int64(3)).vertices.shape == (3, 3)
