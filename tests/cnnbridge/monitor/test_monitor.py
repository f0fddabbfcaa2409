import copy
import csv
import doctest
import gc
import pickle
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from benchmarks import monitor_overhead
from cnnbridge import (
    LayerTask,
    Monitor,
    layer_problem,
    learning_rate_bounds,
    patch_autocorrelation,
)
from cnnbridge.layers.patches import taps_per_output
from cnnbridge.monitor.lightning import lightning_callback
from cnnbridge.monitor.reading import BOUND, steps_to_e
from cnnbridge.monitor.watched import WatchedLayer
from cnnbridge.results import LayerReading


class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.deep = nn.Conv2d(6, 4, 3, stride=2, groups=2, bias=False)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(4 * 3 * 3, 3)

    def forward(self, x):
        x = torch.relu_(self.bn(self.stem(x)))
        return self.head(self.drop(torch.relu_(self.deep(x))).flatten(1))


def batch(n=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, 8, 8, generator=generator)
    return x, torch.randint(3, (n,), generator=generator)


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9, **options})


def train(model, optimizer, steps, monitor=None, autocast=False, probe=None):
    for i in range(steps):
        x, target = batch(seed=i)
        if probe is not None and monitor.due:
            probe(x)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        if monitor is not None:
            monitor.step()
    return model


def everything(model):
    return {**model.state_dict(), **{f"grad {k}": p.grad for k, p in model.named_parameters()}}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def test_a_reading_is_what_the_theory_says_of_that_batch():
    model = Net()
    optimizer = sgd(model, weight_decay=0.01)
    inputs = {}
    for name in ("stem", "deep", "head"):
        model.get_submodule(name).register_forward_pre_hook(
            lambda m, args, name=name: inputs.__setitem__(name, args[0].detach().clone())
        )
    with Monitor(model, every=1, optimizer=optimizer, samples=10**6, quiet=True) as monitor:
        train(model, optimizer, 1, monitor)
    for name, x in inputs.items():
        layer, reading = model.get_submodule(name), monitor.latest[name]
        with_bias = layer.bias is not None
        R = patch_autocorrelation(x.double(), layer, bias=with_bias)
        values = torch.linalg.eigvalsh(R).flatten().sort().values.numpy()
        values = values[values > 1e-12 * values[-1]]
        assert reading.lambda_min == pytest.approx(values[0], rel=1e-9)
        assert reading.lambda_max == pytest.approx(values[-1], rel=1e-12)
        assert reading.spread == pytest.approx(values[-1] / values[0], rel=1e-9)
        p = values / values.sum()
        assert reading.effective_rank == pytest.approx(np.exp(-(p * np.log(p)).sum()))
        M = len(layer.weight)
        if name == "stem":
            y = layer(x).detach()
            problem = layer_problem(layer, x, y)
            bounds = learning_rate_bounds(problem, M, momentum=0.9, weight_decay=0.01)
            assert reading.lr_bound == pytest.approx(bounds.mean, rel=1e-12)
        assert reading.lr_bound == pytest.approx(2 * 1.9 / (2 * values[-1] / M + 0.01), rel=1e-12)
        assert reading.lr_over_bound == pytest.approx(0.1 / reading.lr_bound)
        slow = values[-(-len(values) // 10) - 1]
        pace = 0.1 * (2 * slow / M + 0.01)
        root = np.abs(np.roots([1, -(1.9 - pace), 0.9])).max()
        assert reading.slow_tenth_steps == pytest.approx(-1 / np.log(root), rel=1e-6)
        positions = {"stem": 64, "deep": 9, "head": 1}[name]
        assert reading.patches == 8 * positions
        assert reading.taps == taps_per_output(layer, bias=with_bias)


def test_a_sample_is_near_the_whole():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3))
    x = torch.randn(100, 2, 20, 20)
    readings = []
    for samples in (2000, 10**6):
        with Monitor(model, every=1, samples=samples, quiet=True) as monitor:
            model(x)
            (reading,) = monitor.step()
        readings.append(reading)
    part, whole = readings
    assert part.patches == 2000
    assert whole.patches == 100 * 18 * 18
    assert part.lambda_max == pytest.approx(whole.lambda_max, rel=0.3)
    assert part.lambda_min == pytest.approx(whole.lambda_min, rel=0.3)


def test_fewer_patches_than_taps():
    """The small product has the same eigenvalues as the large one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 4, 3))
    x = torch.randn(2, 8, 5, 5)
    with Monitor(model, every=1, quiet=True) as monitor:
        model(x)
        (reading,) = monitor.step()
    R = patch_autocorrelation(x.double(), model[0], bias=True)
    values = torch.linalg.eigvalsh(R).numpy()
    assert (reading.patches, reading.taps) == (18, 73)
    assert reading.lambda_max == pytest.approx(values[-1])
    assert reading.lambda_min == pytest.approx(values[-18], rel=1e-6)


@pytest.mark.parametrize("autocast", [False, True])
def test_training_is_the_same_to_the_last_bit(autocast):
    plain = Net()
    train(plain, sgd(plain, nesterov=True), 12, autocast=autocast)
    random = torch.get_rng_state()
    for every in (1, 3, None):
        model = Net()
        optimizer = sgd(model, nesterov=True)
        with Monitor(model, every=every, optimizer=optimizer, quiet=True) as monitor:
            train(model, optimizer, 12, monitor, autocast=autocast)
        assert_same(everything(plain), everything(model))
        assert torch.equal(torch.get_rng_state(), random)
        assert not any(m._forward_pre_hooks for m in model.modules())
        assert len(monitor.history) >= 2
        assert all(np.isfinite(r.lambda_max) for r in monitor.history)


def test_probe_leaves_no_trace_either():
    plain = Net()
    train(plain, sgd(plain), 7)
    random = torch.get_rng_state()
    model = Net()
    optimizer = sgd(model)
    with Monitor(model, every=2, optimizer=optimizer, quiet=True) as monitor:
        train(model, optimizer, 7, monitor, probe=monitor.probe)
    assert_same(everything(plain), everything(model))
    assert torch.equal(torch.get_rng_state(), random)
    assert [r.step for r in monitor.history if r.layer == "stem"] == [0, 2, 4, 6]


def test_a_compiled_model_is_probed():
    torch.compiler.reset()
    plain = Net()
    train(torch.compile(plain, backend="eager"), sgd(plain), 5)
    for late in (False, True):
        torch.compiler.reset()
        model = Net()
        optimizer = sgd(model)
        compiled = torch.compile(model, backend="eager")
        if late:
            # compiled before there was a hook
            with torch.no_grad():
                compiled.eval()(batch()[0])
            compiled.train()
        monitor = Monitor(model, every=2, optimizer=optimizer, quiet=True)
        torch.manual_seed(0)
        Net()
        train(compiled, optimizer, 5, monitor, probe=monitor.probe)
        monitor.close()
        assert_same(everything(plain), everything(model))
        assert len(monitor.history) == 9
        eager = Net()
        with Monitor(eager, every=2, optimizer=sgd(eager), quiet=True) as direct:
            train(eager, sgd(eager), 1, direct)
        assert monitor.history[0].lambda_max == direct.history[0].lambda_max


def test_compiled_code_without_a_probe_is_said_once():
    torch.compiler.reset()
    model = Net()
    compiled = torch.compile(model, backend="eager")
    with Monitor(model, every=1, quiet=True) as monitor:
        compiled(batch()[0])
        with pytest.warns(RuntimeWarning, match=r"compiled code skips hooks, so call monitor.prob"):
            assert monitor.step() == []
        # once
        compiled(batch()[0])
        assert monitor.step() == []
    for wrapped in (compiled, nn.Sequential(compiled)):
        with pytest.raises(TypeError, match=r"model must not be compiled, .* monitor.probe\(inp"):
            Monitor(wrapped)


def test_validation_between_steps_leaves_no_mark():
    readings = []
    for validate in (False, True):
        model = Net()
        with Monitor(model, every=1, quiet=True) as monitor:
            if validate:
                model.eval()(100 * batch(seed=7)[0])
                model.train()
            model(batch()[0])
            readings.append(monitor.step(lr=0.1))
    assert readings[0] == readings[1]


def test_layers_used_twice_and_accumulated_passes_are_pooled():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 2, 1))
    model.append(model[0])
    a, b = torch.randn(2, 2, 3, 3), torch.randn(4, 2, 3, 3)
    seen = []
    model[0].register_forward_pre_hook(lambda m, args: seen.append(args[0].detach()))
    with Monitor(model, ["0"], every=1, quiet=True) as monitor:
        model(a)
        model(b)
        (reading,) = monitor.step()
    R = patch_autocorrelation([x.double() for x in seen], model[0], bias=True)
    assert reading.patches == 12 * 9
    assert reading.lambda_max == pytest.approx(float(torch.linalg.eigvalsh(R)[-1]))


def test_numbers_that_have_left_the_range_are_readings_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3))
    with Monitor(model, every=1, quiet=True) as monitor:
        model(torch.full((2, 2, 8, 8), torch.inf))
        for reading in monitor.step(lr=0.1):
            assert np.isnan(reading.lambda_max)
            assert np.isnan(reading.lr_bound)
            assert np.isnan(reading.lr_over_bound)
        model(torch.zeros(2, 2, 8, 8))
        silent, constant = monitor.step(lr=0.1)
    # the constant tap alone, with two output channels
    assert silent.lambda_max == silent.lambda_min == pytest.approx(1)
    assert silent.lr_bound == pytest.approx(2)
    assert constant.lambda_max > 0
    model[0].bias = None
    with Monitor(model, ["0"], every=1, quiet=True) as monitor:
        model(torch.zeros(2, 2, 8, 8))
        (silent,) = monitor.step(lr=0.1)
    assert (silent.lambda_max, silent.lr_bound, silent.lr_over_bound) == (0, np.inf, 0)
    assert np.isnan(silent.lambda_min)
    # one mode: the bias of the first layer, everywhere the same
    assert constant.effective_rank == pytest.approx(1)
    assert constant.spread == pytest.approx(1)


def test_learning_rates_come_from_the_group_that_holds_the_layer():
    model = Net()
    groups = [
        {"params": model.stem.parameters(), "lr": 0.5},
        {"params": model.deep.parameters(), "lr": 0.25, "momentum": 0.5},
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    with Monitor(model, ["stem", "deep"], every=1, optimizer=optimizer, quiet=True) as monitor:
        model(batch()[0])
        stem, deep = monitor.step()
        assert (stem.lr, deep.lr) == (0.5, 0.25)
        model(batch()[0])
        assert [r.lr for r in monitor.step(lr=0.125)] == [0.125] * 2
    ratio = monitor.history[1].lr_bound / monitor.history[3].lr_bound
    assert 1.2 < ratio < 1.8


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
        lambda p: torch.optim.SGD(p, lr=0.1, maximize=True),
        lambda p: torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1),
    ],
)
def test_no_margin_is_claimed_where_the_theory_does_not_reach(make):
    model = Net()
    with Monitor(model, every=1, optimizer=make(model.parameters()), quiet=True) as monitor:
        model(batch()[0])
        for reading in monitor.step():
            assert np.isnan(reading.lr_over_bound)
            assert np.isnan(reading.slow_tenth_steps)
            assert np.isfinite(reading.lr_bound)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("pace", [1e-12, 1e-4, 0.01, 0.3, 1.0, 1.4, 1.9, 2.5, 3.9])
def test_steps_to_one_over_e_are_those_of_a_heavy_ball(pace, beta):
    steps = steps_to_e(pace, beta)
    roots = np.abs(np.roots([1, -(1 + beta - pace), beta])).max()
    if roots >= 1 and pace > 0.1:
        assert steps == np.inf
    elif pace == 1 and not beta:
        assert steps == 0
    elif pace < 1e-9:
        # the roots themselves have lost these digits
        assert steps == pytest.approx((1 - beta) / pace, rel=1e-6)
    else:
        assert steps == pytest.approx(-1 / np.log(roots), rel=1e-6)


def test_steps_to_one_over_e_at_the_ends():
    assert steps_to_e(0.0, 0.9) == np.inf
    assert np.isnan(steps_to_e(np.nan, 0.0))


def test_default_cadence_keeps_to_its_share(monkeypatch):
    """On a clock of our own: a reading costs 3, a step of training 1."""
    now = [0.0]
    # the class's own globals: a collector of doctests may have imported the module once more
    clock = types.SimpleNamespace(perf_counter=lambda: now[0])
    for function in (Monitor.__init__, WatchedLayer.hook):
        monkeypatch.setitem(function.__globals__, "time", clock)
    model = Net()
    read = Monitor._layer

    def slow(self, *args):
        now[0] += 1.0
        return read(self, *args)

    monkeypatch.setattr(Monitor, "_layer", slow)
    monitor = Monitor(model, overhead=0.1, quiet=True)
    for _ in range(200):
        model(batch()[0])
        now[0] += 1.0
        monitor.step()
        if len(monitor.history) > 3:
            assert monitor.overhead <= 0.1
    steps = sorted({r.step for r in monitor.history})
    assert steps == [0, 68, 98, 128, 158, 188]
    monitor.close()
    assert "readings of 3 layers in 200 steps, 3 s each" in monitor.report()


def test_layers_carry_a_hook_for_steps_that_are_due_only():
    model = Net()
    x, _ = batch()
    with Monitor(model, every=2, quiet=True) as monitor:
        for due in (True, False, True):
            assert monitor.due is due
            hooks = [len(m._forward_pre_hooks) for m in model.modules()]
            assert sum(hooks) == (3 if due else 0)
            model(x)
            monitor.step()
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert [r.step for r in monitor.history] == [0, 0, 0, 2, 2, 2]


def test_the_overhead_is_its_own_time(capsys):
    model = Net()
    with Monitor(model, every=1) as monitor:
        model(batch()[0])
        time.sleep(0.05)
        monitor.step()
        spent = monitor.spent
    assert spent > 0
    assert 0 < monitor.overhead < 1
    out = capsys.readouterr().out
    assert out.startswith("monitor: 1 readings of 3 layers in 1 steps, ")
    assert out.rstrip().endswith("% on top of the training")
    monitor.close()
    assert not capsys.readouterr().out


def test_as_a_dict_and_a_table(tmp_path):
    path = tmp_path / "new" / "monitor.csv"
    model = Net()
    for _ in range(2):
        # a second run appends
        with Monitor(model, every=2, csv_path=path, quiet=True) as monitor:
            train(model, sgd(model), 3, monitor)
    columns = monitor.as_dict()
    assert columns["layer"] == ["stem", "deep", "head"] * 2
    assert columns["step"] == [0, 0, 0, 2, 2, 2]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert list(rows[0]) == list(columns)
    for row, reading in zip(rows[6:], monitor.history, strict=True):
        assert float(row["lambda_max"]) == reading.lambda_max
    path.write_text("other,table\n")
    with pytest.raises(ValueError, match="csv_path must be a new file or one of a monitor; got"):
        Monitor(model, csv_path=path)


class Writer:
    def __init__(self, *where):
        self.where, self.rows, self.closed = where, [], False

    def add_scalar(self, tag, value, step):
        self.rows.append((tag, value, step))

    def close(self):
        self.closed = True


def test_to_tensorboard(monkeypatch, tmp_path):
    model = Net()
    made = []
    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = lambda where: made.append(Writer(where)) or made[-1]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    own = Writer()
    for target in (own, tmp_path):
        with Monitor(model, every=1, tensorboard=target, quiet=True) as monitor:
            model(batch()[0])
            monitor.step(lr=0.1)
    assert made[0].where == (str(tmp_path),)
    assert made[0].closed
    assert not own.closed
    assert ("stem/lambda_max", monitor.latest["stem"].lambda_max, 0) in made[0].rows
    assert len(own.rows) == 3 * 8
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"tensorboard must be installed .* pip install"):
        Monitor(model, tensorboard="runs")


class Callback:
    """The part of Lightning's class that the callback uses."""


def test_under_lightning(monkeypatch):
    root, package = types.ModuleType("lightning"), types.ModuleType("lightning.pytorch")
    package.Callback = Callback
    monkeypatch.setitem(sys.modules, "lightning", root)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", package)
    model = Net()
    optimizer = sgd(model)
    logged = []
    logger = types.SimpleNamespace(log_metrics=lambda m, step: logged.append((step, m)))
    trainer = types.SimpleNamespace(optimizers=[optimizer], loggers=[logger], global_step=0)
    callback = lightning_callback(every=2, quiet=True)
    assert isinstance(callback, Callback)
    callback.on_train_end(trainer, model)
    callback.on_train_start(trainer, model)
    other = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
    for _ in range(3):
        model(batch()[0])
        callback.on_before_optimizer_step(trainer, model, other)
        # Lightning passes its wrapper or the optimizer itself
        callback.on_before_optimizer_step(
            trainer, model, types.SimpleNamespace(optimizer=optimizer)
        )
        trainer.global_step += 1
    assert [step for step, _ in logged] == [0, 0, 0, 2, 2, 2]
    assert "stem/lr_over_bound" in logged[0][1]
    assert callback.monitor.latest["stem"].lr == 0.1
    callback.on_exception(trainer, model, RuntimeError())
    assert not model.stem._forward_pre_hooks


def test_lightning_is_optional(monkeypatch):
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="not installed: pip install lightning"):
        lightning_callback()


DISTRIBUTED = """
    import sys, torch, torch.distributed as dist
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel
    from cnnbridge import Monitor, patch_autocorrelation
    torch.set_num_threads(1)
    rank, store, table = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    x = torch.randn(7, 2, 6, 6)
    mine = x[:3] if rank == 0 else x[3:]
    plain, watched = (
        DistributedDataParallel(nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 1, 3)))
        for _ in range(2)
    )
    watched.load_state_dict(plain.state_dict())
    monitor = Monitor(watched, every=1, all_reduce=True, csv_path=table, quiet=True)
    first = watched.module[0].weight.detach().clone()
    for model in (plain, watched):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(mine).square().mean().backward()
            optimizer.step()
            if model is watched:
                monitor.step(lr=0.1)
    for a, b in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(a, b)
    reading = monitor.history[0]
    u = torch.nn.functional.unfold(x, 3).double()
    u = torch.cat([u, torch.ones_like(u[:, :1])], dim=1)
    R = torch.einsum("nap,nbp->ab", u, u) / (7 * 16)
    assert reading.patches == 7 * 16, reading
    assert abs(reading.lambda_max / float(torch.linalg.eigvalsh(R)[-1]) - 1) < 1e-6, reading
    own = Monitor(watched, ["module.0"], every=1, quiet=True)
    watched(mine)
    assert own.step()[0].patches == len(mine) * 16
    dist.destroy_process_group()
"""


def test_two_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(DISTRIBUTED))
    table = tmp_path / "monitor.csv"
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path / "store"), str(table)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
    # rank 0 alone writes: a header, two layers, two steps
    assert len(table.read_text().splitlines()) == 5


def test_the_bound_says_what_it_is():
    assert "no edge of the whole network" in BOUND
    assert set(LayerReading.__dataclass_fields__) >= {"lr_bound", "lr_over_bound"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "net"}, TypeError, "model must be a torch.nn.Module; got str"),
        ({"layers": ["conv"]}, ValueError, "layers must name layers of the model; got 'conv'; its"),
        ({"layers": ["bn"]}, TypeError, "must be a torch.nn.Conv.*; got BatchNorm2d"),
        ({"layers": "stem"}, TypeError, r"layers must be several names, as in \['stem'\]; got a"),
        ({"layers": []}, ValueError, "layers must name at least one layer, or be None"),
        ({"every": 0}, ValueError, "every must be at least 1; got 0"),
        ({"samples": 0}, ValueError, "samples must be at least 1; got 0"),
        ({"overhead": 0}, ValueError, "overhead must be positive; got 0"),
        ({"all_reduce": True}, ValueError, "every must be given with all_reduce=True"),
        ({"optimizer": "sgd"}, TypeError, "optimizer must be a torch.optim.Optimizer or None"),
        ({"tensorboard": 3}, TypeError, "tensorboard must be a SummaryWriter or a directory; got"),
        (
            {"model": nn.ReLU()},
            ValueError,
            "model must have a convolution or a linear layer",
        ),
    ],
)
def test_errors_of_construction(options, error, message):
    given = {"model": Net(), **options}
    with pytest.raises(error, match=message):
        Monitor(**given)
    if isinstance(given["model"], nn.Module):
        assert not any(m._forward_pre_hooks for m in given["model"].modules())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_scripted_model_is_refused():
    model = torch.jit.script(nn.Sequential(nn.Conv2d(1, 1, 1)))
    with pytest.raises(TypeError, match="model must not be scripted"):
        Monitor(model)


def test_errors_of_use():
    model = Net()
    monitor = Monitor(model, every=1, quiet=True)
    with pytest.raises(ValueError, match="lr must be zero or positive; got -1"):
        monitor.step(lr=-1)
    with pytest.warns(RuntimeWarning, match="step 0 was to be logged, and no layer was used"):
        assert monitor.step() == []
    monitor.close()
    with pytest.raises(RuntimeError, match="step needs an open monitor; this one has been closed"):
        monitor.step()
    with pytest.raises(RuntimeError, match="probe needs an open monitor; this one has been closed"):
        monitor.probe(batch()[0])


def test_a_copy_of_the_model_is_not_watched():
    model = Net()
    with Monitor(model, every=1, quiet=True) as monitor:
        other = copy.deepcopy(model)
        other(batch(seed=1)[0])
        with pytest.warns(RuntimeWarning, match="no layer was used"):
            monitor.step()
        model(batch()[0])
        other(batch(seed=1)[0])
        monitor.step()
    assert len(monitor.history) == 3
    assert monitor.latest["stem"].patches == 8 * 64


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda():
    host, device = Net(), Net().cuda()
    readings = []
    for model in (host, device):
        with Monitor(model, every=1, samples=10**6, quiet=True) as monitor:
            model(batch()[0].to(model.head.weight.device))
            readings.append(monitor.step(lr=0.1))
    for a, b in zip(*readings, strict=True):
        assert b.lambda_max == pytest.approx(a.lambda_max, rel=1e-3)
        assert b.effective_rank == pytest.approx(a.effective_rank, rel=1e-3)


def test_the_page_in_the_docs():
    torch.compiler.reset()
    page = Path(__file__).parents[3] / "docs" / "monitor.md"
    results = doctest.testfile(str(page), module_relative=False)
    assert results.attempted > 10
    assert results.failed == 0


def test_other_layers_than_convolutions_of_images():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ConvTranspose1d(4, 3, 2), nn.Linear(9, 5))
    x = torch.randn(6, 2, 10)
    with Monitor(model, ["0", "1", "2"], every=1, samples=10**6, quiet=True) as monitor:
        model(x)
        monitor.step()
        for name in ("0", "1", "2"):
            R = patch_autocorrelation(x.double(), model.double()[int(name)], bias=True)
            x = model[int(name)](x.double()).detach()
            largest = float(torch.linalg.eigvalsh(R)[-1])
            assert monitor.latest[name].lambda_max == pytest.approx(largest, rel=1e-5)
    ends = [(r.patches, r.taps) for r in monitor.history]
    assert ends == [(48, 7), (54, 9), (18, 10)]


def test_the_overhead_is_measured_on_request(capsys):
    monitor_overhead.main(["--batch", "2", "--steps", "2", "--size", "8", "--every", "2"])
    out = capsys.readouterr().out
    assert "batch 2, cpu: 1 readings of 21 layers in 2 steps" in out
    assert "s without a monitor" in out


def test_the_bound_is_where_training_really_diverges():
    """The bias learns, so its constant tap bounds the rate: weak input alone would allow 331."""
    torch.manual_seed(0)
    x, target = torch.randn(64, 3, 8, 8) * 0.1, torch.randn(64, 4, 6, 6)
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    bounds = []
    for optimizer in (sgd(model, momentum=0), torch.optim.SGD([model[0].weight], lr=0.1)):
        with Monitor(model, every=1, optimizer=optimizer, samples=10**6, quiet=True) as monitor:
            model(x)
            bounds.append(monitor.step()[0].lr_bound)
    problem = layer_problem(model[0], x, target)
    assert bounds[0] == pytest.approx(learning_rate_bounds(problem, 4).mean, rel=1e-6)
    assert bounds[0] == pytest.approx(LayerTask(model[0], x, target).edge().lr, rel=2e-3)
    # a bias that the optimizer does not hold stays where it is
    problem = layer_problem(model[0], x, target, bias=False)
    assert bounds[1] == pytest.approx(learning_rate_bounds(problem, 4).mean, rel=1e-6)
    assert bounds[1] > 300


def test_a_linear_layer_gives_as_many_rows_as_asked():
    torch.manual_seed(0)
    x = torch.randn(1024, 30) @ torch.randn(30, 30)
    model = nn.Sequential(nn.Linear(30, 4))
    for samples, rows in ((512, 512), (2048, 1024)):
        with Monitor(model, every=1, samples=samples, quiet=True) as monitor:
            model(x)
            (reading,) = monitor.step()
        assert reading.patches == rows
    R = patch_autocorrelation(x.double(), model[0], bias=True)
    values = torch.linalg.eigvalsh(R).numpy()
    shares = values / values.sum()
    assert reading.lambda_min == pytest.approx(values[0], rel=1e-6)
    assert reading.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_a_dropped_monitor_takes_its_hooks_along():
    model = Net()
    monitor = Monitor(model, every=1, quiet=True)
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == 3
    del monitor
    gc.collect()
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_passes_without_a_step_take_no_more_memory():
    model, (x, _) = Net(), batch()
    with Monitor(model, every=1, samples=100, quiet=True) as monitor:
        for _ in range(20):
            model(x)
        for watched in monitor._layers:
            assert len(watched.reader.patches()[0, 0]) <= 100
        assert monitor.step(lr=0.1)[0].patches == 100


def test_a_model_can_be_saved_while_a_reading_is_due(tmp_path):
    model, (x, _) = Net(), batch()
    with Monitor(model, every=1, quiet=True) as monitor:
        torch.save(model, tmp_path / "model.pt")
        assert monitor.due
    saved = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(saved.eval()(x), model.eval()(x))
    assert b"cnnbridge" not in pickle.dumps(saved.stem)


def test_files_that_can_no_longer_be_written_do_not_end_the_training(tmp_path):
    class Broken(Writer):
        def add_scalar(self, *_):
            raise OSError("disk full")

    model, folder = Net(), tmp_path / "runs"
    path = folder / "monitor.csv"
    with Monitor(model, every=1, csv_path=path, tensorboard=Broken(), quiet=True) as monitor:
        path.unlink()
        folder.rmdir()
        model(batch()[0])
        with pytest.warns(RuntimeWarning) as caught:
            assert len(monitor.step(lr=0.1)) == 3
        sentences = sorted(str(warning.message) for warning in caught)
        assert sentences[0].startswith("csv_path can no longer be written (")
        assert sentences[1].startswith("tensorboard can no longer be written (disk full)")
        model(batch()[0])
        monitor.step(lr=0.1)
    assert len(monitor.history) == 6


def test_a_network_fine_tuned_in_eval_mode_is_read():
    model = Net().eval()
    with Monitor(model, every=1, quiet=True) as monitor:
        with torch.no_grad():
            model(100 * batch(seed=7)[0])
        model(batch()[0])
        readings = monitor.step(lr=0.1)
    with Monitor(model, every=1, quiet=True) as monitor:
        model(batch()[0])
        again = monitor.step(lr=0.1)
    assert [r.lambda_max for r in readings] == [r.lambda_max for r in again]


class Padded(nn.Conv2d):
    def forward(self, x):
        return super().forward(nn.functional.pad(x, (1, 1, 1, 1)))


def test_layers_that_compute_something_else_are_left_out_by_name():
    model = nn.Sequential(Padded(2, 3, 3), nn.Conv2d(3, 2, 3))
    with pytest.warns(RuntimeWarning, match=r"leaves out layers .*: '0' \(Padded\)"):
        monitor = Monitor(model, every=1, quiet=True)
    with monitor:
        model(batch()[0])
        assert [r.layer for r in monitor.step(lr=0.1)] == ["1"]
    with pytest.raises(TypeError, match="layer '0' must compute what"):
        Monitor(model, ["0"])
    with pytest.raises(ValueError, match=r"got none but '0' \(Padded\), which compute something e"):
        Monitor(model[:1])


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "how",
    [
        torch.nn.utils.weight_norm,
        torch.nn.utils.spectral_norm,
        torch.nn.utils.parametrizations.weight_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
)
def test_a_computed_weight_has_a_rate_and_no_margin(how):
    model = Net()
    how(model.stem)
    with Monitor(model, ["stem"], every=1, optimizer=sgd(model), quiet=True) as monitor:
        model(batch()[0])
        (reading,) = monitor.step()
    assert reading.lr == 0.1
    assert np.isfinite(reading.lambda_max)
    assert np.isnan(reading.lr_over_bound)


def test_a_bias_that_learns_at_another_rate_has_no_margin():
    model = nn.Sequential(nn.Linear(3, 2))
    groups = [{"params": [model[0].weight]}, {"params": [model[0].bias], "lr": 0.5}]
    with Monitor(model, every=1, optimizer=torch.optim.SGD(groups, lr=0.1), quiet=True) as monitor:
        model(torch.randn(8, 3))
        (reading,) = monitor.step()
    assert reading.lr == 0.1
    assert np.isnan(reading.lr_over_bound)


def test_replicas_are_read_too():
    model = nn.Sequential(nn.Conv2d(2, 3, 3))
    x = batch()[0]
    with Monitor(model, every=1, samples=10**6, quiet=True) as monitor:
        for part in x.chunk(2):
            replica = model[0]._replicate_for_data_parallel()
            replica.weight, replica.bias = model[0].weight.clone(), model[0].bias.clone()
            replica(part)
        (reading,) = monitor.step(lr=0.1)
    R = patch_autocorrelation(x.double(), model[0], bias=True)
    assert reading.lambda_max == pytest.approx(float(torch.linalg.eigvalsh(R)[-1]))


def test_input_without_a_batch_axis():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(0), nn.Linear(108, 2))
    with Monitor(model, every=1, quiet=True) as monitor:
        model(batch()[0][0])
        assert [r.patches for r in monitor.step(lr=0.1)] == [36, 1]
