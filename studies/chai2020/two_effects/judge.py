"""Judges the study: twelve checks of the claim, the control that separates spectrum from cause."""

from __future__ import annotations

import math
from collections.abc import Sequence

from studies.chai2020.two_effects import (
    BARE,
    NO_SPEED_UP,
    PREDICTIONS,
    SEEDS_FOR_EVERY,
    SHARE,
    SPEED_UP,
    TORCH,
    Config,
)
from studies.chai2020.two_effects.candidates import (
    prediction_checks,
    rate_candidates,
    speed_candidates,
)
from studies.chai2020.two_effects.figures import effects
from studies.chai2020.two_effects.groups import (
    Groups,
    collect,
    common_seeds,
    eigenvalue_ratios,
    ratios,
    speed_ratios,
)
from studies.chai2020.two_effects.tables import evidence_against, tables
from studies.engine import page as report
from studies.engine.checks import Check, Interval, Verdict, median_check, tally, worst
from studies.engine.power import power_table
from studies.engine.protocol import Findings, Measured
from studies.engine.text import number

__all__ = ["CHECKS", "DISTURBANCE", "claim_checks", "judge", "spectrum_checks"]

CHECKS = 12
# one standard deviation of a value's logarithm over seeds, as trials on other networks had it
DISTURBANCE = 0.35


def judge(config: Config, measured: Sequence[Measured]) -> Findings:
    """Turn the measurements into checks, tables and figures."""
    groups = collect(config, measured)
    rates, speeds = rate_candidates(groups), speed_candidates(groups)
    claim, spectrum = claim_checks(groups), spectrum_checks(groups)
    seeds = len(common_seeds(groups, "amplify", "none")[2])
    readings = {
        "amplifying gives the speed": worst(c.verdict for c in claim[:4]),
        "suppressing gives the stability, nothing learned": worst(c.verdict for c in claim[4:8]),
        "suppressing gives the stability, as in torch": worst(c.verdict for c in claim[8:]),
        "the spectrum at the start gives the stability": worst(c.verdict for c in spectrum),
    }
    told = ", ".join(f"{reading}: {verdict}" for reading, verdict in readings.items())
    return Findings(
        verdict=worst(check.verdict for check in claim),
        checks=[*claim, *spectrum, *prediction_checks(rates, speeds)],
        reason=f"{tally(claim)} with {seeds} seeds. {told[0].upper()}{told[1:]}.",
        numbers=[*readings.items(), *report.numbers(claim)],
        tables=[
            *tables(groups, rates, speeds),
            power_table(PREDICTIONS, max(config.seeds, 1), DISTURBANCE),
        ],
        answer=effects(groups) if groups else None,
        against=evidence_against(groups),
        results={"readings": readings, "rate_candidates": rates, "speed_candidates": speeds},
    )


def claim_checks(groups: Groups) -> list[Check]:
    """The checks of the claim: speed, eigenvalues, stability in two networks."""
    faster = "times as fast"
    return [
        median_check(
            "amplifying against nothing: speed",
            list(speed_ratios(groups, "amplify", "none").values()),
            SPEED_UP,
            "at least",
            unit=faster,
            family=CHECKS,
        ),
        median_check(
            "suppressing against nothing: speed",
            list(speed_ratios(groups, "suppress", "none").values()),
            NO_SPEED_UP,
            "at most",
            unit=faster,
            family=CHECKS,
        ),
        median_check(
            "amplifying's share of full BatchNorm's gain in log speed",
            shares(groups),
            SHARE,
            "at least",
            unit="share",
            family=CHECKS,
        ),
        _eigenvalue_check(groups),
        *(
            median_check(
                f"{network}, suppressing against {words}: {what}",
                list(ratios(groups, "suppress", other, criterion, network).values()),
                1.0,
                "at least",
                unit="times the rate",
                family=CHECKS,
            )
            for network in (BARE, TORCH)
            for criterion, what in (
                ("failing", "lowest rate that fails"),
                ("learning", "highest rate that learns"),
            )
            for other, words in (("none", "nothing"), ("amplify", "amplifying"))
        ),
    ]


def spectrum_checks(groups: Groups) -> list[Check]:
    """Does a network with BatchNorm's spectrum, and nothing that follows the batch, do as well?"""
    return [
        median_check(
            f"{network}, frozen statistics against full BatchNorm: {what}",
            list(ratios(groups, "frozen", "full", criterion, network).values()),
            0.5,
            "at least",
            unit="times the rate",
            note="Does not decide",
            family=4,
        )
        for network in (BARE, TORCH)
        for criterion, what in (
            ("failing", "lowest rate that fails"),
            ("learning", "highest rate that learns"),
        )
    ]


def shares(groups: Groups) -> list[Interval]:
    """Amplifying's part of full BatchNorm's gain in log speed, by seed.

    A seed in which full is no faster than no normalization has no gain to share; it is left open.
    """
    found = []
    parts, wholes = (speed_ratios(groups, v, "none") for v in ("amplify", "full"))
    for part, whole in ((parts[seed], wholes[seed]) for seed in parts if seed in wholes):
        if whole[0] <= 1 or not math.isfinite(whole[1]) or part[0] <= 0:
            found.append((-math.inf, math.inf))
        else:
            ends = [math.log(p) / math.log(w) for p, w in zip(part, whole, strict=True)]
            found.append((min(ends), max(ends)))
    return found


def _eigenvalue_check(groups: Groups) -> Check:
    lowest = eigenvalue_ratios(groups, "amplify", "none", "lowest")
    highest = eigenvalue_ratios(groups, "suppress", "none", "highest")
    pairs = [(lowest[seed], highest[seed]) for seed in lowest if seed in highest]
    right = sum(up[0] > 1 and down[1] < 1 for up, down in pairs)
    verdict: Verdict = "fails" if right < len(pairs) else "holds"
    if verdict == "holds" and len(pairs) < SEEDS_FOR_EVERY:
        verdict = "inconclusive"
    return Check(
        name="amplifying raises the smallest eigenvalue, suppressing lowers the largest",
        predicted=float(len(pairs)),
        observed=float(right),
        tolerance=0.0,
        verdict=verdict,
        rule=f"in every seed, of at least {SEEDS_FOR_EVERY}; median over the layers",
        unit="seeds",
        note=_ranges(pairs) if pairs else "no seed was run",
    )


def _ranges(pairs: Sequence[tuple[Interval, Interval]]) -> str:
    ends = [sorted(value for value, _ in side) for side in zip(*pairs, strict=True)]
    up, down = (f"{number(e[0], 2)} to {number(e[-1], 2)}" for e in ends)
    return f"smallest times {up}, largest times {down}"
