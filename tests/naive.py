"""Slow, plain-Python oracles. They import nothing of ours and follow the textbook line by line."""

import numpy as np


def delay_line(signal, taps):
    """(N, L) regressors, newest sample first, zeros before the beginning."""
    return [[signal[n - k] if n >= k else 0.0 for k in range(taps)] for n in range(len(signal))]


def stacked_delay_lines(channels, taps):
    """Channel after channel, each newest first; channels is (N, C)."""
    N, C = np.shape(channels)
    lines = [delay_line([channels[n][c] for n in range(N)], taps) for c in range(C)]
    return [[x for line in lines for x in line[n]] for n in range(N)]


def lms(U, d, mu, w0=None):
    """One output: errors and the weights after 0, 1, ..., N updates."""
    w = [0.0] * len(U[0]) if w0 is None else list(w0)
    errors, history = [], [list(w)]
    for n in range(len(d)):
        y = sum((np.conj(w[k]) * U[n][k] for k in range(len(w))), start=0 * w[0])
        e = d[n] - y
        step = mu(n) if callable(mu) else mu
        w = [w[k] + step * U[n][k] * np.conj(e) for k in range(len(w))]
        errors.append(e)
        history.append(list(w))
    return np.array(errors), np.array(history)


def nlms(U, d, mu, eps, w0=None):
    """LMS whose step size is divided by eps + |u(n)|^2."""
    power = [sum(abs(x) ** 2 for x in u) for u in U]
    return lms(U, d, lambda n: mu / (eps + power[n]) if eps + power[n] else 0.0, w0)


def first_non_finite(U, d, mu):
    """Sample whose a priori error is the first not to be finite, in the precision of U."""
    errors, _ = lms(U, d, mu, w0=np.zeros(len(U[0]), U.dtype))
    bad = [n for n, e in enumerate(errors) if not np.isfinite(e)]
    return bad[0] if bad else None


def gaussian_lms_second_moment(R, w_error, mu, J_min, steps):
    """E[c c'] of LMS with real Gaussian regressors by Isserlis' theorem, as a full matrix.

    K+ = K - mu (R K + K R) + mu^2 (2 R K R + R tr(R K)) + mu^2 J_min R. Returns the MSE.
    """
    R = np.array(R)
    K = np.outer(w_error, w_error)
    mse = []
    for _ in range(steps):
        mse.append(J_min + np.trace(R @ K))
        K = (
            K
            - mu * (R @ K + K @ R)
            + mu**2 * (2 * R @ K @ R + R * np.trace(R @ K))
            + mu**2 * J_min * R
        )
    return np.array(mse)
