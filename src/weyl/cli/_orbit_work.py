"""What ``weyl orbit``, ``balance`` and ``tangents`` do between their arguments and their results."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import weyl
from weyl._text import one_line
from weyl._version import __version__
from weyl.checkpoints import write_weights
from weyl.cli._work import Found, Say, Source, find
from weyl.errors import InputError, LimitError, UsageError
from weyl.groups import Gauge, GaugeKind
from weyl.models import LoadedModel
from weyl.orbits import Balanced, HiddenSymmetry, Orbit, TangentCheck, check_tangents, compare_dimensions
from weyl.orbits import balance as balanced
from weyl.orbits import orbit as orbit_around
from weyl.report import counted, gauge_rows, order_told

__all__ = [
    "OrbitFound",
    "TangentsFound",
    "WeightsBalanced",
    "balance_of",
    "orbit_of",
    "tangents_of",
    "write_balanced",
]

FRESH = "no --weights: this is the model as it was initialised"
ROWS_PER_PARAMETER = 2
FEWEST_SAMPLES = 64
MOST_NUMBERS = 4e7  # that one block of derivatives keeps at once
BALANCE = 1e-12  # relative difference of two sides that counts as none


@dataclass(frozen=True, eq=False)
class OrbitFound:
    """What ``weyl orbit`` found."""

    found: Found
    orbit: Orbit
    hidden: HiddenSymmetry | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            **_head(self.found),
            "orbit": self.orbit.to_dict(),
            "hidden": None if self.hidden is None else self.hidden.to_dict(),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, eq=False)
class WeightsBalanced:
    """What ``weyl balance`` found."""

    found: Found
    result: Balanced
    warnings: tuple[str, ...]

    @property
    def reached(self) -> bool:
        """Whether all sides that can be balanced are."""
        return self.result.imbalance <= BALANCE

    @property
    def moved(self) -> tuple[str, ...]:
        """Gauges that moved the weights."""
        values = self.result.element.values
        return tuple(
            gauge.name
            for gauge in self.found.structure.gauges
            if gauge.name in values and not np.allclose(values[gauge.name], _neutral(gauge, values[gauge.name]))
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        result = self.result
        return {
            **_head(self.found),
            "norm_before": result.norm_before,
            "norm_after": result.norm_after,
            "attained": result.attained,
            "left_alone": list(result.left_alone),
            "imbalance": result.imbalance,
            "iterations": result.iterations,
            "gauges": list(self.moved),
            "unattained": {name: [list(unit) for unit in units] for name, units in result.unattained.items()},
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, eq=False)
class TangentsFound:
    """What ``weyl tangents`` found."""

    found: Found
    check: TangentCheck | None
    warnings: tuple[str, ...]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row a continuous gauge."""
        return [row for row in gauge_rows(self.found.structure) if GaugeKind(row["kind"]).continuous]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        group = self.found.structure.group
        return {
            **_head(self.found),
            "dimension": group.dimension,
            "overlap": self.found.structure.overlap[0],
            "gauges": self.rows,
            "check": None if self.check is None else self.check.to_dict(),
            "warnings": list(self.warnings),
        }


def orbit_of(source: Source, say: Say, *, budget: int, hidden: bool, samples: int | None) -> OrbitFound:
    """Load a model and its weights, and find their orbit.

    Parameters
    ----------
    source : Source
        What to load.
    say : callable
        Called with what is being done.
    budget : int
        Of the search for the stabiliser.
    hidden : bool
        Whether to measure the rank of the function.
    samples : int or None
        Random inputs for that.

    Raises
    ------
    WeylError
        Whatever stands in the way, in one line.
    """
    found = find(source, say)
    state = _weighed(found)
    notes = [*found.warnings, *([] if found.weights else [FRESH])]
    rank = None
    if hidden:
        say("measuring the rank of the function")
        rank = _rank(found.loaded, samples, source.seed)
    say("looking for what holds these weights fixed")
    around = orbit_around(found.structure, state, budget=budget)
    if not around.exact:
        notes.append(f"the search for the stabiliser gave up after {budget:,} steps; give more by --budget")
    explained = None
    if rank is not None:
        say("comparing with the group")
        explained = compare_dimensions(rank, found.loaded.module, found.structure)
        rows = len(rank.singular_values)
        if rank.rank == rows < explained.parameters:
            notes.append(
                f"the inputs limit the rank: {counted(explained.samples, 'input')} can show no more than"
                f" {counted(rows, 'direction')}, so that what is hidden cannot be told; give more --samples"
            )
        moving = around.dimension - explained.by_group
        if moving:
            notes.append(
                f"the orbit moves running statistics in {counted(moving, 'direction')}, which the rank holds still: not"
                " in the prediction, and what replaces it counts as hidden"
            )
    return OrbitFound(found, around, explained, tuple(notes))


def balance_of(source: Source, say: Say) -> WeightsBalanced:
    """Load a model and its weights, and balance them.

    Parameters
    ----------
    source : Source
        What to load.
    say : callable
        Called with what is being done.

    Raises
    ------
    WeylError
        Whatever stands in the way, in one line.
    """
    found = find(source, say)
    state = _weighed(found)
    say("balancing")
    result = balanced(found.structure, state)
    notes = [*found.warnings, *([] if found.weights else [FRESH])]
    if result.unattained:
        notes.append(
            "some sides are zero, or of lower rank than their partners, so that no norm is the least: they are left as "
            f"they were ({', '.join(result.unattained)})"
        )
    if result.left_alone:
        notes.append(
            "weights before a batch normalisation may shrink for ever while its statistics follow: "
            f"left alone ({', '.join(result.left_alone)})"
        )
    if result.imbalance > BALANCE:
        notes.append(f"the balance was not reached: two sides of a unit differ by {result.imbalance:.1e}")
    return WeightsBalanced(found, result, tuple(notes))


def write_balanced(path: Path, balanced: WeightsBalanced, *, inputs: tuple[Path, ...], force: bool) -> None:
    """Write balanced weights with the names and types of the file that they are from.

    Parameters
    ----------
    path : Path
        Where to.
    balanced : WeightsBalanced
        As from `balance_of`.
    inputs : tuple of Path
        What was read, and is never written over.
    force : bool
        Whether another file may be replaced.
    """
    state, dtypes = balanced.result.state, balanced.found.dtypes
    kept = {name: tensor.to(dtypes[name]) for name, tensor in state.items() if name in dtypes} if dtypes else state
    note = f"weyl balance {balanced.found.loaded.name}"
    write_weights(path, kept, inputs=inputs, force=force, note=note)


def tangents_of(source: Source, say: Say, *, trials: int) -> TangentsFound:
    """Load a model, and list its tangents.

    Parameters
    ----------
    source : Source
        What to load.
    say : callable
        Called with what is being done.
    trials : int
        Random directions of each gauge to differentiate along; 0 for none.

    Raises
    ------
    WeylError
        Whatever stands in the way, in one line.
    """
    found = find(source, say)
    check = None
    if trials:
        say("differentiating")
        check = check_tangents(
            *found.call, structure=found.structure, trials=trials, seed=source.seed, output=found.loaded.output
        )
    notes = list(found.warnings)
    if check is not None and check.verdict == "inconclusive":
        notes.append(f"the check is inconclusive: {check.reason}")
    return TangentsFound(found, check, tuple(notes))


def _head(found: Found) -> dict[str, Any]:
    group = found.structure.group
    return {
        "weyl": __version__,
        "model": found.loaded.name,
        "weights": found.weights or None,
        "group": group.symbol,
        "counts": order_told(group),
    }


def _weighed(found: Found) -> dict[str, Tensor]:
    """The state of a model that has one."""
    state = dict(found.loaded.module.state_dict())
    for name, tensor in state.items():
        if tensor.device.type == "meta":
            raise InputError(f"{one_line(name)} is on the meta device: there are no weights; build the model for real")
    return state


def _neutral(gauge: Gauge, value: NDArray[Any]) -> NDArray[Any]:
    """The value of a gauge that changes nothing."""
    if gauge.kind.matrix:
        return np.eye(value.shape[-1])
    return np.zeros(()) if gauge.kind.additive else np.ones(())


class _Answer(nn.Module):
    """A model as a function of its tensors alone, which returns one tensor."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__()
        self.module = loaded.module
        self._pick = loaded.output or (lambda result: result)
        self._rest = loaded.args, dict(loaded.kwargs)

    def forward(self, *tensors: Tensor) -> Any:
        left = iter(tensors)
        args = [next(left) if isinstance(value, Tensor) else value for value in self._rest[0]]
        kwargs = {k: next(left) if isinstance(value, Tensor) else value for k, value in self._rest[1].items()}
        return self._pick(self.module(*args, **kwargs))


def _rank(loaded: LoadedModel, samples: int | None, seed: int) -> weyl.landscape.FunctionalDimension:
    """Rank of the derivative on random inputs."""
    answer = _Answer(loaded).eval()
    examples = [value for value in (*loaded.args, *loaded.kwargs.values()) if isinstance(value, Tensor)]
    if not examples or not examples[0].ndim:
        raise InputError(f"--hidden: {loaded.name} has no input of several samples to draw at random; leave it out")
    like = next(loaded.module.parameters())
    examples = [value.to(like.dtype) if value.is_floating_point() else value for value in examples]
    result, inner = _run(answer, examples)
    if not isinstance(result, Tensor):
        raise InputError(f"--hidden: {loaded.name} returns no tensor but {type(result).__name__}; leave it out")
    outputs = max(result.numel() // max(len(examples[0]), 1), 1)
    parameters = sum(parameter.numel() for parameter in loaded.module.parameters())
    count = samples or max(FEWEST_SAMPLES, math.ceil(ROWS_PER_PARAMETER * parameters / outputs))
    # Every row of a block goes back through the activations of all its samples.
    affordable = math.isqrt(int(MOST_NUMBERS / (outputs * max(inner / len(examples[0]), 1))))
    chunk = max(1, min(count, affordable, math.ceil(parameters / outputs)))
    batch = _batch(answer, examples, count, seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, that it maps some operators slowly
            return weyl.functional_dimension(answer, None, batch, chunk=chunk)
    except UsageError as error:
        raise LimitError(f"--hidden: {error}; leave it out") from error
    except RuntimeError as error:
        why = one_line(str(error).partition("\n")[0], 160)
        raise LimitError(f"--hidden: {loaded.name} cannot be differentiated sample by sample ({why})") from error


def _run(answer: nn.Module, inputs: Sequence[Tensor]) -> tuple[Any, int]:
    """The result, and how many numbers all layers together put out for it."""
    count = 0

    def add(module: nn.Module, given: Any, result: Any) -> None:
        nonlocal count
        count += sum(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))

    hooks = [module.register_forward_hook(add) for module in answer.modules()]
    try:
        with torch.no_grad():
            return answer(*inputs), count
    finally:
        for hook in hooks:
            hook.remove()


def _batch(answer: nn.Module, examples: Sequence[Tensor], count: int, seed: int) -> list[Tensor]:
    """Random inputs, with integers from the largest vocabulary that the model takes."""
    sizes = {module.num_embeddings for module in answer.modules() if isinstance(module, nn.Embedding)}
    for size in sorted(sizes, reverse=True):
        batch = _drawn(examples, count, seed, size)
        try:
            with torch.no_grad():
                answer(*(new[: len(old)] if old.ndim else new for old, new in zip(examples, batch, strict=True)))
        except (IndexError, RuntimeError):  # not the table that these integers are looked up in
            continue
        return batch
    return _drawn(examples, count, seed, None)


def _drawn(examples: Sequence[Tensor], count: int, seed: int, top: int | None) -> list[Tensor]:
    """Normal entries for floating inputs, uniform ones for integers, and masks as they are."""
    generator = torch.Generator().manual_seed(seed)
    batch = []
    for example in examples:
        if not example.ndim or len(example) != len(examples[0]):
            batch.append(example)
            continue
        shape = (count, *example.shape[1:])
        if example.is_floating_point():
            new = torch.randn(shape, generator=generator, dtype=torch.float64).to(example)
        elif example.dtype is torch.bool or bool((example == example.flatten()[0]).all()):
            new = example[:1].expand(shape)
        else:
            new = torch.randint(top or int(example.max()) + 1, shape, generator=generator).to(example)
        batch.append(new)
    return batch
