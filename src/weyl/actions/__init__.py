"""What a group element does to a state dict."""

from weyl.actions._act import act, gather_indices

__all__ = ["act", "gather_indices"]
