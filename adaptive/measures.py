"""Figures of merit of what a filter learned: from a run, an ensemble or a predicted curve alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive.checks import Array
from adaptive.results import Ensemble, FilterRun, LearningCurve

Learned = FilterRun | Ensemble | LearningCurve


def squared_error(learned: Learned) -> Array:
    """(N,) |e(n)|^2 of a run, summed over outputs, or its mean; a curve has one per update.

    Raises
    ------
    TypeError : what is no run, ensemble or curve.

    Examples
    --------
    >>> import adaptive
    >>> squared_error(adaptive.lms([1.0, 1.0], [2.0, 1.0], mu=0.25, taps=1)).tolist()
    [4.0, 0.25]
    """
    if isinstance(learned, FilterRun):
        with np.errstate(over="ignore"):
            square: Array = np.abs(learned.error).reshape(len(learned.error), -1) ** 2
            return square.sum(axis=1, dtype=np.float64)
    if isinstance(learned, Ensemble | LearningCurve):
        return learned.mse
    raise TypeError(
        f"learned must be a FilterRun, an Ensemble or a LearningCurve; got {_checks.shown(learned)}"
    )


def erle(learned: Learned, *, window: int = 1, d_power: float | None = None) -> Array:
    """Echo return loss enhancement, 10 log10 of the power of d over that of e, at each sample.

    Parameters
    ----------
    learned : a run, an ensemble or a predicted curve.
    window : samples (updates, of a curve) up to the present one over which powers are averaged;
        fewer at the start.
    d_power : E|d|^2, for an ensemble or a curve, which do not hold d: ``problem.d_power``.

    Returns
    -------
    (N,) in dB; inf where the error is zero, NaN after divergence and where both are silent.

    Raises
    ------
    TypeError, ValueError : d_power given for a run, or left out where it is needed; window < 1.

    Notes
    -----
    ITU-T G.168. What d holds beside the echo counts as error: the measure is the canceller's own
    only while the near end is silent.

    Examples
    --------
    >>> import adaptive
    >>> u = np.random.default_rng(0).standard_normal(2000)
    >>> run = adaptive.nlms(u, 0.5 * u, mu=0.02, taps=2)
    >>> erle(run, window=100)[[99, 299]].round().tolist()
    [4.0, 21.0]
    """
    square, length = squared_error(learned), _checks.count("window", window)
    if isinstance(learned, FilterRun):
        if d_power is not None:
            got = _checks.shown(d_power)
            raise TypeError(f"d_power must be left out for a run, which holds d; got {got}")
        desired = np.abs(learned.desired).reshape(len(square), -1).astype(np.float64) ** 2
        power = _trailing_mean(desired.sum(axis=1), length)
    elif d_power is None:
        raise TypeError("d_power must be given for an ensemble or a curve, which hold no d")
    else:
        power = np.full(len(square), _checks.positive("d_power", d_power))
    with np.errstate(divide="ignore", invalid="ignore"):
        decibels: Array = 10 * np.log10(power / _trailing_mean(square, length))
    return decibels


def misalignment(learned: Learned | ArrayLike, w_o: ArrayLike) -> Array:
    """System distance, 10 log10 of E|w - w_o|^2 over |w_o|^2, wherever weights are known.

    Parameters
    ----------
    learned : a run (every row of its history, or its last weights), an ensemble, a predicted curve,
        or weights (..., L) or (..., M, L) themselves.
    w_o : (L,) or (M, L) the true weights.

    Returns
    -------
    In dB, one per row; of a run without history and of one set of weights, a 0-D array. It is
    infinite where weights are not finite.

    Raises
    ------
    TypeError, ValueError : w_o zero or of another shape than the weights.

    Notes
    -----
    An ensemble's mean square is put together from the mean weights and their standard errors s:
    |E[w] - w_o|^2 + (runs - 1) sum s^2, without bias.

    Examples
    --------
    >>> misalignment([[0.0, 0.0], [0.9, 0.0]], [1.0, 0.0]).round(9).tolist()
    [0.0, -20.0]
    """
    truth = _checks.array("w_o", w_o, ndim=(1, 2))
    scale = float(np.abs(truth).max(initial=0.0))  # in whose units no square overflows
    if scale == 0:
        raise ValueError("w_o must not be zero: the distance is relative to it")
    norm = float(np.sum(np.abs(truth / scale) ** 2))
    spread: Array | float = 0.0
    if isinstance(learned, FilterRun):
        weights = learned.weights if learned.history is None else learned.history
    elif isinstance(learned, Ensemble):
        weights = learned.mean_weights
        spread = (learned.runs - 1) * np.sum(learned.mean_weights_se**2, axis=-1)
    elif isinstance(learned, LearningCurve):
        weights, spread = learned.weights, 0.0
    else:
        weights = _checks.floating("learned", learned)
    if weights.shape[weights.ndim - truth.ndim :] != truth.shape:
        raise ValueError(f"w_o must have the shape of the weights; got {truth.shape}")
    if isinstance(learned, LearningCurve):
        square: Array | float = learned.msd / scale / scale
    else:
        axes = tuple(range(weights.ndim - truth.ndim, weights.ndim))
        # weights that diverged are at an infinite distance
        with np.errstate(over="ignore", invalid="ignore"):
            apart = np.abs(weights / scale - truth / scale).astype(np.float64) ** 2
        apart = np.where(np.isnan(apart), np.inf, apart)
        square = np.sum(apart, axis=axes) + spread / scale / scale
    with np.errstate(divide="ignore"):
        decibels: Array = np.asarray(10 * np.log10(square / norm))
    return decibels


def noise_floor(learned: Learned, *, part: float = 0.1) -> float:
    """Mean-square error at the end: of the last ``part`` of the samples, or the predicted limit.

    Parameters
    ----------
    learned : a run, an ensemble or a predicted curve, whose limit is ``mse_final``.
    part : of the samples, in (0, 1).

    Raises
    ------
    TypeError, ValueError : part outside (0, 1).

    Examples
    --------
    >>> import adaptive
    >>> rng = np.random.default_rng(0)
    >>> u, v = rng.standard_normal((2, 20000))
    >>> round(noise_floor(adaptive.lms(u, u + 0.1 * v, mu=0.01, taps=1)), 4)
    0.0108
    """
    square, share = squared_error(learned), _checks.quantile("part", part)
    if isinstance(learned, LearningCurve):
        return float(learned.mse_final)
    return float(square[-max(1, round(share * len(square))) :].mean())


def time_to(learned: Learned, dB: float, *, window: int = 1) -> int | None:
    """Samples after which the error has come down to within ``dB`` of its floor.

    Parameters
    ----------
    learned : a run, an ensemble or a predicted curve.
    dB : distance above :func:`noise_floor`, positive.
    window : samples (updates, of a curve) over which |e|^2 is averaged; a single run needs many.

    Returns
    -------
    The first such sample; None where the error never comes so far down.

    Raises
    ------
    TypeError, ValueError : dB not positive, window < 1.

    Examples
    --------
    >>> import adaptive
    >>> problem = adaptive.WienerProblem(R=[[1.0]], P=[1.0], d_power=1.01)
    >>> time_to(adaptive.predict_lms(problem, mu=0.1, steps=200), dB=1.0)
    32
    """
    # no curve of finite numbers spans more than 3,000 dB
    limit = noise_floor(learned) * 10 ** (min(_checks.positive("dB", dB), 3000.0) / 10)
    mean = _trailing_mean(squared_error(learned), _checks.count("window", window))
    below = np.flatnonzero(mean <= limit) if np.isfinite(limit) else np.empty(0, int)
    if not below.size:
        return None
    scale = learned.samples_per_update if isinstance(learned, LearningCurve) else 1
    return int(below[0]) * scale


def _trailing_mean(x: Array, window: int) -> Array:
    """Means over the last ``window`` entries, or as many as there are."""
    if window == 1:
        return x
    total = np.concatenate([[0.0], np.cumsum(x)])
    n = np.arange(1, len(x) + 1)
    first = np.maximum(n - window, 0)
    mean: Array = np.maximum(total[n] - total[first], 0.0) / (n - first)
    return mean
