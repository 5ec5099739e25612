"""What is said of two files of weights, the figure of the agreement, and the page."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

import weyl
from weyl.identity import VERDICTS, Comparison, SpaceEvidence
from weyl.report import Lookalike, Lookalikes, to_json
from weyl.report._identity import IN_ANOTHER_FORMAT, SENTENCES, Compared, p_told, render_comparison
from weyl.report._identity_figures import MANY, agreement, bars
from weyl.report.figures import standalone

EVIL = "<script>alert(1)</script>\x1b[2J$x$"


@cache
def comparisons() -> dict[str, Comparison]:
    """Of a network with a copy, a fine-tune and a stranger, by verdict."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(9, 64), nn.GELU(), nn.Linear(64, 48), nn.GELU(), nn.Linear(48, 9))
    structure = weyl.discover(net, (torch.zeros(1, 9),))
    a, b = (
        {n: torch.randn(t.shape, generator=generator) / t.shape[-1] ** 0.5 for n, t in net.state_dict().items()}
        for _ in "ab"
    )
    twin = weyl.act(structure.group.random(seed=1), structure, a)
    tuned = {n: t + 0.01 * torch.randn(t.shape, generator=generator) for n, t in twin.items()}
    found = (weyl.compare(structure, a, other) for other in (a, twin, tuned, b))
    return {one.verdict: one for one in found}


def compared(verdict: str, **changes: object) -> Compared:
    values: dict[str, object] = {
        "model": "net",
        "a": "a.pt",
        "b": "b.pt",
        "group": "S_64 × S_48",
        "comparison": comparisons()[verdict],
        "hashes": ("a" * 64, "b" * 64),
        "cosine": 0.0123,
        "settings": {"model": "net", "a": "a.pt", "key": None, "alpha": 1e-6, "align": True, "seed": 0},
    }
    return Compared(**{**values, **changes})  # type: ignore[arg-type]


def space(name: str, share: float, units: int = 10) -> SpaceEvidence:
    return SpaceEvidence(name, units, 1, ("w",), ("v",), 0.5, 0.5, share, 0.5, 0.1)


def test_every_verdict_has_a_sentence() -> None:
    assert set(SENTENCES) == set(VERDICTS) and len(set(SENTENCES.values())) == len(VERDICTS)
    assert set(comparisons()) == {"identical", "same function", "derived", "unrelated"}


def test_equal_numbers_in_another_format_are_no_disguise() -> None:
    still = replace(comparisons()["same function"], element=comparisons()["identical"].element)
    assert compared("identical", comparison=still).sentence == IN_ANOTHER_FORMAT
    assert compared("same function").sentence == SENTENCES["same function"]


@pytest.mark.parametrize("verdict", ["identical", "same function", "derived", "unrelated"])
def test_the_page_says_it_all_and_fetches_nothing(verdict: str) -> None:
    found = compared(verdict, warnings=(EVIL,), b=EVIL)
    page = render_comparison(found, numbers="out.json")
    assert "<script" not in page and "\x1b" not in page and "&lt;script&gt;" in page and "out.json" in page
    assert not re.search(r'(?:src|href)="(?!#)', page) and "S<sub>64</sub>" in page
    assert found.sentence in page and f">{verdict.capitalize()}</span></h1>" in page
    assert ('<span class="good">' in page) is (verdict in ("identical", "same function"))
    assert "a" * 64 in page and "b" * 64 in page and "two files" in page and "0.0123" in page
    tested = verdict in ("derived", "unrelated")
    assert page.count("<svg ") == tested and ("Space by space" in page) is tested
    assert "What was not compared" not in page
    numbers = json.loads(to_json(found.to_dict()))
    assert numbers["verdict"] == verdict and numbers["sha256"] == ["a" * 64, "b" * 64]


def test_what_was_left_out_is_named() -> None:
    lines = tuple(f"only in the first: layer{number}.{EVIL}" for number in range(50))
    page = render_comparison(compared("derived", comparison=replace(comparisons()["derived"], left_out=lines)))
    assert "What was not compared" in page and "layer39." in page and "layer40." not in page and "10 more" in page


def test_one_file_twice_and_no_cosine() -> None:
    page = render_comparison(compared("identical", hashes=("a" * 64, "a" * 64), cosine=None))
    assert "the same file" in page and "two files" not in page
    assert not re.search(r"\b(?:nan|inf)\b", page, re.IGNORECASE)


def test_facts() -> None:
    facts = dict(compared("same function").facts)
    assert "after B was moved" in facts["distance"] and facts["moved by"] == "permutations"
    facts = dict(compared("unrelated").facts)
    assert "after B was moved" not in facts["distance"] and "moved by" not in facts
    assert facts["p-value"] == p_told(comparisons()["unrelated"].p_value) != p_told(comparisons()["derived"].p_value)


def test_the_figure_follows_the_house_rules() -> None:
    figure = agreement([space("fc1$x$", 0.25), space("fc2", 1.0)])
    root = ET.fromstring(figure)
    assert root.get("role") == "img" and root[0].text == root.get("aria-label")
    assert "fc1$x$: 25.0 %, by chance 10.0 %" in str(root.get("aria-label"))
    assert "var(--" in figure and not re.search(r"#0000(0[1-9]|a\d)\b", figure)
    assert not re.search(r"(?<!; )(?:fill|stroke): var\(", standalone(figure))
    assert agreement([space("fc1", 0.25)]) != agreement([space("fc1", 0.3)])


def test_many_spaces_share_bars_with_equal_layers() -> None:
    few = bars([space("h.0.fc", 0.5), space("h.1.fc", 1.0)])
    assert few == [("h.0.fc", 0.5, 0.1), ("h.1.fc", 1.0, 0.1)]
    many = [space(f"h.{number}.fc", number / 100, 10) for number in range(MANY)] + [space("head", 0.5, 30)]
    assert bars(many) == [
        (f"h.*.fc (×{MANY})", pytest.approx(sum(range(MANY)) / MANY / 100), 0.1),
        ("head", 0.5, 1 / 30),
    ]


def test_lookalikes_hold_only_if_every_name_is_true() -> None:
    copy = Lookalike("a copy", "moved", "same function", "same function", False, 0.01, None, 1.4, 1e-8)
    itself = Lookalike("itself", "", "identical", "identical", True, 1.0, None, 0.0, None)
    found = Lookalikes((itself, copy), 1.0)
    assert found.holds and "1 of these 2 are other files" in found.sentence and "to 2 of 2" in found.sentence
    wrong = replace(found, seen=(itself, replace(copy, verdict="unrelated")))
    assert not wrong.holds and "to 1 of 2" in wrong.sentence
    assert [one["as_expected"] for one in wrong.to_dict()["seen"]] == [True, False]
