"""Barriers: closed forms, metrics, intervals, and losses that are no numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import weyl
from weyl.errors import MismatchError, UsageError
from weyl.merging import Barrier, Evaluation, barrier, evaluator, interpolate

A, B = {"w": torch.tensor(-1.0, dtype=torch.float64)}, {"w": torch.tensor(3.0, dtype=torch.float64)}


def w(state):
    return float(state["w"])


def test_a_parabola_has_the_barrier_of_its_formula():
    # -(w - 1)² rises by t (1 - t) 4² above its chord.
    found = barrier(lambda s: -((w(s) - 1) ** 2), A, B, points=5)
    assert found.height == pytest.approx(4.0, rel=1e-14) and found.where == 0.5
    assert found.at == (0.0, 0.25, 0.5, 0.75, 1.0) and found.interval is None
    # The other way round it lies below the chord, where the barrier is zero, at the end.
    below = barrier(lambda s: (w(s) - 1) ** 2, A, B, points=5)
    assert (below.height, below.where) == (0.0, 0.0)


@pytest.mark.parametrize("slope", [0.0, 1.0, -2.5])
def test_a_line_is_no_barrier(slope):
    found = barrier(lambda s: slope * w(s) + 7, A, B)
    assert 0.0 <= found.height < 1e-14
    # Control: what is added to a line is its barrier, whatever the slope.
    bump = barrier(lambda s: slope * w(s) + (2.0 if abs(w(s) - 1) < 0.1 else 0.0), A, B)
    assert bump.height == pytest.approx(2.0) and bump.where == 0.5


def test_metrics_drop_below_their_line():
    found = barrier(lambda s: {"accuracy": 1 - abs(w(s)), "loss": w(s) ** 2, "f1": 0.5}, A, B, points=5)
    assert found.losses == (1.0, 0.0, 1.0, 4.0, 9.0) and set(found.metrics) == {"accuracy", "f1"}
    # 0, 1, 0, -1, -2 against the line from 0 to -2: never below it.
    assert found.drop("accuracy") == 0.0 == found.drop("f1")
    risen = barrier(lambda s: {"loss": 0.0, "accuracy": abs(w(s) - 1)}, A, B, points=5)
    assert risen.drop("accuracy") == 2.0 and risen.height == 0.0
    with pytest.raises(UsageError, match="no metric 'auc' on this path; metrics: 'accuracy', 'f1'"):
        found.drop("auc")


def test_what_an_evaluation_may_return():
    for one in (
        1.5,
        np.float32(1.5),
        torch.tensor(1.5),
        torch.tensor(1.5, requires_grad=True),
        {"first": 1.5, "x": 9.0},
    ):
        found = barrier(lambda s, one=one: one, A, B, points=3)
        assert found.losses == (1.5,) * 3
    for bad in (None, {}, "x", {"loss": torch.zeros(2)}):
        with pytest.raises(UsageError, match="must return a number, a mapping of names to numbers or an Evaluation"):
            barrier(lambda s, bad=bad: bad, A, B)
    with pytest.raises(UsageError, match="the same at every point: \\['loss'\\] at the first"):
        barrier(lambda s: {"loss": 1.0} if w(s) < 0 else {"loss": 1.0, "more": 2.0}, A, B)


def test_a_loss_that_is_no_number_is_told():
    found = barrier(lambda s: math.nan if w(s) == 1 else 0.0, A, B, points=5)
    assert math.isnan(found.height) and found.where == 0.5 and found.interval is None
    assert found.to_dict()["height"] is None and found.to_dict()["losses"] == [0.0, 0.0, None, 0.0, 0.0]
    assert "nan" in repr(found)
    assert math.isnan(barrier(lambda s: math.inf if w(s) < 0 else 0.0, A, B).height)
    assert barrier(lambda s: math.inf if w(s) == 1 else 0.0, A, B).height == math.inf


def noisy(s, batches=40, seed=0):
    noise = np.random.default_rng(seed).normal(size=batches)
    hill = 1 - abs(w(s) - 1) / 2
    return Evaluation({"loss": hill + 0.3 * hill * noise + 5 * noise}, np.full(batches, 10))


def test_the_interval_pairs_the_batches():
    found = barrier(noisy, A, B, points=5, seed=3)
    low, high = found.interval
    assert low < found.height < high and found.confidence == 0.95
    # What varies from batch to batch at every point alike cancels: 5·noise would alone give a width of 3.
    assert 0.05 < high - low < 0.4
    mean = noisy(B).batches["loss"].mean()
    assert found.losses[-1] == pytest.approx(mean)
    wider = barrier(noisy, A, B, points=5, seed=3, confidence=0.99).interval
    assert wider[0] < low and high < wider[1]
    assert barrier(noisy, A, B, points=5, seed=3).interval == found.interval
    assert barrier(noisy, A, B, points=5, seed=4).interval != found.interval


def test_intervals_cover_the_true_height():
    heights = [barrier(lambda s, i=i: noisy(s, 30, i), A, B, points=3, confidence=0.9).interval for i in range(100)]
    covered = sum(low <= 1.0 <= high for low, high in heights)
    assert 80 <= covered <= 98


def test_no_interval_without_batches_and_none_of_unlike_ones():
    assert barrier(lambda s: noisy(s, 1), A, B).interval is None
    with pytest.raises(UsageError, match="batches differ from point to point"):
        barrier(lambda s: noisy(s, 4 if w(s) < 0 else 5), A, B)


def test_sizes_weight_the_batches():
    def evaluate(s):
        hill = 1 - abs(w(s) - 1) / 2
        return Evaluation({"loss": np.array([hill, 0.0])}, np.array([3, 1]))

    found = barrier(evaluate, A, B, points=3)
    assert found.height == pytest.approx(0.75) and found.interval[1] == pytest.approx(1.0)


def test_a_path_of_ones_own_between_the_states_themselves():
    seen = []

    def path(a, b, t):
        seen.append(t)
        return interpolate(a, b, t**2)

    found = barrier(w, A, B, points=5, path=path)
    assert seen == [0.25, 0.5, 0.75] and found.losses == (-1.0, -0.75, 0.0, 1.25, 3.0)


def test_progress_and_json():
    told = []
    found = barrier(lambda s: w(s) ** 2, A, B, points=4, progress=told.append)
    assert told == [0.25, 0.5, 0.75, 1.0]
    again = json.loads(json.dumps(found.to_dict()))
    assert again["losses"] == list(found.losses) and again["at"] == list(found.at) and again["interval"] is None
    assert repr(Barrier((0.0, 0.5, 1.0), (1.0, 2.0, 1.0), interval=(0.5, 1.5))) == (
        "Barrier(height 1 [0.5, 1.5] at 0.5, ends 1 and 1, 3 points)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 2}, "at least 3"),
        ({"points": 5.0}, "at least 3"),
        ({"points": True}, "at least 3"),
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"confidence": "x"}, "between 0 and 1"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        barrier(w, A, B, **options)


def test_states_are_compared_before_anything_is_evaluated():
    called = []
    with pytest.raises(MismatchError, match="1 unexpected"):
        barrier(called.append, A, B | {"v": B["w"]})
    with pytest.raises(UsageError, match="evaluate must be a function"):
        barrier(A, A, B)
    assert not called


def test_a_permuted_network_is_behind_a_barrier_and_an_aligned_one_is_not():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(64, 3)
    y = net(x).argmax(1)
    structure = weyl.discover(net, (x,))
    a = {name: tensor * 2 for name, tensor in net.state_dict().items()}
    b = weyl.act(structure.group.random(1, kinds=("permute",)), structure, a)
    judge = evaluator(net, [(x[:32], y[:32]), (x[32:], y[32:])])
    apart, together = barrier(judge, a, b, points=5), barrier(judge, a, a, points=5)
    assert apart.height > 0.1 and apart.interval[0] > 0.0 and apart.drop("accuracy") > 0.0
    assert together.height == 0.0 == together.drop("accuracy")
