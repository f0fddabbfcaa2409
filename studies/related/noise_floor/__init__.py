"""Study ``noise-floor``: does exact mini-batch theory predict noise and batch size in a network?

A head that learns its own squared error, and a network linear in its weights, are mini-batch LMS
on a finite data set, whose mean square obeys an exact recursion (``adaptive.minibatch``). The head
really is that. The network is it only near its start.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from studies.engine.protocol import Lazy, Study, seeds
from studies.training.images import Images

__all__ = ["STUDY", "Cell", "Config", "Limits"]


class Limits:
    """The limits of the rule, fixed before the runs."""

    excess, batch, edge = 0.03, 1.5, 0.02


EXPERIMENT = (
    "A small CNN with one output learns by squared error whether a digit is odd, up to a "
    "checkpoint. (a) Its linear layer alone, the rest frozen, learns from batches of every size "
    "from its least loss on, at 0.3 of the exact mean-square edge; the excess loss of the second "
    "half is averaged over runs. (b) The rate at which the median of its runs breaks is found by "
    "bisection. (c) The whole network learns from batches of every size at five rates, fractions "
    "of the edge of full-batch training, and the updates until the mean loss has fallen by a fifth "
    "are counted at the best rate. The critical batch is the one that needs twice as many updates "
    "as the full batch. Theory computes (a) and (b) for the layer in its place, and (c) for the "
    "network linearised at the checkpoint. Networks and settings are ours."
)
RULE = (
    "(a) At every batch size the mean over seeds of observed over predicted excess is within "
    f"{100 * Limits.excess:g} % of 1. (b) At every batch size the mean over seeds of the rate that "
    f"breaks is between the mean-square and the mean edge, to {100 * Limits.edge:g} %, the width "
    "of the bisection. (c) The median over seeds of the factor between observed and predicted "
    f"critical batch is at most {Limits.batch:g}, by its one-sided 95 % bound (to fail, by the "
    "bound at 1 - 5 % / 3). The study holds if all three hold and fails if one fails. Baselines: "
    "for (a) the textbook's lr J tr(R) / (2 B) and the prediction for shuffled targets; for (c) "
    "the gradient's noise scale at the checkpoint, trace of its covariance over images by its "
    "squared mean, and the geometric mean of what the other seeds showed."
)


@dataclass(frozen=True)
class Cell:
    """One network, its head and all of it.

    Attributes
    ----------
    images : drawn with ``seed``; all of them are the data set.
    seed : of images, weights and batches.
    width : of ``SmallCNN``.
    until : mean squared error of the checkpoint; targets are -1 and 1.
    runs, steps : of the head's training.
    batches : images per batch; the last one is all of them.
    fractions : learning rates of the network, over the edge of full-batch training.
    network_runs, network_steps : trainings at each rate and batch size, and updates of each.
    goal : loss to be reached, over that of the checkpoint.
    """

    images: Images = Images(limit=64, size=8)
    seed: int = 0
    width: int = 4
    until: float = 0.5
    runs: int = 400
    steps: int = 200
    batches: tuple[int, ...] = (1, 4, 8, 16, 32, 64)
    fractions: tuple[float, ...] = (0.0625, 0.125, 0.25, 0.5, 0.9)
    network_runs: int = 16
    network_steps: int = 100
    goal: float = 0.8
    device: str = "cpu"


@dataclass(frozen=True)
class Config:
    """A preset: its name, the seed of the run, how many networks, and what they share."""

    preset: str
    seed: int = 0
    seeds: int = 8
    cell: Cell = Cell()


PRESETS = {
    "smoke": Config(
        "smoke",
        seeds=1,
        cell=Cell(
            images=Images(limit=16, size=8),
            width=2,
            until=0.9,
            runs=20,
            steps=40,
            batches=(1, 4, 16),
            fractions=(0.25, 0.5),
            network_runs=4,
            network_steps=20,
            goal=0.95,
        ),
    ),
    "laptop": Config("laptop"),
    "full": Config(
        "full",
        seeds=16,
        cell=Cell(
            images=Images(limit=256, size=32),
            width=16,
            runs=1000,
            steps=500,
            batches=(1, 4, 16, 64, 256),
            network_runs=64,
            network_steps=200,
        ),
    ),
}


def cells(config: Config, device: str) -> list[Cell]:
    """One network for each seed."""
    return [
        replace(
            config.cell, images=replace(config.cell.images, seed=seed), seed=seed, device=device
        )
        for seed in seeds(config.seed, config.seeds)
    ]


STUDY = Study(
    name="noise-floor",
    title="Noise floor and critical batch",
    question="Does exact mini-batch theory predict the noise floor of a layer and the batch size "
    "beyond which a network gains nothing?",
    experiment=EXPERIMENT,
    rule=RULE,
    presets=PRESETS,
    cells=cells,
    measure=Lazy("studies.related.noise_floor.measure:measure"),
    judge=Lazy("studies.related.noise_floor.judge:judge"),
)
