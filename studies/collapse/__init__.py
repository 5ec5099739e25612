"""When does a classifier collapse to the simplex? The questions that arXiv 2012.05420 leaves open, on real data.

python -m studies.collapse            # everything, resumable; about twenty minutes on one busy core
python -m studies.collapse --smoke    # the same code on a few images, some seconds
python -m studies.collapse --render   # table and figures from the committed results
"""

from __future__ import annotations

from studies.collapse._design import DESIGN, FULL, SMOKE, Arm, Size
from studies.collapse._figures import tetrahedron_figure, trajectory_figure
from studies.collapse._store import cached_runs, constants, read_results, write_results
from studies.collapse._table import cosine_table, table, with_tables
from studies.collapse._tetrahedron import follow_means
from studies.collapse._train import run_arm

__all__ = [
    "DESIGN",
    "FULL",
    "SMOKE",
    "Arm",
    "Size",
    "cached_runs",
    "constants",
    "cosine_table",
    "follow_means",
    "read_results",
    "run_arm",
    "table",
    "tetrahedron_figure",
    "trajectory_figure",
    "with_tables",
    "write_results",
]
