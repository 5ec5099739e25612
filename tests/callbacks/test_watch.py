"""The watcher of a plain loop: it measures what a second pass would, and changes nothing."""

import copy
import random

import numpy as np
import pytest
import torch
from tests.callbacks.nets import DIM, INPUTS, K, assert_same, batches, data, hooks, measured, net
from torch import nn

from weyl.callbacks import scalars, watch
from weyl.errors import InputError, UsageError
from weyl.geometry import CollapseStatistics, collapse
from weyl.nn import SimplexHead


def observed(model, loader, **options):
    with watch(model, K, **options) as watcher:
        for inputs, labels in loader:
            model(inputs)
            watcher.observe(labels)
        return watcher.compute()


def test_measures_what_a_second_pass_measures():
    model = net()
    collapse = observed(model, batches())
    assert_same(collapse, measured(model, *data()))
    assert collapse.layer == "2" and collapse.samples == 45


def test_the_comparison_notices_a_missing_batch():
    model = net()
    with pytest.raises(AssertionError):
        assert_same(observed(model, batches()[:-1]), measured(model, *data()))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_any_grad_mode(mode):
    model = net()
    with mode():
        collapse = observed(model, batches())
    assert_same(collapse, measured(model, *data()))


def test_batches_in_and_out_of_inference_mode_add_up():
    model, loader = net(), batches()
    with watch(model, K) as watcher:
        for i, (inputs, labels) in enumerate(loader):
            with torch.inference_mode(i % 2 == 0):
                model(inputs)
                watcher.observe(labels)
        assert_same(watcher.compute(), measured(model, *data()))


def trained(watched, noise=True):
    """Parameters, losses and random state after some epochs."""
    model = nn.Sequential(*net(), nn.Identity())
    if noise:
        model.insert(2, nn.Dropout(0.3))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []

    def epoch(watcher):
        for inputs, labels in batches():
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            if watcher is not None:
                watcher.observe(labels)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        if watcher is not None:
            watcher.compute()
            assert all(module.training for module in model.modules())

    with torch.random.fork_rng():
        torch.manual_seed(7)
        for _ in range(3):
            if watched:
                with watch(model, K) as watcher:
                    epoch(watcher)
            else:
                epoch(None)
        state = torch.get_rng_state()
    return [p.detach() for p in model.parameters()], losses, state


def test_training_is_equal_to_the_last_bit():
    plain, losses, state = trained(watched=False)
    watched, watched_losses, watched_state = trained(watched=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert losses == watched_losses
    assert torch.equal(state, watched_state)
    # Were dropout to draw once more, it would show.
    assert trained(watched=False, noise=False)[1] != losses


def test_random_state_of_every_library_is_left_alone():
    model, loader = net(), batches()
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    observed(model, loader)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1]) and random.getstate() == before[2]


def test_inputs_are_not_changed():
    model, (inputs, labels) = net(), data()
    twin, kept = copy.deepcopy(model), (inputs.clone(), labels.clone())
    observed(model, [(inputs, labels)])
    assert torch.equal(inputs, kept[0]) and torch.equal(labels, kept[1])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_features_are_held_without_their_graph():
    model, inputs = net(), data()[0]
    with watch(model, K) as watcher:
        model(inputs)
        catch = watcher._tap.take()
        assert not catch.features.requires_grad and catch.features.grad_fn is None
        assert not catch.logits.requires_grad and catch.logits.grad_fn is None


def test_hooks_are_there_inside_only():
    model = net()
    with watch(model, K) as watcher:
        # one on the candidate, one on the model, whose result is compared
        assert hooks(model) == 2
        with pytest.raises(RuntimeError, match="stop"), watch(model, K):
            assert hooks(model) == 4
            raise RuntimeError("stop")
        assert hooks(model) == 2
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            model(torch.zeros(2, INPUTS + 1, dtype=torch.float64))
    assert hooks(model) == 0
    model(data()[0])
    with pytest.raises(UsageError, match="no classifier was called"):
        watcher.observe(data()[1])


def test_copies_and_saved_models_are_not_watched(tmp_path):
    model, (inputs, labels) = net(), data()
    with watch(model, K) as watcher:
        average = copy.deepcopy(model)
        torch.save(model, tmp_path / "whole.pt")
        loaded = torch.load(tmp_path / "whole.pt", weights_only=False)
        model(inputs)
        for other in (average, loaded):
            assert torch.equal(other(inputs.flip(0)), model(inputs.flip(0)))
        model(inputs)
        average(inputs.flip(0)), loaded(inputs.flip(0))
        replica = model[2]._replicate_for_data_parallel()
        replica.weight, replica.bias = model[2].weight, model[2].bias
        replica(torch.zeros(45, DIM, dtype=torch.float64))
        watcher.observe(labels)
        assert_same(watcher.compute(), measured(model, inputs, labels))


class Wide(nn.Module):
    """Several modules have a weight of k rows; the classifier is neither the first nor the last registered."""

    def __init__(self):
        super().__init__()
        self.classes = nn.Embedding(K, INPUTS)
        self.head = nn.Linear(INPUTS, K)
        self.gate = nn.Linear(INPUTS, K)

    def forward(self, x):
        gate = self.gate(x + self.classes(torch.zeros(len(x), dtype=torch.long)))
        return self.head(x * gate.mean(1, keepdim=True))


def test_the_classifier_is_the_candidate_called_last():
    model = Wide()
    inputs, labels = data(dtype=torch.float32)
    with watch(model, K) as watcher:
        assert watcher.layer is None and hooks(model) == 3
        model(inputs)
        watcher.observe(labels)
        assert watcher.layer == "head" and hooks(model) == 1
        assert watcher.compute().layer == "head"
    assert hooks(model) == 0
    assert observed(model, [(inputs, labels)], layer="gate").layer == "gate"


def test_a_lazy_classifier_is_found():
    model = nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(K))
    assert observed(model, batches(dtype=torch.float32)).layer == "2"


@pytest.mark.parametrize(
    "options", [{}, {"parameter_free": True}, {"trainable": True}, {"learn_scale": True, "bias": True}]
)
def test_simplex_heads_are_found(options):
    model = nn.Sequential(nn.Linear(INPUTS, DIM), nn.Tanh(), SimplexHead(DIM, K, **options))
    collapse = observed(model, batches(dtype=torch.float32))
    assert collapse.layer == "2" and collapse.nc3 is not None


def test_a_layer_without_a_weight_has_no_alignment():
    model = nn.Sequential(nn.Linear(INPUTS, K), nn.Tanh())
    collapse = observed(model, batches(dtype=torch.float32), layer="1")
    assert collapse.nc3 is None and "nc3" not in scalars(collapse)
    assert collapse.nc1 is not None


@pytest.mark.parametrize("wrap", ["parallel", "compiled"])
def test_names_behind_a_wrapper(wrap):
    model = net()
    if wrap == "parallel":
        wrapped = nn.Sequential()
        wrapped.add_module("module", model)
    else:
        wrapped = torch.compile(model, backend="eager")
    try:
        prefix = "module." if wrap == "parallel" else "_orig_mod."
        for options in ({}, {"layer": "2"}, {"layer": f"{prefix}2"}):
            collapse = observed(wrapped, batches(), **options)
            assert_same(collapse, measured(model, *data()))
            assert collapse.layer in ("2", f"{prefix}2")
    finally:
        torch.compiler.reset()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_models_of_other_precision(dtype):
    model, loader = net(dtype=dtype), batches(size=45, dtype=dtype)
    expected = measured(model, loader[0][0], loader[0][1])
    assert_same(observed(model, loader), expected)
    assert_same(observed(model, loader), measured(net(), *data()), rel=0.3)


def test_autocast_around_the_whole_loop():
    model, loader = net(dtype=torch.float32), batches(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16), watch(model, K) as watcher:
        for inputs, labels in loader:
            assert model(inputs).dtype == torch.bfloat16
            watcher.observe(labels)
        found = watcher.compute()
    features, logits, labels = [], [], data()[1]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for inputs, _ in loader:
            features.append(model[1](model[0](inputs)))
            logits.append(model[2](features[-1]))
    # The same rounded features, measured outside of autocast; and one metric by hand.
    h, z = torch.cat(features), torch.cat(logits)
    assert h.dtype == torch.bfloat16
    assert_same(found, CollapseStatistics(K, DIM).update(h, labels, z).compute(model[2].weight, model[2].bias))
    h = h.double()
    means = torch.stack([h[labels == c].mean(0) for c in range(K)])
    within = (h - means[labels]).square().sum() / len(h)
    between = (means - means.mean(0)).square().sum() / K
    assert found.nc1_ratio == pytest.approx(float(within / between), rel=1e-9)
    assert found.accuracy == pytest.approx(float((z.argmax(1) == labels).double().mean()))


def test_every_second_batch():
    model, loader = net(), batches(n=40)
    inputs, labels = (torch.cat(part) for part in zip(*loader[::2], strict=True))
    with watch(model, K, every=2) as watcher:
        for _ in range(2):
            for x, y in loader:
                model(x)
                watcher.observe(y)
            assert watcher.count == 20
            assert_same(watcher.compute(), measured(model, inputs, labels))
            assert watcher.count == 0


def test_each_epoch_starts_anew():
    model = net()
    first, second = batches(seed=1), batches(seed=2)
    with watch(model, K) as watcher:
        for loader, seed in ((first, 1), (second, 2)):
            for inputs, labels in loader:
                model(inputs)
                watcher.observe(labels)
            assert_same(watcher.compute(), measured(model, *data(seed=seed)))


def test_labels_to_ignore_and_labels_of_tokens():
    model, (inputs, labels) = net(), data(48)
    tokens, marked = inputs.reshape(6, 8, INPUTS), labels.clone()
    marked[::5] = -100
    with watch(model, K) as watcher:
        model(tokens)
        watcher.observe(marked.reshape(6, 8))
        assert_same(watcher.compute(), measured(model, inputs[marked >= 0], marked[marked >= 0]))
        model(tokens)
        with pytest.raises(InputError, match="label 7 is out of range"):
            watcher.observe(torch.full((6, 8), 7))


def test_a_batch_without_samples():
    model = net()
    empty = (torch.zeros(0, INPUTS, dtype=torch.float64), torch.zeros(0, dtype=torch.long))
    assert_same(observed(model, [empty, *batches(), empty]), measured(model, *data()))


def test_wrong_use():
    model, (inputs, labels) = net(), data()
    with pytest.raises(UsageError, match=r"Sequential has no module with a weight of shape \(7, d\)"):
        watch(model, 7)
    with pytest.raises(UsageError, match=r"the model has no layer 'head'"):
        watch(model, K, "head")
    with pytest.raises(UsageError, match=r"did you mean 'encoder\.final'"):
        watch(nn.ModuleDict({"encoder": nn.ModuleDict({"final": model})}), K, "encoder.finl")
    for every in (0, -1, 1.5, True):
        with pytest.raises(UsageError, match="every must be a positive integer"):
            watch(model, K, every=every)
    with watch(model, K) as watcher:
        with pytest.raises(InputError, match="nothing was observed"):
            watcher.compute()
        model(inputs)
        watcher.observe(labels)
        with pytest.raises(UsageError, match="no classifier was called since the last labels"):
            watcher.observe(labels)
        model(inputs)
        with pytest.raises(UsageError, match=r"labels of shape \(7,\) do not fit features \(45, 6\)"):
            watcher.observe(labels[:7])
        model(inputs)
        with pytest.raises(UsageError, match="soft labels have no class"):
            watcher.observe(torch.zeros(45, K))


class Pages:
    """A writer that remembers."""

    def __init__(self):
        self.lines = []

    def add_scalar(self, tag, value, step):
        self.lines.append((tag, value, step))


def test_scalars_go_to_the_writer():
    model, writer = net(), Pages()
    with watch(model, K, writer=writer, tag="probe") as watcher:
        for step in (None, None, 17):
            model(data()[0])
            watcher.observe(data()[1])
            collapse = watcher.compute(step)
    found = scalars(collapse, "probe/")
    assert writer.lines == [(tag, value, step) for step in (0, 1, 17) for tag, value in found.items()]


def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    model = net()
    with SummaryWriter(str(tmp_path)) as writer, watch(model, K, writer=writer) as watcher:
        model(data()[0])
        watcher.observe(data()[1])
        collapse = watcher.compute(step=4)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == set(scalars(collapse, "collapse/"))
    event = events.Scalars("collapse/nc1")[0]
    assert event.step == 4 and event.value == pytest.approx(collapse.nc1)


def test_logits_that_are_changed_in_place_after_the_pass_are_copied():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    x, y = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    with torch.no_grad(), watch(net, 3) as watcher:
        z = net(x)
        z.mul_(-5)
        watcher.observe(y)
        found = watcher.compute()
    expected = collapse(net, [(x, y)])
    assert found.risk == pytest.approx(expected.risk) and found.accuracy == expected.accuracy


def test_a_head_that_is_no_module_is_not_replaced_by_a_layer_of_its_width():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.matrix = nn.Linear(4, 3), nn.Parameter(torch.ones(3, 3))

        def forward(self, x):
            return self.body(x).relu() @ self.matrix

    net = Functional()
    with watch(net, 3) as watcher:
        net(torch.ones(5, 4))
        with pytest.raises(UsageError, match="name it with layer="):
            watcher.observe(torch.zeros(5, dtype=torch.int64))
    with watch(net, 3, layer="body") as watcher:
        net(torch.ones(5, 4))
        watcher.observe(torch.zeros(5, dtype=torch.int64))
