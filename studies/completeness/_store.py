"""All runs, and the results as one JSON file."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import weyl
from studies.completeness import _design as design
from studies.completeness._design import FAMILIES
from studies.completeness._measure import measure


def constants(samples: int) -> dict[str, Any]:
    """Everything that decides a result besides the family and the seed."""
    names = "SPREAD CLEAR LEAST MOST DEPTH EPS WEIGHT BIAS".split()
    return {"samples": samples, **{name.lower(): getattr(design, name) for name in names}}


def run_all(samples: int, most: int | None = None, tell: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Measure every network, or the first few of each family.

    Parameters
    ----------
    samples : int
        Inputs of each.
    most : int, optional
        Networks of each family.
    tell : callable
        Gets a line after every family.
    """
    runs = []
    for name, family in FAMILIES.items():
        count = family.count if most is None else min(most, family.count)
        runs += [measure(name, seed, samples) for seed in range(count)]
        tell(f"{family.title}: {count} networks")
    return runs


def write_results(path: Path, runs: Sequence[dict[str, Any]], samples: int) -> None:
    """Write the results, one run a line."""
    head = {
        "study": "completeness",
        "question": "Is the dimension of the group all that the function does not see of the parameters?",
        "constants": constants(samples),
        "versions": {
            "weyl": weyl.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    body = ",\n".join(json.dumps(run, allow_nan=False) for run in runs)
    fields = ",\n".join(f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in head.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{{fields},\n"runs": [\n{body}\n]}}\n', encoding="utf-8")


def read_results(path: Path) -> dict[str, Any]:
    """Read the results."""
    return json.loads(path.read_text(encoding="utf-8"))
