"""Seeded Monte Carlo ensembles: the same bits for any number of threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from adaptive import _checks, streaming
from adaptive._checks import Array
from adaptive.results import Ensemble
from adaptive.signals import Scenario

RUNS_PER_TASK = 32

ALGORITHMS: dict[str, type[streaming.AdaptiveFilter]] = {
    "lms": streaming.LMS,
    "nlms": streaming.NLMS,
    "leaky_lms": streaming.LeakyLMS,
    "sign_error_lms": streaming.SignErrorLMS,
    "sign_data_lms": streaming.SignDataLMS,
    "sign_sign_lms": streaming.SignSignLMS,
    "momentum_lms": streaming.MomentumLMS,
    "block_lms": streaming.BlockLMS,
    "power_normalized_lms": streaming.PowerNormalizedLMS,
    "affine_projection": streaming.AffineProjection,
}


@dataclass
class Moments:
    """Count, mean and sum of squared deviations, merged pairwise (Chan, Golub, LeVeque 1983)."""

    count: int
    mean: Array
    squares: Array

    @classmethod
    def zero(cls, shape: tuple[int, ...], dtype: np.dtype) -> Moments:
        """Of no samples."""
        return cls(0, np.zeros(shape, dtype), np.zeros(shape))

    def merge(self, other: Moments) -> None:
        """Take in the samples of ``other``."""
        total = self.count + other.count
        delta = other.mean - self.mean
        self.mean += delta * (other.count / total)
        self.squares += other.squares + np.abs(delta) ** 2 * (self.count * other.count / total)
        self.count = total

    def add(self, sample: Array) -> None:
        """Take in one sample."""
        self.merge(Moments(1, sample, np.zeros(sample.shape)))

    @property
    def standard_error(self) -> Array:
        """Of the mean."""
        error: Array = np.sqrt(self.squares / (self.count * (self.count - 1)))
        return error


def simulate(
    scenario: Scenario,
    *,
    mu: float,
    steps: int,
    runs: int,
    seed: int,
    algorithm: str = "lms",
    w0: ArrayLike | None = None,
    threads: int | None = None,
    **options: Any,
) -> Ensemble:
    """Run an algorithm many times on fresh draws of a scenario, and average.

    Parameters
    ----------
    scenario : what to draw, such as ``SystemIdentification``.
    mu, w0, **options : as the algorithm's own function takes them.
    steps : samples per run.
    runs : number of runs, at least 2.
    seed : of the SeedSequence from which each run takes a child, so that run i is the same whatever
        the number of runs and threads.
    algorithm : name of the algorithm's function, one of ``ALGORITHMS``.
    threads : None uses every core.

    Returns
    -------
    Ensemble

    Raises
    ------
    TypeError, ValueError : unknown algorithm or arguments the algorithm refuses.

    Examples
    --------
    >>> from adaptive import SystemIdentification, white
    >>> scenario = SystemIdentification(white(taps=2), w_o=[1.0, -0.5], noise_power=0.01)
    >>> ensemble = simulate(scenario, mu=0.1, steps=100, runs=50, seed=1)
    >>> ensemble.mse.shape, ensemble.mean_weights.shape
    ((100,), (101, 2))
    """
    _checks.choice("algorithm", algorithm, tuple(ALGORITHMS))
    mu = _checks.positive("mu", mu)
    steps = _checks.count("steps", steps)
    runs = _checks.count("runs", runs, least=2)
    seed = _checks.count("seed", seed, least=0)
    workers = _checks.count("threads", threads or os.cpu_count() or 1)
    taps = scenario.problem.taps
    if algorithm == "nlms":
        options.setdefault("eps", 1e-6 * float(np.trace(scenario.problem.R).real))

    def task(first: int) -> tuple[Moments, Moments, int]:
        square = Moments.zero((steps,), np.dtype(float))
        weights = Moments.zero((steps + 1, taps), scenario.problem.w_o.dtype)
        diverged = 0
        for i in range(first, min(first + RUNS_PER_TASK, runs)):
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i,)))
            lines, d = scenario.draw(rng, steps)
            run = ALGORITHMS[algorithm](mu=mu, w0=w0, **options).run_lines(lines, d, "all")
            assert run.history is not None
            diverged += run.diverged_at is not None
            with np.errstate(over="ignore", invalid="ignore"):
                square.add(np.abs(run.error) ** 2)
                weights.add(run.history)
        return square, weights, diverged

    total = Moments.zero((steps,), np.dtype(float))
    total_weights = Moments.zero((steps + 1, taps), scenario.problem.w_o.dtype)
    total_diverged = 0
    with np.errstate(over="ignore", invalid="ignore"):
        # merged in the order of the runs, not of completion: the same bits every time
        for square, weights, diverged in _in_order(task, runs, workers):
            total.merge(square)
            total_weights.merge(weights)
            total_diverged += diverged
        return Ensemble(
            algorithm=algorithm,
            mu=mu,
            steps=steps,
            runs=runs,
            seed=seed,
            mse=_finite_or_inf(total.mean),
            mse_se=_finite_or_inf(total.standard_error),
            mean_weights=_finite_or_inf(total_weights.mean),
            mean_weights_se=_finite_or_inf(total_weights.standard_error),
            diverged=total_diverged,
        )


def _in_order(task: object, runs: int, workers: int) -> Iterator[tuple[Moments, Moments, int]]:
    """Results of the tasks in the order of their runs."""
    assert callable(task)
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(task, range(0, runs, RUNS_PER_TASK))


def _finite_or_inf(a: Array) -> Array:
    """After a divergence the mean over all runs is infinite, not unknown."""
    a[~np.isfinite(a)] = np.inf
    return a
