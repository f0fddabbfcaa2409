"""Study ``conv-modes``: how the conv layers of a trained CNN learn, predicted and observed.

A small CNN is trained on real images. Then every conv layer is studied alone. Its inputs are what
the trained network feeds it, and its desired response is the trained layer's output. A student of
the same shape starts from the weights that the layer had before training, and learns that response
by gradient descent on the mean squared error.

So the question is how a layer, on its own, learns again the response it ended up with. For this
problem the theory is exact (level 1 of the design: a desired response is given, and nothing else in
the network moves), the target can be reached exactly, and the trained weights are a known solution.
How the layer learns inside the network is another question; the study ``in-network`` asks it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from studies.engine.protocol import Lazy, Study
from studies.training.images import Images

__all__ = ["EXPERIMENT", "PRESETS", "RULE", "STUDY", "Cell", "Config", "cells"]

LAYERS = ("conv1", "conv2", "conv3")
TOLERANCES = {"float64": 1e-9, "float32": 1e-3}  # of the mode error, over the initial weight error
EDGE_TOLERANCE = 5e-3  # relative, of the learning rate at which training starts to diverge

EXPERIMENT = (
    "A small CNN is trained on real images. Each of its conv layers then learns, alone and by "
    "full-batch gradient descent, the response that it ended up with, while every natural mode is "
    "predicted from the autocorrelation of its input; the highest stable learning rate is found "
    "by bisection."
)
RULE = (
    "It holds when every mode of every layer stays within its tolerance of the prediction at every "
    "update, in float64 and float32, and training starts to diverge at the predicted learning "
    "rate; it fails when one does not."
)


@dataclass(frozen=True)
class Cell:
    """One conv layer of a trained network.

    Attributes
    ----------
    layer : its name, one of ``LAYERS``.
    images : on which the network is trained and tested.
    seed : of the initial weights and of the order of training.
    test_fraction : of the images, kept aside for the accuracy.
    width : channels of the first conv layer.
    epochs, batch_size, train_lr, train_momentum : of the network's training.
    layer_images : number of training images in the layer's own problem.
    steps : updates over which prediction and observation are compared.
    lr_fraction : the layer's learning rate as a fraction of its predicted bound. Above one
        half the strongest mode alternates in sign, which is a sharper test than a decay.
    edge_momenta : the momenta at which the edge of stability is searched.
    edge_steps : updates of one run of that search.
    growth_steps : updates from which the growth around the edge is measured.
    threads : of torch on the CPU; 0 leaves the choice to torch. The problems are small, and on a
        busy machine several threads spend most of the time waiting for each other.
    device : ``cpu`` or ``cuda``.
    """

    layer: str = LAYERS[0]
    images: Images = Images(limit=5000, size=None)
    seed: int = 0
    test_fraction: float = 0.2
    width: int = 8
    epochs: int = 4
    batch_size: int = 32
    train_lr: float = 0.02
    train_momentum: float = 0.9
    layer_images: int = 48
    steps: int = 1000
    lr_fraction: float = 0.8
    edge_momenta: tuple[float, ...] = (0.0, 0.9)
    edge_steps: int = 200
    growth_steps: int = 24
    threads: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class Config:
    """A preset of the study: its name, the seed of the run, and the cell that varies by layer."""

    preset: str
    seed: int = 0
    cell: Cell = Cell()


PRESETS = {
    "smoke": Config(
        "smoke",
        cell=Cell(
            images=Images(limit=1000, size=None),
            epochs=3,
            batch_size=16,
            width=4,
            layer_images=8,
            steps=300,
        ),
    ),
    "laptop": Config("laptop"),
    "full": Config(
        "full",
        cell=Cell(
            images=Images(limit=50_000, size=None),
            epochs=10,
            width=32,
            layer_images=512,
            threads=0,
        ),
    ),
}


def cells(config: Config, device: str) -> list[Cell]:
    """One cell per conv layer; a process trains the network once for all of them."""
    return [replace(config.cell, layer=name, seed=config.seed, device=device) for name in LAYERS]


STUDY = Study(
    name="conv-modes",
    title="How conv layers learn, predicted and observed",
    question=(
        "Do the conv layers of a trained CNN learn along the natural modes that LMS theory gives?"
    ),
    experiment=EXPERIMENT,
    rule=RULE,
    presets=PRESETS,
    cells=cells,
    measure=Lazy(f"{__name__}.measure:measure"),
    judge=Lazy(f"{__name__}.judge:judge"),
    version="2",  # the edge is bisected less finely, and growth measured at fewer rates
)
