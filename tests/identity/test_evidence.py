"""Networks that were trained apart, and networks that were not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

import weyl
import weyl.data
from weyl.actions import act
from weyl.errors import NotFiniteError
from weyl.identity import _rows
from weyl.identity._evidence import Evidence, evidence
from weyl.matching._frames import Frames
from weyl.structure import Structure

State = dict[str, Tensor]
KINDS = frozenset({"permute", "sign", "scale", "mix", "translate"})
SIZES = (64, 32, 32, 10)
STEPS = 130


def perceptron(sizes: tuple[int, ...] = SIZES) -> nn.Sequential:
    layers: list[nn.Module] = []
    for one, other in itertools.pairwise(sizes):
        layers += [nn.Linear(one, other), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@cache
def structure_of(sizes: tuple[int, ...] = SIZES) -> Structure:
    return weyl.discover(perceptron(sizes), (torch.zeros(1, sizes[0]),))


@cache
def trained(count: int, seed: int = 0) -> tuple[State, ...]:
    """Perceptrons trained on one set of digits from independent starts, all at once."""
    generator = torch.Generator().manual_seed(seed)
    parameters = {}
    for layer, (rows, columns) in enumerate(zip(SIZES[1:], SIZES, strict=False)):
        bound = 1 / math.sqrt(columns)
        for kind, shape in (("weight", (count, rows, columns)), ("bias", (count, rows))):
            parameters[f"{2 * layer}.{kind}"] = torch.rand(shape, generator=generator).mul(2).sub(1).mul(bound)
    fit(parameters, STEPS, 5e-3, generator)
    return tuple({name: tensor[i] for name, tensor in parameters.items()} for i in range(count))


def fit(parameters: State, steps: int, rate: float, generator: torch.Generator) -> None:
    digits = weyl.data.digits()
    x, y = digits.train_x.flatten(1), digits.train_y
    several = [tensor.requires_grad_() for tensor in parameters.values()]
    optimiser = torch.optim.Adam(several, lr=rate)
    count = len(several[0])
    for step in range(steps):
        rows = torch.randint(len(y), (count, 128), generator=generator)
        hidden = x[rows]
        for layer in range(len(SIZES) - 1):
            weight, bias = parameters[f"{2 * layer}.weight"], parameters[f"{2 * layer}.bias"]
            hidden = torch.baddbmm(bias[:, None], hidden, weight.mT)
            hidden = hidden if layer == len(SIZES) - 2 else hidden.relu()
        optimiser.zero_grad()
        F.cross_entropy(hidden.flatten(0, 1), y[rows].flatten(), reduction="sum").div(128).backward()
        optimiser.step()
        optimiser.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * (step + 1) / steps)) / 2
    for tensor in several:
        tensor.requires_grad_(False)


def found(structure: Structure, a: State, b: State, seed: int = 0) -> Evidence:
    return evidence(structure, *Frames(structure, [a, b], KINDS).states, seed=seed)


def unrelated(pairs: int) -> list[Evidence]:
    nets = trained(2 * pairs)
    return [found(structure_of(), *nets[2 * i : 2 * i + 2], seed=i) for i in range(pairs)]


def mean_hits(several: list[Evidence]) -> float:
    """Units of a space that both matchings send to one place, on average; 1 by chance."""
    return float(np.mean([(space.agreement or 0.0) * space.units for one in several for space in one.spaces]))


def assert_uniform(several: list[Evidence]) -> None:
    for kind in ("match_p", "csu_p"):
        chances = [getattr(one, kind) for one in several]
        assert stats.kstest(chances, "uniform").pvalue > 0.01, kind
        assert min(chances) > 1e-2 / len(several) / 10, kind


def test_chances_of_unrelated_trainings_are_uniform() -> None:
    several = unrelated(100)
    assert_uniform(several)
    assert mean_hits(several) < 1.5


def test_without_taking_out_what_trainings_share_there_are_false_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_they_are(wide: Tensor, narrow: Tensor, curved: bool) -> tuple[Tensor, Tensor]:
        return F.normalize(wide, dim=-1), F.normalize(narrow, dim=-1)

    monkeypatch.setattr(_rows, "_parted", as_they_are)
    several = unrelated(100)
    assert stats.kstest([one.match_p for one in several], "uniform").pvalue < 1e-6
    assert mean_hits(several) > 3


@pytest.mark.slow
def test_chances_of_a_thousand_unrelated_trainings_are_uniform() -> None:
    several = unrelated(1000)
    assert_uniform(several)
    assert min(one.match_p for one in several) > 1e-4
    assert mean_hits(several) < 1.2
    assert np.mean([one.agreement_p < 0.01 for one in several]) < 0.02


def noise(state: State, size: float) -> State:
    generator = torch.Generator().manual_seed(5)
    return {
        name: tensor + size * tensor.square().mean().sqrt() * torch.randn(tensor.shape, generator=generator)
        for name, tensor in state.items()
    }


def pruned(state: State) -> State:
    return {
        name: torch.where(tensor.abs() < tensor.abs().quantile(0.2), 0.0, tensor) if tensor.dim() > 1 else tensor
        for name, tensor in state.items()
    }


def tuned(state: State, rate: float) -> State:
    parameters = {name: tensor[None].clone() for name, tensor in state.items()}
    fit(parameters, max(1, STEPS // 20), rate, torch.Generator().manual_seed(6))
    return {name: tensor[0] for name, tensor in parameters.items()}


def merged(state: State) -> State:
    other = trained(200)[7]
    element = weyl.match(structure_of(), state, other).element
    return {name: (state[name] + tensor) / 2 for name, tensor in act(element, structure_of(), other).items()}


DERIVED: dict[str, Callable[[State], State]] = {
    "copy": lambda state: state,
    "noise 1e-4": lambda state: noise(state, 1e-4),
    "noise 1e-2": lambda state: noise(state, 1e-2),
    "bfloat16": lambda state: {name: tensor.bfloat16().float() for name, tensor in state.items()},
    "pruned": pruned,
    "tuned": lambda state: tuned(state, 1e-3),
    "tuned fast": lambda state: tuned(state, 5e-3),
    "merged": merged,
}


@pytest.mark.parametrize("how", DERIVED)
def test_derived_networks_are_recognised_in_disguise(how: str) -> None:
    structure, a = structure_of(), trained(200)[0]
    b = act(structure.group.random(4), structure, DERIVED[how](a))
    result = found(structure, a, b)
    assert result.match_p < 1e-10
    assert result.agreement is not None and result.agreement > 0.8
    assert result.csu_p > 1e-3  # the units were relabelled
    assert result.kept is not None and result.kept < 0.2


def test_undisguised_units_keep_their_numbers() -> None:
    a = trained(200)[0]
    result = found(structure_of(), a, noise(a, 1e-2))
    assert result.csu_p < 1e-10
    assert result.kept == 1


def test_a_disguise_of_either_changes_no_agreement() -> None:
    structure, (a, b) = structure_of(), trained(200)[2:4]
    half = {name: 0.2 * a[name] + 0.8 * tensor for name, tensor in b.items()}
    plain = found(structure, a, half).agreement
    for seed in range(3):
        moved = act(structure.group.random(seed), structure, half)
        assert found(structure, a, moved).agreement == pytest.approx(plain, abs=0.05)


def test_the_same_seed_gives_the_same_evidence() -> None:
    a, b = trained(200)[4:6]
    state = torch.random.get_rng_state()
    assert found(structure_of(), a, b, seed=1) == found(structure_of(), a, b, seed=1)
    assert found(structure_of(), a, b, seed=1) != found(structure_of(), a, b, seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_states_are_left_alone_and_nan_is_refused() -> None:
    a, b = ({name: tensor.clone() for name, tensor in one.items()} for one in trained(200)[4:6])
    kept = [{name: tensor.clone() for name, tensor in one.items()} for one in (a, b)]
    evidence(structure_of(), a, b)
    for one, other in zip((a, b), kept, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    b["2.bias"][0] = math.nan
    with pytest.raises(NotFiniteError, match=r"2\.bias"):
        evidence(structure_of(), a, b)


def test_evidence_is_json_ready() -> None:
    import json

    result = found(structure_of(), *trained(200)[4:6])
    data = json.loads(json.dumps(result.to_dict()))
    assert [space["units"] for space in data["spaces"]] == [32, 32]
    assert data["match_p"] == result.match_p
    assert result.spaces[0].first == ("0.weight",) and result.spaces[0].second == ("2.weight",)


def attention(kind: str) -> tuple[Callable[[int], State], Structure]:
    transformers = pytest.importorskip("transformers")
    common: dict[str, Any] = {"vocab_size": 101}
    if kind == "gpt2":
        config = transformers.GPT2Config(
            n_embd=32, n_layer=2, n_head=8, n_positions=16, bos_token_id=1, eos_token_id=1, **common
        )
        make = transformers.GPT2LMHeadModel
    elif kind == "bert":
        config = transformers.BertConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=8, intermediate_size=64, **common
        )
        make = transformers.BertForMaskedLM
    else:
        config = transformers.LlamaConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=8,
            num_key_value_heads=8,
            intermediate_size=64,
            **common,
        )
        make = transformers.LlamaForCausalLM

    def start(seed: int) -> State:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return {name: tensor.detach() for name, tensor in make(config).state_dict().items()}

    with torch.random.fork_rng():
        net = make(config).eval()
    tokens = torch.zeros(1, 8, dtype=torch.long)
    return start, weyl.discover(net, (tokens,), output=lambda result: result.logits)


@pytest.mark.parametrize("kind", ["gpt2", "bert", "llama"])
def test_transformers_in_disguise(kind: str) -> None:
    start, structure = attention(kind)
    a, other = start(0), start(1)
    moved = act(structure.group.random(2), structure, noise(a, 1e-2))
    result = found(structure, a, moved)
    assert result.match_p < 1e-10
    assert result.agreement is not None and result.agreement > 0.9
    assert result.heads and all(space.products for space in result.heads)
    assert found(structure, a, other).match_p > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_chances_of_random_transformers_are_uniform(kind: str) -> None:
    start, structure = attention(kind)
    several = [found(structure, start(2 * i), start(2 * i + 1), seed=i) for i in range(200)]
    assert_uniform(several)
