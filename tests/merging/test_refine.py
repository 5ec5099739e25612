"""Refinement looks for less loss half-way, says so only where held-out data agree, and never makes it worse."""

from functools import cache

import pytest
import torch
from torch import nn

import weyl
from weyl.data import digits
from weyl.demo._train import trained
from weyl.merging import evaluator, interpolate, reset_batch_norm
from weyl.merging._refine import refine
from weyl.models.builtin import cnn, lstm, mlp


@cache
def split():
    data = digits()
    order = torch.randperm(len(data.train_x), generator=torch.Generator().manual_seed(0))
    batches = [(data.train_x[i].flatten(1), data.train_y[i]) for i in order.split(128)]
    return batches, [(data.test_x.flatten(1), data.test_y)]


@cache
def pair(number):
    """Two networks of 32 and 32 hidden units, trained on the same digits."""
    x, y = (torch.cat(part) for part in zip(*split()[0], strict=True))
    seeds = (2 * number, 2 * number + 1)
    nets = [trained(mlp("64-32-32-10", seed=s).module, x, y, epochs=8, rate=1e-2, seed=s) for s in seeds]
    return nets[0], weyl.discover(nets[0], (x[:2],)), *(net.state_dict() for net in nets)


def halfway(model, a, b, data, **options):
    return float(evaluator(model, data, **options)(interpolate(a, b, 0.5)))


@pytest.mark.parametrize("number", [0, 1])
def test_a_poor_start_is_improved(number):
    model, structure, a, b = pair(number)
    data, held_out = split()
    found = refine(structure, a, b, model=model, data=data, held_out=held_out, steps=40, rate=0.03)
    assert found.improved
    assert found.after < 0.8 * found.before
    assert len(found.history) == 40
    # What is reported is what is there.
    moved = weyl.act(found.element, structure, b)
    assert found.before == pytest.approx(halfway(model, a, b, held_out), rel=1e-6)
    assert found.after == pytest.approx(halfway(model, a, moved, held_out), rel=1e-6)
    # It is b, elsewhere: the same function.
    torch.testing.assert_close(call(model, moved, held_out), call(model, b, held_out), rtol=1e-4, atol=1e-4)
    again = refine(structure, a, b, model=model, data=data, held_out=held_out, steps=40, rate=0.03)
    assert again.element == found.element
    assert again.history == found.history


def call(model, state, data):
    return torch.func.functional_call(model, state, (data[0][0],))


def test_from_a_match_it_is_not_made_worse():
    model, structure, a, b = pair(0)
    data, held_out = split()
    start = weyl.matching._match.match(structure, a, b, kinds=("permute",))
    found = refine(structure, a, b, model=model, data=data, held_out=held_out, start=start, steps=40)
    assert found.before == pytest.approx(halfway(model, a, weyl.act(start.element, structure, b), held_out), rel=1e-6)
    assert found.improved == (found.after < found.before)
    result = halfway(model, a, weyl.act(found.element, structure, b), held_out)
    assert result == pytest.approx(min(found.before, found.after), rel=1e-6)
    assert found.improved or found.element == start.element


def test_without_steps_nothing_is_found():
    model, structure, a, b = pair(0)
    data, held_out = split()
    start = structure.group.random(4, kinds=("permute",))
    found = refine(structure, a, b, model=model, data=data, held_out=held_out, start=start, steps=0)
    assert not found.improved
    assert found.element == start
    assert found.before == found.after
    assert found.history == ()
    assert "not improved" in repr(found)


def test_what_is_better_on_training_data_alone_is_not_claimed():
    """Held-out labels that reward the opposite: what training data prefer is worse there, and the start is returned."""
    model, structure, a, b = pair(0)
    data, held_out = split()
    x, _ = held_out[0]
    options = {"model": model, "data": data, "steps": 25, "rate": 0.03}
    better = weyl.act(refine(structure, a, b, held_out=held_out, **options).element, structure, b)
    unlikely = call(model, interpolate(a, better, 0.5), held_out).argmin(1)
    found = refine(structure, a, b, held_out=[(x, unlikely)], **options)
    assert not found.improved
    assert found.after > found.before
    assert found.element == structure.group.identity()


def test_the_gradient_reaches_the_copy_straight_through():
    """One weight that may change sign, one step: the sign of the gradient decides."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh(), nn.Linear(1, 1, bias=False)).double()
    structure = weyl.discover(net, (torch.zeros(2, 1).double(),))
    a = {"0.weight": torch.tensor([[1.0]]).double(), "2.weight": torch.tensor([[1.0]]).double()}
    b = {name: -tensor for name, tensor in a.items()}
    x = torch.linspace(-1, 1, 8)[:, None].double()
    data = [(x, x.tanh())]
    options = {"model": net, "data": data, "held_out": data, "loss": nn.functional.mse_loss}
    # Half-way all weights are zero, where the gradient of a product vanishes.
    assert not refine(structure, a, b, steps=20, rate=0.2, **options).improved
    c = {"0.weight": -0.5 * a["0.weight"], "2.weight": -0.5 * a["2.weight"]}
    found = refine(structure, a, c, steps=20, rate=0.2, **options)
    assert found.improved
    assert int(found.element.values["0.weight sign"]) == -1
    # Away from the minimum, never there: labels of the other sign keep the weight where it is.
    other = {**options, "data": [(x, -x.tanh())], "held_out": [(x, -x.tanh())]}
    assert not refine(structure, a, c, steps=20, rate=0.2, **other).improved


def images(size=96):
    generator = torch.Generator().manual_seed(2)
    y = torch.arange(size) % 3
    x = torch.randn(size, 1, 8, 8, generator=generator) + y[:, None, None, None]
    return [(part, target) for part, target in zip(x.split(32), y.split(32), strict=True)]


def test_batch_norms_are_estimated_anew_and_nothing_given_changes():
    loaded = cnn(widths="6-6", size=8, num_classes=3)
    model, data = loaded.module, images()
    structure = weyl.discover(model, loaded.args)
    a = trained(model, *(torch.cat(p) for p in zip(*data, strict=True)), epochs=3, rate=1e-2, seed=0).state_dict()
    b = weyl.act(structure.group.random(2, kinds=("permute",)), structure, a)
    model.train()
    before = [{name: t.clone() for name, t in s.items()} for s in (a, b, model.state_dict())]
    modes, random = [m.training for m in model.modules()], torch.get_rng_state()
    found = refine(structure, a, b, model=model, data=data, held_out=data, steps=8)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    for state, old in zip((a, b, model.state_dict()), before, strict=True):
        assert all(torch.equal(state[name], old[name]) for name in old)
    middle = interpolate(a, b, 0.5)
    renewed = float(evaluator(model, data)(reset_batch_norm(model, middle, data)))
    assert found.before == pytest.approx(renewed, rel=1e-5)
    assert found.before != pytest.approx(float(evaluator(model, data)(middle)), rel=1e-2)


def test_recurrent_networks_and_loaders_that_shuffle():
    loaded = lstm(3, 5, num_classes=2)
    structure = weyl.discover(loaded.module, loaded.args)
    x = torch.randn(24, 7, 3, generator=torch.Generator().manual_seed(0))
    loader = torch.utils.data.DataLoader(list(zip(x, x[:, -1, 0] > 0, strict=True)), batch_size=8, shuffle=True)
    a, b = (lstm(3, 5, num_classes=2, seed=s).module.state_dict() for s in (1, 2))
    options = {"model": loaded.module, "data": loader, "held_out": [(x, x[:, -1, 0] > 0)], "steps": 4}
    random = torch.get_rng_state()
    one, two = (refine(structure, a, b, seed=5, **options) for _ in range(2))
    other = refine(structure, a, b, seed=6, **options)
    assert one.history == two.history != other.history
    assert torch.equal(torch.get_rng_state(), random)


def test_generators_of_devices_that_are_not_used_are_left_alone(monkeypatch):
    model, structure, a, b = pair(0)
    data, held_out = split()
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    torch.manual_seed(torch.initial_seed())
    assert len(seeded) == 1  # the check can fail
    refine(structure, a, b, model=model, data=data, held_out=held_out, steps=2)
    assert len(seeded) == 1


def test_progress_and_arguments():
    model, structure, a, b = pair(0)
    data, held_out = split()
    told = []
    refine(structure, a, b, model=model, data=data, held_out=held_out, steps=4, progress=told.append)
    assert told == [0.25, 0.5, 0.75, 1.0]
    options = {"model": model, "data": data, "held_out": held_out}
    for wrong, match in (
        ({"method": "sinkhorn"}, "method must be 'straight-through'"),
        ({"steps": -1}, "steps must be"),
        ({"rate": 0.0}, "rate must be"),
        ({"data": iter(data)}, "iterated"),
        ({"model": None}, "model must be"),
        ({"seed": -1}, "seed must be"),
    ):
        with pytest.raises(weyl.UsageError, match=match):
            refine(structure, a, b, **{**options, **wrong})
    broken = {**b, "fc1.weight": b["fc1.weight"] * float("nan")}
    with pytest.raises(weyl.NotFiniteError):
        refine(structure, a, broken, **options)
