"""``verify``: a model computes the same function after a random element has acted on it, or it does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from weyl.actions import act
from weyl.errors import InputError
from weyl.proof._elements import element_of, exact_element, moves_of, wrong_states
from weyl.proof._result import Control, KindProof, Proof
from weyl.proof._state import Sampler, State, call, cast, is_float, state_of
from weyl.proof._watch import Watch
from weyl.structure import Structure
from weyl.trace import check_call, copy_module, discover, explain

__all__ = ["FACTOR", "SLACK", "Run", "obstacle", "verify"]

# tolerance = SLACK * eps * sqrt(number of operators); a wrong element must miss it by FACTOR
SLACK = 1000.0
FACTOR = 100.0
DRAWS = 8


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
    a copy; the model is not changed. Each trial applies an element of all kinds of move together, then one of each
    kind alone. Then small-integer weights, where agreement must be to the last bit, and for every kind of move a wrong
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
        ``fails`` if elements of all kinds, or of one, change the output by more than rounding explains;
        ``inconclusive`` if weights are not finite or on the meta device, or if a wrong element of some kind went
        unseen.

    Raises
    ------
    InputError
        If ``trials`` is less than 1 or the inputs do not fit the model.

    Notes
    -----
    Elements are well conditioned (:meth:`weyl.groups.Group.random`): scales lie in [1/2, 2], general matrices have a
    condition number of at most 4, orthogonal ones of 1. The tolerance is that of the forward pass alone and leaves
    nothing for worse ones.

    On small integers only elements that act without rounding are tried: signs, powers of two, matrices that permute
    units, flip them and scale them by powers of two, integer translations. Scales of a variance to which eps is added
    are left out there, and so are additions of anything that is no multiple of 2^-20.

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> proof = weyl.verify(net, (torch.ones(2, 4),))
    >>> proof.holds, proof.exact, proof.control.detected
    (True, True, True)
    >>> {move: found.detected for move, found in proof.kinds.items()}
    {'permute': True, 'scale': True}
    """
    if trials < 1:
        raise InputError(f"trials must be at least 1, got {trials}")
    check_call(model, args, kwargs)
    if structure is None:
        structure = discover(model, args, kwargs, output=output)
    hindrance = obstacle(model)
    if hindrance:
        return _inconclusive(hindrance)
    devices = sorted({t.device.index or 0 for t in model.state_dict().values() if t.device.type == "cuda"})
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        return Run(model, (tuple(args), dict(kwargs or {})), output, structure, seed, devices).prove(trials)


class Run:
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
        self.sampler = Sampler(seed)
        self.moves = moves_of(structure)
        self.operators = 1
        self.twin, self.dtype = self._copy()
        self.lowest = self.dtype

    def _copy(self) -> tuple[nn.Module, torch.dtype]:
        """The model in float64, or in its own precision where that does not run."""
        self.dtype = self.lowest = torch.float64
        twin = copy_module(self.model).double().eval()
        for module in twin.modules():
            for name, value in vars(module).items():
                if is_float(value):
                    setattr(module, name, value.double())
        try:
            self.outputs(twin, state_of(twin), cast(self.inputs, torch.float64))
            return twin, torch.float64
        except RuntimeError:  # an operator that knows only one precision
            twin = copy_module(self.model).eval()
        dtypes = {t.dtype for t in twin.parameters() if t.is_floating_point()}
        self.dtype = max(dtypes, key=lambda d: torch.finfo(d).eps, default=torch.float32)
        try:
            self.outputs(twin, state_of(twin), cast(self.inputs, self.dtype))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise explain(error, self.model) from error
        return twin, self.dtype

    def prove(self, trials: int) -> Proof:
        together: list[float] = []
        alone: dict[str, list[float]] = {move: [] for move in self.moves}
        state, inputs = state_of(self.twin), cast(self.inputs, self.dtype)
        for trial in range(trials):
            if trial:
                state, inputs = self.sampler.general(state_of(self.twin)), self.sampler.inputs(inputs)
            before = self.outputs(self.twin, state, inputs)
            element = self.structure.group.random(self.seed + trial)
            together.append(self.change(before, act(element, self.structure, state), inputs))
            for move, found in alone.items():
                element = element_of(self.structure, move, self.seed + trial)
                found.append(self.change(before, act(element, self.structure, state), inputs))
        errors = {move: _worst(found) for move, found in alone.items()}
        error = _worst([*together, *errors.values()])
        tolerance = SLACK * torch.finfo(self.lowest).eps * math.sqrt(self.operators)
        controls = {move: self._control(move, tolerance) for move in self.moves or ("permute",)}
        exact = self._exact()
        verdict, reason = self._judge(error, errors, tolerance, exact, controls)
        return Proof(
            verdict,
            reason,
            error,
            tolerance,
            exact,
            trials,
            min(controls.values(), key=lambda control: control.detected),
            self._float32(),
            str(self.lowest).removeprefix("torch."),
            {m: KindProof(e, controls[m].relative_error, controls[m].detected) for m, e in errors.items()},
        )

    def _judge(
        self,
        error: float,
        errors: Mapping[str, float],
        tolerance: float,
        exact: bool | None,
        controls: Mapping[str, Control],
    ) -> tuple[str, str]:
        if math.isnan(error):
            return "inconclusive", "the outputs are not finite"
        if error > tolerance:
            wrong = ", ".join(move for move, e in errors.items() if e > tolerance) or "kinds together"
            return "fails", f"an element ({wrong}) changed the output by {error:.1e}, rounding explains {tolerance:.1e}"
        if exact is False:
            return "fails", "outputs differ in the last bit on small-integer weights"
        unseen = ", ".join(move for move in self.moves if not controls[move].detected)
        if unseen or not all(control.detected for control in controls.values()):
            which = f" ({unseen})" if unseen else ""
            return "inconclusive", f"a deliberately wrong element{which} went unseen, so agreement proves nothing"
        if self.structure.group.trivial:
            return "holds", "the group is trivial: nothing can move"
        return "holds", f"every element kept the output to {error:.1e}; a wrong one changed it"

    # ------------------------------------------------------------------ runs
    def outputs(self, module: nn.Module, state: State, inputs: Any, watch: Watch | None = None) -> list[Tensor]:
        """The tensors that a module returns with some state, random numbers drawn alike every time."""
        args, kwargs = inputs
        self._reseed()
        with watch or Watch(self.dtype) as watch:
            result = call(module, state, args, kwargs)
        self.operators = max(self.operators, watch.operators)
        if torch.finfo(watch.lowest).eps > torch.finfo(self.lowest).eps:
            self.lowest = watch.lowest
        return [t for t in tree_leaves(self.output(result)) if isinstance(t, Tensor)]

    def _reseed(self) -> None:
        """A forward that draws noise must draw the same before and after; only generators that were forked change."""
        torch.default_generator.manual_seed(self.seed)
        for device in self.devices:
            torch.cuda.default_generators[device].manual_seed(self.seed)

    def change(self, before: list[Tensor], after: State, inputs: Any) -> float:
        """Largest relative change of outputs with another state."""
        return _relative(before, self.outputs(self.twin, after, inputs))

    def _float32(self) -> float | None:
        """Relative change with real weights in float32, no cast skipped; None where it does not run."""
        twin = copy_module(self.model).float().eval()
        args, kwargs = cast(self.inputs, torch.float32)
        state = state_of(twin)
        moved = act(self.structure.group.random(self.seed), self.structure, state)
        results = []
        try:
            for weights in (state, moved):
                self._reseed()
                results.append(call(twin, weights, args, kwargs))
        except RuntimeError:  # the model insists on another precision
            return None
        both = [[t for t in tree_leaves(self.output(r)) if isinstance(t, Tensor)] for r in results]
        return _relative(both[0], both[1])

    def _exact(self) -> bool | None:
        """Bit-exact agreement with small-integer weights and inputs, where all arithmetic is exact."""
        if self.dtype is not torch.float64:
            return None
        inputs = tree_map(lambda t: self.sampler.integers(t, 3) if is_float(t) else t, cast(self.inputs, torch.float64))
        agreed = None
        for terms in (2, 4, 8):  # few terms may leave nothing of the input in the output, many may round
            state = self.sampler.integer_state(state_of(self.twin), terms)
            watch = Watch(self.dtype, exact=True)
            before = self.outputs(self.twin, state, inputs, watch)
            if not watch.all_exact:
                break
            if any(bool((t != 0).any()) for t in before):
                moved = act(exact_element(self.structure, self.seed, integers=True), self.structure, state)
                after = self.outputs(self.twin, moved, inputs)
                agreed = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
                if not agreed:
                    break
        return agreed

    def _control(self, move: str, tolerance: float) -> Control:
        """Apply half of a move, until it is seen.

        The units of a small network may all be silent on a few inputs, so several weights and inputs are tried.
        """
        control = Control("", 0.0, False)
        for draw in range(DRAWS):
            state = self.sampler.general(state_of(self.twin))
            inputs = self.sampler.inputs(cast(self.inputs, self.dtype))
            before = self.outputs(self.twin, state, inputs)
            for name, wrong in wrong_states(self.structure, state, move, self.seed + draw):
                error = self.change(before, wrong, inputs)
                if error > control.relative_error or not control.parameter:
                    control = Control(name, error, error > FACTOR * tolerance)
                if control.detected:
                    return control
        return control


def _worst(errors: Sequence[float]) -> float:
    """The largest; NaN if any is."""
    return float("nan") if any(map(math.isnan, errors)) else max(errors)


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


def obstacle(model: nn.Module) -> str:
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
