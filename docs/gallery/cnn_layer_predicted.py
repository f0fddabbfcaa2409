"""A convolution trains as predicted, mode by mode.

    python docs/gallery/cnn_layer_predicted.py cnn_layer_predicted.png

One layer, its own squared error, full batches: theory predicts every natural mode at every step
of torch's SGD with momentum, exactly. The residual is rounding.
"""

import sys

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import cnnbridge
from studies.training.images import load

LIMIT, LR, STEPS = 64, 0.2, 300


def main(path: str) -> None:
    """Run, check, draw."""
    images = load("mnist5k", limit=LIMIT, image_size=14)
    x = torch.as_tensor(images.images)
    torch.manual_seed(0)

    conv, teacher = (nn.Conv2d(1, 2, 3, bias=False).double() for _ in range(2))
    x = x.double()
    task = cnnbridge.LayerTask(conv, x, teacher(x).detach())
    result = task.compare(cnnbridge.SGD(LR, momentum=0.5), STEPS)
    predicted, observed = (np.asarray(r.loss) for r in (result.prediction, result.observation))
    residual = np.abs(observed - predicted) / predicted[0]

    # the claims of the figure
    assert result.max_mode_error < 1e-9
    assert residual.max() < 1e-11
    assert predicted[-1] < predicted[0] / 100

    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    above.semilogy(observed, lw=3, alpha=0.5, label="training in torch")
    above.semilogy(predicted, "k--", lw=1, label="theory, before the run")
    above.set(ylabel="loss", title="SGD with momentum on one layer, predicted")
    above.legend()
    below.semilogy(
        np.maximum(residual, 1e-17), "C3", lw=0.8, label="difference over the first loss"
    )
    below.set(xlabel="update", ylabel="difference")
    below.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cnn_layer_predicted.png")
