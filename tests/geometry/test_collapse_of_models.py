"""weyl.collapse on models of every kind: what it measures, what it leaves alone, what it refuses."""

from collections import UserDict
from dataclasses import dataclass

import pytest
import torch
from tests.geometry import oracle
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import weyl
from weyl.errors import InputError, UsageError, WeylError
from weyl.geometry import CollapseStatistics


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def seeded(make):
    """Build a model without touching the global random state."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def mlp():
    return seeded(lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3)))


X = torch.randn(50, 6, generator=generator())
Y = torch.arange(50) % 3
LOADER = [(X[:20], Y[:20]), (X[20:], Y[20:])]
IMAGES = torch.randn(50, 2, 8, 8, generator=generator())
IMAGE_LOADER = [(IMAGES[:20], Y[:20]), (IMAGES[20:], Y[20:])]


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(5, 3)

    def features(self, x):
        return self.norm(self.conv(x)).relu().mean((2, 3))

    def forward(self, x):
        return self.fc(self.drop(self.features(x)))


def check(found, features, logits, labels=Y, head=None, tolerance=1e-6):
    """Against the oracle, fed with features that were computed by hand."""
    weight, bias = (None, None) if head is None else (head.weight.detach(), head.bias.detach())
    expected = oracle.measure(
        features.detach().double(), labels, 3, None if logits is None else logits.detach().double(), weight, bias
    )
    for name, value in expected.items():
        if name not in ("pair_defect", "gram", "residual", "means"):
            assert getattr(found, name) == pytest.approx(value, rel=tolerance, abs=1e-9), name


def test_mlp_against_the_oracle():
    model = mlp()
    found = weyl.collapse(model, LOADER)
    check(found, model[:4](X), model(X), head=model[4])
    assert (found.layer, found.dim, found.samples, found.layers) == ("4", 7, 50, {})


def test_cnn_against_the_oracle():
    model = seeded(Cnn)
    model.norm.running_mean += 0.3
    found = weyl.collapse(model, IMAGE_LOADER, layers=["conv", "norm"])
    model.eval()
    check(found, model.features(IMAGES), model(IMAGES), head=model.fc)
    check(found.layers["conv"], model.conv(IMAGES).mean((2, 3)), None)
    check(found.layers["norm"], model.norm(model.conv(IMAGES)).mean((2, 3)), None)
    assert found.layers["conv"].layer == "conv" and found.layers["conv"].nc3 is None


def test_named_layers_in_the_same_pass():
    model = mlp()
    calls = []
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    found = weyl.collapse(model, LOADER, layers=["0", "1", "2"])
    hook.remove()
    assert len(calls) == len(LOADER) + 1  # one more to find the classifier
    for name in ("0", "1", "2"):
        check(found.layers[name], model[: int(name) + 1](X), None)
    assert set(found.layers) == {"0", "1", "2"}


@pytest.mark.parametrize("layer", ["0", "2"])
def test_what_is_changed_in_place_later_is_measured_as_it_was(layer):
    model = seeded(
        lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(inplace=True), nn.Linear(9, 7), nn.ReLU(True), nn.Linear(7, 3))
    )
    found = weyl.collapse(model, LOADER, layers=[layer])
    check(found.layers[layer], model[: int(layer) + 1](X).clone(), None)


class ChangesLogits(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x):
        features = self.body(x)
        logits = self.head(features)
        features.zero_()
        logits -= 3 * logits.amax(1, keepdim=True)
        logits[:, 0] = 0
        return logits


def test_logits_and_features_that_are_changed_in_place_afterwards():
    model = seeded(ChangesLogits)
    with pytest.raises(InputError, match="'head' ran last, and the model returns something else"):
        weyl.collapse(model, LOADER)
    for options in ({"num_classes": 3}, {"classifier": "head"}):
        found = weyl.collapse(model, LOADER, **options)
        check(found, model.body(X), model.head(model.body(X)), head=model.head)


@dataclass
class Output:
    logits: torch.Tensor


class Wrapped(nn.Module):
    """An MLP behind an unusual interface."""

    def __init__(self, kind):
        super().__init__()
        self.net, self.kind = mlp(), kind

    def forward(self, x, other=None):
        z = self.net(x if other is None else x + other)
        return {
            "dict": {"logits": z, "loss": None},
            "object": Output(z),
            "log_softmax": z.log_softmax(1),
            "tuple": (z, x),
            "nothing": None,
        }[self.kind]


@pytest.mark.parametrize("kind", ["dict", "object", "log_softmax", "tuple", "nothing"])
def test_what_the_model_returns_does_not_matter(kind):
    model = Wrapped(kind)
    found = weyl.collapse(model, LOADER)
    check(found, model.net[:4](X), model.net(X), head=model.net[4])
    assert found.layer == "net.4"


def batches(kind):
    rest = torch.full_like(X, 0.25)
    for part in (slice(0, 20), slice(20, 50)):
        yield {
            "tuple of arguments": ((X[part] - 0.25, rest[part]), Y[part]),
            "list of arguments": [[X[part] - 0.25, rest[part]], Y[part]],
            "dict": {"x": X[part] - 0.25, "other": rest[part], "labels": Y[part]},
            "mapping": UserDict(x=X[part] - 0.25, other=rest[part], labels=Y[part]),
            "dict and labels": ({"x": X[part] - 0.25, "other": rest[part]}, Y[part]),
        }[kind]


@pytest.mark.parametrize("kind", ["tuple of arguments", "list of arguments", "dict", "mapping", "dict and labels"])
def test_batches_of_every_form_and_generators(kind):
    model = Wrapped("tuple")
    found = weyl.collapse(model, batches(kind))
    check(found, model.net[:4](X), model.net(X), head=model.net[4], tolerance=1e-4)


def test_a_dict_batch_is_left_alone():
    batch = {"x": X, "labels": Y}
    weyl.collapse(Wrapped("dict"), [batch])
    assert set(batch) == {"x", "labels"}


def test_a_data_loader():
    model = mlp()
    found = weyl.collapse(model, DataLoader(TensorDataset(X, Y), batch_size=7, shuffle=True, generator=generator(3)))
    check(found, model[:4](X), model(X), head=model[4])


class KeywordHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x):
        return self.head(input=self.body(x).relu())


def test_a_classifier_that_is_called_with_a_keyword():
    model = seeded(KeywordHead)
    found = weyl.collapse(model, LOADER)
    assert (found.layer, found.dim) == ("head", 7)
    check(found, model.body(X).relu(), model(X), head=model.head)


class Auxiliary(nn.Module):
    """The last linear layer that runs is not the classifier."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.projection = nn.Linear(6, 7), nn.Linear(7, 3), nn.Linear(7, 5)

    def forward(self, x):
        h = self.body(x)
        return self.head(h), self.projection(h)


def test_the_number_of_classes_finds_the_classifier():
    model = seeded(Auxiliary)
    assert weyl.collapse(model, LOADER, num_classes=3).layer == "head"
    with pytest.raises(InputError, match="no layer with a matrix of 4 rows makes"):
        weyl.collapse(model, LOADER, num_classes=4)


# --- what must be left as it was ---


def test_modes_buffers_hooks_and_random_state_are_left_alone():
    model = seeded(Cnn).train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    state = torch.get_rng_state()
    inputs = [t.clone() for batch in IMAGE_LOADER for t in batch]
    first = weyl.collapse(model, IMAGE_LOADER, layers=["conv"], bootstrap=20)
    assert torch.equal(torch.get_rng_state(), state)
    assert modes == {name: module.training for name, module in model.named_modules()}
    assert set(modes.values()) == {True, False}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(old, new) for old, new in zip(inputs, (t for b in IMAGE_LOADER for t in b), strict=True))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    # Dropout was off: twice the same.
    assert weyl.collapse(model, IMAGE_LOADER).nc4 == first.nc4 and first.nc1 == weyl.collapse(model, IMAGE_LOADER).nc1
    model.train()
    assert not torch.equal(model(IMAGES), model(IMAGES))


class Fails(nn.Module):
    def __init__(self, at):
        super().__init__()
        self.net, self.at, self.calls = mlp(), at, 0

    def forward(self, x):
        self.calls += 1
        if self.calls == self.at:
            raise RuntimeError("planted")
        return self.net(x)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_error_in_the_model_leaves_no_hooks_and_the_mode(at):
    model = Fails(at).train()
    with pytest.raises(RuntimeError, match="planted"):
        weyl.collapse(model, LOADER, layers=["net.1"])
    assert model.training and model.net.training
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.is_grad_enabled()


def test_an_error_in_the_data_leaves_no_hooks_and_the_mode():
    model = mlp().train()
    with pytest.raises(InputError, match="label 7 is out of range"):
        weyl.collapse(model, [(X, Y), (X, torch.full_like(Y, 7))])
    assert model.training and not any(module._forward_hooks for module in model.modules())


# --- precision and devices ---


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_inputs_move_to_the_precision_of_the_model(dtype):
    model = mlp().to(dtype)
    found = weyl.collapse(model, LOADER)
    parts = [model[:4](x.to(dtype)) for x, _ in LOADER]
    check(found, torch.cat(parts), torch.cat([model[4](h) for h in parts]), head=model[4].double())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_batches_move_to_the_device_of_the_model():
    expected = weyl.collapse(mlp().double(), LOADER, layers=["1"], bootstrap=20, ood=[X + 1])
    found = weyl.collapse(mlp().double().cuda(), LOADER, layers=["1"], bootstrap=20, ood=[X + 1])
    for row, other in zip(found.rows(), expected.rows(), strict=True):
        assert row["value"] == pytest.approx(other["value"], rel=1e-8, abs=1e-12)
    assert found.layers["1"].nc1 == pytest.approx(expected.layers["1"].nc1, rel=1e-8)


# --- options reach the statistics ---


def test_options_are_those_of_the_statistics():
    model = mlp()
    options = {"prior": [1.0, 2.0, 3.0], "bootstrap": 20, "seed": 3, "names": ["a", "b", "c"]}
    found = weyl.collapse(model, LOADER, class_weights=[1, 2, 3], keep=60, ood=[X + 3, (X - 1, Y)], **options)
    stats = CollapseStatistics(3, 7, class_weights=[1, 2, 3], keep=60)
    with torch.no_grad():
        for x, y in LOADER:
            stats.update(model[:4](x), y, model(x))
        shift = torch.cat([model[:4](X + 3), model[:4](X - 1)]).double().mean(0)
        expected = stats.compute(model[4].weight, model[4].bias, ood=shift, **options)
    assert (found.prior, found.class_weights, found.kept) == (expected.prior, expected.class_weights, expected.kept)
    for row, other in zip(found.rows(), expected.rows(), strict=True):
        for column in ("value", "chance", "floor", "low", "high"):
            assert row[column] == (other[column] and pytest.approx(other[column], rel=1e-6)), (row, column)
    assert found.classes == ("a", "b", "c") and found.nc5 is not None and found.intervals


def test_more_classes_than_the_data_have():
    found = weyl.collapse(mlp(), [(X[Y != 1], Y[Y != 1])])
    assert (found.classes, found.absent) == (("0", "2"), ("1",))


# --- refusals ---


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x):
        return self.head(self.body(x)[:, None].expand(-1, 4, -1)).mean(1)


class Skips(nn.Module):
    """A layer that runs on the first batch only."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.calls = nn.Linear(6, 6), nn.Linear(6, 3), 0

    def forward(self, x):
        self.calls += 1
        return self.head(self.body(x) if self.calls < 3 else x)


class Tuples(nn.Module):
    def __init__(self):
        super().__init__()
        self.odd, self.head = Wrapped("dict"), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.odd(x)["logits"])


NAN = X.clone()
NAN[3, 1] = float("nan")
REFUSED = {
    "unknown layer": (mlp, LOADER, {"layers": ["5"]}, "layer '5' is not in the model; it has 0, 1, 2, 3, 4"),
    "empty name": (mlp, LOADER, {"layers": [""]}, "layer '' is not in the model"),
    "no batches": (mlp, [], {}, "the loader gives no batches"),
    "no labels": (mlp, [X], {}, "a batch has no labels"),
    "no labels in a dict": (lambda: Wrapped("dict"), [{"x": X}], {}, "a batch has no labels"),
    "no classifier": (lambda: nn.Sequential(nn.ReLU()), LOADER, {}, "no classifier found"),
    "sequences": (
        Sequence,
        LOADER,
        {"classifier": "head"},
        r"features of shape \(n, d\) must enter 'head', got \(20, 4, 7\)",
    ),
    "a layer that stops running": (Skips, LOADER, {"layers": ["body"]}, "layer 'body' did not run"),
    "a layer without a tensor": (Tuples, LOADER, {"layers": ["odd"]}, "layer 'odd' returns dict"),
    "label out of range": (mlp, [(X, Y + 1)], {}, "label 3 is out of range"),
    "no ood batches": (mlp, LOADER, {"ood": []}, "no samples: the out-of-distribution loader"),
    "ood batches without rows": (mlp, LOADER, {"ood": [X[:0]]}, "no samples"),
    "ood of NaN alone": (mlp, LOADER, {"ood": [X * float("nan")]}, "no samples"),
    "only NaN": (mlp, [(X * float("nan"), Y)], {}, "no samples"),
    "wrong names": (mlp, LOADER, {"names": ["a"]}, "names must be 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_measured_is_refused(case):
    make, loader, options, message = REFUSED[case]
    model = seeded(make)
    with pytest.raises(WeylError, match=message) as raised:
        weyl.collapse(model, loader, **options)
    assert "\n" not in str(raised.value)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_classifier_among_the_named_layers_is_not_dropped_silently():
    """Its output is measured like that of any other layer, or the call is refused."""
    model = mlp()
    try:
        found = weyl.collapse(model, LOADER, layers=["4"])
    except UsageError as error:
        assert "'4'" in str(error)
    else:
        check(found.layers["4"], model(X), None)


def test_nan_rows_are_left_out_of_data_and_ood():
    model = mlp()
    clean = torch.arange(50) != 3
    found = weyl.collapse(model, [(NAN, Y)], ood=[NAN + 1])
    expected = weyl.collapse(model, [(X[clean], Y[clean])], ood=[X[clean] + 1])
    assert found.left_out == 1 and found.samples == 49
    assert found.nc1 == pytest.approx(expected.nc1, rel=1e-9) and found.nc5 == pytest.approx(expected.nc5, rel=1e-6)


def test_progress_goes_to_stderr(capsys):
    weyl.collapse(mlp(), LOADER, progress=True)
    assert not capsys.readouterr().out
    weyl.collapse(mlp(), LOADER, progress=False)
    assert capsys.readouterr() == ("", "")


class Squeezed(nn.Module):
    """Its last linear layer gates features; a convolution makes the logits."""

    def __init__(self):
        super().__init__()
        self.gate, self.head = nn.Linear(7, 7), nn.Conv1d(7, 3, 1)

    def forward(self, x):
        return self.head((x * self.gate(x).sigmoid())[..., None])[..., 0]


class Functional(nn.Module):
    """A hidden layer as wide as there are classes, and a head that is no module."""

    def __init__(self):
        super().__init__()
        self.body, self.matrix = nn.Linear(7, 3), nn.Parameter(torch.randn(3, 3))

    def forward(self, x):
        return self.body(x).relu() @ self.matrix


@pytest.mark.parametrize("kind", [Squeezed, Functional])
def test_a_layer_that_makes_something_else_is_not_taken_for_the_classifier(kind):
    model = seeded(kind)
    with pytest.raises(InputError, match="no classifier found"):
        weyl.collapse(model, [(torch.ones(4, 7), torch.arange(4) % 3)])


def test_a_classifier_that_is_not_there():
    with pytest.raises(UsageError, match="classifier '9' is not in the model"):
        weyl.collapse(mlp(), LOADER, classifier="9")
