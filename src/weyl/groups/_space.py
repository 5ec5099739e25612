"""Spaces: sets of interchangeable units, and the structure groups they can carry."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Kind", "Space"]


class Kind(Enum):
    """Structure group of one space, a lattice under :meth:`meet`.

    A kind is the set of moves it allows; the meet of two kinds keeps the moves that both allow, which
    is how every operator that touches a space cuts its group down.

    Examples
    --------
    >>> Kind.ORTHOGONAL.meet(Kind.MONOMIAL) is Kind.HYPEROCTAHEDRAL
    True
    >>> Kind.POSITIVE_MONOMIAL.meet(Kind.HYPEROCTAHEDRAL) is Kind.SYMMETRIC
    True
    """

    TRIVIAL = "1"
    SYMMETRIC = "S"
    HYPEROCTAHEDRAL = "B"
    POSITIVE_MONOMIAL = "Mon+"
    MONOMIAL = "Mon"
    ORTHOGONAL = "O"
    LINEAR = "GL"
    SIGNS = "Z2"
    POSITIVE_DIAGONAL = "R+"
    DIAGONAL = "R*"

    @property
    def moves(self) -> frozenset[str]:
        """Generators that the kind allows: ``permute``, ``sign``, ``scale``, ``mix``."""
        return _MOVES[self]

    def meet(self, other: Kind) -> Kind:
        """Largest kind contained in both."""
        common = self.moves & other.moves
        return next(kind for kind, moves in _MOVES.items() if moves == common)


_MOVES: dict[Kind, frozenset[str]] = {
    Kind.TRIVIAL: frozenset(),
    Kind.SYMMETRIC: frozenset({"permute"}),
    Kind.HYPEROCTAHEDRAL: frozenset({"permute", "sign"}),
    Kind.POSITIVE_MONOMIAL: frozenset({"permute", "scale"}),
    Kind.MONOMIAL: frozenset({"permute", "sign", "scale"}),
    Kind.ORTHOGONAL: frozenset({"permute", "sign", "mix"}),
    Kind.LINEAR: frozenset({"permute", "sign", "scale", "mix"}),
    Kind.SIGNS: frozenset({"sign"}),
    Kind.POSITIVE_DIAGONAL: frozenset({"scale"}),
    Kind.DIAGONAL: frozenset({"sign", "scale"}),
}


@dataclass(frozen=True)
class Space:
    """A set of ``size`` units that must be transformed together.

    Parameters
    ----------
    name : str
        Unique within a structure; derived from the parameter that writes it.
    size : int
        Number of units.
    kind : Kind
        Structure group; ``Kind.TRIVIAL`` for an index that moves nothing but tells units apart. What acts beside
        permutations, gauges say.
    within : tuple of str
        Spaces on whose index this space's transformation may depend, outermost first and
        transitively closed. Inside a permuted space this is a wreath product; inside a trivial one
        it is a family of independent copies.
    multiplicity : int
        Number of independent copies; a structure fills it in.
    occurrences : tuple of (str, int)
        Parameters and dimensions in which the space occurs; a structure fills them in.

    Examples
    --------
    >>> Space("fc1", 512).symbol
    'S_512'
    """

    name: str
    size: int
    kind: Kind = Kind.SYMMETRIC
    within: tuple[str, ...] = ()
    multiplicity: int = field(default=1, compare=False)
    occurrences: tuple[tuple[str, int], ...] = field(default=(), compare=False, repr=False)

    @property
    def permuted(self) -> bool:
        """Whether its units may trade places."""
        return "permute" in self.kind.moves

    @property
    def symbol(self) -> str:
        """Symbol of the structure group of one copy, e.g. ``S_64``, or ``(R+)^64`` if its units keep their places."""
        if self.kind is Kind.TRIVIAL:
            return "1"
        return f"{self.kind.value}_{self.size}" if self.permuted else f"({self.kind.value})^{self.size}"
