"""Types of arguments, and the options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = [
    "SIZE",
    "CountCommand",
    "InputShape",
    "Sizes",
    "Whole",
    "force_option",
    "json_option",
    "model_options",
    "output_path",
    "trials_option",
    "weights_options",
]


class Whole(click.IntRange):
    """An integer in a range, and a message that says so."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read ``"10"``."""
        try:
            int(value)
        except (ValueError, TypeError, OverflowError):
            self.fail(f"an integer is expected, got {value!r}", param, ctx)
        return super().convert(value, param, ctx)


Command = TypeVar("Command", bound=Callable[..., Any])
# Logarithms of factorials are exact to 15 digits up to here, and no layer is wider.
SIZE = Whole(1, 10**9)


class Sizes(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """Positive integers, separated by commas or blanks."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Read ``"128,64"``."""
        if isinstance(value, tuple):
            return value
        return tuple(SIZE.convert(part, param, ctx) for part in value.replace(" ", ",").split(","))


class InputShape(Sizes):
    """The shape of a tensor, batch included."""

    name = "shape"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Read ``"1,3,224,224"``."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"positive integers such as 1,3,224,224 are expected, got {value!r}", param, ctx)


class CountCommand(click.Command):
    """A command in which ``--dense 128 64`` takes all integers that follow it, which click does not know."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the integers after ``--dense`` into one argument, then parse as usual; ``5,6`` stands alone."""
        joined: list[str] = []
        for arg in args:
            started = joined[-2:-1] == ["--dense"] and joined[-1].replace(" ", "").isdecimal()
            if started and arg.isdecimal():
                joined[-1] += f" {arg}"
            else:
                joined.append(arg)
        return super().parse_args(ctx, joined)


def model_options(command: Command) -> Command:
    """MODEL and what all commands on a model take."""
    decorators = [
        click.argument("model", metavar="MODEL"),
        click.option(
            "--input-shape",
            type=InputShape(),
            metavar="1,3,224,224",
            help="Shape of the example input, batch included.",
        ),
        click.option("--strict", is_flag=True, help="Fail where an operator is not understood, instead of pinning it."),
        click.option(
            "--seed",
            type=Whole(0, 2**31 - 1),
            default=0,
            show_default=True,
            help="Seed of initial weights, inputs and elements.",
        ),
        json_option,
    ]
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def trials_option(command: Command) -> Command:
    """Add ``--trials``."""
    decorator = click.option(
        "--trials",
        type=Whole(1, 1000),
        default=3,
        show_default=True,
        help="Random elements to check.",
    )
    return decorator(command)


def weights_options(command: Command) -> Command:
    """Add ``--weights`` and ``--key``."""
    decorators = [
        click.option(
            "--weights",
            type=click.Path(path_type=Path, readable=False),
            metavar="FILE",
            help="Trained weights of MODEL: .safetensors, .pt",
        ),
        click.option("--key", metavar="NAME", help="Which dict of several in the weights file."),
    ]
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def json_option(command: Command) -> Command:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")(command)


def force_option(command: Command) -> Command:
    """Add ``--force``."""
    return click.option("--force", is_flag=True, help="Replace output files that exist.")(command)


def output_path(*suffixes: str) -> Callable[[click.Context, click.Parameter, Path | None], Path | None]:
    """Make a callback that requires one of a few endings of an output file."""

    def check(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
        if value is not None and value.suffix.lower() not in suffixes:
            raise click.BadParameter(f"a name ending in {' or '.join(suffixes)} is expected", ctx, param)
        return value

    return check
