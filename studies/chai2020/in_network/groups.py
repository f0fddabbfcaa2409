"""Results of ``in-network`` by kind of network, and the numbers that are read from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from studies.engine.checks import Interval
from studies.engine.protocol import Measured

__all__ = [
    "READING_WORDS",
    "WORDS",
    "Group",
    "Outcome",
    "at",
    "collect",
    "horizon",
]

WORDS = {False: "without BatchNorm", True: "with BatchNorm"}
READING_WORDS = {
    "gauss_newton": "Gauss-Newton",
    "kronecker": "R x G",
    "scalar": "R x scalar",
}

Outcome = dict[str, Any]
"""One prediction compared with one training: ``error``, ``skill``, ``loss_error``, ``horizon``."""


@dataclass(frozen=True)
class Group:
    """The results of one kind of network from one kind of start.

    Attributes
    ----------
    batch_norm, trained : the kind and the start.
    results : what ``measure`` returned, by seed.
    """

    batch_norm: bool
    trained: bool
    results: dict[int, dict[str, Any]]

    @property
    def words(self) -> str:
        """The kind and the start, in words."""
        return WORDS[self.batch_norm] + ("" if self.trained else ", fresh")

    @property
    def layers(self) -> list[str]:
        """Names of the convolutions."""
        return list(next(iter(self.results.values()))["layers"]) if self.results else []

    @property
    def levels(self) -> list[str]:
        """Names of the predictions of the whole network."""
        return list(next(iter(self.results.values()))["network"]) if self.results else []

    def outcomes(self, level: str) -> list[Outcome]:
        """One prediction of the whole network, by seed."""
        return [found["network"][level] for found in self.results.values()]

    def layer_outcomes(self, layer: str, reading: str, others: str = "frozen") -> list[Outcome]:
        """Level 2's prediction of a layer, by seed; the other layers are frozen or learning."""
        return [found["layers"][layer][others][reading] for found in self.results.values()]

    def modes(self, layer: str) -> list[dict[str, Any]]:
        """The natural modes of a layer's R, by seed."""
        return [found["layers"][layer]["modes"] for found in self.results.values()]

    def audits(self, layer: str, reading: str) -> list[dict[str, Any]]:
        """The audits of a layer, for the seeds that have one."""
        return [
            found["audits"][layer][reading] for found in self.results.values() if "audits" in found
        ]


def collect(measured: Sequence[Measured]) -> dict[tuple[bool, bool], Group]:
    """Group the results by BatchNorm and start; failed cells are left out."""
    groups: dict[tuple[bool, bool], Group] = {}
    for one in measured:
        if one.error is None:
            key = one.cell.batch_norm, one.cell.trained
            groups.setdefault(key, Group(*key, {})).results[one.cell.seed] = one.result
    return groups


def at(outcome: Outcome, name: str, step: int) -> float:
    """Read an outcome at a step, -1 for the last; NaN where the run is shorter."""
    values = outcome[name]
    return float(values[step]) if step < len(values) else math.nan


def horizon(outcome: Outcome, tolerance: str = "0.1") -> Interval:
    """First step with an error above the tolerance; open above if the run has none."""
    n = outcome["horizon"][tolerance]
    return (float(len(outcome["error"])), math.inf) if n is None else (float(n), float(n))
