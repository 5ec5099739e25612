"""Batches of data, and a network that is run on them with other weights and left as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from weyl._memory import tensor_identity
from weyl._text import one_line
from weyl.errors import MismatchError, UsageError
from weyl.proof._state import call

__all__ = ["Batch", "Network", "check_data", "check_model", "read_batches", "undisturbed"]


@dataclass(frozen=True, eq=False)
class Batch:
    """What one batch says.

    Parameters
    ----------
    args, kwargs
        Arguments of the network.
    targets : tuple
        What followed the inputs.
    size : int
        Number of samples.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    targets: tuple[Any, ...]
    size: int


class Network:
    """A model with the tensors of a state in place of its own; neither is changed.

    Parameters
    ----------
    model : nn.Module
        Its own parameters and persistent buffers are not used.
    state : mapping of str to tensor
        All of them; of names that share a tensor one is enough. Shapes may differ from the model's where its layers
        take that.

    Raises
    ------
    MismatchError
        If the state lacks a tensor of the model, or has one that the model has not.
    """

    def __init__(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        check_model(model)
        self._model = model
        full = _complete(model, state)
        # That of the weights: what enters them must have the same.
        self.place = next((t for n, t in full.items() if t.is_floating_point()), torch.empty(0))
        buffers = dict(model.named_buffers(remove_duplicate=False))
        usual = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
        for name, buffer in buffers.items():
            if name not in full:
                dtype = self.place.dtype if buffer.dtype == usual else buffer.dtype
                full[name] = buffer.detach().to(self.place.device, dtype)
        copies: dict[object, Tensor] = {}
        # A layer may count in place.
        self.tensors = {
            name: copies.setdefault(tensor_identity(tensor), tensor.clone()) if name in buffers else tensor
            for name, tensor in full.items()
        }

    def __call__(self, batch: Batch) -> Any:
        """Outputs of the network."""
        return call(self._model, self.tensors, batch.args, dict(batch.kwargs))


@contextmanager
def undisturbed(model: nn.Module, place: Tensor, training: Iterable[nn.Module] = ()) -> Iterator[None]:
    """Evaluate without gradients; afterwards modes and random state, which data loaders advance, are as before.

    Parameters
    ----------
    model : nn.Module
        The network.
    place : tensor
        Any on the device where it runs.
    training : iterable of nn.Module
        Modules that are to behave as in training.
    """
    # Not by model.eval(): what a module does there besides, such as folding its weights, might stay.
    modes = [(module, module.training) for module in model.modules()]
    devices = [place.device] if place.device.type == "cuda" else []
    try:
        for module, _ in modes:
            module.training = False
        for module in training:
            module.training = True
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def check_model(model: object) -> None:
    """Refuse what is no module.

    Raises
    ------
    UsageError
        Saying what came.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"model must be a torch.nn.Module, got {type(model).__name__}: pass the network, model=net")


def check_data(data: object) -> None:
    """Refuse what cannot be iterated again and again, and what is one batch.

    Raises
    ------
    UsageError
        With what to pass.
    """
    wanted = "data must be an iterable of batches that can be iterated again, such as a list or a DataLoader"
    if not isinstance(data, Iterable):
        raise UsageError(f"{wanted}; got {type(data).__name__}")
    if isinstance(data, Iterator):
        raise UsageError(f"{wanted}; got {type(data).__name__}, which can be iterated once: pass list(data)")
    if isinstance(data, (Tensor, Mapping, str)):
        raise UsageError(f"{wanted}; got one {type(data).__name__}: put it in a list")
    if isinstance(data, tuple) and len({x.shape[1:] if isinstance(x, Tensor) else None for x in data}) > 1:
        raise UsageError(f"{wanted}; got a tuple of unlike things, which looks like one batch: put it in a list")


def read_batches(data: Iterable[Any], place: Tensor) -> Iterator[Batch]:
    """Batches on the device of a tensor, floating inputs in its precision; those without samples are passed over.

    A batch is a tensor; or inputs followed by targets, the inputs a tensor, a tuple of arguments, or a mapping of
    keyword arguments; or such a mapping.

    Parameters
    ----------
    data : iterable
        The batches.
    place : tensor
        Whose device and dtype the inputs get.

    Raises
    ------
    UsageError
        If there are no samples, or a batch has no tensor.
    """
    check_data(data)

    def inward(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.to(place.device, place.dtype if leaf.is_floating_point() else leaf.dtype)

    def beside(leaf: Any) -> Any:
        return leaf.to(place.device) if isinstance(leaf, Tensor) else leaf

    found = False
    for number, given in enumerate(data):
        inputs, targets = _split(given)
        size = _size(number, inputs)
        if not size:
            continue
        found = True
        inputs, targets = tree_map(inward, inputs), tuple(tree_map(beside, target) for target in targets)
        if isinstance(inputs, Mapping):
            yield Batch((), inputs, targets, size)
        else:
            yield Batch(tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,), {}, targets, size)
    if not found:
        raise UsageError("data is empty: at least one batch with a sample is needed")


def _split(given: Any) -> tuple[Any, tuple[Any, ...]]:
    """Inputs and targets of a batch."""
    if isinstance(given, Mapping):
        return dict(given), ()
    if isinstance(given, (tuple, list)) and given:
        first = given[0]
        return (dict(first) if isinstance(first, Mapping) else first), tuple(given[1:])
    return given, ()


def _size(number: int, inputs: Any) -> int:
    for leaf in tree_leaves(inputs):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return len(leaf)
    raise UsageError(
        f"batch {number} has no tensor with samples along its first dimension, got {type(inputs).__name__}: "
        "give inputs, (inputs, targets) or a mapping of keyword arguments"
    )


def _complete(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state under all names of a model, those that the model ties included."""
    if not isinstance(state, Mapping):
        raise UsageError(f"expected a state dict of tensors, got {type(state).__name__}: pass model.state_dict()")
    own = model.state_dict(keep_vars=True)
    known = {name for name, _ in model.named_buffers(remove_duplicate=False)} | own.keys()
    unknown = [name for name in state if name not in known]
    tied: dict[object, Tensor] = {}
    for name, tensor in own.items():
        if name in state:
            tied.setdefault(tensor_identity(tensor), state[name])
    missing = [name for name, tensor in own.items() if tensor_identity(tensor) not in tied]
    if unknown or missing:
        names = ", ".join(one_line(name, 60) for name in (missing or unknown)[:3])
        what = "the state lacks" if missing else "the model has no"
        raise MismatchError(
            f"{what} {names}{', …' if len(missing or unknown) > 3 else ''}: give a whole state dict of this model"
        )
    own_names = {name: state.get(name, tied[tensor_identity(tensor)]) for name, tensor in own.items()}
    return {name: t.detach() for name, t in {**own_names, **state}.items() if isinstance(t, Tensor)}
