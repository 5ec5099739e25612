"""Whether two states compute the same function of a model, by a check that is itself checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weyl.proof._elements import wrong_states
from weyl.proof._state import cast, state_of
from weyl.proof._verify import FACTOR, SLACK, Run, _worst
from weyl.structure import Structure

__all__ = ["Agreement", "same_outputs"]

DRAWS = 3


@dataclass(frozen=True)
class Agreement:
    """How far the outputs of two states of one model are apart.

    Parameters
    ----------
    error : float
        Largest difference over a few inputs, relative to the largest output.
    tolerance : float
        What rounding of the coarser state explains.
    wrong_error : float
        The difference that a deliberately wrong copy of the first state makes.
    """

    error: float
    tolerance: float
    wrong_error: float

    @property
    def same(self) -> bool:
        """Whether rounding explains the difference."""
        return self.error <= self.tolerance

    @property
    def detected(self) -> bool:
        """Whether the wrong copy was seen, so that agreement means something."""
        return self.wrong_error > FACTOR * self.tolerance


def same_outputs(
    model: nn.Module,
    structure: Structure,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    output: Callable[[Any], Any] | None = None,
    *,
    seed: int = 0,
) -> Agreement:
    """Compare the outputs of a model with two states, on its inputs and two random ones, in float64 where it runs.

    Parameters
    ----------
    model : nn.Module
        Evaluated in eval mode on a copy; its own weights are used where a state has none.
    structure : Structure
        Of the model; says what a wrong copy is.
    a, b : mapping of str to Tensor
        States.
    args, kwargs, output
        As in :func:`weyl.discover`.
    seed : int
        Of the random inputs.
    """
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        run = Run(model, (tuple(args), dict(kwargs or {})), output, structure, seed, devices)
        own = state_of(run.twin)
        first, second = ({**own, **_there(cast(dict(state), run.dtype), own)} for state in (a, b))
        inputs = cast(run.inputs, run.dtype)
        errors, wrong = [], 0.0
        for _ in range(DRAWS):
            before = run.outputs(run.twin, first, inputs)
            errors.append(run.change(before, second, inputs))
            for move in run.moves or ("permute",):
                if not wrong > errors[-1]:
                    found = (run.change(before, bad, inputs) for __, bad in wrong_states(structure, first, move, seed))
                    wrong = max(wrong, *found, 0.0)
            inputs = run.sampler.inputs(inputs)
    error = _worst(errors)  # NaN if any is: those agree with nothing
    floating = [t.dtype for state in (a, b) for t in state.values() if t.is_floating_point()]
    eps = max((torch.finfo(dtype).eps for dtype in (*floating, run.lowest)), default=0.0)
    return Agreement(error, SLACK * eps * run.operators**0.5, wrong)


def _there(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state on the devices of another one."""
    return {name: tensor.to(own[name].device) if name in own else tensor for name, tensor in state.items()}
