"""Checks of arguments that several modules of this room take."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from weyl.errors import UsageError

__all__ = ["class_weighting", "exponent", "positive", "tensor", "whole"]


def whole(name: str, value: int, least: int) -> int:
    """Return an argument that must be a whole number of at least ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise UsageError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return number


def positive(name: str, value: float) -> float:
    """Return an argument that must be positive and finite."""
    if not 0 < value < math.inf:
        raise UsageError(f"{name} must be positive and finite, got {value!r}")
    return float(value)


def exponent(p: float) -> float:
    """Return the exponent of a norm that must be strictly convex."""
    if not 1 < p < math.inf:
        raise UsageError(f"p must lie strictly between 1 and infinity, got {p!r}")
    return float(p)


def tensor(name: str, value: object) -> Tensor:
    """Return an argument that must be a tensor or something that becomes one, detached."""
    if isinstance(value, Tensor):
        return value.detach()
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{name} must be a tensor or an array of numbers, got {type(value).__name__}") from error


def class_weighting(name: str, given: Sequence[float] | Tensor | None, k: int) -> Tensor:
    """Return a positive weight for each class, float64 on the CPU; ones unless given."""
    if given is None:
        return torch.ones(k, dtype=torch.float64)
    values = tensor(name, given).to("cpu", torch.float64)
    if values.shape != (k,) or not bool(((values > 0) & values.isfinite()).all()):
        raise UsageError(f"{name} must be {k} positive numbers, got {values.tolist()}")
    return values
