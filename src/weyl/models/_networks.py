"""The modules behind the built-in models: plain ``torch.nn``, nothing that a user would not write."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = [
    "ACTIVATIONS",
    "RECURRENT",
    "RecurrentClassifier",
    "ResNet",
    "TokenTransformer",
    "chain_cnn",
    "dense_chain",
]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "identity": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}

RECURRENT: dict[str, Callable[..., nn.RNNBase]] = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}


def dense_chain(widths: tuple[int, ...], act: str, bias: bool) -> nn.Sequential:
    """Linear layers with an activation between any two of them."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        layers[f"fc{i}"] = nn.Linear(inputs, outputs, bias=bias)
        if i < len(widths) - 1:
            layers[f"act{i}"] = ACTIVATIONS[act]()
    return nn.Sequential(layers)


def chain_cnn(
    widths: tuple[int, ...], act: str, norm: bool, in_channels: int, num_classes: int, size: int
) -> nn.Sequential:
    """Convolution, optional BatchNorm, activation and 2×2 pooling per width, then one linear layer."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (inputs, outputs) in enumerate(pairwise((in_channels, *widths)), start=1):
        # BatchNorm subtracts the mean, so a bias before it would be dead.
        layers[f"conv{i}"] = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not norm)
        if norm:
            layers[f"bn{i}"] = nn.BatchNorm2d(outputs)
        layers[f"act{i}"] = ACTIVATIONS[act]()
        layers[f"pool{i}"] = nn.MaxPool2d(2)
    side = size >> len(widths)
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(widths[-1] * side * side, num_classes)
    return nn.Sequential(layers)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with BatchNorm and a shortcut (He et al. 2016, Fig. 2), by torchvision's names."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Float[Tensor, "n inputs h w"]) -> Float[Tensor, "n outputs h2 w2"]:
        """Return ``relu(shortcut(x) + residual(x))``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + shortcut)


class ResNet(nn.Module):
    """Stem, stages of `BasicBlock` (``layer1``, ``layer2``, …), global average and ``fc``.

    Every stage after the first halves the image. ``imagenet_stem`` is the 7×7 stride-2 convolution with max
    pooling; otherwise the stem is one 3×3 convolution.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        blocks: int,
        in_channels: int,
        num_classes: int,
        imagenet_stem: bool = False,
    ) -> None:
        super().__init__()
        kernel, stride = (7, 2) if imagenet_stem else (3, 1)
        self.conv1 = nn.Conv2d(in_channels, widths[0], kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if imagenet_stem else nn.Identity()
        self.stages = len(widths)
        for i, outputs in enumerate(widths):
            inputs = widths[max(i - 1, 0)]
            stage = [BasicBlock(inputs, outputs, stride=1 if i == 0 else 2)]
            stage += [BasicBlock(outputs, outputs, stride=1) for _ in range(blocks - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n classes"]:
        """Return the logits."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for i in range(self.stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return self.fc(self.avgpool(x).flatten(1))


class TokenTransformer(nn.Module):
    """Embedding, `torch.nn.TransformerEncoderLayer` blocks, final LayerNorm and a linear head.

    Causal: the head gives next-token logits at every position. Otherwise it classifies the mean over
    positions.
    """

    def __init__(
        self,
        *,
        vocab: int,
        dim: int,
        heads: int,
        layers: int,
        hidden: int,
        length: int,
        causal: bool,
        num_classes: int,
        act: str,
        norm_first: bool,
        tied: bool,
    ) -> None:
        super().__init__()
        self.causal = causal
        self.embed = nn.Embedding(vocab, dim)
        self.position = nn.Embedding(length, dim)
        # Not nn.TransformerEncoder: it copies one layer, so that all layers would start with equal weights.
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                dim, heads, hidden, dropout=0.0, activation=act, batch_first=True, norm_first=norm_first
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocab if causal else num_classes, bias=not causal)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Int[Tensor, "n length"]) -> Tensor:
        """Return logits, ``(n, length, vocab)`` when causal, ``(n, classes)`` otherwise."""
        length = ids.shape[1]
        mask = None
        if self.causal:
            mask = nn.Transformer.generate_square_subsequent_mask(length, device=ids.device)
        x = self.embed(ids) + self.position.weight[:length]
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=self.causal)
        x = self.norm(x)
        return self.head(x if self.causal else x.mean(dim=1))


class RecurrentClassifier(nn.Module):
    """A recurrent network whose outputs, averaged over time, feed one linear layer."""

    def __init__(
        self, *, cell: str, inputs: int, hidden: int, layers: int, bidirectional: bool, num_classes: int
    ) -> None:
        super().__init__()
        make = RECURRENT[cell]
        self.rnn = make(inputs, hidden, num_layers=layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(hidden * (2 if bidirectional else 1), num_classes)

    def forward(self, x: Float[Tensor, "n length inputs"]) -> Float[Tensor, "n classes"]:
        """Return the logits."""
        outputs, _ = self.rnn(x)
        return self.head(outputs.mean(dim=1))
