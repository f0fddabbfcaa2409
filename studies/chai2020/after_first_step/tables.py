"""Tables, sentences and pages of the study ``after-first-step``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from studies import STUDIES
from studies.chai2020.after_first_step.figures import (
    FIGURES,
    draw_after,
    draw_departure,
    draw_losses,
)
from studies.chai2020.after_first_step.judge import (
    LOSS,
    Found,
    horizon,
    rate_factors,
    stable_rates,
    whole_steps,
)
from studies.chai2020.nlms_checks import STEP_COLUMNS, WORDS, step_rows
from studies.engine import page as report
from studies.engine.summary import Summary

if TYPE_CHECKING:
    from studies.chai2020.after_first_step.measure import Config

__all__ = ["FIGURES", "evidence_against", "print_results", "tables", "write_report"]

TITLE = "After the first step: where BatchNorm parts from NLMS"
QUESTION = STUDIES["after-first-step"].question
EXPLANATION = (
    "In effective weights g = w / s a gradient step behind BatchNorm is a step of NLMS, at every "
    "update, for the s of its batch. Then comes the next batch with another s, and g = w / s has "
    "changed without a step: by s(n) / s(n+1) - 1. On the same batch that is what the network's "
    "own movement did to s; between batches the sampling noise of s comes on top.",
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


def way_rows(found: Found, config: Config) -> list[list[str]]:
    """Distance of the effective weights over BatchNorm's way, medians over seeds."""
    if not found.paths:
        return []
    shown = sorted({1, min(10, config.low_steps), config.low_steps})

    def middle(measure: str, algorithm: str, n: int) -> str:
        values = [_nan(p[measure][algorithm][n - 1]) for p in found.paths.values()]
        return report.number(float(np.median(values)), 2)

    return [
        [str(n)]
        + [middle(m, a, n) for a in (ALONE, RESCALED) for m in ("distance", "distance_by_s")]
        for n in shown
    ]


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def horizons(found: Found, rate: str, algorithm: str) -> list[float]:
    """Updates until the losses of an algorithm and of BatchNorm are apart, by seed."""
    twins = found.training.get(algorithm, {})
    return [
        horizon(twins[seed]["loss"][rate], result["loss"][rate])
        for seed, result in found.training.get("batch norm", {}).items()
        if seed in twins
    ]


def cost_rows(found: Found, config: Config) -> list[list[str]]:
    """One line per learning rate: medians over seeds."""
    rows = []
    for rate in (f"{lr:g}" for lr in config.loss_rates):
        cells = [rate]
        for algorithm in (ALONE, RESCALED):
            until = horizons(found, rate, algorithm)
            middle = float(np.median(until)) if until else math.nan
            cells.append(f"all {config.loss_steps}" if math.isinf(middle) else f"{middle:.0f}")
        for algorithm in ("batch norm", ALONE, RESCALED):
            ends = [
                float(np.mean(r["loss"][rate][-10:])) if r["state"][rate] == "stable" else math.inf
                for r in found.training.get(algorithm, {}).values()
            ]
            end = float(np.median(ends)) if ends else math.nan
            cells.append("breaks" if math.isinf(end) else report.number(end, 3))
        rows.append(cells)
    return rows


def rate_rows(found: Found, config: Config) -> list[list[str]]:
    """One line per algorithm: medians over seeds."""
    rows = []
    for algorithm in found.training:
        ends = [end[0] for end in stable_rates(found, algorithm, config).values()]
        middle = float(np.median(ends))
        factors = [low for low, _ in rate_factors(found, algorithm, config)]
        rows.append(
            [
                algorithm,
                report.number(middle, 2) if middle else f"under {config.rates[0]:g}",
                report.number(float(np.median(factors)), 2) if factors else "–",
            ]
        )
    return rows


def tables(found: Found, config: Config) -> dict[str, Any]:
    """Every table, for ``summary.json``."""
    return {
        name: [dict(zip(columns, row, strict=True)) for row in rows]
        for name, columns, rows in (
            ("steps", STEP_COLUMNS, step_rows(found.steps)),
            ("way", WAY_COLUMNS, way_rows(found, config)),
            ("cost", COST_COLUMNS, cost_rows(found, config) if found.training else []),
            ("rates", RATE_COLUMNS, rate_rows(found, config)),
        )
    }


def evidence_against(found: Found, config: Config) -> list[str]:
    """What speaks against the simple reading, and what for it, with the numbers of this run."""
    sentences = []
    for position, words in WORDS.items():
        ends = [
            float(np.median(values))
            for rate in (config.departure_rates[0], config.departure_rates[-1])
            if (values := whole_steps(found, position, rate, config))
        ]
        if len(ends) == 2:
            sentences.append(
                f"The departure does not vanish with the rate. BatchNorm {words}: on the same "
                "batch the whole step departs from that of NLMS by "
                f"{report.number(ends[0], 2)} of it at rate {config.departure_rates[0]:g} and by "
                f"{report.number(ends[1], 2)} at {config.departure_rates[-1]:g}: s moves as fast "
                "as the weights do."
            )
    if not found.training:
        return sentences
    sentences += [
        f"At rate {row[0]}, NLMS steps alone stay within {LOSS:.0%} of BatchNorm's loss for "
        f"{row[1]} updates of {config.loss_steps}, with the rescaling back {row[2]}. They end "
        f"at {row[4]} and {row[5]}, BatchNorm at {row[3]}."
        for row in cost_rows(found, config)
    ]
    rates = {row[0]: row[1] for row in rate_rows(found, config)}
    sentences.append(
        "Highest stable rates: " + ", ".join(f"{name} {rate}" for name, rate in rates.items()) + "."
    )
    sentences += [
        f"After {row[0]} updates NLMS steps alone are {row[1]} of BatchNorm's way from "
        f"BatchNorm's effective weights, and {row[2]} measured by s; with the rescaling back "
        f"{row[3]} and {row[4]}. "
        "Part of this is a matter of coordinates: a change of s that g makes up for leaves the "
        "network's function as it was. The loss is the milder measure."
        for row in way_rows(found, config)[-1:]
    ]
    return sentences


def write_report(out: Path, summary: Summary, found: Found, config: Config) -> None:
    """Figures and ``report.html`` of what there is."""
    sections = [report.Section("What was asked, and how", EXPLANATION)]
    if found.paths and found.training:
        sections.append(
            report.Section(
                "NLMS steps alone beside BatchNorm",
                [
                    f"At rate {config.low_rate:g}: how far the effective weights are from "
                    "BatchNorm's, over the way that BatchNorm's have gone; medians over layers and "
                    "seeds. By s: each weight times the s of its channel at the start, the norm in "
                    "which a step of NLMS is the least; it has no say."
                ],
                WAY_COLUMNS,
                way_rows(found, config),
                [draw_after(found, config, out)],
            )
        )
    if found.steps:
        sections.append(
            report.Section(
                "Gradient steps later on",
                [
                    f"Before updates {', '.join(map(str, config.visits))}, counted from 0, of a "
                    f"training at rate {config.step_rate:g}; largest over seeds and updates, and "
                    "of the distance from LMS the least."
                ],
                STEP_COLUMNS,
                step_rows(found.steps),
            )
        )
    if found.departures:
        sections.append(
            report.Section("Whole steps", pictures=[draw_departure(found.departures, config, out)])
        )
    if found.training:
        sections += [
            report.Section(
                "What it costs in loss",
                ["Medians over seeds, BatchNorm before the layer."],
                COST_COLUMNS,
                cost_rows(found, config),
                [draw_losses(found.training, config, out)],
            ),
            report.Section(
                "Where it breaks",
                [
                    f"The highest rate at which {config.rate_steps} updates neither diverge nor "
                    "kill the network, by bisection on a grid of half octaves; medians over seeds."
                ],
                RATE_COLUMNS,
                rate_rows(found, config),
            ),
        ]
    report.write(out / "report.html", summary, title=TITLE, question=QUESTION, sections=sections)


def print_results(summary: Summary, found: Found, config: Config, out: Path) -> None:
    """Tables for the terminal."""
    for columns, rows in (
        (STEP_COLUMNS, step_rows(found.steps)),
        (WAY_COLUMNS, way_rows(found, config)),
        (COST_COLUMNS, cost_rows(found, config) if found.training else []),
        (RATE_COLUMNS, rate_rows(found, config)),
    ):
        if rows:
            print()
            print(report.table(columns, rows))
    report.print_verdicts(summary, out)
