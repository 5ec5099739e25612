"""The bounded-feature problem, minimised numerically, and codes of more classes than a simplex has vertices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weyl.errors import UsageError
from weyl.geometry._checks import class_weighting, exponent, positive, whole
from weyl.geometry._simplex import Certificate, OptimalPair, simplex_optimum

__all__ = ["BoundedSolution", "OutputSolution", "Restart", "minimise_bounded", "minimise_outputs", "one_vs_rest_margin"]

# Largest entry of the gradient of the logarithm of the risk, over the radius of the logits (1 if smaller).
_STATIONARY = 1e-6


@dataclass(frozen=True)
class Restart:
    """How one random start ended.

    Parameters
    ----------
    risk : float
        Weighted cross-entropy, in nats.
    margin : float
        Least difference between the logit of a class and another, over the classes.
    iterations : int
        Steps of L-BFGS.
    converged : bool
        Whether the gradient vanishes.
    """

    risk: float
    margin: float
    iterations: int
    converged: bool


@dataclass(frozen=True, eq=False)
class BoundedSolution:
    r"""Features, map and bias of least cross-entropy that were found.

    Parameters
    ----------
    features : float64 tensor, shape (k, dim)
        One feature a class.
    map : float64 tensor, shape (k, dim)
        Matrix A.
    bias : float64 tensor, shape (k,), or None
        Of mean zero.
    risk : float
        Weighted cross-entropy, in nats.
    least_risk : float or None
        The closed form of Corollary 9; None where it does not apply: ``k > dim + 1``, or a bias with unequal weights.
    gap : float or None
        ``risk - least_risk``.
    margin : float
        :math:`\min_i \min_{j \ne i} \langle y_i, A_i - A_j\rangle + b_i - b_j`, in units of the logits.
    separation : float
        :func:`one_vs_rest_margin` of the features over the radius.
    iterations : int
        Steps of L-BFGS in the best restart.
    converged : bool
        Whether the gradient vanishes there.
    history : tuple of float
        Risk after every step of the best restart.
    restarts : tuple of Restart
        All of them, in the order in which they ran.
    certificate : Certificate or None
        Of Lemma 8; None where there is no closed form.
    radius, operator_norm : float
        The bounds.
    class_weights : tuple of float
        Normalised to sum 1.
    """

    features: Tensor
    map: Tensor
    bias: Tensor | None
    risk: float
    least_risk: float | None
    gap: float | None
    margin: float
    separation: float
    iterations: int
    converged: bool
    history: tuple[float, ...]
    restarts: tuple[Restart, ...]
    certificate: Certificate | None
    radius: float
    operator_norm: float
    class_weights: tuple[float, ...]


def minimise_bounded(
    k: int,
    dim: int,
    radius: float = 1.0,
    *,
    operator_norm: float = 1.0,
    class_weights: Sequence[float] | Tensor | None = None,
    bias: bool = False,
    steps: int = 2000,
    restarts: int = 4,
    seed: int = 0,
    tolerance: float = 1e-6,
) -> BoundedSolution:
    r"""Minimise cross-entropy over bounded features, a linear map of bounded norm and, if wanted, a bias.

    :math:`\min \sum_i w_i\,\Phi_i(A y_i + b)` subject to :math:`\lVert y_i\rVert_2 \le R` and
    :math:`\lVert A\rVert_2 \le a`, with :math:`\Phi_i(z) = \log\sum_j e^{z_j} - z_i`. For ``dim >= k - 1`` it must
    end at :func:`weyl.optimal_pair`. A free bias with unequal weights goes below that closed form, because the bias
    can follow the weights; without a bias the weights do not matter.

    Parameters
    ----------
    k, dim : int
        Numbers of classes and of dimensions.
    radius : float
        Bound R on the norm of the features.
    operator_norm : float
        Bound a on the spectral norm of the map.
    class_weights : sequence of k positive numbers, optional
        Weights of the classes; equal by default.
    bias : bool
        Whether there is a bias.
    steps : int
        Most steps of L-BFGS, per restart.
    restarts : int
        Number of random starts; the result is the one of least risk.
    seed : int
        Of the starts.
    tolerance : float
        Of the certificate.

    Returns
    -------
    BoundedSolution
        Float64, on the CPU.

    Raises
    ------
    UsageError
        If an argument is out of range.

    Notes
    -----
    Both bounds hold by construction, and the closed sets are covered smoothly: a point of the ball is the shadow of a
    point of a sphere with one dimension more, a contraction is the upper block of a matrix with orthonormal columns.
    L-BFGS then descends the logarithm of the risk, which keeps its scale when the risk is 1e-100.

    References
    ----------
    E and Wojtowytsch, arXiv 2012.05420, Lemma 8 and Corollary 9. Jiang et al., arXiv 2310.05351, for k > dim + 1.

    Examples
    --------
    >>> solution = minimise_bounded(4, 3, radius=5.0, restarts=1)
    >>> abs(solution.gap) < 1e-8, solution.certificate.holds
    (True, True)
    >>> circle = minimise_bounded(6, 2, radius=30.0, restarts=1)  # a regular hexagon
    >>> round(circle.separation, 6)
    0.5
    """
    k, dim, radius = whole("k", k, 2), whole("dim", dim, 1), positive("radius", radius)
    norm, weights = positive("operator_norm", operator_norm), _shares(class_weights, k)
    generator = torch.Generator().manual_seed(whole("seed", seed, 0))
    steps, bound = whole("steps", steps, 1), norm * radius
    entries = k * (dim + 1) + (k + dim) * dim + (k if bias else 0)

    def build(x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        sphere, frame = x[: k * (dim + 1)].view(k, dim + 1), x[k * (dim + 1) :][: (k + dim) * dim].view(k + dim, dim)
        return radius * _ball(sphere), norm * _contraction(frame, k), x[-k:] if bias else None

    def log_risk(x: Tensor) -> Tensor:
        logits = _logits(*build(x))
        return torch.logsumexp(weights.log() + _log_cross_entropy(logits), 0)

    ends: list[tuple[Restart, Tensor, tuple[float, ...]]] = []
    for _ in range(whole("restarts", restarts, 1)):
        start = torch.randn(entries, generator=generator, dtype=torch.float64)
        if bias:
            start[-k:] = 0
        end, history, gradient = _descend(log_risk, start, steps)
        margin = float(-_rivals(_logits(*build(end))).max())
        converged = gradient <= _STATIONARY * max(1.0, bound)
        ends.append((Restart(history[-1], margin, len(history) - 1, converged), end, history))
    best, end, history = min(ends, key=lambda item: item[0].risk)
    features, matrix, offset = build(end)
    offset = None if offset is None else offset - offset.mean()
    known = k <= dim + 1 and (not bias or bool((weights == weights[0]).all()))
    least = simplex_optimum(k, bound).risk if known else None
    pair = OptimalPair(features, matrix, radius, norm)
    return BoundedSolution(
        features=features,
        map=matrix,
        bias=offset,
        risk=best.risk,
        least_risk=least,
        gap=None if least is None else best.risk - least,
        margin=best.margin,
        separation=one_vs_rest_margin(features / radius),
        iterations=best.iterations,
        converged=best.converged,
        history=history,
        restarts=tuple(restart for restart, _, _ in ends),
        certificate=pair.certificate(matrix, features, tolerance) if known else None,
        radius=radius,
        operator_norm=norm,
        class_weights=tuple(weights.tolist()),
    )


@dataclass(frozen=True, eq=False)
class OutputSolution:
    r"""Outputs of least cross-entropy in an :math:`\ell_p` ball that were found.

    Parameters
    ----------
    outputs : float64 tensor, shape (k, k)
        Row i holds the logits of class i.
    risk : float
        Weighted cross-entropy, in nats.
    least_risk : float
        The closed form of Corollary 6.
    gap : float
        ``risk - least_risk``.
    duality_gap : float
        A bound on how far ``risk`` is above the minimum, from convexity alone and not from the closed form.
    iterations : int
        Steps of L-BFGS.
    history : tuple of float
        Risk after every step.
    radius, p : float
        The ball.
    class_weights : tuple of float
        Normalised to sum 1.
    """

    outputs: Tensor
    risk: float
    least_risk: float
    gap: float
    duality_gap: float
    iterations: int
    history: tuple[float, ...]
    radius: float
    p: float
    class_weights: tuple[float, ...]


def minimise_outputs(
    k: int,
    radius: float = 1.0,
    p: float = 2.0,
    *,
    class_weights: Sequence[float] | Tensor | None = None,
    steps: int = 2000,
    seed: int = 0,
) -> OutputSolution:
    r"""Minimise cross-entropy over outputs in an :math:`\ell_p` ball, one output a class.

    :math:`\min \sum_i w_i\,\Phi_i(z_i)` subject to :math:`\lVert z_i\rVert_p \le R`. The problem is convex, and
    :math:`\langle\nabla\Phi_i(z_i), z_i\rangle + R\,\lVert\nabla\Phi_i(z_i)\rVert_q`, with 1/p + 1/q = 1, bounds the
    distance of :math:`\Phi_i(z_i)` from its minimum.

    Parameters
    ----------
    k : int
        Number of classes.
    radius, p : float
        The ball, p strictly between 1 and infinity.
    class_weights : sequence of k positive numbers, optional
        Weights of the classes in the risk; each class is minimised by itself.
    steps : int
        Most steps of L-BFGS.
    seed : int
        Of the start.

    Returns
    -------
    OutputSolution
        Float64, on the CPU.

    Raises
    ------
    UsageError
        If an argument is out of range.

    Notes
    -----
    A minimiser is the point of the ball that goes farthest along its own negative gradient, which is a softmax minus
    a unit vector. So L-BFGS searches over the k x k logits of that softmax, all of them free: no entry of the gradient
    is zero, and the outputs depend smoothly on them for every p.

    References
    ----------
    E and Wojtowytsch, arXiv 2012.05420, Lemma 4 and Corollary 6. Jaggi, ICML 2013, for the duality gap.

    Examples
    --------
    >>> solution = minimise_outputs(5, radius=3.0, p=1.5, class_weights=[1, 2, 3, 4, 50])
    >>> abs(solution.gap) < 1e-8, solution.duality_gap < 1e-6
    (True, True)
    """
    k, radius, p = whole("k", k, 2), positive("radius", radius), exponent(p)
    weights, steps = _shares(class_weights, k), whole("steps", steps, 1)
    generator = torch.Generator().manual_seed(whole("seed", seed, 0))
    eye = torch.eye(k, dtype=torch.float64)

    def build(x: Tensor) -> Tensor:
        # 1 - p_i is the sum of the others: the difference would lose its digits
        others = x.view(k, k).softmax(1) * (1 - eye)
        direction = torch.where(eye.bool(), others.sum(1, keepdim=True), -others)
        return radius * _farthest(direction, p)

    def log_risk(x: Tensor) -> Tensor:
        return _log_cross_entropy(build(x)).mean()

    start = torch.randn(k * k, generator=generator, dtype=torch.float64)
    risks: list[float] = []
    end, _, _ = _descend(log_risk, start, steps, lambda x: risks.append(_risk(build(x), weights)))
    outputs = build(end)
    gradient = outputs.softmax(1) - eye
    dual = (gradient * outputs).sum(1) + radius * gradient.norm(p / (p - 1), dim=1)
    risk, least = risks[-1], simplex_optimum(k, radius, p).risk
    return OutputSolution(
        outputs=outputs,
        risk=risk,
        least_risk=least,
        gap=risk - least,
        duality_gap=float(weights @ dual),
        iterations=len(risks) - 1,
        history=tuple(risks),
        radius=radius,
        p=p,
        class_weights=tuple(weights.tolist()),
    )


def one_vs_rest_margin(points: Tensor) -> float:
    r"""Least distance of a point from the convex hull of the others.

    :math:`\min_i d(w_i, \mathrm{conv}\{w_j : j \ne i\})`, Euclidean.

    Parameters
    ----------
    points : tensor, shape (k, dim)
        At least two points; unit vectors for a code on the sphere. A set that maximises it is a softmax code.

    Returns
    -------
    float
        In the units of the points; 0 if one of them lies in the hull of the others.

    Raises
    ------
    UsageError
        If the points are no matrix of at least two rows of finite numbers.

    References
    ----------
    Jiang et al., arXiv 2310.05351, the definitions of the one-vs-rest margin and of softmax codes.

    Examples
    --------
    >>> octahedron = torch.cat([torch.eye(3), -torch.eye(3)])
    >>> round(one_vs_rest_margin(octahedron), 9)
    1.0
    """
    if points.ndim != 2 or len(points) < 2 or not bool(points.isfinite().all()):
        raise UsageError(f"expected at least two points as finite rows of a matrix, got shape {tuple(points.shape)}")
    array = points.detach().double().cpu().numpy()
    return min(_distance_from_hull(array, i) for i in range(len(array)))


def _distance_from_hull(points: np.ndarray[Any, np.dtype[np.float64]], i: int) -> float:
    from scipy.optimize import nnls

    difference = np.delete(points, i, axis=0) - points[i]
    scale = float(np.abs(difference).max())
    if scale == 0:
        return 0.0
    # min |D'u|^2 + (1'u - 1)^2 over u >= 0: at u = s v, with v in the simplex, it is s^2 |D'v|^2 + (s - 1)^2, which
    # is least, for every s, where |D'v| is
    rows = np.vstack([difference.T / scale, np.ones(len(difference))])
    u, _ = nnls(rows, np.append(np.zeros(points.shape[1]), 1.0))
    return float(np.linalg.norm(difference.T @ (u / u.sum())))


def _shares(given: Sequence[float] | Tensor | None, k: int) -> Tensor:
    """Class weights of sum 1."""
    values = class_weighting("class_weights", given, k)
    return values / values.sum()


def _ball(u: Tensor) -> Tensor:
    """Points of the closed unit ball: unit vectors without their last entry."""
    return u[:, :-1] / u.norm(dim=1, keepdim=True)


def _contraction(u: Tensor, rows: int) -> Tensor:
    """Matrix of spectral norm at most 1: the first rows of orthonormal columns."""
    q, r = torch.linalg.qr(u)
    # a positive diagonal makes the factor unique and so smooth; LAPACK's signs jump
    return (q * r.diagonal().sign())[:rows]


def _logits(features: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    logits = features @ matrix.T
    return logits if bias is None else logits + bias


def _rivals(logits: Tensor) -> Tensor:
    """By how much each other logit exceeds the one of the class; minus infinity on the diagonal."""
    own = torch.eye(len(logits), dtype=torch.bool)
    return (logits - logits.diagonal()[:, None]).masked_fill(own, -torch.inf)


def _log_cross_entropy(logits: Tensor) -> Tensor:
    """Logarithm of the cross-entropy of every class, exact however small it is."""
    x = torch.logsumexp(_rivals(logits), 1)
    # log(1 + e^x) = e^x to all digits below -40
    return torch.where(x < -40, x, torch.logaddexp(x.clamp_min(-40), torch.zeros_like(x)).log())


def _risk(logits: Tensor, weights: Tensor) -> float:
    return float(torch.logsumexp(weights.log() + _log_cross_entropy(logits), 0).exp())


def _farthest(direction: Tensor, p: float) -> Tensor:
    """Unit vectors of the p-norm that go farthest along the rows, sign(s) |s|^(q-1) normalised."""
    size = direction.abs()
    # the largest entry becomes 1, or the power underflows for p near 1
    power = (size / size.amax(1, keepdim=True)) ** (1 / (p - 1)) * direction.sign()
    return power / power.norm(p, dim=1, keepdim=True)


def _descend(
    objective: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    watch: Callable[[Tensor], None] | None = None,
) -> tuple[Tensor, tuple[float, ...], float]:
    """L-BFGS on the logarithm of a risk: the end, the risk after every step, the largest entry of the gradient."""
    from scipy.optimize import OptimizeResult, minimize

    def value_and_gradient(x: Any) -> tuple[float, Any]:
        point = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        value = objective(point)
        (gradient,) = torch.autograd.grad(value, point)
        return value.item(), gradient.numpy()

    def after_step(intermediate_result: OptimizeResult) -> None:
        values.append(float(intermediate_result.fun))
        if watch is not None:
            watch(torch.tensor(intermediate_result.x))

    values = [value_and_gradient(start.numpy())[0]]
    if watch is not None:
        watch(start)
    # no relative tolerance: it goes on until the line search can no longer tell two values apart
    options = {"maxiter": steps, "maxfun": 20 * steps, "ftol": 0.0, "gtol": 1e-12, "maxcor": 20}
    result = minimize(
        value_and_gradient, start.numpy(), jac=True, method="L-BFGS-B", callback=after_step, options=options
    )
    return torch.tensor(result.x), tuple(math.exp(value) for value in values), float(np.abs(result.jac).max())
