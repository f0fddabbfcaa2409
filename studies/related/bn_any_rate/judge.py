"""Judges at which rates each descent ends above its start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from studies.engine.checks import Check, at_most, worst
from studies.engine.protocol import Figure, Findings, Measured, Table
from studies.engine.text import number
from studies.related.bn_any_rate import Config
from studies.related.bn_any_rate.figures import plot_effective, plot_final

__all__ = ["Descents", "checks", "judge", "worse"]

Array = np.ndarray


@dataclass(frozen=True)
class Descents:
    """What the study measures.

    Attributes
    ----------
    bound : 2 / λmax(R).
    floor : J_min, over the start of plain descent.
    rates : (K,) learning rates.
    plain, norm : (2, K) loss at the start and at the end, without BatchNorm and with it.
    effective : (K,) rate over |w|^2 at the end, with BatchNorm.
    """

    bound: float
    floor: float
    rates: Array
    plain: Array
    norm: Array
    effective: Array


def judge(_: Config, measured: Sequence[Measured]) -> Findings:
    """The verdict: it holds when both checks do."""
    results = [one.result for one in measured if one.error is None]
    if not results:
        return Findings("inconclusive", reason="The descents could not be run.")
    found = Descents(**results[0])
    made = checks(found)
    about = "Loss at the end over that at the start, for each rate of the weights."
    return Findings(
        verdict=worst(check.verdict for check in made),
        checks=made,
        tables=[Table("Every rate", COLUMNS, rows(found), [about])],
        answer=figure(found),
        against=evidence_against(found),
    )


def worse(loss: Array) -> Array:
    """(K,) whether the loss (2, K) ended above its start, or is not finite."""
    with np.errstate(invalid="ignore"):
        return ~(loss[-1] <= loss[0] * (1 + 1e-9))


def checks(found: Descents) -> list[Check]:
    """The two checks."""
    diverged = worse(found.plain)
    wrong = int((diverged != (found.rates > found.bound)).sum())
    decades = float(np.log10(found.rates[-1] / found.rates[0]))
    return [
        at_most(
            "plain gradient descent: rates on the wrong side of 2 / λmax",
            wrong,
            0,
            unit="rates",
            note=f"Of {len(diverged)} rates",
        ),
        at_most(
            "gradient descent with BatchNorm: rates that end above the start",
            int(worse(found.norm).sum()),
            0,
            unit="rates",
            note=f"Of {len(diverged)} rates over {decades:.2g} decades",
        ),
    ]


COLUMNS = ("rate over 2 / λmax", "plain", "BatchNorm", "effective rate over 2 / λmax")


def rows(found: Descents) -> list[list[str]]:
    """Final over initial loss of both, and BatchNorm's effective rate, by rate."""
    with np.errstate(invalid="ignore", over="ignore"):
        plain, norm = (loss[-1] / loss[0] for loss in (found.plain, found.norm))
    columns = found.rates / found.bound, plain, norm, found.effective / found.bound
    return [
        [
            number(float(rate), 2),
            "diverges" if not before <= 1e3 else number(float(before), 2),
            number(float(after), 2),
            number(float(effective), 2),
        ]
        for rate, before, after, effective in zip(*columns, strict=True)
    ]


def figure(found: Descents) -> Figure:
    """The figure ``bn-any-rate``."""
    return Figure(
        name="bn-any-rate",
        caption="Left: loss at the end over the start of plain descent, against the rate; plain "
        "descent leaves the picture at 2 / λmax, BatchNorm does not. The thin line is the minimum. "
        "Right: the rate over |w|² at the end of descent with BatchNorm: steps that are too long "
        "make the weights longer, until they fit.",
        alt="Two panels on log axes: final loss against rate for plain descent and BatchNorm; "
        "effective rate of BatchNorm against rate.",
        plots=[partial(plot_final, found), partial(plot_effective, found)],
        width=8.5,
        height=3.4,
    )


def evidence_against(found: Descents) -> list[str]:
    """What converging at any rate does not mean."""
    left = found.norm[-1] / found.norm[0]
    near = int(np.argmin(np.abs(np.log(found.rates / found.bound))))
    return [
        "Converging for any rate is not being fast at any rate: of its start, descent with "
        f"BatchNorm has {number(float(left[near]), 2)} left at a rate near 2 / λmax, "
        f"{number(float(left[0]), 2)} at the lowest rate and "
        f"{number(float(left[-1]), 2)} at the highest, after as many updates."
    ]
