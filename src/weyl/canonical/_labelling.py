"""A labelling of units, and signs, that two states of one orbit agree on: refinement, twins, and a search."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from weyl.canonical._colouring import Board, Colouring, ranked
from weyl.canonical._odd import idle_signs, settle_signs
from weyl.canonical._sights import Ints, Sight
from weyl.errors import LimitError
from weyl.groups import Element, GaugeKind, Part
from weyl.orbits import Atoms, tables_of
from weyl.structure import Structure

__all__ = ["Labelling", "label"]

# Integers that differ are apart, where others are compared up to a tolerance.
WHOLE = 0.5
# A space, a copy of it, and units.
Units = tuple[str, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Labelling:
    """Where units go, and which are flipped.

    Attributes
    ----------
    element : Element
        Of the structure that was labelled.
    stabiliser : int
        Number of elements that leave the state as it is.
    ties : tuple of (space, copy, units)
        Units that contents alone did not tell apart, so that their order was chosen.
    """

    element: Element
    stabiliser: int
    ties: tuple[Units, ...]


def label(
    structure: Structure,
    read: Callable[[str], Tensor],
    shapes: Mapping[str, Tensor],
    *,
    tolerances: Mapping[str, float] | None = None,
    counted: bool = True,
    budget: int = 2000,
) -> Labelling:
    """Label the units of a state.

    Parameters
    ----------
    structure : Structure
        Of which permutations and signs are used; see :func:`weyl.orbits.finite_part`.
    read : callable
        Gives a tensor by name; called as often as one is needed, and nothing is kept of it.
    shapes : mapping of str to Tensor
        The state without what it need not hold: tensors on the meta device will do. Of names that share a tensor, one.
    tolerances : mapping of str to float, optional
        By tensor, differences that are none. Without them entries are compared bit for bit.
    counted : bool
        Whether the order of the stabiliser is wanted; it takes longer where signs change nothing.
    budget : int
        Refinements before the search for an order of what is tied gives up.

    Returns
    -------
    Labelling
        The same, but for a relabelling of units, for two states of one orbit.

    Raises
    ------
    LimitError
        If the budget is spent.
    NotFiniteError
        If an entry that was read is NaN or infinite.
    """
    atoms = Atoms(structure)
    sights = [
        Sight(table, floating=shapes[table.name].is_floating_point()) for table in tables_of(structure, shapes, atoms)
    ]
    board = Board(atoms, sights, read, tolerances or {})
    tree = _Tree(board, budget)
    root = Colouring(board)
    node = tree.grown(root)
    if node.colouring.unsettled:
        tree.watch(node.colouring)
    found = tree.explore(node)
    leaf, stabiliser = found.best, found.stabiliser
    if leaf.free and counted:
        stabiliser >>= min(leaf.free, idle_signs(board))
    ties = _listed(board, tree.ties)
    return Labelling(_element(structure, atoms, leaf.colouring), stabiliser, ties)


@dataclass(eq=False)
class _Node:
    colouring: Colouring
    factor: int


@dataclass(eq=False)
class _Leaf:
    colouring: Colouring
    free: int
    key: Any = None


@dataclass(eq=False)
class _Found:
    best: _Leaf
    leaves: list[Any]
    stabiliser: int


@dataclass(eq=False)
class _Tree:
    """Choices among units that contents do not tell apart, and the least of the states that they lead to."""

    board: Board
    budget: int
    ties: list[tuple[str, Ints]] = field(default_factory=list)
    watched: list[Sight] = field(default_factory=list)

    def watch(self, colouring: Colouring) -> None:
        """Let leaves be compared by the tensors that hold units that are tied, or signs that are not known."""
        loose = set(colouring.unsettled)
        self.watched = [
            sight
            for sight in self.board.sights
            if loose & set(sight.spaces.values()) or any((colouring.signs[s] == 0).any() for s in sight.signs)
        ]
        for space in loose:
            numbers = self.board.atoms.units[space]
            self.ties.append((space, np.where(colouring.tied(space), colouring.classes[numbers], -1)))

    def grown(self, colouring: Colouring) -> _Node:
        """Refine, and order twins, until nothing more is told apart."""
        self.budget -= 1
        if self.budget < 0:
            raise LimitError("the units that contents do not tell apart are too many for the search; raise the budget")
        colouring.refine()
        factor = 1
        while True:
            for space in colouring.unsettled:
                more = self._order_twins(colouring, space)
                if more > 1:
                    factor *= more
                    colouring.refine()
                    break
            else:
                return _Node(colouring, factor)

    def explore(self, node: _Node) -> _Found:
        """The least leaf below a node, what all leaves are, and how many elements fix each."""
        if not node.colouring.unsettled:
            leaf = self.leaf(node.colouring)
            return _Found(leaf, [leaf.key], node.factor << leaf.free)
        best: _Leaf | None = None
        leaves: list[list[Any]] = []
        same, inner = 1, 1
        for number, child in enumerate(self._children(node)):
            if number:
                first = self._first(_Node(child.colouring.copy(), child.factor))
                home = next((at for at, known in enumerate(leaves) if self._known(first.key, known)), None)
                if home is not None:
                    same += home == 0
                    continue
            found = self.explore(child)
            leaves.append(found.leaves)
            if number == 0:
                inner = found.stabiliser
            if best is None or self._less(found.best.key, best.key):
                best = found.best
        assert best is not None
        return _Found(best, [key for some in leaves for key in some], node.factor * same * inner)

    def _children(self, node: _Node) -> list[_Node]:
        space, units = self._target(node.colouring)
        children = []
        for unit in units.tolist():
            colouring = node.colouring.copy()
            numbers = self.board.atoms.units[space].reshape(-1)
            colouring.split(space, (numbers == unit).astype(np.int64) * -1 + 1)
            children.append(self.grown(colouring))
        return children

    def _first(self, node: _Node) -> _Leaf:
        """Any one leaf below a node."""
        while node.colouring.unsettled:
            space, units = self._target(node.colouring)
            numbers = self.board.atoms.units[space].reshape(-1)
            node.colouring.split(space, (numbers != int(units[0])).astype(np.int64))
            node = self.grown(node.colouring)
        return self.leaf(node.colouring)

    def _target(self, colouring: Colouring) -> tuple[str, Ints]:
        """The fewest units that share a class in a copy, of the least class."""
        best: tuple[int, str, int] | None = None
        for space in colouring.unsettled:
            classes = colouring.classes[self.board.atoms.units[space]]
            for copy in np.ndindex(*classes.shape[:-1]):
                values, counts = np.unique(classes[copy], return_counts=True)
                if (counts > 1).any():
                    size = int(counts[counts > 1].min())
                    least = int(values[counts == size][0])
                    # Copies have no order of their own: of those with cells of one size the least class decides.
                    if best is None or size < best[0] or ((size, space) == best[:2] and least < best[2]):
                        best = (size, space, least)
        assert best is not None
        size, space, least = best
        # All copies that look like this one are as good: their units are tried as well.
        numbers = self.board.atoms.units[space]
        same = colouring.classes[numbers] == least
        return space, np.asarray(numbers[same & (same.sum(axis=-1, keepdims=True) == size)])

    def leaf(self, colouring: Colouring) -> _Leaf:
        """Signs for units that are told apart, and what to compare the state by that they lead to."""
        done = colouring.copy()
        free = settle_signs(self.board, done)
        return _Leaf(done, free, self._key(done) if self.watched else None)

    def _key(self, colouring: Colouring) -> Any:
        digest = hashlib.sha256()
        kept = []
        for sight in self.watched:
            values, _ = sight.equations(self.board.read(sight.name), {}, colouring.classes, colouring.signs, 0)
            if self.board.tolerances:
                kept.append(values.reshape(-1) / (self.board.tolerances.get(sight.name) or WHOLE))
            else:
                digest.update(np.ascontiguousarray(values + 0.0 if values.dtype.kind == "f" else values).tobytes())
        return np.concatenate(kept) if kept else digest.digest()

    def _known(self, key: Any, leaves: list[Any]) -> bool:
        if isinstance(key, bytes):
            return key in leaves
        return any(bool((np.abs(key - other) <= 1).all()) for other in leaves)

    def _less(self, key: Any, other: Any) -> bool:
        if isinstance(key, bytes):
            return bool(key < other)
        far = np.abs(key - other) > 1
        return bool(far.any()) and bool(key[far.argmax()] < other[far.argmax()])

    def _order_twins(self, colouring: Colouring, space: str) -> int:
        """Order units of which any two may trade places, all else fixed; by how many orders that could be done."""
        rows = _Rows.of(self.board, colouring, space)
        if rows is None:
            return 1
        ranks, copies = rows
        together = np.stack([copies, ranks])
        _, inverse, counts = np.unique(together, axis=1, return_inverse=True, return_counts=True)
        inverse = inverse.reshape(-1)
        if (counts == 1).all():
            return 1
        place = np.zeros(len(ranks), dtype=np.int64)
        seen: dict[int, int] = {}
        for at, one in enumerate(inverse.tolist()):
            place[at] = seen.get(one, 0)
            seen[one] = place[at] + 1
        tied = np.flatnonzero(colouring.tied(space).reshape(-1))
        full = np.full(colouring.tied(space).size, -1, dtype=np.int64)
        full[tied] = np.where(counts[inverse] > 1, inverse, -1)
        self.ties.append((space, full.reshape(self.board.atoms.shapes[space])))
        spread = np.zeros(full.size, dtype=np.int64)
        spread[tied] = place
        colouring.split(space, spread)
        return math.prod(math.factorial(int(count)) for count in counts)


class _Rows:
    """All that a state says of the units of a space, the units of other spaces taken by their numbers."""

    @staticmethod
    def of(board: Board, colouring: Colouring, space: str) -> tuple[Ints, Ints] | None:
        """Ranks and copies of the units that are tied; None where this does not show whether they are twins."""
        atoms = board.atoms
        inner = [name for name, other in atoms.spaces.items() if space in other.within]
        places = board.space_places[space]
        if any(not colouring.settled(name) for name in inner) or len({n for n, _ in places}) < len(places):
            return None
        classes = colouring.classes.copy()
        for name in colouring.unsettled:
            if name != space:
                classes[atoms.units[name]] = np.arange(atoms.units[name].size).reshape(atoms.shapes[name])
        tied = colouring.tied(space).reshape(-1)
        first = int(atoms.units[space].reshape(-1)[0])
        ranks: Ints = colouring.classes[atoms.units[space]].reshape(-1)[tied]
        odd: dict[int, list[tuple[NDArray[Any], float]]] = {}
        for number, axis in places:
            sight = board.sights[number]
            grid = sight.grid(sight.front(axis))
            targets = sight.at(sight.units[axis], grid).reshape(-1) - first
            chosen = {a: index[tied[targets]] for a, index in grid.items()}
            order = np.argsort(targets[tied[targets]])
            signs = colouring.signs.copy()
            gauges = _own_unknown(board, sight, sight.front(axis), signs)
            if len(gauges) > 1:
                return None
            # Signs of other units are taken as they stand.
            for numbers in sight.signs:
                if not sight.reach(numbers) <= set(sight.front(axis)):
                    signs[numbers[signs[numbers] == 0]] = 1
            values = sight.rows(board.read(sight.name), chosen, classes, signs, frozenset(), 0).values[order]
            tolerance = board.tolerances.get(sight.name, 0.0)
            if gauges:
                odd.setdefault(gauges[0], []).append((values, tolerance))
            else:
                ranks = ranked(ranks, values, tolerance)
        for several in odd.values():
            values = np.concatenate([v / (tolerance or 1.0) for v, tolerance in several], axis=1)
            clear = np.abs(values) > (1.0 if several[0][1] else 0.0)
            lead = np.sign(values[np.arange(len(values)), clear.argmax(axis=1)]) * clear.any(axis=1)
            ranks = ranked(ranks, values * np.where(lead == 0, 1, lead)[:, None], 1.0 if several[0][1] else 0.0)
        return ranks, np.flatnonzero(tied) // atoms.shapes[space][-1]


def _own_unknown(board: Board, sight: Sight, front: tuple[int, ...], signs: NDArray[np.int8]) -> list[int]:
    """The gauges, by number, with unknown signs on the rows themselves."""
    found = []
    starts = [int(numbers.reshape(-1)[0]) for numbers in board.atoms.signs.values()]
    for numbers in sight.signs:
        unknown = numbers[(signs[numbers] == 0)]
        if sight.reach(numbers) <= set(front) and len(unknown):
            found.append(sum(start <= int(unknown.max()) for start in starts))
            if sight.reach(numbers) != set(front):
                found.append(-1)
    return found


def _element(structure: Structure, atoms: Atoms, colouring: Colouring) -> Element:
    """The element that puts units in the order of their classes, and multiplies them by their signs."""
    old: dict[str, Ints] = {}
    spaces = structure.group.spaces
    for space in spaces:
        shape = atoms.shapes[space.name]
        order = np.argsort(colouring.classes[atoms.units[space.name]], axis=-1, kind="stable")
        where = _outer(space.name, atoms, old)
        old[space.name] = order[where] if space.permuted else np.broadcast_to(np.arange(shape[-1]), shape)
    parts = {space.name: Part(np.ascontiguousarray(old[space.name])) for space in spaces if space.permuted}
    values = {}
    for gauge in structure.gauges:
        if gauge.kind is not GaugeKind.SIGN:
            continue
        signs = colouring.signs[atoms.signs[gauge.name]]
        if gauge.space:
            where = _outer(gauge.space, atoms, old)
            signs = signs[where]
            signs = np.take_along_axis(signs, old[gauge.space], axis=-1)
        values[gauge.name] = signs.astype(np.int8)
    return Element(spaces, parts, structure.gauges, values)


def _outer(name: str, atoms: Atoms, old: Mapping[str, Ints]) -> tuple[Any, ...]:
    """Old indices of the outer spaces, for every new setting of them."""
    within = atoms.spaces[name].within
    if not within:
        return ()
    new = np.indices([atoms.spaces[outer].size for outer in within])
    return tuple(
        old[outer][(*(new[within.index(further)] for further in atoms.spaces[outer].within), new[at])]
        for at, outer in enumerate(within)
    )


def _listed(board: Board, ties: list[tuple[str, Ints]]) -> tuple[Units, ...]:
    """Units that share a number, by space and copy."""
    found: dict[Units, None] = {}
    for space, numbers in ties:
        for copy in np.ndindex(*numbers.shape[:-1]):
            for one in np.unique(numbers[copy]):
                units = np.flatnonzero(numbers[copy] == one)
                if one >= 0 and len(units) > 1:
                    found[space, copy, tuple(units.tolist())] = None
    return tuple(found)
