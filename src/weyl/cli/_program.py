"""How the program ends: one line and an exit code, whatever happened."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from weyl.errors import WeylError
from weyl.report import printable

__all__ = ["Program"]

USAGE, LIMIT, BUG, INTERRUPTED = 2, 4, 70, 130


class Program(click.Group):
    """A command group in which every error is one line on stderr.

    Exit codes: 0 yes or done, 1 no, 2 usage, 3 bad or unsafe input, 4 inconclusive or over a limit, 130 interrupted;
    70 (with a traceback) for a bug in weyl, so that a crash is never taken for an answer.
    """

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        """Run the program and exit, as `click.Command.main` does."""
        run: Callable[..., Any] = super().main
        if not standalone_mode:
            return run(*args, standalone_mode=False, **kwargs)
        try:
            sys.exit(run(*args, standalone_mode=False, **kwargs) or 0)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(USAGE)
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "weyl"
            _say(f"{command}: error: {_sentence(error.format_message())}; see {command} --help")
            sys.exit(error.exit_code)
        except WeylError as error:
            _say(f"weyl: error: {error}")
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            _say("weyl: interrupted")
            sys.exit(INTERRUPTED)
        except MemoryError:
            _say("weyl: error: out of memory; use a smaller model, or its meta device form (--no-verify)")
            sys.exit(LIMIT)
        except Exception as error:
            traceback.print_exc()
            _say(f"weyl: this is a bug in weyl: {type(error).__name__}: {error}")
            sys.exit(BUG)


def _say(message: str) -> None:
    """One line on stderr, nothing in it that a terminal would obey."""
    click.echo(printable(" ".join(message.split())), err=True)


def _sentence(message: str) -> str:
    return message.rstrip(".")
