"""States in their normal gauges, and the way back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from weyl.actions import act, check_state
from weyl.canonical import COUNTER, centred, in_double, normal_gauge
from weyl.errors import MismatchError, NotFiniteError, StructureError
from weyl.groups import Element, GaugeKind
from weyl.structure import Structure

__all__ = ["Frames", "check_pair", "distance", "distance_over"]

State = Mapping[str, Tensor]

# Names of a difference that an error shows.
SHOWN = 5
# Largest difference of copies, relative to the entries of a tensor, in units of rounding of the states' dtype:
# where units only trade places and change signs, where numbers are also multiplied or added, and where matrices mix
# them, of which the condition has a part in it.
MOVED, MIXED, TURNED = 2, 16, 64
# Entries that are so many times the median count as so large.
FAR = 8.0
# Entries of which squares are added up in the precision of the tensor.
PIECE = 1 << 16
# Normal gauges are found by iteration, and not more exactly than so.
GAUGED = 1e-9
SINGLE = torch.finfo(torch.float32).eps


class Frames:
    """States brought to their normal gauges.

    Parameters
    ----------
    structure : Structure
        Of all of them.
    states : sequence of state dicts
        As they are given.
    kinds : frozenset of str
        Moves that may be used.
    shifts : bool
        Whether biases of sines are reduced: two that are near each other may then become half a turn apart.
    """

    def __init__(
        self, structure: Structure, states: Sequence[State], kinds: frozenset[str], *, shifts: bool = True
    ) -> None:
        self._structure = structure
        self._given = [{name: state[name].detach() for name in structure.axes} for state in states]
        self.continuous = any(
            gauge.kind.move in kinds and gauge.kind is not GaugeKind.SIGN for gauge in structure.gauges
        )
        self._shifted = {
            name
            for gauge in structure.gauges
            if gauge.kind is GaugeKind.TRANSLATION and gauge.kind.move in kinds
            for name in structure.weights.get(gauge.name, {})
        }
        self._turned = {
            name
            for gauge in structure.gauges
            if gauge.kind.matrix and gauge.kind.move in kinds
            for name in structure.weights.get(gauge.name, {})
        }
        self._dtypes = [{name: state[name].dtype for name in structure.axes} for state in states]
        self.elements: list[Element] = []
        self.states: list[dict[str, Tensor]] = []
        for known in self._given:
            if not self.continuous:
                group = structure.group
                self.elements.append(Element(group.spaces, group.identity(), group.gauges))
                self.states.append(known)
                continue
            exact = in_double(known)
            element = normal_gauge(structure, centred(structure, exact), kinds, shifts=shifts)
            self.elements.append(element)
            self.states.append(act(element, structure, exact))

    def outside(self, element: Element, to: int = 0, of: int = 1) -> Element:
        """An element between normal gauges as one between the states as they were given."""
        return ~self.elements[to] @ element @ self.elements[of]

    def inside(self, element: Element, to: int = 0, of: int = 1) -> Element:
        """An element between the states as they were given as one between normal gauges."""
        return self.elements[to] @ element @ ~self.elements[of]

    def permutations_and_signs(self, element: Element) -> Element:
        """An element without its scales, matrices and translations."""
        group = self._structure.group
        signs = {
            gauge.name: element.values[gauge.name]
            for gauge in group.gauges
            if gauge.kind is GaugeKind.SIGN and gauge.name in element.values
        }
        return Element(group.spaces, dict(element), group.gauges, signs)

    def plainest(self, element: Element) -> Element:
        """An element between the states as they were given, without what is only the rounding of two normal gauges.

        If places and signs alone make the second state the first, bit for bit, nothing else is done to it.
        """
        first, second = self._given[:2]
        group = self._structure.group
        still = Element(group.spaces, group.identity(), group.gauges)
        for simple in (still, self.permutations_and_signs(element)):
            moved = act(simple, self._structure, second)
            if all(torch.equal(first[name], moved[name].to(first[name])) for name in self._structure.axes):
                return simple
        return self.outside(element)

    def equal(self, a: State, b: State) -> bool:
        """Whether two states in the normal gauge agree up to the rounding of what they were made from.

        Entry by entry, relative to the entry and to the root mean square of its tensor but the largest entries; what is
        not floating must be the same.
        """
        rounds = self.continuous or bool(self._structure.absorptions)
        allowed, least = (MIXED if rounds else MOVED), (GAUGED if self.continuous else 0.0)
        if self._far_apart(a, b, max((TURNED if self._turned else allowed) * SINGLE, least)):
            return False
        sizes = {name: _typical(a[name]) for name in self._structure.axes if a[name].is_floating_point()}
        for several in self._structure.absorptions.values():
            for absorption in several:
                # What should be zero is zero up to the rounding of what was added up to it.
                read = _typical(a[absorption.weight]) * a[absorption.weight].shape[absorption.dim]
                sizes[absorption.bias] = max(sizes[absorption.bias], abs(absorption.constant) * read)
        # What a translation made small has the rounding of what it was before.
        for name in self._shifted:
            before = (_typical(given[name]) for given in self._given[:2] if given[name].is_floating_point())
            sizes[name] = max(sizes.get(name, 0.0), *before)
        for name in self._structure.axes:
            left, right = a[name], b[name].to(a[name].device)
            if name not in sizes:
                if not (torch.equal(left, right) or name.endswith(COUNTER)):
                    return False
                continue
            # Half precision is no excuse: places and signs leave no rounding in it, and its steps are as large as
            # those of training.
            eps = min(SINGLE, max(torch.finfo(d[name]).eps for d in self._dtypes if d[name].is_floating_point))
            left, right = left.double(), right.double()
            # No tensor says how large another one is: a mask of -1e9 would let any weights pass for any others.
            bound = left.abs() + sizes[name]
            times = TURNED if name in self._turned else allowed
            if bool(((left - right).abs() > max(times * eps, least) * bound).any()):
                return False
        return True

    def _far_apart(self, a: State, b: State, allowed: float) -> bool:
        """Whether some tensor differs by more than any of its entries could explain: seen at once."""
        names = [name for name in self._structure.axes if a[name].is_floating_point() and a[name].numel()]
        largest = max((float(a[name].abs().max()) for name in names), default=0.0)
        differences = (float((a[name] - b[name].to(a[name].device)).abs().max()) for name in names)
        return any(difference > 4 * allowed * largest for difference in differences)


def _typical(tensor: Tensor) -> float:
    """Root of the mean square of a tensor without its largest entries: one bias may be far larger than all others."""
    sizes = tensor.detach().double().abs().flatten()
    if sizes.numel() > 2:
        sizes = sizes.clamp(max=FAR * float(sizes.median()) or float(sizes.max()))
    # Squares of numbers that float64 holds may be numbers that it does not.
    largest = float(sizes.max()) if sizes.numel() else 0.0
    return largest * float((sizes / largest).square().mean().sqrt()) if largest > 0 else 0.0


def distance(structure: Structure, a: State, b: State) -> float:
    """Euclidean distance over the floating tensors of a structure, accumulated in float64."""
    return distance_over(structure.axes, a, b)


def distance_over(names: Iterable[str], a: State, b: State) -> float:
    """Euclidean distance over the floating ones of some tensors, accumulated in float64."""
    total = 0.0
    for name in names:
        if a[name].is_floating_point():
            difference = a[name].detach().to(b[name].device) - b[name].detach()
            found = _length(difference)
            if not math.isfinite(found):
                largest = float(difference.abs().max())
                found = largest * float(torch.linalg.vector_norm(difference / largest, dtype=torch.float64))
            total = math.hypot(total, found)
    return total


def _length(tensor: Tensor) -> float:
    if tensor.device.type != "cpu" or tensor.dtype not in (torch.float32, torch.float64):
        return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
    # A product with itself is the fastest sum of squares; pieces of it keep the rounding of float32 small.
    flat = tensor.reshape(-1)
    pieces = (flat[start : start + PIECE] for start in range(0, len(flat), PIECE))
    return math.sqrt(sum(float(torch.dot(piece, piece)) for piece in pieces))


def check_pair(structure: Structure, a: State, b: State) -> None:
    """Refuse states that cannot be compared.

    Raises
    ------
    MismatchError
        With the names and shapes that differ.
    NotFiniteError
        Naming a tensor with NaN or infinity.
    StructureError
        If they are no state dicts of the structure's model.
    """
    for state in (a, b):
        check_state(structure, state)
    lines = [line for which, state in (("first", a), ("second", b)) for line in _missing(structure, which, state)]
    if lines:
        more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise MismatchError(
            f"the states do not fit the structure: {'; '.join(lines[:SHOWN])}{more} (files leave out what a model "
            "ties: load them into the model, and pass model.state_dict())"
        )
    for which, state in (("first", a), ("second", b)):
        for name in structure.axes:
            tensor = state[name]
            _check_kind(name, which, tensor)
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise NotFiniteError(f"{name!r} of the {which} state has NaN or infinite entries: nothing is matched")


def _check_kind(name: str, which: str, tensor: Tensor) -> None:
    """Refuse a tensor in whose numbers nothing can be measured."""
    what, remedy = "", ""
    if tensor.is_meta:
        what, remedy = "is on the meta device and has no numbers", "load its weights"
    elif tensor.layout != torch.strided:
        what, remedy = "is sparse", "use .to_dense()"
    elif tensor.is_quantized:
        what, remedy = "is quantised", "use .dequantize()"
    elif tensor.is_complex():
        what, remedy = "has complex numbers", "store its real and imaginary parts, torch.view_as_real"
    elif tensor.is_floating_point() and tensor.itemsize < 2:
        what, remedy = f"has {str(tensor.dtype).removeprefix('torch.')} numbers", "use .float()"
    if what:
        raise StructureError(f"{name!r} of the {which} state {what}: {remedy}")


def _missing(structure: Structure, which: str, state: State) -> list[str]:
    return [f"the {which} has no {name!r}" for name in structure.axes if name not in state]
