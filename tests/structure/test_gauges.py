"""Gauges of structures as data: text form, older text, refusals, tables."""

import copy
import json
import pickle
from dataclasses import replace

import pytest
from tests.actions import gauged

from weyl.errors import StructureError
from weyl.groups import Gauge, GaugeKind, Kind, Space
from weyl.structure import Absorption, Block, Fixed, Structure, Units, Weight
from weyl.testing import assert_structure_round_trip

SPACES = (Space("e", 2), Space("h", 3, Kind.MONOMIAL, within=("e",)))
AXES = {"w": (Units("e", 2), Units("h", 3), Fixed(8)), "b": (Fixed(8),), "r": (Fixed(8), Fixed(8))}
OUTER, OWN = (0, Block(0, (("e", 2, 1),))), (1, Block(0, (("h", 3, 1),)))
BOTH = Block(1, (("e", 2, 3), ("h", 3, 1)))
GAUGES = (
    Gauge("s", "h", GaugeKind.SIGN),
    Gauge("c", "h", GaugeKind.SCALE),
    Gauge("t", "h", GaugeKind.TRANSLATION, (("s", 1),)),
    Gauge("z", "h", GaugeKind.COMPLEX),
    Gauge("m", "h", GaugeKind.LINEAR),
    Gauge("a", "", GaugeKind.SCALE),
)
GOOD = Weight((OUTER, OWN), 1, 0)


def structure(gauge="s", weight=GOOD, tensor="w", **rest):
    return Structure(SPACES, AXES, gauges=GAUGES, weights={gauge: {tensor: (weight,)}}, **rest)


@pytest.mark.parametrize("name", list(gauged.CASES))
def test_round_trip(name):
    case = gauged.CASES[name]().structure
    assert_structure_round_trip(case)
    assert hash(case) == hash(Structure.from_json(case.to_json()))
    first = next(iter(case.weights))
    tensor = next(iter(case.weights[first]))
    assert gauged.without(case, first, tensor) != case
    assert json.loads(case.to_json())["format"] == "weyl-structure-2"


def test_text_of_format_1_has_no_gauges():
    plain = Structure((Space("a", 2),), {"w": (Units("a", 2), Fixed(3))}, notes=("n",))
    data = plain.to_dict()
    old = {k: v for k, v in data.items() if k not in ("gauges", "weights", "offsets", "absorptions", "overlap")}
    assert Structure.from_json(json.dumps({**old, "format": "weyl-structure-1"})) == plain
    with pytest.raises(StructureError, match="malformed"):
        Structure.from_json(json.dumps(old))


@pytest.mark.parametrize(
    ("gauge", "weight", "message"),
    [
        ("nobody", GOOD, "unknown gauge 'nobody'"),
        ("s", replace(GOOD, blocks=(OWN,)), "depends on the index of 'e'"),
        ("s", replace(GOOD, blocks=(OWN, OUTER)), "not increasing"),
        ("s", replace(GOOD, blocks=(OUTER, OWN, (3, OWN[1]))), "tensor of 3"),
        ("s", replace(GOOD, dim=0), "the factor is 'e', the gauge acts on 'h'"),
        ("s", replace(GOOD, dim=2), "no block of dimension 2"),
        ("s", replace(GOOD, factor=1), "has a factor 1"),
        ("s", replace(GOOD, blocks=(OUTER, (1, Block(1, (("h", 3, 1),))))), "leave the axis of 3"),
        ("s", replace(GOOD, blocks=(OUTER, (1, Block(-1, (("h", 3, 1),))))), "leave the axis of 3"),
        ("s", replace(GOOD, blocks=(OUTER, (1, Block(0, (("h", 2, 1),))))), "no space 'h' with 2 units"),
        ("s", replace(GOOD, blocks=(OUTER, (1, Block(0, (("x", 3, 1),))))), "no space 'x'"),
        ("s", replace(GOOD, blocks=(OUTER, (1, Block(0, (("h", 3, 0),))))), "meet a position twice"),
        ("s", Weight(((2, Block(0, (("e", 2, 2), ("h", 3, 1)))),), 2, 1), "meet a position twice"),
        ("s", replace(GOOD, coefficient=1.0), "values that multiply"),
        ("s", replace(GOOD, partner=1), "only complex values have a partner"),
        ("t", GOOD, "coefficient that is not zero"),
        ("t", replace(GOOD, coefficient=float("nan")), "coefficient nan"),
        ("m", replace(GOOD, exponent=2), "must be 1 or -1"),
        ("z", Weight(((2, BOTH),), 2, 1, partner=1), "partner 1"),
        ("z", Weight(((2, BOTH),), 2, 1, partner=6), "partner 6"),
        ("a", GOOD, "without a space"),
    ],
)
def test_weights_that_do_not_fit(gauge, weight, message):
    with pytest.raises(StructureError, match=message):
        structure(gauge, weight)


def test_weights_that_fit():
    for gauge in "sczm":
        partner = 0 if gauge != "z" else 6
        blocks = ((2, replace(BOTH, factors=BOTH.factors)),)
        if gauge != "z":
            assert structure(gauge).weights[gauge]["w"] == (GOOD,)
            assert structure(gauge, Weight(blocks, 2, 1, partner=partner))
    assert structure("t", replace(GOOD, coefficient=-2.0))
    assert structure("a", Weight((), -1, -1))


def test_names_that_nothing_has():
    with pytest.raises(StructureError, match="no such tensor"):
        structure(tensor="q")
    with pytest.raises(StructureError, match="'q'"):
        structure(offsets={"q": 1e-5})
    with pytest.raises(StructureError, match="nobody"):
        Structure(SPACES, AXES, gauges=(Gauge("g", "nobody", GaugeKind.SIGN),))


FLIPS = Absorption("b", "r", 1, BOTH)


@pytest.mark.parametrize(
    ("gauge", "absorption", "message"),
    [
        ("c", FLIPS, "only the flips"),
        ("s", replace(FLIPS, bias="q"), "no tensor 'q'"),
        ("s", replace(FLIPS, weight="w"), "must be entries of the bias"),
        ("s", replace(FLIPS, dim=0), "must be entries of the bias"),
        ("s", replace(FLIPS, block=Block(0, (("h", 3, 1),))), "space 'e' must stand once"),
        ("s", replace(FLIPS, block=replace(BOTH, base=3)), "leave the axis"),
        ("s", replace(FLIPS, constant=float("inf")), "finite"),
    ],
)
def test_absorptions_that_do_not_fit(gauge, absorption, message):
    assert structure(absorptions={"s": (FLIPS,)}).absorptions["s"] == (FLIPS,)
    with pytest.raises(StructureError, match=message):
        structure(absorptions={gauge: (absorption,)})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("gauges", 0, "kind"), "Q"),
        (("gauges", 0, "space"), "nobody"),
        (("gauges", 1, "name"), "s"),
        (("weights", "s", "w", 0, "dim"), True),
        (("weights", "s", "w", 0, "dim"), 1.0),
        (("weights", "s", "w", 0, "blocks"), [[1]]),
        (("weights", "s", "w", 0, "exponent"), "1"),
        (("weights", "s"), None),
        (("weights",), []),
        (("overlap",), [1]),
        (("overlap",), [-1, 0]),
        (("offsets",), {"b": "x"}),
        (("absorptions",), {"s": [{}]}),
    ],
)
def test_malformed_text(path, value):
    data = json.loads(structure().to_json())
    assert Structure.from_json(json.dumps(data)) == structure()
    target = data
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(StructureError):
        Structure.from_json(json.dumps(data))


def test_tables_count_all_copies():
    found = structure(overlap=(1, 2))
    e, h = found.rows()
    assert (e["signs"], e["scales"], e["dimension"]) == (0, 0, 0)
    signs, dimension = 3 + 3 + 3, 3 + 3 + 6 + 9
    assert (h["signs"], h["scales"], h["dimension"]) == (2 * signs, 2 * 3, 2 * dimension)
    assert h["kinds"] == found.group.kinds["h"]
    assert found.group.dimension == 2 * dimension + 1 - 1
    assert f"order {found.group.order}, dimension {2 * dimension}" in repr(found)
    assert f", dimension {2 * dimension}<" in found._repr_html_()
    assert "dimension" not in repr(Structure((Space("a", 2),), {}))


def test_gauges_of_a_structure_do_not_change():
    found = structure()
    for mapping in (found.weights, found.weights["s"], found.offsets, found.absorptions, found.weights_by_tensor):
        with pytest.raises(TypeError):
            mapping["x"] = ()
    assert found.weights_by_tensor["w"] == ((GAUGES[0], GOOD),)
    assert found.weights_by_tensor.get("b") is None


@pytest.mark.parametrize("case", gauged.CASES.values(), ids=gauged.CASES)
def test_structures_are_pickled_and_copied(case):
    structure = case().structure
    assert pickle.loads(pickle.dumps(structure)) == structure
    assert copy.deepcopy(structure) == structure
