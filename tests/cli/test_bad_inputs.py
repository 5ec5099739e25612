"""Every bad input ends in one line on stderr, the right exit code, and nothing on stdout."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

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
