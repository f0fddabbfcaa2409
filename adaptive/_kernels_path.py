"""The compiled loop of filters whose output reaches the error through a further path."""

from __future__ import annotations

import numpy as np

from adaptive._kernels import all_finite, copy, fast, finite, least_power
from adaptive.checks import Array


@fast
def filtered_x(
    x: Array, hop: int, lead: int, d: Array, step: Array, path: Array, model: Array,
    eps: float, leakage: float, outputs: Array, w: Array, error: Array,
    offset: int, every: int, history: Array,
) -> int:  # fmt: skip
    """w_k <- (1 - step leakage) w_k + step / scale sum_m x_mk e_m*, e_m = d_m - sum_k path_mk y_k.

    ``path`` and ``model`` (M, K, P) are the impulse responses from source k to sensor m and what
    the update believes of them; x_mk is u through the model. ``outputs`` (K, P) holds y_k(n-1),
    y_k(n-2), ... and is kept up to date. scale is 1 for eps < 0, else eps + sum |x_mk|^2.
    ``x`` begins ``lead`` regressors early, at least P - 1.
    """
    K, L = w.shape
    N, M = d.shape
    P = path.shape[2]
    size = (N - 1) * hop + L
    filtered = np.zeros((M, K, size), w.dtype)
    for m in range(M):
        for k in range(K):
            for i in range(size):
                total = w.dtype.type(0)
                for j in range(P):
                    total += model[m, k, j] * x[i + (lead - j) * hop]
                filtered[m, k, i] = total
    g = np.zeros(M, w.dtype)
    least = least_power(w[0])
    for n in range(N):
        if every > 0 and (offset + n) % every == 0:
            for k in range(K):
                copy(w[k], history[(offset + n) // every, k])
        u = x[(n + lead) * hop : (n + lead) * hop + L]
        for k in range(K):
            for j in range(P - 1, 0, -1):
                outputs[k, j] = outputs[k, j - 1]
            y = w.dtype.type(0)
            for i in range(L):
                y += np.conj(w[k, i]) * u[i]
            outputs[k, 0] = y
        for m in range(M):
            e = d[n, m]
            for k in range(K):
                for j in range(P):
                    e -= path[m, k, j] * outputs[k, j]
            if not finite(e):
                return n
            error[n, m] = e
        mu = step[n] if step.size > 1 else step[0]
        kept = 1 - mu * leakage
        if eps >= 0:
            power = 0.0
            for m in range(M):
                for k in range(K):
                    now = filtered[m, k, n * hop : n * hop + L]
                    for i in range(L):
                        power += now[i].real * now[i].real + now[i].imag * now[i].imag
            mu = mu / (eps + power) if eps + power >= least else 0 * mu
        for m in range(M):
            g[m] = w.dtype.type(mu * np.conj(error[n, m]))
        for k in range(K):
            for i in range(L):
                total = w.dtype.type(kept) * w[k, i]
                for m in range(M):
                    total += g[m] * filtered[m, k, n * hop + i]
                w[k, i] = total
    for k in range(K):
        if not all_finite(w[k]):
            return N
    return -1
