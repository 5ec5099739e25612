from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import weyl
from weyl.demo import run
from weyl.demo._minima import Judge, distances, interpolate, straight_line, twins
from weyl.demo._subjects import images
from weyl.demo._train import trained
from weyl.report import Demo, render_demo, to_json


@pytest.fixture(scope="module")
def demo() -> Demo:
    return run(quick=True, seed=3)


def test_everything_claimed_is_found_true(demo: Demo) -> None:
    assert demo.holds
    dense, residual = demo.networks
    assert int(dense.inspection.structure.group.permutation_order) == math.factorial(24) ** 3
    assert int(residual.inspection.structure.group.permutation_order) == (math.factorial(6) * math.factorial(8)) ** 2
    for network in demo.networks:
        assert network.accuracy > 0.85
        assert len(network.twins) == 5 and len({twin.distance for twin in network.twins}) == 5
        for twin in network.twins:
            assert twin.loss == pytest.approx(network.loss, abs=1e-12)
            assert twin.accuracy == network.accuracy
            assert twin.difference < 1e-9
            assert twin.moved > 0.5
        assert 0 < network.closest <= min(twin.distance for twin in network.twins)


def test_symmetry_alone_makes_a_barrier(demo: Demo) -> None:
    for network in demo.networks:
        path = network.path
        assert (len(path.at), path.at[0], path.at[-1]) == (21, 0.0, 1.0)
        assert path.loss[0] == pytest.approx(network.loss, rel=1e-4)
        assert path.loss[-1] == pytest.approx(network.loss, rel=1e-4)
        assert path.barrier > 3 * network.loss
        assert min(path.accuracy) < network.accuracy - 0.2


def test_a_twin_that_computes_something_else_is_not_let_pass(demo: Demo) -> None:
    first = demo.networks[0]
    wrong = replace(first, twins=(replace(first.twins[0], difference=1e-3), *first.twins[1:]))
    assert not replace(demo, networks=(wrong, demo.networks[1])).holds
    unproved = replace(first, inspection=replace(first.inspection, proof=None))
    assert not unproved.holds


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_global_random_state_and_threads_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    # Checking the signatures of weyl.data draws from Python's generator; tests/data looks at it without these checks.
    made = {seed: images(True, seed) for seed in (1,)}
    monkeypatch.setattr("weyl.demo._run.images", lambda quick, seed: made[seed])
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first, again = run(quick=True, seed=1), run(quick=True, seed=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]
    assert torch.get_num_threads() == 2
    assert [n.path for n in first.networks] == [n.path for n in again.networks]


def test_report_and_numbers(demo: Demo) -> None:
    page = render_demo(demo, numbers="report.json")
    assert page.count("<svg ") == 13 and page.count('role="img"') == 13
    assert "<script" not in page and "report.json" in page
    for network in demo.networks:
        assert f"{network.loss:.12f}" in page
    numbers = json.loads(to_json(demo.to_dict()))
    assert numbers["networks"][1]["path"]["barrier"] == demo.networks[1].path.barrier
    assert numbers["networks"][0]["inspection"]["order"]["factorials"] == [[24, 3]]


def test_how_far_the_networks_have_collapsed(demo: Demo) -> None:
    page = render_demo(demo)
    for network in demo.networks:
        train, test = network.collapse["train"], network.collapse["test"]
        assert test.accuracy == pytest.approx(network.accuracy)
        assert train.nc1_ratio is not None and 0 < train.nc1_ratio < train.reference["nc1_ratio"].chance
        # A few epochs do not make a simplex, and the report must not say so.
        assert network.verdict.level in ("not", "partly") and network.verdict.sentence in page
        assert train.classes == tuple("0123456789")
    assert page.count("How far it has collapsed") == 2 and "Hui, Belkin, Nakkiran" in page
    told = json.loads(to_json(demo.to_dict()))["networks"][0]["collapse"]
    assert told["parts"]["train"]["nc2"] == demo.networks[0].collapse["train"].nc2


def test_progress_rises_to_the_end() -> None:
    seen: list[float] = []
    run(quick=True, report=lambda what, done: seen.append(done))
    assert seen == sorted(seen) and seen[-1] == pytest.approx(1.0)


def test_training_returns_a_copy_that_learned() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 4, generator=generator)
    y = (x[:, 0] > 0).long()
    net = nn.Linear(4, 2)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    learned = trained(net, x, y, epochs=10, rate=0.1, seed=0)
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0)
    judge = Judge(learned, x, y)
    assert judge.score(judge.logits(learned.state_dict()))[1] > 0.95
    assert net.training and not learned.training


def test_twins_see_a_wrong_structure() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    structure = weyl.discover(net, (torch.ones(2, 4),))
    judge = Judge(net, torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3)
    (twin,), (state,) = twins(judge, structure, net.state_dict(), [1])
    assert twin.difference < 1e-12 and state["0.weight"].dtype is torch.float64
    for name, tensor in net.state_dict().items():
        assert torch.equal(state[name].flatten().sort().values, tensor.double().flatten().sort().values)
    still = {**structure.axes, "2.weight": (weyl.structure.Fixed(3), weyl.structure.Fixed(5))}
    (wrong,), _ = twins(judge, replace(structure, axes=still), net.state_dict(), [1])
    assert wrong.difference > 1e-3


def test_lines_and_distances() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2, affine=False)).eval()
    start = {**net.state_dict(), "0.weight": torch.eye(2)}
    end = {**start, "0.weight": torch.zeros(2, 2), "1.running_mean": torch.ones(2)}
    middle = interpolate(start, end, 0.25)
    torch.testing.assert_close(middle["0.weight"], 0.75 * torch.eye(2))
    torch.testing.assert_close(middle["1.running_mean"], torch.full((2,), 0.25))
    assert middle["1.num_batches_tracked"].dtype is torch.int64
    norm, closest = distances(net, [start, end])
    assert norm == pytest.approx(math.sqrt(2)) and closest == pytest.approx(math.sqrt(2))
    path = straight_line(Judge(net, torch.eye(2), torch.arange(2)), start, end, 3)
    assert path.at == (0.0, 0.5, 1.0) and path.accuracy[0] == 1.0 and path.accuracy[-1] == 0.5
