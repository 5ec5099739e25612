"""``weyl merge``: one network from several."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.cli.pairs import RELU, TRAINED, Weyl, one_line, save, state, trained, twin

from weyl.checkpoints import load_weights

DATA = ("--data", "digits", "--limit", "400")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Networks that were trained apart."""
    for number, name in enumerate("abc"):
        save(tmp_path / f"{name}.pt", trained(number))
    return tmp_path


def accuracies(stdout: str) -> list[float]:
    return [row["accuracy"] for row in json.loads(stdout)["judged"]]


def test_aligned_networks_merge_and_others_do_not(weyl: Weyl, folder: Path) -> None:
    files = folder / "a.pt", folder / "b.pt"
    out = folder / "out.safetensors"
    aligned = weyl("merge", TRAINED, *files, "-o", out, *DATA, "--json")
    bare = weyl("merge", TRAINED, *files, "-o", folder / "bare.safetensors", "--no-align", *DATA, "--json")
    assert aligned.exit_code == bare.exit_code == 0
    a, b, good = accuracies(aligned.stdout)
    bad = accuracies(bare.stdout)[-1]
    assert min(a, b) > 0.9 and good > bad + 0.05
    means = {name: (tensor + trained(1)[name]) / 2 for name, tensor in trained(0).items()}
    for name, tensor in load_weights(folder / "bare.safetensors").items():
        torch.testing.assert_close(tensor, means[name])
    found = json.loads(aligned.stdout)
    assert found["distances"][0]["after"] < found["distances"][0]["before"]
    assert [one["verdict"] for one in found["preserved"]] == ["holds"] and json.loads(bare.stdout)["preserved"] == []


def test_copies_merge_to_what_they_are_copies_of(weyl: Weyl, tmp_path: Path) -> None:
    a = state(RELU, 1)
    files = [save(tmp_path / f"{seed}.pt", a if not seed else twin(RELU, a, seed)) for seed in range(3)]
    result = weyl("merge", RELU, *files, "-o", tmp_path / "out.safetensors")
    assert result.exit_code == 0 and "kept" in result.stdout
    for name, tensor in load_weights(tmp_path / "out.safetensors").items():
        torch.testing.assert_close(tensor, a[name])
    weyl("merge", RELU, *files, "-o", tmp_path / "bare.safetensors", "--no-align")
    bare = load_weights(tmp_path / "bare.safetensors")
    assert max(float((bare[name] - tensor).abs().max()) for name, tensor in a.items()) > 0.1


def test_shares(weyl: Weyl, tmp_path: Path) -> None:
    files = [save(tmp_path / f"{seed}.pt", state(RELU, seed)) for seed in (1, 2)]
    out = tmp_path / "out.safetensors"
    assert weyl("merge", RELU, *files, "-o", out, "--weights", "1,0").exit_code == 0
    first = load_weights(files[0])
    assert all(torch.equal(tensor, first[name]) for name, tensor in load_weights(out).items())
    uneven = weyl("merge", RELU, *files, "-o", out, "--weights", "0.25,0.75", "--no-align", "--force")
    assert "shares 0.25, 0.75" in uneven.stdout
    second = load_weights(files[1])
    for name, tensor in load_weights(out).items():
        torch.testing.assert_close(tensor, 0.25 * first[name] + 0.75 * second[name])


def test_slerp_keeps_norms_that_the_mean_loses(weyl: Weyl, folder: Path) -> None:
    files, norms = (folder / "a.pt", folder / "b.pt"), {}
    for method in ("average", "slerp"):
        out = folder / f"{method}.safetensors"
        assert weyl("merge", TRAINED, *files, "-o", out, "--method", method).exit_code == 0
        norms[method] = float(load_weights(out)["fc1.weight"].norm())
    assert norms["slerp"] > 1.1 * norms["average"]


def test_repair_brings_activations_back(weyl: Weyl, folder: Path) -> None:
    files = folder / "a.pt", folder / "b.pt", folder / "c.pt"
    flags = ("--no-align", *DATA)
    plain = weyl("merge", TRAINED, *files, "-o", folder / "plain.safetensors", *flags, "--json")
    repaired = weyl("merge", TRAINED, *files, "-o", folder / "good.safetensors", *flags, "--repair", "repair", "--json")
    found = json.loads(repaired.stdout)
    assert found["repaired"]["layers"] == ["fc1"] and found["repaired"]["deviation"] < 1e-3
    assert json.loads(plain.stdout)["repaired"] is None
    assert accuracies(repaired.stdout)[-1] > accuracies(plain.stdout)[-1]
    assert "fc1" in weyl("merge", TRAINED, *files, "-o", folder / "x.safetensors", *DATA, "--repair", "repair").stdout


def test_batch_normalisations_are_estimated_anew(weyl: Weyl, tmp_path: Path) -> None:
    model = "cnn?widths=3-4&size=8"
    files = [save(tmp_path / f"{seed}.pt", state(model, seed)) for seed in (1, 2)]
    given = load_weights(files[0])
    states = {}
    for name, flags in (("plain", ()), ("bn", ("--repair", "bn"))):
        result = weyl("merge", model, *files, "-o", tmp_path / f"{name}.safetensors", *DATA, *flags)
        assert result.exit_code == 0, result.stderr
        states[name] = load_weights(tmp_path / f"{name}.safetensors")
    (name,) = [name for name in given if name.endswith("running_var")][:1]
    assert not torch.allclose(states["bn"][name], states["plain"][name])
    weights = [name for name in given if name.endswith("conv1.weight")]
    assert weights and all(torch.equal(states["bn"][name], states["plain"][name]) for name in weights)


def test_a_dry_run_reads_and_writes_nothing(weyl: Weyl, folder: Path) -> None:
    out = folder / "out.safetensors"
    flags = (folder / "a.pt", folder / "b.pt", folder / "c.pt", "-o", out, *DATA)
    planned = json.loads(weyl("merge", TRAINED, *flags, "--dry-run", "--json").stdout)
    assert not out.exists() and planned["tensors_written"] == 4
    assert weyl("merge", TRAINED, *flags).exit_code == 0 and out.stat().st_size == planned["bytes_written"]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("a.pt",), 2, "two files or more, got 1"),
        (("a.pt", "b.pt", "--repair", "bn"), 2, "give --data"),
        (("a.pt", "b.pt", "--costs", "both"), 2, "give --data"),
        (("a.pt", "b.pt", "c.pt", "--method", "slerp"), 2, "two files, got 3"),
        (("a.pt", "b.pt", "c.pt", "--restarts", "2"), 2, "--restarts is for two files"),
        (("a.pt", "b.pt", "--no-align", "--kinds", "permute"), 2, "--kinds says how to align"),
        (("a.pt", "b.pt", "--weights", "0.5"), 2, "as many as the states, 2; got 1"),
        (("a.pt", "b.pt", "--weights", "0.5,0.6"), 2, "must sum to 1"),
        (("a.pt", "b.pt", "--weights", "0.5,x"), 2, "numbers such as"),
        (("a.pt", "b.pt", "--weights", "nan,1"), 2, "numbers such as"),
        (("a.pt", "b.pt", "wide.pt"), 1, "wide.pt and the model do not fit"),
        (("a.pt", "b.pt", "nan.pt"), 4, "nan.pt: fc1.bias holds NaN or Inf"),
        (("a.pt", "nan.pt", "--no-align"), 4, "nan.pt: fc1.bias holds NaN or Inf"),
        (("a.pt", "b.pt", "--data", "{tmp}/labels.npz"), 3, "label 12 is out of range for a model of 10 outputs"),
        (("a.pt", "b.pt", "--data", "{tmp}/none.npz"), 3, "no such file"),
    ],
)
def test_bad_inputs_are_one_line(weyl: Weyl, folder: Path, args: tuple[str, ...], code: int, says: str) -> None:
    import numpy as np

    x, y = np.zeros((6, 64), np.float32), np.array([0, 1, 2, 3, 4, 12])
    np.savez(folder / "labels.npz", x=x, y=y % 10, x_test=x, y_test=y)
    save(folder / "wide.pt", state("mlp?widths=64-25-10", 1))
    save(folder / "nan.pt", trained(1) | {"fc1.bias": torch.full((24,), float("inf"))})
    files = [folder / arg for arg in args if arg.endswith(".pt")]
    flags = [arg.format(tmp=folder) for arg in args if not arg.endswith(".pt")]
    out = folder / "out.safetensors"
    one_line(weyl("merge", TRAINED, *files, "-o", out, *flags), code, says)
    assert not out.exists()
