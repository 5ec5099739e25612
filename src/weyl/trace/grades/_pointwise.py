"""Elementwise operators: homogeneous, odd, even, sums and products."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import isfinite

from weyl.trace._context import Call
from weyl.trace._grade import LETTERS, Factor, Grader
from weyl.trace._graded import Graded
from weyl.trace._solve import Number
from weyl.trace._values import Value
from weyl.trace.grades._call import GradeRule, Results, first, number, operands

__all__ = ["RULES", "bend", "keep", "scale_by"]

ODD = frozenset(
    """tanh tan asin atan arcsin arctan sinh asinh arcsinh atanh arctanh erf special_erf erfinv special_erfinv
    softsign hardshrink softshrink tanhshrink trunc fix round frac""".split()
)
EVEN = frozenset("cosh sinc".split())
# Larger exponents, or denominators of them, would over- or underflow.
MOST = 16
# f(c x) = c f(x) for c > 0
POSITIVE = frozenset("relu leaky_relu rrelu".split())
COPIES = frozenset(
    """clone contiguous detach detach_copy alias alias_copy lift lift_fresh lift_fresh_copy to _to_copy type_as
    float double half dropout feature_dropout alpha_dropout feature_alpha_dropout positive""".split()
)


def bend(grader: Grader, operand: Graded, out: Graded, scale: Number | None, sign: int | None) -> None:
    """An elementwise function: how scales (None: not at all) and signs (1 odd, 0 even, None: neither) go through."""
    if scale is None:
        grader.kill(operand, sign=False)
        grader.kill(out, sign=False)
    if sign is None:
        grader.kill(operand, scale=False)
        grader.kill(out, scale=False)
    grader.power(operand, out, scale or 0, sign or 0)


def _function(scale: Number | None, sign: int | None) -> GradeRule:
    def rule(grader: Grader, call: Call, results: Results) -> bool:
        values = operands(call)
        if len(values) != 1:
            return False
        bend(grader, grader.get(values[0]), grader.make(first(results)), scale, sign)
        return True

    return rule


def _periodic(parity: int) -> GradeRule:
    """Sine and cosine: odd or even, and half a period more changes the sign."""

    def rule(grader: Grader, call: Call, results: Results) -> bool:
        value = call["self"]
        operand, out = grader.get(value), grader.make(first(results))
        turned = grader.fresh(first(results).axes)
        for tensor in (operand, out, turned):
            grader.kill(tensor, sign=False)
        letters = LETTERS[: out.ndim]
        grader.product([Factor(operand, letters, 0, parity), Factor(turned, letters, 0, 1)], out, letters)
        grader.shifts.append((value, turned))
        return True

    return rule


def sigmoid(grader: Grader, call: Call, results: Results) -> bool:
    """Odd up to a constant, which the readers have to take up."""
    value = first(results)
    bend(grader, grader.get(operands(call)[0]), grader.make(value), None, 1)
    grader.flips.append(value)
    return len(operands(call)) == 1


def keep(grader: Grader, call: Call, results: Results) -> bool:
    """The same entries."""
    grader.alias(first(results), grader.get(operands(call)[0]))
    return True


def native_dropout(grader: Grader, call: Call, results: Results) -> bool:
    """The same entries, and a mask."""
    return keep(grader, call, results)


def total(grader: Grader, call: Call, results: Results) -> bool:
    """Sums and differences: a number other than zero holds everything still."""
    if call.get("alpha", 1) == 0:
        return False
    terms = [call[name] for name in ("self", "other") if name in call.arguments]
    if any(not isinstance(term, Value) and term != 0 for term in terms):
        return False
    grader.same([grader.get(v) for v in operands(call)], grader.make(first(results)))
    return True


def times(grader: Grader, call: Call, results: Results) -> bool:
    """Products and quotients."""
    if call.get("rounding_mode") is not None:
        return False
    divided = call.name in ("div", "true_divide", "divide")
    tensors = operands(call)
    result = grader.make(first(results))
    if len(tensors) == 1:
        if isinstance(call["self"], Value):
            grader.same([grader.get(tensors[0])], result)
            return True
        return False
    pair = [grader.get(value) for value in tensors]
    if any(tensor.null for tensor in pair) and not divided:
        grader.known[id(first(results))] = replace(result, null=True)
        return True
    scale_by(grader, pair[0], pair[1], result, -1 if divided else 1)
    return True


def scale_by(grader: Grader, value: Graded, factor: Graded, out: Graded, power: int = 1) -> None:
    """An elementwise product with another tensor, or its reciprocal."""
    letters = LETTERS[: out.ndim]
    pair = [Factor(value, letters[out.ndim - value.ndim :]), Factor(factor, letters[out.ndim - factor.ndim :], power)]
    grader.product(pair, out, letters)


def negative(grader: Grader, call: Call, results: Results) -> bool:
    """Linear in every unit."""
    grader.same([grader.get(operands(call)[0])], grader.make(first(results)))
    return True


def power(grader: Grader, call: Call, results: Results) -> bool:
    """A constant power."""
    exponent = call["exponent"]
    if not number(exponent) or exponent == 0 or not isinstance(call["self"], Value):
        return False
    if not isfinite(exponent):
        return False
    simple = Fraction(exponent).limit_denominator(MOST)
    exact = float(simple) == exponent
    sign = int(exponent) % 2 if exact and simple.denominator == 1 else None
    scale = simple if exact and abs(simple) <= MOST else None
    bend(grader, grader.get(call["self"]), grader.make(first(results)), scale, sign)
    return True


def sign_of(grader: Grader, call: Call, results: Results) -> bool:
    """The sign: odd, and the same whatever the scale."""
    operand, out = grader.get(call["self"]), grader.make(first(results))
    grader.kill(out, sign=False)
    grader.power(operand, out, 0, 1)
    return True


def clamp(grader: Grader, call: Call, results: Results) -> bool:
    """Odd where the limits are opposite, homogeneous where the only limit is zero."""
    low = call.get("min_val", call.get("min"))
    high = call.get("max_val", call.get("max"))
    limits = [limit for limit in (low, high) if limit is not None]
    operand = grader.get(operands(call)[0])
    if limits == [0]:
        bend(grader, operand, grader.make(first(results)), 1, None)
    elif len(limits) == 2 and all(map(number, limits)) and 0 < high == -low:
        bend(grader, operand, grader.make(first(results)), None, 1)
    else:
        return False
    return len(operands(call)) == 1


def threshold(grader: Grader, call: Call, results: Results) -> bool:
    """A ReLU if both numbers are zero."""
    if call["threshold"] != 0 or call["value"] != 0:
        return False
    bend(grader, grader.get(call["self"]), grader.make(first(results)), 1, None)
    return True


def prelu(grader: Grader, call: Call, results: Results) -> bool:
    """Homogeneous in the input; slopes stay."""
    grader.kill(grader.get(call["weight"]))
    bend(grader, grader.get(call["self"]), grader.make(first(results)), 1, None)
    return True


def extreme(grader: Grader, call: Call, results: Results) -> bool:
    """The larger or smaller of two."""
    tensors = [grader.get(v) for v in operands(call)]
    out = grader.make(first(results))
    for tensor in (*tensors, out):
        grader.kill(tensor, scale=False)
    if len(tensors) != 2:
        return False
    grader.same(tensors, out)
    for tensor in (*tensors, out):
        grader.roughen(tensor)
    return True


def choose(grader: Grader, call: Call, results: Results) -> bool:
    """One of two, by a condition that nothing changes."""
    if any(not isinstance(call[name], Value) and call[name] != 0 for name in ("self", "other")):
        return False
    out = grader.make(first(results))
    grader.kill(grader.get(call["condition"]))
    tensors = [grader.get(call[name]) for name in ("self", "other") if isinstance(call[name], Value)]
    grader.same(tensors, out)
    for tensor in (*tensors, out):
        grader.roughen(tensor)
    return True


def masked_fill(grader: Grader, call: Call, results: Results) -> bool:
    """Zeros where a mask says so."""
    value = call["value"]
    zero = value == 0 if number(value) else isinstance(value, Value) and grader.get(value).null
    if not zero:
        return False
    grader.kill(grader.get(call["mask"]))
    operand, out = grader.get(call["self"]), grader.make(first(results))
    grader.same([operand], out)
    grader.roughen(operand)
    grader.roughen(out)
    return True


RULES: dict[str, GradeRule] = {
    **dict.fromkeys(COPIES, keep),
    "native_dropout": native_dropout,
    **dict.fromkeys(ODD, _function(None, 1)),
    **dict.fromkeys(EVEN, _function(None, 0)),
    **dict.fromkeys(POSITIVE, _function(1, None)),
    **dict.fromkeys(["abs", "absolute"], _function(1, 0)),
    "square": _function(2, 0),
    "sqrt": _function(Fraction(1, 2), None),
    "rsqrt": _function(Fraction(-1, 2), None),
    "reciprocal": _function(-1, 1),
    **dict.fromkeys(["add", "sub", "subtract", "rsub"], total),
    **dict.fromkeys(["mul", "multiply", "div", "divide", "true_divide"], times),
    **dict.fromkeys(["neg", "negative"], negative),
    **dict.fromkeys(["sign", "sgn"], sign_of),
    "pow.Tensor_Scalar": power,
    **dict.fromkeys(["clamp", "clip", "hardtanh", "clamp_min", "clamp_max"], clamp),
    "threshold": threshold,
    "sin": _periodic(1),
    "cos": _periodic(0),
    **dict.fromkeys(["sigmoid", "hardsigmoid", "special_expit"], sigmoid),
    **dict.fromkeys(["prelu", "_prelu_kernel"], prelu),
    **dict.fromkeys(["maximum", "minimum", "fmax", "fmin", "max.other", "min.other"], extreme),
    **dict.fromkeys(["where.self", "where.ScalarOther", "where.ScalarSelf"], choose),
    **dict.fromkeys(["masked_fill.Scalar", "masked_fill.Tensor"], masked_fill),
}
