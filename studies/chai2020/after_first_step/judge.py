"""Judges ``after-first-step``: four readings of the claim, and six checks that do not decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from studies.chai2020.after_first_step import (
    CHECKS,
    DISTANCE,
    FACTOR,
    LOSS,
    PREDICTIONS,
    SLOPE_BATCH,
    SLOPE_OFF,
    SLOPE_RATE,
    WHOLE_STEP,
    Cell,
    Config,
    figures,
)
from studies.chai2020.after_first_step.outcomes import (
    CRITERIA,
    Outcomes,
    collect,
    loss_gap,
    rate_factors,
    whole_steps,
)
from studies.chai2020.after_first_step.tables import Rows, evidence_against, tables
from studies.chai2020.nlms_checks import WORDS, equality
from studies.engine.checks import Check, Interval, Verdict, median_check, worst
from studies.engine.power import power_table
from studies.engine.protocol import Findings, Measured
from studies.engine.text import number

__all__ = ["DISTURBANCE", "READINGS", "conclusion", "further_checks", "judge", "slope"]

# one standard deviation of a value's logarithm over seeds
DISTURBANCE = 0.35


def judge(config: Config, measured: Sequence[Measured]) -> Findings:
    """Judge the four readings on what was measured."""
    cell = config.cell
    found = collect(measured)
    judged = {name: checks(found, cell) for name, checks in READINGS.items()}
    further = further_checks(found, cell)
    readings = {name: worst(c.verdict for c in checks) for name, checks in judged.items()}
    checks = [check for some in judged.values() for check in some] + further
    rows = Rows.of(found, cell)
    return Findings(
        verdict=worst(readings.values()),
        checks=checks,
        reason=conclusion(readings),
        numbers=[*readings.items(), *((c.name, number(c.observed, 2)) for c in checks)],
        tables=[
            *tables(found, rows, cell),
            power_table(PREDICTIONS, max(config.seeds, 1), DISTURBANCE),
        ],
        answer=figures.after(found, cell) if found.paths and found.training else None,
        against=evidence_against(found, rows, cell),
        results={"readings": readings},
    )


# --- the four readings -----------------------------------------------------------------------


def gradient_step_checks(found: Outcomes, cell: Cell) -> list[Check]:
    """Check reading (a)."""
    return equality(found.steps, "gradient steps later on, against NLMS")


def whole_step_checks(found: Outcomes, cell: Cell) -> list[Check]:
    """Check reading (b)."""
    return [
        median_check(
            "NLMS steps alone: a whole step on one batch, departure of the outputs",
            _exactly(whole_steps(found, "NLMS steps")),
            WHOLE_STEP,
            "at most",
            unit="of BatchNorm's change",
            note=f"At rate {cell.low_rate:g}",
            family=CHECKS,
        )
    ]


def trajectory_checks(found: Outcomes, cell: Cell) -> list[Check]:
    """Check reading (c)."""
    where = f"at rate {cell.low_rate:g}, {cell.low_steps} updates"
    paths = list(found.paths.values())
    gaps = [loss_gap(p["loss"]["NLMS steps"], p["loss"]["batch norm"]) for p in paths]
    return [
        median_check(
            f"NLMS steps alone: largest distance of the loss, {where}",
            _exactly([float(np.max(gap)) for gap in gaps]),
            LOSS,
            "at most",
            unit="of BatchNorm's loss",
            family=CHECKS,
        ),
        median_check(
            f"NLMS steps alone: distance of the outputs, {where}",
            _exactly([float(p["distance"]["NLMS steps"][-1]) for p in paths]),
            DISTANCE,
            "at most",
            unit="of the way BatchNorm's went",
            family=CHECKS,
        ),
    ]


def rate_checks(found: Outcomes, cell: Cell) -> list[Check]:
    """Check reading (d)."""
    return _rate_checks("NLMS steps alone", "NLMS steps", found, cell)


def _rate_checks(words: str, algorithm: str, found: Outcomes, cell: Cell) -> list[Check]:
    return [
        median_check(
            f"{words}: {what} against BatchNorm's",
            rate_factors(found, algorithm, criterion, cell),
            FACTOR,
            "at most",
            unit="factor, up or down",
            family=CHECKS,
        )
        for criterion, what in CRITERIA.items()
    ]


READINGS: Mapping[str, Callable[[Outcomes, Cell], list[Check]]] = {
    "as a gradient step": gradient_step_checks,
    "as a whole step": whole_step_checks,
    "as a trajectory": trajectory_checks,
    "as a bound on the rate": rate_checks,
}


def conclusion(readings: Mapping[str, Verdict]) -> str:
    """State the verdicts of the readings and what they mean together."""
    text = ", ".join(f"{name} it {verdict}" for name, verdict in readings.items())
    text = text.replace("it inconclusive", "it is inconclusive").capitalize() + "."
    first, *others = readings.values()
    if first == "holds" and "fails" in others:
        text += " The steps are equal as long as s is held fixed, and no longer when s moves."
    return text


# --- checks that do not decide ---------------------------------------------------------------


def further_checks(found: Outcomes, cell: Cell) -> list[Check]:
    """Check the rates with the rescaling put back, and how the change of s scales."""
    checks = _rate_checks("with the rescaling back", "NLMS steps, rescaled", found, cell)
    low = [rate for rate in cell.departure_rates if rate <= cell.low_rate]
    for position, words in WORDS.items():
        by_seed = list(found.departures.get(position, {}).values())
        # the largest batches, where the change of batch is least
        moved = [slope(low, np.asarray(r["same_batch_scale"])[: len(low), -1]) for r in by_seed]
        noise = [slope(cell.departure_batches, np.asarray(r["scale"])[0]) for r in by_seed]
        for what, exponents, wanted in (
            ("change of s on one batch against the rate", moved, SLOPE_RATE),
            ("change of s between batches against the batch size", noise, SLOPE_BATCH),
        ):
            seen = float(np.median(exponents)) if exponents else math.nan
            checks.append(
                median_check(
                    f"BatchNorm {words}: {what}, exponent off {wanted:g}",
                    _exactly([abs(value - wanted) for value in exponents]),
                    SLOPE_OFF,
                    "at most",
                    unit="exponent",
                    note=f"Median exponent {number(seen, 3)}",
                )
            )
    return checks


def slope(x: Sequence[float], y: np.ndarray) -> float:
    """Exponent of y in x, by least squares on logarithms; NaN with fewer than two points."""
    y = np.asarray(y, dtype=float)
    good = np.isfinite(y) & (y > 0)
    if good.sum() < 2:
        return math.nan
    return float(np.polyfit(np.log(np.asarray(x)[good]), np.log(y[good]), 1)[0])


def _exactly(values: Sequence[float]) -> list[Interval]:
    """Turn numbers into intervals; NaN exceeds any limit."""
    return [(math.inf, math.inf) if math.isnan(v) else (v, v) for v in values]
