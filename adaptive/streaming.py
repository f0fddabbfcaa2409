"""The engine: runs any algorithm on a signal that comes in blocks of any length.

``AdaptiveFilter`` checks input, keeps the samples that the next block's delay lines reach back to,
records, and stops at divergence. The update itself is the algorithm's: a :class:`Rule`, of which
``adaptive.algorithms`` holds one file per member. Any split of a signal into blocks gives the same
run, bit for bit below 128 taps and up to rounding from there on.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive.checks import Array
from adaptive.regressors import Regressors, delay_line, delayed, regressors
from adaptive.results import FilterRun

StepSize = float | ArrayLike | Callable[[int], float]
Record = int | Literal["all", "last"]

CHUNK = 1 << 15  # samples per kernel call: few enough that the arrays they need stay in cache


class Block(NamedTuple):
    """What one kernel call works on: n regressors, and where to put the errors and the record."""

    lines: Regressors
    d: Array  # (n, M)
    mu: Array  # one step size, or n
    error: Array  # (n, M), to be filled up to a divergence
    record: tuple[int, int, Array]  # samples recorded before, samples between rows, history

    def part(self, start: int, stop: int) -> Block:
        """Samples ``start`` to ``stop`` - 1, with the same history."""
        offset, every, history = self.record
        mu = self.mu[start:stop] if self.mu.size > 1 else self.mu
        return Block(
            self.lines.part(start, stop), self.d[start:stop], mu, self.error[start:stop],
            (offset + start, every, history),
        )  # fmt: skip

    def record_still(self, w: Array, stop: int) -> None:
        """Enter weights that do not change into the history, up to sample ``stop``."""
        offset, every, history = self.record
        if every:
            last = offset + min(stop, self.lines.samples - 1)
            history[-(-offset // every) : last // every + 1] = w

    def per_output(self, run: Callable[[int, Array, Array], int]) -> int:
        """``run(m, d, error)`` for every output on its own; the earliest divergence, or -1."""
        outputs = self.d.shape[1]
        stops = []
        for m in range(outputs):
            error = self.error[:, m] if outputs == 1 else np.empty(self.d.shape[0], self.d.dtype)
            stops.append(run(m, np.ascontiguousarray(self.d[:, m]), error))
            if outputs > 1:
                self.error[:, m] = error
        return first_divergence(stops)


class TogetherRun(NamedTuple):
    """Errors (N, V) of runs in lanes; per recorded row the weights' mean and squared deviations."""

    error: Array
    mean: Array
    squares: Array
    stops: Array


@dataclass
class Memory:
    """All that the next block depends on.

    Attributes
    ----------
    taps : taps of each channel's delay line; None for given regressors.
    samples : processed so far.
    arrays : weights "w" (M, L) in buffer order, and whatever else the engine and the algorithm
        keep between blocks.
    """

    taps: int | None
    samples: int = 0
    arrays: dict[str, Array] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    def __setitem__(self, name: str, value: Array) -> None:
        self.arrays[name] = value

    @property
    def length(self) -> int:
        """Taps per channel, 1 for given regressors."""
        return int(self.arrays["length"])

    @property
    def has_past(self) -> bool:
        """Whether the delay lines held true samples, not zeros, when the run began."""
        return bool(self.arrays["has_past"])


class Rule(Protocol):
    """What the engine asks of an algorithm; :class:`adaptive.algorithms.Algorithm` answers."""

    @property
    def step_size(self) -> StepSize:
        """mu."""

    @property
    def lookback(self) -> int:
        """Regressors before the present one that an update reaches back to."""

    def allocate(self, memory: Memory, lines: Regressors, dtype: np.dtype) -> None:
        """Put the algorithm's own arrays into ``memory``."""

    def warm_up(self, length: int) -> int:
        """Samples to hear before the first of a simulated run, for delay lines of a length."""

    def hear(self, memory: Memory, past: Array) -> None:
        """Take in samples (K, C) that precede the first, without learning from them."""

    def advance(self, memory: Memory, block: Block) -> int:
        """Run over a block; the first sample whose error is not finite, or -1."""

    def hold(self, memory: Memory, block: Block) -> int:
        """Filter a block without learning from it; returns what ``advance`` returns."""

    def chunk(self, taps: int) -> int:
        """Samples of one call of ``advance``."""

    def inward(self, w: Array, length: int) -> Array:
        """Public weights to the coordinates in which the filter runs."""

    def outward(self, w: Array, length: int) -> Array:
        """Internal coordinates to public weights."""

    def run_together(
        self,
        filter_: AdaptiveFilter,
        draws: list[tuple[Regressors, Array]],
        every: int,
        before: int,
    ) -> TogetherRun | None:
        """Independent runs side by side, where the algorithm has a kernel for that."""


class AdaptiveFilter:
    """A filter that learns as samples come in, made by ``algorithm.stream(taps=...)``.

    Parameters
    ----------
    algorithm : the update and its settings, such as ``adaptive.LMS(mu=0.05)``. A step size that
        is a function or an array counts samples since the last reset.
    taps : taps of the delay line of each channel, preceded by zeros; None when the input holds
        regressors.
    w0 : initial weights, (L,) or (M, L); zeros when None.
    delay : samples by which u is delayed before it is filtered, 0 or more.

    Attributes
    ----------
    mu : step size; assign another between blocks, such as 0 to freeze the weights.
    weights : (L,) or (M, L) present weights; None before the first block.
    diverged_at : as in ``FilterRun``, counted from the last reset; a diverged filter stays so.

    Examples
    --------
    >>> from adaptive import LMS
    >>> u = np.random.default_rng(0).standard_normal(2000)
    >>> d = np.convolve(u, [1.0, -0.5])[:2000]
    >>> f = LMS(mu=0.05).stream(taps=2)
    >>> for block in range(0, 2000, 500):
    ...     run = f.process(u[block : block + 500], d[block : block + 500])
    >>> f.weights.round(6).tolist()
    [1.0, -0.5]
    """

    def __init__(
        self,
        algorithm: Rule,
        *,
        taps: int | None = None,
        w0: ArrayLike | None = None,
        delay: int = 0,
    ):
        self.algorithm = algorithm
        self.taps = None if taps is None else _checks.count("taps", taps)
        self.w0 = w0
        if _checks.whole("delay", delay) < 0:
            raise ValueError(
                "delay must be zero or positive for a stream, which does not know the future of u; "
                f"got {delay}: delay d by {-delay} samples instead"
            )
        self.delay = int(delay)
        self.reset()

    # --- what users call ---

    def process(self, u: ArrayLike, d: ArrayLike, *, adapt: ArrayLike | None = None) -> FilterRun:
        """Filter one block and learn from it.

        Parameters
        ----------
        u : (n,) signal or (n, C) channels, with ``taps``; (n, L) regressors without.
        d : (n,) desired response, or (n, M).
        adapt : (n,) booleans, as in :func:`adaptive.run`; None learns from every sample. (n, M) for
            each output on its own, from the first block on.

        Returns
        -------
        FilterRun of this block. ``diverged_at`` counts samples since the last reset.

        Raises
        ------
        TypeError, ValueError : as the algorithm's function; also a block whose channels, outputs
            or kind of number differ from the first block's.
        """
        return self.run(u, d, adapt=adapt)

    def reset(self) -> None:
        """Forget everything learned: the next block is the first again."""
        self.memory = Memory(self.taps)
        self.diverged_at: int | None = None
        self.outputs: list[AdaptiveFilter] = []  # one filter each, where they adapt separately

    @property
    def mu(self) -> StepSize:
        """The step size; a value assigned holds from the next block on.

        Raises
        ------
        TypeError, ValueError : on assignment, what the algorithm refuses, or an algorithm without
            a step size.
        """
        return self.algorithm.step_size

    @mu.setter
    def mu(self, mu: StepSize) -> None:
        changes: dict[str, Any] = {"mu": mu}
        if not hasattr(self.algorithm, "mu"):
            name = type(self.algorithm).__name__
            raise TypeError(f"mu must not be assigned for {name}, which has no step size")
        self.algorithm = dataclasses.replace(self.algorithm, **changes)  # type: ignore[type-var]
        for output in self.outputs:
            output.mu = mu

    @property
    def state(self) -> dict[str, Any]:
        """A copy of all that the next block depends on; assign it to go on from there.

        Raises
        ------
        TypeError, ValueError : on assignment, what is not the state of a filter of the same
            algorithm and taps.
        """
        return copy.deepcopy(
            {
                **self._kind(),
                "samples": self.memory.samples,
                "diverged_at": self.diverged_at,
                "arrays": self.memory.arrays,
                "outputs": [output.state for output in self.outputs],
            }
        )

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        if not isinstance(state, dict) or not state.keys() >= {"samples", "diverged_at", "arrays"}:
            raise TypeError(f"state must be the state of a filter; got {_checks.shown(state)}")
        wanted, got = self._kind(), {name: state.get(name) for name in self._kind()}
        if got != wanted:
            raise ValueError(f"state must be that of a filter with {wanted}; got {got}")
        saved = copy.deepcopy(state)
        self.memory = Memory(self.taps, saved["samples"], saved["arrays"])
        self.diverged_at = saved["diverged_at"]
        parts = saved.get("outputs", [])
        self.outputs = self._separate(len(parts))
        for output, part in zip(self.outputs, parts, strict=True):
            output.state = part

    def _kind(self) -> dict[str, Any]:
        """What two filters share whose states can be exchanged."""
        return {
            "algorithm": type(self.algorithm).__name__,
            "taps": self.taps,
            "lookback": self.algorithm.lookback,
            "delay": self.delay,
        }

    @property
    def weights(self) -> Array | None:
        """Present weights, newest tap first."""
        if self.outputs:
            return np.array([output.weights for output in self.outputs])
        return self._public(self.memory["w"]) if self.memory.arrays else None

    def run(
        self,
        u: ArrayLike,
        d: ArrayLike,
        record: Record = "last",
        adapt: ArrayLike | None = None,
    ) -> FilterRun:
        """``process`` with a record of the weights, as ``FilterRun.history`` describes it."""
        signal = _checks.floating("u", u)
        desired = _checks.array("d", d, ndim=(1, 2))
        mask = None if adapt is None else _checks.mask("adapt", adapt, desired.shape)
        if self.outputs or (mask is not None and mask.ndim == 2):
            return self._run_each(signal, desired, record, mask)
        kinds = [signal, desired] + ([self.memory["w"]] if self.memory.arrays else [])
        signal = signal.astype(np.result_type(*kinds), copy=False)
        past = self.memory.arrays.get("past") if self.taps is not None else None
        if (
            past is not None
            and signal.ndim
            and past.shape[1] != (1 if signal.ndim == 1 else signal.shape[-1])
        ):
            raise ValueError(
                f"u must have {past.shape[1]} channels as in the first block; "
                f"got shape {signal.shape}"
            )
        waiting = None
        if self.delay and signal.ndim in (1, 2) and signal.size:
            signal, waiting = delayed(signal, self.delay, self.memory.arrays.get("waiting"))
        if self.taps is None:
            finished = self.run_lines([regressors(signal)], desired, record, adapt=mask)
        else:
            lines = delay_line(signal, self.taps, past)
            finished = self.run_lines(lines, desired, record, adapt=mask)
        if waiting is not None:
            self.memory["waiting"] = waiting
        return finished

    def _run_each(self, u: Array, d: Array, record: Record, mask: Array | None) -> FilterRun:
        """The same where each output learns from samples of its own: one filter per output."""
        if not self.outputs:
            if self.memory.arrays:
                raise ValueError(
                    "adapt must hold a column per output from the first block on; got "
                    f"it after {self.memory.samples} samples without"
                )
            self.outputs = self._separate(d.shape[1])
        M = len(self.outputs)
        if d.ndim != 2 or d.shape[1] != M:
            raise ValueError(f"d must have {M} outputs as in the first block; got {d.shape}")
        masks = [mask if mask is None or mask.ndim == 1 else mask[:, m] for m in range(M)]
        runs = [output.run(u, d[:, m], record, masks[m]) for m, output in enumerate(self.outputs)]
        start, self.memory.samples = self.memory.samples, self.memory.samples + len(d)
        error = np.stack([run.error for run in runs], axis=1)
        stop = first_divergence(-1 if r.diverged_at is None else r.diverged_at for r in runs)
        self.diverged_at = None if stop < 0 else stop
        if stop >= 0:
            error[max(stop - start, 0) :] = np.nan
        rows = [run.history for run in runs if run.history is not None]
        history = np.stack(rows, axis=1) if rows else None
        weights = np.array([run.weights for run in runs])
        return FilterRun(error, d, weights, self.diverged_at, history)

    def _separate(self, count: int) -> list[AdaptiveFilter]:
        """Filters of one output each."""
        w0 = None if self.w0 is None or not count else _checks.array("w0", self.w0, ndim=(2,))
        if w0 is not None and w0.shape[0] != count:
            raise ValueError(f"w0 must have one row per output, {count}; got shape {w0.shape}")
        return [
            AdaptiveFilter(
                self.algorithm,
                taps=self.taps,
                w0=None if w0 is None else w0[m],
                delay=self.delay,
            )
            for m in range(count)
        ]

    # --- the engine ---

    def run_lines(
        self,
        pieces: list[Regressors],
        d: Array,
        record: Record = "last",
        *,
        before: int | None = None,
        adapt: Array | None = None,
    ) -> FilterRun:
        """The same on regressors already laid out, in pieces that follow each other.

        ``before`` says that the first delay line holds true samples, as in the draw of a scenario,
        and not the zeros before a signal; that many regressors of the first piece are then heard,
        not learned from, and the run covers those that follow. ``adapt`` (N,) is False for samples
        to filter only.
        """
        N = sum(piece.samples for piece in pieces)
        lines = pieces[0]
        if d.shape[0] != N:
            raise ValueError(f"d must have as many samples as u, {N}; got shape {d.shape}")
        if not self.memory.arrays:
            self.begin(lines, d, before=before)
            if before:
                N, d = N - before, d[before:]
                pieces = [lines.part(before, lines.samples), *pieces[1:]]
        w = self.memory["w"]
        M, L = w.shape
        dtype = w.dtype
        if np.result_type(lines.buffer, d, dtype) != dtype:
            raise TypeError(
                f"u and d must stay {dtype} as in the first block; "
                f"got {np.result_type(lines.buffer, d)}"
            )
        if lines.taps != L:
            raise ValueError(f"u must have {L} taps as in the first block; got {lines.taps}")
        columns = 1 if d.ndim == 1 else d.shape[1]
        if columns != M or (d.ndim == 1) != bool(self.memory["flat"]):
            raise ValueError(f"d must have {M} outputs as in the first block; got {d.shape}")
        every = _every(record)
        history = np.full((N // every + 1 if every else 0, M, L), np.nan, dtype)
        error = np.empty((N, M), dtype)
        desired = d.reshape(N, M).astype(dtype, copy=False)
        mu = self.step_sizes(N, dtype)
        start, size = self.memory.samples, self.algorithm.chunk(L)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            for part, learns in _stretches(pieces, size, adapt):
                if self.diverged_at is not None:
                    break
                a = self.memory.samples - start
                b = a + part.samples
                step = mu[a:b] if mu.size > 1 else mu
                block = Block(part, desired[a:b], step, error[a:b], (a, every, history))
                go = self.algorithm.advance if learns else self.algorithm.hold
                stop = go(self.memory, block)
                if stop >= 0:
                    self.diverged_at = self.memory.samples + stop
                self._remember(part, desired[a:b])
                self.memory.samples += part.samples
        if every and N % every == 0 and self.diverged_at is None:
            history[-1] = w
        if self.diverged_at is not None:  # also outputs that were still finite there
            error[max(self.diverged_at - start, 0) :] = np.nan
        return FilterRun(
            error=error.reshape(d.shape),
            desired=d,
            weights=self._public(w),
            diverged_at=self.diverged_at,
            history=self._public(history) if every else None,
        )

    def begin(self, lines: Regressors, d: Array, *, before: int | None = None) -> None:
        """Make memory of the right shape and kind for the first block, ``lines`` and ``d``.

        ``before`` as in :meth:`run_lines`.
        """
        L, M = lines.taps, 1 if d.ndim == 1 else d.shape[1]
        shape = (L,) if d.ndim == 1 else (M, L)
        dtype = np.result_type(lines.buffer, d)
        w = np.zeros((M, L), dtype)
        if self.w0 is not None:
            start = _checks.array("w0", self.w0, ndim=(len(shape),))
            if start.shape != shape:
                raise ValueError(f"w0 must have shape {shape}; got {start.shape}")
            if np.iscomplexobj(start) and not np.iscomplexobj(w):
                raise TypeError("w0 must be real where u and d are real; got complex weights")
            w[:, lines.order] = _in_range("w0", start, dtype).reshape(M, L)
        length, lookback = L // lines.hop, self.algorithm.lookback
        own = {
            "w": self.algorithm.inward(w, length),
            "order": lines.order,
            "flat": np.array(d.ndim == 1),
            "length": np.array(length),
            "has_past": np.array(before is not None),
        }
        if self.taps is not None:
            own["past"] = np.zeros((self.taps - 1, lines.hop), dtype)
        own["regressors"] = np.zeros((lookback * lines.hop,), dtype)
        own["desired"] = np.zeros((lookback, M), dtype)
        self.memory.arrays = own
        self.algorithm.allocate(self.memory, lines, dtype)
        if before is not None:
            past = lines.buffer[: L + (before - 1) * lines.hop].reshape(-1, lines.hop)
            self.algorithm.hear(self.memory, past)

    def _remember(self, part: Regressors, d: Array) -> None:
        """Keep what the next block reaches back to."""
        own, lookback = self.memory, self.algorithm.lookback
        if self.taps is not None and self.taps > 1:
            own["past"] = part.buffer.reshape(-1, part.hop)[-(self.taps - 1) :].copy()
        if lookback:
            new = part.samples * part.hop
            earlier = np.concatenate([own["regressors"], part.buffer[:new]])
            own["regressors"] = earlier[earlier.size - lookback * part.hop :].copy()
            desired = np.concatenate([own["desired"], d])
            own["desired"] = desired[desired.shape[0] - lookback :].copy()

    def _public(self, w: Array) -> Array:
        """(..., M, L) in buffer order to the public order and shape."""
        memory = self.memory
        public = self.algorithm.outward(w, memory.length)[..., memory["order"]]
        return public[..., 0, :].copy() if memory["flat"] else public

    def step_sizes(self, N: int, dtype: np.dtype) -> Array:
        """One step size, or one per sample of this block, in the real kind of the run.

        Zero freezes the weights.
        """
        mu, first = self.algorithm.step_size, self.memory.samples
        if callable(mu):
            steps = np.array([_checks.number("mu", mu(first + n)) for n in range(N)])
        elif _checks.rank(mu) == 0:
            steps = np.array([_checks.nonnegative("mu", mu)])  # type: ignore[arg-type]
        else:
            steps = _checks.array("mu", mu, ndim=(1,))  # type: ignore[arg-type]
            if np.iscomplexobj(steps):
                raise TypeError(f"mu must be real; got {steps.dtype}")
            if steps.size < first + N:
                raise ValueError(
                    f"mu must be a number or hold one per sample, {first + N}; "
                    f"got shape {steps.shape}"
                )
            steps = steps[first : first + N]
        if steps.min() < 0:
            raise ValueError(f"mu must be zero or positive; got {steps[steps < 0][0]}")
        return _in_range("mu", steps, np.empty(0, dtype).real.dtype)

    def run_together(
        self, draws: list[tuple[Regressors, Array]], every: int, before: int
    ) -> TogetherRun | None:
        """Independent runs side by side; None where they must go one by one."""
        return self.algorithm.run_together(self, draws, every, before)


def _stretches(
    pieces: list[Regressors], size: int, adapt: Array | None
) -> Iterator[tuple[Regressors, bool]]:
    """Parts of at most ``size`` samples, and whether to learn from them."""
    start = 0
    for part in (p for piece in pieces for p in piece.split(size)):
        if adapt is None:
            yield part, True
            continue
        mask = adapt[start : start + part.samples]
        edges = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), part.samples]
        for a, b in pairwise(edges):
            yield part.part(a, b), bool(mask[a])
        start += part.samples


def first_divergence(stops: Iterable[int]) -> int:
    """The earliest divergence, -1 for none."""
    return min((int(s) for s in stops if s >= 0), default=-1)


def _in_range(name: str, values: Array, dtype: np.dtype) -> Array:
    """``values`` in the kind of number of the run, in which none may become inf or vanish."""
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore", under="ignore"):
        cast = values.astype(dtype)
    lost = ~np.isfinite(cast) | ((cast == 0) & (values != 0))
    if lost.any():
        limits = np.finfo(dtype)
        raise ValueError(
            f"{name} must be within the range of {dtype}, {limits.smallest_subnormal:.2g} to "
            f"{limits.max:.2g}, in which this run computes; got {values[lost][0]}"
        )
    return cast


def _every(record: Record) -> int:
    """Updates between two rows of the history; 0 keeps none."""
    if isinstance(record, str):
        if record in ("last", "all"):
            return int(record == "all")
        raise ValueError(
            f'record must be "last", "all" or a whole number; got {_checks.shown(record)}'
        )
    return _checks.count("record", record)
