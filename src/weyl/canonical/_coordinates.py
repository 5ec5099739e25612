"""Coordinates of a state in which its symmetries are plain: double precision, and flips that are linear."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from weyl._memory import tensor_identity
from weyl.structure import Structure, block_positions

__all__ = ["centred", "in_double"]


def in_double(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating tensors in float64; those that shared one share one again."""
    made: dict[object, Tensor] = {}
    out = {}
    for name, tensor in state.items():
        shared = tensor_identity(tensor)
        if shared not in made:
            made[shared] = tensor.detach().double() if tensor.is_floating_point() else tensor
        out[name] = made[shared]
    return out


def centred(structure: Structure, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""A state in coordinates in which flips of sigmoids are linear; returns a new one, sharing what stays.

    With :math:`\sigma(x) = c/2 + \tau(x)` and an odd :math:`\tau`, a reader's bias plus c/2 times the row sums of
    its weight is the bias of a reader of :math:`\tau`: a flip negates columns and leaves it alone.
    """
    out = dict(state)
    for absorptions in structure.absorptions.values():
        for absorption in absorptions:
            weight = state[absorption.weight]
            index = torch.from_numpy(block_positions(absorption.block)).to(weight.device)
            read = weight.detach().index_select(absorption.dim, index).double()
            rows = read.movedim(absorption.dim, 1).flatten(1).sum(1)
            out[absorption.bias] = out[absorption.bias].double() + absorption.constant / 2 * rows
    return out
