"""Normalisation layers, whole and as the native operators that decompositions give."""

from __future__ import annotations

from weyl.trace._cells import Axis
from weyl.trace._context import Call, Context, Result, Rule
from weyl.trace._values import Value

__all__ = ["RULES"]


def _join_channel(context: Context, value: Value, call: Call, dim: int, names: tuple[str, ...]) -> list[Axis]:
    axes = list(value.axes)
    for name in names:
        vector = call.get(name)
        if isinstance(vector, Value):
            axes[dim] = context.join(axes[dim], vector.axes[0])
    return axes


def _results(result: Value, call: Call) -> Result:
    return [result, *[None] * (len(call.shapes) - 1)] if len(call.shapes) > 1 else result


def batch_norm(context: Context, call: Call) -> Result:
    """Per channel (dimension 1); with batch statistics also a symmetric function of all the rest."""
    value: Value = call["input"]
    names = ("weight", "bias", "running_mean", "running_var")
    axes = _join_channel(context, value, call, 1, names)
    if call.get("training", False) or call.get("running_mean") is None or call.get("use_input_stats", False):
        keep = (axes[0], axes[1]) if call.name == "instance_norm" else (axes[1],)
        context.touch(*keep)
    return _results(context.value(axes), call)


def layer_norm(context: Context, call: Call) -> Result:
    """Layer and RMS norm over the last dimensions."""
    value: Value = call["input"]
    rank = len(call["normalized_shape"])
    axes = list(value.axes)
    for name in ("weight", "bias"):
        vector = call.get(name)
        if isinstance(vector, Value):
            for back in range(1, rank + 1):
                axes[-back] = context.join(axes[-back], vector.axes[-back])
    context.touch(*axes[:-rank], hidden=value.survivors(tuple(axes[-rank:])))
    return _results(context.value(axes, value.hidden), call)


def group_norm(context: Context, call: Call) -> Result:
    """Channels cut into groups; a symmetric function of each group and of all positions."""
    value: Value = call["input"]
    groups = call["num_groups"] if "num_groups" in call.arguments else call["group"]
    axes = _join_channel(context, value, call, 1, ("weight", "bias"))
    wide = context.reshape(axes[:2], [value.shape[0], groups, value.shape[1] // groups])
    context.touch(wide[0], wide[1])
    return _results(context.value([wide[0], (*wide[1], *wide[2]), *axes[2:]]), call)


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        """
        batch_norm instance_norm _native_batch_norm_legit_no_training native_batch_norm
        _native_batch_norm_legit _batch_norm_no_update cudnn_batch_norm
        """.split(),
        batch_norm,
    ),
    **dict.fromkeys(["layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm"], layer_norm),
    **dict.fromkeys(["group_norm", "native_group_norm"], group_norm),
}
