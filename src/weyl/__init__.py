"""weyl: the symmetries of neural networks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from weyl._version import __version__

if TYPE_CHECKING:
    from weyl.actions import act as act
    from weyl.actions import act_optimizer as act_optimizer
    from weyl.actions import shift_logits as shift_logits
    from weyl.canonical import Form as Form
    from weyl.canonical import canonicalize as canonicalize
    from weyl.canonical import fingerprint as fingerprint
    from weyl.canonical import sketch as sketch
    from weyl.errors import CaptureError as CaptureError
    from weyl.errors import InputError as InputError
    from weyl.errors import LimitError as LimitError
    from weyl.errors import MismatchError as MismatchError
    from weyl.errors import MissingExtraError as MissingExtraError
    from weyl.errors import ModelSpecError as ModelSpecError
    from weyl.errors import NotFiniteError as NotFiniteError
    from weyl.errors import OpaqueError as OpaqueError
    from weyl.errors import StructureError as StructureError
    from weyl.errors import UsageError as UsageError
    from weyl.errors import WeylError as WeylError
    from weyl.geometry import Collapse as Collapse
    from weyl.geometry import CollapseStatistics as CollapseStatistics
    from weyl.geometry import collapse as collapse
    from weyl.geometry import layer_profile as layer_profile
    from weyl.geometry import optimal_pair as optimal_pair
    from weyl.geometry import simplex as simplex
    from weyl.geometry import simplex_optimum as simplex_optimum
    from weyl.groups import Element as Element
    from weyl.groups import ExpansionCounts as ExpansionCounts
    from weyl.groups import Gauge as Gauge
    from weyl.groups import GaugeKind as GaugeKind
    from weyl.groups import Group as Group
    from weyl.groups import Kind as Kind
    from weyl.groups import Order as Order
    from weyl.groups import Space as Space
    from weyl.groups import convolutional_order as convolutional_order
    from weyl.groups import expansion_counts as expansion_counts
    from weyl.groups import feedforward_order as feedforward_order
    from weyl.identity import Comparison as Comparison
    from weyl.identity import compare as compare
    from weyl.landscape import functional_dimension as functional_dimension
    from weyl.matching import Match as Match
    from weyl.matching import Universe as Universe
    from weyl.matching import match as match
    from weyl.matching import universe as universe
    from weyl.merging import Barrier as Barrier
    from weyl.merging import barrier as barrier
    from weyl.merging import evaluator as evaluator
    from weyl.merging import merge as merge
    from weyl.merging import partial_merge as partial_merge
    from weyl.merging import refine as refine
    from weyl.orbits import Balanced as Balanced
    from weyl.orbits import Orbit as Orbit
    from weyl.orbits import Tangent as Tangent
    from weyl.orbits import balance as balance
    from weyl.orbits import check_tangents as check_tangents
    from weyl.orbits import conserved as conserved
    from weyl.orbits import fold_norms as fold_norms
    from weyl.orbits import hidden_symmetry as hidden_symmetry
    from weyl.orbits import orbit as orbit
    from weyl.orbits import tangents as tangents
    from weyl.proof import Proof as Proof
    from weyl.proof import verify as verify
    from weyl.structure import Opaque as Opaque
    from weyl.structure import Structure as Structure
    from weyl.trace import discover as discover

# Public name to the room that defines it. Rooms are imported on first use, so that `weyl --help` needs no torch.
_HOMES = {
    "Balanced": "orbits",
    "Barrier": "merging",
    "CaptureError": "errors",
    "Collapse": "geometry",
    "CollapseStatistics": "geometry",
    "Comparison": "identity",
    "Element": "groups",
    "ExpansionCounts": "groups",
    "Form": "canonical",
    "Gauge": "groups",
    "GaugeKind": "groups",
    "Group": "groups",
    "InputError": "errors",
    "Kind": "groups",
    "LimitError": "errors",
    "Match": "matching",
    "MismatchError": "errors",
    "MissingExtraError": "errors",
    "ModelSpecError": "errors",
    "NotFiniteError": "errors",
    "Opaque": "structure",
    "OpaqueError": "errors",
    "Orbit": "orbits",
    "Order": "groups",
    "Proof": "proof",
    "Space": "groups",
    "Structure": "structure",
    "StructureError": "errors",
    "Tangent": "orbits",
    "Universe": "matching",
    "UsageError": "errors",
    "WeylError": "errors",
    "act": "actions",
    "act_optimizer": "actions",
    "balance": "orbits",
    "barrier": "merging",
    "canonicalize": "canonical",
    "check_tangents": "orbits",
    "collapse": "geometry",
    "compare": "identity",
    "conserved": "orbits",
    "convolutional_order": "groups",
    "discover": "trace",
    "evaluator": "merging",
    "expansion_counts": "groups",
    "feedforward_order": "groups",
    "fingerprint": "canonical",
    "fold_norms": "orbits",
    "functional_dimension": "landscape",
    "hidden_symmetry": "orbits",
    "layer_profile": "geometry",
    "match": "matching",
    "merge": "merging",
    "optimal_pair": "geometry",
    "orbit": "orbits",
    "partial_merge": "merging",
    "refine": "merging",
    "shift_logits": "actions",
    "simplex": "geometry",
    "simplex_optimum": "geometry",
    "sketch": "canonical",
    "tangents": "orbits",
    "universe": "matching",
    "verify": "proof",
}
# Rooms that are named in full: ``weyl.nn.SimplexHead``.
_ROOMS = ("callbacks", "canonical", "geometry", "identity", "landscape", "matching", "merging", "nn", "orbits")

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"weyl.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'weyl' has no attribute {name!r}")
    return getattr(importlib.import_module(f"weyl.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS])
