"""Weighted means of state dicts, and points between two of them: on the line, or on an arc."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from weyl._memory import tensor_identity
from weyl._text import one_line
from weyl.errors import MismatchError, NotFiniteError, UsageError

__all__ = ["State", "average", "check_alike", "check_weights", "interpolate", "slerp"]

State = dict[str, Tensor]
Combine = Callable[[str, list[Tensor], Tensor], None]

# Entries that are in float64 at a time.
CHUNK = 1 << 20
# How far weights may be from summing to 1; what is missing goes to the largest.
SUM = 1e-6
# Below this angle, or this close to a half turn, two vectors span no arc.
ANGLE = 1e-6
SHOWN = 3
STATISTICS = ("running_mean", "running_var")


def interpolate(a: Mapping[str, Tensor], b: Mapping[str, Tensor], at: float) -> State:
    """A point on the straight line between two states: ``(1 - at) a + at b``.

    Parameters
    ----------
    a, b : mapping of str to tensor
        States of one network; not changed.
    at : float
        0 gives ``a`` and 1 gives ``b``, exactly; beyond them the line goes on.

    Returns
    -------
    dict of str to tensor
        As for `average`, of which this is the case of two states.

    Raises
    ------
    MismatchError, NotFiniteError, UsageError
        As for `average`.

    Examples
    --------
    >>> interpolate({"w": torch.tensor(1.0)}, {"w": torch.tensor(3.0)}, 0.25)
    {'w': tensor(1.5000)}
    """
    at = _number("at", at)
    return average((a, b), (1.0 - at, at))


def average(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float] | None = None) -> State:
    r"""Weighted mean of states, in float64 and rounded once: :math:`\sum_i w_i \theta_i`.

    Running statistics are averaged like weights, so that a variance becomes the mean of the variances and not that of
    the mean network; to estimate those anew, see `reset_batch_norm`. Where all states are equal, so is their mean.

    Parameters
    ----------
    states : sequence of mapping of str to tensor
        States of one network; not changed.
    weights : sequence of float, optional
        Of sum 1; equal ones unless given.

    Returns
    -------
    dict of str to tensor
        New tensors with the names, dtypes and devices of the first state; names that are one tensor there are one
        again. Integers and truth values, such as the counters of a batch normalisation, are those of the first.

    Raises
    ------
    MismatchError
        If names or shapes differ, or names that are one tensor in the first state have different values in another.
    NotFiniteError
        If there is NaN or infinity in a tensor that is not the same in all states.
    UsageError
        If there is no state, or weights are not finite, not as many as the states, or do not sum to 1 within 10⁻⁶.

    Examples
    --------
    >>> states = [{"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 6.0])}]
    >>> average(states), average(states, (0.25, 0.75))
    ({'w': tensor([2., 4.])}, {'w': tensor([2.5000, 5.0000])})
    """
    check_alike(states)
    shares = check_weights(weights, len(states))
    return _combined(states, lambda name, tensors, out: _weighted(tensors, shares, out))


def slerp(a: Mapping[str, Tensor], b: Mapping[str, Tensor], at: float) -> State:
    r"""A point between two states on an arc, tensor by tensor: directions on the great circle, norms on the line.

    With :math:`\hat a = a/\|a\|`, :math:`\hat b = b/\|b\|` and the angle :math:`\omega` between them,

    .. math:: \big((1-t)\|a\| + t\|b\|\big)\;
        \frac{\sin((1-t)\,\omega)\,\hat a + \sin(t\,\omega)\,\hat b}{\sin\omega}

    each tensor as one vector. Where a vector is zero or the two are parallel or antiparallel, there is no one arc, and
    the line is taken; so it is for running statistics. Tools that put ``a`` and ``b`` in place of their directions
    give the same where the norms agree.

    Parameters
    ----------
    a, b : mapping of str to tensor
        States of one network; not changed.
    at : float
        From 0 for ``a`` to 1 for ``b``.

    Returns
    -------
    dict of str to tensor
        As for `average`.

    Raises
    ------
    MismatchError, NotFiniteError, UsageError
        As for `average`; also if ``at`` is outside [0, 1].

    References
    ----------
    Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985.

    Examples
    --------
    >>> slerp({"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 1.0])}, 0.5)
    {'w': tensor([0.7071, 0.7071])}
    """
    at = _number("at", at)
    if not 0.0 <= at <= 1.0:
        raise UsageError(f"at must lie between 0 and 1 on an arc, got {at!r}: interpolate goes on beyond the ends")
    check_alike((a, b))

    def combine(name: str, tensors: list[Tensor], out: Tensor) -> None:
        shares = None if name.rpartition(".")[2] in STATISTICS else _arc(tensors[0], tensors[1], at)
        if shares is None:
            _weighted(tensors, (1.0 - at, at), out)
            return
        for (x, y), piece in _pieces(tensors, out):
            piece.copy_(shares[0] * x + shares[1] * y)

    return _combined((a, b), combine)


def check_alike(states: Sequence[Mapping[str, Tensor]]) -> None:
    """Refuse states that are not of one network.

    Raises
    ------
    UsageError
        If there are none, or one is no mapping of names to tensors.
    MismatchError
        If names or shapes differ: a short diff.
    """
    if isinstance(states, Mapping) or not isinstance(states, Sequence) or not states:
        raise UsageError(f"expected a sequence of state dicts, got {type(states).__name__}: pass [a, b]")
    for state in states:
        if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise UsageError(f"expected a state dict of tensors, got {type(state).__name__}: pass model.state_dict()")
    first = states[0]
    for number, state in enumerate(states[1:], start=2):
        wrong = [
            f"{one_line(name, 60)} {_kind(state[name])}, not {_kind(tensor)}"
            for name, tensor in first.items()
            if name in state and _kind(state[name]) != _kind(tensor)
        ]
        parts = [
            _some([one_line(name, 60) for name in first if name not in state], "missing"),
            _some([one_line(name, 60) for name in state if name not in first], "unexpected"),
            _some(wrong, "of another shape or type"),
        ]
        if any(parts):
            diff = "; ".join(filter(None, parts))
            raise MismatchError(f"states 1 and {number} do not fit: {diff}; give states of one architecture")


def check_weights(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """Weights of a mean; equal ones for None.

    Raises
    ------
    UsageError
        If they are not finite, not as many as the states, or do not sum to 1.
    """
    if weights is None:
        return (1.0 / count,) * count
    if not isinstance(weights, Iterable):
        raise UsageError(f"weights must be a sequence of {count} numbers, got {type(weights).__name__}")
    shares = tuple(_number("a weight", weight) for weight in weights)
    if len(shares) != count:
        raise UsageError(f"weights must be as many as the states, {count}; got {len(shares)}")
    if abs(math.fsum(shares) - 1.0) > SUM:
        raise UsageError(f"weights must sum to 1, got {math.fsum(shares):g}: divide them by their sum")
    return shares


def _combined(states: Sequence[Mapping[str, Tensor]], combine: Combine) -> State:
    """Combine tensor by tensor; tied names of the first state once."""
    made: dict[object, tuple[str, Tensor]] = {}
    out: State = {}
    for name, tensor in states[0].items():
        tie = tensor_identity(tensor)
        if tie in made:
            _check_tie(states, made[tie][0], name)
        else:
            made[tie] = name, _made(name, [state[name].detach() for state in states], combine)
        out[name] = made[tie][1]
    return out


def _made(name: str, tensors: list[Tensor], combine: Combine) -> Tensor:
    first = tensors[0]
    if not (first.is_floating_point() or first.is_complex()) or not first.numel():
        return first.clone()
    for number, tensor in enumerate(tensors, start=1):
        if not bool(tensor.isfinite().all()):
            # A mask of infinities that no training changes.
            if all(torch.equal(first, other.to(first)) for other in tensors):
                return first.clone()
            raise NotFiniteError(
                f"{one_line(name, 60)} of state {number} has NaN or infinity, so that it has no mean with others: "
                "use another checkpoint"
            )
    out = torch.empty_like(first)
    combine(name, tensors, out)
    return out


def _check_tie(states: Sequence[Mapping[str, Tensor]], one: str, two: str) -> None:
    for number, state in enumerate(states[1:], start=2):
        same = tensor_identity(state[one]) == tensor_identity(state[two])
        if not same and not torch.equal(state[one], state[two]):
            raise MismatchError(
                f"{one_line(one, 60)} and {one_line(two, 60)} are one tensor in state 1 and differ in state {number}: "
                "untie them in state 1 by a clone, or use a checkpoint that ties them"
            )


def _weighted(tensors: Sequence[Tensor], weights: Sequence[float], out: Tensor) -> None:
    """Mean as steps from the tensor of largest weight: exact for equal tensors, and for a single weight of 1."""
    base = max(range(len(weights)), key=weights.__getitem__)
    for pieces, piece in _pieces(tensors, out):
        total = pieces[base].clone()
        for number, (share, other) in enumerate(zip(weights, pieces, strict=True)):
            if number != base and share:
                total.add_(other - pieces[base], alpha=share)
        piece.copy_(total)


def _arc(a: Tensor, b: Tensor, at: float) -> tuple[float, float] | None:
    """Factors of two tensors on their arc; None where there is none."""
    norms = [math.sqrt(sum(_square(x) for (x,), _ in _pieces([tensor], tensor))) for tensor in (a, b)]
    if not all(norms):
        return None
    # Unlike the arc cosine, accurate for small angles.
    gap = total = 0.0
    for (x, y), _ in _pieces([a, b], a):
        gap += _square(x / norms[0] - y / norms[1])
        total += _square(x / norms[0] + y / norms[1])
    angle = 2.0 * math.atan2(math.sqrt(gap), math.sqrt(total))
    if not ANGLE < angle < math.pi - ANGLE:
        return None
    length = ((1.0 - at) * norms[0] + at * norms[1]) / math.sin(angle)
    return length * math.sin((1.0 - at) * angle) / norms[0], length * math.sin(at * angle) / norms[1]


def _square(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x)) ** 2


def _pieces(tensors: Sequence[Tensor], out: Tensor) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Some rows of every tensor in double precision, and the same rows of the result."""
    wide = torch.complex128 if out.is_complex() else torch.float64
    rows = [tensor if tensor.ndim else tensor[None] for tensor in (*tensors, out)]
    step = max(1, CHUNK * len(rows[0]) // rows[0].numel())
    for start in range(0, len(rows[0]), step):
        pieces = [tensor[start : start + step] for tensor in rows]
        yield [piece.to(out.device, wide) for piece in pieces[:-1]], pieces[-1]


def _number(what: str, value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if isinstance(value, str) or not math.isfinite(number):
        raise UsageError(f"{what} must be a finite number, got {value!r}")
    return number


def _kind(tensor: Tensor) -> str:
    sort = "complex" if tensor.is_complex() else "floating" if tensor.is_floating_point() else "integer"
    return f"{tuple(tensor.shape)} {sort}"


def _some(names: list[str], what: str) -> str:
    more = ", …" if len(names) > SHOWN else ""
    return f"{len(names)} {what} ({', '.join(names[:SHOWN])}{more})" if names else ""
