"""MODEL on the command line: the text that names a model, read and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from weyl._factories import read_keywords
from weyl.errors import ModelSpecError
from weyl.models.loaded import LoadedModel, near, one_line

__all__ = ["BUILTIN_NAMES", "ModelSpec", "load_model", "parse_spec"]

BUILTIN_NAMES = ("cnn", "lstm", "mlp", "resnet", "resnet18", "transformer")

FORMS = "a built-in ({}), package.module:factory, path/file.py:factory or hf:config.json".format(
    ", ".join(BUILTIN_NAMES)
)


@dataclass(frozen=True)
class ModelSpec:
    """A MODEL argument, read but not yet looked up.

    Attributes
    ----------
    kind : {'builtin', 'module', 'file', 'hf'}
        Which of the four forms it is.
    target : str
        Built-in name, dotted module, path of a Python file, or path of a configuration.
    factory : str
        Name inside the module or file, possibly dotted; empty for the other kinds.
    keywords : mapping of str to object
        What followed ``?``.
    text : str
        The specification as it was typed.
    """

    kind: Literal["builtin", "module", "file", "hf"]
    target: str
    factory: str
    keywords: Mapping[str, Any]
    text: str


def parse_spec(spec: str) -> ModelSpec:
    """Read a MODEL argument; nothing is imported or opened.

    Parameters
    ----------
    spec : str
        ``name``, ``package.module:factory``, ``path/file.py:factory`` or ``hf:path``, each optionally
        followed by ``?key=value&key=value``. Values are Python literals where they can be read as such,
        otherwise text; ``%26`` stands for ``&``.

    Raises
    ------
    ModelSpecError
        If the text has none of these forms.

    Examples
    --------
    >>> parsed = parse_spec("mlp?widths=784-512-10&bias=False")
    >>> parsed.kind, parsed.target, parsed.keywords
    ('builtin', 'mlp', {'widths': '784-512-10', 'bias': False})
    >>> parse_spec("nets/tiny.py:make").factory
    'make'
    """
    head, _, query = spec.partition("?")
    head, keywords = head.strip(), read_keywords(spec, query, "MODEL", ModelSpecError)
    if head.startswith("hf:"):
        if not head[3:]:
            raise ModelSpecError("MODEL 'hf:' names no configuration; expected hf:config.json or hf:directory")
        return ModelSpec("hf", head[3:], "", keywords, spec)
    if ":" not in head:
        if head not in BUILTIN_NAMES:
            raise ModelSpecError(_unknown(head))
        return ModelSpec("builtin", head, "", keywords, spec)
    target, _, factory = head.rpartition(":")
    if not target or not factory or not all(part.isidentifier() for part in factory.split(".")):
        raise ModelSpecError(
            f"MODEL {_quote(spec)}: a Python name is expected after the colon and a module or file before it,"
            " as in package.module:factory"
        )
    if target.endswith(".py"):
        return ModelSpec("file", target, factory, keywords, spec)
    if not all(part.isidentifier() for part in target.split(".")):
        raise ModelSpecError(
            f"MODEL {_quote(spec)}: {_quote(target)} is neither a dotted module name nor a path ending in .py"
        )
    return ModelSpec("module", target, factory, keywords, spec)


def load_model(spec: str, input_shape: tuple[int, ...] | None = None, seed: int = 0) -> LoadedModel:
    """Load the model that a MODEL argument names, with inputs it runs on, in evaluation mode.

    A factory may return a module, ``(module, args)``, ``(module, args, kwargs)`` or a `LoadedModel`. For a
    bare module the example input has ``input_shape``, or is the module's ``example_input_array``, or is
    guessed when its first layer is linear or an embedding. Naming a module or file runs its code.

    Parameters
    ----------
    spec : str
        What to load, see `parse_spec`. For ``hf:`` the keywords override fields of the configuration, and
        ``meta=1`` builds without allocating any weight.
    input_shape : tuple of int, optional
        Shape of the example input, batch included; goes before what the model says itself.
    seed : int
        Seed of the initial weights and of the example input; torch's global generator is left as it was.

    Returns
    -------
    LoadedModel
        Module, positional and keyword example inputs, and a name.

    Raises
    ------
    ModelSpecError
        If nothing can be loaded from ``spec``; one line that names the thing, what was expected, what came
        and the remedy.

    Examples
    --------
    >>> loaded = load_model("mlp?widths=6-5-3&act=tanh")
    >>> loaded.name, tuple(loaded.args[0].shape)
    ('mlp?widths=6-5-3&act=tanh', (2, 6))
    >>> tuple(load_model("torch.nn:Linear?in_features=4&out_features=2").args[0].shape)
    (2, 4)
    """
    parsed = parse_spec(spec)
    if input_shape is not None:
        input_shape = _shape(input_shape)
    # Both of these import torch, which naming a model must not do.
    if parsed.kind == "hf":
        from weyl.models.huggingface import load_config

        return load_config(parsed, input_shape, seed)
    from weyl.models.factory import load_from_factory

    return load_from_factory(parsed, input_shape, seed)


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Require a non-empty shape of positive integers."""
    sizes = tuple(shape)
    if not sizes or any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in sizes):
        raise ModelSpecError(
            f"the input shape must be positive integers such as 1,3,224,224; got {one_line(repr(shape))}"
        )
    return sizes


def _unknown(head: str) -> str:
    """Say why a text without a colon is not a model."""
    if head.endswith(".py"):
        return f"MODEL {_quote(head)} names a file but no factory in it; expected {one_line(head)}:factory"
    if head.endswith(".json"):
        return f"MODEL {_quote(head)} looks like a configuration; expected hf:{one_line(head)}"
    if head.endswith((".safetensors", ".pt", ".pth", ".bin", ".ckpt")):
        return f"MODEL {_quote(head)} holds weights, not a model; expected {FORMS}"
    return f"unknown MODEL {_quote(head)}; expected {FORMS}{near(head, BUILTIN_NAMES)}"


def _quote(text: str) -> str:
    return f"'{one_line(text)}'"
