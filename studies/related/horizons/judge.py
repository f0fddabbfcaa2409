"""Study ``horizons``: how long do predictions of training last, and what lengthens them?

A prediction of training takes a network to be linear in its weights: at its start (level 3), or
anew every h steps along the path predicted so far (level 4), or one layer of it with the others
frozen (level 2). Here networks of growing width, which in the limit are linear, learn the same
digits, and real training is laid beside each prediction. The horizon is the first step at which it
is off by more than 10 % or 50 % of the distance moved.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

import cnnbridge
from studies import STUDIES
from studies.chai2020.two_effects.measure import image_tensors
from studies.engine import page as report
from studies.engine import paired
from studies.engine import summary as results
from studies.engine.paired import Interval
from studies.engine.running import measured, pick, running
from studies.engine.summary import Answer, Check, Summary
from studies.related.horizons import figures as drawing
from studies.training.networks import SmallCNN
from studies.training.sgd import choose_device, reproducible, train_below

__all__ = ["EXPERIMENT", "PRESETS", "RULE", "Cell", "Config", "configure", "measure", "run"]

Start = Literal["fresh", "checkpoint"]
Found = dict[tuple[str, int], dict[int, dict[str, Any]]]  # (start, width) -> seed -> result

STARTS: tuple[Start, ...] = ("fresh", "checkpoint")
LAYERS = ("conv1", "conv2", "conv3", "classify")
EVERY = (50, 10, 2)
TOLERANCES = (0.1, 0.5)
LOOK = 20
LEAST_EXPONENT = 0.05
LARGEST_RATIO = 0.5
LEAST_SEEDS = 5
GPU_WORKERS = 8  # at width 256 a process holds some paths of 2 GB each, here and on the GPU

EXPERIMENT = (
    "Small convolutional networks of growing width learn the same 128 digits by full-batch "
    "gradient descent: from a fresh start at a hundredth of level 3's own bound on the learning "
    "rate, so that the loss falls alike at every width, and from a checkpoint at loss 0.5 at a "
    "fifth of that bound. Level 3 is linearised once; level 4 anew every 50, 10 or 2 steps; level "
    "2 is one layer with the others frozen, by its exact Gauss-Newton matrix. Each is laid beside "
    "the training that it predicts. Networks and settings are ours, not the paper's."
)
RULE = (
    "Nine checks, each on its own. Fresh and from checkpoints: the 10 % horizon of level 3 goes "
    f"with a power of the width of at least {LEAST_EXPONENT:g} (least squares on logarithms, one "
    "exponent per seed); in every network the error at the last step falls from level 3 to h = 50, "
    "10 and 2; and for h = 10 it is at most half of level 3's, at the width where that is largest. "
    f"From checkpoints, at step {LOOK}: the skill of level 2, of level 3 and of level 4 against "
    "straight-line extrapolation is above 0 at the width, layer and h where it is least. Numbers "
    "of seeds are judged by their median: a check holds when its one-sided 95 % bound is on the "
    "right side, and fails when the other bound is on the wrong one. A horizon that the run does "
    "not reach may lie anywhere beyond, and counts as what speaks against the check. With fewer "
    f"than {LEAST_SEEDS} seeds nothing is decided. The study holds if all checks do and fails if "
    "one does."
)


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run, but for library versions.

    Attributes
    ----------
    preset : the name of the preset this came from.
    data, data_root, images, image_size : see ``studies.training.images.load``.
    seed : the images are drawn with it; the networks' seeds follow from it.
    seeds : networks of each width.
    widths : of ``SmallCNN``, at which level 3 is tried.
    all_levels : those of them at which levels 2 and 4 are tried too.
    steps : of the predicted training.
    fresh, checkpoint : learning rates, as parts of level 3's bound.
    until : loss of the checkpoints.
    """

    preset: str
    data: str = "mnist5k"
    data_root: str | None = None
    seed: int = 0
    images: int = 128
    image_size: int | None = 14
    seeds: int = 5
    widths: tuple[int, ...] = (8, 16, 32, 64)
    all_levels: tuple[int, ...] = (8,)
    steps: int = 100
    fresh: float = 0.01
    checkpoint: float = 0.2
    until: float = 0.5


PRESETS = {
    "smoke": Config("smoke", images=32, seeds=1, widths=(4, 8), all_levels=(4,), steps=12),
    "laptop": Config("laptop"),
    "full": Config(
        "full",
        widths=(8, 16, 32, 64, 128, 256),
        all_levels=(8, 16, 32, 64, 128),
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
    """One network from one start, and every prediction of its training.

    Attributes
    ----------
    width, start, seed : of the network.
    fraction : learning rate over level 3's bound.
    until : loss of a checkpoint.
    steps : of the training.
    all_levels : try levels 2 and 4 too.
    data, data_root, data_seed, images, image_size : see ``studies.training.images.load``.
    device : ``cpu`` or ``cuda``.
    """

    width: int
    start: Start
    seed: int
    fraction: float
    until: float
    steps: int
    all_levels: bool
    data: str
    data_root: str | None
    data_seed: int
    images: int
    image_size: int | None
    device: str = "cpu"


def _images(config: Config) -> tuple[torch.Tensor, torch.Tensor, int]:
    return image_tensors(
        config.data, config.data_root, config.seed, config.images, config.image_size
    )


def grid(config: Config, device: str) -> list[Cell]:
    """Every cell of the study, the widest first: they take longest, and none must come last."""
    return [
        Cell(
            width=width,
            start=start,
            seed=1000 * (config.seed + 1) + k,
            fraction=config.fresh if start == "fresh" else config.checkpoint,
            until=config.until,
            steps=config.steps,
            all_levels=width in config.all_levels,
            data=config.data,
            data_root=config.data_root,
            data_seed=config.seed,
            images=config.images,
            image_size=config.image_size,
            device=device,
        )
        for width in sorted(config.widths, reverse=True)
        for start in STARTS
        for k in range(config.seeds)
    ]


def measure(cell: Cell) -> dict[str, Any]:
    """Train one network and compare each prediction with it.

    Returns
    -------
    dict with ``trained``, the updates to the checkpoint (0 for a fresh start); ``bound`` of level
    3 and the learning rate ``lr``; ``loss`` (steps + 1,) of the training; and ``readings``, by
    name ("level 3", "h = 10", "conv1"): ``error`` and ``skill``, (steps + 1,), ``horizons``, one
    for each of ``TOLERANCES`` and None where it is not reached, and ``compared``, the steps with a
    finite training.
    """
    images, labels, classes = image_tensors(
        cell.data, cell.data_root, cell.data_seed, cell.images, cell.image_size
    )
    x, y = images.to(cell.device), labels.to(cell.device)
    with reproducible(cell.seed):
        model = SmallCNN(x.shape[1], classes, cell.width).to(cell.device)
        trained = 0
        if cell.start == "checkpoint":
            trained = train_below(model, x, y, cell.until)
        loss = nn.CrossEntropyLoss()
        bound = 2 / cnnbridge.sharpness(model, x, y, loss, kind="gauss_newton")
        lr, steps = cell.fraction * bound, cell.steps
        run = cnnbridge.observe_network(model, x, y, loss, lr=lr, steps=steps)
        found = {}
        for name, h in readings(cell.all_levels):
            prediction = cnnbridge.predict_network(
                model, x, y, loss, lr=lr, steps=steps, relinearize=h
            )
            found[name] = _compared(cnnbridge.compare(prediction, run, TOLERANCES))
        losses = run.loss
        for layer in LAYERS if cell.all_levels else ():
            run = cnnbridge.observe_network(model, x, y, loss, lr=lr, steps=steps, layer=layer)
            prediction = cnnbridge.predict_in_place(
                model, layer, x, y, loss, lr=lr, steps=steps, full_modes=False
            )
            found[layer] = _compared(cnnbridge.compare(prediction, run, TOLERANCES))
    return {"trained": trained, "bound": bound, "lr": lr, "loss": losses, "readings": found}


def readings(all_levels: bool) -> Iterator[tuple[str, int | None]]:
    """Names of levels 3 and 4 and the steps that one linearisation serves for."""
    yield "level 3", None
    for h in EVERY if all_levels else ():
        yield f"h = {h}", h


def _compared(comparison: cnnbridge.Comparison) -> dict[str, Any]:
    return {
        "error": comparison.displacement_error,
        "skill": comparison.skill,
        "horizons": [comparison.horizon[t] for t in TOLERANCES],
        "compared": comparison.steps_compared,
    }


# --- the verdicts ----------------------------------------------------------------------------


def collect(cells: Sequence[Any]) -> Found:
    """Results by start and width, the narrowest first."""
    found: Found = {}
    for cell in sorted(cells, key=lambda c: (STARTS.index(c.config["start"]), c.config["width"])):
        by_seed = found.setdefault((cell.config["start"], cell.config["width"]), {})
        by_seed[cell.config["seed"]] = cell.result
    return found


def horizon(result: dict[str, Any], tolerance: int, reading: str = "level 3") -> Interval:
    """Between what the horizon lies; ``tolerance`` is its place in ``TOLERANCES``."""
    known = result["readings"][reading]
    step = known["horizons"][tolerance]
    if step is None:
        return float(known["compared"]), math.inf
    return float(step), float(step)


def exponent(widths: Sequence[int], horizons: Sequence[Interval]) -> Interval:
    """Between what the a of horizon = c width^a lies, by least squares on logarithms.

    It is a weighted sum of the logarithms, so that each end of a horizon gives one end of it.

    Examples
    --------
    >>> round(exponent([8, 32], [(10, 10), (20, 20)])[0], 6)
    0.5
    >>> exponent([8, 32], [(10, 10), (20, math.inf)])[1]
    inf
    """
    if len(widths) < 2:
        return -math.inf, math.inf
    x = np.log(widths)
    x = x - x.mean()
    low = high = 0.0
    for weight, (least, most) in zip(x / (x @ x), horizons, strict=True):
        if weight:
            ends = weight * np.log([least, most])
            low, high = low + float(ends.min()), high + float(ends.max())
    return low, high


def seeds_of(found: Found, start: str) -> dict[int, dict[int, dict[str, Any]]]:
    """Results of a start by seed and width."""
    seeds: dict[int, dict[int, dict[str, Any]]] = {}
    for (where, width), by_seed in found.items():
        for seed, result in by_seed.items():
            if where == start:
                seeds.setdefault(seed, {})[width] = result
    return seeds


def exponents(found: Found, start: str, tolerance: int) -> list[Interval]:
    """One exponent of the horizon in the width for each seed."""
    return [
        exponent(list(by_width), [horizon(r, tolerance) for r in by_width.values()])
        for by_width in seeds_of(found, start).values()
    ]


def extremes(
    found: Found,
    start: str,
    values: Callable[[dict[str, Any]], Sequence[float]],
    least: bool,
) -> list[Interval]:
    """The smallest or largest value over the widths of each seed; a NaN may be anything."""
    pick_one = min if least else max
    extreme: list[Interval] = []
    for by_width in seeds_of(found, start).values():
        every = [v for result in by_width.values() for v in values(result)]
        if every:
            lows = [-math.inf if math.isnan(v) else v for v in every]
            highs = [math.inf if math.isnan(v) else v for v in every]
            extreme.append((pick_one(lows), pick_one(highs)))
    return extreme


def last_errors(result: dict[str, Any]) -> list[float]:
    """Errors at the last step, of level 3 and of h = 50, 10, 2; empty where they were not tried."""
    known = result["readings"]
    names = ["level 3", *(f"h = {h}" for h in EVERY)]
    return [float(known[n]["error"][-1]) for n in names] if names[-1] in known else []


def _gain(result: dict[str, Any]) -> list[float]:
    errors = last_errors(result)
    if not errors:
        return []
    with np.errstate(invalid="ignore", divide="ignore"):
        return [float(np.divide(errors[1 + EVERY.index(10)], errors[0]))]


def skills(result: dict[str, Any], names: Sequence[str]) -> list[float]:
    """Skill at step ``LOOK``, or at the last one of a shorter run, of readings that were tried."""
    known = result["readings"]
    return [float(known[n]["skill"][: LOOK + 1][-1]) for n in names if n in known]


LEVELS = (
    ("level 2", LAYERS, "widths and layers"),
    ("level 3", ("level 3",), "widths"),
    ("level 4", tuple(f"h = {h}" for h in EVERY), "widths and h"),
)


def checks_of(found: Found) -> list[Check]:
    """The nine checks."""
    checks = []
    for start in STARTS:
        checks += [
            paired.judge(
                f"{start}: exponent of the 10 % horizon in the width",
                exponents(found, start, 0),
                LEAST_EXPONENT,
                "at least",
                unit="exponent",
            ),
            _falling_check(found, start),
            paired.judge(
                f"{start}: error at the end for h = 10 over level 3's, largest over widths",
                extremes(found, start, _gain, least=False),
                LARGEST_RATIO,
                "at most",
                unit="ratio",
            ),
        ]
    checks += [
        paired.judge(
            f"checkpoint: skill of {level} at step {LOOK}, least over {over}",
            extremes(found, "checkpoint", functools.partial(skills, names=names), least=True),
            0.0,
            "at least",
            unit="skill",
        )
        for level, names, over in LEVELS
    ]
    return checks


def _falling_check(found: Found, start: str) -> Check:
    name = f"{start}: networks whose error at the end does not fall with h"
    cells = [
        errors
        for (where, _), by_seed in found.items()
        for result in by_seed.values()
        if where == start and (errors := last_errors(result))
    ]
    if len(seeds_of(found, start)) < LEAST_SEEDS or not cells:
        return results.inconclusive(name, 0, f"fewer than {LEAST_SEEDS} seeds", 0.0)
    # a NaN is no fall
    wrong = sum(not all(a > b for a, b in itertools.pairwise(c)) for c in cells)
    return results.at_most(name, wrong, 0, unit="networks", note=f"Of {len(cells)} networks")


# --- the report ------------------------------------------------------------------------------

TITLE = "Horizons: how long a prediction of training lasts"
QUESTION = STUDIES["horizons"].question
EXPLANATION = (
    "A network's update is exact as long as one takes gradients as they come. A prediction takes "
    "the output to be linear in the weights and the loss quadratic, as they are at its start, and "
    "needs no more training: level 3 once, level 4 anew every h steps, from the weights predicted "
    "so far. Its error is relative to the distance that training has moved.",
    "Skill is 1 minus the error over that of straight-line extrapolation, which goes on as in the "
    "first step: 1 is perfect, 0 no better than the line.",
    "The rate is a fixed part of the network's own bound 2 / λmax of the Gauss-Newton matrix, so "
    "a step means the same to a narrow network and to a wide one as far as stability goes. Other "
    "clocks are thinkable: the tables give the loss that was passed through.",
)

WIDTH_COLUMNS = (
    "start",
    "width",
    "learning rate",
    "loss",
    "error at step 20",
    "at the end",
    "skill at step 20",
    "10 % horizon",
    "50 % horizon",
)


def middle(values: Sequence[float], digits: int = 2) -> str:
    """Median of the seeds."""
    return report.number(float(np.median(values)), digits) if values else "–"


def percent(values: Sequence[float]) -> str:
    """Median of the seeds, as a percentage."""
    return f"{report.number(100 * float(np.median(values)), 2)} %" if values else "–"


def horizon_text(intervals: Sequence[Interval]) -> str:
    """Median and range over seeds, in words where the run was too short to tell."""
    highs = [high for _, high in intervals]

    def word(value: float, low: float) -> str:
        return f"beyond {low - 1:g}" if math.isinf(value) else f"{value:g}"

    ordered = sorted(intervals, key=lambda i: (i[1], i[0]))
    low, high = ordered[0], ordered[-1]
    centre = word(float(np.median(highs)), high[0])
    if low == high:
        return centre
    return f"{centre} ({word(low[1], low[0])} to {word(high[1], high[0])})"


def width_rows(found: Found) -> list[list[str]]:
    """Level 3: one line per start and width, medians over seeds."""
    rows = []
    for (start, width), by_seed in found.items():
        every = list(by_seed.values())
        errors = [r["readings"]["level 3"]["error"] for r in every]
        rows.append(
            [
                start,
                str(width),
                middle([r["lr"] for r in every]),
                " to ".join(middle([r["loss"][n] for r in every], 3) for n in (0, -1)),
                percent([e[: LOOK + 1][-1] for e in errors]),
                percent([e[-1] for e in errors]),
                middle([skills(r, ("level 3",))[0] for r in every]),
                *(horizon_text([horizon(r, t) for r in every]) for t in range(len(TOLERANCES))),
            ]
        )
    return rows


READING_COLUMNS = (
    "start",
    "width",
    "prediction",
    "error at step 20",
    "at the end",
    "skill at step 20",
    "at the end",
    "10 % horizon",
    "50 % horizon",
)


def reading_rows(found: Found) -> list[list[str]]:
    """Every level where all were tried: one line per start, width and prediction."""
    rows = []
    for (start, width), by_seed in found.items():
        every = list(by_seed.values())
        names = list(every[0]["readings"])
        for name in names if len(names) > 1 else ():
            known = [r["readings"][name] for r in every]
            rows.append(
                [
                    start,
                    str(width),
                    f"level 2, {name}" if name in LAYERS else name,
                    percent([k["error"][: LOOK + 1][-1] for k in known]),
                    percent([k["error"][-1] for k in known]),
                    middle([k["skill"][: LOOK + 1][-1] for k in known]),
                    middle([k["skill"][-1] for k in known]),
                    *(
                        horizon_text([horizon(r, t, name) for r in every])
                        for t in range(len(TOLERANCES))
                    ),
                ]
            )
    return rows


def evidence_against(found: Found) -> list[str]:
    """What the simple reading leaves out, with the numbers of this run."""
    sentences = []
    for start in STARTS:
        groups = {w: list(by_seed.values()) for (s, w), by_seed in found.items() if s == start}
        if not groups:
            continue
        skill = [skills(r, ("level 3",))[0] for every in groups.values() for r in every]
        behind = sum(not value > 0 for value in skill)
        sentences.append(
            f"{start.capitalize()}: level 3 is no better than straight-line extrapolation at step "
            f"{LOOK} in {behind} of {len(skill)} networks; its median skill there is "
            f"{middle(skill)}."
        )
        narrow, wide = min(groups), max(groups)
        texts = [horizon_text([horizon(r, 0) for r in groups[w]]) for w in (narrow, wide)]
        fell = [
            percent([1 - r["loss"][: LOOK + 1][-1] / r["loss"][0] for r in groups[w]])
            for w in (narrow, wide)
        ]
        sentences.append(
            f"{start.capitalize()}: from width {narrow} to {wide} the 10 % horizon goes from "
            f"{texts[0]} to {texts[1]} steps, each of the same part of the bound. That is one "
            f"clock: in {LOOK} such steps the loss falls by {fell[0]} and by {fell[1]}."
        )
        anew = [r for every in groups.values() for r in every if "h = 10" in r["readings"]]
        if anew:
            short, long = (
                horizon_text([horizon(r, 0, name) for r in anew]) for name in ("level 3", "h = 10")
            )
            sentences.append(
                f"{start.capitalize()}: re-linearising every 10 steps takes the 10 % horizon from "
                f"{short} to {long}. What starts anew after the horizon cannot move it."
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
    workers : processes; by default one for each processor, and eight on a GPU.

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
    found: Found = {}

    def finish(summary: Summary) -> None:
        write_report(out, summary, found)

    with running(
        "horizons", config, out, device=where, command=command, answer=answer, finish=finish
    ) as (summary, save):
        _images(config)  # what is wrong with the data is said once, not by every cell
        if workers is None and where.type == "cuda":
            workers = GPU_WORKERS
        plan = grid(config, where.type)
        cells = measured(measure, plan, out, summary, workers=workers, version="1")
        found |= collect(cells)
        summary.checks += checks_of(found)
        summary.results |= {
            "widths": [dict(zip(WIDTH_COLUMNS, row, strict=True)) for row in width_rows(found)],
            "readings": reading_rows(found),
        }
        caption, alt = drawing.FIGURES["horizons"]
        summary.answer = replace(
            answer,
            verdict=results.worst(check.verdict for check in summary.checks),
            reason=f"{summary.count('holds')} of {len(summary.checks)} checks hold, "
            f"{summary.count('fails')} fail.",
            numbers=report.numbers(summary.checks),
            figure="horizons.png" if found else None,
            caption=caption,
            alt=alt,
            against=evidence_against(found),
        )
        save()
    print_results(summary, found, out)
    return summary


def write_report(out: Path, summary: Summary, found: Found) -> None:
    """Figures and ``report.html`` of what there is."""
    sections = [report.Section("What was asked, and how", EXPLANATION)]
    if found:
        sections.append(
            report.Section(
                "Horizons over widths",
                ["Level 3: linearised once. Medians over seeds; ranges in brackets."],
                WIDTH_COLUMNS,
                width_rows(found),
                [drawing.draw_horizons(found, out)],
            )
        )
    if rows := reading_rows(found):
        sections.append(
            report.Section(
                "Every level",
                [
                    "Medians over seeds. Level 2 is one layer that learns alone, beside the "
                    "training of that layer alone."
                ],
                READING_COLUMNS,
                rows,
                [drawing.draw_readings(found, out)],
            )
        )
    report.write(out / "report.html", summary, title=TITLE, question=QUESTION, sections=sections)


def print_results(summary: Summary, found: Found, out: Path) -> None:
    """Tables for the terminal."""
    for columns, rows in (
        (WIDTH_COLUMNS, width_rows(found)),
        (READING_COLUMNS, reading_rows(found)),
    ):
        if rows:
            print()
            print(report.table(columns, rows))
    report.print_verdicts(summary, out)
