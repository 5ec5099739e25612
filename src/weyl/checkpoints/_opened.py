"""An open file that is read at places, and that must not change meanwhile."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from weyl._text import one_line
from weyl.errors import InputError

__all__ = ["OpenFile"]

MOST_AT_ONCE = 2**30  # bytes; the system reads no more than 2 GiB in one call


class OpenFile:
    """A regular file, opened for reading at places; never mapped into memory.

    A mapped file that is cut short while it is read kills the process; here that is an error.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    InputError
        If it is no regular file or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = one_line(path)
        try:
            # What was looked at before may have become a pipe since, and must not make us wait.
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.name}: {one_line(getattr(error, 'strerror', None) or error)}") from None
        self._first = os.fstat(self.descriptor)
        if not stat.S_ISREG(self._first.st_mode):
            self.close()
            raise InputError(f"{self.name} is not a regular file and was not read")

    @property
    def size(self) -> int:
        """Bytes of the file when it was opened."""
        return self._first.st_size

    def read(self, begin: int, count: int) -> bytes:
        """Bytes at a place, as many as are asked for."""
        buffer = bytearray(count)
        self.read_into(memoryview(buffer), begin)
        return bytes(buffer)

    def read_into(self, buffer: memoryview, begin: int) -> None:
        """Fill a buffer with what stands at a place.

        Raises
        ------
        InputError
            If the file ends before, or changed since it was opened.
        """
        filled = 0
        try:
            while filled < len(buffer):
                count = os.preadv(self.descriptor, [buffer[filled : filled + MOST_AT_ONCE]], begin + filled)
                if not count:
                    self.refuse_changes()
                    raise InputError(f"{self.name} ends before its data do; copy it again")
                filled += count
        except OSError as error:
            raise InputError(f"{self.name} cannot be read: {one_line(error.strerror)}") from error
        self.refuse_changes()

    def refuse_changes(self) -> None:
        """Raise an InputError if the file is not what it was when it was opened."""
        now, then = os.fstat(self.descriptor), self._first
        if (now.st_size, now.st_mtime_ns, now.st_ino) != (then.st_size, then.st_mtime_ns, then.st_ino):
            raise InputError(f"{self.name} changed while it was read; wait until it is written")

    def close(self) -> None:
        """Close it; more than once does no harm."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        if getattr(self, "descriptor", -1) >= 0:
            self.close()
