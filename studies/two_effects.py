"""Study ``two-effects``: does amplifying give the speed, and suppressing the stability?

BatchNorm divides each channel by its deviation s = min(s, 1) max(s, 1). The paper's second claim
is that the two factors do different things: dividing by min(s, 1), which amplifies weak channels,
raises the smallest eigenvalue of R and speeds training up; dividing by max(s, 1), which suppresses
strong ones, lowers the largest and lets larger learning rates through. Here each part is given to
the same network from the same weights, with the same images in the same order, and two numbers
are taken from each: the updates it needs at a low rate, and the highest rate that it stands.

The networks, settings and limits are ours. The limits were fixed before the runs; the settings
were chosen on other seeds than those used here, for a clear effect. The one that was tried first
and given up, a linear layer on 2 x 2 maps, is among those reported beside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from studies import STUDIES, paired, report, results
from studies import two_effects_figures as drawing
from studies.data import load
from studies.normalized_runs import Cell, geometric_rates, measure
from studies.paired import Interval
from studies.predictors import stable_interval
from studies.results import Answer, Check, Summary
from studies.running import pick, running, usable
from studies.sweep import run_grid
from studies.training import choose_device

__all__ = ["EXPERIMENT", "PRESETS", "RULE", "Config", "Group", "configure", "run"]

Array = np.ndarray

CORE = ("none", "center", "amplify", "suppress", "full")
CONTROLS = (
    "full_uncentered",
    "amplify_uncentered",
    "suppress_uncentered",
    "frozen",
    "detached",
    "layer",
    "equal_power",
)
BESIDE: dict[str, dict[str, Any]] = {
    "He init": {"init": "he"},
    "default init": {"init": "default"},
    "position post": {"position": "post"},
    "momentum 0.9": {"momentum": 0.9},
    "2 x 2 head": {"head": 2},
    "badly scaled input": {"badly_scaled": True},
    "residual": {"network": "residual"},
    "half as wide": {"times_width": 0.5},
    "twice as wide": {"times_width": 2.0},
}
BESIDE_VARIANTS = ("none", "amplify", "suppress", "full")
BASE = "base"

SPEED_UP, NO_SPEED_UP, SHARE = 1.5, 1.2, 0.7
RATE_UP, NO_RATE_UP = 3.0, 2.0
GOAL_SPEARMAN, GOAL_FACTOR, GOAL_CELLS = 0.9, 1.5, 24
SEEDS_FOR_EVERY = 5

EXPERIMENT = (
    "Six 3x3 convolutions of 16 to 32 channels and one linear layer, plain SGD on batches of 32 "
    "images of 16x16 pixels, He initialisation with each filter multiplied by 10^U(-1/2, 1/2) and "
    "the layer's power kept. Between ReLU and next layer stands nothing, centring, or centring "
    "with amplifying, suppressing or both. Per seed, all variants start from the same weights and "
    "see the same batches. Speed is the number of updates at learning rate 0.01 until the loss, "
    "averaged over 10 updates, is below 2.2. The highest stable rate is found by bisection on a "
    "grid of half octaves; a run has diverged when its loss is not finite, or its average stays "
    "above twice the larger of its start and ln(classes) for 20 updates; it is dead when its "
    "logits no longer depend on the image. Networks, settings and limits are ours, not the paper's."
)
RULE = (
    "Six checks, each paired per seed and on the one-sided 95 % bound of the median, which assumes "
    f"no distribution: amplifying is at least {SPEED_UP} times as fast as nothing, suppressing at "
    f"most {NO_SPEED_UP} times; amplifying takes at least {SHARE:.0%} of full BatchNorm's gain in "
    f"log speed; suppressing raises the highest stable rate at least {RATE_UP:g} times, amplifying "
    f"at most {NO_RATE_UP:g} times; and in every seed amplifying raises the smallest eigenvalue of "
    "R and suppressing lowers the largest. The claim holds if all six hold and fails if one fails."
)


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run, but for library versions.

    Attributes
    ----------
    preset : the name of the preset this came from.
    data, data_root, images, image_size : see ``studies.data.load``.
    seed : the images are drawn with it; the networks' seeds follow from it.
    seeds, control_seeds, beside_seeds : how many networks of each core variant, of each control,
        and of each setting reported beside.
    widths : of the six convolutions.
    low_steps : updates at the low rate, at most.
    rate_lowest, rate_octaves, rates_per_octave : the grid of the highest stable rate.
    rate_steps : updates of one run on that grid.
    predict : measure the candidates that might predict the highest stable rate.
    """

    preset: str
    data: str = "mnist5k"
    data_root: str | None = None
    seed: int = 0
    images: int = 2000
    image_size: int | None = 16
    seeds: int = 5
    control_seeds: int = 2
    beside_seeds: int = 2
    widths: tuple[int, ...] = (16, 16, 32, 32, 32, 32)
    low_steps: int = 400
    rate_lowest: float = 0.0125
    rate_octaves: int = 13
    rates_per_octave: int = 2
    rate_steps: int = 100
    predict: bool = True

    @property
    def rates(self) -> tuple[float, ...]:
        """The grid of learning rates."""
        return geometric_rates(self.rate_lowest, self.rate_octaves, self.rates_per_octave)


PRESETS = {
    "smoke": Config(
        "smoke",
        images=400,
        seeds=1,
        control_seeds=0,
        beside_seeds=0,
        widths=(8, 8, 8, 8, 8, 8),
        low_steps=60,
        rate_octaves=10,
        rates_per_octave=1,
        rate_steps=30,
        predict=False,
    ),
    "laptop": Config("laptop"),
    "full": Config(
        "full",
        images=50_000,
        image_size=32,
        seeds=10,
        control_seeds=10,
        beside_seeds=5,
        widths=(32, 32, 64, 64, 128, 128),
        low_steps=2000,
        rate_steps=500,
    ),
}


def configure(
    preset: str, *, data: str = "mnist5k", data_root: str | Path | None = None, seed: int = 0
) -> Config:
    """A preset with the user's choices put in."""
    chosen: Config = pick(PRESETS, preset, data=data, data_root=data_root, seed=seed)
    return chosen


@dataclass(frozen=True)
class Group:
    """The results of one variant in one setting, a mapping for each seed.

    Attributes
    ----------
    setting : ``base`` or a name in ``BESIDE``.
    variant : of the normalization.
    momentum : torch's.
    results : what ``measure`` returned, by seed.
    low_steps : at most so many updates were made at the low rate.
    rates : the grid.
    """

    setting: str
    variant: str
    momentum: float
    results: dict[int, dict[str, Any]]
    low_steps: int
    rates: tuple[float, ...]

    def steps(self, seed: int) -> Interval:
        """Updates at the low rate, at least 1; open above when the threshold was not reached."""
        found = self.results[seed]["steps"]
        return (self.low_steps, math.inf) if found is None else (max(found, 1), max(found, 1))

    def rate(self, seed: int) -> Interval:
        """Highest stable rate; open where the grid ended."""
        return stable_interval(self.rates, self.results[seed]["rate_index"])

    @property
    def median_steps(self) -> float:
        """Median over seeds; inf if most never got there."""
        return float(np.median([self.steps(seed)[1] for seed in self.results]))

    @property
    def median_rate(self) -> float:
        """Median over seeds of the highest stable rate on the grid; below it, half its lowest."""
        return float(np.median([max(self.rate(s)[0], self.rates[0] / 2) for s in self.results]))

    @property
    def rate_is_open(self) -> bool:
        """Whether the grid ended before the median did."""
        ends = [self.rate(seed) for seed in self.results]
        return float(np.median([end[0] != end[1] for end in ends])) >= 0.5

    def eigenvalues(self, end: str) -> Array:
        """(seeds, layers) of ``lowest``, ``median`` or ``highest``, behind a normalization."""
        return np.array([[s[end] for s in found["spectra"][1:]] for found in self.results.values()])

    def predicted(self, name: str) -> float:
        """Geometric mean over seeds of what a candidate predicts; NaN if it was not measured."""
        values = [r["predicted"][name] for r in self.results.values() if "predicted" in r]
        values = [v for v in values if v and math.isfinite(v)]
        if not values:
            return math.nan
        # two roots per mode: the heavy ball's edge is 1 + beta times that of plain descent
        factor = 1.0 if name in MEASURED_AT_RATE else 1 + self.momentum
        return factor * float(np.exp(np.mean(np.log(values))))


MEASURED_AT_RATE = ("a few updates at each rate",)

Groups = dict[tuple[str, str], Group]


def grid(config: Config, device: str) -> list[tuple[str, Cell]]:
    """Every cell of the study with the setting it belongs to; those of the core come first."""
    common = Cell(
        variant="none",
        seed=0,
        data=config.data,
        data_root=config.data_root,
        data_seed=config.seed,
        images=config.images,
        image_size=config.image_size,
        widths=config.widths,
        low_steps=config.low_steps,
        rates=config.rates,
        rate_steps=config.rate_steps,
        predict=config.predict,
        device=device,
    )

    def cells(
        setting: str,
        variants: Iterable[str],
        count: int,
        times_width: float = 1.0,
        **options: Any,
    ) -> list[tuple[str, Cell]]:
        options["widths"] = tuple(round(times_width * width) for width in config.widths)
        return [
            (
                setting,
                replace(common, variant=variant, seed=1000 * (config.seed + 1) + k, **options),
            )
            for k in range(count)
            for variant in variants
        ]

    found = cells(BASE, CORE, config.seeds) + cells(BASE, CONTROLS, config.control_seeds)
    for setting, options in BESIDE.items():
        found += cells(setting, BESIDE_VARIANTS, config.beside_seeds, **options)
    # two seeds tell what a candidate predicts; the rest of the time goes into runs
    few = {1000 * (config.seed + 1) + k for k in range(2)}
    return [
        (setting, replace(cell, predict=cell.predict and cell.seed in few))
        for setting, cell in found
    ]


# --- the verdicts ----------------------------------------------------------------------------


def both(groups: Groups, a: str, b: str, setting: str = BASE) -> tuple[Group, Group, list[int]]:
    """Two variants and the seeds that both have."""
    first = groups.get((setting, a), Group(setting, a, 0.0, {}, 0, ()))
    second = groups.get((setting, b), Group(setting, b, 0.0, {}, 0, ()))
    return first, second, [seed for seed in first.results if seed in second.results]


def speed_ratios(groups: Groups, a: str, b: str, setting: str = BASE) -> list[Interval]:
    """How many times as fast a is as b, by seed."""
    first, second, seeds = both(groups, a, b, setting)
    return [paired.ratio(second.steps(s), first.steps(s)) for s in seeds]


def rate_ratios(groups: Groups, a: str, b: str, setting: str = BASE) -> list[Interval]:
    """How many times as high a rate a stands as b, by seed."""
    first, second, seeds = both(groups, a, b, setting)
    return [paired.ratio(first.rate(s), second.rate(s)) for s in seeds]


def shares(groups: Groups) -> list[Interval]:
    """Amplifying's part of full BatchNorm's gain in log speed, by seed.

    A seed in which full is no faster than nothing has no gain to share, and is left undecided.
    """
    found = []
    gains = zip(
        speed_ratios(groups, "amplify", "none"), speed_ratios(groups, "full", "none"), strict=False
    )
    for part, whole in gains:
        if whole[0] <= 1 or not math.isfinite(whole[1]) or part[0] <= 0:
            found.append((-math.inf, math.inf))
        else:
            ends = [math.log(p) / math.log(w) for p, w in zip(part, whole, strict=True)]
            found.append((min(ends), max(ends)))
    return found


def eigenvalue_ratios(
    groups: Groups, a: str, b: str, end: str, setting: str = BASE
) -> list[Interval]:
    """Median over the layers of the ratio of one eigenvalue, by seed."""
    first, second, seeds = both(groups, a, b, setting)
    found = []
    for seed in seeds:
        with np.errstate(divide="ignore", invalid="ignore"):
            above = np.array([s[end] for s in first.results[seed]["spectra"][1:]])
            below = np.array([s[end] for s in second.results[seed]["spectra"][1:]])
            # null in both: a channel that is dead stays dead, and nothing was moved
            quotient = np.where(above == below, 1.0, above / below)
        found.append((float(np.median(quotient)),) * 2)
    return found


def claim_checks(groups: Groups) -> list[Check]:
    """The six checks of the claim."""
    steps, rate = "times as fast", "times the highest stable rate"
    checks = [
        paired.judge(
            "amplifying against nothing: speed",
            speed_ratios(groups, "amplify", "none"),
            SPEED_UP,
            "at least",
            unit=steps,
        ),
        paired.judge(
            "suppressing against nothing: speed",
            speed_ratios(groups, "suppress", "none"),
            NO_SPEED_UP,
            "at most",
            unit=steps,
        ),
        paired.judge(
            "amplifying's share of full BatchNorm's gain in log speed",
            shares(groups),
            SHARE,
            "at least",
            unit="share",
        ),
        paired.judge(
            "suppressing against nothing: highest stable rate",
            rate_ratios(groups, "suppress", "none"),
            RATE_UP,
            "at least",
            unit=rate,
        ),
        paired.judge(
            "amplifying against nothing: highest stable rate",
            rate_ratios(groups, "amplify", "none"),
            NO_RATE_UP,
            "at most",
            unit=rate,
        ),
    ]
    lowest = eigenvalue_ratios(groups, "amplify", "none", "lowest")
    highest = eigenvalue_ratios(groups, "suppress", "none", "highest")
    right = sum(up[0] > 1 and down[1] < 1 for up, down in zip(lowest, highest, strict=True))
    enough = len(lowest) >= SEEDS_FOR_EVERY
    verdict: results.Verdict = "fails" if right < len(lowest) else "holds"
    checks.append(
        Check(
            name="amplifying raises the smallest eigenvalue, suppressing lowers the largest",
            predicted=float(len(lowest)),
            observed=float(right),
            tolerance=0.0,
            verdict=verdict if enough or verdict == "fails" else "inconclusive",
            rule=f"in every seed, of at least {SEEDS_FOR_EVERY}; median over the layers",
            unit="seeds",
            note=(
                f"smallest times {_range(lowest)}, largest times {_range(highest)}"
                if lowest
                else "no seed was run"
            ),
        )
    )
    return checks


def _range(values: Sequence[Interval]) -> str:
    middle = [v[0] for v in values]
    return f"{report.number(min(middle), 2)} to {report.number(max(middle), 2)}"


# --- what predicts the highest stable rate ---------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """How well one quantity predicts another over groups of runs.

    Attributes
    ----------
    name : of the candidate.
    spearman_train, spearman_test : rank correlation with what was observed.
    factor_raw : median factor between predicted and observed on the test groups, as it is.
    constant : fitted on the training groups, by which predictions are multiplied.
    factor : median factor on the test groups with that constant.
    train, test : how many groups.
    """

    name: str
    spearman_train: float
    spearman_test: float
    factor_raw: float
    constant: float
    factor: float
    train: int
    test: int


def assess(name: str, points: Sequence[tuple[bool, float, float]]) -> Candidate:
    """A candidate from points (held out, predicted, observed), of which NaN are left out."""
    usable_points = [(t, p, o) for t, p, o in points if p > 0 and o > 0 and math.isfinite(p * o)]
    train = [(p, o) for t, p, o in usable_points if not t]
    test = [(p, o) for t, p, o in usable_points if t]

    def logs(pairs: Sequence[tuple[float, float]]) -> Array:
        return np.log([o / p for p, o in pairs])

    constant = float(np.exp(np.median(logs(train)))) if train else math.nan

    def factor(shift: float) -> float:
        return float(np.exp(np.median(np.abs(logs(test) - shift)))) if test else math.nan

    return Candidate(
        name=name,
        spearman_train=_spearman(train),
        spearman_test=_spearman(test),
        factor_raw=factor(0.0),
        constant=constant,
        factor=factor(math.log(constant)) if train else math.nan,
        train=len(train),
        test=len(test),
    )


def _spearman(pairs: Sequence[tuple[float, float]]) -> float:
    if len(pairs) < 3:
        return math.nan
    predicted, observed = np.transpose(pairs)
    if np.ptp(predicted) == 0 or np.ptp(observed) == 0:
        return math.nan
    return float(stats.spearmanr(predicted, observed).statistic)


def rate_points(groups: Groups, name: str) -> list[tuple[bool, float, float]]:
    """A candidate's points; groups whose highest rate lies beyond the grid are left out."""
    found = []
    for group in groups.values():
        if group.rate_is_open:
            continue
        if name == MIX:
            parts = [group.predicted(part) for part in MIXED]
            predicted = math.sqrt(parts[0] * parts[1])
        else:
            predicted = group.predicted(name)
        found.append((group.setting != BASE, predicted, group.median_rate))
    return found


MIXED = ("a few updates at each rate", "felt edge where a rate leads")
MIX = "the last two, geometric mean"


def rate_candidates(groups: Groups) -> list[Candidate]:
    """All candidates for the highest stable rate."""
    names = dict.fromkeys(
        name
        for group in groups.values()
        for found in group.results.values()
        for name in found.get("predicted", {})
    )
    if not names:
        return []
    extra = [MIX] if set(MIXED) <= set(names) else []
    return [assess(name, rate_points(groups, name)) for name in [*names, *extra]]


def speed_candidates(groups: Groups) -> list[Candidate]:
    """All candidates for the updates at the low rate; eigenvalues count inversely."""

    def points(of: Callable[[Group], float]) -> list[tuple[bool, float, float]]:
        return [(g.setting != BASE, of(g), g.median_steps) for g in groups.values()]

    def inverse(end: str) -> Callable[[Group], float]:
        def value(group: Group) -> float:
            spectra = group.eigenvalues(end)
            return float(np.exp(-np.log(np.maximum(spectra, 1e-12)).mean()))

        return value

    def straight(group: Group) -> float:
        lines = [r.get("straight_line") for r in group.results.values()]
        known = [max(line, 1e-3) for line in lines if line is not None]
        return (1 - group.momentum) * float(np.exp(np.mean(np.log(known)))) if known else math.nan

    found = [assess("straight line by the slope at the start", points(straight))]
    found += [
        assess(f"1 / {words} eigenvalue of R", points(inverse(end)))
        for end, words in (("lowest", "smallest"), ("median", "median"), ("highest", "largest"))
    ]
    return [candidate for candidate in found if candidate.test]


def prediction_check(candidates: Sequence[Candidate]) -> list[Check]:
    """Whether what predicts best where it was chosen predicts well where it was not."""
    if not candidates:
        return []
    chosen = max(
        candidates, key=lambda c: c.spearman_train if math.isfinite(c.spearman_train) else -2
    )
    good = chosen.spearman_test >= GOAL_SPEARMAN and chosen.factor <= GOAL_FACTOR
    verdict: results.Verdict = "holds" if good else "fails"
    return [
        Check(
            name="the highest stable rate is predicted from the start and a few updates",
            predicted=GOAL_SPEARMAN,
            observed=chosen.spearman_test,
            tolerance=GOAL_FACTOR,
            verdict=verdict if chosen.test >= GOAL_CELLS else "inconclusive",
            rule=(
                "the candidate that ranks best in the base setting has, in the other settings, "
                "rank correlation >= predicted and, times one constant fitted in the base "
                f"setting, a median factor <= tolerance; at least {GOAL_CELLS} groups there"
            ),
            unit="Spearman",
            note=f"{chosen.name}: factor {report.number(chosen.factor, 3)}, {chosen.test} groups",
        )
    ]


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


CANDIDATE_COLUMNS = (
    "candidate",
    "Spearman, base",
    "Spearman, held out",
    "median factor, as it is",
    "constant from base",
    "median factor with it",
    "groups",
)


def candidate_rows(candidates: Sequence[Candidate]) -> list[list[str]]:
    """One line per candidate."""
    return [
        [
            c.name,
            report.number(c.spearman_train, 2),
            report.number(c.spearman_test, 2),
            report.number(c.factor_raw, 3),
            report.number(c.constant, 2),
            report.number(c.factor, 3),
            f"{c.train} + {c.test}",
        ]
        for c in candidates
    ]


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


def collect(settings: Sequence[str], cells: Sequence[Any], config: Config) -> Groups:
    """Results by setting and variant."""
    groups: Groups = {}
    for setting, cell in zip(settings, cells, strict=True):
        if cell.error is not None:
            continue
        variant = cell.config["variant"]
        group = groups.setdefault(
            (setting, variant),
            Group(
                setting, variant, cell.config["momentum"], {}, config.low_steps, tuple(config.rates)
            ),
        )
        group.results[cell.config["seed"]] = cell.result
    return groups


def run(
    config: Config,
    out: str | Path,
    *,
    device: str = "auto",
    command: str | None = None,
    workers: int | None = None,
) -> Summary:
    """Run the study and leave its results in a folder.

    Every cell is on disk as soon as it is done, and a run that is repeated in the same folder
    skips what is there.

    Parameters
    ----------
    config : of the study, see ``configure``.
    out : folder for the results; made if need be.
    device : ``auto``, ``cpu`` or ``cuda``.
    command : what to print as the command that repeats the run.
    workers : processes; one for each processor by default.

    Returns
    -------
    Summary, as written. Its ``status`` is ``complete`` when every cell came to a result, whatever
    the verdicts.

    Raises
    ------
    UserError : the device, the data or the folder are not to be had.
    """
    where = choose_device(device)
    out = results.output_folder(Path(out))
    answer = Answer(experiment=EXPERIMENT, rule=RULE)
    found: dict[str, Any] = {"groups": {}, "rates": [], "speeds": []}

    def finish(summary: Summary) -> None:
        write_report(out, summary, found["groups"], found["rates"], found["speeds"])

    with running(
        "two-effects",
        config,
        out,
        device=where,
        command=command,
        answer=answer,
        finish=finish,
    ) as (summary, save):
        # what is wrong with the data is said once and at once, not by every cell
        load(
            config.data,
            config.data_root,
            limit=config.images,
            image_size=config.image_size,
            seed=config.seed,
        )
        plan = grid(config, where.type)
        cells = run_grid(
            measure,
            [cell for _, cell in plan],
            out / "cells",
            workers=workers,
            engine="serial" if workers == 1 else "joblib",
            version="1",
        )
        usable(cells, summary)
        groups = collect([setting for setting, _ in plan], cells, config)
        rates, speeds = rate_candidates(groups), speed_candidates(groups)
        found |= {"groups": groups, "rates": rates, "speeds": speeds}
        claim = claim_checks(groups)
        summary.checks += claim + prediction_check(rates)
        summary.results |= {
            "variants": [
                dict(zip(VARIANT_COLUMNS, row, strict=True)) for row in variant_rows(groups)
            ],
            "settings": [dict(zip(BESIDE_COLUMNS, r, strict=True)) for r in beside_rows(groups)],
            "rate_candidates": rates,
            "speed_candidates": speeds,
        }
        summary.answer = _answer(answer, claim, groups, rates)
        save()
    print_results(summary, groups, rates, out)
    return summary


def _answer(
    answer: Answer, claim: Sequence[Check], groups: Groups, rates: Sequence[Candidate]
) -> Answer:
    verdict = results.worst(check.verdict for check in claim)
    counts = {v: sum(c.verdict == v for c in claim) for v in ("holds", "fails", "inconclusive")}
    caption, alt = drawing.FIGURES["effects"][1:]
    return replace(
        answer,
        verdict=verdict,
        reason=(
            f"{counts['holds']} of {len(claim)} checks hold, {counts['fails']} fail and "
            f"{counts['inconclusive']} are inconclusive with "
            f"{len(both(groups, 'amplify', 'none')[2])} seeds."
        ),
        numbers=[
            (check.name, f"{report.number(check.observed, 3)} {check.unit}") for check in claim
        ],
        figure="effects.png",
        caption=caption,
        alt=alt,
        against=evidence_against(groups, rates),
    )


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
                    "Candidates, measured at the start or in the first 8 updates, against the "
                    "highest stable rate. A group is one variant in one setting, median over "
                    "seeds. The groups of the base setting serve to fit one constant and to "
                    "choose; those of the other settings are held out. This split was fixed "
                    "before the runs. Groups whose highest rate lies beyond the grid are left out.",
                    "Gauss-Newton is 2 / λmax of the Gauss-Newton matrix of the loss over all "
                    "parameters. The edge of felt filters leaves out every filter whose length "
                    "the output does not feel (|g'w| under 5 % of |g||w| for random directions): "
                    "live normalization makes it scale-invariant, its steps make it longer and "
                    "a longer filter takes smaller steps, as in NLMS. The felt edge where a rate "
                    "leads is the highest rate that is no higher than that edge after 8 updates "
                    "made at that rate. A few updates at each rate is the highest rate at which "
                    "the loss after 8 updates is under twice the larger of its start and "
                    "ln(classes): a short run, cheap and hardly a theory.",
                ],
                CANDIDATE_COLUMNS,
                candidate_rows(rates),
                [
                    drawing.draw_predictors(
                        {c.name: rate_points(groups, c.name) for c in rates}, out
                    )
                ],
            )
        )
    if speeds:
        sections.append(
            report.Section(
                "What predicts the updates at the low rate",
                ["The same for the other outcome."],
                CANDIDATE_COLUMNS,
                candidate_rows(speeds),
            )
        )
    report.write(out / "report.html", summary, title=TITLE, question=QUESTION, sections=sections)


def print_results(summary: Summary, groups: Groups, rates: Sequence[Candidate], out: Path) -> None:
    """Tables for the terminal."""
    print()
    print(report.table(VARIANT_COLUMNS, variant_rows(groups)))
    if any(setting != BASE for setting, _ in groups):
        print()
        print(report.table(BESIDE_COLUMNS, beside_rows(groups)))
    if rates:
        print()
        print(report.table(CANDIDATE_COLUMNS, candidate_rows(rates)))
    print()
    for check in summary.checks:
        print(f"{check.verdict.upper():<12}  {check.name}: {check.note}")
    if summary.answer is not None:
        print(f"Claim: {summary.answer.verdict}. {summary.answer.reason}")
    for problem in summary.problems:
        print(f"PROBLEM: {problem}")
    print(f"Report: {out / 'report.html'}")
