"""Study ``after-first-step``: does BatchNorm go on approximating NLMS after the first step?

The second half of the paper's third claim; the first is the study ``first-step``. "Approximating"
can be read in four ways, from the weakest to the strongest, and each is asked by itself: the
gradient step at the statistics of its batch; the whole step, with the new statistics that the
effective weights are read with after it; the way that training takes at a low rate; and the rates
that training stands.

All of this had been seen before the rule was written: on networks 1000 to 1002 and images drawn
with seed 0, which used to be the second part of ``first-step``. So networks and images here are
others, and no number of the rule was chosen by what these come to. What the four come to could be
guessed all the same; whether the rescaling explains it could not. The distance of effective weights
measured by s was added after a first run, and has no say.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

import cnnbridge
from studies.chai2020.after_first_step import tables as writing
from studies.chai2020.after_first_step.judge import (
    DISTANCE,
    FACTOR,
    LOSS,
    READINGS,
    SLOPE_OFF,
    WHOLE_STEP,
    Found,
    beside_checks,
    conclusion,
)
from studies.chai2020.after_first_step.twin import effective_weights, nlms_twin
from studies.chai2020.nlms import adjacent, compare
from studies.chai2020.nlms_checks import TOLERANCE
from studies.chai2020.two_effects.measure import image_tensors
from studies.engine import page as report
from studies.engine import summary as results
from studies.engine.running import measured, pick, running
from studies.engine.summary import Answer, Summary
from studies.training.networks import POSITIONS, PlainVGG, Position, draw_weights
from studies.training.rates import geometric_rates, highest_on_grid
from studies.training.sgd import SgdRun, batch_order, choose_device, run_sgd

__all__ = ["EXPERIMENT", "PRESETS", "RULE", "Cell", "Config", "configure", "measure", "run"]

Algorithm = Literal["batch norm", "NLMS steps", "NLMS steps, rescaled", "nothing"]

ALGORITHMS: tuple[Algorithm, ...] = (
    "batch norm",
    "NLMS steps",
    "NLMS steps, rescaled",
    "nothing",
)
FRESH = 70_000  # no network and no draw of images that this was seen on before

EXPERIMENT = (
    "Six convolutions and a linear layer with BatchNorm. Along training, in both positions, each "
    "layer's step of SGD is compared with the step of power-normalised NLMS on the same batch, "
    "before the statistics are taken anew and after. Then a network that takes NLMS steps only, "
    "with live statistics but effective weights that are not rescaled when these change, is "
    "trained beside the one with BatchNorm before the layer, from the same function on the same "
    "batches: at a low rate, update by update, and up to the highest rate that either stands. A "
    "second such network has the rescaling put back, so that it differs from BatchNorm only by the "
    "gradient through the statistics. Network and settings are ours, not the paper's."
)
RULE = (
    "The claim's second half holds if all of four readings hold, fails if one fails, and is "
    "inconclusive otherwise. (a) As a gradient step: at every update visited, in every layer, "
    "both positions and for every seed, SGD's step and the NLMS step of the same batch from the "
    f"same weights, with the s of that batch, differ by no more than {TOLERANCE:g} of the step. "
    "(b) As a whole step: g(n+1) = w(n+1) / s(n+1), with s taken anew on the same batch, departs "
    f"from the NLMS step by at most {WHOLE_STEP:g} of it, at the low rate, in both positions. (c) "
    "As a trajectory: over the first updates at the low rate NLMS steps alone keep the loss, "
    f"averaged over 10 updates, within {LOSS:.0%} of BatchNorm's throughout, and at their end the "
    f"effective weights are no further from BatchNorm's than {DISTANCE:.0%} of the way that "
    "BatchNorm's have gone, median over layers, s taken on one batch. (d) As a bound on the rate: "
    f"the highest stable rate is within a factor of {FACTOR:g} of BatchNorm's. In (b), (c) and (d) "
    "values are paired by seed, and a reading holds when the one-sided 95 % bound of the median "
    "over seeds is inside the limit and fails when the other bound is outside. Beside these, "
    "without a say: whether the rescaling alone brings the highest stable rate back to within a "
    f"factor of {FACTOR:g} of BatchNorm's, and how the departure scales: on one batch the change "
    "of s with the first power of the rate, between batches with the power -1/2 of the batch "
    f"size, each within {SLOPE_OFF:g}."
)


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run, but for library versions.

    Attributes
    ----------
    preset : the name of the preset this came from.
    data, data_root, images, image_size : see ``studies.training.images.load``.
    seed : images and networks follow from it.
    seeds : networks.
    widths : of the six convolutions.
    batch_size : images per update.
    low_rate, low_steps : of the readings "whole step" and "trajectory".
    step_images, step_rate, visits : gradient steps are compared before these updates of a training
        with so many images per batch, at this rate.
    departure_rates, departure_batches, departure_steps : grid on which the departure is followed;
        the low rate and the batch size are on it.
    loss_rates, loss_steps : of the runs that show the cost in loss.
    rate_lowest, rate_octaves, rate_steps : the grid of the highest stable rate, by half octaves,
        and the updates of one run on it.
    """

    preset: str
    data: str = "mnist5k"
    data_root: str | None = None
    seed: int = 0
    images: int = 2000
    image_size: int | None = 16
    seeds: int = 5
    widths: tuple[int, ...] = (16, 16, 32, 32, 32, 32)
    batch_size: int = 32
    low_rate: float = 0.01
    low_steps: int = 50
    step_images: int = 8
    step_rate: float = 0.1
    visits: tuple[int, ...] = (1, 10, 50)
    departure_rates: tuple[float, ...] = (1e-4, 1e-2, 1e-1)
    departure_batches: tuple[int, ...] = (8, 32, 64)
    departure_steps: int = 5
    loss_rates: tuple[float, ...] = (0.003, 0.01, 0.1)
    loss_steps: int = 100
    rate_lowest: float = 0.0125
    rate_octaves: int = 13
    rate_steps: int = 100

    @property
    def rates(self) -> tuple[float, ...]:
        """The grid of learning rates."""
        return geometric_rates(self.rate_lowest, self.rate_octaves)

    @property
    def network_seeds(self) -> list[int]:
        """One for each network: of its weights and of the order of the images."""
        return [FRESH + 1000 * self.seed + k for k in range(self.seeds)]


PRESETS = {
    "smoke": Config(
        "smoke",
        images=300,
        seeds=1,
        widths=(4, 4, 8, 8, 8, 8),
        low_steps=10,
        visits=(1, 5),
        departure_rates=(1e-3, 1e-2),
        departure_batches=(8, 32),
        departure_steps=3,
        loss_rates=(0.01,),
        loss_steps=10,
        rate_octaves=2,
        rate_lowest=0.8,
        rate_steps=10,
    ),
    "laptop": Config("laptop"),
    "full": Config(
        "full",
        images=50_000,
        image_size=32,
        seeds=5,
        widths=(32, 32, 64, 64, 128, 128),
        visits=(1, 5, 20, 50, 200),
        departure_batches=(8, 32, 128),
        departure_steps=50,
        loss_steps=500,
        rate_steps=300,
    ),
}


def configure(
    preset: str, *, data: str = "mnist5k", data_root: str | Path | None = None, seed: int = 0
) -> Config:
    """A preset with the user's choices put in."""
    chosen: Config = pick(PRESETS, preset, data=data, data_root=data_root, seed=seed)
    return chosen


# --- the cells -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One network and one thing that is done with it.

    Attributes
    ----------
    part : "steps", "departure", "path" or "training".
    position : of the normalization.
    seed : of the weights and the order of the images.
    algorithm : of "training".
    config : of the study.
    device : ``cpu`` or ``cuda``.
    """

    part: Literal["steps", "departure", "path", "training"]
    position: Position
    seed: int
    config: Config
    algorithm: Algorithm = "batch norm"
    device: str = "cpu"


def _images(config: Config) -> tuple[torch.Tensor, torch.Tensor, int]:
    return image_tensors(
        config.data, config.data_root, FRESH + config.seed, config.images, config.image_size
    )


def measure(cell: Cell) -> dict[str, Any]:
    """What one cell comes to; the keys depend on its part."""
    images, labels, classes = _images(cell.config)
    images, labels = images.to(cell.device), labels.to(cell.device)
    variant = "none" if cell.algorithm == "nothing" else "full"
    model = PlainVGG(images.shape[1], classes, cell.config.widths, variant, cell.position)
    draw_weights(model, "spread", cell.seed)
    model.to(cell.device).train()
    if cell.part == "training":
        return _training(cell, model, images, labels, classes)
    if cell.part == "path":
        return _path(cell, model, images, labels)
    return {"steps": _steps, "departure": _departure}[cell.part](
        cell, model.double(), images.double(), labels
    )


def _steps(
    cell: Cell, model: PlainVGG, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, Any]:
    """Gradient steps, each compared on the batch of which training then takes it."""
    config = cell.config
    optimiser = torch.optim.SGD(model.parameters(), lr=config.step_rate)
    rows = []
    batches = batch_order(len(images), config.step_images, max(config.visits) + 1, cell.seed)
    for update, chosen in enumerate(batches):
        x, wanted = images[chosen.to(images.device)], labels[chosen.to(images.device)]
        if update in config.visits:
            rows += [{"update": update} | row for row in compare(model, x, wanted)]
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), wanted).backward()
        optimiser.step()
    return {"steps": rows}


def _departure(
    cell: Cell, model: PlainVGG, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, Any]:
    config = cell.config
    pairs = adjacent(model)
    layer, norm, conv = pairs[len(pairs) // 2]
    with np.errstate(all="ignore"):
        grid = cnnbridge.nlms_departures(
            model,
            norm,
            conv,
            images,
            labels,
            nn.functional.cross_entropy,
            lrs=config.departure_rates,
            batch_sizes=config.departure_batches,
            steps=config.departure_steps,
            seed=cell.seed,
        )
    # one number for each rate and batch size: the median over the steps
    return {"layer": layer} | {
        name: np.median(getattr(grid, name), axis=-1)
        for name in ("scale", "same_batch_scale", "step", "same_batch")
    }


def _first_batch(cell: Cell, images: torch.Tensor) -> torch.Tensor:
    chosen = next(batch_order(len(images), cell.config.batch_size, 1, cell.seed))
    return images[chosen.to(images.device)]


def _path(
    cell: Cell, model: PlainVGG, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, Any]:
    """BatchNorm and its twins side by side at the low rate, on the same batches."""
    config = cell.config
    probe = _first_batch(cell, images)
    start = effective_weights(model, probe)
    nets: dict[str, Any] = {
        "NLMS steps": nlms_twin(model, probe),
        "NLMS steps, rescaled": nlms_twin(model, probe, rescale=True),
    }
    nets["batch norm"] = (model, lambda: None)
    optimisers = {
        name: torch.optim.SGD(net.parameters(), lr=config.low_rate)
        for name, (net, _) in nets.items()
    }
    loss: dict[str, list[float]] = {name: [] for name in nets}
    twins = [name for name in nets if name != "batch norm"]
    distance: dict[str, list[float]] = {name: [] for name in twins}
    by_s: dict[str, list[float]] = {name: [] for name in twins}
    for chosen in batch_order(len(images), config.batch_size, config.low_steps, cell.seed):
        chosen = chosen.to(images.device)
        now = {}
        for name, (net, adjust) in nets.items():
            optimisers[name].zero_grad()
            value = nn.functional.cross_entropy(net(images[chosen]), labels[chosen])
            value.backward()
            adjust()
            optimisers[name].step()
            loss[name].append(value.item())
            # on the first batch always, so that no sampling noise of s is counted as a way
            now[name] = effective_weights(net, probe)
        for name in twins:
            layers = list(zip(now[name], now["batch norm"], start, strict=True))
            distance[name].append(_apart((g, ours, at) for (g, _), (ours, _), (at, _) in layers))
            by_s[name].append(
                _apart((g * s, ours * s, at * s) for (g, _), (ours, _), (at, s) in layers)
            )
    return {"loss": loss, "distance": distance, "distance_by_s": by_s}


def _apart(layers: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> float:
    """Distance of two ends over the way from the start to the second, median over layers."""
    return float(
        np.median([float((g - ours).norm() / (ours - at).norm()) for g, ours, at in layers])
    )


def _training(
    cell: Cell, start: PlainVGG, images: torch.Tensor, labels: torch.Tensor, classes: int
) -> dict[str, Any]:
    config = cell.config
    first = _first_batch(cell, images)

    def train(lr: float, steps: int) -> SgdRun:
        model, adjust = copy.deepcopy(start), None
        if cell.algorithm.startswith("NLMS"):
            rescale = cell.algorithm == "NLMS steps, rescaled"
            model, adjust = nlms_twin(model, first, rescale=rescale)
        return run_sgd(
            model,
            images,
            labels,
            lr=lr,
            steps=steps,
            batch_size=config.batch_size,
            seed=cell.seed,
            classes=classes,
            adjust=adjust,
        )

    losses = {f"{lr:g}": train(lr, config.loss_steps) for lr in config.loss_rates}
    index = highest_on_grid(config.rates, lambda lr: train(lr, config.rate_steps).state == "stable")
    return {
        "loss": {lr: [round(float(v), 6) for v in run.loss] for lr, run in losses.items()},
        "state": {lr: run.state for lr, run in losses.items()},
        "rate_index": index,
    }


def grid(config: Config, device: str) -> list[Cell]:
    """Every cell of the study."""
    cells = []
    for s in config.network_seeds:
        for p in POSITIONS:
            cells += [Cell("steps", p, s, config, device=device)]
            cells += [Cell("departure", p, s, config, device=device)]
        cells += [Cell("path", "pre", s, config, device=device)]
        cells += [Cell("training", "pre", s, config, a, device) for a in ALGORITHMS]
    return cells


# --- running it ------------------------------------------------------------------------------


def run(
    config: Config,
    out: str | Path,
    *,
    device: str = "auto",
    command: str | None = None,
    workers: int | None = None,
) -> Summary:
    """Run the study and leave its results in a folder; a repeated run skips what is there.

    Parameters
    ----------
    config : of the study, see ``configure``.
    out : folder for the results; made if need be.
    device : ``auto``, ``cpu`` or ``cuda``.
    command : what to print as the command that repeats the run.
    workers : processes; one for each processor by default.

    Returns
    -------
    Summary, as written.

    Raises
    ------
    UserError : the device, the data or the folder are not to be had.
    """
    where = choose_device(device)
    out = results.output_folder(Path(out))
    answer = Answer(experiment=EXPERIMENT, rule=RULE)
    found = Found()

    def finish(summary: Summary) -> None:
        writing.write_report(out, summary, found, config)

    with running(
        "after-first-step", config, out, device=where, command=command, answer=answer, finish=finish
    ) as (summary, save):
        _images(config)  # what is wrong with the data is said once, not by every cell
        plan = grid(config, where.type)
        cells = measured(measure, plan, out, summary, workers=workers, version="1")
        found = Found.of(cells)
        judged = {name: checks(found, config) for name, checks in READINGS}
        beside = beside_checks(found, config)
        readings = {
            name: results.worst(check.verdict for check in checks)
            for name, checks in judged.items()
        }
        summary.checks += [check for checks in judged.values() for check in checks] + beside
        summary.results |= {"readings": readings} | writing.tables(found, config)
        caption, alt = writing.FIGURES["after"]
        summary.answer = replace(
            answer,
            verdict=results.worst(readings.values()),
            reason=conclusion(readings, beside[0].verdict),
            numbers=[
                *((name, verdict) for name, verdict in readings.items()),
                *((c.name, report.number(c.observed, 2)) for c in summary.checks),
            ],
            figure="after.png" if found.paths and found.training else None,
            caption=caption,
            alt=alt,
            against=writing.evidence_against(found, config),
        )
        save()
    writing.print_results(summary, found, config, out)
    return summary
