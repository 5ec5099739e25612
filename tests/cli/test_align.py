"""``weyl align``: what is written lies next to A and computes what B computes, or nothing is written."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors import safe_open
from safetensors.torch import load
from tests.cli.pairs import RELU, TRAINED, Weyl, one_line, outputs, save, state, trained, twin

import weyl as library
from weyl.checkpoints import load_weights
from weyl.cli._merge_files import Checkpoint, encoded
from weyl.cli._merging import COSTS, KINDS
from weyl.matching import _match


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network, a copy in other coordinates, and one that is no copy."""
    a = state(RELU, 1)
    save(tmp_path / "a.pt", a)
    save(tmp_path / "twin.pt", twin(RELU, a, 3))
    save(tmp_path / "b.pt", state(RELU, 2))
    return tmp_path


def align(weyl: Weyl, folder: Path, a: str, b: str, *flags: object, model: str = RELU) -> Result:
    return weyl("align", model, folder / a, folder / b, *flags)


def gap(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float((one[n].double() - other[n].double()).square().sum()) for n in one))


def test_a_copy_in_other_coordinates_is_recognised_and_brought_back(weyl: Weyl, folder: Path) -> None:
    out = folder / "out.safetensors"
    result = align(weyl, folder, "a.pt", "twin.pt", "-o", out)
    assert result.exit_code == 0 and "yes: B is A in other coordinates" in result.stdout
    a, before, after = load_weights(folder / "a.pt"), load_weights(folder / "twin.pt"), load_weights(out)
    for name, tensor in a.items():
        torch.testing.assert_close(after[name], tensor)
    assert gap(a, before) > 1


def test_any_other_network_comes_nearer_and_computes_the_same(weyl: Weyl, folder: Path) -> None:
    out = folder / "out.safetensors"
    result = align(weyl, folder, "a.pt", "b.pt", "-o", out, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 0 and not found["exact"] and found["coordinate_optimal"]
    a, before, after = load_weights(folder / "a.pt"), load_weights(folder / "b.pt"), load_weights(out)
    assert [gap(a, before), gap(a, after)] == pytest.approx([found["distance_before"], found["distance"]], rel=1e-6)
    assert found["distance"] < found["distance_before"] and found["cosine"] > found["cosine_before"]
    torch.testing.assert_close(outputs(RELU, after), outputs(RELU, before), rtol=1e-5, atol=1e-5)
    # A tensor that is moved alone is another network: the check above can fail.
    wrong = {**before, found["preserved"]["parameter"]: after[found["preserved"]["parameter"]]}
    assert (outputs(RELU, wrong) - outputs(RELU, before)).abs().max() > 1e-2
    assert found["preserved"]["control"] > 1e-2 > 1e-12 > found["preserved"]["difference"]
    assert max(found["certificate"].values()) <= 1e-12
    assert all(after >= before - 1e-9 for before, after in pairwise(found["history"]))


def test_the_file_has_the_types_names_and_metadata_of_b(weyl: Weyl, folder: Path) -> None:
    given = {name: tensor.bfloat16() for name, tensor in state(RELU, 2).items()}
    save(folder / "b.safetensors", given, {"format": "pt", "author": "somebody", "zone": "7"})
    first = []
    for name in ("one.safetensors", "two.safetensors"):
        result = align(weyl, folder, "a.pt", "b.safetensors", "-o", folder / name)
        assert result.exit_code == 0 and "bfloat16: compared in float32" in result.stderr
        first.append((folder / name).read_bytes())
    assert first[0] == first[1]
    with safe_open(folder / "one.safetensors", framework="pt") as file:
        metadata = file.metadata()
        assert set(file.keys()) == set(given)
    assert metadata["format"] == "pt" and metadata["author"] == "somebody" and "weyl align" in metadata["weyl"]
    assert {tensor.dtype for tensor in load_weights(folder / "one.safetensors").values()} == {torch.bfloat16}


def test_kinds_limit_what_is_used(weyl: Weyl, folder: Path) -> None:
    found = json.loads(align(weyl, folder, "a.pt", "twin.pt", "--kinds", "permute", "--dry-run", "--json").stdout)
    assert found["dry_run"]
    plain = align(weyl, folder, "a.pt", "twin.pt", "--kinds", "permute", "-o", folder / "o.safetensors", "--json")
    found = json.loads(plain.stdout)
    assert found["moves"] == ["permute"] and not found["exact"]  # the scales of the copy stay
    old, new = load_weights(folder / "twin.pt"), load_weights(folder / "o.safetensors")
    assert all(torch.equal(old[n].flatten().sort().values, new[n].flatten().sort().values) for n in old)


def test_the_options_are_those_of_the_library() -> None:
    assert (KINDS, COSTS) == (_match.KINDS, _match.COSTS)


def test_activations_match_networks_that_were_trained_apart(weyl: Weyl, tmp_path: Path) -> None:
    save(tmp_path / "a.pt", trained(0))
    save(tmp_path / "b.pt", trained(1))
    flags = ("-o", tmp_path / "out.safetensors", "--costs", "activations", "--data", "digits", "--json")
    result = align(weyl, tmp_path, "a.pt", "b.pt", *flags, model=TRAINED)
    found = json.loads(result.stdout)
    assert result.exit_code == 0 and found["distance"] < found["distance_before"]
    assert found["preserved"]["verdict"] == "holds"


def test_a_dry_run_writes_nothing_and_says_how_much_it_would(weyl: Weyl, folder: Path) -> None:
    out = folder / "out.safetensors"
    result = align(weyl, folder, "a.pt", "b.pt", "-o", out, "--dry-run", "--json")
    planned = json.loads(result.stdout)
    assert result.exit_code == 0 and not out.exists()
    assert "dry run" in align(weyl, folder, "a.pt", "b.pt", "--dry-run").stdout
    assert planned["bytes_read"] == sum((folder / name).stat().st_size for name in ("a.pt", "b.pt"))
    assert planned["sweep_seconds"] > 0 and planned["tensors_written"] == 6
    # 5 units in 5 × 6, 5 and 4 × 5 entries, 4 units in 4 × 5, 4 and 3 × 4.
    assert planned["sweep_multiplications"] == 5 * (30 + 5 + 20) + 4 * (20 + 4 + 12)
    assert align(weyl, folder, "a.pt", "b.pt", "-o", out).exit_code == 0
    assert out.stat().st_size == planned["bytes_written"]


def test_a_function_that_is_not_kept_is_not_written(weyl: Weyl, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The symmetry of ReLU units, claimed for tanh units."""
    tanh = f"{RELU}&act=tanh"
    honest = library.discover

    def wrong(model: torch.nn.Module, *args: object, **kwargs: object) -> object:
        from weyl.models import load_model

        relu = load_model(RELU, None, 0)
        return honest(relu.module, relu.args)

    out = folder / "out.safetensors"
    monkeypatch.setattr(library, "discover", wrong, raising=False)
    result = align(weyl, folder, "a.pt", "twin.pt", "-o", out, model=tanh)
    assert result.exit_code == 1 and "NOT kept" in result.stdout and "does not compute" in result.stderr
    assert not out.exists()
    monkeypatch.undo()
    assert align(weyl, folder, "a.pt", "twin.pt", "-o", out, model=tanh).exit_code == 0 and out.exists()


def overflowing(folder: Path) -> None:
    """A with units scaled by 1e6, and a copy of the plain network in half precision."""
    a = state(RELU, 1)
    scaled = {**a, "fc1.weight": 1e6 * a["fc1.weight"], "fc1.bias": 1e6 * a["fc1.bias"]}
    scaled["fc2.weight"] = a["fc2.weight"] / 1e6
    save(folder / "scaled.pt", scaled)
    save(folder / "half.pt", {name: tensor.half() for name, tensor in a.items()})


def test_what_leaves_the_range_of_a_type_is_not_written(weyl: Weyl, folder: Path) -> None:
    overflowing(folder)
    out = folder / "out.safetensors"
    result = align(weyl, folder, "scaled.pt", "half.pt", "-o", out)
    one_line(result, 1, "fc1.", "would hold NaN or Inf in float16", "--kinds permute,sign")
    assert not out.exists()
    merged = weyl("merge", RELU, folder / "half.pt", folder / "scaled.pt", "-o", out, "--no-align", "--weights", "0,1")
    one_line(merged, 1, "fc1.", "would hold NaN or Inf in float16")
    assert not out.exists()
    assert align(weyl, folder, "scaled.pt", "half.pt", "-o", out, "--kinds", "permute,sign").exit_code == 0
    assert all(bool(tensor.isfinite().all()) for tensor in load_weights(out).values())


def test_the_verdict_is_of_what_is_written(weyl: Weyl, folder: Path) -> None:
    """Weights that vanish in half precision are finite, and another network."""
    a = state(RELU, 1)
    a |= {"fc2.weight": a["fc2.weight"] / 1e3, "fc2.bias": a["fc2.bias"] / 1e3, "fc3.weight": 1e3 * a["fc3.weight"]}
    small = {**a, "fc1.weight": 1e-8 * a["fc1.weight"], "fc1.bias": 1e-8 * a["fc1.bias"]}
    save(folder / "small.pt", {**small, "fc2.weight": 1e8 * a["fc2.weight"]})
    save(folder / "half.pt", {name: tensor.half() for name, tensor in a.items()})
    out = folder / "out.safetensors"
    result = align(weyl, folder, "small.pt", "half.pt", "-o", out, "--json")
    found = json.loads(result.stdout)["preserved"]
    assert result.exit_code == 1 and "written in its types, does not compute" in result.stderr and not out.exists()
    assert found["verdict"] == "fails" and found["difference"] < 1e-12
    assert found["written"] > found["written_tolerance"] > found["tolerance"]
    assert align(weyl, folder, "small.pt", "half.pt", "-o", out, "--kinds", "permute,sign").exit_code == 0


def test_infinities_that_were_given_are_no_overflow() -> None:
    mask = torch.tensor([0.0, -math.inf])
    dtypes = {"mask": torch.float16, "weight": torch.float16}
    given = {"mask": mask, "weight": torch.ones(2)}
    like = Checkpoint("a.pt", given, dtypes, {}, 0)
    assert torch.equal(load(encoded(like, given, ""))["mask"], mask.half())
    with pytest.raises(library.MismatchError, match="weight would hold NaN or Inf in float16"):
        encoded(like, {**given, "weight": torch.full((2,), 1e6)}, "")
    small = Checkpoint("a.pt", given, {"weight": torch.float8_e5m2}, {}, 0)
    with pytest.raises(library.MismatchError, match="float8_e5m2"):
        encoded(small, {"weight": torch.full((2,), 1e6)}, "")
    assert encoded(small, given, "")


def test_prefixes_and_nested_dicts(weyl: Weyl, folder: Path) -> None:
    b = load_weights(folder / "b.pt")
    torch.save({"ema": {f"module._orig_mod.{n}": t for n, t in b.items()}, "model": b}, folder / "nested.pt")
    flags = ("-o", folder / "out.safetensors")
    one_line(align(weyl, folder, "a.pt", "nested.pt", *flags), 3, "several dicts", "--key")
    torch.save({"ema": load_weights(folder / "a.pt"), "model": b}, folder / "first.pt")
    result = align(weyl, folder, "first.pt", "nested.pt", *flags, "--key", "ema")
    assert result.exit_code == 0 and "removed the prefix module._orig_mod." in result.stderr
    assert set(load_weights(folder / "out.safetensors")) == set(b)


def test_types_may_differ(weyl: Weyl, folder: Path) -> None:
    b = {name: tensor.double() for name, tensor in load_weights(folder / "twin.pt").items()}
    save(folder / "double.pt", b)
    result = align(weyl, folder, "a.pt", "double.pt", "-o", folder / "out.safetensors")
    assert result.exit_code == 0 and "is float64: compared in float64" in result.stderr
    assert {t.dtype for t in load_weights(folder / "out.safetensors").values()} == {torch.float64}
    same = align(weyl, folder, "a.pt", "twin.pt", "-o", folder / "same.safetensors")
    assert "compared in" not in same.stderr


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("a.pt", "missing.pt"), 3, "no such file"),
        (("a.pt", "twni.pt"), 3, "twin.pt"),
        (("a.pt", "other.pt"), 1, "of another shape"),
        (("a.pt", "nan.pt"), 4, "nan.pt: fc2.weight holds NaN or Inf"),
        (("nan.pt", "a.pt"), 4, "nan.pt: fc2.weight holds NaN or Inf"),
        (("a.pt", "junk.pt"), 3, "of no known format"),
        (("a.pt", "b.pt", "-o", "{tmp}/old.safetensors"), 3, "--force"),
        (("a.pt", "old.safetensors", "-o", "{tmp}/old.safetensors", "--force"), 3, "never written over"),
        (("a.pt", "b.pt", "-o", "{tmp}/out.pt"), 2, ".safetensors"),
        (("a.pt", "b.pt", "-o", "{tmp}/none/out.safetensors"), 3, "does not exist"),
        (("a.pt", "b.pt", "--costs", "both"), 2, "give --data"),
        (("a.pt", "b.pt", "--data", "digits"), 2, "--costs"),
        (("a.pt", "b.pt", "--limit", "5"), 2, "--data"),
        (("a.pt", "b.pt", "--kinds", "permute,turn"), 2, "'turn' is none of permute"),
        (("a.pt", "b.pt", "--kinds", ""), 2, "'' is none of permute"),
        (("a.pt", "b.pt", "--costs", "both", "--data", "digits"), 3, "does not accept the inputs of digits"),
        (("a.pt", "b.pt", "--costs", "both", "--data", "digit"), 3, "did you mean"),
    ],
)
def test_bad_inputs_are_one_line(weyl: Weyl, folder: Path, args: tuple[str, ...], code: int, says: str) -> None:
    save(folder / "other.pt", state("mlp?widths=6-5-5-3", 1))
    nan = state(RELU, 2)
    nan["fc2.weight"][0, 0] = math.nan
    save(folder / "nan.pt", nan)
    (folder / "junk.pt").write_bytes(b"no weights at all")
    save(folder / "old.safetensors", state(RELU, 2))
    before = (folder / "old.safetensors").read_bytes()
    flags = [arg.format(tmp=folder) for arg in args[2:]]
    out = () if "-o" in flags else ("-o", folder / "out.safetensors")
    for dry in ((), ("--dry-run",)):
        one_line(align(weyl, folder, args[0], args[1], *out, *flags, *dry), code, says)
    assert (folder / "old.safetensors").read_bytes() == before and not (folder / "out.safetensors").exists()


def test_without_an_output_there_is_nothing_to_do(weyl: Weyl, folder: Path) -> None:
    one_line(align(weyl, folder, "a.pt", "b.pt"), 2, "-o")
    one_line(align(weyl, folder, "a.pt", "b.pt", "-o", ""), 2, ".safetensors")
    one_line(align(weyl, folder, "a.pt", "b.pt", "--dry-run", "--force"), 2, "give -o, too")
    one_line(weyl("align", RELU, folder / "a.pt", "", "-o", folder / "out.safetensors"), 2, "name a file")
