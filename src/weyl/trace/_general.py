"""General position: which entries of a tensor are surely different for almost all weights and inputs.

``argmax``, ``topk`` and ``sort`` move with the units they compare only where no two of them are equal: of equal entries
the first is found first. Entries behind a ReLU, a mask or a comparison are equal often. What is said here is said
only where an operator is known; everything else may be equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from weyl.trace._cells import flatten
from weyl.trace._context import Call, Result
from weyl.trace._values import Value

__all__ = ["mark_general"]

# Total, analytic and injective but for single points.
INJECTIVE = frozenset(
    """neg exp exp2 expm1 tanh sinh asinh atan erf sigmoid log_sigmoid softplus gelu silu mish sin cos clone contiguous
    detach alias to _to_copy type_as float double dropout lift_fresh_copy positive""".split()
)
# Analytic where they are defined; only that the result is not zero is kept.
NONZERO = frozenset("square sqrt rsqrt reciprocal pow log log2 log10 log1p abs sum mean var std norm".split())
VIEWS = frozenset(
    """view reshape flatten unflatten squeeze unsqueeze _unsafe_view permute transpose t mT movedim swapaxes select
    slice narrow split split_with_sizes chunk unbind expand""".split()
)
SUMS = frozenset("add sub rsub".split())
PRODUCTS = frozenset("mul div true_divide".split())
CONTRACTIONS = frozenset("linear matmul mm bmm mv addmm baddbmm einsum".split())
SOFTMAX = frozenset("softmax _softmax log_softmax _log_softmax".split())
NORMS = frozenset("layer_norm native_layer_norm rms_norm _fused_rms_norm".split())


def mark_general(call: Call, result: Result, dtypes: Sequence[torch.dtype]) -> Result:
    """Say of every result whether its entries are surely not zero, and along which dimensions they differ.

    Parameters
    ----------
    call : Call
        The operator and its arguments.
    result : Value or list
        What the rule gave.
    dtypes : sequence of dtype
        Of the results; integers and booleans are never in general position.
    """
    values = list(call.values())
    general, sources = _judge(call, values)
    many = result if isinstance(result, list) else [result]
    marked: list[Value | None] = []
    for place, value in enumerate(many):
        if value is None:
            marked.append(None)
            continue
        floating = place < len(dtypes) and dtypes[place].is_floating_point
        if not floating or value.labels is not None:
            marked.append(replace(value, general=False, distinct=frozenset()))
        else:
            marked.append(replace(value, general=general, distinct=_inherited(value, sources)))
    return marked if isinstance(result, list) else marked[0]


def _judge(call: Call, values: list[Value]) -> tuple[bool, list[Value]]:
    """Whether results are surely not zero, and the arguments along whose distinct axes they differ."""
    name = call.name
    known = [v for v in values if v.constant is None]
    if 0 in (call.get("alpha", 1), call.get("beta", 1)):
        return False, []  # an operand is multiplied away
    all_general = bool(known) and all(v.general for v in known)
    if name in CONTRACTIONS:
        return _contraction(call, values)
    if name in INJECTIVE | VIEWS:
        return all_general, known[:1]
    if name in NONZERO:
        return all_general, []
    if name in SUMS:
        fit = _no_two_alike(known) and all(_finite(v) for v in values)
        sources = [v for v in known if v.general] if fit else []
        return bool(sources), sources
    if name in PRODUCTS:
        numbers = [a for a in call.arguments.values() if isinstance(a, (int, float)) and not isinstance(a, bool)]
        fit = all_general and _no_two_alike(known)
        fit = fit and all(_nonzero(v) for v in values) and 0 not in numbers
        return fit, known if fit else []
    if name in SOFTMAX:
        wide = values[0].shape[call["dim"] % max(values[0].ndim, 1)] > 1
        return all_general, known[:1] if wide else []
    if name in NORMS:
        # two numbers of mean 0 and variance 1 are -1 and 1, whatever they were
        wide = values[0].shape[-1] > 2 and len(call["normalized_shape"]) == 1
        kept = replace(values[0], distinct=values[0].distinct & {values[0].ndim - 1})
        return all_general, [kept] if wide and all_general else []
    if name in ("embedding", "index"):
        return bool(values) and values[0].general, []
    if name in ("cat", "stack"):
        return all(v.general for v in values), []
    return False, []


def _contraction(call: Call, values: list[Value]) -> tuple[bool, list[Value]]:
    """Rows that are not zero against weights in general position; or a bias in general position added last."""
    bias = (
        call.get("bias")
        if call.name == "linear"
        else call.get("self")
        if call.name.startswith(("addmm", "badd"))
        else None
    )
    factors = [v for v in values if v is not bias]
    clear = all(v.general and v.constant is None for v in factors)
    sources = list(factors) if clear else []
    if isinstance(bias, Value) and bias.general and bias.constant is None:
        sources.append(bias)
    return bool(sources), sources


def _inherited(value: Value, sources: list[Value]) -> frozenset[int]:
    """Dimensions of a result that are a distinct axis of some source (and only such, where it has it twice)."""
    found = set()
    for dim, axis in enumerate(value.axes):
        factors = flatten(axis)
        for source in sources:
            same = [d for d, other in enumerate(source.axes) if factors and flatten(other) == factors]
            if same and all(d in source.distinct for d in same):
                found.add(dim)
    return frozenset(found)


def _no_two_alike(values: list[Value]) -> bool:
    return len({id(v) for v in values}) == len(values)


def _finite(value: Value) -> bool:
    return value.constant is None or bool(value.constant.isfinite().all())


def _nonzero(value: Value) -> bool:
    return value.constant is None or bool((value.constant.isfinite() & (value.constant != 0)).all())
