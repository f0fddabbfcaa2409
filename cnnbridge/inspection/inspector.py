"""``inspect``: all layers of a network in one pass over the batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adaptive.checks import choice, instance, items
from cnnbridge import _checks
from cnnbridge.inspection.budget import Budget
from cnnbridge.inspection.closely import looked_at_closely
from cnnbridge.inspection.curvature import along_modes, sharpest
from cnnbridge.inspection.layers import layer_record
from cnnbridge.inspection.models import Pass, batches_of, built, eager, run_eagerly
from cnnbridge.inspection.record import Inspection, LayerInspection, Sharpness
from cnnbridge.inspection.resuming import Kept, fingerprint
from cnnbridge.inspection.warnings import warnings_of
from cnnbridge.inspection.watching import Readers, Watched
from cnnbridge.layers.isolation import same_random_state, unchanged
from cnnbridge.learning.batch_loss import Loss, placed, rows
from cnnbridge.learning.degree import degree
from cnnbridge.learning.sgd import SGD

__all__ = ["inspect"]

# what is reported while it runs: a sentence, and the seconds since the beginning
Progress = Callable[[str, float], object]
PARTS = ("curvature", "sharpness", "degree")
# part of the budget that reading batches may take
READING = 0.5


def inspect(
    model: nn.Module,
    loader: Any,
    *,
    loss: Loss = None,
    optimizer: torch.optim.Optimizer | SGD | float | None = None,
    lr: float | None = None,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    layers: Sequence[str] | None = None,
    samples: int = 1024,
    parts: Sequence[str] = ("curvature",),
    closely: Sequence[str] = (),
    budget: str | float | None = None,
    progress: Progress | None = None,
    keep: str | Path | None = None,
    seed: int = 0,
) -> Inspection:
    """Look at every convolution and linear layer of a network: modes, spectra, bounds, times.

    The batches go through the model once, forward only, in the mode (train or eval) that it is in.
    On leaving, by an exception too, the model is as it was, bit for bit: weights, buffers,
    gradients, hooks and random state.

    Parameters
    ----------
    model : any module. Of a compiled one the eager original is read, of one in DataParallel its
        module; a lazy one is built on a copy.
    loader : batches, one by one: tuples (input, ..., target), dicts or tensors. A tuple or a dict
        is one batch.
    loss : as in ``NetworkTask``: a torch loss, a function of (output, target) or of (model, batch),
        or None. With None a dict enters the model as keywords, and a tuple without its last item.
    optimizer : whose rates the network is trained at: a ``torch.optim.SGD``, also with parameter
        groups of different rates, an ``SGD`` or a learning rate. Other optimizers of torch are
        accepted, but no time constants follow from them.
    lr, momentum, weight_decay : the same as numbers, instead of optimizer.
    layers : names of the layers to look at, with * and ? as in a shell; all by default.
    samples : patches to keep for a layer with too many taps, or too few patches, to read exactly.
    parts : what to look at besides the inputs, on the first batch: "curvature" of the loss along
        the modes of all layers, "sharpness" of the loss over all weights, and the homogeneity
        "degree". They need the loss, and a copy of the model.
    closely : layers, by name or pattern, for which to find the largest eigenvalue of their block of
        the Gauss-Newton matrix, the spectrum with each part of a normalization in front, and how
        long a prediction of its training holds. Minutes for a large layer.
    budget : seconds, or a text such as "2m" or "12 steps". What does not fit is named in
        ``skipped``.
    progress : called with a sentence and the seconds so far.
    keep : folder to save the inspection in, as ``Inspection.save``. After an exception or Ctrl-C it
        holds the spectra and parts that were finished. A later call with the same weights,
        settings and first batch takes these from there, also what an earlier budget had room for.
    seed : of the sampled patches.

    Returns
    -------
    Inspection.

    Raises
    ------
    TypeError : model is no module, or scripted or quantized; an argument is of the wrong kind.
    ValueError : a number is out of range; no batch, or one with NaN, or that the model or the loss
        cannot take; the model has no layer to read, or none of that name.
    MemoryError : a batch needs more memory than the device has.
    ModuleNotFoundError, OSError : the inspection cannot be saved in ``keep``.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))
    >>> loader = [(torch.randn(32, 1, 8, 8), torch.randint(3, (32,))) for _ in range(3)]
    >>> found = inspect(model, loader, loss=nn.CrossEntropyLoss(), lr=0.1)
    >>> list(found), found["0"].strongest.shape, found["0"].seen
    (['0', '3'], (1, 4, 1, 3, 3), 3456)
    """
    limit = Budget(budget)
    rates = _Rates(optimizer, lr, momentum, weight_decay)
    _checks.count("samples", samples)
    _checks.seed("seed", seed)
    if progress is not None:
        _checks.function("progress", progress)
    wanted = _parts(parts)
    closely = [instance("closely", name, str) for name in items("closely", closely, "names")]
    if layers is not None:
        layers = [instance("layers", name, str) for name in items("layers", layers, "names")]
    folder = _folder(keep)
    plain, notes = eager(model)
    run = Pass(loss)

    def report(sentence: str) -> None:
        if progress is not None:
            progress(sentence, limit.spent)

    # what changes no number of a layer is left out: parts, closely, budget
    settings = (rates.sgd, layers, samples, seed, _described(loss))
    # a loader that shuffles draws random numbers, too
    with run_eagerly(plain), same_random_state():
        reading = _read(
            plain, loader, run, limit, report, (layers, samples, seed, settings, folder)
        )
    reading.notes = (*notes, *reading.notes, *rates.notes)
    work = _Work(reading, run, rates.sgd, limit, report)
    work.seconds["reading"] = limit.spent
    try:
        with work.timed("spectra"):
            work.decompose(rates)
        with same_random_state():
            work.look(wanted, rates, seed)
            work.look_closely(closely)
    except BaseException:
        if folder is not None and work.found:
            work.save(folder)
        raise
    return work.inspection() if folder is None else work.save(folder)


def _folder(keep: str | Path | None) -> Path | None:
    if keep is not None and not isinstance(keep, str | Path):
        raise TypeError(f"keep must be the path of a folder; got {type(keep).__name__}")
    return None if keep is None else Path(keep)


def _described(loss: Loss) -> str:
    """The loss in words that are the same in every process."""
    if loss is None or isinstance(loss, nn.Module):
        return repr(loss)
    named = loss if hasattr(loss, "__qualname__") else type(loss)
    return f"{named.__module__}.{named.__qualname__}"


def _parts(parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(choice("parts", part, PARTS) for part in items("parts", parts, "names"))


class _Work:
    """What is found after the reading, part by part, as far as the budget goes."""

    def __init__(
        self,
        reading: _Reading,
        run: Pass,
        sgd: SGD | None,
        limit: Budget,
        report: Callable[[str], None],
    ) -> None:
        self.found: dict[str, LayerInspection] = {}
        self.skipped = dict(reading.readers.skipped)
        self.seconds: dict[str, float] = {}
        self.sharpness: Sharpness | None = None
        self.degree: str | None = None
        self._reading, self._run, self._limit, self._report = reading, run, limit, report
        self._sgd = sgd
        # parts that came to their end, with what each added to ``skipped``
        self._done: dict[str, dict[str, str]] = {}

    def inspection(self) -> Inspection:
        """What there is so far."""
        reading = self._reading
        return Inspection(
            layers=self.found,
            warnings=warnings_of(self.found.values(), self.sharpness, self._sgd),
            skipped=self.skipped,
            notes=reading.notes,
            sgd=self._sgd,
            loss=reading.loss,
            batches=reading.batches,
            images=reading.images,
            sharpness=self.sharpness,
            degree=self.degree,
            **self.advice(),
            seconds=self.seconds,
        )

    def save(self, folder: Path) -> Inspection:
        """Write what there is so far, for a later call to go on from."""
        found = self.inspection()
        Kept.forget(folder)
        found.save(folder)
        if self._reading.whole:
            Kept.write(folder, self._reading.mark, self._done)
        return found

    def decompose(self, rates: _Rates) -> None:
        """The spectra of the layers; those that an earlier call left are taken from it."""
        called, kept = self._reading.readers.called, self._reading.kept
        known = kept.inspection.layers if kept.inspection is not None else {}
        self.found.update({name: known[name] for name in called if name in known})
        new = {name: watched for name, watched in called.items() if name not in known}
        try:
            _decompose(new, rates.of, self._limit, self._report, self.found, self.skipped)
        finally:
            # back in the order of the network
            for name in [name for name in called if name in self.found]:
                self.found[name] = self.found.pop(name)
        if kept.inspection is not None and self.found.keys() == known.keys():
            self._done = dict(kept.done)
            self.sharpness, self.degree = kept.inspection.sharpness, kept.inspection.degree
            for entries in self._done.values():
                self.skipped |= entries

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time of the block to ``seconds``."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begin

    def look(self, parts: Sequence[str], rates: _Rates, seed: int) -> None:
        """The parts that concern the loss, on the first batch."""
        model, batch = self._reading.model, self._reading.first
        loss = self._run.loss.loss

        def curvature() -> None:
            self._report("curvature along the modes")
            self.found = along_modes(model, batch, loss, self.found, self.skipped, seed)

        def sharpness() -> None:
            self.sharpness = sharpest(model, [batch], loss, rates.sgd, self._report)

        def homogeneity() -> None:
            self._report("degree")
            self.degree = degree(model, batch, loss, groups=False).statement

        verbs = {"curvature": curvature, "sharpness": sharpness, "degree": homogeneity}
        # in passes: a draw is a backward pass, and so on
        prices = {"curvature": 12.0, "sharpness": 60.0, "degree": 12.0}
        for part in parts:
            expected = prices[part] * self._reading.pass_seconds
            if part in self._done:
                continue
            if not self.found:
                self.skipped[part] = "no layer was read"
            elif not math.isfinite(self._reading.loss):
                given = loss is not None or not math.isnan(self._reading.loss)
                self.skipped[part] = (
                    f"the loss is {self._reading.loss}" if given else "it needs a loss: give loss="
                )
            elif not self._limit.fits(expected):
                self.skipped[part] = f"it did not fit into the budget ({expected:.1f} s expected)"
            else:
                with self.timed(part), self._finishing(part):
                    self._tried(part, verbs[part])

    @contextmanager
    def _finishing(self, part: str) -> Iterator[None]:
        """Note that the block came to its end, and what it skipped."""
        before = set(self.skipped)
        yield
        self._done[part] = {k: v for k, v in self.skipped.items() if k not in before}

    def look_closely(self, patterns: Sequence[str]) -> None:
        """The layers that these patterns name."""
        chosen = [n for n in self.found if any(fnmatchcase(n, p) for p in patterns)]
        if patterns and not chosen:
            raise ValueError(
                f"closely must name layers that were inspected; got {list(patterns)!r}, and these "
                f"are {', '.join(map(repr, self.found)) or 'none'}"
            )
        for name in chosen:
            if f"{name}, closely" in self._done:
                continue
            if not self._limit.fits(0.0):
                self.skipped[f"{name}, closely"] = "it did not fit into the budget"
                continue
            self._report(f"closely: {name}")
            with self.timed("closely"), self._finishing(f"{name}, closely"):
                self.found[name] = looked_at_closely(
                    self._reading.model,
                    self._reading.first,
                    self._run.loss.loss,
                    self.found[name],
                    self._run,
                    self.skipped,
                )

    def _tried(self, part: str, verb: Callable[[], None]) -> None:
        try:
            verb()
        except (TypeError, ValueError, RuntimeError) as error:
            self.skipped[part] = str(error).splitlines()[0]

    def advice(self) -> dict[str, Any]:
        """Half of the lowest bound that a measured eigenvalue of the loss gives."""
        bounds = {
            f"the largest curvature of layer {name!r}": layer.curvature.bound
            for name, layer in self.found.items()
            if layer.curvature is not None and math.isfinite(layer.curvature.largest)
        }
        if self.sharpness is not None:
            bounds["the sharpness of the loss on the first batch"] = self.sharpness.bound
        bounds = {rule: bound for rule, bound in bounds.items() if math.isfinite(bound)}
        if not bounds:
            return {}
        rule = min(bounds, key=lambda each: bounds[each])
        sentence = f"Half of {bounds[rule]:.3g}, the bound that {rule} gives at these weights."
        return {"advised_lr": bounds[rule] / 2, "advice": sentence}


class _Reading:
    """What the passes over the batches left behind."""

    def __init__(self, model: nn.Module, readers: Readers) -> None:
        self.model = model
        self.readers = readers
        self.pass_seconds = 0.0
        self.notes: tuple[str, ...] = ()
        # the hash of what is looked at, and what an earlier call found in it
        self.mark = ""
        self.kept = Kept()
        # whether the loader came to its end, so that another call would read the same
        self.whole = True
        self.batches = self.images = 0
        self._losses = 0.0
        self.first: Any = None

    def add(self, batch: Any, value: float) -> None:
        many = rows(batch)
        self.batches += 1
        self.images += many
        self._losses += many * value
        if self.first is None:
            self.first = batch

    @property
    def known(self) -> bool:
        """Whether an earlier call read every layer that is called, from every batch."""
        called = self.readers.called.values()
        return self.kept.inspection is not None and all(each.known for each in called)

    def take_known(self) -> None:
        """Take the means over all batches from the earlier call."""
        earlier = self.kept.inspection
        assert earlier is not None
        self.batches, self.images = earlier.batches, earlier.images
        self._losses = earlier.loss * earlier.images

    @property
    def loss(self) -> float:
        return self._losses / self.images if self.images else math.nan


def _read(
    model: nn.Module,
    loader: Any,
    run: Pass,
    limit: Budget,
    report: Callable[[str], None],
    choice: tuple[Sequence[str] | None, int, int, Any, Path | None],
) -> _Reading:
    """Put the batches through the model, with a reader on every layer."""
    patterns, samples, seed, settings, folder = choice
    place = next(iter([*model.parameters(), *model.buffers()]), torch.empty(0)).device
    of = _how_many(loader)
    given = batches_of(loader)
    first = placed(next(given), place)
    model, notes = built(model, first, run)
    readers = Readers(model, patterns, samples=samples, seed=seed)
    reading = _Reading(model, readers)
    reading.notes = notes
    if folder is not None:
        reading.mark = fingerprint(model, first, *settings)
        reading.kept = Kept.of(folder, reading.mark)
        readers.forget(reading.kept.layers)
    with unchanged(model), torch.no_grad(), readers.reading():
        batch, last = first, 0.0
        while True:
            begin = time.perf_counter()
            reading.add(batch, run.explained(model, batch, reading.batches))
            last = max(last, time.perf_counter() - begin)
            reading.pass_seconds = last
            report(f"batch {reading.batches}{of} read")
            if reading.batches == 1 and limit.steps is not None:
                limit.measured(_forward_seconds(model, batch, run, readers))
            if reading.known:
                reading.take_known()
                break
            if not limit.fits(last, share=READING):
                reading.whole = False
                reading.notes += (
                    f"The budget was enough to read {reading.batches} batches of the loader.",
                )
                break
            following = next(given, None)
            if following is None:
                break
            batch = placed(following, place)
    readers.finish()
    return reading


def _how_many(loader: Any) -> str:
    try:
        several = isinstance(loader, Sized) and not isinstance(loader, tuple | dict | torch.Tensor)
        return f" of {len(loader)}" if several else ""
    except TypeError:
        # a DataLoader has a length whether its data have one or not
        return ""


def _forward_seconds(model: nn.Module, batch: Any, run: Pass, readers: Readers) -> float:
    with readers.paused():
        begin = time.perf_counter()
        run(model, batch)
        return time.perf_counter() - begin


def _decompose(
    called: dict[str, Watched],
    sgd_of: Callable[[nn.Module], SGD | None],
    limit: Budget,
    report: Callable[[str], None],
    found: dict[str, LayerInspection],
    skipped: dict[str, str],
) -> None:
    """Records of the layers, the cheapest first, each freed when it is done."""
    prices = {name: _price(watched) for name, watched in called.items()}
    pace, left = 0.0, sum(prices.values())
    for done, name in enumerate(sorted(prices, key=lambda n: prices[n]), 1):
        watched, price = called[name], prices[name]
        left -= price
        if not limit.fits(pace * price):
            skipped[name] = (
                f"its spectrum did not fit into the budget ({pace * price:.1f} s expected)"
            )
        else:
            begin = time.perf_counter()
            try:
                found[name] = layer_record(watched, sgd_of(watched.layer))
            except ValueError as error:
                skipped[name] = str(error)
            pace = max(pace * 0.5, (time.perf_counter() - begin) / price)
            report(f"spectrum {done} of {len(prices)}: {name}; about {pace * left:.0f} s to go")
        watched.reader = None


def _price(watched: Watched) -> float:
    """Multiply-adds of a spectrum, up to a factor."""
    reader = watched.reader
    assert reader is not None
    side, other = sorted((reader.geometry.taps + 1, reader.used))
    sums = reader.sums
    side = reader.geometry.taps + 1 if sums else side
    return reader.geometry.groups * (side**3 + (0.0 if sums else side**2 * other)) + 1e5


class _Rates:
    """The settings of SGD for each layer."""

    def __init__(self, optimizer: Any, lr: float | None, momentum: float, decay: float) -> None:
        self.sgd: SGD | None = None
        self.notes: tuple[str, ...] = ()
        self._groups: dict[int, SGD] = {}
        if optimizer is not None and lr is not None:
            raise TypeError("lr must be left out where optimizer is given; got both")
        if lr is None and (momentum or decay):
            raise TypeError("momentum and weight_decay must come with lr; got no lr")
        if lr is not None:
            self.sgd = SGD(lr, momentum, decay)
        elif isinstance(optimizer, torch.optim.SGD):
            self._take(optimizer)
        elif isinstance(optimizer, torch.optim.Optimizer):
            self.notes = (
                f"Bounds are for plain SGD, and there are no time constants: the optimizer is "
                f"{type(optimizer).__name__}, whose steps are not SGD's.",
            )
        elif optimizer is not None:
            self.sgd = SGD.of(optimizer)

    def _take(self, optimizer: torch.optim.SGD) -> None:
        for group in optimizer.param_groups:
            sgd = SGD(*(float(group[n]) for n in ("lr", "momentum", "weight_decay")))
            self._groups |= {id(p): sgd for p in group["params"]}
            if any(group[n] for n in ("nesterov", "dampening", "maximize")):
                self.notes = ("Bounds are for SGD without nesterov, dampening and maximize.",)
        different = set(self._groups.values())
        if len(different) == 1:
            self.sgd = different.pop()
        elif different:
            # the rate that is closest to every bound
            self.sgd = max(different, key=lambda sgd: sgd.lr)
            self.notes += ("Parameter groups have rates of their own, each used for its layers.",)

    def of(self, layer: nn.Module) -> SGD | None:
        """Those that the layer's weight is trained with."""
        for parameter in layer.parameters():
            if id(parameter) in self._groups:
                return self._groups[id(parameter)]
        return self.sgd
