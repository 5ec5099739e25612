"""Factories in modules and files: find them, call them, and see to example inputs for what they return."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from weyl.errors import ModelSpecError, WeylError
from weyl.models.builtin import BATCH, BUILTINS, STEPS
from weyl.models.loaded import LoadedModel, near, one_line, seeded
from weyl.models.spec import ModelSpec

__all__ = ["example_input", "load_from_factory", "reshaped"]

RETURNS = "a torch.nn.Module, (module, args) or (module, args, kwargs)"


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
            result = _call(BUILTINS[spec.target], {"seed": seed, **spec.keywords}, name)
        else:
            folder = Path(spec.target).expanduser().parent if spec.kind == "file" else Path.cwd()
            with _importable(folder):
                owner = _run_file(spec.target, name) if spec.kind == "file" else _import(spec.target, name)
                result = _call(_lookup(owner, spec.factory, name), spec.keywords, name)
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


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let code import what lies beside it, as ``python file.py`` and ``python -m module`` do."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _import(dotted: str, name: str) -> ModuleType:
    """Import a module; an unknown one is told apart from one whose own imports fail."""
    importlib.invalidate_caches()
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if dotted != missing and not dotted.startswith(missing + "."):
            raise ModelSpecError(f"{name}: importing {dotted} failed: {one_line(error)}; install it") from error
        parent, _, leaf = missing.rpartition(".")
        path = getattr(sys.modules.get(parent), "__path__", []) if parent else None
        names = [found.name for found in pkgutil.iter_modules(path)]
        raise ModelSpecError(
            f"{name}: there is no module {missing!r} on the import path or in this folder{near(leaf, names)}"
        ) from error
    except (Exception, SystemExit) as error:
        raise ModelSpecError(f"{name}: importing {dotted} raised {_shown(error)}") from error


def _run_file(path_text: str, name: str) -> ModuleType:
    """Run a Python file as a module of its own."""
    path = Path(path_text).expanduser()
    if not path.is_file():
        what = "not a regular file" if path.exists() else "no such file"
        folder = path.parent
        names = [found.name for found in folder.iterdir()] if folder.is_dir() else []
        raise ModelSpecError(f"{name}: {what}: {one_line(path)}{near(path.name, names)}")
    # Under a name of its own, so that a file called torch.py hides nothing. In sys.modules, because
    # dataclasses and pickle look a class's module up there.
    alias = f"_weyl_model_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(alias, path)
    assert module_spec is not None and module_spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[alias] = module
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[alias]
        raise ModelSpecError(f"{name}: running {one_line(path)} raised {_shown(error)}") from error
    return module


def _lookup(owner: ModuleType, dotted: str, name: str) -> object:
    """Follow ``factory`` or ``Class.factory`` from a module."""
    found: object = owner
    for part in dotted.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            public = [n for n in dir(found) if not n.startswith("_")]
            where = "the file" if owner.__name__.startswith("_weyl_model_") else owner.__name__
            raise ModelSpecError(f"{name}: {where} has no {part!r}{near(part, public)}") from error
    return found


def _call(factory: object, keywords: Mapping[str, Any], name: str) -> object:
    """Call a factory; a module that is already built stands for itself."""
    if isinstance(factory, nn.Module) and not keywords:
        return factory
    if isinstance(factory, nn.Module) or not callable(factory):
        what = "a built module" if isinstance(factory, nn.Module) else f"a {type(factory).__name__}"
        raise ModelSpecError(f"{name}: a function that returns {RETURNS} is expected, but this is {what}")
    _check_keywords(factory, keywords, name)
    try:
        return factory(**keywords)
    except WeylError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelSpecError(f"{name}: the factory raised {_shown(error)}") from error


def _check_keywords(factory: Callable[..., object], keywords: Mapping[str, Any], name: str) -> None:
    """Refuse wrong keywords before the call, so that a TypeError from inside is not mistaken for one."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # some callables written in C have none
        return
    try:
        signature.bind(**keywords)
    except TypeError as error:
        named = [p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        hint = next((near(key, named) for key in keywords if key not in named), "")
        takes = ", ".join(named) or "no keyword"
        raise ModelSpecError(f"{name}: {one_line(error)}; the factory takes {takes}{hint}") from error


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


def _shown(error: BaseException) -> str:
    """Show a foreign exception in one line."""
    text = one_line(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
