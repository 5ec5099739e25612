"""What a group element does to the state of an optimizer: moments of gradients move against the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weyl.actions._act import act
from weyl.actions._multiply import Multiplier, layout_of
from weyl.actions._state import check_structure
from weyl.errors import StructureError, UsageError
from weyl.groups import Element, Gauge, GaugeKind
from weyl.structure import Absorption, Structure, Weight

__all__ = ["act_optimizer"]


class _Moment(Enum):
    """What a tensor of an optimizer's state is made of."""

    GRADIENT = "gradients"
    SQUARE = "squared gradients"
    NORMALISED = "gradients divided by their root mean square"


_MOMENTS = {
    "exp_avg": _Moment.GRADIENT,
    "grad_avg": _Moment.GRADIENT,
    "momentum_buffer": _Moment.GRADIENT,
    "exp_avg_sq": _Moment.SQUARE,
    "max_exp_avg_sq": _Moment.SQUARE,
    "square_avg": _Moment.SQUARE,
}
# What may differ between two parameter groups without their moments being averages of another kind.
_FREE = frozenset(
    "params param_names name lr initial_lr min_lr max_lr weight_decay foreach fused capturable differentiable".split()
)
_Histories = Mapping[str, Mapping[str, Any]]


def act_optimizer(
    element: Element,
    structure: Structure,
    optimizer_state: Mapping[str, Any],
    names: Sequence[str] | nn.Module | None = None,
    *,
    approximate: bool = False,
) -> dict[str, Any]:
    r"""Move the state of an optimizer along with the weights; returns a new one.

    Weights move as ``θ' = Aθ + t``; gradients move against them, and what an optimizer keeps is made of gradients:

    .. math:: \nabla' = A^{-T} \nabla, \qquad m' = A^{-T} m, \qquad v' = (A^{-T} \circ A^{-T})\, v

    for first moments m (``exp_avg``, ``momentum_buffer``, ``grad_avg``) and second ones v (``exp_avg_sq``,
    ``max_exp_avg_sq``, ``square_avg``). The momentum of RMSprop is one of gradients divided by their root mean square:
    there the rows of A⁻ᵀ are divided by their length. Step counters stay. So permutations move all alike, a sign
    changes the first moments only, a scale c divides first moments by c and second ones by c²; translations and shifts
    change nothing.

    Permutations and signs commute with the steps of SGD, Adam, AdamW, RMSprop and their relatives: training goes on
    as it would have, in other places (up to rounding). Scales, matrices, and flips that move a constant into a bias
    do not, because a step is no longer the image of a step; nor is a decay of weights that SGD has put into its
    momentum. The moments are still those of the moved gradients.

    Parameters
    ----------
    element : Element
        That moved the weights.
    structure : Structure
        Of the model.
    optimizer_state : mapping
        ``optimizer.state_dict()`` of SGD, Adam, AdamW, NAdam, RAdam, RMSprop, or of any other optimizer that keeps
        tensors of these names and numbers only. It is not changed.
    names : sequence of str, or nn.Module, optional
        Names of the parameters in the order of the optimizer's indices; of a module, those of its parameters, for an
        optimizer that was made from ``module.parameters()``. Not needed if the optimizer was made from
        ``module.named_parameters()``.
    approximate : bool
        Whether second moments that mix may be moved by the formula above, which takes gradients of different entries
        for uncorrelated. An optimizer that keeps the diagonal alone does not know more.

    Returns
    -------
    dict
        For ``optimizer.load_state_dict``. All tensors are new: optimizers write to those that they are given.

    Raises
    ------
    StructureError
        If the element or a moment does not fit the structure, or a name is none of its parameters.
    UsageError
        If the state is no state of an optimizer or has tensors that are not known, the names are not as many as the
        indices, second moments would mix and ``approximate`` is not set, or what a flip adds to the gradient
        of a weight cannot be known: the optimizer has no moment of the bias, or averages it otherwise.

    References
    ----------
    Kingma, Ba, "Adam: a method for stochastic optimization", arXiv 1412.6980, Algorithm 1.

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    >>> adam = torch.optim.Adam(net.parameters())
    >>> net(torch.ones(5, 4)).square().sum().backward()
    >>> adam.step()
    >>> structure = weyl.discover(net, (torch.zeros(1, 4),))
    >>> g = structure.group.random(seed=1)
    >>> moved = act_optimizer(g, structure, adam.state_dict(), net)
    >>> bias = weyl.act(g, structure, {"0.bias": adam.state_dict()["state"][1]["exp_avg"]})["0.bias"]
    >>> torch.equal(moved["state"][1]["exp_avg"], bias)
    True
    """
    check_structure(structure)
    states, groups = _parts(optimizer_state)
    by_index = _names(groups, names)
    unknown = next((name for name in by_index.values() if name not in structure.axes), None)
    if unknown is not None:
        raise StructureError(
            f"the structure has no parameter {unknown!r}: pass the names as model.named_parameters() gives them"
        )
    histories = {name: _history(states, groups, index) for index, name in by_index.items()}
    transport = _Transport(element, structure, histories, approximate)
    moved: dict[Any, dict[str, Any]] = {index: copy.deepcopy(dict(entries)) for index, entries in states.items()}
    for key, kind in _moments(states, by_index):
        tensors = {
            name: states[index][key]
            for index, name in by_index.items()
            if isinstance(states.get(index, {}).get(key), Tensor)
        }
        results = transport.moved(key, kind, tensors)
        for index, name in by_index.items():
            if name in results and results[name] is not tensors[name]:
                moved[index][key] = results[name]
    return {**copy.deepcopy({k: v for k, v in optimizer_state.items() if k != "state"}), "state": moved}


def _parts(given: Mapping[str, Any]) -> tuple[Mapping[Any, Mapping[str, Any]], Sequence[Mapping[str, Any]]]:
    """States by index, and parameter groups."""
    if not isinstance(given, Mapping) or not {"state", "param_groups"} <= given.keys():
        raise UsageError("expected the state of an optimizer with 'state' and 'param_groups': optimizer.state_dict()")
    if not all(isinstance(entries, Mapping) for entries in given["state"].values()):
        raise UsageError("the optimizer keeps no mapping for every parameter: start it afresh instead")
    return given["state"], given["param_groups"]


def _names(groups: Sequence[Mapping[str, Any]], names: Sequence[str] | nn.Module | None) -> dict[Any, str]:
    """The parameter's name of every index."""
    indices = [index for group in groups for index in group["params"]]
    if names is None:
        if not all("param_names" in group for group in groups):
            raise UsageError("the optimizer does not know the names of its parameters: pass names, or the model")
        names = [name for group in groups for name in group["param_names"]]
    elif isinstance(names, nn.Module):
        names = [name for name, _ in names.named_parameters()]
    if isinstance(names, str) or len(names) != len(indices) or len(set(names)) != len(names):
        raise UsageError(
            f"the optimizer has {len(indices)} parameters, got {len(names)} names: pass a different one for each, "
            "in its order"
        )
    return dict(zip(indices, names, strict=True))


def _moments(states: Mapping[Any, Mapping[str, Any]], by_index: Mapping[Any, str]) -> list[tuple[str, _Moment]]:
    """Keys of the tensors that move, and what they are; refuses what is not known."""
    found: dict[str, _Moment] = {}
    for index, entries in states.items():
        for key, value in entries.items():
            if key in _MOMENTS and isinstance(value, Tensor):
                found[key] = _MOMENTS[key]
                if key == "momentum_buffer" and "square_avg" in entries:
                    found[key] = _Moment.NORMALISED
            elif not (value is None or isinstance(value, (bool, int, float, str)) or _is_number(value)):
                raise UsageError(
                    f"{key!r} of {by_index.get(index, index)!r} is no moment that can be moved; known: "
                    f"{', '.join(_MOMENTS)}. Start the optimizer afresh instead"
                )
    return list(found.items())


def _is_number(value: object) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0


def _history(
    states: Mapping[Any, Mapping[str, Any]], groups: Sequence[Mapping[str, Any]], index: Any
) -> dict[str, Any]:
    """What the averages of a parameter depend on beside its gradients: equal for two that may be added."""
    group = next(group for group in groups if index in group["params"])
    entries = states.get(index, {})
    step = entries.get("step")
    held = {key for key, value in entries.items() if key in _MOMENTS and isinstance(value, Tensor)}
    settings = {key: value for key, value in group.items() if key not in _FREE}
    return {"settings": settings, "step": None if step is None else float(step), "held": held}


class _Transport:
    """Moves moments of every kind by one element."""

    def __init__(self, element: Element, structure: Structure, histories: _Histories, approximate: bool) -> None:
        if element.spaces != structure.group.spaces or element.gauges not in ((), structure.gauges):
            raise StructureError("the element belongs to another group than the structure's")
        weights = {
            gauge: {name: tuple(w for w in several if not w.coefficient) for name, several in tensors.items()}
            for gauge, tensors in structure.weights.items()
        }
        # Moments are differences: nothing is added to them.
        self._linear = replace(structure, weights=weights, offsets={}, absorptions={})
        self._permuting = Element(element.spaces, element)
        self._element = element
        self._approximate = approximate
        self._shears = _shears(element, structure)
        _check_shears(self._shears, histories)

    def moved(self, key: str, kind: _Moment, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of one kind of moment, by name of the parameter."""
        against = _Against(self._element, self._linear, kind)
        if kind is not _Moment.GRADIENT and not self._approximate:
            mixed = {absorption.weight for absorption, _ in self._shears} | set(filter(against.mixes, tensors))
            first = next((name for name in tensors if name in mixed), None)
            if first is not None:
                raise UsageError(
                    f"the element mixes entries of {first!r}, and {key!r} knows {kind.value} of single entries: "
                    "pass approximate=True, act with permutations and signs only, or start the optimizer afresh"
                )
        out = {
            name: against.apply(name, tensor, fresh=tensor is not tensors[name])
            for name, tensor in act(self._permuting, self._linear, tensors).items()
        }
        return {name: self._sheared(kind, name, out) for name in out}

    def _sheared(self, kind: _Moment, name: str, moved: Mapping[str, Tensor]) -> Tensor:
        """The moment of a weight, less what flips let its bias take up: that of the bias times a constant a unit."""
        tensor = moved[name]
        length = torch.ones((), dtype=torch.float64, device=tensor.device)
        for absorption, constants in self._shears:
            if absorption.weight != name:
                continue
            factor = -constants if kind is not _Moment.SQUARE else constants.square()
            bias = moved[absorption.bias].reshape(-1, *[1] * (tensor.dim() - 1))
            shape = [1] * tensor.dim()
            shape[absorption.dim] = -1
            factor = factor.to(tensor.device).reshape(shape)
            tensor = (tensor.double() + factor * bias).to(tensor.dtype)
            length = length + factor.square()
        if kind is _Moment.NORMALISED and length.dim():
            tensor = (tensor / length.sqrt()).to(tensor.dtype)
        return tensor


def _shears(element: Element, structure: Structure) -> list[tuple[Absorption, Tensor]]:
    """Absorptions that the element makes use of, each with ``constant * (s_i - 1) / 2`` along the weight's units."""
    found: dict[Absorption, Tensor] = {}
    within = {space.name: space.within for space in element.spaces}
    for gauge in structure.gauges if element.gauges else ():
        for absorption in structure.absorptions.get(gauge.name, ()):
            signs = torch.from_numpy(element.values[gauge.name].astype(np.float64))
            size = structure.axes[absorption.weight][absorption.dim].size
            vector = torch.zeros(size, dtype=torch.float64, device="cpu")
            own = (0, [name for name, _, _ in absorption.block.factors].index(gauge.space))
            layout = layout_of(vector, {0: absorption.block}, own, within[gauge.space])
            layout.view(vector).add_(absorption.constant * (signs - 1) / 2)
            if vector.any():
                found[absorption] = vector
    return list(found.items())


def _check_shears(shears: Sequence[tuple[Absorption, Tensor]], histories: _Histories) -> None:
    """Refuse moments of weights and biases that are no averages of the same kind: they would be added."""
    for absorption, _ in shears:
        weight, bias = absorption.weight, absorption.bias
        if weight in histories and histories[weight] != histories.get(bias):
            why = "averages both differently" if bias in histories else f"does not have {bias!r}"
            raise UsageError(
                f"flips move a constant from {weight!r} into {bias!r}, so the gradient of the one enters that of the "
                f"other, and the optimizer {why}: act without signs, or start the optimizer afresh"
            )


class _Against(Multiplier):
    """The inverse transpose of an element's values, acting on moments of one kind."""

    def __init__(self, element: Element, structure: Structure, kind: _Moment) -> None:
        values = {gauge.name: _dual(gauge, element.values[gauge.name]) for gauge in element.gauges}
        given = {name: value for name, value in values.items() if value is not None}
        super().__init__(Element(element.spaces, element, element.gauges, given), structure)
        self._kind = kind

    def mixes(self, name: str) -> bool:
        """Whether an entry of a tensor becomes a combination of several."""
        return any(_mixes(gauge, super(_Against, self)._value(gauge, weight)) for gauge, weight in self.acting(name))

    def _value(self, gauge: Gauge, weight: Weight) -> NDArray[np.generic] | None:
        value = super()._value(gauge, weight)
        if value is None or self._kind is _Moment.GRADIENT:
            return value
        if self._kind is _Moment.SQUARE:
            value = np.asarray(np.square(value))
        elif gauge.kind is GaugeKind.COMPLEX:
            value = value / np.linalg.norm(value, axis=0)
        else:
            value = value / (np.linalg.norm(value, axis=-1, keepdims=True) if gauge.kind.matrix else np.abs(value))
        value = np.asarray(value)
        plain = not gauge.kind.matrix and gauge.kind is not GaugeKind.COMPLEX
        return None if plain and (value == 1).all() else value

    def _rotate(self, work: Tensor, gauge: Gauge, weight: Weight) -> None:
        if self._kind is not _Moment.SQUARE:
            super()._rotate(work, gauge, weight)
            return
        layout = self._layout(work, gauge, weight)
        real, imaginary = layout.view(work), layout.view(work, weight.partner * work.stride(weight.dim))
        value = self._tensor(gauge, weight, work)
        a, b = value[0], value[1]
        # Squares of both parts are added where the parts themselves are turned.
        turned = a * real + b * imaginary
        imaginary.mul_(a).add_(b * real)
        real.copy_(turned)


def _dual(gauge: Gauge, values: NDArray[Any]) -> NDArray[Any] | None:
    """Values of which every power is the inverse transpose of that of the given ones; None for additions."""
    match gauge.kind:
        case GaugeKind.SCALE:
            return 1 / values
        case GaugeKind.COMPLEX:
            return values / (values.real**2 + values.imag**2)
        case GaugeKind.LINEAR:
            return np.linalg.inv(values).swapaxes(-1, -2)
        case GaugeKind.TRANSLATION:
            return None
        case _:
            return values


def _mixes(gauge: Gauge, value: NDArray[np.generic] | None) -> bool:
    if value is None:
        return False
    if gauge.kind.matrix:
        return bool((np.count_nonzero(value, axis=-1) > 1).any())
    return gauge.kind is GaugeKind.COMPLEX and bool((np.count_nonzero(value, axis=0) > 1).any())
