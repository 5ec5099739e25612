"""What a group element does to a state dict."""

from weyl.actions._act import act, gather_indices
from weyl.actions._shift import shift_logits

__all__ = ["act", "gather_indices", "shift_logits"]
