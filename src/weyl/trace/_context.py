"""What a rule may do: join axes, pin them, record tensors. Rules live in :mod:`weyl.trace.rules`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from weyl.trace._cells import Axis, Cell, flatten, has_uniform, size_of
from weyl.trace._nest import Occurrence
from weyl.trace._unify import Unifier
from weyl.trace._values import Hidden, RuleError, Value

__all__ = ["Call", "Context", "Result", "Rule"]

Result = Value | list["Value | None"] | None
Rule = Callable[["Context", "Call"], Result]


@dataclass(frozen=True)
class Call:
    """One operator call with its arguments by name and the shapes that it returns."""

    name: str
    overload: str
    arguments: dict[str, Any]
    shapes: list[tuple[int, ...]]

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    def get(self, argument: str, default: Any = None) -> Any:
        """An argument that only some overloads have."""
        value = self.arguments.get(argument)
        return default if value is None else value

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the only, or the first, result."""
        return self.shapes[0]

    def values(self) -> Iterator[Value]:
        """Every tensor among the arguments, lists opened."""
        for argument in self.arguments.values():
            if isinstance(argument, Value):
                yield argument
            elif isinstance(argument, (list, tuple)):
                yield from (item for item in argument if isinstance(item, Value))


class Context:
    """Collects the equations of one graph: cells that rules unify and the tensors that occur."""

    def __init__(self) -> None:
        self.unifier = Unifier()
        self.occurrences: dict[tuple[object, ...], Occurrence] = {}
        self._tokens = count(1)

    # ------------------------------------------------------------------ recording
    def touch(self, *axes: Axis, hidden: Iterable[Hidden] = ()) -> None:
        """Record a tensor that exists inside an operator, such as the denominators of a softmax."""
        axes = tuple(axes)
        kept = tuple(h.axis for h in _carried(axes, hidden))
        self.occurrences.setdefault((axes, kept), Occurrence(axes, kept))

    def value(self, axes: Iterable[Axis], hidden: Iterable[Hidden] = ()) -> Value:
        """A result; recorded as a tensor that occurs. Hidden indices whose carriers are gone are lost."""
        axes = tuple(axes)
        result = Value(axes, hidden=_carried(axes, hidden))
        self.touch(*axes, hidden=result.hidden)
        return result

    def view(self, value: Value, axes: Iterable[Axis], lost: Sequence[Axis] = (), ordered: bool = True) -> Value:
        """The same entries (or some of them) under other axes; labels stay, and what did not vary along ``lost``.

        Where entries are left out or change places (``ordered=False``) labels get a new identity.
        """
        result = self.value(axes, value.survivors(tuple(lost)))
        token = value.token if ordered and not lost else self.token()
        return replace(result, labels=value.labels, tied=value.tied, token=token)

    def found(self, axes: Iterable[Axis], hidden: Iterable[Hidden], value: Value, dim: int) -> Value:
        """Positions found along a dimension of a tensor by comparing its entries: labels of that axis."""
        axis = value.axes[dim]
        tied = dim not in value.distinct or has_uniform(axis)
        return replace(self.value(axes, hidden), labels=axis, tied=tied, token=self.token())

    def token(self) -> int:
        """A new identity for an index tensor."""
        return next(self._tokens)

    # ------------------------------------------------------------------ axes
    def pin(self, axis: Axis, reason: str) -> Axis:
        """Hold an axis still; where it was uniform, positions now matter, so the result has fixed ones there."""
        self.unifier.pin(axis, reason)
        if not has_uniform(axis):
            return axis
        return self.unifier.join((Cell(size_of(axis), reason),), axis)

    def fixed(self, size: int, reason: str) -> Axis:
        """A new axis whose positions cannot move."""
        return () if size == 1 else (Cell(size, reason),)

    def join(self, a: Axis, b: Axis) -> Axis:
        """Make two axes the same; an axis of size 1 broadcasts."""
        if size_of(a) == 1:
            return b
        return a if size_of(b) == 1 else self.unifier.join(a, b)

    def broadcast(self, values: Sequence[Value], rank: int | None = None) -> tuple[Axis, ...]:
        """Axes of the broadcast of several tensors, aligned at the last dimension."""
        rank = max((v.ndim for v in values), default=0) if rank is None else rank
        axes: list[Axis] = [()] * rank
        for value in values:
            for back in range(1, value.ndim + 1):
                axes[-back] = self.join(axes[-back], value.axes[-back])
        return tuple(axes)

    def reshape(self, axes: Sequence[Axis], shape: Sequence[int]) -> list[Axis]:
        """Axes after a view: cut the row-major product of all axes at other places."""
        rest: Axis = tuple(factor for axis in axes for factor in flatten(axis))
        out: list[Axis] = []
        for place, size in enumerate(shape):
            cut = self.unifier.cut(rest, size)
            if cut is None:
                why = "a view cuts across units"
                self.unifier.conflict(rest, rest, why)
                self.touch(*out)
                return out + [self.fixed(n, why) for n in shape[place:]]
            out.append(cut[0])
            rest = cut[1]
        return out

    def concatenate(self, axes: Sequence[Axis]) -> Axis:
        """Direct sum of axes."""
        parts: list[Axis] = []
        for axis in axes:
            factors = flatten(axis)
            only = factors[0] if len(factors) == 1 else None
            if isinstance(only, Cell) and only.parts is not None and not only.dependents and not only.table:
                parts.extend(only.parts)
            else:
                parts.append(axis)
        if len(parts) == 1:
            return parts[0]
        return (Cell.sum(parts),)

    # ------------------------------------------------------------------ what several rules share
    def pointwise(self, values: Sequence[Value]) -> Value:
        """An elementwise operation with broadcasting."""
        return self.value(self.broadcast(values), merge_hidden(values))

    def reduce(self, value: Value, dims: Sequence[int], keepdim: bool) -> Value:
        """A symmetric function over some dimensions."""
        dropped = normal_dims(dims, value.ndim) or set(range(value.ndim))
        lost = [value.axes[d] for d in dropped]
        axes = [() if d in dropped else a for d, a in enumerate(value.axes) if keepdim or d not in dropped]
        return self.value(axes, value.survivors(tuple(lost)))

    def contract(self, operands: Sequence[tuple[Value, str]], out: str) -> Value:
        """A sum of products: axes with one letter are equal, letters not in ``out`` are summed over."""
        axes: dict[str, Axis] = {}
        for value, letters in operands:
            if len(letters) != value.ndim:
                raise RuleError(f"operand of rank {value.ndim} has {len(letters)} labels")
            for letter, axis in zip(letters, value.axes, strict=True):
                axes[letter] = self.join(axes.get(letter, ()), axis)
        lost = tuple(axis for letter, axis in axes.items() if letter not in out)
        values = [value for value, _ in operands]
        # the products before they are summed: an index that two operands share must mean the same for both
        self.touch(*axes.values(), hidden=merge_hidden(values))
        hidden = merge_hidden(values, lost)
        return self.value([axes.get(letter, ()) for letter in out], hidden)

    def mix(self, value: Value, dims: Sequence[int], sizes: dict[int, int] | None = None, why: str = "") -> Value:
        """An operation that depends on the positions along some dimensions, and treats all others alike.

        The dimensions are pinned and become new pinned axes of the given sizes. The rest is recorded as a tensor of
        its own, so that nothing in it may depend on the position, even if a later join makes the new axis the old.
        """
        dropped = normal_dims(dims, value.ndim)
        for d in dropped:
            self.pin(value.axes[d], why or "position")
        lost = tuple(value.axes[d] for d in dropped)
        rest = [axis for d, axis in enumerate(value.axes) if d not in dropped]
        self.touch(*rest, hidden=value.survivors(lost))
        axes = [
            self.fixed((sizes or {}).get(d, size_of(a)), why or "position") if d in dropped else a
            for d, a in enumerate(value.axes)
        ]
        return self.value(axes, value.survivors(lost))

    def slice(self, value: Value, dim: int, start: int, stop: int) -> Value:
        """The positions ``start:stop`` of one dimension."""
        if not (isinstance(start, int) and isinstance(stop, int)):
            raise RuleError("a position that depends on data")
        size = size_of(value.axes[dim])
        start, stop = _clip(start, size), _clip(stop, size)
        if stop <= start:
            raise RuleError("an empty slice")
        if (start, stop) == (0, size):
            return self.view(value, value.axes)
        axes = self.unifier.slice(list(value.axes), dim, start, stop)
        if axes is None:
            self.pin(value.axes[dim], "a slice cuts across units")
            axes = list(value.axes)
            self.touch(*(axis for d, axis in enumerate(axes) if d != dim))
            axes[dim] = self.fixed(stop - start, "a slice cuts across units")
        return self.view(value, axes, lost=[value.axes[dim]])

    def select(self, value: Value, dim: int, index: int) -> Value:
        """One position of a dimension, which is dropped."""
        if not isinstance(index, int):
            raise RuleError("a position that depends on data")
        index = index % max(size_of(value.axes[dim]), 1)
        piece = self.slice(value, dim, index, index + 1)
        return self.view(piece, [axis for d, axis in enumerate(piece.axes) if d != dim], ordered=False)


def _carried(axes: tuple[Axis, ...], hidden: Iterable[Hidden]) -> tuple[Hidden, ...]:
    """Hidden indices all of whose carriers are axes of the tensor, each exactly once (else it is unclear which)."""
    if not hidden:
        return ()
    present = Counter(factor for axis in axes for factor in flatten(axis))
    return tuple(
        h for h in hidden if all(present[f] == 1 for axis in h.carriers for f in flatten(axis) if isinstance(f, Cell))
    )


def _clip(position: int, size: int) -> int:
    return max(0, min(size, position + size if position < 0 else position))


def normal_dims(dims: Sequence[int] | int | None, rank: int) -> set[int]:
    """Non-negative dimension numbers."""
    if dims is None:
        return set()
    if isinstance(dims, int):
        dims = [dims]
    return {d % rank if rank else 0 for d in dims}


def merge_hidden(values: Iterable[Value], lost: tuple[Axis, ...] = ()) -> tuple[Hidden, ...]:
    """Hidden indices of a combination: one for each index tensor."""
    merged: dict[tuple[object, ...], Hidden] = {}
    for value in values:
        for h in value.survivors(lost):
            merged[tuple(flatten(h.axis)), h.token] = h
    return tuple(merged.values())
