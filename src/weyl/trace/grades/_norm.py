"""Normalisation layers: they keep signs, take scales away, and start new ones with their gains."""

from __future__ import annotations

from itertools import chain

from weyl.trace._context import Call
from weyl.trace._grade import LETTERS, Factor, Grader
from weyl.trace._graded import Graded, Strand, Term
from weyl.trace._values import Value
from weyl.trace.grades._call import GradeRule, Results, first

__all__ = ["RULES"]


def batch_norm(grader: Grader, call: Call, results: Results) -> bool:
    """With running statistics, input and output are uncoupled: mean and variance follow the input."""
    names = ("input", "weight", "bias", "running_mean", "running_var")
    value, weight, bias, mean, variance = (
        grader.get(call[n]) if isinstance(call.get(n), Value) else None for n in names
    )
    if call.get("training", False) or call.get("use_input_stats", False) or mean is None or variance is None:
        return False
    assert value is not None
    letters = LETTERS[: value.ndim]
    channel = letters[1]
    grader.product([Factor(mean, channel)], value, letters)
    grader.product([Factor(value, letters, 2, 0)], variance, channel)
    grader.offsets.setdefault(id(call["running_var"]), []).append(float(call["eps"]))
    normal = grader.fresh(call["input"].axes)
    grader.product([Factor(value, letters, 0, 1)], normal, letters)
    _affine(grader, normal, weight, bias, grader.make(first(results)), channel)
    grader.roughen(value)
    return True


def _affine(
    grader: Grader, normal: Graded, weight: Graded | None, bias: Graded | None, out: Graded, channel: str
) -> None:
    letters = LETTERS[: out.ndim]
    gain = [] if weight is None else [Factor(weight, channel)]
    grader.product([Factor(normal, letters), *gain], out, letters)
    if bias is not None:
        grader.product([Factor(bias, channel)], out, letters)


def layer_norm(grader: Grader, call: Call, results: Results) -> bool:
    """Layer and RMS norm: eps takes scales away; without a mean a unit may flip; without a gain units may be mixed."""
    value = grader.get(call["input"])
    rank = len(call["normalized_shape"])
    centre = "rms" not in call.name
    weight, bias = (grader.get(call[n]) if isinstance(call.get(n), Value) else None for n in ("weight", "bias"))
    if value.terms is None:
        return False
    _still(grader, value, rank, centre)
    _mixed(grader, value, rank, centre, weight is None and bias is None)
    letters = LETTERS[: value.ndim]
    _affine(grader, value, weight, bias, grader.make(first(results)), letters[value.ndim - rank :])
    return True


def _still(grader: Grader, value: Graded, rank: int, centre: bool) -> None:
    """No scale passes; with a mean, units keep their signs, and all that is averaged has one sign."""
    outer = value.ndim - rank
    seen: dict[tuple[Strand, ...], Term] = {}
    for term in value.terms or ():
        for unknown in (term.scalar, *chain.from_iterable(term.unknowns)):
            grader.scales.zero(unknown)
        if not centre:
            continue
        for unknown in chain.from_iterable(term.unknowns[outer:]):
            grader.signs.zero(unknown)
        first = seen.setdefault(term.strands[:outer], term)
        grader.signs.equate(term.scalar, first.scalar)
        for a, b in zip(
            chain.from_iterable(term.unknowns[:outer]), chain.from_iterable(first.unknowns[:outer]), strict=True
        ):
            grader.signs.equate(a, b)


def _mixed(grader: Grader, value: Graded, rank: int, centre: bool, bare: bool) -> None:
    """Note which atoms a norm treats as a whole."""
    for term in value.terms or ():
        for dim, (strand, size) in enumerate(zip(term.strands, value.shape, strict=True)):
            whole = bare and rank == 1 and dim == value.ndim - 1
            for cell, _ in strand.atoms:
                if cell not in grader.tracked:
                    continue
                if whole and cell.size == size:
                    (grader.centred if centre else grader.normed).add(cell)
                else:
                    grader.rough.add(cell)


def instance_norm(grader: Grader, call: Call, results: Results) -> bool:
    """By running statistics like batch norm, by its own like group norm."""
    return (group_norm if call["use_input_stats"] else batch_norm)(grader, call, results)


def group_norm(grader: Grader, call: Call, results: Results) -> bool:
    """Every channel of the result follows its gain and bias."""
    if not isinstance(call.get("weight"), Value):
        return False
    bias = grader.get(call["bias"]) if isinstance(call.get("bias"), Value) else None
    grader.kill(grader.get(call["input"]))
    normal = grader.fresh(first(results).axes)
    grader.kill(normal)
    _affine(grader, normal, grader.get(call["weight"]), bias, grader.make(first(results)), LETTERS[1])
    return True


RULES: dict[str, GradeRule] = {
    **dict.fromkeys(
        """
        batch_norm _native_batch_norm_legit_no_training native_batch_norm _native_batch_norm_legit
        _batch_norm_no_update cudnn_batch_norm
        """.split(),
        batch_norm,
    ),
    **dict.fromkeys(["layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm"], layer_norm),
    **dict.fromkeys(["group_norm", "native_group_norm"], group_norm),
    "instance_norm": instance_norm,
}
