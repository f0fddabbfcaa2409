"""Tables, sentences and report of the study ``two-effects``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from studies import STUDIES
from studies.chai2020.two_effects import figures as drawing
from studies.chai2020.two_effects.candidates import (
    CANDIDATE_COLUMNS,
    RATE_CANDIDATES,
    SPEED_CANDIDATES,
    Candidate,
    candidate_rows,
    rate_points,
    step_points,
)
from studies.chai2020.two_effects.groups import (
    BASE,
    Group,
    Groups,
    eigenvalue_ratios,
    rate_ratios,
    speed_ratios,
)
from studies.engine import page as report
from studies.engine.paired import Interval
from studies.engine.summary import Summary

# --- the report ------------------------------------------------------------------------------

TITLE = "Two effects of BatchNorm, taken apart"
QUESTION = STUDIES["two-effects"].question


def evidence_against(groups: Groups, candidates: Sequence[Candidate]) -> list[str]:
    """What speaks against the simple reading, with the numbers of this run."""

    def middle(values: Sequence[Interval]) -> str:
        return report.number(float(np.median([v[0] for v in values])), 2) if values else "–"

    def have(*variants: str) -> bool:
        return all((BASE, variant) in groups for variant in variants)

    def highest(a: str) -> str:
        return middle([(1 / v[0],) * 2 for v in eigenvalue_ratios(groups, a, "none", "highest")])

    def rate(a: str) -> str:
        return middle(rate_ratios(groups, a, "none"))

    found = []
    if have("none", "center"):
        found.append(
            f"Centring alone divides the largest eigenvalue of R by {highest('center')} and "
            f"multiplies the highest stable rate by {rate('center')}."
        )
    if have("none", "frozen", "full"):
        found.append(
            "With statistics frozen at the first batch the spectrum at the start is that of full "
            f"BatchNorm; the speed is {middle(speed_ratios(groups, 'frozen', 'none'))} times that "
            f"of nothing (full: {middle(speed_ratios(groups, 'full', 'none'))}), but the highest "
            f"stable rate is {rate('frozen')} times that of nothing (full: {rate('full')})."
        )
    if have("none", "layer"):
        found.append(
            "One scalar for the whole layer, which leaves the spread of R as it is, multiplies "
            f"the highest stable rate by {rate('layer')}."
        )
    if have("none", "equal_power"):
        found.append(
            "Channels made equal at the same power of the layer: speed times "
            f"{middle(speed_ratios(groups, 'equal_power', 'none'))}, highest stable rate times "
            f"{rate('equal_power')}."
        )
    if have("none", "detached"):
        found.append(
            "Live statistics without a gradient through them: highest stable rate times "
            f"{rate('detached')}."
        )
    if have("none", "amplify"):
        up = middle(eigenvalue_ratios(groups, "amplify", "none", "lowest"))
        mid = middle(eigenvalue_ratios(groups, "amplify", "none", "median"))
        found.append(
            f"Amplifying multiplies the smallest eigenvalue by {up}, and the median one by {mid}: "
            "the gain in speed cannot be laid to the smallest alone."
        )
    found.extend(
        "2 / λmax(R) of the layer where it is least, taken as the network's highest stable rate, "
        f"is off by a median factor of {report.number(candidate.factor_raw, 2)} over the settings "
        "beside the base one."
        for candidate in candidates
        if candidate.name == "R at the start"
    )
    if have("none"):
        losses = [r.get("rate_loss") for r in groups[BASE, "none"].results.values()]
        known = [loss for loss in losses if loss is not None]
        if known:
            found.append(
                "Stable is not the same as learning: at its highest stable rate the network "
                f"without normalization ends with a median loss of "
                f"{report.number(float(np.median(known)), 3)}."
            )
    return found


VARIANT_COLUMNS = (
    "variant",
    "seeds",
    "updates at low rate",
    "highest stable rate",
    "loss there",
    "diverges above",
    "smallest λ",
    "median λ",
    "largest λ",
)


def variant_rows(groups: Groups, setting: str = BASE) -> list[list[str]]:
    """One line per variant: medians over seeds, eigenvalues over layers too."""
    rows = []
    for (where, variant), group in groups.items():
        if where != setting:
            continue
        losses = [r["rate_loss"] for r in group.results.values() if r.get("rate_loss") is not None]
        ends = [
            state["state"]
            for r in group.results.values()
            for state in r["tried"]
            if r["rate_index"] + 1 < len(group.rates)
            and state["lr"] == group.rates[r["rate_index"] + 1]
        ]
        dead = sum(end == "dead" for end in ends)
        rows.append(
            [
                variant.replace("_", " "),
                str(len(group.results)),
                steps_text(group),
                rate_text(group),
                report.number(float(np.median(losses)), 3) if losses else "–",
                f"{dead} of {len(ends)} die instead" if dead else "yes" if ends else "grid ends",
                *(
                    report.number(float(np.median(group.eigenvalues(end))), 2)
                    for end in ("lowest", "median", "highest")
                ),
            ]
        )
    return rows


def steps_text(group: Group) -> str:
    """Median updates as a table shows them."""
    median = group.median_steps
    return f"over {group.low_steps}" if math.isinf(median) else report.number(median, 3)


def rate_text(group: Group) -> str:
    """Median highest stable rate as a table shows it."""
    if not group.rate_is_open:
        return report.number(group.median_rate, 3)
    if group.median_rate < group.rates[0]:
        return f"under {report.number(group.rates[0], 3)}"
    return f"at least {report.number(group.median_rate, 3)}"


BESIDE_COLUMNS = (
    "setting",
    "nothing: updates, rate",
    "amplify: speed",
    "suppress: speed",
    "full: speed",
    "amplify: rate",
    "suppress: rate",
    "full: rate",
)


def beside_rows(groups: Groups) -> list[list[str]]:
    """One line per setting: medians of the ratios to nothing."""

    def middle(values: Sequence[Interval]) -> str:
        if not values:
            return "–"
        low, high = (float(np.median([v[i] for v in values])) for i in (0, 1))
        if low == high:
            return report.number(low, 2)
        if math.isinf(high):
            return f"≥ {report.number(low, 2)}" if low > 0 else "unknown"
        return f"≤ {report.number(high, 2)}"

    rows = []
    for setting in dict.fromkeys(key[0] for key in groups):
        none = groups.get((setting, "none"))
        if none is None:
            continue
        parts = [
            middle(ratios(groups, variant, "none", setting))
            for ratios in (speed_ratios, rate_ratios)
            for variant in ("amplify", "suppress", "full")
        ]
        rows.append([setting, f"{steps_text(none)}, {rate_text(none)}", *parts])
    return rows


EXPLANATION = (
    "BatchNorm subtracts each channel's mean and divides by its deviation s. Since "
    "s = min(s, 1) max(s, 1), the division is two: the first amplifies channels weaker than 1, the "
    "second suppresses channels stronger than 1. Every variant here does one part of that, with "
    "the statistics of the batch, and nothing is learned in the normalization.",
    "center subtracts the mean; amplify, suppress and full centre too, unless named uncentered. "
    "frozen keeps the statistics of the first batch for good. detached uses the statistics of each "
    "batch but lets no gradient through them. layer divides all channels of a layer by one number. "
    "equal power makes the channels equal and leaves the power of the layer as it was.",
    "Stable means neither diverged nor dead; it does not mean that anything is learned.",
)


DRAWN_RATES = (
    "Gauss-Newton, whole net",
    "Gauss-Newton times growth",
    "last layer alone",
    "8 updates at each rate",
    "16 updates at each rate",
    "16 updates, alive",
)
DRAWN_SPEEDS = ("level 3", "8 updates, straight on", "1 / smallest eigenvalue of R")


def write_report(
    out: Path,
    summary: Summary,
    groups: Groups,
    rates: Sequence[Candidate],
    speeds: Sequence[Candidate],
) -> None:
    """Figures and ``report.html`` of what there is."""
    sections = [report.Section("What was asked, and how", EXPLANATION)]
    if groups:
        sections.append(
            report.Section(
                "The variants",
                [
                    "Medians over seeds; eigenvalues of R at the start, of the convolutions "
                    "behind a normalization, medians over layers too."
                ],
                VARIANT_COLUMNS,
                variant_rows(groups),
                [drawing.draw(name, groups, out) for name in ("effects", "losses", "spectra")],
            )
        )
        if any(setting != BASE for setting, _ in groups):
            sections.append(
                report.Section(
                    "Other settings, beside",
                    [
                        "The same, each with one thing changed. Medians of the ratios to the same "
                        "network without normalization. No verdict rests on them."
                    ],
                    BESIDE_COLUMNS,
                    beside_rows(groups),
                    [drawing.draw("beside", groups, out)],
                )
            )
    if rates:
        sections.append(
            report.Section(
                "What predicts the highest stable rate",
                [
                    "Candidates, measured at the start or in a few updates, against the highest "
                    "stable rate. A group is one variant in one setting, median over seeds. The "
                    "groups of the base setting serve to fit one constant and to choose; those of "
                    "the other settings are held out. Split and candidates were fixed before the "
                    "runs. Groups whose highest rate lies beyond the grid are left out.",
                    *(f"{name}: {what}." for name, what in RATE_CANDIDATES.items()),
                ],
                CANDIDATE_COLUMNS,
                candidate_rows(rates),
                [
                    drawing.draw_predictors(
                        {name: rate_points(groups, name) for name in DRAWN_RATES},
                        out,
                        "rate",
                        "rate",
                    )
                ],
            )
        )
    if speeds:
        sections.append(
            report.Section(
                "What predicts the updates at the low rate",
                [
                    "The same for the other outcome; groups that never got there are left out.",
                    *(f"{name}: {what}." for name, what in SPEED_CANDIDATES.items()),
                ],
                CANDIDATE_COLUMNS,
                candidate_rows(speeds),
                [
                    drawing.draw_predictors(
                        {name: step_points(groups, name) for name in DRAWN_SPEEDS},
                        out,
                        "speed",
                        "updates",
                    )
                ],
            )
        )
    report.write(out / "report.html", summary, title=TITLE, question=QUESTION, sections=sections)


def print_results(
    summary: Summary,
    groups: Groups,
    rates: Sequence[Candidate],
    speeds: Sequence[Candidate],
    out: Path,
) -> None:
    """Tables for the terminal."""
    print()
    print(report.table(VARIANT_COLUMNS, variant_rows(groups)))
    if any(setting != BASE for setting, _ in groups):
        print()
        print(report.table(BESIDE_COLUMNS, beside_rows(groups)))
    for candidates in (rates, speeds):
        if candidates:
            print()
            print(report.table(CANDIDATE_COLUMNS, candidate_rows(candidates)))
    report.print_verdicts(summary, out)
