"""Chance levels against Gaussian features, floors against constructed optima, and what neither may be mistaken for."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import weyl
from weyl.data import digits
from weyl.geometry import CollapseStatistics, collapse, simplex
from weyl.geometry._chance import simplex_chance, simplex_floor

SEEDS = 16


def random_reading(k, dim, n, seed):
    """Features, classifier, logits and labels that know nothing of one another."""
    g = torch.Generator().manual_seed(1000 * seed + k)
    x = torch.randn(n, dim, generator=g, dtype=torch.float64)
    weight = torch.randn(k, dim, generator=g, dtype=torch.float64)
    z = torch.randn(n, k, generator=g, dtype=torch.float64)
    ood = torch.randn(dim, generator=g, dtype=torch.float64)
    y = torch.arange(n) % k
    return CollapseStatistics(k, dim).update(x, y, z).compute(weight, ood=ood)


# Relative bias that an approximate level may have, beside four standard errors of the mean over seeds.
BIAS = {"nc2": 0.03, "sk_defect": 0.03, "equinorm": 0.06, "equiangular": 0.06, "cdnv": 0.05, "nc1": 0.05}
BIAS |= {"ncm_accuracy": 0.06, "nc5": 0.05, "nc3": 0.03, "logit_spread": 0.06}


@pytest.mark.parametrize("k, dim, n", [(3, 50, 120), (5, 40, 500), (10, 128, 1000), (4, 300, 80), (30, 12, 900)])
def test_independent_features_score_at_chance(k, dim, n):
    readings = [random_reading(k, dim, n, seed) for seed in range(SEEDS)]
    unsaid = {"risk", "ew_gap", "radius"}
    checked = set()
    for name, level in readings[0].reference.items():
        if level.chance is None or name in unsaid:
            continue
        values = np.array([getattr(found, name) for found in readings])
        error = 4 * values.std(ddof=1) / math.sqrt(SEEDS) + BIAS.get(name, 0.02) * level.chance
        assert abs(values.mean() - level.chance) < error, (name, values.mean(), level.chance, error)
        checked.add(name)
    assert checked >= {"nc1_ratio", "cdnv", "nc2", "equinorm", "equiangular", "nc3", "nc4", "sk_defect", "accuracy"}
    assert checked >= {"ncm_accuracy", "nc5", "logit_spread", "nc1"}


def test_chance_where_classes_have_few_samples():
    """Three samples a class: the mean takes a third of the variance."""
    readings = [random_reading(4, 60, 12, seed) for seed in range(100)]
    for name in ("nc1", "nc1_ratio", "cdnv"):
        values = [getattr(found, name) for found in readings]
        assert np.mean(values) == pytest.approx(readings[0].reference[name].chance, rel=0.08), name


def test_structured_features_do_not_score_at_chance():
    """The check above can fail: class means that are twice as far apart as chance make them."""
    x = torch.randn(500, 40, generator=torch.Generator().manual_seed(0)) + torch.eye(5, 40)[torch.arange(500) % 5]
    found = CollapseStatistics(5, 40).update(x, torch.arange(500) % 5).compute()
    for name in ("nc1", "nc1_ratio", "cdnv"):
        assert getattr(found, name) < 0.5 * found.reference[name].chance
    assert found.ncm_accuracy > 1.2 * found.reference["ncm_accuracy"].chance


def test_chance_and_floor_of_the_specification():
    assert simplex_chance(torch.eye(10) - 0.1, 512) == pytest.approx(math.sqrt(2 - 2 * math.sqrt(512 / 522)), rel=0.02)
    assert round(simplex_floor(1000, 512), 3) == 0.754
    assert simplex_floor(513, 512) == 0 < simplex_floor(514, 512)


@pytest.mark.parametrize("dim, expected", [(1, 1.0), (2, 2 / math.pi), (3, 0.5)])
def test_chance_cosine_in_few_dimensions(dim, expected):
    """Mean of |cos| of two independent directions: exactly 1, 2/π, 1/2."""
    found = random_reading(3, dim, 60, 0)
    assert found.reference["nc5"].chance == pytest.approx(expected, rel=1e-6)


# --- floors ---


def of_means(means, k=None):
    means = torch.as_tensor(means, dtype=torch.float64)
    return CollapseStatistics(len(means), means.shape[1]).update(means, torch.arange(len(means))).compute(means)


def circle(k):
    angles = 2 * math.pi * torch.arange(k, dtype=torch.float64) / k
    return torch.stack([angles.cos(), angles.sin()], 1)


def cross_polytope(dim):
    return torch.cat([torch.eye(dim, dtype=torch.float64), -torch.eye(dim, dtype=torch.float64)])


def harmonic(k, dim):
    """Real harmonic frame: the points of a trigonometric curve, unit-norm, tight and centred; ``dim`` is even."""
    t = 2 * math.pi * torch.arange(k, dtype=torch.float64) / k
    return torch.cat([f(j * t)[:, None] for j in range(1, dim // 2 + 1) for f in (torch.cos, torch.sin)], 1)


TIGHT = {f"{k} on a circle": circle(k) for k in (3, 4, 5, 12)}
TIGHT |= {f"cross-polytope in {d}": cross_polytope(d) for d in (2, 3, 8)}
TIGHT |= {f"harmonic frame of {k} in {d}": harmonic(k, d) for k, d in ((7, 4), (11, 6), (40, 8))}
TIGHT |= {f"simplex of {k} in {d}": simplex(k, d, dtype=torch.float64) for k, d in ((2, 1), (3, 2), (5, 4), (5, 9))}
TIGHT |= {"cube": torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), dtype=torch.float64)}


@pytest.mark.parametrize("name", TIGHT)
def test_optimal_configurations_attain_the_floor(name):
    means = TIGHT[name]
    k, dim = means.shape
    for shift in (0.0, 5.0):
        found = of_means(means + shift)
        for metric in ("nc2", "equinorm", "equiangular", "sk_defect", "nc3"):
            floor = found.reference[metric].floor
            if metric == "nc3" and shift:
                continue
            assert getattr(found, metric) == pytest.approx(floor, abs=2e-7), metric
        assert (found.nc2 < 1e-7) == (k <= dim + 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.integers(1, 6), st.integers(0, 2**30), st.floats(0, 3))
def test_floors_are_never_undercut(k, dim, seed, power):
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(k, dim, generator=g, dtype=torch.float64)
    # From random to close to the tight frames that are optimal.
    start = means - means.mean(0)
    left, _, right = torch.linalg.svd(start, full_matrices=False)
    means = left @ right + 10.0 ** (-2 * power) * start
    rows = means.repeat(3, 1) + 0.1 * torch.randn(3 * k, dim, generator=g, dtype=torch.float64)
    y = torch.arange(3 * k) % k
    weight = torch.randn(k, dim, generator=g, dtype=torch.float64) if seed % 2 else means
    z = torch.randn(3 * k, k, generator=g, dtype=torch.float64)
    for found in (CollapseStatistics(k, dim).update(rows, y, z).compute(weight, ood=rows[0]), of_means(means)):
        for row in found.rows():
            if row["floor"] is None:
                continue
            if row["metric"] in ("accuracy", "ncm_accuracy"):
                assert row["value"] <= row["floor"] == 1
            else:
                assert row["value"] >= row["floor"] - 1e-7, row


def test_the_floor_of_the_risk_is_the_least_at_this_radius():
    y = torch.arange(30) % 3
    z = torch.randn(30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = CollapseStatistics(3, 2).update(torch.randn(30, 2), y, z).compute()
    assert found.reference["risk"].floor == pytest.approx(weyl.simplex_optimum(3, found.radius).risk, rel=1e-12)
    assert found.risk - found.reference["risk"].floor == pytest.approx(found.ew_gap)
    assert found.reference["risk"].chance == pytest.approx(math.log(3))


# --- a hierarchy of classes that was planted ---


def planted(near, k=8, dim=20, by=0.5, noise=0.02, seed=0):
    """A regular simplex in which one pair of classes was moved towards its middle."""
    g = torch.Generator().manual_seed(seed)
    means = simplex(k, dim, dtype=torch.float64, generator=g)
    i, j = near
    middle = (means[i] + means[j]) / 2
    means[i], means[j] = means[i] + by * (middle - means[i]), means[j] + by * (middle - means[j])
    y = torch.arange(50 * k) % k
    return CollapseStatistics(k, dim).update(means[y] + noise * torch.randn(50 * k, dim, generator=g), y)


@pytest.mark.parametrize("near", list(itertools.combinations(range(8), 2))[::5])
def test_a_pair_that_was_moved_together_is_named(near):
    names = [f"class {c}" for c in range(8)]
    found = planted(near).compute(names=names)
    a, b, value = found.worst_pairs(1)[0]
    assert {a, b} == {names[c] for c in near} and value > 0.05
    assert set(found.breaking) == {names[c] for c in near}
    assert {name for name, _ in found.worst_classes(2)} == {names[c] for c in near}
    assert found.shares.sum() == pytest.approx(1)
    # Exchanging the two changes nothing; exchanging one of them with another class does.
    i, j = near
    other = next(c for c in range(8) if c not in near)
    assert found.pair_defect[i, j] < 0.05 < 0.2 < found.pair_defect[i, other]
    rest = [c for c in range(8) if c not in near]
    assert found.pair_defect[np.ix_(rest, rest)].max() < 0.05
    assert found.residual[i, j] == pytest.approx(value)


def test_where_nothing_was_planted_nothing_is_named():
    found = planted((0, 1), by=0.0).compute()
    assert found.sk_defect < 0.03 and found.breaking == ()


def test_two_groups_of_classes():
    """Superclasses: the residual is positive inside a group and negative across."""
    group = torch.arange(6) // 3
    means = torch.cat([2 * torch.eye(2)[group], torch.eye(6)], 1).double()
    found = of_means(means)
    same = (group[:, None] == group[None]).numpy() & ~np.eye(6, dtype=bool)
    across = (group[:, None] != group[None]).numpy()
    assert (found.residual[same] > 0.05).all() and (found.residual[across] < -0.05).all()
    assert found.pair_defect[same].max() < 1e-7 < 0.1 < found.pair_defect[across].min()
    assert found.breaking == ()  # all classes alike: none of them is to blame


# --- a network that was stopped early ---


def trained(steps):
    data = digits(500, held_out=100)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 48), torch.nn.ReLU(), torch.nn.Linear(48, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-4)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(data.train_x), data.train_y).backward()
        optimiser.step()
    return collapse(model, [(data.train_x, data.train_y)])


def test_early_stopping_is_not_reported_as_collapse():
    state = torch.get_rng_state()
    early, late = trained(20), trained(500)
    torch.set_rng_state(state)
    assert late.accuracy == 1 and 0.5 < early.accuracy < 1
    assert early.nc1 > 0.5 and early.nc2 > 0.3 and early.nc3 > 0.3 and early.sk_defect > 0.3
    assert early.logit_spread > 0.3 and early.ew_gap > 0.3 and early.ncm_accuracy < 1
    for name in ("nc1", "nc1_ratio", "cdnv", "nc2", "nc3", "nc4", "logit_spread", "ew_gap"):
        assert getattr(late, name) < getattr(early, name), name
    for name in ("nc1", "nc1_ratio", "cdnv", "nc4"):
        assert getattr(late, name) < 0.8 * getattr(early, name), name


RARE = [200] * 5 + [2] * 5
UNEQUAL = [(RARE, 64, "uniform"), (RARE, 64, "data"), ([300, 200, 100, 50], 32, "uniform")]


@pytest.mark.parametrize(("counts", "dim", "prior"), UNEQUAL)
def test_gaussian_features_of_unequal_classes_score_at_chance(counts, dim, prior):
    k, y = len(counts), torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    drawn = []
    for seed in range(25):
        g = torch.Generator().manual_seed(seed)
        stats = CollapseStatistics(k, dim).update(torch.randn(len(y), dim, generator=g), y)
        drawn.append(stats.compute(torch.randn(k, dim, generator=g), prior=prior))
    exact = ("nc1", "nc1_ratio", "cdnv", "ncm_accuracy")
    for name in (*exact, "nc2", "sk_defect", "equinorm", "equiangular", "nc3", "duality"):
        values = np.array([getattr(found, name) for found in drawn])
        error = 4 * values.std() / math.sqrt(len(values))
        # what is right only to first order in 1/d and 1/k has that much more room
        assert abs(values.mean() - drawn[0].reference[name].chance) <= error + (0.06 * values.mean()), name
    balanced = CollapseStatistics(k, dim).update(torch.randn(len(y), dim), torch.arange(len(y)) % k).compute()
    if counts[0] > 50 * counts[-1]:
        assert drawn[0].reference["nc2"].chance > 1.5 * balanced.reference["nc2"].chance
