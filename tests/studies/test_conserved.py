"""The study of conserved quantities: its code on a few images, and that what is committed belongs together."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
from studies import conserved
from studies.conserved import ARMS, FULL, NETWORKS, SMOKE, __main__, _table

STUDIES = Path(__main__.__file__).parents[1]
SVG = "{http://www.w3.org/2000/svg}svg"


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    return json.loads((STUDIES / "results" / "conserved.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("conserved")
    assert __main__.main(["--smoke", "--out", str(out)]) == 0
    return out


def test_smoke(smoke: Path, committed: dict[str, Any]) -> None:
    found = json.loads((smoke / "results" / "conserved.json").read_text(encoding="utf-8"))
    assert found.keys() == committed.keys() and found["runs"][0].keys() == committed["runs"][0].keys()
    assert len(found["runs"]) == len(ARMS) * len(NETWORKS) * len(SMOKE.rates)
    assert ET.parse(smoke / "figures" / "conserved.svg").getroot().tag == SVG
    for ending in (".png", "-dark.png"):
        assert (smoke / "figures" / f"conserved{ending}").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("source", ["smoke", "committed"])
@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_conserved(source: str, network: str, smoke: Path, committed: dict[str, Any]) -> None:
    """Drift is proportional to the step for gradient descent; Adam and the control have a limit of their own."""
    small = json.loads((smoke / "results" / "conserved.json").read_text(encoding="utf-8"))
    results = committed if source == "committed" else small
    rates = results["constants"]["rates"]

    def order(arm: str, what: str) -> float:
        return conserved.fitted_order(rates, _table.medians(results, network, arm, what))

    def last(arm: str, what: str) -> float:
        return _table.medians(results, network, arm, what)[-1]

    assert 0.8 < order("descent", "drift") < 1.2
    assert 0.7 < order("sgd", "drift") < 1.5
    assert abs(order("adam", "drift")) < 0.3 and last("adam", "drift") > 20 * last("descent", "drift")
    assert abs(order("descent", "control")) < 0.1 and last("descent", "control") > 20 * last("descent", "drift")
    constants = results["constants"]
    expected = math.exp(-2 * constants["decay"] * constants["time"])
    assert math.isclose(last("decay", "retained"), expected, rel_tol=0.01)
    assert abs(last("descent", "retained") - 1) < 0.005 < abs(last("adam", "retained") - 1)


def test_training_did_something(committed: dict[str, Any]) -> None:
    assert all(run["loss"][1] < 0.95 * run["loss"][0] for run in committed["runs"])


def test_a_run_is_a_function_of_its_seed_and_leaves_the_global_state() -> None:
    before = torch.get_rng_state()
    runs = [conserved.run("bottleneck", "sgd", 0.5, seed, 64) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    assert runs[0] == runs[1] and runs[0]["drift"] != runs[2]["drift"]


def test_the_fitted_order() -> None:
    rates = [0.4, 0.2, 0.1]
    assert conserved.fitted_order(rates, [3 * rate**2 for rate in rates]) == pytest.approx(2.0)
    assert conserved.fitted_order(rates, [3.0, 3.0, 3.0]) == pytest.approx(0.0)


def test_what_is_committed_belongs_together(committed: dict[str, Any]) -> None:
    runs = {(run["network"], run["arm"], run["rate"], run["seed"]) for run in committed["runs"]}
    full = {(n, a, r, s) for n in NETWORKS for a in ARMS for r in FULL.rates for s in FULL.seeds}
    assert runs == full and len(committed["runs"]) == len(full)
    readme = __main__.README.read_text(encoding="utf-8")
    assert conserved.with_table(readme, committed) == readme
    assert (STUDIES / "figures" / "conserved.svg").exists()
