from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import matplotlib
import pytest

from weyl.groups import Order, Space
from weyl.report import Path
from weyl.report.figures import barrier, dimensions, growth, spaces, standalone
from weyl.structure import Structure, Units

PATH = Path((0.0, 0.25, 0.5, 0.75, 1.0), (0.1, 0.9, 2.6, 0.8, 0.1), (0.9, 0.5, 0.1, 0.5, 0.9))
SMALL = Structure(
    spaces=(Space("a", 3), Space("b", 4)),
    axes={"a.weight": (Units("a", 3),), "b.weight": (Units("b", 4), Units("a", 3))},
)
ITEMS = [
    {"what": "positive scales", "space": "a$b$c", "dimension": 3},
    {"what": "signs", "space": "b", "dimension": 0},
    {"what": "translations", "space": "", "dimension": 1},
]


@pytest.fixture(params=["growth", "barrier", "spaces", "dimensions"])
def figure(request: pytest.FixtureRequest) -> str:
    drawn = {"growth": growth(), "barrier": barrier(PATH), "spaces": spaces(SMALL), "dimensions": dimensions(ITEMS)}
    return drawn[request.param]


def test_the_same_input_gives_the_same_bytes_whatever_the_users_settings() -> None:
    first = growth(), barrier(PATH), spaces(SMALL)
    with matplotlib.rc_context({"font.size": 30, "axes.linewidth": 9, "svg.fonttype": "path"}):
        assert (growth(), barrier(PATH), spaces(SMALL)) == first
    with matplotlib.rc_context():
        matplotlib.rcParams["font.size"] = 7.5
        growth()
        assert matplotlib.rcParams["font.size"] == 7.5


def test_a_figure_can_be_read_aloud_and_fetches_nothing(figure: str) -> None:
    root = ET.fromstring(figure)
    assert root.get("role") == "img" and root.get("aria-label")
    assert root[0].tag.endswith("title") and root[0].text == root.get("aria-label")
    targets = [v for e in root.iter() for k, v in e.attrib.items() if k.endswith("href")]
    assert all(target.startswith("#") for target in targets)
    assert "<metadata" not in figure and "url(http" not in figure


def test_colours_follow_the_page_or_in_a_file_the_system(figure: str) -> None:
    assert "var(--muted, #" in figure
    assert not re.search(r"#0000(0[1-9]|a\d)\b", figure)
    alone = standalone(figure)
    # Every variable comes after a colour for viewers that know none, and is set for light and for dark.
    assert len(re.findall(r"var\(", alone)) == len(re.findall(r"#[0-9a-f]{6}; [\w-]+: var\(--\w+\)", alone)) > 3
    light, dark = re.findall(r"svg\{(--.*?)\}", alone)
    used = set(re.findall(r"var\((--\w+)\)", alone))
    for scheme in (light, dark):
        assert used <= set(re.findall(r"(--\w+):#[0-9a-f]{6}", scheme))
    assert "--paper:#ffffff" in light and light != dark and "prefers-color-scheme:dark" in alone
    ET.fromstring(alone.encode())


def test_two_figures_of_one_page_share_no_id() -> None:
    figures = [growth(), growth(mark=Order.of({40: 2})), barrier(PATH), spaces(SMALL)]
    ids = [set(re.findall(r'\bid="([^"]+)"', figure)) for figure in figures]
    assert all(ids) and len(set().union(*ids)) == sum(map(len, ids))


def test_growth_says_what_it_draws() -> None:
    digits = 3 * math.lgamma(101) / math.log(10)
    assert f"rise to {digits:,.0f} digits at width 100" in growth(widths=[10, 100], depths=(1, 3))
    assert "this network" in growth(mark=Order.of({40: 2})) and "this network" not in growth()


def test_barrier_is_measured_from_the_line_between_the_ends() -> None:
    assert PATH.barrier == pytest.approx(2.5)
    assert re.search(r">barrier<.*>2\.50<", barrier(PATH), re.DOTALL)


def test_spaces_shows_every_place_and_stops_at_forty() -> None:
    figure = spaces(SMALL)
    assert "S₃" in figure and "2 of 2 spaces and the 2 tensors" in figure
    many = tuple(Space(f"fc{i}", 2) for i in range(60))
    crowd = Structure(many, {f"fc{i}.weight": (Units(f"fc{i}", 2),) for i in range(60)})
    figure = spaces(crowd)
    assert "40 of 60 spaces" in figure and "fc39" in figure and "fc40" not in figure


def test_names_are_text_not_markup() -> None:
    name = "<b>&\x1b$x$"
    figure = spaces(Structure((Space(name, 2),), {"w": (Units(name, 2),)}))
    texts = [e.text for e in ET.fromstring(figure).iter() if e.tag.endswith("text")]
    assert any(text is not None and text.strip() == r"<b>&\x1b$x$" for text in texts), texts


def test_the_dimension_is_drawn_item_by_item() -> None:
    label = str(ET.fromstring(dimensions(ITEMS)).get("aria-label"))
    assert "positive scales, a$b$c: 3; translations, whole tensors: 1." in label and "signs" not in label
    many = [{**ITEMS[0], "space": f"s{i}", "dimension": i + 1} for i in range(50)]
    label = str(ET.fromstring(dimensions(many)).get("aria-label"))
    assert "s49: 50;" in label and "s9: 10" not in label and "10 smallest of 50" in label
