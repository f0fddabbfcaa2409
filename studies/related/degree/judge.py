"""Judges the study ``degree``: who explodes, at which rate, how losses collapse, and how fast."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.stats import spearmanr

from studies.engine.checks import Check, at_most, inconclusive, worst
from studies.engine.outcomes import Course, Interval, lowest
from studies.engine.protocol import Figure, Findings, Measured, Table
from studies.engine.text import number
from studies.related.degree import AFFINE, PLAIN, SQUARED, Config, Form
from studies.related.degree.figures import plot_collapse, plot_exponents, plot_rates

__all__ = ["ENOUGH", "Network", "judge"]

ENOUGH = 300  # networks that T1 asks for
FACTOR = 1.5
COLLAPSE = 1.3
SHARE = 0.95
WITHIN = 0.15
ALLOWANCES = (10.0, 30.0, 100.0, 300.0)
FEWEST_SEEDS = 4
RUNAWAY = 0.5
SPEARMAN = 0.85
# updates over which T3 averages the loss; the last window is the end of the run
EARLY = slice(10, 30)
LATE = slice(-20, None)


@dataclass(frozen=True)
class Network:
    """One network of the study with its prediction and its runs."""

    form: Form
    task: str
    seed: int
    degree: float
    exponent: float
    conv_degree: float
    head_bound: float | None
    relative_steps: tuple[float, ...]
    courses: tuple[Course, ...]

    @property
    def exploded(self) -> bool:
        """Whether its run at the huge rate exploded."""
        return self.courses[0].explodes_at_huge_rate()

    @property
    def runaway(self) -> float:
        """Rate at which the third gradient would move some layer by ``RUNAWAY`` of its norm."""
        steps = np.log(np.clip(self.relative_steps, 1e-12, 1e12))
        rates = np.log([c.lr for c in self.courses])
        over = np.flatnonzero(steps >= math.log(RUNAWAY))
        if not len(over):
            return math.inf
        k = max(int(over[0]), 1)
        part = (math.log(RUNAWAY) - steps[k - 1]) / (steps[k] - steps[k - 1])
        return float(np.exp(rates[k - 1] + np.clip(part, -1, 1) * (rates[k] - rates[k - 1])))

    def explosion(self, allowance: float) -> Interval:
        """Interval of the grid that holds the rate from which it explodes."""
        rates = [c.lr for c in self.courses]
        return lowest(rates, [c.explodes(allowance) for c in self.courses])


def networks(measured: Sequence[Measured]) -> list[Network]:
    """The measurements that succeeded, in order."""
    return [
        Network(
            one.cell.form,
            one.cell.task,
            one.cell.seed,
            **{k: one.result[k] for k in ("degree", "exponent", "conv_degree", "head_bound")},
            relative_steps=tuple(one.result["relative_steps"]),
            courses=tuple(Course.of(record) for record in one.result["courses"]),
        )
        for one in measured
        if one.error is None
    ]


def judge(_: Config, measured: Sequence[Measured]) -> Findings:
    """The verdict: it holds when T1 to T4 do."""
    found = networks(measured)
    if not found:
        return Findings("inconclusive", reason="No network was measured.")
    fates = [n for n in found if n.task == "fate"]
    deciding = [n for n in fates if n.form.body != "transformer"]
    rates = [n for n in found if n.task == "rate"]
    huge = [n for n in found if n.task == "collapse"]
    ratios = collapse_ratios(huge)
    checks = [
        fate_check(deciding),
        affine_check(rates),
        squared_check(rates),
        *runaway_checks(rates),
        *(collapse_check(name, values) for name, values in ratios.items()),
        exponent_check(deciding),
    ]
    return Findings(
        verdict=worst(check.verdict for check in checks),
        checks=checks,
        tables=[
            Table("Explodes at 1e6", FATE_COLUMNS, fate_rows(fates)),
            Table(
                "Predictors of explosion at 1e6",
                PREDICTOR_COLUMNS,
                predictor_rows(deciding),
                text=["Networks without attention."],
            ),
            Table("Explosion rates", RATE_COLUMNS, rate_rows(rates), text=[RATE_TEXT]),
            Table("Loss over rate", COLLAPSE_COLUMNS, collapse_rows(ratios)),
        ],
        answer=figure(deciding, rates, huge),
        against=against(deciding, [n for n in fates if n not in deciding]),
    )


# T1 ----------------------------------------------------------------------------------------------


def fate_check(fates: Sequence[Network]) -> Check:
    """T1: no error in at least 300 networks."""
    name = "T1: networks whose explosion at 1e6 the degree does not predict"
    errors = sum((n.degree > 1.5) != n.exploded for n in fates)
    if not errors and len(fates) < ENOUGH:
        return inconclusive(name, 0.0, f"no error, but {len(fates)} networks; {ENOUGH} are needed")
    missed = {n.form.name for n in fates if (n.degree > 1.5) != n.exploded}
    note = f"of {len(fates)}" + (f"; in: {'; '.join(sorted(missed))}" if missed else "")
    return at_most(name, float(errors), 0.0, unit="networks", note=note)


def lookup(fates: Sequence[Network]) -> list[bool]:
    """The baseline: what most other seeds of the same form did; False where there are none."""
    outcomes: dict[Form, list[bool]] = defaultdict(list)
    for n in fates:
        outcomes[n.form].append(n.exploded)
    return [
        2 * (sum(outcomes[n.form]) - n.exploded) > len(outcomes[n.form]) - 1
        if len(outcomes[n.form]) > 1
        else False
        for n in fates
    ]


def predictor_rows(fates: Sequence[Network]) -> list[list[str]]:
    """Confusion of the degree and of both baselines with what happened."""
    truth = [n.exploded for n in fates]
    predictors = {
        "degree of the loss > 1.5": [n.degree > 1.5 for n in fates],
        "exponent after two updates > 1.5": [n.exponent > 1.5 for n in fates],
        "degree of the features in the convolutions > 0.5": [n.conv_degree > 0.5 for n in fates],
        "lookup of the same form at other seeds": lookup(fates),
    }
    rows = []
    for name, said in predictors.items():
        pairs = list(zip(said, truth, strict=True))
        counts = [pairs.count(p) for p in ((True, True), (False, True), (False, False))]
        rows.append([name, *map(str, counts), str(pairs.count((True, False)))])
    return rows


PREDICTOR_COLUMNS = (
    "predictor",
    "explodes, said so",
    "explodes, missed",
    "bounded, said so",
    "bounded, said explodes",
)
FATE_COLUMNS = (
    "network",
    "degree",
    "exponent",
    "degree in convolutions",
    "exploded",
    "died",
    "learned",
    "largest parameter norm",
)


def _by_form(found: Iterable[Network]) -> dict[Form, list[Network]]:
    groups: dict[Form, list[Network]] = defaultdict(list)
    for n in found:
        groups[n.form].append(n)
    return groups


def fate_rows(fates: Sequence[Network]) -> list[list[str]]:
    """One row per form: prediction and what its seeds did at 1e6."""
    rows = []
    for form, group in _by_form(fates).items():
        runs = [n.courses[0] for n in group]
        learned = sum(c.learns_by_accuracy() and not c.dies for c in runs)
        died = sum(c.dies and not n.exploded for c, n in zip(runs, group, strict=True))
        exploded = sum(n.exploded for n in group)
        norms = [c.norm[np.isfinite(c.norm)].max() for c in runs]
        rows.append(
            [
                form.name,
                *(
                    number(float(np.median([getattr(n, field) for n in group])), 3)
                    for field in ("degree", "exponent", "conv_degree")
                ),
                *(f"{count} of {len(group)}" for count in (exploded, died, learned)),
                number(float(np.median(norms)), 2),
            ]
        )
    return rows


# T2 ----------------------------------------------------------------------------------------------


def miss(interval: Interval, predicted: float) -> float:
    """Factor by which a prediction lies outside an interval; 1 inside."""
    low, high = interval
    if predicted < low:
        return low / predicted
    return predicted / high if predicted > high else 1.0


def fitted_constant(intervals: Sequence[Interval]) -> float:
    """The number with the smallest median factor outside the intervals, on a fine grid."""
    grid = np.geomspace(0.05, 500, 400)
    costs = [np.median([miss(i, c) for i in intervals]) for c in grid]
    best = np.flatnonzero(np.isclose(costs, min(costs)))
    return float(grid[best[len(best) // 2]])


def _rates_of(rates: Sequence[Network], forms: Sequence[Form]) -> list[tuple[Network, Interval]]:
    return [(n, n.explosion(ALLOWANCES[2])) for n in rates if n.form in forms]


def affine_check(rates: Sequence[Network]) -> Check:
    """T2 for gains and shifts: a constant from even seeds, judged on odd ones."""
    name = "T2: factor between explosion rate and one constant, through the last gain or shift"
    mine = _rates_of(rates, AFFINE)
    fit = [interval for n, interval in mine if n.seed % 2 == 0]
    held = [interval for n, interval in mine if n.seed % 2 == 1]
    if len({n.seed for n, _ in mine}) < FEWEST_SEEDS:
        return inconclusive(name, FACTOR, f"fewer than {FEWEST_SEEDS} seeds")
    constant = fitted_constant(fit)
    factor = float(np.median([miss(interval, constant) for interval in held]))
    note = f"constant {number(constant, 3)} from {len(fit)}, judged on {len(held)} networks"
    return at_most(name, factor, FACTOR, unit="times", note=note)


def squared_check(rates: Sequence[Network]) -> Check:
    """T2 for squared error: nothing is fitted."""
    name = "T2: factor between explosion rate and 2 / curvature of the head, squared error"
    mine = _rates_of(rates, SQUARED)
    if len({n.seed for n, _ in mine}) < FEWEST_SEEDS:
        return inconclusive(name, FACTOR, f"fewer than {FEWEST_SEEDS} seeds")
    misses = [miss(i, n.head_bound) for n, i in mine if n.head_bound is not None]
    note = f"{len(misses)} networks, largest {number(max(misses), 3)}"
    return at_most(name, float(np.median(misses)), FACTOR, unit="times", note=note)


def runaway_checks(rates: Sequence[Network]) -> list[Check]:
    """T2 for degrees above 2: rank correlation, and the factor after one fitted constant."""
    names = (
        "T2: Spearman's correlation of the runaway rate with the explosion rate, degree above 2",
        "T2: factor between explosion rate and runaway rate times one constant, degree above 2",
    )
    mine = [
        (n.runaway, n.seed, interval)
        for n, interval in _rates_of(rates, PLAIN)
        if math.isfinite(interval[1]) and interval[0] > 0 and math.isfinite(n.runaway)
    ]
    if len({seed for _, seed, _ in mine}) < FEWEST_SEEDS:
        limits = (SPEARMAN, FACTOR)
        reason = f"fewer than {FEWEST_SEEDS} seeds"
        return [inconclusive(n, limit, reason) for n, limit in zip(names, limits, strict=True)]
    middles = [math.sqrt(low * high) for _, _, (low, high) in mine]
    correlation = float(spearmanr([r for r, _, _ in mine], middles).statistic)
    relative = [(seed, (low / r, high / r)) for r, seed, (low, high) in mine]
    constant = fitted_constant([i for seed, i in relative if seed % 2 == 0])
    factor = float(np.median([miss(i, constant) for seed, i in relative if seed % 2 == 1]))
    ranked = Check(
        name=names[0],
        predicted=SPEARMAN,
        observed=correlation,
        tolerance=0.0,
        verdict="holds" if correlation >= SPEARMAN else "fails",
        rule="observed >= predicted",
        note=f"{len(mine)} networks that explode on the grid",
    )
    note = f"constant {number(constant, 3)}"
    return [ranked, at_most(names[1], factor, FACTOR, unit="times", note=note)]


RATE_TEXT = (
    "Rates from which a run explodes: the parameters' norm passes |theta_0| + K lr t, for four "
    "values of K. The grid's interval is shown, as the median of its ends over seeds. A rule whose "
    "constant decided the number would move from column to column."
)
RATE_COLUMNS = ("network", "degree", *(f"K = {k:g}" for k in ALLOWANCES), "predicted")


def rate_rows(rates: Sequence[Network]) -> list[list[str]]:
    """One row per form: median interval for each K, and the prediction where there is one."""
    rows = []
    for form, group in _by_form(rates).items():
        cells = []
        for k in ALLOWANCES:
            ends = np.array([n.explosion(k) for n in group])
            low, high = np.median(ends, axis=0)
            cells.append(f"{number(float(low), 3)} to {number(float(high), 3)}")
        bounds = [n.head_bound for n in group if n.head_bound is not None]
        predicted = number(float(np.median(bounds)), 3) if bounds else "–"
        median = number(float(np.median([n.degree for n in group])), 2)
        rows.append([form.name, median, *cells, predicted])
    return rows


# T3 ----------------------------------------------------------------------------------------------


def collapse_ratios(huge: Sequence[Network]) -> dict[str, dict[Form, float]]:
    """Largest over smallest mean of loss / rate among the rates, by window and form.

    The mean over seeds is geometric. Forms with a dead run are left out: their loss is that of the
    head's bias alone.
    """
    found: dict[str, dict[Form, float]] = {}
    for name, window in (("updates 11 to 30", EARLY), ("the last 20 updates", LATE)):
        found[name] = {}
        for form, group in _by_form(huge).items():
            if any(c.dies or not c.finite for n in group for c in n.courses):
                continue
            if len(group) < FEWEST_SEEDS:
                continue
            logs = [[math.log(c.loss[window].mean() / c.lr) for c in n.courses] for n in group]
            means = np.mean(logs, axis=0)
            found[name][form] = float(np.exp(means.max() - means.min()))
    return found


def collapse_check(window: str, values: dict[Form, float]) -> Check:
    """T3: the worst of the living forms."""
    name = f"T3: spread of loss / rate over rates from 1e2 to 1e6, {window}"
    if not values:
        return inconclusive(name, COLLAPSE, f"no living form with {FEWEST_SEEDS} seeds")
    worst_form = max(values, key=lambda form: values[form])
    note = f"worst of {len(values)} forms: {worst_form.name}"
    return at_most(name, values[worst_form], COLLAPSE, unit="times", note=note)


COLLAPSE_COLUMNS = ("network", "updates 11 to 30", "the last 20 updates")


def collapse_rows(ratios: dict[str, dict[Form, float]]) -> list[list[str]]:
    """One row per living form."""
    forms = list(next(iter(ratios.values())))
    return [[f.name, *(number(values[f], 3) for values in ratios.values())] for f in forms]


# T4 ----------------------------------------------------------------------------------------------


def exponent_check(fates: Sequence[Network]) -> Check:
    """T4: the exponent after two updates is the degree."""
    name = "T4: share of networks whose exponent after two updates is not max(1, degree)"
    if len(fates) < ENOUGH:
        return inconclusive(name, 1 - SHARE, f"{len(fates)} networks; {ENOUGH} are needed")
    wrong = [n for n in fates if not abs(n.exponent - max(1.0, round(n.degree))) <= WITHIN]
    forms = "; ".join(sorted({n.form.name for n in wrong}))
    note = f"{len(wrong)} of {len(fates)}" + (f", in: {forms}" if wrong else "")
    return at_most(name, len(wrong) / len(fates), 1 - SHARE, unit="of all", note=note)


# Answer ------------------------------------------------------------------------------------------


def figure(fates: Sequence[Network], rates: Sequence[Network], huge: Sequence[Network]) -> Figure:
    """Exponent against degree, explosion rates, collapse of losses."""
    shown = [*AFFINE, *SQUARED, *PLAIN]
    intervals = {
        form.name: [n.explosion(ALLOWANCES[2]) for n in group]
        for form, group in _by_form(rates).items()
        if form in shown
    }
    plots: list[Callable[..., object]] = [
        partial(plot_exponents, [(n.degree, n.exponent, n.exploded) for n in fates]),
        partial(plot_rates, intervals),
        partial(plot_collapse, [c for n in huge for c in n.courses if not c.dies]),
    ]
    return Figure(
        name="degree",
        caption="Left: exponent after two updates against degree, both measured before training, "
        "for each network without attention; colour shows what it then did at a learning rate of "
        "1e6. Middle: rates from which runs explode, a bar for each seed's interval of the grid. "
        "Right: loss over learning rate of networks of degree 1 at four rates, smoothed over 10 "
        "updates.",
        alt="Three panels: exponents lie on the line max(1, degree), and networks above degree 1.5 "
        "exploded; explosion rates by form; losses over rate of four rates lie on one curve.",
        plots=plots,
        height=3.6,
    )


def against(fates: Sequence[Network], transformers: Sequence[Network]) -> list[str]:
    """What the degree does not say."""
    wrong = sum((n.degree > 1.5) != n.exploded for n in transformers)
    bounded = [n for n in fates if not n.exploded]
    dead = sum(n.courses[0].dies for n in bounded)
    overflow = sum(n.exploded and n.courses[0].finite for n in fates)
    return [
        f"Not exploding is not learning: of {len(bounded)} networks that did not explode at 1e6, "
        f"{dead} died.",
        f"Of the networks that exploded, {overflow} ended finite in float32: overflow behind a "
        "normalization turns features to zero, and the loss looks harmless again. A test for NaN "
        "misses them.",
        f"Attention is not covered: of {len(transformers)} small transformers the degree was wrong "
        f"about {wrong}. Softmax saturates, its derivative near a tie is not bounded by 1 / |w|, "
        "and the residual stream overflows float32 in front of a normalization.",
        "The degree is measured at large scale and speaks of large rates. At rates of practice a "
        "network of high degree can train well.",
    ]
