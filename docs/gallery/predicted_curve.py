"""A learning curve, predicted: what MATLAB's msepred and msesim compare.

    python docs/gallery/predicted_curve.py predicted_curve.png

A predicted learning curve of LMS is compared with the mean of 1,000 runs and their 4 standard
errors. The prediction needs R, P and the power of d alone, and takes milliseconds.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import adaptive

TAPS, MU, STEPS = 8, 0.02, 600


def main(path: str) -> None:
    """Run, check, draw."""
    scenario = adaptive.SystemIdentification(
        adaptive.GaussianRegressors(adaptive.AutoRegressive([0.6], taps=TAPS).R),
        w_o=np.linspace(1.0, 0.1, TAPS),
        noise_power=0.01,
    )
    ensemble = adaptive.simulate(scenario, mu=MU, steps=STEPS, runs=1000, seed=0)
    curve = adaptive.predict_lms(scenario.problem, mu=MU, steps=STEPS)

    # the claims of the figure
    assert adaptive.verdict(curve, ensemble, k=4.5).holds
    assert abs(ensemble.mse[-100:].mean() / (curve.J_min + curve.emse) - 1) < 0.03

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    ax = figure.subplots()
    n = np.arange(STEPS)
    low, high = ensemble.mse - 4 * ensemble.mse_se, ensemble.mse + 4 * ensemble.mse_se
    ax.fill_between(n, low, high, alpha=0.35, label="1,000 runs, ± 4 standard errors")
    ax.semilogy(n, curve.J_min + curve.excess, "k--", lw=1.2, label="theory")
    ax.axhline(curve.J_min + curve.emse, color="C3", lw=1, label="predicted steady state")
    ax.axhline(curve.J_min, color="0.6", lw=1, label="J_min, the noise")
    ax.set(xlabel="sample n", ylabel="mean-square error", xlim=(0, STEPS))
    ax.set_title("Theory predicts the whole learning curve")
    ax.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "predicted_curve.png")
