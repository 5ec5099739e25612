"""The fuzzer: its corpus passes, and a target that leaks an error is found out and kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz import targets
from fuzz.__main__ import CORPUS, NAMES, mutate

from weyl.checkpoints import _pickled, read_weights
from weyl.errors import InputError


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer describes pickles in its own process; here that ends with the test."""
    monkeypatch.setattr(_pickled, "_asked", _pickled._asked)


@pytest.mark.parametrize("name", NAMES)
def test_the_corpus_passes_and_most_of_it_is_read(name: str) -> None:
    files = sorted((CORPUS / name).iterdir())
    assert len(files) >= 3 and targets.TARGETS.keys() == set(NAMES)
    for file in files:
        targets.TARGETS[name](file.read_bytes())
    if name in ("safetensors", "torch"):
        read = 0
        for file in files:
            try:
                read += bool(read_weights(file).tensors)
            except InputError:
                continue
        assert read >= 4


@pytest.mark.parametrize("name", NAMES)
def test_a_short_run_finds_nothing(name: str, tmp_path: Path) -> None:
    assert mutate(name, 1, tmp_path) == 0
    assert not list(tmp_path.iterdir())


def test_an_error_that_is_not_weyls_is_kept_with_its_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaks(data: bytes) -> None:
        if b"\xff" in data:
            raise KeyError("x")

    monkeypatch.setitem(targets.TARGETS, "index", leaks)
    assert mutate("index", 20, tmp_path) == 1
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("index-failed-") and b"\xff" in kept.read_bytes()
    with pytest.raises(AssertionError, match="no printable line"):
        targets.one_line(lambda: (_ for _ in ()).throw(InputError("two\nlines")))
