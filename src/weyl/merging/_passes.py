"""One pass of a network over data: what its layers put out, what its batch normalisations see, and corrections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from weyl._memory import tensor_identity
from weyl.errors import NotFiniteError, UsageError
from weyl.matching._batches import Network, read_batches, undisturbed
from weyl.merging._interpolate import State
from weyl.merging._moments import Hook, Moments, Vector, entering, leaving
from weyl.structure import Structure, Units

__all__ = ["Goal", "Layer", "Passed", "normalisations", "repairable", "run"]

# Standard deviations below this many roundings of the mean are those of a constant.
ROUNDINGS = 64
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, eq=False)
class Layer:
    """A module that can be corrected; its outputs have the units along ``dim``."""

    name: str
    module: nn.Module
    dim: int

    @property
    def biased(self) -> bool:
        return self.module.bias is not None

    def unitwise(self, output: Tensor) -> Tensor:
        return output.movedim(self.dim, 0).flatten(1)

    def spread(self, vector: Vector, output: Tensor) -> Tensor:
        """A number for every unit, as it multiplies outputs."""
        return vector.to(output.dtype).reshape(-1, *(1,) * (-self.dim - 1))


@dataclass(frozen=True, eq=False)
class Goal:
    """Mean and standard deviation that units are to have, in the precision of a dtype."""

    mean: Vector
    deviation: Vector
    eps: float

    def factors(self, found: Moments, biased: bool) -> tuple[Vector, Vector]:
        """By what to multiply outputs, and what to add."""
        scale = torch.where(self._varies(found), self.deviation / found.deviation(), 1.0)
        shift = self.mean - scale * found.mean if biased else torch.zeros_like(scale)
        return scale, shift

    def missed(self, found: Moments, biased: bool) -> float:
        """Largest relative deviation."""
        floor = self._constant(self.mean).clamp_min(1e-300)
        ratio = (found.deviation() - self.deviation).abs() / self.deviation.maximum(floor)
        off = float(torch.where(self._varies(found), ratio, 0.0).max())
        if biased:
            off = max(off, float(((found.mean - self.mean).abs() / self.deviation.maximum(floor)).max()))
        return off

    def _varies(self, found: Moments) -> Tensor:
        """Units that are no constant, whose rounding must not be blown up."""
        return found.deviation() > self._constant(found.mean)

    def _constant(self, mean: Vector) -> Vector:
        return ROUNDINGS * self.eps * (mean.abs() + self.deviation)


@dataclass(frozen=True, eq=False)
class Passed:
    """What one pass over the data left."""

    state: State
    moments: dict[str, Moments]


def run(
    model: nn.Module,
    state: Mapping[str, Tensor],
    data: Iterable[Any],
    norms: Mapping[str, nn.Module],
    layers: Mapping[str, Layer],
    goals: Mapping[str, Goal] | None = None,
) -> Passed:
    """Run a network over data: estimate batch normalisations anew, measure layers, and send on corrected outputs."""
    network = Network(model, state)
    seen = {name: Moments() for name in norms}
    put_out = {name: Moments() for name in layers}
    count = 0
    with ExitStack() as stack:
        for name, module in norms.items():
            stack.enter_context(entering(module, _pooled(name, seen[name])))
        for name, layer in layers.items():
            hook = _outputs(layer, put_out[name], goals[name] if goals else None)
            stack.enter_context(leaving(layer.module, hook))
        stack.enter_context(undisturbed(model, network.place, norms.values()))
        for batch in read_batches(data, network.place):
            network(batch)
            count += 1
    for name, moments in (seen | put_out).items():
        if moments.count and not moments.is_finite():
            raise NotFiniteError(f"activations at {name!r} have NaN or infinity: look at the weights and the data")
    return Passed(_with_statistics(state, seen, count), put_out)


def _pooled(name: str, moments: Moments) -> Hook:
    def hook(entered: Tensor) -> None:
        channels = entered.movedim(1, 0).flatten(1) if entered.ndim > 1 else entered[None]
        if channels.shape[1] < 2:
            raise UsageError(
                f"batch normalisation {name!r} got a batch with one value a channel, which has no variance: "
                "leave out batches of one sample (drop_last=True)"
            )
        moments.add(Moments(channels))

    return hook


def _outputs(layer: Layer, moments: Moments, goal: Goal | None) -> Hook:
    def hook(output: Tensor) -> Tensor | None:
        own = Moments(layer.unitwise(output))
        moments.add(own)
        if goal is None or not own.count:
            return None
        scale, shift = goal.factors(own, layer.biased)
        return output * layer.spread(scale, output) + layer.spread(shift, output)

    return hook


def _with_statistics(state: Mapping[str, Tensor], found: Mapping[str, Moments], batches: int) -> State:
    """A state with the statistics of what entered its batch normalisations, under all their names."""
    out = dict(state)
    for name, moments in found.items():
        if not moments.count:
            continue
        new = {
            "running_mean": moments.mean,
            "running_var": moments.variance(),
            "num_batches_tracked": torch.tensor(batches),
        }
        for what, value in new.items():
            place = f"{name}.{what}" if name else what
            if place in state:
                old = state[place]
                fresh = value.to(old.device, old.dtype)
                tie = tensor_identity(old)
                out.update({other: fresh for other, tensor in state.items() if tensor_identity(tensor) == tie})
    return out


def normalisations(model: nn.Module) -> dict[str, nn.Module]:
    """Batch normalisations that keep running statistics."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def repairable(
    structure: Structure, model: nn.Module, state: Mapping[str, Tensor], data: Iterable[Any]
) -> dict[str, Layer]:
    """Layers that a correction can be folded into, by name, in the order in which they are called."""
    return _used_once(model, state, data, _candidates(structure, model, state))


def _candidates(structure: Structure, model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Layer]:
    """Layers whose outputs are the units of a space, with weight and bias of their own."""
    spaces = {space.name for space in structure.spaces}
    ties = [_sharing(model.state_dict(keep_vars=True)), _sharing(state)]
    found = {}
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, *CONVOLUTIONS)):
            continue
        axes = structure.axes.get(f"{name}.weight", (None,))
        if not isinstance(axes[0], Units) or axes[0].space not in spaces:
            continue
        names = [f"{name}.weight", *([] if module.bias is None else [f"{name}.bias"])]
        if any(title not in tied or tied[title] > 1 for title in names for tied in ties):
            continue
        dim = -1 if isinstance(module, nn.Linear) else 1 - len(axes)
        found[name] = Layer(name, module, dim)
    return found


def _sharing(state: Mapping[str, Tensor]) -> dict[str, int]:
    """For every name, how many names its tensor has."""
    counts = Counter(map(tensor_identity, state.values()))
    return {name: counts[tensor_identity(tensor)] for name, tensor in state.items()}


def _used_once(
    model: nn.Module, state: Mapping[str, Tensor], data: Iterable[Any], layers: Mapping[str, Layer]
) -> dict[str, Layer]:
    """Layers that the first batch calls once, and not straight into a batch normalisation."""
    network = Network(model, state)
    calls: dict[str, list[tuple[Tensor, int]]] = {}
    normalised: set[tuple[int, int]] = set()

    def noted(name: str) -> Hook:
        return lambda output: calls.setdefault(name, []).append((output, output._version))

    def note(entered: Tensor) -> None:
        # The same memory, perhaps in another shape, and not written to since.
        normalised.add((entered.untyped_storage()._cdata, entered._version))

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.enter_context(leaving(layer.module, noted(name)))
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                stack.enter_context(entering(module, note))
        stack.enter_context(undisturbed(model, network.place))
        network(next(read_batches(data, network.place)))
    once = {name: several[0] for name, several in calls.items() if len(several) == 1}
    return {
        name: layers[name]
        for name, (output, version) in once.items()
        if (output.untyped_storage()._cdata, version) not in normalised
    }
