"""Study ``bn-any-rate``: does gradient descent with BatchNorm converge at any rate?

Cai, Li and Shen (2019, A quantitative analysis of the effect of batch normalization on gradient
descent): on least squares, gradient descent with BatchNorm converges for any learning rate of the
weights, plain gradient descent only below 2 / λmax. Here on linear prediction of a pixel from the
patch next to it, an LMS problem whose R comes from images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from studies.engine.protocol import Lazy, Study
from studies.training.images import Images

__all__ = ["STUDY", "Cell", "Config"]

EXPERIMENT = (
    "A pixel is predicted from the square patch next to it, over patches of real images. Gradient "
    "descent on the mean squared error, plain and with BatchNorm (a scale that learns at rate 1 "
    "times the response over its own deviation), runs at learning rates over many decades about "
    "2 / λmax(R). Problem and settings are ours."
)
RULE = (
    "Two checks: plain gradient descent ends above its start at every rate above 2 / λmax of the "
    "grid and at none below; with BatchNorm it ends above its start at no rate. The study holds if "
    "both do and fails if one fails. That a run ends no higher than it started is weaker than the "
    "theorem, which is about the limit."
)


@dataclass(frozen=True)
class Cell:
    """Everything that decides the numbers.

    Attributes
    ----------
    images : that the patches are cut from.
    seed : of the initial weights.
    patch : side of the patch; taps are its square.
    steps : of gradient descent.
    decades, per_decade : the rates cover so many decades on either side of 2 / λmax.
    """

    images: Images = Images(limit=500, size=16)
    seed: int = 0
    patch: int = 5
    steps: int = 4000
    decades: int = 4
    per_decade: int = 4


@dataclass(frozen=True)
class Config:
    """A preset: its name, the seed of the run, and its one cell."""

    preset: str
    seed: int = 0
    cell: Cell = Cell()


PRESETS = {
    "smoke": Config(
        "smoke", cell=Cell(Images(limit=60, size=16), patch=3, steps=500, per_decade=2)
    ),
    "laptop": Config("laptop"),
    "full": Config("full", cell=Cell(Images(limit=5000, size=None), steps=50_000)),
}


def cells(config: Config, _device: str) -> list[Cell]:
    """The one computation of the study."""
    return [replace(config.cell, seed=config.seed)]


STUDY = Study(
    name="bn-any-rate",
    title="BatchNorm on least squares: any rate",
    question="Does gradient descent with BatchNorm converge at any rate on least squares?",
    experiment=EXPERIMENT,
    rule=RULE,
    presets=PRESETS,
    cells=cells,
    measure=Lazy("studies.related.bn_any_rate.measure:measure"),
    judge=Lazy("studies.related.bn_any_rate.judge:judge"),
)
