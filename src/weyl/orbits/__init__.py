"""Orbits of a state: stabilisers, tangents, the balanced point, conserved quantities, hidden symmetry."""

from weyl.orbits._balance import Balanced, balance
from weyl.orbits._check import GaugeCheck, TangentCheck, check_tangents
from weyl.orbits._conserved import Conserved, conserved
from weyl.orbits._fold import Folded, fold_norms
from weyl.orbits._hidden import HiddenSymmetry, compare_dimensions, hidden_symmetry
from weyl.orbits._orbit import Orbit, OrbitSize, orbit
from weyl.orbits._tangents import Tangent, direction, tangents
from weyl.orbits._views import Frame, frames

__all__ = [
    "Balanced",
    "Conserved",
    "Folded",
    "Frame",
    "GaugeCheck",
    "HiddenSymmetry",
    "Orbit",
    "OrbitSize",
    "Tangent",
    "TangentCheck",
    "balance",
    "check_tangents",
    "compare_dimensions",
    "conserved",
    "direction",
    "fold_norms",
    "frames",
    "hidden_symmetry",
    "orbit",
    "tangents",
]
