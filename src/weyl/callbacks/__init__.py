"""Collapse metrics while a model trains, from the forward passes that happen anyway.

A hook on the classifier catches its input and its output; the loop gives the labels. ``watch`` is for a plain loop,
the others for a framework, which is imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from weyl.callbacks._scalars import scalars
from weyl.callbacks._watch import Watcher, watch
from weyl.errors import MissingExtraError

if TYPE_CHECKING:
    from weyl.callbacks._lightning import CollapseCallback as CollapseCallback
    from weyl.callbacks._metric import CollapseMetric as CollapseMetric
    from weyl.callbacks._trainer import CollapseTrainerCallback as CollapseTrainerCallback

# Name: its module, the package that it subclasses, the extra that installs the package.
_LATE = {
    "CollapseCallback": ("_lightning", "lightning", "lightning"),
    "CollapseMetric": ("_metric", "torchmetrics", "torchmetrics"),
    "CollapseTrainerCallback": ("_trainer", "transformers", "trainer"),
}

__all__ = [
    "CollapseCallback",
    "CollapseMetric",
    "CollapseTrainerCallback",
    "Watcher",
    "scalars",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'weyl.callbacks' has no attribute {name!r}")
    module, package, extra = _LATE[name]
    try:
        return getattr(importlib.import_module(f"weyl.callbacks.{module}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        message = f"{name} needs {package}, which is not installed; pip install 'weyl[{extra}]'"
        raise MissingExtraError(message) from error


def __dir__() -> list[str]:
    return sorted(__all__)
