"""Measures what the independence assumption costs on a delay line: the table in theory.md.

    python docs/scripts/delay_line_table.py              minutes on two cores
    python docs/scripts/delay_line_table.py --runs 10    a rough table in seconds

LMS identifies a system through an AR(1) signal x(n) = a x(n-1) + g(n). Regressors of a delay line
share L - 1 of their L samples with their neighbours, which the theory neglects. Every cell compares
``adaptive.predict_lms`` with ``adaptive.simulate``:

* steady state: EMSE of runs that start at w_o, after four time constants of the slowest mode;
* learning: summed excess MSE of runs that start at zero, until the theory's has fallen by 20 dB.

Both are given as (measured / predicted - 1) in percent, with one standard error over ten groups
of runs. "no mean": few runs carry the average, so that it does not settle; see ``percent``.
"""

from __future__ import annotations

import argparse

import numpy as np

import adaptive

GROUPS = 10
NOISE = 1e-3


def excess(scenario, *, mu, steps, runs, seed, w0):
    """(GROUPS, steps) excess MSE in independent groups of runs, and the number that diverged."""
    groups = [
        adaptive.simulate(scenario, mu=mu, steps=steps, runs=runs, seed=GROUPS * seed + g, w0=w0)
        for g in range(GROUPS)
    ]
    return np.array([g.mse for g in groups]) - NOISE, sum(g.diverged for g in groups)


def percent(ratios):
    """Error in percent with its standard error; where few runs carry the mean, only the median.

    A standard error above a quarter of the mean says that more runs would find a larger mean: the
    second moment grows although the theory has it converge.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        mean, se = ratios.mean(), ratios.std(ddof=1) / GROUPS**0.5
    if not se < 0.25 * abs(mean):
        return f"no mean (median {100 * (np.median(ratios) - 1):+.2g})"
    return f"{100 * (mean - 1):+.1f} ± {100 * se:.1f}"


def cell(a, taps, fraction, runs, seed):
    """One row of the table."""
    rng = np.random.default_rng(taps)
    source = adaptive.AutoRegressive([a], taps=taps)
    w_o = rng.standard_normal(taps)
    w_o /= np.sqrt(w_o @ source.R @ w_o)  # d has power 1 without the noise
    scenario = adaptive.SystemIdentification(source, w_o=w_o, noise_power=NOISE)
    mu = fraction * adaptive.stability_bounds(source.R).mean_square_real
    theory = {"problem": scenario.problem, "mu": mu}

    settle = int(np.ceil(4 / (2 * mu * scenario.problem.modes.eigenvalues[0])))
    window = max(2 * settle, 2000)
    measured, lost = excess(scenario, mu=mu, steps=settle + window, runs=runs, seed=seed, w0=w_o)
    curve = adaptive.predict_lms(**theory, steps=1)
    steady = measured[:, settle:].mean(axis=1) / curve.emse

    curve = adaptive.predict_lms(**theory, steps=settle)
    fallen = np.flatnonzero(curve.excess < 0.01 * curve.excess[0] + curve.emse)
    end = int(fallen[0]) if fallen.size else settle
    measured, also_lost = excess(
        scenario, mu=mu, steps=end, runs=runs, seed=seed + 1000, w0=np.zeros(taps)
    )
    learning = measured.sum(axis=1) / curve.excess[:end].sum()
    lost += also_lost
    return f"| {a:g} | {taps} | {fraction:g} | {percent(steady)} | {percent(learning)} | {lost} |"


def main():
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="runs in each of the ten groups")
    runs = parser.parse_args().runs
    print("| a | taps | mu / mean_square_real | EMSE, % | learning, % | diverged |", flush=True)
    print("|---|---|---|---|---|---|")
    seed = 0
    for a in (0.0, 0.5, 0.9):
        for taps in (4, 16, 64):
            for fraction in (0.1, 0.3, 0.6):
                print(cell(a, taps, fraction, runs, seed), flush=True)
                seed += 1


if __name__ == "__main__":
    main()
