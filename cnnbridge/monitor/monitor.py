"""Watch the spectrum and the step-size margin of each layer while a network trains.

A monitor only reads: it copies a few inputs on the steps that it logs, draws from a random
generator of its own, and leaves the training as it is, to the last bit.
"""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.hooks import RemovableHandle

from adaptive.checks import Array
from cnnbridge import _checks
from cnnbridge.layers.isolation import check_eager, unchanged
from cnnbridge.layers.patches import taps_per_output, unfold_patches
from cnnbridge.monitor.reading import LayerReading, pooled, spectrum, steps_to_e

# more images than this add copying and little else: positions of one image are alike
IMAGES = 64
# of them unfolded at a time on a device, which may be large maps
DEVICE_IMAGES = 8
# a reading's price differs from the last one's, most of all on a machine that others use
CAUTION = 1.25


class Monitor:
    """Log spectrum, margin and slowest modes of a model's layers during training.

    Parameters
    ----------
    model : the eager model that trains; wrapped in DistributedDataParallel or not.
    layers : names as in ``model.named_modules()``; by default every convolution.
    every : log each so many steps, from step 0. By default as often as ``overhead`` allows by the
        monitor's own clock, so that the logged steps differ from run to run; give a number for
        steps that do not.
    optimizer : where each layer's learning rate, momentum and weight decay are read.
    samples : patches for a layer at most, spread over up to 64 images of the batch and drawn at
        random places, from a generator of the monitor's own.
    overhead : share of the elapsed time that the default cadence may use.
    csv_path : file to append rows to, one line for each layer and logged step.
    tensorboard : a ``SummaryWriter``, or a directory for one (needs ``pip install tensorboard``).
    all_reduce : pool the patches of all processes of ``torch.distributed``; needs ``every``, since
        all of them have to log the same steps. Without it each process reads its own batches.
        Files are written by rank 0 only, either way.
    quiet : do not print ``report()`` on closing.

    Call ``step()`` after each optimizer step and before the scheduler's; ``close()`` at the end,
    or use the monitor as a context manager. Layers are read in training mode only, so that a
    validation between two steps leaves no mark.

    A compiled model skips hooks: make the monitor on the model from before ``torch.compile``, and
    call ``probe(x)`` before each step for which ``due`` is true.

    Attributes
    ----------
    history : list of LayerReading, by step and layer.

    Raises
    ------
    TypeError : model is not a module, or compiled or scripted; a layer that is no convolution.
    ValueError : no such layer; a number out of range; all_reduce without every.
    ImportError : a directory for TensorBoard, and it is not installed.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    >>> sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    >>> with Monitor(model, every=2, optimizer=sgd, quiet=True) as monitor:
    ...     for _ in range(3):
    ...         loss = model(torch.randn(8, 1, 8, 8)).square().mean()
    ...         sgd.zero_grad()
    ...         loss.backward()
    ...         sgd.step()
    ...         new = monitor.step()
    >>> [(reading.step, reading.layer) for reading in monitor.history]
    [(0, '0'), (0, '2'), (2, '0'), (2, '2')]
    >>> monitor.latest["2"].taps
    36
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Iterable[str] | None = None,
        every: int | None = None,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        samples: int = 2048,
        overhead: float = 0.05,
        csv_path: str | os.PathLike[str] | None = None,
        tensorboard: Any = None,
        all_reduce: bool = False,
        quiet: bool = False,
    ) -> None:
        self._model = check_eager(
            model, ", and call monitor.probe(inputs) before each step for which monitor.due is true"
        )
        self._layers = _chosen(model, layers)
        self._every = None if every is None else _checks.count("every", every)
        self._samples = _checks.count("samples", samples)
        self._share = _checks.positive("overhead", overhead)
        if all_reduce and every is None:
            raise ValueError(
                "every must be given with all_reduce=True, since all processes have to log the "
                "same steps; got None"
            )
        if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"optimizer must be a torch.optim.Optimizer or None; got {type(optimizer).__name__}"
            )
        self._optimizer = optimizer
        self._all_reduce = all_reduce
        self._quiet = quiet
        self.history: list[LayerReading] = []
        self._steps = 0
        self._readings = 0
        self._seen: dict[str, list[torch.Tensor]] = {}
        self._generator = torch.Generator().manual_seed(0)
        self._writes = not (dist.is_available() and dist.is_initialized() and dist.get_rank())
        self._csv = None if csv_path is None or not self._writes else _table(Path(csv_path))
        self._owns_writer = isinstance(tensorboard, str | os.PathLike)
        self._writer = _writer(tensorboard) if self._writes else None
        self._started = time.perf_counter()
        self._spent = 0.0
        self._last = 0.0
        self._ended: float | None = None
        self._handles: list[RemovableHandle] = []
        self._set_due(True)

    def step(self, lr: float | None = None) -> list[LayerReading]:
        """Count one optimizer step, and log it if it is due.

        Parameters
        ----------
        lr : learning rate of plain SGD, where there is no optimizer to read it from.

        Returns
        -------
        The new readings, one for each layer that this step used; empty if the step was not due.

        Raises
        ------
        RuntimeError : the step was due and no layer was seen, as in compiled code; or the monitor
            is closed.
        """
        if self._ended is not None:
            raise RuntimeError("step needs an open monitor; this one has been closed")
        rate = None if lr is None else _checks.nonnegative("lr", lr)
        readings: list[LayerReading] = []
        if self.due:
            readings = self._read(rate)
        self._steps += 1
        self._set_due(self._next_is_due())
        return readings

    @torch.no_grad()
    def probe(self, *inputs: Any, **options: Any) -> None:
        """Run the model once in eager mode for the monitor alone, before a step that is due.

        For models that train in compiled code. Parameters, buffers, gradients, flags and torch's
        random state are as before afterwards. The pass counts as overhead.

        Parameters
        ----------
        inputs, options : what the model takes.

        Raises
        ------
        RuntimeError : the monitor is closed.
        """
        if self._ended is not None:
            raise RuntimeError("probe needs an open monitor; this one has been closed")
        begin = self._clock()
        # a reading of this batch, and not of what hooks may have caught of it before
        due = self.due
        self._seen = {}
        self._set_due(True)
        try:
            with unchanged(self._model):
                self._model(*inputs, **options)
        finally:
            self._set_due(due)
        if not due:
            self._seen = {}
        cost = self._clock() - begin
        self._spent += cost
        self._last += cost

    @property
    def latest(self) -> dict[str, LayerReading]:
        """The last reading of each layer, by name."""
        return {reading.layer: reading for reading in self.history}

    def as_dict(self) -> dict[str, list[Any]]:
        """The history by column, as a DataFrame or a CSV file would have it."""
        names = [column.name for column in fields(LayerReading)]
        return {name: [getattr(reading, name) for reading in self.history] for name in names}

    @property
    def spent(self) -> float:
        """Seconds spent in the monitor so far."""
        return self._spent

    @property
    def overhead(self) -> float:
        """Time spent in the monitor over the rest of the time since it was made."""
        end = time.perf_counter() if self._ended is None else self._ended
        return self._spent / max(end - self._started - self._spent, 1e-12)

    def report(self) -> str:
        """One line: what was read, and what it cost by the monitor's own clock."""
        count = self._readings
        cost = self._spent / count if count else 0.0
        return (
            f"monitor: {count} readings of {len(self._layers)} layers in {self._steps} steps, "
            f"{cost:.3g} s each, {100 * self.overhead:.2g} % on top of the training"
        )

    def close(self) -> None:
        """Remove the hooks, close the files, and print ``report()`` unless quiet; once."""
        if self._ended is not None:
            return
        self._ended = time.perf_counter()
        self._set_due(False)
        self._seen = {}
        if self._owns_writer and self._writer is not None:
            self._writer.close()
        if not self._quiet and self._writes:
            print(self.report())

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _set_due(self, due: bool) -> None:
        """Watch the layers for a step that is due only: a layer with a hook takes longer."""
        self.due = due
        if due and not self._handles:
            self._handles = [
                layer.register_forward_pre_hook(self._hook(name), with_kwargs=True)
                for name, layer in self._layers.items()
            ]
        elif not due:
            for handle in self._handles:
                handle.remove()
            self._handles = []

    def _hook(self, name: str) -> Any:
        def hook(layer: nn.Module, args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
            # traced code must not depend on us: there the reading is left to probe
            if torch.compiler.is_compiling() or not layer.training:
                return
            # a deep copy of the model, such as a moving average, carries the hook along
            if layer is not self._layers[name]:
                return
            x = args[0] if args else options.get("input")
            if not isinstance(x, torch.Tensor) or not len(x):
                return
            begin = time.perf_counter()
            count = min(len(x), IMAGES)
            rows = torch.linspace(0, len(x) - 1, count).round().long().to(x.device)
            # a copy in any case: later layers may write into the tensor
            self._seen.setdefault(name, []).append(x.detach()[rows])
            self._spent += time.perf_counter() - begin

        return hook

    @torch.no_grad()
    def _read(self, lr: float | None) -> list[LayerReading]:
        if not self._seen and not self._all_reduce:
            raise RuntimeError(
                f"step {self._steps} was to be logged, and no layer was used in training mode "
                "since the step before: compiled code skips hooks, so call monitor.probe(inputs) "
                "before a step for which monitor.due is true; a model in eval mode is not read"
            )
        begin = self._clock()
        readings = []
        for name, layer in self._layers.items():
            reading = self._layer(name, layer, lr)
            if reading is not None:
                readings.append(reading)
        self._seen = {}
        self.history += readings
        self._readings += 1
        self._write(readings)
        cost = self._clock() - begin
        self._spent += cost
        # a probe for this step has put its own cost there already
        self._last += cost
        return readings

    def _layer(self, name: str, layer: Any, lr: float | None) -> LayerReading | None:
        calls = self._seen.get(name, [])
        device = layer.weight.device
        finite = all(bool(torch.isfinite(x).all()) for x in calls)
        # autocast would have the products in half precision
        with torch.autocast(device.type, enabled=False):
            u = self._patches(layer, calls if finite else [])
            if self._all_reduce and dist.is_initialized():
                u, finite = pooled(u, finite)
            if finite and not u.shape[-1]:
                return None
            values = spectrum(u) if finite else np.full(1, np.nan)
        return self._reading(name, layer, values, u.shape[2], lr)

    def _patches(self, layer: Any, calls: list[torch.Tensor]) -> torch.Tensor:
        """(groups, L, patches) float64, at most ``samples`` from all calls together."""
        L = taps_per_output(layer)
        columns = []
        images = sum(map(len, calls))
        for x in calls:
            # unfolding half precision is exact, but slow on a CPU
            wide = x if x.dtype == torch.float64 else x.float()
            # one by one they stay in a core's cache; a device would wait for every small call
            for some in wide.split(1 if wide.device.type == "cpu" else DEVICE_IMAGES):
                u = unfold_patches(some, layer)
                wanted = math.ceil(self._samples / images)
                if wanted < u.shape[-1]:
                    every = [
                        torch.randperm(u.shape[-1], generator=self._generator)[:wanted]
                        for _ in range(len(some))
                    ]
                    places = torch.stack(every)[:, None, None].to(u.device)
                    u = u.gather(3, places.expand(*u.shape[:3], -1))
                columns.append(u.permute(1, 2, 0, 3).flatten(2))
        if not columns:
            groups = getattr(layer, "groups", 1)
            return torch.zeros(groups, L, 0, dtype=torch.float64, device=layer.weight.device)
        return torch.cat(columns, dim=2)[..., : self._samples].double()

    def _reading(
        self, name: str, layer: Any, values: Array, patches: int, lr: float | None
    ) -> LayerReading:
        M = getattr(layer, "out_channels", None) or layer.out_features
        rate, beta, decay, known = self._settings(layer, lr)
        top = float(values.max())
        excited = values[values > 0]
        curvature = 2 * top / M + decay
        bound = 2 * (1 + beta) / curvature if curvature > 0 else float("inf")
        bound = float("nan") if math.isnan(top) else bound
        slow, low = float("nan"), float("nan")
        if excited.size:
            low = float(excited[0])
            edge = excited[math.ceil(excited.size / 10) - 1]
            slow = steps_to_e(rate * (2 * float(edge) / M + decay), beta) if known else slow
        shares = excited / excited.sum()
        return LayerReading(
            step=self._steps,
            layer=name,
            lambda_min=low,
            lambda_max=top,
            spread=top / low,
            effective_rank=float(np.exp(-(shares * np.log(shares)).sum()))
            if excited.size
            else float("nan"),
            lr=rate,
            lr_bound=bound,
            lr_over_bound=rate / bound if known else float("nan"),
            slow_tenth_steps=slow,
            patches=patches,
            taps=taps_per_output(layer),
        )

    def _settings(self, layer: Any, lr: float | None) -> tuple[float, float, float, bool]:
        """lr, momentum, weight decay, and whether the theory covers this optimizer."""
        if lr is not None:
            return lr, 0.0, 0.0, True
        groups = [] if self._optimizer is None else self._optimizer.param_groups
        for group in groups:
            if any(p is layer.weight for p in group["params"]):
                rate = float(group["lr"])
                plain = isinstance(self._optimizer, torch.optim.SGD)
                plain = plain and not (group["nesterov"] or group["dampening"] or group["maximize"])
                if not plain:
                    return rate, 0.0, 0.0, False
                return rate, float(group["momentum"]), float(group["weight_decay"]), True
        return float("nan"), 0.0, 0.0, False

    def _next_is_due(self) -> bool:
        if self._every is not None:
            return self._steps % self._every == 0
        # one more reading has to fit into the share, at the price of the last
        elapsed = time.perf_counter() - self._started - self._spent
        due = self._spent + CAUTION * self._last <= self._share * elapsed
        if due:
            self._last = 0.0
        return due

    def _clock(self) -> float:
        # the device's queue is the training's time, not ours
        if next(iter(self._layers.values())).weight.is_cuda:  # type: ignore[union-attr]
            torch.cuda.synchronize()
        return time.perf_counter()

    def _write(self, readings: list[LayerReading]) -> None:
        if self._csv is not None:
            with self._csv.open("a", newline="") as file:
                csv.writer(file).writerows(list(asdict(r).values()) for r in readings)
        if self._writer is not None:
            for r in readings:
                for key, value in asdict(r).items():
                    if key not in ("step", "layer", "patches", "taps"):
                        self._writer.add_scalar(f"{r.layer}/{key}", value, r.step)


def _chosen(model: nn.Module, layers: Iterable[str] | None) -> dict[str, nn.Module]:
    modules = dict(model.named_modules())
    convs = [n for n, m in modules.items() if isinstance(m, nn.modules.conv._ConvNd)]
    if layers is None:
        names = convs
        if not names:
            raise ValueError("model must have a convolution to watch; got none: name the layers")
    elif isinstance(layers, str):
        raise TypeError(f"layers must be several names, as in [{layers!r}]; got a string")
    else:
        names = list(layers)
        if not names:
            raise ValueError("layers must name at least one layer, or be None for all; got none")
    for name in names:
        if name not in modules:
            raise ValueError(
                f"layers must name layers of the model; got {name!r}; "
                f"its convolutions are {', '.join(map(repr, convs)) or 'none'}"
            )
        # the one gate for what has patches; it names the kind
        taps_per_output(modules[name])  # type: ignore[arg-type]
    return {name: modules[name] for name in names}


def _table(path: Path) -> Path:
    """A CSV file with our header, new or of an earlier run."""
    header = [column.name for column in fields(LayerReading)]
    if path.exists() and path.stat().st_size:
        with path.open(newline="") as file:
            found = next(csv.reader(file), [])
        if found != header:
            raise ValueError(
                f"csv_path must be a new file or one of a monitor; got {path}, whose first line "
                f"is {','.join(found)!r}"
            )
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerow(header)
    return path


def _writer(target: Any) -> Any:
    if target is None or hasattr(target, "add_scalar"):
        return target
    if not isinstance(target, str | os.PathLike):
        raise TypeError(
            f"tensorboard must be a SummaryWriter or a directory; got {type(target).__name__}"
        )
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ImportError(
            "tensorboard must be installed to write to a directory: pip install tensorboard"
        ) from None
    return SummaryWriter(str(target))  # type: ignore[no-untyped-call]
