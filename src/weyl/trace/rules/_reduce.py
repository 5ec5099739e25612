"""Reductions: symmetric functions of an axis, softmax kinds, sorting, and cumulative ones that are not symmetric."""

from __future__ import annotations

from weyl.trace._context import Call, Context, Result, Rule, normal_dims
from weyl.trace._values import RuleError, Value

__all__ = ["RULES"]


def reduce(context: Context, call: Call) -> Result:
    """Sum, mean, product, extremum, variance, norm, …: the order of the entries does not matter."""
    value: Value = call["self"] if "self" in call.arguments else call["input"]
    dims = call.get("dim")
    result = context.reduce(value, [dims] if isinstance(dims, int) else (dims or []), bool(call.get("keepdim", False)))
    return [result] * len(call.shapes) if len(call.shapes) > 1 else result


def extremum(context: Context, call: Call) -> Result:
    """Largest, smallest or median along one dimension, with its position as a label."""
    value: Value = call["self"]
    dim = call["dim"] % max(value.ndim, 1)
    result = context.reduce(value, [dim], bool(call.get("keepdim", False)))
    return [result, context.found(result.axes, result.hidden, value, dim)]


def arg_extremum(context: Context, call: Call) -> Result:
    """Position of the largest or smallest entry, as a label."""
    value: Value = call["self"]
    dim = call.get("dim")
    if dim is None:
        raise RuleError("a position in the flattened tensor")
    result = context.reduce(value, [dim], bool(call.get("keepdim", False)))
    return context.found(result.axes, result.hidden, value, dim % max(value.ndim, 1))


def order(context: Context, call: Call) -> Result:
    """Sort and top-k: values are a symmetric function of the axis, indices are labels on it."""
    value: Value = call["self"]
    dim = call.get("dim")
    dim = (-1 if dim is None else dim) % max(value.ndim, 1)
    if call.get("sorted", True) is False:
        context.pin(value.axes[dim], "an order that depends on positions")
    lost = (value.axes[dim],)
    axes = list(value.axes)
    axes[dim] = context.fixed(call.shape[dim], "rank after sorting")
    hidden = value.survivors(lost)
    context.touch(*axes, *lost)
    context.touch(*(axis for d, axis in enumerate(axes) if d != dim))
    where = context.found(axes, hidden, value, dim)
    return where if call.name == "argsort" else [context.value(axes, hidden), where]


def soften(context: Context, call: Call) -> Result:
    """Softmax kinds: every entry, and a symmetric function of the axis at fixed other indices."""
    value: Value = call["self"]
    dim = call["dim"] % max(value.ndim, 1)
    rest = [axis for d, axis in enumerate(value.axes) if d != dim]
    context.touch(*rest, hidden=value.survivors((value.axes[dim],)))
    return context.value(value.axes, value.hidden)


def accumulate(context: Context, call: Call) -> Result:
    """Cumulative sums and the like, differences, convolutions in disguise: positions matter."""
    value: Value = call["self"]
    dim = call.get("dim")
    dim = (-1 if dim is None else dim) % max(value.ndim, 1)
    sizes = {dim: call.shape[dim]}
    result = context.mix(value, [dim], sizes, f"positions of a {call.name}")
    return [result] * len(call.shapes) if len(call.shapes) > 1 else result


def difference(context: Context, call: Call) -> Result:
    """Differences of neighbours, of a tensor that may be made longer first."""
    tensors = list(call.values())
    dim = call.get("dim", -1) % tensors[0].ndim
    for tensor in tensors:
        context.pin(tensor.axes[dim], "positions of a diff")
    rest = [Value(tuple(axis for d, axis in enumerate(t.axes) if d != dim)) for t in tensors]
    axes = list(context.broadcast(rest))
    context.touch(*axes)
    axes.insert(dim, context.fixed(call.shape[dim], "positions of a diff"))
    return context.value(axes)


def glu(context: Context, call: Call) -> Result:
    """Gated linear unit: the second half of the axis gates the first."""
    value: Value = call["self"]
    dim = call.get("dim", -1) % value.ndim
    half = value.shape[dim] // 2
    halves = [context.slice(value, dim, 0, half), context.slice(value, dim, half, 2 * half)]
    return context.pointwise(halves)


def renorm(context: Context, call: Call) -> Result:
    """Limit the norm of every slice along one dimension."""
    value: Value = call["self"]
    kept = normal_dims(call["dim"], value.ndim)
    context.touch(*(axis for d, axis in enumerate(value.axes) if d in kept))
    return context.value(value.axes, value.hidden)


SOFTMAX = """
softmax _softmax log_softmax _log_softmax special_softmax special_log_softmax _safe_softmax
""".split()

RULES: dict[str, Rule] = {
    **dict.fromkeys(
        """
        sum mean prod amax amin aminmax var std var_mean std_mean norm linalg_vector_norm logsumexp
        all any count_nonzero nansum nanmean special_logsumexp frobenius_norm
        """.split(),
        reduce,
    ),
    **dict.fromkeys(["max.default", "min.default", "median.default", "nanmedian.default"], reduce),
    **dict.fromkeys(["max.dim", "min.dim", "median.dim", "nanmedian.dim", "mode.default"], extremum),
    **dict.fromkeys(["argmax", "argmin"], arg_extremum),
    **dict.fromkeys(["sort", "topk", "argsort"], order),
    **dict.fromkeys(SOFTMAX, soften),
    **dict.fromkeys("cumsum cumprod cummax cummin logcumsumexp".split(), accumulate),
    "diff": difference,
    "glu": glu,
    "renorm": renorm,
}
