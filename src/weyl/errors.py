"""The one tree of errors that weyl raises on purpose.

Every message is a single line that names the thing, what was expected, what came, and the remedy.
``exit_code`` is what the command line exits with: 0 yes, 1 no, 2 usage, 3 bad or unsafe input,
4 inconclusive or over a limit.
"""

from __future__ import annotations

__all__ = [
    "CaptureError",
    "InputError",
    "LimitError",
    "MismatchError",
    "MissingExtraError",
    "ModelSpecError",
    "NotFiniteError",
    "OpaqueError",
    "StructureError",
    "UsageError",
    "WeylError",
]


class WeylError(Exception):
    """Base class of every error that weyl raises on purpose."""

    exit_code: int = 3


class UsageError(WeylError):
    """The call itself is wrong: an unknown option, an impossible value."""

    exit_code = 2


class InputError(WeylError):
    """A model, checkpoint, structure or tensor that was given cannot be used."""


class ModelSpecError(InputError):
    """MODEL on the command line does not name something that gives a module."""


class MissingExtraError(WeylError):
    """An optional dependency is needed; the message says which extra installs it."""


class MismatchError(InputError):
    """Weights and model do not belong together; the message is a diff."""

    exit_code = 1


class NotFiniteError(WeylError):
    """NaN or infinity stand where numbers are needed, so that nothing can be decided."""

    exit_code = 4


class LimitError(WeylError):
    """An answer would be too large."""

    exit_code = 4


class StructureError(InputError):
    """A structure, element and state dict do not belong together."""


class CaptureError(WeylError):
    """The model could not be captured as one graph (control flow on data, unsupported Python)."""

    exit_code = 4


class OpaqueError(WeylError):
    """``strict=True`` was asked for and an operator has no rule."""

    exit_code = 4
