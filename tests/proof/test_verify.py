"""The proof: it holds where it should, denies what is false, and says when it cannot know."""

import dataclasses
import json

import pytest
import torch
from torch import nn

import weyl
from weyl.groups import Space
from weyl.proof._watch import Watch
from weyl.structure import Units


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build()


def mlp(activation=nn.ReLU):
    return seeded(lambda: nn.Sequential(nn.Linear(4, 6), activation(), nn.Linear(6, 5), activation(), nn.Linear(5, 3)))


X = (torch.tensor([[1.0, 2.0, 0.5, -1.0], [0.5, 0.25, -3.0, 4.0]]),)


def test_relu_network_is_exact():
    proof = weyl.verify(mlp(), X)
    assert proof.holds
    assert proof.exact is True
    assert proof.max_relative_error < proof.tolerance < 1e-11
    assert proof.control.detected
    assert proof.control.relative_error > 100 * proof.tolerance
    assert proof.float32_error < 1e-5


def test_tanh_is_not_exact_on_integers():
    proof = weyl.verify(mlp(nn.Tanh), X)
    assert proof.holds
    assert proof.exact is None


def test_a_false_symmetry_fails():
    model = mlp()
    structure = weyl.discover(model, X)
    output = Space("output", 3)
    axes = dict(structure.axes) | {"4.weight": (Units("output", 3), structure.axes["4.weight"][1])}
    axes["4.bias"] = (Units("output", 3),)
    false = dataclasses.replace(structure, spaces=(*structure.spaces, output), axes=axes)
    proof = weyl.verify(model, X, structure=false)
    assert proof.verdict == "fails"
    assert not proof.holds
    assert proof.exact is False
    assert "changed the output" in proof.reason


def test_a_structure_of_another_model_fails():
    other = weyl.discover(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), X)
    model = nn.Sequential(nn.Linear(4, 6), Cumulate(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    assert weyl.verify(model, X, structure=other).verdict == "fails"


class Cumulate(nn.Module):
    def forward(self, x):
        return x.cumsum(-1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_inconclusive(bad):
    model = mlp()
    with torch.no_grad():
        model[0].weight[0, 0] = bad
    assert int(weyl.discover(model, X).group.order) == 720 * 120
    proof = weyl.verify(model, X)
    assert proof.verdict == "inconclusive"
    assert "0.weight" in proof.reason
    assert json.loads(json.dumps(proof.to_dict(), allow_nan=False))["max_relative_error"] is None


def test_meta_weights_are_inconclusive():
    model = mlp().to("meta")
    proof = weyl.verify(model, (X[0].to("meta"),))
    assert (proof.verdict, proof.trials) == ("inconclusive", 0)


@pytest.mark.parametrize("seed", range(8))
def test_small_networks_are_proved_too(seed):
    """Three ReLU units are often silent on two inputs; the wrong element must be shown where they are not."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    assert weyl.verify(model, (torch.randn(2, 4, generator=torch.Generator().manual_seed(seed)),), seed=seed).holds


class Silent(nn.Module):
    """Returns zeros whatever its weights are: no check can see anything there."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(6, 3)

    def forward(self, x):
        return self.b(torch.relu(self.a(x))) * 0


def test_when_the_wrong_element_goes_unseen_nothing_is_claimed():
    proof = weyl.verify(Silent(), X)
    assert proof.verdict == "inconclusive"
    assert not proof.control.detected


def test_a_trivial_group_is_checked_as_well():
    proof = weyl.verify(nn.Linear(4, 3), X)
    assert proof.holds
    assert "trivial" in proof.reason
    assert proof.control.detected


class Casts(nn.Module):
    """Computes in float32 inside, as RMS norms of language models do."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(6, 3)

    def forward(self, x):
        h = self.a(x)
        h = h.to(torch.float32).softmax(-1).to(h.dtype)
        return self.b(h)


def test_casts_inside_do_not_blunt_the_proof():
    proof = weyl.verify(Casts(), X)
    assert proof.holds
    assert proof.precision == "float64"
    assert proof.tolerance < 1e-11


class Mixed(nn.Module):
    """Keeps a plain float32 tensor and makes another one in its forward pass."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(6, 3)
        self.t = torch.linspace(0.1, 0.7, 4)

    def forward(self, x):
        ramp = torch.linspace(1.0, 2.0, 6, dtype=torch.float32).mean()
        return self.b(torch.tanh(self.a(x @ torch.diag(self.t))) * ramp)


def test_float32_constants_are_taken_to_float64():
    proof = weyl.verify(Mixed(), X)
    assert (proof.verdict, proof.precision) == ("holds", "float64")
    assert proof.max_relative_error < 1e-14


class OnlyFloat32(nn.Module):
    """An operator that refuses every other precision."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(6, 3)

    def forward(self, x):
        h = self.a(x)
        if h.dtype is not torch.float32:
            raise RuntimeError("only float32 here")
        return self.b(torch.tanh(h))


def test_where_float64_does_not_run_the_tolerance_says_so():
    proof = weyl.verify(OnlyFloat32(), X)
    assert (proof.verdict, proof.precision) == ("holds", "float32")
    assert 1e-5 < proof.tolerance < 1e-2
    assert proof.exact is None


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(6, 3)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x + torch.randn_like(x))))


def test_noise_is_the_same_before_and_after():
    model = Noisy()
    before = torch.random.get_rng_state()
    assert weyl.verify(model, X).holds
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_difference_in_the_last_bit_fails(monkeypatch):
    monkeypatch.setattr("weyl.proof._verify.Run._exact", lambda self: False)
    proof = weyl.verify(mlp(), X)
    assert proof.verdict == "fails"
    assert "last bit" in proof.reason


@pytest.mark.parametrize("given", [{}, {"structure": weyl.Structure((), {})}])
def test_wrong_calls_are_refused_in_one_line(given):
    with pytest.raises(weyl.InputError, match="tuple"):
        weyl.verify(mlp(), X[0], **given)
    with pytest.raises(weyl.InputError, match="does not accept"):
        weyl.verify(mlp(), (torch.zeros(2, 5),), **given)
    with pytest.raises(weyl.InputError, match="meta"):
        weyl.verify(mlp(), (X[0].to("meta"),), **given)


def test_fresh_zeros_hide_nothing():
    """A zero-initialised last layer makes the output constant; weights in general position do not."""
    model = mlp()
    nn.init.zeros_(model[4].weight)
    proof = weyl.verify(model, X)
    assert proof.holds
    assert proof.control.detected


def without(structure, name):
    """A structure that has forgotten one tensor."""
    axes = {n: a for n, a in structure.axes.items() if n != name}
    weights = {g: {n: w for n, w in tensors.items() if n != name} for g, tensors in structure.weights.items()}
    return dataclasses.replace(structure, axes=axes, weights=weights)


def test_batchnorm_statistics_are_moved_too():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)))
    assert weyl.verify(model, X).holds
    structure = weyl.discover(model, X)
    forgotten = without(structure, "1.running_mean")
    proof = weyl.verify(model, X, structure=forgotten)
    assert proof.verdict == "fails"
    assert all(proof.kinds[move].max_relative_error > proof.tolerance for move in ("permute", "sign", "scale"))


def test_dictionaries_and_chosen_outputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 6)
            self.b = nn.Linear(6, 3)

        def forward(self, x):
            h = torch.tanh(self.a(x))
            return {"logits": self.b(h), "hidden": h}

    model = seeded(Two)
    assert weyl.discover(model, X).group.trivial
    logits = weyl.discover(model, X, output=lambda result: result["logits"])
    assert int(logits.group.order) == 720 * 2**6
    assert weyl.verify(model, X, structure=logits, output=lambda result: result["logits"]).holds
    assert weyl.verify(model, X, structure=logits).verdict == "fails"


def test_trials_must_be_positive():
    with pytest.raises(weyl.InputError, match="at least 1"):
        weyl.verify(mlp(), X, trials=0)


def test_watch_sees_rounding():
    with Watch(exact=True) as watch:
        torch.ones(3, dtype=torch.float64) * 3 + 1
    assert watch.all_exact
    with Watch(exact=True) as watch:
        torch.ones(3, dtype=torch.float64) / 3
    assert not watch.all_exact
