"""Verdicts from a handful of paired runs, without assuming how they are distributed."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from studies.engine import page as report
from studies.engine.summary import Check, Verdict

__all__ = ["CONFIDENCE", "Interval", "judge", "median_bounds", "ratio"]

CONFIDENCE = 0.95

Interval = tuple[float, float]
"""A number that is known to lie between two others; both the same where it is known."""


def median_bounds(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """One-sided bounds, each at the confidence, of the median that the values are drawn about.

    The k-th smallest of n values exceeds the median with the probability that at most k - 1 of n
    fair coins show heads, whatever the distribution. So five values give the smallest and the
    largest at 97 %, eight the second ones at 96 %; fewer than five cannot give 95 %.

    Returns
    -------
    (lower, upper); infinite where there are too few values.

    Examples
    --------
    >>> median_bounds([3.0, 1.0, 2.0, 5.0, 4.0])
    (1.0, 5.0)
    >>> median_bounds([1.0, 2.0])
    (-inf, inf)
    """
    n = len(values)
    ordered = sorted(values)
    k = _rank(n, confidence)
    return (ordered[k - 1], ordered[n - k]) if k else (-math.inf, math.inf)


@functools.cache
def _rank(n: int, confidence: float) -> int:
    """The largest k for which at most k - 1 heads of n fair coins are rare enough; 0 if none is."""
    k, tail = 0, 0.5**n
    while k < n and tail <= 1 - confidence:
        k += 1
        tail += math.comb(n, k) * 0.5**n
    return k


def ratio(above: Interval, below: Interval) -> Interval:
    """Between what the ratio of two positive numbers lies."""
    low = above[0] / below[1] if math.isfinite(below[1]) else 0.0
    high = above[1] / below[0] if below[0] > 0 else math.inf
    return low, high


def judge(
    name: str,
    values: Sequence[Interval],
    limit: float,
    side: Literal["at least", "at most"],
    *,
    unit: str,
    note: str = "",
) -> Check:
    """A verdict on the median over seeds: is it at least, or at most, the limit?

    It holds when the one-sided 95 % bound of the median is on the right side of the limit, fails
    when the other bound is on the wrong side, and is inconclusive otherwise. A value that is only
    known to lie in an interval counts with the end that speaks against the verdict.

    Parameters
    ----------
    name : of the check.
    values : one interval per seed.
    limit, side : of the median.
    unit, note : of the check.
    """
    lows, highs = [v[0] for v in values], [v[1] for v in values]
    lower, upper = median_bounds(lows)[0], median_bounds(highs)[1]
    if side == "at least":
        verdict: Verdict = (
            "holds" if lower >= limit else "fails" if upper < limit else "inconclusive"
        )
    else:
        verdict = "holds" if upper <= limit else "fails" if lower > limit else "inconclusive"
    words = [note] if note else []
    words.append(f"median over {len(values)} seeds {_median(lows, highs)}")
    if math.isfinite(lower) or math.isfinite(upper):
        words.append(f"bounds {report.number(lower, 3)} and {report.number(upper, 3)}")
    else:
        words.append("too few seeds for a 95 % bound")
    observed = float(np.median(lows)) if values else None
    return Check(
        name=name,
        predicted=limit,
        observed=observed,
        tolerance=0.0,
        verdict=verdict,
        rule=f"one-sided 95 % bound of the median is {side} the predicted",
        unit=unit,
        note=", ".join(words),
    )


def _median(lows: Sequence[float], highs: Sequence[float]) -> str:
    if not lows:
        return "unknown"
    low, high = float(np.median(lows)), float(np.median(highs))
    if low == high:
        return report.number(low, 3)
    return (
        f"at least {report.number(low, 3)}"
        if math.isinf(high)
        else f"from {report.number(low, 3)} to {report.number(high, 3)}"
    )
