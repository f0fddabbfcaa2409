"""Bounds on the step size, each by the assumption it rests on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike

from adaptive._checks import Array
from adaptive.modes import natural_modes

ASSUMPTIONS = {
    "trace": "sufficient for `mean`, without an eigendecomposition: 2 / tr(R)",
    "mean": "the mean weights converge if and only if mu < 2 / lambda_max; regressors independent "
    "of the weights",
    "mean_square_real": "the MSE converges if and only if mu is below; real Gaussian regressors, "
    "independent from sample to sample",
    "mean_square_complex": "the MSE converges if and only if mu is below; circular complex "
    "Gaussian regressors, independent from sample to sample",
}


@dataclass(frozen=True)
class StabilityBounds:
    """Upper bounds on mu in w(n+1) = w(n) + mu e(n) u(n); ``ASSUMPTIONS`` says what each needs.

    For a learning rate in torch's units see ``cnnbridge.learning_rate_bounds``.
    """

    trace: float
    mean: float
    mean_square_real: float
    mean_square_complex: float

    def __str__(self) -> str:
        rows = (f"mu < {getattr(self, k):<12.6g} {k}: {why}" for k, why in ASSUMPTIONS.items())
        return "\n".join(rows)


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
    modes = natural_modes(R)
    if modes.rank == 0:
        raise ValueError("R must not be zero: a silent input bounds no step size")
    lam = modes.eigenvalues / modes.eigenvalues[-1]
    scale = 1 / float(modes.eigenvalues[-1])
    return StabilityBounds(
        trace=2 * scale / float(lam.sum()),
        mean=2 * scale,
        mean_square_real=scale * _root(lambda mu: mu * lam / (2 * (1 - mu * lam)), 1.0),
        mean_square_complex=scale * _root(lambda mu: mu * lam / (2 - mu * lam), 2.0),
    )


def _root(terms: object, pole: float) -> float:
    """The mu in (0, pole) at which the increasing sum of terms reaches 1."""
    assert callable(terms)

    def gap(mu: float) -> float:
        values: Array = terms(mu)
        return float(np.sum(values)) - 1.0

    return float(scipy.optimize.brentq(gap, 0.0, pole * (1 - 1e-15), xtol=1e-300, rtol=1e-14))
