"""Means of states: laws of the line and the arc, ties, precision, and what is refused."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from weyl.errors import MismatchError, NotFiniteError, UsageError
from weyl.merging import average, interpolate, slerp

LINES = (interpolate, slerp)


def state(seed, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return {
        "w": torch.randn(5, 4, generator=g).to(dtype),
        "b": torch.randn(5, generator=g).to(dtype),
        "s": torch.randn((), generator=g).to(dtype),
        "empty": torch.zeros(0, 3, dtype=dtype),
        "bn.running_var": torch.rand(5, generator=g).to(dtype) + 0.5,
        "bn.num_batches_tracked": torch.tensor(seed),
    }


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in two) and list(one) == list(two)


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_ends_are_exact_and_so_are_equal_states(line, dtype):
    a, b = state(1, dtype), state(2, dtype)
    counter = {"bn.num_batches_tracked": a["bn.num_batches_tracked"]}
    assert same(line(a, b, 0.0), a)
    if line is interpolate:
        assert same(line(a, b, 1.0), b | counter)
    for at in (0.1, 0.5, 0.7):
        assert same(line(a, a, at), a)
    assert not same(line(a, b, 0.5), a)


@given(st.lists(st.integers(-8, 8), min_size=1, max_size=5).filter(sum), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_mean_is_that_of_rational_numbers(parts, seed):
    weights = [part / sum(parts) for part in parts]
    g = torch.Generator().manual_seed(seed)
    values = torch.randint(-50, 50, (len(parts), 6), generator=g)
    found = average([{"w": row.double()} for row in values], weights)["w"]
    for place in range(6):
        exact = sum(Fraction(part, sum(parts)) * int(v) for part, v in zip(parts, values[:, place], strict=True))
        assert abs(float(found[place]) - float(exact)) < 1e-10 * max(1, sum(map(abs, parts)))


def test_float32_is_rounded_once():
    g = torch.Generator().manual_seed(0)
    rows = [torch.randn(3000, generator=g) for _ in range(7)]
    found = average([{"w": row} for row in rows])["w"]
    exact = torch.stack(rows).double().mean(0)
    # Half the distance to the next float32, and what float64 rounds.
    half = torch.from_numpy(np.spacing(exact.float().abs().numpy())).double() / 2 + 1e-15
    assert bool(((found.double() - exact).abs() <= half).all())
    # Control: a sum in float32 is rounded more often.
    assert not bool((((sum(rows[1:], rows[0]) / 7).double() - exact).abs() <= half).all())


def test_large_tensors_are_combined_in_pieces(monkeypatch):
    a, b = state(1), state(2)
    whole = interpolate(a, b, 0.3), slerp(a, b, 0.3)
    monkeypatch.setattr("weyl.merging._interpolate.CHUNK", 3)
    pieces = interpolate(a, b, 0.3), slerp(a, b, 0.3)
    assert same(pieces[0], whole[0])
    for name in a:
        torch.testing.assert_close(pieces[1][name], whole[1][name])


def test_the_line_is_the_mean_and_goes_on():
    a, b = state(3, torch.float64), state(4, torch.float64)
    for at in (-0.5, 0.25, 1.5):
        found = interpolate(a, b, at)
        for name in ("w", "b", "s", "bn.running_var"):
            torch.testing.assert_close(found[name], torch.lerp(a[name], b[name], at), rtol=1e-14, atol=1e-14)
    assert int(interpolate(a, b, 0.9)["bn.num_batches_tracked"]) == 3


def test_slerp_turns_evenly_and_its_norm_is_on_the_line():
    a, b = state(5, torch.float64)["w"].flatten(), 3 * state(6, torch.float64)["w"].flatten()

    def angle(x, y):
        return math.acos(float(x @ y / x.norm() / y.norm()))

    for at in (0.2, 0.5, 0.9):
        found = slerp({"w": a}, {"w": b}, at)["w"]
        assert float(found.norm()) == pytest.approx((1 - at) * float(a.norm()) + at * float(b.norm()), rel=1e-12)
        assert angle(a, found) == pytest.approx(at * angle(a, b), rel=1e-10)
        line = interpolate({"w": a}, {"w": b}, at)["w"]
        assert float(line.norm()) < float(found.norm()) * 0.999
    torch.testing.assert_close(slerp({"w": a}, {"w": b}, 1.0)["w"], b)


@pytest.mark.parametrize("other", [torch.zeros(4), torch.ones(4) * 3, -torch.ones(4), torch.ones(4) * (1 + 1e-12)])
def test_slerp_takes_the_line_where_there_is_no_arc(other):
    a, b = {"w": torch.ones(4, dtype=torch.float64)}, {"w": other.double()}
    for at in (0.0, 0.3, 1.0):
        torch.testing.assert_close(slerp(a, b, at)["w"], torch.lerp(a["w"], b["w"], at), rtol=1e-12, atol=1e-12)


def test_slerp_leaves_running_statistics_on_the_line():
    a, b = state(1, torch.float64), state(2, torch.float64)
    torch.testing.assert_close(slerp(a, b, 0.5)["bn.running_var"], (a["bn.running_var"] + b["bn.running_var"]) / 2)
    line = (a["w"] + b["w"]) / 2
    assert not torch.allclose(slerp(a, b, 0.5)["w"], line)


@pytest.mark.parametrize("line", LINES)
def test_nothing_given_is_changed_and_nothing_made_is_shared(line):
    a, b = state(1), state(2)
    before = {name: tensor.clone() for name, tensor in a.items()}
    found = line(a, b, 0.5)
    for tensor in found.values():
        tensor.zero_()
    assert same(a, before)
    assert list(found) == list(a)


def test_gradients_parameters_and_layouts():
    a = {"w": nn.Parameter(torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last))}
    b = {"w": torch.zeros(2, 3, 4, 4)}
    found = interpolate(a, b, 0.25)["w"]
    assert not found.requires_grad and type(found) is torch.Tensor and bool((found == 0.75).all())
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert interpolate({"w": torch.tensor([1j])}, {"w": torch.tensor([1.0 + 0j])}, 0.5)["w"].item() == 0.5 + 0.5j


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def test_tied_tensors_stay_tied():
    a, b = Tied().state_dict(), Tied().state_dict()
    found = interpolate(a, b, 0.5)
    assert found["embed.weight"] is found["head.weight"]
    # A file keeps a copy of each.
    copies = {name: tensor.clone() for name, tensor in b.items()}
    again = interpolate(a, copies, 0.5)
    assert again["embed.weight"] is again["head.weight"] and torch.equal(again["head.weight"], found["head.weight"])
    free = interpolate(copies, a, 0.5)
    assert free["embed.weight"] is not free["head.weight"]
    copies["head.weight"] += 1
    with pytest.raises(MismatchError, match=r"are one tensor in state 1 and differ in state 2"):
        interpolate(a, copies, 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("b"), r"1 missing \(b\)"),
        (lambda s: s.update(c=torch.zeros(1)), r"1 unexpected \(c\)"),
        (lambda s: s.update(b=torch.zeros(6)), r"b \(6,\) floating, not \(5,\) floating"),
        (lambda s: s.update(b=torch.zeros(5, dtype=torch.int64)), r"integer, not \(5,\) floating"),
    ],
)
@pytest.mark.parametrize("line", LINES)
def test_states_of_other_networks_are_refused_with_a_diff(line, change, message):
    a, b = state(1), state(2)
    change(b)
    with pytest.raises(MismatchError, match=rf"states 1 and 2 do not fit: .*{message}"):
        line(a, b, 0.5)


def test_nan_is_refused_but_not_a_mask_that_all_share():
    a, b = state(1), state(2)
    mask = torch.full((3, 3), -math.inf).triu(1)
    assert torch.equal(interpolate(a | {"mask": mask}, b | {"mask": mask.clone()}, 0.5)["mask"], mask)
    for bad in (math.nan, math.inf):
        b["w"][2, 1] = bad
        with pytest.raises(NotFiniteError, match="w of state 2 has NaN or infinity"):
            interpolate(a, b, 0.5)
        with pytest.raises(NotFiniteError, match="w of state 1"):
            interpolate(b, b if bad != bad else a, 0.5)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((0.5, 0.6), "must sum to 1, got 1.1"),
        ((-0.5, -0.5), "must sum to 1, got -1"),
        ((1.0,), "as many as the states, 2; got 1"),
        ((math.nan, 1.0), "finite number, got nan"),
        ((math.inf, -math.inf), "finite number, got inf"),
        (("x", 1.0), "finite number, got 'x'"),
        (0.5, "a sequence of 2 numbers, got float"),
    ],
)
def test_weights_that_make_no_mean_are_refused(weights, message):
    with pytest.raises(UsageError, match=message):
        average([state(1), state(2)], weights)
    average([state(1), state(2)], (0.5, 0.5 + 5e-7))


def test_other_things_are_refused():
    a = state(1)
    with pytest.raises(UsageError, match="at must be a finite number"):
        interpolate(a, a, math.nan)
    with pytest.raises(UsageError, match="between 0 and 1 on an arc"):
        slerp(a, a, 1.5)
    with pytest.raises(UsageError, match="state dict of tensors, got Linear"):
        interpolate(nn.Linear(1, 1), a, 0.5)
    with pytest.raises(UsageError, match=r"pass \[a, b\]"):
        average(a)
    with pytest.raises(UsageError, match="sequence of state dicts"):
        average([])
