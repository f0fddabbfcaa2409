"""Impulsive noise: the sign of the error limits what one outlier can do.

    python docs/gallery/impulsive_noise.py impulsive_noise.png

One sample in a hundred of the noise is a hundred times as strong. Each such sample throws LMS off
its course; sign-error LMS moves by the same small step whatever the size of the error.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import adaptive

TAPS, SAMPLES = 16, 20_000


def main(path: str) -> None:
    """Run, check, draw."""
    rng = np.random.default_rng(0)
    u = rng.standard_normal(SAMPLES)
    w_o = rng.standard_normal(TAPS)
    noise = 0.2 * rng.standard_normal(SAMPLES) * np.where(rng.random(SAMPLES) < 0.01, 100.0, 1.0)
    d = np.convolve(u, w_o)[:SAMPLES] + noise
    runs = {
        "LMS, mu = 0.01": adaptive.lms(u, d, mu=0.01, taps=TAPS, record=20),
        "sign-error LMS, mu = 0.002": adaptive.sign_error_lms(u, d, mu=0.002, taps=TAPS, record=20),
    }
    dB = {label: adaptive.measures.misalignment(run, w_o) for label, run in runs.items()}

    # the claims of the figure
    plain, sign = (values[-500:].mean() for values in dB.values())
    assert sign < plain - 10

    figure = Figure(figsize=(7.5, 4), layout="constrained")
    ax = figure.subplots()
    for label, values in dB.items():
        ax.plot(20 * np.arange(values.size), values, lw=0.9, label=label)
    ax.set(xlabel="sample n", ylabel="misalignment, dB", xlim=(0, SAMPLES))
    ax.set_title(f"With outliers, sign-error LMS ends {plain - sign:.0f} dB closer to the system")
    ax.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "impulsive_noise.png")
