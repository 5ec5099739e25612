"""What is said of the line between two networks, its figures and its page."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET

import pytest

from weyl.merging import Barrier
from weyl.report import to_json
from weyl.report._barrier import ALIGNED, AS_THEY_ARE, Between, Line, render_barrier
from weyl.report._barrier_figures import curves
from weyl.report.figures import standalone

AT = (0.0, 0.25, 0.5, 0.75, 1.0)
HIGH = (0.1, 0.6, 1.2, 0.5, 0.2)
LOW = (0.1, 0.15, 0.25, 0.2, 0.2)
EVIL = "<script>alert(1)</script>\x1b[2J$x$"
ALIGNMENT = {
    "exact": False,
    "coordinate_optimal": True,
    "group": "Mon+_64^2",
    "moves": ["permute", "scale"],
    "distance": 1.0,
    "distance_before": 2.0,
    "cosine": 0.5,
    "cosine_before": 0.1,
    "sweeps": 3,
}


def line(losses: tuple[float, ...], band: bool = True, accuracy: bool = True) -> Line:
    metrics = {"accuracy": tuple(1 - loss / 2 for loss in losses)} if accuracy else {}
    ends = tuple((0.9 * loss, 1.1 * loss) for loss in losses) if band else None
    return Line(Barrier(AT, losses, metrics, (0.5, 1.5) if band else None), ends)


def between(before: Line, after: Line, **changes: object) -> Between:
    values = {
        "model": "net",
        "data": "shapes",
        "a": "a.pt",
        "b": "b.pt",
        "lines": {AS_THEY_ARE: before, ALIGNED: after},
        "alignment": ALIGNMENT,
    }
    return Between(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["loss", "accuracy"])
def test_figures_follow_the_house_rules(what: str) -> None:
    found = between(line(HIGH), line(LOW)).lines
    figure = curves(found, what)
    root = ET.fromstring(figure)
    assert root.get("role") == "img" and root[0].text == root.get("aria-label")
    assert "var(--" in figure and not re.search(r"#0000(0[1-9]|a\d)\b", figure)
    assert not re.search(r"(?<!; )(?:fill|stroke): var\(", standalone(figure))
    assert curves(found, what) == figure
    texts = [e.text.strip() for e in root.iter() if e.tag.endswith("text") and e.text]
    assert {AS_THEY_ARE, ALIGNED, "A", "B", "half-way"} <= set(texts)


def test_bands_are_drawn_where_they_are_known() -> None:
    with_band, without = (curves({ALIGNED: line(LOW, band=band)}, "loss") for band in (True, False))
    assert "opacity: 0.16" in with_band and "opacity: 0.16" not in without


def test_the_share_that_aligning_explains() -> None:
    found = between(line(HIGH), line(LOW))
    before, after = 1.2 - 0.15, 0.25 - 0.15
    assert found.explained == pytest.approx(1 - after / before)
    assert f"{found.explained:.1%} of the barrier was a choice of coordinates" in found.sentence
    worse = between(line(LOW), line(HIGH))
    assert worse.explained is not None and worse.explained < 0
    assert "did not lower the barrier" in worse.sentence and "was a choice" not in worse.sentence
    assert "A choice of coordinates" in render_barrier(found) and "A choice of coordinates" not in render_barrier(worse)
    flat = between(line((0.1,) * 5), line(LOW))
    assert flat.explained is None and between(line(HIGH), line(LOW), lines={ALIGNED: line(LOW)}).explained is None


def test_the_page_says_it_all_and_fetches_nothing() -> None:
    found = between(
        line(HIGH), line(LOW), warnings=(EVIL,), settings={"a": EVIL, "b": "b.pt", "samples": 1234, "kinds": None}
    )
    page = render_barrier(found, numbers="out.json")
    assert page.count("<svg ") == 2 and "out.json" in page and found.sentence in page
    assert "<script" not in page and "\x1b" not in page and "&lt;script&gt;" in page
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "permutations, scales" in page and "Mon+<sub>64</sub><sup>2</sup>" in page and "1,234" in page
    assert all(f"{loss:.3g}" in page for loss in HIGH) and "40.0 %" in page


def test_what_was_not_recognised_may_be_a_copy_all_the_same() -> None:
    for exact, told in ((False, "no copy of A, or none that was recognised"), (True, "A in other coordinates, up to")):
        page = render_barrier(between(line(HIGH), line(LOW), alignment={**ALIGNMENT, "exact": exact}))
        assert told in page
        assert ("no copy of A" in page) is not exact


def test_what_was_not_measured_is_left_out() -> None:
    found = between(line(HIGH, False, False), line(LOW, False, False), alignment=None)
    page = render_barrier(found)
    assert page.count("<svg ") == 1 and "no interval" in page
    assert "What was done to B" not in page and "What was done to B" in render_barrier(between(line(HIGH), line(LOW)))


def test_losses_that_are_no_numbers() -> None:
    broken = line((0.1, math.nan, math.inf, 0.5, 0.2), band=False)
    found = between(broken, line(LOW))
    assert not found.finite and found.explained is None and "no numbers" in found.sentence
    page = render_barrier(found)
    assert "–" in page and "no number half-way" in page
    assert not re.search(r"\b(?:nan|inf)\b", page, re.IGNORECASE)
    assert "no number half-way" not in render_barrier(between(line(HIGH), line(LOW)))
    assert json.loads(to_json(found.to_dict()))["lines"][AS_THEY_ARE]["height"] is None
    assert between(line(HIGH), line(LOW)).finite
