"""Computes the numbers of predictions.md: levels 2 to 4 on a small CNN that learns digits.

python docs/scripts/predictions.py levels      one network, each layer alone and all together
python docs/scripts/predictions.py audit       why each layer's predictions stop holding
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

import cnnbridge
from cnnbridge.results import Comparison
from studies.training.images import load
from studies.training.networks import SmallCNN
from studies.training.sgd import train_below

CE = nn.CrossEntropyLoss()


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """128 digits at 14 by 14, shuffled with a seed."""
    images = load("mnist5k", limit=128, image_size=14)
    return torch.as_tensor(images.images), torch.as_tensor(images.labels)


def checkpoint(
    x: torch.Tensor, y: torch.Tensor, width: int, until: float, seed: int = 0
) -> tuple[nn.Module, int]:
    """A small CNN trained, full batch at lr 0.05, until its loss is below ``until``."""
    torch.manual_seed(seed)
    model = SmallCNN(1, 10, width)
    return model, train_below(model, x, y, until)


def row(name: str, result: Comparison, at: tuple[int, ...] = (5, 20, 100, 200)) -> str:
    """One line of a table."""
    steps = [n for n in at if n < len(result.skill)]
    cells = [name, *(f"{result.displacement_error[n]:.1%} ({result.skill[n]:+.2f})" for n in steps)]
    cells += ["never" if n is None else str(n) for n in result.horizon.values()]
    return "| " + " | ".join(cells) + " |"


def levels(until: float, lr: float, steps: int) -> None:
    """Every level on one checkpoint."""
    x, y = digits()
    model, trained = checkpoint(x, y, 8, until)
    print(f"\nloss {until} after {trained} steps; lr {lr}; error (skill) at step 5, 20, 100, 200; "
          f"horizons at 10 % and 50 %\n")  # fmt: skip
    task = cnnbridge.NetworkTask(model, (x, y), CE)
    for layer in ("conv1", "conv2", "conv3", "classify"):
        alone = task.layer(layer)
        run = alone.observe(lr, steps)
        for name in ("gauss_newton", "kronecker", "scalar"):
            prediction = alone.predict(lr, steps, curvature=name)
            print(row(f"2, {layer}, {name}", cnnbridge.compare(prediction, run)), flush=True)
    run = task.observe(lr, steps)
    for h in (None, 50, 10, 2):
        prediction = task.predict(lr, steps, relinearize=h)
        name = "3, whole network" if h is None else f"4, every {h} steps"
        print(row(name, cnnbridge.compare(prediction, run)), flush=True)
        if h is None:
            print(f"    bound of level 3: lr < {prediction.bound:.3f}")


def audits(until: float, lr: float, steps: int, figure: Path | None) -> None:
    """What breaks, layer by layer."""
    x, y = digits()
    model, _ = checkpoint(x, y, 8, until)
    task = cnnbridge.NetworkTask(model, (x, y), CE)
    found = {}
    for layer in ("conv1", "conv2", "conv3", "classify"):
        found[layer] = task.layer(layer).audit(lr, steps)
        for n in (5, 20, steps):
            print(found[layer].sentence(n), flush=True)
    if figure is not None:
        import matplotlib.pyplot as plt

        from cnnbridge.plotting import plot_audit

        _, axes = plt.subplots(2, 2, figsize=(11, 7.5), sharex=True, layout="constrained")
        for ax, result in zip(axes.flat, found.values(), strict=True):
            plot_audit(result, ax)
        plt.savefig(figure, dpi=100)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["levels", "audit"])
    parser.add_argument("--until", type=float, default=0.5, help="loss of the checkpoint")
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--figure", type=Path, default=None)
    a = parser.parse_args()
    torch.set_num_threads(1)
    if a.what == "levels":
        levels(a.until, a.lr, a.steps)
    else:
        audits(a.until, a.lr, a.steps, a.figure)


if __name__ == "__main__":
    main()
