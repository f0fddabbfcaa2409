"""Judges the edges of small batches: three checks, one table, one figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from studies.engine.checks import Check, at_most, within, worst
from studies.engine.protocol import Figure, Findings, Measured, Table
from studies.engine.text import number
from studies.related.small_batches import Config
from studies.related.small_batches.figures import plot_edges

__all__ = ["Edges", "checks", "judge"]

Array = np.ndarray


@dataclass(frozen=True)
class Edges:
    """What the study measures, in units of mu.

    Attributes
    ----------
    batches : (K,) sizes of the mini-batches, the last one the full batch.
    edges : (K,) exact mean-square edges.
    sure, sure_error : (K,) almost-sure edges and their standard errors.
    bound : 2 / λmax(R).
    """

    batches: Array
    edges: Array
    sure: Array
    sure_error: Array
    bound: float


def judge(_: Config, measured: Sequence[Measured]) -> Findings:
    """The verdict: it holds when all three checks do."""
    results = [one.result for one in measured if one.error is None]
    if not results:
        return Findings("inconclusive", reason="The edges could not be computed.")
    found = Edges(**results[0])
    made = checks(found)
    return Findings(
        verdict=worst(check.verdict for check in made),
        checks=made,
        tables=[Table("Edges of small batches", COLUMNS, rows(found))],
        answer=figure(found),
        against=evidence_against(found),
    )


def checks(found: Edges) -> list[Check]:
    """The three checks."""
    relative = found.edges / found.bound
    return [
        at_most(
            "largest fall of the mean-square edge from one batch size to the next",
            max(0.0, float(-np.diff(relative).min(initial=0.0))),
            1e-9,
            unit="of 2 / λmax",
        ),
        at_most(
            "largest excess of the mean-square edge over 2 / λmax",
            max(0.0, float(relative.max() - 1)),
            1e-6,
            unit="of 2 / λmax",
        ),
        within(
            "mean-square edge of the full batch over 2 / λmax",
            1.0,
            float(relative[-1]),
            1e-6,
            unit="ratio",
        ),
    ]


COLUMNS = (
    "images per batch",
    "mean-square edge of mu",
    "over 2 / λmax",
    "almost sure, over 2 / λmax",
)


def rows(found: Edges) -> list[list[str]]:
    """Batch size and edges."""
    lines = zip(found.batches, found.edges, found.sure, found.sure_error, strict=True)
    return [
        [
            str(size),
            number(float(edge), 4),
            number(float(edge / found.bound), 4),
            f"{number(float(sure / found.bound), 3)} ± {error / found.bound:.1g}"
            if error > 0
            else number(float(sure / found.bound), 3),
        ]
        for size, edge, sure, error in lines
    ]


def figure(found: Edges) -> Figure:
    """The figure ``small-batches``."""
    return Figure(
        name="small-batches",
        caption="Step sizes over 2 / λmax(R), the edge of the full batch, against the images in a "
        "batch. Below the solid line the mean-square deviation converges, which is exact; below "
        "the dashed one every single run does, estimated from products of the updates (bars: one "
        "standard error).",
        alt="One panel on a log axis: mean-square and almost-sure edge against batch size, both "
        "reaching 1 at the full batch.",
        plots=[partial(plot_edges, found)],
        width=5.5,
        height=3.6,
    )


def evidence_against(found: Edges) -> list[str]:
    """What the mean-square edge does not say."""
    relative = found.edges / found.bound
    enough = int(found.batches[np.argmax(relative >= 0.9)])
    over = float((found.sure / found.edges)[0])
    return [
        "Small batches cost little here: a single image per batch lowers the edge to "
        f"{number(float(relative[0]), 2)} of 2 / λmax, and {enough} images bring it back "
        "to 0.9. An image gives many patches, so even a batch of one is an average.",
        f"The mean-square edge is not where runs break: at a batch of one, every single run still "
        f"converges up to {number(over, 2)} of it. In between, runs settle and burst now "
        "and then, and only their mean square grows.",
    ]
