"""Steps that ``weyl align``, ``merge`` and ``barrier`` have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import weyl
from weyl._version import __version__
from weyl.cli._merge_checks import Preserved, cosine
from weyl.cli._merge_data import Feed, guarded
from weyl.cli._merge_files import Checkpoint, read_all
from weyl.cli._work import Found, Say, Source
from weyl.data import Data, load_data
from weyl.errors import ModelSpecError, UsageError
from weyl.groups import Element
from weyl.matching import Match
from weyl.merging import repair, reset_batch_norm

__all__ = [
    "CUT_OFF",
    "TRAINING",
    "State",
    "Task",
    "alignment_of",
    "as_written",
    "data_of",
    "exit_code",
    "head",
    "matched",
    "read",
    "remarks",
    "repaired",
    "rounded",
    "settings_of",
    "together",
    "training",
]

State = Mapping[str, Tensor]
CUT_OFF = "the search was cut off before nothing could be moved for the better"
TRAINING = 256  # inputs at a time, where statistics are taken


@dataclass(frozen=True)
class Task:
    """The arguments of ``weyl align``, ``merge`` or ``barrier``, as their help describes them."""

    source: Source
    files: tuple[Path, ...]
    key: str | None = None
    costs: str = "weights"
    kinds: tuple[str, ...] | None = None
    restarts: int = 1
    data: str | None = None
    limit: int | None = None
    align: bool | None = True
    weights: tuple[float, ...] | None = None
    method: str = "average"
    repair: str | None = None
    points: int = 11
    split: str = "test"
    batch_size: int = TRAINING

    @classmethod
    def of(cls, files: tuple[Path, ...], **options: Any) -> Task:
        """Make one of options by name."""
        source = Source(*(options.pop(name) for name in ("model", "input_shape", "strict", "seed")))
        return cls(source, files, **options)


def head(found: Found, files: Sequence[Checkpoint]) -> dict[str, Any]:
    return {
        "weyl": __version__,
        "model": found.loaded.name,
        "files": [file.name for file in files],
        "group": found.structure.group.symbol,
    }


def settings_of(task: Task) -> dict[str, Any]:
    return {
        "model": task.source.model,
        "key": task.key,
        "data": task.data,
        "limit": task.limit,
        "costs": task.costs,
        "kinds": task.kinds and list(task.kinds),
        "restarts": task.restarts,
        "repair": task.repair,
        "seed": task.source.seed,
        "weyl": __version__,
        "torch": torch.__version__,
    }


def read(task: Task, say: Say) -> tuple[Found, tuple[Checkpoint, ...], tuple[str, ...]]:
    """The model and the files; where no example input can be guessed, one of the shape of the data."""
    try:
        return read_all(task.source, task.files, task.key, say)
    except ModelSpecError as error:
        known = task.source.input_shape is not None or "--input-shape" not in str(error)
        data = None if known else data_of(task)
        if data is None:
            raise
    part = data.train or data.test
    assert part is not None
    return read_all(replace(task.source, input_shape=(2, *part.shape)), task.files, task.key, say)


def data_of(task: Task) -> Data | None:
    if task.data is None:
        return None
    if task.data.strip() in ("", "."):
        raise UsageError("--data is empty or the current folder; name a file, a folder or a built-in")
    return load_data(task.data, limit=task.limit)


def training(task: Task, found: Found, say: Say, data: Data | None = None) -> Feed | None:
    """Training data, where something is measured on them."""
    if task.costs == "weights" and task.repair is None:
        return None
    data = data or data_of(task)
    assert data is not None
    feed = Feed(data.part("train"), found.loaded, say, TRAINING)
    feed.title = "training data"
    return feed


def matched(task: Task, found: Found, files: Sequence[Checkpoint], train: Feed | None, say: Say) -> Match:
    say("matching")
    return weyl.match(
        found.structure, files[0].state, files[1].state, restarts=task.restarts, **_how(task, found, train, say)
    )


def _how(task: Task, found: Found, train: Feed | None, say: Say) -> dict[str, Any]:
    how = {"costs": task.costs, "kinds": task.kinds, "seed": task.source.seed, "progress": say}
    return how if task.costs == "weights" else how | {"model": found.loaded.module, "data": train}


def together(
    task: Task, found: Found, files: Sequence[Checkpoint], train: Feed | None, say: Say
) -> tuple[tuple[Element, ...], bool]:
    """What moves the others next to the first, and whether nothing was left to gain."""
    if len(files) == 2:
        match = matched(task, found, files, train, say)
        return (match.element,), match.coordinate_optimal
    say("matching")
    common = weyl.universe(found.structure, [file.state for file in files], **_how(task, found, train, say))
    return common.elements[1:], common.coordinate_optimal


def repaired(
    task: Task, found: Found, merged: State, states: Sequence[State], shares: Sequence[float], train: Feed | None
) -> tuple[State, dict[str, Any] | None]:
    """A merged state with the statistics of its parents, and what was done."""
    if task.repair is None:
        return merged, None
    assert train is not None
    module = found.loaded.module
    if task.repair == "bn":
        work = guarded(lambda state: reset_batch_norm(module, state, train), train, found.loaded)
        return work(merged), {"method": "bn"}
    run = guarded(
        lambda state: repair(found.structure, module, state, states, train, weights=shares), train, found.loaded
    )
    done = run(merged)
    return done.state, {
        "method": "repair",
        "layers": list(done.layers),
        "deviation": done.deviation,
        "passes": done.passes,
    }


def as_written(state: State, like: Checkpoint) -> dict[str, Tensor]:
    """A state in the types of a file."""
    return {name: tensor.to(like.dtypes.get(name, tensor.dtype)) for name, tensor in state.items()}


def rounded(state: State, like: Checkpoint) -> dict[str, Tensor]:
    """A state as it is once it was written with the types of a file."""
    return {name: tensor.to(state[name].dtype) for name, tensor in as_written(state, like).items()}


def alignment_of(found: Found, a: State, b: State, moved: State, match: Match) -> dict[str, Any]:
    """What was done to B, ready for JSON."""
    return {
        **match.to_dict(),
        "group": found.structure.group.symbol,
        "cosine_before": cosine(found.structure, a, b),
        "cosine": cosine(found.structure, a, moved),
    }


def remarks(name: str, preserved: Preserved) -> list[str]:
    """What a reader must know of a file that was moved."""
    notes = []
    if preserved.verdict == "fails" and preserved.difference <= preserved.tolerance:
        notes.append(
            f"{name}, moved and written in its types, does not compute what it computed: {_off(preserved.written)},"
            f" where {preserved.written_tolerance:.1e} is allowed; give --kinds permute,sign, which round nothing, or a"
            " file of a wider type"
        )
    elif preserved.verdict == "fails":
        notes.append(
            f"{name}, moved, does not compute what it computed: {_off(preserved.difference)}, where"
            f" {preserved.tolerance:.1e} is allowed"
        )
    if preserved.verdict == "inconclusive":
        notes.append(
            f"{name}, moved: whether it computes the same cannot be told: outputs are not finite, or a wrong move went"
            " unseen"
        )
    return notes


def _off(difference: float) -> str:
    if math.isnan(difference):
        return "an output is NaN or Inf"
    return f"an output differs by {difference:.1e} of the largest"


def exit_code(preserved: Sequence[Preserved], settled: bool) -> int:
    """0 if functions are kept and nothing is left to gain, 1 if one is not kept, 4 if that is open."""
    verdicts = {one.verdict for one in preserved}
    if "fails" in verdicts:
        return 1
    return 0 if settled and verdicts <= {"holds"} else 4
