"""Compares predictors of the highest learning rate and of the speed with real runs and baselines.

A group is one variant in one setting, with the median over its seeds. The groups of the base
setting are used to fit one constant for each candidate and to choose one candidate; those of all
other settings are held out. Two baselines need no measurement of the network: the value that the
same variant had in the base setting, and the mean of the base setting's networks whose loss has a
degree on the same side of 1.5. A predictor that does not beat them explains nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from studies.chai2020.two_effects import BARE, SETTINGS
from studies.chai2020.two_effects.groups import Group, Groups
from studies.engine.checks import Check, Verdict
from studies.engine.text import number

__all__ = [
    "BASELINES",
    "CANDIDATE_COLUMNS",
    "GOAL_CELLS",
    "GOAL_FACTOR",
    "GOAL_SPEARMAN",
    "LOOKUP",
    "RATE_CANDIDATES",
    "SPEED_CANDIDATES",
    "Candidate",
    "Point",
    "assess",
    "candidate_rows",
    "prediction_checks",
    "rate_candidates",
    "rate_points",
    "speed_candidates",
    "step_points",
]

GOAL_SPEARMAN, GOAL_FACTOR, GOAL_CELLS = 0.9, 1.5, 20
DRAWS = 500

LOOKUP, DEGREE = "lookup of the variant", "degree alone"
BASELINES = {
    LOOKUP: "baseline: what the same variant did in the base setting; nothing is measured",
    DEGREE: "baseline: one bit, whether the degree of the loss is above 1.5; the geometric mean of "
    "the base setting's networks on the same side",
}
RATE_CANDIDATES = {
    "Gauss-Newton, whole net": (
        "2 / λmax of the Gauss-Newton matrix of the loss at the start, over all parameters"
    ),
    "Gauss-Newton, statistics constant": (
        "the same without the normalization's own Jacobian: no gradient through its statistics"
    ),
    "Gauss-Newton, last linear layer": "the same over the parameters of the linear layer alone",
    "Gauss-Newton, filters whose length is felt": (
        "the same without the filters whose length does not change the output (|g'w| under 5 % of "
        "|g||w| for random directions), which live normalization makes scale-invariant"
    ),
    "R at the start": "2 / λmax(R), smallest over the convolutions",
}
SPEED_CANDIDATES = {
    "level 3": (
        "updates of the network linearised at the start, on the batches that it will see; the "
        "length of the run where it does not reach the threshold"
    ),
    "8 updates, straight on": (
        "the fall of the loss of one batch in the first 8 updates at the low rate, continued"
    ),
    "slope at the start": "the gap to the threshold over rate times squared gradient",
    "1 / smallest eigenvalue of R": "at the start, geometric mean over the convolutions",
    "1 / median eigenvalue of R": "the same",
    "1 / largest eigenvalue of R": "the same",
}


@dataclass(frozen=True)
class Point:
    """One group: where it is from, what was predicted and what was observed."""

    setting: str
    degree: float
    predicted: float
    observed: float

    @property
    def held_out(self) -> bool:
        """Whether it is not of the base setting."""
        return self.setting != BARE

    @property
    def usable(self) -> bool:
        """Whether both numbers are known."""
        return all(0 < v < math.inf for v in (self.predicted, self.observed))


def geometric_mean(values: Sequence[float | None]) -> float:
    """Geometric mean of the values that are positive and finite; NaN if none is."""
    known = [v for v in values if v and math.isfinite(v)]
    return float(np.exp(np.mean(np.log(known)))) if known else math.nan


def predicted_rate(group: Group, name: str) -> float:
    """Geometric mean over seeds of what a candidate predicts; NaN if it was not measured.

    All predict the edge of plain descent; the heavy ball's edge is 1 + momentum times that.
    """
    measured = [r["predicted"].get(name) for r in group.results.values() if "predicted" in r]
    return (1 + group.momentum) * geometric_mean(measured)


def predicted_steps(group: Group, name: str) -> float:
    """Geometric mean over seeds of the updates that a candidate predicts; NaN if not measured."""
    ends = {"smallest": "lowest", "median": "median", "largest": "highest"}
    for word, end in ends.items():
        if name == f"1 / {word} eigenvalue of R":
            return float(np.exp(-np.log(np.maximum(group.eigenvalues(end), 1e-12)).mean()))
    key = {
        "level 3": "level_3",
        "8 updates, straight on": "straight_on",
        "slope at the start": "straight_line",
    }[name]
    # torch's momentum multiplies the rate by 1 / (1 - momentum); the 8 updates already include it
    factor = 1 - group.momentum if key == "straight_line" else 1.0
    found = [r[key] for r in group.results.values() if key in r]
    return geometric_mean(
        [
            float(group.low_steps)
            if steps is None
            else min(max(factor * steps, 1), group.low_steps)
            for steps in found
        ]
    )


def _points(
    groups: Groups, name: str, predict: Callable[[Group, str], float], observe: Observe
) -> list[Point]:
    """Predicted and observed, in the base setting and those that differ from it in one thing."""
    mine = [g for g in groups.values() if g.setting == BARE or g.setting in SETTINGS]
    base = [g for g in mine if g.setting == BARE]

    def predicted(group: Group) -> float:
        if name == LOOKUP:
            like = [g for g in base if g.variant == group.variant]
        elif name == DEGREE:
            like = [g for g in base if (g.degree > 1.5) == (group.degree > 1.5)]
        else:
            return predict(group, name)
        return geometric_mean([observe(g) for g in like])

    return [Point(g.setting, g.degree, predicted(g), observe(g)) for g in mine]


Observe = Callable[[Group], float]


def rate_points(groups: Groups, name: str) -> list[Point]:
    """For the highest rate that ends below the loss; NaN where it lies beyond the grid."""
    return _points(groups, name, predicted_rate, lambda g: g.middle(g.learns_by_loss))


def step_points(groups: Groups, name: str) -> list[Point]:
    """For the updates to the threshold; inf where it was not reached."""
    return _points(groups, name, predicted_steps, lambda g: g.median_steps)


@dataclass(frozen=True)
class Candidate:
    """How well one quantity predicts another over groups of runs.

    Attributes
    ----------
    name : of the candidate.
    spearman_train, spearman_test : rank correlation with what was observed.
    within : rank correlation on the test groups of degree at most 1.5, and above.
    interval : 5 and 95 % of the rank correlation when whole settings are drawn with replacement.
    over_lookup : 5 % of how far that correlation exceeds the lookup's in the same draws; NaN
        without a lookup.
    constant : fitted on the training groups; predictions are multiplied by it.
    factor : median factor between predicted and observed on the test groups with that constant.
    train, test : numbers of groups.
    """

    name: str
    spearman_train: float
    spearman_test: float
    within: tuple[float, float]
    interval: tuple[float, float]
    over_lookup: float
    constant: float
    factor: float
    train: int
    test: int


def assess(name: str, points: Sequence[Point], lookup: Sequence[Point] = ()) -> Candidate:
    """Assess a candidate; points of which one number is not known are left out."""
    both = [
        (p, q)
        for p, q in zip(points, lookup or points, strict=True)
        if p.usable and (not lookup or q.usable)
    ]
    train = [p for p, _ in both if not p.held_out]
    test = [(p, q) for p, q in both if p.held_out]
    mine = [p for p, _ in test]
    offs = np.log([p.observed / p.predicted for p in mine])
    constant = (
        float(np.exp(np.median(np.log([p.observed / p.predicted for p in train]))))
        if train
        else math.nan
    )
    draws = _bootstrap(test)
    mine_only = [d[0] for d in draws]
    return Candidate(
        name=name,
        spearman_train=_spearman(train),
        spearman_test=_spearman(mine),
        within=(
            _spearman([p for p in mine if p.degree <= 1.5]),
            _spearman([p for p in mine if p.degree > 1.5]),
        ),
        interval=(_quantile(mine_only, 0.05), _quantile(mine_only, 0.95)),
        over_lookup=_quantile([a - b for a, b in draws], 0.05) if lookup else math.nan,
        constant=constant,
        factor=float(np.exp(np.median(np.abs(offs - np.log(constant))))) if len(offs) else math.nan,
        train=len(train),
        test=len(mine),
    )


def _bootstrap(pairs: Sequence[tuple[Point, Point]]) -> list[tuple[float, float]]:
    """Correlations of two predictors over settings drawn with replacement, the same for both.

    Groups of one setting share images and weights, so they are drawn together.
    """
    rng = np.random.default_rng(0)
    settings = sorted({p.setting for p, _ in pairs})
    found = []
    for _ in range(DRAWS if len(settings) > 1 else 0):
        chosen = rng.choice(len(settings), size=len(settings))
        drawn = [pair for k in chosen for pair in pairs if pair[0].setting == settings[k]]
        found.append((_spearman([p for p, _ in drawn]), _spearman([q for _, q in drawn])))
    return found


def _quantile(values: Sequence[float], share: float) -> float:
    known = [v for v in values if math.isfinite(v)]
    return float(np.quantile(known, share)) if known else math.nan


def _spearman(points: Sequence[Point]) -> float:
    if len(points) < 3:
        return math.nan
    predicted = [p.predicted for p in points]
    observed = [p.observed for p in points]
    if np.ptp(predicted) == 0 or np.ptp(observed) == 0:
        return math.nan
    # ranks by hand: the bootstrap asks for thousands, and scipy's function tests each
    return float(np.corrcoef(stats.rankdata(predicted), stats.rankdata(observed))[0, 1])


def rate_candidates(groups: Groups) -> list[Candidate]:
    """All candidates for the highest rate, and the baselines; none if they were not measured."""
    return _assessed(groups, RATE_CANDIDATES, rate_points)


def speed_candidates(groups: Groups) -> list[Candidate]:
    """All candidates for the updates at the low rate, and the baselines."""
    return _assessed(groups, SPEED_CANDIDATES, step_points)


def _assessed(
    groups: Groups, names: dict[str, str], points: Callable[[Groups, str], list[Point]]
) -> list[Candidate]:
    if not any("predicted" in r for group in groups.values() for r in group.results.values()):
        return []
    lookup = points(groups, LOOKUP)
    return [assess(name, points(groups, name), lookup) for name in (*names, *BASELINES)]


def prediction_checks(rates: Sequence[Candidate], speeds: Sequence[Candidate]) -> list[Check]:
    """Whether the candidate chosen on the base setting predicts the held-out settings well."""
    checks = []
    if rates:
        what = "the highest rate that ends below the loss is predicted from the start"
        checks.append(_check(what, rates, GOAL_FACTOR))
    if speeds:
        what = "the updates at the low rate are predicted from the start and a few updates"
        checks.append(_check(what, speeds, None))
    return checks


def _check(name: str, candidates: Sequence[Candidate], most: float | None) -> Check:
    own = [c for c in candidates if c.name not in BASELINES]
    chosen = max(own, key=lambda c: c.spearman_train if math.isfinite(c.spearman_train) else -2)
    good = chosen.spearman_test >= GOAL_SPEARMAN and (most is None or chosen.factor <= most)
    verdict: Verdict = "holds" if good and chosen.over_lookup > 0 else "fails"
    factor = "" if most is None else f", a median factor of at most {most:g} with one constant"
    return Check(
        name=name,
        predicted=GOAL_SPEARMAN,
        observed=chosen.spearman_test if math.isfinite(chosen.spearman_test) else None,
        tolerance=0.0,
        verdict=verdict if chosen.test >= GOAL_CELLS else "inconclusive",
        rule="the rank correlation, in the other settings, of the candidate that ranks best in the "
        f"base setting is at least the predicted{factor}, and it exceeds the lookup's in 95 % of "
        f"draws of settings; at least {GOAL_CELLS} groups there",
        unit="Spearman",
        note=f"{chosen.name}: factor {number(chosen.factor, 3)}, {chosen.test} groups, over "
        f"the lookup by at least {number(chosen.over_lookup, 2)}"
        if chosen.test
        else "no group outside the base setting",
    )


CANDIDATE_COLUMNS = (
    "candidate",
    "Spearman, base",
    "Spearman, held out",
    "5 to 95 %, by setting",
    "degree 1 only",
    "degree above 1",
    "median factor with one constant",
    "groups",
)


def candidate_rows(candidates: Sequence[Candidate]) -> list[list[str]]:
    """One line per candidate."""

    def shown(value: float) -> str:
        return number(value, 2) if math.isfinite(value) else "–"

    return [
        [
            c.name,
            shown(c.spearman_train),
            shown(c.spearman_test),
            f"{shown(c.interval[0])} to {shown(c.interval[1])}",
            *(shown(value) for value in c.within),
            number(c.factor, 3) if math.isfinite(c.factor) else "–",
            f"{c.train} + {c.test}",
        ]
        for c in candidates
    ]
