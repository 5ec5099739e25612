"""Planted elements of the full group of transformers: heads, matrices inside heads, signs and scales of the stream."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import weyl

transformers = pytest.importorskip("transformers")

IDS = torch.arange(14).reshape(2, 7)
SMALL = {"vocab_size": 40, "attn_implementation": "eager"}


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=4, n_positions=16, bos_token_id=0, eos_token_id=0, **SMALL
    )
    return transformers.GPT2LMHeadModel(config)


def llama() -> nn.Module:
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, **SMALL
    )
    return transformers.LlamaForCausalLM(config)


def bert() -> nn.Module:
    config = transformers.BertConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        **SMALL,
    )
    return transformers.BertModel(config)


MODELS = {"gpt2": gpt2, "llama": llama, "bert": bert}
# By how much outputs may differ, relative to the largest: Llama's norms compute in float32 whatever they are given.
ROUNDING = {"gpt2": 1e-12, "llama": 1e-6, "bert": 1e-12}


@cache
def discovered(name: str) -> tuple[nn.Module, weyl.Structure]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = MODELS[name]().eval().double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model, weyl.discover(model, (), arguments(name), output=picked)


def arguments(name: str) -> dict[str, Any]:
    return {"input_ids": IDS, **({} if name == "bert" else {"use_cache": False})}


def picked(result: Any) -> Tensor:
    return result.logits if hasattr(result, "logits") else result.last_hidden_state


def outputs(name: str, state: dict[str, Tensor]) -> Tensor:
    model, _ = discovered(name)
    with torch.no_grad():
        return picked(torch.func.functional_call(model, state, (), arguments(name), tie_weights=False))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(3))
def test_an_element_of_the_full_group_is_recovered(name: str, seed: int) -> None:
    model, structure = discovered(name)
    a = dict(model.state_dict())
    g = structure.group.random(seed)
    assert {"permute", "mix"} <= g.moves
    b = weyl.act(g, structure, a)
    found = weyl.match(structure, a, b)
    assert found.exact and found.steps == 0
    aligned = weyl.act(found.element, structure, b)
    for key in structure.axes:
        torch.testing.assert_close(aligned[key], a[key], rtol=1e-9, atol=1e-9)
    before = outputs(name, a)
    torch.testing.assert_close(outputs(name, aligned), before, rtol=0, atol=1e-13 * float(before.abs().max()))
    # Control: the element of another copy does not bring this one back.
    other = weyl.match(structure, a, weyl.act(structure.group.random(seed + 10), structure, a)).element
    wrong = weyl.act(other, structure, b)
    assert any(not torch.allclose(wrong[key], a[key], atol=1e-3) for key in structure.axes)
    torch.testing.assert_close(outputs(name, wrong), before, rtol=0, atol=ROUNDING[name] * float(before.abs().max()))


@pytest.mark.parametrize("name", MODELS)
def test_other_weights_are_brought_nearer_and_are_no_copy(name: str) -> None:
    model, structure = discovered(name)
    a = dict(model.state_dict())
    generator = torch.Generator().manual_seed(5)
    drawn = {key: torch.randn(t.shape, generator=generator, dtype=t.dtype) * 0.3 for key, t in a.items()}
    b = {key: drawn[key] if t.is_floating_point() else t for key, t in a.items()}
    found = weyl.match(structure, a, b, sweeps=3)
    assert not found.exact and found.distance < found.distance_before
    before = outputs(name, b)
    moved = outputs(name, weyl.act(found.element, structure, b))
    torch.testing.assert_close(moved, before, rtol=0, atol=ROUNDING[name] * float(before.abs().max()))
