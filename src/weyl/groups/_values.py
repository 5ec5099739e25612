"""Values of gauges: their shapes, what they must be, their algebra, and random ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weyl.errors import StructureError
from weyl.groups._gauge import Gauge, GaugeKind
from weyl.groups._space import Space

__all__ = [
    "Values",
    "carry",
    "check_gauges",
    "checked",
    "close",
    "draw",
    "frozen",
    "generators",
    "identity",
    "inverse",
    "product",
    "shape_of",
]

Values = NDArray[Any]

# How far M Mᵀ may be from 1 for a matrix that is given as orthogonal.
ORTHOGONALITY = 1e-8

_DTYPE: Mapping[GaugeKind, type[np.generic]] = {
    GaugeKind.SIGN: np.int8,
    GaugeKind.SHIFT: np.int64,
    GaugeKind.COMPLEX: np.complex128,
}

# What the quantity that a gauge translates may itself be transformed by.
_CARRIED = {
    GaugeKind.SHIFT: {GaugeKind.SIGN},
    GaugeKind.TRANSLATION: {
        GaugeKind.SIGN,
        GaugeKind.SCALE,
        GaugeKind.LINEAR,
        GaugeKind.ORTHOGONAL,
        GaugeKind.CENTRED,
    },
}


def check_gauges(spaces: Mapping[str, Space], gauges: tuple[Gauge, ...]) -> None:
    """Refuse names that occur twice, spaces that are not there, and compositions that would not be associative."""
    known = {gauge.name: gauge for gauge in gauges}
    if len(known) < len(gauges):
        twice = next(gauge.name for i, gauge in enumerate(gauges) if known[gauge.name] is not gauges[i])
        raise StructureError(f"two gauges are called {twice!r}; give each a name of its own")
    for gauge in gauges:
        if gauge.space and gauge.space not in spaces:
            raise StructureError(f"gauge {gauge.name!r} acts on space {gauge.space!r}, which is not there")
        if not gauge.space and gauge.kind.move == "mix":
            raise StructureError(f"gauge {gauge.name!r} of kind {gauge.kind.value!r} needs a space to act on")
        _check_carries(gauge, known)


def _check_carries(gauge: Gauge, known: Mapping[str, Gauge]) -> None:
    for name, exponent in gauge.carries:
        where = f"gauge {gauge.name!r} carries {name!r}"
        carried = known.get(name)
        if carried is None or carried.space not in (gauge.space, ""):
            raise StructureError(f"{where}, which is no gauge of space {gauge.space!r}")
        if carried.kind not in _CARRIED.get(gauge.kind, ()):
            raise StructureError(f"{where}: nothing of kind {carried.kind.value!r} acts on a {gauge.kind.value}")
        beside = sum(known[other].space == gauge.space for other, _ in gauge.carries if other in known)
        if carried.kind.matrix and (beside > 1 or exponent not in (1, -1)):
            raise StructureError(f"{where}: a matrix is carried without others of its space, with exponent 1 or -1")


def shape_of(gauge: Gauge, spaces: Mapping[str, Space]) -> tuple[int, ...]:
    """Shape of the values of a gauge."""
    if not gauge.space:
        return ()
    space = spaces[gauge.space]
    units = (space.size, space.size) if gauge.kind.matrix else (space.size,)
    return (*(spaces[name].size for name in space.within), *units)


def frozen(kind: GaugeKind, values: Values) -> Values:
    """The values in the data type of their kind, not writeable."""
    array = np.asarray(values, dtype=_DTYPE.get(kind, np.float64))
    array.setflags(write=False)
    return array


def checked(gauge: Gauge, values: object, shape: tuple[int, ...]) -> Values:
    """A frozen copy of values that somebody gave, or a StructureError."""
    kind, array = gauge.kind, np.array(values)
    if array.shape != shape:
        raise StructureError(f"values of gauge {gauge.name!r} need shape {shape}, got {array.shape}")
    if array.dtype.kind not in ("iufc" if kind is GaugeKind.COMPLEX else "iuf"):
        raise StructureError(f"values of gauge {gauge.name!r} must be real numbers, got {array.dtype}")
    wrong = None if np.isfinite(array).all() else "finite"
    wrong = wrong or _wrong(kind, array)
    if wrong:
        raise StructureError(f"values of gauge {gauge.name!r} must be {wrong}")
    return frozen(kind, array)


def _wrong(kind: GaugeKind, array: Values) -> str | None:
    """What finite values of a kind must be and these are not."""
    match kind:
        case GaugeKind.SIGN:
            return None if (np.abs(array) == 1).all() else "1 or -1"
        case GaugeKind.SCALE:
            return None if (array > 0).all() else "positive"
        case GaugeKind.COMPLEX:
            return None if (array != 0).all() else "different from zero"
        case GaugeKind.SHIFT:
            return None if (array == np.round(array)).all() else "integers"
        case GaugeKind.LINEAR:
            return None if np.linalg.slogdet(array)[0].all() else "invertible matrices"
        case GaugeKind.ORTHOGONAL | GaugeKind.CENTRED:
            if not _near(array @ np.swapaxes(array, -1, -2), np.eye(array.shape[-1])):
                return "orthogonal matrices"
            sums = array.sum(axis=-1)
            centred = kind is GaugeKind.ORTHOGONAL or _near(sums, np.sign(sums[..., :1]))
            return None if centred else "matrices that map (1, ..., 1) to itself or its negative"
        case _:
            return None


def _near(a: Values, b: Values) -> bool:
    return bool(np.abs(a - b).max(initial=0.0) <= ORTHOGONALITY)


def identity(kind: GaugeKind, shape: tuple[int, ...]) -> Values:
    """The values that change nothing; not writeable, and without memory for more than one copy."""
    one = np.eye(shape[-1]) if kind.matrix else np.asarray(0 if kind.additive else 1)
    return np.broadcast_to(frozen(kind, one), shape)


def product(kind: GaugeKind, left: Values, right: Values) -> Values:
    """Values of *first right, then left*, where neither is additive."""
    return left @ right if kind.matrix else left * right


def inverse(kind: GaugeKind, values: Values) -> Values:
    """Values that undo values, which are not additive."""
    match kind:
        case GaugeKind.SIGN:
            return values
        case GaugeKind.LINEAR:
            return np.linalg.inv(values)
        case GaugeKind.ORTHOGONAL | GaugeKind.CENTRED:
            return np.swapaxes(values, -1, -2)
        case _:
            return 1 / values


def carry(kind: GaugeKind, values: Values, exponent: int, translation: Values) -> Values:
    """A translation after values have acted on it with an exponent."""
    match kind:
        case GaugeKind.SIGN:
            return translation * values if exponent % 2 else translation
        case GaugeKind.LINEAR if exponent == -1:
            return np.linalg.solve(np.swapaxes(values, -1, -2), translation[..., None])[..., 0]
        case _ if kind.matrix:
            return (values @ translation[..., None])[..., 0]
        case _:
            return translation * values**exponent


def close(kind: GaugeKind, a: Values, b: Values, tolerance: float) -> bool:
    """Whether values agree: exactly where they are whole, else relative to their size.

    The size is that of the unit for factors, of the largest entry for matrices, of the largest entry or 1, whichever
    is more, for translations: they may cancel.
    """
    if not kind.continuous:
        return np.array_equal(a, b)
    size = np.maximum(np.abs(a), np.abs(b))
    if kind.matrix:
        size = size.max(axis=(-1, -2), keepdims=True, initial=0.0)
    elif kind.additive:
        size = size.max(initial=1.0)
    return bool((np.abs(a - b) <= tolerance * size).all())


def generators(kind: GaugeKind, shape: tuple[int, ...]) -> Iterator[Values]:
    """Sign flips of single units, of whole copies for centred matrices, or shifts of single units by one."""
    if kind.continuous and not kind.signs(1):
        return
    outer = shape[:-2] if kind.matrix else shape
    units = [(i, i) for i in range(shape[-1])] if kind.matrix and kind is not GaugeKind.CENTRED else [()]
    for copy in np.ndindex(*outer):
        for unit in units:
            values = identity(kind, shape).copy()
            values[(*copy, *unit)] = 1 if kind.additive else -values[(*copy, *unit)]
            yield frozen(kind, values)


def draw(kind: GaugeKind, shape: tuple[int, ...], rng: np.random.Generator, exact: bool) -> Values:
    """Random values; exact ones compose without rounding."""
    values: Values
    match kind:
        case GaugeKind.SIGN:
            values = 2 * rng.integers(0, 2, shape) - 1
        case GaugeKind.SHIFT:
            values = rng.integers(-2, 3, shape)
        case GaugeKind.TRANSLATION:
            values = rng.integers(-2, 3, shape) if exact else rng.standard_normal(shape)
        case GaugeKind.SCALE:
            values = _scales(shape, rng, exact)
        case GaugeKind.COMPLEX:
            turns = np.array([1, 1j, -1, -1j])[rng.integers(0, 4, shape)]
            phases = turns if exact else np.exp(2j * np.pi * rng.random(shape))
            values = _scales(shape, rng, exact) * phases
        case _:
            values = _exact_matrices(kind, shape, rng) if exact else _matrices(kind, shape, rng)
    return frozen(kind, values)


def _scales(shape: tuple[int, ...], rng: np.random.Generator, exact: bool) -> Values:
    return np.exp2(rng.integers(-2, 3, shape) if exact else rng.uniform(-1, 1, shape))


def _matrices(kind: GaugeKind, shape: tuple[int, ...], rng: np.random.Generator) -> Values:
    if kind is GaugeKind.LINEAR:
        return (_haar(shape, rng) * _scales((*shape[:-2], 1, shape[-1]), rng, False)) @ _haar(shape, rng)
    return _haar_centred(shape, rng) if kind is GaugeKind.CENTRED else _haar(shape, rng)


def _haar(shape: tuple[int, ...], rng: np.random.Generator) -> Values:
    """Orthogonal matrices: a QR decomposition is unique, hence Haar, when the diagonal of R is positive."""
    q, r = np.linalg.qr(rng.standard_normal(shape))
    return q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]


def _haar_centred(shape: tuple[int, ...], rng: np.random.Generator) -> Values:
    """A reflection maps the first axis to the line of ones and back; there, the two parts are blocks."""
    size = shape[-1]
    blocks = np.zeros(shape)
    blocks[..., 0, 0] = 2 * rng.integers(0, 2, shape[:-2]) - 1
    blocks[..., 1:, 1:] = _haar((*shape[:-2], size - 1, size - 1), rng)
    normal = np.eye(size)[0] - 1 / np.sqrt(size)
    reflection = np.eye(size)
    if size > 1:
        reflection -= 2 * np.outer(normal, normal) / (normal @ normal)
    return reflection @ blocks @ reflection


def _exact_matrices(kind: GaugeKind, shape: tuple[int, ...], rng: np.random.Generator) -> Values:
    """Permutation matrices with one sign for all rows, with signs, or with signs and powers of two."""
    rows = rng.permuted(np.broadcast_to(np.arange(shape[-1]), shape[:-1]), axis=-1)
    one_sign = (*shape[:-2], 1) if kind is GaugeKind.CENTRED else shape[:-1]
    factors = 2.0 * rng.integers(0, 2, one_sign) - 1
    if kind is GaugeKind.LINEAR:
        factors = factors * _scales(shape[:-1], rng, True)
    return np.eye(shape[-1])[rows] * factors[..., None]
