"""What a file of weights may be, and what every bad one gets: one line, exit code 3, nothing executed."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.checkpoints import bad_files
from tests.checkpoints.bad_files import STATE, Evil
from torch import nn

from weyl.checkpoints import load_into, load_weights, read_weights
from weyl.errors import InputError, MismatchError


def test_both_formats_round_trip(tmp_path: Path) -> None:
    torch.save(OrderedDict(STATE), tmp_path / "a.pt")
    torch.save(STATE, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(STATE, tmp_path / "a.safetensors")
    for name in ("a.pt", "old.pt", "a.safetensors"):
        found = read_weights(tmp_path / name)
        torch.testing.assert_close(found.tensors, STATE, rtol=0, atol=0)
        assert found.notes == ()


def test_the_first_bytes_count_and_not_the_ending(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "weights.pt")
    found = read_weights(tmp_path / "weights.pt")
    assert found.tensors.keys() == STATE.keys()
    assert "safetensors file, by its first bytes" in found.notes[0]
    with pytest.warns(UserWarning, match="by its first bytes"):
        load_weights(tmp_path / "weights.pt")


def plain_pickle(thing: object, protocol: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(pickle.dumps(thing, protocol=protocol)) and None


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "b")


BAD: list[tuple[str, Callable[[Path], object], str]] = [
    *((f"{bad.id}/{bad.name}", bad.make, bad.says) for bad in bad_files.BAD),
    ("other/other.zip", other_zip, "zip archive without a state dict"),
    ("hostile/a.pt", bad_files.saved({"\x1b[31m<script>": torch.eye(2).to_sparse()}), r"\x1b[31m<script>"),
    *(
        (f"{title}{protocol}/a.pt", plain_pickle(thing, protocol), f"namely {names}")
        for protocol in (2, 3, 4, 5)
        for title, thing, names in (
            ("system", {"w": Evil(Path("trap"))}, f"{os.system.__module__}.system"),
            ("array", OrderedDict(w=np.ones(2)), "numpy"),
            ("module", nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        )
    ),
]


def test_a_new_protocol_in_an_archive_is_named_too(tmp_path: Path) -> None:
    torch.save({"w": Evil(tmp_path / "trap")}, tmp_path / "a.pt", pickle_protocol=4)
    with pytest.raises(InputError, match=rf"namely {os.system.__module__}\.system"):
        read_weights(tmp_path / "a.pt")
    assert not (tmp_path / "trap").exists()


def test_an_archive_without_checksums_is_read_and_that_is_said(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    found = read_weights(tmp_path / "a.pt")
    torch.testing.assert_close(found.tensors, STATE, rtol=0, atol=0)
    assert found.notes == ("a.pt was written without checksums, so that damage cannot be seen",)


def test_a_user_that_does_not_exist() -> None:
    with pytest.raises(InputError, match=r"~nosuchuser/a\.pt: no such file"):
        read_weights("~nosuchuser/a.pt")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pt")
    tmp_path.chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(InputError, match="Permission denied"):
            read_weights(tmp_path / "a.pt")
        with pytest.raises(InputError, match="Permission denied"):
            read_weights(tmp_path / "missing.pt")
    finally:
        os.seteuid(0)
    assert read_weights(tmp_path / "a.pt").notes == ()


def largest_step(dtype: torch.dtype) -> float:
    """Largest relative distance of neighbouring positive normal numbers, from every bit pattern."""
    patterns = torch.arange(2**15 if dtype.itemsize == 2 else 2**8, dtype=torch.int32)
    every = patterns.to(torch.int16 if dtype.itemsize == 2 else torch.uint8).view(dtype).double()
    normal = every[every.isfinite() & (every >= torch.finfo(dtype).tiny)].sort().values
    return float((normal.diff() / normal[:-1]).max())


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu]
)
def test_weights_of_few_bits_are_said_with_their_step(dtype: torch.dtype) -> None:
    model = net()
    (note,) = load_into(model, {**STATE, "fc.bias": torch.ones(2, dtype=dtype)}, "a.pt")
    name = str(dtype).removeprefix("torch.")
    assert note.startswith(f"a.pt: 1 of 2 tensors are {name} and the model is float32")
    assert f"of {name} are up to {100 * largest_step(dtype):.3g} % apart" in note
    assert model.state_dict()["fc.bias"].dtype == torch.float32
    (note,) = load_into(net().bfloat16(), STATE)
    assert "2 of 2 tensors are float32 and the model is bfloat16: neighbouring numbers of bfloat16" in note


def test_weights_of_as_many_bits_need_no_note() -> None:
    assert load_into(net().double(), STATE) == ()
    assert load_into(net(), {key: tensor.double() for key, tensor in STATE.items()}) == ()
    assert load_into(net().bfloat16(), {key: tensor.bfloat16() for key, tensor in STATE.items()}) == ()


@pytest.mark.parametrize(("name", "make", "says"), BAD, ids=[name.partition("/")[0] for name, _, _ in BAD])
def test_bad_files_are_refused_in_one_line(
    tmp_path: Path, name: str, make: Callable[[Path], object], says: str
) -> None:
    path = tmp_path / name.partition("/")[2]
    make(path)
    with pytest.raises(InputError) as caught:
        read_weights(path)
    text = str(caught.value)
    assert says in text and path.name[:20] in text
    assert text.isprintable() and caught.value.exit_code == 3


def test_a_missing_file_is_told_with_near_names(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"no such file; did you mean 'weights.pt'\?"):
        read_weights(tmp_path / "wieghts.pt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pt")
    (tmp_path / "a.pt").chmod(0)
    with pytest.raises(InputError, match="no permission"):
        read_weights(tmp_path / "a.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_run(tmp_path: Path, zipped: bool) -> None:
    trap = tmp_path / "trap"
    torch.save({"w": Evil(trap)}, tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="can run code"):
        read_weights(tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil(trap)))
    with pytest.raises(InputError):
        read_weights(tmp_path / "plain.pt")
    assert not trap.exists()
    pickle.loads(pickle.dumps(Evil(trap)))  # the control: it would have been
    assert trap.exists()


def test_a_nested_dict_is_used_if_it_is_the_only_one(tmp_path: Path) -> None:
    extra = {"epoch": 3, "optimizer": {"state": {}, "param_groups": []}}
    torch.save({"state_dict": STATE, **extra}, tmp_path / "one.pt")
    found = read_weights(tmp_path / "one.pt")
    torch.testing.assert_close(found.tensors, STATE, rtol=0, atol=0)
    assert "'state_dict', the only dict of tensors" in found.notes[0]
    ema = {key: tensor + 1 for key, tensor in STATE.items()}
    torch.save({"model": STATE, "ema": ema}, tmp_path / "two.pt")
    torch.testing.assert_close(load_weights(tmp_path / "two.pt", key="ema"), ema, rtol=0, atol=0)
    with pytest.raises(InputError, match="--key mea names no dict of tensors in it; there are: model, ema"):
        load_weights(tmp_path / "two.pt", key="mea")


def test_prefixes_of_wrappers_are_removed_and_said(tmp_path: Path) -> None:
    torch.save({f"_orig_mod.module.{key}": tensor for key, tensor in STATE.items()}, tmp_path / "a.pt")
    found = read_weights(tmp_path / "a.pt")
    assert found.tensors.keys() == STATE.keys()
    assert "removed the prefix _orig_mod.module." in found.notes[0]
    partly = {"module.a": torch.ones(1), "b": torch.ones(1)}
    torch.save(partly, tmp_path / "b.pt")
    assert read_weights(tmp_path / "b.pt").tensors.keys() == partly.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_values_that_are_not_finite_are_noted(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save({"good": torch.ones(2), "bad": torch.tensor([1.0, np.nan]).to(dtype)}, tmp_path / "a.pt")
    assert read_weights(tmp_path / "a.pt").notes == ("1 of 2 tensors hold NaN or Inf: bad",)
    torch.save({"large": torch.tensor(1e300, dtype=torch.float64)}, tmp_path / "b.pt")
    assert read_weights(tmp_path / "b.pt").notes == ()


def test_the_only_file_of_a_directory(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert "model.safetensors, the only weights" in read_weights(tmp_path).notes[0]
    torch.save(STATE, tmp_path / "b.pt")
    with pytest.raises(InputError, match=r"several: b\.pt, model\.safetensors; name one"):
        read_weights(tmp_path)


def net() -> nn.Module:
    return nn.Sequential(OrderedDict(fc=nn.Linear(3, 2)))


def test_weights_that_fit_are_loaded() -> None:
    model = net()
    assert load_into(model, STATE) == ()
    torch.testing.assert_close(dict(model.state_dict()), STATE, rtol=0, atol=0)


def test_weights_that_do_not_fit_leave_the_model_and_show_the_difference() -> None:
    model = net()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    wrong = {"fc.weight": torch.ones(2, 4), "extra\x1b": torch.ones(1)}
    with pytest.raises(MismatchError) as caught:
        load_into(model, wrong, "a.pt")
    text = str(caught.value)
    for part in (
        "a.pt and the model do not fit",
        "1 missing (fc.bias)",
        r"unexpected (extra\x1b)",
        "(2, 4) float32, not (2, 3)",
    ):
        assert part in text, text
    assert text.isprintable() and caught.value.exit_code == 1
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    with pytest.raises(InputError, match="int8 integers") as quantised:
        load_into(model, {**STATE, "fc.weight": torch.ones(2, 3, dtype=torch.int8)})
    assert quantised.value.exit_code == 3
    many = {f"x{i}": torch.ones(1) for i in range(9)}
    with pytest.raises(MismatchError, match=r"9 unexpected \(x0, x1, x2, …\)"):
        load_into(model, {**STATE, **many})


def test_of_tied_weights_one_name_suffices_and_a_broken_tie_is_said() -> None:
    model = nn.Sequential(OrderedDict(a=nn.Linear(2, 2, bias=False), b=nn.Linear(2, 2, bias=False)))
    model.b.weight = model.a.weight
    assert load_into(model, {"a.weight": torch.eye(2)}) == ()
    torch.testing.assert_close(model.b.weight.detach(), torch.eye(2))
    (note,) = load_into(model, {"a.weight": torch.eye(2), "b.weight": torch.ones(2, 2)})
    assert "a.weight and b.weight have different values" in note


def test_reading_does_not_touch_the_file(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    (tmp_path / "a.pt").write_bytes(buffer.getvalue())
    load_into(net(), load_weights(tmp_path / "a.pt"))
    assert (tmp_path / "a.pt").read_bytes() == buffer.getvalue()
