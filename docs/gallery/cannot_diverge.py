"""What cannot diverge: the degree of a loss decides, not the learning rate.

    python docs/gallery/cannot_diverge.py cannot_diverge.png

Two networks that differ in one flag: whether the last normalization has a learned gain and shift.
With them the loss has degree 2 and a large learning rate explodes; without, degree 1, and no rate
does.
"""

import sys

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import cnnbridge

STEPS = 40


def main(path: str) -> None:
    """Run, check, draw."""

    def network(affine: bool) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(20, 32, bias=False), nn.BatchNorm1d(32, affine=affine), nn.Linear(32, 4)
        ).double()

    torch.manual_seed(1)
    x = torch.randn(128, 20).double()
    y = torch.randint(4, (128,))
    loss = nn.CrossEntropyLoss()
    rates = np.geomspace(0.1, 1e5, 13)
    largest = {}
    degrees = {}
    for affine in (True, False):
        degrees[affine] = cnnbridge.degree(network(affine), (x, y), loss)
        norms = []
        for lr in rates:
            model = network(affine)
            sgd = torch.optim.SGD(model.parameters(), lr=lr)
            peak = 0.0
            for _ in range(STEPS):
                sgd.zero_grad()
                loss(model(x), y).backward()
                sgd.step()
                norm = sum(p.detach().square().sum() for p in model.parameters()).sqrt()
                peak = max(peak, float(norm)) if torch.isfinite(norm) else np.inf
            norms.append(peak / (1 + lr * STEPS))
        largest[affine] = np.array(norms)

    # the claims of the figure
    assert [round(degrees[affine].value, 2) for affine in (True, False)] == [2, 1]
    assert degrees[True].explodes
    assert not degrees[False].explodes
    assert largest[False].max() < 50
    assert largest[True].max() > 1e6

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    ax = figure.subplots()
    for affine, label in ((True, "with gain and shift: degree 2"), (False, "without: degree 1")):
        shown = np.where(np.isfinite(largest[affine]), largest[affine], 1e40)
        ax.loglog(rates, np.minimum(shown, 1e40), "o-", label=label)
    ax.axhline(50, color="0.6", ls=":", label="50 times what a bounded gradient allows")
    ax.set(xlabel="learning rate", ylabel="largest |theta| / (1 + lr steps)", ylim=(1e-2, 1e42))
    ax.set_title("Of two networks, one flag apart, only one can explode")
    ax.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cannot_diverge.png")
