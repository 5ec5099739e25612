"""``weyl align``, ``weyl merge`` and ``weyl barrier``: several checkpoints of one network."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from weyl.cli._outputs import refuse_force, refuse_report, write_report
from weyl.cli._params import Whole, force_option, model_options, output_path

__all__ = ["align", "barrier", "merge"]

INCONCLUSIVE = 4
KINDS = ("permute", "sign", "scale", "mix", "translate")
COSTS = ("weights", "activations", "both")
REPAIRS = ("bn", "repair")
METHODS = ("average", "slerp")
FILE = click.Path(path_type=Path, readable=False)
Command = TypeVar("Command", bound=Callable[..., Any])


class Kinds(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """Kinds of moves, separated by commas."""

    name = "kinds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Read ``"permute,sign"``."""
        if isinstance(value, tuple):
            return value
        names = tuple(part.strip() for part in value.split(","))
        unknown = next((name for name in names if name not in KINDS), None)
        if unknown is not None:
            self.fail(f"{unknown!r} is none of {', '.join(KINDS)}", param, ctx)
        return names


class Shares(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """Numbers, separated by commas."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Read ``"0.25,0.75"``."""
        if isinstance(value, tuple):
            return value
        try:
            shares = tuple(float(part) for part in value.split(","))
        except ValueError:
            shares = (math.nan,)
        if not all(map(math.isfinite, shares)):
            self.fail(f"numbers such as 0.25,0.75 are expected, got {value!r}", param, ctx)
        return shares


def matching_options(command: Command) -> Command:
    """How two files are read and matched."""
    decorators = [
        click.option(
            "--costs",
            type=click.Choice(COSTS),
            default="weights",
            show_default=True,
            help="What units are matched by; activations are those on the training part of --data.",
        ),
        click.option(
            "--kinds",
            type=Kinds(),
            metavar="KIND,...",
            help=f"Moves that may be used, all of them unless given: {', '.join(KINDS)}.",
        ),
        click.option(
            "--restarts",
            type=Whole(1, 1000),
            default=1,
            show_default=True,
            help="Searches, all but the first from random places; the best is taken.",
        ),
        click.option("--key", metavar="NAME", help="Which dict of several in the files."),
        click.option("--limit", type=Whole(1), metavar="N", help="At most so many inputs of each part of DATA."),
    ]
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def output_options(what: str) -> Callable[[Command], Command]:
    """Where weights are written."""

    def add(command: Command) -> Command:
        decorators = [
            click.option(
                "-o",
                "--out",
                type=FILE,
                callback=output_path(".safetensors"),
                metavar="OUT.safetensors",
                help=f"Where {what} are written.",
            ),
            click.option("--dry-run", is_flag=True, help="Read and check everything; say what it would take."),
            force_option,
        ]
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return add


def data_option(help: str, required: bool = False) -> Callable[[Command], Command]:
    """Add ``--data``."""
    return click.option("--data", required=required, metavar="DATA", help=f"{help}; as in weyl collapse.")


repair_option = click.option(
    "--repair",
    type=click.Choice(REPAIRS),
    help="On training data: bn estimates batch normalisations anew; repair brings activations of all layers back, too.",
)


@click.command()
@model_options
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@matching_options
@data_option("For --costs")
@output_options("the weights of B, moved,")
def align(a: Path, b: Path, as_json: bool, out: Path | None, dry_run: bool, force: bool, **options: Any) -> int:
    """Move the weights in B next to those in A without changing what B computes.

    A and B are .safetensors or .pt files of weights of MODEL. Of all weights that are equivalent to B, those nearest
    to A are sought: exactly if B is A in other coordinates, and otherwise up to a place where no space of units can be
    moved for the better while the others stay. What is written computes what B computes, which is checked on MODEL,
    and has the names and types of B's tensors and its metadata.

    Exits with 1, and writes nothing, if the moved weights compute something else, and with 4 if that cannot be
    decided or the search was cut off.

    \b
    Examples:
      weyl align "mlp?widths=784-512-10" a.pt b.pt -o b_aligned.safetensors
      weyl align net.py:make a.pt b.pt -o out.safetensors --costs activations --data digits
    """  # noqa: D301 (click's mark for lines to keep)
    from weyl.cli import _show_merging as show
    from weyl.cli._work import step

    _require_out(out, dry_run)
    refuse_force(force, out, "-o")
    _require_data(options, costs=options["costs"])
    if options["data"] is not None and options["costs"] == "weights":
        raise click.UsageError("--data is for --costs activations or both; give one of them, too")
    with step("loading torch") as say:
        from weyl.cli._barrier_work import estimate_of
        from weyl.cli._merge_files import refuse_output, write
        from weyl.cli._merge_steps import Task
        from weyl.cli._merge_work import align_of

        task = Task.of(files=(a, b), **options)
        if out is not None:
            refuse_output(out, task.files, force=force)
        if dry_run:
            planned = estimate_of(task, say, of=1)
        else:
            found = align_of(task, say)
            if out is not None and found.exit_code != 1:
                write(out, found.content, inputs=task.files, force=force)
    if dry_run:
        show.planned(planned, out, as_json=as_json)
        return 0
    _say_written(out if found.exit_code != 1 else None)
    show.aligned(found, as_json=as_json)
    return found.exit_code


@click.command()
@model_options
@click.argument("files", type=FILE, nargs=-1, required=True, metavar="A B [C ...]")
@click.option("--weights", type=Shares(), metavar="0.5,0.5", help="Shares of the files, of sum 1; equal ones.")
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="average",
    show_default=True,
    help="The weighted mean; or slerp, for two files: directions on an arc, norms on a line.",
)
@repair_option
@data_option("For --repair and --costs, and to judge all networks on its held-out part")
@click.option("--align/--no-align", default=True, show_default=True, help="Move the others next to A first.")
@matching_options
@output_options("the merged weights")
def merge(files: tuple[Path, ...], as_json: bool, out: Path | None, dry_run: bool, force: bool, **options: Any) -> int:
    """Merge the weights in A, B, ... into one network.

    Networks that were trained apart are in different coordinates: the others are moved next to A first, two by
    matching, more by matching each with all others until they fit in one frame. The result has the names and types of
    A's tensors and its metadata. The mean of running statistics is not that of the mean network: give --repair bn where
    there is batch normalisation.

    Exits with 1, and writes nothing, if a network computes something else once it is moved, and with 4 if that cannot
    be decided or the search was cut off.

    \b
    Examples:
      weyl merge "mlp?widths=784-512-10" a.pt b.pt -o merged.safetensors
      weyl merge net.py:make a.pt b.pt c.pt -o merged.safetensors --repair repair --data photos
    """  # noqa: D301 (click's mark for lines to keep)
    from weyl.cli import _show_merging as show
    from weyl.cli._work import step

    _require_out(out, dry_run)
    refuse_force(force, out, "-o")
    _check_merge(files, options)
    _require_data(options, costs=options["costs"], repair=options["repair"])
    with step("loading torch") as say:
        from weyl.cli._barrier_work import estimate_of
        from weyl.cli._merge_files import refuse_output, write
        from weyl.cli._merge_steps import Task
        from weyl.cli._merge_work import merge_of

        task = Task.of(files=files, **options)
        if out is not None:
            refuse_output(out, files, force=force)
        if dry_run:
            planned = estimate_of(task, say, of=0)
        else:
            found = merge_of(task, say)
            if out is not None and found.exit_code != 1:
                write(out, found.content, inputs=files, force=force)
    if dry_run:
        show.planned(planned, out, as_json=as_json)
        return 0
    _say_written(out if found.exit_code != 1 else None)
    show.merged(found, as_json=as_json)
    return found.exit_code


@click.command()
@model_options
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@data_option("What to judge on: its held-out part; its training part for --repair and --costs", required=True)
@click.option("--points", type=Whole(3, 1001), default=11, show_default=True, help="Points of the line, ends included.")
@click.option("--align/--no-align", default=None, help="One of both alone; without either, A to B before and after.")
@repair_option
@click.option(
    "--split",
    type=click.Choice(["test", "train"]),
    default="test",
    show_default=True,
    help="Which part of DATA to judge on.",
)
@click.option(
    "--batch-size",
    type=Whole(1),
    default=64,
    show_default=True,
    help="Inputs at a time; intervals are over these batches.",
)
@matching_options
@click.option(
    "--report",
    type=FILE,
    callback=output_path(".html", ".htm"),
    metavar="OUT.html",
    help="Write an HTML report, and its numbers as JSON beside it.",
)
@click.option("--dry-run", is_flag=True, help="Read and check everything; say what it would take.")
@force_option
def barrier(a: Path, b: Path, as_json: bool, report: Path | None, dry_run: bool, force: bool, **options: Any) -> int:
    """Measure the barrier between the weights in A and those in B.

    The loss along the straight line from A to B, and its height above the line between its ends: as they are, and
    after B was moved next to A by a symmetry of MODEL. What is left of the barrier then is no matter of coordinates, or
    was not found. With --repair, every point of the line is repaired, too.

    Exits with 4 if a loss is not a number, and with 1 if B, moved, computes something else.

    \b
    Examples:
      weyl barrier "mlp?widths=784-512-10" a.pt b.pt --data mnist
      weyl barrier net.py:make a.pt b.pt --data photos --repair bn --report barrier.html
    """  # noqa: D301 (click's mark for lines to keep)
    from weyl.cli import _show_merging as show
    from weyl.cli._work import step

    refuse_force(force, report, "--report")
    _check_unaligned(options, options["align"] is False)
    if report is not None:
        for file in (a, b):
            refuse_report(report, options["model"], options["data"], weights=file, force=force)
    with step("loading torch") as say:
        from weyl.cli._barrier_work import barrier_of, estimate_of
        from weyl.cli._merge_steps import Task

        task = Task.of(files=(a, b), **options)
        if dry_run:
            planned = estimate_of(task, say, of=None)
        else:
            found = barrier_of(task, say)
    if dry_run:
        show.planned(planned, report, as_json=as_json)
        return 0
    if report is not None:
        from weyl.report import to_json
        from weyl.report._barrier import render_barrier

        page = render_barrier(found, numbers=report.with_suffix(".json").name)
        write_report(report, page, to_json(found.to_dict()), force=force)
    show.barriers(found, as_json=as_json)
    if found.alignment is not None and found.alignment["preserved"]["verdict"] == "fails":
        return 1
    return 0 if found.finite else INCONCLUSIVE


def _require_out(out: Path | None, dry_run: bool) -> None:
    if out is None and not dry_run:
        raise click.UsageError("-o names the file to write; give it, or --dry-run")


def _require_data(options: dict[str, Any], *, costs: str, repair: str | None = None) -> None:
    if options["data"] is None and options["limit"] is not None:
        raise click.UsageError("--limit is a number of inputs of --data; give --data, too")
    if options["data"] is None and (costs != "weights" or repair is not None):
        option = f"--repair {repair}" if repair is not None else f"--costs {costs}"
        raise click.UsageError(f"{option} runs the network on training data; give --data, too")


def _check_merge(files: tuple[Path, ...], options: dict[str, Any]) -> None:
    """Refuse what cannot be merged so, and options that would do nothing."""
    if len(files) < 2:
        raise click.UsageError(f"a merge needs two files or more, got {len(files)}")
    if options["method"] == "slerp" and len(files) != 2:
        raise click.UsageError(f"--method slerp takes two files, got {len(files)}; use --method average")
    if options["restarts"] > 1 and len(files) > 2:
        raise click.UsageError("--restarts is for two files; more are matched with each other until nothing moves")
    _check_unaligned(options, not options["align"])


def _check_unaligned(options: dict[str, Any], unaligned: bool) -> None:
    given = {"--costs": options["costs"] != "weights", "--kinds": options["kinds"] is not None}
    given["--restarts"] = options["restarts"] > 1
    vain = next((name for name, there in given.items() if there), None)
    if unaligned and vain is not None:
        raise click.UsageError(f"{vain} says how to align; leave it or --no-align out")


def _say_written(out: Path | None) -> None:
    if out is not None:
        click.echo(f"weyl: wrote {click.format_filename(out)}", err=True)
