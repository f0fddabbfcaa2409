"""Natural modes of a convolution, as pictures.

    python docs/gallery/cnn_modes.py cnn_modes.png

The patches under a 5 by 5 kernel of the first layer, over handwritten digits. Their
autocorrelation matrix has smooth modes with large eigenvalues, learned first, and jagged ones
with small, learned last.
"""

import sys

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import cnnbridge
from studies.training.images import load

LIMIT = 256


def main(path: str) -> None:
    """Run, check, draw."""
    images = load("mnist5k", limit=LIMIT, image_size=14)
    x = torch.as_tensor(images.images)
    torch.manual_seed(0)

    conv = nn.Conv2d(1, 8, 5, bias=False)
    spectrum = cnnbridge.full_spectrum(cnnbridge.patch_autocorrelation(x, conv))
    values = spectrum.eigenvalues.numpy()[::-1]
    modes = spectrum.eigenvectors.numpy()[:, ::-1].T.reshape(-1, 5, 5)

    def roughness(mode: np.ndarray) -> float:
        return float(
            np.square(np.diff(mode, axis=0)).sum() + np.square(np.diff(mode, axis=1)).sum()
        )

    # the claims of the figure
    rough = np.array([roughness(mode) for mode in modes])
    assert rough[:5].mean() < rough[-5:].mean() / 3
    assert values[0] > 50 * values[-1]

    figure = Figure(figsize=(8.5, 4.4), layout="constrained")
    grid = figure.add_gridspec(3, 6)
    for i, k in enumerate((0, 1, 2, 3, 4, 5, -6, -5, -4, -3, -2, -1)):
        ax = figure.add_subplot(grid[i // 6, i % 6])
        size = np.abs(modes[k]).max()
        ax.imshow(modes[k], cmap="RdBu", vmin=-size, vmax=size)
        ax.set_title(f"mode {k % 25 + 1}, {values[k]:.2g}", fontsize=10)
        ax.set_axis_off()
    ax = figure.add_subplot(grid[2, :])
    ax.semilogy(np.arange(1, 26), values, "o-", ms=3, label="eigenvalues of R")
    ax.set(xlabel="mode", ylabel="eigenvalue")
    ax.legend()
    figure.suptitle("Smooth modes are learned first")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cnn_modes.png")
