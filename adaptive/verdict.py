"""Test a predicted learning curve against a simulated one, step by step."""

from __future__ import annotations

import numpy as np
import scipy

from adaptive import checks as _checks
from adaptive.checks import Array
from adaptive.results import Ensemble, LearningCurve, Verdict

ROUNDING = 1e-9  # relative difference that counts as none


def verdict(prediction: LearningCurve, ensemble: Ensemble, k: float = 4.0) -> Verdict:
    """Compare a predicted learning curve with a simulated one, step by step.

    Parameters
    ----------
    prediction : from ``predict``; for block LMS in updates, each of which is compared with all the
        samples of its block.
    ensemble : from ``simulate``, of the same mu and as many steps.
    k : half-width of the band, in standard errors of the simulated mean, counted on the scale of
        its cube root, where it is nearly normal (see :func:`deviations`).

    Returns
    -------
    Verdict

    Raises
    ------
    TypeError, ValueError : k <= 0, different mu, or numbers of steps that do not match.

    Notes
    -----
    One comparison per step is many comparisons. By Bonferroni's inequality, which needs no
    independence of the steps, a true prediction leaves the band with probability at most
    steps * P(|t| > k), t of Student's distribution with runs - 1 degrees of freedom: that is
    ``false_alarm``. It supposes that the cube root of the mean over runs is about normal, which
    takes runs: where theory is exact, 300 steps at k = 4 left the band in 2 to 7 % of 100 seeds
    with 512 runs and in 12 % with 128, against 2 and 3 % stated. Near the edge of stability
    squared errors are heavier-tailed still, and only very many runs can decide.

    Examples
    --------
    >>> import adaptive
    >>> scenario = adaptive.SystemIdentification(
    ...     adaptive.GaussianRegressors([[1.0, 0.5], [0.5, 1.0]]), w_o=[1.0, -1.0], noise_power=0.01
    ... )
    >>> curve = adaptive.predict_lms(scenario.problem, mu=0.1, steps=100)
    >>> ensemble = adaptive.simulate(scenario, mu=0.1, steps=100, runs=1000, seed=0)
    >>> verdict(curve, ensemble).holds
    True
    >>> other = adaptive.predict_nlms(scenario.problem, mu=0.1, eps=0.1, steps=100)
    >>> verdict(other, ensemble).first_outside < 10
    True
    """
    k = _checks.positive("k", k)
    _checks.instance("prediction", prediction, LearningCurve)
    _checks.instance("ensemble", ensemble, Ensemble)
    # RLS has no mu: NaN there says nothing
    if abs(prediction.mu - ensemble.mu) > ROUNDING * abs(ensemble.mu):
        raise ValueError(
            f"prediction and ensemble must be of the same mu; got {prediction.mu:.6g} and "
            f"{ensemble.mu:.6g}"
        )
    predicted = _matched(prediction, ensemble)
    z = deviations(predicted, ensemble.mse, ensemble.mse_se)
    size = _typical(predicted, ensemble.mse)
    outside = np.flatnonzero(np.abs(z) > k)
    worst = int(np.argmax(np.abs(z)))
    chance = 2 * float(scipy.stats.t.sf(k, ensemble.runs - 1))
    first = int(outside[0]) if outside.size else None
    false_alarm = min(1.0, z.size * chance)
    fraction = outside.size / z.size
    return Verdict(
        holds=first is None,
        k=k,
        steps=z.size,
        runs=ensemble.runs,
        first_outside=first,
        fraction_outside=fraction,
        z=z,
        largest_z=float(np.abs(z[worst])),
        worst_step=worst,
        false_alarm=false_alarm,
        typical_dB=size,
        diverged=ensemble.diverged,
        text=_sentence(prediction, ensemble, k, z, first, fraction, worst, false_alarm, size),
    )


def deviations(predicted: Array, mean: Array, standard_error: Array) -> Array:
    """How far simulated means of squares lie from predicted ones, as normal scores.

    Parameters
    ----------
    predicted, mean, standard_error : (steps,), not negative; inf allowed.

    Returns
    -------
    (steps,) z; never NaN. Where neither predicted nor mean is finite they agree: 0. Where one is,
    or where they differ with no usable standard error: inf with the sign of the difference.

    Notes
    -----
    The mean of squares is skewed, and low means come with low standard errors, so that the plain
    ratio (mean - predicted) / se strays far below zero by chance. On the scale of the cube root it
    is close to normal: with rho = se / mean and a = rho^2 / 9,
    z = ((mean / predicted)^(1/3) - (1 - a)) / sqrt(a)  (Wilson and Hilferty 1931, for chi-square
    of 2 / rho^2 degrees of freedom). For many runs this is the plain ratio.
    """
    both = np.isfinite(mean) & np.isfinite(predicted)
    usable = both & np.isfinite(standard_error) & (standard_error > 0) & (mean > 0)
    with np.errstate(all="ignore"):
        root = standard_error / mean / 3
        z: Array = (np.cbrt(mean / predicted) - 1 + root**2) / root
        usable &= ~np.isnan(z)
        equal = np.abs(mean - predicted) <= ROUNDING * np.maximum(mean, predicted)
    z = np.where(usable, z, np.where(mean < predicted, -np.inf, np.inf))
    z[~usable & both & equal] = 0.0
    z[np.isinf(mean) & np.isinf(predicted)] = 0.0
    return z


def band(mean: Array, standard_error: Array, k: float) -> tuple[Array, Array]:
    """The predictions that lie within k of a simulated mean: lower and upper end, (steps,) each.

    The inverse of :func:`deviations`. The upper end is inf where the runs exclude no large value,
    and both ends are NaN where the mean is not finite.
    """
    with np.errstate(all="ignore"):
        root = standard_error / mean / 3
        low = mean / (1 - root**2 + k * root) ** 3
        shrunk = 1 - root**2 - k * root
        high = np.where(shrunk > 0, mean / np.maximum(shrunk, 1e-100) ** 3, np.inf)
    known = np.isfinite(mean) & np.isfinite(standard_error) & (mean > 0)
    return np.where(known, low, np.nan), np.where(known, high, np.nan)


def _matched(prediction: LearningCurve, ensemble: Ensemble) -> Array:
    """The predicted MSE at the ensemble's samples."""
    mse = prediction.mse
    block = prediction.samples_per_update
    if block > 1 and block != ensemble.samples_per_update:
        raise ValueError(
            f"prediction and ensemble must be of the same block; got {block} and "
            f"{ensemble.samples_per_update}"
        )
    if -(-ensemble.steps // block) != mse.size:
        unit = f" updates of {block} samples" if block > 1 else ""
        raise ValueError(
            f"prediction and ensemble must have the same number of steps; got {mse.size}{unit} "
            f"and {ensemble.steps}"
        )
    return np.repeat(mse, block)[: ensemble.steps]


def _typical(predicted: Array, mean: Array) -> float | None:
    """Median |dB| between two curves, over the steps where that means something."""
    good = np.isfinite(predicted) & np.isfinite(mean) & (predicted > 0) & (mean > 0)
    if not good.any():
        return None
    return float(np.median(np.abs(10 * (np.log10(mean[good]) - np.log10(predicted[good])))))


def _sentence(
    prediction: LearningCurve,
    ensemble: Ensemble,
    k: float,
    z: Array,
    first: int | None,
    fraction: float,
    worst: int,
    false_alarm: float,
    size: float | None,
) -> str:
    """The verdict in words."""
    lost = ""
    if ensemble.diverged:
        expected = (
            "though the prediction converges"
            if prediction.stable
            else "and the prediction does not converge either"
        )
        lost = f"; {ensemble.diverged} of {ensemble.runs} runs diverged, {expected}"
    typical = "" if size is None else f", typically {size:.2g} dB from the prediction"
    if first is None:
        text = (
            f"The prediction holds: all {z.size} steps lie within {k:g} standard errors of "
            f"{ensemble.runs} runs, the largest deviation being {np.abs(z[worst]):.2f} at step "
            f"{worst} (by chance alone a true prediction leaves this band with probability "
            f"at most {false_alarm:.2g})"
        )
    else:
        side = "above" if z[first] > 0 else "below"
        text = (
            f"The prediction fails: the simulation leaves the band of {k:g} standard errors of "
            f"{ensemble.runs} runs at step {first}, {side} it, and is outside at {fraction:.2%} of "
            f"{z.size} steps, with the largest deviation {np.abs(z[worst]):.3g} standard errors at "
            f"step {worst}{typical} (chance alone: probability at most {false_alarm:.2g})"
        )
    return f"{text}{lost}."
