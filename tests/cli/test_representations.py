"""``weyl simplex`` and ``weyl collapse``: right numbers, names escaped, and every bad input in one line."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import weyl as library
from weyl.data import digits
from weyl.models import load_model

Weyl = Callable[..., Result]
MLP = "mlp?widths=64-16-10"

NETS = """
import torch
from torch import nn

class Planted(nn.Module):
    '''Features that are a simplex, or nearly, whatever was learned: x is noise around the vertices.'''
    def __init__(self, k=4):
        super().__init__()
        self.body = nn.Identity()
        self.head = nn.Linear(k, k)
        with torch.no_grad():
            self.head.weight.copy_(10 * (torch.eye(k) - 1 / k))
            self.head.bias.zero_()
    def forward(self, x):
        return self.head(self.body(x))

def planted(k=4):
    return Planted(k), (torch.ones(2, k),)

class Fragile(Planted):
    def forward(self, x):
        return super().forward(x / (x[:, :1] < 0.5))

def fragile():
    return Fragile(), (torch.zeros(2, 4),)

def data(noise=0.01, k=4, n=40, absent=False):
    y = torch.arange(k * n) % k
    x = torch.eye(k)[y] + noise * torch.randn(len(y), k, generator=torch.Generator().manual_seed(0))
    return (x[y != 1], y[y != 1]) if absent else (x, y)

def conv():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))

def nan():
    model = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    return model

def meta():
    return nn.Linear(64, 10, device="meta"), (torch.ones(2, 64, device="meta"),)

def hostile():
    y = torch.arange(40) % 2
    class Named:
        classes = ["<b>[red]\\x1b[31m", "dog"]
        def __iter__(self):
            return iter([(torch.eye(2)[y], y)])
    return Named()

def tokens():
    return torch.arange(160).reshape(10, 16) % 64, torch.arange(10)

def far():
    return torch.ones(30, 4) * 9, torch.zeros(30, dtype=torch.int64)
"""


@pytest.fixture
def nets(tmp_path: Path) -> str:
    path = tmp_path / "made.py"
    path.write_text(NETS)
    return str(path)


# simplex


def test_the_number_of_the_specification(weyl: Weyl) -> None:
    found = json.loads(weyl("simplex", 10, "--radius", 5, "--json").stdout)
    assert found["risk"] == pytest.approx(0.0452324884, abs=1e-10)
    assert found["alpha"] == pytest.approx(5 * math.sqrt(0.9)) and found["cosine"] == pytest.approx(-1 / 9)
    assert found["side"] == pytest.approx(math.sqrt(20 / 9) * 5)
    text = weyl("simplex", 10, "--radius", 5).stdout
    assert "0.0452324884" in text and "96.379370°" in text


@pytest.mark.parametrize("p", [1.5, 3.0])
def test_vertices_of_other_balls_lie_on_them(weyl: Weyl, p: float) -> None:
    found = json.loads(weyl("simplex", 5, "--radius", 2, "--p", p, "--json").stdout)
    norm = (abs(found["alpha"]) ** p + 4 * abs(found["beta"]) ** p) ** (1 / p)
    assert norm == pytest.approx(2.0)
    vertex = np.full((2, 5), found["beta"])
    vertex[0, 0] = vertex[1, 1] = found["alpha"]
    assert found["side"] == pytest.approx(np.linalg.norm(vertex[0] - vertex[1]))
    cosine = vertex[0] @ vertex[1] / np.linalg.norm(vertex[0]) ** 2
    assert found["angle"] == pytest.approx(math.degrees(math.acos(cosine)))


@pytest.mark.parametrize("k", [2, 3, 4, 10])
def test_simplex_plots(weyl: Weyl, tmp_path: Path, k: int) -> None:
    plot = tmp_path / "out.svg"
    result = weyl("simplex", k, "--radius", 3, "--plot", plot)
    assert result.exit_code == 0 and "wrote" in result.stderr
    text = plot.read_text()
    assert ("class 2" in text) == (k in (3, 4)) and ("guessing" in text) == (k not in (3, 4))
    assert weyl("simplex", k, "--plot", plot).exit_code == 3


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("1",), 2, "x>=2"),
        (("ten",), 2, "an integer is expected, got 'ten'"),
        (("3", "--p", "1"), 2, "p must lie strictly between 1 and infinity"),
        (("3", "--p", "inf"), 2, "p must lie strictly between 1 and infinity"),
        (("3", "--radius", "0"), 2, "radius must be positive"),
        (
            ("3", "--radius", "-5"),
            2,
            "weyl simplex: error: radius must be positive and finite, got -5.0; see weyl simplex",
        ),
        (("3", "--radius", "nan"), 2, "radius must be positive"),
        (("100000",), 4, "more than 4,096"),
        (("3", "--plot", "out.png"), 2, ".svg"),
    ],
)
def test_bad_simplices(weyl: Weyl, args: tuple[str, ...], code: int, says: str) -> None:
    result = weyl("simplex", *args)
    assert result.exit_code == code and says in result.stderr and result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1


# collapse


def numbers(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_numbers_are_those_of_the_library(weyl: Weyl, tmp_path: Path) -> None:
    loaded = load_model(MLP, seed=3)
    torch.save(loaded.module.state_dict(), tmp_path / "net.pt")
    told = numbers(weyl("collapse", MLP, "--weights", tmp_path / "net.pt", "--data", "digits", "--json"))
    split = digits()
    found = library.collapse(loaded.module, [(split.train_x.flatten(1), split.train_y)], progress=False)
    for name in ("nc1", "nc1_ratio", "cdnv", "nc2", "nc3", "nc4", "sk_defect", "risk", "accuracy"):
        assert told["parts"]["train"][name] == pytest.approx(getattr(found, name), rel=1e-5), name  # type: ignore[index]
    assert told["weights"].endswith("net.pt") and told["verdict"]["level"] == "not"  # type: ignore[attr-defined, index]


def test_a_planted_simplex_is_collapsed_and_an_early_network_is_not(weyl: Weyl, nets: str) -> None:
    planted = numbers(weyl("collapse", f"{nets}:planted", "--data", f"{nets}:data", "--json", "--bootstrap", "20"))
    assert planted["verdict"]["level"] == "collapsed", planted["verdict"]  # type: ignore[index]
    noisy = numbers(weyl("collapse", f"{nets}:planted", "--data", f"{nets}:data?noise=0.4", "--json"))
    assert noisy["verdict"]["level"] == "not"  # type: ignore[index]
    fresh = numbers(weyl("collapse", MLP, "--data", "digits", "--json"))
    assert fresh["verdict"]["level"] == "not"  # type: ignore[index]


def test_the_table(weyl: Weyl, nets: str) -> None:
    result = weyl("collapse", f"{nets}:planted", "--data", f"{nets}:data", "--bootstrap", "20", "--layers", "body")
    assert result.exit_code == 0, result.stderr
    for part in (
        "NC1",
        "NC2",
        "NC3",
        "NC4",
        "chance",
        "best",
        "95 %",
        "Collapsed:",
        "collapsed needs",
        "(Identity)",
        "Hui, Belkin, Nakkiran",
        "body",
    ):
        assert part in result.stdout, part
    assert "no --weights: this is the model as it was initialised" in result.stderr


def test_held_out_data_alone_decide_nothing(weyl: Weyl) -> None:
    told = numbers(weyl("collapse", MLP, "--data", "digits", "--split", "test", "--json"))
    assert list(told["parts"]) == ["test"] and told["verdict"]["level"] == "undecided"  # type: ignore[call-overload, index]
    both = weyl("collapse", MLP, "--data", "digits", "--split", "both")
    assert "training" in both.stdout and "held out" in both.stdout


def test_absent_and_breaking_classes_are_named(weyl: Weyl, nets: str) -> None:
    told = numbers(weyl("collapse", f"{nets}:planted", "--data", f"{nets}:data?absent=True", "--json"))
    assert told["parts"]["train"]["absent"] == ["1"]  # type: ignore[index]
    assert any("1 class is absent" in warning for warning in told["warnings"])  # type: ignore[attr-defined]
    result = weyl("collapse", f"{nets}:planted", "--data", f"{nets}:data?absent=True")
    assert "absent" in result.stdout and "S_k defect is" in result.stdout


def test_out_of_distribution_data_are_told_apart(weyl: Weyl, nets: str) -> None:
    told = numbers(weyl("collapse", f"{nets}:planted", "--data", f"{nets}:data", "--ood", f"{nets}:far", "--json"))
    scores = {row["method"]: row["auroc"] for row in told["ood"]["scores"]}  # type: ignore[index]
    assert scores["nearest_mean"] == 1.0
    assert told["parts"]["train"]["nc5"] is not None  # type: ignore[index]
    same = numbers(weyl("collapse", f"{nets}:planted", "--data", f"{nets}:data", "--ood", f"{nets}:data", "--json"))
    assert {row["auroc"] for row in same["ood"]["scores"]} == {0.5}  # type: ignore[index]
    table = weyl("collapse", f"{nets}:planted", "--data", f"{nets}:data", "--ood", f"{nets}:far")
    assert "AUROC" in table.stdout and "NC5" in table.stdout
    assert "no other part" in table.stderr


def test_the_profile(weyl: Weyl) -> None:
    told = numbers(weyl("collapse", "mlp?widths=64-16-12-10", "--data", "digits", "--profile", "--json"))
    assert next(row["layer"] for row in told["profile"]["layers"]) == "fc1"  # type: ignore[index]
    assert told["profile"]["held_out"] is True  # type: ignore[index]
    assert "the tail could be cut" in weyl("collapse", "mlp?widths=64-16-10", "--data", "digits", "--profile").stdout


@pytest.mark.parametrize("spec", ["mlp?widths=64-16-10", "resnet?widths=4&size=8", "{nets}:conv"])
def test_images_go_to_the_shape_of_the_model(weyl: Weyl, nets: str, spec: str) -> None:
    result = weyl(
        "collapse", spec.format(nets=nets), "--data", "digits", "--limit", "60", "--batch-size", "7", "--json"
    )
    told = numbers(result)
    assert told["parts"]["train"]["samples"] == 60  # type: ignore[index]


def test_the_report(weyl: Weyl, nets: str, tmp_path: Path) -> None:
    report = tmp_path / "out.html"
    result = weyl(
        "collapse", f"{nets}:planted", "--data", f"{nets}:data", "--profile", "--ood", f"{nets}:far", "--report", report
    )
    assert result.exit_code == 0, result.stderr
    page = report.read_text()
    assert page.count("<svg ") == 4 + ("From layer to layer" in page) and "Hui, Belkin, Nakkiran" in page
    assert "nearest regular tetrahedron" in page
    assert "<script" not in page and not any(f'{kind}="http' in page for kind in ("src", "href"))
    assert json.loads(report.with_suffix(".json").read_text())["verdict"]["level"] == "collapsed"
    assert weyl("collapse", "never loaded", "--data", "x", "--report", report).exit_code == 3


def test_names_of_classes_are_escaped(weyl: Weyl, nets: str, tmp_path: Path) -> None:
    report = tmp_path / "out.html"
    args = ("collapse", f"{nets}:planted?k=2", "--data", f"{nets}:hostile")
    result = weyl(*args, "--report", report)
    assert result.exit_code == 0, result.stderr
    page = report.read_text()
    assert "\x1b" not in result.stdout + page and "<b>" not in page and "&lt;b&gt;[red]" in page
    assert "\x1b" not in weyl(*args, "--json").stdout


def test_weights_that_are_not_finite_leave_no_verdict(weyl: Weyl, nets: str, tmp_path: Path) -> None:
    state = load_model(MLP).module.state_dict()
    state["fc1.weight"][0, 0] = math.nan
    torch.save(state, tmp_path / "net.pt")
    result = weyl("collapse", MLP, "--weights", tmp_path / "net.pt", "--data", "digits")
    assert (result.exit_code, result.stdout) == (4, "")
    assert "NaN or Inf stand in fc1.weight" in result.stderr


def test_samples_that_are_not_finite_are_left_out_and_leave_no_verdict(weyl: Weyl, nets: str) -> None:
    result = weyl("collapse", f"{nets}:fragile", "--data", f"{nets}:data")
    assert result.exit_code == 0, result.stderr
    assert "40 of 160 samples have NaN or infinity and were left out" in result.stderr
    assert "Undecided: the features of 40 samples" in result.stdout


def test_it_says_what_it_was_made_from(weyl: Weyl, tmp_path: Path) -> None:
    trained_weights(tmp_path / "net.pt")
    report = tmp_path / "out.html"
    options = ("--split", "both", "--seed", 7, "--limit", 100, "--bootstrap", 20, "--report", report)
    told = numbers(weyl("collapse", MLP, "--weights", tmp_path / "net.pt", "--data", "digits", *options, "--json"))
    made = told["settings"]
    assert isinstance(made, dict)
    assert (made["model"], made["data"], made["split"], made["seed"]) == (MLP, "digits", "both", 7)
    assert made["samples"] == {"train": 100, "test": 100} and made["bootstrap"] == 20 and made["limit"] == 100
    assert made["torch"] == torch.__version__ and made["weyl"] == library.__version__
    assert made["weights"].endswith("net.pt")
    page = report.read_text()
    for part in ("Made from", torch.__version__, "net.pt", "training: 100; held out: 100"):
        assert part in page, part


def test_the_caution_fits_the_split(weyl: Weyl) -> None:
    cautions = [
        numbers(weyl("collapse", MLP, "--data", "digits", "--split", split, "--json"))["caution"]
        for split in ("train", "test", "both")
    ]
    assert len(set(cautions)) == 3 and all("Hui, Belkin, Nakkiran" in str(caution) for caution in cautions)
    assert str(cautions[1]).startswith("These are held-out data") and "held-out column" in str(cautions[2])


def test_two_classes_are_always_a_simplex(weyl: Weyl, nets: str) -> None:
    two = weyl("collapse", f"{nets}:planted?k=2", "--data", f"{nets}:data?k=2")
    assert "two means always form a regular simplex" in two.stdout
    assert "always form" not in weyl("collapse", f"{nets}:planted", "--data", f"{nets}:data").stdout


def test_a_message_of_torch_is_not_cut_inside_a_word(weyl: Weyl, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones((4, 3, 20, 20), np.float32), y=np.arange(4))
    result = weyl("collapse", "cnn", "--data", tmp_path / "data.npz")
    assert result.exit_code == 3
    assert "but got 3 channels instead); give data or a model of the other's shape" in result.stderr


def test_a_part_that_an_npz_file_lacks_can_be_added(weyl: Weyl, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones((20, 64), np.float32), y=np.arange(20) % 10)
    result = weyl("collapse", MLP, "--data", tmp_path / "data.npz", "--split", "both")
    assert result.exit_code == 3
    assert "has no held-out part; use --split train, or save x_test and y_test beside x and y" in result.stderr


def test_vertices_off_centre_are_told(weyl: Weyl) -> None:
    off = weyl("simplex", 10, "--radius", 5, "--p", 3).stdout
    assert "96.379370°, cosine -0.1111" in off and "83.620630°, cosine 0.1111" in off and "p is not 2" in off
    assert "seen from" not in weyl("simplex", 10, "--radius", 5).stdout
    found = json.loads(weyl("simplex", 10, "--radius", 5, "--p", 3, "--json").stdout)
    assert found["centre"] == pytest.approx((found["alpha"] + 9 * found["beta"]) / 10)


def test_classes_may_be_names(weyl: Weyl, tmp_path: Path) -> None:
    split = digits()
    x, y = split.train_x.flatten(1).numpy(), split.train_y.numpy()
    np.savez(tmp_path / "numbers.npz", x=x, y=y)
    np.savez(tmp_path / "names.npz", x=x, y=np.array([f"class {c}" for c in y]))
    plain, named = (
        numbers(weyl("collapse", MLP, "--data", tmp_path / f"{name}.npz", "--json"))["parts"]
        for name in ("numbers", "names")
    )
    assert named["train"]["classes"] == [f"class {c}" for c in range(10)]  # type: ignore[index]
    assert named["train"]["nc1"] == plain["train"]["nc1"]  # type: ignore[index]


def trained_weights(path: Path) -> None:
    torch.save(load_model(MLP).module.state_dict(), path)


def npz(**changes: object) -> Callable[[Path], None]:
    arrays = {"x": np.ones((20, 64), np.float32), "y": np.arange(20) % 10, **changes}
    return lambda path: np.savez(path, **{k: v for k, v in arrays.items() if v is not None})  # type: ignore[arg-type]


def other_shape(path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(64, 10)).state_dict(), path)


@pytest.mark.parametrize(
    ("name", "make", "code", "says"),
    [
        ("net.pt", lambda p: None, 3, "no such file"),
        ("net.pt", lambda p: p.touch(), 3, "is empty"),
        ("net.pt", os.mkfifo, 3, "was not opened"),
        ("net.pt", lambda p: p.mkdir(), 3, "is a directory with weights in none"),
        ("net.pt", lambda p: p.symlink_to(p), 3, "symbolic links"),
        ("net.pt", lambda p: p.write_text("version https://git-lfs.github.com/spec/v1"), 3, "run git lfs pull"),
        ("net.pt", lambda p: p.write_text("<!doctype html>"), 3, "is a web page"),
        ("net.pt", lambda p: torch.save(nn.Linear(2, 2), p), 3, "can run code"),
        ("net.pt", lambda p: (trained_weights(p), p.write_bytes(p.read_bytes()[:-99])), 3, "damaged"),
        (
            "net.safetensors",
            lambda p: (save_file({"a": torch.ones(9)}, p), p.write_bytes(p.read_bytes()[:-3])),
            3,
            "whole",
        ),
        ("net.pt", lambda p: torch.save({"a": {"w": torch.ones(1)}, "b": {"w": torch.ones(1)}}, p), 3, "with --key"),
        ("net.pt", other_shape, 1, "4 missing (fc1.weight, fc1.bias, fc2.weight, …); 2 unexpected (0.weight, 0.bias)"),
    ],
)
def test_bad_weights(
    weyl: Weyl, tmp_path: Path, name: str, make: Callable[[Path], object], code: int, says: str
) -> None:
    make(tmp_path / name)
    report = tmp_path / "out.html"
    result = weyl("collapse", MLP, "--weights", tmp_path / name, "--data", "digits", "--report", report)
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert says in line and name in line and line.isprintable()
    assert not report.exists() and not report.with_suffix(".json").exists()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (npz(y=None), "but the file holds x"),
        (npz(y=np.array(["a", "b"] * 10), classes=np.array(["a"])), "y holds the class 'b', which classes does not"),
        (
            npz(y=np.array(["a", "b"] * 10), x_test=np.ones((2, 64), np.float32), y_test=np.array(["a", "c"])),
            "y_test holds the class 'c', which y does not",
        ),
        (
            npz(y=np.array(["a", "b"] * 10), x_test=np.ones((2, 64), np.float32), y_test=np.arange(2)),
            "y and y_test must both hold names",
        ),
        (npz(y=np.arange(5)), "20 inputs and 5 labels"),
        (npz(y=np.arange(20) + 0.5), "y must hold integers"),
        (npz(y=np.arange(20) - 3), "class indices from 0, got -3"),
        (npz(y=np.arange(20)), "data.npz: label 19 is out of range"),
        (npz(x=np.full((20, 64), np.nan, np.float32)), "NaN or Inf in 20 of 20 inputs"),
        (npz(x=np.array([object()] * 20)), "holds Python objects"),
        (npz(x=np.ones((20, 63), np.float32)), "it takes (64,), the data have (63,)"),
        (npz(x=np.ones((0, 64), np.float32), y=np.arange(0)), "is empty"),
        (lambda p: p.write_text("nonsense"), "no whole .npz file"),
        (os.mkfifo, "is not a regular file"),
    ],
)
def test_bad_data(weyl: Weyl, tmp_path: Path, make: Callable[[Path], object], says: str) -> None:
    make(tmp_path / "data.npz")
    report = tmp_path / "out.html"
    result = weyl("collapse", MLP, "--data", tmp_path / "data.npz", "--report", report)
    assert (result.exit_code, result.stdout) == (3, ""), result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert says in line and line.isprintable()
    assert not report.exists()


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ((MLP,), 2, "Missing option '--data'"),
        ((MLP, "--data", "mnits"), 3, "did you mean 'mnist'"),
        ((MLP, "--data", "digits", "--layers", "fc9"), 2, "fc9"),
        ((MLP, "--data", "digits", "--layers", "fc1,,"), 2, "names such as fc1,fc2"),
        ((MLP, "--data", "digits", "--batch-size", "0"), 2, "x>=1"),
        ((MLP, "--data", "digits", "--key", "ema"), 2, "give --weights, too"),
        ((MLP, "--data", "digits", "--ood", "letters"), 3, "it takes (64,), the data have (1, 28, 28)"),
        (("{nets}:meta", "--data", "digits"), 3, "on the meta device"),
        (("{nets}:planted", "--data", "{nets}:data", "--split", "both"), 3, "has no held-out part; use --split train"),
        ((MLP, "--data", "digits", "--bootstrap", "19"), 2, "give 20 or more"),
        (
            ("mlp?widths=64-16-5", "--data", "digits"),
            3,
            "mlp?widths=64-16-5 on digits: label 9 is out of range for a model of 5 outputs; give it 10 outputs",
        ),
        (("transformer", "--data", "{nets}:tokens"), 3, "one label a sample"),
    ],
)
def test_bad_calls(weyl: Weyl, nets: str, args: tuple[str, ...], code: int, says: str) -> None:
    result = weyl("collapse", *(arg.format(nets=nets) for arg in args))
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert says in line and line.isprintable()


FAILING = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.mode, self.layer, self.calls = mode, nn.Linear(64, 10), 0

    def forward(self, x):
        self.calls += len(x) > 2
        if self.mode == "key":
            raise KeyError("k")
        if self.mode == "exit":
            raise SystemExit(0)
        if self.mode == "late" and self.calls > 2:
            raise ZeroDivisionError("late")
        return self.layer(x)

def make(mode="key"):
    return Net(mode), (torch.zeros(2, 64),)

def last():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(256, 10)), (torch.zeros(2, 3, 8, 8),)

def images():
    return torch.zeros(30, 8, 8, 3), torch.arange(30) % 10

def gated():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.head = nn.Linear(64, 64), nn.Conv1d(64, 10, 1)

        def forward(self, x):
            return self.head((x * self.gate(x).sigmoid())[..., None])[..., 0]

    return Gated(), (torch.zeros(2, 64),)
"""


@pytest.mark.parametrize(
    ("model", "data", "says"),
    [
        ("make?mode=key", "digits", "KeyError"),
        ("make?mode=exit", "digits", "SystemExit"),
        ("make?mode=late", "digits", "stopped after 256 inputs of digits: ZeroDivisionError: late"),
        ("last", "{file}:images", "channels first or last"),
        ("gated", "digits", "'gate' ran last, and the model returns something else"),
    ],
)
def test_models_that_fail_or_do_not_fit_are_bad_input(tmp_path, model, data, says):
    file = tmp_path / "net.py"
    file.write_text(FAILING)
    done = subprocess.run(
        [sys.executable, "-m", "weyl.cli", "collapse", f"{file}:{model}", "--data", data.format(file=file), "--json"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    assert says in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("radius", ["1e308", "1e-320"])
def test_extreme_radii_have_a_finite_angle(radius):
    done = subprocess.run(
        [sys.executable, "-m", "weyl.cli", "simplex", "10", "--radius", radius, "--json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cosine"] == pytest.approx(-1 / 9, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--data", ""], 2, "--data is empty"),
        (["--data", "digits", "--ood", ""], 2, "--ood is empty"),
        (["--data", "digits", "--weights", ""], 2, "--weights is empty"),
        (["--data", "{folder}?size=1000000"], 3, "size must be a number of pixels from 1 to 4096"),
        (["--data", "{folder}?mean=1e999&std=1"], 3, "mean and std must be finite"),
        (["--data", "{folder}?mean=0.5&std=1e-320"], 3, "std must be positive"),
    ],
)
def test_empty_names_and_endless_numbers(tmp_path, arguments, code, says):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "0.png")
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    command = [sys.executable, "-m", "weyl.cli", "collapse", "mlp?widths=64-8-10", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code and says in done.stderr and "Traceback" not in done.stderr, done.stderr
