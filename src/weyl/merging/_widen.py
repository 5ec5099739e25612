"""Two networks side by side in one: which tensors write and which read units, and what every position is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weyl._memory import tensor_identity
from weyl.errors import StructureError
from weyl.groups import GaugeKind
from weyl.structure import Axis, Cases, Fixed, Product, Structure, Sum, Units, spaces_of

__all__ = ["Plan", "Roles", "widened"]

State = dict[str, Tensor]
Indices = NDArray[np.int64]
# What a position of the merged network is made of: a position of each network, or -1.
Sources = tuple[Indices, Indices]

INPUT = "an input of the model"
OUTPUT = "an output of the model"
LOOKED_UP = "looked up by position"
_MIXED = (GaugeKind.ORTHOGONAL, GaugeKind.CENTRED, GaugeKind.COMPLEX)
# These normalise over units, or tie units together, so that two networks side by side are not independent.
_ACROSS_UNITS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.MultiheadAttention)
# Where the outputs of a weight stand: along its first dimension, or along its second.
_FIRST = (nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.RNNBase)
_SECOND = (nn.Embedding, nn.EmbeddingBag, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Plan:
    """What becomes of the units of a space: units of a that are averaged with their partners, and those that are not.

    New units are the pairs, then what is kept of a, then of b, each in the order of the units of a.
    """

    pairs: Indices
    apart: Indices

    @classmethod
    def of(cls, similarity: NDArray[np.float64], width: float) -> Plan:
        size = len(similarity)
        budget = min(2 * size, max(size, int(np.floor(width * size + 0.5))))
        order = np.argsort(-similarity, kind="stable")
        number = 2 * size - budget
        return cls(np.sort(order[:number]), np.sort(order[number:]))

    @property
    def sources(self) -> Sources:
        none = np.full(len(self.apart), -1)
        return np.concatenate([self.pairs, self.apart, none]), np.concatenate([self.pairs, none, self.apart])


class Roles:
    """Which dimension of every tensor is written to, after a check that two networks can stand side by side."""

    def __init__(self, structure: Structure, model: nn.Module | None, output: str) -> None:
        self.structure = structure
        self.stacked: set[str] = set()
        if output == "both":
            if len(structure.logit_shifts) != 1:
                raise StructureError(
                    "output='both' needs a model that ends in one linear layer whose outputs nothing else reads: "
                    "pass output='average'"
                )
            self.stacked = {structure.logit_shifts[0].weight, structure.logit_shifts[0].bias} - {""}
        _check_spaces(structure)
        modules = dict(model.named_modules()) if model is not None else {}
        self.written: dict[str, int | None] = {}
        # Tensors whose layout nothing is known of.
        self.assumed: list[str] = []
        for name, axes in structure.axes.items():
            module = modules.get(name.rpartition(".")[0])
            _check_module(name, module, len(axes))
            if len(axes) < 2:
                self.written[name] = 0 if axes else None
                continue
            known = _known(structure, name, module)
            if known is None:
                self.assumed.append(name)
                known = _likely(structure, name) if model is not None else 0
            self.written[name] = known

    def check(self, name: str, a: Tensor, b: Tensor) -> bool:
        """Whether a tensor is zipped; not if it is the same for all units of both. Refuses one that cannot be."""
        axes = self.structure.axes[name]
        held = not any(True for axis in axes for _ in spaces_of(axis))
        if not a.is_floating_point() or self._same(name, held, a, b) or name in self.structure.unused:
            return False
        for dim, axis in enumerate(axes):
            why = self.structure.pinned.get(f"{name}[{dim}]", "it belongs to no unit")
            if dim == self.written[name] and _has_fixed(axis) and why != OUTPUT:
                raise StructureError(
                    f"{name!r} writes in places that are held still ({why}), where two networks cannot be kept apart: "
                    "only outputs of the model are averaged; if its outputs stand along another dimension, pass model="
                )
            if dim != self.written[name] and why == OUTPUT:
                raise StructureError(f"{name!r} reads what is also an output of the model, and outputs are averaged")
        if held and not axes:
            raise StructureError(f"{name!r} is a number that differs between the networks and belongs to no unit")
        return True

    def _same(self, name: str, held: bool, a: Tensor, b: Tensor) -> bool:
        """Whether one tensor is right for both; outputs that stand side by side are twice as many all the same."""
        return held and name not in self.stacked and torch.equal(a, b)

    def sources(self, name: str, dim: int, axis: Axis, plans: Mapping[str, Plan]) -> Sources:
        if dim == self.written[name] and name in self.stacked:
            places, none = np.arange(axis.size), np.full(axis.size, -1)
            return np.concatenate([places, none]), np.concatenate([none, places])
        return _sources(name, axis, plans)


def _check_spaces(structure: Structure) -> None:
    """Refuse spaces whose units act on each other."""
    for space in (*structure.indices, *structure.spaces):
        why = ""
        if space.within:
            why = f"lives within {', '.join(map(repr, space.within))}"
        elif not space.permuted:
            why = "has units that keep their places"
        elif any(gauge.space == space.name and gauge.kind in _MIXED for gauge in structure.gauges):
            why = "is normalised as a whole, or turned in pairs"
        if why:
            raise StructureError(
                f"space {space.name!r} {why}: units of two networks would act on each other; "
                "merge at width 1, weyl.merge(structure, [a, b])"
            )


def _check_module(name: str, module: nn.Module | None, rank: int) -> None:
    """Refuse layers that act across units."""
    if isinstance(module, _ACROSS_UNITS):
        raise StructureError(
            f"{name!r} belongs to {type(module).__name__}, which acts across units, so two networks cannot stand side "
            "by side: merge at width 1, weyl.merge(structure, [a, b])"
        )
    if getattr(module, "groups", 1) != 1 and rank > 1:
        raise StructureError(f"{name!r} belongs to a convolution in groups, whose number does not grow with its units")


def _known(structure: Structure, name: str, module: nn.Module | None) -> int | None:
    """The dimension along which a weight's outputs stand, where its module or its use tells."""
    if isinstance(module, _SECOND) or structure.pinned.get(f"{name}[0]") == LOOKED_UP:
        return 1
    return 0 if isinstance(module, _FIRST) else None


def _likely(structure: Structure, name: str) -> int:
    """The same for a module of an unknown class: where outputs of the model stand, or its bias, and not its inputs."""
    why = [structure.pinned.get(f"{name}[{dim}]") for dim in range(len(structure.axes[name]))]
    if why.count(OUTPUT) == 1:
        return why.index(OUTPUT)
    axes, bias = structure.axes[name], structure.axes.get(f"{name.rpartition('.')[0]}.bias", ())
    if name.endswith(".weight") and len(bias) == 1 and axes.count(bias[0]) == 1:
        return axes.index(bias[0])
    return 1 if len(why) == 2 and why[0] == INPUT else 0


def _has_fixed(axis: Axis) -> bool:
    """Whether some positions belong to no unit."""
    match axis:
        case Units():
            return False
        case Sum(parts):
            return any(map(_has_fixed, parts))
        case Product(factors):
            return all(map(_has_fixed, factors))
        case _:
            return True


def _sources(name: str, axis: Axis, plans: Mapping[str, Plan]) -> Sources:
    """What every position of a merged axis is made of."""
    match axis:
        case Units(space, _):
            return plans[space].sources
        case Fixed(size):
            return np.arange(size), np.arange(size)
        case Sum(parts):
            found, base = [], 0
            for part in parts:
                found.append([np.where(old >= 0, old + base, -1) for old in _sources(name, part, plans)])
                base += part.size
            return np.concatenate([old for old, _ in found]), np.concatenate([old for _, old in found])
        case Product(factors) if sum(any(True for _ in spaces_of(factor)) for factor in factors) <= 1:
            sources: Sources = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
            for factor in factors:
                inner = _sources(name, factor, plans)
                sources = tuple(  # type: ignore[assignment]
                    np.where((far[:, None] >= 0) & (near >= 0), far[:, None] * factor.size + near, -1).ravel()
                    for far, near in zip(sources, inner, strict=True)
                )
            return sources
        case Product() | Cases():
            raise StructureError(f"{name!r} has an axis {axis}, on which units of two networks cannot be kept apart")


def widened(roles: Roles, plans: Mapping[str, Plan], a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> State:
    """All tensors of the merged network; ties stay."""
    done: dict[object, tuple[object, Tensor]] = {}
    out = {}
    for name, tensor in a.items():
        axes = roles.structure.axes.get(name)
        if axes is None or not roles.check(name, tensor, b[name]):
            out[name] = tensor
            continue
        role = (axes, roles.written[name], name in roles.stacked)
        key = tensor_identity(tensor)
        if key not in done:
            sources = [roles.sources(name, dim, axis, plans) for dim, axis in enumerate(axes)]
            done[key] = role, _zipped(tensor, b[name], sources, roles.written[name])
        if done[key][0] != role:
            raise StructureError(f"{name!r} is one tensor in two roles, which would become two: untie it first")
        out[name] = done[key][1]
    return out


def _zipped(a: Tensor, b: Tensor, sources: list[Sources], written: int | None) -> Tensor:
    """One tensor, summed in float64 and rounded once."""
    total: Tensor | float = 0.0
    for network, tensor in enumerate((a, b)):
        part = tensor.detach().double()
        for dim, both in enumerate(sources):
            old = torch.from_numpy(both[network]).to(tensor.device)
            there = (old >= 0).reshape(-1, *[1] * (tensor.dim() - dim - 1))
            part = part.index_select(dim, old.clamp(min=0)) * there
        total = total + part
    if written is not None:
        averaged = torch.from_numpy((sources[written][0] >= 0) & (sources[written][1] >= 0)).to(a.device)
        total = total * (1 - averaged.double() / 2).reshape(-1, *[1] * (a.dim() - written - 1))
    return torch.as_tensor(total).to(a.dtype)
