"""Labelled data that installs offline or that a DATA argument names, split for training and held-out evaluation."""

from __future__ import annotations

from weyl.data.glyphs import letters
from weyl.data.idx import fashion
from weyl.data.images import digits, mnist
from weyl.data.parts import Data, Part, Scaling
from weyl.data.spec import BUILTIN_DATA, load_data
from weyl.data.split import Split, stratified_split

__all__ = [
    "BUILTIN_DATA",
    "Data",
    "Part",
    "Scaling",
    "Split",
    "digits",
    "fashion",
    "letters",
    "load_data",
    "mnist",
    "stratified_split",
]
