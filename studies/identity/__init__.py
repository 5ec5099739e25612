"""Whether one network is told from another, whatever symmetry hides it.

python -m studies.identity                    # everything; networks that are not there are trained first
python -m studies.identity --smoke            # the same code on small digits, some seconds
python -m studies.identity --fresh            # measure again what was measured before
python -m studies.identity --render           # tables and figure from the committed results
"""

from __future__ import annotations

from studies.identity._design import FULL, KINDS, RANKED, SCORES, SMOKE, Kind, Size
from studies.identity._disguise import changed, disguised, finished
from studies.identity._networks import Family, family
from studies.identity._pair import CASES, INSTALL, Pair, found
from studies.identity._run import planned, study
from studies.identity._scores import auc, cka, curve
from studies.identity._show import areas, figure, table, with_table, wrong

__all__ = [
    "CASES",
    "FULL",
    "INSTALL",
    "KINDS",
    "RANKED",
    "SCORES",
    "SMOKE",
    "Family",
    "Kind",
    "Pair",
    "Size",
    "areas",
    "auc",
    "changed",
    "cka",
    "curve",
    "disguised",
    "family",
    "figure",
    "finished",
    "found",
    "planned",
    "study",
    "table",
    "with_table",
    "wrong",
]
