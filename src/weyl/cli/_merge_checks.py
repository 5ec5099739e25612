"""What is said beside a match: that the function is the same, how near two states are, and what a match would take."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.utils._pytree import tree_leaves

from weyl._memory import tensor_identity
from weyl.actions import act
from weyl.cli._work import Found
from weyl.groups import Element
from weyl.proof._state import Sampler, call, cast, replaced, state_of
from weyl.structure import Structure
from weyl.trace import copy_module

__all__ = ["Effort", "Preserved", "compare_outputs", "cosine", "effort_of", "in_precision"]

State = Mapping[str, Tensor]
DRAWS = 3
# Sides of the product and the assignment that are timed.
PRODUCT, UNITS = 512, 128


@dataclass(frozen=True)
class Preserved:
    """Whether moved weights compute what they computed before.

    Parameters
    ----------
    verdict : str
        ``holds``, ``fails`` or ``inconclusive``.
    difference : float
        Largest relative difference of an output.
    written : float
        That of the weights in the types that are written.
    tolerance : float
        What the verdict allows of the first: half the digits.
    written_tolerance : float
        What it allows of the second: half the digits of the coarsest type that is written.
    dtype : str
        Precision of the runs.
    parameter : str
        What was moved alone, a wrong move; empty if nothing moved.
    control : float
        Largest relative difference that this makes.
    """

    verdict: str
    difference: float
    written: float
    tolerance: float
    written_tolerance: float
    dtype: str
    parameter: str
    control: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


@dataclass(frozen=True)
class Effort:
    """What a sweep of a match would take.

    Parameters
    ----------
    multiplications : int
        Of all Grams of one sweep.
    seconds : float
        Estimate from a short product and a small assignment, timed on this machine.
    """

    multiplications: int
    seconds: float


def compare_outputs(found: Found, before: State, element: Element, written: State | None, seed: int) -> Preserved:
    """Run a model on its example inputs, and on random ones like them, with weights before and after a move.

    Parameters
    ----------
    found : Found
        The model and its example inputs.
    before : mapping of str to Tensor
        A state, as it was.
    element : Element
        What moved it; acts here in the precision of the runs.
    written : mapping of str to Tensor, optional
        The state moved, in the types of a file.
    seed : int
        Of the random inputs.
    """
    runs, dtype = _runs(found, seed)
    own = in_precision(before, dtype)
    moved = act(element, found.structure, own)
    states = [own, moved, moved if written is None else in_precision(written, dtype)]
    outputs = [[run(state) for run in runs] for state in states]
    difference, rounded = (_worst(outputs[0], other) for other in outputs[1:])
    parameter, control = "", 0.0
    tolerance = allowed = math.sqrt(torch.finfo(dtype).eps)
    if written is not None:
        floating = [tensor.dtype for tensor in written.values() if tensor.is_floating_point()]
        allowed = max([tolerance, *(math.sqrt(torch.finfo(one).eps) for one in floating)])
    for name in found.structure.axes:
        if name in before and not torch.equal(states[0][name], states[1][name]):
            wrong = replaced(dict(states[0]), name, states[1][name])
            seen = _worst(outputs[0], [run(wrong) for run in runs])
            if seen > control or not parameter:
                parameter, control = name, seen
            if control > tolerance:
                break
    if not all(bool(tensor.isfinite().all()) for run in outputs[0] for tensor in run):
        verdict = "inconclusive"
    elif not (difference <= tolerance and rounded <= allowed):  # NaN is above everything
        verdict = "fails"
    else:
        verdict = "holds" if not parameter or control > tolerance else "inconclusive"
    return Preserved(verdict, difference, rounded, tolerance, allowed, _short(dtype), parameter, control)


def cosine(structure: Structure, a: State, b: State) -> float:
    """Cosine of two states as vectors of all floating tensors of a structure."""
    inner = squares = others = 0.0
    for name in structure.axes:
        if a[name].is_floating_point():
            x, y = a[name].double().flatten(), b[name].to(a[name].device).double().flatten()
            inner += float(x @ y)
            squares += float(x @ x)
            others += float(y @ y)
    size = math.sqrt(squares) * math.sqrt(others)
    return inner / size if size else 0.0


def effort_of(structure: Structure, state: State) -> Effort:
    """Count the multiplications of one sweep over all spaces, and time a short product and a small assignment.

    For every space and every place where it stands, a Gram is a product of a tensor with itself over all other axes;
    an assignment of n units is counted as n cubed steps of the one that is timed.
    """
    grams = sum(state[name].numel() * space.size for space in structure.spaces for name, _ in space.occurrences)
    assigned = sum(space.size**3 * space.multiplicity for space in structure.spaces)
    like = next((t for t in state.values() if t.is_floating_point()), torch.zeros(1))
    dtype = torch.float64 if any(g.kind.continuous for g in structure.gauges) else like.dtype
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(PRODUCT, PRODUCT, generator=generator, dtype=torch.float64)
    square, costs = matrix.to(like.device, dtype), np.asarray(matrix[:UNITS, :UNITS])
    product = _timed(lambda: (square @ square).sum().item())
    assignment = _timed(lambda: linear_sum_assignment(costs))
    return Effort(grams, grams * product / PRODUCT**3 + assigned * assignment / UNITS**3)


def _timed(work: Any) -> float:
    work()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _runs(found: Found, seed: int) -> tuple[list[Any], torch.dtype]:
    """Functions of a state, one for each draw of inputs, in float64 where the model runs in it."""
    module, args, kwargs = found.call
    pick = found.loaded.output or (lambda result: result)
    sampler = Sampler(seed)
    draws = [(args, dict(kwargs))]
    draws += [sampler.inputs((args, dict(kwargs))) for _ in range(DRAWS - 1)]

    def runs_of(twin: torch.nn.Module, dtype: torch.dtype) -> list[Any]:
        def run(given: Any) -> Any:
            own = cast(given, dtype)

            def of(state: State) -> list[Tensor]:
                with torch.no_grad(), torch.random.fork_rng(devices=[]):
                    torch.default_generator.manual_seed(seed)  # a forward that draws noise must draw the same
                    result = call(twin, state, own[0], own[1])
                return [leaf for leaf in tree_leaves(pick(result)) if isinstance(leaf, Tensor)]

            return of

        return [run(given) for given in draws]

    twin = copy_module(module).double().eval()
    runs = runs_of(twin, torch.float64)
    try:
        runs[0](state_of(twin))
    except RuntimeError:  # an operator that knows only one precision
        own = next(p.dtype for p in module.parameters() if p.is_floating_point())
        return runs_of(copy_module(module).eval(), own), own
    return runs, torch.float64


def in_precision(state: State, dtype: torch.dtype) -> dict[str, Tensor]:
    """A state with its floating tensors in another precision; names that share a tensor share one again."""
    done: dict[object, Tensor] = {}
    return {n: done.setdefault(tensor_identity(t), cast(t, dtype)) for n, t in state.items()}


def _worst(before: Sequence[Sequence[Tensor]], after: Sequence[Sequence[Tensor]]) -> float:
    """Largest difference of an output relative to the largest output of its tensor; NaN if an entry is none."""
    worst = 0.0
    for one, other in zip(before, after, strict=True):
        for x, y in zip(one, other, strict=True):
            if not x.is_floating_point():
                worst = max(worst, 0.0 if torch.equal(x, y) else 1.0)
                continue
            if not bool(x.isfinite().all() & y.isfinite().all()):
                return math.nan
            gap = float((x - y).abs().max()) if x.numel() else 0.0
            worst = max(worst, gap / float(torch.maximum(x.abs().max(), y.abs().max())) if gap else 0.0)
    return worst


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
