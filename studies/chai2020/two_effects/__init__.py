"""Study ``two-effects``: does amplifying give the speed, and suppressing the stability?

BatchNorm divides each channel by its standard deviation s = min(s, 1) max(s, 1). The paper's second
claim is that the two factors do different things. Dividing by min(s, 1) amplifies weak channels,
raises the smallest eigenvalue of R and speeds training up. Dividing by max(s, 1) suppresses strong
channels, lowers the largest eigenvalue and allows larger learning rates. Here the same network gets
one part at a time, with the same initial weights and the same images in the same order. Two numbers
are measured: the updates it needs at a low rate, and the highest rate at which it is stable.

The networks, settings and limits are ours. The limits were fixed before the runs; the settings
were chosen on other seeds than those used here, for a clear effect. The first setting that was
tried, a linear layer on 2 x 2 maps, is reported among the other settings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from studies.engine.protocol import Lazy, Study, seeds
from studies.training.images import Images
from studies.training.rates import geometric_rates

if TYPE_CHECKING:
    from studies.training.networks import Init, Network, Position

__all__ = ["EXPERIMENT", "PRESETS", "RULE", "STUDY", "Cell", "Config", "plan"]

BASE = "base"
CORE = ("none", "center", "amplify", "suppress", "full")
CONTROLS = (
    "full_uncentered",
    "amplify_uncentered",
    "suppress_uncentered",
    "frozen",
    "detached",
    "layer",
    "equal_power",
)
SETTINGS: dict[str, dict[str, Any]] = {
    "He init": {"init": "he"},
    "default init": {"init": "default"},
    "position post": {"position": "post"},
    "momentum 0.9": {"momentum": 0.9},
    "2 x 2 head": {"head": 2},
    "badly scaled input": {"badly_scaled": True},
    "residual": {"network": "residual"},
    "half as wide": {"times_width": 0.5},
    "twice as wide": {"times_width": 2.0},
}
SETTING_VARIANTS = ("none", "amplify", "suppress", "full")

SPEED_UP, NO_SPEED_UP, SHARE = 1.5, 1.2, 0.7
RATE_UP, NO_RATE_UP = 3.0, 2.0
SEEDS_FOR_EVERY = 5

EXPERIMENT = (
    "Six 3x3 convolutions of 16 to 32 channels and one linear layer, plain SGD on batches of 32 "
    "images of 16x16 pixels, He initialisation with each filter multiplied by 10^U(-1/2, 1/2) and "
    "the layer's power kept. Between each ReLU and the next layer there is nothing, centring, or "
    "centring with amplifying, suppressing or both. Per seed, all variants start from the same "
    "weights and see the same batches. Speed is the number of updates at learning rate 0.01 until "
    "the loss, averaged over 10 updates, is below 2.2. The highest stable rate is found by "
    "bisection on a grid of half octaves; a run has diverged when its loss is not finite, or its "
    "average stays above twice the larger of its start and ln(classes) for 20 updates; it is dead "
    "when its logits no longer depend on the image. Networks, settings and limits are ours, not "
    "the paper's."
)
RULE = (
    "Six checks, each paired per seed and on the one-sided 95 % bound of the median, which assumes "
    f"no distribution: amplifying is at least {SPEED_UP} times as fast as no normalization, "
    f"suppressing at most {NO_SPEED_UP} times; amplifying takes at least {SHARE:.0%} of full "
    "BatchNorm's gain in log speed; suppressing raises the highest stable rate at least "
    f"{RATE_UP:g} times, amplifying at most {NO_RATE_UP:g} times; and in every seed amplifying "
    "raises the smallest eigenvalue of R and suppressing lowers the largest. The claim holds if "
    "all six hold and fails if one fails."
)


@dataclass(frozen=True)
class Cell:
    """One network with one normalization.

    Attributes
    ----------
    images : what it is trained on.
    rates : the grid on which the highest stable rate is searched.
    variant : a name in ``cnnbridge.normalization.NORMALIZATION_VARIANTS``.
    seed : of the weights and of the order of the images.
    network : "plain" is ``PlainVGG``; "residual" is ``SmallResNet``, which has no position.
    init, position, head, widths : of the network, see there and ``draw_weights``.
    momentum : torch's.
    badly_scaled : multiply the channels of the images by 0.1 to 10, a single one by 10.
    batch_size : images per update.
    low_rate, threshold, low_steps : speed is the number of updates at the low rate until the
        smoothed loss is below the threshold, at most ``low_steps``.
    rate_steps : updates that a stable rate must neither diverge nor kill the network in.
    probe : images of the batch on which the start is measured.
    predict : measure the candidates that cost more than a forward pass.
    device : ``cpu`` or ``cuda``.
    """

    images: Images
    rates: tuple[float, ...]
    variant: str = "none"
    seed: int = 0
    network: Network = "plain"
    init: Init = "spread"
    position: Position = "pre"
    momentum: float = 0.0
    badly_scaled: bool = False
    head: int = 1
    widths: tuple[int, ...] = (16, 16, 32, 32, 32, 32)
    batch_size: int = 32
    low_rate: float = 0.01
    threshold: float = 2.2
    low_steps: int = 400
    rate_steps: int = 100
    probe: int = 64
    predict: bool = True
    device: str = "cpu"


@dataclass(frozen=True)
class Config:
    """A preset of the study.

    Attributes
    ----------
    preset : its name.
    seed : of the images; the networks' seeds follow from it.
    seeds, control_seeds, setting_seeds : networks of each core variant, of each control, and of
        each variant in each of ``SETTINGS``.
    cell : the cell from which all others are made.
    """

    preset: str
    seed: int
    seeds: int
    control_seeds: int
    setting_seeds: int
    cell: Cell


_LAPTOP = Config(
    "laptop",
    seed=0,
    seeds=5,
    control_seeds=2,
    setting_seeds=2,
    cell=Cell(Images(limit=2000, size=16), geometric_rates(0.0125, octaves=13)),
)
PRESETS = {
    "smoke": replace(
        _LAPTOP,
        preset="smoke",
        seeds=1,
        control_seeds=0,
        setting_seeds=0,
        cell=replace(
            _LAPTOP.cell,
            images=Images(limit=400, size=16),
            rates=geometric_rates(0.0125, octaves=10, per_octave=1),
            widths=(8, 8, 8, 8, 8, 8),
            low_steps=60,
            rate_steps=30,
            predict=False,
        ),
    ),
    "laptop": _LAPTOP,
    "full": replace(
        _LAPTOP,
        preset="full",
        control_seeds=3,
        cell=replace(
            _LAPTOP.cell,
            images=Images(limit=50_000, size=32),
            widths=(32, 32, 64, 64, 128, 128),
            low_steps=1000,
            rate_steps=200,
        ),
    ),
}


def plan(config: Config, device: str = "cpu") -> list[tuple[str, Cell]]:
    """Every cell with the name of its setting, ``BASE`` or one of ``SETTINGS``.

    They come seed by seed, so that a run that is cut short has every variant. Candidates are
    measured for few seeds; the rest of the time goes into runs.
    """
    common = replace(config.cell, device=device)
    found: list[tuple[str, Cell]] = []
    count = max(config.seeds, config.control_seeds, config.setting_seeds)
    for k, seed in enumerate(seeds(config.seed, count)):
        base = replace(common, seed=seed, predict=common.predict and k < 2)
        variants = [*(CORE if k < config.seeds else ())]
        variants += CONTROLS if k < config.control_seeds else ()
        found += [(BASE, replace(base, variant=variant)) for variant in variants]
        for setting, options in SETTINGS.items() if k < config.setting_seeds else ():
            cell = _changed(replace(base, predict=common.predict and k < 1), **options)
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
