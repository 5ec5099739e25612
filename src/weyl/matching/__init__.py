"""Bring one state next to another: matching modulo the symmetry group."""

from weyl.matching._activations import Activation, covered, cross_moments
from weyl.matching._frames import distance_over
from weyl.matching._match import Job, Match, match, recognise
from weyl.matching._universe import Universe, universe

__all__ = [
    "Activation",
    "Job",
    "Match",
    "Universe",
    "covered",
    "cross_moments",
    "distance_over",
    "match",
    "recognise",
    "universe",
]
