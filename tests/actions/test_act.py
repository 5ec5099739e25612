"""Acting on state dicts: dtypes, ties, joint axes, refusals."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import weyl
from weyl.actions import gather_indices
from weyl.groups import Element, Part, Space
from weyl.structure import Cases, Fixed, Product, Structure, Sum, Units
from weyl.testing import assert_action_laws


def reference(axes, element, tensor):
    """The action written as a loop over all entries, straight from the definition of the gather convention."""
    out = torch.empty_like(tensor)
    spaces = {space.name: space for space in element.spaces}

    def locate(axis, position, part):
        """Coordinates (space, index) of a position, and the part of the top-level sum."""
        match axis:
            case Fixed():
                return [(None, position)], part
            case Units(space, _):
                return [(space, position)], part
            case Product(factors):
                found = []
                for place, factor in enumerate(factors):
                    stride = math.prod(f.size for f in factors[place + 1 :])
                    found += locate(factor, position // stride % factor.size, None)[0]
                return found, part
            case Sum(parts):
                for number, child in enumerate(parts):
                    if position < child.size:
                        return locate(child, position, None)[0], number
                    position -= child.size

    def moved(axis, position, everything, chosen):
        match axis:
            case Fixed():
                return position
            case Units(space, _):
                outer = [dict(chosen).get(name, dict(everything).get(name)) for name in spaces[space].within]
                return int(element[space].permutation[(*outer, position)])
            case Product(factors):
                total = 0
                for place, factor in enumerate(factors):
                    stride = math.prod(f.size for f in factors[place + 1 :])
                    total += stride * moved(factor, position // stride % factor.size, everything, chosen)
                return total
            case Sum(parts):
                base = 0
                for child in parts:
                    if position < child.size:
                        return base + moved(child, position, everything, locate(child, position, None)[0])
                    base, position = base + child.size, position - child.size

    for index in np.ndindex(*tensor.shape):
        plain = [a if not isinstance(a, Cases) else None for a in axes]
        located = [locate(a, i, None) if a is not None else None for a, i in zip(plain, index, strict=True)]
        actual = [a if not isinstance(a, Cases) else a.options[located[a.dim][1]] for a in axes]
        coordinates = [locate(a, i, None)[0] for a, i in zip(actual, index, strict=True)]
        everything = [pair for per_axis in coordinates for pair in per_axis if pair[0]]
        old = tuple(moved(a, i, everything, own) for a, i, own in zip(actual, index, coordinates, strict=True))
        out[index] = tensor[old]
    return out


HEADS = (Space("h", 2), Space("d", 3, within=("h",)), Space("e", 2))


@pytest.mark.parametrize(
    "axes",
    [
        (Units("e", 2),),
        (Product((Units("h", 2), Units("d", 3))), Fixed(4)),
        (Units("h", 2), Units("e", 2), Units("d", 3)),
        (Sum((Product((Units("h", 2), Units("d", 3))), Units("e", 2), Fixed(2))), Units("e", 2)),
        (Product((Fixed(2), Units("h", 2), Fixed(2), Units("d", 3))),),
        (Sum((Fixed(1), Fixed(1))), Cases(0, (Units("e", 2), Fixed(2)))),
        (Product((Units("h", 2), Sum((Units("d", 3), Fixed(1))))),),
    ],
)
def test_against_the_definition(axes):
    structure = Structure(HEADS, {"w": axes})
    shape = tuple(axis.size for axis in axes)
    tensor = torch.arange(math.prod(shape)).reshape(shape)
    for seed in range(5):
        element = structure.group.random(seed)
        moved = weyl.act(element, structure, {"w": tensor})["w"]
        assert torch.equal(moved, reference(axes, element, tensor))
    assert_action_laws(structure, {"w": tensor})


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn]
)
def test_any_dtype(dtype):
    structure = Structure((Space("a", 3),), {"w": (Units("a", 3), Fixed(2))})
    tensor = torch.tensor([[0, 1], [1, 1], [1, 0]]).to(dtype)
    element = structure.group.random(4)
    moved = weyl.act(element, structure, {"w": tensor})["w"]
    assert moved.dtype is dtype
    order = torch.from_numpy(element["a"].permutation.copy())
    assert torch.equal(moved.to(torch.complex64), tensor.to(torch.complex64)[order])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int8, torch.bool, torch.float8_e4m3fn])
@pytest.mark.parametrize("rest", [(), (3,), (2, 5)])
def test_both_dimensions_in_pieces(dtype, rest, monkeypatch):
    """Rows are gathered some at a time; the result does not tell how many."""
    structure = Structure((Space("a", 7), Space("b", 4)), {"w": (Units("a", 7), Units("b", 4), *map(Fixed, rest))})
    tensor = torch.arange(28 * math.prod(rest)).reshape(7, 4, *rest).remainder(11).remainder(3).to(dtype)
    element = structure.group.random(2)
    rows, columns = (torch.from_numpy(element[name].permutation.copy()) for name in "ab")
    expected = tensor.float()[rows][:, columns]
    assert not torch.equal(expected, tensor.float())
    for entries in (1, 9, 1 << 17):
        monkeypatch.setattr("weyl.actions._act.CACHED", entries)
        moved = weyl.act(element, structure, {"w": tensor})["w"]
        assert moved.dtype is dtype
        assert torch.equal(moved.float(), expected)


def test_names_that_share_memory_share_it_again():
    shared = torch.arange(3.0)
    structure = Structure((Space("a", 3),), {"x": (Units("a", 3),), "y": (Units("a", 3),)})
    moved = weyl.act(structure.group.random(2), structure, {"x": shared, "y": shared.detach()})
    assert moved["x"].data_ptr() == moved["y"].data_ptr()


def test_what_does_not_move_is_not_copied_and_unknown_names_pass():
    structure = Structure((Space("a", 3),), {"x": (Units("a", 3),), "y": (Fixed(4),)})
    state = {"x": torch.arange(3.0), "y": torch.arange(4.0), "step": torch.tensor(5)}
    moved = weyl.act(structure.group.random(1), structure, state)
    assert moved["y"] is state["y"]
    assert moved["step"] is state["step"]


def test_refusals():
    structure = Structure((Space("a", 3),), {"x": (Units("a", 3),)})
    with pytest.raises(weyl.StructureError, match="shape"):
        weyl.act(structure.group.identity(), structure, {"x": torch.zeros(4)})
    other = Structure((Space("b", 3),), {})
    with pytest.raises(weyl.StructureError, match="another group"):
        weyl.act(other.group.identity(), structure, {"x": torch.zeros(3)})
    with pytest.raises(weyl.StructureError, match=r"strip a prefix such as 'module\.'"):
        weyl.act(structure.group.identity(), structure, {"module.x": torch.zeros(3)})
    with pytest.raises(weyl.StructureError, match="state_dict"):
        weyl.act(structure.group.identity(), structure, nn.Linear(2, 2))
    joint = Structure(HEADS, {"w": (Units("h", 2), Units("d", 3))})
    with pytest.raises(weyl.StructureError, match="together"):
        gather_indices(joint.axes["w"], joint.group.random(1))


def test_gather_index_of_a_row_permutation():
    structure = Structure((Space("a", 3),), {"x": (Units("a", 3), Fixed(2))})
    element = Element(structure.group.spaces, {"a": Part(np.array([2, 0, 1]))})
    rows, columns = gather_indices(structure.axes["x"], element)
    assert rows.tolist() == [2, 0, 1]
    assert columns is None


def test_optimizer_is_irrelevant_gradients_stay_out():
    model = nn.Linear(2, 2)
    structure = weyl.discover(nn.Sequential(model, nn.ReLU(), nn.Linear(2, 2)), (torch.zeros(1, 2),))
    moved = weyl.act(structure.group.random(0), structure, {"0.weight": model.weight.detach()})
    assert not moved["0.weight"].requires_grad
