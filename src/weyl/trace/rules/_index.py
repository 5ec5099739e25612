"""Looking up by index: embeddings, gather, scatter, one-hot, advanced indexing.

An index tensor of plain numbers pins what it looks up. One whose entries are labels (positions found by ``topk`` or
``argmax``) moves with the units it points at, and pins nothing: this is what lets experts be permuted.
"""

from __future__ import annotations

from weyl.trace._cells import Axis, size_of
from weyl.trace._context import Call, Context, Result, Rule, merge_hidden
from weyl.trace._values import Hidden, RuleError, Value

__all__ = ["RULES"]

WHY = "looked up by position"


def look_up(context: Context, axis: Axis, index: Value) -> tuple[Hidden, ...]:
    """Say that ``index`` points into ``axis``; returns the index that results carry without an axis."""
    if index.labels is None or size_of(index.labels) != size_of(axis):
        context.pin(axis, WHY)
        if index.labels is not None:
            context.pin(index.labels, WHY)
        return ()
    joined = context.join(axis, index.labels)
    return (Hidden(joined, index.token, index.axes),)


def embedding(context: Context, call: Call) -> Result:
    """Rows of a table: the table's first axis is looked up, the second stays."""
    weight, index = call["weight"], call["indices"]
    hidden = look_up(context, weight.axes[0], index)
    return context.value([*index.axes, weight.axes[1]], (*merge_hidden([index]), *hidden))


def index(context: Context, call: Call) -> Result:
    """Advanced indexing with index tensors and full slices."""
    value: Value = call["self"]
    indices: list[Value | None] = [*call["indices"], *[None] * (value.ndim - len(call["indices"]))]
    picked = [(d, v) for d, v in enumerate(indices) if v is not None]
    if any(not isinstance(v, Value) for _, v in picked) or len(indices) != value.ndim:
        raise RuleError("an index that is not a tensor")
    tensors = [v for _, v in picked]
    hidden: tuple[Hidden, ...] = merge_hidden(tensors)
    for d, v in picked:
        hidden = (*hidden, *look_up(context, value.axes[d], v))
    found = context.broadcast(tensors)
    rest = [axis for d, axis in enumerate(value.axes) if indices[d] is None]
    dims = [d for d, _ in picked]
    together = dims == list(range(dims[0], dims[0] + len(dims)))
    place = dims[0] if together else 0
    axes = [*rest[:place], *found, *rest[place:]]
    return context.value(axes, (*value.survivors(tuple(value.axes[d] for d in dims)), *hidden))


def index_select(context: Context, call: Call) -> Result:
    """Some positions of one dimension."""
    value: Value = call["self"]
    dim = call["dim"] % max(value.ndim, 1)
    hidden = look_up(context, value.axes[dim], call["index"])
    axes = [*value.axes[:dim], *call["index"].axes, *value.axes[dim + 1 :]]
    return context.value(axes, (*value.survivors((value.axes[dim],)), *hidden))


def gather(context: Context, call: Call) -> Result:
    """Entries at given positions of one dimension, different for every setting of the others."""
    value, where = call["self"], call["index"]
    dim = call["dim"] % max(value.ndim, 1)
    axes = _align(context, value, where, dim)
    look_up(context, value.axes[dim], where)
    return context.value(axes)


def scatter(context: Context, call: Call) -> Result:
    """A copy with entries written at given positions of one dimension."""
    value, where = call["self"], call["index"]
    dim = call["dim"] % max(value.ndim, 1)
    look_up(context, value.axes[dim], where)
    aligned = _align(context, value, where, dim)
    source = call.get("src")
    if isinstance(source, Value):
        if source.shape != where.shape:
            for axis in (*source.axes, *where.axes):
                context.pin(axis, WHY)
        else:
            for a, b in zip(source.axes, aligned, strict=True):
                context.join(a, b)
    axes = [
        axis if d == dim or size_of(axis) != size_of(a) else context.join(axis, a)
        for d, (axis, a) in enumerate(zip(value.axes, aligned, strict=True))
    ]
    # written at fixed other indices: nothing may depend on positions that were scattered to
    context.touch(*(axis for d, axis in enumerate(axes) if d != dim))
    return context.value(axes)


def _align(context: Context, value: Value, where: Value, dim: int) -> list[Axis]:
    """Axes of an index tensor, equal to those of the tensor in all other dimensions (pinned where shorter)."""
    axes: list[Axis] = []
    for d, (axis, own) in enumerate(zip(value.axes, where.axes, strict=True)):
        if d == dim:
            axes.append(own)
        elif size_of(axis) == size_of(own):
            axes.append(context.join(own, axis))
        else:
            context.pin(axis, WHY)
            context.pin(own, WHY)
            axes.append(own)
    return axes


def one_hot(context: Context, call: Call) -> Result:
    """A new last axis that is 1 at the index; for labels it is the axis they point into."""
    where: Value = call["self"]
    classes = call.shape[-1]
    if where.labels is not None and size_of(where.labels) == classes:
        return context.value([*where.axes, where.labels], where.hidden)
    if where.labels is not None:
        context.pin(where.labels, WHY)
    return context.value([*where.axes, context.fixed(classes, WHY)], where.hidden)


RULES: dict[str, Rule] = {
    "embedding": embedding,
    **dict.fromkeys(["index", "_unsafe_index"], index),
    "index_select": index_select,
    "gather": gather,
    **dict.fromkeys(["scatter", "scatter_add", "scatter_reduce"], scatter),
    "one_hot": one_hot,
}

LABEL_AWARE = frozenset(RULES)

__all__ += ["LABEL_AWARE"]
