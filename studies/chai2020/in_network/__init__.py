"""Study ``in-network``: do a conv layer's natural modes predict how it learns in its network?

The paper's first claim is about a layer inside a network. There each update is an LMS update with
-dL/dy as its error, but nothing guarantees that this error comes from a fixed desired response.
``conv-modes`` avoids the question by giving each layer a desired response (level 1). This study
asks it. From a checkpoint of a small CNN, training continues on one full batch, and three levels
predict it: level 2 moves one layer while the rest is frozen, with three readings of its curvature,
the last of which, R times one number, is the claim read plainly; level 3 linearises the whole
network once; level 4 linearises it again every few steps.

Networks, settings and limits are ours. The limits were fixed before the runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from studies.engine.protocol import Lazy, Study, seeds
from studies.training.images import Images

__all__ = ["EXPERIMENT", "PRESETS", "RULE", "STUDY", "Cell", "Config", "cells", "level_name"]

READ_AT = 20
RELINEARIZE = 10
HALF, HORIZON, ORDER = 0.5, 10, 0.5

EXPERIMENT = (
    "A CNN of three convolutions and one linear layer, with and without BatchNorm in train mode, "
    "is trained by mini-batch SGD until its loss, averaged over 10 updates, is below that of the "
    "checkpoint. From there plain SGD continues on one fixed batch, all of it at each step, at a "
    "fifth of level 3's own bound on the learning rate. Level 2 predicts each convolution while "
    "the rest is frozen, with the layer's exact Gauss-Newton matrix, with R x G and with R times "
    "one number; level 3 predicts all layers at once from one linearisation, level 4 from one "
    "every 50, 10 and 2 steps. Errors are relative to the distance moved; skill is 1 - error / "
    "error of the straight line that repeats the first step; a horizon is the first step at which "
    "the error is above 10 % or 50 %. The observed order of the modes of R is the step at which "
    "each reaches half of its final value while all layers learn. Network, settings and limits "
    "are ours, not the paper's."
)
RULE = (
    "Seven checks without BatchNorm and the same seven with it, at trained checkpoints, each on "
    "the one-sided 95 % bound of the median over seeds, which assumes no distribution; for a check "
    "to fail, on the bound at 1 - 5 % / 14, since one that fails is enough for the claim to fail. "
    "In the convolution where it is least: (a) the exact Gauss-Newton reading of level 2 has a "
    f"skill of at least 0 at step {READ_AT}. (b) Level 3 has a skill of at least 0 at step "
    f"{READ_AT} and at the last step. (c) Re-linearising every {RELINEARIZE} steps brings the "
    f"error at the last step to at most {HALF:g} of level 3's. In the convolution where it is "
    "least: (d) the plain reading, R times one number, has a skill of at least 0 at step "
    f"{READ_AT} and a 10 % horizon of at least {HORIZON} steps; (e) the rank correlation between "
    "the eigenvalues of R and how "
    f"early their modes move is at least {ORDER:g}; the plain reading predicts 1. The claim holds "
    "if all fourteen hold and fails if one fails."
)


@dataclass(frozen=True)
class Cell:
    """One network at one start, and everything that decides its numbers.

    Attributes
    ----------
    images : what the network is trained on.
    seed : of the weights and of the order of the images.
    batch_norm : whether the network has BatchNorm, which uses the statistics of its batch.
    trained : start from a checkpoint; if not, from fresh weights.
    width : of ``SmallCNN``.
    checkpoint_loss : mini-batch SGD stops once the loss, averaged over 10 updates, is below this.
    train_lr, train_momentum, train_batch, train_steps : of that SGD; ``train_steps`` is a limit.
    batch : number of images that training then continues on, all of them at each step, without
        momentum.
    fraction : learning rate there, as a fraction of level 3's bound 2 / lambda_max(Gauss-Newton).
    steps : of that training.
    relinearize : intervals of level 4, in steps.
    audit_steps : length of the audit of each convolution; 0 for none.
    device : ``cpu`` or ``cuda``.
    """

    images: Images
    seed: int = 0
    batch_norm: bool = False
    trained: bool = True
    width: int = 8
    checkpoint_loss: float = 0.5
    train_lr: float = 0.02
    train_momentum: float = 0.9
    train_batch: int = 32
    train_steps: int = 2000
    batch: int = 128
    fraction: float = 0.2
    steps: int = 100
    relinearize: tuple[int, ...] = (50, 10, 2)
    audit_steps: int = 20
    device: str = "cpu"


@dataclass(frozen=True)
class Config:
    """A preset: how many networks there are, and the cell they share.

    Attributes
    ----------
    preset : its name.
    seed : the images are drawn with it; the networks' seeds follow from it.
    seeds : networks of each kind at a checkpoint.
    audit_seeds : how many of those are audited.
    fresh_seeds : networks of each kind at fresh weights, which no check uses.
    cell : the settings that all networks share.
    """

    preset: str
    seed: int = 0
    seeds: int = 9
    audit_seeds: int = 2
    fresh_seeds: int = 1
    cell: Cell = Cell(Images(limit=5000, size=14))


_LAPTOP = Config("laptop")
PRESETS = {
    "smoke": Config(
        "smoke",
        seeds=1,
        audit_seeds=1,
        fresh_seeds=0,
        cell=Cell(
            Images(limit=400, size=8),
            width=2,
            checkpoint_loss=2.2,
            batch=32,
            steps=20,
            relinearize=(RELINEARIZE,),
            audit_steps=2,
        ),
    ),
    "laptop": _LAPTOP,
    "full": replace(
        _LAPTOP,
        preset="full",
        fresh_seeds=2,
        cell=replace(
            _LAPTOP.cell,
            images=Images(limit=50_000, size=32),
            width=32,
            # a network this small learns CIFAR-10 no better than this in reasonable time
            checkpoint_loss=1.2,
            train_steps=30_000,
            batch=256,
            audit_steps=50,
        ),
    ),
}


def level_name(h: int | None) -> str:
    """Name a prediction of the whole network: level 3, or level 4 with its interval.

    Examples
    --------
    >>> level_name(None), level_name(10)
    ('level 3', 'level 4, every 10')
    """
    return "level 3" if h is None else f"level 4, every {h}"


def cells(config: Config, device: str) -> list[Cell]:
    """List the networks to measure: those at checkpoints first, then the fresh ones."""
    shared = replace(
        config.cell, images=replace(config.cell.images, seed=config.seed), device=device
    )
    found = []
    for k, seed in enumerate(seeds(config.seed, config.seeds)):
        audit_steps = shared.audit_steps if k < config.audit_seeds else 0
        one = replace(shared, seed=seed, audit_steps=audit_steps)
        found += [replace(one, batch_norm=norm) for norm in (False, True)]
    fresh = replace(shared, trained=False, relinearize=(RELINEARIZE,), audit_steps=0)
    for seed in seeds(config.seed, config.fresh_seeds):
        found += [replace(fresh, seed=seed, batch_norm=norm) for norm in (False, True)]
    return found


STUDY = Study(
    name="in-network",
    title="Natural modes inside the network",
    question="Do the natural modes of a conv layer predict how it learns inside the network, and "
    "how far does the prediction carry?",
    experiment=EXPERIMENT,
    rule=RULE,
    presets=PRESETS,
    cells=cells,
    measure=Lazy("studies.chai2020.in_network.measure:measure"),
    judge=Lazy("studies.chai2020.in_network.judge:judge"),
)
