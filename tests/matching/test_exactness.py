"""What is no copy is not called one, and what a start or a state brings along is kept."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor, nn

import weyl
from weyl.errors import StructureError

X = torch.zeros(2, 6)


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


def net(act: type[nn.Module] = nn.ReLU, width: int = 16, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, width), act(), nn.Linear(width, 3))


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("bias", (0.0, -100.0, -1e4))
def test_one_small_step_of_training_is_no_copy(bias: float) -> None:
    model = net(width=64)
    with torch.no_grad():
        model[2].bias[0] += bias
    structure = weyl.discover(model, (X,))
    a = state_of(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-6)
    generator = torch.Generator().manual_seed(1)
    model(torch.randn(32, 6, generator=generator)).square().mean().backward()
    optimizer.step()
    b = weyl.act(structure.group.random(4), structure, state_of(model))
    assert not weyl.match(structure, a, b).exact
    # Control: without the step it is one.
    assert weyl.match(structure, a, weyl.act(structure.group.random(4), structure, a)).exact


def test_integers_that_differ_are_no_copy() -> None:
    class Picked(nn.Module):
        index: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.inner = net()
            self.register_buffer("index", torch.tensor([0, 1, 2]))

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)[:, self.index]

    model = Picked()
    structure = weyl.discover(model, (X,))
    a = state_of(model)
    if "index" not in structure.axes:
        pytest.skip("the index is no tensor of the structure")
    assert weyl.match(structure, a, a).exact
    assert not weyl.match(structure, a, {**a, "index": torch.tensor([2, 1, 0])}).exact


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.to("meta"), "meta"),
        (lambda t: t.to_sparse(), "sparse"),
        (lambda t: t.to(torch.float8_e4m3fn), "float"),
        (lambda t: t.to(torch.complex64), "complex"),
    ],
)
def test_numbers_that_cannot_be_compared_are_refused(change, words: str) -> None:
    model = net()
    structure = weyl.discover(model, (X,))
    a = state_of(model)
    with pytest.raises(StructureError, match=f"0.weight.*{words}"):
        weyl.match(structure, a, {**a, "0.weight": change(a["0.weight"])})


def test_sines_that_are_near_are_not_torn_apart() -> None:
    model = net(Sine)
    structure = weyl.discover(model, (X,))
    a = state_of(model)
    a["0.bias"][0] = 1.56
    b = {**a, "0.bias": a["0.bias"].clone()}
    b["0.bias"][0] = 1.58
    for start in (None, "identity"):
        found = weyl.match(structure, a, b, start=start)
        assert not found.exact and found.distance <= found.distance_before + 1e-6
    shifted = weyl.act(structure.group.random(3), structure, a)
    assert weyl.match(structure, a, shifted).exact


def test_a_start_is_kept_with_its_scales() -> None:
    model = net()
    structure = weyl.discover(model, (X,))
    a = state_of(model)
    b = {name: t + 0.01 * torch.randn(t.shape, generator=torch.Generator().manual_seed(2)) for name, t in a.items()}
    twin = weyl.act(structure.group.random(5), structure, b)
    start = weyl.match(structure, a, twin)
    assert {"permute", "scale"} <= start.element.moves
    again = weyl.match(structure, a, twin, start=start.element, kinds=("permute", "sign"))
    assert again.distance <= start.distance * (1 + 1e-5)
    assert again.distance_before == pytest.approx(start.distance_before)
    from_scratch = weyl.match(structure, a, twin, kinds=("permute", "sign"))
    assert from_scratch.distance > 2 * start.distance


def test_a_unit_with_next_to_nothing_on_one_side_does_not_lead_away() -> None:
    model = net()
    structure = weyl.discover(model, (X,))
    a, b = state_of(net(seed=1)), state_of(net(seed=2))
    b["0.weight"][3] *= 1e-18
    b["0.bias"][3] *= 1e-18
    b["2.weight"][:, 3] *= 1e-28
    found = weyl.match(structure, a, b)
    assert found.distance <= found.distance_before
    assert all(bool(t.isfinite().all()) for t in weyl.act(found.element, structure, b).values())


def test_tied_weights_count_once_although_one_file_holds_copies() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(5, 5), nn.Linear(5, 5)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.relu(self.one(x)))

    model = Tied()
    structure = weyl.discover(model, (torch.zeros(2, 5),))
    a = dict(model.state_dict())
    b = {name: t.flip(0) for name, t in a.items()}
    b["two.weight"] = b["one.weight"]
    copied = {name: t.clone() for name, t in b.items()}
    assert weyl.match(structure, a, copied).objective == pytest.approx(weyl.match(structure, a, b).objective)


def test_a_match_is_pickled_with_its_certificate() -> None:
    model = net()
    structure = weyl.discover(model, (X,))
    found = weyl.match(structure, state_of(model), state_of(net(seed=3)))
    back = pickle.loads(pickle.dumps(found))
    assert back.certificate == found.certificate and back.distance == found.distance
    assert back.element == found.element


def test_a_loader_that_shuffles_leaves_the_global_state_alone() -> None:
    model = net()
    structure = weyl.discover(model, (X,))
    a, b = state_of(model), state_of(net(seed=3))
    inputs = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    loader = torch.utils.data.DataLoader(inputs, batch_size=8, shuffle=True)
    before = torch.get_rng_state()
    weyl.match(structure, a, b, costs="activations", model=model, data=loader)
    assert torch.equal(before, torch.get_rng_state())


def test_scalars_are_flipped_too() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(4, 3)
            self.s, self.t = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.tensor(-1.3))

        def forward(self, x: Tensor) -> Tensor:
            return self.lin(x) * self.s * self.t

    model = Scaled()
    structure = weyl.discover(model, (torch.zeros(2, 4),))
    a = state_of(model)
    found = weyl.match(structure, a, weyl.act(structure.group.random(3), structure, a))
    assert found.exact
    assert not weyl.match(structure, a, {**a, "s": a["s"] * 3}, kinds=("permute", "sign")).exact
