"""How often a planted element is found, and how often the global optimum.

python -m studies.planted            # everything, some minutes
python -m studies.planted --smoke    # the same code, few trials
python -m studies.planted --render   # table and figure from the committed results
"""

from __future__ import annotations

from studies.planted._run import FULL, SMOKE, Size, block, oracle, recovery, study
from studies.planted._show import figure, table, with_table, write_figure

__all__ = [
    "FULL",
    "SMOKE",
    "Size",
    "block",
    "figure",
    "oracle",
    "recovery",
    "study",
    "table",
    "with_table",
    "write_figure",
]
