"""Predicts LMS for one process and step size, and observes it in groups of seeded runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import adaptive
from studies.related.lms_spread import LEFT, RUNS, Cell

__all__ = ["equal_shares", "measure"]

Array = np.ndarray

WINDOWS = 8
PRECISION = 0.01  # of the misadjustment, one standard error, roughly


def equal_shares(R: Array, rng: np.random.Generator) -> Array:
    """(L,) weights w with w'Rw = 1, to which every mode of R adds 1 / L."""
    values, vectors = np.linalg.eigh(R)
    signs = rng.choice([-1.0, 1.0], len(values))
    w: Array = vectors @ (signs / np.sqrt(len(values) * values))
    return w


def measure(cell: Cell) -> dict[str, Any]:
    """Predict and observe one cell.

    Returns
    -------
    dict with ``time``, ``misadjustment`` and ``windows``, each with ``observed``, one number per
    group of runs, and ``predicted`` (of ``windows`` (W, groups) and (W,)); ``curves``, the observed
    excess MSE, mean of all groups, and the predicted one; ``diverged``, runs that left the finite
    numbers.
    """
    source = adaptive.AutoRegressive.with_spread(cell.spread, taps=cell.taps, order=cell.order)
    R = source.R
    w_o = equal_shares(R, np.random.default_rng([cell.system_seed, cell.order, round(cell.spread)]))
    regressors = adaptive.GaussianRegressors(R) if cell.kind == "independent" else source
    scenario = adaptive.SystemIdentification(regressors, w_o=w_o, noise_power=cell.noise)
    mu = cell.fraction * adaptive.stability_bounds(R).mean_square_real
    problem = adaptive.WienerProblem(R=R, P=R @ w_o, d_power=float(w_o @ R @ w_o) + cell.noise)
    steps = math.ceil(4 / (2 * mu * float(np.linalg.eigvalsh(R)[0]))) + 10

    # until what is left of the start is a hundredth of it
    long = adaptive.predict_lms(problem, mu=mu, steps=steps)
    over = long.excess > long.emse + LEFT * long.excess[0]
    end = max(int(np.flatnonzero(over)[-1]) + 1, WINDOWS)
    curve = long.excess[:end]
    observed, diverged = _groups(cell, scenario, mu, end, np.zeros(cell.taps), 0)

    # from the Wiener solution the steady state is near: the slow modes add little to it
    rise = adaptive.predict_lms(problem, mu=mu, steps=steps, w0=w_o).excess
    settle = int(np.argmax(rise >= 0.99 * long.emse))
    # the excess is a small part of squares that vary by sqrt(2): the smaller, the longer it takes
    wanted = 2 / (PRECISION * long.misadjustment) ** 2
    window = max(math.ceil(wanted / (RUNS * cell.groups)), 2000)
    steady, lost = _groups(cell, scenario, mu, settle + window, w_o, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        return {
            **_learning(observed, curve, long.emse),
            "misadjustment": {
                "observed": steady[:, settle:].mean(axis=1) / cell.noise,
                "predicted": long.misadjustment,
            },
            "diverged": diverged + lost,
        }


def _groups(
    cell: Cell,
    scenario: adaptive.SystemIdentification,
    mu: float,
    steps: int,
    w0: Array,
    number: int,
) -> tuple[Array, int]:
    """(groups, steps) excess MSE, each the mean of 32 runs, and how many runs diverged."""
    seeds = np.random.SeedSequence([cell.seed, number]).generate_state(cell.groups)
    runs = [
        adaptive.simulate(
            scenario, mu=mu, steps=steps, runs=RUNS, seed=int(s), w0=w0, progress=False
        )
        for s in seeds
    ]
    return np.array([run.mse for run in runs]) - cell.noise, sum(run.diverged for run in runs)


def _learning(observed: Array, curve: Array, emse: float) -> dict[str, Any]:
    """Learning time and learning curve of (groups, steps) excess MSE, with the predicted ones."""
    edges = np.unique(np.geomspace(1, len(curve), WINDOWS + 1).astype(int))
    windows = list(zip([0, *edges[1:-1]], edges[1:], strict=True))
    return {
        "time": {
            "observed": (observed - emse).sum(axis=1) / curve[0],
            "predicted": float((curve - emse).sum() / curve[0]),
        },
        "windows": {
            "observed": np.array([observed[:, a:b].mean(axis=1) for a, b in windows]),
            "predicted": np.array([curve[a:b].mean() for a, b in windows]),
        },
        "curves": [observed.mean(axis=0), curve],
    }
