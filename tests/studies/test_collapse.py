"""The study of collapse: its code on a few images, and that what is committed belongs together."""

from __future__ import annotations

import copy
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from studies import collapse
from studies.collapse import FULL, SMOKE, Arm, __main__, _store, _table, _train
from studies.collapse._design import ARMS, CLASSES, LIMITS, SMOKE_ARMS

import weyl

STUDIES = Path(__main__.__file__).parents[1]
TINY = replace(SMOKE, train=100, held_out=50, epochs=2)
SVG = "{http://www.w3.org/2000/svg}svg"


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    return collapse.read_results(STUDIES / "results" / "collapse.json")


def shape(run: dict[str, Any]) -> Any:
    """The keys of nested mappings, without the values."""
    return {key: shape(value) for key, value in run.items()} if isinstance(run, dict) else None


def test_smoke(tmp_path: Path, committed: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["--smoke", "--out", str(tmp_path)]) == 0
    found = collapse.read_results(tmp_path / "results" / "collapse.json")
    assert [run["arm"]["name"] for run in found["runs"]] == list(SMOKE_ARMS)
    assert found.keys() == committed.keys() and shape(found["runs"][0]) == shape(committed["runs"][0])
    assert "| ReLU, SGD, true labels, trained head |" in capsys.readouterr().out
    for name in ("tetrahedron", "trajectories"):
        assert ET.parse(tmp_path / "figures" / f"{name}.svg").getroot().tag == SVG
        for ending in (".png", "-dark.png"):
            assert (tmp_path / "figures" / f"{name}{ending}").read_bytes().startswith(b"\x89PNG")


def test_a_run_is_a_function_of_its_seed_and_leaves_the_global_state() -> None:
    before = torch.get_rng_state()
    runs = [_train.run_arm(ARMS["random-simplex"], TINY, seed) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    for run in runs:
        del run["seconds"], run["seed"]
    assert runs[0] == runs[1] and runs[0] != runs[2]


def test_the_cache_keeps_what_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, trained = tmp_path / "runs.jsonl", []

    def train(arm: Arm, size: collapse.Size, seed: int) -> dict[str, Any]:
        trained.append((arm.name, seed))
        end = {"accuracy": 1.0, "nc1": 0.0, "nc2": 0.0}
        return {"arm": vars(arm), "seed": seed, "final": {"train": end}, "seconds": 0.0}

    monkeypatch.setattr(_store, "run_arm", train)
    arms, size = [ARMS["base"], ARMS["cnn"]], replace(TINY, seeds=(0, 1))

    def go(size: collapse.Size = size) -> list[dict[str, Any]]:
        trained.clear()
        return list(collapse.cached_runs(arms, size, cache, lambda line: None))

    first = go()
    assert trained == [("base", 0), ("cnn", 0), ("base", 1), ("cnn", 1)]
    assert go() == first and not trained
    cache.write_text(cache.read_text()[:-9])  # interrupted while it wrote the last line
    assert go() == first and trained == [("cnn", 1)]
    go(replace(size, seeds=(0, 1, 2)))
    assert trained == [("base", 2), ("cnn", 2)]
    go(replace(size, epochs=3))
    assert len(trained) == 4, "runs of other constants must not be taken"


def test_random_labels_do_not_depend_on_the_images() -> None:
    true, random = (_train.problem(ARMS[name], SMOKE, 0) for name in ("base", "random-relu-sgd"))
    assert torch.equal(true.x, random.x) and torch.equal(true.test_y, random.test_y)
    assert 0.02 < float((true.y == random.y).double().mean()) < 0.25
    other = _train.problem(ARMS["random-tanh-sgd"], SMOKE, 0)
    assert torch.equal(random.y, other.y)


def test_class_sizes_and_weights() -> None:
    data = _train.problem(ARMS["sizes"], FULL, 0)
    rare = [c in data.rare for c in range(CLASSES)]
    assert data.y.bincount().tolist() == [4 if few else 400 for few in rare] and sum(rare) == 5
    assert data.weights.unique().tolist() == [1.0]
    inverse = _train.problem(ARMS["sizes-inverse"], FULL, 0)
    mass = inverse.weights * inverse.y.bincount()
    torch.testing.assert_close(mass, mass.mean().expand(CLASSES))
    weighted = _train.problem(ARMS["weights"], FULL, 0)
    assert weighted.y.bincount().tolist() == [200] * CLASSES
    torch.testing.assert_close(weighted.weights.max() / weighted.weights.min(), torch.tensor(100.0))
    for part in (inverse, weighted):
        torch.testing.assert_close(part.weights[part.y].mean(), torch.tensor(1.0))


@pytest.mark.parametrize(
    ("name", "moves"),
    [("base", True), ("simplex-start", True), ("simplex", False), ("gaussian", False), ("parameter-free", False)],
)
def test_a_fixed_head_stays(name: str, moves: bool) -> None:
    arm, data = ARMS[name], _train.problem(ARMS[name], TINY, 0)
    body, head = _train.network(arm, CLASSES, 0)
    before = head.weight.detach().clone()
    for _ in _train.train(torch.nn.Sequential(body, head), data, arm, TINY.epochs, 0):
        pass
    assert torch.equal(before, head.weight) != moves
    gram = before @ before.T
    regular = gram.trace() / (CLASSES - 1) * (torch.eye(CLASSES) - 1 / CLASSES)
    assert torch.allclose(gram, regular, atol=1e-5) == ("simplex" in name or name == "parameter-free")


def test_early_stopping_keeps_the_weights_of_least_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([5.0, 2.0, 1.0, 3.0, 3.0, 3.0, 0.0])
    monkeypatch.setattr(_train, "_held_out_loss", lambda model, data: next(losses))
    early = _train.run_arm(ARMS["early"], replace(TINY, epochs=6), 0)
    assert early["stopped_at"] == 2 and early["trajectory"]["epoch"][-1] == 5
    at = early["trajectory"]["epoch"].index(2)
    assert early["final"]["train"]["nc2"] == early["trajectory"]["train"]["nc2"][at]
    assert early["final"]["train"]["nc2"] != early["trajectory"]["train"]["nc2"][-1]


@pytest.mark.parametrize("name", ["accuracy", *LIMITS])
def test_every_limit_counts(name: str) -> None:
    inside = {"accuracy": 1.0, **dict.fromkeys(LIMITS, 0.0)}
    assert _table.collapsed({"final": {"train": inside}})
    worse = {**inside, name: 0.9}
    assert not _table.collapsed({"final": {"train": worse}})


def test_numbers_and_ranges() -> None:
    assert [_table.number(v) for v in (220.7, 0.138, 0.00104, 0.000288)] == ["221", "0.14", "0.001", "0.00029"]
    runs = [{"final": {"test": {"nc2": v}}} for v in (0.3, 0.1, 0.2)]
    assert _table.spread(runs, "test", "nc2", _table.number) == "0.2 [0.1, 0.3]"
    assert _table.spread(runs[:1], "test", "nc2", _table.number) == "0.3"


def test_the_committed_results_are_whole(committed: dict[str, Any]) -> None:
    limits, seeds = committed["constants"].pop("limits"), committed["constants"].pop("seeds")
    assert committed["constants"] == collapse.constants(FULL), "the constants changed: run the study again"
    committed["constants"] |= {"limits": limits, "seeds": seeds}
    assert limits == LIMITS and len(seeds) >= 3
    found = {(run["arm"]["name"], run["seed"]) for run in committed["runs"]}
    assert found == {(name, seed) for name in ARMS for seed in seeds} and len(found) == len(committed["runs"])
    for run in committed["runs"]:
        assert json.loads(json.dumps(vars(ARMS[run["arm"]["name"]]))) == run["arm"]
        assert {len(path) for part in ("train", "test") for path in run["trajectory"][part].values()} == {
            len(run["trajectory"]["epoch"])
        }


def test_the_controls_are_not_collapsed(committed: dict[str, Any]) -> None:
    runs = {name: [run for run in committed["runs"] if run["arm"]["name"] == name] for name in ("base", "early")}
    assert all(map(_table.collapsed, runs["base"])) and not any(map(_table.collapsed, runs["early"]))
    assert not any(_table.collapsed(_table.before(run)) for run in runs["base"])


def test_the_tables_belong_to_the_results(committed: dict[str, Any]) -> None:
    text = (STUDIES / "README.md").read_text(encoding="utf-8")
    assert collapse.with_tables(text, committed) == text, "run python -m studies.collapse --render"
    changed = copy.deepcopy(committed)
    changed["runs"][0]["final"]["train"]["nc2"] *= 3
    assert collapse.with_tables(text, changed) != text


def test_the_picture_ends_at_a_tetrahedron(committed: dict[str, Any]) -> None:
    picture, ideal = committed["picture"], weyl.simplex(4, 3).numpy()
    means = np.array(picture["means"])
    assert np.abs(means[-1] - ideal).max() < 0.05
    assert np.abs(means[0] - ideal).max() > 0.5
    assert [panel["step"] for panel in picture["panels"]] == sorted(panel["step"] for panel in picture["panels"])
    # the average of squared lengths, within classes and between, is the part that the projection shows
    last = np.array(picture["panels"][-1]["points"])
    assert float(np.mean((last**2).sum(-1))) == pytest.approx(1 - picture["outside"][-1], abs=0.02)


def test_the_committed_figures_are_small_and_well_formed() -> None:
    for name in ("tetrahedron", "trajectories"):
        path = STUDIES / "figures" / f"{name}.svg"
        text = path.read_text(encoding="utf-8")
        assert len(text) < 300_000 and ET.fromstring(text.encode()).get("role") == "img"
        assert "prefers-color-scheme" in text and "#0000" not in text
