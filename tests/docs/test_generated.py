"""What the documentation takes from the program is current."""

from __future__ import annotations

import importlib.util
import re
import xml.etree.ElementTree as ET
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_command_line_reference_is_current() -> None:
    spec = importlib.util.spec_from_file_location("make_docs", DOCS / "make_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.command_line()
    assert "## weyl inspect" in text and "--input-shape" in text
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == text, "run python docs/make_docs.py --cli"


def test_the_picture_is_a_file_of_its_own() -> None:
    text = (DOCS / "barrier.svg").read_text(encoding="utf-8")
    assert ET.fromstring(text.encode()).get("role") == "img"
    assert "barrier" in text and "prefers-color-scheme:dark" in text
    # A viewer without variables finds every colour before them.
    assert set(re.findall(r"[\w-]+: #[0-9a-f]{6}; ([\w-]+: var)", text)) >= {"fill: var", "stroke: var"}
    assert len(re.findall(r"var\(", text)) == len(re.findall(r"#[0-9a-f]{6}; [\w-]+: var\(", text))
