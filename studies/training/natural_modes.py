"""When and how far the natural modes of a layer move in a training."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

__all__ = ["half_times", "partial_rank_correlation", "rank_correlation", "tap_distances"]

Array = np.ndarray


def tap_distances(modes: Array, groups: int, L: int) -> Array:
    """Length of each tap mode over the output channels of its group, (steps + 1, groups * L)."""
    split = modes.reshape(len(modes), groups, -1, L)
    lengths: Array = np.linalg.norm(split, axis=2).reshape(len(modes), -1)
    return lengths


def half_times(distance: Array) -> Array:
    """Step at which each column first reaches half of its final value, interpolated linearly.

    Parameters
    ----------
    distance : (steps + 1, K); the first row is zero.

    Returns
    -------
    (K,); NaN for a column that ends at 0 or is not finite.

    Examples
    --------
    >>> half_times(np.array([[0.0, 0.0, 0.0], [1.0, 3.0, 0.0], [2.0, 4.0, 0.0]])).round(2)
    array([1.  , 0.67,  nan])
    """
    half = distance[-1] / 2
    times = np.full(distance.shape[1], np.nan)
    for k in np.flatnonzero(np.isfinite(half) & (half > 0)):
        n = int(np.argmax(distance[:, k] >= half[k]))
        low, high = distance[n - 1, k], distance[n, k]
        times[k] = n - 1 + (half[k] - low) / (high - low)
    return times


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's rank correlation; NaN for fewer than three values or a constant.

    Examples
    --------
    >>> round(rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 9.0, 27.0])), 6)
    1.0
    """
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(stats.spearmanr(a, b).statistic)


def partial_rank_correlation(a: Array, b: Array, given: Array) -> float:
    """Spearman's rank correlation of a and b with that part removed that both owe to ``given``.

    NaN for fewer than four values, a constant, or ranks of ``given`` that equal those of a or b.

    Examples
    --------
    >>> given = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    >>> both = np.array([2.0, 1.0, 3.0, 5.0, 4.0])
    >>> round(rank_correlation(both, both[::-1]), 3)
    -1.0
    >>> round(partial_rank_correlation(both, both, given), 3)
    1.0
    """
    if len(a) < 4:
        return math.nan
    ab, ac, bc = (rank_correlation(p, q) for p, q in ((a, b), (a, given), (b, given)))
    left = (1 - ac**2) * (1 - bc**2)
    return (ab - ac * bc) / math.sqrt(left) if left > 1e-12 else math.nan
