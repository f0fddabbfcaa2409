"""Study ``two-effects``: does amplifying give the speed, and suppressing the stability?

BatchNorm divides each channel by its deviation s = min(s, 1) max(s, 1). The paper's second claim
is that the two factors do different things: dividing by min(s, 1), which amplifies weak channels,
raises the smallest eigenvalue of R and speeds training up; dividing by max(s, 1), which suppresses
strong ones, lowers the largest and lets larger learning rates through. Here each part is given to
the same network from the same weights, with the same images in the same order, and two numbers
are taken from each: the updates it needs at a low rate, and the highest rate that it stands.

The networks, settings and limits are ours. The limits were fixed before the runs; the settings
were chosen on other seeds than those used here, for a clear effect. The one that was tried first
and given up, a linear layer on 2 x 2 maps, is among those reported beside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from studies.chai2020.two_effects import figures as drawing
from studies.chai2020.two_effects.candidates import (
    Candidate,
    prediction_checks,
    rate_candidates,
    speed_candidates,
)
from studies.chai2020.two_effects.groups import (
    BASE,
    Group,
    Groups,
    both,
    eigenvalue_ratios,
    rate_ratios,
    speed_ratios,
)
from studies.chai2020.two_effects.measure import Cell, geometric_rates, image_tensors, measure
from studies.chai2020.two_effects.tables import (
    BESIDE_COLUMNS,
    VARIANT_COLUMNS,
    beside_rows,
    evidence_against,
    print_results,
    variant_rows,
    write_report,
)
from studies.engine import page as report
from studies.engine import paired
from studies.engine import summary as results
from studies.engine.grid import run_grid
from studies.engine.paired import Interval
from studies.engine.running import pick, running, usable
from studies.engine.summary import Answer, Check, Summary
from studies.training.sgd import choose_device

__all__ = ["EXPERIMENT", "PRESETS", "RULE", "Config", "Group", "configure", "run"]

Array = np.ndarray

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
BESIDE: dict[str, dict[str, Any]] = {
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
BESIDE_VARIANTS = ("none", "amplify", "suppress", "full")

SPEED_UP, NO_SPEED_UP, SHARE = 1.5, 1.2, 0.7
RATE_UP, NO_RATE_UP = 3.0, 2.0
SEEDS_FOR_EVERY = 5

EXPERIMENT = (
    "Six 3x3 convolutions of 16 to 32 channels and one linear layer, plain SGD on batches of 32 "
    "images of 16x16 pixels, He initialisation with each filter multiplied by 10^U(-1/2, 1/2) and "
    "the layer's power kept. Between ReLU and next layer stands nothing, centring, or centring "
    "with amplifying, suppressing or both. Per seed, all variants start from the same weights and "
    "see the same batches. Speed is the number of updates at learning rate 0.01 until the loss, "
    "averaged over 10 updates, is below 2.2. The highest stable rate is found by bisection on a "
    "grid of half octaves; a run has diverged when its loss is not finite, or its average stays "
    "above twice the larger of its start and ln(classes) for 20 updates; it is dead when its "
    "logits no longer depend on the image. Networks, settings and limits are ours, not the paper's."
)
RULE = (
    "Six checks, each paired per seed and on the one-sided 95 % bound of the median, which assumes "
    f"no distribution: amplifying is at least {SPEED_UP} times as fast as nothing, suppressing at "
    f"most {NO_SPEED_UP} times; amplifying takes at least {SHARE:.0%} of full BatchNorm's gain in "
    f"log speed; suppressing raises the highest stable rate at least {RATE_UP:g} times, amplifying "
    f"at most {NO_RATE_UP:g} times; and in every seed amplifying raises the smallest eigenvalue of "
    "R and suppressing lowers the largest. The claim holds if all six hold and fails if one fails."
)


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run, but for library versions.

    Attributes
    ----------
    preset : the name of the preset this came from.
    data, data_root, images, image_size : see ``studies.training.images.load``.
    seed : the images are drawn with it; the networks' seeds follow from it.
    seeds, control_seeds, beside_seeds : how many networks of each core variant, of each control,
        and of each setting reported beside.
    widths : of the six convolutions.
    low_steps : updates at the low rate, at most.
    rate_lowest, rate_octaves, rates_per_octave : the grid of the highest stable rate.
    rate_steps : updates of one run on that grid.
    predict : measure the candidates that might predict the highest stable rate.
    """

    preset: str
    data: str = "mnist5k"
    data_root: str | None = None
    seed: int = 0
    images: int = 2000
    image_size: int | None = 16
    seeds: int = 5
    control_seeds: int = 2
    beside_seeds: int = 2
    widths: tuple[int, ...] = (16, 16, 32, 32, 32, 32)
    low_steps: int = 400
    rate_lowest: float = 0.0125
    rate_octaves: int = 13
    rates_per_octave: int = 2
    rate_steps: int = 100
    predict: bool = True

    @property
    def rates(self) -> tuple[float, ...]:
        """The grid of learning rates."""
        return geometric_rates(self.rate_lowest, self.rate_octaves, self.rates_per_octave)


PRESETS = {
    "smoke": Config(
        "smoke",
        images=400,
        seeds=1,
        control_seeds=0,
        beside_seeds=0,
        widths=(8, 8, 8, 8, 8, 8),
        low_steps=60,
        rate_octaves=10,
        rates_per_octave=1,
        rate_steps=30,
        predict=False,
    ),
    "laptop": Config("laptop"),
    "full": Config(
        "full",
        images=50_000,
        image_size=32,
        control_seeds=3,
        widths=(32, 32, 64, 64, 128, 128),
        low_steps=1000,
        rate_steps=200,
    ),
}


def configure(
    preset: str, *, data: str = "mnist5k", data_root: str | Path | None = None, seed: int = 0
) -> Config:
    """A preset with the user's choices put in."""
    chosen: Config = pick(PRESETS, preset, data=data, data_root=data_root, seed=seed)
    return chosen


def grid(config: Config, device: str) -> list[tuple[str, Cell]]:
    """Every cell of the study with the setting it belongs to."""
    common = Cell(
        variant="none",
        seed=0,
        data=config.data,
        data_root=config.data_root,
        data_seed=config.seed,
        images=config.images,
        image_size=config.image_size,
        widths=config.widths,
        low_steps=config.low_steps,
        rates=config.rates,
        rate_steps=config.rate_steps,
        predict=config.predict,
        device=device,
    )

    def cells(
        seed: int,
        setting: str,
        variants: Iterable[str],
        times_width: float = 1.0,
        **options: Any,
    ) -> list[tuple[str, Cell]]:
        options["widths"] = tuple(round(times_width * width) for width in config.widths)
        return [(setting, replace(common, variant=v, seed=seed, **options)) for v in variants]

    found: list[tuple[str, Cell]] = []
    # seed by seed, so that a run which is cut short has something of everything
    for k in range(max(config.seeds, config.control_seeds, config.beside_seeds)):
        seed = 1000 * (config.seed + 1) + k
        if k < config.seeds:
            found += cells(seed, BASE, CORE)
        if k < config.control_seeds:
            found += cells(seed, BASE, CONTROLS)
        if k < config.beside_seeds:
            for setting, options in BESIDE.items():
                found += cells(seed, setting, BESIDE_VARIANTS, **options)
    # few seeds tell what a candidate predicts; the rest of the time goes into runs
    first = 1000 * (config.seed + 1)
    return [
        (
            setting,
            replace(
                cell, predict=cell.predict and cell.seed - first < (2 if setting == BASE else 1)
            ),
        )
        for setting, cell in found
    ]


# --- the verdicts ----------------------------------------------------------------------------


def shares(groups: Groups) -> list[Interval]:
    """Amplifying's part of full BatchNorm's gain in log speed, by seed.

    A seed in which full is no faster than nothing has no gain to share, and is left undecided.
    """
    found = []
    gains = zip(
        speed_ratios(groups, "amplify", "none"), speed_ratios(groups, "full", "none"), strict=False
    )
    for part, whole in gains:
        if whole[0] <= 1 or not math.isfinite(whole[1]) or part[0] <= 0:
            found.append((-math.inf, math.inf))
        else:
            ends = [math.log(p) / math.log(w) for p, w in zip(part, whole, strict=True)]
            found.append((min(ends), max(ends)))
    return found


def claim_checks(groups: Groups) -> list[Check]:
    """The six checks of the claim."""
    steps, rate = "times as fast", "times the highest stable rate"
    checks = [
        paired.judge(
            "amplifying against nothing: speed",
            speed_ratios(groups, "amplify", "none"),
            SPEED_UP,
            "at least",
            unit=steps,
        ),
        paired.judge(
            "suppressing against nothing: speed",
            speed_ratios(groups, "suppress", "none"),
            NO_SPEED_UP,
            "at most",
            unit=steps,
        ),
        paired.judge(
            "amplifying's share of full BatchNorm's gain in log speed",
            shares(groups),
            SHARE,
            "at least",
            unit="share",
        ),
        paired.judge(
            "suppressing against nothing: highest stable rate",
            rate_ratios(groups, "suppress", "none"),
            RATE_UP,
            "at least",
            unit=rate,
        ),
        paired.judge(
            "amplifying against nothing: highest stable rate",
            rate_ratios(groups, "amplify", "none"),
            NO_RATE_UP,
            "at most",
            unit=rate,
        ),
    ]
    lowest = eigenvalue_ratios(groups, "amplify", "none", "lowest")
    highest = eigenvalue_ratios(groups, "suppress", "none", "highest")
    right = sum(up[0] > 1 and down[1] < 1 for up, down in zip(lowest, highest, strict=True))
    enough = len(lowest) >= SEEDS_FOR_EVERY
    verdict: results.Verdict = "fails" if right < len(lowest) else "holds"
    checks.append(
        Check(
            name="amplifying raises the smallest eigenvalue, suppressing lowers the largest",
            predicted=float(len(lowest)),
            observed=float(right),
            tolerance=0.0,
            verdict=verdict if enough or verdict == "fails" else "inconclusive",
            rule=f"in every seed, of at least {SEEDS_FOR_EVERY}; median over the layers",
            unit="seeds",
            note=(
                f"smallest times {_range(lowest)}, largest times {_range(highest)}"
                if lowest
                else "no seed was run"
            ),
        )
    )
    return checks


def _range(values: Sequence[Interval]) -> str:
    middle = [v[0] for v in values]
    return f"{report.number(min(middle), 2)} to {report.number(max(middle), 2)}"


def collect(settings: Sequence[str], cells: Sequence[Any], config: Config) -> Groups:
    """Results by setting and variant."""
    groups: Groups = {}
    for setting, cell in zip(settings, cells, strict=True):
        if cell.error is not None:
            continue
        variant = cell.config["variant"]
        group = groups.setdefault(
            (setting, variant),
            Group(
                setting, variant, cell.config["momentum"], {}, config.low_steps, tuple(config.rates)
            ),
        )
        group.results[cell.config["seed"]] = cell.result
    return groups


def run(
    config: Config,
    out: str | Path,
    *,
    device: str = "auto",
    command: str | None = None,
    workers: int | None = None,
) -> Summary:
    """Run the study and leave its results in a folder.

    Every cell is on disk as soon as it is done, and a run that is repeated in the same folder
    skips what is there.

    Parameters
    ----------
    config : of the study, see ``configure``.
    out : folder for the results; made if need be.
    device : ``auto``, ``cpu`` or ``cuda``.
    command : what to print as the command that repeats the run.
    workers : processes; one for each processor by default.

    Returns
    -------
    Summary, as written. Its ``status`` is ``complete`` when every cell came to a result, whatever
    the verdicts.

    Raises
    ------
    UserError : the device, the data or the folder are not to be had.
    """
    where = choose_device(device)
    out = results.output_folder(Path(out))
    answer = Answer(experiment=EXPERIMENT, rule=RULE)
    found: dict[str, Any] = {"groups": {}, "rates": [], "speeds": []}

    def finish(summary: Summary) -> None:
        write_report(out, summary, found["groups"], found["rates"], found["speeds"])

    with running(
        "two-effects",
        config,
        out,
        device=where,
        command=command,
        answer=answer,
        finish=finish,
    ) as (summary, save):
        # what is wrong with the data is said once and at once, not by every cell
        image_tensors(config.data, config.data_root, config.seed, config.images, config.image_size)
        plan = grid(config, where.type)
        cells = run_grid(
            measure,
            [cell for _, cell in plan],
            out / "cells",
            workers=workers,
            version="3",
        )
        usable(cells, summary)
        groups = collect([setting for setting, _ in plan], cells, config)
        rates, speeds = rate_candidates(groups), speed_candidates(groups)
        found |= {"groups": groups, "rates": rates, "speeds": speeds}
        claim = claim_checks(groups)
        summary.checks += claim + prediction_checks(rates, speeds, config.seed)
        summary.results |= {
            "variants": [
                dict(zip(VARIANT_COLUMNS, row, strict=True)) for row in variant_rows(groups)
            ],
            "settings": [dict(zip(BESIDE_COLUMNS, r, strict=True)) for r in beside_rows(groups)],
            "rate_candidates": rates,
            "speed_candidates": speeds,
        }
        summary.answer = _answer(answer, claim, groups, rates)
        save()
    print_results(summary, groups, rates, speeds, out)
    return summary


def _answer(
    answer: Answer, claim: Sequence[Check], groups: Groups, rates: Sequence[Candidate]
) -> Answer:
    verdict = results.worst(check.verdict for check in claim)
    caption, alt = drawing.FIGURES["effects"][1:]
    return replace(
        answer,
        verdict=verdict,
        reason=f"{results.tally(claim)} with {len(both(groups, 'amplify', 'none')[2])} seeds.",
        numbers=report.numbers(claim),
        figure="effects.png",
        caption=caption,
        alt=alt,
        against=evidence_against(groups, rates),
    )
