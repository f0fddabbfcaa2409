"""Study ``first-step``: is BatchNorm's first step a step of NLMS?

In effective weights the step of SGD behind a normalization is, at the statistics of that batch,
the step of power-normalised NLMS. The paper's third claim says so for the first step of training.
Here both steps are taken of the same batch, in every layer of a network and in both positions, and
laid side by side. What comes after the first step is the study ``after-first-step``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from studies import STUDIES
from studies.chai2020.first_step import figures as drawing
from studies.chai2020.nlms import STEP_COLUMNS, TOLERANCE, compare, equality, step_rows
from studies.chai2020.two_effects.measure import image_tensors
from studies.engine import page as report
from studies.engine import summary as results
from studies.engine.running import measured, pick, running
from studies.engine.summary import Answer, Check, Summary
from studies.training.networks import POSITIONS, PlainVGG, Position, draw_weights
from studies.training.sgd import choose_device

__all__ = ["EXPERIMENT", "PRESETS", "RULE", "Cell", "Config", "configure", "measure", "run"]

EXPERIMENT = (
    "Six convolutions and a linear layer with BatchNorm before or after each layer, in float64, at "
    "the start of training. One step of SGD on a batch, and the step of power-normalised NLMS from "
    "the same error, are compared in effective weights, layer by layer. As a control the step is "
    "held against that of LMS, which does not divide by the power. Network and settings are ours, "
    "not the paper's."
)
RULE = (
    "The claim's first half holds if in both positions the two first steps differ by no more than "
    f"{TOLERANCE:g} of the step, in every layer and for every seed, and fails otherwise. The "
    "distance from the step of LMS says how much there was to tell apart, and does not decide."
)


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run, but for library versions.

    Attributes
    ----------
    preset : the name of the preset this came from.
    data, data_root, images, image_size : see ``studies.training.images.load``.
    seed : the images are drawn with it; the networks' seeds follow from it.
    seeds : networks.
    widths : of the six convolutions.
    step_images : of the batch on which first steps are compared.
    """

    preset: str
    data: str = "mnist5k"
    data_root: str | None = None
    seed: int = 0
    images: int = 2000
    image_size: int | None = 16
    seeds: int = 5
    widths: tuple[int, ...] = (16, 16, 32, 32, 32, 32)
    step_images: int = 16


PRESETS = {
    "smoke": Config("smoke", images=300, seeds=1, widths=(4, 4, 8, 8, 8, 8), step_images=8),
    "laptop": Config("laptop"),
    "full": Config(
        "full", images=50_000, image_size=32, seeds=10, widths=(32, 32, 64, 64, 128, 128)
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
    """One network.

    Attributes
    ----------
    position : of the normalization.
    seed : of the weights.
    config : of the study.
    device : ``cpu`` or ``cuda``.
    """

    position: Position
    seed: int
    config: Config
    device: str = "cpu"


def measure(cell: Cell) -> dict[str, Any]:
    """``steps``: the comparison of every layer's first step, see ``nlms_steps.compare``."""
    config = cell.config
    images, labels, classes = image_tensors(
        config.data, config.data_root, config.seed, config.images, config.image_size
    )
    model = PlainVGG(images.shape[1], classes, config.widths, "full", cell.position)
    draw_weights(model, "spread", cell.seed)
    first = slice(config.step_images)
    return {
        "steps": compare(
            model.to(cell.device).double().train(),
            images[first].to(cell.device).double(),
            labels[first].to(cell.device),
        )
    }


def grid(config: Config, device: str) -> list[Cell]:
    """Every cell of the study."""
    seeds = [1000 * (config.seed + 1) + k for k in range(config.seeds)]
    return [Cell(p, s, config, device=device) for s in seeds for p in POSITIONS]


def equality_checks(rows: Sequence[dict[str, Any]]) -> list[Check]:
    """The claim: one check per position."""
    return equality(rows, "difference of the first steps")


# --- the report ------------------------------------------------------------------------------

TITLE = "BatchNorm is NLMS at the first step"
QUESTION = STUDIES["first-step"].question
EXPLANATION = (
    "Behind a normalization a layer with weights w meets z = (x - m) / s. In effective weights "
    "g = w / s, which act on x - m, a gradient step on w is a step of NLMS on g: the error times "
    "the regressor over the regressor's power s², channel by channel, exactly, for the s of that "
    "batch. With the normalization after the layer the same holds with the deviation of the "
    "layer's output, and the part of the step along w drops out.",
)
DETAILS = (
    "Largest over seeds. The difference is relative to the largest entry of the step. Before the "
    "layer the step is also the least change of g, measured by s, that gives the patches their new "
    "responses: the distance from that one, relative. After the layer the step is orthogonal to w: "
    "its cosine with w, which is zero up to the ε in the variance. Last, the control: the relative "
    "distance of the step from the nearest multiple of the step of LMS, the least over seeds.",
)


def evidence_against(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the claim does not say."""
    if not rows:
        return []
    least = min(row["lms"] for row in rows)
    return [
        "The equality is one of algebra, for the s of the batch at hand: it holds for any weights "
        "and any batch, and tells nothing of how training goes on.",
        "It is with NLMS whose power is that of the channel over the whole batch; the textbook's "
        "NLMS divides by the power of each single regressor.",
        "The powers differ enough to tell NLMS from LMS: the step is at least "
        f"{report.number(least, 2)} of itself away from every multiple of LMS's.",
    ]


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
    rows: list[dict[str, Any]] = []

    def finish(summary: Summary) -> None:
        write_report(out, summary, rows)

    with running(
        "first-step", config, out, device=where, command=command, answer=answer, finish=finish
    ) as (summary, save):
        # what is wrong with the data is said once, not by every cell
        image_tensors(config.data, config.data_root, config.seed, config.images, config.image_size)
        plan = grid(config, where.type)
        cells = measured(measure, plan, out, summary, workers=workers, version="2")
        rows += [row for cell in cells for row in cell.result["steps"]]
        summary.checks += equality_checks(rows)
        summary.results["steps"] = [
            dict(zip(STEP_COLUMNS, row, strict=True)) for row in step_rows(rows)
        ]
        caption, alt = drawing.FIGURES["steps"]
        numbers = [(check.name, report.number(check.observed, 2)) for check in summary.checks]
        summary.answer = replace(
            answer,
            verdict=results.worst(check.verdict for check in summary.checks),
            reason="; ".join(f"{name} {value}" for name, value in numbers) + ".",
            numbers=numbers,
            figure="steps.png" if rows else None,
            caption=caption,
            alt=alt,
            against=evidence_against(rows),
        )
        save()
    print()
    if rows:
        print(report.table(STEP_COLUMNS, step_rows(rows)))
    report.print_verdicts(summary, out)
    return summary


def write_report(out: Path, summary: Summary, rows: Sequence[dict[str, Any]]) -> None:
    """Figure and ``report.html`` of what there is."""
    sections = [report.Section("What was asked, and how", EXPLANATION)]
    if rows:
        sections.append(
            report.Section(
                "The first step",
                DETAILS,
                STEP_COLUMNS,
                step_rows(rows),
                [drawing.draw_steps(rows, out)],
            )
        )
    report.write(out / "report.html", summary, title=TITLE, question=QUESTION, sections=sections)
