"""Structures as data: text form, equality, printing, bad text."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weyl.errors import StructureError, WeylError
from weyl.groups import Kind, Space
from weyl.structure import Cases, Fixed, Opaque, Product, Structure, Sum, Units
from weyl.testing import assert_structure_round_trip

UNITS = [Units("a", 2), Units("b", 3)]
LEAVES = st.one_of(st.sampled_from(UNITS), st.integers(1, 9).map(Fixed))


def _compound(children):
    several = st.lists(children, min_size=2, max_size=3).map(tuple)
    return st.one_of(several.map(Product), several.map(Sum))


AXES = st.recursive(LEAVES, _compound, max_leaves=6)


@st.composite
def structures(draw):
    spaces = (Space("a", 2), Space("b", 3, within=("a",)))
    names = draw(st.lists(st.text(max_size=8), unique=True, max_size=4))
    axes = {name: tuple(draw(st.lists(AXES, max_size=3))) for name in names}
    opaque = tuple(Opaque(op, "m", ("w[0]",)) for op in draw(st.lists(st.text(max_size=5), max_size=2)))
    return Structure(spaces, axes, opaque=opaque, unused=tuple(names[:1]), notes=tuple(draw(st.lists(st.text()))))


@given(structures())
@settings(deadline=None)
def test_round_trip(structure):
    assert_structure_round_trip(structure)
    assert isinstance(hash(structure), int)


def test_round_trip_of_families_and_cases():
    structure = Structure(
        (Space("c", 3, within=("p",)),),
        {"w": (Units("p", 4), Units("c", 3)), "v": (Sum((Fixed(1), Fixed(2))), Cases(0, (Fixed(3), Units("c", 3))))},
        indices=(Space("p", 4, Kind.TRIVIAL),),
    )
    assert_structure_round_trip(structure)
    assert structure.spaces[0].multiplicity == 4
    assert structure.spaces[0].occurrences == (("w", 1), ("v", 1))
    assert structure.space("p").occurrences == (("w", 0),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "weyl-structure-0"}',
        '{"format": "weyl-structure-1"}',
        '{"format": "weyl-structure-2"}',
        '{"format": "weyl-structure-3"}',
        "[" * 100_000,
        json.dumps({"format": "weyl-structure-1", "spaces": 3}),
    ],
)
def test_bad_text_is_refused(text):
    with pytest.raises(StructureError):
        Structure.from_json(text)


GOOD = json.loads(Structure((Space("a", 2),), {"w": (Units("a", 2), Sum((Fixed(1), Fixed(2))))}).to_json())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spaces", 0, "size"), -1),
        (("spaces", 0, "size"), True),
        (("spaces", 0, "kind"), "Q"),
        (("spaces", 0, "within"), ["nobody"]),
        (("spaces", 0, "name"), "b"),
        (("axes", "w", 0), {"space": "a", "size": -2}),
        (("axes", "w", 0), True),
        (("axes", "w", 1), {"sum": []}),
        (("axes", "w", 1), {"cases": [1, 2], "dim": 0}),
        (("axes", "w", 1), -4),
        (("axes", "w", 0), {"space": "a", "size": 3}),
        (("axes", "w", 0), {"cases": [2, 2], "dim": 7}),
        (("axes", "w", 0), {"cases": [2, 2, 2], "dim": 1}),
        (("axes",), None),
        (("opaque",), [{}]),
    ],
)
def test_malformed_parts_are_refused(path, value):
    data = json.loads(json.dumps(GOOD))
    target = data
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(StructureError):
        Structure.from_json(json.dumps(data)).group  # noqa: B018  a property that checks


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    )
)
@settings(deadline=None, max_examples=200)
def test_any_json_gives_a_structure_or_our_error(data):
    with suppress(WeylError):
        Structure.from_json(json.dumps({**GOOD, "axes": data, "spaces": data}))


def test_deep_nesting_is_refused():
    axis = 1
    for _ in range(100):
        axis = {"sum": [axis, 1]}
    with pytest.raises(StructureError, match="deep"):
        Structure.from_json(json.dumps({**GOOD, "axes": {"w": [axis]}}))


def test_an_axis_must_name_a_known_space():
    with pytest.raises(StructureError, match="unknown space"):
        Structure((), {"w": (Units("a", 2),)})


def test_printing_escapes_and_names():
    structure = Structure((Space("<b>", 2),), {"w": (Units("<b>", 2),)}, opaque=(Opaque("aten.x", "m"),))
    assert "S_2" in repr(structure)
    assert "aten.x" in repr(structure)
    assert "&lt;b&gt;" in structure._repr_html_()
    assert "<b>" not in structure._repr_html_()
    assert structure.space("<b>").occurrences == (("w", 0),)
    with pytest.raises(StructureError, match="no space"):
        structure.space("b")


def test_a_structure_does_not_change():
    structure = Structure((), {"w": (Fixed(2),)})
    with pytest.raises(TypeError):
        structure.axes["w"] = ()
