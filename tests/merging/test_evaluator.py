"""Judging states: means over samples, precision, forms of batches, and a network that is left as it was."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from weyl.errors import MismatchError, UsageError
from weyl.merging import Evaluation, evaluator


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.9), nn.Linear(6, 3))


def samples(n=23):
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 4, generator=g), torch.randint(0, 3, (n,), generator=g)


def split(x, y, size=5):
    return list(zip(x.split(size), y.split(size), strict=True))


def test_batches_of_unequal_size_give_the_mean_over_samples():
    model, (x, y) = net(), samples()
    found = evaluator(model, split(x, y))(model.state_dict())
    model.eval()
    logits = model(x).detach()
    assert float(found) == found.mean() == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-6)
    assert found.mean("accuracy") == pytest.approx(float((logits.argmax(1) == y).double().mean()))
    assert found.sizes.tolist() == [5, 5, 5, 5, 3]
    assert found.batches["loss"][4] == pytest.approx(float(F.cross_entropy(logits[20:], y[20:])), rel=1e-6)
    # Control: the plain mean of the batches is another number.
    assert found.batches["loss"].mean() != pytest.approx(float(found), rel=1e-6)
    assert set(found.means) == {"loss", "accuracy"} and "23 samples in 5 batches" in repr(found)
    with pytest.raises(UsageError, match="'f1' was not measured; there are 'loss', 'accuracy'"):
        found.mean("f1")


def test_the_given_state_counts_and_in_its_precision():
    model, (x, y) = net(), samples()
    judge = evaluator(model, [(x, y)])
    state = model.state_dict()
    other = {name: t * 2 if t.is_floating_point() else t for name, t in state.items()}
    assert float(judge(state)) != float(judge(other))
    double = {name: t.double() if t.is_floating_point() else t for name, t in other.items()}
    twin = net().double()
    twin.load_state_dict(double)
    exact = F.cross_entropy(twin.eval()(x.double()), y).item()
    assert float(judge(double)) == pytest.approx(exact, rel=1e-14)
    assert float(judge(other)) != exact
    half = {name: t.bfloat16() if t.is_floating_point() else t for name, t in other.items()}
    assert float(judge(half)) == pytest.approx(exact, rel=0.05)


def snapshot(model):
    return [(m, m.training) for m in model.modules()], {n: t.clone() for n, t in model.state_dict().items()}


def unchanged(model, before):
    modes, state = before
    return all(m.training == mode for m, mode in modes) and all(
        torch.equal(t, state[n]) for n, t in model.state_dict().items()
    )


def test_model_state_and_random_numbers_are_left_as_they_were():
    model, (x, y) = net(), samples()
    model[1].eval()
    before = snapshot(model)
    loader = DataLoader(TensorDataset(x, y), batch_size=5, shuffle=True)
    state = {n: t.clone() + 1 for n, t in model.state_dict().items()}
    kept = {n: t.clone() for n, t in state.items()}
    random = torch.random.get_rng_state()
    first = evaluator(model, loader)(state)
    assert torch.equal(random, torch.random.get_rng_state())
    assert unchanged(model, before) and all(torch.equal(kept[n], t) for n, t in state.items())
    # So a shuffled loader gives the same batches again.
    assert np.array_equal(first.batches["loss"], evaluator(model, loader)(state).batches["loss"])

    def fail(outputs, targets):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        evaluator(model, loader, loss=fail)(state)
    assert unchanged(model, before)
    # Control: the comparison sees a mode.
    model.eval()
    assert not unchanged(model, before)


class Counting(nn.Module):
    """Counts its calls in place, whatever its mode."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("scale", torch.ones(3), persistent=False)

    def forward(self, x, flip=False):
        self.calls += 1
        return self.fc(x) * self.scale * (-1 if flip else 1)


def test_buffers_that_a_network_writes_to_are_copies():
    model, (x, y) = Counting(), samples()
    state = model.state_dict()
    evaluator(model, split(x, y))({n: t.double() if t.is_floating_point() else t for n, t in state.items()})
    assert int(model.calls) == int(state["calls"]) == 0


def test_forms_of_batches():
    model, (x, y) = Counting(), samples()
    state = model.state_dict()
    plain = float(evaluator(model, [(x, y)])(state))
    flipped = float(F.cross_entropy(-model(x).detach(), y))
    for inputs, expected in [((x, True), flipped), ({"x": x, "flip": True}, flipped), ({"x": x}, plain), ((x,), plain)]:
        assert float(evaluator(model, [(inputs, y)])(state)) == pytest.approx(expected, rel=1e-6)
    assert float(evaluator(model, [[x, y], [x[:0], y[:0]]])(state)) == plain

    def size(outputs):
        return outputs.square().mean()

    sizes = {float(evaluator(model, data, loss=size)(state)) for data in ([x], [(x,)], [{"x": x}])}
    assert len(sizes) == 1


class WithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x, labels=None):
        logits = self.fc(x)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SimpleNamespace(logits=logits, loss=loss)


def test_outputs_that_bring_their_loss_or_logits():
    model, (x, y) = WithLoss(), samples()
    state = model.state_dict()
    own = evaluator(model, [{"x": x, "labels": y}])(state)
    given = evaluator(model, [(x, y)])(state)
    assert float(own) == pytest.approx(float(given)) and set(own.batches) == {"loss"}
    assert set(given.batches) == {"loss", "accuracy"}


@pytest.mark.parametrize("last", [True, False])
def test_one_class_for_every_position(last):
    g = torch.Generator().manual_seed(0)
    model = nn.Linear(4, 3) if last else nn.Conv2d(4, 3, 1)
    x = torch.randn(2, 5, 4, generator=g) if last else torch.randn(2, 4, 5, 6, generator=g)
    y = torch.randint(0, 3, (2, 5) if last else (2, 5, 6), generator=g)
    y[0, 0] = -100
    logits = model(x).detach()
    logits = logits.movedim(-1, 1) if last else logits
    found = evaluator(model, [(x, y)])(model.state_dict())
    assert float(found) == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-6)
    seen = y != -100
    assert found.mean("accuracy") == pytest.approx(float((logits.argmax(1) == y)[seen].double().mean()))
    with pytest.raises(UsageError, match="do not fit classes"):
        evaluator(model, [(x, y[:, 1:])])(model.state_dict())


def test_losses_and_metrics_of_ones_own():
    model, x = nn.Linear(4, 1), samples()[0]
    state = model.state_dict()
    targets = x.sum(1, keepdim=True)
    metrics = {"worst": lambda outputs, t: (outputs - t).abs().max()}
    found = evaluator(model, [(x, targets)], F.mse_loss, metrics)(state)
    assert float(found) == pytest.approx(float((model(x) - targets).square().mean().detach()))
    assert found.mean("worst") == pytest.approx(float((model(x) - targets).abs().max().detach()))
    with pytest.raises(UsageError, match=r"integer classes, got torch\.float32 targets"):
        evaluator(model, [(x, targets)])(state)
    with pytest.raises(UsageError, match="integer classes, got no tensor"):
        evaluator(model, [x])(state)
    with pytest.raises(UsageError, match="must not be called 'loss'"):
        evaluator(model, [x], metrics={"loss": F.mse_loss})
    assert math.isnan(float(evaluator(model, [(x * math.nan, targets)], F.mse_loss)(state)))


def test_data_that_cannot_be_read_again_is_refused():
    model, (x, y) = net(), samples()
    for data, message in [
        (iter([(x, y)]), "can be iterated once: pass list"),
        (x, "one Tensor: put it in a list"),
        ({"x": x}, "one dict: put it in a list"),
        ((x, y), "looks like one batch"),
        (3, "got int"),
    ]:
        with pytest.raises(UsageError, match=message):
            evaluator(model, data)
    state = model.state_dict()
    for data, message in [([], "data is empty"), ([(x[:0], y[:0])], "data is empty"), ([("a", y)], "batch 0 has no")]:
        with pytest.raises(UsageError, match=message):
            evaluator(model, data)(state)
    with pytest.raises(UsageError, match=r"must be a torch\.nn\.Module, got OrderedDict"):
        evaluator(state, [(x, y)])


def test_states_of_other_networks_are_refused():
    model, (x, y) = net(), samples()
    judge = evaluator(model, [(x, y)])
    state = model.state_dict()
    with pytest.raises(MismatchError, match=r"the state lacks 4\.bias"):
        judge({n: t for n, t in state.items() if n != "4.bias"})
    with pytest.raises(MismatchError, match=r"the model has no extra"):
        judge(state | {"extra": x})
    with pytest.raises(UsageError, match="state dict of tensors, got Sequential"):
        judge(model)


def test_of_tied_names_one_is_enough():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    x, y = samples()
    state = model.state_dict()
    short = {n: t for n, t in state.items() if n != "1.weight"}
    judge = evaluator(model, [(x, y)])
    assert float(judge(short)) == float(judge(state))
    assert float(judge(short | {"0.weight": state["0.weight"] + 1})) != float(judge(state))


def test_an_evaluation_by_hand():
    found = Evaluation({"loss": np.array([1.0, 4.0])}, np.array([2, 1]))
    assert float(found) == 2.0
