"""What ``weyl align`` and ``weyl merge`` do between their arguments and their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import weyl
from weyl.cli._merge_checks import Preserved, compare_outputs, in_precision
from weyl.cli._merge_data import Feed, guarded
from weyl.cli._merge_files import Checkpoint, encoded
from weyl.cli._merge_steps import (
    CUT_OFF,
    TRAINING,
    State,
    Task,
    alignment_of,
    as_written,
    data_of,
    exit_code,
    head,
    matched,
    read,
    remarks,
    repaired,
    rounded,
    settings_of,
    together,
    training,
)
from weyl.cli._work import Found, Say
from weyl.data import Data
from weyl.matching import Match
from weyl.matching._frames import distance
from weyl.merging import evaluator
from weyl.merging._interpolate import check_weights

__all__ = ["Aligned", "Merged", "align_of", "merge_of"]


@dataclass(frozen=True, eq=False)
class Aligned:
    """What ``weyl align`` found; ``content`` is the file that it writes."""

    found: Found
    files: tuple[Checkpoint, ...]
    match: Match
    alignment: Mapping[str, Any]
    preserved: Preserved
    content: bytes
    warnings: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 if B is moved and computes what it did, 1 if it does not, 4 if that is open or the search was cut off."""
        return exit_code((self.preserved,), self.match.coordinate_optimal)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            **head(self.found, self.files),
            **self.match.to_dict(),
            **self.alignment,
            "certificate": dict(self.match.certificate),
            "preserved": self.preserved.to_dict(),
            "bytes": len(self.content),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, eq=False)
class Merged:
    """What ``weyl merge`` found; ``content`` is the file that it writes."""

    found: Found
    files: tuple[Checkpoint, ...]
    shares: tuple[float, ...]
    distances: tuple[tuple[float, float], ...]
    preserved: tuple[Preserved, ...]
    settled: bool
    repaired: Mapping[str, Any] | None
    judged: tuple[tuple[str, Mapping[str, float]], ...]
    content: bytes
    settings: Mapping[str, Any]
    warnings: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 if all is well, 1 if a network did not survive the alignment, 4 if that is open or a search was cut off."""
        return exit_code(self.preserved, self.settled)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            **head(self.found, self.files),
            "shares": list(self.shares),
            "distances": [{"before": before, "after": after} for before, after in self.distances],
            "preserved": [one.to_dict() for one in self.preserved],
            "coordinate_optimal": self.settled,
            "repaired": None if self.repaired is None else dict(self.repaired),
            "judged": [{"network": name, **values} for name, values in self.judged],
            "settings": dict(self.settings),
            "bytes": len(self.content),
            "warnings": list(self.warnings),
        }


def align_of(task: Task, say: Say) -> Aligned:
    """Match B with A, and make the file of B moved.

    Raises
    ------
    WeylError
        Whatever stands in the way, in one line.
    """
    found, files, notes = read(task, say)
    a, b = files
    match = matched(task, found, files, training(task, found, say), say)
    # In double precision, so that what is written is rounded once.
    moved = weyl.act(match.element, found.structure, in_precision(b.state, torch.float64))
    content = encoded(b, moved, f"weyl align {found.loaded.name}")
    say("checking that the function is the same")
    preserved = compare_outputs(found, b.state, match.element, as_written(moved, b), task.source.seed)
    told = alignment_of(found, a.state, b.state, moved, match)
    notes = (*notes, *([] if match.coordinate_optimal else [CUT_OFF]), *remarks(b.name, preserved))
    return Aligned(found, files, match, told, preserved, content, notes)


def merge_of(task: Task, say: Say) -> Merged:
    """Align files, merge them, and make the file of the result.

    Raises
    ------
    WeylError
        Whatever stands in the way, in one line.
    """
    shares = check_weights(task.weights, len(task.files))
    found, files, notes = read(task, say)
    data = data_of(task)
    train = training(task, found, say, data)
    states: list[State] = [file.state for file in files]
    preserved: list[Preserved] = []
    settled = True
    if task.align:
        elements, settled = together(task, found, files, train, say)
        say("checking that the functions are the same")
        states = [files[0].state]
        for file, element in zip(files[1:], elements, strict=True):
            states.append(weyl.act(element, found.structure, file.state))
            preserved.append(compare_outputs(found, file.state, element, None, task.source.seed))
            notes = (*notes, *remarks(file.name, preserved[-1]))
    if not settled:
        notes = (*notes, CUT_OFF)
    say("merging")
    merged: State = weyl.merge(found.structure, states, shares, task.method, align=False)
    merged, done = repaired(task, found, merged, states, shares, train)
    named = [(file.name, file.state) for file in files] + [("merged", rounded(merged, files[0]))]
    judged = _judged(found, data, named, say)
    if task.repair is None and any(name.endswith("running_var") for name in found.structure.axes):
        notes = (*notes, "running statistics of a merged network are no averages: give --repair bn and --data")
    if data is not None and data.test is None:
        notes = (*notes, f"{data.name} has no held-out part, so that the networks are not judged")
    distances = [
        (distance(found.structure, states[0], file.state), distance(found.structure, states[0], state))
        for file, state in zip(files[1:], states[1:], strict=True)
    ]
    content = encoded(files[0], merged, f"weyl merge {found.loaded.name}")
    settings = {**settings_of(task), "align": task.align, "method": task.method}
    return Merged(
        found, files, shares, tuple(distances), tuple(preserved), settled, done, judged, content, settings, notes
    )


def _judged(
    found: Found, data: Data | None, named: Sequence[tuple[str, State]], say: Say
) -> tuple[tuple[str, Mapping[str, float]], ...]:
    """Loss and accuracy of networks on held-out data, if there are any."""
    if data is None or data.test is None:
        return ()
    feed = Feed(data.test, found.loaded, say, TRAINING)
    judge = guarded(evaluator(found.loaded.module, feed), feed, found.loaded)
    results = []
    for title, state in named:
        feed.title = f"judging {title}"
        results.append((title, judge(state).means))
    return tuple(results)
