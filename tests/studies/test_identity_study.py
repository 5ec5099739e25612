"""The study of disguises: its parts, its own code on two small networks, what is committed, and the published pair."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from studies import identity
from studies.identity import __main__
from torch import nn

import weyl

RESULTS = Path(identity.__file__).parents[1] / "results" / "identity.json"
SAME = ("identical", "same function", "same up to precision")
SVG = "{http://www.w3.org/2000/svg}svg"


def relu_net() -> tuple[nn.Module, weyl.Structure, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, x = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 4)), torch.randn(5, 6)
    return net, weyl.discover(net, (x,)), x


def test_a_disguise_keeps_the_function_and_hides_the_weights() -> None:
    net, structure, x = relu_net()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    before = net(x)
    hidden = identity.disguised(structure, state, identity.KINDS["all"], seed=3)
    assert not torch.allclose(hidden["0.weight"], state["0.weight"], atol=1e-2)
    net.load_state_dict(hidden)
    torch.testing.assert_close(net(x), before)
    net.load_state_dict({**hidden, "2.weight": state["2.weight"]})
    assert not torch.allclose(net(x), before, atol=1e-2)


def test_every_change_is_what_its_name_says() -> None:
    _, structure, _ = relu_net()
    state = {name: torch.randn(shape) for name, shape in (("0.weight", (20, 50)), ("0.bias", (20,)))}
    noisy = identity.changed(state, "noise", 1)
    off = float((noisy["0.weight"] - state["0.weight"]).std() / state["0.weight"].std())
    assert 0.5e-4 < off < 2e-4 and torch.equal(identity.changed(state, "", 1)["0.weight"], state["0.weight"])
    pruned = identity.changed(state, "pruned", 1)
    assert int((pruned["0.weight"] == 0).sum()) == 200 and torch.equal(pruned["0.bias"], state["0.bias"])
    assert float(state["0.weight"][pruned["0.weight"] == 0].abs().max()) <= float(
        pruned["0.weight"][pruned["0.weight"] != 0].abs().min()
    )
    grid = identity.finished(state, "int8", "0", 1)["0.weight"]
    assert max(len(row.unique()) for row in grid) <= 255 and float((grid - state["0.weight"]).abs().max()) < 0.02
    assert identity.finished(state, "float16", "0", 1)["0.weight"].dtype == torch.float16
    small = identity.finished(state, "classes", "0", 1)
    assert small["0.weight"].shape == (10, 50) and small["0.bias"].shape == (10,)
    assert structure.group.order.log10 > 0


def test_scores_are_those_of_the_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(7, 12, generator=generator).double() for _ in range(2))
    turn = torch.linalg.qr(torch.randn(12, 12, generator=generator).double()).Q
    assert identity.cka(x, 3 * x @ turn) == pytest.approx(1)
    assert identity.cka(x, y) < 0.9 and identity.cka(x.T, y.T) < 0.9
    centred = [z - z.mean(0) for z in (x, y)]
    cross, own, other = (a.T @ b for a, b in ((centred[0], centred[1]), (centred[0],) * 2, (centred[1],) * 2))
    assert identity.cka(x, y) == pytest.approx(float(cross.norm() ** 2 / own.norm() / other.norm()))


@pytest.mark.parametrize("seed", range(5))
def test_the_area_counts_pairs_in_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    high, low = rng.integers(0, 6, 8).tolist(), rng.integers(0, 5, 9).tolist()
    wins = sum((a > b) + 0.5 * (a == b) for a in high for b in low) / (len(high) * len(low))
    assert identity.auc(high, low) == pytest.approx(wins)
    wrong, right = identity.curve(high, low)
    assert np.trapezoid(right, wrong) == pytest.approx(wins)
    assert (wrong[0], right[0], wrong[-1], right[-1]) == (0, 0, 1, 1)


def test_unrelated_pairs_are_as_many_as_derived_ones_and_disguised_apart() -> None:
    trials = list(identity.planned(identity.FULL, 4))
    derived = [trial for trial in trials if identity.KINDS[trial.kind].verdict == "derived"]
    apart = [trial for trial in trials if trial.kind == "unrelated"]
    assert len(derived) == len(apart) and all(trial.first != trial.other for trial in apart)
    assert len({trial.seed for trial in trials}) == len(trials)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("identity")
    assert __main__.main(["--smoke", "--out", str(out)]) == 0
    return out


def results_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "results" / "identity.json").read_text(encoding="utf-8"))


def test_smoke(smoke: Path) -> None:
    """No false copy, no twin missed, and the cosine no longer tells who is whose."""
    found = results_of(smoke)
    assert not identity.wrong(found)
    areas = identity.areas(found, None)
    assert areas["weyl", "hidden"] == areas["cosine", "plain"] == 1 and areas["cosine", "hidden"] < 0.9
    assert ET.parse(smoke / "figures" / "identity.svg").getroot().tag == SVG
    spoiled = {**found, "rows": [{**row, "verdict": "derived"} for row in found["rows"]]}
    assert {row["kind"] for row in identity.wrong(spoiled)} >= {"permuted", "bf16", "unrelated"}


def test_nothing_is_measured_twice(smoke: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = results_of(smoke)
    monkeypatch.setattr(weyl, "compare", lambda *args, **kwargs: pytest.fail("compared again"))
    assert __main__.main(["--smoke", "--out", str(smoke)]) == 0
    assert results_of(smoke) == before


@pytest.mark.skipif(not RESULTS.exists(), reason="the full study has not been run")
def test_what_is_committed_belongs_together() -> None:
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert {family["name"] for family in found["families"]} == set(identity.FULL.families)
    readme = __main__.README.read_text(encoding="utf-8")
    assert identity.with_table(readme, found) == readme
    assert (RESULTS.parents[1] / "figures" / "identity.svg").exists()


@pytest.mark.skipif(not RESULTS.exists(), reason="the full study has not been run")
def test_what_is_committed_has_no_false_copy_and_calls_no_copy_unrelated() -> None:
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    assert {row["kind"] for row in rows} == set(identity.KINDS)
    for row in rows:
        demanded = identity.KINDS[row["kind"]].verdict
        if demanded == "unrelated":
            assert row["verdict"] == "unrelated", row
        elif demanded == "derived":
            assert row["verdict"] in ("derived", "unrelated"), row
        else:
            assert row["verdict"] in (*SAME, "derived"), row


@pytest.mark.slow
def test_the_published_pair_is_recognised() -> None:
    """The fine-tune is derived, disguised or not; networks of the same architecture are unrelated."""
    folders = identity.found()
    if folders is None:
        pytest.skip(f"the two checkpoints are not there; {identity.INSTALL}")
    pair = identity.Pair(folders)
    for case, (_, demanded) in identity.CASES.items():
        assert pair.measured(case)["verdict"] == demanded, case
