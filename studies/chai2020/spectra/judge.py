"""Turns the measured spectra into checks, tables and evidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from studies.chai2020.spectra import TOLERANCE, Config
from studies.chai2020.spectra.figures import course_figure, spectra_figure
from studies.chai2020.spectra.sites import Ends, Site
from studies.engine.checks import Check, at_most, worst
from studies.engine.protocol import Findings, Measured, Table
from studies.engine.text import number

__all__ = ["checks_of", "end_rows", "evidence_against", "judge", "site_rows"]

EXPLANATION = (
    "Every output of a convolution is an LMS filter whose regressors are the patches of the input, "
    "and R is their autocorrelation. A normalization in front of the layer takes out the mean of "
    "each channel and divides the channel by a number, so it maps R to S⁻¹ R S⁻¹ with the mean "
    "removed: a congruence. The eigenvalues follow from the moments of the raw input, borders and "
    "zero padding included.",
    "Ostrowski's theorem bounds each eigenvalue behind the scaling by the same one before it, "
    "times the smallest and the largest 1 / s². Amplifying has 1 / s² of at least 1 everywhere, so "
    "compared with centring alone it can only raise eigenvalues; suppressing can only lower them. "
    "Compared with no normalization this is not a theorem, since centring comes on top, so the "
    "sites where it is true are counted.",
    'In position "post" a ReLU lies between normalization and layer. Nothing is predicted there.',
)
SMALLEST = ("none", "amplify", "suppress", "full")
LARGEST = ("none", "center", "amplify", "suppress", "full")
COLUMNS = ("network", "update", *(f"min {v}" for v in SMALLEST), *(f"max {v}" for v in LARGEST))
END_COLUMNS = ("position", "network", "update", "smallest λ", "largest λ", "spread")


def judge(config: Config, measured: Sequence[Measured]) -> Findings:
    """Judge every site by the rule; the verdict is that of the worst check."""
    results = [m.result for m in measured if m.error is None]
    sites = [Site(**site) for result in results for site in result["sites"]]
    ends = [Ends(**end) for result in results for end in result["ends"]]
    tables = [Table("What was asked, and how", text=EXPLANATION)]
    if ends:
        tables.append(
            Table(
                "What the networks learn on",
                END_COLUMNS,
                end_rows(ends),
                text=["R as each network has it; medians over seeds and layers."],
                figures=[course_figure(ends)],
            )
        )
    if not sites:
        return Findings("inconclusive", reason="No site was measured.", tables=tables)
    checks = checks_of(sites)
    holding = sum(check.verdict == "holds" for check in checks)
    tables.insert(
        1,
        Table(
            "Behind each part of BatchNorm",
            COLUMNS,
            site_rows(sites),
            text=[
                "Smallest (min) and largest (max) eigenvalue of R at the inputs of a network "
                "trained without normalization (none) or with BatchNorm (full), behind each "
                "variant; medians over seeds and layers."
            ],
        ),
    )
    return Findings(
        worst(check.verdict for check in checks),
        checks,
        reason=f"{holding} of {len(checks)} checks hold over {len(sites)} sites.",
        tables=tables,
        answer=spectra_figure(sites),
        against=evidence_against(sites),
    )


def checks_of(sites: Sequence[Site]) -> list[Check]:
    """The five checks that decide, over all sites."""
    where = f"Over {len(sites)} sites: layers, checkpoints, networks"
    largest = "of the largest eigenvalue"
    checks = [
        at_most(
            "eigenvalues behind every part of BatchNorm, predicted and measured",
            max(site.error for site in sites),
            TOLERANCE,
            unit=largest,
            note=where,
        ),
        at_most(
            "eigenvalues outside Ostrowski's interval",
            max(site.outside for site in sites),
            TOLERANCE,
            unit=largest,
            note=where,
        ),
        at_most(
            "largest eigenvalue behind BatchNorm over the ceiling of the trace",
            max(float(site.eigenvalues["full"][-1]) / site.ceiling for site in sites),
            1.0,
            unit="ratio",
            note="The ceiling needs no measurement: channels times taps, borders counted",
        ),
    ]
    for variant, index, words, right in (
        ("amplify", 0, "amplifying raises the smallest eigenvalue", lambda r: r >= 1 - TOLERANCE),
        ("suppress", -1, "suppressing lowers the largest eigenvalue", lambda r: r <= 1 + TOLERANCE),
    ):
        ratios = [site.over_none(variant, index) for site in sites]
        agreeing = sum(right(ratio) for ratio in ratios)
        checks.append(
            Check(
                name=words,
                predicted=float(len(sites)),
                observed=float(agreeing),
                tolerance=0.0,
                verdict="holds" if agreeing == len(sites) else "fails",
                rule="at every site, against no normalization",
                unit="sites",
                note=f"median factor {number(float(np.median(ratios)), 3)}",
            )
        )
    return checks


def evidence_against(sites: Sequence[Site]) -> list[str]:
    """What the ends of the spectrum do not say."""

    def middle(values: Sequence[float]) -> str:
        return number(float(np.median(values)), 2)

    mixed = [site.over_none("full", 0) < 1 or site.over_none("full", -1) > 1 for site in sites]
    return [
        "Centring alone divides the largest eigenvalue by a median of "
        f"{middle([1 / s.over_none('center', -1) for s in sites])}; suppressing, centring "
        f"included, by {middle([1 / s.over_none('suppress', -1) for s in sites])}.",
        "Amplifying raises the median eigenvalue too, by "
        f"{middle([s.over_none('amplify', len(s.eigenvalues['none']) // 2) for s in sites])} in "
        "the median: the smallest does not move alone.",
        f"At {sum(mixed)} of {len(sites)} sites full BatchNorm lowers the smallest or raises the "
        "largest eigenvalue, since its two parts pull each end in opposite directions.",
    ]


def site_rows(sites: Sequence[Site]) -> list[list[str]]:
    """One line per network and checkpoint: medians over seeds and layers."""
    rows = []
    for network, update in dict.fromkeys((s.network, s.update) for s in sites):
        mine = [s for s in sites if (s.network, s.update) == (network, update)]
        ends = [(v, 0) for v in SMALLEST] + [(v, -1) for v in LARGEST]
        medians = [float(np.median([s.eigenvalues[v][i] for s in mine])) for v, i in ends]
        rows.append([network, str(update), *(number(value, 2) for value in medians)])
    return rows


def end_rows(ends: Sequence[Ends]) -> list[list[str]]:
    """What the layers of each network learn on: medians over seeds and layers."""
    rows = []
    for position, network, update in dict.fromkeys((e.position, e.network, e.update) for e in ends):
        mine = [e for e in ends if (e.position, e.network, e.update) == (position, network, update)]
        spread = [e.highest / e.lowest for e in mine if e.lowest > 1e-12 * e.highest]
        rows.append(
            [
                position,
                network,
                str(update),
                number(float(np.median([e.lowest for e in mine])), 2),
                number(float(np.median([e.highest for e in mine])), 2),
                number(float(np.median(spread)), 2) if spread else "∞",
            ]
        )
    return rows
