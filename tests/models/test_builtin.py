from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from weyl import models
from weyl.errors import ModelSpecError
from weyl.models import load_model

SPECS = [
    "mlp",
    "mlp?widths=12-8-8-3&act=tanh&bias=False",
    "cnn",
    "cnn?widths=4-6-8&norm=none&in_channels=3&num_classes=5&size=16",
    "resnet",
    "resnet?widths=4-8&blocks=2&in_channels=3&size=9",
    "transformer",
    "transformer?dim=12&heads=3&layers=1&causal=False&act=relu&norm_first=False&length=4",
    "transformer?tied=True",
    "lstm",
    "lstm?cell=gru&layers=2&bidirectional=True",
    "lstm?cell=rnn&inputs=3&hidden=5",
]


@pytest.mark.filterwarnings("ignore:The tensor attributes self.rnn:UserWarning")
@pytest.mark.parametrize("spec", SPECS)
def test_example_input_runs_and_exports(spec: str) -> None:
    loaded = load_model(spec)
    assert not loaded.module.training
    output = loaded.module(*loaded.args, **loaded.kwargs)
    assert output.shape[0] == 2
    assert output.isfinite().all()
    program = torch.export.export(loaded.module, loaded.args, dict(loaded.kwargs), strict=False)
    torch.testing.assert_close(program.module()(*loaded.args), output)


@pytest.mark.parametrize("spec", SPECS)
def test_a_seed_fixes_weights_and_leaves_the_global_state(spec: str) -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first, again, other = load_model(spec), load_model(spec), load_model(spec, seed=1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]
    weights = [torch.cat([p.flatten() for p in m.module.parameters()]) for m in (first, again, other)]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    torch.testing.assert_close(first.args[0], again.args[0], rtol=0, atol=0)
    assert not torch.equal(weights[0], weights[2])


def test_a_seed_in_the_spec_goes_before_the_argument() -> None:
    wanted, got = models.mlp("4-3-2", seed=5), load_model("mlp?widths=4-3-2&seed=5", seed=1)
    torch.testing.assert_close(got.module.state_dict(), wanted.module.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("widths", ["5-4-3", (5, 4, 3), [5, 4, 3]])
def test_mlp_widths_in_every_form(widths: object) -> None:
    module = models.mlp(widths).module
    assert [tuple(p.shape) for p in module.parameters() if p.ndim == 2] == [(4, 5), (3, 4)]
    assert sum(isinstance(m, nn.ReLU) for m in module) == 1


def test_cnn_without_norm_has_biases_instead() -> None:
    plain, normed = (models.cnn(norm=norm).module.state_dict() for norm in ("none", "batch"))
    assert "conv1.bias" in plain and "bn1.weight" not in plain
    assert "conv1.bias" not in normed and "bn1.running_mean" in normed


def test_resnet18_has_the_published_layout() -> None:
    module = models.resnet18().module
    state = module.state_dict()
    # 20 convolutions with 20 BatchNorms of five tensors each, and a linear layer of two.
    assert len(state) == 20 + 20 * 5 + 2
    # He et al. 2016, Table 1, by arithmetic: every stage after the first doubles the channels
    count = 3 * 64 * 49 + 2 * 64 + 4 * (64 * 64 * 9 + 2 * 64) + 512 * 1000 + 1000
    for c in (128, 256, 512):
        count += c * c // 2 * 9 + 3 * c * c * 9 + c * c // 2 + 5 * 2 * c
    assert sum(p.numel() for p in module.parameters()) == count
    for name, shape in {
        "conv1.weight": (64, 3, 7, 7),
        "layer1.1.conv2.weight": (64, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer4.0.downsample.1.running_var": (512,),
        "fc.weight": (1000, 512),
    }.items():
        assert tuple(state[name].shape) == shape
    assert not any("downsample" in name for name in state if name.startswith("layer1"))


def test_resnet_halves_the_image_after_the_first_stage() -> None:
    module = models.resnet(widths="4-6-8", size=28).module
    sides: dict[str, int] = {}
    for name in ("layer1", "layer2", "layer3"):
        module.get_submodule(name).register_forward_hook(
            lambda _module, _args, out, name=name: sides.update({name: out.shape[-1]})
        )
    module(torch.zeros(1, 1, 28, 28))
    assert sides == {"layer1": 28, "layer2": 14, "layer3": 7}


def test_causal_transformer_does_not_look_ahead() -> None:
    loaded = models.transformer()
    (ids,) = loaded.args
    changed = ids.clone()
    changed[:, -1] = (ids[:, -1] + 1) % 64
    before, after = loaded.module(ids), loaded.module(changed)
    torch.testing.assert_close(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


def test_transformer_layers_start_apart_and_ties_are_ties() -> None:
    module = models.transformer(layers=2, tied=True).module
    assert not torch.equal(module.layers[0].linear1.weight, module.layers[1].linear1.weight)
    assert module.head.weight is module.embed.weight


def test_an_input_shape_goes_before_the_example() -> None:
    assert load_model("resnet", input_shape=(1, 1, 32, 32)).args[0].shape == (1, 1, 32, 32)
    ids = load_model("transformer?vocab=5", input_shape=(3, 9)).args[0]
    assert ids.shape == (3, 9) and ids.dtype == torch.int64 and ids.max() < 5


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("mlp?widths=784", "at least 2 positive integers"),
        ("mlp?widths=784x10", "got '784x10'"),
        ("mlp?widths=784--10", "at least 2 positive integers"),
        ("mlp?widths=784-0-10", "positive integers"),
        ("mlp?widths=True", "positive integers"),
        ("mlp?act=rleu", "did you mean 'relu'"),
        ("mlp?act=3", "act must be one of"),
        ("mlp?bias=false", "bias must be True or False, got 'false'"),
        ("mlp?width=3-2", "did you mean 'widths'"),
        ("cnn?norm=layer", "norm must be one of batch, none"),
        ("cnn?widths=4-4-4-4-4", "size must be at least 32"),
        ("cnn?size=-1", "size must be a positive integer"),
        ("resnet?blocks=0", "blocks must be a positive integer"),
        ("resnet18?num_classes=1.5", "num_classes must be a positive integer"),
        ("transformer?dim=10&heads=4", "heads must divide dim"),
        ("transformer?tied=True&causal=False", "needs causal=True"),
        ("transformer?dim=x", "dim must be a positive integer"),
        ("lstm?cell=gur", "did you mean 'gru'"),
        ("mlp?seed=x", "the factory raised"),
    ],
)
def test_bad_values_are_refused_in_one_line(spec: str, says: str) -> None:
    with pytest.raises(ModelSpecError) as caught:
        load_model(spec)
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


def test_an_unknown_attribute_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="vgg"):
        models.vgg  # noqa: B018 (the access is the test)
