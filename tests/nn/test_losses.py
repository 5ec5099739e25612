"""The dot-regression loss: its values, and the gradient that only pulls."""

import math

import pytest
import torch
from torch.nn import functional as F

from weyl.errors import InputError, UsageError
from weyl.nn import DotRegressionLoss, SimplexHead

K, DIM, N = 4, 7, 10
ENERGY = 5.0


def case(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(N, DIM, generator=generator, dtype=dtype)
    return features, torch.arange(N) % K, SimplexHead(DIM, K, scale=1.7, seed=1, dtype=dtype).weight


def by_hand(features, labels, weight, energy):
    """The formula of the paper, row by row, in plain Python numbers."""
    values = []
    for h, label in zip(features.tolist(), labels.tolist(), strict=True):
        w = weight[label].tolist()
        length = math.sqrt(sum(a * a for a in h))
        h = [a * math.sqrt(energy) / length for a in h]
        root = math.sqrt(sum(a * a for a in w) * energy)
        values.append((sum(a * b for a, b in zip(w, h, strict=True)) - root) ** 2 / (2 * root))
    return torch.tensor(values, dtype=torch.float64)


def test_values_and_reductions():
    expected = by_hand(*case(), ENERGY)
    torch.testing.assert_close(DotRegressionLoss("none", energy=ENERGY)(*case()), expected)
    torch.testing.assert_close(DotRegressionLoss("sum", energy=ENERGY)(*case()), expected.sum())
    torch.testing.assert_close(DotRegressionLoss(energy=ENERGY)(*case()), expected.mean())
    assert float(expected.min()) > 0.01  # a loss that is always zero would not pass


def sphere():
    features, labels, weight = case()
    return math.sqrt(ENERGY) * F.normalize(features, dim=1), labels, weight


def gradient(loss, features, labels, weight):
    features = features.clone().requires_grad_()
    return torch.autograd.grad(loss(features, labels, weight), features)[0]


def test_the_gradient_on_the_sphere_is_the_pull_of_the_paper():
    features, labels, weight = sphere()
    own = weight[labels]
    pull = -(1 - F.cosine_similarity(features, own, dim=1))[:, None] * own
    loss = DotRegressionLoss("sum", energy=ENERGY, normalize=False)
    torch.testing.assert_close(gradient(loss, features, labels, weight), pull)
    # Normalising projects it on the tangent of the sphere and adds nothing else.
    radial = (pull * features).sum(1, keepdim=True) * features / ENERGY
    tangent = gradient(DotRegressionLoss("sum", energy=ENERGY), features, labels, weight)
    torch.testing.assert_close(tangent, pull - radial)


def cross_entropy(features, labels, weight):
    return F.cross_entropy(features @ weight.T, labels, reduction="sum")


@pytest.mark.parametrize(("loss", "pushes"), [(DotRegressionLoss("sum", energy=ENERGY), False), (cross_entropy, True)])
def test_no_push_from_the_vectors_of_other_classes(loss, pushes):
    features, labels, weight = sphere()
    first = labels == 0
    moved = weight.clone()
    moved[1:] = moved[1:].flip(0) * 3
    before = gradient(loss, features[first], labels[first], weight)
    after = gradient(loss, features[first], labels[first], moved)
    assert torch.equal(before, after) is not pushes


def test_descent_reaches_zero_at_the_class_vectors():
    features, labels, weight = case()
    features.requires_grad_()
    optimiser = torch.optim.SGD([features], lr=1.0)
    loss = DotRegressionLoss("sum")
    values = []
    for _ in range(500):
        optimiser.zero_grad()
        value = loss(features, labels, weight)
        value.backward()
        optimiser.step()
        values.append(float(value.detach()))
    # The loss is quartic in the angle near its minimum, so that the way is long: 1/t² in t steps.
    assert values[-1] < 1e-3 * values[0]
    torch.testing.assert_close(
        F.normalize(features.detach(), dim=1), F.normalize(weight[labels], dim=1), atol=0.15, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    features, labels, weight = case()
    half = features.to(dtype), labels, weight.to(dtype)
    value = DotRegressionLoss("none")(*half)
    assert value.dtype == torch.float32
    torch.testing.assert_close(
        value.double(), by_hand(half[0].double(), labels, half[2].double(), 1.0), rtol=1e-5, atol=1e-6
    )


def test_a_zero_feature_has_a_finite_loss_and_gradient():
    _, labels, weight = case()
    zero = torch.zeros(N, DIM, dtype=torch.float64)
    assert torch.isfinite(DotRegressionLoss()(zero, labels, weight))
    assert torch.isfinite(gradient(DotRegressionLoss(), zero, labels, weight)).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": torch.zeros(N, 3)}, UsageError, r"features \(n, dim\) and weight \(k, dim\) do not fit"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, UsageError, r"labels must be integers of shape \(10,\)"),
        ({"labels": torch.zeros(N)}, UsageError, r"labels must be integers .* got torch.float32"),
        (
            {"labels": torch.full((N,), -1)},
            InputError,
            r"label -1 is out of range: the labels of 4 classes go from 0 to 3",
        ),
        ({"labels": torch.full((N,), K)}, InputError, r"label 4 is out of range"),
    ],
)
def test_wrong_data(change, error, message):
    given = dict(zip(("features", "labels", "weight"), case(), strict=True)) | change
    with pytest.raises(error, match=message):
        DotRegressionLoss()(**given)


@pytest.mark.parametrize("options", [{"reduction": "average"}, {"energy": 0.0}, {"energy": math.nan}])
def test_wrong_options(options):
    with pytest.raises(UsageError, match="must be"):
        DotRegressionLoss(**options)


def test_repr():
    assert repr(DotRegressionLoss(energy=2)) == "DotRegressionLoss(reduction='mean', energy=2, normalize=True)"
