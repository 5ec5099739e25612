"""Every command and every snippet of the README runs."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import weyl
from weyl.cli import main
from weyl.models import load_model

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


COMMANDS = [
    line for block in blocks("sh") for line in block.splitlines() if line and not line.startswith(("make ", ". "))
]
SESSIONS = [block.removeprefix("$ ").split("\n", 1) for block in blocks("console")]


def run(line: str) -> str:
    program, *args = shlex.split(line, comments=True)
    assert program == "weyl"
    result = CliRunner().invoke(main, args, prog_name="weyl")
    said = re.search(r"# exit code (\d+)", line)
    assert result.exit_code == (int(said[1]) if said else 0), result.stderr
    return result.stdout


def test_there_is_something_to_run() -> None:
    assert len(COMMANDS) >= 5 and len(SESSIONS) == 1 and len(blocks("python")) == 3


@pytest.mark.parametrize("line", COMMANDS)
def test_commands(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if missing := [word for word in shlex.split(line) if word.endswith(".pt")]:
        for seed, name in enumerate(missing):
            torch.save(load_model(shlex.split(line)[2], seed=seed).module.state_dict(), name)
    assert run(line).strip()


@pytest.mark.parametrize(("line", "shown"), SESSIONS)
def test_sessions_show_what_is_printed(line: str, shown: str) -> None:
    def bare(text: str) -> list[list[str]]:
        # How far rounding moves an output is the machine's own.
        text = re.sub(r"\d\.\de[+-]\d\d", "rounding", text.replace("─", ""))
        return [words for row in text.splitlines() if (words := row.split())]

    assert bare(run(line)) == bare(shown)


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    """What the README says is there: three trainings of a model, and batches."""
    generator = torch.Generator().manual_seed(0)
    x, teacher = torch.randn(1024, 8, generator=generator), torch.randn(8, 4, generator=generator)
    batches = list(zip(x.split(64), (x @ teacher).argmax(1).split(64), strict=True))
    train, test = batches[:8], batches[8:]

    def training(seed: int) -> dict[str, Tensor]:
        net = load_model("mlp?widths=8-32-4", seed=seed).module
        adam = torch.optim.Adam(net.parameters(), 1e-2)
        for inputs, classes in 20 * train:
            adam.zero_grad()
            nn.functional.cross_entropy(net(inputs), classes).backward()
            adam.step()
        return net.state_dict()

    states = {name: training(seed) for seed, name in enumerate("abc")}
    return {**states, "model": load_model("mlp?widths=8-32-4").module, "train": train, "test": test}


@pytest.mark.parametrize("source", blocks("python"))
def test_snippets_print_what_their_comments_say(source: str, given: dict[str, Any]) -> None:
    said = [match.strip() for match in re.findall(r"#(.*)$", source, re.MULTILINE)]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(source, "README.md", "exec"), {} if "import " in source else {"weyl": weyl, **given})
    assert out.getvalue().splitlines() == said


def test_local_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_the_program_of_make_is_where_the_readme_looks() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    venv = re.search(r"`\. (\S+)/bin/activate`", README)
    assert venv is not None and re.search(rf"^VENV\s*:= {re.escape(venv[1])}$", makefile, re.MULTILINE)


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
