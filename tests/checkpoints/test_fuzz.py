"""Whatever a file holds, only weyl's own errors come out, in one line; what is read is what other libraries read."""

from __future__ import annotations

import functools
import io
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load as load_safetensors
from safetensors.torch import save
from tests.checkpoints.bad_files import BIAS, MAP, ONE, STATE, TWO, WEIGHT, packed, sharded
from torch import nn

import weyl
from weyl.checkpoints import read_weights
from weyl.checkpoints._describe import guarded
from weyl.errors import InputError, StructureError, WeylError
from weyl.structure import Structure

settings.register_profile("files", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
files = settings(settings.get_profile("files"), max_examples=100)
few = settings(settings.get_profile("files"), max_examples=25)


@contextmanager
def one_line_or_nothing() -> Iterator[None]:
    """Only weyl's errors pass, and those in one printable line."""
    try:
        yield
    except WeylError as error:
        assert str(error).isprintable() and len(str(error)) < 2000


@functools.cache
def valid(kind: str) -> bytes:
    if kind == "safetensors":
        return save(STATE, {"a": "b"})
    buffer = io.BytesIO()
    torch.save(STATE, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


texts = st.text(max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
types = st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "U8", "F8_E4M3", "C64", "F4", "f32", ""]) | values
sizes = st.integers(-1, 4) | st.sampled_from([2**31, 2**62, 2**63, True, 1.0])
entries = st.fixed_dictionaries(
    {"dtype": types, "shape": st.lists(sizes, max_size=3) | values},
    optional={"data_offsets": st.lists(st.integers(-1, 40), min_size=2, max_size=2) | values, "more": values},
)
headers = st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]) | texts, entries | values, max_size=4)


@files
@given(headers, st.binary(max_size=40))
@example({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"abcd")
def test_any_header(tmp_path: Path, header: dict[str, object], data: bytes) -> None:
    """What is read is what the format's own library reads; it never reads what weyl would not but for its leniency."""
    path = tmp_path / "a.safetensors"
    content = packed(json.dumps(header).encode(), data)
    path.write_bytes(content)
    with one_line_or_nothing():
        found = read_weights(path).tensors
        expected = load_safetensors(content)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name].view(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


layouts = st.lists(
    st.tuples(st.sampled_from(["F64", "F32", "F16", "U8"]), st.lists(st.integers(0, 3), max_size=3)),
    min_size=1,
    max_size=5,
)


@files
@given(layouts, st.randoms(use_true_random=False))
def test_every_good_header_is_read(tmp_path: Path, layout: list[tuple[str, list[int]]], random: object) -> None:
    """Tensors in any order, empty ones and scalars among them: nothing that the format allows is refused."""
    header, end = {}, 0
    for number, (short, shape) in enumerate(layout):
        begin = end
        end += int(torch.Size(shape).numel()) * {"F64": 8, "F32": 4, "F16": 2, "U8": 1}[short]
        header[f"t{number}"] = {"dtype": short, "shape": shape, "data_offsets": [begin, end]}
    names = sorted(header, key=lambda name: hash((name, str(layout))))
    content = packed({name: header[name] for name in names}, bytes(index % 256 for index in range(end)))
    (tmp_path / "a.safetensors").write_bytes(content)
    expected = load_safetensors(content)
    found = read_weights(tmp_path / "a.safetensors").tensors
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape and found[name].dtype == tensor.dtype
        assert torch.equal(found[name].view(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


flips = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=4)


def flipped(data: bytes, places: list[tuple[float, int]]) -> bytes:
    changed = bytearray(data)
    for place, bit in places:
        changed[int(place * len(changed))] ^= 1 << bit
    return bytes(changed)


@files
@given(flips)
def test_flipped_bits_of_safetensors(tmp_path: Path, places: list[tuple[float, int]]) -> None:
    (tmp_path / "a.safetensors").write_bytes(flipped(valid("safetensors"), places))
    with one_line_or_nothing():
        read_weights(tmp_path / "a.safetensors")


@few
@given(flips)
def test_flipped_bits_of_archives(tmp_path: Path, places: list[tuple[float, int]]) -> None:
    """Checksums cover every tensor and the pickle: what is read has the right values."""
    (tmp_path / "a.pt").write_bytes(flipped(valid("zip"), places))
    with one_line_or_nothing():
        found = read_weights(tmp_path / "a.pt")
        if not any("without checksums" in note for note in found.notes):
            torch.testing.assert_close(found.tensors, STATE, rtol=0, atol=0)


@few
@given(flips)
def test_flipped_bits_of_the_older_format(tmp_path: Path, places: list[tuple[float, int]]) -> None:
    (tmp_path / "a.pt").write_bytes(flipped(valid("legacy"), places))
    with one_line_or_nothing():
        read_weights(tmp_path / "a.pt")


@files
@given(st.binary(max_size=60))
@example(b"\x80\x02cposix\nsystem\n(X\x02\x00\x00\x00lstR.")
@example(b"\x80\x02ccollections\nOrderedDict\n}X\x08\x00\x00\x00__dict__NsbN.")
def test_any_pickle_is_told_or_refused(tmp_path: Path, data: bytes) -> None:
    """In this process, since nothing in it can be called: whatever is told is JSON."""
    path = tmp_path / "pickle"
    # An index of the memo can ask for more memory than there is, which only the limits of the other process refuse.
    path.write_bytes(b"\x80\x02" + data.replace(b"r", b"q").replace(b"j", b"h"))
    with path.open("rb") as file:
        for mode in ("archive", "legacy"):
            told = guarded(mode, 0, path.stat().st_size, file.fileno())
            assert json.loads(json.dumps(told)).keys() in ({"refused", "text"}, {"content"})


@files
@given(values)
def test_what_is_told_of_plain_things_is_what_they_are(value: object) -> None:
    data = pickle.dumps(value)
    told = guarded_bytes(data)
    assert told["content"]["is"] == type(value).__name__
    if isinstance(value, dict):
        assert [key for key, _ in told["content"]["items"]] == list(value)


def guarded_bytes(data: bytes) -> dict[str, dict[str, object]]:
    from weyl.checkpoints._describe import describe_archive

    return describe_archive(data)


indices = st.dictionaries(
    st.sampled_from([*MAP, "other"]) | texts,
    st.sampled_from([ONE, TWO, "../x", "/etc/passwd", ".", "", "model.safetensors.index.json", "a\0b"]) | values,
    max_size=4,
)


@files
@given(indices, st.booleans())
@example(MAP, True)
def test_any_index(tmp_path: Path, index: dict[str, object], inside: bool) -> None:
    """An index is read only if it says of every tensor of the files that it names where that is, and of no other."""
    folder = sharded(tmp_path / "m", MAP, {ONE: WEIGHT, TWO: BIAS})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index} if inside else index))
    right = inside and index and all(MAP.get(name) == piece for name, piece in index.items())
    try:
        found = read_weights(folder)
    except InputError as error:
        assert str(error).isprintable() and not right
        return
    assert right
    torch.testing.assert_close(found.tensors, {name: STATE[name] for name in index}, rtol=0, atol=0)


@functools.cache
def structure_text() -> str:
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2), nn.Sigmoid(), nn.Linear(2, 1))
    return weyl.discover(net, (torch.zeros(1, 3),)).to_json()


def places(value: object, path: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """The way to every value in JSON."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*path, key))


@settings(files, max_examples=200)
@given(st.data())
def test_any_change_to_the_text_of_a_structure(data: st.DataObject) -> None:
    """One to three values replaced by any others, or removed."""
    tree = json.loads(structure_text())
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(places(tree))[1:]))
        parent = functools.reduce(lambda value, key: value[key], path[:-1], tree)
        if data.draw(st.booleans()):
            parent[path[-1]] = data.draw(values | st.sampled_from([2**40, 10**400, -1, 0, 1e400]))
        else:
            del parent[path[-1]]
        if not tree:
            break
    with one_line_or_nothing():
        structure = Structure.from_json(json.dumps(tree))
        assert Structure.from_json(structure.to_json()) == structure
        assert repr(structure) and structure.group.symbol


@files
@given(st.text(max_size=40) | values.map(json.dumps))
@example(structure_text())
@example("[" * 100_000)
@example("9" * 5000)
@example('{"format": "weyl-structure-1", "spaces": [], "indices": [], "axes": {}, "opaque": 1}')
def test_any_text_is_a_structure_or_refused(text: str) -> None:
    with one_line_or_nothing():
        Structure.from_json(text)


@pytest.mark.parametrize("number", [2**63, 10**400, 1e400])
def test_numbers_that_no_tensor_has(number: float) -> None:
    """Each was once an OverflowError, at once or when the order was counted."""
    data = json.loads(structure_text())
    changed = [
        {"offsets": {"0.weight": 10**400}},
        {"gauges": [{**data["gauges"][0], "carries": [["a", 1e400]]}]},
        {"spaces": [{**data["spaces"][0], "size": number}]},
        {"axes": {"w": [number]}},
        {"axes": {"w": [{"space": "0", "size": number}]}},
    ]
    for change in changed:
        empty = {"spaces": [], "axes": {}, "gauges": [], "weights": {}, "absorptions": {}, "offsets": {}}
        with pytest.raises(StructureError) as caught:
            Structure.from_json(json.dumps({**data, **empty, **change}))
        assert str(caught.value).isprintable() and len(str(caught.value)) < 300
    assert Structure.from_json(json.dumps({**data, **empty})).group.symbol


def test_the_control_an_error_that_is_not_weyls_is_seen() -> None:
    with pytest.raises(KeyError), one_line_or_nothing():
        raise KeyError("x")
    with pytest.raises(AssertionError), one_line_or_nothing():
        raise InputError("two\nlines")
