"""How near a classifier is to the simplex: every metric as a function of the statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from weyl.geometry._chance import Reference
from weyl.geometry._metrics import METRICS
from weyl.geometry._symmetry import nearest_invariant
from weyl.geometry._verdict import Verdict, verdict

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


__all__ = ["Collapse"]

Matrix = Float[np.ndarray, "k k"]


@dataclass(frozen=True, eq=False)
class Collapse:
    r"""How far a classifier's features have collapsed to a simplex.

    Notation: over the k classes that are present, :math:`\mu_c` are the class means, M the k × d matrix of means less
    their average, :math:`G = M M^\top`, :math:`\Sigma_W` the within-class covariance (divided by the number of
    samples), P = I - 11ᵀ/k. What cannot be measured is None: NC3 without the classifier, NC5 without
    out-of-distribution data, anything between classes with only one class.

    Parameters
    ----------
    nc1 : float
        tr(Σ_W Σ_B⁺)/k. Zero if every class is one point; large, however small the spread, if two class means coincide.
    nc1_ratio : float
        tr Σ_W / tr Σ_B.
    cdnv : float
        Class-distance normalised variance: mean over pairs of :math:`(v_i + v_j) / (2 \|\mu_i - \mu_j\|^2)`.
    nc2 : float
        :math:`\| G/\|G\|_F - P/\sqrt{k-1} \|_F`. Zero if the means form a regular simplex.
    equinorm : float
        Its part from lengths: standard deviation of :math:`\|m_c\|` over their mean.
    equiangular : float
        Its part from angles: root mean square of :math:`\cos(m_i, m_j) + 1/(k-1)`.
    nc3 : float
        :math:`\| W M^\top/\|W M^\top\|_F - P/\sqrt{k-1} \|_F` for the classifier's matrix W.
    duality : float
        Self-duality, :math:`\| W/\|W\|_F - M/\|M\|_F \|_F`: zero if the classifier is a multiple of the centred means,
        whatever their shape.
    nc4 : float
        Fraction of samples on which the classifier, with its bias, and the nearest class mean disagree.
    nc5 : float
        Mean over classes of :math:`|\cos(\mu_c, \mu^{ood})|`, with the mean of out-of-distribution features.
    sk_defect : float
        :math:`\|G - \Pi(G)\|_F / \|G\|_F`, with Π the projection on matrices that commute with every permutation of the
        classes. For centred means it is the sine of the angle between G and P, of which NC2 is the chord.
    radius : float
        Largest norm of centred logits.
    feature_radius, feature_norm : float
        Largest and mean norm of a feature.
    risk : float
        Cross-entropy in nats, samples weighted by the class weights.
    ew_gap : float
        Risk minus the least risk of outputs of norm at most ``radius``.
    logit_spread : float
        Root of the within-class part of the sum of squares of the centred logits; 0 if logits are constant on classes.
    accuracy, ncm_accuracy : float
        Of the classifier, and of the nearest class mean, on these samples.
    gram : float64 array, shape (k, k)
        G.
    residual : float64 array, shape (k, k)
        :math:`(G - \Pi(G)) / \|G\|_F`: positive where two classes are nearer than in the simplex.
    pair_defect : float64 array, shape (k, k)
        :math:`\|P_{ij} G P_{ij}^\top - G\|_F / \|G\|_F` for the exchange of classes i and j.
    shares : float64 array, shape (k,)
        Part of the squared defect that is due to each class; they sum to 1, and each is 1/k if all are alike. With
        three classes they always are: only pairs can stand out.
    means : float64 array, shape (k, d)
        Class means.
    classes, absent : tuple of str
        Names of the classes that are present, in the order of the matrices, and of those that are not.
    counts : tuple of int
        Samples of each class that is present.
    dim, samples, kept, left_out : int
        Length of a feature, number of samples, how many of them NC4 and nearest-mean accuracy saw, and how many were
        left out for NaN or infinity.
    prior, class_weights : tuple of float
        Weights of the classes that are present in Σ_B, and of their samples in Σ_W and the risk.
    notes : tuple of str
        What a reader must know: absent classes, samples that were left out, a classifier that is not finite.
    reference : mapping of str to Reference
        Chance level and attainable floor of each metric.
    intervals : mapping of str to (float, float)
        95 % bootstrap intervals over samples; empty unless asked for.
    layer : str
        Name of the layer; empty if unknown.
    layers : mapping of str to Collapse
        Other layers that were measured in the same pass.

    References
    ----------
    Papyan, Han, Donoho, PNAS 117, 2020 (NC1 to NC4). Galanti, György, Hutter, ICLR 2022 (CDNV). Ammar et al., ICLR 2024
    (NC5). E and Wojtowytsch, arXiv 2012.05420 (the optimum, and the meaning of radius and spread).
    """

    nc1: float | None
    nc1_ratio: float | None
    cdnv: float | None
    nc2: float | None
    equinorm: float | None
    equiangular: float | None
    nc3: float | None
    duality: float | None
    nc4: float | None
    nc5: float | None
    sk_defect: float | None
    radius: float | None
    feature_radius: float
    feature_norm: float
    risk: float | None
    ew_gap: float | None
    logit_spread: float | None
    accuracy: float | None
    ncm_accuracy: float | None
    gram: Matrix
    residual: Matrix
    pair_defect: Matrix
    shares: Float[np.ndarray, " k"]
    means: Float[np.ndarray, "k d"]
    classes: tuple[str, ...]
    absent: tuple[str, ...]
    counts: tuple[int, ...]
    dim: int
    samples: int
    kept: int
    left_out: int
    prior: tuple[float, ...]
    class_weights: tuple[float, ...]
    notes: tuple[str, ...]
    reference: Mapping[str, Reference]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    layer: str = ""
    layers: Mapping[str, Collapse] = field(default_factory=dict)

    @property
    def nearest_gram(self) -> Matrix:
        """The nearest Gram that every exchange of classes leaves as it is: mean diagonal, and mean of the rest."""
        return nearest_invariant(torch.from_numpy(self.gram)).numpy()

    @property
    def breaking(self) -> tuple[str, ...]:
        """Classes with more than twice an equal share of the defect, the worst first."""
        limit = 2 / max(len(self.classes), 1)
        return tuple(name for name, share in self.worst_classes(len(self.classes)) if share > limit)

    def worst_classes(self, n: int = 5) -> list[tuple[str, float]]:
        """Return the n classes with the largest shares of the squared defect: (name, share)."""
        order = np.argsort(-self.shares, kind="stable")[:n]
        return [(self.classes[c], float(self.shares[c])) for c in order]

    def worst_pairs(self, n: int = 5) -> list[tuple[str, str, float]]:
        """Return the n pairs of largest ``residual``: (name, name, residual), positive where they are too near."""
        i, j = np.triu_indices(len(self.classes), 1)
        values = self.residual[i, j]
        order = np.argsort(-np.abs(values), kind="stable")[:n]
        return [(self.classes[i[p]], self.classes[j[p]], float(values[p])) for p in order]

    def verdict(self, held_out: bool = False) -> Verdict:
        """Say how far the classifier has collapsed, with the numbers that decide; see `weyl.geometry.verdict`.

        Parameters
        ----------
        held_out : bool
            Whether these are not training data; collapse is a property of training data, so that leaves it undecided.
        """
        return verdict(self, held_out)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each metric that was measured: its value, chance level, floor, interval and meaning."""
        found = []
        for name, metric in METRICS.items():
            value = getattr(self, name)
            if value is None:
                continue
            levels = self.reference.get(name, Reference(None, None))
            low, high = self.intervals.get(name, (None, None))
            row = {"metric": name, "title": metric.title, "value": value, "chance": levels.chance}
            found.append({**row, "floor": levels.floor, "low": low, "high": high, "meaning": metric.meaning})
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the means, ready for JSON; infinite numbers become None.

        The k × k matrices are left out for more than 128 classes.
        """
        matrices = {name: getattr(self, name).tolist() for name in ("gram", "residual", "pair_defect", "shares")}
        metrics = {name: _finite(getattr(self, name)) for name in METRICS}
        plain = ("layer", "notes", "classes", "absent", "counts", "dim", "samples", "kept", "left_out")
        return {
            **metrics,
            "feature_radius": self.feature_radius,
            "feature_norm": self.feature_norm,
            "reference": {name: {"chance": _finite(r.chance), "floor": r.floor} for name, r in self.reference.items()},
            "intervals": {name: [_finite(low), _finite(high)] for name, (low, high) in self.intervals.items()},
            "breaking": list(self.breaking),
            "worst_pairs": [list(pair) for pair in self.worst_pairs()],
            "conventions": CONVENTIONS,
            **{
                name: list(v) if isinstance(v := getattr(self, name), tuple) else v
                for name in (*plain, "prior", "class_weights")
            },
            **(matrices if len(self.classes) <= MOST_LISTED else {}),
            "layers": {name: other.to_dict() for name, other in self.layers.items()},
        }

    def to_frame(self) -> pandas.DataFrame:
        """Return the rows as a pandas frame, indexed by metric.

        Raises
        ------
        MissingExtraError
            If pandas is not installed.
        """
        from weyl.geometry._plot import frame

        return frame(self.rows(), "metric")

    def plot(self) -> Figure:
        """Draw the angles between class means, the shares of the classes, and the metrics between floor and chance."""
        from weyl.geometry._plot import plot

        return plot(self)

    def _repr_html_(self) -> str:
        from weyl.geometry._plot import html_table

        return html_table(self)

    def __repr__(self) -> str:
        where = f" at {self.layer}" if self.layer else ""
        shown = ", ".join(
            f"{name}={value:.4g}" for name in ("nc1", "nc2", "nc3", "nc4") if (value := getattr(self, name)) is not None
        )
        return f"Collapse({shown}; {len(self.classes)} classes, {self.samples} samples{where})"


MOST_LISTED = 128
CONVENTIONS = (
    "covariances are divided by the number of samples; the within-class covariance is pooled with the class weights; "
    "the symmetric metrics weigh classes equally and leave absent ones out; the S_k defect is of centred means; "
    "intervals are 95 % over samples"
)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
