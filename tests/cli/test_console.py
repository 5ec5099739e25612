"""What a terminal shows of long names."""

from __future__ import annotations

import pytest
from rich.console import Console

from weyl.cli._console import Names

LONG = "layers.0.self_attn.in_proj_weight[0], layers.0.linear1.weight[0], … 12 more"
LONGEST_PART = len("weight[0],")


@pytest.mark.parametrize("width", range(LONGEST_PART, len(LONG) + 2))
def test_names_end_a_line_after_a_dot_or_an_underscore(width: int) -> None:
    lines = [line.plain.rstrip() for line in Names(LONG).wrap(Console(), width)]
    assert max(map(len, lines)) <= width
    assert "".join(lines).replace(" ", "") == LONG.replace(" ", "")
    for line in lines[:-1]:
        assert line[-1] in "._," or line.endswith(("…", "12")), lines
    assert len(lines) == 1 or width < len(LONG)


def test_a_name_without_either_is_folded() -> None:
    lines = [line.plain for line in Names("abcdefghij").wrap(Console(), 4, overflow="fold")]
    assert lines == ["abcd", "efgh", "ij"]


def test_style_is_kept() -> None:
    assert {line.style for line in Names("a.b.c", style="cyan").wrap(Console(), 2)} == {"cyan"}
