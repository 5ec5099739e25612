"""Laws as assertions, for weyl's own tests and for those of its users.

Each raises ``AssertionError`` with the first thing that breaks the law, and returns None otherwise. ``force`` makes
the false claims that negative controls need.
"""

from weyl.testing._force import force
from weyl.testing._laws import (
    assert_action_laws,
    assert_function_preserved,
    assert_group_laws,
    assert_structure_round_trip,
    assert_untouched,
)

__all__ = [
    "assert_action_laws",
    "assert_function_preserved",
    "assert_group_laws",
    "assert_structure_round_trip",
    "assert_untouched",
    "force",
]
