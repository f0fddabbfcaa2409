"""Learning curves before the run: what theory says E|e(n)|^2 and E[w(n)] will be."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from adaptive import _checks
from adaptive._checks import Array
from adaptive.results import LearningCurve
from adaptive.stability import stability_bounds
from adaptive.wiener import WienerProblem

INDEPENDENCE = (
    "zero-mean {kind} Gaussian regressors, independent from sample to sample; exact for those, "
    "an approximation for a delay line, whose neighbouring regressors share samples"
)


def predict_lms(
    problem: WienerProblem, *, mu: float, steps: int, w0: ArrayLike | None = None
) -> LearningCurve:
    """Learning curve of LMS, from R, P and J_min alone.

    Parameters
    ----------
    problem : the Wiener problem; a complex R means circular complex regressors.
    mu : step size.
    steps : number of updates.
    w0 : initial weights, shape of ``problem.P``; zeros when None.

    Returns
    -------
    LearningCurve. A step size above the bound gives a growing curve and ``stable=False``.

    Raises
    ------
    TypeError, ValueError : mu <= 0, steps < 1, w0 of the wrong shape.

    Notes
    -----
    With k_i(n) = E|v_i(n)|^2, real data:
    k_i(n+1) = (1 - 2 mu l_i + 2 mu^2 l_i^2) k_i + mu^2 l_i sum_j l_j k_j + mu^2 J_min l_i,
    circular complex data: the same with mu^2 l_i^2 in place of 2 mu^2 l_i^2
    (Horowitz and Senne 1981; Feuer and Weinstein 1985). MSE(n) = J_min + sum_i l_i k_i(n).

    Examples
    --------
    >>> problem = WienerProblem(R=[[1.0, 0.0], [0.0, 1.0]], P=[1.0, 0.0], d_power=1.01)
    >>> curve = predict_lms(problem, mu=0.1, steps=100)
    >>> round(float(curve.mse[0]), 12), round(curve.misadjustment, 12), curve.stable
    (1.01, 0.125, True)
    """
    mu = _checks.positive("mu", mu)
    steps = _checks.count("steps", steps)
    complex_data = np.iscomplexobj(problem.R)
    modes = problem.modes
    v0 = modes.to_modes(_initial_error(problem, w0))
    mean = modes.trajectory(v0, mu, steps)

    # only excited modes: lambda = 0 leaves its mode where it is and adds nothing to the MSE
    excited = ~modes.stationary
    lam = modes.eigenvalues[excited].astype(np.float64)
    k = (np.abs(v0) ** 2).reshape(-1, modes.eigenvalues.size).sum(axis=0)[excited]
    J_min = problem.J_min
    decay = 1 - 2 * mu * lam + (1 if complex_data else 2) * (mu * lam) ** 2
    mse = np.empty(steps)
    with np.errstate(over="ignore"):
        for n in range(steps):
            excess = float(lam @ k)
            mse[n] = J_min + excess
            k = decay * k + mu**2 * lam * (excess + J_min)

    bounds = stability_bounds(problem.R)
    edge = bounds.mean_square_complex if complex_data else bounds.mean_square_real
    stable = mu < edge
    load = np.sum(mu * lam / (2 - mu * lam) if complex_data else mu * lam / (2 * (1 - mu * lam)))
    emse = J_min * float(load / (1 - load)) if stable else np.inf
    return LearningCurve(
        algorithm="lms",
        mu=mu,
        mse=mse,
        weights=_mean_weights(problem, mean),
        modes=mean,
        J_min=J_min,
        emse=emse,
        misadjustment=_misadjustment(emse, J_min),
        stable=stable,
        assumption=INDEPENDENCE.format(kind="circular complex" if complex_data else "real"),
    )


def _initial_error(problem: WienerProblem, w0: ArrayLike | None) -> Array:
    """w(0) - w_o, shape of P."""
    if w0 is None:
        return -problem.w_o
    start = _checks.array("w0", w0, ndim=(problem.P.ndim,))
    if start.shape != problem.P.shape:
        raise ValueError(f"w0 must have the shape of P, {problem.P.shape}; got {start.shape}")
    error: Array = start - problem.w_o
    return error


def _mean_weights(problem: WienerProblem, mean: Array) -> Array:
    """E[w(n)] from the mean modes; inf where a mode has overflowed, whatever the sign."""
    with np.errstate(over="ignore", invalid="ignore"):
        weights: Array = problem.w_o + problem.modes.to_weights(mean)
    weights[~np.isfinite(weights)] = np.inf
    return weights


def _misadjustment(emse: float, J_min: float) -> float:
    return emse / J_min if J_min > 0 else float("nan")
