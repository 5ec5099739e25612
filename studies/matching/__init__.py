"""What lies between two trained networks, once one is put next to the other.

python -m studies.matching                    # everything; networks that are not there are trained first
python -m studies.matching --smoke            # the same code on small digits, some seconds
python -m studies.matching --arms weights     # some of the ways only
python -m studies.matching --render           # tables and figure from the committed results
"""

from __future__ import annotations

from studies.matching._design import ARMS, FULL, KINDS, SETS, SMOKE, Arch, Size, network
from studies.matching._figure import figure
from studies.matching._run import align, compare, setting, together
from studies.matching._store import cached_runs, write_results
from studies.matching._table import height, table, with_table
from studies.matching._train import train, train_all, trained

__all__ = [
    "ARMS",
    "FULL",
    "KINDS",
    "SETS",
    "SMOKE",
    "Arch",
    "Size",
    "align",
    "cached_runs",
    "compare",
    "figure",
    "height",
    "network",
    "setting",
    "table",
    "together",
    "train",
    "train_all",
    "trained",
    "with_table",
    "write_results",
]
