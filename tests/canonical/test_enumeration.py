"""Fingerprints and stabilisers against whole groups, enumerated, on states whose entries are a few small integers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.canonical.enumeration import Whole
from tests.laws.checks import double
from tests.laws.nets import Net, lin
from tests.matching.test_oracle import SEVERAL, SINGLE
from tests.orbits.test_orbit import ODD, STRUCTURES, table
from torch import Tensor, nn

import weyl
from weyl.canonical import canonicalize, fingerprint
from weyl.groups import Kind, Space
from weyl.structure import Fixed, Product, Units

X = torch.tensor([[2.0, -1.0], [1.0, 3.0]])
SEQUENCE = torch.tensor([[[1.0], [-2.0], [3.0]], [[2.0], [1.0], [0.5]]])
IMAGE = torch.tensor([[[[1.0, -2.0, 3.0], [2.0, 1.5, -1.0], [0.5, 2.5, -3.5]]]])

HEADS = (Space("h", 3), Space("d", 2, within=("h",)), Space("a", 2))
HEAD_ROWS = Product((Units("h", 3), Units("d", 2)))
SIGNED = (Space("a", 2, Kind.SIGNS), Space("b", 2, ODD), Space("c", 2, ODD))
CUBE = (Units("a", 2), Units("b", 2), Units("c", 2))

# Structures without a network: shapes in which choices interact.
PLANTED = {
    "heads on a free stream": table(HEADS, {"q": (HEAD_ROWS, Units("a", 2))}),
    "heads, read first by the stream": table(HEADS, {"o": (Units("a", 2), HEAD_ROWS)}),
    "two spaces within one": table(
        (Space("h", 2), Space("d", 2, within=("h",)), Space("e", 2, within=("h",))),
        {"w": (Units("h", 2), Units("d", 2), Units("e", 2))},
    ),
    "a matrix of signs": table(
        (Space("a", 3, ODD), Space("b", 2, ODD)), {"w": (Units("a", 3), Units("b", 2))}, (("a", ("w",)), ("b", ("w",)))
    ),
    "three signs on an entry": table(
        SIGNED, {"w": CUBE, "v": CUBE[:1]}, (("a", ("w", "v")), ("b", ("w",)), ("c", ("w",)))
    ),
    "three signs, joined": table(
        SIGNED, {"w": CUBE, "v": CUBE[::2]}, (("a", ("w", "v")), ("b", ("w",)), ("c", ("w", "v")))
    ),
    "graph": table((Space("a", 4),), {"w": (Units("a", 4), Units("a", 4))}),
    "graph of signs": table((Space("a", 3, ODD),), {"w": (Units("a", 3), Units("a", 3))}, (("a", ("w",)),)),
    "two graphs, joined": table(
        (Space("a", 3, ODD), Space("b", 2)),
        {"w": (Units("a", 3), Units("a", 3)), "v": (Units("b", 2), Units("a", 3)), "u": (Units("b", 2), Units("b", 2))},
        (("a", ("w", "v")),),
    ),
    "a free stream with two readers": table(
        (Space("a", 3), Space("b", 2), Space("c", 2)),
        {
            "up": (Units("b", 2), Units("a", 3)),
            "down": (Units("a", 3), Units("c", 2)),
            "side": (Units("c", 2), Units("b", 2)),
            "embed": (Fixed(1), Units("a", 3)),
        },
    ),
}


def recurrent(kind: Any, units: int, **options: Any) -> Callable[[], tuple[nn.Module, Tensor]]:
    layer = kind(1, units, batch_first=True, **options)
    return lambda: (Net(lambda n, x: n.o(n.l(x)[0][:, -1]), l=layer, o=lin(units, 1)), SEQUENCE)


def stream() -> tuple[nn.Module, Tensor]:
    """A residual stream that a norm without parameters keeps from scales."""
    return Net(
        lambda n, x: n.o((h := n.i(x)) + n.b(torch.tanh(n.a(nn.functional.layer_norm(h, (3,)))))),
        i=lin(2, 3, False), a=lin(3, 2, False), b=lin(2, 3, False), o=lin(3, 1, False),
    ), X  # fmt: skip


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    **{f"one space, {name}": made for name, (made, _) in SINGLE.items() if name != "heads"},
    **{f"several spaces, {name}": made for name, (made, *_) in SEVERAL.items()},
    "relu 2-3-2": lambda: (nn.Sequential(lin(2, 3), nn.ReLU(), lin(3, 2)), X),
    "tanh 2-2-2-1": lambda: (nn.Sequential(lin(2, 2), nn.Tanh(), lin(2, 2), nn.Tanh(), lin(2, 1)), X),
    "linear": lambda: (nn.Sequential(lin(2, 2), lin(2, 2)), X),
    "batch norm": lambda: (
        nn.Sequential(nn.Conv2d(1, 2, 2, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 2)),
        IMAGE,
    ),
    "rnn": recurrent(nn.RNN, 3),
    "gru": recurrent(nn.GRU, 2),
    "lstm": recurrent(nn.LSTM, 2),
    "rnn of relu": recurrent(nn.RNN, 3, nonlinearity="relu", num_layers=2),
    "stream": stream,
}
CASES = [*STRUCTURES, *PLANTED, *NETWORKS]


@cache
def whole(name: str) -> Whole:
    known = {**STRUCTURES, **PLANTED}
    if name in known:
        return Whole(known[name])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = NETWORKS[name]()
    return Whole(weyl.discover(model.double().eval(), double((x,))))


VALUES = [[1.0], [0.0, 1.0], [-1.0, 1.0], [-1.0, 0.0, 1.0], [1.0, -2.0, 3.0, 0.0]]


@st.composite
def pairs(draw: st.DrawFn, group: Whole) -> tuple[np.ndarray, np.ndarray]:
    """A state that some elements leave alone, and one often of its orbit: moved, and perhaps changed."""
    chosen = draw(st.lists(st.integers(0, group.order - 1), max_size=2))
    values = draw(st.lists(st.sampled_from(draw(st.sampled_from(VALUES))), min_size=1, max_size=group.count))
    flat = group.fixed_by(chosen, itertools.cycle(values))
    other = group.orbit(flat)[draw(st.integers(0, group.order - 1))].copy()
    for one, two in draw(st.lists(st.tuples(*[st.integers(0, group.count - 1)] * 2), max_size=2)):
        other[[one, two]] = other[[two, one]]
    return flat, other


def check(group: Whole, flat: np.ndarray, other: np.ndarray) -> bool:
    """One fingerprint exactly if some element makes one state of the other; whether one did."""
    same = group.least(flat) == group.least(other)
    prints = [fingerprint(group.structure, group.state(f)) for f in (flat, other)]
    assert (prints[0] == prints[1]) == same, (flat, other)
    form = canonicalize(group.structure, group.state(other), kinds=("permute", "sign"))
    assert form.exact and form.stabilizer == group.stabiliser(other), other
    assert group.least(group.flat(form.state)) == group.least(other), "the form is not of the orbit"
    return same


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(data=st.data())
def test_one_fingerprint_exactly_for_one_orbit(name: str, data: st.DataObject) -> None:
    check(whole(name), *data.draw(pairs(whole(name))))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_one_fingerprint_exactly_for_one_orbit_at_length(name: str, data: st.DataObject) -> None:
    flat, other = data.draw(pairs(whole(name)))
    check(whole(name), flat, other)
    found = weyl.orbit(whole(name).structure, whole(name).state(other))
    assert found.stabiliser_order == whole(name).stabiliser(other)
