"""Three frozen sigmoids that do not collapse unless the weights of the points allow it: Lemma 18."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weyl.errors import UsageError
from weyl.geometry._checks import positive, whole

Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["ThreeNeurons", "three_neurons"]


@dataclass(frozen=True, eq=False)
class ThreeNeurons:
    r"""Three frozen sigmoids on the points -1, 0 and 1, the middle one of the other class.

    Every "difference" is :math:`h(1) - h(-1)`, 0 if the outer class collapses.

    Parameters
    ----------
    weights : tuple of float
        p1, p2, p3.
    limit : float
        :math:`\log(p_3 / (2 p_1))`, for saturated sigmoids.
    flow_difference : float
        Of the ordinary differential equation at its last time.
    network_difference : float
        Of the network after its last step.
    network_limit : float
        What the network must tend to, since its sigmoids have a finite slope.
    log_time : float64 array, shape (n,)
        log(1 + t) along the flow.
    flow : float64 array, shape (n, 3)
        a1, a2 and a3 there.
    network : float64 array, shape (rows, 3)
        a1, a2 and a3 along the training, the start first.
    slope : float
        Of the sigmoids.
    """

    weights: tuple[float, float, float]
    limit: float
    flow_difference: float
    network_difference: float
    network_limit: float
    log_time: Array
    flow: Array
    network: Array
    slope: float

    def collapses(self, tolerance: float = 1e-6) -> bool:
        """Whether both the flow and the network end with one output on the outer class."""
        return max(abs(self.flow_difference), abs(self.network_difference)) <= tolerance


def three_neurons(
    p1: float,
    p2: float,
    p3: float,
    *,
    start: Sequence[float] = (0.0, 0.0, 0.0),
    log_time: float = 40.0,
    slope: float = 40.0,
    steps: int = 1000,
    rate: float = 0.5,
) -> ThreeNeurons:
    r"""Run Lemma 18: an equation and a network whose outputs on one class stay apart for ever.

    The network is :math:`h(x) = a_1\,\varsigma(-s(x+\frac12)) - a_2\,\varsigma(s(x+\frac12)) +
    a_3\,\varsigma(s(x-\frac12))` with :math:`\varsigma` the logistic sigmoid and s the slope; only a is trained, on
    :math:`p_1 e^{-h(-1)} + p_2 e^{h(0)} + p_3 e^{-h(1)}`. As s grows, its gradient flow becomes
    :math:`a_1' = p_1 e^{-a_1}`, :math:`a_2' = p_2 e^{-a_2} - p_3 e^{a_2-a_3}`, :math:`a_3' = p_3 e^{a_2-a_3}`,
    for which :math:`h(1) - h(-1) \to \log(p_3/(2p_1))`, whatever the start.

    Parameters
    ----------
    p1, p2, p3 : float
        Weights of the points -1, 0 and 1.
    start : sequence of 3 numbers
        a at time 0, each from -100 to 100.
    log_time : float
        The flow is solved to time t with log(1 + t) equal to this. The limit shows only when this is well above every
        margin at the start; from zero, what remains is of the order of 1/t.
    slope : float
        Of the network's sigmoids, at least 1.
    steps : int
        Of gradient descent, each of length ``rate`` over the loss: the same path, with the logarithm of the time
        growing by about ``rate / 6`` a step.
    rate : float
        See ``steps``; below 2, or the steps overshoot.

    Returns
    -------
    ThreeNeurons
        Both limits, both ends and both paths.

    Raises
    ------
    UsageError
        If an argument is out of range.

    Notes
    -----
    With margins z = Ma and K = M M^T, flow and network tend to :math:`z_i - \log t \to \log(p_i / v_i)` where Kv = 1;
    for saturated sigmoids v = (1, 3, 2). At a finite slope s the limit is off by the order of exp(-s/2).

    References
    ----------
    E and Wojtowytsch, arXiv 2012.05420, Lemma 18; the value of the limit follows by substitution.

    Examples
    --------
    >>> result = three_neurons(1, 1, 1)
    >>> round(result.limit, 5), round(result.flow_difference, 5), round(result.network_difference, 5)
    (-0.69315, -0.69315, -0.69315)
    >>> three_neurons(1, 1, 2).collapses()
    True
    """
    from scipy.special import softmax

    weights = positive("p1", p1), positive("p2", p2), positive("p3", p3)
    steps, rate, slope = whole("steps", steps, 1), positive("rate", rate), positive("slope", slope)
    if slope < 1 or rate >= 2:
        raise UsageError(f"slope must be at least 1 and rate below 2, got {slope:g} and {rate:g}")
    a = np.array(start, dtype=np.float64)
    if a.shape != (3,) or not (np.abs(a) <= 100).all():
        raise UsageError(f"start must be 3 numbers from -100 to 100, got {start!r}")
    p = np.asarray(weights)
    time, flow = _flow(p, a, positive("log_time", log_time))
    margins = _sigmoid_margins(slope)
    support = np.linalg.solve(margins @ margins.T, np.ones(3))
    path = [a]
    for _ in range(steps):
        pull = softmax(np.log(p) - margins @ path[-1])
        path.append(path[-1] + rate * margins.T @ pull)
    z = margins @ path[-1]
    return ThreeNeurons(
        weights=weights,
        limit=math.log(p3 / (2 * p1)),
        flow_difference=float(flow[-1, 2] - flow[-1, 1] - flow[-1, 0]),
        network_difference=float(z[2] - z[0]),
        network_limit=float(math.log(p3 / p1) + math.log(support[0] / support[2])),
        log_time=time,
        flow=flow,
        network=np.asarray(path),
        slope=slope,
    )


def _flow(p: Array, start: Array, end: float) -> tuple[Array, Array]:
    """Solve the equation of the lemma in the time log(1 + t)."""
    from scipy.integrate import solve_ivp

    def speed(time: float, a: Array) -> Array:
        # d/d log(1+t) = (1+t) d/dt, inside the exponentials so that nothing overflows
        first, middle, last = p * np.exp(time - np.array([a[0], a[1], a[2] - a[1]]))
        return np.array([first, middle - last, last])

    # stiff: in this time the fast directions decay at six times the rate of the slow ones, the start far faster
    solution = solve_ivp(speed, (0.0, end), start, method="Radau", rtol=1e-9, atol=1e-10)
    if not solution.success:
        raise UsageError(f"the flow could not be solved from start {start.tolist()}: {solution.message}")
    return solution.t, solution.y.T


def _sigmoid_margins(slope: float) -> Array:
    """Margins of the three points as a matrix: row i times a is the margin of point i."""
    x, label = np.array([-1.0, 0.0, 1.0]), np.array([1.0, -1.0, 1.0])
    arguments = slope * np.stack([-(x + 0.5), x + 0.5, x - 0.5], axis=1)
    sigmoids = np.exp(-np.logaddexp(0.0, -arguments))
    return label[:, None] * sigmoids * np.array([1.0, -1.0, 1.0])
