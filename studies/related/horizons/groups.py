"""Results by start and width, and the horizons, errors and skills taken from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from studies.engine.checks import Interval
from studies.engine.protocol import Measured
from studies.related.horizons import EVERY, FRACTIONS, LOOK

__all__ = [
    "Found",
    "collect",
    "exponent",
    "exponents",
    "extremes",
    "horizon",
    "last_errors",
    "seeds_of",
    "skills",
]

Found = dict[tuple[str, int], dict[int, dict[str, Any]]]  # (start, width) -> seed -> result


def collect(measured: Sequence[Measured]) -> Found:
    """Results by start and width, the narrowest first; cells that failed are left out."""
    starts = list(FRACTIONS)
    known = [one for one in measured if one.error is None]
    found: Found = {}
    for one in sorted(known, key=lambda m: (starts.index(m.cell.start), m.cell.width)):
        found.setdefault((one.cell.start, one.cell.width), {})[one.cell.seed] = one.result
    return found


def horizon(result: dict[str, Any], tolerance: int, reading: str = "level 3") -> Interval:
    """Bounds on the horizon; ``tolerance`` is the index in ``TOLERANCES``."""
    known = result["readings"][reading]
    step = known["horizons"][tolerance]
    if step is None:
        return float(known["compared"]), math.inf
    return float(step), float(step)


def exponent(widths: Sequence[int], horizons: Sequence[Interval]) -> Interval:
    """Bounds on the exponent a of horizon = c width^a, by least squares on logarithms.

    It is a weighted sum of the logarithms, so each end of a horizon gives one end of the exponent.

    Examples
    --------
    >>> round(exponent([8, 32], [(10, 10), (20, 20)])[0], 6)
    0.5
    >>> exponent([8, 32], [(10, 10), (20, math.inf)])[1]
    inf
    """
    if len(widths) < 2:
        return -math.inf, math.inf
    x = np.log(widths)
    x = x - x.mean()
    low = high = 0.0
    for weight, (least, most) in zip(x / (x @ x), horizons, strict=True):
        if weight:
            ends = weight * np.log([least, most])
            low, high = low + float(ends.min()), high + float(ends.max())
    return low, high


def seeds_of(found: Found, start: str) -> dict[int, dict[int, dict[str, Any]]]:
    """Results of one start, by seed and width."""
    seeds: dict[int, dict[int, dict[str, Any]]] = {}
    for (where, width), by_seed in found.items():
        for seed, result in by_seed.items():
            if where == start:
                seeds.setdefault(seed, {})[width] = result
    return seeds


def exponents(found: Found, start: str, tolerance: int) -> list[Interval]:
    """The exponent of the horizon as a power of the width, one for each seed."""
    return [
        exponent(list(by_width), [horizon(r, tolerance) for r in by_width.values()])
        for by_width in seeds_of(found, start).values()
    ]


def extremes(
    found: Found,
    start: str,
    values: Callable[[dict[str, Any]], Sequence[float]],
    least: bool,
) -> list[Interval]:
    """The smallest or largest value over the widths, by seed; a NaN makes the interval open."""
    choose = min if least else max
    extreme: list[Interval] = []
    for by_width in seeds_of(found, start).values():
        every = [v for result in by_width.values() for v in values(result)]
        if every:
            lows = [-math.inf if math.isnan(v) else v for v in every]
            highs = [math.inf if math.isnan(v) else v for v in every]
            extreme.append((choose(lows), choose(highs)))
    return extreme


def last_errors(result: dict[str, Any]) -> list[float]:
    """Errors at the last step, of level 3 and of h = 50, 10, 2; empty if they were not tried."""
    known = result["readings"]
    names = ["level 3", *(f"h = {h}" for h in EVERY)]
    return [float(known[n]["error"][-1]) for n in names] if names[-1] in known else []


def skills(result: dict[str, Any], names: Sequence[str]) -> list[float]:
    """Skill at step ``LOOK``, or at the last one of a shorter run, of readings that were tried."""
    known = result["readings"]
    return [float(known[n]["skill"][: LOOK + 1][-1]) for n in names if n in known]
