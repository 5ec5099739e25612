"""``weyl barrier``: what lies between two checkpoints, before and after aligning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cli.pairs import TRAINED, Weyl, one_line, save, state, trained, twin

DATA = ("--data", "digits", "--points", "5")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two networks that were trained apart, and a copy of the first in other coordinates."""
    save(tmp_path / "a.pt", trained(0))
    save(tmp_path / "b.pt", trained(1))
    save(tmp_path / "twin.pt", twin(TRAINED, trained(0), 1))
    return tmp_path


def test_aligning_lowers_the_barrier(weyl: Weyl, folder: Path) -> None:
    result = weyl("barrier", TRAINED, folder / "a.pt", folder / "b.pt", *DATA, "--json")
    found = json.loads(result.stdout)
    lines = found["lines"]
    assert result.exit_code == 0 and list(lines) == ["as they are", "aligned"]
    before, after = lines["as they are"], lines["aligned"]
    assert after["height"] < 0.5 * before["height"] and before["height"] > 0.1
    assert found["explained"] == pytest.approx(1 - after["height"] / before["height"])
    # Both lines have the same ends: the same functions.
    for end in (0, -1):
        assert before["losses"][end] == pytest.approx(after["losses"][end], rel=1e-5)
    assert min(before["metrics"]["accuracy"][0], before["metrics"]["accuracy"][-1]) > 0.9
    low, high = before["interval"]
    assert low <= before["height"] <= high
    assert all(low <= loss <= high for (low, high), loss in zip(before["band"], before["losses"], strict=True))
    assert (found["settings"]["samples"], found["settings"]["batches"]) == (360, 6)


def test_between_a_network_and_its_copy_there_is_nothing_but_coordinates(weyl: Weyl, folder: Path) -> None:
    result = weyl("barrier", TRAINED, folder / "a.pt", folder / "twin.pt", *DATA)
    assert result.exit_code == 0 and "100.0% of the barrier was a choice of coordinates" in result.stdout
    assert "yes: B is A in other coordinates" in result.stdout


@pytest.mark.parametrize(("flag", "title"), [("--align", "aligned"), ("--no-align", "as they are")])
def test_one_line_alone_and_repaired(weyl: Weyl, folder: Path, flag: str, title: str) -> None:
    result = weyl("barrier", TRAINED, folder / "a.pt", folder / "b.pt", *DATA, flag, "--repair", "repair", "--json")
    found = json.loads(result.stdout)
    assert list(found["lines"]) == [title, f"{title} and repaired"] and found["explained"] is None
    plain, repaired = found["lines"].values()
    assert repaired["height"] < plain["height"] and repaired["losses"][0] == plain["losses"][0]
    assert (found["alignment"] is None) == (flag == "--no-align")


def test_the_training_part_is_another_part(weyl: Weyl, folder: Path) -> None:
    flags = (*DATA, "--no-align", "--batch-size", "256", "--json")
    found = json.loads(weyl("barrier", TRAINED, folder / "a.pt", folder / "b.pt", *flags, "--split", "train").stdout)
    assert (found["settings"]["samples"], found["settings"]["split"]) == (1437, "training data")


def test_the_report_shows_both_lines_and_its_numbers_lie_beside_it(weyl: Weyl, folder: Path) -> None:
    report = folder / "out.html"
    result = weyl("barrier", TRAINED, folder / "a.pt", folder / "b.pt", *DATA, "--report", report)
    numbers = json.loads(report.with_suffix(".json").read_text())
    page = report.read_text()
    assert result.exit_code == 0 and page.count("<svg ") == 2 and "out.json" in page
    assert numbers["sentence"] in page and numbers["sentence"] in result.stdout
    again = weyl("barrier", TRAINED, folder / "a.pt", folder / "b.pt", *DATA, "--report", report)
    one_line(again, 3, "exists", "--force")


def test_a_dry_run_says_how_often_the_model_would_run(weyl: Weyl, folder: Path) -> None:
    report = folder / "out.html"
    flags = (folder / "a.pt", folder / "b.pt", *DATA, "--dry-run", "--json")
    planned = json.loads(weyl("barrier", TRAINED, *flags, "--report", report).stdout)
    assert planned["evaluations"] == 2 * 5 and planned["evaluation_seconds"] > 0 and not report.exists()
    alone = json.loads(weyl("barrier", TRAINED, *flags, "--no-align").stdout)
    assert alone["evaluations"] == 5 and alone["sweep_seconds"] is None


def test_losses_that_are_no_numbers_have_no_height(weyl: Weyl, folder: Path) -> None:
    save(folder / "huge.pt", {name: tensor * 1e30 for name, tensor in trained(0).items()})
    report = folder / "out.html"
    flags = (*DATA, "--no-align", "--report", report)
    result = weyl("barrier", TRAINED, folder / "a.pt", folder / "huge.pt", *flags)
    assert result.exit_code == 4 and "no numbers" in result.stdout
    assert json.loads(report.with_suffix(".json").read_text())["lines"]["as they are"]["height"] is None
    assert "∞" not in report.read_text()


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("a.pt", "b.pt"), 2, "--data"),
        (("a.pt", "b.pt", "--data", ""), 2, "--data is empty"),
        (("a.pt", "b.pt", "--data", "digits", "--points", "2"), 2, "range"),
        (("a.pt", "b.pt", "--data", "digits", "--no-align", "--restarts", "3"), 2, "--restarts says how to align"),
        (("a.pt", "b.pt", "--data", "digits", "--force"), 2, "give --report, too"),
        (("a.pt", "b.pt", "--data", "digits", "--report", "{tmp}/out.svg"), 2, ".html"),
        (("a.pt", "b.pt", "--data", "{tmp}/train.npz"), 3, "no held-out part"),
        (("a.pt", "b.pt", "--data", "{tmp}/wide.npz"), 3, "does not accept the inputs"),
        (("a.pt", "b.pt", "--data", "{tmp}/labels.npz"), 3, "label 12 is out of range for a model of 10 outputs"),
        (("a.pt", "nan.pt", "--data", "digits"), 4, "nan.pt: fc2.weight holds NaN or Inf"),
        (("a.pt", "other.pt", "--data", "digits"), 1, "do not fit"),
        (("a.pt", "missing.pt", "--data", "digits"), 3, "no such file"),
    ],
)
def test_bad_inputs_are_one_line(weyl: Weyl, folder: Path, args: tuple[str, ...], code: int, says: str) -> None:
    x, y = np.zeros((6, 64), np.float32), np.array([0, 1, 2, 3, 4, 12])
    np.savez(folder / "train.npz", x=x, y=y % 10)
    np.savez(folder / "wide.npz", x=x[:, :50], y=y % 10, x_test=x[:, :50], y_test=y % 10)
    np.savez(folder / "labels.npz", x=x, y=y % 10, x_test=x, y_test=y)
    save(folder / "nan.pt", trained(1) | {"fc2.weight": torch.full((10, 24), float("nan"))})
    save(folder / "other.pt", state("mlp?widths=64-25-10", 1))
    flags = [arg.format(tmp=folder) for arg in args[2:]]
    one_line(weyl("barrier", TRAINED, folder / args[0], folder / args[1], *flags), code, says)


@pytest.mark.parametrize("name", ["a.json", "b.json"])
def test_neither_file_is_written_over_by_the_report(weyl: Weyl, folder: Path, name: str) -> None:
    (folder / name.replace("json", "pt")).rename(folder / name)
    before = (folder / name).read_bytes()
    files = [folder / (name if name[0] == letter else f"{letter}.pt") for letter in "ab"]
    result = weyl("barrier", TRAINED, *files, *DATA, "--report", (folder / name).with_suffix(".html"), "--force")
    one_line(result, 3, "never written over")
    assert (folder / name).read_bytes() == before
