"""Study ``after-first-step``: does BatchNorm go on approximating NLMS after the first step?

The second half of the paper's third claim; ``first-step`` is the first half. "Approximating" can
mean four things, from the weakest to the strongest, and each is asked separately: the gradient step
at the statistics of its batch; the whole step, with the new statistics that divide the weights
after it; the trajectory of training at a low rate; and the highest rate at which training is
stable.

The rule was written after similar runs had been seen: with networks 1000 to 1002 and images drawn
with seed 0, which used to be the second part of ``first-step``. So networks and images here are
others, and no number in the rule was chosen from their results. The four verdicts could be guessed
all the same; whether the rescaling explains them could not. The distance of effective weights
measured by s was added after a first run, and decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from studies.chai2020.nlms_checks import TOLERANCE
from studies.engine.protocol import Lazy, Study, seeds
from studies.training.images import Images
from studies.training.rates import geometric_rates

__all__ = ["ALGORITHMS", "EXPERIMENT", "PRESETS", "RULE", "STUDY", "Cell", "Config", "cells"]

Algorithm = Literal["batch norm", "NLMS steps", "NLMS steps, rescaled", "nothing"]

ALGORITHMS: tuple[Algorithm, ...] = (
    "batch norm",
    "NLMS steps",
    "NLMS steps, rescaled",
    "nothing",
)
FRESH = 70_000  # above every seed of the runs that were seen before the rule was written
WHOLE_STEP, LOSS, DISTANCE, FACTOR = 0.5, 0.1, 0.5, 2.0
SLOPE_RATE, SLOPE_BATCH, SLOPE_OFF = 1.0, -0.5, 0.2

EXPERIMENT = (
    "Six convolutions and a linear layer with BatchNorm. During training, in both positions, each "
    "layer's step of SGD is compared with the step of power-normalised NLMS on the same batch, "
    "with the statistics of before the step and of after it. Then a network that takes only NLMS "
    "steps, with live statistics but effective weights that are not rescaled when these change, "
    "is trained in parallel with the one that has BatchNorm before the layer, from the same "
    "function on the same batches: at a low rate, update by update, and up to the highest rate at "
    "which either is stable. A second such network has the rescaling put back, so that it differs "
    "from BatchNorm only by the gradient through the statistics. Network and settings are ours, "
    "not the paper's."
)
RULE = (
    "The claim's second half holds if all of four readings hold, fails if one fails, and is "
    "inconclusive otherwise. (a) As a gradient step: at every update visited, in every layer, "
    "both positions and for every seed, SGD's step and the NLMS step of the same batch from the "
    f"same weights, with the s of that batch, differ by no more than {TOLERANCE:g} of the step. "
    "(b) As a whole step: g(n+1) = w(n+1) / s(n+1), with s measured again on the same batch, "
    f"departs from the NLMS step by at most {WHOLE_STEP:g} of it, at the low rate, in both "
    "positions. (c) As a trajectory: over the first updates at the low rate NLMS steps alone keep "
    f"the loss, averaged over 10 updates, within {LOSS:.0%} of BatchNorm's throughout, and at "
    f"their end the effective weights are no further from BatchNorm's than {DISTANCE:.0%} of the "
    "distance that BatchNorm's have moved, median over layers, s measured on one batch. (d) As a "
    f"bound on the rate: the highest stable rate is within a factor of {FACTOR:g} of BatchNorm's. "
    "In (b), (c) and (d) values are paired by seed, and a reading holds when the one-sided 95 % "
    "bound of the median over seeds is inside the limit and fails when the other bound is outside. "
    "Reported without deciding: whether the rescaling alone brings the highest stable rate back to "
    f"within a factor of {FACTOR:g} of BatchNorm's, and how the departure scales: on one batch the "
    "change of s with the first power of the rate, between batches with the power -1/2 of the "
    f"batch size, each within {SLOPE_OFF:g}."
)


@dataclass(frozen=True)
class Cell:
    """One network and one experiment on it, and everything that decides the numbers.

    Attributes
    ----------
    images : what the network is trained on.
    part : the experiment: "steps", "departure", "path" or "training".
    position : of the normalization, "pre" or "post" the layer.
    seed : of the weights and of the order of the images.
    algorithm : in "training".
    widths : channels of the six convolutions.
    batch_size : images per update.
    low_rate, low_steps : learning rate and updates of the readings "whole step" and "trajectory".
    step_images, step_rate, visits : gradient steps are compared before the updates ``visits``,
        counted from 0, of a training with so many images per batch at this rate.
    departure_rates, departure_batches, departure_steps : grid of rates and batch sizes on which the
        departure is measured, and steps at each point; the low rate and the batch size are on it.
    loss_rates, loss_steps : of the runs that show the cost in loss.
    rate_lowest, rate_octaves, rate_steps : grid of the highest stable rate, in half octaves, and
        updates of one run on it.
    device : ``cpu`` or ``cuda``.
    """

    images: Images
    part: Literal["steps", "departure", "path", "training"] = "steps"
    position: Literal["pre", "post"] = "pre"
    seed: int = 0
    algorithm: Algorithm = "batch norm"
    widths: tuple[int, ...] = (16, 16, 32, 32, 32, 32)
    batch_size: int = 32
    low_rate: float = 0.01
    low_steps: int = 50
    step_images: int = 8
    step_rate: float = 0.1
    visits: tuple[int, ...] = (1, 10, 50)
    departure_rates: tuple[float, ...] = (1e-4, 1e-2, 1e-1)
    departure_batches: tuple[int, ...] = (8, 32, 64)
    departure_steps: int = 5
    loss_rates: tuple[float, ...] = (0.003, 0.01, 0.1)
    loss_steps: int = 100
    rate_lowest: float = 0.0125
    rate_octaves: int = 13
    rate_steps: int = 100
    device: str = "cpu"

    @property
    def rates(self) -> tuple[float, ...]:
        """The grid on which the highest stable rate is searched."""
        return geometric_rates(self.rate_lowest, self.rate_octaves)


@dataclass(frozen=True)
class Config:
    """A preset: how many networks there are, and the cell they share.

    Attributes
    ----------
    preset : its name.
    seed : images and networks follow from it.
    seeds : networks of each kind.
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
        cell=Cell(
            Images(limit=300, size=16),
            widths=(4, 4, 8, 8, 8, 8),
            low_steps=10,
            visits=(1, 5),
            departure_rates=(1e-3, 1e-2),
            departure_batches=(8, 32),
            departure_steps=3,
            loss_rates=(0.01,),
            loss_steps=10,
            rate_lowest=0.8,
            rate_octaves=2,
            rate_steps=10,
        ),
    ),
    "laptop": Config("laptop"),
    "full": Config(
        "full",
        cell=Cell(
            Images(limit=50_000, size=32),
            widths=(32, 32, 64, 64, 128, 128),
            visits=(1, 5, 20, 50, 200),
            departure_batches=(8, 32, 128),
            departure_steps=50,
            loss_steps=500,
            rate_steps=300,
        ),
    ),
}


def cells(config: Config, device: str) -> list[Cell]:
    """List every experiment on every network, network by network."""
    images = replace(config.cell.images, seed=FRESH + config.seed)
    shared = replace(config.cell, images=images, device=device)
    found = []
    for seed in seeds(config.seed, config.seeds):
        one = replace(shared, seed=FRESH - 1000 + seed)
        found += [
            replace(one, part=part, position=position)
            for position in ("pre", "post")
            for part in ("steps", "departure")
        ]
        found.append(replace(one, part="path"))
        found += [replace(one, part="training", algorithm=name) for name in ALGORITHMS]
    return found


STUDY = Study(
    name="after-first-step",
    title="After the first step: where BatchNorm parts from NLMS",
    question="Does BatchNorm go on approximating NLMS after the first step?",
    experiment=EXPERIMENT,
    rule=RULE,
    presets=PRESETS,
    cells=cells,
    measure=Lazy("studies.chai2020.after_first_step.measure:measure"),
    judge=Lazy("studies.chai2020.after_first_step.judge:judge"),
)
