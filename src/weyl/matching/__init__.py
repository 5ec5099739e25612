"""Bring one state next to another: matching modulo the symmetry group."""

from weyl.matching._activations import Activation, covered, cross_moments
from weyl.matching._match import Match, match
from weyl.matching._universe import Universe, universe

__all__ = ["Activation", "Match", "Universe", "covered", "cross_moments", "match", "universe"]
