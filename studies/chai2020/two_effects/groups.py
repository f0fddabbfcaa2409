"""Results of the study by variant and setting, and ratios between variants seed by seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from studies.chai2020.two_effects import ACCURACIES, ALLOWANCES, BARE, LOSS, Config, plan
from studies.engine.checks import Interval, ratio
from studies.engine.outcomes import ALLOWANCE, Course, highest, lowest
from studies.engine.protocol import Measured

__all__ = [
    "CLASSES",
    "CRITERIA",
    "Group",
    "Groups",
    "Ratios",
    "collect",
    "common_seeds",
    "eigenvalue_ratios",
    "ratios",
    "speed_ratios",
]

Array = np.ndarray
CLASSES = 10


@dataclass(frozen=True)
class Group:
    """The results of one variant in one setting, a mapping for each seed.

    Attributes
    ----------
    setting : a name that ``plan`` gives.
    variant : of the normalization.
    momentum : torch's; it lengthens every step, and so the allowance, by 1 / (1 - momentum).
    low_steps : the largest number of updates made at the low rate.
    rates : the grid.
    results : what ``measure`` returned, by seed.
    courses : one for each rate, by seed.
    """

    setting: str
    variant: str
    momentum: float
    low_steps: int
    rates: tuple[float, ...]
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    courses: dict[int, list[Course]] = field(default_factory=dict)

    def add(self, seed: int, result: dict[str, Any]) -> None:
        """One network more."""
        self.results[seed] = result
        self.courses[seed] = [Course.of(record) for record in result["courses"]]

    def steps(self, seed: int) -> Interval:
        """Updates at the low rate, at least 1; open above when the threshold was not reached."""
        found = self.results[seed].get("steps")
        return (self.low_steps, math.inf) if found is None else (max(found, 1), max(found, 1))

    def explodes(self, seed: int, allowance: float = ALLOWANCE) -> Interval:
        """Interval of the grid that holds the lowest rate at which a run explodes."""
        allowed = allowance / (1 - self.momentum)
        return lowest(self.rates, [c.explodes(allowed) for c in self.courses[seed]])

    def dies(self, seed: int) -> Interval:
        """The same for the lowest rate at which a run dies without having exploded."""
        allowed = ALLOWANCE / (1 - self.momentum)
        return lowest(self.rates, [c.dies and not c.explodes(allowed) for c in self.courses[seed]])

    def fails(self, seed: int, allowance: float = ALLOWANCE) -> Interval:
        """The same for the lowest rate at which a run explodes or dies."""
        allowed = allowance / (1 - self.momentum)
        return lowest(self.rates, [c.explodes(allowed) or c.dies for c in self.courses[seed]])

    def learns(self, seed: int, floor: float = ACCURACIES[0]) -> Interval:
        """The same for the highest rate at which a run ends above a batch accuracy."""
        return highest(self.rates, [c.learns_by_accuracy(floor) for c in self.courses[seed]])

    def learns_by_loss(self, seed: int, ceiling: float = LOSS) -> Interval:
        """The same for the highest rate at which a run ends below a loss."""
        return highest(self.rates, [c.learns_by_loss(ceiling) for c in self.courses[seed]])

    def passes_ceiling(self, seed: int, ceiling: float) -> Interval:
        """The same for the lowest rate that the rule of a ceiling on the loss calls unstable."""
        unstable = [c.passes_ceiling(ceiling, CLASSES) or c.dies for c in self.courses[seed]]
        return lowest(self.rates, unstable)

    @property
    def degree(self) -> float:
        """Degree of the loss, median over seeds."""
        return float(np.median([r["degree"] for r in self.results.values()]))

    @property
    def median_steps(self) -> float:
        """Median over seeds; inf if most did not reach the threshold."""
        return float(np.median([self.steps(seed)[1] for seed in self.results]))

    def middle(self, what: Callable[[int], Interval]) -> float:
        """Geometric middle of the median interval over seeds; NaN where an end is open."""
        low, high = np.median([what(seed) for seed in self.results], axis=0)
        return math.sqrt(low * high) if low > 0 and math.isfinite(high) else math.nan

    def eigenvalues(self, end: str) -> Array:
        """(seeds, layers) of ``lowest``, ``median`` or ``highest``, behind a normalization."""
        return np.array([[s[end] for s in found["spectra"][1:]] for found in self.results.values()])


Groups = dict[tuple[str, str], Group]
Ratios = dict[int, Interval]

Criterion = Callable[[Group, int], Interval]
CRITERIA: dict[str, Criterion] = {
    "failing": Group.fails,
    "learning": Group.learns,
    "learning, accuracy 0.7": partial(Group.learns, floor=ACCURACIES[1]),
    "learning, loss 1.5": Group.learns_by_loss,
    **{f"exploding, K = {k:g}": partial(Group.explodes, allowance=k) for k in ALLOWANCES},
}


def collect(config: Config, measured: Sequence[Measured]) -> Groups:
    """Results by setting and variant; cells that failed are left out."""
    setting_of = {cell: setting for setting, cell in plan(config)}
    groups: Groups = {}
    for one in measured:
        if one.error is not None:
            continue
        cell = one.cell
        setting = setting_of[replace(cell, device="cpu")]
        made = Group(setting, cell.variant, cell.momentum, cell.low_steps, cell.rates)
        groups.setdefault((setting, cell.variant), made).add(cell.seed, one.result)
    return groups


def common_seeds(
    groups: Groups, a: str, b: str, setting: str = BARE
) -> tuple[Group, Group, list[int]]:
    """Two variants and the seeds that both have."""
    first = groups.get((setting, a), Group(setting, a, 0.0, 0, ()))
    second = groups.get((setting, b), Group(setting, b, 0.0, 0, ()))
    return first, second, [seed for seed in first.results if seed in second.results]


def speed_ratios(groups: Groups, a: str, b: str, setting: str = BARE) -> Ratios:
    """How many times as fast a is as b, by seed."""
    first, second, seeds = common_seeds(groups, a, b, setting)
    return {s: ratio(second.steps(s), first.steps(s)) for s in seeds}


def ratios(groups: Groups, a: str, b: str, criterion: str, setting: str = BARE) -> Ratios:
    """A rate of a over that of b, by seed; ``criterion`` is a name in ``CRITERIA``."""
    first, second, seeds = common_seeds(groups, a, b, setting)
    rate = CRITERIA[criterion]
    return {s: ratio(rate(first, s), rate(second, s)) for s in seeds}


def eigenvalue_ratios(groups: Groups, a: str, b: str, end: str, setting: str = BARE) -> Ratios:
    """Median over the layers of the ratio of one eigenvalue, by seed."""
    first, second, seeds = common_seeds(groups, a, b, setting)
    found = {}
    for seed in seeds:
        with np.errstate(divide="ignore", invalid="ignore"):
            above = np.array([s[end] for s in first.results[seed]["spectra"][1:]])
            below = np.array([s[end] for s in second.results[seed]["spectra"][1:]])
            # 0 / 0 is a dead channel in both variants: its eigenvalue did not change
            quotient = np.where(above == below, 1.0, above / below)
        found[seed] = (float(np.median(quotient)),) * 2
    return found
