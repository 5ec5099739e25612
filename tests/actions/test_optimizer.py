"""The state of an optimizer moves along: training goes on in other places, and gradients move against the weights."""

import copy
from collections.abc import Mapping

import pytest
import torch
from tests.actions import gauged
from torch import nn

import weyl
from weyl.actions._optimizer import act_optimizer
from weyl.models.builtin import cnn, lstm, mlp, transformer

MODELS = {
    "mlp relu": lambda: mlp("6-5-4-3", seed=1),
    "mlp tanh": lambda: mlp("6-5-4-3", act="tanh", seed=1),
    "cnn": lambda: cnn(widths="4-5", size=8, seed=1),
    "lstm": lambda: lstm(3, 4, seed=1),
    "transformer": lambda: transformer(dim=8, heads=2, layers=1, vocab=11, length=8, seed=1),
}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-2, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
}


def double(loaded):
    return loaded.module.double().train(), tuple(x.double() if x.is_floating_point() else x for x in loaded.args)


def train(net, optimizer, args, steps):
    """Train with squares of the outputs, which have no symmetry of their own."""
    for step in range(steps):
        optimizer.zero_grad()
        inputs = tuple(x.roll(step, 0) * (1 + 0.1 * step) if x.is_floating_point() else x.roll(step, 1) for x in args)
        out = net(*inputs)
        (out - torch.linspace(-1, 1, out.shape[-1], dtype=out.dtype)).square().mean().backward()
        optimizer.step()


def snapshot(tree):
    return (
        {k: snapshot(v) for k, v in tree.items()}
        if isinstance(tree, Mapping)
        else (tree.clone() if isinstance(tree, torch.Tensor) else tree)
    )


def went_on(make, optimizer, element_of, *, moved=True):
    """States after training on: of the network that was moved half-way, and of the other one, moved at the end."""
    loaded = make()
    structure = weyl.discover(loaded.module, loaded.args, loaded.kwargs)
    net, args = double(loaded)
    first = optimizer(net.parameters())
    train(net, first, args, 4)
    element = element_of(structure)
    twin, _ = double(make())
    twin.load_state_dict(weyl.act(element, structure, net.state_dict()))
    second = optimizer(twin.parameters())
    state = first.state_dict()
    before = snapshot(state)
    second.load_state_dict(act_optimizer(element, structure, state, net) if moved else copy.deepcopy(state))
    torch.testing.assert_close(state, before, rtol=0, atol=0)
    train(net, first, args, 4)
    train(twin, second, args, 4)
    return weyl.act(element, structure, net.state_dict()), twin.state_dict()


def absorbing(structure):
    return any(structure.absorptions.values())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_training_goes_on_in_other_places(model, optimizer):
    def element(structure):
        assert not absorbing(structure)
        return structure.group.random(3, kinds=("permute", "sign"))

    end, twin = went_on(MODELS[model], OPTIMIZERS[optimizer], element)
    torch.testing.assert_close(twin, end, rtol=1e-7, atol=1e-9)
    if optimizer == "sgd":
        return
    end, twin = went_on(MODELS[model], OPTIMIZERS[optimizer], element, moved=False)
    assert max((end[k] - v).abs().max() for k, v in twin.items() if v.is_floating_point()) > 1e-4


def gradients(case, state):
    leaves = {k: v.clone().requires_grad_(k in dict(case.net.named_parameters())) for k, v in state.items()}
    outputs = case.outputs(leaves)
    weights = torch.linspace(-1, 2, outputs.numel(), dtype=outputs.dtype).reshape(outputs.shape)
    ((outputs.sin() + outputs**2) * weights).sum().backward()
    return {name: leaves[name].grad for name, _ in case.net.named_parameters()}


def kept(moments, **settings):
    """A state of an optimizer that keeps some moments of parameters in their order."""
    state = {i: dict(entries) for i, entries in enumerate(moments)}
    return {"state": state, "param_groups": [{"params": list(state), "lr": 0.1, **settings}]}


@pytest.mark.parametrize("name", gauged.CASES)
def test_gradients_move_against_the_weights(name):
    case = gauged.CASES[name]()
    before = gradients(case, case.state)
    for seed in range(3):
        element = case.structure.group.random(seed)
        after = gradients(case, weyl.act(element, case.structure, case.state))
        state = kept([{"momentum_buffer": grad} for grad in before.values()])
        moved = act_optimizer(element, case.structure, state, case.net)
        for i, (key, grad) in enumerate(after.items()):
            torch.testing.assert_close(moved["state"][i]["momentum_buffer"], grad, rtol=1e-10, atol=1e-10, msg=key)
    along = weyl.act(element, case.structure, {**case.state, **before})
    alike = all(torch.allclose(along[key], after[key]) for key in after)
    assert alike == (name in ALIKE), "weights and gradients move alike only where A is orthogonal and adds nothing"


ALIKE = {"tanh", "rms", "layer norm", "gates"}


@pytest.mark.parametrize("model", [*MODELS, "mlp sigmoid"])
def test_gradients_of_discovered_structures(model):
    loaded = MODELS[model]() if model in MODELS else mlp("6-5-4-3", act="sigmoid", seed=1)
    structure = weyl.discover(loaded.module, loaded.args, loaded.kwargs)
    net, args = double(loaded)
    net.eval()
    case = gauged.Case(net, args[0], structure)
    element = structure.group.random(5)
    before, after = gradients(case, case.state), gradients(case, weyl.act(element, structure, case.state))
    state = kept([{"exp_avg": grad, "step": torch.tensor(3.0)} for grad in before.values()])
    moved = act_optimizer(element, structure, state, list(before))["state"]
    for i, (key, grad) in enumerate(after.items()):
        torch.testing.assert_close(moved[i]["exp_avg"], grad, rtol=1e-8, atol=1e-10, msg=key)
        assert moved[i]["step"] == 3


@pytest.mark.parametrize("name", gauged.CASES)
def test_second_moments_by_the_formula(name):
    """Brute force: the inverse transpose of the whole linear map, entry by entry."""
    case = gauged.CASES[name]()
    shapes = {key: p.shape for key, p in case.net.named_parameters()}
    element = case.structure.group.random(4)

    def flat(tensors):
        return torch.cat([tensors[key].flatten() for key in shapes])

    def split(vector):
        sizes = [shape.numel() for shape in shapes.values()]
        return {k: v.reshape(shapes[k]) for k, v in zip(shapes, vector.split(sizes), strict=True)}

    start = flat(case.state)
    zero = flat(weyl.act(element, case.structure, {**case.state, **split(torch.zeros_like(start))}))
    rows = torch.eye(len(start), dtype=torch.float64)
    matrix = torch.stack(
        [flat(weyl.act(element, case.structure, {**case.state, **split(row)})) - zero for row in rows], dim=1
    )
    against = torch.linalg.inv(matrix).T
    expected = split(against.square() @ start.square())
    state = kept([{"exp_avg_sq": case.state[key].square()} for key in shapes])
    moved = act_optimizer(element, case.structure, state, case.net, approximate=True)["state"]
    for i, key in enumerate(shapes):
        torch.testing.assert_close(moved[i]["exp_avg_sq"], expected[key], rtol=1e-9, atol=1e-9, msg=key)
    mixes = bool(((against.abs() > 1e-9).sum(1) > 1).any())
    assert mixes == (name in MIXING)
    if mixes:
        with pytest.raises(weyl.UsageError, match=r"mixes entries of .*exp_avg_sq.*approximate=True"):
            act_optimizer(element, case.structure, state, case.net)
    else:
        sure = act_optimizer(element, case.structure, state, case.net)
        torch.testing.assert_close(sure["state"], moved, rtol=0, atol=0)


MIXING = {"sigmoid", "sigmoid convolution", "bottleneck", "rms", "layer norm", "rotary", "heads"}


def test_matrices_that_permute_and_scale_mix_nothing():
    case = gauged.CASES["bottleneck"]()
    element = case.structure.group.random(2, exact=True)
    state = kept([{"exp_avg_sq": p.detach().square()} for p in case.net.parameters()])
    moved = act_optimizer(element, case.structure, state, case.net)["state"]
    root = kept([{"exp_avg": p.detach()} for p in case.net.parameters()])
    roots = act_optimizer(element, case.structure, root, case.net)["state"]
    for i in moved:
        torch.testing.assert_close(moved[i]["exp_avg_sq"], roots[i]["exp_avg"].square(), rtol=1e-12, atol=0)


def test_normalised_momentum_knows_no_scale():
    """RMSprop divides gradients by their root mean square before it averages them."""
    case = gauged.CASES["relu"]()
    element = case.structure.group.random(2)
    units = torch.tensor(element["h"].permutation)
    entries = [{"square_avg": p.detach() ** 2, "momentum_buffer": p.detach()} for p in case.net.parameters()]
    moved = act_optimizer(element, case.structure, kept(entries), case.net)["state"]
    assert torch.equal(moved[0]["momentum_buffer"], entries[0]["momentum_buffer"][units])
    assert not torch.allclose(moved[0]["square_avg"], entries[0]["square_avg"][units])


def test_names_by_sequence_module_or_optimizer():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    structure = weyl.discover(net, (torch.zeros(1, 4),))
    # In groups, so that indices are not in the order of the model.
    named = list(net.named_parameters())
    adam = torch.optim.Adam([{"params": named[2:]}, {"params": named[:2], "lr": 0.1}])
    net(torch.ones(2, 4)).sum().backward()
    adam.step()
    element = structure.group.random(1)
    order = ["2.weight", "2.bias", "0.weight", "0.bias"]
    told = act_optimizer(element, structure, adam.state_dict(), order)
    torch.testing.assert_close(told["state"], act_optimizer(element, structure, adam.state_dict())["state"])
    assert told["state"][2]["exp_avg"].shape == (3, 4)
    with pytest.raises(weyl.StructureError, match="shape"):
        act_optimizer(element, structure, adam.state_dict(), net)
    twin = torch.optim.Adam([{"params": named[2:]}, {"params": named[:2], "lr": 0.1}])
    twin.load_state_dict(told)


def test_what_cannot_be_moved_is_refused():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    structure = weyl.discover(net, (torch.zeros(1, 4),))
    element = structure.group.random(1)
    good = kept([{"exp_avg": torch.ones_like(p)} for p in net.parameters()])
    act_optimizer(element, structure, good, net)
    with pytest.raises(weyl.UsageError, match="4 parameters, got 1 names"):
        act_optimizer(element, structure, good, ["0.weight"])
    with pytest.raises(weyl.UsageError, match="does not know the names"):
        act_optimizer(element, structure, good)
    with pytest.raises(weyl.StructureError, match=r"no parameter 'm\.0\.weight'"):
        act_optimizer(element, structure, good, [f"m.{name}" for name, _ in net.named_parameters()])
    with pytest.raises(weyl.UsageError, match="exp_inf"):
        strange = kept([{"exp_inf": torch.ones_like(p)} for p in net.parameters()])
        act_optimizer(element, structure, strange, net)
    with pytest.raises(weyl.UsageError, match="param_groups"):
        act_optimizer(element, structure, net.state_dict(), net)
    with pytest.raises(weyl.StructureError, match="another group"):
        other = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
        act_optimizer(weyl.discover(other, (torch.zeros(1, 4),)).group.random(1), structure, good, net)


def test_a_flip_needs_the_moment_of_the_bias():
    case = gauged.sigmoid()
    flips = case.structure.group.random(1, kinds=("sign",))
    swaps = case.structure.group.random(1, kinds=("permute",))
    names = [name for name, _ in case.net.named_parameters()]
    frozen = names[:-1]
    state = kept([{"momentum_buffer": case.state[name]} for name in frozen])
    act_optimizer(swaps, case.structure, state, frozen)
    with pytest.raises(weyl.UsageError, match=r"does not have '2\.bias'"):
        act_optimizer(flips, case.structure, state, frozen)
    full = kept([{"momentum_buffer": case.state[name]} for name in names], momentum=0.9)
    act_optimizer(flips, case.structure, full, names)
    last = {**full["param_groups"][0], "params": [3], "momentum": 0.5}
    apart = {**full, "param_groups": [{**full["param_groups"][0], "params": [0, 1, 2]}, last]}
    act_optimizer(swaps, case.structure, apart, names)
    with pytest.raises(weyl.UsageError, match="averages both differently"):
        act_optimizer(flips, case.structure, apart, names)


def test_permutations_leave_no_rounding_and_share_no_memory():
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    structure = weyl.discover(net, (torch.zeros(1, 4),))
    element = structure.group.random(1)
    state = kept([{"exp_avg": torch.rand_like(p), "exp_avg_sq": torch.rand_like(p)} for p in net.parameters()])
    there = act_optimizer(element, structure, state, net)
    back = act_optimizer(~element, structure, there, net)
    torch.testing.assert_close(back["state"], state["state"], rtol=0, atol=0)
    assert not torch.equal(there["state"][0]["exp_avg"], state["state"][0]["exp_avg"])
    # An optimizer that loads the state writes to it.
    assert torch.equal(there["state"][3]["exp_avg"], state["state"][3]["exp_avg"])
    assert there["state"][3]["exp_avg"] is not state["state"][3]["exp_avg"]
    assert there["param_groups"] == state["param_groups"]
