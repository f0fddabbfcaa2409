"""A sparse echo path: proportionate steps go where the path is.

    python docs/gallery/sparse_echo.py sparse_echo.png

A network echo has few large taps. IPNLMS gives each tap a step in proportion to its weight, so
that the large taps converge first; NLMS moves all taps alike.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import adaptive

TAPS, SAMPLES = 256, 6000


def main(path: str) -> None:
    """Run, check, draw."""
    rng = np.random.default_rng(2)
    u = rng.standard_normal(SAMPLES)
    h = np.zeros(TAPS)
    h[60:72] = rng.standard_normal(12) * np.exp(-np.arange(12) / 4)
    d = np.convolve(u, h)[:SAMPLES] + 1e-3 * rng.standard_normal(SAMPLES)
    options = {"mu": 0.5, "taps": TAPS, "record": 10}
    runs = {
        "NLMS": adaptive.nlms(u, d, **options),
        "IPNLMS, alpha = 0.5": adaptive.ipnlms(u, d, alpha=0.5, **options),
    }
    dB = {label: adaptive.measures.misalignment(run, h) for label, run in runs.items()}
    reached = {label: 10 * int(np.argmax(values < -20)) for label, values in dB.items()}

    # the claim of the figure
    assert 0 < 1.5 * reached["IPNLMS, alpha = 0.5"] < reached["NLMS"]

    figure = Figure(figsize=(8.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for label, values in dB.items():
        left.plot(10 * np.arange(values.size), values, label=label)
    left.set(xlabel="sample n", ylabel="misalignment, dB", title="The same step, mu = 0.5")
    left.legend()
    right.plot(h, lw=0.8, label="echo path")
    right.set(xlabel="tap", title="12 of 256 taps are active")
    right.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sparse_echo.png")
