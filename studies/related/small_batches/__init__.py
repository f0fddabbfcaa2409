"""Study ``small-batches``: how far below 2 / λmax does the edge of small batches lie?

The mean-square edge of mini-batch LMS, exact for images drawn at random, against 2 / λmax, the
edge of the full batch, over batch size. The problem is linear prediction of a pixel from the patch
next to it, whose R comes from images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from studies.engine.protocol import Lazy, Study
from studies.training.images import Images

__all__ = ["STUDY", "Cell", "Config"]

EXPERIMENT = (
    "A pixel is predicted from the square patch next to it, over patches of real images. The exact "
    "mean-square edge of mini-batch LMS, which draws a batch of images at every update without "
    "repetition inside it, is computed for every batch size. The step size below which every "
    "single run converges is estimated too, from seeded products of the updates. Problem and "
    "settings are ours."
)
RULE = (
    "The mean-square edge never falls with the batch size, never exceeds 2 / λmax, and equals it "
    "for the full batch to 1e-6. The study holds if it does all three and fails if it misses one. "
    "Reported without deciding: by how much single images lower the edge, and how far above it "
    "single runs still converge."
)


@dataclass(frozen=True)
class Cell:
    """Everything that decides the numbers.

    Attributes
    ----------
    images : that the patches are cut from.
    seed : of the positions of the patches and of the products.
    patch : side of the patch; taps are its square.
    positions : patches of each image that are used.
    products, factors : of the almost-sure edge: how many, and updates in each.
    """

    images: Images = Images(limit=64, size=16)
    seed: int = 0
    patch: int = 5
    positions: int = 64
    products: int = 16
    factors: int = 500


@dataclass(frozen=True)
class Config:
    """A preset: its name, the seed of the run, and its one cell."""

    preset: str
    seed: int = 0
    cell: Cell = Cell()


PRESETS = {
    "smoke": Config(
        "smoke", cell=Cell(Images(limit=16, size=16), patch=3, products=8, factors=100)
    ),
    "laptop": Config("laptop"),
    "full": Config("full", cell=Cell(Images(limit=256, size=None), products=32, factors=4000)),
}


def cells(config: Config, _device: str) -> list[Cell]:
    """The one computation of the study."""
    return [replace(config.cell, seed=config.seed)]


STUDY = Study(
    name="small-batches",
    title="The edge of small batches",
    question="How far below 2 / λmax does the edge of small batches lie?",
    experiment=EXPERIMENT,
    rule=RULE,
    presets=PRESETS,
    cells=cells,
    measure=Lazy("studies.related.small_batches.measure:measure"),
    judge=Lazy("studies.related.small_batches.judge:judge"),
)
