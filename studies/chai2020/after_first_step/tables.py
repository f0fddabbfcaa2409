"""The report of ``after-first-step``: its tables, and the evidence against the claim."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from studies.chai2020.after_first_step import LOSS, Cell, figures
from studies.chai2020.after_first_step.outcomes import (
    Outcomes,
    horizon,
    rate_factors,
    stable_rates,
    whole_steps,
)
from studies.chai2020.nlms_checks import STEP_COLUMNS, WORDS, step_rows
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
WAY_COLUMNS = (
    "update",
    "NLMS steps",
    "NLMS steps, by s",
    "rescaled",
    "rescaled, by s",
)
COST_COLUMNS = (
    "learning rate",
    f"updates within {LOSS:.0%}",
    "the same, rescaled",
    "BatchNorm ends at",
    "NLMS steps ends at",
    "rescaled ends at",
)
RATE_COLUMNS = ("algorithm", "highest stable rate", "off BatchNorm's by")


@dataclass(frozen=True)
class Rows:
    """The lines of three tables, which the evidence quotes.

    Attributes
    ----------
    way : distances of the effective weights.
    cost : losses of the algorithms, by learning rate.
    rates : highest stable rates, by algorithm.
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
        laid.append(Table("Whole steps", figures=[figures.departure(found.departures, cell)]))
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
                    f"The highest rate at which {cell.rate_steps} updates neither diverge nor "
                    "kill the network, by bisection on a grid of half octaves; medians over seeds."
                ],
            ),
        ]
    return laid


def _way_table(rows: Rows, cell: Cell) -> Table:
    text = (
        f"At rate {cell.low_rate:g}: the distance of the effective weights from BatchNorm's, "
        "relative to the distance that BatchNorm's have moved; medians over layers and seeds. By "
        "s: each weight times the s of its channel at the start, the norm in which a step of NLMS "
        "is the least change; the rule does not use it."
    )
    return Table("NLMS steps alone compared with BatchNorm", WAY_COLUMNS, rows.way, [text])


def way_rows(found: Outcomes, cell: Cell) -> list[list[str]]:
    """Distance of the effective weights relative to BatchNorm's own, medians over seeds."""
    if not found.paths:
        return []
    shown = sorted({1, min(10, cell.low_steps), cell.low_steps})

    def middle(measure: str, algorithm: str, n: int) -> str:
        values = [path[measure][algorithm][n - 1] for path in found.paths.values()]
        return number(float(np.median(values)), 2)

    return [
        [str(n)]
        + [middle(m, a, n) for a in (ALONE, RESCALED) for m in ("distance", "distance_by_s")]
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
    return f"all {cell.loss_steps}" if math.isinf(middle) else f"{middle:.0f}"


def _end(found: Outcomes, rate: str, algorithm: str) -> str:
    """Loss at the end of the run."""
    ends = [
        float(np.mean(r["loss"][rate][-10:])) if r["state"][rate] == "stable" else math.inf
        for r in found.training.get(algorithm, {}).values()
    ]
    if not ends:
        return "–"
    end = float(np.median(ends))
    return "breaks" if math.isinf(end) else number(end, 3)


def rate_rows(found: Outcomes, cell: Cell) -> list[list[str]]:
    """One line per algorithm: medians over seeds."""
    rows = []
    for algorithm in found.training:
        ends = [end[0] for end in stable_rates(found, algorithm, cell).values()]
        middle = float(np.median(ends))
        factors = [low for low, _ in rate_factors(found, algorithm, cell)]
        rows.append(
            [
                algorithm,
                number(middle, 2) if middle else f"under {cell.rates[0]:g}",
                number(float(np.median(factors)), 2) if factors else "–",
            ]
        )
    return rows


# --- the evidence ----------------------------------------------------------------------------


def evidence_against(found: Outcomes, rows: Rows, cell: Cell) -> list[str]:
    """State what speaks against the simple reading, and for it, with the numbers of this run."""
    ends = (cell.departure_rates[0], cell.departure_rates[-1])
    sentences = []
    for position, words in WORDS.items():
        low, high = (whole_steps(found, position, rate, cell) for rate in ends)
        if low and high:
            sentences.append(
                f"The departure does not vanish with the rate. BatchNorm {words}: on the same "
                "batch the whole step departs from that of NLMS by "
                f"{number(float(np.median(low)), 2)} of it at rate {ends[0]:g} and by "
                f"{number(float(np.median(high)), 2)} at {ends[1]:g}: s moves as fast as the "
                "weights do."
            )
    sentences += [
        f"At rate {row[0]}, NLMS steps alone stay within {LOSS:.0%} of BatchNorm's loss for "
        f"{row[1]} of {cell.loss_steps} updates, with the rescaling back for {row[2]}. They end "
        f"at {row[4]} and {row[5]}, BatchNorm at {row[3]}."
        for row in rows.cost
    ]
    if rows.rates:
        listed = ", ".join(f"{row[0]} {row[1]}" for row in rows.rates)
        sentences.append(f"Highest stable rates: {listed}.")
    sentences += [
        f"After {row[0]} updates the distance of NLMS steps alone from BatchNorm's effective "
        f"weights is {row[1]} of the distance that BatchNorm's have moved, and {row[2]} measured "
        f"by s; with the rescaling back it is {row[3]} and {row[4]}. Part of this is a matter of "
        "coordinates: a change of s that g compensates leaves the network's function as it was. "
        "The loss is the milder measure."
        for row in rows.way[-1:]
    ]
    return sentences
