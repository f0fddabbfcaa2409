"""Readings sent to the tools that people log to: stand-ins always, the packages where they are."""

import doctest
import os
import sys
import types

import pytest
import torch
from torch import nn

from cnnbridge import Monitor
from cnnbridge.monitor import trackers
from cnnbridge.monitor.huggingface import trainer_callback
from cnnbridge.monitor.trackers import MLflowRun, WandbRun, metrics


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def watched(*to, steps=3, every=2):
    net = model()
    with Monitor(net, every=every, to=to, quiet=True) as monitor:
        for _ in range(steps):
            net(torch.randn(8, 1, 6, 6))
            monitor.step(lr=0.1)
    return monitor


class Run:
    """The part of a W&B run that is used."""

    def __init__(self):
        self.rows, self.axes = [], {}

    def log(self, row):
        self.rows.append(row)

    def define_metric(self, name, step_metric):
        assert name not in self.axes
        self.axes[name] = step_metric


def test_examples():
    assert doctest.testmod(trackers).failed == 0


def test_wandb_gets_its_own_axis():
    run = Run()
    monitor = watched(WandbRun(run))
    assert [row["monitor_step"] for row in run.rows] == [0, 2]
    assert run.axes == {"0/*": "monitor_step", "3/*": "monitor_step"}
    assert run.rows[-1]["3/lambda_max"] == monitor.latest["3"].lambda_max


def test_mlflow_gets_the_step(monkeypatch):
    logged = []
    fake = types.ModuleType("mlflow")
    fake.log_metrics = lambda row, step, run_id: logged.append((row, step, run_id))
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monitor = watched(MLflowRun("abc"))
    assert [(step, run_id) for _, step, run_id in logged] == [(0, "abc"), (2, "abc")]
    assert logged[-1][0]["0/lr_over_bound"] == monitor.latest["0"].lr_over_bound


def test_a_tracker_that_fails_does_not_end_the_training():
    class Broken:
        def write(self, readings):
            raise OSError("no space left")

        def close(self):
            raise AssertionError("it was let go")

    with pytest.warns(RuntimeWarning, match=r"to\[0\] can no longer be written \(no space left\)"):
        monitor = watched(Broken())
    assert len(monitor.history) == 4


def test_what_is_no_tracker_is_refused(monkeypatch):
    with pytest.raises(TypeError, match="to must hold objects with write and close; got str"):
        Monitor(model(), to=["wandb"])
    with pytest.raises(TypeError, match=r"run must be what wandb.init\(\) returned; got str"):
        WandbRun("project")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ImportError, match="not installed: pip install mlflow-skinny"):
        MLflowRun()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="not installed: pip install transformers"):
        trainer_callback()


class TrainerCallback:
    """The part of transformers' class that is used."""


def drive(callback, net, optimizer):
    """Call a callback as Trainer does."""
    given = {"model": net, "optimizer": optimizer}
    callback.on_optimizer_step(None, None, None, **given)
    callback.on_train_end(None, None, None, **given)
    callback.on_train_begin(None, None, None, **given)
    for _ in range(3):
        net(torch.randn(8, 1, 6, 6))
        callback.on_optimizer_step(None, None, None, **given)
    callback.on_train_end(None, None, None, **given)


@pytest.mark.parametrize("wrapped", [False, True])
def test_under_the_trainer_of_hugging_face(wrapped, monkeypatch):
    fake = types.ModuleType("transformers")
    fake.TrainerCallback = TrainerCallback
    monkeypatch.setitem(sys.modules, "transformers", fake)
    net = model()
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    callback = trainer_callback(every=2, quiet=True)
    assert isinstance(callback, TrainerCallback)
    drive(callback, net, types.SimpleNamespace(optimizer=sgd) if wrapped else sgd)
    assert [r.step for r in callback.monitor.history] == [0, 0, 2, 2]
    assert callback.readings == metrics(callback.monitor.latest.values())
    assert callback.monitor.latest["0"].lr == 0.1
    assert not net[0]._forward_pre_hooks


@pytest.mark.filterwarnings("ignore")
def test_the_real_mlflow(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(f"file://{tmp_path}")
    try:
        mlflow.set_experiment("test")
        with mlflow.start_run() as run:
            monitor = watched(MLflowRun())
        history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "0/lambda_max")
    finally:
        mlflow.set_tracking_uri(None)
    wanted = [(r.step, r.lambda_max) for r in monitor.history if r.layer == "0"]
    assert [(m.step, m.value) for m in history] == wanted


@pytest.mark.filterwarnings("ignore")
def test_the_real_wandb(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setitem(os.environ, "WANDB_SILENT", "true")
    with wandb.init(mode="offline", dir=tmp_path, project="test") as run:
        monitor = watched(WandbRun(run))
        assert run.summary["monitor_step"] == 2
        assert run.summary["0/lambda_max"] == pytest.approx(monitor.latest["0"].lambda_max)


@pytest.mark.filterwarnings("ignore")
def test_the_real_trainer(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = model()

        def forward(self, x, labels):
            z = self.body(x)
            return {"loss": nn.functional.cross_entropy(z, labels), "logits": z}

    data = [{"x": torch.randn(1, 6, 6), "labels": torch.tensor(i % 3)} for i in range(24)]
    net = Net()
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    callback = trainer_callback(every=2, quiet=True)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        num_train_epochs=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    constant = torch.optim.lr_scheduler.LambdaLR(sgd, lambda step: 1.0)
    trainer = transformers.Trainer(
        net, arguments, train_dataset=data, optimizers=(sgd, constant), callbacks=[callback]
    )
    trainer.train()
    steps = [r.step for r in callback.monitor.history if r.layer == "body.0"]
    assert steps == [0, 2]
    assert callback.monitor.latest["body.0"].lr == 0.1
    # both passes of an accumulated step
    assert callback.monitor.latest["body.3"].patches == 8
