"""One network from several: means of aligned states, what lies between them, and activations brought back."""

from __future__ import annotations

from weyl.merging._barrier import Barrier, barrier
from weyl.merging._evaluator import Evaluation, evaluator
from weyl.merging._interpolate import average, interpolate, slerp
from weyl.merging._merge import merge
from weyl.merging._partial import PartialMerge, partial_merge
from weyl.merging._refine import Refined, refine
from weyl.merging._repair import Repaired, repair, reset_batch_norm

__all__ = [
    "Barrier",
    "Evaluation",
    "PartialMerge",
    "Refined",
    "Repaired",
    "average",
    "barrier",
    "evaluator",
    "interpolate",
    "merge",
    "partial_merge",
    "refine",
    "repair",
    "reset_batch_norm",
    "slerp",
]
