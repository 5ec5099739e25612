"""Bootstrap intervals: reproducible, of the right width, and they hold what they should."""

import math

import numpy as np
import pytest
import torch

from weyl.errors import UsageError
from weyl.geometry import CollapseStatistics

K, DIM = 4, 6
MEANS = 2 * torch.eye(K, DIM, dtype=torch.float64)


def sample(seed, per_class=60, keep=None):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(K * per_class) % K
    x = MEANS[y] + torch.randn(K * per_class, DIM, generator=g, dtype=torch.float64)
    return CollapseStatistics(K, DIM, keep=keep).update(x, y, x @ MEANS.T)


def test_seeds_reproduce_and_differ():
    stats = sample(0)
    first = stats.compute(MEANS, bootstrap=20, seed=1).intervals
    assert first == stats.compute(MEANS, bootstrap=20, seed=1).intervals
    second = stats.compute(MEANS, bootstrap=20, seed=2).intervals
    assert set(first) == set(second) and all(first[name] != second[name] for name in ("nc1", "nc2", "nc3", "cdnv"))
    assert not stats.compute(MEANS).intervals


def test_every_metric_of_samples_has_an_interval_around_its_value():
    found = sample(0).compute(MEANS, bootstrap=50)
    names = {"nc1", "nc1_ratio", "cdnv", "nc2", "equinorm", "equiangular", "nc3", "duality", "nc4", "sk_defect"}
    assert set(found.intervals) == names | {"ncm_accuracy", "accuracy"}
    for name, (low, high) in found.intervals.items():
        assert 0 <= low < getattr(found, name) < high, name
        most = {"nc2": 2, "nc3": 2, "duality": 2}.get(name, 1)
        assert high <= most or name in ("nc1", "nc1_ratio", "cdnv", "equinorm"), name


def test_width_against_the_known_sampling_error():
    """Accuracy of n samples has a standard error of √(p(1-p)/n)."""
    found = sample(3, per_class=400).compute(MEANS, bootstrap=400)
    low, high = found.intervals["accuracy"]
    expected = 2 * 1.96 * math.sqrt(found.accuracy * (1 - found.accuracy) / found.samples)
    assert high - low == pytest.approx(expected, rel=0.15)


def test_narrower_with_more_samples():
    widths = []
    for per_class in (50, 800):
        low, high = sample(1, per_class).compute(bootstrap=100).intervals["nc1"]
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.4)


def test_kept_rows_stand_for_all():
    """A part of the rows gives the interval of all, not a wider one."""
    all_rows, few = (sample(2, 800, keep).compute(bootstrap=200) for keep in (None, 1600))
    assert few.kept < all_rows.kept
    low, high = few.intervals["nc1"]
    wide, far = all_rows.intervals["nc1"]
    assert high - low == pytest.approx(far - wide, rel=0.3)
    assert low < few.nc1 < high


def test_collapsed_and_infinite_metrics_have_no_nan():
    y = torch.arange(30) % 3
    collapsed = CollapseStatistics(3, 5).update(torch.eye(5)[y], y).compute(bootstrap=20)
    for low, high in collapsed.intervals.values():
        assert high - low < 1e-12
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat(3, 1)
    same = CollapseStatistics(3, 2).update(x, torch.arange(6) // 2).compute(bootstrap=20)
    assert same.nc1 == math.inf
    assert not any(math.isnan(end) for ends in same.intervals.values() for end in ends)
    assert all(same.intervals[name][1] <= 1 for name in ("sk_defect", "ncm_accuracy") if name in same.intervals)


def coverage(names, replicas, per_class, resamples):
    """How often an interval holds the value of the population, which a large sample gives."""
    truth = sample(10**6, 50_000, keep=0).compute(MEANS)
    hits = dict.fromkeys(names, 0)
    for seed in range(replicas):
        found = sample(seed, per_class).compute(MEANS, bootstrap=resamples, seed=seed)
        for name in names:
            low, high = found.intervals[name]
            hits[name] += low <= getattr(truth, name) <= high
    return {name: count / replicas for name, count in hits.items()}


def test_coverage_of_smooth_metrics():
    """Metrics that are smooth in the moments; 95 % less what 80 replicas and the bootstrap itself may miss."""
    found = coverage(["nc1", "nc1_ratio", "cdnv", "accuracy"], 80, 150, 50)
    for name, share in found.items():
        assert share >= 0.85, (name, share)


@pytest.mark.slow
def test_coverage_closely():
    found = coverage(["nc1", "nc1_ratio", "cdnv", "accuracy"], 200, 300, 150)
    for name in ("nc1", "nc1_ratio", "cdnv", "accuracy"):
        assert 0.89 <= found[name] <= 0.99, (name, found[name])


def test_random_state_is_left_alone():
    stats = sample(0)
    torch.manual_seed(11)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    stats.compute(bootstrap=20)
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()


@pytest.mark.slow
def test_intervals_of_what_is_measured_on_kept_rows_cover_the_value_of_all():
    """A subsample's error is not divided by the size of the whole."""
    hits = {"nc4": 0, "ncm_accuracy": 0, "nc1": 0}
    for seed in range(60):
        g = torch.Generator().manual_seed(seed)
        y = torch.arange(6000) % 4
        x = 0.8 * torch.eye(8)[y] + torch.randn(6000, 8, generator=g) * 0.6
        weight = torch.eye(8)[:4] + 0.3 * torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
        part = CollapseStatistics(4, 8, keep=400).update(x, y).compute(weight, bootstrap=100, seed=seed)
        whole = CollapseStatistics(4, 8).update(x, y).compute(weight)
        for name in hits:
            low, high = part.intervals[name]
            hits[name] += low <= getattr(whole, name) <= high
    assert hits["nc1"] == 60
    assert hits["nc4"] >= 48 and hits["ncm_accuracy"] >= 48, hits


def test_too_few_kept_rows_give_no_intervals_and_a_note():
    y = torch.arange(3000) % 300
    x = torch.randn(3000, 4, generator=torch.Generator().manual_seed(0))
    found = CollapseStatistics(300, 4, keep=600).update(x, y).compute(bootstrap=20)
    assert not found.intervals and any("raise keep" in note for note in found.notes)


@pytest.mark.parametrize("resamples", [1, 19])
def test_too_few_resamples_are_refused(resamples):
    with pytest.raises(UsageError, match="at least 20"):
        sample(0).compute(MEANS, bootstrap=resamples)
