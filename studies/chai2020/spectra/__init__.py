"""What do BatchNorm and its parts do to the spectrum that a layer learns on?

R, the autocorrelation of the patches that a convolution reads, is measured on inputs that have
passed through nothing, centring, amplifying, suppressing or full BatchNorm. Each of these maps
acts on R as a congruence, so the same eigenvalues are also predicted from the raw input alone.
Ostrowski's theorem and the trace give bounds on them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from studies.engine.protocol import Lazy, Study, seeds
from studies.training.images import Images

__all__ = ["EXPERIMENT", "PRESETS", "RULE", "STUDY", "TOLERANCE", "Cell", "Config", "cells"]

Position = Literal["pre", "post"]

NETWORKS = ("none", "full")
POSITIONS: tuple[Position, ...] = ("pre", "post")
TOLERANCE = 1e-9

EXPERIMENT = (
    "Networks of six convolutions, one without normalization and one with BatchNorm, are trained "
    "by plain SGD. At the input of convolutions 2 to 6, at the start and at checkpoints, the "
    "eigenvalues of R are measured in float64 behind nothing, centring, amplifying, suppressing "
    "and full BatchNorm, and predicted from the moments of the raw input. Networks and settings "
    "are ours, not the paper's."
)
RULE = (
    "The claim, that BatchNorm moves the eigenvalues as a congruence does, raising the smallest by "
    "amplifying and lowering the largest by suppressing, holds if at every site predicted and "
    f"measured eigenvalues agree within {TOLERANCE:g} of the largest; every eigenvalue lies in "
    "Ostrowski's interval; the largest behind BatchNorm is under the ceiling of the trace; and, "
    "against no normalization, amplifying raises the smallest and suppressing lowers the largest "
    "eigenvalue. It fails if any of them fails at any site."
)


@dataclass(frozen=True)
class Cell:
    """One network and everything that decides its numbers.

    Attributes
    ----------
    variant : normalization that the network is trained with, "none" or "full".
    position : of the normalization, "pre" or "post"; see ``PlainVGG``.
    seed : of the weights and of the order of the images.
    images : that the network is trained on.
    widths : of the six convolutions.
    probe : number of images on which R is taken.
    checkpoints : updates after which R is taken, ascending from 0.
    lr : learning rate, low enough for a network without normalization.
    device : ``cpu`` or ``cuda``.
    """

    variant: str = "none"
    position: Position = "pre"
    seed: int = 1000
    images: Images = Images(limit=2000, size=16)
    widths: tuple[int, ...] = (16, 16, 32, 32, 32, 32)
    probe: int = 128
    checkpoints: tuple[int, ...] = (0, 10, 50, 200)
    lr: float = 0.05
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
    seeds: int = 3
    cell: Cell = Cell()


PRESETS = {
    "smoke": Config(
        "smoke",
        seeds=1,
        cell=Cell(
            images=Images(limit=300, size=16),
            widths=(4, 4, 8, 8, 8, 8),
            probe=32,
            checkpoints=(0, 10),
        ),
    ),
    "laptop": Config("laptop"),
    "full": Config(
        "full",
        seeds=5,
        cell=Cell(
            images=Images(limit=50_000, size=32),
            widths=(32, 32, 64, 64, 128, 128),
            probe=512,
            checkpoints=(0, 10, 100, 1000, 3000),
        ),
    ),
}


def cells(config: Config, device: str) -> list[Cell]:
    """Every network of the study: each seed without and with BatchNorm, in both positions."""
    return [
        replace(config.cell, variant=variant, position=position, seed=seed, device=device)
        for seed in seeds(config.seed, config.seeds)
        for variant in NETWORKS
        for position in POSITIONS
    ]


STUDY = Study(
    name="spectra",
    title="What BatchNorm does to the spectrum",
    question="What do BatchNorm and its parts do to the spectrum that a layer learns on?",
    experiment=EXPERIMENT,
    rule=RULE,
    presets=PRESETS,
    cells=cells,
    measure=Lazy("studies.chai2020.spectra.measure:measure"),
    judge=Lazy("studies.chai2020.spectra.judge:judge"),
)
