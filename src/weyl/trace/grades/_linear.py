"""Sums of products, sums over dimensions, convolution, pooling, attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from weyl.trace._context import Call, normal_dims
from weyl.trace._grade import LETTERS, Factor, Grader
from weyl.trace._graded import Blocks, Graded, Term, constant_unknowns, fits
from weyl.trace._solve import ZERO
from weyl.trace._values import Value
from weyl.trace.grades._call import GradeRule, Results, first, number, operands

__all__ = ["RULES"]


def linear(grader: Grader, call: Call, results: Results) -> bool:
    """``y[..., o] = sum_i x[..., i] w[o, i] + b[o]``."""
    value, weight = grader.get(call["input"]), grader.get(call["weight"])
    batch = LETTERS[: value.ndim - 1]
    rows = "O" if weight.ndim == 2 else ""
    out = grader.make(first(results))
    if not value.null:
        grader.product([Factor(value, batch + "I"), Factor(weight, rows + "I")], out, batch + rows)
    elif call.get("bias") is None:
        grader.known[id(first(results))] = replace(out, null=True)
    _add(grader, call.get("bias"), out)
    return True


def _add(grader: Grader, bias: object, out: Graded) -> None:
    if isinstance(bias, Value):
        grader.same([grader.get(bias)], out)


def matmul(grader: Grader, call: Call, results: Results) -> bool:
    """Matrix products of any rank."""
    a, b = (grader.get(value) for value in operands(call))
    out = grader.make(first(results))
    if a.null or b.null:
        grader.known[id(first(results))] = replace(out, null=True)
    else:
        product(grader, a, b, out)
    return True


def product(grader: Grader, a: Graded, b: Graded, out: Graded) -> None:
    """A matrix product with broadcast batch dimensions."""
    rank = max(a.ndim, b.ndim, 2) - 2
    batch = LETTERS[:rank]
    left = batch[rank - max(a.ndim - 2, 0) :] + ("MK" if a.ndim > 1 else "K")
    right = batch[rank - max(b.ndim - 2, 0) :] + ("KN" if b.ndim > 1 else "K")
    letters = batch + ("M" if a.ndim > 1 else "") + ("N" if b.ndim > 1 else "")
    grader.product([Factor(a, left), Factor(b, right)], out, letters)


def add_product(grader: Grader, call: Call, results: Results) -> bool:
    """``input + a @ b``."""
    if 0 in (call.get("alpha", 1), call.get("beta", 1)):
        return False
    a, b = (v for name, v in call.arguments.items() if name != "self" and isinstance(v, Value))
    out = grader.make(first(results))
    product(grader, grader.get(a), grader.get(b), out)
    _add(grader, call["self"], out)
    return True


def einsum(grader: Grader, call: Call, results: Results) -> bool:
    """Any einsum without an ellipsis."""
    equation = call["equation"].replace(" ", "")
    if "->" not in equation or "..." in equation:
        return False
    inputs, _, out = equation.partition("->")
    factors = [Factor(grader.get(v), text) for v, text in zip(call["tensors"], inputs.split(","), strict=True)]
    grader.product(factors, grader.make(first(results)), out)
    return True


def bilinear(grader: Grader, call: Call, results: Results) -> bool:
    """``y[..., o] = sum_ij x[..., i] w[o, i, j] z[..., j] + b[o]``."""
    a, b, weight = (grader.get(call[name]) for name in ("input1", "input2", "weight"))
    batch = LETTERS[: a.ndim - 1]
    out = grader.make(first(results))
    grader.product([Factor(a, batch + "I"), Factor(b, batch + "J"), Factor(weight, "OIJ")], out, batch + "O")
    _add(grader, call.get("bias"), out)
    return True


def outer(grader: Grader, call: Call, results: Results) -> bool:
    """Outer product of two vectors."""
    a, b = (grader.get(v) for v in operands(call))
    grader.product([Factor(a, "M"), Factor(b, "N")], grader.make(first(results)), "MN")
    return True


def attention(grader: Grader, call: Call, results: Results) -> bool:
    """Scores are held still, so queries and keys scale against each other; values pass through."""
    query, key, value = (grader.get(call[name]) for name in ("query", "key", "value"))
    if not query.ndim == key.ndim == value.ndim:
        return False
    mask = call.get("attn_mask", call.get("attn_bias"))
    if isinstance(mask, Value):
        grader.kill(grader.get(mask))
    if call.get("enable_gqa", False):
        times = query.shape[-3] // key.shape[-3]
        if times > 1:
            key, value = (t.spread(t.ndim - 3, times) for t in (key, value))
    batch = LETTERS[: query.ndim - 2]
    out = grader.make(first(results))
    scores = _scores(grader, query, key, out)
    grader.product([Factor(query, batch + "MD"), Factor(key, batch + "ND")], scores, batch + "MN")
    grader.product([Factor(scores, batch + "MN"), Factor(value, batch + "NE")], out, batch + "ME")
    return True


def _scores(grader: Grader, query: Graded, key: Graded, out: Graded) -> Graded:
    """Attention weights: the atoms of batch and heads are those of queries and keys, all exponents zero."""
    batch = out.ndim - 2
    found: dict[Blocks, None] = {}
    for q in query.terms or ():
        for k in key.terms or ():
            around = _wider(q.strands[:batch], k.strands[:batch], query.shape, key.shape)
            if around is not None:
                found[(*around, q.strands[batch], k.strands[batch])] = None
    terms = tuple(Term(strands, constant_unknowns(strands), ZERO) for strands in found)
    shape = (*(max(a, b) for a, b in zip(query.shape[:batch], key.shape, strict=False)), query.shape[-2], key.shape[-2])
    scores = Graded(shape, terms or None, constant=True)
    grader.roughen(scores)
    return scores


def _wider(a: Blocks, b: Blocks, sizes_a: Sequence[int], sizes_b: Sequence[int]) -> Blocks | None:
    """Of two blocks at the same places, in every dimension the one that has more atoms; None if they are not."""
    out = []
    for x, y, n, m in zip(a, b, sizes_a, sizes_b, strict=False):
        if fits(y, x, m):
            out.append(x)
        elif fits(x, y, n):
            out.append(y)
        else:
            return None
    return tuple(out)


def reduce(grader: Grader, call: Call, results: Results) -> bool:
    """Sums and means."""
    value: Value = call["self"] if "self" in call.arguments else call["input"]
    _reduce(grader, grader.get(value), call, grader.make(first(results)), 1, 1)
    return True


def _reduce(grader: Grader, operand: Graded, call: Call, out: Graded, scale: int, sign: int) -> str:
    """A reduction that is homogeneous; returns the letters that are summed over."""
    dims = call.get("dim")
    dropped = normal_dims([dims] if isinstance(dims, int) else (dims or []), operand.ndim) or set(range(operand.ndim))
    letters = LETTERS[: operand.ndim]
    keepdim = bool(call.get("keepdim", False))
    spare = LETTERS[operand.ndim :]
    kept = [spare[d] if d in dropped else letters[d] for d in range(operand.ndim) if keepdim or d not in dropped]
    grader.product([Factor(operand, letters, scale, sign)], out, "".join(kept))
    return "".join(letters[d] for d in sorted(dropped))


def extremum(grader: Grader, call: Call, results: Results) -> bool:
    """Largest and smallest entries: homogeneous, not odd."""
    operand, out = grader.get(operands(call)[0]), grader.make(first(results))
    grader.kill(operand, scale=False)
    grader.kill(out, scale=False)
    _reduce(grader, operand, call, out, 1, 1)
    return True


def norm(grader: Grader, call: Call, results: Results) -> bool:
    """Norms: homogeneous and even."""
    order = call.get("ord", call.get("p", 2))
    if not number(order) or order <= 0:
        return False
    operand, out = grader.get(operands(call)[0]), grader.make(first(results))
    grader.roughen(operand)
    grader.kill(out, scale=False)
    _reduce(grader, operand, call, out, 1, 0)
    return True


def convolution(grader: Grader, call: Call, results: Results) -> bool:
    """Convolutions of any rank, grouped, depthwise and transposed."""
    value, weight = grader.get(call["input"]), grader.get(call["weight"])
    out = grader.make(first(results))
    groups = call.get("groups", 1)
    rank = weight.ndim - 2
    batch = "n" if value.ndim == rank + 2 else ""
    at = len(batch)
    transposed = "transpose" in call.name or bool(call.get("transposed", False))
    rows, columns = weight.shape[0] // groups, weight.shape[1]
    own, made = (rows, columns) if transposed else (columns, rows)
    x = value.reshaped([*value.shape[:at], groups, own, *value.shape[at + 1 :]])
    w = weight.reshaped([groups, rows, columns, *weight.shape[2:]])
    y = out.reshaped([*out.shape[:at], groups, made, *out.shape[at + 1 :]])
    seen, taps, places = "pqr"[:rank], "uvw"[:rank], "stz"[:rank]
    pair = "gIO" if transposed else "gOI"
    grader.product([Factor(x, batch + "gI" + seen), Factor(w, pair + taps)], y, batch + "gO" + places)
    bias = call.get("bias")
    if isinstance(bias, Value):
        letters = LETTERS[: out.ndim]
        grader.product([Factor(grader.get(bias), letters[at])], out, letters)
    return True


def average(grader: Grader, call: Call, results: Results) -> bool:
    """Average pooling and interpolation: linear in every channel."""
    value: Value = call["self"] if "self" in call.arguments else call["input"]
    _pool(grader, grader.get(value), grader.make(first(results)), _spatial(call, value))
    return True


def _spatial(call: Call, value: Value) -> int:
    return value.ndim - 2 if "upsample" in call.name else next(int(c) for c in call.name if c.isdigit())


def _pool(grader: Grader, operand: Graded, out: Graded, rank: int) -> None:
    letters = LETTERS[: operand.ndim - rank]
    grader.product([Factor(operand, letters + "PQR"[:rank])], out, letters + "STU"[:rank])


def maximum(grader: Grader, call: Call, results: Results) -> bool:
    """Max-pooling: homogeneous in every channel, not odd."""
    value: Value = call["self"] if "self" in call.arguments else call["input"]
    operand, out = grader.get(value), grader.make(first(results))
    grader.kill(operand, scale=False)
    grader.kill(out, scale=False)
    _pool(grader, operand, out, _spatial(call, value))
    return True


POOLS = "max_pool{0}d max_pool{0}d_with_indices adaptive_max_pool{0}d"
MEANS = "avg_pool{0}d adaptive_avg_pool{0}d _adaptive_avg_pool{0}d upsample_nearest{0}d _upsample_nearest_exact{0}d"

RULES: dict[str, GradeRule] = {
    "linear": linear,
    **dict.fromkeys("matmul mm bmm mv dot linalg_matmul".split(), matmul),
    **dict.fromkeys(["addmm", "baddbmm", "addmv"], add_product),
    "einsum": einsum,
    "bilinear": bilinear,
    **dict.fromkeys(["outer", "ger"], outer),
    **dict.fromkeys(
        """
        scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu
        _scaled_dot_product_efficient_attention _scaled_dot_product_attention_math
        """.split(),
        attention,
    ),
    **dict.fromkeys(["sum", "mean", "nansum", "nanmean"], reduce),
    **dict.fromkeys(["amax", "amin", "max.default", "min.default"], extremum),
    **dict.fromkeys(["norm", "linalg_vector_norm", "frobenius_norm"], norm),
    **dict.fromkeys(
        """
        conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
        _convolution mkldnn_convolution cudnn_convolution slow_conv3d
        """.split(),
        convolution,
    ),
    **dict.fromkeys(" ".join(MEANS.format(n) for n in (1, 2, 3)).split(), average),
    **dict.fromkeys("upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d".split(), average),
    **dict.fromkeys(" ".join(POOLS.format(n) for n in (1, 2, 3)).split(), maximum),
}
