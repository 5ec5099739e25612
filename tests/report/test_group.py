"""What a report says of the whole group."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

import weyl
from weyl.models import load_model
from weyl.orbits import orbit as orbit_around
from weyl.report import Inspection, gauge_families, gauge_rows, order_told, overlap_told, render_inspection
from weyl.report._group import LEGEND
from weyl.structure import Structure

MODELS = (
    "mlp?widths=3-4-2",
    "mlp?widths=3-4-2&act=tanh",
    "transformer?layers=2&dim=4&heads=2&vocab=5",
    "resnet?widths=2-3",
)

SYMBOL = r"[A-Za-z]+2?[+*]?|[≀⋉×]"


def structure_of(model: str) -> Structure:
    loaded = load_model(model, None, 0)
    return weyl.discover(loaded.module, loaded.args, loaded.kwargs, output=loaded.output)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("most", [0, 1000])
def test_items_add_up_to_the_dimension_however_they_are_collected(model: str, most: int) -> None:
    structure = structure_of(model)
    rows = gauge_rows(structure)
    collected = gauge_families(rows, most)
    for items in (rows, collected):
        assert sum(row["dimension"] for row in items) - structure.overlap[0] == structure.group.dimension
    assert sum(row["gauges"] for row in collected) == len(rows) == len(structure.gauges)
    assert sum(row["signs"] for row in collected) == sum(row["signs"] for row in rows)
    assert {row["gauge"]: row["space"] for row in rows} == {gauge.name: gauge.space for gauge in structure.gauges}


def test_layers_that_are_alike_are_collected_only_where_there_are_many() -> None:
    rows = gauge_rows(structure_of(MODELS[2]))
    few, many = (gauge_families(rows, most) for most in (1000, 0))
    assert not any("*" in row["space"] for row in few)
    assert any("layers.*" in row["space"] for row in many) and len(many) < len(few)


def test_what_the_order_counts() -> None:
    told = [order_told(structure_of(model).group) for model in MODELS[:3]]
    assert told[0] == "permutations; the continuous part, of dimension 4, is not counted"
    assert told[1] == "permutations and sign flips"
    assert told[2].startswith("permutations and sign flips; the continuous part")


def test_what_gauges_share_is_said() -> None:
    structure = structure_of(MODELS[0])
    assert overlap_told(structure) == ""
    assert "share 1 dimension," in overlap_told(replace(structure, overlap=(1, 0)))
    assert "share 2 dimensions," in overlap_told(replace(structure, overlap=(2, 0)))
    assert "share 1 sign," in overlap_told(replace(structure_of(MODELS[1]), overlap=(0, 1)))


def test_the_page_shows_the_group_its_items_and_the_orbit() -> None:
    loaded = load_model(MODELS[1], None, 0)
    structure, state = structure_of(MODELS[1]), loaded.module.state_dict()
    for name in ("fc1.weight", "fc1.bias"):
        state[name][1] = state[name][0]
    state["fc2.weight"][:, 1] = state["fc2.weight"][:, 0]
    proof = weyl.verify(loaded.module, loaded.args, structure=structure)
    page = render_inspection(Inspection("net", structure, 26, 4, proof, (), orbit_around(structure, state), "net.pt"))
    assert "Each kind alone" in page and ">signs</th>" in page and ">scales</th>" not in page
    assert "The orbit of these weights" in page and "fc1 [0, 1]" in page and "net.pt" in page
    assert "item by item" not in page, "there is no continuous dimension to draw"
    plain = render_inspection(Inspection("net", structure_of(MODELS[0]), 26, 4))
    assert "item by item" in plain and "The orbit of these weights" not in plain


@pytest.mark.parametrize("model", MODELS)
def test_every_symbol_has_its_legend(model: str) -> None:
    structure = structure_of(model)
    told, used = (set(re.findall(SYMBOL, text)) for text in (" ".join(LEGEND), structure.group.symbol))
    assert used and used <= told and "Q" not in told
    page = render_inspection(Inspection("net", structure, 26, 4))
    assert "What the symbols mean" in page and all(words in page for words in LEGEND.values())
    assert "Mon+<sub>n</sub>" in page


def test_long_names_may_be_broken_after_dots_and_underscores() -> None:
    page = render_inspection(Inspection("a&b_c", structure_of(MODELS[2]), 26, 4))
    assert "layers.<wbr>0.<wbr>self_<wbr>attn.<wbr>out_<wbr>proj</th>" in page.replace("\n", "")
    assert "<h1>a&amp;<wbr>b_<wbr>c</h1>" in page


def test_names_in_an_orbit_are_escaped() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("<b>\x1b", nn.Linear(2, 3))
            self.last = nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, last = self.children()
            return last(first(x).relu())

    net = Net().requires_grad_(requires_grad=False)
    for tensor in net.parameters():
        tensor.fill_(1)
    structure = weyl.discover(net, (torch.ones(1, 2),))
    page = render_inspection(
        Inspection("net", structure, 13, 4, None, (), orbit_around(structure, dict(net.state_dict())), "<i>")
    )
    assert "<b>" not in page and "\x1b" not in page and "<i>" not in page
    assert "Units that may trade places" in page
