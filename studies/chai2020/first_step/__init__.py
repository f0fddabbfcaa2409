"""Study ``first-step``: is BatchNorm's first step a step of NLMS?

In effective weights, a step of SGD behind a normalization is the step of power-normalised NLMS at
the statistics of that batch. The paper's third claim says so for the first step of training. This
study takes both steps of the same batch, in every layer of a network and in both positions, and
compares them. Later steps are the subject of ``after-first-step``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from studies.chai2020.nlms_checks import TOLERANCE
from studies.engine.protocol import Lazy, Study, seeds
from studies.training.images import Images

__all__ = ["EXPERIMENT", "PRESETS", "RULE", "STUDY", "VARIATION", "Cell", "Config", "cells"]

# of the energy of patches, for the textbook's NLMS to be the same step to a quarter
VARIATION = 0.25

EXPERIMENT = (
    "Six convolutions and a linear layer with BatchNorm before or after each layer, in float64, at "
    "the start of training. One step of SGD on a batch is compared, in effective weights and layer "
    "by layer, with the step that power-normalised NLMS takes from the same error. As a control it "
    "is compared with the step of LMS too, which does not divide by the power. Network and "
    "settings are ours, not the paper's."
)
RULE = (
    "The claim's first half holds if in both positions the two first steps differ by no more than "
    f"{TOLERANCE:g} of the step, in every layer and for every seed, and fails otherwise. Whether "
    "the step is also the textbook's NLMS, which divides by the energy of each regressor, is asked "
    "separately and does not decide: the coefficient of variation of the patches' energy |c/s|² "
    f"would be at most {VARIATION:g}, by the one-sided 95 % bound of the median over seeds. The "
    "distance from the step of LMS shows how much the comparison can distinguish, and does not "
    "decide."
)


@dataclass(frozen=True)
class Cell:
    """One network at the start of training, and everything that decides its numbers.

    Attributes
    ----------
    images : what the network would be trained on.
    widths : channels of the six convolutions.
    step_images : images in the batch.
    position : of the normalization, "pre" or "post" the layer.
    seed : of the weights, and of the images.
    device : ``cpu`` or ``cuda``.
    """

    images: Images
    widths: tuple[int, ...] = (16, 16, 32, 32, 32, 32)
    step_images: int = 16
    position: Literal["pre", "post"] = "pre"
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Config:
    """A preset: how many networks there are, and the cell they share.

    Attributes
    ----------
    preset : its name.
    seed : the seeds of networks and images follow from it.
    seeds : networks in each position.
    cell : the settings that all networks share.
    """

    preset: str
    seed: int = 0
    seeds: int = 5
    cell: Cell = Cell(Images(limit=2000, size=16))


PRESETS = {
    "smoke": Config(
        "smoke",
        seeds=1,
        cell=Cell(Images(limit=300, size=16), widths=(4, 4, 8, 8, 8, 8), step_images=8),
    ),
    "laptop": Config("laptop"),
    "full": Config(
        "full",
        seeds=10,
        cell=Cell(Images(limit=50_000, size=32), widths=(32, 32, 64, 64, 128, 128)),
    ),
}


def cells(config: Config, device: str) -> list[Cell]:
    """List the networks: every seed in both positions."""
    shared = replace(config.cell, device=device)
    return [
        replace(shared, images=replace(shared.images, seed=seed), seed=seed, position=position)
        for seed in seeds(config.seed, config.seeds)
        for position in ("pre", "post")
    ]


STUDY = Study(
    name="first-step",
    title="BatchNorm is NLMS at the first step",
    question="Is BatchNorm's first step a step of NLMS?",
    experiment=EXPERIMENT,
    rule=RULE,
    presets=PRESETS,
    cells=cells,
    measure=Lazy("studies.chai2020.first_step.measure:measure"),
    judge=Lazy("studies.chai2020.first_step.judge:judge"),
)
