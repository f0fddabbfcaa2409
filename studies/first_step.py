"""Study ``first-step``: is a step behind BatchNorm a step of NLMS, and for how long?

In effective weights the step of SGD behind a normalization is, at the statistics of that batch,
the step of power-normalised NLMS. The paper's third claim says so for the first step. Here both
steps are taken of the same batch, in every layer of a network and in both positions, and laid side
by side. Then the two are followed: how far they part at each step, what training by NLMS steps
alone costs in loss, and the rate at which it breaks.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

import cnnbridge
from cnnbridge import SplitBatchNorm
from studies import STUDIES, paired, report, results
from studies import first_step_figures as drawing
from studies.models import PlainVGG, Position, draw_weights
from studies.nlms_twin import nlms_twin
from studies.normalized_runs import geometric_rates, image_tensors
from studies.predictors import highest_on_grid
from studies.results import Answer, Check, Summary
from studies.running import pick, running, usable
from studies.sweep import run_grid
from studies.training import batch_order, choose_device, run_sgd, running_mean

__all__ = ["EXPERIMENT", "PRESETS", "RULE", "Cell", "Config", "configure", "measure", "run"]

Array = np.ndarray
Algorithm = Literal["batch norm", "NLMS steps", "fixed statistics", "nothing"]

ALGORITHMS: tuple[Algorithm, ...] = ("batch norm", "NLMS steps", "fixed statistics", "nothing")
VARIANTS = {"batch norm": "full", "fixed statistics": "frozen", "nothing": "none"}
TOLERANCE = 1e-9
SLOPE_RATE, SLOPE_BATCH = (1.0, 0.2), (-0.5, 0.2)
APART = 0.05

EXPERIMENT = (
    "Six convolutions and a linear layer with BatchNorm before or after each layer, in float64. "
    "One step of SGD on a batch, and the step of power-normalised NLMS from the same error, are "
    "compared in effective weights, layer by layer, at the start of training and after some "
    "updates. Then the departure of the two is followed for learning rates and batch sizes, and a "
    "network that takes NLMS steps only, with live statistics but weights that are not rescaled, "
    "is trained beside the one with BatchNorm. Network and settings are ours, not the paper's."
)
RULE = (
    "The claim holds if in both positions the two first steps differ by no more than "
    f"{TOLERANCE:g} of the step, in every layer, for every seed, at the start and later in "
    "training. How the departure grows afterwards is checked beside it and does not decide: on one "
    "batch the change of scale goes with the first power of the rate, and the noise of the scale "
    "with the power -1/2 of the batch size, each within 0.2."
)


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run, but for library versions.

    Attributes
    ----------
    preset : the name of the preset this came from.
    data, data_root, images, image_size : see ``studies.data.load``.
    seed : the images are drawn with it; the networks' seeds follow from it.
    seeds : networks.
    widths : of the six convolutions.
    step_images : of the batch on which first steps are compared.
    updates_before : after so many updates steps are compared again.
    departure_rates, departure_batches, departure_steps : grid on which the departure is followed.
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
    seeds: int = 3
    widths: tuple[int, ...] = (16, 16, 32, 32, 32, 32)
    step_images: int = 16
    updates_before: int = 50
    departure_rates: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    departure_batches: tuple[int, ...] = (8, 32, 128)
    departure_steps: int = 12
    loss_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    loss_steps: int = 150
    rate_lowest: float = 0.0125
    rate_octaves: int = 13
    rate_steps: int = 100

    @property
    def rates(self) -> tuple[float, ...]:
        """The grid of learning rates."""
        return geometric_rates(self.rate_lowest, self.rate_octaves)


PRESETS = {
    "smoke": Config(
        "smoke",
        images=300,
        seeds=1,
        widths=(4, 4, 8, 8, 8, 8),
        step_images=8,
        updates_before=5,
        departure_rates=(1e-4, 1e-3),
        departure_batches=(8, 32),
        departure_steps=4,
        loss_rates=(0.01,),
        loss_steps=20,
        rate_octaves=4,
        rate_lowest=0.2,
        rate_steps=12,
    ),
    "laptop": Config("laptop"),
    "full": Config(
        "full",
        images=50_000,
        image_size=32,
        seeds=10,
        widths=(32, 32, 64, 64, 128, 128),
        departure_steps=50,
        loss_steps=1000,
        rate_steps=500,
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
    part : "steps", "departure" or "training".
    position : of the normalization.
    seed : of the weights and the order of the images.
    algorithm : of "training".
    config : of the study.
    device : ``cpu`` or ``cuda``.
    """

    part: Literal["steps", "departure", "training"]
    position: Position
    seed: int
    config: Config
    algorithm: Algorithm = "batch norm"
    device: str = "cpu"


def _images(cell: Cell) -> tuple[torch.Tensor, torch.Tensor, int]:
    config = cell.config
    images, labels, classes = image_tensors(
        config.data, config.data_root, config.seed, config.images, config.image_size
    )
    return images.to(cell.device), labels.to(cell.device), classes


def _network(cell: Cell, channels: int, classes: int, variant: str = "full") -> PlainVGG:
    model = PlainVGG(channels, classes, cell.config.widths, variant, cell.position)
    draw_weights(model, "spread", cell.seed)
    return model.to(cell.device).train()


def adjacent(model: PlainVGG) -> list[tuple[str, str, str]]:
    """(layer in words, name of the normalization, name of the convolution beside it)."""
    names = [(f"features.{i}", part) for i, part in enumerate(model.features)]
    if model.position == "post":
        names.reverse()
    convs = [name for name, part in names if isinstance(part, nn.Conv2d)]
    numbers = {name: i for i, name in enumerate(sorted(convs, key=lambda n: int(n[9:])), start=1)}
    found = []
    for i, (name, part) in enumerate(names):
        if isinstance(part, SplitBatchNorm) and i + 1 < len(names):
            conv = names[i + 1][0]
            found.append((f"conv{numbers[conv]}", name, conv))
    return found if model.position == "pre" else found[::-1]


def measure(cell: Cell) -> dict[str, Any]:
    """What one cell comes to; the keys depend on its part."""
    images, labels, classes = _images(cell)
    if cell.part == "training":
        return _training(cell, images, labels, classes)
    model = _network(cell, images.shape[1], classes).double()
    images = images.double()
    if cell.part == "steps":
        return _steps(cell, model, images, labels, classes)
    return _departure(cell, model, images, labels)


def _steps(
    cell: Cell, model: PlainVGG, images: torch.Tensor, labels: torch.Tensor, classes: int
) -> dict[str, Any]:
    size = cell.config.step_images
    rows = []
    for when in ("at the start", "later"):
        if when == "later":
            run_sgd(
                model,
                images,
                labels,
                lr=0.05,
                steps=cell.config.updates_before,
                seed=cell.seed,
                classes=classes,
            )
        for layer, norm, conv in adjacent(model):
            step = cnnbridge.first_step_is_nlms(
                model,
                norm,
                conv,
                images[:size],
                labels[:size],
                nn.functional.cross_entropy,
                lr=0.1,
            )
            rows.append(
                {
                    "when": when,
                    "layer": layer,
                    "difference": step.difference,
                    "minimum_norm": step.minimum_norm,
                    "radial": step.radial,
                }
            )
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
    names = ("scale", "same_batch_scale", "step", "same_batch", "accumulated")
    return {"layer": layer} | {name: getattr(grid, name) for name in names}


def _training(
    cell: Cell, images: torch.Tensor, labels: torch.Tensor, classes: int
) -> dict[str, Any]:
    config = cell.config
    batch = 32
    first = next(batch_order(len(images), batch, 1, cell.seed)).to(images.device)
    variant = VARIANTS.get(cell.algorithm, "full")
    start = _network(cell, images.shape[1], classes, variant)

    def train(lr: float, steps: int) -> Any:
        model, adjust = copy.deepcopy(start), None
        if cell.algorithm == "NLMS steps":
            model, adjust = nlms_twin(model, images[first])
        return run_sgd(
            model,
            images,
            labels,
            lr=lr,
            steps=steps,
            batch_size=batch,
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
    seeds = [1000 * (config.seed + 1) + k for k in range(config.seeds)]
    cells = [Cell("steps", p, s, config, device=device) for s in seeds for p in ("pre", "post")]
    cells += [Cell("departure", p, seeds[0], config, device=device) for p in ("pre", "post")]
    cells += [
        Cell("training", "pre", s, config, algorithm=a, device=device)
        for s in seeds
        for a in ALGORITHMS
    ]
    return cells


# --- the verdicts ----------------------------------------------------------------------------


@dataclass
class Found:
    """The results of all cells, by what they are.

    Attributes
    ----------
    steps : (position, row) of every comparison of first steps.
    departures : by position.
    training : by algorithm and seed.
    """

    steps: list[tuple[str, dict[str, Any]]]
    departures: dict[str, dict[str, Any]]
    training: dict[str, dict[int, dict[str, Any]]]

    @classmethod
    def of(cls, cells: Sequence[Any]) -> Found:
        """Sorted out; cells that failed are left out."""
        found = cls([], {}, {})
        for cell in cells:
            config, result = cell.config, cell.result
            if config["part"] == "steps":
                found.steps += [(config["position"], row) for row in result["steps"]]
            elif config["part"] == "departure":
                found.departures[config["position"]] = result
            else:
                by_seed = found.training.setdefault(config["algorithm"], {})
                by_seed[config["seed"]] = result
        return found


def equality_checks(found: Found) -> list[Check]:
    """The claim: one check per position."""
    checks = []
    for position, words in (("pre", "before the layer"), ("post", "after the layer")):
        rows = [row for where, row in found.steps if where == position]
        name = f"BatchNorm {words}: difference of the first steps"
        if not rows:
            checks.append(results.inconclusive(name, TOLERANCE, "no step was taken"))
            continue
        largest = max(rows, key=lambda row: row["difference"])
        layers = len({row["layer"] for row in rows})
        note = f"Over {len(rows)} comparisons in {layers} layers; largest in {largest['layer']}"
        checks.append(
            results.at_most(
                name, largest["difference"], TOLERANCE, unit="of the largest entry", note=note
            )
        )
    return checks


def slope(x: Sequence[float], y: Array) -> float:
    """Exponent of y in x, by least squares on logarithms; NaN when there is nothing to fit."""
    y = np.asarray(y, dtype=float)
    good = np.isfinite(y) & (y > 0)
    if good.sum() < 2:
        return math.nan
    return float(np.polyfit(np.log(np.asarray(x)[good]), np.log(y[good]), 1)[0])


def departure_checks(found: Found, config: Config) -> list[Check]:
    """How the departure scales: with the rate on one batch, with the batch size between batches."""
    checks = []
    for position, result in found.departures.items():
        rates = [rate for rate in config.departure_rates if rate <= 1e-2]
        # the largest batches, where the change of batch is least
        moved = np.median(np.asarray(result["same_batch_scale"])[: len(rates), -1], axis=-1)
        noise = np.median(np.asarray(result["scale"])[0], axis=-1)
        for name, exponent, (wanted, tolerance), axis in (
            ("change of scale on one batch", slope(rates, moved), SLOPE_RATE, "learning rate"),
            (
                "change of scale between batches",
                slope(config.departure_batches, noise),
                SLOPE_BATCH,
                "batch size",
            ),
        ):
            verdict: results.Verdict = "holds" if abs(exponent - wanted) <= tolerance else "fails"
            checks.append(
                Check(
                    name=f"position {position}, {result['layer']}: {name} against {axis}",
                    predicted=wanted,
                    observed=exponent,
                    tolerance=tolerance,
                    verdict=verdict if math.isfinite(exponent) else "inconclusive",
                    rule="|observed - predicted| <= tolerance",
                    unit="exponent",
                )
            )
    return checks


def horizon(found: Found, rate: str, algorithm: str = "NLMS steps") -> list[paired.Interval]:
    """Updates until the averaged losses of the two are 5 % apart, by seed."""
    horizons: list[paired.Interval] = []
    twins = found.training.get(algorithm, {})
    for seed, result in found.training.get("batch norm", {}).items():
        if seed not in twins:
            continue
        ours, theirs = (running_mean(np.asarray(r["loss"][rate])) for r in (result, twins[seed]))
        both = min(len(ours), len(theirs))
        apart = np.flatnonzero(~(np.abs(theirs[:both] - ours[:both]) <= APART * ours[:both]))
        if len(apart):
            horizons.append((float(apart[0]), float(apart[0])))
        else:
            # a run that diverged is shorter, and apart from there on
            ended = len(theirs) < len(ours)
            horizons.append((float(both), float(both) if ended else math.inf))
    return horizons


def stable_rate(found: Found, algorithm: str, config: Config) -> list[float]:
    """Highest stable rate by seed; half the lowest where not even that is stable."""
    return [
        config.rates[r["rate_index"]] if r["rate_index"] >= 0 else config.rates[0] / 2
        for r in found.training.get(algorithm, {}).values()
    ]


# --- the report ------------------------------------------------------------------------------

TITLE = "BatchNorm is NLMS at the first step"
QUESTION = STUDIES["first-step"].question
EXPLANATION = (
    "Behind a normalization a layer with weights w meets z = (x - m) / s. In effective weights "
    "g = w / s, which act on x - m, a gradient step on w is a step of NLMS on g: the error times "
    "the regressor over the regressor's power s², channel by channel, exactly, for the s of that "
    "batch. With the normalization after the layer the same holds with the deviation of the "
    "layer's output, and the part of the step along w drops out.",
    "Then comes the next batch with another s, and g = w / s has changed without a step: by "
    "s(n) / s(n+1) - 1. On the same batch that is what the network's own movement did to s; "
    "between batches the sampling noise of s comes on top.",
    "NLMS steps is the claim taken as an algorithm for every step: channels are centred, the "
    "weights are g, each gradient is divided by s² of the channel it reads, with the s of the "
    "batch at hand; only the rescaling of g is missing, and with it the gradient through the "
    "statistics. Fixed statistics is BatchNorm that keeps those of its first batch.",
)

STEP_COLUMNS = (
    "position",
    "layer",
    "comparisons",
    "largest difference",
    "from least norm",
    "radial",
)


def step_rows(found: Found) -> list[list[str]]:
    """One line per position and layer: the largest over seeds and times."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for position, row in found.steps:
        groups.setdefault((position, row["layer"]), []).append(row)

    def largest(rows: list[dict[str, Any]], name: str) -> str:
        values = [row[name] for row in rows if row[name] is not None and math.isfinite(row[name])]
        return f"{max(values):.1e}" if values else "–"

    return [
        [
            position,
            layer,
            str(len(rows)),
            *(largest(rows, name) for name in ("difference", "minimum_norm", "radial")),
        ]
        for (position, layer), rows in groups.items()
    ]


TRAINING_COLUMNS = ("algorithm", "highest stable rate", "over BatchNorm's")


def training_rows(found: Found, config: Config) -> list[list[str]]:
    """One line per algorithm: medians over seeds."""
    rows = []
    norm = stable_rate(found, "batch norm", config)
    for algorithm in found.training:
        rates = stable_rate(found, algorithm, config)
        same = len(rates) == len(norm)
        over = [a / b for a, b in zip(rates, norm, strict=True)] if same else []
        under = np.median(rates) < config.rates[0]
        rows.append(
            [
                algorithm,
                f"under {report.number(config.rates[0], 3)}"
                if under
                else report.number(float(np.median(rates)), 3),
                report.number(float(np.median(over)), 2) if over else "–",
            ]
        )
    return rows


COST_COLUMNS = ("learning rate", "updates within 5 %", "BatchNorm ends at", "NLMS steps ends at")


def cost_rows(found: Found, config: Config) -> list[list[str]]:
    """One line per learning rate: medians over seeds."""
    rows = []
    for rate in (f"{lr:g}" for lr in config.loss_rates):
        horizons = [h[0] for h in horizon(found, rate)]
        cells = [rate, report.number(float(np.median(horizons)), 3) if horizons else "–"]
        for algorithm in ("batch norm", "NLMS steps"):
            ends = []
            for result in found.training.get(algorithm, {}).values():
                end = float(np.mean(result["loss"][rate][-10:]))
                ends.append(end if result["state"][rate] == "stable" else math.inf)
            middle = float(np.median(ends)) if ends else math.nan
            cells.append("diverges" if math.isinf(middle) else report.number(middle, 3))
        rows.append(cells)
    return rows


def evidence_against(found: Found, config: Config) -> list[str]:
    """What the claim does not say, with the numbers of this run."""
    sentences = []
    for position, result in found.departures.items():
        same = np.median(np.asarray(result["same_batch"])[:, -1], axis=-1)
        sentences.append(
            f"The departure does not vanish with the rate. Position {position}, {result['layer']}: "
            "on the same batch g departs from the NLMS step by "
            f"{report.number(float(same[0]), 2)} of that step at rate "
            f"{config.departure_rates[0]:g} and by {report.number(float(same[-1]), 2)} at "
            f"{config.departure_rates[-1]:g}: s moves as fast as the weights do."
        )
    sentences += [
        f"At rate {row[0]}, training by NLMS steps stays within 5 % of BatchNorm's loss for "
        f"{row[1]} updates (of {config.loss_steps})."
        for row in cost_rows(found, config)
    ]
    rates = {row[0]: row for row in training_rows(found, config)}
    if "NLMS steps" in rates and "batch norm" in rates:
        sentences.append(
            f"Training by NLMS steps stands a highest rate of {rates['NLMS steps'][1]}, BatchNorm "
            f"of {rates['batch norm'][1]}: what BatchNorm does beyond its first step is needed for "
            "its stability."
            if rates["NLMS steps"][1] != rates["batch norm"][1]
            else "Training by NLMS steps stands the same highest rate as BatchNorm."
        )
    return sentences


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
    found = Found([], {}, {})

    def finish(summary: Summary) -> None:
        write_report(out, summary, found, config)

    with running(
        "first-step", config, out, device=where, command=command, answer=answer, finish=finish
    ) as (summary, save):
        plan = grid(config, where.type)
        _images(plan[0])  # what is wrong with the data is said once, not by every cell
        cells = run_grid(
            measure,
            plan,
            out / "cells",
            workers=workers,
            engine="serial" if workers == 1 else "joblib",
            version="1",
        )
        found = Found.of(usable(cells, summary))
        claim = equality_checks(found)
        summary.checks += claim + departure_checks(found, config)
        summary.results |= {
            "steps": [dict(zip(STEP_COLUMNS, row, strict=True)) for row in step_rows(found)],
            "training": [
                dict(zip(TRAINING_COLUMNS, row, strict=True))
                for row in training_rows(found, config)
            ],
            "cost": [dict(zip(COST_COLUMNS, row, strict=True)) for row in cost_rows(found, config)],
        }
        caption, alt = drawing.FIGURES["departure"]
        summary.answer = replace(
            answer,
            verdict=results.worst(check.verdict for check in claim),
            reason="; ".join(f"{check.name} {report.number(check.observed, 2)}" for check in claim)
            + ".",
            numbers=[(check.name, report.number(check.observed, 2)) for check in summary.checks],
            figure="departure.png" if found.departures else None,
            caption=caption,
            alt=alt,
            against=evidence_against(found, config),
        )
        save()
    print_results(summary, found, config, out)
    return summary


def write_report(out: Path, summary: Summary, found: Found, config: Config) -> None:
    """Figures and ``report.html`` of what there is."""
    sections = [report.Section("What was asked, and how", EXPLANATION)]
    if found.steps:
        sections.append(
            report.Section(
                "The first step",
                [
                    "Largest over seeds, at the start and later. The difference is relative to the "
                    "largest entry of the step. Before the layer the step is also the least change "
                    "of g, measured by s, that gives the patches their new responses: the distance "
                    "from that one, relative. After the layer the step is orthogonal to w: its "
                    "cosine with w, which is zero up to the ε in the variance."
                ],
                STEP_COLUMNS,
                step_rows(found),
            )
        )
    if found.departures:
        sections.append(
            report.Section(
                "Afterwards", pictures=[drawing.draw_departure(found.departures, config, out)]
            )
        )
    if found.training:
        sections += [
            report.Section(
                "What it costs in loss",
                ["Medians over seeds, position pre."],
                COST_COLUMNS,
                cost_rows(found, config),
                [drawing.draw_losses(found.training, config, out)],
            ),
            report.Section(
                "Where it breaks",
                [
                    f"The highest rate at which {config.rate_steps} updates neither diverge nor "
                    "kill the network, by bisection on a grid of half octaves; medians over seeds."
                ],
                TRAINING_COLUMNS,
                training_rows(found, config),
            ),
        ]
    report.write(out / "report.html", summary, title=TITLE, question=QUESTION, sections=sections)


def print_results(summary: Summary, found: Found, config: Config, out: Path) -> None:
    """Tables for the terminal."""
    for columns, rows in (
        (STEP_COLUMNS, step_rows(found)),
        (COST_COLUMNS, cost_rows(found, config)),
        (TRAINING_COLUMNS, training_rows(found, config)),
    ):
        if rows:
            print()
            print(report.table(columns, rows))
    print()
    for check in summary.checks:
        print(f"{check.verdict.upper():<12}  {check.name}: {report.number(check.observed, 3)}")
    for problem in summary.problems:
        print(f"PROBLEM: {problem}")
    print(f"Report: {out / 'report.html'}")
