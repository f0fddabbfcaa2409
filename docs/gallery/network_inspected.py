"""A trained network inspected: every layer's spectrum in one call.

    python docs/gallery/network_inspected.py network_inspected.png

A small CNN learns digits; `inspect` then reads the modes, bounds and time constants of all its
layers in one pass. The box of each layer shows where its eigenvalues lie.
"""

import sys

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import cnnbridge
from studies.training.images import load

LIMIT, LR = 512, 0.1


def main(path: str) -> None:
    """Run, check, draw."""
    images = load("mnist5k", limit=LIMIT, image_size=14)
    x, y = torch.as_tensor(images.images), torch.as_tensor(images.labels)
    torch.manual_seed(0)

    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16),
        nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(144, 10),
    )  # fmt: skip
    sgd = torch.optim.SGD(model.parameters(), lr=LR)
    loss = nn.CrossEntropyLoss()
    for n in range(120):
        rows = slice(64 * (n % 8), 64 * (n % 8) + 64)
        sgd.zero_grad()
        loss(model(x[rows]), y[rows]).backward()
        sgd.step()
    batches = list(zip(x.split(128), y.split(128), strict=True))
    before = [p.detach().clone() for p in model.parameters()]
    found = cnnbridge.inspect(model, batches, loss=loss, optimizer=sgd)

    # the claims of the figure
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert list(found) == ["0", "3", "7", "10"]
    spread = [layer.excited[-1] / layer.excited[0] for layer in found.layers.values()]
    assert min(spread) > 100

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    ax = figure.subplots()
    boxes = [np.log10(layer.excited) for layer in found.layers.values()]
    ax.boxplot(
        boxes, whis=(0, 100), tick_labels=[f"{k}\n{v.kind}" for k, v in found.layers.items()]
    )
    ax.set(xlabel="layer", ylabel="log10 of the eigenvalues of R")
    ax.set_title("In every layer some directions learn 100 times as slowly as others")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "network_inspected.png")
