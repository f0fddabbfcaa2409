"""Judges ``first-step``: are the two first steps equal to rounding?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from studies.chai2020.first_step import VARIATION, Config, figures
from studies.chai2020.nlms_checks import STEP_COLUMNS, equality, step_rows
from studies.engine.checks import Check, median_check, worst
from studies.engine.protocol import Findings, Measured, Table
from studies.engine.text import number

__all__ = ["evidence_against", "judge", "textbook_check"]

EXPLANATION = (
    "Behind a normalization a layer with weights w meets z = (x - m) / s. In effective weights "
    "g = w / s, which act on x - m, a gradient step on w is a step of NLMS on g: the error times "
    "the regressor over the regressor's power s², channel by channel, exactly, for the s of that "
    "batch. With the normalization after the layer the same holds with the deviation of the "
    "layer's output, and the part of the step along w drops out.",
)
DETAILS = (
    "Largest values over seeds. The difference is relative to the largest entry of the step. "
    "The textbook's NLMS divides by the energy of each single regressor. It is the same step if "
    "all patches c have the same energy |c/s|²; the table has the coefficient of variation of that "
    "energy and, at a rate of 0.1, what μ̄ = lr |c/s|² is for the patches. After the layer the step "
    "is orthogonal to w: its cosine with w is zero up to the ε in the variance. The last column is "
    "the control: the relative distance of the step from the nearest multiple of the step of LMS, "
    "the smallest over seeds.",
)


def judge(config: Config, measured: Sequence[Measured]) -> Findings:
    """Judge the steps of all networks that were measured."""
    rows = [row for one in measured if one.error is None for row in one.result["steps"]]
    checks = equality(rows, "difference of the first steps")
    textbook = textbook_check(rows)
    numbers = [(check.name, number(check.observed, 2)) for check in checks]
    tables = [Table("What was asked, and how", text=EXPLANATION)]
    if rows:
        tables.append(Table("The first step", STEP_COLUMNS, step_rows(rows), DETAILS))
    return Findings(
        verdict=worst(check.verdict for check in checks),
        checks=[*checks, textbook],
        reason="; ".join(f"{name} {value}" for name, value in numbers) + ".",
        numbers=numbers,
        tables=tables,
        answer=figures.steps(rows) if rows else None,
        against=evidence_against(rows),
    )


def textbook_check(rows: Sequence[Mapping[str, Any]]) -> Check:
    """Check whether the step is the textbook's NLMS: all patches have the same energy."""
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        if row["variation"] is not None:
            by_seed.setdefault(row["seed"], []).append(row["variation"])
    return median_check(
        "before the layer, as the textbook's NLMS: variation of the patches' energy |c/s|²",
        [(float(np.median(v)),) * 2 for v in by_seed.values()],
        VARIATION,
        "at most",
        unit="coefficient of variation",
        note="Does not decide; median over layers",
    )


def evidence_against(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """State what the claim does not say."""
    if not rows:
        return []
    least = min(row["lms"] for row in rows)
    return [
        "The equality is one of algebra, for the s of the batch at hand: it holds for any weights "
        "and any batch, and says nothing about how training continues.",
        "It is with NLMS whose power is that of the channel over the whole batch. The textbook's "
        "NLMS divides by the energy of each single regressor, which differs from patch to patch: "
        f"its coefficient of variation is {_variation(rows)}, median over layers and seeds.",
        "The powers differ enough to distinguish NLMS from LMS: the step is at least "
        f"{number(least, 2)} of itself away from every multiple of LMS's.",
    ]


def _variation(rows: Sequence[Mapping[str, Any]]) -> str:
    known = [row["variation"] for row in rows if row["variation"] is not None]
    return number(float(np.median(known)), 2) if known else "unknown"
