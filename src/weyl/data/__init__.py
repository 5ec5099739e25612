"""Small image sets that install offline, split for training and held-out evaluation."""

from __future__ import annotations

from weyl.data.images import digits, mnist
from weyl.data.split import Split, stratified_split

__all__ = ["Split", "digits", "mnist", "stratified_split"]
