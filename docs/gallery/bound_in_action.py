"""The bound in action: just below it the error falls, just above it grows.

    python docs/gallery/bound_in_action.py bound_in_action.png

The mean-square bound of LMS for independent Gaussian regressors, and the same 2,000 runs at 0.8
and at 1.3 times it. The bound on the mean, 2 / lambda_max, is more than three times as high: it
is not enough.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import adaptive

TAPS, STEPS = 8, 120


def main(path: str) -> None:
    """Run, check, draw."""
    source = adaptive.GaussianRegressors(adaptive.AutoRegressive([0.5], taps=TAPS).R)
    scenario = adaptive.SystemIdentification(source, w_o=np.ones(TAPS), noise_power=0.01)
    bounds = adaptive.stability_bounds(scenario.problem.R)
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    ax = figure.subplots()
    last = {}
    for factor, colour in ((0.8, "C0"), (1.3, "C3")):
        mu = factor * bounds.mean_square_real
        runs = adaptive.simulate(scenario, mu=mu, steps=STEPS, runs=2000, seed=0, quantiles=(0.5,))
        curve = adaptive.predict_lms(scenario.problem, mu=mu, steps=STEPS)
        label = f"{factor} of the bound"
        ax.semilogy(runs.mse, color=colour, lw=0.8, label=f"{label}: mean of 2,000 runs")
        ax.semilogy(runs.quantiles[0.5], ":", color=colour, lw=1, label=f"{label}: median")
        ax.semilogy(curve.J_min + curve.excess, "--", color=colour, label=f"{label}: theory")
        assert curve.stable == (factor < 1)
        last[factor] = (runs.mse[-20:].mean(), curve.excess[-1])

    # the claims of the figure
    assert last[0.8][0] < 3
    assert last[1.3][1] > 1e3
    assert bounds.mean > 3 * bounds.mean_square_real

    ax.set(xlabel="sample n", ylabel="squared error", xlim=(0, STEPS), ylim=(1e-3, 1e7))
    ax.set_title("Above the mean-square bound the mean grows, carried by a few runs")
    ax.legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "bound_in_action.png")
