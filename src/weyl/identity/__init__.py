"""Whether one network is another, in disguise, or was made from it."""

from weyl.identity._compare import compare
from weyl.identity._comparison import VERDICTS, Comparison, chance_text
from weyl.identity._evidence import Evidence, SpaceEvidence, evidence
from weyl.identity._formats import Rounding
from weyl.identity._shared import Shared, shared_part

__all__ = [
    "VERDICTS",
    "Comparison",
    "Evidence",
    "Rounding",
    "Shared",
    "SpaceEvidence",
    "chance_text",
    "compare",
    "evidence",
    "shared_part",
]
