"""Plain-Python oracles of the whole family, one output each: errors, weights after every update.

Like ``naive.py`` they import nothing of ours. U is a list of regressors, d a list.
"""

import numpy as np


def sign(z):
    """Sign of a real number; of a complex one, the signs of both parts."""
    return np.sign(z.real) + 1j * np.sign(z.imag) if np.iscomplexobj(z) else np.sign(z)


def _run(U, d, w, update):
    errors, history = [], [np.array(w)]
    for n in range(len(d)):
        u = np.array(U[n])
        e = d[n] - np.vdot(w, u)
        w = update(n, w, u, e)
        errors.append(e)
        history.append(np.array(w))
    return np.array(errors), np.array(history)


def leaky_lms(U, d, w, mu, leakage):
    return _run(U, d, w, lambda n, w, u, e: (1 - mu * leakage) * w + mu * u * np.conj(e))


def leaky_nlms(U, d, w, mu, leakage, eps):
    def update(n, w, u, e):
        power = eps + np.vdot(u, u).real
        return (1 - mu * leakage) * w + (mu / power * u * np.conj(e) if power else 0)

    return _run(U, d, w, update)


def sign_error_lms(U, d, w, mu):
    return _run(U, d, w, lambda n, w, u, e: w + mu * u * np.conj(sign(e)))


def sign_data_lms(U, d, w, mu):
    return _run(U, d, w, lambda n, w, u, e: w + mu * sign(u) * np.conj(e))


def sign_sign_lms(U, d, w, mu):
    return _run(U, d, w, lambda n, w, u, e: w + mu * sign(u) * np.conj(sign(e)))


def momentum_lms(U, d, w, mu, momentum):
    before = [np.array(w)]

    def update(n, w, u, e):
        after = w + mu * u * np.conj(e) + momentum * (w - before[0])
        before[0] = w
        return after

    return _run(U, d, w, update)


def block_lms(U, d, w, mu, block):
    gradient = [0 * np.array(w)]

    def update(n, w, u, e):
        gradient[0] = gradient[0] + u * np.conj(e)
        if (n + 1) % block:
            return w
        w = w + mu * gradient[0] / block
        gradient[0] = 0 * w
        return w

    return _run(U, d, w, update)


def power_normalized_lms(U, d, w, mu, eps, forgetting, power_inputs=None):
    """``power_inputs[n][k]``: the samples that tap k's power is averaged over, newest last."""

    def power(samples):
        weights = [forgetting**j for j in range(len(samples))][::-1]
        return sum(a * abs(x) ** 2 for a, x in zip(weights, samples, strict=True)) / sum(weights)

    def update(n, w, u, e):
        p = [power(s) if len(s) else 1.0 for s in power_inputs(n)]
        scale = eps + np.array(p)
        return w + mu * u * np.conj(e) / np.where(scale == 0, np.inf, scale)

    return _run(U, d, w, update)


def affine_projection(U, d, w, mu, order, eps):
    def update(n, w, u, e):
        rows = [n - i for i in range(order) if n - i >= 0]
        A = np.array([U[i] for i in rows]).T
        errors = np.array([d[i] - np.vdot(w, U[i]) for i in rows])
        G = A.conj().T @ A + eps * np.eye(len(rows))
        return w + mu * A @ np.linalg.pinv(G, hermitian=True) @ errors.conj()

    return _run(U, d, w, update)


def proportionate_affine_projection(U, d, w, mu, order, alpha, eps):
    L = len(w)

    def update(n, w, u, e):
        size = np.abs(w).sum()
        share = np.abs(w) / size if size else np.zeros(L)
        G = np.diag((1 - alpha) / (2 * L) + (1 + alpha) / 2 * share)
        rows = [n - i for i in range(order) if n - i >= 0]
        A = np.array([U[i] for i in rows]).T
        errors = np.array([d[i] - np.vdot(w, U[i]) for i in rows])
        C = A.conj().T @ G @ A + eps * (1 - alpha) / (2 * L) * np.eye(len(rows))
        return w + mu * G @ A @ np.linalg.pinv(C, hermitian=True) @ errors.conj()

    return _run(U, d, w, update)


def ipnlms(U, d, w, mu, alpha, eps, order=1):
    """Benesty and Gay's update tap by tap."""
    L = len(w)

    def update(n, w, u, e):
        size = sum(abs(w))
        g = [
            (1 - alpha) / (2 * L) + (1 + alpha) * abs(a) / (2 * size)
            if size
            else (1 - alpha) / (2 * L)
            for a in w
        ]
        power = sum(g[k] * abs(u[k]) ** 2 for k in range(L)) + eps * (1 - alpha) / (2 * L)
        step = mu / power if power else 0
        return np.array([w[k] + step * g[k] * u[k] * np.conj(e) for k in range(L)])

    return _run(U, d, w, update)


def rls(U, d, w, forgetting, delta):
    """The textbook's covariance form; fine for short runs."""
    P = [np.eye(len(w)) / delta]

    def update(n, w, u, e):
        k = P[0] @ u / (forgetting + np.vdot(u, P[0] @ u))
        P[0] = (P[0] - np.outer(k, u.conj() @ P[0])) / forgetting
        return w + k * np.conj(e)

    return _run(U, d, w, update)


def mixed_norm_lms(U, d, w, mu, mix):
    return _run(
        U, d, w, lambda n, w, u, e: w + mu * u * np.conj(e) * (mix + (1 - mix) * abs(e) ** 2)
    )


def least_mean_fourth(U, d, w, mu, mix=0):
    return _run(U, d, w, lambda n, w, u, e: w + mu * u * np.conj(e) * abs(e) ** 2)


def variable_step_nlms(U, d, w, noise_power, forgetting, eps):
    running = [0.0]

    def update(n, w, u, e):
        running[0] = forgetting * running[0] + (1 - forgetting) * abs(e) ** 2
        power = eps + np.vdot(u, u).real
        if running[0] <= noise_power or not power:
            return w
        return w + (1 - np.sqrt(noise_power) / np.sqrt(running[0])) / power * u * np.conj(e)

    return _run(U, d, w, update)


def set_membership_nlms(U, d, w, bound, eps):
    def update(n, w, u, e):
        power = eps + np.vdot(u, u).real
        if abs(e) <= bound or not power:
            return w
        return w + (1 - bound / abs(e)) / power * u * np.conj(e)

    return _run(U, d, w, update)


def gngd(U, d, w, mu, rho, eps):
    """The regularisation's derivative is taken numerically, from the cost of the present error."""
    before = []

    def update(n, w, u, e):
        floor = eps
        if before:
            floor, w1, u1, e1 = before[-1]

            def cost(z):
                power = z + np.vdot(u1, u1).real
                step = mu / power * u1 * np.conj(e1) if power else 0 * u1
                return abs(d[n] - np.vdot(w1 + step, u)) ** 2 / 2

            h = 1e-3 * (floor + np.vdot(u1, u1).real)
            near, far = (cost(floor + k * h) - cost(floor - k * h) for k in (1, 2))
            floor = max(floor - rho * (8 * near - far) / (12 * h), 0.0)
        power = floor + np.vdot(u, u).real
        before.append((floor, w, u, e))
        return w + mu / power * u * np.conj(e) if power else w

    return _run(U, d, w, update)


def lms_newton(U, d, w, mu, forgetting, delta):
    R = [delta * np.eye(len(w))]

    def update(n, w, u, e):
        R[0] = forgetting * R[0] + (1 - forgetting) * np.outer(u, np.conj(u))
        return w + mu * np.linalg.solve(R[0], u) * np.conj(e)

    return _run(U, d, w, update)


def filtered_x_lms(U, d, w, mu, secondary, model=None, leakage=0.0, eps=None):
    """Elliott's equations, one loudspeaker and one microphone."""
    model = secondary if model is None else model
    outputs, errors, history = [], [], [np.array(w)]
    for n in range(len(d)):
        outputs.append(np.vdot(w, U[n]))
        e = d[n] - sum(s * outputs[n - j] for j, s in enumerate(secondary) if n >= j)
        x = sum(s * np.array(U[n - j]) for j, s in enumerate(model) if n >= j)
        power = 1.0 if eps is None else eps + np.vdot(x, x).real
        w = (1 - mu * leakage) * np.array(w) + (mu / power * x * np.conj(e) if power else 0)
        errors.append(e)
        history.append(w)
    return np.array(errors), np.array(history)


filtered_x_nlms = filtered_x_lms
