"""Every bad input ends in one line on stderr, the right exit code, and nothing on stdout."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file
from tests.checkpoints.bad_files import BAD, BIAS, MAP, ONE, STATE, TWO, WEIGHT, Bad, Evil, sharded

Weyl = Callable[..., Result]


@pytest.mark.parametrize("command", ["inspect", "verify"])
@pytest.mark.parametrize(
    ("model", "extra", "code", "says"),
    [
        ("nonsense", (), 3, "unknown MODEL 'nonsense'"),
        ("torch.nn:Linaer", (), 3, "did you mean 'Linear'"),
        ("{nets}:raises", (), 3, "ValueError: no such thing as a net"),
        ("{nets}:net", ("--input-shape", "2,7"), 3, "does not accept these inputs"),
        ("{nets}:empty", ("--input-shape", "2,4"), 3, "has no parameters"),
        ("{nets}:parameterless", (), 3, "has no parameters"),
        ("{nets}:lazy", (), 3, "lazy layers"),
        ("{nets}:meta", (), 3, "the model is on meta and an input is on cpu"),
        ("{nets}:branch", (), 4, "decides by the values of its data"),
        ("{nets}:spectrum", ("--strict",), 4, "has no rule"),
        ("mlp", ("--input-shape", "2,x"), 2, "positive integers such as 1,3,224,224"),
        ("mlp", ("--trials", "0"), 2, "0 is not in the range"),
        ("{nets}:stops", (), 130, "interrupted"),
    ],
)
def test_one_line(
    weyl: Weyl, nets: str, command: str, model: str, extra: tuple[str, ...], code: int, says: str
) -> None:
    result = weyl(command, model.format(nets=nets), *extra)
    assert result.exit_code == code, result.stderr
    assert says in result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.isprintable()


def test_usage_errors_are_one_line(weyl: Weyl) -> None:
    for args in [("frobnicate",), ("count",), ("count", "0"), ("count", "3", "--dense", "2"), ("inspect",)]:
        result = weyl(*args)
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr


def test_not_a_number_leaves_the_structure_and_no_verdict(weyl: Weyl, nets: str) -> None:
    inspected = weyl("inspect", f"{nets}:nan")
    assert inspected.exit_code == 0
    assert "Mon+₅" in inspected.stdout and "inconclusive" in inspected.stdout
    assert "warning" in inspected.stderr and "not finite" in inspected.stderr
    verified = weyl("verify", f"{nets}:nan")
    assert verified.exit_code == 4
    assert "inconclusive" in verified.stdout


def test_a_model_without_weights_has_a_structure_and_no_proof(weyl: Weyl, nets: str) -> None:
    inspected = weyl("inspect", f"{nets}:meta_with_input")
    assert (inspected.exit_code, "Mon+₅" in inspected.stdout) == (0, True)
    assert "meta device" in inspected.stderr
    assert weyl("verify", f"{nets}:meta_with_input").exit_code == 4


def test_an_output_that_exists_is_refused_before_any_work(weyl: Weyl, tmp_path: Path) -> None:
    for suffix in (".html", ".json"):
        old = (tmp_path / "out").with_suffix(suffix)
        old.write_text("precious")
        result = weyl("inspect", "a model that is never loaded", "--report", tmp_path / "out.html")
        assert result.exit_code == 3 and "exists" in result.stderr
        assert old.read_text() == "precious"
        old.unlink()
    result = weyl("count", "4", "--plot", tmp_path / "missing" / "out.svg")
    assert result.exit_code == 3 and "does not exist; create it" in result.stderr
    result = weyl("inspect", "mlp", "--report", tmp_path / "out.pdf")
    assert result.exit_code == 2 and ".html" in result.stderr


def test_too_many_digits_are_refused(weyl: Weyl) -> None:
    result = weyl("count", "1000000", "--exact")
    assert result.exit_code == 4
    assert "5,565,709 digits" in result.stderr


def test_a_bug_is_not_taken_for_an_answer(weyl: Weyl, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(sizes: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("weyl.groups.feedforward_order", broken)
    result = weyl("count", "3")
    assert result.exit_code == 70
    assert "Traceback" in result.stderr and "a bug in weyl: ZeroDivisionError" in result.stderr


def test_an_interrupt_of_the_real_program(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time, sys\nprint('here', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "weyl.cli", "inspect", f"{tmp_path}/slow.py:make"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    process.stderr.readline()  # what the file prints goes to stderr
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert out == "" and "Traceback" not in err and err.strip().endswith("interrupted")


# Bad files of weights stand under their numbers in the list of bad inputs.
COMMANDS = ("verify", "inspect", "orbit")


@pytest.fixture
def linear(tmp_path: Path) -> str:
    """MODEL of one layer ``fc``, as the weights of `bad_files` are for."""
    path = tmp_path / "linear.py"
    path.write_text(
        "from collections import OrderedDict\n"
        "import torch\n"
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(OrderedDict(fc=nn.Linear(3, 2))), (torch.ones(2, 3),)\n"
        "def tied():\n"
        "    net = nn.Sequential(OrderedDict(a=nn.Linear(3, 3), r=nn.ReLU(), b=nn.Linear(3, 3)))\n"
        "    net.b.weight = net.a.weight\n"
        "    return net, (torch.ones(2, 3),)\n"
    )
    return f"{path}:make"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder for weights alone."""
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


@pytest.mark.parametrize("bad", BAD, ids=[bad.id for bad in BAD])
def test_a_bad_file_of_weights_is_one_line_and_no_output(
    weyl: Weyl, linear: str, place: Path, monkeypatch: pytest.MonkeyPatch, bad: Bad
) -> None:
    monkeypatch.chdir(place)
    bad.make(place / bad.name)
    before = sorted(place.iterdir())
    runs: list[tuple[object, ...]] = [
        ("balance", linear, "--weights", place / bad.name, "-o", place / "out.safetensors")
    ]
    if bad is next(other for other in BAD if other.number == bad.number):
        runs.append((COMMANDS[bad.number % len(COMMANDS)], linear, "--weights", place / bad.name))
    for run in runs:
        result = weyl(*run)
        assert result.exit_code == 3, result.stderr
        (line,) = result.stderr.strip().splitlines()
        assert bad.says in line and line.isprintable() and "Traceback" not in line
        assert result.stdout == ""
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_the_same_commands_take_good_weights(weyl: Weyl, linear: str, place: Path, command: str) -> None:
    """The control of the table above: nothing but the files is wrong there."""
    torch.save(STATE, place / "a.pt")
    result = weyl(command, linear, "--weights", place / "a.pt")
    assert result.exit_code == 0 and result.stderr == "", result.stderr


def test_05_no_permission(weyl: Weyl, linear: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(STATE, place / "a.pt")
    (place / "a.pt").chmod(0)
    honest = os.access
    # Root may read everything, and tests may run as root.
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(place / "a.pt") and honest(path, mode))
    result = weyl("verify", linear, "--weights", place / "a.pt")
    one_failure(result, 3, "no permission to read it")


def test_08_a_wrong_ending_is_a_warning(weyl: Weyl, linear: str, place: Path) -> None:
    save_file(STATE, place / "a.pt")
    warned(weyl("verify", linear, "--weights", place / "a.pt"), 0, "a safetensors file, by its first bytes")
    told = weyl("verify", linear, "--weights", place / "a.pt", "--json")
    assert any("by its first bytes" in warning for warning in json.loads(told.stdout)["warnings"])


def test_10_a_file_that_changes_while_it_is_read(
    weyl: Weyl, linear: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place / "a.safetensors"
    save_file(STATE, path)
    honest = os.preadv

    def written_meanwhile(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        count = honest(descriptor, buffers, offset)
        os.utime(path, ns=(offset, offset))
        return count

    monkeypatch.setattr(os, "preadv", written_meanwhile)
    one_failure(weyl("verify", linear, "--weights", path), 3, "changed while it was read")


def test_27_nothing_in_a_pickle_is_run(weyl: Weyl, linear: str, place: Path) -> None:
    trap = place / "trap"
    for zipped in (True, False):
        torch.save({"w": Evil(trap)}, place / "a.pt", _use_new_zipfile_serialization=zipped)
        one_failure(weyl("verify", linear, "--weights", place / "a.pt"), 3, "can run code")
        assert not trap.exists()
    pickle.loads(pickle.dumps(Evil(trap)))  # the control: it would have been
    assert trap.exists()


def test_34_overlapping_strides_are_copied(weyl: Weyl, linear: str, place: Path) -> None:
    """Rows that share entries become rows of their own: the file of copies says the same."""
    row = torch.arange(1.0, 7.0)
    windows = {**STATE, "fc.weight": row.as_strided((2, 3), (2, 1))}
    torch.save(windows, place / "a.pt")
    save_file({name: tensor.clone() for name, tensor in windows.items()}, place / "b.safetensors")
    outs = [place / "out-a.safetensors", place / "out-b.safetensors"]
    for source, out in zip(("a.pt", "b.safetensors"), outs, strict=True):
        assert weyl("balance", linear, "--weights", place / source, "-o", out).exit_code == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()


@pytest.mark.parametrize("outer", ["state_dict", "model", "ema"])
def test_39_the_only_dict_of_tensors_is_used(weyl: Weyl, linear: str, place: Path, outer: str) -> None:
    torch.save({"epoch": 3, outer: STATE, "args": {"lr": 0.1}}, place / "a.pt")
    warned(weyl("verify", linear, "--weights", place / "a.pt"), 0, f"took '{outer}', the only dict of tensors")
    torch.save({outer: STATE, "other": STATE}, place / "a.pt")
    assert weyl("verify", linear, "--weights", place / "a.pt").exit_code == 3
    assert weyl("verify", linear, "--weights", place / "a.pt", "--key", outer).exit_code == 0


def test_47_values_that_are_not_finite_are_inconclusive(weyl: Weyl, linear: str, place: Path) -> None:
    for number, bad in enumerate((float("nan"), float("inf"))):
        path = place / f"{number}.safetensors"
        save_file({**STATE, "fc.bias": torch.tensor([1.0, bad])}, path)
        warned(weyl("verify", linear, "--weights", path), 4, "1 of 2 tensors hold NaN or Inf: fc.bias")


def test_51_weights_of_another_model_exit_with_a_difference(weyl: Weyl, linear: str, place: Path) -> None:
    torch.save({"fc.weight": torch.ones(2, 4), "x": torch.ones(1)}, place / "a.pt")
    result = weyl("verify", linear, "--weights", place / "a.pt")
    one_failure(result, 1, "1 missing (fc.bias)", "1 unexpected (x)", "(2, 4) float32, not (2, 3)")


def test_52_a_tie_that_the_file_breaks_is_said(weyl: Weyl, linear: str, place: Path) -> None:
    weight, bias = torch.eye(3), torch.ones(3)
    state = {"a.weight": weight, "a.bias": bias, "b.weight": weight.clone(), "b.bias": bias.clone()}
    save_file(state, place / "a.safetensors")
    tied = linear.replace(":make", ":tied")
    assert weyl("verify", tied, "--weights", place / "a.safetensors").stderr == ""
    save_file({**state, "b.weight": weight + 1}, place / "a.safetensors")
    warned(weyl("verify", tied, "--weights", place / "a.safetensors"), 0, "a.weight and b.weight have different values")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_54_weights_of_few_bits_are_said_with_their_step(
    weyl: Weyl, linear: str, place: Path, dtype: torch.dtype
) -> None:
    save_file({name: tensor.to(dtype) for name, tensor in STATE.items()}, place / "a.safetensors")
    says = f"2 of 2 tensors are {str(dtype).removeprefix('torch.')} and the model is float32"
    warned(weyl("verify", linear, "--weights", place / "a.safetensors"), 0, says)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_55_integers_are_no_weights(weyl: Weyl, linear: str, place: Path, dtype: torch.dtype) -> None:
    save_file({**STATE, "fc.weight": STATE["fc.weight"].to(dtype)}, place / "a.safetensors")
    one_failure(weyl("verify", linear, "--weights", place / "a.safetensors"), 3, "quantised weights are not read")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_59_prefixes_of_wrappers_are_removed_and_said(weyl: Weyl, linear: str, place: Path, prefix: str) -> None:
    save_file({f"{prefix}{name}": tensor for name, tensor in STATE.items()}, place / "a.safetensors")
    warned(weyl("verify", linear, "--weights", place / "a.safetensors"), 0, f"removed the prefix {prefix} from")


def test_61_what_is_there_or_is_read_is_not_written_over(weyl: Weyl, linear: str, place: Path) -> None:
    given, out = place / "a.safetensors", place / "out.safetensors"
    save_file(STATE, given)
    out.write_bytes(b"precious")
    old = given.read_bytes()
    one_failure(weyl("balance", linear, "--weights", given, "-o", out), 3, "--force")
    assert out.read_bytes() == b"precious"
    one_failure(weyl("balance", linear, "--weights", given, "-o", given, "--force"), 3, "never written over")
    assert given.read_bytes() == old
    assert weyl("balance", linear, "--weights", given, "-o", out, "--force").exit_code == 0
    assert out.read_bytes() != b"precious"
    folder = sharded(place / "several", MAP, {ONE: WEIGHT, TWO: BIAS})
    for source in (folder, folder / "model.safetensors.index.json"):
        one_failure(
            weyl("balance", linear, "--weights", source, "-o", folder / ONE, "--force"), 3, "never written over"
        )
    torch.testing.assert_close(load_file(folder / ONE), WEIGHT, rtol=0, atol=0)


def test_62_a_full_disk_leaves_the_old_file(
    weyl: Weyl, linear: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, out = place / "a.safetensors", place / "out.safetensors"
    save_file(STATE, given)
    out.write_bytes(b"precious")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    one_failure(weyl("balance", linear, "--weights", given, "-o", out, "--force"), 3, "No space left on device")
    assert out.read_bytes() == b"precious" and sorted(place.iterdir()) == [given, out]


def test_a_flipped_bit_of_a_file_that_weyl_wrote_is_named(weyl: Weyl, linear: str, place: Path) -> None:
    given, out = place / "a.safetensors", place / "out.safetensors"
    save_file(STATE, given)
    assert weyl("balance", linear, "--weights", given, "-o", out).exit_code == 0
    assert weyl("verify", linear, "--weights", out).exit_code == 0
    data = bytearray(out.read_bytes())
    data[-3] ^= 1
    out.write_bytes(data)
    one_failure(weyl("verify", linear, "--weights", out), 3, "fc.weight is damaged")


RELU = """
from torch import nn

def make():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
"""


def relu(place: Path, change: Callable[[dict[str, torch.Tensor]], None], name: str) -> tuple[str, Path]:
    """A model, and a file of weights that were changed."""
    (place / "net.py").write_text(RELU)
    generator = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (4, 3), "0.bias": (4,), "2.weight": (2, 4), "2.bias": (2,)}
    state = {title: torch.randn(shape, generator=generator) for title, shape in shapes.items()}
    change(state)
    save_file({title: tensor.contiguous() for title, tensor in state.items()}, place / name)
    return f"{place / 'net.py'}:make", place / name


def test_48_negative_zero_is_zero_in_a_normal_form(weyl: Weyl, place: Path) -> None:
    model, plus = relu(place, lambda state: state["0.weight"][1].fill_(0.0), "plus.safetensors")
    _, minus = relu(place, lambda state: state["0.weight"][1].fill_(-0.0), "minus.safetensors")
    _, other = relu(place, lambda state: state["0.weight"][1].fill_(1e-30), "other.safetensors")
    assert plus.read_bytes() != minus.read_bytes()
    lines = weyl("fingerprint", model, plus, minus, other).stdout.splitlines()
    hashes = [line.split()[0] for line in lines]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("size", [0.0, 1e-42])
def test_49_a_unit_with_next_to_nothing_on_one_side(weyl: Weyl, place: Path, size: float) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        state["0.weight"][1], state["0.bias"][1] = size, 0.0

    model, given = relu(place, change, "a.safetensors")
    result = weyl("canonicalize", model, given, "-o", place / "out.safetensors")
    assert result.exit_code == 0, result.stderr
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(place / "out.safetensors").values())


def test_50_duplicate_and_dead_units_are_counted(weyl: Weyl, place: Path) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        state["0.weight"][3], state["0.bias"][3] = state["0.weight"][0], state["0.bias"][0]
        state["2.weight"][:, 3] = state["2.weight"][:, 0]
        for tensor in (state["0.weight"][2], state["0.bias"][2:3], state["2.weight"][:, 2]):
            tensor.zero_()

    model, given = relu(place, change, "a.safetensors")
    told = json.loads(weyl("canonicalize", model, given, "-o", place / "out.safetensors", "--json").stdout)
    text = json.dumps(told)
    assert '"stabilizer": "2"' in text and '"units": [0, 3]' in text, text


BIG = """
import torch

def make():
    return torch.nn.Linear(2**23, 2**23)
"""


def test_65_out_of_memory_says_how_much_was_asked_for(weyl: Weyl, place: Path) -> None:
    (place / "big.py").write_text(BIG)
    one_failure(weyl("verify", f"{place / 'big.py'}:make"), 4, "out of memory", "281474976710656 bytes")


# Where the other numbers of the list are tested; empty where that is of another issue.
ELSEWHERE = {
    53: "tests/cli/test_bad_inputs.py",
    57: "tests/proof",
    58: "tests/cli/test_bad_inputs.py",
    60: "tests/geometry",
    63: "",
    64: "",
}


def test_every_number_of_the_list_is_tested_here_or_it_is_said_where() -> None:
    here = {bad.number for bad in BAD}
    here |= {int(found[1]) for name in globals() if (found := re.match(r"test_(\d\d)_", name))}
    assert here | set(ELSEWHERE) == set(range(1, 66))
    assert set(range(1, 47)) <= here
    root = Path(__file__).parents[2]
    assert all((root / place).exists() for place in ELSEWHERE.values() if place)


def one_failure(result: Result, code: int, *says: str) -> None:
    """One line on stderr beside warnings, with the right exit code, and nothing on stdout."""
    assert result.exit_code == code, result.stderr
    (line,) = [line for line in result.stderr.strip().splitlines() if "warning" not in line]
    assert all(part in line for part in says), line
    assert line.isprintable() and result.stdout == ""


def warned(result: Result, code: int, says: str) -> None:
    """A warning on stderr, and the answer with the right exit code."""
    assert result.exit_code == code, result.stderr
    assert any("warning" in line and says in line for line in result.stderr.splitlines()), result.stderr
    assert result.stdout
