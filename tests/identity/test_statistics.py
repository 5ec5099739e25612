"""Chances of coincidences, against enumeration and sampling."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from weyl.errors import UsageError
from weyl.identity._statistics import fisher, fixed_points_p, relabelled, spearman_p


@given(st.integers(2, 40), st.integers(0, 2**31))
def test_spearman_does_not_depend_on_which_permutation_comes_first(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.permutation(n), rng.permutation(n)
    assert spearman_p(one, other) == spearman_p(other, one)
    assert 0 < spearman_p(one, other) <= 1


@pytest.mark.parametrize("n", [4, 6, 7])
def test_spearman_of_few_units_is_exact(n: int) -> None:
    still = np.arange(n)
    every = [np.array(p) for p in itertools.permutations(range(n))]
    correlations = np.array([stats.spearmanr(still, p).statistic for p in every])
    for p, own in list(zip(every, correlations, strict=True))[:: len(every) // 20]:
        assert spearman_p(still, p) == pytest.approx(float((correlations >= own - 1e-9).mean()))


@pytest.mark.parametrize("n", [5, 12, 40, 200])
def test_spearman_is_uniform_for_random_permutations(n: int) -> None:
    rng = np.random.default_rng(n)
    found = [spearman_p(rng.permutation(n), rng.permutation(n), tie=1 - rng.random()) for _ in range(2000)]
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_without_a_tie_the_chance_is_on_the_safe_side() -> None:
    rng = np.random.default_rng(0)
    found = np.array([spearman_p(rng.permutation(4), rng.permutation(4)) for _ in range(2000)])
    assert (found <= 0.05).mean() < 0.06
    assert stats.kstest(found, "uniform").pvalue < 1e-6  # the control: steps are not uniform


@pytest.mark.parametrize("n", [10, 16, 32, 64])
def test_the_tail_is_not_below_the_truth(n: int) -> None:
    rng = np.random.default_rng(1)
    still = np.arange(n)
    drawn = rng.permuted(np.tile(still, (100_000, 1)), axis=1)
    distances = np.square(drawn - still).sum(1)
    for distance in np.sort(distances)[[20, 100, 1000]]:
        row = drawn[np.flatnonzero(distances == distance)[0]]
        truth = float((distances <= distance).mean())
        assert spearman_p(still, row) > 0.6 * truth


@pytest.mark.parametrize("n", [3, 5, 7])
def test_fixed_points_of_few_units_are_exact(n: int) -> None:
    hits = np.array([sum(i == p for i, p in enumerate(every)) for every in itertools.permutations(range(n))])
    for k in range(n + 1):
        assert fixed_points_p(k, [n]) == pytest.approx(float((hits >= k).mean()))


def test_fixed_points_of_several_permutations_add_up() -> None:
    rng = np.random.default_rng(2)
    sizes = [4, 6, 30]
    drawn = [sum(int((rng.permutation(n) == np.arange(n)).sum()) for n in sizes) for _ in range(20_000)]
    for k in (1, 3, 6):
        assert fixed_points_p(k, sizes) == pytest.approx(float((np.array(drawn) >= k).mean()), abs=0.012)
    assert fixed_points_p(0, sizes) == 1
    assert fixed_points_p(200, [200]) < 1e-200


def test_fisher_is_uniform_and_agrees_with_scipy() -> None:
    rng = np.random.default_rng(3)
    found = [fisher(list(1 - rng.random(5))) for _ in range(2000)]
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert fisher([0.2, 0.03, 0.5]) == pytest.approx(stats.combine_pvalues([0.2, 0.03, 0.5]).pvalue)
    assert fisher([]) == 1


@pytest.mark.parametrize("wrong", [0.0, -0.1, 1.5, math.nan])
def test_fisher_refuses_what_is_no_chance(wrong: float) -> None:
    with pytest.raises(UsageError, match="above 0"):
        fisher([0.5, wrong])


def test_relabelling_keeps_coincidences_and_forgets_order() -> None:
    rng = np.random.default_rng(4)
    still, shifted = np.arange(100), np.roll(np.arange(100), 1)
    assert spearman_p(still, shifted) < 1e-10  # the control: neighbours, and not one unit where it should be
    chances = [spearman_p(*relabelled(still, shifted, rng)) for _ in range(50)]
    assert stats.kstest(chances, "uniform").pvalue > 0.001
    one, other = rng.permutation(100), rng.permutation(100)
    moved = relabelled(one, other, rng)
    assert (moved[0] == moved[1]).sum() == (one == other).sum()
    assert spearman_p(*relabelled(one, one, rng)) < 1e-150
