"""One comparison, from the cheapest question to the dearest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from weyl._text import one_line
from weyl.actions import act
from weyl.canonical import COUNTER, exact_part, in_double, labelled, public_element, shapes_of, sketch
from weyl.errors import LimitError, WeylError
from weyl.groups import Element, GaugeKind
from weyl.identity._comparison import Comparison, chance_text
from weyl.identity._evidence import Evidence, evidence
from weyl.identity._formats import Rounding, is_informative, rounding
from weyl.identity._shared import Shared
from weyl.identity._statistics import LEAST, fisher
from weyl.matching import Job, Match, distance_over, match
from weyl.structure import spaces_of

__all__ = ["ENOUGH", "Work"]

State = Mapping[str, Tensor]
Progress = Callable[[str], None]

# Share of numbers that are the same, from which that decides alone: tables that a formula gives, such as those of
# positions, are the same in all networks. And numbers that two files must share to be compared at all.
SHARED, ENOUGH = 0.2, 256
# Distance, relative to the size of the first, below which two states as they stand are called derived without a test.
NEAR = 0.02
# Distance of two sketches that rounding explains; unrelated networks are about 1.4 apart.
ROUNDED = 1e-5
KINDS = frozenset({"permute", "sign", "scale", "mix", "translate"})


class Work:
    """One comparison of what two states share."""

    def __init__(self, shared: Shared, say: Progress, alpha: float, seed: int) -> None:
        self.structure, self.a, self.b, self.left_out = shared.structure, shared.a, shared.b, shared.left_out
        self.say, self._alpha, self._seed = say, alpha, seed

    def _said(self, verdict: str, *reasons: str, **more: Any) -> Comparison:
        facts = {"p_value": None, "distance": None, "distance_before": None, "element": None, **more}
        return Comparison(verdict, structure=self.structure, left_out=self.left_out, reasons=reasons, **facts)

    def _aligned(self, element: Element, *, exact: bool = False) -> dict[str, Any]:
        ours = self._moving(self.a)
        size = distance_over(ours, ours, {name: torch.zeros((), device=t.device) for name, t in ours.items()}) or 1.0
        before = distance_over(ours, ours, self._moving(self.b)) / size
        moved = 0.0 if exact else before
        if not (exact or element.is_identity):
            moved = distance_over(ours, ours, self._moving(act(element, self.structure, self.b))) / size
        return {"element": element, "distance": moved, "distance_before": before}

    def _moving(self, state: State) -> State:
        """The tensors with units, or all if there are none: a mask of -1e9 is no part of a distance."""
        names = [n for n, axes in self.structure.axes.items() if any(True for axis in axes for _ in spaces_of(axis))]
        return {name: state[name] for name in names or self.structure.axes}

    def _near(self) -> bool:
        """Whether the states as they stand differ by little in every tensor."""
        for name in self.structure.axes:
            if self.a[name].is_floating_point():
                one, other = ({name: _wide(state[name])} for state in (self.a, self.b))
                size = distance_over(one, one, {name: torch.zeros((), device=one[name].device)})
                if distance_over(one, one, other) > NEAR * size:
                    return False
        return True

    def _identity(self) -> Element:
        group = self.structure.group
        return Element(group.spaces, group.identity(), group.gauges)

    def verdict(self, *, align: bool) -> Comparison:
        """From the cheapest question to the dearest."""
        bad = self._not_finite()
        if bad:
            return self._said("inconclusive", f"{bad[0]} has NaN or infinite entries, and nothing is decided on those")
        self.say("comparing numbers")
        if self._equal(self.a, self.b):
            same = [n for n in self.a if self.a[n].dtype != self.b[n].dtype]
            why = "every number is the same" + (", in another format" if same else "")
            return self._said("same function" if same else "identical", why, **self._aligned(self._identity()))
        return self._copy() or self._rounded_copy() or self._mixed_copy() or self._statistics(align=align)

    def _not_finite(self) -> list[str]:
        return [
            f"{one_line(name, 80)!r} of the {which} state"
            for which, state in (("first", self.a), ("second", self.b))
            for name, tensor in state.items()
            if tensor.is_floating_point() and not _finite(_wide(tensor))
        ]

    def _equal(self, a: State, b: State) -> bool:
        names = [name for name in a if name in self.structure.axes and not name.endswith(COUNTER)]
        return all(_alike(_wide(a[n]), _wide(b[n].to(a[n].device))) for n in names)

    def _copy(self) -> Comparison | None:
        """Whether permutations and signs make one of the other, number by number."""
        self.say("comparing normal forms")
        element = self._exact(self.a, self.b)
        if element is None:
            return None
        return self._said(
            "same function",
            f"{_moves(element)} make one of the other, number by number",
            **self._aligned(element, exact=True),
        )

    def _exact(self, a: State, b: State) -> Element | None:
        finite = exact_part(self.structure)
        wide = [{n: _wide(state[n]) for n in self.structure.axes} for state in (a, b)]
        try:
            ours, theirs = (labelled(finite, s, shapes_of(self.structure, s)[0], counted=False) for s in wide)
        except LimitError:
            return None
        element = ~ours.element @ theirs.element
        if not self._equal(wide[0], act(element, finite, wide[1])):
            return None
        return ~public_element(self.structure, ours) @ public_element(self.structure, theirs)

    def _rounded_copy(self) -> Comparison | None:
        """Whether one, rounded to the format of the other, is a copy of it, number by number."""
        for fine, coarse in ((self.a, self.b), (self.b, self.a)):
            found = rounding(fine, coarse, grids=False)
            if found is None:
                continue
            cast = found.applied(fine)
            element = self._exact(cast, coarse) if fine is self.a else self._exact(coarse, cast)
            if element is not None:
                how = "" if element.is_identity else f", after {_moves(element)}"
                return self._said(
                    "same up to precision",
                    f"one is the other rounded to {found.name}, number by number{how}",
                    rounding=found,
                    **self._aligned(element),
                )
        return None

    def _mixed_copy(self) -> Comparison | None:
        """Whether the whole group makes one of the other, up to rounding."""
        self.say("comparing under the whole group")
        self._job = Job(self.structure, self.a, self.b, KINDS, self.say)
        found = self._job.recognised()
        if not isinstance(found, Match):
            return None
        facts = self._aligned(found.element)
        why = f"{_moves(found.element)} make one of the other, up to rounding (a distance of {facts['distance']:.1e})"
        return self._said("same function", why, **facts)

    def _statistics(self, *, align: bool) -> Comparison:
        self.say("testing for a common origin")
        found = evidence(self.structure, *self._job.states, seed=self._seed)
        facts: dict[str, Any] = {"p_value": found.match_p, "evidence": found}
        share = 0.0 if found.agreement is None else found.agreement
        shared, equal = self._bit_equal()
        told = [f"{len(equal)} tensors are the same, number by number: {', '.join(equal[:3])}"] if equal else []
        if found.match_p >= self._alpha and shared >= SHARED:
            facts |= self._aligned(self._identity())
            why = f"{100 * shared:.0f} % of the numbers are the same"
            return self._said("derived", why, *told, **{**facts, "p_value": None})
        if found.match_p >= self._alpha:
            facts |= self._aligned(self._identity())
            if self._near():
                far = f"{facts['distance_before']:.1e} of their size"
                why = f"they are {far} apart as they stand"
                return self._said("derived", why, *told, **{**facts, "p_value": None})
            if self._one_orbit():
                why = "an invariant of the whole group is the same, up to rounding, though no element was found"
                return self._said("derived", why, *told, **{**facts, "element": None, "p_value": None})
            if not any(space.ways for space in found.spaces):
                why = "no space of units can be matched in two ways, so there is nothing to test"
                return self._said("inconclusive", why, *told, **{**facts, "element": None, "p_value": None})
            if least_possible(found) >= self._alpha:
                few = "too few units to tell a common origin from chance"
                return self._said("inconclusive", few, *told, **{**facts, "element": None})
            seen = f"{chance_text(found.match_p)}, {100 * share:.1f} % of the units"
            why = f"units matched in two ways agree no more than for independent trainings: {seen}"
            return self._said("unrelated", why, *told, **{**facts, "element": None})
        chance = f"{chance_text(found.match_p)} for independent trainings"
        why = f"{100 * share:.1f} % of the units are matched alike in two ways: {chance}"
        element = self._identity()
        if align:
            self.say("aligning")
            element = match(self.structure, self.a, self.b, progress=self.say).element
        facts |= self._aligned(element)
        rounded = self._rounding(element)
        if rounded is not None:
            return self._said(
                "same up to precision",
                f"rounding to {rounded.name} explains what is left",
                why,
                rounding=rounded,
                **facts,
            )
        after, before = (f"{facts[name]:.2g}" for name in ("distance", "distance_before"))
        left = f"after alignment they are {after} of their size apart, before {before}"
        return self._said("derived", why, left, *_hints(self.a, act(element, self.structure, self.b)), **facts)

    def _edited(self, element: Element) -> bool:
        """Whether places and signs alone bring most numbers to where they are the same: the others were changed."""
        signs = {g.name: element.values[g.name] for g in self.structure.gauges if g.kind is GaugeKind.SIGN}
        group = self.structure.group
        moved = act(Element(group.spaces, dict(element), group.gauges, signs), self.structure, self.b)
        names = [name for name in self.a if is_informative(self.a[name])]
        same = sum(int((_wide(self.a[n]) == _wide(moved[n].to(self.a[n].device))).sum()) for n in names)
        return 2 * same > sum(self.a[name].numel() for name in names)

    def _one_orbit(self) -> bool:
        """Whether both have one sketch: where matrices have no least norm, the element between copies is not found."""
        if not any(gauge.kind.continuous for gauge in self.structure.gauges) or self.informative() < ENOUGH:
            return False
        try:
            ours, theirs = (sketch(self.structure, state) for state in (self.a, self.b))
        except WeylError:
            return False
        return bool(ours.norm() > 0) and float((ours - theirs.to(ours.device)).norm()) < ROUNDED

    def informative(self) -> int:
        """Entries of tensors that do not have the same numbers by default."""
        return sum(tensor.numel() for tensor in self.a.values() if is_informative(tensor))

    def _bit_equal(self) -> tuple[float, list[str]]:
        """The share of informative entries in tensors that are the same where they stand, and their names."""
        equal = [n for n in self.a if is_informative(self.a[n]) and self._equal({n: self.a[n]}, {n: self.b[n]})]
        count = sum(self.a[name].numel() for name in equal)
        return count / max(1, self.informative()), [one_line(name, 60) for name in equal]

    def _rounding(self, element: Element) -> Rounding | None:
        """The format that explains the differences, in the coordinates of the coarser state."""
        mixed = bool(element.moves - {"permute", "sign"}) and not self._edited(element)
        ours, theirs = in_double(self.a), in_double(self.b)
        there = act(~element, self.structure, ours), act(element, self.structure, theirs)
        for fine, moved, coarse in ((self.a, there[0], self.b), (self.b, there[1], self.a)):
            found = rounding(fine, coarse, mixed=mixed)
            if found is not None and found.explains(moved, coarse):
                return found
        return None


def least_possible(found: Evidence) -> float:
    """The smallest p-value that so many units can give: that of two matchings that agree throughout."""
    least = [
        max(LEAST, math.exp(-math.lgamma(space.units + 1)))
        for space in found.spaces
        if space.ways
        for _ in range(space.copies)
    ]
    return fisher(least)


def _wide(tensor: Tensor) -> Tensor:
    """Floating numbers in a type that holds them exactly and can be computed with."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.detach().float() if tensor.element_size() < 4 else tensor.detach()


def _finite(tensor: Tensor) -> bool:
    """Whether every entry is; their sum, which seldom overflows, is a cheaper look."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same numbers, in whatever types."""
    wide = torch.promote_types(one.dtype, other.dtype)
    return torch.equal(one.to(wide), other.to(wide))


def _moves(element: Element) -> str:
    names = {"permute": "permutations", "sign": "signs", "scale": "scales", "mix": "rotations", "translate": "shifts"}
    parts = [names[move] for move in names if move in element.moves]
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]])) or "nothing"


def _hints(a: State, b: State) -> list[str]:
    """How one may have been made of the other: what was set to zero."""
    hints = []
    names = [n for n, t in a.items() if t.is_floating_point() and t.dim() > 1]
    for one, other, which in ((a, b, "second"), (b, a, "first")):
        zeros = [(other[n] == 0) & (one[n].to(other[n].device) != 0) for n in names]
        count, total = sum(int(z.sum()) for z in zeros), sum(z.numel() for z in zeros)
        if total and count > 0.01 * total:
            hints.append(
                f"{100 * count / total:.0f} % of the weights of the {which} are 0 and the other's are not: pruned"
            )
    return hints
