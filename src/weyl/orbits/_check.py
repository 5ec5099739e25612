"""``check_tangents``: the differential proof. Along every tangent the output of the model must not change."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from weyl._memory import tensor_identity
from weyl.actions._state import check_seed, check_state
from weyl.errors import InputError
from weyl.groups import Gauge
from weyl.orbits._tangents import direction, random_algebra
from weyl.orbits._views import is_statistic
from weyl.proof._state import Sampler, State, cast, state_of
from weyl.proof._verify import FACTOR, SLACK, Run, obstacle
from weyl.structure import Structure
from weyl.trace import check_call, discover

__all__ = ["GaugeCheck", "TangentCheck", "check_tangents"]

# Where forward mode does not work: step relative to the state, and what its truncation and rounding may explain.
STEP = 1e-3
DIFFERENCE_TOLERANCE = 1e-8
# How well forward mode must agree with the difference to be believed; some kernels ignore part of their arguments.
AGREEMENT = 1e-2
SMALL_STEP = 1e-6  # few kinks of activations lie so near
CONTROLS = 16
Derivative = Callable[[State, State, Any], list[Tensor]]


@dataclass(frozen=True)
class GaugeCheck:
    """What the derivatives along the tangents of one gauge were.

    Parameters
    ----------
    gauge : str
        Name of the gauge.
    derivative : float
        Largest directional derivative of the outputs, over that along a random direction of the same norm; NaN if the
        gauge has no tangents at these weights, or the random direction changes nothing.
    control : float
        The same when only one weight of the gauge acts, the first that is clearly seen. For a gauge that has no more
        than one (a dead bias), that of the random direction, which is 1.
    detected : bool
        Whether the control was clearly above the tolerance.
    method : str
        ``forward`` for forward-mode differentiation, ``difference`` for central differences with one step of
        Richardson's extrapolation.
    tolerance : float
        What rounding may explain: ``1000 · eps · √(operators)`` for forward mode, ``1e-8`` for differences.
    """

    gauge: str
    derivative: float
    control: float
    detected: bool
    method: str
    tolerance: float

    @property
    def verdict(self) -> str:
        """``holds``, ``fails`` or ``inconclusive``."""
        if math.isnan(self.derivative):
            return "inconclusive"
        if self.derivative > self.tolerance:
            return "fails"
        return "holds" if self.detected else "inconclusive"


@dataclass(frozen=True)
class TangentCheck:
    """Outcome of :func:`check_tangents`.

    Parameters
    ----------
    verdict : str
        ``holds``, ``fails`` or ``inconclusive``: the worst of the gauges.
    reason : str
        One sentence.
    gauges : tuple of GaugeCheck
        One for every continuous gauge.
    trials : int
        Random tangents of every gauge.
    precision : str
        Precision in which the trials ran.
    """

    verdict: str
    reason: str
    gauges: tuple[GaugeCheck, ...]
    trials: int
    precision: str = "float64"

    @property
    def holds(self) -> bool:
        """Whether all derivatives vanished, and the controls did not."""
        return self.verdict == "holds"

    @property
    def max_relative_derivative(self) -> float:
        """Largest relative derivative over the gauges; 0 if there is no continuous gauge."""
        return max((check.derivative for check in self.gauges), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; values that are not finite become None."""
        gauges = [
            {key: _finite(value) for key, value in asdict(check).items()} | {"verdict": check.verdict}
            for check in self.gauges
        ]
        largest = _finite(self.max_relative_derivative)
        return asdict(self) | {"gauges": gauges, "holds": self.holds, "max_relative_derivative": largest}


def check_tangents(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    structure: Structure | None = None,
    trials: int = 8,
    seed: int = 0,
    output: Callable[[Any], Any] | None = None,
) -> TangentCheck:
    r"""Check the continuous symmetry of a model by differentiation: a second proof beside :func:`weyl.verify`.

    For random elements A of the algebra of every continuous gauge the derivative
    :math:`\mathrm{d} f(\theta)[A \cdot \theta]` must vanish to rounding, relative to that along a random direction of
    the same norm. All in float64 on a copy, in evaluation mode; the model is not changed. The first trial uses the
    model's own weights and the given inputs, further ones weights near them in general position and random inputs.

    Parameters
    ----------
    model, args, kwargs, output
        As in :func:`weyl.discover`.
    structure : Structure, optional
        What to check; discovered if not given.
    trials : int
        Random tangents of every gauge, at least 2.
    seed : int
        Seed of private generators.

    Returns
    -------
    TangentCheck
        ``holds`` also if there is no continuous gauge. ``inconclusive`` if wrong directions, in which one
        weight acts without the others, went unseen.

    Raises
    ------
    InputError
        If ``trials`` is no whole number of at least 2, or the inputs do not fit the model.
    StructureError
        If the structure is that of another model.
    UsageError
        If the seed is not a non-negative integer.

    Notes
    -----
    Forward-mode differentiation is believed for a gauge only where it agrees with a central difference along a random
    direction of the tensors that the gauge moves: some operators cannot be differentiated by all that they take.
    Elsewhere differences are used, and their tolerance. Batch normalisation is made differentiable by its running
    statistics. Random directions leave running statistics as they are.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> check = check_tangents(net, (torch.ones(2, 4),))
    >>> check.holds, check.gauges[0].method
    (True, 'forward')
    """
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 2:
        raise InputError(
            f"trials must be a whole number, at least 2: the second has weights in general position; got {trials!r}"
        )
    check_seed(seed)
    check_call(model, args, kwargs)
    if structure is None:
        structure = discover(model, args, kwargs, output=output)
    check_state(structure, model.state_dict())
    hindrance = obstacle(model)
    if hindrance:
        return TangentCheck("inconclusive", hindrance, (), 0)
    devices = sorted({t.device.index or 0 for t in model.state_dict().values() if t.device.type == "cuda"})
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        run = Run(model, (tuple(args), dict(kwargs or {})), output, structure, seed, devices)
        checks = tuple(
            _Check(run, structure, gauge, [seed, number]).made(trials)
            for number, gauge in enumerate(structure.gauges)
            if gauge.kind.continuous
        )
    return TangentCheck(*_judged(checks), checks, trials, str(run.lowest).removeprefix("torch."))


def _judged(checks: Sequence[GaugeCheck]) -> tuple[str, str]:
    if not checks:
        return "holds", "no continuous gauge: there is nothing to differentiate along"
    for verdict in ("fails", "inconclusive"):
        for check in checks:
            if check.verdict == verdict:
                return verdict, _reason(check)
    largest = max(check.derivative for check in checks)
    return "holds", f"every derivative vanishes to {largest:.1e}; those of wrong directions do not"


def _reason(check: GaugeCheck) -> str:
    if math.isnan(check.derivative):
        return f"gauge {check.gauge!r} has no tangents at these weights, or nothing changes the output"
    if check.verdict == "fails":
        return (
            f"along {check.gauge!r} the output changes by {check.derivative:.1e} of what a random direction does, "
            f"rounding explains {check.tolerance:.1e}"
        )
    return f"a wrong direction of {check.gauge!r} went unseen, so a derivative that vanishes proves nothing"


class _Check:
    """The trials of one gauge."""

    def __init__(self, run: Run, structure: Structure, gauge: Gauge, seed: list[int]) -> None:
        self.run = run
        self.structure = structure
        self.gauge = gauge
        self.rng = np.random.default_rng(seed)
        self.sampler = Sampler(int(self.rng.integers(1 << 32)))
        self.derivative: Derivative = self._forward

    def made(self, trials: int) -> GaugeCheck:
        """Differentiate in all trials."""
        points = [self._point(trial) for trial in range(trials)]
        forward = self._forward_agrees(*points[1])
        self.derivative = self._forward if forward else self._difference
        ratios = [self._ratio(*point) for point in points]
        tolerance = SLACK * torch.finfo(self.run.lowest).eps * math.sqrt(self.run.operators)
        tolerance = tolerance if forward else max(tolerance, DIFFERENCE_TOLERANCE)
        control = self._control(points[1:], FACTOR * tolerance)
        ratio = math.nan if any(map(math.isnan, ratios)) else max(ratios)
        method = "forward" if forward else "difference"
        return GaugeCheck(self.gauge.name, ratio, control, control > FACTOR * tolerance, method, tolerance)

    def _point(self, trial: int) -> tuple[State, Any]:
        """Weights and inputs of a trial."""
        state, inputs = state_of(self.run.twin), cast(self.run.inputs, self.run.dtype)
        return (self.sampler.general(state), self.sampler.inputs(inputs)) if trial else (state, inputs)

    def _ratio(self, state: State, inputs: Any) -> float:
        """Derivative along a random tangent over that along a random direction; NaN if either is nothing."""
        tangent = self._tangent(self.structure, state)
        random = self._size(state, self._random_like(state, _norm(tangent)), inputs)
        return self._size(state, tangent, inputs) / random if random else math.nan

    def _control(self, points: Sequence[tuple[State, Any]], enough: float) -> float:
        """The largest ratio when only one weight of the gauge acts; a gauge that has no more is its own control."""
        weights = self.structure.weights[self.gauge.name]
        single = [(name, weight) for name, several in weights.items() for weight in several]
        if len(single) == 1:
            return 1.0
        largest = 0.0
        for state, inputs in points:
            random = self._size(state, self._random_like(state, _norm(self._tangent(self.structure, state))), inputs)
            for name, weight in single[:CONTROLS]:
                poorer = replace(self.structure, weights={self.gauge.name: {name: (weight,)}}, absorptions={})
                wrong = self._tangent(poorer, state)
                largest = max(largest, self._size(state, wrong, inputs) / random if random else 0.0)
                if largest > enough:
                    return largest
        return largest

    def _tangent(self, structure: Structure, state: State) -> State:
        algebra = {self.gauge.name: random_algebra(self.structure, self.gauge, self.rng)}
        return direction(structure, state, algebra)

    def _random_like(self, state: State, norm: float) -> State:
        """A random direction of some norm in all tensors but running statistics."""
        known = [
            name
            for name, tensor in state.items()
            if tensor.is_floating_point() and not is_statistic(self.structure, name)
        ]
        return self._noise(state, known, norm)

    def _noise(self, state: State, names: Sequence[str], norm: float) -> State:
        noise = {
            name: torch.from_numpy(self.rng.standard_normal(tuple(state[name].shape))).to(state[name])
            for name in {_homes(state)[name]: None for name in names}
        }
        scale = norm / _norm(noise) if noise else 0.0
        return {name: scale * tensor for name, tensor in noise.items()}

    def _forward_agrees(self, state: State, inputs: Any) -> bool:
        """Whether forward mode works, and agrees with the difference along a random direction of the gauge's tensors.

        It must agree where the derivative does not vanish: relative to a random direction of all tensors.
        """
        noise = self._noise(state, list(self.structure.weights[self.gauge.name]), 1.0)
        try:
            forward = self._forward(state, noise, inputs)
        except RuntimeError:
            return False
        difference = self._central(state, noise, inputs, SMALL_STEP * max(1.0, _norm(state)))
        gap = _norm_of([a - b for a, b in zip(forward, difference, strict=True)])
        return gap <= AGREEMENT * max(_norm_of(difference), self._scale(state, inputs))

    def _scale(self, state: State, inputs: Any) -> float:
        """A derivative that would be seen: that along a random direction of all tensors."""
        along = self._random_like(state, 1.0)
        return AGREEMENT * _norm_of(self._central(state, along, inputs, SMALL_STEP * max(1.0, _norm(state))))

    def _size(self, state: State, along: State, inputs: Any) -> float:
        return _norm_of(self.derivative(state, along, inputs)) if along else 0.0

    def _forward(self, state: State, along: State, inputs: Any) -> list[Tensor]:
        homes = _homes(state)
        moving = {homes[name]: tensor for name, tensor in along.items()}

        def outputs(moved: State) -> tuple[Tensor, ...]:
            full = {name: moved.get(homes[name], tensor) for name, tensor in state.items()}
            return tuple(self._floating(full, inputs))

        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), _Elementary():
            # torch says so of itself when forward mode is first used
            warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
            found = torch.func.jvp(outputs, ({name: state[name] for name in moving},), (moving,))
        return list(found[1])

    def _difference(self, state: State, along: State, inputs: Any) -> list[Tensor]:
        """Central differences with two steps, extrapolated: an error of the fourth order."""
        step = STEP * max(1.0, _norm(state)) / max(_norm(along), torch.finfo(torch.float64).tiny)
        wide, narrow = (self._central(state, along, inputs, h) for h in (step, step / 2))
        return [(4 * b - a) / 3 for a, b in zip(wide, narrow, strict=True)]

    def _central(self, state: State, along: State, inputs: Any, step: float) -> list[Tensor]:
        homes = _homes(state)
        moving = {homes[name]: tensor for name, tensor in along.items()}
        ends = []
        for h in (step, -step):
            moved = {name: state[name] + h * tensor for name, tensor in moving.items()}
            full = {name: moved.get(homes[name], tensor) for name, tensor in state.items()}
            ends.append(self._floating(full, inputs))
        return [(a - b) / (2 * step) for a, b in zip(*ends, strict=True)]

    def _floating(self, state: State, inputs: Any) -> list[Tensor]:
        return [t for t in self.run.outputs(self.run.twin, state, inputs) if t.is_floating_point()]


class _Elementary(TorchFunctionMode):
    """Computes batch normalisation by operators that can be differentiated by running statistics."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    factor = (running_var + eps).rsqrt()
    factor = factor if weight is None else factor * weight
    shift = -running_mean * factor
    shift = shift if bias is None else shift + bias
    channels = (-1, *(1 for _ in range(input.dim() - 2)))
    return input * factor.view(channels) + shift.view(channels)


def _homes(state: State) -> dict[str, str]:
    """The first name of the tensor that every name has."""
    first: dict[object, str] = {}
    return {name: first.setdefault(tensor_identity(tensor), name) for name, tensor in state.items()}


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return _norm_of([tensor for tensor in tensors.values() if tensor.is_floating_point()])


def _norm_of(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(math.fsum(float(tensor.double().square().sum()) for tensor in tensors))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
