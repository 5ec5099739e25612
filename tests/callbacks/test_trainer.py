"""The callback of transformers against the real Trainer, with a small model of its own kind."""

import pytest
import torch
from tests.callbacks.nets import K, assert_same, data, hooks, measured, net
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_utils import IntervalStrategy

from weyl.callbacks import CollapseTrainerCallback, scalars
from weyl.errors import UsageError


class Config(PretrainedConfig):
    model_type = "weyl-test"


class Model(PreTrainedModel):
    config_class = Config

    def __init__(self, config=None):
        super().__init__(config or Config(num_labels=K))
        self.net = net()
        self.fail_at = None
        self.calls = 0

    def forward(self, x=None, labels=None):
        self.calls += self.training
        if self.calls == self.fail_at:
            raise RuntimeError("stop")
        logits = self.net(x)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def rows(seed):
    return [{"x": x, "labels": int(y)} for x, y in zip(*data(seed=seed), strict=True)]


def trainer(tmp_path, model, *callbacks, log=False, **options):
    settings = {"learning_rate": 0.0, "num_train_epochs": 2, "report_to": "none", "save_strategy": "no"} | options
    run = Trainer(
        model,
        TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=10,
            per_device_eval_batch_size=10,
            use_cpu=True,
            disable_tqdm=True,
            logging_strategy="epoch",
            dataloader_pin_memory=False,
            **settings,
        ),
        train_dataset=rows(1),
        eval_dataset=rows(2),
        callbacks=list(callbacks),
    )
    if log:
        callbacks[0].log = run.log
    return run


@pytest.mark.parametrize("log", [False, True])
def test_training_and_evaluation_are_measured_apart(tmp_path, log):
    model, callback = Model(), CollapseTrainerCallback(K)
    run = trainer(tmp_path, model, callback, log=log, eval_strategy="epoch")
    run.train()
    train, evaluation = measured(model.net, *data(seed=1)), measured(model.net, *data(seed=2))
    assert_same(callback.latest["train"], train)
    assert_same(callback.latest["eval"], evaluation)
    assert callback.latest["train"].layer == "net.2"
    for expected, prefix in ((train, "collapse_"), (evaluation, "eval_collapse_")):
        lines = [line for line in run.state.log_history if f"{prefix}nc1" in line]
        assert [line["epoch"] for line in lines] == [1.0, 2.0]
        assert_same({name: lines[-1][name] for name in scalars(expected, prefix)}, scalars(expected, prefix))
    assert hooks(model) == 0 and model.training is False


def test_evaluation_and_prediction_alone(tmp_path):
    model, callback = Model(), CollapseTrainerCallback(K)
    run = trainer(tmp_path, model, callback)
    assert not any("collapse" in name for name in run.evaluate())
    with callback.watching(run.model):
        metrics = run.evaluate()
        assert hooks(model) == 2
        predicted = run.predict(rows(3)).metrics
    assert hooks(model) == 0
    assert_same(callback.latest["test"], measured(model.net, *data(seed=3)))
    expected = scalars(measured(model.net, *data(seed=2)), "eval_collapse_")
    assert_same({name: metrics[name] for name in expected}, expected)
    assert "test_collapse_nc1" in predicted


def test_a_metric_can_pick_the_best_model(tmp_path):
    model, callback = Model(), CollapseTrainerCallback(K)
    run = trainer(
        tmp_path,
        model,
        callback,
        learning_rate=0.05,
        eval_strategy="epoch",
        save_strategy="epoch",
        metric_for_best_model="collapse_nc1",
        greater_is_better=False,
    )
    run.train()
    values = [line["eval_collapse_nc1"] for line in run.state.log_history if "eval_collapse_nc1" in line]
    assert len(values) == 2 and run.state.best_metric == min(values)


def test_training_is_equal_to_the_last_bit(tmp_path):
    def trained(*callbacks):
        model = Model()
        trainer(tmp_path, model, *callbacks, learning_rate=0.05, eval_strategy="epoch").train()
        return list(model.parameters())

    assert all(torch.equal(a, b) for a, b in zip(trained(), trained(CollapseTrainerCallback(K)), strict=True))


def test_hooks_are_removed_after_an_exception(tmp_path):
    model, callback = Model(), CollapseTrainerCallback(K)
    model.fail_at = 3
    run = trainer(tmp_path, model, callback)
    with pytest.raises(RuntimeError, match="stop"), callback.watching(run.model):
        run.train()
    assert hooks(model) == 0
    # Without the block they stay, since Trainer says nothing, and the next training does not add any.
    model.calls = 0
    with pytest.raises(RuntimeError, match="stop"):
        run.train()
    assert hooks(model) == 2
    model.fail_at = None
    # What an evaluation that was cut off has left is not counted later.
    inputs, labels = data(seed=3)
    model.eval()(x=inputs, labels=labels)
    assert callback._tallies["eval"].count == 45
    run.args.eval_strategy = IntervalStrategy.EPOCH
    run.train()
    assert hooks(model) == 0
    assert_same(callback.latest["train"], measured(model.net, *data(seed=1)))
    expected = scalars(measured(model.net, *data(seed=2)), "eval_collapse_")
    lines = [line for line in run.state.log_history if "eval_collapse_nc1" in line]
    assert len(lines) == 2
    for line in lines:
        assert_same({name: line[name] for name in expected}, expected)


def test_withheld_labels_are_asked_for_and_can_be_given(tmp_path):
    callback = CollapseTrainerCallback(K)
    with pytest.raises(UsageError, match="the model was never called with labels="):
        trainer(tmp_path, Model(), callback, label_smoothing_factor=0.1, num_train_epochs=1).train()

    model, callback = Model(), CollapseTrainerCallback(K)

    def loss(outputs, labels, num_items_in_batch=None):
        callback.observe(labels)
        return nn.functional.cross_entropy(outputs["logits"], labels)

    run = trainer(tmp_path, model, callback, num_train_epochs=1)
    run.compute_loss_func = loss
    run.train()
    assert_same(callback.latest["train"], measured(model.net, *data(seed=1)))
    with pytest.raises(UsageError, match="nothing is watched"):
        callback.observe(data()[1])


def test_a_model_of_the_library(tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=2
        )
        model = BertForSequenceClassification(config)
    tokens = torch.randint(20, (24, 5), generator=torch.Generator().manual_seed(0))
    callback = CollapseTrainerCallback(2)
    run = trainer(tmp_path, model, callback, num_train_epochs=1, eval_strategy="epoch")
    run.train_dataset = run.eval_dataset = [{"input_ids": t, "labels": i % 2} for i, t in enumerate(tokens)]
    run.train()
    # The embedding of the two token types has two rows, too.
    assert callback.latest["train"].layer == callback.latest["eval"].layer == "classifier"
    assert callback.latest["eval"].samples == 24 and callback.latest["eval"].dim == 8
    model.eval()
    with torch.no_grad():
        right = model(tokens).logits.argmax(1) == torch.arange(24) % 2
    assert callback.latest["eval"].accuracy == pytest.approx(float(right.double().mean()))
