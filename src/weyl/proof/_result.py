"""What a proof found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

__all__ = ["Control", "KindProof", "Proof"]


@dataclass(frozen=True)
class Control:
    """A deliberately wrong element, which the check must reject.

    Parameters
    ----------
    parameter : str
        The one tensor that was moved without its partners.
    relative_error : float
        Relative change of the output that it caused.
    detected : bool
        Whether the check saw it.
    """

    parameter: str
    relative_error: float
    detected: bool


@dataclass(frozen=True)
class KindProof:
    """What was measured with elements of one kind of move alone.

    Parameters
    ----------
    max_relative_error : float
        Largest relative change of an output, over all trials; NaN if an output was not finite.
    control_error : float
        Relative change that a deliberately wrong element of this kind caused.
    detected : bool
        Whether the check saw the wrong element.
    """

    max_relative_error: float
    control_error: float
    detected: bool


@dataclass(frozen=True)
class Proof:
    """Outcome of :func:`verify`.

    Parameters
    ----------
    verdict : str
        ``holds``, ``fails`` or ``inconclusive``.
    reason : str
        One sentence.
    max_relative_error : float
        Largest relative change of an output in float64, over all trials and kinds; NaN if none could be made.
    tolerance : float
        ``1000 · eps · √(operators)``, what rounding may explain.
    exact : bool or None
        Whether outputs agreed to the last bit with small-integer weights and inputs; None where the model's
        arithmetic is not exact on integers (softmax, tanh, division).
    trials : int
        Random elements tried, of all kinds together and of each kind alone.
    control : Control
        The wrong element: one that went unseen, if any did.
    float32_error : float or None
        The same relative change with real weights in float32.
    precision : str
        Precision in which the trials ran.
    kinds : mapping of str to KindProof
        For every kind of move that the group has (``permute``, ``sign``, ``scale``, ``mix``, ``translate``) what
        elements of this kind alone did, and a wrong one of this kind.
    """

    verdict: str
    reason: str
    max_relative_error: float
    tolerance: float
    exact: bool | None
    trials: int
    control: Control
    float32_error: float | None = None
    precision: str = "float64"
    kinds: Mapping[str, KindProof] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", MappingProxyType(dict(self.kinds)))

    def __hash__(self) -> int:
        return hash((self.verdict, self.reason, self.control, tuple(self.kinds.items())))

    @property
    def holds(self) -> bool:
        """Whether the symmetry was confirmed and the check was able to deny it."""
        return self.verdict == "holds"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; values that are not finite become None."""
        data = {name: _finite(getattr(self, name)) for name in self.__dataclass_fields__}
        kinds = {move: _finite_values(found) for move, found in self.kinds.items()}
        return data | {"control": _finite_values(self.control), "kinds": kinds, "holds": self.holds}


def _finite_values(found: Control | KindProof) -> dict[str, Any]:
    return {name: _finite(value) for name, value in asdict(found).items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
