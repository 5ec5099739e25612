"""``fold_norms``: a model whose norms have no gain, so that the residual stream shows its rotations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weyl._memory import tensor_identity
from weyl.actions import act
from weyl.errors import InputError
from weyl.groups import Element, GaugeKind
from weyl.orbits._norms import TORCH, agree, norms, without_parameters
from weyl.orbits._readers import Linear, Readers
from weyl.orbits._views import Frame, frames
from weyl.structure import Structure
from weyl.trace import analyse, capture, check_call, copy_module, module_tensors

__all__ = ["Folded", "fold_norms"]

Place = tuple[str, object, int, int]
Output = Callable[[Any], Any]
# Why discover pins what it is told to.
HELD = "held fixed by the caller"
# A row of a system over GF(2): its leading entry, all entries, and the gauges whose product it is.
_Pivot = tuple[Place, frozenset[Place], frozenset[str]]


@dataclass(frozen=True, eq=False)
class Folded:
    """A model whose norms have no gain where the gain could be moved, and what stood in the way elsewhere.

    Parameters
    ----------
    model : nn.Module
        A copy that computes the same function.
    folded : tuple of str
        Paths of the norms whose gain is gone.
    untied : tuple of str
        Weights that shared a tensor with an embedding and have their own now.
    left : mapping of str to str
        For norms that keep a parameter, by path, the reason. One that is in ``folded`` as well keeps its bias only.
    notes : tuple of str
        Remarks for people.
    """

    model: nn.Module
    folded: tuple[str, ...]
    untied: tuple[str, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "left", MappingProxyType(dict(self.left)))


def fold_norms(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    structure: Structure | None = None,
    output: Output | None = None,
) -> Folded:
    r"""Move gains and biases of layer and RMS norms into the linear maps that read them.

    With :math:`\hat x` the normalised input, g the gain and β the bias of a norm,

    .. math:: W (g \odot \hat x + \beta) + b = (W \operatorname{diag} g)\, \hat x + (b + W \beta),

    so that the norm can do without parameters. A gain is moved by the symmetry that :func:`weyl.discover` finds: a
    scale and a sign for every unit of the norm, undone by its readers. A norm without parameters commutes with all
    rotations (RMS norm), or with those that keep the line of ones (layer norm): the residual stream of a pre-norm
    transformer then shows O(d), or O(d-1) × Z2.

    Parameters
    ----------
    model : nn.Module
        It is not changed. Norms are ``nn.LayerNorm``, ``nn.RMSNorm``, and modules whose class is called ``…LayerNorm``
        or ``…RMSNorm`` and that compute one of the two over the last dimension.
    args, kwargs, output
        As in :func:`weyl.discover`.
    structure : Structure, optional
        Of the model; discovered if not given.

    Returns
    -------
    Folded
        ``.model``, ``.folded``, ``.untied`` and ``.left``. Where the last gain of a tied model can only be moved once
        the head has a weight of its own, the head gets one. A reader without a bias gets one where it must take up a
        norm's. Mode, dtypes, devices and ``requires_grad`` stay.

    Raises
    ------
    InputError
        If the inputs do not fit the model, or its weights have no values (meta device).
    CaptureError
        If the model cannot be captured.
    StructureError
        If the structure is not that of the model.

    References
    ----------
    Ashkboos et al., "SliceGPT", ICLR 2024, section 3.2. Ashkboos et al., "QuaRot", NeurIPS 2024, stage 1a.

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.RMSNorm(3), nn.Linear(3, 2))
    >>> x = torch.ones(1, 4)
    >>> folded = fold_norms(net, (x,))
    >>> folded.folded, folded.model[1].weight is None
    (('1',), True)
    >>> structures = [weyl.discover(m, (x,)) for m in (net, folded.model)]
    >>> [sorted({gauge.kind.value for gauge in found.gauges if gauge.space}) for found in structures]
    [['scale', 'sign'], ['orthogonal']]
    """
    check_call(model, args, kwargs)
    for name, tensor in module_tensors(model).items():
        if tensor.is_meta:
            raise InputError(f"{name!r} is on the meta device and has no values: load the weights first")
    call = (tuple(args), kwargs, output)
    plan, untied = _planned(copy_module(model), call, structure)
    plan.move_gains()
    return plan.finished(untied)


def _planned(
    twin: nn.Module, call: tuple[Any, Any, Output | None], structure: Structure | None
) -> tuple[_Plan, tuple[str, ...]]:
    """What to fold, after untying the heads without whose own weight a norm could not be folded."""
    plan = _Plan(twin, call, structure)
    ties = tuple(tie for tie in _ties(twin) if not plan.holds(tie))
    if not plan.left or not ties:
        return plan, ()
    trial = _Plan(_untied(copy_module(twin), ties), call)
    gained = {norm: trial.moved_by(norm) for norm in trial.gains if norm in plan.left}
    needed = tuple(tie for tie in ties if any(tie in moved for moved in gained.values()))
    if not needed:
        return plan, ()
    if needed != ties:
        trial = _Plan(_untied(copy_module(twin), needed), call)
    for norm, moved in gained.items():
        if moved.isdisjoint(needed):
            trial.leave(norm, plan.left[norm])
    return trial, needed


class _Plan:
    """A copy of the model that may be changed, and for each of its norms how to move the gain, or why not."""

    def __init__(
        self, model: nn.Module, call: tuple[Any, Any, Output | None], structure: Structure | None = None
    ) -> None:
        self.model = model
        self.tensors = module_tensors(model)
        program = capture(model, *call)
        self.structure = structure if structure is not None else analyse(program, self.tensors)
        self._readers = Readers(program, self.tensors)
        self._names: dict[object, set[str]] = defaultdict(set)
        for name, tensor in self.tensors.items():
            self._names[tensor_identity(tensor)].add(name)
        self._flips: dict[str, list[_Pivot]] = {}
        self._norms = dict(norms(model))
        self._bare: dict[str, nn.Module] = {}
        self.gains: dict[str, tuple[Frame, ...]] = {}
        self.left: dict[str, str] = {}
        self.notes: list[str] = []
        for name, norm in self._norms.items():
            self._consider(name, norm)

    def _consider(self, name: str, norm: nn.Module) -> None:
        """Plan one norm."""
        bare = without_parameters(norm)
        reason = self._obstacle(name, norm)
        if reason is None and bare is None:
            reason = f"its class {type(norm).__name__} does not compute a layer or RMS norm of the last dimension"
        found = self._leading(name) if reason is None else ()
        if reason is None and not found:
            reason = self._why(name)
        if reason is not None or bare is None:
            self.left[name] = str(reason)
            return
        self._bare[name], self.gains[name] = bare, found
        if type(norm) not in TORCH and not agree(norm, bare, torch.finfo(torch.float64).eps):
            self.notes.append(f"{name} rounds to float32; the nn.{type(bare).__name__} in its place does not")

    def _obstacle(self, name: str, norm: nn.Module) -> str | None:
        gain = self.tensors.get(_join(name, "weight"))
        if gain is None or not {*dict(norm.named_parameters()), *dict(norm.named_buffers())} <= {"weight", "bias"}:
            return "it has other parameters than a gain and a bias: make those of them first"
        if _join(name, "weight") in self.structure.unused:
            return "it is not used on these inputs"
        if not bool(gain.isfinite().all()):
            return "its gain is not finite"
        if not bool((gain != 0).all()):
            return f"{int((gain == 0).sum())} of its gains are zero, and no reader can give a unit back"
        if norm._forward_hooks or norm._forward_pre_hooks:
            return "it has forward hooks: remove them first"
        return None

    def _own(self, name: str) -> set[str]:
        """All names of the gain and of the bias of a norm."""
        parts = (self.tensors.get(_join(name, part)) for part in ("weight", "bias"))
        return {own for tensor in parts if tensor is not None for own in self._names[tensor_identity(tensor)]}

    def _leading(self, name: str) -> tuple[Frame, ...]:
        """Scales that move the whole gain into readers, and nothing else; empty if there are none."""
        gain = self.tensors[_join(name, "weight")]
        left = torch.ones(gain.shape, dtype=torch.bool, device="cpu")
        found = []
        for frame in frames(self.structure, _join(name, "weight")):
            if frame.gauge.kind is not GaugeKind.SCALE or not frame.gauge.space or not self._leads(frame, name):
                continue
            view = frame.view(left)
            if bool(view.all()) and self._alike(frame, gain) and self.signs_of(frame) is not None:
                found.append(frame)
                view.fill_(False)
        return () if bool(left.any()) else tuple(found)

    def _leads(self, frame: Frame, name: str) -> bool:
        """Whether a scale acts on the norm with one exponent, and with the opposite one on matrices alone."""
        own = self._own(name)
        exponent = frame.weight.exponent
        if abs(exponent) != 1:
            return False
        return all(
            {weight.exponent for weight in weights} == {exponent if tensor in own else -exponent}
            and (tensor in own or len(self.structure.axes[tensor]) > 1)
            for tensor, weights in self.structure.weights[frame.gauge.name].items()
        )

    @staticmethod
    def _alike(frame: Frame, gain: Tensor) -> bool:
        """Whether a unit has the same gain wherever it occurs."""
        rows = _rows(frame, gain.detach())
        return bool((rows == rows[:1]).all())

    def signs_of(self, frame: Frame) -> frozenset[str] | None:
        """Signs that together flip what a scale multiplies, each of them once; None if there are none."""
        space = frame.gauge.space
        if space not in self._flips:
            pivots: list[_Pivot] = []
            self._flips[space] = pivots
            for gauge in self.structure.gauges:
                if gauge.kind is GaugeKind.SIGN and gauge.space == space:
                    places, names = _reduced(_support(self.structure.weights[gauge.name]), pivots)
                    if places:
                        pivots.append((next(iter(places)), places, names ^ {gauge.name}))
        places, names = _reduced(_support(self.structure.weights[frame.gauge.name]), self._flips[space])
        return None if places else names

    def moved_by(self, norm: str) -> frozenset[str]:
        """Tensors that change when the gain of a norm is moved."""
        return frozenset(tensor for frame in self.gains[norm] for tensor in self.structure.weights[frame.gauge.name])

    def _why(self, name: str) -> str:
        """Why the gain of a norm cannot be moved."""
        gain = self.tensors[_join(name, "weight")]
        others = self._readers.others(gain, self.tensors.get(_join(name, "bias")))
        if others:
            more = f" and {len(others) - 2} more" if len(others) > 2 else ""
            return f"its output is read by {', '.join(others[:2])}{more}, not by linear maps alone"
        pinned = self.structure.pinned.get(_join(name, "weight") + "[0]")
        because = f": it is held still ({pinned})" if pinned else ""
        return f"its readers are shared with something else that cannot follow its gain, or are held still{because}"

    def leave(self, name: str, reason: str) -> None:
        """Do not fold a norm after all."""
        del self.gains[name]
        self.left[name] = reason

    def holds(self, name: str) -> bool:
        """Whether the given structure holds a tensor still because the caller said so."""
        places = (f"{name}[{dim}]" for dim in range(self.tensors[name].ndim))
        return all(self.structure.pinned.get(place) == HELD for place in places)

    def move_gains(self) -> None:
        """Act with the inverse gains, so that all of them become 1."""
        unique = {frame.gauge.name: (frame, name) for name, several in self.gains.items() for frame in several}
        values: dict[str, Any] = {}
        for frame, name in unique.values():
            gain = self.tensors[_join(name, "weight")].detach().to("cpu", torch.float64)
            units = _rows(frame, gain)[0].numpy()
            values[frame.gauge.name] = np.abs(units) ** -float(frame.weight.exponent)
            if (units < 0).any():
                for sign in sorted(self.signs_of(frame) or ()):
                    values[sign] = values.get(sign, 1) * np.sign(units).astype(np.int8)
        group = self.structure.group
        element = Element(group.spaces, group.identity(), group.gauges, values)
        state = {name: tensor.detach() for name, tensor in self.tensors.items()}
        with torch.no_grad():
            for name, tensor in act(element, self.structure, state).items():
                if tensor is not state[name]:
                    self.tensors[name].copy_(tensor)

    def finished(self, untied: tuple[str, ...]) -> Folded:
        """Move the biases, and put norms without parameters in the places of the old ones."""
        grown: list[str] = []
        for name in self.gains:
            norm, bare = self._norms[name], self._bare[name]
            bias = self.tensors.get(_join(name, "bias"))
            if bias is not None:
                added = self._move_bias(name)
                if added is None:
                    bare.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
                    self.left[name] = "its bias stays: what reads it is no nn.Linear or the like that could add it"
                grown.extend(added or ())
            _put(self.model, norm, bare.train(norm.training))
        self.notes.extend(f"{name} is new: it takes up the bias of a norm" for name in grown)
        self.notes.extend(_without_fused_paths(self.model))
        if not self._norms:
            self.notes.append("the model has no layer or RMS norm with a gain")
        return Folded(self.model, tuple(self.gains), untied, self.left, tuple(self.notes))

    def _move_bias(self, name: str) -> list[str] | None:
        """Move the bias of a norm to its readers; names of biases that had to be added, or None if it must stay."""
        bias = self.tensors[_join(name, "bias")]
        readers = self._readers.linear(self.tensors[_join(name, "weight")], bias)
        if readers is None or bias.ndim > 1:
            return None
        by_identity = {tensor_identity(tensor): tensor for tensor in self.tensors.values()}
        single = {reader.weight: reader for reader in readers}.values()
        if not all(reader.bias is not None or self._may_grow(reader) for reader in single):
            return None
        grown = []
        for reader in single:
            weight = by_identity[reader.weight].detach()
            matrix = weight.double() if reader.out == 0 else weight.double().mT
            shift = matrix @ bias.detach().to(weight.device, torch.float64)
            if reader.bias is not None:
                own = by_identity[reader.bias].detach()
                own.copy_(own.double() + shift)
            else:
                trained = by_identity[reader.weight].requires_grad
                self.model.get_submodule(reader.module).bias = nn.Parameter(shift.to(weight.dtype), trained)
                grown.append(_join(reader.module, "bias"))
        return grown

    def _may_grow(self, reader: Linear) -> bool:
        """Whether a linear map without a bias is a module that adds one if it has it."""
        module = self.model.get_submodule(reader.module)
        if type(module) is not nn.Linear or tensor_identity(module.weight) != reader.weight:
            return False
        return len(self._names[reader.weight]) == 1


def _join(module: str, name: str) -> str:
    return f"{module}.{name}" if module else name


def _rows(frame: Frame, gain: Tensor) -> Tensor:
    """The gain by units: shape ``(occurrences, *outer, n)``."""
    view = frame.view(gain)
    return view.reshape(-1, *view.shape[view.dim() - frame.rank :])


def _support(weights: Mapping[str, Collection[Any]]) -> frozenset[Place]:
    """Where a gauge flips signs."""
    times: dict[Place, int] = defaultdict(int)
    for tensor, several in weights.items():
        for weight in several:
            times[tensor, weight.blocks, weight.dim, weight.factor] += weight.exponent
    return frozenset(place for place, count in times.items() if count % 2)


def _reduced(places: frozenset[Place], pivots: Iterable[_Pivot]) -> tuple[frozenset[Place], frozenset[str]]:
    """What is left of a row of a system over GF(2), and the gauges that were taken off."""
    names: frozenset[str] = frozenset()
    for lead, other, with_it in pivots:
        if lead in places:
            places, names = places ^ other, names ^ with_it
    return places, names


def _ties(model: nn.Module) -> tuple[str, ...]:
    """Weights of linear modules that are those of an embedding as well."""
    modules = list(model.named_modules())
    embedded = {tensor_identity(module.weight) for _, module in modules if isinstance(module, nn.Embedding)}
    return tuple(
        _join(name, "weight")
        for name, module in modules
        if isinstance(module, nn.Linear) and tensor_identity(module.weight) in embedded
    )


def _untied(model: nn.Module, names: Collection[str]) -> nn.Module:
    """Give weights tensors of their own, and tell the configuration, where there is one."""
    for name in names:
        module = model.get_submodule(name.rpartition(".")[0])
        weight = module.weight
        assert isinstance(weight, Tensor)
        module.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
        tied = getattr(model, "all_tied_weights_keys", None)
        if isinstance(tied, dict):
            tied.pop(name, None)
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and getattr(config, "tie_word_embeddings", False) is True:
            config.tie_word_embeddings = False
    return model


def _put(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put one module in every place of another."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)


def _without_fused_paths(model: nn.Module) -> Iterator[str]:
    """Switch off the fused path of torch's encoder layers, which reads gains."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.TransformerEncoderLayer) and None in (layer.norm1.weight, layer.norm2.weight):
            layer.activation_relu_or_gelu = 0
            yield f"{name or 'the model'}: the fused path of torch's encoder layer is off, as it needs gains"
