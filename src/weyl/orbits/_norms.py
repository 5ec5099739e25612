"""Which modules are norms: torch's own, and others that compute the same."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

__all__ = ["TORCH", "agree", "norms", "without_parameters"]

TORCH = (nn.LayerNorm, nn.RMSNorm)
# Rows on which other norms are compared with torch's, and how many times the accuracy of the dtype they may be off.
ROWS = 4
SLACK = 64


def norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Norms that have a gain, with their paths."""
    for name, module in model.named_modules():
        title = type(module).__name__
        if title.endswith(("LayerNorm", "RMSNorm")) and isinstance(getattr(module, "weight", None), Tensor):
            yield name, module


def without_parameters(norm: nn.Module) -> nn.Module | None:
    """The same norm without gain and bias; None if a module is no layer or RMS norm."""
    if type(norm) in TORCH:
        return type(norm)(norm.normalized_shape, eps=norm.eps, elementwise_affine=False)
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    gain = norm.weight
    if not isinstance(eps, float) or not isinstance(gain, Tensor) or gain.ndim != 1 or not gain.is_floating_point():
        return None
    accuracy = max(torch.finfo(gain.dtype).eps, torch.finfo(torch.float32).eps)
    for kind in (nn.RMSNorm, nn.LayerNorm):
        bare = kind(gain.shape[0], eps=eps, elementwise_affine=False)
        if agree(norm, bare, accuracy):
            return bare
    return None


def agree(norm: nn.Module, bare: nn.Module, accuracy: float) -> bool:
    """Whether a norm is another one without parameters, times its gain and plus its bias, on rows of all sizes."""
    gain, bias = norm.weight, getattr(norm, "bias", None)
    assert isinstance(gain, Tensor)
    probe = _probe(gain)
    try:
        with torch.no_grad():
            result = norm.forward(probe)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, NotImplementedError):
        return False
    if not isinstance(result, Tensor) or result.shape != probe.shape:
        return False
    expected = bare(probe.double()) * gain.detach().double()
    if isinstance(bias, Tensor):
        expected = expected + bias.detach().double()
    tolerance = SLACK * max(accuracy, torch.finfo(gain.dtype).eps)
    return torch.allclose(result.double(), expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def _probe(gain: Tensor) -> Tensor:
    """Rows of sizes such that eps counts in some of them."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(ROWS, *gain.shape, generator=generator, dtype=torch.float64) + 0.5
    sizes = torch.logspace(0.0, -4.0, ROWS, dtype=torch.float64)
    return (rows * sizes.reshape(-1, *[1] * gain.ndim)).to(gain.device, gain.dtype)
