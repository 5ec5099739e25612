"""One pass equals two passes, whatever the order, the batches and the merges, and however far away the mean is."""

import copy
import functools
import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.geometry import oracle

from weyl.errors import InputError, UsageError, WeylError
from weyl.geometry import CollapseStatistics

SCALARS = ("nc1", "nc1_ratio", "cdnv", "nc2", "equinorm", "equiangular", "sk_defect", "nc4", "risk", "radius", "ew_gap")


def data(n=60, k=4, dim=5, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.arange(k), torch.randint(k, (n - k,), generator=g)])
    x = torch.randn(k, dim, generator=g)[y] + 0.4 * torch.randn(n, dim, generator=g)
    return x.to(dtype), y, torch.randn(n, k, generator=g).to(dtype)


def gathered(x, y, z=None, k=4, cuts=(), **options):
    stats = CollapseStatistics(k, x.shape[1], **options)
    edges = [0, *sorted(cuts), len(y)]
    for a, b in itertools.pairwise(edges):
        stats.update(x[a:b], y[a:b], None if z is None else z[a:b])
    return stats


def state(stats):
    """All sums, and the kept rows as a set."""
    sums = [stats.counts, stats.means, stats.scatter, stats.features.traces, stats.norms, stats.correct, stats.risks]
    sums += [stats.logits.means, stats.logits.traces, stats.peaks]
    kept = stats.kept.rows()
    rows = zip(*(column.repeat_interleave(kept.times, 0).tolist() for column in kept[:3]), strict=True)
    rows = sorted((tuple(row), label, said) for row, label, said in rows)
    return sums, rows, (stats.count, stats.left_out, stats.has_logits)


def same(a, b, rtol=1e-12, atol=1e-11):
    for left, right in zip(state(a)[0], state(b)[0], strict=True):
        torch.testing.assert_close(left, right, rtol=rtol, atol=atol)
    assert state(a)[1] == state(b)[1]
    assert state(a)[2] == state(b)[2]


def snapshot(stats):
    return copy.deepcopy(state(stats))


def two_pass_scatter(x, y, k):
    x, y = x.double().numpy(), y.numpy()
    return sum((x[y == c] - x[y == c].mean(0)).T @ (x[y == c] - x[y == c].mean(0)) for c in range(k) if (y == c).any())


# --- order, batches, merges ---

cuts = st.lists(st.integers(0, 60), max_size=8)


@settings(max_examples=25, deadline=None)
@given(cuts, st.integers(0, 2**30), st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]))
def test_order_and_batches_do_not_matter(where, seed, dtype):
    x, y, z = data(dtype=dtype)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    once, other = gathered(x, y, z), gathered(x[order], y[order], z[order], cuts=where)
    same(once, other)
    first, second = once.compute(), other.compute()
    for name in SCALARS:
        assert getattr(first, name) == pytest.approx(getattr(second, name), rel=1e-9, abs=1e-12), name


@settings(max_examples=25, deadline=None)
@given(st.tuples(st.integers(0, 60), st.integers(0, 60)), st.sampled_from([0, 1, 7, 20, 60, None]))
def test_merge_is_associative_commutative_and_equal_to_one_pass(where, keep):
    x, y, z = data()
    low, high = sorted(where)
    a, b, c = (
        CollapseStatistics(4, 5, keep=keep).update(x[p], y[p], z[p])
        for p in (slice(0, low), slice(low, high), slice(high, 60))
    )
    before = [snapshot(s) for s in (a, b, c)]
    left, right = a.merge(b).merge(c), a.merge(b.merge(c))
    same(left, right)
    same(a.merge(b), b.merge(a))
    same(left, gathered(x, y, z, keep=keep))
    for stats, (sums, rows, numbers) in zip((a, b, c), before, strict=True):
        assert all(torch.equal(old, new) for old, new in zip(sums, state(stats)[0], strict=True))
        assert (rows, numbers) == state(stats)[1:]
    # What was merged goes on by itself.
    left.update(x[:3], y[:3], z[:3])
    assert left.count == 63 and a.count + b.count + c.count == 60


def test_merging_with_nothing_changes_nothing():
    x, y, z = data()
    for logits in (None, z):
        stats, empty = gathered(x, y, logits), CollapseStatistics(4, 5)
        for merged in (stats.merge(empty), empty.merge(stats)):
            same(merged, stats, rtol=0, atol=1e-15)
    assert CollapseStatistics(4, 5).merge(CollapseStatistics(4, 5)).count == 0


def test_merging_many_parts_of_one_sample():
    x, y, z = data()
    parts = [CollapseStatistics(4, 5, keep=10).update(x[i : i + 1], y[i : i + 1], z[i : i + 1]) for i in range(60)]
    random.Random(0).shuffle(parts)
    same(functools.reduce(CollapseStatistics.merge, parts), gathered(x, y, z, keep=10))


def test_merge_counts_what_was_left_out():
    x, y, z = data()
    x[3, 1] = float("nan")
    assert gathered(x, y, z).merge(gathered(x, y, z)).left_out == 2


def test_reset_forgets_everything():
    x, y, z = data()
    stats = gathered(x * 100, y, z, keep=10)
    stats.reset()
    assert stats.count == 0 and stats.left_out == 0
    same(stats.update(x, y), gathered(x, y, keep=10))


def test_a_batch_larger_than_a_chunk():
    """Features wide enough that update works through them in pieces."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 20_000 // 8, generator=g), torch.arange(200) % 3
    wide = x.repeat(1, 2)[:, :4000]
    stats = CollapseStatistics(3, 4000).update(wide, y)
    assert 8 * wide.numel() > 2**22
    torch.testing.assert_close(stats.means, torch.stack([wide[y == c].double().mean(0) for c in range(3)]))
    assert float(stats.scatter.trace()) == pytest.approx(float(stats.features.traces.sum()), rel=1e-12)
    expected = sum(float((wide[y == c].double() - stats.means[c]).square().sum()) for c in range(3))
    assert float(stats.scatter.trace()) == pytest.approx(expected, rel=1e-12)


# --- the kept sample ---


@settings(max_examples=20, deadline=None)
@given(cuts, st.integers(0, 2**30), st.integers(1, 40), st.sampled_from([torch.float64, torch.float32, torch.float16]))
def test_the_kept_sample_does_not_depend_on_order_or_splits(where, seed, keep, dtype):
    x, y, z = data(dtype=dtype)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    once = gathered(x, y, z, keep=keep)
    other = gathered(x[order], y[order], z[order], cuts=where, keep=keep)
    half = gathered(x[:31], y[:31], z[:31], keep=keep).merge(gathered(x[31:], y[31:], z[31:], keep=keep))
    assert state(once)[1] == state(other)[1] == state(half)[1]
    assert len(state(once)[1]) == once.compute().kept <= keep


def test_kept_rows_that_differ_less_than_float32_resolves():
    """Tight clusters far from zero are what collapsed features look like."""
    g = torch.Generator().manual_seed(0)
    x = 1000 + 1e-6 * torch.randn(300, 5, generator=g, dtype=torch.float64)
    y, order = torch.zeros(300, dtype=torch.long), torch.randperm(300, generator=g)
    one, other = gathered(x, y, k=1, keep=50), gathered(x[order], y[order], k=1, keep=50)
    assert state(one)[1] == state(other)[1]


def test_the_kept_sample_of_collapsed_features_has_every_class():
    """Rows that are equal must not be kept or left out all together."""
    y = torch.arange(600) % 3
    stats = gathered(torch.eye(5)[y], y, k=3, keep=150, cuts=range(0, 600, 100))
    rows = stats.kept.rows()
    assert torch.bincount(rows.labels, rows.times.double(), minlength=3).tolist() == [200.0] * 3
    found = stats.compute(bootstrap=20)
    assert found.kept == 600 and found.ncm_accuracy == 1 and set(found.intervals) >= {"nc1", "nc2"}


def test_repeated_rows_count_as_often_as_they_came():
    g = torch.Generator().manual_seed(0)
    x, y, z = data(400)
    often = torch.randint(400, (3000,), generator=g)
    stats = gathered(x[often], y[often], z[often], keep=100, cuts=range(0, 3000, 70))
    rows = stats.kept.rows()
    assert 25 <= len(rows.labels) <= 100
    for row in rows.features:
        same_row = (rows.features == row).all(1)
        assert int((x[often] == row).all(1).sum()) == int(rows.times[same_row].sum())


def test_the_kept_sample_is_uniform():
    """Mean, classes and norms of the kept rows are those of all, within five standard errors."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(20_000, 6, generator=g), torch.randint(10, (20_000,), generator=g)
    rows = gathered(x, y, k=10, keep=2000, cuts=range(0, 20_000, 500)).kept.rows()
    m = len(rows.labels)
    assert 500 < m <= 2000 and bool((rows.times == 1).all())
    error = 5 / math.sqrt(m)
    assert float(rows.features.mean(0).abs().max()) < error
    assert abs(float(rows.features.square().sum(1).mean()) - 6) < error * math.sqrt(12)
    assert float((torch.bincount(rows.labels, minlength=10) / m - 0.1).abs().max()) < error * 0.3
    # Position in the stream plays no part: half comes from the first half.
    early = {tuple(r) for r in x[:10_000].tolist()}
    assert abs(sum(tuple(r) in early for r in rows.features.tolist()) / m - 0.5) < error / 2


def test_nothing_is_kept_on_request():
    x, y, z = data()
    found = gathered(x, y, z, keep=0).compute(torch.zeros(4, 5), bootstrap=20)
    assert found.kept == 0 and found.nc4 is None and found.ncm_accuracy is None and not found.intervals


# --- numbers far from zero ---


def naive_ratio(x, y, k):
    """tr Σ_W / tr Σ_B with Σ_W from float32 E[xxᵀ] - μμᵀ, class by class."""
    x = x.float()
    scatter, means = torch.zeros(x.shape[1], x.shape[1]), []
    for c in range(k):
        sums, products, n = torch.zeros(x.shape[1]), torch.zeros(x.shape[1], x.shape[1]), 0
        for part in torch.split(x[y == c], 100):
            sums, products, n = sums + part.sum(0), products + part.T @ part, n + len(part)
        scatter += products - n * torch.outer(sums / n, sums / n)
        means.append(sums / n)
    means = torch.stack(means)
    return scatter.trace() / len(y) / (means - means.mean(0)).square().sum() * k


@pytest.mark.parametrize("mean, sigma", [(10.0, 1e-3), (1e3, 1e-4)])
@pytest.mark.parametrize("batch", [None, 64, 1])
def test_small_variance_far_from_zero(mean, sigma, batch):
    """The formula that needs no means first is several times too large in float32, and ours is right to 1e-6."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(1200) % 3
    x = mean + torch.eye(6, dtype=torch.float64)[y] + sigma * torch.randn(1200, 6, generator=g, dtype=torch.float64)
    expected = oracle.measure(x, y, 3)
    found = gathered(x, y, k=3, cuts=range(0, 1200, batch or 1200)).compute()
    for name in ("nc1", "nc1_ratio", "cdnv"):
        assert getattr(found, name) == pytest.approx(expected[name], rel=1e-6)
    assert found.nc2 == pytest.approx(expected["nc2"], rel=1e-6)
    assert abs(float(naive_ratio(x, y, 3)) / expected["nc1_ratio"]) > 3
    if batch is None:
        halves = gathered(x[::2], y[::2], k=3).merge(gathered(x[1::2], y[1::2], k=3)).compute()
        assert halves.nc1 == pytest.approx(expected["nc1"], rel=1e-6)


@pytest.mark.parametrize("outlier", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("batch", [1, 50])
def test_first_sample_an_outlier(outlier, batch):
    """A reference point taken from the first sample would stay there."""
    g = torch.Generator().manual_seed(0)
    x = 10 + 1e-2 * torch.randn(1000, 4, generator=g, dtype=torch.float64)
    x[0] += outlier * torch.tensor([1.0, 0, 0, 0])
    y = torch.zeros(1000, dtype=torch.long)
    stats = gathered(x, y, k=1, cuts=range(0, 1000, batch))
    expected = two_pass_scatter(x, y, 1)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    # Each entry against the two spreads that make it.
    assert np.abs((stats.scatter.numpy() - expected) / scale).max() < 1e-9


@pytest.mark.parametrize("batch", [1, 13, 40, 1000])
@pytest.mark.parametrize("how", ["class by class", "sorted by value", "by norm, the largest first", "drifting"])
def test_adversarial_orders(how, batch):
    x, y, z = data(400, seed=3)
    x = x + 100
    if how == "drifting":
        x = x + torch.linspace(-50, 50, 400, dtype=x.dtype)[:, None]
    keys = {"class by class": y.double(), "sorted by value": x[:, 0], "by norm, the largest first": -x.norm(dim=1)}
    order = torch.argsort(keys.get(how, torch.arange(400.0)), stable=True)
    x, y, z = x[order], y[order], z[order]
    stats = gathered(x, y, z, cuts=range(0, 400, batch))
    expected = two_pass_scatter(x, y, 4)
    np.testing.assert_allclose(stats.scatter, expected, rtol=1e-9, atol=1e-10 * np.abs(expected).max())
    measured = oracle.measure(x, y, 4, z)
    for name in SCALARS:
        assert getattr(stats.compute(), name) == pytest.approx(measured[name], rel=1e-8, abs=1e-10), name


# --- what must be left alone ---


def test_inputs_and_random_state_are_left_alone():
    x, y, z = data(dtype=torch.float32)
    x[2] = float("nan")
    weight, bias, ood, prior = torch.randn(4, 5), torch.randn(4), torch.randn(5), torch.tensor([1.0, 2, 3, 4])
    inputs = [x, y, z, weight, bias, ood, prior]
    before = [t.clone() for t in inputs]
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    stats = CollapseStatistics(4, 5, class_weights=prior, keep=20)
    stats.update(x, y, z).merge(gathered(x, y, z, class_weights=prior)).compute(
        weight, bias, ood=ood, prior=prior, bootstrap=20
    )
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all() and random.getstate() == states[2]
    for old, new in zip(before, inputs, strict=True):
        assert torch.equal(old.nan_to_num(), new.nan_to_num()) and torch.equal(old.isnan(), new.isnan())


def test_features_may_change_after_the_update():
    x, y, z = data()
    stats, want = gathered(x, y, z), gathered(x.clone(), y.clone(), z.clone())
    x.zero_(), y.zero_(), z.zero_()
    same(stats, want)


def test_compute_changes_nothing():
    x, y, z = data()
    stats = gathered(x, y, z, keep=20)
    first = stats.compute(bootstrap=20)
    second = stats.compute(bootstrap=20)
    assert first.rows() == second.rows()


def test_gradients_stay_outside():
    x, y, z = data()
    stats = gathered(x.requires_grad_(), y, z.requires_grad_())
    assert not any(t.requires_grad for t in (stats.means, stats.scatter, stats.kept.rows()[0], stats.peaks))


# --- NaN and infinity ---


def test_rows_that_are_not_finite_are_left_out_and_counted():
    x, y, z = data()
    clean = gathered(x[4:], y[4:], z[4:])
    x[0, 2], x[1, 0], x[2, 1], z[3, 0] = float("nan"), float("inf"), -float("inf"), float("nan")
    stats = gathered(x, y, z, cuts=[2, 30])
    assert stats.left_out == 4 and stats.count == 56
    assert stats.compute().left_out == 4
    for left, right in zip(state(stats)[0], state(clean)[0], strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_only_nan():
    x, y, _ = data()
    stats = gathered(x * float("nan"), y)
    assert stats.left_out == 60 and stats.count == 0
    with pytest.raises(InputError, match="no samples"):
        stats.compute()


# --- labels and features of every dtype ---


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_labels_of_every_integer_dtype(dtype):
    x, y, z = data()
    same(gathered(x, y.to(dtype), z), gathered(x, y, z))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_is_summed_in_float64(dtype):
    x, y, z = data(2000, dtype=dtype)
    same(gathered(x, y, z), gathered(x.double(), y, z.double()))


# --- wrong calls ---


def full(**changes):
    """Call update and compute with one thing wrong."""
    x, y, _ = data()
    given = {"x": x, "y": y, "z": None, "make": {}, **changes}
    stats = CollapseStatistics(**{"num_classes": 4, "dim": 5, **given["make"]})
    stats.update(given["x"], given["y"], given["z"])
    return stats.compute(given.get("weight"), given.get("bias"), **given.get("compute", {}))


X, Y, Z = data()
WRONG = {
    "label too large": ({"y": Y + 1}, "label 4 is out of range: with num_classes=4 labels go from 0 to 3"),
    "label negative": ({"y": Y - 1}, "label -1 is out of range"),
    "ignored label": ({"y": torch.where(Y == 2, -100, Y)}, "label -100 is out of range"),
    "features of another width": ({"x": X[:, :4]}, r"features must be floating of shape \(n, 5\), got .*\(60, 4\)"),
    "features of three dimensions": ({"x": X[None]}, "features must be floating of shape"),
    "integer features": ({"x": X.long()}, r"features must be floating.* got torch.int64"),
    "complex features": ({"x": X + 0j}, "features must be floating"),
    "float labels": ({"y": Y.float()}, "labels must be integers.* got torch.float32"),
    "boolean labels": ({"y": Y > 1}, "labels must be integers.* got torch.bool"),
    "one-hot labels": ({"y": torch.eye(4, dtype=torch.long)[Y]}, r"labels must be integers of shape \(n,\)"),
    "fewer labels": ({"y": Y[:59]}, "as many, got 60 and 59"),
    "logits of another width": ({"z": Z[:, :3]}, r"logits must be .*shape \(60, 4\), got .*\(60, 3\)"),
    "logits of other samples": ({"z": Z[:59]}, r"logits must be .*shape \(60, 4\), got .*\(59, 4\)"),
    "no classes": ({"make": {"num_classes": 0}}, "num_classes must be a whole number of at least 1, got 0"),
    "boolean classes": ({"make": {"num_classes": True}}, "num_classes must be a whole number of at least 1, got True"),
    "fractional dimension": ({"make": {"dim": 5.0}}, "dim must be a whole number of at least 1, got 5.0"),
    "negative keep": ({"make": {"keep": -1}}, "keep must be a whole number of at least 0, got -1"),
    "too few weights": ({"make": {"class_weights": [1, 2, 3]}}, "class_weights must be 4 positive numbers"),
    "zero weight": ({"make": {"class_weights": [1, 2, 3, 0]}}, "class_weights must be 4 positive numbers"),
    "infinite weight": ({"make": {"class_weights": [1, 2, 3, float("inf")]}}, "class_weights must be 4 positive"),
    "transposed classifier": ({"weight": torch.ones(5, 4)}, r"weight must have shape \(4, 5\), got \(5, 4\)"),
    "bias of another size": ({"weight": torch.ones(4, 5), "bias": torch.ones(5)}, r"bias must have shape \(4,\)"),
    "bias alone": ({"bias": torch.ones(4)}, "bias was given without weight"),
    "unknown prior": ({"compute": {"prior": "flat"}}, "prior must be 'uniform', 'data' or .* got 'flat'"),
    "short prior": ({"compute": {"prior": [1, 2]}}, "prior must be 4 positive numbers"),
    "zero prior": ({"compute": {"prior": [1, 2, 3, 0]}}, "prior must be 4 positive numbers"),
    "negative bootstrap": ({"compute": {"bootstrap": -1}}, "bootstrap must be a whole number of at least 0, got -1"),
    "too few names": ({"compute": {"names": ["a"]}}, "names must be 4, one a class, got 1"),
    "ood of another width": ({"compute": {"ood": torch.ones(4)}}, "ood must have features of length 5"),
    "empty ood": ({"compute": {"ood": CollapseStatistics(2, 5)}}, "out-of-distribution statistics are empty"),
    # Things of the wrong type.
    "complex logits": ({"z": Z + 0j}, "logits must be floating"),
    "labels of text": ({"y": list("ab")}, "labels"),
    "features of text": ({"x": "abc"}, "features"),
    "prior of text": ({"compute": {"prior": list("abcd")}}, "prior"),
    "weights of text": ({"make": {"class_weights": list("abcd")}}, "class_weights"),
    "fractional keep": ({"make": {"keep": 2.5}}, "keep"),
    "fractional bootstrap": ({"compute": {"bootstrap": 2.5}}, "bootstrap"),
    "classifier of text": ({"weight": "abc"}, "weight"),
    "ood of NaN": ({"compute": {"ood": torch.full((5,), float("nan"))}}, "ood"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls_are_named(case):
    changes, message = WRONG[case]
    with pytest.raises(WeylError, match=message) as raised:
        full(**changes)
    assert "\n" not in str(raised.value)


def test_the_right_call_passes():
    assert full().nc1 > 0 and full(z=Z, weight=torch.ones(4, 5), bias=torch.ones(4)).nc3 > 0


@pytest.mark.parametrize("broken", ["weight", "bias"])
def test_a_classifier_that_is_not_finite_is_not_measured(broken):
    classifier = {"weight": torch.ones(4, 5), "bias": torch.ones(4)}
    clean = full(**classifier)
    classifier[broken][0] = float("nan")
    found = full(**classifier)
    assert clean.nc3 is not None and clean.nc4 is not None and not any("NaN" in note for note in clean.notes)
    assert found.nc3 is None and found.nc4 is None and found.nc1 == clean.nc1
    assert any("NaN" in note for note in found.notes)


def test_lists_and_arrays_will_do():
    want = full(weight=torch.ones(4, 5)).rows()
    assert full(x=X.tolist(), y=Y.tolist(), weight=[[1.0] * 5] * 4).rows() == want
    assert full(x=X.numpy(), y=Y.numpy(), weight=np.ones((4, 5))).rows() == want


def test_empty_statistics():
    with pytest.raises(InputError, match="no samples: the statistics are empty"):
        CollapseStatistics(4, 5).compute()
    stats = CollapseStatistics(4, 5).update(X[:0], Y[:0], Z[:0])
    assert stats.count == 0
    same(stats.update(X, Y), gathered(X, Y))


def test_logits_on_every_update_or_on_none():
    for first, second in ((Z, None), (None, Z)):
        stats = CollapseStatistics(4, 5).update(X, Y, first)
        with pytest.raises(UsageError, match="logits must be given on every update or on none"):
            stats.update(X, Y, second)
        assert stats.count == 60
    with pytest.raises(UsageError, match="with logits and statistics without do not merge"):
        gathered(X, Y, Z).merge(gathered(X, Y))


def test_a_refused_batch_leaves_the_statistics_as_they_were():
    stats = gathered(X, Y, Z)
    with pytest.raises(InputError):
        stats.update(X, torch.where(Y == 3, 9, Y), Z)
    same(stats, gathered(X, Y, Z))
    fresh = CollapseStatistics(4, 5)
    with pytest.raises(InputError):
        fresh.update(X, Y + 1, Z)
    same(fresh.update(X, Y), gathered(X, Y))


@pytest.mark.parametrize(
    "other", [CollapseStatistics(3, 5), CollapseStatistics(4, 6), CollapseStatistics(4, 5, class_weights=[1, 1, 1, 2])]
)
def test_other_statistics_do_not_merge(other):
    with pytest.raises(UsageError, match="only statistics of the same classes, dimension and class weights merge"):
        gathered(X, Y).merge(other)


def test_without_processes_reducing_is_nothing():
    stats = gathered(X, Y, Z)
    same(stats.reduced(), stats)


def test_sparse_and_binary_rows_are_told_apart():
    """Normalised sparse features share norms and most coordinates; counts of rows are exact all the same."""
    g = torch.Generator().manual_seed(0)
    y = torch.randint(3, (4000,), generator=g)
    sparse = torch.randn(4000, 256, generator=g) * (torch.rand(4000, 256, generator=g) < 0.1)
    for x in (torch.nn.functional.normalize(sparse.relu() + 1e-4 * (sparse > 0)), (sparse > 0).float()):
        kept = CollapseStatistics(3, 256, keep=500).update(x, y).kept.rows()
        assert 200 < len(kept.labels) <= 500
        assert int(kept.times.max()) <= 2


def test_many_small_batches_leave_few_chunks():
    x, y = torch.randn(3000, 4, generator=torch.Generator().manual_seed(0)), torch.arange(3000) % 3
    stats = CollapseStatistics(3, 4, keep=100)
    for row in range(3000):
        stats.update(x[row : row + 1], y[row : row + 1])
    assert len(stats.kept.parts) < 20
    whole = CollapseStatistics(3, 4, keep=100).update(x, y).kept.rows()
    assert set(stats.kept.rows().hashes.tolist()) == set(whole.hashes.tolist())
