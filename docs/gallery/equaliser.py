"""Haykin's adaptive equaliser: the eigenvalue spread sets the speed.

    python docs/gallery/equaliser.py equaliser.png

Eleven taps undo a raised-cosine channel of width W in noise of power 0.001. A larger W spreads the
eigenvalues of R; the mode of the smallest one then takes long.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import adaptive

WIDTHS = {2.9: 6.0782, 3.1: 11.1238, 3.3: 21.7132, 3.5: 46.8216}  # the book's eigenvalue spreads
MU, STEPS, RUNS = 0.0075, 1500, 800


def main(path: str) -> None:
    """Simulate, check, draw."""
    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    ax = figure.subplots()
    finals = []
    for i, (W, spread) in enumerate(WIDTHS.items()):
        scenario = adaptive.scenarios.Equalisation(
            adaptive.scenarios.raised_cosine(W), taps=11, delay=7, noise_power=0.001
        )
        run = adaptive.simulate(scenario, mu=MU, steps=STEPS, runs=RUNS, seed=1)
        theory = adaptive.predict_lms(scenario.problem, mu=MU, steps=STEPS)

        # the claims of the figure
        assert abs(scenario.problem.modes.spread - spread) < 5e-5
        smooth, predicted = (x.reshape(-1, 50).mean(axis=1) for x in (run.mse, theory.mse))
        assert np.abs(smooth / predicted - 1).max() < 0.1
        finals.append(smooth[-1])

        ax.semilogy(run.mse, f"C{i}", lw=0.7, alpha=0.6)
        ax.semilogy(theory.mse, "k--", lw=1)
        label = f"W = {W}, spread {spread:.1f}"
        ax.semilogy([], [], f"C{i}", label=label)
    assert finals == sorted(finals)
    ax.semilogy([], [], "k--", lw=1, label="theory, from R, P and J_min alone")
    ax.set(xlabel="sample n", ylabel="E|e(n)|²", xlim=(0, STEPS))
    ax.set_title(f"Adaptive equaliser, LMS, µ = {MU}, {RUNS} runs")
    ax.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "equaliser.png")
