"""DATA: what each form gives, that new data wear the old standardisation, and what every bad one gets."""

from __future__ import annotations

import gzip
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from weyl.data import Data, Part, Scaling, digits, letters, load_data, mnist
from weyl.data.idx import FOLDER, fashion, read_idx
from weyl.errors import InputError

X = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
Y = np.arange(12) % 3

FACTORIES = """
import numpy as np, torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from weyl.data import digits

X, Y = torch.arange(48.0).reshape(12, 4), torch.arange(12) % 3

def pair(): return X, Y
def arrays(): return X.numpy(), Y.numpy().astype("uint16")
def dataset(): return TensorDataset(X, Y)
def loader(n=5): return DataLoader(TensorDataset(X, Y), batch_size=n)
def batches(): return [(X[:5], Y[:5]), (X[5:], Y[5:])]
def parts(): return {"train": (X[:8], Y[:8]), "test": loader()}
def split(): return digits(limit=50, held_out=20)
built = TensorDataset(X, Y)

class Named(TensorDataset):
    classes = ["cat", "do\\x1bg", "hen"]
def named(): return Named(X, Y)

class Stream(IterableDataset):
    def __iter__(self): return iter(zip(X, Y))
def stream(): return Stream()

def once(): return iter([(X, Y)])
def nothing(): return []
def number(): return 3
def triple(): return [(X, Y, Y)]
def keys(): return {"a": (X, Y)}
def raises(): raise ValueError("no such\\ndata")
def sparse(): return X.to_sparse(), Y
def one_hot(): return X, torch.eye(3)[Y]
def negative(): return X, Y - 1
class Bad(Dataset):
    def __len__(self): return 600
    def __getitem__(self, i):
        if i == 300: raise RuntimeError("disk\\nfell off")
        return X[0], 0
def breaks(): return Bad()
"""


@pytest.fixture
def made(tmp_path: Path) -> str:
    """A file of factories."""
    (tmp_path / "made.py").write_text(FACTORIES)
    return f"{tmp_path}/made.py"


def everything(part: Part | None) -> tuple[torch.Tensor, torch.Tensor]:
    assert part is not None
    x, y = zip(*part, strict=True)
    return torch.cat(x), torch.cat(y)


@pytest.mark.parametrize("factory", ["pair", "arrays", "dataset", "loader", "loader?n=7", "batches", "built", "stream"])
def test_what_a_factory_may_return(made: str, factory: str) -> None:
    data = load_data(f"{made}:{factory}")
    for _ in range(2):  # every part can be read again
        x, y = everything(data.train)
        torch.testing.assert_close(x, torch.arange(48.0).reshape(12, 4), rtol=0, atol=0)
        torch.testing.assert_close(y, torch.arange(12) % 3, rtol=0, atol=0)
    assert data.train is not None and data.train.shape == (4,)
    assert data.train.size == (None if factory in ("batches", "stream") else 12)
    assert data.test is None and data.scaling is None and data.name.endswith(factory)


def test_parts_names_and_limits_of_a_factory(made: str) -> None:
    data = load_data(f"{made}:parts")
    assert len(everything(data.train)[1]) == 8 and len(everything(data.test)[1]) == 12
    assert load_data(f"{made}:named").classes == ("cat", r"do\x1bg", "hen")
    limited = load_data(f"{made}:loader", limit=7)
    assert everything(limited.train)[0].shape == (7, 4) and limited.train.size == 7  # type: ignore[union-attr]
    split = load_data(f"{made}:split")
    assert split.scaling is not None and len(split.classes) == 10


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("once", "can be read only once"),
        ("nothing", "holds no batch"),
        ("number", "but returned int"),
        ("triple", "batch 1: a pair (x, y) is expected, got a tuple of 3"),
        ("keys", "a dict with keys a"),
        ("raises", "the factory raised ValueError: no such data"),
        ("sparse", "x is sparse"),
        ("one_hot", "take y.argmax(1)"),
        ("negative", "class indices from 0, got -1"),
        ("par", "did you mean 'pair'"),
        ("built?n=1", "data that is already made"),
    ],
)
def test_bad_factories(made: str, factory: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        load_data(f"{made}:{factory}")
    assert says in str(caught.value) and str(caught.value).isprintable()


def test_a_loader_that_breaks_later_is_named_with_its_batch(made: str) -> None:
    data = load_data(f"{made}:breaks")
    with pytest.raises(InputError, match="reading batch 2 raised RuntimeError: disk fell off"):
        everything(data.train)


def test_parts_can_be_reshaped_batched_and_cast() -> None:
    data = load_data("digits?held_out=360", limit=100)
    assert isinstance(data, Data) and data.train is not None
    part = data.train.shaped((64,)).cast(torch.float64).batched(30)
    sizes = [len(y) for _, y in part]
    x, y = everything(part)
    assert sizes == [30, 30, 30, 10] and x.shape == (100, 64) and x.dtype == torch.float64
    images, labels = everything(data.train)
    torch.testing.assert_close(x.float().reshape(-1, 1, 8, 8), images)
    torch.testing.assert_close(y, labels)
    # The limit keeps the proportions of the classes.
    assert y.bincount().min() >= 9 and y.bincount().max() <= 11
    assert everything(part.first(45))[1].tolist() == y[:45].tolist()


def test_a_part_that_is_not_there_is_said(made: str) -> None:
    with pytest.raises(InputError, match="pair has no held-out part; use its other part, train"):
        load_data(f"{made}:pair").part("test")


# Standardisation


def test_new_data_wear_the_standardisation_of_the_old() -> None:
    home = load_data("mnist", limit=500)
    assert home.scaling is not None
    shift = load_data("letters?limit=52&held_out=26", scaling=home.scaling)
    own = letters(limit=52, held_out=26)
    pixels = own.train_x * own.std + own.mean
    assert shift.scaling == home.scaling != load_data("letters?limit=52&held_out=26").scaling
    torch.testing.assert_close(everything(shift.train)[0], home.scaling.apply(pixels), rtol=0, atol=1e-5)
    # Black is black in both: the background of a letter has the value of the background of a digit.
    assert abs(float(everything(shift.train)[0].min() - everything(home.train)[0].min())) < 1e-5


def test_a_built_in_set_takes_the_standardisation_of_a_users_network() -> None:
    asked = load_data("digits?mean=0.3&std=0.5", limit=50)
    own = load_data("digits", limit=50)
    assert asked.scaling == Scaling((0.3,), (0.5,)) and own.scaling is not None
    pixels = everything(own.train)[0] * own.scaling.std[0] + own.scaling.mean[0]
    torch.testing.assert_close(everything(asked.train)[0], (pixels - 0.3) / 0.5, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="mean and std go together"):
        load_data("digits?mean=0.3")


def test_a_limit_does_not_change_the_standardisation() -> None:
    assert load_data("digits", limit=50).scaling == load_data("digits").scaling
    assert load_data("digits?limit=50").scaling != load_data("digits").scaling


def test_rescaling_is_undone_by_rescaling_back() -> None:
    split = digits(limit=50)
    back = split.rescaled(0.3, 2.0).rescaled(split.mean, split.std)
    torch.testing.assert_close(back.train_x, split.train_x, rtol=0, atol=1e-5)
    raw = split.rescaled(0.0, 1.0)
    assert float(raw.train_x.min()) == pytest.approx(0, abs=1e-6) and float(raw.train_x.max()) <= 1 + 1e-6


def test_scaling_by_channel() -> None:
    x = torch.rand(3, 2, 4, 4)
    out = Scaling((0.1, 0.2), (0.5, 2.0)).apply(x)
    torch.testing.assert_close(out[:, 1], (x[:, 1] - 0.2) / 2.0)
    with pytest.raises(InputError, match="for 2 channels are expected, got 3"):
        Scaling((0.1, 0.2, 0.3), (1.0,)).apply(x)


# Letters and Fashion-MNIST


def test_letters_look_like_mnist_and_are_all_there() -> None:
    split, home = letters(limit=260, held_out=52), mnist(limit=500)
    assert split.train_x.shape == (260, 1, 28, 28) and split.train_y.bincount().tolist() == [10] * 26
    pixels = split.train_x * split.std + split.mean
    assert float(pixels.max()) > 0.9 and float(pixels[:, :, 0].max()) < 0.1  # white on black, with a margin
    ink = pixels.mean((1, 2, 3))
    assert 0.5 < float(ink.mean()) / home.mean < 2
    grid = torch.arange(28.0)
    middle = (pixels.mean(2)[:, 0] * grid).sum(1) / pixels.mean(2)[:, 0].sum(1)
    assert float((middle - 13.5).abs().max()) < 1.0  # centred by mass
    assert not torch.equal(split.train_x, letters(limit=260, held_out=52, seed=1).train_x)
    torch.testing.assert_close(split.train_x, letters(limit=260, held_out=52).train_x, rtol=0, atol=0)


def test_letters_of_one_class_are_alike() -> None:
    split = letters(limit=520, held_out=260)
    means = torch.stack([split.train_x[split.train_y == c].mean(0) for c in range(26)]).flatten(1)
    guess = torch.cdist(split.test_x.flatten(1), means).argmin(1)
    assert (guess == split.test_y).double().mean() > 0.6  # chance is 0.04


def test_letters_need_both_parts() -> None:
    with pytest.raises(InputError, match="letters: limit and held_out must be positive"):
        letters(held_out=0)


def idx(path: Path, array: np.ndarray, kind: int = 8, packed: bool = True) -> None:  # type: ignore[type-arg]
    head = bytes([0, 0, kind, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes()) if packed else head + array.tobytes())


@pytest.fixture
def small_fashion(tmp_path: Path) -> Path:
    """A set of 40 and 20 images in the form of Fashion-MNIST."""
    random = np.random.default_rng(0)
    for stem, n in (("train", 40), ("t10k", 20)):
        idx(tmp_path / f"{stem}-images-idx3-ubyte.gz", random.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        idx(tmp_path / f"{stem}-labels-idx1-ubyte.gz", (np.arange(n) % 10).astype(np.uint8))
    return tmp_path


def test_idx_files(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for packed in (True, False):
        idx(tmp_path / "a", values, packed=packed)
        assert read_idx(tmp_path / "a").tolist() == values.tolist()
    raw = (tmp_path / "a").read_bytes()
    for damaged, says in [
        (raw[:-1], "but it holds only 23"),
        (raw + b"x", "but it holds more"),
        (raw[:3], "its first bytes"),
        (b"\0\0\x0d" + raw[3:], "its first bytes"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "it is damaged"),
        (gzip.compress(raw)[:-9], "cannot be read"),
    ]:
        (tmp_path / "a").write_bytes(damaged)
        with pytest.raises(InputError, match=says):
            read_idx(tmp_path / "a")


def test_fashion_from_a_folder(small_fashion: Path) -> None:
    split = fashion(limit=20, held_out=10, folder=small_fashion)
    assert split.train_x.shape == (20, 1, 28, 28) and split.train_y.bincount().tolist() == [2] * 10
    assert split.test_y.bincount().tolist() == [1] * 10 and split.classes[9] == "ankle boot"
    torch.testing.assert_close(split.train_x.double().std(correction=0), torch.tensor(1.0).double(), atol=1e-6, rtol=0)
    whole = fashion(folder=small_fashion)
    pixels = (whole.train_x * whole.std + whole.mean) * 255
    torch.testing.assert_close(
        pixels[:, 0], read_idx(small_fashion / "train-images-idx3-ubyte.gz").float(), rtol=0, atol=1e-3
    )
    with pytest.raises(InputError, match="held_out must be between 1 and 20, got 21"):
        fashion(held_out=21, folder=small_fashion)
    (small_fashion / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match="install the Debian package dataset-fashion-mnist"):
        fashion(folder=small_fashion)


@pytest.mark.skipif(not FOLDER.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist() -> None:
    data = load_data("fashion?held_out=500", limit=1000)
    assert everything(data.train)[1].bincount().tolist() == [100] * 10
    assert everything(data.test)[1].bincount().tolist() == [50] * 10


# npz


def test_arrays_are_used_as_they_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y.astype(np.float64), x_test=X[:3], y_test=Y[:3], classes=["a", "b", "c"])
    data = load_data(f"{tmp_path}/a.npz")
    torch.testing.assert_close(everything(data.train)[0], torch.from_numpy(X), rtol=0, atol=0)
    assert everything(data.train)[1].tolist() == Y.tolist() and everything(data.test)[1].tolist() == Y[:3].tolist()
    assert data.classes == ("a", "b", "c") and data.scaling is None
    (note,) = load_data(f"{tmp_path}/a.npz", scaling=Scaling((0.5,), (0.5,))).notes
    assert "used as they are" in note
    limited = load_data(f"{tmp_path}/a.npz", limit=6)
    assert everything(limited.train)[1].bincount().tolist() == [2, 2, 2]


@pytest.mark.parametrize("shape", [(10, 6, 6), (10, 1, 6, 6), (10, 3, 6, 6), (10, 6, 6, 3)])
def test_bytes_are_pixels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x_train=pixels, y_train=np.arange(10) % 2)
    data = load_data(f"{tmp_path}/a.npz")
    x, _ = everything(data.train)
    assert x.shape == (10, 3 if 3 in shape else 1, 6, 6) and data.scaling is not None
    assert float(x.mean()) == pytest.approx(0, abs=1e-5) and float(x.std(correction=0)) == pytest.approx(1, abs=1e-5)
    given, _ = everything(load_data(f"{tmp_path}/a.npz", scaling=Scaling((0.0,), (1.0,))).train)
    assert float(given.max()) == pytest.approx(pixels.max() / 255)
    asked, _ = everything(load_data(f"{tmp_path}/a.npz?mean=0.5&std=0.25").train)
    torch.testing.assert_close(asked, (given - 0.5) / 0.25)


def big_head(path: Path) -> None:
    """An archive that claims to unpack to a petabyte."""
    np.savez(path, x=X, y=Y)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"PK\x01\x02")
    raw[at + 24 : at + 28] = b"\xf0\xff\xff\xff"
    path.write_bytes(bytes(raw))


def npz(**arrays: object) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **arrays)  # type: ignore[arg-type]


def nan(index: int) -> np.ndarray:  # type: ignore[type-arg]
    bad = X.copy()
    bad[index, 1] = np.nan
    return bad


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (npz(a=X, b=Y), "arrays x (inputs) and y (classes) are expected, but the file holds a, b"),
        (npz(x=X), "but the file holds x"),
        (npz(x=X, y=Y[:5]), "12 inputs and 5 labels"),
        (npz(x=X, y=Y + 0.5), "y must hold integers"),
        (npz(x=X.astype(str), y=Y), "x must hold numbers, got <U"),
        (npz(x=X, y=Y.astype("datetime64[D]")), "y must hold numbers, got datetime64"),
        (npz(x=X, y=Y.astype(str), classes=np.array(["0", "1"])), "y holds the class '2', which classes does not"),
        (npz(x=X, y=np.eye(3)[Y]), "take y.argmax(1)"),
        (npz(x=X, y=Y - 1), "class indices from 0, got -1"),
        (npz(x=nan(4), y=Y), "NaN or Inf in 1 of 12 inputs, the first at index 4"),
        (npz(x=X.astype(object), y=Y), "holds Python objects, which are not loaded"),
        (npz(x=X[:, 0], y=Y), "x must be (n, ...)"),
        (npz(x=X[:0], y=Y[:0]), "is empty"),
        (npz(x=X.astype(complex), y=Y), "x must be real"),
        (npz(x=X.astype(np.uint8), y=Y), "bytes are taken for pixels"),
        (npz(x=X, y=Y, x_test=X), "x_test and y_test go together"),
        (npz(x=X, y=Y, classes=np.arange(3)), "classes must be a list of names"),
        (lambda path: path.touch(), "is empty; an .npz file is expected"),
        (lambda path: path.mkdir(), "is not a regular file"),
        (os.mkfifo, "is not a regular file"),
        (lambda path: path.symlink_to(path), "symbolic links"),
        (lambda path: path.write_text("nonsense"), "is no whole .npz file"),
        (lambda path: (np.savez(path, x=X, y=Y), path.write_bytes(path.read_bytes()[:-50])), "is no whole .npz file"),
        (lambda path: zipfile.ZipFile(path, "w").writestr("x.npy", b"not an array"), "but the file holds x"),
    ],
)
def test_bad_arrays(tmp_path: Path, make: Callable[[Path], object], says: str) -> None:
    path = tmp_path / "bad.npz"
    make(path)
    with pytest.raises(InputError) as caught:
        load_data(str(path))
    assert says in str(caught.value) and "bad.npz" in str(caught.value)
    assert str(caught.value).isprintable()


def test_arrays_larger_than_memory_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    monkeypatch.setattr(os, "sysconf", lambda name: 10)
    with pytest.raises(InputError, match="its arrays would take"):
        load_data(f"{tmp_path}/a.npz")


def test_a_missing_array_file_is_told_with_near_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    with pytest.raises(InputError, match=r"no such file; did you mean 'data.npz'\?"):
        load_data(f"{tmp_path}/dtaa.npz")


# Directories


def picture(path: Path, value: int = 0, mode: str = "L", size: tuple[int, int] = (6, 5)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode in ("L", "P", "I;16") else (value, 0, 255)).save(path)


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """Two classes of grey images, 5 high and 6 wide."""
    for i in range(3):
        picture(tmp_path / "set" / "cat" / f"{i}.png", 40 * i)
    picture(tmp_path / "set" / "dog" / "0.bmp", 255)
    return tmp_path / "set"


def test_a_directory_of_images_by_class(animals: Path) -> None:
    data = load_data(str(animals))
    x, y = everything(data.train)
    assert x.shape == (4, 1, 5, 6) and y.tolist() == [0, 0, 0, 1] and data.classes == ("cat", "dog")
    assert data.test is None and data.train is not None and data.train.size == 4
    values = torch.tensor([0, 40, 80, 255]) / 255
    expected = (values - values.mean()) / values.std(correction=0)
    torch.testing.assert_close(x[:, 0, 0, 0], expected)
    asked, _ = everything(load_data(f"{animals}?mean=0&std=1&limit=2").train)
    assert asked.shape[0] == 2
    other, _ = everything(load_data(str(animals), scaling=Scaling((0.0,), (1.0,))).train)
    torch.testing.assert_close(other[:, 0, 0, 0], values)


def test_colours_make_three_channels_for_all(animals: Path) -> None:
    picture(animals / "dog" / "1.png", 7, mode="RGB")
    data = load_data(str(animals))
    x, _ = everything(data.train)
    assert x.shape == (5, 3, 5, 6) and data.scaling is not None and len(data.scaling.mean) == 3
    pixels = x * torch.tensor(data.scaling.std).view(3, 1, 1) + torch.tensor(data.scaling.mean).view(3, 1, 1)
    torch.testing.assert_close(pixels[4, :, 0, 0] * 255, torch.tensor([7.0, 0.0, 255.0]), rtol=0, atol=1e-2)
    torch.testing.assert_close(x.movedim(1, 0).flatten(1).mean(1), torch.zeros(3), rtol=0, atol=1e-5)


def test_train_and_test_directories(animals: Path, tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    animals.rename(tmp_path / "both" / "train")
    picture(tmp_path / "both" / "val" / "dog" / "9.png", 100)
    data = load_data(f"{tmp_path}/both")
    assert everything(data.train)[1].tolist() == [0, 0, 0, 1] and everything(data.test)[1].tolist() == [1]
    assert any("cat holds no image in val" in note for note in data.notes)


def test_what_is_no_image_is_left_out_and_said(animals: Path) -> None:
    (animals / "cat" / "notes.txt").write_text("meow")
    (animals / "hen").mkdir()
    data = load_data(str(animals))
    assert data.classes == ("cat", "dog", "hen")
    assert any("class cat: 1 of 4 entries" in note for note in data.notes)
    assert any("class hen holds no image" in note for note in data.notes)


def test_images_are_brought_to_one_size_on_request(animals: Path) -> None:
    picture(animals / "dog" / "big.png", 9, size=(12, 8))
    with pytest.raises(InputError, match=r"equally large, but 0.png is 6×5 and big.png 12×8; .*\?size=6"):
        load_data(str(animals))
    assert load_data(f"{animals}?size=4").part("train").shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda d: (d / "dog" / "x.png").write_bytes(b"nonsense"), "x.png is no image of a known format"),
        (lambda d: (d / "dog" / "x.png").touch(), "x.png is no image of a known format"),
        (lambda d: (d / "dog" / "x.png").write_bytes((d / "cat" / "0.png").read_bytes()[:-20]), "x.png is broken"),
        (lambda d: os.mkfifo(d / "dog" / "x.png"), "x.png is not a regular file"),
        (lambda d: (d / "dog" / "x.png").symlink_to("nowhere"), "x.png: No such file"),
        (lambda d: picture(d / "dog" / "x.png", 9, mode="I;16"), "x.png: 8 bits a channel are expected"),
        (lambda d: (d / "dog" / "a\x1b.png").touch(), r"a\x1b.png is no image"),
    ],
)
def test_bad_images_are_named(animals: Path, make: Callable[[Path], object], says: str) -> None:
    make(animals)
    with pytest.raises(InputError) as caught:
        everything(load_data(str(animals)).train)
    assert says in str(caught.value) and str(caught.value).isprintable()


def test_directories_without_classes_or_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one sub-directory for each class, but there is none"):
        load_data(str(tmp_path))
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match="no image lies in the sub-directories"):
        load_data(str(tmp_path))


def test_an_enormous_image_is_refused(animals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(InputError, match="make it smaller or remove it"):
        load_data(str(animals))


# Specifications


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("mnits", "unknown DATA 'mnits'; expected a built-in (digits, fashion, letters, mnist)"),
        ("mnits", "did you mean 'mnist'"),
        ("net.py", "names a file but no factory in it; expected net.py:factory"),
        ("no/such/dir", "no such file or directory"),
        (
            "mnist?limits=3",
            "there is no option limits; expected limit, held_out, seed, mean, std; did you mean 'limit'",
        ),
        ("mnist?limit=x", "limit must be a whole number, got 'x'"),
        ("mnist?limit=0", "limit must be positive"),
        ("digits?limit=9999", "ask for fewer"),
        ("mnist?limit", "key=value is expected after '?'"),
        ("digits?seed=1&seed=2", "seed is given twice"),
        ("torch.nm:thing", "no module 'torch.nm'"),
        ("{here}?mean=0.5", "mean and std go together"),
        ("{here}?mean=0.5&std=0", "std must be positive"),
        ("{here}?size=-1", "size must be positive"),
        ("{here}/plain.txt", "neither an .npz file nor a directory"),
        ("a\x1b[31m", r"unknown DATA 'a\x1b[31m'"),
    ],
)
def test_bad_specifications(tmp_path: Path, spec: str, says: str) -> None:
    (tmp_path / "plain.txt").write_text("x")
    with pytest.raises(InputError) as caught:
        load_data(spec.format(here=tmp_path))
    assert says in str(caught.value) and str(caught.value).isprintable()


def test_a_standardisation_of_three_channels_does_not_fit_grey_images() -> None:
    with pytest.raises(InputError, match="one channel"):
        load_data("digits", scaling=Scaling((0.1, 0.2, 0.3), (1.0, 1.0, 1.0)))


def test_names_of_classes_are_numbered(tmp_path: Path) -> None:
    names = np.array(["cat", "ant", "bee"])[np.arange(12) % 3]
    x = np.arange(48.0).reshape(12, 4)
    np.savez(tmp_path / "a.npz", x=x, y=names, x_test=x[:2], y_test=names[:2])
    data = load_data(str(tmp_path / "a.npz"))
    assert data.classes == ("ant", "bee", "cat") and data.train is not None and data.test is not None
    assert torch.cat([y for _, y in data.train]).tolist() == [2, 0, 1] * 4
    assert torch.cat([y for _, y in data.test]).tolist() == [2, 0]
    # In another order if the file has one, and as bytes.
    np.savez(tmp_path / "b.npz", x=x, y=names.astype("S"), classes=np.array(["cat", "bee", "ant"]))
    data = load_data(str(tmp_path / "b.npz"))
    assert data.train is not None and torch.cat([y for _, y in data.train]).tolist() == [0, 2, 1] * 4
