"""Learning curve of a one-step predictor: simulation, theory, and where the theory is off.

    python docs/gallery/predictor.py predictor.png

Haykin's experiment with one tap on an AR(1) process, here x(n) = 0.5 x(n-1) + g(n). The curve
settles where independence theory says, J_min (1 + M), although the mean weight does not: a delay
line's neighbouring regressors share samples, which biases it by about mu.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import adaptive

A, MUS, STEPS, RUNS = 0.5, (0.02, 0.1), 300, 8000


def main(path: str) -> None:
    """Simulate, check, draw."""
    scenario = adaptive.scenarios.Prediction(adaptive.AutoRegressive([A], taps=1))
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, mu in zip(("C0", "C1"), MUS, strict=True):
        run = adaptive.simulate(scenario, mu=mu, steps=STEPS, runs=RUNS, seed=0)
        theory = adaptive.predict_lms(scenario.problem, mu=mu, steps=STEPS)

        # the claims of the figure
        settled = run.mse[-100:].mean()
        assert abs(settled / theory.mse_final - 1) < 0.01
        bias = A - run.mean_weights[-100:, 0].mean()
        assert abs(bias / mu - 1) < 0.25, bias

        left.plot(10 * np.log10(run.mse), colour, lw=0.8, alpha=0.6)
        left.plot(10 * np.log10(theory.mse), "k--", lw=1.2)
        right.plot(run.mean_weights[:, 0], colour, label=f"simulated, µ = {mu}")
        right.plot(theory.weights[:, 0], "k--", lw=1.2)
    left.axhline(10 * np.log10(scenario.problem.J_min), color="0.6", lw=1)
    left.set(xlabel="sample n", ylabel="E|e(n)|², dB", title="Mean-square error")
    left.annotate("J_min", (STEPS, 10 * np.log10(scenario.problem.J_min)), (0, -12),
                  textcoords="offset points", ha="right", color="0.4")  # fmt: skip
    right.axhline(A, color="0.6", lw=1)
    right.plot([], [], "k--", lw=1.2, label="independence theory")
    right.set(xlabel="sample n", ylabel="E[w(n)]", title="Mean weight; Wiener solution 0.5")
    right.legend(loc="lower right")
    figure.suptitle(f"One-step prediction of an AR(1) process, a = {A}, {RUNS:,} runs")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "predictor.png")
