"""Repair: exact statistics, goals that are met, what is left alone, and that nothing given is changed."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import weyl
from weyl.errors import MismatchError, NotFiniteError, UsageError
from weyl.matching._batches import Network
from weyl.merging import average, repair, reset_batch_norm
from weyl.merging._moments import Moments
from weyl.models import load_model


def data(shape, n=96, size=40, seed=0, shift=0.5):
    x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed)) + shift
    return list(x.split(size))


def mlp(act=nn.ReLU, bias=True, depth=4):
    torch.manual_seed(0)
    layers = [nn.Linear(6, 16, bias=bias), act()]
    for _ in range(depth - 2):
        layers += [nn.Linear(16, 16, bias=bias), act()]
    return nn.Sequential(*layers, nn.Linear(16, 3, bias=bias))


def fresh(model, seed):
    """Another state of a model: random weights, plausible statistics."""
    g = torch.Generator().manual_seed(seed)
    return {
        name: t.clone()
        if not t.is_floating_point()
        else t + 0.2 * torch.randn(t.shape, generator=g).abs()
        if name.endswith("running_var")
        else t + 0.3 * torch.randn(t.shape, generator=g)
        for name, t in model.state_dict().items()
    }


def shrunk(state, factor=0.3):
    """Weights that are too small, as those of an average are."""
    return {n: factor * t if t.is_floating_point() and "running" not in n else t for n, t in state.items()}


def outputs(model, state, name, batches):
    """All outputs of a layer, unit by unit, in float64."""
    twin = copy.deepcopy(model).double().eval()
    twin.load_state_dict(state)
    found = []
    layer = twin.get_submodule(name)
    dim = -1 if isinstance(layer, nn.Linear) else 1
    layer.register_forward_hook(lambda module, args, out: found.append(out.detach().movedim(dim, 0).flatten(1)))
    for x in batches:
        twin(x.double())
    return torch.cat(found, 1)


def missed(model, state, parents, weights, name, batches):
    """Relative deviations of mean and standard deviation from the goal."""
    several = [outputs(model, p, name, batches) for p in parents]
    mean = sum(w * o.mean(1) for w, o in zip(weights, several, strict=True))
    std = sum(w * o.std(1, correction=0) for w, o in zip(weights, several, strict=True))
    own = outputs(model, state, name, batches)
    return float(((own.mean(1) - mean) / std).abs().max()), float((own.std(1, correction=0) / std - 1).abs().max())


def equal(one, two):
    return list(one) == list(two) and all(torch.equal(t, two[n]) for n, t in one.items())


# moments


def test_moments_are_those_of_all_values_whatever_the_pieces():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5, 101, generator=g) * 1e-3 + 1e3
    found = Moments()
    for piece in x.split((1, 40, 0, 60), 1):
        found.add(Moments(piece))
    torch.testing.assert_close(found.mean, x.double().mean(1), rtol=1e-14, atol=0)
    torch.testing.assert_close(found.variance(), x.double().var(1), rtol=1e-9, atol=0)
    torch.testing.assert_close(found.deviation(), x.double().std(1, correction=0), rtol=1e-9, atol=0)
    # Control: the mean of squares less the square of the mean is off, even in float64.
    naive = x.double().square().mean(1) - x.double().mean(1).square()
    assert float((naive / x.double().var(1, correction=0) - 1).abs().max()) > 1e-6


# batch normalisation


def cnn():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(5, 4, 3),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4, 3),
    )


def test_one_batch_gives_what_torch_gives_with_cumulative_averages():
    model, (x,) = cnn(), data((2, 8, 8), n=30, size=30)
    state = fresh(model, 1)
    found = reset_batch_norm(model, state, [x])
    twin = cnn()
    twin.load_state_dict(state)
    twin.eval()
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    twin(x)
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
    # Control: before, the statistics were others.
    assert not torch.allclose(state["1.running_mean"], found["1.running_mean"], rtol=1e-2)


def test_statistics_of_unequal_batches_are_those_of_all_samples():
    model, batches = cnn(), data((2, 8, 8), n=31, size=14)
    state = fresh(model, 1)
    found = reset_batch_norm(model, state, batches)
    entered = F.conv2d(torch.cat(batches).double(), state["0.weight"].double()).movedim(1, 0).flatten(1)
    torch.testing.assert_close(found["1.running_mean"].double(), entered.mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["1.running_var"].double(), entered.var(1), rtol=1e-5, atol=1e-6)
    assert int(found["1.num_batches_tracked"]) == 3
    untouched = [name for name in state if "running" not in name and "tracked" not in name]
    assert equal({n: found[n] for n in untouched}, {n: state[n] for n in untouched})
    # Control: the mean of the variances of the batches is another number.
    means = torch.stack([e.var(1) for e in entered.split([36 * len(b) for b in batches], 1)]).mean(0)
    assert not torch.allclose(means, entered.var(1), rtol=1e-5)


def test_model_state_and_random_numbers_are_left_alone():
    model, batches = cnn(), data((2, 8, 8))
    model[1].eval()
    state = fresh(model, 1)
    kept, own = ({n: t.clone() for n, t in s.items()} for s in (state, model.state_dict()))
    modes = [m.training for m in model.modules()]
    loader = DataLoader(TensorDataset(torch.cat(batches)), batch_size=32, shuffle=True)
    random = torch.random.get_rng_state()
    structure = weyl.discover(model, (batches[0],))

    def whole():
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        same = equal(state, kept) and equal(model.state_dict(), own) and torch.equal(random, torch.get_rng_state())
        return same and not any(hooks) and [m.training for m in model.modules()] == modes

    reset_batch_norm(model, state, loader)
    assert whole()
    repair(structure, model, shrunk(state), [state, state], loader)
    assert whole()
    for bad in ([batches[0], batches[0][:, :1]], [batches[0], "x"]):
        with pytest.raises((RuntimeError, UsageError)):
            reset_batch_norm(model, state, bad)
        assert whole()
    # Control: the comparison sees a mode.
    model.eval()
    assert not whole()


def test_batch_norm_is_needed_and_batches_that_have_a_variance():
    with pytest.raises(UsageError, match="no batch normalisation to estimate anew: use repair='repair'"):
        reset_batch_norm(mlp(), mlp().state_dict(), data((6,)))
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    with pytest.raises(UsageError, match=r"'1' got a batch with one value a channel.*drop_last"):
        reset_batch_norm(model, model.state_dict(), data((6,), n=5, size=2))
    with pytest.raises(NotFiniteError, match="activations at '1'"):
        reset_batch_norm(model, model.state_dict(), [torch.full((4, 6), math.nan)])
    with pytest.raises(UsageError, match="data is empty"):
        reset_batch_norm(model, model.state_dict(), [])


def test_a_normalisation_under_two_names_and_one_without_statistics():
    shared = nn.BatchNorm1d(6)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.BatchNorm1d(6, track_running_stats=False))
    found = reset_batch_norm(model, model.state_dict(), data((6,), shift=3.0))
    assert torch.equal(found["0.running_mean"], found["2.running_mean"])
    assert bool((found["0.running_mean"] > 1.0).all())


# REPAIR

MODELS = {
    "mlp": (mlp, (6,)),
    "deep": (lambda: mlp(depth=8), (6,)),
    "tanh": (lambda: mlp(nn.Tanh), (6,)),
    "no bias": (lambda: mlp(bias=False), (6,)),
    "cnn": (lambda: load_model("cnn?widths=4-6&norm=none", seed=0).module, (1, 28, 28)),
    "batch norm in between": (
        lambda: nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
        ),
        (6,),
    ),
}


def case(name):
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model = make()
    if name == "cnn" and any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        pytest.fail("the built-in cnn is expected to have no batch normalisation")
    batches = data(shape)
    return model, batches, weyl.discover(model, (batches[0],))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.25, 0.75)])
def test_spoiled_statistics_are_brought_back(name, weights):
    model, batches, structure = case(name)
    parents = [fresh(model, 1), fresh(model, 2)]
    merged = shrunk(average(parents, weights))
    found = repair(structure, model, merged, parents, batches, weights=weights)
    assert found.layers and found.deviation <= 5e-4
    for layer in found.layers:
        before = missed(model, merged, parents, weights, layer, batches)
        after = missed(model, found.state, parents, weights, layer, batches)
        assert after[1] < 1e-3 < 0.3 < before[1]
        if name != "no bias":
            assert after[0] < 1e-3 < before[0]
    last = list(model.state_dict())[-1].rpartition(".")[0]
    assert torch.equal(found.state[f"{last}.weight"], merged[f"{last}.weight"])


@pytest.mark.parametrize("name", MODELS)
def test_equal_parents_are_not_changed(name):
    model, batches, structure = case(name)
    state = fresh(model, 1)
    if name == "batch norm in between":
        state = reset_batch_norm(model, state, batches)
    found = repair(structure, model, average([state, state]), [state, state], batches)
    assert found.passes == (2 if name == "batch norm in between" else 1)
    for n, t in state.items():
        torch.testing.assert_close(found.state[n], t, rtol=1e-6, atol=1e-6)
    # Control: others are.
    other = repair(structure, model, average([state, fresh(model, 2)]), [state, fresh(model, 2)], batches)
    assert not torch.equal(
        other.state[f"{other.layers[0]}.weight"], average([state, fresh(model, 2)])[f"{other.layers[0]}.weight"]
    )


def test_a_spoiled_linear_network_is_restored_exactly():
    """Scaling rows is all that was done to it, so that the repair undoes it."""
    model, batches, structure = case("deep")
    state = {n: t.double() for n, t in fresh(model, 1).items()}
    g = torch.Generator().manual_seed(0)
    spoiled = dict(state)
    for layer in range(0, 14, 2):
        rows = torch.rand(16, generator=g).double() + 0.2
        spoiled[f"{layer}.weight"] = state[f"{layer}.weight"] * rows[:, None]
        spoiled[f"{layer}.bias"] = state[f"{layer}.bias"] * rows + 1.0
    found = repair(structure, model, spoiled, [state], batches)
    assert len(found.layers) == 7
    x = torch.cat(batches).double()
    twin = copy.deepcopy(model).double()
    twin.load_state_dict(state)
    torch.testing.assert_close(torch.func.functional_call(twin, found.state, x), twin(x), rtol=1e-2, atol=1e-2)
    assert not torch.allclose(torch.func.functional_call(twin, spoiled, x), twin(x), rtol=0.1, atol=0.1)


def test_corrections_are_seen_downstream():
    """Correcting every layer by what it put out in the merged network would overshoot."""
    model, batches, structure = case("deep")
    state = fresh(model, 1)
    merged = shrunk(state)
    naive = dict(merged)
    for layer in range(0, 14, 2):
        own, goal = (outputs(model, s, str(layer), batches) for s in (merged, state))
        scale = (goal.std(1) / own.std(1)).float()
        naive[f"{layer}.weight"] = merged[f"{layer}.weight"] * scale[:, None]
        naive[f"{layer}.bias"] = merged[f"{layer}.bias"] * scale + (goal.mean(1) - scale * own.mean(1)).float()
    assert missed(model, naive, [state], (1.0,), "12", batches)[1] > 1.0
    found = repair(structure, model, merged, [state], batches)
    assert missed(model, found.state, [state], (1.0,), "12", batches)[1] < 1e-3


def test_without_a_bias_the_deviation_is_brought_back_alone():
    model, batches, structure = case("no bias")
    state = fresh(model, 1)
    found = repair(structure, model, shrunk(state), [state], batches)
    assert list(found.state) == list(state)
    assert missed(model, found.state, [state], (1.0,), "2", batches)[1] < 1e-3


def test_dead_and_constant_units_stay_finite():
    model, batches, structure = case("mlp")
    parents = [fresh(model, 1), fresh(model, 2)]
    parents[0]["0.weight"][3] = parents[1]["0.weight"][3] = 0.0
    parents[0]["0.weight"][4] = 0.0
    parents[1]["0.weight"][5] = -parents[0]["0.weight"][5]
    merged = average(parents)
    found = repair(structure, model, merged, parents, batches)
    assert all(bool(t.isfinite().all()) for t in found.state.values())
    # What does not vary cannot be made to: only its mean is right.
    assert not bool(found.state["0.weight"][[3, 5]].any())
    own = outputs(model, found.state, "0", batches).mean(1)
    goal = sum(outputs(model, p, "0", batches).mean(1) for p in parents) / 2
    torch.testing.assert_close(own, goal, rtol=1e-3, atol=1e-3)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.twice, self.once = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.tied, self.leave = nn.Linear(8, 8), nn.Linear(8, 3)
        self.tied.weight = self.once.weight
        self.plain = nn.Linear(8, 8)

    def forward(self, x):
        x = self.twice(self.enter(x).relu()).relu()
        x = self.tied(self.once(self.twice(x).relu()).relu()).relu()
        return self.leave(F.linear(x, self.plain.weight, self.plain.bias).relu())


def test_what_cannot_be_corrected_is_left_alone():
    model, batches = Shared(), data((6,))
    structure = weyl.discover(model, (batches[0],))
    state = {n: t.detach() for n, t in fresh(model, 1).items()}
    state["tied.weight"] = state["once.weight"]
    spoiled = shrunk(state)
    spoiled["tied.weight"] = spoiled["once.weight"]
    found = repair(structure, model, spoiled, [state], batches)
    assert found.layers == ("enter",)
    assert equal(
        {n: t for n, t in found.state.items() if "enter" not in n},
        {n: t for n, t in spoiled.items() if "enter" not in n},
    )


def test_a_layer_before_a_batch_normalisation_is_left_to_it():
    model, batches, structure = case("batch norm in between")
    state = fresh(model, 1)
    merged = shrunk(state)
    found = repair(structure, model, merged, [state], batches)
    assert found.layers == ("3",)
    assert torch.equal(found.state["0.weight"], merged["0.weight"])
    assert not torch.equal(found.state["1.running_var"], merged["1.running_var"])
    only = cnn()
    batches = data((2, 8, 8))
    structure = weyl.discover(only, (batches[0],))
    state = fresh(only, 2)
    both = repair(structure, only, state, [state], batches)
    assert both.layers == () and equal(both.state, reset_batch_norm(only, state, batches))


def test_running_averages_are_estimated_anew_and_weights_within_tolerance_are_not_changed():
    model, batches, structure = case("batch norm in between")
    stale = fresh(model, 1)
    settled = reset_batch_norm(model, stale, batches)
    same = repair(structure, model, settled, [settled, settled], batches)
    assert same.layers == ("3",) and equal(same.state, settled)
    # What lags behind is not kept, and other layers follow the parents as they are.
    lagging = repair(structure, model, stale, [stale, stale], batches)
    assert not torch.equal(lagging.state["1.running_mean"], stale["1.running_mean"])
    assert torch.equal(lagging.state["0.weight"], stale["0.weight"])
    assert not torch.equal(lagging.state["3.weight"], stale["3.weight"])


class Inplace(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.bn, self.b = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(self.bn(self.a(x).relu_()))


def test_a_normalisation_after_the_activation_does_not_do_it():
    model, batches = Inplace(), data((6,))
    structure = weyl.discover(model, (batches[0],))
    state = fresh(model, 1)
    assert repair(structure, model, shrunk(state), [state], batches).layers == ("a",)


def test_transformers_and_low_precision():
    model = load_model("transformer", seed=0).module
    ids = [torch.randint(0, 8, (12, 6), generator=torch.Generator().manual_seed(i)) for i in range(2)]
    structure = weyl.discover(model, (ids[0],))
    state = model.state_dict()
    spoiled = {n: 0.5 * t if "linear1" in n else t for n, t in state.items()}
    found = repair(structure, model, spoiled, [state], ids)
    assert any("linear1" in name for name in found.layers) and found.deviation <= 5e-4
    small, batches, structure = case("mlp")
    half = {n: t.bfloat16() for n, t in fresh(small, 1).items()}
    fixed = repair(structure, small, shrunk(half), [half], batches)
    assert fixed.state["0.weight"].dtype is torch.bfloat16 and fixed.deviation < 0.1


def test_what_is_refused():
    model, batches, structure = case("mlp")
    state = fresh(model, 1)
    with pytest.raises(MismatchError, match="do not fit"):
        repair(structure, model, state, [{n: t for n, t in state.items() if n != "0.bias"}], batches)
    with pytest.raises(UsageError, match="must sum to 1"):
        repair(structure, model, state, [state, state], batches, weights=(1.0, 1.0))
    with pytest.raises(UsageError, match="iterated once"):
        repair(structure, model, state, [state], iter(batches))
    single = nn.Sequential(nn.Linear(6, 3))
    with pytest.raises(UsageError, match="no layer that can be repaired"):
        repair(weyl.discover(single, (batches[0],)), single, single.state_dict(), [single.state_dict()], batches)
    with pytest.raises(NotFiniteError, match="activations at '0'"):
        repair(structure, model, state, [state], [batches[0] * math.inf])


def test_a_network_runs_with_buffers_in_the_precision_of_the_state():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)
            self.register_buffer("table", torch.ones(2, 2), persistent=False)

        def forward(self, x):
            return self.fc(x) @ self.table

    model = Scaled()
    state = {n: t.double() for n, t in model.state_dict().items()}
    assert Network(model, state).tensors["table"].dtype is torch.float64
    assert model.table.dtype is torch.float32
