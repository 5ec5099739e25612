"""Every operator family: the order that reasoning gives, the function preserved, a wrong element seen.

Most networks are ``linear(4, 6) → operator → linear(6, 3)``: an operator that treats six features alike leaves 6!.
Where reasoning gives no order (``None``) the function must be preserved all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial as f

import pytest
import torch
import torch.nn.functional as F
from tests.laws.checks import check
from tests.laws.nets import Net, between, features, framed, image, lin, par
from torch import Tensor, nn

X = features(5, 4)
T = features(2, 5, 4)
ALL = f(6)
Made = Callable[[], nn.Module]

# ------------------------------------------------------------------ elementwise
ACTIVATIONS: dict[str, Made] = {
    name: (lambda name=name: between(getattr(nn, name)()))
    for name in """ELU Hardshrink Hardsigmoid Hardtanh Hardswish Identity LeakyReLU LogSigmoid PReLU ReLU ReLU6 RReLU
    SELU
    CELU GELU Sigmoid SiLU Mish Softplus Softshrink Softsign Tanh Tanhshrink Dropout AlphaDropout
    FeatureAlphaDropout""".split()
} | {
    "PReLU a channel": lambda: between(nn.PReLU(6)),
    "GELU tanh": lambda: between(nn.GELU("tanh")),
    "Threshold": lambda: between(nn.Threshold(0.1, -2.0)),
    "Softmax": lambda: between(nn.Softmax(-1)),
    "Softmin": lambda: between(nn.Softmin(-1)),
    "LogSoftmax": lambda: between(nn.LogSoftmax(-1)),
    "Softmax over the batch": lambda: between(nn.Softmax(0)),
    "GLU": lambda: between(nn.GLU(), 12),
    "ReLU in place": lambda: between(nn.ReLU(inplace=True)),
    "gumbel-free log_softmax": lambda: between(lambda h: F.log_softmax(h, 1).exp()),
}
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    name: (lambda h, name=name: getattr(torch, name)(h))
    for name in """sin cos tan atan sinh asinh exp exp2 expm1 abs sign sgn square neg erf erfc sinc floor ceil round
    trunc
    frac reciprocal lgamma digamma i0 nan_to_num signbit isfinite deg2rad clone positive relu logit sigmoid""".split()
    if name not in ("signbit", "isfinite", "logit")
} | {
    "log": lambda h: h.abs().add(0.1).log(),
    "log1p": lambda h: torch.log1p(h.abs()),
    "log2 and log10": lambda h: (h.abs() + 0.1).log2() + (h.abs() + 0.1).log10(),
    "sqrt": lambda h: h.abs().sqrt(),
    "rsqrt": lambda h: (h.abs() + 0.1).rsqrt(),
    "logit": lambda h: torch.logit(h.sigmoid()),
    "pow": lambda h: h.pow(3),
    "pow of a number": lambda h: 2.0**h,
    "pow of tensors": lambda h: h.abs() ** h,
    "acos": lambda h: torch.acos(h.tanh()) + 2 * torch.asin(h.tanh()),
    "atanh": lambda h: torch.atanh(h.tanh() * 0.9),
    "erfinv": lambda h: torch.erfinv(h.tanh() * 0.9),
    "clamp": lambda h: h.clamp(-0.3, 0.4),
    "clip with tensors": lambda h: torch.clamp(h, h.mean(1, keepdim=True), h.amax(1, keepdim=True) * 0.9),
    "maximum": lambda h: torch.maximum(h, -h) + torch.minimum(h, h * h) + torch.fmax(h, h.sin()),
    "lerp": lambda h: torch.lerp(h, h.sin(), 0.3) + torch.lerp(h, h.cos(), h.sigmoid()),
    "addcmul": lambda h: torch.addcmul(h, h.sin(), h.cos(), value=0.5) + torch.addcdiv(h, h.sin(), h * h + 1),
    "hypot": lambda h: torch.hypot(h, h.sin()) + torch.atan2(h, h.cos()) + torch.logaddexp(h, h.sin()),
    "remainder": lambda h: h.remainder(0.7) + h.fmod(0.3) + torch.floor_divide(h, 0.5),
    "xlogy": lambda h: torch.xlogy(h, h * h + 1) + torch.copysign(h, h.sin()) + torch.heaviside(h, h),
    "where": lambda h: torch.where(h > 0, h, 2 * h),
    "where with a number": lambda h: torch.where(h > 0.2, h, 0.5),
    "masked_fill": lambda h: h.masked_fill(h < 0, 0.5),
    "masked_fill by row": lambda h: h.masked_fill(h.sum(1, keepdim=True) < 0, 0.5),
    "comparison": lambda h: ((h > 0) & (h < 1) | h.ge(2) | ~(h != h.sin())).to(h.dtype) * h,
    "logical": lambda h: (
        torch.logical_and(h > 0, torch.logical_not(h > 1)).to(h.dtype) - torch.logical_xor(h > -0.3, h > 0.3).to(h)
    ),
    "arithmetic": lambda h: (1 - h) * 2 / (h * h + 1) - 3 // (h * h + 1) + h % 2,
    "rsub and in place": lambda h: torch.rsub(h, 1).add_(0.5).mul_(h).relu_(),
    "normalize": lambda h: F.normalize(h, dim=-1),
    "standardise": lambda h: (h - h.mean(-1, keepdim=True)) / h.std(-1, keepdim=True),
    "layer_norm": lambda h: F.layer_norm(h, (6,)),
    "rms_norm": lambda h: F.rms_norm(h, (6,)),
    "rms by hand": lambda h: h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6),
    "softmax by hand": lambda h: (h - h.amax(-1, keepdim=True)).exp() / h.exp().sum(-1, keepdim=True),
    "dropout in eval": lambda h: F.dropout(h, 0.5, training=False),
    "casts": lambda h: h.to(torch.float32).double().type_as(h).contiguous().detach(),
    "full_like": lambda h: h * torch.ones_like(h) + torch.zeros_like(h) + torch.full_like(h, 2.0),
    "new tensors": lambda h: h + h.new_zeros(h.shape) + h.new_full((6,), 2.0) + torch.ones(6).to(h),
    "add outer rows": lambda h: (h.unsqueeze(0) - h.unsqueeze(1)).relu().sum(0),
    "cosine": lambda h: h * F.cosine_similarity(h, h.sin(), dim=-1).unsqueeze(-1),
    "pairwise distance": lambda h: h * F.pairwise_distance(h, h.sin()).unsqueeze(-1),
    "cdist": lambda h: torch.cdist(h, h.sin()) @ h,
    "einsum rows": lambda h: torch.einsum("bi,ci->bc", h, h).softmax(-1) @ h,
    "renorm": lambda h: torch.renorm(h, 2, 0, 1.0),
    "polygamma": lambda h: torch.special.polygamma(1, h * h + 1) + torch.special.entr(h * h) + torch.special.ndtr(h),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    check(ACTIVATIONS[name](), X, order=ALL)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    check(between(FUNCTIONS[name]), X, order=ALL, tolerance=1e-5 if name in ("casts", "digamma", "lgamma") else 1e-9)


# ------------------------------------------------------------------ norms
NORMS: dict[str, tuple[Made, Tensor, int]] = {
    "BatchNorm1d": (lambda: between(nn.BatchNorm1d(6)), X, ALL),
    "BatchNorm1d, not affine": (lambda: between(nn.BatchNorm1d(6, affine=False)), X, ALL),
    "BatchNorm1d, batch statistics": (lambda: between(nn.BatchNorm1d(6, track_running_stats=False)), X, ALL),
    "BatchNorm2d": (lambda: framed(nn.BatchNorm2d(6)), image(2), ALL),
    "BatchNorm3d": (lambda: framed(nn.BatchNorm3d(6), 3), image(3, 3), ALL),
    "LayerNorm": (lambda: between(nn.LayerNorm(6)), X, ALL),
    "LayerNorm, no bias": (lambda: between(nn.LayerNorm(6, bias=False)), X, ALL),
    "LayerNorm over two axes": (
        lambda: Net(lambda n, x: n.o(n.n(n.a(x))), a=lin(4, 6), n=nn.LayerNorm((5, 6)), o=lin(6, 3)),
        T,
        ALL,
    ),
    "RMSNorm": (lambda: between(nn.RMSNorm(6)), X, ALL),
    "InstanceNorm1d": (lambda: framed(nn.InstanceNorm1d(6), 1), image(1), ALL),
    "InstanceNorm2d, affine": (lambda: framed(nn.InstanceNorm2d(6, affine=True)), image(2), ALL),
    "InstanceNorm2d, running": (
        lambda: framed(nn.InstanceNorm2d(6, affine=True, track_running_stats=True)),
        image(2),
        ALL,
    ),
    "InstanceNorm3d": (lambda: framed(nn.InstanceNorm3d(6, affine=True), 3), image(3, 3), ALL),
    "GroupNorm of one": (lambda: framed(nn.GroupNorm(1, 6)), image(2), ALL),
    "GroupNorm of six": (lambda: framed(nn.GroupNorm(6, 6)), image(2), ALL),
    # groups exchange, and channels inside each group
    "GroupNorm of two": (lambda: framed(nn.GroupNorm(2, 6)), image(2), 2 * f(3) ** 2),
    "GroupNorm of three, on vectors": (lambda: between(nn.GroupNorm(3, 6)), X, f(3) * 2**3),
    "GroupNorm, not affine": (lambda: framed(nn.GroupNorm(2, 6, affine=False)), image(2), 2 * f(3) ** 2),
    # neighbours are told apart
    "LocalResponseNorm": (lambda: framed(nn.LocalResponseNorm(3)), image(2), 1),
    "weight norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(lin(4, 6)), nn.ReLU(), lin(6, 3)),
        X,
        ALL,
    ),
    "spectral norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(lin(4, 6)), nn.ReLU(), lin(6, 3)),
        X,
        ALL,
    ),
    "BatchNorm after a concatenation": (
        lambda: Net(
            lambda n, x: n.o(n.n(torch.cat([n.a(x), n.b(x)], 1))),
            a=lin(4, 3),
            b=lin(4, 3),
            n=nn.BatchNorm1d(6),
            o=lin(6, 3),
        ),
        X,
        f(3) ** 2,
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms(name: str) -> None:
    model, x, order = NORMS[name]
    check(model(), x, order=order)


# ------------------------------------------------------------------ convolutions
CONVOLUTIONS: dict[str, tuple[Made, Tensor, int]] = {
    "1d": (lambda: nn.Sequential(nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Conv1d(6, 3, 3)), image(1), ALL),
    "2d": (lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 3)), image(2), ALL),
    "3d": (lambda: nn.Sequential(nn.Conv3d(2, 6, 2), nn.ReLU(), nn.Conv3d(6, 3, 2)), image(3, 3), ALL),
    "strided, padded, dilated": (
        lambda: nn.Sequential(nn.Conv2d(2, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 3, 2, dilation=2)),
        image(2),
        ALL,
    ),
    "padding by name": (
        lambda: nn.Sequential(nn.Conv2d(2, 6, 3, padding="same"), nn.ReLU(), nn.Conv2d(6, 3, 3, padding="valid")),
        image(2),
        ALL,
    ),
    "circular": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1, padding_mode="circular"),
            nn.ReLU(),
            nn.Conv2d(6, 3, 3, padding=1, padding_mode="reflect"),
        ),
        image(2),
        ALL,
    ),
    "one wide, padded": (
        lambda: nn.Sequential(nn.Conv2d(2, 6, 1, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 1, stride=2)),
        image(2),
        ALL,
    ),
    "no batch": (lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 3)), image(2)[0], ALL),
    "transposed 1d": (
        lambda: nn.Sequential(nn.ConvTranspose1d(2, 6, 3), nn.ReLU(), nn.ConvTranspose1d(6, 3, 3)),
        image(1),
        ALL,
    ),
    "transposed 2d": (
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 6, 3, 2, 1, 1), nn.ReLU(), nn.ConvTranspose2d(6, 3, 2)),
        image(2),
        ALL,
    ),
    "transposed 3d": (
        lambda: nn.Sequential(nn.ConvTranspose3d(2, 6, 2), nn.ReLU(), nn.ConvTranspose3d(6, 3, 2)),
        image(3, 3),
        ALL,
    ),
    # four groups of two channels in and three out
    "grouped": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 3, 1)
        ),
        image(2),
        f(4) * 2**4 * f(3) ** 4,
    ),
    "grouped 1d": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 1), nn.ReLU(), nn.Conv1d(4, 6, 3, groups=2), nn.ReLU(), nn.Conv1d(6, 3, 1)
        ),
        image(1),
        2 * 2**2 * f(3) ** 2,
    ),
    "grouped, transposed": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 1), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.ReLU(), nn.Conv2d(6, 3, 1)
        ),
        image(2),
        2 * 2**2 * f(3) ** 2,
    ),
    "depthwise": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 3, 1)
        ),
        image(2),
        ALL,
    ),
    "depthwise, multiplied": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 6, 3, groups=3), nn.ReLU(), nn.Conv2d(6, 3, 1)
        ),
        image(2),
        f(3) * 2**3,
    ),
    "depthwise 1d and 3d, transposed": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 6, 1), nn.ReLU(), nn.ConvTranspose1d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv1d(6, 3, 1)
        ),
        image(1),
        ALL,
    ),
    # the input's two groups are fixed, so only what is inside a group may move
    "grouped from the input": (
        lambda: nn.Sequential(nn.Conv2d(2, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 3, 1)),
        image(2),
        f(3) ** 2,
    ),
    "grouped twice, shuffled between": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 1),
            nn.ReLU(),
            nn.Conv2d(6, 6, 1, groups=2),
            nn.ReLU(),
            nn.ChannelShuffle(2),
            nn.Conv2d(6, 6, 1, groups=3),
            nn.ReLU(),
            nn.Conv2d(6, 3, 1),
        ),
        # first: groups g of three inputs (own order each); between: channel (g, j) goes to group j of three, so
        # g and j permute alike everywhere; last outputs: two in each of three groups
        image(2),
        2 * f(3) ** 2 * f(3) * 2**3,
    ),
    "unfold": (
        lambda: Net(
            lambda n, x: torch.einsum("nkl,ko->nol", F.unfold(n.a(x), 2), n.w), a=nn.Conv2d(2, 6, 1), w=par(24, 3)
        ),
        image(2, 4),
        ALL,
    ),
    "fold": (
        lambda: Net(lambda n, x: n.o(F.fold(n.a(x).relu(), (3, 3), 2)), a=nn.Conv1d(2, 24, 1), o=nn.Conv2d(6, 3, 1)),
        image(1, 4),
        ALL,
    ),
    "separable": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 3),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, groups=6),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 4, 1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 3, 1),
        ),
        image(2),
        ALL * f(4),
    ),
    "squeeze and excite": (
        lambda: Net(
            lambda n, x: n.o((h := n.a(x)) * n.u(n.d(F.adaptive_avg_pool2d(h, 1)).relu()).sigmoid()),
            a=nn.Conv2d(2, 6, 1),
            d=nn.Conv2d(6, 3, 1),
            u=nn.Conv2d(3, 6, 1),
            o=nn.Conv2d(6, 3, 1),
        ),
        image(2),
        ALL * f(3),
    ),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    model, x, order = CONVOLUTIONS[name]
    check(model(), x, order=order)


# ------------------------------------------------------------------ pooling, resampling, padding
PLACES: dict[str, tuple[Made, Tensor]] = {
    "MaxPool1d": (lambda: framed(nn.MaxPool1d(2), 1), image(1)),
    "MaxPool2d": (lambda: framed(nn.MaxPool2d(3, 2, 1, ceil_mode=True)), image(2)),
    "MaxPool2d, dilated": (lambda: framed(nn.MaxPool2d(2, 1, dilation=2)), image(2)),
    "MaxPool3d": (lambda: framed(nn.MaxPool3d(2), 3), image(3, 4)),
    "MaxPool2d, indices": (lambda: framed(lambda h: F.max_pool2d(h, 2, return_indices=True)[0]), image(2)),
    "AvgPool1d": (lambda: framed(nn.AvgPool1d(2), 1), image(1)),
    "AvgPool2d": (lambda: framed(nn.AvgPool2d(2, count_include_pad=False, padding=1)), image(2)),
    "AvgPool3d": (lambda: framed(nn.AvgPool3d(2), 3), image(3, 4)),
    "LPPool1d": (lambda: framed(nn.LPPool1d(2, 2), 1), image(1)),
    "LPPool2d": (lambda: framed(nn.LPPool2d(2, 2)), image(2)),
    "AdaptiveAvgPool1d": (lambda: framed(nn.AdaptiveAvgPool1d(4), 1), image(1)),
    "AdaptiveAvgPool2d": (lambda: framed(nn.AdaptiveAvgPool2d((4, 1))), image(2)),
    "AdaptiveAvgPool3d": (lambda: framed(nn.AdaptiveAvgPool3d(1), 3), image(3, 3)),
    "AdaptiveMaxPool1d": (lambda: framed(nn.AdaptiveMaxPool1d(4), 1), image(1)),
    "AdaptiveMaxPool2d": (lambda: framed(nn.AdaptiveMaxPool2d(4)), image(2)),
    "AdaptiveMaxPool3d": (lambda: framed(nn.AdaptiveMaxPool3d(2), 3), image(3, 3)),
    "nearest": (lambda: framed(lambda h: F.interpolate(h, scale_factor=2)), image(2)),
    "nearest-exact": (lambda: framed(lambda h: F.interpolate(h, size=(5, 7), mode="nearest-exact")), image(2)),
    "nearest 1d": (lambda: framed(nn.Upsample(scale_factor=2), 1), image(1)),
    "nearest 3d": (lambda: framed(nn.Upsample(scale_factor=2), 3), image(3, 2)),
    "linear": (lambda: framed(lambda h: F.interpolate(h, size=9, mode="linear"), 1), image(1)),
    "bilinear": (lambda: framed(nn.UpsamplingBilinear2d(scale_factor=2)), image(2)),
    "bilinear, antialiased": (
        lambda: framed(lambda h: F.interpolate(h, size=4, mode="bilinear", antialias=True)),
        image(2),
    ),
    "bicubic": (lambda: framed(lambda h: F.interpolate(h, size=9, mode="bicubic", align_corners=True)), image(2)),
    "trilinear": (lambda: framed(lambda h: F.interpolate(h, size=5, mode="trilinear"), 3), image(3, 3)),
    "area": (lambda: framed(lambda h: F.interpolate(h, size=4, mode="area")), image(2)),
    "grid sample": (
        lambda: framed(
            lambda h: F.grid_sample(
                h,
                F.affine_grid(torch.eye(2, 3).to(h).expand(2, 2, 3) * 0.7, h.shape, align_corners=False),
                align_corners=False,
            )
        ),
        image(2),
    ),
    "zero padding": (lambda: framed(nn.ZeroPad2d((1, 2, 0, 1))), image(2)),
    "constant padding": (lambda: framed(nn.ConstantPad1d((1, 2), 0.7), 1), image(1)),
    "cropping": (lambda: framed(lambda h: F.pad(h, (-1, 1, 0, -2))), image(2)),
    "reflection": (lambda: framed(nn.ReflectionPad2d(2)), image(2)),
    "reflection 1d": (lambda: framed(nn.ReflectionPad1d(2), 1), image(1)),
    "reflection 3d": (lambda: framed(nn.ReflectionPad3d(1), 3), image(3, 3)),
    "replication": (lambda: framed(nn.ReplicationPad2d((1, 0, 2, 1))), image(2)),
    "replication 3d": (lambda: framed(nn.ReplicationPad3d(1), 3), image(3, 3)),
    "circular": (lambda: framed(nn.CircularPad2d(2)), image(2)),
    "flip of places": (lambda: framed(lambda h: h.flip(-1, 2)), image(2)),
    "roll of places": (lambda: framed(lambda h: h.roll((1, -2), (2, 3))), image(2)),
    "rotated": (lambda: framed(lambda h: torch.rot90(h, 1, (2, 3))), image(2)),
    "cumsum over places": (lambda: framed(lambda h: h.cumsum(2)), image(2)),
    "softmax over places": (lambda: framed(lambda h: h.flatten(2).softmax(-1).view_as(h)), image(2)),
    "triangle of places": (lambda: framed(lambda h: h.tril() + h.triu(1)), image(2)),
    "diagonal of places": (lambda: framed(lambda h: h.diagonal(0, 2, 3).unsqueeze(-1)), image(2)),
    "windows": (lambda: framed(lambda h: h.unfold(2, 2, 2).mean(-1)), image(2)),
    "strided places": (lambda: framed(lambda h: h[:, :, ::2, 1::3]), image(2)),
    "places picked": (lambda: framed(lambda h: h[:, :, [0, 3, 1]]), image(2)),
    "global pooling": (
        lambda: framed(lambda h: h.mean((2, 3), keepdim=True) + h.amax((-1, -2), keepdim=True)),
        image(2),
    ),
    "Softmax2d": (lambda: framed(nn.Softmax2d()), image(2)),
    "Dropout2d": (lambda: framed(nn.Dropout2d()), image(2)),
    "channels last": (
        lambda: framed(lambda h: h.permute(0, 2, 3, 1).contiguous().relu().permute(0, 3, 1, 2)),
        image(2),
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_places(name: str) -> None:
    model, x = PLACES[name]
    check(model(), x, order=ALL)


# ------------------------------------------------------------------ reductions
REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda h: h.sin().sum(1),
    "mean": lambda h: h.sin().mean(-1),
    "amax": lambda h: h.amax(1),
    "amin": lambda h: h.amin(1),
    "prod": lambda h: h.prod(1),
    "var": lambda h: h.var(1),
    "std": lambda h: h.std(1, correction=0),
    "norm": lambda h: h.norm(dim=1),
    "norm 1": lambda h: h.norm(1, dim=1),
    "norm 3": lambda h: h.norm(3, 1),
    "vector norm": lambda h: torch.linalg.vector_norm(h, ord=float("inf"), dim=1),
    "logsumexp": lambda h: h.logsumexp(1),
    "median": lambda h: h.median(1).values,
    "max": lambda h: h.max(1)[0],
    "min": lambda h: h.min(1)[0],
    "nanmedian": lambda h: h.nanmedian(1).values,
    "var_mean": lambda h: torch.cat(torch.var_mean(h, 1)),
    "std_mean": lambda h: torch.cat(torch.std_mean(h, 1)),
    "aminmax": lambda h: torch.cat(h.aminmax(dim=1)),
    "nansum": lambda h: h.sin().nansum(1),
    "nanmean": lambda h: h.sin().nanmean(1),
    "count": lambda h: (h > 0).count_nonzero(1).to(h),
    "any": lambda h: (h > 0.8).any(1).to(h),
    "all": lambda h: (h > -1).all(1).to(h),
    "sum of all": lambda h: h.sin().sum().reshape(1),
    "max of all": lambda h: h.max().reshape(1),
    "mean of all": lambda h: h.sin().mean().reshape(1),
    "sorted": lambda h: h.sort(1).values[:, 2],
    "top": lambda h: h.topk(2, 1).values.sum(1),
    "sorted and summed": lambda h: (h.sort(1, descending=True)[0] * torch.arange(6).to(h)).sum(1),
    "frobenius": lambda h: torch.linalg.norm(h).reshape(1),
    "dist": lambda h: torch.dist(h, h.sin()).reshape(1),
    "gram": lambda h: (h @ h.t()).diagonal(),
    "dot": lambda h: torch.stack([torch.dot(r, r) for r in h]),
    "inner": lambda h: torch.inner(h, h).flatten(),
    "einsum": lambda h: torch.einsum("bi,bi->b", h, h.sin()),
    "tensordot": lambda h: torch.tensordot(h, h, dims=([1], [1])).flatten(),
    "cumsum over the batch": lambda h: h.cumsum(0).amax(1),
    "difference over the batch": lambda h: h.sin().diff(dim=0).amax(1),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name: str) -> None:
    model = Net(lambda n, x: REDUCTIONS[name](n.a(x)) * n.s, a=lin(4, 6), s=par(1))
    check(model, features(40, 4), order=ALL)


# ------------------------------------------------------------------ cutting, joining, viewing
HALVES = f(3) ** 2
SHAPES: dict[str, tuple[Made, int]] = {
    "chunk": (lambda: between(lambda h: torch.cat([h.chunk(2, 1)[0].relu(), h.chunk(2, 1)[1].sigmoid()], 1)), HALVES),
    "split": (lambda: between(lambda h: torch.cat([p.relu() for p in h.split(3, 1)], 1)), HALVES),
    "split in sizes": (
        lambda: between(lambda h: torch.cat([p * (i + 1) for i, p in enumerate(h.split([1, 2, 3], 1))], 1)),
        2 * f(3),
    ),
    "tensor_split": (
        lambda: between(lambda h: torch.cat([p * (i + 1) for i, p in enumerate(h.tensor_split(4, 1))], 1)),
        2 * 2,
    ),
    "halves multiplied": (lambda: between(lambda h: h[:, :3] * h[:, 3:].sigmoid(), 6, 3), f(3)),
    # features that are cut away in one run may be exchanged, too: nothing reads them
    "narrow": (lambda: between(lambda h: h.narrow(1, 1, 4), 6, 4), f(4)),
    "slice": (lambda: between(lambda h: h[:, 2:].relu(), 6, 4), f(4) * 2),
    "slice from the end": (lambda: between(lambda h: h[:, -4:].relu(), 6, 4), f(4) * 2),
    "slice with a step": (lambda: between(lambda h: h[:, ::2].relu(), 6, 3), f(3)),
    "even and odd": (lambda: between(lambda h: h[:, ::2] * h[:, 1::2].sigmoid(), 6, 3), f(3)),
    "rotate half": (lambda: between(lambda h: h * h.cos() + torch.cat([-h[:, 3:], h[:, :3]], 1) * h.sin()), f(3)),
    "unbind": (
        lambda: between(lambda h: (p := h.unflatten(1, (2, 3)).unbind(1))[0].relu() + p[1].sigmoid(), 6, 3),
        f(3),
    ),
    "select": (
        lambda: between(lambda h: h.unflatten(1, (2, 3)).select(1, 0).relu() + h.view(-1, 2, 3)[:, 1], 6, 3),
        f(3),
    ),
    "stack": (lambda: between(lambda h: torch.stack([h, h.sin()], 1).amax(1)), ALL),
    "stack and flatten": (lambda: between(lambda h: torch.stack([h, h.sin()], 1).flatten(1), 6, 12), ALL),
    "stack last": (lambda: between(lambda h: torch.stack([h, h.sin()], -1).flatten(1), 6, 12), ALL),
    "cat with itself": (lambda: between(lambda h: torch.cat([h, -h], 1).relu(), 6, 12), ALL),
    "cat over the batch": (lambda: between(lambda h: torch.cat([h, h.sin()], 0)), ALL),
    "hstack": (lambda: between(lambda h: torch.hstack([h, h.sin()]), 6, 12), ALL),
    # every output reads two columns of ones: it may exchange its two weights, whatever the others do
    "cat with constants": (lambda: between(lambda h: torch.cat([h, torch.ones(5, 2).to(h)], 1), 6, 8), ALL * 2**3),
    "cat with numbers in order": (
        lambda: between(lambda h: torch.cat([h, torch.arange(2).to(h).expand(5, 2)], 1), 6, 8),
        ALL,
    ),
    "cat with the input": (
        lambda: Net(lambda n, x: n.o(torch.cat([x, n.a(x).relu()], 1)), a=lin(4, 6), o=lin(10, 3)),
        ALL,
    ),
    "pad features": (lambda: between(lambda h: F.pad(h, (1, 2)), 6, 9), ALL * 2**3),
    # each of three outputs reads each of six features twice: 18 pairs of weights
    "repeat": (lambda: between(lambda h: h.repeat(1, 2), 6, 12), ALL * 2**18),
    "tile": (lambda: between(lambda h: torch.tile(h, (1, 2)).relu(), 6, 12), ALL * 2**18),
    "repeat_interleave": (lambda: between(lambda h: h.repeat_interleave(2, 1).relu(), 6, 12), ALL * 2**18),
    "expand": (lambda: between(lambda h: h.unsqueeze(1).expand(-1, 2, -1).relu().flatten(1), 6, 12), ALL * 2**18),
    "broadcast_to": (
        lambda: between(lambda h: torch.broadcast_to(h.unsqueeze(2), (5, 6, 2)).flatten(1), 6, 12),
        ALL * 2**18,
    ),
    "squeeze": (lambda: between(lambda h: h.unsqueeze(0).unsqueeze(-1).squeeze(-1).squeeze(0).relu()), ALL),
    "transpose": (lambda: between(lambda h: h.t().relu().transpose(0, 1).sin().mT.T), ALL),
    "movedim": (lambda: between(lambda h: h.unsqueeze(0).movedim(-1, 0).swapaxes(0, 2).squeeze(1).relu()), ALL),
    "view twice": (lambda: between(lambda h: h.view(5, 2, 3).relu().view(5, 6)), ALL),
    "view, rows softened": (lambda: between(lambda h: h.view(5, 2, 3).softmax(-1).flatten(1)), 2 * f(3) ** 2),
    "view, columns softened": (lambda: between(lambda h: h.view(5, 2, 3).softmax(1).flatten(1)), f(3) * 2**3),
    "view, both softened": (
        lambda: between(lambda h: (h.view(5, 2, 3).softmax(1) + h.view(5, 2, 3).softmax(2)).flatten(1)),
        2 * f(3),
    ),
    "view, rows summed": (lambda: between(lambda h: h.view(5, 2, 3).relu().sum(1), 6, 3), f(3) * 2**3),
    "view, one row picked": (
        lambda: between(lambda h: torch.cat([h.view(5, 2, 3)[:, 0], h.view(5, 2, 3)[:, 1].relu()], 1)),
        HALVES,
    ),
    "meshed": (
        lambda: Net(
            lambda n, x: n.o((n.a(x).unsqueeze(1) * n.b(x).unsqueeze(2)).flatten(1).relu()),
            a=lin(4, 2),
            b=lin(4, 3),
            o=lin(6, 3),
        ),
        2 * f(3),
    ),
    "unflatten": (lambda: between(nn.Sequential(nn.Unflatten(1, (3, 2)), nn.Tanh(), nn.Flatten())), ALL),
    "index by numbers": (lambda: between(lambda h: h[:, [3, 0, 5]], 6, 3), 1),
    "index_select": (lambda: between(lambda h: h.index_select(1, torch.tensor([3, 0, 5])), 6, 3), 1),
    "gather": (lambda: between(lambda h: h.gather(1, torch.tensor([[1, 2]] * 5)), 6, 2), 1),
    "take_along_dim": (lambda: between(lambda h: h.take_along_dim(torch.tensor([[1, 2]]), 1), 6, 2), 1),
    "flip": (lambda: between(lambda h: h.flip(1)), 1),
    "roll": (lambda: between(lambda h: h.roll(1, 1)), 1),
    "roll of all": (lambda: between(lambda h: h.roll(1)), 1),
    "cumsum": (lambda: between(lambda h: h.cumsum(1)), 1),
    "cumprod": (lambda: between(lambda h: h.cumprod(1)), 1),
    "cummax": (lambda: between(lambda h: h.cummax(1).values), 1),
    "logcumsumexp": (lambda: between(lambda h: h.logcumsumexp(1)), 1),
    "diff": (lambda: between(lambda h: h.diff(dim=1), 6, 5), 1),
    "sort": (lambda: between(lambda h: h.sort(1)[0]), ALL),
    "tril": (lambda: between(lambda h: (h.unsqueeze(1) * h.unsqueeze(2)).tril().sum(1)), 1),
    "written in place": (lambda: between(lambda h: h.clone().index_fill(1, torch.tensor([0]), 1.0)), None),
    "numbered": (lambda: between(lambda h: h * torch.arange(6).to(h)), 1),
    "numbered in pairs": (lambda: between(lambda h: h * torch.arange(3).to(h).repeat_interleave(2)), None),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    model, order = SHAPES[name]
    check(model(), X, order=order, strict=False)


# ------------------------------------------------------------------ products
PRODUCTS: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], dict, int]] = {
    "matmul": (lambda n, x: n.o((x @ n.w).relu()), {"w": (4, 6)}, ALL),
    "mm": (lambda n, x: n.o(torch.mm(x, n.w).relu()), {"w": (4, 6)}, ALL),
    "mv": (lambda n, x: torch.mv(x @ n.w, n.v), {"w": (4, 6), "v": (6,)}, ALL),
    "addmm": (lambda n, x: n.o(torch.addmm(n.b, x, n.w).relu()), {"w": (4, 6), "b": (6,)}, ALL),
    "addmv": (lambda n, x: torch.addmv(n.c, x @ n.w, n.v), {"w": (4, 6), "v": (6,), "c": (1,)}, ALL),
    "bmm": (
        lambda n, x: torch.bmm(torch.bmm(x.expand(2, 5, 4), n.w).relu(), n.u),
        {"w": (2, 4, 3), "u": (2, 3, 1)},
        HALVES,
    ),
    "baddbmm": (
        lambda n, x: torch.bmm(torch.baddbmm(n.b, x.expand(2, 5, 4), n.w).relu(), n.u),
        {"w": (2, 4, 3), "b": (2, 1, 3), "u": (2, 3, 1)},
        HALVES,
    ),
    # two parallel nets added: they may be exchanged, and the units in each
    "bmm, summed": (
        lambda n, x: torch.bmm(torch.bmm(x.expand(2, 5, 4), n.w).relu(), n.u).sum(0),
        {"w": (2, 4, 3), "u": (2, 3, 1)},
        2 * HALVES,
    ),
    "outer": (lambda n, x: F.linear(x @ torch.outer(n.a, n.v), n.w), {"a": (4,), "v": (6,), "w": (3, 6)}, ALL),
    "addr": (
        lambda n, x: F.linear((x @ torch.addr(n.m, n.a, n.v)).relu(), n.w),
        {"m": (4, 6), "a": (4,), "v": (6,), "w": (3, 6)},
        ALL,
    ),
    "addr, broadcast": (
        lambda n, x: F.linear((x @ torch.addr(n.m, n.a, n.v)).relu(), n.w),
        {"m": (6,), "a": (4,), "v": (6,), "w": (3, 6)},
        ALL,
    ),
    "linear without bias": (lambda n, x: F.linear(F.linear(x, n.w).relu(), n.u), {"w": (6, 4), "u": (3, 6)}, ALL),
    "bilinear": (lambda n, x: F.bilinear(x @ n.a, x @ n.c, n.w), {"a": (4, 3), "c": (4, 2), "w": (3, 3, 2)}, f(3) * 2),
    "einsum, plain": (lambda n, x: torch.einsum("bi,ih,ho->bo", x, n.w, n.u), {"w": (4, 6), "u": (6, 3)}, ALL),
    "einsum, ellipsis": (
        lambda n, x: torch.einsum("...h,ho->...o", torch.einsum("...i,ih->...h", x, n.w).relu(), n.u),
        {"w": (4, 6), "u": (6, 3)},
        ALL,
    ),
    "einsum, implicit": (
        lambda n, x: torch.einsum("bh,ho", torch.einsum("bi,ih", x, n.w).relu(), n.u),
        {"w": (4, 6), "u": (6, 3)},
        ALL,
    ),
    "einsum, diagonal": (
        lambda n, x: torch.einsum("bi,ihh->bh", x, n.w).relu() @ n.u,
        {"w": (4, 6, 6), "u": (6, 3)},
        ALL,
    ),
    "einsum, trace": (
        lambda n, x: torch.einsum("bhh->b", torch.einsum("bi,ihk->bhk", x, n.w).relu()) * n.s,
        {"w": (4, 6, 6), "s": (1,)},
        ALL,
    ),
    "einsum, heads": (
        lambda n, x: torch.einsum("bhd,hdo->bo", torch.einsum("bi,ihd->bhd", x, n.w).relu(), n.u),
        # all six could move freely, but no axis expression can say so: two axes, one inside the other
        {"w": (4, 2, 3), "u": (2, 3, 3)},
        2 * HALVES,
    ),
    "einsum, heads softened": (
        lambda n, x: torch.einsum("bhd,hdo->bo", torch.einsum("bi,ihd->bhd", x, n.w).softmax(-1), n.u),
        {"w": (4, 2, 3), "u": (2, 3, 3)},
        2 * HALVES,
    ),
    "einsum, low rank": (lambda n, x: torch.einsum("bi,ir,or->bo", x, n.a, n.c), {"a": (4, 3), "c": (3, 3)}, f(3)),
    "einsum, outer product": (
        lambda n, x: torch.einsum("bi,bj,ijo->bo", x @ n.a, x @ n.c, n.w),
        {"a": (4, 3), "c": (4, 2), "w": (3, 2, 3)},
        f(3) * 2,
    ),
    "tensordot": (
        lambda n, x: torch.tensordot(torch.tensordot(x, n.w, 1).relu(), n.u, dims=([1], [0])),
        {"w": (4, 6), "u": (6, 3)},
        ALL,
    ),
    "chain": (lambda n, x: torch.linalg.multi_dot([x, n.w, n.u]), {"w": (4, 6), "u": (6, 3)}, ALL),
    "kron": (lambda n, x: x @ torch.kron(n.a, n.c) @ n.w, {"a": (2, 3), "c": (2, 2), "w": (6, 3)}, f(3) * 2),
    "cdist to centres": (lambda n, x: (-torch.cdist(x, n.c)).exp() @ n.u, {"c": (6, 4), "u": (6, 3)}, ALL),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str) -> None:
    forward, shapes, order = PRODUCTS[name]
    layers: dict = {name: par(*shape) for name, shape in shapes.items()}
    if "o" in forward.__code__.co_names:
        layers["o"] = lin(6, 3)
    check(Net(forward, **layers), X, order=order, strict=False)


# ------------------------------------------------------------------ embeddings and look-ups
IDS = torch.tensor([[1, 4, 2, 0], [3, 3, 5, 1]])


def recommender(net: nn.Module, ids: Tensor) -> Tensor:
    return net.o(net.e(ids).relu())


LOOKUPS: dict[str, tuple[Made, int]] = {
    "embedding": (lambda: Net(recommender, e=nn.Embedding(7, 6), o=lin(6, 3)), ALL),
    "embedding with padding": (lambda: Net(recommender, e=nn.Embedding(7, 6, padding_idx=0), o=lin(6, 3)), ALL),
    "embedding as rows": (lambda: Net(lambda n, i: n.o(n.e[i].relu()), e=par(7, 6), o=lin(6, 3)), ALL),
    "embedding by one_hot": (
        lambda: Net(lambda n, i: n.o((F.one_hot(i, 7).to(n.e) @ n.e).relu()), e=par(7, 6), o=lin(6, 3)),
        ALL,
    ),
    # the vocabulary is named by the input and by the output, whatever is tied
    "tied embedding": (
        lambda: Net(
            lambda n, i: F.linear(n.b(n.a(h := n.e(i)).relu()) + h, n.e.weight),
            e=nn.Embedding(7, 6),
            a=lin(6, 4),
            b=lin(4, 6),
        ),
        ALL * f(4),
    ),
    "positions": (
        lambda: Net(
            lambda n, i: n.o((n.e(i) + n.p.weight).relu()), e=nn.Embedding(7, 6), p=nn.Embedding(4, 6), o=lin(6, 3)
        ),
        ALL,
    ),
    "positions picked": (
        lambda: Net(
            lambda n, i: n.o((n.e(i) + n.p(torch.arange(4))).relu()),
            e=nn.Embedding(7, 6),
            p=nn.Embedding(9, 6),
            o=lin(6, 3),
        ),
        ALL,
    ),
    "embedding bag": (lambda: Net(recommender, e=nn.EmbeddingBag(7, 6, mode="mean"), o=lin(6, 3)), None),
    "two tables multiplied": (
        lambda: Net(lambda n, i: (n.e(i) * n.k(i)).sum(-1), e=nn.Embedding(7, 6), k=nn.Embedding(7, 6)),
        ALL,
    ),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_lookups(name: str) -> None:
    model, order = LOOKUPS[name]
    check(model(), IDS, order=order, strict=order is not None)


# ------------------------------------------------------------------ attention
HEADS = 2 * f(4) ** 2 * f(4) ** 2  # two heads, each with four dimensions for scores and four for values


def attention(net: nn.Module, x: Tensor, **options: object) -> Tensor:
    h = net.i(x)
    return net.o(net.m(h, h, h, **options)[0])


def framed_attention(call: Callable | None = None, **options: object) -> Made:
    return lambda: Net(call or attention, i=lin(4, 8), m=nn.MultiheadAttention(8, 2, **options), o=lin(8, 3))  # type: ignore


def sdpa(net: nn.Module, x: Tensor, **options: object) -> Tensor:
    q, k, v = (p(x).unflatten(-1, (-1, 2)).transpose(1, 2) for p in (net.q, net.k, net.v))
    return net.o(F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(2))  # type: ignore


def heads(query: int, shared: int, call: Callable) -> Made:
    return lambda: Net(call, q=lin(4, 2 * query), k=lin(4, 2 * shared), v=lin(4, 2 * shared), o=lin(2 * query, 3))


def by_hand(net: nn.Module, x: Tensor) -> Tensor:
    q, k, v = (p(x).view(2, 5, 3, 2).transpose(1, 2) for p in (net.q, net.k, net.v))
    weights = (q @ k.transpose(-2, -1) / 2**0.5).softmax(-1)
    return net.o((weights @ v).transpose(1, 2).reshape(2, 5, 6))


def rotary(net: nn.Module, x: Tensor) -> Tensor:
    q, k, v = (p(x).view(2, 5, 3, 4).transpose(1, 2) for p in (net.q, net.k, net.v))
    angle = torch.arange(5).to(x)[:, None] * torch.tensor([1.0, 0.1]).to(x)
    cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
    turn = lambda t: t * cos + torch.cat([-t[..., 2:], t[..., :2]], -1) * sin  # noqa: E731
    return net.o(F.scaled_dot_product_attention(turn(q), turn(k), v).transpose(1, 2).flatten(2))


THREE = f(3) * 2**3 * 2**3  # three heads of size two
MASK = torch.tensor([[0.0, 1.0, 0.0, 0.5, 2.0]] * 5)
BOOLEAN = torch.ones(5, 5, dtype=torch.bool).tril()
ATTENTION: dict[str, tuple[Made, int]] = {
    "plain": (heads(3, 3, sdpa), THREE),
    "causal": (heads(3, 3, lambda n, x: sdpa(n, x, is_causal=True)), THREE),
    "scaled": (heads(3, 3, lambda n, x: sdpa(n, x, scale=0.3)), THREE),
    "mask of numbers": (heads(3, 3, lambda n, x: sdpa(n, x, attn_mask=MASK.to(x))), THREE),
    "mask of booleans": (heads(3, 3, lambda n, x: sdpa(n, x, attn_mask=BOOLEAN)), THREE),
    # a bias of its own for every head names the heads
    "bias by head": (
        heads(3, 3, lambda n, x: sdpa(n, x, attn_mask=torch.arange(3.0).to(x).view(1, 3, 1, 1) * MASK.to(x))),
        2**6,
    ),
    # a learnt bias for every head moves with them
    "learnt bias by head": (
        lambda: Net(
            lambda n, x: sdpa(n, x, attn_mask=n.bias),
            q=lin(4, 6),
            k=lin(4, 6),
            v=lin(4, 6),
            o=lin(6, 3),
            bias=par(1, 3, 5, 5),
        ),
        THREE,
    ),
    # two key-value heads, each read by two query heads
    "grouped queries": (heads(4, 2, lambda n, x: sdpa(n, x, enable_gqa=True)), 2 * 2**2 * 2**2 * 2**2),
    "one key for all": (heads(3, 1, lambda n, x: sdpa(n, x, enable_gqa=True)), f(3) * 2 * 2),
    "by hand": (lambda: Net(by_hand, q=lin(4, 6), k=lin(4, 6), v=lin(4, 6), o=lin(6, 3)), THREE),
    # the rotation holds the dimensions of queries and keys
    "rotary": (lambda: Net(rotary, q=lin(4, 12), k=lin(4, 12), v=lin(4, 12), o=lin(12, 3)), f(3) * f(4) ** 3),
    "multihead": (framed_attention(batch_first=True), f(8) ** 2 * HEADS),
    "multihead, time first": (framed_attention(), f(8) ** 2 * HEADS),
    "multihead, no bias": (framed_attention(bias=False, batch_first=True), f(8) ** 2 * HEADS),
    "multihead, bias_kv": (framed_attention(add_bias_kv=True), f(8) ** 2 * HEADS),
    "multihead, zero_attn": (framed_attention(add_zero_attn=True), f(8) ** 2 * HEADS),
    "multihead, no weights": (framed_attention(lambda n, x: attention(n, x, need_weights=False)), f(8) ** 2 * HEADS),
    "multihead, masked": (
        framed_attention(lambda n, x: attention(n, x, attn_mask=BOOLEAN.logical_not()[:2, :2], need_weights=False)),
        f(8) ** 2 * HEADS,
    ),
    "multihead, mean weights given": (
        framed_attention(lambda n, x: (n.o((r := n.m(h := n.i(x), h, h))[0]), r[1])),
        f(8) ** 2 * HEADS,
    ),
    # the weights of every head are an output: heads are named
    "multihead, all weights given": (
        framed_attention(lambda n, x: (n.o((r := n.m(h := n.i(x), h, h, average_attn_weights=False))[0]), r[1])),
        f(8) ** 2 * f(4) ** 4,
    ),
    "multihead, other key and value sizes": (
        lambda: Net(
            lambda n, x: n.o(n.m(n.i(x), n.k(x), n.v(x))[0]),
            i=lin(4, 8),
            k=lin(4, 5),
            v=lin(4, 3),
            m=nn.MultiheadAttention(8, 2, kdim=5, vdim=3),
            o=lin(8, 3),
        ),
        f(8) ** 2 * f(5) * f(3) * HEADS,
    ),
    "encoder layer": (
        lambda: nn.Sequential(lin(4, 8), nn.TransformerEncoderLayer(8, 2, 7, batch_first=True), lin(8, 3)),
        f(8) * f(7) * HEADS,
    ),
    "encoder layer, norm first": (
        lambda: nn.Sequential(
            lin(4, 8), nn.TransformerEncoderLayer(8, 2, 7, norm_first=True, activation="gelu"), lin(8, 3)
        ),
        f(8) * f(7) * HEADS,
    ),
    "encoder": (
        lambda: nn.Sequential(
            lin(4, 8),
            nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 7, batch_first=True), 2, enable_nested_tensor=False),
            lin(8, 3),
        ),
        f(8) * (f(7) * HEADS) ** 2,
    ),
    "decoder layer": (
        lambda: Net(
            lambda n, x: n.o(n.d(n.i(x), n.j(x))),
            i=lin(4, 8),
            j=lin(4, 8),
            d=nn.TransformerDecoderLayer(8, 2, 7, batch_first=True),
            o=lin(8, 3),
        ),
        f(8) ** 2 * f(7) * HEADS**2,
    ),
    "transformer": (
        lambda: Net(
            lambda n, x: n.o(n.d(n.i(x), n.j(x))),
            i=lin(4, 8),
            j=lin(4, 8),
            d=nn.Transformer(8, 2, 1, 1, 7, batch_first=True),
            o=lin(8, 3),
        ),
        f(8) ** 2 * f(7) ** 2 * HEADS**3,
    ),
}


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.filterwarnings("ignore:.*nested.*")
def test_attention(name: str) -> None:
    model, order = ATTENTION[name]
    check(model(), T, order=order)


# ------------------------------------------------------------------ recurrence
def unrolled(net: nn.Module, x: Tensor) -> Tensor:
    """A cell over all steps, from zero or from a learnt start."""
    state = None
    for step in x.unbind(1):
        state = net.c(step, state)
    return net.o(state[0] if isinstance(state, tuple) else state)


def last(net: nn.Module, x: Tensor) -> Tensor:
    return net.o(net.l(x)[0][:, -1])


RECURRENT: dict[str, tuple[Made, int]] = {
    "LSTM": (lambda: Net(last, l=nn.LSTM(4, 6, batch_first=True), o=lin(6, 3)), ALL),
    "GRU": (lambda: Net(last, l=nn.GRU(4, 6, batch_first=True), o=lin(6, 3)), ALL),
    "RNN": (lambda: Net(last, l=nn.RNN(4, 6, batch_first=True), o=lin(6, 3)), ALL),
    "RNN relu, no bias": (
        lambda: Net(last, l=nn.RNN(4, 6, nonlinearity="relu", bias=False, batch_first=True), o=lin(6, 3)),
        ALL,
    ),
    "LSTM, time first": (lambda: Net(lambda n, x: n.o(n.l(x)[0]), l=nn.LSTM(4, 6), o=lin(6, 3)), ALL),
    "LSTM, no batch": (lambda: Net(lambda n, x: n.o(n.l(x[0])[0]), l=nn.LSTM(4, 6), o=lin(6, 3)), ALL),
    "two layers": (lambda: Net(last, l=nn.LSTM(4, 6, 2, batch_first=True, dropout=0.5), o=lin(6, 3)), ALL**2),
    "both directions": (lambda: Net(last, l=nn.GRU(4, 6, batch_first=True, bidirectional=True), o=lin(12, 3)), ALL**2),
    "two layers, both directions": (
        lambda: Net(last, l=nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True), o=lin(12, 3)),
        ALL**4,
    ),
    "projected": (lambda: Net(last, l=nn.LSTM(4, 6, batch_first=True, proj_size=3), o=lin(3, 3)), ALL * f(3)),
    "projected, two layers, both directions": (
        lambda: Net(last, l=nn.LSTM(4, 6, 2, batch_first=True, proj_size=3, bidirectional=True), o=lin(6, 3)),
        (ALL * f(3)) ** 4,
    ),
    "last states": (
        lambda: Net(lambda n, x: n.o(torch.cat([*(s := n.l(x)[1])[0], *s[1]], -1)), l=nn.LSTM(4, 6, 2), o=lin(24, 3)),
        ALL**2,
    ),
    "last states, flattened": (
        lambda: Net(
            lambda n, x: n.o(n.l(x)[1].transpose(0, 1).flatten(1)), l=nn.GRU(4, 6, 2, bidirectional=True), o=lin(24, 3)
        ),
        ALL**4,
    ),
    "last layer only": (lambda: Net(lambda n, x: n.o(n.l(x)[1][-1]), l=nn.GRU(4, 6, 2), o=lin(6, 3)), ALL**2),
    # adding the layers' states makes them one space
    "last states summed": (lambda: Net(lambda n, x: n.o(n.l(x)[1].sum(0)), l=nn.GRU(4, 6, 2), o=lin(6, 3)), ALL),
    # an output that is given away is pinned; the layer below is not
    "output given": (lambda: Net(lambda n, x: n.l(x)[0], l=nn.LSTM(4, 6, 2)), ALL),
    "learnt start": (
        lambda: Net(
            lambda n, x: n.o(n.l(x, n.h.expand(-1, 2, -1).contiguous())[0]),
            l=nn.GRU(4, 6, batch_first=True),
            h=par(1, 1, 6),
            o=lin(6, 3),
        ),
        ALL,
    ),
    "learnt start, two layers": (
        lambda: Net(
            lambda n, x: n.o(n.l(x, (n.h.expand(-1, 2, -1).contiguous(), n.k.expand(-1, 2, -1).contiguous()))[0]),
            l=nn.LSTM(4, 6, 2, batch_first=True),
            h=par(2, 1, 6),
            k=par(2, 1, 6),
            o=lin(6, 3),
        ),
        ALL**2,
    ),
    # a start of its own for every row of the batch: rows are named by the input
    "learnt start by row": (
        lambda: Net(lambda n, x: n.o(n.l(x, n.h)[0]), l=nn.GRU(4, 6, batch_first=True), h=par(1, 2, 6), o=lin(6, 3)),
        ALL,
    ),
    "LSTMCell": (lambda: Net(unrolled, c=nn.LSTMCell(4, 6), o=lin(6, 3)), ALL),
    "GRUCell": (lambda: Net(unrolled, c=nn.GRUCell(4, 6), o=lin(6, 3)), ALL),
    "RNNCell": (lambda: Net(unrolled, c=nn.RNNCell(4, 6, nonlinearity="relu"), o=lin(6, 3)), ALL),
    "GRUCell, learnt start by row": (
        lambda: Net(lambda n, x: n.o(n.c(x[:, 0], n.h)), c=nn.GRUCell(4, 6), h=par(2, 6), o=lin(6, 3)),
        ALL,
    ),
    "LSTMCell, learnt start by row": (
        lambda: Net(
            lambda n, x: n.o(n.c(x[:, 0], (n.h, n.k))[0]), c=nn.LSTMCell(4, 6), h=par(2, 6), k=par(2, 6), o=lin(6, 3)
        ),
        ALL,
    ),
    "stacked": (
        lambda: Net(
            lambda n, x: n.o(n.r(n.l(x)[0])[0][:, -1]),
            l=nn.LSTM(4, 5, batch_first=True),
            r=nn.GRU(5, 6, batch_first=True),
            o=lin(6, 3),
        ),
        f(5) * ALL,
    ),
    "residual": (
        lambda: Net(
            lambda n, x: n.o((h := n.i(x)) + n.l(h)[0]), i=lin(4, 6), l=nn.LSTM(6, 6, batch_first=True), o=lin(6, 3)
        ),
        ALL,
    ),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrence(name: str) -> None:
    model, order = RECURRENT[name]
    check(model(), T, order=order)


# ------------------------------------------------------------------ routing
def experts(net: nn.Module, x: Tensor, gate: Callable[[Tensor], Tensor]) -> Tensor:
    """All experts computed, mixed by a gate of shape (batch, experts)."""
    hidden = torch.einsum("bi,eih->beh", x, net.w).relu()
    return torch.einsum("beh,eho,be->bo", hidden, net.u, gate(net.r(x)))


def picked(net: nn.Module, x: Tensor, change: Callable[[Tensor], Tensor] = lambda i: i) -> Tensor:
    """Only the best two experts, by gathering their weights."""
    value, index = net.r(x).softmax(-1).topk(2, -1)
    index = change(index)
    hidden = torch.einsum("bi,bkih->bkh", x, net.w[index]).relu()
    return torch.einsum("bkh,bkho,bk->bo", hidden, net.u[index], value)


def written(scores: Tensor) -> Tensor:
    value, index = scores.topk(2, -1)
    return torch.zeros_like(scores).scatter(-1, index, value.softmax(-1))


def made_hot(scores: Tensor) -> Tensor:
    value, index = scores.topk(2, -1)
    return (F.one_hot(index, 3).to(scores) * value.softmax(-1).unsqueeze(-1)).sum(1)


def masked(scores: Tensor) -> Tensor:
    worst = scores.topk(2, -1).values[..., -1:]
    return scores.masked_fill(scores < worst, -torch.inf).softmax(-1)


def added(scores: Tensor) -> Tensor:
    value, index = scores.topk(2, -1)
    return torch.zeros_like(scores).scatter_add(-1, index, value.sigmoid())


def routing(call: Callable) -> Made:
    return lambda: Net(call, r=lin(4, 3), w=par(3, 4, 5), u=par(3, 5, 2))


EXPERTS = f(3) * f(5) ** 3  # three experts, five units in each
ROUTING: dict[str, tuple[Made, int | None]] = {
    "dense": (routing(lambda n, x: experts(n, x, lambda s: s.softmax(-1))), EXPERTS),
    "one_hot": (routing(lambda n, x: experts(n, x, made_hot)), EXPERTS),
    "masked": (routing(lambda n, x: experts(n, x, masked)), EXPERTS),
    "scattered": (routing(lambda n, x: experts(n, x, written)), EXPERTS),
    "scattered and added": (routing(lambda n, x: experts(n, x, added)), EXPERTS),
    "gathered": (routing(picked), EXPERTS),
    "gathered, viewed": (
        routing(lambda n, x: picked(n, x, lambda i: i.reshape(-1).view(5, 2).to(torch.int64))),
        EXPERTS,
    ),
    "one expert": (
        routing(
            lambda n, x: torch.einsum(
                "bh,bho->bo", torch.einsum("bi,bih->bh", x, n.w[i := n.r(x).argmax(-1)]).relu(), n.u[i]
            )
        ),
        EXPERTS,
    ),
    "one expert, index_select": (
        routing(
            lambda n, x: torch.einsum(
                "bh,bho->bo",
                torch.einsum("bi,bih->bh", x, n.w.index_select(0, i := n.r(x).max(-1).indices)).relu(),
                n.u.index_select(0, i),
            )
        ),
        EXPERTS,
    ),
    # what the number of an expert decides besides holds the experts still
    "the number is an output": (routing(lambda n, x: (picked(n, x), n.r(x).argmax(-1))), f(5) ** 3),
    "the number is compared": (
        routing(lambda n, x: picked(n, x) * (n.r(x).argmax(-1, keepdim=True) == 1).to(x)),
        f(5) ** 3,
    ),
    "the number is added": (routing(lambda n, x: picked(n, x) + n.r(x).argmax(-1, keepdim=True)), f(5) ** 3),
    # the order of the best two is changed: experts might still be renamed, but nobody has to see that
    "swapped by flip": (routing(lambda n, x: picked(n, x, lambda i: i.flip(-1))), None),
    "swapped by roll": (routing(lambda n, x: picked(n, x, lambda i: i.roll(1, -1))), None),
    "swapped by indexing": (routing(lambda n, x: picked(n, x, lambda i: i[:, [1, 0]])), None),
    "swapped by gather": (routing(lambda n, x: picked(n, x, lambda i: i.gather(1, torch.tensor([[1, 0]] * 5)))), None),
    "swapped by cat": (routing(lambda n, x: picked(n, x, lambda i: torch.cat([i[:, 1:], i[:, :1]], 1))), None),
    "sorted": (routing(lambda n, x: picked(n, x, lambda i: i.sort(-1).values)), None),
    "shifted": (routing(lambda n, x: picked(n, x, lambda i: (i + 1) % 3)), None),
    "written at numbers": (
        routing(lambda n, x: picked(n, x, lambda i: i.clone().index_fill(1, torch.tensor([0]), 2))),
        None,
    ),
    "scattered numbers": (
        routing(lambda n, x: picked(n, x, lambda i: torch.zeros_like(i).scatter(1, torch.tensor([[1, 0]] * 5), i))),
        None,
    ),
    "numbers after a flip": (routing(lambda n, x: picked(n, x) + n.r(x).topk(2).indices.flip(-1)), f(5) ** 3),
    "numbers after indexing": (routing(lambda n, x: picked(n, x) + n.r(x).topk(2).indices[:, [1, 0]]), f(5) ** 3),
    "numbers after a gather": (
        routing(lambda n, x: picked(n, x) + n.r(x).topk(2).indices.gather(1, torch.tensor([[1, 0]] * 5))),
        f(5) ** 3,
    ),
    "numbers after a diagonal": (routing(lambda n, x: picked(n, x) + n.r(x).topk(2).indices.diagonal()), f(5) ** 3),
    "numbers after windows": (
        routing(lambda n, x: picked(n, x) + n.r(x).topk(2).indices.unfold(1, 1, 1).squeeze(-1)),
        f(5) ** 3,
    ),
    "numbers after a stride": (routing(lambda n, x: picked(n, x) + n.r(x).topk(3).indices[:, ::2]), f(5) ** 3),
    "numbers after a scatter": (
        routing(
            lambda n, x: (
                picked(n, x) + torch.zeros(5, 2).long().scatter(1, torch.tensor([[1, 0]] * 5), n.r(x).topk(2).indices)
            )
        ),
        f(5) ** 3,
    ),
    "numbers after a one_hot": (routing(lambda n, x: picked(n, x) + F.one_hot(n.r(x).argmax(-1), 4)[:, :2]), f(5) ** 3),
}


@pytest.mark.parametrize("name", ROUTING)
def test_routing(name: str) -> None:
    model, order = ROUTING[name]
    check(model(), X, order=order, strict=False)


# ------------------------------------------------------------------ where positions hide
SQUARE = torch.randn(6, 6, generator=torch.Generator().manual_seed(9)).double()
HIDDEN: dict[str, tuple[Made, int | None]] = {
    # places that a scatter writes to are numbers, also where it writes into zeros
    "scatter into zeros": (
        lambda: between(lambda h: torch.zeros(5, 7).to(h).scatter(1, torch.tensor([[1, 4, 2]] * 5), h[:, :3]), 6, 7),
        None,
    ),
    "scatter_add into zeros": (
        lambda: between(lambda h: torch.zeros_like(h).scatter_add(1, torch.tensor([[1, 4, 2, 0, 5, 3]] * 5), h)),
        1,
    ),
    "scatter rows into zeros": (
        lambda: between(
            lambda h: torch.zeros(5, 6).to(h).scatter(0, torch.tensor([[1, 3, 0, 4, 2]]).t().expand(5, 6), h)
        ),
        ALL,
    ),
    "index_add": (lambda: between(lambda h: torch.zeros_like(h).index_add(1, torch.tensor([1, 4, 2, 0, 5, 3]), h)), 1),
    "index_copy": (
        lambda: between(lambda h: torch.zeros_like(h).index_copy(1, torch.tensor([1, 4, 2, 0, 5, 3]), h)),
        1,
    ),
    "index_put": (
        lambda: between(
            lambda h: torch.zeros_like(h).index_put((torch.arange(5)[:, None], torch.tensor([[1, 4]])), h[:, :2])
        ),
        None,
    ),
    "masked_scatter": (lambda: between(lambda h: h.masked_scatter(h > 0, h.sin())), 1),
    "triangle of a constant": (
        lambda: Net(
            lambda n, x: n.o((n.s.expand(6, 6).tril() @ n.a(x).t()).t()), a=lin(4, 6), s=par(1, 1), o=lin(6, 3)
        ),
        1,
    ),
    "triangle of a spread number": (
        lambda: Net(
            lambda n, x: ((x.mean() * n.s).expand(6, 6).tril() * n.w).sum(0) @ n.u,
            s=par(1, 1),
            w=par(6, 6),
            u=par(6, 3),
        ),
        None,
    ),
    "causal attention of one learnt query": (
        lambda: Net(
            lambda n, x: torch.einsum(
                "btd,td->b", F.scaled_dot_product_attention(n.q.expand(2, 5, 6), n.k(x), n.v(x), is_causal=True), n.p
            ),
            q=par(1, 1, 6),
            k=lin(4, 6),
            v=lin(4, 6),
            p=par(5, 6),
        ),
        ALL**2,
    ),
    "roll of a spread tensor": (
        lambda: Net(
            lambda n, x: torch.einsum("bhu,hu->b", n.a(x).unsqueeze(-1).expand(-1, -1, 2).roll(1), n.w),
            a=lin(4, 6),
            w=par(6, 2),
        ),
        1,
    ),
    "gather from few rows": (
        lambda: Net(
            lambda n, x: x.sum() * (torch.gather(n.w, 1, torch.zeros(5, 1).long()) * n.v).sum(0),
            w=par(8, 6),
            v=par(5, 3),
        ),
        None,
    ),
    "largest of equals": (
        lambda: Net(lambda n, x: x.sum() * n.w[n.s.expand(5, 6).argmax(1)], s=par(1, 1), w=par(6, 3)),
        None,
    ),
    "scatter of a spread number": (
        lambda: Net(
            lambda n, x: x.sum() * (n.s.expand(5, 6).scatter(1, torch.tensor([[2]] * 5), 0.0) * n.w).sum(1),
            s=par(1, 1),
            w=par(6),
        ),
        None,
    ),
    "tensor made by steps": (lambda: between(lambda h: torch.polar(h.abs(), h.sin()).imag), None),
    "difference from a learnt start": (
        lambda: Net(
            lambda n, x: n.o(torch.diff(n.a(x), dim=1, prepend=n.p.expand(2, 1, 6)).relu()),
            a=lin(4, 6),
            p=par(1, 1, 6),
            o=lin(6, 3),
        ),
        ALL,
    ),
    "largest of nothing": (
        lambda: Net(lambda n, x: n.w[torch.zeros(5, 6).to(x).argmax(1)] @ n.u * x.sum(), w=par(6, 4), u=par(4, 3)),
        None,
    ),
    "fixed mixing": (lambda: between(lambda h: h @ SQUARE), 1),
    "an inverse": (lambda: between(lambda h: torch.linalg.solve(torch.eye(6).to(h) + h.t() @ h, h.t()).t()), None),
    "a spectrum": (lambda: between(lambda h: torch.fft.rfft(h, dim=1).abs(), 6, 4), None),
    "a product of three": (lambda: between(lambda h: torch.linalg.cross(h[:, :3], h[:, 3:]), 6, 3), None),
    "an order": (lambda: between(lambda h: h * h.argsort(1).to(h)), 1),
    "an order of orders": (lambda: between(lambda h: h * h.argsort(1).argsort(1).to(h)), None),
    "a search": (
        lambda: between(lambda h: h * torch.searchsorted(torch.tensor([-1.0, 0.0, 1.0]).to(h), h).to(h)),
        None,
    ),
    "a search in features": (lambda: between(lambda h: torch.searchsorted(h.sort(1).values, h.sin()).to(h)), None),
    "a quantile": (lambda: Net(lambda n, x: n.a(x).quantile(0.3, 1) * n.s, a=lin(4, 6), s=par(1)), None),
    "the third smallest": (lambda: Net(lambda n, x: n.a(x).kthvalue(3, 1).values * n.s, a=lin(4, 6), s=par(1)), None),
    # its ends count half, what is between them is alike
    "trapezoid": (lambda: Net(lambda n, x: torch.trapezoid(n.a(x), dim=1) * n.s, a=lin(4, 6), s=par(1)), f(4)),
    "convolution over features": (
        lambda: Net(
            lambda n, x: n.o(F.conv1d(n.a(x).unsqueeze(1), n.k, padding=1).squeeze(1)),
            a=lin(4, 6),
            k=par(1, 1, 3),
            o=lin(6, 3),
        ),
        1,
    ),
    "pooling over features": (lambda: between(lambda h: F.avg_pool1d(h.unsqueeze(1), 2).squeeze(1), 6, 3), 1),
    "view across features": (lambda: between(lambda h: h.view(3, 10)[:, :6]), None),
    "view as another batch": (lambda: between(lambda h: h.t().reshape(5, 6).relu()), None),
    "as_strided": (lambda: between(lambda h: h.as_strided((5, 6), (6, 1)).relu()), None),
    "put": (lambda: between(lambda h: h.put(torch.tensor([1, 3]), torch.tensor([0.5, 0.7]).to(h))), None),
    "take": (lambda: between(lambda h: h.take(torch.tensor([[1, 3, 7, 8, 2, 9]]))), None),
    "bucketize": (lambda: between(lambda h: torch.bucketize(h, torch.tensor([-0.5, 0.5]).to(h)).to(h)), None),
    "histogram": (lambda: Net(lambda n, x: torch.histc(n.a(x), 4, -2, 2) @ n.s, a=lin(4, 6), s=par(4)), None),
    "block diagonal": (
        lambda: Net(
            lambda n, x: n.o((n.a(x) @ torch.block_diag(n.b, n.c)).relu()),
            a=lin(4, 6),
            b=par(3, 3),
            c=par(3, 3),
            o=lin(6, 3),
        ),
        None,
    ),
    "diagonal matrix": (
        lambda: Net(lambda n, x: n.o((n.a(x) @ torch.diag(n.d)).relu()), a=lin(4, 6), d=par(6), o=lin(6, 3)),
        None,
    ),
    "diagonal embedding": (
        lambda: Net(lambda n, x: n.o(torch.diag_embed(n.a(x)) @ n.d), a=lin(4, 6), d=par(6), o=lin(6, 3)),
        None,
    ),
    "complex": (
        lambda: between(lambda h: torch.view_as_real(torch.view_as_complex(h.view(5, 3, 2)).exp()).flatten(1)),
        None,
    ),
    "polar": (lambda: between(lambda h: torch.polar(h.abs(), h.sin()).real), None),
    "written by slice": (lambda: between(_write), None),
    "written by index": (lambda: between(_write_at), None),
    "written by mask": (lambda: between(_write_where), None),
    "written through a view": (lambda: between(_write_view), None),
}


def _write(h: Tensor) -> Tensor:
    h = h.clone()
    h[:, 1:3] = 0.5
    h[:, 4] += h[:, 0]
    return h


def _write_at(h: Tensor) -> Tensor:
    h = h.clone()
    h[:, [1, 4]] = h[:, [0, 2]]
    return h


def _write_where(h: Tensor) -> Tensor:
    h = h.clone()
    h[h < 0] = 0.3
    return h


def _write_view(h: Tensor) -> Tensor:
    h = h.clone()
    h.view(5, 2, 3)[:, 0].mul_(2)
    h.t()[5].add_(1)
    return h


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.filterwarnings("ignore")
def test_hidden_positions(name: str) -> None:
    model, order = HIDDEN[name]
    x = T if "attention" in name or "start" in name else X
    check(model(), x, order=order, strict=False)


# ------------------------------------------------------------------ routed weights that meet others than their own
def crossed(change: Callable[[Tensor], Tensor], index: Callable[[Tensor], Tensor] = lambda i: i) -> Made:
    """One expert a row, by gathering; hidden units or the numbers of experts change places over the batch."""

    def run(net: nn.Module, x: Tensor) -> Tensor:
        i = net.r(x).argmax(-1)
        h = change(torch.einsum("bi,bih->bh", x, net.w[i]).relu())
        return torch.einsum("bh,bho->bo", h, net.u[index(i)])

    return routing(run)


def two_routers(net: nn.Module, x: Tensor) -> Tensor:
    i, j = net.r(x).topk(2, -1).indices, net.q(x).topk(2, -1).indices
    return torch.einsum("bkh,bkho->bo", torch.einsum("bi,bkih->bkh", x, net.w[i]).relu(), net.u[j])


def turned_routes(net: nn.Module, x: Tensor) -> Tensor:
    """Two rows and two experts a row: the axes have one size, and are exchanged."""
    i = net.r(x[:2]).topk(2, -1).indices
    return torch.einsum("bkh,bkho->bo", torch.einsum("bi,bkih->bkh", x[:2], net.w[i]).relu(), net.u[i.t()])


# Once a row meets the weights of another row's expert, the units of all experts must move alike: f(3) * f(5) at most.
CROSSED: dict[str, tuple[Made, int | None]] = {
    "not at all": (crossed(lambda h: h), EXPERTS),
    "flip": (crossed(lambda h: h.flip(0)), f(3) * f(5)),
    "roll": (crossed(lambda h: h.roll(1, 0)), f(3) * f(5)),
    "index": (crossed(lambda h: h[[1, 0, 2, 3, 4]]), f(3) * f(5)),
    "cat": (crossed(lambda h: torch.cat([h[1:], h[:1]])), f(3) * f(5)),
    "stack": (crossed(lambda h: torch.stack(h.unbind(0)[::-1])), f(3) * f(5)),
    "cumsum": (crossed(lambda h: h.cumsum(0)), f(3) * f(5)),
    "softmax": (crossed(lambda h: h.softmax(0)), f(3) * f(5)),
    "mean": (crossed(lambda h: h - h.mean(0)), f(3) * f(5)),
    "batch norm": (crossed(lambda h: F.batch_norm(h, None, None, training=True)), f(3) * f(5)),
    "sort": (crossed(lambda h: h.sort(0).values), f(3) * f(5)),
    "numbers flipped": (crossed(lambda h: h, lambda i: i.flip(0)), None),
    "numbers shifted": (crossed(lambda h: h[:-1], lambda i: i[1:]), f(3) * f(5)),
    "numbers reversed": (crossed(lambda h: h, lambda i: 2 - i), f(5)),
    "two routers": (
        lambda: Net(two_routers, r=lin(4, 3), q=lin(4, 3), w=par(3, 4, 5), u=par(3, 5, 2)),
        f(3) ** 2 * f(5),
    ),
    "turned": (lambda: Net(turned_routes, r=lin(4, 3), w=par(3, 4, 5), u=par(3, 5, 2)), f(3) * f(5)),
}


@pytest.mark.parametrize("name", CROSSED)
def test_crossed_routes(name: str) -> None:
    model, order = CROSSED[name]
    check(model(), X, order=order, strict=False)
