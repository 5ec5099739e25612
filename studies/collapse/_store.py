"""Runs in a cache, so that an interruption loses one at most, and the results as one JSON file."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import weyl
import weyl.data
from studies.collapse import _design as design
from studies.collapse._design import Arm, Size
from studies.collapse._train import run_arm


def constants(size: Size) -> dict[str, Any]:
    """Everything that decides a result besides the arm and the seed."""
    names = "CLASSES HIDDEN CHANNELS BATCH MOMENTUM LEARNING_RATE RATIO HEAD_NORM PATIENCE TRAJECTORY FINAL".split()
    found = {name.lower(): getattr(design, name) for name in names}
    plain = asdict(size)
    del plain["seeds"]  # a further seed leaves the runs of the others as they are
    return json.loads(json.dumps({**found, **plain}))


def cached_runs(
    arms: Sequence[Arm], size: Size, cache: Path, tell: Callable[[str], None] = print
) -> Iterator[dict[str, Any]]:
    """Train whatever the cache does not hold, all arms of a seed before the next seed, and yield every run.

    Parameters
    ----------
    arms : sequence of Arm
        What to train.
    size : Size
        How much.
    cache : Path
        One run a line; lines of other constants, or broken by an interruption, are passed over.
    tell : callable
        Gets a line after every run.
    """
    given = constants(size)
    known = {_key(run): run for run in _lines(cache) if run.pop("constants", None) == given}
    cache.parent.mkdir(parents=True, exist_ok=True)
    if cache.exists() and not cache.read_bytes().endswith(b"\n"):
        with cache.open("a", encoding="utf-8") as file:
            file.write("\n")  # what comes next must not join a line that was cut
    total = len(arms) * len(size.seeds)
    for i, (seed, arm) in enumerate(((seed, arm) for seed in size.seeds for arm in arms), 1):
        key = _key({"arm": asdict(arm), "seed": seed})
        if key not in known:
            run = json.loads(json.dumps(run_arm(arm, size, seed), allow_nan=False))
            with cache.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**run, "constants": given}) + "\n")
            known[key] = run
            end = run["final"]["train"]
            tell(
                f"{i}/{total} {arm.name}, seed {seed}: accuracy {end['accuracy']:.4f}, NC1 {end['nc1']:.3g},"
                f" NC2 {end['nc2']:.3g}, {run['seconds']:.1f} s"
            )
        yield known[key]


def _key(run: dict[str, Any]) -> str:
    return json.dumps([run["arm"], run["seed"]], sort_keys=True)


def _lines(cache: Path) -> Iterator[dict[str, Any]]:
    if not cache.exists():
        return
    for line in cache.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that was being written when the study was interrupted


def write_results(path: Path, runs: Sequence[dict[str, Any]], picture: dict[str, Any], size: Size) -> dict[str, Any]:
    """Write the results, one run a line, and return what a reader of the file gets."""
    head = {
        "study": "collapse",
        "question": "When does a classifier collapse to the simplex?",
        "constants": {**constants(size), "limits": design.LIMITS, "seeds": list(size.seeds)},
        "versions": {
            "weyl": weyl.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "references": _references(size),
        "seconds": round(math.fsum(run["seconds"] for run in runs) + picture["seconds"], 1),
        "picture": picture,
    }
    body = ",\n".join(json.dumps(run, allow_nan=False) for run in runs)
    fields = ",\n".join(f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in head.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{{fields},\n"runs": [\n{body}\n]}}\n', encoding="utf-8")
    return read_results(path)


def read_results(path: Path) -> dict[str, Any]:
    """Read the results."""
    return json.loads(path.read_text(encoding="utf-8"))


def _references(size: Size) -> dict[str, dict[str, Any]]:
    """Chance levels and floors of Gaussian features with classes of equal size: as many, as long, as balanced."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for part, n in (("train", size.train), ("test", size.held_out)):
        features = torch.randn(n, design.HIDDEN[-1], generator=generator)
        labels = torch.arange(n) % design.CLASSES
        gaussian = weyl.CollapseStatistics(design.CLASSES, design.HIDDEN[-1]).update(features, labels)
        weight = torch.randn(design.CLASSES, design.HIDDEN[-1], generator=generator)
        levels = gaussian.compute(weight).to_dict()["reference"]
        found[part] = {name: level for name, level in levels.items() if name in design.FINAL}
    return found
