"""Moments of Gaussian regressors divided by their power: one-dimensional integrals."""

from __future__ import annotations

import numpy as np

from adaptive.checks import Array

# The trapezoidal rule in x = log t converges like exp(-2 pi a / h) for an integrand analytic in
# the strip |Im x| < a (Trefethen and Weideman 2014). exp(-eps t) and the poles at t < 0 leave
# a = pi / 2, so that 1/8 is far below rounding.
_SPACING = 0.125
_DIGITS = 45.0  # e-folds kept on either side: exp(-45) is below the rounding of a double


def normalized_moments(eigenvalues: Array, eps: float, *, circular: bool) -> tuple[Array, ...]:
    """a_i = E[|u_i|^2/s], b_i = E[|u_i|^2/s^2], B_ij = E[|u_i|^2 |u_j|^2/s^2]; s = eps + |u|^2.

    ``eigenvalues`` (L,) are the powers of the independent Gaussian u_i, real or circular complex;
    zeros are allowed, all zeros are not. b is inf where its integral diverges: eps = 0 with fewer
    than 3 real or 2 complex degrees of freedom.

    From 1/s = int_0^inf exp(-s t) dt and 1/s^2 = int t exp(-s t) dt: under the weight exp(-s t)
    the u_i are again independent Gaussians, of power r_i(t), and what remains is one integral.
    """
    scale = float(eigenvalues.sum())
    lam = eigenvalues / scale
    floor = eps / scale
    floor = 0.0 if floor < 1e-140 else floor  # t^2 would overflow before exp(-eps t) cuts it off
    degrees = np.count_nonzero(lam) / (1 if circular else 2)
    gain = 1 if circular else 2  # E exp(-t|u_i|^2) = (1 + gain l_i t)^(-1/gain)

    # the slowest integrand falls like t^(1 - degrees) or, where b diverges, t^-degrees
    exists = floor > 0 or degrees > 1
    decay = degrees - 1 if degrees > 1 else degrees
    upper = -np.log(lam[lam > 0].min()) + _DIGITS / decay
    if floor > 0:
        cut = np.log(_DIGITS / floor)
        upper = min(upper, cut) if degrees > 1 else cut
    x = np.arange(-_DIGITS - np.log1p(floor), upper + _SPACING, _SPACING)
    t = np.exp(x)[:, None]

    p = np.exp(-floor * t[:, 0] - np.log1p(gain * lam * t).sum(axis=1) / gain)
    r = lam / (1 + gain * lam * t)
    weight = _SPACING * t[:, 0] * p  # dt = t dx
    a: Array = weight @ r
    b: Array = (weight * t[:, 0]) @ r if exists else np.where(lam > 0, np.inf, 0.0)
    B: Array = (r * (weight * t[:, 0])[:, None]).T @ r
    # E|u_i|^4 is 3 times the squared power if real, 2 times if circular
    B[np.diag_indices_from(B)] *= 1 + gain
    return a, b / scale, B
