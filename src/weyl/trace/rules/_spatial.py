"""Convolutions, pooling, interpolation: channels are units, places are not."""

from __future__ import annotations

from weyl.trace._cells import Axis, size_of
from weyl.trace._context import Call, Context, Result, Rule
from weyl.trace._values import RuleError, Value

__all__ = ["RULES"]

WHY = "place in an image or sequence"


def convolution(context: Context, call: Call) -> Result:
    """Convolutions of any rank, grouped, depthwise and transposed."""
    value, weight, bias = call["input"], call["weight"], call.get("bias")
    groups = call.get("groups", 1)
    rank = weight.ndim - 2
    batched = value.ndim == rank + 2
    batch = value.axes[:1] if batched else ()
    channels, places = value.axes[len(batch)], value.axes[len(batch) + 1 :]
    transposed = "transpose" in call.name or bool(call.get("transposed", False))
    out, products = _channels(context, channels, weight, groups, transposed)
    if isinstance(bias, Value):
        out = context.join(out, bias.axes[0])
    kept = _places(context, call, places, weight, rank)
    context.touch(*batch, *products, *kept)
    mixed = [p for p, k in zip(places, kept, strict=True) if p is not k]
    hidden = value.survivors((channels, *mixed))
    if mixed:
        context.touch(*batch, channels, hidden=hidden)
    return context.value([*batch, out, *kept], hidden)


def _channels(
    context: Context, channels: Axis, weight: Value, groups: int, transposed: bool
) -> tuple[Axis, tuple[Axis, ...]]:
    """Join the input channels with the weight; returns the output channels, and the axes of the products."""
    rows = size_of(weight.axes[0]) // groups
    group, row = context.reshape([weight.axes[0]], [groups, rows])
    column = weight.axes[1]
    own, made = (row, column) if transposed else (column, row)
    # what the kernel does not tell apart (a blur) the channels still do
    group, own = context.reshape([context.join(channels, (*group, *own))], [groups, size_of(own)])
    return (*group, *made), (group, own, made)


def _places(context: Context, call: Call, places: tuple[Axis, ...], weight: Value, rank: int) -> list[Axis]:
    """Output places; a 1-wide kernel with stride 1 and no padding leaves its dimension alone."""
    kept: list[Axis] = []
    for d in range(rank):
        alone = weight.shape[2 + d] == 1 and _plain(call, d) and call.shape[-rank + d] == size_of(places[d])
        if alone:
            kept.append(places[d])
            continue
        context.pin(places[d], WHY)
        context.pin(weight.axes[2 + d], "place in a kernel")
        kept.append(context.fixed(call.shape[-rank + d], WHY))
    return kept


def _plain(call: Call, dim: int) -> bool:
    def at(name: str, default: int) -> int:
        value = call.get(name, default)
        if isinstance(value, str):
            return 0
        return value if isinstance(value, int) else value[dim if len(value) > 1 else 0]

    return at("stride", 1) == 1 and at("padding", 0) == 0 and at("output_padding", 0) == 0


def pool(context: Context, call: Call) -> Result:
    """Pooling and resampling over the last dimensions; channels stay as they are."""
    value: Value = call["self"] if "self" in call.arguments else call["input"]
    rank = next(int(c) for c in call.name if c.isdigit())
    dims = [value.ndim - 1 - d for d in range(rank)]
    sizes = {d: call.shape[d] for d in dims}
    return _results(context, context.mix(value, dims, sizes, WHY), call)


def resample(context: Context, call: Call) -> Result:
    """Interpolation and upsampling: dimensions after the channels."""
    value: Value = call["self"] if "self" in call.arguments else call["input"]
    dims = list(range(2, value.ndim))
    return context.mix(value, dims, {d: call.shape[d] for d in dims}, WHY)


def _results(context: Context, result: Value, call: Call) -> Result:
    """Pooled values and, where they are asked for, the places of the maxima (which are pinned)."""
    if len(call.shapes) == 1:
        return result
    return [result, *[context.value(result.axes) for _ in call.shapes[1:]]]


def grid_sample(context: Context, call: Call) -> Result:
    """Sampling at places given by data."""
    value, grid = call["input"], call["grid"]
    for axis in grid.axes[1:]:
        context.pin(axis, WHY)
    batch = context.join(value.axes[0], grid.axes[0])
    dims = list(range(2, value.ndim))
    mixed = context.mix(value, dims, {d: call.shape[d] for d in dims}, WHY)
    return context.value([batch, *mixed.axes[1:]])


def unfold_image(context: Context, call: Call) -> Result:
    """``im2col``: (N, C, H, W) to (N, C × kernel, places)."""
    value: Value = call["self"]
    if value.ndim != 4:
        raise RuleError("im2col without a batch dimension")
    for axis in value.axes[2:]:
        context.pin(axis, WHY)
    context.touch(*value.axes[:2])
    kernel = call.shape[1] // value.shape[1]
    patch = (*value.axes[1], *context.fixed(kernel, "place in a kernel"))
    return context.value([value.axes[0], patch, context.fixed(call.shape[2], WHY)])


def fold_image(context: Context, call: Call) -> Result:
    """``col2im``: (N, C × kernel, places) to (N, C, H, W)."""
    value: Value = call["self"]
    if value.ndim != 3:
        raise RuleError("col2im without a batch dimension")
    channels = call.shape[1]
    wide = context.reshape(value.axes, [value.shape[0], channels, value.shape[1] // channels, value.shape[2]])
    for axis in wide[2:]:
        context.pin(axis, WHY)
    context.touch(*wide[:2])
    return context.value([wide[0], wide[1], *(context.fixed(n, WHY) for n in call.shape[2:])])


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        """
        conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
        _convolution mkldnn_convolution cudnn_convolution slow_conv3d
        """.split(),
        convolution,
    ),
    **dict.fromkeys(
        """
        max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices
        max_pool1d_with_indices avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
        adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
        adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
        """.split(),
        pool,
    ),
    **dict.fromkeys(
        """
        upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
        _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d
        upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
        """.split(),
        resample,
    ),
    **dict.fromkeys(["grid_sampler", "grid_sampler_2d", "grid_sampler_3d"], grid_sample),
    "im2col": unfold_image,
    "col2im": fold_image,
}
