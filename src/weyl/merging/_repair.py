"""Activations of a merged network brought back to those of its parents: batch normalisation anew, and REPAIR."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weyl.actions._state import check_state
from weyl.errors import UsageError
from weyl.matching._batches import check_data, check_model
from weyl.merging._interpolate import State, check_alike, check_weights
from weyl.merging._moments import Moments, Vector
from weyl.merging._passes import Goal, Layer, Passed, normalisations, repairable, run
from weyl.structure import Structure

__all__ = ["Repaired", "repair", "reset_batch_norm"]

# Relative deviation of means and standard deviations that counts as none.
TOLERANCE = 5e-4
# The same in roundings of the dtype, where it has few bits.
FEW_BITS = 8


@dataclass(frozen=True, eq=False)
class Repaired:
    """A merged state whose activations have the statistics of its parents.

    Parameters
    ----------
    state : dict of str to tensor
        Names, dtypes and devices of the merged state.
    layers : tuple of str
        Modules that can be corrected, in the order in which they are called.
    deviation : float
        Largest deviation from the goal that is left, of a mean in standard deviations or of a standard deviation
        relative to its goal.
    passes : int
        Passes over the data by the merged network.
    """

    state: State
    layers: tuple[str, ...]
    deviation: float
    passes: int

    def __repr__(self) -> str:
        return f"Repaired({len(self.layers)} layers, deviation {self.deviation:.2g}, {self.passes} passes)"


def reset_batch_norm(model: nn.Module, state: Mapping[str, Tensor], data: Iterable[Any]) -> State:
    """Estimate the running statistics of every batch normalisation anew; returns a new state.

    One pass, in which batch normalisations, and nothing else, behave as in training: each normalises with the
    statistics of the batch, so that those after it see what they will see. What enters them is pooled over all
    samples in float64: exact means and unbiased variances, whatever the sizes of the batches. Larger batches are
    better. The running averages of two networks do not average to those of the merged one, which without this is far
    off.

    Parameters
    ----------
    model : nn.Module
        The network; its own weights are not used and it is left as it was.
    state : mapping of str to tensor
        The weights; not changed.
    data : iterable
        Batches of training data, as for `evaluator`; targets are not used.

    Returns
    -------
    dict of str to tensor
        The state with other running statistics; counters tell the batches.

    Raises
    ------
    UsageError
        If the model has no batch normalisation with running statistics, there are no samples, or a batch has a
        single value a channel.
    NotFiniteError
        If an input of a batch normalisation is not finite.

    References
    ----------
    Ainsworth, Hayase, Srinivasa, "Git Re-Basin", ICLR 2023, appendix A.5. Jordan et al., arXiv 2211.08403.

    Examples
    --------
    >>> net = nn.Sequential(nn.BatchNorm1d(1))
    >>> found = reset_batch_norm(net, net.state_dict(), [torch.tensor([[1.0], [2.0], [6.0]])])
    >>> found["0.running_mean"], found["0.running_var"]
    (tensor([3.]), tensor([7.]))
    """
    check_model(model)
    norms = normalisations(model)
    if not norms:
        raise UsageError(f"{type(model).__name__} has no batch normalisation to estimate anew: use repair='repair'")
    return run(model, state, data, norms, {}).state


def repair(
    structure: Structure,
    model: nn.Module,
    state: Mapping[str, Tensor],
    parents: Sequence[Mapping[str, Tensor]],
    data: Iterable[Any],
    *,
    weights: Sequence[float] | None = None,
    tolerance: float = TOLERANCE,
) -> Repaired:
    r"""REPAIR: give every unit of a merged network the mean and standard deviation that its parents had.

    Averages of weights have activations that vary too little, the less the deeper. For the output of a layer before
    its activation, unit by unit, the goal is the mean of the parents,

    .. math:: \mu^* = \sum_i w_i \mu_i, \qquad \sigma^* = \sum_i w_i \sigma_i,

    and the layer's weight and bias are multiplied by :math:`\sigma^*/\sigma`, the bias shifted to the mean; without a
    bias only the standard deviation can be brought back. The first correction is estimated in one pass in which every
    layer is normalised batch by batch, so that later ones see corrected inputs. Then the network as it is is measured,
    and layers that are off by more than ``tolerance`` (and by more than a few roundings) are corrected again, one after
    another, with a pass for each. Larger batches need fewer of them. Where all layers of a merge are within
    tolerance, no weight and no bias is changed.

    Corrected are `torch.nn.Linear` and `torch.nn.Conv1d` to ``Conv3d`` whose outputs are the units of one space, and
    which are called once, as modules, with a weight and a bias of their own. Layers directly before a batch
    normalisation are left to it. Outputs of the network, heads of attention, grouped units and shared weights are left
    alone.

    Before all that, whatever the tolerance, running statistics of all batch normalisations are estimated anew, as by
    `reset_batch_norm`. So even a merge of a network with itself is another function wherever its running averages are
    not the statistics of ``data``: because training was cut short, or because they lag behind the last steps. The
    goals of other layers are those of the parents with their running averages as they are.

    Parameters
    ----------
    structure : Structure
        Of the model.
    model : nn.Module
        The network; its own weights are not used and it is left as it was.
    state : mapping of str to tensor
        The merged state; not changed.
    parents : sequence of mapping of str to tensor
        The states that were merged, aligned with each other.
    data : iterable
        Batches of training data, as for `evaluator`; targets are not used.
    weights : sequence of float, optional
        Those of the merge; equal ones unless given.
    tolerance : float
        Deviation from the goal, as ``Repaired.deviation``, that is good enough.

    Returns
    -------
    Repaired
        ``.state``, and how well it was met.

    Raises
    ------
    StructureError, MismatchError
        If structure, model and states do not belong together.
    UsageError
        If there is nothing to correct, or no samples.
    NotFiniteError
        If an activation is not finite.

    References
    ----------
    Jordan, Sedghi, Saukh, Entezari, Neyshabur, "REPAIR: REnormalizing Permuted Activations for Interpolation Repair",
    ICLR 2023, arXiv 2211.08403, section 3.

    Examples
    --------
    >>> import weyl
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> x = torch.arange(40.0).sin().reshape(20, 2)
    >>> structure = weyl.discover(net, (x,))
    >>> state = net.state_dict()
    >>> spoiled = {name: 0.5 * tensor for name, tensor in state.items()}
    >>> found = repair(structure, net, spoiled, [state], [x])
    >>> found.layers, torch.allclose(found.state["0.weight"], state["0.weight"])
    (('0',), True)
    """
    check_model(model)
    check_data(data)
    check_alike([state, *parents])
    shares = check_weights(weights, len(parents))
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not tolerance >= 0:
        raise UsageError(f"tolerance must be a number, 0 or more, got {tolerance!r}")
    for one in (state, *parents):
        check_state(structure, one)
    norms = normalisations(model)
    layers = repairable(structure, model, parents[0], data)
    if not layers and not norms:
        raise UsageError(f"{type(model).__name__} has no layer that can be repaired: use repair=None")
    goals = _goals(model, parents, data, shares, layers)
    work = _Work(model, data, dict(state), layers, goals)
    if norms:
        work.reset(norms)
    if layers:
        work.correct(norms, tolerance)
    return Repaired(work.state, tuple(layers), work.deviation, work.passes)


class _Work:
    """A merged state on its way to its goals."""

    def __init__(
        self,
        model: nn.Module,
        data: Iterable[Any],
        state: State,
        layers: Mapping[str, Layer],
        goals: Mapping[str, Goal],
    ) -> None:
        self._model, self._data, self._layers, self._goals = model, data, layers, goals
        self._merged = self.state = state
        self._folds: dict[str, tuple[Vector, Vector]] = {}
        self.passes = 0
        self.deviation = 0.0

    def reset(self, norms: Mapping[str, nn.Module]) -> None:
        """Estimate the statistics of batch normalisations anew."""
        self.state = self._merged = self._passed(norms, {}).state

    def correct(self, norms: Mapping[str, nn.Module], tolerance: float) -> None:
        """Correct the layers until they meet their goals.

        What a layer is corrected by is right for the inputs that it had; correcting all of them at once would overshoot
        more and more with depth. So after the first pass they are corrected one after another, each at most once.
        """
        enough = max([tolerance, *(FEW_BITS * goal.eps for goal in self._goals.values())])
        self._measured()
        if self.deviation <= enough:
            return
        passed = self._passed(norms, self._goals)
        self.state = self._merged = passed.state
        self._fold(passed.moments)
        waiting = list(self._layers)
        while True:
            found = self._measured()
            while waiting and self._missed(waiting[0], found) <= enough:
                waiting.pop(0)
            if not waiting:
                return
            name = waiting.pop(0)
            self._fold({name: found[name]})

    def _passed(self, norms: Mapping[str, nn.Module], goals: Mapping[str, Goal]) -> Passed:
        self.passes += 1
        return run(self._model, self.state, self._data, norms, self._layers if goals else {}, goals)

    def _measured(self) -> dict[str, Moments]:
        self.passes += 1
        found = run(self._model, self.state, self._data, {}, self._layers).moments
        self.deviation = max(self._missed(name, found) for name in self._layers)
        return found

    def _missed(self, name: str, found: Mapping[str, Moments]) -> float:
        return self._goals[name].missed(found[name], self._layers[name].biased)

    def _fold(self, found: Mapping[str, Moments]) -> None:
        """Correct layers by what was found, in float64 and rounded once."""
        state = dict(self.state)
        for name, moments in found.items():
            layer = self._layers[name]
            scale, shift = self._goals[name].factors(moments, layer.biased)
            if name in self._folds:
                scale, shift = scale * self._folds[name][0], scale * self._folds[name][1] + shift
            self._folds[name] = scale, shift
            weight = self._merged[f"{name}.weight"]
            rows = scale.reshape(-1, *(1,) * (weight.ndim - 1))
            state[f"{name}.weight"] = (weight.detach().double() * rows).to(weight.dtype)
            if layer.biased:
                bias = self._merged[f"{name}.bias"]
                state[f"{name}.bias"] = (bias.detach().double() * scale + shift).to(bias.dtype)
        self.state = state


def _goals(
    model: nn.Module,
    parents: Sequence[Mapping[str, Tensor]],
    data: Iterable[Any],
    shares: Sequence[float],
    layers: Mapping[str, Layer],
) -> dict[str, Goal]:
    """Weighted means of the statistics of the parents."""
    if not layers:
        return {}
    found = [run(model, parent, data, {}, layers).moments for parent in parents]
    goals = {}
    for name in layers:
        weight = parents[0][f"{name}.weight"]
        mean = deviation = torch.zeros((), dtype=torch.float64, device=weight.device)
        for share, moments in zip(shares, found, strict=True):
            mean = mean + share * moments[name].mean.to(weight.device)
            deviation = deviation + share * moments[name].deviation().to(weight.device)
        goals[name] = Goal(mean, deviation.clamp_min(0.0), torch.finfo(weight.dtype).eps)
    return goals
