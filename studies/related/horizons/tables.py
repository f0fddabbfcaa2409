"""Tables of the study."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from studies.engine.checks import Interval
from studies.engine.protocol import Table
from studies.engine.text import number
from studies.related.horizons import LAYERS, LOOK, TOLERANCES, figures
from studies.related.horizons.groups import Found, horizon, skills

__all__ = ["horizon_text", "middle", "percent", "tables"]

EXPLANATION = (
    "A prediction approximates the output as linear in the weights and the loss as quadratic, and "
    "then needs no training: level 3 linearises once, at the start; level 4 again every h steps, "
    "around the weights predicted so far. The error is relative to the distance that training has "
    "moved.",
    "Skill is 1 minus the error over that of straight-line extrapolation, which repeats the first "
    "step: 1 is perfect, 0 is no better than the line.",
    "The rate is a fixed fraction of the network's own bound 2 / λmax of the Gauss-Newton matrix, "
    "so for stability a step means the same in a narrow network and in a wide one. Steps are not "
    "the only possible clock: the tables give the loss at the start and at the end.",
)


def tables(found: Found) -> list[Table]:
    """Every section of the report for which there are results."""
    made = [Table("What was asked, and how", text=EXPLANATION, printed=False)]
    if found:
        made.append(
            Table(
                "Horizons over widths",
                WIDTH_COLUMNS,
                width_rows(found),
                ["Level 3: linearised once. Medians over seeds; ranges in brackets."],
            )
        )
    if rows := reading_rows(found):
        made.append(
            Table(
                "Every level",
                READING_COLUMNS,
                rows,
                [
                    "Medians over seeds. Level 2 predicts one layer that learns alone, and is "
                    "compared with the training of that layer alone."
                ],
                [figures.readings(found)],
            )
        )
    return made


WIDTH_COLUMNS = (
    "start",
    "width",
    "learning rate",
    "loss",
    "error at step 20",
    "at the end",
    "skill at step 20",
    "10 % horizon",
    "50 % horizon",
)


def middle(values: Sequence[float], digits: int = 2) -> str:
    """Median of the seeds."""
    return number(float(np.median(values)), digits) if values else "–"


def percent(values: Sequence[float]) -> str:
    """Median of the seeds, as a percentage."""
    return f"{number(100 * float(np.median(values)), 2)} %" if values else "–"


def horizon_text(intervals: Sequence[Interval]) -> str:
    """Median and range over seeds; "beyond" the last step where the run was too short."""
    highs = [high for _, high in intervals]

    def word(value: float, low: float) -> str:
        return f"beyond {low - 1:g}" if math.isinf(value) else f"{value:g}"

    ordered = sorted(intervals, key=lambda i: (i[1], i[0]))
    low, high = ordered[0], ordered[-1]
    centre = word(float(np.median(highs)), high[0])
    if low == high:
        return centre
    return f"{centre} ({word(low[1], low[0])} to {word(high[1], high[0])})"


def width_rows(found: Found) -> list[list[str]]:
    """Level 3: one line per start and width, medians over seeds."""
    rows = []
    for (start, width), by_seed in found.items():
        every = list(by_seed.values())
        errors = [r["readings"]["level 3"]["error"] for r in every]
        rows.append(
            [
                start,
                str(width),
                middle([r["lr"] for r in every]),
                " to ".join(middle([r["loss"][n] for r in every], 3) for n in (0, -1)),
                percent([e[: LOOK + 1][-1] for e in errors]),
                percent([e[-1] for e in errors]),
                middle([skills(r, ("level 3",))[0] for r in every]),
                *(horizon_text([horizon(r, t) for r in every]) for t in range(len(TOLERANCES))),
            ]
        )
    return rows


READING_COLUMNS = (
    "start",
    "width",
    "prediction",
    "error at step 20",
    "at the end",
    "skill at step 20",
    "at the end",
    "10 % horizon",
    "50 % horizon",
)


def reading_rows(found: Found) -> list[list[str]]:
    """Every level where all were tried: one line per start, width and prediction."""
    rows = []
    for (start, width), by_seed in found.items():
        every = list(by_seed.values())
        names = list(every[0]["readings"])
        for name in names if len(names) > 1 else ():
            known = [r["readings"][name] for r in every]
            rows.append(
                [
                    start,
                    str(width),
                    f"level 2, {name}" if name in LAYERS else name,
                    percent([k["error"][: LOOK + 1][-1] for k in known]),
                    percent([k["error"][-1] for k in known]),
                    middle([k["skill"][: LOOK + 1][-1] for k in known]),
                    middle([k["skill"][-1] for k in known]),
                    *(
                        horizon_text([horizon(r, t, name) for r in every])
                        for t in range(len(TOLERANCES))
                    ),
                ]
            )
    return rows
