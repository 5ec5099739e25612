"""States and inputs that a proof tries: near the given ones, random, or of small integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from weyl._memory import tensor_identity

__all__ = ["Sampler", "State", "call", "cast", "is_float", "replaced", "state_of"]

State = dict[str, Tensor]


class Sampler:
    """Draws states and inputs with a private generator.

    Parameters
    ----------
    seed : int
        Seed of the generator.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def general(self, state: State) -> State:
        """Weights near the given ones in general position; positive entries stay positive (variances)."""

        def shake(tensor: Tensor) -> Tensor:
            noise = self.normal(tensor)
            if bool((tensor > 0).all()):
                return tensor * torch.exp(0.3 * noise)
            return tensor * torch.exp(0.1 * noise) + 0.02 * self.normal(tensor)

        return _map_state(state, shake)

    def integer_state(self, state: State, terms: int) -> State:
        """Weights in {-1, 0, 1}, so sparse that sums have about ``terms`` terms."""

        def small(tensor: Tensor) -> Tensor:
            fan = max(tensor.numel() // max(tensor.shape[0], 1), 1) if tensor.ndim > 1 else 1
            keep = torch.rand(tensor.shape, generator=self._generator, device="cpu") < min(1.0, terms / fan)
            return self.integers(tensor, 1) * keep.to(tensor.device)

        return _map_state(state, small)

    def inputs(self, inputs: Any) -> Any:
        """Normal entries for floating inputs, the given entries in another order for integer ones."""

        def fresh(leaf: Any) -> Any:
            if is_float(leaf):
                return self.normal(leaf)
            if isinstance(leaf, Tensor) and leaf.dtype is not torch.bool and leaf.ndim:
                order = torch.randperm(leaf.numel(), generator=self._generator, device="cpu")
                return leaf.flatten()[order.to(leaf.device)].reshape(leaf.shape)
            return leaf

        return tree_map(fresh, inputs)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal entries."""
        return torch.randn(like.shape, generator=self._generator, dtype=torch.float64, device="cpu").to(like)

    def integers(self, like: Tensor, top: int) -> Tensor:
        """Integers between ``-top`` and ``top``."""
        return torch.randint(-top, top + 1, like.shape, generator=self._generator, device="cpu").to(like)


def is_float(leaf: Any) -> bool:
    """Whether something is a tensor of floating-point numbers."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def cast(tree: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors in another precision, detached."""
    return tree_map(lambda leaf: leaf.detach().to(dtype) if is_float(leaf) else leaf, tree)


def replaced(state: State, name: str, tensor: Tensor) -> State:
    """The state with one tensor replaced, under all its names."""
    old = tensor_identity(state[name])
    return {n: tensor if tensor_identity(t) == old else t for n, t in state.items()}


def call(module: nn.Module, state: Mapping[str, Tensor], args: Any, kwargs: Any) -> Any:
    """The result of a module with other tensors in place of its own; neither the state nor the module is changed.

    A module that is registered under two names is given its tensors once: `functional_call` would otherwise put them
    back in the wrong order.
    """
    once = {name for name, _ in module.named_modules()}
    given = {name: tensor for name, tensor in state.items() if name.rpartition(".")[0] in once}
    return torch.func.functional_call(module, given, args, kwargs, tie_weights=False)


def state_of(module: nn.Module) -> State:
    """The state dict, detached, with names that share a tensor sharing one object."""
    shared: dict[tuple[object, ...], Tensor] = {}
    return {n: shared.setdefault(tensor_identity(t), t.detach()) for n, t in module.state_dict().items()}


def _map_state(state: State, function: Callable[[Tensor], Tensor]) -> State:
    """Apply a function to every floating tensor once, ties kept."""
    done: dict[int, Tensor] = {}
    out = {}
    for name, tensor in state.items():
        if id(tensor) not in done:
            done[id(tensor)] = function(tensor) if is_float(tensor) and tensor.numel() else tensor
        out[name] = done[id(tensor)]
    return out
