"""What lies between two states: the barrier of a loss on a path."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float64
from torch import Tensor, nn

from weyl.actions._state import check_seed
from weyl.errors import UsageError
from weyl.merging._evaluator import LOSS, Evaluation
from weyl.merging._interpolate import State, check_alike, interpolate

__all__ = ["Barrier", "barrier", "resampled"]

Curve = Float64[np.ndarray, "points"]
# Resamples of an interval.
RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Barrier:
    """A loss on a path between two states.

    Parameters
    ----------
    at : tuple of float
        Where it was evaluated, from 0 to 1.
    losses : tuple of float
        The loss there.
    metrics : mapping of str to tuple of float
        Whatever else was measured.
    interval : (float, float) or None
        Bounds of the height under resampling of the batches, where batch by batch is known.
    confidence : float
        Level of the interval.
    """

    at: tuple[float, ...]
    losses: tuple[float, ...]
    metrics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", MappingProxyType(dict(self.metrics)))

    @property
    def height(self) -> float:
        """Most that the loss exceeds the line between its ends: at least 0; NaN if a loss is none."""
        return float(_excess(self.at, self.losses).max())

    @property
    def where(self) -> float:
        """Where it does; the first place of a loss that is no number, if there is one."""
        return self.at[int(_excess(self.at, self.losses).argmax())]

    def drop(self, metric: str) -> float:
        """Most that a metric falls below the line between its ends: at least 0.

        Raises
        ------
        UsageError
            If it was not measured.
        """
        if metric not in self.metrics:
            known = ", ".join(map(repr, self.metrics)) or "none"
            raise UsageError(f"there is no metric {metric!r} on this path; metrics: {known}")
        return float(_excess(self.at, [-value for value in self.metrics[metric]]).max())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; numbers that JSON does not know are None."""
        bounds = None if self.interval is None else [_plain(bound) for bound in self.interval]
        return {
            "height": _plain(self.height),
            "where": self.where,
            "interval": bounds,
            "confidence": self.confidence,
            "at": list(self.at),
            "losses": [_plain(loss) for loss in self.losses],
            "metrics": {name: [_plain(value) for value in values] for name, values in self.metrics.items()},
        }

    def __repr__(self) -> str:
        bounds = ""
        if self.interval is not None:
            bounds = f" [{self.interval[0]:.4g}, {self.interval[1]:.4g}]"
        ends = f"{self.losses[0]:.4g} and {self.losses[-1]:.4g}"
        return f"Barrier(height {self.height:.4g}{bounds} at {self.where:g}, ends {ends}, {len(self.at)} points)"


def barrier(
    evaluate: Callable[[State], Any],
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    points: int = 11,
    *,
    path: Callable[[State, State, float], Mapping[str, Tensor]] = interpolate,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Barrier:
    r"""Height of the barrier between two states: how far the loss rises above the line between its ends.

    .. math:: \max_t\; L(\theta_t) - \big((1-t)\,L(\theta_0) + t\,L(\theta_1)\big)

    Align the states first: see `weyl.match`.

    Parameters
    ----------
    evaluate : callable
        From a state to its loss: a number; a mapping of names to numbers, of which ``"loss"``, or the first, is the
        loss and the others are metrics; or an `Evaluation`, as what `evaluator` makes returns.
    a, b : mapping of str to tensor
        The ends, which are evaluated as they are; not changed.
    points : int
        Evenly spaced points, both ends included; at least 3.
    path : callable
        From both ends and t to the state there; the straight line unless given. A repaired merge, for example.
    confidence : float
        Level of the interval, which is made where ``evaluate`` tells several batches: percentiles of the heights of
        2000 resamples of the batches, the same ones at every point.
    seed : int
        Of the resampling.
    progress : callable, optional
        Told the fraction that is done, after every point.

    Returns
    -------
    Barrier
        ``.height``, ``.where``, ``.interval``, and the whole curve.

    Raises
    ------
    UsageError
        If there are fewer than three points, or ``evaluate`` does not return what it should.
    MismatchError, NotFiniteError
        As for `interpolate`. A loss may be NaN; so is the height then.

    References
    ----------
    Frankle, Dziugaite, Roy, Carbin, "Linear mode connectivity and the lottery ticket hypothesis", ICML 2020. Entezari,
    Sedghi, Saukh, Neyshabur, "The role of permutation invariance in linear mode connectivity of neural networks", ICLR
    2022, definition 2.1.

    Examples
    --------
    >>> import torch
    >>> found = barrier(lambda s: float((s["w"] ** 2 - 1) ** 2), {"w": torch.tensor(-1.0)}, {"w": torch.tensor(1.0)})
    >>> found.height, found.where
    (1.0, 0.5)
    """
    if isinstance(points, bool) or not isinstance(points, int) or points < 3:
        raise UsageError(f"points must be a whole number, at least 3: two ends and what lies between; got {points!r}")
    if isinstance(evaluate, nn.Module) or not callable(evaluate):
        raise UsageError(
            f"evaluate must be a function of a state, got {type(evaluate).__name__}: make one of a model and data, "
            "weyl.evaluator(model, data)"
        )
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not 0.0 < confidence < 1.0:
        raise UsageError(f"confidence must lie between 0 and 1, got {confidence!r}")
    check_seed(seed)
    check_alike((a, b))
    at = tuple(number / (points - 1) for number in range(points))
    found = []
    for number, t in enumerate(at):
        here = dict(a) if number == 0 else dict(b) if number == points - 1 else dict(path(dict(a), dict(b), t))
        found.append(evaluate(here))
        if progress is not None:
            progress((number + 1) / points)
    rows = [_numbers(value) for value in found]
    if any(row.keys() != rows[0].keys() for row in rows):
        raise UsageError(f"evaluate must measure the same at every point: {list(rows[0])} at the first")
    curves = {name: tuple(row[name] for row in rows) for name in rows[0]}
    losses = curves.pop(LOSS if LOSS in curves else next(iter(curves)))
    interval = _interval(at, found, confidence, seed) if all(map(math.isfinite, losses)) else None
    return Barrier(at, losses, curves, interval, confidence)


def _excess(at: Sequence[float], values: Sequence[float]) -> Curve:
    """How far values lie above the line between the first and the last."""
    t, v = np.array(at), np.array(values, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return v - ((1.0 - t) * v[0] + t * v[-1])


def _numbers(found: Any) -> dict[str, float]:
    """What an evaluation says, by name."""
    if isinstance(found, Evaluation):
        return found.means
    named = found if isinstance(found, Mapping) else {LOSS: found}
    try:
        plain = {name: value.detach() if isinstance(value, Tensor) else value for name, value in named.items()}
        numbers = {str(name): float(value) for name, value in plain.items()}
    except (TypeError, ValueError, RuntimeError):
        numbers = {}
    if not numbers:
        raise UsageError(
            f"evaluate must return a number, a mapping of names to numbers or an Evaluation, got {type(found).__name__}"
        )
    return numbers


def _interval(at: Sequence[float], found: Sequence[Any], confidence: float, seed: int) -> tuple[float, float] | None:
    """Percentiles of the height over resamples of the batches."""
    known = [one for one in found if isinstance(one, Evaluation)]
    curves = resampled(known, seed) if len(known) == len(found) else None
    if curves is None:
        return None
    t = np.array(at)
    heights = (curves - ((1.0 - t) * curves[:, :1] + t * curves[:, -1:])).max(1)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(heights, [tail, 1.0 - tail])
    return float(max(low, 0.0)), float(high)


def resampled(found: Sequence[Evaluation], seed: int) -> Float64[np.ndarray, "resamples points"] | None:
    """Mean losses under resampling of the batches, the same ones at every point.

    Parameters
    ----------
    found : sequence of Evaluation
        One for every point.
    seed : int
        Of the resampling.

    Returns
    -------
    float64 array, shape (resamples, points), or None
        None if there are not two batches.

    Raises
    ------
    UsageError
        If the batches differ from point to point.
    """
    for one, two in pairwise(found):
        if not np.array_equal(one.sizes, two.sizes):
            raise UsageError("the batches differ from point to point: give data that gives the same ones each time")
    sizes = found[0].sizes
    if len(sizes) < 2:
        return None
    losses = np.stack([one.batches[LOSS] for one in found])
    drawn = np.random.default_rng(seed).multinomial(len(sizes), np.full(len(sizes), 1.0 / len(sizes)), size=RESAMPLES)
    weights = drawn * sizes
    means: Float64[np.ndarray, "resamples points"] = weights @ losses.T / weights.sum(1, keepdims=True)
    return means


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
