"""Double talk: an echo canceller that goes on learning unlearns the echo.

    python docs/gallery/double_talk.py double_talk.png

While the person at the microphone talks, the error holds a voice that no filter can cancel, and
NLMS spoils its weights over it. A detector says when not to adapt: `adapt=` takes its mask.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import adaptive

TAPS, SAMPLES, START, STOP = 128, 30_000, 14_000, 20_000


def main(path: str) -> None:
    """Run, check, draw."""
    source = adaptive.AutoRegressive([0.8], taps=TAPS)
    scenario = adaptive.scenarios.Echo(source, noise_power=1e-5, decay=TAPS, loss=10, seed=1)
    lines, echo = scenario.draw(np.random.default_rng(0), SAMPLES)
    u = lines.buffer[TAPS - 1 :]
    talk = np.zeros(SAMPLES)
    talk[START:STOP] = 1.5 * np.random.default_rng(1).standard_normal(STOP - START)
    d = echo + talk
    mask = adaptive.double_talk.geigel(u, d, taps=TAPS, threshold=0.4, hold=500)
    options = {"mu": 0.2, "taps": TAPS, "record": 100}
    runs = {
        "always adapting": adaptive.nlms(u, d, **options),
        "adapting where Geigel's detector allows": adaptive.nlms(u, d, adapt=mask, **options),
    }
    dB = {k: adaptive.measures.misalignment(run, scenario.response) for k, run in runs.items()}

    # the claims of the figure
    always, gated = dB.values()
    talking = slice(START // 100 + 5, STOP // 100)
    assert always[talking].mean() > -15
    assert gated[talking].max() < -20
    assert mask[: START - 100].mean() > 0.9
    assert mask[START + 50 : STOP].mean() < 0.005

    figure = Figure(figsize=(8, 4), layout="constrained")
    ax = figure.subplots()
    for label, values in dB.items():
        ax.plot(100 * np.arange(values.size), values, label=label)
    ax.axvspan(START, STOP, color="0.9", label="near end talks")
    ax.set(xlabel="sample n", ylabel="misalignment, dB", xlim=(0, SAMPLES))
    ax.set_title("A mask from the detector keeps the learned echo path")
    ax.legend(loc="upper right")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "double_talk.png")
