"""Writing holds one tensor at a time, hashes each, and leaves the old file whole whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from tests.checkpoints.bad_files import STATE
from torch import Tensor

from weyl.checkpoints import LazyWeights, TensorInfo, open_weights, read_weights, write_weights
from weyl.errors import InputError

INFOS = {f"t{i}": TensorInfo(torch.float32, (4, i + 1)) for i in range(6)}


def made(name: str) -> Tensor:
    """A tensor of `INFOS`."""
    return torch.full(INFOS[name].shape, float(name[1:]))


def flip(path: Path, place: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def test_each_tensor_is_made_once_and_forgotten_before_the_next(tmp_path: Path) -> None:
    alive: set[str] = set()
    order: list[str] = []

    def make(name: str) -> Tensor:
        assert not alive
        memory = made(name).numpy().copy()  # kept by the tensor's storage, whoever holds that
        weakref.finalize(memory, alive.discard, name)
        alive.add(name)
        order.append(name)
        return torch.from_numpy(memory)

    write_weights(tmp_path / "a.safetensors", LazyWeights(INFOS, make))
    assert sorted(order) == sorted(INFOS) and not alive
    found = read_weights(tmp_path / "a.safetensors").tensors
    torch.testing.assert_close(found, {name: made(name) for name in INFOS}, rtol=0, atol=0)


def test_a_lazy_tensor_that_is_not_what_was_said(tmp_path: Path) -> None:
    for wrong in (torch.zeros(4, 4), torch.zeros(4, 1, dtype=torch.float64), torch.zeros(4, 1, device="meta")):
        lazy = LazyWeights(INFOS, lambda name, wrong=wrong: wrong)
        with pytest.raises(InputError, match=r"t\d"):
            write_weights(tmp_path / "a.safetensors", lazy)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("source", ["a.pt", "a.safetensors"])
def test_what_was_opened_is_written_without_being_loaded(tmp_path: Path, source: str) -> None:
    path = tmp_path / source
    torch.save(STATE, path) if source.endswith(".pt") else write_weights(path, STATE)
    with open_weights(path) as weights:
        write_weights(tmp_path / "out.safetensors", weights, metadata=weights.metadata)
    torch.testing.assert_close(load_file(tmp_path / "out.safetensors"), STATE, rtol=0, atol=0)
    write_weights(tmp_path / "again.safetensors", STATE)
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_golden_bytes(tmp_path: Path) -> None:
    from weyl import __version__

    write_weights(tmp_path / "a.safetensors", {"b": torch.tensor([1, 2], dtype=torch.uint8), "a": torch.ones(1)})
    data = (tmp_path / "a.safetensors").read_bytes()
    layout = "4e4f8e52"
    weyl = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["weyl"])
    assert weyl["layout"][:8] == layout and weyl["version"] == __version__
    assert weyl["sha256"] == {
        "a": "e00e5eb9444182f352323374ef4e08ebcb784725fdd4fd612d7730540b3e0c8c",
        "b": "a12871fee210fb8619291eaea194581cbd2531e4b23759d225f6806923f63222",
    }
    assert data.endswith(b"\x00\x00\x80\x3f\x01\x02")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert list(file.metadata()) and file.metadata()["format"] == "pt"


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_flipped_bit_of_the_data_is_always_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("flip") / "a.safetensors"
    write_weights(path, STATE)
    size = path.stat().st_size
    start = size - sum(tensor.nbytes for tensor in STATE.values())
    place = data.draw(st.integers(start, size - 1))
    flip(path, place, data.draw(st.integers(0, 7)))
    # The order in the file is by name: eight bytes of the bias, and then the weight.
    named, other = ("fc.bias", "fc.weight") if place < start + 8 else ("fc.weight", "fc.bias")
    with open_weights(path) as weights:
        assert torch.equal(weights[other], STATE[other])
        with pytest.raises(InputError, match=f"{named} is damaged: its bytes do not have the sha256"):
            weights[named]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_flipped_bit_of_the_header_changes_no_tensor_unseen(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("flip") / "a.safetensors"
    write_weights(path, STATE)
    start = path.stat().st_size - sum(tensor.nbytes for tensor in STATE.values())
    flip(path, data.draw(st.integers(0, start - 1)), data.draw(st.integers(0, 7)))
    try:
        found = read_weights(path).tensors
    except InputError:
        return
    # What is left is a text that nobody computes with, such as the note, or the mark that weyl wrote the file.
    if "weyl" in open_weights(path).metadata:
        torch.testing.assert_close(found, STATE, rtol=0, atol=0)


def test_hashes_of_other_tensors_are_refused(tmp_path: Path) -> None:
    """Renaming or reshaping a tensor leaves its bytes as they are; what was written says more."""
    path = tmp_path / "a.safetensors"
    write_weights(path, STATE)
    data = path.read_bytes()
    for old, new in ((b'"shape":[2,3]', b'"shape":[3,2]'), (b'"fc.bias":{', b'"fc.bi_s":{'), (b'"F32"', b'"I32"')):
        assert data.count(old)
        path.write_bytes(data.replace(old, new))
        with pytest.raises(InputError, match="do not have the names, types and shapes that weyl wrote"):
            open_weights(path)
    path.write_bytes(data)
    assert len(open_weights(path)) == 2


def test_shards_first_and_index_last(tmp_path: Path) -> None:
    state = {name: made(name) for name in INFOS}
    path = tmp_path / "model.safetensors"
    written = write_weights(path, LazyWeights(INFOS, made), shard_bytes=100, note="n")
    *pieces, index = written
    assert sorted(p.name for p in written) == sorted(os.listdir(tmp_path)) and not path.exists()
    assert index.name == "model.safetensors.index.json"
    sizes = [sum(tensor.nbytes for tensor in load_file(piece).values()) for piece in pieces]
    assert len(pieces) > 2 and all(size <= 100 for size in sizes)
    told = json.loads(index.read_text())
    assert told["metadata"]["total_size"] == sum(sizes) == sum(info.nbytes for info in INFOS.values())
    torch.testing.assert_close(read_weights(tmp_path).tensors, state, rtol=0, atol=0)
    before = {p.name: p.read_bytes() for p in written}
    with pytest.raises(InputError, match="--force"):
        write_weights(path, state, shard_bytes=100)
    write_weights(path, state, shard_bytes=100, note="n", force=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    one = write_weights(tmp_path / "one.safetensors", state, shard_bytes=10**6)
    assert one == (tmp_path / "one.safetensors",)


def test_a_new_set_of_shards_leaves_the_old_one_whole_until_its_index_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    state = {name: made(name) for name in INFOS}
    write_weights(path, state, shard_bytes=100)
    honest = os.replace

    def stops(source: Path, target: Path) -> None:
        if str(target).endswith(".json"):
            raise OSError(5, "Input/output error")
        honest(source, target)

    monkeypatch.setattr(os, "replace", stops)
    new = {name: tensor + 1 for name, tensor in state.items()}
    with pytest.raises(InputError, match="Input/output error"):
        write_weights(path, new, shard_bytes=100, force=True)
    torch.testing.assert_close(read_weights(tmp_path).tensors, state, rtol=0, atol=0)
    monkeypatch.undo()
    write_weights(path, new, shard_bytes=100, force=True)
    torch.testing.assert_close(read_weights(tmp_path).tensors, new, rtol=0, atol=0)


def test_one_file_and_shards_do_not_stand_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_weights(path, STATE)
    with pytest.raises(InputError, match="would be taken for the same weights"):
        write_weights(path, STATE, shard_bytes=10, force=True)
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_a_disk_that_is_full_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_weights(path, STATE)
    old = path.read_bytes()
    program = (
        "import resource, signal, sys, torch; from pathlib import Path; from weyl.checkpoints import write_weights\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: write_weights(Path(sys.argv[1]), {f't{i}': torch.ones(10_000) for i in range(9)}, force=True)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    run = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("InputError") and "File too large" in run.stdout
    assert path.read_bytes() == old and os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("sharded", [False, True])
def test_a_kill_in_the_middle_leaves_the_old_weights(tmp_path: Path, sharded: bool) -> None:
    path = tmp_path / "a.safetensors"
    shard_bytes = 60 if sharded else None
    state = {name: made(name) for name in INFOS}
    written = write_weights(path, state, shard_bytes=shard_bytes)
    old = {p: p.read_bytes() for p in written}
    program = (
        "import sys, time, torch; from pathlib import Path\n"
        "from weyl.checkpoints import LazyWeights, TensorInfo, write_weights\n"
        "infos = {f't{i}': TensorInfo(torch.float32, (10,)) for i in range(6)}\n"
        "def make(name):\n"
        "    if name == 't3': print('half', flush=True); time.sleep(60)\n"
        "    return torch.zeros(10)\n"
        f"write_weights(Path(sys.argv[1]), LazyWeights(infos, make), force=True, shard_bytes={shard_bytes})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "half\n"
    begun = [p for p in tmp_path.iterdir() if p not in old]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert begun and all(p.name.startswith(".") for p in begun)
    assert {p: p.read_bytes() for p in old} == old
    torch.testing.assert_close(read_weights(written[-1]).tensors, state, rtol=0, atol=0)
    # What the kill left has no name that is ever read, and does not stand in the way.
    write_weights(path, {name: made(name) + 1 for name in INFOS}, force=True, shard_bytes=shard_bytes)
    assert torch.equal(read_weights(written[-1]).tensors["t1"], made("t1") + 1)


def test_the_mode_of_the_old_file_and_the_umask_are_kept(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_weights(tmp_path / "a.safetensors", STATE)
    finally:
        os.umask(old)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640
    (tmp_path / "a.safetensors").chmod(0o604)
    write_weights(tmp_path / "a.safetensors", STATE, force=True)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o604


def test_what_appears_while_it_is_written_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"

    def make(name: str) -> Tensor:
        path.write_bytes(b"somebody else's")
        return made(name)

    with pytest.raises(InputError, match="exists"):
        write_weights(path, LazyWeights(INFOS, make))
    assert path.read_bytes() == b"somebody else's" and os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("state", [{}, {"__metadata__": torch.ones(1)}, {"\ud800": torch.ones(1)}, {3: torch.ones(1)}])
def test_states_that_the_format_cannot_hold(tmp_path: Path, state: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match="written"):
        write_weights(tmp_path / "a.safetensors", state)
    assert os.listdir(tmp_path) == []


def names() -> Iterator[str]:
    yield from ("plain", "with space", "é", '"quoted"', "\x1b[31m", "<script>", "a/../b", "x" * 5000)


def test_any_text_is_a_name(tmp_path: Path) -> None:
    state = {name: torch.tensor([float(i)]) for i, name in enumerate(names())}
    write_weights(tmp_path / "a.safetensors", state)
    torch.testing.assert_close(read_weights(tmp_path / "a.safetensors").tensors, state, rtol=0, atol=0)
    torch.testing.assert_close(load_file(tmp_path / "a.safetensors"), state, rtol=0, atol=0)
