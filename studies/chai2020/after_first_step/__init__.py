"""Study ``after-first-step``: does BatchNorm go on approximating NLMS after the first step?

The second half of the paper's third claim; ``first-step`` is the first half. "Approximating" can
mean four things, from the weakest to the strongest, and each is asked separately: the gradient step
at the statistics of its batch; the whole step, with the new statistics that divide the weights
after it; the trajectory of training at a low rate; and the rates at which training fails and
learns.

Weights are not compared: a change of s that effective weights compensate leaves the network's
function as it was. So whole steps and trajectories are compared by what they do to the outputs.

The rule was written after earlier runs had been seen, with other networks and a distance of weights
in place of the outputs; the verdicts of (a) and (d) could be guessed. Networks and images here are
others, and no number in the rule was chosen from their results.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from studies.chai2020.nlms_checks import TOLERANCE
from studies.engine.power import Prediction
from studies.engine.protocol import Lazy, Study, seeds
from studies.training.images import Images
from studies.training.rates import geometric_rates

__all__ = [
    "ALGORITHMS",
    "EXPERIMENT",
    "PREDICTIONS",
    "PRESETS",
    "RULE",
    "STUDY",
    "Cell",
    "Config",
    "cells",
]

Algorithm = Literal["batch norm", "NLMS steps", "NLMS steps, rescaled", "nothing"]

ALGORITHMS: tuple[Algorithm, ...] = (
    "batch norm",
    "NLMS steps",
    "NLMS steps, rescaled",
    "nothing",
)
FRESH = 70_000  # above every seed of the runs that were seen before the rule was written
WHOLE_STEP, LOSS, DISTANCE, FACTOR = 0.5, 0.1, 0.5, 2.0
CHECKS = 5  # those of (b), (c) and (d), which are random
SLOPE_RATE, SLOPE_BATCH, SLOPE_OFF = 1.0, -0.5, 0.2

EXPERIMENT = (
    "Four convolutions and a linear layer with BatchNorm, nothing learned in it. During training, "
    "in both positions, each layer's step of SGD is compared with the step of power-normalised "
    "NLMS on the same batch. Then a network that takes only NLMS steps, with live statistics but "
    "effective weights that are not rescaled when these change, is compared with the one that has "
    "BatchNorm before the layer, from the same function on the same batches: by the outputs after "
    "a single step, over a training at a low rate, and by the rates at which each fails (explodes "
    "or dies) and learns. A second such network has the rescaling put back, so that it differs "
    "from BatchNorm only by the gradient through the statistics. Outputs are logits less their "
    "mean over classes, on one batch. Images are drawn for each network. Network and settings are "
    "ours, not the paper's."
)
RULE = (
    "The claim's second half holds if all of four readings hold, fails if one fails, and is "
    "inconclusive otherwise. (a) As a gradient step: at every update visited, in every layer, "
    "both positions and for every seed, SGD's step and the NLMS step of the same batch from the "
    f"same weights, with the s of that batch, differ by no more than {TOLERANCE:g} of the step. "
    "(b) As a whole step of all layers at the low rate: |df_BN - df_NLMS|, df the change of the "
    f"outputs on the batch of the step, is at most {WHOLE_STEP:g} of |df_BN|, median over the "
    "updates visited. (c) As a trajectory: over the first updates at the low rate NLMS steps alone "
    f"keep the loss, averaged over 10 updates, within {LOSS:.0%} of BatchNorm's throughout, and at "
    f"their end the outputs are no further from BatchNorm's than {DISTANCE:.0%} of the distance "
    "that BatchNorm's have moved, on the first batch. (d) As a bound on the rate: the lowest rate "
    "that fails and the highest that learns (batch accuracy at the end above 0.5) are each within "
    f"a factor of {FACTOR:g} of BatchNorm's. In (b), (c) and (d) values are paired by seed; a "
    "reading holds when the one-sided 95 % bound of the median over seeds is inside the limit and "
    f"fails when the other bound, corrected for {CHECKS} checks, is outside. A rate is an interval "
    "of the grid. Reported without deciding: the rates with the rescaling put back, and how s "
    "changes: on one batch with the first power of the rate, between batches with the power -1/2 "
    f"of the batch size, each within {SLOPE_OFF:g}."
)
PREDICTIONS = (
    Prediction("a whole step", WHOLE_STEP, "at most", 0.2, 1.0),
    Prediction("loss on the way", LOSS, "at most", 0.04, 0.3),
    Prediction("outputs at the end", DISTANCE, "at most", 0.2, 1.0),
    Prediction("rate that fails", FACTOR, "at most", 1.0, 16.0, 2.0),
    Prediction("rate that learns", FACTOR, "at most", 1.0, 16.0, 2.0),
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
    widths : channels of the convolutions.
    batch_size : images per update.
    low_rate, low_steps : learning rate and updates of the readings "whole step" and "trajectory".
    step_images, step_rate, visits : gradient steps are compared before the updates ``visits``,
        counted from 0, of a training with so many images per batch at this rate; whole steps
        before the same updates at the low rate.
    departure_rates, departure_batches, departure_steps : grid of rates and batch sizes on which the
        change of s is measured, and steps at each point.
    loss_rates : rates of the grid, or further ones, whose cost in loss is shown.
    rates, rate_steps : grid of the rates that fail and learn, and updates of one run.
    device : ``cpu`` or ``cuda``.
    """

    images: Images
    part: Literal["steps", "departure", "path", "training"] = "steps"
    position: Literal["pre", "post"] = "pre"
    seed: int = 0
    algorithm: Algorithm = "batch norm"
    widths: tuple[int, ...] = (8, 8, 16, 16)
    batch_size: int = 32
    low_rate: float = 0.01
    low_steps: int = 50
    step_images: int = 8
    step_rate: float = 0.1
    visits: tuple[int, ...] = (1, 10, 40)
    departure_rates: tuple[float, ...] = (1e-4, 1e-2, 1e-1)
    departure_batches: tuple[int, ...] = (8, 32, 64)
    departure_steps: int = 3
    loss_rates: tuple[float, ...] = (0.01, 0.125)
    rates: tuple[float, ...] = geometric_rates(1 / 16, octaves=8, per_octave=1)
    rate_steps: int = 80
    device: str = "cpu"


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
    seeds: int = 8
    cell: Cell = Cell(Images(limit=2000, size=12))


PRESETS = {
    "smoke": Config(
        "smoke",
        seeds=1,
        cell=Cell(
            Images(limit=300, size=8),
            widths=(4, 4),
            low_steps=10,
            visits=(1, 5),
            departure_rates=(1e-3, 1e-2),
            departure_batches=(8, 32),
            departure_steps=2,
            loss_rates=(0.125,),
            rates=(0.125, 1.0),
            rate_steps=10,
        ),
    ),
    "laptop": Config("laptop"),
    "full": Config(
        "full",
        cell=Cell(
            Images(limit=50_000, size=32),
            widths=(32, 32, 64, 64, 128, 128),
            visits=(1, 5, 20, 40),
            departure_batches=(8, 32, 128),
            departure_steps=50,
            rate_steps=300,
        ),
    ),
}


def cells(config: Config, device: str) -> list[Cell]:
    """List every experiment on every network, network by network."""
    found = []
    for seed in seeds(config.seed, config.seeds):
        fresh = FRESH - 1000 + seed
        images = replace(config.cell.images, seed=fresh)
        one = replace(config.cell, images=images, seed=fresh, device=device)
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
