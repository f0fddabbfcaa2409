"""Compiled loops of updates w <- w + gain u e* whose gain depends on the error or the weights.

Conventions as in ``_kernels.py``: no checks, regressors read from a flat buffer, -1 or the sample
at which the run diverged.
"""

from __future__ import annotations

import numpy as np

from adaptive._kernels import _solve_positive, all_finite, copy, fast, finite, least_power
from adaptive.checks import Array


@fast
def proportionate(
    x: Array, hop: int, d: Array, step: Array, order: int, eps: float, alpha: float,
    w: Array, error: Array, m: int, offset: int, every: int, history: Array,
) -> int:  # fmt: skip
    """One output: w <- w + step G U (U^H G U + eps (1 - alpha) / (2 L) I)^-1 e*.

    U = [u(n) .. u(n - order + 1)], G = diag((1 - alpha) / (2 L) + (1 + alpha) |w_k| / (2 |w|_1)).
    ``x`` and ``d`` (N + order - 1) begin ``order - 1`` regressors early.
    """
    L = w.size
    N = d.size - (order - 1)
    even = (1 - alpha) / (2 * L)
    gains = np.zeros(L, w.real.dtype)
    e = np.zeros((order, 1), w.dtype)
    A = np.zeros((order, order), w.dtype)
    least = least_power(w)
    for n in range(N):
        total = 0.0
        for k in range(L):
            total += abs(w[k])
        share = (1 + alpha) / (2 * total) if total > 0 else 0.0
        for k in range(L):
            gains[k] = even + share * abs(w[k])
        for i in range(order):
            at = n + order - 1 - i
            u = x[at * hop : at * hop + L]
            y = w.dtype.type(0)
            for k in range(L):
                y += np.conj(w[k]) * u[k]
            e[i, 0] = d[at] - y
            for j in range(i + 1):
                other = x[(at + i - j) * hop : (at + i - j) * hop + L]
                product = w.dtype.type(0)
                for k in range(L):
                    product += np.conj(u[k]) * gains[k] * other[k]
                A[i, j] = product + w.dtype.type(eps * even if i == j else 0.0)
                A[j, i] = np.conj(A[i, j])
        if every > 0 and (offset + n) % every == 0:
            copy(w, history[(offset + n) // every, m])
        if not finite(e[0, 0]):
            return n
        error[n] = e[0, 0]
        mu = step[n] if step.size > 1 else step[0]
        if A[0, 0].real < least:
            continue
        a = _solve_positive(A, np.conj(e))
        for i in range(order):
            at = n + order - 1 - i
            g = w.dtype.type(mu * a[i, 0])
            for k in range(L):
                w[k] += g * gains[k] * x[at * hop + k]
    return -1 if all_finite(w) else N


# rules of ``error_controlled``: what the error does to the gain
MIXED_NORM, SET_MEMBERSHIP, NOISE_LEVEL, REGULARISED = range(4)


@fast
def error_controlled(
    rule: int, settings: Array, x: Array, lead: int, hop: int, d: Array, step: Array,
    state: Array, w: Array, error: Array, m: int, offset: int, every: int, history: Array,
) -> int:  # fmt: skip
    """One output: w <- w + gain u e*, the gain a function of the error and of a running ``state``.

    ``x`` begins ``lead`` regressors early. By rule, with p = |u|^2 and s the settings:

    - MIXED_NORM: gain = step (s0 + (1 - s0) |e|^2).
    - SET_MEMBERSHIP: gain = (1 - s1 / |e|) / (s0 + p) where |e| > s1, else 0.
    - NOISE_LEVEL: state0 <- s2 state0 + (1 - s2) |e|^2, the running power of the error;
      gain = (1 - sqrt(s1 / state0)) / (s0 + p) where state0 > s1, else 0.
    - REGULARISED: state0, the regularisation, moves down the gradient of |e|^2 / 2 by s1; then
      gain = step / (state0 + p). state1 holds the derivative's factor step / (state0 + p)^2 of the
      sample before, state2 and state3 its error; ``lead`` is 1.

    Where the divisor is below ``least_power``, nothing is updated.
    """
    L = w.size
    least = least_power(w)
    for n in range(d.size):
        u = x[(n + lead) * hop : (n + lead) * hop + L]
        if every > 0 and (offset + n) % every == 0:
            copy(w, history[(offset + n) // every, m])
        y = w.dtype.type(0)
        power = 0.0
        for k in range(L):
            y += np.conj(w[k]) * u[k]
            power += u[k].real * u[k].real + u[k].imag * u[k].imag
        e = d[n] - y
        if not finite(e):
            return n
        error[n] = e
        squared = float(e.real) * float(e.real) + float(e.imag) * float(e.imag)
        mu = step[n] if step.size > 1 else step[0]
        gain = 0.0
        if rule == MIXED_NORM:
            gain = mu * (settings[0] + (1 - settings[0]) * squared)
        elif rule == SET_MEMBERSHIP:
            if squared > settings[1] * settings[1] and settings[0] + power >= least:
                gain = (1 - settings[1] / np.sqrt(squared)) / (settings[0] + power)
        elif rule == NOISE_LEVEL:
            state[0] = settings[2] * state[0] + (1 - settings[2]) * squared
            if state[0] > settings[1] and settings[0] + power >= least:
                gain = (1 - np.sqrt(settings[1] / state[0])) / (settings[0] + power)
        else:
            before = x[(n + lead - 1) * hop : (n + lead - 1) * hop + L]
            overlap = w.dtype.type(0)
            for k in range(L):
                overlap += np.conj(before[k]) * u[k]
            # Re(e*(n) e(n-1) u(n-1)^H u(n)), times the factor: d(|e(n)|^2 / 2) / d state0
            real = e.real * state[2] + e.imag * state[3]
            imaginary = e.real * state[3] - e.imag * state[2]
            slope = state[1] * (real * overlap.real - imaginary * overlap.imag)
            state[0] = max(state[0] - settings[1] * slope, 0.0)
            scale = state[0] + power
            state[1] = 0.0
            if scale >= least:
                gain = mu / scale
                state[1] = gain / scale
            state[2], state[3] = e.real, e.imag
        g = w.dtype.type(gain * np.conj(e))
        for k in range(L):
            w[k] += g * u[k]
    return -1 if all_finite(w) else d.size
