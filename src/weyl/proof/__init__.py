"""Proof of a symmetry on the model itself, by a check that is itself checked."""

from weyl.proof._verify import Control, Proof, verify

__all__ = ["Control", "Proof", "verify"]
