"""What the commands do between reading their arguments and showing a result; progress goes to stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.text import Text

from weyl.errors import InputError, NotFiniteError, UsageError
from weyl.report import Demo, Inspection, printable

if TYPE_CHECKING:
    import torch
    from rich.status import Status
    from torch import nn

    from weyl.models import LoadedModel
    from weyl.structure import Structure

__all__ = ["Found", "Say", "Source", "examine", "find", "show_off", "step"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """MODEL as the arguments of a command name it, and perhaps its trained weights.

    Parameters
    ----------
    model : str
        A MODEL argument.
    input_shape : tuple of int or None
        Shape of the example input.
    strict : bool
        Fail where an operator is not understood.
    seed : int
        Seed of initial weights, inputs and elements.
    weights, key : path and str, or None
        A file of weights, and which dict of several in it.
    """

    model: str
    input_shape: tuple[int, ...] | None = None
    strict: bool = False
    seed: int = 0
    weights: Path | None = None
    key: str | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """A model with its weights, and its structure.

    Parameters
    ----------
    loaded : LoadedModel
        The model; in float64 if its weights file has such numbers.
    structure : Structure
        Of the model.
    weights : str
        The file of the weights, to show; empty if there is none.
    dtypes : mapping of str to dtype
        Of what the file holds, by name.
    warnings : tuple of str
        What a reader must know.
    """

    loaded: LoadedModel
    structure: Structure
    weights: str
    dtypes: Mapping[str, torch.dtype]
    warnings: tuple[str, ...]

    @property
    def call(self) -> tuple[nn.Module, tuple[Any, ...], Mapping[str, Any]]:
        """The model and its example inputs."""
        return self.loaded.module, self.loaded.args, self.loaded.kwargs


def find(source: Source, say: Say) -> Found:
    """Load a model, find its structure, and load its weights.

    Parameters
    ----------
    source : Source
        What to load.
    say : callable
        Called with what is being done.

    Raises
    ------
    WeylError
        Whatever stands in the way, in one line.
    """
    import weyl
    from weyl.models import load_model

    if source.weights is None and source.key:
        raise UsageError("--key chooses a dict of a weights file; give --weights, too")
    # The path "." is what an empty name becomes.
    if source.weights is not None and str(source.weights).strip() in ("", "."):
        raise UsageError("--weights is empty or the current folder; name a file")
    say(f"loading {source.model}")
    loaded = load_model(source.model, source.input_shape, source.seed)
    _size(loaded.module, loaded.name)
    say(f"finding the structure of {source.model}")
    structure = weyl.discover(loaded.module, loaded.args, loaded.kwargs, strict=source.strict, output=loaded.output)
    warnings = [f"{o.op} in {o.module or 'the model'} was not understood ({o.reason})" for o in structure.opaque]
    if source.weights is None:
        return Found(loaded, structure, "", {}, tuple(warnings))
    say(f"loading {printable(source.weights)}")
    dtypes, notes = _fill(loaded, source.weights, source.key)
    return Found(loaded, structure, printable(source.weights), dtypes, (*warnings, *notes))


def examine(source: Source, *, trials: int, with_orbit: bool = False) -> Inspection:
    """Load a model, find its structure, and check it.

    Parameters
    ----------
    source : Source
        What to load.
    trials : int
        Random elements to check; 0 for no check.
    with_orbit : bool
        Whether to say what the group does to its weights.

    Raises
    ------
    WeylError
        Whatever stands in the way, in one line.
    """
    with step("loading torch") as say:
        import weyl
        from weyl.orbits import orbit

        found = find(source, say)
        structure, loaded = found.structure, found.loaded
        scalars, tensors = _size(loaded.module, loaded.name)
        proof = None
        if trials:
            say(f"checking {structure.group.symbol} on {trials} random elements")
            proof = weyl.verify(*found.call, structure=structure, trials=trials, seed=source.seed, output=loaded.output)
        around, warnings = None, list(found.warnings)
        if with_orbit:
            say("looking for what holds these weights fixed")
            try:
                around = orbit(structure, loaded.module.state_dict())
            except NotFiniteError as error:  # of these weights alone: the structure stands
                warnings.append(f"the orbit is not counted: {error}")
    if proof is not None and proof.verdict == "inconclusive":
        warnings.append(f"the check is inconclusive: {proof.reason}")
    return Inspection(loaded.name, structure, scalars, tensors, proof, tuple(warnings), around, found.weights)


def show_off(out: Path, *, quick: bool, seed: int, force: bool) -> tuple[Demo, Path]:
    """Run the demo and write its report; returns what was found and where it stands."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from weyl.demo import run
    from weyl.report import refuse_existing, render_demo, to_json, write_atomic

    page, numbers = out / "report.html", out / "report.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{printable(out)} cannot be made: {error.strerror}; give another --out") from error
    refuse_existing(page, numbers, force=force)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    said = ""
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("starting", total=1.0)

        def report(what: str, done: float) -> None:
            nonlocal said
            if not console.is_terminal and what != said:
                # A log has no bar: a line for each stage instead.
                click.echo(f"weyl: {printable(what)}", err=True)
            said = what
            progress.update(bar, description=f"{what:<42}", completed=done)

        found = run(quick=quick, seed=seed, report=report)
    write_atomic(page, render_demo(found, numbers=numbers.name), force=force)
    write_atomic(numbers, to_json(found.to_dict()) + "\n", force=force)
    return found, page


@contextlib.contextmanager
def step(first: str) -> Iterator[_Say]:
    """A spinner on stderr, where that is a terminal; what foreign code prints goes to stderr, too."""
    console = Console(stderr=True)
    with console.status(Text(first)) as status, contextlib.redirect_stdout(sys.stderr):
        yield _Say(status)


class _Say:
    """Change the text of a spinner."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def __call__(self, text: str) -> None:
        self._status.update(Text(printable(text)))


def _size(module: nn.Module, name: str) -> tuple[int, int]:
    """Number of scalars and of parameter tensors; neither may be zero or unknown."""
    from torch.nn.parameter import is_lazy

    parameters = list(module.parameters())
    if not parameters:
        raise InputError(f"{name} has no parameters, so there is nothing to move; expected a model with weights")
    if any(is_lazy(parameter) for parameter in parameters):
        raise InputError(f"{name} has lazy layers whose sizes are not known yet; run it on an input first")
    return sum(parameter.numel() for parameter in parameters), len(parameters)


def _fill(loaded: LoadedModel, path: Path, key: str | None) -> tuple[dict[str, torch.dtype], list[str]]:
    """Load a file of weights into a model; returns the names and types of the file, and what must be known."""
    import torch

    from weyl.checkpoints import load_into, read_weights

    read = read_weights(path, key)
    module, name = loaded.module, printable(path)
    if any(tensor.device.type == "meta" for tensor in module.state_dict().values()):
        raise InputError(f"{loaded.name} is on the meta device and cannot hold weights; build it for real")
    if any(tensor.dtype is torch.float64 for tensor in read.tensors.values()):
        module.double()  # a narrower model would round what is compared bit for bit
    notes = [f"{name}: {note}" for note in read.notes]
    notes += load_into(module, read.tensors, name)
    return {title: tensor.dtype for title, tensor in read.tensors.items()}, notes
