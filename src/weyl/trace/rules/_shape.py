"""Views, permutations, cutting and joining: where axes are renamed but no entries are computed."""

from __future__ import annotations

import math

from weyl.trace._cells import Axis, Uniform, flatten, size_of
from weyl.trace._context import Call, Context, Result, Rule, normal_dims
from weyl.trace._values import RuleError, Value

__all__ = ["RULES", "order_of"]


def reshape(context: Context, call: Call) -> Result:
    """Any row-major view: view, reshape, flatten, unflatten, squeeze, unsqueeze."""
    value = call["self"]
    return context.view(value, context.reshape(value.axes, call.shape))


def permute(context: Context, call: Call) -> Result:
    """Dimensions in another order."""
    value: Value = call["self"]
    order = order_of(call, value.ndim)
    return context.view(value, [value.axes[d] for d in order], ordered=order == sorted(order))


def order_of(call: Call, rank: int) -> list[int]:
    order = list(range(rank))
    if call.name == "permute":
        return [d % rank for d in call["dims"]]
    if call.name in ("transpose", "swapaxes", "swapdims"):
        first, second = (v for v in list(call.arguments.values())[1:3])
        order[first], order[second] = order[second], order[first]
    elif call.name in ("t", "numpy_T"):
        order.reverse()
    elif call.name in ("mT", "adjoint", "matrix_H", "mH"):
        order[-1], order[-2] = order[-2], order[-1]
    elif call.name in ("movedim", "moveaxis"):
        source, target = call["source"], call["destination"]
        source = [source] if isinstance(source, int) else source
        target = [target] if isinstance(target, int) else target
        places = {t % rank: s % rank for s, t in zip(source, target, strict=True)}
        rest = iter(d for d in range(rank) if d not in places.values())
        order = [places[d] if d in places else next(rest) for d in range(rank)]
    return order


def expand(context: Context, call: Call) -> Result:
    """Broadcast to a shape: constant along what is added."""
    value: Value = call["self"] if "self" in call.arguments else call["input"]
    shape = call.shape
    axes: list[Axis] = [(Uniform(n),) if n > 1 else () for n in shape]
    for back in range(1, value.ndim + 1):
        axis = value.axes[-back]
        if size_of(axis) == shape[-back]:
            axes[-back] = axis
        elif size_of(axis) != 1:
            raise RuleError("an expand that changes a size other than 1")
    return context.view(value, axes)


def repeat(context: Context, call: Call) -> Result:
    """Whole copies one after another along every dimension."""
    value: Value = call["self"]
    times = list(call.get("repeats") or call.get("dims"))
    times = [1] * (value.ndim - len(times)) + times
    axes = [(), *[()] * (len(times) - value.ndim - 1), *value.axes] if len(times) > value.ndim else list(value.axes)
    out = [(Uniform(n), *axis) if n > 1 else axis for n, axis in zip(times, axes, strict=True)]
    return context.view(value, out, ordered=False)


def repeat_interleave(context: Context, call: Call) -> Result:
    """Every position several times in a row."""
    value: Value = call["self"]
    times, dim = call["repeats"], call.get("dim")
    if not isinstance(times, int):
        raise RuleError("repeat counts that depend on data")
    axes = list(value.axes) if dim is not None else [tuple(f for a in value.axes for f in flatten(a))]
    dim = 0 if dim is None else dim % value.ndim
    axes[dim] = (*axes[dim], Uniform(times)) if times > 1 else axes[dim]
    return context.view(value, axes, ordered=False)


def cat(context: Context, call: Call) -> Result:
    """Direct sum along one dimension; the others are equal."""
    tensors = [v for v in call.values() if 0 not in v.shape]
    dim = (call.get("dim") or 0) % tensors[0].ndim
    return concatenate(context, tensors, dim)


def concatenate(context: Context, tensors: list[Value], dim: int) -> Value:
    """Concatenation of values of one rank."""
    axes: list[Axis] = [()] * tensors[0].ndim
    for d in range(len(axes)):
        if d != dim:
            for value in tensors:
                axes[d] = context.join(axes[d], value.axes[d])
    axes[dim] = context.concatenate([value.axes[dim] for value in tensors])
    return context.value(axes)


def stack(context: Context, call: Call) -> Result:
    """Concatenation along a new dimension."""
    tensors = list(call.values())
    dim = (call.get("dim") or 0) % (tensors[0].ndim + 1)
    wide = [Value((*v.axes[:dim], (), *v.axes[dim:])) for v in tensors]
    return concatenate(context, wide, dim)


def split(context: Context, call: Call) -> Result:
    """Consecutive runs of one dimension: split, chunk, tensor_split; sizes are read off the results."""
    value: Value = call["self"]
    dim = (call.get("dim") or 0) % value.ndim
    out: list[Value | None] = []
    start = 0
    for shape in call.shapes:
        out.append(context.slice(value, dim, start, start + shape[dim]))
        start += shape[dim]
    return out


def unbind(context: Context, call: Call) -> Result:
    """Every position of one dimension."""
    value: Value = call["self"]
    dim = (call.get("dim") or 0) % value.ndim
    return [context.select(value, dim, i) for i in range(size_of(value.axes[dim]))]


def select(context: Context, call: Call) -> Result:
    """One position of one dimension."""
    value: Value = call["self"]
    return context.select(value, call["dim"] % value.ndim, call["index"])


def take_slice(context: Context, call: Call) -> Result:
    """A range of one dimension; with a step, one residue class of it."""
    value: Value = call["self"]
    dim = (call.get("dim") or 0) % value.ndim
    size = size_of(value.axes[dim])
    start, stop, step = call.get("start") or 0, call.get("end"), call.get("step") or 1
    if call.name == "narrow":
        start, stop = call["start"], call["start"] + call["length"]
    stop = size if stop is None else min(stop, size)
    if step == 1:
        return context.slice(value, dim, start, stop)
    if (
        size % step == 0
        and 0 <= start < step
        and stop > size - step + start
        and context.unifier.cut(value.axes[dim], size // step)
    ):
        shape = [*value.shape[:dim], size // step, step, *value.shape[dim + 1 :]]
        return context.select(context.view(value, context.reshape(value.axes, shape)), dim + 1, start)
    return context.mix(value, [dim], {dim: call.shape[dim]}, "a strided slice")


def scatter_slice(context: Context, call: Call) -> Result:
    """A copy of a tensor in which a slice, or one position, is replaced."""
    value, source = call["self"], call["src"]
    dim = (call.get("dim") or 0) % value.ndim
    size = size_of(value.axes[dim])
    if call.name == "select_scatter":
        start = call["index"] % size
        stop = start + 1
        source = Value((*source.axes[:dim], (), *source.axes[dim:]))
    else:
        if (call.get("step") or 1) != 1:
            raise RuleError("a strided assignment")
        start, stop = call.get("start") or 0, call.get("end")
        start = start % size if start < 0 else start
        stop = size if stop is None else min(stop if stop >= 0 else stop + size, size)
    pieces = [context.slice(value, dim, a, b) for a, b in ((0, start), (stop, size)) if a < b]
    pieces.insert(0 if start == 0 else 1, source)
    return concatenate(context, pieces, dim)


def pad(context: Context, call: Call) -> Result:
    """Constant padding adds uniform parts; reflection and the like depend on positions."""
    value: Value = call["self"]
    widths = list(call["pad"] if "pad" in call.arguments else call["padding"])
    if call.name in ("constant_pad_nd", "pad") and call.get("mode", "constant") == "constant":
        for place in range(len(widths) // 2):
            value = _pad_one(context, value, value.ndim - 1 - place, widths[2 * place], widths[2 * place + 1])
        return value
    dims = [value.ndim - 1 - place for place in range(len(widths) // 2)]
    return context.mix(value, dims, {d: call.shape[d] for d in dims}, "padding by position")


def _pad_one(context: Context, value: Value, dim: int, before: int, after: int) -> Value:
    size = size_of(value.axes[dim])
    if before < 0 or after < 0:
        value = context.slice(value, dim, max(-before, 0), size - max(-after, 0))
    parts: list[Axis] = [value.axes[dim]]
    if before > 0:
        parts.insert(0, (Uniform(before),) if before > 1 else ())
    if after > 0:
        parts.append((Uniform(after),) if after > 1 else ())
    axes = list(value.axes)
    axes[dim] = context.concatenate(parts)
    return context.value(axes, value.survivors((value.axes[dim],)))


def reorder(context: Context, call: Call) -> Result:
    """Flip, roll, rotate: positions change places, so they cannot be permuted freely."""
    value: Value = call["self"]
    dims = call.get("dims")
    if call.name == "rot90":
        chosen = normal_dims(dims, value.ndim)
    elif call.name in ("flip", "roll") and dims:
        # along a dimension in which nothing varies nothing happens
        chosen = {d for d in normal_dims(dims, value.ndim) if not _constant(value.axes[d])}
    else:
        chosen = set(range(value.ndim))
    sizes = {d: call.shape[d] for d in chosen}
    return context.mix(value, sorted(chosen), sizes, f"positions of a {call.name}")


def _constant(axis: Axis) -> bool:
    return all(isinstance(factor, Uniform) for factor in flatten(axis))


def shuffle(context: Context, call: Call) -> Result:
    """Pixel and channel shuffles: a view, a permutation, a view."""
    value: Value = call["self"]
    *lead, c, h, w = value.shape if call.name != "channel_shuffle" else (*value.shape, 1, 1)[:5]
    n = len(lead)
    if call.name == "pixel_shuffle":
        r = call["upscale_factor"]
        shape, order = [*lead, c // r**2, r, r, h, w], [n, n + 3, n + 1, n + 4, n + 2]
    elif call.name == "pixel_unshuffle":
        r = call["downscale_factor"]
        shape, order = [*lead, c, h // r, r, w // r, r], [n, n + 2, n + 4, n + 1, n + 3]
    else:
        groups = call["groups"]
        rest = value.shape[2:]
        shape = [value.shape[0], groups, value.shape[1] // groups, *rest]
        n, order = 1, [2, 1, *range(3, 3 + len(rest))]
    cut = context.view(value, context.reshape(value.axes, shape))
    turned = context.view(cut, [cut.axes[d] for d in (*range(n), *order)])
    return context.view(turned, context.reshape(turned.axes, call.shape))


def diagonal(context: Context, call: Call) -> Result:
    """Entries with equal indices; both dimensions are pinned."""
    value: Value = call["self"]
    dims = [call.get("dim1", 0), call.get("dim2", 1)]
    mixed = context.mix(value, dims, why="positions of a diagonal")
    kept = [axis for d, axis in enumerate(mixed.axes) if d not in normal_dims(dims, value.ndim)]
    return context.value([*kept, context.fixed(call.shape[-1], "positions of a diagonal")])


def triangle(context: Context, call: Call) -> Result:
    """Upper or lower triangle: a position-dependent mask on the last two dimensions."""
    value: Value = call["self"]
    axes = list(value.axes)
    axes[-2:] = [context.pin(axis, f"positions of a {call.name}") for axis in axes[-2:]]
    return context.value(axes, value.hidden)


def windows(context: Context, call: Call) -> Result:
    """Sliding windows over one dimension."""
    value: Value = call["self"]
    dim = call["dimension"] % max(value.ndim, 1)
    mixed = context.mix(value, [dim], {dim: call.shape[dim]}, "sliding windows")
    return context.value([*mixed.axes, context.fixed(call.shape[-1], "sliding windows")])


def same_total(context: Context, call: Call) -> Result:
    """Views as another tensor's shape."""
    value: Value = call["self"]
    if math.prod(value.shape) != math.prod(call.shape):
        raise RuleError("a view that changes the number of entries")
    return reshape(context, call)


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        """
        view reshape flatten unflatten squeeze unsqueeze _unsafe_view _reshape_alias ravel view_copy
        squeeze_copy unsqueeze_copy atleast_1d atleast_2d atleast_3d
        """.split(),
        reshape,
    ),
    **dict.fromkeys(["view_as", "reshape_as"], same_total),
    **dict.fromkeys(
        """
        permute transpose swapaxes swapdims t numpy_T mT adjoint movedim moveaxis
        """.split(),
        permute,
    ),
    **dict.fromkeys(["expand", "expand_as", "broadcast_to", "expand_copy"], expand),
    **dict.fromkeys(["repeat", "tile"], repeat),
    "repeat_interleave.self_int": repeat_interleave,
    **dict.fromkeys(["cat", "concat", "concatenate"], cat),
    "stack": stack,
    **dict.fromkeys(
        """
        split split_with_sizes chunk unsafe_chunk unsafe_split tensor_split split_with_sizes_copy
        split_copy
        """.split(),
        split,
    ),
    **dict.fromkeys(["unbind", "unbind_copy"], unbind),
    **dict.fromkeys(["select", "select_copy"], select),
    **dict.fromkeys(["slice", "narrow", "slice_copy"], take_slice),
    **dict.fromkeys(["slice_scatter", "select_scatter"], scatter_slice),
    **dict.fromkeys(
        """
        pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
        replication_pad2d replication_pad3d _pad_circular _pad_enum
        """.split(),
        pad,
    ),
    **dict.fromkeys(["flip", "roll", "fliplr", "flipud", "rot90"], reorder),
    **dict.fromkeys(["pixel_shuffle", "pixel_unshuffle", "channel_shuffle"], shuffle),
    "diagonal": diagonal,
    **dict.fromkeys(["tril", "triu"], triangle),
    "unfold": windows,
}
