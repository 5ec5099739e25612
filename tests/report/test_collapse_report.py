"""What is said about representations, and the figures that show them."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.geometry.planted import planted
from torch import nn

from weyl.geometry import Collapse, CollapseStatistics, Cut, LayerRow, Profile, collapse, simplex_optimum
from weyl.report import Measured, criteria, cut_told, pair_excess, render_collapse, symmetry_told, to_json
from weyl.report import _collapse_figures as figures
from weyl.report.figures import standalone

LAYERS = (LayerRow("a", 8, 2.0, 1.0, 0.7, 100), LayerRow("b$x$", 8, None, None, 0.95, 50))
PROFILE = Profile(LAYERS, 0.95, True, 0.01, 4)


# The figures


def every(found: Collapse) -> dict[str, str]:
    other = planted(len(found.classes), noise=0.3)
    return {
        "cosines": figures.cosines(found),
        "shares": figures.shares(found),
        "levels": figures.levels({"train": found, "test": other}),
        "means": figures.means(found),
        "layers": figures.layers(PROFILE),
        "optimum": figures.optimum(simplex_optimum(len(found.classes), 3.0)),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return every(planted(skew=0.3, bootstrap=20))


@pytest.mark.parametrize("name", ["cosines", "shares", "levels", "means", "layers", "optimum"])
def test_figures_follow_the_house_rules(drawn: dict[str, str], name: str) -> None:
    figure = drawn[name]
    root = ET.fromstring(figure)
    assert root.get("role") == "img" and root[0].text == root.get("aria-label")
    assert "var(--" in figure and not re.search(r"#0000(0[1-9]|a\d)\b", figure)
    assert not re.search(r"(?<!; )(?:fill|stroke): var\(", standalone(figure))
    assert all(v.startswith("#") for e in root.iter() for k, v in e.attrib.items() if k.endswith("href"))


def test_figures_are_the_same_bytes_and_share_no_id(drawn: dict[str, str]) -> None:
    assert every(planted(skew=0.3, bootstrap=20)) == drawn
    ids = [set(re.findall(r'\bid="([^"]+)"', figure)) for figure in drawn.values()]
    assert len(set().union(*ids)) == sum(map(len, ids))


@pytest.mark.parametrize("k", [2, 3, 5, 40])
def test_any_number_of_classes_can_be_drawn(k: int) -> None:
    found = planted(k, dim=45, noise=0.1)
    for figure in every(found).values():
        ET.fromstring(figure)
    assert ("30 classes" in figures.cosines(found)) == (k == 40)


def test_fewer_dimensions_than_classes_can_be_drawn() -> None:
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    y = torch.arange(60) % 6
    found = CollapseStatistics(6, 2).update(x, y).compute()
    for figure in (figures.means(found), figures.cosines(found), figures.levels({"train": found})):
        ET.fromstring(figure)
    one = torch.arange(60.0)[:, None] % 6
    ET.fromstring(figures.means(CollapseStatistics(6, 1).update(one, y).compute()))


def texts(figure: str) -> str:
    return " ".join(e.text.strip() for e in ET.fromstring(figure).iter() if e.tag.endswith("text") and e.text)


def test_cosines_show_the_departure_from_the_simplex() -> None:
    even = texts(figures.cosines(planted(noise=0.0)))
    assert not re.search(r"[+−]\.\d", even)
    skewed = figures.cosines(planted(noise=0.0, skew=0.6))
    assert "nearest together relative to a simplex: 2 and 3" in skewed


def test_means_of_a_simplex_lie_on_their_rings() -> None:
    assert "NC2 is 0.000" in figures.means(planted(noise=0.0))
    # Two of the five directions of a simplex with six vertices.
    assert "hold 40% of their spread" in figures.means(planted(6, noise=0.0))


def test_values_above_chance_and_below_the_edge_are_drawn() -> None:
    found = replace(planted(noise=0.0), nc5=0.9)
    figure = figures.levels({"train": found})
    assert "NC4" in texts(figure)
    assert "On train: NC1" not in figure and "nc1 0.0001" in figure


def test_names_are_text_not_markup() -> None:
    found = replace(planted(), classes=("<b>&\x1b", "$x$", "c", "d" * 90))
    for figure in (figures.cosines(found), figures.shares(found), figures.means(found)):
        shown = texts(figure)
        assert r"<b>&\x1b" in shown and "$x$" in shown and "\x1b" not in figure


# The report


def measured(**changes: object) -> Measured:
    found = planted(skew=0.3)
    return Measured("net", "shapes", {"train": found, "test": planted(noise=0.2)}, "net.pt", profile=PROFILE, **changes)  # type: ignore[arg-type]


def test_the_report_says_it_all_and_fetches_nothing() -> None:
    page = render_collapse(measured(warnings=("<script>\x1b",)), numbers="out.json")
    assert page.count("<svg ") == 5 and "out.json" in page and "Hui, Belkin, Nakkiran" in page
    assert "<script" not in page and "\x1b" not in page and "&lt;script&gt;" in page
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "after b$x$: nearest mean" in page and "18 parameters would be saved" in page
    assert "1 percentage point;" in page and "What the verdict needs" in page
    assert planted(skew=0.3).verdict().sentence in page


def test_one_class_and_nothing_but_features_still_make_a_report() -> None:
    y = torch.zeros(20, dtype=torch.int64)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    alone = CollapseStatistics(2, 3).update(x, y).compute()
    page = render_collapse(Measured("net", "shapes", {"train": alone}))
    assert "One class alone" in page and "Absent from the data and left out: 1" in page
    bare = CollapseStatistics(2, 3).update(x, torch.arange(20) % 2).compute()
    assert "<svg" in render_collapse(Measured("net", "shapes", {"train": bare}))


def test_a_profile_without_layers_is_left_out() -> None:
    bare = Measured("net", "shapes", {"train": planted()}, profile=Profile((), 1.0, False, 0.01, 4))
    assert "From layer to layer" not in render_collapse(bare)
    assert "From layer to layer" in render_collapse(measured())


def test_no_cut_is_told_with_its_reason() -> None:
    chance = replace(PROFILE, accuracy=0.3)
    assert chance.cut is None and "(30.0%) is near chance" in cut_told(chance)
    dear = replace(PROFILE, layers=(replace(LAYERS[1], parameters=32),))
    assert dear.cut is None and "as many parameters as the tail" in cut_told(dear)
    far = replace(PROFILE, layers=LAYERS[:1])
    assert far.cut is None and "within 1 percentage point of the whole network (95.0%) after no layer" in cut_told(far)
    assert "after here:" in cut_told(PROFILE, "here") and "within 5 percentage points" in cut_told(
        replace(PROFILE, tolerance=0.05)
    )


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("bootstrap", [0, 20])
def test_the_limits_shown_are_those_that_decided(noise: float, bootstrap: int) -> None:
    found = planted(noise=noise, bootstrap=bootstrap)
    missed = {row["metric"] for row in criteria(found) if row["met"] is False}
    assert missed == set(found.verdict().failed)
    assert (not missed) == (found.verdict().level == "collapsed")


def test_matrix_table_and_picture_have_one_unit() -> None:
    found = planted(skew=0.6)
    first, second, value = pair_excess(found, 1)[0]
    i, j = found.classes.index(first), found.classes.index(second)
    centred = found.means - found.means.mean(0)
    cosine = centred[i] @ centred[j] / (np.linalg.norm(centred[i]) * np.linalg.norm(centred[j]))
    assert value == pytest.approx(cosine + 1 / 3)
    shown = f"{abs(value):.2f}".removeprefix("0")
    assert shown in texts(figures.cosines(found)) and f"{abs(value):.3f}" in render_collapse(
        Measured("net", "shapes", {"train": found})
    )


def test_a_symmetry_broken_by_all_alike_is_told_as_broken() -> None:
    told = symmetry_told(replace(planted(skew=0.6), shares=np.full(4, 0.25)))
    assert "no class has more than twice" in told and re.search(r"the S_k defect is 0\.\d+ \(chance", told)
    assert "always form a regular simplex" in symmetry_told(planted(2))


def test_names_of_ten_classes_do_not_lie_on_each_other() -> None:
    root = ET.fromstring(figures.means(planted(10, dim=12, noise=0.3)))
    names = [e for e in root.iter() if e.tag.endswith("text") and e.text and e.text.strip().isdigit()]
    places = [(float(e.get("x", "nan")), float(e.get("y", "nan"))) for e in names]
    assert len(places) == 10
    apart = [math.dist(a, b) for n, a in enumerate(places) for b in places[:n]]
    assert min(apart) > 20


def test_layers_are_called_by_path_and_type() -> None:
    named = replace(measured(), kinds={"a": "Linear"})
    page = render_collapse(named)
    assert "a (Linear)" in page and page.count("a (Linear)") >= 2
    assert "a (Linear)" in texts(figures.layers(PROFILE, ["a (Linear)", "b"]))


def test_numbers_are_json() -> None:
    told = json.loads(to_json(measured().to_dict()))
    assert told["verdict"]["level"] in ("partly", "not") and set(told["parts"]) == {"train", "test"}
    assert told["profile"]["cut"] == {"layer": "b$x$", "accuracy": 0.95, "loss": 0.0, "parameters": 18}
    assert isinstance(PROFILE.cut, Cut) and told["ood"] is None and told["weights"] == "net.pt"


def test_a_headless_model_is_not_needed() -> None:
    """The verdict never needs more than a `Collapse`, of whatever origin."""
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    assert collapse(module, [(x, torch.arange(60) % 3)], progress=False).verdict().level == "not"
