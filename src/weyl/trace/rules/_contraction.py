"""Sums of products: linear maps, matrix products, einsum, attention."""

from __future__ import annotations

import string

from weyl.trace._cells import Uniform, size_of
from weyl.trace._context import Call, Context, Result, Rule
from weyl.trace._values import RuleError, Value

__all__ = ["RULES"]


def linear(context: Context, call: Call) -> Result:
    """``y[..., o] = sum_i x[..., i] w[o, i] + b[o]``."""
    value, weight, bias = call["input"], call["weight"], call.get("bias")
    batch = string.ascii_lowercase[: value.ndim - 1]
    out = batch + ("O" if weight.ndim == 2 else "")
    result = context.contract([(value, batch + "I"), (weight, "OI"[-weight.ndim :])], out)
    return result if bias is None else context.pointwise([result, bias])


def matmul(context: Context, call: Call) -> Result:
    """``torch.matmul`` for any ranks, batch dimensions broadcast; ``mm``, ``bmm``, ``mv`` and ``dot`` too."""
    a: Value = call["self"]
    b = next(v for name, v in call.arguments.items() if name != "self" and isinstance(v, Value))
    return product(context, a, b)


def product(context: Context, a: Value, b: Value) -> Value:
    """Matrix product with broadcast batch dimensions."""
    rank = max(a.ndim, b.ndim, 2) - 2
    batch = string.ascii_lowercase[:rank]
    left = batch[rank - max(a.ndim - 2, 0) :] + ("MK" if a.ndim > 1 else "K")
    right = batch[rank - max(b.ndim - 2, 0) :] + ("KN" if b.ndim > 1 else "K")
    out = batch + ("M" if a.ndim > 1 else "") + ("N" if b.ndim > 1 else "")
    return context.contract([(a, left), (b, right)], out)


def add_product(context: Context, call: Call) -> Result:
    """``input + a @ b``: ``addmm``, ``baddbmm``, ``addmv``."""
    a, b = [v for name, v in call.arguments.items() if name != "self" and isinstance(v, Value)]
    result = product(context, a, b)
    return context.pointwise([call["self"], result])


def reduce_product(context: Context, call: Call) -> Result:
    """``addbmm``: the batch dimension is summed as well."""
    result = context.contract([(call["batch1"], "bMK"), (call["batch2"], "bKN")], "MN")
    return context.pointwise([call["self"], result])


def outer(context: Context, call: Call) -> Result:
    """Outer product of two vectors, added to a matrix for ``addr``."""
    *_, first, second = call.values()
    result = context.contract([(first, "M"), (second, "N")], "MN")
    return context.pointwise([call["self"], result]) if call.name == "addr" else result


def einsum(context: Context, call: Call) -> Result:
    """Any einsum; an ellipsis stands for broadcast dimensions."""
    equation = call["equation"].replace(" ", "")
    operands: list[Value] = call["tensors"]
    inputs, arrow, out = equation.partition("->")
    labels = inputs.split(",")
    spare = [c for c in string.ascii_letters if c not in equation]
    widest = 0
    for place, (value, text) in enumerate(zip(operands, labels, strict=True)):
        if "..." in text:
            extra = value.ndim - len(text.replace("...", ""))
            widest = max(widest, extra)
            labels[place] = text.replace("...", "".join(spare[:extra][::-1]))
    if not arrow:
        letters = "".join(text.replace("...", "") for text in inputs.split(","))
        out = ("..." if "..." in inputs else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    out = out.replace("...", "".join(spare[:widest][::-1]))
    return context.contract(list(zip(operands, labels, strict=True)), out)


def bilinear(context: Context, call: Call) -> Result:
    """``y[..., o] = sum_ij x[..., i] w[o, i, j] z[..., j] + b[o]``."""
    a, b, weight, bias = call["input1"], call["input2"], call["weight"], call.get("bias")
    batch = string.ascii_lowercase[: a.ndim - 1]
    result = context.contract([(a, batch + "I"), (b, batch + "J"), (weight, "OIJ")], batch + "O")
    return result if bias is None else context.pointwise([result, bias])


def attention(context: Context, call: Call) -> Result:
    """Scaled dot-product attention: contract the head size, soften over the keys, contract the keys."""
    query, key, value = call["query"], call["key"], call["value"]
    mask = call.get("attn_mask", call.get("attn_bias"))
    if call.get("dropout_p", 0.0):
        raise RuleError("random: attention dropout is on even in eval mode")
    if call.get("enable_gqa", False):
        key, value = (_repeat_heads(context, v, query) for v in (key, value))
    scores = product(context, query, context.view(key, [*key.axes[:-2], key.axes[-1], key.axes[-2]]))
    if isinstance(mask, Value):
        scores = context.pointwise([scores, mask])
    if call.get("is_causal", False):
        places = [context.pin(axis, "position in a causal mask") for axis in scores.axes[-2:]]
        scores = context.value([*scores.axes[:-2], *places], scores.hidden)
    context.touch(*scores.axes[:-1], hidden=scores.survivors((scores.axes[-1],)))
    result = product(context, scores, value)
    return [result, *[None] * (len(call.shapes) - 1)] if len(call.shapes) > 1 else result


def _repeat_heads(context: Context, value: Value, query: Value) -> Value:
    """Each key-value head serves a run of query heads (grouped-query attention)."""
    heads, own = size_of(query.axes[-3]), size_of(value.axes[-3])
    repeated = (*value.axes[-3], Uniform(heads // own)) if heads != own else value.axes[-3]
    return context.view(value, [*value.axes[:-3], repeated, *value.axes[-2:]])


def distances(context: Context, call: Call) -> Result:
    """Pairwise distances of the rows of two matrices: a symmetric function of the shared last axis."""
    a, b = call["x1"], call["x2"]
    return product(context, a, context.view(b, [*b.axes[:-2], b.axes[-1], b.axes[-2]], ordered=False))


def similarity(context: Context, call: Call) -> Result:
    """Cosine similarity and pairwise distance: elementwise, then a symmetric function of one dimension."""
    a, b = list(call.values())[:2]
    both = context.pointwise([a, b])
    dim = call.get("dim", -1 if call.name == "pairwise_distance" else 1)
    return context.reduce(both, [dim], keepdim=bool(call.get("keepdim", False)))


def tensordot(context: Context, call: Call) -> Result:
    """Contract the listed dimensions of two tensors."""
    a, b = call["self"], call["other"]
    dims_a = [d % a.ndim for d in call["dims_self"]]
    dims_b = [d % b.ndim for d in call["dims_other"]]
    letters = iter(string.ascii_letters)
    left = [next(letters) for _ in range(a.ndim)]
    right = [next(letters) for _ in range(b.ndim)]
    for i, j in zip(dims_a, dims_b, strict=True):
        right[j] = left[i]
    out = [c for d, c in enumerate(left) if d not in dims_a] + [c for d, c in enumerate(right) if d not in dims_b]
    return context.contract([(a, "".join(left)), (b, "".join(right))], "".join(out))


RULES: dict[str, Rule] = {
    "linear": linear,
    **dict.fromkeys(
        """
    matmul mm bmm mv dot vdot linalg_matmul
    """.split(),
        matmul,
    ),
    **dict.fromkeys(["addmm", "baddbmm", "addmv"], add_product),
    "addbmm": reduce_product,
    **dict.fromkeys(["outer", "ger", "addr"], outer),
    "einsum": einsum,
    "bilinear": bilinear,
    "scaled_dot_product_attention": attention,
    "_scaled_dot_product_flash_attention_for_cpu": attention,
    "_scaled_dot_product_efficient_attention": attention,
    "_scaled_dot_product_attention_math": attention,
    "cdist": distances,
    "_cdist_forward": distances,
    "cosine_similarity": similarity,
    "pairwise_distance": similarity,
    "tensordot": tensordot,
}
