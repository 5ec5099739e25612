"""What two states are to each other, and why, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from weyl._text import one_line
from weyl.groups import Element
from weyl.identity._evidence import Evidence
from weyl.identity._formats import Rounding
from weyl.identity._statistics import LEAST
from weyl.proof import Agreement
from weyl.structure import Structure

__all__ = ["SAME", "VERDICTS", "Comparison", "chance_text"]

VERDICTS = ("identical", "same function", "same up to precision", "derived", "unrelated", "inconclusive")
# Verdicts that say that both compute one function, as far as the numbers are kept.
SAME = VERDICTS[:3]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What two states are to each other, and why.

    Attributes
    ----------
    verdict : str
        ``identical``: the same numbers. ``same function``: a symmetry of the architecture makes one of the other, up to
        the rounding of float32 or float64. ``same up to precision``: and then the numbers were rounded to a coarser
        format. ``derived``: one was made from the other, or both from a third, by training, pruning, merging or noise,
        whatever the labelling of units now. ``unrelated``: nothing shows that they have anything in common.
        ``inconclusive``: NaN or infinity, or nothing to test.
    p_value : float or None
        Chance that independent trainings look as related; None where the verdict rests on no statistics.
    distance, distance_before : float or None
        Of b, moved by the element and as it was, from a, relative to the norm of a; over tensors with units.
    element : Element or None
        ``weyl.act(element, structure, b)`` lies next to a. Of the group of `structure`.
    structure : Structure
        What was compared: the part of the given one that both states have.
    evidence : Evidence or None
        What statistics say, space by space; None if they were not needed.
    rounding : Rounding or None
        The format that the coarser of the two has, if that explains all differences.
    outputs : Agreement or None
        What the model returned for both, if one was given.
    left_out : tuple of str
        Tensors that were not compared, or not as a whole, one line each.
    reasons : tuple of str
        Why this verdict, one sentence each.
    """

    verdict: str
    p_value: float | None
    distance: float | None
    distance_before: float | None
    element: Element | None
    structure: Structure
    evidence: Evidence | None = None
    rounding: Rounding | None = None
    outputs: Agreement | None = None
    left_out: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether both compute one function, up to precision."""
        return self.verdict in SAME

    def explain(self) -> str:
        """The verdict, its reasons, and the evidence of every space, as text."""
        lines = [f"{self.verdict}: {self.reasons[0]}" if self.reasons else self.verdict, *self.reasons[1:]]
        if self.evidence is not None:
            lines += ["", *_table(self.evidence)]
        if self.left_out:
            lines += ["", "not compared, or not as a whole:", *(f"  {line}" for line in self.left_out)]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; the element is left out."""
        return {
            "verdict": self.verdict,
            "same": self.same,
            "p_value": self.p_value,
            "distance": self.distance,
            "distance_before": self.distance_before,
            "moves": sorted(self.element.moves) if self.element is not None else None,
            "evidence": None if self.evidence is None else self.evidence.to_dict(),
            "rounding": None if self.rounding is None else self.rounding.to_dict(),
            "outputs": None
            if self.outputs is None
            else {
                "error": self.outputs.error,
                "tolerance": self.outputs.tolerance,
                "wrong_error": self.outputs.wrong_error,
                "same": self.outputs.same,
            },
            "left_out": list(self.left_out),
            "reasons": list(self.reasons),
        }

    def __repr__(self) -> str:
        p = "" if self.p_value is None else f", {chance_text(self.p_value)}"
        far = "" if self.distance is None else f", distance {self.distance_before:.3g} to {self.distance:.3g}"
        return f"Comparison({self.verdict}{p}{far})"


def chance_text(chance: float) -> str:
    """A p-value for people: ``p = 0.76``; those below what is computed exactly as a bound."""
    return f"p < {LEAST:.0e}" if chance <= 10 * LEAST else f"p = {chance:.2g}"


def _table(found: Evidence) -> list[str]:
    lines = [f"{'space':<24} {'units':>6} {'copies':>6} {'p':>9} {'agree':>7}  matched by"]
    for space in found.spaces:
        head = f"{one_line(space.name, 24):<24} {space.units:>6} {space.copies:>6}"
        for way in space.ways:
            p = chance_text(way.match_p).removeprefix("p ").removeprefix("= ")
            sides = [", ".join(_short(names)) for names in (way.first, way.second) if names]
            by = " | ".join(sides) if way.second else f"halves of {sides[0]}"
            lines.append(f"{head} {p:>9} {f'{100 * way.agreement:.1f} %':>7}  {by}")
            head = " " * len(head)
        if not space.ways:
            lines.append(f"{head} {'-':>9} {'-':>7}  not in two ways")
    return lines


def _short(names: tuple[str, ...]) -> list[str]:
    shown = [one_line(name, 40) for name in names[:2]]
    return [*shown, f"{len(names) - 2} more"] if len(names) > 2 else shown
