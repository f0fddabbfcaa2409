"""Slow, plain-Python oracles. They import nothing of ours and follow the textbook line by line."""

import itertools

import numpy as np
import scipy.integrate


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


# --- Second moments of the family, as full matrices, for Gaussian regressors ----------------------


def isserlis(R, K):
    """E[u u^H K u u^H]; complex R means circular complex u, and K must be Hermitian."""
    twice = 1 if np.iscomplexobj(R) else 2
    return twice * R @ K @ R + R * np.trace(R @ K)


def _moments(R, c0, J_min, steps, advance):
    """Excess MSE and MSD while K <- advance(n, K)."""
    K = np.outer(c0, np.conj(c0))
    excess, msd = [], []
    for n in range(steps):
        excess.append(np.trace(R @ K).real)
        msd.append(np.trace(K).real)
        K = advance(n, K)
    return np.array(excess), np.array(msd)


def block_lms_moments(R, c0, mu, block, J_min, steps, Q=0.0):
    """c+ = c - (mu/B) sum u u^H c + (mu/B) sum u e_o* - q."""
    B = block

    def advance(n, K):
        mixed = (isserlis(R, K) + (B - 1) * R @ K @ R) / B
        return K - mu * (R @ K + K @ R) + mu**2 * mixed + mu**2 / B * J_min * R + Q

    return _moments(R, c0, J_min, steps, advance)


def leaky_lms_moments(R, w_o, c0, mu, leakage, J_min, steps):
    """c+ = (a I - mu u u^H) c - mu gamma w_o + mu u e_o*, with a = 1 - mu gamma."""
    a, pull = 1 - mu * leakage, mu * leakage * w_o
    mean = [c0]
    for _ in range(steps):
        mean.append(a * mean[-1] - mu * R @ mean[-1] - pull)

    def advance(n, K):
        cross = np.outer(a * mean[n] - mu * R @ mean[n], np.conj(pull))
        K = a**2 * K - a * mu * (R @ K + K @ R) + mu**2 * isserlis(R, K) + mu**2 * J_min * R
        return K - cross - cross.conj().T + np.outer(pull, np.conj(pull))

    return *_moments(R, c0, J_min, steps, advance), np.array(mean)


def momentum_lms_moments(R, c0, mu, momentum, J_min, steps):
    """The moments of z = (c(n), c(n-1)), 2L x 2L, c(-1) = c(0)."""
    L = len(R)
    eye, zero = np.eye(L), np.zeros((L, L))
    A = np.block([[(1 + momentum) * eye - mu * R, -momentum * eye], [eye, zero]])
    z = np.concatenate([c0, c0])
    S = np.outer(z, z.conj())
    excess, msd, mean = [], [], [c0]
    for _ in range(steps):
        K = S[:L, :L]
        excess.append(np.trace(R @ K).real)
        msd.append(np.trace(K).real)
        S = A @ S @ A.conj().T
        S[:L, :L] += mu**2 * (isserlis(R, K) - R @ K @ R + J_min * R)
        z = A @ z
        mean.append(z[:L])
    return np.array(excess), np.array(msd), np.array(mean)


def preconditioned_lms_moments(R, c0, mu, G, J_min, steps):
    """c+ = c - mu G u u^H c + mu G u e_o*, in the original coordinates."""

    def advance(n, K):
        return (
            K
            - mu * (G @ R @ K + K @ R @ G.conj().T)
            + mu**2 * G @ (isserlis(R, K) + J_min * R) @ G.conj().T
        )

    return _moments(R, c0, J_min, steps, advance)


def normalized_moments(lam, eps, circular):
    """a, b, B of NLMS entry by entry, by adaptive quadrature in log t."""
    g = 1 if circular else 2

    def integral(f):
        def g_of_x(x):
            t = np.exp(x)
            p = np.exp(-eps * t) * np.prod((1 + g * lam * t) ** (-1 / g))
            return t * p * f(t)

        value = 0.0
        for x in range(-60, 120, 4):  # piecewise: adaptive rules miss a narrow hump
            value += scipy.integrate.quad(g_of_x, x, x + 4, epsabs=0, epsrel=1e-12)[0]
        return value

    def r(i, t):
        return lam[i] / (1 + g * lam[i] * t)

    n = range(len(lam))
    a = [integral(lambda t, i=i: r(i, t)) for i in n]
    b = [integral(lambda t, i=i: t * r(i, t)) for i in n]
    B = [
        [integral(lambda t, i=i, j=j: t * r(i, t) * r(j, t) * (1 + g * (i == j))) for j in n]
        for i in n
    ]
    return np.array(a), np.array(b), np.array(B)


# --- Mini-batches by enumeration ------------------------------------------------------------------


def minibatch_expectations(U, D, w0, mu, batch, steps, replace, momentum=0.0, leakage=0.0):
    """Training loss, |w - w_o|^2 and w averaged over every possible sequence of batches.

    U is (N, T, L), D (N, T, M), w0 (L, M) with y = w^H u. The tree of all draws is walked in full.
    """
    N, T, L = U.shape
    u, d = U.reshape(-1, L), D.reshape(N * T, -1)
    w_o = np.linalg.pinv(u.conj()) @ d.conj()
    everyone = range(N)
    with_twins, without = itertools.product(everyone, repeat=batch), itertools.permutations
    batches = list(with_twins if replace else without(everyone, batch))
    weights, moves = [w0], [0 * w0]
    loss, msd, mean = [], [], []
    for _ in range(steps):
        loss.append(np.mean([(np.abs(d - u @ w.conj()) ** 2).sum(axis=1).mean() for w in weights]))
        msd.append(np.mean([(np.abs(w - w_o) ** 2).sum() for w in weights]))
        mean.append(np.mean(weights, axis=0))
        following, moved = [], []
        for w, move in zip(weights, moves, strict=True):
            for chosen in batches:
                g = 0
                for i in chosen:
                    for t in range(T):
                        e = D[i, t] - w.conj().T @ U[i, t]
                        g = g + np.outer(U[i, t], e.conj()) / T
                moved.append(momentum * move + mu / batch * g - mu * leakage * w)
                following.append(w + moved[-1])
        weights, moves = following, moved
    return np.array(loss), np.array(msd), np.array(mean)


def minibatch_moment_map(U, batch, mu, replace, momentum=0.0, leakage=0.0):
    """The map K -> E[T_b K T_b^H] as a matrix, every batch summed; T_b moves c(n) and c(n-1)."""
    N, T, L = U.shape
    R = [U[i].T @ U[i].conj() / T for i in range(N)]
    if replace:
        batches = list(itertools.product(range(N), repeat=batch))
    else:
        batches = list(itertools.combinations(range(N), batch))
    total = 0
    for chosen in batches:
        one, none = np.eye(L), np.zeros((L, L))
        keep = (1 + momentum - mu * leakage) * one - mu * sum(R[i] for i in chosen) / batch
        step = np.block([[keep, -momentum * one], [one, none]])
        total = total + np.kron(step, step.conj())
    return total / len(batches)
