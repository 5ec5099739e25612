"""The simplex in a classifier: theory, measurement and use. Knows nothing of groups."""

from weyl.geometry._bounded import (
    BoundedSolution,
    OutputSolution,
    Restart,
    minimise_bounded,
    minimise_outputs,
    one_vs_rest_margin,
)
from weyl.geometry._chance import Reference, reference_levels
from weyl.geometry._collapse import Collapse
from weyl.geometry._measure import collapse
from weyl.geometry._metrics import METRICS, Metric
from weyl.geometry._ood import Detection, Separation, detect_ood, ood_scores, separation
from weyl.geometry._profile import Cut, LayerRow, Profile, layer_profile
from weyl.geometry._relu_margin import (
    MarginProgram,
    ShallowReLU,
    margin_family,
    relu_margin_program,
    train_shallow_relu,
)
from weyl.geometry._simplex import (
    Certificate,
    OptimalPair,
    SimplexOptimum,
    optimal_pair,
    simplex,
    simplex_optimum,
)
from weyl.geometry._statistics import CollapseStatistics
from weyl.geometry._symmetry import nearest_invariant
from weyl.geometry._three_neurons import ThreeNeurons, three_neurons
from weyl.geometry._verdict import COLLAPSED, PARTLY, Verdict, verdict

__all__ = [
    "COLLAPSED",
    "METRICS",
    "PARTLY",
    "BoundedSolution",
    "Certificate",
    "Collapse",
    "CollapseStatistics",
    "Cut",
    "Detection",
    "LayerRow",
    "MarginProgram",
    "Metric",
    "OptimalPair",
    "OutputSolution",
    "Profile",
    "Reference",
    "Restart",
    "Separation",
    "ShallowReLU",
    "SimplexOptimum",
    "ThreeNeurons",
    "Verdict",
    "collapse",
    "detect_ood",
    "layer_profile",
    "margin_family",
    "minimise_bounded",
    "minimise_outputs",
    "nearest_invariant",
    "one_vs_rest_margin",
    "ood_scores",
    "optimal_pair",
    "reference_levels",
    "relu_margin_program",
    "separation",
    "simplex",
    "simplex_optimum",
    "three_neurons",
    "train_shallow_relu",
    "verdict",
]
