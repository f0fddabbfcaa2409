"""Exact mini-batches: the expected loss of SGD with random batches, computed.

    python docs/gallery/exact_minibatches.py exact_minibatches.png

One layer, small data, batches drawn at random. The expected loss at every step follows exactly
from the data; the mean of 400 trainings in torch agrees within its standard errors.
"""

import sys

import torch
from matplotlib.figure import Figure
from torch import nn

import cnnbridge
from studies.training.images import load

LIMIT, STEPS = 32, 60


def main(path: str) -> None:
    """Run, check, draw."""
    images = load("mnist5k", limit=LIMIT, image_size=14)
    x = torch.as_tensor(images.images)
    torch.manual_seed(0)

    x = x.double()
    conv, teacher = (nn.Conv2d(1, 2, 3).double() for _ in range(2))
    task = cnnbridge.LayerTask(conv, x, torch.tanh(3 * teacher(x)).detach())
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    ax = figure.subplots()
    final = {}
    for batch, colour in ((1, "C3"), (4, "C1"), (32, "C0")):
        small = task.minibatch(batch)
        lr = 0.6 * task.minibatch(1).edges(seed=0).mean_square
        result = small.compare(lr, STEPS, runs=400, seed=1)
        seen, theory = result.observation, result.prediction
        ax.semilogy(seen.loss, color=colour, lw=2.5, alpha=0.5, label=f"batch {batch}, 400 runs")
        ax.semilogy(theory.loss, "--", color=colour, lw=1, label=f"batch {batch}, exact theory")
        assert result.largest < 5  # standard errors, the largest of all steps
        final[batch] = float(theory.loss[-1])

    # the claim of the figure: at one rate, small batches end higher
    assert final[1] > final[4] > final[32]

    ax.set(xlabel="update", ylabel="expected loss", xlim=(0, STEPS))
    ax.set_title("Noise of the batches is part of the theory")
    ax.legend(fontsize=9)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "exact_minibatches.png")
