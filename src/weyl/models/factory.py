"""Factories in modules and files: find them, call them, and see to example inputs for what they return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from weyl._factories import Wanted, call_factory, call_named
from weyl.errors import ModelSpecError
from weyl.models.builtin import BATCH, BUILTINS, STEPS
from weyl.models.loaded import LoadedModel, one_line, seeded
from weyl.models.spec import ModelSpec

__all__ = ["example_input", "load_from_factory", "reshaped"]

RETURNS = "a torch.nn.Module, (module, args) or (module, args, kwargs)"
MODEL = Wanted("MODEL", RETURNS, ModelSpecError, lambda found: isinstance(found, nn.Module), "a built module")


def load_from_factory(spec: ModelSpec, input_shape: tuple[int, ...] | None, seed: int) -> LoadedModel:
    """Call the factory that ``spec`` names, and return its module, in evaluation mode, with example inputs.

    Parameters
    ----------
    spec : ModelSpec
        Of kind ``builtin``, ``module`` or ``file``.
    input_shape : tuple of int, optional
        Shape of the example input; goes before what the factory gives.
    seed : int
        Seed of the initial weights and of the example input.

    Raises
    ------
    ModelSpecError
        If the factory cannot be found or called, or its result is not a model.

    Examples
    --------
    >>> from weyl.models.spec import parse_spec
    >>> load_from_factory(parse_spec("torch.nn:Identity"), (1, 3), 0).args[0].shape
    torch.Size([1, 3])
    """
    name = one_line(spec.text)
    with seeded(seed):
        if spec.kind == "builtin":
            result = call_factory(BUILTINS[spec.target], {"seed": seed, **spec.keywords}, name, MODEL)
        else:
            result = call_named(spec.kind, spec.target, spec.factory, spec.keywords, name, MODEL)
        module, args, kwargs = _unpack(result, name)
        module.eval()
        if args is None:
            args, kwargs = example_input(module, input_shape, name)
        elif input_shape is not None:
            args, kwargs = reshaped(args, kwargs, input_shape, name)
    return LoadedModel(module, args, kwargs, name)


def example_input(
    module: nn.Module, input_shape: tuple[int, ...] | None, name: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Make an example input for a bare module.

    Parameters
    ----------
    module : torch.nn.Module
        The module; its first layer says whether it takes token ids, its first parameter the dtype and device.
    input_shape : tuple of int, optional
        Shape to use; guessed when absent, from ``example_input_array`` or a first layer that is linear or an
        embedding.
    name : str
        Named in the error.

    Returns
    -------
    args : tuple
    kwargs : dict

    Raises
    ------
    ModelSpecError
        If no shape was given and none can be guessed.

    Examples
    --------
    >>> (x,), _ = example_input(nn.Sequential(nn.Flatten(), nn.Linear(6, 2)), None, "net")
    >>> tuple(x.shape)
    (2, 6)
    """
    layer_name, layer = _first_layer(module)
    given = getattr(module, "example_input_array", None)
    if input_shape is None and given is not None:
        if isinstance(given, Mapping):
            return (), dict(given)
        return (tuple(given) if isinstance(given, (tuple, list)) else (given,)), {}
    like = next(module.parameters(), torch.empty(0))
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        shape = input_shape or (BATCH, STEPS)
        return (torch.randint(layer.num_embeddings, shape).to(like.device),), {}
    if input_shape is None and isinstance(layer, nn.Linear) and layer.in_features > 0:
        input_shape = (BATCH, layer.in_features)
    if input_shape is None:
        raise ModelSpecError(f"{name}: no example input can be guessed {_why(layer_name, layer)}")
    dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    # Drawn on the CPU and moved, so that a seed means the same input on every device.
    return (torch.randn(input_shape, dtype=dtype).to(like.device),), {}


def reshaped(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], shape: tuple[int, ...], name: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the example inputs with their only tensor in another shape; dtype, device and value range stay.

    Parameters
    ----------
    args, kwargs : tuple, mapping
        Example inputs that a factory gave.
    shape : tuple of int
        The shape asked for.
    name : str
        Named in the error.

    Raises
    ------
    ModelSpecError
        If there is not exactly one tensor, so that the shape could be meant for any.

    Examples
    --------
    >>> (ids,), _ = reshaped((torch.tensor([[3, 5]]),), {}, (2, 4), "net")
    >>> tuple(ids.shape), set(ids.flatten().tolist()) <= {3, 5}
    ((2, 4), True)
    """
    named = [*enumerate(args), *kwargs.items()]
    tensors = [(key, value) for key, value in named if isinstance(value, Tensor)]
    if len(tensors) != 1:
        raise ModelSpecError(
            f"{name}: an input shape replaces a single input tensor, but this factory gives {len(tensors)};"
            " leave --input-shape out"
        )
    ((key, old),) = tensors
    if old.is_floating_point():
        new = torch.randn(shape, dtype=old.dtype).to(old.device)
    else:  # ids: only values that the factory itself used are known to be valid
        pool = old.flatten() if old.numel() else old.new_zeros(1)
        new = pool[torch.randint(len(pool), shape).to(old.device)]
    replaced = {**dict(named), key: new}
    return tuple(replaced[i] for i in range(len(args))), {k: replaced[k] for k in kwargs}


def _unpack(result: object, name: str) -> tuple[nn.Module, tuple[Any, ...] | None, Mapping[str, Any]]:
    """Read what a factory returned; ``None`` for the arguments means that it gave none."""
    if isinstance(result, LoadedModel):
        return result.module, result.args, result.kwargs
    parts = result if isinstance(result, tuple) else (result,)
    if not 1 <= len(parts) <= 3 or not isinstance(parts[0], nn.Module):
        shown = ", ".join(type(part).__name__ for part in parts)
        shown = f"({shown})" if isinstance(result, tuple) else shown
        raise ModelSpecError(f"{name}: the factory must return {RETURNS}, but returned {one_line(shown)}")
    if len(parts) == 1:
        return parts[0], None, {}
    args = (parts[1],) if isinstance(parts[1], Tensor) else parts[1]
    kwargs = parts[2] if len(parts) == 3 else {}
    if not isinstance(args, (tuple, list)) or not isinstance(kwargs, Mapping):
        raise ModelSpecError(
            f"{name}: the factory must return args as a tuple and kwargs as a dict,"
            f" but returned {type(args).__name__} and {type(kwargs).__name__}"
        )
    return parts[0], tuple(args), kwargs


def _first_layer(module: nn.Module) -> tuple[str, nn.Module | None]:
    """Find the first submodule that owns parameters, in the order of registration."""
    for name, layer in module.named_modules():
        if next(layer.parameters(recurse=False), None) is not None:
            return name, layer
    return "", None


def _why(name: str, layer: nn.Module | None) -> str:
    """Say what stands in the way of a guess, and the remedy."""
    if layer is None:
        return "(it has no parameters); give --input-shape, batch included"
    kind, called = type(layer).__name__, f" {name!r}" if name else ""
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        sides = ",".join("LHWD"[i] for i in {1: (0,), 2: (1, 2), 3: (3, 1, 2)}[len(layer.kernel_size)])
        return (
            f"(its first layer{called} is a {kind} for {layer.in_channels} channels, of any size);"
            f" give --input-shape 1,{layer.in_channels},{sides}"
        )
    return f"from its first layer{called}, a {kind}; give --input-shape, batch included"
