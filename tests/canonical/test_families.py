"""Fingerprints and normal forms on families of architectures: the same on all of an orbit, another next to it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from tests.laws.checks import double, moved_places, random_state, storage
from tests.matching.test_match import MODELS, ROUNDED
from tests.orbits.test_fold import PreNorm, drawn, tokens
from tests.trace.test_acceptance import LARGE, SMALL, discovered
from torch import Tensor, nn

import weyl
from weyl.canonical import canonicalize, fingerprint
from weyl.canonical._fingerprint import exact_part
from weyl.groups import GaugeKind

State = dict[str, Tensor]
Case = tuple[weyl.Structure, State]

# Of the table of discovery, what the networks of the tests of matching do not have.
FROM_DISCOVERY = (
    "square 4-3-4-2-3",
    "prelu 2-5-3-1",
    "hardsigmoid 2-5-3-1",
    "sin 2-5-3-1 without biases",
    "lstm 4×2 projected",
    "gru 4×2",
    "rnn relu 3×1",
)
# A linear layer wider than the rank of what it joins has no state of least norm.
WIDE = ("bottleneck of 4", "attention 1×3, bias True", "multi-head attention of torch 2×2", "residual relu 5, 2")


def folded(norm: type[nn.Module]) -> Case:
    """A transformer whose norms have their gains in their readers: the stream turns."""
    model = drawn(PreNorm(norm=norm), seed=3)
    found = weyl.fold_norms(model, (tokens(),))
    structure = weyl.discover(found.model, (tokens(),))
    assert {gauge.kind for gauge in structure.gauges} & {GaugeKind.ORTHOGONAL, GaugeKind.CENTRED}
    return structure, found.model.state_dict()


FOLDED: dict[str, type[nn.Module]] = {"folded LayerNorm": nn.LayerNorm, "folded RMSNorm": nn.RMSNorm}


@cache
def case(name: str) -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name in FOLDED:
            return folded(FOLDED[name])
        if name in MODELS or name in ROUNDED:
            model, args = {**MODELS, **ROUNDED}[name]()
            model = model.double().eval()
            return weyl.discover(model, double(args)), random_state(model, 1)
        row = {**SMALL, **LARGE}[name]()
        return discovered(row), random_state(row.model.double(), 1)


QUICK = [*MODELS, *ROUNDED, *FROM_DISCOVERY, *FOLDED]
KNOWN = [pytest.param(name, marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore")]) for name in LARGE]


def nudged(state: State, name: str) -> State:
    """The state with the first entry of a tensor one unit in the last place larger."""
    tensor = state[name].clone()
    tensor.view(-1)[0] = torch.nextafter(tensor.view(-1)[0], tensor.new_tensor(torch.inf))
    return {n: tensor if storage(t) == storage(state[name]) else t for n, t in state.items()}


def _moved(exact: weyl.Structure, state: State, seed: int) -> State:
    """A copy under a random element that moves something: small groups draw the identity now and then."""
    copies = (weyl.act(exact.group.random(s), exact, state) for s in range(seed, seed + 20))
    return next(copy for copy in copies if moved_places(exact, state, copy))


def halves(structure: weyl.Structure, state: State) -> Iterator[State]:
    """Twins of which one tensor stayed behind."""
    exact = exact_part(structure)
    twin = _moved(exact, state, 5)
    moved = moved_places(structure, state, twin)
    for name in moved[:2]:
        left = {n: state[n] if storage(state[n]) == storage(state[name]) else t for n, t in twin.items()}
        if len({storage(state[n]) for n in moved}) > 1:
            yield left


@pytest.mark.parametrize("name", [*QUICK, *WIDE, *KNOWN])
def test_one_fingerprint_for_permuted_and_flipped_copies(name: str) -> None:
    structure, state = case(name)
    exact = exact_part(structure)
    assert not exact.group.trivial
    expected = fingerprint(structure, state)
    for seed in (1, 30):
        copy = _moved(exact, state, seed)
        assert fingerprint(structure, copy) == expected
    floating = [n for n in structure.axes if state[n].is_floating_point() and state[n].numel()]
    for changed in (floating[0], floating[-1]):
        assert fingerprint(structure, nudged(state, changed)) != expected, changed
    for wrong in halves(structure, state):
        assert fingerprint(structure, wrong) != expected


def distance(structure: weyl.Structure, one: State, other: State) -> float:
    """Largest difference, relative to the largest entry of the tensor where that is above one."""
    worst = 0.0
    for name in structure.axes:
        a, b = one[name].double(), other[name].double()
        if a.numel():
            worst = max(worst, float((a - b).abs().max() / a.abs().max().clamp_min(1.0)))
    return worst


def invariant(name: str) -> None:
    structure, state = case(name)
    form = canonicalize(structure, state)
    assert not form.undecided
    for seed in (1, 2):
        copy = weyl.act(structure.group.random(seed), structure, state)
        assert distance(structure, form.state, canonicalize(structure, copy).state) < 1e-9
    wrong = next(halves(structure, state), None)
    if wrong is not None:
        assert distance(structure, form.state, canonicalize(structure, wrong).state) > 1e-6


@pytest.mark.parametrize("name", [*QUICK, *KNOWN])
def test_one_form_for_all_of_an_orbit(name: str) -> None:
    invariant(name)


@pytest.mark.parametrize("name", WIDE)
def test_what_has_no_least_norm_is_said_to_be_undecided(name: str) -> None:
    structure, state = case(name)
    form = canonicalize(structure, state)
    linear = {gauge.name for gauge in structure.gauges if gauge.kind is GaugeKind.LINEAR}
    assert form.undecided and {gauge for gauge, _ in form.undecided} <= linear


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.xfail(strict=True, reason="linear layers wider than the rank of what they join have no least norm")
def test_forms_of_what_has_no_least_norm(name: str) -> None:
    structure, state = case(name)
    copy = weyl.act(structure.group.random(1), structure, state)
    assert distance(structure, canonicalize(structure, state).state, canonicalize(structure, copy).state) < 1e-9


@pytest.mark.parametrize("name", [*QUICK, *KNOWN])
def test_a_form_is_its_own_form_and_the_element_leads_there(name: str) -> None:
    structure, state = case(name)
    form = canonicalize(structure, state)
    assert distance(structure, form.state, canonicalize(structure, form.state).state) < 1e-9
    assert distance(structure, form.state, weyl.act(form.element, structure, state)) < 1e-9
    assert set(form.state) == set(state)


@pytest.mark.parametrize("name", QUICK)
def test_without_what_rounds_forms_agree_to_the_last_bit(name: str) -> None:
    structure, state = case(name)
    if structure.absorptions:
        state = {n: t.clone() for n, t in state.items()}
    exact = exact_part(structure)
    kinds = ("permute",) if structure.absorptions else ("permute", "sign")
    form = canonicalize(structure, state, kinds=kinds)
    assert form.exact and form.stabilizer == 1
    copy = weyl.act(exact.group.random(7, kinds=kinds), exact, state)
    other = canonicalize(structure, copy, kinds=kinds)
    assert all(torch.equal(form.state[n], other.state[n]) for n in structure.axes)
    again = canonicalize(structure, form.state, kinds=kinds)
    assert all(torch.equal(form.state[n], again.state[n]) for n in structure.axes)
    there = weyl.act(form.element, structure, state)
    assert all(torch.equal(there[n], form.state[n]) for n in structure.axes)
