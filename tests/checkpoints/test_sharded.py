"""Checkpoints in several files, and folders as transformers and its trainer leave them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.checkpoints.bad_files import BIAS, MAP, ONE, STATE, TWO, WEIGHT, sharded

from weyl.checkpoints import load_weights, open_weights, read_weights
from weyl.errors import InputError


@pytest.mark.parametrize("what", ["folder", "index"])
def test_an_index_and_its_folder_give_all_tensors(tmp_path: Path, what: str) -> None:
    folder = sharded(tmp_path / "m", MAP, {ONE: WEIGHT, TWO: BIAS})
    found = read_weights(folder if what == "folder" else folder / "model.safetensors.index.json")
    torch.testing.assert_close(found.tensors, STATE, rtol=0, atol=0)
    assert [note.split(",")[0] for note in found.notes] == ["read model.safetensors.index.json"] * (what == "folder")


def test_pieces_of_pickles(tmp_path: Path) -> None:
    names = {"fc.weight": "pytorch_model-00001-of-00002.bin", "fc.bias": "pytorch_model-00002-of-00002.bin"}
    for title, name in names.items():
        torch.save({f"module.{title}": STATE[title]}, tmp_path / name)
    index = {"weight_map": {f"module.{title}": name for title, name in names.items()}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    found = read_weights(tmp_path)
    torch.testing.assert_close(found.tensors, STATE, rtol=0, atol=0)
    assert "removed the prefix module." in found.notes[-1]


def test_what_a_trainer_leaves_beside_the_weights_is_not_weights(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.safetensors")
    torch.save({"x": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth", "rng_state_0.pth", "scaler.pt"):
        (tmp_path / name).write_bytes(b"not read")
    (tmp_path / "config.json").write_text("{}")
    with pytest.warns(UserWarning, match=r"read model\.safetensors"):
        found = load_weights(tmp_path)
    torch.testing.assert_close(found, STATE, rtol=0, atol=0)
    (tmp_path / "other.bin").write_bytes(b"x")
    with pytest.raises(InputError, match=r"several: model\.safetensors, other\.bin; name one"):
        read_weights(tmp_path)


def test_links_into_the_store_of_a_hub_cache_are_followed(tmp_path: Path) -> None:
    """Snapshots of the hub's cache link to blobs that are named by their hash; no other link may leave."""
    repository = tmp_path / "models--x--y"
    snapshot, blobs = repository / "snapshots" / "0123abc", repository / "blobs"
    snapshot.mkdir(parents=True)
    sharded(tmp_path / "plain", MAP, {ONE: WEIGHT, TWO: BIAS})
    blobs.mkdir()
    for number, file in enumerate(sorted((tmp_path / "plain").iterdir())):
        blob = blobs / (str(number) * 40)
        file.rename(blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    torch.testing.assert_close(read_weights(snapshot).tensors, STATE, rtol=0, atol=0)
    odd = blobs / "not-a-hash"
    (blobs / ("0" * 40)).rename(odd)
    (snapshot / ONE).unlink()
    (snapshot / ONE).symlink_to(odd)
    with pytest.raises(InputError, match="a link that leaves its folder"):
        open_weights(snapshot)


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    folder = sharded(tmp_path, MAP, {ONE: WEIGHT, "elsewhere.bak": {}})
    save_file(BIAS, folder / "piece.bak")
    (folder / TWO).symlink_to("piece.bak")
    torch.testing.assert_close(read_weights(folder).tensors, STATE, rtol=0, atol=0)


def test_pieces_with_a_link_to_an_archive_say_which_is_damaged(tmp_path: Path) -> None:
    folder = sharded(tmp_path, MAP, {ONE: WEIGHT, TWO: BIAS})
    data = bytearray((folder / TWO).read_bytes())
    (folder / TWO).write_bytes(data[:-1])
    with pytest.raises(InputError, match=TWO):
        read_weights(folder)
