"""What ``weyl compare`` and ``weyl canonicalize`` do between their arguments and their results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import weyl
from weyl._memory import tensor_identity
from weyl._text import one_line
from weyl._version import __version__
from weyl.canonical import Form
from weyl.checkpoints import TensorInfo, read_weights
from weyl.cli._identity_files import known_names, misfit, refuse_empty, sha256_of, ties_of, with_ties
from weyl.cli._merge_checks import Preserved, compare_outputs, cosine
from weyl.cli._merge_files import Checkpoint, encoded, read_all
from weyl.cli._merge_steps import exit_code, remarks
from weyl.cli._work import Found, Say, Source, find
from weyl.identity import shared_part
from weyl.report import printable
from weyl.report._identity import Compared

__all__ = ["Canonical", "canonical_of", "compare_of"]


def compare_of(
    source: Source, files: tuple[Path, Path], key: str | None, say: Say, *, alpha: float, align: bool
) -> Compared:
    """Compare two files of weights, or what they share where they do not fit the model.

    Raises
    ------
    WeylError
        Whatever stands in the way, in one line.
    """
    refuse_empty(files)
    found = find(source, say)
    module, ties = found.loaded.module, ties_of(found.loaded.module)
    notes, fits = list(found.warnings), True
    states: list[dict[str, Tensor]] = []
    hashes: list[str] = []
    for file in files:
        name = printable(file)
        say(f"loading {name}")
        hashes.append(sha256_of(file))
        read = read_weights(file, key)
        names, renamed = known_names(module, read.tensors)
        state = with_ties({own: read.tensors[theirs] for own, theirs in names.items()}, ties)
        problem = misfit(module, {title: TensorInfo.of(tensor) for title, tensor in state.items()})
        notes += [f"{name}: {note}" for note in (*read.notes, renamed) if note]
        if problem:
            notes.append(f"{name} does not fit the model as a whole, so that a part of it is compared: {problem}")
        fits = fits and not problem
        states.append(state)
    if fits and any(tensor.is_meta for tensor in module.state_dict().values()):
        notes.append("the model is on the meta device, so that its outputs are not compared")
        fits = False
    a, b = states
    judge: dict[str, Any] = {}
    if fits:
        judge = dict(zip(("model", "args", "kwargs"), found.call, strict=True), output=found.loaded.output)
    result = weyl.compare(found.structure, a, b, alpha=alpha, align=align, seed=source.seed, progress=say, **judge)
    shared = shared_part(found.structure, a, b)
    angle = cosine(shared.structure, shared.a, shared.b)
    shown = printable(files[0]), printable(files[1])
    settings = {"model": source.model, "a": shown[0], "b": shown[1], "key": key, "alpha": alpha, "align": align}
    settings |= {"seed": source.seed, "weyl": __version__, "torch": torch.__version__}
    return Compared(
        found.loaded.name,
        *shown,
        found.structure.group.symbol,
        result,
        (hashes[0], hashes[1]),
        angle if math.isfinite(angle) else None,
        tuple(notes),
        settings,
    )


@dataclass(frozen=True, eq=False)
class Canonical:
    """What ``weyl canonicalize`` found; ``content`` is the file that it writes."""

    found: Found
    file: Checkpoint
    form: Form
    preserved: Preserved
    content: bytes
    warnings: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 if the form computes what the file does, 1 if it does not, 4 if that is open."""
        return exit_code((self.preserved,), True)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "weyl": __version__,
            "model": self.found.loaded.name,
            "file": self.file.name,
            "group": self.found.structure.group.symbol,
            **self.form.to_dict(),
            "preserved": self.preserved.to_dict(),
            "bytes": len(self.content),
            "warnings": list(self.warnings),
        }


def canonical_of(source: Source, file: Path, key: str | None, kinds: tuple[str, ...] | None, say: Say) -> Canonical:
    """Bring a file of weights to its normal form, and make the file of it.

    Raises
    ------
    WeylError
        Whatever stands in the way, in one line.
    """
    found, (checkpoint,), notes = read_all(source, (file,), key, say)
    say("looking for the normal form")
    form = weyl.canonicalize(found.structure, _as_in_file(checkpoint), kinds=kinds)
    content = encoded(checkpoint, form.state, f"weyl canonicalize {found.loaded.name}")
    say("checking that the function is the same")
    preserved = compare_outputs(found, checkpoint.state, form.element, form.state, source.seed)
    gauges = ", ".join(dict.fromkeys(one_line(gauge, 60) for gauge, _ in form.undecided))
    if gauges:
        notes = (*notes, f"no basis is singled out in {gauges}: there, copies may have other normal forms")
    return Canonical(found, checkpoint, form, preserved, content, (*notes, *remarks(checkpoint.name, preserved)))


def _as_in_file(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    """The state in the types of its file; names that share a tensor share one again."""
    done: dict[object, Tensor] = {}
    state = {}
    for name, tensor in checkpoint.state.items():
        dtype = checkpoint.dtypes.get(name, tensor.dtype)
        state[name] = done.setdefault((tensor_identity(tensor), dtype), tensor.to(dtype))
    return state
