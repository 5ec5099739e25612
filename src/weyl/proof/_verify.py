"""``verify``: a model computes the same function after a random element has acted on it, or it does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from weyl._memory import tensor_identity
from weyl.actions import act
from weyl.errors import InputError
from weyl.groups import Element, Part
from weyl.proof._watch import Watch
from weyl.structure import Structure
from weyl.trace import check_call, copy_module, discover, explain

__all__ = ["Control", "Proof", "verify"]

# tolerance = SLACK * eps * sqrt(number of operators); a wrong element must miss it by FACTOR
SLACK = 1000.0
FACTOR = 100.0
CONTROLS = 8
DRAWS = 8
State = dict[str, Tensor]


@dataclass(frozen=True)
class Control:
    """A deliberately wrong element, which the check must reject.

    Parameters
    ----------
    parameter : str
        The one tensor that was moved without its partners.
    relative_error : float
        Relative change of the output that it caused.
    detected : bool
        Whether the check saw it.
    """

    parameter: str
    relative_error: float
    detected: bool


@dataclass(frozen=True)
class Proof:
    """Outcome of :func:`verify`.

    Parameters
    ----------
    verdict : str
        ``holds``, ``fails`` or ``inconclusive``.
    reason : str
        One sentence.
    max_relative_error : float
        Largest relative change of an output in float64, over all trials; NaN if none could be made.
    tolerance : float
        ``1000 · eps · √(operators)``, what rounding may explain.
    exact : bool or None
        Whether outputs agreed to the last bit with small-integer weights and inputs; None where the model's
        arithmetic is not exact on integers (softmax, tanh, division).
    trials : int
        Random elements tried.
    control : Control
        The wrong element.
    float32_error : float or None
        The same relative change with real weights in float32.
    precision : str
        Precision in which the trials ran.
    """

    verdict: str
    reason: str
    max_relative_error: float
    tolerance: float
    exact: bool | None
    trials: int
    control: Control
    float32_error: float | None = None
    precision: str = "float64"

    @property
    def holds(self) -> bool:
        """Whether the symmetry was confirmed and the check was able to deny it."""
        return self.verdict == "holds"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; values that are not finite become None."""
        data = asdict(self) | {"holds": self.holds}
        data["control"] = {k: _finite(v) for k, v in data["control"].items()}
        return {key: _finite(value) for key, value in data.items()}


def verify(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    structure: Structure | None = None,
    trials: int = 3,
    seed: int = 0,
    output: Callable[[Any], Any] | None = None,
) -> Proof:
    """Check the symmetry of a model by moving it and comparing outputs.

    The first trial uses the model's own weights and the given inputs; further ones use weights near them in general
    position (so that zeros and ones of a fresh initialisation hide nothing) and random inputs. All run in float64 on
    a copy; the model is not changed. Then small-integer weights, where agreement must be to the last bit, and a wrong
    element, moved in one tensor only, which must be rejected.

    Parameters
    ----------
    model, args, kwargs, output
        As in :func:`weyl.discover`.
    structure : Structure, optional
        What to check; discovered if not given.
    trials : int
        Random elements, at least 1.
    seed : int
        Seed of private generators.

    Returns
    -------
    Proof
        ``inconclusive`` if weights are not finite or on the meta device, or if the wrong element went unseen.

    Raises
    ------
    InputError
        If ``trials`` is less than 1 or the inputs do not fit the model.

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> proof = weyl.verify(net, (torch.ones(2, 4),))
    >>> proof.holds, proof.exact, proof.control.detected
    (True, True, True)
    """
    if trials < 1:
        raise InputError(f"trials must be at least 1, got {trials}")
    check_call(model, args, kwargs)
    if structure is None:
        structure = discover(model, args, kwargs, output=output)
    obstacle = _obstacle(model)
    if obstacle:
        return _inconclusive(obstacle)
    devices = sorted({t.device.index or 0 for t in model.state_dict().values() if t.device.type == "cuda"})
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        return _Run(model, (tuple(args), dict(kwargs or {})), output, structure, seed, devices).prove(trials)


class _Run:
    """One verification: the float64 copy of the model, its inputs, and what was measured."""

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[tuple[Any, ...], dict[str, Any]],
        output: Callable[[Any], Any] | None,
        structure: Structure,
        seed: int,
        devices: Sequence[int],
    ) -> None:
        self.model = model
        self.inputs = inputs
        self.output = output or (lambda result: result)
        self.structure = structure
        self.seed = seed
        self.devices = devices
        self.generator = torch.Generator().manual_seed(seed)
        self.operators = 1
        self.twin, self.dtype = self._copy()
        self.lowest = self.dtype

    def _copy(self) -> tuple[nn.Module, torch.dtype]:
        """The model in float64, or in its own precision where that does not run."""
        self.dtype = self.lowest = torch.float64
        twin = copy_module(self.model).double().eval()
        for module in twin.modules():
            for name, value in vars(module).items():
                if _is_float(value):
                    setattr(module, name, value.double())
        try:
            self._outputs(twin, _state(twin), _cast(self.inputs, torch.float64))
            return twin, torch.float64
        except RuntimeError:  # an operator that knows only one precision
            twin = copy_module(self.model).eval()
        dtypes = {t.dtype for t in twin.parameters() if t.is_floating_point()}
        self.dtype = max(dtypes, key=lambda d: torch.finfo(d).eps, default=torch.float32)
        try:
            self._outputs(twin, _state(twin), _cast(self.inputs, self.dtype))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise explain(error, self.model) from error
        return twin, self.dtype

    def prove(self, trials: int) -> Proof:
        errors = []
        state, inputs = _state(self.twin), _cast(self.inputs, self.dtype)
        for trial in range(trials):
            if trial:
                state, inputs = self._general(_state(self.twin)), self._random(inputs)
            element = self.structure.group.random(self.seed + trial)
            errors.append(self._error(state, act(element, self.structure, state), inputs))
        tolerance = SLACK * torch.finfo(self.lowest).eps * math.sqrt(self.operators)
        control, exact = self._control(tolerance), self._exact()
        error = float("nan") if any(map(math.isnan, errors)) else max(errors)
        verdict, reason = self._judge(error, tolerance, exact, control)
        return Proof(
            verdict,
            reason,
            error,
            tolerance,
            exact,
            trials,
            control,
            self._float32(),
            str(self.lowest).removeprefix("torch."),
        )

    def _judge(self, error: float, tolerance: float, exact: bool | None, control: Control) -> tuple[str, str]:
        if math.isnan(error):
            return "inconclusive", "the outputs are not finite"
        if error > tolerance:
            return "fails", f"an element changed the output by {error:.1e}, rounding explains {tolerance:.1e}"
        if exact is False:
            return "fails", "outputs differ in the last bit on small-integer weights"
        if not control.detected:
            return "inconclusive", "a deliberately wrong element went unseen, so agreement proves nothing"
        if self.structure.group.trivial:
            return "holds", "the group is trivial: nothing can move"
        return "holds", f"every element kept the output to {error:.1e}; a wrong one changed it"

    # ------------------------------------------------------------------ runs
    def _outputs(self, module: nn.Module, state: State, inputs: Any, watch: Watch | None = None) -> list[Tensor]:
        args, kwargs = inputs
        self._reseed()
        with watch or Watch(self.dtype) as watch:
            result = torch.func.functional_call(module, state, args, kwargs)
        self.operators = max(self.operators, watch.operators)
        if torch.finfo(watch.lowest).eps > torch.finfo(self.lowest).eps:
            self.lowest = watch.lowest
        return [t for t in tree_leaves(self.output(result)) if isinstance(t, Tensor)]

    def _reseed(self) -> None:
        """A forward that draws noise must draw the same before and after; only generators that were forked change."""
        torch.default_generator.manual_seed(self.seed)
        for device in self.devices:
            torch.cuda.default_generators[device].manual_seed(self.seed)

    def _error(self, before: State, after: State, inputs: Any) -> float:
        return _relative(self._outputs(self.twin, before, inputs), self._outputs(self.twin, after, inputs))

    def _float32(self) -> float | None:
        """Relative change with real weights in float32, no cast skipped; None where it does not run."""
        twin = copy_module(self.model).float().eval()
        args, kwargs = _cast(self.inputs, torch.float32)
        state = _state(twin)
        moved = act(self.structure.group.random(self.seed), self.structure, state)
        results = []
        try:
            for weights in (state, moved):
                self._reseed()
                results.append(torch.func.functional_call(twin, weights, args, kwargs))
        except RuntimeError:  # the model insists on another precision
            return None
        both = [[t for t in tree_leaves(self.output(r)) if isinstance(t, Tensor)] for r in results]
        return _relative(both[0], both[1])

    def _exact(self) -> bool | None:
        """Bit-exact agreement with small-integer weights and inputs, where all arithmetic is exact."""
        if self.dtype is not torch.float64:
            return None
        inputs = tree_map(lambda t: self._integers(t, 3) if _is_float(t) else t, _cast(self.inputs, torch.float64))
        for terms in (2, 4, 8):
            state = self._integer_state(_state(self.twin), terms)
            moved = act(self.structure.group.random(self.seed), self.structure, state)
            watch = Watch(self.dtype, exact=True)
            before = self._outputs(self.twin, state, inputs, watch)
            if not watch.all_exact:
                return None
            if any(bool((t != 0).any()) for t in before):
                after = self._outputs(self.twin, moved, inputs)
                return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        return None

    # ------------------------------------------------------------------ the wrong element
    def _control(self, tolerance: float) -> Control:
        """Move one tensor without its partners, until it is seen.

        The units of a small network may all be silent on a few inputs, so several weights and inputs are tried.
        """
        control = Control("", 0.0, False)
        for _ in range(DRAWS):
            state = self._general(_state(self.twin))
            inputs = self._random(_cast(self.inputs, self.dtype))
            for name, wrong in self._wrong_states(state):
                error = self._error(state, wrong, inputs)
                if error > control.relative_error or not control.parameter:
                    control = Control(name, error, error > FACTOR * tolerance)
                if control.detected:
                    return control
        return control

    def _wrong_states(self, state: State) -> Iterator[tuple[str, State]]:
        """States in which one tensor was moved without its partners, the largest spaces first."""
        group = self.structure.group
        found = False
        for space in sorted(self.structure.spaces, key=lambda s: -s.size)[:CONTROLS]:
            places = list(dict.fromkeys(name for name, _ in space.occurrences if name in state))
            if len({tensor_identity(state[name]) for name in places}) < 2:
                continue
            identity = group.identity()
            part = Part(identity[space.name].permutation[..., ::-1].copy())
            moved = act(Element(group.spaces, {**identity, space.name: part}), self.structure, state)
            name = max(places, key=lambda n: (moved[n] is not state[n], state[n].ndim))
            found = True
            yield name, _replaced(state, name, moved[name])
        if not found:
            yield from islice(self._flips(state), CONTROLS)

    def _flips(self, state: State) -> Iterator[tuple[str, State]]:
        """Where no space has partners: states in which some axis that is held still is reversed."""
        names = [n for n, t in state.items() if _is_float(t) and t.ndim and n not in self.structure.unused]
        for name in sorted(names, key=lambda n: -state[n].ndim):
            for dim, size in enumerate(state[name].shape):
                if size > 1:
                    yield name, _replaced(state, name, state[name].flip(dim))

    # ------------------------------------------------------------------ weights and inputs
    def _general(self, state: State) -> State:
        """Weights near the given ones in general position; positive entries stay positive (variances)."""

        def shake(tensor: Tensor) -> Tensor:
            noise = self._normal(tensor)
            if bool((tensor > 0).all()):
                return tensor * torch.exp(0.3 * noise)
            return tensor * torch.exp(0.1 * noise) + 0.02 * self._normal(tensor)

        return _map_state(state, shake)

    def _integer_state(self, state: State, terms: int) -> State:
        """Weights in {-1, 0, 1}, so sparse that sums have about ``terms`` terms."""

        def small(tensor: Tensor) -> Tensor:
            fan = max(tensor.numel() // max(tensor.shape[0], 1), 1) if tensor.ndim > 1 else 1
            keep = torch.rand(tensor.shape, generator=self.generator) < min(1.0, terms / fan)
            return self._integers(tensor, 1) * keep.to(tensor.device)

        return _map_state(state, small)

    def _random(self, inputs: Any) -> Any:
        """Normal entries for floating inputs, the given entries in another order for integer ones."""

        def fresh(leaf: Any) -> Any:
            if _is_float(leaf):
                return self._normal(leaf)
            if isinstance(leaf, Tensor) and leaf.dtype is not torch.bool and leaf.ndim:
                order = torch.randperm(leaf.numel(), generator=self.generator)
                return leaf.flatten()[order.to(leaf.device)].reshape(leaf.shape)
            return leaf

        return tree_map(fresh, inputs)

    def _normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, dtype=torch.float64).to(like)

    def _integers(self, like: Tensor, top: int) -> Tensor:
        return torch.randint(-top, top + 1, like.shape, generator=self.generator).to(like)


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _cast(tree: Any, dtype: torch.dtype) -> Any:
    return tree_map(lambda leaf: leaf.detach().to(dtype) if _is_float(leaf) else leaf, tree)


def _replaced(state: State, name: str, tensor: Tensor) -> State:
    """The state with one tensor replaced, under all its names."""
    old = tensor_identity(state[name])
    return {n: tensor if tensor_identity(t) == old else t for n, t in state.items()}


def _state(module: nn.Module) -> State:
    """The state dict, detached, with names that share a tensor sharing one object."""
    shared: dict[tuple[object, ...], Tensor] = {}
    return {n: shared.setdefault(tensor_identity(t), t.detach()) for n, t in module.state_dict().items()}


def _map_state(state: State, function: Callable[[Tensor], Tensor]) -> State:
    """Apply a function to every floating tensor once, ties kept."""
    done: dict[int, Tensor] = {}
    out = {}
    for name, tensor in state.items():
        if id(tensor) not in done:
            done[id(tensor)] = function(tensor) if _is_float(tensor) and tensor.numel() else tensor
        out[name] = done[id(tensor)]
    return out


def _relative(before: list[Tensor], after: list[Tensor]) -> float:
    """Largest relative change over the outputs; infinities must stay where they are; NaN if any entry is NaN."""
    worst = 0.0
    for a, b in zip(before, after, strict=True):
        if not a.is_floating_point() and not a.is_complex():
            worst = max(worst, 0.0 if torch.equal(a, b) else 1.0)
            continue
        if bool(a.isnan().any()) or bool(b.isnan().any()):
            return float("nan")
        finite = a.isfinite()
        if not torch.equal(a[~finite], b[~finite]):
            return float("inf")
        difference, size = (a[finite] - b[finite]).abs(), a[finite].abs()
        if difference.numel() and float(difference.max()) > 0:
            scale = float(torch.maximum(size.max(), b[finite].abs().max()))
            worst = max(worst, float(difference.max()) / scale)
    return worst


def _obstacle(model: nn.Module) -> str:
    """Why the weights cannot be used, or an empty string."""
    state = model.state_dict()
    if not state:
        return "the model has no parameters, so there is nothing to check"
    for name, tensor in state.items():
        if tensor.device.type == "meta":
            return f"{name} is on the meta device: there are no weights to check"
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return f"{name} has entries that are not finite"
    return ""


def _inconclusive(reason: str) -> Proof:
    nan = float("nan")
    return Proof("inconclusive", reason, nan, nan, None, 0, Control("", nan, False))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
