"""Results of ``after-first-step`` by experiment, and the numbers that are read from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from studies.chai2020.after_first_step import LOSS, Cell
from studies.engine.checks import Interval, ratio
from studies.engine.outcomes import Course, highest, lowest
from studies.engine.protocol import Measured
from studies.engine.smoothing import running_mean

__all__ = [
    "CRITERIA",
    "Outcomes",
    "collect",
    "horizon",
    "loss_gap",
    "rate_factors",
    "rates",
    "whole_steps",
]

Array = np.ndarray
# batch accuracy at the end above which a run has learned
FLOOR = 0.5
CRITERIA = {"failing": "lowest rate that fails", "learning": "highest rate that learns"}


@dataclass
class Outcomes:
    """The results of all cells, by experiment.

    Attributes
    ----------
    steps : every comparison of gradient steps.
    departures : by position, then by seed.
    paths : by seed.
    training : by algorithm, then by seed.
    """

    steps: list[dict[str, Any]] = field(default_factory=list)
    departures: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    paths: dict[int, dict[str, Any]] = field(default_factory=dict)
    training: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)


def collect(measured: Sequence[Measured]) -> Outcomes:
    """Sort the results by experiment; failed cells are left out."""
    found = Outcomes()
    for one in measured:
        if one.error is not None:
            continue
        cell, result = one.cell, one.result
        if cell.part == "steps":
            found.steps += result["steps"]
        elif cell.part == "departure":
            found.departures.setdefault(cell.position, {})[cell.seed] = result
        elif cell.part == "path":
            found.paths[cell.seed] = result
        else:
            found.training.setdefault(cell.algorithm, {})[cell.seed] = result
    return found


def whole_steps(found: Outcomes, algorithm: str) -> list[float]:
    """Departure of a whole step in outputs, of BatchNorm's change; median over visits, by seed."""
    return [float(np.median(path["whole_step"][algorithm])) for path in found.paths.values()]


def loss_gap(theirs: Sequence[float], ours: Sequence[float]) -> Array:
    """Relative distance of two averaged losses, at each update that both runs have."""
    both = min(len(theirs), len(ours))
    a, b = (running_mean(np.asarray(v[:both], dtype=float)) for v in (theirs, ours))
    return np.abs(a - b) / b


def horizon(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Updates until two averaged losses differ by more than the rule allows; inf if never.

    Examples
    --------
    >>> horizon([1.0, 1.05, 1.5], [1.0, 1.0, 1.0]), horizon([1.0, 1.0], [1.0, 1.0])
    (2.0, inf)
    """
    apart = np.flatnonzero(~(loss_gap(theirs, ours) <= LOSS))
    if len(apart):
        return float(apart[0])
    # a run that diverged is shorter, and differs from where it ends
    return float(len(theirs)) if len(theirs) < len(ours) else math.inf


def rates(found: Outcomes, algorithm: str, criterion: str, cell: Cell) -> dict[int, Interval]:
    """Lowest rate that fails, or highest that learns, of an algorithm, by seed."""
    intervals = {}
    for seed, result in found.training.get(algorithm, {}).items():
        courses = [Course.of(record) for record in result["courses"]]
        if criterion == "failing":
            intervals[seed] = lowest(cell.rates, [c.explodes() or c.dies for c in courses])
        else:
            learned = [c.learns_by_accuracy(FLOOR) for c in courses]
            intervals[seed] = highest(cell.rates, learned)
    return intervals


def rate_factors(found: Outcomes, algorithm: str, criterion: str, cell: Cell) -> list[Interval]:
    """Factor between an algorithm's rate and BatchNorm's, up or down, by seed."""
    norm, other = (rates(found, name, criterion, cell) for name in ("batch norm", algorithm))
    return [off_by(ratio(norm[seed], other[seed])) for seed in norm if seed in other]


def off_by(quotient: Interval) -> Interval:
    """The factor, at least 1, by which a quotient differs from one.

    Examples
    --------
    >>> off_by((4.0, 4.0)), off_by((0.25, 0.5)), off_by((0.5, 3.0))
    ((4.0, 4.0), (2.0, 4.0), (1.0, 3.0))
    """
    low, high = quotient
    below = 1 / low if low > 0 else math.inf
    if low >= 1:
        return low, high
    return (1 / high, below) if high <= 1 else (1.0, max(high, below))
