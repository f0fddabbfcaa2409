"""LMS for long delay lines: the same recursion, sample by sample, at the price of a few FFTs.

Within a block of B samples LMS's a priori errors are those of the weights frozen at its start,
less what the block's own earlier updates changed:

    e_i = d_i - u_i^T w - sum_{j<i} step_j e_j u_i^T u_j

Frozen outputs, the block's sum of updates and the first row of inner products are correlations,
done by FFT; the triangular sum costs B multiplications per sample. This is not block LMS: weights
and errors equal the direct recursion's, up to rounding (Benesty and Duhamel 1992 named the idea
"fast exact LMS").

An FFT rounds every output by a part of the energy of the whole block, while the direct recursion
rounds each by the energy of its own regressor. Where a block holds regressors much quieter than
the whole (a fade-out, a burst, silence), the direct kernel therefore takes it over.
"""

from __future__ import annotations

import numpy as np
import scipy

from adaptive import _kernels
from adaptive.checks import Array
from adaptive.regressors import Regressors

SHORTEST = 8192  # taps from which this is no slower than the direct kernel
LEVELS = 16.0  # times as much energy as its quietest regressor that a block may have


def block_size(taps: int) -> int:
    """Samples per block: near the minimum of the FFTs' share and the triangular sum's."""
    return 1024 if taps < 16384 else 2048


def wins(lines: Regressors, dtype: np.dtype) -> bool:
    """Whether to run here: one real double-precision channel, long, and with a block to fill."""
    return (
        lines.hop == 1
        and lines.taps >= SHORTEST
        and dtype == np.float64
        and lines.samples >= block_size(lines.taps)
    )


def run(lines: Regressors, d: Array, step: Array, w: Array, error: Array) -> int:
    """Run LMS with one or N step sizes over a delay line, w and error as in the direct kernel."""
    L, N, x = lines.taps, lines.samples, lines.buffer
    B = block_size(L)
    size = scipy.fft.next_fast_len(L + B - 1, real=True)
    power = lines.power()
    for start in range(0, N, B):
        n = min(B, N - start)
        mu = step[start : start + n] if step.size > 1 else step
        segment = x[start : start + L + n - 1]
        stop = -1
        by_fft = n == B and _level(segment, power[start : start + n])
        if by_fft:
            before = w.copy()
            e = error[start : start + n]
            e[:] = d[start : start + n]
            stop = _block(segment, L, mu, w, e, size)
            if stop >= 0 or not np.isfinite(w).all():
                by_fft = False  # the direct recursion finds the sample
                w[:] = before
        if not by_fft:
            stop = _kernels.stochastic_gradient(
                0, n, segment, segment, 1, d[start : start + n], mu, np.zeros(1), 1.0, None,
                None, w, error[start : start + n], 0, 0, 0, np.empty((0, 1, L)),
            )  # fmt: skip
            if stop >= 0:
                return int(start + stop)
    return -1


def _level(segment: Array, power: Array) -> bool:
    """Whether no regressor of a block is much quieter than the block as a whole."""
    return bool(_kernels.energy(segment) <= LEVELS * power.min())


def _block(x: Array, L: int, step: Array, w: Array, e: Array, size: int) -> int:
    """Run one block: e holds d on entry and a priori errors on return; w is updated."""
    B = e.size
    X = scipy.fft.rfft(x, size)
    pair = np.zeros((2, L))
    pair[0], pair[1] = w, x[:L]
    output, inner = scipy.fft.irfft(scipy.fft.rfft(pair, size).conj() * X, size)[:, :B]
    e -= output
    newest = x[L - 1 :][::-1].copy()
    oldest = np.zeros(B)
    oldest[: B - 1] = x[: B - 1][::-1]
    g = np.zeros(B)
    stop: int = _kernels.block_errors(newest, oldest, inner.copy(), step, e, g)
    if stop < 0:
        w += scipy.fft.irfft(scipy.fft.rfft(g[::-1], size).conj() * X, size)[:L]
    return stop
