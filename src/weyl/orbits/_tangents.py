"""Tangents of an orbit: the directions in which the continuous part of the group moves a state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weyl.errors import StructureError
from weyl.groups import Gauge, GaugeKind
from weyl.orbits._views import Frame, checked, finite, frames, once
from weyl.structure import Structure

__all__ = ["Tangent", "algebra_shape", "direction", "random_algebra", "tangents"]

Algebra = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Tangent:
    """One direction in which the function does not change.

    Parameters
    ----------
    gauge : str
        The gauge that it belongs to.
    index : tuple of int
        Copy and unit, ``(*outer, i)``; ``(*outer, i, j)`` for matrices, with the real or imaginary part (0, 1) last
        for complex numbers; empty for a gauge without a space. For ``CENTRED`` i and j count vectors of an orthonormal
        basis of the complement of (1, …, 1).
    direction : mapping of str to tensor
        What is added to the tensors that change; the others are left out.

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> structure = weyl.discover(net, (torch.zeros(1, 4),))
    >>> first = next(tangents(structure, net.state_dict()))
    >>> first.gauge, first.index, {name: tuple(tensor.shape) for name, tensor in first.direction.items()}
    ('0 scale', (0,), {'0.weight': (3, 4), '0.bias': (3,), '2.weight': (2, 3)})
    """

    gauge: str
    index: tuple[int, ...]
    direction: Mapping[str, Tensor]


def tangents(structure: Structure, state: Mapping[str, Tensor]) -> Iterator[Tangent]:
    r"""Directions of the Lie algebra of the continuous part, as tensors.

    One for every generator of every gauge:

    ============== ==================================================================================
    kind           direction
    ============== ==================================================================================
    ``SCALE``      :math:`e\,W` on the entries of one unit; :math:`e\,(v + \varepsilon)` where there is an offset
    ``LINEAR``     :math:`E_{ij} W` (e = 1), :math:`-E_{ij}^T W` (e = -1)
    ``ORTHOGONAL`` :math:`(E_{ij} - E_{ji})\,W`, i < j
    ``CENTRED``    the same in a basis of the complement of (1, …, 1)
    ``COMPLEX``    :math:`w`, and :math:`\mathrm{i}\,w` (e = 1); :math:`-w`, and :math:`\mathrm{i}\,w` (e = -1)
    ``TRANSLATION`` the coefficient
    ============== ==================================================================================

    Parameters
    ----------
    structure : Structure
        Of the model that the state belongs to.
    state : mapping of str to tensor
        It is not changed.

    Yields
    ------
    Tangent
        ``structure.group.dimension + structure.overlap[0]`` of them, made one at a time. They are linearly dependent
        where gauges overlap, and at states with a continuous stabiliser (a dead unit, for instance).

    Raises
    ------
    StructureError
        If the state is not that of the structure's model, or a tensor on which a gauge acts is missing, has another
        shape or holds integers.
    NotFiniteError
        If a tensor on which a continuous gauge acts has NaN or infinity.

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> structure = weyl.discover(net, (torch.zeros(1, 4),))
    >>> found = list(tangents(structure, net.state_dict()))
    >>> len(found), found[1].index, sorted(found[1].direction)
    (3, (1,), ['0.bias', '0.weight', '2.weight'])
    """
    checked(structure, state)
    finite(structure, state)
    return _each(structure, state)


def _each(structure: Structure, state: Mapping[str, Tensor]) -> Iterator[Tangent]:
    for gauge in structure.gauges:
        shape = algebra_shape(structure, gauge)
        for index, array in _generators(gauge.kind, shape):
            yield Tangent(gauge.name, index, _direction(structure, state, {gauge.name: array}))


def direction(structure: Structure, state: Mapping[str, Tensor], algebra: Mapping[str, Algebra]) -> dict[str, Tensor]:
    r"""Derivative at t = 0 of ``act`` along the one-parameter group :math:`\exp(t A)`, exactly.

    Parameters
    ----------
    structure : Structure
        Of the model that the state belongs to.
    state : mapping of str to tensor
        It is not changed.
    algebra : mapping of str to array
        A for some continuous gauges, by name, in the shape of their values: real numbers for scales (logarithms) and
        translations, complex ones for ``COMPLEX``, matrices for ``LINEAR``, antisymmetric ones for ``ORTHOGONAL``,
        with rows that sum to zero for ``CENTRED``.

    Returns
    -------
    dict of str to tensor
        Only tensors that change; same shapes, dtypes and devices. Names that share a tensor share one.

    Raises
    ------
    StructureError
        If an algebra element does not fit its gauge, the state is not that of the structure's model, or a tensor is
        missing, has another shape or holds integers.
    NotFiniteError
        If a tensor on which a continuous gauge acts has NaN or infinity.

    Examples
    --------
    >>> import numpy as np, torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> structure = weyl.discover(net, (torch.zeros(1, 4),))
    >>> state = net.state_dict()
    >>> (gauge,) = structure.gauges
    >>> moved = direction(structure, state, {gauge.name: np.ones(3)})
    >>> torch.equal(moved["0.weight"], state["0.weight"]), torch.equal(moved["2.weight"], -state["2.weight"])
    (True, True)
    """
    checked(structure, state)
    finite(structure, state)
    _check_algebra(structure, algebra)
    return _direction(structure, state, algebra)


def _direction(structure: Structure, state: Mapping[str, Tensor], algebra: Mapping[str, Algebra]) -> dict[str, Tensor]:
    out = {}
    for name, names in once(structure, state).items():
        acting = [frame for frame in frames(structure, name) if frame.gauge.name in algebra]
        if acting and (state[name].is_floating_point() or state[name].is_complex()):
            moved = _moved(state[name].detach(), structure.offsets.get(name, 0.0), acting, algebra)
            if bool(moved.any()):
                out.update(dict.fromkeys(names, moved))
    return {name: out[name] for name in state if name in out}


def _moved(tensor: Tensor, offset: float, acting: list[Frame], algebra: Mapping[str, Algebra]) -> Tensor:
    dtype = tensor.dtype if tensor.dtype.itemsize >= 4 else torch.float32
    work = tensor.to(dtype).contiguous()
    if offset:
        work = work + offset
    out = torch.zeros_like(work)
    for frame in acting:
        real = torch.complex128 if frame.gauge.kind is GaugeKind.COMPLEX else torch.float64
        value = torch.as_tensor(np.array(algebra[frame.gauge.name]), dtype=real).to(work.device)
        _add(frame, value, work, out)
    return out.to(tensor.dtype)


def _add(frame: Frame, value: Tensor, work: Tensor, out: Tensor) -> None:
    """Add to ``out`` what one frame contributes."""
    exponent, into = frame.weight.exponent, frame.view(out)
    match frame.gauge.kind:
        case GaugeKind.SCALE:
            into.add_(frame.view(work) * (exponent * value).to(work.dtype))
        case GaugeKind.TRANSLATION:
            into.add_((frame.weight.coefficient * value).to(work.dtype))
        case GaugeKind.COMPLEX:
            turn = value if exponent > 0 else -value.conj()
            a, b = turn.real.to(work.dtype), turn.imag.to(work.dtype)
            real, imaginary = frame.view(work), frame.partner(work)
            into.add_(a * real - b * imaginary)
            frame.partner(out).add_(a * imaginary + b * real)
        case kind:
            inverse = kind is GaugeKind.LINEAR and exponent < 0
            matrix = (-value.mT if inverse else value).to(work.dtype)
            into.add_(frame.mixed(matrix, frame.view(work)))


def algebra_shape(structure: Structure, gauge: Gauge) -> tuple[int, ...]:
    """Shape of what a gauge takes as values, and as an element of its algebra."""
    if not gauge.space:
        return ()
    space = structure.space(gauge.space)
    outer = tuple(structure.space(name).size for name in space.within)
    return (*outer, space.size, space.size) if gauge.kind.matrix else (*outer, space.size)


def random_algebra(structure: Structure, gauge: Gauge, rng: np.random.Generator) -> Algebra:
    """A standard normal element of the algebra of a gauge: normal coordinates in its generators."""
    shape = algebra_shape(structure, gauge)
    noise = rng.standard_normal(shape)
    match gauge.kind:
        case GaugeKind.COMPLEX:
            return noise + 1j * rng.standard_normal(shape)
        case GaugeKind.ORTHOGONAL:
            return np.triu(noise, 1) - np.triu(noise, 1).swapaxes(-1, -2)
        case GaugeKind.CENTRED:
            basis = _complement(shape[-1])
            inner = np.triu(basis @ noise @ basis.T, 1)
            return basis.T @ (inner - inner.swapaxes(-1, -2)) @ basis
        case _:
            return noise


def _generators(kind: GaugeKind, shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Algebra]]:
    """Index and array of every generator of a gauge, one at a time."""
    if not kind.continuous:
        return
    basis = _complement(shape[-1]) if kind is GaugeKind.CENTRED else None
    outer, size = (shape[:-2], shape[-1]) if kind.matrix else (shape, 0)
    for copy in np.ndindex(*outer):
        for inner, value in _in_one_copy(kind, size):
            array = np.zeros(shape, dtype=np.complex128 if kind is GaugeKind.COMPLEX else np.float64)
            array[copy] = value if basis is None else basis.T @ value @ basis
            yield (*copy, *inner), array


def _in_one_copy(kind: GaugeKind, size: int) -> Iterator[tuple[tuple[int, ...], Algebra]]:
    """Generators for one unit, or for one copy of a matrix of some size."""
    if kind is GaugeKind.COMPLEX:
        yield (0,), np.asarray(1.0)
        yield (1,), np.asarray(1j)
    elif not kind.matrix:
        yield (), np.asarray(1.0)
    else:
        count = size - 1 if kind is GaugeKind.CENTRED else size
        for i, j in np.ndindex(count, count):
            if kind is not GaugeKind.LINEAR and i >= j:
                continue
            matrix = np.zeros((count, count))
            matrix[i, j] = 1.0
            yield (i, j), matrix if kind is GaugeKind.LINEAR else matrix - matrix.T


def _complement(size: int) -> Algebra:
    """Orthonormal rows that span the complement of (1, …, 1), as Helmert chose them; shape (size - 1, size)."""
    rows = np.tril(np.ones((size, size)), -1)[1:]
    rows[np.arange(size - 1), np.arange(1, size)] = -np.arange(1, size)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _check_algebra(structure: Structure, algebra: Mapping[str, Algebra]) -> None:
    known = {gauge.name: gauge for gauge in structure.gauges if gauge.kind.continuous}
    for name, given in algebra.items():
        if name not in known:
            listed = ", ".join(map(repr, known)) or "none"
            raise StructureError(f"{name!r} is no continuous gauge; known: {listed}")
        gauge, array = known[name], np.asarray(given)
        shape = algebra_shape(structure, gauge)
        if array.shape != shape or not np.isfinite(array).all():
            raise StructureError(f"algebra of gauge {name!r} needs finite numbers of shape {shape}, got {array.shape}")
        if np.iscomplexobj(array) and gauge.kind is not GaugeKind.COMPLEX:
            raise StructureError(f"algebra of gauge {name!r} must be real, got {array.dtype}")
        _check_antisymmetric(gauge, array)


def _check_antisymmetric(gauge: Gauge, array: Algebra) -> None:
    if gauge.kind not in (GaugeKind.ORTHOGONAL, GaugeKind.CENTRED):
        return
    size = np.abs(array).max(initial=1.0)
    if np.abs(array + array.swapaxes(-1, -2)).max(initial=0.0) > 1e-10 * size:
        raise StructureError(f"algebra of gauge {gauge.name!r} must be antisymmetric matrices: subtract the transpose")
    if gauge.kind is GaugeKind.CENTRED and np.abs(array.sum(-1)).max(initial=0.0) > 1e-10 * size:
        raise StructureError(f"rows of the algebra of gauge {gauge.name!r} must sum to zero")
