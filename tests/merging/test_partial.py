"""Partial merges: at width 1 the aligned average, at width 2 the mean of both networks, between them a budget."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import weyl
from weyl.groups import Element
from weyl.merging._partial import PartialMerge, partial_merge
from weyl.merging._widen import Plan
from weyl.models.builtin import cnn, lstm, mlp, resnet, transformer


class Gated(nn.Module):
    """Units that are multiplied with each other, joined with the input, and read twice; two outputs."""

    def __init__(self):
        super().__init__()
        self.up, self.gate = nn.Linear(5, 6), nn.Linear(5, 6)
        self.down = nn.Linear(6 + 5, 7)
        self.one, self.two = nn.Linear(7, 3), nn.Linear(7 + 6, 2)

    def forward(self, x):
        h = self.up(x) * self.gate(x).sigmoid()
        y = self.down(torch.cat([h, x], -1)).relu()
        return self.one(y), self.two(torch.cat([y, h], -1))


class Looked(nn.Module):
    """An embedding, whose units stand in its second dimension, and a transposed convolution."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.widen = nn.ConvTranspose1d(4, 5, 3)
        self.head = nn.Linear(5, 3)

    def forward(self, ids):
        x = self.embed(ids).tanh().transpose(1, 2)
        return self.head(self.widen(x).relu().mean(-1))


def own(module, *args):
    return lambda: (module(), args)


def builtin(function, *args, **kwargs):
    def make():
        loaded = function(*args, **kwargs)
        return loaded.module, loaded.args

    return make


class Turned(nn.Module):
    """x @ w, of one class, and of a class with a bias of its own: outputs stand along the second dimension."""

    def __init__(self, rows, columns):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(rows, columns)), nn.Parameter(torch.randn(columns))

    def forward(self, x):
        return x @ self.weight + self.bias


class Bare(nn.Module):
    """Products with bare parameters; of the one in the middle nothing tells its outputs."""

    def __init__(self):
        super().__init__()
        self.first, self.middle = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6, 5))
        self.last = nn.Parameter(torch.randn(5, 3))

    def forward(self, x):
        return (((x @ self.first).tanh() + 0.3) @ self.middle).tanh() @ self.last


MODELS = {
    "mlp": builtin(mlp, "6-5-4-3"),
    "mlp sigmoid": builtin(mlp, "6-5-4-3", act="sigmoid"),
    "linear": builtin(mlp, "6-5-4-3", act="identity"),
    "cnn": builtin(cnn, widths="4-5", size=8),
    "plain cnn": builtin(cnn, widths="4-5", size=8, norm="none", act="gelu"),
    "resnet": builtin(resnet, widths="4-6", size=8),
    "gated": own(Gated, torch.randn(4, 5, generator=torch.Generator().manual_seed(0))),
    "looked up": own(Looked, torch.tensor([[1, 4, 2, 0], [3, 3, 8, 5]])),
    "x @ w": own(
        lambda: nn.Sequential(Turned(4, 6), nn.Tanh(), Turned(6, 5), nn.Tanh(), Turned(5, 3)), torch.ones(2, 4)
    ),
}


def pair(make, seed=0):
    """A model, its structure, two states in general position (variances positive), and inputs, in float64."""
    module, args = make()
    structure = weyl.discover(module, args)
    module = module.double().eval()
    generator = torch.Generator().manual_seed(seed)
    states = []
    for _ in range(2):
        state = {}
        for name, tensor in module.state_dict().items():
            draw = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            state[name] = (draw.exp() if "var" in name else draw) if tensor.is_floating_point() else tensor
        states.append(state)
    return module, structure, *states, tuple(x.double() if x.is_floating_point() else x for x in args)


def call(module, state, args):
    outputs = torch.func.functional_call(module, state, args)
    return outputs if isinstance(outputs, tuple) else (outputs,)


@pytest.mark.parametrize("name", MODELS)
def test_width_two_is_the_mean_of_both_networks(name):
    module, structure, a, b, args = pair(MODELS[name])
    element = structure.group.random(3)
    merged = partial_merge(structure, a, b, width=2, element=element, model=module, data=[args])
    assert merged.deviation < 1e-12
    assert merged.widths == {space.name: 2 * space.size for space in structure.spaces}
    outputs = zip(call(module, a, args), call(module, b, args), call(module, merged.state, args), strict=True)
    for x, y, z in outputs:
        torch.testing.assert_close(z, (x + y) / 2, rtol=1e-12, atol=1e-12 * float(z.abs().max()))
        assert (x - y).abs().max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_width_one_is_the_aligned_average(name):
    module, structure, a, b, args = pair(MODELS[name])
    element = structure.group.random(3)
    merged = partial_merge(structure, a, b, width=1, element=element, model=module, data=[args])
    moved = weyl.act(element, structure, b)
    for key, tensor in merged.state.items():
        mean = (a[key] + moved[key]) / 2 if tensor.is_floating_point() else a[key]
        torch.testing.assert_close(tensor, mean, rtol=1e-15, atol=0)
    for x, y in zip(call(module, merged.state, args), call(module, a, args), strict=True):
        assert (x - y).abs().max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_a_network_with_itself_stays_the_function_that_it_is(name):
    """Halves of a network that are both the whole: whatever the budget, and wherever the units of the other are."""
    module, structure, a, _, args = pair(MODELS[name])
    element = structure.group.random(3)
    twin = weyl.act(~element, structure, a)
    for width in (1, 1.3, 1.5, 2):
        merged = partial_merge(structure, a, twin, width=width, element=element, model=module)
        for x, z in zip(call(module, a, args), call(module, merged.state, args), strict=True):
            torch.testing.assert_close(z, x, rtol=1e-9, atol=1e-9 * float(x.abs().max()))


@pytest.mark.parametrize("name", MODELS)
def test_between_it_is_the_formula(name):
    """M blockdiag U by dense matrices, on weights whose two dimensions are single spaces."""
    module, structure, a, b, _ = pair(MODELS[name])
    merged = partial_merge(structure, a, b, width=1.4, element=structure.group.identity(), model=module)
    checked = 0
    for key, axes in structure.axes.items():
        spaces = [getattr(axis, "space", None) for axis in axes]
        if len(axes) < 2 or None in spaces[:2] or key == "widen.weight" or name == "x @ w":
            continue
        copy_out, copy_in = (copies(merged, space) for space in spaces[:2])
        mean_out = copy_out / copy_out.sum(0)
        zero = torch.zeros_like(a[key])
        block = torch.cat([torch.cat([a[key], zero], 1), torch.cat([zero, b[key]], 1)], 0)
        expected = torch.einsum("vo,vw...,wi->oi...", mean_out, block, copy_in)
        torch.testing.assert_close(merged.state[key], expected, rtol=1e-12, atol=1e-12)
        checked += 1
    assert checked or name in ("gated", "looked up", "x @ w")


def copies(merged, space):
    """U of a space: 2n by n'."""
    first = [i for i, _ in merged.merged[space]] + list(merged.kept[space][0])
    size = len(first)
    matrix = torch.zeros(2 * size, merged.widths[space], dtype=torch.float64)
    matrix[first, torch.arange(size)] = 1
    for new, (_, j) in enumerate(merged.merged[space]):
        matrix[size + j, new] = 1
    for new, j in enumerate(merged.kept[space][1]):
        matrix[size + j, size + new] = 1
    return matrix


def test_the_pairs_that_match_best_are_averaged():
    _, structure, a, _, _ = pair(MODELS["mlp"])
    element = structure.group.random(1, kinds=("permute",))
    near = {key: tensor.clone() for key, tensor in a.items()}
    for unit in (0, 3):
        near["fc1.weight"][unit] *= -1
    merged = partial_merge(structure, a, weyl.act(~element, structure, near), width=1.4, element=element)
    old = element["fc1"].permutation
    assert merged.kept["fc1"] == ((0, 3), (int(old[0]), int(old[3])))
    assert [i for i, _ in merged.merged["fc1"]] == [1, 2, 4]
    assert all(j == old[i] for i, j in merged.merged["fc1"])
    np.testing.assert_allclose(merged.similarity["fc1"][[1, 2, 4]], 1, atol=1e-12)
    assert "fc1: 5 -> 7 units, 3 pairs averaged (cosine 1.000 or more), 2 kept of each" in merged.report()
    assert "not checked" in merged.report()


def test_similarity_of_one_layer_is_the_cosine():
    """Of the vector of incoming and outgoing weights."""
    _, structure, a, b, _ = pair(builtin(mlp, "6-5-3"))
    merged = partial_merge(structure, a, b, element=structure.group.identity())
    x, y = (torch.cat([s["fc1.weight"], s["fc2.weight"].T], 1) for s in (a, b))
    cosine = torch.nn.functional.cosine_similarity(x, y, dim=1)
    np.testing.assert_allclose(merged.similarity["fc1"], cosine, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 7, 10])
def test_budgets(size):
    similarity = np.random.default_rng(0).standard_normal(size)
    for width in (1, 1.2, 1.5, 1.99, 2):
        plan = Plan.of(similarity, width)
        ours, theirs = plan.sources
        assert len(ours) == len(theirs)
        assert abs(len(ours) - width * size) <= 0.5
        # Every unit of both networks goes somewhere, once.
        for found in (ours, theirs):
            assert sorted(found[found >= 0]) == list(range(size))
        if len(plan.pairs) and len(plan.apart):
            assert similarity[plan.pairs].min() >= similarity[plan.apart].max()


def test_outputs_side_by_side():
    module, structure, a, b, args = pair(MODELS["cnn"])
    merged = partial_merge(
        structure, a, b, width=2, element=structure.group.random(2), output="both", model=module, data=[args]
    )
    (z,) = call(module, merged.state, args)
    expected = torch.cat([*call(module, a, args), *call(module, b, args)], -1)
    torch.testing.assert_close(z, expected, rtol=1e-12, atol=1e-9)
    narrow = partial_merge(structure, a, b, width=1, element=structure.group.identity(), output="both", model=module)
    assert narrow.state["head.weight"].shape == (20, 20)
    module, structure, a, b, _ = pair(MODELS["gated"])
    with pytest.raises(weyl.StructureError, match="one linear layer whose outputs nothing else reads"):
        partial_merge(structure, a, b, element=structure.group.identity(), output="both")


def test_activations_as_similarity():
    module, structure, a, b, _ = pair(MODELS["plain cnn"])
    element = structure.group.random(2, kinds=("permute",))
    batches = [torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)]
    merged = partial_merge(structure, a, b, element=element, model=module, data=batches, costs="activations")
    seen = []
    moved = weyl.act(element, structure, b)
    for state in (a, moved):
        net = copy.deepcopy(module)
        net.load_state_dict(state)
        seen.append(net[:2](batches[0]).movedim(1, 0).flatten(1).detach().numpy())
    for i, (x, y) in enumerate(zip(*seen, strict=True)):
        np.testing.assert_allclose(merged.similarity["conv1"][i], np.corrcoef(x, y)[0, 1], atol=1e-9)
    weights = partial_merge(structure, a, b, element=element)
    both = partial_merge(structure, a, b, element=element, model=module, data=batches, costs="both")
    mean = (merged.similarity["conv1"] + weights.similarity["conv1"]) / 2
    np.testing.assert_allclose(both.similarity["conv1"], mean, atol=1e-12)
    with pytest.raises(weyl.UsageError, match="pass model= and data="):
        partial_merge(structure, a, b, element=element, costs="activations")


def test_a_layout_that_was_assumed_wrongly_is_found_out():
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    module, structure, a, b, args = pair(own(Bare, x))
    options = {"element": structure.group.identity(), "model": module}
    for width in (1, 2):
        assert partial_merge(structure, a, b, width=width, data=[args], **options).deviation < 1e-12
    with pytest.raises(weyl.StructureError, match=r"at width 1\.5 .* itself differs .* 'middle' along dimension 0"):
        partial_merge(structure, a, b, data=[args], **options)
    # Without data nobody knows, and that is said.
    unknown = partial_merge(structure, a, b, **options)
    assert unknown.assumed == ("first", "middle", "last") and unknown.deviation is None
    assert "assumed, not checked, where the outputs stand: first, middle, last" in unknown.report()
    with pytest.raises(weyl.StructureError, match="along another dimension, pass model="):
        partial_merge(structure, a, b, element=options["element"])
    plain, structure, a, b, args = pair(MODELS["mlp"])
    identity = structure.group.identity()
    assert partial_merge(structure, a, b, element=identity, model=plain).assumed == ()
    assert "assumed" not in partial_merge(structure, a, b, element=identity, model=plain, data=[args]).report()
    blind = partial_merge(structure, a, b, element=identity)
    assert blind.assumed == ("fc1.weight", "fc2.weight", "fc3.weight") and "not checked, where" in blind.report()


def test_outputs_side_by_side_that_are_the_same_are_twice_as_many():
    module, structure, a, b, args = pair(MODELS["mlp"])
    a, b = ({**state, "fc3.bias": torch.zeros(3).double()} for state in (a, b))
    options = {"element": structure.group.identity(), "output": "both", "model": module, "data": [args]}
    for width in (1.5, 2):
        merged = partial_merge(structure, a, b, width=width, **options)
        assert merged.deviation < 1e-12 and merged.state["fc3.bias"].shape == (6,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs two devices")
@pytest.mark.parametrize("costs", ["weights", "activations"])
def test_states_on_two_devices(costs):
    module, structure, a, b, args = pair(MODELS["mlp"])
    options = {"element": structure.group.random(1), "model": module, "data": [args], "costs": costs}
    home = partial_merge(structure, a, b, **options)
    for one, other in (("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")):
        left, right = ({n: t.to(d) for n, t in s.items()} for s, d in ((a, one), (b, other)))
        away = partial_merge(structure, left, right, **options)
        assert {t.device.type for t in away.state.values()} == {one}
        for name, tensor in home.state.items():
            torch.testing.assert_close(away.state[name].cpu(), tensor, rtol=1e-9, atol=1e-9)


class Normalised(nn.Module):
    """A layer normalisation that weyl is not told of: by hand, without parameters."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = self.one(x).relu()
        return self.two(h / (1 + h.square().mean(-1, keepdim=True)))


def test_units_that_act_on_each_other_are_found_out():
    module, structure, a, b, args = pair(own(Normalised, torch.randn(3, 4)))
    identity = structure.group.identity()
    partial_merge(structure, a, b, width=2, element=identity)
    with pytest.raises(weyl.StructureError, match="at width 2 the outputs differ"):
        partial_merge(structure, a, b, element=identity, model=module, data=[args])


class Held(nn.Module):
    """Hidden places that are told apart by a constant cannot be kept twice."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.three(self.two(nn.functional.softplus(self.one(x) * torch.arange(6, dtype=x.dtype))).tanh())


def test_what_cannot_stand_side_by_side_is_refused():
    def refused(make, match, **kwargs):
        module, structure, a, b, _ = pair(make)
        kwargs = {key: module for key in kwargs}
        with pytest.raises(weyl.StructureError, match=match):
            partial_merge(structure, a, b, element=structure.group.identity(), **kwargs)

    refused(builtin(transformer, dim=8, heads=2, layers=1), "lives within")
    refused(own(Held, torch.randn(3, 4)), r"one\.\w+' writes in places that are held still")
    norm = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 2))
    refused(own(lambda: norm, torch.randn(3, 4)), "LayerNorm, which acts across units", model=True)
    depthwise = nn.Sequential(nn.Conv1d(2, 6, 3), nn.Conv1d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv1d(6, 2, 1))
    refused(own(lambda: depthwise, torch.randn(3, 2, 9)), "convolution in groups", model=True)
    prelu = nn.Sequential(nn.Linear(4, 6), nn.PReLU(), nn.Linear(6, 2))
    refused(own(lambda: prelu, torch.randn(3, 4)), r"'1\.weight' writes in places")


def test_a_model_that_fixes_its_widths_is_named_but_its_state_is_right():
    module, structure, a, b, args = pair(builtin(lstm, 3, 4))
    identity = structure.group.identity()
    with pytest.raises(weyl.StructureError, match="does not run with tensors of other widths"):
        partial_merge(structure, a, b, width=2, element=identity, model=module, data=[args])
    merged = partial_merge(structure, a, b, width=2, element=identity)
    wide = lstm(3, 8).module.double()
    (x,), (y,), (z,) = (call(m, s, args) for m, s in ((module, a), (module, b), (wide, merged.state)))
    torch.testing.assert_close(z, (x + y) / 2, rtol=1e-12, atol=1e-12)


def test_nothing_that_was_given_changes():
    module, structure, a, b, args = pair(MODELS["cnn"])
    module.train()
    before = [{key: t.clone() for key, t in state.items()} for state in (a, b, module.state_dict())]
    random = torch.get_rng_state()
    partial_merge(structure, a, b, element=structure.group.random(1), model=module, data=[args], costs="both")
    assert module.training
    assert torch.equal(torch.get_rng_state(), random)
    for state, old in zip((a, b, module.state_dict()), before, strict=True):
        assert all(torch.equal(state[key], old[key]) for key in old)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precision_of_the_states_is_kept(dtype):
    _, structure, a, b, _ = pair(MODELS["cnn"])
    low_a, low_b = ({k: t.to(dtype) if t.is_floating_point() else t for k, t in s.items()} for s in (a, b))
    merged = partial_merge(structure, low_a, low_b, element=structure.group.identity())
    assert all(t.dtype == low_a[key].dtype for key, t in merged.state.items())


def test_arguments():
    _, structure, a, b, _ = pair(MODELS["mlp"])
    identity = structure.group.identity()
    for width in (0.9, 2.1, "2", True, float("nan")):
        with pytest.raises(weyl.UsageError, match="between 1"):
            partial_merge(structure, a, b, width=width, element=identity)
    with pytest.raises(weyl.UsageError, match="output must be"):
        partial_merge(structure, a, b, output="all", element=identity)
    with pytest.raises(weyl.StructureError, match=r"no tensor 'fc3\.bias'"):
        partial_merge(structure, a, {k: t for k, t in b.items() if k != "fc3.bias"}, element=identity)
    assert isinstance(partial_merge(structure, a, b, element=identity), PartialMerge)
    assert isinstance(identity, Element)
