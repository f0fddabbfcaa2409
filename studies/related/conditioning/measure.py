"""Study ``conditioning``: does BatchNorm condition the layers, and is the last one left worst?

Huang, Qin, Liu, Zhu, Liu, Shao (2020, Layer-wise conditioning analysis in exploring the learning
dynamics of DNNs) look at a network layer by layer through the covariances of each layer's input
and of the gradient at its output, whose Kronecker product stands for the layer's curvature, and at
the last linear layer in particular. Here that is done with R of the patches that a convolution
reads, on networks that differ in nothing but the normalization.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from torch import nn

import cnnbridge
from studies import STUDIES
from studies.chai2020.two_effects.measure import image_tensors
from studies.engine import page as report
from studies.engine import paired
from studies.engine import style as figures
from studies.engine import summary as results
from studies.engine.grid import product
from studies.engine.running import measured, pick
from studies.engine.single_run import Findings, Table, single_run
from studies.engine.summary import Check, Summary, Verdict
from studies.training.networks import PlainVGG, Position, conv_layers, draw_weights
from studies.training.probes import gauss_newton_edge
from studies.training.sgd import run_sgd

__all__ = [
    "EXPERIMENT",
    "PRESETS",
    "RULE",
    "Cell",
    "Config",
    "condition",
    "configure",
    "layer_readings",
    "measure",
    "run",
]

Array = np.ndarray
Net = Literal["none", "after", "before"]

# variant and position of PlainVGG, and what to call it
NETS: dict[Net, tuple[str, Position, str]] = {
    "none": ("none", "post", "no BatchNorm"),
    "after": ("full", "post", "BatchNorm after each convolution"),
    "before": ("full", "pre", "BatchNorm before each layer"),
}
MEASURES = ("R", "G", "R x G")
WORST = 1e12

EXPERIMENT = (
    "Six 3x3 convolutions and a linear layer learn to classify images by SGD: without BatchNorm, "
    "with it between convolution and ReLU, so that the linear layer reads rectified features, and "
    "with it in front of each layer but the first, so that the linear layer reads the average of "
    "normalised ones. At the start and twice along training, with batch statistics, the condition "
    "number (largest over median eigenvalue) is taken of R of each layer's input, of the "
    "covariance G of the gradients at its output, and of R x G, whose eigenvalues are all "
    "products; and the largest eigenvalue of each layer's own Gauss-Newton matrix. Networks and "
    "settings are ours."
)
RULE = (
    "Per seed, log10 of the condition number of R x G is averaged over the times. (1, 2) For "
    "either place of BatchNorm the mean over the hidden layers, conv2 to conv6, is below that "
    "without BatchNorm. With BatchNorm after the convolutions, (3) the linear layer's is at least "
    "that of every convolution, (4) the linear layer's own curvature is at least that of every "
    "convolution. Each is judged on the median over seeds by its one-sided 95 % bound. The claim "
    "holds if 1 and 2 hold and 3 or 4 does; it fails if 1 or 2 fails, or 3 and 4 both do; else it "
    "is inconclusive. Beside it, and not deciding: 3 and 4 with BatchNorm before the linear layer "
    "(5, 6), and whether that lowers the linear layer's condition number of R (7)."
)


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run, but for library versions.

    Attributes
    ----------
    preset : the name of the preset this came from.
    data, data_root, images, image_size : see ``studies.training.images.load``.
    seed : the images are drawn with it; the networks' seeds follow from it.
    seeds : networks of each kind.
    widths : of the six convolutions.
    lr, batch_size : of the training.
    times : updates after which the layers are measured.
    probe, curvature_images : images on which R and G, and the curvature, are measured.
    """

    preset: str
    data: str = "mnist5k"
    data_root: str | None = None
    seed: int = 0
    images: int = 2000
    image_size: int | None = 12
    seeds: int = 5
    widths: tuple[int, ...] = (8, 8, 12, 12, 16, 16)
    lr: float = 0.05
    batch_size: int = 32
    times: tuple[int, ...] = (0, 30, 150)
    probe: int = 128
    curvature_images: int = 32


PRESETS = {
    "smoke": Config(
        "smoke",
        images=64,
        image_size=8,
        seeds=1,
        widths=(3, 3, 4, 4, 4, 4),
        batch_size=16,
        times=(1,),
        probe=32,
        curvature_images=8,
    ),
    "laptop": Config("laptop"),
    "full": Config(
        "full",
        images=50_000,
        image_size=32,
        seeds=10,
        widths=(32, 32, 64, 64, 128, 128),
        times=(0, 300, 3000),
        probe=512,
        curvature_images=256,
    ),
}


def configure(
    preset: str, *, data: str = "mnist5k", data_root: str | Path | None = None, seed: int = 0
) -> Config:
    """A preset with the user's choices put in."""
    chosen: Config = pick(PRESETS, preset, data=data, data_root=data_root, seed=seed)
    return chosen


# --- measuring -------------------------------------------------------------------------------


def condition(eigenvalues: Array) -> float:
    """Largest over (lower) median eigenvalue of a semidefinite matrix, at most 1e12.

    Not over the smallest one, which is zero for every singular matrix whatever the rest.

    Examples
    --------
    >>> condition(np.array([0.0, 2.0, 5.0, 10.0]))
    5.0
    """
    ordered = np.sort(np.ravel(eigenvalues))
    largest, median = float(ordered[-1]), float(ordered[(len(ordered) - 1) // 2])
    return min(largest / median, WORST) if median > 0 else WORST


def _eigenvalues(matrix: torch.Tensor) -> Array:
    values: Array = torch.linalg.eigvalsh(matrix).cpu().numpy()
    return values


def layer_readings(
    model: PlainVGG, images: torch.Tensor, labels: torch.Tensor, curvature_images: int
) -> list[dict[str, Any]]:
    """Condition numbers and curvature of every layer, convolutions first, in train mode.

    Parameters
    ----------
    model : left as it is, statistics included.
    images, labels : the batch; the gradients are of its mean cross-entropy.
    curvature_images : of the batch, used for the curvature.

    Returns
    -------
    One mapping for each layer: ``layer``, its name in words; ``R``, ``G`` and ``R x G``, condition
    numbers; ``curvature``, the largest eigenvalue of its own Gauss-Newton matrix, in 1 / lr.
    """
    rows = []
    names = [*conv_layers(model), "classify"]
    for number, name in enumerate(names, start=1):
        layer: Any = model.get_submodule(name)
        with cnnbridge.capture(model, name) as tape:
            tape.run([(images, labels)], nn.functional.cross_entropy)
        gradients = tape.output_gradients.double()
        outputs = gradients.movedim(1, -1).reshape(-1, gradients.shape[1])
        R = _eigenvalues(cnnbridge.patch_autocorrelation(tape.inputs.double(), layer)).ravel()
        G = _eigenvalues(outputs.T @ outputs / len(outputs))
        edge = gauss_newton_edge(
            model, images[:curvature_images], parameters=list(layer.parameters())
        )
        rows.append(
            {
                "layer": "linear" if name == "classify" else f"conv{number}",
                "R": condition(R),
                "G": condition(G),
                "R x G": condition(np.outer(R, G)),
                "curvature": 2 / edge if edge > 0 else math.inf,
            }
        )
    return rows


@dataclass(frozen=True)
class Cell:
    """One network.

    Attributes
    ----------
    net : without BatchNorm, with it after each convolution, or before each layer.
    seed : of the weights and the order of the images.
    config : of the study.
    device : ``cpu`` or ``cuda``.
    """

    net: Net
    seed: int
    config: Config
    device: str = "cpu"


def measure(cell: Cell) -> dict[str, Any]:
    """What one network's layers are like at each time.

    Returns
    -------
    dict with ``readings``, a list by time of what ``layer_readings`` gives, ``loss``, at the end,
    and ``state``, as in ``SgdRun``: readings end where the run does not stay ``stable``.
    """
    config = cell.config
    images, labels, classes = image_tensors(
        config.data, config.data_root, config.seed, config.images, config.image_size
    )
    images, labels = images.to(cell.device), labels.to(cell.device)
    variant, position, _ = NETS[cell.net]
    model = PlainVGG(images.shape[1], classes, config.widths, variant, position)
    draw_weights(model, "he", cell.seed)
    model = model.to(cell.device).train()
    readings, state, loss, done = [], "stable", math.nan, 0
    for time in config.times:
        if time > done:
            run = run_sgd(
                model,
                images,
                labels,
                lr=config.lr,
                steps=time - done,
                batch_size=config.batch_size,
                seed=cell.seed + time,
                classes=classes,
            )
            state, loss, done = run.state, float(np.mean(run.loss[-10:])), time
            if state != "stable":
                break
        probe = images[: config.probe], labels[: config.probe]
        readings.append(layer_readings(model, *probe, config.curvature_images))
    return {"readings": readings, "state": state, "loss": loss}


# --- judging ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What the cells came to.

    Attributes
    ----------
    layers : names in words, the linear one last.
    values : for each net and measure, (seeds, times, layers), log10; NaN after a run that did not
        stay stable. Measures are those of ``MEASURES`` and "curvature".
    losses : for each net, (seeds,) at the end.
    """

    layers: tuple[str, ...]
    values: dict[tuple[Net, str], Array]
    losses: dict[Net, Array]

    @classmethod
    def of(cls, cells: Sequence[Any], config: Config) -> Found:
        """Sort the results of the grid, in which a network may be missing."""
        layers = (*(f"conv{i}" for i in range(1, len(config.widths) + 1)), "linear")
        values: dict[tuple[Net, str], Array] = {}
        losses = {}
        for net in NETS:
            by_seed = {c.config["seed"]: c.result for c in cells if c.config["net"] == net}
            for name in (*MEASURES, "curvature"):
                table = np.full((config.seeds, len(config.times), len(layers)), np.nan)
                for seed, result in by_seed.items():
                    for t, rows in enumerate(result["readings"]):
                        numbers = [max(row[name], 1e-300) for row in rows]
                        table[seed - first_seed(config), t] = np.log10(numbers)
                values[net, name] = table
            losses[net] = np.array([result["loss"] for result in by_seed.values()], dtype=float)
        return cls(layers, values, losses)

    def hidden(self, net: Net) -> Array:
        """(seeds,) mean log10 condition number of R x G over hidden convolutions and times."""
        mean: Array = self.values[net, "R x G"][:, :, 1:-1].mean(axis=(1, 2))
        return mean

    def last_over_others(self, net: Net, measure: str) -> Array:
        """(seeds,) log10 of the linear layer's over the largest convolution's, mean over times."""
        table = self.values[net, measure]
        over: Array = (table[:, :, -1] - table[:, :, :-1].max(axis=2)).mean(axis=1)
        return over


def median(values: Array) -> Array:
    """Over the first axis, of what is known; NaN where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        middle: Array = np.nanmedian(values, axis=0)
    return middle


def first_seed(config: Config) -> int:
    """Of the networks: those of two runs with different seeds share none."""
    return 1000 * config.seed


def _intervals(values: Array) -> list[paired.Interval]:
    """A run that did not come to an end may have any value."""
    return [(v, v) if math.isfinite(v) else (-math.inf, math.inf) for v in map(float, values)]


def checks_of(found: Found) -> list[Check]:
    """The seven checks, in the order of the rule; the first four decide."""

    def check(name: str, values: Array, note: str = "") -> Check:
        return paired.judge(name, _intervals(values), 0.0, "at least", unit="decades", note=note)

    checks = [
        check(
            f"hidden layers, R x G: {NETS[net][2]} lowers the condition number by",
            found.hidden("none") - found.hidden(net),
        )
        for net in ("after", "before")
    ]
    notes: dict[Net, str] = {"after": "", "before": "Does not decide"}
    for net, note in notes.items():
        for measure, word in (("R x G", "condition number of R x G"), ("curvature", "curvature")):
            name = f"{NETS[net][2]}: the linear layer's {word} over the largest convolution's"
            checks.append(check(name, found.last_over_others(net, measure), note))
    after, before = (found.values[net, "R"][:, :, -1].mean(axis=1) for net in ("after", "before"))
    name = "linear layer, R: BatchNorm before it lowers the condition number by"
    return [*checks, check(name, after - before, "Does not decide")]


def verdict_of(checks: Sequence[Check]) -> Verdict:
    """As the rule says, from the first four checks."""
    last: set[Verdict] = {check.verdict for check in checks[2:4]}
    of_last: Verdict = (
        "holds" if "holds" in last else "fails" if last == {"fails"} else "inconclusive"
    )
    return results.worst([checks[0].verdict, checks[1].verdict, of_last])


# --- the report ------------------------------------------------------------------------------

FIGURE = (
    "By layer, medians over seeds at the end of training; pale, at the start. Left: condition "
    "number, largest over median eigenvalue, of R of the layer's input. Middle: of R x G, with G "
    "the covariance of the gradients at the layer's output. Right: largest eigenvalue of the "
    "layer's own Gauss-Newton matrix. The linear layer stands apart.",
    "Three panels on log axes over six convolutions and the linear layer, one line for each of "
    "three networks: without BatchNorm, with it after the convolutions, with it before each layer.",
)
STYLES: dict[Net, tuple[str, str]] = {
    "none": (figures.ORANGE, "s"),
    "after": (figures.GREEN, "o"),
    "before": (figures.BLUE, "^"),
}


def plot_layers(found: Found, measure: str, ax: Axes) -> list[Artist]:
    """One measure by layer, for every network."""
    artists: list[Artist] = []
    convs = len(found.layers) - 1
    places = [*range(convs), convs + 0.5]
    for net, (colour, marker) in STYLES.items():
        table = 10 ** median(found.values[net, measure])
        for row, alpha, size, label in (
            (table[0], 0.3, 4, None),
            (table[-1], 1.0, 5, NETS[net][2]),
        ):
            style = {"color": colour, "alpha": alpha, "marker": marker, "markersize": size}
            artists += ax.semilogy(places[:-1], row[:-1], label=label, **style)
            artists += ax.semilogy(places[-1:], row[-1:], linestyle="none", **style)
    ax.set_xticks(places, [name.replace("conv", "") for name in found.layers])
    ax.set_xlabel("convolution, and the linear layer")
    return artists


def draw(found: Found, out: Path) -> report.Picture:
    """The figure ``conditioning`` as PNG and SVG in a folder."""
    with figures.style():
        figure, axes = figures.panels(3, height=3.9, width=11)
        for (measure, title, label), ax in zip(
            (
                ("R", "input, R", "largest / median eigenvalue"),
                ("R x G", "input and gradient, R x G", "largest / median eigenvalue"),
                ("curvature", "curvature", "Gauss-Newton's largest, 1 / lr"),
            ),
            axes,
            strict=True,
        ):
            plot_layers(found, measure, ax)
            ax.set(title=title, ylabel=label)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=3)
        png, _ = figures.save(figure, out / "conditioning")
    return report.Picture(png, *FIGURE)


COLUMNS = ("network, layer", "R", "G", "R x G", "curvature", "R x G at the start", "at the start")


def layer_rows(found: Found, chosen: Callable[[str], bool]) -> list[list[str]]:
    """Medians over seeds of the layers chosen by name, at the end but for the last two columns."""
    rows = []
    for net, (_, _, words) in NETS.items():
        for i, layer in enumerate(found.layers):
            if not chosen(layer):
                continue

            def cell(measure: str, time: int, net: Net = net, i: int = i) -> str:
                return report.number(10 ** float(median(found.values[net, measure][:, time, i])), 3)

            rows.append(
                [
                    f"{words}, {layer}",
                    *(cell(name, -1) for name in (*MEASURES, "curvature")),
                    cell("R x G", 0),
                    cell("curvature", 0),
                ]
            )
    return rows


def evidence_against(found: Found, checks: Sequence[Check]) -> list[str]:
    """What lower condition numbers do not say, and what did not come out."""
    sentences = []
    for name in ("R", "G"):
        falls = {}
        nets: tuple[Net, Net] = ("after", "before")
        for net in nets:
            fall = found.values["none", name] - found.values[net, name]
            falls[net] = float(median(fall[:, :, 1:-1].mean(axis=(1, 2))))
        sentences.append(
            f"Of {name} alone BatchNorm lowers the hidden layers' condition number by "
            f"{report.number(falls['after'], 2)} decades behind the convolution and "
            f"{report.number(falls['before'], 2)} in front of the layer (below zero: it raises it)."
        )
    sentences += [
        f"Not so, or not to be told: {check.name} {report.number(check.observed, 2)} decades "
        f"({check.verdict})."
        for check in checks
        if check.verdict != "holds"
    ]
    shares = ", ".join(
        f"{report.number(10 ** float(median(found.last_over_others(net, 'curvature'))), 2)} with "
        f"{words}"
        for net, (_, _, words) in NETS.items()
    )
    sentences.append(
        "The linear layer's curvature, over that of the convolution that has most: " + shares + "."
    )
    losses = ", ".join(
        f"{report.number(float(median(found.losses[net])), 2)} with {words}"
        for net, (_, _, words) in NETS.items()
        if len(found.losses[net])
    )
    sentences.append(
        f"At the same rate the networks are not equally far along: the loss at the end is {losses}."
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

    Parameters, returns and errors are those of ``studies.engine.single_run.single_run``;
    ``workers`` are processes, one for each processor by default.
    """

    def work(folder: Path, where: torch.device, summary: Summary) -> Findings:
        seeds = range(first_seed(config), first_seed(config) + config.seeds)
        base = Cell("none", 0, config, where.type)
        # what is wrong with the data is said once, not by every cell
        image_tensors(config.data, config.data_root, config.seed, config.images, config.image_size)
        cells = measured(
            measure,
            product(base, net=list(NETS), seed=list(seeds)),
            folder,
            summary,
            workers=workers,
            version="1",
            serial=config.preset == "smoke",
        )
        found = Found.of(cells, config)
        checks = checks_of(found)
        about = (
            "Condition numbers, largest over median eigenvalue, and the largest eigenvalue of the "
            f"layer's own Gauss-Newton matrix in 1 / lr; after {config.times[-1]} updates and, "
            "in the last two columns, at the start. Medians over seeds."
        )
        return Findings(
            checks,
            verdict_of(checks),
            [
                Table("The last layer", COLUMNS, layer_rows(found, "linear".__eq__), [about]),
                Table("The convolutions", COLUMNS, layer_rows(found, "linear".__ne__)),
            ],
            draw(found, folder),
            evidence_against(found, checks),
        )

    return single_run(
        "conditioning",
        config,
        out,
        work,
        title="Layer-wise conditioning, and the last layer",
        question=STUDIES["conditioning"].question,
        experiment=EXPERIMENT,
        rule=RULE,
        device=device,
        command=command,
    )
