"""Study ``mode-curvature``: are curvature, stability and speed tied to the eigenvalues of R?

The paper's first claim is that the eigenvalues of a layer's input autocorrelation set how fast its
natural modes converge and where they become unstable. That can be read in five ways, from an
association to a forecast of every weight. Each has a rule and a verdict of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from studies.engine.protocol import Lazy, Study, seeds
from studies.training.images import Images

__all__ = ["DECIDING", "NETWORKS", "READINGS", "STUDY", "Cell", "Config", "Limits"]

NETWORKS = ("plain", "BatchNorm", "residual")
READINGS = {
    "A": "curvature along R's modes",
    "B": "curvature along joint modes, R x G",
    "C": "stability",
    "D": "order of speed",
    "E": "trajectory",
}
# the readings that the claim's own words need
DECIDING = ("A", "C", "D")


class Limits:
    """The limits of the rule, fixed before the runs.

    Attributes
    ----------
    slope : largest mean distance of a log-log slope from 1.
    r_squared : smallest mean R^2 of the log-log line.
    factor : largest mean factor between 2 / λmax(R x G) and the exact bound.
    order : smallest partial rank correlation, as a part of what the theory with half-times off by
        10 % would give for the same modes.
    window : least n lr c λ of a mode whose half-time is read.
    horizon : least time, in constants of the fastest mode, until the forecast is 10 % off.
    """

    slope, r_squared, factor, order, window, horizon = 0.15, 0.9, 2.0, 0.5, 0.1, 3.0


EXPERIMENT = (
    "Three networks (three convolutions and a linear layer without and with BatchNorm in train "
    "mode, and seven convolutions in three residual blocks) of widths 8 and 32 are read fresh, at "
    "a loss of 0.5 and converged, on one fixed batch; wider networks at fewer checkpoints, as the "
    "preset says. Images, weights and order are drawn anew for each seed. The Gauss-Newton matrix "
    "of each convolution, others frozen, is estimated without bias from random draws. A: its "
    "curvature along the eigenvectors of R, summed over outputs, against the eigenvalue. B: its "
    "curvature along products of an eigenvector of R and one of G, the curvature at the layer's "
    "output, against the product of eigenvalues. C: its largest eigenvalue against that of R x G. "
    "D and E, at a loss of 0.5: one layer learns by full-batch SGD at 0.3 of its own bound, the "
    "others frozen. The half-time of a mode is the step at which it has covered half of the way "
    "that it covers by the end; the forecast is R times one number c. Three nulls are run for A: "
    "the eigenvectors of R turned at random, R of another layer with as many taps, and patches "
    "paired with the errors of another image. Networks, settings and limits are ours."
)
RULE = (
    "Every check is on the one-sided 95 % bound of the median over seeds, for each network. A "
    "seed's value is a mean over its convolutions, widths and checkpoints. A holds if the log-log "
    f"slope is within {Limits.slope:g} of 1 (mean distance) and R^2 is at least "
    f"{Limits.r_squared:g}. B holds by the same limits. C holds if 2 / λmax(R x G) is within a "
    f"factor {Limits.factor:g} of the exact bound, above or below (geometric mean). D holds if "
    "the rank correlation of eigenvalue and early half-time, given the energy of the initial "
    f"gradient in the mode, is at least {Limits.order:g} of what the plain theory would give for "
    "the same modes if its half-times were off by 10 % at random; modes with n lr c λ below "
    f"{Limits.window:g} are left out. (The ceiling is there since eigenvalue and energy have "
    "nearly the same order: a pilot network, at a seed that is not used, had a ceiling of 0.4, so "
    "a limit on the correlation itself could not have been met by the theory.) E holds if the "
    "forecast of the layer's weights is within 10 % for at "
    f"least {Limits.horizon:g} time constants 1 / (lr c λmax). A reading fails if one of its "
    "checks fails, which needs a bound at 95 % corrected for the twelve checks of A, C and D. "
    "The study holds if A, C and D hold, which are what the claim says, and fails if one of them "
    "fails; B and E are stronger than the claim and are judged without deciding."
)


@dataclass(frozen=True)
class Cell:
    """One network, read at several checkpoints, and everything that decides its numbers.

    Attributes
    ----------
    network : a name in ``NETWORKS``.
    width : channels of the first convolution.
    checkpoints : losses to read at, falling; inf is a fresh network.
    images : that it is trained on; the first ``batch`` of them are the fixed batch.
    seed : of images, weights, order and draws.
    draws : of the Gauss-Newton matrix.
    bounds : whether C is measured, which costs most in wide networks.
    learn_at : the checkpoint at which D and E are measured; 0 for none.
    fraction, steps : of D and E: learning rate in units of the layer's bound, and updates.
    train_lr, train_momentum, train_steps : of the training between checkpoints.
    """

    network: str = "plain"
    width: int = 8
    checkpoints: tuple[float, ...] = (float("inf"), 0.5, 0.05)
    images: Images = Images(limit=512, size=16)
    seed: int = 0
    batch: int = 96
    draws: int = 32
    bounds: bool = True
    learn_at: float = 0.5
    fraction: float = 0.3
    steps: int = 120
    train_lr: float = 0.05
    train_momentum: float = 0.9
    train_steps: int = 2000
    device: str = "cpu"


@dataclass(frozen=True)
class Config:
    """A preset.

    Attributes
    ----------
    seeds : networks of each kind.
    networks, wide : kinds of network, and the width of the wide ones; 0 for none.
    wide_checkpoints : of the wide networks, which are not read for C, D and E.
    cell : the rest.
    """

    preset: str
    seed: int = 0
    seeds: int = 8
    networks: tuple[str, ...] = NETWORKS
    wide: int = 32
    wide_checkpoints: tuple[float, ...] = (float("inf"),)
    cell: Cell = Cell()


PRESETS = {
    "smoke": Config(
        "smoke",
        seeds=1,
        wide=0,
        cell=Cell(
            width=4,
            checkpoints=(float("inf"), 1.5),
            images=Images(limit=64, size=8),
            batch=32,
            draws=8,
            learn_at=1.5,
            steps=20,
        ),
    ),
    "laptop": Config("laptop"),
    "full": Config(
        "full",
        wide_checkpoints=(float("inf"), 0.5, 0.05),
        cell=Cell(images=Images(limit=2000, size=None), batch=512, draws=64, steps=1000),
    ),
}


def cells(config: Config, device: str) -> list[Cell]:
    """Every network of the study, seed by seed."""
    found = []
    for seed in seeds(config.seed, config.seeds):
        start = replace(
            config.cell, images=replace(config.cell.images, seed=seed), seed=seed, device=device
        )
        wide = {"width": config.wide, "checkpoints": config.wide_checkpoints}
        alone = {"bounds": False, "learn_at": 0.0}
        for network in config.networks:
            found.append(replace(start, network=network))
            if config.wide:
                found.append(replace(start, network=network, **wide, **alone))  # type: ignore[arg-type]
    return found


STUDY = Study(
    name="mode-curvature",
    title="What the eigenvalues are tied to",
    question="Are curvature, stability and speed of a conv layer's modes tied to R's eigenvalues?",
    experiment=EXPERIMENT,
    rule=RULE,
    presets=PRESETS,
    cells=cells,
    measure=Lazy("studies.chai2020.mode_curvature.measure:measure"),
    judge=Lazy("studies.chai2020.mode_curvature.judge:judge"),
)
