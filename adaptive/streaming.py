"""The engine: filters as streaming objects. Any split of a signal into blocks gives the same run.

``AdaptiveFilter`` checks input, keeps the samples that the next block's delay lines reach back to,
records, and stops at divergence. What an algorithm adds is its own box from the textbook, a few
lines in a subclass; ``filters.py`` wraps each one as a function.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from adaptive import _kernels, long_filters
from adaptive import checks as _checks
from adaptive.checks import Array
from adaptive.regressors import Regressors, delay_line, regressors
from adaptive.results import FilterRun

StepSize = float | ArrayLike | Callable[[int], float]
Record = int | Literal["all", "last"]

LEAST_LANES = 9  # outputs from which running them side by side pays
MOST_LANE_TAPS = 96  # and taps up to which their weights stay in the first-level cache
CHUNK = 1 << 15  # samples a kernel call: the arrays beside the signal stay in cache


class Block(NamedTuple):
    """What one kernel call works on: n regressors, and where to put the errors and the record."""

    lines: Regressors
    d: Array  # (n, M)
    mu: Array  # one step size, or n
    error: Array  # (n, M), to be filled up to a divergence
    record: tuple[int, int, Array]  # samples recorded before, samples between rows, history

    def per_output(self, run: Callable[[int, Array, Array], int]) -> int:
        """``run(m, d, error)`` for every output on its own; the earliest divergence, or -1."""
        outputs = self.d.shape[1]
        stops = []
        for m in range(outputs):
            error = self.error[:, m] if outputs == 1 else np.empty(self.d.shape[0], self.d.dtype)
            stops.append(run(m, np.ascontiguousarray(self.d[:, m]), error))
            if outputs > 1:
                self.error[:, m] = error
        return _first(stops)


class AdaptiveFilter:
    """A filter that learns as samples come in. Subclasses supply the algorithm.

    Parameters
    ----------
    mu : step size, positive: a number, an array with one per sample, or a function of the sample
        number since the last reset.
    taps : taps of the delay line of each channel, preceded by zeros; None when the input holds
        regressors.
    w0 : initial weights, (L,) or (M, L); zeros when None.

    Attributes
    ----------
    weights : (L,) or (M, L) present weights; None before the first block.
    diverged_at : as in ``FilterRun``, counted from the last reset; a diverged filter stays so.
    """

    lookback = 0  # regressors before the present one that an update reaches back to

    def __init__(self, *, mu: StepSize, taps: int | None = None, w0: ArrayLike | None = None):
        self.mu = mu
        self.taps = None if taps is None else _checks.count("taps", taps)
        self.w0 = w0
        self.reset()

    # --- what users call ---

    def process(self, u: ArrayLike, d: ArrayLike) -> FilterRun:
        """Filter one block and learn from it.

        Parameters
        ----------
        u : (n,) signal or (n, C) channels, with ``taps``; (n, L) regressors without.
        d : (n,) desired response, or (n, M).

        Returns
        -------
        FilterRun of this block. ``diverged_at`` counts samples since the last reset.

        Raises
        ------
        TypeError, ValueError : as the algorithm's function; also a block whose channels, outputs
            or kind of number differ from the first block's.
        """
        return self.run(u, d)

    def reset(self) -> None:
        """Forget everything learned: the next block is the first again."""
        self._samples = 0
        self._own: dict[str, Array] = {}
        self.diverged_at: int | None = None

    @property
    def state(self) -> dict[str, Any]:
        """A copy of all that the next block depends on; assign it to go on from there."""
        return copy.deepcopy(
            {"samples": self._samples, "diverged_at": self.diverged_at, "arrays": self._own}
        )

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        saved = copy.deepcopy(state)
        self._samples, self.diverged_at = saved["samples"], saved["diverged_at"]
        self._own = saved["arrays"]

    @property
    def weights(self) -> Array | None:
        """Present weights, newest tap first."""
        return self._public(self._own["w"]) if self._own else None

    def run(self, u: ArrayLike, d: ArrayLike, record: Record = "last") -> FilterRun:
        """``process`` with a record of the weights, as ``FilterRun.history`` describes it."""
        desired = _checks.array("d", d, ndim=(1, 2))
        signal = np.asarray(u)
        if signal.dtype.type in _checks.FLOATS:
            kinds = [signal, desired] + ([self._own["w"]] if self._own else [])
            signal = signal.astype(np.result_type(*kinds), copy=False)
        past = self._own.get("past") if self.taps is not None else None
        if past is not None and past.shape[1] != (1 if signal.ndim == 1 else signal.shape[-1]):
            raise ValueError(
                f"u must have {past.shape[1]} channels as in the first block; "
                f"got shape {signal.shape}"
            )
        if self.taps is None:
            return self.run_lines([regressors(signal)], desired, record)
        return self.run_lines(delay_line(signal, self.taps, past), desired, record)

    # --- the engine ---

    def run_lines(self, pieces: list[Regressors], d: Array, record: Record = "last") -> FilterRun:
        """The same on regressors already laid out, in pieces that follow each other."""
        N = sum(piece.samples for piece in pieces)
        lines = pieces[0]
        if d.shape[0] != N:
            raise ValueError(f"d must have as many samples as u, {N}; got shape {d.shape}")
        if not self._own:
            self._begin(lines, d)
        w = self._own["w"]
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
        if columns != M or (d.ndim == 1) != bool(self._own["flat"]):
            raise ValueError(f"d must have {M} outputs as in the first block; got {d.shape}")
        every = _every(record)
        history = np.full((N // every + 1 if every else 0, M, L), np.nan, dtype)
        error = np.empty((N, M), dtype)
        desired = d.reshape(N, M).astype(dtype, copy=False)
        mu = self._step_sizes(N, dtype)
        start, size = self._samples, self._chunk(L)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            for part in (p for piece in pieces for p in piece.split(size)):
                if self.diverged_at is not None:
                    break
                a = self._samples - start
                b = a + part.samples
                step = mu[a:b] if mu.size > 1 else mu
                stop = self._advance(
                    Block(part, desired[a:b], step, error[a:b], (a, every, history))
                )
                if stop >= 0:
                    self.diverged_at = self._samples + stop
                self._remember(part, desired[a:b])
                self._samples += part.samples
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

    def _begin(self, lines: Regressors, d: Array) -> None:
        """Weights and past of the right shape and kind, from the first block."""
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
            w[:, lines.order] = start.reshape(M, L)
        own = {"w": self._inward(w), "order": lines.order, "flat": np.array(d.ndim == 1)}
        if self.taps is not None:
            own["past"] = np.zeros((self.taps - 1, lines.hop), dtype)
        own["regressors"] = np.zeros((self.lookback * lines.hop,), dtype)
        own["desired"] = np.zeros((self.lookback, M), dtype)
        self._own = own
        self._allocate(lines, dtype)

    def _remember(self, part: Regressors, d: Array) -> None:
        """Keep what the next block reaches back to."""
        own = self._own
        if self.taps is not None and self.taps > 1:
            own["past"] = part.buffer.reshape(-1, part.hop)[-(self.taps - 1) :].copy()
        if self.lookback:
            new = part.samples * part.hop
            earlier = np.concatenate([own["regressors"], part.buffer[:new]])
            own["regressors"] = earlier[earlier.size - self.lookback * part.hop :].copy()
            desired = np.concatenate([own["desired"], d])
            own["desired"] = desired[desired.shape[0] - self.lookback :].copy()

    def _public(self, w: Array) -> Array:
        """(..., M, L) in buffer order to the public order and shape."""
        public = self._outward(w)[..., self._own["order"]]
        return public[..., 0, :].copy() if self._own["flat"] else public

    def _step_sizes(self, N: int, dtype: np.dtype) -> Array:
        """One step size, or one per sample of this block, in the real kind of the run."""
        real = np.empty(0, dtype).real.dtype
        mu = self.mu
        if callable(mu):
            mu = np.array([mu(self._samples + n) for n in range(N)], dtype=float)
        elif np.ndim(mu) == 0:  # type: ignore[arg-type]
            return np.array([_checks.positive("mu", mu)], dtype=real)  # type: ignore[arg-type]
        else:
            mu = _checks.array("mu", mu, ndim=(1,))  # type: ignore[arg-type]
            if mu.size < self._samples + N:
                raise ValueError(
                    f"mu must be a number or hold one per sample, {self._samples + N}; "
                    f"got shape {mu.shape}"
                )
            mu = mu[self._samples : self._samples + N]
        steps = _checks.array("mu", mu, ndim=(1,))
        if not np.all(steps > 0):
            raise ValueError(f"mu must be positive; got {steps[~(steps > 0)][0]}")
        return steps.astype(real)

    # --- what subclasses supply ---

    def _advance(self, block: Block) -> int:
        """Run the kernel over a block; the first sample whose error is not finite, or -1."""
        raise NotImplementedError

    def _allocate(self, lines: Regressors, dtype: np.dtype) -> None:
        """Put further arrays into ``self._own``."""

    def _chunk(self, taps: int) -> int:
        """Samples of one kernel call."""
        return CHUNK

    def _inward(self, w: Array) -> Array:
        """Public weights into the coordinates in which the filter runs."""
        return w

    def _outward(self, w: Array) -> Array:
        """And back."""
        return w


class TogetherRun(NamedTuple):
    """Errors (N, V) of runs in lanes; per recorded row the weights' mean and squared deviations."""

    error: Array
    mean: Array
    squares: Array
    stops: Array


class LMS(AdaptiveFilter):
    """w(n+1) = w(n) + mu u(n) e*(n). See ``adaptive.lms``.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(2000)
    >>> d = np.convolve(u, [1.0, -0.5])[:2000]
    >>> f = LMS(mu=0.05, taps=2)
    >>> for block in range(0, 2000, 500):
    ...     run = f.process(u[block : block + 500], d[block : block + 500])
    >>> f.weights.round(6).tolist()
    [1.0, -0.5]
    """

    signed: bool | None = None  # True takes the sign of the error

    def _power(self, lines: Regressors) -> tuple[Array, float]:
        """(power, eps): the step size is mu / (eps + power); one power, or one per sample."""
        return np.zeros(1, lines.buffer.real.dtype), 1.0

    def _keep(self, mu: Array) -> Array:
        """Factor by which the weights shrink at each update."""
        return np.ones(1, mu.dtype)

    def _direction(self, lines: Regressors) -> Array:
        """Direction of the update, laid out as the regressors are."""
        return lines.buffer

    def _advance(self, block: Block) -> int:
        w, lines = self._own["w"], block.lines
        x, z = lines.buffer, self._direction(lines)
        (power, eps), keep = self._power(lines), self._keep(block.mu)
        plain = z is x and keep.size == 1 and keep[0] == 1 and not self.signed
        if plain and w.shape[0] == 1 and not block.record[1] and long_filters.wins(lines, w.dtype):
            scale = power + eps
            step = block.mu / np.where(scale >= _kernels.LEAST_POWER, scale, np.inf)
            return long_filters.run(lines, block.d[:, 0], step, w[0], block.error[:, 0])
        side_by_side = w.shape[0] >= LEAST_LANES and lines.taps <= MOST_LANE_TAPS
        if side_by_side and w.dtype == np.float64:
            return self._advance_lanes(block, z, power, eps, keep)
        return block.per_output(
            lambda m, d, error: _kernels.stochastic_gradient(
                x, z, lines.hop, d, block.mu, power, power.dtype.type(eps), keep, self.signed,
                w[m], error, m, *block.record,
            )
        )  # fmt: skip

    def _advance_lanes(self, block: Block, z: Array, power: Array, eps: float, keep: Array) -> int:
        """Outputs side by side in SIMD lanes; lanes beyond the last output run on zeros."""
        w, lines = self._own["w"], block.lines
        M, L = w.shape
        by_tap, desired = _lanes(w.T), _lanes(block.d)
        error = block.error if desired is block.d else np.empty_like(desired)
        stops = np.full(desired.shape[1], -1)
        none = np.empty((0, L))
        _kernels.stochastic_gradient_lanes(
            lines.buffer, z, lines.hop, desired, block.mu[:, None], power[:, None], eps, keep,
            self.signed, M, by_tap, error, stops, *block.record, none, none,
        )  # fmt: skip
        w[:] = by_tap[:, :M].T
        if error is not block.error:
            block.error[:] = error[:, :M]
        return _first(stops - block.record[0] * (stops >= 0))

    def run_together(self, draws: list[tuple[Regressors, Array]], every: int) -> TogetherRun:
        """Independent runs of this filter from their first sample, one SIMD lane each.

        What the ensembles are made of: real double precision, one output, equal lengths.
        """
        R, N, L = len(draws), draws[0][0].samples, draws[0][0].taps
        buffers, directions, powers = [], [], []
        for lines, d in draws:
            self.reset()
            self._begin(lines, d)
            mu = self._step_sizes(N, d.dtype)
            buffers.append(lines.buffer)
            directions.append(self._direction(lines))
            own_power, eps = self._power(lines)
            powers.append(own_power)
        keep = self._keep(mu)
        x = _lanes(np.array(buffers).T)
        z = x if directions[-1] is buffers[-1] else _lanes(np.array(directions).T)
        desired = _lanes(np.array([d for _, d in draws]).T)
        power = _lanes(np.array(powers).T) if powers[0].size > 1 else powers[0][:, None]
        w = np.repeat(self._own["w"].T, desired.shape[1], axis=1)
        w[:, R:] = 0
        error, stops = np.empty_like(desired), np.full(desired.shape[1], -1)
        rows = N // every + 1
        mean, squares = np.full((rows, L), np.nan), np.full((rows, L), np.nan)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            _kernels.stochastic_gradient_lanes(
                x, z, draws[0][0].hop, desired, mu[:, None], power, eps, keep, self.signed, R,
                w, error, stops, 0, every, np.empty((0, R, L)), mean, squares,
            )  # fmt: skip
        order = draws[0][0].order
        return TogetherRun(error, mean[:, order], squares[:, order], stops[:R])

    def _chunk(self, taps: int) -> int:
        return max(CHUNK, 4 * taps)


class NLMS(LMS):
    """w(n+1) = w(n) + mu / (eps + |u(n)|^2) u(n) e*(n). See ``adaptive.nlms``.

    ``eps`` must be given: a stream's power is not known before it ends.
    """

    def __init__(
        self, *, mu: StepSize, eps: float, taps: int | None = None, w0: ArrayLike | None = None
    ):
        super().__init__(mu=mu, taps=taps, w0=w0)
        self.eps = _checks.nonnegative("eps", eps)

    def _power(self, lines: Regressors) -> tuple[Array, float]:
        return lines.power(), self.eps


class LeakyLMS(LMS):
    """w(n+1) = (1 - mu leakage) w(n) + mu u(n) e*(n). See ``adaptive.leaky_lms``."""

    def __init__(
        self, *, mu: StepSize, leakage: float, taps: int | None = None, w0: ArrayLike | None = None
    ):
        super().__init__(mu=mu, taps=taps, w0=w0)
        self.leakage = _checks.nonnegative("leakage", leakage)

    def _keep(self, mu: Array) -> Array:
        keep: Array = 1 - mu * mu.dtype.type(self.leakage)
        return keep


class SignErrorLMS(LMS):
    """w(n+1) = w(n) + mu u(n) sign(e*(n)). See ``adaptive.sign_error_lms``."""

    signed = True


class SignDataLMS(LMS):
    """w(n+1) = w(n) + mu sign(u(n)) e*(n). See ``adaptive.sign_data_lms``."""

    def _direction(self, lines: Regressors) -> Array:
        return _signs(lines.buffer)


class SignSignLMS(SignDataLMS):
    """w(n+1) = w(n) + mu sign(u(n)) sign(e*(n)). See ``adaptive.sign_sign_lms``."""

    signed = True


class PowerNormalizedLMS(LMS):
    """w_k(n+1) = w_k(n) + mu u_k e*(n) / (eps + p_k(n)). See ``adaptive.power_normalized_lms``."""

    def __init__(
        self, *, mu: StepSize, eps: float, forgetting: float = 0.99, taps: int | None = None,
        w0: ArrayLike | None = None,
    ):  # fmt: skip
        super().__init__(mu=mu, taps=taps, w0=w0)
        self.eps = _checks.nonnegative("eps", eps)
        self.forgetting = _checks.fraction("forgetting", forgetting)

    def _allocate(self, lines: Regressors, dtype: np.dtype) -> None:
        self._own["power"] = np.zeros(lines.hop)
        self._own["direction"] = np.zeros(lines.taps - lines.hop, dtype)

    def _direction(self, lines: Regressors) -> Array:
        # tap k of a delay line is its channel k samples ago, and so is that tap's power
        own, beta = self._own, self.forgetting
        new = lines.buffer[lines.buffer.size - lines.samples * lines.hop :]
        new = new.reshape(lines.samples, lines.hop)
        squares = (1 - beta) * np.abs(new).astype(float) ** 2
        power, _ = scipy.signal.lfilter(
            [1.0], [1.0, -beta], squares, axis=0, zi=beta * own["power"][None]
        )
        own["power"] = power[-1]
        # a weighted mean of the samples so far: at the start, not a power that is still filling up
        n = self._samples + 1 + np.arange(lines.samples)
        weight = 1 - beta ** n.astype(float)
        scale = power / weight[:, None] + self.eps
        scale[scale == 0] = np.inf  # no power, no direction
        z = np.concatenate([own["direction"], (new / scale).astype(new.dtype).reshape(-1)])
        own["direction"] = z[z.size - own["direction"].size :].copy()
        return z


class TransformDomainLMS(PowerNormalizedLMS):
    """Power-normalised LMS on the DCT of each delay line. See ``adaptive.transform_domain_lms``."""

    def __init__(
        self, *, mu: StepSize, eps: float, taps: int, forgetting: float = 0.99,
        w0: ArrayLike | None = None,
    ):  # fmt: skip
        super().__init__(mu=mu, eps=eps, forgetting=forgetting, taps=taps, w0=w0)

    def _advance(self, block: Block) -> int:
        bins = self._inward(block.lines.rows)
        return super()._advance(block._replace(lines=_given(bins, block.lines)))

    def _allocate(self, lines: Regressors, dtype: np.dtype) -> None:
        super()._allocate(_given(lines.rows[:0], lines), dtype)

    def _chunk(self, taps: int) -> int:
        return max(1, CHUNK * 32 // taps)  # the bins are an n x L matrix

    def _inward(self, w: Array) -> Array:
        assert self.taps is not None
        lines = w.reshape(*w.shape[:-1], self.taps, -1)
        bins: Array = scipy.fft.dct(lines, axis=-2, norm="ortho").reshape(w.shape)
        return bins

    def _outward(self, w: Array) -> Array:
        assert self.taps is not None
        bins = w.reshape(*w.shape[:-1], self.taps, -1)
        lines: Array = scipy.fft.idct(bins, axis=-2, norm="ortho").reshape(w.shape)
        return lines


class MomentumLMS(AdaptiveFilter):
    """w(n+1) = w(n) + mu u(n) e*(n) + momentum (w(n) - w(n-1)). See ``adaptive.momentum_lms``."""

    def __init__(
        self, *, mu: StepSize, momentum: float, taps: int | None = None, w0: ArrayLike | None = None
    ):
        super().__init__(mu=mu, taps=taps, w0=w0)
        self.momentum = _checks.fraction("momentum", momentum)

    def _allocate(self, lines: Regressors, dtype: np.dtype) -> None:
        self._own["velocity"] = np.zeros_like(self._own["w"])

    def _advance(self, block: Block) -> int:
        w, v, lines = self._own["w"], self._own["velocity"], block.lines
        beta = block.mu.dtype.type(self.momentum)
        return block.per_output(
            lambda m, d, error: _kernels.momentum(
                lines.buffer, lines.hop, d, block.mu, beta, w[m], v[m], error, m, *block.record
            )
        )


class BlockLMS(AdaptiveFilter):
    """w <- w + mu mean of u(n) e*(n) over each block. See ``adaptive.block_lms``."""

    def __init__(
        self, *, mu: StepSize, block: int, taps: int | None = None, w0: ArrayLike | None = None
    ):
        super().__init__(mu=mu, taps=taps, w0=w0)
        self.block = _checks.count("block", block)

    def _allocate(self, lines: Regressors, dtype: np.dtype) -> None:
        self._own["gradient"] = np.zeros_like(self._own["w"])

    def _advance(self, block: Block) -> int:
        w, gradient, lines = self._own["w"], self._own["gradient"], block.lines
        phase = self._samples % self.block
        return block.per_output(
            lambda m, d, error: _kernels.block(
                lines.buffer, lines.hop, d, block.mu, self.block, phase, w[m], gradient[m], error,
                m, *block.record,
            )
        )  # fmt: skip


class AffineProjection(AdaptiveFilter):
    """Affine projection of a given order. See ``adaptive.affine_projection``."""

    def __init__(
        self, *, mu: StepSize, order: int, eps: float, taps: int | None = None,
        w0: ArrayLike | None = None,
    ):  # fmt: skip
        self.order = _checks.count("order", order)
        self.lookback = self.order - 1
        super().__init__(mu=mu, taps=taps, w0=w0)
        self.eps = _checks.nonnegative("eps", eps)

    def _advance(self, block: Block) -> int:
        own, lines = self._own, block.lines
        stop: int = _kernels.affine_projection(
            np.concatenate([own["regressors"], lines.buffer]), lines.hop,
            np.concatenate([own["desired"], block.d]), block.mu, self.order, self.eps,
            own["w"], block.error, *block.record,
        )  # fmt: skip
        return stop


class RLS(AdaptiveFilter):
    """Recursive least squares with forgetting. See ``adaptive.rls``."""

    def __init__(
        self, *, delta: float, forgetting: float = 1.0, taps: int | None = None,
        w0: ArrayLike | None = None,
    ):  # fmt: skip
        super().__init__(mu=1.0, taps=taps, w0=w0)
        self.delta = _checks.positive("delta", delta)
        self.forgetting = _checks.positive("forgetting", forgetting)
        if self.forgetting > 1:
            raise ValueError(f"forgetting must be at most 1; got {forgetting}")

    def _allocate(self, lines: Regressors, dtype: np.dtype) -> None:
        L = lines.taps
        self._own["V"] = np.zeros((L, L), dtype)
        self._own["D"] = np.full(L, 1 / self.delta, self._own["w"].real.dtype)

    def _advance(self, block: Block) -> int:
        own, lines = self._own, block.lines
        stop: int = _kernels.recursive_least_squares(
            lines.buffer, lines.hop, block.d, self.forgetting, 1e12 / self.delta,
            own["w"], own["V"], own["D"], block.error, *block.record,
        )  # fmt: skip
        return stop


class FrequencyDomainLMS(AdaptiveFilter):
    """Block LMS by FFT, in partitions. See ``adaptive.frequency_domain_lms``."""

    def __init__(
        self, *, mu: StepSize, taps: int, block: int | None = None, normalize: bool = True,
        eps: float = 0.0, forgetting: float = 0.9, w0: ArrayLike | None = None,
    ):  # fmt: skip
        self.block = _checks.count("block", taps if block is None else block)
        self.normalize = normalize
        self.eps = _checks.nonnegative("eps", eps)
        self.forgetting = _checks.fraction("forgetting", forgetting)
        super().__init__(mu=mu, taps=taps, w0=w0)

    @property
    def _partitions(self) -> int:
        assert self.taps is not None
        return -(-self.taps // self.block)

    def _allocate(self, lines: Regressors, dtype: np.dtype) -> None:
        B, P, C, M = self.block, self._partitions, lines.hop, self._own["w"].shape[0]
        spectrum = self._fft(np.zeros(2 * B, dtype))
        self._own["spectra"] = np.zeros((P, C, spectrum.size), spectrum.dtype)
        self._own["window"] = np.zeros((C, 2 * B), dtype)  # the block before and the present one
        self._own["errors"] = np.zeros((M, 2 * B), dtype)  # zeros, then the present block's errors
        self._own["power"] = np.zeros((C, spectrum.size), spectrum.real.dtype)
        self._own["responses"] = self._to_spectra(self._own["w"])

    def _advance(self, block: Block) -> int:
        own, B, lines, mu = self._own, self.block, block.lines, block.mu
        offset, every, history = block.record
        new = lines.buffer.reshape(-1, lines.hop)[-lines.samples :].T
        n = 0
        while n < lines.samples:
            filled = (self._samples + n) % B
            m = min(n + B - filled, lines.samples)
            now = slice(B + filled, B + filled + m - n)
            own["window"][:, now] = new[:, n:m]
            own["spectra"][0] = self._fft(own["window"])
            # partition p sees the input of p blocks ago
            outputs = np.einsum("pcf,mpcf->mf", own["spectra"], own["responses"])
            e = block.d[n:m].T - self._ifft(outputs)[:, now]
            bad = ~np.isfinite(e).all(axis=0)
            stop = int(np.argmax(bad)) if bad.any() else m - n
            block.error[n : n + stop] = e[:, :stop].T
            if every:
                first = -(-(offset + n) // every)
                last = (offset + n + min(stop, m - n - 1)) // every
                history[first : last + 1] = self._own["w"]
            if bad.any():
                return n + stop
            own["errors"][:, now] = e
            if filled + m - n == B:
                blocks = (self._samples + m) // B
                self._update(float(mu[m - 1] if mu.size > 1 else mu[0]), blocks)
                if not np.isfinite(own["w"]).all():
                    return m
            n = m
        return -1

    def _update(self, mu: float, blocks: int) -> None:
        """The last of ``blocks`` is complete: correlate its errors with the input, and move on."""
        own, B = self._own, self.block
        E = self._fft(own["errors"])
        if self.normalize:
            present = np.abs(own["spectra"][0]) ** 2
            beta = self.forgetting
            own["power"] = beta * own["power"] + (1 - beta) * present
            # a mean over the blocks so far, per sample of the 2 B transformed
            weight = (1 - beta ** float(blocks)) * 2 * B
            power = own["power"] / weight + self.eps
            power[power == 0] = np.inf  # no power, no direction
            gain = mu / (2 * B * self._partitions * power)
        else:
            gain = np.array(mu / B)
        gradient = np.einsum("pcf,mf->mpcf", own["spectra"].conj() * gain, E)
        impulse = self._ifft(gradient)[..., :B]
        own["w"] += self._to_weights(impulse)
        own["responses"] = self._to_spectra(own["w"])
        own["spectra"] = np.roll(own["spectra"], 1, axis=0)
        own["window"][:, :B] = own["window"][:, B:]
        own["window"][:, B:] = 0
        own["errors"][:] = 0

    def _to_spectra(self, w: Array) -> Array:
        """Weights (M, L) to transfer functions (M, P, C, F) of the partitions, y = w^H u."""
        M, P, B = w.shape[0], self._partitions, self.block
        taps = self.taps
        assert taps is not None
        impulse = np.zeros((M, P * B, w.shape[1] // taps), w.dtype)
        impulse[:, :taps] = w.conj().reshape(M, taps, -1)[:, ::-1]
        parts = impulse.reshape(M, P, B, -1).transpose(0, 1, 3, 2)
        return self._fft(np.concatenate([parts, np.zeros_like(parts)], axis=-1))

    def _to_weights(self, impulse: Array) -> Array:
        """Impulse responses (M, P, C, B) back to weights (M, L); taps beyond ``taps`` are cut."""
        M = impulse.shape[0]
        response = impulse.transpose(0, 1, 3, 2).reshape(M, self._partitions * self.block, -1)
        return response[:, : self.taps][:, ::-1].reshape(M, -1).conj()

    def _fft(self, x: Array) -> Array:
        spectrum: Array = scipy.fft.fft(x) if np.iscomplexobj(x) else scipy.fft.rfft(x)
        return spectrum

    def _ifft(self, X: Array) -> Array:
        if np.iscomplexobj(self._own["w"]):
            x: Array = scipy.fft.ifft(X)
        else:
            x = scipy.fft.irfft(X, 2 * self.block)
        return x


def _lanes(columns: Array) -> Array:
    """(N, M) widened by zero columns to whole vectors of lanes, rows contiguous."""
    N, M = columns.shape
    V = -(-M // _kernels.LANES) * _kernels.LANES
    if V == M:
        return np.ascontiguousarray(columns)
    wide = np.zeros((N, V), columns.dtype)
    wide[:, :M] = columns
    return wide


def _given(rows: Array, lines: Regressors) -> Regressors:
    """Rows as given regressors, in place of the lines they came from."""
    return Regressors(rows.reshape(-1), lines.taps, lines.taps, rows.shape[0], lines.order)


def _first(stops: Iterable[int]) -> int:
    """The earliest divergence, -1 for none."""
    return min((int(s) for s in stops if s >= 0), default=-1)


def _signs(x: Array) -> Array:
    """Signs of real numbers; of complex ones, the signs of both parts."""
    if np.iscomplexobj(x):
        signs: Array = (np.sign(x.real) + 1j * np.sign(x.imag)).astype(x.dtype)
        return signs
    return np.sign(x)


def _every(record: Record) -> int:
    """Updates between two rows of the history; 0 keeps none."""
    if record == "last":
        return 0
    if record == "all":
        return 1
    if isinstance(record, str):
        raise ValueError(f'record must be "last", "all" or a whole number; got {record!r}')
    return _checks.count("record", record)
