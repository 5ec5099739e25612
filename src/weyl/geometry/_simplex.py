"""The regular simplex as the optimum of classification: Lemma 4, Corollary 6, Lemma 8 and Corollary 9."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from weyl.errors import UsageError
from weyl.geometry._checks import exponent, positive, whole

__all__ = ["Certificate", "OptimalPair", "SimplexOptimum", "optimal_pair", "simplex", "simplex_optimum"]

_DEFECTS = (
    "radius_defect",
    "side_defect",
    "centre_defect",
    "norm_excess",
    "isometry_defect",
    "logit_defect",
    "risk_gap",
)


@dataclass(frozen=True, eq=False)
class SimplexOptimum:
    r"""Logits of least cross-entropy in an :math:`\ell_p` ball.

    Parameters
    ----------
    vertices : float64 tensor, shape (k, k)
        Row i holds the best logits of class i: ``alpha`` at i, ``beta`` elsewhere.
    alpha, beta : float
        The two values.
    risk : float
        Least cross-entropy, in nats; the same for every class and so for every weighting of the classes.
    radius, p : float
        The ball.
    """

    vertices: Tensor
    alpha: float
    beta: float
    risk: float
    radius: float
    p: float


def simplex_optimum(k: int, radius: float = 1.0, p: float = 2.0) -> SimplexOptimum:
    r"""Minimisers of softmax cross-entropy over outputs in a ball, and the least risk.

    With :math:`c = (k-1)^{1/(p-1)}`: :math:`\alpha = R\,(c/(1+c))^{1/p}`,
    :math:`\beta = -R\,((1+c)(k-1))^{-1/p}`, :math:`R^* = \log(1 + (k-1)\,e^{\beta-\alpha})`.

    Parameters
    ----------
    k : int
        Number of classes, at least 2.
    radius : float
        Radius R of the ball, positive.
    p : float
        Exponent of its norm, strictly between 1 and infinity.

    Returns
    -------
    SimplexOptimum
        Vertices, values and least risk, in float64.

    Raises
    ------
    UsageError
        If an argument is out of range.

    References
    ----------
    E and Wojtowytsch, arXiv 2012.05420, Lemma 4 (p = 2) and Corollary 6; the least risk follows by substitution.

    Examples
    --------
    >>> round(simplex_optimum(10, radius=5.0).risk, 10)
    0.0452324884
    """
    k, radius, p = whole("k", k, 2), positive("radius", radius), exponent(p)
    alpha, beta, risk = _closed_form(k, radius, p)
    vertices = torch.full((k, k), beta, dtype=torch.float64).fill_diagonal_(alpha)
    return SimplexOptimum(vertices, alpha, beta, risk, radius, p)


def simplex(
    k: int,
    dim: int,
    radius: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Vertices of a centred regular simplex: k points of norm ``radius``, pairwise cosine :math:`-1/(k-1)`.

    Parameters
    ----------
    k : int
        Number of vertices, at least 2.
    dim : int
        Dimension of the space, at least k - 1.
    radius : float
        Norm of every vertex.
    generator : torch.Generator, optional
        Rotates the simplex at random (Haar); without it the vertices lie in the first k - 1 coordinates.
    dtype : torch.dtype
        Of the result; the computation is in float64.
    device : torch.device or str, optional
        Of the result; by default the generator's, or the CPU.

    Returns
    -------
    tensor, shape (k, dim)
        One vertex a row.

    Raises
    ------
    UsageError
        If ``dim < k - 1`` or another argument is out of range.

    References
    ----------
    E and Wojtowytsch, arXiv 2012.05420, Lemma 4; the coordinates are those of a Helmert basis.

    Examples
    --------
    >>> v = simplex(4, 3)
    >>> [round(float(v[0] @ v[i]), 6) for i in range(4)]
    [1.0, -0.333333, -0.333333, -0.333333]
    """
    k, radius = whole("k", k, 2), positive("radius", radius)
    basis, frame = _bases(k, dim, generator, device)
    return (radius * math.sqrt(k / (k - 1)) * basis @ frame.T).to(dtype)


@dataclass(frozen=True)
class Certificate:
    r"""Whether features and a linear map are optimal in the sense of Lemma 8, condition by condition.

    Every defect but ``risk_gap`` (nats) is relative to the bounds: 0 for an optimal pair, NaN where an entry is not
    finite.

    Parameters
    ----------
    classes, dim : int
        Numbers of features and of their entries.
    radius_defect : float
        Largest deviation of a feature norm from the radius R.
    side_defect : float
        Largest deviation of a distance between two features from the side of the simplex.
    centre_defect : float
        Norm of the mean feature.
    norm_excess : float
        How far the operator norm of the map exceeds its bound a (0 if it does not).
    isometry_defect : float
        How far the map is from a times an isometry on the span of the features: the largest entry of
        :math:`YA^\top AY^\top - a^2 YY^\top`, over :math:`(aR)^2`.
    logit_defect : float
        Largest deviation of a logit from the closed form at radius aR, over aR.
    risk_gap : float
        Cross-entropy of the pair, mean over the classes, minus the least risk.
    tolerance : float
        What counts as zero.
    """

    classes: int
    dim: int
    radius_defect: float
    side_defect: float
    centre_defect: float
    norm_excess: float
    isometry_defect: float
    logit_defect: float
    risk_gap: float
    tolerance: float

    @property
    def defects(self) -> dict[str, float]:
        """Every defect by its name; ``risk_gap`` without its sign."""
        return {name: abs(getattr(self, name)) for name in _DEFECTS}

    @property
    def applies(self) -> bool:
        """Whether Lemma 8 says anything: k points at one mutual distance need k - 1 dimensions."""
        return self.classes <= self.dim + 1

    @property
    def holds(self) -> bool:
        """Whether the lemma applies and every condition is met."""
        # one by one: max() over numbers among which is a NaN may pass over it
        return self.applies and all(defect <= self.tolerance for defect in self.defects.values())


@dataclass(frozen=True, eq=False)
class OptimalPair:
    """Features and a linear map of least risk under a bound on each; unpacks to ``(features, map)``.

    Parameters
    ----------
    features : float64 tensor, shape (k, dim)
        The feature y_i of every class.
    map : float64 tensor, shape (k, dim)
        The matrix A; the logits of class i are ``A @ y_i``.
    radius, operator_norm : float
        The bounds.
    """

    features: Tensor
    map: Tensor
    radius: float
    operator_norm: float

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.features, self.map))

    def certificate(self, map: Tensor, features: Tensor, tolerance: float = 1e-9) -> Certificate:
        """Check the conditions of Lemma 8 on any pair, against the bounds of this one.

        Parameters
        ----------
        map : tensor, shape (k, dim)
            Matrix A; k and dim may differ from this pair's.
        features : tensor, shape (k, dim)
            One feature a class.
        tolerance : float
            Largest defect that counts as zero, for every condition.

        Returns
        -------
        Certificate
            ``.holds`` and every defect.

        Raises
        ------
        UsageError
            If the shapes do not match or the tolerance is not positive.

        References
        ----------
        E and Wojtowytsch, arXiv 2012.05420, Lemma 8 and Corollary 9.

        Examples
        --------
        >>> pair = optimal_pair(4, 6, radius=2.0)
        >>> pair.certificate(pair.map, pair.features).holds
        True
        >>> pair.certificate(pair.map, 1.01 * pair.features).holds
        False
        """
        if features.ndim != 2 or map.shape != features.shape or len(features) < 2:
            shapes = f"{tuple(map.shape)} and {tuple(features.shape)}"
            raise UsageError(f"expected a map and features of one shape (k, dim) with k at least 2, got {shapes}")
        tolerance = positive("tolerance", tolerance)
        y, a = features.detach().double(), map.detach().double()
        defects = dict.fromkeys(_DEFECTS, math.nan)
        # the decompositions refuse numbers that are not finite
        if bool(y.isfinite().all()) and bool(a.isfinite().all()):
            defects = _defects(y, a, self.radius, self.operator_norm)
        k, dim = features.shape
        return Certificate(k, dim, **defects, tolerance=tolerance)


def optimal_pair(
    k: int,
    dim: int,
    radius: float = 1.0,
    operator_norm: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    device: torch.device | str | None = None,
) -> OptimalPair:
    r"""Features in a ball and a linear map of bounded norm whose cross-entropy is least.

    The features form a centred regular simplex of side :math:`\sqrt{2k/(k-1)}\,R`; the map is an isometry times its
    norm a on their span, so that the logits are the optimum of :func:`simplex_optimum` at radius aR and
    :math:`y_i = A^\top z_i / a^2`.

    Parameters
    ----------
    k : int
        Number of classes.
    dim : int
        Dimension of the features, at least k - 1.
    radius : float
        Bound R on the norm of the features.
    operator_norm : float
        Bound a on the spectral norm of the map.
    generator : torch.Generator, optional
        Rotates the features at random.
    device : torch.device or str, optional
        Of the result; by default the generator's, or the CPU.

    Returns
    -------
    OptimalPair
        ``.features``, ``.map``, and ``.certificate`` for any other pair; float64.

    Raises
    ------
    UsageError
        If ``dim < k - 1`` or a bound is not positive.

    References
    ----------
    E and Wojtowytsch, arXiv 2012.05420, Corollary 9; a general operator norm by rescaling.

    Examples
    --------
    >>> features, matrix = optimal_pair(10, 12, radius=5.0)
    >>> logits = features @ matrix.T
    >>> round(float(-logits.log_softmax(1).diagonal().mean()), 10)
    0.0452324884
    """
    k, radius = whole("k", k, 2), positive("radius", radius)
    operator_norm = positive("operator_norm", operator_norm)
    basis, frame = _bases(k, dim, generator, device)
    isometry = basis @ frame.T
    return OptimalPair(radius * math.sqrt(k / (k - 1)) * isometry, operator_norm * isometry, radius, operator_norm)


def _closed_form(k: int, radius: float, p: float) -> tuple[float, float, float]:
    """Alpha, beta and the least risk."""
    # in logarithms, since c overflows for p near 1
    log_c = math.log(k - 1) / (p - 1)
    log_one_plus_c = log_c + math.log1p(math.exp(-log_c))
    alpha = radius * math.exp((log_c - log_one_plus_c) / p)
    beta = -radius * math.exp(-(log_one_plus_c + math.log(k - 1)) / p)
    return alpha, beta, math.log1p((k - 1) * math.exp(beta - alpha))


def _defects(y: Tensor, a: Tensor, radius: float, norm: float) -> dict[str, float]:
    """Every defect of :class:`Certificate` by its name."""
    k = len(y)
    alpha, beta, least = _closed_form(k, norm * radius, 2.0)
    side = radius * math.sqrt(2 * k / (k - 1))
    distances = torch.cdist(y, y)[~torch.eye(k, dtype=torch.bool, device=y.device)]
    logits = y @ a.T
    best = torch.full_like(logits, beta).fill_diagonal_(alpha)
    gram = logits @ logits.T - norm**2 * (y @ y.T)
    values = (
        float((y.norm(dim=1) / radius - 1).abs().max()),
        float((distances / side - 1).abs().max()),
        float(y.mean(0).norm()) / radius,
        max(float(torch.linalg.matrix_norm(a, 2)) / norm - 1, 0.0),
        float(gram.abs().max()) / (norm * radius) ** 2,
        float((logits - best).abs().max()) / (norm * radius),
        float(-logits.log_softmax(1).diagonal().mean()) - least,
    )
    return dict(zip(_DEFECTS, values, strict=True))


def _bases(
    k: int, dim: int, generator: torch.Generator | None, device: torch.device | str | None
) -> tuple[Tensor, Tensor]:
    """Orthonormal bases as columns: of the vectors of sum zero, (k, k - 1), and of a subspace, (dim, k - 1)."""
    dim = whole("dim", dim, 1)
    if dim < k - 1:
        raise UsageError(f"a simplex of {k} vertices needs dim of at least {k - 1}, got {dim}")
    if device is None:
        device = "cpu" if generator is None else generator.device
    return _helmert(k, device), _frame(k - 1, dim, generator, device)


def _helmert(k: int, device: torch.device | str) -> Tensor:
    """Orthonormal basis of the vectors of sum zero, shape (k, k - 1)."""
    columns = torch.arange(1, k, dtype=torch.float64, device=device)
    basis = torch.ones(k, k - 1, dtype=torch.float64, device=device).triu() - torch.diag(columns, -1)[:, :-1]
    return basis / torch.sqrt(columns * (columns + 1))


def _frame(rank: int, dim: int, generator: torch.Generator | None, device: torch.device | str) -> Tensor:
    """Orthonormal vectors of ``dim`` entries, as columns: the first unit vectors, or Haar random ones."""
    if generator is None:
        return torch.eye(dim, rank, dtype=torch.float64, device=device)
    normal = torch.randn(dim, rank, generator=generator, dtype=torch.float64, device=generator.device).to(device)
    q, r = torch.linalg.qr(normal)
    # the factor is Haar only if the diagonal of r is positive
    return q * r.diagonal().sign()
