"""Orders as exact integers: the closed formulas, ResNet-18, and models of ``transformers`` by formulas of their config.

Every formula is written from the architecture, before anything is discovered. Facts that several share:

* a residual stream is one space of ``d`` units for all layers (S_d), also under LayerNorm and RMSNorm;
* an attention layer has ``H`` heads that may be exchanged; inside each, the dimensions of queries and keys move
  together, and those of values and the output: S_H and 2H copies of S_dh, hence ``H! · (dh!)^(2H)``;
* rotary positions give each dimension of queries and keys its own frequency: only the values' half is left;
* with fewer key-value heads, ``kv``, than heads, each serves a run of H/kv query heads: ``kv! · ((H/kv)!)^kv``, and
  values have one space of dh for each of the kv heads;
* vocabulary, positions, image places and classes are named by inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import factorial as f
from math import log10, prod
from typing import Any

import pytest
import torch
from tests.laws.checks import assert_preserved, double
from tests.laws.nets import lin
from torch import Tensor, nn

import weyl
from weyl.models import resnet18

transformers = pytest.importorskip("transformers")

FLOAT64 = 1e-9
# these compute norms, softmax or gates in float32 whatever the weights are
FLOAT32 = 2e-4

# ------------------------------------------------------------------ THEORY 1.1


@pytest.mark.parametrize(
    ("hidden", "digits"), [((10,), 6.5598), ((10, 10), 13.1195), ((128, 128), 431.17), ((512, 512, 512), 3499.62)]
)
def test_feedforward(hidden: tuple[int, ...], digits: float) -> None:
    widths = (784, *hidden, 10)
    model = nn.Sequential(*(m for a, b in pairwise(widths) for m in (lin(a, b), nn.ReLU())))
    order = weyl.discover(model[:-1], (torch.zeros(1, 784),)).group.permutation_order
    expected = prod(f(n) for n in hidden)
    assert int(order) == expected == int(weyl.feedforward_order(hidden))
    assert order.log10 == pytest.approx(digits, abs=0.005) == log10(expected)
    assert int(order) != prod(f(n) for n in (*hidden, 10)), "control: outputs are not hidden"


@pytest.mark.parametrize("hidden", [(10,), (5, 7), (128, 128)])
def test_feedforward_with_signs_and_scales(hidden: tuple[int, ...]) -> None:
    """tanh is odd: 2^n n! a layer. ReLU is homogeneous: a positive scale for every unit, and no sign."""

    def group(activation: Callable[[], nn.Module]) -> weyl.Group:
        layers = [m for a, b in pairwise((4, *hidden, 3)) for m in (lin(a, b), activation())]
        return weyl.discover(nn.Sequential(*layers[:-1]), (torch.zeros(1, 4),)).group

    odd, homogeneous, neither = group(nn.Tanh), group(nn.ReLU), group(nn.GELU)
    permutations = prod(f(n) for n in hidden)
    assert [int(g.permutation_order) for g in (odd, homogeneous, neither)] == [permutations] * 3
    assert [int(g.order) for g in (odd, homogeneous, neither)] == [2 ** sum(hidden) * permutations, *[permutations] * 2]
    assert [g.dimension for g in (odd, homogeneous, neither)] == [0, sum(hidden), 0]


@pytest.mark.parametrize("head", ["flattened", "averaged"])
def test_convolutional(head: str) -> None:
    filters = (64, 128, 256, 512)
    layers: list[nn.Module] = []
    for a, b in zip((3, *filters), filters, strict=False):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.AdaptiveAvgPool2d(1 if head == "averaged" else 2), nn.Flatten()]
    layers += [lin(512 * (1 if head == "averaged" else 4), 10)]
    order = weyl.discover(nn.Sequential(*layers), (torch.zeros(1, 3, 32, 32),)).group.permutation_order
    assert int(order) == prod(f(n) for n in filters) == int(weyl.convolutional_order(filters))
    assert order.log10 == pytest.approx(1978.16, abs=0.005)


def test_resnet18() -> None:
    """The stem and stage 1's residual stream are one space of 64, its two blocks have one of 64 each; and so on."""
    loaded = resnet18()
    model = loaded.module.double()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    structure = assert_preserved(model, (x,), seeds=(1,))
    assert int(structure.group.permutation_order) == (f(64) * f(128) * f(256) * f(512)) ** 3
    assert structure.group.permutation_order.log10 == pytest.approx(5934.5, abs=0.05)
    assert structure.opaque == ()


# ------------------------------------------------------------------ transformers
IDS = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0))
Made = tuple[nn.Module, dict[str, Any], int, float]


def logits(result: Any) -> Tensor:
    return result.logits


def attention(heads: int, size: int) -> int:
    return f(heads) * f(size) ** (2 * heads)


def shared_attention(heads: int, shared: int, size: int) -> int:
    """Rotary, with ``shared`` key-value heads."""
    return f(shared) * f(heads // shared) ** shared * f(size) ** shared


def bert() -> Made:
    d, heads, ff, layers = 24, 3, 40, 2
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=d, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=ff
    )
    # the pooler is a dense layer with units of its own before the classifier
    order = f(d) * f(d) * (attention(heads, d // heads) * f(ff)) ** layers
    return transformers.BertForSequenceClassification(config), {"input_ids": IDS}, order, FLOAT64


def gpt2() -> Made:
    d, heads, layers = 24, 3, 2
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=32, n_embd=d, n_layer=layers, n_head=heads, use_cache=False
    )
    # queries, keys and values come from one projection, which changes nothing; the hidden size is 4d
    order = f(d) * (attention(heads, d // heads) * f(4 * d)) ** layers
    return transformers.GPT2LMHeadModel(config), {"input_ids": IDS}, order, FLOAT64


def llama() -> Made:
    d, heads, shared, ff, layers = 32, 4, 2, 48, 2
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=d,
        intermediate_size=ff,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        use_cache=False,
    )
    order = f(d) * (shared_attention(heads, shared, d // heads) * f(ff)) ** layers
    return transformers.LlamaForCausalLM(config), {"input_ids": IDS}, order, FLOAT32


def mixtral() -> Made:
    d, heads, shared, ff, layers, experts = 32, 4, 2, 48, 2, 4
    config = transformers.MixtralConfig(
        vocab_size=50,
        hidden_size=d,
        intermediate_size=ff,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        num_local_experts=experts,
        use_cache=False,
        experts_implementation="batched_mm",
    )
    # experts move with their row of the router; each has hidden units of its own
    mixture = f(experts) * f(ff) ** experts
    order = f(d) * (shared_attention(heads, shared, d // heads) * mixture) ** layers
    return transformers.MixtralForCausalLM(config), {"input_ids": IDS}, order, FLOAT32


def t5() -> Made:
    d, size, ff, layers, heads = 24, 8, 40, 2, 3
    config = transformers.T5Config(
        vocab_size=50, d_model=d, d_kv=size, d_ff=ff, num_layers=layers, num_heads=heads, use_cache=False
    )
    # One embedding serves both stacks, so both residual streams are one space. The table of relative positions of the
    # first layer serves every layer of its stack, so the heads of self-attention are one space a stack; heads of
    # cross-attention have no positions and are free in every layer. Dimensions inside heads are free everywhere.
    inside = f(size) ** (2 * heads)
    encoder = f(heads) * (inside * f(ff)) ** layers
    decoder = f(heads) * (inside * f(heads) * inside * f(ff)) ** layers
    model = transformers.T5ForConditionalGeneration(config)
    return model, {"input_ids": IDS, "decoder_input_ids": IDS}, f(d) * encoder * decoder, FLOAT32


def vit() -> Made:
    d, heads, ff, layers = 24, 3, 40, 2
    config = transformers.ViTConfig(
        hidden_size=d,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=ff,
        image_size=16,
        patch_size=4,
    )
    order = f(d) * (attention(heads, d // heads) * f(ff)) ** layers
    return transformers.ViTForImageClassification(config), {"pixel_values": image(16)}, order, FLOAT64


def convnext() -> Made:
    sizes, depths = (8, 12, 16, 20), (1, 1, 2, 1)
    config = transformers.ConvNextConfig(hidden_sizes=list(sizes), depths=list(depths))
    # a stream a stage (the depthwise convolution stays in it); every block widens it four times
    order = prod(f(n) * f(4 * n) ** depth for n, depth in zip(sizes, depths, strict=True))
    return transformers.ConvNextForImageClassification(config), {"pixel_values": image(64)}, order, FLOAT64


def resnet50() -> Made:
    stem, sizes, depths, reduction = 6, (16, 24, 32, 40), (3, 4, 6, 3), 4
    config = transformers.ResNetConfig(embedding_size=stem, hidden_sizes=list(sizes), depths=list(depths))
    return (
        transformers.ResNetForImageClassification(config),
        {"pixel_values": image(64)},
        bottlenecks(stem, sizes, depths, reduction),
        FLOAT64,
    )


def bottlenecks(stem: int, sizes: tuple[int, ...], depths: tuple[int, ...], reduction: int) -> int:
    """A stream a stage, entered through a projection (so the stem is a space of its own); two inner spaces a block."""
    stages = zip(sizes, depths, strict=True)
    return f(stem) * prod(f(n) * f(n // reduction) ** (2 * depth) for n, depth in stages)


def whisper() -> Made:
    d, heads, ff, layers = 24, 3, 40, 2
    config = transformers.WhisperConfig(
        vocab_size=60,
        d_model=d,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=ff,
        decoder_ffn_dim=ff,
        num_mel_bins=8,
        max_source_positions=10,
        max_target_positions=20,
        use_cache=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    # filters of the first convolution; the encoder's stream, which begins at the second; the decoder's
    encoder = f(d) * f(d) * (attention(heads, d // heads) * f(ff)) ** layers
    decoder = f(d) * (attention(heads, d // heads) ** 2 * f(ff)) ** layers
    inputs = {"input_features": torch.randn(1, 8, 20), "decoder_input_ids": IDS[:1]}
    return transformers.WhisperForConditionalGeneration(config), inputs, encoder * decoder, FLOAT64


def mamba() -> Made:
    d, state, rank, layers, expand = 16, 4, 3, 2, 2
    config = transformers.MambaConfig(
        vocab_size=50,
        hidden_size=d,
        num_hidden_layers=layers,
        state_size=state,
        use_cache=False,
        time_step_rank=rank,
        expand=expand,
    )
    # channels (the gate, the depthwise convolution, the step size and D follow them), the rank of the step size, and
    # the state, which B and C share over all channels
    order = f(d) * (f(expand * d) * f(rank) * f(state)) ** layers
    return transformers.MambaForCausalLM(config), {"input_ids": IDS}, order, FLOAT32


def swin() -> Made:
    width, depths, heads = 12, (2, 2), (2, 4)
    config = transformers.SwinConfig(
        image_size=32, patch_size=2, embed_dim=width, depths=list(depths), num_heads=list(heads), window_size=4
    )
    # a stream a stage, twice as wide after merging patches; every layer has a position table with a column a head
    order = 1
    for stage, (depth, number) in enumerate(zip(depths, heads, strict=True)):
        d = width * 2**stage
        order *= f(d) * (attention(number, d // number) * f(4 * d)) ** depth
    return transformers.SwinForImageClassification(config), {"pixel_values": image(32)}, order, FLOAT64


def image(size: int) -> Tensor:
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))


MODELS: list[Callable[[], Made]] = [bert, gpt2, llama, mixtral, t5, vit, convnext, resnet50, whisper, mamba, swin]


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore")
def test_models_of_transformers(make: Callable[[], Made]) -> None:
    torch.manual_seed(0)
    model, inputs, order, tolerance = make()
    model = model.double().eval()
    inputs = double(inputs)
    structure = assert_preserved(model, (), inputs, output=logits, tolerance=tolerance, seeds=(1,))
    assert int(structure.group.permutation_order) == order, repr(structure)
    assert structure.opaque == ()
    proof = weyl.verify(model, (), inputs, structure=structure, trials=1, output=logits)
    assert (proof.verdict, proof.precision) == ("holds", "float64"), proof
    assert proof.exact is None


@pytest.mark.parametrize("make", [t5, whisper], ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore")
def test_what_else_a_model_returns_is_held_still(make: Callable[[], Made]) -> None:
    """All of the output counts unless told otherwise: here the encoder's last hidden state pins a stream."""
    model, inputs, order, _ = make()
    d = model.config.d_model
    assert int(weyl.discover(model, (), inputs).group.permutation_order) == order // f(d)


@pytest.mark.filterwarnings("ignore")
def test_resnet50_without_weights() -> None:
    with torch.device("meta"):
        model = transformers.ResNetForImageClassification(transformers.ResNetConfig())
        x = torch.zeros(1, 3, 224, 224)
    order = weyl.discover(model, (), {"pixel_values": x}, output=logits).group.permutation_order
    assert int(order) == bottlenecks(64, (256, 512, 1024, 2048), (3, 4, 6, 3), 4)
