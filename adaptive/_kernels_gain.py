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
