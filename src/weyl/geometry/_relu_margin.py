"""Two-layer ReLU networks that classify with the largest margin and do not collapse: Lemma 16."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from weyl.errors import UsageError
from weyl.geometry._checks import positive, whole

Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = [
    "MarginProgram",
    "ShallowReLU",
    "margin_family",
    "relu_margin_program",
    "train_shallow_relu",
]

Norm = Literal["path", "euclidean"]


def margin_family(x: float | Sequence[float] | Array, b: float) -> Array:
    r"""Evaluate a maximum-margin classifier of Lemma 16, :math:`f_b(x) = (\sigma(x+b) - \sigma(b-x)) / (2(1+b))`.

    Parameters
    ----------
    x : float or array
        Where.
    b : float
        Member of the family, from 0 to 1.

    Returns
    -------
    float64 array
        Of the shape of ``x``.

    Raises
    ------
    UsageError
        If b is out of range.

    References
    ----------
    E and Wojtowytsch, arXiv 2012.05420, Lemma 16.

    Examples
    --------
    >>> [margin_family([1.0, 2.0], b).tolist() for b in (0, 1)]
    [[0.5, 1.0], [0.5, 0.75]]
    """
    if not 0 <= b <= 1:
        raise UsageError(f"b must lie between 0 and 1, got {b!r}")
    points = np.asarray(x, dtype=np.float64)
    return (np.maximum(points + b, 0) - np.maximum(b - points, 0)) / (2 * (1 + b))


@dataclass(frozen=True, eq=False)
class MarginProgram:
    r"""Largest margin of two-layer ReLU functions of norm at most 1, and what it leaves open.

    Parameters
    ----------
    margin : float
        Largest :math:`\min_i s_i f(x_i)`.
    lowest, highest : float
        Range of f at ``at`` over all f of that margin.
    constant_margin : float
        Largest margin of a function that is constant on each class.
    values : float64 array, shape (n,)
        One function of largest margin, at the points.
    points, labels : float64 arrays, shape (n,)
        The data; labels are 1 and -1.
    at : float
        Where the range was asked for.
    norm : str
        ``"path"`` or ``"euclidean"``.
    """

    margin: float
    lowest: float
    highest: float
    constant_margin: float
    values: Array
    points: Array
    labels: Array
    at: float
    norm: str


def relu_margin_program(
    points: Sequence[float] | Array = (-2.0, -1.0, 1.0, 2.0),
    labels: Sequence[float] | Array | None = None,
    *,
    at: float | None = None,
    norm: Norm = "path",
    angles: int = 181,
) -> MarginProgram:
    r"""Find the largest margin of a two-layer ReLU function of one variable by linear programming.

    Over :math:`f(x) = \sum_j c_j\,\sigma(w_j x + b_j)` with :math:`\sum_j |c_j| \le 1`, every neuron of norm 1:
    :math:`|w| + |b|` ("path", the norm of Lemma 16) or :math:`\sqrt{w^2 + b^2}` ("euclidean", the one whose margin
    gradient descent maximises).

    Parameters
    ----------
    points : sequence of n numbers
        The data.
    labels : sequence of n numbers, optional
        1 or -1; by default the sign of the points.
    at : float, optional
        Where to find the range of f; by default the largest point.
    norm : {"path", "euclidean"}
        Norm of a neuron.
    angles : int
        Neurons between axis directions for the Euclidean norm. The kinks at the points are always among the neurons,
        and for the path norm these alone are exact: between two of them the values of a neuron are linear.

    Returns
    -------
    MarginProgram
        Margin, range of f, margin under the constraint of collapse.

    Raises
    ------
    UsageError
        If the data are not finite, not of two classes, or the norm is unknown.

    References
    ----------
    E and Wojtowytsch, arXiv 2012.05420, Lemma 16. Chizat and Bach, COLT 2020, for the Euclidean norm.

    Examples
    --------
    >>> program = relu_margin_program()
    >>> [round(value, 6) for value in (program.margin, program.lowest, program.highest, program.constant_margin)]
    [0.5, 0.75, 1.0, 0.25]
    """
    x, y = _data(points, labels)
    where = float(x.max()) if at is None else float(at)
    if norm not in ("path", "euclidean"):
        raise UsageError(f"norm must be 'path' or 'euclidean', got {norm!r}")
    if not math.isfinite(where):
        raise UsageError(f"at must be finite, got {at!r}")
    w, b = _neurons(np.append(x, where), norm, whole("angles", angles, 2))
    table, there = _relu(np.outer(x, w) + b), _relu(where * w + b)
    margin, values = _largest_margin(table, y)
    constant, _ = _largest_margin(table, y, constant=True)
    # a hair below the margin, so that rounding does not leave the program without a solution
    lowest, highest = (_extreme(table, y, there, sign, margin * (1 - 1e-12)) for sign in (1.0, -1.0))
    return MarginProgram(margin, lowest, highest, constant, values, x, y, where, norm)


@dataclass(frozen=True, eq=False)
class ShallowReLU:
    r"""A two-layer ReLU network after gradient descent, :math:`f(x) = \frac1m \sum_j a_j\,\sigma(w_j x + b_j)`.

    Parameters
    ----------
    outer, inner, bias : float64 arrays, shape (m,)
        a, w and b.
    grid, values : float64 arrays
        Points from -3 to 3 and f there, over the Euclidean norm of f.
    euclidean_margin, path_margin : float
        Margin over :math:`\frac1m \sum |a_j|\sqrt{w_j^2 + b_j^2}` and over :math:`\frac1m \sum |a_j|(|w_j| + |b_j|)`.
    spread : float
        Largest over the classes of (max |f| - min |f|) / min |f|: 0 for collapse, 1/2 for f_1.
    nearest_b : float
        Member of :func:`margin_family` nearest to f, both scaled to margin 1, to 0.001.
    family_distance : float
        Largest difference between the two on the data.
    history : float64 array, shape (rows, 4)
        Step, norm of f, Euclidean margin, spread, at about 50 steps.
    """

    outer: Array
    inner: Array
    bias: Array
    grid: Array
    values: Array
    euclidean_margin: float
    path_margin: float
    spread: float
    nearest_b: float
    family_distance: float
    history: Array

    def constant_on_classes(self, tolerance: float = 0.01) -> bool:
        """Whether the output is the same all over a class, up to a relative ``tolerance``."""
        return self.spread <= tolerance


def train_shallow_relu(
    width: int = 200,
    *,
    steps: int = 20000,
    rate: float = 1.0,
    per_class: int = 21,
    loss: Literal["logistic", "exponential"] = "logistic",
    seed: int = 0,
) -> ShallowReLU:
    r"""Train a two-layer ReLU network on classes [-2, -1] and [1, 2] by full-batch gradient descent.

    Mean-field scaling: the output is a mean over m neurons, and the rate is in units of m. The margin direction shows
    only when the loss is far below 1e-300, after a time that grows as its inverse; so the step is divided by
    the loss: with weights :math:`q_i \propto |\Phi'(s_i f(x_i))|`, of sum 1,
    :math:`\theta \leftarrow \theta + \frac{r}{1 + N/10} \sum_i q_i s_i\,\nabla_\theta (m f)(x_i)`, N the mean squared
    norm of a neuron. That is the path of gradient flow at another speed; the norm then grows linearly with the steps.

    Parameters
    ----------
    width : int
        Number m of neurons.
    steps : int
        Steps of gradient descent.
    rate : float
        Factor r.
    per_class : int
        Points of each class, equally spaced.
    loss : {"logistic", "exponential"}
        Phi.
    seed : int
        Of the start: directions uniform on the circle, outer weights 1 or -1.

    Returns
    -------
    ShallowReLU
        The network, its margins, and how far it is from constant on the classes.

    Raises
    ------
    UsageError
        If an argument is out of range.

    Notes
    -----
    Gradient descent maximises the margin in the Euclidean norm, which only f_1 of the family of Lemma 16 attains.

    References
    ----------
    E and Wojtowytsch, arXiv 2012.05420, Lemma 16. Chizat and Bach, COLT 2020.

    Examples
    --------
    >>> net = train_shallow_relu(100, steps=2000)
    >>> net.constant_on_classes(), net.nearest_b > 0.9
    (False, True)
    """
    from scipy.special import softmax

    width, steps, rate = whole("width", width, 1), whole("steps", steps, 1), positive("rate", rate)
    if loss not in ("logistic", "exponential"):
        raise UsageError(f"loss must be 'logistic' or 'exponential', got {loss!r}")
    side = np.linspace(1, 2, whole("per_class", per_class, 2))
    x, y = np.concatenate([-side[::-1], side]), np.repeat([-1.0, 1.0], len(side))
    rng = np.random.default_rng(whole("seed", seed, 0))
    angle = rng.uniform(0, 2 * math.pi, width)
    a, w, b = rng.choice([-1.0, 1.0], width), np.cos(angle), np.sin(angle)
    history = []
    for step in range(1, steps + 1):
        pre = np.outer(x, w) + b
        active = _relu(pre)
        slopes = y * softmax(_log_slope(y * (active @ a) / width, loss))
        pull = (pre > 0) * slopes[:, None]
        size = rate / (1 + float((a * a + w * w + b * b).mean()) / 10)
        a, w, b = a + size * (slopes @ active), w + size * a * (x @ pull), b + size * a * pull.sum(0)
        if step % max(1, steps // 50) == 0 or step == steps:
            history.append((step, *_measure(a, w, b, x, y)[:3]))
    norm, margin, spread, scaled = _measure(a, w, b, x, y)
    members = np.linspace(0, 1, 1001)
    distances = [float(np.abs(scaled - 2 * margin_family(x, member)).max()) for member in members]
    nearest = int(np.argmin(distances))
    grid = np.linspace(-3, 3, 241)
    path = float((np.abs(a) * (np.abs(w) + np.abs(b))).mean())
    return ShallowReLU(
        outer=a,
        inner=w,
        bias=b,
        grid=grid,
        values=_relu(np.outer(grid, w) + b) @ a / (width * norm),
        euclidean_margin=margin,
        path_margin=margin * norm / path,
        spread=spread,
        nearest_b=float(members[nearest]),
        family_distance=distances[nearest],
        history=np.asarray(history),
    )


def _data(points: Sequence[float] | Array, labels: Sequence[float] | Array | None) -> tuple[Array, Array]:
    x = np.array(points, dtype=np.float64)
    y = np.sign(x) if labels is None else np.array(labels, dtype=np.float64)
    if x.ndim != 1 or not np.isfinite(x).all():
        raise UsageError(f"points must be a sequence of finite numbers, got an array of shape {x.shape}")
    if y.shape != x.shape or set(y.tolist()) != {1.0, -1.0}:
        raise UsageError(f"expected one label for each of {len(x)} points, 1 or -1 and both present, got {y.tolist()}")
    return x, y


def _neurons(kinks: Array, norm: Norm, angles: int) -> tuple[Array, Array]:
    """Weights and biases of norm 1, every sign; a neuron whose kink is at x has |b| = |x| |w|."""
    angle = np.concatenate([np.arctan(np.abs(kinks)), [0.0, math.pi / 2]])
    if norm == "euclidean":
        angle = np.concatenate([angle, np.linspace(0, math.pi / 2, angles)])
    angle = np.unique(angle)
    w, b = np.cos(angle), np.sin(angle)
    if norm == "path":
        w, b = w / (w + b), b / (w + b)
    return np.concatenate([w, -w, w, -w]), np.concatenate([b, b, -b, -b])


def _largest_margin(table: Array, y: Array, constant: bool = False) -> tuple[float, Array]:
    """Solve for the largest margin; the variables are the positive and negative coefficients and the margin."""
    both = np.concatenate([table, -table], axis=1)
    rows, columns = both.shape
    upper = np.block([[-y[:, None] * both, np.ones((rows, 1))], [np.ones((1, columns)), np.zeros((1, 1))]])
    equal = None
    if constant:
        classes = [both[y == sign] for sign in (1.0, -1.0)]
        equal = np.concatenate([each[1:] - each[:1] for each in classes])
        equal = np.concatenate([equal, np.zeros((len(equal), 1))], axis=1) if len(equal) else None
    x = _solve(np.append(np.zeros(columns), -1.0), upper, np.append(np.zeros(rows), 1.0), equal)
    return float(x[-1]), both @ x[:-1]


def _extreme(table: Array, y: Array, there: Array, sign: float, margin: float) -> float:
    """Least (sign 1) or largest (sign -1) value at one place among functions of that margin."""
    both, place = np.concatenate([table, -table], axis=1), np.concatenate([there, -there])
    upper = np.concatenate([-y[:, None] * both, np.ones((1, both.shape[1]))])
    x = _solve(sign * place, upper, np.append(np.full(len(y), -margin), 1.0), None)
    return float(place @ x)


def _solve(cost: Array, upper: Array, bound: Array, equal: Array | None) -> Array:
    from scipy.optimize import linprog

    zeros = None if equal is None else np.zeros(len(equal))
    result = linprog(cost, A_ub=upper, b_ub=bound, A_eq=equal, b_eq=zeros, method="highs")
    if not result.success:
        raise UsageError(f"the linear program has no solution ({result.message}): the classes may not be separable")
    return result.x


def _measure(a: Array, w: Array, b: Array, x: Array, y: Array) -> tuple[float, float, float, Array]:
    """Norm of f, its Euclidean margin, its spread, and f scaled to margin 1."""
    norm = float((np.abs(a) * np.hypot(w, b)).mean())
    f = _relu(np.outer(x, w) + b) @ a / len(a)
    least = float((y * f).min())
    spread = max(float(np.ptp(f[y == sign]) / np.abs(f[y == sign]).min()) for sign in (1.0, -1.0))
    return norm, least / norm, spread, f / least


def _relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


def _log_slope(margin: Array, loss: str) -> Array:
    """Logarithm of the absolute derivative of the loss."""
    return -margin if loss == "exponential" else -np.logaddexp(0.0, margin)
