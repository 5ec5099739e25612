"""What the tests of discovery share: random states in general position, outputs, preservation and its control.

Nothing here asks the structure which parameter is what: states are drawn blindly, outputs are compared as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

import weyl
from weyl.structure import spaces_of

State = dict[str, Tensor]
Output = Callable[[Any], Any]


def double(tree: Any) -> Any:
    """Floating-point tensors in float64."""
    return tree_map(lambda t: t.double() if isinstance(t, Tensor) and t.is_floating_point() else t, tree)


def storage(tensor: Tensor) -> tuple:
    """Equal for names that are one tensor."""
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def random_state(model: nn.Module, seed: int = 0, integers: bool = False) -> State:
    """Entries in general position under every key of the state dict; ties stay; variances are positive."""
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[tuple, Tensor] = {}
    state: State = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        key = storage(tensor)
        if key not in drawn:
            if not tensor.is_floating_point():
                drawn[key] = tensor.detach().clone()
            elif integers:
                values = torch.randint(1, 4, tensor.shape, generator=generator).to(tensor)
                sign = torch.randint(0, 2, tensor.shape, generator=generator).to(tensor) * 2 - 1
                drawn[key] = values if "running_var" in name else values * sign
            else:
                values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
                drawn[key] = values.abs() + 0.5 if "running_var" in name else values * 0.7
        state[name] = drawn[key]
    return state


def outputs(
    model: nn.Module, state: Mapping[str, Tensor], args: tuple = (), kwargs: Any = None, output: Output | None = None
) -> list[Tensor]:
    """All tensors that the model returns with these parameters and persistent buffers."""
    with torch.no_grad():
        result = torch.func.functional_call(model, dict(state), args, dict(kwargs or {}))
    return [t for t in tree_leaves(output(result) if output else result) if isinstance(t, Tensor)]


def error(before: list[Tensor], after: list[Tensor]) -> float:
    """Largest change of an output, relative to the largest entry of that output."""
    worst = 0.0
    for a, b in zip(before, after, strict=True):
        assert torch.isfinite(a.double()).all(), "a test must compare finite numbers"
        if not torch.isfinite(b.double()).all():
            return float("inf")
        scale = float(a.double().abs().max()) if a.numel() else 0.0
        change = float((a.double() - b.double()).abs().max()) if a.numel() else 0.0
        worst = max(worst, change / (scale or 1.0))
    return worst


def moved_places(structure: weyl.Structure, before: State, after: State) -> list[str]:
    """Names of tensors that an element moved."""
    return [name for name in before if not torch.equal(before[name], after[name])]


def wrong_states(structure: weyl.Structure, state: State, seed: int = 0) -> Iterator[State]:
    """Deliberately wrong twins: one tensor moves, the others that share its spaces stay.

    Where a space lives in one tensor alone (say both dimensions of a recurrent weight) one dimension of it is turned.
    """
    twin = weyl.act(structure.group.random(seed), structure, state)
    moved = moved_places(structure, state, twin)
    families = {storage(state[name]) for name in moved}
    for name in sorted(moved, key=lambda n: -state[n].numel()):
        same = {n for n in state if storage(state[n]) == storage(state[name])}
        if len(families) > 1:
            yield {n: twin[n] if n in same else t for n, t in state.items()}
        for dim, axis in enumerate(structure.axes[name]):
            if not any(True for _ in spaces_of(axis)):
                continue
            turned = state[name].roll(1, dim)
            yield {n: turned if n in same else t for n, t in state.items()}


def assert_preserved(
    model: nn.Module,
    args: tuple = (),
    kwargs: Any = None,
    *,
    structure: weyl.Structure | None = None,
    output: Output | None = None,
    tolerance: float = 1e-9,
    seeds: tuple[int, ...] = (1, 2),
    control: bool = True,
) -> weyl.Structure:
    """The discovered group keeps the function, and a wrong element does not. Returns the structure.

    The model is in float64 already; ``control`` is skipped by the caller only where the group must be trivial.
    """
    model = model.eval()
    structure = structure or _discover(model, args, kwargs, output)
    state = random_state(model, seed=11)
    before = outputs(model, state, args, kwargs, output)
    for seed in seeds:
        after = outputs(model, weyl.act(structure.group.random(seed), structure, state), args, kwargs, output)
        worst = error(before, after)
        assert worst <= tolerance, f"an element changed the output by {worst:.1e}\n{structure!r}"
    if control and not structure.group.trivial:
        assert control_error(model, structure, state, args, kwargs, output) > 100 * tolerance
    return structure


def control_error(
    model: nn.Module,
    structure: weyl.Structure,
    state: State,
    args: tuple = (),
    kwargs: Any = None,
    output: Output | None = None,
) -> float:
    """Largest change that a wrong element makes, over some of them."""
    before = outputs(model, state, args, kwargs, output)
    worst = 0.0
    for seed in (1, 2, 3):
        for tried, wrong in enumerate(wrong_states(structure, state, seed)):
            worst = max(worst, error(before, outputs(model, wrong, args, kwargs, output)))
            if worst > 1e-4 or tried > 8:
                break
        if worst > 1e-4:
            break
    return worst


def _discover(model: nn.Module, args: tuple, kwargs: Any, output: Output | None) -> weyl.Structure:
    if output is None:
        return weyl.discover(model, args, kwargs)
    return weyl.discover(model, args, kwargs, output=output)


def check(
    model: nn.Module, *args: Any, order: int | None = None, seed: int = 0, strict: bool = True, **options: Any
) -> weyl.Structure:
    """Discover in float64, compare the number of permutations if one is given, check preservation with its control."""
    model = model.double().eval()
    inputs = double(args)
    structure = assert_preserved(model, inputs, **options)
    if order is not None:
        assert int(structure.group.permutation_order) == order, f"expected {order}\n{structure!r}"
    if strict:
        assert structure.opaque == ()
    return structure
