"""The study of planted permutations: its own code on few trials, and what its committed results say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from studies import planted
from studies.planted import __main__

RESULTS = Path(planted.__file__).parents[1] / "results" / "planted.json"


def test_the_study_runs_and_draws(tmp_path, capsys):
    assert __main__.main(["--smoke", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results" / "planted.json").read_text())
    clean = [row for row in found["recovery"] if not row["noise"]]
    assert all(row["weyl"] == row["exact"] == row["trials"] for row in clean)
    assert not any(row["exact"] for row in found["recovery"] if row["noise"])
    assert all(0 < row["share_1"] <= row["share_10"] + 1e-9 <= 1 + 2e-9 for row in found["oracle"])
    assert "<svg" in (tmp_path / "figures" / "planted.svg").read_text()
    assert planted.table(found) in capsys.readouterr().out


def test_committed_results_are_the_readme():
    found = json.loads(RESULTS.read_text())
    text = Path(planted.__file__).with_name("README.md").read_text()
    assert planted.with_table(text, found) == text


@pytest.mark.parametrize("way", ["weyl", "plain"])
def test_what_the_committed_results_say(way):
    rows = json.loads(RESULTS.read_text())["recovery"]
    clean = [row[way] / row["trials"] for row in rows if not row["noise"]]
    assert all(share == 1 for share in clean) if way == "weyl" else max(clean) < 0.3
