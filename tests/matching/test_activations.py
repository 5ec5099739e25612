"""Cross-moments of activations: they recover planted permutations, and are what numpy finds on hooked activations."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import weyl
from weyl.errors import InputError, NotFiniteError, StructureError, UsageError
from weyl.matching._activations import Activation, covered, cross_moments
from weyl.models.builtin import cnn, lstm, mlp, resnet, transformer
from weyl.structure import Fixed, Product, Units


def images(model, *, batches=3):
    shape = model.args[0].shape[1:]
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(20, *shape, generator=generator) for _ in range(batches)]


def tokens(vocab, *, batches=3):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(vocab, (8, 7), generator=generator) for _ in range(batches)]


def fresh(module, seed=0):
    """A state in general position: initial gains and biases would make units equal."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: t + 0.3 * torch.rand(t.shape, generator=generator) if t.is_floating_point() else t.clone()
        for name, t in module.state_dict().items()
    }


def labels(structure, element, axis):
    """Which unit of the first network every unit of the second is, read off an acted-on tensor of labels."""
    name, dim = next((n, d) for n, axes in structure.axes.items() for d, found in enumerate(axes) if found == axis)
    shape = [found.size for found in structure.axes[name]]
    state = {n: torch.zeros([a.size for a in axes], dtype=torch.float64) for n, axes in structure.axes.items()}
    column = torch.arange(shape[dim], dtype=torch.float64).view([-1 if d == dim else 1 for d in range(len(shape))])
    state[name] = column.expand(shape).clone()
    moved = weyl.act(element, structure, state)[name].movedim(dim, -1)
    return moved.reshape(-1, shape[dim])[0].long()


class Ids(nn.Module):
    """A language model of transformers that takes token ids and gives logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(input_ids=ids).logits


def gpt2():
    transformers = pytest.importorskip("transformers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            n_embd=16, n_head=2, n_layer=2, vocab_size=40, n_positions=16, bos_token_id=0, eos_token_id=0,
            use_cache=False,
        )  # fmt: skip
        return Ids(transformers.GPT2LMHeadModel(config)).eval()


def built_in(loaded, data=None):
    return loaded.module, loaded.args, images(loaded) if data is None else data


CASES = {
    "mlp": lambda: built_in(mlp("12-16-17-4")),
    "mlp-tanh": lambda: built_in(mlp("12-16-17-4", act="tanh", bias=False)),
    "cnn": lambda: built_in(cnn("8-12", size=16)),
    "cnn-plain": lambda: built_in(cnn("8-12", norm="none", size=16)),
    "resnet": lambda: built_in(resnet("8-16", blocks=2, size=16)),
    "lstm": lambda: built_in(lstm(5, 6, layers=2, bidirectional=True)),
    "gru": lambda: built_in(lstm(5, 6, cell="gru")),
    "transformer": lambda: built_in(transformer(16, 2, 2), tokens(64)),
    "transformer-post-tied": lambda: built_in(transformer(16, 2, 1, norm_first=False, tied=True), tokens(64)),
    "gpt2": lambda: (gpt2(), (torch.arange(14).reshape(2, 7),), tokens(40)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_planted_permutation_is_recovered_and_that_of_another_network_is_not(case):
    module, args, data = CASES[case]()
    structure = weyl.discover(module, args)
    a = fresh(module)
    other = {name: t.flip(0) for name, t in fresh(module, 7).items() if t.ndim} | {
        name: t for name, t in a.items() if not t.ndim
    }
    g = structure.group.random(3, kinds=("permute",))
    found = cross_moments(structure, module, a, weyl.act(g, structure, a), data)
    against = cross_moments(structure, module, a, weyl.act(g, structure, other), data)
    assert covered(found) == {space.name for space in structure.spaces}
    assert [entry.axis for entry in found] == [entry.axis for entry in against]
    assert len({(entry.axis, entry.signs) for entry in found}) == len(found)
    matched = []
    for entry, wrong in zip(found, against, strict=True):
        planted = labels(structure, g, entry.axis)
        units = torch.arange(len(planted))
        alive = entry.moments.abs().sum(0) > 0
        assert alive.double().mean() > 0.4
        assert torch.equal(entry.moments.argmax(0)[alive], planted[alive])
        torch.testing.assert_close(
            entry.moments[planted, units][alive], torch.ones(int(alive.sum())).double(), atol=1e-5, rtol=0
        )
        matched.append((wrong.moments.argmax(0) == planted).double().mean())
    assert min(matched) < 0.5


class ByHand(nn.Module):
    """No modules: raw parameters, products and in-place functions, or the same without in-place functions."""

    def __init__(self, inplace):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.inplace = inplace
        self.enter = nn.Parameter(torch.randn(6, 5, generator=generator))
        self.shift = nn.Parameter(torch.randn(5, generator=generator))
        self.inner = nn.Parameter(torch.randn(7, 5, generator=generator))
        self.back = nn.Parameter(torch.randn(5, 7, generator=generator))
        self.leave = nn.Parameter(torch.randn(5, 3, generator=generator))

    def forward(self, x):
        h = x @ self.enter
        if self.inplace:
            h += self.shift
            h.relu_()
            inner = F.relu(F.linear(h, self.inner), inplace=True)
            h += inner @ self.back.T
        else:
            h = torch.relu(h + self.shift)
            h = h + torch.matmul((h @ self.inner.t()).relu(), self.back.t())
        return h.tanh() @ self.leave


def test_values_are_found_without_modules_and_before_they_are_overwritten():
    plain, inplace = ByHand(False).eval(), ByHand(True).eval()
    generator = torch.Generator().manual_seed(3)
    data = [torch.randn(20, 6, generator=generator) for _ in range(3)]
    structure = weyl.discover(plain, (data[0],))
    state = {name: t.detach() for name, t in plain.state_dict().items()}
    b = weyl.act(structure.group.random(1, kinds=("permute",)), structure, state)
    expected = cross_moments(structure, plain, state, b, data)
    found = cross_moments(structure, inplace, state, b, data)
    assert [(e.axis, e.samples, e.values) for e in found] == [(e.axis, e.samples, e.values) for e in expected]
    assert {e.values for e in found} == {1, 2}
    for entry, other in zip(found, expected, strict=True):
        torch.testing.assert_close(entry.moments, other.moments, rtol=0, atol=1e-6)
    again = torch.relu(torch.cat(data) @ state["enter"] + state["shift"])
    final = torch.tanh(again + F.linear(again, state["inner"]).relu() @ state["back"].T)
    stream = next(e for e in found if e.values == 2)
    units = labels(structure, structure.group.random(1, kinds=("permute",)), stream.axis)
    moments = sum(torch.corrcoef(value.T.double())[:, units] for value in (again, final)) / 2
    torch.testing.assert_close(stream.moments, moments, rtol=0, atol=1e-5)


def hooked(module, state, data, names):
    """Activations of named modules, stacked: the oracle."""
    seen = {name: [] for name in names}
    handles = [
        module.get_submodule(name).register_forward_hook(lambda m, a, out, name=name: seen[name].append(out.clone()))
        for name in names
    ]
    with torch.no_grad():
        for x in data:
            torch.func.functional_call(module, state, (x,))
    for handle in handles:
        handle.remove()
    return {
        name: torch.cat([t.movedim(1, -1).reshape(-1, t.shape[1]) for t in found]).numpy()
        for name, found in seen.items()
    }


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU()
        self.second, self.gelu, self.head = nn.Conv2d(5, 6, 3), nn.GELU(), nn.Linear(6, 2)

    def forward(self, x):
        x = self.relu(self.bn(self.conv(x)))
        return self.head(self.gelu(F.max_pool2d(self.second(x), 2)).mean((2, 3)))


@pytest.mark.parametrize("kind", ["correlation", "covariance"])
def test_moments_are_those_of_numpy_on_stacked_activations(kind):
    generator = torch.Generator().manual_seed(4)
    module = Convolutions().double().eval()
    data = [torch.randn(n, 2, 10, 10, generator=generator, dtype=torch.float64) for n in (3, 8, 1, 5)]
    structure = weyl.discover(module, (data[0],))
    a, b = fresh(module, 5), fresh(module, 6)
    found = cross_moments(structure, module, a, b, data, kind=kind)
    one, two = (hooked(module, state, data, ("relu", "gelu", "conv")) for state in (a, b))
    assert [len(entry.moments) for entry in found] == [5, 6]
    for entry, name in zip(found, ("relu", "gelu"), strict=True):
        x, y = one[name].T, two[name].T
        if kind == "correlation":
            expected = np.corrcoef(x, y)[: len(x), len(x) :]
        else:
            expected = np.cov(x, y, ddof=0)[: len(x), len(x) :]
        assert entry.samples == x.shape[1]
        np.testing.assert_allclose(entry.moments.numpy(), expected, rtol=0, atol=1e-10)
    before = np.corrcoef(one["conv"].T, two["conv"].T)[:5, 5:]
    assert np.abs(found[0].moments.numpy() - before).max() > 1e-3


def test_channels_last_and_the_size_of_batches_make_no_difference():
    generator = torch.Generator().manual_seed(4)
    module = Convolutions().double().eval()
    x = torch.randn(30, 2, 10, 10, generator=generator, dtype=torch.float64)
    structure = weyl.discover(module, (x,))
    a, b = fresh(module, 5), fresh(module, 6)
    whole = cross_moments(structure, module, a, b, [x])
    for data in (list(x.split(7)), [x.contiguous(memory_format=torch.channels_last)]):
        for entry, other in zip(cross_moments(structure, module, a, b, data), whole, strict=True):
            assert entry.samples == other.samples
            torch.testing.assert_close(entry.moments, other.moments, rtol=0, atol=1e-12)


def test_large_means_do_not_spoil_the_moments():
    module = nn.Sequential(nn.Linear(4, 3), nn.Identity(), nn.ReLU(), nn.Linear(3, 2)).eval()
    generator = torch.Generator().manual_seed(4)
    data = [torch.randn(500, 4, generator=generator) for _ in range(4)]
    structure = weyl.discover(module, (data[0],))
    a, b = fresh(module, 5), fresh(module, 6)
    for state in (a, b):
        state["0.bias"] += 3000
    found = cross_moments(structure, module, a, b, data)[0].moments.numpy()
    x, y = (hooked(module, state, data, ("2",))["2"] for state in (a, b))
    expected = np.corrcoef(x.T.astype(np.float64), y.T.astype(np.float64))[:3, 3:]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    raw = (x.T @ y) / len(x) - np.outer(x.mean(0), y.mean(0))
    assert np.abs(raw / np.outer(x.std(0), y.std(0)) - expected).max() > 1e-2


def test_constant_units_have_correlation_zero():
    loaded = mlp("6-8-3")
    structure = weyl.discover(loaded.module, loaded.args)
    a, b = fresh(loaded.module), fresh(loaded.module, 1)
    dead, constant = 2, 5
    a["fc1.weight"][dead], a["fc1.bias"][dead] = 0, -1
    b["fc1.weight"][constant], b["fc1.bias"][constant] = 0, 0.1
    data = [torch.randn(30, 6, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    moments = cross_moments(structure, loaded.module, a, b, data)[0].moments
    zero = moments == 0
    expected = torch.zeros_like(zero)
    expected[dead] = True
    expected[:, constant] = True
    assert torch.equal(zero, expected)


def test_one_pass_of_two_runs_a_batch_with_progress():
    loaded = mlp("6-8-3")
    structure = weyl.discover(loaded.module, loaded.args)
    runs, done = [], []
    handle = loaded.module.register_forward_hook(lambda *_: runs.append(1))
    cross_moments(
        structure, loaded.module, fresh(loaded.module), fresh(loaded.module, 1), list(images(loaded)),
        progress=done.append,
    )  # fmt: skip
    handle.remove()
    assert len(runs) == 6
    assert done == [1, 2, 3]


class Gated(nn.Module):
    """A normalisation written out, a gate, and a sum that only a normalisation reads."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.enter = nn.Linear(4, 6)
        self.gain = nn.Parameter(1 + torch.rand(6, generator=generator))
        self.gate, self.up, self.down = nn.Linear(6, 9), nn.Linear(6, 9), nn.Linear(9, 6)
        self.leave = nn.Linear(6, 2)

    def norm(self, x):
        return self.gain * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))

    def forward(self, x, seen=None):
        x = self.enter(x)
        first = self.norm(x)
        inner = F.silu(self.gate(first)) * self.up(first)
        last = self.norm(x + self.down(inner))
        if seen is not None:
            seen += [first, inner, last]
        return self.leave(last)


def test_gates_and_normalisations_count_once_as_what_their_readers_read():
    module = Gated().eval()
    data = [torch.randn(25, 4, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    structure = weyl.discover(module, (data[0],))
    a, b = fresh(module, 1), fresh(module, 2)
    found = {len(e.moments): e for e in cross_moments(structure, module, a, b, data)}
    assert {size: (e.values, e.samples) for size, e in found.items()} == {6: (2, 100), 9: (1, 50)}
    seen = [], []
    with torch.no_grad():
        for state, values in zip((a, b), seen, strict=True):
            torch.func.functional_call(module, state, (torch.cat(data), values))
    expected = [
        np.corrcoef(one.T.double(), two.T.double())[: one.shape[1], one.shape[1] :]
        for one, two in zip(*seen, strict=True)
    ]
    np.testing.assert_allclose(found[9].moments, expected[1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[6].moments, (expected[0] + expected[2]) / 2, rtol=0, atol=1e-5)


class Strict(nn.Module):
    """Fails at a batch of two, once it is told to."""

    def __init__(self):
        super().__init__()
        self.forbidden = False
        self.body = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 2))

    def forward(self, x):
        if len(x) == 2 * self.forbidden:
            raise ArithmeticError("marked")
        return self.body(x)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_and_the_states_are_left_as_they_were(fails):
    module = Strict()
    structure = weyl.discover(module, (torch.zeros(2, 4),))
    module.forbidden = True
    module.train()
    module.body[3].eval()
    own = {name: t.clone() for name, t in module.state_dict().items()}
    addresses = {name: t.data_ptr() for name, t in module.state_dict().items()}
    states = fresh(module), fresh(module, 1)
    copies = [{name: t.clone() for name, t in state.items()} for state in states]
    data = [torch.randn(9, 4, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    data += [torch.zeros(2, 4)] if fails else []
    random = torch.get_rng_state()
    if fails:
        with pytest.raises(ArithmeticError, match="marked"):
            cross_moments(structure, module, *states, data)
    else:
        cross_moments(structure, module, *states, data)
    assert torch.equal(random, torch.get_rng_state())
    assert [m.training for m in module.modules()] == [True, True, True, True, True, False, True]
    assert addresses == {name: t.data_ptr() for name, t in module.state_dict().items()}
    for before, after in ((own, module.state_dict()), *zip(copies, states, strict=True)):
        for name, tensor in before.items():
            assert torch.equal(tensor, after[name])
    assert torch.overrides._get_current_function_mode() is None
    assert torch.is_grad_enabled()


def test_batches_may_be_tensors_pairs_or_keyword_arguments_in_any_precision():
    loaded = mlp("6-8-3")
    structure = weyl.discover(loaded.module, loaded.args)
    a, b = ({n: t.double() for n, t in fresh(loaded.module, s).items()} for s in (0, 1))
    x = images(loaded)
    expected = cross_moments(structure, loaded.module, a, b, x)[0]
    named = next(iter(inspect.signature(loaded.module.forward).parameters))
    for data in ([(t, torch.zeros(20)) for t in x], [[t.double()] for t in x], [{named: t} for t in x]):
        assert torch.equal(cross_moments(structure, loaded.module, a, b, data)[0].moments, expected.moments)
    half = [{n: t.bfloat16() for n, t in state.items()} for state in (a, b)]
    rough = cross_moments(structure, loaded.module, *half, x)[0].moments
    torch.testing.assert_close(rough, expected.moments, rtol=0, atol=0.1)


def test_what_cannot_be_used_is_refused():
    loaded = mlp("6-8-3")
    module, structure, x = loaded.module, weyl.discover(loaded.module, loaded.args), images(loaded)
    a, b = fresh(module), fresh(module, 1)
    with pytest.raises(UsageError, match="kind must be 'correlation' or 'covariance', got 'cosine'"):
        cross_moments(structure, module, a, b, x, kind="cosine")
    with pytest.raises(UsageError, match="data is empty"):
        cross_moments(structure, module, a, b, [])
    with pytest.raises(UsageError, match="has no tensor with samples"):
        cross_moments(structure, module, a, b, ["text"])
    with pytest.raises(InputError, match="one sample"):
        cross_moments(structure, module, a, b, [x[0][:1]])
    with pytest.raises(StructureError, match=r"fc1\.bias"):
        cross_moments(structure, module, a, {n: t for n, t in b.items() if n != "fc1.bias"}, x)
    broken = b | {"fc1.bias": b["fc1.bias"].clone()}
    broken["fc1.bias"][3] = torch.nan
    with pytest.raises(NotFiniteError, match=r"second network that 'fc1\.weight' writes"):
        cross_moments(structure, module, a, broken, x)


class Routed(nn.Module):
    """What is done depends on the activations: to how many samples, how often, or what."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.enter, self.leave = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        h = torch.relu(self.enter(x))
        y = self.leave(h)
        if self.way == "samples":
            return self.leave(torch.relu(self.enter(x[y[:, 0] > 0])))
        if self.way == "often":
            return self.leave(torch.relu(self.enter(x))) if bool(y[0, 0] > 0) else y
        return self.leave(torch.tanh(h) if bool(y[0, 0] > 0) else torch.tanh(torch.tanh(h)))


@pytest.mark.parametrize("way", ["samples", "often", "what"])
def test_networks_that_go_different_ways_are_refused(way):
    plain = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    inner = weyl.discover(plain, (torch.zeros(2, 4),))
    text = inner.to_json().replace('"0.', '"enter.').replace('"2.', '"leave.')
    structure, module = weyl.Structure.from_json(text), Routed(way)
    a, b = fresh(module), fresh(module, 1)
    a["leave.bias"][0], b["leave.bias"][0] = 10.0, -10.0
    data = [torch.randn(6, 4, generator=torch.Generator().manual_seed(0))]
    assert {e.axis.space for e in cross_moments(structure, module, a, a, data)} == {"0"}
    for one, two in ((a, b), (b, a)):
        with pytest.raises(InputError, match=r"do not run through the same functions.*'enter\.weight'"):
            cross_moments(structure, module, one, two, data)


def test_covered_names_the_spaces_of_all_axes():
    def entry(axis):
        return Activation(axis, torch.zeros(axis.size, axis.size, dtype=torch.float64), 3, 1)

    heads = Product((Units("heads", 2), Units("inner", 3), Fixed(1)))
    assert covered([entry(heads), entry(Units("fc", 4))]) == {"heads", "inner", "fc"}
    assert covered([]) == frozenset()
