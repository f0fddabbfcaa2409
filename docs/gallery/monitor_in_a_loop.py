"""A monitor in a training loop: how the spectrum moves while a network learns.

    python docs/gallery/monitor_in_a_loop.py monitor_in_a_loop.png

`Monitor` reads the input spectrum of every layer during training and leaves the training as it
is, to the last bit.
"""

import sys

import torch
from matplotlib.figure import Figure
from torch import nn

import cnnbridge
from studies.training.images import load

LIMIT, STEPS, EVERY = 512, 201, 20


def main(path: str) -> None:
    """Run, check, draw."""
    images = load("mnist5k", limit=LIMIT, image_size=14)
    x, y = torch.as_tensor(images.images), torch.as_tensor(images.labels)
    torch.manual_seed(0)

    def trained(watched: bool) -> tuple[nn.Module, list]:
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
            nn.Flatten(), nn.Linear(800, 10),
        )  # fmt: skip
        sgd = torch.optim.SGD(model.parameters(), lr=0.05)
        loss, readings = nn.CrossEntropyLoss(), []
        monitor = (
            cnnbridge.Monitor(model, every=EVERY, optimizer=sgd, quiet=True) if watched else None
        )
        for n in range(STEPS):
            rows = slice(64 * (n % 8), 64 * (n % 8) + 64)
            sgd.zero_grad()
            loss(model(x[rows]), y[rows]).backward()
            sgd.step()
            if monitor is not None:
                readings += monitor.step()
        if monitor is not None:
            monitor.close()
        return model, readings

    model, readings = trained(watched=True)
    plain, _ = trained(watched=False)

    # the claims of the figure
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    layers = sorted({r.layer for r in readings})
    assert layers == ["0", "3", "6"]

    figure = Figure(figsize=(8.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for layer in layers:
        mine = [r for r in readings if r.layer == layer]
        left.plot([r.step for r in mine], [r.effective_rank for r in mine], "o-", ms=3, label=layer)
        right.semilogy(
            [r.step for r in mine], [r.lambda_max for r in mine], "o-", ms=3, label=layer
        )
    left.set(xlabel="update", ylabel="effective rank of R")
    right.set(xlabel="update", ylabel="largest eigenvalue of R")
    left.legend(title="layer")
    right.legend(title="layer")
    figure.suptitle("The first layer's input does not change; the others' does")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "monitor_in_a_loop.png")
