"""Study ``spectra``: what BatchNorm and its parts do to the spectrum that a layer learns on.

At the input of every convolution of a network, at the start of training and on its way, R is
taken behind nothing, centring, amplifying, suppressing and full BatchNorm: once measured, on the
really normalized input, and once predicted from the statistics of the raw input alone, since each
of these maps is a congruence. The intervals of Ostrowski's theorem and the ceiling of the trace
stand beside them.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from torch import nn

import cnnbridge
from cnnbridge import SplitBatchNorm
from studies import STUDIES
from studies.chai2020.two_effects.measure import image_tensors
from studies.engine import page as report
from studies.engine import style as figures
from studies.engine import summary as results
from studies.engine.running import measured, pick, running
from studies.engine.summary import Answer, Check, Summary
from studies.training import probes as predictors
from studies.training.networks import POSITIONS, PlainVGG, Position, draw_weights
from studies.training.sgd import choose_device, reproducible, run_sgd

__all__ = ["EXPERIMENT", "PRESETS", "RULE", "Config", "Site", "configure", "run", "study_site"]

Array = np.ndarray

VARIANTS = ("none", "center", "amplify", "suppress", "full")
TOLERANCE = 1e-9

EXPERIMENT = (
    "Networks of six convolutions, one without normalization and one with BatchNorm, are trained "
    "by plain SGD. At the input of convolutions 2 to 6, at the start and at checkpoints, the "
    "eigenvalues of R are measured in float64 behind nothing, centring, amplifying, suppressing "
    "and full BatchNorm, and predicted from the moments of the raw input. Networks and settings "
    "are ours, not the paper's."
)
RULE = (
    "The claim, that BatchNorm moves the eigenvalues as a congruence does, raising the smallest by "
    "amplifying and lowering the largest by suppressing, holds if at every site predicted and "
    f"measured eigenvalues agree within {TOLERANCE:g} of the largest; every eigenvalue lies in "
    "Ostrowski's interval; the largest behind BatchNorm is under the ceiling of the trace; and, "
    "against no normalization, amplifying raises the smallest and suppressing lowers the largest "
    "eigenvalue. It fails if any of them fails at any site."
)


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run, but for device and library versions.

    Attributes
    ----------
    preset : the name of the preset this came from.
    data, data_root, images, image_size : see ``studies.training.images.load``.
    seed : the images are drawn with it; the networks' seeds follow from it.
    seeds : networks of each kind.
    widths : of the six convolutions.
    probe : images of the batch on which R is taken.
    checkpoints : updates after which R is taken, ascending from 0.
    lr : of the training, low enough for a network without normalization.
    """

    preset: str
    data: str = "mnist5k"
    data_root: str | None = None
    seed: int = 0
    images: int = 2000
    image_size: int | None = 16
    seeds: int = 3
    widths: tuple[int, ...] = (16, 16, 32, 32, 32, 32)
    probe: int = 128
    checkpoints: tuple[int, ...] = (0, 10, 50, 200)
    lr: float = 0.05


PRESETS = {
    "smoke": Config(
        "smoke",
        images=300,
        seeds=1,
        widths=(4, 4, 8, 8, 8, 8),
        probe=32,
        checkpoints=(0, 10),
    ),
    "laptop": Config("laptop"),
    "full": Config(
        "full",
        images=50_000,
        image_size=32,
        seeds=5,
        widths=(32, 32, 64, 64, 128, 128),
        probe=512,
        checkpoints=(0, 10, 100, 1000, 3000),
    ),
}


def configure(
    preset: str, *, data: str = "mnist5k", data_root: str | Path | None = None, seed: int = 0
) -> Config:
    """A preset with the user's choices put in."""
    chosen: Config = pick(PRESETS, preset, data=data, data_root=data_root, seed=seed)
    return chosen


@dataclass(frozen=True)
class Site:
    """The input of one convolution of one network at one time, behind each variant.

    Attributes
    ----------
    network : variant that the network itself was trained with.
    seed : of the network.
    update : of training.
    layer : number of the convolution, 2 to 6.
    eigenvalues : (L,) measured, by variant, ascending.
    error : largest difference of predicted and measured, over the largest eigenvalue.
    outside : by how much the worst eigenvalue leaves Ostrowski's interval, over the largest one.
    low, high : (L,) that interval, by variant.
    deviations : (C,) of the channels.
    ceiling : of the trace behind full BatchNorm.
    """

    network: str
    seed: int
    update: int
    layer: int
    eigenvalues: dict[str, Array]
    error: float
    outside: float
    low: dict[str, Array]
    high: dict[str, Array]
    deviations: Array
    ceiling: float

    def over_none(self, variant: str, index: int) -> float:
        """One eigenvalue behind a variant over the same one behind nothing; 1 for null by null."""
        above, below = (self.eigenvalues[v][index] for v in (variant, "none"))
        floor = 1e-12 * self.eigenvalues["none"][-1]
        return 1.0 if above <= floor and below <= floor else float(above / max(below, floor))


def study_site(
    x: torch.Tensor, conv: nn.Conv2d, *, network: str, seed: int, update: int, layer: int
) -> Site:
    """The spectra behind every variant, predicted and measured, for one input of one layer.

    Parameters
    ----------
    x : (N, C, H, W), what a normalization in front of ``conv`` would get.
    conv : the convolution.
    network, seed, update, layer : where it comes from.
    """
    spectra = cnnbridge.compare_normalizations(x, conv, VARIANTS)
    errors, outside = [], []
    for spectrum in spectra.values():
        top = spectrum.measured.max()
        errors.append(spectrum.max_error)
        if spectrum.low is not None and spectrum.high is not None:
            under = (spectrum.low - spectrum.measured).max()
            over = (spectrum.measured - spectrum.high).max()
            outside.append(float(max(under, over, 0.0) / top))
    return Site(
        network=network,
        seed=seed,
        update=update,
        layer=layer,
        eigenvalues={name: s.measured[0] for name, s in spectra.items()},
        error=max(errors),
        outside=max(outside),
        low={name: s.low[0] for name, s in spectra.items() if s.low is not None},
        high={name: s.high[0] for name, s in spectra.items() if s.high is not None},
        deviations=x.std(dim=(0, 2, 3), correction=0).cpu().numpy(),
        ceiling=cnnbridge.trace_ceiling(conv, *x.shape[2:]).guaranteed,
    )


@torch.no_grad()
def raw_inputs(model: PlainVGG, images: torch.Tensor) -> list[tuple[nn.Conv2d, torch.Tensor]]:
    """Convolutions 2 to 6 and what comes to the normalization in front of each; position pre."""
    parts = list(model.features)
    found = []
    x = images
    for i, part in enumerate(parts):
        if i + 1 < len(parts) and isinstance(part, SplitBatchNorm | nn.Identity):
            following = parts[i + 1]
            if isinstance(following, nn.Conv2d):
                found.append((following, x))
        x = part(x)
    return found


@dataclass(frozen=True)
class Cell:
    """One network.

    Attributes
    ----------
    variant : of the normalization that it is trained with.
    position : of the normalization.
    seed : of the weights and of the order of the images.
    config : of the study.
    device : ``cpu`` or ``cuda``.
    """

    variant: str
    position: Position
    seed: int
    config: Config
    device: str = "cpu"


def grid(config: Config, device: str) -> list[Cell]:
    """Every cell of the study."""
    return [
        Cell(variant, position, 1000 * (config.seed + 1) + k, config, device)
        for k in range(config.seeds)
        for variant in ("none", "full")
        for position in POSITIONS
    ]


def measure(cell: Cell) -> dict[str, Any]:
    """One network through its checkpoints: sites in position pre, and the ends of R as they are.

    In position post a ReLU stands between normalization and convolution, no congruence leads from
    one to the other, and R is only measured.
    """
    with reproducible(cell.config.seed, threads=1):
        sites, ends = _follow(cell)
    return {"sites": [asdict(site) for site in sites], "ends": ends}


def _follow(cell: Cell) -> tuple[list[Site], list[dict[str, Any]]]:
    config, variant, position, seed = cell.config, cell.variant, cell.position, cell.seed
    images, labels, classes = image_tensors(
        config.data, config.data_root, config.seed, config.images, config.image_size
    )
    images, labels = images.to(cell.device), labels.to(cell.device)
    model = PlainVGG(images.shape[1], classes, config.widths, variant, position)
    model.to(cell.device).train()
    draw_weights(model, "spread", seed)
    sites, ends = [], []
    done = 0
    for update in config.checkpoints:
        if update > done:
            run_sgd(
                model,
                images,
                labels,
                lr=config.lr,
                steps=update - done,
                seed=seed + done,
                classes=classes,
            )
            done = update
        exact = copy.deepcopy(model).double()
        probe = images[: config.probe].double()
        if position == "pre":
            for i, (conv, x) in enumerate(raw_inputs(exact, probe), start=2):
                sites.append(
                    study_site(x, conv, network=variant, seed=seed, update=update, layer=i)
                )
        for i, layer in enumerate(predictors.input_spectra(exact, probe)[1:], start=2):
            ends.append(
                {
                    "network": variant,
                    "position": position,
                    "seed": seed,
                    "update": update,
                    "layer": i,
                    "lowest": layer.lowest,
                    "highest": layer.highest,
                }
            )
    return sites, ends


# --- the verdicts ----------------------------------------------------------------------------


def checks_of(sites: Sequence[Site]) -> list[Check]:
    """The checks that decide, over all sites."""
    where = f"Over {len(sites)} sites: layers, checkpoints, networks"
    largest = "of the largest eigenvalue"
    checks = [
        results.at_most(
            "eigenvalues behind every part of BatchNorm, predicted and measured",
            max(site.error for site in sites),
            TOLERANCE,
            unit=largest,
            note=where,
        ),
        results.at_most(
            "eigenvalues outside Ostrowski's interval",
            max(site.outside for site in sites),
            TOLERANCE,
            unit=largest,
            note=where,
        ),
        results.at_most(
            "largest eigenvalue behind BatchNorm over the ceiling of the trace",
            max(float(site.eigenvalues["full"][-1]) / site.ceiling for site in sites),
            1.0,
            unit="ratio",
            note="The ceiling needs no measurement: channels times taps, borders counted",
        ),
    ]
    for variant, index, words, right in (
        ("amplify", 0, "amplifying raises the smallest eigenvalue", lambda r: r >= 1 - TOLERANCE),
        ("suppress", -1, "suppressing lowers the largest eigenvalue", lambda r: r <= 1 + TOLERANCE),
    ):
        ratios = [site.over_none(variant, index) for site in sites]
        agreeing = sum(right(ratio) for ratio in ratios)
        checks.append(
            Check(
                name=words,
                predicted=float(len(sites)),
                observed=float(agreeing),
                tolerance=0.0,
                verdict="holds" if agreeing == len(sites) else "fails",
                rule="at every site, against no normalization",
                unit="sites",
                note=f"median factor {report.number(float(np.median(ratios)), 3)}",
            )
        )
    return checks


def evidence_against(sites: Sequence[Site]) -> list[str]:
    """What the ends of the spectrum do not say."""
    found = []

    def middle(values: Sequence[float]) -> str:
        return report.number(float(np.median(values)), 2)

    found.append(
        "Centring alone divides the largest eigenvalue by a median of "
        f"{middle([1 / s.over_none('center', -1) for s in sites])}; suppressing, centring "
        f"included, by {middle([1 / s.over_none('suppress', -1) for s in sites])}."
    )
    found.append(
        "Amplifying raises the median eigenvalue too, by "
        f"{middle([s.over_none('amplify', len(s.eigenvalues['none']) // 2) for s in sites])} in "
        "the median: the smallest does not move alone."
    )
    mixed = [site.over_none("full", 0) < 1 or site.over_none("full", -1) > 1 for site in sites]
    found.append(
        f"At {sum(mixed)} of {len(sites)} sites full BatchNorm lowers the smallest or raises the "
        "largest eigenvalue, since its two parts pull each end in opposite directions."
    )
    return found


# --- the report ------------------------------------------------------------------------------

TITLE = "What BatchNorm does to the spectrum"
QUESTION = STUDIES["spectra"].question
EXPLANATION = (
    "Every output of a convolution is an LMS filter whose regressors are the patches of the input, "
    "and R is their autocorrelation. A normalization in front of the layer divides each channel "
    "by a number, so it maps R to S⁻¹ R S⁻¹ with the mean taken out: a congruence. Its eigenvalues "
    "follow from the moments of the raw input, borders and zero padding included.",
    "Ostrowski's theorem bounds each eigenvalue behind the scaling by the same one before it, "
    "times the smallest and the largest 1 / s². Amplifying has 1 / s² of at least 1 everywhere, so "
    "against centring it can only raise eigenvalues; suppressing can only lower them. Against no "
    "normalization at all that is not a theorem, since centring comes on top: it is counted.",
    "In position post a ReLU stands between normalization and layer. There nothing is predicted.",
)
COLUMNS = (
    "network",
    "update",
    "smallest: none",
    "amplify",
    "suppress",
    "full",
    "largest: none",
    "center",
    "amplify",
    "suppress",
    "full",
)
END_COLUMNS = ("position", "network", "update", "smallest λ", "largest λ", "spread")


def site_rows(sites: Sequence[Site]) -> list[list[str]]:
    """One line per network and checkpoint: medians over seeds and layers."""
    rows = []
    for network, update in dict.fromkeys((s.network, s.update) for s in sites):
        mine = [s for s in sites if (s.network, s.update) == (network, update)]

        def middle(variant: str, index: int, mine: list[Site] = mine) -> str:
            return report.number(float(np.median([s.eigenvalues[variant][index] for s in mine])), 2)

        rows.append(
            [
                network,
                str(update),
                *(middle(v, 0) for v in ("none", "amplify", "suppress", "full")),
                *(middle(v, -1) for v in ("none", "center", "amplify", "suppress", "full")),
            ]
        )
    return rows


def end_rows(ends: Sequence[dict[str, Any]]) -> list[list[str]]:
    """What the layers of each network really learn on: medians over seeds and layers."""
    rows = []
    keys = dict.fromkeys((e["position"], e["network"], e["update"]) for e in ends)
    for position, network, update in keys:
        mine = [
            e
            for e in ends
            if (e["position"], e["network"], e["update"]) == (position, network, update)
        ]
        spread = [e["highest"] / e["lowest"] for e in mine if e["lowest"] > 1e-12 * e["highest"]]
        rows.append(
            [
                position,
                network,
                str(update),
                *(
                    report.number(float(np.median([e[end] for e in mine])), 2)
                    for end in ("lowest", "highest")
                ),
                report.number(float(np.median(spread)), 2) if spread else "∞",
            ]
        )
    return rows


LOOK = {
    "none": "#1B1F24",
    "center": figures.PURPLE,
    "amplify": figures.ORANGE,
    "suppress": figures.BLUE,
    "full": figures.GREEN,
}


def plot_site(site: Site, ax: Axes) -> list[Artist]:
    """All spectra at one site: lines predicted and measured alike, bands Ostrowski's intervals."""
    artists: list[Artist] = []
    floor = 1e-9 * site.eigenvalues["none"][-1]
    for variant in ("amplify", "suppress"):
        order = np.arange(1, len(site.low[variant]) + 1)
        artists.append(
            ax.fill_between(
                order,
                np.maximum(site.low[variant][::-1], floor),
                np.maximum(site.high[variant][::-1], floor),
                color=LOOK[variant],
                alpha=0.13,
                linewidth=0,
            )
        )
    for variant, values in site.eigenvalues.items():
        order = np.arange(1, len(values) + 1)
        artists += ax.plot(
            order, np.maximum(values[::-1], floor), color=LOOK[variant], label=variant
        )
    ax.set_yscale("log")
    ax.set(title=f"conv{site.layer}", xlabel="mode, strongest first", ylabel="eigenvalue λ")
    return artists


def plot_course(ends: Sequence[dict[str, Any]], ax: Axes, position: str) -> list[Artist]:
    """Both ends of R through training: medians over seeds, a line for each layer."""
    artists: list[Artist] = []
    for network in ("none", "full"):
        mine = [e for e in ends if e["network"] == network and e["position"] == position]
        for layer in sorted({e["layer"] for e in mine}):
            for end, line, words in (("highest", "-", "largest"), ("lowest", ":", "smallest")):
                updates = sorted({e["update"] for e in mine})
                values = [
                    np.median(
                        [e[end] for e in mine if e["layer"] == layer and e["update"] == update]
                    )
                    for update in updates
                ]
                artists += ax.plot(
                    np.array(updates) + 1,
                    np.where(np.array(values) > 0, values, np.nan),
                    line,
                    marker="o",
                    markersize=2.5,
                    linewidth=1.1,
                    color=LOOK[network],
                    label=f"{network}, {words}" if layer == 2 else None,
                )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set(title=f"position {position}", xlabel="update + 1", ylabel="eigenvalue λ")
    return artists


FIGURES = {
    "spectra": (
        "Eigenvalues of R at the start of training in front of each convolution, behind each part "
        "of BatchNorm. Predicted and measured lie on top of each other. Bands: Ostrowski's "
        "intervals for amplifying and suppressing, from the centred spectrum.",
        "One panel per convolution 2 to 6: eigenvalues in falling order on a log axis, one line "
        "per variant, bands around amplify and suppress.",
    ),
    "course": (
        "Largest (solid) and smallest (dotted) eigenvalue of what each convolution really learns "
        "on, through training, without normalization and with BatchNorm; one line per layer.",
        "Two panels, position pre and post: eigenvalues against update on log axes.",
    ),
}


def _draw(
    name: str, plots: Sequence[Callable[[Axes], Any]], out: Path, **size: Any
) -> report.Picture:
    with figures.style():
        figure, axes = figures.panels(len(plots), **size)
        for plot, ax in zip(plots, axes, strict=True):
            plot(ax)
        figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=5)
        png, _ = figures.save(figure, out / name)
    return report.Picture(png, *FIGURES[name])


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
    sites: list[Site] = []
    ends: list[dict[str, Any]] = []

    def finish(summary: Summary) -> None:
        write_report(out, summary, sites, ends)

    with running(
        "spectra", config, out, device=where, command=command, answer=answer, finish=finish
    ) as (summary, save):
        # what is wrong with the data is said once and at once, not by every cell
        image_tensors(config.data, config.data_root, config.seed, config.images, config.image_size)
        plan, smoke = grid(config, where.type), config.preset == "smoke"
        for cell in measured(
            measure, plan, out, summary, workers=workers, version="1", serial=smoke
        ):
            sites += [Site(**site) for site in cell.result["sites"]]
            ends += cell.result["ends"]
        summary.checks += checks_of(sites)
        summary.results |= {
            "sites": [dict(zip(NAMES, row, strict=True)) for row in site_rows(sites)],
            "networks": [dict(zip(END_COLUMNS, row, strict=True)) for row in end_rows(ends)],
        }
        summary.answer = replace(
            answer,
            verdict=results.worst(check.verdict for check in summary.checks),
            reason=(
                f"{summary.count('holds')} of {len(summary.checks)} checks hold "
                f"over {len(sites)} sites."
            ),
            numbers=report.numbers(summary.checks),
            figure="spectra.png",
            caption=FIGURES["spectra"][0],
            alt=FIGURES["spectra"][1],
            against=evidence_against(sites),
        )
        save()
    print()
    print(report.table(COLUMNS, site_rows(sites)))
    print()
    print(report.table(END_COLUMNS, end_rows(ends)))
    report.print_verdicts(summary, out)
    return summary


NAMES = tuple(
    f"{'smallest' if i < 6 else 'largest'} {name.split(': ')[-1]}" if i > 1 else name
    for i, name in enumerate(COLUMNS)
)


def write_report(
    out: Path, summary: Summary, sites: Sequence[Site], ends: Sequence[dict[str, Any]]
) -> None:
    """Figures and ``report.html`` of what there is."""
    sections = [report.Section("What was asked, and how", EXPLANATION)]
    if sites:
        first = sites[0]
        shown = [s for s in sites if (s.network, s.seed, s.update) == ("none", first.seed, 0)]
        sections.append(
            report.Section(
                "Behind each part of BatchNorm",
                [
                    "Smallest and largest eigenvalue of R in the inputs of a network trained "
                    "without normalization (none) or with BatchNorm (full), behind each variant; "
                    "medians over seeds and layers."
                ],
                COLUMNS,
                site_rows(sites),
                [
                    _draw(
                        "spectra",
                        [functools.partial(plot_site, site) for site in shown],
                        out,
                        height=3.0,
                        width=10.0,
                    )
                ],
            )
        )
    if ends:
        sections.append(
            report.Section(
                "What the networks learn on",
                ["R as each network has it; medians over seeds and layers."],
                END_COLUMNS,
                end_rows(ends),
                [
                    _draw(
                        "course",
                        [functools.partial(plot_course, ends, position=p) for p in POSITIONS],
                        out,
                        height=3.4,
                        width=8.5,
                    )
                ],
            )
        )
    report.write(out / "report.html", summary, title=TITLE, question=QUESTION, sections=sections)
