"""One plain-Python oracle per algorithm, under the algorithm's name.

Each takes delay lines U (N, L), newest sample first, zeros before the signal, and d (N,), initial
weights and the settings; it returns the errors and the weights after 0, 1, ..., N samples.
"""

import numpy as np
import scipy.fft

from tests.oracles import naive, naive_filters
from tests.oracles.naive_filters import (  # noqa: F401  oracles under their own names
    affine_projection,
    block_lms,
    filtered_x_lms,
    filtered_x_nlms,
    gngd,
    ipnlms,
    leaky_lms,
    leaky_nlms,
    least_mean_fourth,
    lms_newton,
    mixed_norm_lms,
    momentum_lms,
    proportionate_affine_projection,
    rls,
    set_membership_nlms,
    sign_data_lms,
    sign_error_lms,
    sign_sign_lms,
    variable_step_nlms,
)


def lms(U, d, w, mu):
    return naive.lms(U, d, mu, w)


def nlms(U, d, w, mu, eps):
    return naive.nlms(U, d, mu, eps, w)


def power_normalized_lms(U, d, w, mu, eps, forgetting):
    """Tap k sees its channel k samples ago; before the signal began, nothing."""
    u = [row[0] for row in U]
    return naive_filters.power_normalized_lms(
        U, d, w, mu, eps, forgetting, lambda n: [u[: max(n + 1 - k, 0)] for k in range(len(w))]
    )


def transform_domain_lms(U, d, w, mu, eps, forgetting):
    """Weights and regressors through the DCT; powers of the bins, from the first sample on."""
    bins = scipy.fft.dct(np.array(U)[:, ::-1], axis=1, norm="ortho")
    start = scipy.fft.dct(np.array(w)[::-1], norm="ortho")
    errors, history = naive_filters.power_normalized_lms(
        bins, d, start, mu, eps, forgetting, lambda n: [bins[: n + 1, k] for k in range(len(w))]
    )
    return errors, scipy.fft.idct(history, axis=1, norm="ortho")[:, ::-1]


def frequency_domain_lms(U, d, w, mu, block, normalize, eps, forgetting, past=()):
    """Each partition's gradient in the time domain's definition, its spectrum over the power.

    ``past`` holds samples before the first of U's, oldest first; the filter has heard them.
    """
    if not normalize:
        return naive_filters.block_lms(U, d, w, mu, block)
    L, B = len(w), block
    P = -(-L // B)
    x = np.array([row[0] for row in U])
    before = np.zeros((2 + P + len(past) // B) * B, x.dtype)
    before[len(before) - len(past) :] = past
    signal, origin = np.concatenate([before, x]), len(before)

    def spectrum(j):
        """Of block j of the run and the one before."""
        return np.fft.fft(signal[origin + (j - 1) * B : origin + (j + 1) * B])

    powers = [abs(spectrum(-p)) ** 2 for p in range(len(past) // B - 1, 0, -1)]
    w, errors, history = np.array(w), [], []
    for n in range(len(d)):
        history.append(w.copy())
        errors.append(d[n] - np.vdot(w, U[n]))
        if (n + 1) % B:
            continue
        j = n // B
        E = np.fft.fft(np.concatenate([np.zeros(B), errors[-B:]]))
        powers.append(abs(spectrum(j)) ** 2)
        weights = [forgetting**i for i in range(len(powers))][::-1]
        mean = sum(a * p for a, p in zip(weights, powers, strict=True)) / sum(weights) / (2 * B)
        for p in range(P):
            g = np.fft.ifft(spectrum(j - p).conj() * E / (P * 2 * B * (mean + eps)))[:B]
            g = (g if np.iscomplexobj(w) else g.real).conj()
            last = min((p + 1) * B, L)
            w[p * B : last] += mu * g[: last - p * B]
    return np.array(errors), np.array([*history, w])
