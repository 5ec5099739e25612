"""Merge two networks up to a budget of width: pairs of units that match best are averaged, all others kept apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from weyl._memory import tensor_identity
from weyl._text import one_line
from weyl.actions import act
from weyl.actions._state import check_floating, check_state, check_structure
from weyl.canonical import in_double
from weyl.errors import StructureError, UsageError
from weyl.groups import Element
from weyl.matching._batches import Network, check_data, check_model, read_batches, undisturbed
from weyl.matching._match import match
from weyl.merging._similarity import similarities
from weyl.merging._widen import Plan, Roles, widened
from weyl.structure import Structure

__all__ = ["PartialMerge", "partial_merge"]

State = dict[str, Tensor]
# Names that a message shows.
SHOWN = 3
# Between the ensemble mean and the network that is twice as wide, relative to the largest output.
TOLERANCE = 1e-6
ACROSS = "units act on each other other than by weights (a normalisation over them?)"


@dataclass(frozen=True, eq=False)
class PartialMerge:
    """Two networks in one that is wider.

    Parameters
    ----------
    state : dict of str to tensor
        Tensors of the merged network; their shapes differ from the model's, so evaluate it with
        ``torch.func.functional_call(model, merged.state, inputs)``.
    widths : mapping of str to int
        Units of every space.
    merged : mapping of str to tuple of (int, int)
        For every space the pairs of units that were averaged, each by its number in a and in b.
    kept : mapping of str to (tuple of int, tuple of int)
        For every space the units that were kept apart, of a and of b, by their own numbers.
    similarity : mapping of str to array
        For every space the cosine of every pair, in the order of the units of a.
    deviation : float or None
        Largest difference, relative to the largest output, from the mean of both networks at width 2, and of a merged
        with itself at the width asked for from a; None if it was not measured, for want of a model and data.
    assumed : tuple of str
        Weights of which it was assumed, and not checked, along which dimension their outputs stand. If that is wrong of
        one, the merge is wrong.
    """

    state: State
    widths: Mapping[str, int]
    merged: Mapping[str, tuple[tuple[int, int], ...]]
    kept: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    similarity: Mapping[str, NDArray[np.float64]]
    deviation: float | None
    assumed: tuple[str, ...] = ()

    def report(self) -> str:
        """A line for every space: its units before and after, and how alike the pairs are."""
        lines = []
        for space, width in self.widths.items():
            cosines = self.similarity[space]
            pairs = [i for i, _ in self.merged[space]]
            apart = self.kept[space][0]
            shown = [f"{space}: {len(cosines)} -> {width} units"]
            shown += [f"{len(pairs)} pairs averaged (cosine {cosines[pairs].min():.3f} or more)"] if pairs else []
            if apart:
                shown.append(f"{len(apart)} kept of each (cosine {cosines[list(apart)].max():.3f} or less)")
            lines.append(", ".join(shown))
        checked = "not checked" if self.deviation is None else f"off by {self.deviation:.1e}"
        lines.append(f"at width 2, the mean of both networks: {checked}")
        if self.assumed:
            names = ", ".join(self.assumed[:SHOWN])
            more = f" and {len(self.assumed) - SHOWN} more" if len(self.assumed) > SHOWN else ""
            lines.append(f"assumed, not checked, where the outputs stand: {names}{more}; pass model= and data=")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"PartialMerge({sum(self.widths.values())} units in {len(self.widths)} spaces)"


def partial_merge(
    structure: Structure,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    *,
    width: float = 1.5,
    element: Element | None = None,
    output: Literal["average", "both"] = "average",
    model: nn.Module | None = None,
    data: Iterable[Any] | None = None,
    costs: Literal["weights", "activations", "both"] = "weights",
) -> PartialMerge:
    r"""Merge two networks into one of up to twice the width.

    Of the n units of every space, the pairs that match best are averaged and the others are kept of both networks,
    so that ``n' = round(width * n)`` are left. With M, which averages pairs and copies what is kept, and U, which
    hands every unit of a and of b what it became,

    .. math:: W^* = M_\text{out} \begin{pmatrix} W_a & \\ & W_b \end{pmatrix} U_\text{in}.

    At width 1 that is the average of the aligned networks; at width 2 it is the mean of their outputs, exactly. For
    that, units must not act on each other except through weights: not spaces within others (heads, groups), nor
    normalisation over units. Running statistics follow their units; after a merge they are best estimated again.

    Parameters
    ----------
    structure : Structure
        Of both networks.
    a, b : mapping of str to tensor
        Their states; not changed.
    width : float
        Between 1 and 2.
    element : Element, optional
        Moves b next to a; ``weyl.match(structure, a, b)`` unless given.
    output : {'average', 'both'}
        Whether outputs are averaged, or those of b stand after those of a, for tasks that differ: only if the model
        ends in a linear layer whose outputs nothing else reads.
    model : nn.Module, optional
        Tells where the outputs of a weight stand: along the first dimension in `torch.nn.Linear`, convolutions and
        recurrent layers, along the second in embeddings and transposed convolutions. Of weights of other modules, and
        of all weights without a model, the first dimension is assumed (with a model, unless the other is an output of
        it, or this one its input), which is wrong for ``x @ w``: such a merge is wrong between widths 1 and 2, and
        only data tell. `PartialMerge.assumed` names what was assumed. The model is left as it was.
    data : iterable, optional
        With a model, its first batch is used to check that the network of width 2 is the mean of both, and that a,
        merged with itself at the width asked for, computes what a computes.
    costs : {'weights', 'activations', 'both'}
        What pairs are compared by: cosines of all weights of two units with two dimensions or more, correlations of
        their activations on the data, or the mean of these.

    Returns
    -------
    PartialMerge

    Raises
    ------
    UsageError
        If the width is not between 1 and 2, another argument is not what it should be, or the model and data are
        missing that costs need.
    StructureError
        If the states do not fit the structure, or the networks cannot stand side by side; naming the space or tensor.
        If a check on data fails.

    References
    ----------
    Stoica, Bolya, Bjorner, Ramesh, Hearn, Hoffman, "ZipIt! Merging models from different tasks without training", ICLR
    2024, arXiv 2305.03053, Section 4 (its partial zip stops at a layer, this one has a budget in every layer).

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> nets = [nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double() for _ in range(2)]
    >>> structure = weyl.discover(nets[0], (torch.zeros(1, 4).double(),))
    >>> a, b = (net.state_dict() for net in nets)
    >>> merged = partial_merge(structure, a, b, width=2, element=structure.group.identity())
    >>> x = torch.randn(3, 4).double()
    >>> y = torch.func.functional_call(nets[0], merged.state, (x,))
    >>> torch.allclose(y, (nets[0](x) + nets[1](x)) / 2), merged.widths
    (True, {'0': 12})
    """
    _check_arguments(width, output, costs, model, data)
    check_structure(structure)
    check_state(structure, a, structure.axes)
    check_state(structure, b, structure.axes)
    check_floating(b, [name for name in structure.axes if a[name].is_floating_point()])
    b = _beside(structure, a, b)
    roles = Roles(structure, model, output)
    if element is None:
        element = match(structure, a, b, costs=costs, model=model, data=data).element
    moved = act(element, structure, b)
    similarity = similarities(structure, a, moved, costs, model, data)
    plans = {name: Plan.of(cosines, width) for name, cosines in similarity.items()}
    state = widened(roles, plans, a, moved)
    deviation = None
    if model is not None and data is not None:
        deviation = _deviation(roles, similarity, width, (a, moved), partial(_outputs, model, data))
    numbers = {name: element[name].permutation for name in plans}
    return PartialMerge(
        state,
        {name: len(plan.sources[0]) for name, plan in plans.items()},
        {name: tuple((int(i), int(numbers[name][i])) for i in plan.pairs) for name, plan in plans.items()},
        {
            name: (tuple(map(int, plan.apart)), tuple(map(int, numbers[name][plan.apart])))
            for name, plan in plans.items()
        },
        similarity,
        deviation,
        () if deviation is not None else tuple(roles.assumed),
    )


def _check_arguments(width: float, output: str, costs: str, model: object, data: object) -> None:
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 1 <= width <= 2:
        raise UsageError(f"width must be a number between 1 (the average) and 2 (both networks), got {width!r}")
    if output not in ("average", "both"):
        raise UsageError(f"output must be 'average' or 'both', got {output!r}")
    if costs not in ("weights", "activations", "both"):
        raise UsageError(f"costs must be 'weights', 'activations' or 'both', got {costs!r}")
    if costs != "weights" and (model is None or data is None):
        raise UsageError(f"costs={costs!r} compares activations: pass model= and data=")
    if model is not None:
        check_model(model)
    if data is not None:
        check_data(data)


def _deviation(
    roles: Roles,
    similarity: Mapping[str, NDArray[np.float64]],
    width: float,
    pair: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    run: Callable[[list[State]], list[list[Tensor]]],
) -> float:
    """How far the network of twice the width is from both networks, and a merged with itself from a."""
    a, b = map(in_double, pair)
    twice, asked = ({n: Plan.of(cosines, w) for n, cosines in similarity.items()} for w in (2.0, width))
    ours, theirs, wide, own = run([a, b, widened(roles, twice, a, b), widened(roles, asked, a, a)])
    worst = _worst(ours, theirs, wide)
    if not worst <= TOLERANCE:
        raise StructureError(
            f"at width 2 the outputs differ from the mean of both networks by {worst:.1e} of the largest:"
            f" {ACROSS}{_assumed(roles, ', or ')}; merge at width 1, weyl.merge"
        )
    # The law of width 2 averages no units, so that it cannot tell along which dimension they are written.
    off = _worst(ours, ours, own)
    if not off <= TOLERANCE:
        raise StructureError(
            f"at width {width:g} the first network merged with itself differs by {off:.1e} of the largest"
            f" output: {_assumed(roles, '') or ACROSS}; merge at width 1 or 2, or make such a layer a torch.nn.Linear"
        )
    return max(worst, off)


def _assumed(roles: Roles, joined: str) -> str:
    """What was taken for granted, and may be wrong."""
    told = [f"{name!r} along dimension {roles.written[name]}" for name in roles.assumed[:SHOWN]]
    more = f" and {len(roles.assumed) - SHOWN} more" if len(roles.assumed) > SHOWN else ""
    return f"{joined}outputs do not stand where they were assumed to, {', '.join(told)}{more}" if told else ""


def _worst(ours: list[Tensor], theirs: list[Tensor], found: list[Tensor]) -> float:
    """Largest difference from the mean of two networks, or from both side by side, relative to the largest output."""
    worst = 0.0
    for x, y, z in zip(ours, theirs, found, strict=True):
        expected = (x + y) / 2 if z.shape == x.shape else torch.cat([x, y], -1)
        off = float((z - expected).abs().max() / expected.abs().max().clamp(min=1e-300))
        if math.isnan(off):
            return off
        worst = max(worst, off)
    return worst


def _outputs(model: nn.Module, data: Iterable[Any], states: list[State]) -> list[list[Tensor]]:
    """What several states make of the first batch."""
    networks = [Network(model, state) for state in states]
    place = networks[0].place
    with undisturbed(model, place):
        batch = next(read_batches(data, place))
        try:
            return [_tensors(network(batch)) for network in networks]
        except (RuntimeError, ValueError) as error:
            raise StructureError(
                f"the model does not run with tensors of other widths: {one_line(error)}; merge without model and "
                "data, and load the state into a model of these widths"
            ) from error


def _beside(structure: Structure, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> State:
    """A state on the devices of another; names that shared a tensor share one again."""
    made: dict[object, Tensor] = {}
    out = dict(b)
    for name in structure.axes:
        device = a[name].device
        out[name] = made.setdefault((tensor_identity(b[name]), device), b[name].to(device))
    return out


def _tensors(outputs: Any) -> list[Tensor]:
    found = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not found:
        raise StructureError(f"the model gives no tensors but {type(outputs).__name__}: merge without model and data")
    return found
