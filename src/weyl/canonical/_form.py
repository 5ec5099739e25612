"""``canonicalize``: the normal form of a state, the same for all members of its orbit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weyl.actions import act, check_structure
from weyl.canonical._bases import normal_bases
from weyl.canonical._coordinates import centred, in_double
from weyl.canonical._fingerprint import exact_part, labelled, shapes_of
from weyl.canonical._labelling import Labelling, Units
from weyl.canonical._normal import normal_gauge, restricted
from weyl.errors import NotFiniteError, UsageError
from weyl.groups import Element, Gauge, GaugeKind, Kind
from weyl.orbits import finite_part
from weyl.structure import Structure

__all__ = ["Form", "canonicalize", "normal_places", "public_element", "slack_of"]

MOVES = ("permute", "sign", "scale", "mix", "translate")
# Differences that are none after scales and rotations were brought to normal: in units of rounding of the state, which
# counts as float32 at most, relative to a typical entry; and at least what the iteration of the gauge leaves.
ROUNDINGS, GAUGED = 64.0, 1e-9


@dataclass(frozen=True, eq=False)
class Form:
    """A state in normal form.

    Attributes
    ----------
    state : dict of str to Tensor
        Same names, dtypes and devices as the state that was given.
    element : Element
        ``weyl.act(element, structure, given)`` is ``state``.
    stabilizer : int
        Number of permutations with signs that leave the state as it is; after scales and rotations were brought to
        normal, up to the tolerance.
    ties : tuple of (space, copy, units)
        Units that contents alone do not tell apart, so that their order was chosen: duplicates and dead units, and
        units that symmetries exchange.
    undecided : tuple of (gauge, copy)
        Matrix groups of which the state does not single out a basis: there the form is not unique.
    exact : bool
        Whether only permutations and signs were used: then two members of one orbit agree bit for bit.
    """

    state: dict[str, Tensor]
    element: Element
    stabilizer: int
    ties: tuple[Units, ...] = ()
    undecided: tuple[tuple[str, tuple[int, ...]], ...] = ()
    exact: bool = field(default=True)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready summary; the tensors and the element are left out."""
        return {
            "stabilizer": str(self.stabilizer) if self.stabilizer.bit_length() < 10_000 else "too large to write out",
            "stabilizer_log10": _log10(self.stabilizer),
            "ties": [{"space": space, "copy": list(copy), "units": list(units)} for space, copy, units in self.ties],
            "undecided": [{"gauge": gauge, "copy": list(copy)} for gauge, copy in self.undecided],
            "exact": self.exact,
            "moves": sorted(self.element.moves),
        }

    def __repr__(self) -> str:
        how = "bit for bit" if self.exact else "up to rounding"
        return f"Form({how}, stabilizer of order {self.stabilizer}, {len(self.ties)} ties)"


def canonicalize(structure: Structure, state: Mapping[str, Tensor], *, kinds: Iterable[str] | None = None) -> Form:
    r"""Bring a state to its normal form: any two members of one orbit become equal.

    Units are put in an order that depends on contents alone. A space whose tensors have all their other axes in order
    is sorted by its rows, a row and its negative counting as one where units may be flipped; what ties is refined by
    further tensors; where no space can be first, as in a recurrence, rows are compared as multisets (colour
    refinement); what then still ties is set apart one by one, and of the states that this leads to the least is taken.
    Twins, any two of which may trade places, are counted and not tried. Signs make the first entries that they can
    positive.

    Scales, matrices and translations are first brought to their normal gauge, the state of least norm, matrices to
    the eigenvectors of their Gram matrices, and phases to the positive axis. That rounds, so entries are then compared
    up to a tolerance.

    Parameters
    ----------
    structure : Structure
        Of the model that the state belongs to.
    state : mapping of str to Tensor
        All tensors of the structure; not changed. Any dtype; scales and matrices are computed in float64.
    kinds : iterable of str, optional
        What may be used: some of ``permute``, ``sign``, ``scale``, ``mix``, ``translate``; all by default. With
        ``("permute", "sign")`` the form is exact, and what :func:`weyl.fingerprint` hashes.

    Returns
    -------
    Form

    Raises
    ------
    StructureError
        If a tensor is missing or has another shape than the structure says.
    NotFiniteError
        If an entry is NaN or infinite.
    LimitError
        If units that contents do not tell apart are too many for the search.
    UsageError
        If ``kinds`` has something else.

    Notes
    -----
    A unit of which one side is zero has no scale of least norm: what it has gets length 1. Where zeros tie several
    scales together so that no state has the least norm, the form is not unique. In float32, two units that differ by
    about the tolerance in every entry that decides may be ordered differently in two copies that were also scaled or
    mixed.

    References
    ----------
    McKay and Piperno, *Practical graph isomorphism, II*, arXiv 1301.1493 (2014), for refinement, individualisation and
    the use of automorphisms.

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> structure = weyl.discover(net, (torch.zeros(1, 4),))
    >>> form = canonicalize(structure, net.state_dict())
    >>> twin = weyl.act(structure.group.random(seed=1), structure, net.state_dict())
    >>> other = canonicalize(structure, twin)
    >>> all(torch.equal(form.state[name], other.state[name]) for name in form.state), form.stabilizer
    (True, 1)
    """
    check_structure(structure)
    if kinds is not None and not (isinstance(kinds, str) or _are_names(kinds)):
        raise UsageError(f"kinds must be names of moves, some of {', '.join(MOVES)}, got {kinds!r}")
    moves = frozenset(MOVES if kinds is None else [kinds] if isinstance(kinds, str) else kinds)
    if not moves <= set(MOVES):
        raise UsageError(f"kinds has {sorted(moves - set(MOVES))[0]!r}; known: {', '.join(MOVES)}")
    shapes, _ = shapes_of(structure, state)
    for name, tensor in state.items():
        if name in structure.axes and tensor.is_floating_point() and not _finite(tensor):
            raise NotFiniteError(f"{name!r} has NaN or infinite entries: it has no normal form")
    continuous = any(g.kind.move in moves and g.kind is not GaugeKind.SIGN for g in structure.gauges)
    if not continuous and not ("sign" in moves and structure.absorptions):
        finite = _usable(restricted(exact_part(structure), lambda g: _signs(structure, g, moves)), moves)
        found = labelled(finite, state, shapes)
        return Form(
            act(found.element, finite, dict(state)), public_element(structure, found), found.stabiliser, found.ties
        )
    return _rounded(structure, state, moves, shapes)


def _finite(tensor: Tensor) -> bool:
    # Types of one byte have no such test; float32 holds them exactly.
    return bool((tensor.float() if tensor.itemsize == 1 else tensor).isfinite().all())


def _rounded(
    structure: Structure, state: Mapping[str, Tensor], moves: frozenset[str], shapes: Mapping[str, Tensor]
) -> Form:
    """The normal form up to rounding: gauges first, in float64, and then permutations and signs up to a tolerance."""
    exact = in_double({name: state[name] for name in structure.axes})
    gauge = normal_gauge(structure, centred(structure, exact), moves)
    moved = act(gauge, structure, exact)
    places = normal_places(structure, moved, moves, shapes, slack=slack_of(state[name] for name in shapes))
    done = act(places.element, structure, moved)
    out = {name: done[name].to(tensor.dtype) if name in done else tensor for name, tensor in state.items()}
    return Form(out, places.element @ gauge, places.stabilizer, places.ties, places.undecided, exact=False)


@dataclass(frozen=True, eq=False)
class Places:
    """Where units go from a normal gauge, and how they are turned and flipped; the fields are those of `Form`."""

    element: Element
    stabilizer: int
    ties: tuple[Units, ...]
    undecided: tuple[tuple[str, tuple[int, ...]], ...]


def slack_of(tensors: Iterable[Tensor]) -> float:
    """Differences that are none once scales and rotations were brought to normal, relative to a typical entry."""
    coarsest = max((torch.finfo(t.dtype).eps for t in tensors if t.is_floating_point()), default=0.0)
    return max(ROUNDINGS * min(torch.finfo(torch.float32).eps, coarsest), GAUGED)


def normal_places(
    structure: Structure,
    state: Mapping[str, Tensor],
    kinds: Collection[str],
    shapes: Mapping[str, Tensor],
    *,
    slack: float,
) -> Places:
    """Order, turn and flip the units of a state that is in its normal gauge.

    Parameters
    ----------
    structure : Structure
        Of the model.
    state : mapping of str to Tensor
        In the normal gauge, float64 where it is floating.
    kinds : collection of str
        Moves that may be used.
    shapes : mapping of str to Tensor
        See :func:`shapes_of`.
    slack : float
        Differences that are none, relative to a typical entry of a tensor; 0 compares bit for bit.

    Raises
    ------
    LimitError
        If units that contents do not tell apart are too many for the search.
    """
    moves = frozenset(kinds)
    group = structure.group
    first = Element(group.spaces, group.identity(), group.gauges)
    undecided: tuple[tuple[str, tuple[int, ...]], ...] = ()
    if "mix" in moves and any(gauge.kind.move == "mix" for gauge in structure.gauges):
        basis, undecided = normal_bases(restricted(structure, lambda g: g.kind.move == "mix"), state, slack)
        first = Element(group.spaces, group.identity(), group.gauges, dict(basis.values.items()))
        state = act(first, structure, state)
    # Signs inside matrices and complex numbers are what bases and phases leave open.
    signs = restricted(finite_part(structure), lambda g: g.kind is GaugeKind.SIGN and _signs(structure, g, moves))
    seen = centred(structure, state)
    tolerances = {name: slack * _typical(seen[name]) for name in shapes if seen[name].is_floating_point()}
    found = labelled(_usable(signs, moves), seen, shapes, tolerances if slack else None)
    return Places(public_element(structure, found) @ first, found.stabiliser, found.ties, undecided)


def _signs(structure: Structure, gauge: Gauge, moves: frozenset[str]) -> bool:
    """Whether signs may be used: as such, or as what is left of the matrices and complex numbers that contain them."""
    return bool({"sign", _of(structure, gauge)} & moves)


def _are_names(kinds: object) -> bool:
    return isinstance(kinds, Iterable) and all(isinstance(kind, str) for kind in kinds)


def _of(structure: Structure, gauge: Gauge) -> str:
    return next(own.kind.move for own in structure.gauges if own.name == gauge.name)


def _usable(finite: Structure, moves: frozenset[str]) -> Structure:
    """The finite part with only the moves that are asked for; units of a basis that keeps the line of ones stay."""
    if "permute" in moves:
        return finite
    fixed = tuple(replace(space, kind=Kind.TRIVIAL) for space in finite.spaces)
    return replace(finite, spaces=(), indices=(*finite.indices, *fixed))


def _typical(tensor: Tensor) -> float:
    size = float(tensor.square().mean().sqrt()) if tensor.numel() else 0.0
    return size or 1.0


def public_element(structure: Structure, found: Labelling) -> Element:
    """An element of permutations and signs as one of the structure's own group, signs within matrices among them."""
    group = structure.group
    values: dict[str, Any] = {}
    for gauge in structure.gauges:
        if gauge.name in found.element.values:
            values[gauge.name] = _as(gauge, np.asarray(found.element.values[gauge.name]))
    parts = {**group.identity(), **found.element}
    return Element(group.spaces, parts, group.gauges, values)


def _as(gauge: Gauge, signs: Any) -> Any:
    if gauge.kind in (GaugeKind.LINEAR, GaugeKind.ORTHOGONAL):
        return signs[..., None] * np.eye(signs.shape[-1])
    return signs.astype(np.complex128) if gauge.kind is GaugeKind.COMPLEX else signs


def _log10(number: int) -> float:
    digits = max(0, number.bit_length() - 1000)
    return float(np.log10(float(number >> digits)) + digits * np.log10(2))
