"""One network from several: align, average, repair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from weyl.actions import act
from weyl.actions._state import check_seed, check_state
from weyl.errors import UsageError
from weyl.matching._batches import check_data, check_model
from weyl.merging._interpolate import State, average, check_alike, check_weights, slerp
from weyl.merging._repair import repair as repaired
from weyl.merging._repair import reset_batch_norm
from weyl.structure import Structure

__all__ = ["merge"]

METHODS = ("average", "slerp")
REPAIRS = (None, "bn", "repair")


def merge(
    structure: Structure,
    states: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float] | None = None,
    method: str = "average",
    repair: str | None = None,
    *,
    model: nn.Module | None = None,
    data: Iterable[Any] | None = None,
    align: bool = True,
    costs: str = "weights",
    seed: int = 0,
) -> State:
    r"""Merge networks of one architecture into one: align them with the first, average, and repair.

    Parameters
    ----------
    structure : Structure
        Of the model that the states belong to.
    states : sequence of mapping of str to tensor
        Two or more; not changed. The merged state is in the frame of the first.
    weights : sequence of float, optional
        Of sum 1; equal ones unless given.
    method : str
        ``"average"``, the weighted mean (see `average`); or ``"slerp"`` for two states (see `slerp`). Running
        statistics are averaged by either.
    repair : str, optional
        ``"bn"`` to estimate batch normalisations anew (see `reset_batch_norm`); ``"repair"`` to do so and to bring the
        activations of other layers back to what the parents had (see `weyl.merging.repair`). Both need ``model`` and
        ``data``.
    model : nn.Module, optional
        The network; its own weights are not used and it is left as it was.
    data : iterable, optional
        Batches of training data that can be iterated again, as for `evaluator`.
    align : bool
        Whether to align the states first: two by `weyl.match`, more by `weyl.universe`. Otherwise they are taken as
        they are.
    costs : str
        What units are matched by, as for `weyl.match`.
    seed : int
        Of the matching.

    Returns
    -------
    dict of str to tensor
        New tensors with the names, dtypes and devices of the first state.

    Raises
    ------
    UsageError
        If a method, repair or weights are impossible, or model or data are missing.
    StructureError, MismatchError
        If structure, model and states do not belong together.
    NotFiniteError
        If weights or activations are not finite.

    References
    ----------
    Ainsworth, Hayase, Srinivasa, "Git Re-Basin: merging models modulo permutation symmetries", ICLR 2023. Jordan et
    al., "REPAIR", ICLR 2023, arXiv 2211.08403.

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> structure = weyl.discover(net, (torch.zeros(1, 4),))
    >>> a = net.state_dict()
    >>> merged = merge(structure, [a, a], (0.25, 0.75), align=False)
    >>> all(torch.equal(merged[name], tensor) for name, tensor in a.items())
    True
    """
    shares = _checked(structure, states, weights, method)
    _check_repair(repair, model, data)
    check_seed(seed)
    aligned = _aligned(structure, states, model, data, costs=costs, seed=seed) if align else list(states)
    merged = slerp(aligned[0], aligned[1], shares[1]) if method == "slerp" else average(aligned, shares)
    if repair is None or model is None or data is None:
        return merged
    if repair == "bn":
        return reset_batch_norm(model, merged, data)
    return repaired(structure, model, merged, aligned, data, weights=shares).state


def _checked(
    structure: Structure, states: Sequence[Mapping[str, Tensor]], weights: Sequence[float] | None, method: str
) -> tuple[float, ...]:
    """Weights of states that can be merged."""
    check_alike(states)
    for state in states:
        check_state(structure, state)
    if len(states) < 2:
        raise UsageError("a merge needs two states or more, got 1")
    if method not in METHODS:
        raise UsageError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    if method == "slerp" and len(states) != 2:
        raise UsageError(f"slerp takes two states, got {len(states)}: use method='average'")
    if isinstance(weights, str):
        raise UsageError(f"weights must be numbers, got {weights!r}: did you mean method={weights!r}?")
    shares = check_weights(weights, len(states))
    if method == "slerp" and not 0.0 <= shares[1] <= 1.0:
        raise UsageError(f"slerp takes weights between 0 and 1, got {shares}: use method='average'")
    return shares


def _check_repair(repair: object, model: object, data: object) -> None:
    if repair not in REPAIRS:
        raise UsageError(f"repair must be one of {', '.join(map(repr, REPAIRS))}, got {repair!r}")
    missing = [name for name, given in (("model", model), ("data", data)) if given is None]
    if repair is not None and missing:
        raise UsageError(f"repair={repair!r} runs the network on data: give {' and '.join(missing)} as well")
    if model is not None:
        check_model(model)
    if data is not None:
        check_data(data)


def _aligned(
    structure: Structure,
    states: Sequence[Mapping[str, Tensor]],
    model: nn.Module | None,
    data: Iterable[Any] | None,
    **options: Any,
) -> list[State]:
    """The states, each moved next to the first."""
    from weyl import matching

    if options["costs"] != "weights":
        options |= {"model": model, "data": data}
    if len(states) == 2:
        elements = [matching.match(structure, states[0], states[1], **options).element]
    else:
        elements = list(matching.universe(structure, states, **options).elements)[1:]
    moved = zip(elements, states[1:], strict=True)
    return [dict(states[0]), *(act(element, structure, state) for element, state in moved)]
