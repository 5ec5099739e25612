"""What the commands do between reading their arguments and showing a result; progress goes to stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.text import Text

from weyl.errors import InputError
from weyl.report import Demo, Inspection, printable

if TYPE_CHECKING:
    from rich.status import Status
    from torch import nn

__all__ = ["examine", "show_off", "step"]


def examine(spec: str, input_shape: tuple[int, ...] | None, *, strict: bool, trials: int, seed: int) -> Inspection:
    """Load a model, find its structure, and check it.

    Parameters
    ----------
    spec : str
        A MODEL argument.
    input_shape : tuple of int or None
        Shape of the example input.
    strict : bool
        Fail where an operator is not understood.
    trials : int
        Random elements to check; 0 for no check.
    seed : int
        Seed of weights, inputs and elements.

    Raises
    ------
    WeylError
        Whatever stands in the way, in one line.
    """
    with step("loading torch") as say:
        import weyl
        from weyl.models import load_model

        say(f"loading {spec}")
        loaded = load_model(spec, input_shape, seed)
        scalars, tensors = _size(loaded.module, loaded.name)
        say(f"finding the structure of {spec}")
        what = (loaded.module, loaded.args, loaded.kwargs)
        structure = weyl.discover(*what, strict=strict, output=loaded.output)
        proof = None
        if trials:
            say(f"checking {structure.group.symbol} on {trials} random elements")
            proof = weyl.verify(*what, structure=structure, trials=trials, seed=seed, output=loaded.output)
    warnings = [f"{o.op} in {o.module or 'the model'} was not understood ({o.reason})" for o in structure.opaque]
    if proof is not None and proof.verdict == "inconclusive":
        warnings.append(f"the check is inconclusive: {proof.reason}")
    return Inspection(loaded.name, structure, scalars, tensors, proof, tuple(warnings))


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
