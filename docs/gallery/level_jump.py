"""A level jump: NLMS does not notice what stops LMS and then breaks it.

    python docs/gallery/level_jump.py level_jump.png

Input and desired response become 20 dB quieter, then 10 dB louder than at the start. LMS's rate
goes with the input's power, and above its bound it diverges; NLMS's does not depend on it.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import adaptive

TAPS, PART, MU = 16, 1500, 0.02


def main(path: str) -> None:
    """Run, check, draw."""
    rng = np.random.default_rng(0)
    level = np.repeat([1.0, 0.1, np.sqrt(10)], PART)
    systems = rng.standard_normal((3, TAPS))  # the path changes with the level
    u = level * rng.standard_normal(level.size)
    lines = np.lib.stride_tricks.sliding_window_view(np.r_[np.zeros(TAPS - 1), u], TAPS)[:, ::-1]
    w_o = np.repeat(systems, PART, axis=0)
    d = np.sum(lines * w_o, axis=1) + 0.03 * level * rng.standard_normal(level.size)

    runs = {
        f"LMS, µ = {MU}": adaptive.lms(u, d, mu=MU, taps=TAPS, record=10),
        "NLMS, µ = 0.3": adaptive.nlms(u, d, mu=0.3, taps=TAPS, record=10),
    }
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    ax = figure.subplots()
    deviation = {}
    for label, run in runs.items():
        error = run.history[:-1] - w_o[::10]
        dB = 10 * np.log10(np.sum(error**2, axis=1) / np.sum(w_o[::10] ** 2, axis=1))
        ax.plot(10 * np.arange(dB.size), dB, label=label)
        deviation[label[0]] = dB

    # the claims of the figure
    lms, nlms = deviation["L"], deviation["N"]
    ends = np.arange(1, 4) * PART // 10 - 1
    assert (nlms[ends] < -30).all()
    assert lms[ends[0]] < -25
    assert lms[ends[1]] > -6  # hardly learns the quiet part
    loud = adaptive.stability_bounds(10 * np.eye(TAPS))
    assert MU > loud.trace > loud.mean_square_real
    assert lms[-1] > 100  # and no step in sight that would stop it

    ax.set_ylim(-65, 30)
    for i, name in enumerate(("0 dB", "−20 dB", "+10 dB")):
        ax.axvline(i * PART, color="0.7", lw=1)
        ax.text((i + 0.5) * PART, 24, f"input at {name}", ha="center", color="0.3")
    ax.set(xlabel="sample n", ylabel="|w(n) − w_o|² / |w_o|², dB", xlim=(0, 3 * PART))
    ax.set_title("A new path at a new input level, twice")
    ax.legend(loc="center right", bbox_to_anchor=(0.99, 0.6))
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "level_jump.png")
