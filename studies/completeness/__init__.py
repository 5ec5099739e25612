"""Is the group complete? Its dimension against P minus the rank of the Jacobian, for 200 small random networks.

python -m studies.completeness            # everything, about two minutes on one core
python -m studies.completeness --smoke    # two networks a family on fewer inputs
python -m studies.completeness --render   # the table from the committed results
"""

from __future__ import annotations

from studies.completeness._design import FAMILIES, Family, Sizes, draw
from studies.completeness._measure import at_rest, measure, random_network
from studies.completeness._store import constants, read_results, run_all, write_results
from studies.completeness._table import counts, summary, table, verdict, with_table

__all__ = [
    "FAMILIES",
    "Family",
    "Sizes",
    "at_rest",
    "constants",
    "counts",
    "draw",
    "measure",
    "random_network",
    "read_results",
    "run_all",
    "summary",
    "table",
    "verdict",
    "with_table",
    "write_results",
]
