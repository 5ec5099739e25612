"""Orbits: the exact stabiliser of a state, and how many parameter vectors are equivalent to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weyl._memory import tensor_identity
from weyl.actions import act
from weyl.errors import NotFiniteError, StructureError, UsageError
from weyl.groups import GaugeKind, Order
from weyl.orbits._continuous import continuous_rank, idle_units
from weyl.orbits._proportional import proportional_units
from weyl.orbits._search import Search
from weyl.orbits._signs import Signs
from weyl.orbits._tables import Atoms, tables_of
from weyl.structure import Structure, Weight, block_positions

__all__ = ["Orbit", "OrbitSize", "finite_part", "orbit"]

# A space or gauge, a copy, and units of it.
Units = tuple[str, tuple[int, ...], tuple[int, ...]]

SHOWN = 6


@dataclass(frozen=True)
class OrbitSize:
    """Order of a finite group over that of a subgroup, exactly.

    Examples
    --------
    >>> size = OrbitSize(Order.of({4: 1}), 2)
    >>> int(size), str(size), round(size.log10, 4)
    (12, '12', 1.0792)
    """

    whole: Order
    part: int

    @property
    def log10(self) -> float:
        """Base-10 logarithm."""
        return self.whole.log10 - math.log10(self.part)

    def __int__(self) -> int:
        return int(self.whole) // self.part

    def __index__(self) -> int:
        return int(self)

    def __str__(self) -> str:
        """Scientific form, exact below 10^15."""
        if self.log10 < 15:
            return str(int(self))
        exponent = math.floor(self.log10)
        return f"{10 ** (self.log10 - exponent):.2f}e{exponent}"


@dataclass(frozen=True)
class Orbit:
    r"""What a symmetry group does to one state.

    Parameters
    ----------
    group_order : Order
        Order of the finite part: permutations and sign gauges. Signs inside matrices and complex numbers belong to
        the continuous part here, and signs that do nothing to any state are not counted.
    stabiliser_order : int
        Number of its elements that leave the state as it is, bit for bit; a divisor of it if not ``exact``.
    size : OrbitSize
        Number of distinct parameter vectors that the finite part makes of the state, :math:`|G| / |Stab|`; an upper
        bound if not ``exact``.
    dimension : int
        Dimension of the orbit of the continuous part; an upper bound if not ``dimension_exact``.
    group_dimension : int
        Dimension of the continuous part of the group.
    duplicates : tuple of (space, copy, units)
        Units of which any two may trade places, with some signs, all else fixed.
    dead : tuple of (gauge, copy, units)
        Units whose scale does nothing: all that it multiplies is zero.
    sign_fixed : tuple of (gauge, copy, units)
        Units whose flip does nothing.
    proportional : tuple of (space, copy, units)
        Units that scales (with signs, where there are) make equal, up to the tolerance; duplicates among them.
    exact : bool
        Whether the search for the stabiliser came to its end.
    dimension_exact : bool
        Whether ``dimension`` is the dimension, up to rounding in ranks.
    """

    group_order: Order
    stabiliser_order: int
    size: OrbitSize
    dimension: int
    group_dimension: int
    duplicates: tuple[Units, ...] = ()
    dead: tuple[Units, ...] = ()
    sign_fixed: tuple[Units, ...] = ()
    proportional: tuple[Units, ...] = ()
    exact: bool = True
    dimension_exact: bool = True

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; numbers that may be huge are text, with their logarithms."""
        return {
            "group_order": self.group_order.to_dict(),
            "stabiliser_order": _digits(self.stabiliser_order),
            "stabiliser_order_log10": math.log10(self.stabiliser_order),
            "size": str(self.size),
            "size_log10": self.size.log10,
            "dimension": self.dimension,
            "group_dimension": self.group_dimension,
            **{
                name: [{"of": of, "copy": list(copy), "units": list(units)} for of, copy, units in getattr(self, name)]
                for name in ("duplicates", "dead", "sign_fixed", "proportional")
            },
            "exact": self.exact,
            "dimension_exact": self.dimension_exact,
        }

    def __repr__(self) -> str:
        most, least = ("", "") if self.exact else ("at most ", "at least ")
        bound = "" if self.dimension_exact else "at most "
        lines = [
            f"Orbit: {most}{self.size} distinct of {self.group_order} equivalent parameter vectors "
            f"(stabiliser {least}{_short(self.stabiliser_order)}), dimension {bound}{self.dimension} of "
            f"{self.group_dimension}"
        ]
        for name in ("duplicates", "dead", "sign_fixed", "proportional"):
            found: tuple[Units, ...] = getattr(self, name)
            if found:
                shown = "; ".join(map(_listed, found[:SHOWN]))
                more = f"; … {len(found) - SHOWN} more" if len(found) > SHOWN else ""
                lines.append(f"  {name.replace('_', ' ')}: {shown}{more}")
        return "\n".join(lines)


def _listed(found: Units) -> str:
    """Units for people: ``fc1: 0, 1``, ``heads within [2]: 0, 1``."""
    of, copy, units = found
    within = f" within {list(copy)}" if copy else ""
    more = f", … {len(units) - SHOWN} more" if len(units) > SHOWN else ""
    return f"{of}{within}: {', '.join(map(str, units[:SHOWN]))}{more}"


def orbit(structure: Structure, state: Mapping[str, Tensor], *, tolerance: float = 1e-9, budget: int = 5000) -> Orbit:
    r"""Count the distinct parameter vectors that are equivalent to a state, and find what holds it fixed.

    The finite part of the group, permutations and signs (also those inside matrix groups), has :math:`|G|` elements,
    but moves a state to only :math:`|G| / |Stab|` places: m duplicates divide by m!, a unit fixed by its flip by 2, and
    units of several spaces
    that can only trade places together by what they generate.

    Parameters
    ----------
    structure : Structure
        Of the model that the state belongs to.
    state : mapping of str to tensor
        All tensors of the structure; any dtype, any device. Entries are compared exactly, as they are; only -0.0
        equals 0.0.
    tolerance : float
        For ``proportional``: how far normalised units may be apart, relative to their length.
    budget : int
        Refinements and checks before the search for the stabiliser gives up and returns a bound, with
        ``exact=False``.

    Returns
    -------
    Orbit
        Integer shifts are left out. For sigmoids, whose flips move constants into biases, biases are compared as if
        that had been done without rounding.

    Raises
    ------
    StructureError
        If a tensor is missing or has another shape than the structure says.
    NotFiniteError
        If an entry is NaN or infinite.
    UsageError
        If the tolerance is not positive, or the budget negative.

    Notes
    -----
    Units are coloured by sorted contents and neighbours until nothing splits (colour refinement); where colours tie,
    one unit is set apart at a time, and the order of the stabiliser is the product of the sizes of the orbits of
    these units (orbit-stabiliser). Each automorphism that is counted has been checked on the tensors. Signs are
    linear equations over GF(2), one for every entry that is not zero.

    References
    ----------
    McKay and Piperno, *Practical graph isomorphism, II*, arXiv 1301.1493 (2014), for refinement and individualisation.
    Chen, Lu and Hecht-Nielsen, *On the geometry of feedforward neural network error surfaces*, Neural Computation 5
    (1993), for the group of tanh networks.

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    >>> structure = weyl.discover(net, (torch.zeros(1, 2),))
    >>> state = net.state_dict()
    >>> orbit(structure, state)
    Orbit: 48 distinct of 48 equivalent parameter vectors (stabiliser 1), dimension 0 of 0
    >>> for name in ("0.weight", "0.bias"):
    ...     state[name][1] = state[name][0]
    >>> state["2.weight"][:, 1] = state["2.weight"][:, 0]
    >>> orbit(structure, state)
    Orbit: 24 distinct of 48 equivalent parameter vectors (stabiliser 2), dimension 0 of 0
      duplicates: 0: 0, 1
    """
    if not tolerance > 0 or isinstance(budget, bool) or not isinstance(budget, int) or budget < 0:
        raise UsageError(f"tolerance must be positive and budget a whole number, got {tolerance!r} and {budget!r}")
    _check(structure, state)
    known = {name: tensor for name, tensor in state.items() if name in structure.axes}
    finite = finite_part(structure)
    atoms = Atoms(finite)
    arrays = {name: _array(name, tensor) for name, tensor in known.items()}
    arrays.update(_unabsorbed(structure, known, arrays))
    tables = tables_of(finite, known, atoms)
    nonzero = [(table.rows(arrays[table.name]) != 0).any(axis=-1) for table in tables]
    signs = Signs(tables, nonzero, atoms.sign_count)
    everywhere = Signs(tables, [np.ones(table.shape, dtype=bool) for table in tables], atoms.sign_count)
    search = Search(finite, arrays, atoms, tables, signs, budget)
    order = structure.group.permutation_order * Order.of({}, {2: atoms.sign_count - 1 - everywhere.freedom})
    stabiliser = search.order << (signs.freedom - everywhere.freedom)
    dimension, dimension_exact = continuous_rank(structure, known, Atoms(structure))
    return Orbit(
        group_order=order,
        stabiliser_order=stabiliser,
        size=OrbitSize(order, stabiliser),
        dimension=dimension,
        group_dimension=structure.group.dimension,
        duplicates=tuple(search.twins),
        dead=tuple(_idle(structure, known, GaugeKind.SCALE)),
        sign_fixed=tuple(_idle(structure, known, GaugeKind.SIGN)),
        proportional=proportional_units(structure, arrays, atoms, tables, tolerance),
        exact=search.exact,
        dimension_exact=dimension_exact,
    )


def finite_part(structure: Structure) -> Structure:
    """The same structure with signs in place of the matrices, and complex numbers, that contain them.

    Parameters
    ----------
    structure : Structure
        Its own signs, scales and translations stay.
    """
    weights = {name: dict(tensors) for name, tensors in structure.weights.items()}
    gauges = []
    for gauge in structure.gauges:
        if gauge.kind in (GaugeKind.LINEAR, GaugeKind.ORTHOGONAL, GaugeKind.COMPLEX):
            gauge = replace(gauge, kind=GaugeKind.SIGN)
            for tensor, several in weights[gauge.name].items():
                weights[gauge.name][tensor] = tuple(half for weight in several for half in _halves(weight))
        gauges.append(gauge)
    return replace(structure, gauges=tuple(gauges), weights=weights, overlap=(0, 0))


def _halves(weight: Weight) -> Iterator[Weight]:
    """The block of a weight, and for pairs that of their imaginary parts."""
    yield replace(weight, partner=0)
    if weight.partner:
        moved = {d: replace(b, base=b.base + weight.partner) if d == weight.dim else b for d, b in weight.blocks}
        yield replace(weight, blocks=tuple(moved.items()), partner=0)


def _check(structure: Structure, state: Mapping[str, Tensor]) -> None:
    act(structure.group.identity(), structure, state)
    missing = [name for name in structure.axes if name not in state]
    if missing:
        raise StructureError(f"the state has no tensor {missing[0]!r}: an orbit needs the whole state dict")


def _array(name: str, tensor: Tensor) -> NDArray[Any]:
    """The entries as float64, complex128 or int64, without loss."""
    if not bool(torch.isfinite(tensor).all()):
        raise NotFiniteError(f"{name!r} has entries that are not finite: its orbit cannot be counted")
    whole = not (tensor.is_floating_point() or tensor.is_complex())
    dtype = torch.int64 if whole else torch.complex128 if tensor.is_complex() else torch.float64
    return tensor.detach().to(device="cpu", dtype=dtype).contiguous().numpy()


def _unabsorbed(
    structure: Structure, state: Mapping[str, Tensor], arrays: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[np.float64]]:
    """Biases that take up constants of flips, as signed ranks of what no flip changes.

    With ``sigmoid(x) = 1/2 + tanh(x / 2) / 2``, twice the bias plus the constants times the weights it is read with
    is such a number; it is compared exactly.
    """
    terms: dict[str, list[list[float]]] = {}
    done: set[tuple[object, ...]] = set()
    for gauge, absorptions in structure.absorptions.items():
        for a in absorptions:
            once = (tensor_identity(state[a.bias]), tensor_identity(state[a.weight]), gauge, a.dim, a.block)
            target = terms.setdefault(a.bias, [[2 * float(value)] for value in arrays[a.bias]])
            if (a.bias, *once) in done:
                continue
            done.add((a.bias, *once))
            read = np.take(arrays[a.weight], block_positions(a.block), axis=a.dim)
            for row, entries in zip(target, read.reshape(len(target), -1), strict=True):
                row.extend((a.constant * entries).tolist())
    return {name: _ranks([_exact_sum(row) for row in rows]) for name, rows in terms.items()}


def _exact_sum(terms: list[float]) -> tuple[float, ...]:
    """The sum without rounding: floats that add up to it, each the rounding of what those before leave."""
    parts: list[float] = []
    while rest := math.fsum([*terms, *(-part for part in parts)]):
        parts.append(rest)
    return tuple(parts)


def _ranks(sums: list[tuple[float, ...]]) -> NDArray[np.float64]:
    """Ranks of absolute values with the signs; 0 for 0."""
    sizes = [tuple(-part for part in total) if total and total[0] < 0 else total for total in sums]
    rank = {size: at for at, size in enumerate(sorted({(), *sizes}))}
    return np.array(
        [math.copysign(rank[size], total[0]) if total else 0.0 for size, total in zip(sizes, sums, strict=True)]
    )


def _idle(structure: Structure, state: Mapping[str, Tensor], kind: GaugeKind) -> Iterator[Units]:
    """For every gauge of a kind, and every copy, the units to which it does nothing."""
    for gauge in structure.gauges:
        if gauge.kind is kind and gauge.space:
            idle = idle_units(structure, state, gauge)
            for copy in np.ndindex(*idle.shape[:-1]):
                units = np.flatnonzero(idle[copy])
                if len(units):
                    yield gauge.name, copy, tuple(units.tolist())


def _short(number: int) -> str:
    """A number in scientific form, exact below 10^15."""
    return str(Order.of({}, {number: 1}))


def _digits(number: int) -> str:
    """All digits of a number that has fewer than 4000, else its scientific form."""
    return str(number) if number < 10**4000 else _short(number)
