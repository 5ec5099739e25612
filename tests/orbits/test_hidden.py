"""Hidden symmetry: what the group explains of a rank, and what cannot be measured."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import weyl
from weyl.landscape import functional_dimension
from weyl.orbits import hidden_symmetry
from weyl.orbits._hidden import compare_dimensions


@pytest.fixture
def subject():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(80, 3)
    return net, weyl.discover(net, (x,)), x


def test_scales_explain_what_the_rank_lacks(subject):
    found = hidden_symmetry(*subject)
    assert (found.parameters, found.by_group, found.predicted) == (26, 4, 22)
    assert found.hidden == found.predicted - found.rank
    shown = repr(found)
    assert shown.startswith(f"HiddenSymmetry(rank={found.rank}, predicted=22, hidden={found.hidden}, ")


def test_a_dead_unit_is_hidden_and_a_whole_state_is_taken(subject):
    net, structure, x = subject
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state["0.weight"][1], state["0.bias"][1] = 0, -1
    found = hidden_symmetry(net, structure, x, state=state)
    assert found.hidden > hidden_symmetry(net, structure, x).hidden
    net.load_state_dict(state)
    assert hidden_symmetry(net, structure, x) == found


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "2.weight", "2.bias"])
def test_a_state_that_lacks_a_tensor_is_not_filled_from_the_model(subject, name):
    net, structure, x = subject
    part = {key: tensor for key, tensor in net.state_dict().items() if key != name}
    measured = functional_dimension(net, None, x)
    for call in (
        lambda: hidden_symmetry(net, structure, x, state=part),
        lambda: functional_dimension(net, part, x),
        lambda: compare_dimensions(measured, net, structure, part),
    ):
        with pytest.raises(weyl.InputError, match=f"no tensor {name!r}"):
            call()


def test_inputs_that_do_not_fit_are_refused(subject):
    net, structure, x = subject
    with pytest.raises(weyl.InputError, match=r"Sequential does not accept these inputs .*mat1 and mat2"):
        hidden_symmetry(net, structure, torch.randn(2, 9))
    with pytest.raises(weyl.InputError, match="does not accept these inputs"):
        hidden_symmetry(net, structure, (x, x))
    with pytest.raises(weyl.UsageError, match="inputs must be"):
        hidden_symmetry(net, structure, None)


@pytest.mark.parametrize("chunk", [0, -1, 2.5, True])
def test_chunks_without_samples_are_refused(subject, chunk):
    with pytest.raises(weyl.UsageError, match="chunk must be"):
        hidden_symmetry(*subject, chunk=chunk)


def test_model_and_structure_are_told_apart(subject):
    net, structure, x = subject
    with pytest.raises(weyl.InputError, match=r"expected a torch\.nn\.Module, got Structure"):
        hidden_symmetry(structure, net, x)
    with pytest.raises(weyl.StructureError, match="expected a Structure, got Sequential"):
        hidden_symmetry(net, net, x)
    other = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    with pytest.raises(weyl.StructureError, match="the structure says"):
        hidden_symmetry(other, structure, x)
