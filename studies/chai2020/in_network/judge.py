"""Study ``in-network``: do a conv layer's natural modes predict how it learns in its network?

The paper's first claim is about a layer inside a network. There the update is still that of LMS,
with -dL/dy as its error, but that this error comes from a fixed desired response is an assumption.
``conv-modes`` avoids it, by giving each layer a desired response (level 1). Here it is put to the
test. From checkpoints of a small CNN training goes on, full batch, and three levels predict it:
one layer in its place with the rest frozen (level 2, in three readings of its curvature, of which
the last, R times one number, is the claim read plainly), the whole network linearised once (level
3), and linearised again every few steps (level 4).

Networks, settings and limits are ours. The limits were fixed before the runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from studies import STUDIES
from studies.chai2020.in_network import figures as drawing
from studies.chai2020.in_network.measure import Cell, level_name, measure
from studies.chai2020.two_effects.measure import image_tensors
from studies.engine import page as report
from studies.engine import paired
from studies.engine import summary as results
from studies.engine.paired import Interval
from studies.engine.running import measured, pick, running
from studies.engine.summary import Answer, Check, Summary
from studies.training.sgd import choose_device

__all__ = ["EXPERIMENT", "PRESETS", "RULE", "Config", "Group", "configure", "run"]

READ_AT = 20
RELINEARIZE = 10
HALF, HORIZON, ORDER = 0.5, 10, 0.5
ADDING_UP = 1e-4
WORDS = {False: "without BatchNorm", True: "with BatchNorm"}
READING_WORDS = {
    "gauss_newton": "Gauss-Newton",
    "kronecker": "R x G",
    "scalar": "R x scalar",
}

EXPERIMENT = (
    "A CNN of three convolutions and one linear layer, with and without BatchNorm in train mode, "
    "is trained by mini-batch SGD until its loss, averaged over 10 updates, is below that of the "
    "checkpoint. From there plain SGD goes on over one fixed batch, all of it at each step, at a "
    "fifth of level 3's own bound on the learning rate. Level 2 predicts each convolution in its "
    "place while the rest is frozen, with the layer's exact Gauss-Newton matrix, with R x G and "
    "with R times one number; level 3 predicts all layers at once from one linearisation, level 4 "
    "from one every 50, 10 and 2 steps. Errors are relative to the distance moved; skill is 1 - "
    "error / error of the straight line that goes on as in the first step; a horizon is the first "
    "step at which the error is above 10 % or 50 %. Observed order of the modes of R: the step at "
    "which each gets to half of where it ends, while all layers learn. Network, settings and "
    "limits are ours, not the paper's."
)
RULE = (
    "Seven checks without BatchNorm and the same seven with it, at trained checkpoints, each on "
    "the one-sided 95 % bound of the median over seeds, which assumes no distribution. In the "
    "convolution where it is least: (a) the exact Gauss-Newton reading of level 2 has a skill of "
    f"at least 0 at step {READ_AT}. (b) Level 3 has a skill of at least 0 at step {READ_AT} and "
    f"at the last step. (c) Re-linearising every {RELINEARIZE} steps brings the error at the last "
    f"step to at most {HALF:g} of level 3's. In the convolution where it is least: (d) the plain "
    f"reading, R times one number, has a skill of at least 0 at step {READ_AT} and a 10 % horizon "
    f"of at least {HORIZON} steps; (e) the rank correlation between the eigenvalues of R and how "
    f"early their modes move is at least {ORDER:g}; the plain reading predicts 1. The claim holds "
    "if all fourteen hold and fails if one fails."
)


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run, but for library versions.

    Attributes
    ----------
    preset : the name of the preset this came from.
    data, data_root, images, image_size : see ``studies.training.images.load``.
    seed : the images are drawn with it; the networks' seeds follow from it.
    seeds : networks of each kind at a checkpoint.
    audit_seeds : of them, those whose predictions are audited.
    fresh_seeds : networks of each kind at fresh weights, reported beside.
    width, checkpoint_loss, train_lr, train_momentum, train_batch, train_steps, batch, fraction,
    steps, relinearize, audit_steps : see ``studies.chai2020.in_network.measure.Cell``.
    """

    preset: str
    data: str = "mnist5k"
    data_root: str | None = None
    seed: int = 0
    images: int = 5000
    image_size: int | None = 14
    seeds: int = 5
    audit_seeds: int = 2
    fresh_seeds: int = 1
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


PRESETS = {
    "smoke": Config(
        "smoke",
        images=400,
        seeds=1,
        audit_seeds=1,
        fresh_seeds=0,
        width=2,
        image_size=8,
        checkpoint_loss=2.2,
        batch=32,
        steps=20,
        relinearize=(10,),
        audit_steps=2,
    ),
    "laptop": Config("laptop"),
    "full": Config(
        "full",
        images=50_000,
        image_size=32,
        audit_seeds=2,
        fresh_seeds=2,
        width=32,
        # a net this small takes the ten classes of CIFAR-10 no further in reasonable time
        checkpoint_loss=1.2,
        train_steps=30_000,
        batch=256,
        audit_steps=50,
    ),
}


def configure(
    preset: str, *, data: str = "mnist5k", data_root: str | Path | None = None, seed: int = 0
) -> Config:
    """A preset with the user's choices put in."""
    chosen: Config = pick(PRESETS, preset, data=data, data_root=data_root, seed=seed)
    return chosen


def grid(config: Config, device: str) -> list[Cell]:
    """Every cell of the study: checkpoints first, then the fresh networks."""
    common = Cell(
        seed=0,
        batch_norm=False,
        data=config.data,
        data_root=config.data_root,
        data_seed=config.seed,
        images=config.images,
        image_size=config.image_size,
        width=config.width,
        checkpoint_loss=config.checkpoint_loss,
        train_lr=config.train_lr,
        train_momentum=config.train_momentum,
        train_batch=config.train_batch,
        train_steps=config.train_steps,
        batch=config.batch,
        fraction=config.fraction,
        steps=config.steps,
        relinearize=config.relinearize,
        device=device,
    )
    cells = [
        replace(
            common,
            seed=1000 * (config.seed + 1) + k,
            batch_norm=norm,
            audit_steps=config.audit_steps if k < config.audit_seeds else 0,
        )
        for k in range(config.seeds)
        for norm in (False, True)
    ]
    cells += [
        replace(
            common,
            seed=1000 * (config.seed + 1) + k,
            batch_norm=norm,
            trained=False,
            relinearize=(RELINEARIZE,),
        )
        for k in range(config.fresh_seeds)
        for norm in (False, True)
    ]
    return cells


@dataclass(frozen=True)
class Group:
    """The results of one kind of network at one kind of start, a mapping for each seed.

    Attributes
    ----------
    batch_norm, trained : which.
    results : what ``measure`` returned, by seed.
    """

    batch_norm: bool
    trained: bool
    results: dict[int, dict[str, Any]]

    @property
    def words(self) -> str:
        """Which, in words."""
        return WORDS[self.batch_norm] + ("" if self.trained else ", fresh")

    @property
    def layers(self) -> list[str]:
        """Names of the convolutions."""
        return list(next(iter(self.results.values()))["layers"]) if self.results else []

    @property
    def levels(self) -> list[str]:
        """Names of the predictions of the whole network."""
        return list(next(iter(self.results.values()))["network"]) if self.results else []

    def outcomes(self, level: str) -> list[dict[str, Any]]:
        """Of a prediction of the whole network, by seed."""
        return [found["network"][level] for found in self.results.values()]

    def layer_outcomes(
        self, layer: str, reading: str, others: str = "frozen"
    ) -> list[dict[str, Any]]:
        """Of level 2's prediction of a layer, by seed; the other layers frozen or learning."""
        return [found["layers"][layer][others][reading] for found in self.results.values()]

    def modes(self, layer: str) -> list[dict[str, Any]]:
        """The natural modes of a layer's R, by seed."""
        return [found["layers"][layer]["modes"] for found in self.results.values()]

    def audits(self, layer: str, reading: str) -> list[dict[str, Any]]:
        """Audits of a layer, of the seeds that have one."""
        return [
            found["audits"][layer][reading] for found in self.results.values() if "audits" in found
        ]


Groups = dict[tuple[bool, bool], Group]


def collect(cells: Sequence[Any]) -> Groups:
    """Results by BatchNorm and start."""
    groups: Groups = {}
    for cell in cells:
        key = cell.config["batch_norm"], cell.config["trained"]
        group = groups.setdefault(key, Group(*key, {}))
        group.results[cell.config["seed"]] = cell.result
    return groups


# --- the verdicts ----------------------------------------------------------------------------


def known(value: float) -> Interval:
    """A number; anything at all where there is none."""
    return (-math.inf, math.inf) if math.isnan(value) else (value, value)


def at(outcome: dict[str, Any], name: str, step: int) -> float:
    """An outcome at a step, -1 for the last; NaN where the run is shorter."""
    values = outcome[name]
    return float(values[step]) if step < len(values) else math.nan


def horizon(outcome: dict[str, Any], tolerance: str = "0.1") -> Interval:
    """First step beyond the tolerance; open above where there was none."""
    n = outcome["horizon"][tolerance]
    return (float(len(outcome["error"])), math.inf) if n is None else (float(n), float(n))


def least(values: Sequence[Interval]) -> Interval:
    """The least of numbers known to lie in intervals."""
    return min(v[0] for v in values), min(v[1] for v in values)


def worst_layer(group: Group, reading: str, of: Callable[[dict[str, Any]], Interval]) -> Any:
    """By seed: the least over the convolutions of something of level 2."""
    columns = [[of(o) for o in group.layer_outcomes(layer, reading)] for layer in group.layers]
    return [least(row) for row in zip(*columns, strict=True)]


def claim_checks(groups: Groups) -> list[Check]:
    """The fourteen checks of the claim."""
    checks = []
    for norm, words in WORDS.items():
        group = groups.get((norm, True), Group(norm, True, {}))

        def skill(outcome: dict[str, Any], step: int = READ_AT) -> Interval:
            return known(at(outcome, "skill", step))

        def gain(again: dict[str, Any], once: dict[str, Any]) -> Interval:
            one, other = at(again, "error", -1), at(once, "error", -1)
            if math.isnan(one) or math.isnan(other):
                return -math.inf, math.inf
            return paired.ratio((one, one), (other, other))

        level_3 = group.outcomes(level_name(None))
        orders = [[known(m["order"]) for m in group.modes(layer)] for layer in group.layers]
        for name, values, limit, side, unit in (
            (
                f"(a) exact Gauss-Newton reading, worst conv, at step {READ_AT}",
                worst_layer(group, "gauss_newton", skill),
                0.0,
                "at least",
                "skill",
            ),
            (
                f"(b) level 3 at step {READ_AT}",
                [skill(o) for o in level_3],
                0.0,
                "at least",
                "skill",
            ),
            (
                "(b) level 3 at the last step",
                [skill(o, -1) for o in level_3],
                0.0,
                "at least",
                "skill",
            ),
            (
                f"(c) error every {RELINEARIZE} steps over level 3's, last step",
                [
                    gain(again, once)
                    for again, once in zip(
                        group.outcomes(level_name(RELINEARIZE)), level_3, strict=True
                    )
                ],
                HALF,
                "at most",
                "of level 3's error",
            ),
            (
                f"(d) plain reading, worst conv, at step {READ_AT}",
                worst_layer(group, "scalar", skill),
                0.0,
                "at least",
                "skill",
            ),
            (
                "(d) plain reading, worst conv, 10 % horizon",
                worst_layer(group, "scalar", horizon),
                float(HORIZON),
                "at least",
                "steps",
            ),
            (
                "(e) larger eigenvalue moves earlier, worst conv",
                [least(row) for row in zip(*orders, strict=True)],
                ORDER,
                "at least",
                "rank correlation",
            ),
        ):
            checks.append(paired.judge(f"{words}: {name}", values, limit, side, unit=unit))  # type: ignore[arg-type]
    return checks


def adding_up(groups: Groups) -> list[Check]:
    """Whether the parts of the audits add up to the whole; beside the claim."""
    residues = [
        audit["residue"]
        for group in groups.values()
        for layer in group.layers
        for reading in READING_WORDS
        if reading != "kronecker"
        for audit in group.audits(layer, reading)
    ]
    if not residues:
        return []
    return [
        results.at_most(
            "audit: sum of the parts against the whole",
            max(residues),
            ADDING_UP,
            unit="of the largest displacement",
            note=f"largest of {len(residues)} audits; in float32",
        )
    ]


# --- the report ------------------------------------------------------------------------------

TITLE = "Natural modes inside the network"
QUESTION = STUDIES["in-network"].question
EXPLANATION = (
    "The update of a conv layer is LMS with -dL/dy as its error, at every step. A prediction of "
    "many steps has to say how that error changes. Level 2 lets one layer move and takes the "
    "network's output to be linear in its weights. Its exact reading is the layer's Gauss-Newton "
    "matrix. R x G takes the curvature of the loss at the layer's output to be one matrix G at "
    "every position; R x scalar makes it one number: then the natural modes are those of R and "
    "their speeds its eigenvalues, which is the claim read plainly.",
    "Level 3 linearises the whole network once, level 4 every few steps at the weights predicted "
    "so far; no observed training enters a prediction.",
    "The error is the distance between predicted and observed weights over the distance moved. "
    "Skill compares it with the straight line that goes on as in the first step: 1 is perfect, 0 "
    "no better than the line, below 0 worse.",
)

LEVEL_COLUMNS = (
    "prediction",
    f"error at {READ_AT}",
    f"skill at {READ_AT}",
    "error at end",
    "skill at end",
    "10 % at step",
    "50 % at step",
)


def median(values: Sequence[float], digits: int = 3) -> str:
    """As a table shows it; a dash where there is none."""
    return report.number(float(np.median(values)), digits) if len(values) else "–"


def percent(values: Sequence[float]) -> str:
    """The median in percent."""
    if not len(values):
        return "–"
    middle = 100 * float(np.median(values))
    return f"{middle:.1f} %" if math.isfinite(middle) else report.number(middle)


def horizon_text(values: Sequence[Interval]) -> str:
    """Median horizon; the run's length where most never got there."""
    low, high = (float(np.median([v[i] for v in values])) for i in (0, 1))
    return f"over {low - 1:.0f}" if math.isinf(high) else report.number(low, 3)


def outcome_cells(outcomes: Sequence[dict[str, Any]]) -> list[str]:
    """Errors, skills and horizons of one prediction: medians over seeds."""
    row = []
    for step in (READ_AT, -1):
        row.append(percent([at(o, "error", step) for o in outcomes]))
        row.append(median([at(o, "skill", step) for o in outcomes], 2))
    row += [horizon_text([horizon(o, tolerance) for o in outcomes]) for tolerance in ("0.1", "0.5")]
    return row


def level_rows(group: Group, others: str = "frozen") -> list[list[str]]:
    """One line per layer and reading, and, with the rest frozen, per level of the whole."""
    rows = [
        [f"2, {layer}, {words}", *outcome_cells(group.layer_outcomes(layer, reading, others))]
        for layer in group.layers
        for reading, words in READING_WORDS.items()
    ]
    if others == "frozen":
        rows += [[name, *outcome_cells(group.outcomes(name))] for name in group.levels]
    return rows


MODE_COLUMNS = (
    "layer",
    "modes",
    "largest / smallest λ",
    "half-time, 10 % largest λ",
    "half-time, 10 % smallest λ",
    "predicted, largest",
    "predicted, smallest",
    "λ against early",
    "λ against far",
)


def mode_rows(group: Group) -> list[list[str]]:
    """One line per layer: what the natural modes of R do while all layers learn."""
    rows = []
    for layer in group.layers:
        seen = group.modes(layer)
        ends = [
            [float(np.median(m[name][tenth(m["eigenvalues"], top)])) for m in seen]
            for name in ("half_time", "predicted_half_time")
            for top in (True, False)
        ]
        rows.append(
            [
                layer,
                median([float(len(m["eigenvalues"])) for m in seen]),
                median([1 / float(np.min(m["eigenvalues"])) for m in seen], 2),
                *(median(values) for values in ends),
                median([m["order"] for m in seen], 2),
                median([m["reach_order"] for m in seen], 2),
            ]
        )
    return rows


def tenth(eigenvalues: Any, top: bool) -> Any:
    """Places of the tenth of the modes with the largest, or the smallest, eigenvalues."""
    count = max(1, len(eigenvalues) // 10)
    order = np.argsort(eigenvalues)
    return order[-count:] if top else order[:count]


ERROR_COLUMNS = (
    "layer",
    "reading",
    "largest mode error",
    "median mode error",
    "10 % largest λ: part of squared error",
    "loss error at end",
)


def error_rows(group: Group) -> list[list[str]]:
    """One line per layer and reading: errors by mode, rest frozen."""
    rows = []
    for layer in group.layers:
        for reading, words in READING_WORDS.items():
            outcomes = group.layer_outcomes(layer, reading)
            rows.append(
                [
                    layer,
                    words,
                    percent([float(np.max(o["mode_error"])) for o in outcomes]),
                    percent([float(np.median(o["mode_error"])) for o in outcomes]),
                    percent([top_part(o) for o in outcomes]),
                    percent([at(o, "loss_error", -1) for o in outcomes]),
                ]
            )
    return rows


def top_part(outcome: dict[str, Any]) -> float:
    """Part of the squared errors by mode that is in the tenth with the largest eigenvalues."""
    squared = np.asarray(outcome["mode_error"]) ** 2
    return float(squared[tenth(outcome["eigenvalues"], top=True)].sum() / squared.sum())


def audit_columns(group: Group) -> list[str]:
    """Of the table of audits."""
    parts = next(iter(group.audits(group.layers[0], "scalar")), {"parts": ()})["parts"]
    return ["layer", "reading", "error", *parts, "drift of R"]


def audit_rows(group: Group) -> list[list[str]]:
    """One line per layer and audited reading: shares of the error at the last step of the audit."""
    rows = []
    for layer in group.layers:
        for reading, words in READING_WORDS.items():
            audits = group.audits(layer, reading) if reading != "kronecker" else []
            if not audits:
                continue
            shares = np.array([a["shares"][-1] for a in audits])
            rows.append(
                [
                    layer,
                    words,
                    percent([float(a["error"][-1]) for a in audits]),
                    *(percent(column) for column in shares.T),
                    percent([float(a["drift"][-1]) for a in audits]),
                ]
            )
    return rows


def evidence_against(groups: Groups) -> list[str]:
    """What speaks against the simple reading, with the numbers of this run."""
    found = []
    for group in groups.values():
        if not group.trained:
            continue
        words = group.words[0].upper() + group.words[1:]
        errors = {
            reading: [
                median(
                    [100 * at(o, "error", READ_AT) for o in group.layer_outcomes(layer, reading)]
                )
                for layer in group.layers
            ]
            for reading in READING_WORDS
        }
        names = ", ".join(group.layers)
        found.append(
            f"{words}, rest frozen, at step {READ_AT} the plain reading is off by "
            f"{' / '.join(errors['scalar'])} % of the distance moved in {names}, R x G by "
            f"{' / '.join(errors['kronecker'])} %, the exact Gauss-Newton matrix by "
            f"{' / '.join(errors['gauss_newton'])} %."
        )
        orders = " / ".join(median([m["order"] for m in group.modes(x)], 2) for x in group.layers)
        far = " / ".join(
            median([m["reach_order"] for m in group.modes(x)], 2) for x in group.layers
        )
        found.append(
            f"{words}, the rank correlation between the eigenvalues of R and how early their modes "
            f"move is {orders} in {names}, where the plain reading says 1; with how far they move "
            f"it is {far}."
        )
        learning = [
            median(
                [
                    100 * at(o, "error", READ_AT)
                    for o in group.layer_outcomes(x, "gauss_newton", others)
                ]
            )
            for others in ("frozen", "learning")
            for x in group.layers
        ]
        count = len(group.layers)
        found.append(
            f"{words}, even the exact reading is off by {' / '.join(learning[:count])} % at "
            f"step {READ_AT} when the rest is frozen, and by {' / '.join(learning[count:])} % when "
            "the other layers learn too, as they do."
        )
    for group in groups.values():
        if group.trained:
            continue
        exact = [group.layer_outcomes(layer, "gauss_newton") for layer in group.layers]
        parts = [*exact, group.outcomes(level_name(None))]
        off = " / ".join(median([100 * at(o, "error", READ_AT) for o in part]) for part in parts)
        skills = " / ".join(median([at(o, "skill", READ_AT) for o in part], 2) for part in parts)
        found.append(
            f"From fresh weights {WORDS[group.batch_norm]}, at the same fraction of level 3's "
            f"bound, the exact reading of {', '.join(group.layers)} and level 3 are off by "
            f"{off} % at step {READ_AT}, at a skill of {skills}."
        )
    return found


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
    Summary, as written. Its ``status`` is ``complete`` when every cell came to a result, whatever
    the verdicts.

    Raises
    ------
    UserError : the device, the data or the folder are not to be had.
    """
    where = choose_device(device)
    out = results.output_folder(Path(out))
    answer = Answer(experiment=EXPERIMENT, rule=RULE)
    groups: Groups = {}

    def finish(summary: Summary) -> None:
        write_report(out, summary, groups)

    with running(
        "in-network", config, out, device=where, command=command, answer=answer, finish=finish
    ) as (summary, save):
        # what is wrong with the data is said once and at once, not by every cell
        image_tensors(config.data, config.data_root, config.seed, config.images, config.image_size)
        plan = grid(config, where.type)
        cells = measured(measure, plan, out, summary, workers=workers, version="1")
        groups = collect(cells)
        claim = claim_checks(groups)
        summary.checks += claim + adding_up(groups)
        summary.results |= {
            "levels": [
                {"network": group.words, **dict(zip(LEVEL_COLUMNS, row, strict=True))}
                for group in groups.values()
                for row in level_rows(group)
            ],
            "modes": [
                {"network": group.words, **dict(zip(MODE_COLUMNS, row, strict=True))}
                for group in groups.values()
                for row in mode_rows(group)
            ],
            "checkpoints": [
                {
                    "network": group.words,
                    "seed": seed,
                    "updates": found["updates"],
                    "bound": found["bound"],
                    "lr": found["lr"],
                    "loss_start": found["loss"][0],
                    "loss_end": found["loss"][-1],
                }
                for group in groups.values()
                for seed, found in group.results.items()
            ],
        }
        summary.answer = _answer(answer, claim, groups)
        save()
    print_results(summary, groups, out)
    return summary


def _answer(answer: Answer, claim: Sequence[Check], groups: Groups) -> Answer:
    failing = [check.name for check in claim if check.verdict == "fails"]
    words = f" Failing: {'; '.join(failing)}." if failing else ""
    return replace(
        answer,
        verdict=results.worst(check.verdict for check in claim),
        reason=f"{results.tally(claim)}.{words}",
        numbers=report.numbers(claim),
        figure="errors.png" if groups else None,
        caption=drawing.FIGURES["errors"][0],
        alt=drawing.FIGURES["errors"][1],
        against=evidence_against(groups),
    )


def write_report(out: Path, summary: Summary, groups: Groups) -> None:
    """Figures and ``report.html`` of what there is."""
    sections = [report.Section("What was asked, and how", EXPLANATION)]
    trained = [group for group in groups.values() if group.trained]
    if trained:
        pictures = [drawing.draw(name, trained, out) for name in ("errors", "horizons")]
        sections.append(report.Section("How far the predictions carry", pictures=pictures))
    for group in groups.values():
        where = "" if group.trained else " No verdict rests on it."
        sections.append(
            report.Section(
                f"Every level, {group.words}",
                [f"Medians over {len(group.results)} seeds; level 2 with the rest frozen.{where}"],
                LEVEL_COLUMNS,
                level_rows(group),
            )
        )
    for group in trained:
        sections.append(
            report.Section(
                f"Level 2 while the other layers learn too, {group.words}",
                ["The same predictions against the same layer in the training of all layers."],
                LEVEL_COLUMNS,
                level_rows(group, "learning"),
            )
        )
        sections.append(
            report.Section(
                f"Errors by mode, {group.words}",
                [
                    "The largest error of each mode over the run, in parts of the largest distance "
                    "that the layer moved, and how much of all squared is in the tenth of the "
                    "modes with the largest curvatures; then the error of the loss."
                ],
                ERROR_COLUMNS,
                error_rows(group),
            )
        )
    if trained:
        sections.append(
            report.Section(
                "Do modes with larger eigenvalues move first?",
                [
                    "The natural modes of R while all layers learn. A mode's half-time is the step "
                    "at which it first gets to half of where it ends; the first columns are "
                    "medians over the tenth of the modes with the largest and the smallest "
                    "eigenvalues. The last two are rank correlations of the eigenvalue with how "
                    "early and how far a mode moves; by the plain reading the first of them is 1."
                ],
                ("network", *MODE_COLUMNS),
                [[group.words, *row] for group in trained for row in mode_rows(group)],
                [drawing.draw("modes", trained, out)],
            )
        )
    audited = [group for group in trained if group.layers and audit_rows(group)]
    if audited:
        sections.append(
            report.Section(
                "What breaks",
                [
                    "The error of level 2 when all layers learn, taken apart by replacing one "
                    "assumption at a time with the truth, in this order; the parts add up to the "
                    "whole, and another order would share it out otherwise. Shares are of the "
                    "error at the last step of the audit, negative where a part makes up for "
                    "others; medians over seeds, which need not add up to 100 %. Approximation is "
                    "what R x scalar leaves out of the layer's own Gauss-Newton matrix."
                ],
                ("network", *audit_columns(audited[0])),
                [[group.words, *row] for group in audited for row in audit_rows(group)],
                [drawing.draw(name, audited, out) for name in ("audit", "audit-plain")],
            )
        )
    report.write(out / "report.html", summary, title=TITLE, question=QUESTION, sections=sections)


def print_results(summary: Summary, groups: Groups, out: Path) -> None:
    """Tables for the terminal."""
    for group in groups.values():
        print(f"\n{group.words}")
        print(report.table(LEVEL_COLUMNS, level_rows(group)))
        print(report.table(MODE_COLUMNS, mode_rows(group)))
        if audit_rows(group):
            print(report.table(audit_columns(group), audit_rows(group)))
    report.print_verdicts(summary, out)
