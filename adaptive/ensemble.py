"""Seeded Monte Carlo ensembles: the same bits for any number of threads.

Runs go through the kernels in groups of ``LANES``, one SIMD lane each; groups go to threads, and
their sums are merged in the order of the groups. Nothing is kept per run, so memory does not grow
with their number.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from adaptive import _kernels
from adaptive import checks as _checks
from adaptive.algorithms import Algorithm, named
from adaptive.checks import Array
from adaptive.regressors import Regressors
from adaptive.results import Ensemble
from adaptive.signals import Scenario
from adaptive.streaming import AdaptiveFilter

GROUP = _kernels.LANES  # runs per task
OCTAVES, PER_OCTAVE = 128, 8  # of the histogram behind the quantiles


def simulate(
    scenario: Scenario,
    algorithm: Algorithm | str = "lms",
    *,
    steps: int,
    runs: int,
    seed: int,
    mu: float | None = None,
    w0: ArrayLike | None = None,
    record: int = 1,
    quantiles: Iterable[float] = (),
    threads: int | None = None,
    resume: Ensemble | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Ensemble:
    """Run an algorithm many times on fresh draws of a scenario, and average.

    Parameters
    ----------
    scenario : what to draw, such as ``SystemIdentification``.
    algorithm : such as ``NLMS(mu=0.5)``, or the name of one, such as "nlms", whose settings are
        then given here. Regularisation left out takes the same part of the scenario's true input
        power as a run takes of the measured one.
    steps : samples per run.
    runs : number of runs, at least 2.
    seed : of the SeedSequence from which each run takes a child, so that run i is the same whatever
        the number of runs and threads.
    mu, **options : settings of an algorithm given by name; RLS has no mu.
    w0 : initial weights, (L,); zeros when None.
    record : updates between two rows of the mean weights.
    quantiles : levels in (0, 1) of |e(n)|^2 to keep, such as (0.5, 0.9): near the edge of stability
        errors are heavy-tailed and the mean of few runs says little. From a histogram of bins 1/8
        octave wide, so good to 4.5 %.
    threads : None uses every core.
    resume : an earlier ensemble of the same call with fewer runs, whose runs are not run again. The
        result is the same to the last bit as one call's if the earlier runs were a multiple of 32.
    progress : None shows a bar on a terminal after two seconds, if tqdm is installed.

    Returns
    -------
    Ensemble

    Raises
    ------
    TypeError, ValueError : unknown algorithm, settings it refuses, a step size that is not one
        number, or an ensemble to resume that was made with other arguments.

    Notes
    -----
    A scenario's draws are stationary from the first sample on: its delay lines hold the true past.
    Algorithms that normalise by running powers hear the input for a while before they learn from
    it, so that these are no transient either. Affine projection begins without earlier samples to
    project on.

    Examples
    --------
    >>> from adaptive import LMS, SystemIdentification, white
    >>> scenario = SystemIdentification(white(taps=2), w_o=[1.0, -0.5], noise_power=0.01)
    >>> ensemble = simulate(scenario, LMS(mu=0.1), steps=100, runs=50, seed=1)
    >>> ensemble.mse.shape, ensemble.mean_weights.shape
    ((100,), (101, 2))
    >>> more = simulate(scenario, LMS(mu=0.1), steps=100, runs=80, seed=1, resume=ensemble)
    >>> more.runs
    80
    """
    if not callable(getattr(scenario, "draw", None)):
        raise TypeError(
            "scenario must be one to draw from, such as SystemIdentification; "
            f"got {_checks.shown(scenario)}"
        )
    steps = _checks.count("steps", steps)
    runs = _checks.count("runs", runs, least=2)
    seed = _checks.seed("seed", seed)
    record = _checks.count("record", record)
    workers = _checks.count("threads", os.cpu_count() or 1 if threads is None else threads)
    if progress is not None:
        progress = _checks.flag("progress", progress)
    asked = _checks.items("quantiles", quantiles, "levels")
    levels = tuple(_checks.quantile("quantiles", q) for q in asked)
    chosen = _chosen(scenario, algorithm, mu, options)
    step = float(chosen.step_size) if chosen.has_step_size() else float("nan")  # type: ignore[arg-type]
    settings = {name: getattr(chosen, name) for name in chosen.settings()}
    if w0 is not None:
        settings["w0"] = np.asarray(w0).tolist()
    described = {"algorithm": chosen.name, "mu": step, "steps": steps, "seed": seed}
    described |= {"record": record, "options": settings, "quantiles": sorted(levels)}
    total = _resumed(resume, described, runs)
    if total is None:
        total = Sums.zero(scenario, steps, record, levels)
    first = total.runs

    before = chosen.warm_up(_line_length(scenario))

    def task(start: int) -> Sums:
        draws = []
        for i in range(start, min(start + GROUP, runs)):
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i,)))
            draws.append(scenario.draw(rng, before + steps))
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            return _group(AdaptiveFilter(chosen, w0=w0), draws, total.like(), record, before)

    starts = range(first, runs, GROUP)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for part in _progress(_in_order(task, starts, workers), len(starts), progress):
            total.merge(part)
        return Ensemble(
            algorithm=chosen.name,
            mu=step,
            steps=steps,
            runs=runs,
            seed=seed,
            mse=_finite_or_inf(total.square.mean),
            mse_se=_finite_or_inf(total.square.standard_error(runs)),
            mean_weights=_finite_or_inf(total.weights.mean),
            mean_weights_se=_finite_or_inf(total.weights.standard_error(runs)),
            diverged=total.diverged,
            record=record,
            quantiles={q: total.quantile(q) for q in levels},
            options=settings,
            samples_per_update=chosen.samples_per_update,
            sums=(described, total),
        )


@dataclass
class Moments:
    """Mean and sum of squared deviations, merged pairwise (Chan, Golub and LeVeque 1983)."""

    mean: Array
    squares: Array

    def merge(self, other: Moments, before: int, more: int) -> None:
        """Take in ``other``, of ``more`` runs, after ``before`` runs."""
        delta = other.mean - self.mean
        self.mean = self.mean + delta * (more / (before + more))
        cross = np.abs(delta) ** 2 * (before * more / (before + more))
        self.squares = self.squares + other.squares + cross

    def standard_error(self, runs: int) -> Array:
        """Standard error of the mean over ``runs`` runs."""
        error: Array = np.sqrt(self.squares / (runs * (runs - 1)))
        return error


@dataclass
class Sums:
    """Running sums over a group of runs."""

    square: Moments
    weights: Moments
    counts: Array  # (steps, bins) histogram of |e|^2 over log2, empty where not asked for
    lowest: float  # log2 of its lower end
    runs: int = 0
    diverged: int = 0

    @classmethod
    def zero(cls, scenario: Scenario, steps: int, record: int, levels: tuple[float, ...]) -> Sums:
        """Empty sums."""
        problem = scenario.problem
        rows = (steps // record + 1, problem.taps)
        bins = OCTAVES * PER_OCTAVE if levels else 0
        # from 2^-48 of the desired response's power to 2^80 of it
        lowest = np.floor(np.log2(problem.d_power)) - 48 if problem.d_power > 0 else -64.0
        return cls(
            Moments(np.zeros(steps), np.zeros(steps)),
            Moments(np.zeros(rows, problem.w_o.dtype), np.zeros(rows)),
            np.zeros((steps, bins), np.int32),
            float(lowest),
        )

    def like(self) -> Sums:
        """Empty sums of the same shape."""
        return Sums(
            Moments(np.zeros_like(self.square.mean), np.zeros_like(self.square.squares)),
            Moments(np.zeros_like(self.weights.mean), np.zeros_like(self.weights.squares)),
            np.zeros_like(self.counts),
            self.lowest,
        )

    def merge(self, other: Sums) -> None:
        """Take in a later group."""
        self.square.merge(other.square, self.runs, other.runs)
        self.weights.merge(other.weights, self.runs, other.runs)
        self.counts += other.counts
        self.runs += other.runs
        self.diverged += other.diverged

    def add_squares(self, squares: Array) -> None:
        """Count |e|^2 of some runs, (steps, runs), in the histogram."""
        if not self.counts.size:
            return
        with np.errstate(divide="ignore"):
            octave = np.log2(squares) - self.lowest
        bins = np.clip(
            np.nan_to_num(octave * PER_OCTAVE, nan=np.inf), 0, OCTAVES * PER_OCTAVE - 1
        ).astype(int)
        steps = np.broadcast_to(np.arange(squares.shape[0])[:, None], bins.shape)
        np.add.at(self.counts, (steps, bins), 1)

    def quantile(self, level: float) -> Array:
        """(steps,) quantile of |e(n)|^2, interpolated inside its bin."""
        below = np.cumsum(self.counts, axis=1)
        target = level * self.runs
        index = np.argmax(below >= target, axis=1)
        rows = np.arange(index.size)
        inside = self.counts[rows, index]
        part = (target - (below[rows, index] - inside)) / inside
        values: Array = 2.0 ** (self.lowest + (index + part) / PER_OCTAVE)
        values[index == OCTAVES * PER_OCTAVE - 1] = np.inf
        return values


def _group(
    filter_: AdaptiveFilter,
    draws: list[tuple[Regressors, Array]],
    sums: Sums,
    record: int,
    before: int,
) -> Sums:
    """Run a group side by side where the algorithm has a kernel for that, else one by one."""
    sums.runs = len(draws)
    run = filter_.run_together(draws, record, before)
    if run is not None:
        _kernels.squared_error_moments(run.error, sums.runs, sums.square.mean, sums.square.squares)
        sums.weights = Moments(run.mean, run.squares)
        sums.diverged = int(np.count_nonzero(run.stops >= 0))
        if sums.counts.size:
            sums.add_squares(run.error[:, : sums.runs] ** 2)
        return sums
    for i, (lines, d) in enumerate(draws):
        filter_.reset()
        single = filter_.run_lines([lines], d, record, before=before)
        assert single.history is not None
        square = np.abs(single.error) ** 2
        sums.square.merge(Moments(square, np.zeros(square.shape)), i, 1)
        sums.weights.merge(Moments(single.history, np.zeros(single.history.shape)), i, 1)
        sums.diverged += single.diverged_at is not None
        sums.add_squares(square[:, None])
    return sums


def _line_length(scenario: Scenario) -> int:
    """Taps of each channel's delay line; 1 for regressors without one."""
    lines, _ = scenario.draw(np.random.default_rng(0), 1)
    return lines.taps // lines.hop


def _chosen(
    scenario: Scenario, algorithm: Algorithm | str, mu: float | None, options: dict[str, Any]
) -> Algorithm:
    """The algorithm as a value, regularised by the scenario's true input power."""
    if isinstance(algorithm, str):
        algorithm = named(algorithm, mu=mu, **options)
    elif not isinstance(algorithm, Algorithm):
        raise TypeError(
            "algorithm must be an algorithm, such as NLMS(mu=0.5), or its name; "
            f"got {_checks.shown(algorithm)}"
        )
    elif mu is not None or options:
        given = ", ".join(["mu"] * (mu is not None) + list(options))
        raise TypeError(f"{given} must be left out where algorithm is a value, which holds them")
    if algorithm.has_step_size():
        algorithm = algorithm.with_mu(algorithm.constant_mu)
    problem = scenario.problem
    return algorithm.regularised(float(np.trace(problem.R).real) / problem.taps, problem.taps)


def _resumed(ensemble: Ensemble | None, described: dict[str, Any], runs: int) -> Sums | None:
    """The sums of an earlier ensemble, if it is the beginning of this one."""
    if ensemble is None:
        return None
    before, sums = _checks.instance("resume", ensemble, Ensemble).sums
    for name, value in described.items():
        if not _same(before[name], value):
            raise ValueError(
                f"resume must be an ensemble of the same {name}, {value}; got {before[name]}"
            )
    if ensemble.runs > runs:
        raise ValueError(f"runs must be at least the {ensemble.runs} of resume; got {runs}")
    return copy.deepcopy(sums)


def _same(a: object, b: object) -> bool:
    return a == b or (a != a and b != b)


def _in_order(task: Callable[[int], Sums], starts: range, workers: int) -> Iterator[Sums]:
    """Results in the order of their runs, not of completion: the same bits every time.

    Two tasks a thread are in flight: enough to keep all busy, few enough to bound the memory.
    """
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(task, s) for s in starts[: 2 * workers]]
        for i in range(len(starts)):
            ready = waiting.pop(0)
            if i + 2 * workers < len(starts):
                waiting.append(pool.submit(task, starts[i + 2 * workers]))
            yield ready.result()


def _progress(parts: Iterator[Sums], count: int, show: bool | None) -> Iterable[Sums]:
    """A bar, if wanted and tqdm is there."""
    if show is False:
        return parts
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return parts
    bar: Iterable[Sums] = tqdm(
        parts, total=count, desc="runs / 32", delay=2, disable=None if show is None else not show
    )
    return bar


def _finite_or_inf(a: Array) -> Array:
    """After a divergence the mean over all runs is infinite, not unknown."""
    return np.where(np.isfinite(a), a, np.inf)
