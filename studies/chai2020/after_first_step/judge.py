"""The verdicts of the study ``after-first-step``: what its four readings come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.chai2020.nlms_checks import WORDS, equality
from studies.engine import page as report
from studies.engine import paired
from studies.engine import summary as results
from studies.engine.paired import Interval
from studies.engine.smoothing import running_mean
from studies.engine.summary import Check
from studies.training.probes import stable_interval

if TYPE_CHECKING:
    from studies.chai2020.after_first_step.measure import Config

__all__ = [
    "DISTANCE",
    "FACTOR",
    "LOSS",
    "READINGS",
    "SLOPE_OFF",
    "WHOLE_STEP",
    "Found",
    "beside_checks",
    "conclusion",
    "horizon",
    "rate_factors",
    "stable_rates",
    "whole_steps",
]

Array = np.ndarray
WHOLE_STEP = 0.5
LOSS = 0.1
DISTANCE = 0.5
FACTOR = 2.0
SLOPE_RATE, SLOPE_BATCH, SLOPE_OFF = 1.0, -0.5, 0.2


@dataclass
class Found:
    """The results of all cells, by what they are.

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

    @classmethod
    def of(cls, cells: Sequence[Any]) -> Found:
        """Sorted out; cells that failed are left out."""
        found = cls()
        for cell in cells:
            config, result = cell.config, cell.result
            if config["part"] == "steps":
                found.steps += result["steps"]
            elif config["part"] == "departure":
                found.departures.setdefault(config["position"], {})[config["seed"]] = result
            elif config["part"] == "path":
                found.paths[config["seed"]] = result
            else:
                found.training.setdefault(config["algorithm"], {})[config["seed"]] = result
        return found


def exactly(values: Sequence[float]) -> list[Interval]:
    """Numbers as intervals; what is not a number is beyond any limit."""
    return [(math.inf, math.inf) if math.isnan(v) else (v, v) for v in values]


def whole_steps(found: Found, position: str, rate: float, config: Config) -> list[float]:
    """Departure of the whole step on one batch, over the NLMS step, by seed."""
    at = (config.departure_rates.index(rate), config.departure_batches.index(config.batch_size))
    by_seed = found.departures.get(position, {}).values()
    return [float(np.asarray(r["same_batch"], dtype=float)[at]) for r in by_seed]


def loss_gap(theirs: Sequence[float], ours: Sequence[float]) -> Array:
    """Relative distance of two averaged losses at each update that both have."""
    both = min(len(theirs), len(ours))
    a, b = (running_mean(np.asarray(v[:both], dtype=float)) for v in (theirs, ours))
    return np.abs(a - b) / b


def horizon(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Updates until the averaged losses are apart; inf if they never are.

    Examples
    --------
    >>> horizon([1.0, 1.05, 1.5], [1.0, 1.0, 1.0]), horizon([1.0, 1.0], [1.0, 1.0])
    (2.0, inf)
    """
    apart = np.flatnonzero(~(loss_gap(theirs, ours) <= LOSS))
    if len(apart):
        return float(apart[0])
    # a run that diverged is shorter, and apart from there on
    return float(len(theirs)) if len(theirs) < len(ours) else math.inf


def stable_rates(found: Found, algorithm: str, config: Config) -> dict[int, Interval]:
    """Highest stable rate by seed."""
    return {
        seed: stable_interval(config.rates, r["rate_index"])
        for seed, r in found.training.get(algorithm, {}).items()
    }


def rate_factors(found: Found, algorithm: str, config: Config) -> list[Interval]:
    """By which factor the highest stable rate is off BatchNorm's, up or down, by seed."""
    norm, other = (stable_rates(found, a, config) for a in ("batch norm", algorithm))
    return [off_by(paired.ratio(norm[seed], other[seed])) for seed in norm if seed in other]


def off_by(quotient: Interval) -> Interval:
    """The factor, at least 1, by which a quotient is off one.

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


def gradient_step_checks(found: Found, config: Config) -> list[Check]:
    """Reading (a)."""
    return equality(found.steps, "gradient steps later on, against NLMS")


def whole_step_checks(found: Found, config: Config) -> list[Check]:
    """Reading (b)."""
    return [
        paired.judge(
            f"BatchNorm {words}: whole steps on one batch, against NLMS",
            exactly(whole_steps(found, position, config.low_rate, config)),
            WHOLE_STEP,
            "at most",
            unit="of the NLMS step",
            note=f"At rate {config.low_rate:g}, in the middle layer",
        )
        for position, words in WORDS.items()
    ]


def trajectory_checks(found: Found, config: Config) -> list[Check]:
    """Reading (c)."""
    where = f"at rate {config.low_rate:g}, {config.low_steps} updates"
    paths = list(found.paths.values())
    gaps = [loss_gap(p["loss"]["NLMS steps"], p["loss"]["batch norm"]) for p in paths]
    return [
        paired.judge(
            f"NLMS steps alone: largest distance of the loss, {where}",
            exactly([float(np.max(gap)) for gap in gaps]),
            LOSS,
            "at most",
            unit="of BatchNorm's loss",
        ),
        paired.judge(
            f"NLMS steps alone: distance of the effective weights, {where}",
            exactly([float(p["distance"]["NLMS steps"][-1]) for p in paths]),
            DISTANCE,
            "at most",
            unit="of the way BatchNorm's went",
        ),
    ]


def rate_check(found: Found, algorithm: str, config: Config) -> Check:
    """How far off BatchNorm's highest stable rate is an algorithm's?"""
    words = {"NLMS steps": "NLMS steps alone", "NLMS steps, rescaled": "with the rescaling back"}
    return paired.judge(
        f"{words[algorithm]}: highest stable rate against BatchNorm's",
        rate_factors(found, algorithm, config),
        FACTOR,
        "at most",
        unit="factor, up or down",
    )


READINGS = (
    ("as a gradient step", gradient_step_checks),
    ("as a whole step", whole_step_checks),
    ("as a trajectory", trajectory_checks),
    ("as a bound on the rate", lambda found, config: [rate_check(found, "NLMS steps", config)]),
)


def slope(x: Sequence[float], y: Array) -> float:
    """Exponent of y in x, by least squares on logarithms; NaN when there is nothing to fit."""
    y = np.asarray(y, dtype=float)
    good = np.isfinite(y) & (y > 0)
    if good.sum() < 2:
        return math.nan
    return float(np.polyfit(np.log(np.asarray(x)[good]), np.log(y[good]), 1)[0])


def beside_checks(found: Found, config: Config) -> list[Check]:
    """What the rule gives no say: the rescaling put back, and how the departure scales."""
    checks = [rate_check(found, "NLMS steps, rescaled", config)]
    low = [rate for rate in config.departure_rates if rate <= config.low_rate]
    for position, words in WORDS.items():
        by_seed = list(found.departures.get(position, {}).values())
        # the largest batches, where the change of batch is least
        moved = [slope(low, np.asarray(r["same_batch_scale"])[: len(low), -1]) for r in by_seed]
        noise = [slope(config.departure_batches, np.asarray(r["scale"])[0]) for r in by_seed]
        for what, exponents, wanted in (
            ("change of s on one batch against the rate", moved, SLOPE_RATE),
            ("change of s between batches against the batch size", noise, SLOPE_BATCH),
        ):
            seen = float(np.median(exponents)) if exponents else math.nan
            checks.append(
                paired.judge(
                    f"BatchNorm {words}: {what}, exponent off {wanted:g}",
                    exactly([abs(value - wanted) for value in exponents]),
                    SLOPE_OFF,
                    "at most",
                    unit="exponent",
                    note=f"Median exponent {report.number(seen, 3)}",
                )
            )
    return checks


def conclusion(readings: dict[str, results.Verdict], rescaled: results.Verdict) -> str:
    """The verdicts of the readings, and what they come to together."""
    text = ", ".join(f"{name} it {verdict}" for name, verdict in readings.items())
    text = text.replace("it inconclusive", "it is inconclusive").capitalize() + "."
    first, *others = readings.values()
    if first == "holds" and "fails" in others:
        text += " Equal at every step as long as s is held, and no longer when s moves."
        text += {
            "holds": " The rescaling put back brings the highest stable rate back.",
            "fails": " The rescaling put back does not bring the highest stable rate back; what "
            "else is missing is the gradient through s.",
            "inconclusive": " Whether the rescaling is all that is missing is open.",
        }[rescaled]
    return text
