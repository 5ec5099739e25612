"""What ``weyl barrier`` does between its arguments and its result, and what a dry run says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import weyl
from weyl.cli._merge_checks import Effort, compare_outputs, effort_of
from weyl.cli._merge_data import Feed, guarded
from weyl.cli._merge_files import Checkpoint, encoded
from weyl.cli._merge_steps import (
    CUT_OFF,
    State,
    Task,
    alignment_of,
    data_of,
    head,
    matched,
    read,
    remarks,
    repaired,
    settings_of,
    training,
)
from weyl.cli._work import Found, Say
from weyl.data import Data, Part
from weyl.errors import InputError
from weyl.merging import Barrier, Evaluation, evaluator, interpolate
from weyl.merging._barrier import resampled
from weyl.merging._interpolate import check_weights
from weyl.report._barrier import ALIGNED, AS_THEY_ARE, FEW, REPAIRED, Between, Line

__all__ = ["Planned", "barrier_of", "estimate_of"]


@dataclass(frozen=True, eq=False)
class Planned:
    """What a command would do."""

    found: Found
    files: tuple[Checkpoint, ...]
    written: int
    tensors: int
    effort: Effort | None
    evaluations: int
    seconds: float | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            **head(self.found, self.files),
            "dry_run": True,
            "bytes_read": sum(file.size for file in self.files),
            "bytes_written": self.written,
            "tensors_written": self.tensors,
            "sweep_multiplications": self.effort and self.effort.multiplications,
            "sweep_seconds": self.effort and self.effort.seconds,
            "evaluations": self.evaluations,
            "evaluation_seconds": self.seconds,
            "warnings": list(self.warnings),
        }


def barrier_of(task: Task, say: Say) -> Between:
    """Measure what lies between two files.

    Raises
    ------
    WeylError
        Whatever stands in the way, in one line.
    """
    found, files, notes = read(task, say)
    a, b = files
    data = data_of(task)
    assert data is not None
    judged = Feed(_judged_part(data, task.split), found.loaded, say, task.batch_size)
    train = training(task, found, say, data)
    ends: dict[str, State] = {} if task.align else {AS_THEY_ARE: b.state}
    alignment = None
    if task.align is not False:
        match = matched(task, found, files, train, say)
        moved = weyl.act(match.element, found.structure, b.state)
        preserved = compare_outputs(found, b.state, match.element, None, task.source.seed)
        alignment = alignment_of(found, a.state, b.state, moved, match) | {"preserved": preserved.to_dict()}
        notes = (*notes, *([] if match.coordinate_optimal else [CUT_OFF]), *remarks(b.name, preserved))
        ends[ALIGNED] = moved
    judge = guarded(evaluator(found.loaded.module, judged), judged, found.loaded)
    lines = {name: _line(task, judge, judged, a.state, end, name) for name, end in ends.items()}
    if task.repair is not None:
        # Of two lines the aligned one: repair is for networks in one frame.
        name, end = list(ends.items())[-1]
        path = _repaired_path(task, found, end, train)
        lines[name + REPAIRED] = _line(task, judge, judged, a.state, end, name + REPAIRED, path=path)
    batches = _batches(judged)
    if batches < FEW:
        few = f"intervals are over {batches} batches only" if batches > 1 else "one batch gives no interval"
        notes = (*notes, f"{few}; give more data or a smaller --batch-size")
    settings = {
        **settings_of(task),
        "a": a.name,
        "b": b.name,
        "split": {"test": "held-out data", "train": "training data"}[task.split],
        "samples": judged.done,
        "batches": batches,
        "batch_size": task.batch_size,
        "points": task.points,
    }
    return Between(found.loaded.name, data.name, a.name, b.name, lines, alignment, notes, settings)


def estimate_of(task: Task, say: Say, *, of: int | None) -> Planned:
    """Read everything that a command reads, and say what it would take.

    Parameters
    ----------
    task : Task
        What to do.
    say : callable
        Called with what is being done.
    of : int or None
        Which file the one that is written is like; None where no weights are written.
    """
    check_weights(task.weights, len(task.files))
    found, files, notes = read(task, say)
    curves = (2 if task.align is None else 1) + (task.repair is not None)
    evaluations, seconds = (curves * task.points if of is None else 0), None
    if (data := data_of(task)) is not None:
        training(task, found, say, data)
        judged = data.test if of is not None else _judged_part(data, task.split)
        feed = None if judged is None else Feed(judged, found.loaded, say, task.batch_size)
        if feed is not None and of is None:
            seconds = feed.estimate()
    say("timing a small product")
    effort = effort_of(found.structure, files[0].state) if task.align is not False else None
    note = f"weyl {'align' if of else 'merge'} {found.loaded.name}"
    size = 0 if of is None else len(encoded(files[of], files[of].state, note))
    tensors = 0 if of is None else len(files[of].dtypes)
    total = None if seconds is None else seconds * evaluations
    return Planned(found, files, size, tensors, effort, evaluations, total, notes)


def _judged_part(data: Data, split: str) -> Part:
    if split == "test" and data.test is None:
        raise InputError(f"{data.name} has no held-out part; use --split train, or give data with x_test and y_test")
    return data.part(split)


def _repaired_path(task: Task, found: Found, end: State, train: Feed | None) -> Any:
    def path(a: State, b: State, at: float) -> State:
        return repaired(task, found, interpolate(a, b, at), [a, b], (1 - at, at), train)[0]

    return path


def _line(task: Task, judge: Any, feed: Feed, a: State, b: State, title: str, *, path: Any = interpolate) -> Line:
    """The barrier between two states, and a band about its curve."""
    seen: list[Evaluation] = []

    def judged(state: State) -> Evaluation:
        feed.title = f"{title}, point {len(seen) + 1} of {task.points}"
        seen.append(judge(state))
        return seen[-1]

    barrier: Barrier = weyl.barrier(judged, a, b, task.points, path=path, seed=task.source.seed)
    return Line(barrier, _band(seen, task.source.seed))


def _band(seen: Sequence[Evaluation], seed: int) -> tuple[tuple[float, float], ...] | None:
    """Ends of 95 % intervals of the mean losses: percentiles over resamples of the batches."""
    if not all(bool(np.isfinite(one.batches["loss"]).all()) for one in seen):
        return None
    means = resampled(seen, seed)
    if means is None:
        return None
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return tuple(zip(map(float, low), map(float, high), strict=True))


def _batches(feed: Feed) -> int:
    return sum(1 for _ in feed)
