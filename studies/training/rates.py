"""Grids of learning rates. Imports no torch."""

from __future__ import annotations

import numpy as np

__all__ = ["geometric_rates"]


def geometric_rates(lowest: float, octaves: int, per_octave: int = 2) -> tuple[float, ...]:
    """Learning rates from ``lowest`` upwards, ``per_octave`` to each factor of two.

    Examples
    --------
    >>> geometric_rates(0.5, octaves=2, per_octave=1)
    (0.5, 1.0, 2.0)
    """
    steps = np.arange(octaves * per_octave + 1) / per_octave
    return tuple(float(rate) for rate in lowest * 2.0**steps)
