"""Results of the study by variant and setting, and ratios between variants seed by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from studies.chai2020.two_effects import BASE, Config, plan
from studies.engine.checks import Interval, ratio
from studies.engine.protocol import Measured
from studies.training.rates import stable_interval

__all__ = [
    "Group",
    "Groups",
    "Ratios",
    "collect",
    "common_seeds",
    "eigenvalue_ratios",
    "rate_ratios",
    "speed_ratios",
]

Array = np.ndarray


@dataclass(frozen=True)
class Group:
    """The results of one variant in one setting, a mapping for each seed.

    Attributes
    ----------
    setting : ``BASE`` or a name in ``SETTINGS``.
    variant : of the normalization.
    momentum : torch's.
    results : what ``measure`` returned, by seed.
    low_steps : the largest number of updates made at the low rate.
    rates : the grid.
    """

    setting: str
    variant: str
    momentum: float
    results: dict[int, dict[str, Any]]
    low_steps: int
    rates: tuple[float, ...]

    def steps(self, seed: int) -> Interval:
        """Updates at the low rate, at least 1; open above when the threshold was not reached."""
        found = self.results[seed]["steps"]
        return (self.low_steps, math.inf) if found is None else (max(found, 1), max(found, 1))

    def rate(self, seed: int) -> Interval:
        """Highest stable rate; open where the grid ended."""
        return stable_interval(self.rates, self.results[seed]["rate_index"])

    @property
    def median_steps(self) -> float:
        """Median over seeds; inf if most did not reach the threshold."""
        return float(np.median([self.steps(seed)[1] for seed in self.results]))

    @property
    def median_rate(self) -> float:
        """Median over seeds of the highest stable rate on the grid; below it, half its lowest."""
        return float(np.median([max(self.rate(s)[0], self.rates[0] / 2) for s in self.results]))

    @property
    def rate_is_open(self) -> bool:
        """Whether the median lies beyond an end of the grid."""
        ends = [self.rate(seed) for seed in self.results]
        return float(np.median([end[0] != end[1] for end in ends])) >= 0.5

    def eigenvalues(self, end: str) -> Array:
        """(seeds, layers) of ``lowest``, ``median`` or ``highest``, behind a normalization."""
        return np.array([[s[end] for s in found["spectra"][1:]] for found in self.results.values()])


Groups = dict[tuple[str, str], Group]
Ratios = dict[int, Interval]


def collect(config: Config, measured: Sequence[Measured]) -> Groups:
    """Results by setting and variant; cells that failed are left out."""
    setting_of = {cell: setting for setting, cell in plan(config)}
    groups: Groups = {}
    for one in measured:
        if one.error is not None:
            continue
        cell = one.cell
        setting = setting_of[replace(cell, device="cpu")]
        group = groups.setdefault(
            (setting, cell.variant),
            Group(setting, cell.variant, cell.momentum, {}, cell.low_steps, cell.rates),
        )
        group.results[cell.seed] = one.result
    return groups


def common_seeds(
    groups: Groups, a: str, b: str, setting: str = BASE
) -> tuple[Group, Group, list[int]]:
    """Two variants and the seeds that both have."""
    first = groups.get((setting, a), Group(setting, a, 0.0, {}, 0, ()))
    second = groups.get((setting, b), Group(setting, b, 0.0, {}, 0, ()))
    return first, second, [seed for seed in first.results if seed in second.results]


def speed_ratios(groups: Groups, a: str, b: str, setting: str = BASE) -> Ratios:
    """How many times as fast a is as b, by seed."""
    first, second, seeds = common_seeds(groups, a, b, setting)
    return {s: ratio(second.steps(s), first.steps(s)) for s in seeds}


def rate_ratios(groups: Groups, a: str, b: str, setting: str = BASE) -> Ratios:
    """Highest stable rate of a over that of b, by seed."""
    first, second, seeds = common_seeds(groups, a, b, setting)
    return {s: ratio(first.rate(s), second.rate(s)) for s in seeds}


def eigenvalue_ratios(groups: Groups, a: str, b: str, end: str, setting: str = BASE) -> Ratios:
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
