"""Proof of a symmetry on the model itself, by a check that is itself checked."""

from weyl.proof._elements import exact_element
from weyl.proof._result import Control, KindProof, Proof
from weyl.proof._same import Agreement, same_outputs
from weyl.proof._verify import verify

__all__ = ["Agreement", "Control", "KindProof", "Proof", "exact_element", "same_outputs", "verify"]
