"""Turns the courses of the curvatures into checks, a table and evidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from studies.engine.checks import Check, Verdict, worst
from studies.engine.protocol import Findings, Measured, Table
from studies.engine.text import number
from studies.related.edge_of_stability import ENOUGH, HALF, NEAR, Config
from studies.related.edge_of_stability.course import Course
from studies.related.edge_of_stability.figures import edge_figure

__all__ = ["checks_of", "course_rows", "evidence_against", "judge"]

COLUMNS = (
    "lr",
    "2 / lr",
    "start",
    "reached at step",
    "Hessian, last third",
    "farthest from 1",
    "Gauss-Newton",
    "largest layer",
    "loss at the end",
)


def judge(config: Config, measured: Sequence[Measured]) -> Findings:
    """Judge both rates by the rule; a rate that was not measured leaves it undecided."""
    usable = [m for m in measured if m.error is None]
    courses = [Course(m.cell.lr, m.cell.steps, **m.result) for m in usable]
    if not courses:
        return Findings("inconclusive", reason="No run was measured.")
    judged = [course for course, m in zip(courses, usable, strict=True) if m.cell.layers]
    low = [course for course, m in zip(courses, usable, strict=True) if not m.cell.layers]
    checks = [check for course in judged for check in checks_of(course)]
    deciding = [check.verdict for check in checks if "single layer" not in check.name]
    missing: list[Verdict] = ["inconclusive"] * (len(config.rates) - len(judged))
    about = "Sharpness over 2 / lr; means over the last third of the run."
    return Findings(
        worst([*deciding, *missing]),
        checks,
        tables=[Table("Every rate", COLUMNS, course_rows(courses), text=[about])],
        answer=edge_figure(judged, courses),
        against=evidence_against(judged, low),
    )


def checks_of(course: Course) -> list[Check]:
    """Three checks on one run; the last does not decide."""
    name = f"lr {course.lr:g}"
    start, late = float(course.relative[0]), course.relative[course.last_third]
    end = float("inf") if course.diverged else float(late.mean())
    verdict: Verdict = "holds" if abs(end - 1) <= NEAR else "fails"
    reason = "it diverged" if course.diverged else f"{len(late)} measurements"
    if course.steps < ENOUGH or start > HALF:
        verdict, reason = "inconclusive", f"{course.steps} steps from {number(start, 2)}"
    own = max(float(row.max(initial=0)) for row in course.layers.values()) / course.edge
    return [
        Check(
            name=f"{name}: sharpness at the start",
            predicted=None,
            observed=start,
            tolerance=HALF,
            verdict="holds" if start <= HALF else "inconclusive",
            rule="observed <= tolerance, or no rise can be seen",
            unit="of 2 / lr",
        ),
        Check(
            name=f"{name}: mean sharpness of the last third",
            predicted=1.0,
            observed=end,
            tolerance=NEAR,
            verdict=verdict,
            rule="|observed - predicted| <= tolerance",
            unit="of 2 / lr",
            note=reason,
        ),
        Check(
            name=f"{name}: largest sharpness of a single layer",
            predicted=None,
            observed=own,
            tolerance=1.0,
            verdict="holds" if own < 1 else "fails",
            rule="observed < tolerance; does not decide",
            unit="of 2 / lr",
        ),
    ]


def course_rows(courses: Sequence[Course]) -> list[list[str]]:
    """One line per rate; sharpness over 2 / lr."""
    rows = []
    for course in courses:
        values = course.relative[course.last_third]
        known = len(values) > 0
        own = [course.late_mean(row) for row in course.layers.values()]
        rows.append(
            [
                f"{course.lr:g}",
                f"{course.edge:g}",
                number(float(course.relative[0]), 2),
                "never" if course.reached_at is None else str(course.reached_at),
                number(float(values.mean()), 3) if known else "diverged",
                number(float(values[np.argmax(np.abs(values - 1))]), 3) if known else "–",
                number(course.late_mean(course.gauss_newton), 3) if known else "–",
                number(max(own), 2) if known and own else "–",
                number(float(course.loss[-1]), 3),
            ]
        )
    return rows


def evidence_against(judged: Sequence[Course], low: Sequence[Course]) -> list[str]:
    """What a sharpness of 2 / lr does not say.

    Parameters
    ----------
    judged : the runs that the rule is about.
    low : the one at a lower rate, if it was measured.
    """

    def named(curvatures: dict[str, float]) -> str:
        return ", ".join(f"{name} {number(value, 2)}" for name, value in curvatures.items())

    sentences = []
    for course in judged:
        if not course.last_third.any():
            continue
        own = {name: course.late_mean(row) for name, row in course.layers.items()}
        lms = {name: course.late_mean(row) for name, row in course.inputs.items()}
        sentences.append(
            f"At lr {course.lr:g} no single layer explains the edge: over the last third the "
            f"layers' own sharpness is {named(own)} of 2 / lr. Nor does the LMS bound on "
            f"the layers' inputs, by which it would be {named(lms)}."
        )
    sentences += [
        f"Not every rate reaches the edge: at lr {course.lr:g} the sharpness ends at "
        f"{number(float(course.relative[-1]), 2)} of 2 / lr after {course.steps} steps, at a loss "
        f"of {number(float(course.loss[-1]), 2)}."
        for course in low
    ]
    return sentences
