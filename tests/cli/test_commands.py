from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import weyl as library

Weyl = Callable[..., Result]


def test_help_imports_nothing_heavy_and_is_quick() -> None:
    code = (
        "import sys, time, contextlib\n"
        "from weyl.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'transformers', 'jinja2', 'rich', 'scipy'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy), 'cpu:', time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    facts = done.stdout.splitlines()[-1]
    assert facts.startswith("heavy: [] cpu: ")
    assert float(facts.split()[-1]) < 0.3


def test_version_and_the_module_form() -> None:
    done = subprocess.run([sys.executable, "-m", "weyl.cli", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"weyl, version {library.__version__}\n"


@pytest.mark.parametrize(
    ("args", "order"),
    [
        (("512", "512", "512"), math.factorial(512) ** 3),
        (("4",), 24),
        (("1",), 1),
        (("64", "128", "--conv"), math.factorial(64) * math.factorial(128)),
        (("3", "4", "--conv", "--dense", "5", "6"), 6 * 24 * 120 * 720),
        (("--conv", "--dense", "5,6", "3", "4"), 6 * 24 * 120 * 720),
    ],
)
def test_count(weyl: Weyl, args: tuple[str, ...], order: int) -> None:
    result = weyl("count", *args, "--exact", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)["order"]
    assert int(found["exact"]) == order
    assert found["log10"] == pytest.approx(math.log10(order), abs=1e-9)


def test_all_digits_stand_in_one_line(weyl: Weyl) -> None:
    lines = weyl("count", "1500", "1500", "--exact").stdout.splitlines()
    with_digits = next(line for line in lines if line.startswith("exact"))
    assert len(with_digits.split()[1]) == math.floor(2 * math.lgamma(1501) / math.log(10)) + 1
    assert "(1500!)²" in "\n".join(lines)


def test_inspect_as_a_table(weyl: Weyl, nets: str) -> None:
    result = weyl("inspect", f"{nets}:net")
    assert result.exit_code == 0 and result.stderr == ""
    for part in (
        "Mon+₅",
        "120",
        "5!",
        "2.0792",
        "0.weight[0], 0.bias[0], 2.weight[1]",
        "holds",
        "last bit",
        "as it must",
    ):
        assert part in result.stdout, part


def test_inspect_as_json(weyl: Weyl, nets: str) -> None:
    result = weyl("inspect", f"{nets}:chatty", "--json", "--exact", "--no-verify")
    assert "factory that prints" in result.stderr
    found = json.loads(result.stdout)
    assert (found["group"], found["order"]["exact"], found["proof"]) == ("Mon+_5", "120", None)
    assert (found["parameters"], found["tensors"]) == (5 * 4 + 5 + 5 * 2 + 2, 4)
    assert [row["space"] for row in found["spaces"]] == ["0"]
    assert library.Structure.from_json(json.dumps(found["structure"])).group.symbol == "Mon+_5"


def test_inspect_reports_what_it_does_not_understand(weyl: Weyl, nets: str) -> None:
    result = weyl("inspect", f"{nets}:spectrum")
    assert result.exit_code == 0
    assert "not understood: aten.fft_fft" in result.stdout and "first.weight[0]" in result.stdout
    assert "warning: aten.fft_fft" in result.stderr
    assert "nothing can move" in result.stdout


def test_layers_that_are_alike_share_a_row(weyl: Weyl) -> None:
    result = weyl("inspect", "transformer?layers=8&dim=8&heads=2&vocab=11", "--no-verify")
    assert "layers.*.linear1  (8 of them)" in result.stdout
    assert "layers.3.linear1 " not in result.stdout


def test_verify(weyl: Weyl, nets: str) -> None:
    result = weyl("verify", f"{nets}:net?width=3", "--trials", "2")
    assert result.exit_code == 0 and "proof" in result.stdout
    proof = json.loads(weyl("verify", f"{nets}:net", "--json").stdout)["proof"]
    assert proof["holds"] and proof["control"]["detected"] and proof["exact"]
    assert set(proof["kinds"]) == {"permute", "scale"}
    for kind in proof["kinds"].values():
        assert kind["detected"] and kind["max_relative_error"] < proof["tolerance"] < kind["control_error"]


def test_a_symmetry_that_fails_is_said(weyl: Weyl, nets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = library.discover

    def too_large(model: object, *args: object, **kwargs: object) -> object:
        """A structure that forgets the columns of the next layer."""
        found = honest(model, *args, **kwargs)  # type: ignore[arg-type]
        axes = {**found.axes, "2.weight": tuple(library.structure.Fixed(a.size) for a in found.axes["2.weight"])}
        return library.Structure(found.spaces, axes)

    monkeypatch.setattr(library, "discover", too_large, raising=False)
    assert weyl("verify", f"{nets}:net").exit_code == 1
    result = weyl("inspect", f"{nets}:net")
    assert result.exit_code == 1 and "fails" in result.stdout


def test_names_are_escaped_everywhere(weyl: Weyl, nets: str, tmp_path: Path) -> None:
    report = tmp_path / "out.html"
    result = weyl("inspect", f"{nets}:hostile", "--report", report)
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout and r"<b>[red]\x1b[31m</b>" in result.stdout
    page = report.read_text()
    assert "<b>" not in page and "\x1b" not in page and "&lt;b&gt;[red]" in page
    as_json = weyl("inspect", f"{nets}:hostile", "--json").stdout
    assert "\x1b" not in as_json and "\\u001b" in as_json


def test_report_and_numbers(weyl: Weyl, nets: str, tmp_path: Path) -> None:
    report = tmp_path / "out.html"
    assert weyl("inspect", f"{nets}:net", "--report", report, "--exact").exit_code == 0
    assert json.loads(report.with_suffix(".json").read_text())["order"]["exact"] == "120"
    assert weyl("inspect", f"{nets}:net?width=6", "--report", report).exit_code == 3
    assert weyl("inspect", f"{nets}:net?width=6", "--report", report, "--force").exit_code == 0
    assert json.loads(report.with_suffix(".json").read_text())["group"] == "Mon+_6"
    assert sorted(os.listdir(tmp_path)) == ["nets.py", "out.html", "out.json"] or "__pycache__" in os.listdir(tmp_path)


def test_plot(weyl: Weyl, tmp_path: Path) -> None:
    plot = tmp_path / "growth.svg"
    result = weyl("count", "512", "512", "--plot", plot)
    assert result.exit_code == 0 and "wrote" in result.stderr and "wrote" not in result.stdout
    assert "this network" in plot.read_text() and "prefers-color-scheme:dark" in plot.read_text()


def test_demo(weyl: Weyl, tmp_path: Path) -> None:
    out = tmp_path / "tour"
    result = weyl("demo", "--quick", "--out", out)
    assert result.exit_code == 0
    assert "holds" in result.stdout and str(out / "report.html") in result.stdout
    assert json.loads((out / "report.json").read_text())["holds"] is True
    # No terminal, no bar: a line a stage, each once.
    stages = [line for line in result.stderr.splitlines() if line.startswith("weyl: A ")]
    assert "weyl: A residual network: training" in stages and len(stages) == len(set(stages)) > 6
    assert weyl("demo", "--quick", "--out", out).exit_code == 3


def test_a_reader_that_stops_early_gets_no_answer_by_exit_code() -> None:
    """A closed pipe must not read as "the symmetry does not hold" (1)."""
    weyl = Path(sys.executable).with_name("weyl")
    code = f'{weyl} verify "mlp?widths=4-3-2" | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 141), done.stderr
    assert "Traceback" not in done.stderr
