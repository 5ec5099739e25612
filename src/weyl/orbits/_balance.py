"""``balance``: the point of least norm on the continuous orbit of a state."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weyl.actions import act
from weyl.errors import NotFiniteError, StructureError
from weyl.groups import Element, Gauge, GaugeKind
from weyl.orbits._geometric import common_ranks, geometric_mean, mean_of_grams, newton_step
from weyl.orbits._shifts import least_shifts
from weyl.orbits._tangents import algebra_shape
from weyl.orbits._views import Frame, checked, frames, is_statistic, once
from weyl.structure import Structure

__all__ = ["Balanced", "balance"]

# Largest relative difference of the two sides of a unit, or a space, that counts as balanced.
TOLERANCE = 1e-12
SWEEPS = 10_000
# Times that coupled shifts are solved for.
REFINED = 2
# Where the norm has no least value although every unit has two sides, some values grow for ever.
FARTHEST = 1e30
MOVING = (GaugeKind.SCALE, GaugeKind.LINEAR, GaugeKind.COMPLEX)


@dataclass(frozen=True, eq=False)
class Balanced:
    """A state of least norm, and how it was reached.

    Parameters
    ----------
    state : dict of str to tensor
        The balanced state: same names, dtypes and devices.
    element : Element
        ``weyl.act(element, structure, given)`` is the balanced state. It moves no unit.
    norm_before, norm_after : float
        Sum of squares of the tensors that count.
    iterations : int
        Sweeps over all gauges.
    imbalance : float
        Largest relative difference that is left between the two sides of a unit or a space.
    unattained : mapping of str to tuple of (tuple of int)
        Units by gauge, ``(*outer, unit)``, or copies, ``(*outer,)`` for matrices, in which the norm has no least
        value: one side is dead, or of lower rank, so that the other could be shrunk for ever. They are left as they
        were.
    left_alone : tuple of str
        Gauges that also move running statistics outside the norm, along which the weights could be shrunk for ever.
    """

    state: dict[str, Tensor]
    element: Element
    norm_before: float
    norm_after: float
    iterations: int
    imbalance: float
    unattained: Mapping[str, tuple[tuple[int, ...], ...]]
    left_alone: tuple[str, ...] = ()

    @property
    def attained(self) -> bool:
        """Whether the norm is the least of the whole orbit."""
        return not self.unattained and not self.left_alone and self.imbalance <= TOLERANCE

    def __repr__(self) -> str:
        least = "attained" if self.attained else "not attained"
        return (
            f"Balanced(sum of squares {self.norm_before:g} to {self.norm_after:g}, {least}, {self.iterations} sweeps)"
        )


def balance(structure: Structure, state: Mapping[str, Tensor], *, norm_of: Collection[str] | None = None) -> Balanced:
    r"""Move a state to the point of least norm of its continuous orbit.

    Along the orbit the sum of squares is a sum of exponentials of the logarithms of scales, and more generally convex
    along geodesics, so that there is one minimum up to rotations, where both sides of every unit have the same norm:

    .. math:: \sum_{w: e > 0} e\,\|w\|^2 = \sum_{w: e < 0} |e|\,\|w\|^2, \qquad
        \sum_{W: e = 1} W W^T = \sum_{W: e = -1} W W^T

    for scales and for matrices, W unfolded so that its rows are the units. It is found by minimising over one gauge
    after another, each in closed form: :math:`c = (\|v\|^2 / \|u\|^2)^{1/4}` for a unit with weights u and v of
    exponents 1 and -1; the geometric mean of two Gram matrices for a linear gauge, by the singular values of the
    product of their triangular factors; for translations of dead biases a projection.

    Parameters
    ----------
    structure : Structure
        Of the model that the state belongs to.
    state : mapping of str to tensor
        The whole state; it is not changed.
    norm_of : collection of str, optional
        Names of the tensors whose squares are summed; by default all floating tensors of the structure but running
        statistics (``running_mean``, and what is multiplied with an offset). Shared tensors count once.

    Returns
    -------
    Balanced
        ``.state``, ``.element``, and the norms. Scales and matrices that act on running statistics outside the norm
        are left alone: nothing holds the weights before a batch normalisation back from shrinking for ever.

    Raises
    ------
    StructureError
        If a tensor on which a gauge acts is missing or has another shape, or a name in ``norm_of`` is unknown.
    NotFiniteError
        If a tensor on which a gauge acts has entries that are not finite.

    References
    ----------
    Kempf and Ness, "The length of vectors in representation spaces", 1979. Saul, "Weight-balancing fixes and flows for
    deep learning", TMLR 2023.

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> structure = weyl.discover(net, (torch.zeros(1, 4),))
    >>> found = balance(structure, net.state_dict())
    >>> rows = found.state["0.weight"].square().sum(1) + found.state["0.bias"].square()
    >>> torch.allclose(rows, found.state["2.weight"].square().sum(0)), found.norm_after <= found.norm_before
    (True, True)
    """
    checked(structure, state)
    counted = _counted(structure, state, norm_of)
    problem = _Problem(structure, state, counted)
    factors, iterations, imbalance = problem.solved()
    element = _element(structure, factors)
    moved = act(element, structure, state)
    shifts = _Problem(structure, moved, counted, kinds=(GaugeKind.TRANSLATION,)).translations()
    if shifts:
        element = _element(structure, shifts) @ element
        moved = act(element, structure, state)
    before, after = (_norm(tensors, counted) for tensors in (state, moved))
    return Balanced(moved, element, before, after, iterations, imbalance, problem.unattained, problem.left_alone)


def _counted(structure: Structure, state: Mapping[str, Tensor], norm_of: Collection[str] | None) -> frozenset[str]:
    """First names of the tensors that count."""
    names = {name: names for name, names in once(structure, state).items() if state[name].is_floating_point()}
    if norm_of is None:
        return frozenset(first for first, all_of in names.items() if not any(_statistics(structure, all_of)))
    unknown = sorted(set(norm_of) - {name for all_of in names.values() for name in all_of})
    if unknown:
        raise StructureError(
            f"norm_of names {unknown[0]!r}, which is no floating tensor of the structure and the state"
        )
    return frozenset(first for first, all_of in names.items() if not set(all_of).isdisjoint(norm_of))


def _statistics(structure: Structure, names: Sequence[str]) -> Iterator[str]:
    return (name for name in names if is_statistic(structure, name))


def _norm(state: Mapping[str, Tensor], counted: frozenset[str]) -> float:
    return sum(float(state[name].detach().double().square().sum()) for name in sorted(counted))


def _element(structure: Structure, values: Mapping[str, Tensor]) -> Element:
    group = structure.group
    arrays = {name: value.cpu().numpy() for name, value in values.items()}
    return Element(group.spaces, group.identity(), group.gauges, arrays)


@dataclass(frozen=True)
class _Piece:
    """One weight of a gauge on a tensor that is being moved; ``precision`` is that of the tensor as it was given."""

    frame: Frame
    tensor: Tensor
    counts: bool
    precision: float

    def times(self, factor: Tensor) -> None:
        """Act with a scale, or a matrix, in place."""
        view, exponent = self.frame.view(self.tensor), self.frame.weight.exponent
        match self.frame.gauge.kind:
            case GaugeKind.SCALE:
                view.mul_(factor**exponent)
            case GaugeKind.COMPLEX:
                view.mul_(factor**exponent)
                self.frame.partner(self.tensor).mul_(factor**exponent)
            case _:
                view.copy_(self.frame.mixed(factor if exponent > 0 else torch.linalg.inv(factor).mT, view))

    def squares(self) -> Tensor:
        """Sum of squares for every unit."""
        total = self._squares(self.frame.view(self.tensor))
        if self.frame.gauge.kind is GaugeKind.COMPLEX:
            total = total + self._squares(self.frame.partner(self.tensor))
        return total

    def _squares(self, view: Tensor) -> Tensor:
        """Without an array of squares, which would have to be written and read again."""
        rest = tuple(range(view.dim() - self.frame.rank))
        return torch.linalg.vector_norm(view, dim=rest).square() if rest else view.square()


class _Problem:
    """A copy of the tensors in float64, which is balanced one gauge after another."""

    def __init__(
        self,
        structure: Structure,
        state: Mapping[str, Tensor],
        counted: frozenset[str],
        kinds: Collection[GaugeKind] = (*MOVING, GaugeKind.TRANSLATION),
    ) -> None:
        self._structure = structure
        self._pieces: dict[str, list[_Piece]] = {gauge.name: [] for gauge in structure.gauges}
        self._device = torch.device("cpu")
        self._ranks: dict[str, Tensor] = {}
        self._settled: dict[str, tuple[float, list[int]]] = {}
        self.unattained: dict[str, tuple[tuple[int, ...], ...]] = {}
        held = set()
        for name, names in once(structure, state).items():
            acting = [frame for frame in frames(structure, name) if frame.gauge.kind in kinds]
            if not acting or not state[name].is_floating_point():
                continue
            self._device = state[name].device
            tensor = state[name].detach().to(torch.float64, copy=True).contiguous()
            if not bool(tensor.isfinite().all()):
                raise NotFiniteError(f"{name!r} has entries that are not finite: its norm has no least value")
            for frame in acting:
                piece = _Piece(frame, tensor, name in counted, torch.finfo(state[name].dtype).eps)
                self._pieces[frame.gauge.name].append(piece)
                if name not in counted and any(_statistics(structure, names)):
                    held.add(frame.gauge.name)
        moving = [gauge for gauge in structure.gauges if gauge.kind in MOVING]
        self.left_alone = tuple(gauge.name for gauge in moving if gauge.name in held)
        self._moving = [gauge for gauge in moving if gauge.name not in held]
        self._shifting = [gauge for gauge in structure.gauges if gauge.kind is GaugeKind.TRANSLATION]

    def solved(self) -> tuple[dict[str, Tensor], int, float]:
        """Values of the gauges that multiply, sweeps, and the imbalance that is left."""
        total = {gauge.name: self._identity(gauge) for gauge in self._moving}
        sweeps, imbalance = 0, 0.0
        while sweeps < SWEEPS:
            sweeps += 1
            self.translations()
            imbalance = max((self._visit(gauge, total) for gauge in self._moving), default=0.0)
            far = max((float(value.abs().max()) for value in total.values()), default=1.0)
            if imbalance <= TOLERANCE or not 1 / FARTHEST < far < FARTHEST:
                break
        return total, sweeps, imbalance

    def _identity(self, gauge: Gauge) -> Tensor:
        shape = algebra_shape(self._structure, gauge)
        if gauge.kind.matrix:
            return torch.eye(shape[-1], dtype=torch.float64, device=self._device).expand(shape)
        return torch.ones(shape, dtype=torch.float64, device=self._device)

    def _visit(self, gauge: Gauge, total: dict[str, Tensor]) -> float:
        """Step, unless the gauge was balanced and nothing has written to its tensors since."""
        pieces = self._pieces[gauge.name]
        known = self._settled.get(gauge.name)
        if known is not None and known[1] == [piece.tensor._version for piece in pieces]:
            return known[0]
        imbalance = self._step(gauge, total)
        if imbalance <= TOLERANCE:
            self._settled[gauge.name] = imbalance, [piece.tensor._version for piece in pieces]
        return imbalance

    def _step(self, gauge: Gauge, total: dict[str, Tensor]) -> float:
        """Minimise over one gauge, and return how far from balanced it was."""
        pieces = [piece for piece in self._pieces[gauge.name] if piece.counts]
        sharing = _sharing(self._pieces[gauge.name])
        mix = gauge.kind.matrix
        one = self._identity(gauge)
        if mix:
            # Ranks do not change along an orbit; they are clearest at its start.
            if gauge.name not in self._ranks:
                precision = max((piece.precision for piece in pieces), default=0.0)
                self._ranks[gauge.name] = common_ranks(*_sides(pieces, one), precision)
            factor, imbalance, stuck = _mixing(pieces, one, sharing, self._ranks[gauge.name])
        else:
            factor, imbalance, stuck = _scaling(pieces, one, sharing)
        self.unattained.pop(gauge.name, None)
        if bool(stuck.any()):
            self.unattained[gauge.name] = tuple(tuple(index) for index in stuck.nonzero().tolist())
        if imbalance > 0:
            for piece in self._pieces[gauge.name]:
                piece.times(factor.to(piece.tensor.device))
            total[gauge.name] = factor @ total[gauge.name] if mix else factor * total[gauge.name]
        return imbalance

    def translations(self) -> dict[str, Tensor]:
        """Shift what can be shifted to its least norm; returns the shifts."""
        found: dict[str, Tensor] = {}
        for group in self._shifted_together():
            pieces = {gauge: [piece for piece in self._pieces[gauge] if piece.counts] for gauge in group}
            # What rounding leaves of the first solution, the second takes.
            for _ in range(1 if len(group) == 1 else REFINED):
                shifts = least_shifts(pieces)
                for gauge, shift in shifts.items():
                    for piece in self._pieces[gauge]:
                        piece.frame.view(piece.tensor).add_(piece.frame.weight.coefficient * shift)
                    found[gauge] = found[gauge] + shift if gauge in found else shift
        return found

    def _shifted_together(self) -> list[list[str]]:
        """Gauges that shift something that counts, those that share a tensor in one list."""
        groups: list[tuple[set[int], list[str]]] = []
        for gauge in self._shifting:
            tensors = {id(piece.tensor) for piece in self._pieces[gauge.name] if piece.counts}
            if not tensors:
                continue
            near = [group for group in groups if group[0] & tensors]
            groups = [group for group in groups if not group[0] & tensors]
            names = [name for _, several in near for name in several]
            groups.append((tensors.union(*(known for known, _ in near)), [*names, gauge.name]))
        return [names for _, names in groups]


def _sharing(pieces: Sequence[_Piece]) -> int:
    """In how many places of one tensor, at most, a gauge acts: more than one couples its units."""
    places: dict[int, set[tuple[int, int]]] = {}
    for piece in pieces:
        places.setdefault(id(piece.tensor), set()).add((piece.frame.weight.dim, piece.frame.weight.factor))
    return max(map(len, places.values()), default=1)


def _scaling(pieces: Sequence[_Piece], one: Tensor, sharing: int) -> tuple[Tensor, float, Tensor]:
    """Scales that lower the norm, how far from balanced units were, and which have a dead side.

    With two exponents p and -q it is the minimum. With more of them the step is that of the steepest, and stops short
    of it. An entry on which m places act is bounded by the mean of the entries that m-th powers of them would give.
    """
    up, down = torch.zeros_like(one), torch.zeros_like(one)
    steepest = [0, 0]
    for piece in pieces:
        exponent = piece.frame.weight.exponent
        side = up if exponent > 0 else down
        side.add_(abs(exponent) * piece.squares().to(one.device))
        steepest[exponent < 0] = max(steepest[exponent < 0], abs(exponent))
    alive = (up > 0) & (down > 0)
    stuck = (up > 0) ^ (down > 0)
    up, down = up.where(alive, one), down.where(alive, one)
    imbalance = float(((up - down).abs() / (up + down)).max()) if up.numel() else 0.0
    power = 1.0 / (2 * sharing * max(1, sum(steepest)))
    return (down.log() - up.log()).mul(power).exp(), imbalance, stuck


def _mixing(pieces: Sequence[_Piece], one: Tensor, sharing: int, ranks: Tensor) -> tuple[Tensor, float, Tensor]:
    """Symmetric matrices that lower the norm, how far from balanced copies were, and which have no minimum."""
    factor, stuck = one.clone(), ranks < 0
    up, down = (_gram([p for p in pieces if p.frame.weight.exponent == e], one) for e in (1, -1))
    size = torch.linalg.matrix_norm(up) + torch.linalg.matrix_norm(down)
    apart = torch.linalg.matrix_norm(up - down) / size.where(size > 0, 1.0)
    imbalance = float(apart.where(~stuck.to(apart.device), 0.0).max()) if apart.numel() else 0.0
    open_ = ranks == one.shape[-1]
    for step in (newton_step, mean_of_grams):
        if bool(open_.any()):
            found, good = step(up[open_], down[open_], 1.0 / sharing)
            done = torch.zeros_like(open_).masked_scatter(open_, good.cpu())
            factor[done], open_ = found[good], open_ & ~done
    rest = (ranks >= 0) & (open_ | (ranks < one.shape[-1]))
    if bool(rest.any()):
        sides = _sides(pieces, one)
        for copy in map(tuple, rest.nonzero().tolist()):
            _, values, rows = torch.linalg.svd(geometric_mean(sides[0][copy], sides[1][copy], int(ranks[copy])))
            factor[copy] = rows.mT @ (values ** (1.0 / sharing))[:, None].mul(rows)
    return factor, imbalance, stuck


def _gram(pieces: Sequence[_Piece], one: Tensor) -> Tensor:
    """Sum of the Gram matrices of the units, shape ``(*outer, n, n)``."""
    total = torch.zeros_like(one)
    for piece in pieces:
        rows = piece.frame.unfolded(piece.frame.view(piece.tensor)).to(one.device)
        total += rows @ rows.mT
    return total


def _sides(pieces: Sequence[_Piece], one: Tensor) -> tuple[Tensor, Tensor]:
    """For both exponents, R with Rᵀ R the sum of the Gram matrices of the units, shape ``(*outer, k, n)``."""
    up, down = (_triangular([p for p in pieces if p.frame.weight.exponent == e], one) for e in (1, -1))
    return up, down


def _triangular(pieces: Sequence[_Piece], one: Tensor) -> Tensor:
    rows = [piece.frame.unfolded(piece.frame.view(piece.tensor)).to(one.device).mT for piece in pieces]
    if not rows:
        return torch.zeros_like(one)
    return torch.linalg.qr(torch.cat(rows, -2), mode="r").R
