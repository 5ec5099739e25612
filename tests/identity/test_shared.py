"""What two states have in common."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor, nn

import weyl
from weyl.actions import act
from weyl.errors import MismatchError
from weyl.identity._evidence import evidence
from weyl.identity._shared import shared_part
from weyl.structure import Structure

State = dict[str, Tensor]


def perceptron(*sizes: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for one, other in itertools.pairwise(sizes):
        layers += [nn.Linear(one, other), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def discovered(net: nn.Module, size: int) -> tuple[Structure, State]:
    return weyl.discover(net, (torch.zeros(1, size),)), {n: t.detach() for n, t in net.state_dict().items()}


def test_equal_states_share_everything() -> None:
    structure, state = discovered(perceptron(6, 5, 4), 6)
    shared = shared_part(structure, state, state)
    assert shared.structure == structure
    assert shared.left_out == ()
    assert all(shared.a[name] is state[name] for name in structure.axes)


def test_another_number_of_classes_keeps_the_first() -> None:
    structure, a = discovered(perceptron(6, 5, 10), 6)
    b = discovered(perceptron(6, 5, 4), 6)[1]
    shared = shared_part(structure, a, b)
    assert shared.a["2.weight"].shape == shared.b["2.weight"].shape == (4, 5)
    assert torch.equal(shared.a["2.weight"], a["2.weight"][:4])
    assert shared.left_out[0].startswith("2.weight: (10, 5) against (4, 5)")
    assert shared.structure.group.order == structure.group.order
    moved = act(shared.structure.group.random(0), shared.structure, shared.a)
    x = torch.randn(3, 6)
    for state in (shared.a, moved):
        y = torch.relu(x @ state["0.weight"].T + state["0.bias"]) @ state["2.weight"].T + state["2.bias"]
        torch.testing.assert_close(y, (perceptron(6, 5, 10).requires_grad_(False)(x))[:, :4])


def test_a_structure_of_the_other_size_will_do() -> None:
    structure, a = discovered(perceptron(6, 5, 10), 6)
    b = discovered(perceptron(6, 5, 12), 6)[1]
    shared = shared_part(structure, b, b)
    assert shared.a["2.weight"].shape == (12, 5)
    assert {name: tuple(axis.size for axis in axes) for name, axes in shared.structure.axes.items()} == {
        name: tuple(tensor.shape) for name, tensor in shared.a.items()
    }
    assert shared_part(structure, a, b).a["2.weight"].shape == (10, 5)


def test_another_width_leaves_tensors_out() -> None:
    structure, a = discovered(perceptron(6, 5, 7, 3), 6)
    b = discovered(perceptron(6, 5, 8, 3), 6)[1]
    shared = shared_part(structure, a, b)
    assert set(shared.structure.axes) == {"0.weight", "0.bias", "4.bias"}
    assert [space.size for space in shared.structure.spaces] == [5]
    assert "2.weight: (7, 5) against (8, 5)" in shared.left_out
    # What is multiplied only would be brought to zero by its normal gauge: the scale is gone.
    assert not shared.structure.gauges
    assert structure.gauges


def test_missing_and_foreign_names_are_said() -> None:
    structure, a = discovered(perceptron(6, 5, 4), 6)
    b = {name: tensor for name, tensor in a.items() if name != "0.bias"} | {"extra\n": torch.zeros(2)}
    shared = shared_part(structure, a, b)
    assert "only in the first: 0.bias" in shared.left_out
    assert "not in the structure: extra" in shared.left_out
    assert "only in the second: 0.bias" in shared_part(structure, b, a).left_out


ODD: dict[str, object] = {
    "no tensor": [1.0],
    "meta": torch.empty(5, 6, device="meta"),
    "sparse": torch.eye(5, 6).to_sparse(),
    "complex": torch.zeros(5, 6, dtype=torch.complex64),
    "integers": torch.zeros(5, 6, dtype=torch.int64),
    "scalar": torch.tensor(1.0),
    "empty": torch.zeros(5, 0),
    "more dimensions": torch.zeros(5, 6, 1),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_tensors_are_left_out(kind: str) -> None:
    structure, a = discovered(perceptron(6, 5, 4), 6)
    b = {**a, "0.weight": ODD[kind]}
    shared = shared_part(structure, a, b)  # type: ignore[arg-type]
    assert "0.weight" not in shared.structure.axes
    assert any(line.startswith("0.weight: ") for line in shared.left_out)
    assert set(shared.a) == set(shared.b) == set(shared.structure.axes)


def test_nothing_in_common_is_an_error() -> None:
    structure, a = discovered(perceptron(6, 5, 4), 6)
    with pytest.raises(MismatchError, match="share no tensor"):
        shared_part(structure, a, {"other": torch.zeros(3)})


def test_every_part_of_a_structure_is_a_structure() -> None:
    """Whatever is missing, what is left is consistent, round-trips, and can be acted on."""
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5), nn.Tanh())
    net.append(nn.Linear(5, 2))
    structure = weyl.discover(net.eval(), (torch.zeros(1, 3, 4, 4),))
    state = {n: t.detach() for n, t in net.state_dict().items()}
    for gone in structure.axes:
        shared = shared_part(structure, state, {n: t for n, t in state.items() if n != gone})
        assert Structure.from_json(shared.structure.to_json()) == shared.structure
        moved = act(shared.structure.group.random(1), shared.structure, shared.b)
        assert set(moved) == set(structure.axes) - {gone}
        occurring = {name for space in shared.structure.spaces for name, _ in space.occurrences}
        assert occurring <= set(moved)


def test_evidence_is_found_in_what_is_shared() -> None:
    structure, a = discovered(perceptron(20, 64, 64, 10), 20)
    b = act(structure.group.random(3), structure, a)
    b = {**b, "4.weight": torch.randn(7, 64), "4.bias": torch.zeros(7)}
    shared = shared_part(structure, a, b)
    found = {space.name: space for space in evidence(shared.structure, shared.a, shared.b).spaces}
    assert dataclasses.asdict(found["0"])["agreement"] is not None
