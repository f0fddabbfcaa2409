"""Bounds on the step size: what all algorithms share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive.checks import Array
from adaptive.modes import NaturalModes, natural_modes
from adaptive.results import StabilityBounds


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
    modes = excited(R)
    B = _checks.count("block", block)

    def edge(kappa: int) -> float:
        share = (kappa + B - 1) / B
        return linear_edge(modes, lambda x: x / B / (2 - share * x), 2 / share)

    return linear_bounds(modes, 2.0, edge)


def excited(R: ArrayLike) -> NaturalModes:
    """Modes of an R that bounds a step size."""
    modes = natural_modes(R)
    if modes.rank == 0:
        raise ValueError("R must not be zero: a silent input bounds no step size")
    return modes


def linear_bounds(
    modes: NaturalModes, mean: float, edge: Callable[[int], float]
) -> StabilityBounds:
    """``mean`` is the largest stable mu lambda_max; ``edge`` the mean-square bound for a kappa."""
    return StabilityBounds(
        trace=mean / float(modes.eigenvalues.sum()),
        mean=mean / float(modes.eigenvalues[-1]),
        mean_square_real=edge(2),
        mean_square_complex=edge(1),
    )


def linear_edge(modes: NaturalModes, load: Callable[[Array], Array], pole: float) -> float:
    """The mu at which the loads of all modes, functions of mu lambda_k, add up to 1."""
    lam = (modes.eigenvalues / modes.eigenvalues[-1]).astype(np.float64)
    return load_root(lambda mu: load(mu * lam), pole) / float(modes.eigenvalues[-1])


def load_root(terms: Callable[[float], Array], pole: float) -> float:
    """The mu in (0, pole) at which the increasing sum of terms reaches 1.

    Terms so small that they reach it within rounding of their pole only put it there.
    """
    last = pole * (1 - 1e-14)

    def gap(mu: float) -> float:
        return float(np.sum(terms(mu))) - 1.0

    if gap(last) <= 0:
        return last
    return float(scipy.optimize.brentq(gap, 0.0, last, xtol=1e-300, rtol=1e-14))
