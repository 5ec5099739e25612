"""The built-in models: small networks by name, and ResNet-18 as torchvision lays it out.

Each factory returns a `LoadedModel` with example inputs. Example batches hold two samples and sequences seven
steps: numbers that do not coincide with a width, so that a positional axis cannot be taken for a hidden one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import torch
from torch import nn

from weyl.errors import ModelSpecError
from weyl.models._networks import (
    ACTIVATIONS,
    RECURRENT,
    RecurrentClassifier,
    ResNet,
    TokenTransformer,
    chain_cnn,
    dense_chain,
)
from weyl.models.loaded import LoadedModel, near, one_line, seeded

__all__ = ["BUILTINS", "cnn", "lstm", "mlp", "resnet", "resnet18", "transformer"]

BATCH = 2
STEPS = 7

Widths = str | int | Sequence[int]


def mlp(widths: Widths = "784-512-10", act: str = "relu", bias: bool = True, *, seed: int = 0) -> LoadedModel:
    """Build a fully connected network.

    Parameters
    ----------
    widths : str or sequence of int
        Input, hidden and output widths; ``"784-512-10"`` and ``(784, 512, 10)`` are the same.
    act : str
        Activation between two layers: elu, gelu, identity, leaky_relu, relu, sigmoid, silu, softplus or tanh.
    bias : bool
        Whether the layers have biases.
    seed : int
        Seed of the initial weights; the global generator is left as it was.

    Raises
    ------
    ModelSpecError
        If fewer than two widths are given, or a value is not what it should be.

    Examples
    --------
    >>> loaded = mlp("784-512-512-10")
    >>> [tuple(p.shape) for p in loaded.module.parameters() if p.ndim == 2]
    [(512, 784), (512, 512), (10, 512)]
    """
    sizes = _widths("mlp", widths, least=2)
    _one_of("mlp", "act", act, ACTIVATIONS)
    _flags("mlp", bias=bias)
    return _build("mlp", seed, partial(dense_chain, sizes, act, bias), (BATCH, sizes[0]))


def cnn(
    widths: Widths = "16-32",
    act: str = "relu",
    norm: str = "batch",
    in_channels: int = 1,
    num_classes: int = 10,
    size: int = 28,
    *,
    seed: int = 0,
) -> LoadedModel:
    """Build a chain of convolution, BatchNorm, activation and 2×2 max pooling with a linear layer at its end.

    Parameters
    ----------
    widths : str or sequence of int
        Channels after each convolution.
    act : str
        Activation, as for `mlp`.
    norm : {'batch', 'none'}
        Whether BatchNorm follows each convolution.
    in_channels, num_classes : int
        Channels of the image, and number of logits.
    size : int
        Height and width of the image; each pooling halves it.
    seed : int
        Seed of the initial weights; the global generator is left as it was.

    Raises
    ------
    ModelSpecError
        If a value is not what it should be, or the image is too small for that many poolings.

    Examples
    --------
    >>> cnn(widths="8-12", size=16).module.head
    Linear(in_features=192, out_features=10, bias=True)
    """
    channels = _widths("cnn", widths)
    _one_of("cnn", "act", act, ACTIVATIONS)
    _one_of("cnn", "norm", norm, ("batch", "none"))
    _counts("cnn", in_channels=in_channels, num_classes=num_classes, size=size)
    if size >> len(channels) < 1:
        raise ModelSpecError(
            f"cnn: size must be at least {2 ** len(channels)} for {len(channels)} poolings, got {size};"
            " give fewer widths or a larger size"
        )
    shape = (BATCH, in_channels, size, size)
    make = partial(chain_cnn, channels, act, norm == "batch", in_channels, num_classes, size)
    return _build("cnn", seed, make, shape)


def resnet(
    widths: Widths = "16-32-64",
    blocks: int = 1,
    in_channels: int = 1,
    num_classes: int = 10,
    size: int = 28,
    *,
    seed: int = 0,
) -> LoadedModel:
    """Build a small residual network with BatchNorm.

    A 3×3 stem, then one stage per width; every stage after the first halves the image.

    Parameters
    ----------
    widths : str or sequence of int
        Channels of each stage.
    blocks : int
        Basic blocks per stage.
    in_channels, num_classes, size : int
        Channels and side of the image, and number of logits.
    seed : int
        Seed of the initial weights; the global generator is left as it was.

    Raises
    ------
    ModelSpecError
        If a value is not what it should be.

    Examples
    --------
    >>> module = resnet(widths="8-16", blocks=2).module
    >>> sum(name.endswith("conv1.weight") for name in module.state_dict())
    5
    """
    stages = _widths("resnet", widths)
    _counts("resnet", blocks=blocks, in_channels=in_channels, num_classes=num_classes, size=size)
    shape = (BATCH, in_channels, size, size)
    return _build("resnet", seed, partial(ResNet, stages, blocks, in_channels, num_classes), shape)


def resnet18(num_classes: int = 1000, *, seed: int = 0) -> LoadedModel:
    """Build ResNet-18 with torchvision's layout and parameter names, so that its checkpoints fit.

    Parameters
    ----------
    num_classes : int
        Number of logits.
    seed : int
        Seed of the initial weights; the global generator is left as it was.

    Raises
    ------
    ModelSpecError
        If ``num_classes`` is not a positive integer.

    References
    ----------
    He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016, Table 1.

    Examples
    --------
    >>> sum(p.numel() for p in resnet18().module.parameters())
    11689512
    """
    _counts("resnet18", num_classes=num_classes)
    make = partial(ResNet, (64, 128, 256, 512), 2, 3, num_classes, imagenet_stem=True)
    return _build("resnet18", seed, make, (BATCH, 3, 224, 224))


def transformer(
    dim: int = 32,
    heads: int = 4,
    layers: int = 2,
    *,
    hidden: int | None = None,
    vocab: int = 64,
    length: int = 16,
    causal: bool = True,
    num_classes: int = 10,
    act: str = "gelu",
    norm_first: bool = True,
    tied: bool = False,
    seed: int = 0,
) -> LoadedModel:
    """Build a small language model, or an encoder that classifies, on `torch.nn.TransformerEncoderLayer`.

    Parameters
    ----------
    dim, heads, layers : int
        Width of the residual stream, attention heads (they divide ``dim``), and blocks.
    hidden : int, optional
        Width of the feed-forward layers, ``4 * dim`` unless given.
    vocab, length : int
        Size of the vocabulary and longest sequence.
    causal : bool
        Next-token logits at every position; otherwise logits for ``num_classes`` classes.
    num_classes : int
        Number of logits when not causal.
    act : {'gelu', 'relu'}
        Activation of the feed-forward layers.
    norm_first : bool
        LayerNorm before each sublayer instead of after it.
    tied : bool
        Use the embedding as the output layer, too; only when causal.
    seed : int
        Seed of the initial weights; the global generator is left as it was.

    Raises
    ------
    ModelSpecError
        If a value is not what it should be, or ``heads`` does not divide ``dim``.

    Examples
    --------
    >>> loaded = transformer(dim=8, heads=2, layers=1)
    >>> tuple(loaded.module(*loaded.args).shape)
    (2, 7, 64)
    """
    hidden = 4 * dim if hidden is None else hidden
    _counts("transformer", dim=dim, heads=heads, layers=layers, hidden=hidden, vocab=vocab, length=length)
    _counts("transformer", num_classes=num_classes)
    _flags("transformer", causal=causal, norm_first=norm_first, tied=tied)
    _one_of("transformer", "act", act, ("gelu", "relu"))
    if dim % heads:
        raise ModelSpecError(f"transformer: heads must divide dim, got dim={dim}, heads={heads}; change one")
    if tied and not causal:
        raise ModelSpecError("transformer: tied=True needs causal=True; a classifier has no second vocabulary")
    make = partial(
        TokenTransformer,
        dim=dim,
        heads=heads,
        layers=layers,
        hidden=hidden,
        vocab=vocab,
        length=length,
        causal=causal,
        num_classes=num_classes,
        act=act,
        norm_first=norm_first,
        tied=tied,
    )
    return _build("transformer", seed, make, (BATCH, min(STEPS, length)), vocab)


def lstm(
    inputs: int = 16,
    hidden: int = 32,
    layers: int = 1,
    *,
    cell: str = "lstm",
    bidirectional: bool = False,
    num_classes: int = 10,
    seed: int = 0,
) -> LoadedModel:
    """Build a recurrent classifier of sequences.

    Parameters
    ----------
    inputs, hidden, layers : int
        Features per step, hidden units per direction, and stacked layers.
    cell : {'lstm', 'gru', 'rnn'}
        Kind of recurrence.
    bidirectional : bool
        Run over the sequence in both directions.
    num_classes : int
        Number of logits.
    seed : int
        Seed of the initial weights; the global generator is left as it was.

    Raises
    ------
    ModelSpecError
        If a value is not what it should be.

    Examples
    --------
    >>> lstm(inputs=3, hidden=5, cell="gru").module.rnn
    GRU(3, 5, batch_first=True)
    """
    _counts("lstm", inputs=inputs, hidden=hidden, layers=layers, num_classes=num_classes)
    _one_of("lstm", "cell", cell, RECURRENT)
    _flags("lstm", bidirectional=bidirectional)
    make = partial(
        RecurrentClassifier,
        cell=cell,
        inputs=inputs,
        hidden=hidden,
        layers=layers,
        bidirectional=bidirectional,
        num_classes=num_classes,
    )
    return _build("lstm", seed, make, (BATCH, STEPS, inputs))


BUILTINS: Mapping[str, Callable[..., LoadedModel]] = {
    "cnn": cnn,
    "lstm": lstm,
    "mlp": mlp,
    "resnet": resnet,
    "resnet18": resnet18,
    "transformer": transformer,
}


def _build(
    name: str, seed: int, make: Callable[[], nn.Module], shape: tuple[int, ...], vocab: int | None = None
) -> LoadedModel:
    """Make the module, in evaluation mode, and its example: standard normal, or token ids below ``vocab``."""
    with seeded(seed):
        module = make().eval()
        example = torch.randn(shape) if vocab is None else torch.randint(vocab, shape)
    return LoadedModel(module, (example,), {}, name)


def _widths(model: str, widths: Widths, least: int = 1) -> tuple[int, ...]:
    """Read ``'784-512-10'``, ``784`` or ``(784, 512, 10)``."""
    parts: Collection[object]
    if isinstance(widths, str):
        parts = [int(part) if part.isdecimal() else part for part in widths.split("-")]
    else:
        parts = list(widths) if isinstance(widths, Sequence) else [widths]
    sizes = tuple(part for part in parts if isinstance(part, int) and not isinstance(part, bool) and part > 0)
    if len(sizes) != len(parts) or len(sizes) < least:
        raise ModelSpecError(
            f"{model}: widths must be at least {least} positive integers joined by '-',"
            f" such as widths={'784-512-10' if least > 1 else '16-32'}; got {one_line(repr(widths))}"
        )
    return sizes


def _counts(model: str, **values: object) -> None:
    """Require positive integers (``True`` is not one)."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelSpecError(f"{model}: {name} must be a positive integer, got {one_line(repr(value))}")


def _flags(model: str, **values: object) -> None:
    """Require real booleans: the text 'false' would count as true."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise ModelSpecError(f"{model}: {name} must be True or False, got {one_line(repr(value))}")


def _one_of(model: str, name: str, value: object, allowed: Collection[str]) -> None:
    """Require one of a few names."""
    if not isinstance(value, str) or value not in allowed:
        expected, hint = ", ".join(sorted(allowed)), near(str(value), allowed)
        raise ModelSpecError(f"{model}: {name} must be one of {expected}; got {one_line(repr(value))}{hint}")
