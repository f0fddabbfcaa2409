"""Two microphones: what the reference hears is taken out of the signal.

    python docs/gallery/two_microphones.py two_microphones.png

A noise source reaches the main microphone through a room and the reference microphone directly.
NLMS learns the path between them, so that the error of the filter is the wanted signal.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import adaptive

TAPS, SAMPLES = 64, 24_000


def main(path: str) -> None:
    """Run, check, draw."""
    rng = np.random.default_rng(3)
    n = np.arange(SAMPLES)
    wanted = 0.3 * np.sin(2 * np.pi * n / 200) * (1 + np.sin(2 * np.pi * n / 6000)) / 2
    noise = rng.standard_normal(SAMPLES)
    path_taps = rng.standard_normal(TAPS) * np.exp(-np.arange(TAPS) / 12)
    heard = wanted + np.convolve(noise, path_taps)[:SAMPLES]
    run = adaptive.nlms(noise, heard, mu=0.02, taps=TAPS)

    # the claims of the figure: noise goes down by 20 dB, the wanted signal stays
    late = slice(-6000, None)
    left = run.error[late] - wanted[late]
    before = heard[late] - wanted[late]
    reduction = 10 * np.log10(np.mean(before**2) / np.mean(left**2))
    assert reduction > 20
    assert np.corrcoef(run.error[late], wanted[late])[0, 1] > 0.9

    figure = Figure(figsize=(8, 4.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(n, heard, lw=0.4, color="0.6", label="main microphone")
    above.plot(n, run.error, lw=0.6, label="error of the filter")
    above.legend(loc="upper right")
    below.plot(n, run.error, lw=0.6, label="error of the filter")
    below.plot(n, wanted, "k", lw=0.9, label="wanted signal")
    below.set(xlabel="sample n", ylim=(-1, 1))
    below.legend(loc="upper right")
    above.set_title(f"The noise falls by {reduction:.0f} dB, and the wanted signal appears")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "two_microphones.png")
