"""What gradient descent conserves, and what moves it: step size, noise, weight decay, Adam.

python -m studies.conserved            # everything, about a minute on one core
python -m studies.conserved --smoke    # the same code on a few images, some seconds
python -m studies.conserved --render   # table and figure from the committed results
"""

from __future__ import annotations

from studies.conserved._design import ARMS, FULL, NETWORKS, SMOKE, Size
from studies.conserved._figure import figure
from studies.conserved._run import run, study
from studies.conserved._table import fitted_order, table, with_table

__all__ = [
    "ARMS",
    "FULL",
    "NETWORKS",
    "SMOKE",
    "Size",
    "figure",
    "fitted_order",
    "run",
    "study",
    "table",
    "with_table",
]
