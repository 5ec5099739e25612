"""Models by name: what a MODEL argument means, and the built-in networks.

``load_model`` turns the text a user types (a built-in, ``package.module:factory``,
``path/file.py:factory`` or ``hf:config.json``) into a module with example inputs. Importing this package
does not import torch; that happens when a model is built.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from weyl.models.loaded import LoadedModel
from weyl.models.spec import BUILTIN_NAMES, ModelSpec, load_model, parse_spec

if TYPE_CHECKING:
    from weyl.models.builtin import cnn, lstm, mlp, resnet, resnet18, transformer

__all__ = [
    "BUILTIN_NAMES",
    "LoadedModel",
    "ModelSpec",
    "cnn",
    "load_model",
    "lstm",
    "mlp",
    "parse_spec",
    "resnet",
    "resnet18",
    "transformer",
]


def __getattr__(name: str) -> object:
    """Give the built-in factories on first use, because their module needs torch."""
    if name in BUILTIN_NAMES:
        return getattr(import_module("weyl.models.builtin"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
