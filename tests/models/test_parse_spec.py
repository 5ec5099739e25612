from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weyl.errors import ModelSpecError
from weyl.models import BUILTIN_NAMES, parse_spec
from weyl.models.builtin import BUILTINS
from weyl.models.loaded import near, one_line


@pytest.mark.parametrize(
    ("text", "kind", "target", "factory"),
    [
        ("mlp", "builtin", "mlp", ""),
        ("torch.nn:Linear", "module", "torch.nn", "Linear"),
        ("a.b:C.make", "module", "a.b", "C.make"),
        ("nets/tiny.py:make", "file", "nets/tiny.py", "make"),
        ("C:/nets/tiny.py:make", "file", "C:/nets/tiny.py", "make"),
        ("hf:some/config.json", "hf", "some/config.json", ""),
        ("hf:C:/dir", "hf", "C:/dir", ""),
    ],
)
def test_the_four_forms(text: str, kind: str, target: str, factory: str) -> None:
    parsed = parse_spec(text)
    assert (parsed.kind, parsed.target, parsed.factory) == (kind, target, factory)
    assert parsed.keywords == {}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("a=1", {"a": 1}),
        ("a=1.5&b=True&c=None", {"a": 1.5, "b": True, "c": None}),
        ("a=relu", {"a": "relu"}),
        ("a=784-512-10", {"a": "784-512-10"}),
        ("a=16or32", {"a": "16or32"}),
        ("a=(1,2)", {"a": (1, 2)}),
        ("a=", {"a": ""}),
        ("a=x%26y%3Dz", {"a": "x&y=z"}),
        ("a=1e+5", {"a": 1e5}),
        ("a='1'", {"a": "1"}),
        ("a=__import__('os')", {"a": "__import__('os')"}),
    ],
)
def test_values_are_literals_or_text(query: str, expected: dict[str, object]) -> None:
    assert parse_spec(f"mlp?{query}").keywords == expected


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.integers() | st.booleans(), max_size=4))
def test_keywords_round_trip(keywords: dict[str, object]) -> None:
    query = "&".join(f"{key}={value!r}" for key, value in keywords.items())
    assert parse_spec(f"mlp?{query}").keywords == keywords


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "unknown MODEL ''"),
        ("resnet81", "did you mean 'resnet18'"),
        ("zebra", "a built-in (cnn, lstm, mlp, resnet, resnet18, transformer)"),
        ("net.py", "net.py:factory"),
        ("config.json", "hf:config.json"),
        ("weights.safetensors", "holds weights"),
        ("hf:", "names no configuration"),
        (":make", "package.module:factory"),
        ("torch.nn:", "package.module:factory"),
        ("torch.nn:1x", "package.module:factory"),
        ("some/path:make", "ending in .py"),
        ("mlp?widths", "key=value"),
        ("mlp?a=1&&b=2", "key=value"),
        ("mlp?a b=1", "key=value"),
        ("mlp?a=1&a=2", "a is given twice"),
    ],
)
def test_bad_specs_are_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(ModelSpecError) as caught:
        parse_spec(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parse_spec(text)
    except ModelSpecError as error:
        assert str(error).isprintable()


def test_names_for_help_are_those_that_can_be_built() -> None:
    assert tuple(BUILTINS) == BUILTIN_NAMES


def test_naming_a_model_does_not_import_torch() -> None:
    code = (
        "import sys; from weyl.models import parse_spec, load_model; parse_spec('mlp?widths=3-2');"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_line_cuts_and_escapes() -> None:
    assert one_line("a" * 300, limit=10) == "a" * 9 + "…"
    assert one_line("\x1b]0;title\x07\u202e") == "\\x1b]0;title\\x07\\u202e"


def test_near_is_silent_without_a_likeness() -> None:
    assert near("abc", ["xyz"]) == ""
    assert near("widht", ["width", "act"]) == "; did you mean 'width'?"
