"""The metrics by name: what each means, and what chance and the best possible classifier score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from weyl.geometry._chance import Reference, levels

__all__ = ["METRICS", "Metric", "references"]

PAPYAN = "Papyan, Han, Donoho, PNAS 117, 2020"
E_W = "E and Wojtowytsch, arXiv 2012.05420"


@dataclass(frozen=True)
class Metric:
    """What a metric is called, what it says, and where it comes from.

    Parameters
    ----------
    title, meaning, source : str
        For people.
    """

    title: str
    meaning: str
    source: str


METRICS: Mapping[str, Metric] = {
    "nc1": Metric("NC1, tr(Σ_W Σ_B⁺)/k", "spread within classes, measured between them", PAPYAN),
    "nc1_ratio": Metric("NC1, tr Σ_W / tr Σ_B", "spread within classes over spread between", PAPYAN),
    "cdnv": Metric("NC1, CDNV", "spread of two classes over their squared distance", "Galanti et al., ICLR 2022"),
    "nc2": Metric("NC2, distance to simplex", "class means against a regular simplex", PAPYAN),
    "equinorm": Metric("NC2, lengths", "how unequal the lengths of the class means are", PAPYAN),
    "equiangular": Metric("NC2, angles", "how far the cosines are from -1/(k-1)", PAPYAN),
    "nc3": Metric("NC3, distance to simplex", "classifier times class means against a simplex", PAPYAN),
    "duality": Metric("NC3, self-duality", "classifier against class means, both of norm 1", PAPYAN),
    "nc4": Metric("NC4, disagreement", "classifier against nearest class mean, by sample", PAPYAN),
    "nc5": Metric("NC5, cosine to OOD mean", "class means against out-of-distribution data", "Ammar et al., ICLR 2024"),
    "sk_defect": Metric("S_k defect", "part of the Gram that some exchange of classes changes", E_W),
    "logit_spread": Metric("logit spread", "part of the logits that varies within classes", f"{E_W}, Lemma 2"),
    "radius": Metric("logit radius R", "largest norm of centred logits", E_W),
    "risk": Metric("cross-entropy", "in nats, on these samples", E_W),
    "ew_gap": Metric("E-W gap", "cross-entropy above the least at this radius", f"{E_W}, Lemma 4"),
    "accuracy": Metric("accuracy", "of the classifier, on these samples", ""),
    "ncm_accuracy": Metric("nearest-mean accuracy", "of the nearest class mean, on these samples", ""),
}


def references(
    counts: Tensor, dim: int, num_classes: int, pi: Tensor, weights: Tensor, found: Mapping[str, Any], least: float
) -> dict[str, Reference]:
    """Chance levels and floors of what was found."""
    known = levels(counts, dim, num_classes, pi, weights)
    if found.get("risk") is not None:
        known["risk"] = Reference(math.log(num_classes), least)
        known["ew_gap"] = Reference(math.log(num_classes) - least, 0.0)
    return {name: level for name, level in known.items() if found.get(name) is not None}
