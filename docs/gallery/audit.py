"""Audit of a prediction: which assumption breaks first.

    python docs/gallery/audit.py audit.png

The theory of one layer inside a network assumes that its input, the layers behind it and the
curvature stay as they are. `audit` trains the network and splits the error of the prediction by
cause.
"""

import sys

import torch
from matplotlib.figure import Figure
from torch import nn

import cnnbridge
from studies.training.images import load

LIMIT, LR, STEPS = 64, 0.05, 60


def main(path: str) -> None:
    """Run, check, draw."""
    images = load("mnist5k", limit=LIMIT, image_size=14)
    x, y = torch.as_tensor(images.images), torch.as_tensor(images.labels)
    torch.manual_seed(0)

    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(4, 8, 3), nn.Tanh(), nn.Flatten(),
        nn.Linear(128, 10),
    ).double()  # fmt: skip
    task = cnnbridge.NetworkTask(model, (x.double(), y), nn.CrossEntropyLoss())
    found = task.layer("3").audit(LR, STEPS)

    # the claims of the figure
    assert found.residue < 1e-8  # the parts add up to the whole error
    assert found.error[1] < 0.05
    assert found.error[-1] > found.error[5]

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    ax = figure.subplots()
    for j, part in enumerate(found.parts):
        ax.plot(100 * found.sizes[:, j], label=part)
    ax.plot(100 * found.error, "k--", label="whole error")
    ax.set(xlabel="update", ylabel="% of the displacement", xlim=(0, STEPS))
    ax.set_title("Second convolution, all layers learning")
    ax.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "audit.png")
