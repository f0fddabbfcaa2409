"""Search for a threshold: bracket the point from which something fails, then bisect it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from adaptive import checks as _checks


class NotBracketed(ValueError):
    """No threshold within reach: everything tried failed, or nothing did.

    Attributes
    ----------
    at : the last point tried.
    fails : whether that point, and every one before it, failed.
    """

    def __init__(self, name: str, at: float, fails: bool) -> None:
        self.at, self.fails = at, fails
        found = "stable value found down" if fails else "divergence found up"
        super().__init__(f"no {found} to {name} = {at:.3g}")


def bracket(
    fails: Callable[[float], bool],
    low: float,
    high: float | None = None,
    *,
    down: float = 2.0,
    up: float = 2.0,
    reach: float = 2.0**60,
    name: str = "mu",
) -> tuple[float, float]:
    """Two points, the lower of which passes and the upper of which fails.

    Goes down from ``low`` by factors ``down`` to a point that passes, and from there up by factors
    ``up`` to the first that fails: the lowest threshold, unless two lie within one factor.

    Parameters
    ----------
    fails : whether a point lies beyond the threshold.
    low : where to start, positive.
    high : second point tried, when ``low`` passes; None is ``low * up``.
    down, up : ratios of neighbouring points, above 1.
    reach : largest ratio of a point tried to the starting point, on either side.
    name : what is searched for, in messages.

    Returns
    -------
    (low, high), both tried.

    Raises
    ------
    NotBracketed : a ValueError; no threshold within ``reach``.

    Examples
    --------
    >>> bracket(lambda x: x > 10, 1.0), bracket(lambda x: x > 10, 100.0)
    ((8.0, 16.0), (6.25, 12.5))
    """
    floor, ceiling = low / reach, (low if high is None else high) * reach
    above = None  # the lowest point known to fail
    while fails(low):
        above, low = low, low / down
        if low < floor:
            raise NotBracketed(name, low, fails=True)
    if above is not None and up >= down:
        return low, above
    if above is not None:
        high = None
    upper = low * up if high is None else high
    while not fails(upper):
        low, upper = upper, upper * up
        if upper > ceiling:
            raise NotBracketed(name, upper, fails=False)
    return low, upper


def bisect(
    fails: Callable[[float], bool],
    low: float,
    high: float,
    *,
    width: float,
    geometric: bool = False,
) -> tuple[float, float]:
    """Narrow a bracket by halving until high - low <= width * high.

    Parameters
    ----------
    fails : whether a point lies beyond the threshold.
    low, high : a point that passes and one that fails, as from :func:`bracket`.
    width : relative width wanted, in (0, 1).
    geometric : halve the ratio of the ends, not their difference.

    Returns
    -------
    (low, high): the narrowed bracket.

    Raises
    ------
    ValueError : ends not positive and ascending, width not between 0 and 1.

    Examples
    --------
    >>> low, high = bisect(lambda x: x > 10, 8.0, 16.0, width=1e-3)
    >>> low <= 10 < high, high - low <= 1e-3 * high
    (True, True)
    """
    _checks.quantile("width", width)
    if not _checks.positive("low", low) < _checks.positive("high", high):
        raise ValueError(f"low must be less than high; got {low} and {high}")
    while high - low > width * high:
        middle = float(np.sqrt(low * high)) if geometric else (low + high) / 2
        if not low < middle < high:
            break  # neighbouring numbers
        if fails(middle):
            high = middle
        else:
            low = middle
    return low, high
