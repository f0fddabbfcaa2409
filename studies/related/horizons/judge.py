"""Judges the study: nine checks, and what the simple reading leaves out."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from studies.engine.checks import Check, at_most, inconclusive, median_check, worst
from studies.engine.power import share_table
from studies.engine.protocol import Findings, Measured
from studies.related.horizons import (
    EVERY,
    FRACTIONS,
    LARGEST_RATIO,
    LAYERS,
    LEAST_EXPONENT,
    LEAST_SEEDS,
    LOOK,
    Config,
    figures,
)
from studies.related.horizons.groups import (
    Found,
    collect,
    exponents,
    extremes,
    horizon,
    last_errors,
    seeds_of,
    skills,
)
from studies.related.horizons.tables import horizon_text, middle, percent, tables

__all__ = ["checks_of", "evidence_against", "judge"]

LEVELS = (
    ("level 2", LAYERS, "widths and layers"),
    ("level 3", ("level 3",), "widths"),
    ("level 4", tuple(f"h = {h}" for h in EVERY), "widths and h"),
)


FAMILY = 2 * 3 + len(LEVELS)
"""Checks of which one that fails makes the study fail."""


def judge(config: Config, measured: Sequence[Measured]) -> Findings:
    """Turn the measurements into checks, tables and figures."""
    found = collect(measured)
    checks = checks_of(found)
    holds, fails = (sum(c.verdict == verdict for c in checks) for verdict in ("holds", "fails"))
    return Findings(
        verdict=worst(check.verdict for check in checks),
        checks=checks,
        reason=f"{holds} of {len(checks)} checks hold, {fails} fail.",
        tables=[*tables(found), share_table(config.seeds, FAMILY)],
        answer=figures.horizons(found) if found else None,
        against=evidence_against(found),
    )


def checks_of(found: Found) -> list[Check]:
    """The nine checks."""
    checks = []
    for start in FRACTIONS:
        checks += [
            median_check(
                f"{start}: exponent of the 10 % horizon in the width",
                exponents(found, start, 0),
                LEAST_EXPONENT,
                "at least",
                unit="exponent",
                family=FAMILY,
            ),
            _falling_check(found, start),
            median_check(
                f"{start}: error at the end for h = 10 over level 3's, largest over widths",
                extremes(found, start, _gain, least=False),
                LARGEST_RATIO,
                "at most",
                unit="ratio",
                family=FAMILY,
            ),
        ]
    checks += [
        median_check(
            f"checkpoint: skill of {level} at step {LOOK}, least over {over}",
            extremes(found, "checkpoint", functools.partial(skills, names=names), least=True),
            0.0,
            "at least",
            unit="skill",
            family=FAMILY,
        )
        for level, names, over in LEVELS
    ]
    return checks


def _falling_check(found: Found, start: str) -> Check:
    name = f"{start}: networks whose error at the end does not fall with h"
    cells = [
        errors
        for (where, _), by_seed in found.items()
        for result in by_seed.values()
        if where == start and (errors := last_errors(result))
    ]
    if len(seeds_of(found, start)) < LEAST_SEEDS or not cells:
        return inconclusive(name, 0, f"fewer than {LEAST_SEEDS} seeds", 0.0)
    # a NaN is no fall
    wrong = sum(not all(a > b for a, b in itertools.pairwise(c)) for c in cells)
    return at_most(name, wrong, 0, unit="networks", note=f"{len(cells)} networks")


def _gain(result: dict[str, Any]) -> list[float]:
    errors = last_errors(result)
    if not errors:
        return []
    with np.errstate(invalid="ignore", divide="ignore"):
        return [float(np.divide(errors[1 + EVERY.index(10)], errors[0]))]


def evidence_against(found: Found) -> list[str]:
    """What the simple reading leaves out, with the numbers of this run."""
    sentences = []
    for start in FRACTIONS:
        groups = {w: list(by_seed.values()) for (s, w), by_seed in found.items() if s == start}
        if groups:
            sentences += [f"{start.capitalize()}: {words}" for words in _against(groups)]
    return sentences


def _against(groups: dict[int, list[dict[str, Any]]]) -> list[str]:
    """Sentences on one start, from its results by width."""
    every = [result for results in groups.values() for result in results]
    skill = [skills(result, ("level 3",))[0] for result in every]
    behind = sum(not value > 0 for value in skill)
    ends = [groups[width] for width in (min(groups), max(groups))]
    texts = [horizon_text([horizon(r, 0) for r in results]) for results in ends]
    fell = [
        percent([1 - r["loss"][: LOOK + 1][-1] / r["loss"][0] for r in results]) for results in ends
    ]
    sentences = [
        f"level 3 is no better than straight-line extrapolation at step {LOOK} in {behind} of "
        f"{len(skill)} networks; its median skill there is {middle(skill)}.",
        f"from width {min(groups)} to {max(groups)} the 10 % horizon goes from {texts[0]} to "
        f"{texts[1]} steps, each the same fraction of the bound. Steps are one clock among "
        f"several: in {LOOK} of them the loss falls by {fell[0]} and by {fell[1]}.",
    ]
    both = [result for result in every if "h = 10" in result["readings"]]
    if both:
        once, again = (
            horizon_text([horizon(r, 0, name) for r in both]) for name in ("level 3", "h = 10")
        )
        sentences.append(
            f"re-linearising every 10 steps takes the 10 % horizon from {once} to {again}. A "
            "linearisation made after the horizon cannot change it."
        )
    return sentences
