"""Rules: operator name to function, in plain tables.

A key is an operator name (``linear``) or, where overloads differ, name and overload (``max.dim``). What is in no
table is decomposed, and what cannot be decomposed is opaque.
"""

from weyl.trace._context import Rule
from weyl.trace.rules import _contraction, _index, _norm, _pointwise, _recurrent, _reduce, _shape, _spatial
from weyl.trace.rules._index import INDEX_ARGUMENT

__all__ = ["IGNORED", "INDEX_ARGUMENT", "RULES"]

RULES: dict[str, Rule] = {
    **_pointwise.RULES,
    **_contraction.RULES,
    **_shape.RULES,
    **_reduce.RULES,
    **_norm.RULES,
    **_spatial.RULES,
    **_index.RULES,
    **_recurrent.RULES,
}

# Checks that return nothing.
IGNORED = frozenset(
    """
    _assert_tensor_metadata _assert_async _assert_scalar sym_constrain_range
    sym_constrain_range_for_size _log_api_usage_once
    """.split()
)
