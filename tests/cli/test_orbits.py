"""``weyl orbit``, ``balance`` and ``tangents``, and what ``inspect`` and ``verify`` say of the whole group."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from torch import Tensor

import weyl as library
from weyl.checkpoints import load_weights
from weyl.models import load_model

Weyl = Callable[..., Result]
TANH = "mlp?widths=3-4-2&act=tanh"
RELU = "mlp?widths=3-4-2"


def save(path: Path, model: str, change: Callable[[dict[str, Tensor]], object] = dict) -> Path:
    state = {name: tensor.clone() for name, tensor in load_model(model, None, 1).module.state_dict().items()}
    change(state)
    torch.save(state, path)
    return path


def duplicate(state: dict[str, Tensor]) -> None:
    """Unit 1 becomes a copy of unit 0."""
    for name in ("fc1.weight", "fc1.bias"):
        state[name][1] = state[name][0]
    state["fc2.weight"][:, 1] = state["fc2.weight"][:, 0]


def kill(state: dict[str, Tensor]) -> None:
    """Nothing goes into unit 2, and nothing comes out of it."""
    for name in ("fc1.weight", "fc1.bias"):
        state[name][2] = 0
    state["fc2.weight"][:, 2] = 0


def test_orbit_of_weights_in_general_position_and_of_duplicates(weyl: Weyl, tmp_path: Path) -> None:
    whole = 2**4 * math.factorial(4)
    plain = save(tmp_path / "plain.pt", TANH)
    found = json.loads(weyl("orbit", TANH, "--weights", plain, "--json").stdout)
    assert (found["orbit"]["size"], found["orbit"]["stabiliser_order"]) == (str(whole), "1")
    twice = save(tmp_path / "twice.pt", TANH, duplicate)
    found = json.loads(weyl("orbit", TANH, "--weights", twice, "--json").stdout)
    assert (found["orbit"]["size"], found["orbit"]["stabiliser_order"]) == (str(whole // 2), "2")
    assert found["orbit"]["duplicates"] == [{"of": "fc1", "copy": [], "units": [0, 1]}]
    shown = weyl("orbit", TANH, "--weights", twice).stdout
    assert "192 weight vectors" in shown and "fc1 [0, 1]: units that may trade places" in shown


def test_orbit_names_dead_units_and_counts_the_dimension_that_is_left(weyl: Weyl, tmp_path: Path) -> None:
    dead = save(tmp_path / "dead.pt", RELU, kill)
    found = json.loads(weyl("orbit", RELU, "--weights", dead, "--json").stdout)["orbit"]
    assert (found["dimension"], found["group_dimension"]) == (3, 4)
    assert found["dead"] == [{"of": "fc1 scale", "copy": [], "units": [2]}]
    assert "dimension   3 of 4" in weyl("orbit", RELU, "--weights", dead).stdout


def test_weights_in_float64_are_not_rounded_before_they_are_compared(weyl: Weyl, tmp_path: Path) -> None:
    def nearly(state: dict[str, Tensor]) -> None:
        state.update({name: tensor.double() for name, tensor in state.items()})
        duplicate(state)
        state["fc1.bias"][1] *= 1 + 1e-12

    path = save(tmp_path / "nearly.pt", TANH, nearly)
    assert json.loads(weyl("orbit", TANH, "--weights", path, "--json").stdout)["orbit"]["stabiliser_order"] == "1"


def test_without_weights_the_initial_ones_are_taken_and_that_is_said(weyl: Weyl) -> None:
    for command in ("orbit", "balance"):
        result = weyl(command, RELU)
        assert result.exit_code == 0 and "no --weights" in result.stderr


@pytest.mark.parametrize(("model", "dimension"), [(TANH, 0), (RELU, 4)])
def test_rank_beside_what_the_group_predicts(weyl: Weyl, model: str, dimension: int) -> None:
    result = weyl("orbit", model, "--hidden", "--json", "--seed", "3")
    hidden = json.loads(result.stdout)["hidden"]
    assert hidden["parameters"] == 3 * 4 + 4 + 4 * 2 + 2
    assert (hidden["by_group"], hidden["rank"], hidden["hidden"]) == (dimension, hidden["predicted"], 0)
    # Few inputs cannot show more directions than they have outputs.
    few = json.loads(weyl("orbit", model, "--hidden", "--samples", "2", "--json").stdout)["hidden"]
    assert few["rank"] == 4 and few["hidden"] == few["predicted"] - 4
    assert "hidden symmetry" in weyl("orbit", model, "--hidden").stdout


def test_inputs_that_limit_the_rank_are_said(weyl: Weyl) -> None:
    few, enough = (weyl("orbit", TANH, "--hidden", "--samples", n, "--json") for n in (2, 64))
    said = [warning for warning in json.loads(few.stdout)["warnings"] if "the inputs limit the rank" in warning]
    assert len(said) == 1 and "2 inputs" in said[0] and "4 directions" in said[0] and "--samples" in said[0]
    # As many rows as parameters, or more, show all directions that there are.
    assert not any("limit the rank" in warning for warning in json.loads(enough.stdout)["warnings"])
    shown = weyl("orbit", TANH, "--hidden", "--samples", 1)
    assert "limit the rank: 1 input can" in shown.stderr and "on 1 random input " in shown.stdout


def test_duplicates_show_as_hidden_symmetry(weyl: Weyl, tmp_path: Path) -> None:
    """Two equal tanh units: what goes into the sum of both may be shared in any way."""
    path = save(tmp_path / "twice.pt", TANH, duplicate)
    hidden = json.loads(weyl("orbit", TANH, "--weights", path, "--hidden", "--json").stdout)["hidden"]
    assert hidden["hidden"] == 4 + 2  # inputs and bias of one unit against the other's, and its two outputs


def test_running_statistics_are_not_part_of_the_prediction(weyl: Weyl, tmp_path: Path) -> None:
    """Of the two scales of a unit before a batch normalisation one moves its statistics, too."""
    (tmp_path / "normed.py").write_text(
        "from torch import nn, ones\n"
        "def make():\n"
        "    layers = nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)\n"
        "    return nn.Sequential(*layers).eval(), (ones(2, 3),)\n"
    )
    result = weyl("orbit", f"{tmp_path}/normed.py:make", "--hidden", "--json")
    found = json.loads(result.stdout)
    hidden, orbit = found["hidden"], found["orbit"]
    assert orbit["dimension"] == 2 * 4 and hidden["by_group"] == 4
    # With the statistics held still the gain takes their place: W, then gain and bias.
    assert hidden["hidden"] == 4 and any("running statistics" in warning for warning in found["warnings"])


def test_a_search_that_gives_up_is_a_bound_and_no_answer(weyl: Weyl, tmp_path: Path) -> None:
    path = save(tmp_path / "twice.pt", TANH, lambda state: [tensor.fill_(1) for tensor in state.values()])
    result = weyl("orbit", TANH, "--weights", path, "--budget", "0")
    assert result.exit_code == 4 and "--budget" in result.stderr and "at most" in result.stdout


def test_balance_writes_equivalent_weights_of_less_norm(weyl: Weyl, tmp_path: Path) -> None:
    given, out = save(tmp_path / "net.pt", RELU), tmp_path / "out.safetensors"
    before = given.read_bytes()
    result = weyl("balance", RELU, "--weights", given, "-o", out, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 0 and found["attained"] and found["gauges"] == ["fc1 scale"]
    old, new = load_weights(given), load_weights(out)
    assert old.keys() == new.keys() and given.read_bytes() == before
    squares = [sum(float(t.double().square().sum()) for t in state.values()) for state in (old, new)]
    assert squares == pytest.approx([found["norm_before"], found["norm_after"]], rel=1e-6)
    assert squares[1] < 0.99 * squares[0]
    loaded = load_model(RELU, None, 0)
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        a, b = (torch.func.functional_call(loaded.module, state, (x,)) for state in (old, new))
    torch.testing.assert_close(a, b)
    # A second time there is nothing left to do.
    again = json.loads(weyl("balance", RELU, "--weights", out, "--json").stdout)
    assert again["norm_after"] == pytest.approx(again["norm_before"], rel=1e-6)
    assert "attained: no equivalent weights are shorter" in weyl("balance", RELU, "--weights", out).stdout


def test_balance_keeps_the_types_of_the_file(weyl: Weyl, tmp_path: Path) -> None:
    given = save(tmp_path / "net.pt", RELU, lambda s: s.update({n: t.bfloat16() for n, t in s.items()}))
    result = weyl("balance", RELU, "--weights", given, "-o", tmp_path / "out.safetensors")
    assert result.exit_code == 0 and "bfloat16" in result.stderr
    assert {t.dtype for t in load_weights(tmp_path / "out.safetensors").values()} == {torch.bfloat16}


def test_a_dead_side_is_said(weyl: Weyl, tmp_path: Path) -> None:
    half = save(tmp_path / "half.pt", RELU, lambda state: state["fc2.weight"][:, 2].zero_())
    result = weyl("balance", RELU, "--weights", half)
    assert result.exit_code == 0 and "left as they were (fc1 scale)" in result.stderr
    assert "fc1 scale: 2" in result.stdout and "not attained" in result.stdout


def test_tangents_and_their_check(weyl: Weyl) -> None:
    found = json.loads(weyl("tangents", RELU, "--json").stdout)
    assert found["check"] is None and found["dimension"] == 4
    (row,) = found["gauges"]
    assert row["dimension"] == 4 and row["tensors"] == ["fc1.weight", "fc1.bias", "fc2.weight"]
    checked = weyl("tangents", RELU, "--check")
    assert checked.exit_code == 0 and "holds" in checked.stdout and "fc1 scale" in checked.stdout
    nothing = weyl("tangents", TANH, "--check")
    assert nothing.exit_code == 0 and "nothing moves continuously" in nothing.stdout


def test_a_tangent_that_fails_is_said(weyl: Weyl, nets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale of ReLU units, claimed for tanh units."""
    honest = library.discover

    def wrong(model: torch.nn.Module, *args: object, **kwargs: object) -> object:
        relu = load_model(RELU, None, 0)
        return honest(relu.module, relu.args)

    monkeypatch.setattr(library, "discover", wrong, raising=False)
    result = weyl("tangents", TANH, "--check")
    assert result.exit_code == 1 and "fails" in result.stdout


def test_inspect_itemises_the_whole_group(weyl: Weyl) -> None:
    model = "transformer?layers=1&dim=4&heads=2&vocab=5"
    result = weyl("inspect", model, "--json", "--no-verify")
    found = json.loads(result.stdout)
    assert sum(row["dimension"] for row in found["gauges"]) - found["overlap"]["dimension"] == found["dimension"] > 0
    assert "sign flips" in found["counts"] and str(found["dimension"]) in found["counts"]
    assert found["permutations"]["log10"] < found["order"]["log10"]
    assert any(row["space"] == "" for row in found["gauges"]), "the sign of whole tensors"
    shown = weyl("inspect", model, "--no-verify").stdout
    for part in ("invertible matrices", "translations", "positive scales", "whole tensors", found["counts"]):
        assert part in shown, part
    one_each = weyl("inspect", model, "--no-verify", "--gauges").stdout
    assert sum(row["gauge"].startswith("embed.weight") for row in found["gauges"]) == 1
    assert "embed.weight sign" in one_each and "embed.weight sign" not in shown


def test_inspect_with_weights_shows_their_orbit_and_reports_it(weyl: Weyl, tmp_path: Path) -> None:
    twice, report = save(tmp_path / "twice.pt", TANH, duplicate), tmp_path / "out.html"
    result = weyl("inspect", TANH, "--weights", twice, "--report", report)
    assert result.exit_code == 0 and "192 weight vectors" in result.stdout
    numbers = json.loads(report.with_suffix(".json").read_text())
    assert numbers["orbit"]["size"] == "192" and numbers["weights"] == str(twice)
    page = report.read_text()
    assert "The orbit of these weights" in page and "Units that may trade places" in page
    assert json.loads(weyl("inspect", TANH, "--json").stdout)["orbit"] is None


@pytest.mark.parametrize("flags", [(), ("--no-verify",)])
def test_inspect_of_weights_with_nan_shows_the_structure_and_decides_nothing(
    weyl: Weyl, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    nan = save(tmp_path / "nan.pt", RELU, lambda state: state["fc1.weight"].fill_(math.nan))
    result = weyl("inspect", RELU, "--weights", nan, *flags)
    assert result.exit_code == 4
    assert "the orbit is not counted: 'fc1.weight' has entries that are not finite" in result.stderr
    assert "Mon+₄" in result.stdout and "not counted: see" in result.stdout
    found = json.loads(weyl("inspect", RELU, "--weights", nan, "--json", *flags).stdout)
    assert found["orbit"] is None and any("not finite" in warning for warning in found["warnings"])
    plain = weyl("inspect", RELU, "--weights", save(tmp_path / "net.pt", RELU), *flags)
    assert plain.exit_code == 0 and "not counted: see" not in plain.stdout


def test_verify_shows_every_kind(weyl: Weyl) -> None:
    shown = weyl("verify", TANH).stdout
    assert "permutations" in shown and "signs" in shown and "scales" not in shown


def test_count_says_what_it_counts(weyl: Weyl) -> None:
    found = json.loads(weyl("count", "3", "4", "--json", "--exact").stdout)
    assert found["counts"] == "permutations" and found["dimension"] == 7
    assert int(found["signed"]["exact"]) == int(found["order"]["exact"]) * 2**7
    shown = weyl("count", "3", "4").stdout
    assert "permutations" in shown and "tanh" in shown and "ReLU" in shown


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("orbit", RELU, "--weights", "{tmp}/missing.pt"), 3, "no such file"),
        (("orbit", RELU, "--weights", "{tmp}/other.pt"), 1, "do not fit"),
        (("orbit", RELU, "--weights", "{tmp}/nan.pt"), 4, "not finite"),
        (("orbit", RELU, "--weights", ""), 2, "--weights is empty"),
        (("orbit", RELU, "--key", "ema"), 2, "give --weights"),
        (("orbit", RELU, "--samples", "5"), 2, "give --hidden"),
        (("orbit", "mlp?widths=200-200-2", "--hidden"), 4, "at most 20,000 parameters"),
        (("orbit", "{nets}:meta_with_input"), 3, "meta device"),
        (("orbit", "{nets}:meta_with_input", "--weights", "{tmp}/net.pt"), 3, "meta device"),
        (("balance", "{nets}:meta_with_input"), 3, "meta device"),
        (("balance", RELU, "-o", "{tmp}/out.pt"), 2, ".safetensors"),
        (("balance", RELU, "--force"), 2, "give -o, too"),
        (("inspect", RELU, "--force"), 2, "give --report, too"),
        (("collapse", RELU, "--data", "digits", "--force"), 2, "give --report, too"),
        (("count", "3", "--force"), 2, "give --plot, too"),
        (("simplex", "3", "--force"), 2, "give --plot, too"),
        (("tangents", RELU, "--trials", "4"), 2, "give --check, too"),
        (("balance", RELU, "-o", "{tmp}/none/out.safetensors"), 3, "does not exist"),
        (("balance", RELU, "-o", "{tmp}/old.safetensors"), 3, "--force"),
        (
            ("balance", RELU, "--weights", "{tmp}/old.safetensors", "-o", "{tmp}/old.safetensors", "--force"),
            3,
            "never written over",
        ),
        (("balance", RELU, "--weights", "{tmp}/nan.pt"), 4, "not finite"),
        (("tangents", RELU, "--check", "--trials", "1"), 2, "range"),
        (("tangents", "nonsense"), 3, "unknown MODEL"),
        (("inspect", RELU, "--weights", "{tmp}/other.pt"), 1, "do not fit"),
        (("verify", RELU, "--weights", "{tmp}/missing.pt"), 3, "no such file"),
    ],
)
def test_bad_inputs_are_one_line(
    weyl: Weyl, nets: str, tmp_path: Path, args: tuple[str, ...], code: int, says: str
) -> None:
    save(tmp_path / "net.pt", RELU)
    save(tmp_path / "other.pt", "mlp?widths=3-5-2")
    save(tmp_path / "nan.pt", RELU, lambda state: state["fc1.weight"].fill_(math.nan))
    old = tmp_path / "old.safetensors"
    old.write_bytes(b"precious")
    result = weyl(*(arg.format(nets=nets, tmp=tmp_path) for arg in args))
    assert result.exit_code == code, result.stderr
    errors = [line for line in result.stderr.splitlines() if "warning" not in line]
    assert len(errors) == 1 and says in errors[0], result.stderr
    assert result.stdout == "" and old.read_bytes() == b"precious"


def test_meta_models_have_tangents_to_list_and_none_to_check(weyl: Weyl, nets: str) -> None:
    assert weyl("tangents", f"{nets}:meta_with_input").exit_code == 0
    checked = weyl("tangents", f"{nets}:meta_with_input", "--check")
    assert checked.exit_code == 4 and "inconclusive" in checked.stdout


def test_what_running_statistics_hold_is_said(weyl: Weyl) -> None:
    result = weyl("balance", "cnn?widths=2-2&size=6", "--json")
    found = json.loads(result.stdout)
    assert found["attained"] is False and found["left_alone"] == ["conv1 scale", "conv2 scale"]
    assert any("left alone (conv1 scale, conv2 scale)" in warning for warning in found["warnings"])
