"""Tables of the study, and the sentences that speak against the simple reading."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from studies.chai2020.two_effects import BASE, figures
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
    Group,
    Groups,
    Ratios,
    eigenvalue_ratios,
    rate_ratios,
    speed_ratios,
)
from studies.engine.protocol import Table
from studies.engine.text import number

__all__ = ["evidence_against", "setting_rows", "tables", "variant_rows"]

DRAWN_RATES = (
    "Gauss-Newton, whole net",
    "Gauss-Newton times growth",
    "last layer alone",
    "8 updates at each rate",
    "16 updates at each rate",
    "16 updates, alive",
)
DRAWN_SPEEDS = ("level 3", "8 updates, straight on", "1 / smallest eigenvalue of R")

EXPLANATION = (
    "BatchNorm subtracts each channel's mean and divides by its standard deviation s. Since "
    "s = min(s, 1) max(s, 1), the division has two factors: the first amplifies channels weaker "
    "than 1, the second suppresses channels stronger than 1. Every variant here does one part of "
    "that, with the statistics of the batch, and nothing is learned in the normalization.",
    "center subtracts the mean; amplify, suppress and full centre too, unless named uncentered. "
    "frozen keeps the statistics of the first batch for good. detached uses the statistics of each "
    "batch but lets no gradient through them. layer divides all channels of a layer by one number. "
    "equal power makes the channels equal without changing the power of the layer.",
    "Stable means neither diverged nor dead; it does not mean that anything is learned.",
)


def tables(groups: Groups, rates: Sequence[Candidate], speeds: Sequence[Candidate]) -> list[Table]:
    """Every section of the report for which there are results."""
    found = [Table("What was asked, and how", text=EXPLANATION, printed=False)]
    if groups:
        found.append(
            Table(
                "The variants",
                VARIANT_COLUMNS,
                variant_rows(groups),
                [
                    "Medians over seeds. Eigenvalues of R are those at the start, of the "
                    "convolutions behind a normalization, and are medians over layers too."
                ],
                [figures.losses(groups), figures.spectra(groups)],
            )
        )
    if any(setting != BASE for setting, _ in groups):
        found.append(
            Table(
                "Other settings",
                SETTING_COLUMNS,
                setting_rows(groups),
                [
                    "The same study with one thing changed at a time. Medians of the ratios to the "
                    "same network without normalization. No verdict depends on them."
                ],
                [figures.settings(groups)],
            )
        )
    if rates:
        found.append(_rate_table(groups, rates))
    if speeds:
        found.append(_speed_table(groups, speeds))
    return found


def _rate_table(groups: Groups, rates: Sequence[Candidate]) -> Table:
    points = {name: rate_points(groups, name) for name in DRAWN_RATES}
    return Table(
        "What predicts the highest stable rate",
        CANDIDATE_COLUMNS,
        candidate_rows(rates),
        [
            "Candidates, measured at the start or in a few updates, against the highest stable "
            "rate. A group is one variant in one setting, median over seeds. The groups of the "
            "base setting are used to fit one constant and to choose; those of the other settings "
            "are held out. Split and candidates were fixed before the runs. Groups whose highest "
            "rate lies beyond the grid are left out.",
            *(f"{name}: {what}." for name, what in RATE_CANDIDATES.items()),
        ],
        [figures.predictors(points, "rate", "rate")],
    )


def _speed_table(groups: Groups, speeds: Sequence[Candidate]) -> Table:
    points = {name: step_points(groups, name) for name in DRAWN_SPEEDS}
    return Table(
        "What predicts the updates at the low rate",
        CANDIDATE_COLUMNS,
        candidate_rows(speeds),
        [
            "The same for the other outcome. Groups that never reached the threshold are left out.",
            *(f"{name}: {what}." for name, what in SPEED_CANDIDATES.items()),
        ],
        [figures.predictors(points, "speed", "updates")],
    )


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
        losses = [r["rate_loss"] for r in group.results.values() if r["rate_loss"] is not None]
        eigenvalues = [group.eigenvalues(end) for end in ("lowest", "median", "highest")]
        rows.append(
            [
                variant.replace("_", " "),
                str(len(group.results)),
                steps_text(group),
                rate_text(group),
                number(float(np.median(losses)), 3) if losses else "–",
                _end_text(group),
                *(number(float(np.median(values)), 2) for values in eigenvalues),
            ]
        )
    return rows


def _end_text(group: Group) -> str:
    """Whether training diverges or dies at the rate above the highest stable one."""
    above = {
        seed: group.rates[r["rate_index"] + 1]
        for seed, r in group.results.items()
        if r["rate_index"] + 1 < len(group.rates)
    }
    ends = [
        tried["state"]
        for seed, rate in above.items()
        for tried in group.results[seed]["tried"]
        if tried["lr"] == rate
    ]
    dead = ends.count("dead")
    return f"{dead} of {len(ends)} die instead" if dead else "yes" if ends else "grid ends"


def steps_text(group: Group) -> str:
    """Median updates as a table shows them."""
    median = group.median_steps
    return f"over {group.low_steps}" if math.isinf(median) else number(median, 3)


def rate_text(group: Group) -> str:
    """Median highest stable rate as a table shows it."""
    if not group.rate_is_open:
        return number(group.median_rate, 3)
    if group.median_rate < group.rates[0]:
        return f"under {number(group.rates[0], 3)}"
    return f"at least {number(group.median_rate, 3)}"


SETTING_COLUMNS = (
    "setting",
    "none: updates, rate",
    "amplify: speed",
    "suppress: speed",
    "full: speed",
    "amplify: rate",
    "suppress: rate",
    "full: rate",
)


def setting_rows(groups: Groups) -> list[list[str]]:
    """One line per setting: medians of the ratios to no normalization."""
    rows = []
    for setting in dict.fromkeys(setting for setting, _ in groups):
        none = groups.get((setting, "none"))
        if none is None:
            continue
        parts = [
            _middle(ratios(groups, variant, "none", setting))
            for ratios in (speed_ratios, rate_ratios)
            for variant in ("amplify", "suppress", "full")
        ]
        rows.append([setting, f"{steps_text(none)}, {rate_text(none)}", *parts])
    return rows


def _middle(ratios: Ratios) -> str:
    """Median of intervals as a table shows it."""
    if not ratios:
        return "–"
    low, high = (float(np.median([ends[i] for ends in ratios.values()])) for i in (0, 1))
    if low == high:
        return number(low, 2)
    if math.isinf(high):
        return f"≥ {number(low, 2)}" if low > 0 else "unknown"
    return f"≤ {number(high, 2)}"


def evidence_against(groups: Groups, candidates: Sequence[Candidate]) -> list[str]:
    """What speaks against the simple reading, with the numbers of this run."""
    found = []
    if _have(groups, "none", "center"):
        lowered = eigenvalue_ratios(groups, "center", "none", "highest")
        factor = _lows({seed: (1 / low, 1 / low) for seed, (low, _) in lowered.items()})
        found.append(
            f"Centring alone divides the largest eigenvalue of R by {factor} and multiplies the "
            f"highest stable rate by {_rate(groups, 'center')}."
        )
    found += _controls(groups)
    if _have(groups, "none", "amplify"):
        lowest, median = (
            _lows(eigenvalue_ratios(groups, "amplify", "none", end)) for end in ("lowest", "median")
        )
        found.append(
            f"Amplifying multiplies the smallest eigenvalue by {lowest} and the median one by "
            f"{median}: the smallest alone does not explain the gain in speed."
        )
    found.extend(
        "Taken as the network's highest stable rate, 2 / λmax(R) of the layer where it is smallest "
        f"is off by a median factor of {number(candidate.factor_raw, 2)} over the settings "
        "other than the base one."
        for candidate in candidates
        if candidate.name == "R at the start"
    )
    return found + _learned_nothing(groups)


def _controls(groups: Groups) -> list[str]:
    """Sentences on the variants that separate the spectrum from how it is reached."""
    found = []
    if _have(groups, "none", "frozen", "full"):
        found.append(
            "With statistics frozen at the first batch the spectrum at the start is that of full "
            f"BatchNorm; the speed is {_speed(groups, 'frozen')} times that of no normalization "
            f"(full: {_speed(groups, 'full')}), but the highest stable rate is "
            f"{_rate(groups, 'frozen')} times that of no normalization (full: "
            f"{_rate(groups, 'full')})."
        )
    if _have(groups, "none", "layer"):
        found.append(
            "One scalar for the whole layer, which leaves the spread of R unchanged, multiplies "
            f"the highest stable rate by {_rate(groups, 'layer')}."
        )
    if _have(groups, "none", "equal_power"):
        found.append(
            "Equalising the channels without changing the power of the layer multiplies the speed "
            f"by {_speed(groups, 'equal_power')} and the highest stable rate by "
            f"{_rate(groups, 'equal_power')}."
        )
    if _have(groups, "none", "detached"):
        found.append(
            "Live statistics without a gradient through them multiply the highest stable rate by "
            f"{_rate(groups, 'detached')}."
        )
    return found


def _have(groups: Groups, *variants: str) -> bool:
    return all((BASE, variant) in groups for variant in variants)


def _rate(groups: Groups, variant: str) -> str:
    return _lows(rate_ratios(groups, variant, "none"))


def _speed(groups: Groups, variant: str) -> str:
    return _lows(speed_ratios(groups, variant, "none"))


def _lows(ratios: Ratios) -> str:
    lows = [low for low, _ in ratios.values()]
    return number(float(np.median(lows)), 2) if lows else "–"


def _learned_nothing(groups: Groups) -> list[str]:
    group = groups.get((BASE, "none"))
    losses = [r["rate_loss"] for r in group.results.values()] if group else []
    known = [loss for loss in losses if loss is not None]
    if not known:
        return []
    return [
        "Stable is not the same as learning: at its highest stable rate the network without "
        f"normalization ends with a median loss of {number(float(np.median(known)), 3)}."
    ]
