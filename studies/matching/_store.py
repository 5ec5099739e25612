"""Measurements in a cache, so that an interruption loses one at most, and the results as one JSON file."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import weyl
from studies.matching import _design as design
from studies.matching._design import Arch, Size
from studies.matching._run import Setting, compare, setting, together
from studies.matching._train import trained

Run = dict[str, Any]


def constants() -> dict[str, Any]:
    """Everything that decides a result besides the architecture, its training and the arm."""
    names = "BATCH LEARNING_RATE POINTS JUDGED REFINING REPAIRS".split()
    return {name.lower(): getattr(design, name) for name in names}


def cached_runs(
    size: Size, arms: Sequence[str], folder: Path, tell: Callable[[str], None] = print
) -> Iterator[tuple[Arch, Run]]:
    """Measure whatever the cache does not hold, and yield every run.

    Parameters
    ----------
    size : Size
        What to measure.
    arms : sequence of str
        Of `ARMS`, and ``together`` for merging several networks.
    folder : Path
        Trained networks, and the cache: one run a line; those of other constants, or broken by an interruption, are
        passed over.
    tell : callable
        Gets a line after every run.
    """
    cache = folder / "runs.jsonl"
    known = {line["key"]: line["run"] for line in _lines(cache)}
    if cache.exists() and not cache.read_bytes().endswith(b"\n"):
        with cache.open("a", encoding="utf-8") as file:
            file.write("\n")  # what comes next must not join a line that was cut
    for arch in size.archs:
        at = None
        for arm, seeds in _planned(size, arch, arms):
            key = json.dumps([_of_one(arch), arm, seeds, size.calibration, constants()])
            if key not in known:
                start = time.perf_counter()
                at = at or setting(arch, size.calibration)
                known[key] = run = json.loads(json.dumps(_measured(arch, arm, seeds, at, folder), allow_nan=False))
                with cache.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, "run": run}) + "\n")
                tell(f"{arch.name} {arm} {seeds}: {time.perf_counter() - start:.1f} s")
            yield arch, known[key]


def _of_one(arch: Arch) -> dict[str, Any]:
    """An architecture without the number of its seeds: a further one leaves the runs of the others as they are."""
    return {name: value for name, value in asdict(arch).items() if name != "seeds"}


def _planned(size: Size, arch: Arch, arms: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    for arm in arms:
        if arm != "together":
            yield from ((arm, list(pair)) for pair in arch.pairs)
        elif arch.name == size.merged:
            yield arm, list(range(size.together))


def _measured(arch: Arch, arm: str, seeds: list[int], at: Setting, folder: Path) -> Run:
    states = [trained(folder, arch, seed)[0] for seed in seeds]
    found = together(arch, at, states) if arm == "together" else compare(arch, arm, at, states[0], states[1])
    return {"data": arch.data, "kind": arch.kind, "width": arch.width, "arm": arm, "seeds": seeds, **found}


def _lines(cache: Path) -> Iterator[dict[str, Any]]:
    if not cache.exists():
        return
    for line in cache.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that was being written when the study was interrupted


def write_results(path: Path, size: Size, runs: Sequence[tuple[Arch, Run]], folder: Path) -> Run:
    """Write the results, one run a line, and return what a reader of the file gets."""
    networks = [
        {**asdict(arch), "networks": [trained(folder, arch, seed)[1] for seed in range(arch.seeds)]}
        for arch in size.archs
        if any(arch == of for of, _ in runs)
    ]
    head = {
        "study": "matching",
        "question": "What lies between two trained networks, once one is put next to the other?",
        "constants": {**constants(), "calibration": size.calibration, "together": size.together},
        "versions": {"weyl": weyl.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    lists = {"archs": networks, "runs": [run for _, run in runs]}
    parts = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    parts += [f"{json.dumps(name)}: [\n" + ",\n".join(map(json.dumps, rows)) + "\n]" for name, rows in lists.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))
