"""The S_k defect against averages over the group, and what must and must not change it."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.geometry import oracle

from weyl.errors import UsageError
from weyl.geometry import CollapseStatistics, nearest_invariant, simplex
from weyl.geometry._symmetry import class_shares, pair_defects, simplex_distance


def means_of(k, dim, seed):
    return torch.randn(k, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def read(means, **options):
    return CollapseStatistics(len(means), means.shape[1]).update(means, torch.arange(len(means))).compute(**options)


cases = (st.integers(3, 7), st.integers(1, 9), st.integers(0, 2**30))


@settings(max_examples=60, deadline=None)
@given(*cases)
def test_the_defect_is_the_sine_of_the_angle(k, dim, seed):
    means = means_of(k, dim, seed)
    found = read(means)
    centred = (means - means.mean(0)).numpy()
    gram, target = centred @ centred.T, np.eye(k) - 1 / k
    cosine = (gram * target).sum() / np.linalg.norm(gram) / np.linalg.norm(target)
    assert found.sk_defect == pytest.approx(math.sqrt(1 - cosine**2), rel=1e-9, abs=1e-7)
    assert found.nc2 == pytest.approx(math.sqrt(2 - 2 * cosine), rel=1e-9, abs=1e-7)
    expected = np.linalg.norm(gram - oracle.projected(gram)) / np.linalg.norm(gram)
    assert found.sk_defect == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(*cases)
def test_permutations_rotations_and_translations_change_nothing(k, dim, seed):
    means = means_of(k, dim, seed)
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(k, generator=g)
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=g, dtype=torch.float64)).Q
    shift = torch.randn(dim, generator=g, dtype=torch.float64)
    found = read(means)
    for other in (means[order], means @ rotation, means + 10 * shift, 3.7 * means):
        moved = read(other)
        for name in ("sk_defect", "nc2", "equinorm", "equiangular"):
            assert getattr(moved, name) == pytest.approx(getattr(found, name), rel=1e-9, abs=1e-10), name
    moved = read(means[order])
    np.testing.assert_allclose(moved.pair_defect, found.pair_defect[np.ix_(order, order)], rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(moved.residual, found.residual[np.ix_(order, order)], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(moved.shares, found.shares[order], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("k", [4, 5, 10])
def test_what_is_not_symmetric_shows(k):
    means = simplex(k, k + 2, dtype=torch.float64)
    assert read(means).sk_defect < 1e-15
    for change in (0.1, -0.1):
        longer = means.clone()
        longer[0] *= 1 + change
        found = read(longer)
        assert found.sk_defect > 0.01 and found.nc2 > 0.01
        assert found.worst_classes(1)[0][0] == "0"
    # A shear is no rotation.
    shear = torch.eye(k + 2, dtype=torch.float64)
    shear[0, 1] = 0.5
    assert read(means @ shear).sk_defect > 0.01


def test_three_classes_share_alike():
    """A residual of three centred classes has rows of one length: the defect is nobody's fault alone."""
    found = read(means_of(3, 4, 0))
    assert found.sk_defect > 0.1 and found.breaking == ()
    np.testing.assert_allclose(found.shares, 1 / 3)


def test_small_departures_are_not_lost_in_rounding():
    """The sine of a small angle from its cosine would be zero or 1e-8."""
    means = simplex(5, 6, dtype=torch.float64)
    means[0] *= 1 + 1e-11
    found = read(means)
    assert 1e-12 < found.sk_defect < 1e-10 and 1e-12 < found.nc2 < 1e-10


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**30))
def test_nearest_invariant_is_the_average_over_all_permutations(k, seed):
    matrix = torch.randn(k, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    orders = [list(order) for order in itertools.permutations(range(k))]
    average = torch.stack([matrix[order][:, order] for order in orders]).mean(0)
    projected = nearest_invariant(matrix)
    torch.testing.assert_close(projected, average)
    torch.testing.assert_close(nearest_invariant(projected), projected)
    # The residual is orthogonal to every invariant matrix, so that this one is the nearest.
    assert abs(float((matrix - projected).sum())) < 1e-10 and abs(float((matrix - projected).trace())) < 1e-10


def test_nearest_invariant_wants_a_square():
    with pytest.raises(UsageError, match=r"must be square, got shape \(2, 3\)"):
        nearest_invariant(torch.ones(2, 3))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 8), st.integers(0, 2**30))
def test_pair_defects_against_permuted_matrices(k, seed):
    a = torch.randn(k, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gram = a @ a.T
    defects = pair_defects(gram - nearest_invariant(gram))
    for i, j in itertools.product(range(k), repeat=2):
        p = torch.as_tensor(oracle.exchange(k, i, j))
        expected = float((p @ gram @ p.T - gram).norm())
        assert float(defects[i, j]) == pytest.approx(expected, rel=1e-8, abs=1e-6 * float(gram.norm()))


def test_shares_and_distance_where_nothing_is_left():
    assert class_shares(torch.zeros(4, 4)).tolist() == [0.25] * 4
    assert simplex_distance(torch.zeros(3, 3, dtype=torch.float64)) == pytest.approx(math.sqrt(2))
    minus = -(torch.eye(3, dtype=torch.float64) - 1 / 3)
    assert simplex_distance(minus) == pytest.approx(2)
