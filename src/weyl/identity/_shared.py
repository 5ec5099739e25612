"""The part of a structure that two states have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from weyl._text import one_line
from weyl.errors import MismatchError
from weyl.groups import Gauge, GaugeKind, Space
from weyl.structure import Absorption, Axis, Fixed, Structure, Weight, spaces_of

__all__ = ["Shared", "shared_part"]

State = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Shared:
    """What two states have in common.

    Parameters
    ----------
    structure : Structure
        The tensors that both have, and the spaces and gauges that act on them.
    a, b : dict of str to Tensor
        The states, restricted to it; tensors are views of those that were given.
    left_out : tuple of str
        One line for every tensor that is not compared, or not as a whole.
    """

    structure: Structure
    a: dict[str, Tensor]
    b: dict[str, Tensor]
    left_out: tuple[str, ...] = ()


def shared_part(structure: Structure, a: State, b: State) -> Shared:
    """Restrict a structure and two states to the tensors that both have.

    Where positions that cannot move differ in number (a vocabulary that was resized, another number of classes), the
    first ones of both are kept. A tensor with units is left out if their number is not that of the structure.

    Parameters
    ----------
    structure : Structure
        Of one of the models, or of both.
    a, b : mapping of str to tensor
        State dicts; not changed.

    Returns
    -------
    Shared

    Raises
    ------
    MismatchError
        If no tensor is shared.

    Examples
    --------
    >>> import weyl
    >>> from torch import nn, zeros
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2))
    >>> other = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 5))
    >>> shared = shared_part(weyl.discover(net, (zeros(1, 4),)), net.state_dict(), other.state_dict())
    >>> shared.b["2.weight"].shape
    torch.Size([2, 3])
    >>> shared.left_out[0]
    '2.weight: (2, 3) against (5, 3), the first 2 of dimension 0 are compared'
    """
    axes: dict[str, tuple[Axis, ...]] = {}
    cut: dict[str, tuple[int, ...]] = {}
    lines = []
    held = _blocked(structure)
    for name, old in structure.axes.items():
        problem, sizes = _missing(name, a, b) or _odd(name, a[name], b[name]), None
        if not problem:
            sizes = _common(old, a[name], b[name], held.get(name, frozenset()))
            problem = "" if sizes is not None else _against(name, a[name], b[name])
        if problem or sizes is None:
            lines.append(problem)
            continue
        changed = [dim for dim, axis in enumerate(old) if axis.size != sizes[dim]]
        if changed or a[name].shape != b[name].shape:
            cut[name] = sizes
            parts = [dim for dim in range(len(old)) if a[name].shape[dim] != b[name].shape[dim]]
            kept = " and ".join(f"the first {sizes[dim]} of dimension {dim}" for dim in parts or changed)
            lines.append(f"{_against(name, a[name], b[name])}, {kept} are compared")
        axes[name] = tuple(Fixed(sizes[dim]) if dim in changed else axis for dim, axis in enumerate(old))
    if not axes:
        shown = f": {'; '.join(lines[:5])}" if lines else ""
        raise MismatchError(f"the two states share no tensor of the structure{shown}")
    lines += [f"not in the structure: {one_line(n)}" for n in dict.fromkeys([*a, *b]) if n not in structure.axes]
    if not cut and len(axes) == len(structure.axes):
        return Shared(structure, {n: a[n] for n in axes}, {n: b[n] for n in axes}, tuple(lines))
    found = _restricted(structure, axes, set(cut))
    return Shared(found, _cut(a, axes, cut), _cut(b, axes, cut), tuple(lines))


def _missing(name: str, a: State, b: State) -> str:
    shown = one_line(name)
    if name not in a and name not in b:
        return f"in neither: {shown}"
    if name not in b:
        return f"only in the first: {shown}"
    return f"only in the second: {shown}" if name not in a else ""


def _odd(name: str, a: object, b: object) -> str:
    """Why the numbers of a tensor cannot be compared, if they cannot."""
    for which, tensor in (("first", a), ("second", b)):
        if not isinstance(tensor, Tensor):
            return f"{one_line(name)}: {type(tensor).__name__}, no tensor, in the {which}"
        if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            return f"{one_line(name)}: not a dense tensor of real numbers in the {which}"
        if tensor.is_floating_point() and tensor.itemsize < 2:
            return f"{one_line(name)}: {str(tensor.dtype).removeprefix('torch.')} in the {which}"
    assert isinstance(a, Tensor) and isinstance(b, Tensor)
    if a.is_floating_point() != b.is_floating_point():
        return f"{one_line(name)}: {str(a.dtype).removeprefix('torch.')} against {str(b.dtype).removeprefix('torch.')}"
    return ""


def _against(name: str, a: Tensor, b: Tensor) -> str:
    return f"{one_line(name)}: {tuple(a.shape)} against {tuple(b.shape)}"


def _blocked(structure: Structure) -> dict[str, frozenset[int]]:
    """Dimensions that gauges restrict to blocks, or biases take constants up along: their positions have a meaning."""
    found: dict[str, set[int]] = {}
    for tensors in structure.weights.values():
        for name, weights in tensors.items():
            found.setdefault(name, set()).update(dim for weight in weights for dim, _ in weight.blocks)
    return {name: frozenset(dims) for name, dims in found.items()}


def _common(axes: tuple[Axis, ...], a: Tensor, b: Tensor, held: frozenset[int]) -> tuple[int, ...] | None:
    """The sizes at which two tensors and an expression agree; None if they do not."""
    if not len(axes) == a.dim() == b.dim():
        return None
    sizes = []
    for dim, axis in enumerate(axes):
        ours, theirs = int(a.shape[dim]), int(b.shape[dim])
        if ours == theirs == axis.size:
            sizes.append(ours)
        elif isinstance(axis, Fixed) and dim not in held and min(ours, theirs) > 0:
            sizes.append(min(ours, theirs))
        else:
            return None
    return tuple(sizes)


def _cut(state: State, axes: Mapping[str, object], cut: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    out = {}
    for name in axes:
        tensor = state[name]
        for dim, size in enumerate(cut.get(name, ())):
            tensor = tensor.narrow(dim, 0, size)
        out[name] = tensor
    return out


def _restricted(structure: Structure, axes: dict[str, tuple[Axis, ...]], cut: set[str]) -> Structure:
    """The structure of some of its tensors, of other sizes where they were cut."""
    present = {space for several in axes.values() for axis in several for space in spaces_of(axis)}
    weights = {
        gauge.name: {n: w for n, w in structure.weights.get(gauge.name, {}).items() if n in axes}
        for gauge in structure.gauges
    }
    gauges = [g for g in structure.gauges if (g.space in present or not g.space) and _settled(g, weights[g.name])]
    names = {gauge.name for gauge in gauges}
    return replace(
        structure,
        spaces=_kept(structure.spaces, present),
        indices=_kept(structure.indices, present),
        axes=axes,
        opaque=(),
        unused=tuple(name for name in structure.unused if name in axes),
        pinned={},
        gauges=tuple(replace(g, carries=tuple(c for c in g.carries if c[0] in names)) for g in gauges),
        weights={name: tensors for name, tensors in weights.items() if name in names},
        offsets={name: offset for name, offset in structure.offsets.items() if name in axes},
        absorptions={
            name: tuple(one for one in several if _absorbs(one, axes, cut))
            for name, several in structure.absorptions.items()
            if name in names
        },
        overlap=(0, 0),
        logit_shifts=tuple(s for s in structure.logit_shifts if s.weight in axes and (not s.bias or s.bias in axes)),
    )


def _kept(spaces: tuple[Space, ...], present: set[str]) -> tuple[Space, ...]:
    return tuple(
        replace(space, within=tuple(outer for outer in space.within if outer in present))
        for space in spaces
        if space.name in present
    )


def _settled(gauge: Gauge, tensors: Mapping[str, tuple[Weight, ...]]) -> bool:
    """Whether a gauge acts on what is left, and can still be brought to a normal form by it.

    Of a scale that only multiplies, everything would be brought to zero: without the tensors that it divides, it is
    no gauge of what is left.
    """
    exponents = {weight.exponent for weights in tensors.values() for weight in weights}
    if gauge.kind in (GaugeKind.SCALE, GaugeKind.LINEAR, GaugeKind.COMPLEX):
        return any(e > 0 for e in exponents) and any(e < 0 for e in exponents)
    return bool(exponents)


def _absorbs(one: Absorption, axes: Mapping[str, tuple[Axis, ...]], cut: set[str]) -> bool:
    """Whether a bias can still take up a constant: it and the weight are left, with as many rows."""
    if one.bias not in axes or one.weight not in axes:
        return False
    whole = one.weight not in cut and one.bias not in cut
    return whole or (one.dim != 0 and axes[one.bias][0].size == axes[one.weight][0].size)
