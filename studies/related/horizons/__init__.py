"""Study ``horizons``: how long do predictions of training last, and what makes them last longer?

A prediction of training assumes that the network is linear in its weights: around its start (level
3), around the weights predicted so far, again every h steps (level 4), or for one layer while the
others are frozen (level 2). Here networks of growing width, which in the limit are linear, learn
the same digits, and each prediction is compared with real training. The horizon is the first step
at which it is off by more than 10 % or 50 % of the distance moved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from studies.engine.protocol import Lazy, Study, seeds
from studies.training.images import Images

__all__ = ["EXPERIMENT", "PRESETS", "RULE", "STUDY", "Cell", "Config", "cells"]

Start = Literal["fresh", "checkpoint"]

FRACTIONS: dict[Start, float] = {"fresh": 0.01, "checkpoint": 0.2}
LAYERS = ("conv1", "conv2", "conv3", "classify")
EVERY = (50, 10, 2)
TOLERANCES = (0.1, 0.5)
LOOK = 20
LEAST_EXPONENT = 0.05
LARGEST_RATIO = 0.5
LEAST_SEEDS = 5

EXPERIMENT = (
    "Small convolutional networks of growing width learn the same 128 digits by full-batch "
    "gradient descent: from a fresh start at a hundredth of level 3's own bound on the learning "
    "rate, so that the loss falls alike at every width, and from a checkpoint at loss 0.5 at a "
    "fifth of that bound. Level 3 is linearised once; level 4 again every 50, 10 or 2 steps; level "
    "2 is one layer with the others frozen, by its exact Gauss-Newton matrix. Each is compared "
    "with the training that it predicts. Networks and settings are ours, not the paper's."
)
RULE = (
    "Nine checks, each on its own. Fresh and from checkpoints: the 10 % horizon of level 3 goes "
    f"with a power of the width of at least {LEAST_EXPONENT:g} (least squares on logarithms, one "
    "exponent per seed); in every network the error at the last step falls from level 3 to h = 50, "
    "10 and 2; and for h = 10 it is at most half of level 3's, at the width where that is largest. "
    f"From checkpoints, at step {LOOK}: the skill of level 2, of level 3 and of level 4 against "
    "straight-line extrapolation is above 0 at the width, layer and h where it is smallest. "
    "Numbers of seeds are judged by their median: a check holds when its one-sided 95 % bound is "
    "on the right side, and fails when the other bound, at 1 - 5 % / 9 since one of nine that "
    "fails is enough, is on the wrong one. A horizon that the run does not reach may lie anywhere "
    "beyond, and counts as what speaks against the check. With "
    f"fewer than {LEAST_SEEDS} seeds nothing is decided. The study holds if all checks do and "
    "fails if one does."
)


@dataclass(frozen=True)
class Cell:
    """One network from one start, and every prediction of its training.

    Attributes
    ----------
    images : what the network learns.
    width, start, seed : of the network, a ``SmallCNN``.
    fraction : learning rate over level 3's bound.
    until : loss of a checkpoint.
    steps : of the training.
    all_levels : try levels 2 and 4 too.
    device : ``cpu`` or ``cuda``.
    """

    images: Images = Images(limit=128, size=14)
    width: int = 8
    start: Start = "fresh"
    seed: int = 0
    fraction: float = FRACTIONS["fresh"]
    until: float = 0.5
    steps: int = 100
    all_levels: bool = False
    device: str = "cpu"


@dataclass(frozen=True)
class Config:
    """A preset of the study.

    Attributes
    ----------
    preset : its name.
    seed : of the images; the networks' seeds follow from it.
    seeds : networks of each width.
    widths : at which level 3 is tried.
    all_levels : those of them at which levels 2 and 4 are tried too.
    cell : the cell from which all others are made.
    """

    preset: str
    seed: int = 0
    seeds: int = 8
    widths: tuple[int, ...] = (8, 16, 32, 64)
    all_levels: tuple[int, ...] = (8,)
    cell: Cell = Cell()


PRESETS = {
    "smoke": Config(
        "smoke",
        seeds=1,
        widths=(4, 8),
        all_levels=(4,),
        cell=Cell(Images(limit=32, size=14), steps=12),
    ),
    "laptop": Config("laptop"),
    "full": Config(
        "full",
        widths=(8, 16, 32, 64, 128, 256),
        all_levels=(8, 16, 32, 64, 128),
    ),
}


def cells(config: Config, device: str) -> list[Cell]:
    """All cells, the widest first: they take longest, so none of them should come last."""
    return [
        replace(
            config.cell,
            width=width,
            start=start,
            seed=seed,
            fraction=fraction,
            all_levels=width in config.all_levels,
            device=device,
        )
        for width in sorted(config.widths, reverse=True)
        for start, fraction in FRACTIONS.items()
        for seed in seeds(config.seed, config.seeds)
    ]


STUDY = Study(
    name="horizons",
    title="Horizons: how long a prediction of training lasts",
    question=(
        "Does the horizon of a prediction grow with width, and what does re-linearising buy?"
    ),
    experiment=EXPERIMENT,
    rule=RULE,
    presets=PRESETS,
    cells=cells,
    measure=Lazy(f"{__name__}.measure:measure"),
    judge=Lazy(f"{__name__}.judge:judge"),
)
