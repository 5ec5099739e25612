"""Writing a file so that nobody loses one: refused where it exists, and never half written."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from weyl._text import one_line
from weyl.errors import InputError

__all__ = ["refuse_existing", "write_atomic"]

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
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
        # os.open and not tempfile: the mode of a new file is then what the umask says.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(descriptor, mode)
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
        _sync_folder(path.parent)
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
