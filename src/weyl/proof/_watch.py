"""Watch every operator of a forward pass: how many, in what precision, and whether all values were exact."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["Watch"]

# Dyadic rationals k / 2^20 below 2^30 in size: their sums and products of a few thousand terms are exact in float64.
GRID = float(1 << 20)
LIMIT = float(1 << 30)
LOWER = (torch.float32, torch.float16, torch.bfloat16)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators; keeps float64 computations in float64; optionally checks that no value was rounded.

    Many models cast to float32 inside (norms, rotary embeddings), or mix in float32 constants. For a proof the cast is
    an obstacle, not a part of the function, so it is skipped; ``lowest`` says if data was rounded to less all the
    same.

    Parameters
    ----------
    working : dtype
        The precision in which weights and inputs are.
    exact : bool
        Check that every floating value that an operator returns is a multiple of 2^-20 below 2^30. Sums of such values
        are exact, and so are products of integers below 2^15 among them, which is what small-integer weights give;
        what an operator computes on its way to its result is not seen.
    """

    def __init__(self, working: torch.dtype = torch.float64, exact: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = 0
        self.lowest = working
        self.all_exact = True
        self._working = working
        self._exact = exact

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        wide = any(isinstance(t, torch.Tensor) and t.dtype is self._working for t in tree_leaves((args, kwargs)))
        if wide and self._working is torch.float64:
            if func is torch.ops.aten._to_copy.default and kwargs.get("dtype") in LOWER:
                kwargs["dtype"] = torch.float64
            elif not func._schema.is_mutable:
                args, kwargs = tree_map(_widened, (args, kwargs))
        out = func(*args, **kwargs)
        self.operators += 1
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                if wide and torch.finfo(tensor.dtype).eps > torch.finfo(self.lowest).eps:
                    self.lowest = tensor.dtype
                if self._exact and self.all_exact:
                    self.all_exact = _on_grid(tensor)
        return out


def _widened(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.dtype in LOWER else leaf


def _on_grid(tensor: torch.Tensor) -> bool:
    """Whether every finite value is k / 2^20 and below 2^30; infinities are exact (masks)."""
    values = tensor.detach()
    scaled = values * GRID
    fine = (scaled == scaled.round()) & (values.abs() < LIMIT)
    return bool((fine | values.isinf()).all())
