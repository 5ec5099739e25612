"""``weyl compare``, ``fingerprint`` and ``canonicalize``: a disguise is seen through, a stranger is no copy."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors import safe_open
from tests.cli.pairs import Weyl, one_line, outputs, save, state, structure, twin

import weyl as library
from weyl.checkpoints import load_weights, open_weights, write_weights
from weyl.cli import _identity
from weyl.cli._identity_files import Streamed, known_names, misfit, ties_of, with_ties
from weyl.identity import VERDICTS
from weyl.models import load_model

RELU = "mlp?widths=20-64-48-5"
TANH = f"{RELU}&act=tanh"
TIED = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mid, self.head = nn.Embedding(9, 24), nn.Linear(24, 24), nn.Linear(24, 9, bias=False)
        self.head.weight = self.embed.weight
    def forward(self, x):
        return self.head(self.mid(self.embed(x)).tanh())

def tied():
    torch.manual_seed(0)
    return Tied(), (torch.zeros(2, dtype=torch.long),)
"""
State = dict[str, torch.Tensor]


def noisy(of: State, size: float) -> State:
    """A network that goes on from another."""
    generator = torch.Generator().manual_seed(7)
    return {name: tensor + size * torch.randn(tensor.shape, generator=generator) for name, tensor in of.items()}


def shuffled(model: str, of: State, seed: int) -> State:
    """A copy with other orders and signs of units, bit for bit."""
    group = structure(model).group
    return library.act(group.random(seed, kinds=("permute", "sign")), structure(model), of)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network, copies of it, what was made of it, and a stranger."""
    a = noisy(state(RELU, 1), 0.05)
    save(tmp_path / "a.pt", a)
    save(tmp_path / "same.safetensors", a)
    save(tmp_path / "twin.pt", twin(RELU, a, 3))
    save(tmp_path / "shuffled.pt", shuffled(RELU, a, 4))
    save(tmp_path / "half.pt", {name: tensor.half() for name, tensor in shuffled(RELU, a, 5).items()})
    save(tmp_path / "tuned.pt", twin(RELU, noisy(a, 0.01), 6))
    save(tmp_path / "b.pt", noisy(state(RELU, 2), 0.05))
    nan = {name: tensor.clone() for name, tensor in a.items()}
    nan["fc2.weight"][0, 0] = math.nan
    save(tmp_path / "nan.pt", nan)
    save(tmp_path / "other.pt", state("mlp?widths=20-30-48-5", 1))
    (tmp_path / "junk.pt").write_bytes(b"no weights at all")
    (tmp_path / "empty.pt").write_bytes(b"")
    return tmp_path


def compare(weyl: Weyl, folder: Path, a: str, b: str, *flags: object, model: str = RELU) -> Result:
    return weyl("compare", model, folder / a, folder / b, *flags)


# compare


@pytest.mark.parametrize(
    ("b", "verdict", "code"),
    [
        ("same.safetensors", "identical", 0),
        ("shuffled.pt", "same function", 0),
        ("twin.pt", "same function", 0),
        ("half.pt", "same up to precision", 0),
        ("tuned.pt", "derived", 1),
        ("b.pt", "unrelated", 1),
        ("nan.pt", "inconclusive", 4),
    ],
)
def test_verdicts_and_exit_codes(weyl: Weyl, folder: Path, b: str, verdict: str, code: int) -> None:
    result = compare(weyl, folder, "a.pt", b, "--json")
    found = json.loads(result.stdout)
    assert (found["verdict"], result.exit_code) == (verdict, code), result.stdout
    assert found["same"] is (code == 0)
    plain = compare(weyl, folder, "a.pt", b)
    assert plain.exit_code == code and verdict.upper() in plain.stdout.splitlines()
    assert found["sentence"] in plain.stdout and found["reasons"][0].split(":")[0] in plain.stdout


def test_every_verdict_has_an_exit_code() -> None:
    assert set(_identity.EXIT) == set(VERDICTS)


def test_what_a_hash_and_a_cosine_say(weyl: Weyl, folder: Path) -> None:
    found = json.loads(compare(weyl, folder, "a.pt", "twin.pt", "--json").stdout)
    files = [folder / "a.pt", folder / "twin.pt"]
    assert found["sha256"] == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    one, other = (torch.cat([t.flatten().double() for t in load_weights(file).values()]) for file in files)
    assert found["cosine"] == pytest.approx(float(torch.nn.functional.cosine_similarity(one, other, dim=0)))
    assert found["distance"] < 1e-6 < 1 < found["distance_before"]
    shown = compare(weyl, folder, "a.pt", "twin.pt").stdout
    assert f"two files: {found['sha256'][0][:16]}" in shown and f"{found['cosine']:.4f}" in shown
    assert "the same file" in compare(weyl, folder, "a.pt", "a.pt").stdout
    assert "the same file" not in compare(weyl, folder, "a.pt", "same.safetensors").stdout


def test_the_outputs_of_the_model_are_compared(weyl: Weyl, folder: Path) -> None:
    near, far = (json.loads(compare(weyl, folder, "a.pt", b, "--json").stdout) for b in ("twin.pt", "b.pt"))
    assert near["outputs"]["same"] and near["outputs"]["error"] < 1e-4 < far["outputs"]["error"]


def test_explain_shows_every_space(weyl: Weyl, folder: Path) -> None:
    shown, hidden = (compare(weyl, folder, "a.pt", "tuned.pt", *flag).stdout for flag in (("--explain",), ()))
    assert "matched alike" in shown and "fc1" in shown and "fc2.weight" in shown
    assert "matched alike" not in hidden.replace("are matched alike in two ways", "")
    assert "no statistics were needed" in compare(weyl, folder, "a.pt", "twin.pt", "--explain").stdout


def test_alpha_and_no_align(weyl: Weyl, folder: Path) -> None:
    still = json.loads(compare(weyl, folder, "a.pt", "tuned.pt", "--json", "--no-align").stdout)
    moved = json.loads(compare(weyl, folder, "a.pt", "tuned.pt", "--json").stdout)
    assert still["verdict"] == moved["verdict"] == "derived" and still["moves"] == []
    assert still["distance"] == still["distance_before"] > 1 > 0.5 > moved["distance"]
    # At such an alpha every stranger is taken for kin: the bound is that of the option.
    stranger = json.loads(compare(weyl, folder, "a.pt", "b.pt", "--json", "--no-align", "--alpha", "0.999999").stdout)
    assert stranger["verdict"] == "derived" and stranger["settings"]["alpha"] == 0.999999


def test_a_larger_head_and_a_dropped_layer_are_compared_by_what_is_shared(weyl: Weyl, folder: Path) -> None:
    a = load_weights(folder / "a.pt")
    b = shuffled(RELU, noisy(a, 0.003), 8)
    generator = torch.Generator().manual_seed(1)
    more = {"fc3.weight": torch.randn(4, 48, generator=generator), "fc3.bias": torch.randn(4, generator=generator)}
    b |= {name: torch.cat([b[name], rows]) for name, rows in more.items()}
    save(folder / "head.pt", b)
    result = compare(weyl, folder, "a.pt", "head.pt", "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["verdict"], found["outputs"]) == (1, "derived", None)
    assert any("fc3.weight: (5, 48) against (9, 48)" in line for line in found["left_out"])
    assert "head.pt does not fit the model as a whole" in result.stderr and found["warnings"]
    shown = compare(weyl, folder, "a.pt", "head.pt", "--explain").stdout
    assert "not compared, or not as a whole" in shown and "fc3.weight" in shown
    short = {name: tensor for name, tensor in a.items() if not name.startswith("fc3")}
    save(folder / "short.pt", short)
    found = json.loads(compare(weyl, folder, "a.pt", "short.pt", "--json").stdout)
    assert found["verdict"] == "derived" and "only in the first: fc3.weight" in found["left_out"]
    assert not json.loads(compare(weyl, folder, "a.pt", "b.pt", "--json").stdout)["left_out"]


@pytest.fixture
def tied(tmp_path: Path) -> tuple[str, State]:
    """A model with one tensor under two names, and its state."""
    (tmp_path / "tied.py").write_text(TIED)
    model = f"{tmp_path / 'tied.py'}:tied"
    weights = load_model(model, None, 0).module.state_dict()
    return model, {name: tensor.detach() for name, tensor in weights.items()}


def test_a_name_that_the_model_ties_may_be_missing(weyl: Weyl, tmp_path: Path, tied: tuple[str, State]) -> None:
    model, full = tied
    bare = {name: tensor for name, tensor in full.items() if name != "head.weight"}
    save(tmp_path / "full.pt", full)
    save(tmp_path / "bare.safetensors", bare)
    result = weyl("compare", model, tmp_path / "full.pt", tmp_path / "bare.safetensors", "--json")
    found = json.loads(result.stdout)
    assert (found["verdict"], found["left_out"], result.exit_code) == ("identical", [], 0)
    assert found["outputs"] is not None
    prints = weyl("fingerprint", model, tmp_path / "full.pt", tmp_path / "bare.safetensors", "--json")
    assert len(json.loads(prints.stdout)["same"]) == 1
    # A name that is tied to nothing is missed.
    save(tmp_path / "less.pt", {name: tensor for name, tensor in full.items() if name != "mid.bias"})
    assert "1 missing (mid.bias)" in weyl("fingerprint", model, tmp_path / "less.pt").stderr
    less = weyl("compare", model, tmp_path / "full.pt", tmp_path / "less.pt", "--json")
    assert json.loads(less.stdout)["verdict"] != "identical" and less.exit_code != 0


def test_a_checkpoint_of_the_base_model_has_other_names(weyl: Weyl, folder: Path) -> None:
    (folder / "wrapped.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.base = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 24))\n"
        "        self.head = nn.Linear(24, 3)\n"
        "    def forward(self, x):\n"
        "        return self.head(self.base(x).tanh())\n"
        "def net():\n"
        "    return Net(), (torch.zeros(1, 6),)\n"
    )
    model = f"{folder / 'wrapped.py'}:net"
    full = load_model(model, None, 0).module.state_dict()
    save(folder / "full.pt", full)
    save(folder / "base.pt", {n.removeprefix("base."): t for n, t in full.items() if n.startswith("base.")})
    save(folder / "outer.pt", {f"student.{name}": tensor for name, tensor in full.items()})
    result = weyl("compare", model, folder / "full.pt", folder / "base.pt", "--json")
    found = json.loads(result.stdout)
    assert found["verdict"] == "derived" and "put base. before every name" in result.stderr
    assert [line for line in found["left_out"] if "only" in line] == [
        f"only in the first: head.{name}" for name in ("weight", "bias")
    ]
    prints = weyl("fingerprint", model, folder / "full.pt", folder / "outer.pt", "--json")
    assert len(json.loads(prints.stdout)["same"]) == 1 and "removed student. from names" in prints.stderr
    module = load_model(model, None, 0).module
    assert known_names(module, full) == ({name: name for name in full}, "")
    assert known_names(module, ["base.0.weight", "0.weight"])[1] == ""
    module._keys_to_ignore_on_load_unexpected = [r"\.mask$"]  # type: ignore[assignment]
    assert list(known_names(module, ["base.0.weight", "base.0.mask", "base.0.other"])[0]) == [
        "base.0.weight",
        "base.0.other",
    ]


def test_the_report_has_all_numbers_beside_it(weyl: Weyl, folder: Path) -> None:
    page = folder / "out.html"
    result = compare(weyl, folder, "a.pt", "tuned.pt", "--report", page)
    assert result.exit_code == 1 and "wrote" in result.stderr
    text, numbers = page.read_text(), json.loads(page.with_suffix(".json").read_text())
    assert numbers["sentence"] in text and numbers["sha256"][1] in text and "<script" not in text
    one_line(compare(weyl, folder, "a.pt", "b.pt", "--report", page), 3, "exists", "--force")
    save(folder / "net.json", load_weights(folder / "b.pt"))
    flags = ("--report", folder / "net.html", "--force")
    one_line(compare(weyl, folder, "net.json", "b.pt", *flags), 3, "never written over")
    one_line(compare(weyl, folder, "b.pt", "net.json", *flags), 3, "never written over")
    assert compare(weyl, folder, "a.pt", "b.pt", "--report", page, "--force").exit_code == 1


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("a.pt", "missing.pt"), 3, "no such file"),
        (("twni.pt", "a.pt"), 3, "did you mean 'twin.pt'"),
        (("a.pt", "junk.pt"), 3, "of no known format"),
        (("empty.pt", "a.pt"), 3, "is empty"),
        (("a.pt", "b.pt", "--key", "ema"), 3, "--key"),
        (("a.pt", "b.pt", "--alpha", "0"), 2, "--alpha"),
        (("a.pt", "b.pt", "--alpha", "2"), 2, "--alpha"),
        (("a.pt", "b.pt", "--force"), 2, "give --report, too"),
        (("a.pt", "b.pt", "--report", "out.pdf"), 2, ".html"),
    ],
)
def test_bad_inputs_of_compare_are_one_line(
    weyl: Weyl, folder: Path, args: tuple[str, ...], code: int, says: str
) -> None:
    one_line(compare(weyl, folder, *args), code, says)
    one_line(weyl("compare", RELU, folder / "a.pt", ""), 2, "name a file")


def test_another_architecture_is_told_from_a_copy(weyl: Weyl, folder: Path) -> None:
    alien = weyl("compare", "lstm", folder / "a.pt", folder / "twin.pt")
    one_line(alien, 1, "share no tensor")
    result = compare(weyl, folder, "a.pt", "other.pt")
    assert result.exit_code in (1, 4) and "does not fit the model as a whole" in result.stderr


def test_one_key_for_both_files(weyl: Weyl, folder: Path) -> None:
    a, b = load_weights(folder / "a.pt"), load_weights(folder / "b.pt")
    torch.save({"model": a, "ema": b}, folder / "one.pt")
    torch.save({"model": b, "best": a}, folder / "two.pt")
    one_line(compare(weyl, folder, "one.pt", "two.pt"), 3, "--key")
    one_line(compare(weyl, folder, "one.pt", "two.pt", "--key", "ema"), 3, "two.pt", "ema")
    assert compare(weyl, folder, "one.pt", "two.pt", "--key", "model").exit_code == 1
    assert compare(weyl, folder, "one.pt", "one.pt", "--key", "ema").exit_code == 0


# fingerprint


def lines(result: Result) -> dict[str, str]:
    return {Path(name).name: hexdigest for hexdigest, name in (row.split("  ") for row in result.stdout.splitlines())}


def test_copies_share_a_fingerprint_and_others_do_not(weyl: Weyl, folder: Path) -> None:
    names = ("a.pt", "same.safetensors", "shuffled.pt", "twin.pt", "b.pt", "tuned.pt")
    result = weyl("fingerprint", RELU, *(folder / name for name in names))
    assert result.exit_code == 0
    found = lines(result)
    assert list(found) == list(names) and all(len(one) == 64 for one in found.values())
    assert found["a.pt"] == found["same.safetensors"] == found["shuffled.pt"]
    # Scales round: their copy has another one, which is said.
    assert len({found[name] for name in names}) == 4 and "weyl: warning: scales are not among" in result.stderr
    assert f"same network: {folder / 'a.pt'}, {folder / 'same.safetensors'}" in result.stderr
    assert found["a.pt"] == library.fingerprint(structure(RELU), load_weights(folder / "a.pt"))


def test_signs_are_seen_through(weyl: Weyl, tmp_path: Path) -> None:
    a = noisy(state(TANH, 1), 0.05)
    save(tmp_path / "a.pt", a)
    save(tmp_path / "twin.pt", twin(TANH, a, 2))
    changed = {**a, "fc2.bias": -a["fc2.bias"]}
    save(tmp_path / "wrong.pt", changed)
    result = weyl("fingerprint", TANH, *(tmp_path / name for name in ("a.pt", "twin.pt", "wrong.pt")), "--json")
    found = json.loads(result.stdout)
    assert found["same"] == [[str(tmp_path / "a.pt"), str(tmp_path / "twin.pt")]] and not found["warnings"]
    assert len({one["fingerprint"] for one in found["files"]}) == 2


def test_other_files_are_read_after_a_bad_one(weyl: Weyl, folder: Path) -> None:
    names = ("nan.pt", "a.pt", "missing.pt", "junk.pt", "empty.pt", "other.pt", "b.pt")
    result = weyl("fingerprint", RELU, *(folder / name for name in names))
    assert result.exit_code == 4 and list(lines(result)) == ["a.pt", "b.pt"]
    errors = [line for line in result.stderr.splitlines() if line.startswith("weyl: error:")]
    assert len(errors) == 5
    for says in ("'fc2.weight' has NaN", "no such file", "of no known format", "is empty", "do not fit"):
        assert sum(says in line for line in errors) == 1, errors
    told = json.loads(weyl("fingerprint", RELU, *(folder / name for name in names), "--json").stdout)
    assert [one["exit_code"] for one in told["files"]] == [4, 0, 3, 3, 3, 1, 0]
    assert [one["fingerprint"] is None for one in told["files"]] == [code != 0 for code in (4, 0, 3, 3, 3, 1, 0)]


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [("nan.pt", 4, "NaN"), ("missing.pt", 3, "no such file"), ("other.pt", 1, "of another shape or type (fc1.weight")],
)
def test_a_bad_file_alone_is_one_line(weyl: Weyl, folder: Path, name: str, code: int, says: str) -> None:
    one_line(weyl("fingerprint", RELU, folder / name), code, name, says)
    one_line(weyl("fingerprint", RELU, folder / "a.pt", ""), 2, "name a file")
    one_line(weyl("fingerprint", RELU), 2, "FILE")


def test_the_precision_counts(weyl: Weyl, folder: Path) -> None:
    found = lines(weyl("fingerprint", RELU, folder / "a.pt", folder / "half.pt"))
    assert found["a.pt"] != found["half.pt"]


def test_a_file_is_read_one_tensor_at_a_time(tmp_path: Path, tied: tuple[str, State]) -> None:
    model, full = tied
    write_weights(tmp_path / "net.safetensors", full)
    loaded = load_model(model, None, 0)
    found = library.discover(loaded.module, loaded.args)
    seen: list[int] = []
    with open_weights(tmp_path / "net.safetensors") as opened:
        streamed = Streamed(opened, loaded.module, seen.append)
        assert not misfit(loaded.module, streamed.infos) and not streamed.broken
        assert library.fingerprint(found, streamed) == library.fingerprint(found, loaded.module.state_dict())
        # Every tensor once or twice, the two names of one tensor together.
        sizes = sum({streamed.peek(n).untyped_storage().data_ptr(): full[n].nbytes for n in full}.values())
        assert len(set(seen)) > 1 and max(seen) <= max(t.nbytes for t in full.values()) and sum(seen) <= 2 * sizes
    write_weights(tmp_path / "broken.safetensors", {**full, "head.weight": full["head.weight"] + 1})
    with open_weights(tmp_path / "broken.safetensors") as opened:
        streamed = Streamed(opened, loaded.module)
        assert streamed.broken == [("embed.weight", "head.weight")]
        assert torch.equal(streamed["head.weight"], full["head.weight"] + 1)
    assert with_ties({"embed.weight": torch.ones(1)}, ties_of(loaded.module)).keys() == {"embed.weight", "head.weight"}


def test_an_interrupt_is_no_bad_file(weyl: Weyl, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(library, "fingerprint", stop, raising=False)
    result = weyl("fingerprint", RELU, folder / "a.pt", folder / "b.pt")
    assert (result.exit_code, result.stdout, result.stderr.strip()) == (130, "", "weyl: interrupted")


# canonicalize


def test_copies_have_one_normal_form(weyl: Weyl, folder: Path) -> None:
    for name in ("a.pt", "twin.pt", "b.pt"):
        out = folder / f"normal_{Path(name).stem}.safetensors"
        result = weyl("canonicalize", RELU, folder / name, "--output", out)
        assert result.exit_code == 0 and "wrote" in result.stderr
        before, after = load_weights(folder / name), load_weights(out)
        torch.testing.assert_close(outputs(RELU, after), outputs(RELU, before), rtol=1e-5, atol=1e-5)
        back = compare(weyl, folder, name, out.name, "--json")
        assert json.loads(back.stdout)["verdict"] == "same function" and back.exit_code == 0
    a, other, stranger = (load_weights(folder / f"normal_{n}.safetensors") for n in ("a", "twin", "b"))
    for name, tensor in a.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-5, atol=1e-6)
    assert (stranger["fc1.weight"] - a["fc1.weight"]).abs().max() > 0.1


def test_permutations_and_signs_round_nothing(weyl: Weyl, folder: Path) -> None:
    for name in ("a.pt", "shuffled.pt", "half.pt"):
        out = folder / f"{name}.safetensors"
        result = weyl("canonicalize", RELU, folder / name, "-o", out, "--kinds", "permute,sign", "--json")
        assert json.loads(result.stdout)["exact"] and result.exit_code == 0
    a, other, half = (load_weights(folder / f"{n}.safetensors") for n in ("a.pt", "shuffled.pt", "half.pt"))
    assert all(torch.equal(a[name], other[name]) for name in a)
    assert {tensor.dtype for tensor in half.values()} == {torch.float16}
    assert all(torch.equal(half[n].flatten().sort().values, a[n].half().flatten().sort().values) for n in a)


def test_the_file_keeps_types_names_and_metadata(weyl: Weyl, folder: Path) -> None:
    given = {name: tensor.bfloat16() for name, tensor in state(RELU, 2).items()}
    save(folder / "b16.safetensors", given, {"format": "pt", "author": "somebody"})
    out = folder / "out.safetensors"
    assert weyl("canonicalize", RELU, folder / "b16.safetensors", "--output", out).exit_code == 0
    with safe_open(out, framework="pt") as file:
        metadata = file.metadata()
        assert set(file.keys()) == set(given)
    assert metadata["author"] == "somebody" and "weyl canonicalize" in metadata["weyl"]
    assert {tensor.dtype for tensor in load_weights(out).values()} == {torch.bfloat16}


def test_ties_and_the_stabiliser_are_told(weyl: Weyl, folder: Path) -> None:
    a = load_weights(folder / "a.pt")
    for name, dim in (("fc1.weight", 0), ("fc1.bias", 0), ("fc2.weight", 1)):
        a[name].index_copy_(dim, torch.tensor([5, 9]), a[name].index_select(dim, torch.tensor([3, 3])))
    save(folder / "ties.pt", a)
    result = weyl("canonicalize", RELU, folder / "ties.pt", "--dry-run", "--kinds", "permute")
    assert (
        result.exit_code == 0
        and "6 permutations with signs" in result.stdout
        and "do not tell them apart" in result.stdout
    )
    found = json.loads(weyl("canonicalize", RELU, folder / "ties.pt", "--dry-run", "--json").stdout)
    assert found["stabilizer"] == "6" and [len(tie["units"]) for tie in found["ties"]] == [3]
    whole = weyl("canonicalize", RELU, folder / "a.pt", "--dry-run")
    assert "1: only the identity" in whole.stdout and "do not tell them apart" not in whole.stdout


def test_a_long_stabiliser_is_a_power_of_ten(weyl: Weyl, folder: Path) -> None:
    a = load_weights(folder / "a.pt")
    for name in ("fc1.weight", "fc1.bias", "fc2.weight"):
        a[name].zero_()
    save(folder / "dead.pt", a)
    result = weyl("canonicalize", RELU, folder / "dead.pt", "--dry-run", "--kinds", "permute")
    log10 = math.lgamma(65) / math.log(10)
    assert f"10^{log10:.2f} permutations" in result.stdout, result.stdout


def test_a_dry_run_writes_nothing(weyl: Weyl, folder: Path) -> None:
    out = folder / "out.safetensors"
    result = weyl("canonicalize", RELU, folder / "a.pt", "--output", out, "--dry-run", "--json")
    assert result.exit_code == 0 and not out.exists()
    planned = json.loads(result.stdout)
    assert planned["dry_run"] and "dry run" in weyl("canonicalize", RELU, folder / "a.pt", "--dry-run").stdout
    assert weyl("canonicalize", RELU, folder / "a.pt", "--output", out).exit_code == 0
    assert out.stat().st_size == planned["bytes"]


def test_a_function_that_is_not_kept_is_not_written(weyl: Weyl, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scales of ReLU units, claimed for tanh units."""
    relu = structure(RELU)
    out = folder / "out.safetensors"
    monkeypatch.setattr(library, "discover", lambda *args, **kwargs: relu, raising=False)
    result = weyl("canonicalize", TANH, folder / "a.pt", "--output", out)
    assert result.exit_code == 1 and "NOT kept" in result.stdout and not out.exists()
    monkeypatch.undo()
    assert weyl("canonicalize", TANH, folder / "a.pt", "--output", out).exit_code == 0 and out.exists()


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("missing.pt",), 3, "no such file"),
        (("junk.pt",), 3, "of no known format"),
        (("empty.pt",), 3, "is empty"),
        (("other.pt",), 1, "of another shape"),
        (("nan.pt",), 4, "nan.pt: fc2.weight holds NaN or Inf"),
        (("a.pt", "--output", "{tmp}/old.safetensors"), 3, "--force"),
        (("old.safetensors", "--output", "{tmp}/old.safetensors", "--force"), 3, "never written over"),
        (("a.pt", "--output", "{tmp}/out.pt"), 2, ".safetensors"),
        (("a.pt", "--output", "{tmp}/none/out.safetensors"), 3, "does not exist"),
        (("a.pt", "--kinds", "permute,turn"), 2, "'turn' is none of permute"),
        (("a.pt", "--key", "ema"), 3, "--key"),
    ],
)
def test_bad_inputs_of_canonicalize_are_one_line(
    weyl: Weyl, folder: Path, args: tuple[str, ...], code: int, says: str
) -> None:
    save(folder / "old.safetensors", state(RELU, 2))
    before = (folder / "old.safetensors").read_bytes()
    flags = [arg.format(tmp=folder) for arg in args[1:]]
    out = () if "--output" in flags else ("--output", folder / "out.safetensors")
    one_line(weyl("canonicalize", RELU, folder / args[0], *out, *flags), code, says)
    assert (folder / "old.safetensors").read_bytes() == before and not (folder / "out.safetensors").exists()


def test_without_an_output_there_is_nothing_to_do(weyl: Weyl, folder: Path) -> None:
    one_line(weyl("canonicalize", RELU, folder / "a.pt"), 2, "--output")
    one_line(weyl("canonicalize", RELU, folder / "a.pt", "--dry-run", "--force"), 2, "give --output, too")
