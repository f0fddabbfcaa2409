"""Log the spectrum and the step-size margin of each layer while a network trains.

A monitor only reads: it copies some patches on the steps that it logs, draws from random generators
of its own, and leaves the training as it is, to the last bit. What it cannot do it says once, in a
warning; it never ends the training.
"""

from __future__ import annotations

import os
import time
import warnings
import weakref
from collections.abc import Iterable
from dataclasses import fields
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.hooks import RemovableHandle

from cnnbridge import _checks
from cnnbridge.layers.isolation import check_eager, unchanged
from cnnbridge.monitor.files import Scalars, Table
from cnnbridge.monitor.reading import LayerReading, Rates, bias_learns, pooled, reading
from cnnbridge.monitor.trackers import Tracker
from cnnbridge.monitor.watched import WatchedLayer, chosen_layers
from cnnbridge.statistics.reader import ReadSpectrum, gram, spectrum_of

# readings vary in cost, most on a shared machine
CAUTION = 1.25


class Monitor:
    """Log spectrum, margin and slowest modes of a model's layers during training.

    Parameters
    ----------
    model : the eager model that trains; wrapped in DistributedDataParallel or not.
    layers : names as in ``model.named_modules()``. By default every convolution and linear layer
        that computes what its class in ``torch.nn`` does; others are named in one warning.
    every : log each so many steps, from step 0. By default as often as ``overhead`` allows by the
        monitor's own clock, so that the logged steps differ from run to run; give a number for
        steps that do not.
    optimizer : where each layer's learning rate, momentum and weight decay are read.
    samples : patches for a layer at most, drawn uniformly from all passes of the step. A layer
        keeps no more than 64 MiB of them.
    overhead : share of the elapsed time that the default cadence may use.
    csv_path : file to append rows to, one line for each layer and logged step.
    tensorboard : a ``SummaryWriter``, or a directory for one (needs ``pip install tensorboard``).
    to : where else readings go: objects with ``write(readings)`` and ``close()``, as those of
        ``cnnbridge.monitor.trackers`` for Weights & Biases and MLflow.
    all_reduce : pool the patches of all processes of ``torch.distributed``; needs ``every``, since
        all of them have to log the same steps. Without it each process reads its own batches.
        Files are written by rank 0 only, either way.
    quiet : do not print ``report()`` on closing.

    Call ``step()`` after each optimizer step and before the scheduler's; ``close()`` at the end,
    or use the monitor as a context manager. A layer is read in training mode; if it met no pass in
    training mode (a network fine-tuned in eval mode), passes with gradients count. So a validation
    between two steps leaves no mark.

    A compiled model skips hooks: make the monitor on the model from before ``torch.compile``, and
    call ``probe(x)`` before each step for which ``due`` is true.

    Deep copies and saved files of the model are not watched, and a monitor that is dropped without
    ``close()`` takes its hooks along.

    Attributes
    ----------
    due : whether the next ``step()`` will log.
    history : list of LayerReading, by step and layer.

    Raises
    ------
    TypeError : model is not a module, or compiled or scripted; a named layer is neither a
        convolution nor linear.
    ValueError : no such layer; a number out of range; all_reduce without every.
    ImportError : a directory for TensorBoard, and it is not installed.

    Warns
    -----
    RuntimeWarning : once for each thing that a monitor cannot do: a layer that it leaves out by
        default or cannot read, a step in which it saw no layer, a file that can no longer be
        written.

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
    >>> [(r.step, r.layer) for r in monitor.history]
    [(0, '0'), (0, '2'), (2, '0'), (2, '2')]
    >>> monitor.latest["2"].taps  # with the constant one of the bias
    37
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Iterable[str] | None = None,
        every: int | None = None,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        samples: int = 512,
        overhead: float = 0.05,
        csv_path: str | os.PathLike[str] | None = None,
        tensorboard: Any = None,
        to: Iterable[Tracker] = (),
        all_reduce: bool = False,
        quiet: bool = False,
    ) -> None:
        self._model = check_eager(
            model, ", and call monitor.probe(inputs) before each step for which monitor.due is true"
        )
        chosen, left_out = chosen_layers(model, layers)
        self._every = None if every is None else _checks.count("every", every)
        samples = _checks.count("samples", samples)
        self._share = _checks.positive("overhead", overhead)
        self._all_reduce = _checks.flag("all_reduce", all_reduce)
        self._quiet = _checks.flag("quiet", quiet)
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
        self._layers = [
            WatchedLayer(name, layer, samples, index)
            for index, (name, layer) in enumerate(chosen.items())
        ]
        self.history: list[LayerReading] = []
        self._steps = 0
        self._readings = 0
        self._writes = not (dist.is_available() and dist.is_initialized() and dist.get_rank())
        self._files: dict[str, Tracker] = {}
        if csv_path is not None and self._writes:
            self._files["csv_path"] = Table(csv_path)
        if tensorboard is not None and self._writes:
            self._files["tensorboard"] = Scalars(tensorboard)
        for index, tracker in enumerate(to):
            if not isinstance(tracker, Tracker):
                raise TypeError(
                    f"to must hold objects with write and close; got {type(tracker).__name__}"
                )
            if self._writes:
                self._files[f"to[{index}]"] = tracker
        self._warned: set[str] = set()
        self._started = time.perf_counter()
        self._own_time = 0.0
        self._last = 0.0
        self._ended: float | None = None
        self._handles: list[RemovableHandle] = []
        self._finalizer = weakref.finalize(self, _remove, self._handles)
        self._finalizer.atexit = False
        if left_out:
            self._warn(
                "layers",
                f"a monitor leaves out layers that do not compute what their class in torch.nn "
                f"computes: {', '.join(left_out)}",
            )
        self._set_due(True)

    def step(self, lr: float | None = None) -> list[LayerReading]:
        """Count one optimizer step, and log it if it is due.

        Parameters
        ----------
        lr : learning rate of plain SGD, where there is no optimizer to read it from.

        Returns
        -------
        The new readings, one for each layer that this step used. Empty if the step was not due, or
        if it was and no layer was seen, as in compiled code; a warning then says so, once.

        Raises
        ------
        RuntimeError : the monitor is closed.
        TypeError, ValueError : lr is not a number, or negative.
        """
        if self._ended is not None:
            raise RuntimeError("step needs an open monitor; this one has been closed")
        rate = None if lr is None else _checks.nonnegative("lr", lr)
        readings = self._read(rate) if self.due else []
        self._steps += 1
        self._set_due(self._next_is_due())
        return readings

    @torch.no_grad()
    def probe(self, *inputs: Any, **options: Any) -> None:
        """Run the model once in eager mode for the monitor alone, before a step that is due.

        For models that train in compiled code. Parameters, buffers, gradients, flags and random
        states are as before afterwards. The pass counts as overhead.

        Parameters
        ----------
        inputs, options : what the model takes.

        Raises
        ------
        RuntimeError : the monitor is closed.
        """
        if self._ended is not None:
            raise RuntimeError("probe needs an open monitor; this one has been closed")
        begin, before = self._clock(), self._in_hooks()
        # a reading of this batch, not of earlier passes
        due = self.due
        self._forget()
        self._set_due(True)
        for watched in self._layers:
            watched.probing = True
        try:
            with unchanged(self._model):
                self._model(*inputs, **options)
        finally:
            for watched in self._layers:
                watched.probing = False
            self._set_due(due)
        if not due:
            self._forget()
        # the time in hooks is counted there
        cost = self._clock() - begin
        self._own_time += cost - (self._in_hooks() - before)
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
        return self._own_time + self._in_hooks()

    @property
    def overhead(self) -> float:
        """Time spent in the monitor over the rest of the time since it was made."""
        end = time.perf_counter() if self._ended is None else self._ended
        return self.spent / max(end - self._started - self.spent, 1e-12)

    def report(self) -> str:
        """One line with the number of readings and their cost, by the monitor's own clock."""
        count = self._readings
        cost = self.spent / count if count else 0.0
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
        self._forget()
        for file in self._files.values():
            file.close()
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
        """Hook the layers only for a step that is due: a layer with a hook takes longer."""
        self.due = due
        if due and not self._handles:
            self._handles += [watched.hook() for watched in self._layers]
        elif not due:
            _remove(self._handles)

    def _forget(self) -> None:
        for watched in self._layers:
            watched.reset()

    def _in_hooks(self) -> float:
        return sum(watched.spent for watched in self._layers)

    @torch.no_grad()
    def _read(self, lr: float | None) -> list[LayerReading]:
        begin = self._clock()
        if not self._all_reduce and all(watched.reader is None for watched in self._layers):
            self._warn(
                "step",
                f"step {self._steps} was to be logged, and no layer was used with gradients since "
                f"the step before: compiled code skips hooks, so call monitor.probe(inputs) before "
                f"a step for which monitor.due is true",
            )
        readings = []
        for watched in self._layers:
            try:
                new = self._layer(watched, lr)
            except Exception as error:
                watched.problem, new = error, None
            if watched.problem is not None:
                self._warn(watched.name, f"layer {watched.name!r} not read: {watched.problem}")
            if new is not None:
                readings.append(new)
        self._forget()
        self.history += readings
        self._readings += bool(readings)
        self._write(readings)
        cost = self._clock() - begin
        self._own_time += cost
        # a probe for this step has put its own cost there already
        self._last += cost
        return readings

    def _layer(self, watched: WatchedLayer, lr: float | None) -> LayerReading | None:
        layer, reader = watched.layer, watched.reader
        bias = bias_learns(self._optimizer, layer)
        finite = reader is None or reader.finite
        spectrum: ReadSpectrum | None = None
        # autocast would have the products in half precision
        with torch.autocast(layer.weight.device.type, enabled=False):
            if self._all_reduce and dist.is_initialized():
                spectrum, finite = self._pooled(watched, bias, finite)
                if spectrum is None and finite:
                    return None
            elif reader is None:
                return None
            elif finite:
                spectrum = reader.spectrum(bias=bias)
        rates = Rates.of(self._optimizer, layer) if lr is None else Rates(lr, known=True)
        return reading(self._steps, watched.name, layer, spectrum, rates=rates, bias=bias)

    def _pooled(
        self, watched: WatchedLayer, bias: bool, finite: bool
    ) -> tuple[ReadSpectrum | None, bool]:
        """From the patches of all processes, of which some may have none."""
        reader = watched.reader or watched.empty_reader()
        own = reader.patches(bias=bias) if finite else reader.patches(bias=bias)[..., :0]
        u, finite = pooled(own.double().to(watched.layer.weight.device), finite)
        if not finite or not u.shape[-1]:
            return None, finite
        matrices, products = gram(u, torch.float64)
        spectrum = spectrum_of(
            matrices, u, strongest=0, weakest=0, patches=u.shape[-1], products=products, exact=False
        )
        return spectrum, finite

    def _next_is_due(self) -> bool:
        if self._every is not None:
            return self._steps % self._every == 0
        # one more reading has to fit into the share, at the price of the last
        elapsed = time.perf_counter() - self._started - self.spent
        due = self.spent + CAUTION * self._last <= self._share * elapsed
        if due:
            self._last = 0.0
        return due

    def _clock(self) -> float:
        # synchronise first, so that queued training work is not billed to the monitor
        if self._layers[0].layer.weight.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _write(self, readings: list[LayerReading]) -> None:
        for argument, file in list(self._files.items()):
            try:
                file.write(readings)
            except Exception as error:
                del self._files[argument]
                self._warn(
                    argument,
                    f"{argument} can no longer be written ({error}); readings go on in "
                    f"monitor.history",
                )

    def _warn(self, what: str, sentence: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            warnings.warn(sentence, RuntimeWarning, stacklevel=3)


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
    handles.clear()
