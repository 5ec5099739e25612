"""Two processes that share the data measure what one measures that has all of it."""

import pickle

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tests.callbacks.nets import DIM, K, assert_same, data, measured, net

from weyl.callbacks import scalars, watch
from weyl.errors import InputError

WORLD = 2
# How many of the 45 samples the first process has.
SHARES = {"even": 23, "uneven": 40, "none on the second": 45, "none on the first": 0}


def work(rank, folder):
    """What every process does; results go to a file."""
    from weyl.callbacks import CollapseMetric

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    found = {}
    try:
        for name, share in SHARES.items():
            inputs, labels = (part[:share] if rank == 0 else part[share:] for part in data())
            model = net()
            metric = CollapseMetric(K, DIM)
            with watch(model, K) as watcher:
                for x, y in zip(inputs.split(10), labels.split(10), strict=True):
                    if len(y):
                        logits = model(x)
                        watcher.observe(y)
                        with torch.no_grad():
                            metric.update(model[1](model[0](x)), y, logits, model[2].weight, model[2].bias)
                collapse = watcher.compute()
                found[name] = {"watch": scalars(collapse), "samples": collapse.samples}
            found[name]["metric"] = {key: float(value) for key, value in metric.compute().items()}
            # After the joint result a process has its own state back.
            found[name]["own"] = metric._statistics.count
        with watch(net(), K) as watcher:
            try:
                watcher.compute()
            except InputError as error:
                found["nothing"] = str(error)
    finally:
        dist.destroy_process_group()
    with open(f"{folder}/{rank}.pickle", "wb") as file:
        pickle.dump(found, file)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(work, (str(folder),), nprocs=WORLD)
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(WORLD)]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("kind", ["watch", "metric"])
def test_two_processes_equal_one(results, share, kind):
    expected = scalars(measured(net(), *data()))
    first, second = (found[share] for found in results)
    assert first[kind] == second[kind]
    assert first["samples"] == second["samples"] == 45
    assert_same(first[kind], expected)


def test_the_shares_alone_measure_something_else(results):
    """A sum that was left out would show: each half differs from the whole."""
    inputs, labels = data()
    with pytest.raises(AssertionError):
        assert_same(measured(net(), inputs[:23], labels[:23]), results[0]["even"]["watch"])


def test_a_metric_has_its_own_samples_back(results):
    assert [found["uneven"]["own"] for found in results] == [40, 5]


def test_nothing_on_any_process_is_said_on_each(results):
    assert {found["nothing"] for found in results} == {
        "nothing was observed; call observe(labels) after a forward pass"
    }
