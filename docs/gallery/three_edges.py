"""Edges of a delay line: where single runs diverge, against two bounds.

    python docs/gallery/three_edges.py three_edges.png

The mean-square bound supposes regressors that are independent from sample to sample. On a delay
line neighbours share samples: for white input single runs converge beyond the bound, for a
strongly coloured one they diverge below it. The largest step at which runs still forget their
start is found by bisection.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import adaptive

TAPS = 6


def main(path: str) -> None:
    """Run, check, draw."""
    spreads = (0.0, 0.3, 0.6, 0.8, 0.9)
    mean, square, seen = [], [], []
    for a in spreads:
        source = adaptive.AutoRegressive([a] if a else [], taps=TAPS)
        scenario = adaptive.SystemIdentification(source, w_o=np.ones(TAPS), noise_power=0.01)
        bounds = adaptive.stability_bounds(source.R)
        mean.append(bounds.mean)
        square.append(bounds.mean_square_real)
        seen.append(adaptive.observed_edge(scenario, runs=8, steps=4000, seed=0, resolution=0.02))
    edge = np.array([(e.lower, e.mu, e.upper) for e in seen])

    # the claims of the figure
    assert edge[0, 0] > square[0]  # white: beyond the bound, with 95 % confidence
    assert edge[-1, 2] < square[-1]  # a = 0.9: below it
    assert np.all(edge[:, 2] < mean)

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    ax = figure.subplots()
    ax.semilogy(spreads, mean, "-", color="0.6", label="mean, 2 / lambda_max")
    ax.errorbar(spreads, edge[:, 1], (edge[:, 1] - edge[:, 0], edge[:, 2] - edge[:, 1]), fmt="o",
                capsize=3, label="single runs on the delay line, 95 %")  # fmt: skip
    ax.semilogy(spreads, square, "k--", label="mean square, independent regressors")
    ax.set(xlabel="a of the AR(1) input, 6 taps", ylabel="largest step size mu")
    ax.set_title("A coloured input on a delay line breaks the bound that independence gives")
    ax.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "three_edges.png")
