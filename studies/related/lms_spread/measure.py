"""Study ``lms-spread``: does theory predict LMS over eigenvalue spreads from 1 to 1000?

A system is identified through autoregressive input. Theory says the learning curve, the time to
converge and the misadjustment from R alone, on the assumption that regressors are independent from
sample to sample. Those of a delay line are not: each shares all but one sample with the next. So
the same R is given to LMS twice, as independent regressors, for which theory is exact, and as the
delay line it stands for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import scipy
from matplotlib.artist import Artist
from matplotlib.axes import Axes

import adaptive
from studies import STUDIES
from studies.engine import page as report
from studies.engine import style as figures
from studies.engine import summary as results
from studies.engine.running import pick
from studies.engine.single_run import Findings, Table, single_run
from studies.engine.summary import Check, Summary, Verdict

__all__ = ["EXPERIMENT", "PRESETS", "RULE", "Cell", "Config", "configure", "measure", "run"]

Array = np.ndarray
Kind = Literal["independent", "delay line"]

KINDS: tuple[Kind, Kind] = ("independent", "delay line")
LEFT, NEAR, FALSE_ALARM, NO_MEAN = 0.01, 0.1, 0.01, 0.25
RUNS = 32  # in a group: one SIMD lane each
WINDOWS = 8
PRECISION = 0.01  # of the misadjustment, one standard error, roughly

EXPERIMENT = (
    "LMS identifies a system of a few taps in noise 30 dB down. Its input is white or "
    "autoregressive of order 1 or 2, the poles set for an eigenvalue spread of R up to 1000; every "
    "mode has the same share of the MSE at the start, so that the slow ones count. Step sizes are "
    "parts of theory's mean-square bound. For each, groups of seeded runs are made with "
    "independent Gaussian regressors of that R and with the delay line, from zero weights and from "
    "the Wiener solution, and compared with adaptive.predict_lms: the learning time, which is the "
    "area under the excess MSE above its steady state over its start, the learning curve in "
    "windows, and the misadjustment."
)
RULE = (
    "Standard errors are those of the group means; k of them is the quantile of Student's "
    f"distribution that all comparisons together leave with probability {FALSE_ALARM:g}. "
    "Independent regressors, every step size: learning time, curve and misadjustment are within k "
    "standard errors of theory. Delay line, the smallest step size: the interval of k standard "
    "errors about learning time and misadjustment, over theory's, lies within "
    f"{100 * NEAR:g} % of 1; it fails where the interval lies outside, and is inconclusive where "
    "it does neither. The claim holds if all of these do and fails if one fails. Beside it, and "
    "not deciding: the delay line at larger steps, where theory is left."
)


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run, but for library versions.

    Attributes
    ----------
    preset : the name of the preset this came from.
    seed : of everything that is drawn.
    taps : of the system and the filter.
    spreads : of the eigenvalues, above 1; white input is added.
    fractions : of the mean-square bound, ascending; the first is the one that is judged on the
        delay line.
    groups : of 32 runs each.
    noise : J_min; the system's response has power 1.
    """

    preset: str
    seed: int = 0
    taps: int = 8
    spreads: tuple[float, ...] = (10.0, 100.0, 1000.0)
    fractions: tuple[float, ...] = (0.1, 0.2, 0.4)
    groups: int = 16
    noise: float = 1e-3


PRESETS = {
    "smoke": Config("smoke", taps=4, spreads=(10.0,), fractions=(0.2, 0.4), groups=3),
    "laptop": Config("laptop"),
    "full": Config("full", taps=16, fractions=(0.05, 0.1, 0.2, 0.4), groups=128),
}


def configure(preset: str, *, seed: int = 0) -> Config:
    """A preset with the user's choices put in."""
    chosen: Config = pick(PRESETS, preset, seed=seed)
    return chosen


# --- one cell --------------------------------------------------------------------------------


def equal_shares(R: Array, rng: np.random.Generator) -> Array:
    """(L,) weights w with w'Rw = 1, to which every mode of R adds 1 / L."""
    values, vectors = np.linalg.eigh(R)
    signs = rng.choice([-1.0, 1.0], len(values))
    w: Array = vectors @ (signs / np.sqrt(len(values) * values))
    return w


@dataclass(frozen=True)
class Ratio:
    """Observed over predicted in groups of runs.

    Attributes
    ----------
    mean, error : of the group means, and its standard error.
    predicted : what 1 stands for.
    """

    mean: float
    error: float
    predicted: float

    @classmethod
    def of(cls, observed: Array, predicted: float) -> Ratio:
        """(groups,) observations against one prediction."""
        with np.errstate(over="ignore", invalid="ignore"):
            each = observed / predicted
            error = float(each.std(ddof=1) / math.sqrt(len(each)))
            return cls(float(each.mean()), error, predicted)

    @property
    def z(self) -> float:
        """Deviation in standard errors; inf where there is no error to measure it by."""
        if not (math.isfinite(self.mean) and math.isfinite(self.error)):
            return math.inf
        return (
            (self.mean - 1) / self.error
            if self.error > 0
            else math.copysign(math.inf, self.mean - 1)
        )

    @property
    def settled(self) -> bool:
        """Whether the mean is that of many runs, and not of a few that carry it."""
        return bool(self.error < NO_MEAN * self.mean)


@dataclass(frozen=True)
class Cell:
    """One process at one step size, with one kind of regressors.

    Attributes
    ----------
    name : of the process.
    spread : of the eigenvalues.
    fraction : of the mean-square bound.
    kind : of the regressors.
    time : learning time; ``time.predicted`` is in updates.
    misadjustment : EMSE over J_min.
    windows : of the learning curve.
    curves : observed excess MSE, the mean of all groups, and the predicted one.
    diverged : runs that left the finite numbers.
    """

    name: str
    spread: float
    fraction: float
    kind: Kind
    time: Ratio
    misadjustment: Ratio
    windows: tuple[Ratio, ...]
    curves: tuple[Array, Array]
    diverged: int

    @property
    def ratios(self) -> tuple[Ratio, ...]:
        """Everything that is compared."""
        return (self.time, self.misadjustment, *self.windows)

    @property
    def curve_z(self) -> float:
        """Largest deviation of a window of the curve, in standard errors."""
        return max((window.z for window in self.windows), key=abs)


def measure(
    order: int, spread: float, fraction: float, kind: Kind, config: Config, seed: int
) -> Cell:
    """Predict and observe one cell; ``seed`` is of its runs."""
    source = adaptive.AutoRegressive.with_spread(spread, taps=config.taps, order=order)
    R = source.R
    w_o = equal_shares(R, np.random.default_rng([config.seed, order, round(spread)]))
    regressors = adaptive.GaussianRegressors(R) if kind == "independent" else source
    scenario = adaptive.SystemIdentification(regressors, w_o=w_o, noise_power=config.noise)
    mu = fraction * adaptive.stability_bounds(R).mean_square_real
    problem = adaptive.WienerProblem(R=R, P=R @ w_o, d_power=float(w_o @ R @ w_o) + config.noise)
    slowest = 1 / (2 * mu * float(np.linalg.eigvalsh(R)[0]))
    diverged = 0

    def groups(steps: int, w0: Array, number: int) -> Array:
        """(groups, steps) excess MSE, each the mean of 32 runs."""
        nonlocal diverged
        seeds = np.random.SeedSequence([seed, number]).generate_state(config.groups)
        runs = [
            adaptive.simulate(
                scenario, mu=mu, steps=steps, runs=RUNS, seed=int(s), w0=w0, progress=False
            )
            for s in seeds
        ]
        diverged += sum(run.diverged for run in runs)
        return np.array([run.mse for run in runs]) - config.noise

    # until what is left of the start is a hundredth of it
    long = adaptive.predict_lms(problem, mu=mu, steps=math.ceil(4 * slowest) + 10)
    over = long.excess > long.emse + LEFT * long.excess[0]
    end = max(int(np.flatnonzero(over)[-1]) + 1, WINDOWS)
    curve = long.excess[:end]
    observed = groups(end, np.zeros(config.taps), 0)
    with np.errstate(over="ignore", invalid="ignore"):
        above = (observed - long.emse).sum(axis=1) / curve[0]
        edges = np.unique(np.geomspace(1, end, WINDOWS + 1).astype(int))
        starts = np.concatenate([[0], edges[1:-1]])
        windows = tuple(
            Ratio.of(observed[:, a:b].mean(axis=1), float(curve[a:b].mean()))
            for a, b in zip(starts, edges[1:], strict=True)
        )
        mean_curve = observed.mean(axis=0)

    # from the Wiener solution the steady state is near: the slow modes add little to it
    rise = adaptive.predict_lms(problem, mu=mu, steps=math.ceil(4 * slowest) + 10, w0=w_o).excess
    settle = int(np.argmax(rise >= 0.99 * long.emse))
    # the excess is a small part of squares that vary by sqrt(2): the smaller, the longer it takes
    wanted = 2 / (PRECISION * long.misadjustment) ** 2
    window = max(math.ceil(wanted / (RUNS * config.groups)), 2000)
    steady = groups(settle + window, w_o, 1)[:, settle:]
    with np.errstate(over="ignore", invalid="ignore"):
        emse = steady.mean(axis=1)
    return Cell(
        name="white" if spread == 1 else f"AR({order})",
        spread=spread,
        fraction=fraction,
        kind=kind,
        time=Ratio.of(above, float((curve - long.emse).sum() / curve[0])),
        misadjustment=Ratio.of(emse / config.noise, long.misadjustment),
        windows=windows,
        curves=(mean_curve, curve),
        diverged=diverged,
    )


def grid(config: Config) -> list[Cell]:
    """Every cell: by process, step size and kind of regressors."""
    processes = [(1, 1.0), *((order, spread) for spread in config.spreads for order in (1, 2))]
    places = [
        (order, spread, fraction, kind)
        for order, spread in processes
        for fraction in config.fractions
        for kind in KINDS
    ]
    return [
        measure(*place, config, 1000 * config.seed + number) for number, place in enumerate(places)
    ]


# --- judging ---------------------------------------------------------------------------------


def half_width(cells: Sequence[Cell], groups: int) -> float:
    """k: by Bonferroni's inequality, over all comparisons of all cells."""
    count = sum(len(cell.ratios) for cell in cells)
    return float(scipy.stats.t.isf(FALSE_ALARM / (2 * count), groups - 1))


def checks_of(cells: Sequence[Cell], config: Config) -> list[Check]:
    """Theory where it is exact, then the delay line at the smallest step."""
    k = half_width(cells, config.groups)
    exact = [cell for cell in cells if cell.kind == "independent"]
    largest = {
        "learning time": max(abs(cell.time.z) for cell in exact),
        "learning curve": max(abs(cell.curve_z) for cell in exact),
        "misadjustment": max(abs(cell.misadjustment.z) for cell in exact),
    }
    checks = [
        results.at_most(
            f"independent regressors: {name}, largest deviation from theory",
            z,
            k,
            unit="standard errors",
            note=f"Of {len(exact)} processes and step sizes",
        )
        for name, z in largest.items()
    ]
    for cell in cells:
        if cell.kind == "delay line" and cell.fraction == config.fractions[0]:
            where = f"delay line, {described(cell)}"
            checks.append(_near(f"{where}: learning time over theory's", cell.time, k))
            checks.append(_near(f"{where}: misadjustment over theory's", cell.misadjustment, k))
    return checks


def described(cell: Cell) -> str:
    """The process in words."""
    return cell.name if cell.spread == 1 else f"{cell.name} of spread {cell.spread:g}"


def _near(name: str, ratio: Ratio, k: float) -> Check:
    low, high = ratio.mean - k * ratio.error, ratio.mean + k * ratio.error
    verdict: Verdict = "inconclusive"
    if low >= 1 - NEAR and high <= 1 + NEAR:
        verdict = "holds"
    elif low > 1 + NEAR or high < 1 - NEAR or not math.isfinite(ratio.mean):
        verdict = "fails"
    return Check(
        name=name,
        predicted=1.0,
        observed=ratio.mean,
        tolerance=NEAR,
        verdict=verdict,
        rule="the interval of k standard errors lies within the tolerance",
        unit="ratio",
        note=f"Between {report.number(low, 3)} and {report.number(high, 3)}",
    )


# --- the report ------------------------------------------------------------------------------

FIGURE = (
    "Left and middle: excess MSE of AR(1) input over its start at the smallest and the largest "
    "step, against the updates; thick and pale, the delay line, the mean of all runs in short "
    "windows; thin, theory. Right: learning time over theory's against the eigenvalue spread; bars "
    "of one standard error; filled, delay line; open, independent regressors; side by side for "
    "the eye. An arrow stands for what lies beyond the frame or for a mean that few runs carry.",
    "Three panels on log axes: learning curves with theory at a small and a large step, and "
    "observed over predicted learning time against spread.",
)
COLOURS = (figures.GREY, figures.BLUE, figures.GREEN, figures.ORANGE, figures.PURPLE)
TOP = 2.0


def smooth(values: Array, points: int = 60) -> tuple[Array, Array]:
    """Means in windows of growing length: their middles and the means."""
    edges = np.unique(np.concatenate([[0], np.geomspace(1, len(values), points).astype(int)]))
    pairs = list(itertools.pairwise(edges))
    middles = np.array([(a + b + 1) / 2 for a, b in pairs])
    return middles, np.array([values[a:b].mean() for a, b in pairs])


def plot_curves(cells: Sequence[Cell], fraction: float, ax: Axes) -> list[Artist]:
    """Learning curves of white and AR(1) input on the delay line at one step size."""
    artists: list[Artist] = []
    chosen = [
        cell
        for cell in cells
        if cell.kind == "delay line" and cell.fraction == fraction and cell.name != "AR(2)"
    ]
    for cell, colour in zip(chosen, COLOURS, strict=False):
        observed, predicted = cell.curves
        with np.errstate(over="ignore", invalid="ignore"):
            x, y = smooth(np.where(np.isfinite(observed), observed, np.nan) / predicted[0])
        artists += ax.loglog(x, np.where(y > 0, y, np.nan), color=colour, alpha=0.45, linewidth=4)
        x, y = smooth(predicted / predicted[0])
        artists += ax.loglog(x, y, color=colour, linewidth=1.2, label=f"spread {cell.spread:g}")
    ax.set(
        title=f"{fraction:g} of the mean-square bound",
        xlabel="updates",
        ylabel="excess MSE over its start",
        ylim=(LEFT / 2, 20),
    )
    ax.legend(loc="lower left")
    return artists


def plot_times(cells: Sequence[Cell], fractions: Sequence[float], ax: Axes) -> list[Artist]:
    """Learning time over theory's against the spread."""
    artists: list[Artist] = [ax.axhline(1, color="black", linewidth=0.8)]
    for i, (fraction, colour) in enumerate(zip(fractions, COLOURS[1:], strict=False)):
        aside = 1.25 ** (i - 1)  # what lies on the same spread stands side by side
        for kind, filled, shift in (
            ("delay line", colour, aside),
            ("independent", "none", 1.1 * aside),
        ):
            chosen = [c for c in cells if c.kind == kind and c.fraction == fraction]
            shown = [c for c in chosen if c.time.settled and c.time.mean <= TOP]
            line, _, bars = ax.errorbar(
                [c.spread * shift for c in shown],
                [c.time.mean for c in shown],
                [c.time.error for c in shown],
                fmt="o",
                color=colour,
                markerfacecolor=filled,
                markersize=5,
                linewidth=1.2,
                label=f"{fraction:g} of the bound" if kind == "delay line" else None,
            )
            artists += [line, *bars]
            away = [c.spread * shift for c in chosen if c not in shown]
            if away:
                height = [TOP - 0.05] * len(away)
                artists += ax.plot(away, height, "^", color=colour, markersize=7)
    ax.set_xscale("log")
    ax.set(
        title="learning time",
        xlabel="eigenvalue spread",
        ylabel="observed / predicted",
        ylim=(0.5, TOP),
    )
    ax.legend(loc="lower left")
    return artists


def draw(cells: Sequence[Cell], config: Config, out: Path) -> report.Picture:
    """The figure ``lms-spread`` as PNG and SVG in a folder."""
    with figures.style():
        figure, axes = figures.panels(3, height=3.7, width=11)
        plot_curves(cells, config.fractions[0], axes[0])
        plot_curves(cells, config.fractions[-1], axes[1])
        plot_times(cells, config.fractions, axes[2])
        png, _ = figures.save(figure, out / "lms-spread")
    return report.Picture(png, *FIGURE)


COLUMNS = (
    "input, regressors",
    "mu / bound",
    "learning time, theory",
    "observed / theory",
    "misadjustment, theory",
    "observed / theory ",
    "curve, largest z",
    "diverged",
)


def _shown(ratio: Ratio) -> str:
    if not ratio.settled:
        return "no mean"
    return f"{report.number(ratio.mean, 3)} ± {ratio.error:.1g}"


def cell_rows(cells: Sequence[Cell]) -> list[list[str]]:
    """One line per cell."""
    return [
        [
            f"{described(cell)}, {cell.kind}",
            f"{cell.fraction:g}",
            report.number(cell.time.predicted, 3),
            _shown(cell.time),
            report.number(cell.misadjustment.predicted, 3),
            _shown(cell.misadjustment),
            report.number(cell.curve_z, 2),
            str(cell.diverged),
        ]
        for cell in cells
    ]


def evidence_against(cells: Sequence[Cell], config: Config) -> list[str]:
    """Where independence theory leaves the observation on the delay line."""
    k = half_width(cells, config.groups)
    sentences = []
    for fraction in config.fractions:
        lines = [c for c in cells if c.kind == "delay line" and c.fraction == fraction]
        lost = [described(c) for c in lines if not (c.time.settled and c.misadjustment.settled)]
        off = [
            f"{described(c)} ({word} {report.number(ratio.mean, 3)} of theory's)"
            for c in lines
            for word, ratio in (("time", c.time), ("misadjustment", c.misadjustment))
            if ratio.settled and abs(ratio.z) > k
        ]
        curves = sum(abs(c.curve_z) > k for c in lines)
        parts = [f"the curve leaves theory by more than k = {k:.2g} standard errors in {curves} "
                 f"of {len(lines)} inputs"]  # fmt: skip
        if off:
            parts.append("settled and off: " + ", ".join(off))
        if lost:
            parts.append("so few runs carry the mean that it does not settle: " + ", ".join(lost))
        sentences.append(f"Delay line at {fraction:g} of the bound: " + "; ".join(parts) + ".")
    return sentences


def run(
    config: Config,
    out: str | Path,
    *,
    device: str = "auto",
    command: str | None = None,
) -> Summary:
    """Run the study and leave its results in a folder; it needs neither images nor a network.

    Parameters, returns and errors are those of ``studies.engine.single_run.single_run``.
    """

    def work(folder: Path, _: object, __: Summary) -> Findings:
        cells = grid(config)
        checks = checks_of(cells, config)
        about = (
            "Learning time in updates: the area under the excess MSE above its steady state, over "
            "its start. One standard error after the sign, from groups of runs; no mean: it is "
            "above a quarter of the mean, so that a few runs carry it. z: the window of the "
            "learning curve that is farthest from theory, in standard errors; k is "
            f"{half_width(cells, config.groups):.3g}."
        )
        return Findings(
            checks,
            results.worst(check.verdict for check in checks),
            [Table("Every input and step size", COLUMNS, cell_rows(cells), [about])],
            draw(cells, config, folder),
            evidence_against(cells, config),
        )

    return single_run(
        "lms-spread",
        config,
        out,
        work,
        title="LMS over the eigenvalue spread",
        question=STUDIES["lms-spread"].question,
        experiment=EXPERIMENT,
        rule=RULE,
        device=device,
        command=command,
    )
