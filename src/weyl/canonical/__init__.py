"""Normal gauges and invariants: what can be said of a state without choosing a labelling of its units."""

from weyl.canonical._normal import normal_gauge, restricted
from weyl.canonical._signatures import block_view, signatures

__all__ = ["block_view", "normal_gauge", "restricted", "signatures"]
