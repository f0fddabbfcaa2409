"""Tables of the study, and the sentences that speak against the simple reading."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from studies.chai2020.two_effects import (
    ALLOWANCES,
    BARE,
    CEILINGS,
    SETTINGS,
    TORCH,
    figures,
)
from studies.chai2020.two_effects.candidates import (
    BASELINES,
    CANDIDATE_COLUMNS,
    LOOKUP,
    RATE_CANDIDATES,
    SPEED_CANDIDATES,
    Candidate,
    candidate_rows,
    rate_points,
    step_points,
)
from studies.chai2020.two_effects.groups import (
    CRITERIA,
    Group,
    Groups,
    Ratios,
    eigenvalue_ratios,
    ratios,
    speed_ratios,
)
from studies.engine.checks import Interval, spread
from studies.engine.outcomes import fails_text, learns_text
from studies.engine.protocol import Table
from studies.engine.text import number

__all__ = ["evidence_against", "outcome_rows", "size_rows", "tables"]

DRAWN_RATES = ("Gauss-Newton, whole net", "Gauss-Newton, last linear layer", LOOKUP)
DRAWN_SPEEDS = ("level 3", "1 / smallest eigenvalue of R", LOOKUP)

EXPLANATION = (
    "BatchNorm subtracts each channel's mean and divides by its standard deviation s. Since "
    "s = min(s, 1) max(s, 1), the division has two factors: the first amplifies channels weaker "
    "than 1, the second suppresses channels stronger than 1. Every variant here does one part of "
    "that, with the statistics of the batch.",
    "center subtracts the mean; amplify, suppress and full centre too, unless named uncentered. "
    "frozen keeps the statistics of the first batch for good. detached uses the statistics of each "
    "batch but lets no gradient through them. layer divides all channels of a layer by one number. "
    "equal power makes the channels equal without changing the power of the layer.",
    "Every rate is known as an interval of the grid; a table shows the median of each end over "
    "seeds. The outcome of a run is read from all of it, not from its end: in float32 an overflow "
    "behind a normalization turns features to zero, and the loss looks harmless again.",
)


def tables(groups: Groups, rates: Sequence[Candidate], speeds: Sequence[Candidate]) -> list[Table]:
    """Every section of the report for which there are results."""
    found = [Table("What was asked, and how", text=EXPLANATION, printed=False)]
    if groups:
        found += [*_deciding_tables(groups), _allowance_table(groups), _ceiling_table(groups)]
    forms = [g for g in groups.values() if g.setting.startswith("learned: ")]
    if forms:
        known = [groups[key] for key in ((BARE, "full"), (TORCH, "full")) if key in groups]
        found.append(
            Table(
                "What BatchNorm learns, and the order",
                FORM_COLUMNS,
                form_rows([*known, *forms]),
                ["Full BatchNorm with a gain and a shift in all normalizations or in some."],
            )
        )
    if any(setting in SETTINGS for setting, _ in groups):
        found.append(
            Table(
                "Other settings",
                SETTING_COLUMNS,
                setting_rows(groups),
                [
                    f'The network "{BARE}" with one thing changed at a time; ratios to the same '
                    "network without normalization. No verdict depends on them."
                ],
                [figures.settings(groups)],
            )
        )
    if rates:
        found.append(_rate_table(groups, rates))
    if speeds:
        found.append(_speed_table(groups, speeds))
    return found


def _each(group: Group, what: Callable[[int], Interval]) -> list[Interval]:
    return [what(seed) for seed in group.results]


OUTCOME_COLUMNS = (
    "variant",
    "seeds",
    "degree",
    "updates at low rate",
    "explodes at",
    "dies at",
    "accuracy 0.5 up to",
    "accuracy 0.7 up to",
    "loss 1.5 up to",
    "smallest λ",
    "largest λ",
)


def outcome_rows(groups: Groups, setting: str) -> list[list[str]]:
    """One line per variant of a setting: medians over seeds, eigenvalues over layers too."""
    return [
        [
            group.variant.replace("_", " "),
            str(len(group.results)),
            *_outcomes(group),
            *(number(float(np.median(group.eigenvalues(end))), 2) for end in ("lowest", "highest")),
        ]
        for (where, _), group in groups.items()
        if where == setting
    ]


def _outcomes(group: Group) -> list[str]:
    learning = ("learning", "learning, accuracy 0.7", "learning, loss 1.5")
    return [
        number(group.degree, 2),
        steps_text(group),
        fails_text(_each(group, group.explodes)),
        fails_text(_each(group, group.dies)),
        *(
            learns_text([CRITERIA[name](group, seed) for seed in group.results])
            for name in learning
        ),
    ]


def steps_text(group: Group) -> str:
    """Median updates as a table shows them."""
    if not group.low_steps:
        return "–"
    median = group.median_steps
    return f"over {group.low_steps}" if math.isinf(median) else number(median, 3)


def _deciding_tables(groups: Groups) -> list[Table]:
    found = []
    for setting in (BARE, TORCH):
        rows = outcome_rows(groups, setting)
        if rows:
            drawn = [figures.losses(groups), figures.spectra(groups)] if setting == BARE else []
            text = [
                "Explodes: K = 100. Dies: without having exploded. Eigenvalues of R at the start, "
                "of the convolutions behind a normalization, medians over layers and seeds."
            ]
            found.append(
                Table(f"Outcomes, {setting}", OUTCOME_COLUMNS, rows, text, drawn, printed=True)
            )
    sizes = size_rows(groups)
    if sizes:
        found.append(
            Table(
                "Sizes",
                SIZE_COLUMNS,
                sizes,
                ["Over no normalization, paired by seed; intervals of the grid, medians of ends."],
            )
        )
    return found


SIZE_COLUMNS = ("network, variant", "speed", *list(CRITERIA)[:4])


def size_rows(groups: Groups) -> list[list[str]]:
    """One line per network and variant: its rates over those of no normalization."""
    rows = []
    for (setting, variant), group in groups.items():
        if setting not in (BARE, TORCH) or variant == "none" or not len(group.results):
            continue
        compared = [
            ratios(groups, variant, "none", criterion, setting) for criterion in list(CRITERIA)[:4]
        ]
        speeds = speed_ratios(groups, variant, "none", setting) if group.low_steps else {}
        rows.append(
            [
                f"{setting}, {variant.replace('_', ' ')}",
                *(_spread(found) for found in (speeds, *compared)),
            ]
        )
    return rows


def _spread(found: Ratios) -> str:
    return spread(list(found.values()), 2) if found else "–"


def _allowance_table(groups: Groups) -> Table:
    mine = [g for (setting, _), g in groups.items() if setting in (BARE, TORCH)]
    rows = [
        [
            f"{group.setting}, {group.variant.replace('_', ' ')}",
            *(fails_text([group.explodes(seed, k) for seed in group.results]) for k in ALLOWANCES),
        ]
        for group in mine
    ]
    text = (
        "The lowest rate that explodes, for four allowances K: the norm passes |theta_0| + K lr t. "
        "Where a number moves from column to column, K decided it."
    )
    columns = ("network, variant", *(f"K = {k:g}" for k in ALLOWANCES))
    return Table("Does the allowance decide?", columns, rows, [text], printed=False)


def _ceiling_table(groups: Groups) -> Table:
    mine = [groups[BARE, v] for v in ("none", "amplify", "suppress", "full") if (BARE, v) in groups]
    rows = [
        [
            group.variant,
            *(
                fails_text([group.passes_ceiling(seed, c) for seed in group.results])
                for c in CEILINGS
            ),
        ]
        for group in mine
    ]
    text = (
        "The rule of earlier runs: a network has diverged when its loss, averaged over 10 updates, "
        "has been above a multiple of the larger of its start and ln(10) for 20 updates. With "
        "nothing learned in the normalization a loss is proportional to the learning rate, so the "
        "multiple decides the rate."
    )
    columns = ("variant", *(f"ceiling {c:g}" for c in CEILINGS))
    return Table("What a ceiling on the loss would say", columns, rows, [text], printed=False)


FORM_COLUMNS = ("what is learned", "seeds", *OUTCOME_COLUMNS[2:3], *OUTCOME_COLUMNS[4:9])


def form_rows(forms: Sequence[Group]) -> list[list[str]]:
    """One line per form of BatchNorm."""
    rows = []
    for group in forms:
        degree, _, *outcomes = _outcomes(group)
        name = group.setting.removeprefix("learned: ")
        rows.append([name, str(len(group.results)), degree, *outcomes])
    return rows


SETTING_COLUMNS = (
    "setting",
    *(f"{v}: {what}" for what in ("speed", "failing", "learning") for v in figures.COMPARED),
)


def setting_rows(groups: Groups) -> list[list[str]]:
    """One line per setting: intervals of the ratios to no normalization."""
    rows = []
    for setting in dict.fromkeys(g.setting for g in groups.values()):
        if setting == BARE or setting in SETTINGS:
            parts = [_spread(speed_ratios(groups, v, "none", setting)) for v in figures.COMPARED]
            for criterion in ("failing", "learning"):
                parts += [
                    _spread(ratios(groups, v, "none", criterion, setting)) for v in figures.COMPARED
                ]
            rows.append([setting, *parts])
    return rows


def _rate_table(groups: Groups, rates: Sequence[Candidate]) -> Table:
    points = {name: rate_points(groups, name) for name in DRAWN_RATES}
    return Table(
        "What predicts the highest learning rate",
        CANDIDATE_COLUMNS,
        candidate_rows(rates),
        [
            "Candidates, measured at the start, against the highest rate whose end loss is below "
            "1.5. A group is one variant in one setting. The groups of the base setting are used "
            "to fit one constant and to choose; those of the other settings are held out. Groups "
            "whose rate lies beyond the grid are left out. The two columns by degree show what is "
            "left of a correlation once one bit, whether a network can explode, is known.",
            *(f"{name}: {what}." for name, what in (RATE_CANDIDATES | BASELINES).items()),
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
            "The same for the speed. Groups that never reached the threshold are left out.",
            *(f"{name}: {what}." for name, what in (SPEED_CANDIDATES | BASELINES).items()),
        ],
        [figures.predictors(points, "speed", "updates")],
    )


def evidence_against(groups: Groups) -> list[str]:
    """What speaks against the simple reading, with the numbers of this run."""

    def have(*variants: str, setting: str = BARE) -> bool:
        return all((setting, variant) in groups for variant in variants)

    def times(variant: str, criterion: str, setting: str = BARE) -> str:
        return _spread(ratios(groups, variant, "none", criterion, setting))

    def value(variant: str, end: str) -> float:
        found = eigenvalue_ratios(groups, variant, "none", end)
        return float(np.median([low for low, _ in found.values()])) if found else math.nan

    found = []
    for setting in (BARE, TORCH):
        if have("none", "frozen", "full", setting=setting):
            found.append(
                f"Network {setting}: statistics frozen at the first batch give full BatchNorm's "
                "spectrum at the start. Over no normalization, the lowest rate that fails is "
                f"{times('frozen', 'failing', setting)} times with them and "
                f"{times('full', 'failing', setting)} with BatchNorm; the highest that learns is "
                f"{times('frozen', 'learning', setting)} and {times('full', 'learning', setting)}."
            )
        if have("none", "amplify", setting=setting):
            found.append(
                f"Network {setting}: amplifying multiplies the highest rate that learns by a "
                f"factor {times('amplify', 'learning', setting)}, and the lowest that fails by "
                f"{times('amplify', 'failing', setting)}."
            )
    if have("none", "center"):
        found.append(
            f"Centring alone divides the largest eigenvalue of R by "
            f"{number(1 / value('center', 'highest'), 2)}; the lowest rate that fails is "
            f"{times('center', 'failing')} times that of no normalization, the highest that learns "
            f"{times('center', 'learning')} times."
        )
    if have("none", "layer"):
        found.append(
            "One scalar for the whole layer leaves the spread of R unchanged; the lowest rate that "
            f"fails is {times('layer', 'failing')} times that of no normalization, the highest "
            f"that learns {times('layer', 'learning')} times."
        )
    if have("none", "amplify"):
        found.append(
            "Amplifying multiplies the smallest eigenvalue by "
            f"{number(value('amplify', 'lowest'), 2)} and the median one by "
            f"{number(value('amplify', 'median'), 2)}: the smallest alone does not explain "
            "the gain in speed."
        )
    return found
