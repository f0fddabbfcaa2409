"""How a length that was changed settles again: the fit, and what theory says of it."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["fallen", "fitted_time", "relaxation_time"]

Array = np.ndarray

# the difference of the twins is fitted until it has fallen to this part of its start
FALLEN = 0.15
FINE = 1e-3  # step of the numerical solution, in time constants


def fallen(difference: Array) -> int:
    """How many values come before the first below ``FALLEN``; all if none is."""
    below = np.flatnonzero(difference < FALLEN)
    return int(below[0]) if len(below) else len(difference)


def fitted_time(difference: Array) -> float:
    """Time constant of a falling exponential that starts at 1, from its first fall.

    Least squares through the start on the logarithm, up to where the difference first falls below
    ``FALLEN``, or to the end.

    Examples
    --------
    >>> round(fitted_time(np.exp(-np.arange(200) / 40)), 6)
    40.0
    """
    end = fallen(difference)
    n, logs = np.arange(end), np.log(difference[:end])
    slope = float(n @ logs) / float(n @ n) if end > 1 else math.nan
    return -1 / slope if slope < 0 else math.nan


def relaxation_time(exponent: float, factor: float) -> float:
    """Fitted time of a length that starts too long, over that of gradients of constant strength.

    With |w|^2 |g|^2 as the effective rate to the power p, u = |w|^4 over its settled value obeys
    du/dt = -u + u^(-p / 2), t in units of the time constant for p = 0.

    Parameters
    ----------
    exponent : p, above -2, below which no length is stable.
    factor : by which the weights start too long.

    Returns
    -------
    1 for p = 0 and 1 / (1 + p / 2) for a factor near 1; NaN where the length does not return.

    Examples
    --------
    >>> relaxation_time(0.0, 1.3), round(relaxation_time(2.0, 1.001), 2)
    (1.0, 0.5)
    """
    if not exponent > -2:
        return math.nan
    u = factor**4
    path = [u - 1]
    while path[-1] >= FALLEN * path[0] and len(path) < 100 / FINE:
        middle = u + FINE / 2 * (u ** (-exponent / 2) - u)
        u += FINE * (middle ** (-exponent / 2) - middle)
        path.append(u - 1)
    return round(FINE * fitted_time(np.array(path) / path[0]), 4)
