"""Choosing mu: a small step is slow, a large one noisy, and theory has the trade.

    python docs/gallery/choosing_mu.py choosing_mu.png

For every step size, theory gives the samples until the error is within 1 dB of its floor, and the
floor itself. Points are 400 simulated runs each.
"""

import sys

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

import adaptive

TAPS, FLOOR_DB = 16, 1.0


def main(path: str) -> None:
    """Run, check, draw."""
    source = adaptive.GaussianRegressors(adaptive.AutoRegressive([0.5], taps=TAPS).R)
    scenario = adaptive.SystemIdentification(source, w_o=np.ones(TAPS), noise_power=0.1)
    edge = adaptive.stability_bounds(scenario.problem.R).mean_square_real
    steps = 6000
    theory = []
    mus = edge * np.geomspace(0.02, 0.6, 12)
    for mu in mus:
        curve = adaptive.predict_lms(scenario.problem, mu=mu, steps=steps)
        theory.append((adaptive.measures.time_to(curve, dB=FLOOR_DB), curve.misadjustment))
    seen = []
    for mu in mus[1::4]:
        runs = adaptive.simulate(scenario, mu=mu, steps=3000, runs=400, seed=1)
        floor = runs.mse[-500:].mean() / scenario.problem.J_min - 1
        seen.append((mu, adaptive.measures.time_to(runs, dB=FLOOR_DB, window=20), floor))
    times, misadjustment = np.array(theory, float).T
    mu_seen, time_seen, floor_seen = np.array(seen, float).T

    # the claims of the figure
    assert np.all(np.diff(misadjustment) > 0)
    assert times[0] > 3 * times.min()
    np.testing.assert_allclose(1 + floor_seen, 1 + misadjustment[1::4], rtol=0.02)

    figure = Figure(figsize=(8.5, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.loglog(mus / edge, times, "k-", label="theory")
    left.loglog(mu_seen / edge, time_seen, "o", label="400 runs")
    left.set(xlabel="mu as part of the mean-square bound", ylabel="samples to 1 dB above the floor")
    right.loglog(mus / edge, 100 * misadjustment, "k-", label="theory")
    right.loglog(mu_seen / edge, 100 * floor_seen, "o", label="400 runs")
    right.set(xlabel="mu as part of the mean-square bound", ylabel="misadjustment, %")
    for ax in (left, right):
        ax.xaxis.set_major_locator(FixedLocator([0.02, 0.05, 0.1, 0.2, 0.5]))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.legend()
    left.yaxis.set_major_locator(FixedLocator([100, 200, 500, 1000]))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_locator(NullLocator())
    figure.suptitle("Speed is paid for in steady-state error")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "choosing_mu.png")
