"""Looking up by index: embeddings, gather, scatter, one-hot, advanced indexing.

An index tensor of plain numbers pins what it looks up. One whose entries are labels (positions found by ``topk`` or
``argmax``) moves with the units it points at, and pins nothing: this is what lets experts be permuted.
"""

from __future__ import annotations

import torch

from weyl.trace._cells import Axis, size_of
from weyl.trace._context import Call, Context, Result, Rule, merge_hidden
from weyl.trace._values import Hidden, RuleError, Value

__all__ = ["INDEX_ARGUMENT", "RULES", "run_of"]

WHY = "looked up by position"


def look_up(context: Context, axis: Axis, index: Value) -> tuple[Hidden, ...]:
    """Say that ``index`` points into ``axis``; returns the index that results carry without an axis."""
    if index.labels is None or index.tied or size_of(index.labels) != size_of(axis):
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
    context.touch(*index.axes, *weight.axes)
    if not hidden:
        context.touch(weight.axes[1])
    return context.value([*index.axes, weight.axes[1]], (*merge_hidden([index]), *hidden))


def index(context: Context, call: Call) -> Result:
    """Advanced indexing with index tensors and full slices."""
    value: Value = call["self"]
    indices: list[Value | None] = [*call["indices"], *[None] * (value.ndim - len(call["indices"]))]
    picked = [(d, v) for d, v in enumerate(indices) if v is not None]
    if any(not isinstance(v, Value) for _, v in picked) or len(indices) != value.ndim:
        raise RuleError("an index that is not a tensor")
    tensors = [v for _, v in picked]
    run = run_of(tensors[0], value.shape[picked[0][0]]) if len(picked) == 1 else None
    if run is not None:
        return context.slice(value, picked[0][0], *run)
    hidden: tuple[Hidden, ...] = merge_hidden(tensors)
    for d, v in picked:
        hidden = (*hidden, *look_up(context, value.axes[d], v))
    found = context.broadcast(tensors)
    rest = [axis for d, axis in enumerate(value.axes) if indices[d] is None]
    dims = [d for d, _ in picked]
    together = dims == list(range(dims[0], dims[0] + len(dims)))
    place = dims[0] if together else 0
    axes = [*rest[:place], *found, *rest[place:]]
    context.touch(*axes, *(value.axes[d] for d in dims))
    if any(v.labels is None or v.tied for v in tensors):
        context.touch(*rest)
    return context.value(axes, (*value.survivors(tuple(value.axes[d] for d in dims)), *hidden))


def run_of(index: Value, size: int) -> tuple[int, int] | None:
    """First and last-plus-one of a constant index that is a run of positions: a slice in other words."""
    if index.constant is None or index.ndim != 1 or index.constant.dtype is torch.bool:
        return None
    places = [place % size for place in index.constant.tolist()]
    return (places[0], places[-1] + 1) if places == list(range(places[0], places[-1] + 1)) else None


def index_select(context: Context, call: Call) -> Result:
    """Some positions of one dimension."""
    value: Value = call["self"]
    dim = call["dim"] % max(value.ndim, 1)
    run = run_of(call["index"], value.shape[dim]) if value.ndim else None
    if run is not None:
        return context.slice(value, dim, *run)
    hidden = look_up(context, value.axes[dim], call["index"])
    axes = [*value.axes[:dim], *call["index"].axes, *value.axes[dim + 1 :]]
    context.touch(*axes, value.axes[dim])
    if not hidden:
        context.touch(*value.axes[:dim], *value.axes[dim + 1 :])
    return context.value(axes, (*value.survivors((value.axes[dim],)), *hidden))


def gather(context: Context, call: Call) -> Result:
    """Entries at given positions of one dimension, different for every setting of the others."""
    value, where = call["self"], call["index"]
    dim = call["dim"] % max(value.ndim, 1)
    _, axes = _align(context, value, where, dim)
    look_up(context, value.axes[dim], where)
    context.touch(*axes, value.axes[dim])
    context.touch(*(axis for d, axis in enumerate(axes) if d != dim))
    return context.value(axes)


def scatter(context: Context, call: Call) -> Result:
    """A copy with entries written at given positions of one dimension."""
    value, where = call["self"], call["index"]
    dim = call["dim"] % max(value.ndim, 1)
    own, index = _align(context, value, where, dim)
    source = call.get("src")
    if isinstance(source, Value):
        index = _join_source(context, source, index)
        if call.name == "scatter":
            # of entries written to one position the last one stays
            index[dim] = context.pin(index[dim], WHY)
    known = bool(look_up(context, value.axes[dim], where))
    axes = [
        context.join(a, b) if d != dim and size_of(a) == size_of(b) else a
        for d, (a, b) in enumerate(zip(own, index, strict=True))
    ]
    axes[dim] = (
        context.join(value.axes[dim], where.labels)
        if known and where.labels
        else context.fixed(size_of(value.axes[dim]), WHY)
    )
    rest = [axis for d, axis in enumerate(axes) if d != dim]
    context.touch(*rest)
    context.touch(*rest, index[dim], axes[dim])
    return context.value(axes)


def _join_source(context: Context, source: Value, index: list[Axis]) -> list[Axis]:
    """Axes of what is written, equal to those of the index (both pinned where the index is shorter)."""
    joined: list[Axis] = []
    for a, b in zip(source.axes, index, strict=True):
        if size_of(a) == size_of(b):
            joined.append(context.join(a, b))
        else:
            context.pin(a, WHY)
            joined.append(context.pin(b, WHY))
    return joined


def index_write(context: Context, call: Call) -> Result:
    """``index_add``, ``index_copy``, ``index_fill``: whole slices written at positions of one dimension."""
    value: Value = call["self"]
    dim = call["dim"] % max(value.ndim, 1)
    source = call.get("source")
    tensors = [value, source] if isinstance(source, Value) and source.ndim == value.ndim else [value]
    for tensor in tensors:
        context.pin(tensor.axes[dim], WHY)
    context.pin(call["index"].axes[0] if call["index"].ndim else (), WHY)
    rest = [[axis for d, axis in enumerate(t.axes) if d != dim] for t in tensors]
    joined = list(context.broadcast([Value(tuple(axes)) for axes in rest]))
    context.touch(*joined)
    joined.insert(dim, context.fixed(call.shape[dim], WHY))
    return context.value(joined)


def _align(context: Context, value: Value, where: Value, dim: int) -> tuple[list[Axis], list[Axis]]:
    """Axes of a tensor and of an index into it, equal in all other dimensions (pinned where the index is shorter)."""
    own: list[Axis] = []
    index: list[Axis] = []
    for d, (axis, other) in enumerate(zip(value.axes, where.axes, strict=True)):
        if d == dim:
            own.append(axis)
            index.append(other)
        elif size_of(axis) == size_of(other):
            joined = context.join(other, axis)
            own.append(joined)
            index.append(joined)
        else:
            own.append(context.pin(axis, WHY))
            index.append(context.pin(other, WHY))
    return own, index


def one_hot(context: Context, call: Call) -> Result:
    """A new last axis that is 1 at the index; for labels it is the axis they point into."""
    where: Value = call["self"]
    classes = call.shape[-1]
    if where.labels is not None and not where.tied and size_of(where.labels) == classes:
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
    **dict.fromkeys(["index_add", "index_copy", "index_fill"], index_write),
    "one_hot": one_hot,
}

# The argument that is used as an index; labels in any other one are used as numbers.
INDEX_ARGUMENT = {
    "embedding": "indices",
    "index": "indices",
    "_unsafe_index": "indices",
    "index_select": "index",
    "gather": "index",
    "scatter": "index",
    "scatter_add": "index",
    "scatter_reduce": "index",
    "one_hot": "self",
}
