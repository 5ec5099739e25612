"""Orbits of a state: stabilisers, tangents, the balanced point, conserved quantities, hidden symmetry."""

from weyl.orbits._balance import Balanced, balance
from weyl.orbits._check import GaugeCheck, TangentCheck, check_tangents
from weyl.orbits._conserved import Conserved, conserved
from weyl.orbits._fold import Folded, fold_norms
from weyl.orbits._hidden import HiddenSymmetry, compare_dimensions, hidden_symmetry
from weyl.orbits._orbit import Orbit, OrbitSize, finite_part, orbit
from weyl.orbits._tables import Atoms, Table, tables_of
from weyl.orbits._tangents import Tangent, direction, tangents
from weyl.orbits._views import Frame, frames, once

__all__ = [
    "Atoms",
    "Balanced",
    "Conserved",
    "Folded",
    "Frame",
    "GaugeCheck",
    "HiddenSymmetry",
    "Orbit",
    "OrbitSize",
    "Table",
    "Tangent",
    "TangentCheck",
    "balance",
    "check_tangents",
    "compare_dimensions",
    "conserved",
    "direction",
    "finite_part",
    "fold_norms",
    "frames",
    "hidden_symmetry",
    "once",
    "orbit",
    "tables_of",
    "tangents",
]
