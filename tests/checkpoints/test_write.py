"""Weights that are written are read back bit for bit, in one step, and never over what was read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from weyl.checkpoints import read_weights, refuse_target, write_weights
from weyl.errors import InputError

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_written_is_read_back(tmp_path: Path, dtype: torch.dtype) -> None:
    given = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).mul(3).to(dtype)
    state = {"a": given, "a transpose": given.t(), "scalar": given[0, 0]}
    write_weights(tmp_path / "net.safetensors", state)
    read = read_weights(tmp_path / "net.safetensors").tensors
    assert read.keys() == state.keys()
    for name, tensor in state.items():
        assert read[name].dtype == dtype and torch.equal(read[name], tensor)


def test_tied_names_are_both_written_and_the_state_is_not_touched(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    write_weights(tmp_path / "net.safetensors", net.state_dict())
    read = read_weights(tmp_path / "net.safetensors").tensors
    assert torch.equal(read["0.weight"], read["1.weight"])
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    state = nn.Linear(3, 2).state_dict()
    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for path in paths:
        write_weights(path, state, note="x\ny")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with safe_open(paths[0], "pt") as file:
        metadata = file.metadata()
    # Other libraries ask for the format.
    assert set(metadata) == {"format", "weyl"} and metadata["format"] == "pt"
    assert json.loads(metadata["weyl"])["note"] == "x\ny"


def test_metadata_are_kept_in_one_order(tmp_path: Path) -> None:
    state = nn.Linear(3, 2).state_dict()
    given = {name: f"{name} «é»\n" for name in ("zone", "author", "format", "b", "a")} | {"weyl": "an older one"}
    written = []
    for number, keys in enumerate((list(given), list(given)[::-1]) * 3):
        path = tmp_path / f"{number}.safetensors"
        write_weights(path, state, note="new", metadata={key: given[key] for key in keys})
        written.append(path.read_bytes())
    assert len(set(written)) == 1
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in state.items())
    assert json.loads(metadata.pop("weyl"))["note"] == "new"
    assert metadata == {key: text for key, text in given.items() if key != "weyl"}


def test_an_input_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    write_weights(path, {"a": torch.ones(1)})
    old = path.read_bytes()
    other = tmp_path / "link.safetensors"
    other.symlink_to(path)
    for target, given in ((path, path), (other, path), (path, tmp_path)):
        with pytest.raises(InputError, match="never written over"):
            write_weights(target, {"a": torch.zeros(1)}, inputs=(given,), force=True)
    assert path.read_bytes() == old
    # Without being an input, it may be replaced by force alone.
    with pytest.raises(InputError, match="--force"):
        write_weights(path, {"a": torch.zeros(1)})
    write_weights(path, {"a": torch.zeros(1)}, force=True)
    assert path.read_bytes() != old


@pytest.mark.parametrize(
    ("name", "says"), [("net.pt", r"must end in \.safetensors"), ("missing/net.safetensors", "does not exist")]
)
def test_paths_that_are_refused(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        refuse_target(tmp_path / name)
    refuse_target(tmp_path / "net.safetensors")


def test_tensors_without_entries_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    for bad in (torch.ones(2, device="meta"), torch.ones(2, 2).to_sparse(), torch.ones(2, dtype=torch.complex128)):
        with pytest.raises(InputError, match="cannot be written"):
            write_weights(tmp_path / "net.safetensors", {"good": torch.ones(1), "bad": bad})
    assert os.listdir(tmp_path) == []


def test_a_write_that_dies_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    write_weights(path, {"a": torch.ones(1)})
    old = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        write_weights(path, {"a": torch.zeros(1)}, force=True)
    assert path.read_bytes() == old and os.listdir(tmp_path) == ["net.safetensors"]
