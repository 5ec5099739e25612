"""Verdicts: what every disguise of a network is called, and what a stranger is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import weyl
from weyl.identity import VERDICTS, compare

State = dict[str, Tensor]

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU}


def network(activation: str, seed: int = 0, outputs: int = 10) -> nn.Sequential:
    act = ACTIVATIONS[activation]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(20, 64), act(), nn.Linear(64, 64), act(), nn.Linear(64, 64), act(), nn.Linear(64, outputs)
        )


def weights(activation: str, seed: int = 0) -> State:
    return {name: tensor.clone() for name, tensor in network(activation, seed).state_dict().items()}


@pytest.fixture(scope="module", params=ACTIVATIONS)
def case(request: pytest.FixtureRequest) -> tuple[str, weyl.Structure, State]:
    activation: str = request.param
    return activation, weyl.discover(network(activation), (torch.zeros(1, 20),)), weights(activation)


def mapped(state: State, function: Callable[[Tensor], Tensor]) -> State:
    return {name: function(tensor) for name, tensor in state.items()}


def noise(size: float) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(7)
    return lambda t: t + size * t.std() * torch.randn(t.shape, generator=generator)


def pruned(t: Tensor) -> Tensor:
    return torch.where(t.abs() < t.abs().flatten().quantile(0.2), torch.zeros_like(t), t)


def on_grid(t: Tensor) -> Tensor:
    step = t.abs().max() / 127
    return (t / step).round() * step


DISGUISES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "nothing": (torch.clone, "same function"),
    "float64": (Tensor.double, "same function"),
    "bfloat16": (Tensor.bfloat16, "same up to precision"),
    "float16": (Tensor.half, "same up to precision"),
    "float16 kept in float32": (lambda t: t.half().float(), "same up to precision"),
    "grid of 8 bits": (on_grid, "same up to precision"),
    "noise 1e-4": (noise(1e-4), "derived"),
    "noise 1e-2": (noise(1e-2), "derived"),
    "noise 0.2": (noise(0.2), "derived"),
    "pruned": (pruned, "derived"),
}


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("seed", range(2))
def test_disguised_copies(case: tuple[str, weyl.Structure, State], disguise: str, seed: int) -> None:
    activation, structure, a = case
    change, verdict = DISGUISES[disguise]
    b = mapped(weyl.act(structure.group.random(seed), structure, a), change)
    found = compare(structure, a, b, seed=seed)
    if activation == "relu" and disguise == "grid of 8 bits":
        # Scales that are estimated from so few bits may be off by more than the grid explains.
        assert found.verdict in (verdict, "derived"), found.explain()
        return
    assert found.verdict == verdict, found.explain()
    assert found.distance is not None and found.distance_before is not None
    assert found.distance < 0.5 * found.distance_before
    assert found.same == (verdict in VERDICTS[:3])
    assert compare(structure, b, a, seed=seed).verdict == verdict


@pytest.mark.parametrize("seed", range(1, 7))
def test_strangers_are_unrelated_disguised_or_not(case: tuple[str, weyl.Structure, State], seed: int) -> None:
    activation, structure, a = case
    stranger = weights(activation, seed)
    for b in (stranger, weyl.act(structure.group.random(seed), structure, stranger)):
        found = compare(structure, a, b)
        assert found.verdict == "unrelated", found.explain()
        assert found.p_value is not None and found.p_value > 1e-5
        assert found.element is None


def test_the_same_numbers(case: tuple[str, weyl.Structure, State]) -> None:
    _, structure, a = case
    negative = mapped(a, lambda t: torch.where(t.abs() < 0.01, torch.zeros_like(t), t))
    zeros = mapped(negative, lambda t: torch.where(t == 0, -torch.zeros_like(t), t))
    assert compare(structure, a, mapped(a, torch.clone)).verdict == "identical"
    assert compare(structure, negative, zeros).verdict == "identical", "-0.0 is 0.0"
    assert compare(structure, a, zeros).verdict != "identical"


def test_the_element_that_is_exhibited_acts_as_it_is_said(case: tuple[str, weyl.Structure, State]) -> None:
    _, structure, a = case
    a = mapped(a, Tensor.double)
    b = weyl.act(structure.group.random(3), structure, a)
    found = compare(structure, a, b)
    assert found.element is not None
    moved = weyl.act(found.element, structure, b)
    assert all(torch.allclose(moved[name], a[name], rtol=1e-9, atol=1e-12) for name in a)


def test_outputs_are_compared_where_a_model_is_given(case: tuple[str, weyl.Structure, State]) -> None:
    activation, structure, a = case
    model, x = network(activation), torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    twin = weyl.act(structure.group.random(1), structure, a)
    found = compare(structure, a, twin, model=model, args=(x,))
    assert found.outputs is not None and found.outputs.same and found.outputs.detected
    assert found.verdict == "same function"
    other = compare(structure, a, weights(activation, 1), model=model, args=(x,))
    assert other.outputs is not None and not other.outputs.same


def test_a_symmetry_that_the_model_does_not_have_is_not_believed() -> None:
    """The check on outputs is itself checked: the structure of another model gives an element that changes them."""
    tanh = weyl.discover(network("tanh"), (torch.zeros(1, 20),))
    a = weights("gelu")
    twin = weyl.act(tanh.group.random(1, kinds=("sign",)), tanh, a)
    model, x = network("gelu"), torch.randn(3, 20)
    found = compare(tanh, a, twin, model=model, args=(x,))
    assert found.verdict == "inconclusive" and "outputs differ" in found.reasons[0]


def test_nothing_is_decided_on_nan(case: tuple[str, weyl.Structure, State]) -> None:
    _, structure, a = case
    bad = {**a, "2.weight": a["2.weight"].clone()}
    bad["2.weight"][0, 0] = float("nan")
    for found in (compare(structure, a, bad), compare(structure, bad, a), compare(structure, bad, bad)):
        assert found.verdict == "inconclusive" and "2.weight" in found.reasons[0]


@pytest.mark.parametrize("outputs", [5, 10, 100])
def test_another_head(case: tuple[str, weyl.Structure, State], outputs: int) -> None:
    """The body is a disguised copy, the head is new: derived. With another body it is not."""
    activation, structure, a = case
    body = weyl.act(structure.group.random(2), structure, a)
    head = network(activation, 9, outputs).state_dict()
    for state, verdict in ((body, "derived"), (weights(activation, 5), "unrelated")):
        b = {name: head[name] if name.startswith("6.") else tensor for name, tensor in state.items()}
        found = compare(structure, a, b)
        assert found.verdict == verdict, found.explain()
        assert outputs == 10 or any("6.weight" in line for line in found.left_out)


def test_what_is_missing_is_said(case: tuple[str, weyl.Structure, State]) -> None:
    _, structure, a = case
    b = {name: tensor for name, tensor in a.items() if not name.startswith("6.")}
    found = compare(structure, a, b)
    assert found.verdict == "derived" and any("6.weight" in line for line in found.left_out)
    assert "6.weight" in found.explain()


def test_nothing_shared() -> None:
    structure = weyl.discover(network("relu"), (torch.zeros(1, 20),))
    with pytest.raises(weyl.MismatchError):
        compare(structure, weights("relu"), {"other": torch.zeros(3)})


def test_what_is_no_state_dict_and_no_probability() -> None:
    structure = weyl.discover(network("relu"), (torch.zeros(1, 20),))
    a = weights("relu")
    with pytest.raises(weyl.StructureError, match="state dict"):
        compare(structure, a, network("relu"))  # type: ignore[arg-type]
    with pytest.raises(weyl.UsageError, match="alpha"):
        compare(structure, a, a, alpha=0.0)


def test_the_explanation_and_the_json_form(case: tuple[str, weyl.Structure, State]) -> None:
    _, structure, a = case
    found = compare(structure, a, mapped(a, noise(1e-2)))
    text = found.explain()
    assert text.startswith("derived: ") and "2.weight" in text
    facts = found.to_dict()
    assert facts["verdict"] == "derived" and facts["p_value"] < 1e-6
    assert {space["name"] for space in facts["evidence"]["spaces"]} == {s.name for s in structure.spaces}
