"""Make a second network from a first: changed, disguised, and rounded."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

import weyl
from studies.identity import _design as design
from studies.identity._design import Kind

State = dict[str, Tensor]


def disguised(structure: weyl.Structure, state: Mapping[str, Tensor], kind: Kind, seed: int) -> State:
    """Move a state by a random element of the group, of the moves that a kind allows; float32 stays float32."""
    return weyl.act(structure.group.random(seed=seed, kinds=kind.moves), structure, state)


def has(structure: weyl.Structure, kind: Kind) -> bool:
    """Whether the group has the moves of a kind."""
    return not structure.group.random(seed=1, kinds=kind.moves).is_identity


def changed(state: Mapping[str, Tensor], how: str, seed: int) -> State:
    """A state with noise, or pruned; as it is for everything else."""
    if how == "noise":
        generator = torch.Generator().manual_seed(seed)
        return {name: _noisy(tensor, generator) for name, tensor in state.items()}
    if how == "pruned":
        return {name: _pruned(tensor) if _matrix(tensor) else tensor for name, tensor in state.items()}
    return dict(state)


def finished(state: Mapping[str, Tensor], how: str, head: str, seed: int) -> State:
    """A state in another format, on a grid, or with another head."""
    out = dict(state)
    if how in ("bfloat16", "float16"):
        dtype = getattr(torch, how)
        return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in out.items()}
    if how == "int8":
        return {name: _on_grid(tensor) if _matrix(tensor) else tensor for name, tensor in out.items()}
    if how in ("head", "classes"):
        generator = torch.Generator().manual_seed(seed)
        for name in (f"{head}.weight", f"{head}.bias"):
            if name in out:
                rows = len(out[name]) // (2 if how == "classes" else 1)
                bound = out[f"{head}.weight"].shape[1] ** -0.5
                shape = (rows, *out[name].shape[1:])
                out[name] = (2 * torch.rand(shape, generator=generator) - 1) * bound
    return out


def _matrix(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dim() > 1


def _noisy(tensor: Tensor, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point() or tensor.numel() < 2:
        return tensor
    # Biases that are all zero get noise of the same size, gains that are all one as well.
    spread = float(tensor.std()) or float(tensor.abs().mean()) or 1.0
    return tensor + design.NOISE * spread * torch.randn(tensor.shape, generator=generator)


def _pruned(tensor: Tensor) -> Tensor:
    least = tensor.abs().flatten().kthvalue(max(1, int(design.PRUNED * tensor.numel()))).values
    return torch.where(tensor.abs() <= least, torch.zeros_like(tensor), tensor)


def _on_grid(tensor: Tensor) -> Tensor:
    """The nearest of 255 values at equal steps, a grid for every row."""
    rows = tensor.flatten(1)
    step = rows.abs().amax(1, keepdim=True) / 127
    step = torch.where(step > 0, step, torch.ones_like(step))
    return ((rows / step).round() * step).reshape(tensor.shape)
