"""Largest eigenvalue of the transfer operator of one-tap LMS on an AR(1) input, by quadrature."""

import numpy as np
import scipy


def growth_rate(a, mu, reach=8.0, points=800):
    """ln of the spectral radius of f -> E[(1 - mu x'^2)^2 f(x') | x], x' = a x + s g, unit power.

    The chain is reversible, so the operator is similar to a symmetric one.
    """
    x = np.linspace(-reach, reach, points)
    variance = 1 - a**2
    forward = np.exp(-((x[None, :] - a * x[:, None]) ** 2) / (2 * variance) - x[:, None] ** 2 / 4
                     + x[None, :] ** 2 / 4) / np.sqrt(2 * np.pi * variance)  # fmt: skip
    gain = np.abs(1 - mu * x**2)
    kernel = gain[:, None] * forward * gain[None, :] * (x[1] - x[0])
    last = [points - 1, points - 1]
    return np.log(scipy.linalg.eigvalsh((kernel + kernel.T) / 2, subset_by_index=last)[0])


def edge(a, low, high, **options):
    """The mu at which it crosses zero."""
    return scipy.optimize.brentq(lambda mu: growth_rate(a, mu, **options), low, high, xtol=1e-5)
