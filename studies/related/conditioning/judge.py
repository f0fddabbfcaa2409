"""Turns the readings of the layers into checks, tables and evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from studies.engine.checks import Check, Interval, Verdict, median_check, worst
from studies.engine.power import share_table
from studies.engine.protocol import Findings, Measured, Table
from studies.engine.text import number
from studies.related.conditioning import NETS, Config, Net
from studies.related.conditioning.figures import layers_figure
from studies.related.conditioning.readings import MEASURES, Readings, median

__all__ = ["checks_of", "evidence_against", "judge", "layer_rows", "verdict_of"]

Array = np.ndarray

FAMILY = 3
"""Ways to fail: the first check, the second, or the third and fourth together."""

COLUMNS = ("network, layer", *MEASURES, "R x G at the start", "curvature at the start")


def judge(config: Config, measured: Sequence[Measured]) -> Findings:
    """Judge the median over seeds by the rule."""
    if all(m.error is not None for m in measured):
        return Findings("inconclusive", reason="No network was measured.")
    readings = Readings.of(config, measured)
    checks = checks_of(readings)
    about = (
        "Condition numbers, largest over median eigenvalue, and the largest eigenvalue of the "
        f"layer's own Gauss-Newton matrix in 1 / lr; after {config.cell.times[-1]} updates and, "
        "in the last two columns, at the start. Medians over seeds."
    )
    rows = layer_rows(readings)
    last = [row for row in rows if row[0].endswith("linear")]
    return Findings(
        verdict_of(checks),
        checks,
        tables=[
            Table("The last layer", COLUMNS, last, text=[about]),
            Table("The convolutions", COLUMNS, [row for row in rows if row not in last]),
            share_table(config.seeds, FAMILY),
        ],
        answer=layers_figure(readings),
        against=evidence_against(readings, checks),
    )


def checks_of(readings: Readings) -> list[Check]:
    """The seven checks, in the order of the rule; the first four decide."""

    def check(name: str, values: Array, note: str = "") -> Check:
        return median_check(
            name,
            _intervals(values),
            0.0,
            "at least",
            unit="decades",
            note=note,
            family=FAMILY,
        )

    checks = [
        check(
            f"hidden layers, R x G: {NETS[net]} lowers the condition number by",
            readings.hidden("none") - readings.hidden(net),
        )
        for net in ("after", "before")
    ]
    notes: dict[Net, str] = {"after": "", "before": "Does not decide"}
    for net, note in notes.items():
        for measure, word in (("R x G", "condition number of R x G"), ("curvature", "curvature")):
            name = f"{NETS[net]}: the linear layer's {word} over the largest convolution's"
            checks.append(check(name, readings.last_over_others(net, measure), note))
    after, before = (
        readings.values[net, "R"][:, :, -1].mean(axis=1) for net in ("after", "before")
    )
    name = "linear layer, R: BatchNorm before it lowers the condition number by"
    return [*checks, check(name, after - before, "Does not decide")]


def _intervals(values: Array) -> list[Interval]:
    """A network that did not train to the end may have any value."""
    return [(v, v) if math.isfinite(v) else (-math.inf, math.inf) for v in map(float, values)]


def verdict_of(checks: Sequence[Check]) -> Verdict:
    """The verdict that the rule draws from the first four checks."""
    last: set[Verdict] = {check.verdict for check in checks[2:4]}
    of_last: Verdict = (
        "holds" if "holds" in last else "fails" if last == {"fails"} else "inconclusive"
    )
    return worst([checks[0].verdict, checks[1].verdict, of_last])


def layer_rows(readings: Readings) -> list[list[str]]:
    """One line per network and layer: medians over seeds at the end, the last two at the start."""
    rows = []
    columns = [*((name, -1) for name in MEASURES), ("R x G", 0), ("curvature", 0)]
    for net, words in NETS.items():
        medians = {name: median(readings.values[net, name]) for name in MEASURES}
        for i, layer in enumerate(readings.layers):
            numbers = [number(10 ** float(medians[name][time, i]), 3) for name, time in columns]
            rows.append([f"{words}, {layer}", *numbers])
    return rows


def evidence_against(readings: Readings, checks: Sequence[Check]) -> list[str]:
    """What lower condition numbers do not say, and which checks do not hold."""
    sentences = []
    for name in ("R", "G"):
        after, before = (
            number(float(median(readings.hidden("none", name) - readings.hidden(net, name))), 2)
            for net in ("after", "before")
        )
        sentences.append(
            f"BatchNorm lowers the hidden layers' condition number of {name} alone by {after} "
            f"decades after the convolution and {before} in front of the layer (a negative number "
            "is a rise)."
        )
    sentences += [
        f"This check {'fails' if check.verdict == 'fails' else 'is inconclusive'}: {check.name} "
        f"{number(check.observed, 2)} decades."
        for check in checks
        if check.verdict != "holds"
    ]
    shares = ", ".join(
        f"{number(10 ** float(median(readings.last_over_others(net, 'curvature'))), 2)} with "
        f"{words}"
        for net, words in NETS.items()
    )
    sentences.append(
        f"The linear layer's curvature, over the largest of the convolutions', is {shares}."
    )
    losses = ", ".join(
        f"{number(float(median(readings.losses[net])), 2)} with {words}"
        for net, words in NETS.items()
        if len(readings.losses[net])
    )
    sentences.append(
        "At the same rate and number of updates the networks have not learned equally much: the "
        f"loss at the end is {losses}."
    )
    return sentences
