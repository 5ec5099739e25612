"""Tensors are read one at a time, from where they are, and only while the file stays what it was."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tests.checkpoints.bad_files import BIAS, MAP, ONE, STATE, TWO, WEIGHT, entry, packed, sharded
from torch import Tensor

from weyl.checkpoints import TensorInfo, open_weights, read_weights, write_weights
from weyl.checkpoints import _describe as describing
from weyl.errors import InputError, UsageError

FORMATS = ("a.pt", "old.pt", "a.safetensors", "sharded")


def save(path: Path, state: dict[str, Tensor] = STATE) -> Path:
    """Write one of `FORMATS`."""
    if path.name == "sharded":
        return sharded(path, MAP, {ONE: WEIGHT, TWO: BIAS})
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=path.name != "old.pt")
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_known_without_reading_is_what_is_read(tmp_path: Path, name: str) -> None:
    with open_weights(save(tmp_path / name)) as weights:
        assert set(weights) == set(STATE) and len(weights) == 2
        assert "fc.weight" in weights and "weight" not in weights
        for title, tensor in STATE.items():
            assert weights.info(title) == TensorInfo(tensor.dtype, tuple(tensor.shape))
            assert weights.info(title).nbytes == tensor.nbytes
            assert torch.equal(weights[title], tensor)
        assert weights.shapes == {title: tuple(tensor.shape) for title, tensor in STATE.items()}
        assert weights.nbytes == sum(tensor.nbytes for tensor in STATE.values())
        with pytest.raises(KeyError):
            weights["weight"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_access_reads_anew_and_nothing_is_kept(tmp_path: Path, name: str) -> None:
    with open_weights(save(tmp_path / name)) as weights:
        first, second = weights["fc.weight"], weights["fc.weight"]
        assert first.data_ptr() != second.data_ptr()
        first.zero_()
        assert torch.equal(weights["fc.weight"], STATE["fc.weight"])
    with pytest.raises(InputError, match=r"was closed before fc\.weight was read"):
        weights["fc.weight"]


def test_files_are_closed(tmp_path: Path) -> None:
    path = save(tmp_path / "sharded")
    before = len(os.listdir("/proc/self/fd"))
    weights = open_weights(path)
    assert len(os.listdir("/proc/self/fd")) == before + 3
    weights.close()
    (path / ONE).write_bytes(b"x")
    with pytest.raises(InputError):
        open_weights(path)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["a.pt", "old.pt", "a.safetensors"])
@pytest.mark.parametrize("change", ["append", "overwrite", "truncate"])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, name: str, change: str) -> None:
    path = save(tmp_path / name)
    old = path.read_bytes()
    with open_weights(path) as weights:
        weights["fc.bias"]
        match change:
            case "append":
                path.write_bytes(old + b"x")
            case "overwrite":
                path.write_bytes(old)
                os.utime(path, ns=(0, 0))
            case "truncate":
                os.truncate(path, 100)
        with pytest.raises(InputError, match="changed while it was read"):
            weights["fc.weight"]


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_file_that_is_replaced_while_it_is_read_is_still_the_old_one(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name)
    with open_weights(path) as weights:
        save(tmp_path / f"new{path.suffix}", {key: tensor + 1 for key, tensor in STATE.items()})
        os.replace(tmp_path / f"new{path.suffix}", path)
        assert torch.equal(weights["fc.weight"], STATE["fc.weight"])
    assert torch.equal(read_weights(path).tensors["fc.weight"], STATE["fc.weight"] + 1)


@pytest.mark.parametrize("name", ["a.pt", "old.pt"])
def test_no_pickle_is_loaded_in_this_process(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / name)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was loaded")

    for module, attribute in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, attribute, never)
    monkeypatch.setattr(describing._Unpickler, "find_class", never)
    assert torch.equal(read_weights(path).tensors["fc.weight"], STATE["fc.weight"])


def test_there_is_no_other_way_when_the_process_dies_or_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.pt")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InputError, match="over the limits"):
        open_weights(path)
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(InputError, match="no process to read it in"):
        open_weights(path)
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    monkeypatch.setattr("weyl.checkpoints._pickled.MOST_SECONDS", 0.2)
    with pytest.raises(InputError, match="was not read within"):
        open_weights(path)


def test_the_process_that_reads_pickles_has_limits_and_no_torch() -> None:
    program = (
        "import runpy, resource, sys; module = runpy.run_path(sys.argv[1]); module['_limit']();"
        "print(resource.getrlimit(resource.RLIMIT_AS)[0], resource.getrlimit(resource.RLIMIT_CPU)[0],"
        " 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    command = [sys.executable, "-I", "-S", "-c", program, describing.__file__]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert told == [str(describing.MOST_MEMORY), str(describing.MOST_SECONDS), "False", "False"]


shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(st.lists(shapes, min_size=1, max_size=4), st.integers(0, 2**16), st.booleans(), st.booleans())
def test_views_are_read_as_torch_reads_them(
    tmp_path_factory: pytest.TempPathFactory, many: list[list[int]], seed: int, zipped: bool, checked: bool
) -> None:
    """Transposes, slices with steps and overlapping windows of one storage, against torch's own reader."""
    path = tmp_path_factory.mktemp("views") / "a.pt"
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(200, generator=generator)
    dtypes = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool]
    if zipped:  # torch's older format cannot hold newer types
        dtypes += [torch.float8_e4m3fn, torch.uint16]
    state = {}
    for number, shape in enumerate(many):
        stride = torch.randint(1, 9, (len(shape),), generator=generator).tolist()
        state[f"view {number}"] = whole.as_strided(shape, stride, number)
        dtype = dtypes[int(torch.randint(len(dtypes), (), generator=generator))]
        state[f"own {number}"] = torch.rand(shape, generator=generator).mul(2).to(dtype).mT if len(shape) > 1 else whole
    state["empty"] = whole[:0].reshape(0, 3)
    state["scalar"] = whole[7]
    torch.serialization.set_crc32_options(checked)
    try:
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
    finally:
        torch.serialization.set_crc32_options(True)
    expected = torch.load(path, weights_only=True)
    found = read_weights(path).tensors
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
        assert found[name].is_contiguous()


def test_what_else_checkpoints_hold_is_left_alone(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.tag = "x"
    extra = {"size": torch.Size([1]), "device": torch.device("cpu"), "set": {1}, "dtype": torch.float16, "bytes": b"b"}
    for zipped in (True, False):
        torch.save(
            {"state_dict": {**model.state_dict(), "p": parameter}, "optimizer": optimizer.state_dict(), **extra},
            tmp_path / "a.pt",
            _use_new_zipfile_serialization=zipped,
        )
        found = read_weights(tmp_path / "a.pt")
        assert torch.equal(found.tensors["weight"], model.weight) and torch.equal(found.tensors["p"], parameter)
        assert found.notes == (f"took 'state_dict', the only dict of tensors in {tmp_path / 'a.pt'}",)


def test_entries_that_are_neither_true_nor_false(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(packed({"w": entry("BOOL", (2,), (0, 2))}, b"\x00\x02"))
    with pytest.raises(InputError, match="neither true nor false"):
        read_weights(path)
    path.write_bytes(packed({"w": entry("BOOL", (2,), (0, 2))}, b"\x00\x01"))
    assert read_weights(path).tensors["w"].tolist() == [False, True]


MEASURE = """
import json, sys
import torch
def peak():  # of this program; ru_maxrss would begin with that of the process that started it
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
from weyl.checkpoints import open_weights
torch.set_num_threads(1)
open("/proc/self/clear_refs", "w").write("5")
before = peak()
total = 0.0
if sys.argv[2] == "stream":
    with open_weights(sys.argv[1]) as weights:
        for name in weights:
            total += float(weights[name].double().sum())
else:
    kept = dict(open_weights(sys.argv[1]))
    total = sum(float(tensor.double().sum()) for tensor in kept.values())
print(json.dumps([total, peak() - before]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux tells it")
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_large_file_is_never_in_memory(tmp_path: Path, name: str) -> None:
    """256 MiB in tensors of 16 MiB: one, and its sum in float64, are held at a time; without streaming, all are."""
    one = 2**24
    path = tmp_path / name
    if name.endswith(".pt"):
        torch.save({f"t{i}": torch.ones(one // 4) for i in range(16)}, path)
    else:
        header = {f"t{i}": entry("F32", (one // 4,), (i * one, (i + 1) * one)) for i in range(16)}
        path.write_bytes(packed(header))
        os.truncate(path, path.stat().st_size + 16 * one)
    expected = 16 * one / 4 if name.endswith(".pt") else 0.0
    peaks = {}
    for how in ("stream", "keep"):
        run = [sys.executable, "-c", MEASURE, str(path), how]
        told = subprocess.run(run, capture_output=True, text=True, check=True).stdout
        total, peaks[how] = json.loads(told)
        assert total == expected
    assert one < peaks["stream"] < 5 * one < 15 * one < peaks["keep"], peaks


def test_a_peek_reads_nothing(tmp_path: Path) -> None:
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}
    write_weights(tmp_path / "a.safetensors", state)
    with open_weights(tmp_path / "a.safetensors") as weights:
        for name, tensor in state.items():
            peek = weights.peek(name)
            assert peek.is_meta and peek.shape == tensor.shape and peek.dtype == tensor.dtype
        with pytest.raises(KeyError):
            weights.peek("c")


def test_more_dimensions_than_a_tensor_can_have(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1] * 65, "data_offsets": [0, 4]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(InputError, match="shape"):
        open_weights(tmp_path / "a.safetensors")


def test_metadata_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="text"):
        write_weights(tmp_path / "a.safetensors", {"a": torch.zeros(2)}, metadata={"x": 3})  # type: ignore[dict-item]
    assert not list(tmp_path.iterdir())
