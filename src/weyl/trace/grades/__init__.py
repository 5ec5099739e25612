"""How operators relate exponents; an operator that is not here makes all of them zero."""

from __future__ import annotations

from weyl.trace._grade import Entry, Grader
from weyl.trace.grades import _linear, _norm, _pointwise, _recurrent, _shape
from weyl.trace.grades._call import GradeRule

__all__ = ["RULES", "grade"]

RULES: dict[str, GradeRule] = {
    **_pointwise.RULES,
    **_linear.RULES,
    **_shape.RULES,
    **_norm.RULES,
    **_recurrent.RULES,
}


# Of their second argument, only shape or type matter.
SHAPE_ONLY = frozenset("type_as view_as reshape_as expand_as".split())


def grade(grader: Grader, entry: Entry) -> None:
    """Add the equations of one operator."""
    call = entry.call
    rule = None
    if call is not None:
        rule = RULES.get(f"{call.name}.{call.overload}") or RULES.get(call.name)
    floating = all(dtype.is_floating_point for dtype in entry.dtypes[:1])
    grader.asked.clear()
    if rule is None or call is None or not floating or not entry.results or not rule(grader, call, entry.results):
        grader.opaque(entry)
    elif call.name not in SHAPE_ONLY:
        for value in entry.values:
            if id(value) not in grader.asked:
                grader.kill(grader.get(value))  # no equation mentions it
    for result in entry.results:
        if result is not None and id(result) not in grader.known:
            grader.get(result)
