"""R of a convolution without unfolding: the same matrix, less memory.

    python docs/gallery/patch_autocorrelation.py patch_autocorrelation.png

`patch_autocorrelation` sums products of shifted feature maps instead of writing all patches down.
It returns the matrix that unfolding gives, to rounding; the right panel shows the numbers held
meanwhile.
"""

import sys

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import cnnbridge

BATCH, SIZE = 16, 24


def main(path: str) -> None:
    """Run, check, draw."""
    torch.manual_seed(0)
    channels, difference, unfolded = [2, 4, 8, 16, 32], [], []
    for c in channels:
        x = torch.randn(BATCH, c, SIZE, SIZE).double().cumsum(2).cumsum(3) / SIZE
        conv = nn.Conv2d(c, 8, 3, padding=1).double()
        R = cnnbridge.patch_autocorrelation(x, conv, method="lags")
        u = cnnbridge.unfold_patches(x, conv).transpose(-1, -2).reshape(-1, 9 * c)
        other = u.T @ u / u.shape[0]
        difference.append(float((R - other).norm() / other.norm()))
        unfolded.append(u.numel() / x.numel())

    # the claims of the figure
    assert max(difference) < 1e-13
    assert min(unfolded) > 8.9

    figure = Figure(figsize=(8.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(np.abs(other.numpy())[:72, :72], cmap="viridis")
    left.set(title="|R|, 8 of 32 channels", xlabel="tap", ylabel="tap")
    right.semilogy(channels, difference, "o-", label="relative difference of the two R")
    right.axhline(2.0**-53, color="0.6", ls=":", label="rounding of float64")
    right.set(
        xlabel="channels", ylim=(1e-17, 1e-12), title=f"Unfolding holds {unfolded[0]:.0f} copies"
    )
    right.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "patch_autocorrelation.png")
