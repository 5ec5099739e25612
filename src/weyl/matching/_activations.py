"""How alike the units of two networks are on data: cross-moments of their activations, in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from weyl.actions._state import check_state
from weyl.errors import InputError, NotFiniteError, UsageError
from weyl.groups import GaugeKind
from weyl.matching._batches import check_model, read_batches, undisturbed
from weyl.matching._taps import Key, Tap, Value
from weyl.proof._state import call
from weyl.structure import Axis, Structure, spaces_of

__all__ = ["Activation", "covered", "cross_moments"]

KINDS = ("correlation", "covariance")
ROWS = 8192  # how many rows are multiplied in their own precision before the sum goes to float64
CONSTANT = 8  # a unit is constant if its deviation is below this many roundings of its mean


@dataclass(frozen=True, eq=False)
class Activation:
    """How alike the units of one axis are.

    Parameters
    ----------
    axis : Axis
        What the units are: one space, or a product or sum of spaces.
    moments : Tensor, shape (size, size), float64
        Correlations or covariances: rows are the units of the first network, columns those of the second.
    samples : int
        Number of activations (sample and position) of one unit, over all values.
    values : int
        How many places of the network the axis occurs at; the moments are the mean of theirs.
    signs : frozenset of str
        Families of signs that flip these activations: those of two networks may then be opposite and mean the same.
    """

    axis: Axis
    moments: Float64[Tensor, "n n"]
    samples: int
    values: int
    signs: frozenset[str] = frozenset()


def cross_moments(
    structure: Structure,
    model: nn.Module,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    data: Iterable[Any],
    *,
    kind: Literal["correlation", "covariance"] = "correlation",
    progress: Callable[[int], None] | None = None,
) -> tuple[Activation, ...]:
    r"""Correlate the units of two networks on data, in one pass over it for all spaces.

    For units i of the first and j of the second network, and activations :math:`x_i, y_j` over all samples and
    positions (of an image, a sequence),

    .. math:: C_{ij} = \frac{\mathrm{E}[(x_i - \mathrm{E} x_i)(y_j - \mathrm{E} y_j)]}{\sigma(x_i)\, \sigma(y_j)},

    or the numerator alone. Which activations: those that a function writes which is given a parameter with units of a
    space (a linear layer, a convolution, an embedding, a normalisation, a sum or product with a parameter, a recurrent
    layer or cell), after all pointwise functions that follow, and before anything else reads them. So they are taken
    after the activation function, the batch normalisation and the residual sum, wherever the model calls them, and
    whatever its modules are called. Not seen, and left to the weights: what ``einsum``, a product of more than two
    dimensions or attention itself returns (its projections are seen, also in ``nn.MultiheadAttention``), layers all of
    whose parameters are computed from others (weight normalisation without a bias), the cells of an LSTM that projects
    them; of the lower layers of a recurrent network, all steps but the last. :func:`covered` tells what was seen.

    Where one axis occurs at several places, such as the residual stream, its moments are the mean of the matrices of
    those places. A unit that is constant in either network has correlation 0 with all.

    Parameters
    ----------
    structure : Structure
        Of the model.
    model : nn.Module
        Runs in evaluation mode; its own weights are not used, and it is left as it was.
    a, b : mapping of str to Tensor
        State dicts.
    data : iterable
        Batches: each a tensor of inputs, a tuple or list of inputs and whatever else, or a mapping of keyword
        arguments. Floating-point inputs are brought to the device and precision of the states.
    kind : {'correlation', 'covariance'}
        What to compute; covariances are divided by the number of activations.
    progress : callable, optional
        Called after every batch with the number of batches done.

    Returns
    -------
    tuple of Activation
        One for every axis expression, and within it for all values that the same signs flip, in the order in which
        the network reads them.

    Raises
    ------
    UsageError
        If ``kind`` is unknown, or a batch is nothing of the above, or there is none.
    StructureError
        If a state does not belong to the structure.
    InputError
        If the two networks do not run through the same functions, or all activations are of one sample.
    NotFiniteError
        If activations are not finite, naming the parameter that wrote them.

    References
    ----------
    Li, Yosinski, Clune, Lipson, Hopcroft, "Convergent learning", ICLR 2016, section 2 (correlations as similarity);
    Ainsworth, Hayase, Srinivasa, "Git Re-Basin", ICLR 2023, section 3.1 (matching activations).

    Examples
    --------
    >>> import weyl
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> structure = weyl.discover(net, (torch.zeros(1, 4),))
    >>> g = structure.group.random(1, kinds=("permute",))
    >>> state = net.state_dict()
    >>> data = [torch.linspace(-1, 1, 80).sin().reshape(20, 4)]
    >>> found, = cross_moments(structure, net, state, weyl.act(g, structure, state), data)
    >>> str(found.axis), tuple(found.moments.shape), found.samples
    ('0', (3, 3), 20)
    """
    if kind not in KINDS:
        raise UsageError(f"kind must be 'correlation' or 'covariance', got {kind!r}")
    for state in (a, b):
        check_state(structure, state, structure.axes)
    first, second = _Side(structure, a), _Side(structure, b)
    crossed = _Crossed(structure, first, second)
    done = 0
    check_model(model)
    with undisturbed(model, first.place):
        for batch in read_batches(data, first.place):
            for side, take in ((first, crossed.keep), (second, crossed.pair)):
                moved = tree_map(lambda leaf, side=side: _placed(leaf, side.place), (batch.args, dict(batch.kwargs)))
                with side.tap(take):
                    call(model, side.state, *moved)
            crossed.close_batch()
            done += 1
            if progress is not None:
                progress(done)
    return crossed.result(kind == "correlation")


def covered(activations: Iterable[Activation]) -> frozenset[str]:
    """Names of the spaces that activations say something about.

    Examples
    --------
    >>> from weyl.structure import Product, Units
    >>> heads = Product((Units("heads", 2), Units("inner", 3)))
    >>> sorted(covered([Activation(heads, torch.eye(6, dtype=torch.float64), 10, 1)]))
    ['heads', 'inner']
    """
    return frozenset(space for activation in activations for space in spaces_of(activation.axis))


class _Side:
    """One network: centred activations, and the first two moments of every unit.

    Activations are centred by the mean of the first batch, so that a large mean does not eat the digits of the
    products.
    """

    def __init__(self, structure: Structure, state: Mapping[str, Tensor]) -> None:
        self._axes = structure.axes
        self._wanted = frozenset(s.name for s in structure.spaces) | {g.space for g in structure.gauges}
        self.state = dict(state)
        # Which device and precision its inputs have.
        self.place = next((t for t in state.values() if t.is_floating_point()), torch.empty(0))
        self._references: dict[Key, Tensor] = {}
        self._sums: dict[Key, Tensor] = {}
        self._squares: dict[Key, Tensor] = {}
        self._dtypes: dict[Key, torch.dtype] = {}

    def tap(self, take: Callable[[_Side, Value], None]) -> Tap:
        """What listens to one run."""
        return Tap(self._axes, self.state, self._wanted, lambda value: take(self, value))

    def rows(self, value: Value) -> Float[Tensor, "samples units"]:
        """Activations without the mean of the first batch: a copy, in the layout at hand."""
        tensor, units = value.tensor, value.tensor.shape[value.dim]
        last = tensor.movedim(value.dim, -1)
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        if value.key not in self._references:
            self._begin(value.key, last)
        reference = self._references[value.key].to(dtype)
        if last.is_contiguous():
            rows = (last - reference).reshape(-1, units)
        else:  # channels before positions: centred and laid out for one product at once
            first = tensor.movedim(value.dim, 0)
            columns = torch.empty(first.shape, dtype=dtype, device=first.device)
            torch.sub(first, reference.view(-1, *[1] * (first.ndim - 1)), out=columns)
            rows = columns.view(units, tensor.numel() // units).T
        return rows

    def count(self, key: Key, rows: Float[Tensor, "samples units"]) -> None:
        """Add rows to the moments, and overwrite them."""
        self._sums[key] += rows.sum(0)
        self._squares[key] += rows.square_().sum(0)

    def _begin(self, key: Key, last: Tensor) -> None:
        """Take the mean over all but the last dimension for the reference."""
        zeros = last.new_zeros(last.shape[-1], dtype=torch.float64)
        mean = last.mean(tuple(range(last.ndim - 1)), dtype=torch.float64) if last.ndim > 1 else last.double()
        self._references[key] = mean if last.numel() else zeros
        self._sums[key], self._squares[key] = zeros.clone(), zeros.clone()
        self._dtypes[key] = last.dtype

    def is_finite(self, key: Key) -> Tensor:
        """Whether all activations so far were finite: what is not, stays in the sum."""
        return torch.isfinite(self._squares[key]).all()

    def spread(self, key: Key, samples: int) -> tuple[Tensor, Tensor]:
        """Centred means, and inverse standard deviations: 0 for a unit whose spread is but rounding of its mean."""
        mean = self._sums[key] / samples
        deviation = (self._squares[key] / samples - mean.square()).clamp_min(0).sqrt()
        rounding = CONSTANT * torch.finfo(self._dtypes[key]).eps * (self._references[key] + mean).abs()
        return mean, torch.where(deviation > rounding, 1 / deviation, 0)


class _Product:
    """A sum of products in float64: of few rows it is first taken in their precision, as one product would be."""

    def __init__(self, rows: Float[Tensor, "samples units"]) -> None:
        self._total = rows.new_zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
        self._part = rows.new_zeros(rows.shape[1], rows.shape[1])
        self._pending = 0
        self.samples = 0

    def add(self, one: Float[Tensor, "samples units"], two: Float[Tensor, "samples units"]) -> None:
        """Add the product of the rows of both."""
        self._part.addmm_(one.T, two.to(one))
        self._pending += len(one)
        self.samples += len(one)
        if self._pending >= ROWS:
            self._flush()

    def _flush(self) -> None:
        self._total += self._part
        self._part.zero_()
        self._pending = 0

    def mean(self) -> Tensor:
        """The sum, divided by the number of rows."""
        self._flush()
        return self._total / self.samples


class _Crossed:
    """Products of the activations of two networks, value by value."""

    def __init__(self, structure: Structure, first: _Side, second: _Side) -> None:
        self._structure = structure
        self._sides = first, second
        self._kept: list[tuple[Key, Tensor]] = []
        self._next = 0
        self._products: dict[Key, _Product] = {}

    def keep(self, side: _Side, value: Value) -> None:
        """A value of the first network, until the second comes to it."""
        self._kept.append((value.key, side.rows(value)))

    def pair(self, side: _Side, value: Value) -> None:
        """A value of the second network, together with the same of the first."""
        if self._next == len(self._kept):
            raise _differ(f"the second comes to {value.name!r} once more")
        key, one = self._kept[self._next]
        self._kept[self._next] = (key, one[:0].clone())  # lets go of its memory
        self._next += 1
        if key != value.key:
            came, expected = (f"{name!r} after {stage} more functions" for name, stage, _ in (value.key, key))
            raise _differ(f"where the first comes to {expected}, the second comes to {came}")
        two = side.rows(value)
        if one.shape != two.shape:
            raise _differ(f"{value.name!r} writes {len(one)} activations a unit in the first, {len(two)} in the second")
        if key not in self._products:
            self._products[key] = _Product(one)
        self._products[key].add(one, two)
        for counted, rows in zip(self._sides, (one, two), strict=True):
            counted.count(key, rows)

    def close_batch(self) -> None:
        """Refuse networks that took different ways, or activations that are not finite."""
        if self._next < len(self._kept):
            raise _differ(f"the second does not come to {self._kept[self._next][0][0]!r}")
        self._kept.clear()
        self._next = 0
        for which, side in zip(("first", "second"), self._sides, strict=True):
            finite = [side.is_finite(key) for key in self._products]
            # One question for all: each would wait for the device.
            if finite and not bool(torch.stack(finite).all()):
                name = next(key[0] for key, flag in zip(self._products, finite, strict=True) if not flag)
                raise NotFiniteError(
                    f"activations of the {which} network that {name!r} writes are NaN, infinite or too large to square;"
                    " check its weights and the data"
                )

    def result(self, correlation: bool) -> tuple[Activation, ...]:
        """The mean over the values of every axis that the same signs flip."""
        if any(product.samples < 2 for product in self._products.values()):
            raise InputError("one sample has no correlations: pass data of two at least")
        axes: dict[tuple[Axis, frozenset[str]], list[Key]] = {}
        for key in self._products:
            axes.setdefault((key[2], _flipping(self._structure, key[0], key[2])), []).append(key)
        found = []
        for (axis, signs), keys in axes.items():
            moments = self._moments(keys[0], correlation)
            for key in keys[1:]:
                moments += self._moments(key, correlation)
            samples = sum(self._products[key].samples for key in keys)
            found.append(Activation(axis, moments / len(keys), samples, len(keys), signs))
        return tuple(found)

    def _moments(self, key: Key, correlation: bool) -> Tensor:
        """Correlations or covariances of one value."""
        product = self._products[key]
        (mean_a, inverse_a), (mean_b, inverse_b) = (side.spread(key, product.samples) for side in self._sides)
        mean = product.mean()
        covariance = torch.addr(mean, mean_a, mean_b.to(mean.device), alpha=-1)
        if not correlation:
            return covariance
        return (covariance * inverse_a[:, None] * inverse_b.to(mean.device)).clamp_(-1, 1)


def _flipping(structure: Structure, name: str, axis: Axis) -> frozenset[str]:
    """Families of signs that flip what a parameter writes: those of its bias, or of its rows; of a bare gain, any."""
    bias = f"{name.rpartition('.')[0]}.bias".removeprefix(".")
    shown = bias if structure.axes.get(bias) == (axis,) else name
    gauges = {gauge.name: gauge for gauge in structure.gauges if gauge.kind is GaugeKind.SIGN}
    spaces = spaces_of(axis)
    if shown == name and len(structure.axes[name]) == 1:
        return frozenset(gauge.name for gauge in gauges.values() if gauge.space in spaces)
    dims = [dim for dim, own in enumerate(structure.axes[shown]) if own == axis]
    odd = Counter(
        gauge
        for gauge in gauges
        for weight in structure.weights.get(gauge, {}).get(shown, ())
        if weight.exponent % 2 and weight.dim in (*dims[:1], -1)
    )
    return frozenset(gauge for gauge, count in odd.items() if count % 2)


def _differ(how: str) -> InputError:
    return InputError(
        f"the two networks do not run through the same functions on the same data: {how}; a model that chooses its way "
        "by its activations (routed experts) cannot be matched by them: use costs='weights'"
    )


def _placed(leaf: Any, place: Tensor) -> Any:
    """Where, and in which precision, the other network runs."""
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.to(place.device, place.dtype if leaf.is_floating_point() else leaf.dtype)
