"""What a grading rule gets and gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from weyl.trace._context import Call
from weyl.trace._grade import Grader
from weyl.trace._values import Value

__all__ = ["GradeRule", "Results", "first", "number", "operands"]

Results = Sequence[Value | None]
# Adds the equations of one operator and returns whether it could; if not, everything it touches is held still.
GradeRule = Callable[[Grader, Call, Results], bool]


def first(results: Results) -> Value:
    """The only, or the first, result."""
    value = results[0]
    assert value is not None
    return value


def operands(call: Call) -> list[Value]:
    """Tensor arguments in order."""
    return list(call.values())


def number(argument: object) -> bool:
    """Whether an argument is a plain number."""
    return isinstance(argument, (int, float)) and not isinstance(argument, bool)
