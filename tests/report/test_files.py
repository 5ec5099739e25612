from __future__ import annotations

import os
from pathlib import Path

import pytest

from weyl.errors import InputError
from weyl.report import refuse_existing, write_atomic


def test_a_new_file_has_the_usual_mode_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    old = os.umask(0o027)
    try:
        write_atomic(path, "é\n")
    finally:
        os.umask(old)
    assert path.read_bytes() == "é\n".encode()
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["out.txt"]


def test_an_old_file_stays_unless_forced_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    path.chmod(0o604)
    with pytest.raises(InputError, match="exists; give another path, or --force"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    write_atomic(path, "new", force=True)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o604)


def test_a_write_that_dies_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        write_atomic(path, "new", force=True)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_what_is_no_file_is_refused_even_with_force(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputError, match="not a regular file"):
            refuse_existing(path, force=True)
    with pytest.raises(InputError, match="create it"):
        refuse_existing(tmp_path / "no" / "such", force=True)
    with pytest.raises(InputError, match="Not a directory"):
        (tmp_path / "file").touch()
        refuse_existing(tmp_path / "file" / "below", force=True)
