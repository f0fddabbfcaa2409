"""Modes of a convolution as pictures, and how fast each of them is learned.

    python docs/gallery/modes_and_decay.py modes_and_decay.png

Patches of handwritten digits under a 7 by 7 kernel have smooth natural modes with large eigenvalues
and jagged ones with small. Theory gives the decay of every mode before the run; torch's SGD follows
it to rounding.
"""

import sys

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import cnnbridge
from studies.training.images import load

LIMIT, STEPS, SHOWN = 128, 3000, (0, 3, 12, 40)  # modes, the strongest first
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def main(path: str) -> None:
    """Run, check, draw."""
    images = load("mnist5k", limit=LIMIT, image_size=14)
    x = torch.as_tensor(images.images).double()
    torch.manual_seed(0)
    conv, teacher = (nn.Conv2d(1, 1, 7, bias=False).double() for _ in range(2))
    task = cnnbridge.LayerTask(conv, x, teacher(x).detach())
    result = task.compare(0.6 * task.bounds().mean, STEPS)
    prediction, observation = result.prediction, result.observation

    values = prediction.eigenvalues[0, ::-1]
    pictures = prediction.eigenvectors[0, :, ::-1].T.reshape(-1, 7, 7)
    theory = prediction.modes[:, 0, ::-1]
    weights = prediction.weights[0].reshape(-1) + observation.displacement
    seen = (weights - prediction.w_star.reshape(-1)) @ prediction.eigenvectors[0, :, ::-1]
    start = np.abs(theory[0])
    residual = np.abs(seen - theory)[:, SHOWN] / start[list(SHOWN)]

    # the claims of the figure
    assert residual.max() < 1e-11
    assert values[SHOWN[0]] > 100 * values[SHOWN[-1]]

    figure = Figure(figsize=(8.5, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, 6, height_ratios=(3, 1))
    tiles = grid[0, :2].subgridspec(2, 2, hspace=0.25)
    n = np.arange(STEPS + 1)
    marked = np.unique(np.geomspace(1, STEPS + 1, 24).astype(int)) - 1
    above = figure.add_subplot(grid[0, 2:])
    below = figure.add_subplot(grid[1, 2:], sharex=above)
    for i, (k, colour) in enumerate(zip(SHOWN, COLOURS, strict=True)):
        ax = figure.add_subplot(tiles[i // 2, i % 2])
        size = np.abs(pictures[k]).max()
        ax.imshow(pictures[k], cmap="RdBu", vmin=-size, vmax=size)
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"mode {k + 1}, {values[k]:.2g}", fontsize=9)
        for spine in ax.spines.values():
            spine.set(color=colour, linewidth=2.5)
        above.plot(n + 1, np.abs(theory[:, k]) / start[k], color=colour)
        above.plot(marked + 1, np.abs(seen[marked, k]) / start[k], "o", mfc="white", color=colour)
        below.loglog(n + 1, np.maximum(residual[:, i], 1e-17), color=colour, lw=0.8)
    above.plot([], [], "k-", label="predicted before the run")
    above.plot([], [], "ko", mfc="white", label="observed in torch")
    above.set(xscale="log", yscale="log", ylim=(1e-3, 8), ylabel="mode, |v(n)| / |v(0)|")
    above.set_title("Each mode decays at the speed its eigenvalue sets")
    above.legend(loc="upper right")
    below.set(xlabel="update n + 1", ylabel="difference", ylim=(1e-17, 1e-11))
    spectrum = figure.add_subplot(grid[1, :2])
    spectrum.semilogy(np.arange(1, 50), values, ".", color="0.6")
    for k, colour in zip(SHOWN, COLOURS, strict=True):
        spectrum.semilogy(k + 1, values[k], "o", color=colour)
    spectrum.set(xlabel="mode", ylabel="eigenvalue")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "modes_and_decay.png")
