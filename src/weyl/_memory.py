"""When two names are one tensor."""

from __future__ import annotations

from torch import Tensor

__all__ = ["tensor_identity"]


def tensor_identity(tensor: Tensor) -> tuple[object, ...]:
    """Equal for the same view of the same memory: tied names of a state dict are often different objects.

    Examples
    --------
    >>> import torch
    >>> weight = torch.zeros(2, 2)
    >>> tensor_identity(weight) == tensor_identity(weight.detach())
    True
    >>> tensor_identity(weight) == tensor_identity(weight.t())
    False
    """
    if str(tensor.layout) != "torch.strided":
        return (id(tensor),)
    place = tensor.untyped_storage()._cdata, int(tensor.storage_offset())
    return (*place, tuple(tensor.shape), tensor.stride(), tensor.dtype)
