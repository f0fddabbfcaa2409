"""RLS against the LMS family on a coloured input: what whitening buys.

    python docs/gallery/rls_and_lms.py rls_and_lms.png

Sixteen taps, AR(1) with a = 0.95: a spread of several hundred. LMS learns mode by mode; the DCT
with power normalisation nearly whitens, RLS fully does, in about two samples per tap.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import adaptive

TAPS, STEPS, RUNS, NOISE = 16, 2000, 200, 1e-3


def main(path: str) -> None:
    """Simulate, check, draw."""
    source = adaptive.AutoRegressive([0.95], taps=TAPS)
    w_o = np.cos(np.arange(TAPS)) / 2
    scenario = adaptive.SystemIdentification(source, w_o=w_o, noise_power=NOISE)
    cases = {
        "LMS, µ = 0.01": {"algorithm": "lms", "mu": 0.01},
        "NLMS, µ = 0.5": {"algorithm": "nlms", "mu": 0.5},
        "DCT LMS, µ = 0.02": {"algorithm": "transform_domain_lms", "mu": 0.02},
        "RLS, forgetting 0.995": {"algorithm": "rls", "forgetting": 0.995},
    }
    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    ax = figure.subplots()
    learned = {}
    for label, options in cases.items():
        run = adaptive.simulate(scenario, steps=STEPS, runs=RUNS, seed=0, **options)
        smooth = np.convolve(run.mse, np.ones(5) / 5, "valid")
        ax.semilogy(np.arange(smooth.size) + 2, smooth, lw=1, label=label)
        below = smooth < 2 * NOISE
        learned[options["algorithm"]] = int(np.argmax(below)) if below.any() else STEPS

    # the claims of the figure: samples until the excess error is below the noise
    assert scenario.problem.modes.spread > 300
    assert learned["rls"] < 4 * TAPS
    assert learned["rls"] < learned["transform_domain_lms"] < min(learned["lms"], learned["nlms"])

    ax.axhline(NOISE, color="0.6", lw=1)
    ax.annotate("J_min", (STEPS, NOISE), (0, -11), textcoords="offset points", ha="right",
                color="0.4")  # fmt: skip
    ax.set(xlabel="sample n", ylabel="E|e(n)|²", xlim=(0, STEPS))
    spread = scenario.problem.modes.spread
    ax.set_title(f"{TAPS} taps, eigenvalue spread {spread:.0f}, {RUNS} runs")
    ax.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "rls_and_lms.png")
