"""Does training drive the sharpness to 2 / lr, and is it any single layer's?

Cohen, Kaur, Li, Kolter and Talwalkar (2021, Gradient descent on neural networks typically occurs
at the edge of stability) found that full-batch training drives the largest eigenvalue of the
Hessian up to 2 / lr and keeps it there. This study repeats that on a small network and compares it
with single layers: the curvature of each layer with the others frozen, and the LMS bound on each
layer's input.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from studies.engine.protocol import Lazy, Study
from studies.training.images import Images

__all__ = [
    "ENOUGH",
    "EXPERIMENT",
    "HALF",
    "LAYERS",
    "NEAR",
    "PRESETS",
    "RULE",
    "STUDY",
    "Cell",
    "Config",
    "cells",
]

HALF, NEAR, ENOUGH = 0.5, 0.1, 500
LAYERS = ("conv1", "conv2", "linear")

EXPERIMENT = (
    "Two convolutions and a linear layer with tanh learn images on the squared error of their "
    "labels by full-batch gradient descent, at two learning rates and, to see where it ends, a "
    "lower one. The weights start at half of torch's usual size, well below the edge. On the way "
    "the largest eigenvalues of the Hessian, of the Gauss-Newton matrix, of each layer's own block "
    "of it, and of the autocorrelation R of each layer's input are measured. Network and settings "
    "are ours."
)
RULE = (
    f"At each of the two rates the Hessian's largest eigenvalue starts below {HALF:g} of 2 / lr, "
    "and its mean over the measurements of the last third of the run is within "
    f"{100 * NEAR:g} % of 2 / lr. The claim holds if both rates do so, fails if at one of them the "
    "sharpness ends elsewhere or the run diverges, and is inconclusive if a run starts above that, "
    f"where no rise can be seen, or has fewer than {ENOUGH} steps. Reported without deciding: "
    "whether a single layer's own sharpness reaches 2 / lr, and where the lower rate ends."
)


@dataclass(frozen=True)
class Cell:
    """One training run and everything that decides its numbers.

    Attributes
    ----------
    lr, steps : learning rate, and updates at most.
    layers : names of the layers that are measured too; empty for the run that is not judged.
    seed : of the weights.
    images : that the network is trained on, all in one batch.
    widths : output channels of the two convolutions.
    measurements : along the run, in addition to that at the start.
    device : ``cpu`` or ``cuda``.
    """

    lr: float = 1.0
    steps: int = 900
    layers: tuple[str, ...] = LAYERS
    seed: int = 0
    images: Images = Images(limit=200, size=14)
    widths: tuple[int, int] = (6, 8)
    measurements: int = 20
    device: str = "cpu"


@dataclass(frozen=True)
class Config:
    """What to run.

    Attributes
    ----------
    preset : the name of the preset this came from.
    seed : of the images and the weights.
    rates, steps : the learning rates that are judged, and the steps of each.
    low_rate, low_steps : the one that is not.
    cell : what all runs share.
    """

    preset: str
    seed: int = 0
    rates: tuple[float, ...] = (1.0, 0.5)
    steps: tuple[int, ...] = (900, 1800)
    low_rate: float = 0.25
    low_steps: int = 2400
    cell: Cell = Cell()


PRESETS = {
    "smoke": Config(
        "smoke",
        steps=(10, 10),
        low_steps=10,
        cell=Cell(images=Images(limit=40, size=14), widths=(2, 3), measurements=1),
    ),
    "laptop": Config("laptop"),
    "full": Config(
        "full",
        steps=(20_000, 40_000),
        low_steps=80_000,
        cell=Cell(images=Images(limit=5000, size=32), widths=(32, 64), measurements=100),
    ),
}


def cells(config: Config, device: str) -> list[Cell]:
    """One run for each rate, the one that is not judged last."""
    shared = replace(config.cell, seed=config.seed, device=device)
    judged = zip(config.rates, config.steps, strict=True)
    return [
        *(replace(shared, lr=lr, steps=steps, layers=LAYERS) for lr, steps in judged),
        replace(shared, lr=config.low_rate, steps=config.low_steps, layers=()),
    ]


STUDY = Study(
    name="edge-of-stability",
    title="The edge of stability",
    question="Does training drive the sharpness to 2 / lr, and is it any single layer's?",
    experiment=EXPERIMENT,
    rule=RULE,
    presets=PRESETS,
    cells=cells,
    measure=Lazy("studies.related.edge_of_stability.measure:measure"),
    judge=Lazy("studies.related.edge_of_stability.judge:judge"),
)
