"""Study ``two-effects``: does amplifying give the speed, and suppressing the stability?

BatchNorm divides each channel by its standard deviation s = min(s, 1) max(s, 1). The paper's second
claim is that the two factors do different things. Dividing by min(s, 1) amplifies weak channels,
raises the smallest eigenvalue of R and speeds training up. Dividing by max(s, 1) suppresses strong
channels, lowers the largest eigenvalue and keeps training stable. Here the same network gets one
part at a time, with the same initial weights and the same images in the same order.

"Stable" is read in two ways, both from the whole run: the lowest learning rate at which a network
fails (explodes or dies), and the highest at which it learns. A rule that watches for a loss above a
ceiling is kept as one row of a table, because the ceiling decides what it says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from studies.engine.power import Prediction
from studies.engine.protocol import Lazy, Study, seeds
from studies.training.images import Images
from studies.training.rates import geometric_rates

if TYPE_CHECKING:
    from studies.training.networks import Affine, Init, Network, Position

__all__ = ["EXPERIMENT", "PREDICTIONS", "PRESETS", "RULE", "STUDY", "Cell", "Config", "plan"]

# Settings: what is held fixed while the variants change. The first two decide.
BARE, TORCH = "nothing learned", "as in torch"
CORE = ("none", "amplify", "suppress", "full", "frozen")
CONTROLS = (
    "center",
    "full_uncentered",
    "amplify_uncentered",
    "suppress_uncentered",
    "detached",
    "layer",
    "equal_power",
)
SETTINGS: dict[str, dict[str, Any]] = {
    "He init": {"init": "he"},
    "default init": {"init": "default"},
    "momentum 0.9": {"momentum": 0.9},
    "averaged maps": {"head": 1},
    "badly scaled input": {"badly_scaled": True},
    "residual": {"network": "residual"},
}
SETTING_VARIANTS = ("none", "amplify", "suppress", "full")
ORDERS: dict[Position, str] = {"pre": "ReLU first", "post": "norm first"}
FORMS: tuple[Affine, ...] = ("none", "all", "last", "inner", "gain", "shift", "bounded")

SPEED_UP, NO_SPEED_UP, SHARE = 1.5, 1.2, 0.7
SEEDS_FOR_EVERY = 5
ALLOWANCES = (10.0, 30.0, 100.0, 300.0)
CEILINGS = (2.0, 8.0, 32.0, 1000.0)
ACCURACIES = (0.5, 0.7)
LOSS = 1.5

EXPERIMENT = (
    "3x3 convolutions in pairs and one linear layer on 2 x 2 maps, plain SGD on batches of 32 "
    "images, drawn anew for every seed, He initialisation with each filter multiplied by "
    "10^U(-1/2, 1/2) and the layer's power kept. In one network nothing is learned in the "
    "normalization, which sits between ReLU and the next layer; in the other, as in torch's "
    "BatchNorm, gain and shift are learned and ReLU comes after it. The normalization is nothing, "
    "or centring with amplifying, suppressing or both, or full BatchNorm with the statistics of "
    "the first batch kept as constants. Per seed, all start from the same weights and see the same "
    "batches. Speed is the number of updates at a low rate until the loss, averaged over 10 "
    "updates, is below 2. At each rate of a grid a run explodes (its parameters' norm passes "
    "|theta_0| + K lr t, K = 100, what gradients of norm K allow, or overflows), dies (features of "
    "a fixed batch constant), learns (batch accuracy at the end above 0.5, mean of 10 updates), or "
    "does none of these. Networks, settings and limits are ours, not the paper's."
)
RULE = (
    "Twelve checks, paired per seed. Speed, with nothing learned in the normalization: amplifying "
    f"is at least {SPEED_UP} times as fast as no normalization, suppressing at most {NO_SPEED_UP} "
    f"times, and amplifying takes at least {SHARE:.0%} of full BatchNorm's gain in log speed. "
    "Eigenvalues: in every seed amplifying raises the smallest of R and suppressing lowers the "
    "largest. Stability, in both networks and by both criteria, the lowest rate that fails "
    "(explodes or dies) and the highest that learns: suppressing is above no normalization, and "
    "above amplifying. A rate is known as an interval of the grid, and the end that speaks against "
    "a verdict counts. The claim holds if all twelve hold, each by the one-sided 95 % bound of the "
    "median over seeds, which assumes no distribution; it fails if one fails, by a bound corrected "
    "for twelve checks. Whether the spectrum at the start explains the stability is asked "
    "separately and does not decide: frozen statistics have full BatchNorm's spectrum at the "
    "first step, and should then fail at no less than half its rate, and learn up to no less than "
    "half."
)
PREDICTIONS = (
    Prediction("amplifying: speed", SPEED_UP, "at least", 4.0, 1.0),
    Prediction("suppressing: speed", NO_SPEED_UP, "at most", 0.6, 4.0),
    Prediction("share of the speed", SHARE, "at least", 1.0, 0.3),
    *(
        Prediction(f"{network}, {criterion}, against {other}", 1.0, "at least", true, 1.0, 2.0)
        for network, true in ((BARE, 16.0), (TORCH, 4.0))
        for criterion in ("failing", "learning")
        for other in ("none", "amplifying")
    ),
)


@dataclass(frozen=True)
class Cell:
    """One network with one normalization.

    Attributes
    ----------
    images : what it is trained on; drawn with the cell's seed.
    rates : learning rates, one run each.
    variant : a name in ``cnnbridge.normalization.NORMALIZATION_VARIANTS``.
    affine, position : what the normalization learns, and where it is; see ``PlainVGG``.
    seed : of the images, the weights and the order of the images.
    network : "plain" is ``PlainVGG``; "residual" is ``SmallResNet``, which has no position.
    init, head, widths : of the network, see there and ``draw_weights``.
    momentum : torch's.
    badly_scaled : multiply the channels of the images by 0.1 to 10, a single one by 10.
    batch_size : images per update.
    steps : updates of the run at each rate.
    low_rate, threshold, low_steps : speed is the number of updates at the low rate until the
        smoothed loss is below the threshold, at most ``low_steps``; 0 leaves speed out.
    probe : images of the batch on which the start is measured.
    predict : measure what may predict speed and rates.
    device : ``cpu`` or ``cuda``.
    """

    images: Images
    rates: tuple[float, ...]
    variant: str = "none"
    affine: Affine = "none"
    position: Position = "pre"
    seed: int = 0
    network: Network = "plain"
    init: Init = "spread"
    momentum: float = 0.0
    badly_scaled: bool = False
    head: int = 2
    widths: tuple[int, ...] = (8, 8, 16, 16)
    batch_size: int = 32
    steps: int = 100
    low_rate: float = 0.03
    threshold: float = 2.0
    low_steps: int = 400
    probe: int = 64
    predict: bool = True
    device: str = "cpu"


@dataclass(frozen=True)
class Config:
    """A preset of the study.

    Attributes
    ----------
    preset : its name.
    seed : the networks' seeds follow from it.
    seeds, control_seeds, form_seeds, setting_seeds : networks of each core variant in the two
        deciding networks, of each control, of BatchNorm in each of ``FORMS`` and orders, and of
        each variant in each of ``SETTINGS``.
    cell : the cell from which all others are made.
    """

    preset: str
    seed: int
    seeds: int
    control_seeds: int
    form_seeds: int
    setting_seeds: int
    cell: Cell


# Octaves, then two rates far above, for what may never fail.
GRID = (*geometric_rates(1 / 16, octaves=10, per_octave=1), 1024.0, 1e6)
_LAPTOP = Config(
    "laptop",
    seed=0,
    seeds=8,
    control_seeds=1,
    form_seeds=1,
    setting_seeds=1,
    cell=Cell(Images(limit=2000, size=12), GRID),
)
PRESETS = {
    "smoke": replace(
        _LAPTOP,
        preset="smoke",
        seeds=1,
        control_seeds=0,
        form_seeds=0,
        setting_seeds=0,
        cell=replace(
            _LAPTOP.cell,
            images=Images(limit=400, size=8),
            rates=(0.125, 1.0, 8.0, 1024.0),
            widths=(4, 4),
            low_steps=40,
            steps=20,
            predict=False,
        ),
    ),
    "laptop": _LAPTOP,
    "full": replace(
        _LAPTOP,
        preset="full",
        control_seeds=4,
        form_seeds=4,
        setting_seeds=4,
        cell=replace(
            _LAPTOP.cell,
            images=Images(limit=50_000, size=32),
            rates=(*geometric_rates(1 / 64, octaves=12, per_octave=2), *GRID[-2:]),
            widths=(32, 32, 64, 64, 128, 128),
            low_steps=1000,
            steps=300,
        ),
    ),
}


def form_name(affine: Affine, position: Position) -> str:
    """The setting of BatchNorm with what it learns, in one order."""
    return f"learned: {affine}, {ORDERS[position]}"


def plan(config: Config, device: str = "cpu") -> list[tuple[str, Cell]]:
    """Every cell with the name of its setting.

    They come seed by seed, so that a run that is cut short has every variant. Predictors are
    measured for the first seed; the rest of the time goes into runs.
    """
    common = replace(config.cell, device=device)
    found: list[tuple[str, Cell]] = []
    counts = (config.seeds, config.control_seeds, config.form_seeds, config.setting_seeds)
    for k, seed in enumerate(seeds(config.seed, max(counts))):
        images = replace(common.images, seed=seed)
        bare = replace(common, images=images, seed=seed, predict=common.predict and k == 0)
        quick = replace(bare, predict=False, low_steps=0)
        torch = replace(quick, affine="all", position="post")
        if k < config.seeds:
            found += [(BARE, replace(bare, variant=v)) for v in CORE]
            found += [(TORCH, replace(torch, variant=v)) for v in CORE]
        if k < config.control_seeds:
            found += [(BARE, replace(bare, variant=v)) for v in CONTROLS]
        for position in ORDERS if k < config.form_seeds else ():
            for affine in FORMS:
                if (affine, position) not in (("none", "pre"), ("all", "post")):
                    cell = replace(quick, variant="full", affine=affine, position=position)
                    found.append((form_name(affine, position), cell))
        for setting, options in SETTINGS.items() if k < config.setting_seeds else ():
            cell = _changed(bare, **options)
            found += [(setting, replace(cell, variant=v)) for v in SETTING_VARIANTS]
    return found


def _changed(cell: Cell, times_width: float = 1.0, **options: Any) -> Cell:
    widths = tuple(round(times_width * width) for width in cell.widths)
    return replace(cell, widths=widths, **options)


def cells(config: Config, device: str) -> list[Cell]:
    """All cells of the study."""
    return [cell for _, cell in plan(config, device)]


STUDY = Study(
    name="two-effects",
    title="Two effects of BatchNorm, measured apart",
    question=(
        "Does amplifying weak channels give the speed, and suppressing strong ones the stability?"
    ),
    experiment=EXPERIMENT,
    rule=RULE,
    presets=PRESETS,
    cells=cells,
    measure=Lazy(f"{__name__}.measure:measure"),
    judge=Lazy(f"{__name__}.judge:judge"),
)
