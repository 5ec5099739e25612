"""Views, cutting and joining: the same exponents under other axes."""

from __future__ import annotations

from collections.abc import Sequence

from weyl.trace._context import Call
from weyl.trace._grade import LETTERS, Factor, Grader
from weyl.trace._graded import Graded
from weyl.trace._values import Value
from weyl.trace.grades._call import GradeRule, Results, first, operands
from weyl.trace.grades._pointwise import scale_by
from weyl.trace.rules._index import run_of
from weyl.trace.rules._shape import order_of

__all__ = ["RULES", "join"]


def reshape(grader: Grader, call: Call, results: Results) -> bool:
    """Any row-major view."""
    value = first(results)
    grader.alias(value, grader.get(call["self"]).reshaped(value.shape))
    return True


def permute(grader: Grader, call: Call, results: Results) -> bool:
    """Dimensions in another order."""
    operand = grader.get(call["self"])
    grader.alias(first(results), operand.permuted(order_of(call, operand.ndim)))
    return True


def expand(grader: Grader, call: Call, results: Results) -> bool:
    """Broadcast to a shape."""
    operand = grader.get(operands(call)[0])
    grader.same([operand], grader.make(first(results)))
    if operand.null:
        _mark_null(grader, first(results))
    return True


def repeat(grader: Grader, call: Call, results: Results) -> bool:
    """Whole copies one after another."""
    operand, value = grader.get(call["self"]), first(results)
    while operand.ndim < len(value.shape):
        operand = operand.widened(0)
    grader.same([operand], grader.make(value))
    return True


def repeat_interleave(grader: Grader, call: Call, results: Results) -> bool:
    """Every position several times in a row."""
    operand = grader.get(call["self"])
    if not isinstance(call["repeats"], int) or call.get("dim") is None:
        return False
    grader.alias(first(results), operand.spread(call["dim"] % operand.ndim, call["repeats"]))
    return True


def cat(grader: Grader, call: Call, results: Results) -> bool:
    """Direct sum along one dimension."""
    tensors = [v for v in operands(call) if 0 not in v.shape]
    if len(tensors) == 1:
        grader.alias(first(results), grader.get(tensors[0]))
        return True
    join(grader, [grader.get(v) for v in tensors], (call.get("dim") or 0) % tensors[0].ndim, first(results))
    return True


def stack(grader: Grader, call: Call, results: Results) -> bool:
    """Concatenation along a new dimension."""
    dim = (call.get("dim") or 0) % len(first(results).shape)
    join(grader, [grader.get(v).widened(dim) for v in operands(call)], dim, first(results))
    return True


def join(grader: Grader, tensors: list[Graded], dim: int, value: Value) -> None:
    """Each part of the result has the exponents of one of several tensors."""
    out = grader.make(value)
    start = 0
    for tensor in tensors:
        stop = start + tensor.shape[dim]
        part = out.sliced(dim, start, stop)
        grader.same([tensor], part)
        start = stop
    if all(tensor.null for tensor in tensors):
        _mark_null(grader, value)


def _mark_null(grader: Grader, value: Value) -> None:
    known = grader.known[id(value)]
    grader.known[id(value)] = Graded(known.shape, known.terms, known.constant, null=True)


def split(grader: Grader, call: Call, results: Results) -> bool:
    """Consecutive runs of one dimension."""
    operand = grader.get(call["self"])
    dim = (call.get("dim") or 0) % operand.ndim
    start = 0
    for value, shape in zip(results, call.shapes, strict=True):
        if value is not None:
            grader.alias(value, operand.sliced(dim, start, start + shape[dim]))
        start += shape[dim]
    return True


def unbind(grader: Grader, call: Call, results: Results) -> bool:
    """Every position of one dimension."""
    operand = grader.get(call["self"])
    dim = (call.get("dim") or 0) % operand.ndim
    for place, value in enumerate(results):
        if value is not None:
            grader.alias(value, operand.sliced(dim, place, place + 1).dropped(dim))
    return True


def select(grader: Grader, call: Call, results: Results) -> bool:
    """One position of one dimension."""
    operand = grader.get(call["self"])
    dim = call["dim"] % operand.ndim
    if not isinstance(call["index"], int):
        return False
    place = call["index"] % operand.shape[dim]
    grader.alias(first(results), operand.sliced(dim, place, place + 1).dropped(dim))
    return True


def take_slice(grader: Grader, call: Call, results: Results) -> bool:
    """A range of one dimension."""
    operand = grader.get(call["self"])
    dim = (call.get("dim") or 0) % operand.ndim
    size = operand.shape[dim]
    if call.name == "narrow":
        start, stop = call["start"], call["start"] + call["length"]
    else:
        start, stop = call.get("start") or 0, call.get("end")
    if (call.get("step") or 1) != 1 or not isinstance(start, int) or not isinstance(stop, int | None):
        return False
    start = max(0, min(size, start + size if start < 0 else start))
    stop = size if stop is None else max(0, min(size, stop + size if stop < 0 else stop))
    grader.alias(first(results), operand.sliced(dim, start, stop))
    return True


def pad(grader: Grader, call: Call, results: Results) -> bool:
    """Padding with zeros, or with what stands elsewhere."""
    operand, value = grader.get(call["self"]), first(results)
    widths = list(call["pad"] if "pad" in call.arguments else call["padding"])
    if call.name not in ("pad", "constant_pad_nd") or call.get("mode", "constant") != "constant":
        return along(grader, operand, value, [operand.ndim - 1 - place for place in range(len(widths) // 2)])
    if call.get("value", 0) != 0:
        return False
    part = grader.make(value)
    for place in range(len(widths) // 2):
        dim, before, after = operand.ndim - 1 - place, widths[2 * place], widths[2 * place + 1]
        operand = operand.sliced(dim, max(-before, 0), operand.shape[dim] - max(-after, 0))
        part = part.sliced(dim, max(before, 0), max(before, 0) + operand.shape[dim])
    grader.same([operand], part)
    grader.roughen(operand)
    return True


def along(grader: Grader, operand: Graded, value: Value, dims: Sequence[int]) -> bool:
    """A linear operation over the places of some dimensions, the same for all others."""
    letters = LETTERS[: operand.ndim]
    places = "".join(letter.upper() if d in dims else letter for d, letter in enumerate(letters))
    out = grader.make(value)
    if out.ndim != operand.ndim:
        return False
    grader.product([Factor(operand, letters)], out, places)
    return True


def accumulate(grader: Grader, call: Call, results: Results) -> bool:
    """Cumulative sums, and positions in another order."""
    operand = grader.get(call["self"])
    dims = call["dim"] if call.name == "cumsum" else call.get("dims")
    if dims is None or not operand.ndim:
        return False
    chosen = [d % operand.ndim for d in ([dims] if isinstance(dims, int) else dims)]
    return bool(chosen) and along(grader, operand, first(results), chosen)


def shuffle(grader: Grader, call: Call, results: Results) -> bool:
    """Pixel and channel shuffles: a view, a permutation, a view."""
    operand, value = grader.get(call["self"]), first(results)
    if call.name == "channel_shuffle":
        batch, channels, *rest = operand.shape
        groups = call["groups"]
        cut = operand.reshaped([batch, groups, channels // groups, *rest])
        order = [0, 2, 1, *range(3, cut.ndim)]
    else:
        *lead, c, h, w = operand.shape
        n = len(lead)
        if call.name == "pixel_shuffle":
            r = call["upscale_factor"]
            shape, last = [*lead, c // r**2, r, r, h, w], [n, n + 3, n + 1, n + 4, n + 2]
        else:
            r = call["downscale_factor"]
            shape, last = [*lead, c, h // r, r, w // r, r], [n, n + 2, n + 4, n + 1, n + 3]
        cut, order = operand.reshaped(shape), [*range(n), *last]
    grader.alias(value, cut.permuted(order).reshaped(value.shape))
    return True


def glu(grader: Grader, call: Call, results: Results) -> bool:
    """The first half of an axis times a function of the second."""
    operand = grader.get(call["self"])
    dim = call.get("dim", -1) % operand.ndim
    half = operand.shape[dim] // 2
    grader.kill(operand.sliced(dim, half, 2 * half))
    gate = grader.fresh(first(results).axes)
    grader.kill(gate)
    scale_by(grader, operand.sliced(dim, 0, half), gate, grader.make(first(results)))
    return True


def embedding(grader: Grader, call: Call, results: Results) -> bool:
    """Rows of a table: the index moves nothing."""
    return _look_up(grader, call["weight"], {0: call["indices"]}, first(results))


def index_select(grader: Grader, call: Call, results: Results) -> bool:
    """Some positions of one dimension."""
    value: Value = call["self"]
    return bool(value.ndim) and _picked(grader, value, call["dim"] % value.ndim, call["index"], first(results))


def index(grader: Grader, call: Call, results: Results) -> bool:
    """Advanced indexing with index tensors and full slices."""
    value: Value = call["self"]
    indices = [*call["indices"], *[None] * (value.ndim - len(call["indices"]))]
    picked = {d: v for d, v in enumerate(indices) if v is not None}
    if any(not isinstance(v, Value) for v in picked.values()):
        return False
    if len(picked) == 1:
        ((dim, where),) = picked.items()
        return _picked(grader, value, dim, where, first(results))
    return _look_up(grader, value, picked, first(results))


def _picked(grader: Grader, value: Value, dim: int, where: Value, result: Value) -> bool:
    run = run_of(where, value.shape[dim])
    if run is None:
        return _look_up(grader, value, {dim: where}, result)
    grader.alias(result, grader.get(value).sliced(dim, *run))
    return True


def _look_up(grader: Grader, value: Value, picked: dict[int, Value], result: Value) -> bool:
    """Exponents along the dimensions that are looked up are zero, the others stay."""
    dims = sorted(picked)
    together = dims == list(range(dims[0], dims[0] + len(dims)))
    if any(v.constant is not None and v.constant.dtype.is_floating_point for v in picked.values()):
        return False
    rank = max(v.ndim for v in picked.values())
    place = dims[0] if together else 0
    letters = LETTERS[: value.ndim]
    rest = "".join(letter for d, letter in enumerate(letters) if d not in picked)
    found = LETTERS[value.ndim : value.ndim + rank]
    for where in picked.values():
        grader.kill(grader.get(where))
    out = grader.make(result)
    if out.ndim != len(rest) + rank:
        return False
    grader.product([Factor(grader.get(value), letters)], out, rest[:place] + found + rest[place:])
    return True


RULES: dict[str, GradeRule] = {
    **dict.fromkeys(
        """
        view reshape flatten unflatten squeeze unsqueeze _unsafe_view _reshape_alias ravel view_copy
        squeeze_copy unsqueeze_copy atleast_1d atleast_2d atleast_3d view_as reshape_as
        """.split(),
        reshape,
    ),
    **dict.fromkeys("permute transpose swapaxes swapdims t numpy_T mT movedim moveaxis".split(), permute),
    **dict.fromkeys(["expand", "expand_as", "broadcast_to", "expand_copy"], expand),
    **dict.fromkeys(["repeat", "tile"], repeat),
    "repeat_interleave.self_int": repeat_interleave,
    **dict.fromkeys(["cat", "concat", "concatenate"], cat),
    "stack": stack,
    **dict.fromkeys(
        """
        split split_with_sizes chunk unsafe_chunk unsafe_split tensor_split split_with_sizes_copy split_copy
        """.split(),
        split,
    ),
    **dict.fromkeys(["unbind", "unbind_copy"], unbind),
    **dict.fromkeys(["select", "select_copy"], select),
    **dict.fromkeys(["slice", "narrow", "slice_copy"], take_slice),
    **dict.fromkeys(
        """
        pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
        replication_pad2d replication_pad3d
        """.split(),
        pad,
    ),
    **dict.fromkeys(["cumsum", "flip", "roll"], accumulate),
    **dict.fromkeys(["channel_shuffle", "pixel_shuffle", "pixel_unshuffle"], shuffle),
    "glu": glu,
    "embedding": embedding,
    "index_select": index_select,
    **dict.fromkeys(["index", "_unsafe_index"], index),
}
