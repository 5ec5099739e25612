"""The study of matching: the published loop that benchmarks compare with, and the study's own code on a few digits."""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks._plain_matching import match_plainly
from studies import matching
from studies.matching import __main__, _store, _train
from torch import Tensor, nn

import weyl
from weyl.models import cnn, mlp, transformer

SVG = "{http://www.w3.org/2000/svg}svg"


def drawn(state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Random values for every floating tensor."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def inner(a: dict[str, Tensor], b: dict[str, Tensor], names: set[str]) -> float:
    return sum(float((a[name].double() * b[name].double()).sum()) for name in names)


def with_spaces(structure: weyl.Structure) -> set[str]:
    return {name for space in structure.spaces for name, _ in space.occurrences}


@pytest.mark.parametrize("loaded", [mlp("5-6-7-3"), cnn("4-5", size=8)], ids=["mlp", "cnn"])
def test_the_plain_loop_recovers_a_planted_permutation(loaded: weyl.models.LoadedModel) -> None:
    structure = weyl.discover(loaded.module, loaded.args)
    a = drawn(loaded.module.state_dict(), 0)
    planted = structure.group.random(seed=3, kinds=("permute",))
    found = match_plainly(structure, a, weyl.act(planted, structure, a))
    assert found.element(structure) == ~planted and not planted.is_identity
    assert found.objective == pytest.approx(inner(a, a, with_spaces(structure)), rel=1e-6)
    assert found.steps == found.sweeps * len(structure.spaces) and 0 < found.idle < found.steps


def test_the_objective_of_the_plain_loop_is_the_inner_product() -> None:
    """Of independent networks, the normalised and flattened ones too; a wrong permutation has another one."""
    loaded = cnn("4-5", size=8)
    structure = weyl.discover(loaded.module, loaded.args)
    a, b = (drawn(loaded.module.state_dict(), seed) for seed in (0, 1))
    found = match_plainly(structure, a, b, seed=2)
    names = with_spaces(structure)
    assert {"bn1.running_var", "bn1.bias", "head.weight"} <= names
    moved = weyl.act(found.element(structure), structure, b)
    assert found.objective == pytest.approx(inner(a, moved, names), rel=1e-6)
    assert found.objective > inner(a, b, names) + 1e-3
    backwards = weyl.act(~found.element(structure), structure, b)
    assert abs(inner(a, backwards, names) - found.objective) > 1e-3


def test_the_plain_loop_finds_the_best_of_all_permutations_of_one_space() -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    structure = weyl.discover(net, (torch.zeros(1, 3),))
    a, b = (drawn(net.state_dict(), seed) for seed in (0, 1))
    stack = [torch.cat([s["0.weight"], s["0.bias"][:, None], s["2.weight"].T], 1).double() for s in (a, b)]
    gram = (stack[0] @ stack[1].T).numpy()
    values = [gram[np.arange(5), list(order)].sum() for order in itertools.permutations(range(5))]
    assert match_plainly(structure, a, b).objective == pytest.approx(max(values), rel=1e-6)


def test_the_plain_loop_refuses_what_it_cannot_match() -> None:
    loaded = transformer(dim=8, heads=2, layers=1)
    structure = weyl.discover(loaded.module, loaded.args)
    state = loaded.module.state_dict()
    with pytest.raises(ValueError, match="the published loop knows no"):
        match_plainly(structure, state, state)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("matching")
    assert __main__.main(["--smoke", "--out", str(out)]) == 0
    return out


def results_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "results" / "matching.json").read_text(encoding="utf-8"))


def planned(size: matching.Size) -> list[tuple[str, str, int, str, tuple[int, ...]]]:
    runs = [(a.data, a.kind, a.width, arm, pair) for a in size.archs for arm in matching.ARMS for pair in a.pairs]
    one = size.arch(size.merged)
    return sorted([*runs, (one.data, one.kind, one.width, "together", tuple(range(size.together)))])


def done(results: dict[str, Any]) -> list[tuple[str, str, int, str, tuple[int, ...]]]:
    runs = results["runs"]
    return sorted((run["data"], run["kind"], run["width"], run["arm"], tuple(run["seeds"])) for run in runs)


def test_smoke(smoke: Path) -> None:
    found = results_of(smoke)
    assert done(found) == planned(matching.SMOKE)
    assert ET.parse(smoke / "figures" / "matching.svg").getroot().tag == SVG
    for ending in (".png", "-dark.png"):
        assert (smoke / "figures" / f"matching{ending}").read_bytes().startswith(b"\x89PNG")


def test_matching_lowers_what_lies_between(smoke: Path) -> None:
    """Perceptrons come nearer and the loss between them falls; both ends are the same networks throughout."""
    found = results_of(smoke)
    for arch in matching.SMOKE.archs:
        runs = {run["arm"]: run for run in found["runs"] if (run["kind"], run["width"]) == (arch.kind, arch.width)}
        for arm in matching.ARMS:
            for what in ("plain", "repaired"):
                assert len(runs[arm][what]["loss"]) == found["constants"]["points"]
                ends, before = ([run[what]["loss"][i] for i in (0, -1)] for run in (runs[arm], runs["naive"]))
                assert ends == pytest.approx(before, rel=1e-4)
        if arch.kind == "mlp":
            assert runs["weights"]["distance"] < runs["naive"]["distance"]
            naive, weights = (matching.height(runs[arm]["plain"]["loss"]) for arm in ("naive", "weights"))
            assert weights < naive / 2


@pytest.mark.slow
def test_nothing_is_measured_twice(smoke: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even after an interruption, which costs the run that was being written and no other."""
    before = results_of(smoke)
    cache = smoke / "matching" / "runs.jsonl"
    lines = cache.read_text(encoding="utf-8")
    cache.write_text(lines[: lines.rstrip().rindex("\n") + 40], encoding="utf-8")
    measured = []
    compare = _store.compare
    monkeypatch.setattr(_store, "compare", lambda *args: measured.append(args[1]) or compare(*args))
    monkeypatch.setattr(_train, "train", lambda *args: pytest.fail("trained again"))
    assert __main__.main(["--smoke", "--out", str(smoke)]) == 0
    assert len(measured) == 1
    after = results_of(smoke)
    for found in (before, after):
        for run in found["runs"]:
            run.pop("seconds", None)
    assert after == before


def test_a_training_is_a_function_of_its_seed_and_leaves_the_global_state() -> None:
    before = torch.get_rng_state()
    arch = matching.Arch("digits", "mlp", 8, epochs=2, seeds=2)
    (first, _), (again, _), (other, _) = (matching.train(arch, seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fc1.weight"], other["fc1.weight"])


def test_no_network_is_in_two_pairs() -> None:
    for arch in matching.FULL.archs:
        seeds = [seed for pair in arch.pairs for seed in pair]
        assert len(set(seeds)) == len(seeds) >= 4 and max(seeds) < arch.seeds
    assert matching.FULL.arch(matching.FULL.merged).seeds >= matching.FULL.together


def test_the_height_of_a_barrier() -> None:
    assert matching.height([1.0, 4.0, 2.0]) == pytest.approx(2.5)
    assert matching.height([1.0, 0.5, 2.0]) == 0.0


RESULTS = Path(__main__.__file__).parents[1] / "results" / "matching.json"


@pytest.mark.skipif(not RESULTS.exists(), reason="the full study has not been run")
def test_what_is_committed_belongs_together() -> None:
    committed = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert done(committed) == planned(matching.FULL)
    readme = __main__.README.read_text(encoding="utf-8")
    assert matching.with_table(readme, committed) == readme
    assert (RESULTS.parents[1] / "figures" / "matching.svg").exists()
