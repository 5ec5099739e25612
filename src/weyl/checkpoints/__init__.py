"""Reading weights from files that may be anything, nothing in them ever run; and writing them in one step."""

from __future__ import annotations

from weyl.checkpoints._emit import LazyWeights
from weyl.checkpoints._fit import load_into
from weyl.checkpoints._open import OpenWeights, open_weights
from weyl.checkpoints._read import Weights, load_weights, read_weights
from weyl.checkpoints._stored import TensorInfo
from weyl.checkpoints._write import refuse_target, write_weights

__all__ = [
    "LazyWeights",
    "OpenWeights",
    "TensorInfo",
    "Weights",
    "load_into",
    "load_weights",
    "open_weights",
    "read_weights",
    "refuse_target",
    "write_weights",
]
