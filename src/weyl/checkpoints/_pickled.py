"""What the pickle in a ``.pt`` file says, asked of a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from weyl._text import one_line
from weyl.checkpoints import _describe
from weyl.checkpoints._opened import OpenFile
from weyl.errors import InputError

__all__ = ["describe"]

MOST_SECONDS = 120  # until an answer must be there
LARGEST = 2**26  # bytes of a pickle; storages are not in it


def describe(file: OpenFile, mode: str, begin: int = 0, size: int = 0) -> dict[str, Any]:
    """Have the pickles of a file described by another process, with limits on its memory and time.

    Parameters
    ----------
    file : OpenFile
        The file; the process gets nothing but this, open for reading.
    mode : str
        ``archive`` or ``legacy``.
    begin, size : int
        Place of the pickle in an archive.

    Returns
    -------
    dict
        What `weyl.checkpoints._describe.guarded` returns, without refusals.

    Raises
    ------
    InputError
        If the pickle is refused, or the process ended without an answer; there is no other way to read it.
    """
    if size > LARGEST:
        raise InputError(f"{file.name} has a pickle of {size:,} bytes, far more than a state dict has; it was not read")
    told = _asked(file, mode, begin, size)
    if "refused" in told:
        raise InputError(f"{file.name} {_reason(told['refused'], one_line(told['text'], 120))}")
    return told


def _asked(file: OpenFile, mode: str, begin: int, size: int) -> dict[str, Any]:
    program = Path(_describe.__file__)
    # Isolated, and without site packages: nothing in the environment or the current folder is imported.
    command = [sys.executable, "-I", "-S", str(program), mode, str(begin), str(size)]
    try:
        done = subprocess.run(
            command,
            stdin=file.descriptor,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=MOST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{file.name} was not read within {MOST_SECONDS} seconds; save its state dict again") from None
    except OSError as error:
        raise InputError(f"{file.name}: no process to read it in: {one_line(error.strerror)}") from None
    file.refuse_changes()
    if done.returncode:
        raise InputError(f"{file.name} {_reason('limit', 'the process that read it died')}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _reason(why: str, text: str) -> str:
    match why:
        case "global":
            return (
                f"holds more than tensors, namely {one_line(text, 80)}, which was not loaded because that can run code;"
                " save model.state_dict() and not the model"
            )
        case "unfit":
            return f"is damaged or was not written by torch.save (its pickle holds a {text}); save a state dict"
        case "limit":
            return f"has a pickle that went over the limits ({text}); save model.state_dict() again"
    return f"is damaged or was not written by torch.save ({text}); copy it again"
