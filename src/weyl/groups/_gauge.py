"""Gauges: what acts on the units of a space beside permutations."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from weyl.errors import StructureError

__all__ = ["MOVES", "Gauge", "GaugeKind"]

# All that an element can do, the first to units, the others by gauges.
MOVES = ("permute", "sign", "scale", "mix", "translate")


class GaugeKind(Enum):
    """What a gauge does to the units of one copy of a space.

    ============== ================================================== =======================
    kind           values                                             on a tensor of weight e
    ============== ================================================== =======================
    ``SIGN``       ±1 for every unit, int8                            times ``s``
    ``SCALE``      a positive number for every unit                   times ``c ** e``
    ``LINEAR``     an invertible n × n matrix                         ``M`` (e = 1), ``M⁻ᵀ`` (e = -1)
    ``ORTHOGONAL`` an orthogonal n × n matrix                         ``M``
    ``CENTRED``    an orthogonal matrix with (1, …, 1) as eigenvector ``M``
    ``COMPLEX``    a complex number for every pair of units           times ``z`` (e = 1), ``1 / z̄`` (e = -1)
    ``TRANSLATION`` a number for every unit                           plus ``coefficient * t``
    ``SHIFT``      an integer for every unit                          plus ``coefficient * k``, or times ``(-1) ** k``
    ============== ================================================== =======================

    Examples
    --------
    >>> kind = GaugeKind.ORTHOGONAL
    >>> kind.move, kind.matrix, kind.dimension(4), GaugeKind.SCALE.dimension(4)
    ('mix', True, 6, 4)
    """

    SIGN = "sign"
    SCALE = "scale"
    LINEAR = "linear"
    ORTHOGONAL = "orthogonal"
    CENTRED = "centred"
    COMPLEX = "complex"
    TRANSLATION = "translation"
    SHIFT = "shift"

    @property
    def move(self) -> str:
        """The kind of move that it is: ``sign``, ``scale``, ``mix`` or ``translate``."""
        return _MOVE[self]

    @property
    def matrix(self) -> bool:
        """Whether its values are square matrices, one for every copy of the space."""
        return self in (GaugeKind.LINEAR, GaugeKind.ORTHOGONAL, GaugeKind.CENTRED)

    @property
    def continuous(self) -> bool:
        """Whether its values vary continuously."""
        return self not in (GaugeKind.SIGN, GaugeKind.SHIFT)

    @property
    def additive(self) -> bool:
        """Whether values of two elements are added, not multiplied."""
        return self in (GaugeKind.TRANSLATION, GaugeKind.SHIFT)

    def dimension(self, size: int) -> int:
        """Continuous dimension for one copy of a space of ``size`` units."""
        match self:
            case GaugeKind.SCALE | GaugeKind.TRANSLATION:
                return size
            case GaugeKind.LINEAR:
                return size * size
            case GaugeKind.ORTHOGONAL:
                return size * (size - 1) // 2
            case GaugeKind.CENTRED:
                return (size - 1) * (size - 2) // 2
            case GaugeKind.COMPLEX:
                return 2 * size
            case _:
                return 0

    def signs(self, size: int) -> int:
        """Number of independent sign flips of units in one copy of a space."""
        if self is GaugeKind.CENTRED:
            return 1
        return size if self in (GaugeKind.SIGN, GaugeKind.LINEAR, GaugeKind.ORTHOGONAL, GaugeKind.COMPLEX) else 0


_MOVE = {
    GaugeKind.SIGN: "sign",
    GaugeKind.SCALE: "scale",
    GaugeKind.LINEAR: "mix",
    GaugeKind.ORTHOGONAL: "mix",
    GaugeKind.CENTRED: "mix",
    GaugeKind.COMPLEX: "mix",
    GaugeKind.TRANSLATION: "translate",
    GaugeKind.SHIFT: "translate",
}


@dataclass(frozen=True)
class Gauge:
    """One family of transformations of the units of a space, with a value for every unit of every copy.

    Parameters
    ----------
    name : str
        Unique within a structure, e.g. ``"fc1 scale"``.
    space : str
        The space whose units it acts on; ``""`` for one number that acts on whole tensors.
    kind : GaugeKind
        What the values are and how they act.
    carries : tuple of (str, int)
        For additive kinds: gauges of the same space, with exponents, by which the translated quantity itself is
        transformed. Values are composed accordingly. A matrix is carried without others of its space; a shift carries
        signs only.

    Raises
    ------
    StructureError
        If the name is empty, the kind is no GaugeKind, or ``carries`` is not what it should be.

    Examples
    --------
    >>> sign = Gauge("fc1 sign", "fc1", GaugeKind.SIGN)
    >>> Gauge("fc1 shift", "fc1", GaugeKind.SHIFT, carries=((sign.name, 1),)).kind.move
    'translate'
    """

    name: str
    space: str
    kind: GaugeKind
    carries: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise StructureError(f"the name of a gauge must be a string that is not empty, got {self.name!r}")
        where = f"gauge {self.name!r}"
        if not isinstance(self.space, str):
            raise StructureError(f"{where}: space must be the name of a space, or '', got {self.space!r}")
        if not isinstance(self.kind, GaugeKind):
            raise StructureError(f"{where}: kind must be a GaugeKind, e.g. GaugeKind.SCALE, got {self.kind!r}")
        if not isinstance(self.carries, tuple) or not all(map(_is_carried, self.carries)):
            raise StructureError(f"{where}: carries must be a tuple of (name, exponent), got {self.carries!r}")
        if self.carries and not self.kind.additive:
            raise StructureError(f"{where}: only additive kinds carry others, {self.kind.value!r} is none")


def _is_carried(entry: object) -> bool:
    """Whether it is the name of a gauge and an integer exponent."""
    if not isinstance(entry, tuple) or len(entry) != 2:
        return False
    name, exponent = entry
    return isinstance(name, str) and isinstance(exponent, int) and not isinstance(exponent, bool)
