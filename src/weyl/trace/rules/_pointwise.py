"""Elementwise operators: every unit alone, broadcasting over the axes."""

from __future__ import annotations

from weyl.trace._context import Call, Context, Result, Rule
from weyl.trace._values import RuleError, Value

__all__ = ["RULES"]

ARITHMETIC = """
add sub mul div true_divide rsub pow float_power remainder fmod floor_divide neg positive abs
absolute sign sgn reciprocal square sqrt rsqrt exp exp2 expm1 log log2 log10 log1p addcmul addcdiv
lerp maximum minimum fmax fmin clamp clamp_min clamp_max clip ceil floor round trunc fix frac
nan_to_num copysign hypot atan2 arctan2 logaddexp logaddexp2 xlogy divide multiply subtract negative
nextafter ldexp gcd lcm heaviside deg2rad rad2deg __and__ __or__ __xor__ special_xlog1py
""".split()

COMPARISON = """
eq ne lt le gt ge not_equal greater greater_equal less less_equal isnan isinf isfinite isneginf
isposinf signbit logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not
bitwise_xor bitwise_left_shift bitwise_right_shift where masked_fill isclose
""".split()

FUNCTIONS = """
sin cos tan asin acos atan arcsin arccos arctan sinh cosh tanh asinh acosh atanh sinc erf erfc
erfinv special_erf lgamma digamma polygamma mvlgamma i0 igamma igammac angle logit special_logit
special_entr special_expit special_expm1 special_erfcx special_i0e special_i1 special_i1e
special_ndtr special_ndtri special_log_ndtr
""".split()

ACTIVATIONS = """
relu relu6 leaky_relu rrelu elu selu celu gelu silu mish sigmoid log_sigmoid softplus softsign
hardtanh hardsigmoid hardswish hardshrink softshrink tanhshrink threshold
""".split()

COPIES = """
clone contiguous detach detach_copy alias alias_copy lift lift_fresh lift_fresh_copy to _to_copy
type_as float double half bool int long dropout feature_dropout alpha_dropout feature_alpha_dropout
native_dropout positive conj resolve_conj resolve_neg _conj real
""".split()

# Applied to entries that are positions (labels), these keep them positions.
LABEL_KEEPING = ("clone", "contiguous", "detach", "alias", "lift_fresh_copy", "to", "_to_copy", "long", "int")


def pointwise(context: Context, call: Call) -> Result:
    """Any elementwise function of broadcast tensors."""
    return context.pointwise(list(call.values()))


def copy(context: Context, call: Call) -> Result:
    """The entries of the first argument, at another place, type or not at all changed."""
    if call.name.endswith("dropout") and call.get("train", False):
        raise RuleError("random: dropout is on even in eval mode")
    value: Value = call["self"] if "self" in call.arguments else call["input"]
    if call.name in LABEL_KEEPING:
        return context.view(value, value.axes)
    result = context.pointwise([value])
    return [result, result] if call.name == "native_dropout" else result


def fill(context: Context, call: Call) -> Result:
    """The shape of one tensor with the entries of another."""
    value = call["self"]
    source = call.get("value") if call.name == "fill" else call.get("src")
    tensors = [value, source] if isinstance(source, Value) else [value]
    return context.value(context.broadcast(tensors))


def prelu(context: Context, call: Call) -> Result:
    """A slope for every channel (dimension 1) or one for all."""
    value, weight = call["self"], call["weight"]
    if weight.shape and weight.shape[0] != 1:
        dim = 1 if value.ndim > 1 else 0
        axes = list(value.axes)
        axes[dim] = context.join(axes[dim], weight.axes[0])
        return context.value(axes, value.hidden)
    return context.value(value.axes, value.hidden)


RULES: dict[str, Rule] = {
    **dict.fromkeys(ARITHMETIC + COMPARISON + FUNCTIONS + ACTIVATIONS, pointwise),
    **dict.fromkeys(COPIES, copy),
    "fill": fill,
    "copy": fill,
    "prelu": prelu,
    "_prelu_kernel": pointwise,
    # max and min of two tensors; their other overloads reduce
    "max.other": pointwise,
    "min.other": pointwise,
}
