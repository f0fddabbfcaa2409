"""Bounds on the step size, each by the assumption it rests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import scipy
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive._moments import normalized_moments
from adaptive.checks import Array
from adaptive.modes import NaturalModes, natural_modes

ASSUMPTIONS = {
    "trace": "sufficient for `mean`, without an eigendecomposition: tr(R) in place of lambda_max",
    "mean": "the mean weights converge if and only if mu is below (LMS: 2 / lambda_max); "
    "regressors independent of the weights",
    "mean_square_real": "the MSE converges if and only if mu is below; real Gaussian regressors, "
    "independent from sample to sample: too large for a delay line with correlated input",
    "mean_square_complex": "the MSE converges if and only if mu is below; circular complex "
    "Gaussian regressors, independent from sample to sample: too large for a delay line with "
    "correlated input",
    "any_input": "the weight error never grows, whatever the input: mu < 2",
    "mean_square": "the MSE converges if and only if mu is below; Gaussian regressors, "
    "independent from sample to sample",
}


class _Named:
    """Prints each bound with what it rests on."""

    def __str__(self) -> str:
        names = (f.name for f in fields(self))  # type: ignore[arg-type]
        rows = (f"mu < {getattr(self, k):<12.6g} {k}: {ASSUMPTIONS[k]}" for k in names)
        return "\n".join(rows)


@dataclass(frozen=True)
class StabilityBounds(_Named):
    """Upper bounds on mu in w(n+1) = w(n) + mu e(n) u(n); ``ASSUMPTIONS`` says what each needs.

    For a learning rate in torch's units see ``cnnbridge.learning_rate_bounds``.
    """

    trace: float
    mean: float
    mean_square_real: float
    mean_square_complex: float

    def mean_square(self, *, complex_data: bool) -> float:
        """The mean-square bound for circular complex or for real data."""
        return self.mean_square_complex if complex_data else self.mean_square_real


@dataclass(frozen=True)
class NlmsBounds(_Named):
    """Upper bounds on mu in w(n+1) = w(n) + mu e(n) u(n) / (eps + |u(n)|^2), a pure number."""

    any_input: float
    mean: float
    mean_square: float


def stability_bounds(R: ArrayLike) -> StabilityBounds:
    """Bounds on the LMS step size for the input autocorrelation R, in units of mu.

    Parameters
    ----------
    R : (L, L) real symmetric or complex Hermitian; may be singular, not zero.

    Returns
    -------
    StabilityBounds, with mean_square_real <= mean_square_complex <= trace <= mean.

    Raises
    ------
    TypeError, ValueError : as ``natural_modes``; ValueError for R = 0, which bounds nothing.

    Notes
    -----
    Mean square, real: sum_k mu l_k / (2 (1 - mu l_k)) = 1, with mu < 1 / l_max; circular complex:
    sum_k mu l_k / (2 - mu l_k) = 1  (Horowitz and Senne 1981; Feuer and Weinstein 1985).

    Examples
    --------
    >>> bounds = stability_bounds([[1.0, 0.0], [0.0, 1.0]])
    >>> bounds.trace, bounds.mean, round(bounds.mean_square_real, 9)
    (1.0, 2.0, 0.5)
    """
    return block_bounds(R, block=1)


def block_bounds(R: ArrayLike, *, block: int) -> StabilityBounds:
    """Bounds on mu for block LMS, w <- w + (mu / B) sum over B samples of e u; units of mu.

    Parameters
    ----------
    R : (L, L) as in :func:`stability_bounds`.
    block : B, samples per update. 1 is LMS; for large B the mean-square bound tends to ``mean``.

    Returns
    -------
    StabilityBounds

    Raises
    ------
    TypeError, ValueError : as :func:`stability_bounds`; block < 1.

    Notes
    -----
    With kappa = 2 for real and 1 for circular complex data, averaging B independent gradients
    leaves E[S K S] = (R K R (kappa + B - 1) + R tr(R K)) / B, so the edge is at
    sum_k mu l_k / (2 B - mu l_k (kappa + B - 1)) = 1  (Feuer 1985, block LMS, real data).

    Examples
    --------
    >>> bounds = block_bounds([[1.0]], block=4)
    >>> bounds.mean, round(bounds.mean_square_real, 9)  # 2 B / (B + 2)
    (2.0, 1.333333333)
    """
    modes = _excited(R)
    B = _checks.count("block", block)

    def edge(kappa: int) -> float:
        share = (kappa + B - 1) / B
        return _edge(modes, lambda x: x / B / (2 - share * x), 2 / share)

    return _bounds(modes, 2.0, edge)


def leaky_bounds(R: ArrayLike, *, leakage: float) -> StabilityBounds:
    """Bounds on mu for leaky LMS, w(n+1) = (1 - mu leakage) w(n) + mu e(n) u(n); units of mu.

    Parameters
    ----------
    R : (L, L) as in :func:`stability_bounds`.
    leakage : gamma >= 0, in units of input power: weight decay. 0 is LMS.

    Returns
    -------
    StabilityBounds

    Raises
    ------
    TypeError, ValueError : as :func:`stability_bounds`; leakage < 0.

    Notes
    -----
    Mean: |1 - mu (gamma + l_k)| < 1. Mean square, kappa = 2 real, 1 circular complex:
    sum_k mu l_k^2 / (2 (gamma + l_k) - mu (gamma^2 + 2 gamma l_k + kappa l_k^2)) = 1
    (Mayyas and Aboulnasr 1997, real data).

    Examples
    --------
    >>> leaky_bounds([[1.0]], leakage=1.0).mean
    1.0
    """
    modes = _excited(R)
    g = _checks.nonnegative("leakage", leakage) / float(modes.eigenvalues[-1])

    def edge(kappa: int) -> float:
        lam = modes.eigenvalues / modes.eigenvalues[-1]
        square = g * g + 2 * g * lam + kappa * lam * lam
        pole = np.min(2 * (g + lam[lam > 0]) / square[lam > 0])

        def terms(mu: float) -> Array:
            load: Array = mu * lam**2 / (2 * (g + lam) - mu * square)
            return load

        # with no leakage a mode without power is 0 / 0: it carries no load
        if g == 0:
            return _edge(modes, lambda x: x / (2 - kappa * x), 2 / kappa)
        return _root(terms, float(pole)) / float(modes.eigenvalues[-1])

    top = float(modes.eigenvalues[-1])
    trace = float(modes.eigenvalues.sum())
    return StabilityBounds(
        trace=2 / (trace + g * top),
        mean=2 / (top + g * top),
        mean_square_real=edge(2),
        mean_square_complex=edge(1),
    )


def momentum_bounds(R: ArrayLike, *, momentum: float) -> StabilityBounds:
    """Bounds on mu for w(n+1) = w(n) + mu e(n) u(n) + momentum (w(n) - w(n-1)); units of mu.

    Parameters
    ----------
    R : (L, L) as in :func:`stability_bounds`.
    momentum : beta, 0 <= beta < 1: heavy ball, as in torch's SGD without dampening. 0 is LMS.

    Returns
    -------
    StabilityBounds. Momentum raises ``mean`` and lowers the mean-square bounds.

    Raises
    ------
    TypeError, ValueError : as :func:`stability_bounds`; momentum outside [0, 1).

    Notes
    -----
    Mean: both roots of z^2 - (1 + beta - mu l) z + beta lie inside the unit circle iff
    mu l < 2 (1 + beta) (Polyak 1964). Mean square, with x_k = mu l_k and kappa = 2 for real, 1
    for circular complex data, from the steady state of the second moments of (v(n), v(n-1)):
    sum_k x_k / ((1 - beta) (2 - x_k / (1 + beta)) - (kappa - 1) x_k) = 1
    (Roy and Shynk 1990 give the small-step form).

    Examples
    --------
    >>> bounds = momentum_bounds([[1.0]], momentum=0.5)
    >>> bounds.mean, round(bounds.mean_square_real, 9)
    (3.0, 0.428571429)
    """
    modes = _excited(R)
    beta = _checks.fraction("momentum", momentum)

    def edge(kappa: int) -> float:
        share = (1 - beta) / (1 + beta) + kappa - 1
        return _edge(modes, lambda x: x / (2 * (1 - beta) - share * x), 2 * (1 - beta) / share)

    return _bounds(modes, 2 * (1 + beta), edge)


def nlms_bounds(R: ArrayLike, *, eps: float | None = None) -> NlmsBounds:
    """Bounds on the NLMS step size, a pure number, for Gaussian regressors of autocorrelation R.

    Parameters
    ----------
    R : (L, L) real symmetric or complex Hermitian (circular complex data); singular allowed.
    eps : regularisation, in units of |u|^2; None is 1e-6 tr(R), as the filter takes it.

    Returns
    -------
    NlmsBounds: ``any_input`` is 2; ``mean`` = 2 / max_i E[u_i^2 / (eps + |u|^2)] and the exact
    ``mean_square`` are for Gaussian regressors. mean_square >= 2, with equality for eps = 0.

    Raises
    ------
    TypeError, ValueError : as :func:`stability_bounds`; eps < 0.

    Notes
    -----
    With a_i and B_ij the moments of :func:`predict_nlms`, the map 1 - 2 mu diag(a) + mu^2 B is
    symmetric and nonnegative, so its spectral radius is 1 at mu = 2 / lambda_max(A^-1/2 B A^-1/2).

    Examples
    --------
    >>> bounds = nlms_bounds([[1.0, 0.0], [0.0, 1.0]], eps=0.0)
    >>> round(bounds.mean, 9), round(bounds.mean_square, 9)
    (4.0, 2.0)
    """
    modes = _excited(R)
    floor = checked_eps(eps, modes)
    lam = modes.eigenvalues[~modes.stationary].astype(np.float64)
    a, _, B = normalized_moments(lam, floor, circular=np.iscomplexobj(modes.eigenvectors))
    root = np.sqrt(a)
    return NlmsBounds(
        any_input=2.0,
        mean=2 / float(a.max()),
        mean_square=2 / float(np.linalg.eigvalsh(B / root / root[:, None])[-1]),
    )


def checked_eps(eps: float | None, modes: NaturalModes) -> float:
    """The regularisation of NLMS; None is 1e-6 of the mean of |u|^2."""
    if eps is None:
        return 1e-6 * float(modes.eigenvalues.sum())
    return _checks.nonnegative("eps", eps)


def _excited(R: ArrayLike) -> NaturalModes:
    """Modes of an R that bounds a step size."""
    modes = natural_modes(R)
    if modes.rank == 0:
        raise ValueError("R must not be zero: a silent input bounds no step size")
    return modes


def _bounds(modes: NaturalModes, mean: float, edge: Callable[[int], float]) -> StabilityBounds:
    """``mean`` is the largest stable mu lambda_max; ``edge`` the mean-square bound for a kappa."""
    return StabilityBounds(
        trace=mean / float(modes.eigenvalues.sum()),
        mean=mean / float(modes.eigenvalues[-1]),
        mean_square_real=edge(2),
        mean_square_complex=edge(1),
    )


def _edge(modes: NaturalModes, load: Callable[[Array], Array], pole: float) -> float:
    """The mu at which the loads of all modes, functions of mu lambda_k, add up to 1."""
    lam = (modes.eigenvalues / modes.eigenvalues[-1]).astype(np.float64)
    return _root(lambda mu: load(mu * lam), pole) / float(modes.eigenvalues[-1])


def _root(terms: Callable[[float], Array], pole: float) -> float:
    """The mu in (0, pole) at which the increasing sum of terms reaches 1."""

    def gap(mu: float) -> float:
        return float(np.sum(terms(mu))) - 1.0

    return float(scipy.optimize.brentq(gap, 0.0, pole * (1 - 1e-14), xtol=1e-300, rtol=1e-14))
