"""Every metric against its definition in plain numpy, on data of every awkward kind."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.geometry import oracle

from weyl.geometry import METRICS, CollapseStatistics


def blobs(k=4, dim=6, per_class=25, sigma=0.5, seed=0, shift=0.0, scale=1.0):
    """Features around random class means; ``per_class`` is a number or one for each class."""
    g = torch.Generator().manual_seed(seed)
    sizes = [per_class] * k if isinstance(per_class, int) else list(per_class)
    y = torch.repeat_interleave(torch.arange(k), torch.tensor(sizes))
    centres = scale * torch.randn(k, dim, generator=g, dtype=torch.float64)
    x = centres[y] + sigma * torch.randn(len(y), dim, generator=g, dtype=torch.float64) + shift
    order = torch.randperm(len(y), generator=g)
    return x[order], y[order]


def deficient():
    """Six class means on a plane of an eight-dimensional space, spread in all of it."""
    x, y = blobs(6, 8, 20, sigma=0.0)
    g = torch.Generator().manual_seed(5)
    plane = torch.linalg.qr(torch.randn(8, 2, generator=g, dtype=torch.float64)).Q
    noise = torch.randn(60, 8, generator=g, dtype=torch.float64).repeat(2, 1)
    noise[60:] *= -1
    means = (x @ plane) @ plane.T
    order = torch.argsort(y, stable=True)
    # Every class has the noise and its negative, so that the means are exactly where they were put.
    noise = torch.cat([torch.cat([noise[10 * c : 10 * c + 10], -noise[10 * c : 10 * c + 10]]) for c in range(6)])
    return means[order] + 0.3 * noise, y[order]


CASES = {
    "balanced": blobs(),
    "two classes": blobs(2, 5),
    "unbalanced 100:1": blobs(3, 6, (400, 40, 4)),
    "absent classes": blobs(6, 6, (20, 0, 15, 0, 9, 0)),
    "single samples": blobs(5, 6, (1, 30, 1, 10, 2)),
    "only single samples": blobs(5, 6, 1),
    "more classes than dimensions": blobs(12, 4, 10),
    "one dimension": blobs(5, 1, 10),
    "collapsed": blobs(sigma=0.0),
    "means of deficient rank": deficient(),
    "wide": blobs(3, 120, 12),
    "bfloat16": tuple(t.bfloat16() if t.is_floating_point() else t for t in blobs(seed=1)),
    "float16": tuple(t.half() if t.is_floating_point() else t for t in blobs(seed=2, scale=20.0)),
    "float32": tuple(t.float() if t.is_floating_point() else t for t in blobs(seed=3)),
    "large common mean": blobs(seed=4, shift=1e4),
}


def classifier(k, dim, seed=9):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(k, dim, generator=g, dtype=torch.float64), torch.randn(k, generator=g, dtype=torch.float64)


def agree(found, expected, rtol=1e-9, atol=1e-11):
    """Every expected quantity, and nothing measured that the oracle does not know."""
    for name, value in expected.items():
        got = getattr(found, name)
        assert got is not None, name
        np.testing.assert_allclose(got, value, rtol=rtol, atol=atol, err_msg=name)
    unexpected = {name for name in METRICS if getattr(found, name) is not None} - set(expected)
    assert not unexpected


@pytest.mark.parametrize("batch", [None, 7, 1])
@pytest.mark.parametrize("case", CASES)
def test_every_metric_against_the_direct_computation(case, batch):
    x, y = CASES[case]
    k, dim = int(y.max()) + 1 + (case == "absent classes"), x.shape[1]
    weight, bias = classifier(k, dim)
    logits = x.double() @ weight.T + bias + torch.sin(3 * x.double().sum(1, keepdim=True) * torch.arange(k))
    ood = blobs(1, dim, 17, seed=8)[0]
    stats = CollapseStatistics(k, dim)
    for part in range(0, len(y), batch or len(y)):
        rows = slice(part, part + (batch or len(y)))
        stats.update(x[rows], y[rows], logits[rows])
    found = stats.compute(weight, bias, ood=ood.mean(0))
    expected = oracle.measure(x.double(), y, k, logits, weight, bias, ood)
    # A common mean of 10^4 costs four digits, squared where the squares of lengths are compared.
    tolerance = 1e-6 if case == "large common mean" else 1e-9
    # Zero against zero: what is left of rounding, relative to features of size one.
    agree(found, expected, tolerance, 1e-10)
    assert found.samples == len(y) and found.kept == len(y) and found.left_out == 0
    assert found.counts == tuple(int((y == int(c)).sum()) for c in found.classes)
    assert set(found.classes) | set(found.absent) == {str(c) for c in range(k)}


def test_collapsed_features_have_no_spread_at_all():
    x, y = CASES["collapsed"]
    found = CollapseStatistics(4, 6).update(x, y).compute()
    assert found.nc1 < 1e-28 and found.nc1_ratio < 1e-28 and found.cdnv < 1e-28 and found.ncm_accuracy == 1


def test_absent_classes_are_named_and_change_nothing():
    x, y = CASES["absent classes"]
    found = CollapseStatistics(7, 6).update(x, y).compute(names=list("abcdefg"))
    assert (found.classes, found.absent) == (("a", "c", "e"), ("b", "d", "f", "g"))
    alone = CollapseStatistics(3, 6).update(x, y // 2).compute()
    for name in ("nc1", "nc1_ratio", "cdnv", "nc2", "equinorm", "equiangular", "sk_defect"):
        assert getattr(found, name) == pytest.approx(getattr(alone, name), rel=1e-12)
    np.testing.assert_allclose(found.pair_defect, alone.pair_defect, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", ["balanced", "unbalanced 100:1", "single samples", "more classes than dimensions"])
def test_class_weights(case):
    x, y = CASES[case]
    k, dim = int(y.max()) + 1, x.shape[1]
    weights = [0.5 + c**2 for c in range(k)]
    z = torch.cos(torch.arange(len(y) * k, dtype=torch.float64)).reshape(-1, k)
    stats = CollapseStatistics(k, dim, class_weights=weights).update(x, y, z)
    expected = oracle.measure(x, y, k, z, weights=weights)
    agree(stats.compute(), expected)
    plain = oracle.measure(x, y, k, z)
    assert abs(plain["nc1"] / expected["nc1"] - 1) > 1e-3 and abs(plain["risk"] - expected["risk"]) > 1e-3
    np.testing.assert_allclose(
        stats.scatter,
        oracle.within(x.numpy(), y.numpy(), range(k), weights)
        * sum(w * n for w, n in zip(weights, stats.counts.tolist(), strict=True)),
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize("prior", ["data", "uniform", [1.0, 2.0, 5.0]])
def test_priors(prior):
    x, y = CASES["unbalanced 100:1"]
    stats = CollapseStatistics(3, 6).update(x, y)
    found = stats.compute(prior=prior)
    expected = oracle.measure(x, y, 3, prior=prior)
    agree(found, expected)
    assert sum(found.prior) == pytest.approx(1)
    others = [oracle.measure(x, y, 3, prior=p)["nc1_ratio"] for p in ("data", "uniform", [1.0, 2.0, 5.0]) if p != prior]
    assert all(abs(other / expected["nc1_ratio"] - 1) > 1e-2 for other in others)
    uniform = stats.compute()
    assert (found.nc2, found.sk_defect, found.equinorm) == (uniform.nc2, uniform.sk_defect, uniform.equinorm)


def test_out_of_distribution_statistics_and_their_mean_are_the_same():
    x, y = CASES["balanced"]
    far, groups = blobs(3, 6, (40, 3, 11), seed=6)
    stats = CollapseStatistics(4, 6).update(x, y)
    by_mean = stats.compute(ood=far.mean(0)).nc5
    assert stats.compute(ood=CollapseStatistics(3, 6).update(far, groups)).nc5 == pytest.approx(by_mean, rel=1e-12)
    orthogonal = torch.linalg.qr(torch.cat([stats.means, torch.randn(2, 6, dtype=torch.float64)]).T).Q[:, -1]
    assert stats.compute(ood=orthogonal).nc5 < 1e-12 < by_mean


def test_one_class_has_nothing_between():
    x, y = blobs(1, 4, 9)
    found = CollapseStatistics(3, 4).update(x, y).compute(torch.randn(3, 4))
    assert found.classes == ("0",) and found.absent == ("1", "2")
    for name in ("nc1", "nc1_ratio", "cdnv", "nc2", "equinorm", "equiangular", "nc3", "sk_defect"):
        assert getattr(found, name) is None
    assert found.ncm_accuracy == 1 and found.nc4 is not None


def test_classes_in_one_place_are_infinitely_spread():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat(3, 1)
    found = CollapseStatistics(3, 2).update(x, torch.arange(6) // 2).compute()
    assert found.nc1 == found.nc1_ratio == found.cdnv == float("inf")


# --- the classifier ---


def test_nc4_uses_the_bias():
    x, y = blobs(3, 4, 40, sigma=0.05, scale=3.0)
    stats = CollapseStatistics(3, 4).update(x, y)
    weight = stats.means
    # The nearest mean as a linear classifier: h·μ - |μ|²/2.
    fitting = -weight.square().sum(1) / 2
    assert stats.compute(weight, fitting).nc4 == 0
    flipping = fitting + torch.tensor([1e3, 0.0, 0.0])
    expected = float((y != 0).double().mean())
    assert stats.compute(weight, flipping).nc4 == pytest.approx(expected)
    assert stats.compute(weight, None).nc4 == oracle.measure(x, y, 3, weight=weight)["nc4"]


def test_nc4_of_the_logits_where_the_classifier_is_unknown():
    x, y = blobs(3, 4, 40)
    weight, bias = classifier(3, 4)
    stats = CollapseStatistics(3, 4).update(x, y, x @ weight.T + bias)
    assert stats.compute().nc4 == stats.compute(weight, bias).nc4 > 0


def test_self_duality_is_zero_for_a_classifier_of_the_means_only():
    y = torch.arange(40) % 4
    g = torch.Generator().manual_seed(0)
    simplex = torch.eye(4, dtype=torch.float64) - 0.25
    frame = torch.linalg.qr(torch.randn(6, 4, generator=g, dtype=torch.float64)).Q
    stats = CollapseStatistics(4, 6).update((simplex @ frame.T)[y], y)
    assert stats.compute(7 * simplex @ frame.T).nc3 < 1e-14
    # Aligned with the means, but of two other classes: not dual.
    assert stats.compute((simplex @ frame.T)[[1, 0, 2, 3]]).nc3 > 0.5


# --- logits ---


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**20), st.floats(0, 40), st.floats(0.1, 10))
def test_the_gap_is_never_negative_and_the_risk_of_the_simplex_has_none(k, seed, radius, weight):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(3 * k) % k
    weights = [1.0] * (k - 1) + [weight]

    def read(z):
        return (
            CollapseStatistics(k, 2, class_weights=weights).update(torch.randn(3 * k, 2, generator=g), y, z).compute()
        )

    random = torch.randn(3 * k, k, generator=g, dtype=torch.float64)
    found = read(radius * random)
    assert found.ew_gap >= -1e-12 * max(1, found.risk)
    best = torch.eye(k, dtype=torch.float64)[y] - 1 / k
    best = best * radius / np.sqrt(1 - 1 / k)
    found = read(best + torch.randn(3 * k, 1, generator=g, dtype=torch.float64))
    assert abs(found.ew_gap) < 1e-12
    assert found.logit_spread < 1e-7 or radius < 1e-6
    assert found.radius == pytest.approx(radius, abs=1e-12)
    if 0.1 < radius < 10:
        shorter = best.clone()
        shorter[0] *= 0.9
        assert read(shorter).ew_gap > 0


def test_the_spread_of_logits_is_zero_only_if_they_are_constant_on_classes():
    x, y = blobs(3, 4, 20)
    constant = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))[y]
    shifted = constant + torch.arange(60, dtype=torch.float64)[:, None]
    assert CollapseStatistics(3, 4).update(x, y, constant).compute().logit_spread < 1e-14
    # Lemma 2: what differs along (1, ..., 1) does not count.
    assert CollapseStatistics(3, 4).update(x, y, shifted).compute().logit_spread < 1e-12
    constant[0, 0] += 0.1
    assert CollapseStatistics(3, 4).update(x, y, constant).compute().logit_spread > 1e-3


def test_results_are_immutable():
    x, y = CASES["balanced"]
    found = CollapseStatistics(4, 6).update(x, y).compute()
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.nc1 = 0.0


# --- accuracy of the algebra: no rank is invented, none is lost ---


@pytest.mark.parametrize("k, dim", [(2, 1500), (3, 700), (40, 300)])
@pytest.mark.parametrize("shift", [0.0, 50.0])
def test_nc1_in_high_dimension(k, dim, shift):
    x, y = blobs(k, dim, 4, seed=k, shift=shift)
    prior = [1.0 + c for c in range(k)]
    found = CollapseStatistics(k, dim, keep=0).update(x, y).compute(prior=prior)
    means = oracle.class_means(x.numpy(), y.numpy(), range(k))
    pi = np.array(prior) / sum(prior)
    _, values, axes = np.linalg.svd(np.sqrt(pi)[:, None] * (means - pi @ means), full_matrices=False)
    seen = (x.numpy() - means[y.numpy()]) @ axes[: k - 1].T / values[: k - 1]
    assert found.nc1 == pytest.approx((seen**2).sum() / len(y) / k, rel=1e-8)


@pytest.mark.parametrize("small", [1e-2, 1e-4, 1e-5])
def test_nc1_of_means_that_hardly_differ_in_one_direction(small):
    g = torch.Generator().manual_seed(3)
    means = torch.randn(4, 3, generator=g, dtype=torch.float64) * torch.tensor([1.0, 1.0, small])
    y = torch.arange(80) % 4
    noise = torch.randn(40, 3, generator=g, dtype=torch.float64)
    x = means[y] + torch.cat([noise, -noise])
    found = CollapseStatistics(4, 3).update(x, y).compute()
    centred = means.numpy() - means.numpy().mean(0)
    seen = np.linalg.solve(centred.T @ centred / 4, (noise.T @ noise * 2 / 80).numpy())
    assert found.nc1 == pytest.approx(np.trace(seen) / 4, rel=1e-15 / small**2 * 1e2)
