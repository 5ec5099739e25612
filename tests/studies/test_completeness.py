"""The study of completeness: its code on a few networks, and that what is committed belongs together."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from studies import completeness
from studies.completeness import FAMILIES, __main__, counts, verdict
from studies.completeness._design import SAMPLES

STUDIES = Path(__main__.__file__).parents[1]


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    return completeness.read_results(STUDIES / "results" / "completeness.json")


def test_smoke(tmp_path: Path, committed: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["--smoke", "--out", str(tmp_path)]) == 0
    found = completeness.read_results(tmp_path / "results" / "completeness.json")
    assert {run["family"] for run in found["runs"]} == set(FAMILIES)
    assert found.keys() == committed.keys() and found["runs"][0].keys() == committed["runs"][0].keys()
    assert "| tanh | 2 |" in capsys.readouterr().out


def test_the_committed_results_are_whole(committed: dict[str, Any]) -> None:
    assert committed["constants"] == completeness.constants(SAMPLES), "the constants changed: run the study again"
    found = [(run["family"], run["seed"]) for run in committed["runs"]]
    assert found == [(name, seed) for name, family in FAMILIES.items() for seed in range(family.count)]
    assert len(found) == 200


def test_the_group_is_never_too_large_and_what_is_lost_is_known(committed: dict[str, Any]) -> None:
    found = counts(committed["runs"])
    assert found["less"] == 0
    assert found["exact"] + found["beside"] > 150
    # more may be lost only where ReLUs follow each other
    assert {run["family"] for run in committed["runs"] if verdict(run) in ("more", "idle")} <= {
        "relu",
        "residual",
        "batch-norm",
    }


def test_a_committed_run_is_what_the_code_measures(committed: dict[str, Any]) -> None:
    """Dimensions do not depend on the number of inputs; a run of the wrong network differs."""
    runs = {(run["family"], run["seed"]): run for run in committed["runs"]}
    again = completeness.measure("bottleneck-bias", 1, 300)
    keys = ("sizes", "parameters", "dimension", "at_rest", "beside", "deficiency")
    assert {key: again[key] for key in keys} == {key: runs["bottleneck-bias", 1][key] for key in keys}
    assert {key: again[key] for key in keys} != {key: runs["bottleneck-bias", 3][key] for key in keys}


def test_the_table_belongs_to_the_results(committed: dict[str, Any]) -> None:
    text = (STUDIES / "README.md").read_text(encoding="utf-8")
    assert completeness.with_table(text, committed) == text, "run python -m studies.completeness --render"
    changed = copy.deepcopy(committed)
    changed["runs"][0]["deficiency"] += 1
    assert completeness.with_table(text, changed) != text
