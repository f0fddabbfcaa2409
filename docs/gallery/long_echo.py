"""A long echo path: frequency-domain block LMS learns what LMS cannot in the time.

    python docs/gallery/long_echo.py long_echo.png

2,048 taps on coloured noise, AR(1) with a = 0.9, a spread of 361. Normalising each frequency's
step makes all frequencies learn alike; partitions of 256 samples keep the delay at one block.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import adaptive

TAPS, BLOCK, SAMPLES = 2048, 256, 80_000


def main(path: str) -> None:
    """Run, check, draw."""
    source = adaptive.AutoRegressive([0.9], taps=TAPS)
    scenario = adaptive.scenarios.Echo(source, noise_power=1e-4, decay=TAPS, seed=3)
    lines, d = scenario.draw(np.random.default_rng(0), SAMPLES)
    u = lines.buffer[TAPS - 1 :]  # the newest sample of each regressor
    h = scenario.response
    options = {"taps": TAPS, "block": BLOCK, "record": 1000}
    runs = {
        "frequency-domain, normalised": adaptive.frequency_domain_lms(u, d, mu=0.5, **options),
        "NLMS": adaptive.nlms(u, d, mu=0.5, taps=TAPS, record=1000),
        "LMS": adaptive.lms(u, d, mu=0.5 / TAPS, taps=TAPS, record=1000),
    }
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    final = {}
    for label, run in runs.items():
        dB = 10 * np.log10(np.sum((run.history - h) ** 2, axis=1) / np.sum(h**2))
        left.plot(np.arange(dB.size), dB, label=label)
        final[label] = dB[-1]

    # the claims of the figure
    assert final["frequency-domain, normalised"] < -30
    assert min(final["NLMS"], final["LMS"]) > -20

    left.set(xlabel="samples, thousands", ylabel="|w − h|² / |h|², dB", title="Misalignment")
    left.legend()
    right.plot(h, lw=0.5, label="echo path h")
    right.plot(runs["frequency-domain, normalised"].weights - h, lw=0.5, label="w − h at the end")
    right.set(xlabel="tap", title="Frequency-domain filter")
    right.legend()
    figure.suptitle(f"Echo path of {TAPS} taps, input AR(1) with a = 0.9")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "long_echo.png")
