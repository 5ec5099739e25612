"""The torchmetrics metric, in every way that torchmetrics moves the state of a metric."""

import copy
import pickle

import pytest
import torch
import torchmetrics
from tests.callbacks.nets import DIM, K, assert_same, data, measured, net

from weyl.callbacks import CollapseMetric, scalars
from weyl.errors import InputError, UsageError
from weyl.geometry import CollapseStatistics
from weyl.geometry._pack import merge_packed, pack, unpack


def parts(n=45, size=10):
    model, (inputs, labels) = net(), data(n)
    with torch.no_grad():
        features = model[1](model[0](inputs))
        logits = model[2](features)
    weight, bias = model[2].weight, model[2].bias
    return [
        (f, y, z, weight, bias)
        for f, y, z in zip(features.split(size), labels.split(size), logits.split(size), strict=True)
    ]


def filled(batches=None, **options):
    metric = CollapseMetric(K, DIM, **options)
    for batch in parts() if batches is None else batches:
        metric.update(*batch)
    return metric


def expected():
    return scalars(measured(net(), *data()))


def test_computes_what_the_statistics_compute():
    metric = filled()
    assert isinstance(metric, torchmetrics.Metric)
    assert_same(metric.compute(), expected())
    assert_same(metric.collapse(), expected())


def test_the_comparison_notices_a_missing_batch():
    with pytest.raises(AssertionError):
        assert_same(filled(parts()[1:]).compute(), expected())


def test_forward_gives_the_batch_and_adds_it():
    metric = CollapseMetric(K, DIM)
    for batch in parts():
        value = metric(*batch)
        assert_same(value, filled([batch]).compute())
    assert_same(metric.compute(), expected())


def test_reset():
    metric = filled()
    metric.reset()
    with pytest.raises(InputError, match="nothing was seen"):
        metric.collapse()
    for batch in parts():
        metric.update(*batch)
    assert_same(metric.compute(), expected())


def test_merge_state_of_two_metrics():
    first, second = filled(parts()[:2]), filled(parts()[2:])
    first.merge_state(second)
    assert_same(first.collapse(), expected())


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda m: m.clone(), lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_complete_and_independent(twin):
    metric = filled(parts()[:2])
    other = twin(metric)
    for batch in parts()[2:]:
        other.update(*batch)
    assert_same(other.compute(), expected())
    assert_same(metric.compute(), filled(parts()[:2]).compute())


def test_state_dict_round_trip():
    metric, other = filled(), CollapseMetric(K, DIM)
    for each in (metric, other):
        each.persistent(True)
    other.load_state_dict(metric.state_dict())
    assert_same(other.collapse(), expected())
    assert not CollapseMetric(K, DIM).state_dict()


def test_moves_leave_the_precision():
    metric = filled().half().float().to("cpu")
    assert metric.packed.dtype == torch.float64
    assert_same(metric.compute(), expected())


def test_in_a_collection():
    accuracy = torchmetrics.classification.MulticlassAccuracy(K, average="micro")

    class Right(torchmetrics.Metric):
        def __init__(self):
            super().__init__()
            self.inner = accuracy

        def update(self, logits, labels):
            self.inner.update(logits, labels)

        def compute(self):
            return self.inner.compute()

    collection = torchmetrics.MetricCollection({"right": Right(), "collapse": CollapseMetric(K, DIM, prefix="c_")})
    for features, labels, logits, weight, bias in parts():
        collection.update(features=features, labels=labels, logits=logits, weight=weight, bias=bias)
    found = collection.compute()
    assert float(found["c_accuracy"]) == pytest.approx(float(found["right"]))


def test_two_in_a_collection_share_a_state():
    collection = torchmetrics.MetricCollection({name: CollapseMetric(K, DIM, prefix=f"{name}_") for name in "ab"})
    for batch in parts():
        collection.update(*batch)
    found = collection.compute()
    for name in "ab":
        assert_same({key[2:]: value for key, value in found.items() if key.startswith(name)}, expected())


def test_as_part_of_a_module():
    module = torch.nn.ModuleDict({"metric": CollapseMetric(K, DIM), "head": net()})
    before = hash(module["metric"])
    module["metric"].update(*parts()[0])
    assert hash(module["metric"]) == before and not any("metric" in name for name in module.state_dict())
    assert len(list(module.parameters())) == 4


def test_without_logits_or_classifier():
    metric = CollapseMetric(K, DIM)
    metric.update(*parts()[0][:2])
    found = metric.compute()
    assert "nc1" in found and not {"nc3", "risk", "accuracy"} & set(found)


def test_the_last_classifier_counts():
    first, *rest = parts()
    stale = (*first[:3], torch.ones(K, DIM), None)
    assert_same(filled([stale, *rest]).compute(), expected())
    other = filled([*parts(), (*rest[-1][:3], torch.ones(K, DIM) + torch.eye(K, DIM), None)]).compute()
    assert float(other["nc3"]) != pytest.approx(expected()["nc3"], rel=1e-3)


def test_few_kept_rows_change_only_what_needs_them():
    few, all_rows = filled(keep=5).compute(), filled().compute()
    same = set(few) - {"nc4", "ncm_accuracy"}
    assert_same({name: few[name] for name in same}, {name: all_rows[name] for name in same})


def statistics(batches, keep=7):
    found = CollapseStatistics(K, DIM, keep=keep)
    for batch in batches:
        found.update(*batch[:3])
    return found


@pytest.mark.parametrize("keep", [0, 7, 100])
def test_packing_is_exact_and_merges(keep):
    def empty():
        return CollapseStatistics(K, DIM, keep=keep)

    whole = statistics(parts(), keep)
    again = unpack(pack(whole), empty())
    assert torch.equal(pack(again), pack(whole))
    assert again.has_logits is True and again.count == 45
    packed = torch.stack([pack(statistics(parts()[i::2], keep)) for i in range(2)] + [pack(empty())])
    for order in ([0, 1, 2], [2, 1, 0]):
        merged = unpack(merge_packed(packed[order], empty()), empty())
        torch.testing.assert_close(merged.scatter, whole.scatter)
        torch.testing.assert_close(merged.means, whole.means)
        kept, wanted = (s.kept.rows() for s in (merged, whole))
        order_kept, order_wanted = kept.hashes.argsort(), wanted.hashes.argsort()
        for found, right in zip(kept.pick(order_kept), wanted.pick(order_wanted), strict=True):
            assert torch.equal(found, right)
    # Adding the vectors, as for sums, is wrong: the means move.
    added = unpack(packed.sum(0), empty())
    assert not torch.allclose(added.means, whole.means)


def test_no_global_random_state():
    state = torch.get_rng_state()
    filled().compute()
    assert torch.equal(torch.get_rng_state(), state)


def test_wrong_use():
    with pytest.raises(UsageError, match="num_classes must be"):
        CollapseMetric(0, DIM)
    metric = CollapseMetric(K, DIM)
    features, labels, logits, _, _ = parts()[0]
    with pytest.raises(
        UsageError, match=r"weight and bias must have shapes \(3, 6\) and \(3,\), got \(3, 5\) and None"
    ):
        metric.update(features, labels, logits, torch.zeros(K, 5))
    assert metric._statistics.count == 0
    with pytest.raises(UsageError, match="features must be floating of shape"):
        metric.update(features[:, 1:], labels)
    with pytest.raises(InputError, match="label 9 is out of range"):
        metric.update(features, labels * 0 + 9, logits)
