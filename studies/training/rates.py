"""Grids of learning rates, and the search for the highest stable rate on one. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["geometric_rates", "highest_on_grid", "stable_interval"]


def geometric_rates(lowest: float, octaves: int, per_octave: int = 2) -> tuple[float, ...]:
    """Learning rates from ``lowest`` upwards, ``per_octave`` to each factor of two.

    Examples
    --------
    >>> geometric_rates(0.5, octaves=2, per_octave=1)
    (0.5, 1.0, 2.0)
    """
    steps = np.arange(octaves * per_octave + 1) / per_octave
    return tuple(float(rate) for rate in lowest * 2.0**steps)


def highest_on_grid(rates: Sequence[float], stable: Callable[[float], bool]) -> int:
    """Find the index of the highest stable rate by bisection; -1 if the first is unstable.

    The search assumes that every rate below a stable one is stable, which a network does not
    guarantee.

    Examples
    --------
    >>> highest_on_grid((1.0, 2.0, 4.0), lambda rate: rate < 3)
    1
    """
    low, high = -1, len(rates)
    while high - low > 1:
        middle = (low + high) // 2
        if stable(rates[middle]):
            low = middle
        else:
            high = middle
    return low


def stable_interval(rates: Sequence[float], index: int) -> tuple[float, float]:
    """Bounds on the highest stable rate, given the index that ``highest_on_grid`` returned.

    A rate on the grid counts as exact; off either end of the grid the interval is open.

    Examples
    --------
    >>> stable_interval((1.0, 2.0, 4.0), 1), stable_interval((1.0, 2.0, 4.0), 2)
    ((2.0, 2.0), (4.0, inf))
    """
    if index < 0:
        return 0.0, rates[0]
    at = rates[index]
    return (at, math.inf) if index == len(rates) - 1 else (at, at)
