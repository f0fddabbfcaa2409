"""BatchNorm taken apart: what centring and each half of the scaling do to R.

    python docs/gallery/batchnorm_apart.py batchnorm_apart.png

The second layer of a small CNN sees channels of very different power. Centring removes the
largest eigenvalue; dividing only the strong channels lowers the top of the spectrum, dividing
only the weak ones raises its bottom; BatchNorm does all three.
"""

import sys

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import cnnbridge
from cnnbridge.normalization.parts import NORMALIZATION_VARIANTS
from studies.training.images import load

LIMIT = 256


def main(path: str) -> None:
    """Run, check, draw."""
    images = load("mnist5k", limit=LIMIT, image_size=14)
    x = torch.as_tensor(images.images)
    torch.manual_seed(0)

    first = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU())
    with torch.no_grad():
        features = first(x) * torch.logspace(-1, 1, 8)[:, None, None]
    conv = nn.Conv2d(8, 8, 3, bias=False)
    spectra = {}
    parts = {"none": "nothing", "center": "centred", "amplify": "weak channels amplified",
             "suppress": "strong channels suppressed", "full": "BatchNorm"}  # fmt: skip
    for name in parts:
        split = cnnbridge.SplitBatchNorm(8, **NORMALIZATION_VARIANTS[name], affine=False)
        R = cnnbridge.patch_autocorrelation(split(features).detach(), conv)
        spectra[name] = cnnbridge.full_spectrum(R).eigenvalues.numpy()[::-1]

    # the claims of the figure
    top = {name: values[0] for name, values in spectra.items()}
    bottom = {name: values[-1] for name, values in spectra.items()}
    assert top["suppress"] < top["center"] / 3
    assert bottom["amplify"] > 10 * bottom["center"]
    assert top["full"] / bottom["full"] < top["none"] / bottom["none"] / 100

    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    ax = figure.subplots()
    for name, label in parts.items():
        ax.semilogy(np.arange(1, 73), spectra[name], label=label)
    ax.set(xlabel="mode", ylabel="eigenvalue of R")
    ax.set_title("Suppressing lowers the top, amplifying raises the bottom")
    ax.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "batchnorm_apart.png")
