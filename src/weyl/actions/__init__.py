"""What a group element does to a state dict."""

from weyl.actions._act import Mover, act, gather_indices
from weyl.actions._optimizer import act_optimizer
from weyl.actions._shift import shift_logits
from weyl.actions._state import check_seed, check_state, check_structure

__all__ = [
    "Mover",
    "act",
    "act_optimizer",
    "check_seed",
    "check_state",
    "check_structure",
    "gather_indices",
    "shift_logits",
]
