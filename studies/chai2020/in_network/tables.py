"""The report of ``in-network``: its tables, with their text and figures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from studies.chai2020.in_network import READ_AT, figures
from studies.chai2020.in_network.groups import READING_WORDS, Group, Outcome, at, horizon
from studies.engine.checks import Interval
from studies.engine.protocol import Table
from studies.engine.text import number

__all__ = ["audit_rows", "error_rows", "level_rows", "median", "mode_rows", "tables"]

EXPLANATION = (
    "The update of a conv layer is LMS with -dL/dy as its error, at every step. A prediction over "
    "many steps has to say how that error changes. Level 2 moves one layer and takes the network's "
    "output to be linear in its weights. Its exact reading uses the layer's Gauss-Newton matrix. "
    "R x G takes the curvature of the loss at the layer's output to be the same matrix G at every "
    "position; R x scalar makes it one number: then the natural modes are those of R and their "
    "speeds its eigenvalues, which is the claim read plainly.",
    "Level 3 linearises the whole network once, level 4 every few steps at the weights predicted "
    "so far; predictions never use the observed training.",
    "The error is the distance between predicted and observed weights over the distance moved. "
    "Skill compares it with the straight line that repeats the first step: 1 is perfect, 0 is no "
    "better than the line, and below 0 is worse.",
)
LEVEL_COLUMNS = (
    "prediction",
    f"error at {READ_AT}",
    f"skill at {READ_AT}",
    "error at end",
    "skill at end",
    "10 % at step",
    "50 % at step",
)
ERROR_COLUMNS = (
    "layer",
    "reading",
    "largest mode error",
    "median mode error",
    "10 % largest λ: part of squared error",
    "loss error at end",
)
MODE_COLUMNS = (
    "network",
    "layer",
    "modes",
    "largest / smallest λ",
    "half-time, 10 % largest λ",
    "half-time, 10 % smallest λ",
    "predicted, largest",
    "predicted, smallest",
    "λ against early",
    "λ against far",
)


def tables(groups: Sequence[Group]) -> list[Table]:
    """Lay out the report of what was measured."""
    trained = [group for group in groups if group.trained]
    found = [Table("What was asked, and how", text=EXPLANATION)]
    if trained:
        found.append(Table("How far the predictions carry", figures=[figures.horizons(trained)]))
    found += [_levels(group) for group in groups]
    for group in trained:
        found += [_while_others_learn(group), _errors_by_mode(group)]
    if groups:
        found.append(_modes(groups, trained))
    audited = [(group, rows) for group in trained if (rows := audit_rows(group))]
    if audited:
        found.append(_audits(audited))
    return found


# --- how far each level carries --------------------------------------------------------------


def _levels(group: Group) -> Table:
    note = "" if group.trained else " No verdict depends on it."
    return Table(
        f"Every level, {group.words}",
        LEVEL_COLUMNS,
        level_rows(group),
        [f"Medians over {len(group.results)} seeds; level 2 with the rest frozen.{note}"],
    )


def _while_others_learn(group: Group) -> Table:
    return Table(
        f"Level 2 while the other layers learn too, {group.words}",
        LEVEL_COLUMNS,
        level_rows(group, "learning"),
        ["The same predictions, compared with the same layer when all layers are trained."],
        printed=False,
    )


def level_rows(group: Group, others: str = "frozen") -> list[list[str]]:
    """One line per layer and reading and, with the rest frozen, per level of the whole network."""
    rows = [
        [f"2, {layer}, {words}", *_outcome_cells(group.layer_outcomes(layer, reading, others))]
        for layer in group.layers
        for reading, words in READING_WORDS.items()
    ]
    if others == "frozen":
        rows += [[name, *_outcome_cells(group.outcomes(name))] for name in group.levels]
    return rows


def _outcome_cells(outcomes: Sequence[Outcome]) -> list[str]:
    """Errors, skills and horizons of one prediction: medians over seeds."""
    row = []
    for step in (READ_AT, -1):
        row.append(_percent([at(o, "error", step) for o in outcomes]))
        row.append(median([at(o, "skill", step) for o in outcomes], 2))
    return row + [_horizon_text([horizon(o, t) for o in outcomes]) for t in ("0.1", "0.5")]


def _horizon_text(values: Sequence[Interval]) -> str:
    """Median horizon, or the length of the run where most runs stay within the tolerance."""
    low, high = (float(np.median([v[i] for v in values])) for i in (0, 1))
    return f"over {low - 1:.0f}" if math.isinf(high) else number(low, 3)


# --- errors by mode --------------------------------------------------------------------------


def _errors_by_mode(group: Group) -> Table:
    return Table(
        f"Errors by mode, {group.words}",
        ERROR_COLUMNS,
        error_rows(group),
        [
            "The largest error of each mode over the run, relative to the largest distance that "
            "the layer moved; the share of the squared errors that falls on the tenth of the modes "
            "with the largest curvatures; and the error of the loss."
        ],
        printed=False,
    )


def error_rows(group: Group) -> list[list[str]]:
    """One line per layer and reading, with the rest frozen."""
    rows = []
    for layer in group.layers:
        for reading, words in READING_WORDS.items():
            outcomes = group.layer_outcomes(layer, reading)
            rows.append(
                [
                    layer,
                    words,
                    _percent([float(np.max(o["mode_error"])) for o in outcomes]),
                    _percent([float(np.median(o["mode_error"])) for o in outcomes]),
                    _percent([top_part(o) for o in outcomes]),
                    _percent([at(o, "loss_error", -1) for o in outcomes]),
                ]
            )
    return rows


def top_part(outcome: Outcome) -> float:
    """Share of the squared mode errors in the tenth of the modes with the largest eigenvalues."""
    squared = np.asarray(outcome["mode_error"]) ** 2
    return float(squared[_tenth(outcome["eigenvalues"], top=True)].sum() / squared.sum())


# --- the natural modes of R ------------------------------------------------------------------


def _modes(groups: Sequence[Group], trained: Sequence[Group]) -> Table:
    return Table(
        "Do modes with larger eigenvalues move first?",
        MODE_COLUMNS,
        [[group.words, *row] for group in groups for row in mode_rows(group)],
        [
            "The natural modes of R while all layers learn. A mode's half-time is the step at "
            "which it first reaches half of its final value; the half-times shown are medians over "
            "the tenth of the modes with the largest and with the smallest eigenvalues. The last "
            "two columns are rank correlations of the eigenvalue with how early and how far a mode "
            "moves; the plain reading predicts 1 for the first of them."
        ],
        [figures.modes(trained)] if trained else [],
    )


def mode_rows(group: Group) -> list[list[str]]:
    """One line per layer: what the natural modes of R do while all layers learn."""
    rows = []
    for layer in group.layers:
        seen = group.modes(layer)
        ends = [
            [float(np.median(m[name][_tenth(m["eigenvalues"], top)])) for m in seen]
            for name in ("half_time", "predicted_half_time")
            for top in (True, False)
        ]
        rows.append(
            [
                layer,
                median([float(len(m["eigenvalues"])) for m in seen]),
                median([1 / float(np.min(m["eigenvalues"])) for m in seen], 2),
                *(median(values) for values in ends),
                median([m["order"] for m in seen], 2),
                median([m["reach_order"] for m in seen], 2),
            ]
        )
    return rows


def _tenth(eigenvalues: np.ndarray, top: bool) -> np.ndarray:
    """Indices of the tenth of the modes with the largest, or the smallest, eigenvalues."""
    count = max(1, len(eigenvalues) // 10)
    order = np.argsort(eigenvalues)
    return order[-count:] if top else order[:count]


# --- the audits ------------------------------------------------------------------------------


def _audits(audited: Sequence[tuple[Group, list[list[str]]]]) -> Table:
    first = audited[0][0]
    parts = first.audits(first.layers[0], "scalar")[0]["parts"]
    groups = [group for group, _ in audited]
    return Table(
        "What breaks",
        ["network", "layer", "reading", "error", *parts, "drift of R"],
        [[group.words, *row] for group, rows in audited for row in rows],
        [
            "The error of level 2 when all layers learn. One assumption at a time is replaced by "
            "the truth, in the order of the columns. The parts add up to the whole error; another "
            "order would divide it differently. Shares are of the error at the last step of the "
            "audit, negative where a part compensates others; they are medians over seeds, which "
            "need not add up to 100 %. Approximation is what R x scalar leaves out of the layer's "
            "own Gauss-Newton matrix."
        ],
        [figures.audit(groups, "gauss_newton"), figures.audit(groups, "scalar")],
    )


def audit_rows(group: Group) -> list[list[str]]:
    """One line per layer and audited reading: shares of the error at the audit's last step."""
    rows = []
    for layer in group.layers:
        for reading, words in READING_WORDS.items():
            audits = group.audits(layer, reading) if reading != "kronecker" else []
            if not audits:
                continue
            shares = np.array([a["shares"][-1] for a in audits])
            rows.append(
                [
                    layer,
                    words,
                    _percent([float(a["error"][-1]) for a in audits]),
                    *(_percent(column) for column in shares.T),
                    _percent([float(a["drift"][-1]) for a in audits]),
                ]
            )
    return rows


# --- numbers as text -------------------------------------------------------------------------


def median(values: Sequence[float], digits: int = 3) -> str:
    """Format the median; a dash where there is none."""
    return number(float(np.median(values)), digits) if len(values) else "–"


def _percent(values: Sequence[float] | np.ndarray) -> str:
    """Format the median in percent; a dash where there is none."""
    if not len(values):
        return "–"
    middle = 100 * float(np.median(values))
    return f"{middle:.1f} %" if math.isfinite(middle) else number(middle)
