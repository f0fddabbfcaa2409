"""Does BatchNorm condition the layers, and is the last one left worst?

Huang, Qin, Liu, Zhu, Liu and Shao (2020, Layer-wise conditioning analysis in exploring the learning
dynamics of DNNs) study a network layer by layer through two covariances: that of the layer's input
and that of the gradient at its output. The Kronecker product of the two approximates the layer's
curvature. They single out the last linear layer. This study repeats the analysis with R of the
patches that a convolution reads, on networks that differ only in the normalization.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from studies.engine.protocol import Lazy, Study, seeds
from studies.training.images import Images

__all__ = ["EXPERIMENT", "NETS", "PRESETS", "RULE", "STUDY", "Cell", "Config", "Net", "cells"]

Net = Literal["none", "after", "before"]

NETS: dict[Net, str] = {
    "none": "no BatchNorm",
    "after": "BatchNorm after each convolution",
    "before": "BatchNorm before each layer",
}

EXPERIMENT = (
    "Six 3x3 convolutions and a linear layer learn to classify images by SGD: without BatchNorm, "
    "with it between convolution and ReLU, so that the linear layer reads rectified features, and "
    "with it in front of each layer but the first, so that the linear layer reads the average of "
    "normalised ones. At the start and twice along training, with batch statistics, the condition "
    "number (largest over median eigenvalue) is taken of R of each layer's input, of the "
    "covariance G of the gradients at its output, and of R x G, whose eigenvalues are all "
    "products; and the largest eigenvalue of each layer's own Gauss-Newton matrix. Networks and "
    "settings are ours."
)
RULE = (
    "Per seed, log10 of the condition number of R x G is averaged over the times. (1, 2) For "
    "either place of BatchNorm the mean over the hidden layers, conv2 to conv6, is below that "
    "without BatchNorm. With BatchNorm after the convolutions, (3) the linear layer's is at least "
    "that of every convolution, (4) the linear layer's own curvature is at least that of every "
    "convolution. Each is judged on the median over seeds by its one-sided 95 % bound; to fail, by "
    "the bound at 1 - 5 % / 3, since there are three ways to fail. The claim "
    "holds if 1 and 2 hold and 3 or 4 does; it fails if 1 or 2 fails, or 3 and 4 both do; else it "
    "is inconclusive. Three further checks do not decide: 3 and 4 with BatchNorm before the linear "
    "layer (5, 6), and whether that lowers the linear layer's condition number of R (7)."
)


@dataclass(frozen=True)
class Cell:
    """One network and everything that decides its numbers.

    Attributes
    ----------
    net : without BatchNorm, with it after each convolution, or before each layer.
    seed : of the weights and of the order of the images.
    images : that the network is trained on.
    widths : of the six convolutions.
    lr, batch_size : of the training.
    times : updates after which the layers are measured.
    probe, curvature_images : number of images on which R and G, and the curvature, are measured.
    device : ``cpu`` or ``cuda``.
    """

    net: Net = "none"
    seed: int = 0
    images: Images = Images(limit=2000, size=12)
    widths: tuple[int, ...] = (8, 8, 12, 12, 16, 16)
    lr: float = 0.05
    batch_size: int = 32
    times: tuple[int, ...] = (0, 30, 150)
    probe: int = 128
    curvature_images: int = 32
    device: str = "cpu"


@dataclass(frozen=True)
class Config:
    """What to run.

    Attributes
    ----------
    preset : the name of the preset this came from.
    seed : of the images; the seeds of the networks follow from it.
    seeds : networks of each kind.
    cell : what all networks share.
    """

    preset: str
    seed: int = 0
    seeds: int = 8
    cell: Cell = Cell()


PRESETS = {
    "smoke": Config(
        "smoke",
        seeds=1,
        cell=Cell(
            images=Images(limit=64, size=8),
            widths=(3, 3, 4, 4, 4, 4),
            batch_size=16,
            times=(1,),
            probe=32,
            curvature_images=8,
        ),
    ),
    "laptop": Config("laptop"),
    "full": Config(
        "full",
        seeds=10,
        cell=Cell(
            images=Images(limit=50_000, size=32),
            widths=(32, 32, 64, 64, 128, 128),
            times=(0, 300, 3000),
            probe=512,
            curvature_images=256,
        ),
    ),
}


def cells(config: Config, device: str) -> list[Cell]:
    """Every network of the study: each place of BatchNorm with each seed."""
    return [
        replace(config.cell, net=net, seed=seed, device=device)
        for net in NETS
        for seed in seeds(config.seed, config.seeds)
    ]


STUDY = Study(
    name="conditioning",
    title="Layer-wise conditioning, and the last layer",
    question="Does BatchNorm condition the layers, and is the last one left worst?",
    experiment=EXPERIMENT,
    rule=RULE,
    presets=PRESETS,
    cells=cells,
    measure=Lazy("studies.related.conditioning.measure:measure"),
    judge=Lazy("studies.related.conditioning.judge:judge"),
)
