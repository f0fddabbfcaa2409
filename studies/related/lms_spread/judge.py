"""Judges theory against observation: exact for independent regressors, near for a delay line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy

from studies.engine.checks import Check, Verdict, at_most, inconclusive, worst
from studies.engine.protocol import Figure, Findings, Measured, Table
from studies.engine.text import number
from studies.related.lms_spread import FALSE_ALARM, NEAR, Cell, Config, Kind
from studies.related.lms_spread.figures import plot_curves, plot_times

__all__ = ["Outcome", "Ratio", "checks_of", "judge"]

Array = np.ndarray

NO_MEAN = 0.25
# standard errors; a wider limit, which few groups of runs give, can hardly be missed
WIDEST = 10.0


def judge(config: Config, measured: Sequence[Measured]) -> Findings:
    """The verdict: it holds when all checks do."""
    cells = [Outcome.of(one) for one in measured if one.error is None]
    if not any(cell.kind == "independent" for cell in cells):
        return Findings("inconclusive", reason="No cell with independent regressors was measured.")
    checks = checks_of(cells, config)
    verdict = worst(check.verdict for check in checks)
    if len(cells) < len(measured) and verdict == "holds":
        verdict = "inconclusive"
    about = (
        "Learning time in updates: the area under the excess MSE above its steady state, over "
        "its start. One standard error after the sign, from groups of runs; no mean: it is "
        "above a quarter of the mean, so that a few runs carry it. z: the window of the "
        "learning curve that is farthest from theory, in standard errors; k is "
        f"{half_width(cells, config.cell.groups):.3g}."
    )
    return Findings(
        verdict=verdict,
        checks=checks,
        tables=[Table("Every input and step size", COLUMNS, cell_rows(cells), [about])],
        answer=figure(cells, config),
        against=evidence_against(cells, config),
    )


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
class Outcome:
    """What one cell came to.

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

    @classmethod
    def of(cls, measured: Measured) -> Outcome:
        """Compare the groups of one cell with its prediction."""
        cell: Cell = measured.cell
        result = measured.result
        windows = zip(*(result["windows"][k] for k in ("observed", "predicted")), strict=True)
        return cls(
            name="white" if cell.spread == 1 else f"AR({cell.order})",
            spread=cell.spread,
            fraction=cell.fraction,
            kind=cell.kind,
            time=Ratio.of(**result["time"]),
            misadjustment=Ratio.of(**result["misadjustment"]),
            windows=tuple(Ratio.of(observed, float(predicted)) for observed, predicted in windows),
            curves=tuple(result["curves"]),
            diverged=result["diverged"],
        )

    @property
    def ratios(self) -> tuple[Ratio, ...]:
        """Everything that is compared."""
        return (self.time, self.misadjustment, *self.windows)

    @property
    def curve_z(self) -> float:
        """Largest deviation of a window of the curve, in standard errors."""
        return max((window.z for window in self.windows), key=abs)


def half_width(cells: Sequence[Outcome], groups: int) -> float:
    """k: by Bonferroni's inequality, over all comparisons of all cells."""
    count = sum(len(cell.ratios) for cell in cells)
    return float(scipy.stats.t.isf(FALSE_ALARM / (2 * count), groups - 1))


def checks_of(cells: Sequence[Outcome], config: Config) -> list[Check]:
    """Theory where it is exact, then the delay line at the smallest step."""
    k = half_width(cells, config.cell.groups)
    exact = [cell for cell in cells if cell.kind == "independent"]
    largest = {
        "learning time": max(abs(cell.time.z) for cell in exact),
        "learning curve": max(abs(cell.curve_z) for cell in exact),
        "misadjustment": max(abs(cell.misadjustment.z) for cell in exact),
    }
    checks = [
        _exactly(f"independent regressors: {name}, largest deviation from theory", z, k, len(exact))
        for name, z in largest.items()
    ]
    for cell in cells:
        if cell.kind == "delay line" and cell.fraction == config.fractions[0]:
            where = f"delay line, {described(cell)}"
            checks.append(_near(f"{where}: learning time over theory's", cell.time, k))
            checks.append(_near(f"{where}: misadjustment over theory's", cell.misadjustment, k))
    return checks


def _exactly(name: str, z: float, k: float, cells: int) -> Check:
    """A check where theory is exact; open where so few groups of runs were made that none fails."""
    if k > WIDEST and z <= k:
        reason = f"so few groups give a limit of {k:.3g} standard errors, which nothing would miss"
        return inconclusive(name, k, reason)
    note = f"Of {cells} processes and step sizes"
    return at_most(name, z, k, unit="standard errors", note=note)


def described(cell: Outcome) -> str:
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
        note=f"Between {number(low, 3)} and {number(high, 3)}",
    )


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
    return f"{number(ratio.mean, 3)} ± {ratio.error:.1g}"


def cell_rows(cells: Sequence[Outcome]) -> list[list[str]]:
    """One line per cell."""
    return [
        [
            f"{described(cell)}, {cell.kind}",
            f"{cell.fraction:g}",
            number(cell.time.predicted, 3),
            _shown(cell.time),
            number(cell.misadjustment.predicted, 3),
            _shown(cell.misadjustment),
            number(cell.curve_z, 2),
            str(cell.diverged),
        ]
        for cell in cells
    ]


def figure(cells: Sequence[Outcome], config: Config) -> Figure:
    """The figure ``lms-spread``."""
    return Figure(
        name="lms-spread",
        caption="Left and middle: excess MSE of AR(1) input over its start at the smallest and the "
        "largest step, against the updates; thick and pale, the delay line, the mean of all runs "
        "in short windows; thin, theory. Right: learning time over theory's against the "
        "eigenvalue spread; bars of one standard error; filled, delay line; open, independent "
        "regressors; shifted a little so that both can be seen. An arrow marks what lies beyond "
        "the frame or a mean that few runs carry.",
        alt="Three panels on log axes: learning curves with theory at a small and a large step, "
        "and observed over predicted learning time against spread.",
        plots=[
            partial(plot_curves, cells, config.fractions[0]),
            partial(plot_curves, cells, config.fractions[-1]),
            partial(plot_times, cells, config.fractions),
        ],
        width=11,
        height=3.7,
    )


def evidence_against(cells: Sequence[Outcome], config: Config) -> list[str]:
    """Where independence theory leaves the observation on the delay line."""
    k = half_width(cells, config.cell.groups)
    sentences = []
    for fraction in config.fractions:
        lines = [c for c in cells if c.kind == "delay line" and c.fraction == fraction]
        lost = [described(c) for c in lines if not (c.time.settled and c.misadjustment.settled)]
        off = [
            f"{described(c)} ({word} {number(ratio.mean, 3)} of theory's)"
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
