"""The Lightning callback against the real trainer."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tests.callbacks.nets import K, assert_same, data, hooks, measured, net
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from weyl.callbacks import CollapseCallback, scalars
from weyl.errors import UsageError

# Lightning's own advice for small machines and small loaders is not for these tests.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
    # It calls a name of torch that is on its way out.
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning"),
]


class Module(pl.LightningModule):
    def __init__(self, rate=0.0, mapping=False, fail_at=None):
        super().__init__()
        self.net = net()
        self.rate, self.mapping, self.fail_at = rate, mapping, fail_at
        self.modes = []

    def loss(self, batch):
        x, y = (batch["x"], batch["label"]) if self.mapping else batch
        return nn.functional.cross_entropy(self.net(x), y)

    def training_step(self, batch, index):
        if self.fail_at == (self.current_epoch, index):
            raise RuntimeError("stop")
        self.modes.append(all(m.training for m in self.net.modules()))
        return self.loss(batch)

    def validation_step(self, batch, index):
        self.loss(batch)

    def test_step(self, batch, index):
        self.loss(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate)


def loader(seed, mapping=False):
    inputs, labels = data(seed=seed)
    rows = (
        [{"x": x, "label": y} for x, y in zip(inputs, labels, strict=True)]
        if mapping
        else TensorDataset(inputs, labels)
    )
    return DataLoader(rows, batch_size=10)


def trainer(tmp_path, *callbacks, epochs=2, **options):
    settings = {"logger": False, "enable_checkpointing": False} | options
    return pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **settings,
    )


def test_training_and_validation_are_measured_apart(tmp_path):
    module, callback = Module(rate=0.0), CollapseCallback(K)

    class Sane(pl.Callback):
        def on_sanity_check_end(self, trainer, pl_module):
            sane.append((dict(callback.latest), hooks(module)))

    sane = []
    run = trainer(tmp_path, callback, Sane())
    run.fit(module, loader(1), loader(2))
    assert sane == [({}, 0)]
    for stage, seed in (("train", 1), ("val", 2)):
        expected = measured(module.net, *data(seed=seed))
        assert_same(callback.latest[stage], expected)
        assert callback.latest[stage].layer == "net.2"
        for name, value in scalars(expected, f"collapse/{stage}/").items():
            assert float(run.callback_metrics[name]) == pytest.approx(value, rel=1e-5, abs=1e-6)
    assert hooks(module) == 0 and all(module.modes)


def test_test_stage_and_validation_alone(tmp_path):
    module, callback = Module(), CollapseCallback(K, "net.2", stages=["val", "test"])
    run = trainer(tmp_path, callback)
    run.validate(module, loader(2), verbose=False)
    run.test(module, loader(3), verbose=False)
    assert_same(callback.latest["val"], measured(module.net, *data(seed=2)))
    assert_same(callback.latest["test"], measured(module.net, *data(seed=3)))
    assert hooks(module) == 0


def test_validation_in_the_middle_of_an_epoch_does_not_mix(tmp_path):
    module, callback = Module(rate=0.0), CollapseCallback(K)
    trainer(tmp_path, callback, epochs=1, val_check_interval=2).fit(module, loader(1), loader(2))
    assert_same(callback.latest["train"], measured(module.net, *data(seed=1)))
    assert_same(callback.latest["val"], measured(module.net, *data(seed=2)))


def test_training_is_equal_to_the_last_bit(tmp_path):
    def trained(*callbacks):
        module = Module(rate=0.1)
        trainer(tmp_path, *callbacks).fit(module, loader(1), loader(2))
        return list(module.parameters())

    assert all(torch.equal(a, b) for a, b in zip(trained(), trained(CollapseCallback(K)), strict=True))


def test_hooks_are_removed_after_an_exception(tmp_path):
    module, callback = Module(fail_at=(1, 2)), CollapseCallback(K)
    with pytest.raises(RuntimeError, match="stop"):
        trainer(tmp_path, callback).fit(module, loader(1), loader(2))
    assert callback.latest and hooks(module) == 0
    module.fail_at = None
    trainer(tmp_path, callback, epochs=1).fit(module, loader(1), loader(2))
    assert_same(callback.latest["train"], measured(module.net, *data(seed=1)))


def test_scalars_reach_loggers_and_checkpoints(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="log", version=0)
    best = ModelCheckpoint(tmp_path / "best", monitor="collapse/val/nc1")
    module, callback = Module(rate=0.1), CollapseCallback(K, every=2)
    trainer(tmp_path, callback, best, logger=logger, enable_checkpointing=True).fit(module, loader(1), loader(2))
    logger.finalize("success")
    assert best.best_model_path and float(best.best_model_score) > 0
    events = EventAccumulator(logger.log_dir).Reload()
    assert {"collapse/train/nc1", "collapse/val/nc2"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("collapse/train/nc1")) == 2


def test_labels_of_a_mapping_or_by_a_function(tmp_path):
    module, callback = Module(mapping=True), CollapseCallback(K)
    trainer(tmp_path, callback, epochs=1).fit(module, loader(1, mapping=True), loader(2, mapping=True))
    assert_same(callback.latest["train"], measured(module.net, *data(seed=1)))
    flipped = CollapseCallback(K, labels=lambda batch: K - 1 - batch[1])
    trainer(tmp_path, flipped, epochs=1).fit(Module(), loader(1), loader(2))
    inputs, labels = data(seed=1)
    assert_same(flipped.latest["train"], measured(module.net, inputs, K - 1 - labels))


def test_wrong_use(tmp_path):
    for stages in ("train", [], ["fit"]):
        with pytest.raises(UsageError, match="stages must be some of train, val, test"):
            CollapseCallback(K, stages=stages)
    module = Module()
    with pytest.raises(UsageError, match="Module has no module with a weight of shape"):
        trainer(tmp_path, CollapseCallback(9)).fit(module, loader(1), loader(2))
    with pytest.raises(UsageError, match="no labels found in a mapping of a, b; pass labels="):
        trainer(tmp_path, CollapseCallback(K, labels=lambda batch: find({"a": 1, "b": 2}))).fit(
            module, loader(1), loader(2)
        )
    assert hooks(module) == 0


def find(batch):
    from weyl.callbacks._lightning import find_labels

    return find_labels(batch)
