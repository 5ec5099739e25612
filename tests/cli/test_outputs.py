"""What is read is never written over by a report, whatever it is called."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

Weyl = Callable[..., Result]
CONFIG = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 4, "vocab_size": 8, "n_positions": 8}
COMMANDS = ("inspect", "{model}"), ("collapse", "{model}", "--data", "digits")
LINKS = {"symbolic": os.symlink, "hard": os.link}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration in a folder of its own."""
    path = tmp_path / "model" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["{config}", "{folder}", "{config}?n_layer=2"])
def test_a_configuration(weyl: Weyl, config: Path, name: str, command: tuple[str, ...]) -> None:
    model, before = "hf:" + name.format(config=config, folder=config.parent), config.read_bytes()
    args = [part.format(model=model) for part in command]
    for flags in ((), ("--force",)):
        result = weyl(*args, "--report", config.with_suffix(".html"), *flags)
        assert result.exit_code == 3 and config.read_bytes() == before
    assert "never written over" in result.stderr and len(result.stderr.splitlines()) == 1
    assert not config.with_suffix(".html").exists()


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("suffix", [".html", ".json"])
def test_links_to_what_is_read(weyl: Weyl, nets: str, tmp_path: Path, kind: str, suffix: str) -> None:
    weights, report = tmp_path / "net.pt", tmp_path / "out.html"
    torch.save(torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)).state_dict(), weights)
    link = report.with_suffix(suffix)
    for target in (weights, Path(nets)):
        before = target.read_bytes()
        LINKS[kind](target, link)
        result = weyl("inspect", f"{nets}:net", "--weights", weights, "--report", report, "--force")
        assert result.exit_code == 3 and "never written over" in result.stderr
        assert target.read_bytes() == before and link.samefile(target)
        link.unlink()


def test_weights_whose_name_is_that_of_the_report(weyl: Weyl, nets: str, tmp_path: Path) -> None:
    weights = tmp_path / "out.json"
    weights.write_bytes(b"precious")
    for command, *options in (("inspect",), ("collapse", "--data", "digits")):
        given = (*options, "--weights", weights, "--report", tmp_path / "out.html", "--force")
        result = weyl(command, f"{nets}:net", *given)
        assert result.exit_code == 3 and "never written over" in result.stderr
        assert weights.read_bytes() == b"precious"


def test_data_that_is_read(weyl: Weyl, nets: str, tmp_path: Path) -> None:
    data, report = tmp_path / "data.npz", tmp_path / "out.html"
    data.write_bytes(b"precious")
    report.symlink_to(data)
    for option in (("--data", f"{data}?scaling=unit"), ("--data", "digits", "--ood", data)):
        result = weyl("collapse", f"{nets}:net", *option, "--report", report, "--force")
        assert result.exit_code == 3 and "never written over" in result.stderr, result.stderr
        assert data.read_bytes() == b"precious" and report.is_symlink()


def test_another_file_beside_what_is_read_is_replaced(weyl: Weyl, nets: str, tmp_path: Path) -> None:
    """The control: --force still does what it is for."""
    report = tmp_path / "out.html"
    report.write_text("old")
    result = weyl("inspect", f"{nets}:net", "--report", report, "--force")
    assert result.exit_code == 0 and "Mon+" in report.read_text()
    assert json.loads(report.with_suffix(".json").read_text())["parameters"] == 37
