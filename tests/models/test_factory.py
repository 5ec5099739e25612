from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from weyl.errors import ModelSpecError
from weyl.models import load_model
from weyl.models.factory import example_input, reshaped

SOURCE = """
import dataclasses
import torch
from torch import nn
from weyl.models import LoadedModel
from {neighbour} import WIDTH

@dataclasses.dataclass
class Config:
    width: int = WIDTH

def module(width=WIDTH):
    return nn.Linear(Config(width).width, 2)

def with_args():
    return module(), (torch.ones(5, WIDTH),)

def with_tensor():
    return module(), torch.ones(5, WIDTH)

def with_kwargs():
    return module(), (), {{"input": torch.ones(4, WIDTH)}}

def loaded():
    return LoadedModel(module(), (torch.ones(6, WIDTH),), {{}}, "mine")

def late():
    from {neighbour} import DEPTH
    return nn.Sequential(*[module(2) for _ in range(DEPTH)])

def strict(n, *, flag):
    return nn.Linear(n, int(flag))

def conv():
    return nn.Sequential(nn.Identity(), nn.Conv2d(3, 4, 3))

def conv1d():
    return nn.Conv1d(2, 4, 3)

def embedding():
    return nn.Embedding(11, 3)

def lightning():
    net = conv()
    net.example_input_array = torch.ones(1, 3, 8, 8)
    return net

def lightning_dict():
    net = nn.Bilinear(2, 3, 4)
    net.example_input_array = {{"input1": torch.ones(1, 2), "input2": torch.ones(1, 3)}}
    return net

def bilinear():
    return nn.Bilinear(2, 3, 4)

def empty():
    return nn.Identity()

def two():
    return nn.Bilinear(2, 3, 4), (torch.ones(1, 2), torch.ones(1, 3))

def half():
    return nn.Linear(3, 2).to(torch.bfloat16)

def raises():
    raise ValueError("first line\\nsecond \\x1b[31mline")

def quits():
    raise SystemExit(7)

def number():
    return 3

def pair():
    return nn.Linear(2, 2), 3

def four():
    return nn.Linear(2, 2), (), {{}}, 1

built = nn.Linear(3, 2)

class Namespace:
    make = staticmethod(module)

NOT_A_FACTORY = "text"
"""


@pytest.fixture
def nets(tmp_path: Path) -> str:
    """A file of factories that imports a neighbour; both names are unique, as modules stay imported."""
    neighbour = f"neighbour_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{neighbour}.py").write_text("WIDTH = 4\nDEPTH = 3\n")
    path = tmp_path / "nets.py"
    path.write_text(SOURCE.format(neighbour=neighbour))
    return str(path)


@pytest.mark.parametrize(
    ("factory", "shape"),
    [
        ("module", (2, 4)),
        ("module?width=3", (2, 3)),
        ("with_args", (5, 4)),
        ("with_tensor", (5, 4)),
        ("loaded", (6, 4)),
        ("late", (2, 2)),
        ("strict?n=3&flag=True", (2, 3)),
        ("embedding", (2, 7)),
        ("lightning", (1, 3, 8, 8)),
        ("built", (2, 3)),
        ("Namespace.make", (2, 4)),
    ],
)
def test_what_a_factory_may_return(nets: str, factory: str, shape: tuple[int, ...]) -> None:
    path_before = list(sys.path)
    loaded = load_model(f"{nets}:{factory}")
    assert sys.path == path_before
    assert tuple(loaded.args[0].shape) == shape
    assert loaded.name.endswith(f"nets.py:{factory}")
    assert not loaded.module.training
    if factory != "late":
        loaded.module(*loaded.args)


def test_keyword_inputs(nets: str) -> None:
    loaded = load_model(f"{nets}:with_kwargs")
    assert loaded.args == () and tuple(loaded.kwargs["input"].shape) == (4, 4)
    assert tuple(load_model(f"{nets}:with_kwargs", (9, 4)).kwargs["input"].shape) == (9, 4)
    loaded = load_model(f"{nets}:lightning_dict")
    assert loaded.module(*loaded.args, **loaded.kwargs).shape == (1, 4)


def test_an_input_shape_goes_before_everything(nets: str) -> None:
    for factory in ("module", "with_args", "loaded"):
        assert tuple(load_model(f"{nets}:{factory}", (7, 4)).args[0].shape) == (7, 4)
    assert tuple(load_model(f"{nets}:lightning", (1, 3, 5, 5)).args[0].shape) == (1, 3, 5, 5)
    assert tuple(load_model(f"{nets}:conv", (1, 3, 5, 5)).args[0].shape) == (1, 3, 5, 5)
    assert tuple(load_model(f"{nets}:empty", (3,)).args[0].shape) == (3,)


def test_the_example_takes_the_dtype_of_the_module(nets: str) -> None:
    assert load_model(f"{nets}:half").args[0].dtype == torch.bfloat16


def test_weights_follow_the_seed_and_the_global_state_stays(nets: str) -> None:
    before = torch.get_rng_state()
    first, again, other = (load_model(f"{nets}:module", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(first.module.weight, again.module.weight, rtol=0, atol=0)
    torch.testing.assert_close(first.args, again.args, rtol=0, atol=0)
    assert not torch.equal(first.module.weight, other.module.weight)


def test_the_global_state_stays_when_the_factory_raises(nets: str) -> None:
    before = torch.get_rng_state()
    with pytest.raises(ModelSpecError):
        load_model(f"{nets}:raises", seed=9)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("modul", "did you mean 'module'"),
        ("Namespace.mak", "did you mean 'make'"),
        ("module?widht=3", "did you mean 'width'"),
        ("strict?n=3", "missing a required argument: 'flag'"),
        ("raises", "the factory raised ValueError: first line second \\x1b[31mline"),
        ("quits", "the factory raised SystemExit: 7"),
        ("number", "but returned int"),
        ("pair", "args as a tuple and kwargs as a dict, but returned int"),
        ("four", "but returned (Linear, tuple, dict, int)"),
        ("built?a=1", "a built module"),
        ("NOT_A_FACTORY", "but this is a str"),
        ("conv", "--input-shape 1,3,H,W"),
        ("conv1d", "--input-shape 1,2,L"),
        ("bilinear", "a Bilinear; give --input-shape"),
        ("empty", "no parameters"),
    ],
)
def test_bad_factories_are_refused_in_one_line(nets: str, factory: str, says: str) -> None:
    with pytest.raises(ModelSpecError) as caught:
        load_model(f"{nets}:{factory}")
    assert says in str(caught.value)
    assert f"nets.py:{factory}" in str(caught.value)
    assert str(caught.value).isprintable()


def test_an_input_shape_for_two_inputs_is_refused(nets: str) -> None:
    with pytest.raises(ModelSpecError, match="gives 2"):
        load_model(f"{nets}:two", (1, 2))


@pytest.mark.parametrize("shape", [(), (0, 3), (1, -1), (1, 2.0), (True, 3), ("1", "3")])
def test_bad_input_shapes_are_refused(shape: tuple[object, ...]) -> None:
    with pytest.raises(ModelSpecError, match="positive integers"):
        load_model("mlp", shape)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("torch.nm:Linear", "no module 'torch.nm'"),
        ("torch.nnn:Linear", "did you mean 'nn'"),
        ("scippy:thing", "did you mean 'scipy'"),
        ("weyl.models.builtins:mlp", "did you mean 'builtin'"),
        ("torch.nn:Linaer", "did you mean 'Linear'"),
        ("torch.nn:Linear?in_features=2", "missing a required argument"),
        ("torch.nn:Linear?in_features=2&out_features=-1", "the factory raised RuntimeError"),
        ("torch.nn:functional", "but this is a module"),
    ],
)
def test_bad_modules_are_refused_in_one_line(spec: str, says: str) -> None:
    with pytest.raises(ModelSpecError) as caught:
        load_model(spec)
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


def test_modules_of_the_working_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"local_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text("from torch import nn\ndef make(n): return nn.Linear(n, n)\n")
    monkeypatch.chdir(tmp_path)
    assert load_model(f"{name}:make?n=3").args[0].shape == (2, 3)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("import package_that_is_not_there", "raised ModuleNotFoundError"),
        ("1 / 0", "raised ZeroDivisionError"),
        ("def broken(:", "raised SyntaxError"),
        ("import sys; sys.exit(2)", "raised SystemExit: 2"),
    ],
)
def test_files_that_do_not_run(tmp_path: Path, body: str, says: str) -> None:
    path = tmp_path / "net.py"
    path.write_text(body)
    with pytest.raises(ModelSpecError, match=says) as caught:
        load_model(f"{path}:make")
    assert str(caught.value).isprintable()
    assert "_weyl_model_net" not in sys.modules


def test_a_module_whose_own_import_fails_is_not_called_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"needy_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text("import package_that_is_not_there")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelSpecError, match=f"importing {name} failed: No module named 'package_that"):
        load_model(f"{name}:make")


def test_missing_and_odd_files(tmp_path: Path) -> None:
    (tmp_path / "network.py").touch()
    with pytest.raises(ModelSpecError, match=r"no such file: .*did you mean 'network.py'"):
        load_model(f"{tmp_path}/netwrok.py:make")
    with pytest.raises(ModelSpecError, match="no such file"):
        load_model(f"{tmp_path}/nowhere/net.py:make")
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(ModelSpecError, match="not a regular file"):
        load_model(f"{tmp_path}/folder.py:make")
    os.mkfifo(tmp_path / "fifo.py")
    with pytest.raises(ModelSpecError, match="not a regular file"):
        load_model(f"{tmp_path}/fifo.py:make")


def test_reshaping_keeps_order_dtype_and_value_range() -> None:
    args, kwargs = reshaped((1, torch.tensor([4, 9]), "x"), {"k": 2}, (3, 5), "net")
    assert (args[0], args[2], kwargs) == (1, "x", {"k": 2})
    assert args[1].shape == (3, 5) and set(args[1].flatten().tolist()) <= {4, 9}
    (mask,), _ = reshaped((torch.zeros(2, dtype=torch.bool),), {}, (4,), "net")
    assert mask.dtype == torch.bool and mask.shape == (4,)


def test_a_lazy_layer_does_not_pretend_to_a_size() -> None:
    with pytest.raises(ModelSpecError, match="--input-shape"):
        example_input(nn.LazyLinear(3), None, "net")


def test_an_example_on_the_meta_device_stays_there() -> None:
    (x,), _ = example_input(nn.Linear(3, 2, device="meta"), None, "net")
    assert x.device.type == "meta" and x.shape == (2, 3)
