"""Writing a file so that nobody loses one: refused where it exists, and never half written."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from weyl._text import one_line
from weyl.errors import InputError

__all__ = ["NewFile", "new_file", "refuse_existing", "write_atomic"]

LONGEST = 1000  # characters of a path in a message


def refuse_existing(*paths: Path, force: bool = False) -> None:
    """Refuse output paths that cannot or may not be written; called before any work is done.

    Parameters
    ----------
    *paths : Path
        Files that are going to be written.
    force : bool
        Whether a regular file that exists may be replaced.

    Raises
    ------
    InputError
        If a file exists and ``force`` is not given, if it is not a regular file, or if its folder does not exist.
    """
    for path in paths:
        shown = one_line(path, LONGEST)
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise InputError(
                    f"{shown}: the folder {one_line(path.parent, LONGEST)} does not exist; create it"
                ) from None
            continue
        except OSError as error:
            raise InputError(f"{shown}: {one_line(error.strerror)}; give another path") from None
        if not stat.S_ISREG(mode):
            raise InputError(f"{shown} is not a regular file; give another path")
        if not force:
            raise InputError(f"{shown} exists; give another path, or --force to replace it")


def write_atomic(path: Path, content: str | bytes, *, force: bool = False) -> None:
    """Write a file in one step: whoever looks sees the old file or the whole new one.

    Parameters
    ----------
    path : Path
        Where to. An old file keeps its mode.
    content : str or bytes
        What to write; text as UTF-8.
    force : bool
        Whether a file that exists may be replaced.

    Raises
    ------
    InputError
        If the path is refused (see `refuse_existing`) or the disk is.
    """
    refuse_existing(path, force=force)
    with new_file(path) as new:
        new.stream.write(content.encode() if isinstance(content, str) else content)
        new.put(path)


class NewFile:
    """A file that has no name of its own yet; `new_file` makes it.

    Attributes
    ----------
    stream : binary file
        To be written to.
    """

    def __init__(self, temporary: Path, stream: BinaryIO) -> None:
        self.stream = stream
        self._temporary = temporary

    def finish(self) -> None:
        """Have the disk keep what was written."""
        if not self.stream.closed:
            self.stream.flush()
            os.fsync(self.stream.fileno())
            self.stream.close()

    def put(self, path: Path) -> None:
        """Give it its name, in one step, in the folder that it was made in; an old file's mode is kept.

        Parameters
        ----------
        path : Path
            Its name.
        """
        if path.exists():
            os.chmod(self._temporary, stat.S_IMODE(path.stat().st_mode))
        self.finish()
        os.replace(self._temporary, path)
        _sync_folder(path.parent)


@contextmanager
def new_file(path: Path) -> Iterator[NewFile]:
    """Make a file beside a path, to be written and then put there; what was not put is removed.

    Parameters
    ----------
    path : Path
        Where it is going to be, and what a message names.

    Raises
    ------
    InputError
        If the disk is full, or refuses for another reason.
    """
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        # os.open and not tempfile: the mode of a new file is then what the umask says.
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        stream = os.fdopen(descriptor, "w+b")
        try:
            yield NewFile(temporary, stream)
        finally:
            with suppress(OSError):  # of a full disk, closing fails once more
                stream.close()
    except OSError as error:
        raise InputError(f"{one_line(path, LONGEST)} cannot be written: {one_line(error.strerror)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
