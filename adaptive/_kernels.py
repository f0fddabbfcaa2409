"""Every compiled loop. No checks, no keywords; the caller allocates and has validated.

Regressor n is ``x[n * hop : n * hop + L]`` (see ``regressors.py``), so a delay line needs no copy.
Fast-math flags are the ones that keep NaN and inf meaningful: a diverging run must be seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from adaptive._checks import Array

compiled: Any = njit(
    cache=True,
    nogil=True,
    error_model="numpy",
    fastmath={"reassoc", "contract", "arcp", "nsz"},
)


@njit(cache=True, nogil=True)
def _finite(e: Any) -> bool:
    """Whether a number is finite, said as a comparison.

    np.isfinite compiles to a test of e - e, which the flag that allows reassociation turns into 0:
    it would call every NaN finite.
    """
    return abs(e.real) < np.inf and abs(e.imag) < np.inf


@compiled
def stochastic_gradient(
    x: Array, z: Array, hop: int, d: Array, step: Array, keep: Array,
    w: Array, error: Array, every: int, history: Array,
) -> int:  # fmt: skip
    """One output: y = w^H u, e = d - y, w <- keep w + step e* z. Returns the sample of divergence.

    ``step`` and ``keep`` hold one value or one per sample. Returns -1, or the first n whose error
    is not finite (N when only the last update overflowed); samples after it are not touched.

    The plain recursion is two passes over the weights per sample, dot product and update. Here the
    update of sample n - 1 and the dot product of sample n are one pass: half the memory traffic.
    """
    L = w.size
    g = w.dtype.type(0)
    kept = keep.dtype.type(1)
    previous = 0
    for n in range(d.size):
        now = n * hop
        u = x[now : now + L]
        direction = z[previous : previous + L]
        y = w.dtype.type(0)
        for k in range(L):
            w[k] = kept * w[k] + g * direction[k]
            y += np.conj(w[k]) * u[k]
        if every > 0 and n % every == 0:
            history[n // every, :, 0] = w
        e = d[n] - y
        if not _finite(e):
            return n
        error[n] = e
        kept = keep[n] if keep.size > 1 else keep[0]
        g = (step[n] if step.size > 1 else step[0]) * np.conj(e)
        previous = now
    direction = z[previous : previous + L]
    for k in range(L):
        w[k] = kept * w[k] + g * direction[k]
    for k in range(L):
        if not _finite(w[k]):
            return d.size
    return -1


@compiled
def stochastic_gradient_many(
    x: Array, z: Array, hop: int, d: Array, step: Array, keep: Array,
    w: Array, error: Array, every: int, history: Array,
) -> int:  # fmt: skip
    """M outputs that share the regressor; w is (L, M) so that the inner loop runs over outputs."""
    L, M = w.shape
    g = np.zeros(M, w.dtype)
    y = np.zeros(M, w.dtype)
    kept = keep.dtype.type(1)
    previous = 0
    for n in range(d.shape[0]):
        now = n * hop
        y[:] = 0
        for k in range(L):
            row = w[k]
            u = x[now + k]
            direction = z[previous + k]
            for m in range(M):
                row[m] = kept * row[m] + g[m] * direction
                y[m] += np.conj(row[m]) * u
        if every > 0 and n % every == 0:
            history[n // every] = w
        kept = keep[n] if keep.size > 1 else keep[0]
        mu = step[n] if step.size > 1 else step[0]
        for m in range(M):
            e = d[n, m] - y[m]
            if not _finite(e):
                return n
            g[m] = mu * np.conj(e)
            error[n, m] = e
        previous = now
    finite = True
    for k in range(L):
        for m in range(M):
            w[k, m] = kept * w[k, m] + g[m] * z[previous + k]
            finite &= _finite(w[k, m])
    return -1 if finite else d.shape[0]


@njit(cache=True, nogil=True)  # no fast math: the order of additions is the promise
def sliding_power(energy: Array, taps: int, phase: int, power: Array) -> None:
    """power[n] = energy[n] + ... + energy[n + taps - 1], in O(1) per sample and without drift.

    A running sum that adds the newest and subtracts the oldest loses all digits when a loud
    signal falls silent. Here blocks of ``taps`` end at absolute sample numbers divisible by
    ``taps``, and each window is the tail of one block plus the head of the next: only additions,
    and the same rounding however a stream is split (``phase``: the first output's sample number
    modulo ``taps``).
    """
    N = power.size
    n = 0
    head_start = taps - 1 - phase  # where in `energy` the block of output 0 begins
    while n < N:
        end = min(n + taps - phase, N)
        # head: samples of the newest block, from its beginning
        head = energy.dtype.type(0)
        for i in range(head_start, n + taps - 1):
            head += energy[i]
        for i in range(n, end):
            head += energy[i + taps - 1]
            power[i] = head
        # tail: what the windows still cover of the block before, summed from its end
        tail = energy.dtype.type(0)
        for i in range(head_start - 1, n - 1, -1):
            tail += energy[i]
            if i < end:
                power[i] += tail
        n = end
        head_start = n + taps - 1
        phase = 0
