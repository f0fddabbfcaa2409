"""The report of ``after-first-step``: its tables, and the evidence against the claim."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from studies.chai2020.after_first_step import LOSS, Cell, figures
from studies.chai2020.after_first_step.outcomes import (
    CRITERIA,
    Outcomes,
    horizon,
    rate_factors,
    rates,
)
from studies.chai2020.nlms_checks import STEP_COLUMNS, step_rows
from studies.engine.checks import spread
from studies.engine.outcomes import fails_text, learns_text
from studies.engine.protocol import Table
from studies.engine.text import number

__all__ = ["Rows", "cost_rows", "evidence_against", "rate_rows", "tables", "way_rows"]

EXPLANATION = (
    "In effective weights g = w / s a gradient step behind BatchNorm is a step of NLMS, at every "
    "update, for the s of its batch. Then comes the next batch with another s, and g = w / s has "
    "changed without a step: by s(n) / s(n+1) - 1. On the same batch that is what the network's "
    "own movement did to s; between batches the sampling noise of s is added.",
    "NLMS steps alone is the claim taken as an algorithm for every update: channels are centred, "
    "the weights are g, each gradient is divided by s² of the channel it reads, with the s of the "
    "batch at hand. Two things are missing: the rescaling of g, and the gradient that reaches the "
    "layers before through s. The network with the rescaling put back lacks the second only.",
)
ALONE = "NLMS steps"
RESCALED = "NLMS steps, rescaled"
WAY_COLUMNS = ("what", "NLMS steps alone", "with the rescaling back")
COST_COLUMNS = (
    "learning rate",
    f"updates within {LOSS:.0%}",
    "the same, rescaled",
    "BatchNorm ends at",
    "NLMS steps ends at",
    "rescaled ends at",
)
RATE_COLUMNS = (
    "algorithm",
    "lowest rate that fails",
    "highest rate that learns",
    "failing, off BatchNorm's by",
    "learning, off BatchNorm's by",
)


@dataclass(frozen=True)
class Rows:
    """The lines of three tables, which the evidence quotes.

    Attributes
    ----------
    way : distances of the outputs.
    cost : losses of the algorithms, by learning rate.
    rates : rates that fail and learn, by algorithm.
    """

    way: list[list[str]]
    cost: list[list[str]]
    rates: list[list[str]]

    @classmethod
    def of(cls, found: Outcomes, cell: Cell) -> Rows:
        """Compute all lines once."""
        return cls(way_rows(found, cell), cost_rows(found, cell), rate_rows(found, cell))


def tables(found: Outcomes, rows: Rows, cell: Cell) -> list[Table]:
    """Lay out the report of what was measured."""
    laid = [Table("What was asked, and how", text=EXPLANATION)]
    if rows.way:
        laid.append(_way_table(rows, cell))
    if found.steps:
        visits = ", ".join(map(str, cell.visits))
        text = (
            f"Before updates {visits}, counted from 0, of a training at rate {cell.step_rate:g}: "
            "the largest values over seeds and updates, and the smallest distance from LMS."
        )
        columns, lines = STEP_COLUMNS, step_rows(found.steps)
        laid.append(Table("Gradient steps later on", columns, lines, [text]))
    if found.departures:
        laid.append(Table("How s changes", figures=[figures.departure(found.departures, cell)]))
    if found.training:
        laid += [
            Table(
                "What it costs in loss",
                COST_COLUMNS,
                rows.cost,
                ["Medians over seeds, BatchNorm before the layer."],
                [figures.losses(found.training, cell)],
            ),
            Table(
                "Where it breaks",
                RATE_COLUMNS,
                rows.rates,
                [
                    f"Intervals of the grid for {cell.rate_steps} updates, medians of their ends "
                    "over seeds. Fails: explodes or dies. Learns: batch accuracy at the end above "
                    "0.5."
                ],
            ),
        ]
    return laid


def _way_table(rows: Rows, cell: Cell) -> Table:
    visits = ", ".join(map(str, cell.visits))
    text = (
        f"At rate {cell.low_rate:g}. A step: |df_BN - df_NLMS| / |df_BN| of one step from the same "
        f"weights, on its batch, before updates {visits}. The way: distance of the outputs from "
        "BatchNorm's, over the distance that BatchNorm's have moved, on the first batch. Medians "
        "over seeds. Outputs do not change when s changes and effective weights compensate."
    )
    return Table("NLMS steps alone compared with BatchNorm", WAY_COLUMNS, rows.way, [text])


def way_rows(found: Outcomes, cell: Cell) -> list[list[str]]:
    """Departures of the outputs, medians over seeds: of one step, and along the way."""
    paths = list(found.paths.values())
    if not paths:
        return []

    def middle(measure: str, algorithm: str, at: int) -> str:
        return number(float(np.median([path[measure][algorithm][at] for path in paths])), 2)

    shown = sorted({1, min(10, cell.low_steps), cell.low_steps})
    made = [v for v in cell.visits if v < cell.low_steps]
    return [
        [f"a step before update {v}", *(middle("whole_step", a, i) for a in (ALONE, RESCALED))]
        for i, v in enumerate(made)
    ] + [
        [f"the way after {n} updates", *(middle("distance", a, n - 1) for a in (ALONE, RESCALED))]
        for n in shown
    ]


def cost_rows(found: Outcomes, cell: Cell) -> list[list[str]]:
    """One line per learning rate: medians over seeds."""
    if not found.training:
        return []
    return [
        [
            rate,
            *(_within(found, rate, algorithm, cell) for algorithm in (ALONE, RESCALED)),
            *(_end(found, rate, algorithm) for algorithm in ("batch norm", ALONE, RESCALED)),
        ]
        for rate in (f"{lr:g}" for lr in cell.loss_rates)
    ]


def _within(found: Outcomes, rate: str, algorithm: str, cell: Cell) -> str:
    """Updates until the losses of an algorithm and of BatchNorm differ."""
    twins = found.training.get(algorithm, {})
    until = [
        horizon(twins[seed]["loss"][rate], result["loss"][rate])
        for seed, result in found.training.get("batch norm", {}).items()
        if seed in twins
    ]
    if not until:
        return "–"
    middle = float(np.median(until))
    return f"all {cell.rate_steps}" if math.isinf(middle) else f"{middle:.0f}"


def _end(found: Outcomes, rate: str, algorithm: str) -> str:
    """Loss at the end of the run; a run that was ended or overflowed breaks."""
    longest = max(len(r["loss"][rate]) for r in found.training["batch norm"].values())
    ends = [
        float(np.mean(r["loss"][rate][-10:])) if len(r["loss"][rate]) == longest else math.inf
        for r in found.training.get(algorithm, {}).values()
    ]
    if not ends:
        return "–"
    end = float(np.median(ends))
    return number(end, 3) if math.isfinite(end) else "breaks"


def rate_rows(found: Outcomes, cell: Cell) -> list[list[str]]:
    """One line per algorithm: medians over seeds."""
    rows = []
    for algorithm in found.training:
        cells = [
            told(list(rates(found, algorithm, criterion, cell).values()))
            for criterion, told in (("failing", fails_text), ("learning", learns_text))
        ]
        cells += [spread(rate_factors(found, algorithm, c, cell), 2) for c in CRITERIA]
        rows.append([algorithm, *cells])
    return rows


# --- the evidence ----------------------------------------------------------------------------


def evidence_against(found: Outcomes, rows: Rows, cell: Cell) -> list[str]:
    """State what speaks against the simple reading, and for it, with the numbers of this run."""
    sentences = [
        f"At rate {row[0]}, NLMS steps alone stay within {LOSS:.0%} of BatchNorm's loss for "
        f"{row[1]} of {cell.rate_steps} updates, with the rescaling back for {row[2]}. They end "
        f"at {row[4]} and {row[5]}, BatchNorm at {row[3]}."
        for row in rows.cost
    ]
    sentences += [
        f"{row[0]}: fails {row[1]}, learns {row[2]}." for row in rows.rates if row[0] != "nothing"
    ]
    sentences += [
        f"For {row[0]} the outputs depart from BatchNorm's by {row[1]} of its own change, and by "
        f"{row[2]} with the rescaling back, where only the gradient through s is missing."
        for row in rows.way[:1]
    ]
    return sentences
