"""How the program ends: one line and an exit code, whatever happened."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ExtensionFileLoader, ModuleSpec, SourceFileLoader
from types import FrameType, ModuleType
from typing import Any, NoReturn

import click

from weyl._text import one_line
from weyl.errors import UsageError, WeylError

__all__ = ["Program", "leave_broken_pipe"]

USAGE, LIMIT, BUG, INTERRUPTED = 2, 4, 70, 130
BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell reports it
LONGEST = 10_000  # characters of a message
# What torch and numpy say where memory is refused, with the size.
ALLOCATION = re.compile(r"(?:tried to|[Uu]nable to) allocate ([\d.,]+ ?(?:bytes|[KMGTPE]iB))")
# Their extension modules end or hang the process when an exception strikes while they are set up.
HEAVY = frozenset(
    (
        "weyl",
        "numpy",
        "torch",
        "scipy",
        "sympy",
        "matplotlib",
        "PIL",
        "pandas",
        "sklearn",
        "safetensors",
        "transformers",
    )
)


class Program(click.Group):
    """A command group in which every error is one line on stderr.

    Exit codes: 0 yes or done, 1 no, 2 usage, 3 bad or unsafe input, 4 inconclusive or over a limit, 130 interrupted,
    141 where the reader of a pipe has gone; 70 (with a traceback) for a bug in weyl, so that a crash is never taken
    for an answer.
    """

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        """Run the program and exit, as `click.Command.main` does."""
        run: Callable[..., Any] = super().main
        if not standalone_mode:
            return run(*args, standalone_mode=False, **kwargs)
        if sys.stdout is None:
            _say("weyl: error: cannot write: standard output is closed; open it, or send it to /dev/null")
            sys.exit(LIMIT)
        interrupts = _Interrupts()
        try:
            with interrupts.watched():
                sys.exit(run(*args, standalone_mode=False, **kwargs) or 0)
        except (click.Abort, KeyboardInterrupt):
            _interrupted()
        except Exception as error:
            if interrupts.seen:  # a library has made another error of it
                _interrupted()
            sys.exit(_told(error))

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the arguments; ``--help`` is written here, perhaps to a closed pipe."""
        with _pipe_watched():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a wrong argument that the library finds is told as click tells those that it finds."""
        try:
            with _pipe_watched():
                return super().invoke(ctx)
        except UsageError as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            inner = ctx if command is None else click.Context(command, info_name=command.name, parent=ctx)
            raise click.UsageError(str(error), inner) from error


class _Interrupts:
    """Ctrl-C while the program runs: at once, but after the import where a heavy import is under way."""

    def __init__(self) -> None:
        self.seen = False
        self._held = 0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Take Ctrl-C over, if it is Python's to take, and give it back."""
        ours = threading.current_thread() is threading.main_thread()
        if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        finder = _HeavyImports(self)
        signal.signal(signal.SIGINT, self._strike)
        sys.meta_path.insert(0, finder)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let no Ctrl-C strike inside; one that came strikes at the end."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self.seen and not self._held:
            raise KeyboardInterrupt

    @property
    def holding(self) -> bool:
        """Whether a Ctrl-C would be held now."""
        return self._held > 0

    def _strike(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        if not self._held:
            raise KeyboardInterrupt


class _HeavyImports(MetaPathFinder):
    """Finds what the other finders find, and holds interrupts while the outermost heavy module is set up."""

    def __init__(self, interrupts: _Interrupts) -> None:
        self._interrupts = interrupts

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a heavy module, unless its import is part of another."""
        if self._interrupts.holding or fullname.partition(".")[0] not in HEAVY:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((found for finder in others if (found := finder.find_spec(fullname, path, target))), None)
        # A loader of these types belongs to one module only, so that nothing else is changed.
        if spec is not None and isinstance(spec.loader, (SourceFileLoader, ExtensionFileLoader)):
            self._hold(spec.loader)
        return spec

    def _hold(self, loader: SourceFileLoader | ExtensionFileLoader) -> None:
        def exec_module(module: ModuleType) -> None:
            del loader.__dict__["exec_module"]
            with self._interrupts.held():
                loader.exec_module(module)

        loader.__dict__["exec_module"] = exec_module


def leave_broken_pipe() -> NoReturn:
    """Exit as a program that a closed pipe ends."""
    _discard_output()
    raise SystemExit(BROKEN_PIPE)


def _discard_output() -> None:
    """Let what is not written yet go nowhere: Python would try once more when it ends, and complain."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no descriptor (a test), or no stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _pipe_watched() -> Iterator[None]:
    """Leave at a closed pipe before click does, for which that is exit code 1: "no"."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        leave_broken_pipe()


def _no_room(error: OSError) -> bool:
    """Whether what failed is writing, for want of room or of a file that can be written."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF)


def _told(error: Exception) -> int:
    """Say in one line what went wrong; returns the exit code."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return USAGE
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "weyl"
        _say(f"{command}: error: {error.format_message().rstrip('.')}; see {command} --help")
        return error.exit_code
    if isinstance(error, MemoryError) or ALLOCATION.search(str(error)):
        found = ALLOCATION.search(str(error))
        asked = f" ({found[1]} were asked for)" if found else ""
        _say(f"weyl: error: out of memory{asked}; use a smaller model, or its meta device form (--no-verify)")
        return LIMIT
    if isinstance(error, WeylError):
        _say(f"weyl: error: {error}")
        return error.exit_code
    if isinstance(error, OSError) and _no_room(error):
        _discard_output()
        _say(f"weyl: error: cannot write: {error.strerror}; make room, or send the output elsewhere")
        return LIMIT
    traceback.print_exception(error)
    _say(f"weyl: this is a bug in weyl: {type(error).__name__}: {error}")
    return BUG


def _interrupted() -> None:
    _say("weyl: interrupted")
    sys.exit(INTERRUPTED)


def _say(message: str) -> None:
    """One line on stderr, nothing in it that a terminal would obey."""
    with contextlib.suppress(OSError):  # the exit code says it, too
        click.echo(one_line(message, LONGEST), err=True)
