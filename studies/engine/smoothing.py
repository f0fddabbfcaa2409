"""Smoothing of loss curves."""

from __future__ import annotations

import numpy as np

__all__ = ["SMOOTHING", "running_mean"]

SMOOTHING = 10  # updates over which the studies average a loss


def running_mean(values: np.ndarray, width: int = SMOOTHING) -> np.ndarray:
    """Mean of the last ``width`` values at each place, or of all values so far near the start.

    Examples
    --------
    >>> running_mean(np.array([2.0, 4.0, 6.0]), width=2).tolist()
    [2.0, 3.0, 5.0]
    """
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=float)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
