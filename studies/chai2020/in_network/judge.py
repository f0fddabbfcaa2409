"""Judges ``in-network``: the fourteen checks of the claim, and the evidence against it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from studies.chai2020.in_network import (
    HALF,
    HORIZON,
    ORDER,
    READ_AT,
    RELINEARIZE,
    Config,
    figures,
    level_name,
)
from studies.chai2020.in_network.groups import (
    READING_WORDS,
    WORDS,
    Group,
    Outcome,
    at,
    collect,
    horizon,
)
from studies.chai2020.in_network.tables import median, tables
from studies.engine import page
from studies.engine.checks import Check, Interval, at_most, median_check, ratio, tally, worst
from studies.engine.power import share_table
from studies.engine.protocol import Findings, Measured

__all__ = ["adding_up", "claim_checks", "evidence_against", "judge"]

ADDING_UP = 1e-4

Groups = Mapping[tuple[bool, bool], Group]


def judge(config: Config, measured: Sequence[Measured]) -> Findings:
    """Judge the claim on the networks that were measured."""
    groups = collect(measured)
    trained = [group for group in groups.values() if group.trained]
    claim = claim_checks(groups)
    failing = [check.name for check in claim if check.verdict == "fails"]
    words = f" Failing: {'; '.join(failing)}." if failing else ""
    return Findings(
        verdict=worst(check.verdict for check in claim),
        checks=[*claim, *adding_up(groups)],
        reason=f"{tally(claim)}.{words}",
        numbers=page.numbers(claim),
        tables=[*tables(list(groups.values())), share_table(config.seeds, FAMILY)],
        answer=figures.errors(trained) if trained else None,
        against=evidence_against(groups),
        results={"checkpoints": checkpoints(groups)},
    )


# --- the checks ------------------------------------------------------------------------------


def claim_checks(groups: Groups) -> list[Check]:
    """Make the seven checks without BatchNorm and the same seven with it."""
    return [
        median_check(
            f"{words}: {d.name}", d.values(group), d.limit, d.side, unit=d.unit, family=FAMILY
        )
        for norm, words in WORDS.items()
        for group in [groups.get((norm, True), Group(norm, True, {}))]
        for d in CLAIM
    ]


def skill(outcome: Outcome, step: int = READ_AT) -> Interval:
    """Skill at a step; unbounded where the run is shorter or the skill undefined."""
    return _known(at(outcome, "skill", step))


def gains(group: Group) -> list[Interval]:
    """Error of level 4 at the last step, relative to level 3's, by seed."""
    pairs = zip(
        group.outcomes(level_name(RELINEARIZE)), group.outcomes(level_name(None)), strict=True
    )
    return [_gain(at(again, "error", -1), at(once, "error", -1)) for again, once in pairs]


def _gain(again: float, once: float) -> Interval:
    if math.isnan(again) or math.isnan(once):
        return -math.inf, math.inf
    return ratio((again, again), (once, once))


def orders(group: Group) -> list[Interval]:
    """Lowest rank correlation over the convolutions, by seed."""
    columns = [[_known(m["order"]) for m in group.modes(layer)] for layer in group.layers]
    return [_least(row) for row in zip(*columns, strict=True)]


def worst_layer(group: Group, reading: str, value: Callable[[Outcome], Interval]) -> list[Interval]:
    """Lowest value of level 2's outcomes over the convolutions, by seed."""
    columns = [
        [value(outcome) for outcome in group.layer_outcomes(layer, reading)]
        for layer in group.layers
    ]
    return [_least(row) for row in zip(*columns, strict=True)]


def _known(value: float) -> Interval:
    return (-math.inf, math.inf) if math.isnan(value) else (value, value)


def _least(values: Sequence[Interval]) -> Interval:
    """Bounds on the minimum of numbers that are known to lie in intervals."""
    return min(v[0] for v in values), min(v[1] for v in values)


@dataclass(frozen=True)
class Demand:
    """What the rule demands of one kind of network; ``values`` gives an interval for each seed."""

    name: str
    limit: float
    unit: str
    values: Callable[[Group], Sequence[Interval]]
    side: Literal["at least", "at most"] = "at least"


CLAIM = (
    Demand(
        f"(a) exact Gauss-Newton reading, worst conv, at step {READ_AT}",
        0.0,
        "skill",
        lambda group: worst_layer(group, "gauss_newton", skill),
    ),
    Demand(
        f"(b) level 3 at step {READ_AT}",
        0.0,
        "skill",
        lambda group: [skill(outcome) for outcome in group.outcomes(level_name(None))],
    ),
    Demand(
        "(b) level 3 at the last step",
        0.0,
        "skill",
        lambda group: [skill(outcome, -1) for outcome in group.outcomes(level_name(None))],
    ),
    Demand(
        f"(c) error every {RELINEARIZE} steps over level 3's, last step",
        HALF,
        "of level 3's error",
        gains,
        side="at most",
    ),
    Demand(
        f"(d) plain reading, worst conv, at step {READ_AT}",
        0.0,
        "skill",
        lambda group: worst_layer(group, "scalar", skill),
    ),
    Demand(
        "(d) plain reading, worst conv, 10 % horizon",
        float(HORIZON),
        "steps",
        lambda group: worst_layer(group, "scalar", horizon),
    ),
    Demand("(e) larger eigenvalue moves earlier, worst conv", ORDER, "rank correlation", orders),
)


FAMILY = len(WORDS) * len(CLAIM)
"""Checks of which one that fails makes the claim fail."""


def adding_up(groups: Groups) -> list[Check]:
    """Check that the parts of the audits add up to the whole error; the claim does not use it."""
    residues = [
        audit["residue"]
        for group in groups.values()
        for layer in group.layers
        for reading in READING_WORDS
        if reading != "kronecker"
        for audit in group.audits(layer, reading)
    ]
    if not residues:
        return []
    return [
        at_most(
            "audit: sum of the parts against the whole",
            max(residues),
            ADDING_UP,
            unit="of the largest displacement",
            note=f"largest of {len(residues)} audits; in float32",
        )
    ]


def checkpoints(groups: Groups) -> list[dict[str, Any]]:
    """List where each network started, its learning rate and its loss."""
    return [
        {
            "network": group.words,
            "seed": seed,
            "updates": found["updates"],
            "bound": found["bound"],
            "lr": found["lr"],
            "loss_start": found["loss"][0],
            "loss_end": found["loss"][-1],
        }
        for group in groups.values()
        for seed, found in group.results.items()
    ]


# --- the evidence ----------------------------------------------------------------------------


def evidence_against(groups: Groups) -> list[str]:
    """State what speaks against the simple reading, with the numbers of this run."""
    trained = [group for group in groups.values() if group.trained]
    fresh = [group for group in groups.values() if not group.trained]
    about = (_errors_by_reading, _order_of_the_modes, _the_others_learn)
    return [
        *(sentence(group) for group in trained for sentence in about),
        *(_from_fresh_weights(group) for group in fresh),
    ]


def _errors_by_reading(group: Group) -> str:
    errors = {
        reading: _off(group.layer_outcomes(layer, reading) for layer in group.layers)
        for reading in READING_WORDS
    }
    return (
        f"{_capital(group.words)}, rest frozen, at step {READ_AT} the plain reading is off by "
        f"{errors['scalar']} % of the distance moved in {', '.join(group.layers)}, R x G by "
        f"{errors['kronecker']} %, the exact Gauss-Newton matrix by {errors['gauss_newton']} %."
    )


def _order_of_the_modes(group: Group) -> str:
    early, far = (
        " / ".join(median([m[name] for m in group.modes(layer)], 2) for layer in group.layers)
        for name in ("order", "reach_order")
    )
    return (
        f"{_capital(group.words)}, the rank correlation between the eigenvalues of R and how early "
        f"their modes move is {early} in {', '.join(group.layers)}, where the plain reading "
        f"predicts 1; the rank correlation with how far they move is {far}."
    )


def _the_others_learn(group: Group) -> str:
    frozen, learning = (
        _off(group.layer_outcomes(layer, "gauss_newton", others) for layer in group.layers)
        for others in ("frozen", "learning")
    )
    return (
        f"{_capital(group.words)}, even the exact reading is off by {frozen} % at step {READ_AT} "
        f"when the rest is frozen, and by {learning} % when the other layers learn too, as they do."
    )


def _from_fresh_weights(group: Group) -> str:
    parts = [group.layer_outcomes(layer, "gauss_newton") for layer in group.layers]
    parts.append(group.outcomes(level_name(None)))
    skills = " / ".join(median([at(o, "skill", READ_AT) for o in part], 2) for part in parts)
    return (
        f"From fresh weights {WORDS[group.batch_norm]}, at the same fraction of level 3's bound, "
        f"the exact reading of {', '.join(group.layers)} and level 3 are off by {_off(parts)} % at "
        f"step {READ_AT}, with a skill of {skills}."
    )


def _off(parts: Any) -> str:
    """Median error of each part at the step that the rule names, in percent."""
    return " / ".join(median([100 * at(o, "error", READ_AT) for o in part]) for part in parts)


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]
