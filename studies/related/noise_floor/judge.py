"""Judges ``noise-floor``: noise floor and edge of the head, critical batch of the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from studies.engine.checks import Check, Interval, at_most, inconclusive, median_check, worst
from studies.engine.power import share_table
from studies.engine.protocol import Figure, Findings, Measured, Table
from studies.engine.text import number
from studies.related.noise_floor import Config, Limits
from studies.related.noise_floor.figures import plot_batches, plot_edges, plot_excess

__all__ = ["checks_of", "factor", "judge"]

Array = np.ndarray
FAMILY = 3
SEEDS = 5
Results = Sequence[dict[str, Any]]


def judge(config: Config, measured: Sequence[Measured]) -> Findings:
    """The verdict: it holds when the three checks do."""
    results = [one.result for one in measured if one.error is None]
    if not results:
        return Findings("inconclusive", reason="No network was measured.")
    batches = config.cell.batches
    checks = checks_of(batches, results)
    return Findings(
        verdict=worst(check.verdict for check in checks),
        checks=checks,
        tables=[
            Table("The head, by batch size", HEAD_COLUMNS, head_rows(batches, results)),
            Table("The network, by seed", NETWORK_COLUMNS, network_rows(results)),
            share_table(config.seeds, FAMILY),
        ],
        answer=figure(batches, results),
        against=against(batches, results),
    )


def head_ratios(results: Results, name: str, over: str) -> Array:
    """(seeds, batches) one number of the head over another."""
    return np.array([np.array(r["head"][name]) / r["head"][over] for r in results])


def checks_of(batches: Sequence[int], results: Results) -> list[Check]:
    """The three checks of the rule."""
    titles = (
        "(a) head's excess over theory's, largest distance from 1 over batch sizes",
        "(b) rate at which the head breaks, largest distance outside the two edges",
    )
    factors = [factor(r["network"]) for r in results]
    last = median_check(
        "(c) critical batch, factor between network and theory",
        factors,
        Limits.batch,
        "at most",
        unit="factor",
        family=FAMILY,
    )
    if len(results) < SEEDS:
        few = f"fewer than {SEEDS} seeds"
        limits = (Limits.excess, Limits.edge)
        made = [
            inconclusive(title, limit, few) for title, limit in zip(titles, limits, strict=True)
        ]
        return [*made, last]
    excess = head_ratios(results, "observed", "predicted")
    distance = np.abs(excess.mean(axis=0) - 1)
    low = head_ratios(results, "mean_square", "mean").mean(axis=0)
    broken = head_ratios(results, "breaks", "mean").mean(axis=0)
    outside = np.maximum(np.maximum(low / broken - 1, broken - 1), 0.0)
    notes = []
    for values, each in ((distance, excess), (outside, head_ratios(results, "breaks", "mean"))):
        k = int(np.argmax(np.nan_to_num(values, nan=np.inf)))
        error = each[:, k].std(ddof=1) / math.sqrt(len(each))
        notes.append(
            f"batch {batches[k]}: {number(float(each[:, k].mean()), 4)} ± {number(float(error), 1)}"
        )
    return [
        at_most(titles[0], float(distance.max()), Limits.excess, unit="of theory", note=notes[0]),
        at_most(
            titles[1], float(outside.max()), Limits.edge, unit="of the edge", note=notes[1]
        ),
        last,
    ]  # fmt: skip


def factor(network: dict[str, Any], name: str = "predicted_batch") -> Interval:
    """Factor, at least 1, between observed critical batch and a prediction of it."""
    return _apart(network["observed_batch"], network[name])


def _apart(observed: float, said: float) -> Interval:
    if not (observed > 0 and said > 0 and math.isfinite(observed) and math.isfinite(said)):
        return 1.0, math.inf
    value = math.exp(abs(math.log(observed / said)))
    return value, value


HEAD_COLUMNS = (
    "images per batch",
    "excess: runs over theory",
    "textbook over runs",
    "shuffled targets over runs",
    "runs break, over mean edge",
    "mean-square over mean edge",
)


def head_rows(batches: Sequence[int], results: Results) -> list[list[str]]:
    """Means over seeds and standard errors."""
    pairs = (
        ("observed", "predicted"),
        ("textbook", "observed"),
        ("shuffled", "observed"),
        ("breaks", "mean"),
        ("mean_square", "mean"),
    )
    tables = [head_ratios(results, *pair) for pair in pairs]
    return [
        [str(size), *(_mean(table[:, k]) for table in tables)]
        for k, size in enumerate(batches[:-1])
    ]


def _mean(values: Array) -> str:
    if len(values) < 2:
        return number(float(values.mean()), 3)
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return f"{number(float(values.mean()), 3)} ± {number(error, 1)}"


NETWORK_COLUMNS = (
    "network",
    "critical batch",
    "theory",
    "noise scale",
    "updates, full batch",
    "theory's",
)


def network_rows(results: Results) -> list[list[str]]:
    """Critical batch observed and predicted, and the updates of the full batch."""
    rows = []
    for k, result in enumerate(results):
        n = result["network"]
        names = ("observed_batch", "predicted_batch", "noise_scale")
        ends = (n["observed"][-1], n["predicted"][-1])
        rows.append([str(k), *(_size(n[name]) for name in names), *(number(v, 3) for v in ends)])
    return rows


def _size(value: float) -> str:
    return number(value, 3) if math.isfinite(value) else "unknown"


def figure(batches: Sequence[int], results: Results) -> Figure:
    """The figure ``noise-floor``."""
    return Figure(
        name="noise-floor",
        caption="A line for each network, against the images in a batch. Left: excess loss of the "
        "head over the exact theory's; the band is the limit. Middle: rate at which the median of "
        "its runs breaks, and the mean-square edge, over the mean edge. Right: updates until the "
        "loss has fallen by a fifth, over those of the full batch; the critical batch is where a "
        "line crosses 2.",
        alt="Three panels against batch size: excess over theory near 1, edges below and near 1, "
        "and falling updates of network and theory.",
        plots=[
            partial(plot_excess, batches, results),
            partial(plot_edges, batches, results),
            partial(plot_batches, batches, results),
        ],
        width=11,
        height=3.8,
    )


def against(batches: Sequence[int], results: Results) -> list[str]:
    """What baselines and nulls do, and where theory and runs part."""
    textbook = head_ratios(results, "textbook", "observed").mean(axis=0)
    shuffled = head_ratios(results, "shuffled", "observed").mean(axis=0)
    said = [
        "The textbook's lr J tr(R) / (2 B), which takes noise and regressors as independent, gives "
        f"{number(float(textbook.min()), 2)} to {number(float(textbook.max()), 2)} of the head's "
        f"excess; the exact theory for shuffled targets {number(float(shuffled.min()), 2)} to "
        f"{number(float(shuffled.max()), 2)}."
    ]
    networks = [r["network"] for r in results]
    observed = [n["observed_batch"] for n in networks]
    known = [value for value in observed if value > 0 and math.isfinite(value)]
    if len(known) > 1:
        apart = {
            "theory": [factor(n)[0] for n in networks],
            "noise": [factor(n, "noise_scale")[0] for n in networks],
            "others": [
                _apart(v, math.exp(np.mean(np.log([*known[:k], *known[k + 1 :]]))))[0]
                for k, v in enumerate(known)
            ],
        }
        words = {name: number(float(np.median(values)), 3) for name, values in apart.items()}
        said.append(
            f"The critical batch is off by a factor of {words['theory']} from theory in the "
            f"median, by {words['noise']} from the gradient's noise scale, and by "
            f"{words['others']} from the geometric mean of the other seeds, which needs their runs."
        )
    broken = head_ratios(results, "breaks", "mean").mean(axis=0)
    over = [str(size) for size, value in zip(batches, broken, strict=False) if value > 1]
    if over:
        said.append(
            "The median run breaks above the mean edge at batches of "
            f"{', '.join(over)}: the median follows the almost-sure edge, which may lie above it."
        )
    return said
