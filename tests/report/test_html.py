from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest

from weyl.groups import Order, Space
from weyl.proof import Control, Proof
from weyl.report import Inspection, power_of_ten, printable, render_inspection, scientific, to_json
from weyl.structure import Opaque, Structure, Units

VOID = {"meta", "br", "link", "img", "use", "path"}
EVIL = "<script>alert(1)</script>\x1b[2J\u202e"


class Checker(HTMLParser):
    """Collects tags, and fails where an element is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes something else"


def check(page: str) -> list[str]:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return checker.tags


def proof(verdict: str = "holds", **changes: object) -> Proof:
    values = {
        "verdict": verdict,
        "reason": "because",
        "max_relative_error": 2.5e-16,
        "tolerance": 1e-12,
        "exact": True,
        "trials": 3,
        "control": Control("fc.weight", 0.25, True),
        "float32_error": None,
    }
    return Proof(**{**values, **changes})  # type: ignore[arg-type]


def inspection(name: str = "net", verdict: Proof | None = None) -> Inspection:
    structure = Structure(
        spaces=(Space(name, 3),),
        axes={f"{name}.weight": (Units(name, 3),)},
        opaque=(Opaque(name, name, (f"{name}[0]",), name),),
        unused=(name,),
        notes=(name,),
    )
    return Inspection(name, structure, 12, 2, verdict, (name,))


def test_hostile_names_are_shown_and_do_nothing() -> None:
    page = render_inspection(inspection(EVIL, proof(reason=EVIL, control=Control(EVIL, 0.5, True))))
    tags = check(page)
    assert "script" not in tags
    assert "\x1b" not in page and "\u202e" not in page
    assert page.count("&lt;script&gt;") >= 9


def test_the_page_is_one_file_that_fetches_nothing() -> None:
    page = render_inspection(inspection(verdict=proof()))
    assert set(check(page)).isdisjoint({"script", "link", "img", "iframe", "object"})
    assert (
        not re.search(r'(?:src|href)="(?!#)', page)
        and "@import" not in page
        and "url(" not in page.replace("url(#", "")
    )
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page and '<html lang="en">' in page


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        (None, "was not checked"),
        (proof(), "agree to the last bit"),
        (proof(exact=None), "not exact on integers"),
        (proof("fails", exact=False), "It does not hold"),
        (proof("inconclusive", control=Control("", math.nan, False)), "went unseen"),
        (proof(float32_error=2e-7), "2 × 10<sup>−7</sup>"),
    ],
)
def test_every_verdict_has_its_words(verdict: Proof | None, says: str) -> None:
    page = render_inspection(inspection(verdict=verdict))
    check(page)
    assert says in page


def test_numbers_of_the_page() -> None:
    page = render_inspection(inspection(), exact=True, numbers="net.json")
    assert "S<sub>3</sub>" in page and "0.7782" in page and "net.json" in page and "All 1 digits" in page


def test_numbers_as_text() -> None:
    assert scientific(Order.of({512: 3})) == "4.20 × 10³⁴⁹⁹"
    assert power_of_ten(Order.of({12: 1})) == ("479,001,600", "")
    assert printable("a\x00\x9b\u2066é×") == r"a\x00\x9b\u2066é×"


def test_json_is_ascii_and_finite() -> None:
    text = to_json({"a": (1.0, math.inf, {"b": math.nan}), "\x9b": "\u202e"})
    assert text.isascii() and "Infinity" not in text and "NaN" not in text
