"""Norms without gains: the same function, and a residual stream that may be rotated."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import weyl
from weyl.groups import GaugeKind
from weyl.orbits._fold import fold_norms
from weyl.structure import Structure
from weyl.testing import force

D, TOKENS = 8, 11
KINDS = {nn.RMSNorm: GaugeKind.ORTHOGONAL, nn.LayerNorm: GaugeKind.CENTRED}
SYMBOLS = {nn.RMSNorm: "O_8", nn.LayerNorm: "(O_7 × Z2)"}


class MyRMSNorm(nn.Module):
    """Written by hand, as in many repositories."""

    def __init__(self, d, eps=1e-5):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(d)), eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps))


class MyLayerNorm(MyRMSNorm):
    def __init__(self, d):
        super().__init__(d)
        self.bias = nn.Parameter(torch.zeros(d))

    def forward(self, x):
        x = x - x.mean(-1, keepdim=True)
        return self.weight * (x / (x.var(-1, unbiased=False, keepdim=True) + self.eps).sqrt()) + self.bias


class ShiftedRMSNorm(MyRMSNorm):
    """Its gain is one more than its parameter."""

    def forward(self, x):
        return super().forward(x) + x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


class PreNorm(nn.Module):
    def __init__(self, norm=nn.LayerNorm, bias=True, tied=False, layers=1):
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, D)
        self.layers = nn.ModuleList(Layer(norm, bias) for _ in range(layers))
        self.last, self.head = norm(D), nn.Linear(D, TOKENS, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.last(x))


class Layer(nn.Module):
    def __init__(self, norm, bias):
        super().__init__()
        self.n1, self.n2 = norm(D), norm(D)
        self.q, self.k, self.v, self.o = (nn.Linear(D, D, bias=bias) for _ in range(4))
        self.up, self.down = nn.Linear(D, 12, bias=bias), nn.Linear(12, D, bias=bias)

    def forward(self, x):
        h = self.n1(x)
        q, k, v = (part(h).unflatten(-1, (2, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class Reads(nn.Module):
    """A stream, a norm, and something that reads the norm."""

    def __init__(self, read, norm=None, /, **parts):
        super().__init__()
        self.write, self.norm, self._read = nn.Linear(3, D), norm or nn.LayerNorm(D), read
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        return self._read(self, self.norm(self.write(x)), x)


def drawn(model, seed=0, dtype=torch.float64):
    """Weights in general position: gains of both signs, no biases of zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator).div(2))
    return model.to(dtype).eval()


def tokens():
    return torch.randint(0, TOKENS, (2, 5), generator=torch.Generator().manual_seed(1))


def rows(dtype=torch.float64):
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(2)).to(dtype)


def joined(result):
    return result if isinstance(result, torch.Tensor) else torch.cat(result, -1)


def assert_same(found, model, *inputs, tolerance=1e-12, output=joined, **kwargs):
    with torch.no_grad():
        expected, got = output(model(*inputs, **kwargs)), output(found.model(*inputs, **kwargs))
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def stream(structure: Structure, kind: GaugeKind):
    """The gauge that rotates the stream."""
    (gauge,) = (gauge for gauge in structure.gauges if gauge.kind is kind)
    return gauge


# ---------------------------------------------------------------------- the function, and the group
@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from(list(KINDS)), st.booleans(), st.booleans(), st.booleans())
def test_the_function_stays_and_the_stream_rotates(seed, norm, bias, tied, training):
    model = drawn(PreNorm(norm, bias, tied), seed).train(training)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = fold_norms(model, (tokens(),))
    assert found.folded == ("layers.0.n1", "layers.0.n2", "last") and not found.left
    assert found.untied == (("head.weight",) if tied else ())
    assert torch.equal(torch.get_rng_state(), random)
    assert_same(found, model, tokens())
    assert [type(module) for module in found.model.modules() if isinstance(module, norm)] == [norm] * 3
    assert not any(".n1." in name or ".n2." in name or "last" in name for name in found.model.state_dict())
    assert {module.training for module in found.model.modules()} == {training}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    structure = weyl.discover(found.model, (tokens(),))
    assert structure.group.symbol.startswith(SYMBOLS[norm] + " × ")
    element = structure.group.random(seed=seed, kinds=("mix",))
    moved = weyl.act(element, structure, found.model.state_dict())
    assert (moved["embedding.weight"] - found.model.embedding.weight).abs().max() > 1e-3
    twin = copy.deepcopy(found.model)
    twin.load_state_dict(moved)
    assert_same(replace(found, model=twin), model, tokens(), tolerance=1e-10)


@pytest.mark.parametrize("norm", list(KINDS))
def test_verified_and_refuted(norm):
    """A rotation of the stream holds after folding; forced on the model as it was, or on a wrong line, it fails."""
    model = drawn(PreNorm(norm, layers=2))
    found = fold_norms(model, (tokens(),))
    structure = weyl.discover(found.model, (tokens(),))
    proof = weyl.verify(found.model, (tokens(),), structure=structure)
    assert proof.holds and proof.kinds["mix"].detected
    gauge = stream(structure, KINDS[norm])
    places = [(name, w.dim, w.exponent) for name, ws in structure.weights[gauge.name].items() for w in ws]

    def verdict(net, kind):
        known = weyl.discover(net, (tokens(),))
        spaces = {name for name, _ in known.space(gauge_space(known)).occurrences}
        assert "embedding.weight" in spaces
        return weyl.verify(net, (tokens(),), structure=force(known, kind, gauge_space(known), places), trials=1).verdict

    assert verdict(found.model, KINDS[norm]) == "holds"
    assert verdict(model, KINDS[norm]) == "fails"
    other = GaugeKind.LINEAR if norm is nn.RMSNorm else GaugeKind.ORTHOGONAL
    assert verdict(found.model, other) == "fails"


def gauge_space(structure):
    (name,) = (space.name for space in structure.spaces if ("embedding.weight", 1) in space.occurrences)
    return name


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("norm", [nn.RMSNorm, MyRMSNorm, nn.LayerNorm, MyLayerNorm])
def test_precisions(norm, dtype, tolerance):
    model = drawn(PreNorm(norm, tied=True), dtype=dtype)
    found = fold_norms(model, (tokens(),))
    assert type(found.model.last) is (nn.RMSNorm if "RMS" in norm.__name__ else nn.LayerNorm)
    assert len(found.folded) == 3 and not found.left and {p.dtype for p in found.model.parameters()} == {dtype}
    assert not any("float32" in note for note in found.notes)
    assert_same(found, model, tokens(), tolerance=tolerance)


def test_the_group_before_is_smaller():
    """Control: with the gains in place there is no rotation to be found."""
    structure = weyl.discover(drawn(PreNorm(nn.RMSNorm)), (tokens(),))
    assert not any(gauge.kind in KINDS.values() for gauge in structure.gauges)


# ---------------------------------------------------------------------- tied, shared, trained
def test_untying_only_where_it_must():
    model = drawn(PreNorm(nn.RMSNorm, tied=True))
    found = fold_norms(model, (tokens(),))
    assert found.model.head.weight is not found.model.embedding.weight
    assert model.head.weight is model.embedding.weight
    assert torch.equal(found.model.embedding.weight, model.embedding.weight)
    with torch.no_grad():
        model.last.weight[3] = 0  # no head of its own would help
    kept = fold_norms(model, (tokens(),))
    assert kept.untied == () and kept.model.head.weight is kept.model.embedding.weight
    assert kept.folded == ("layers.0.n1", "layers.0.n2") and kept.left["last"].startswith("1 of its gains are zero")
    assert_same(kept, model, tokens())


def test_a_norm_that_is_applied_twice_and_one_gain_of_two_norms():
    shared = drawn(PreNorm(nn.LayerNorm, layers=2))
    shared.layers[1] = shared.layers[0]
    found = fold_norms(shared, (tokens(),))
    assert found.folded == ("layers.0.n1", "layers.0.n2", "last")
    assert found.model.layers[1].n1 is found.model.layers[0].n1 and found.model.layers[1].n1.weight is None
    assert_same(found, shared, tokens())
    tied = drawn(PreNorm(nn.RMSNorm))
    tied.layers[0].n2.weight = tied.layers[0].n1.weight
    found = fold_norms(tied, (tokens(),))
    assert len(found.folded) == 3 and not found.left
    assert_same(found, tied, tokens())


def test_two_norms_with_one_reader_are_left():
    model = drawn(PreNorm(nn.RMSNorm, layers=2))
    model.layers[1].up.weight = model.layers[0].up.weight
    found = fold_norms(model, (tokens(),))
    assert found.left.keys() == {"layers.0.n2", "layers.1.n2"}
    assert "shared" in found.left["layers.0.n2"]
    assert_same(found, model, tokens())


def test_what_is_trained_stays_so():
    model = drawn(PreNorm(nn.LayerNorm, bias=False))
    model.layers[0].up.weight.requires_grad_(False)
    found = fold_norms(model, (tokens(),))
    trained = {name: p.requires_grad for name, p in found.model.named_parameters()}
    assert not trained["layers.0.up.weight"] and not trained["layers.0.up.bias"]
    assert trained["layers.0.q.weight"] and trained["layers.0.q.bias"]
    assert "layers.0.up.bias is new: it takes up the bias of a norm" in found.notes


# ---------------------------------------------------------------------- readers
def linear_of(name="read"):
    return lambda self, h, x: getattr(self, name)(h)


FOLDS = {
    "linear": lambda: Reads(linear_of(), read=nn.Linear(D, 2)),
    "no bias": lambda: Reads(linear_of(), read=nn.Linear(D, 2, bias=False)),
    "views": lambda: Reads(lambda s, h, x: s.read(h.unsqueeze(1).transpose(0, 1)[:, :3]), read=nn.Linear(D, 2)),
    "transposed matrix": lambda: Reads(lambda s, h, x: h @ s.read.weight.t() + s.read.bias, read=nn.Linear(D, 2)),
    "addmm": lambda: Reads(lambda s, h, x: torch.addmm(s.read.bias, h, s.read.weight.t()), read=nn.Linear(D, 2)),
    "columns": lambda: Reads(lambda s, h, x: torch.addmm(s.read.bias, h, s.read.weight), read=nn.Linear(D, D)),
    "two readers": lambda: Reads(lambda s, h, x: s.a(h) * s.b(h), a=nn.Linear(D, 2), b=nn.Linear(D, 2, bias=False)),
}
BIAS_STAYS = {
    "the reader reads more": lambda: Reads(lambda s, h, x: s.read(h) + s.read(2 * h), read=nn.Linear(D, 2)),
    "something between": lambda: Reads(lambda s, h, x: s.read(h - h.mean(0)), read=nn.Linear(D, 2)),
    "a bias of two": lambda: Reads(lambda s, h, x: s.read(h) + x[:, :2] * s.read.bias, read=nn.Linear(D, 2)),
    "a convolution": lambda: Reads(lambda s, h, x: s.read(h.mT.reshape(1, D, 4)), read=nn.Conv1d(D, 2, 3, padding=1)),
    "a matrix": lambda: Reads(lambda s, h, x: F.linear(h, s.read.weight), read=nn.Linear(D, 2, bias=False)),
}
LEFT = {
    "relu": (lambda: Reads(lambda s, h, x: s.read(h.relu()), read=nn.Linear(D, 2)), "aten.relu.default"),
    "sum": (lambda: Reads(lambda s, h, x: s.read(h + s.write(x)), read=nn.Linear(D, 2)), "aten.add.Tensor"),
    "tanh": (lambda: Reads(lambda s, h, x: s.read(h.tanh()), read=nn.Linear(D, 2)), "aten.tanh.default"),
    "another norm": (
        lambda: Reads(lambda s, h, x: (h * s.other(s.write(x))).sum(-1), nn.RMSNorm(D), other=nn.RMSNorm(D)),
        "aten.mul.Tensor",
    ),
    "output": (lambda: Reads(lambda s, h, x: (h, s.read(h)), read=nn.Linear(D, 2)), "the output of the model"),
    "class": (lambda: Reads(linear_of(), ShiftedRMSNorm(D), read=nn.Linear(D, 2)), "does not compute"),
}


@pytest.mark.parametrize("case", FOLDS)
def test_readers_take_gain_and_bias(case):
    model = drawn(FOLDS[case]())
    found = fold_norms(model, (rows(),))
    bias_stays = case == "transposed matrix"  # what is added is not part of the linear operator
    assert found.folded == ("norm",) and bool(found.left) is bias_stays
    assert (found.model.norm.bias is None) is not bias_stays
    assert_same(found, model, rows())


@pytest.mark.parametrize("case", BIAS_STAYS)
def test_biases_that_stay(case):
    """The gain moves; a bias whose constant would come out wrong does not."""
    model = drawn(BIAS_STAYS[case]())
    found = fold_norms(model, (rows(),))
    assert found.folded == ("norm",) and "bias stays" in found.left["norm"]
    assert found.model.norm.weight is None and found.model.norm.bias is not None
    assert_same(found, model, rows())


@pytest.mark.parametrize("case", LEFT)
def test_norms_that_are_left(case):
    make, reason = LEFT[case]
    model = drawn(make())
    found = fold_norms(model, (rows(),))
    assert found.folded == () and reason in found.left["norm"]
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in found.model.state_dict().items())
    assert_same(found, model, rows(), tolerance=0)


def test_attention_of_torch():
    layer = nn.TransformerEncoderLayer(D, 2, 12, norm_first=True, batch_first=True)
    model = nn.Sequential(nn.Linear(3, D), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(D, 2))
    model = drawn(model)
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(3)).double()
    found = fold_norms(model, (x,))
    assert len(found.folded) == 4 and not found.left
    assert sum("fused path" in note for note in found.notes) == 2
    assert_same(found, model, x)
    kinds = [gauge.kind for gauge in weyl.discover(found.model, (x,)).gauges]
    assert kinds.count(GaugeKind.CENTRED) == 1
    assert not any(gauge.kind is GaugeKind.CENTRED for gauge in weyl.discover(model, (x,)).gauges)


def test_gains_that_cannot_be_moved():
    model = drawn(Reads(linear_of(), read=nn.Linear(D, 2)))
    with torch.no_grad():
        model.norm.weight[0] = float("nan")
    assert "not finite" in fold_norms(model, (rows(),)).left["norm"]
    model = drawn(Reads(linear_of(), read=nn.Linear(D, 2)))
    model.norm.register_forward_hook(lambda module, inputs, result: result * 2)
    assert "hooks" in fold_norms(model, (rows(),)).left["norm"]
    model = drawn(Reads(linear_of(), read=nn.Linear(D, 2), spare=nn.LayerNorm(D)))
    found = fold_norms(model, (rows(),))
    assert found.folded == ("norm",) and "not used" in found.left["spare"]
    bare = fold_norms(found.model, (rows(),))
    assert bare.folded == () and "norm" not in bare.left
    nothing = fold_norms(nn.Linear(3, 2), (rows(torch.float32),))
    assert nothing.notes == ("the model has no layer or RMS norm with a gain",)


def test_a_structure_may_be_given():
    model = drawn(PreNorm(nn.RMSNorm))
    held = weyl.discover(model, (tokens(),), fixed=["layers.0.up.weight"])
    found = fold_norms(model, (tokens(),), structure=held)
    assert found.folded == ("layers.0.n1", "last") and "held still" in found.left["layers.0.n2"]
    assert torch.equal(found.model.layers[0].up.weight, model.layers[0].up.weight)
    assert_same(found, model, tokens())
    with pytest.raises(weyl.StructureError):
        fold_norms(model, (tokens(),), structure=weyl.discover(nn.Linear(3, 2), (rows(torch.float32),)))


def test_what_is_held_stays_when_a_head_is_untied():
    model = drawn(PreNorm(nn.RMSNorm, tied=True))
    held = weyl.discover(model, (tokens(),), fixed=["layers.0.up.weight"])
    found = fold_norms(model, (tokens(),), structure=held)
    assert found.untied == ("head.weight",) and found.folded == ("layers.0.n1", "last")
    assert torch.equal(found.model.layers[0].up.weight, model.layers[0].up.weight)
    assert_same(found, model, tokens())
    held = weyl.discover(model, (tokens(),), fixed=["head.weight"])
    found = fold_norms(model, (tokens(),), structure=held)
    assert found.untied == () and "last" in found.left
    assert torch.equal(found.model.head.weight, model.head.weight)


def test_signs_in_another_basis():
    """Generators of the same group: flips of the first norm come with a flip of the whole stream."""
    model = drawn(PreNorm(nn.RMSNorm))
    structure = weyl.discover(model, (tokens(),))
    signs = [g.name for g in structure.gauges if g.kind is GaugeKind.SIGN and g.space == gauge_space(structure)]
    (whole,) = (name for name in signs if "embedding.weight" in structure.weights[name])
    (first,) = (name for name in signs if name != whole and "layers.0.n1.weight" in structure.weights[name])
    rows = [structure.weights[name] for name in (whole, first)]
    both = {name: ws for a, b in (rows, rows[::-1]) for name, ws in a.items() if name not in b}
    other = replace(structure, weights={**structure.weights, first: both})
    assert len(both) < len(rows[0]) + len(rows[1]) and bool((model.layers[0].n1.weight < 0).any())
    found = fold_norms(model, (tokens(),), structure=other)
    assert len(found.folded) == 3
    assert_same(found, model, tokens())
    for name, tensor in fold_norms(model, (tokens(),)).model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor)
    without = tuple(gauge for gauge in structure.gauges if gauge.name != first)
    weights = {name: tensors for name, tensors in structure.weights.items() if name != first}
    kept = fold_norms(model, (tokens(),), structure=replace(structure, gauges=without, weights=weights))
    assert kept.left.keys() == {"layers.0.n1"}


def test_refusals():
    with torch.device("meta"):
        meta = nn.Sequential(nn.Linear(3, D), nn.LayerNorm(D), nn.Linear(D, 2))
    with pytest.raises(weyl.InputError, match="load the weights"):
        fold_norms(meta, (torch.zeros(1, 3, device="meta"),))
    with pytest.raises(weyl.InputError, match="tuple"):
        fold_norms(nn.Linear(3, 2), torch.zeros(1, 3))


# ---------------------------------------------------------------------- models of transformers
def tiny(name, **fields):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **fields}
    config = getattr(transformers, f"{name}Config")(**sizes)
    kind = "Model" if name == "Bert" else "LMHeadModel" if name == "GPT2" else "ForCausalLM"
    return getattr(transformers, name + kind)(config)


SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": D, "intermediate_size": 12}


def logits(result):
    return result.logits


def test_llama():
    """Its norm rounds to float32, which torch's does not: the functions agree to float32 only."""
    fields = {**SIZES, "num_key_value_heads": 1, "max_position_embeddings": 8}
    model = drawn(tiny("Llama", **fields))
    inputs, kwargs = (tokens(),), {"use_cache": False}
    found = fold_norms(model, inputs, kwargs, output=logits)
    assert len(found.folded) == 5 and not found.left and not found.untied
    assert sum("rounds to float32" in note for note in found.notes) == 5
    assert_same(found, model, *inputs, tolerance=1e-5, output=logits, **kwargs)
    structure = weyl.discover(found.model, inputs, kwargs, output=logits)
    gauge = stream(structure, GaugeKind.ORTHOGONAL)
    assert structure.space(gauge.space).size == D
    assert weyl.verify(found.model, inputs, kwargs, structure=structure, output=logits).holds
    before = weyl.discover(model, inputs, kwargs, output=logits)
    assert structure.group.dimension == before.group.dimension - 5 * D + D * (D - 1) // 2


def test_gpt2():
    model = drawn(tiny("GPT2", n_layer=2, n_head=2, n_embd=D, n_positions=8))
    inputs, kwargs = (tokens(),), {"use_cache": False}
    found = fold_norms(model, inputs, kwargs, output=logits)
    assert len(found.folded) == 5 and not found.left and found.untied == ("lm_head.weight",)
    assert found.model.config.tie_word_embeddings is False and model.config.tie_word_embeddings is True
    assert_same(found, model, *inputs, output=logits, **kwargs)
    found.model.tie_weights()
    assert_same(found, model, *inputs, output=logits, **kwargs)
    structure = weyl.discover(found.model, inputs, kwargs, output=logits)
    gauge = stream(structure, GaugeKind.CENTRED)
    turned = structure.weights[gauge.name].keys()
    assert {"transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"} <= turned
    assert weyl.verify(found.model, inputs, kwargs, structure=structure, output=logits).holds


def test_bert_is_left():
    """Post-norm: what a norm returns is the stream itself."""
    model = drawn(tiny("Bert", **SIZES, max_position_embeddings=8))
    found = fold_norms(model, (tokens(),), output=lambda result: result.last_hidden_state)
    assert found.folded == () and len(found.left) == 5
    assert "aten.add.Tensor" in found.left["encoder.layer.0.attention.output.LayerNorm"]
    assert "the output of the model" in found.left["encoder.layer.1.output.LayerNorm"]
