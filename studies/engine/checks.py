"""Checks: a prediction, an observation, and the verdict that a rule gives.

Verdicts over a handful of seeds make no assumption about how the runs are distributed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from studies.engine.text import number

__all__ = [
    "CONFIDENCE",
    "Check",
    "Interval",
    "Verdict",
    "at_most",
    "inconclusive",
    "median_bounds",
    "median_check",
    "median_verdict",
    "ratio",
    "spread",
    "tally",
    "within",
    "worst",
]

Verdict = Literal["holds", "fails", "inconclusive"]


@dataclass(frozen=True)
class Check:
    """One prediction compared with one observation.

    Attributes
    ----------
    name : what was compared, e.g. ``"conv1: largest mode error, float64"``.
    predicted : the theory's number, in ``unit``.
    observed : the run's number, in ``unit``; None when there is none.
    tolerance : how far the two may differ, as ``rule`` says.
    verdict : ``holds``, ``fails``, or ``inconclusive`` when the run could not decide.
    rule : the sentence by which the verdict was reached.
    unit : of predicted and observed.
    note : what else a reader needs to know.
    """

    name: str
    predicted: float | None
    observed: float | None
    tolerance: float
    verdict: Verdict
    rule: str
    unit: str = ""
    note: str = ""


def at_most(name: str, observed: float, tolerance: float, *, unit: str, note: str = "") -> Check:
    """A check that an error, predicted to be nil, is no larger than the tolerance."""
    holds = observed <= tolerance  # a NaN fails
    return Check(
        name=name,
        predicted=0.0,
        observed=observed,
        tolerance=tolerance,
        verdict="holds" if holds else "fails",
        rule="observed <= tolerance",
        unit=unit,
        note=note,
    )


def within(
    name: str, predicted: float, observed: float, tolerance: float, *, unit: str, note: str = ""
) -> Check:
    """A check that observed equals predicted to a relative tolerance."""
    holds = abs(observed - predicted) <= tolerance * abs(predicted)
    return Check(
        name=name,
        predicted=predicted,
        observed=observed,
        tolerance=tolerance,
        verdict="holds" if holds else "fails",
        rule="|observed - predicted| <= tolerance x |predicted|",
        unit=unit,
        note=note,
    )


def inconclusive(name: str, tolerance: float, reason: str, predicted: float | None = None) -> Check:
    """A check that could not be made, and why."""
    return Check(
        name=name,
        predicted=predicted,
        observed=None,
        tolerance=tolerance,
        verdict="inconclusive",
        rule="could not be decided",
        note=reason,
    )


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """One verdict for several: they all hold, one fails, or it is not decided."""
    found = set(verdicts)
    if "fails" in found:
        return "fails"
    return "holds" if found == {"holds"} else "inconclusive"


def tally(checks: Sequence[Check]) -> str:
    """How many checks came out which way, in words."""
    holds, fails, open_ = (
        sum(check.verdict == verdict for check in checks)
        for verdict in ("holds", "fails", "inconclusive")
    )
    return f"{holds} of {len(checks)} checks hold, {fails} fail and {open_} are inconclusive"


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
    low = above[0] / below[1] if 0 < below[1] < math.inf else 0.0
    high = above[1] / below[0] if below[0] > 0 else math.inf
    return low, high


def median_verdict(
    values: Sequence[Interval],
    limit: float,
    side: Literal["at least", "at most"],
    family: int = 1,
) -> Verdict:
    """The verdict of ``median_check`` alone; arguments as there."""
    lows, highs = [v[0] for v in values], [v[1] for v in values]
    strict = 1 - (1 - CONFIDENCE) / family
    if side == "at least":
        holds = median_bounds(lows)[0] >= limit
        fails = median_bounds(highs, strict)[1] < limit
    else:
        holds = median_bounds(highs)[1] <= limit
        fails = median_bounds(lows, strict)[0] > limit
    return "holds" if holds else "fails" if fails else "inconclusive"


def median_check(
    name: str,
    values: Sequence[Interval],
    limit: float,
    side: Literal["at least", "at most"],
    *,
    unit: str,
    note: str = "",
    family: int = 1,
) -> Check:
    """A verdict on the median over seeds: is it at least, or at most, the limit?

    It holds when the one-sided 95 % bound of the median is on the right side of the limit, fails
    when the other bound is on the wrong side, and is inconclusive otherwise. A value that is only
    known to lie in an interval counts with the end that speaks against the verdict.

    A study that holds when all checks hold may use 95 % for each. One that fails when a single
    check fails may not: one of twelve checks fails by chance far more often than one check does. So
    the bound for "fails" has the level 1 - 5 % / family, by Bonferroni's inequality.

    Parameters
    ----------
    name : of the check.
    values : one interval per seed.
    limit, side : of the median.
    unit, note : of the check.
    family : number of checks of which one that fails makes the study fail.
    """
    lows, highs = [v[0] for v in values], [v[1] for v in values]
    lower, upper = median_bounds(lows)[0], median_bounds(highs)[1]
    words = [note] if note else []
    words.append(f"median over {len(values)} seeds {spread(values)}")
    if math.isfinite(lower) or math.isfinite(upper):
        words.append(f"bounds {number(lower, 3)} and {number(upper, 3)}")
    else:
        words.append("too few seeds for a 95 % bound")
    return Check(
        name=name,
        predicted=limit,
        observed=_observed(lows, highs),
        tolerance=0.0,
        verdict=median_verdict(values, limit, side, family),
        rule=f"one-sided 95 % bound of the median is {side} the predicted",
        unit=unit,
        note=", ".join(words),
    )


def _observed(lows: Sequence[float], highs: Sequence[float]) -> float | None:
    """The median's known end, the lower one where both are; None where neither is known."""
    if not lows:
        return None
    low, high = float(np.median(lows)), float(np.median(highs))
    if math.isfinite(low) and (low != 0 or high == 0):
        return low
    return high if math.isfinite(high) else None


def spread(values: Sequence[Interval], digits: int = 3) -> str:
    """The median of numbers known as intervals, in words.

    >>> spread([(2, 4), (2, 4), (4, 8)])
    'from 2 to 4'
    >>> spread([(2, math.inf)]), spread([(0, 4)]), spread([(0, math.inf)]), spread([(3, 3)])
    ('at least 2', 'at most 4', 'not reached by either', '3')
    """
    if not values:
        return "unknown"
    low, high = (float(np.median([v[end] for v in values])) for end in (0, 1))
    if low == high:
        return number(low, digits)
    nothing_below, nothing_above = low <= 0 or math.isinf(low), math.isinf(high)
    if nothing_below and nothing_above:
        return "not reached by either"
    if nothing_above:
        return f"at least {number(low, digits)}"
    if nothing_below:
        return f"at most {number(high, digits)}"
    return f"from {number(low, digits)} to {number(high, digits)}"
