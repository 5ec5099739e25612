"""Out-of-distribution scores and how they separate, against scikit-learn and scipy."""

import json
import math

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score, roc_curve
from torch import nn

from weyl.data import letters, mnist
from weyl.demo._train import trained
from weyl.errors import InputError, UsageError, WeylError
from weyl.geometry import CollapseStatistics, detect_ood, ood_scores, separation
from weyl.models import mlp

G = torch.Generator().manual_seed(0)
Y = torch.arange(200) % 4
X = 3 * torch.randn(4, 12, generator=G, dtype=torch.float64)[Y] + torch.randn(200, 12, generator=G, dtype=torch.float64)
NEW = torch.cat([X[:20] + 0.1, 4 * torch.randn(30, 12, generator=G, dtype=torch.float64)])
WEIGHT, BIAS = torch.randn(4, 12, generator=G, dtype=torch.float64), torch.randn(4, generator=G, dtype=torch.float64)


def stats():
    return CollapseStatistics(4, 12).update(X[:90], Y[:90]).update(X[90:], Y[90:])


# --- separation ---

scores = st.lists(st.integers(-4, 4), min_size=1, max_size=40)


@settings(max_examples=200, deadline=None)
@given(scores, scores, st.booleans())
def test_auroc_with_ties_against_sklearn(inside, outside, jitter):
    a, b = np.array(inside, float), np.array(outside, float)
    if jitter:
        a = a + np.sin(np.arange(len(a)))
    found = separation(torch.as_tensor(a), torch.as_tensor(b))
    truth = np.r_[np.zeros(len(a)), np.ones(len(b))]
    assert found.auroc == pytest.approx(roc_auc_score(truth, np.r_[a, b]), abs=1e-12)
    assert separation(torch.as_tensor(b), torch.as_tensor(a)).auroc == pytest.approx(1 - found.auroc, abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(scores, scores)
def test_fpr95_against_every_threshold(inside, outside):
    """Accept what scores no more than a threshold: the least threshold that accepts 95 % of those from inside."""
    found = separation(torch.tensor(inside).double(), torch.tensor(outside).double())
    a, b = np.array(inside), np.array(outside)
    rates = [np.mean(b <= t) for t in sorted(set(inside)) if 100 * np.sum(a <= t) >= 95 * len(a)]
    assert found.fpr95 == pytest.approx(rates[0], abs=1e-12)
    # scikit-learn calls "inside" positive and wants high scores for it.
    truth = np.r_[np.ones(len(a)), np.zeros(len(b))]
    fpr, tpr, _ = roc_curve(truth, -np.r_[a, b], drop_intermediate=False)
    assert found.fpr95 == pytest.approx(fpr[tpr >= 0.95 - 1e-12][0], abs=1e-12)


def test_a_score_that_knows_nothing_is_at_chance():
    g = torch.Generator().manual_seed(1)
    found = separation(torch.randn(20_000, generator=g), torch.randn(20_000, generator=g))
    assert found.auroc == pytest.approx(0.5, abs=0.015) and found.fpr95 == pytest.approx(0.95, abs=0.01)
    everything = separation(torch.zeros(7), torch.zeros(9))
    assert (everything.auroc, everything.fpr95) == (0.5, 1.0)
    perfect = separation(torch.zeros(7), torch.ones(9))
    assert (perfect.auroc, perfect.fpr95) == (1.0, 0.0)


@pytest.mark.parametrize(
    "inside, outside, name",
    [([], [1.0], "inside"), ([1.0], [], "outside"), ([float("nan")], [1.0], "inside"), ([[1.0]], [1.0], "inside")],
)
def test_scores_that_cannot_be_compared(inside, outside, name):
    with pytest.raises(InputError, match=f"{name} must be scores of shape"):
        separation(torch.tensor(inside), torch.tensor(outside))


# --- scores ---


@pytest.mark.parametrize("rank", [None, 1, 3, 11])
def test_neco_against_sklearn(rank):
    found = ood_scores(stats(), NEW, method="neco", rank=rank)
    kept = min(rank or 4, 12)
    pca = PCA(n_components=kept).fit(X.numpy())
    expected = -np.linalg.norm(pca.transform(NEW.numpy()), axis=1) / np.linalg.norm(NEW.numpy() - pca.mean_, axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("rank", [12, 50])
def test_neco_refuses_a_subspace_that_holds_everything(rank):
    with pytest.raises(UsageError, match="rank from 1 to 11"):
        ood_scores(stats(), NEW, method="neco", rank=rank)


def test_neco_with_more_classes_than_dimensions_still_tells_rows_apart():
    wide = CollapseStatistics(20, 12).update(X, torch.arange(len(X)) % 20)
    assert ood_scores(wide, NEW, method="neco").std() > 1e-3


def test_nearest_mean_against_loops():
    found = ood_scores(stats(), NEW, method="nearest_mean")
    means = [X[c == Y].mean(0) for c in range(4)]
    expected = [min(float((row - m).norm()) for m in means) for row in NEW]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("bias", [None, BIAS])
def test_vim_against_its_definition(rank, bias):
    found = ood_scores(stats(), NEW, method="vim", weight=WEIGHT, bias=bias, rank=rank)
    w, b = WEIGHT.numpy(), np.zeros(4) if bias is None else bias.numpy()
    origin = -np.linalg.pinv(w) @ b
    centred = X.numpy() - origin
    _, _, axes = np.linalg.svd(centred, full_matrices=True)
    rest = axes[rank or 6 :]  # half of twelve dimensions
    train = np.linalg.norm(centred @ rest.T, axis=1)
    logits = X.numpy() @ w.T + b
    alpha = logits.max(1).sum() / train.sum()
    z = NEW.numpy() @ w.T + b
    expected = alpha * np.linalg.norm((NEW.numpy() - origin) @ rest.T, axis=1) - scipy.special.logsumexp(z, axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    given = ood_scores(stats(), NEW, torch.as_tensor(z), method="vim", weight=WEIGHT, bias=bias, rank=rank)
    np.testing.assert_allclose(given, expected, rtol=1e-8)


@pytest.mark.parametrize("method", ["neco", "nearest_mean", "vim"])
def test_what_is_far_scores_higher(method):
    far = 20 * torch.randn(50, 12, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat([stats().means, torch.eye(12, dtype=torch.float64)]).T).Q[:, :4]
    far = far - (far @ basis) @ basis.T
    inside, outside = (ood_scores(stats(), rows, method=method, weight=WEIGHT, bias=BIAS) for rows in (X, far))
    assert separation(inside, outside).auroc > 0.9


def test_scores_do_not_depend_on_the_precision_of_features_much_and_mutate_nothing():
    rows = NEW.clone()
    for method in ("neco", "nearest_mean", "vim"):
        a = ood_scores(stats(), rows, method=method, weight=WEIGHT, bias=BIAS)
        b = ood_scores(stats(), rows.float(), method=method, weight=WEIGHT.float(), bias=BIAS.float())
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        assert a.dtype == b.dtype == torch.float64
    assert torch.equal(rows, NEW)


WRONG = {
    "unknown method": (lambda: ood_scores(stats(), NEW, method="energy"), "method must be one of neco, vim, nearest"),
    "empty": (lambda: ood_scores(CollapseStatistics(4, 12), NEW), "no samples"),
    "width": (lambda: ood_scores(stats(), NEW[:, :5]), r"features must .*shape \(n, 12\).*\(50, 5\)"),
    "vim without weight": (lambda: ood_scores(stats(), NEW, method="vim"), "method 'vim' needs weight"),
    "vim without room": (lambda: ood_scores(stats(), NEW, method="vim", weight=WEIGHT, rank=12), "lower rank"),
    "vim without rows": (
        lambda: ood_scores(CollapseStatistics(4, 12, keep=0).update(X, Y), NEW, method="vim", weight=WEIGHT),
        "raise keep",
    ),
    "class weights": (
        lambda: ood_scores(CollapseStatistics(4, 12, class_weights=[1, 2, 3, 4]).update(X, Y), NEW),
        "without class weights",
    ),
    "negative rank": (lambda: ood_scores(stats(), NEW, rank=-1), "rank"),
    "rank zero": (lambda: ood_scores(stats(), NEW, rank=0), "rank"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls(case):
    call, message = WRONG[case]
    with pytest.raises(WeylError, match=message):
        call()


# --- detection with a model ---


def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4))


def test_detection_is_made_of_scores_of_the_penultimate_layer():
    net, x = model().train(), X.float()
    far = NEW[20:].float()
    state = torch.get_rng_state()
    found = detect_ood(net, [(x[:70], Y[:70]), (x[70:], Y[70:])], [x[:50], (x[50:80], Y[50:80])], iter([far]), rank=3)
    assert (found.inside, found.outside) == (80, 30) and net.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks for m in net.modules())
    with torch.no_grad():
        features = CollapseStatistics(4, 9).update(net[:2](x), Y)
        for method, separated in found.scores.items():
            options = {"method": method, "weight": net[2].weight, "bias": net[2].bias, "rank": 3}
            inside, outside = (ood_scores(features, net[:2](rows), **options) for rows in (x[:80], far))
            truth = np.r_[np.zeros(80), np.ones(30)]
            assert separated.auroc == pytest.approx(roc_auc_score(truth, np.r_[inside, outside]), abs=1e-9)
    assert set(found.scores) == {"neco", "vim", "nearest_mean"}
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["inside"] == 80
    assert [row["method"] for row in found.rows()] == list(found.scores)
    assert all(math.isfinite(row["fpr95"]) for row in found.rows())


def test_the_same_data_are_not_told_apart():
    found = detect_ood(model(), [(X.float(), Y)], [X.float()], [X.float()])
    assert all(one.auroc == 0.5 for one in found.scores.values())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"loader": []}, "the loader gives no batches"),
        ({"loader": [X.float()]}, "no labels"),
        ({"inside": []}, "no samples|no batches"),
        ({"outside": []}, "no samples|no batches"),
        ({"methods": ["energy"]}, "method"),
        ({"methods": []}, "method"),
    ],
)
def test_detection_refuses(change, message):
    given = {"loader": [(X.float(), Y)], "inside": [X.float()], "outside": [X.float()], **change}
    net = model().train()
    with pytest.raises(WeylError, match=message):
        detect_ood(net, **given)
    assert net.training and not any(m._forward_hooks for m in net.modules())


def test_unknown_methods_are_refused_before_the_data_are_read():
    def never():
        raise AssertionError("the loader was read")
        yield

    with pytest.raises(UsageError, match="method"):
        detect_ood(model(), never(), [X.float()], [X.float()], methods=["energy"])


def test_letters_are_told_from_digits_and_digits_are_not():
    """Real data: a perceptron on MNIST against rendered letters, and, as a control, against more digits."""
    known, strange = mnist(limit=1500, held_out=600), letters(held_out=600)
    model = trained(mlp("784-128-64-10").module, known.train_x.flatten(1), known.train_y, epochs=8, rate=2e-3, seed=0)
    train = [(known.train_x.flatten(1), known.train_y)]
    inside, control = known.test_x.flatten(1)[::2], known.test_x.flatten(1)[1::2]
    outside = strange.rescaled(known.mean, known.std).test_x.flatten(1)
    found = detect_ood(model, train, [inside], [outside]).scores
    same = detect_ood(model, train, [inside], [control]).scores
    for name in found:
        assert found[name].auroc > 0.65 and found[name].fpr95 < 0.9, (name, found[name])
        assert abs(same[name].auroc - 0.5) < 0.08, (name, same[name])
